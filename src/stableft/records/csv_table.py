"""A CSV or TSV file: columns by name, rows with line numbers, options that map columns to run fields."""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stableft.config.run_config import Checkpoint, Split
from stableft.errors import UserError, did_you_mean
from stableft.records.import_runs import RunKey, ScoreScale, find_known_task, parse_whole_number

DELIMITERS = {".csv": ",", ".tsv": "\t"}
UNNAMED_COLUMN = re.compile(r"(Unnamed: \d+)?")  # pandas calls a column so that has no name
CsvRow = tuple[int, list[str]]  # the line on which it starts, fields


@dataclass(frozen=True)
class CsvTable:
    """The columns and rows of a file."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    rows: tuple[CsvRow, ...]

    @property
    def named(self) -> list[str]:
        """The columns that have a name."""
        return [name for name in self.names if not UNNAMED_COLUMN.fullmatch(name)]

    def position(self, option: str, name: str) -> int:
        """Return the index of a column, which `option` names.

        Raises:
            UserError: there is no such column, or more than one.
        """
        indices = [i for i, other in enumerate(self.names) if name and other == name]
        if len(indices) > 1:
            numbers = " and ".join(str(i + 1) for i in indices)
            raise UserError(f"{self.path}: {option} {name}: columns {numbers} both have this name")
        if not indices:
            available = ", ".join(self.named)
            raise UserError(
                f"{self.path}: {option} {name}: there is no such column, there are "
                f"{available}{did_you_mean(name, self.named)}"
            )
        return indices[0]


def read_csv_table(path: Path) -> CsvTable:
    """Return the table in a file of comma-separated (.csv) or tab-separated (.tsv) values with a header line.

    Rows without any value are skipped. Fields missing at the end of a row count as empty if their columns have no name.

    Raises:
        UserError: the file is missing, is not such a table or has no rows, or a row does not fit the header.
    """
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise UserError(f"{path}: the name must end in .csv (separated by commas) or .tsv (separated by tabs)")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the file is not text in UTF-8") from None
    lines = _parse_rows(path, text, delimiter)
    _, names = next(lines, (1, []))
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"{path}: the file is empty")
    _check_delimiter(path, names, delimiter)
    rows = tuple((line, _fit_to_header(path, line, fields, names)) for line, fields in lines)
    if not rows:
        raise UserError(f"{path}: the file has a header and no rows")
    return CsvTable(path, hashlib.sha256(content).hexdigest(), tuple(names), rows)


def _parse_rows(path: Path, text: str, delimiter: str) -> Iterator[CsvRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start} cannot be read as a row: {error}") from None


def _check_delimiter(path: Path, names: list[str], delimiter: str) -> None:
    other = next((sign for sign in ",;\t" if sign != delimiter and len(names) == 1 and sign in names[0]), None)
    if other:
        raise UserError(
            f"{path}: the header is separated by {other!r}, but in a {path.suffix} file it must be {delimiter!r}"
        )


def _fit_to_header(path: Path, line: int, fields: list[str], names: list[str]) -> list[str]:
    if len(fields) == len(names):
        return fields
    rest = fields[len(names) :]
    missing = [name for name in names[len(fields) :] if not UNNAMED_COLUMN.fullmatch(name)]
    if missing or any(field.strip() for field in rest):
        raise UserError(f"{path}:{line} has {len(fields)} fields where the header names {len(names)} columns")
    return (fields + [""] * len(names))[: len(names)]


FieldReader = Callable[[list[str]], str]
VALUES_SHOWN = 8  # values of a column that a message names


@dataclass(frozen=True)
class CsvMapping:
    """The options of `stableft import csv`, as they are written.

    `task`, `arm`, `seed` and `step` name a column, or after "=" give the one value that holds for every row.
    `where`, `val_where` are of the form COLUMN=VALUE; of several with one column each value will do. `score` is of
    the `checkpoint`, on the `split`. `vary` names columns that may differ between the runs of an arm.
    """

    task: str
    arm: str
    seed: str
    score: str
    val: str | None = None
    val_where: tuple[str, ...] = ()
    train_loss: str | None = None
    step: str | None = None
    where: tuple[str, ...] = ()
    scale: ScoreScale | None = None
    metric: str | None = None
    split: Split = "test"
    checkpoint: Checkpoint = "last"
    baseline: float | None = None
    rows: int | None = None  # of the split
    rename: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    allow_missing: bool = False


@dataclass(frozen=True)
class RowFilter:
    """A column in which a row must have one of the values, as the option says."""

    option: str
    name: str
    position: int
    values: frozenset[str]


def make_field_reader(table: CsvTable, option: str, spec: str) -> FieldReader:
    """Return a function that takes a row's fields and returns the value of a column, or the constant after "=".

    Raises:
        UserError: there is no such column, or nothing after "=".
    """
    if spec.startswith("="):
        constant = spec[1:].strip()
        if not constant:
            raise UserError(f"{option} {spec}: there must be a value after =")
        return lambda fields: constant
    position = table.position(option, spec)
    return lambda fields: fields[position].strip()


def make_run_key_reader(table: CsvTable, mapping: CsvMapping) -> Callable[[CsvRow], RunKey]:
    """Return a function that takes a row and returns the run that it belongs to.

    Raises:
        UserError: there is no such column; from the function: a field is empty, or the seed is not a seed.
    """
    task_of = make_field_reader(table, "--task", mapping.task)
    arm_of = make_field_reader(table, "--arm", mapping.arm)
    seed_of = make_field_reader(table, "--seed", mapping.seed)

    def key(row: CsvRow) -> RunKey:
        line, fields = row
        task, arm = task_of(fields), arm_of(fields)
        for option, column, value in (("--task", mapping.task, task), ("--arm", mapping.arm, arm)):
            if not value:
                raise UserError(f"{table.path}:{line} column {column!r}: the field is empty, but {option} needs it")
        known = find_known_task(task)
        return RunKey(
            known.name if known else task, arm, parse_whole_number(table.path, line, mapping.seed, seed_of(fields))
        )

    return key


def parse_row_filters(table: CsvTable, option: str, texts: Sequence[str]) -> list[RowFilter]:
    """Return the conditions on rows, one per column.

    Raises:
        UserError: one is not of the form COLUMN=VALUE, or there is no such column.
    """
    values: dict[str, set[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(f"{option} {text!r}: must be COLUMN=VALUE")
        values.setdefault(name.strip(), set()).add(value.strip())
    return [RowFilter(option, name, table.position(option, name), frozenset(some)) for name, some in values.items()]


def filter_rows(table: CsvTable, wanted: Sequence[RowFilter]) -> list[CsvRow]:
    """Return the rows that meet all conditions.

    Raises:
        UserError: a value appears in no row (the message names those that do), or no row meets all conditions.
    """
    for condition in wanted:
        there = {fields[condition.position].strip() for _, fields in table.rows}
        for value in sorted(condition.values - there):
            raise UserError(
                f"{table.path}: {condition.option} {condition.name}={value}: no row has this value, there are "
                f"{_list_values(sorted(there))}{did_you_mean(value, sorted(there))}"
            )
    tests = [(condition.position, condition.values) for condition in wanted]
    rows = [row for row in table.rows if all(row[1][position].strip() in values for position, values in tests)]
    if not rows:
        words = " and ".join(f"{condition.name}={'|'.join(sorted(condition.values))}" for condition in wanted)
        raise UserError(f"{table.path}: no row has all of {words}")
    return rows


def _list_values(values: Sequence[str]) -> str:
    return ", ".join(repr(value) for value in values[:VALUES_SHOWN]) + (", ..." if len(values) > VALUES_SHOWN else "")
