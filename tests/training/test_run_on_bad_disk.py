"""A disk that is full, read-only or gone is never a run's crash, and the same command goes on."""

import errno
import json
import os
import re
import resource
from pathlib import Path

import pytest
from support.disks import as_nobody, as_root, folder_of_root
from support.sweep_records import make_run
from support.training_runs import run_outputs, train_run

from stableft.errors import StorageError, UserError
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, atomic_write, run_folder
from stableft.sweep.state import CRASH_FILE, record_worker_death, run_under_claim

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]
SAVING = {"checkpoint_every": 3, "save": "all"}


def train_claimed(run, results, sources, replaces=None):
    return run_under_claim(run, results, replaces, lambda: train_run(run, results, sources, **SAVING), lambda: None)


def assert_no_crash(results: Path) -> None:
    assert not [*results.rglob(CRASH_FILE), *results.rglob(RECORD_FILE), *results.rglob(".*.tmp")]


def test_a_run_goes_on_once_there_is_space(disk, toy_run, toy_sources, undisturbed):
    """At first nothing can be written, then more and more: a model before the checkpoint, which is larger."""
    run, results, told = toy_run(), disk.folder / "results", set()
    results.mkdir()
    for leave in (0, 5_000, 20_000, 60_000, 100_000, 150_000):
        disk.fill(leave)
        with pytest.raises(StorageError) as caught:
            train_claimed(run, results, toy_sources)
        named = re.match(r"(?:cannot use )?(\S+?)(?::| needs) ", str(caught.value))
        assert named, caught.value
        told.add(Path(named[1]).name)
        assert_no_crash(results)
        disk.empty()
    assert told == {"claim.json", "config.yaml", CHECKPOINT_FILE, "model-best"}
    record = train_claimed(run, results, toy_sources)
    assert run_outputs(results, record) == undisturbed(run)


def test_a_checkpoint_that_does_not_fit_is_not_begun(disk, toy_run, toy_sources):
    run, results = toy_run(), disk.folder / "results"
    results.mkdir()
    disk.fill(60_000)
    with pytest.raises(StorageError) as caught:
        train_run(run, results, toy_sources, checkpoint_every=1)
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    told = re.fullmatch(
        rf"{path} needs ([\d,]+) bytes \(\d+ kB\), but its disk has ([\d,]+) \(\d+ kB\) free", str(caught.value)
    )
    assert told
    disk.empty()
    with pytest.raises(Exception, match="stopped after step 1"):
        train_run(run, results, toy_sources, stop_at=1)
    needed, free = (int(number.replace(",", "")) for number in told.groups())
    assert free < needed <= path.stat().st_size < 2 * needed  # small tensors are padded


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_no_write_of_a_run_is_its_crash(tmp_path, toy_run, toy_sources, undisturbed, monkeypatch, number):
    """Every write to the disk fails once, in turn, each at its very end; every attempt goes on from the one before."""
    run, fsync, writes, failures, told = toy_run(), os.fsync, 0, 0, []
    monkeypatch.setattr("os.fsync", lambda handle: fail_at_the_next(handle))

    def fail_at_the_next(handle):
        nonlocal writes
        writes += 1
        if writes > failures:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    record = None
    while not record:
        writes = 0
        try:
            record = train_claimed(run, tmp_path, toy_sources)
        except StorageError as error:
            told.append(str(error))
            failures += 1
        assert not list(tmp_path.rglob(CRASH_FILE))
    folders = f"(?:{run_folder(tmp_path, run.run_id)}|{toy_sources.cache_dir})"
    pattern = rf"cannot use {folders}/\S+: {os.strerror(number)}"
    assert [text for text in told if not re.fullmatch(pattern, text)] == []
    assert failures >= 10
    outputs, expected = run_outputs(tmp_path, record), undisturbed(run)
    assert json.loads(outputs.pop("record")) == json.loads(expected["record"])  # the last failure fell behind it
    assert outputs == {name: expected[name] for name in outputs}


def test_a_limit_on_files_is_the_machines(tmp_path, toy_run, toy_sources):
    """torch.save hides what the system says behind a RuntimeError."""
    run, before = toy_run(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StorageError, match=rf"^cannot use \S+/{CHECKPOINT_FILE}: File too large$"):
            train_claimed(run, tmp_path, toy_sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_no_crash(tmp_path)


def test_a_disk_that_turns_read_only(disk, toy_run, toy_sources):
    run, results = toy_run(), disk.folder / "results"
    folder = run_folder(results, run.run_id)

    def train():
        disk.make_read_only(folder)
        return train_run(run, results, toy_sources)

    results.mkdir()
    with pytest.raises(StorageError, match=rf"^cannot use {folder}/config\.yaml: Read-only file system$"):
        run_under_claim(run, results, None, train, lambda: None)
    for use in (lambda: train_claimed(run, results, toy_sources), lambda: die(run, results)):
        with pytest.raises(StorageError, match=rf"^cannot use {folder}/claim\.json: Read-only file system$"):
            use()
    assert_no_crash(results)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes a user without rights")
def test_a_folder_that_may_no_longer_be_written_is_no_crash():
    """Neither the run's files nor its crash can be written."""
    run = make_run(1)
    with folder_of_root() as results:
        folder = run_folder(results, run.run_id)
        folder.mkdir(parents=True)
        folder.chmod(0o777)

        def train():
            with as_root():
                folder.chmod(0o755)
            atomic_write(folder / CHECKPOINT_FILE, b"state")

        for use in (lambda: run_under_claim(run, results, None, train, lambda: None), lambda: die(run, results)):
            with pytest.raises(UserError, match=rf"^{folder}: this user may not read and write here "), as_nobody():
                use()
        assert [path.name for path in folder.iterdir()] == ["claim.json"]  # of a lease that is over
        folder.chmod(0o777)
        with as_nobody():
            assert die(run, results).status == "crashed"


def die(run, results):
    return record_worker_death(run, results, None, "the worker process died", 1.0)


def test_an_error_of_another_kind_is_still_a_crash(tmp_path):
    def train():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "vocab.txt")

    record = run_under_claim(make_run(1), tmp_path, None, train, lambda: None)
    assert (record.status, "vocab.txt" in record.reason) == ("crashed", True)
