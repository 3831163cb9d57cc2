"""A report as Markdown."""

import re
import textwrap
from collections.abc import Iterable, Iterator

from stableft.report.forms.document import (
    HEADING_LEVELS,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Report,
    ReportBlock,
    ReportTable,
    Value,
)
from stableft.text import strip_controls

MARKUP = re.compile(r"<(?=[A-Za-z/!?])|\](?=[(\[])")  # where a tag or the target of a link begins
LINE_WIDTH = 110  # of prose; tables are not wrapped


def report_to_markdown(report: Report, pictures: bool = False) -> str:
    """Return the report as Markdown. With `pictures`, it shows the .png files of all figures, which are beside it."""
    blocks = report.illustrated_blocks
    if not pictures:
        blocks = [block for block in blocks if not isinstance(block, Picture)]
    parts = [f"# {_table_line(report.title)}", *map(_format_block, blocks)]
    return strip_controls("\n\n".join(part for part in parts if part)) + "\n"


def _format_block(block: ReportBlock) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_table_line(text)}" if level <= HEADING_LEVELS else _table_line(text)
        case Paragraph(text):
            return _wrap(text)
        case Bullets(lines):
            return _format_bullets(lines)
        case Picture(name, alt):
            return f"![{_table_line(alt).replace('[', '(').replace(']', ')')}]({name}.png)"
        case ReportTable():
            return _format_table(block)


def _format_table(table: ReportTable) -> str:
    rows = [[_cell_text(cell) for cell in row] for row in (table.header, *table.rows)]
    parts = ["\n".join(_align_columns(rows)), _wrap(table.caption), _format_bullets(table.notes)]
    return "\n\n".join(part for part in parts if part)


def _cell_text(cell: str | Value) -> str:
    value = cell if isinstance(cell, Value) else Value(cell)
    text = ("- " if value.under else "") + _table_line(value.text).replace("|", "\\|")
    return (f"**{text}**" if value.bold and text else text) + value.mark


def _table_line(text: str) -> str:
    """Return the text on one line. Figure titles may have line breaks."""
    return _escape(" ".join(text.splitlines()))


def _escape(text: str) -> str:
    """Return the text without HTML tags and links, which the name of an arm could bring."""
    return MARKUP.sub(r"\\\g<0>", text)


def _format_bullets(lines: Iterable[str]) -> str:
    return "\n".join(_wrap(f"- {line}", indent="  ") for line in lines)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        _escape(text), LINE_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _align_columns(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        numbers = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        yield f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |"
        if number == 0:
            rules = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
            yield f"| {' | '.join(rules)} |"
