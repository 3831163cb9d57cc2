"""Power of the tests over the number of runs an arm, by simulation and by enumeration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from stableft.stats.summary import (
    BOSCHLOO,
    LEVENE,
    MIN_VALUES,
    WELCH_T_TEST,
    Center,
    Interval,
    Values,
    summarize,
    unusable_reason,
)
from stableft.stats.tests import LOOKS_STABLE, MAX_BOSCHLOO_TABLES, levene_statistics, wilson_interval

POWER_DRAWS = 5000  # a power near .8 is then known to about 1.1 points
MAX_SEEDS_PER_ARM = 1000  # n an arm beyond which no one is asked to go
SIMULATED_AT_ONCE = 200_000  # values at a time: what fits a processor's cache

DrawPairs = Callable[[int], tuple[np.ndarray, np.ndarray]]  # how many pairs of samples -> the samples, one in each row
RejectsPairs = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PowerPoint:
    """The power with `n` runs an arm; None where there is none. `interval`: the error of the simulation, or why."""

    n: int
    power: float | None
    interval: Interval


def simulate_levene_power(
    sd: float,
    ratio: float,
    alpha: float,
    n: int,
    rng: np.random.Generator,
    center: Center = "median",
    draws: int = POWER_DRAWS,
) -> PowerPoint:
    """Returns in which share of simulated pairs of arms, n runs each, Levene's test rejects equal spread at alpha.

    The scores are normal with SD `sd` in one arm and `sd * ratio` in the other. The power depends on the ratio alone.

    Raises:
        ValueError: n is below 3, sd, ratio or draws is not positive, or alpha is not between 0 and 1.
    """
    check_power_arguments(alpha, n, draws)
    if not (0 < sd < np.inf and 0 < ratio < np.inf):
        raise ValueError(f"sd and ratio must be positive, here are {sd} and {ratio}")

    def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0.0, sd, (k, n)), rng.normal(0.0, sd * ratio, (k, n))

    return _simulate_power(pairs, _levene_rejects(n, alpha, center), n, draws)


def resample_levene_power(
    a: Values,
    b: Values,
    alpha: float,
    n: int,
    rng: np.random.Generator,
    center: Center = "median",
    draws: int = POWER_DRAWS,
) -> PowerPoint:
    """Returns the power of Levene's test with n runs an arm drawn with replacement from the scores of real runs.

    A pair of samples for which `levene` gives no answer counts as not rejected.

    Raises:
        ValueError: n is below 3, draws is not positive, or alpha is not between 0 and 1.
    """
    check_power_arguments(alpha, n, draws)
    return _resample_power(a, b, _levene_rejects(n, alpha, center), n, rng, draws, LOOKS_STABLE)


def resample_welch_power(
    a: Values, b: Values, alpha: float, n: int, rng: np.random.Generator, draws: int = POWER_DRAWS
) -> PowerPoint:
    """Returns the power of Welch's two-sided t-test with n runs an arm drawn with replacement from real scores.

    Raises:
        ValueError: as in `power_from`.
    """
    check_power_arguments(alpha, n, draws)

    def rejects(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return welch_p_values(x, y) < alpha  # NaN, where neither varies, is not

    return _resample_power(a, b, rejects, n, rng, draws, "better than it is")


def seeds_needed(
    power_at: Callable[[int], float | None], target: float = 0.8, most: int = MAX_SEEDS_PER_ARM, one_by_one: int = 0
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


def welch_p_values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the two-sided p-value of Welch's t-test of every pair of rows, NaN where neither row varies."""
    from scipy import special

    (mean_x, error_x), (mean_y, error_y) = ((v.mean(axis=-1), _squared_standard_error(v)) for v in (x, y))
    none = error_x + error_y == 0
    total = np.where(none, 1.0, error_x + error_y)
    freedom = total**2 / np.where(none, 1.0, error_x**2 / (x.shape[-1] - 1) + error_y**2 / (y.shape[-1] - 1))
    return np.where(none, np.nan, 2 * special.stdtr(freedom, -np.abs(mean_x - mean_y) / np.sqrt(total)))


def _squared_standard_error(values: np.ndarray) -> np.ndarray:
    return np.where(np.ptp(values, axis=-1) == 0, 0.0, np.var(values, axis=-1, ddof=1) / values.shape[-1])


def _levene_rejects(n: int, alpha: float, center: Center) -> RejectsPairs:
    from scipy import special

    critical = float(special.fdtri(1, 2 * n - 2, 1 - alpha))
    return lambda x, y: levene_statistics(x, y, center) > critical  # NaN, where there is no test, is not


def _resample_power(
    a: Values, b: Values, rejects: RejectsPairs, n: int, rng: np.random.Generator, draws: int, looks: str
) -> PowerPoint:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    reason = unusable_reason(x, y, looks=looks)
    if reason is None and np.ptp(x) == 0 and np.ptp(y) == 0:
        reason = "neither group varies"
    if reason is not None:
        return PowerPoint(n, None, Interval("Wilson", 0.95, None, None, reason))

    def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
        return x[rng.integers(0, len(x), (k, n))], y[rng.integers(0, len(y), (k, n))]

    return _simulate_power(pairs, rejects, n, draws)


def _simulate_power(pairs: DrawPairs, rejects: RejectsPairs, n: int, draws: int) -> PowerPoint:
    at_once = max(1, SIMULATED_AT_ONCE // n)
    rejected = sum(int(rejects(*pairs(min(at_once, draws - done))).sum()) for done in range(0, draws, at_once))
    return PowerPoint(n, rejected / draws, wilson_interval(rejected, draws))


def check_power_arguments(alpha: float, n: int, draws: int = POWER_DRAWS) -> None:
    """Raises ValueError for what no power can be computed of."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, here it is {alpha}")
    if n < MIN_VALUES:
        raise ValueError(f"n must be at least {MIN_VALUES}, here it is {n}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, here they are {draws}")


CURVE_SIZES = (5, 10, 15, 20, 25, 30, 40, 50, 75, 100)
LARGER_CURVE_SIZES = (150, 200, 300, 500, 750, 1000)  # shown as far as the number needed
NO_POWER_VALUE = "-"


@dataclass(frozen=True)
class PowerCurve:
    """The power of one test of two arms over n runs an arm.

    `needed` is the smallest n that reaches the target, None where no n up to MOST_SEEDS does or there is no power at
    all; `reason` says which. `draws` and `seed` are None where nothing is simulated.
    """

    test: str
    center: str | None
    alternative: str | None
    effect: str  # what is to be found, in words
    alpha: float
    target: float
    draws: int | None
    seed: int | None
    points: tuple[PowerPoint, ...]
    needed: int | None
    reason: str | None = None


def compute_normal_power_curve(
    sd: float,
    ratio: float,
    alpha: float = 0.05,
    target: float = 0.8,
    center: Center = "median",
    seed: int = 0,
    draws: int = POWER_DRAWS,
) -> PowerCurve:
    """Returns the power of Levene's test on normal scores with SD `sd` in one arm and `sd * ratio` in the other.

    Each n is simulated with a Generator of its own, from the seed and n, so that none depends on the others.

    Raises:
        ValueError: sd or ratio is not positive, or alpha or target is not between 0 and 1.
    """
    empty = PowerCurve(LEVENE, center, None, _describe_normal_effect(sd, ratio), alpha, target, draws, seed, (), None)
    return _fill_curve(
        empty, lambda n: simulate_levene_power(sd, ratio, alpha, n, np.random.default_rng([seed, n]), center, draws)
    )


def compute_observed_power_curves(
    a: Values,
    b: Values,
    failed_a: Sequence[bool | None] | None,
    failed_b: Sequence[bool | None] | None,
    alpha: float = 0.05,
    target: float = 0.8,
    center: Center = "median",
    seed: int = 0,
    draws: int = POWER_DRAWS,
) -> list[PowerCurve]:
    """Returns the power to find again what two arms of real runs show: of spread, of failures, of means.

    Levene's and Welch's tests are simulated with scores drawn with replacement. `failed_*` says of each run whether it
    failed, None where that is not known of it or of all; Boschloo's one-sided test is enumerated from the two shares.

    Raises:
        ValueError: alpha or target is not between 0 and 1.
    """

    def rng(n: int) -> np.random.Generator:
        return np.random.default_rng([seed, n])

    spread = PowerCurve(
        LEVENE, center, None, _describe_observed_effect("SD", "std", a, b), alpha, target, draws, seed, (), None
    )
    means = PowerCurve(
        WELCH_T_TEST,
        None,
        "two-sided",
        _describe_observed_effect("mean", "mean", a, b),
        alpha,
        target,
        draws,
        seed,
        (),
        None,
    )
    return [
        _fill_curve(spread, lambda n: resample_levene_power(a, b, alpha, n, rng(n), center, draws)),
        _failure_power_curve(failed_a, failed_b, alpha, target),
        _fill_curve(means, lambda n: resample_welch_power(a, b, alpha, n, rng(n), draws)),
    ]


def _failure_power_curve(
    failed_a: Sequence[bool | None] | None, failed_b: Sequence[bool | None] | None, alpha: float, target: float
) -> PowerCurve:
    empty = PowerCurve(BOSCHLOO, None, "less", "failed runs", alpha, target, None, None, (), None)
    if failed_a is None or failed_b is None or any(flag is None for flag in (*failed_a, *failed_b)):
        return replace(empty, reason="it is not known of every run whether it failed")
    counts = [(sum(map(bool, failed)), len(failed)) for failed in (failed_a, failed_b)]
    empty = replace(empty, effect=f"failed runs {' against '.join(f'{k} of {n}' for k, n in counts)}")
    if min(n for _, n in counts) == 0:
        return replace(empty, reason="each arm needs a run")
    shares = [k / n for k, n in counts]
    if shares[0] == shares[1]:
        return replace(empty, reason="both arms fail equally often")
    return _fill_curve(empty, lambda n: enumerate_boschloo_power(shares[0], shares[1], alpha, n), CURVE_SIZES[-1])


def _fill_curve(empty: PowerCurve, power_at: Callable[[int], PowerPoint], one_by_one: int = 0) -> PowerCurve:
    """Returns the curve with its points, and the number of seeds that its target needs."""
    point = cache(power_at)
    first = point(CURVE_SIZES[0])
    if first.power is None:
        return replace(empty, reason=first.interval.reason)
    needed = seeds_needed(lambda n: point(n).power, empty.target, one_by_one=one_by_one)
    last = (
        next((n for n in LARGER_CURVE_SIZES if n >= (needed or 0)), MAX_SEEDS_PER_ARM)
        if needed and needed > CURVE_SIZES[-1]
        else CURVE_SIZES[-1]
    )
    sizes = {n for n in (*CURVE_SIZES, *LARGER_CURVE_SIZES) if n <= last} | (
        {needed} if needed else {MAX_SEEDS_PER_ARM}
    )
    reason = None if needed else f"the power stays below {empty.target:g} with up to {MAX_SEEDS_PER_ARM} seeds an arm"
    return replace(empty, points=tuple(point(n) for n in sorted(sizes)), needed=needed, reason=reason)


def render_power(curves: PowerCurve | Sequence[PowerCurve]) -> str:
    """Returns the curves as text that ends with a newline: a table of power over n, and a sentence about each."""
    curves = [curves] if isinstance(curves, PowerCurve) else list(curves)
    shown = [curve for curve in curves if curve.points]
    lines = _power_table(shown) if shown else []
    return "\n".join([*lines, *([""] if shown else []), *map(_describe_curve, curves)]) + "\n"


def _power_table(curves: Sequence[PowerCurve]) -> list[str]:
    heads = ["n per arm", *(curve.test for curve in curves)]
    found = [{point.n: point.power for point in curve.points} for curve in curves]
    rows = []
    for n in sorted(set().union(*found)):
        values = (powers.get(n) for powers in found)
        rows.append([str(n), *(NO_POWER_VALUE if value is None else f"{value:.2f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]


def _describe_curve(curve: PowerCurve) -> str:
    kind = {"less": "one-sided"}.get(curve.alternative or "", curve.alternative)
    kind = f"centre {curve.center}" if curve.center else kind
    test = f"{curve.test} ({kind}) at alpha {curve.alpha:g}, {curve.effect}"
    if curve.needed is None:
        how = f" ({_describe_method(curve)})" if curve.points else ""
        return f"{test}: no number of seeds, {curve.reason}{how}."
    point = next(point for point in curve.points if point.n == curve.needed)
    needs = f"{curve.needed} seeds an arm for a power of {curve.target:g}"
    return f"{test}: {needs}; there it is {_format_power(point)}, {_describe_method(curve)}."


def _format_power(point: PowerPoint) -> str:
    interval = point.interval
    if interval.low == interval.high:
        return f"{point.power:.3f}"
    error = f"{100 * interval.level:g} % {interval.method} interval {interval.low:.3f} to {interval.high:.3f}"
    return f"{point.power:.3f} ({error})"


def _describe_method(curve: PowerCurve) -> str:
    return "all tables enumerated" if curve.draws is None else f"{curve.draws:,} draws, seed {curve.seed}"


def _describe_normal_effect(sd: float, ratio: float) -> str:
    return f"normal scores with SD {sd:g} against {sd * ratio:g}"


def _describe_observed_effect(name: str, field: str, a: Values, b: Values) -> str:
    values = [getattr(summarize(group), field) for group in (a, b)]
    counts = [len(group) for group in (a, b)]
    shown = " against ".join(
        f"{NO_POWER_VALUE if value is None else f'{value:.3g}'} of {n}" for value, n in zip(values, counts, strict=True)
    )
    return f"{name} {shown} scores"


ENUMERATION = "enumeration"
NULL_SHARES_TRIED = 1001  # common shares at which the size of the test is looked at


def enumerate_boschloo_power(share_a: float, share_b: float, alpha: float, n: int) -> PowerPoint:
    """Returns the power of Boschloo's one-sided test: the arm with the smaller share of failed runs fails less often.

    Every table of n runs an arm is counted with its probability, so nothing is simulated; with shares that are equal
    it is the size of the test. Where `boschloo` takes Fisher's test instead, so does this.

    Raises:
        ValueError: a share or alpha is out of range, or n is below 3.
    """
    check_power_arguments(alpha, n)
    if not (0 <= share_a <= 1 and 0 <= share_b <= 1):
        raise ValueError(f"a share of failed runs must be between 0 and 1, here are {share_a} and {share_b}")
    less, more = _failure_count_probabilities(np.array(sorted((share_a, share_b))), n)
    value = float(min(1.0, less @ boschloo_rejections(n, alpha) @ more))
    return PowerPoint(n, value, Interval(ENUMERATION, 1.0, value, value))


def boschloo_rejections(n: int, alpha: float) -> np.ndarray:
    """Returns of every table (failed in a, failed in b) whether the test of "a fails less often" rejects at alpha."""
    fisher = _fisher_p_values(n)
    if n * n > MAX_BOSCHLOO_TABLES:
        return fisher < alpha
    chances = _failure_count_probabilities(np.linspace(0, 1, NULL_SHARES_TRIED), n)
    levels = np.unique(fisher)
    below, above = -1, len(levels)  # the p-value of a table rises with its Fisher p-value
    while above - below > 1:
        middle = (below + above) // 2
        p = (chances @ _at_most_level(fisher, levels[middle]) * chances).sum(axis=1).max()
        below, above = (middle, above) if p < alpha else (below, middle)
    return _at_most_level(fisher, levels[below]) if below >= 0 else np.zeros_like(fisher, dtype=bool)


def _at_most_level(fisher: np.ndarray, level: float) -> np.ndarray:
    return fisher <= level * (1 + 1e-12)  # equal but for rounding


def _fisher_p_values(n: int) -> np.ndarray:
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


def _failure_count_probabilities(shares: np.ndarray, n: int) -> np.ndarray:
    """Returns the probability of each number of failures, 0 to n, for each share."""
    from scipy import stats

    return stats.binom.pmf(np.arange(n + 1), n, shares[:, np.newaxis])
