"""Keep a model's forward pass from reading tensors on the CPU, which would have to wait for the GPU.

Given a mask [rows, width], transformers checks in every forward pass whether it hides any token. Here, `collate` checks
that on the CPU and leaves out a mask that hides nothing. Every other mask gets the four dimensions that transformers
takes as they are. Some parts of BART and XLNet are replaced.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stableft.catalog.model_families import BACKBONES, BackboneSpec


def can_omit_full_mask(spec: BackboneSpec) -> bool:
    """Return whether a family's model computes the same without a mask that hides nothing.

    XLNet does not in half precision. Families without a row may derive positions from the mask.
    """
    return spec.name in BACKBONES and spec.name != "xlnet"


def decides_nothing_on_host(model: PreTrainedModel, spec: BackboneSpec) -> bool:
    """Return whether a model's passes are the same kernels for every batch of a shape, after `avoid_host_reads`.

    It then neither reads tensors on the CPU nor makes any there, nor draws there which blocks to skip, as BART can.
    """
    skips = any(getattr(model.config, f"{part}_layerdrop", 0.0) for part in ("encoder", "decoder"))
    return spec.name in BACKBONES and not skips


def avoid_host_reads(model: PreTrainedModel, spec: BackboneSpec) -> None:
    """Make the model of a family with a row compute the same without reading a tensor on the CPU."""
    if spec.name == "xlnet":  # it prepares its mask without reading it
        model.base_model.forward = MethodType(_make_tensors_on_device, model.base_model)
        for part in model.modules():
            if hasattr(part, "rel_shift_bnij"):
                part.rel_shift_bnij = _shift_to_relative_positions  # pyright: ignore[reportArgumentType]
    elif spec.name in BACKBONES:
        model.base_model.register_forward_pre_hook(_expand_masks, with_kwargs=True)
    if spec.name == "bart":
        model.forward = MethodType(_classify_by_last_eos, model)


def _make_tensors_on_device(encoder: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what XLNet computes. Its forward pass makes a matrix on the CPU, and the copy would wait for the GPU."""
    with encoder.device:
        return type(encoder).forward(encoder, *args, **kwargs)


def _shift_to_relative_positions(scores: Tensor, klen: int) -> Tensor:
    """Return XLNet's scores by relative position [rows, heads, queries, positions] as scores by key [..., klen].

    Both are views. transformers selects by index, whose deterministic gradient reads the indices on the CPU.
    """
    queries, positions = scores.shape[2:]
    return scores.flatten(2)[..., queries:].unflatten(2, (queries, positions - 1))[..., :klen]


def _expand_masks(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    config: Any = encoder.config
    ids, mask = args[0] if args else kwargs["input_ids"], kwargs.get("attention_mask")
    fused, width, masks = config._attn_implementation == "sdpa", ids.shape[1], {}
    if mask is not None and mask.ndim == 2:
        masks["attention_mask"] = mask.bool()[:, None, None, :].expand(-1, -1, width if fused else 1, -1)
    if config.is_encoder_decoder:  # without one, the decoder makes its own, for which it reads or copies a number
        causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        masks["decoder_attention_mask"] = causal[None, None]
    if not fused:  # to be added to the scores, in the dtype of the embeddings
        projects = hasattr(encoder, "embeddings_project") and torch.is_autocast_enabled(ids.device.type)
        dtype = torch.get_autocast_dtype(ids.device.type) if projects else torch.float32
        zero = torch.zeros((), dtype=dtype, device=ids.device)
        masks = {name: torch.where(visible, zero, torch.finfo(dtype).min) for name, visible in masks.items()}
    return args, kwargs | masks


def _classify_by_last_eos(model: Any, input_ids: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
    """Return what BART's head makes of the last end-of-text token, found without indexing by a mask."""
    hidden = model.model(input_ids, **inputs)[0]
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = torch.where(input_ids == model.config.eos_token_id, columns, -1).amax(1, keepdim=True)
    chosen = torch.where((columns == last)[:, :, None], hidden, 0.0).sum(1)
    return SequenceClassifierOutput(logits=model.classification_head(chosen))
