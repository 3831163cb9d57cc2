"""Every statistic of two arms: what each arm is, and the tests between them."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from stableft.report.runs import Cell
from stableft.report.stability_table import BOOTSTRAP_SEED, unless_selected
from stableft.stats import (
    Estimate,
    Improvement,
    Interval,
    Ratio,
    Summary,
    TestResult,
    bootstrap_interval,
    boschloo,
    describe,
    holm,
    iqm,
    levene,
    permutation_test,
    probability_of_improvement,
    sd_ratio,
    t_test,
)

PRIMARY = ("levene_median", "boschloo", "welch")  # the family that Holm's method adjusts
MOST_PERMUTED = 200  # scores of both arms above which the permutation test, which Welch's then equals, is left out
R = TypeVar("R", Interval, Estimate)


@dataclass(frozen=True)
class ArmNumbers:
    """What is known of one arm. `successful` describes the scores of the runs that did not fail."""

    cell: Cell
    mean_interval: Interval
    std_interval: Interval
    iqm: Estimate
    successful: Summary
    successful_scores: tuple[float, ...]


@dataclass(frozen=True)
class PairTests:
    """The tests between arm a and arm b; `holm` adjusts those named in PRIMARY."""

    levene_median: TestResult
    levene_mean: TestResult
    sd_ratio: Ratio  # a over b
    levene_successful: TestResult  # median-centred, conditional on success
    failed_difference: float | None  # share of failed runs, a minus b
    boschloo: TestResult
    mean_difference: float | None  # a minus b
    welch: TestResult
    student: TestResult
    permutation: TestResult
    improvement: Improvement  # that a run of a scores higher
    holm: dict[str, float | None] = field(default_factory=dict)


def arm_numbers(cell: Cell, failed: list[bool | None]) -> ArmNumbers:
    """Returns what is known of an arm; `failed` is of each score of the cell, None where nobody knows."""
    scores = tuple(score for score, lost in zip(cell.scores, failed, strict=True) if lost is False)
    mean, std = (bootstrap_interval(cell.scores, which, _rng()) for which in ("mean", "std"))
    return ArmNumbers(cell, _sampled(mean, cell), _sampled(std, cell), iqm(cell.scores), describe(scores), scores)


def compare_pair(a: ArmNumbers, b: ArmNumbers) -> PairTests:
    """Returns all tests; there are none where runs of an arm were ended because of their scores."""
    first, second = a.cell, b.cell
    x, y = first.scores, second.scores
    known = [cell.summary.n - cell.failed_unknown for cell in (first, second)]
    both = all(known) and not (first.stopped or second.stopped)
    mean_a, mean_b = first.summary.mean, second.summary.mean
    better = probability_of_improvement(x, y, _rng())
    made = PairTests(
        levene_median=unless_selected(levene(x, y, "median"), first, second),
        levene_mean=unless_selected(levene(x, y, "mean"), first, second),
        sd_ratio=unless_selected(sd_ratio(x, y, _rng()), first, second),
        levene_successful=unless_selected(_successful(a, b), first, second),
        failed_difference=first.failed / known[0] - second.failed / known[1] if both else None,
        boschloo=unless_selected(_failures(first, second, known), first, second),
        mean_difference=None if mean_a is None or mean_b is None else mean_a - mean_b,
        welch=unless_selected(t_test(x, y, equal_var=False), first, second),
        student=unless_selected(t_test(x, y, equal_var=True), first, second),
        permutation=unless_selected(_permutation(x, y), first, second),
        improvement=_unless_selected(better, first, second),
    )
    ps = holm([getattr(made, name).p for name in PRIMARY])
    return replace(made, holm=dict(zip(PRIMARY, ps, strict=True)))


def _rng() -> np.random.Generator:
    """Returns a Generator anew, so that no number depends on which others were made before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def _failures(a: Cell, b: Cell, known: list[int]) -> TestResult:
    result = boschloo(a.failed, known[0], b.failed, known[1], "two-sided")
    unknown = [
        f"{cell.failed_unknown} of {cell.summary.n} runs of {cell.row}" for cell in (a, b) if cell.failed_unknown
    ]
    if not unknown or result.p is not None:
        return result
    return replace(result, reason=f"whether a run failed is not known of {' and '.join(unknown)}")


def _successful(a: ArmNumbers, b: ArmNumbers) -> TestResult:
    """Returns Levene's test among the runs that did not fail; nothing where that is the test of all runs."""
    result = levene(a.successful_scores, b.successful_scores, "median")
    reason = None
    if a.cell.failed_unknown or b.cell.failed_unknown:
        reason = "whether a run failed is not known of all runs"
    elif not a.cell.failed and not b.cell.failed:
        reason = "no run failed, so the spread of all runs says it"
    return replace(result, statistic=None, p=None, reason=reason) if reason else result


def _permutation(x: tuple[float, ...], y: tuple[float, ...]) -> TestResult:
    if len(x) + len(y) <= MOST_PERMUTED:
        return permutation_test(x, y, "mean", _rng())
    reason = f"it takes long for more than {MOST_PERMUTED} runs, for which it says what Welch's test says"
    name = "Permutation test of the difference of means"
    return TestResult(name, None, "two-sided", None, None, len(x), len(y), reason)


def _unless_selected(better: Improvement, a: Cell, b: Cell) -> Improvement:
    test = unless_selected(better.test, a, b)
    if test == better.test:
        return better
    nothing = replace(better.interval, low=None, high=None, reason=test.reason)
    return replace(better, value=None, interval=nothing, test=test, reason=test.reason)


def _sampled(interval: Interval, cell: Cell) -> Interval:
    """Returns the interval, or only a reason where the scores are those of the better runs."""
    if not cell.stopped:
        return interval
    return replace(interval, low=None, high=None, reason="what is left of the arm is no sample of it")
