"""The end of every import: number formats, metrics, arm names, ids, and the file of records."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from stableft.catalog.tasks import METRIC_TITLES, METRICS, REGRESSION_METRICS, TASKS, TaskSpec
from stableft.config.run_config import Split, canonical_json
from stableft.errors import UserError, did_you_mean
from stableft.records.failure import (
    CORRELATIONS,
    NOISE_QUANTILE,
    chance_level,
    is_run_failed,
    known_constant_score,
)
from stableft.records.run_record import ImportedRun, write_records_file
from stableft.text import align_columns

RUNS_SHOWN = 12  # runs that a message names


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


def rename_arms(renames: Sequence[str], arms: Iterable[str]) -> dict[str, str]:
    """Return the name under which each arm of the file is imported. `renames` have the form OLD=NEW.

    Raises:
        UserError: one has another form, names no arm, or would merge two arms.
    """
    names = {arm: arm for arm in sorted(arms)}
    for text in renames:
        old, sign, new = (part.strip() for part in text.partition("="))
        if not (old and sign and new):
            raise UserError(f"--rename {text!r}: must be OLD=NEW")
        if old not in names:
            there = f"there are {', '.join(names)}{did_you_mean(old, names)}"
            raise UserError(f"--rename {text}: there is no arm {old!r}, {there}")
        if names[old] != old:
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
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out} is the file that is imported")


def write_imported_runs(out: Path, runs: Sequence[ImportedRun], names: dict[str, str], notes: Iterable[str]) -> str:
    """Judge which runs failed, write them by task, arm and seed, replacing any existing file, and describe them."""
    judged = [
        run.model_copy(update={"failed": is_run_failed(run, run.report, run.split, run.metric)})
        for run in sorted(runs, key=lambda run: (run.task, run.arm, run.seed))
    ]
    source = judged[0].source
    existed = out.exists()
    write_records_file(out, judged)
    several = len({run.arm for run in judged}) > 1
    reference = [f"reports compare with {judged[0].arm}, or with --against ARM"] if several else []
    renamed = [f"arm {new} is {old} in {source.name}" for old, new in names.items() if new != old]
    return "\n".join(
        [
            f"{len(judged)} runs of {source.name} (sha256 {source.sha256})",
            _runs_table(judged),
            *renamed,
            *reference,
            *notes,
            f"{'replaced' if existed else 'wrote'} {out}; next: stableft report {shlex.quote(str(out))}",
        ]
    )


def _runs_table(runs: Sequence[ImportedRun]) -> str:
    rows: list[tuple[object, ...]] = [("task", "arm", "score", "runs", "seeds", "NaN", "failed")]
    for (task, arm), group in groupby(runs, key=lambda run: (run.task, run.arm)):
        cell = list(group)
        first = cell[0]
        scores = [run.score(run.report, run.split, run.metric) for run in cell]
        nan = sum(score is not None and math.isnan(score) for score in scores)
        known = [run.failed for run in cell]
        failed = "not known" if None in known else f"{sum(map(bool, known))}/{len(known)}"
        score = f"{first.report} {first.split} {first.metric}"
        rows.append((task, arm, score, len(cell), _format_seeds([run.seed for run in cell]), nan, failed))
    return align_columns(rows)


def _format_seeds(seeds: Sequence[int]) -> str:
    """Return sorted seeds as 0-49, or as 0-7,9,12; only the first and last if there are many gaps."""
    starts = [i for i, seed in enumerate(seeds) if i == 0 or seed != seeds[i - 1] + 1]
    if len(starts) > 3:
        return f"{seeds[0]} to {seeds[-1]}, with gaps"
    spans = [seeds[start:end] for start, end in zip(starts, [*starts[1:], len(seeds)], strict=True)]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


ScoreScale = Literal["percent", "fraction"]
NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
WHOLE_NUMBER_PATTERN = re.compile(r"\d+(\.0*)?", re.ASCII)
MAX_WHOLE_NUMBER = 2**63 - 1  # of seeds and steps
NONNEGATIVE_METRICS = (
    "accuracy",
    "f1",
    "accuracy_f1",
)  # a share of 1 % or less of these is no result of a trained model
LINES_SHOWN = 3  # lines that a message names


class PrintedNumber(NamedTuple):
    """A number in a file. `value` is None for NaN."""

    line: int
    text: str
    value: Decimal | None


def parse_number(path: Path, line: int, column: str, text: str) -> PrintedNumber:
    """Return a number with all its printed digits. An empty field is NaN, as written by pandas.

    Raises:
        UserError: the text is neither a number nor "nan" nor empty.
    """
    text = text.strip()
    if text.lower().lstrip("+-") in ("", "nan"):
        return PrintedNumber(line, text, None)
    if not NUMBER_PATTERN.fullmatch(text) or math.isinf(float(text)):
        raise UserError(f"{path}:{line} column {column!r}: {text!r} must be a number, nan or empty")
    return PrintedNumber(line, text, Decimal(text))


def parse_whole_number(path: Path, line: int, column: str, text: str) -> int:
    """Return a whole number of at least 0, which pandas may have written as 8.0.

    Raises:
        UserError: the text is anything else.
    """
    text = text.strip()
    if not WHOLE_NUMBER_PATTERN.fullmatch(text) or (whole := int(text.partition(".")[0])) > MAX_WHOLE_NUMBER:
        raise UserError(f"{path}:{line} column {column!r}: {text!r} must be a whole number from 0")
    return whole


def determine_scale(
    path: Path, column: str, cells: Sequence[tuple[PrintedNumber, str]], requested: ScoreScale | None
) -> ScoreScale:
    """Return whether cells (with their metrics) are fractions or percent: `requested`, or by their values.

    Raises:
        UserError: the values fit both scales or neither, or not the requested one.
    """
    place = f"{path}: column {column!r}"
    numbers = [(cell, metric, cell.value) for cell, metric in cells if cell.value is not None]
    outside = [cell for cell, _, value in numbers if abs(value) > 100]
    negative = [cell for cell, metric, value in numbers if value < 0 and metric in NONNEGATIVE_METRICS]
    large = [cell for cell, _, value in numbers if abs(value) > 1]
    small = [cell for cell, _, value in numbers if 0 < abs(value) <= 1]
    tiny = [cell for cell, metric, value in numbers if 0 < value <= 1 and metric in NONNEGATIVE_METRICS]
    if outside:
        raise UserError(f"{place}: a score must be a fraction or a percentage, {_describe_lines(outside)}")
    if negative:
        raise UserError(f"{place}: accuracy and F1 cannot be negative, {_describe_lines(negative)}")
    if requested == "fraction" and large:
        raise UserError(f"{place}: a fraction cannot be above 1 (--scale fraction), {_describe_lines(large)}")
    if requested == "percent" and tiny:
        raise UserError(f"{place}: 1 % or less looks like a fraction (--scale percent), {_describe_lines(tiny)}")
    if requested:
        return requested
    if large and small:
        way = "narrow the rows with --where" + ("" if tiny else ", or say --scale percent if all are percent")
        raise UserError(
            f"{place}: some scores look like fractions ({_describe_lines(small)}) and some like percent "
            f"({_describe_lines(large)}); {way}"
        )
    return "percent" if large else "fraction"


def as_fraction(value: Decimal | None, scale: ScoreScale) -> Decimal | None:
    """Return a score as a fraction with the same digits."""
    return value.scaleb(-2) if value is not None and scale == "percent" else value


def to_float(value: Decimal | None) -> float:
    return math.nan if value is None else float(value)


def _describe_lines(cells: Sequence[PrintedNumber]) -> str:
    named = ", ".join(
        f"line {cell.line} has {cell.text}" for cell in sorted(cells, key=lambda cell: cell.line)[:LINES_SHOWN]
    )
    return named + (f" and so have {len(cells) - LINES_SHOWN} more" if len(cells) > LINES_SHOWN else "")


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


def check_single_task(tasks: Iterable[str], baseline: float | None, rows: int | None) -> None:
    """Check that options that describe the split of one task are given for one."""
    names = sorted(tasks)
    if len(names) > 1:
        for option, value in (("--baseline", baseline), ("--rows", rows)):
            if value is not None:
                raise UserError(f"{option} {value:.9g} is for one task; import one at a time of {', '.join(names)}")


def baseline_as_fraction(baseline: float | None, scale: str) -> float | None:
    """Return `--baseline`, given on the scale of the scores, as a fraction.

    Raises:
        UserError: it cannot be on that scale.
    """
    if baseline is None:
        return None
    limit = 100 if scale == "percent" else 1
    if not math.isfinite(baseline) or abs(baseline) > limit or (scale == "percent" and 0 < abs(baseline) <= 1):
        raise UserError(f"--baseline {baseline:g}: the scores are {describe_scale(scale)}, and so must it be")
    return float(Decimal(str(baseline)).scaleb(-2)) if scale == "percent" else baseline


def describe_scale(scale: str) -> str:
    return "in percent" if scale == "percent" else "fractions"


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
