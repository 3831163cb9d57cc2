"""Which parameter gets which learning rate and weight decay: layer-wise rates, exemptions, pre-trained weight decay."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.backbones import BackboneSpec
from stableft.config import OptimizerConfig
from stableft.optim import AdamW


def build_optimizer(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> AdamW:
    """Returns the optimizer that the config describes, over the model's trainable parameters.

    With `decay_towards: pretrained` it keeps a copy of the decayed weights as they are now.
    """
    groups = parameter_groups(model, config, spec)
    targets: dict[Tensor, Tensor] = {}
    if config.decay_towards == "pretrained":
        decayed = chain.from_iterable(group["params"] for group in groups if group["weight_decay"])
        targets = {p: p.detach().clone() for p in decayed}
    return AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        bias_correction=config.bias_correction,
        eps_placement=config.eps_placement,
        decay_order=config.decay_order,
        targets=targets,
    )


def parameter_groups(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> list[dict[str, Any]]:
    """Returns groups of parameters of equal rate and decay; `lr_scale` is the share of the learning rate they get.

    A parameter is not decayed when its name contains one of `no_decay`, such as "bias" or "LayerNorm.weight"; the head
    is not decayed towards the pre-trained weights, having none, unless `decay_head` says so.
    """
    no_head = config.decay_towards == "pretrained" and not config.decay_head
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p, scale in _scaled(model, spec, 1.0 if config.llrd is None else config.llrd):
        exempt = any(part in name for part in config.no_decay) or (no_head and not _in_encoder(model, name))
        groups.setdefault((scale, 0.0 if exempt else config.weight_decay), []).append(p)
    return [
        {"params": params, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), params in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def _scaled(model: PreTrainedModel, spec: BackboneSpec, llrd: float) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Yields name, parameter and share of the learning rate (Howard and Ruder 2018; Z sec. 7.1).

    Each block has `llrd` times the rate of the block above it, the embeddings `llrd` times that of the lowest block,
    and what is above the blocks the full rate: head, pooler, a last norm.
    """
    blocks = [f"{name}.{i}." for name in spec.blocks for i in range(len(list(model.get_submodule(name).children())))]
    levels = [tuple(f"{name}." for name in spec.embeddings), *blocks]  # from the bottom up
    for name, p in model.named_parameters():
        if p.requires_grad:
            level = next((i for i, parts in enumerate(levels) if name.startswith(parts)), len(levels))
            yield name, p, llrd ** (len(levels) - level)


def _in_encoder(model: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")
