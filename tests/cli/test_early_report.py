"""The process that makes a sweep's report: it draws while nobody waits, and its failure loses nothing."""

import time

import pytest
from support.sweep_records import make_record, make_run, save_record

from stableft.cli.early_report import EarlyReport
from stableft.cli.sweep_commands import print_report
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep_from_options
from stableft.records.run_record import Scores
from stableft.sweep.progress import RunStarted, SweepStarted


@pytest.mark.slow
def test_the_report_of_the_process_is_printed(tmp_path, capfd):
    sweep = load_sweep_from_options("demo", None, [], ["devlin"], "1-3")
    runs = sweep.runs
    report = EarlyReport(sweep, tmp_path, worthwhile=0.0)
    report.follow(SweepStarted(runs, done=0, failed=0, crashed=0, workers=2))
    report.follow(RunStarted("cpu #1", runs[0]))
    report.follow(RunStarted("cpu #2", runs[1]))
    report.finish()  # does nothing: the last run has not started, so there is no process
    assert not (tmp_path / "sweeps").exists()
    report.follow(RunStarted("cpu #1", runs[2]))
    scores = Scores(step=6, val={"accuracy": 0.7}, test=None)
    for run in runs:  # they finish after the process has started
        save_record(tmp_path, make_record(run).model_copy(update={"last": scores, "best": scores}))
    report.finish()
    assert capfd.readouterr() == ("", "")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sweeps" / "demo").iterdir()}
    assert {"scores.png", "report.html", "report.md"} <= made.keys()
    print_report(sweep, tmp_path)
    assert "scores.png" in capfd.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sweeps" / "demo").iterdir()} == made
    report.finish()  # it has ended, which is no error


def test_a_short_sweep_needs_no_process(tmp_path):
    runs = [make_run(1)]
    report = EarlyReport(Sweep("s", tmp_path / "s.yaml", tuple(runs), LocalPaths()), tmp_path)
    report.follow(SweepStarted(runs, done=0, failed=0, crashed=0, workers=1))
    report.follow(RunStarted("cpu", runs[0]))
    start = time.monotonic()
    report.finish()
    assert time.monotonic() - start < 1
    assert not (tmp_path / "sweeps").exists()
