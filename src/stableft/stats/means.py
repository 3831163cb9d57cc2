"""Is the mean of one group another's: Student's and Welch's t-tests, and the rules of Z's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stableft.stats.reasons import nan_reason
from stableft.stats.results import (
    STUDENT,
    STUDENT_FROM_SUMMARIES,
    WELCH,
    WELCH_OF_VALUES,
    Alternative,
    Summary,
    TestResult,
    Values,
    holds,
)
from stableft.stats.summary import describe

LARGEST = "this is the largest mean"


@dataclass(frozen=True)
class Moments:
    """A group of which no more is known, as a paper prints it; `std` is ddof 1."""

    mean: float | None
    std: float | None
    n: int


Group = Values | Moments


class Marked(NamedTuple):
    """Whether a group is one of those that a rule looks for (None: there is no test), and the test of it."""

    flag: bool | None
    test: TestResult


def t_test(a: Values, b: Values, equal_var: bool, alternative: Alternative = "two-sided") -> TestResult:
    """Returns Student's (`equal_var`) or Welch's t-test of equal means; "greater": the mean of a is greater.

    It takes two values of each group, of which at least one varies. NaN: there is no test.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    test = STUDENT if equal_var else WELCH_OF_VALUES
    reason = nan_reason(x, y)
    if reason is not None:
        return TestResult(test, None, alternative, None, None, len(x), len(y), reason)
    return _t_test(_moments(x), _moments(y), equal_var, alternative, test)


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
    """Returns Student's or Welch's t-test of equal means from mean, std (ddof 1) and n of two groups.

    Raises:
        ValueError: a std is negative.
    """
    a, b = Moments(mean_a, std_a, n_a), Moments(mean_b, std_b, n_b)
    return _t_test(a, b, equal_var, alternative, STUDENT_FROM_SUMMARIES if equal_var else WELCH)


def welch_from_summaries(
    mean_a: float | None,
    std_a: float | None,
    n_a: int,
    mean_b: float | None,
    std_b: float | None,
    n_b: int,
) -> TestResult:
    """Returns the two-sided Welch t-test of equal means from mean, std (ddof 1) and n of two groups."""
    return t_test_from_summaries(mean_a, std_a, n_a, mean_b, std_b, n_b, equal_var=False)


def _t_test(a: Moments, b: Moments, equal_var: bool, alternative: Alternative, test: str) -> TestResult:
    statistic = p = reason = None
    mean_a, std_a, mean_b, std_b = (np.nan if x is None else x for x in (a.mean, a.std, b.mean, b.std))
    if not np.isfinite([mean_a, std_a, mean_b, std_b]).all() or min(a.n, b.n) < 2:
        reason = "mean, std and n of at least 2 are needed of both groups"
    elif min(std_a, std_b) < 0:
        raise ValueError(f"a std must be at least 0, here are {std_a} and {std_b}")
    elif std_a == std_b == 0:
        reason = "neither group varies"
    else:
        from scipy import stats  # takes a second to import

        # From the summaries in either case: SciPy's test of values warns of groups that hardly vary.
        answer = stats.ttest_ind_from_stats(
            mean_a, std_a, a.n, mean_b, std_b, b.n, equal_var=equal_var, alternative=alternative
        )
        statistic, p = float(answer.statistic), float(answer.pvalue)
    return TestResult(test, None, alternative, statistic, p, a.n, b.n, reason)


def _moments(values: np.ndarray) -> Moments:
    summary: Summary = describe(values)
    return Moments(summary.mean, summary.std, summary.n)


def best_and_equal(groups: Sequence[Group], alpha: float = 0.05) -> tuple[Marked, ...]:
    """Returns of each group whether it is the best or statistically equal to it (Z Table 1).

    The best is the first of those with the largest mean: its reason is LARGEST, for it is not tested against itself.
    Every other is equal to it unless the best is larger by Student's one-tailed t-test, p < alpha. A group without a
    test is neither. One with NaN or without values has no mean, so it cannot be the best, however good the others.
    """
    best = largest(groups)
    if best is None:
        return tuple(Marked(None, _student(group, group, "greater")) for group in groups)
    marked = []
    for i, group in enumerate(groups):
        test = _student(groups[best], group, "greater")
        if i == best:
            marked.append(Marked(True, TestResult(test.test, None, "greater", None, None, test.n_a, test.n_b, LARGEST)))
        else:
            marked.append(Marked(None if test.p is None else not holds(test, alpha), test))
    return tuple(marked)


def better_than(reference: Group, groups: Sequence[Group], alpha: float = 0.05) -> tuple[Marked, ...]:
    """Returns of each group whether its mean is larger by Student's one-tailed t-test, p < alpha (Z Table 2)."""
    tests = [_student(group, reference, "greater") for group in groups]
    return tuple(Marked(None if test.p is None else holds(test, alpha), test) for test in tests)


def different(a: Group, b: Group, alpha: float = 0.05) -> Marked:
    """Returns whether two means differ by Student's two-tailed t-test, p < alpha (Z Table 4)."""
    test = _student(a, b, "two-sided")
    return Marked(None if test.p is None else holds(test, alpha), test)


def largest(groups: Sequence[Group]) -> int | None:
    """Returns the place of the first group with the largest mean; None where no group has one."""
    means = [_mean(group) for group in groups]
    known = [(mean, -i) for i, mean in enumerate(means) if mean is not None]
    return -max(known)[1] if known else None


def _mean(group: Group) -> float | None:
    if not isinstance(group, Moments):
        array = np.asarray(group, dtype=float)
        return describe(array).mean if np.isfinite(array).all() else None
    return group.mean if group.mean is not None and np.isfinite(group.mean) else None


def _student(a: Group, b: Group, alternative: Alternative) -> TestResult:
    if not isinstance(a, Moments) and not isinstance(b, Moments):
        return t_test(a, b, equal_var=True, alternative=alternative)
    for group in (a, b):
        if not isinstance(group, Moments) and (reason := nan_reason(np.asarray(group, dtype=float))):
            n_a, n_b = (other.n if isinstance(other, Moments) else len(other) for other in (a, b))
            return TestResult(STUDENT_FROM_SUMMARIES, None, alternative, None, None, n_a, n_b, reason)
    a, b = (group if isinstance(group, Moments) else _moments(np.asarray(group, dtype=float)) for group in (a, b))
    return _t_test(a, b, True, alternative, STUDENT_FROM_SUMMARIES)
