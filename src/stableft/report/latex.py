"""A `Table` as a LaTeX table with booktabs, in the shape of M Table 1: arms down, tasks across, percent."""

import re
from collections.abc import Iterator

from stableft.report import versus, wording
from stableft.report.cells import Cell
from stableft.report.table import Table, task_title
from stableft.report.wording import percent

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "*": r"$\star$",
}


def latex(table: Table) -> str:
    """Returns a table environment that needs the booktabs package, and one for each comparison with a first arm."""
    parts = [_main(table), *(_against_first(table, column) for column in table.columns if versus.block(table, column))]
    return "\n".join(parts)


def _main(table: Table) -> str:
    fields = ("n", "failed", *table.artifact.statistics)
    groups = [rf"\multicolumn{{{len(fields)}}}{{c}}{{{escape(task_title(column))}}}" for column in table.columns]
    first = [2 + i * len(fields) for i in range(len(table.columns))]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(table)}}}",
        rf"\label{{tab:{_label(table.artifact.id)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(fields) * len(table.columns)}}}",
        r"\toprule",
        rf" & {' & '.join(groups)} \\",
        "".join(rf"\cmidrule(lr){{{start}-{start + len(fields) - 1}}}" for start in first),
        rf"Approach & {' & '.join([*fields] * len(table.columns))} \\",
        r"\midrule",
        *(line for row in table.rows for line in _rows(table, row)),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {escape(note)}" for note in _notes(table)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _against_first(table: Table, column: str) -> str:
    pairs = versus.block(table, column)
    notes = [
        versus.explanation(table),
        versus.sizes(pairs),
        *(f"{line}." for pair in pairs for line in versus.remarks(pair)),
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(f'{task_title(column)}: every arm against {pairs[0].first}.')}}}",
        rf"\label{{tab:{_label(f'{table.artifact.id}-{column}-against-first')}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(versus.HEADER) - 1)}}}",
        r"\toprule",
        _line(versus.HEADER[0], [escape(name) for name in versus.HEADER[1:]]),
        r"\midrule",
        *(_line(escape(arm), [escape(text) for text in rest]) for arm, *rest in map(versus.texts, pairs)),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {escape(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def escape(text: str) -> str:
    """Returns the text with every character that LaTeX would act on made printable."""
    return "".join(ESCAPES.get(character, character) for character in text)


def _rows(table: Table, row: str) -> Iterator[str]:
    cells = [table.cell(row, column) for column in table.columns]
    yield _line(escape(row), [text for cell in cells for text in _ours(table, cell)])
    against = [comparison for cell in cells if cell for comparison in table.against_published(cell)]
    places = dict.fromkeys(comparison.published.place for comparison in against if comparison.published)
    for place in places:
        theirs = [_theirs(table, cell, place) for cell in cells]
        yield _line(rf"\quad {escape(wording.short(place))}", [text for printed, _ in theirs for text in printed])
        yield _line(r"\quad difference", [text for _, differences in theirs for text in differences])


def _line(name: str, texts: list[str]) -> str:
    return rf"{name} & {' & '.join(texts)} \\"


def _ours(table: Table, cell: Cell | None) -> list[str]:
    statistics = table.artifact.statistics
    if cell is None:
        return [wording.MISSING] * (2 + len(statistics))
    values = {name: percent(getattr(cell.summary, name)) for name in statistics}
    if "std" in values:
        values["std"] += (r"$^\star$" if table.starred(cell) else "") + (r"$^\dagger$" if cell.every_run_failed else "")
    return [escape(wording.count(cell)), wording.failed(cell), *values.values()]


def _theirs(table: Table, cell: Cell | None, place: str) -> tuple[list[str], list[str]]:
    """Returns what is printed at that place for the cell, and the cell's differences to it."""
    statistics = table.artifact.statistics
    for comparison in table.against_published(cell) if cell else ():
        value = comparison.published
        if value and value.place == place:
            printed = [percent(value.fraction(name)) for name in statistics]
            differences = [percent(comparison.differences.get(name), sign=True) for name in statistics]
            return [str(value.n), "", *printed], ["", "", *differences]
    empty = [""] * (2 + len(statistics))
    return empty, empty


def _caption(table: Table) -> str:
    alpha, center = table.artifact.alpha, table.artifact.center
    parts = [
        f"{table.artifact.title}. Percent; std over seeds (ddof 1); failed k/n.",
        f"* p < {alpha:g} by Levene's test (centre {center}) of the smallest against the second smallest std.",
    ]
    return escape(" ".join(parts))


def _notes(table: Table) -> Iterator[str]:
    """Yields what stands in small print below the table: the tests in full, and what a reader must know."""
    for column in table.columns:
        for line in wording.comparison_lines(table, column):
            yield f"{task_title(column)}: {line}."
    for cell in table.cells if table.artifact.against_first else ():
        if line := versus.losses(cell):
            yield f"{task_title(cell.column)}: {line}."
    yield from table.footnotes
