"""Expected score of the best of n random trials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stableft.stats.summary import Values

PLUG_IN = "expected maximum, plug-in (draws with replacement)"
BOOTSTRAP_TEST = "test score of the best validation score, bootstrap"
EXPECTED_DRAWS = 1000  # Z sec. 4
MIN_RUNS = 2


@dataclass(frozen=True)
class ExpectedCurve:
    """Mean and SD of the selected score for each number of trials, estimated from `n` runs.

    The values are None if there is no expectation; `reason` says why.
    """

    method: str
    trials: tuple[int, ...]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    n: int
    draws: int | None = None
    reason: str | None = None


def expected_max(val: Values, trials: int | Sequence[int], nan_as: float | None = None) -> ExpectedCurve:
    """Return the expected best score of n trials under the empirical distribution (Dodge et al. 2019), for any n.

    Runs are drawn with replacement, so the i-th of N sorted scores is the best with probability
    (i/N)^n - ((i-1)/N)^n. The SD is that of the best score under the same weights; at n = 1 it is the SD of the scores
    (ddof 0). A NaN score cannot be ranked, so there is no expectation unless `nan_as` gives a score to replace it.
    """
    scores, trial_counts, reason = _check_scores(val, trials, nan_as)
    if reason is not None:
        return _empty_curve(PLUG_IN, trial_counts, len(scores), None, reason)
    ordered = np.sort(scores)
    lowest = ordered[0]  # subtracted, so that equal scores have an SD of exactly 0
    means, stds = [], []
    for count in trial_counts:
        weights = np.diff((np.arange(len(scores) + 1) / len(scores)) ** count)
        above = float(weights @ (ordered - lowest))
        means.append(float(lowest + above))
        stds.append(float(np.sqrt(weights @ (ordered - lowest - above) ** 2)))
    return ExpectedCurve(PLUG_IN, trial_counts, tuple(means), tuple(stds), len(scores))


def expected_test_score(
    val: Values,
    test: Values,
    trials: int | Sequence[int],
    rng: np.random.Generator,
    draws: int = EXPECTED_DRAWS,
    nan_as: float | None = None,
) -> ExpectedCurve:
    """Return mean and SD (ddof 1) of the test score of the run with the best validation score among n (Z Fig. 4).

    For each n, the n runs are drawn with replacement `draws` times. Among equal validation scores, the run drawn first
    is selected. A run with a NaN validation score is selected only if all drawn runs have one. Any run may be selected
    in some draw, so with a NaN test score there is no expectation unless `nan_as` gives a score to replace it.

    Raises:
        ValueError: The numbers of test and validation scores differ, or `draws` is less than 2.
    """
    order = np.asarray(val, dtype=float)
    scores, trial_counts, reason = _check_scores(test, trials, nan_as, "test ")
    if len(order) != len(scores):
        raise ValueError(f"each run needs a validation and a test score, not {len(order)} and {len(scores)} scores")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, not {draws}")
    if reason is not None:
        return _empty_curve(BOOTSTRAP_TEST, trial_counts, len(scores), draws, reason)
    ranked = np.where(np.isfinite(order), order, -np.inf)
    means, stds = [], []
    for count in trial_counts:
        drawn = rng.integers(0, len(scores), (draws, count))
        best = np.take_along_axis(drawn, ranked[drawn].argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
        means.append(float(scores[best].mean()))
        stds.append(0.0 if np.ptp(scores[best]) == 0 else float(scores[best].std(ddof=1)))
    return ExpectedCurve(BOOTSTRAP_TEST, trial_counts, tuple(means), tuple(stds), len(scores), draws)


def _empty_curve(method: str, trials: tuple[int, ...], n: int, draws: int | None, reason: str) -> ExpectedCurve:
    none = (None,) * len(trials)
    return ExpectedCurve(method, trials, none, none, n, draws, reason)


def _check_scores(
    values: Values, trials: int | Sequence[int], nan_as: float | None, kind: str = ""
) -> tuple[np.ndarray, tuple[int, ...], str | None]:
    """Return the scores (NaN replaced by `nan_as` if given), the trial counts, and why there is no expectation."""
    trial_counts = (trials,) if isinstance(trials, int) else tuple(trials)
    if trial_counts and min(trial_counts) < 1:
        raise ValueError(f"a number of trials must be at least 1, not {min(trial_counts)}")
    scores = np.asarray(values, dtype=float)
    if nan_as is not None:
        scores = np.where(np.isfinite(scores), scores, nan_as)
    nan, reason = int((~np.isfinite(scores)).sum()), None
    if len(scores) < MIN_RUNS:
        reason = f"at least {MIN_RUNS} runs are needed, here {'is' if len(scores) == 1 else 'are'} {len(scores)}"
    elif nan:
        reason = f"{nan} of {len(scores)} {kind}scores are NaN, so the score of a draw is not always known"
    return scores, trial_counts, reason
