"""`stableft import csv`: a table with a row a run, and perhaps more rows for its evaluations, as records."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stableft.errors import UserError
from stableft.imports.checks import check_settings, index_runs
from stableft.imports.evaluations import Evaluation, best_index, length_notes, match_runs, read_evaluations
from stableft.imports.mapping import CsvMapping, choose_rows, conditions, key_reader
from stableft.imports.numbers import Cell, Scale, as_fraction, decimals, find_scale, read_number, to_float
from stableft.imports.runs import Key, arm_names, check_out, run_id_of, save_runs
from stableft.imports.scores import (
    check_baseline,
    describe_baseline,
    failed_as_printed,
    known_task,
    majority_score,
    metric_in_name,
    scale_words,
    score_metric,
)
from stableft.imports.table import Row, Table, read_table
from stableft.metrics import TITLES
from stableft.record import ImportedEval, ImportedRun, ImportedScores, Source


@dataclass(frozen=True)
class Reading:
    """How the scores of one task are to be read. `decimals` are the most that one has, as a fraction."""

    metric: str
    scale: Scale
    val_metric: str
    val_scale: Scale | None
    baseline: float | None
    decimals: int


def import_csv(file: Path, mapping: CsvMapping, out: Path) -> str:
    """Writes the runs of a table to a file of records and returns what they are, line by line.

    Raises:
        UserError: an option, the table or a value in it cannot be used; nothing is written.
    """
    check_out(out, file)
    _check_options(mapping)
    table = read_table(file)
    _check_columns(table, mapping)
    key = key_reader(table, mapping)
    rows = choose_rows(table, conditions(table, "--where", mapping.where))
    runs = index_runs(table, [(key(row), row) for row in rows])
    check_settings(table, runs, mapping.vary)
    cells = _read_scores(table, mapping, runs)
    evaluations = read_evaluations(table, mapping, key, runs)
    notes = match_runs(table, mapping, runs, evaluations)
    names = arm_names(mapping.rename, {run.arm for run in runs})
    readings = _readings(table, mapping, cells, evaluations)
    source = Source(kind="csv", name=file.name, sha256=table.sha256)
    records = [
        _record(mapping, run, names[run.arm], readings[run.task], cell, evaluations.get(run, []), source)
        for run, cell in cells.items()
    ]
    notes = [line for task in sorted(readings) for line in _notes(mapping, task, readings[task])] + notes
    return save_runs(out, records, names, [*notes, *length_notes(records)])


def _way(mapping: CsvMapping) -> tuple[object, ...]:
    """Returns what else tells apart the runs that one file is read as."""
    return mapping.score, mapping.checkpoint, sorted(mapping.where), mapping.arm


def _check_columns(table: Table, mapping: CsvMapping) -> None:
    """Raises UserError for a column that is not there, before anything is said of its rows."""
    for option, name in (("--score", mapping.score), ("--val", mapping.val), ("--train-loss", mapping.train_loss)):
        if name is not None:
            table.position(option, name)


def _check_options(mapping: CsvMapping) -> None:
    if mapping.val_where and mapping.val is None and mapping.train_loss is None:
        raise UserError("--val-where: --val or --train-loss must say what is in those rows")
    if mapping.train_loss is not None and mapping.step is None:
        raise UserError(f"--train-loss {mapping.train_loss}: --step must say at which steps these losses are")
    if mapping.val is not None and metric_in_name(mapping.val) == "loss":
        raise UserError(f"--val {mapping.val}: a loss is no score, of which more is better")


def _read_scores(table: Table, mapping: CsvMapping, runs: dict[Key, Row]) -> dict[Key, Cell]:
    position = table.position("--score", mapping.score)
    cells = {}
    for run, (line, fields) in runs.items():
        cells[run] = read_number(table.path, line, mapping.score, fields[position])
    if not any(cell.text for cell in cells.values()):
        raise UserError(f"{table.path}: --score {mapping.score}: the column is empty in all chosen rows")
    return cells


def _readings(
    table: Table, mapping: CsvMapping, cells: dict[Key, Cell], evaluations: dict[Key, list[Evaluation]]
) -> dict[str, Reading]:
    tasks = sorted({run.task for run in cells})
    if mapping.baseline is not None and len(tasks) > 1:
        raise UserError(f"--baseline {mapping.baseline:g} is for one task, here are {', '.join(tasks)}: use --where")
    metrics = {
        task: score_metric("--score", mapping.score, known_task(task), mapping.metric, table.named) for task in tasks
    }
    val_metrics = {task: metric_in_name(mapping.val or "") or metric for task, metric in metrics.items()}
    same = any(metrics[task] == val_metrics[task] for task in tasks)
    if same and mapping.split == "val" and mapping.val and not mapping.val_where:
        raise UserError(f"--val {mapping.val}: with --split val the score is the validation score; leave --val out")
    measured = [(cell, metrics[run.task]) for run, cell in cells.items()]
    scale = find_scale(table.path, mapping.score, measured, mapping.scale)
    val_scale = None
    if mapping.val:
        points = [(run.task, point.val) for run, some in evaluations.items() for point in some if point.val]
        measured = [(cell, val_metrics[task]) for task, cell in points]
        val_scale = find_scale(table.path, mapping.val, measured, mapping.scale)
    given = check_baseline(mapping.baseline, scale)
    readings = {}
    for task in tasks:
        baseline = majority_score(known_task(task), mapping.split, metrics[task]) if given is None else given
        most = max(decimals(as_fraction(cell.value, scale)) for run, cell in cells.items() if run.task == task)
        readings[task] = Reading(metrics[task], scale, val_metrics[task], val_scale, baseline, most)
    return readings


def _record(
    mapping: CsvMapping,
    run: Key,
    arm: str,
    reading: Reading,
    cell: Cell,
    points: Sequence[Evaluation],
    source: Source,
) -> ImportedRun:
    value = as_fraction(cell.value, reading.scale)
    vals = [_val(point, reading) for point in points]
    checkpoints: dict[str, ImportedScores | None] = {"last": None, "best": None}
    if points:
        best = best_index([val.get(reading.val_metric, math.nan) for val in vals])
        for name, i in (("last", len(points) - 1), ("best", best)):
            if name == mapping.checkpoint or (mapping.val_where and mapping.val):
                checkpoints[name] = ImportedScores(step=points[i].step, val=vals[i], test=None)
    known = checkpoints[mapping.checkpoint] or ImportedScores(step=None, val={}, test=None)
    own = {reading.metric: to_float(value)}
    checkpoints[mapping.checkpoint] = ImportedScores(
        step=known.step,
        val=known.val | own if mapping.split == "val" else known.val,
        test=own if mapping.split == "test" else None,
    )
    whole = mapping.checkpoint == "last" or mapping.val_where  # else the step may be that of the best checkpoint
    return ImportedRun(
        run_id=run_id_of(source.sha256, run, reading.metric, mapping.split, *_way(mapping)),
        arm=arm,
        task=run.task,
        seed=run.seed,
        metric=reading.metric,
        split=mapping.split,
        report=mapping.checkpoint,
        evals=tuple(
            ImportedEval(step=point.step, train_loss=point.train_loss, val_loss=None, val=val)
            for point, val in zip(points, vals, strict=True)
            if point.step is not None
        ),
        last=checkpoints["last"],
        best=checkpoints["best"],
        failed=failed_as_printed(value, reading.decimals, reading.baseline),
        baseline=reading.baseline,
        steps=points[-1].step if points and whole else None,
        source=source,
    )


def _val(point: Evaluation, reading: Reading) -> dict[str, float]:
    if point.val is None or reading.val_scale is None:
        return {}
    return {reading.val_metric: to_float(as_fraction(point.val.value, reading.val_scale))}


def _notes(mapping: CsvMapping, task: str, reading: Reading) -> list[str]:
    """Returns what a user must know of how the scores of a task were read."""
    metric, val_metric = (TITLES.get(name, name) for name in (reading.metric, reading.val_metric))
    failed = describe_baseline(known_task(task), mapping.split, reading.metric, reading.baseline, mapping.baseline)
    notes = [f"{task}: {failed}", f"{task}: {mapping.score} was read as {metric}, {scale_words(reading.scale)}"]
    if reading.val_scale:
        notes.append(f"{task}: {mapping.val} was read as {val_metric}, {scale_words(reading.val_scale)}")
    return notes
