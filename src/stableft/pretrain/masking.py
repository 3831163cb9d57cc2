"""Masks: which tokens of a batch are to be found out, and what the model sees in their place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stableft.pretrain_config import MaskingConfig


@dataclass(frozen=True)
class Masked:
    """A batch with masks. `inputs` are a model's, `chosen` [rows, width] tells where, `truth` what stood there."""

    inputs: dict[str, Tensor]
    chosen: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Alphabet:
    """What masking knows of a vocabulary: `ordinary` are the ids of tokens that are not special."""

    mask_id: int
    ordinary: Tensor
    is_ordinary: Tensor  # bool [vocabulary]


def alphabet(size: int, special: list[int], mask_id: int) -> Alphabet:
    """Returns the alphabet of a vocabulary with `size` entries, of which these are special."""
    is_ordinary = torch.ones(size, dtype=torch.bool)
    is_ordinary[special] = False
    return Alphabet(mask_id, is_ordinary.nonzero()[:, 0], is_ordinary)


def mask(batch: dict[str, Tensor], letters: Alphabet, rule: MaskingConfig, random: torch.Generator) -> Masked:
    """Returns the batch with masks drawn from `random`, which nothing but the batch's shape and tokens moves.

    A row loses its share of tokens, rounded, at least one; each token is as likely as another.
    DEVIATION: BERT's code counts [CLS] and [SEP] in the share, and masks [UNK] as any other token.
    """
    truth = batch["input_ids"]
    free = letters.is_ordinary[truth] & batch["attention_mask"].bool()
    counts = free.sum(1)
    wanted = (counts.double() * rule.share).round().clamp(min=1).minimum(counts)
    lots = torch.rand(truth.shape, generator=random).masked_fill(~free, 2.0)
    chosen = (lots.argsort(1).argsort(1) < wanted[:, None]) & free
    dice = torch.rand(truth.shape, generator=random)
    others = letters.ordinary[torch.randint(len(letters.ordinary), truth.shape, generator=random)]
    seen = torch.where(dice < rule.masked + rule.random, others, truth)
    seen = torch.where(dice < rule.masked, letters.mask_id, seen)
    return Masked({**batch, "input_ids": torch.where(chosen, seen, truth)}, chosen, truth)
