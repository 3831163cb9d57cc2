"""A report before it has a form: typed data for machines, blocks for people.

Every number is a `Value`, computed and worded once. CSV and JSON write the `DataTable`s of a report; the tables that
people read are views of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Value:
    """One place of a table: `text` for people, `data` for CSV and JSON (None: missing).

    Scores and shares are fractions in `data` and percent in `text`. `mark`, such as * or †, is raised in LaTeX and
    HTML. `under` marks the name of a row that belongs to the row above, such as the published numbers of an arm.
    """

    text: str = ""
    data: Any = None
    bold: bool = False
    mark: str = ""
    under: bool = False


EMPTY = Value()


@dataclass(frozen=True)
class Column:
    """A column of a data table: `title` heads it for people; `key`, with the unit in CSV, names it for machines.

    CSV multiplies what has a unit by 100, because data are fractions. An `interval` is a pair in JSON and two columns
    in CSV.
    """

    key: str
    title: str = ""
    unit: Literal["", "percent", "points"] = ""
    interval: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a data table. `kind` says what its numbers are, such as an arm's or published ones.

    A key without a value is an empty place; JSON alone has values whose key is not a column's, such as run ids.
    """

    kind: str
    values: Mapping[str, Value]

    def __getitem__(self, key: str) -> Value:
        return self.values.get(key, EMPTY)


@dataclass(frozen=True)
class DataTable:
    """All numbers of one kind in a report. `only`: the one machine form that needs it."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    only: Literal["csv", "json"] | None = None

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], only: Literal["csv", "json"] | None = None
    ) -> "DataTable":
        """Return the table of plain rows, which no view shows; they may have different keys."""
        rows = tuple(Row("", {key: Value(data=data) for key, data in record.items()}) for record in records)
        return cls(tuple(Column(key) for key in dict.fromkeys(key for row in rows for key in row.values)), rows, only)

    def view(
        self,
        name: str,
        keys: Sequence[str],
        caption: str = "",
        rows: Sequence[Row] | None = None,
        notes: Sequence[str] = (),
    ) -> "ReportTable":
        """Return the columns `keys` of these rows (None: of all), as people read them."""
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
    ) -> "ReportTable":
        """Return the columns `keys` side by side for each value of `across`, with the names of `down` below each other.

        Rows of one name share a line; those under another row only if that has one name too, and one value of
        `under_by`.
        """
        rows_by_parent: dict[str, dict[tuple[Value, str], dict[str, Row]]] = {}  # name of a row -> the lines under it
        parent = ""
        for row in self.rows:
            label = replace(row[down], data=None)
            parent = parent if label.under else label.text
            row_key = (label, str(row[under_by].data) if label.under else "")
            rows_by_parent.setdefault(parent, {}).setdefault(row_key, {})[row[across].text] = row
        blocks = list(dict.fromkeys(row[across].text for row in self.rows))
        cells = tuple(
            (label, *(self._pivoted(rows.get(block), label, key) for block in blocks for key in keys))
            for parts in rows_by_parent.values()
            for (label, _), rows in parts.items()
        )
        (title,), titles = self._titles([down]), self._titles(keys)
        if len(keys) == 1:
            return ReportTable(name, (title, *blocks), cells, caption, notes=tuple(notes))
        groups = tuple((block, len(keys)) for block in blocks)
        return ReportTable(name, (title, *titles * len(blocks)), cells, caption, groups, tuple(notes))

    def _titles(self, keys: Sequence[str]) -> tuple[str, ...]:
        titles = {column.key: column.title for column in self.columns}
        return tuple(titles[key] for key in keys)

    @staticmethod
    def _pivoted(row: Row | None, label: Value, key: str) -> Value:
        return row[key] if row else EMPTY if label.under else Value(NO_VALUE)


NO_VALUE = "-"  # text of a number that is missing
ReportRow = tuple[str | Value, ...]


@dataclass(frozen=True)
class ReportTable:
    """A table as people read it; its first column is names. Every row is as long as `header`.

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
    """The place of a figure in the report, and what it shows, for those who do not see it."""

    name: str
    alt: str


ReportBlock = Heading | Paragraph | Bullets | ReportTable | Picture


OWN_ORIGIN = "this project"  # the origin of runs that were not imported


class OriginCount(NamedTuple):
    """How many runs of an arm on a task come from one origin."""

    arm: str
    task: str
    origin: str
    finished: int
    planned: int


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a report come from."""

    runs: tuple[OriginCount, ...] = ()
    environments: tuple[tuple[str, int], ...] = ()  # device, versions and commit in words, and of how many runs
    run_ids: tuple[str, ...] = ()


def provenance_to_json(provenance: Provenance) -> dict[str, Any]:
    """Return where a report's numbers come from as JSON values."""
    return {
        "runs": [count._asdict() for count in provenance.runs],
        "environments": [{"environment": text, "runs": n} for text, n in provenance.environments],
        "run_ids": list(provenance.run_ids),
    }


@dataclass(frozen=True)
class Report:
    """One artefact, or the report of a sweep, ready for every form. `figures` draw when they are called.

    A large figure takes a second to draw: `svg_cache`, the only part that changes, keeps it for the next page.
    """

    id: str
    title: str
    blocks: tuple[ReportBlock, ...]
    data: Mapping[str, DataTable] = field(default_factory=dict)  # CSV, JSON
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON: what is not a table, such as notes
    standalone: tuple[ReportTable, ...] = ()  # for a reader of nothing else, as in LaTeX; empty: the tables of `blocks`
    figures: Mapping[str, Callable[[], "Figure"]] = field(default_factory=dict)
    undrawn: Mapping[str, str] = field(default_factory=dict)  # name of a figure -> why there is nothing to draw
    provenance: Provenance = Provenance()
    svg_cache: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        """The tables with all that a reader who sees nothing else must know."""
        return self.standalone or tuple(block for block in self.blocks if isinstance(block, ReportTable))


HEADING_LEVELS = 3  # of headings; a title below them, such as that of the notes, is a plain line
CODE_SPAN = re.compile(r"`([^`\n]+)`")


def make_label(text: str) -> str:
    """Return the text with a hyphen for all but letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def split_code_spans(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text, each with whether it is code, which stands between backticks."""
    return [(part, i % 2 == 1) for i, part in enumerate(CODE_SPAN.split(text)) if part]
