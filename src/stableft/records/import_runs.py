"""The end of every import: metrics, chance levels, arm names, ids, and the file of records."""

import hashlib
import math
import os
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from stableft.catalog.tasks import METRIC_TITLES, METRICS, REGRESSION_METRICS, TASKS, TaskSpec
from stableft.config.local_files import check_replaced_file
from stableft.config.run_config import Split, canonical_json
from stableft.errors import UserError, did_you_mean
from stableft.records.failure import (
    CORRELATIONS,
    NOISE_QUANTILE,
    chance_level,
    is_run_failed,
    known_constant_score,
)
from stableft.records.import_values import NUMBER_PATTERN, describe_scale
from stableft.records.run_record import ImportedRun, write_records_file
from stableft.text import align_columns, strip_controls

RUNS_SHOWN = 12  # runs that a message names
NOTE_WIDTH = 100  # columns of the terminal


class RunKey(NamedTuple):
    """Which run: `arm` as in the file, `task` by our name where we have one."""

    task: str
    arm: str
    seed: int


def describe_run_keys(keys: Iterable[RunKey]) -> str:
    """Return some runs in words, naming the first ones."""
    ordered = sorted(keys)
    words = [f"{key.arm} {key.task} seed {key.seed}" for key in ordered[:RUNS_SHOWN]]
    return ", ".join(words) + (f" and {len(ordered) - RUNS_SHOWN} more" if len(ordered) > RUNS_SHOWN else "")


def make_imported_run_id(sha256: str, key: RunKey, metric: str, split: str, *how: object) -> str:
    """Return a run's id (16 hex digits), a hash of its file's content and of how the run was read from it."""
    identity = [sha256, key.arm, key.task, key.seed, metric, split, *how]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def digest_files(contents: Mapping[str, bytes]) -> str:
    """Return a SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for path, content in sorted(contents.items()):
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def walk_folders(folder: Path) -> Iterator[Path]:
    """Yield `folder` and all folders below it, sorted by name, each once even if it is linked several times."""
    seen: set[str] = set()
    for root, folders, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(root)


def rename_arms(renames: Sequence[str], arms: Iterable[str]) -> dict[str, str]:
    """Return the name under which each arm of the file is imported. `renames` have the form OLD=NEW.

    Control characters are left out of names, because neither a terminal nor a figure can show them.

    Raises:
        UserError: one has another form, names no arm, or would merge two arms.
    """
    names = {arm: strip_controls(arm).strip() or "?" for arm in sorted(arms)}
    shown = dict(names)
    for text in renames:
        old, sign, new = (part.strip() for part in text.partition("="))
        if not (old and sign and new):
            raise UserError(f"--rename {text!r}: must be OLD=NEW")
        if old not in names:
            there = f"there are {', '.join(names)}{did_you_mean(old, names)}"
            raise UserError(f"--rename {text}: there is no arm {old!r}, {there}")
        if names[old] != shown[old]:
            raise UserError(f"--rename {text}: {old!r} is already renamed to {names[old]!r}")
        names[old] = new
    for new, olds in groupby(sorted(names, key=names.__getitem__), key=names.__getitem__):
        if len(both := list(olds)) > 1:
            raise UserError(f"--rename: {' and '.join(both)} would both be called {new!r}")
    return names


def check_import_out(out: Path, source: Path) -> None:
    """Check that the records made from `source` may be written to `out`."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: the name must end in .jsonl")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out} is the file that is imported")
    check_replaced_file(out, "records")


def write_imported_runs(out: Path, runs: Sequence[ImportedRun], names: dict[str, str], notes: Iterable[str]) -> str:
    """Judge which runs failed, write them by task, arm and seed, replacing any existing file, and describe them."""
    judged = [
        run.model_copy(
            update={
                "failed": is_run_failed(run, run.report, run.split, run.metric),
                "task": strip_controls(run.task).strip() or "?",
                "source": run.source.model_copy(update={"name": strip_controls(run.source.name)}),
            }
        )
        for run in sorted(runs, key=lambda run: (run.task, run.arm, run.seed))
    ]
    source = judged[0].source
    existed = out.exists()
    write_records_file(out, judged)
    several = len({run.arm for run in judged}) > 1
    reference = [f"reports compare with {judged[0].arm}, or with --against ARM"] if several else []
    renamed = [f"arm {new} is {old} in {source.name}" for old, new in names.items() if new != old]
    title = f"{len(judged)} runs of {source.name} (sha256 {source.sha256})"
    lines = [*renamed, *reference, *notes]
    parts = [_wrap(title), _runs_table(judged), *map(_wrap, lines)]
    parts.append(f"{'replaced' if existed else 'wrote'} {out}; next: stableft report {shlex.quote(str(out))}")
    return strip_controls("\n".join(parts))


def _wrap(line: str) -> str:
    return textwrap.fill(line, NOTE_WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _runs_table(runs: Sequence[ImportedRun]) -> str:
    rows: list[tuple[object, ...]] = [("task", "arm", "score", "runs", "seeds", "NaN", "failed", "crashed")]
    for (task, arm), group in groupby(runs, key=lambda run: (run.task, run.arm)):
        cell = list(group)
        first = cell[0]
        finished = [run for run in cell if run.status == "finished"]
        scores = [run.score(run.report, run.split, run.metric) for run in finished]
        nan = sum(score is not None and math.isnan(score) for score in scores)
        known = [run.failed for run in finished]
        failed = "not known" if None in known else f"{sum(map(bool, known))}/{len(known)}"
        score = f"{first.report} {first.split} {first.metric}"
        seeds = _format_seeds([run.seed for run in cell])
        rows.append((task, arm, score, len(cell), seeds, nan, failed, len(cell) - len(finished)))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return align_columns(rows)


def _format_seeds(seeds: Sequence[int]) -> str:
    """Return sorted seeds as 0-49, or as 0-7,9,12; only the first and last if there are many gaps."""
    starts = [i for i, seed in enumerate(seeds) if i == 0 or seed != seeds[i - 1] + 1]
    if len(starts) > 3:
        return f"{seeds[0]} to {seeds[-1]}, with gaps"
    spans = [seeds[start:end] for start, end in zip(starts, [*starts[1:], len(seeds)], strict=True)]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


METRIC_NAME_PATTERNS = {
    "accuracy": re.compile(r"acc(uracy)?(?![a-z])"),
    "f1": re.compile(r"f1(?!\d)"),
    "mcc": re.compile(r"mcc|matthews"),
    "spearman": re.compile(r"spearman"),
    "pearson": re.compile(r"pearson"),
    "loss": re.compile(r"loss"),
}
CORRELATION_PATTERN = re.compile(r"corr(elation)?(?![a-z])")  # in GLUE's code the mean of Pearson and Spearman


@cache
def find_known_task(text: str) -> TaskSpec | None:
    """Return the task with this name or title in any spelling, or None."""
    return next(
        (
            task
            for task in TASKS.values()
            if _normalize_name(text) in (_normalize_name(task.name), _normalize_name(task.title))
        ),
        None,
    )


def metric_in_name(column: str) -> str | None:
    """Return the metric, "loss" or "corr" in a column's name, or None."""
    found = {metric for metric, pattern in METRIC_NAME_PATTERNS.items() if pattern.search(column.lower())}
    if "loss" in found:
        return "loss"
    if found == {"accuracy", "f1"}:
        return "accuracy_f1"
    if found == {"pearson", "spearman"} or (not found and CORRELATION_PATTERN.search(column.lower())):
        return "corr"
    return found.pop() if len(found) == 1 else None


def choose_metric(
    option: str, column: str, task: TaskSpec | None, requested: str | None, columns: Sequence[str]
) -> str:
    """Return the metric of a column of scores: `requested`, or the task's reported metric.

    For a task that is not built in, it is the one in the column's name, or "score".

    Raises:
        UserError: the column's name contains another metric, or `requested` does not fit the task.
    """
    named = metric_in_name(column)
    if requested is not None:
        _check_metric(requested, task)
        return requested
    if named == "loss":
        raise UserError(f"{option} {column}: a loss is no score, of which more is better; --metric says if it is one")
    if task is None:
        return named or "score"
    if named and named != task.metric:
        fitting = [name for name in columns if metric_in_name(name) == task.metric]
        others = f" (such as {', '.join(fitting[:3])})" if fitting else ""
        raise UserError(
            f"{option} {column}: its name speaks of {METRIC_TITLES.get(named, named)}, but {task.title} is reported by "
            f"{METRIC_TITLES[task.metric]}; name a column of that{others}, or say "
            f"--metric {named if named in METRICS else task.metric}"
        )
    return task.metric


class ImportedChance(NamedTuple):
    """The best constant prediction's score and the rows of the split, by metric and as far as they are known."""

    constant: float | None
    rows: int | None


def choose_chance(
    task: str, split: Split, metric: str, baseline: float | None, rows: int | None
) -> tuple[ImportedChance, str]:
    """Return what decides which runs of a task failed, as options say or as known of the task, and a note on it.

    Raises:
        UserError: `baseline` is given for a correlation, whose chance level follows from the number of rows.
    """
    known = find_known_task(task)
    if baseline is not None and metric in CORRELATIONS:
        raise UserError(
            f"--baseline {baseline:g}: {METRIC_TITLES[metric]} is compared with {NOISE_QUANTILE} / sqrt(rows of the "
            "split), so give --rows"
        )
    half = known is not None and split == "test" and not known.large
    of = "the half of the dev set that Zhang et al. test on" if half else "the dev set"
    if rows is None and baseline is None and known:
        rows = known.split_rows(split)
        counted = f"the {rows:,} rows of {of}" if rows else ""
    else:
        counted = f"{rows:,} rows, as --rows says" if rows else ""
    constant = known_constant_score(known, split, metric) if baseline is None else baseline
    level = chance_level(metric, constant, rows)
    if level is None:
        option = (
            "--rows gives the number of rows of the split"
            if metric in CORRELATIONS
            else "--baseline gives the best score of a constant prediction"
        )
        note = f"failed: not known; {option}"
    else:
        if metric in CORRELATIONS:
            words = f"which is not above zero beyond noise: {NOISE_QUANTILE} / sqrt(n) of {counted}"
        elif baseline is not None:
            words = "as --baseline says"
        else:
            words = f"the best {METRIC_TITLES[metric]} of a constant prediction on {of}"
        note = f"failed is a score that is NaN or at most {level:.4f}, {words}"
    return ImportedChance(constant, rows), f"{task}: {note}"


def split_task_values(option: str, texts: Sequence[str], tasks: Iterable[str]) -> dict[str, str]:
    """Return the values of an option by task, which are given as TASK=VALUE, or as VALUE if there is one task.

    Raises:
        UserError: there is no such task, one has two values, or a value is for several tasks.
    """
    names = sorted(tasks)
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        if not sign and len(names) > 1:
            raise UserError(
                f"{option} {text} is for one task; import one at a time of {', '.join(names)}, or say TASK={text}"
            )
        known = find_known_task(name.strip())
        task = (known.name if known else name.strip()) if sign else names[0]
        if task not in names:
            raise UserError(f"{option} {text}: there is no task {task!r}, there are {', '.join(names)}")
        if task in values:
            raise UserError(f"{option} {text}: {task} has {values[task]} already")
        values[task] = value.strip()
    return values


def parse_baselines(texts: Sequence[str], tasks: Iterable[str], scale: str) -> dict[str, float]:
    """Return `--baseline`, given on the scale of the scores or with a percent sign, by task and as fractions.

    Raises:
        UserError: a value cannot be on that scale, or is not for one of the tasks.
    """
    baselines = {}
    for task, text in split_task_values("--baseline", texts, tasks).items():
        digits = text.removesuffix("%")
        percent = scale == "percent" or digits != text
        if not NUMBER_PATTERN.fullmatch(digits):
            raise UserError(f"--baseline {text}: must be a number, or TASK=NUMBER")
        value = float(digits)
        limit = 100 if percent else 1
        if not math.isfinite(value) or abs(value) > limit or (digits == text and percent and 0 < abs(value) <= 1):
            raise UserError(f"--baseline {text}: the scores are {describe_scale(scale)}, and so must it be")
        baselines[task] = float(Decimal(str(value)).scaleb(-2)) if percent else value
    return baselines


def parse_row_counts(texts: Sequence[str], tasks: Iterable[str]) -> dict[str, int]:
    """Return `--rows` by task.

    Raises:
        UserError: a value is no number of rows, or is not for one of the tasks.
    """
    counts = split_task_values("--rows", texts, tasks)
    for text in counts.values():
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < 1:
            raise UserError(f"--rows {text}: must be a whole number from 1, or TASK=NUMBER")
    return {task: int(text) for task, text in counts.items()}


def _check_metric(wanted: str, task: TaskSpec | None) -> None:
    if not wanted.strip():
        raise UserError("--metric: the name is empty")
    if task is None:
        return
    if wanted not in METRICS:
        raise UserError(f"--metric {wanted}: must be one of {', '.join(METRICS)}{did_you_mean(wanted, METRICS)}")
    if (wanted in REGRESSION_METRICS) != task.is_regression:
        raise UserError(f"--metric {wanted}: {task.title} {'is' if task.is_regression else 'is not'} a regression task")


def _normalize_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
