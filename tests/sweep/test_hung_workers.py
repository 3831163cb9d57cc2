"""Real workers that die, are stopped or get stuck: their runs are tried once more, and nobody waits for ever."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from support.hung_runs import IMPATIENT, sweep_impatiently
from support.worker_logs import read_events, wait_until

from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder
from stableft.sweep import workers
from stableft.sweep.executor import WorkerEnd
from stableft.sweep.local_workers import ProcessLink
from stableft.sweep.progress import Notice
from stableft.sweep.state import CRASH_FILE

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.faults, pytest.mark.timeout(60)]


def notices(events) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def start(results, *arms) -> subprocess.Popen:
    code = "from support.hung_runs import main; main()"
    command = [sys.executable, "-c", code, results, *arms]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit", "died with exit code 3, after step"),
        ("segv", r"died with signal 11 \(Segmentation fault\), after step"),
        ("oom", r"died with signal 9 \(Killed\), after step"),
        pytest.param(
            "stuck",
            r"hung, with no progress for [34] s while training, after step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "frozen",
            r"hung, with no sign of life for [34] s while training, after step",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_loses_its_worker_is_tried_once_more_from_its_checkpoint(tmp_path, fault, words):
    (run,), outcome, events = sweep_impatiently(tmp_path, [f"{fault} once"], fail_fast=True)
    assert (outcome.finished, outcome.crashed) == ((run.run_id,), ())
    (notice,) = notices(events)
    assert notice.startswith(f"{fault} once")
    assert re.search(
        f"the worker process {words} [0-9]+ of 40.*; it is tried once more, from its last checkpoint$", notice
    )
    assert len({pid for _, pid in read_events(tmp_path, "begin")}) == 2
    assert not (run_folder(tmp_path, run.run_id) / CRASH_FILE).exists()


@pytest.mark.parametrize("fault", ["oom", pytest.param("stuck", marks=pytest.mark.slow)])
def test_a_run_that_loses_two_workers_is_a_crash(tmp_path, fault):
    runs, outcome, _ = sweep_impatiently(tmp_path, [fault, "sound"])
    assert (outcome.crashed, outcome.finished) == ((runs[0].run_id,), (runs[1].run_id,))
    assert len(read_events(tmp_path, "begin")) == 3
    record = read_record(tmp_path, runs[0].run_id)
    assert record is not None
    assert record.reason is not None
    text = (run_folder(tmp_path, runs[0].run_id) / CRASH_FILE).read_text()
    assert text == f"{record.reason}\n"
    assert ", twice" in text or "; on the first try, the worker process" in text


def test_a_lost_machine_counts_as_a_death_only_if_the_run_loses_too_many(tmp_path, monkeypatch):
    def join(link: ProcessLink, seconds: float | None = None) -> WorkerEnd | None:
        end = join_process(link, seconds)
        return end and (end if end.clean else replace(end, cause="the loss of its node", machine_lost=True))

    join_process = ProcessLink.join
    monkeypatch.setattr(ProcessLink, "join", join)
    monkeypatch.setattr(workers, "MAX_MACHINES_LOST", 1)
    (run,), outcome, events = sweep_impatiently(tmp_path, ["oom"])
    assert outcome.crashed == (run.run_id,)
    assert len(read_events(tmp_path, "begin")) == 3
    pattern = "died with the loss of its node, .* it is tried (.*), from its last"
    places = [re.search(pattern, text) for text in notices(events)]
    assert [place and place[1] for place in places] == ["elsewhere", "once more"]


def test_fail_fast_stops_after_the_second_death_only(tmp_path):
    runs, outcome, _ = sweep_impatiently(tmp_path, ["oom", "sound"], fail_fast=True)
    assert (outcome.crashed, outcome.unfinished) == ((runs[0].run_id,), (runs[1].run_id,))
    assert len(read_events(tmp_path, "begin")) == 2


def test_an_input_that_cannot_be_read_for_now_crashes_its_run_alone(tmp_path):
    runs, outcome, _ = sweep_impatiently(tmp_path, ["unreadable", "sound"])
    assert (outcome.crashed, outcome.finished) == ((runs[0].run_id,), (runs[1].run_id,))
    record = read_record(tmp_path, runs[0].run_id)
    assert record is not None
    assert record.reason == "RuntimeError: an input cannot be read: [Errno 5] Input/output error; tried 3 times"
    assert len({pid for _, pid in read_events(tmp_path, "begin")}) == 1


@pytest.mark.slow
def test_slow_loading_evaluations_and_writes_are_no_hang(tmp_path):
    runs, outcome, events = sweep_impatiently(tmp_path, ["slow", "writing"], jobs=2)
    assert set(outcome.finished) == {run.run_id for run in runs}
    assert (notices(events), len(read_events(tmp_path, "begin"))) == ([], 2)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_sweep_that_was_stopped_itself_kills_no_worker(tmp_path, whole_group):
    process = start(tmp_path, "sound", "sound")
    wait_until(lambda: len(read_events(tmp_path, "begin")) == 2)
    send = os.killpg if whole_group else os.kill
    send(process.pid, signal.SIGSTOP)
    time.sleep(IMPATIENT.least + 1)
    send(process.pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=30)
    assert out == "2 0 0 False\n"
    assert Counter(read_events(tmp_path, "begin")).most_common(1)[0][1] == 1
    assert len(read_events(tmp_path, "begin")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["frozen", "stuck"])
def test_one_ctrl_c_ends_a_sweep_with_a_worker_that_hangs(tmp_path, fault):
    process = start(tmp_path, fault, "sound")
    wait_until(lambda: read_events(tmp_path, "fault") and len(read_events(tmp_path, "begin")) == 2)
    wait_until(lambda: len([*tmp_path.glob(f"runs/*/{CHECKPOINT_FILE}"), *read_events(tmp_path, "end")]) >= 2)
    asked_at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out.endswith(" True\n")
    finished, crashed, resumable, _ = out.split()
    assert (crashed, int(finished) + int(resumable)) == ("0", 2)
    # A step takes no time here, but on a busy machine Python does to exit.
    assert time.monotonic() - asked_at < IMPATIENT.stop + 6
    for _, pid in read_events(tmp_path, "begin"):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
