"""Parents first, then trials, then the rest: in real workers, with stand-ins for training that need no torch."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.sweep_records import make_record, make_run, save_record
from support.sweep_stages import (
    CRASHES,
    DIES_ONCE,
    DIVERGED,
    DIVERGES,
    FAILS,
    SLOW,
    STEPS,
    make_sweep,
    sweep_stand_ins,
    train_stand_in,
)
from support.worker_logs import read_events, wait_until

from stableft.config.planned_run import Execution, PlannedRun
from stableft.config.run_config import StartFrom
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import Sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder, write_record
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import SweepStarted, closing_line
from stableft.sweep.run_sweep import run_planned_sweep

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.timeout(90)]
RULE = EarlyStoppingRule(after=0.3, lowest=0.34)


def ids(runs, *seeds) -> set[str]:
    return {run.run_id for run in runs if run.config.seeds.init in seeds}


def statuses(results: Path, runs) -> Counter:
    records = [read_record(results, run.run_id) for run in runs]
    return Counter(record.status if record else None for record in records)


def begun(results: Path, runs) -> Counter:
    """Returns how often runs of these began, by the step at which."""
    wanted = {run.run_id for run in runs}
    return Counter(
        {
            first: n
            for first in range(STEPS)
            if (n := sum(run_id in wanted for run_id, _ in read_events(results, f"from-{first}")))
        }
    )


def family(seed: int, children: int = 3, arm: str = "arm", checkpoint="last") -> tuple[PlannedRun, list[PlannedRun]]:
    """Returns a run and others that start from it."""
    parent = make_run(seed, START_ARM, "mnli")
    runs = [make_run(child, arm) for child in range(children)]
    start = StartFrom(run=parent.run_id, checkpoint=checkpoint)
    return parent, [replace(r, config=r.config.model_copy(update={"start_from": start})) for r in runs]


# Parents


@pytest.mark.parametrize(
    ("checkpoint", "save", "kept"), [("last", "none", {"last"}), ("best", "last", {"best", "last"})]
)
def test_a_parent_is_trained_once_and_its_weights_kept(tmp_path, checkpoint, save, kept):
    parent, runs = family(1, checkpoint=checkpoint)
    outcome, notes = sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]), jobs=2, save=save)
    assert set(outcome.finished) == ids(runs, 0, 1, 2)  # it is none of them
    assert (outcome.unfinished, outcome.crashed, outcome.finished_before) == ((), (), ())
    (note,) = notes
    assert re.match(rf"run {parent.run_id} \(recipe on mnli, seed 1\), .* 3 runs .*first", note)
    assert {path.name for path in run_folder(tmp_path, parent.run_id).glob("model-*")} == {
        f"model-{name}" for name in kept
    }
    order = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert order[0] == parent.run_id
    _, more = family(1, 5, checkpoint=checkpoint)
    outcome, notes = sweep_stand_ins(tmp_path, make_sweep(more, parents=[parent]), save=save)
    assert len(outcome.finished_before) == 3
    assert len(outcome.finished) == 2
    assert begun(tmp_path, [parent]) == {0: 1}


def test_without_its_weights_one_sentence_says_what_to_do(tmp_path):
    parent, runs = family(1)
    save_record(tmp_path, make_record(parent))
    with pytest.raises(UserError, match=r"finished.*last weights .*missing .*: delete .* --save last"):
        sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]))
    assert not (tmp_path / "log").exists()
    for run in runs:
        save_record(tmp_path, make_record(run))
    assert (
        len(sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]))[0].finished_before) == 3
    )  # nobody needs them any more


def test_a_crashed_parent_holds_back_its_children_alone(tmp_path):
    parent, runs = family(CRASHES)
    others = [make_run(seed, "other", "cola") for seed in range(2)]
    sweep = make_sweep([*runs, *others], parents=[parent])
    outcome, notes = sweep_stand_ins(tmp_path, sweep)
    assert set(outcome.unfinished) == {run.run_id for run in runs}
    assert set(outcome.finished) == {run.run_id for run in others}
    assert re.search(r"crashed \(ValueError: the bug\): .*not run; --retry-crashed .*again$", notes[-1])
    assert (outcome.blocked, outcome.crashed_start_runs) == (outcome.unfinished, (parent.run_id,))
    assert re.match(
        r"Ended: 2 of 5 runs done, 1 .*crashed, 3 left \(0 .*checkpoint, 3 .*nothing to start from\); --retry-crashed",
        closing_line(outcome),
    )
    assert begun(tmp_path, runs) == {}
    again, told = sweep_stand_ins(tmp_path, sweep)
    assert told == notes[-1:]  # not that it is trained first
    assert closing_line(again) == closing_line(outcome)
    assert begun(tmp_path, [parent]) == {0: 1}
    sweep_stand_ins(tmp_path, sweep, retry_crashed=True)
    assert begun(tmp_path, [parent]) == {0: 2}


def test_a_crashed_parent_that_is_a_run_of_the_sweep_is_tried_once(tmp_path):
    parent, runs = family(CRASHES)
    sweep = make_sweep([replace(parent, arm="own"), *runs], parents=[parent])
    for attempts in (1, 2):
        outcome, _ = sweep_stand_ins(tmp_path, sweep, retry_crashed=True)
        assert begun(tmp_path, [parent]) == {0: attempts}
        assert (outcome.crashed, outcome.crashed_start_runs, len(outcome.blocked)) == ((parent.run_id,), (), 3)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_parent_without_finite_weights_holds_back_its_children_alone(tmp_path, checkpoint):
    parent, runs = family(1, checkpoint=checkpoint)
    others = [make_run(seed, "other", "cola") for seed in range(2)]
    save_record(tmp_path, make_record(parent, failed=True).model_copy(update={"reason": DIVERGED}))
    if checkpoint == "last":  # they are kept, and are NaN
        (run_folder(tmp_path, parent.run_id) / "model-last").mkdir()
        (run_folder(tmp_path, parent.run_id) / "model-last" / "model.safetensors").write_text("nan")
    sweep = make_sweep([*runs, *others], parents=[parent])
    outcome, notes = sweep_stand_ins(tmp_path, sweep)
    assert set(outcome.finished) == {run.run_id for run in others}
    assert set(outcome.unfinished) == set(outcome.blocked) == {run.run_id for run in runs}
    assert outcome.crashed_start_runs == ()
    (note,) = notes
    assert note.startswith(f"run {parent.run_id} (recipe on mnli, seed 1), ")
    assert re.search(f" 3 runs .*no {checkpoint} weights .*{re.escape(DIVERGED)}.*not run", note)
    assert begun(tmp_path, [parent, *runs]) == {}
    assert closing_line(outcome) == (
        "Ended: 2 of 5 runs done, 3 left (0 with a checkpoint, 3 with nothing to start from)"
    )


def test_a_parent_that_diverges_now_holds_back_its_children(tmp_path):
    parent, runs = family(DIVERGES)
    outcome, notes = sweep_stand_ins(tmp_path, make_sweep([*runs, make_run(0, "other", "cola")], parents=[parent]))
    assert (len(outcome.finished), len(outcome.blocked)) == (1, 3)
    assert [note.rpartition(", ")[2] for note in notes[:1]] == ["is trained first"]
    assert [DIVERGED in note for note in notes] == [False, True]


def test_the_best_weights_of_a_parent_that_diverged_later_are_used(tmp_path):
    parent, runs = family(DIVERGES, checkpoint="best")
    assert len(sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]))[0].finished) == 3


def test_fail_fast_ends_with_the_parent(tmp_path):
    parent, runs = family(CRASHES)
    others = [make_run(seed, "other", "cola") for seed in range(2)]
    outcome, _ = sweep_stand_ins(tmp_path, make_sweep([*others, *runs], parents=[parent]), fail_fast=True)
    assert (len(outcome.unfinished), outcome.finished) == (5, ())


def test_a_failed_parent_is_used_and_told(tmp_path):
    parent, runs = family(FAILS)
    outcome, notes = sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]))
    assert len(outcome.finished) == 3
    assert re.search("failed; .*start from it nevertheless$", notes[-1])


@pytest.mark.faults
def test_a_parent_that_died_goes_on_from_its_checkpoint(tmp_path):
    parent, runs = family(DIES_ONCE)
    assert len(sweep_stand_ins(tmp_path, make_sweep(runs, parents=[parent]))[0].finished) == 3
    assert begun(tmp_path, [parent]) == {0: 1, 1: 1}


def main() -> None:
    """What the tests start in processes of their own."""
    results, what, jobs = sys.argv[1:]
    outcome, _ = sweep_stand_ins(Path(results), sweep_of(what), int(jobs))
    print(len(outcome.finished), len(outcome.stopped_early), len(outcome.unfinished), outcome.interrupted, flush=True)


def sweep_of(what: str) -> Sweep:
    if what == "family":
        parent, runs = family(SLOW, 4)
        return make_sweep(runs, parents=[parent])
    return make_sweep([make_run(seed, "slow") for seed in range(6)], RULE)


def start_process(results: Path, what: str, jobs: int = 1) -> subprocess.Popen:
    code = "import test_run_sweep; test_run_sweep.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, results, what, str(jobs)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_sweeps_share_a_parent(tmp_path):
    both = [start_process(tmp_path, "family") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (out, err) == ("4 0 0 False\n", "")
    sweep = sweep_of("family")
    assert begun(tmp_path, sweep.start_runs) == {0: 1}
    assert begun(tmp_path, sweep.runs) == {0: 4}


@pytest.mark.faults
@pytest.mark.slow
def test_ctrl_c_in_the_parent_leaves_a_checkpoint(tmp_path):
    process = start_process(tmp_path, "family")
    wait_until(lambda: read_events(tmp_path, "from-0"))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("0 0 4 True\n", "")
    sweep = sweep_of("family")
    assert (run_folder(tmp_path, sweep.start_runs[0].run_id) / CHECKPOINT_FILE).exists()
    assert len(sweep_stand_ins(tmp_path, sweep)[0].finished) == 4
    assert sum(begun(tmp_path, sweep.start_runs).values()) == 2
    assert begun(tmp_path, sweep.runs) == {0: 4}


# Trials


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_lowest_end_and_the_others_go_on(tmp_path, jobs):
    runs = [make_run(seed) for seed in range(6)]
    outcome, notes = sweep_stand_ins(tmp_path, make_sweep(runs, RULE), jobs)
    assert set(outcome.stopped_early) == ids(runs, 0, 2)
    assert set(outcome.finished) == ids(runs, 1, 3, 4, 5)
    assert (outcome.unfinished, outcome.crashed) == ((), ())
    (note,) = notes
    assert re.match("arm rte: 2 of 6 runs .*hopeless.*lowest 34 % .*validation score after 30 % of the steps", note)
    assert begun(tmp_path, runs) == {0: 6, 3: 4}
    for run_id in outcome.stopped_early:
        record = read_record(tmp_path, run_id)
        assert (record.status, record.failed, record.stop.of) == ("stopped", None, 6)
        assert not (run_folder(tmp_path, run_id) / CHECKPOINT_FILE).exists()
    again, notes = sweep_stand_ins(tmp_path, make_sweep(runs, RULE), jobs)
    assert (set(again.stopped_early), set(again.finished_before), again.finished) == (
        set(outcome.stopped_early),
        set(outcome.finished),
        (),
    )
    assert begun(tmp_path, runs) == {0: 6, 3: 4}


def test_without_the_rule_they_are_taken_up_again(tmp_path):
    runs = [make_run(seed) for seed in range(6)]
    sweep_stand_ins(tmp_path, make_sweep(runs, RULE))
    outcome, _ = sweep_stand_ins(tmp_path, make_sweep(runs))
    assert set(outcome.finished) == ids(runs, 0, 2)
    assert outcome.stopped_early == ()
    assert begun(tmp_path, runs) == {0: 8, 3: 4}
    assert statuses(tmp_path, runs) == {"finished": 6}
    assert len(sweep_stand_ins(tmp_path, make_sweep(runs, RULE))[0].finished_before) == 6  # what is finished stays so


def test_other_seeds_may_save_a_stopped_run(tmp_path):
    runs = [make_run(seed) for seed in range(6)]
    few = [runs[seed] for seed in (0, 1, 3)]
    assert set(sweep_stand_ins(tmp_path, make_sweep(few, RULE))[0].stopped_early) == ids(runs, 0)
    assert set(
        sweep_stand_ins(tmp_path, make_sweep(runs, EarlyStoppingRule(after=0.3, lowest=0.17)))[0].stopped_early
    ) == ids(runs, 2)
    assert statuses(tmp_path, runs) == {"finished": 5, "stopped": 1}


def test_every_setting_has_a_trial_of_its_own_and_arms_without_a_rule_none(tmp_path):
    ruled = [make_run(seed, task=task) for task, seeds in (("rte", range(3)), ("qnli", range(3, 6))) for seed in seeds]
    alone = [make_run(0, "alone", "mrpc")]
    free = [make_run(seed, "free", "sst2") for seed in range(3)]
    sweep = replace(make_sweep([*ruled, *alone, *free]), rules={run.run_id: RULE for run in (*ruled, *alone)})
    outcome, _ = sweep_stand_ins(tmp_path, sweep)
    assert outcome.stopped_early == (ruled[2].run_id, ruled[4].run_id)
    assert len(outcome.finished) == 8
    assert begun(tmp_path, [*alone, *free]) == {0: 4, 3: 1}


@pytest.mark.faults
def test_a_crash_in_the_trial_has_no_rank_and_one_after_it_has(tmp_path):
    runs = [*(make_run(seed) for seed in range(5)), make_run(5, "raise")]
    outcome, _ = sweep_stand_ins(
        tmp_path, make_sweep(runs, EarlyStoppingRule(after=0.3, lowest=0.4)), retry_crashed=True
    )
    assert outcome.crashed == (runs[5].run_id,)
    assert set(outcome.stopped_early) == ids(runs, 0, 2)
    assert begun(tmp_path, [runs[5]]) == {0: 1}  # not again in the same breath
    later = tmp_path / "later"
    later.mkdir()
    runs = [*(make_run(seed) for seed in range(5)), make_run(5, "dies")]
    outcome, _ = sweep_stand_ins(later, make_sweep(runs, RULE))
    assert outcome.crashed == (runs[5].run_id,)
    assert set(outcome.stopped_early) == ids(runs, 0, 2)
    assert set(sweep_stand_ins(later, make_sweep(runs, RULE))[0].stopped_early) == ids(runs, 0, 2)
    outcome, _ = sweep_stand_ins(later, make_sweep(runs, RULE), retry_crashed=True)
    assert (set(outcome.stopped_early), outcome.finished) == (ids(runs, 0, 2), (runs[5].run_id,))
    assert begun(later, [runs[5]]) == {0: 1, 3: 1, 5: 3}  # it died there; it pauses at once, and goes on


@pytest.mark.faults
@pytest.mark.slow
def test_killed_at_any_moment_it_ends_alike(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    sweep = sweep_of("trial")
    expected = set(sweep_stand_ins(whole, sweep, 2)[0].stopped_early)
    killed = tmp_path / "killed"
    killed.mkdir()
    for patience in (3.0, 4.0, 5.0):
        process = start_process(killed, "trial", 2)
        time.sleep(patience)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    outcome, _ = sweep_stand_ins(killed, sweep)
    assert set(outcome.stopped_early) == expected
    assert statuses(killed, sweep.runs) == {"finished": 4, "stopped": 2}


@pytest.mark.slow
def test_two_sweeps_agree(tmp_path):
    both = [start_process(tmp_path, "trial") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=80)
        assert (out, err) == ("4 2 0 False\n", "")
    assert begun(tmp_path, sweep_of("trial").runs) == {0: 6, 3: 4}


@pytest.mark.faults
@pytest.mark.slow
def test_ctrl_c_in_the_trial(tmp_path):
    process = start_process(tmp_path, "trial")
    sweep = sweep_of("trial")
    wait_until(lambda: statuses(tmp_path, sweep.runs)["paused"] == 2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out == "0 0 6 True\n"
    outcome, _ = sweep_stand_ins(tmp_path, sweep)
    assert (len(outcome.finished), set(outcome.stopped_early)) == (4, ids(sweep.runs, 0, 2))


@pytest.mark.faults
def test_a_kill_between_record_and_clean_up(tmp_path):
    runs = [make_run(seed) for seed in range(6)]
    outcome, _ = sweep_stand_ins(tmp_path, make_sweep(runs, RULE))
    left = run_folder(tmp_path, outcome.stopped_early[0]) / CHECKPOINT_FILE
    left.write_text("3")
    sweep_stand_ins(tmp_path, make_sweep(runs, RULE))
    assert not left.exists()


def test_a_child_may_be_hopeless_too(tmp_path):
    parent, runs = family(1, 6)
    outcome, _ = sweep_stand_ins(tmp_path, make_sweep(runs, RULE, [parent]))
    assert (len(outcome.finished), set(outcome.stopped_early)) == (4, ids(runs, 0, 2))


def test_runs_that_were_paused_by_hand_of_fate_go_on(tmp_path):
    """A sweep without the rule takes up a paused run from its checkpoint."""
    runs = [make_run(seed) for seed in range(2)]
    record = make_record(runs[0]).model_copy(update={"status": "paused", "failed": None})
    run_folder(tmp_path, runs[0].run_id).mkdir(parents=True)
    write_record(tmp_path, record)
    (run_folder(tmp_path, runs[0].run_id) / CHECKPOINT_FILE).write_text("3")
    outcome, _ = sweep_stand_ins(tmp_path, make_sweep(runs))
    assert len(outcome.finished) == 2
    assert begun(tmp_path, runs) == {0: 1, 3: 1}


def test_the_display_counts_paused_runs_as_done(tmp_path):
    events = []
    runs = [make_run(seed) for seed in range(6)]
    run_planned_sweep(
        make_sweep(runs, RULE), tmp_path, LocalExecutor(["cpu"]), Execution(), display=events.append,
        train=train_stand_in, fingerprint=lambda config, sources: "f" * 64,
    )  # fmt: skip
    opened = [(len(event.runs), event.done, event.crashed) for event in events if isinstance(event, SweepStarted)]
    assert opened == [(6, 0, 0), (4, 0, 0)]
