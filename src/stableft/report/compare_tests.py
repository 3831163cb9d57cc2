"""Estimates of two arms and the tests between them."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from stableft.report.runs import ArmCell
from stableft.report.stability_results import BOOTSTRAP_SEED, withhold_if_stopped_early
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
# Number of scores in both arms together. Above it, the permutation test is slow and agrees with Welch's test.
MAX_PERMUTED_SCORES = 200
_EstimateT = TypeVar("_EstimateT", Interval, PointEstimate)


@dataclass(frozen=True)
class ArmEstimates:
    """Estimates of one arm. `successful` summarizes the scores of the runs that did not fail."""

    cell: ArmCell
    mean_interval: Interval
    std_interval: Interval
    iqm: PointEstimate
    successful: Summary
    successful_scores: tuple[float, ...]


@dataclass(frozen=True)
class ArmPairTests:
    """The tests between arm a and arm b. `holm`: PRIMARY_TESTS name -> p-value adjusted by Holm's method."""

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
    """Return the estimates of an arm. `failed` holds a value for each score of the cell. None: unknown."""
    scores = tuple(score for score, verdict in zip(cell.scores, failed, strict=True) if verdict is False)
    mean, std = (bootstrap_interval(cell.scores, statistic, _fresh_generator()) for statistic in ("mean", "std"))
    return ArmEstimates(
        cell, _withhold_interval(mean, cell), _withhold_interval(std, cell), iqm(cell.scores), summarize(scores), scores
    )


def compare_arm_pair(a: ArmEstimates, b: ArmEstimates) -> ArmPairTests:
    """Return all tests. If runs of an arm were early-stopped, they have a reason in place of a p-value."""
    first, second = a.cell, b.cell
    x, y = first.scores, second.scores
    n_known = [cell.summary.n - cell.failed_unknown for cell in (first, second)]
    comparable = all(n_known) and not (first.stopped or second.stopped)
    mean_a, mean_b = first.summary.mean, second.summary.mean
    better = probability_of_improvement(x, y, _fresh_generator())
    tests = ArmPairTests(
        levene_median=withhold_if_stopped_early(levene(x, y, "median"), first, second),
        levene_mean=withhold_if_stopped_early(levene(x, y, "mean"), first, second),
        sd_ratio=withhold_if_stopped_early(sd_ratio(x, y, _fresh_generator()), first, second),
        levene_successful=withhold_if_stopped_early(_test_spread_of_successful(a, b), first, second),
        failed_difference=first.failed / n_known[0] - second.failed / n_known[1] if comparable else None,
        boschloo=withhold_if_stopped_early(_test_failures(first, second, n_known), first, second),
        mean_difference=None if mean_a is None or mean_b is None else mean_a - mean_b,
        welch=withhold_if_stopped_early(t_test(x, y, equal_var=False), first, second),
        student=withhold_if_stopped_early(t_test(x, y, equal_var=True), first, second),
        permutation=withhold_if_stopped_early(_test_permutation(x, y), first, second),
        improvement=_withhold_improvement(better, first, second),
    )
    ps = holm([getattr(tests, name).p for name in PRIMARY_TESTS])
    return replace(tests, holm=dict(zip(PRIMARY_TESTS, ps, strict=True)))


def _fresh_generator() -> np.random.Generator:
    """Return a new Generator with a fixed seed, so that no number depends on those computed before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def _test_failures(a: ArmCell, b: ArmCell, n_known: list[int]) -> TestResult:
    result = boschloo(a.failed, n_known[0], b.failed, n_known[1], "two-sided")
    unknown = [
        f"{cell.failed_unknown} of {cell.summary.n} runs of {cell.arm}" for cell in (a, b) if cell.failed_unknown
    ]
    if not unknown or result.p is not None:
        return result
    return replace(result, reason=f"whether a run failed is not known of {' and '.join(unknown)}")


def _test_spread_of_successful(a: ArmEstimates, b: ArmEstimates) -> TestResult:
    """Return Levene's test among the runs that did not fail, or only a reason if that is the test of all runs."""
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
    no_interval = replace(better.interval, low=None, high=None, reason=test.reason)
    return replace(better, value=None, interval=no_interval, test=test, reason=test.reason)


def _withhold_interval(interval: Interval, cell: ArmCell) -> Interval:
    """Return the interval, or only a reason if runs of the arm were early-stopped because of their scores."""
    if not cell.stopped:
        return interval
    return replace(interval, low=None, high=None, reason="what is left of the arm is no sample of it")
