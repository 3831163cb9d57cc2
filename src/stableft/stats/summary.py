"""Values -> their centre and spread."""

import numpy as np

from stableft.stats.reasons import unusable
from stableft.stats.results import Estimate, Summary, Values

TRIM = 0.25  # of each end: what is left is the middle half


def describe(values: Values) -> Summary:
    """Returns count, centre and spread of the values; NaN is counted and kept out of the statistics."""
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    n, n_nan = len(array), len(array) - len(finite)
    if not len(finite):
        return Summary(n, n_nan, None, None, None, None, None)
    low, high = float(finite.min()), float(finite.max())
    # Equal values: numpy's mean may miss them by one bit, which leaves a std of 1e-17 that looks like a finding.
    mean = low if low == high else float(finite.mean())
    std = None if len(finite) < 2 else 0.0 if low == high else float(finite.std(ddof=1))
    return Summary(n, n_nan, mean, std, float(np.median(finite)), low, high)


def iqm(values: Values) -> Estimate:
    """Returns the interquartile mean: that of the values left when a quarter of them, rounded down, is cut at each end.

    This is `scipy.stats.trim_mean(values, 0.25)`, as rliable has it; of three values nothing is cut.
    """
    array = np.asarray(values, dtype=float)
    reason = unusable(array)
    return Estimate(None if reason else float(middle_mean(array)), len(array), reason)


def middle_mean(values: np.ndarray, axis: int = -1, trim: float = TRIM) -> np.ndarray:
    """Returns the mean along the last axis without the share `trim` of values, rounded down, at each end."""
    assert axis == -1
    n = values.shape[-1]
    cut = int(trim * n)
    return np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
