"""Reads that fail for a moment, by true errors of the operating system."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import errors

from stableft import transient
from stableft.data.splits import data_fingerprint
from stableft.errors import UserError
from stableft.transient import UnavailableError, is_transient, retrying

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/mem for EIO")]
EIO_FILE = Path("/proc/self/mem")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(transient, "RETRY_SECONDS", (0.2, 0.2))


@pytest.mark.faults
def test_a_data_file_that_fails_for_a_moment_is_read_again(tmp_path, toy_run, toy_sources):
    run, link = toy_run(), tmp_path / "train.csv"
    digest = run.config.data.own.train
    link.symlink_to(EIO_FILE)
    flaky = replace(toy_sources, paths={**toy_sources.paths, digest: link})

    def mend():
        (tmp_path / "new").symlink_to(toy_sources.paths[digest])
        os.replace(tmp_path / "new", link)

    timer = threading.Timer(0.1, mend)
    timer.start()
    assert data_fingerprint(run.config, flaky) == data_fingerprint(run.config, toy_sources)
    timer.join()


@pytest.mark.faults
def test_one_that_goes_on_failing_is_named(tmp_path, toy_run, toy_sources):
    run, link = toy_run(), tmp_path / "train.csv"
    link.symlink_to(EIO_FILE)
    broken = replace(toy_sources, paths={**toy_sources.paths, run.config.data.own.train: link})
    with pytest.raises(UnavailableError, match=f"{link}.*: Input/output error; tried 3 times$"):
        data_fingerprint(run.config, broken)


def test_a_missing_or_bad_file_is_not_read_again(tmp_path, toy_run, toy_sources):
    tries = []

    @retrying
    def read():
        tries.append(1)
        return (tmp_path / "none").read_bytes()

    with pytest.raises(FileNotFoundError):
        read()
    assert len(tries) == 1
    run = toy_run()
    missing = replace(toy_sources, paths={**toy_sources.paths, run.config.data.own.train: tmp_path / "none"})
    with pytest.raises(UserError, match="none cannot be read: No such file") as caught:
        data_fingerprint(run.config, missing)
    assert not isinstance(caught.value, UnavailableError)


def behind_a_mistake(cause: Exception) -> UserError:
    try:
        raise cause
    except OSError:
        try:
            raise UserError("the model cannot be loaded") from None
        except UserError as error:
            return error


def hub_error(status: int) -> Exception:
    http = sys.modules[errors.HTTPError.__module__.partition(".")[0]]  # the client that this huggingface_hub uses
    return errors.HfHubHTTPError("no", response=http.Response(status, request=http.Request("GET", "http://hub")))


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (TimeoutError("timed out"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (OSError("I/O error: Stale file handle (os error 116)"), True),
        (hub_error(503), True),
        (hub_error(429), True),
        (hub_error(404), False),
        (ConnectionRefusedError(111, "Connection refused"), False),
        (PermissionError(13, "Permission denied"), False),
        (OSError("No such file or directory (os error 2)"), False),
    ],
)
def test_what_may_pass_is_found_behind_other_exceptions(cause, passes):
    assert is_transient(cause) is passes
    assert is_transient(behind_a_mistake(cause)) is passes
