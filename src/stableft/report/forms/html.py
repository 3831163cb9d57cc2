"""Reports as one self-contained HTML file without scripts."""

import base64
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


TEMPLATE_FILE = "report.html.j2"
LONG_CELL = 26  # characters; a longer cell is text and may be wrapped


def reports_to_html(reports: Sequence[Report], title: str) -> str:
    """Return a page with these reports and their figures. Several reports are preceded by a table of contents.

    Equal reports give an equal page.
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
    return {
        "anchor": anchor,
        "title": report.title,
        "blocks": list(_block_contexts(report, rank)),
        "undrawn": list(report.undrawn.items()),
        **_provenance_context(report.provenance),
    }


def _block_contexts(report: Report, rank: int) -> Iterator[dict[str, Any]]:
    """Yield the template values of the report's blocks, followed by those of figures that no block shows."""
    heading, pictured = report.title, set()
    for block in report.blocks:
        if isinstance(block, Heading):
            heading = block.text
        if isinstance(block, Picture):
            pictured.add(block.name)
        yield from _block_context(block, report, rank, heading)
    for name in report.figures:
        if name not in pictured:
            yield from _block_context(Picture(name, f"{report.title}: {name}"), report, rank, heading)


def _block_context(block: ReportBlock, report: Report, rank: int, heading: str) -> Iterator[dict[str, Any]]:
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
            yield {"kind": "picture", "alt": alt, "source": _data_uri(report, name)}
        case ReportTable():
            yield {"kind": "grid", **_table_context(block, heading)}


def _data_uri(report: Report, name: str) -> str:
    from stableft.report.figures.style import figure_to_bytes

    if name not in report.svg_cache:
        report.svg_cache[name] = figure_to_bytes(report.draw(name), "svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(report.svg_cache[name]).decode()}"


def _table_context(table: ReportTable, heading: str) -> dict[str, Any]:
    """Return the template values of a table.

    Without a caption, the heading above it is used as a hidden one, for screen readers.
    """
    return {
        "caption": table.caption or heading,
        "quiet": not table.caption,
        "groups": table.groups,
        "header": table.header,
        "rows": [_row_context(row) for row in table.rows],
        "notes": table.notes,
    }


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
