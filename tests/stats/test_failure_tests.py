"""Shares of failed runs, against numbers worked out by hand and against SciPy called directly."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import Interval, boschloo, newcombe_interval, wilson_interval
from stableft.stats.summary import FISHER


def test_wilson_by_hand():
    # No failure in 25: upper bound z^2 / (n + z^2)
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 25).low == 0
    assert wilson_interval(0, 25).high == pytest.approx(z2 / (25 + z2))
    assert wilson_interval(0, 0) == Interval("Wilson", 0.95, None, None, "there are no runs")
    with pytest.raises(ValueError, match="between 0 and n = 3"):
        wilson_interval(4, 3)


# Newcombe (1998), Statistics in Medicine 17, table II: method 10 on (a) to (h)
NEWCOMBE_EXAMPLES = {
    (56, 70, 48, 80): (0.0524, 0.3339),
    (9, 10, 3, 10): (0.1705, 0.8090),
    (6, 7, 2, 7): (0.0582, 0.8062),
    (5, 56, 0, 29): (-0.0381, 0.1926),
    (0, 10, 0, 20): (-0.1611, 0.2775),
    (0, 10, 0, 10): (-0.2775, 0.2775),
    (10, 10, 0, 20): (0.6791, 1.0),
    (10, 10, 0, 10): (0.6075, 1.0),
}


@pytest.mark.parametrize("counts", NEWCOMBE_EXAMPLES)
def test_newcombe_has_the_published_intervals(counts):
    result = newcombe_interval(*counts)
    assert (result.low, result.high) == pytest.approx(NEWCOMBE_EXAMPLES[counts], abs=5e-5)
    assert (result.method, result.level, result.reason) == ("Newcombe's hybrid score", 0.95, None)
    swapped = newcombe_interval(*counts[2:], *counts[:2])
    assert (swapped.low, swapped.high) == pytest.approx((-result.high, -result.low))
    narrow = newcombe_interval(*counts, level=0.5)
    assert result.low < narrow.low < narrow.high <= result.high


def test_newcombe_says_why_there_is_none():
    assert newcombe_interval(0, 0, 3, 5).reason == "each group needs a run, here are 0 and 5"
    with pytest.raises(ValueError, match="between 0 and n = 5"):
        newcombe_interval(6, 5, 0, 5)


@pytest.mark.parametrize("counts", [(5, 5, 0, 5), (36, 50, 0, 50), (0, 7, 7, 20), (3, 12, 5, 9), (2, 2, 0, 2)])
def test_boschloo_is_scipys_two_sided_test(counts):
    failed_a, n_a, failed_b, n_b = counts
    table = [[failed_a, failed_b], [n_a - failed_a, n_b - failed_b]]
    result = boschloo(*counts)
    assert result.p == scipy_stats.boschloo_exact(table, alternative="two-sided").pvalue
    assert result.alternative == "two-sided"
    assert boschloo(*counts) == result


def test_every_run_of_five_against_none_of_five():
    # Of the tables with these margins or any others, only (5, 0) and (0, 5) are as extreme: 2 * (1/2)^10
    assert boschloo(5, 5, 0, 5).p == pytest.approx(2 / 1024)


def test_boschloo_by_hand():
    # Fisher's p of 0 of 5 against 3 of 5 is C(5,3)/C(10,3) = 10/120. Every table with a Fisher p that small is a row
    # (0, 3), (0, 4), (0, 5), (1, 5), ...; the largest of their joint binomial probabilities over the common share.
    def fisher(a, b):
        return scipy_stats.hypergeom.cdf(a, 10, a + b, 5)

    as_extreme = [(a, b) for a in range(6) for b in range(6) if fisher(a, b) <= 1 / 12 + 1e-9]
    share = np.linspace(0, 1, 10001)
    p = max(sum(scipy_stats.binom.pmf(a, 5, share) * scipy_stats.binom.pmf(b, 5, share) for a, b in as_extreme))
    result = boschloo(0, 5, 3, 5)  # two-sided: twice the smaller one-sided p
    assert result.p == pytest.approx(2 * p, rel=1e-6)
    assert (result.test, result.alternative, result.n_a, result.n_b) == ("Boschloo's exact test", "two-sided", 5, 5)


def test_boschloo_does_not_depend_on_which_group_comes_first():
    both_ways = [boschloo(a, 25, b, 25).p for a, b in ((0, 12), (12, 0))]
    assert both_ways == pytest.approx([2.65e-5] * 2, rel=0.01)
    assert boschloo(0, 7, 7, 20).p == pytest.approx(boschloo(7, 20, 0, 7).p)  # unequal n


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((0, 0, 3, 5), "0 and 5"),
        ((0, 5, 0, 4), "no run"),
        ((5, 5, 4, 4), "every run"),
    ],
)
def test_boschloo_says_why_there_is_no_test(counts, reason):
    result = boschloo(*counts)
    assert result.statistic is result.p is None
    assert reason in result.reason


def test_boschloo_refuses_impossible_counts():
    with pytest.raises(ValueError, match="not 6 of 5"):
        boschloo(6, 5, 0, 5)


def test_many_runs_take_fishers_test_and_say_so():
    result = boschloo(100, 50_000, 150, 50_000)
    expected = scipy_stats.fisher_exact([[100, 150], [49_900, 49_850]])
    assert (result.test, result.alternative) == (FISHER, "two-sided")
    assert result.p == result.statistic == expected.pvalue
    assert result.p < 0.01


@pytest.mark.parametrize(("n_a", "test"), [(200, "Boschloo's exact test"), (201, "Fisher's exact test")])
def test_fishers_test_begins_where_the_tables_are_too_many(n_a, test):
    assert boschloo(0, n_a, 0, 200).test == test  # without a failure neither takes any time
    assert "no run" in boschloo(0, n_a, 0, 200).reason


def test_boschloo_is_more_powerful_than_fisher():
    assert boschloo(10, 60, 22, 60).p < scipy_stats.fisher_exact([[10, 22], [50, 38]]).pvalue
