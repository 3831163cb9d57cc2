"""A report independent of its output format: data tables for machines and blocks for readers.

Every number is a `Value`, computed and formatted once. CSV and JSON contain the `DataTable`s of a report. The tables
for readers are views of them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from stableft.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Value:
    """One cell of a table: `text` for readers, `data` for CSV and JSON (None: missing).

    Scores and shares are fractions in `data` and percent in `text`. `mark`, e.g. * or †, is superscript in LaTeX and
    HTML. `under` marks the label of a row that belongs to the row above, e.g. the published numbers of an arm.
    """

    text: str = ""
    data: Any = None
    bold: bool = False
    mark: str = ""
    under: bool = False


EMPTY = Value()


@dataclass(frozen=True)
class Column:
    """A column of a data table. `title` is its heading for readers, `key` its name in JSON and CSV.

    CSV adds the unit to the name and multiplies values that have a unit by 100, because data are fractions. An
    `interval` is a pair in JSON and two columns in CSV. A column `for_readers` is a text made of others, in neither.
    """

    key: str
    title: str = ""
    unit: Literal["", "percent", "points"] = ""
    interval: bool = False
    for_readers: bool = False


RecordKey = TypeVar("RecordKey", bound=str | Column)
FOR_READERS = "for readers"


@dataclass(frozen=True)
class Row:
    """A row of a data table. `kind` says what its numbers are, e.g. an arm's or published ones.

    A column without a value is an empty cell. Values without a column, e.g. run ids, are written to JSON only. CSV and
    JSON leave out rows of kind `FOR_READERS`.
    """

    kind: str
    values: Mapping[str, Value]

    def __getitem__(self, key: str) -> Value:
        return self.values.get(key, EMPTY)


@dataclass(frozen=True)
class DataTable:
    """All numbers of one kind in a report. `only`: the only format, CSV or JSON, that contains it."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    only: Literal["csv", "json"] | None = None

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[RecordKey, Any]], only: Literal["csv", "json"] | None = None
    ) -> "DataTable":
        """Return a table with a row for each record. The records may have different keys.

        A key is a column, or the name of a column for machines only. Plain data become values without texts.
        """
        records = list(records)
        columns = {key: key if isinstance(key, Column) else Column(key) for record in records for key in record}
        rows = tuple(
            Row("", {columns[key].key: v if isinstance(v, Value) else Value(data=v) for key, v in record.items()})
            for record in records
        )
        return cls(tuple(columns.values()), rows, only)

    def view(
        self,
        name: str,
        keys: Sequence[str] | None = None,
        caption: str = "",
        rows: Sequence[Row] | None = None,
        notes: Sequence[str] = (),
    ) -> "ReportTable":
        """Return the columns `keys` of these rows as a table for readers. None: all columns, all rows."""
        keys = [column.key for column in self.columns] if keys is None else keys
        cells = tuple(tuple(row[key] for key in keys) for row in (self.rows if rows is None else rows))
        return ReportTable(name, self._titles(keys), cells, caption, notes=tuple(notes))

    def pivot(
        self,
        name: str,
        down: str,
        across: str,
        keys: Sequence[str],
        caption: str = "",
        notes: Sequence[str] = (),
        under_by: str = "",
        full_titles: bool = False,
    ) -> "ReportTable":
        """Return a table for readers with a line for each label in `down` and a block of columns for each `across`.

        `keys` are the columns of a block. Rows with the same label share a line. Rows under another row share one only
        if that row's label and their values of `under_by` are the same too. `full_titles` puts the heading of a block
        before the title of each of its columns, for Markdown.
        """
        # Label of a row -> its own line and those under it -> by block. Two tasks may have one title.
        rows_by_parent: dict[str, dict[tuple[Value, str], dict[Value, Row]]] = {}
        parent = ""
        for row in self.rows:
            label = replace(row[down], data=None)
            parent = parent if label.under else label.text
            row_key = (label, str(row[under_by].data) if label.under else "")
            rows_by_parent.setdefault(parent, {}).setdefault(row_key, {})[row[across]] = row
        blocks = list(dict.fromkeys(row[across] for row in self.rows))
        texts = [block.text for block in blocks]
        headings = [block.text if texts.count(block.text) == 1 else f"{block.text} ({block.data})" for block in blocks]
        cells = tuple(
            (label, *(self._pivoted(rows.get(block), label, key) for block in blocks for key in keys))
            for parts in rows_by_parent.values()
            for (label, _), rows in parts.items()
        )
        (title,), titles = self._titles([down]), self._titles(keys)
        if len(keys) == 1:
            return ReportTable(name, (title, *headings), cells, caption, notes=tuple(notes))
        groups = tuple((heading, len(keys)) for heading in headings)
        prefixes = [f"{heading} " if full_titles else "" for heading in headings]
        header = (title, *(prefix + column_title for prefix in prefixes for column_title in titles))
        return ReportTable(name, header, cells, caption, groups, tuple(notes))

    def _titles(self, keys: Sequence[str]) -> tuple[str, ...]:
        titles = {column.key: column.title for column in self.columns}
        return tuple(titles[key] for key in keys)

    @staticmethod
    def _pivoted(row: Row | None, label: Value, key: str) -> Value:
        return row[key] if row else EMPTY if label.under else Value(NO_VALUE)


NO_VALUE = "-"  # text of a missing number
ReportRow = tuple[str | Value, ...]
DrawFigure = Callable[..., "Figure"]  # called with a width in inches or None, which is the default


@dataclass(frozen=True)
class ReportTable:
    """A table for readers. Its first column holds the row labels. Every row is as long as `header`.

    `groups` are (heading, number of columns) pairs over the columns after the first. Markdown has no such headings and
    shows `header` only. `caption` names the tests. `notes` are printed small below the table.
    """

    name: str  # letters, digits and hyphens, for LaTeX's label
    header: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    caption: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def header_below_groups(self) -> tuple[str, ...]:
        """The header without what the headings of the groups above it say."""
        headings = dict(enumerate((heading for heading, n in self.groups for _ in range(n)), 1))
        return tuple(title.removeprefix(f"{headings.get(i, '')} ") for i, title in enumerate(self.header))

    @property
    def spans(self) -> list[tuple[int, int, str]]:
        """The first column, number of columns and heading of each group."""
        starts = accumulate((n for _, n in self.groups), initial=1)
        return [(start, n, heading) for start, (heading, n) in zip(starts, self.groups, strict=False)]


@dataclass(frozen=True)
class Heading:
    """The title of a section. The report's own title has level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class BriefTitle:
    """The title of a table in the terminal, with a text at the right edge."""

    text: str
    right: str = ""


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure by name, at its position in the report, with its alternative text."""

    name: str
    alt: str


ReportBlock = Heading | Paragraph | Bullets | ReportTable | Picture


OWN_ORIGIN = "this project"  # the origin of runs that were not imported


class OriginCount(NamedTuple):
    """The number of runs of an arm on a task that come from one origin."""

    arm: str
    task: str
    origin: str
    finished: int
    planned: int


@dataclass(frozen=True)
class Provenance:
    """The origin of a report's numbers."""

    runs: tuple[OriginCount, ...] = ()
    environments: tuple[tuple[str, int], ...] = ()  # (description, number of runs)
    run_ids: tuple[str, ...] = ()


def provenance_to_json(provenance: Provenance) -> dict[str, Any]:
    """Return the origin of a report's numbers as JSON values."""
    return {
        "runs": [count._asdict() for count in provenance.runs],
        "environments": [{"environment": text, "runs": n} for text, n in provenance.environments],
        "run_ids": list(provenance.run_ids),
    }


@dataclass(frozen=True)
class Report:
    """The report of an artefact or sweep, ready for every format.

    `figures`: name -> function that draws it in a given width in inches. `width` is that of all figures (None: that of
    a page). A large figure takes a second to draw, so `svg_cache`, the only mutable part, keeps its SVG for further
    pages.
    """

    id: str
    title: str
    blocks: tuple[ReportBlock, ...]
    brief: tuple[BriefTitle | ReportBlock, ...] = ()  # for the terminal; empty: the blocks
    arms: tuple[ReportBlock, ...] = ()  # what the arms are, which the terminal shows below `brief` if it has room
    tests: tuple[ReportBlock, ...] = ()  # which the terminal adds to `brief` if asked, like `notes`
    notes: tuple[ReportBlock, ...] = ()
    data: Mapping[str, DataTable] = field(default_factory=dict)  # CSV, JSON
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON: what is not a table, such as notes
    standalone: tuple[ReportTable, ...] = ()  # self-contained tables, for LaTeX; empty: the tables of `blocks`
    figures: Mapping[str, "DrawFigure"] = field(default_factory=dict)
    width: float | None = None
    undrawn: Mapping[str, str] = field(default_factory=dict)  # figure name -> why it cannot be drawn
    of_probes: Collection[str] = ()  # names of figures that need probe records, also of those in `figures`
    provenance: Provenance = Provenance()
    svg_cache: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        """The self-contained tables if there are any, else the tables of `blocks`."""
        return self.standalone or tuple(block for block in self.blocks if isinstance(block, ReportTable))

    @property
    def illustrated_blocks(self) -> tuple[ReportBlock, ...]:
        """The blocks, followed by the figures that none of them shows."""
        shown = {block.name for block in self.blocks if isinstance(block, Picture)}
        return (*self.blocks, *(Picture(name, f"{self.title}: {name}") for name in self.figures if name not in shown))

    def draw(self, name: str | None = None, width: float | None = None) -> "Figure":
        """Return a figure, by default the first; `figures` and `undrawn` have their names.

        `width` is in inches, by default that of the report's figures.

        Raises:
            UserError: The figure is unknown or cannot be drawn.
        """
        draw, inches = self.figures[self.find_figure(name)], width or self.width
        return draw(inches) if inches else draw()

    def find_figure(self, name: str | None = None) -> str:
        """Return the name of a figure that can be drawn, by default that of the first.

        Raises:
            UserError: The figure is unknown or cannot be drawn.
        """
        known = [*self.figures, *self.undrawn]
        if not known:
            raise UserError(f"report {self.id!r} is a table, it has no figure")
        name = name or known[0]
        if name in self.figures:
            return name
        if why := self.undrawn.get(name):
            raise UserError(f"report {self.id!r}: cannot draw {name}: {why}")
        if name in self.of_probes:
            raise UserError(f"report {self.id!r}: cannot draw {name}: its runs have no probe records")
        raise UserError(f"--figure {name}: report {self.id!r} has {', '.join(known)}{did_you_mean(name, self.figures)}")

    def __str__(self) -> str:
        """Return what the terminal shows."""
        from stableft.report.forms.terminal import report_to_text

        return report_to_text(self).rstrip("\n")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the HTML page in a frame, which keeps its style to itself."""
        from html import escape

        from stableft.report.forms.html import reports_to_html

        page = escape(reports_to_html([self], self.title))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


HEADING_LEVELS = 3  # a title of a lower level, such as that of the notes, is a plain line
CODE_SPAN = re.compile(r"`([^`\n]+)`")


def make_label(text: str) -> str:
    """Return the text with every character except letters, digits and hyphens replaced by a hyphen."""
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def split_code_spans(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text as (part, is code) pairs. Code is enclosed in backticks."""
    return [(part, i % 2 == 1) for i, part in enumerate(CODE_SPAN.split(text)) if part]
