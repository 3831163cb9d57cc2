"""Predictions of runs, read from run folders."""

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
from stableft.data.sources import RawSplit
from stableft.data.splits import read_splits, rows_fingerprint
from stableft.errors import UserError
from stableft.records.failure import NOISE_QUANTILE, has_failed
from stableft.records.file_sums import check_undamaged
from stableft.records.run_record import PREDICTIONS_FILE, RunRecord, read_intact_record, run_folder
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

    names: Sequence[str]  # row numbers in the split as read, from 0, or names in a file
    labels: np.ndarray | None
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by column
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
    record = read_intact_record(results, run.run_id)
    if record is None or record.status == "paused":
        return MissingPredictions.NOT_FINISHED
    if record.status != "finished":
        return MissingPredictions.CRASHED if record.status == "crashed" else MissingPredictions.STOPPED
    path = run_folder(results, run.run_id) / PREDICTIONS_FILE
    if not path.is_file():
        return MissingPredictions.NOT_SAVED
    check_undamaged(path.parent, record.files, PREDICTIONS_FILE)
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
    config = outputs.record.run_config
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


NO_PREDICTION = -1  # in place of a class if outputs are not finite (the run diverged); counts as wrong


def predict_classes(outputs: np.ndarray) -> np.ndarray:
    """Return the class [rows] with the largest output [rows, classes]; NO_PREDICTION where an output is not finite."""
    return np.where(np.isfinite(outputs).all(axis=1), outputs.argmax(axis=1), NO_PREDICTION)
