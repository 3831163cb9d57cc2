"""How likely a test with n runs an arm finds what is there, by simulation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stableft.stats.failures import wilson
from stableft.stats.reasons import unusable
from stableft.stats.results import MIN_VALUES, Center, Interval, Values
from stableft.stats.spread import STABLE, levene_statistics

DRAWS = 5000  # a power near .8 is then known to about 1.1 points
MOST_SEEDS = 1000  # n an arm beyond which no one is asked to go
CHUNK = 200_000  # values at a time: what fits a processor's cache

Pairs = Callable[[int], tuple[np.ndarray, np.ndarray]]  # how many pairs of samples -> the samples, one in each row
Rejects = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PowerPoint:
    """The power with `n` runs an arm; None where there is none. `interval`: the error of the simulation, or why."""

    n: int
    power: float | None
    interval: Interval


def power(
    sd: float,
    ratio: float,
    alpha: float,
    n: int,
    rng: np.random.Generator,
    center: Center = "median",
    draws: int = DRAWS,
) -> PowerPoint:
    """Returns in which share of simulated pairs of arms, n runs each, Levene's test rejects equal spread at alpha.

    The scores are normal with SD `sd` in one arm and `sd * ratio` in the other. The power depends on the ratio alone.

    Raises:
        ValueError: n is below 3, sd, ratio or draws is not positive, or alpha is not between 0 and 1.
    """
    check(alpha, n, draws)
    if not (0 < sd < np.inf and 0 < ratio < np.inf):
        raise ValueError(f"sd and ratio must be positive, here are {sd} and {ratio}")

    def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0.0, sd, (k, n)), rng.normal(0.0, sd * ratio, (k, n))

    return _simulate(pairs, _levene_rejects(n, alpha, center), n, draws)


def power_from(
    a: Values,
    b: Values,
    alpha: float,
    n: int,
    rng: np.random.Generator,
    center: Center = "median",
    draws: int = DRAWS,
) -> PowerPoint:
    """Returns the power of Levene's test with n runs an arm drawn with replacement from the scores of real runs.

    A pair of samples for which `levene` gives no answer counts as not rejected.

    Raises:
        ValueError: n is below 3, draws is not positive, or alpha is not between 0 and 1.
    """
    check(alpha, n, draws)
    return _resampled(a, b, _levene_rejects(n, alpha, center), n, rng, draws, STABLE)


def power_of_means(
    a: Values, b: Values, alpha: float, n: int, rng: np.random.Generator, draws: int = DRAWS
) -> PowerPoint:
    """Returns the power of Welch's two-sided t-test with n runs an arm drawn with replacement from real scores.

    Raises:
        ValueError: as in `power_from`.
    """
    check(alpha, n, draws)

    def rejects(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return welch_p(x, y) < alpha  # NaN, where neither varies, is not

    return _resampled(a, b, rejects, n, rng, draws, "better than it is")


def seeds_needed(
    power_at: Callable[[int], float | None], target: float = 0.8, most: int = MOST_SEEDS, one_by_one: int = 0
) -> int | None:
    """Returns the smallest n from 3 to `most` at which `power_at(n)` reaches the target; None: none does.

    Every n up to `one_by_one` is looked at, which a test of counts needs: its power falls back here and there. Beyond,
    n is found by bisection. A simulated power rises with n but for its error, so its n is as exact as that.

    Raises:
        ValueError: the target is not between 0 and 1.
    """
    if not 0 < target < 1:
        raise ValueError(f"the target power must be between 0 and 1, here it is {target}")

    def reaches(n: int) -> bool:
        value = power_at(n)
        return value is not None and value >= target

    for n in range(MIN_VALUES, min(one_by_one, most) + 1):
        if reaches(n):
            return n
    short = max(MIN_VALUES - 1, min(one_by_one, most))
    enough = min(short + 1, most)
    while not reaches(enough):
        if enough >= most:
            return None
        short, enough = enough, min(2 * enough, most)
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if reaches(middle) else (middle, enough)
    return enough


def welch_p(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the two-sided p-value of Welch's t-test of every pair of rows, NaN where neither row varies."""
    from scipy import special

    (mean_x, error_x), (mean_y, error_y) = ((v.mean(axis=-1), _squared_error(v)) for v in (x, y))
    none = error_x + error_y == 0
    total = np.where(none, 1.0, error_x + error_y)
    freedom = total**2 / np.where(none, 1.0, error_x**2 / (x.shape[-1] - 1) + error_y**2 / (y.shape[-1] - 1))
    return np.where(none, np.nan, 2 * special.stdtr(freedom, -np.abs(mean_x - mean_y) / np.sqrt(total)))


def _squared_error(values: np.ndarray) -> np.ndarray:
    return np.where(np.ptp(values, axis=-1) == 0, 0.0, np.var(values, axis=-1, ddof=1) / values.shape[-1])


def _levene_rejects(n: int, alpha: float, center: Center) -> Rejects:
    from scipy import special

    critical = float(special.fdtri(1, 2 * n - 2, 1 - alpha))
    return lambda x, y: levene_statistics(x, y, center) > critical  # NaN, where there is no test, is not


def _resampled(
    a: Values, b: Values, rejects: Rejects, n: int, rng: np.random.Generator, draws: int, looks: str
) -> PowerPoint:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    reason = unusable(x, y, looks=looks)
    if reason is None and np.ptp(x) == 0 and np.ptp(y) == 0:
        reason = "neither group varies"
    if reason is not None:
        return PowerPoint(n, None, Interval("Wilson", 0.95, None, None, reason))

    def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
        return x[rng.integers(0, len(x), (k, n))], y[rng.integers(0, len(y), (k, n))]

    return _simulate(pairs, rejects, n, draws)


def _simulate(pairs: Pairs, rejects: Rejects, n: int, draws: int) -> PowerPoint:
    at_once = max(1, CHUNK // n)
    rejected = sum(int(rejects(*pairs(min(at_once, draws - done))).sum()) for done in range(0, draws, at_once))
    return PowerPoint(n, rejected / draws, wilson(rejected, draws))


def check(alpha: float, n: int, draws: int = DRAWS) -> None:
    """Raises ValueError for what no power can be computed of."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, here it is {alpha}")
    if n < MIN_VALUES:
        raise ValueError(f"n must be at least {MIN_VALUES}, here it is {n}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, here they are {draws}")
