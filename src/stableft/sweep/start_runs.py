"""Start runs: runs trained first because others are initialized from their weights (Z sec. 7.1)."""

import math
from collections.abc import Iterable
from pathlib import Path

from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import StartFrom
from stableft.config.sweep_file import Sweep
from stableft.models.start_weights import find_start_weights
from stableft.records.run_record import RunRecord
from stableft.sweep.state import read_sweep_state, unique_runs


def start_runs_to_train(sweep: Sweep, results: Path, retry_crashed: bool = False) -> tuple[PlannedRun, ...]:
    """Return the start runs that still have to be trained for unfinished runs of the sweep.

    Crashed start runs are included only with `retry_crashed`.

    Raises:
        UserError: The weights of a start run that has finished or is not in the sweep are missing or do not fit.
    """
    if not any(run.config.start_from for run in sweep.runs):
        return ()
    planned, needed = {parent.run_id: parent for parent in sweep.start_runs}, {}
    state = read_sweep_state(results, (*sweep.runs, *sweep.start_runs), look_only=True)
    done = {record.run_id: record for record in state.finished}
    crashed = {record.run_id for record in state.crashed if not retry_crashed}
    for run in unique_runs(sweep.runs).values():
        start = run.config.start_from
        if start is None or run.run_id in done:
            continue
        if start.run not in planned or (start.run in done and not _never_had_finite_weights(done[start.run], start)):
            find_start_weights(run.run_config, results)
        elif start.run not in done and start.run not in crashed:
            needed[start.run] = planned[start.run]
    return tuple(needed.values())


def find_unusable_starts(sweep: Sweep, results: Path, retry_crashed: bool = False) -> dict[StartFrom, str]:
    """Return start weights that unfinished runs need but cannot get -> a sentence that says why.

    Either the start run crashed and is not retried, or it finished without ever having finite weights.
    """
    state = read_sweep_state(results, (*sweep.runs, *sweep.start_runs), look_only=True)
    records = {record.run_id: record for record in (*state.finished, *state.crashed)}
    finished = {record.run_id for record in state.finished}
    planned = {parent.run_id: parent for parent in sweep.start_runs}
    unusable = {}
    for run in unique_runs(sweep.runs).values():
        start = run.config.start_from
        if start is None or start in unusable or run.run_id in finished or start.run not in planned:
            continue
        record, name = records.get(start.run), describe_start_run(planned[start.run], sweep.runs)
        if record and record.status == "crashed" and not retry_crashed:
            unusable[start] = f"{name}, crashed ({record.reason}): they are not run; --retry-crashed tries it again"
        elif record and record.status == "finished" and _never_had_finite_weights(record, start):
            why = f"has no {start.checkpoint} weights of use ({record.reason})"
            unusable[start] = f"{name}, {why}: they are not run; let them start from another one"
    return unusable


def _never_had_finite_weights(record: RunRecord, start: StartFrom) -> bool:
    """Return whether a finished run never had finite weights of the kind that `start` names."""
    if record.reason is None:
        return False
    return start.checkpoint == "last" or not any(p.step > 0 and math.isfinite(p.val_loss) for p in record.evals)


def describe_start_run(parent: PlannedRun, runs: Iterable[PlannedRun]) -> str:
    """Return a phrase that names the start run and how many of `runs` are initialized from it."""
    config = parent.config
    starts = [run.config.start_from for run in unique_runs(runs).values() if run.config.start_from]
    count = sum(start.run == parent.run_id for start in starts)
    what = f"{parent.recipe} on {config.data.task}, seed {config.seeds.init}"
    return f"run {parent.run_id} ({what}), from which {count} run{'s start' if count != 1 else ' starts'}"
