"""A `Table` of stability -> its `Report`: a block for each task, every arm against the first, tests and notes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from stableft.report import versus, wording
from stableft.report.blocks import Block, Bullets, Entry, Grid, Heading, Paragraph, Picture, Provenance, Report, Row
from stableft.report.cells import Cell
from stableft.report.compare import Comparison
from stableft.report.conventions import PART, RANKS, label
from stableft.report.probe_figures import PROBED
from stableft.report.stability_data import report_values, rows
from stableft.report.table import Table, task_title
from stableft.report.watched import watch_blocks, watch_grids
from stableft.report.wording import MISSING, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WELCH = (
    "compatible (p): whether p is at least .05 in Welch's t-test from summaries (two-sided) of the mean against the "
    "published mean, with the n of both rows less NaN; published numbers are rounded to 0.1."
)
COMPATIBLE = "Compatible: the mean against the published mean by Welch's t-test from summaries (two-sided)."
NOTES = Heading("Notes", RANKS + 1)  # of all that stands above, whatever its rank
FIRST = "scores"  # the figure that stands above the tables; the others stand below


def stability_report(
    table: Table,
    figures: "Mapping[str, Callable[[], Figure]] | None" = None,
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Returns the report of a table of stability with these figures, by name, and notes below its own."""
    figures = figures or {}
    return Report(
        id=table.artifact.id,
        title=table.artifact.title,
        blocks=tuple(_blocks(table, figures, notes)),
        tables=(
            _wide(table),
            *(_against_first_alone(table, column) for column in _compared(table)),
            *watch_grids(table, alone=True),
        ),
        rows=tuple(rows(table)),
        values=report_values(table),
        figures=figures,
        provenance=provenance or Provenance(),
    )


def _blocks(table: Table, figures: Mapping[str, object], more: Sequence[str]) -> Iterator[Block]:
    if FIRST in figures:
        yield Picture(FIRST, _alt(table, FIRST))
    for column in table.columns:
        cells = _cells(table, column)
        yield Heading(wording.heading(cells))
        yield _narrow(table, column)
        yield Bullets((*_losses(table, column), *wording.comparison_lines(table, column)))
        if column in _compared(table):
            pairs = versus.block(table, column)
            yield Heading(f"Against {pairs[0].first}", 3)
            yield _against_first(table, column)
            yield Bullets((versus.sizes(pairs), *(line for pair in pairs for line in versus.remarks(pair))))
    if table.battery:
        yield Paragraph(versus.explanation(table))
    if _any_published(table):
        yield Paragraph(WELCH)
    yield from watch_blocks(table)
    yield from (Picture(name, _alt(table, name)) for name in figures if name != FIRST)
    if notes := (*table.footnotes, *wording.published_notes(table), *more):
        yield NOTES
        yield Bullets(notes)


def _alt(table: Table, name: str) -> str:
    """Returns what a figure shows, for those who do not see it."""
    what = {
        FIRST: "The score of every run and a box for each arm",
        "training-loss": "The training loss of every run over its optimizer steps, failed runs apart",
        "training-curves": "Training loss and validation score over the optimizer steps, mean and standard deviation, "
        "failed runs apart",
        **PROBED,
    }.get(name, name)
    columns = (f"{task_title(column)} ({', '.join(_failed(table, column))})" for column in table.columns)
    return f"{what}: {'; '.join(columns)}."


def _failed(table: Table, column: str) -> Iterator[str]:
    return (f"{cell.row} {wording.failed(cell)} failed" for cell in _cells(table, column))


def _cells(table: Table, column: str) -> list[Cell]:
    return [cell for cell in table.cells if cell.column == column]


def _compared(table: Table) -> list[str]:
    """Returns the columns whose arms are compared with their first."""
    return [column for column in table.columns if versus.block(table, column)]


def _any_published(table: Table) -> bool:
    return any(comparison.published for comparison in table.comparisons)


def _losses(table: Table, column: str) -> list[str]:
    found = _cells(table, column) if table.artifact.against_first else []
    return [line for cell in found if (line := versus.losses(cell))]


def _narrow(table: Table, column: str) -> Grid:
    """Returns the arms of a column, each above what is printed for its setting."""
    header = ("arm", "n", "failed", "95 % Wilson", "crashed", *table.artifact.statistics, "compatible (p)")
    found = [row for cell in _cells(table, column) for row in _narrow_rows(table, cell)]
    if not _any_published(table):
        header, found = header[:-1], [row[:-1] for row in found]
    return Grid(label(f"{table.artifact.id}-{column}"), header, tuple(found))


def _narrow_rows(table: Table, cell: Cell) -> Iterator[Row]:
    counts = (wording.count(cell), wording.failed(cell), wording.wilson(cell), str(cell.crashed))
    yield (cell.row, *counts, *_statistics(table, cell), "")
    for comparison in table.against_published(cell):
        value = comparison.published
        assert value
        yield (f"{PART}{wording.short(value.place)}", str(value.n), "", "", "", *_printed(table, comparison), "")
        compatible = wording.compatible(comparison.result)
        yield (f"{PART}difference", "", "", "", "", *_differences(table, comparison), compatible)


def _statistics(table: Table, cell: Cell) -> Iterator[str | Entry]:
    for name in table.artifact.statistics:
        text = percent(getattr(cell.summary, name))
        mark = ("*" if table.starred(cell) else "") + ("†" if cell.every_run_failed else "")
        yield Entry(text, mark=mark) if name == "std" and mark else text


def _printed(table: Table, comparison: Comparison) -> list[str]:
    assert comparison.published
    return [percent(comparison.published.fraction(name)) for name in table.artifact.statistics]


def _differences(table: Table, comparison: Comparison) -> list[str]:
    return [percent(comparison.differences.get(name), sign=True) for name in table.artifact.statistics]


def _against_first(table: Table, column: str, caption: str = "", notes: tuple[str, ...] = ()) -> Grid:
    found = tuple(tuple(versus.texts(pair)) for pair in versus.block(table, column))
    return Grid(label(f"{table.artifact.id}-{column}-against-first"), versus.HEADER, found, caption, notes=notes)


def _against_first_alone(table: Table, column: str) -> Grid:
    """Returns the comparisons of a column with all that a reader who sees nothing else must know."""
    pairs = versus.block(table, column)
    remarks = (f"{line}." for pair in pairs for line in versus.remarks(pair))
    caption = f"{task_title(column)}: every arm against {pairs[0].first}."
    return _against_first(table, column, caption, (versus.explanation(table), versus.sizes(pairs), *remarks))


def _wide(table: Table) -> Grid:
    """Returns the table in the shape of M Table 1: arms down, tasks across."""
    fields = ("n", "failed", *table.artifact.statistics)
    return Grid(
        name=label(table.artifact.id),
        header=("Approach", *(fields * len(table.columns))),
        rows=tuple(row for arm in table.rows for row in _wide_rows(table, arm)),
        caption=_caption(table),
        groups=tuple((task_title(column), len(fields)) for column in table.columns),
        notes=tuple(_small_print(table)),
    )


def _wide_rows(table: Table, arm: str) -> Iterator[Row]:
    cells = [table.cell(arm, column) for column in table.columns]
    yield (arm, *(place for cell in cells for place in _wide_places(table, cell)))
    found = [
        {c.published.place: c for c in table.against_published(cell) if c.published} if cell else {} for cell in cells
    ]
    for place in dict.fromkeys(place for by_place in found for place in by_place):
        here = [by_place.get(place) for by_place in found]
        empty = [""] * (2 + len(table.artifact.statistics))
        theirs = [[str(c.published.n), "", *_printed(table, c)] if c and c.published else empty for c in here]
        differences = [["", "", *_differences(table, c)] if c else empty for c in here]
        yield (f"{PART}{wording.short(place)}", *(text for texts in theirs for text in texts))
        yield (f"{PART}difference", *(text for texts in differences for text in texts))
        verdicts = [[wording.compatible(c.result) if c else "", *empty[1:]] for c in here]
        yield (f"{PART}compatible at .05 (p)", *(text for texts in verdicts for text in texts))


def _wide_places(table: Table, cell: Cell | None) -> list[str | Entry]:
    if cell is None:
        return [MISSING] * (2 + len(table.artifact.statistics))
    return [wording.count(cell), wording.failed(cell), *_statistics(table, cell)]


def _caption(table: Table) -> str:
    alpha, center = table.artifact.alpha, table.artifact.center
    return (
        f"{table.artifact.title}. Percent; std over seeds (ddof 1); failed k/n. "
        f"* p < {alpha:g} by Levene's test (centre {center}) of the smallest against the second smallest std."
        + (f" {COMPATIBLE}" if _any_published(table) else "")
    )


def _small_print(table: Table) -> Iterator[str]:
    """Yields the tests in full, and what a reader must know."""
    for column in table.columns:
        yield from (f"{task_title(column)}: {line}." for line in wording.comparison_lines(table, column))
    for column in table.columns:
        yield from (f"{task_title(column)}: {line}." for line in _losses(table, column))
    yield from table.footnotes
