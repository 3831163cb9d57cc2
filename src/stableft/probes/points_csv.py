"""Other people's predictions: a table with a row for each example and run, as one `Group`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stableft.errors import UserError
from stableft.imports.numbers import read_number, to_float
from stableft.imports.table import Table, read_table
from stableft.metrics import is_failed, majority_baseline, score
from stableft.probes.points import NO_ANSWER
from stableft.probes.points_data import Examples, Group

FEWER = 3  # names that a message gives
FAILED_CLASSES = (
    "failed is an accuracy not above that of always answering the most frequent label (M sec. 3.2), or outputs that "
    "are NaN"
)
FAILED_NUMBERS = "failed is a Spearman correlation with the labels of at most 0, or none (a NaN, one number everywhere)"
UNKNOWN = "which runs failed is not known without --label"


@dataclass(frozen=True)
class CsvColumns:
    """Which column is what; `regression`: predictions and labels are numbers."""

    example: str = "example"
    run: str = "run"
    prediction: str = "prediction"
    label: str | None = None
    text: tuple[str, ...] = ()
    regression: bool = False


@dataclass(frozen=True)
class Said:
    """What a row says: a prediction, and perhaps what its example is."""

    line: int
    example: str
    run: str
    prediction: str
    label: str
    texts: tuple[str, ...]


def read_group(path: Path, columns: CsvColumns) -> Group:
    """Returns the runs of a table, in their order and with the examples in the order of the first rows.

    Raises:
        UserError: the table cannot be read, a run lacks an example or has it twice, or an example has two labels.
    """
    table = read_table(path)
    said = list(_rows(table, columns))
    runs, examples = list(dict.fromkeys(s.run for s in said)), list(dict.fromkeys(s.example for s in said))
    cells = _cells(path, said, runs, examples)
    first = _facts(path, said, columns)
    classes = _classes(path, said, columns)
    answers = _answers(path, [[cells[run, example] for example in examples] for run in runs], columns, classes)
    labels = None
    if columns.label is not None:
        labels = _labels(path, [first[example] for example in examples], columns, classes)
    failed, rule = _failures(answers, labels, classes)
    return Group(
        arm=path.stem,
        task="",
        where=path.name,
        classes=classes,
        runs=tuple(runs),
        names=tuple(runs),
        answers=answers,
        failed=failed,
        examples=_examples(examples, labels, first, columns),
        planned=len(runs),
        failed_rule=rule,
        notes=tuple(_unanswered(answers, runs)),
        origin=f"{path.name}, SHA-256 {table.sha256[:16]}",
    )


def _rows(table: Table, columns: CsvColumns) -> Iterator[Said]:
    names = [("--example", columns.example), ("--run", columns.run), ("--prediction", columns.prediction)]
    names += [("--label", columns.label)] if columns.label is not None else []
    names += [("--text", name) for name in columns.text]
    places = {name: table.position(option, name) for option, name in names}
    for line, fields in table.rows:
        example, run, prediction = (fields[places[name]].strip() for _, name in names[:3])
        for option, name in names[:2]:
            if not fields[places[name]].strip():
                raise UserError(f"{table.path}:{line} column {name!r} is empty: {option} must say which it is")
        label = "" if columns.label is None else fields[places[columns.label]].strip()
        yield Said(line, example, run, prediction, label, tuple(fields[places[name]] for name in columns.text))


def _cells(path: Path, said: Sequence[Said], runs: list[str], examples: list[str]) -> dict[tuple[str, str], Said]:
    """Returns the row of each run and example, each of which there must be once."""
    cells: dict[tuple[str, str], Said] = {}
    for row in said:
        other = cells.setdefault((row.run, row.example), row)
        if other is not row:
            raise UserError(
                f"{path}: lines {other.line} and {row.line} both have run {row.run!r} on example {row.example!r}; "
                "each run must have each example once"
            )
    for run in runs:
        lacking = [example for example in examples if (run, example) not in cells]
        if lacking:
            there = next(row for row in said if row.example == lacking[0])
            more = f" and of {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(
                f"{path}: run {run!r} has no prediction of example {lacking[0]!r}{more}, which run {there.run!r} has "
                f"on line {there.line}; each run must have each example once"
            )
    return cells


def _facts(path: Path, said: Sequence[Said], columns: CsvColumns) -> dict[str, Said]:
    """Returns the first row of each example, whose label and texts must be those of its other rows."""
    first: dict[str, Said] = {}
    for row in said:
        other = first.setdefault(row.example, row)
        for what, a, b in (("label", other.label, row.label), ("text", other.texts, row.texts)):
            if a != b:
                raise UserError(
                    f"{path}: lines {other.line} and {row.line} give example {row.example!r} two {what}s, "
                    f"{_shown(a)} and {_shown(b)}"
                )
        if columns.label is not None and not row.label:
            raise UserError(f"{path}:{row.line} column {columns.label!r}: the label is empty")
    return first


def _shown(value: str | tuple[str, ...]) -> str:
    text = value if isinstance(value, str) else " / ".join(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _classes(path: Path, said: Sequence[Said], columns: CsvColumns) -> tuple[str, ...]:
    """Returns all classes that are predicted or labels, sorted; none for numbers."""
    if columns.regression:
        return ()
    predicted, true = {row.prediction for row in said} - {""}, {row.label for row in said} - {""}
    if columns.label is not None and predicted and not predicted & true:
        raise UserError(
            f"{path}: no prediction is one of the labels: column {columns.prediction!r} has {_some(predicted)}, "
            f"column {columns.label!r} has {_some(true)}"
        )
    classes = predicted | true
    if len(classes) > max(20, len(said) // 4):  # such as the numbers of a regression
        raise UserError(
            f"{path}: column {columns.prediction!r} has {len(predicted)} different predictions ({_some(predicted)}) in "
            f"{len(said)} rows; if they are numbers, say --regression"
        )
    return tuple(sorted(classes))


def _some(names: set[str]) -> str:
    return ", ".join(_shown(name) for name in sorted(names)[:FEWER]) + (", ..." if len(names) > FEWER else "")


def _answers(path: Path, cells: list[list[Said]], columns: CsvColumns, classes: tuple[str, ...]) -> np.ndarray:
    if columns.regression:
        return np.array(
            [
                [to_float(read_number(path, s.line, columns.prediction, s.prediction).value) for s in row]
                for row in cells
            ]
        )
    ids = {name: i for i, name in enumerate(classes)} | {"": NO_ANSWER}
    return np.array([[ids[s.prediction] for s in row] for row in cells])


def _labels(path: Path, first: list[Said], columns: CsvColumns, classes: tuple[str, ...]) -> np.ndarray:
    assert columns.label is not None
    if not columns.regression:
        return np.array([classes.index(row.label) for row in first])
    values = [read_number(path, row.line, columns.label, row.label) for row in first]
    for row, value in zip(first, values, strict=True):
        if value.value is None:
            raise UserError(f"{path}:{row.line} column {columns.label!r}: the label {row.label!r} must be a number")
    return np.array([to_float(value.value) for value in values])


def _failures(
    answers: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...]
) -> tuple[tuple[bool | None, ...], str]:
    """Returns which runs failed, as far as that can be told, and what that means."""
    if labels is None:
        return (None,) * len(answers), UNKNOWN
    if not classes:
        scores = [score(run[:, np.newaxis], labels, ("spearman",))["spearman"] for run in answers]
        return tuple(is_failed(value, 0.0) for value in scores), FAILED_NUMBERS
    baseline = majority_baseline(labels, "accuracy")
    scores = [math.nan if (run == NO_ANSWER).any() else float((run == labels).mean()) for run in answers]
    return tuple(is_failed(value, baseline) for value in scores), FAILED_CLASSES


def _examples(names: Sequence[str], labels: np.ndarray | None, first: dict[str, Said], columns: CsvColumns) -> Examples:
    texts = {name: tuple(first[example].texts[i] for example in names) for i, name in enumerate(columns.text)}
    return Examples(tuple(names), labels, texts, None if texts else "--text names their column")


def _unanswered(answers: np.ndarray, runs: Sequence[str]) -> Iterator[str]:
    for run, row in zip(runs, answers, strict=True):
        if empty := int((np.isnan(row) if row.dtype == float else row == NO_ANSWER).sum()):
            yield f"run {run!r} has {empty} empty prediction{'s' if empty > 1 else ''}"
