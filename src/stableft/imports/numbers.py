"""Numbers as others print them: read to the digit, as fractions or percent, NaN included."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from stableft.errors import UserError

Scale = Literal["percent", "fraction"]
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"\d+(\.0*)?", re.ASCII)
MOST = 2**63 - 1  # of seeds and steps
NEVER_NEGATIVE = ("accuracy", "f1", "accuracy_f1")  # a share of 1 % or less of these is no result of a trained model
SHOWN = 3  # lines that a message names


class Cell(NamedTuple):
    """A number in a file. `value` is None for NaN."""

    line: int
    text: str
    value: Decimal | None


def read_number(path: Path, line: int, column: str, text: str) -> Cell:
    """Returns a number with all its digits; pandas leaves the field of a NaN empty.

    Raises:
        UserError: the text is neither a number nor "nan" nor empty.
    """
    text = text.strip()
    if text.lower().lstrip("+-") in ("", "nan"):
        return Cell(line, text, None)
    if not NUMBER.fullmatch(text) or math.isinf(float(text)):
        raise UserError(f"{path}:{line} column {column!r}: {text!r} must be a number, nan or empty")
    return Cell(line, text, Decimal(text))


def read_whole(path: Path, line: int, column: str, text: str) -> int:
    """Returns a whole number from 0, which pandas may have written as 8.0.

    Raises:
        UserError: it is something else.
    """
    text = text.strip()
    if not WHOLE.fullmatch(text) or (whole := int(text.partition(".")[0])) > MOST:
        raise UserError(f"{path}:{line} column {column!r}: {text!r} must be a whole number from 0")
    return whole


def find_scale(path: Path, column: str, cells: Sequence[tuple[Cell, str]], wanted: Scale | None) -> Scale:
    """Returns whether these cells, each of a metric, are fractions or percent: as `wanted`, else as they look.

    Raises:
        UserError: they look like both or like neither, or not as wanted.
    """
    place = f"{path}: column {column!r}"
    numbers = [(cell, metric, cell.value) for cell, metric in cells if cell.value is not None]
    outside = [cell for cell, _, value in numbers if abs(value) > 100]
    negative = [cell for cell, metric, value in numbers if value < 0 and metric in NEVER_NEGATIVE]
    large = [cell for cell, _, value in numbers if abs(value) > 1]
    small = [cell for cell, _, value in numbers if 0 < abs(value) <= 1]
    tiny = [cell for cell, metric, value in numbers if 0 < value <= 1 and metric in NEVER_NEGATIVE]
    if outside:
        raise UserError(f"{place}: a score must be a fraction or a percentage, {_lines(outside)}")
    if negative:
        raise UserError(f"{place}: accuracy and F1 cannot be negative, {_lines(negative)}")
    if wanted == "fraction" and large:
        raise UserError(f"{place}: a fraction cannot be above 1 (--scale fraction), {_lines(large)}")
    if wanted == "percent" and tiny:
        raise UserError(f"{place}: 1 % or less looks like a fraction (--scale percent), {_lines(tiny)}")
    if wanted:
        return wanted
    if large and small:
        way = "narrow the rows with --where" + ("" if tiny else ", or say --scale percent if all are percent")
        raise UserError(
            f"{place}: some scores look like fractions ({_lines(small)}) and some like percent ({_lines(large)}); {way}"
        )
    return "percent" if large else "fraction"


def as_fraction(value: Decimal | None, scale: Scale) -> Decimal | None:
    """Returns a score as a fraction, with the same digits."""
    return value.scaleb(-2) if value is not None and scale == "percent" else value


def to_float(value: Decimal | None) -> float:
    return math.nan if value is None else float(value)


def decimals(value: Decimal | None) -> int:
    """Returns how many digits after the point a number was printed with."""
    return 0 if value is None else max(0, -int(value.as_tuple().exponent))


def _lines(cells: Sequence[Cell]) -> str:
    named = ", ".join(f"line {cell.line} has {cell.text}" for cell in sorted(cells, key=lambda cell: cell.line)[:SHOWN])
    return named + (f" and so have {len(cells) - SHOWN} more" if len(cells) > SHOWN else "")
