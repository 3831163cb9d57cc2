"""Masks: how many, where, and what stands there instead, against counts."""

import torch

from stableft.config.run_config import MaskingConfig
from stableft.pretrain.masked_lm import make_masking_vocabulary

SPECIAL, MASK, SIZE = [0, 1, 2, 3, 4], 4, 1000
LETTERS = make_masking_vocabulary(SIZE, SPECIAL, MASK)
BERT = MaskingConfig(share=0.15, masked=0.8, random=0.1)


def rows(count: int, width: int) -> dict[str, torch.Tensor]:
    """Returns rows of [CLS], words, [SEP] and padding, of falling lengths, with an [UNK] in each."""
    ids = torch.randint(5, SIZE, (count, width), generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(width, 4, count).long()
    places = torch.arange(width)
    ids[:, 0], ids[:, 1] = 2, 1
    ids[places == lengths[:, None] - 1] = 3
    attention = (places < lengths[:, None]).long()
    return {"input_ids": ids * attention, "attention_mask": attention, "token_type_ids": torch.zeros_like(ids)}
