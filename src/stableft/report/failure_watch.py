"""The failure watch in reports: its warnings beside how the runs ended."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from stableft.report.forms.document import Bullets, Heading, ReportBlock, ReportTable, make_label
from stableft.report.numbers_in_words import NO_VALUE
from stableft.report.runs import ArmCell, WatchedRun
from stableft.report.stability_table import StabilityTable, task_title
from stableft.training.failure_watch import LOOKS_AVERAGED, LOWER_BLOCK_SHARE, NOT_LEARNT_LOSS_SHARE, VANISHED_RATIO

FAILURE_WATCH_TITLE = "Failure watch"
FAILURE_WATCH_DIAGNOSIS = "likely failed: vanishing gradients"
FAILURE_WATCH_ARM_HEADER = (
    "arm",
    "watched",
    "failed",
    "warned, failed",
    "warned, not failed",
    "failed, no warning",
    "taken back",
)
FAILURE_WATCH_ARM_HEADER = (*FAILURE_WATCH_ARM_HEADER, "median first step")
FAILURE_WATCH_RUN_HEADER = ("run", "arm", "seed", "first step", "of", "ratio", "loss", "nothing learnt", "failed")
FAILURE_WATCH_CSV_HEADER = [
    *("n watched", "n warned and failed", "n warned but not failed", "n failed without warning"),
    *("n warnings taken back", "median first step of warning", FAILURE_WATCH_DIAGNOSIS),
]


def cells_with_failure_watch(table: StabilityTable) -> list[ArmCell]:
    """Returns the cells that have runs whose gradient norms were recorded."""
    return [cell for cell in table.cells if cell.watched]


def failure_watch_blocks(table: StabilityTable) -> Iterator[ReportBlock]:
    """Yields the section of the watch, nothing where no run was watched."""
    grids = failure_watch_tables(table)
    if grids:
        yield Heading(FAILURE_WATCH_TITLE)
        yield from grids
        yield Bullets((explain_failure_watch(),))


def failure_watch_tables(table: StabilityTable, alone: bool = False) -> list[ReportTable]:
    """Returns how often the watch was right for each arm, and every run that it says has failed.

    `alone`: for a reader who sees nothing else.
    """
    cells, named = cells_with_failure_watch(table), len(table.columns) > 1
    if not cells:
        return []
    note = (explain_failure_watch(),) if alone else ()
    name, caption = (
        f"{make_label(table.artifact.id)}-watch",
        f"{FAILURE_WATCH_TITLE}: how its verdict at the end fits how runs ended.",
    )
    found = [
        ReportTable(
            name,
            FAILURE_WATCH_ARM_HEADER,
            tuple(_failure_watch_arm_row(cell, named) for cell in cells),
            caption,
            notes=note,
        )
    ]
    rows = tuple(_failure_watch_run_row(cell, seen, named) for cell in cells for seen in _warned_runs(cell))
    if rows:
        text = (
            f"{FAILURE_WATCH_DIAGNOSIS[0].upper()}{FAILURE_WATCH_DIAGNOSIS[1:]}, as seen at the last look of each run."
        )
        found.append(ReportTable(f"{name}-runs", FAILURE_WATCH_RUN_HEADER, rows, text, notes=note))
    return found


def explain_failure_watch() -> str:
    """Returns what a warning is, in one sentence or two."""
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
    return [seen for seen in cell.watched if seen.watch.at_end]


def _failure_watch_counts(cell: ArmCell) -> dict[str, Any]:
    warned, steps = _warned_runs(cell), [seen.watch.first.step for seen in _warned_runs(cell) if seen.watch.first]
    return {
        "watched": len(cell.watched),
        "failed": sum(seen.failed is True for seen in cell.watched),
        "warned_failed": sum(seen.failed is True for seen in warned),
        "warned_not_failed": sum(seen.failed is False for seen in warned),
        "failed_not_warned": sum(seen.failed is True and not seen.watch.at_end for seen in cell.watched),
        "taken_back": sum(seen.watch.first is not None and not seen.watch.at_end for seen in cell.watched),
        "median_first_step": float(statistics.median(steps)) if steps else None,
    }


def _failure_watch_arm_row(cell: ArmCell, named: bool) -> tuple[str, ...]:
    *counts, first = _failure_watch_counts(cell).values()
    return (_arm_label(cell, named), *map(str, counts), NO_VALUE if first is None else f"{first:g}")


def _failure_watch_run_row(cell: ArmCell, seen: WatchedRun, named: bool) -> tuple[str, ...]:
    watch, first, last = seen.watch, seen.watch.first, seen.watch.last
    return (
        seen.run_id,
        _arm_label(cell, named),
        seen.seed,
        NO_VALUE if first is None else str(first.step),
        str(seen.steps),
        NO_VALUE if last is None else f"{last.ratio:.1g}",
        NO_VALUE if last is None else f"{last.loss:.3f}",
        f"{watch.nothing_learnt:.3f}",
        {True: "yes", False: "no", None: "not known"}[seen.failed],
    )


def _arm_label(cell: ArmCell, named: bool) -> str:
    return f"{cell.row}, {task_title(cell.column)}" if named else cell.row


def failure_watch_to_csv(cell: ArmCell) -> list[Any]:
    """Returns what stands below CSV_HEADER for a cell."""
    if not cell.watched:
        return [None] * len(FAILURE_WATCH_CSV_HEADER)
    counts = _failure_watch_counts(cell)
    names = "; ".join(f"{seen.run_id} (seed {seen.seed})" for seen in _warned_runs(cell)) or None
    return [*(counts[name] for name in counts if name != "failed"), names]


def failure_watch_to_json(table: StabilityTable) -> dict[str, Any]:
    """Returns the watch as JSON values below the key "watch", none where no run was watched."""
    cells: Sequence[ArmCell] = cells_with_failure_watch(table)
    if not cells:
        return {}
    return {
        "watch": {
            "meaning": explain_failure_watch(),
            "arms": [{"row": cell.row, "column": cell.column, **_failure_watch_counts(cell)} for cell in cells],
            "runs": [
                {"row": cell.row, "column": cell.column, "run_id": seen.run_id, "seed": seen.seed}
                | {
                    "verdict": FAILURE_WATCH_DIAGNOSIS if seen.watch.at_end else None,
                    "failed": seen.failed,
                    "steps": seen.steps,
                }
                | seen.watch.model_dump()
                for cell in cells
                for seen in cell.watched
            ],
        }
    }
