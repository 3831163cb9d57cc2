"""The runs of a sweep that are trained first, because others start from their weights (Z sec. 7.1)."""

from collections.abc import Iterable
from pathlib import Path

from stableft.inherit import find_start
from stableft.plan import PlannedRun
from stableft.sweep import status_of, unique_runs
from stableft.sweepfile import Sweep


def parents_to_train(plan: Sweep, results: Path) -> tuple[PlannedRun, ...]:
    """Returns the runs that others start from and that have not finished, where one of those has not either.

    Raises:
        UserError: what a run is to start from is there, but cannot be used, or is not there and not planned.
    """
    planned, needed = {parent.run_id: parent for parent in plan.parents}, {}
    done = {record.run_id for record in status_of(results, (*plan.runs, *plan.parents), look_only=True).finished}
    for run in unique_runs(plan.runs).values():
        start = run.config.start_from
        if start is None or run.run_id in done:
            continue
        if start.run in planned and start.run not in done:
            needed[start.run] = planned[start.run]
        else:
            find_start(run.config, results)
    return tuple(needed.values())


def describe_parent(parent: PlannedRun, runs: Iterable[PlannedRun]) -> str:
    """Returns in words which run that is, and how many of `runs` start from it."""
    config = parent.config
    starts = [run.config.start_from for run in unique_runs(runs).values() if run.config.start_from]
    count = sum(start.run == parent.run_id for start in starts)
    what = f"{parent.recipe} on {config.data.task}, seed {config.seeds.init}"
    return f"run {parent.run_id} ({what}), from which {count} run{'s start' if count != 1 else ' starts'}"
