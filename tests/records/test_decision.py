"""Claims about runs in the order of their seeds: crashes, NaN, directions, levels and what came after."""

import math

import numpy as np
import pytest

from stableft.config.command_config import ScoreMeaning
from stableft.config.decide_rule import DecideRule
from stableft.errors import UserError
from stableft.records.decision import Decision, SeedRun, apply_rule


def finished(*scores: float, failed: bool | None = False, metric: str = "accuracy") -> list[SeedRun]:
    return [SeedRun("finished", score, failed, 0.5, metric) for score in scores]


CRASHED = SeedRun("crashed")
BAD, GOOD = finished(*[0.5] * 12, failed=True), finished(*[0.7 + 0.001 * i for i in range(12)])


def decide(rule: dict, **arms: list[SeedRun]) -> Decision:
    return apply_rule(DecideRule(**rule), {(name, "rte"): runs for name, runs in arms.items()})


def test_directions():
    rule = {"about": ["failures"], "looks": [4, 8, 12]}
    (claim,) = decide(rule, bad=BAD, good=GOOD).claims
    assert (claim.verdict, claim.n, claim.reference, claim.arm) == ("better", 4, "bad", "good")
    assert claim.after == (8, 8)
    assert claim.after_difference == -1.0
    (claim,) = decide(rule, good=GOOD, bad=BAD).claims
    assert claim.verdict == "worse"
    scores = {"about": ["mean"], "looks": [12]}
    low, high = finished(*[0.60 + 0.01 * (i % 3) for i in range(12)]), GOOD
    assert decide(scores, low=low, high=high).claims[0].verdict == "better"
    losses = scores | {"score": {"range": (0.0, 1.0), "better": "lower"}}
    assert decide(losses, low=low, high=high).claims[0].verdict == "worse"
    wide = finished(*[0.7 + 0.02 * (-1) ** i * i for i in range(12)])
    spread = decide({"about": ["spread"], "looks": [12]}, wide=wide, narrow=GOOD).claims[0]
    assert spread.verdict == "better"
    assert spread.estimate.difference > 1


def test_open_undecided_and_equivalent():
    rule = {"about": ["failures"], "looks": [4, 8, 12]}
    (claim,) = decide(rule, a=GOOD[:5], b=GOOD[:6]).claims
    assert (claim.verdict, claim.n, claim.next_look) == ("open", 4, 8)
    (claim,) = decide(rule, a=GOOD[:3], b=GOOD[:3]).claims
    assert (claim.verdict, claim.n, claim.next_look, claim.estimate) == ("open", 0, 4, None)
    (claim,) = decide(rule, a=GOOD, b=GOOD).claims
    assert (claim.verdict, claim.n, claim.next_look) == ("undecided", 12, None)
    (claim,) = decide(rule | {"margin": {"failures": 40}}, a=GOOD, b=GOOD).claims
    assert (claim.verdict, claim.n) == ("equivalent", 8)


def test_p_only_where_the_test_for_a_difference_ends():
    some = [*finished(*[0.5] * 4, failed=True), *finished(0.72, 0.73), *[SeedRun(None)] * 24]
    fine = finished(*[0.7 + 0.001 * i for i in range(30)])
    for looks, has_p in (([6, 12, 30], False), ("any", True)):
        for claim in decide({"about": ["failures", "mean"], "looks": looks}, some=some, fine=fine).claims:
            assert (claim.verdict, claim.n) == ("open", 6)
            assert (claim.estimate.p is not None) == has_p  # e-processes have one at any time
    rule = {"about": ["failures"], "looks": [4, 8, 12]}
    (same,) = decide(rule | {"margin": {"failures": 40}}, a=GOOD, b=GOOD).claims
    assert (same.verdict, same.estimate.p) == ("equivalent", None)
    (last,) = decide(rule, a=GOOD, b=GOOD).claims
    assert (last.verdict, last.estimate.p) == ("undecided", 1.0)


def test_a_run_that_is_missing_ends_the_evidence():
    waiting = [*GOOD[:5], SeedRun(None), *GOOD[6:]]
    (claim,) = decide({"about": ["failures"], "looks": [4, 8, 12]}, a=GOOD, b=waiting).claims
    assert (claim.verdict, claim.next_look) == ("open", 8)


def test_crashes_are_no_evidence():
    one = [GOOD[0], CRASHED, *GOOD[1:]]
    (claim,) = decide({"about": ["failures"], "looks": [4, 8, 12]}, bad=BAD, good=one).claims
    assert (claim.verdict, claim.n, claim.crashed, claim.tried) == ("better", 4, (0, 1), (4, 5))
    many = [run for good in GOOD for run in (CRASHED, CRASHED, CRASHED, good)]
    (claim,) = decide({"about": ["failures"], "looks": [4, 8, 12]}, bad=BAD, good=many).claims
    assert (claim.verdict, claim.crashed) == ("withheld", (0, 12))


def test_seeds_used_up_by_crashes_end_a_claim_at_the_last_planned_look_that_they_reach():
    rule = {"about": ["failures", "mean"], "looks": [4, 8, 12]}
    short = [CRASHED, *GOOD[:11]]
    for claim in decide(rule, a=GOOD, b=short).claims:
        assert (claim.verdict, claim.n, claim.next_look, claim.after) == ("undecided", 8, None, (4, 3))
        assert claim.estimate.p is None  # the test does not end here
    for claim in decide(rule, a=GOOD, b=GOOD).claims:  # the seed is tried again
        assert (claim.verdict, claim.n, claim.estimate.p) == ("undecided", 12, 1.0)
    rule = {"about": ["failures"], "looks": [4, 8, 12]}
    (claim,) = decide(rule, a=[*GOOD[:5], *[SeedRun(None)] * 7], b=[*GOOD[:7], *[CRASHED] * 5]).claims
    assert (claim.verdict, claim.n) == ("undecided", 4)  # that at 8 cannot be reached
    (claim,) = decide(rule, a=GOOD[:10], b=GOOD[:10]).claims  # here seeds are left to be planned
    assert (claim.verdict, claim.n, claim.next_look) == ("open", 8, 12)


def test_crashed_seeds_that_are_tried_again_spend_no_error_twice():
    """As in a sweep of one look at 25 runs, whose last seeds crash, and with --retry-crashed finish one by one."""
    rng = np.random.default_rng(0)
    rule = DecideRule(about=["failures"], looks=[12, 25])
    wrong, draws = 0, 800
    for _ in range(draws):
        a, b = (finished(*[0.7] * 25) for _ in range(2))
        for runs in (a, b):
            runs[:] = [
                run._replace(failed=bool(failed)) for run, failed in zip(runs, rng.random(25) < 0.5, strict=True)
            ]
        verdicts = [
            apply_rule(rule, {("a", "rte"): a, ("b", "rte"): [*b[: 25 - crashed], *[CRASHED] * crashed]}, False).claims[
                0
            ]
            for crashed in (4, 3, 2, 1, 0)
        ]
        assert {claim.n for claim in verdicts} <= {12, 25}
        assert all(claim.verdict == "undecided" for claim in verdicts[:-1] if claim.n != verdicts[-1].n)
        wrong += any(claim.verdict in ("better", "worse") for claim in verdicts)
    assert wrong / draws <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / draws)


def test_crashes_that_use_up_the_seeds_count():
    fine = finished(*[0.7] * 50)
    few = [*finished(*[0.5] * 4, failed=True), *finished(0.7), *[CRASHED] * 45]
    for looks in ([5, 10, 25, 50], [10, 25, 50], "any"):
        (claim,) = decide({"about": ["failures"], "looks": looks}, fine=fine, few=few).claims
        assert (claim.verdict, claim.crashed, claim.tried) == ("withheld", (0, 45), (50, 50))
    (claim,) = decide({"about": ["failures"], "looks": [5, 10, 25, 50]}, few=few, fine=fine).claims
    assert (claim.verdict, claim.crashed, claim.tried) == ("withheld", (45, 0), (50, 50))
    earlier = [*finished(*[0.5] * 12, failed=True), *[CRASHED] * 38]  # decided at a look before the seeds were used up
    (claim,) = decide({"about": ["failures"], "looks": [5, 10, 25, 50]}, fine=fine, earlier=earlier).claims
    assert (claim.verdict, claim.n, claim.crashed, claim.tried) == ("worse", 5, (0, 0), (5, 5))


@pytest.mark.parametrize("about", ["failures", "mean", "spread"])
@pytest.mark.parametrize("finished_runs", [0, 1, 2])
def test_an_arm_that_almost_always_crashes_ends_its_claim(about, finished_runs):
    crashing = [*GOOD[:finished_runs], *[CRASHED] * (12 - finished_runs)]
    rule = {"about": [about], "looks": [4, 8, 12]}
    for arms, crashed in (((GOOD, crashing), 0), ((crashing, GOOD), 1)):
        (claim,) = decide(rule, a=arms[0], b=arms[1]).claims
        assert (claim.verdict, claim.next_look) == ("withheld", None)
        assert claim.crashed[1 - crashed] == 12 - finished_runs
        assert claim.tried == (12, 12)
    (claim,) = decide(rule, a=crashing, b=crashing).claims
    assert (claim.verdict, claim.next_look) == ("undecided", None)
    (claim,) = decide(rule, a=GOOD, b=[*crashing[:-1], SeedRun(None)]).claims
    assert claim.verdict == "open"


def test_nan_counts_as_the_baseline():
    nan = [SeedRun("finished", math.nan, True, 0.5, "accuracy") for _ in range(12)]
    (claim,) = decide({"about": ["mean"], "looks": [12]}, a=nan, b=GOOD).claims
    assert claim.verdict == "better"
    assert claim.nans == (12, 0)
    assert claim.estimate.difference == pytest.approx(sum(run.score for run in GOOD) / 12 - 0.5)
    lowest = [run._replace(baseline=None) for run in nan]
    (claim,) = decide({"about": ["mean"], "looks": [12]}, a=lowest, b=GOOD).claims
    assert claim.estimate.difference == pytest.approx(sum(run.score for run in GOOD) / 12)


LOSS = ScoreMeaning(better="lower")


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (
            ("accuracy", None),
            ("loss", LOSS),
            "accuracy (from 0 to 1, higher is better) and loss (from 0 to 1, lower is",
        ),
        (("accuracy", None), ("f1", None), "accuracy (from 0 to 1, higher is better) and f1 (from 0 to 1"),
        (("loss", LOSS), ("loss", ScoreMeaning()), "loss (from 0 to 1, lower is better) and loss (from 0 to 1, higher"),
        (("mcc", None), ("mcc", ScoreMeaning()), "mcc (from -1 to 1, higher is better) and mcc (from 0 to 1"),
    ],
)
@pytest.mark.parametrize("about", ["failures", "mean", "spread"])
def test_arms_with_other_scores_are_not_compared(about, a, b, words):
    runs = [[run._replace(metric=metric, meaning=meaning) for run in GOOD] for metric, meaning in (a, b)]
    for order in (1, -1):
        with pytest.raises(UserError, match="decide: between: the scores of arms 'a' and 'b' cannot be compared"):
            decide({"about": [about], "looks": [12]}, **dict(zip("ab", runs[::order], strict=True)))
    with pytest.raises(UserError) as error:
        decide({"about": [about], "looks": [12]}, a=runs[0], b=runs[1])
    assert words in str(error.value)


def test_the_direction_of_a_command_is_not_turned():
    runs = [run._replace(metric="loss", meaning=LOSS) for run in GOOD]
    with pytest.raises(UserError, match=r"lower scores of arm 'a' are better, but decide\.score\.better is higher"):
        decide({"about": ["mean"], "looks": [12], "score": {"range": (0.0, 1.0)}}, a=runs, b=runs)
    percent = [run._replace(metric="accuracy", meaning=ScoreMeaning(scale=100)) for run in GOOD]
    assert decide({"about": ["mean"], "looks": [12]}, a=percent, b=GOOD).claims  # as fractions, they are alike


@pytest.mark.parametrize("looks", [[12], "any"])
def test_scores_beyond_their_range(looks):
    high = finished(*[0.9] * 12)
    with pytest.raises(UserError) as error:
        decide({"about": ["mean"], "looks": looks, "score": {"range": (0.6, 0.8)}}, a=GOOD, b=high)
    assert "decide: arm 'b' on rte: a score is 0.9, which is not in the range of accuracy, 0.6 to 0.8" in str(
        error.value
    )
    assert decide({"about": ["mean"], "looks": looks, "score": {"range": (0.6, 0.9)}}, a=GOOD, b=high).claims


def test_a_rule_without_range_keeps_that_of_the_metric():
    nan = [SeedRun("finished", math.nan, True, None, "mcc") for _ in range(12)]
    some = finished(*[-0.2] * 12, metric="mcc")
    for rule in ({}, {"score": {"better": "higher"}}):
        (claim,) = decide({"about": ["mean"], "looks": "any"} | rule, a=nan, b=some).claims
        assert claim.estimate.difference == pytest.approx(0.8)  # from the lowest score, -1
        assert claim.estimate.interval.low >= -2
    command = [run._replace(metric="gain", meaning=ScoreMeaning(range=(-1.0, 1.0))) for run in some]
    assert decide({"about": ["mean"], "looks": [12], "score": {"scale": 100}}, a=command, b=command).claims


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            {"about": ["spread"], "looks": [4, 8]},
            "the spread at level 0.05: the first that could is at 10 runs of each",
        ),
        ({"about": ["mean"], "looks": [3, 4]}, "the mean at level 0.05: the first that could is at 6 runs of each arm"),
        ({"about": ["failures"], "looks": [2, 3]}, "the failure rate at level 0.05: the first that could is at 4 runs"),
        (
            {"about": ["failures", "mean"], "looks": [4, 6]},
            "the mean at level 0.025, the share of each of 2 claims: the first that could is at 7 runs of each arm",
        ),
        ({"about": ["mean"], "looks": [5, 50], "alpha": 0.00005}, "at level 5e-05: no other could"),
    ],
)
def test_rules_that_can_never_decide(rule, words):
    with pytest.raises(UserError) as error:
        decide(rule, a=GOOD, b=GOOD)
    assert f"decide: looks: no look at {rule['looks'][-1]} runs of each arm or fewer can find" in str(error.value)
    assert words in str(error.value)
    if len(rule["about"]) > 1:  # the failures of which may pass their share on
        assert decide(rule | {"share": "graph"}, a=GOOD, b=GOOD).claims


def test_runs_after_the_last_look_are_apart():
    (claim,) = decide({"about": ["failures"], "looks": [4, 8]}, a=GOOD, b=GOOD[:10]).claims
    assert (claim.verdict, claim.n, claim.after, claim.after_difference) == ("undecided", 8, (4, 2), 0.0)


def test_claims_share_alpha():
    rule = {"about": ["failures", "mean"], "looks": [4, 8, 12]}
    decision = decide(rule, bad=BAD, good=GOOD, other=GOOD)
    assert [claim.level for claim in decision.claims] == [0.05 / 4] * 4
    graph = decide(rule | {"share": "graph"}, bad=BAD, good=GOOD, other=GOOD)
    assert graph.claims[0].level == 0.05 / 4
    assert max(claim.level for claim in graph.claims) > 0.05 / 4
    keeping = decide(rule | {"share": "graph", "margin": {"failures": 5, "mean": 1}}, bad=BAD, good=GOOD, other=GOOD)
    assert {claim.level for claim in keeping.claims} == {0.05 / 4}  # with a margin, a claim may still be wrong


def test_looks_after_every_run():
    decision = decide({"about": ["failures"], "looks": "any"}, bad=BAD, good=GOOD)
    (claim,) = decision.claims
    assert claim.verdict == "better"
    assert 4 <= claim.n <= 8
    (claim,) = decide({"about": ["failures"], "looks": "any"}, a=GOOD[:5], b=GOOD[:3]).claims
    assert (claim.verdict, claim.n) == ("undecided", 3)  # no seed of b is left


@pytest.mark.parametrize(
    ("rule", "runs", "words"),
    [
        ({"about": ["failures"]}, finished(0.5, 0.6, failed=None), "whether its runs failed is not known"),
        ({"about": ["mean"], "margin": {"mean": 1}}, finished(1.0, 2.0, metric="bleu"), "margin needs the scale of"),
        ({"about": ["mean"], "looks": "any"}, finished(1.0, 2.0, metric="bleu"), "looks: any needs the scale of"),
        ({"about": ["mean"]}, [SeedRun("finished", None, None)] * 2, "a finished run has no score"),
        (
            {"about": ["mean"]},
            [SeedRun("finished", math.nan, True, None, "bleu")] * 2,
            "neither a baseline nor the range of scores says what it counts as",
        ),
        ({"about": ["mean"], "between": ["a", "c"]}, GOOD, "decide: between: there is no arm 'c', there are a, b"),
    ],
)
def test_what_cannot_be_decided(rule, runs, words):
    with pytest.raises(UserError) as error:
        decide({"looks": [2]} | rule, a=runs, b=runs)
    assert words in str(error.value)
