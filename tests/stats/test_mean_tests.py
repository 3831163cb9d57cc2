"""Student's and Welch's t-tests and the rules of Z's tables, against SciPy and against the published summaries."""

import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import (
    LARGEST_MEAN_REASON,
    mark_best_and_equal,
    mark_better_than,
    mark_different,
    t_test,
    welch_from_summaries,
    welch_interval,
    welch_interval_from_summaries,
)
from stableft.stats.means import Moments, find_largest_mean, t_test_from_summaries

NAN = math.nan
ALTERNATIVES = ["two-sided", "greater", "less"]


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


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_the_difference_is_scipys(level):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 25), rng.normal(0.4, 3, 20)
    expected = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    result = welch_interval(a, b, level)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert (result.method, result.level, result.reason) == ("Welch's t-test", level, None)
    summaries = welch_interval_from_summaries(a.mean(), a.std(ddof=1), 25, b.mean(), b.std(ddof=1), 20, level)
    assert (summaries.low, summaries.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_the_interval_of_the_difference_says_why_there_is_none():
    for result in (welch_interval([0.5], [0.1, 0.2]), welch_interval_from_summaries(None, None, 0, 0.5, 0.1, 9)):
        assert (result.low, result.high) == (None, None)
        assert "n of at least 2" in result.reason
    assert welch_interval([0.5] * 3, [0.7] * 4).reason == "neither group varies"
    one_steady = welch_interval([0.5] * 25, [0.5, 0.6, 0.7, 0.8])
    expected = scipy_stats.ttest_1samp([0.5, 0.6, 0.7, 0.8], 0.5).confidence_interval()
    assert (one_steady.low, one_steady.high) == pytest.approx((0.5 - expected.high, 0.5 - expected.low))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(("equal_var", "name"), [(True, "Student's t-test"), (False, "Welch's t-test")])
def test_t_test_is_scipys(equal_var, name, alternative):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 25), rng.normal(0.4, 3, 20)
    expected = scipy_stats.ttest_ind(a, b, equal_var=equal_var, alternative=alternative)
    result = t_test(a, b, equal_var, alternative)
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)
    assert (result.test, result.alternative, result.n_a, result.n_b) == (name, alternative, 25, 20)
    means = (a.mean(), a.std(ddof=1), 25, b.mean(), b.std(ddof=1), 20)
    summaries = t_test_from_summaries(*means, equal_var, alternative)
    assert (summaries.p, summaries.test) == (pytest.approx(result.p, rel=1e-9), f"{name} from summaries")


def test_student_by_hand():
    # Means 2 and 5, pooled variance 1, standard error sqrt(2/3)
    result = t_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], equal_var=True)
    assert result.statistic == pytest.approx(-3 / math.sqrt(2 / 3))
    assert result.p == pytest.approx(2 * scipy_stats.t.sf(3 / math.sqrt(2 / 3), 4))


@pytest.mark.parametrize("equal_var", [True, False])
@pytest.mark.parametrize(
    ("a", "b", "facts"),
    [
        ([], [0.1, 0.2], "n of at least 2"),
        ([0.5], [0.1, 0.2], "n of at least 2"),
        ([0.1, NAN, NAN], [0.1, 0.2], "n of at least 2"),
        ([0.5] * 4, [0.7] * 9, "neither group varies"),
    ],
)
def test_t_test_says_why_there_is_none(equal_var, a, b, facts):
    result = t_test(a, b, equal_var)
    assert result.p is result.statistic is None
    assert re.search(facts, result.reason)


def test_t_test_of_a_group_that_does_not_vary_is_of_the_other():
    a, b = [0.527] * 25, [0.5, 0.6, 0.7, 0.8]
    expected = scipy_stats.ttest_1samp(b, 0.527)
    assert t_test(b, a, equal_var=False).p == pytest.approx(expected.pvalue)


def test_t_test_refuses_a_negative_std():
    with pytest.raises(ValueError, match=r"std .*at least 0, not -0.1 and 0.2"):
        t_test_from_summaries(0.5, -0.1, 20, 0.6, 0.2, 20, equal_var=True)


PUBLISHED = {  # Z Table 1, three epochs, n = 20: Standard, Re-init, one-tailed p and its format, Re-init alone is best
    "RTE": (Moments(69.5, 2.5, 20), Moments(72.6, 1.6, 20), "1.8e-05", ".2g", True),
    "MRPC": (Moments(90.8, 1.3, 20), Moments(91.4, 0.8, 20), "0.043", ".3f", True),
    "STS-B": (Moments(89.0, 0.6, 20), Moments(89.4, 0.2, 20), "0.004", ".3f", True),
    "CoLA": (Moments(63.0, 1.5, 20), Moments(63.9, 1.9, 20), "0.052", ".3f", False),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_rules_on_the_published_summaries(task):
    standard, reinit, p, digits, alone = PUBLISHED[task]
    equal, best = mark_best_and_equal([standard, reinit])
    assert (best.flag, best.test.reason) == (True, LARGEST_MEAN_REASON)
    assert (equal.flag, equal.test.test) == (not alone, "Student's t-test from summaries")
    assert format(equal.test.p, digits) == p
    better, same = mark_better_than(standard, [reinit, standard])
    assert (better.flag, better.test.p) == (alone, pytest.approx(equal.test.p))
    assert (same.flag, same.test.p) == (False, pytest.approx(0.5))
    two_tailed = mark_different(standard, reinit)
    assert two_tailed.test.p == pytest.approx(2 * equal.test.p)
    assert two_tailed.flag == (2 * equal.test.p < 0.05)


@pytest.mark.parametrize(
    ("mixed", "full"), [((60.3, 1.5), (59.9, 1.5)), ((89.2, 1.2), (88.7, 1.4)), ((71.8, 2.1), (71.4, 2.2))]
)
def test_precision_makes_no_difference(mixed, full):
    """Z Table 4."""
    flag, test = mark_different(Moments(*mixed, 20), Moments(*full, 20))
    assert flag is False
    assert test.alternative == "two-sided"


def test_the_rules_on_values_are_those_on_their_summaries():
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1, n) for mean, n in ((0, 20), (0.9, 15), (1.2, 20), (1.1, 8))]
    moments = [Moments(group.mean(), group.std(ddof=1), len(group)) for group in groups]
    of_values, of_moments = mark_best_and_equal(groups), mark_best_and_equal(moments)
    assert [marked.flag for marked in of_values] == [marked.flag for marked in of_moments]
    for i, (a, b) in enumerate(zip(of_values, of_moments, strict=True)):
        assert a.test.test == "Student's t-test"
        if i != find_largest_mean(groups):
            assert a.test.p == pytest.approx(b.test.p, rel=1e-9)
            best = groups[find_largest_mean(groups)]
            assert a.test.p == pytest.approx(scipy_stats.ttest_ind(best, groups[i], alternative="greater").pvalue)
    mixed = mark_better_than(groups[0], [moments[1]])[0]
    assert mixed.test.p == pytest.approx(scipy_stats.ttest_ind(groups[1], groups[0], alternative="greater").pvalue)
    assert mixed.test.test == "Student's t-test from summaries"


def test_of_equal_means_the_first_is_the_best_and_the_others_equal_it():
    marked = mark_best_and_equal([Moments(0.5, 0.1, 20), Moments(0.7, 0.1, 20), Moments(0.7, 0.2, 20)])
    assert [flag for flag, _ in marked] == [False, True, True]
    assert marked[1].test.reason == LARGEST_MEAN_REASON
    assert marked[2].test.p == pytest.approx(0.5)


def test_a_nan_score_deletes_no_group_and_n_is_that_of_the_others():
    marked = mark_best_and_equal([[0.9, 0.95, NAN], [0.5, 0.6, 0.7], Moments(None, None, 20), []])
    assert [flag for flag, _ in marked] == [True, False, None, None]
    assert (marked[1].test.n_a, marked[1].test.n_b) == (2, 3)
    assert all(marked[i].test.reason for i in (2, 3))
    with_summary = mark_better_than([0.9, 0.95, NAN], [Moments(0.5, 0.1, 20)])[0]
    assert with_summary.flag is False
    assert (with_summary.test.n_a, with_summary.test.n_b) == (20, 2)
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 9), rng.normal(1, 2, 7)
    for equal_var in (True, False):
        assert t_test([NAN, *a], [*b, NAN], equal_var) == t_test(a, b, equal_var)
    assert welch_interval([NAN, *a], [*b, NAN]) == welch_interval(a, b)


@pytest.mark.parametrize("groups", [[], [[NAN, NAN], [NAN]], [Moments(None, 0.1, 3)]])
def test_without_a_mean_there_is_no_best(groups):
    assert find_largest_mean(groups) is None
    marked = mark_best_and_equal(groups)
    assert [flag for flag, _ in marked] == [None] * len(groups)
    assert all(test.reason for _, test in marked)


def test_groups_that_do_not_vary_cannot_be_told_apart():
    marked = mark_best_and_equal([[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]])
    assert [flag for flag, _ in marked] == [None, True]
    assert marked[0].test.reason == "neither group varies"
