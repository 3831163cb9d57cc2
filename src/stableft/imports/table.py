"""A table in a text file: its columns by name, its rows with their line numbers, and not a value changed."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stableft.errors import UserError, nearest

DELIMITERS = {".csv": ",", ".tsv": "\t"}
NAMELESS = re.compile(r"(Unnamed: \d+)?")  # pandas calls a column so that has no name
Row = tuple[int, list[str]]  # the line on which it starts, fields


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def named(self) -> list[str]:
        """The columns that somebody gave a name."""
        return [name for name in self.names if not NAMELESS.fullmatch(name)]

    def position(self, option: str, name: str) -> int:
        """Returns where the column of that name stands, which `option` asks for.

        Raises:
            UserError: there is no such column, or more than one.
        """
        places = [i for i, other in enumerate(self.names) if name and other == name]
        if len(places) > 1:
            numbers = " and ".join(str(i + 1) for i in places)
            raise UserError(f"{self.path}: {option} {name}: columns {numbers} both have this name")
        if not places:
            there = ", ".join(self.named)
            raise UserError(
                f"{self.path}: {option} {name}: there is no such column, there are {there}{nearest(name, self.named)}"
            )
        return places[0]


def read_table(path: Path) -> Table:
    """Returns the table in a file of comma-separated (.csv) or tab-separated (.tsv) values with a header line.

    Rows without any value are left out; fields that are missing at a row's end are empty if their columns have no
    name.

    Raises:
        UserError: the file is not there, is no such table or has no row, or a row does not fit the header.
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
    lines = _lines(path, text, delimiter)
    _, names = next(lines, (1, []))
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"{path}: the file is empty")
    _check_delimiter(path, names, delimiter)
    rows = tuple((line, _fit(path, line, fields, names)) for line, fields in lines)
    if not rows:
        raise UserError(f"{path}: the file has a header and no rows")
    return Table(path, hashlib.sha256(content).hexdigest(), tuple(names), rows)


def _lines(path: Path, text: str, delimiter: str) -> Iterator[Row]:
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


def _fit(path: Path, line: int, fields: list[str], names: list[str]) -> list[str]:
    if len(fields) == len(names):
        return fields
    rest = fields[len(names) :]
    missing = [name for name in names[len(fields) :] if not NAMELESS.fullmatch(name)]
    if missing or any(field.strip() for field in rest):
        raise UserError(f"{path}:{line} has {len(fields)} fields where the header names {len(names)} columns")
    return (fields + [""] * len(names))[: len(names)]
