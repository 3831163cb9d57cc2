"""A report as plain text for the terminal: the answer on one screen, tests and notes only if asked for."""

from collections.abc import Iterator, Sequence

from stableft.report.forms.document import (
    BriefTitle,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Report,
    ReportBlock,
    ReportTable,
    Value,
)
from stableft.text import SCREEN_WIDTH, ColumnsPart, fit_columns, screen_width, strip_controls, wrap_prose

_GAP = "  "
SCREEN_LINES = 24  # of the smallest usual terminal, with the prompt


def report_to_text(report: Report, tests: bool = False, notes: bool = False) -> str:
    """Return the report for the terminal, with its tests or notes on request; all of it if it has no brief form.

    What the arms are is left out if the report would not fit one screen with it, unless the notes are requested.
    """
    if not report.brief:
        title = BriefTitle(" ".join(report.title.splitlines()))
        texts = ("\n".join(_lines(block)).strip("\n") for block in (title, *report.blocks))
        return strip_controls("\n\n".join(filter(None, texts))) + "\n"
    brief, arms, more = (
        [line for block in blocks for line in _lines(block)]
        for blocks in (report.brief, report.arms, (*(report.tests if tests else ()), *(report.notes if notes else ())))
    )
    shown = arms if notes or len(brief) + len(arms) < SCREEN_LINES else []
    return strip_controls("\n".join([*brief, *shown, *more]).strip("\n")) + "\n"


def _lines(block: BriefTitle | ReportBlock) -> Iterator[str]:
    match block:
        case BriefTitle(text, right):
            yield ""
            width = min(SCREEN_WIDTH, screen_width())
            fits = right and len(text) + len(right) + 2 <= width
            yield from [text + right.rjust(width - len(text))] if fits else [*wrap_prose(text), *wrap_prose(right)]
        case Heading(text):
            yield from ["", *wrap_prose(text)]
        case Paragraph(text):
            yield from wrap_prose(text)
        case Bullets(lines):
            for line in lines:
                yield from wrap_prose(f"- {line}", indent="  ")
        case ReportTable():
            yield from _table_lines(block)
            yield from wrap_prose(block.caption)
            for line in block.notes:
                yield from wrap_prose(f"- {line}", indent="  ")
        case Picture():
            pass


def _table_lines(table: ReportTable) -> Iterator[str]:
    """Yield the header, below its groups, and the rows, in several parts if the table is wider than the screen.

    Labels are aligned to the left, and so are texts.
    """
    rows = [[_cell_text(cell) for cell in row] for row in (table.header_below_groups, *table.rows)]
    right = {i for i in range(len(rows[0])) if all(_is_number(row[i]) for row in rows[1:])}
    spans = table.spans
    for number, part in enumerate(fit_columns(rows, screen_width(), len(_GAP), spans=spans)):
        yield from [""] if number else []
        yield from _group_lines(spans, part)
        yield from part.lines(rows, right, _GAP)


def _group_lines(spans: Sequence[tuple[int, int, str]], part: ColumnsPart) -> Iterator[str]:
    """Yield the lines of the headings above the columns of this part."""
    cells = [("", int(part.widths[0]))]
    for start, n, heading in spans:
        widths = [int(w) for i, w in zip(part.columns, part.widths, strict=True) if start <= i < start + n]
        if widths:
            cells.append((heading, sum(widths) + len(_GAP) * (len(widths) - 1)))
    if len(cells) > 1:
        headings = ColumnsPart(tuple(range(len(cells))), tuple(width for _, width in cells))
        yield from headings.lines([[text for text, _ in cells]], gap=_GAP)


def _is_number(text: str) -> bool:
    return not text or (text[0] in "+-0123456789<." and " " not in text)


def _cell_text(cell: str | Value) -> str:
    value = cell if isinstance(cell, Value) else Value(cell)
    text = ("- " if value.under else "") + " ".join(value.text.splitlines())
    return (f"**{text}**" if value.bold and text else text) + value.mark
