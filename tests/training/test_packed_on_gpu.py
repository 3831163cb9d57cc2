"""Packed rows on a CUDA device: the kernel that takes boundaries in half precision, padded attention in single."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.training_runs import read_history, run_outputs, train_run
from torch.nn import functional

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution, InLoopProbes, RunInterrupted
from stableft.data.tokens import collate
from stableft.models.packed import _FlashAttention
from stableft.records.probe_record import PROBES_FILE
from stableft.records.run_record import run_folder
from stableft.training.setup import prepare_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PACKING = [name for name, spec in BACKBONES.items() if spec.packs]
PRECISIONS = ["fp32", "fp16", "bf16"]


@pytest.fixture(autouse=True)
def small_heads(monkeypatch) -> None:
    """Lets the kernel take the heads of tiny models, which runs of users leave to padded attention."""
    monkeypatch.setattr("stableft.models.packed.LEAST_HEAD_SIZE", 8)


@pytest.fixture
def packed_run(family_run):
    """Returns a maker of packed runs of a few dozen steps: `packed_run("bert", precision="fp16", ...)`."""

    def make(family: str, **settings):
        given = {"execution": "packed", "model.attention": "sdpa", "schedule.length": {"steps": 24}}
        return family_run(family, **given | {"optimizer.lr": 1e-4} | settings)

    return make


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "attention"), [("bert", "eager"), *((name, "sdpa") for name in PACKING)])
def test_runs_repeat_and_resume_bit_for_bit(packed_run, tmp_path, family, attention, precision):
    """Recorded updates twice, launched kernels, and a resume, whole batches and split ones."""
    run, sources = packed_run(family, precision=precision, **{"model.attention": attention})
    run = replace(run, probes=InLoopProbes(grad_norms=4, drift=6))
    for micro_batch in (None, 3):
        outputs = {}
        for name in ("first", "second", "launched", "resumed"):
            results = tmp_path / f"{micro_batch}-{name}"
            execution = {"device": "cuda:0", "micro_batch": micro_batch, "cuda_graphs": name != "launched"}
            if name == "resumed":
                with contextlib.suppress(RunInterrupted):
                    train_run(run, results, sources, stop_at=9, checkpoint_every=10**6, **execution)
                torch.manual_seed(9)
            record = train_run(run, results, sources, **execution)
            probes = (run_folder(results, run.run_id) / PROBES_FILE).read_text()
            outputs[name] = (run_outputs(results, record), probes)
        assert np.isfinite([line["loss"] for line in read_history(results, run)]).all()
        for name, output in outputs.items():
            assert output == outputs["first"], name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", PACKING)
def test_losses_are_those_of_padded_rows(packed_run, tmp_path, family, precision):
    losses = []
    for execution in ("padded", "packed"):
        run, sources = packed_run(family, precision=precision, execution=execution, **{"model.dropout": 0.0})
        train_run(run, tmp_path / execution, sources, device="cuda:0")
        losses.append([line["loss"] for line in read_history(tmp_path / execution, run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("family", [name for name, spec in BACKBONES.items() if spec.fuses])
def test_fused_blocks_repeat_resume_and_have_the_losses_of_packed_rows(packed_run, tmp_path, family):
    eager = {"model.attention": "eager", "precision": "fp32"}
    run, sources = packed_run(family, execution="fused", **eager)
    outputs = {}
    for name in ("first", "second", "launched", "resumed"):
        execution = {"device": "cuda:0", "cuda_graphs": name != "launched"}
        if name == "resumed":
            with contextlib.suppress(RunInterrupted):
                train_run(run, tmp_path / name, sources, stop_at=9, checkpoint_every=10**6, **execution)
        outputs[name] = run_outputs(tmp_path / name, train_run(run, tmp_path / name, sources, **execution))
        assert outputs[name] == outputs["first"], name
    losses = []
    for execution in ("packed", "fused"):
        run, sources = packed_run(family, execution=execution, **eager, **{"model.dropout": 0.0})
        train_run(run, tmp_path / execution, sources, device="cuda:0")
        losses.append([line["loss"] for line in read_history(tmp_path / execution, run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_updates_are_recorded_and_replayed(packed_run, tmp_path, monkeypatch, caplog):
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr("torch.cuda.CUDAGraph.replay", lambda graph: (replays.append(graph), replay(graph)))
    run, sources = packed_run("bert", precision="fp16")
    train_run(run, tmp_path, sources, device="cuda:0")
    assert "could not be recorded" not in caplog.text
    assert len(replays) >= 18
    assert len(set(replays)) <= 3


@pytest.mark.parametrize(("precision", "boundaries"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_half_precision_takes_boundaries(packed_run, tmp_path, precision, boundaries):
    run, sources = packed_run("bert", precision=precision)
    job, _ = prepare_run(run, tmp_path, sources, Execution("cuda:0"))
    batch = collate(job.splits.train, np.arange(4), job.inputs, job.config.data)
    assert ("boundaries" in batch) is boundaries
    assert batch["input_ids"].shape[1] % 128 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_size", [8, 64])
def test_the_kernel_attends_within_rows(dtype, head_size):
    """Output and gradients without dropout; with it, the gradient is that of the mask of the forward pass."""
    torch.manual_seed(0)
    lengths = [5, 1, 128, 37, 85]
    boundaries = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device="cuda:0")
    shape = (sum(lengths), 2, head_size)
    q, k, v, gradient = (torch.randn(shape, device="cuda:0", dtype=dtype) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    output = _FlashAttention.apply(*inputs, boundaries, 128, 0.0, head_size**-0.5)
    rows = zip(*(x.transpose(0, 1).split(lengths, 1) for x in exact), strict=True)
    expected = torch.cat([functional.scaled_dot_product_attention(*row) for row in rows], 1).transpose(0, 1)
    pairs = zip(
        [output, *torch.autograd.grad(output, inputs, gradient)],
        [expected, *torch.autograd.grad(expected, exact, gradient.float())],
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.float(), theirs, rtol=3e-2, atol=3e-2)
    output = _FlashAttention.apply(*inputs, boundaries, 128, 0.1, head_size**-0.5)
    (of_values,) = torch.autograd.grad(output, [inputs[2]], gradient)
    # The output is linear in the values.
    ours, theirs = ((x.double() * y.double()).sum() for x, y in ((of_values, v), (output, gradient)))
    assert float((ours - theirs).abs() / (output * gradient).double().norm()) < 0.05
