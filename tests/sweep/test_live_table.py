import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import make_command_record
from support.live_table import start_progress
from support.sweep_records import make_record, make_run

from stableft.config.planned_run import RunProgress
from stableft.records.run_record import EvalPoint
from stableft.sweep.progress import (
    ClockTick,
    Notice,
    ProgressReported,
    RunEnded,
    RunStarted,
    SweepStarted,
    apply_event,
    closing_line,
    estimate_seconds_left,
    event_line,
    open_display,
    progress_line,
)
from stableft.sweep.state import SweepResult
from stableft.text import format_duration


def test_the_time_left_is_unknown_until_a_step_is_measured():
    run = make_run(1)
    view = start_progress([run, make_run(2)])
    assert progress_line(view) == "0/2 done, 0 failed, 0 crashed, ETA ?"
    apply_event(view, RunStarted("cpu", run), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(0, 100)), 10.0)
    assert estimate_seconds_left(view) is None
    apply_event(
        view, ProgressReported("cpu", RunProgress(20, 100)), 20.0
    )  # 2 steps a second; loading, 10 seconds, does not count
    assert estimate_seconds_left(view) == pytest.approx(40 + 50)


def test_a_resumed_run_is_timed_from_where_it_went_on():
    run = make_run(1)
    view = start_progress([run])
    apply_event(view, RunStarted("cpu", run), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(80, 100)), 5.0)
    apply_event(view, ProgressReported("cpu", RunProgress(90, 100)), 6.0)
    assert estimate_seconds_left(view) == pytest.approx(1.0)


def test_the_time_left_counts_workers_and_longer_schedules():
    runs = [make_run(seed) for seed in range(4)]
    longer = make_run(9, length={"epochs": 6})
    view = start_progress([*runs, longer], workers=2)
    for slot in (0, 1):
        apply_event(view, RunStarted(f"cuda:{slot}", runs[slot]), 0.0)
        apply_event(view, ProgressReported(f"cuda:{slot}", RunProgress(0, 30)), 0.0)
        apply_event(view, ProgressReported(f"cuda:{slot}", RunProgress(30, 30)), 30.0)
        apply_event(view, RunEnded(f"cuda:{slot}", runs[slot], "done", make_record(runs[slot], failed=slot == 1)), 30.0)
    assert estimate_seconds_left(view) == pytest.approx((30 + 30 + 60) / 2)
    assert progress_line(view) == "2/5 done, 1 failed, 0 crashed, ETA 0:01:00"


def test_runs_of_another_batch_size_are_estimated_from_the_rows_of_those_that_began():
    run = make_run(1)
    other = make_run(2, batch_size=2 * run.config.schedule.batch_size)
    view = start_progress([run, other])
    apply_event(view, RunStarted("cpu", run), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(0, 100)), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(10, 100)), 10.0)
    assert estimate_seconds_left(view) == pytest.approx(90 + 50)


def test_a_run_on_data_not_yet_begun_makes_the_time_left_unknown_unless_its_steps_are_given():
    run = make_run(1)
    for other, expected in (
        (make_run(2, task="cola"), None),
        (make_run(2, task="cola", length={"steps": 50}), 50 + 90),
    ):
        view = start_progress([run, other])
        apply_event(view, RunStarted("cpu", run), 0.0)
        apply_event(view, ProgressReported("cpu", RunProgress(0, 100)), 0.0)
        apply_event(view, ProgressReported("cpu", RunProgress(10, 100)), 10.0)
        assert estimate_seconds_left(view) == (expected and pytest.approx(expected))


def test_known_steps_make_the_time_left_known_before_a_run_on_other_data_has_begun():
    run, other = make_run(1), make_run(2, task="cola")
    view = start_progress([run, other])
    view.steps = {other.run_id: 40}
    apply_event(view, RunStarted("cpu", run), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(0, 100)), 0.0)
    apply_event(view, ProgressReported("cpu", RunProgress(10, 100)), 10.0)
    assert estimate_seconds_left(view) == pytest.approx(90 + 40)


def test_the_time_left_of_commands_is_that_of_whole_runs_that_ended():
    def plan(arm, seed):
        return replace(make_run(seed, arm), config=make_command_record(arm, seed, 0.7).config)

    runs = [plan("a", 1), plan("a", 2), plan("b", 1)]
    view = start_progress(runs)
    apply_event(view, RunStarted("cpu", runs[0]), 0.0)
    assert estimate_seconds_left(view) is None
    record = make_command_record("a", 1, 0.7).model_copy(update={"seconds": 10.0})
    apply_event(view, RunEnded("cpu", runs[0], "done", record), 11.0)
    apply_event(view, RunStarted("cpu", runs[1]), 11.0)
    assert estimate_seconds_left(view) == pytest.approx(10 + 10)
    apply_event(view, ClockTick(), 15.0)
    assert estimate_seconds_left(view) == pytest.approx(6 + 10)
    apply_event(view, ClockTick(), 40.0)  # slower than the first
    assert estimate_seconds_left(view) == pytest.approx(0 + 10)
    crashed = record.model_copy(update={"status": "crashed", "seconds": 1.0})
    apply_event(view, RunEnded("cpu", runs[1], "done", crashed), 41.0)
    assert estimate_seconds_left(view) == pytest.approx(10)
    mixed = start_progress([plan("a", 1), make_run(2)])
    apply_event(mixed, RunEnded("cpu", runs[0], "done", record), 11.0)
    assert estimate_seconds_left(mixed) is None  # a recipe's steps are not known by a command's time


def test_crashed_runs_that_a_look_has_passed_are_not_offered_to_be_tried_again():
    outcome = SweepResult(("a",), (), ("b", "c"), (), (), (), False, not_retried=("b", "c"))
    assert closing_line(outcome) == "Ended: 1 of 3 runs done, 2 crashed; a look has passed the crashed ones"
    some = replace(outcome, not_retried=("b",))
    assert closing_line(some).endswith(
        "2 crashed; --retry-crashed retries 1 of the crashed ones; a look has passed 1 of these"
    )


def test_plain_lines():
    run = make_run(3, arm="mosbach")
    view = start_progress([run], done=2)
    assert event_line(view, SweepStarted([run], 2, 0, 0, 1)) == "1 runs to do, 2 done, 0 crashed; 1 at a time"
    assert event_line(view, RunStarted("cpu", run)) == (
        "[2/3 done, 0 failed, 0 crashed, ETA ?] started mosbach rte seed 3 on cpu"
    )
    assert event_line(view, ProgressReported("cpu", RunProgress(1, 2))) is None
    assert event_line(view, ClockTick()) is None
    ended = RunEnded("cpu", run, "done", make_record(run, status="crashed"))
    apply_event(view, ended, 1.0)
    assert event_line(view, ended) == (
        "[2/3 done, 0 failed, 1 crashed, ETA 0:00:00] crashed (a test): mosbach rte seed 3"
    )
    assert event_line(view, Notice("a sentence")) == "a sentence"


def test_a_run_at_another_process_is_shown_as_such():
    run = make_run(3)
    view = start_progress([run])
    apply_event(view, RunEnded("cpu", run, "claimed_elsewhere"), 0.0)
    assert "1 with another process" in progress_line(view)
    apply_event(view, RunStarted("cpu", run), 1.0)
    assert "another process" not in progress_line(view)


def test_the_last_line_says_how_to_go_on():
    outcome = SweepResult(("a", "b"), ("b",), ("c",), ("d",), ("e", "f"), ("e",), True)
    assert re.match(
        r"Interrupted: 3 of 6 runs done, 1 .*failed, 1 crashed, 2 left \(1 .*checkpoint\); .*same command.*--retry",
        closing_line(outcome),
    )
    assert closing_line(SweepResult(("a",), (), (), (), (), (), False)) == "Ended: 1 of 1 runs done"
    held = SweepResult((), (), (), (), ("e", "f"), (), False, blocked=("e",), crashed_start_runs=("p",))
    assert re.match(
        r"Ended: 0 of 2 runs done, 1 .*crashed, 2 left \(0 .*checkpoint, 1 .*nothing.*\); .*same command.*--retry",
        closing_line(held),
    )


def test_durations():
    assert [format_duration(s) for s in (None, 0.4, 59.7, 3661, 360000)] == [
        "?",
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "100:00:00",
    ]


def show_a_run(live: bool | None = None) -> None:
    run = make_run(3, arm="[mosbach]")
    with open_display(live) as show:
        show(SweepStarted([run, make_run(4)], 0, 0, 0, 1))
        show(RunStarted("cuda:0", run))
        show(ProgressReported("cuda:0", RunProgress(5, 40, 0.5, 0.75)))
        show(Notice("a [sentence]"))
        show(ClockTick())


def test_where_there_is_no_terminal_the_display_prints_plain_lines(capsys):
    show_a_run()
    assert capsys.readouterr().out.splitlines() == [
        "2 runs to do, 0 done, 0 crashed; 1 at a time",
        "[0/2 done, 0 failed, 0 crashed, ETA ?] started [mosbach] rte seed 3 on cuda:0",
        "a [sentence]",
    ]


def test_on_a_terminal_the_display_is_a_table():
    controller, terminal = os.openpty()
    code = "import test_live_table; test_live_table.show_a_run()"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=terminal, env=environment, check=True
    )
    os.close(terminal)
    seen = os.read(controller, 100_000).decode()
    os.close(controller)
    for cell in ("cuda:0", "[mosbach]", "rte", "5/40", "0.5000", "0.7500", "0/2 done", "a [sentence]"):
        assert cell in seen


@pytest.mark.faults
def test_a_terminal_that_is_gone_loses_the_table_alone():
    controller, terminal = os.openpty()
    os.close(controller)
    code = """if True:
        import sys, test_live_table
        from stableft.text import forgiving_output
        with forgiving_output() as files:
            test_live_table.show_a_run(live=True)
        print(files["stdout"].error.strerror, file=sys.stderr)
    """
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command, here = [sys.executable, "-W", "error", "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=here, stdout=terminal, stderr=subprocess.PIPE, env=environment, check=True)
    os.close(terminal)
    assert done.stderr == b"Input/output error\n"


def test_runs_that_end_early_are_counted_apart():
    outcome = SweepResult(("a",), (), (), (), (), (), False, ("b", "c"))
    assert closing_line(outcome) == "Ended: 1 of 3 runs done, 2 stopped early as hopeless"


def test_a_trial_is_done_when_it_pauses():
    run = replace(make_run(3, length={"steps": 100}), pause_after=0.3)
    view = start_progress([run, replace(make_run(4, length={"steps": 100}), pause_after=0.3)])
    apply_event(view, RunStarted("cpu", run), 0.0)
    for step in (0, 10):
        apply_event(view, ProgressReported("cpu", RunProgress(step, 100)), float(step))
    assert estimate_seconds_left(view) == pytest.approx(20 + 30)  # of 30 steps each, not of 100
    point = EvalPoint(step=30, epoch=1.0, train_loss=0.5, val_loss=0.5, val={"accuracy": 0.625})
    record = make_record(run).model_copy(update={"status": "paused", "evals": (point,), "steps": 30, "failed": None})
    apply_event(view, RunEnded("cpu", run, "done", record), 30.0)
    assert (view.done, view.crashed, len(view.pending)) == (1, 0, 1)
    assert "paused after step 30, validation accuracy 0.6250" in event_line(view, RunEnded("cpu", run, "done", record))
