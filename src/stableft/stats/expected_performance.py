"""Expected score of the best of so many random trials, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stableft.stats.summary import Values

PLUG_IN = "expected maximum, plug-in (draws with replacement)"
BOOTSTRAP_TEST = "test score of the best validation score, bootstrap in closed form"
MIN_RUNS = 2


@dataclass(frozen=True)
class ExpectedCurve:
    """Mean and SD of the selected score for each number of trials, estimated from `n` runs.

    `n_nan` runs have a NaN score. `all_nan` is the probability that a draw holds no others, so that its score is the
    baseline. The values are None if there is no expectation; `reason` says why.
    """

    method: str
    trials: tuple[int, ...]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    n: int
    n_nan: int
    all_nan: tuple[float, ...]
    reason: str | None = None


def expected_max(val: Values, trials: int | Sequence[int], baseline: float | None = None) -> ExpectedCurve:
    """Return mean and SD of the best score among n trials (Dodge et al. 2019). See `expected_test_score`.

    The best is the highest. Where lower is better, negate the scores, the baseline and the mean.
    """
    return _compute_curve(PLUG_IN, val, val, trials, baseline)


def expected_test_score(
    val: Values, test: Values, trials: int | Sequence[int], baseline: float | None = None
) -> ExpectedCurve:
    """Return mean and SD of the test score of the run with the best validation score among n trials (Z Fig. 4).

    Z draws n runs with replacement 1,000 times. This is the limit of many draws: in the order of their validation
    scores, the i-th of N runs is selected with probability (i/N)^n - ((i-1)/N)^n, which runs with equal scores share
    equally. The SD is that of the selected score; at n = 1 it is the SD of all scores (ddof 0).

    A run with a NaN score is not selected while another was drawn. If all drawn runs are such, the score is `baseline`;
    without one, a NaN score leaves no expectation.

    Raises:
        ValueError: The numbers of test and validation scores differ, or a number of trials is below 1.
    """
    return _compute_curve(BOOTSTRAP_TEST, val, test, trials, baseline)


def _compute_curve(
    method: str, val: Values, test: Values, trials: int | Sequence[int], baseline: float | None
) -> ExpectedCurve:
    trial_counts = (trials,) if isinstance(trials, int) else tuple(trials)
    if trial_counts and min(trial_counts) < 1:
        raise ValueError(f"a number of trials must be at least 1, not {min(trial_counts)}")
    order, scores = np.asarray(val, dtype=float), np.asarray(test, dtype=float)
    n = len(order)
    if n != len(scores):
        raise ValueError(f"each run needs a validation and a test score, not {n} and {len(scores)} scores")
    finite = np.isfinite(order) & np.isfinite(scores)
    n_nan = n - int(finite.sum())
    all_nan = tuple((n_nan / n) ** count if n else 0.0 for count in trial_counts)
    reason = None
    if n < MIN_RUNS:
        reason = f"at least {MIN_RUNS} runs are needed, here {'is' if n == 1 else 'are'} {n}"
    elif n_nan and baseline is None:
        reason = f"the scores of {n_nan} of {n} runs are NaN, and no baseline is known for draws of these alone"
    if reason is not None:
        none = (None,) * len(trial_counts)
        return ExpectedCurve(method, trial_counts, none, none, n, n_nan, all_nan, reason)
    # Runs with a NaN score rank below all others, and their score is the baseline.
    order = np.where(finite, order, order[finite].min(initial=0.0) - 1)
    scores = np.where(finite, scores, 0.0 if baseline is None else baseline)
    _, group, sizes = np.unique(order, return_inverse=True, return_counts=True)
    ranks = np.concatenate([[0], np.cumsum(sizes)])  # of the last run of each group of equal validation scores
    lowest = scores.min()  # subtracted, so that equal scores have an SD of exactly 0
    means, stds = [], []
    for count in trial_counts:
        weights = (np.diff((ranks / n) ** count) / sizes)[group]
        above = float(weights @ (scores - lowest))
        means.append(float(lowest + above))
        stds.append(float(np.sqrt(weights @ (scores - lowest - above) ** 2)))
    return ExpectedCurve(method, trial_counts, tuple(means), tuple(stds), n, n_nan, all_nan)
