"""How many runs failed: the interval of a share, and the test of two."""

from typing import Any, Literal

from stableft.stats.results import BOSCHLOO, FISHER, Interval, TestResult

MOST_TABLES = (
    40_000  # n_a * n_b above which Boschloo's test, which goes through all tables, takes long and says the same
)


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Returns the Wilson interval of a share of k in n.

    Raises:
        ValueError: k is not between 0 and n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must be between 0 and n = {n}, here it is {k}")
    if n == 0:
        return Interval("Wilson", level, None, None, "there are no runs")
    from scipy import stats

    low, high = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval("Wilson", level, float(low), float(high))


def boschloo(
    failed_a: int, n_a: int, failed_b: int, n_b: int, alternative: Literal["less", "two-sided"] = "less"
) -> TestResult:
    """Returns Boschloo's test of equal shares of failed runs; "less": group a fails less often than group b.

    The statistic is the p-value of Fisher's exact test, than which this test is uniformly more powerful. Where
    n_a * n_b is above MOST_TABLES that p-value is the answer, and `test` says so.

    Raises:
        ValueError: a count is not between 0 and its n.
    """
    if not (0 <= failed_a <= n_a and 0 <= failed_b <= n_b):
        raise ValueError(f"each count must be between 0 and its n, here are {failed_a} of {n_a}, {failed_b} of {n_b}")
    statistic = p = reason = None
    test = BOSCHLOO if n_a * n_b <= MOST_TABLES else FISHER
    if min(n_a, n_b) == 0:
        reason = f"each group needs a run, here are {n_a} and {n_b}"  # SciPy answers NaN
    elif failed_a + failed_b in (0, n_a + n_b):
        reason = f"{'no' if failed_a + failed_b == 0 else 'every'} run of both groups failed"
    else:
        from scipy import stats

        # SciPy compares the columns of the table by the share in its first row.
        counts = [[failed_a, failed_b], [n_a - failed_a, n_b - failed_b]]
        if test == FISHER:
            fisher: Any = stats.fisher_exact(counts, alternative=alternative)
            statistic = p = min(float(fisher.pvalue), 1.0)
        else:
            answer = stats.boschloo_exact(counts, alternative=alternative)
            statistic, p = float(answer.statistic), min(float(answer.pvalue), 1.0)
    return TestResult(test, None, alternative, statistic, p, n_a, n_b, reason)
