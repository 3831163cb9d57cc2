"""A frame of runs and the published values -> a `Table`: cells, comparisons and footnotes, nothing rendered yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stableft.errors import UserError
from stableft.report.artifact import Artifact
from stableft.report.battery import Versus, against_first
from stableft.report.cells import Cell, make_cell
from stableft.report.compare import Comparison, compare_column, compare_published
from stableft.report.footnotes import cell_footnotes, column_footnotes, deviation_footnotes
from stableft.report.published import Published
from stableft.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """All that a rendering shows. `cells` holds every (row, column) pair that has runs or was planned."""

    artifact: Artifact
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    footnotes: tuple[str, ...]
    deviations: Mapping[tuple[str, str], Sequence[str]]  # arm, task -> how its setting differs from the published one
    battery: tuple[Versus, ...] = ()  # every arm against the first, where the artefact asks for it

    def cell(self, row: str, column: str) -> Cell | None:
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def starred(self, cell: Cell) -> bool:
        return any(c.star and (c.a, c.column) == (cell.row, cell.column) for c in self.comparisons)

    def against_published(self, cell: Cell) -> list[Comparison]:
        return [c for c in self.comparisons if c.published and (c.a, c.column) == (cell.row, cell.column)]


def build_report(
    frame: "pd.DataFrame",
    artifact: Artifact,
    published: Published,
    deviations: Mapping[tuple[str, str], Sequence[str]] | None = None,
    planned: Mapping[tuple[str, str], int] | None = None,
    recipes: Mapping[str, str] | None = None,
) -> Table:
    """Returns the table of an artefact, or of a sweep (`sweep_artifact`).

    `deviations` says for an arm and task how its runs differ from the paper's setting, `planned` how many runs each
    (arm, task) should have, `recipes` the recipe of an arm that has no runs yet; the order of `planned` is the order
    of the rows.

    Raises:
        UserError: there is nothing to report, or runs of one cell are scored by different metrics, splits or
            checkpoints.
    """
    deviations, planned, recipes = deviations or {}, planned or {}, recipes or {}
    if frame.empty and not planned:
        raise UserError(f"report {artifact.id!r}: there are no records of its runs")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in planned}
    for run in frame.to_dict("records"):
        groups.setdefault((run[artifact.row], run[artifact.column]), []).append(run)
    rows = tuple(dict.fromkeys(row for row, _ in groups))
    columns = tuple(sorted(dict.fromkeys(column for _, column in groups), key=_task_order))
    cells = tuple(
        make_cell(row, column, groups[row, column], planned.get((row, column)))
        for column in columns
        for row in rows
        if (row, column) in groups
    )
    comparisons = [
        comparison
        for _, column_cells in groupby(cells, key=lambda cell: cell.column)
        for comparison in compare_column(list(column_cells), artifact)
    ]
    comparisons += [
        compare_published(cell, value)
        for cell in cells
        for value in published.get((cell.recipe or recipes.get(cell.row, ""), cell.column), ())
    ]
    footnotes = [
        *deviation_footnotes(deviations),
        *(note for cell in cells for note in cell_footnotes(cell)),
        *(note for column in columns for note in column_footnotes([c for c in cells if c.column == column])),
    ]
    battery = against_first(cells) if artifact.against_first else ()
    return Table(artifact, rows, columns, cells, tuple(comparisons), tuple(footnotes), deviations, battery)


def task_title(name: str) -> str:
    """Returns how a paper writes a task's name; a user's own task keeps its own."""
    return TASKS[name].title if name in TASKS else name


def _task_order(name: str) -> int:
    return list(TASKS).index(name) if name in TASKS else len(TASKS)
