"""Group-sequential tests of two arms: runs are added look by look, and the error is spent over the looks.

A look is at the first n runs of each arm. Boundaries are calibrated jointly over the looks, so that no error is lost
to a union bound: that of failures on the exact distribution over paths, those of scores on permuted labels. Pairs of
arms are rows of arrays, as many as there are, because the code that decides is the code that is validated.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np

from stableft.stats.power import fisher_p_values
from stableft.stats.summary import Interval
from stableft.stats.tests import newcombe_interval, sd_ratio

Spending = Literal["pocock", "obrien-fleming"]
Looks = tuple[int, ...]
HIGHER, LOWER, SAME = 1, -1, 2  # outcomes of a look: what the second arm's quantity is against the first's; 0: open
# The permutation test of spread has up to 8 % false positives at 5 % where some runs fail, and more with few runs.
SPREAD_CAUTION, MIN_SPREAD_RUNS = 0.5, 10
MARGIN_RATES = 251  # failure rates that differ by the margin at which the error of a boundary is computed
PERMUTATIONS = 9999  # of the labels, beside the observed ones: no p-value is below 1e-4


@dataclass(frozen=True)
class LookPlan:
    """When a claim is looked at, and the error that it may make.

    `looks` are numbers of runs of each arm, of `total` planned: all looks so far. Within `margin`, in the unit of the
    quantity, two arms are the same; None: there is no such outcome.
    """

    looks: Looks
    total: int
    alpha: float
    spending: Spending = "pocock"
    margin: float | None = None

    def levels(self, sides: int = 2) -> list[float]:
        """Return the error that may be spent up to each look."""
        return spent_error(self.spending, self.alpha, np.array(self.looks) / self.total, sides).tolist()


@dataclass(frozen=True)
class LookEstimate:
    """What a look says. `p` is adjusted for the looks before it, and None where the claim does not end by it.

    `interval` agrees with the outcome: it holds no difference at all unless that is rejected, and may then end there.
    Of means it holds at all looks at once; of failure rates and spread it is approximate. Of the outcome SAME it is the
    interval of the two one-sided tests, at twice their error, and within the margin.
    `difference` is the second arm minus the first; for spread it is the SD of the first over that of the second.
    """

    n: int
    outcome: int
    p: float | None
    difference: float | None
    interval: Interval


def spent_error(spending: Spending, alpha: float, share: np.ndarray | float, sides: int = 2) -> np.ndarray:
    """Return the error that may be spent up to a share of all runs (Lan and DeMets 1983).

    "pocock" spends it almost evenly, "obrien-fleming" hardly any at first. Their boundaries come close to those of
    Pocock (1977) and of O'Brien and Fleming (1979).
    """
    from scipy import special

    share = np.clip(share, 0.0, 1.0)
    if spending == "pocock":
        return alpha * np.log1p((math.e - 1) * share)
    z = -special.ndtri(alpha / (2 * sides))
    with np.errstate(divide="ignore"):
        return 2 * sides * special.ndtr(-z / np.sqrt(share))


# Failures: the exact distribution over paths.


@dataclass(frozen=True)
class FailureBoundary:
    """Outcomes of every look by the numbers of failed runs [first arm, second arm].

    `p_values` are those of a path that ends at this look and these numbers, `spent` the error made so far at most, and
    `nominal` that of this look alone; `nominal_same` is that of each one-sided test against the margin, if any.
    """

    looks: Looks
    outcomes: tuple[np.ndarray, ...]
    p_values: tuple[np.ndarray, ...]
    spent: tuple[float, ...]
    nominal: tuple[float, ...]
    nominal_same: tuple[float, ...] = ()

    def look_up(self, failed_a: np.ndarray, failed_b: np.ndarray) -> np.ndarray:
        """Return the outcome of every look [pairs, looks], given which runs failed [pairs, runs]."""
        ends = [n - 1 for n in self.looks]
        a, b = (np.cumsum(failed, axis=-1)[..., ends] for failed in (failed_a, failed_b))
        return np.stack([table[a[..., k], b[..., k]] for k, table in enumerate(self.outcomes)], axis=-1)


@cache
def failure_boundary(plan: LookPlan) -> FailureBoundary:
    """Return the exact boundary for the failure rates of two arms.

    Tables are ordered by Fisher's p-value, as in Boschloo's test. The error is kept however many of all planned runs
    fail, so it is kept at every common failure rate too. Two arms are the same if two one-sided tests reject that their
    rates differ by the margin or more, each at alpha over paths of its own.
    """
    orders = [fisher_p_values(n) for n in plan.looks]  # that the first arm has at most as many failed runs
    lowest = [np.minimum(p, p.T) for p in orders]
    two_sided = _calibrate_paths(lowest, plan.looks, plan.levels(), partial(_odds_if_so_many_fail, plan.total))
    outcomes = [
        np.where(look.region, np.where(order < order.T, HIGHER, LOWER), 0)
        for order, look in zip(orders, two_sided, strict=True)
    ]
    below: list[_PathLook] = []
    if plan.margin is not None:
        rates = np.linspace(0, 1 - plan.margin, MARGIN_RATES)
        excess = [_order_by_excess(n, plan.margin) for n in plan.looks]
        odds = partial(_odds_at_rates, rates + plan.margin, rates)
        below = _calibrate_paths(excess, plan.looks, plan.levels(sides=1), odds)
        outcomes = [
            np.where((outcome == 0) & look.region & look.region.T, SAME, outcome)
            for outcome, look in zip(outcomes, below, strict=True)
        ]
    return FailureBoundary(
        plan.looks,
        tuple(outcome.astype(np.int8) for outcome in outcomes),
        tuple(look.p_values for look in two_sided),
        tuple(look.spent for look in two_sided),
        tuple(look.nominal for look in two_sided),
        tuple(look.nominal for look in below),
    )


class _PathLook(NamedTuple):
    region: np.ndarray  # tables at which the look stops
    p_values: np.ndarray
    spent: float
    nominal: float


def _calibrate_paths(
    orders: Sequence[np.ndarray], looks: Looks, levels: Sequence[float], odds_at: Callable[[int], np.ndarray]
) -> list[_PathLook]:
    """Return the tables at which each look stops.

    They are those of lowest order, as many as keep the probability of having stopped within the look's level under
    every hypothesis. Tables of equal order stop together. `odds_at(n)`: for each hypothesis, the probability of every
    table of n runs an arm over that where half of all runs fail.
    """
    paths = alone = np.ones((1, 1))  # the probability of each table where half of all runs fail
    stopped, before, found = 0.0, 0, []
    for order, n, level in zip(orders, looks, levels, strict=True):
        step = _step_probabilities(before, n - before)
        paths, alone, odds, before = step @ paths @ step.T, step @ alone @ step.T, odds_at(n), n
        ordered, tie = np.unique(np.round(order, 13), return_inverse=True)  # equal orders may differ by rounding
        tables = (odds * paths).reshape(len(odds), -1)
        by_tie = np.stack([np.bincount(tie.ravel(), table, len(ordered)) for table in tables])
        errors = (stopped + np.cumsum(by_tie, axis=1)).max(axis=0)
        region = (tie < np.count_nonzero(errors <= level + 1e-12)).reshape(order.shape)
        stopped = stopped + (tables * region.ravel()).sum(axis=1)[:, np.newaxis]
        paths = paths * ~region
        nominal = float((odds * alone * region).sum(axis=(1, 2)).max())
        found.append(
            _PathLook(region, np.minimum(errors, 1.0)[tie].reshape(order.shape), float(stopped.max()), nominal)
        )
    return found


def _step_probabilities(before: int, added: int) -> np.ndarray:
    """Return the probability of [failures after, failures before] when `added` runs join `before`, and half fail."""
    from scipy import stats

    matrix = np.zeros((before + added + 1, before + 1))
    for failed in range(before + 1):
        matrix[failed : failed + added + 1, failed] = stats.binom.pmf(np.arange(added + 1), added, 0.5)
    return matrix


def _odds_if_so_many_fail(total: int, n: int) -> np.ndarray:
    """Return the odds of `_calibrate_paths` given how many of all 2 `total` runs fail: none to half of them.

    More need no look, because failed and successful runs exchanged give the same probabilities.
    """
    from scipy import stats

    failed = np.arange(2 * n + 1)
    share = [stats.hypergeom.pmf(failed, 2 * total, all_failed, 2 * n) for all_failed in range(total + 1)]
    odds = np.stack(share) / stats.binom.pmf(failed, 2 * n, 0.5)
    return odds[:, np.add.outer(np.arange(n + 1), np.arange(n + 1))]


def _odds_at_rates(rates_a: np.ndarray, rates_b: np.ndarray, n: int) -> np.ndarray:
    """Return the odds of `_calibrate_paths` for pairs of failure rates."""
    from scipy import stats

    half = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    a, b = (stats.binom.pmf(np.arange(n + 1), n, rates[:, np.newaxis]) / half for rates in (rates_a, rates_b))
    return a[:, :, np.newaxis] * b[:, np.newaxis, :]


def _order_by_excess(n: int, margin: float) -> np.ndarray:
    """Return a z-score of every table [failed in a, failed in b]: low if a's rate is surely below b's plus the margin.

    Each arm has one failed and one successful run more (Agresti and Caffo 2000). The score is made to rise with a's
    failures and to fall with b's, so that the error is largest where the rates differ by the margin.
    """
    rates = (np.arange(n + 1) + 1) / (n + 2)
    variance = rates * (1 - rates) / (n + 2)
    z = (rates[:, np.newaxis] - rates - margin) / np.sqrt(variance[:, np.newaxis] + variance)
    z = np.maximum.accumulate(z, axis=0)
    return np.maximum.accumulate(z[:, ::-1], axis=1)[:, ::-1]


def estimate_failures(failed_a: np.ndarray, failed_b: np.ndarray, plan: LookPlan, look: int) -> LookEstimate:
    """Return what a look (by its index) says of the failure rates, given which runs failed.

    The interval is Newcombe's at the level of this look alone, made to agree with the test.
    """
    boundary, n = failure_boundary(plan), plan.looks[look]
    a, b = int(failed_a[:n].sum()), int(failed_b[:n].sum())
    outcome = int(boundary.outcomes[look][a, b])
    error = 2 * boundary.nominal_same[look] if outcome == SAME else boundary.nominal[look]
    interval = _interval_at(error, lambda level: newcombe_interval(b, n, a, n, level))
    p = float(boundary.p_values[look][a, b])
    return LookEstimate(n, outcome, p, (b - a) / n, clip_to_outcome(interval, outcome, margin=plan.margin))


def _interval_at(nominal: float, make: Callable[[float], Interval]) -> Interval:
    if nominal <= 0:
        return Interval("repeated", 1.0, None, None, "this look is too early to decide")
    return make(1 - nominal)


# Scores: labels exchanged within pairs of runs.


def exchange_labels(runs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return signs [resamples + 1, runs]: -1 exchanges the labels of a pair, the i-th run of one arm and of the other.

    The first row is as observed. Labels stay within pairs, because a look knows no later runs, and because differences
    of pairs are symmetric if both arms are, however unequal their variances.
    """
    return np.vstack([np.ones(runs), rng.choice([-1.0, 1.0], (resamples, runs))])


class PermutedLook(NamedTuple):
    """One look at many pairs of arms: whether each is beyond the threshold, its p-value, and this look's own level."""

    beyond: np.ndarray
    p: np.ndarray
    nominal: np.ndarray


def calibrate_permutations(statistics: Iterator[np.ndarray], levels: Sequence[float]) -> Iterator[PermutedLook]:
    """Yield each look at [pairs, permutations] of a statistic, of which the first permutation is the observed one.

    A look stops the permutations with the largest values, as many as keep the share of those stopped so far within its
    level. Given the runs of each look, whatever their labels, the observed permutation is one of these by chance, so
    under exchangeable labels the error is exact. The p-value is the share of the permutations that stopped before or
    have at least the observed value.
    """
    alive = stopped = None
    for values, level in zip(statistics, levels, strict=True):
        n = values.shape[1]
        if alive is None or stopped is None:
            alive, stopped = np.ones(values.shape, dtype=bool), np.zeros(len(values), dtype=int)
        left = np.where(alive, values, -np.inf)
        budget = math.floor(level * n + 1e-9) - stopped
        most = int(budget.max())
        largest = np.sort(np.partition(left, n - 1 - most, axis=1)[:, n - 1 - most :], axis=1)
        threshold = largest[np.arange(len(values)), most - budget][:, np.newaxis] + TIE
        observed = values[:, :1] - TIE
        p = (stopped + (left > observed).sum(axis=1)) / n
        stops = left > threshold
        yield PermutedLook(values[:, 0] > threshold[:, 0], p, (values > threshold).mean(axis=1))
        alive, stopped = alive & ~stops, stopped + stops.sum(axis=1)


TIE = 1e-9  # statistics of scores within 0 and 1, or in units of their range, that are closer are equal


def _mean_differences(a: np.ndarray, b: np.ndarray, signs: np.ndarray, looks: Looks) -> Iterator[np.ndarray]:
    """Yield for each look the difference of the means, second arm minus first, of every pair and permutation."""
    total, before, differences = 0.0, 0, b - a
    for n in looks:
        total = total + differences[:, before:n] @ signs[:, before:n].T
        before = n
        yield total / n


def _sd_differences(a: np.ndarray, b: np.ndarray, signs: np.ndarray, looks: Looks) -> Iterator[np.ndarray]:
    """Yield for each look the difference of the SDs of the deviations from each arm's median so far."""
    for n in looks:
        x, y = (v[:, :n] - np.median(v[:, :n], axis=1, keepdims=True) for v in (a, b))
        # Of both arms together, sums stay as they are; of their difference, they follow the signs.
        sums, squares = ((y**k - x**k) @ signs[:, :n].T for k in (1, 2))
        both, both_squares = ((x**k + y**k).sum(axis=1, keepdims=True) for k in (1, 2))
        variances = [
            ((both_squares + side * squares) / 2 - ((both + side * sums) / 2) ** 2 / n) / (n - 1) for side in (1, -1)
        ]
        of_b, of_a = (np.sqrt(np.maximum(variance, 0.0)) for variance in variances)
        yield of_b - of_a


def look_at_scores(
    about: Literal["mean", "spread"], a: np.ndarray, b: np.ndarray, plan: LookPlan, signs: np.ndarray
) -> tuple[np.ndarray, list[PermutedLook]]:
    """Return the outcomes of every look [pairs, looks] at the scores [pairs, runs] of two arms, and the looks.

    Means: exact if the arms differ in nothing, or are both symmetric; for the margin if that is so of scores moved by
    it. Spread: the deviations from each arm's median are exchanged with their signs, and the SDs of the arms compared.
    That is approximate, because deviations from estimated medians are not quite exchangeable, so the claim is tested at
    SPREAD_CAUTION of its level, from MIN_SPREAD_RUNS runs on. The mean absolute deviations of Levene's test are no
    nearer to their level and find less: on the real runs of RTE and MRPC with a power of .50 and .78, not .71 and .93.
    """
    n = plan.looks[-1]
    a, b, signs = a[:, :n], b[:, :n], signs[:, :n]
    observed = np.empty((len(a), len(plan.looks)), dtype=np.int8)

    def two_sided() -> Iterator[np.ndarray]:
        for k, values in enumerate(
            (_mean_differences if about == "mean" else _sd_differences)(a, b, signs, plan.looks)
        ):
            observed[:, k] = np.where(values[:, 0] > 0, HIGHER, LOWER)
            yield np.abs(values)

    looks = list(calibrate_permutations(two_sided(), score_levels(about, plan)))
    outcomes = np.where(np.stack([look.beyond for look in looks], axis=1), observed, 0)
    if plan.margin is None:
        return outcomes, looks
    beyond = []
    for side in (1, -1):  # that the second arm is higher than the first minus the margin, and lower than it plus that
        shifted = _mean_differences(a, b + side * plan.margin, signs, plan.looks)
        one_sided = calibrate_permutations((side * values for values in shifted), plan.levels(sides=1))
        beyond.append(np.stack([look.beyond for look in one_sided], axis=1))
    return np.where((outcomes == 0) & beyond[0] & beyond[1], SAME, outcomes), looks


def estimate_mean(a: np.ndarray, b: np.ndarray, plan: LookPlan, signs: np.ndarray, look: int) -> LookEstimate:
    """Return what a look (by its index) says of the means.

    The interval holds the differences that the same test, of scores moved by them, does not reject at this look: of
    the outcome SAME those that neither one-sided test rejects, else those that the two-sided one does not.
    """
    outcomes, looks = look_at_scores("mean", a[np.newaxis], b[np.newaxis], plan, signs)
    n = plan.looks[look]
    difference = float(b[:n].mean() - a[:n].mean())
    p, outcome = float(looks[look].p[0]), int(outcomes[0, look])
    sides = 1 if outcome == SAME else 2
    method, level = "inverted permutation test", 1 - 2 * plan.alpha / sides
    if looks[look].nominal[0] == 0 and outcome != SAME:
        reason = "this look is too early to decide"
        return LookEstimate(n, outcome, p, difference, Interval(method, level, None, None, reason))
    seen, levels = plan.looks[: look + 1], plan.levels(sides)[: look + 1]

    def rejects(end: int, shift: float) -> bool:
        """Return whether a shift is rejected. `end`: -1 if it would be the lower end of the interval."""
        moved = _mean_differences(a[np.newaxis, :n], b[np.newaxis, :n] - shift, signs[:, :n], seen)
        *_, last = calibrate_permutations((np.abs(v) if sides == 2 else -end * v for v in moved), levels)
        return bool(last.beyond[0])

    span = float(np.ptp(np.concatenate([a[:n], b[:n]]))) or 1e-6
    low, high = (_first_rejected(partial(rejects, end), difference, end * span) for end in (-1, 1))
    if outcome == SAME:  # both ends of the margin are rejected
        low, high = (end if found is None else found for found, end in ((low, -math.inf), (high, math.inf)))
    if low is None or high is None:
        reason = "at this look, no difference is large enough to be rejected"
        return LookEstimate(n, outcome, p, difference, Interval(method, level, None, None, reason))
    # Equal scores tie at no shift alone, so shifts on both sides of a rejected zero may be kept.
    interval = clip_to_outcome(Interval(method, level, low, high), outcome, margin=plan.margin)
    return LookEstimate(n, outcome, p, difference, interval)


def clip_to_outcome(interval: Interval, outcome: int, null: float = 0.0, margin: float | None = None) -> Interval:
    """Return the interval with the null value if the test does not reject it, else without it; if SAME, in the margin.

    A rejected null value may be the open end of the interval. An interval on the wrong side of it stays as it is.
    """
    low, high = interval.low, interval.high
    if low is None or high is None:
        return interval
    if outcome == SAME and margin is not None:
        return replace(interval, low=max(low, -margin), high=min(high, margin))
    if outcome in (HIGHER, LOWER):
        clipped = (max(low, null), high) if outcome == HIGHER else (low, min(high, null))
        return replace(interval, low=clipped[0], high=clipped[1]) if clipped[0] < clipped[1] else interval
    return replace(interval, low=min(low, null), high=max(high, null))


def _first_rejected(rejects: Callable[[float], bool], shift: float, span: float) -> float | None:
    """Return the first shift that is rejected in the direction of `span`, to about a hundredth of a 64th of it.

    Further ones need not be: scores tie. None: no shift is. Beyond the span of the scores all shifts are alike, because
    all moved differences have one sign: one is rejected if the permutations that exchange all labels or none, of which
    more may have been drawn than expected, are few enough to stop.
    """
    end, step = 2 * span, span / 64
    if not rejects(end):
        return None
    while abs(shift) < abs(end) and not rejects(shift + step):
        shift += step
    kept, rejected = shift, shift + step
    for _ in range(7):
        middle = (kept + rejected) / 2
        kept, rejected = (kept, middle) if rejects(middle) else (middle, rejected)
    return rejected


def estimate_spread(a: np.ndarray, b: np.ndarray, plan: LookPlan, signs: np.ndarray, look: int) -> LookEstimate:
    """Return what a look (by its index) says of the spread.

    The interval is BCa's at the level of this look alone, made to agree with the test.
    """
    outcomes, looks = look_at_scores("spread", a[np.newaxis], b[np.newaxis], plan, signs)
    n = plan.looks[look]
    nominal = float(looks[look].nominal[0])
    ratio = sd_ratio(a[:n], b[:n], np.random.default_rng(0), 1 - nominal if nominal else 1 - plan.alpha)
    outcome = int(outcomes[0, look])
    of_first = {HIGHER: LOWER, LOWER: HIGHER}.get(outcome, outcome)  # the ratio is that of the first arm
    interval = clip_to_outcome(_interval_at(nominal, lambda _: ratio.interval), of_first, null=1.0)
    p = min(1.0, float(looks[look].p[0]) / SPREAD_CAUTION)
    return LookEstimate(n, outcome, p, ratio.value, interval)


def score_levels(about: Literal["mean", "spread"], plan: LookPlan) -> list[float]:
    """Return the error that a claim about scores may spend up to each look."""
    if about == "mean":
        return plan.levels()
    pairs = zip(plan.looks, plan.levels(), strict=True)
    return [SPREAD_CAUTION * level if n >= MIN_SPREAD_RUNS else 0.0 for n, level in pairs]


def first_look_that_can_stop(about: Literal["failures", "mean", "spread"], plan: LookPlan) -> int | None:
    """Return the runs of each arm at the first look that can find a difference, or None.

    It does if the most extreme runs are rare enough for the error that may be spent. Of failures these are an arm whose
    runs all failed against one of which none did, where half of all planned runs fail. Of scores it is the observed
    permutation and its mirror image, and one of the permutations that are drawn.
    """
    for n, level in zip(plan.looks, plan.levels() if about == "failures" else score_levels(about, plan), strict=True):
        if about == "failures":
            left = plan.total - n
            can_stop = 2 * math.comb(2 * left, left) / math.comb(2 * plan.total, plan.total) <= level + 1e-12
        else:
            can_stop = 2.0 ** (1 - n) <= level and math.floor(level * (PERMUTATIONS + 1) + 1e-9) >= 1
        if can_stop:
            return n
    return None


# Several claims.


def decide_claims(
    outcomes_at: Sequence[Callable[[float], Sequence[int]]], alpha: float, looks: int, passes_on: Sequence[bool]
) -> tuple[list[tuple[int, int] | None], list[float]]:
    """Return for each claim the look (by its index) and outcome that decide it, or None, and the level of its tests.

    `outcomes_at[i](level)` gives the outcomes of all looks of claim i when tested at that level from the start. The
    claims have equal parts of alpha (Bonferroni). One that finds a difference and `passes_on` its part gives it to the
    open claims, again equally: the graph of Maurer and Bretz (2013) with equal weights. Only a difference does: a claim
    that ends in another way may still have a true null hypothesis.
    """
    levels = [alpha / len(outcomes_at)] * len(outcomes_at)
    decided: list[tuple[int, int] | None] = [None] * len(outcomes_at)
    for look in range(looks):
        changed = True
        while changed:
            changed = False
            for claim, outcomes in enumerate(outcomes_at):
                row = () if decided[claim] else outcomes(levels[claim])
                if look < len(row) and row[look]:
                    decided[claim], changed = (look, int(row[look])), True
                    still_open = [i for i, verdict in enumerate(decided) if verdict is None]
                    if passes_on[claim] and row[look] in (HIGHER, LOWER):
                        for other in still_open:
                            levels[other] += levels[claim] / len(still_open)
    return decided, levels
