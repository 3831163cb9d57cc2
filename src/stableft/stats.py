"""Statistics of stability: arrays in, frozen results out. What cannot be computed is None with its reason."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Sequence[float] | np.ndarray
LEVENE = "Levene's test"
WELCH = "Welch's t-test from summaries"
BOSCHLOO = "Boschloo's exact test"
RESAMPLES = 9999
ENDLESS = 1e300  # a ratio to nothing, in a form that can be ranked
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


@dataclass(frozen=True)
class Ratio:
    """The std of one group over that of another; `value` is None where there is none, and `reason` says why."""

    value: float | None
    interval: Interval
    n_a: int
    n_b: int
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


def boschloo(
    failed_a: int, n_a: int, failed_b: int, n_b: int, alternative: Literal["less", "two-sided"] = "less"
) -> TestResult:
    """Returns Boschloo's test of equal shares of failed runs; "less": group a fails less often than group b.

    The statistic is the p-value of Fisher's exact test, than which this test is uniformly more powerful.

    Raises:
        ValueError: a count is not between 0 and its n.
    """
    if not (0 <= failed_a <= n_a and 0 <= failed_b <= n_b):
        raise ValueError(f"each count must be between 0 and its n, here are {failed_a} of {n_a}, {failed_b} of {n_b}")
    statistic = p = reason = None
    if min(n_a, n_b) == 0:
        reason = f"each group needs a run, here are {n_a} and {n_b}"  # SciPy answers NaN
    elif failed_a + failed_b in (0, n_a + n_b):
        reason = f"{'no' if failed_a + failed_b == 0 else 'every'} run of both groups failed"
    else:
        from scipy import stats

        # SciPy compares the columns of the table by the share in its first row.
        answer = stats.boschloo_exact([[failed_a, failed_b], [n_a - failed_a, n_b - failed_b]], alternative=alternative)
        statistic, p = float(answer.statistic), min(float(answer.pvalue), 1.0)
    return TestResult(BOSCHLOO, None, alternative, statistic, p, n_a, n_b, reason)


def sd_ratio(a: Values, b: Values, rng: np.random.Generator, level: float = 0.95) -> Ratio:
    """Returns std(a) / std(b) (ddof 1) with its BCa bootstrap interval over RESAMPLES resamples of each group.

    A resample that leaves b without spread counts as larger than any other: leaving it out would make the interval
    too narrow. There is no interval where so many do that its upper bound is infinite, where one leaves neither group
    any spread, or where the jackknife values that BCa needs do not exist.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    reason = _too_few_or_nan(x, y)
    if reason is None and np.ptp(y) == 0:
        reason = "the second group does not vary"
    if reason is not None:
        return Ratio(None, Interval("BCa bootstrap", level, None, None, reason), len(x), len(y), reason)
    value = float(_ratio_of_stds(x, y))
    low, high, reason = (None, None, "the first group does not vary") if value == 0 else _bca(x, y, rng, level)
    return Ratio(value, Interval("BCa bootstrap", level, low, high, reason), len(x), len(y))


def holm(ps: Sequence[float | None]) -> tuple[float | None, ...]:
    """Returns the p-values adjusted by Holm's step-down method; one that is None stays None and does not count."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return tuple(adjusted)


def holds(result: TestResult, alpha: float) -> bool:
    """True where there is a test and its p-value is below alpha."""
    return result.p is not None and result.p < alpha


def _ratio_of_stds(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    # Equal values get exactly 0 (see `describe`). Rounded, so that ties among resamples are ties on every processor.
    over, under = (np.where(np.ptp(v, axis=axis) == 0, 0.0, np.std(v, axis=axis, ddof=1)) for v in (x, y))
    endless = np.where(over > 0, ENDLESS, np.nan)
    return np.where(under > 0, np.round(over / np.where(under > 0, under, 1.0), 12), endless)


def _bca(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, level: float
) -> tuple[float | None, float | None, str | None]:
    """Returns the bounds for the ratio of the stds, or why there are none."""
    from scipy import stats

    if np.ptp(np.sort(y)[1:]) == 0 or np.ptp(np.sort(y)[:-1]) == 0:
        return None, None, "the second group does not vary without one of its values"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's where BCa is not defined, which is seen below
        answer = stats.bootstrap(
            (x, y), _ratio_of_stds, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=rng
        )
    ratios = answer.bootstrap_distribution
    if undefined := int(np.isnan(ratios).sum()):
        return None, None, f"{undefined} of {RESAMPLES} resamples leave both groups without spread"
    low, high = map(float, answer.confidence_interval)
    if not (np.isfinite(low) and np.isfinite(high)):
        return None, None, "the ratio without one of the values does not vary, so BCa is not defined"
    if high > ratios[ratios < ENDLESS].max():
        return None, None, "the upper bound is infinite: too many resamples leave the second group without spread"
    return low, high, None


def _too_few_or_nan(x: np.ndarray, y: np.ndarray) -> str | None:
    """Says why two groups cannot be compared by their spread, or None."""
    if min(len(x), len(y)) < MIN_LEVENE:
        return f"each group needs at least {MIN_LEVENE} values, here are {len(x)} and {len(y)}"
    nan = [int((~np.isfinite(group)).sum()) for group in (x, y)]
    if any(nan):
        return (
            f"{nan[0]} of {len(x)} and {nan[1]} of {len(y)} values are NaN: leaving out the runs that diverged would "
            "make their group look stable"
        )
    return None


def _no_levene(x: np.ndarray, y: np.ndarray, centre) -> str | None:
    """Says why SciPy's answer would mean nothing, or None."""
    reason = _too_few_or_nan(x, y)
    if reason is not None:
        return reason
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return "neither group varies"
    # The test compares the deviations' means with their spread. Without spread (two scores, each equally often)
    # the statistic is infinite or a rounding error.
    if all(np.ptp(np.abs(group - centre(group))) <= 1e-12 * (1 + np.abs(group).max()) for group in (x, y)):
        return "the absolute deviations from the centre do not vary in either group"
    return None
