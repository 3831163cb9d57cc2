"""scripts/gpu-check on the CPU, with a tiny model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.paths import ROOT


def check_gpu(out: Path, *options: str, seconds: float = 550) -> tuple[int, dict]:
    command = [ROOT / "scripts/gpu-check", "--out", out, "--tiny", "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, json.loads((out / "gpu-check.json").read_text())["steps"]


@pytest.fixture
def gpu_check(monkeypatch) -> Iterator[ModuleType]:
    """Returns the script as a module, and undoes afterwards what it sets in this process."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = torch.backends.cuda.matmul.fp32_precision
    import gpu_check

    yield gpu_check
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_repeats_itself_and_resumes_in_a_process_of_its_own(tmp_path):
    code, steps = check_gpu(tmp_path, "--only", "repeats")
    assert (code, list(steps), steps["repeats"]["ok"]) == (0, ["repeats"], True)
    assert steps["repeats"]["results"]["fp16"] == steps["repeats"]["results"]["fp16"] | {
        "repeats": True,
        "resumes": True,
    }
    assert "## repeats: passed" in (tmp_path / "gpu-check.md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch's and transformers' own parts
@pytest.mark.timeout(600)
def test_every_other_step_measures_something(gpu_check, tmp_path, monkeypatch):
    """In this process, because each of its own would import torch and the Trainer."""

    def run_here(name, options, folder, deadline):
        check = gpu_check.Check(options.device, options.tiny, folder, options.out)
        gpu_check.run_step(name, check, folder / "step.json", {})
        results = json.loads((folder / "step.json").read_text())
        return {"ok": all(result["ok"] for result in results.values()), "seconds": 1.0, "results": results}

    monkeypatch.setattr(gpu_check, "run_in_process", run_here)
    only = "memory,variants,floor,profile,projection"
    command = ["gpu_check.py", "--out", str(tmp_path), "--tiny", "--device", "cpu", "--only", only]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu_check.main() == 0
    steps = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]
    assert ",".join(steps) == only
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


def test_a_step_of_another_name_is_refused(gpu_check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path), "--only", "sped"])
    with pytest.raises(SystemExit) as left:
        gpu_check.main()
    assert left.value.code == 2
    assert "--only has no step sped; there are tests, sweeps, repeats" in capsys.readouterr().err
