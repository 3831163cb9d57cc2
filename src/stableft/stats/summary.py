"""Summaries of scores and result types. NaN scores count in `n`, but mean and SD are those of the finite scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# The two absolute deviations from a median or mean are always equal, so Levene's test needs three values; with fewer,
# SciPy returns a p-value near 0.
MIN_VALUES = 3


def too_few_reason(*groups: np.ndarray) -> str | None:
    """Return a sentence if a group has too few values, else None."""
    counts = [len(group) for group in groups]
    if min(counts) >= MIN_VALUES:
        return None
    subject = "each group needs" if len(groups) > 1 else "this needs"
    be = "are" if len(counts) > 1 or counts[0] != 1 else "is"
    return f"{subject} at least {MIN_VALUES} values, here {be} {' and '.join(map(str, counts))}"


Values = Sequence[float] | np.ndarray
Center = Literal["median", "mean", "trimmed"]
Alternative = Literal["two-sided", "greater", "less"]

LEVENE = "Levene's test"
LEVENE_TITLES: dict[Center, str] = {  # for prose, which must not leave out the center
    "median": "Levene centred at the median",
    "mean": "Levene centred at the mean",
    "trimmed": "Levene centred at the trimmed mean",
}
STUDENT_T_TEST = "Student's t-test"
STUDENT_FROM_SUMMARIES = "Student's t-test from summaries"
WELCH_T_TEST = "Welch's t-test"
WELCH_FROM_SUMMARIES = "Welch's t-test from summaries"
BOSCHLOO = "Boschloo's exact test"
FISHER = "Fisher's exact test"
MANN_WHITNEY = "Mann-Whitney U test"
PERMUTATION = "Permutation test"
RESAMPLES = 9999
# Groups with more values get an asymptotic interval: resampling takes long and gives the same result.
ASYMPTOTIC_ABOVE = 2000


@dataclass(frozen=True)
class Summary:
    """Description of `n` values, of which `n_nan` are not finite. The statistics are those of the finite ones."""

    n: int
    n_nan: int
    mean: float | None
    std: float | None  # ddof 1; None with fewer than two finite values
    median: float | None
    min: float | None
    max: float | None

    @property
    def n_finite(self) -> int:
        return self.n - self.n_nan

    @property
    def runs_counted(self) -> str:
        """The runs behind mean and SD, in words: "20 runs", or "18 of 20 runs" if two scores are NaN."""
        return f"{f'{self.n_finite} of ' if self.n_nan else ''}{self.n} run{'s' if self.n != 1 else ''}"


@dataclass(frozen=True)
class TestResult:
    """Result of a test of two groups. `statistic` and `p` are None if there is no result; `reason` says why.

    `n_a` and `n_b` count the values tested: the finite ones, except in a test of ranks, which puts NaN last.
    """

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
    """A confidence interval. The bounds are None if there is none; `reason` says why."""

    method: str
    level: float
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class SdRatio:
    """The SD of one group divided by that of another. `value` is None if undefined; `reason` says why."""

    value: float | None
    interval: Interval
    n_a: int
    n_b: int
    reason: str | None = None


@dataclass(frozen=True)
class PointEstimate:
    """A statistic of `n` values. `value` is None if undefined; `reason` says why."""

    value: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of `n` pairs. `value` is None if undefined; `reason` says why."""

    value: float | None
    interval: Interval
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class ImprovementProbability:
    """Probability that a run of one group beats a run of another. `test`: whether it differs from one half."""

    value: float | None
    interval: Interval
    test: TestResult
    n_a: int
    n_b: int
    reason: str | None = None


def finite_values(values: Values) -> np.ndarray:
    """Return the values that are finite. A caller that leaves out NaN states how many of the runs it counts."""
    array = np.asarray(values, dtype=float)
    return array[np.isfinite(array)]


def is_significant(result: TestResult, alpha: float) -> bool:
    """Return whether there is a p-value and it is below alpha."""
    return result.p is not None and result.p < alpha


IQM_TRIM = 0.25  # share cut at each end, which leaves the middle half


def summarize(values: Values) -> Summary:
    """Return count, center and spread of the values. NaN is counted, but excluded from the statistics."""
    finite = finite_values(values)
    n, n_nan = len(values), len(values) - len(finite)
    if not len(finite):
        return Summary(n, n_nan, None, None, None, None, None)
    low, high = float(finite.min()), float(finite.max())
    # For equal values, numpy's mean may be off by one bit, which would give an SD of 1e-17 instead of 0.
    mean = low if low == high else float(finite.mean())
    std = None if len(finite) < 2 else 0.0 if low == high else float(finite.std(ddof=1))
    return Summary(n, n_nan, mean, std, float(np.median(finite)), low, high)


def iqm(values: Values) -> PointEstimate:
    """Return the interquartile mean of the finite values: without a quarter of them, rounded down, at each end.

    It equals `scipy.stats.trim_mean(values, 0.25)`, as in rliable. With three values, nothing is cut.
    """
    finite = finite_values(values)
    reason = too_few_reason(finite)
    return PointEstimate(None if reason else float(trimmed_mean(finite)), len(finite), reason)


def trimmed_mean(values: np.ndarray, axis: int = -1, trim: float = IQM_TRIM) -> np.ndarray:
    """Return the mean along the last axis without a share `trim` of the values, rounded down, at each end."""
    assert axis == -1
    n = values.shape[-1]
    cut = int(trim * n)
    return np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
