"""Permutation tests of two groups."""

from math import comb
from typing import Literal

import numpy as np

from stableft.stats.bootstrap import AT_ONCE, std
from stableft.stats.reasons import unusable
from stableft.stats.results import PERMUTATION, RESAMPLES, Alternative, TestResult, Values
from stableft.stats.spread import ENDLESS, STABLE

Of = Literal["mean", "std", "std_ratio"]
TITLES = {"mean": "difference of means", "std": "difference of SDs", "std_ratio": "ratio of SDs"}
DIGITS = 10  # of a statistic in units of the range: divisions that give the same must not differ by rounding


def permutation_test(
    a: Values,
    b: Values,
    of: Of,
    rng: np.random.Generator,
    alternative: Alternative = "two-sided",
    resamples: int = RESAMPLES,
) -> TestResult:
    """Returns the permutation test of mean(a) - mean(b), std(a) - std(b) or std(a) / std(b) (ddof 1).

    "greater": that of a is. Two-sided is twice the smaller of the one-sided p-values. With at most `resamples` ways to
    divide the values there is one answer, by all of them; with more, that many are drawn, and `test` says which.

    Of SDs the groups' own medians are taken off first, so that unlike means are not taken for unlike spread. By that
    these two are not exact, but they were on the safe side in simulations at alpha .05 with 7, 10 and 25 values a
    group: 3 to 4 % false positives on normal scores, 5 to 6 % where a quarter of the runs failed, 1 % where half did.
    (Means taken off would give 25 % for 7 values, a quarter of them failed.)
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ways = comb(len(x) + len(y), len(x))
    how = f"all {ways:,} permutations" if ways <= resamples else f"{resamples:,} random permutations"
    test = f"{PERMUTATION} of the {TITLES[of]} ({how})"
    statistic = p = None
    reason = _no_permutation(x, y, of)
    if reason is None:
        from scipy import stats  # takes a second to import

        observed = {"mean": _difference_of_means, "std": _difference_of_stds, "std_ratio": _ratio}[of]
        span = float(np.ptp(np.concatenate([x, y])))
        groups = [_prepared(group, of, shift=min(x.min(), y.min()), span=span) for group in (x, y)]
        answer = stats.permutation_test(
            groups,
            observed,
            permutation_type="independent",
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, AT_ONCE // (len(x) + len(y))),
            alternative=alternative,
            axis=-1,
            rng=rng,
        )
        statistic, p = float(answer.statistic), min(1.0, float(answer.pvalue))
        statistic *= 1.0 if of == "std_ratio" else span
    return TestResult(test, None, alternative, statistic, p, len(x), len(y), reason)


def _no_permutation(x: np.ndarray, y: np.ndarray, of: Of) -> str | None:
    reason = unusable(x, y, looks="better than it is" if of == "mean" else STABLE)
    if reason is not None:
        return reason
    if of == "mean":
        return "all values of both groups are equal" if np.ptp(np.concatenate([x, y])) == 0 else None
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return "neither group varies"
    return "the second group does not vary" if of == "std_ratio" and np.ptp(y) == 0 else None


def _prepared(group: np.ndarray, of: Of, shift: float, span: float) -> np.ndarray:
    """Returns the group in units of the range of both; of SDs without its median, rounded so that ties are ties."""
    scaled = (group - shift) / span
    return scaled if of == "mean" else np.round(scaled - np.median(scaled), 14)


def _difference_of_means(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.round(x.mean(axis=axis) - y.mean(axis=axis), DIGITS)


def _difference_of_stds(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.round(std(x, axis) - std(y, axis), DIGITS)


def _ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the ratio of the SDs; 1 where neither varies, for then they are equal."""
    over, under = std(x, axis), std(y, axis)
    endless = np.where(over > 0, ENDLESS, 1.0)
    return np.where(under > 0, np.round(over / np.where(under > 0, under, 1.0), DIGITS), endless)
