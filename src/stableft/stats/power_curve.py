"""Power over the number of seeds: how many are needed, and all of it as text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from stableft.stats.power import DRAWS, MOST_SEEDS, PowerPoint, power, power_from, power_of_means, seeds_needed
from stableft.stats.power_failures import power_of_failures
from stableft.stats.results import BOSCHLOO, LEVENE, WELCH_OF_VALUES, Center, Values
from stableft.stats.summary import describe

SIZES = (5, 10, 15, 20, 25, 30, 40, 50, 75, 100)
LARGER_SIZES = (150, 200, 300, 500, 750, 1000)  # shown as far as the number needed
MISSING = "-"


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


def power_of_normal(
    sd: float,
    ratio: float,
    alpha: float = 0.05,
    target: float = 0.8,
    center: Center = "median",
    seed: int = 0,
    draws: int = DRAWS,
) -> PowerCurve:
    """Returns the power of Levene's test on normal scores with SD `sd` in one arm and `sd * ratio` in the other.

    Each n is simulated with a Generator of its own, from the seed and n, so that none depends on the others.

    Raises:
        ValueError: sd or ratio is not positive, or alpha or target is not between 0 and 1.
    """
    empty = PowerCurve(LEVENE, center, None, _normal(sd, ratio), alpha, target, draws, seed, (), None)
    return _fill(empty, lambda n: power(sd, ratio, alpha, n, np.random.default_rng([seed, n]), center, draws))


def power_of_scores(
    a: Values,
    b: Values,
    failed_a: Sequence[bool | None] | None,
    failed_b: Sequence[bool | None] | None,
    alpha: float = 0.05,
    target: float = 0.8,
    center: Center = "median",
    seed: int = 0,
    draws: int = DRAWS,
) -> list[PowerCurve]:
    """Returns the power to find again what two arms of real runs show: of spread, of failures, of means.

    Levene's and Welch's tests are simulated with scores drawn with replacement. `failed_*` says of each run whether it
    failed, None where that is not known of it or of all; Boschloo's one-sided test is enumerated from the two shares.

    Raises:
        ValueError: alpha or target is not between 0 and 1.
    """

    def rng(n: int) -> np.random.Generator:
        return np.random.default_rng([seed, n])

    spread = PowerCurve(LEVENE, center, None, _of("SD", "std", a, b), alpha, target, draws, seed, (), None)
    means = PowerCurve(
        WELCH_OF_VALUES, None, "two-sided", _of("mean", "mean", a, b), alpha, target, draws, seed, (), None
    )
    return [
        _fill(spread, lambda n: power_from(a, b, alpha, n, rng(n), center, draws)),
        _failures(failed_a, failed_b, alpha, target),
        _fill(means, lambda n: power_of_means(a, b, alpha, n, rng(n), draws)),
    ]


def _failures(
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
    return _fill(empty, lambda n: power_of_failures(shares[0], shares[1], alpha, n), SIZES[-1])


def _fill(empty: PowerCurve, power_at: Callable[[int], PowerPoint], one_by_one: int = 0) -> PowerCurve:
    """Returns the curve with its points, and the number of seeds that its target needs."""
    point = cache(power_at)
    first = point(SIZES[0])
    if first.power is None:
        return replace(empty, reason=first.interval.reason)
    needed = seeds_needed(lambda n: point(n).power, empty.target, one_by_one=one_by_one)
    last = (
        next((n for n in LARGER_SIZES if n >= (needed or 0)), MOST_SEEDS)
        if needed and needed > SIZES[-1]
        else SIZES[-1]
    )
    sizes = {n for n in (*SIZES, *LARGER_SIZES) if n <= last} | ({needed} if needed else {MOST_SEEDS})
    reason = None if needed else f"the power stays below {empty.target:g} with up to {MOST_SEEDS} seeds an arm"
    return replace(empty, points=tuple(point(n) for n in sorted(sizes)), needed=needed, reason=reason)


def render_power(curves: PowerCurve | Sequence[PowerCurve]) -> str:
    """Returns the curves as text that ends with a newline: a table of power over n, and a sentence about each."""
    curves = [curves] if isinstance(curves, PowerCurve) else list(curves)
    shown = [curve for curve in curves if curve.points]
    lines = _table(shown) if shown else []
    return "\n".join([*lines, *([""] if shown else []), *map(_sentence, curves)]) + "\n"


def _table(curves: Sequence[PowerCurve]) -> list[str]:
    heads = ["n per arm", *(curve.test for curve in curves)]
    found = [{point.n: point.power for point in curve.points} for curve in curves]
    rows = []
    for n in sorted(set().union(*found)):
        values = (powers.get(n) for powers in found)
        rows.append([str(n), *(MISSING if value is None else f"{value:.2f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]


def _sentence(curve: PowerCurve) -> str:
    kind = {"less": "one-sided"}.get(curve.alternative or "", curve.alternative)
    kind = f"centre {curve.center}" if curve.center else kind
    test = f"{curve.test} ({kind}) at alpha {curve.alpha:g}, {curve.effect}"
    if curve.needed is None:
        how = f" ({_how(curve)})" if curve.points else ""
        return f"{test}: no number of seeds, {curve.reason}{how}."
    point = next(point for point in curve.points if point.n == curve.needed)
    needs = f"{curve.needed} seeds an arm for a power of {curve.target:g}"
    return f"{test}: {needs}; there it is {_with_error(point)}, {_how(curve)}."


def _with_error(point: PowerPoint) -> str:
    interval = point.interval
    if interval.low == interval.high:
        return f"{point.power:.3f}"
    error = f"{100 * interval.level:g} % {interval.method} interval {interval.low:.3f} to {interval.high:.3f}"
    return f"{point.power:.3f} ({error})"


def _how(curve: PowerCurve) -> str:
    return "all tables enumerated" if curve.draws is None else f"{curve.draws:,} draws, seed {curve.seed}"


def _normal(sd: float, ratio: float) -> str:
    return f"normal scores with SD {sd:g} against {sd * ratio:g}"


def _of(name: str, field: str, a: Values, b: Values) -> str:
    values = [getattr(describe(group), field) for group in (a, b)]
    counts = [len(group) for group in (a, b)]
    shown = " against ".join(
        f"{MISSING if value is None else f'{value:.3g}'} of {n}" for value, n in zip(values, counts, strict=True)
    )
    return f"{name} {shown} scores"
