"""Shares of failed runs, against numbers worked out by hand and against SciPy called directly."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import Interval, boschloo, wilson_interval
from stableft.stats.summary import FISHER


def test_wilson_by_hand():
    # No failure in 25: upper bound z^2 / (n + z^2)
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 25).low == 0
    assert wilson_interval(0, 25).high == pytest.approx(z2 / (25 + z2))
    assert wilson_interval(0, 0) == Interval("Wilson", 0.95, None, None, "there are no runs")
    with pytest.raises(ValueError, match="between 0 and n = 3"):
        wilson_interval(4, 3)


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
        ((0, 0, 3, 5), "0 and 5"),
        ((0, 5, 0, 4), "no run"),
        ((5, 5, 4, 4), "every run"),
    ],
)
@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_boschloo_says_why_there_is_no_test(counts, reason, alternative):
    result = boschloo(*counts, alternative)
    assert result.statistic is result.p is None
    assert reason in result.reason


def test_boschloo_refuses_impossible_counts():
    with pytest.raises(ValueError, match="not 6 of 5"):
        boschloo(6, 5, 0, 5)


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_many_runs_take_fishers_test_and_say_so(alternative):
    result = boschloo(100, 50_000, 150, 50_000, alternative)
    expected = scipy_stats.fisher_exact([[100, 150], [49_900, 49_850]], alternative=alternative)
    assert (result.test, result.alternative) == (FISHER, alternative)
    assert result.p == result.statistic == expected.pvalue
    assert result.p < 0.01


@pytest.mark.parametrize(("n_a", "test"), [(200, "Boschloo's exact test"), (201, "Fisher's exact test")])
def test_fishers_test_begins_where_the_tables_are_too_many(n_a, test):
    assert boschloo(0, n_a, 0, 200).test == test  # without a failure neither takes any time
    assert "no run" in boschloo(0, n_a, 0, 200).reason


def test_boschloo_is_more_powerful_than_fisher():
    result = boschloo(10, 60, 22, 60)
    assert result.p < result.statistic
    fisher = scipy_stats.fisher_exact([[10, 22], [50, 38]], alternative="less").pvalue
    assert result.statistic == pytest.approx(fisher)
