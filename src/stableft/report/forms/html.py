"""Reports as one self-contained HTML file without scripts."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from stableft.catalog.tasks import task_title
from stableft.report.forms.document import (
    HEADING_LEVELS,
    OWN_ORIGIN,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportRow,
    ReportTable,
    Value,
    make_label,
    split_code_spans,
)
from stableft.text import glue

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


TEMPLATE_FILE = "report.html.j2"
# Characters of a row of the widest cells, above which a table is printed in smaller type, and in the smallest; and up
# to which its cells stay whole in that.
WIDE_TABLE, WIDEST_TABLE, WHOLE_TABLE = 110, 135, 150
LONG_CELL = 26  # characters; a longer cell is text and may be wrapped


def reports_to_html(reports: Sequence[Report], title: str) -> str:
    """Return a page with these reports and their figures.

    Several reports are preceded by a front page: for each its title, its first figure, small, and its verdict. Equal
    reports give an equal page.
    """
    rank = 1 if len(reports) == 1 else 2  # heading level of a report's own title
    anchors = ["contents"]
    for report in reports:
        anchors.append(_new_anchor(make_label(report.id), anchors))
    contexts = [_report_context(report, anchor, rank) for report, anchor in zip(reports, anchors[1:], strict=True)]
    return _template().render(title=title, reports=contexts, rank=rank).strip() + "\n"


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    source = resources.files("stableft.report.forms").joinpath(TEMPLATE_FILE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["prose"] = html_prose
    environment.filters["glue"] = glue
    return environment.from_string(source)


def html_prose(text: str) -> "Markup":
    """Return the escaped text, with text in backticks as code."""
    from markupsafe import Markup

    parts = split_code_spans(text)
    return Markup().join(Markup("<code>{}</code>").format(part) if code else part for part, code in parts)


def _new_anchor(name: str, taken: Sequence[str]) -> str:
    number = 1
    while (anchor := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return anchor


def _report_context(report: Report, anchor: str, rank: int) -> dict[str, Any]:
    blocks = list(_block_contexts(report, anchor, rank))
    return {
        "anchor": anchor,
        "title": report.title,
        "first_picture": next((block["picture"] for block in blocks if block["kind"] == "picture"), None),
        "first_table": next((block for block in blocks if block["kind"] == "grid"), None),
        "verdicts": list(_verdicts(report)),
        "blocks": blocks,
        "undrawn": list(report.undrawn.items()),
        **_provenance_context(report.provenance),
    }


def _verdicts(report: Report) -> Iterator[str]:
    """Yield what the front page says of a report: the answers in words, how the published means fit, and its runs."""
    words: dict[str, str] = report.facts.get("in_words") or {}
    yield from (f"{task_title(task)}: {text}" if len(words) > 1 else text for task, text in words.items())
    cells = report.data["cells"].rows if "cells" in report.data else ()
    fits = [row["compatible"].data for row in cells if row["compatible"].data in (True, False)]
    if fits:
        yield f"{sum(fits)} of {len(fits)} means are compatible with the published ones."
    if n := sum(count.finished for count in report.provenance.runs):
        own = sum(count.finished for count in report.provenance.runs if count.origin == OWN_ORIGIN)
        yield f"{n:,} runs" + ("" if own == n else f", {n - own:,} of them imported" if own else ", all imported") + "."


def _block_contexts(report: Report, anchor: str, rank: int) -> Iterator[dict[str, Any]]:
    """Yield the template values of the report's blocks and figures."""
    heading = report.title
    for block in report.illustrated_blocks:
        if isinstance(block, Heading):
            heading = block.text
        yield from _block_context(block, report, anchor, rank, heading)


def _block_context(
    block: ReportBlock, report: Report, anchor: str, rank: int, heading: str
) -> Iterator[dict[str, Any]]:
    match block:
        case Heading(text, level):
            yield {
                "kind": "heading",
                "text": text,
                "rank": rank + min(level, HEADING_LEVELS) - 1,
                "plain": level > HEADING_LEVELS,
            }
        case Paragraph(text):
            yield {"kind": "paragraph", "text": text}
        case Bullets(lines):
            yield {"kind": "bullets", "lines": lines}
        case Picture(name, alt) if name in report.figures:
            yield {"kind": "picture", "alt": alt, "picture": _inline_svg(report, name, f"{anchor}-{make_label(name)}")}
        case ReportTable():
            yield {"kind": "grid", **_table_context(block, heading)}


def _inline_svg(report: Report, name: str, prefix: str) -> dict[str, Any]:
    """Return the id, size and contents of a figure for use within the page, where the titles of its points show.

    Every id gets the prefix, because the figures of a page would otherwise share some.
    """
    from markupsafe import Markup

    from stableft.report.figures.style import figure_to_bytes

    if name not in report.svg_cache:
        report.svg_cache[name] = figure_to_bytes(report.draw(name), "svg")
    svg = report.svg_cache[name].decode()
    root = re.search(r"<svg\b[^>]*>", svg)
    assert root
    contents = re.sub(r"<metadata>.*?</metadata>", "", svg[root.end() : svg.rindex("</svg>")], flags=re.DOTALL)
    contents = re.sub(r"(<style[^>]*>)\*", r"\1.figure *", contents)  # its rules are for the figure alone
    contents = re.sub(r"""(\bid="|href="#|url\(#)""", rf"\1{prefix}-", contents)
    size = re.search(r'viewBox="([^"]*)"', root[0])
    assert size
    return {"id": prefix, "size": size[1], "width": size[1].split()[2], "contents": Markup(contents.strip())}


def _table_context(table: ReportTable, heading: str) -> dict[str, Any]:
    """Return the template values of a table.

    Without a caption, the heading above it is used as a hidden one, for screen readers.
    """
    width = sum(max(map(_cell_length, column)) for column in zip(table.header, *table.rows, strict=True))
    return {
        "caption": table.caption or heading,
        "quiet": not table.caption,
        "print": _print_classes(width),
        "groups": table.groups,
        "header": table.header_below_groups,
        "rows": [_row_context(row) for row in table.rows],
        "notes": table.notes,
    }


def _print_classes(width: int) -> str:
    """Return the classes of a table of so many characters."""
    if width <= WIDE_TABLE:
        return ""
    return " wide" + " widest" * (width > WIDEST_TABLE) + " whole" * (width <= WHOLE_TABLE)


def _cell_length(cell: str | Value) -> int:
    return len(cell.text if isinstance(cell, Value) else cell)


def _row_context(row: ReportRow) -> dict[str, Any]:
    name, *cells = (cell if isinstance(cell, Value) else Value(cell) for cell in row)
    return {
        "name": name,
        "part": name.under,
        "cells": [(value, len(value.text) > LONG_CELL) for value in cells],
    }


def _provenance_context(provenance: Provenance) -> dict[str, Any]:
    return {
        "runs": [count._asdict() | {"own": count.origin == OWN_ORIGIN} for count in provenance.runs],
        "environments": provenance.environments,
        "run_ids": provenance.run_ids,
    }
