"""A `Report` for programs: its rows as CSV, its values as JSON."""

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from stableft.report.blocks import Report


def csv_text(report: Report) -> str:
    """Returns the rows below a line with every key that any of them has; what is missing is empty, NaN is NaN.

    A report without rows is an empty text.
    """
    keys = list(dict.fromkeys(key for row in report.rows for key in row))
    if not keys:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_csv_value(row.get(key)) for key in keys] for row in report.rows)
    return out.getvalue()


def json_text(report: Report) -> str:
    """Returns the values; a number is Python's own and finite, for JSON has no word for the others.

    Raises:
        ValueError: a value is something else.
    """
    return json.dumps(_json_value(report.values, "values"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(float(value))
    raise ValueError(f"{value!r} is no value of a CSV file")


def _json_value(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {_json_key(key, place): _json_value(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if value is not None and type(value) not in (str, bool, int, float):
        raise ValueError(f"{place} is {value!r}, which is no JSON value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which JSON has no word for")
    return value


def _json_key(key: Any, place: str) -> str:
    if type(key) is not str:
        raise ValueError(f"{place} has the key {key!r}, which is no text")
    return key
