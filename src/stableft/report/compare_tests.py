"""Estimates of two arms and the tests between them."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from stableft.report.runs import ArmCell
from stableft.report.stability_table import BOOTSTRAP_SEED, withhold_if_stopped_early
from stableft.stats import (
    ImprovementProbability,
    Interval,
    PointEstimate,
    SdRatio,
    Summary,
    TestResult,
    bootstrap_interval,
    boschloo,
    holm,
    iqm,
    levene,
    permutation_test,
    probability_of_improvement,
    sd_ratio,
    summarize,
    t_test,
)

PRIMARY_TESTS = ("levene_median", "boschloo", "welch")  # the family that Holm's method adjusts
# Scores of both arms above which the permutation test, which Welch's then equals, is left out.
MAX_PERMUTED_SCORES = 200
_EstimateT = TypeVar("_EstimateT", Interval, PointEstimate)


@dataclass(frozen=True)
class ArmEstimates:
    """What is known of one arm. `successful` describes the scores of the runs that did not fail."""

    cell: ArmCell
    mean_interval: Interval
    std_interval: Interval
    iqm: PointEstimate
    successful: Summary
    successful_scores: tuple[float, ...]


@dataclass(frozen=True)
class ArmPairTests:
    """The tests between arm a and arm b; `holm` adjusts those named in PRIMARY."""

    levene_median: TestResult
    levene_mean: TestResult
    sd_ratio: SdRatio  # a over b
    levene_successful: TestResult  # median-centred, conditional on success
    failed_difference: float | None  # share of failed runs, a minus b
    boschloo: TestResult
    mean_difference: float | None  # a minus b
    welch: TestResult
    student: TestResult
    permutation: TestResult
    improvement: ImprovementProbability  # that a run of a scores higher
    holm: dict[str, float | None] = field(default_factory=dict)


def estimate_arm(cell: ArmCell, failed: list[bool | None]) -> ArmEstimates:
    """Return what is known of an arm; `failed` is of each score of the cell, None where nobody knows."""
    scores = tuple(score for score, lost in zip(cell.scores, failed, strict=True) if lost is False)
    mean, std = (bootstrap_interval(cell.scores, which, _fresh_generator()) for which in ("mean", "std"))
    return ArmEstimates(
        cell, _withhold_interval(mean, cell), _withhold_interval(std, cell), iqm(cell.scores), summarize(scores), scores
    )


def compare_arm_pair(a: ArmEstimates, b: ArmEstimates) -> ArmPairTests:
    """Return all tests; there are none where runs of an arm were ended because of their scores."""
    first, second = a.cell, b.cell
    x, y = first.scores, second.scores
    known = [cell.summary.n - cell.failed_unknown for cell in (first, second)]
    both = all(known) and not (first.stopped or second.stopped)
    mean_a, mean_b = first.summary.mean, second.summary.mean
    better = probability_of_improvement(x, y, _fresh_generator())
    made = ArmPairTests(
        levene_median=withhold_if_stopped_early(levene(x, y, "median"), first, second),
        levene_mean=withhold_if_stopped_early(levene(x, y, "mean"), first, second),
        sd_ratio=withhold_if_stopped_early(sd_ratio(x, y, _fresh_generator()), first, second),
        levene_successful=withhold_if_stopped_early(_test_spread_of_successful(a, b), first, second),
        failed_difference=first.failed / known[0] - second.failed / known[1] if both else None,
        boschloo=withhold_if_stopped_early(_test_failures(first, second, known), first, second),
        mean_difference=None if mean_a is None or mean_b is None else mean_a - mean_b,
        welch=withhold_if_stopped_early(t_test(x, y, equal_var=False), first, second),
        student=withhold_if_stopped_early(t_test(x, y, equal_var=True), first, second),
        permutation=withhold_if_stopped_early(_test_permutation(x, y), first, second),
        improvement=_withhold_improvement(better, first, second),
    )
    ps = holm([getattr(made, name).p for name in PRIMARY_TESTS])
    return replace(made, holm=dict(zip(PRIMARY_TESTS, ps, strict=True)))


def _fresh_generator() -> np.random.Generator:
    """Return a Generator anew, so that no number depends on which others were made before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def _test_failures(a: ArmCell, b: ArmCell, known: list[int]) -> TestResult:
    result = boschloo(a.failed, known[0], b.failed, known[1], "two-sided")
    unknown = [
        f"{cell.failed_unknown} of {cell.summary.n} runs of {cell.row}" for cell in (a, b) if cell.failed_unknown
    ]
    if not unknown or result.p is not None:
        return result
    return replace(result, reason=f"whether a run failed is not known of {' and '.join(unknown)}")


def _test_spread_of_successful(a: ArmEstimates, b: ArmEstimates) -> TestResult:
    """Return Levene's test among the runs that did not fail; nothing where that is the test of all runs."""
    result = levene(a.successful_scores, b.successful_scores, "median")
    reason = None
    if a.cell.failed_unknown or b.cell.failed_unknown:
        reason = "whether a run failed is not known of all runs"
    elif not a.cell.failed and not b.cell.failed:
        reason = "no run failed, so the spread of all runs says it"
    return replace(result, statistic=None, p=None, reason=reason) if reason else result


def _test_permutation(x: tuple[float, ...], y: tuple[float, ...]) -> TestResult:
    if len(x) + len(y) <= MAX_PERMUTED_SCORES:
        return permutation_test(x, y, "mean", _fresh_generator())
    reason = f"it takes long for more than {MAX_PERMUTED_SCORES} runs, for which it says what Welch's test says"
    name = "Permutation test of the difference of means"
    return TestResult(name, None, "two-sided", None, None, len(x), len(y), reason)


def _withhold_improvement(better: ImprovementProbability, a: ArmCell, b: ArmCell) -> ImprovementProbability:
    test = withhold_if_stopped_early(better.test, a, b)
    if test == better.test:
        return better
    nothing = replace(better.interval, low=None, high=None, reason=test.reason)
    return replace(better, value=None, interval=nothing, test=test, reason=test.reason)


def _withhold_interval(interval: Interval, cell: ArmCell) -> Interval:
    """Return the interval, or only a reason where the scores are those of the better runs."""
    if not cell.stopped:
        return interval
    return replace(interval, low=None, high=None, reason="what is left of the arm is no sample of it")
