"""What the report says of claims: their p-values, their intervals and arms that crash."""

import pytest

from stableft.config.decide_rule import DecideRule
from stableft.records.decision import Decision, SeedRun, apply_rule
from stableft.report.decision import decision_blocks, decision_table, describe_claim
from stableft.report.forms.document import Bullets

FINE = [SeedRun("finished", 0.7 + 0.001 * i, False, 0.5, "accuracy") for i in range(12)]
FAILED = [SeedRun("finished", 0.5, True, 0.5, "accuracy")] * 12
CRASHED = [SeedRun("crashed")] * 12
TO_RUN = [SeedRun(None)] * 12
OPEN_NOTE = "An open or equivalent claim has no p: it is valid only where the test for a difference ends."


def decide(a: list[SeedRun], b: list[SeedRun], **rule) -> Decision:
    rule = {"about": ["failures", "mean"], "looks": [6, 12]} | rule
    return apply_rule(DecideRule(**rule), {("a", "rte"): a, ("b", "rte"): b})


def notes(decision: Decision) -> tuple[str, ...]:
    return next(found for block in decision_blocks(decision, True) if (found := getattr(block, "notes", ())))


def test_open_claims_have_no_p():
    part = [*FINE[:6], *TO_RUN[:6]]
    decision = decide(FINE, part)
    words = [describe_claim(claim) for claim in decision.claims]
    for text in words:
        assert text.endswith("is open after 6 runs of each; the next look is at 12 runs of each.")
    assert [row.values["p"].data for row in decision_table(decision).rows] == [None, None]
    assert OPEN_NOTE in notes(decision)
    decided = decide(FINE, FAILED)
    assert "is worse, decided after 6 runs of each (p = " in describe_claim(decided.claims[0])
    assert all(row.values["p"].data <= row.values["level"].data for row in decision_table(decided).rows)
    assert OPEN_NOTE not in notes(decided)
    (running,) = decide(FINE, part, about=["failures"], looks="any").claims
    assert "is open after 6 runs of each (p = 1 at level 0.05)" in describe_claim(running)


@pytest.mark.parametrize("looks", [[6, 12], "any"])
def test_only_intervals_of_means_hold_at_every_look(looks):
    found = " ".join(notes(decide(FINE, FAILED, looks=looks)))
    assert "Intervals of the failure rate are approximate: " in found
    assert "Intervals of the mean hold at every look: " in found
    assert "an interval may end at no difference, which is no part of it" in found
    if looks != "any":
        early = notes(decide(FINE, [*FINE[:6], *TO_RUN[:6]], about=["mean"], alpha=0.01))
        assert "Claims without an interval: this look is too early to decide." in early


def test_equivalent_claims_show_an_interval_within_the_margin():
    decision = decide(
        FINE, [*FINE[1:], FINE[0]], looks=[12], margin={"failures": 60, "mean": 2}, about=["failures", "mean"]
    )
    assert "the interval is that of the two one-sided tests, at 1 - 2 x their level." in " ".join(notes(decision))
    for row, points in zip(decision_table(decision).rows, (0.6, 0.02), strict=True):
        assert row.values["verdict"].data == "equivalent"
        low, high = row.values["interval"].data
        assert -points <= low <= row.values["effect"].data <= high <= points
        assert row.values["interval_level"].data > 0.9


def test_runs_after_an_undecided_claim():
    decision = decide(FINE, FINE, looks=[6, 8])
    words = "RTE, failure rate: 4 more runs of b and 4 of a came after the last look and are no part of it; alone they"
    (bullets,) = (block for block in decision_blocks(decision, True) if isinstance(block, Bullets))
    assert bullets.lines[0].startswith(words)
    runs = {("a", "rte"): FINE, ("b", "rte"): FINE[:8], ("c", "rte"): FINE[:8]}
    three = apply_rule(DecideRule(about=["failures"], looks=[6, 8]), runs)
    (bullets,) = (block for block in decision_blocks(three, True) if isinstance(block, Bullets))
    (line,) = bullets.lines  # both claims have the same runs of their reference left
    assert "4 more runs of a came after the last look" in line
    (claim, _) = decide(FINE, [*FINE[:8], *CRASHED[:1]], looks=[6, 9]).claims
    words = (
        "the failure rate is undecided after 6 runs of each, because too few runs finished; the look at 9 needs more"
    )
    assert words in describe_claim(claim)
    assert "Nor has one that crashes end before its last look." in notes(
        decide(FINE[:9], [*FINE[:8], *CRASHED[:1]], looks=[6, 9])
    )


def test_arms_that_crash():
    (claim, _) = decide(FINE, CRASHED).claims
    words = (
        "the verdict is withheld after 0 runs of each, because the arms crash unequally often. Crashed: 12 of 12 runs"
    )
    assert f"{words} against 0 of 12." in describe_claim(claim)
    (claim, _) = decide(CRASHED, CRASHED).claims
    words = (
        "is undecided because too few runs finished; the look at 6 needs more seeds. Crashed: 12 of 12 runs against 12"
    )
    assert words in describe_claim(claim)
