"""Mixout (Lee et al. 2020; Z sec. 7.1): while training, weights are at random what they were at the start of the run.

A Linear with weight W and target T computes with T + k / (1 - p) * (W - T), where k is 0 with probability p and else 1:
in the mean over draws that is W, and at the start of a run it is T whatever is drawn. The product is never kept: the
backward pass draws the same k again from the same seed. So all that a run holds besides is one copy of the weights.

The bias is not mixed, nor are parameters outside Linear modules, such as those of XLNet's attention; in evaluation the
weights are plain. Names and values of `state_dict` stay those of the stock model.

DEVIATION: the gradient is exact, k / (1 - p) times that of the mixed weight; Z's code leaves out 1 / (1 - p).
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
    """What one weight [outputs, inputs] is mixed with, how, and the seed of the draw that holds for this update."""

    target: Tensor
    p: float
    column: bool  # one draw for all that reads an input feature
    seed: int | None = None

    @property
    def scale(self) -> float:
        """1 / (1 - p); 0 where p is 1 and nothing is kept."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0


class MixoutLinear(nn.Linear):
    """A Linear that mixes its weight in training mode."""

    mixing: Mixing

    def forward(self, input: Tensor) -> Tensor:
        """Returns the product with the mixed weight, in evaluation with the plain one."""
        return mixout_linear(input, self.weight, self.bias, self.mixing) if self.training else super().forward(input)


class MixoutConv1D(Conv1D):
    """GPT-2's Linear, whose weight is stored transposed, likewise."""

    mixing: Mixing

    def forward(self, x: Tensor) -> Tensor:
        """Returns the product with the mixed weight, in evaluation with the plain one."""
        return mixout_linear(x, self.weight.t(), self.bias, self.mixing) if self.training else super().forward(x)


MIXOUT_CLASSES: dict[type[nn.Module], type[MixoutLinear] | type[MixoutConv1D]] = {
    nn.Linear: MixoutLinear,
    Conv1D: MixoutConv1D,
}


def apply_mixout(model: nn.Module, spec: BackboneSpec, mixout: Mixout) -> None:
    """Makes the modules in scope mix their weights with copies of what these are now; `draw_masks` must follow.

    Only their class changes, not their names or parameters. Modules that share a weight share target and draws.

    Raises:
        UserError: there is a Linear of a kind that cannot be mixed.
    """
    by_weight: dict[Tensor, Mixing] = {}
    for _, module in _modules_in_scope(model, spec, mixout):
        if module.weight not in by_weight:
            target = module.weight.detach().clone()
            if isinstance(module, Conv1D):
                target = target.t()
            by_weight[module.weight] = Mixing(target, mixout.p, mixout.granularity == "column")
        module.__class__ = MIXOUT_CLASSES[type(module)]  # pyright: ignore[reportAttributeAccessIssue]
        module.mixing = by_weight[module.weight]  # pyright: ignore[reportArgumentType]


def check_mixout_applies(model: PreTrainedModel, spec: BackboneSpec, mixout: Mixout) -> None:
    """Looks whether there is something to mix in the blocks: SqueezeBERT's are convolutions.

    Raises:
        UserError: there is not, or a Linear of a kind that cannot be mixed.
    """
    lists = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList)]
    inside = {part for parts in lists for part in parts.modules()}
    if not inside.intersection([module for _, module in _modules_in_scope(model, spec, mixout)]):
        raise UserError(f"mixout: the blocks of the {spec.title} model have no Linear module in scope {mixout.scope!r}")


def _modules_in_scope(model: nn.Module, spec: BackboneSpec, mixout: Mixout) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        if mixout.scope == "after_dropout" and re.search(spec.undropped, name):
            continue
        if type(module) not in MIXOUT_CLASSES:
            kind = type(module).__name__
            raise UserError(f"mixout: {name} of the {spec.title} model is of type {kind}, which it cannot mix")
        yield name, module


def seed_mixout_masks(model: nn.Module, seed: int, step: int) -> None:
    """Decides what update `step` mixes: a function of the data seed and the step, so no state is carried.

    However often a weight is used until the next draw, by pieces of the batch or by ALBERT's one block, it is mixed
    in the same way.
    """
    first = derive_seed(seed, "mixout", step)
    mixings = (module.mixing for module in model.modules() if isinstance(module, (MixoutLinear, MixoutConv1D)))
    for i, mixing in enumerate(mixings):
        mixing.seed = first + i


def mixout_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mixing: Mixing) -> Tensor:
    """Returns x times the mixed weight, plus bias; under autocast in its precision, as torch's own linear."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    # In rows, so that what the Function returns is no view: families such as Longformer change it in place.
    output = _MixoutLinearFunction.apply(x.reshape(-1, x.shape[-1]), weight, bias, mixing.target, mixing, mixing.seed)
    assert isinstance(output, Tensor)
    return output.reshape(*x.shape[:-1], output.shape[-1])


class _MixoutLinearFunction(torch.autograd.Function):
    """The product and its exact gradient, keeping no tensor that is not there anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, mixing: Mixing, seed: int):
        ctx.save_for_backward(x, weight, target)
        ctx.mixing, ctx.seed = mixing, seed
        mixed = _mix_with_target(weight, target, _draw_keep_mask(weight, mixing, seed), mixing.scale)
        return functional.linear(x, mixed.to(x.dtype), bias if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the gradients of x, weight and bias; autograd gives each the precision of what it belongs to."""
        x, weight, target = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        kept, scale = _draw_keep_mask(weight, ctx.mixing, ctx.seed), ctx.mixing.scale
        x_grad = weight_grad = bias_grad = None
        if of_x:
            x_grad = grad @ _mix_with_target(weight, target, kept, scale).to(grad.dtype)
        if of_weight:  # scaled in the precision of the weight: in half precision it could overflow
            weight_grad = (grad.t() @ x).to(weight.dtype).mul_(kept).mul_(scale)
        if of_bias:
            bias_grad = grad.sum(0)
        return x_grad, weight_grad, bias_grad, None, None, None


def _draw_keep_mask(weight: Tensor, mixing: Mixing, seed: int | None) -> Tensor:
    """Returns 1 where the weight counts and 0 where the target stands in for it, [outputs, inputs] or [inputs]."""
    assert seed is not None, "draw_masks comes first"
    shape = weight.shape[1:] if mixing.column else weight.shape
    random = torch.Generator(weight.device).manual_seed(seed)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device).bernoulli_(1 - mixing.p, generator=random)


def _mix_with_target(weight: Tensor, target: Tensor, kept: Tensor, scale: float) -> Tensor:
    return torch.addcmul(target, kept, weight - target, value=scale)
