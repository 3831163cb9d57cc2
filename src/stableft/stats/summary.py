"""Summaries of scores, the types of results, and reasons why a number is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_VALUES = 3  # with fewer the absolute deviations of a group carry no information; SciPy's Levene answers p near 0


def too_few_reason(*groups: np.ndarray, least: int = MIN_VALUES) -> str | None:
    """Says that a group has fewer than `least` values."""
    counts = [len(group) for group in groups]
    if min(counts) >= least:
        return None
    who = "each group needs" if len(groups) > 1 else "this needs"
    be = "are" if len(counts) > 1 or counts[0] != 1 else "is"
    return f"{who} at least {least} values, here {be} {' and '.join(map(str, counts))}"


def nan_reason(*groups: np.ndarray, looks: str = "better than it is") -> str | None:
    """Says how many values are not finite, and what leaving them out would do."""
    nan = [int((~np.isfinite(group)).sum()) for group in groups]
    if not any(nan):
        return None
    counts = " and ".join(f"{k} of {len(group)}" for k, group in zip(nan, groups, strict=True))
    return f"{counts} values are NaN: leaving out the runs that diverged would make their group look {looks}"


def unusable_reason(*groups: np.ndarray, looks: str = "better than it is") -> str | None:
    """Says why groups cannot be described or compared: too few values, or some that are not finite."""
    return too_few_reason(*groups) or nan_reason(*groups, looks=looks)


Values = Sequence[float] | np.ndarray
Center = Literal["median", "mean", "trimmed"]
Alternative = Literal["two-sided", "greater", "less"]

LEVENE = "Levene's test"
STUDENT_T_TEST = "Student's t-test"
STUDENT_FROM_SUMMARIES = "Student's t-test from summaries"
WELCH_T_TEST = "Welch's t-test"
WELCH_FROM_SUMMARIES = "Welch's t-test from summaries"
BOSCHLOO = "Boschloo's exact test"
FISHER = "Fisher's exact test"
MANN_WHITNEY = "Mann-Whitney U test"
PERMUTATION = "Permutation test"
RESAMPLES = 9999
# Values in a group above which an interval is asymptotic: resampling takes long and says the same.
ASYMPTOTIC_ABOVE = 2000


@dataclass(frozen=True)
class Summary:
    """Description of `n` values, of which `n_nan` are NaN; the statistics are those of the finite rest."""

    n: int
    n_nan: int
    mean: float | None
    std: float | None  # ddof 1; None for fewer than two finite values
    median: float | None
    min: float | None
    max: float | None

    @property
    def n_finite(self) -> int:
        return self.n - self.n_nan


@dataclass(frozen=True)
class TestResult:
    """One test of two groups. `statistic` and `p` are None where there is no test, and `reason` says why."""

    __test__ = False  # pytest: not a test case

    test: str
    center: str | None
    alternative: str | None
    statistic: float | None
    p: float | None
    n_a: int
    n_b: int
    reason: str | None = None


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both bounds are None where there is none, and `reason` says why."""

    method: str
    level: float
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class SdRatio:
    """The std of one group over that of another; `value` is None where there is none, and `reason` says why."""

    value: float | None
    interval: Interval
    n_a: int
    n_b: int
    reason: str | None = None


@dataclass(frozen=True)
class PointEstimate:
    """One number of `n` values; `value` is None where there is none, and `reason` says why."""

    value: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class ImprovementProbability:
    """How likely a run of one group beats one of another; `test` asks whether that differs from one half."""

    value: float | None
    interval: Interval
    test: TestResult
    n_a: int
    n_b: int
    reason: str | None = None


def is_significant(result: TestResult, alpha: float) -> bool:
    """True where there is a test and its p-value is below alpha."""
    return result.p is not None and result.p < alpha


IQM_TRIM = 0.25  # of each end: what is left is the middle half


def summarize(values: Values) -> Summary:
    """Returns count, centre and spread of the values; NaN is counted and kept out of the statistics."""
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    n, n_nan = len(array), len(array) - len(finite)
    if not len(finite):
        return Summary(n, n_nan, None, None, None, None, None)
    low, high = float(finite.min()), float(finite.max())
    # Equal values: numpy's mean may miss them by one bit, which leaves a std of 1e-17 that looks like a finding.
    mean = low if low == high else float(finite.mean())
    std = None if len(finite) < 2 else 0.0 if low == high else float(finite.std(ddof=1))
    return Summary(n, n_nan, mean, std, float(np.median(finite)), low, high)


def iqm(values: Values) -> PointEstimate:
    """Returns the interquartile mean: that of the values left when a quarter of them, rounded down, is cut at each end.

    This is `scipy.stats.trim_mean(values, 0.25)`, as rliable has it; of three values nothing is cut.
    """
    array = np.asarray(values, dtype=float)
    reason = unusable_reason(array)
    return PointEstimate(None if reason else float(trimmed_mean(array)), len(array), reason)


def trimmed_mean(values: np.ndarray, axis: int = -1, trim: float = IQM_TRIM) -> np.ndarray:
    """Returns the mean along the last axis without the share `trim` of values, rounded down, at each end."""
    assert axis == -1
    n = values.shape[-1]
    cut = int(trim * n)
    return np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
