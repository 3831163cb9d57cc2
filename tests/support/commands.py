"""Sweeps of training commands, their records, and what became of their processes."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from support.paths import FILES
from support.table_records import make_record

from stableft.config.command_config import CommandConfig, CommandData, CommandScore
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import Seeds
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.records.command_outcome import CommandOutcome
from stableft.records.failure import has_failed
from stableft.records.run_record import RunRecord, Scores, run_folder
from stableft.sweep.command_run import train_by_command

TRAIN = f"{sys.executable} train.py --seed {{seed}} --out {{out}} --device {{device}}"
IN_JSON = '{file: "{out}/eval_results.json", key: eval_accuracy}'


def write_command_sweep(
    folder: Path, do: str = "train", score: str = IN_JSON, more: str = "", seeds: str = "1-3"
) -> Path:
    """Write a sweep file of one command beside the script `train.py`, and return its path. `more` are more keys."""
    shutil.copy(FILES / "commands" / "train.py", folder)
    path = folder / "s.yaml"
    path.write_text(
        f"task: mine\nseeds: {seeds}\narms:\n  - name: theirs\n    command: {TRAIN} --do {do}\n    score: {score}\n"
        + "".join(f"    {line}\n" for line in more.splitlines())
    )
    return path


def load_command_sweep(folder: Path, *arguments: str, **options: str) -> Sweep:
    """Return the sweep of `write_command_sweep`."""
    return load_sweep(write_command_sweep(folder, *arguments, **options), LocalPaths())


def do_run(run: PlannedRun, sweep: Sweep, folder: Path, stop=lambda: False, device: str = "cpu") -> RunRecord:
    """Execute a command as a worker does, in this process and without a claim."""
    run_folder(folder, run.run_id).mkdir(parents=True, exist_ok=True)
    return train_by_command(
        run, folder, sweep.sources, Execution(device=device, threads=1), lambda progress: None, stop
    )


def read_pids(folder: Path) -> list[int]:
    """Return the ids of the processes that a run's command told of, once it has."""
    deadline = time.monotonic() + 60
    while not (folder / "pids").exists() or not (folder / "pids").read_text():
        assert time.monotonic() < deadline, "the command has not begun"
        time.sleep(0.02)
    return json.loads((folder / "pids").read_text())


def are_gone(pids: list[int], seconds: float = 10) -> bool:
    """Return whether all these processes have ended, or do so within some seconds."""
    deadline = time.monotonic() + seconds
    while any(_is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def make_command_record(arm: str, seed: int, score: float, task: str = "mine", **meaning: Any) -> RunRecord:
    """Return the record of a finished command with this score, which is a fraction. Its baseline is .5."""
    config = CommandConfig(
        data=CommandData(task=task),
        command=("python", f"{arm}.py", "{seed}"),
        score=CommandScore(pattern="(.+)", **meaning),
        baseline=0.5 * meaning.get("scale", 1),
        seeds=Seeds(init=seed, data=seed),
    )
    outcome = CommandOutcome(device="cpu", exit_code=0, written=str(score), last_lines=())
    record = make_record(arm=arm, recipe=arm).model_copy(
        update={
            "run_id": config.run_id,
            "config": config,
            "evals": (),
            "last": Scores(step=0, val={config.task.metric: score}, test=None),
            "best": None,
            "data": None,
            "command": outcome,
        }
    )
    return record.model_copy(update={"failed": has_failed(record)})
