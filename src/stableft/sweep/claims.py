"""Claim a run for one process, by an operating-system lock on a file in the run's folder.

The kernel frees the lock when its process dies, however it dies, so claims are never stale.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stableft.errors import UserError

CLAIM_FILE = "claim.lock"


@contextmanager
def claim_run(folder: Path) -> Iterator[bool]:
    """Yield True while this process alone may work on the run, or False at once if another process holds the claim.

    Taking the claim also removes temporary files left by dead writers.

    Raises:
        UserError: The folder is a link, so that what is removed in it would be removed elsewhere.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, and a run's folder must be a folder: what it links to is left alone")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / CLAIM_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    # Never unlink the lock file. A process that has opened but not yet locked it would then lock the unlinked inode,
    # while a third process creates and locks a new file, and both would believe that they hold the claim.
    try:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield True
    finally:
        lock.release()
