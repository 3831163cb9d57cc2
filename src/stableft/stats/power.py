"""Power of the tests as a function of the number of runs per arm, by simulation or enumeration.

The tests are those of a table: spread by Levene's test, failures by Boschloo's, means by Welch's, all two-sided. Holm's
method rejects whatever test of m has a p-value below alpha / m, so a power at that level is one that the table reaches.
"""

import textwrap
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
    finite_values,
    summarize,
    too_few_reason,
)
from stableft.stats.tests import MAX_BOSCHLOO_TABLES, levene_statistics, wilson_interval

POWER_DRAWS = 5000  # gives a power near 0.8 to within about 1.1 points
MAX_SEEDS_PER_ARM = 1000  # more runs per arm are not practical
TESTS_OF_A_PAIR = 3  # of spread, failures and means: the tests of a table of two arms
SIMULATED_AT_ONCE = 200_000  # values that fit in a processor's cache

DrawPairs = Callable[[int], tuple[np.ndarray, np.ndarray]]  # number of pairs of samples -> samples, one per row
RejectsPairs = Callable[[np.ndarray, np.ndarray], np.ndarray]  # samples, one per row -> whether the test rejects


@dataclass(frozen=True)
class PowerPoint:
    """The power with `n` runs per arm, None if undefined. `interval` is the simulation error, or says why not."""

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
    """Return the share of simulated pairs of arms, n runs each, in which Levene's test rejects equal spread at alpha.

    The scores are normal with SD `sd` in one arm and `sd * ratio` in the other. The power depends on the ratio alone.

    Raises:
        ValueError: n is below 3, sd, ratio or draws is not positive, or alpha is not between 0 and 1.
    """
    check_power_arguments(alpha, n, draws)
    if not (0 < sd < np.inf and 0 < ratio < np.inf):
        raise ValueError(f"sd and ratio must be positive, not {sd} and {ratio}")

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
    """Return the power of Levene's test with n runs per arm, drawn with replacement from the scores of real runs.

    A pair of samples for which `levene` has no result counts as not rejected.

    Raises:
        ValueError: n is below 3, draws is not positive, or alpha is not between 0 and 1.
    """
    check_power_arguments(alpha, n, draws)
    return _resample_power(a, b, _levene_rejects(n, alpha, center), n, rng, draws)


def resample_welch_power(
    a: Values, b: Values, alpha: float, n: int, rng: np.random.Generator, draws: int = POWER_DRAWS
) -> PowerPoint:
    """Return the power of Welch's two-sided t-test with n runs per arm, drawn with replacement from real scores.

    Raises:
        ValueError: n is below 3, draws is not positive, or alpha is not between 0 and 1.
    """
    check_power_arguments(alpha, n, draws)

    def rejects(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return welch_p_values(x, y) < alpha  # False for NaN, if neither sample varies

    return _resample_power(a, b, rejects, n, rng, draws)


def seeds_needed(
    power_at: Callable[[int], float | None],
    target: float = 0.8,
    max_seeds: int = MAX_SEEDS_PER_ARM,
    exhaustive_up_to: int = 0,
) -> int | None:
    """Return the smallest n from 3 to `max_seeds` at which `power_at(n)` reaches the target, or None if none does.

    Up to `exhaustive_up_to`, every n is tried, because the power of a test of counts does not increase at every step.
    Beyond, n is found by bisection. A simulated power increases with n up to its error, which limits the accuracy of n.

    Raises:
        ValueError: The target is not between 0 and 1.
    """
    if not 0 < target < 1:
        raise ValueError(f"the target power must be between 0 and 1, not {target}")

    def reaches(n: int) -> bool:
        value = power_at(n)
        return value is not None and value >= target

    for n in range(MIN_VALUES, min(exhaustive_up_to, max_seeds) + 1):
        if reaches(n):
            return n
    too_few = max(MIN_VALUES - 1, min(exhaustive_up_to, max_seeds))
    enough = min(too_few + 1, max_seeds)
    while not reaches(enough):
        if enough >= max_seeds:
            return None
        too_few, enough = enough, min(2 * enough, max_seeds)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if reaches(middle) else (middle, enough)
    return enough


def welch_p_values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of Welch's t-test of every pair of rows, NaN if neither row varies."""
    from scipy import special

    (mean_x, error_x), (mean_y, error_y) = ((v.mean(axis=-1), _squared_standard_error(v)) for v in (x, y))
    undefined = error_x + error_y == 0
    total = np.where(undefined, 1.0, error_x + error_y)
    freedom = total**2 / np.where(undefined, 1.0, error_x**2 / (x.shape[-1] - 1) + error_y**2 / (y.shape[-1] - 1))
    return np.where(undefined, np.nan, 2 * special.stdtr(freedom, -np.abs(mean_x - mean_y) / np.sqrt(total)))


def _squared_standard_error(values: np.ndarray) -> np.ndarray:
    return np.where(np.ptp(values, axis=-1) == 0, 0.0, np.var(values, axis=-1, ddof=1) / values.shape[-1])


def _levene_rejects(n: int, alpha: float, center: Center) -> RejectsPairs:
    from scipy import special

    critical = float(special.fdtri(1, 2 * n - 2, 1 - alpha))
    return lambda x, y: levene_statistics(x, y, center) > critical  # False for NaN, if there is no test


def _resample_power(
    a: Values, b: Values, rejects: RejectsPairs, n: int, rng: np.random.Generator, draws: int
) -> PowerPoint:
    x, y = finite_values(a), finite_values(b)
    reason = too_few_reason(x, y)
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
    """Raise a ValueError if an argument is out of range."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    if n < MIN_VALUES:
        raise ValueError(f"n must be at least {MIN_VALUES}, not {n}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")


CURVE_SIZES = (5, 10, 15, 20, 25, 30, 40, 50, 75, 100)
LARGER_CURVE_SIZES = (150, 200, 300, 500, 750, 1000)  # shown up to the number of seeds needed
NO_POWER_VALUE = "-"
POWER_TEXT_WIDTH = 100
SUBJECTS = {LEVENE: "spread", BOSCHLOO: "failures", WELCH_T_TEST: "means"}


@dataclass(frozen=True)
class PowerCurve:
    """The power of one test of two arms as a function of the number of runs per arm.

    The power is that at `alpha` / `n_tests`, where `n_tests` counts the tests over which Holm's method runs.
    `needed` is the smallest n that reaches the target. It is None if no n up to MAX_SEEDS_PER_ARM does, or if there is
    no power at all; `reason` says which. `draws` and `seed` are None if nothing is simulated.
    """

    test: str
    center: str | None
    alternative: str | None
    effect: str  # the difference to detect, in words
    alpha: float
    n_tests: int
    target: float
    draws: int | None
    seed: int | None
    points: tuple[PowerPoint, ...] = ()
    needed: int | None = None
    reason: str | None = None

    @property
    def level(self) -> float:
        """The p-value below which the test rejects whatever the other tests say."""
        return self.alpha / self.n_tests


def compute_normal_power_curve(
    sd: float,
    ratio: float,
    alpha: float = 0.05,
    target: float = 0.8,
    center: Center = "median",
    seed: int = 0,
    draws: int = POWER_DRAWS,
    n_tests: int = TESTS_OF_A_PAIR,
) -> PowerCurve:
    """Return the power of Levene's test on normal scores with SD `sd` in one arm and `sd * ratio` in the other.

    Each n has its own generator, from the seed and n, so that its power does not depend on which others are computed.

    Raises:
        ValueError: sd or ratio is not positive, or alpha or target is not between 0 and 1.
    """
    effect = _describe_normal_effect(sd, ratio)
    empty = PowerCurve(LEVENE, center, None, effect, alpha, n_tests, target, draws, seed)

    def power_at(n: int) -> PowerPoint:
        return simulate_levene_power(sd, ratio, empty.level, n, np.random.default_rng([seed, n]), center, draws)

    return _fill_curve(empty, power_at)


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
    n_tests: int = TESTS_OF_A_PAIR,
) -> list[PowerCurve]:
    """Return the power to detect the observed differences of two arms in spread, failures and means.

    Levene's and Welch's tests are simulated with finite scores drawn with replacement. Boschloo's test is enumerated
    from the shares of failed runs. `failed_*` says for each run whether it failed (None: not known).

    Raises:
        ValueError: alpha or target is not between 0 and 1.
    """

    def rng(n: int) -> np.random.Generator:
        return np.random.default_rng([seed, n])

    spread_effect, mean_effect = (
        _describe_observed_effect(*names, a, b) for names in (("SD", "std"), ("mean", "mean"))
    )
    spread = PowerCurve(LEVENE, center, None, spread_effect, alpha, n_tests, target, draws, seed)
    means = PowerCurve(WELCH_T_TEST, None, "two-sided", mean_effect, alpha, n_tests, target, draws, seed)
    return [
        _fill_curve(spread, lambda n: resample_levene_power(a, b, spread.level, n, rng(n), center, draws)),
        _failure_power_curve(failed_a, failed_b, alpha, n_tests, target),
        _fill_curve(means, lambda n: resample_welch_power(a, b, means.level, n, rng(n), draws)),
    ]


def _failure_power_curve(
    failed_a: Sequence[bool | None] | None,
    failed_b: Sequence[bool | None] | None,
    alpha: float,
    n_tests: int,
    target: float,
) -> PowerCurve:
    empty = PowerCurve(BOSCHLOO, None, "two-sided", "failed runs", alpha, n_tests, target, None, None)
    if failed_a is None or failed_b is None or any(flag is None for flag in (*failed_a, *failed_b)):
        return replace(empty, reason="it is not known of every run whether it failed")
    counts = [(sum(map(bool, failed)), len(failed)) for failed in (failed_a, failed_b)]
    empty = replace(empty, effect=f"failed runs {' against '.join(f'{k} of {n}' for k, n in counts)}")
    if min(n for _, n in counts) == 0:
        return replace(empty, reason="each arm needs a run")
    shares = [k / n for k, n in counts]
    if shares[0] == shares[1]:
        return replace(empty, reason="both arms fail equally often")
    return _fill_curve(empty, lambda n: enumerate_boschloo_power(shares[0], shares[1], empty.level, n), CURVE_SIZES[-1])


def _fill_curve(empty: PowerCurve, power_at: Callable[[int], PowerPoint], exhaustive_up_to: int = 0) -> PowerCurve:
    """Return the curve with its points and the number of seeds needed for its target."""
    point = cache(power_at)  # the search below and the table share points
    first = point(CURVE_SIZES[0])
    if first.power is None:
        return replace(empty, reason=first.interval.reason)
    needed = seeds_needed(lambda n: point(n).power, empty.target, exhaustive_up_to=exhaustive_up_to)
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
    """Return the curves as text that ends with a newline: the seeds needed, the power by n, then the method."""
    curves = [curves] if isinstance(curves, PowerCurve) else list(curves)
    shown = [curve for curve in curves if curve.points]
    parts = [[line for curve in curves for line in _wrap(_describe_need(curve), indent="  ")]]
    parts += [_power_table(shown)] if shown else []
    parts += [_wrap(_describe_method(curves))]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, POWER_TEXT_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _describe_need(curve: PowerCurve) -> str:
    """Return the answer: how many seeds an arm the test needs, with its power there."""
    test = f"{curve.test} (centre {curve.center})" if curve.center else curve.test
    subject = SUBJECTS.get(curve.test, curve.test)
    if curve.needed is None:
        return f"No number of seeds is enough for {subject} ({curve.effect}): {curve.reason}; {test}."
    point = next(point for point in curve.points if point.n == curve.needed)
    return f"{curve.needed} seeds an arm for {subject} ({curve.effect}): power {_format_power(point)}, {test}."


def _power_table(curves: list[PowerCurve]) -> list[str]:
    heads = ["n per arm", *(curve.test for curve in curves)]
    powers = [{point.n: point.power for point in curve.points} for curve in curves]
    rows = []
    for n in sorted(set().union(*powers)):
        values = (power_by_n.get(n) for power_by_n in powers)
        rows.append([str(n), *(NO_POWER_VALUE if value is None else f"{value:.2f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]


def _format_power(point: PowerPoint) -> str:
    low, high = point.interval.low, point.interval.high
    return f"{point.power:.3f}" + ("" if low is None or low == high else f" [{low:.3f}, {high:.3f}]")


def _describe_method(curves: list[PowerCurve]) -> str:
    first, simulated = curves[0], [curve for curve in curves if curve.draws is not None]
    ways = [f"{simulated[0].draws:,} draws, seed {simulated[0].seed}, 95 % Wilson intervals"] if simulated else []
    ways += [f"{BOSCHLOO}: all tables enumerated"] if len(simulated) < len(curves) else []
    holm = f" / {first.n_tests}, so that Holm's method over {first.n_tests} tests rejects" if first.n_tests > 1 else ""
    return f"Target power {first.target:g}. Two-sided tests at alpha {first.alpha:g}{holm}. {'; '.join(ways)}."


def _describe_normal_effect(sd: float, ratio: float) -> str:
    return f"normal scores with SD {sd:g} against {sd * ratio:g}"


def _describe_observed_effect(name: str, field: str, a: Values, b: Values) -> str:
    summaries = [summarize(group) for group in (a, b)]
    shown = " against ".join(
        f"{NO_POWER_VALUE if value is None else f'{value:.3g}'} of {summary.n_finite}"
        for summary in summaries
        for value in (getattr(summary, field),)
    )
    return f"{name} {shown} scores"


ENUMERATION = "enumeration"
NULL_SHARES_TRIED = 1001  # common shares of failed runs at which the size of the test is computed


def enumerate_boschloo_power(share_a: float, share_b: float, alpha: float, n: int) -> PowerPoint:
    """Return the power of Boschloo's two-sided test of equal failure rates.

    Sums the probabilities of all tables with n runs per arm, so nothing is simulated. With equal shares, the result is
    the size of the test. Uses Fisher's test instead whenever `boschloo` does.

    Raises:
        ValueError: A share or alpha is out of range, or n is below 3.
    """
    check_power_arguments(alpha, n)
    if not (0 <= share_a <= 1 and 0 <= share_b <= 1):
        raise ValueError(f"a share of failed runs must be between 0 and 1, not {share_a} and {share_b}")
    a, b = _failure_count_probabilities(np.array([share_a, share_b]), n)
    value = float(min(1.0, a @ boschloo_rejections(n, alpha) @ b))
    return PowerPoint(n, value, Interval(ENUMERATION, 1.0, value, value))


def boschloo_rejections(n: int, alpha: float) -> np.ndarray:
    """Return for every table [failed in a, failed in b] whether Boschloo's two-sided test rejects at alpha.

    Its p-value is twice the smaller one-sided one. So is that of Fisher's test, since the arms have equally many runs.
    """
    a_fails_less = _one_sided_rejections(n, alpha / 2)
    return a_fails_less | a_fails_less.T


def _one_sided_rejections(n: int, alpha: float) -> np.ndarray:
    fisher = fisher_p_values(n)
    if n * n > MAX_BOSCHLOO_TABLES:
        return fisher < alpha
    probabilities = _failure_count_probabilities(np.linspace(0, 1, NULL_SHARES_TRIED), n)
    levels = np.unique(fisher)
    below, above = -1, len(levels)  # bisection, since the p-value of a table increases with its Fisher p-value
    while above - below > 1:
        middle = (below + above) // 2
        p = (probabilities @ _at_most_level(fisher, levels[middle]) * probabilities).sum(axis=1).max()
        below, above = (middle, above) if p < alpha else (below, middle)
    return _at_most_level(fisher, levels[below]) if below >= 0 else np.zeros_like(fisher, dtype=bool)


def _at_most_level(fisher: np.ndarray, level: float) -> np.ndarray:
    return fisher <= level * (1 + 1e-12)  # equal p-values may differ by rounding


def fisher_p_values(n: int) -> np.ndarray:
    """Return the one-sided p-value of Fisher's exact test of every table [failed in a, failed in b].

    It is the probability that a has at most as many of the failed runs.
    """
    from scipy import special

    def log_choose(total: int, part: np.ndarray) -> np.ndarray:
        return special.gammaln(total + 1) - special.gammaln(part + 1) - special.gammaln(total - part + 1)

    counts = np.arange(n + 1)
    log_ways = log_choose(n, counts)
    tails = np.exp(log_ways[:, np.newaxis] + log_ways - log_choose(2 * n, np.add.outer(counts, counts)))
    for i in range(1, n + 1):
        tails[i, :-1] += tails[i - 1, 1:]  # at a fixed total, one failure fewer in a is one more in b
    return tails


def _failure_count_probabilities(shares: np.ndarray, n: int) -> np.ndarray:
    """Return the probability of each number of failures, 0 to n, for each share."""
    from scipy import stats

    return stats.binom.pmf(np.arange(n + 1), n, shares[:, np.newaxis])
