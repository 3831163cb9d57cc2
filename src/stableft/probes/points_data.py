"""The predictions of a sweep's runs, read from their folders: a `Group` of answers for each arm and task."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.errors import UserError
from stableft.plan import PlannedRun, Sources
from stableft.probes.points import answers_of
from stableft.record import PREDICTIONS_FILE, RunRecord, read_record, run_folder
from stableft.report.wording import SPLITS
from stableft.rows import RawSplit
from stableft.splits import fingerprint, read_splits
from stableft.sweepfile import Sweep

Split = Literal["val", "test"]
Checkpoint = Literal["last", "best"]
UNFINISHED = "not finished"
FAILED = (
    "failed is what the runs' records say: the last checkpoint's score, by the task's reported metric, is NaN or not "
    "above that of always answering the most frequent class (MCC and correlations: 0)"
)


@dataclass(frozen=True)
class Examples:
    """What the runs predicted. `labels` [examples] are class ids or numbers; None: nobody said."""

    names: tuple[str, ...]  # the row in the split as it was read, from 0, or what a file calls it
    labels: np.ndarray | None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by column
    no_texts: str | None = None  # why there are none


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone. `answers` [runs, examples]: class ids, or numbers without `classes`."""

    arm: str
    task: str
    where: str  # such as "validation split, last checkpoint"
    classes: tuple[str, ...]
    runs: tuple[str, ...]
    names: tuple[str, ...]  # of the runs for people, with their seeds
    answers: np.ndarray
    failed: tuple[bool | None, ...]
    examples: Examples
    planned: int
    failed_rule: str = FAILED
    notes: tuple[str, ...] = ()  # which runs are not here, and why
    advice: tuple[str, ...] = ()  # how they are made
    origin: str = "this project"


@dataclass(frozen=True)
class Outputs:
    """One run's answers on a split, and which rows they are of."""

    record: RunRecord
    answers: np.ndarray
    labels: np.ndarray
    index: np.ndarray


def read_groups(
    sweep: Sweep, results: Path, split: Literal["reported", "val", "test"], checkpoint: Checkpoint
) -> list[Group]:
    """Returns the groups of a sweep's arms and tasks, in its order; those without any predictions too.

    Raises:
        UserError: a record or file of predictions is damaged, or runs of one group have other examples.
    """
    places: dict[tuple[str, str], dict[str, PlannedRun]] = {}
    for run in sweep.runs:
        places.setdefault((run.arm, run.config.data.task), {})[run.run_id] = run
    texts: dict[str, dict[str, RawSplit] | str] = {}
    return [_group(list(runs.values()), sweep, results, split, checkpoint, texts) for runs in places.values()]


def _group(
    runs: Sequence[PlannedRun],
    sweep: Sweep,
    results: Path,
    wanted: Literal["reported", "val", "test"],
    checkpoint: Checkpoint,
    texts: dict[str, dict[str, RawSplit] | str],
) -> Group:
    first = runs[0]
    task, split = first.config.task, first.config.reported_split if wanted == "reported" else wanted
    found: list[Outputs] = []
    absent: dict[str, list[PlannedRun]] = {}
    for run in runs:
        outputs = _read_outputs(results, run, split, checkpoint)
        if isinstance(outputs, str):
            absent.setdefault(outputs, []).append(run)
        else:
            found.append(outputs)
    _check_examples(found)
    empty = np.zeros((0, 0), dtype=float if task.is_regression else np.int64)
    return Group(
        arm=first.arm,
        task=task.title,
        where=f"{SPLITS[split]}, {checkpoint} checkpoint",
        classes=task.labels,
        runs=tuple(outputs.record.run_id for outputs in found),
        names=tuple(describe_run(outputs.record) for outputs in found),
        answers=np.stack([outputs.answers for outputs in found]) if found else empty,
        failed=tuple(outputs.record.failed for outputs in found),
        examples=_examples(found[0], split, sweep.sources, texts) if found else Examples((), empty[:0].reshape(0)),
        planned=len(runs),
        notes=tuple(_absences(absent, len(runs))),
        advice=tuple(_advice(absent, sweep, results)),
    )


def describe_run(run: PlannedRun | RunRecord) -> str:
    """Returns a run's id with its seeds."""
    return f"{run.run_id} ({describe_seeds(run)})"


def describe_seeds(run: PlannedRun | RunRecord) -> str:
    seeds = run.config.seeds
    return f"seed {seeds.init}" if seeds.init == seeds.data else f"seeds {seeds.init} and {seeds.data}"


def _read_outputs(results: Path, run: PlannedRun, split: Split, checkpoint: Checkpoint) -> Outputs | str:
    """Returns what a run answered, or why it is not known; the reasons are those of `_absences`."""
    record = read_record(results, run.run_id)
    if record is None or record.status == "paused":
        return UNFINISHED
    if record.status != "finished":
        return record.status
    path = run_folder(results, run.run_id) / PREDICTIONS_FILE
    if not path.is_file():
        return "without predictions"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        labels, index = arrays.get(f"{split}_labels"), arrays.get(f"{split}_index")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as predictions: {error}") from None
    if labels is None or index is None:
        raise UserError(f"--split {split}: run {describe_run(record)} of {run.arm} has no {SPLITS[split]}")
    outputs = arrays.get(f"{split}_{checkpoint}")
    if outputs is None:
        return f"without a {checkpoint} checkpoint"
    if outputs.shape != (len(labels), record.config.task.n_outputs) or index.shape != labels.shape:
        raise UserError(f"{path}: outputs of shape {outputs.shape} do not fit {len(labels)} labels")
    answers = outputs[:, 0].astype(float) if record.config.task.is_regression else answers_of(outputs)
    return Outputs(record, answers, labels, index)


def _check_examples(found: Sequence[Outputs]) -> None:
    """Raises UserError unless all runs predicted the same rows, which have the same labels."""
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


def _examples(
    outputs: Outputs, split: Split, sources: Sources, cache: dict[str, dict[str, RawSplit] | str]
) -> Examples:
    """Returns the examples with their texts, or with why the data cannot be read here."""
    config = outputs.record.config
    names = tuple(map(str, outputs.index.tolist()))
    key = config.data.model_dump_json()
    if key not in cache:
        try:
            cache[key] = read_splits(config, sources)
        except UserError as error:
            if sources.data_dir is not None or config.task.hub is None:
                raise
            cache[key] = str(error)  # the numbers need no texts
    parts = cache[key]
    if isinstance(parts, str):
        return Examples(names, outputs.labels, no_texts=parts)
    rows = parts[split]
    _check_data(outputs, split, parts)
    return Examples(names, outputs.labels, dict(zip(config.task.text, map(tuple, rows.texts), strict=True)))


def _check_data(outputs: Outputs, split: Split, parts: dict[str, RawSplit]) -> None:
    """Raises UserError unless the data read here are those of the run."""
    record, rows = outputs.record, parts[split]
    assert record.data
    here = fingerprint(parts)
    same = np.array_equal(rows.labels, outputs.labels) and np.array_equal(rows.index, outputs.index)
    if here != record.data.fingerprint or not same:
        raise UserError(
            f"the data of {record.config.task.title} here are not those of run {describe_run(record)}: their "
            f"fingerprint is {here[:16]}, the run's is {record.data.fingerprint[:16]}"
        )


def _absences(absent: Mapping[str, Sequence[PlannedRun]], planned: int) -> Iterator[str]:
    """Yields for each reason which runs are not here; those that never finished by their seeds alone."""
    for reason, runs in absent.items():
        seeds = ", ".join(describe_seeds(run).partition(" ")[2] for run in runs)
        names = f"seeds {seeds}" if reason == UNFINISHED else ", ".join(map(describe_run, runs))
        yield f"{len(runs)} of {planned} runs {'are' if len(runs) > 1 else 'is'} {reason}: {names}"


def _advice(reasons: Iterable[str], sweep: Sweep, results: Path) -> Iterator[str]:
    """Yields the commands that make what is missing for these reasons."""
    command = f"stableft sweep {sweep.path}" + (f" --results {results}" if results != Path("results") else "")
    for reason in reasons:
        match reason:
            case "not finished":
                yield f"`{command}` does the runs that are not finished"
            case "crashed":
                yield f"`{command} --retry-crashed` does crashed runs again"
            case "without predictions":
                yield f"`{command} --complete` trains runs without predictions again"
            case "stopped":
                yield "runs were stopped early as hopeless, so the others are no sample of their arm"
