"""Statistics against numbers worked out by hand and against SciPy called directly."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import Interval, describe, holds, levene, welch_from_summaries, wilson

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
