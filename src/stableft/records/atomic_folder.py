"""Write a folder, such as that of a model, so that readers see all of it or nothing."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stableft.errors import storage_faults
from stableft.records.held_claims import check_claim
from stableft.records.run_record import sync_folder


@contextmanager
def atomic_write_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `target` as a whole on success and is deleted on an exception.

    Raises:
        ClaimLostError: Another process has taken over this process's claim of the folder that holds `target`.
    """
    temporary = target.with_name(f".{target.name}.partial")
    with storage_faults(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process; holding the claim, we may delete it
        temporary.mkdir()
        try:
            yield temporary
        except (Exception, KeyboardInterrupt):
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        mode = _default_file_mode(temporary)
        for path in temporary.iterdir():
            path.chmod(mode)  # safetensors creates files that only their owner can read
            with open(path, "rb+") as file:
                os.fsync(file.fileno())  # the contents must be on disk before the rename makes them visible
        sync_folder(temporary)
        check_claim(target.parent)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        sync_folder(target.parent)


def _default_file_mode(folder: Path) -> int:
    """Return the permissions of a new file in the folder. The umask can only be read by setting it, so create one."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return stat.S_IMODE(mode)
