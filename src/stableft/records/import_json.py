"""`stableft import json`: JSON Lines or a list with one object a run, or a folder with one file a run.

Every number keeps the digits with which it is written. Keys of nested objects are joined by dots.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stableft.errors import UserError
from stableft.records.csv_table import SourceTable, hash_file, open_text
from stableft.records.import_csv import check_mapping, import_table
from stableft.records.import_mapping import TableMapping
from stableft.records.import_runs import check_import_out, digest_files, walk_folders
from stableft.records.import_state import is_state_column
from stableft.records.import_values import Mistakes, Place
from stableft.records.run_record import ImportSource

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
LINES_ENDINGS = (".jsonl", ".ndjson")
FILE_COLUMN, FOLDER_COLUMN = "file", "folder"  # of a table read from a folder: names relative to it, without .json


def import_json(path: Path, mapping: TableMapping, out: Path, files: str = "*.json") -> str:
    """Write the runs of a JSON file, or of the files in a folder whose names match `files`, to a records file.

    Returns a description of them.

    Raises:
        UserError: an option, a file or a value in it is invalid; nothing is written.
    """
    check_import_out(out, path)
    check_mapping(mapping)
    table = read_json_folder(path, files, mapping) if path.is_dir() else read_json_table(path)
    name = path.resolve().name
    source = ImportSource(kind="json", name=name, sha256=table.sha256, note=mapping.note)
    return import_table(table, mapping, out, source)


def read_json_table(path: Path) -> SourceTable:
    """Return the objects in a file of JSON Lines, or in a file with one list or object, as a table.

    Raises:
        UserError: the file is missing, is not such a file, or has no objects; the message names all lines that are not.
    """
    with open_text(path) as file:
        content = file.read()
    mistakes = Mistakes()
    rows: list[tuple[int, dict[str, str]]] = []
    unit = "line"
    if _is_lines(path, content):
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                with mistakes.caught():
                    place = Place(path, number)
                    rows.append((number, flatten_object(place, parse_json(place, line))))
    else:
        unit = "item"
        found = parse_json(Place(path), content)
        for number, item in enumerate(found if isinstance(found, list) else [found], 1):
            with mistakes.caught():
                rows.append((number, flatten_object(Place(path, number, unit), item)))
    mistakes.check()
    if not rows:
        raise UserError(f"{path}: there is no object in it")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return SourceTable(path, hash_file(path), tuple(names), _make_rows(rows, list(names)), unit)


def read_json_folder(folder: Path, pattern: str, mapping: TableMapping) -> SourceTable:
    """Return the objects in the files at or below a folder whose names match a pattern, as a table.

    It also has the columns "file" and "folder", unless the objects have such keys.

    Raises:
        UserError: no file matches, one is not an object, or one has neither a score nor a state.
    """
    mistakes = Mistakes()
    rows: list[tuple[int, dict[str, str]]] = []
    paths: list[Path] = []
    contents: dict[str, bytes] = {}
    for path in sorted(path for some in walk_folders(folder) for path in some.glob(pattern) if path.is_file()):
        with mistakes.caught():
            with open_text(path) as file:
                text = file.read()
            row = flatten_object(Place(path), parse_json(Place(path), text))
            inside = path.relative_to(folder)
            if mapping.score not in row and not any(is_state_column(mapping, name) for name in row):
                raise UserError(
                    f"{path}: there is no key {mapping.score!r} (--score); --files PATTERN names the files of runs"
                )
            paths.append(path)
            contents[inside.as_posix()] = text.encode()
            places = {FILE_COLUMN: inside.with_suffix("").as_posix(), FOLDER_COLUMN: inside.parent.as_posix()}
            rows.append((len(paths), places | row))
    mistakes.check()
    if not rows:
        raise UserError(f"{folder}: no file at or below it has a name like {pattern} (--files)")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return SourceTable(
        folder, digest_files(contents), tuple(names), _make_rows(rows, list(names)), "file", tuple(paths)
    )


def parse_json(place: Place, text: str, number_type: Callable[[str], Any] = str) -> Any:
    """Return the value of a JSON text. `number_type` is made from the digits of each number, NaN and Infinity.

    Raises:
        UserError: the text is not JSON, an object has a key twice, or a string has half of a surrogate pair.
    """

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise UserError(f"{place}: an object has the key {_find_repeated(name for name, _ in pairs)!r} twice")
        return value

    try:
        numbers = dict.fromkeys(("parse_float", "parse_int", "parse_constant"), number_type)
        value = json.loads(text, object_pairs_hook=make_object, **numbers)
        if SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UserError:
        raise
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise UserError(f"{place}: {half} is half of a character (a lone surrogate), which is not text") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}") from None
    return value


def flatten_object(place: Place, value: Any) -> dict[str, str]:
    """Return the keys and values of an object as text: null for no value, lists as JSON.

    Raises:
        UserError: the value is not an object.
    """
    if not isinstance(value, dict):
        raise UserError(f"{place} must be an object with the keys of a run, not {describe_json(value)}")
    try:
        pairs = list(_flatten(value))
    except RecursionError:
        raise UserError(f"{place}: its objects are nested too deeply") from None
    row = dict(pairs)
    if len(row) < len(pairs):
        raise UserError(f"{place} has the key {_find_repeated(name for name, _ in pairs)!r} twice")
    return row


def _find_repeated(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def describe_json(value: Any) -> str:
    """Return what a JSON value is, in words."""
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else repr(value)


def _flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item if isinstance(item, str) else json.dumps(item)


def _make_rows(rows: list[tuple[int, dict[str, str]]], names: list[str]) -> tuple[tuple[int, list[str]], ...]:
    return tuple((number, [row.get(name, "") for name in names]) for number, row in rows)


def _is_lines(path: Path, content: str) -> bool:
    """Return whether a file is JSON Lines: it is called so, or its first line is a whole object and not all of it."""
    if path.suffix.lower() in LINES_ENDINGS:
        return True
    first, _, rest = content.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False
