"""Statistics of stability: arrays in, frozen results out. What cannot be computed is None with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Sequence[float] | np.ndarray
LEVENE = "Levene's test"
WELCH = "Welch's t-test from summaries"
MIN_LEVENE = 3  # with fewer values the absolute deviations of a group carry no information; SciPy answers p near 0


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


def describe(values: Values) -> Summary:
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


def levene(a: Values, b: Values, center: Literal["median", "mean"] = "median") -> TestResult:
    """Returns Levene's test of equal variances; the median-centred form is the Brown-Forsythe test.

    On runs of which some failed (two modes) the mean-centred form has about 20 % false positives at alpha .05, the
    median-centred one about 5 %, so the centre is part of the result.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    statistic = p = None
    reason = _no_levene(x, y, np.median if center == "median" else np.mean)
    if reason is None:
        from scipy import stats  # takes a second to import

        answer = stats.levene(x, y, center=center)
        statistic, p = float(answer.statistic), float(answer.pvalue)
    return TestResult(LEVENE, center, None, statistic, p, len(x), len(y), reason)


def welch_from_summaries(
    mean_a: float | None,
    std_a: float | None,
    n_a: int,
    mean_b: float | None,
    std_b: float | None,
    n_b: int,
) -> TestResult:
    """Returns the two-sided Welch t-test of equal means from mean, std (ddof 1) and n of two groups."""
    statistic = p = reason = None
    if mean_a is None or mean_b is None or std_a is None or std_b is None or min(n_a, n_b) < 2:
        reason = "mean, std and n of at least 2 are needed of both groups"
    elif std_a == std_b == 0:
        reason = "neither group varies"
    else:
        from scipy import stats

        answer = stats.ttest_ind_from_stats(mean_a, std_a, n_a, mean_b, std_b, n_b, equal_var=False)
        statistic, p = float(answer.statistic), float(answer.pvalue)
    return TestResult(WELCH, None, "two-sided", statistic, p, n_a, n_b, reason)


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Returns the Wilson interval of a share of k in n.

    Raises:
        ValueError: k is not between 0 and n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must be between 0 and n = {n}, here it is {k}")
    if n == 0:
        return Interval("Wilson", level, None, None, "there are no runs")
    from scipy import stats

    low, high = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval("Wilson", level, float(low), float(high))


def holds(result: TestResult, alpha: float) -> bool:
    """True where there is a test and its p-value is below alpha."""
    return result.p is not None and result.p < alpha


def _no_levene(x: np.ndarray, y: np.ndarray, centre) -> str | None:
    """Says why SciPy's answer would mean nothing, or None."""
    if min(len(x), len(y)) < MIN_LEVENE:
        return f"each group needs at least {MIN_LEVENE} values, here are {len(x)} and {len(y)}"
    nan = [int((~np.isfinite(group)).sum()) for group in (x, y)]
    if any(nan):
        return (
            f"{nan[0]} of {len(x)} and {nan[1]} of {len(y)} values are NaN: leaving out the runs that diverged would "
            "make their group look stable"
        )
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return "neither group varies"
    # The test compares the deviations' means with their spread. Without spread (two scores, each equally often)
    # the statistic is infinite or a rounding error.
    if all(np.ptp(np.abs(group - centre(group))) <= 1e-12 * (1 + np.abs(group).max()) for group in (x, y)):
        return "the absolute deviations from the centre do not vary in either group"
    return None
