"""Runs and the published values -> a `Table`: cells, comparisons and footnotes, nothing rendered yet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stableft.errors import UserError
from stableft.recipe import deviations
from stableft.report.artifact import Artifact
from stableft.report.battery import Versus, against_first
from stableft.report.cells import Cell, make_cell
from stableft.report.compare import Comparison, compare_column, compare_published
from stableft.report.footnotes import cell_footnotes, column_footnotes, deviation_footnotes
from stableft.report.published import PublishedValue, load_published, printed_for_arm, printed_for_name, printed_for_run
from stableft.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

    from stableft.report.gather import Runs

Places = dict[tuple[str, str], list[dict[str, Any]]]
Published = Mapping[tuple[str, str], Sequence[PublishedValue]]  # arm, task ->


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


def build_table(runs: "Runs") -> Table:
    """Returns the table of stability of an artefact or sweep, beside what the papers print for its settings."""
    places = [place for place, found in runs.by_place.items() if found or place in runs.planned]
    published = {place: printed for place in places if (printed := _printed(runs, place))}
    deviating = {
        place: found
        for place, printed in published.items()
        if (config := runs.configs.get(place)) and (found := deviations(config, printed[0].recipe, printed[0].set))
    }
    return _table(runs.by_place, runs.artifact, published, deviating, runs.planned)


def _printed(runs: "Runs", place: tuple[str, str]) -> tuple[PublishedValue, ...]:
    """Returns what a paper prints for an arm and task: at the artefact's own place, or for the sweep's setting."""
    values, (arm, task) = load_published(), place
    if runs.artifact.printed_at:
        return printed_for_arm(values, *runs.artifact.printed_at, arm, task)
    config = runs.configs.get(place) or runs.plans.get(place)
    return printed_for_run(values, config, runs.recipes[arm]) if config else printed_for_name(values, arm, task)


def build_report(
    frame: "pd.DataFrame",
    artifact: Artifact,
    published: Published,
    deviating: Mapping[tuple[str, str], Sequence[str]] | None = None,
    planned: Mapping[tuple[str, str], int] | None = None,
) -> Table:
    """Returns the table of the runs of a frame.

    `published` has what a paper prints for an arm and task, `deviating` how its runs differ from the paper's
    setting, `planned` how many runs there should be; the order of `planned` is the order of the rows.

    Raises:
        UserError: there is nothing to report, or runs of one cell are scored by different metrics, splits or
            checkpoints.
    """
    planned = planned or {}
    return _table(place_runs(frame, artifact, planned), artifact, published, deviating or {}, planned)


def place_runs(frame: "pd.DataFrame", artifact: Artifact, planned: Iterable[tuple[str, str]]) -> Places:
    """Returns the runs of a frame by row and column of the artefact's table, with the planned places that have none."""
    places: Places = {place: [] for place in planned}
    for run in frame.to_dict("records"):
        places.setdefault((run[artifact.row], run[artifact.column]), []).append(run)  # type: ignore[arg-type]
    return places


def _table(
    groups: Places,
    artifact: Artifact,
    published: Published,
    deviating: Mapping[tuple[str, str], Sequence[str]],
    planned: Mapping[tuple[str, str], int],
) -> Table:
    if not groups:
        raise UserError(f"report {artifact.id!r}: there are no records of its runs")
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
        compare_published(cell, value) for cell in cells for value in published.get((cell.row, cell.column), ())
    ]
    footnotes = [
        *deviation_footnotes(deviating),
        *(
            note
            for cell in cells
            for note in cell_footnotes(cell, others=[c for c in cells if c.column == cell.column])
        ),
        *(note for column in columns for note in column_footnotes([c for c in cells if c.column == column])),
    ]
    battery = against_first(cells) if artifact.against_first else ()
    return Table(artifact, rows, columns, cells, tuple(comparisons), tuple(footnotes), deviating, battery)


def task_title(name: str) -> str:
    """Returns how a paper writes a task's name; a user's own task keeps its own."""
    return TASKS[name].title if name in TASKS else name


def _task_order(name: str) -> int:
    return list(TASKS).index(name) if name in TASKS else len(TASKS)
