"""`--where FIELD=VALUE`: which runs, by a column of the frame or a dotted setting of their config."""

from typing import Any, NamedTuple

from stableft.config import without_none
from stableft.errors import UserError, nearest
from stableft.frame import DTYPES
from stableft.record import AnyRun, RunRecord
from stableft.report.table import task_title
from stableft.settings import LEAVES, describe
from stableft.yamlfile import parse_yaml

INNER = [f"{key}.{name}" for key, part in LEAVES.items() if part for name in part.model_fields]
SECTIONS = [key.rpartition(".")[0] for key in LEAVES if "." in key]
SETTINGS = {*LEAVES, *INNER, *SECTIONS}


class Condition(NamedTuple):
    """A field, the value that it must have as YAML reads it, and as it was written."""

    field: str
    value: Any
    text: str


def condition(text: str) -> Condition:
    """Returns the condition that a FIELD=VALUE makes.

    Raises:
        UserError: it has no equals sign, the field is not known, or the value is no YAML.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--where {text}: must be FIELD=VALUE")
    if field not in DTYPES and field not in SETTINGS:
        short = {key.rpartition(".")[2]: key for key in SETTINGS if "." in key}
        close = f"; did you mean {short[field]!r}?" if field in short else nearest(field, {*DTYPES, *SETTINGS})
        raise UserError(f"--where {text}: field {field!r} is neither a column of the runs nor a setting{close}")
    return Condition(field, _read(value, field), value)


def _read(text: str, field: str) -> Any:
    """Returns the value as YAML has it, and 2e-5, which is text to YAML, as a number."""
    value = parse_yaml(text, f"--where {field}").data
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def value_of(field: str, row: dict[str, Any], record: AnyRun) -> Any:
    """Returns what a run has of a field; None where it has nothing or nobody knows."""
    if field in DTYPES:
        import pandas as pd

        return None if pd.isna(row[field]) else row[field]
    value: Any = record.config.model_dump(mode="json") if isinstance(record, RunRecord) else None
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def matches(condition: Condition, row: dict[str, Any], record: AnyRun) -> bool:
    """Whether a run has the value: numbers as numbers, texts in any case, a source without its hash, a task's title."""
    found, (field, value, text) = value_of(condition.field, row, record), condition
    if found is None or isinstance(found, bool) or isinstance(value, bool):
        return found is value
    if isinstance(found, int | float):
        return isinstance(value, int | float) and found == value
    if isinstance(found, str):
        names = [found, found.partition(" (")[0] if field == "source" else found]
        names += [task_title(found)] if field in ("task", "data.task") else []
        return text.casefold() in [name.casefold() for name in names]
    return without_none(found) == value or describe(found) == text
