"""Expected score of the best of n random trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from stableft.stats.summary import Values

PLUG_IN = "expected maximum, plug-in (draws with replacement)"
UNBIASED = "expected maximum, unbiased (draws without replacement)"
BOOTSTRAP_MAX = "expected maximum, bootstrap"
BOOTSTRAP_TEST = "test score of the best validation score, bootstrap"
EXPECTED_DRAWS = 1000  # Z sec. 4
MIN_RUNS = 2


@dataclass(frozen=True)
class ExpectedCurve:
    """Mean and SD of the selected score for each number of trials, from `n` runs; None where there is none.

    `reason` says why, of the numbers that have none.
    """

    method: str
    trials: tuple[int, ...]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    n: int
    draws: int | None = None
    reason: str | None = None


def expected_max(val: Values, trials: int | Sequence[int], nan_as: float | None = None) -> ExpectedCurve:
    """Returns the expected best score of n trials by the empirical distribution (Dodge et al. 2019), n any number.

    A run is drawn with replacement, so of N sorted scores the i-th is the best with probability (i/N)^n - ((i-1)/N)^n.
    The SD is that of the best score under the same weights: at n = 1 the SD of the scores with ddof 0. A NaN score
    has no place in the order: there is no expectation, unless `nan_as` gives the score that it counts for.
    """
    scores, numbers, reason = _check_scores(val, trials, nan_as)
    n = len(scores)

    def weights(k: int) -> np.ndarray:
        return np.diff((np.arange(n + 1) / n) ** k)

    return _weighted_curve(PLUG_IN, scores, numbers, [None if reason else weights(k) for k in numbers], reason)


def expected_max_unbiased(val: Values, trials: int | Sequence[int], nan_as: float | None = None) -> ExpectedCurve:
    """Returns the expected best score of n different runs of the N at hand (Tang et al. 2020).

    Of N sorted scores the i-th is the best with probability C(i-1, n-1) / C(N, n), which is an unbiased estimate for
    n trials; there is none for n > N. The SD is that of the best score under the same weights, so 0 at n = N.
    NaN is as in `expected_max`.
    """
    scores, numbers, reason = _check_scores(val, trials, nan_as)
    n = len(scores)

    def weights(k: int) -> np.ndarray:
        return np.array([comb(i, k - 1) / comb(n, k) for i in range(n)])

    beyond = [k for k in numbers if k > n]
    if reason is None and beyond:
        reason = f"{n} runs cannot tell without bias the best of {min(beyond)} or more"
        return _weighted_curve(UNBIASED, scores, numbers, [weights(k) if k <= n else None for k in numbers], reason)
    return _weighted_curve(UNBIASED, scores, numbers, [None if reason else weights(k) for k in numbers], reason)


def expected_max_bootstrap(
    val: Values,
    trials: int | Sequence[int],
    rng: np.random.Generator,
    draws: int = EXPECTED_DRAWS,
    nan_as: float | None = None,
) -> ExpectedCurve:
    """Returns mean and SD (ddof 1) of the best of n scores drawn with replacement, over `draws` draws (Z Fig. 12).

    It is `expected_max` but for the error of the simulation. NaN is as there.
    """
    scores, numbers, reason = _check_scores(val, trials, nan_as)
    return _simulated_curve(BOOTSTRAP_MAX, scores, scores, numbers, rng, draws, reason)


def expected_test_score(
    val: Values,
    test: Values,
    trials: int | Sequence[int],
    rng: np.random.Generator,
    draws: int = EXPECTED_DRAWS,
    nan_as: float | None = None,
) -> ExpectedCurve:
    """Returns mean and SD (ddof 1) of the test score of the run with the best validation score of n (Z Fig. 4).

    The n runs are drawn with replacement, `draws` times for each n. Of equal validation scores the run drawn first is
    taken. A run whose validation score is NaN is taken only where all drawn ones are, then again the first. A NaN test
    score is drawn sooner or later, so there is no expectation, unless `nan_as` gives the score that it counts for.

    Raises:
        ValueError: there are not as many test as validation scores.
    """
    order = np.asarray(val, dtype=float)
    scores, numbers, reason = _check_scores(test, trials, nan_as, "test ")
    if len(order) != len(scores):
        raise ValueError(f"each run needs a validation and a test score, here are {len(order)} and {len(scores)}")
    return _simulated_curve(BOOTSTRAP_TEST, order, scores, numbers, rng, draws, reason)


def _check_scores(
    values: Values, trials: int | Sequence[int], nan_as: float | None, kind: str = ""
) -> tuple[np.ndarray, tuple[int, ...], str | None]:
    """Returns the scores, with `nan_as` for NaN, the numbers of trials, and why there is no expectation."""
    numbers = (trials,) if isinstance(trials, int) else tuple(trials)
    if numbers and min(numbers) < 1:
        raise ValueError(f"a number of trials must be at least 1, here it is {min(numbers)}")
    scores = np.asarray(values, dtype=float)
    if nan_as is not None:
        scores = np.where(np.isfinite(scores), scores, nan_as)
    nan = int((~np.isfinite(scores)).sum())
    if len(scores) < MIN_RUNS:
        return (
            scores,
            numbers,
            f"at least {MIN_RUNS} runs are needed, here {'is' if len(scores) == 1 else 'are'} {len(scores)}",
        )
    if nan:
        return (
            scores,
            numbers,
            f"{nan} of {len(scores)} {kind}scores are NaN, so the score of a draw is not always known",
        )
    return scores, numbers, None


def _weighted_curve(
    method: str,
    scores: np.ndarray,
    numbers: tuple[int, ...],
    weights: Sequence[np.ndarray | None],
    reason: str | None,
) -> ExpectedCurve:
    ordered = np.sort(scores)
    lowest = ordered[0] if len(ordered) else 0.0  # taken off, so that equal scores have an SD of exactly 0
    means: list[float | None] = []
    stds: list[float | None] = []
    for weight in weights:
        if weight is None:
            means.append(None)
            stds.append(None)
            continue
        above = float(weight @ (ordered - lowest))
        means.append(float(lowest + above))
        stds.append(float(np.sqrt(weight @ (ordered - lowest - above) ** 2)))
    return ExpectedCurve(method, numbers, tuple(means), tuple(stds), len(scores), None, reason)


def _simulated_curve(
    method: str,
    order: np.ndarray,
    scores: np.ndarray,
    numbers: tuple[int, ...],
    rng: np.random.Generator,
    draws: int,
    reason: str | None,
) -> ExpectedCurve:
    """Returns the curve of the `scores` of those first in `order`."""
    if draws < 2:
        raise ValueError(f"draws must be at least 2, here they are {draws}")
    none = (None,) * len(numbers)
    if reason is not None:
        return ExpectedCurve(method, numbers, none, none, len(scores), draws, reason)
    ranked = np.where(np.isfinite(order), order, -np.inf)
    means, stds = [], []
    for k in numbers:
        drawn = rng.integers(0, len(scores), (draws, k))
        taken = np.take_along_axis(drawn, ranked[drawn].argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
        means.append(float(scores[taken].mean()))
        stds.append(0.0 if np.ptp(scores[taken]) == 0 else float(scores[taken].std(ddof=1)))
    return ExpectedCurve(method, numbers, tuple(means), tuple(stds), len(scores), draws)
