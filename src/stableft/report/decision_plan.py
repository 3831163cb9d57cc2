"""`stableft decide --plan`: the error, power and number of runs of a rule, simulated before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from stableft.catalog.tasks import task_title
from stableft.config.command_config import ScoreMeaning
from stableft.config.decide_rule import (
    ABOUT_TITLES,
    About,
    DecideRule,
    check_can_stop,
    check_scores,
    describe_rule,
    find_meaning,
)
from stableft.config.planned_run import ArmTask
from stableft.errors import UserError
from stableft.records.decision import SeedRun, collect_evidence, look_at_pairs, scores_of
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel
from stableft.report.forms.document import NO_VALUE, Column, DataTable, Paragraph, Picture, Report, Row, Value
from stableft.report.numbers_in_words import count_value, format_percent, interval_value, text_value
from stableft.stats import wilson_interval
from stableft.stats.power import seeds_needed
from stableft.stats.sequential import HIGHER, LOWER, SAME, LookPlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAN_PERMUTATIONS = 999
PLAN_FIGURE = "decided"
MOST_POWER = 0.999  # that a fixed number of runs is looked for

DrawArm = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]  # generator, [pairs, runs] -> values


@dataclass(frozen=True)
class PlannedClaim:
    """What a claim is about, and how runs of its arms are drawn. `draw_null`: of both, where they differ in nothing."""

    about: About
    name: str
    draw: tuple[DrawArm, DrawArm]
    draw_null: DrawArm
    meaning: ScoreMeaning | None = None  # None: scores are within 0 and 1


@dataclass(frozen=True)
class PlanResult:
    """Shares of draws, and runs of each arm. `decided[k]` are decided by look k, of `decided_null` none should be.

    `wrong` draws are better or worse where the arms differ in nothing, `wrong_same` are equivalent, or different the
    other way round, where they differ by the margin; None: the claim has no margin.
    """

    claim: PlannedClaim
    looks: tuple[int, ...]
    decided: tuple[float, ...]
    decided_null: tuple[float, ...]
    different: float
    equivalent: float
    wrong: int
    wrong_same: int | None
    draws: int
    mean_runs: float
    fixed_runs: int | None


def resample(values: np.ndarray) -> DrawArm:
    """Return a function that draws with replacement from the values of real runs."""
    return lambda rng, shape: rng.choice(values, shape)


def guess_failures(percent: float) -> DrawArm:
    return lambda rng, shape: (rng.random(shape) < percent / 100).astype(float)


def guess_scores(mean: float, sd: float) -> DrawArm:
    """Return a function that draws normal scores, given in points, as fractions within 0 and 1."""
    return lambda rng, shape: np.clip(rng.normal(mean / 100, sd / 100, shape), 0.0, 1.0)


def resampled_claims(
    rule: DecideRule, names: Sequence[str], runs: Mapping[ArmTask, Sequence[SeedRun]]
) -> list[PlannedClaim]:
    """Return the claims of a rule about arms whose runs are drawn from these, NaN scores as `decide` counts them."""
    places = [(arm, task) for arm, task in runs if arm != names[0]]
    claims = []
    for (arm, task), about in product(places, rule.about):
        pair = {name: [run for run in runs[name, task] if run.status] for name in (names[0], arm)}
        scores = scores_of(pair)
        check_scores(rule, scores)
        meaning = find_meaning(rule, scores)
        values = [
            collect_evidence(about, side, meaning, f"decide: arm {name!r} on {task}").values
            for name, side in pair.items()
        ]
        if min(map(len, values)) < 2:
            raise UserError(f"decide --plan: {names[0]!r} and {arm!r} need two runs each that did not crash")
        several = [arm] if len(names) > 2 else []
        several += [task_title(task)] if len({place[1] for place in places}) > 1 else []
        draw = (resample(values[0]), resample(values[1]))
        name = ", ".join([ABOUT_TITLES[about], *several])
        claims.append(PlannedClaim(about, name, draw, resample(np.concatenate(values)), meaning))
    return claims


def plan_claims(
    rule: DecideRule, claims: Sequence[PlannedClaim], sharing: int, most: int, draws: int, seed: int
) -> list[PlanResult]:
    """Return what the rule does with each claim, tested at the level of `sharing` claims that share alpha.

    `most` runs end looks after every run.

    Raises:
        UserError: no look can decide a claim.
    """
    check_can_stop(rule, sharing, [most] if rule.looks == "any" else rule.looks)
    return [_plan_claim(rule, claim, rule.alpha / sharing, most, draws, seed) for claim in claims]


def _draw_at_margin(
    claim: PlannedClaim, margin: float, rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values of two arms that differ by the margin alone, and in which pairs the second is the higher."""
    a, b = (claim.draw_null(rng, shape) for _ in range(2))
    if claim.about == "failures":
        rate = min(float(a.mean()), 1 - margin)
        a, b = (rng.random(shape) < rate).astype(float), (rng.random(shape) < rate + margin).astype(float)
    else:
        b = b + margin
    higher = rng.random(shape[0]) < 0.5
    return np.where(higher[:, np.newaxis], a, b), np.where(higher[:, np.newaxis], b, a), higher


def _plan_claim(rule: DecideRule, claim: PlannedClaim, alpha: float, most: int, draws: int, seed: int) -> PlanResult:
    looks = tuple(range(1, most + 1)) if rule.looks == "any" else tuple(rule.looks)
    points = getattr(rule.margin, claim.about, None)
    margin = None if points is None else points / 100
    known = rule.score or claim.meaning
    low, high = known.bounds if known else (0.0, 1.0)
    span = 1.0 if claim.about == "failures" else high - low
    shape = (draws, looks[-1])

    def outcomes(a: np.ndarray, b: np.ndarray, sizes: tuple[int, ...], after_every_run: bool) -> np.ndarray:
        plan = LookPlan(sizes, sizes[-1], alpha, rule.spending, margin if sizes == looks else None)
        return look_at_pairs(claim.about, plan, after_every_run, a, b, span, PLAN_PERMUTATIONS)

    rng = np.random.default_rng([seed, ("failures", "mean", "spread").index(claim.about)])
    a, b = (draw(rng, shape) for draw in claim.draw)
    found = outcomes(a, b, looks, rule.looks == "any")
    a_null, b_null = (claim.draw_null(rng, shape) for _ in range(2))
    null = outcomes(a_null, b_null, looks, rule.looks == "any")
    verdicts, ends = _first_outcomes(found, looks)
    null_verdicts, _ = _first_outcomes(null, looks)
    different = float(np.isin(verdicts, (HIGHER, LOWER)).mean())
    wrong_same = None
    if margin is not None:
        a_moved, b_moved, higher = _draw_at_margin(claim, margin, rng, shape)
        moved, _ = _first_outcomes(outcomes(a_moved, b_moved, looks, rule.looks == "any"), looks)
        wrong_same = int(((moved == SAME) | (moved == np.where(higher, LOWER, HIGHER))).sum())

    @cache
    def fixed_power(n: int) -> float:
        return float((outcomes(a[:, :n], b[:, :n], (n,), False) != 0).mean())

    return PlanResult(
        claim,
        looks,
        tuple(np.maximum.accumulate(found != 0, axis=1).mean(axis=0).tolist()),
        tuple(np.maximum.accumulate(np.isin(null, (HIGHER, LOWER)), axis=1).mean(axis=0).tolist()),
        different,
        float((verdicts == SAME).mean()),
        int(np.isin(null_verdicts, (HIGHER, LOWER)).sum()),
        wrong_same,
        draws,
        float(ends.mean()),
        seeds_needed(fixed_power, min(different, MOST_POWER), looks[-1]) if different > 2 * alpha else None,
    )


def _first_outcomes(outcomes: np.ndarray, looks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdict of each pair, 0 if undecided, and the runs of each arm that it took."""
    decided = (outcomes != 0).any(axis=1)
    first = np.where(decided, (outcomes != 0).argmax(axis=1), len(looks) - 1)
    return outcomes[np.arange(len(outcomes)), first], np.asarray(looks)[first]


PLAN_COLUMNS = (
    Column("claim", "claim"),
    Column("power", "better or worse", "percent"),
    Column("equivalent", "equivalent", "percent"),
    Column("wrong", "error", "percent"),
    Column("wrong_interval", "95 % Wilson", "percent", interval=True),
    Column("wrong_same", "error at the margin", "percent"),
    Column("wrong_same_interval", "95 % Wilson", "percent", interval=True),
    Column("runs", "runs of each"),
    Column("fixed", "fixed n"),
    Column("saved", "saved", "percent"),
)


def build_plan_report(
    rule: DecideRule, results: Sequence[PlanResult], sharing: int, between: Sequence[str], source: str
) -> Report:
    """Return the report of a plan. Its figure shows by how many runs claims are decided."""
    if not results:
        raise UserError("decide --plan: there is no claim to plan")
    rows = tuple(Row("claim", _plan_values(result)) for result in results)
    table = DataTable(PLAN_COLUMNS, rows)
    of_margins = ("equivalent", "wrong_same", "wrong_same_interval")
    keys = [column.key for column in PLAN_COLUMNS if rule.margin or column.key not in of_margins]
    first = results[0]
    notes = [
        f"{first.draws:,} draws of {source}. Error: better or worse where the arms differ in nothing. Fixed n: runs of "
        "each arm with the same power at one look."
    ]
    if rule.margin:
        notes.append("Error at the margin: equivalent, or different the other way round, where they differ by it.")
    if sharing > 1:
        notes.append(f"{sharing} claims share alpha {rule.alpha:g}: each is tested at {rule.alpha / sharing:.2g}.")
    looks = DataTable.from_records(
        {"claim": result.claim.name, "runs": n, "decided": share, "wrong": wrong}
        for result in results
        for n, share, wrong in zip(result.looks, result.decided, result.decided_null, strict=True)
    )

    def draw(width: float | None = None) -> "Figure":
        return draw_panels([_plan_panel(result) for result in results], width=width)

    return Report(
        "decide-plan",
        f"Plan: {' '.join(between)}",
        (
            Paragraph(f"Rule: {describe_rule(rule, list(between))}."),
            table.view("decide-plan", keys, notes=notes),
            Picture(PLAN_FIGURE, "Share of draws in which each claim is decided, by runs of each arm"),
        ),
        data={"claims": table, "looks": looks},
        facts={"rule": rule.model_dump(mode="json", exclude_none=True)},
        figures={PLAN_FIGURE: draw},
    )


def _plan_values(result: PlanResult) -> dict[str, Value]:
    wrong = {"wrong": result.wrong, "wrong_same": result.wrong_same}
    errors = {key: None if k is None else wilson_interval(k, result.draws) for key, k in wrong.items()}
    shares = {key: None if k is None else k / result.draws for key, k in wrong.items()}
    saved = None if not result.fixed_runs else 1 - result.mean_runs / result.fixed_runs
    return {
        "claim": text_value(result.claim.name),
        "power": Value(format_percent(result.different), result.different),
        "equivalent": Value(format_percent(result.equivalent), result.equivalent),
        **{key: Value(format_percent(share), share) for key, share in shares.items()},
        **{
            f"{key}_interval": Value(NO_VALUE) if error is None else interval_value(error, lambda x: f"{100 * x:.1f}")
            for key, error in errors.items()
        },
        "runs": Value(f"{result.mean_runs:.1f}", result.mean_runs),
        "fixed": count_value(result.fixed_runs),
        "saved": Value(format_percent(saved), saved),
    }


def _plan_panel(result: PlanResult) -> CurvePanel:
    x = tuple(float(n) for n in result.looks)
    curves = (
        Curve("decided", x, result.decided),
        Curve("wrong, of arms that differ in nothing", x, result.decided_null, dashed=True),
    )
    title = result.claim.name
    return CurvePanel(title, "runs of each arm", "share of draws", curves, bottom=0.0, top=1.02, possible=(0.0, 1.0))
