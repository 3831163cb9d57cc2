"""Who works on a run: an operating-system lock on a file in the run's folder.

The kernel frees the lock when the process that holds it dies, however it dies, so no claim is ever stale.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

CLAIM_FILE = "claim.lock"


@contextmanager
def claim_run(folder: Path) -> Iterator[bool]:
    """Yields True while this process alone may work on the run, or at once False if another one does.

    With the claim come the temporary files of dead writers, which are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / CLAIM_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    # The file is never unlinked: a process that has opened it but not yet locked it would then lock a file without a
    # name, while a third creates and locks a new one, and both would believe that the run is theirs.
    try:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield True
    finally:
        lock.release()
