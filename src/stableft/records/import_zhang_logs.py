"""`stableft import zhang-logs`: the log files that Zhang et al.'s released code writes, as records.

A run's folder is METHOD/TASK/SEED<k>. raw_log.txt has a line an evaluation, test_last_log.txt and test_best_log.txt
the test scores of the last and of the best checkpoint; all scores are fractions. A run that is done again adds its
lines to raw_log.txt and replaces the other two.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Literal

from stableft.errors import UserError
from stableft.records.import_evaluations import best_index, length_notes
from stableft.records.import_runs import (
    Cell,
    Key,
    arm_names,
    check_out,
    decimals,
    describe_baseline,
    describe_keys,
    failed_as_printed,
    known_task,
    majority_score,
    read_number,
    read_whole,
    run_id_of,
    save_runs,
    to_float,
)
from stableft.records.run_record import ImportedEval, ImportedRun, ImportedScores, Source

Checkpoint = Literal["last", "best"]
RAW = "raw_log.txt"
TESTS: dict[Checkpoint, str] = {"last": "test_last_log.txt", "best": "test_best_log.txt"}
SEED = re.compile(r"SEED(\d{1,18})", re.ASCII)
METRICS = {
    "acc": "accuracy",
    "f1": "f1",
    "acc_and_f1": "accuracy_f1",
    "mcc": "mcc",
    "pearson": "pearson",
    "spearmanr": "spearman",
}
SELECTING = ("acc", "mcc", "spearmanr")  # the first of these that is there chooses the best checkpoint
Line = dict[str, Cell]
Scores = dict[str, Decimal | None]


@dataclass(frozen=True)
class Logs:
    """What the logs of one run say. `evals` are in the order of their steps, `best` is the place of the best one."""

    evals: tuple[ImportedEval, ...]
    best: int
    tests: dict[Checkpoint, Scores]
    metric: str


def import_zhang_logs(folder: Path, out: Path, rename: tuple[str, ...] = (), checkpoint: Checkpoint = "last") -> str:
    """Writes the runs whose logs are below a folder to a file of records and returns what they are, line by line.

    A run whose logs are not whole is left out and named.

    Raises:
        UserError: there is no run, none is whole, or one is there twice; nothing is written.
    """
    check_out(out, folder)
    folders = find_runs(folder)
    contents: dict[str, bytes] = {}
    logs: dict[Key, Logs] = {}
    broken: list[str] = []
    for key, path in folders.items():
        try:
            files = _load(path)
            logs[key] = read_logs(path, files, key.task)
        except UserError as error:
            broken.append(f"left out: {describe_keys([key])}: {error}")
            continue
        contents |= {(path / name).as_posix(): content for name, content in files.items()}
    if not logs:
        raise UserError(f"{folder}: no run of {len(folders)} is whole; {broken[0]}")
    source = Source(kind="zhang-logs", name=Path(os.path.abspath(folder)).name, sha256=_digest(contents))
    names = arm_names(rename, {key.arm for key in logs})
    runs: list[ImportedRun] = []
    notes: list[str] = []
    for task in sorted({key.task for key in logs}):
        some = {key: log for key, log in logs.items() if key.task == task}
        runs += _records(task, some, names, checkpoint, source)
        notes.append(f"{task}: {describe_baseline(known_task(task), 'test', runs[-1].metric, runs[-1].baseline)}")
    notes += _doubtful(logs) if checkpoint == "best" else []
    return save_runs(out, runs, names, [*notes, *length_notes(runs), *broken])


def find_runs(folder: Path) -> dict[Key, Path]:
    """Returns the folders METHOD/TASK/SEED<k> at or below `folder`, by run; symbolic links are followed.

    Raises:
        UserError: there is none, or a run is there twice.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found: dict[Key, Path] = {}
    for path in _walk(Path(os.path.abspath(folder))):
        match = SEED.fullmatch(path.name)
        if match is None or len(path.parts) < 4:
            continue
        known = known_task(path.parent.name)
        key = Key(known.name if known else path.parent.name, path.parent.parent.name, int(match[1]))
        if key in found:
            raise UserError(f"{folder}: {describe_keys([key])} is there twice, in {found[key]} and in {path}")
        found[key] = path
    if not found:
        raise UserError(f"{folder}: there is no folder METHOD/TASK/SEED<k> at or below it")
    return dict(sorted(found.items()))


def read_logs(path: Path, files: dict[str, bytes], task: str) -> Logs:
    """Returns what the three files of a run say.

    Raises:
        UserError: one is cut off, has the lines of two runs, lacks a column, or does not fit the others.
    """
    raw = path / RAW
    lines = _read_lines(raw, files[RAW])
    header = lines[0]
    selecting = next((key for key in SELECTING if f"val_{key}" in header), None)
    if selecting is None or not {"step", "loss", "val_loss"} <= header.keys():
        raise UserError(f"{raw}: the columns must be step, loss, val_loss and val_acc, val_mcc or val_spearmanr")
    evals = tuple(_eval(raw, line) for line in lines)
    for one, other in pairwise(evals):
        if one.step >= other.step:
            raise UserError(f"{raw}: step {other.step} follows step {one.step}; the file has the lines of two runs")
    best = best_index([point.val[METRICS[selecting]] for point in evals])
    _check_best(raw, lines[-1].get(f"best_val_{selecting}"), lines[best][f"val_{selecting}"])
    known = known_task(task)
    metric = known.metric if known else METRICS[selecting]
    tests: dict[Checkpoint, Scores] = {}
    for name, file in TESTS.items():
        tests[name] = _read_test(path / file, files[file], metric, evals[-1].step)
    return Logs(evals, best, tests, metric)


def _check_best(raw: Path, stated: Cell | None, found: Cell) -> None:
    """Raises UserError if the best score on the last line is not that of the lines above it."""
    if stated and found.value is not None and stated.value != found.value:
        raise UserError(
            f"{raw}: the best score is {stated.text} by its last line, {found.text} by all: lines are missing"
        )


def _read_test(file: Path, content: bytes, metric: str, steps: int) -> Scores:
    lines = _read_lines(file, content)
    if len(lines) != 1 or "test_step" not in lines[0]:
        raise UserError(f"{file}: there must be one line of scores with a test_step")
    scores = _scores(file, lines[0], "test_")
    if metric not in scores:
        raise UserError(f"{file}: there is no {metric} among {', '.join(lines[0])}")
    # The step is that of the end of training in both files, whichever checkpoint was tested.
    step = read_whole(file, 2, "test_step", lines[0]["test_step"].text)
    if step > steps:
        raise UserError(f"{file}: training ended at step {step}, but {RAW} ends at step {steps}")
    return scores


def _eval(raw: Path, line: Line) -> ImportedEval:
    return ImportedEval(
        step=read_whole(raw, line["step"].line, "step", line["step"].text),
        train_loss=to_float(line["loss"].value),
        val_loss=to_float(line["val_loss"].value),
        val={metric: to_float(value) for metric, value in _scores(raw, line, "val_").items()},
    )


def _scores(file: Path, line: Line, prefix: str) -> Scores:
    cells = {metric: line[prefix + key] for key, metric in METRICS.items() if prefix + key in line}
    for metric, cell in cells.items():
        if cell.value is not None and abs(cell.value) > 1:
            raise UserError(f"{file}:{cell.line}: {metric} must be a fraction, here it is {cell.text}")
    return {metric: cell.value for metric, cell in cells.items()}


def _read_lines(file: Path, content: bytes) -> list[Line]:
    """Returns the lines below the header by column; a comma at the end of the header is at the end of each line."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise UserError(f"{file}: the file is not text") from None
    header, *rest = [line.strip().split(",") for line in text.splitlines() if line.strip()] or [[]]
    if not rest:
        raise UserError(f"{file}: the file is cut off: there is no line of scores")
    lines = []
    for number, fields in enumerate(rest, 2):
        if len(fields) != len(header):
            raise UserError(f"{file}:{number} is cut off or not of this file: the header has other columns")
        pairs = zip(header, fields, strict=True)
        lines.append({name.strip(): read_number(file, number, name, field) for name, field in pairs if name.strip()})
    return lines


def _records(
    task: str, logs: dict[Key, Logs], names: dict[str, str], checkpoint: Checkpoint, source: Source
) -> list[ImportedRun]:
    """Returns the runs of one task."""
    metric = next(iter(logs.values())).metric
    baseline = majority_score(known_task(task), "test", metric)
    most = max(decimals(log.tests["last"][metric]) for log in logs.values())
    return [
        ImportedRun(
            run_id=run_id_of(source.sha256, key, metric, "test"),
            arm=names[key.arm],
            task=task,
            seed=key.seed,
            metric=metric,
            split="test",
            report=checkpoint,
            evals=log.evals,
            last=_checkpoint(log, "last"),
            best=_checkpoint(log, "best"),
            failed=failed_as_printed(log.tests["last"][metric], most, baseline),
            baseline=baseline,
            steps=log.evals[-1].step,
            source=source,
        )
        for key, log in logs.items()
    ]


def _checkpoint(log: Logs, which: Checkpoint) -> ImportedScores:
    point = log.evals[-1 if which == "last" else log.best]
    test = {metric: to_float(value) for metric, value in log.tests[which].items()}
    return ImportedScores(step=point.step, val=point.val, test=test)


def _doubtful(logs: dict[Key, Logs]) -> list[str]:
    """Returns a note on best checkpoints that were tested, it seems, with the weights of the last."""
    earlier = [log for log in logs.values() if log.best < len(log.evals) - 1]
    same = sum(log.tests["best"] == log.tests["last"] for log in earlier)
    if not same:
        return []
    return [
        f"{same} of the {len(earlier)} runs whose best checkpoint is not the last have the last one's test scores: "
        "the code that wrote these logs may test the last weights in place of the best ones"
    ]


def _load(path: Path) -> dict[str, bytes]:
    files = {}
    for name in (RAW, *TESTS.values()):
        try:
            files[name] = (path / name).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path / name}: there is no such file") from None
    return files


def _digest(contents: dict[str, bytes]) -> str:
    """Returns a SHA-256 over the files' contents and the last four parts of their paths."""
    digest = hashlib.sha256()
    for path, content in sorted(("/".join(path.split("/")[-4:]), content) for path, content in contents.items()):
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    """Yields `folder` and all folders below it in the order of their names, each once however it is linked."""
    seen: set[str] = set()
    for root, folders, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(root)
