"""A small disk of a test's own, which can be full, read-only or gone."""

import os
import subprocess
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
