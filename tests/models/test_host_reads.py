"""Forward passes that read nothing on the CPU: the results of transformers' own, without its checks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.host_reads import CopiesToDevice, HostReads
from support.tiny_families import FAMILIES, OWN_FAMILIES
from torch import Tensor

from stableft.config.planned_run import Execution, InLoopProbes
from stableft.data.tokens import collate, pad_batch
from stableft.models.host_reads import decides_nothing_on_host
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
def test_an_update_reads_nothing_from_the_device(
    family_run, tmp_path, monkeypatch, family, attention, precision, padded
):
    if attention == "sdpa" and family in NOT_FUSED:
        pytest.skip("has no fused attention")
    if family == "bart":  # in transformers 5.17 it draws, always on the CPU, whether to skip a block
        monkeypatch.setattr(torch, "rand", lambda size: 0.5)
    settings = {"model.attention": attention, "precision": precision, "model.dropout": 0.1}
    settings |= {"schedule.batch_size": 8} | ({} if padded else {"data.max_length": SHORT})
    run, sources = family_run(family, **settings)
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    indices = some_rows(job, padded)
    for _ in range(2):
        with HostReads() as reads:
            train_on_batch(state, job.splits.train, indices, job.config, 1e-3, job.inputs, job.device)
        assert reads.counts == READS_LEFT.get(family, {})


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", OWN_FAMILIES)
def test_an_update_copies_nothing_but_its_batch_to_the_device(family_run, tmp_path, monkeypatch, family, attention):
    """Nor could a CUDA graph record such a copy. The device is torch's "meta", which has shapes and no values."""
    if attention == "sdpa" and family in NOT_FUSED:
        pytest.skip("has no fused attention")
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)  # which needs a GPU
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which does not know "meta"
    run, sources = family_run(family, **{"model.attention": attention, "model.dropout": 0.1})
    job, state = prepare_run(
        replace(run, probes=InLoopProbes(grad_norms=1)), tmp_path, sources, Execution("meta", threads=1)
    )
    inputs = replace(job.inputs, full_mask=True)  # as on a GPU
    batch = collate(job.splits.train, np.arange(4), inputs, job.config.data)
    for _ in range(2):
        with CopiesToDevice() as copies:
            train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, inputs, job.device)
    assert copies.sizes == [tuple(tensor.shape) for tensor in batch.values()]


@pytest.mark.parametrize(
    ("family", "part"), [*((name, None) for name in OWN_FAMILIES), *(("bart", part) for part in ("encoder", "decoder"))]
)
def test_an_update_that_draws_which_blocks_to_skip_cannot_be_recorded(family_run, tmp_path, family, part):
    run, sources = family_run(family, values={f"{part}_layerdrop": 0.1} if part else {})
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    assert decides_nothing_on_host(state.model, job.pretrained.spec) is (part is None)
