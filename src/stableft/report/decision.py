"""`stableft decide`, and a sweep with a rule: verdicts, with p-values and intervals adjusted for the looks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stableft.catalog.tasks import task_title
from stableft.config.command_config import ScoreMeaning
from stableft.config.decide_rule import ABOUT_TITLES, DecideRule, describe_points, describe_rule
from stableft.config.planned_run import ArmTask
from stableft.errors import UserError
from stableft.records.decision import ClaimDecision, Decision, SeedRun, apply_rule, as_seed_run, score_meaning
from stableft.records.run_record import AnyRunRecord, RunRecord
from stableft.records.stored_records import read_all_stored_records, read_records_files
from stableft.report.artifact import ReportedCheckpoint
from stableft.report.compare_runs import RowAndRecord, select_arm_pair
from stableft.report.forms.document import (
    NO_VALUE,
    Bullets,
    Column,
    DataTable,
    Heading,
    Paragraph,
    Report,
    ReportBlock,
    ReportTable,
    Row,
    Value,
    make_label,
)
from stableft.report.numbers_in_words import count_value, effect_value, format_p, p_value, text_value
from stableft.report.runs import ArtifactRuns
from stableft.stats.sequential import SAME
from stableft.text import join_with

DECISION_COLUMNS = (
    Column("arm", "arm"),
    Column("task", "task"),
    Column("about", "about"),
    Column("verdict", "verdict"),
    Column("n", "runs of each"),
    Column("shown_effect", "against the reference [interval]", for_readers=True),
    Column("p", "p"),
    Column("level", "level"),
    Column("reference"),
    Column("effect"),
    Column("interval", interval=True),
    *(Column(key) for key in ("interval_level", "interval_method", "next_look", "first_look_that_can_stop")),
    *(Column(key) for key in ("crashed_reference", "crashed_arm", "tried_reference", "tried_arm")),
    *(Column(key) for key in ("after_reference", "after_arm", "effect_after")),
)
NO_OTHER_TEST = "No other test is made of these arms: one that ignores the looks would not keep its error."
SHOWN_COLUMNS = ("arm", "task", "about", "verdict", "n", "shown_effect", "p", "level")


def decide_from_records(
    arms: Sequence[str],
    rule: DecideRule | None,
    results: Path,
    files: Sequence[Path],
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    checkpoint: ReportedCheckpoint = "recipe",
) -> tuple[Decision, bool]:
    """Return the claims about stored runs, in the order of their seeds, and whether the rule was stated before them.

    The first arm is the reference. Without a rule, it is the one that the records of these arms keep. All claims of a
    rule share its alpha, whichever are asked for.

    Raises:
        UserError: An arm or task is unknown, the arms are not comparable, or there is no rule.
    """
    runs, rules = collect_seed_runs(arms, results, files, task, metric, where, checkpoint)
    if rule is None:
        rule = next((one for one in rules if one), None)
        if rule is None or any(one and one != rule for one in rules):
            raise UserError(
                "decide: these records keep no common rule; give one, such as --rule about=failures --rule looks=any"
            )
    asked = {place[1] for place in runs}
    tasks, stated = {*asked}, False
    family = rule.between if rule.between and rule.between[0] == arms[0] and {*arms} <= {*rule.between} else [*arms]
    stored = rules[0] if rules[0] and all(one == rules[0] for one in rules) else None
    records = [
        record
        for record in (read_records_files(files) if files else read_all_stored_records(results))
        if record.arm in family or (stored and isinstance(record, RunRecord) and record.decide == stored)
    ]
    if stored and _is_same_but_for_arms(rule, stored):
        kept = [record for record in records if isinstance(record, RunRecord) and record.decide == stored]
        names = stored.between or [*dict.fromkeys(record.arm for record in kept)]
        # Without `between`, the reference is the sweep's first arm, which records do not tell.
        same_reference = names[0] == arms[0] if stored.between else len(names) == 2
        if same_reference and {*arms} <= {*names} and rule.between in (None, stored.between, names):
            family, records = names if stored.between else [*arms], [*kept]
            # A claim about other scores than the recipe's, or about some of the runs, is not the one that was stated.
            scored_as_planned = all(checkpoint in ("recipe", record.report) for record in kept if record.arm in arms)
            stated = metric is None and not where and scored_as_planned
            tasks |= {record.config.data.task for record in kept if record.arm == family[0]}
    places = {(record.arm, _task_of(record)) for record in records}
    for one in sorted(tasks):
        for other in family[1:]:
            # An arm that has runs of other tasks alone is in no claim on this one.
            if (other, one) in runs or ((other, one) not in places and other in {arm for arm, _ in places}):
                continue
            pair = (family[0], other)
            try:
                found, _ = collect_seed_runs(pair, results, files, one, metric, where, checkpoint, records)
            except UserError:  # its share of alpha is kept back
                found, stated = {(name, one): [] for name in pair}, False
            runs = found | runs
    decision = apply_rule(rule.model_copy(update={"between": family}), runs)
    claims = tuple(claim for claim in decision.claims if claim.arm in arms and claim.task in asked)
    return replace(decision, between=tuple(arms), claims=claims, sharing=len(decision.claims)), stated


def _task_of(record: AnyRunRecord) -> str:
    return record.config.data.task if isinstance(record, RunRecord) else record.task


def _is_same_but_for_arms(a: DecideRule, b: DecideRule) -> bool:
    return a.model_copy(update={"between": None}) == b.model_copy(update={"between": None})


def collect_seed_runs(
    arms: Sequence[str],
    results: Path,
    files: Sequence[Path],
    task: str | None,
    metric: str | None,
    where: Sequence[str],
    checkpoint: ReportedCheckpoint,
    records: Sequence[AnyRunRecord] | None = None,
) -> tuple[dict[ArmTask, Sequence[SeedRun]], list[DecideRule | None]]:
    """Return the runs of comparable arms in the order of their seeds, and the rules that their records keep."""
    entries: dict[ArmTask, Sequence[RowAndRecord]] = {}
    for other in arms[1:]:
        try:
            pair = select_arm_pair((arms[0], other), results, files, task, metric, where, checkpoint, records)
        except UserError as error:
            raise UserError(str(error).replace("compare: ", "decide: ", 1)) from None
        entries |= {(name, pair.task): found for name, found in zip(pair.names, pair.arms, strict=True)}
    stored = (entry.record for found in entries.values() for entry in found)
    rules = [record.decide if isinstance(record, RunRecord) else None for record in stored]
    return _in_seed_order(entries), rules


def collect_all_tasks(
    arms: Sequence[str],
    results: Path,
    files: Sequence[Path],
    task: str | None,
    metric: str | None,
    where: Sequence[str],
    checkpoint: ReportedCheckpoint,
) -> dict[ArmTask, Sequence[SeedRun]]:
    """Return the runs of the first arm and of those compared with it, on one task or else on all that they share."""
    tasks: dict[str, set[str]] = {arm: set() for arm in arms}
    for record in read_records_files(files) if files else read_all_stored_records(results):
        tasks.get(record.arm, set()).add(_task_of(record))
    runs: dict[ArmTask, Sequence[SeedRun]] = {}
    for other in arms[1:]:
        for one in [task] if task else sorted(tasks[arms[0]] & tasks[other]) or [None]:
            runs |= collect_seed_runs((arms[0], other), results, files, one, metric, where, checkpoint)[0]
    return runs


def _in_seed_order(entries: Mapping[ArmTask, Sequence[RowAndRecord]]) -> dict[ArmTask, Sequence[SeedRun]]:
    """Return the runs in the order of their seed numbers.

    A seed that another arm has on the task has not run yet: later ones must not move up while it trains. Arms that have
    no seed in common have seeds of their own.
    """
    by_seed = {
        place: {(entry.row["seed_init"], entry.row["seed_data"]): entry for entry in found}
        for place, found in entries.items()
    }
    runs: dict[ArmTask, Sequence[SeedRun]] = {}
    for place, own in by_seed.items():
        others = [seeds for (_, task), seeds in by_seed.items() if task == place[1] and seeds.keys() & own.keys()]
        seeds = sorted({seed for found in (own, *others) for seed in found})
        runs[place] = [_as_reported(own[seed]) if seed in own else SeedRun(None) for seed in seeds]
    return runs


def _as_reported(entry: RowAndRecord) -> SeedRun:
    row, record = entry
    if row["status"] != "finished" or not row["scored"]:
        return as_seed_run(record, row["checkpoint"])
    return SeedRun(
        "finished", row["score"], _known(row["failed"]), row["baseline"], row["metric"], score_meaning(record)
    )


def _known(failed: object) -> bool | None:
    return failed if isinstance(failed, bool) else None


def put_claims_first(report: Report, runs: ArtifactRuns) -> Report:
    """Return the report of a sweep with a rule, below the rule and what it says of the claims."""
    assert runs.rule
    found: dict[ArmTask, Sequence[SeedRun]] = {}
    for place, planned in runs.seeds.items():
        rows = {(row["seed_init"], row["seed_data"]): row for row in runs.by_arm_task.get(place, [])}
        command = runs.commands.get(place)
        found[place] = [_from_row(rows.get(pair), command and command.score) for pair in planned]
    try:
        decision = apply_rule(runs.rule, found)
    except UserError as error:
        reason = Paragraph(f"Rule: {describe_rule(runs.rule)}. Its claims cannot be decided: {error}.")
        return replace(report, blocks=(reason, *report.blocks), brief=(reason, *report.brief) if report.brief else ())
    blocks = tuple(
        replace(block, notes=(*block.notes, NO_OTHER_TEST)) if isinstance(block, ReportTable) else block
        for block in decision_blocks(decision, runs.rule_was_stated)
    )
    shown = tuple(replace(block, notes=()) if isinstance(block, ReportTable) else block for block in blocks)
    tables = tuple(block for block in blocks if isinstance(block, ReportTable))
    return replace(
        report,
        blocks=(*blocks, *report.blocks),
        brief=(*shown, Paragraph("How claims are tested: --tests"), *report.brief) if report.brief else (),
        tests=(*tables, *report.tests),
        data={**report.data, "claims": decision_table(decision)},
        facts={**report.facts, "rule": runs.rule.model_dump(mode="json", exclude_none=True)},
    )


def _from_row(row: Mapping | None, meaning: ScoreMeaning | None) -> SeedRun:
    if row is None or row["status"] not in ("finished", "crashed"):
        return SeedRun(None)
    if row["status"] == "crashed":
        return SeedRun("crashed")
    return SeedRun("finished", row["score"], _known(row["failed"]), row["baseline"], row["metric"], meaning)


def build_decision_report(decision: Decision, rule_was_stated: bool) -> Report:
    """Return the report of claims about stored runs, whose rule was stated before them or not."""
    names = " ".join(decision.between)
    blocks = decision_blocks(decision, rule_was_stated)
    return Report(
        make_label(f"decide-{'-'.join(decision.between)}"),
        f"Decide: {names}",
        blocks,
        data={"claims": decision_table(decision)},
        facts={"rule": decision.rule.model_dump(mode="json", exclude_none=True)},
    )


def decision_blocks(decision: Decision, rule_was_stated: bool) -> tuple[ReportBlock, ...]:
    """Return the rule, the claims in words, their table and what came after the verdicts."""
    table = decision_table(decision)
    several = len({claim.task for claim in decision.claims}) > 1
    keys = [key for key in SHOWN_COLUMNS if several or key != "task"]
    words = [describe_claim(claim) for claim in decision.claims]
    shown = table.view(make_label(f"decide-{'-'.join(decision.between)}"), keys, notes=_table_notes(decision))
    # What came after of the reference alone is the same in every claim against it.
    after = list(dict.fromkeys(text for claim in decision.claims if (text := _describe_after(claim))))
    when = "stated before the runs" if rule_was_stated else "not stated before all of the runs"
    return (
        Paragraph(f"Rule, {when}: {describe_rule(decision.rule, decision.rule.between or list(decision.between))}."),
        *(Paragraph(text) for text in words),
        shown,
        *((Heading("Seeds after the end of a claim"), Bullets(tuple(after))) if after else ()),
    )


def decision_table(decision: Decision) -> DataTable:
    return DataTable(DECISION_COLUMNS, tuple(Row("claim", _claim_values(claim)) for claim in decision.claims))


def _claim_values(claim: ClaimDecision) -> dict[str, Value]:
    estimate = claim.estimate
    plain = {
        "reference": claim.reference,
        "effect": estimate and estimate.difference,
        "interval": None
        if estimate is None or estimate.interval.low is None
        else [estimate.interval.low, estimate.interval.high],
        "interval_level": estimate and estimate.interval.level,
        "interval_method": estimate and estimate.interval.method,
        "next_look": claim.next_look,
        "first_look_that_can_stop": claim.first_possible,
        "crashed_reference": claim.crashed[0],
        "crashed_arm": claim.crashed[1],
        "tried_reference": claim.tried[0],
        "tried_arm": claim.tried[1],
        "after_reference": claim.after[0],
        "after_arm": claim.after[1],
        "effect_after": claim.after_difference,
    }
    return {
        "arm": text_value(claim.arm),
        "task": Value(task_title(claim.task), claim.task),
        "about": Value(ABOUT_TITLES[claim.about], claim.about),
        "verdict": text_value(claim.verdict),
        "n": count_value(claim.n),
        "shown_effect": Value(_effect_text(claim)),
        "p": p_value(estimate and estimate.p),
        "level": Value(f"{claim.level:.2g}", claim.level),
        **{key: Value(data=value) for key, value in plain.items()},
    }


def _effect_text(claim: ClaimDecision) -> str:
    estimate = claim.estimate
    if estimate is None or estimate.difference is None:
        return NO_VALUE
    if claim.about != "spread":
        return f"{effect_value(estimate.difference, estimate.interval, '').text} points"
    low, high = estimate.interval.low, estimate.interval.high
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"SD ref/arm {estimate.difference:.2f}{ends}"


def describe_claim(claim: ClaimDecision) -> str:
    """Return the verdict of a claim in one or two sentences."""
    subject = f"{claim.arm} against {claim.reference} on {task_title(claim.task)}: the {ABOUT_TITLES[claim.about]}"
    runs = f"{claim.n} runs of each"
    estimate = claim.estimate
    p = f" (p = {format_p(estimate.p)} at level {claim.level:.2g})" if estimate and estimate.p is not None else ""
    crashes = f" Crashed: {claim.crashed[1]} of {claim.tried[1]} runs against {claim.crashed[0]} of {claim.tried[0]}."
    crashes = crashes if any(claim.crashed) else ""
    match claim.verdict:
        case "better" | "worse":
            text = f"{subject} is {claim.verdict}, decided after {runs}{p}."
        case "equivalent":
            text = f"{subject} is equivalent within {describe_points(100 * (claim.margin or 0))}, decided after {runs}."
        case "undecided" if claim.n < claim.looks[-1]:
            after = f"after {runs}, " if claim.n else ""
            further = next(look for look in claim.looks if look > claim.n)
            text = (
                f"{subject} is undecided {after}because too few runs finished; the look at {further} needs more seeds."
            )
        case "undecided":
            text = f"{subject} is undecided after the last look, at {runs}{p}."
        case "withheld":
            text = f"{subject}: the verdict is withheld after {runs}, because the arms crash unequally often."
        case _:
            where = f" after {runs}{p}" if claim.n else ""
            text = f"{subject} is open{where}; the next look is at {claim.next_look} runs of each."
    return text + crashes


def _describe_after(claim: ClaimDecision) -> str | None:
    """Return what the runs after a verdict or the last look give alone, or None without any."""
    if not any(claim.after):
        return None
    more = [(n, name) for n, name in zip(claim.after[::-1], (claim.arm, claim.reference), strict=True) if n]
    (n, name), *other = more
    counts = " and ".join([f"{n} more run{'s' * (n > 1)} of {name}", *(f"{n} of {name}" for n, name in other)])
    is_one = sum(claim.after) == 1
    effect = claim.after_difference
    if effect is None:
        shown = ""
    elif claim.about == "spread":
        shown = f"; alone they give an SD ref/arm of {effect:.2f}"
    else:
        shown = f"; alone they give {100 * effect:+.1f} points"
    where = f"{task_title(claim.task)}, {ABOUT_TITLES[claim.about]}"
    end = "last look" if claim.verdict in ("undecided", "withheld") else "verdict"
    return f"{where}: {counts} came after the {end} and {'is' if is_one else 'are'} no part of it{shown}."


def _table_notes(decision: Decision) -> list[str]:
    claims, rule = decision.claims, decision.rule
    notes = ["p-values are adjusted for the looks. A claim with p at most its level of alpha is decided, or withheld."]
    if rule.looks != "any" and any(claim.estimate and claim.estimate.p is None for claim in claims):
        notes.append("An open or equivalent claim has no p: it is valid only where the test for a difference ends.")
        if any(
            claim.verdict in ("undecided", "withheld") and claim.estimate and claim.estimate.p is None
            for claim in claims
        ):
            notes.append("Nor has one that crashes end before its last look.")
    methods = {
        "failures": "failure rates by the exact distribution over paths of tables that Fisher's p orders, however many "
        "runs fail",
        "mean": "means by exchanging labels within pairs of runs, exact if the arms differ in nothing or are symmetric",
        "spread": "spread by exchanging the deviations from each arm's median within pairs, which is approximate",
    }
    if rule.looks == "any":
        methods = {
            "failures": "failure rates by a two-sample e-process (Turner, Ly and Gruenwald)",
            "mean": "means by betting confidence sequences (Waudby-Smith and Ramdas)",
        }
    notes.append(f"Tests: {'; '.join(methods[about] for about in rule.about)}.")
    shown = [(claim.about, claim.estimate.interval) for claim in claims if claim.estimate]
    for about in rule.about:
        kinds = {f"{one.method} at {100 * one.level:.3g} %" for of, one in shown if of == about and one.low is not None}
        holds = "hold at every look" if about == "mean" else "are approximate"
        notes += [f"Intervals of the {ABOUT_TITLES[about]} {holds}: {'; '.join(sorted(kinds))}."] if kinds else []
    if reasons := {one.reason for _, one in shown if one.reason}:
        notes.append(f"Claims without an interval: {'; '.join(sorted(reasons))}.")
    if any(claim.estimate and claim.estimate.outcome == SAME for claim in claims):
        notes.append("Of an equivalent claim, the interval is that of the two one-sided tests, at 1 - 2 x their level.")
    if any(claim.verdict in ("better", "worse") for claim in claims):
        notes.append("Of a difference that is decided, an interval may end at no difference, which is no part of it.")
    late = {claim.first_possible for claim in claims if claim.first_possible and claim.first_possible != claim.looks[0]}
    notes += (
        [f"The first look that can find a difference is at {join_with(sorted(map(str, late)))} runs of each."]
        if late
        else []
    )
    if any(sum(claim.nans) for claim in claims):
        notes.append("A NaN score counts as the score of the best constant prediction: no run is left out.")
    sharing = decision.sharing or len(claims)
    if sharing > 1:
        how = "a decided one passes its share on (Maurer and Bretz)" if rule.share == "graph" else "Bonferroni"
        notes.append(f"{sharing} claims share alpha {rule.alpha:g}: {how}.")
    return notes
