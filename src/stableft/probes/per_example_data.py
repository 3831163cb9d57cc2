"""Predictions of runs, read from run folders or a CSV file."""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.run_config import Checkpoint, Split
from stableft.config.sweep_file import Sweep
from stableft.data.metrics import compute_scores, majority_baseline
from stableft.data.sources import RawSplit
from stableft.data.splits import read_splits, rows_fingerprint
from stableft.errors import UserError
from stableft.records.csv_table import CsvTable, read_csv_table
from stableft.records.failure import NOISE_QUANTILE, chance_level, has_failed, is_failed
from stableft.records.import_runs import parse_number, to_float
from stableft.records.run_record import PREDICTIONS_FILE, RunRecord, read_record, run_folder
from stableft.report.numbers_in_words import SPLIT_TITLES


class MissingPredictions(StrEnum):
    """Why a run has no predictions to compare, as the report words it."""

    NOT_FINISHED = "not finished"
    CRASHED = "crashed"
    STOPPED = "stopped"
    NOT_SAVED = "without predictions"
    NO_BEST = "without a best checkpoint"
    NO_LAST = "without a last checkpoint"


FAILED_RULE_RECORDS = (
    "failed is a last checkpoint whose score by the task's reported metric is NaN or no better than chance: than the "
    f"best constant prediction (MCC and correlations: {NOISE_QUANTILE} / sqrt(examples))"
)


@dataclass(frozen=True)
class Examples:
    """The examples that runs predicted. `labels` [examples] are class ids or numbers; None: unknown."""

    names: tuple[str, ...]  # row numbers in the split as read, from 0, or names in a file
    labels: np.ndarray | None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by column
    no_texts: str | None = None  # why `texts` is empty


@dataclass(frozen=True)
class PredictionGroup:
    """Runs that differ only in their seeds. `predictions` [runs, examples] are class ids, or numbers for regression."""

    arm: str
    task: str
    source: str  # such as "validation split, last checkpoint"
    classes: tuple[str, ...]  # none for regression
    runs: tuple[str, ...]
    run_names: tuple[str, ...]  # ids with seeds
    predictions: np.ndarray
    failed: tuple[bool | None, ...]
    examples: Examples
    n_planned: int
    failed_rule: str = FAILED_RULE_RECORDS
    notes: tuple[str, ...] = ()  # which runs are missing, and why
    advice: tuple[str, ...] = ()  # how to get the missing predictions
    origin: str = "this project"


@dataclass(frozen=True)
class RunPredictions:
    """One run's predictions on a split, with the labels and row numbers of the examples."""

    record: RunRecord
    predictions: np.ndarray
    labels: np.ndarray
    index: np.ndarray


SplitsCache = dict[str, dict[str, RawSplit] | UserError]  # data config -> its splits, or why they cannot be read


def read_prediction_groups(
    sweep: Sweep, results: Path, split: Literal["reported", "val", "test"], checkpoint: Checkpoint
) -> list[PredictionGroup]:
    """Return one group per arm and task of a sweep, in its order, including groups without predictions.

    Raises:
        UserError: a record or predictions file is damaged, or runs of a group have different examples.
    """
    runs_by_group: dict[tuple[str, str], dict[str, PlannedRun]] = {}
    for run in sweep.runs:
        runs_by_group.setdefault((run.arm, run.config.data.task), {})[run.run_id] = run
    cache: SplitsCache = {}
    return [
        _read_group(list(runs.values()), sweep, results, split, checkpoint, cache) for runs in runs_by_group.values()
    ]


def _read_group(
    runs: Sequence[PlannedRun],
    sweep: Sweep,
    results: Path,
    split_option: Literal["reported", "val", "test"],
    checkpoint: Checkpoint,
    cache: SplitsCache,
) -> PredictionGroup:
    first = runs[0]
    task, split = first.config.task, first.config.reported_split if split_option == "reported" else split_option
    found: list[RunPredictions] = []
    absent: dict[MissingPredictions, list[PlannedRun]] = {}
    for run in runs:
        outputs = _read_predictions(results, run, split, checkpoint)
        if isinstance(outputs, MissingPredictions):
            absent.setdefault(outputs, []).append(run)
        else:
            found.append(outputs)
    _check_same_examples(found)
    empty = np.zeros((0, 0), dtype=float if task.is_regression else np.int64)
    return PredictionGroup(
        arm=first.arm,
        task=task.title,
        source=f"{SPLIT_TITLES[split]}, {checkpoint} checkpoint",
        classes=task.labels,
        runs=tuple(outputs.record.run_id for outputs in found),
        run_names=tuple(describe_run(outputs.record) for outputs in found),
        predictions=np.stack([outputs.predictions for outputs in found]) if found else empty,
        failed=tuple(has_failed(outputs.record) for outputs in found),
        examples=_read_examples(found[0], split, sweep.sources, cache) if found else Examples((), empty[:0].reshape(0)),
        n_planned=len(runs),
        notes=tuple(_describe_missing_runs(absent, len(runs))),
        advice=tuple(_suggest_commands(absent, sweep, results)),
    )


def describe_run(run: PlannedRun | RunRecord) -> str:
    """Return a run's id with its seeds."""
    return f"{run.run_id} ({describe_seeds(run)})"


def describe_seeds(run: PlannedRun | RunRecord) -> str:
    """Return a run's seeds as "seed 3", or "seed 3/7" if they differ."""
    return f"seed {run.config.seeds.label}"


def _read_predictions(
    results: Path, run: PlannedRun, split: Split, checkpoint: Checkpoint
) -> RunPredictions | MissingPredictions:
    """Return a run's predictions, or why there are none."""
    record = read_record(results, run.run_id)
    if record is None or record.status == "paused":
        return MissingPredictions.NOT_FINISHED
    if record.status != "finished":
        return MissingPredictions.CRASHED if record.status == "crashed" else MissingPredictions.STOPPED
    path = run_folder(results, run.run_id) / PREDICTIONS_FILE
    if not path.is_file():
        return MissingPredictions.NOT_SAVED
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        labels, index = arrays.get(f"{split}_labels"), arrays.get(f"{split}_index")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as predictions: {error}") from None
    if labels is None or index is None:
        raise UserError(f"--split {split}: run {describe_run(record)} of {run.arm} has no {SPLIT_TITLES[split]}")
    outputs = arrays.get(f"{split}_{checkpoint}")
    if outputs is None:
        return MissingPredictions.NO_BEST if checkpoint == "best" else MissingPredictions.NO_LAST
    if outputs.shape != (len(labels), record.config.task.n_outputs) or index.shape != labels.shape:
        raise UserError(f"{path}: outputs of shape {outputs.shape} do not fit {len(labels)} labels")
    predictions = outputs[:, 0].astype(float) if record.config.task.is_regression else predict_classes(outputs)
    return RunPredictions(record, predictions, labels, index)


def _check_same_examples(found: Sequence[RunPredictions]) -> None:
    """Check that all runs predicted the same rows with the same labels."""
    for other in found[1:]:
        one = found[0]
        pair = f"runs {describe_run(one.record)} and {describe_run(other.record)} of {one.record.arm}"
        if len(one.index) != len(other.index):
            raise UserError(f"{pair} predicted {len(one.index)} and {len(other.index)} examples, not the same ones")
        for name, a, b in (("row", one.index, other.index), ("label", one.labels, other.labels)):
            if (a != b).any():
                at = int(np.flatnonzero(a != b)[0])
                raise UserError(
                    f"{pair} did not predict the same examples: the {name} of their example {at} is {a[at]:g} and "
                    f"{b[at]:g}"
                )


def _read_examples(outputs: RunPredictions, split: Split, sources: LocalPaths, cache: SplitsCache) -> Examples:
    """Return the examples with their texts, or with the reason why the data cannot be read on this machine."""
    config = outputs.record.config
    names = tuple(map(str, outputs.index.tolist()))
    key = config.data.model_dump_json()
    if key not in cache:
        try:
            cache[key] = read_splits(config, sources)
        except UserError as error:
            if sources.data_dir is not None or config.task.hub is None:
                raise
            cache[key] = error  # the numbers need no texts
    splits = cache[key]
    if isinstance(splits, UserError):
        return Examples(names, outputs.labels, no_texts=str(splits))
    rows = splits[split]
    _check_same_data(outputs, split, splits)
    return Examples(names, outputs.labels, dict(zip(config.task.text, map(tuple, rows.texts), strict=True)))


def _check_same_data(outputs: RunPredictions, split: Split, splits: dict[str, RawSplit]) -> None:
    """Check that the data on this machine are those of the run."""
    record, rows = outputs.record, splits[split]
    assert record.data
    fingerprint = rows_fingerprint(splits)
    same = np.array_equal(rows.labels, outputs.labels) and np.array_equal(rows.index, outputs.index)
    if fingerprint != record.data.fingerprint or not same:
        raise UserError(
            f"the data of {record.config.task.title} here are not those of run {describe_run(record)}: their "
            f"fingerprint is {fingerprint[:16]}, the run's is {record.data.fingerprint[:16]}"
        )


def _describe_missing_runs(absent: Mapping[MissingPredictions, Sequence[PlannedRun]], planned: int) -> Iterator[str]:
    """Yield a note for each reason with the runs it holds for; unfinished runs are named by their seeds alone."""
    for reason, runs in absent.items():
        if reason is MissingPredictions.NOT_FINISHED:
            names = f"seeds {', '.join(run.config.seeds.label for run in runs)}"
        else:
            names = ", ".join(map(describe_run, runs))
        yield f"{len(runs)} of {planned} runs {'are' if len(runs) > 1 else 'is'} {reason}: {names}"


def _suggest_commands(reasons: Iterable[MissingPredictions], sweep: Sweep, results: Path) -> Iterator[str]:
    """Yield advice on how to get the missing predictions."""
    command = f"stableft sweep {sweep.path}" + (f" --results {results}" if results != Path("results") else "")
    for reason in reasons:
        match reason:
            case MissingPredictions.NOT_FINISHED:
                yield f"`{command}` does the runs that are not finished"
            case MissingPredictions.CRASHED:
                yield f"`{command} --retry-crashed` does crashed runs again"
            case MissingPredictions.NOT_SAVED:
                yield f"`{command} --complete` trains runs without predictions again"
            case MissingPredictions.STOPPED:
                yield "runs were stopped early as hopeless, so the others are no sample of their arm"


NAMES_SHOWN = 3  # in a message
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
    """The names of a table's columns. `regression`: predictions and labels are numbers."""

    example: str = "example"
    run: str = "run"
    prediction: str = "prediction"
    label: str | None = None
    text: tuple[str, ...] = ()
    regression: bool = False


@dataclass(frozen=True)
class PredictionRow:
    """One row of a table: a run's prediction for an example, and the example's label and texts, if given."""

    line: int
    example: str
    run: str
    prediction: str
    label: str
    texts: tuple[str, ...]


def read_predictions_csv(path: Path, columns: PredictionColumns) -> PredictionGroup:
    """Return the runs of a table. Runs and examples keep the order in which they first appear.

    Raises:
        UserError: the table cannot be read, a run lacks an example or has it twice, or an example has two labels.
    """
    table = read_csv_table(path)
    rows = list(_read_prediction_rows(table, columns))
    runs, examples = list(dict.fromkeys(row.run for row in rows)), list(dict.fromkeys(row.example for row in rows))
    cells = _index_rows(path, rows, runs, examples)
    first = _first_row_per_example(path, rows, columns)
    classes = _collect_classes(path, rows, columns)
    predictions = _prediction_array(
        path, [[cells[run, example] for example in examples] for run in runs], columns, classes
    )
    labels = None
    if columns.label is not None:
        labels = _label_array(path, [first[example] for example in examples], columns, classes)
    failed, rule = _find_failed(predictions, labels, classes)
    return PredictionGroup(
        arm=path.stem,
        task="",
        source=path.name,
        classes=classes,
        runs=tuple(runs),
        run_names=tuple(runs),
        predictions=predictions,
        failed=failed,
        examples=_make_examples(examples, labels, first, columns),
        n_planned=len(runs),
        failed_rule=rule,
        notes=tuple(_note_empty_predictions(predictions, runs)),
        origin=f"{path.name}, SHA-256 {table.sha256[:16]}",
    )


def _read_prediction_rows(table: CsvTable, columns: PredictionColumns) -> Iterator[PredictionRow]:
    names = [("--example", columns.example), ("--run", columns.run), ("--prediction", columns.prediction)]
    names += [("--label", columns.label)] if columns.label is not None else []
    names += [("--text", name) for name in columns.text]
    columns_by_name = {name: table.position(option, name) for option, name in names}
    for line, fields in table.rows:
        example, run, prediction = (fields[columns_by_name[name]].strip() for _, name in names[:3])
        for option, name in names[:2]:
            if not fields[columns_by_name[name]].strip():
                raise UserError(f"{table.path}:{line} column {name!r} is empty: {option} must say which it is")
        label = "" if columns.label is None else fields[columns_by_name[columns.label]].strip()
        yield PredictionRow(
            line, example, run, prediction, label, tuple(fields[columns_by_name[name]] for name in columns.text)
        )


def _index_rows(
    path: Path, rows: Sequence[PredictionRow], runs: list[str], examples: list[str]
) -> dict[tuple[str, str], PredictionRow]:
    """Return (run, example) -> row, after checking that each pair appears exactly once."""
    cells: dict[tuple[str, str], PredictionRow] = {}
    for row in rows:
        other = cells.setdefault((row.run, row.example), row)
        if other is not row:
            raise UserError(
                f"{path}: lines {other.line} and {row.line} both have run {row.run!r} on example {row.example!r}; "
                "each run must have each example once"
            )
    for run in runs:
        lacking = [example for example in examples if (run, example) not in cells]
        if lacking:
            other = next(row for row in rows if row.example == lacking[0])
            more = f" and of {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(
                f"{path}: run {run!r} has no prediction of example {lacking[0]!r}{more}, which run {other.run!r} has "
                f"on line {other.line}; each run must have each example once"
            )
    return cells


def _first_row_per_example(
    path: Path, rows: Sequence[PredictionRow], columns: PredictionColumns
) -> dict[str, PredictionRow]:
    """Return the first row of each example, after checking that its other rows have the same label and texts."""
    first: dict[str, PredictionRow] = {}
    for row in rows:
        other = first.setdefault(row.example, row)
        for what, a, b in (("label", other.label, row.label), ("text", other.texts, row.texts)):
            if a != b:
                raise UserError(
                    f"{path}: lines {other.line} and {row.line} give example {row.example!r} two {what}s, "
                    f"{_quote(a)} and {_quote(b)}"
                )
        if columns.label is not None and not row.label:
            raise UserError(f"{path}:{row.line} column {columns.label!r}: the label is empty")
    return first


def _quote(value: str | tuple[str, ...]) -> str:
    text = value if isinstance(value, str) else " / ".join(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _collect_classes(path: Path, rows: Sequence[PredictionRow], columns: PredictionColumns) -> tuple[str, ...]:
    """Return all predicted or true classes, sorted; none for regression."""
    if columns.regression:
        return ()
    predicted, true = {row.prediction for row in rows} - {""}, {row.label for row in rows} - {""}
    if columns.label is not None and predicted and not predicted & true:
        raise UserError(
            f"{path}: no prediction is one of the labels: column {columns.prediction!r} has {_quote_some(predicted)}, "
            f"column {columns.label!r} has {_quote_some(true)}"
        )
    classes = predicted | true
    if len(classes) > max(20, len(rows) // 4):  # such as the numbers of a regression
        raise UserError(
            f"{path}: column {columns.prediction!r} has {len(predicted)} different predictions "
            f"({_quote_some(predicted)}) in "
            f"{len(rows)} rows; if they are numbers, say --regression"
        )
    return tuple(sorted(classes))


def _quote_some(names: set[str]) -> str:
    return ", ".join(_quote(name) for name in sorted(names)[:NAMES_SHOWN]) + (
        ", ..." if len(names) > NAMES_SHOWN else ""
    )


def _prediction_array(
    path: Path, cells: list[list[PredictionRow]], columns: PredictionColumns, classes: tuple[str, ...]
) -> np.ndarray:
    if columns.regression:
        return np.array(
            [
                [to_float(parse_number(path, s.line, columns.prediction, s.prediction).value) for s in row]
                for row in cells
            ]
        )
    ids = {name: i for i, name in enumerate(classes)} | {"": NO_PREDICTION}
    return np.array([[ids[s.prediction] for s in row] for row in cells])


def _label_array(
    path: Path, first: list[PredictionRow], columns: PredictionColumns, classes: tuple[str, ...]
) -> np.ndarray:
    assert columns.label is not None
    if not columns.regression:
        return np.array([classes.index(row.label) for row in first])
    values = [parse_number(path, row.line, columns.label, row.label) for row in first]
    for row, value in zip(first, values, strict=True):
        if value.value is None:
            raise UserError(f"{path}:{row.line} column {columns.label!r}: the label {row.label!r} must be a number")
    return np.array([to_float(value.value) for value in values])


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


def _make_examples(
    names: Sequence[str], labels: np.ndarray | None, first: dict[str, PredictionRow], columns: PredictionColumns
) -> Examples:
    texts = {name: tuple(first[example].texts[i] for example in names) for i, name in enumerate(columns.text)}
    return Examples(tuple(names), labels, texts, None if texts else "--text names their column")


def _note_empty_predictions(predictions: np.ndarray, runs: Sequence[str]) -> Iterator[str]:
    for run, row in zip(runs, predictions, strict=True):
        if empty := int((np.isnan(row) if row.dtype == float else row == NO_PREDICTION).sum()):
            yield f"run {run!r} has {empty} empty prediction{'s' if empty > 1 else ''}"


NO_PREDICTION = -1  # in place of a class if outputs are not finite (the run diverged); counts as wrong


def predict_classes(outputs: np.ndarray) -> np.ndarray:
    """Return the class [rows] with the largest output [rows, classes]; NO_PREDICTION where an output is not finite."""
    return np.where(np.isfinite(outputs).all(axis=1), outputs.argmax(axis=1), NO_PREDICTION)
