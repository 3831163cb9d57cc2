"""How likely Boschloo's test with n runs an arm finds that one fails less often: all tables are gone through."""

import numpy as np

from stableft.stats.failures import MOST_TABLES
from stableft.stats.power import PowerPoint, check
from stableft.stats.results import Interval

ENUMERATED = "enumeration"
SHARES = 1001  # common shares at which the size of the test is looked at


def power_of_failures(share_a: float, share_b: float, alpha: float, n: int) -> PowerPoint:
    """Returns the power of Boschloo's one-sided test: the arm with the smaller share of failed runs fails less often.

    Every table of n runs an arm is counted with its probability, so nothing is simulated; with shares that are equal
    it is the size of the test. Where `boschloo` takes Fisher's test instead, so does this.

    Raises:
        ValueError: a share or alpha is out of range, or n is below 3.
    """
    check(alpha, n)
    if not (0 <= share_a <= 1 and 0 <= share_b <= 1):
        raise ValueError(f"a share of failed runs must be between 0 and 1, here are {share_a} and {share_b}")
    less, more = _chances(np.array(sorted((share_a, share_b))), n)
    value = float(min(1.0, less @ rejected_tables(n, alpha) @ more))
    return PowerPoint(n, value, Interval(ENUMERATED, 1.0, value, value))


def rejected_tables(n: int, alpha: float) -> np.ndarray:
    """Returns of every table (failed in a, failed in b) whether the test of "a fails less often" rejects at alpha."""
    fisher = _fisher_less(n)
    if n * n > MOST_TABLES:
        return fisher < alpha
    chances = _chances(np.linspace(0, 1, SHARES), n)
    levels = np.unique(fisher)
    below, above = -1, len(levels)  # the p-value of a table rises with its Fisher p-value
    while above - below > 1:
        middle = (below + above) // 2
        p = (chances @ _at_most(fisher, levels[middle]) * chances).sum(axis=1).max()
        below, above = (middle, above) if p < alpha else (below, middle)
    return _at_most(fisher, levels[below]) if below >= 0 else np.zeros_like(fisher, dtype=bool)


def _at_most(fisher: np.ndarray, level: float) -> np.ndarray:
    return fisher <= level * (1 + 1e-12)  # equal but for rounding


def _fisher_less(n: int) -> np.ndarray:
    """Returns the one-sided p-value of Fisher's exact test of every table: P(at most so many of the failed in a)."""
    from scipy import special

    def log_choose(total: int, part: np.ndarray) -> np.ndarray:
        return special.gammaln(total + 1) - special.gammaln(part + 1) - special.gammaln(total - part + 1)

    counts = np.arange(n + 1)
    one = log_choose(n, counts)
    tails = np.exp(one[:, np.newaxis] + one - log_choose(2 * n, np.add.outer(counts, counts)))
    for i in range(1, n + 1):
        tails[i, :-1] += tails[i - 1, 1:]  # one failure fewer in a is one more in b
    return tails


def _chances(shares: np.ndarray, n: int) -> np.ndarray:
    """Returns the probability of each number of failures, 0 to n, for each share."""
    from scipy import stats

    return stats.binom.pmf(np.arange(n + 1), n, shares[:, np.newaxis])
