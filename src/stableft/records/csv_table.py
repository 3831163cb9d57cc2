"""Tables in CSV and TSV files, of results or of training data: columns by name, rows with their places."""

import codecs
import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from stableft.errors import UserError, did_you_mean, storage_error
from stableft.records.import_values import Place

csv.field_size_limit(2**31 - 1)  # the largest that every platform takes; the default is 131,072 characters
DELIMITERS = {".csv": ",", ".tsv": "\t"}
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
UNNAMED_COLUMN = re.compile(r"(Unnamed: \d+)?")  # pandas calls a column so that has no name
SourceRow = tuple[int, list[str]]  # the number of the line on which it starts, or of the item or file; fields


@dataclass(frozen=True)
class SourceTable:
    """The columns and rows of a file, or of a folder with a file a row.

    The number of a row is that of a line (`unit`), or of an item in a list. If there are `files`, it is that of a file.
    """

    path: Path
    sha256: str
    names: tuple[str, ...]
    rows: tuple[SourceRow, ...]
    unit: str = "line"
    files: tuple[Path, ...] = ()

    @property
    def named(self) -> list[str]:
        """The columns that have a name."""
        return [name for name in self.names if not UNNAMED_COLUMN.fullmatch(name)]

    def place(self, number: int) -> Place:
        """Return the place of the row with this number."""
        return Place(self.files[number - 1]) if self.files else Place(self.path, number, self.unit)

    def position(self, option: str, name: str) -> int:
        """Return the index of a column, which `option` names.

        Raises:
            UserError: there is no such column, or more than one.
        """
        return find_column(self.path, self.names, option, name)


def find_column(path: Path, names: Sequence[str], option: str, name: str) -> int:
    """Return the index of the column `name`, which `option` names.

    Raises:
        UserError: there is no such column, or more than one.
    """
    indices = [i for i, other in enumerate(names) if name and other == name]
    if len(indices) > 1:
        numbers = " and ".join(str(i + 1) for i in indices)
        raise UserError(f"{path}: {option} {name}: columns {numbers} both have this name")
    if not indices:
        named = [other for other in names if not UNNAMED_COLUMN.fullmatch(other)]
        raise UserError(
            f"{path}: {option} {name}: there is no such column, there are {', '.join(named)}{did_you_mean(name, named)}"
        )
    return indices[0]


class CsvFormat(NamedTuple):
    """How a file is written: `--delimiter` and `--encoding`, as they are given. None: by its name's ending, UTF-8."""

    delimiter: str | None = None
    encoding: str | None = None
    quoted: bool = True  # False: as GLUE's files, where a quotation mark is text
    fixed: bool = False  # no option changes it, so messages name none


def read_csv_table(path: Path, form: CsvFormat = CsvFormat()) -> SourceTable:  # noqa: B008 - it is immutable
    """Return the table in a file of comma-separated (.csv) or tab-separated (.tsv) values with a header line.

    Rows without any value are skipped. Fields missing at the end of a row count as empty if their columns have no name.

    Raises:
        UserError: the file is missing, is not such a table or has no rows, or a row does not fit the header.
    """
    with open_csv_rows(path, form) as (names, rows):
        return SourceTable(path, hash_file(path), tuple(names), tuple(rows))


@contextmanager
def open_csv_rows(path: Path, form: CsvFormat = CsvFormat()) -> Iterator[tuple[list[str], Iterator[SourceRow]]]:  # noqa: B008
    """Yield the names of a table's columns and an iterator over its rows, which are read one at a time.

    Raises:
        UserError: like `read_csv_table`.
    """
    delimiter = _find_delimiter(path, form.delimiter)
    hint = "" if form.fixed else "; --encoding names another, such as latin-1 or utf-16"
    with open_text(path, form.encoding, hint, newline="" if form.quoted else "\n") as file:
        lines = _parse_rows(path, file, delimiter) if form.quoted else split_unquoted_rows(file)
        _, names = next(lines, (1, []))
        names = [name.strip() for name in names]
        while names and not names[-1]:
            names.pop()
        if not names:
            raise UserError(f"{path}: the file is empty")
        _check_delimiter(path, names, delimiter, form)
        yield names, _fit_rows(path, lines, names)


@contextmanager
def open_text(
    path: Path, encoding: str | None = None, encoding_hint: str = "", newline: str = "\n"
) -> Iterator[TextIO]:
    """Yield an open file of text, by default UTF-8 with or without a byte order mark. Only "\\n" ends a line.

    `newline` is that of `open`; `encoding_hint` ends the message about text in another encoding.

    Raises:
        UserError: the file cannot be read, or its encoding is another. This also holds for reading within the block.
    """
    try:
        with open(path, encoding=_find_encoding(encoding), newline=newline) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder") from None
    except OSError as error:
        raise storage_error(error, path) or UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeError:
        title = encoding or "UTF-8"
        line = "" if encoding else _find_undecodable_line(path)
        raise UserError(f"{path}{line}: the file is not text in {title}{encoding_hint}") from None


def _find_undecodable_line(path: Path) -> str:
    """Return ":" and the number of the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f":{number}"
    return ""


def split_unquoted_rows(file: TextIO) -> Iterator[SourceRow]:
    """Yield the rows of a tab-separated file without quotation: a line each, empty lines skipped."""
    for number, line in enumerate(file, 1):
        if line := line.removesuffix("\n").removesuffix("\r"):
            yield number, line.split("\t")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_delimiter(path: Path, requested: str | None) -> str:
    if requested is None:
        delimiter = DELIMITERS.get(path.suffix.lower())
        if delimiter is None:
            raise UserError(
                f"{path}: the name must end in .csv (separated by commas) or .tsv (separated by tabs), or --delimiter "
                "must say what separates the columns"
            )
        return delimiter
    delimiter = DELIMITER_NAMES.get(requested, requested)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"--delimiter {requested!r}: must be one character, or one of {', '.join(DELIMITER_NAMES)}")
    return delimiter


def _find_encoding(requested: str | None) -> str:
    try:
        name = codecs.lookup(requested or "utf-8").name
        "".encode(name)  # some codecs turn bytes into bytes
    except LookupError:
        raise UserError(f"--encoding {requested}: there is no such encoding of text; one is latin-1") from None
    return "utf-8-sig" if name == "utf-8" else name


def _parse_rows(path: Path, file: TextIO, delimiter: str) -> Iterator[SourceRow]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start} cannot be read as a row: {error}") from None


def _check_delimiter(path: Path, names: list[str], delimiter: str, form: CsvFormat) -> None:
    other = next((sign for sign in ",;\t" if sign != delimiter and len(names) == 1 and sign in names[0]), None)
    if other:
        ending = next((end for end, sign in DELIMITERS.items() if sign == delimiter), path.suffix)
        rule = f"in a {ending} file it must be {delimiter!r}"
        if form.delimiter and not form.fixed:
            rule = f"--delimiter says {delimiter!r}"
        way = "" if form.fixed else f"; --delimiter {'tab' if other == DELIMITERS['.tsv'] else repr(other)} reads it"
        raise UserError(f"{path}: the header is separated by {other!r}, but {rule}{way}")


def _fit_rows(path: Path, lines: Iterator[SourceRow], names: list[str]) -> Iterator[SourceRow]:
    found = False
    for line, fields in lines:
        found = True
        yield line, _fit_to_header(path, line, fields, names)
    if not found:
        raise UserError(f"{path}: the file has a header and no rows")


def _fit_to_header(path: Path, line: int, fields: list[str], names: list[str]) -> list[str]:
    if len(fields) == len(names):
        return fields
    rest = fields[len(names) :]
    missing = [name for name in names[len(fields) :] if not UNNAMED_COLUMN.fullmatch(name)]
    if missing or any(field.strip() for field in rest):
        raise UserError(f"{path}:{line} has {len(fields)} fields where the header names {len(names)} columns")
    return (fields + [""] * len(names))[: len(names)]
