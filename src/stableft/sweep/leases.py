"""Leases: files that say which process works on a folder. They need no lock of the file system.

A lease is made by link(), or by O_EXCL where there are no links, so that only one process can make it. It names its
holder, who renews it by its modification time. Whoever finds a lease may take it

- at once, if its holder ran on the same host and has died;
- otherwise, if it has not been renewed for `LeaseTimes.expiry` by the file system's own clock, and not while the taker
  looked on for `LeaseTimes.watch`. The second condition is for file systems that use the clocks of their clients, and
  whoever has looked on for `expiry` needs no other clock.

It is taken by renaming it to a name of the taker's own, so that only one process takes it. If the file turns out to be
another one than was judged, it is put back. Only the standard library is imported, because `claim_race` starts this
module in a process of its own.
"""

import contextlib
import errno
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stableft.errors import StorageError, UserError, storage_faults


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds. A holder that is stopped for longer than `expiry` may lose its lease to another host."""

    heartbeat: float = 10.0  # between renewals
    expiry: float = 90.0  # without renewal; file servers that restart take about a minute
    watch: float = 25.0  # over two heartbeats
    missing: float = 1.0  # for which a lease may be missing while a taker that was too late puts it back


TIMES = LeaseTimes()
LEASE_LOOK_SECONDS = 0.25
TRIES = 20  # each is lost only to another process that gets further
MAX_LEASE_BYTES = 4096  # of a lease file
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


@functools.cache
def this_host() -> tuple[str, str, str]:
    """Return the host name, and where there is /proc the boot and the process table that process ids belong to.

    Containers may share a host name without sharing a process table.
    """
    boot = table = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        table = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot, table


def process_start(pid: int) -> str:
    """Return when a process of this host started, in the kernel's own units, which no change of a clock moves.

    "": it has died, or it is unknown ("?") whether it has.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = text.rpartition(")")[2].split()  # the name before may contain anything
        return "" if state in "ZX" else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        pass
    except (OSError, IndexError):
        return "?"
    import psutil  # where there is no /proc, or it shows only the user's own processes

    if not psutil.pid_exists(pid):
        return ""
    if os.path.exists("/proc/self/stat"):
        return "?"
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""
    except psutil.Error:
        return "?"


@dataclass(frozen=True)
class FoundLease:
    """A lease file as it was read. `renewed` is its modification time in nanoseconds."""

    content: bytes
    renewed: int

    @functools.cached_property
    def holder(self) -> dict[str, Any]:
        """The holder: token, host, boot, table, pid, start, job. Empty if the file is not (yet) a whole lease."""
        try:
            values = json.loads(self.content)
        except ValueError:
            return {}
        return values if isinstance(values, dict) and isinstance(values.get("pid"), int) else {}

    def has_died(self) -> bool | None:
        """Return whether the holder has died, or None if that cannot be seen from this host."""
        holder = self.holder
        if (holder.get("host"), holder.get("boot"), holder.get("table")) != this_host():
            return None
        start = process_start(holder["pid"])
        if start == "?":
            return None
        mine = holder["pid"] == os.getpid()
        return start != holder.get("start") or (mine and holder.get("token") not in _HELD)


_HELD: set[str] = set()  # the tokens of this process's leases
_FIRST_SEEN: dict[str, tuple[FoundLease, float]] = {}  # path -> a foreign lease, and since when it has not changed


def read_lease(path: Path) -> FoundLease | None:
    """Return the lease in a file, or None if there is none. Opening it makes network file systems look anew."""
    try:
        with open(path, "rb") as file:
            return FoundLease(file.read(MAX_LEASE_BYTES), os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # ESTALE: it was replaced on the server
            return None
        raise


@dataclass
class Lease:
    """A lease that this process took. `keep` renews it, `check` makes sure that nobody else has taken it since."""

    path: Path
    token: str
    lost: bool = False  # seen while renewing
    _released: threading.Event = field(default_factory=threading.Event)

    def is_held(self) -> bool:
        """Return whether the file is this lease. A taker that was too late may have moved it, and puts it back."""
        deadline = time.monotonic() + TIMES.missing
        while (found := read_lease(self.path)) is None and time.monotonic() < deadline:
            time.sleep(TIMES.missing / 50)
        return found is not None and found.holder.get("token") == self.token

    def keep(self) -> None:
        """Renew the lease in a thread, until it is released or another process has taken it."""
        threading.Thread(target=self._renew_until_released, name=f"lease {self.token}", daemon=True).start()

    def _renew_until_released(self) -> None:
        while not self._released.wait(TIMES.heartbeat):
            with contextlib.suppress(OSError), open(self.path, "rb") as file:  # it may be missing for a moment
                if FoundLease(file.read(MAX_LEASE_BYTES), 0).holder.get("token") != self.token:
                    self.lost = True
                    return
                renew(file.fileno() if os.utime in os.supports_fd else self.path)  # not a file that has come since

    def release(self) -> None:
        """Give the lease back, unless another process has taken it."""
        self._released.set()
        with contextlib.suppress(OSError, StorageError):  # of a disk that is gone
            found = read_lease(self.path)
            if found and found.holder.get("token") == self.token:
                _remove(self.path, lambda moved: moved.content == found.content)
        _HELD.discard(self.token)


def renew(file: int | Path) -> None:
    """Set a file's modification time to the present, by the clock that the file system itself uses."""
    os.utime(file)


@contextlib.contextmanager
def writing_permitted(folder: Path) -> Iterator[None]:
    """Raise a `UserError` in place of the operating system's refusal, as in a folder of another user."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{folder}: this user may not read and write here ({error.strerror}); change the permissions of the folder "
            "or give another results folder"
        ) from error


def take_lease(path: Path) -> Lease | None:
    """Return a new lease, or None if another process holds it.

    Looks on for `LeaseTimes.watch` seconds if a lease of another host seems to have expired.

    Raises:
        UserError: This user may not write into the folder.
        StorageError: The disk is full, read-only or gone, or can make neither links nor exclusive files.
    """
    with writing_permitted(path.parent):
        for _ in range(TRIES):
            found = read_lease(path)
            if found and not (found.has_died() or (found.has_died() is None and _has_expired(path, found))):
                return None
            if found and not _remove(path, lambda moved, found=found: moved == found):
                continue
            if lease := _make(path):
                _FIRST_SEEN.pop(str(path), None)
                return lease
    return None


def _has_expired(path: Path, found: FoundLease) -> bool:
    """Return whether a lease whose holder cannot be seen has not been renewed for long enough to be taken."""
    before, since = _FIRST_SEEN.get(str(path), (None, 0.0))
    if before != found:
        since = time.monotonic()
        _FIRST_SEEN[str(path)] = found, since
    if time.monotonic() - since >= TIMES.expiry:
        return True
    if (file_clock(path) - found.renewed) / 1e9 < TIMES.expiry:
        return False
    while time.monotonic() - since < TIMES.watch:
        time.sleep(min(LEASE_LOOK_SECONDS, TIMES.watch / 10))
        now = read_lease(path)
        if now != found:  # renewed, or gone: `take_lease` looks again
            return now is None
    return True


def file_clock(path: Path) -> int:
    """Return the present time in nanoseconds by the clock of the path's file system."""
    probe = _private_name(path)
    with storage_faults(path, probe):
        try:
            probe.touch(exist_ok=False)
            renew(probe)
            return probe.stat().st_mtime_ns
        except FileNotFoundError:  # removed by a process that has just taken the lease: so nothing has expired
            return 0
        finally:
            probe.unlink(missing_ok=True)


def _private_name(path: Path) -> Path:
    """Return a name for a temporary file. The claim of a run removes those that were left."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def _make(path: Path) -> Lease | None:
    """Make a lease, or return None if another process was faster."""
    lease = Lease(path, os.urandom(8).hex())
    content = describe_lease(lease.token)
    _HELD.add(lease.token)
    try:
        _put(path, content)
        if lease.is_held():  # an answer may have been lost on the network, so only the file tells
            return lease
    except BaseException:
        lease.release()
        raise
    _HELD.discard(lease.token)
    return None


def describe_lease(token: str) -> bytes:
    host, boot, table = this_host()
    job = next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None)
    values = {"token": token, "host": host, "boot": boot, "table": table, "job": job}
    return json.dumps({**values, "pid": os.getpid(), "start": process_start(os.getpid())}).encode()


def _put(path: Path, content: bytes) -> None:
    """Make a file with this content unless there is one.

    Raises:
        StorageError: see `take_lease`.
    """
    temporary = _private_name(path)
    with storage_faults(path, temporary):
        try:
            temporary.write_bytes(content)
            _link(temporary, path, content)
        finally:
            temporary.unlink(missing_ok=True)


def _link(file: Path, path: Path, content: bytes) -> None:
    """Give a file a second name, or where that is not possible make a copy, unless the name is taken."""
    try:
        os.link(file, path)
    except (FileExistsError, FileNotFoundError):  # the second: removed by the process that got the lease
        return
    except OSError as error:
        try:
            _copy(path, content)
        except FileExistsError:
            return
        except OSError as second:
            if second.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise StorageError(
                f"{path}: no run can be claimed on this file system, because it makes neither links "
                f"({error.strerror}) nor exclusive files ({second.strerror})"
            ) from second


def _copy(path: Path, content: bytes) -> None:
    with open(path, "xb", buffering=0) as copy:
        try:
            copy.write(content)
        except OSError:  # an empty lease would keep others waiting until it expires
            path.unlink()
            raise


def _remove(path: Path, is_expected: Callable[[FoundLease], bool]) -> bool:
    """Remove a lease file and return True. If it is not the expected one, put it back and return False."""
    aside = _private_name(path)
    with storage_faults(path, aside):
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        moved = read_lease(aside)
        expected = moved is not None and is_expected(moved)
        if moved and not expected:
            _link(aside, path, moved.content)
        aside.unlink(missing_ok=True)
    return expected
