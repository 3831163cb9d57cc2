"""scripts/gpu-check on the CPU, with a tiny model."""

import json
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT


def check_gpu(out: Path, *options: str, seconds: float = 550) -> tuple[int, dict]:
    command = [ROOT / "scripts/gpu-check", "--out", out, "--tiny", "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, json.loads((out / "gpu-check.json").read_text())["steps"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_step_measures_something(tmp_path):
    code, steps = check_gpu(tmp_path, "--only", "repeats,memory,variants,floor,profile,projection")
    assert code == 0
    assert steps["repeats"]["results"]["fp16"] == steps["repeats"]["results"]["fp16"] | {
        "repeats": True,
        "resumes": True,
    }
    assert steps["variants"]["results"]["Trainer, flattened"]["ms"] > 0
    assert steps["floor"]["results"]["rates"]["fp32 TFLOP/s"] > 0
    assert steps["profile"]["results"]["rte, batch 16, packed"]["kernels a step"] > 100
    assert [name for name, step in steps.items() if not step["ok"]] == []
    text = (tmp_path / "gpu-check.md").read_text()
    assert all(f"## {name}: passed" in text for name in steps)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_whole_check_passes(tmp_path):
    code, steps = check_gpu(tmp_path, "--minutes", "28", seconds=1750)
    assert [name for name, step in steps.items() if not step["ok"]] == []
    assert code == 0
    assert list(steps) == "tests sweeps repeats memory speed variants floor profile projection".split()
    assert [len(scores) for scores in steps["sweeps"]["results"]["demo fp32"]["accuracies"].values()] == [5, 5]
    assert steps["speed"]["results"]["rte, batch 16, bf16, execution packed"]["Trainer / stableft"] > 0


@pytest.mark.slow
def test_a_step_that_fails_does_not_hide_the_next(tmp_path):
    code, steps = check_gpu(tmp_path, "--only", "speed,memory", "--minutes", "0.01")
    assert code == 1
    assert {name: step["ok"] for name, step in steps.items()} == {"speed": False, "memory": False}
    assert steps["memory"]["results"]["end"]["message"] == "the time was up"


def test_a_step_of_another_name_is_refused(tmp_path):
    command = [ROOT / "scripts/gpu-check", "--out", tmp_path, "--only", "sped"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--only has no step sped; there are tests, sweeps, repeats" in done.stderr
