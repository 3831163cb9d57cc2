"""`stableft import zhang-logs`: the log files that Zhang et al.'s released code writes, as records.

A run's folder is METHOD/TASK/SEED<k>. raw_log.txt has a line an evaluation, test_last_log.txt and test_best_log.txt
the test scores of the last and of the best checkpoint; all scores are fractions. A run that is done again adds its
lines to raw_log.txt and replaces the other two.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from stableft.config.run_config import Checkpoint
from stableft.errors import UserError
from stableft.records.failure import compared_digits, count_decimals
from stableft.records.import_evaluations import best_index, note_unequal_lengths
from stableft.records.import_runs import (
    ImportedChance,
    RunKey,
    check_import_out,
    choose_chance,
    describe_run_keys,
    digest_files,
    find_known_task,
    make_imported_run_id,
    parse_baselines,
    parse_row_counts,
    rename_arms,
    walk_folders,
    write_imported_runs,
)
from stableft.records.import_values import Place, PrintedNumber, parse_number, parse_whole_number, to_float
from stableft.records.run_record import ImportedEval, ImportedRun, ImportedScores, ImportSource

RAW_LOG = "raw_log.txt"
TEST_LOGS: dict[Checkpoint, str] = {"last": "test_last_log.txt", "best": "test_best_log.txt"}
SEED_FOLDER = re.compile(r"SEED(\d{1,18})", re.ASCII)
LOG_METRICS = {
    "acc": "accuracy",
    "f1": "f1",
    "acc_and_f1": "accuracy_f1",
    "mcc": "mcc",
    "pearson": "pearson",
    "spearmanr": "spearman",
}
SELECTION_METRICS = ("acc", "mcc", "spearmanr")  # the first of these that is there chooses the best checkpoint
LogLine = dict[str, PrintedNumber]
LogScores = dict[str, Decimal | None]


@dataclass(frozen=True)
class RunLogs:
    """What the logs of one run say. `evals` are in the order of their steps, `best` is the place of the best one."""

    evals: tuple[ImportedEval, ...]
    best: int
    tests: dict[Checkpoint, LogScores]
    metric: str


def import_zhang_logs(
    folder: Path,
    out: Path,
    rename: tuple[str, ...] = (),
    checkpoint: Checkpoint = "last",
    baseline: Sequence[str] = (),
    rows: Sequence[str] = (),
    note: str | None = None,
) -> str:
    """Write the runs whose logs are below a folder to a records file, and return a description of them.

    Runs with incomplete logs are left out and named. `note` says what the runs are.

    Raises:
        UserError: there is no run, none is complete, or one appears twice; nothing is written.
    """
    check_import_out(out, folder)
    folders = find_log_folders(folder)
    contents: dict[str, bytes] = {}
    logs: dict[RunKey, RunLogs] = {}
    broken: list[str] = []
    for key, path in folders.items():
        try:
            files = _read_log_files(path)
            logs[key] = parse_logs(path, files, key.task)
        except UserError as error:
            broken.append(f"left out: {describe_run_keys([key])}: {error}")
            continue
        contents |= {(path / name).as_posix(): content for name, content in files.items()}
    if not logs:
        raise UserError(f"{folder}: no run of {len(folders)} is whole; {broken[0]}")
    name = Path(os.path.abspath(folder)).name
    source = ImportSource(kind="zhang-logs", name=name, sha256=_digest_logs(contents), note=note)
    names = rename_arms(rename, {key.arm for key in logs})
    tasks = sorted({key.task for key in logs})
    baselines, counts = parse_baselines(baseline, tasks, "fraction"), parse_row_counts(rows, tasks)
    runs: list[ImportedRun] = []
    notes: list[str] = []
    for task in tasks:
        some = {key: log for key, log in logs.items() if key.task == task}
        metric = _find_common_metric(some)
        chance, note = choose_chance(task, "test", metric, baselines.get(task), counts.get(task))
        runs += _make_runs(task, some, metric, chance, names, checkpoint, source)
        notes.append(note)
    notes += _note_doubtful_best(logs) if checkpoint == "best" else []
    return write_imported_runs(out, runs, names, [*notes, *note_unequal_lengths(runs), *broken])


def _find_common_metric(logs: dict[RunKey, RunLogs]) -> str:
    """Return the metric of the runs of a task."""
    (first, log), *others = logs.items()
    for key, other in others:
        if other.metric != log.metric:
            raise UserError(
                f"the logs of {describe_run_keys([first])} report {log.metric} and those of {describe_run_keys([key])} "
                f"{other.metric}; the runs of a task must have one metric"
            )
    return log.metric


def find_log_folders(folder: Path) -> dict[RunKey, Path]:
    """Return the folders METHOD/TASK/SEED<k> at or below `folder` by run, following symbolic links.

    Raises:
        UserError: there is none, or a run appears twice.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found: dict[RunKey, Path] = {}
    for path in walk_folders(Path(os.path.abspath(folder))):
        match = SEED_FOLDER.fullmatch(path.name)
        if match is None or len(path.parts) < 4:
            continue
        known = find_known_task(path.parent.name)
        key = RunKey(known.name if known else path.parent.name, path.parent.parent.name, int(match[1]))
        if key in found:
            raise UserError(f"{folder}: {describe_run_keys([key])} is there twice, in {found[key]} and in {path}")
        found[key] = path
    if not found:
        raise UserError(f"{folder}: there is no folder METHOD/TASK/SEED<k> at or below it")
    return dict(sorted(found.items()))


def parse_logs(path: Path, files: dict[str, bytes], task: str) -> RunLogs:
    """Return the content of a run's three log files.

    Raises:
        UserError: one is cut off, has the lines of two runs, lacks a column, or does not fit the others.
    """
    raw = path / RAW_LOG
    lines = _parse_log_lines(raw, files[RAW_LOG])
    header = lines[0]
    selecting = next((key for key in SELECTION_METRICS if f"val_{key}" in header), None)
    if selecting is None or not {"step", "loss", "val_loss"} <= header.keys():
        raise UserError(f"{raw}: the columns must be step, loss, val_loss and val_acc, val_mcc or val_spearmanr")
    evals = tuple(_make_eval(raw, line) for line in lines)
    for one, other in pairwise(evals):
        if one.step >= other.step:
            raise UserError(f"{raw}: step {other.step} follows step {one.step}; the file has the lines of two runs")
    best = best_index([point.val[LOG_METRICS[selecting]] for point in evals])
    _check_best_score(raw, lines[-1].get(f"best_val_{selecting}"), lines[best][f"val_{selecting}"])
    known = find_known_task(task)
    metric = known.metric if known else LOG_METRICS[selecting]
    tests: dict[Checkpoint, LogScores] = {}
    for name, file in TEST_LOGS.items():
        tests[name] = _parse_test_scores(path / file, files[file], metric, evals[-1].step)
    return RunLogs(evals, best, tests, metric)


def _check_best_score(raw: Path, stated: PrintedNumber | None, found: PrintedNumber) -> None:
    """Check that the best score on the last line is that of the lines above it."""
    if stated and found.value is not None and stated.value != found.value:
        raise UserError(
            f"{raw}: the best score is {stated.text} by its last line, {found.text} by all: lines are missing"
        )


def _parse_test_scores(file: Path, content: bytes, metric: str, steps: int) -> LogScores:
    lines = _parse_log_lines(file, content)
    if len(lines) != 1 or "test_step" not in lines[0]:
        raise UserError(f"{file}: there must be one line of scores with a test_step")
    scores = _scores_of_line(file, lines[0], "test_")
    if metric not in scores:
        raise UserError(f"{file}: there is no {metric} among {', '.join(lines[0])}")
    # The step is that of the end of training in both files, whichever checkpoint was tested.
    step = parse_whole_number(Place(file, 2), "test_step", lines[0]["test_step"].text)
    if step > steps:
        raise UserError(f"{file}: training ended at step {step}, but {RAW_LOG} ends at step {steps}")
    return scores


def _make_eval(raw: Path, line: LogLine) -> ImportedEval:
    return ImportedEval(
        step=parse_whole_number(line["step"].place, "step", line["step"].text),
        train_loss=to_float(line["loss"].value),
        val_loss=to_float(line["val_loss"].value),
        val={metric: to_float(value) for metric, value in _scores_of_line(raw, line, "val_").items()},
    )


def _scores_of_line(file: Path, line: LogLine, prefix: str) -> LogScores:
    cells = {metric: line[prefix + key] for key, metric in LOG_METRICS.items() if prefix + key in line}
    for metric, cell in cells.items():
        if cell.percent or (cell.value is not None and abs(cell.value) > 1):
            raise UserError(f"{cell.place}: {metric} must be a fraction, here it is {cell.text}")
    return {metric: cell.value for metric, cell in cells.items()}


def _parse_log_lines(file: Path, content: bytes) -> list[LogLine]:
    """Return the lines below the header by column. If the header ends in a comma, every line does."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise UserError(f"{file}: the file is not text") from None
    header, *rest = [line.strip().split(",") for line in text.splitlines() if line.strip()] or [[]]
    if not rest:
        raise UserError(f"{file}: the file is cut off: there is no line of scores")
    named = [name.strip() for name in header if name.strip()]
    if len(set(named)) < len(named):
        raise UserError(f"{file}: the header names a column twice")
    lines = []
    for number, fields in enumerate(rest, 2):
        if len(fields) != len(header):
            raise UserError(f"{file}:{number} is cut off or not of this file: the header has other columns")
        pairs = zip(header, fields, strict=True)
        lines.append(
            {name.strip(): parse_number(Place(file, number), name, field) for name, field in pairs if name.strip()}
        )
    return lines


def _make_runs(
    task: str,
    logs: dict[RunKey, RunLogs],
    metric: str,
    chance: ImportedChance,
    names: dict[str, str],
    checkpoint: Checkpoint,
    source: ImportSource,
) -> list[ImportedRun]:
    """Return the runs of one task."""
    most = max(count_decimals(log.tests["last"][metric]) for log in logs.values())
    return [
        ImportedRun(
            run_id=make_imported_run_id(source.sha256, key, metric, "test"),
            arm=names[key.arm],
            task=task,
            seed=key.seed,
            metric=metric,
            split="test",
            report=checkpoint,
            evals=log.evals,
            last=_checkpoint_scores(log, "last"),
            best=_checkpoint_scores(log, "best"),
            failed=None,  # judged before it is written
            baseline=chance.constant,
            steps=log.evals[-1].step,
            source=source,
            rows=chance.rows,
            digits=compared_digits(log.tests["last"][metric], most),
        )
        for key, log in logs.items()
    ]


def _checkpoint_scores(log: RunLogs, checkpoint: Checkpoint) -> ImportedScores:
    point = log.evals[-1 if checkpoint == "last" else log.best]
    test = {metric: to_float(value) for metric, value in log.tests[checkpoint].items()}
    return ImportedScores(step=point.step, val=point.val, test=test)


def _note_doubtful_best(logs: dict[RunKey, RunLogs]) -> list[str]:
    """Return a note on best checkpoints that seem to have been tested with the weights of the last one."""
    earlier = [log for log in logs.values() if log.best < len(log.evals) - 1]
    same = sum(log.tests["best"] == log.tests["last"] for log in earlier)
    if not same:
        return []
    return [
        f"{same} of the {len(earlier)} runs whose best checkpoint is not the last have the last one's test scores: "
        "the code that wrote these logs may test the last weights in place of the best ones"
    ]


def _read_log_files(path: Path) -> dict[str, bytes]:
    files = {}
    for name in (RAW_LOG, *TEST_LOGS.values()):
        try:
            files[name] = (path / name).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path / name}: there is no such file") from None
    return files


def _digest_logs(contents: dict[str, bytes]) -> str:
    """Return a SHA-256 over the files' contents and the last four parts of their paths."""
    return digest_files({"/".join(path.split("/")[-4:]): content for path, content in contents.items()})
