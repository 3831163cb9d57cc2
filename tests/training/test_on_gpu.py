"""What only a CUDA device can show: deterministic kernels for every family, and how fp16's loss scale behaves."""

import contextlib

import numpy as np
import pytest
import torch
from support.tiny_families import FAMILIES, OWN_FAMILIES
from support.training_runs import read_history, run_outputs, train_run

from stableft.config.planned_run import RunInterrupted

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
