"""`stableft import csv`, and what `import json` shares: a table with one row a run, optionally rows of evaluations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stableft.catalog.tasks import METRIC_TITLES, METRICS
from stableft.errors import UserError, did_you_mean
from stableft.records.csv_table import CsvFormat, SourceRow, SourceTable, read_csv_table
from stableft.records.failure import compared_digits, count_decimals
from stableft.records.import_evaluations import (
    EvaluationRow,
    best_index,
    drop_unscored_evaluations,
    note_unequal_lengths,
    read_evaluations,
)
from stableft.records.import_mapping import (
    TableMapping,
    filter_rows,
    make_field_reader,
    make_run_key_reader,
    parse_row_filters,
)
from stableft.records.import_runs import (
    ImportedChance,
    RunKey,
    check_import_out,
    choose_chance,
    choose_metric,
    describe_run_keys,
    find_known_task,
    make_imported_run_id,
    metric_in_name,
    parse_baselines,
    parse_row_counts,
    rename_arms,
    write_imported_runs,
)
from stableft.records.import_settings import check_arms_uniform, index_runs
from stableft.records.import_state import find_crashed_runs, split_by_state
from stableft.records.import_values import (
    Mistakes,
    PrintedNumber,
    ScoreScale,
    as_fraction,
    describe_scale,
    determine_scale,
    note_missing,
    parse_number,
    to_float,
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


def import_csv(file: Path, mapping: TableMapping, out: Path, form: CsvFormat = CsvFormat()) -> str:  # noqa: B008
    """Write the runs of a CSV or TSV file to a records file, and return a description of them.

    Raises:
        UserError: an option, the table or a value in it is invalid; nothing is written.
    """
    check_import_out(out, file)
    check_mapping(mapping)
    table = read_csv_table(file, form)
    return import_table(
        table, mapping, out, ImportSource(kind="csv", name=file.name, sha256=table.sha256, note=mapping.note)
    )


def import_table(table: SourceTable, mapping: TableMapping, out: Path, source: ImportSource) -> str:
    """Write the runs of a table to a records file, and return a description of them.

    Raises:
        UserError: an option or a value is invalid; the message names all that are. Nothing is written.
    """
    _check_columns(table, mapping)
    key = make_run_key_reader(table, mapping)
    rows = filter_rows(table, parse_row_filters(table, "--where", mapping.where))
    by_state = split_by_state(table, mapping, rows)
    mistakes = Mistakes()
    keyed = [(run, row) for row in by_state.finished if (run := key(row, mistakes))]
    scored = dict(_read_scores(table, mapping, by_state.finished, mistakes))
    mistakes.check()
    runs = index_runs(table, keyed)
    check_arms_uniform(table, runs, mapping.vary, mapping.columns)
    cells = {run: scored[number] for run, (number, _) in runs.items()}
    if all(cell.missing for cell in cells.values()):
        raise UserError(f"{table.path}: --score {mapping.score}: the column is empty in all chosen rows")
    evaluations = read_evaluations(table, mapping, key, runs)
    notes = drop_unscored_evaluations(table, mapping, runs, evaluations)
    crashed, crash_notes = find_crashed_runs(by_state.crashed, key, list(runs))
    names = rename_arms(mapping.rename, {run.arm for run in (*runs, *crashed)})
    readings = _find_score_formats(table, mapping, runs, cells, evaluations)
    records = [
        _make_run(mapping, run, names[run.arm], readings[run.task], cell, evaluations.get(run, []), source)
        for run, cell in cells.items()
    ]
    others = [run for run in crashed if run.task not in readings]
    if others:
        crash_notes.append(f"left out: {describe_run_keys(others)}, crashed, as all runs of the task")
    records += [
        _make_crashed_run(mapping, run, names[run.arm], readings[run.task], source)
        for run in crashed
        if run.task in readings
    ]
    notes = [
        *(line for task in sorted(readings) for line in _describe_score_format(mapping, task, readings[task])),
        *_note_missing_values(mapping, cells, evaluations),
        *notes,
        *by_state.notes,
        *crash_notes,
    ]
    return write_imported_runs(out, records, names, [*notes, *note_unequal_lengths(records)])


def _identifying_options(mapping: TableMapping) -> tuple[object, ...]:
    """Return the options that distinguish the ids of runs read from the same file."""
    return mapping.score, mapping.checkpoint, sorted(mapping.where), mapping.arm


def _check_columns(table: SourceTable, mapping: TableMapping) -> None:
    """Check that all columns exist, before any row is checked."""
    mistakes = Mistakes()
    for option, name in (("--score", mapping.score), ("--val", mapping.val), ("--train-loss", mapping.train_loss)):
        if name is not None:
            with mistakes.caught():
                table.position(option, name)
    named = {"--task": mapping.task, "--arm": mapping.arm, "--seed": mapping.seed, "--step": mapping.step}
    for option, spec in {**named, "--state": mapping.state}.items():
        if spec is not None:
            with mistakes.caught():
                make_field_reader(table, option, spec)
    for name in mapping.vary:
        with mistakes.caught():
            table.position("--vary", name)
    for option, texts in (("--where", mapping.where), ("--val-where", mapping.val_where)):
        with mistakes.caught():
            parse_row_filters(table, option, texts)
    with mistakes.caught():
        _check_metric_option(table, mapping)
    columns = f", there are {', '.join(table.named)}"
    mistakes.messages[1:] = [message.replace(columns, "") for message in mistakes.messages[1:]]  # named once
    mistakes.check()


def check_mapping(mapping: TableMapping) -> None:
    """Raise a UserError if options contradict each other."""
    mistakes = Mistakes()
    if mapping.val_where and mapping.val is None and mapping.train_loss is None:
        mistakes.messages.append("--val-where: --val or --train-loss must say what is in those rows")
    if mapping.train_loss is not None and mapping.step is None:
        mistakes.messages.append(f"--train-loss {mapping.train_loss}: --step must say at which steps these losses are")
    if mapping.val is not None and metric_in_name(mapping.val) == "loss":
        mistakes.messages.append(f"--val {mapping.val}: a loss is no score, of which more is better")
    mistakes.check()


def _check_metric_option(table: SourceTable, mapping: TableMapping) -> None:
    """Check that `--metric` is a metric, a column of metrics, the name of the score's column, or = and a name."""
    wanted = mapping.metric
    if wanted is None or wanted in METRICS:
        return
    if not wanted.removeprefix("=").strip():
        raise UserError("--metric: the name is empty")
    if not wanted.startswith("=") and wanted not in table.names:
        known = (*METRICS, *table.named)
        raise UserError(
            f"--metric {wanted}: must be one of {', '.join(METRICS)}, a column that names the metric of each row, or "
            f"={wanted} for a metric of your own{did_you_mean(wanted, known)}"
        )


def _read_scores(
    table: SourceTable, mapping: TableMapping, rows: Sequence[SourceRow], mistakes: Mistakes
) -> Iterator[tuple[int, PrintedNumber]]:
    """Yield the score of each row by the row's number."""
    position = table.position("--score", mapping.score)
    for number, fields in rows:
        with mistakes.caught():
            yield number, parse_number(table.place(number), mapping.score, fields[position])


def _find_metrics(table: SourceTable, mapping: TableMapping, runs: dict[RunKey, SourceRow]) -> dict[str, str]:
    """Return the metric of each task.

    Raises:
        UserError: the metric does not fit the task or the name of the score's column, or runs of a task differ in it.
    """
    column, wanted = mapping.score, mapping.metric
    per_row = wanted not in (None, column, *METRICS) and not wanted.startswith("=")
    metric_of = make_field_reader(table, "--metric", wanted) if wanted and per_row else None
    requested: dict[str, str | None] = {}
    seen: dict[str, SourceRow] = {}
    mistakes = Mistakes()
    for run, row in sorted(runs.items(), key=lambda pair: pair[1][0]):
        first = seen.setdefault(run.task, row)
        if metric_of is None:
            requested[run.task] = wanted.removeprefix("=").strip() if wanted else None
            continue
        written, other = metric_of(row[1]), metric_of(first[1])
        if not written:
            mistakes.messages.append(
                f"{table.place(row[0])} column {wanted!r}: the field is empty, but --metric needs it"
            )
        elif written != other and run.task in requested:
            mistakes.messages.append(
                f"{table.path}: runs of {run.task} have two metrics, {table.place(first[0]).within} has {other!r}, "
                f"{table.place(row[0]).within} has {written!r}; --where {wanted}={other} keeps one of them"
            )
        else:
            found = metric_in_name(written)
            requested[run.task] = found if found in METRICS else written
    mistakes.check()
    metrics = {}
    for task, metric in requested.items():
        with mistakes.caught():
            metrics[task] = choose_metric("--score", column, find_known_task(task), metric, table.named)
    mistakes.check()
    return metrics


def _find_score_formats(
    table: SourceTable,
    mapping: TableMapping,
    runs: dict[RunKey, SourceRow],
    cells: dict[RunKey, PrintedNumber],
    evaluations: dict[RunKey, list[EvaluationRow]],
) -> dict[str, ScoreFormat]:
    tasks = sorted({run.task for run in cells})
    metrics = _find_metrics(table, mapping, runs)
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
    baselines = parse_baselines(mapping.baseline, tasks, scale)
    counts = parse_row_counts(mapping.rows, tasks)
    readings = {}
    for task in tasks:
        chance, note = choose_chance(task, mapping.split, metrics[task], baselines.get(task), counts.get(task))
        most = max(count_decimals(as_fraction(cell.value, scale)) for run, cell in cells.items() if run.task == task)
        readings[task] = ScoreFormat(metrics[task], scale, val_metrics[task], val_scale, chance, note, most)
    return readings


def _note_missing_values(
    mapping: TableMapping, cells: dict[RunKey, PrintedNumber], evaluations: dict[RunKey, list[EvaluationRow]]
) -> Iterator[str]:
    words = dict.fromkeys(cell.text for cell in cells.values() if cell.missing)
    way = " ".join(f"--where '{mapping.score}!={word}'" for word in words)
    yield from note_missing(mapping.score, cells.values(), f"NaN, which counts as failed ({way} leaves such rows out)")
    if mapping.val:
        values = [point.val for points in evaluations.values() for point in points if point.val]
        yield from note_missing(mapping.val, values, "NaN")


def _make_crashed_run(
    mapping: TableMapping, run: RunKey, arm: str, reading: ScoreFormat, source: ImportSource
) -> ImportedRun:
    return ImportedRun(
        run_id=make_imported_run_id(source.sha256, run, reading.metric, mapping.split, *_identifying_options(mapping)),
        arm=arm,
        task=run.task,
        seed=run.seed,
        metric=reading.metric,
        split=mapping.split,
        report=mapping.checkpoint,
        status="crashed",
        last=None,
        best=None,
        failed=None,
        baseline=reading.chance.constant,
        steps=None,
        source=source,
        rows=reading.chance.rows,
        digits=reading.decimals,
    )


def _make_run(
    mapping: TableMapping,
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


def _describe_score_format(mapping: TableMapping, task: str, reading: ScoreFormat) -> list[str]:
    """Return how the scores of a task were read, for the user."""
    metric, val_metric = (METRIC_TITLES.get(name, name) for name in (reading.metric, reading.val_metric))
    notes = [reading.chance_note, f"{task}: {mapping.score} was read as {metric}, {describe_scale(reading.scale)}"]
    if reading.val_scale:
        notes.append(f"{task}: {mapping.val} was read as {val_metric}, {describe_scale(reading.val_scale)}")
    return notes
