"""Mixout (Lee et al. 2020; Z sec. 7.1): in training, weights are randomly replaced by their initial values.

A Linear with weight W and target T computes with T + k / (1 - p) * (W - T), where k is 0 with probability p, else 1.
Its expected value is W, and at the start of a run it is T for any k. The mixed weight is not stored: the backward pass
draws the same k again from the same seed. So the only extra memory is one copy of the weights.

Biases are not mixed, nor are parameters outside Linear modules, such as those of XLNet's attention. Evaluation uses the
plain weights. The names and values in `state_dict` are those of the stock model.

DEVIATION: the gradient is exact, k / (1 - p) times that of the mixed weight; Z's code omits 1 / (1 - p).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stableft.catalog.model_families import BackboneSpec
from stableft.config.run_config import Mixout
from stableft.errors import UserError
from stableft.seeds import derive_seed


@dataclass
class Mixing:
    """How to mix one weight [outputs, inputs] with its target, and the seed of the current update's mask."""

    target: Tensor
    p: float
    per_column: bool  # one draw per input feature, for all outputs
    seed: int | None = None

    @property
    def scale(self) -> float:
        """1 / (1 - p), or 0 if p is 1, since then no weight is kept."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0


class MixoutLinear(nn.Linear):
    """A Linear that mixes its weight in training mode."""

    mixing: Mixing

    def forward(self, input: Tensor) -> Tensor:
        """Apply the mixed weight in training mode, the plain weight in evaluation mode."""
        return mixout_linear(input, self.weight, self.bias, self.mixing) if self.training else super().forward(input)


class MixoutConv1D(Conv1D):
    """The same for GPT-2's Linear, which stores its weight transposed."""

    mixing: Mixing

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mixed weight in training mode, the plain weight in evaluation mode."""
        return mixout_linear(x, self.weight.t(), self.bias, self.mixing) if self.training else super().forward(x)


MIXOUT_CLASSES: dict[type[nn.Module], type[MixoutLinear] | type[MixoutConv1D]] = {
    nn.Linear: MixoutLinear,
    Conv1D: MixoutConv1D,
}


def apply_mixout(model: nn.Module, spec: BackboneSpec, mixout: Mixout) -> None:
    """Make the modules in scope mix their weights with a copy of the current ones.

    Call `seed_mixout_masks` before each update. Only the modules' class changes, not their names or parameters.

    Raises:
        UserError: A Linear in scope is of an unsupported type.
    """
    by_weight: dict[Tensor, Mixing] = {}  # modules with tied weights share target and mask
    for _, module in _modules_in_scope(model, spec, mixout):
        if module.weight not in by_weight:
            target = module.weight.detach().clone()
            if isinstance(module, Conv1D):
                target = target.t()
            by_weight[module.weight] = Mixing(target, mixout.p, mixout.granularity == "column")
        module.__class__ = MIXOUT_CLASSES[type(module)]  # pyright: ignore[reportAttributeAccessIssue]
        module.mixing = by_weight[module.weight]  # pyright: ignore[reportArgumentType]


def check_mixout_applies(model: PreTrainedModel, spec: BackboneSpec, mixout: Mixout) -> None:
    """Check that the model's blocks contain modules to mix. (SqueezeBERT's blocks are made of convolutions.)

    Raises:
        UserError: They contain none, or a Linear in scope is of an unsupported type.
    """
    block_lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    in_blocks = {module for blocks in block_lists for module in blocks.modules()}
    if not in_blocks.intersection(module for _, module in _modules_in_scope(model, spec, mixout)):
        raise UserError(f"mixout: the blocks of the {spec.title} model have no Linear module in scope {mixout.scope!r}")


def _modules_in_scope(model: nn.Module, spec: BackboneSpec, mixout: Mixout) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        if mixout.scope == "after_dropout" and re.search(spec.not_after_dropout, name):
            continue
        if type(module) not in MIXOUT_CLASSES:
            kind = type(module).__name__
            raise UserError(
                f"mixout: {name} of the {spec.title} model is of type {kind}, which Mixout does not support"
            )
        yield name, module


def seed_mixout_masks(model: nn.Module, seed: int, step: int) -> None:
    """Set the mask seeds of update `step`. They depend on the data seed and the step alone, so a resume needs no state.

    A weight has the same mask in all micro-batches of the update, and at each use of ALBERT's shared block.
    """
    first = derive_seed(seed, "mixout", step)
    mixings = (module.mixing for module in model.modules() if isinstance(module, (MixoutLinear, MixoutConv1D)))
    for i, mixing in enumerate(mixings):
        mixing.seed = first + i


def mixout_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mixing: Mixing) -> Tensor:
    """Return the Linear's output with the mixed weight. Under autocast it has the same precision as torch's linear."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    # As a matrix, so that the Function's output is not a view: families such as Longformer modify it in place.
    output = _MixoutLinearFunction.apply(x.reshape(-1, x.shape[-1]), weight, bias, mixing.target, mixing, mixing.seed)
    assert isinstance(output, Tensor)
    return output.reshape(*x.shape[:-1], output.shape[-1])


class _MixoutLinearFunction(torch.autograd.Function):
    """The product with the mixed weight and its exact gradient. Saves no tensor that is not in memory anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, mixing: Mixing, seed: int):
        ctx.save_for_backward(x, weight, target)
        ctx.mixing, ctx.seed = mixing, seed
        mixed = _mix_with_target(weight, target, _draw_keep_mask(weight, mixing, seed), mixing.scale)
        return functional.linear(x, mixed.to(x.dtype), bias if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of x, weight and bias. Autograd casts each to the dtype of its input."""
        x, weight, target = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        kept, scale = _draw_keep_mask(weight, ctx.mixing, ctx.seed), ctx.mixing.scale
        x_grad = weight_grad = bias_grad = None
        if needs_x:
            x_grad = grad @ _mix_with_target(weight, target, kept, scale).to(grad.dtype)
        if needs_weight:  # scale in the weight's precision: in half precision it could overflow
            weight_grad = (grad.t() @ x).to(weight.dtype).mul_(kept).mul_(scale)
        if needs_bias:
            bias_grad = grad.sum(0)
        return x_grad, weight_grad, bias_grad, None, None, None


def _draw_keep_mask(weight: Tensor, mixing: Mixing, seed: int | None) -> Tensor:
    """Return a mask [outputs, inputs] or [inputs]: 1 keeps the weight, 0 replaces it by the target."""
    assert seed is not None, "call seed_mixout_masks first"
    shape = weight.shape[1:] if mixing.per_column else weight.shape
    generator = torch.Generator(weight.device).manual_seed(seed)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device).bernoulli_(1 - mixing.p, generator=generator)


def _mix_with_target(weight: Tensor, target: Tensor, kept: Tensor, scale: float) -> Tensor:
    return torch.addcmul(target, kept, weight - target, value=scale)
