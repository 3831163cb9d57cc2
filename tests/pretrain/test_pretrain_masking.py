"""Masks: how many, where, and what stands there instead, against counts."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from stableft.config.run_config import MaskingConfig
from stableft.pretrain.masked_lm import make_masking_vocabulary, mask_tokens
from stableft.seeds import make_generator

SPECIAL, MASK, SIZE = [0, 1, 2, 3, 4], 4, 1000
LETTERS = make_masking_vocabulary(SIZE, SPECIAL, MASK)
BERT = MaskingConfig(share=0.15, masked=0.8, random=0.1)


def make_rows(count: int, width: int) -> dict[str, torch.Tensor]:
    """Returns rows of [CLS], words, [SEP] and padding, of falling lengths, with an [UNK] in each."""
    ids = torch.randint(5, SIZE, (count, width), generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(width, 4, count).long()
    places = torch.arange(width)
    ids[:, 0], ids[:, 1] = 2, 1
    ids[places == lengths[:, None] - 1] = 3
    attention = (places < lengths[:, None]).long()
    return {"input_ids": ids * attention, "attention_mask": attention, "token_type_ids": torch.zeros_like(ids)}


def test_shares_against_counts():
    batch = make_rows(4000, 64)
    masked = mask_tokens(batch, LETTERS, BERT, make_generator(0, "masks"))
    assert masked.target_ids is batch["input_ids"]
    words = ~torch.isin(masked.target_ids, torch.tensor(SPECIAL))
    assert not (masked.is_masked & ~words).any()
    per_row = words.sum(1).double()
    assert torch.equal(masked.is_masked.sum(1).double(), (per_row * 0.15).round().clamp(min=1))
    total = masked.is_masked.sum().item()
    seen, truth = masked.inputs["input_ids"][masked.is_masked], masked.target_ids[masked.is_masked]
    is_mask, kept = seen == MASK, seen == truth
    assert is_mask.sum().item() / total == pytest.approx(0.8, abs=0.01)
    assert kept.sum().item() / total == pytest.approx(0.1 + 0.1 / (SIZE - 5), abs=0.01)
    replaced = seen[~is_mask & ~kept]
    assert len(replaced) / total == pytest.approx(0.1, abs=0.01)
    assert not torch.isin(replaced, torch.tensor(SPECIAL)).any()
    assert len(replaced.unique()) > 800
    untouched = masked.inputs["input_ids"][~masked.is_masked]
    assert torch.equal(untouched, masked.target_ids[~masked.is_masked])


def test_every_place_is_as_likely_as_another():
    batch = make_rows(1, 42)
    batch = {key: value.expand(6000, -1).contiguous() for key, value in batch.items()}
    counts = mask_tokens(batch, LETTERS, BERT, make_generator(1, "masks")).is_masked.sum(0)[2:-1]
    assert counts.sum().item() == 6 * 6000
    expected = 6 * 6000 / 39
    assert (counts - expected).abs().max().item() < 5 * expected**0.5


@pytest.mark.parametrize(("masked", "random", "stays"), [(1.0, 0.0, False), (0.0, 0.0, True)])
def test_all_or_none(masked, random, stays):
    batch = make_rows(50, 30)
    result = mask_tokens(
        batch, LETTERS, MaskingConfig(share=0.5, masked=masked, random=random), make_generator(0, "masks")
    )
    seen = result.inputs["input_ids"][result.is_masked]
    assert torch.equal(seen, result.target_ids[result.is_masked] if stays else torch.full_like(seen, MASK))


def test_rows_without_a_word_have_no_mask():
    batch = {"input_ids": torch.tensor([[2, 1, 1, 3], [2, 9, 3, 0]]), "attention_mask": torch.tensor([[1] * 4] * 2)}
    batch["attention_mask"][1, 3] = 0
    assert mask_tokens(batch, LETTERS, BERT, make_generator(0, "masks")).is_masked.tolist() == [
        [False] * 4,
        [False, True, False, False],
    ]


def masked_ids() -> tuple[int, int, list[list[int]]]:
    """Returns the process, a hash that differs between processes that Python started, and masked rows."""
    masked = mask_tokens(make_rows(64, 40), LETTERS, BERT, make_generator(3, "masks", 7))
    return os.getpid(), hash("masks"), masked.inputs["input_ids"].tolist()


def test_masks_are_equal_between_processes_and_leave_the_global_generator_alone(warm_server):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    here = masked_ids()
    with ProcessPoolExecutor(1, mp_context=warm_server.get_context("spawn")) as processes:
        there = processes.submit(masked_ids).result()
    assert there[2] == here[2]
    assert there[0] != here[0]
    assert there[1] != here[1] or "PYTHONHASHSEED" in os.environ
    assert torch.equal(torch.get_rng_state(), before)
