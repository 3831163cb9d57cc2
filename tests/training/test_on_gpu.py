"""What only a CUDA device shows: deterministic kernels in every family, fp16's loss scale, recorded updates."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_families import FAMILIES, OWN_FAMILIES
from support.training_runs import read_history, run_outputs, train_run

from stableft.config.planned_run import InLoopProbes, RunInterrupted
from stableft.methods.adamw import AdamW
from stableft.records.probe_record import PROBES_FILE
from stableft.records.run_record import run_folder
from stableft.training.evaluate import loss_sum

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NO_SDPA = ("xlnet", "deberta-v2", "mobilebert")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_repeats_itself_bit_for_bit(family_run, tmp_path, name, precision):
    """An operation without a deterministic kernel raises here."""
    reinit = {"reinit": {"pooler": False, "blocks": 1}} if name in OWN_FAMILIES and name != "albert" else {}
    for attention in ("eager",) if name in NO_SDPA else ("eager", "sdpa"):
        run, sources = family_run(name, precision=precision, **{"model.attention": attention}, **reinit)
        outputs = []
        for folder in ("first", "second"):
            results = tmp_path / attention / folder
            record = train_run(run, results, sources, device="cuda:0")
            assert np.isfinite([line["loss"] for line in read_history(results, run)]).all()
            outputs.append(run_outputs(results, record))
        assert outputs[0] == outputs[1]


def test_a_record_has_the_versions_of_cuda_its_libraries_and_the_driver(toy_run, toy_sources, tmp_path):
    versions = train_run(toy_run(), tmp_path, toy_sources, device="cuda:0").environment.versions
    assert versions["cuda"] == torch.version.cuda
    assert versions["cudnn"] == str(torch.backends.cudnn.version())
    assert versions["cublas"].split(".")[0] == torch.version.cuda.split(".")[0]
    assert versions["driver"].split(".")[0].isdigit()


@pytest.mark.parametrize("stop_at", [None, 4])
def test_the_loss_scale_recovers(toy_run, toy_sources, tmp_path, monkeypatch, stop_at):
    """Steps that overflow are skipped and counted; the scale halves until steps succeed; a resume changes nothing."""
    scaler = torch.amp.GradScaler

    class HighScaler(scaler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, init_scale=2.0**40, **options)

    run = toy_run(**{"precision": "fp16", "schedule.length": {"steps": 40}})
    monkeypatch.setattr("torch.amp.GradScaler", HighScaler)
    expected = train_run(run, tmp_path / "whole", toy_sources, device="cuda:0")
    history = read_history(tmp_path / "whole", run)
    skipped = sum(isinstance(line["grad_norm"], str) for line in history)  # not finite
    assert 0 < skipped < 30
    assert expected.skipped_steps == skipped
    assert not any(isinstance(line["grad_norm"], str) for line in history[-10:])
    assert [line["lr"] for line in history][10:] == sorted((line["lr"] for line in history[10:]), reverse=True)
    with contextlib.suppress(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=stop_at, device="cuda:0", checkpoint_every=10**6)
    record = train_run(run, tmp_path, toy_sources, device="cuda:0")
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "whole", expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", OWN_FAMILIES)
def test_recorded_updates_change_no_bit(family_run, tmp_path, name, precision):
    """Whole micro-batches and split ones, eager and fused attention, with probes that are due at some updates."""
    for attention in ("eager",) if name in NO_SDPA else ("eager", "sdpa"):
        settings = {"model.attention": attention, "schedule.length": {"steps": 30}}
        settings |= {} if name == "albert" else {"optimizer.llrd": 0.9}  # it has one block only
        run, sources = family_run(name, precision=precision, **settings)
        run = replace(run, probes=InLoopProbes(grad_norms=4, drift=6))
        for micro_batch in (None, 3):
            outputs = []
            for cuda_graphs in (True, False):
                results = tmp_path / f"{attention}-{micro_batch}-{cuda_graphs}"
                execution = {"device": "cuda:0", "micro_batch": micro_batch, "cuda_graphs": cuda_graphs}
                record = train_run(run, results, sources, **execution)
                probes = (run_folder(results, run.run_id) / PROBES_FILE).read_text()
                outputs.append((run_outputs(results, record), probes))
            assert outputs[0] == outputs[1]


def test_updates_are_recorded_and_replayed(toy_run, toy_sources, tmp_path, monkeypatch):
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr("torch.cuda.CUDAGraph.replay", lambda graph: (replays.append(graph), replay(graph)))
    run = toy_run(**{"schedule.length": {"steps": 40}, "data.pad_to_max": True})
    train_run(run, tmp_path, toy_sources, device="cuda:0")
    assert len(replays) == 39
    assert len(set(replays)) == 1


def test_a_run_goes_on_if_its_optimizer_cannot_be_recorded(toy_run, toy_sources, tmp_path, monkeypatch):
    """The scaler has unscaled the gradients by then."""
    run = toy_run(**{"schedule.length": {"steps": 12}, "precision": "fp16"})
    expected = train_run(run, tmp_path / "plain", toy_sources, device="cuda:0", cuda_graphs=False)
    update = AdamW._update_group

    def failing(self, *arguments):
        if torch.cuda.is_current_stream_capturing():
            torch.empty(1 << 50, device="cuda:0")
        return update(self, *arguments)

    monkeypatch.setattr(AdamW, "_update_group", failing)
    record = train_run(run, tmp_path / "failed", toy_sources, device="cuda:0")
    assert run_outputs(tmp_path / "failed", record) == run_outputs(tmp_path / "plain", expected)


def test_a_run_goes_on_if_an_update_cannot_be_recorded(toy_run, toy_sources, tmp_path, monkeypatch, caplog):
    """Out of memory, or an operation that waits for the GPU, in the middle of a recording."""
    run = toy_run(**{"schedule.length": {"steps": 12}})
    expected = train_run(run, tmp_path / "plain", toy_sources, device="cuda:0", cuda_graphs=False)
    for name, fail in {"memory": lambda _: torch.empty(1 << 50, device="cuda:0"), "wait": torch.Tensor.item}.items():

        def failing(outputs, labels, fail=fail):
            loss = loss_sum(outputs, labels)
            if torch.cuda.is_current_stream_capturing():
                fail(loss)
            return loss

        monkeypatch.setattr("stableft.training.step.loss_sum", failing)
        record = train_run(run, tmp_path / name, toy_sources, device="cuda:0")
        assert run_outputs(tmp_path / name, record) == run_outputs(tmp_path / "plain", expected)
        assert "could not be recorded" in caplog.text
        caplog.clear()
