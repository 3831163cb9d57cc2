"""Statistics against numbers worked out by hand and against SciPy called directly."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import Interval, boschloo, describe, holds, holm, levene, sd_ratio, welch_from_summaries, wilson

NAN = math.nan


def test_describe_by_hand():
    summary = describe([1.0, 2.0, 3.0, 6.0])
    assert (summary.n, summary.n_nan, summary.mean, summary.median) == (4, 0, 3.0, 2.5)
    assert (summary.min, summary.max) == (1.0, 6.0)
    assert summary.std == pytest.approx(math.sqrt(14 / 3))  # squares 4 + 1 + 0 + 9, over n - 1


def test_describe_counts_nan_beside_the_finite_rest():
    summary = describe([1.0, NAN, 3.0])
    assert (summary.n, summary.n_nan, summary.n_finite, summary.mean) == (3, 1, 2, 2.0)
    assert summary.std == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_describe_nothing(values):
    summary = describe(values)
    assert summary.n_finite == 0
    assert {summary.mean, summary.std, summary.median, summary.min, summary.max} == {None}


def test_describe_one_value_has_no_std():
    assert describe([0.5]).std is None
    assert describe([0.5]).mean == 0.5


def test_describe_equal_values_have_a_std_of_exactly_zero():
    values = [0.527] * 25
    assert np.std(values, ddof=1) > 0  # what numpy makes of them
    assert (describe(values).std, describe(values).mean) == (0.0, 0.527)


@pytest.mark.parametrize("center", ["median", "mean"])
def test_levene_is_scipys(center):
    a, b = [0.1, 0.2, 0.4, 0.45], [0.5, 0.9, 0.1, 0.3, 0.35]
    expected = scipy_stats.levene(a, b, center=center)
    result = levene(a, b, center)
    assert (result.statistic, result.p) == (float(expected.statistic), float(expected.pvalue))
    assert (result.test, result.center, result.n_a, result.n_b) == ("Levene's test", center, 4, 5)
    assert result.reason is None


def test_levene_by_hand():
    # Medians 2 and 4; deviations 1 0 1 and 3 0 3; means 2/3 and 2; W = 4 * (8/3) / (2/3 + 6) = 1.6
    assert levene([1.0, 2.0, 3.0], [1.0, 4.0, 7.0]).statistic == pytest.approx(1.6)


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([0.5], [0.1, 0.2, 0.4], "at least 3 values, here are 1 and 3"),
        ([0.1, 0.2, 0.4], [], "at least 3 values, here are 3 and 0"),
        ([0.527] * 7, [0.7] * 5, "neither group varies"),
        ([0.1, 0.2, NAN], [0.1, 0.2, 0.4], "1 of 3 and 0 of 3 values are NaN"),
        ([0.0, 1.0, 0.0, 1.0], [0.7] * 7, "do not vary in either group"),
        ([0.1, 0.3] * 4, [0.4, 0.9] * 4, "do not vary in either group"),
    ],
)
def test_levene_says_why_there_is_no_test(center, a, b, reason):
    result = levene(a, b, center)
    assert result.p is result.statistic is None
    assert result.reason
    assert reason in result.reason
    assert not holds(result, 0.05)


def test_welch_from_summaries_is_the_test_of_the_values():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 25), rng.normal(0.4, 3, 20)
    expected = scipy_stats.ttest_ind(a, b, equal_var=False)
    result = welch_from_summaries(a.mean(), a.std(ddof=1), 25, b.mean(), b.std(ddof=1), 20)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.alternative, result.n_a, result.n_b) == ("two-sided", 25, 20)


@pytest.mark.parametrize(("std_a", "n_a", "std_b"), [(None, 5, 0.1), (0.1, 5, None), (0.1, 1, 0.1), (0.0, 5, 0.0)])
def test_welch_says_why_there_is_no_test(std_a, n_a, std_b):
    result = welch_from_summaries(0.5, std_a, n_a, 0.6, std_b, 25)
    assert result.p is None
    assert result.reason


def test_wilson_by_hand():
    # No failure in 25: upper bound z^2 / (n + z^2)
    z2 = 1.959963984540054**2
    assert wilson(0, 25).low == 0
    assert wilson(0, 25).high == pytest.approx(z2 / (25 + z2))
    assert wilson(0, 0) == Interval("Wilson", 0.95, None, None, "there are no runs")
    with pytest.raises(ValueError, match="between 0 and n = 3"):
        wilson(4, 3)


def test_boschloo_by_hand():
    # Fisher's p of 0 of 5 against 3 of 5 is C(5,3)/C(10,3) = 10/120. Every table with a Fisher p that small is a row
    # (0, 3), (0, 4), (0, 5), (1, 5), ...; the largest of their joint binomial probabilities over the common share.
    def fisher(a, b):
        return scipy_stats.hypergeom.cdf(a, 10, a + b, 5)

    as_extreme = [(a, b) for a in range(6) for b in range(6) if fisher(a, b) <= 1 / 12 + 1e-9]
    share = np.linspace(0, 1, 10001)
    p = max(sum(scipy_stats.binom.pmf(a, 5, share) * scipy_stats.binom.pmf(b, 5, share) for a, b in as_extreme))
    result = boschloo(0, 5, 3, 5, "less")
    assert (result.statistic, result.p) == pytest.approx((1 / 12, p), rel=1e-6)
    assert (result.test, result.alternative, result.n_a, result.n_b) == ("Boschloo's exact test", "less", 5, 5)


def test_boschloo_knows_which_group_fails_less_often():
    assert boschloo(0, 25, 12, 25, "less").p == pytest.approx(1.32e-5, rel=0.01)
    assert boschloo(12, 25, 0, 25, "less").p == pytest.approx(1)
    both_ways = [boschloo(a, 25, b, 25, "two-sided").p for a, b in ((0, 12), (12, 0))]
    assert both_ways == pytest.approx([2.65e-5] * 2, rel=0.01)
    assert boschloo(0, 7, 7, 20, "less").p < boschloo(7, 20, 0, 7, "less").p  # unequal n


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((0, 0, 3, 5), "each group needs a run, here are 0 and 5"),
        ((0, 5, 0, 4), "no run of both groups failed"),
        ((5, 5, 4, 4), "every run of both groups failed"),
    ],
)
@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_boschloo_says_why_there_is_no_test(counts, reason, alternative):
    result = boschloo(*counts, alternative)
    assert (result.statistic, result.p, result.reason) == (None, None, reason)


def test_boschloo_refuses_impossible_counts():
    with pytest.raises(ValueError, match="here are 6 of 5"):
        boschloo(6, 5, 0, 5)


def ratio(a, b, seed=0):
    return sd_ratio(a, b, np.random.default_rng(seed))


def test_sd_ratio_is_scipys_bca():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 3, 25), rng.normal(5, 1, 20)

    def statistic(x, y, axis=-1):
        return np.std(x, ddof=1, axis=axis) / np.std(y, ddof=1, axis=axis)

    expected = scipy_stats.bootstrap((a, b), statistic, method="BCa", rng=np.random.default_rng(0))
    result = ratio(a, b)
    assert result.value == pytest.approx(a.std(ddof=1) / b.std(ddof=1))
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(expected.confidence_interval))
    assert result.interval.low < 3 < result.interval.high
    assert (result.interval.method, result.interval.level, result.n_a, result.n_b) == ("BCa bootstrap", 0.95, 25, 20)
    assert ratio(a, b) == result
    assert ratio(a, b, seed=1) != result


def test_sd_ratio_by_hand():
    assert ratio([1.0, 2.0, 3.0], [10.0, 12.0, 14.0]).value == pytest.approx(0.5)


TEN = [0.61, 0.64, 0.66, 0.67, 0.69, 0.72, 0.75, 0.78, 0.8, 0.83]


@pytest.mark.parametrize(
    ("a", "b", "value", "reason"),
    [
        ([0.5, 0.6], TEN, None, "at least 3 values, here are 2 and 10"),
        ([0.5, 0.6, NAN], TEN, None, "1 of 3 and 0 of 10 values are NaN"),
        (TEN, [0.527] * 7, None, "the second group does not vary"),
        ([0.527] * 7, TEN, 0.0, "the first group does not vary"),
        (TEN, [0.527] * 11 + [0.6], 3.47, "the second group does not vary without one of its values"),
        (TEN, [0.527] * 10 + [0.6] * 2, 2.56, "the upper bound is infinite"),
        ([0.1, 0.1, 0.1, 0.1, 0.3], [0.2, 0.2, 0.2, 0.4, 0.5], 0.63, "resamples leave both groups without spread"),
        ([0.0, 1.0] * 20, [0.0, 1.0] * 20, 1.0, "BCa is not defined"),  # the jackknife values are all equal
    ],
)
def test_sd_ratio_says_what_is_missing(a, b, value, reason):
    result = ratio(a, b)
    assert result.value == (None if value is None else pytest.approx(value, rel=0.01))
    assert result.interval.low is result.interval.high is None
    assert reason in (result.interval.reason or "")
    assert (result.reason is None) == (value is not None)


def test_sd_ratio_of_two_modes_may_reach_zero():
    """One odd run in 25: a third of all resamples do not draw it, and have no spread."""
    result = ratio([0.5] * 24 + [0.9], np.linspace(0.6, 0.7, 25))
    assert result.interval.low == 0
    assert result.interval.high > result.value


def test_sd_ratio_counts_a_resample_without_spread_as_endless():
    """With few of them the bounds are those of ranks, as if they had the largest finite ratio of all."""
    b = [0.7, 0.7, 0.7, 0.71, 0.72, 0.73, 0.74]  # all three or more the same in about (3/7)^7 = 0.3 % of resamples
    drawn = np.random.default_rng(0).integers(0, 7, (9999, 7))
    assert 5 < (np.ptp(np.array(b)[drawn], axis=1) == 0).sum() < 60
    result = ratio(TEN, b)
    assert result.interval.reason is None
    assert result.interval.low < result.value < result.interval.high < 100


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.04, 0.001]) == pytest.approx((0.04, 0.002))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([None, 0.02, None, 0.01]) == (None, 0.02, None, 0.02)
    assert holm([]) == ()
