"""The failure watch in reports: its warnings beside how the runs ended."""

import statistics
from collections.abc import Sequence

from stableft.catalog.tasks import task_title
from stableft.report.arm_cells import ArmCell, WatchedRun
from stableft.report.forms.document import Column, DataTable, ReportTable, Row, Value, make_label
from stableft.report.numbers_in_words import count_value, number_value, text_value
from stableft.report.stability_results import StabilityResults
from stableft.training.failure_watch import LOOKS_AVERAGED, LOWER_BLOCK_SHARE, NOT_LEARNT_LOSS_SHARE, VANISHED_RATIO

DIAGNOSIS = "likely failed: vanishing gradients"
FAILURE_WATCH_COLUMNS = (
    Column("watched", "watched"),
    Column("watched_failed", "failed"),
    Column("warned_failed", "warned, failed"),
    Column("warned_not_failed", "warned, not failed"),
    Column("failed_not_warned", "failed, no warning"),
    Column("taken_back", "taken back"),
    Column("median_first_step", "median first step"),
    Column("likely_failed_runs"),
)
WATCHED_RUN_COLUMNS = (
    Column("run_id", "run"),
    Column("task", "task"),
    Column("arm", "arm"),
    Column("seed", "seed"),
    Column("first_step", "first step"),
    Column("steps", "of"),
    Column("ratio", "ratio"),
    Column("loss", "loss"),
    Column("nothing_learnt", "nothing learnt"),
    Column("failed", "failed"),
    Column("verdict"),
    Column("watch"),
)


def failure_watch_tables(results: StabilityResults, scores: DataTable, standalone: bool = False) -> list[ReportTable]:
    """Return a table of the watch's hits and misses by arm, and one of the runs it marks as failed.

    Empty if no run was watched. `standalone` adds the notes.
    """
    cells = [cell for cell in results.cells if cell.watched]
    if not cells:
        return []
    task = ["task"] if len(results.tasks) > 1 else []
    notes = (explain_failure_watch(),) if standalone else ()
    name = f"{make_label(results.artifact.id)}-watch"
    caption = "Failure watch: how its verdict at the end fits how runs ended."
    keys = ["arm", *task, *(column.key for column in FAILURE_WATCH_COLUMNS if column.title)]
    rows = [row for row in scores.rows if row["watched"].data]
    tables = [scores.view(name, keys, caption, rows, notes)]
    runs = watched_run_data(cells)
    if warned := [row for row in runs.rows if row["verdict"].data]:
        keys = ["run_id", *task, *(c.key for c in WATCHED_RUN_COLUMNS if c.title and c.key not in ("run_id", "task"))]
        caption = f"{DIAGNOSIS[0].upper()}{DIAGNOSIS[1:]}, as seen at the last look of each run."
        tables.append(runs.view(f"{name}-runs", keys, caption, warned, notes))
    return tables


def explain_failure_watch() -> str:
    """Return an explanation of the watch's warnings."""
    return (
        "The watch knows nothing of scores. It warns where the gradient norm of the lower "
        f"{_format_share(LOWER_BLOCK_SHARE)} of the "
        f"blocks is below {VANISHED_RATIO:g} of that of pooler and head (ratio: the geometric mean of "
        f"{LOOKS_AVERAGED} looks), and of "
        f"what this ratio was at the first look, while the training loss is at least {NOT_LEARNT_LOSS_SHARE:g} "
        "of what a model that "
        "has learnt nothing has. `warned` and `likely failed` are about the last look, `taken back` about warnings of "
        "earlier ones alone. A warning is a sign of one way to fail, not a proof, and a run without one may fail in "
        "another."
    )


def _format_share(part: float) -> str:
    return "third" if abs(part - 1 / 3) < 1e-9 else f"{part:.0%}"


def _warned_runs(cell: ArmCell) -> list[WatchedRun]:
    return [run for run in cell.watched if run.watch.at_end]


def failure_watch_values(cell: ArmCell) -> dict[str, Value]:
    """Return an arm's values for `FAILURE_WATCH_COLUMNS`. Empty if no run was watched."""
    if not cell.watched:
        return {}
    warned = _warned_runs(cell)
    steps = [run.watch.first.step for run in warned if run.watch.first]
    counts = {
        "watched": len(cell.watched),
        "watched_failed": sum(run.failed is True for run in cell.watched),
        "warned_failed": sum(run.failed is True for run in warned),
        "warned_not_failed": sum(run.failed is False for run in warned),
        "failed_not_warned": sum(run.failed is True and not run.watch.at_end for run in cell.watched),
        "taken_back": sum(run.watch.first is not None and not run.watch.at_end for run in cell.watched),
    }
    return {key: count_value(count) for key, count in counts.items()} | {
        "median_first_step": number_value(float(statistics.median(steps)) if steps else None, "g"),
        "likely_failed_runs": Value(data=[f"{run.run_id} (seed {run.seed})" for run in warned]),
    }


def watched_run_data(cells: Sequence[ArmCell]) -> DataTable:
    """Return a row for every watched run of these cells, with the findings of the watch."""
    rows = (Row("", _watched_run_values(cell, run)) for cell in cells for run in cell.watched)
    return DataTable(WATCHED_RUN_COLUMNS, tuple(rows), only="json")


def _watched_run_values(cell: ArmCell, run: WatchedRun) -> dict[str, Value]:
    watch, first, last = run.watch, run.watch.first, run.watch.last
    return {
        "run_id": text_value(run.run_id),
        "task": Value(task_title(cell.task), cell.task),
        "arm": text_value(cell.arm),
        "seed": text_value(run.seed),
        "first_step": count_value(first.step if first else None),
        "steps": count_value(run.steps),
        "ratio": number_value(last.ratio if last else None, ".1g"),
        "loss": number_value(last.loss if last else None, ".3f"),
        "nothing_learnt": number_value(watch.nothing_learnt, ".3f"),
        "failed": Value({True: "yes", False: "no", None: "not known"}[run.failed], run.failed),
        "verdict": Value(data=DIAGNOSIS if watch.at_end else None),
        "watch": Value(data=watch.model_dump()),
    }
