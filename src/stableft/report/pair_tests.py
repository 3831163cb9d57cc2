"""The tests of an arm against the reference arm, the same for `report` and `compare`, and what weakens them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

import numpy as np

from stableft.report.arm_cells import ArmCell
from stableft.report.paper_values import PAPERS
from stableft.stats import (
    Correlation,
    Interval,
    SdRatio,
    TestResult,
    boschloo,
    holm,
    levene,
    newcombe_interval,
    sd_ratio,
    shared_seed_correlation,
    t_test,
    welch_interval,
)
from stableft.text import join_with

FAMILY = ("boschloo", "welch", "levene_median")  # the tests of a pair that Holm's method adjusts
ALPHA = 0.05  # of every decision
FALSE_STABILITY = f"{PAPERS['M']}, footnote 5"  # says that a small spread of failed runs is no stability
BOOTSTRAP_SEED = 0  # every interval starts from this seed, so none depends on the other arms of a table


class Caveat(Enum):
    """Reason for which a test has to be read with care."""

    MOSTLY_FAILED = "a small spread of failed runs is no stability"
    SHARED_RUNS = "the samples are not independent"
    UNLIKE_SCORES = "the scores differ in metric, direction, split or checkpoint"


@dataclass(frozen=True)
class PairTests:
    """An arm against the reference arm on one task.

    Differences are arm minus reference, as fractions; SD ratios are reference over arm. All tests are two-sided.
    `holm`: the tests of FAMILY -> p-value adjusted over all pairs of the table.
    """

    arm: ArmCell
    reference: ArmCell
    failed_difference: float | None  # of the shares of failed runs
    failed_interval: Interval
    boschloo: TestResult
    mean_difference: float | None
    mean_interval: Interval
    welch: TestResult
    sd_ratio: SdRatio
    levene_median: TestResult
    levene_mean: TestResult
    successful_sd_ratio: SdRatio  # among the runs that did not fail
    levene_successful: TestResult
    seed_correlation: Correlation
    caveats: tuple[tuple[Caveat, str], ...]
    holm: Mapping[str, float | None] = field(default_factory=dict)

    def is_shown(self, name: str) -> bool:
        """Return whether a test of FAMILY shows a difference, after Holm's adjustment. None does of unlike scores."""
        p = self.holm.get(name)
        return p is not None and p < ALPHA and scored_alike(self.arm, self.reference)

    @property
    def remark(self) -> str | None:
        """The caveats as text."""
        return "; ".join(sentence for _, sentence in self.caveats) or None


def compare_with_reference(pairs: Sequence[tuple[ArmCell, ArmCell]]) -> tuple[PairTests, ...]:
    """Return the tests of these (arm, reference) pairs, with Holm's method over the family of all of them."""
    tests = [_test_pair(arm, reference) for arm, reference in pairs]
    adjusted = iter(holm([getattr(pair, name).p for pair in tests for name in FAMILY]))
    return tuple(replace(pair, holm={name: next(adjusted) for name in FAMILY}) for pair in tests)


def fresh_generator() -> np.random.Generator:
    """Return a new Generator with a fixed seed, so that no number depends on those computed before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def _test_pair(arm: ArmCell, reference: ArmCell) -> PairTests:
    x, y = arm.scores, reference.scores
    a, b = (successful_scores(cell) for cell in (arm, reference))
    means = arm.summary.mean, reference.summary.mean
    stopped = bool(arm.stopped or reference.stopped)
    known = arm.n_known and reference.n_known and not stopped

    def sampled(result: "_ResultT") -> "_ResultT":
        return withhold_if_stopped_early(result, arm, reference)

    return PairTests(
        arm=arm,
        reference=reference,
        failed_difference=arm.failed / arm.n_known - reference.failed / reference.n_known if known else None,
        failed_interval=sampled(newcombe_interval(arm.failed, arm.n_known, reference.failed, reference.n_known)),
        boschloo=sampled(_test_failures(arm, reference)),
        mean_difference=None if stopped or None in means else (means[0] or 0.0) - (means[1] or 0.0),
        mean_interval=sampled(welch_interval(x, y)),
        welch=sampled(t_test(x, y, equal_var=False)),
        sd_ratio=sampled(sd_ratio(y, x, fresh_generator())),
        levene_median=sampled(levene(x, y, "median")),
        levene_mean=sampled(levene(x, y, "mean")),
        successful_sd_ratio=sampled(_successful_sd_ratio(a, b, arm, reference)),
        levene_successful=sampled(_test_successful_spread(a, b, arm, reference)),
        seed_correlation=_correlate_shared_seeds(arm, reference),
        caveats=tuple(find_caveats(arm, reference)),
    )


def successful_scores(cell: ArmCell) -> tuple[float, ...]:
    """Return the scores of the runs that did not fail."""
    return tuple(score for score, failed in zip(cell.scores, cell.verdicts, strict=True) if failed is False)


def _test_failures(a: ArmCell, b: ArmCell) -> TestResult:
    result = boschloo(a.failed, a.n_known, b.failed, b.n_known)
    unknown = [
        f"{cell.failed_unknown} of {cell.summary.n} runs of {cell.arm}" for cell in (a, b) if cell.failed_unknown
    ]
    if not unknown or result.p is not None:
        return result
    return replace(result, reason=f"whether a run failed is not known of {' and '.join(unknown)}")


def _why_no_successful_spread(a: ArmCell, b: ArmCell) -> str | None:
    if a.failed_unknown or b.failed_unknown:
        return "whether a run failed is not known of all runs"
    return None if a.failed or b.failed else "no run failed, so the spread of all runs says it"


def _test_successful_spread(x: Sequence[float], y: Sequence[float], a: ArmCell, b: ArmCell) -> TestResult:
    result = levene(x, y, "median")
    reason = _why_no_successful_spread(a, b)
    return replace(result, statistic=None, p=None, reason=reason) if reason else result


def _successful_sd_ratio(x: Sequence[float], y: Sequence[float], a: ArmCell, b: ArmCell) -> SdRatio:
    if reason := _why_no_successful_spread(a, b):
        return SdRatio(None, Interval("BCa", 0.95, None, None, reason), len(y), len(x), reason)
    return sd_ratio(y, x, fresh_generator())


def _correlate_shared_seeds(a: ArmCell, b: ArmCell) -> Correlation:
    scores = [dict(zip(cell.seeds, cell.scores, strict=True)) for cell in (a, b)]
    shared = [seed for seed in scores[0] if seed in scores[1]]
    return shared_seed_correlation([(scores[0][seed], scores[1][seed]) for seed in shared])


_ResultT = TypeVar("_ResultT", TestResult, SdRatio, Interval)


def withhold_if_stopped_early(result: _ResultT, *cells: ArmCell) -> _ResultT:
    """Return the result, or only a reason if runs of a cell were early-stopped because of their scores.

    The remaining runs of such an arm are its better ones, not a sample of it.
    """
    stopped_runs = [f"{cell.stopped} of {len(cell.run_ids)} runs of {cell.arm}" for cell in cells if cell.stopped]
    if not stopped_runs:
        return result
    reason = (
        f"{' and '.join(stopped_runs)} were stopped because of their scores, so the others are no sample of the arm"
    )
    match result:
        case SdRatio():
            no_interval = replace(result.interval, low=None, high=None)
            return replace(result, value=None, interval=no_interval, reason=reason)
        case Interval():
            return replace(result, low=None, high=None, reason=reason)
        case TestResult():
            return replace(result, statistic=None, p=None, reason=reason)


def is_falsely_stable(cell: ArmCell, others: Sequence[ArmCell]) -> bool:
    """Return whether most runs of an arm failed, but its std could pass for stability beside `others`.

    False if it has no std, or the largest one.
    """
    if cell.summary.std is None:
        return False
    stds = [other.summary.std for other in others if other is not cell and other.summary.std is not None]
    largest = bool(stds) and all(cell.summary.std > std for std in stds)
    return cell.mostly_failed and not largest


def describe_false_stability(*cells: ArmCell) -> str:
    """Return a clause on arms, one or more, whose small spread is that of failed runs."""
    counts = [f"{cell.failed} of {cell.n_known}{'' if i else ' runs'} of {cell.arm}" for i, cell in enumerate(cells)]
    return f"{join_with(counts)} failed, so a small spread is no stability ({FALSE_STABILITY})"


def find_caveats(a: ArmCell, b: ArmCell) -> Iterator[tuple[Caveat, str]]:
    """Yield the caveats of a test between two cells, each with its sentence."""
    for cell, other in ((a, b), (b, a)):
        if is_falsely_stable(cell, [other]):
            yield Caveat.MOSTLY_FAILED, describe_false_stability(cell)
    shared = len(set(a.run_ids) & set(b.run_ids))
    if shared and a.sources == b.sources:  # an imported run may have the same id as one of ours
        yield Caveat.SHARED_RUNS, f"the arms share {shared} runs, so they are not independent samples"
    if not scored_alike(a, b):
        directions = [[] if a.direction == b.direction else [cell.direction] for cell in (a, b)]
        kinds = [" / ".join(map(str, (*c.score_kind, *more))) for c, more in zip((a, b), directions, strict=True)]
        yield Caveat.UNLIKE_SCORES, f"unlike scores: {kinds[0]} against {kinds[1]}"


def scored_alike(a: ArmCell, b: ArmCell) -> bool:
    """Return whether two cells do not differ in how they are scored. Cells without scores fit all."""
    return not (a.metric and b.metric) or (a.score_kind, a.direction) == (b.score_kind, b.direction)


def describe_caveats(a: ArmCell, b: ArmCell) -> str | None:
    """Return the sentences on the caveats of a test between two cells, or None."""
    return "; ".join(sentence for _, sentence in find_caveats(a, b)) or None
