"""`stableft import csv`: a table with one row a run, optionally with rows for evaluations."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stableft.catalog.tasks import METRIC_TITLES
from stableft.errors import UserError
from stableft.records.csv_table import (
    CsvMapping,
    CsvRow,
    CsvTable,
    filter_rows,
    make_run_key_reader,
    parse_row_filters,
    read_csv_table,
)
from stableft.records.failure import compared_digits, count_decimals
from stableft.records.import_evaluations import (
    EvaluationRow,
    best_index,
    drop_unscored_evaluations,
    note_unequal_lengths,
    read_evaluations,
)
from stableft.records.import_runs import (
    ImportedChance,
    PrintedNumber,
    RunKey,
    ScoreScale,
    as_fraction,
    baseline_as_fraction,
    check_import_out,
    check_single_task,
    choose_chance,
    choose_metric,
    describe_run_keys,
    describe_scale,
    determine_scale,
    find_known_task,
    make_imported_run_id,
    metric_in_name,
    parse_number,
    rename_arms,
    to_float,
    write_imported_runs,
)
from stableft.records.run_record import ImportedEval, ImportedRun, ImportedScores, ImportSource


@dataclass(frozen=True)
class ScoreFormat:
    """How the scores of one task are to be read. `decimals` are the most that one has, as a fraction."""

    metric: str
    scale: ScoreScale
    val_metric: str
    val_scale: ScoreScale | None
    chance: ImportedChance
    chance_note: str
    decimals: int


def import_csv(file: Path, mapping: CsvMapping, out: Path) -> str:
    """Write the runs of a table to a records file, and return a description of them.

    Raises:
        UserError: an option, the table or a value in it is invalid; nothing is written.
    """
    check_import_out(out, file)
    _check_options(mapping)
    table = read_csv_table(file)
    _check_columns(table, mapping)
    key = make_run_key_reader(table, mapping)
    rows = filter_rows(table, parse_row_filters(table, "--where", mapping.where))
    runs = index_runs(table, [(key(row), row) for row in rows])
    check_arms_uniform(table, runs, mapping.vary)
    cells = _read_scores(table, mapping, runs)
    evaluations = read_evaluations(table, mapping, key, runs)
    notes = drop_unscored_evaluations(table, mapping, runs, evaluations)
    names = rename_arms(mapping.rename, {run.arm for run in runs})
    readings = _find_score_formats(table, mapping, cells, evaluations)
    source = ImportSource(kind="csv", name=file.name, sha256=table.sha256)
    records = [
        _make_run(mapping, run, names[run.arm], readings[run.task], cell, evaluations.get(run, []), source)
        for run, cell in cells.items()
    ]
    notes = [
        line for task in sorted(readings) for line in _describe_score_format(mapping, task, readings[task])
    ] + notes
    return write_imported_runs(out, records, names, [*notes, *note_unequal_lengths(records)])


def _identifying_options(mapping: CsvMapping) -> tuple[object, ...]:
    """Return the options that distinguish the ids of runs read from the same file."""
    return mapping.score, mapping.checkpoint, sorted(mapping.where), mapping.arm


def _check_columns(table: CsvTable, mapping: CsvMapping) -> None:
    """Check that all columns exist, before any row is checked."""
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


def _read_scores(table: CsvTable, mapping: CsvMapping, runs: dict[RunKey, CsvRow]) -> dict[RunKey, PrintedNumber]:
    position = table.position("--score", mapping.score)
    cells = {}
    for run, (line, fields) in runs.items():
        cells[run] = parse_number(table.path, line, mapping.score, fields[position])
    if not any(cell.text for cell in cells.values()):
        raise UserError(f"{table.path}: --score {mapping.score}: the column is empty in all chosen rows")
    return cells


def _find_score_formats(
    table: CsvTable,
    mapping: CsvMapping,
    cells: dict[RunKey, PrintedNumber],
    evaluations: dict[RunKey, list[EvaluationRow]],
) -> dict[str, ScoreFormat]:
    tasks = sorted({run.task for run in cells})
    check_single_task(tasks, mapping.baseline, mapping.rows)
    metrics = {
        task: choose_metric("--score", mapping.score, find_known_task(task), mapping.metric, table.named)
        for task in tasks
    }
    val_metrics = {task: metric_in_name(mapping.val or "") or metric for task, metric in metrics.items()}
    same = any(metrics[task] == val_metrics[task] for task in tasks)
    if same and mapping.split == "val" and mapping.val and not mapping.val_where:
        raise UserError(f"--val {mapping.val}: with --split val the score is the validation score; leave --val out")
    measured = [(cell, metrics[run.task]) for run, cell in cells.items()]
    scale = determine_scale(table.path, mapping.score, measured, mapping.scale)
    val_scale = None
    if mapping.val:
        points = [(run.task, point.val) for run, some in evaluations.items() for point in some if point.val]
        measured = [(cell, val_metrics[task]) for task, cell in points]
        val_scale = determine_scale(table.path, mapping.val, measured, mapping.scale)
    given = baseline_as_fraction(mapping.baseline, scale)
    readings = {}
    for task in tasks:
        chance, note = choose_chance(task, mapping.split, metrics[task], given, mapping.rows)
        most = max(count_decimals(as_fraction(cell.value, scale)) for run, cell in cells.items() if run.task == task)
        readings[task] = ScoreFormat(metrics[task], scale, val_metrics[task], val_scale, chance, note, most)
    return readings


def _make_run(
    mapping: CsvMapping,
    run: RunKey,
    arm: str,
    reading: ScoreFormat,
    cell: PrintedNumber,
    points: Sequence[EvaluationRow],
    source: ImportSource,
) -> ImportedRun:
    value = as_fraction(cell.value, reading.scale)
    vals = [_val_scores(point, reading) for point in points]
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
        run_id=make_imported_run_id(source.sha256, run, reading.metric, mapping.split, *_identifying_options(mapping)),
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
        failed=None,  # judged before it is written
        baseline=reading.chance.constant,
        steps=points[-1].step if points and whole else None,
        source=source,
        rows=reading.chance.rows,
        digits=compared_digits(value, reading.decimals),
    )


def _val_scores(point: EvaluationRow, reading: ScoreFormat) -> dict[str, float]:
    if point.val is None or reading.val_scale is None:
        return {}
    return {reading.val_metric: to_float(as_fraction(point.val.value, reading.val_scale))}


def _describe_score_format(mapping: CsvMapping, task: str, reading: ScoreFormat) -> list[str]:
    """Return how the scores of a task were read, for the user."""
    metric, val_metric = (METRIC_TITLES.get(name, name) for name in (reading.metric, reading.val_metric))
    notes = [reading.chance_note, f"{task}: {mapping.score} was read as {metric}, {describe_scale(reading.scale)}"]
    if reading.val_scale:
        notes.append(f"{task}: {mapping.val} was read as {val_metric}, {describe_scale(reading.val_scale)}")
    return notes


# Columns called so hold a setting, a data set or a checkpoint: runs that differ in it are not repetitions.
SETTING_COLUMNS = frozenset(
    "lr learning_rate max_lr peak_lr batch_size bs train_batch_size per_gpu_train_batch_size "
    "per_device_train_batch_size epochs num_epochs num_train_epochs n_epochs max_steps max_epochs warmup "
    "warmup_steps warmup_ratio weight_decay wd optimizer optim adam_epsilon eps bias_correction correct_bias dropout "
    "max_seq_length max_length model model_name model_type model_name_or_path backbone architecture method recipe "
    "config dataset data_set task task_name filetype split checkpoint precision fp16".split()
)
COLUMNS_SHOWN = 4  # columns that a message names


def index_runs(table: CsvTable, rows: Iterable[tuple[RunKey, CsvRow]]) -> dict[RunKey, CsvRow]:
    """Return the row of each run.

    Raises:
        UserError: a run has two rows; the message names the columns in which they differ.
    """
    runs: dict[RunKey, CsvRow] = {}
    for key, row in rows:
        if key in runs:
            difference = _describe_difference(table, runs[key], row)
            raise UserError(f"{table.path}: {describe_run_keys([key])} has two scores, {difference}")
        runs[key] = row
    return runs


def _describe_difference(table: CsvTable, a: CsvRow, b: CsvRow) -> str:
    """Return in words the columns in which two rows differ, and what to do about it."""
    first, second = sorted((a, b))
    differ = [
        f"{name} ({one or 'empty'}, {other or 'empty'})"
        for name, one, other in zip(table.names, first[1], second[1], strict=True)
        if name in table.named and one.strip() != other.strip()
    ]
    differ.sort(key=lambda words: not _is_setting(words.partition(" (")[0]))  # what was mixed first
    words = ", ".join(differ[:COLUMNS_SHOWN]) + (
        f" and {len(differ) - COLUMNS_SHOWN} more columns" if len(differ) > COLUMNS_SHOWN else ""
    )
    lines = f"on lines {first[0]} and {second[0]}"
    if not differ:
        return f"{lines}, which are equal"
    ways = "--where COLUMN=VALUE keeps one of them, or name the column as --task or --arm"
    return f"{lines}, which differ in {words}; {ways}"


def check_arms_uniform(table: CsvTable, runs: dict[RunKey, CsvRow], allowed: Sequence[str]) -> None:
    """Check that no column named like a setting varies between the runs of an arm and task, except `allowed` ones."""
    for name in allowed:
        table.position("--vary", name)
    places = [(i, name) for i, name in enumerate(table.names) if _is_setting(name) and name not in allowed]
    first: dict[tuple[str, str], CsvRow] = {}
    for key, row in sorted(runs.items(), key=lambda run: run[1][0]):
        line, fields = row
        other_line, other = first.setdefault((key.task, key.arm), row)
        for i, name in places:
            if fields[i].strip() != other[i].strip():
                raise UserError(
                    f"{table.path}: arm {key.arm!r} of {key.task} mixes runs that differ in {name}: line {other_line} "
                    f"has {other[i].strip()!r}, line {line} has {fields[i].strip()!r}; --where {name}=VALUE keeps one "
                    f"kind, --arm or --task {name} tells them apart, --vary {name} lets them differ"
                )


def _is_setting(column: str) -> bool:
    return column.lower().replace("-", "_").replace(" ", "_") in SETTING_COLUMNS
