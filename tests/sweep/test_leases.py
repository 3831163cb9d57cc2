"""Leases on file systems that lack locks, links or a common clock, and with holders that die or are stopped."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from stableft.errors import StorageError
from stableft.records.held_claims import ClaimLostError, has_lost_claim
from stableft.records.run_record import atomic_write
from stableft.sweep import leases
from stableft.sweep.claims import CLAIM_FILE, OLD_CLAIM_FILE, claim_run
from stableft.sweep.leases import LeaseTimes, process_start, read_lease, take_lease

FAST = LeaseTimes(heartbeat=0.05, expiry=0.6, watch=0.2, missing=0.2)

# Takes a claim, then writes whenever it is told to. Arguments: folder, seconds added to its clock.
HOLDER = """
import os, sys, time
from pathlib import Path
from stableft.records.held_claims import ClaimLostError
from stableft.records.run_record import atomic_write
from stableft.sweep import leases
from stableft.sweep.claims import claim_run

folder, skew = Path(sys.argv[1]), float(sys.argv[2])
leases.TIMES = leases.LeaseTimes(heartbeat=0.05, expiry=0.6, watch=0.2, missing=0.2)
if skew:
    leases.renew = lambda file: os.utime(file, (time.time() + skew,) * 2)
with claim_run(folder) as mine:
    print(mine, flush=True)
    for line in sys.stdin:
        try:
            atomic_write(folder / "record.json", line.encode())
            print("written", flush=True)
        except ClaimLostError:
            print("lost", flush=True)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(leases, "TIMES", FAST)
    monkeypatch.setattr(leases, "_FIRST_SEEN", {})


class Holder:
    """A process that holds a claim, perhaps under another host name, perhaps with a clock that is wrong."""

    def __init__(self, folder: Path, host: str = "", skew: float = 0.0):
        command = [sys.executable, "-c", HOLDER, str(folder), str(skew)]
        if host:
            command = ["unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.claimed = self._answer() == "True"

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def write(self, text: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def holding(folder: Path, host: str = "", skew: float = 0.0):
    holder = Holder(folder, host, skew)
    try:
        assert holder.claimed
        yield holder
    finally:
        holder.kill()
        assert holder.process.stdin
        holder.process.stdin.close()
        holder.process.stdout.close()


def can_name_a_host() -> bool:
    return (
        sys.platform == "linux"
        and not subprocess.run(["unshare", "--uts", "hostname", "elsewhere"], capture_output=True).returncode
    )


needs_hosts = pytest.mark.skipif(not can_name_a_host(), reason="gives processes a host name of their own")


def try_for(seconds: float, folder: Path) -> float | None:
    """Tries to claim again and again, as a sweep does, and returns the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        with claim_run(folder) as mine:
            if mine:
                return time.monotonic() - begun
        time.sleep(0.02)
    return None


def write_lease(folder: Path, **changes) -> None:
    """Writes a lease of this process, which is not one that it holds, with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads(leases.describe_lease("0" * 16)) | changes
    (folder / CLAIM_FILE).write_text(json.dumps(values))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lease_names_its_holder_and_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with claim_run(tmp_path) as mine:
        assert mine
        found = read_lease(tmp_path / CLAIM_FILE)
        assert found
        assert found.holder["pid"] == os.getpid()
        assert found.holder["job"] == "4711"
        assert (found.holder["host"], found.holder["boot"], found.holder["table"]) == leases.this_host()
        assert found.holder["start"] == process_start(os.getpid()) != ""
        deadline = time.monotonic() + 10
        while (later := read_lease(tmp_path / CLAIM_FILE)) == found and time.monotonic() < deadline:
            time.sleep(0.02)
        assert later
        assert later.content == found.content
        assert later.renewed > found.renewed
    assert left(tmp_path) == []


@pytest.mark.faults
@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1, "start": "1"}, {"start": "1"}, {"token": "of a claim that this process gave up"}],
    ids=["dead", "its pid is another's now", "nobody's"],
)
def test_the_lease_of_a_dead_process_is_taken_at_once(tmp_path, changes, monkeypatch):
    monkeypatch.setattr(leases, "TIMES", LeaseTimes())
    write_lease(tmp_path, **changes)
    begun = time.monotonic()
    with claim_run(tmp_path) as mine:
        assert mine
    assert time.monotonic() - begun < 5


@pytest.mark.faults
def test_a_restart_after_a_kill_never_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "TIMES", LeaseTimes())
    holder = Holder(tmp_path)
    assert holder.claimed
    os.kill(holder.process.pid, signal.SIGKILL)
    # Nobody has waited for it yet: it may be a zombie, and so may the worker of a pilot that was killed.
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)
    with claim_run(tmp_path) as mine:
        assert mine
    holder.kill()
    holder.process.stdin.close()
    holder.process.stdout.close()


@pytest.mark.faults
@pytest.mark.parametrize(
    "changes",
    [{"host": "elsewhere"}, {"boot": "another boot"}, {"table": "pid:[1]"}],
    ids=["host", "boot", "container"],
)
def test_a_lease_of_elsewhere_is_taken_once_it_is_old(tmp_path, changes):
    """Though here no process has its id: that says nothing of another host or container."""
    write_lease(tmp_path, pid=2**22 + 1, **changes)
    with claim_run(tmp_path) as mine:
        assert not mine
    assert try_for(20, tmp_path) >= FAST.expiry / 2


@pytest.mark.faults
@pytest.mark.parametrize("content", ["", "{", "12345\nhost\n", "[]", '{"token": 1}'])
def test_a_file_that_is_no_lease_blocks_only_until_it_is_old(tmp_path, content):
    (tmp_path / CLAIM_FILE).write_text(content)
    assert try_for(20, tmp_path) is not None


@pytest.mark.faults
@pytest.mark.parametrize("content", ["", f"{2**22 + 1}\nelsewhere\n"], ids=["of a lock", "of a soft lock"])
@pytest.mark.parametrize("flock", ["works", "ENOSYS", "ENOLCK"])
def test_claim_files_of_older_versions_never_block(tmp_path, monkeypatch, content, flock):
    (tmp_path / OLD_CLAIM_FILE).write_text(content)
    if flock != "works":

        def fail(*_):
            raise OSError(getattr(errno, flock), "no locks")

        monkeypatch.setattr("fcntl.flock", fail)
    with claim_run(tmp_path) as first:
        assert first
        with claim_run(tmp_path) as second:
            assert not second
    assert left(tmp_path) == [OLD_CLAIM_FILE]


def test_an_older_version_at_work_is_respected_and_kept_out(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / OLD_CLAIM_FILE, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with claim_run(tmp_path) as mine:
            assert not mine
        fcntl.flock(file, fcntl.LOCK_UN)
        with claim_run(tmp_path) as mine:
            assert mine
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fail_with(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.faults
@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO, errno.ENOTSUP])
def test_without_links_exclusive_files_do(tmp_path, monkeypatch, number):
    monkeypatch.setattr("os.link", fail_with(number))
    with claim_run(tmp_path) as first:
        assert first
        with claim_run(tmp_path) as second:
            assert not second
    write_lease(tmp_path, start="1")
    with claim_run(tmp_path) as mine:
        assert mine
    assert left(tmp_path) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO])
def test_without_links_and_exclusive_files_nothing_is_claimed(tmp_path, monkeypatch, number):
    monkeypatch.setattr("os.link", fail_with(number))
    monkeypatch.setattr(leases, "_copy", fail_with(number))
    message = rf"^{tmp_path}/claim.json: no run can be claimed .* neither links"
    with pytest.raises(StorageError, match=message), claim_run(tmp_path):
        pytest.fail("claimed")
    assert left(tmp_path) == []


@pytest.mark.faults
def test_a_link_that_was_made_though_it_failed_counts(tmp_path, monkeypatch):
    """As on a network where the answer is lost."""
    link = os.link

    def link_and_fail(*names):
        link(*names)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr("os.link", link_and_fail)
    with claim_run(tmp_path) as mine:
        assert mine


@pytest.mark.faults
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("third", [False, True])
def test_who_judged_too_late_puts_back_what_it_took(tmp_path, monkeypatch, links, third):
    """Two take a dead lease; between the judgement and the renaming of the second, the first has got a new one."""
    path = tmp_path / CLAIM_FILE
    write_lease(tmp_path, start="1")
    if not links:
        monkeypatch.setattr("os.link", fail_with(errno.EPERM))
    rename, taken = os.rename, []

    def rename_late(old, new):
        monkeypatch.setattr("os.rename", rename)
        taken.append(take_lease(path))
        os.rename(old, new)
        if third:  # and a third one takes what seems free
            taken.append(take_lease(path))

    monkeypatch.setattr("os.rename", rename_late)
    assert take_lease(path) is None
    assert [lease.is_held() for lease in taken] == ([False, True] if third else [True])
    for lease in taken:
        lease.release()
    assert left(tmp_path) == []


@pytest.mark.faults
def test_a_lease_renewed_after_it_was_judged_is_put_back(tmp_path, monkeypatch):
    write_lease(tmp_path, host="elsewhere")
    path, rename = tmp_path / CLAIM_FILE, os.rename
    os.utime(path, (1e9, 1e9))

    def rename_late(old, new):
        monkeypatch.setattr("os.rename", rename)
        leases.renew(path)
        os.rename(old, new)

    monkeypatch.setattr("os.rename", rename_late)
    assert take_lease(path) is None
    assert json.loads(path.read_text())["host"] == "elsewhere"
    assert left(tmp_path) == [CLAIM_FILE]


@pytest.mark.faults
@needs_hosts
def test_who_slept_through_its_lease_writes_nothing(tmp_path):
    with holding(tmp_path, host="elsewhere") as holder:
        assert holder.write("1") == "written"
        time.sleep(2 * FAST.expiry)
        with claim_run(tmp_path) as mine:  # it lives and is heard of
            assert not mine
        os.kill(holder.process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        while time.monotonic() < begun + 20:
            with claim_run(tmp_path) as mine:
                if mine:
                    os.kill(holder.process.pid, signal.SIGCONT)
                    assert holder.write("2") == "lost"
                    atomic_write(tmp_path / "record.json", b"mine")
                    time.sleep(5 * FAST.heartbeat)
                    assert holder.write("3") == "lost"
                    assert left(tmp_path) == [CLAIM_FILE, "record.json"]
                    break
        assert mine
        assert (tmp_path / "record.json").read_bytes() == b"mine"
        assert holder.write("4") == "lost"


@pytest.mark.faults
def test_a_live_process_of_this_host_keeps_its_lease_though_it_is_stopped(tmp_path):
    with holding(tmp_path) as holder:
        os.kill(holder.process.pid, signal.SIGSTOP)
        assert try_for(3 * FAST.expiry, tmp_path) is None
        os.kill(holder.process.pid, signal.SIGCONT)
        assert holder.write("1") == "written"


@pytest.mark.faults
def test_a_file_being_written_when_the_claim_is_taken_over_never_arrives(tmp_path, monkeypatch):
    """The holder is stopped between its last look at its claim and the renaming, the smallest gap there is."""
    replace, folder = os.replace, tmp_path / "run"

    def replace_late(old, new):
        monkeypatch.setattr("os.replace", replace)
        write_lease(folder, start="1")  # as if this process had died
        with holding(folder):
            os.replace(old, new)

    with claim_run(folder) as mine:
        assert mine
        monkeypatch.setattr("os.replace", replace_late)
        with pytest.raises(ClaimLostError, match=rf"^{folder}: another process has taken over"):
            atomic_write(folder / "record.json", b"late")
    assert left(folder) == [CLAIM_FILE]  # the other's, which this process does not give back


@pytest.mark.faults
def test_a_lost_claim_is_noticed_without_a_write(tmp_path):
    with claim_run(tmp_path) as mine:
        assert mine
        assert not has_lost_claim()
        write_lease(tmp_path, host="elsewhere")
        deadline = time.monotonic() + 10
        while not has_lost_claim() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert has_lost_claim()
    assert not has_lost_claim()


@pytest.mark.faults
@needs_hosts
@pytest.mark.parametrize("skew", [-600, 600])
def test_clocks_ten_minutes_apart_neither_evict_nor_block(tmp_path, monkeypatch, skew):
    """On a file system that uses the clocks of its clients. The clock of the taker itself is never asked."""
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() - skew)
    with holding(tmp_path, host="elsewhere", skew=skew) as holder:
        assert try_for(3 * FAST.expiry, tmp_path) is None
        assert holder.write("1") == "written"
        holder.kill()
        assert try_for(20, tmp_path) is not None
