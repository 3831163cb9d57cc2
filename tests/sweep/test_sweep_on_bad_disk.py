"""A full disk or a results folder that is gone stops a sweep in real worker processes; the runs need no torch."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from support.sweep_records import make_record, make_run, save_record

from stableft.config.planned_run import Execution, LocalPaths
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, run_folder, write_record
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.state import CRASH_FILE
from stableft.sweep.workers import run_with_workers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def train_on_bad_disk(run, results, sources, execution, progress, stop):
    """Finishes the first run; the arm's name says what happens in the second."""
    if run.config.seeds.init == 1 and not (results / "mended").exists():
        match run.arm:
            case "full":
                (results / "filler").write_bytes(bytes(16 << 20))
            case "full, then dies":
                left = os.statvfs(results)
                with open(results / "filler", "ab") as filler:  # on the second try there is nothing left
                    filler.write(bytes(left.f_bavail * left.f_frsize))
                os.kill(os.getpid(), signal.SIGKILL)
            case "removed":
                shutil.rmtree(results)
            case "run removed":
                shutil.rmtree(run_folder(results, run.run_id))
    record = make_record(run)
    write_record(results, record)
    return record


def sweep(results: Path, arm: str):
    return run_with_workers(
        [make_run(seed, arm) for seed in range(3)],
        results,
        LocalPaths(),
        LocalExecutor(["cpu"]),
        Execution(),
        train=train_on_bad_disk,
        fingerprint=lambda config, sources: "f" * 64,
    )


@pytest.mark.parametrize("arm", ["full", "full, then dies"])
def test_a_full_disk_stops_the_sweep_and_the_same_call_goes_on(disk, arm):
    with pytest.raises(UserError, match=r"^cannot use \S*disk/\S*: No space left on device$"):
        sweep(disk.folder, arm)
    assert len(list(disk.folder.rglob(RECORD_FILE))) == 1
    assert not list(disk.folder.rglob(CRASH_FILE))
    disk.empty()
    (disk.folder / "mended").touch()
    outcome = sweep(disk.folder, arm)
    assert (len(outcome.finished_before), len(outcome.finished), outcome.crashed) == (1, 2, ())


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_that_is_read_only_stops_the_sweep_and_the_same_call_goes_on(disk, made):
    """That of the second run, or that in which it would be made."""
    second = run_folder(disk.folder, make_run(1, "arm").run_id)
    folder = second if made else second.parent
    folder.mkdir(parents=True)
    if not made:
        run_folder(disk.folder, make_run(0, "arm").run_id).mkdir()
        save_record(disk.folder, make_record(make_run(0, "arm")))
    disk.make_read_only(folder)
    named = second / "claim.json" if made else second
    try:
        with pytest.raises(UserError, match=rf"^cannot use {named}: Read-only file system$"):
            sweep(disk.folder, "arm")
    finally:
        disk.make_writable(folder)
    assert len(list(disk.folder.rglob(RECORD_FILE))) == 1
    assert not list(disk.folder.rglob(CRASH_FILE))
    outcome = sweep(disk.folder, "arm")
    assert (len(outcome.finished_before), len(outcome.finished), outcome.crashed) == (1, 2, ())


@pytest.mark.parametrize("arm", ["removed", "run removed"])
def test_a_folder_that_is_removed_stops_the_sweep(tmp_path, arm):
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(UserError, match=r"^\S*results\S*: this folder was removed during (the sweep|its run)$"):
        sweep(results, arm)
    assert results.exists() == (arm == "run removed")
    assert not list(results.rglob(CRASH_FILE))


def test_a_checkpoint_that_a_finished_run_could_not_remove_is_removed_by_the_next_sweep(tmp_path):
    """One that is newer than the record is of a run that is trained again, and stays."""
    runs = [make_run(seed, "arm") for seed in range(3)]
    for number, run in enumerate(runs):
        save_record(tmp_path, make_record(run))
        path = run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE
        path.write_text("state")
        written = (path.parent / RECORD_FILE).stat().st_mtime_ns + (-(10**6), 0, 10**6)[number]
        os.utime(path, ns=(written, written))
    outcome = sweep(tmp_path, "arm")
    assert len(outcome.finished_before) == 3
    assert [(run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists() for run in runs] == [False, False, True]
