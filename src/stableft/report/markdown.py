"""A `Table` as Markdown for the terminal: one aligned block a task, tests and notes below."""

import textwrap
from collections.abc import Iterable, Iterator

from stableft.report import versus, wording
from stableft.report.cells import Cell
from stableft.report.table import Table
from stableft.report.wording import MISSING, percent

WIDTH = 110  # of prose; a block of numbers is as wide as it is
WELCH = (
    "p (Welch): Welch's t-test from summaries (two-sided) of the mean against the published mean, with the n of both "
    "rows less NaN; published numbers are rounded to 0.1."
)


def markdown(table: Table) -> str:
    """Returns the table, its tests and its notes."""
    parts = [f"# {table.artifact.title}"]
    for column in table.columns:
        cells = [cell for cell in table.cells if cell.column == column]
        parts.append(f"## {wording.heading(cells)}")
        parts.append(_rows(table, cells))
        parts.append(_bullets([*_losses(table, cells), *wording.comparison_lines(table, column)]))
        parts += _against_first(table, column)
    if table.battery:
        parts.append(_wrapped(versus.explanation(table)))
    if any(c.published for c in table.comparisons):
        parts.append(_wrapped(WELCH))
    notes = [*table.footnotes, *wording.published_notes(table)]
    if notes:
        parts.append("Notes\n\n" + _bullets(notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _losses(table: Table, cells: list[Cell]) -> list[str]:
    return [line for cell in cells if (line := versus.losses(cell))] if table.artifact.against_first else []


def _against_first(table: Table, column: str) -> list[str]:
    pairs = versus.block(table, column)
    if not pairs:
        return []
    rows = [list(versus.HEADER), *(versus.texts(pair) for pair in pairs)]
    rows = [[row[0].replace("|", "\\|"), *row[1:]] for row in rows]
    notes = [versus.sizes(pairs), *(line for pair in pairs for line in versus.remarks(pair))]
    return [f"### Against {pairs[0].first}", "\n".join(_aligned(rows)), _bullets(notes)]


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(_wrapped(f"- {line}", indent="  ") for line in lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _rows(table: Table, cells: list[Cell]) -> str:
    statistics = table.artifact.statistics
    rows = [["arm", "n", "failed", "95 % Wilson", "crashed", *statistics, "p (Welch)"]]
    for cell in cells:
        values = {name: percent(getattr(cell.summary, name)) for name in statistics}
        if "std" in values:
            values["std"] += ("*" if table.starred(cell) else "") + ("†" if cell.every_run_failed else "")
        counts = [wording.count(cell), wording.failed(cell), wording.wilson(cell), str(cell.crashed)]
        rows.append([cell.row.replace("|", "\\|"), *counts, *values.values(), ""])
        for comparison in table.against_published(cell):
            value, test = comparison.published, comparison.result
            assert value
            printed = [percent(value.fraction(name)) for name in statistics]
            off = [percent(comparison.differences.get(name), sign=True) for name in statistics]
            rows.append([f"- {wording.short(value.place)}", str(value.n), "", "", "", *printed, ""])
            rows.append(["- difference", "", "", "", "", *off, MISSING if test.p is None else f"{test.p:.2g}"])
    if not any(c.published for c in table.comparisons):
        rows = [row[:-1] for row in rows]
    return "\n".join(_aligned(rows))


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        numbers = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        yield f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |"
        if number == 0:
            rules = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
            yield f"| {' | '.join(rules)} |"
