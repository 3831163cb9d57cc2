"""A small disk of a test's own, which can be full, read-only or gone; and a user who may not write."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """A file system in memory, mounted at `folder`."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.filler = folder, folder / "filler"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}"]
        subprocess.run(["mount", *options, "tmpfs", folder], check=True, capture_output=True)

    def fill(self, leave: int = 0) -> None:
        """Leaves so many bytes, rounded down to whole pages."""
        left = os.statvfs(self.folder)
        self.filler.write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - leave)))

    def empty(self) -> None:
        self.filler.unlink()

    def make_read_only(self, folder: Path) -> None:
        """Makes one of its folders read-only, whatever is open there, as a kernel does after an error of the disk."""
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def make_writable(self, folder: Path) -> None:
        """Undoes `make_read_only`."""
        subprocess.run(["umount", "--lazy", folder], check=True)


NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Lets root, whom no permissions stop, do a block as a user without rights."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def as_root() -> Iterator[None]:
    """Lets root do a block as itself within `as_nobody`."""
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(NOBODY)


@contextmanager
def folder_of_root() -> Iterator[Path]:
    """Yields a folder that others can read; they cannot enter those of pytest."""
    with tempfile.TemporaryDirectory(prefix="stableft-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
