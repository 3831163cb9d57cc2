"""Forward passes that read nothing on the CPU: the results of transformers' own, without its checks."""

import numpy as np
import pytest
import torch
from support.host_reads import HostReads
from support.tiny_families import FAMILIES, OWN_FAMILIES
from torch import Tensor

from stableft.config.planned_run import Execution
from stableft.data.tokens import collate, pad_batch
from stableft.training.evaluate import autocast, loss_sum
from stableft.training.setup import prepare_run
from stableft.training.step import train_on_batch

NOT_FUSED = ("xlnet", "deberta-v2")
SHORT = 8  # tokens, to which longer rows are cut
# XLNet's one_hot checks its input, but on the CPU alone.
READS_LEFT = {"xlnet": {"_local_scalar_dense": 2}}


def some_rows(job, padded: bool) -> np.ndarray:
    """Returns eight rows; without padding, those that `SHORT` cuts to one length."""
    lengths = np.diff(job.splits.train.offsets)
    return np.resize(np.arange(8) if padded else np.flatnonzero(lengths == SHORT), 8)


def logits_and_gradients(job, state, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    state.model.zero_grad(set_to_none=True)
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    with autocast(job.config, job.device):
        logits = state.model(**inputs).logits
    loss_sum(logits, batch["labels"]).backward()
    return {"": logits} | {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_bitwise_those_of_a_mask_that_the_model_reads(
    family_run, tmp_path, family, attention, precision, padded
):
    if attention == "sdpa" and family in NOT_FUSED:
        pytest.skip("has no fused attention")
    settings = {"model.attention": attention, "precision": precision, "model.dropout": 0.1}
    run, sources = family_run(family, **settings, **({} if padded else {"data.max_length": SHORT}))
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    rows = job.splits.train
    indices = some_rows(job, padded)
    batch = collate(rows, indices, job.inputs, job.config.data)
    assert ("attention_mask" in batch) is (padded or family not in OWN_FAMILIES or family == "xlnet")
    ours = logits_and_gradients(job, state, batch)
    state.model.base_model._forward_pre_hooks.clear()
    state.model.base_model._forward_pre_hooks_with_kwargs.clear()
    for part in state.model.modules():
        for name in ("forward", "rel_shift_bnij"):
            vars(part).pop(name, None)
    mask = pad_batch(rows, indices, job.inputs, job.config.data.max_length)["attention_mask"]
    assert bool(mask.all()) is not padded
    theirs = logits_and_gradients(job, state, batch | {"attention_mask": mask})
    assert ours.keys() == theirs.keys()
    for name in ours:
        if (family, attention) == ("bart", "sdpa"):  # its decoder has a mask, and so another kernel
            rtol = 1e-5 if precision == "fp32" else 0.05
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=rtol, atol=rtol * float(theirs[name].detach().abs().max())
            )
        else:
            assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", OWN_FAMILIES)
def test_an_update_reads_nothing_from_the_device(family_run, tmp_path, family, attention, precision, padded):
    if attention == "sdpa" and family in NOT_FUSED:
        pytest.skip("has no fused attention")
    settings = {"model.attention": attention, "precision": precision, "model.dropout": 0.1}
    settings |= {"schedule.batch_size": 8} | ({} if padded else {"data.max_length": SHORT})
    run, sources = family_run(family, **settings)
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    indices = some_rows(job, padded)
    for _ in range(2):
        with HostReads() as reads:
            train_on_batch(state, job.splits.train, indices, job.config, 1e-3, job.inputs, job.device)
        assert reads.counts == READS_LEFT.get(family, {})
