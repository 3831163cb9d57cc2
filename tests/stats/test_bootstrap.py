"""Bootstrap intervals of one group, and the probability that one group's run beats another's."""

import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import bootstrap_interval, probability_of_improvement
from stableft.stats.summary import ASYMPTOTIC_ABOVE
from stableft.stats.tests import IMPROVEMENT_ASYMPTOTIC_ABOVE

NAN = math.nan
STATISTICS = {
    "mean": lambda v, axis: np.mean(v, axis=axis),
    "std": lambda v, axis: np.std(v, axis=axis, ddof=1),
    "iqm": lambda v, axis: scipy_stats.trim_mean(v, 0.25, axis=axis),
}
ASYMPTOTIC = {
    "mean": "normal approximation",
    "std": "delta method on the log SD",
    "iqm": "normal approximation with the Winsorised SD",
}


def interval(values, statistic, seed=0, **more):
    return bootstrap_interval(values, statistic, np.random.default_rng(seed), **more)


def improvement(a, b, seed=0, **more):
    return probability_of_improvement(a, b, np.random.default_rng(seed), **more)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_is_scipys_bca(statistic):
    values = np.random.default_rng(1).gumbel(0.7, 0.03, 25)
    rng = np.random.default_rng(0)
    expected = scipy_stats.bootstrap((values,), STATISTICS[statistic], method="BCa", confidence_level=0.9, rng=rng)
    result = interval(values, statistic, level=0.9)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)
    assert (result.method, result.level, result.reason) == ("BCa bootstrap", 0.9, None)
    assert interval(values, statistic, level=0.9) == result
    assert interval(values, statistic, seed=1, level=0.9) != result


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "3 values.* 0"),
        ([0.5, 0.6], "3 values.* 2"),
        ([0.5, 0.6, NAN], "3 values.* 2"),
        ([0.527] * 25, "the values do not vary"),
    ],
)
def test_the_interval_says_why_there_is_none(statistic, values, reason):
    result = interval(values, statistic)
    assert result.low is result.high is None
    assert re.search(reason, result.reason)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_is_that_of_the_finite_values(statistic):
    values = np.random.default_rng(1).gumbel(0.7, 0.03, 25)
    assert interval([NAN, *values, NAN], statistic) == interval(values, statistic)


def test_an_interval_without_jackknife_values_is_not_defined():
    """Two scores, each equally often: whichever run is left out, the SD is the same."""
    assert "the SD: without one of the values" in interval([0.1, 0.4] * 10, "std").reason
    assert interval([0.1, 0.4] * 10, "mean").reason is None
    assert "the interquartile mean: without" in interval([0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9], "iqm").reason


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_of_many_values_is_asymptotic_and_nearly_the_bootstraps(statistic):
    values = np.random.default_rng(2).gumbel(0.7, 0.03, ASYMPTOTIC_ABOVE + 1)
    many, few = interval(values, statistic), interval(values[:-1], statistic, resamples=1999)
    assert (many.method, few.method) == (ASYMPTOTIC[statistic], "BCa bootstrap")
    width = few.high - few.low
    assert (many.low, many.high) == (pytest.approx(few.low, abs=0.1 * width), pytest.approx(few.high, abs=0.1 * width))
    assert interval(np.tile(values, 25), statistic).high < many.high  # 50,000 values


def test_the_asymptotic_interval_of_the_mean_by_hand():
    values = np.random.default_rng(3).normal(5, 2, 3000)
    reach = 1.959963984540054 * values.std(ddof=1) / math.sqrt(3000)
    result = interval(values, "mean")
    assert (result.low, result.high) == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_the_asymptotic_interval_of_the_interquartile_mean_has_scipys_error():
    values = np.random.default_rng(3).standard_t(3, 3000)
    result = interval(values, "iqm")
    inside = scipy_stats.mstats.trimmed_mean_ci(values, (0.25, 0.25), alpha=0.05)
    assert (result.low, result.high) == pytest.approx(tuple(inside), rel=1e-2)


def test_probability_of_improvement_by_hand():
    # Pairs: 3 beats 1, 2 and not 4; 2 beats 1, ties 2; 4 beats 1, 2, ties 4: (2 + 1.5 + 2.5) / 9
    result = improvement([3.0, 2.0, 4.0], [1.0, 2.0, 4.0])
    assert result.value == pytest.approx(6 / 9)
    assert (result.n_a, result.n_b, result.reason) == (3, 3, None)


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.5, 1, 25).round(1), rng.normal(0, 1, 20).round(1)
    result = improvement(a, b)
    expected = scipy_stats.mannwhitneyu(a, b, alternative="two-sided")
    assert (result.test.statistic, result.test.p) == (expected.statistic, expected.pvalue)
    assert (result.test.test, result.test.alternative) == ("Mann-Whitney U test", "two-sided")
    pairs = np.subtract.outer(a, b)
    assert result.value == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert result.interval.low < result.value < result.interval.high
    assert improvement(a, b) == result
    assert improvement(a, b, seed=1).interval != result.interval


def test_probability_of_improvement_is_exact_for_few_values():
    # 2 of the C(6, 3) = 20 orders are as extreme as all of one group above the other
    assert improvement([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]).test.p == pytest.approx(2 / 20)


def test_the_interval_of_the_probability_is_scipys_bca():
    def statistic(x, y, axis):
        pairs = x[..., :, np.newaxis] - y[..., np.newaxis, :]
        return ((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(-2, -1))

    rng = np.random.default_rng(6)
    a, b = rng.normal(0.5, 1, 9), rng.normal(0, 1, 7)
    rng = np.random.default_rng(0)
    expected = scipy_stats.bootstrap((a, b), statistic, method="BCa", n_resamples=999, rng=rng)
    result = improvement(a, b, resamples=999).interval
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "value", "p", "reason"),
    [
        ([0.5, 0.6], [0.1, 0.2, 0.3], None, False, "3 values.* 2 and 3"),
        ([0.5, 0.6, 0.7], [0.1, 0.2, 0.3], 1.0, True, "every resample gives 1"),
        ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3], 1 / 6, True, None),
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1], 0.5, False, "every resample gives 0.5"),
    ],
)
def test_the_probability_says_what_is_missing(a, b, value, p, reason):
    result = improvement(a, b, resamples=999)
    assert result.value == (None if value is None else pytest.approx(value))
    assert (result.test.p is not None) == p
    assert (result.test.reason is None) == p
    assert re.search(reason, result.interval.reason) if reason else result.interval.reason is None


def test_a_nan_score_ranks_below_every_other():
    rng = np.random.default_rng(9)
    a, b = rng.normal(0.5, 1, 12), rng.normal(0, 1, 10)
    with_nan, with_lowest = (([*a, *[low] * 3], [*b, low]) for low in (NAN, -99.0))
    assert improvement(*with_nan) == improvement(*with_lowest)
    result = improvement(*with_nan)
    assert (result.n_a, result.n_b, result.test.n_a, result.test.n_b) == (15, 11, 15, 11)
    assert result.test.p == scipy_stats.mannwhitneyu(*with_lowest, alternative="two-sided").pvalue
    assert improvement([NAN] * 3, [NAN] * 3).value == 0.5
    assert improvement([NAN] * 3, [0.1, 0.2, 0.3]).value == 0.0


def test_the_interval_of_the_probability_of_many_values_is_asymptotic():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.3, 1, IMPROVEMENT_ASYMPTOTIC_ABOVE + 1), rng.normal(0, 1, 300)
    many, few = improvement(a, b).interval, improvement(a[:-1], b, resamples=1999).interval
    assert many.method == "normal approximation with DeLong's variance"
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.005)


def test_delongs_variance_by_hand():
    """Of a tie-free pair the shares of each group are those of pairs, counted one by one."""
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, IMPROVEMENT_ASYMPTOTIC_ABOVE + 1), rng.normal(0, 1, 40)
    above = np.greater.outer(a, b)
    error = math.sqrt(above.mean(axis=1).var(ddof=1) / len(a) + above.mean(axis=0).var(ddof=1) / len(b))
    result = improvement(a, b)
    assert result.interval.high - result.interval.low == pytest.approx(2 * 1.959963984540054 * error)
