"""Values as people write them in files of results: numbers, percentages, missing values, seeds, and where they are."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from stableft.errors import UserError

ScoreScale = Literal["percent", "fraction"]
NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
WHOLE_NUMBER_PATTERN = re.compile(r"\d{1,30}(\.0*)?", re.ASCII)  # int() refuses more than 4,300 digits
# A seed with the word that people put before it: Run 0, seed_1, SEED1, s1, seed=1.
SEED_PATTERN = re.compile(
    r"(?:(?:seed|run|trial|repeat|rep|s|r)[\s_\-=:#.]*)?(\d{1,30})(\.0*)?", re.ASCII | re.IGNORECASE
)
MAX_WHOLE_NUMBER = 2**63 - 1  # of seeds and steps
MISSING_WORDS = ("none", "null", "n/a", "na", "<na>")  # that stand for an empty field
NONNEGATIVE_METRICS = (
    "accuracy",
    "f1",
    "accuracy_f1",
)  # a share of 1 % or less of these is no result of a trained model
QUOTED_CHARACTERS = 80  # of a value that a message shows
LINES_SHOWN = 3  # lines that a message names
MISTAKES_SHOWN = 8  # that a message lists


class Place(NamedTuple):
    """Where a row is: a line or item of a file, counted from 1, or a whole file (0)."""

    file: Path
    number: int = 0
    unit: str = "line"

    def __str__(self) -> str:
        if not self.number:
            return str(self.file)
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file} {self.unit} {self.number}"

    @property
    def within(self) -> str:
        """The place in a message that names the file already."""
        return f"{self.unit} {self.number}" if self.number else str(self.file)


def describe_two_places(one: Place, other: Place) -> str:
    """Return two places of one file as "on lines 2 and 3", or two files as "in a.json and b.json"."""
    if one.number and other.number:
        return f"on {one.unit}s {one.number} and {other.number}"
    return f"in {one.within} and {other.within}"


class PrintedNumber(NamedTuple):
    """A number in a file. `value` is None for NaN; `percent`: a percent sign follows it."""

    place: Place
    text: str
    value: Decimal | None
    percent: bool = False

    @property
    def missing(self) -> bool:
        """Whether the field is empty or says that there is no value, rather than that it is NaN."""
        return self.text.lower() in ("", *MISSING_WORDS)


class MistakesError(UserError):
    """Mistakes of the user that one message lists."""

    def __init__(self, messages: Sequence[str]) -> None:
        listed = "; ".join(f"({i}) {text}" for i, text in enumerate(messages[:MISTAKES_SHOWN], 1))
        more = len(messages) - MISTAKES_SHOWN
        super().__init__(f"{len(messages)} mistakes: {listed}" + (f"; and {more} more" if more > 0 else ""))
        self.messages = messages


class Mistakes:
    """Collects mistakes of the user, so that one message names them all."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep the message of a UserError in the block, instead of raising it."""
        try:
            yield
        except UserError as error:
            self.messages += error.messages if isinstance(error, MistakesError) else [str(error)]

    def check(self) -> None:
        """Raise a UserError that lists the messages, if there are any."""
        if len(self.messages) > 1:
            raise MistakesError(self.messages)
        if self.messages:
            raise UserError(self.messages[0])


def quote(text: str) -> str:
    """Return a value of a file as a message shows it: quoted, and cut if it is long."""
    return repr(text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}...")


def parse_number(place: Place, column: str, text: str) -> PrintedNumber:
    """Return a number with all its printed digits. An empty field is NaN, as written by pandas; so is a missing value.

    Raises:
        UserError: the text is neither a number, with or without a percent sign, nor "nan", nor a missing value.
    """
    text = text.strip()
    if text.lower() in ("", "nan", "-nan", "+nan", *MISSING_WORDS):
        return PrintedNumber(place, text, None)
    digits = text.removesuffix("%").rstrip()
    if not NUMBER_PATTERN.fullmatch(digits) or math.isinf(float(digits)):
        raise UserError(f"{place} column {column!r}: {quote(text)} must be a number, nan or empty")
    return PrintedNumber(place, text, Decimal(digits), digits != text)


def parse_whole_number(place: Place, column: str, text: str) -> int:
    """Return a whole number of at least 0, which pandas may have written as 8.0.

    Raises:
        UserError: the text is anything else.
    """
    text = text.strip()
    if not WHOLE_NUMBER_PATTERN.fullmatch(text) or (whole := int(text.partition(".")[0])) > MAX_WHOLE_NUMBER:
        raise UserError(f"{place} column {column!r}: {quote(text)} must be a whole number from 0")
    return whole


def find_seed(text: str) -> int | None:
    """Return the seed in a text such as 1, 1.0, Run 1, seed_1 or s1, or None if it is nothing but a seed."""
    match = SEED_PATTERN.fullmatch(text.strip())
    return int(match[1]) if match and int(match[1]) <= MAX_WHOLE_NUMBER else None


def parse_seed(place: Place, column: str, text: str, pattern: re.Pattern[str] | None) -> int:
    """Return the seed in a field: the whole of it, or the group of `pattern` where it first matches.

    Raises:
        UserError: there is no seed in it.
    """
    if pattern:
        match = pattern.search(text)
        if match is None:
            raise UserError(f"{place} column {column!r}: --seed-pattern {pattern.pattern} does not match {quote(text)}")
        text = match[1]
    seed = find_seed(text)
    if seed is None:
        way = "" if pattern else "; --seed-pattern says where in a longer name it is"
        raise UserError(
            f"{place} column {column!r}: {quote(text.strip())} must be a whole number from 0, alone or as in seed_1"
            f"{way}"
        )
    return seed


def compile_seed_pattern(text: str | None) -> re.Pattern[str] | None:
    """Return `--seed-pattern` compiled, or None if it is not given.

    Raises:
        UserError: it is no regular expression with one group.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"--seed-pattern {text}: must be a regular expression: {error}") from None
    if pattern.groups != 1:
        raise UserError(
            rf"--seed-pattern {text}: must have one group in parentheses, around the seed, such as seed(\d+)$"
        )
    return pattern


def cut_seed(text: str, pattern: re.Pattern[str] | None) -> str:
    """Return a run's name without the match of `pattern` and the signs around it: bert-rte-seed3 is bert-rte."""
    match = pattern.search(text) if pattern else None
    return f"{text[: match.start()].rstrip(' _-/.=')}{text[match.end() :]}".strip(" _-/.=") if match else text


def determine_scale(
    path: Path, column: str, cells: Sequence[tuple[PrintedNumber, str]], requested: ScoreScale | None
) -> ScoreScale:
    """Return whether cells (with their metrics) are fractions or percent: `requested`, or by signs and values.

    Raises:
        UserError: the values fit both scales or neither, or not the requested one.
    """
    place = f"{path}: column {column!r}"
    numbers = [(cell, metric, cell.value) for cell, metric in cells if cell.value is not None]
    outside = [cell for cell, _, value in numbers if abs(value) > 100]
    negative = [cell for cell, metric, value in numbers if value < 0 and metric in NONNEGATIVE_METRICS]
    signed = [cell for cell, _, _ in numbers if cell.percent]
    large = [cell for cell, _, value in numbers if abs(value) > 1]
    small = [cell for cell, _, value in numbers if 0 < abs(value) <= 1]
    tiny = [cell for cell, metric, value in numbers if 0 < value <= 1 and metric in NONNEGATIVE_METRICS]
    if outside:
        raise UserError(f"{place}: a score must be a fraction or a percentage, {_describe_lines(outside)}")
    if negative:
        raise UserError(f"{place}: accuracy and F1 cannot be negative, {_describe_lines(negative)}")
    if signed:
        unsigned = [cell for cell, _, _ in numbers if not cell.percent]
        if requested == "fraction":
            raise UserError(f"{place}: a fraction has no percent sign (--scale fraction), {_describe_lines(signed)}")
        if unsigned and requested is None:
            raise UserError(
                f"{place}: some scores have a percent sign ({_describe_lines(signed)}) and some have none "
                f"({_describe_lines(unsigned)}); --scale percent says that all are percent"
            )
        return "percent"
    if requested == "fraction" and large:
        raise UserError(f"{place}: a fraction cannot be above 1 (--scale fraction), {_describe_lines(large)}")
    if requested == "percent" and tiny:
        raise UserError(f"{place}: 1 % or less looks like a fraction (--scale percent), {_describe_lines(tiny)}")
    if requested:
        return requested
    if large and small:
        way = "narrow the rows with --where" + ("" if tiny else ", or say --scale percent if all are percent")
        raise UserError(
            f"{place}: some scores look like fractions ({_describe_lines(small)}) and some like percent "
            f"({_describe_lines(large)}); {way}"
        )
    return "percent" if large else "fraction"


def as_fraction(value: Decimal | None, scale: ScoreScale) -> Decimal | None:
    """Return a score as a fraction with the same digits."""
    return value.scaleb(-2) if value is not None and scale == "percent" else value


def to_float(value: Decimal | None) -> float:
    return math.nan if value is None else float(value)


def describe_scale(scale: str) -> str:
    return "in percent" if scale == "percent" else "fractions"


def note_missing(column: str, cells: Iterable[PrintedNumber], meaning: str) -> Iterator[str]:
    """Yield a note on fields that hold no value, with what they were read as."""
    missing = [cell for cell in cells if cell.missing]
    if missing:
        values = "missing values" if len(missing) > 1 else "a missing value"
        yield f"{column} has {values}, read as {meaning}: {_describe_lines(missing)}"


def _describe_lines(cells: Sequence[PrintedNumber]) -> str:
    named = ", ".join(
        f"{cell.place.within} has {cell.text or 'none'}" for cell in sorted(cells, key=lambda c: c.place)[:LINES_SHOWN]
    )
    return named + (f" and so have {len(cells) - LINES_SHOWN} more" if len(cells) > LINES_SHOWN else "")
