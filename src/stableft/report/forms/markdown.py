"""A `Report` as Markdown for the terminal and for files: aligned grids, prose of a readable width."""

import textwrap
from collections.abc import Iterable, Iterator

from stableft.report.forms.document import RANKS, Block, Bullets, Entry, Grid, Heading, Paragraph, Picture, Report

WIDTH = 110  # of prose; a block of numbers is as wide as it is


def markdown(report: Report, pictures: bool = False) -> str:
    """Returns the report's blocks; its figures, with `pictures`, as links to the .png files beside it."""
    parts = [f"# {_line(report.title)}", *(_block(block, pictures) for block in report.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, pictures: bool) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_line(text)}" if level <= RANKS else _line(text)
        case Paragraph(text):
            return _wrapped(text)
        case Bullets(lines):
            return _bullets(lines)
        case Picture(name, alt):
            return f"![{_line(alt).replace('[', '(').replace(']', ')')}]({name}.png)" if pictures else ""
        case Grid():
            return _grid(block)


def _grid(grid: Grid) -> str:
    rows = [[_text(place) for place in row] for row in (grid.header, *grid.rows)]
    parts = ["\n".join(_aligned(rows)), _wrapped(grid.caption), _bullets(grid.notes)]
    return "\n\n".join(part for part in parts if part)


def _text(place: str | Entry) -> str:
    entry = place if isinstance(place, Entry) else Entry(place)
    text = _line(entry.text).replace("|", "\\|")
    return (f"**{text}**" if entry.bold and text else text) + entry.mark


def _line(text: str) -> str:
    """Returns the text without the line breaks that a figure's title may have."""
    return " ".join(text.splitlines())


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(_wrapped(f"- {line}", indent="  ") for line in lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        numbers = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        yield f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |"
        if number == 0:
            rules = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
            yield f"| {' | '.join(rules)} |"
