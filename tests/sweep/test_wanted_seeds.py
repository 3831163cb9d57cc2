"""Sweeps with a rule: seeds are run look by look, and no more than the claims need."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from support.decided_sweeps import make_decided_sweep, make_scored_record, sweep_until_decided, train_until_decided
from support.paths import ROOT
from support.sweep_records import make_record, make_run, save_record
from support.worker_logs import read_events, wait_until

from stableft.config.decide_rule import DecideRule
from stableft.records.decision import SeedRun, collect_evidence
from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder
from stableft.sweep.claims import claim_run
from stableft.sweep.progress import closing_line
from stableft.sweep.wanted_seeds import find_unneeded, make_wanted_seeds

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.timeout(90)]
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
    assert f"{len(outcome.saved)} saved: no claim needs them" in closing_line(outcome)
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

    done, last = others[:-1], next(run for run in sweep.runs if run.run_id == others[-1])
    ended |= {run.run_id: make_scored_record(run, 0.7) for run in sweep.runs if run.run_id in done}
    assert claims(ended) == (others[-1],)
    assert claims(ended | {last.run_id: make_scored_record(last, 0.7)}) == ()


def test_records_of_runs_in_no_claim_are_not_waited_for(tmp_path):
    rule = DecideRule(between=["bad", "good"], about=["failures"], looks=[4])
    sweep = make_decided_sweep(rule, ("bad", "good", "other"), seeds=4)
    for run in sweep.runs:
        save_record(tmp_path, make_scored_record(run, float("nan") if run.arm == "bad" else 0.7))
    assert make_wanted_seeds(rule, sweep.runs, tmp_path, lambda event: None, set())({}) == ()
    other = sweep.runs[-1].run_id
    assert make_wanted_seeds(rule, sweep.runs, tmp_path, lambda event: None, {other})({}) == (other,)


def test_a_task_without_the_reference_is_trained_whole(tmp_path):
    sweep = make_decided_sweep(RULE)
    more = [replace(make_run(seed, "good", "mrpc"), decide=RULE) for seed in range(3)]
    claims = make_wanted_seeds(RULE, (*sweep.runs, *more), tmp_path, lambda event: None, set())
    ended = {
        run.run_id: make_scored_record(run, float("nan") if run.arm == "bad" else 0.7)
        for run in sweep.runs
        if run.config.seeds.init < 4
    }
    assert list(claims(ended)) == [run.run_id for run in more]
    assert not claims.unneeded & {run.run_id for run in more}


@pytest.mark.slow
def test_the_verdict_stops_the_runs_of_its_claim_alone(tmp_path):
    rule = DecideRule(between=["bad", "good"], about=["failures"], looks=[4, 8])
    sweep = make_decided_sweep(rule, ("bad", "good", "other"), seeds=8)
    sweep = replace(sweep, runs=tuple(run for run in sweep.runs if run.arm != "other" or run.config.seeds.init < 3))
    outcome, _ = sweep_until_decided(tmp_path, sweep, jobs=4, train=train_until_decided)
    others = [run.run_id for run in sweep.runs if run.arm == "other"]
    assert outcome.unfinished == ()
    assert sorted(run_id for run_id, _ in read_events(tmp_path, "other")) == sorted(others)  # each begun once
    assert {*others} <= {*outcome.finished}
    last = {run.run_id for run in sweep.runs if run.config.seeds.init == 7}
    assert {*outcome.saved} == last
    assert all((run_folder(tmp_path, run_id) / CHECKPOINT_FILE).exists() for run_id in last)


@pytest.mark.slow
def test_a_pilot_waits_for_the_runs_of_a_claim_that_others_hold(tmp_path):
    sweep = make_decided_sweep(RULE)
    held = sweep.runs[0]

    def end_later() -> None:
        with claim_run(run_folder(tmp_path, held.run_id)) as claimed:
            assert claimed
            wait_until(lambda: len(read_events(tmp_path, "began")) >= 15, 60)
            time.sleep(3)
            save_record(tmp_path, make_scored_record(held, float("nan")))

    other = threading.Thread(target=end_later)
    other.start()
    outcome, notes = sweep_until_decided(tmp_path, sweep, leave_after=0.5)
    other.join()
    assert (outcome.unfinished, outcome.elsewhere) == ((), ())
    assert "good against bad on RTE: the failure rate is better after 4 runs of each" in notes


def test_looks_after_every_run_bound_nothing(tmp_path):
    rule = DecideRule(about=["failures"], looks="any")
    sweep = make_decided_sweep(rule, seeds=6)
    claims = make_wanted_seeds(rule, sweep.runs, tmp_path, lambda event: None, set())
    assert len(claims({})) == 12


def save_records(results, sweep, ends: dict[str, str]) -> None:
    """Saves a record of each first seed of an arm: "." has a score, "f" has failed, "x" crashed."""
    for arm, marks in ends.items():
        for run, mark in zip([run for run in sweep.runs if run.arm == arm], marks, strict=False):
            if mark == "x":
                save_record(results, make_record(run, status="crashed").model_copy(update={"decide": run.decide}))
            else:
                save_record(results, make_scored_record(run, 0.7 if mark == "." else 0.5))


def test_crashed_seeds_that_a_look_has_passed_are_not_tried_again(tmp_path):
    sweep = make_decided_sweep(RULE, ("good", "fine"))
    save_records(tmp_path, sweep, {"good": "." * 10, "fine": ".x.......x"})
    fine = [run.run_id for run in sweep.runs if run.arm == "fine"]
    notes = []
    claims = make_wanted_seeds(RULE, sweep.runs, tmp_path, notes.append, {fine[1], fine[9]})
    assert notes[-1].text.startswith("1 crashed run is not tried again, because a look has passed it")
    wanted = claims({})
    assert fine[9] in wanted
    assert fine[1] not in wanted
    assert fine[1] in find_unneeded(sweep, tmp_path, {fine[1], fine[9]})  # no pilot is submitted for it
    outcome, _ = sweep_until_decided(tmp_path, sweep, retry_crashed=True)
    assert (outcome.crashed, outcome.unfinished) == ((fine[1],), ())
    assert closing_line(outcome).endswith("1 crashed; a look has passed the crashed ones")
    outcome, _ = sweep_until_decided(tmp_path, sweep)  # nor where it was not asked for
    assert closing_line(outcome).endswith("1 crashed; a look has passed the crashed ones")


def test_crashed_seeds_of_a_withheld_verdict_are_tried_again(tmp_path):
    sweep = make_decided_sweep(RULE, ("bad", "crashing"), seeds=24)
    save_records(tmp_path, sweep, {"bad": "f" * 4, "crashing": ".xxxx" * 3 + "."})
    crashed = {run.run_id for run in sweep.runs if run.arm == "crashing" and run.config.seeds.init % 5}
    claims = make_wanted_seeds(RULE, sweep.runs, tmp_path, lambda event: None, crashed)
    assert claims.passed == set()
    assert set(claims({})) & crashed


def test_seeds_that_are_tried_again_change_no_look(tmp_path):
    rng = np.random.default_rng(0)
    rule = DecideRule(about=["failures"], looks=[4, 6, 8, 10, 12])
    passed = 0
    for trial in range(6):
        sweep, results = make_decided_sweep(rule, ("a", "b"), seeds=14), tmp_path / str(trial)
        save_records(results, sweep, {arm: "".join(rng.choice([*"..ffx"], 14)) for arm in "ab"})
        first = make_wanted_seeds(rule, sweep.runs, results, lambda event: None, set())
        first({})
        crashed = {run_id for run_id, run in first.known.items() if run.status == "crashed"}
        (before,) = first.decision.claims
        again = make_wanted_seeds(rule, sweep.runs, results, lambda event: None, crashed)
        ended = (run for run in sweep.runs if run.run_id in crashed - again.passed)
        again({run.run_id: make_scored_record(run, rng.choice([0.5, 0.7])) for run in ended})
        (after,) = again.decision.claims
        for place in again.places:
            one, other = (
                collect_evidence(
                    "failures", [claims.known[run.run_id] for run in claims.places[place]], None, ""
                ).values
                for claims in (first, again)
            )
            assert np.array_equal(one[: before.n], other[: before.n])
        assert (after.n, after.verdict) == (before.n, before.verdict) or (
            before.verdict == "undecided" and after.n > before.n
        )
        passed += len(again.passed)
    assert passed > 6
