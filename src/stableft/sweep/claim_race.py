"""See whether claims work on a file system before a sweep relies on them: two processes race for leases.

This process and one of its own that imports nothing but the standard library, because every sweep on a new folder pays
for it.
"""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stableft.errors import UserError
from stableft.records.run_record import atomic_write
from stableft.sweep.leases import describe_lease, file_clock, take_lease, this_host

RACES = 200  # every other one for the lease of a dead process
MARKS_FOLDER = ".claims"  # in the results folder: a file for each host that claims worked on
_PASSED: set[int] = set()  # the file systems on which this process has seen claims work
LARGEST_HEAD_START = 1e-4  # seconds: about what it takes to wake the other process

# -I and -S: neither the user's site-packages nor their start-up files, which take longer than the race.
OTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from stableft.sweep.leases import take_lease
for line in sys.stdin:
    print(int(take_lease(Path(line.rstrip("\\n"))) is not None), flush=True)
"""


def check_claims(results: Path) -> None:
    """Check that claims on this folder's file system exclude each other, once for each folder and host.

    Raises:
        UserError: They do not.
        StorageError: The disk is full, read-only or gone, or no claim can be made.
    """
    marks, here = results / MARKS_FOLDER, results.stat()
    mark = marks / hashlib.sha256(this_host()[0].encode()).hexdigest()[:12]
    place = f"{here.st_dev} {here.st_ino}".encode()  # a copy of the folder may be on another file system
    if mark.is_file() and mark.read_bytes() == place:
        return
    marks.mkdir(exist_ok=True)
    both = neither = 0
    if here.st_dev not in _PASSED:
        with tempfile.TemporaryDirectory(prefix="race-", dir=marks) as folder:
            both, neither = race_for_leases(Path(folder))
            try:
                file_clock(Path(folder, "renewed"))
            except OSError as error:
                raise UserError(
                    f"--results {results}: this file system cannot keep a run for one process, because modification "
                    f"times cannot be set ({error.strerror}); give a folder on another one"
                ) from error
    if both or neither:
        wrong = f"both of two processes got it {both} times" if both else f"neither of two got it {neither} times"
        raise UserError(
            f"--results {results}: this file system cannot keep a run for one process: in {RACES} tries {wrong}; give "
            "a folder on another one"
        )
    _PASSED.add(here.st_dev)
    atomic_write(mark, place)


def race_for_leases(folder: Path, attempts: int = 3) -> tuple[int, int]:
    """Return how often both, and how often neither, of two processes got a lease in `folder`."""
    try:
        return _race_once(folder / str(attempts))
    except _OtherEndedError as error:
        # Whoever killed the other process (the kernel for want of memory, a user) said nothing about the file system.
        if error.exit_code < 0 and attempts > 1:
            return race_for_leases(folder, attempts - 1)
        raise UserError(f"{folder}: the test of claims ended early: {error}") from error


class _OtherEndedError(Exception):
    """The other process ended before the races did."""

    def __init__(self, exit_code: int, stderr: str) -> None:
        last = stderr.strip().splitlines()[-1:] or [f"its other process was killed by signal {-exit_code}"]
        super().__init__(last[0])
        self.exit_code = exit_code


def _race_once(folder: Path) -> tuple[int, int]:
    folder.mkdir()
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", OTHER_PROCESS, root]
    dead = json.loads(describe_lease("0" * 16)) | {"start": "never"}
    winners = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        assert other.stderr
        for number in range(RACES):
            path = folder / str(number)
            if number % 2:
                path.write_text(json.dumps(dead))
            with contextlib.suppress(BrokenPipeError):  # then it does not answer either
                print(path, file=other.stdin, flush=True)
            head_start = time.perf_counter() + random.uniform(0, LARGEST_HEAD_START)
            while time.perf_counter() < head_start:  # sleeping would take longer
                pass
            won = take_lease(path) is not None
            answer = other.stdout.readline()
            if not answer.endswith("\n"):
                with contextlib.suppress(BrokenPipeError):
                    other.stdin.close()
                raise _OtherEndedError(other.wait(), other.stderr.read())
            winners.append(won + int(answer))
            path.unlink(missing_ok=True)  # the disk may have room for a few only
        other.stdin.close()
    return winners.count(2), winners.count(0)
