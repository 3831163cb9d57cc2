"""Write a folder, such as that of a model, so that readers see all of it or nothing; remove one, or set it aside.

All go through a folder of the writer's own beside the target, `.NAME.RANDOM.partial`, made before the writer looks at
its claim. Whoever takes over the claim first renames that folder. So a writer that was stopped for so long, wherever it
was stopped, can no longer rename anything into its folder or out of it, and the target is as its successor has it.
"""

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stableft.errors import storage_faults
from stableft.records.held_claims import check_claim
from stableft.records.run_record import sync_folder

OLD = "old"  # in the writer's folder, the target that is being replaced or set aside
RANDOM_BYTES = 8


@contextmanager
def atomic_write_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `target` as a whole on success and is deleted on an exception.

    Raises:
        ClaimLostError: Another process has taken over this process's claim of the folder that holds `target`.
    """
    with _partial_folder(target) as partial:
        new, old = partial / "new", partial / OLD
        new.mkdir()
        yield new
        mode = _default_file_mode(new)
        for path in new.iterdir():
            path.chmod(mode)  # safetensors creates files that only their owner can read
            with open(path, "rb+") as file:
                os.fsync(file.fileno())  # the contents must be on disk before the rename makes them visible
        sync_folder(new)
        check_claim(target.parent)
        with suppress(FileNotFoundError):  # there was no target; if the partial folder is gone, the next rename says so
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            with suppress(OSError):
                os.rename(old, target)
            raise
        sync_folder(target.parent)


def remove_under_claim(path: Path) -> None:
    """Remove a file or a folder if it exists. A link is cut.

    Raises:
        ClaimLostError: Another process has taken over this process's claim of the folder that holds `path`.
    """
    if not os.path.lexists(path):
        check_claim(path.parent)
        return
    with _partial_folder(path) as partial:
        check_claim(path.parent)
        os.rename(path, partial / "removed")


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free `<name>.damaged-<n>` and return the new path.

    Raises:
        ClaimLostError: Another process has taken over this process's claim of the folder that holds `path`.
    """
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    with _partial_folder(path) as partial:
        check_claim(path.parent)
        os.rename(path, partial / OLD)  # whoever takes over the claim now puts it back
        try:
            os.rename(partial / OLD, aside)
        except OSError:
            with suppress(OSError):
                os.rename(partial / OLD, path)
            raise
    return aside


def remove_partial_folders(folder: Path, name: str | None = None) -> None:
    """Remove what writers that were killed, or have lost their claim, left beside targets in `folder`.

    A target that such a writer had moved away to replace it or set it aside is put back. `name` is that of the only
    target to look at. Only the holder of the folder's claim may call this.
    """
    for left in folder.glob(f".{glob.escape(name)}.{'?' * 2 * RANDOM_BYTES}.partial" if name else ".*.partial"):
        if left.is_symlink() or not left.is_dir():
            continue
        target = folder / left.name[1:].rsplit(".", 2)[0]
        mine = _partial_name(target)
        os.rename(left, mine)
        if os.path.lexists(mine / OLD) and not os.path.lexists(target):
            os.rename(mine / OLD, target)
        shutil.rmtree(mine, ignore_errors=True)


def _partial_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(RANDOM_BYTES)}.partial")


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder of this writer's own beside the target, and remove it in the end."""
    partial = _partial_name(target)
    with storage_faults(target, partial):
        partial.mkdir()
        try:
            yield partial
        except (Exception, KeyboardInterrupt) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, FileNotFoundError):  # perhaps whoever has taken over the claim removed it
                check_claim(target.parent)
            raise
        shutil.rmtree(partial, ignore_errors=True)


def _default_file_mode(folder: Path) -> int:
    """Return the permissions of a new file in the folder. The umask can only be read by setting it, so create one."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return stat.S_IMODE(mode)
