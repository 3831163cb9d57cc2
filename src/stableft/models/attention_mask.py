"""Prepare attention masks on the device without reading them: a read would make the CPU wait for the GPU.

Given a mask [rows, width], transformers checks in every forward pass whether it hides any token. Here, `collate` checks
that on the CPU and leaves out a mask that hides nothing. Every other mask gets the four dimensions that transformers
takes as they are.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from stableft.catalog.model_families import BACKBONES, BackboneSpec


def prepares_own_mask(spec: BackboneSpec) -> bool:
    """Return whether `prepare_attention_masks` applies to a family: it has a row, and its model takes such masks.

    XLNet takes no mask of four dimensions, and prepares its own without reading it.
    """
    return spec.name in BACKBONES and spec.name != "xlnet"


def prepare_attention_masks(model: PreTrainedModel) -> None:
    """Make the model's encoder expand an attention mask [rows, width] before transformers sees it."""
    model.base_model.register_forward_pre_hook(_expand_mask, with_kwargs=True)


def _expand_mask(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    mask = kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return args, kwargs
    visible = mask.bool()[:, None, None, :]
    if encoder.config._attn_implementation == "sdpa":  # pyright: ignore[reportAttributeAccessIssue]
        prepared = visible.expand(-1, -1, mask.shape[1], -1)
    else:  # to be added to the scores, in the dtype of the embeddings
        projects = hasattr(encoder, "embeddings_project") and torch.is_autocast_enabled(mask.device.type)
        dtype = torch.get_autocast_dtype(mask.device.type) if projects else torch.float32
        prepared = torch.where(visible, torch.zeros((), dtype=dtype, device=mask.device), torch.finfo(dtype).min)
    return args, {**kwargs, "attention_mask": prepared}
