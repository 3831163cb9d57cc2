"""Tests of two means, from values or summaries, with their intervals, and the papers' marks on the best ones.

Means and SDs are those of the finite values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stableft.stats.summary import (
    STUDENT_FROM_SUMMARIES,
    STUDENT_T_TEST,
    WELCH_FROM_SUMMARIES,
    WELCH_T_TEST,
    Alternative,
    Interval,
    Summary,
    TestResult,
    Values,
    is_significant,
    summarize,
)

LARGEST_MEAN_REASON, SMALLEST_MEAN_REASON = "this is the largest mean", "this is the smallest mean"


@dataclass(frozen=True)
class Moments:
    """A group known only by its summary, as printed in a paper. `std` is ddof 1."""

    mean: float | None
    std: float | None
    n: int


SampleOrMoments = Values | Moments


class TestedMark(NamedTuple):
    """Whether a group is to be marked (None: there is no test), and the test behind it."""

    flag: bool | None
    test: TestResult


def t_test(a: Values, b: Values, equal_var: bool, alternative: Alternative = "two-sided") -> TestResult:
    """Perform Student's (`equal_var`) or Welch's t-test of equal means. "greater": the mean of a is greater.

    Needs at least two finite values per group, and some variation in at least one group.
    """
    test = STUDENT_T_TEST if equal_var else WELCH_T_TEST
    return _t_test(_moments(a), _moments(b), equal_var, alternative, test)


def t_test_from_summaries(
    mean_a: float | None,
    std_a: float | None,
    n_a: int,
    mean_b: float | None,
    std_b: float | None,
    n_b: int,
    equal_var: bool,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Perform Student's or Welch's t-test of equal means from mean, std (ddof 1) and n of two groups.

    Raises:
        ValueError: A std is negative.
    """
    a, b = Moments(mean_a, std_a, n_a), Moments(mean_b, std_b, n_b)
    return _t_test(a, b, equal_var, alternative, STUDENT_FROM_SUMMARIES if equal_var else WELCH_FROM_SUMMARIES)


def welch_from_summaries(
    mean_a: float | None,
    std_a: float | None,
    n_a: int,
    mean_b: float | None,
    std_b: float | None,
    n_b: int,
) -> TestResult:
    """Perform the two-sided Welch t-test of equal means from mean, std (ddof 1) and n of two groups."""
    return t_test_from_summaries(mean_a, std_a, n_a, mean_b, std_b, n_b, equal_var=False)


def welch_interval(a: Values, b: Values, level: float = 0.95) -> Interval:
    """Return the interval of mean(a) - mean(b) that belongs to Welch's t-test."""
    x, y = _moments(a), _moments(b)
    return welch_interval_from_summaries(x.mean, x.std, x.n, y.mean, y.std, y.n, level)


def welch_interval_from_summaries(
    mean_a: float | None,
    std_a: float | None,
    n_a: int,
    mean_b: float | None,
    std_b: float | None,
    n_b: int,
    level: float = 0.95,
) -> Interval:
    """Return the interval of mean_a - mean_b that belongs to Welch's t-test, from mean, std (ddof 1) and n."""
    reason = _no_t_test_reason(mean_a, std_a, n_a, mean_b, std_b, n_b)
    if reason is not None or mean_a is None or std_a is None or mean_b is None or std_b is None:
        return Interval(WELCH_T_TEST, level, None, None, reason)
    from scipy import special

    errors = np.array([std_a**2 / n_a, std_b**2 / n_b])
    freedom = errors.sum() ** 2 / (errors**2 / [n_a - 1, n_b - 1]).sum()
    half_width = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(errors.sum())
    return Interval(WELCH_T_TEST, level, float(mean_a - mean_b - half_width), float(mean_a - mean_b + half_width))


def _t_test(a: Moments, b: Moments, equal_var: bool, alternative: Alternative, test: str) -> TestResult:
    statistic = p = None
    reason = _no_t_test_reason(a.mean, a.std, a.n, b.mean, b.std, b.n)
    if reason is None:
        from scipy import stats  # takes a second to import

        # From summaries in either case, because SciPy's test of values warns about groups that hardly vary.
        answer = stats.ttest_ind_from_stats(
            a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=equal_var, alternative=alternative
        )
        statistic, p = float(answer.statistic), float(answer.pvalue)
    return TestResult(test, None, alternative, statistic, p, a.n, b.n, reason)


def _no_t_test_reason(
    mean_a: float | None, std_a: float | None, n_a: int, mean_b: float | None, std_b: float | None, n_b: int
) -> str | None:
    """Return why two means cannot be compared, or None. Raise a ValueError if a std is negative."""
    known = [np.nan if x is None else x for x in (mean_a, std_a, mean_b, std_b)]
    if not np.isfinite(known).all() or min(n_a, n_b) < 2:
        return "mean, std and n of at least 2 are needed of both groups"
    if min(known[1], known[3]) < 0:
        raise ValueError(f"a std must be at least 0, not {std_a} and {std_b}")
    return "neither group varies" if std_a == std_b == 0 else None


def _moments(values: Values) -> Moments:
    summary: Summary = summarize(values)
    return Moments(summary.mean, summary.std, summary.n_finite)


def mark_best_and_equal(
    groups: Sequence[SampleOrMoments], alpha: float = 0.05, lower_is_better: bool = False
) -> tuple[TestedMark, ...]:
    """Return for each group whether it is the best or statistically equal to the best (Z Table 1).

    The best is the first with the largest mean; it is not tested against itself, for which its reason is
    LARGEST_MEAN_REASON. The others are equal to it unless the best is larger by Student's one-tailed t-test, p < alpha.
    A group without a test is neither. A group without finite values has no mean, so it cannot be the best. With
    `lower_is_better` the best has the smallest mean.
    """
    side: Alternative = "less" if lower_is_better else "greater"
    reason = SMALLEST_MEAN_REASON if lower_is_better else LARGEST_MEAN_REASON
    best = find_largest_mean(groups, lower_is_better)
    if best is None:
        return tuple(TestedMark(None, _student(group, group, side)) for group in groups)
    marked = []
    for i, group in enumerate(groups):
        test = _student(groups[best], group, side)
        if i == best:
            marked.append(TestedMark(True, TestResult(test.test, None, side, None, None, test.n_a, test.n_b, reason)))
        else:
            marked.append(TestedMark(None if test.p is None else not is_significant(test, alpha), test))
    return tuple(marked)


def mark_better_than(
    reference: SampleOrMoments, groups: Sequence[SampleOrMoments], alpha: float = 0.05, lower_is_better: bool = False
) -> tuple[TestedMark, ...]:
    """Return for each group whether its mean is larger by Student's one-tailed t-test, p < alpha (Z Table 2).

    With `lower_is_better`, whether it is smaller.
    """
    tests = [_student(group, reference, "less" if lower_is_better else "greater") for group in groups]
    return tuple(TestedMark(None if test.p is None else is_significant(test, alpha), test) for test in tests)


def mark_different(a: SampleOrMoments, b: SampleOrMoments, alpha: float = 0.05) -> TestedMark:
    """Return whether two means differ by Student's two-tailed t-test, p < alpha (Z Table 4)."""
    test = _student(a, b, "two-sided")
    return TestedMark(None if test.p is None else is_significant(test, alpha), test)


def find_largest_mean(groups: Sequence[SampleOrMoments], or_smallest: bool = False) -> int | None:
    """Return the index of the first group with the largest or the smallest mean, or None if no group has a mean."""
    means = [_finite_mean(group) for group in groups]
    known = [(-mean if or_smallest else mean, -i) for i, mean in enumerate(means) if mean is not None]
    return -max(known)[1] if known else None


def _finite_mean(group: SampleOrMoments) -> float | None:
    if not isinstance(group, Moments):
        return summarize(group).mean
    return group.mean if group.mean is not None and np.isfinite(group.mean) else None


def _student(a: SampleOrMoments, b: SampleOrMoments, alternative: Alternative) -> TestResult:
    if not isinstance(a, Moments) and not isinstance(b, Moments):
        return t_test(a, b, equal_var=True, alternative=alternative)
    a, b = (group if isinstance(group, Moments) else _moments(group) for group in (a, b))
    return _t_test(a, b, True, alternative, STUDENT_FROM_SUMMARIES)
