"""Apply the rule of `decide` to runs: which claims are decided, at which look, and what came after the verdict.

The state is the records and the rule: every look is computed again from the runs in the order of their seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from stableft.config.command_config import CommandConfig, ScoreMeaning
from stableft.config.decide_rule import (
    About,
    ClaimScore,
    DecideRule,
    check_arms,
    check_can_stop,
    check_scores,
    find_meaning,
)
from stableft.config.planned_run import ArmTask
from stableft.config.run_config import Checkpoint
from stableft.errors import UserError
from stableft.records.failure import find_chance, is_run_failed
from stableft.records.run_record import AnyRunRecord, RunRecord
from stableft.stats.anytime import estimate_any, look_at_failures, look_at_means
from stableft.stats.sequential import (
    HIGHER,
    LOWER,
    PERMUTATIONS,
    SAME,
    LookEstimate,
    LookPlan,
    decide_claims,
    estimate_failures,
    estimate_mean,
    estimate_spread,
    exchange_labels,
    failure_boundary,
    first_look_that_can_stop,
    look_at_scores,
)
from stableft.stats.tests import boschloo

Verdict = Literal["better", "worse", "equivalent", "undecided", "withheld", "open"]
PERMUTATION_SEED = 0  # of all claims, so that a look gives the same answer whenever it is computed
PAIRS_AT_ONCE = 100  # with the same permutations, of which the error of a test depends a little
CRASH_ALPHA = 0.05  # crash rates that differ at this level withhold a verdict
SCORE_EXAMPLE = "{scale: 1, range: [0, 1], better: higher}"
RANGE_ROUNDING = 1e-9  # 1.0000000002 is a rounding error
WITHHELD = 3  # the outcome of such a look, beside those of `stats.sequential`


class SeedRun(NamedTuple):
    """One seed of an arm. `status` None: it has not run yet. Scores are on the metric's own scale, fractions."""

    status: Literal["finished", "crashed"] | None
    score: float | None = None
    failed: bool | None = None
    baseline: float | None = None  # score of the best constant prediction, which stands for a NaN score
    metric: str = ""
    meaning: ScoreMeaning | None = None  # of the score of a command


@dataclass(frozen=True)
class ArmEvidence:
    """The seeds of an arm in order up to the first that has not run. `values`: 1 or 0 for failures, else scores."""

    values: np.ndarray
    crashed: np.ndarray  # crashes among the seeds tried for as many values
    crashes: int  # among all of these seeds
    nans: int
    exhausted: bool  # every planned seed has run


@dataclass(frozen=True)
class ClaimDecision:
    """One claim: a quantity of an arm against that of the reference on a task.

    `n` runs of each arm were looked at. `estimate` is that of the deciding look or else of the last one so far; `level`
    the share of alpha it was tested at. `after` counts the runs of (reference, arm) that came after the verdict or the
    last look, and `after_difference` is what they alone give, which is no part of it.
    """

    about: About
    task: str
    arm: str
    reference: str
    verdict: Verdict
    n: int
    level: float
    looks: tuple[int, ...]
    next_look: int | None  # None: decided, or there is none
    estimate: LookEstimate | None
    crashed: tuple[int, int]  # of (reference, arm), up to the look; of all seeds if those of an arm are used up
    tried: tuple[int, int]
    nans: tuple[int, int]
    margin: float | None = None
    after: tuple[int, int] = (0, 0)
    after_difference: float | None = None
    passed: int = 0  # runs of each arm that no look may see otherwise: all of `n`, none if a look withheld its verdict
    first_possible: int | None = None  # the first look that can find a difference; None: any can

    @property
    def is_closed(self) -> bool:
        return self.verdict != "open"


@dataclass(frozen=True)
class Decision:
    """All claims of a rule. `between` names the reference and the arms compared with it."""

    rule: DecideRule
    between: tuple[str, ...]
    claims: tuple[ClaimDecision, ...]
    sharing: int | None = None  # how many claims share alpha, if more than these

    @property
    def is_closed(self) -> bool:
        return all(claim.is_closed for claim in self.claims)

    def wanted(self, ahead: bool) -> dict[ArmTask, int]:
        """Return how many runs that did not crash each arm needs for its next look, or for the one after it."""
        wanted: dict[ArmTask, int] = {}
        for claim in self.claims:
            if claim.next_look is not None:
                later = [look for look in claim.looks if look > claim.next_look]
                n = later[-1 if self.rule.looks == "any" else 0] if ahead and later else claim.next_look
                for arm in (claim.reference, claim.arm):
                    wanted[arm, claim.task] = max(n, wanted.get((arm, claim.task), 0))
        return wanted


def scores_of(runs: Mapping[str, Sequence[SeedRun]]) -> list[ClaimScore]:
    """Return the scores of the arms of which a run has one."""
    first = ((arm, next((run for run in own if run.metric), None)) for arm, own in runs.items())
    return [ClaimScore(arm, run.metric, run.meaning) for arm, run in first if run]


def find_worst(meaning: ScoreMeaning | None) -> float | None:
    """Return the worst score there is, or None if the range is not known."""
    return None if meaning is None else meaning.bounds[meaning.better == "lower"]


def as_seed_run(record: AnyRunRecord, checkpoint: Checkpoint) -> SeedRun:
    """Return what a record says to a claim. A run that is not done has not run yet.

    Raises:
        UserError: The run was stopped early because of its score.
    """
    if record.status == "stopped":
        raise UserError(
            f"decide: run {record.run_id} was stopped early as hopeless, so its arm is no sample to decide by"
        )
    if record.status != "finished":
        return SeedRun("crashed" if record.status == "crashed" else None)
    own = isinstance(record, RunRecord)
    split = record.config.reported_split if own else record.split
    metric = record.config.task.metric if own else record.metric
    return SeedRun(
        "finished",
        record.score(checkpoint, split, metric),
        is_run_failed(record, checkpoint, split, metric),
        find_chance(record, split, metric).constant,
        metric,
        score_meaning(record),
    )


def score_meaning(record: AnyRunRecord) -> ScoreMeaning | None:
    """Return what the score of a command means; of other runs, the metric says it."""
    return record.config.score if isinstance(record, RunRecord) and isinstance(record.config, CommandConfig) else None


def apply_rule(rule: DecideRule, runs: Mapping[ArmTask, Sequence[SeedRun]], with_estimates: bool = True) -> Decision:
    """Return the claims of a rule about these runs, by arm and task, each in the order of its seeds.

    Estimates take a second, and verdicts do not need them.

    Raises:
        UserError: An arm is missing, scores cannot be compared or have no known scale, it is not known whether runs
            failed, or no look can decide a claim.
    """
    names = list(dict.fromkeys(arm for arm, _ in runs))
    between = tuple(rule.between or names)
    check_arms(between, names)
    tasks = list(dict.fromkeys(task for _, task in runs))
    places = [
        (task, arm) for task in tasks for arm in between[1:] if (arm, task) in runs and (between[0], task) in runs
    ]
    if not places:
        raise UserError(f"decide: {' and '.join(between)} have no task in common")
    tests = [
        _ClaimTest(rule, about, task, between[0], arm, runs[between[0], task], runs[arm, task])
        for task, arm in places
        for about in rule.about
    ]
    if rule.looks != "any":
        check_can_stop(rule, len(tests), rule.looks)
    passes_on = [rule.share == "graph" and test.margin is None for test in tests]
    looks = max(len(test.possible) for test in tests)
    verdicts, levels = decide_claims([test.outcomes for test in tests], rule.alpha, looks, passes_on)
    claims = (
        test.describe(verdict, level, with_estimates)
        for test, verdict, level in zip(tests, verdicts, levels, strict=True)
    )
    return Decision(rule, between, tuple(claims))


class _ClaimTest:
    """A claim with the evidence of its two arms, tested at whatever level it is given."""

    def __init__(
        self,
        rule: DecideRule,
        about: About,
        task: str,
        reference: str,
        arm: str,
        a: Sequence[SeedRun],
        b: Sequence[SeedRun],
    ) -> None:
        self.rule, self.task, self.names = rule, task, (reference, arm)
        self.about: About = about
        scores = scores_of(dict(zip(self.names, (a, b), strict=True)))
        check_scores(rule, scores)
        points = getattr(rule.margin, about, None)
        self.meaning = find_meaning(rule, scores)
        if about == "mean" and scores and not self.meaning and (points is not None or rule.looks == "any"):
            key = "looks: any" if points is None else "margin"
            raise UserError(
                f"decide: {key} needs the scale of the score {scores[0].metric!r}, which is not known; add score: "
                f"{SCORE_EXAMPLE}"
            )
        low, high = self.meaning.bounds if self.meaning else (0.0, 1.0)
        self.span = 1.0 if about == "failures" else high - low
        self.margin = None if points is None else points / 100
        self.arms = [
            collect_evidence(about, runs, self.meaning, f"decide: arm {name!r} on {task}")
            for name, runs in zip(self.names, (a, b), strict=True)
        ]
        planned = min(len(a), len(b))
        self.possible = tuple(range(1, planned + 1)) if rule.looks == "any" else tuple(rule.looks)
        self.total = self.possible[-1] if self.possible else 0
        n = min(len(arm.values) for arm in self.arms)
        self.looks = tuple(look for look in self.possible if look <= n)
        # An arm whose seeds are used up by crashes cannot reach the looks beyond its values. There is no look at what
        # there is: it would spend error that the planned looks need if the crashed seeds are tried again.
        most = min((len(arm.values) for arm in self.arms if arm.exhausted), default=self.total)
        last = max((look for look in self.possible if look <= most), default=most)
        self.ended_by_crashes = most < self.total <= planned and n >= last
        self.is_last = self.ended_by_crashes or (bool(self.looks) and self.looks[-1] == self.total)
        self.outcomes = cache(self._outcomes)

    def plan(self, level: float) -> LookPlan:
        return LookPlan(self.looks, self.total, level, self.rule.spending, self.margin)

    def _values(self) -> list[np.ndarray]:
        return [arm.values[: self.looks[-1]] for arm in self.arms]

    def _outcomes(self, level: float) -> tuple[int, ...]:
        """Return the outcome of every look so far, tested at this level from the start."""
        if not self.looks:
            return ()
        a, b = self._values()
        rows = look_at_pairs(
            self.about, self.plan(level), self.rule.looks == "any", a[np.newaxis], b[np.newaxis], self.span
        )
        return tuple(
            WITHHELD if outcome and self._crash_rates_differ(n) else int(outcome)
            for n, outcome in zip(self.looks, rows[0], strict=True)
        )

    def _crashes(self, n: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return how many runs of (reference, arm) crashed and were tried for n values, or in all if crashes end it.

        Crashes that used up the seeds of an arm come after its last value, and it may have no value.
        """
        if self.ended_by_crashes and n == (self.looks[-1] if self.looks else 0):
            a, b = (arm.crashes for arm in self.arms)
            return (a, b), (len(self.arms[0].values) + a, len(self.arms[1].values) + b)
        a, b = (int(arm.crashed[n]) for arm in self.arms)
        return (a, b), (n + a, n + b)

    def _crash_rates_differ(self, n: int) -> bool:
        (a, b), (tried_a, tried_b) = self._crashes(n)
        p = boschloo(a, tried_a, b, tried_b).p if a or b else None
        return p is not None and p < CRASH_ALPHA

    def describe(self, verdict: tuple[int, int] | None, level: float, with_estimate: bool) -> ClaimDecision:
        """Return the claim, given the look and outcome that decided it, if any, and its level."""
        look = len(self.looks) - 1 if verdict is None else verdict[0]
        n = self.looks[look] if self.looks else 0
        more = [n_next for n_next in self.possible if n_next > n]
        name: Verdict = "undecided" if self.is_last else "open"
        if verdict:
            name = self._name(verdict[1])
        elif self.ended_by_crashes and self._crash_rates_differ(n):
            name = "withheld"
        ended = bool(self.looks) and name != "open"
        after = tuple(len(arm.values) - n for arm in self.arms) if ended else (0, 0)
        late = [arm.values[n:] for arm in self.arms]
        crashed, tried = self._crashes(n)
        return ClaimDecision(
            about=self.about,
            task=self.task,
            arm=self.names[1],
            reference=self.names[0],
            verdict=name,
            n=n,
            level=level,
            looks=self.possible,
            next_look=more[0] if name == "open" and more else None,
            estimate=self._estimate(look, level) if with_estimate and self.looks else None,
            crashed=crashed,
            tried=tried,
            nans=(self.arms[0].nans, self.arms[1].nans),
            margin=self.margin,
            after=(after[0], after[1]),
            after_difference=_compare(self.about, *late) if ended and min(map(len, late)) else None,
            # Crashed seeds within a withheld look may be tried again: it had found a difference, so whatever they give,
            # no claim is decided wrongly that would not have been. All other looks must stay as they were.
            passed=0 if verdict and verdict[1] == WITHHELD else n,
            first_possible=self._first_possible(level),
        )

    def _first_possible(self, level: float) -> int | None:
        if self.rule.looks == "any":
            return None
        return first_look_that_can_stop(self.about, LookPlan(self.possible, self.total, level, self.rule.spending))

    def _name(self, outcome: int) -> Verdict:
        if outcome == WITHHELD:
            return "withheld"
        if outcome == SAME:
            return "equivalent"
        higher_is_better = self.about == "mean" and not (self.meaning and self.meaning.better == "lower")
        return "better" if (outcome == HIGHER) == higher_is_better else "worse"

    def _estimate(self, look: int, level: float) -> LookEstimate:
        a, b = self._values()
        if self.rule.looks == "any":
            return estimate_any(a, b, level, self.span, self.looks[look], self.about == "failures", self.margin)
        if self.about == "failures":
            found = estimate_failures(a.astype(int), b.astype(int), self.plan(level), look)
        else:
            estimate = estimate_mean if self.about == "mean" else estimate_spread
            found = estimate(a, b, self.plan(level), _exchanged_labels(self.total), look)
        # The p-value is that of paths that end here by the test for a difference, or at the last planned look.
        ends_here = found.outcome in (HIGHER, LOWER) or (found.outcome != SAME and self.looks[look] == self.total)
        return found if ends_here else replace(found, p=None)


@lru_cache(maxsize=4)
def _exchanged_labels(runs: int, resamples: int = PERMUTATIONS, part: int = 0) -> np.ndarray:
    return exchange_labels(
        runs, resamples, np.random.default_rng([PERMUTATION_SEED, part] if part else PERMUTATION_SEED)
    )


def look_at_pairs(
    about: About,
    plan: LookPlan,
    after_every_run: bool,
    a: np.ndarray,
    b: np.ndarray,
    span: float,
    resamples: int = PERMUTATIONS,
) -> np.ndarray:
    """Return the outcomes of every look [pairs, looks] at many pairs of arms [pairs, runs]: 1 or 0 failed, or scores.

    `span` is the width of the range of scores, which only looks after every run need.
    """
    if after_every_run:
        if about == "failures":
            return look_at_failures(a, b, plan.alpha, plan.margin)
        return look_at_means(a, b, plan.alpha, span, plan.margin)
    if about == "failures":
        return failure_boundary(plan).look_up(a.astype(int), b.astype(int))
    outcomes = []
    for part in range(math.ceil(len(a) / PAIRS_AT_ONCE)):
        rows = slice(part * PAIRS_AT_ONCE, (part + 1) * PAIRS_AT_ONCE)
        signs = _exchanged_labels(plan.total, resamples, part)
        outcomes.append(look_at_scores(about, a[rows], b[rows], plan, signs)[0])
    return np.vstack(outcomes)


def _compare(about: About, a: np.ndarray, b: np.ndarray) -> float | None:
    if about != "spread":
        return float(b.mean() - a.mean())
    return float(a.std(ddof=1) / b.std(ddof=1)) if min(len(a), len(b)) > 1 and np.ptp(b) else None


def collect_evidence(about: About, runs: Sequence[SeedRun], meaning: ScoreMeaning | None, label: str) -> ArmEvidence:
    """Return the values of the runs in order, without crashed ones, up to the first that has not run."""
    values: list[float] = []
    crashed, crashes, nans, exhausted = [0], 0, 0, True
    for run in runs:
        if run.status is None:
            exhausted = False
            break
        if run.status == "crashed":
            crashes += 1
            continue
        if about == "failures":
            if run.failed is None:
                raise UserError(f"{label}: whether its runs failed is not known, because the chance level is not")
            values.append(float(run.failed))
        else:
            values.append(_usable_score(run, meaning, label))
            nans += run.score is not None and not np.isfinite(run.score)
        crashed.append(crashes)
    return ArmEvidence(np.array(values), np.array(crashed), crashes, nans, exhausted)


def _usable_score(run: SeedRun, meaning: ScoreMeaning | None, label: str) -> float:
    """Return the score of a run. A NaN counts as the score of the best constant prediction: no run is left out."""
    if run.score is None:
        raise UserError(f"{label}: a finished run has no score")
    if np.isfinite(run.score):
        low, high = meaning.bounds if meaning else (-math.inf, math.inf)
        if not low - RANGE_ROUNDING <= run.score <= high + RANGE_ROUNDING:
            raise UserError(
                f"{label}: a score is {run.score:g}, which is not in the range of {run.metric or 'the score'}, {low:g} "
                f"to {high:g}; give its range as score: {SCORE_EXAMPLE}"
            )
        return run.score
    value = run.baseline if run.baseline is not None and np.isfinite(run.baseline) else find_worst(meaning)
    if value is None:
        raise UserError(
            f"{label}: a score is NaN, and neither a baseline nor the range of scores says what it counts as; "
            f"add score: {SCORE_EXAMPLE}"
        )
    return value
