"""The exceptions for faults of the input or the machine: one sentence on the command line, exit code 2."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

# The disk, or a quota or limit on it, and a network file system that went away.
STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE})


class UserError(ValueError):
    """Invalid user input. The message is one sentence that names file, key, value and the violated rule."""


class StorageError(UserError):
    """A full, read-only or failing disk: the machine's fault, so no run counts as crashed."""


def storage_error(error: BaseException, path: Path | None = None) -> StorageError | None:
    """Return the error as a `StorageError` if a disk caused it, directly or behind another exception, else None.

    `path` is named if the operating system's error names no file.
    """
    for cause in causes_of(error):
        if isinstance(cause, StorageError):
            return cause
        if isinstance(cause, OSError) and cause.errno in STORAGE_ERRNOS:
            return StorageError(f"cannot use {cause.filename or path or 'a file'}: {cause.strerror}")
    return None


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those behind it. torch.save hides a full disk behind a RuntimeError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `names`, or "" if none is close."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
