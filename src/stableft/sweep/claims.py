"""Claim a run for one process, by a lease in the run's folder (`leases`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stableft.errors import UserError
from stableft.records.atomic_folder import remove_partial_folders
from stableft.records.held_claims import HELD_CLAIMS
from stableft.sweep.leases import take_lease, writing_permitted

CLAIM_FILE = "claim.json"
OLD_CLAIM_FILE = "claim.lock"  # of older versions, which locked it and left it behind
CLAIM_FILES = frozenset({CLAIM_FILE, OLD_CLAIM_FILE})


@contextmanager
def claim_run(folder: Path) -> Iterator[bool]:
    """Yield True while this process alone may work on the run, or False if another process holds the claim.

    Taking the claim also removes temporary files left by dead writers, and those of a holder that was stopped for so
    long that its claim was taken. `atomic_write` and `atomic_folder` check the claim between making their temporary
    file or folder and renaming anything. So whatever such a holder was writing is removed, or was renamed before
    anything was read under the new claim.

    Raises:
        UserError: The folder is a link, so that what is removed in it would be removed elsewhere; or this user may not
            write into it.
        StorageError: The disk is full, read-only or gone.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, and a run's folder must be a folder: what it links to is left alone")
    with writing_permitted(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _older_versions_kept_out(folder) as free:
        lease = take_lease(folder / CLAIM_FILE) if free else None
        if lease is None:
            yield False
            return
        key = os.path.realpath(folder)
        try:
            with writing_permitted(folder):
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                remove_partial_folders(folder)
            HELD_CLAIMS[key] = lease
            lease.keep()
            yield True
        finally:
            HELD_CLAIMS.pop(key, None)
            lease.release()


@contextmanager
def _older_versions_kept_out(folder: Path) -> Iterator[bool]:
    """Yield False if an older version of this package holds its claim, an exclusive flock.

    Only where flock works, and only if the file exists: without a lock it says nothing. The shared lock keeps older
    versions out as long as this process holds it, but no process of this version.
    """
    try:
        handle = os.open(folder / OLD_CLAIM_FILE, os.O_RDWR)
    except OSError:
        yield True
        return
    try:
        yield _lock_shared(handle)
    finally:
        os.close(handle)


def _lock_shared(handle: int) -> bool:
    with suppress(ImportError, OSError):  # Windows, and file systems without flock: nobody can hold it there
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
