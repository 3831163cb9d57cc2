"""Read the score that a training command left in a file or on its stdout."""

import csv
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from stableft.config.command_config import SCORE_FILES, CommandScore, fill_placeholders
from stableft.errors import clip, echo
from stableft.records.csv_table import DELIMITERS
from stableft.records.import_json import parse_json
from stableft.records.import_values import NUMBER_PATTERN, Place

MAX_SCORE_BYTES = 100_000_000  # of a file; one with a score a step has a few MB
MAX_LINE_BYTES = 65_536  # of stdout; of a longer one, which a progress bar may write, the last part is searched
NOT_A_NUMBER = ("nan", "-nan", "+nan")
RANGE_TOLERANCE = 1e-9  # 1.0000000002 is a rounding error


class MissingScoreError(Exception):
    """A command that ended well has no score that counts; the message says why."""


class ReadScore(NamedTuple):
    """A score as a fraction, and as it was written. NaN is a score: that of a run that diverged."""

    value: float
    written: str


class LastMatch:
    """The last line of a stream that matches a pattern with one group, found while the stream is read."""

    def __init__(self, pattern: str | None) -> None:
        self._pattern = None if pattern is None else re.compile(pattern)
        self._rest = b""
        self.found: str | None = None

    def feed(self, data: bytes) -> None:
        """Search the lines that are complete now. A carriage return ends a line too."""
        if self._pattern is None:
            return
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-MAX_LINE_BYTES:]
        for line in lines:
            self._search(line[-MAX_LINE_BYTES:])

    def close(self) -> str | None:
        """Search what follows the last line's end, and return the group of the last match."""
        if self._pattern is not None:
            self._search(self._rest)
        return self.found

    def _search(self, line: bytes) -> None:
        assert self._pattern is not None
        if match := self._pattern.search(line.decode("utf-8", "replace")):
            self.found = match[1] or ""


def read_command_score(score: CommandScore, places: Mapping[str, object], on_stdout: str | None) -> ReadScore:
    """Return the score. `places` has the values of the placeholders, `on_stdout` what the pattern found last.

    Raises:
        MissingScoreError: there is none, it is no number, or it is not in the range of the score.
    """
    if score.file is None:
        if on_stdout is None:
            raise MissingScoreError(f"no line of its stdout matches score.pattern {echo(score.pattern)}")
        return _parse_score(score, on_stdout, f"the last line of stdout with score.pattern {echo(score.pattern)}")
    path = Path(fill_placeholders(score.file, places))
    try:
        if path.stat().st_size > MAX_SCORE_BYTES:
            raise MissingScoreError(f"score.file {score.file} has more than {MAX_SCORE_BYTES:,} bytes")
        value = _read_column(score, path) if SCORE_FILES[score.file_ending] == "column" else _read_key(score, path)
    except FileNotFoundError:
        raise MissingScoreError(f"it left no score.file {score.file}") from None
    except (OSError, ValueError, csv.Error) as error:  # a UserError of parse_json, or text that is not UTF-8
        reason = str(error).replace(str(path), path.name)
        raise MissingScoreError(f"score.file {score.file} cannot be read: {clip(reason)}") from None
    return _parse_score(score, value, f"{score.key or score.column} in score.file {score.file}")


def _read_key(score: CommandScore, path: Path) -> Any:
    """Return the value of the key in a JSON file, or in the last line of JSON Lines that has it."""
    text = path.read_text(encoding="utf-8-sig")
    assert score.key is not None
    if score.file_ending == ".json":
        return _look_up(parse_json(Place(path), text), score)
    for number, line in reversed(list(enumerate(text.splitlines(), 1))):
        if line.strip():
            try:
                return _look_up(parse_json(Place(path, number), line), score)
            except MissingScoreError:
                continue
    raise MissingScoreError(f"no line of score.file {score.file} has score.key {score.key!r}")


def _look_up(value: Any, score: CommandScore) -> Any:
    """Return the value of a key, whose dots may be part of its name or stand between nested keys."""
    assert score.key is not None
    if isinstance(value, dict) and score.key in value:
        return value[score.key]
    for name in score.key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise MissingScoreError(f"score.file {score.file} has no score.key {score.key!r}")
        value = value[name]
    return value


def _read_column(score: CommandScore, path: Path) -> str:
    """Return the field of the column in the last row."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=DELIMITERS[score.file_ending], strict=True)
        names, last = next(rows, []), None
        for row in rows:
            last = row if row else last
    if names.count(str(score.column)) != 1:
        number = "no" if score.column not in names else "more than one"
        raise MissingScoreError(f"score.file {score.file} has {number} column {score.column!r}")
    if last is None:
        raise MissingScoreError(f"score.file {score.file} has no rows below its header")
    position = names.index(str(score.column))
    if position >= len(last):
        raise MissingScoreError(f"the last row of score.file {score.file} has no field of column {score.column!r}")
    return last[position]


def _parse_score(score: CommandScore, value: Any, where: str) -> ReadScore:
    text = str(value).strip()
    if text.lower() in NOT_A_NUMBER:
        return ReadScore(math.nan, text)
    if isinstance(value, bool) or not NUMBER_PATTERN.fullmatch(text):
        raise MissingScoreError(f"{where} is {echo(value)}, which is not a number")
    fraction = float(Decimal(text) / score.scale)
    low, high = score.bounds
    if not low - RANGE_TOLERANCE <= fraction <= high + RANGE_TOLERANCE:
        raise MissingScoreError(
            f"{where} is {clip(text)}, out of the range [{low * score.scale:g}, {high * score.scale:g}] of its scale "
            f"{score.scale}"
        )
    return ReadScore(min(max(fraction, low), high), text)
