"""How likely a run of one group is better than a run of another."""

import numpy as np

from stableft.stats.bootstrap import BCA, bca, quantile_of_level
from stableft.stats.reasons import unusable
from stableft.stats.results import MANN_WHITNEY, RESAMPLES, Improvement, Interval, TestResult, Values

MANY = 500  # values in a group above which the interval is asymptotic: every resample must be sorted
DELONG = "normal approximation with DeLong's variance"


def probability_of_improvement(
    a: Values, b: Values, rng: np.random.Generator, level: float = 0.95, resamples: int = RESAMPLES
) -> Improvement:
    """Returns P(a run of a scores higher than one of b), a tie counting one half, and its BCa bootstrap interval.

    Each group is resampled on its own. There is no interval where all values of one group lie above the other's: then
    every resample says 0 or 1. With more than MANY values in a group it is asymptotic instead. The test beside it is
    the two-sided Mann-Whitney test, exact where both groups have at most 8 values without ties.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    method = DELONG if max(len(x), len(y)) > MANY else BCA
    reason = unusable(x, y)
    if reason is not None:
        nothing = TestResult(MANN_WHITNEY, None, "two-sided", None, None, len(x), len(y), reason)
        return Improvement(None, Interval(method, level, None, None, reason), nothing, len(x), len(y), reason)
    value = float(share_above(x, y))
    return Improvement(value, _interval(x, y, value, method, rng, level, resamples), _test(x, y), len(x), len(y))


def share_above(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the share of pairs along the last axis in which x is above y, a tie counting one half."""
    from scipy import stats

    assert axis == -1
    rows = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    n, m = x.shape[-1], y.shape[-1]
    both = np.concatenate([np.broadcast_to(x, (*rows, n)), np.broadcast_to(y, (*rows, m))], axis=-1)
    ranks = stats.rankdata(both, axis=-1)[..., :n].sum(axis=-1)
    return (ranks - n * (n + 1) / 2) / (n * m)


def _test(x: np.ndarray, y: np.ndarray) -> TestResult:
    statistic = p = reason = None
    if np.ptp(np.concatenate([x, y])) == 0:
        reason = "all values of both groups are equal"
    else:
        from scipy import stats

        answer = stats.mannwhitneyu(x, y, alternative="two-sided")
        statistic, p = float(answer.statistic), float(answer.pvalue)
    return TestResult(MANN_WHITNEY, None, "two-sided", statistic, p, len(x), len(y), reason)


def _interval(
    x: np.ndarray, y: np.ndarray, value: float, method: str, rng: np.random.Generator, level: float, resamples: int
) -> Interval:
    if value in (0.0, 1.0) or (np.ptp(x) == 0 and np.ptp(y) == 0):
        reason = f"every resample gives {value:g}"
        return Interval(method, level, None, None, reason)
    if method == BCA:
        low, high, _, reason = bca([x, y], share_above, rng, level, resamples)
        if reason is not None:
            return Interval(method, level, None, None, f"the probability: {reason}")
        return Interval(method, level, low, high)
    # The variance of each group's shares: how many of the other group's values each of its values is above.
    errors = [np.var(_shares_below(group, other), ddof=1) / len(group) for group, other in ((x, y), (y, x))]
    reach = quantile_of_level(level) * float(np.sqrt(sum(errors)))
    return Interval(method, level, max(0.0, value - reach), min(1.0, value + reach))


def _shares_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    ordered = np.sort(others)
    sides = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
    return (sides[0] + sides[1]) / (2 * len(others))
