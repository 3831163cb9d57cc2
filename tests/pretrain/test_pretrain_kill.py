"""The real `stableft pretrain`, killed again and again, ends with the bits of one that was left alone.

Those that are killed are forks of this process, because importing torch takes longer than to get to the moment of a
kill; the last one imports it. `pytest -s` shows at which step the checkpoint was that each SIGKILL left behind.
"""

import os
import random
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.forked_sweeps import ForkedSweep, start_command
from support.pretraining import pretraining_outputs, write_pretraining_config
from support.processes import SITECUSTOMIZE, customize, start_stableft, wait_for_success, wait_while_running

from stableft.config.planned_run import LocalPaths
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.record import pretrain_folder
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to a core"),
]
AIMS = ["start", "training", "training", "checkpoint", "model", "record"]
MORE_AIMS = ["start", *["training"] * 5, *["checkpoint"] * 2, "model", "record"]


class Pretrainings:
    """Starts one pre-training over one results folder, as a user would."""

    def __init__(self, config: Path, site: Path, results: Path):
        self.config, self.site, self.results = config, site, results
        self.plan = load_pretraining(config, LocalPaths())
        self.folder = pretrain_folder(results, self.plan.config.run_id)
        self.checkpoint = self.folder / CHECKPOINT_FILE

    def command(self) -> tuple[str | Path, ...]:
        options = "--device cpu --threads 1 --checkpoint-every 3".split()
        return "pretrain", self.config, "--results", self.results, *options

    def start(self) -> ForkedSweep:
        return start_command(self.site / "log", *self.command(), change=partial(customize, self.site))

    def finish(self) -> None:
        wait_for_success(start_stableft(self.site, self.config.parent, *self.command()))

    def written(self) -> int:
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.exists() else 0

    def writes(self, name: str) -> bool:
        return any(path.name.startswith(f".{name}.") for path in self.folder.glob(".*"))


def aim(at: Pretrainings, process: ForkedSweep, target: str, draw: random.Random) -> None:
    """Returns at the moment at which to kill."""
    slow = at.site / "slow"
    if target == "start":
        time.sleep(draw.uniform(0, 0.3))
    elif target in ("training", "checkpoint"):
        for _ in range(draw.randint(1, 8)):
            before = at.written()
            wait_while_running(process, lambda before=before: at.written() != before)
        if target == "training":
            time.sleep(draw.uniform(0, 0.05))
        else:
            slow.touch()
            wait_while_running(process, lambda: at.writes(CHECKPOINT_FILE))
            time.sleep(draw.uniform(0, 0.1))
    else:
        wait_while_running(process, lambda: at.writes("model"))
        slow.touch()
        if target == "model":
            time.sleep(draw.uniform(0, 0.5))
        else:
            wait_while_running(process, (at.folder / RECORD_FILE).exists)


@pytest.mark.parametrize("aims", [AIMS, pytest.param(MORE_AIMS, marks=pytest.mark.nightly)])
def test_kills_change_no_bit(workplace, stableft, tmp_path, aims):
    config = write_pretraining_config(
        tmp_path, **{"schedule.length": {"steps": 300}, "evaluation.every": {"times": 20}}
    )
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    whole, killed = (Pretrainings(config, site, tmp_path / name) for name in ("whole", "killed"))
    assert stableft(*whole.command())[0] == 0
    expected = pretraining_outputs(whole.results, whole.plan)
    assert len(expected["history"].splitlines()) == 300
    assert "model.safetensors" in expected["model"]

    draw, steps = random.Random(2021), []
    for target in aims:
        before = killed.written()
        process = killed.start()
        aim(killed, process, target, draw)
        assert process.poll() is None, f"it ended before the kill aimed at {target}: {process.log.read_text()}"
        process.end()
        (site / "slow").unlink(missing_ok=True)
        moved = killed.written() != before
        steps += [torch.load(killed.checkpoint, weights_only=True)["step"]] if moved else []
        print(f"kill aimed at {target}: the checkpoint is {f'now of step {steps[-1]}' if moved else 'as it was'}")
        assert (killed.folder / RECORD_FILE).exists() == (target == "record")
        assert target not in ("checkpoint", "model") or any(killed.folder.glob(".*"))
    assert len(set(steps)) >= len(aims) // 2
    assert steps == sorted(steps)
    assert killed.checkpoint.exists()

    killed.finish()
    assert pretraining_outputs(killed.results, killed.plan) == expected
    assert {path.name for path in killed.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
