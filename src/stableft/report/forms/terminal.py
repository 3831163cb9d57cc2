"""A report as plain text for the terminal: the answer on one screen, tests and notes only if asked for."""

import textwrap
from collections.abc import Iterator

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
from stableft.report.forms.markdown import report_to_markdown

SCREEN_WIDTH = 100
_GAP = "  "


def report_to_text(report: Report, tests: bool = False, notes: bool = False) -> str:
    """Return the report for the terminal, with its tests or notes on request; as Markdown if it has no brief form."""
    if not report.brief:
        return report_to_markdown(report)
    blocks = [*report.brief, *(report.tests if tests else ()), *(report.notes if notes else ())]
    return "\n".join(line for block in blocks for line in _lines(block)).strip("\n") + "\n"


def _lines(block: BriefTitle | ReportBlock) -> Iterator[str]:
    match block:
        case BriefTitle(text, right):
            yield ""
            fits = len(text) + len(right) + 2 <= SCREEN_WIDTH
            yield from [text + right.rjust(SCREEN_WIDTH - len(text)) if right else text] if fits else [text, right]
        case Heading(text):
            yield from ["", text]
        case Paragraph(text):
            yield from _wrap(text)
        case Bullets(lines):
            for line in lines:
                yield from _wrap(f"- {line}", indent="  ")
        case ReportTable():
            yield from _table_lines(block)
            yield from _wrap(block.caption)
            for line in block.notes:
                yield from _wrap(f"- {line}", indent="  ")
        case Picture():
            pass


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, SCREEN_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table_lines(table: ReportTable) -> Iterator[str]:
    """Yield the header, below its groups, and the rows. Labels are aligned to the left, and so are texts."""
    rows = [[_cell_text(cell) for cell in row] for row in (table.header, *table.rows)]
    spans = _group_spans(table)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for start, n, heading in spans:  # a heading wider than its columns widens the last one
        width = sum(widths[start : start + n]) + len(_GAP) * (n - 1)
        widths[start + n - 1] += max(0, len(heading) - width)
    if spans:
        line = " " * widths[0]
        for start, n, heading in spans:
            line += _GAP + heading.ljust(sum(widths[start : start + n]) + len(_GAP) * (n - 1))
        yield line.rstrip()
    right = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]
    for row in rows:
        cells = (text.rjust(w) if number else text.ljust(w) for text, w, number in zip(row, widths, right, strict=True))
        yield _GAP.join(cells).rstrip()


def _group_spans(table: ReportTable) -> list[tuple[int, int, str]]:
    """Return the first column, number of columns and heading of each group."""
    spans, start = [], 1
    for heading, n in table.groups:
        spans.append((start, n, heading))
        start += n
    return spans


def _is_number(text: str) -> bool:
    return not text or (text[0] in "+-0123456789<." and " " not in text)


def _cell_text(cell: str | Value) -> str:
    value = cell if isinstance(cell, Value) else Value(cell)
    return ("- " if value.under else "") + " ".join(value.text.splitlines()) + value.mark
