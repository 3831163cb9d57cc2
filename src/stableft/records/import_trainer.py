"""`stableft import hf-trainer`: the folders in which the Hugging Face Trainer leaves its runs, as records."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stableft.catalog.tasks import METRIC_TITLES, METRICS
from stableft.config.run_config import Checkpoint, Split
from stableft.errors import UserError
from stableft.records.csv_table import SourceTable
from stableft.records.failure import CORRELATIONS, compared_digits, count_decimals
from stableft.records.import_evaluations import note_unequal_lengths
from stableft.records.import_runs import (
    ImportedChance,
    RunKey,
    check_import_out,
    choose_chance,
    choose_metric,
    describe_run_keys,
    digest_files,
    find_known_task,
    make_imported_run_id,
    metric_in_name,
    parse_baselines,
    parse_row_counts,
    rename_arms,
    walk_folders,
    write_imported_runs,
)
from stableft.records.import_settings import check_arms_uniform
from stableft.records.import_trainer_folder import TrainerRun, is_run_folder, read_trainer_run
from stableft.records.import_values import (
    Mistakes,
    PrintedNumber,
    ScoreScale,
    as_fraction,
    compile_seed_pattern,
    describe_scale,
    determine_scale,
    to_float,
)
from stableft.records.run_record import ImportedEval, ImportedRun, ImportedScores, ImportSource


@dataclass(frozen=True)
class TrainerOptions:
    """The options of `stableft import hf-trainer`. None: as the files say."""

    task: str | None = None
    arm: str | None = None
    metric: str | None = None
    split: Split = "val"
    checkpoint: Checkpoint | None = None
    scale: ScoreScale | None = None
    baseline: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    seed_pattern: str | None = None
    note: str | None = None  # what the runs are


@dataclass(frozen=True)
class TaskReading:
    """How the scores of a task's runs are read. `key` is the reported metric's, without the prefix eval_."""

    metric: str
    key: str
    read: dict[str, tuple[str, ScoreScale]]  # metric and scale by key
    checkpoint: Checkpoint
    chance: ImportedChance
    decimals: int
    notes: tuple[str, ...]


def import_trainer(folders: Sequence[Path], out: Path, options: TrainerOptions) -> str:
    """Write the runs whose folders are at or below some folders to a records file, and return a description of them.

    Runs that are not finished or cannot be read are left out and named.

    Raises:
        UserError: there is no run, a run appears twice, or runs of an arm differ in a setting; nothing is written.
    """
    for folder in folders:
        check_import_out(out, folder)
    pattern = compile_seed_pattern(options.seed_pattern)
    found: list[TrainerRun] = []
    broken = []
    for path in _find_run_folders(folders):
        try:
            found.append(read_trainer_run(path, pattern))
        except UserError as error:
            broken.append(str(error))
    if not found:
        more = f"; nor can {len(broken) - 1} more" if len(broken) > 1 else ""
        raise UserError(f"no run can be imported: {broken[0]}{more}")
    runs = _index_trainer_runs(found, options)
    root = Path(os.path.commonpath([run.folder for run in runs.values()]))
    table = _settings_table(root, runs)
    check_arms_uniform(table, dict(zip(runs, table.rows, strict=True)), options.vary)
    names = rename_arms(options.rename, {key.arm for key in runs})
    tasks = sorted({key.task for key in runs})
    source = ImportSource(
        kind="hf-trainer", name=_source_name(folders), sha256=_digest_runs(root, runs), note=options.note
    )
    readings = {}
    mistakes = Mistakes()
    for task in tasks:
        with mistakes.caught():
            some = {key: run for key, run in runs.items() if key.task == task}
            readings[task] = _read_task(root, task, some, options, tasks)
    mistakes.check()
    records = [_make_record(key, run, names[key.arm], readings[key.task], options, source) for key, run in runs.items()]
    sources = Counter(run.seed_from for run in runs.values())
    notes = [
        *(note for task in tasks for note in readings[task].notes),
        "seeds are from " + ", ".join(f"{name} ({n} runs)" for name, n in sources.items()),
        *note_unequal_lengths(records),
        *(f"left out: {message}" for message in broken),
    ]
    return write_imported_runs(out, records, names, notes)


def _find_run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the folders of runs at or below some folders, as absolute paths, each once.

    Raises:
        UserError: a folder does not exist, or there is no run at or below it.
    """
    mistakes = Mistakes()
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            mistakes.messages.append(f"{folder}: there is no such folder")
            continue
        inside = [path for path in walk_folders(Path(os.path.abspath(folder))) if is_run_folder(path)]
        if not inside:
            mistakes.messages.append(
                f"{folder}: no folder at or below it has all_results.json, eval_results.json or trainer_state.json"
            )
        found |= dict.fromkeys(inside)
    mistakes.check()
    yield from found


def _index_trainer_runs(found: Sequence[TrainerRun], options: TrainerOptions) -> dict[RunKey, TrainerRun]:
    """Return the runs by task, arm and seed, sorted.

    Raises:
        UserError: a task is not known, or a run appears twice.
    """
    known = find_known_task(options.task or "")
    given = known.name if known else options.task
    mistakes = Mistakes()
    runs: dict[RunKey, TrainerRun] = {}
    for run in found:
        task = given or run.task
        if task is None:
            mistakes.messages.append(f"{run.folder}: the task is not known: say --task")
            continue
        key = RunKey(task, options.arm or run.arm, run.seed)
        if key in runs:
            mistakes.messages.append(
                f"{describe_run_keys([key])} is there twice, in {runs[key].folder} and {run.folder} (the seed is from "
                f"{run.seed_from}); --seed-pattern takes it from the folder's name, --arm gives the runs of an import "
                "an arm"
            )
        runs.setdefault(key, run)
    mistakes.check()
    return dict(sorted(runs.items()))


def _settings_table(root: Path, runs: dict[RunKey, TrainerRun]) -> SourceTable:
    """Return the settings that all runs have, one row a run, to compare them within an arm."""
    every = [run.settings for run in runs.values()]
    names = [name for name in every[0] if all(name in settings for settings in every)]
    rows = tuple((i, [settings[name] for name in names]) for i, settings in enumerate(every, 1))
    return SourceTable(root, "", tuple(names), rows, "run", tuple(run.folder for run in runs.values()))


def _source_name(folders: Sequence[Path]) -> str:
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders])).name or "hf-trainer"


def _digest_runs(root: Path, runs: dict[RunKey, TrainerRun]) -> str:
    return digest_files(
        {
            (run.folder / name).relative_to(root).as_posix(): content
            for run in runs.values()
            for name, content in run.contents.items()
        }
    )


def _read_task(
    root: Path, task: str, runs: dict[RunKey, TrainerRun], options: TrainerOptions, tasks: Sequence[str]
) -> TaskReading:
    """Return how the scores of the runs of one task are read.

    Raises:
        UserError: a run lacks the metric, the values are on no scale, or runs report different checkpoints.
    """
    metric, key = _choose_key(root, task, runs, options)
    metrics = {key: metric}
    for name in sorted({name for run in runs.values() for name in run.score_keys()}, key=len):
        other = metric_in_name(name)
        if other in METRICS and other not in metrics.values():  # accuracy rather than accuracy_mm
            metrics[name] = other
    scales: dict[str, ScoreScale] = {}
    for name, its_metric in metrics.items():
        cells = [(cell, its_metric) for run in runs.values() for cell in run.cells(name)]
        try:
            scales[name] = determine_scale(root, name, cells, options.scale)
        except UserError:
            if name == key:
                raise  # what is wrong with a score that is not reported is no matter
    checkpoint, checkpoint_notes = _choose_checkpoint(task, runs, key, options)
    baseline = parse_baselines(options.baseline, tasks, scales[key]).get(task)
    counts = parse_row_counts(options.rows, tasks).get(task)
    chance, chance_note = _choose_chance(task, metric, options.split, baseline, counts, runs)
    scores = [_reported_cell(run, key, options.split, checkpoint).value for run in runs.values()]
    most = max(count_decimals(as_fraction(score, scales[key])) for score in scores)
    note = f"{task}: {key} was read as {METRIC_TITLES.get(metric, metric)}, {describe_scale(scales[key])}"
    read: dict[str, tuple[str, ScoreScale]] = {name: (metrics[name], scale) for name, scale in scales.items()}
    return TaskReading(metric, key, read, checkpoint, chance, most, (chance_note, note, *checkpoint_notes))


def _choose_key(root: Path, task: str, runs: dict[RunKey, TrainerRun], options: TrainerOptions) -> tuple[str, str]:
    """Return the reported metric, and the key of its scores, which all runs have.

    Raises:
        UserError: there is no such key, or it is not known which is meant.
    """
    every = [run.score_keys(options.split) for run in runs.values()]
    shared = [name for name in every[0] if all(name in keys for keys in every)]
    known = find_known_task(task)
    wanted = options.metric.removeprefix("eval_") if options.metric else None
    if wanted in shared and wanted not in METRICS:
        named = metric_in_name(wanted)
        return choose_metric("--metric", wanted, known, named if named in METRICS else wanted, shared), wanted
    there = f"all its runs have {', '.join(shared)}" if shared else "its runs have no score in common"
    usual = [name for name in shared if metric_in_name(name) in METRICS]
    if wanted is None and known is None and len(usual) != 1:
        raise UserError(f"{root}: {task} is not a task with a known metric: --metric must name a score; {there}")
    metric = wanted or (known.metric if known else str(metric_in_name(usual[0])))
    fitting = [name for name in usual if metric_in_name(name) == metric]
    if not fitting:
        raise UserError(f"{root}: there is no {metric} of all runs of {task}, {there}; --metric names one of these")
    choose_metric("--metric", metric, known, metric, shared)
    return metric, min(fitting, key=len)


def _choose_checkpoint(
    task: str, runs: dict[RunKey, TrainerRun], key: str, options: TrainerOptions
) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint of the scores at the end: `--checkpoint`, or that whose evaluation has the same score.

    Raises:
        UserError: some runs were evaluated with the last weights and some with the best ones.
    """
    by_kind: dict[str, list[RunKey]] = {"last": [], "best": [], "neither": []}
    for run, logs in runs.items():
        final, points = logs.final["val"].get(key), logs.points(key)
        if final is None or not points:
            continue
        last, best = points[-1].scores[key].value, logs.best_point(key).scores[key].value
        if final.value not in (last, best):
            by_kind["neither"].append(run)
        elif last != best:
            by_kind["last" if final.value == last else "best"].append(run)
    notes = []
    if by_kind["neither"]:
        notes.append(
            f"the evaluation at the end, which is reported, is neither that of the last step nor the best one in "
            f"{len(by_kind['neither'])} runs ({describe_run_keys(by_kind['neither'])})"
        )
    if options.checkpoint:
        against = by_kind["best" if options.checkpoint == "last" else "last"]
        if against and options.split == "test":
            raise UserError(
                f"--checkpoint {options.checkpoint}: the test scores of {describe_run_keys(against)} are those of the "
                "other checkpoint"
            )
        return options.checkpoint, notes
    if by_kind["last"] and by_kind["best"]:
        raise UserError(
            f"{task}: some runs were evaluated with their last weights ({describe_run_keys(by_kind['last'])}) and some "
            f"with their best ones ({describe_run_keys(by_kind['best'])}); --checkpoint says which to report"
        )
    return "best" if by_kind["best"] else "last", notes


def _choose_chance(
    task: str, metric: str, split: Split, baseline: float | None, counts: int | None, runs: dict[RunKey, TrainerRun]
) -> tuple[ImportedChance, str]:
    """Return what decides which runs failed, and a note. A task's chance level is known for all of its dev set only."""
    evaluated = sorted({run.rows[split] for run in runs.values() if split in run.rows})
    rows = counts or (evaluated[0] if len(evaluated) == 1 else None)
    known = find_known_task(task)
    whole = known is None or evaluated in ([], [known.split_rows(split)])
    if whole or metric in CORRELATIONS or baseline is not None or counts is not None:
        return choose_chance(task, split, metric, baseline, rows)
    note = f"the runs were evaluated on {' or '.join(map(str, evaluated))} rows, not on the split that is known"
    return ImportedChance(None, rows), f"{task}: failed: not known; {note}; --baseline gives its chance level"


def _reported_cell(run: TrainerRun, key: str, split: Split, checkpoint: Checkpoint) -> PrintedNumber:
    """Return the score at the end, or the logged one where the score at the end is of the other checkpoint."""
    final, points = run.final[split].get(key), run.points(key)
    if split == "test" or not points:
        assert final is not None
        return final
    last, best = points[-1].scores[key], run.best_point(key).scores[key]
    reported, other = (last, best) if checkpoint == "last" else (best, last)
    return reported if final is None or final.value == other.value else final


def _make_record(
    key: RunKey, run: TrainerRun, arm: str, reading: TaskReading, options: TrainerOptions, source: ImportSource
) -> ImportedRun:
    cell = _reported_cell(run, reading.key, options.split, reading.checkpoint)
    value = as_fraction(cell.value, reading.read[reading.key][1])
    scores = {checkpoint: _checkpoint_scores(run, reading, checkpoint, cell) for checkpoint in ("last", "best")}
    how = (options.metric, options.checkpoint)
    return ImportedRun(
        run_id=make_imported_run_id(source.sha256, key, reading.metric, options.split, *how),
        arm=arm,
        task=key.task,
        seed=key.seed,
        metric=reading.metric,
        split=options.split,
        report=reading.checkpoint,
        evals=tuple(
            ImportedEval(
                step=point.step,
                train_loss=point.train_loss,
                val_loss=point.val_loss,
                val=_as_fractions(point.scores, reading),
            )
            for point in run.evals
        ),
        last=scores["last"],
        best=scores["best"],
        failed=None,  # judged before it is written
        baseline=reading.chance.constant,
        steps=run.steps,
        source=source,
        rows=reading.chance.rows,
        digits=compared_digits(value, reading.decimals),
    )


def _checkpoint_scores(
    run: TrainerRun, reading: TaskReading, checkpoint: Checkpoint, reported: PrintedNumber
) -> ImportedScores | None:
    points = run.points(reading.key)
    point = None if not points else points[-1] if checkpoint == "last" else run.best_point(reading.key)
    val = _as_fractions(point.scores, reading) if point else {}
    if checkpoint != reading.checkpoint:
        return ImportedScores(step=point.step, val=val, test=None) if point else None
    if not points or reported is run.final["val"].get(reading.key):
        val |= _as_fractions(run.final["val"], reading)
    test = _as_fractions(run.final["test"], reading)
    step = point.step if point else run.steps if checkpoint == "last" else None
    return ImportedScores(step=step, val=val, test=test or None)


def _as_fractions(cells: dict[str, PrintedNumber], reading: TaskReading) -> dict[str, float]:
    """Return the scores whose scale is known by metric."""
    return {
        metric: to_float(as_fraction(cells[name].value, scale))
        for name, (metric, scale) in reading.read.items()
        if name in cells
    }
