"""Levene's test and the ratio of SDs, against numbers worked out by hand and against SciPy called directly."""

import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import (
    LEVENE_TITLES,
    is_significant,
    levene,
    sd_ratio,
    sd_ratio_from_summaries,
    shared_seed_correlation,
)
from stableft.stats.summary import ASYMPTOTIC_ABOVE
from stableft.stats.tests import MIN_RUNS_FOR_BCA, levene_statistics

NAN = math.nan
CENTERS = ["median", "mean", "trimmed"]


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


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([0.5], [0.1, 0.2, 0.4], "3 values.* 1 and 3"),
        ([0.1, 0.2, 0.4], [], "3 values.* 3 and 0"),
        ([0.527] * 7, [0.7] * 5, "neither group varies"),
        ([0.1, 0.2, NAN], [0.1, 0.2, 0.4], "3 values.* 2 and 3"),
        ([0.0, 1.0, 0.0, 1.0], [0.7] * 7, "do not vary in either group"),
        ([0.1, 0.3] * 4, [0.4, 0.9] * 4, "do not vary in either group"),
    ],
)
def test_levene_says_why_there_is_no_test(center, a, b, reason):
    result = levene(a, b, center)
    assert result.p is result.statistic is None
    assert result.reason
    assert re.search(reason, result.reason)
    assert not is_significant(result, 0.05)


@pytest.mark.parametrize("center", CENTERS)
def test_levene_is_that_of_the_finite_values(center):
    a, b = [0.1, 0.2, 0.4, 0.45], [0.5, 0.9, 0.1, 0.3, 0.35]
    result = levene([*a, NAN], [NAN, *b, math.inf], center)
    assert result == levene(a, b, center)
    assert (result.n_a, result.n_b) == (4, 5)


def test_levene_is_named_by_its_centre():
    assert LEVENE_TITLES["mean"] == "Levene centred at the mean"
    assert set(LEVENE_TITLES) == set(CENTERS)


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
        ([0.5, 0.6], TEN, None, "3 values.* 2 and 10"),
        ([0.5, 0.6, NAN], TEN, None, "3 values.* 2 and 10"),
        (TEN[:9], TEN, 0.885, "9 and 10 values are too few for it, below 10 a group"),
        (TEN, [0.527] * 7, None, "the second group does not vary"),
        ([0.527] * 7, TEN, 0.0, "the first group does not vary"),
        (TEN, [0.527] * 11 + [0.6], 3.47, "the second group does not vary without one of its values"),
        (TEN, [0.527] * 10 + [0.6] * 2, 2.56, "the upper bound is infinite"),
        ([0.1] * 9 + [0.3], [0.2] * 8 + [0.4, 0.5], 0.586, "resamples leave both groups without spread"),
        ([0.0, 1.0] * 20, [0.0, 1.0] * 20, 1.0, "BCa is not defined"),  # the jackknife values are all equal
    ],
)
def test_sd_ratio_says_what_is_missing(a, b, value, reason):
    result = ratio(a, b)
    assert result.value == (None if value is None else pytest.approx(value, rel=0.01))
    assert result.interval.low is result.interval.high is None
    assert re.search(reason, result.interval.reason or "")
    assert (result.reason is None) == (value is not None)


def test_sd_ratio_of_two_modes_may_reach_zero():
    """One odd run in 25: a third of all resamples do not draw it, and have no spread."""
    result = ratio([0.5] * 24 + [0.9], np.linspace(0.6, 0.7, 25))
    assert result.interval.low == 0
    assert result.interval.high > result.value


def test_sd_ratio_counts_a_resample_without_spread_as_endless():
    """With few of them the bounds are those of ranks, as if they had the largest finite ratio of all."""
    b = [0.7] * 5 + [0.71, 0.72, 0.73, 0.74, 0.75]  # all the same in about (5/10)^10 = 0.1 % of resamples
    drawn = np.random.default_rng(0).integers(0, 10, (9999, 10))
    assert 5 < (np.ptp(np.array(b)[drawn], axis=1) == 0).sum() < 60
    result = ratio(TEN, b)
    assert result.interval.reason is None
    assert result.interval.low < result.value < result.interval.high < 100


def test_sd_ratio_is_that_of_the_finite_values():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 3, MIN_RUNS_FOR_BCA), rng.normal(5, 1, 20)
    result = ratio([NAN, *a], [*b, NAN])
    assert result == ratio(a, b)
    assert (result.n_a, result.n_b, result.interval.reason) == (MIN_RUNS_FOR_BCA, 20, None)
    assert "9 and 20 values are too few" in ratio([NAN, *a[1:]], b).interval.reason


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_sd_ratio_from_summaries_is_that_of_the_f_distribution(level):
    result = sd_ratio_from_summaries(2.5, 20, 1.6, 50, level)
    assert result.value == pytest.approx(2.5 / 1.6)
    # The ratio of the sample variances over that of the true ones follows F with 19 and 49 degrees of freedom.
    for bound, p in ((result.interval.low, (1 + level) / 2), (result.interval.high, (1 - level) / 2)):
        assert scipy_stats.f.cdf((result.value / bound) ** 2, 19, 49) == pytest.approx(p)
    assert (result.n_a, result.n_b, result.interval.level) == (20, 50, level)
    assert result.interval.method == "F distribution, for normal scores"
    inverse = sd_ratio_from_summaries(1.6, 50, 2.5, 20, level).interval
    assert (inverse.low, inverse.high) == pytest.approx((1 / result.interval.high, 1 / result.interval.low))


def test_the_interval_from_summaries_covers_the_ratio_of_normal_scores():
    rng = np.random.default_rng(0)
    stds = rng.normal(0, 2, (2000, 8)).std(axis=1, ddof=1), rng.normal(0, 1, (2000, 15)).std(axis=1, ddof=1)
    intervals = [sd_ratio_from_summaries(a, 8, b, 15).interval for a, b in zip(*stds, strict=True)]
    assert np.mean([i.low <= 2 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("summaries", "value", "reason"),
    [
        ((None, 20, 1.6, 20), None, "std and n of at least 2"),
        ((2.5, 20, 1.6, 1), None, "std and n of at least 2"),
        ((2.5, 20, 0.0, 20), None, "the second group does not vary"),
        ((0.0, 20, 1.6, 20), 0.0, "the first group does not vary"),
    ],
)
def test_sd_ratio_from_summaries_says_what_is_missing(summaries, value, reason):
    result = sd_ratio_from_summaries(*summaries)
    assert (result.value, result.interval.low, result.interval.high) == (value, None, None)
    assert reason in result.interval.reason
    assert (result.reason is None) == (value is not None)


def test_the_correlation_over_shared_seeds_is_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 20)
    pairs = list(zip(x, 0.5 * x + rng.normal(0, 1, 20), strict=True))
    expected = scipy_stats.pearsonr(*zip(*pairs, strict=True))
    for level in (0.95, 0.8):
        result = shared_seed_correlation([*pairs, (NAN, 0.5), (0.5, NAN)], level)
        assert result.value == pytest.approx(expected.statistic)
        bounds = expected.confidence_interval(level)
        assert (result.interval.low, result.interval.high) == pytest.approx((bounds.low, bounds.high))
        assert (result.n, result.interval.method, result.interval.level) == (20, "Fisher's z", level)
    straight = shared_seed_correlation([(k, 2.0 * k + 0.3) for k in range(5)])
    assert (straight.value, straight.interval.low) == pytest.approx((1, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("pairs", "n", "reason"),
    [
        ([], 0, "at least 4 seeds .* here are 0"),
        ([(0.5, 0.6)] * 3 + [(NAN, 0.5)], 3, "at least 4 seeds .* here are 3"),
        ([(0.527, k / 10) for k in range(5)], 5, "the first group does not vary"),
        ([(k / 10, 0.527) for k in range(5)], 5, "the second group does not vary"),
    ],
)
def test_the_correlation_says_why_there_is_none(pairs, n, reason):
    result = shared_seed_correlation(pairs)
    assert (result.value, result.n, result.interval.low) == (None, n, None)
    assert re.search(reason, result.reason)


def test_levene_trimmed_is_the_analysis_of_variance_of_the_deviations():
    """20 values: one is cut at each end for the centre, none for the deviations."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, 20), rng.standard_t(2, 45)
    deviations = [np.abs(group - np.sort(group)[k:-k].mean()) for group, k in ((a, 1), (b, 2))]
    expected = scipy_stats.f_oneway(*deviations)
    result = levene(a, b, "trimmed")
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)
    assert result.p == pytest.approx(scipy_stats.levene(a, b, center="trimmed", proportiontocut=0.05).pvalue)
    assert result.center == "trimmed"


def test_levene_trimmed_is_mean_centred_below_twenty_values():
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 1, 19), rng.normal(0, 3, 12)
    assert levene(a, b, "trimmed").p == pytest.approx(levene(a, b, "mean").p, rel=1e-12)


@pytest.mark.parametrize("center", CENTERS)
def test_levene_of_many_pairs_is_that_of_each(center):
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 1, (40, 25)), rng.normal(0, 2, (40, 21))
    x[:20] = rng.choice([0.5, 0.6, 0.7], (20, 25))  # ties
    expected = [levene(a, b, center).statistic for a, b in zip(x, y, strict=True)]
    assert levene_statistics(x, y, center) == pytest.approx(np.array(expected), rel=1e-9)


@pytest.mark.parametrize("center", CENTERS)
def test_levene_of_many_pairs_has_none_where_levene_has_none(center):
    x = np.array([[0.7] * 4, [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.5]])
    y = np.array([[0.527] * 4, [0.3] * 4, [0.4, 0.9, 0.9, 0.4], [0.7] * 4])
    singly = [levene(a, b, center).statistic is None for a, b in zip(x, y, strict=True)]
    assert np.isnan(levene_statistics(x, y, center)).tolist() == singly == [True, True, True, False]


def test_sd_ratio_in_batches_is_that_at_once(monkeypatch):
    """What a machine can hold must not change what comes out, but for the order of the draws."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 2, 40), rng.normal(0, 1, 40)
    whole = ratio(a, b).interval
    monkeypatch.setattr("stableft.stats.bootstrap.VALUES_DRAWN_AT_ONCE", 4000)
    assert (ratio(a, b).interval.low, ratio(a, b).interval.high) == pytest.approx((whole.low, whole.high), rel=0.02)


def test_sd_ratio_of_many_values_is_asymptotic():
    """Of normal values the log of a SD has a variance of 1 / 2n."""
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, 3, 50_000), rng.normal(0, 1, 40_000)
    result = ratio(a, b)
    reach = 1.959964 * math.sqrt(1 / 100_000 + 1 / 80_000)
    assert result.interval.method == "delta method on the log ratio"
    assert math.log(result.interval.high / result.value) == pytest.approx(reach, rel=0.02)
    assert math.log(result.value / result.interval.low) == pytest.approx(reach, rel=0.02)


def test_the_asymptotic_interval_of_the_sd_ratio_is_nearly_the_bootstraps():
    rng = np.random.default_rng(8)
    a, b = rng.standard_t(6, ASYMPTOTIC_ABOVE + 1), rng.normal(0, 1, ASYMPTOTIC_ABOVE + 1)
    asymptotic, bootstrapped = ratio(a, b).interval, ratio(a[:-1], b[:-1]).interval
    assert (asymptotic.low, asymptotic.high) == pytest.approx((bootstrapped.low, bootstrapped.high), rel=0.03)
    assert {asymptotic.method, bootstrapped.method} == {"delta method on the log ratio", "BCa bootstrap"}


def test_sd_ratio_where_every_jackknife_value_is_the_same_has_no_interval():
    """SciPy divides two rounding errors here and answers with numbers."""
    result = ratio([0.0, 0.1] * 20, [0.0, 0.3] * 20)
    assert result.value == pytest.approx(1 / 3)
    assert "BCa is not defined" in result.interval.reason
