"""Claims about stored runs: the order of seeds, and whether and at which level the rule was stated before the runs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.decided_sweeps import make_scored_record
from support.sweep_records import make_run, save_record

from stableft.config.decide_rule import DecideRule
from stableft.report.build import build_report
from stableft.report.decision import build_decision_report, decide_from_records
from stableft.report.forms.terminal import report_to_text
from stableft.report.runs import compare_against, load_runs_from_file

RULE = DecideRule(about=["failures"], looks=[4, 8])
THREE = RULE.model_copy(update={"between": ["a", "b", "c"]})


def store(
    results: Path,
    rule: DecideRule | None,
    arms: str = "abc",
    tasks: Sequence[str] = ("rte",),
    seeds: Sequence[int] = range(1, 9),
) -> None:
    """Store runs of which those of `a` fail."""
    for i, arm in enumerate(arms):
        for task in tasks:
            for seed in seeds:
                run = replace(make_run(seed, arm, task, batch_size=16 + i), decide=rule)
                save_record(results, make_scored_record(run, math.nan if arm == "a" else 0.7))


def export(results: Path) -> Path:
    """Write the records to one file and return it."""
    records = results / "r.jsonl"
    records.write_text("".join(file.read_text() for file in sorted(results.glob("runs/*/record.json"))))
    return records


def decide(results: Path, arms: str, rule: DecideRule | None = None, **options):
    return decide_from_records([*arms], rule, results, [], **options)


def test_two_arms_of_a_rule_over_three_are_tested_at_their_share(tmp_path):
    store(tmp_path, THREE)
    for rule in (None, THREE, RULE):
        decision, stated = decide(tmp_path, "ab", rule)
        assert stated
        (claim,) = decision.claims
        assert (claim.arm, claim.level, claim.verdict) == ("b", 0.025, "better")
    text = " ".join(report_to_text(build_decision_report(decision, stated)).split())
    assert "Rule, stated before the runs: b and c against a: the failure rate" in text
    assert "2 claims share alpha 0.05" in text


def test_all_tasks_under_a_rule_share_alpha(tmp_path):
    store(tmp_path, THREE, tasks=("rte", "mrpc"))
    decision, stated = decide(tmp_path, "ab", task="rte")
    assert stated
    assert [(claim.arm, claim.task, claim.level) for claim in decision.claims] == [("b", "rte", 0.0125)]
    assert len(decide(tmp_path, "abc", task="rte")[0].claims) == 2


@pytest.mark.parametrize(
    ("stored", "arms", "given"),
    [
        (THREE, "bc", None),  # another reference
        (THREE, "ba", None),
        (THREE.model_copy(update={"between": ["a", "b"]}), "ac", None),  # an arm that is in no claim
        (RULE, "ab", None),  # which of three arms is the reference is not in the records
        (THREE, "ab", RULE.model_copy(update={"between": ["a", "b"]})),
        (THREE, "ab", THREE.model_copy(update={"alpha": 0.1})),
        (None, "ab", RULE),
    ],
)
def test_a_claim_that_the_stored_rule_does_not_make_was_not_stated(tmp_path, stored, arms, given):
    store(tmp_path, stored)
    assert decide(tmp_path, arms, given)[1] is False


@pytest.mark.parametrize(
    ("options", "was_stated"),
    [
        ({}, True),
        ({"checkpoint": "last"}, True),  # which these runs report
        ({"checkpoint": "best"}, False),
        ({"metric": "accuracy"}, False),
        ({"where": ["seed_init=3"]}, False),
    ],
)
def test_claims_about_other_scores_or_runs_were_not_stated(tmp_path, options, was_stated):
    store(tmp_path, RULE, "ab")
    assert decide(tmp_path, "ab", **options)[1] is was_stated


@pytest.mark.parametrize(("score", "when"), [("recipe", "stated"), ("last", "stated"), ("best", "not stated")])
def test_a_report_of_another_checkpoint_was_not_stated(tmp_path, score, when):
    store(tmp_path, RULE, "ab")
    report = load_runs_from_file(export(tmp_path), score, with_curves=False)
    assert f"Rule, {when} before" in " ".join(report_to_text(build_report(report)).split())


def test_only_the_tests_of_the_claims_are_made_of_arms_in_claims(tmp_path):
    """Others would ignore the looks, and find a difference where the verdict is withheld."""
    store(tmp_path, RULE.model_copy(update={"between": ["a", "b"]}), arms="cabd")
    report = build_report(compare_against(load_runs_from_file(export(tmp_path)), "c"))
    (brief, full) = (" ".join(report_to_text(report, tests=tests).split()) for tests in (False, True))
    for text in (brief, full):
        assert "b failure rate better 4 -100.0 [-100.0, -12.5] points" in text
        assert "no test compares d with c" in text  # they are in no claim, and none of their runs differ
        assert "than c" not in text
    assert "No other test is made of these arms" in full
    (cells,) = ([row for row in report.data["cells"].rows if row["arm"].data in arms] for arms in ("ab",))
    assert {row["boschloo_p"].data for row in cells} == {None}
    assert {row.values["arm"].data for row in report.data["tests"].rows if "arm" in row.values} == {"d"}


def test_an_arm_without_runs_of_a_task_is_in_no_claim_on_it(tmp_path):
    two = RULE.model_copy(update={"between": ["a", "b"]})
    store(tmp_path, two, "a", tasks=("rte", "mrpc"))
    store(tmp_path, two, "ab")
    for rule in (None, two, RULE):
        decision, stated = decide(tmp_path, "ab", rule)
        assert (stated, decision.sharing) == (True, 1)
        assert [(claim.task, claim.level) for claim in decision.claims] == [("rte", 0.05)]


def test_claims_without_records_keep_their_share(tmp_path):
    store(tmp_path, THREE, "ab")
    decision, stated = decide(tmp_path, "ab")
    assert (decision.claims[0].level, stated) == (0.025, False)


def test_two_arms_of_a_rule_that_names_none(tmp_path):
    store(tmp_path, RULE, "ab")
    decision, stated = decide(tmp_path, "ab")
    assert (stated, decision.claims[0].level) == (True, 0.05)


def test_later_seeds_do_not_move_up_while_one_trains(tmp_path):
    store(tmp_path, None, "a")
    store(tmp_path, None, "ab", seeds=(1, 2, 3, 5, 6, 7, 8))
    (claim,) = decide(tmp_path, "ab", RULE)[0].claims
    assert (claim.verdict, claim.n, claim.next_look) == ("open", 0, 4)


def test_arms_without_a_common_seed_have_seeds_of_their_own(tmp_path):
    store(tmp_path, None, "a")
    store(tmp_path, None, "cb", seeds=range(101, 109))
    (claim,) = decide(tmp_path, "ab", RULE)[0].claims
    assert (claim.verdict, claim.n) == ("better", 4)
