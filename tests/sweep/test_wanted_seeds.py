"""Sweeps with a rule: seeds are run look by look, and no more than the claims need."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from support.decided_sweeps import make_decided_sweep, make_scored_record, sweep_until_decided
from support.paths import ROOT
from support.sweep_records import save_record
from support.worker_logs import read_events, wait_until

from stableft.config.decide_rule import DecideRule
from stableft.records.decision import SeedRun
from stableft.records.run_record import read_record
from stableft.sweep.progress import closing_line
from stableft.sweep.wanted_seeds import make_wanted_seeds

pytestmark = pytest.mark.timeout(90)
RULE = DecideRule(about=["failures"], looks=[4, 8, 12, 20])


def seeds_run(results, sweep) -> dict[str, list[int]]:
    begun = {run_id for run_id, _ in read_events(results, "began")}
    arms = dict.fromkeys(run.arm for run in sweep.runs)
    return {arm: [r.config.seeds.init for r in sweep.runs if r.arm == arm and r.run_id in begun] for arm in arms}


@pytest.mark.slow
def test_a_sweep_ends_at_its_verdict_and_repeats_nothing(tmp_path):
    sweep = make_decided_sweep(RULE)
    outcome, notes = sweep_until_decided(tmp_path, sweep)
    begun = seeds_run(tmp_path, sweep)
    for seeds in begun.values():  # in step, and at most the next look's beyond the first
        assert seeds == list(range(len(seeds)))
        assert 4 <= len(seeds) <= 8
    assert outcome.unfinished == ()
    assert outcome.crashed == ()
    assert len(outcome.saved) + len(outcome.finished) == 40
    assert "good against bad on RTE: the failure rate is better after 4 runs of each" in notes
    assert notes[0].startswith("Rule: good against bad: the failure rate, alpha 0.05, looked at 4, 8, 12, 20 runs")
    assert f"{len(outcome.saved)} saved: the claims are decided" in closing_line(outcome)
    assert read_record(tmp_path, sweep.runs[0].run_id).decide == RULE

    again, _ = sweep_until_decided(tmp_path, sweep)
    assert again.finished == ()
    assert again.saved == outcome.saved
    assert seeds_run(tmp_path, sweep) == begun


@pytest.mark.slow
def test_arms_alike_use_all_their_seeds(tmp_path):
    sweep = make_decided_sweep(RULE, ("good", "fine"))
    outcome, notes = sweep_until_decided(tmp_path, sweep)
    assert len(outcome.finished) == 40
    assert outcome.saved == ()
    assert "fine against good on RTE: the failure rate is undecided after 20 runs of each" in notes


@pytest.mark.slow
def test_unequal_crash_rates_withhold_the_verdict(tmp_path):
    sweep = make_decided_sweep(RULE, ("bad", "crashing"), seeds=24)
    outcome, notes = sweep_until_decided(tmp_path, sweep)
    assert "crashing against bad on RTE: the failure rate is withheld after 4 runs of each" in notes
    assert seeds_run(tmp_path, sweep)["crashing"][:16] == list(range(16))  # seeds 0, 5, 10 and 15 are its evidence
    assert len(outcome.crashed) >= 12


@pytest.mark.slow
def test_a_killed_sweep_goes_on_from_its_records(tmp_path):
    script = f"""
    from pathlib import Path
    from stableft.config.decide_rule import DecideRule
    from support.decided_sweeps import make_decided_sweep, sweep_until_decided
    if __name__ == "__main__":
        rule = DecideRule(about=["failures"], looks=[4, 8, 12, 20])
        sweep_until_decided(Path({str(tmp_path)!r}), make_decided_sweep(rule), jobs=1)
    """
    file = tmp_path / "sweep.py"
    file.write_text(textwrap.dedent(script))
    sweep = make_decided_sweep(RULE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("src", "tests"))}
    with subprocess.Popen([sys.executable, str(file)], env=environment) as process:
        try:
            wait_until(lambda: len(list(tmp_path.glob("runs/*/record.json"))) >= 3, seconds=80)
        finally:
            process.send_signal(signal.SIGKILL)
    before = len(list(tmp_path.glob("runs/*/record.json")))
    outcome, _ = sweep_until_decided(tmp_path, sweep)
    assert len(outcome.finished_before) >= before >= 3
    assert outcome.unfinished == ()
    assert 8 <= len(outcome.finished) + len(outcome.finished_before) <= 16
    finished = [run_id for run_id, _ in read_events(tmp_path, "began") if run_id in outcome.finished_before]
    assert len(finished) == len(set(finished))  # none of them was trained again


def test_which_runs_may_start(tmp_path):
    sweep = make_decided_sweep(RULE)
    claims = make_wanted_seeds(RULE, sweep.runs, tmp_path, lambda event: None, set())
    by_arm = {arm: [run for run in sweep.runs if run.arm == arm] for arm in ("bad", "good")}
    wanted = claims({})
    expected = [run.run_id for i in range(8) for run in (by_arm["bad"][i], by_arm["good"][i])]
    assert list(wanted) == expected
    assert claims({}) is wanted
    # Records of this sweep count at once; those of another process when they are looked for.
    mine = by_arm["good"][0]
    wanted = claims({mine.run_id: make_scored_record(mine, 0.7)})
    assert list(wanted) == [run_id for run_id in expected if run_id != mine.run_id]
    theirs = by_arm["bad"][0]
    save_record(tmp_path, make_scored_record(theirs, float("nan")))
    assert claims({}) is wanted
    claims.looked_at = 0.0
    assert theirs.run_id not in claims({})
    assert claims.known[theirs.run_id] == SeedRun("finished", claims.known[theirs.run_id].score, True, 0.5, "accuracy")
    assert claims.unneeded == set()


def test_other_arms_are_trained_whole_and_closed_ones_no_more(tmp_path):
    rule = DecideRule(between=["bad", "good"], about=["failures"], looks=[4, 8])
    sweep = make_decided_sweep(rule, ("bad", "good", "other"), seeds=8)
    claims = make_wanted_seeds(rule, sweep.runs, tmp_path, lambda event: None, set())
    others = [run.run_id for run in sweep.runs if run.arm == "other"]
    assert list(claims({}))[-8:] == others
    ended = {
        run.run_id: make_scored_record(run, float("nan") if run.arm == "bad" else 0.7)
        for run in sweep.runs
        if run.config.seeds.init < 4 and run.arm != "other"
    }
    assert list(claims(ended)) == others
    assert claims.unneeded == {run.run_id for run in sweep.runs if run.config.seeds.init >= 4 and run.arm != "other"}


def test_looks_after_every_run_bound_nothing(tmp_path):
    rule = DecideRule(about=["failures"], looks="any")
    sweep = make_decided_sweep(rule, seeds=6)
    claims = make_wanted_seeds(rule, sweep.runs, tmp_path, lambda event: None, set())
    assert len(claims({})) == 12
