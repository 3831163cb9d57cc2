"""What a foreign score means: its task, its metric, and what always predicting the most frequent class scores."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Literal

from stableft.errors import UserError, nearest
from stableft.imports.numbers import decimals
from stableft.metrics import METRICS, REGRESSION, TITLES
from stableft.tasks import TASKS, TaskSpec

FEWEST, MOST = 4, 6  # digits to which a fraction is compared with its baseline
NAMED = {
    "accuracy": re.compile(r"acc(uracy)?(?![a-z])"),
    "f1": re.compile(r"f1(?!\d)"),
    "mcc": re.compile(r"mcc|matthews"),
    "spearman": re.compile(r"spearman"),
    "pearson": re.compile(r"pearson"),
    "loss": re.compile(r"loss"),
}
CORRELATION = re.compile(r"corr(elation)?(?![a-z])")  # in GLUE's code the mean of Pearson and Spearman


@cache
def known_task(text: str) -> TaskSpec | None:
    """Returns the row of the task that is called so, by name or title in any spelling, or None."""
    return next((task for task in TASKS.values() if _plain(text) in (_plain(task.name), _plain(task.title))), None)


def metric_in_name(column: str) -> str | None:
    """Returns the metric, "loss" or "corr" that a column's name speaks of, or None."""
    found = {metric for metric, pattern in NAMED.items() if pattern.search(column.lower())}
    if "loss" in found:
        return "loss"
    if found == {"accuracy", "f1"}:
        return "accuracy_f1"
    if found == {"pearson", "spearman"} or (not found and CORRELATION.search(column.lower())):
        return "corr"
    return found.pop() if len(found) == 1 else None


def score_metric(option: str, column: str, task: TaskSpec | None, wanted: str | None, columns: Sequence[str]) -> str:
    """Returns the metric of a column of scores: as wanted, else the one the task is reported by.

    Without a task of ours it is what the column's name says, else "score".

    Raises:
        UserError: the name speaks of another metric, or `wanted` does not fit the task.
    """
    named = metric_in_name(column)
    if wanted is not None:
        _check_metric(wanted, task)
        return wanted
    if named == "loss":
        raise UserError(f"{option} {column}: a loss is no score, of which more is better; --metric says if it is one")
    if task is None:
        return named or "score"
    if named and named != task.metric:
        fitting = [name for name in columns if metric_in_name(name) == task.metric]
        others = f" (such as {', '.join(fitting[:3])})" if fitting else ""
        raise UserError(
            f"{option} {column}: its name speaks of {TITLES.get(named, named)}, but {task.title} is reported by "
            f"{TITLES[task.metric]}; name a column of that{others}, or say "
            f"--metric {named if named in METRICS else task.metric}"
        )
    return task.metric


def majority_score(task: TaskSpec | None, split: Literal["val", "test"], metric: str) -> float | None:
    """Returns what always predicting the most frequent class scores, or None where the counts are not known.

    The dev set validates, and tests where a task is large; of a small task its half tests that Z's rule leaves.
    """
    if metric in ("mcc", *REGRESSION):
        return 0.0
    counts = task.dev_counts if task else None
    if counts is None or metric not in ("accuracy", "f1", "accuracy_f1"):
        return None
    if task and split == "test" and not task.large:
        counts = tuple(count - count // 2 for count in counts)
    majority = counts.index(max(counts))
    accuracy = counts[majority] / sum(counts)
    if metric == "accuracy":
        return accuracy
    if len(counts) != 2:
        return None
    f1 = 2 * counts[1] / (2 * counts[1] + counts[0]) if majority == 1 else 0.0
    return f1 if metric == "f1" else (accuracy + f1) / 2


def describe_baseline(
    task: TaskSpec | None,
    split: Literal["val", "test"],
    metric: str,
    baseline: float | None,
    given: float | None = None,
) -> str:
    """Returns which runs count as failed; `given` is the user's baseline, else it is that of `majority_score`."""
    if baseline is None:
        return "which runs failed is not known; --baseline gives the score that a run must be above"
    half = task is not None and split == "test" and not task.large
    rows = "the half of the dev set that Zhang et al. test on" if half else "the dev set"
    if given is not None:
        words = "as --baseline says"
    elif metric in ("mcc", *REGRESSION):
        words = "as by chance"
    else:
        words = f"the {TITLES[metric]} of always predicting the most frequent class of {rows}"
    return f"failed is a score that is NaN or at most {baseline:.4f}, {words}"


def failed_as_printed(value: Decimal | None, most: int, baseline: float | None) -> bool | None:
    """True for a fraction that is NaN or not above its baseline, both to as many digits as the fraction has.

    A score of .5252 is the baseline 73/139 = .52518. `most` is the most digits that a score beside it has: pandas
    drops the zeros at a number's end. None: the baseline is not known.
    """
    if value is None:
        return True
    if baseline is None:
        return None
    digits = min(most, max(decimals(value), FEWEST), MOST)
    return round(value, digits) <= round(Decimal(baseline), digits)


def check_baseline(baseline: float | None, scale: str) -> float | None:
    """Returns `--baseline`, which is on the scale of the scores, as a fraction.

    Raises:
        UserError: it cannot be on that scale.
    """
    if baseline is None:
        return None
    limit = 100 if scale == "percent" else 1
    if not math.isfinite(baseline) or abs(baseline) > limit or (scale == "percent" and 0 < abs(baseline) <= 1):
        raise UserError(f"--baseline {baseline:g}: the scores are {scale_words(scale)}, and so must it be")
    return float(Decimal(str(baseline)).scaleb(-2)) if scale == "percent" else baseline


def scale_words(scale: str) -> str:
    return "in percent" if scale == "percent" else "fractions"


def _check_metric(wanted: str, task: TaskSpec | None) -> None:
    if not wanted.strip():
        raise UserError("--metric: the name is empty")
    if task is None:
        return
    if wanted not in METRICS:
        raise UserError(f"--metric {wanted}: must be one of {', '.join(METRICS)}{nearest(wanted, METRICS)}")
    if (wanted in REGRESSION) != task.is_regression:
        raise UserError(f"--metric {wanted}: {task.title} {'is' if task.is_regression else 'is not'} a regression task")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
