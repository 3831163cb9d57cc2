"""Run each block of a BERT on packed rows as one operation in float32, with its gradient written out.

A small model spends much of its time on launching operations and on autograd's bookkeeping. Here, query, key and value
are one product and are padded for attention once. The last block computes only what poolers and heads read: every row's
first token. A dropout mask takes 16 random bits a number; torch's own takes 64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

aten = torch.ops.aten


@dataclass(frozen=True)
class _Layout:
    """Where a batch's tokens are in attention, whose tensors are [rows * heads, width, head size].

    `first` [rows] are the first tokens of the rows. `hidden` [rows * heads, 1, width] is minus infinity where a row has
    no token, else 0. The others index vectors of head size: `places` [tokens * heads] into one padded tensor, `into[n]`
    and `back[n]` from n packed tensors side by side into n padded ones, and back.
    """

    first: Tensor
    hidden: Tensor
    places: Tensor
    into: dict[int, Tensor]
    back: dict[int, Tensor]


def run_fused(model: PreTrainedModel) -> None:
    """Make the model take the batches of `pack_batch` and return one row of logits for each of their rows."""
    config: Any = model.config
    model.set_attn_implementation("packed_eager")  # so that no mask is made
    encoder = model.base_model.get_submodule("encoder")
    encoder.register_forward_pre_hook(partial(_add_layout, heads=config.num_attention_heads), with_kwargs=True)
    encoder.register_forward_hook(_keep_rows, with_kwargs=True)
    blocks = list(encoder.get_submodule("layer").children())
    for block in blocks:
        block.forward = partial(_run_block, block, config, keeps_first=block is blocks[-1])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = partial(_drop, module)  # pyright: ignore[reportAttributeAccessIssue]


def _add_layout(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], heads: int) -> tuple[tuple, dict]:
    cells, places, visible = (kwargs[name] for name in ("cells", "places", "visible"))
    (rows, width), device = cells.shape, cells.device
    head = torch.arange(heads, device=device)
    places = ((places // width)[:, None] * heads + head) * width + (places % width)[:, None]  # [tokens, heads]
    into, back = {}, {}
    for n in (2, 3):
        part = torch.arange(n, device=device)[:, None]
        vectors = cells * n + part[:, None]  # [n, rows, width]
        into[n] = (vectors[:, :, None] * heads + head[:, None]).flatten()
        back[n] = (places[:, None] + part * (rows * heads * width)).flatten()
    hidden = torch.zeros(visible.shape, device=device).masked_fill_(~visible, -inf)
    hidden = hidden[:, None].expand(-1, heads, -1).reshape(-1, 1, width)
    return args, kwargs | {"layout": _Layout(cells[:, 0], hidden, places.flatten(), into, back)}


def _keep_rows(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state[0, : len(kwargs["first_tokens"]), None]  # without fillers
    return output


def _run_block(block: Any, config: Any, x: Tensor, *_: Any, layout: _Layout, keeps_first: bool, **__: Any) -> Tensor:
    attention, output = block.attention.self, block.attention.output
    modules = attention.query, attention.key, attention.value, output.dense, output.LayerNorm
    modules += block.intermediate.dense, block.output.dense, block.output.LayerNorm
    weights = (tensor for module in modules for tensor in (module.weight, module.bias))
    dropout = (config.attention_probs_dropout_prob, config.hidden_dropout_prob) if block.training else (0.0, 0.0)
    settings = keeps_first, config.num_attention_heads, dropout, config.layer_norm_eps
    return _Block.apply(x[0], *weights, layout, *settings)[None]


def _drop(module: nn.Dropout, x: Tensor) -> Tensor:
    (mask,) = draw_masks([x.shape], [module.p if module.training else 0.0], x.device)
    return x if mask is None else x * mask


def draw_masks(shapes: Sequence[torch.Size], dropped: Sequence[float], device: torch.device) -> list[Tensor | None]:
    """Return a dropout mask of each shape, drawn from the global generator: 0 for its share of `dropped`, in 16 bits.

    The others are such that the mean is 1. None if nothing is dropped. Masks side by side with one share are drawn at
    once, which changes no bit of them on a CPU.
    """
    masks: list[Tensor | None] = []
    for p, group in groupby(zip(dropped, shapes, strict=True), itemgetter(0)):
        sizes = [shape for _, shape in group]
        limit = round(p * 2**16)
        if not limit:
            masks += [None] * len(sizes)
            continue
        draws = [-(-size.numel() // 4) for size in sizes]
        bits = torch.empty(sum(draws), dtype=torch.int64, device=device).random_(-(2**63), None)
        kept = (bits.view(torch.int16) >= limit - 2**15) * (2**16 / max(2**16 - limit, 1))
        parts = kept.split([4 * n for n in draws])
        masks += [part[: size.numel()].view(size) for part, size in zip(parts, sizes, strict=True)]
    return masks


class _Block(torch.autograd.Function):
    """A block: tokens [tokens, size] in; tokens, or the first one of each row, out."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wo: Tensor, bo: Tensor,
        w1: Tensor, b1: Tensor, wu: Tensor, bu: Tensor, wd: Tensor, bd: Tensor, w2: Tensor, b2: Tensor,
        layout: _Layout, keeps_first: bool, heads: int, dropout: tuple[float, float], eps: float,
    ) -> Tensor:  # fmt: skip
        (_, size), (batch, _, width) = x.shape, layout.hidden.shape
        head = size // heads
        weights, biases, n = (wk, wv), (bk, bv), 2
        if keeps_first:
            kept = x.index_select(0, layout.first)
            q = torch.addmm(bq, kept, wq.t()).view(batch, 1, head)
        else:
            kept, q, weights, biases, n = x, None, (wq, *weights), (bq, *biases), 3
        weight = torch.cat(weights)
        packed = torch.addmm(torch.cat(biases), x, weight.t()).view(-1, head)
        padded = packed.index_select(0, layout.into[n]).view(n, batch, width, head)
        q, k, v = padded if q is None else (q, *padded)
        shares = torch.baddbmm(layout.hidden, q, k.transpose(1, 2), alpha=head**-0.5).softmax(-1)
        masks = draw_masks([shares.shape, kept.shape, kept.shape], [dropout[0], dropout[1], dropout[1]], x.device)
        share_mask, mask1, mask2 = masks
        seen = shares if share_mask is None else shares * share_mask
        taken = torch.bmm(seen, v).view(-1, head)
        taken = (taken if keeps_first else taken.index_select(0, layout.places)).view_as(kept)
        sum1 = torch.addmm(bo, taken, wo.t())
        sum1 = (sum1 if mask1 is None else sum1.mul_(mask1)).add_(kept)
        middle, mean1, scale1 = torch.native_layer_norm(sum1, (size,), w1, b1, eps)
        up = torch.addmm(bu, middle, wu.t())
        active = functional.gelu(up)
        sum2 = torch.addmm(bd, active, wd.t())
        sum2 = (sum2 if mask2 is None else sum2.mul_(mask2)).add_(middle)
        y, mean2, scale2 = torch.native_layer_norm(sum2, (size,), w2, b2, eps)
        ctx.save_for_backward(
            x, kept, wq, weight, q, k, v, shares, share_mask, seen, taken, wo, mask1,
            sum1, mean1, scale1, w1, b1, middle, wu, up, active, wd, mask2, sum2, mean2, scale2, w2, b2,
        )  # fmt: skip
        ctx.layout, ctx.keeps_first = layout, keeps_first
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (
            x, kept, wq, weight, q, k, v, shares, share_mask, seen, taken, wo, mask1,
            sum1, mean1, scale1, w1, b1, middle, wu, up, active, wd, mask2, sum2, mean2, scale2, w2, b2,
        ) = ctx.saved_tensors  # fmt: skip
        layout, size, head, n = ctx.layout, x.shape[1], q.shape[2], 2 if ctx.keeps_first else 3
        norm_backward = partial(aten.native_layer_norm_backward, output_mask=(True, True, True))
        d_sum2, *d_norm2 = norm_backward(gradient.contiguous(), sum2, (size,), mean2, scale2, w2, b2)
        d = d_sum2 if mask2 is None else d_sum2 * mask2
        d_down = d.t() @ active, d.sum(0)
        d = aten.gelu_backward(d @ wd, up)
        d_up = d.t() @ middle, d.sum(0)
        d_sum1, *d_norm1 = norm_backward(torch.addmm(d_sum2, d, wu), sum1, (size,), mean1, scale1, w1, b1)
        d = d_sum1 if mask1 is None else d_sum1 * mask1
        d_out = d.t() @ taken, d.sum(0)
        d = (d @ wo).view(-1, head)
        if not ctx.keeps_first:
            d = torch.zeros_like(q).view(-1, head).index_copy_(0, layout.places, d)
        d = d.view_as(q)
        d_padded = x.new_empty(n, *k.shape)
        torch.bmm(seen.transpose(1, 2), d, out=d_padded[-1])
        d = torch.bmm(d, v.transpose(1, 2))
        d = aten._softmax_backward_data(d if share_mask is None else d.mul_(share_mask), shares, -1, shares.dtype)
        d.mul_(head**-0.5)
        torch.bmm(d.transpose(1, 2), q, out=d_padded[-2])
        d_q = torch.bmm(d, k) if ctx.keeps_first else torch.bmm(d, k, out=d_padded[0])
        d = d_padded.view(-1, head).index_select(0, layout.back[n]).view(len(x), n * size)
        d_weights, d_biases = (d.t() @ x).split(size), d.sum(0).split(size)
        if ctx.keeps_first:
            d_q = d_q.view_as(kept)
            d_weights, d_biases = (d_q.t() @ kept, *d_weights), (d_q.sum(0), *d_biases)
            d_x = d @ weight
            d_kept = torch.addmm(d_x.index_select(0, layout.first).add_(d_sum1), d_q, wq)
            d_x.index_copy_(0, layout.first, d_kept)
        else:
            d_x = torch.addmm(d_sum1, d, weight)
        d_qkv = (part for pair in zip(d_weights, d_biases, strict=True) for part in pair)
        return d_x, *d_qkv, *d_out, *d_norm1, *d_up, *d_down, *d_norm2, *(None,) * 5
