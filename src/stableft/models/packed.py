"""Run an encoder on packed rows: one long row that holds the tokens of a batch without padding.

Only attention has to know where a row begins. On a GPU in half precision, a kernel takes the boundaries between rows.
Elsewhere, the inputs of attention are padded, and its output is packed again. Behind the last block, every row's first
token is kept, which is all that poolers and heads read.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from stableft.config.run_config import RunConfig
from stableft.data.tokens import Packing
from stableft.models.load import count_lost_positions

# Shapes suit the CPU's vector units; on a GPU, few of them mean that few CUDA graphs are recorded.
CPU_MULTIPLE, GPU_MULTIPLE = 8, 128
AMPERE = (8, 0)  # the oldest GPUs with the kernel
LEAST_HEAD_SIZE = 32  # on an H200, a test of the kernel failed at 8 for a cause that is not known


def packing_for(
    model: PreTrainedModel, config: RunConfig, device: torch.device, compiled: bool = False
) -> Packing | None:
    """Return how to pack a run's batches, or None if it pads them."""
    if config.execution not in ("packed", "fused"):
        return None
    shape: Any = model.config
    head_size = shape.hidden_size // shape.num_attention_heads
    has_kernel = (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= AMPERE
        and config.precision != "fp32"
        and config.model.attention == "sdpa"
        and head_size % 8 == 0
        and LEAST_HEAD_SIZE <= head_size <= 256
    )
    multiple = CPU_MULTIPLE if device.type == "cpu" else GPU_MULTIPLE
    # Not on a GPU, where a batch of one shape must look like every other, nor where rows are short, nor for
    # torch.compile, which compiles for each number of blocks, up to a limit for all runs of a process.
    blocks = device.type == "cpu" and config.execution == "packed" and not compiled
    return Packing(multiple, count_lost_positions(model), boundaries=has_kernel, blocks=blocks)


def run_packed(model: PreTrainedModel, config: RunConfig) -> None:
    """Make the model take the batches of `pack_batch` and return one row of logits for each of their rows."""

    def add_longest(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
        return args, kwargs | {"longest": config.data.max_length}  # a constant, so that CUDA graphs fit all batches

    model.set_attn_implementation(f"packed_{config.model.attention}")
    model.base_model.register_forward_pre_hook(add_longest, with_kwargs=True)
    model.base_model.get_submodule("encoder").register_forward_hook(_keep_first_tokens, with_kwargs=True)


def _keep_first_tokens(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state[0, kwargs["first_tokens"]][:, None]
    return output


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    dropout: float,
    scaling: float,
    longest: int,
    boundaries: Tensor | None = None,
    cells: Tensor | None = None,
    places: Tensor | None = None,
    visible: Tensor | None = None,
    blocks: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the output of attention [1, tokens, heads, head size] for inputs [1, heads, tokens, head size]."""
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    if boundaries is not None:
        return _FlashAttention.apply(*packed, boundaries, longest, dropout, scaling)[None], None
    assert cells is not None
    assert places is not None
    assert visible is not None
    flat, seen = cells.flatten(), visible.flatten()
    shapes = [cells.shape] if blocks is None else blocks.tolist()
    sizes = [rows * width for rows, width in shapes]
    inputs = zip(*(_Take.apply(x, flat, places, None).split(sizes) for x in packed), seen.split(sizes), strict=True)
    padded = []
    for shape, (*qkv, part) in zip(shapes, inputs, strict=True):
        q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in qkv)
        mask = part.view(shape)[:, None, None, :]
        if module.config._attn_implementation == "packed_sdpa":
            mask = mask.expand(-1, -1, shape[1], -1)
            output = functional.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling)
        else:
            scores = (q @ k.transpose(2, 3) * scaling).masked_fill(~mask, -math.inf)
            output = functional.dropout(scores.softmax(-1), dropout, module.training) @ v
        padded.append(output.transpose(1, 2).flatten(0, 1))
    return _Take.apply(torch.cat(padded) if len(padded) > 1 else padded[0], places, flat, seen)[None], None


class _Take(torch.autograd.Function):
    """Take entries of a tensor's first dimension by index, with a gradient that is taken by index too.

    `inverse` undoes `index`. `kept` says which entries were taken; the gradient of the others is 0.
    """

    @staticmethod
    def forward(ctx: Any, entries: Tensor, index: Tensor, inverse: Tensor, kept: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, kept)
        return entries.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        inverse, kept = ctx.saved_tensors
        taken = gradient.index_select(0, inverse)
        return taken if kept is None else taken.masked_fill_(~kept[:, None, None], 0.0), None, None, None


class _FlashAttention(torch.autograd.Function):
    """Attention within rows between boundaries, in half precision, for inputs [tokens, heads, head size].

    torch's own `varlen_attn` has no dropout.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, boundaries: Tensor, longest: int, dropout: float, scaling: float
    ) -> Tensor:
        ctx.settings = longest, longest, dropout, False
        ctx.scaling = scaling
        output, log_sums, random, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, boundaries, boundaries, *ctx.settings, False, scale=scaling
        )
        ctx.save_for_backward(q, k, v, output, log_sums, boundaries, boundaries, random, unused)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        *tensors, random, unused = ctx.saved_tensors
        gradients = torch.ops.aten._flash_attention_backward(
            gradient.contiguous(), *tensors, *ctx.settings, random, unused, scale=ctx.scaling
        )
        return *gradients, None, None, None, None


# Without a mask function of the same name, transformers makes no mask.
for _name in ("packed_eager", "packed_sdpa"):
    AttentionInterface.register(_name, _attend)
