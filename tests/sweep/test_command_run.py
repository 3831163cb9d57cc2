"""One run of a training command: its score, its faults, and that no process of it is left."""

import errno
import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
import yaml
from support.commands import are_gone, do_run, load_command_sweep, read_pids

from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import Execution, RunInterrupted
from stableft.errors import UserError
from stableft.records.held_claims import ClaimLostError
from stableft.records.run_record import RunRecord, read_record, run_folder
from stableft.sweep import command_run
from stableft.sweep.command_run import make_environment
from stableft.sweep.state import run_under_claim


def run_once(folder, *arguments, **options):
    sweep = load_command_sweep(folder, *arguments, **options)
    return do_run(sweep.runs[0], sweep, folder)


@pytest.mark.parametrize("do", ["train --value 0.7", "train --value text"])
def test_a_record_of_a_command_keeps_the_rule(tmp_path, do):
    sweep, rule = load_command_sweep(tmp_path, do), DecideRule(about=["failures"], looks=[2, 4])
    assert do_run(replace(sweep.runs[0], decide=rule), sweep, tmp_path).decide == rule


def test_a_command_is_run_without_a_shell_and_its_score_is_recorded(tmp_path):
    record = run_once(tmp_path, more="baseline: 0.527")
    folder = run_folder(tmp_path, record.run_id)
    assert (record.status, record.failed, record.reason) == ("finished", False, None)
    assert record.reported_score == 0.75
    assert record.command
    assert (record.command.device, record.command.exit_code, record.command.written) == ("cpu", 0, "0.75")
    assert (folder / "output.log").read_text() == "seed 1 on cpu, sees ''\n"
    assert yaml.safe_load((folder / "config.yaml").read_text())["command"][1:4] == ["train.py", "--seed", "{seed}"]
    assert read_record(tmp_path, record.run_id) == record


@pytest.mark.parametrize(
    ("value", "better", "failed"),
    [("0.52708", "higher", True), ("0.5307", "higher", False), ("0.52708", "lower", True), ("0.4", "lower", False)],
)
def test_the_baseline_decides_which_runs_failed(tmp_path, value, better, failed):
    score = f'{{file: "{{out}}/eval_results.json", key: eval_accuracy, better: {better}}}'
    assert run_once(tmp_path, f"train --value {value}", score, "baseline: 0.527").failed is failed


def test_nan_is_a_score_of_a_failed_run_and_without_a_baseline_nothing_else_is_known(tmp_path):
    record = run_once(tmp_path, "train --value NaN", more="baseline: 0.5")
    assert (record.status, record.failed) == ("finished", True)
    assert record.reported_score is not None
    assert math.isnan(record.reported_score)
    assert run_once(tmp_path, "train --value 0.1").failed is None


def test_the_last_line_of_stdout_that_matches_has_the_score(tmp_path):
    score = r"{pattern: 'accuracy: ([\d.]+)', scale: 100}"
    record = run_once(tmp_path, "print --value 71.5", score)
    assert record.reported_score == 0.715  # 0.9 is on stderr
    assert "accuracy: 0.9" in (run_folder(tmp_path, record.run_id) / "output.log").read_text()


@pytest.mark.parametrize(
    ("do", "score", "code", "reason"),
    [
        ("fail", None, 1, "exit code 1; its last line is 'SystemError: out of luck'"),
        ("die", None, -9, "it was ended by signal 9 (Killed)"),
        ("silent", None, 0, "exit code 0, but it left no score.file {out}/eval_results.json"),
        ("train --value 1.5", None, 0, "eval_accuracy in score.file {out}/eval_results.json is 1.5, out of the range"),
        ("train --value '\"high\"'", None, 0, "is 'high', which is not a number"),
        ("train --value true", None, 0, "is True, which is not a number"),
        ("train --value ''", None, 0, "score.file {out}/eval_results.json cannot be read: eval_results.json is not"),
        ("train", '{file: "{out}/eval_results.json", key: eval_f1}', 0, "has no score.key 'eval_f1'"),
        ("train", "{pattern: 'accuracy: (.*)'}", 0, "no line of its stdout matches score.pattern 'accuracy: (.*)'"),
        ("print --value low", "{pattern: 'accuracy: (.*)'}", 0, "is 'low', which is not a number"),
    ],
)
def test_a_command_that_fails_or_lies_has_crashed(tmp_path, do, score, code, reason):
    record = run_once(tmp_path, *(do, score) if score else (do,))
    assert record.status == "crashed"
    assert record.reason
    assert reason in record.reason
    assert record.command
    assert record.command.exit_code == code
    assert record.command.last_lines[0] == "seed 1 on cpu, sees ''"
    assert record.last is None
    crash = (run_folder(tmp_path, record.run_id) / "crash.txt").read_text()
    assert crash.startswith(record.reason)
    assert record.command.last_lines[-1] in crash


def test_a_score_of_an_earlier_try_does_not_count(tmp_path):
    sweep = load_command_sweep(tmp_path, "stale")
    first, second = (do_run(sweep.runs[0], sweep, tmp_path) for _ in range(2))
    assert first.reason == "exit code 1; its last line is \"seed 1 on cpu, sees ''\""
    assert second.reason
    assert second.reason.startswith("exit code 0, but it left no score.file")


def test_of_a_flood_of_output_the_beginning_and_the_end_are_kept(tmp_path):
    record = run_once(tmp_path, "flood", "{pattern: 'accuracy: ([0-9.]+)'}")
    path = run_folder(tmp_path, record.run_id) / "output.log"
    log = path.read_bytes()
    assert record.reported_score == 0.75
    assert log.startswith(b"seed 1 on cpu")
    # What the pipe of stderr still holds when the line is read from stdout comes after it.
    assert b"accuracy: 0.75" in log[-command_run.CHUNK_BYTES - 100 :]
    assert b"bytes are left out here" in log
    assert len(log) < 10_000_000  # of 100 million


def test_a_hanging_command_is_ended_at_its_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(command_run, "GRACE_SECONDS", 0.3)
    record = run_once(tmp_path, "hang", more="timeout: 1.5")
    assert record.reason == "it took longer than its timeout of 1.5 s; its last line is 'about to hang'"
    assert record.command
    assert record.command.exit_code is None
    assert are_gone(read_pids(run_folder(tmp_path, record.run_id)), seconds=0)


def test_a_command_asked_to_stop_is_ended_and_starts_again_later(tmp_path, monkeypatch):
    monkeypatch.setattr(command_run, "GRACE_SECONDS", 0.3)
    sweep = load_command_sweep(tmp_path, "hang")
    folder = run_folder(tmp_path, sweep.runs[0].run_id)
    with pytest.raises(RunInterrupted):
        do_run(sweep.runs[0], sweep, tmp_path, stop=lambda: (folder / "pids").exists() and bool(read_pids(folder)))
    assert are_gone(read_pids(folder), seconds=0)
    assert read_record(tmp_path, folder.name) is None


@pytest.mark.parametrize(("stops", "more"), [(True, ""), (False, "timeout: 0.001")])
def test_a_command_that_has_ended_keeps_its_score_if_it_is_asked_to_end_then(tmp_path, stops, more):
    sweep = load_command_sweep(tmp_path, more=more)
    before = psutil.Process().children()

    def stop_late() -> bool:
        """Return only once the command and its supervisor have ended, so that nobody reads the request."""
        (supervisor,) = (child for child in psutil.Process().children() if child not in before)
        while supervisor.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        return stops

    record = do_run(sweep.runs[0], sweep, tmp_path, stop=stop_late)
    assert (record.status, record.reported_score) == ("finished", 0.75)


def test_children_that_outlive_a_command_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(command_run, "GRACE_SECONDS", 0.3)
    record = run_once(tmp_path, "leave")
    folder = run_folder(tmp_path, record.run_id)
    assert record.status == "finished"
    assert are_gone(json.loads((folder / "pids").read_text()), seconds=0)
    assert "ended 2 processes that outlived the command" in (folder / "output.log").read_text()


WORKER = """
import sys
from pathlib import Path
from support.commands import do_run
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
sweep = load_sweep("s.yaml", LocalPaths())
do_run(sweep.runs[0], sweep, Path("."))
"""


def test_a_command_dies_with_its_worker_and_the_next_try_waits_for_that(tmp_path):
    sweep = load_command_sweep(tmp_path, "hang", more="timeout: 60")
    folder = run_folder(tmp_path, sweep.runs[0].run_id)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=tmp_path, env=environment)
    pids = read_pids(folder)
    worker.kill()
    worker.wait()
    with command_run.open_log(folder / "output.log"):  # whose lock the supervisor has until all are gone
        assert are_gone(pids, seconds=0)


def test_two_tries_do_not_share_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(command_run, "LOCK_SECONDS", 0.1)
    path = tmp_path / "output.log"
    refused = pytest.raises(ClaimLostError, match="the command of an earlier try")
    with command_run.open_log(path), refused, command_run.open_log(path):
        pass
    with command_run.open_log(path), pytest.raises(RunInterrupted), command_run.open_log(path, lambda: True):
        pass
    released = threading.Event()

    def hold() -> None:
        with command_run.open_log(path):
            released.wait()

    monkeypatch.setattr(command_run, "LOCK_SECONDS", 60)
    holder = threading.Thread(target=hold)
    holder.start()
    threading.Timer(0.3, released.set).start()
    time.sleep(0.05)
    with command_run.open_log(path):
        assert released.is_set()
    holder.join()


def test_a_run_whose_log_another_process_has_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(command_run, "LOCK_SECONDS", 0.1)
    sweep = load_command_sweep(tmp_path)
    run, folder = sweep.runs[0], run_folder(tmp_path, sweep.runs[0].run_id)
    folder.mkdir(parents=True)

    def do_under_claim() -> RunRecord | None:
        return run_under_claim(run, tmp_path, None, lambda: do_run(run, sweep, tmp_path), lambda: None)

    with command_run.open_log(folder / "output.log"):  # as the supervisor on a node that was frozen
        assert do_under_claim() is None
        assert read_record(tmp_path, run.run_id) is None
    record = do_under_claim()
    assert record
    assert record.status == "finished"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_command_runs_on_a_file_system_without_locks(tmp_path, monkeypatch, code):
    def refuse(*_) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert run_once(tmp_path).status == "finished"


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def fail(*_) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), command_run.open_log(tmp_path / "output.log"):
        pass


def test_a_program_that_is_not_there_is_a_crash_of_its_run(tmp_path):
    sweep = load_command_sweep(tmp_path)
    config = sweep.runs[0].config.model_copy(update={"command": ("./nothing", "{seed}", "{out}")})
    record = do_run(type(sweep.runs[0])("theirs", "theirs", config, "last"), sweep, tmp_path)
    assert record.reason
    assert record.reason.startswith("it could not be started: [Errno 2] No such file or directory: './nothing'")


def test_an_input_that_changed_after_planning_is_refused(tmp_path):
    sweep = load_command_sweep(tmp_path)
    with open(tmp_path / "train.py", "a") as file:
        file.write("# changed\n")
    with pytest.raises(UserError, match=r"train\.py has changed since the sweep began"):
        do_run(sweep.runs[0], sweep, tmp_path)
    assert load_command_sweep(tmp_path).runs[0].run_id == sweep.runs[0].run_id  # which copies the script again


@pytest.mark.parametrize(("log", "written"), [("log_{seed}.txt", "log_1.txt"), ("log.txt", "log.txt")])
def test_a_command_that_writes_a_file_it_names_is_told_of_that(tmp_path, log, written):
    sweep = load_command_sweep(tmp_path, f"log --log {log}")
    run = sweep.runs[0]
    with pytest.raises(
        UserError, match=rf"{written}: the command wrote this file.* let the command write below {{out}}"
    ):
        do_run(run, sweep, tmp_path)
    record = read_record(tmp_path, run.run_id)
    assert record
    assert record.status == "finished"
    assert load_command_sweep(tmp_path, f"log --log {log}").runs[0].run_id != run.run_id
    (tmp_path / written).unlink()
    assert load_command_sweep(tmp_path, f"log --log {log}").runs[0].run_id == run.run_id


def test_a_command_may_not_change_the_file_of_its_seed(tmp_path):
    (tmp_path / "log_1.txt").write_text("before")
    sweep = load_command_sweep(tmp_path, "log --log log_{seed}.txt")
    with pytest.raises(UserError, match=r"log_1\.txt: the command wrote this file"):
        do_run(sweep.runs[0], sweep, tmp_path)


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("cpu", None, ""),
        ("cpu", "0,1", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "4, 6", "6"),
        ("cuda:0", "GPU-ab", "GPU-ab"),
    ],
)
def test_a_command_sees_the_device_of_its_slot_alone(monkeypatch, device, visible, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = make_environment(Execution(device=device, threads=3))
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == (seen, "3")


def test_the_device_is_told_by_the_name_that_the_command_sees(tmp_path):
    sweep = load_command_sweep(tmp_path)
    record = do_run(sweep.runs[0], sweep, tmp_path, device="cuda:3")
    assert (run_folder(tmp_path, record.run_id) / "output.log").read_text() == "seed 1 on cuda:0, sees '3'\n"
