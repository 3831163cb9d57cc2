"""Predictions of runs, read from a CSV file: a row for each run and example, or a column for each run.

Rows are read one at a time and kept as small numbers: of a million rows with a column for each of ten runs, reading and
analyzing them takes two to three times the size of the file in memory.
"""

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, overload

import numpy as np

from stableft.data.metrics import compute_scores, majority_baseline
from stableft.errors import UserError, did_you_mean
from stableft.probes.per_example_data import NO_PREDICTION, Examples, PredictionGroup
from stableft.records.csv_table import SourceRow, find_column, hash_file, open_csv_rows
from stableft.records.failure import NOISE_QUANTILE, chance_level, is_failed
from stableft.records.import_values import NUMBER_PATTERN, Mistakes, Place, parse_number, to_float

NAMES_SHOWN = 3  # in a message
SHORT_NUMBER = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)  # a whole number that is written as Python writes it
MAX_BYTE_CLASSES = 100  # that fit into a byte with NO_PREDICTION, and when differences are taken
FAILED_RULE_CLASSES = (
    "failed is an accuracy not above that of always answering the most frequent label (M sec. 3.2), or outputs that "
    "are NaN"
)
FAILED_RULE_REGRESSION = (
    f"failed is a Spearman correlation with the labels of at most {NOISE_QUANTILE} / sqrt(examples), or none (a NaN, "
    "one number everywhere)"
)
FAILED_RULE_UNKNOWN = "which runs failed is not known without --label"


@dataclass(frozen=True)
class PredictionColumns:
    """The names of a table's columns. `regression`: predictions and labels are numbers.

    `wide` names the columns that each hold the predictions of one run, in place of `run` and `prediction`. A name may
    be a pattern such as seed_*.
    """

    example: str = "example"
    run: str = "run"
    prediction: str = "prediction"
    label: str | None = None
    text: tuple[str, ...] = ()
    regression: bool = False
    wide: tuple[str, ...] = ()


class NumberColumn:
    """A growing column of numbers, of the first of some types that holds them all."""

    def __init__(self, *types: str) -> None:
        self._types = types
        self._values: array[Any] = array(types[0])

    def append(self, number: float) -> None:
        try:
            self._values.append(number)
        except OverflowError:
            self._types = self._types[1:]
            self._values = array(self._types[0], self._values)
            self.append(number)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._values[index]

    def to_numpy(self) -> np.ndarray:
        """Return the numbers, which share the memory of the column: nothing can be appended any more."""
        return np.frombuffer(self._values, dtype=self._values.typecode)


class CompactTexts(Sequence[str]):
    """Many short texts in one piece of memory: as numbers while all are whole numbers, otherwise end to end."""

    def __init__(self) -> None:
        self._numbers: NumberColumn | None = NumberColumn("i", "q")
        self._content = bytearray()
        self._ends = NumberColumn("I", "Q")
        self._n = 0
        self._array: np.ndarray | None = None  # of the numbers or ends, once a text has been looked up

    def append(self, text: str) -> None:
        self._n += 1
        if self._numbers is not None:
            if SHORT_NUMBER.fullmatch(text):
                self._numbers.append(int(text))
                return
            before, self._numbers = self._numbers.to_numpy(), None
            for number in before.tolist():
                self._append_bytes(str(number))
        self._append_bytes(text)

    def _append_bytes(self, text: str) -> None:
        self._content += text.encode()
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        if self._array is None:
            self._array = (self._numbers or self._ends).to_numpy()
        i = range(self._n)[index]
        if self._numbers is not None:
            return str(self._array[i])
        return self._content[int(self._array[i - 1]) if i else 0 : int(self._array[i])].decode()


class ClassCodes(dict[str, int]):
    """Numbers for the names of classes, in the order in which they are first looked up."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


@dataclass
class ReadTable:
    """Content of a table. `values` [runs, examples] and `labels` are codes of classes, or for regression numbers."""

    runs: list[str]
    names: Sequence[str]
    values: np.ndarray
    labels: np.ndarray | None
    texts: dict[str, Sequence[str]]
    codes: ClassCodes
    n_rows: int


def read_predictions_csv(path: Path, columns: PredictionColumns) -> PredictionGroup:
    """Return the runs of a table. Runs and examples keep the order in which they first appear.

    Raises:
        UserError: the table cannot be read, a run lacks an example or has it twice, or an example has two labels.
    """
    table = _read_wide(path, columns) if columns.wide else _read_long(path, columns)
    classes = _sort_classes(path, table, columns)
    failed, rule = _find_failed(table.values, table.labels, classes)
    return PredictionGroup(
        arm=path.stem,
        task="",
        source=path.name,
        classes=classes,
        runs=tuple(table.runs),
        run_names=tuple(table.runs),
        predictions=table.values,
        failed=failed,
        examples=Examples(table.names, table.labels, table.texts, None if table.texts else "--text names their column"),
        n_planned=len(table.runs),
        failed_rule=rule,
        notes=tuple(_note_empty_predictions(table.values, table.runs)),
        origin=f"{path.name}, SHA-256 {hash_file(path)[:16]}",
    )


def _read_wide(path: Path, columns: PredictionColumns) -> ReadTable:
    """Return a table with a row for each example and a column for each run."""
    default = PredictionColumns()
    for option, name, usual in (
        ("--run", columns.run, default.run),
        ("--prediction", columns.prediction, default.prediction),
    ):
        if name != usual:
            raise UserError(f"{option} {name} and --wide: where each run has a column, there is none of {option[2:]}s")
    codes, names, hashes = ClassCodes(), CompactTexts(), array("q")
    with open_csv_rows(path) as (header, rows):
        runs, at = _find_wide_columns(path, header, columns)
        named = columns.example in header or columns.example != default.example
        example_at = find_column(path, header, "--example", columns.example) if named else None
        label_at = None if columns.label is None else find_column(path, header, "--label", columns.label)
        text_at = {name: find_column(path, header, "--text", name) for name in columns.text}
        texts: dict[str, CompactTexts] = {name: CompactTexts() for name in columns.text}
        values = [_make_column(columns) for _ in runs]
        labels = _make_column(columns)
        n_rows = 0
        for row in rows:
            line, fields = row
            name = str(n_rows) if example_at is None else fields[example_at].strip()
            n_rows += 1
            if not name:
                raise UserError(f"{path}:{line} column {columns.example!r} is empty: --example must say which it is")
            names.append(name)
            hashes.append(hash(name))
            for run, i, column in zip(runs, at, values, strict=True):
                column.append(_read_prediction(path, row, run, fields[i], columns, codes))
            if label_at is not None:
                labels.append(_read_label(path, row, fields[label_at], columns, codes))
            for text, i in text_at.items():
                texts[text].append(fields[i])
    _check_names_differ(path, columns, np.frombuffer(hashes, dtype=np.int64))
    return ReadTable(
        runs,
        names,
        _stack_columns(values),
        None if label_at is None else labels.to_numpy(),
        dict(texts),
        codes,
        n_rows,
    )


def _find_wide_columns(path: Path, header: list[str], columns: PredictionColumns) -> tuple[list[str], list[int]]:
    """Return the names of the columns of runs, and their places."""
    others = {columns.example, columns.label, *columns.text}
    mistakes = Mistakes()
    found: dict[str, int] = {}
    for pattern in columns.wide:
        fitting = [pattern] if pattern in header else [name for name in header if name and fnmatchcase(name, pattern)]
        if pattern in others:
            mistakes.messages.append(f"--wide {pattern}: the column is not that of a run, another option names it")
        elif not fitting:
            mistakes.messages.append(
                f"{path}: --wide {pattern}: no column has such a name, there are {', '.join(filter(None, header))}"
                f"{did_you_mean(pattern, header)}"
            )
        for name in fitting:
            if name not in others:
                with mistakes.caught():
                    found[name] = find_column(path, header, "--wide", name)
    mistakes.check()
    return list(found), list(found.values())


def _check_names_differ(path: Path, columns: PredictionColumns, hashes: np.ndarray) -> None:
    """Check that no example has two rows. Only if two hashes are equal is the file read again."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return
    seen: dict[str, int] = {}
    with open_csv_rows(path) as (header, rows):
        at = find_column(path, header, "--example", columns.example)
        for line, fields in rows:
            name = fields[at].strip()
            if name in seen:
                raise UserError(
                    f"{path}: lines {seen[name]} and {line} both have example {name!r}; where each run has a column, "
                    "each example must have one row"
                )
            seen[name] = line


def _read_long(path: Path, columns: PredictionColumns) -> ReadTable:
    """Return a table with a row for each run and example."""
    codes, runs, names = ClassCodes(), ClassCodes(), ClassCodes()
    lines, run_of, example_of = (NumberColumn("i", "q") for _ in range(3))
    first_lines, label_of = NumberColumn("i", "q"), NumberColumn("b", "i", "q")
    label_names = ClassCodes()  # as they are written
    texts: list[tuple[str, ...]] = []
    values, labels = _make_column(columns), _make_column(columns)
    with open_csv_rows(path) as (header, rows):
        places = {"--example": columns.example, "--run": columns.run, "--prediction": columns.prediction}
        example_at, run_at, value_at = (find_column(path, header, *place) for place in places.items())
        label_at = None if columns.label is None else find_column(path, header, "--label", columns.label)
        text_at = [find_column(path, header, "--text", name) for name in columns.text]
        for row in rows:
            line, fields = row
            name, run = fields[example_at].strip(), fields[run_at].strip()
            for option, value in (("--example", name), ("--run", run)):
                if not value:
                    raise UserError(f"{path}:{line} column {places[option]!r} is empty: {option} must say which it is")
            example = names[name]
            label = "" if label_at is None else fields[label_at].strip()
            text = tuple(fields[i] for i in text_at)
            if example == len(first_lines):
                first_lines.append(line)
                label_of.append(label_names[label])
                if text_at:
                    texts.append(text)
                if label_at is not None:
                    labels.append(_read_label(path, row, label, columns, codes))
            differs = label_of[example] != label_names[label]
            if differs or (text_at and texts[example] != text):
                a, b = (list(label_names)[label_of[example]], label) if differs else (texts[example], text)
                raise UserError(
                    f"{path}: lines {first_lines[example]} and {line} give example {name!r} two "
                    f"{'labels' if differs else 'texts'}, {_quote(a)} and {_quote(b)}"
                )
            lines.append(line)
            run_of.append(runs[run])
            example_of.append(example)
            values.append(_read_prediction(path, row, columns.prediction, fields[value_at], columns, codes))
    array_of = values.to_numpy()
    keys = run_of.to_numpy().astype(np.int64)
    keys *= len(names)  # in place, as here is the peak of memory
    keys += example_of.to_numpy()
    _check_each_once(path, keys, lines.to_numpy(), list(runs), names, first_lines, run_of.to_numpy())
    compact_names = CompactTexts()
    for name in names:
        compact_names.append(name)
    matrix = np.empty(len(runs) * len(names), array_of.dtype)
    matrix[keys] = array_of
    return ReadTable(
        list(runs),
        compact_names,
        matrix.reshape(len(runs), len(names)),
        None if label_at is None else labels.to_numpy(),
        {name: tuple(text[i] for text in texts) for i, name in enumerate(columns.text)},
        codes,
        len(keys),
    )


def _check_each_once(
    path: Path,
    keys: np.ndarray,
    lines: np.ndarray,
    runs: list[str],
    names: ClassCodes,
    first_lines: NumberColumn,
    run_of: np.ndarray,
) -> None:
    """Check that each run has each example once. `keys` are number of the run * examples + number of the example."""
    found = np.zeros(len(runs) * len(names), bool)
    found[keys] = True
    if np.count_nonzero(found) < len(keys):
        order = np.argsort(keys, kind="stable")
        later = order[1:][keys[order[1:]] == keys[order[:-1]]].min()  # the first row that repeats another
        other = int(np.flatnonzero(keys == keys[later])[0])
        run, example = divmod(int(keys[later]), len(names))
        raise UserError(
            f"{path}: lines {lines[other]} and {lines[later]} both have run {runs[run]!r} on example "
            f"{list(names)[example]!r}; each run must have each example once"
        )
    lacking = np.flatnonzero(~found)
    if len(lacking):
        run, example = divmod(int(lacking[0]), len(names))
        n = int((~found.reshape(len(runs), -1)[run]).sum())
        more = f" and of {n - 1} more" if n > 1 else ""
        other_run = runs[int(run_of[np.flatnonzero(lines == first_lines[example])[0]])]
        raise UserError(
            f"{path}: run {runs[run]!r} has no prediction of example {list(names)[example]!r}{more}, which run "
            f"{other_run!r} has on line {first_lines[example]}; each run must have each example once"
        )


def _make_column(columns: PredictionColumns) -> NumberColumn:
    return NumberColumn("d") if columns.regression else NumberColumn("b", "i", "q")


def _stack_columns(columns: list[NumberColumn]) -> np.ndarray:
    """Return the columns as the rows of one array, and empty the list, so that each is in memory twice only briefly."""
    kind = np.result_type(*(column.to_numpy().dtype for column in columns))
    values = np.empty((len(columns), len(columns[0].to_numpy())), kind)
    for row in reversed(range(len(columns))):
        values[row] = columns.pop().to_numpy()
    return values


def _read_prediction(
    path: Path, row: SourceRow, column: str, text: str, columns: PredictionColumns, codes: ClassCodes
) -> float:
    text = text.strip()
    if not columns.regression:
        return codes[text] if text else NO_PREDICTION
    if NUMBER_PATTERN.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    cell = parse_number(Place(path, row[0]), column, text)
    if cell.percent:
        raise UserError(f"{cell.place} column {column!r}: {text!r} must be a number")
    return to_float(cell.value)


def _read_label(path: Path, row: SourceRow, text: str, columns: PredictionColumns, codes: ClassCodes) -> float:
    text, place = text.strip(), f"{path}:{row[0]} column {columns.label!r}"
    if not text:
        raise UserError(f"{place}: the label is empty")
    value = _read_prediction(path, row, columns.label or "", text, columns, codes)
    if math.isnan(value):
        raise UserError(f"{place}: the label {text!r} must be a number")
    return value


def _quote(value: str | tuple[str, ...]) -> str:
    text = value if isinstance(value, str) else " / ".join(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _sort_classes(path: Path, table: ReadTable, columns: PredictionColumns) -> tuple[str, ...]:
    """Return all predicted or true classes, sorted, and renumber those of the table; none for regression."""
    if columns.regression:
        return ()
    names = list(table.codes)
    predicted = {names[i] for i in np.unique(table.values).tolist() if i != NO_PREDICTION}
    true = set() if table.labels is None else {names[i] for i in np.unique(table.labels).tolist()}
    titles = f"columns {', '.join(columns.wide)} have" if columns.wide else f"column {columns.prediction!r} has"
    if columns.label is not None and predicted and not predicted & true:
        raise UserError(
            f"{path}: no prediction is one of the labels: {titles} {_quote_some(predicted)}, column "
            f"{columns.label!r} has {_quote_some(true)}"
        )
    classes = predicted | true
    if len(classes) > max(20, table.n_rows // 4):  # such as the numbers of a regression
        raise UserError(
            f"{path}: {titles} {len(predicted)} different predictions ({_quote_some(predicted)}) in {table.n_rows} "
            "rows; if they are numbers, say --regression"
        )
    ordered = sorted(classes)
    numbers = {name: i for i, name in enumerate(ordered)}
    renumbered = np.array([*(numbers[name] for name in names), NO_PREDICTION])  # the last, as index -1
    renumbered = renumbered.astype(np.int8 if len(ordered) <= MAX_BYTE_CLASSES else np.int64)
    table.values = table.values.astype(renumbered.dtype, copy=False)
    for run in table.values:
        run[:] = renumbered[run]
    table.labels = None if table.labels is None else renumbered[table.labels]
    return tuple(ordered)


def _quote_some(names: set[str]) -> str:
    return ", ".join(_quote(name) for name in sorted(names)[:NAMES_SHOWN]) + (
        ", ..." if len(names) > NAMES_SHOWN else ""
    )


def _find_failed(
    predictions: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...]
) -> tuple[tuple[bool | None, ...], str]:
    """Return which runs failed (None: unknown), and the rule in words."""
    if labels is None:
        return (None,) * len(predictions), FAILED_RULE_UNKNOWN
    if not classes:
        scores = [compute_scores(run[:, np.newaxis], labels, ("spearman",))["spearman"] for run in predictions]
        level = chance_level("spearman", 0.0, len(labels))
        assert level is not None
        return tuple(is_failed(value, level) for value in scores), FAILED_RULE_REGRESSION
    baseline = majority_baseline(labels, "accuracy")
    scores = [math.nan if (run == NO_PREDICTION).any() else float((run == labels).mean()) for run in predictions]
    return tuple(is_failed(value, baseline) for value in scores), FAILED_RULE_CLASSES


def _note_empty_predictions(predictions: np.ndarray, runs: Sequence[str]) -> Iterator[str]:
    for run, row in zip(runs, predictions, strict=True):
        if empty := int((np.isnan(row) if row.dtype == float else row == NO_PREDICTION).sum()):
            yield f"run {run!r} has {empty} empty prediction{'s' if empty > 1 else ''}"
