"""The real `stableft sweep`, killed again and again at random moments, ends with the bits of runs that were left alone.

`pytest -s` shows where each kill fell. Every kill is SIGKILL to the whole process group: parent and workers at once.
"""

import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import SITECUSTOMIZE, kill_group, start_stableft, wait_for_success, wait_while_running
from support.training_runs import train_run

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.records.run_record import CHECKPOINT_FILE, HISTORY_FILE, PREDICTIONS_FILE, RECORD_FILE, read_record

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to a core"),
]

RUNS = 4
UNEQUAL = {"seconds": True, "peak_memory_bytes": True, "environment": {"git_commit", "git_dirty"}}
ATTEMPTS = 30

RECIPE = """
data: {{split: dev, train_rows: null, sample_seed: null, max_length: 32, pad_to_max: false, segment_ids: true}}
model: {{name: {model}, dropout: 0.1, attention: sdpa}}
reinit: {{pooler: true, blocks: 1}}
optimizer:
  {{lr: 1.0e-3, betas: [0.9, 0.999], eps: 1.0e-6, bias_correction: true, eps_placement: before_correction,
   weight_decay: 0.01, decay_order: after, no_decay: [bias, LayerNorm.weight], clip_norm: 1.0}}
schedule: {{length: {{epochs: 40}}, batch_size: 4, warmup: 0.1}}
evaluation:
  {{every: {{per_epoch: 1}}, at_start: true, select_by: [accuracy], report: best, batch_size: 8}}
precision: fp32
"""
SWEEP = """
recipe: toy.yaml
task:
  name: toy
  train: {data}/train.csv
  validation: {data}/validation.csv
  test: {data}/test.csv
  text: [first, second]
  label: label
  labels: ["no", "yes"]
  metrics: [accuracy, f1]
seeds: 1-2
arms:
  - {{name: slow, set: {{optimizer.lr: 1.0e-4}}}}
  - {{name: fast}}
"""


class Sweeps:
    """Starts the sweep over one results folder, as a user would."""

    def __init__(self, folder: Path, site: Path, results: Path):
        self.folder, self.site, self.results = folder, site, results

    def start(self) -> subprocess.Popen:
        options = "--devices cpu --jobs-per-device 1 --checkpoint-every 2".split()
        return start_stableft(self.site, self.folder, "sweep", "toy-sweep.yaml", "--results", self.results, *options)

    def finish(self) -> None:
        wait_for_success(self.start())

    def files(self) -> set[str]:
        """Returns the files of all run folders, as run/name."""
        return {f"{path.parent.name}/{path.name}" for path in self.results.glob("runs/*/*")}

    def checkpoints(self) -> dict[Path, int]:
        """Returns the checkpoints of runs without a record, and when each was written."""
        found = {}
        for path in self.results.glob(f"runs/*/{CHECKPOINT_FILE}"):
            with contextlib.suppress(FileNotFoundError):
                if not (path.parent / RECORD_FILE).exists():
                    found[path] = path.stat().st_mtime_ns
        return found

    def finished(self) -> int:
        return len(list(self.results.glob(f"runs/*/{RECORD_FILE}")))


def aim(sweeps: Sweeps, process: subprocess.Popen, target: str, draw: random.Random) -> None:
    """Returns at the moment at which to kill."""
    if target == "anywhere":
        end = time.monotonic() + draw.uniform(0, 6)
        wait_while_running(process, lambda: time.monotonic() > end)
        return
    before = sweeps.checkpoints()
    if not wait_while_running(process, lambda: sweeps.checkpoints() != before):
        return
    end = time.monotonic() + draw.uniform(0.02, 0.4)
    wait_while_running(process, lambda: time.monotonic() > end)
    if target == "a write":
        (sweeps.site / "slow").touch()
        wait_while_running(process, lambda: any(name.endswith(".tmp") for name in sweeps.files()))
        time.sleep(draw.uniform(0, 0.1))


def locate(sweeps: Sweeps, files: set[str], checkpoints: dict[Path, int]) -> str:
    """Returns where the kill fell, from what lies in the run folders now and lay there before the start."""
    writes = sorted(name for name in sweeps.files() - files if name.endswith(".tmp"))
    if writes:
        return "in a write of " + ", ".join(name.split("/.")[1].rsplit(".", 3)[0] for name in writes)
    written = [path for path, when in sweeps.checkpoints().items() if when != checkpoints.get(path)]
    if written:
        steps = [torch.load(path, weights_only=True)["step"] for path in written]
        return f"in training, after this process wrote a checkpoint at step {', '.join(map(str, steps))}"
    return "outside of training, or before its first checkpoint"


def results_of(sweeps: Sweeps) -> dict:
    found = {}
    for path in sorted(sweeps.results.glob(f"runs/*/{RECORD_FILE}")):
        record = read_record(sweeps.results, path.parent.name)
        assert record is not None
        with np.load(path.parent / PREDICTIONS_FILE) as file:
            predictions = {name: (file[name].dtype.str, file[name].shape, file[name].tobytes()) for name in file.files}
        found[record.run_id] = {
            "record": record.model_dump(mode="json", exclude=UNEQUAL),
            "history": (path.parent / HISTORY_FILE).read_bytes(),
            "predictions": predictions,
        }
    return found


@pytest.mark.parametrize(  # how many kills are aimed so; where they fell is looked at afterwards
    ("anywhere", "in_training", "in_a_write"), [(1, 2, 1), pytest.param(2, 6, 2, marks=pytest.mark.nightly)]
)
def test_kills_change_no_bit(toy_data, tiny_model_folder, tmp_path, anywhere, in_training, in_a_write):
    (tmp_path / "toy.yaml").write_text(RECIPE.format(model=tiny_model_folder))
    (tmp_path / "toy-sweep.yaml").write_text(SWEEP.format(data=toy_data))
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    whole, killed = (Sweeps(tmp_path, site, tmp_path / name) for name in ("whole", "killed"))
    sweep = load_sweep(tmp_path / "toy-sweep.yaml", LocalPaths(cache_dir=tmp_path / "cache"))
    for run in sweep.runs:  # here, because a process of its own would import torch once more
        train_run(run, whole.results, sweep.sources)
    expected = results_of(whole)
    assert len(expected) == RUNS
    assert len({found["history"] for found in expected.values()}) == RUNS

    draw = random.Random(2021)
    aims = ["anywhere"] * anywhere + ["training"] * in_training + ["a write"] * in_a_write
    draw.shuffle(aims)
    fell: list[str] = []
    for attempt in range(ATTEMPTS):
        short = [
            *(["training"] if sum("in training" in where for where in fell) < in_training - 1 else []),
            *(["a write"] if not any("in a write of checkpoint" in where for where in fell) else []),
        ]
        if attempt >= len(aims) and not short:
            break
        target = aims[attempt] if attempt < len(aims) else short[0]
        files, checkpoints, finished = killed.files(), killed.checkpoints(), killed.finished()
        begun = time.monotonic()
        process = killed.start()
        aim(killed, process, target, draw)
        seconds = time.monotonic() - begun
        assert process.poll() is None, f"the sweep ended before kill {attempt + 1}: its runs are too short"
        kill_group(process)
        fell.append(locate(killed, files, checkpoints))
        (site / "slow").unlink(missing_ok=True)
        print(
            f"kill {len(fell):2} after {seconds:4.1f} s, aimed at {target}: fell {fell[-1]} "
            f"({finished} of {RUNS} runs had finished before, {killed.finished()} after)"
        )
    counts = Counter(
        "training" if "in training" in where else "write" if "write" in where else "else" for where in fell
    )
    print(f"kills: {dict(counts)}")
    assert len(fell) >= anywhere + in_training + in_a_write
    assert sum("in training" in where for where in fell) >= in_training - 1
    assert any("in a write of checkpoint" in where for where in fell)
    assert killed.finished() < RUNS

    killed.finish()
    found = results_of(killed)
    assert found.keys() == expected.keys()
    for run_id, run in expected.items():
        assert found[run_id] == run
    left = {name.split("/")[1] for name in killed.files()}
    assert left - {"claim.json"} == {"config.yaml", "record.json", "history.jsonl", "predictions.npz"}
