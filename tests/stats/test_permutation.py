"""Permutation tests against all divisions of the values, counted one by one."""

import math
import re
from itertools import combinations

import numpy as np
import pytest

from stableft.stats import permutation_test

NAN = math.nan
OBSERVED = {
    "mean": lambda x, y: np.mean(x) - np.mean(y),
    "std": lambda x, y: np.std(x, ddof=1) - np.std(y, ddof=1),
    "std_ratio": lambda x, y: np.std(x, ddof=1) / np.std(y, ddof=1),
}
A, B = [0.66, 0.71, 0.69, 0.75], [0.53, 0.78, 0.6, 0.55, 0.9]


def permuted(a, b, of, alternative="two-sided", seed=0, **more):
    return permutation_test(a, b, of, np.random.default_rng(seed), alternative, **more)


def counted(a, b, of):
    """Returns the shares of all divisions with a statistic at most and at least the observed one."""
    statistic = OBSERVED[of]
    both = np.array([*a, *b]) if of == "mean" else np.concatenate([np.array(g) - np.median(g) for g in (a, b)])
    found = []
    for chosen in combinations(range(len(both)), len(a)):
        rest = [i for i in range(len(both)) if i not in chosen]
        found.append(statistic(both[list(chosen)], both[rest]))
    seen = statistic(a, b)
    return np.mean(np.array(found) <= seen + 1e-12), np.mean(np.array(found) >= seen - 1e-12)


@pytest.mark.parametrize("of", OBSERVED)
def test_few_values_are_divided_in_every_way(of):
    less, greater = counted(A, B, of)
    assert permuted(A, B, of, "less").p == pytest.approx(less)
    assert permuted(A, B, of, "greater").p == pytest.approx(greater)
    result = permuted(A, B, of)
    assert result.p == pytest.approx(min(1.0, 2 * min(less, greater)))
    assert result.statistic == pytest.approx(OBSERVED[of](A, B))
    assert result.test.endswith("(all 126 permutations)")
    assert (result.alternative, result.n_a, result.n_b) == ("two-sided", 4, 5)
    assert permuted(A, B, of, seed=9) == result


def test_equal_statistics_count_as_equal():
    # Of the 20 divisions of 0 0 0 1 1 1 one has all ones in a; ties make three kinds of others
    result = permuted([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], "mean", "greater")
    assert result.p == pytest.approx(1 / 20)
    assert permuted([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], "mean", "greater").p == pytest.approx(10 / 20)


@pytest.mark.parametrize(
    ("of", "title"), [("mean", "difference of means"), ("std", "difference of SDs"), ("std_ratio", "ratio of SDs")]
)
def test_many_values_are_divided_at_random(of, title):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 25), rng.normal(1, 2, 20)
    result = permuted(a, b, of)
    assert result.test == f"Permutation test of the {title} (9,999 random permutations)"
    assert 0 < result.p < 0.05
    assert permuted(a, b, of) == result
    assert permuted(a, b, of, seed=1) != result
    assert permuted(a, b, of, "less").p < 0.025 < 0.9 < permuted(a, b, of, "greater").p


def test_random_divisions_come_near_all_of_them():
    everything = permuted(A, B, "mean", "less").p
    drawn = permuted(A, B, "mean", "less", resamples=125)
    assert drawn.test.endswith("(125 random permutations)")
    assert drawn.p == pytest.approx(everything, abs=0.15)


@pytest.mark.parametrize("of", OBSERVED)
def test_the_finite_values_are_divided(of):
    result = permuted([NAN, *A], [*B, NAN, NAN], of)
    assert result == permuted(A, B, of)
    assert (result.n_a, result.n_b) == (4, 5)


def test_unlike_means_are_not_unlike_spread():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 25), rng.normal(0, 1, 25)
    assert permuted(a, b + 100, "std").p == pytest.approx(permuted(a, b, "std").p, abs=0.01)


def test_a_group_without_spread_is_tested_all_the_same():
    """Of the 126 divisions of the deviations 20 or more have their widest values in one group."""
    steady, wide = [0.7] * 4, [0.1, 0.3, 0.5, 0.8, 0.9]
    result = permuted(steady, wide, "std", "less")
    assert result.statistic == pytest.approx(-np.std(wide, ddof=1))
    assert result.p == pytest.approx(counted(steady, wide, "std")[0])
    assert permuted(steady, wide, "std_ratio").statistic == 0


@pytest.mark.parametrize(
    ("of", "a", "b", "reason"),
    [
        ("mean", [0.5, 0.6], [0.1, 0.2, 0.3], "3 values.* 2 and 3"),
        ("std", [0.5, 0.6, NAN], [0.1, 0.2, 0.3], "3 values.* 2 and 3"),
        ("mean", [0.5] * 4, [0.5] * 5, "all values of both groups are equal"),
        ("std", [0.5] * 4, [0.7] * 5, "neither group varies"),
        ("std_ratio", [0.1, 0.2, 0.3], [0.7] * 5, "second group .*not vary"),
    ],
)
def test_a_permutation_test_says_why_there_is_none(of, a, b, reason):
    result = permuted(a, b, of)
    assert result.p is result.statistic is None
    assert re.search(reason, result.reason)
