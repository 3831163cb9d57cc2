"""What the failure watch said of runs, beside how they ended: grids for people, values for programs."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from stableft.report.forms.document import Block, Bullets, Grid, Heading, label
from stableft.report.numbers_in_words import MISSING
from stableft.report.runs import Cell, Watched
from stableft.report.stability_table import Table, task_title
from stableft.training.failure_watch import LEARNT, LOOKS, LOWER, RATIO

TITLE = "Failure watch"
DIAGNOSIS = "likely failed: vanishing gradients"
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
RUNS = ("run", "arm", "seed", "first step", "of", "ratio", "loss", "nothing learnt", "failed")
FAILURE_WATCH_CSV_HEADER = [
    *("n watched", "n warned and failed", "n warned but not failed", "n failed without warning"),
    *("n warnings taken back", "median first step of warning", DIAGNOSIS),
]


def watched_cells(table: Table) -> list[Cell]:
    """Returns the cells that have runs whose gradient norms were recorded."""
    return [cell for cell in table.cells if cell.watched]


def watch_blocks(table: Table) -> Iterator[Block]:
    """Yields the section of the watch, nothing where no run was watched."""
    grids = watch_grids(table)
    if grids:
        yield Heading(TITLE)
        yield from grids
        yield Bullets((meaning(),))


def watch_grids(table: Table, alone: bool = False) -> list[Grid]:
    """Returns how often the watch was right for each arm, and every run that it says has failed.

    `alone`: for a reader who sees nothing else.
    """
    cells, named = watched_cells(table), len(table.columns) > 1
    if not cells:
        return []
    note = (meaning(),) if alone else ()
    name, caption = f"{label(table.artifact.id)}-watch", f"{TITLE}: how its verdict at the end fits how runs ended."
    found = [Grid(name, FAILURE_WATCH_ARM_HEADER, tuple(_arm_row(cell, named) for cell in cells), caption, notes=note)]
    rows = tuple(_run_row(cell, seen, named) for cell in cells for seen in _warned(cell))
    if rows:
        text = f"{DIAGNOSIS[0].upper()}{DIAGNOSIS[1:]}, as seen at the last look of each run."
        found.append(Grid(f"{name}-runs", RUNS, rows, text, notes=note))
    return found


def meaning() -> str:
    """Returns what a warning is, in one sentence or two."""
    return (
        f"The watch knows nothing of scores. It warns where the gradient norm of the lower {_share(LOWER)} of the "
        f"blocks is below {RATIO:g} of that of pooler and head (ratio: the geometric mean of {LOOKS} looks), and of "
        f"what this ratio was at the first look, while the training loss is at least {LEARNT:g} of what a model that "
        "has learnt nothing has. `warned` and `likely failed` are about the last look, `taken back` about warnings of "
        "earlier ones alone. A warning is a sign of one way to fail, not a proof, and a run without one may fail in "
        "another."
    )


def _share(part: float) -> str:
    return "third" if abs(part - 1 / 3) < 1e-9 else f"{part:.0%}"


def _warned(cell: Cell) -> list[Watched]:
    return [seen for seen in cell.watched if seen.watch.at_end]


def _counts(cell: Cell) -> dict[str, Any]:
    warned, steps = _warned(cell), [seen.watch.first.step for seen in _warned(cell) if seen.watch.first]
    return {
        "watched": len(cell.watched),
        "failed": sum(seen.failed is True for seen in cell.watched),
        "warned_failed": sum(seen.failed is True for seen in warned),
        "warned_not_failed": sum(seen.failed is False for seen in warned),
        "failed_not_warned": sum(seen.failed is True and not seen.watch.at_end for seen in cell.watched),
        "taken_back": sum(seen.watch.first is not None and not seen.watch.at_end for seen in cell.watched),
        "median_first_step": float(statistics.median(steps)) if steps else None,
    }


def _arm_row(cell: Cell, named: bool) -> tuple[str, ...]:
    *counts, first = _counts(cell).values()
    return (_place(cell, named), *map(str, counts), MISSING if first is None else f"{first:g}")


def _run_row(cell: Cell, seen: Watched, named: bool) -> tuple[str, ...]:
    watch, first, last = seen.watch, seen.watch.first, seen.watch.last
    return (
        seen.run_id,
        _place(cell, named),
        seen.seed,
        MISSING if first is None else str(first.step),
        str(seen.steps),
        MISSING if last is None else f"{last.ratio:.1g}",
        MISSING if last is None else f"{last.loss:.3f}",
        f"{watch.nothing_learnt:.3f}",
        {True: "yes", False: "no", None: "not known"}[seen.failed],
    )


def _place(cell: Cell, named: bool) -> str:
    return f"{cell.row}, {task_title(cell.column)}" if named else cell.row


def watch_csv(cell: Cell) -> list[Any]:
    """Returns what stands below CSV_HEADER for a cell."""
    if not cell.watched:
        return [None] * len(FAILURE_WATCH_CSV_HEADER)
    counts = _counts(cell)
    names = "; ".join(f"{seen.run_id} (seed {seen.seed})" for seen in _warned(cell)) or None
    return [*(counts[name] for name in counts if name != "failed"), names]


def watch_values(table: Table) -> dict[str, Any]:
    """Returns the watch as JSON values below the key "watch", none where no run was watched."""
    cells: Sequence[Cell] = watched_cells(table)
    if not cells:
        return {}
    return {
        "watch": {
            "meaning": meaning(),
            "arms": [{"row": cell.row, "column": cell.column, **_counts(cell)} for cell in cells],
            "runs": [
                {"row": cell.row, "column": cell.column, "run_id": seen.run_id, "seed": seen.seed}
                | {"verdict": DIAGNOSIS if seen.watch.at_end else None, "failed": seen.failed, "steps": seen.steps}
                | seen.watch.model_dump()
                for cell in cells
                for seen in cell.watched
            ],
        }
    }
