"""A report before it has a form: blocks for people, tables, rows for CSV, values for JSON."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportCell:
    """What stands in one place of a grid; `mark` is raised in LaTeX and HTML."""

    text: str
    bold: bool = False
    mark: str = ""  # such as * or †


ReportRow = tuple[str | ReportCell, ...]


@dataclass(frozen=True)
class ReportTable:
    """A table of texts; its first column is names, the others are numbers. Every row is as long as `header`.

    `groups` are headings over the columns after the first, each with how many columns it spans; Markdown, which has
    none, shows `header` alone. `caption` names tests; `notes` are small print below.
    """

    name: str  # of letters, digits and hyphens: LaTeX's label
    header: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    caption: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heading:
    """The title of a section; the report's own title is level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """Where a figure of the report belongs, and what it shows, for those who do not see it."""

    name: str
    alt: str


ReportBlock = Heading | Paragraph | Bullets | ReportTable | Picture


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a report come from."""

    runs: tuple[tuple[str, str, str, int, int], ...] = ()  # arm, task, origin, finished runs, planned runs
    environments: tuple[tuple[str, int], ...] = ()  # device, versions and commit in words, and of how many runs
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """One artefact, or the report of a sweep, ready for every form. `figures` draw when they are called.

    A large figure takes a second to draw: `vectors`, the only part that changes, keeps it for the next page it is on.
    """

    id: str
    title: str
    blocks: tuple[ReportBlock, ...]
    tables: tuple[ReportTable, ...] = ()  # for LaTeX, which may want another layout than the grids of `blocks`
    rows: tuple[Mapping[str, Any], ...] = ()  # for CSV; they may have different keys
    values: Mapping[str, Any] = field(default_factory=dict)  # for JSON
    figures: Mapping[str, Callable[[], "Figure"]] = field(default_factory=dict)
    undrawn: Mapping[str, str] = field(default_factory=dict)  # name of a figure -> why there is nothing to draw
    provenance: Provenance = Provenance()
    vectors: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)  # figures drawn as SVG before


HEADING_LEVELS = 3  # of headings; a title below them, such as that of the notes, is a plain line
SUBROW_PREFIX = "- "  # a row whose name begins so belongs to the row above
CODE_SPAN = re.compile(r"`([^`\n]+)`")


def make_label(text: str) -> str:
    """Returns the text as letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def split_code_spans(text: str) -> list[tuple[str, bool]]:
    """Returns the parts of a text, each with whether it is code, which stands between backticks."""
    return [(part, i % 2 == 1) for i, part in enumerate(CODE_SPAN.split(text)) if part]
