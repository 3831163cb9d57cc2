"""Tests of two arms that may be looked at after every run: e-processes, of which large values are evidence.

Under the null hypothesis an e-process exceeds 1/alpha at any time with probability alpha at most (Ville), however and
whenever one looks. The arms are in step: the i-th run of one is paired with the i-th of the other. Pairs of arms are
rows of arrays. Every verdict is of one side, at alpha / 2, so that the direction has its error kept too.
"""

import math
from typing import Literal

import numpy as np

from stableft.stats.sequential import HIGHER, LOWER, SAME, LookEstimate, clip_to_outcome
from stableft.stats.summary import Interval

PRIOR = 0.18  # pseudo-runs of each outcome before the first: Turner, Ly and Gruenwald's choice
MAX_BET = 0.75  # of the capital that a bet may lose; Waudby-Smith and Ramdas advise 1/2 or 3/4
BETTING = "betting confidence sequence"
HALVINGS = 20  # of the range, to find a bound: to a millionth


def failure_evidence(failed_a: np.ndarray, failed_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of two e-processes [pairs of arms, runs]: that b fails more often than a, and less often.

    The two-sample e-process of Turner, Ly and Gruenwald (2024): after each run of both arms, the probability of both
    outcomes under the rates estimated from the runs before, over that under their mean as a common rate. It bets on
    one side only: where the estimates favour the other, it keeps its value.
    """
    a, b = (np.asarray(failed, dtype=float) for failed in (failed_a, failed_b))
    before = np.arange(a.shape[1])
    rates = [(np.cumsum(v, axis=1) - v + PRIOR) / (before + 2 * PRIOR) for v in (a, b)]
    common = (rates[0] + rates[1]) / 2
    gains = sum(
        v * np.log(rate / common) + (1 - v) * np.log((1 - rate) / (1 - common))
        for v, rate in zip((a, b), rates, strict=True)
    )
    more, less = (np.cumsum(np.where(favoured, gains, 0.0), axis=1) for favoured in _favours(*rates))
    return more, less


def _favours(rate_a: np.ndarray, rate_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rate_b > rate_a, rate_b < rate_a


def mean_evidence(x: np.ndarray, value: float, side: Literal[1, -1], max_bet: float = MAX_BET) -> np.ndarray:
    """Return the logarithm of the capital [rows, runs] of bets that the mean of x within 0 and 1 is above a value.

    `side` -1: below it. Each bet is that of Waudby-Smith and Ramdas (2024, aGRAPA), from the runs before it; the
    capital is an e-process as long as the mean is not on that side.
    """
    if side == -1:
        return mean_evidence(1 - x, 1 - value, 1, max_bet)
    n = np.arange(1, x.shape[1] + 1)
    means = (0.5 + np.cumsum(x, axis=1)) / (n + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2, axis=1)) / (n + 1)
    before = [np.hstack([np.full((len(x), 1), start), v[:, :-1]]) for start, v in ((0.5, means), (0.25, variances))]
    edge = before[0] - value
    most = max_bet / value if value > 0 else np.inf
    bets = np.clip(edge / (before[1] + edge**2), 0.0, min(most, 1e6))
    return np.cumsum(np.log1p(bets * (x - value)), axis=1)


def look_at_failures(
    failed_a: np.ndarray, failed_b: np.ndarray, alpha: float, margin: float | None = None
) -> np.ndarray:
    """Return the outcome after every run [pairs, runs], given which runs failed."""
    more, less = failure_evidence(failed_a, failed_b)
    outcomes = _first_sides(more, less, alpha)
    return outcomes if margin is None else _add_same(outcomes, failed_a, failed_b, alpha, margin, 1.0)


def look_at_means(a: np.ndarray, b: np.ndarray, alpha: float, span: float, margin: float | None = None) -> np.ndarray:
    """Return the outcome after every run [pairs, runs] at scores whose range is `span` wide."""
    x = _differences(a, b, span)
    outcomes = _first_sides(mean_evidence(x, 0.5, 1), mean_evidence(x, 0.5, -1), alpha)
    return outcomes if margin is None else _add_same(outcomes, a, b, alpha, margin, span)


def _differences(a: np.ndarray, b: np.ndarray, span: float) -> np.ndarray:
    """Return b - a of every pair of runs, mapped from -span .. span to 0 .. 1."""
    return ((np.asarray(b, dtype=float) - np.asarray(a, dtype=float)) / span + 1) / 2


def _first_sides(higher: np.ndarray, lower: np.ndarray, alpha: float) -> np.ndarray:
    """Return which side has reached its evidence by each run: what is proved once stays proved."""
    needed = math.log(2 / alpha)
    up, down = (np.maximum.accumulate(v, axis=1) >= needed - 1e-12 for v in (higher, lower))
    return np.where(up & ~down, HIGHER, np.where(down & ~up, LOWER, 0)).astype(np.int8)


def _add_same(
    outcomes: np.ndarray, a: np.ndarray, b: np.ndarray, alpha: float, margin: float, span: float
) -> np.ndarray:
    """Return the outcomes with those that are surely within the margin, by two one-sided tests at alpha each."""
    x, needed = _differences(a, b, span), math.log(1 / alpha)
    above = mean_evidence(x, (1 - margin / span) / 2, 1)
    below = mean_evidence(x, (1 + margin / span) / 2, -1)
    same = np.logical_and(*(np.maximum.accumulate(v, axis=1) >= needed for v in (above, below)))
    return np.where((outcomes == 0) & same, SAME, outcomes).astype(np.int8)


def estimate_any(
    a: np.ndarray, b: np.ndarray, alpha: float, span: float, n: int, failures: bool, margin: float | None = None
) -> LookEstimate:
    """Return what the first n runs of both arms say: of their failure rates (0 or 1, span 1) or of their means.

    The p-value holds at any time: one over the largest evidence so far, doubled for two sides. The interval is that of
    differences whose tests have not been rejected so far, of the outcome SAME those of the two one-sided tests. The
    rates have a test of their own that they do not differ: their interval is made to agree with it, which is
    approximate.
    """
    a, b = (np.asarray(v, dtype=float)[np.newaxis, :n] for v in (a, b))
    x = _differences(a, b, span)
    sides = failure_evidence(a, b) if failures else (mean_evidence(x, 0.5, 1), mean_evidence(x, 0.5, -1))
    outcomes = look_at_failures(a, b, alpha, margin) if failures else look_at_means(a, b, alpha, span, margin)
    p = min(1.0, 2 * math.exp(-max(float(side.max()) for side in sides)))
    outcome = int(outcomes[0, -1])
    error = 2 * alpha if outcome == SAME else alpha
    bounds = [_bound(x, error / 2, side) for side in (1, -1)]
    low, high = (span * (2 * bound - 1) for bound in bounds)
    interval = clip_to_outcome(Interval(BETTING, 1 - error, low, high), outcome, margin=margin)
    return LookEstimate(n, outcome, p, float(b.mean() - a.mean()), interval)


def first_run_that_can_stop(failures: bool, alpha: float, most: int) -> int | None:
    """Return the runs of each arm after which the most extreme runs first find a difference, or None with `most`."""
    a, b = np.zeros((1, most)), np.ones((1, most))
    found = (look_at_failures(a, b, alpha) if failures else look_at_means(a, b, alpha, 1.0))[0]
    return int(found.argmax()) + 1 if found.any() else None


def _bound(x: np.ndarray, alpha: float, side: Literal[1, -1]) -> float:
    """Return the lowest mean (side 1) or the highest that is not rejected at alpha by any of the runs."""
    rejected, kept = (0.0, float(x.mean())) if side == 1 else (1.0, float(x.mean()))
    needed = math.log(1 / alpha)
    if float(mean_evidence(x, rejected, side).max()) < needed:
        return rejected
    for _ in range(HALVINGS):
        middle = (rejected + kept) / 2
        if float(mean_evidence(x, middle, side).max()) >= needed:
            rejected = middle
        else:
            kept = middle
    return rejected
