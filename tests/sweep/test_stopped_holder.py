"""A process that was stopped while it trained a run, until another one had taken the run over and left it again."""

import contextlib
import shutil

import pytest
from support.stopped_holders import Moments, read_all
from support.training_runs import train_run

from stableft.config.planned_run import RunInterrupted
from stableft.records.probe_record import PROBES_FILE
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    RECORD_FILE,
    RunRecord,
    dump_record,
    read_record,
    run_folder,
)
from stableft.sweep import leases
from stableft.sweep.state import CRASH_FILE, run_under_claim

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def job(toy_run, toy_sources, tmp_path, monkeypatch):
    """Returns a run, its results folder and its record of a training in another one."""
    monkeypatch.setattr(leases, "TIMES", leases.LeaseTimes(missing=0.02))
    run = toy_run(**{"schedule.length": {"steps": 2}, "evaluation.every": {"times": 1}})
    return run, tmp_path / "results", train_run(run, tmp_path / "elsewhere", toy_sources)


@pytest.mark.parametrize(
    ("there", "crashes", "least"),
    [
        (CRASH_FILE, False, 10),
        (CHECKPOINT_FILE, False, 10),  # a damaged one
        (RECORD_FILE, True, 10),  # a damaged one
        ("finished", False, 2),  # with a checkpoint
    ],
)
def test_whenever_it_was_stopped_it_changes_nothing_more(job, toy_sources, monkeypatch, there, crashes, least):
    run, results, whole = job
    folder, left = run_folder(results, run.run_id), {}

    def succeed() -> None:
        for name in (CHECKPOINT_FILE, CRASH_FILE, HISTORY_FILE, PROBES_FILE):
            (folder / name).write_text("successor")
        (folder / RECORD_FILE).write_text(dump_record(whole))
        left.clear()
        left.update(read_all(folder))

    def train() -> RunRecord:
        if not crashes:
            return train_run(run, results, toy_sources, save="best")
        with contextlib.suppress(RunInterrupted):
            train_run(run, results, toy_sources, stop_at=1)
        raise ValueError("a mistake")

    moments, stopped = Moments(folder, monkeypatch, succeed), 0
    for at in range(1, 300):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if there == "finished":
            (folder / RECORD_FILE).write_text(dump_record(whole))
        (folder / (CHECKPOINT_FILE if there == "finished" else there)).write_text("earlier")
        moments.calls, moments.at = 0, at
        run_under_claim(run, results, None, train, lambda: None)
        if moments.calls < at:
            break
        stopped += 1
        assert read_all(folder) == left, at
        assert read_record(results, run.run_id) == whole
    assert stopped >= least
