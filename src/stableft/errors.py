"""The exceptions for faults of the input or the machine: one sentence on the command line, exit code 2."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The disk, or a quota or limit on it, and a network file system that went away.
STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE})


MAX_ECHO = 200  # characters of a user's value that a message repeats
LONG_VALUES = re.compile(rf"(?<!\w)(['\"])(?:(?!\1).){{{MAX_ECHO},}}\1|[^\s/]{{{MAX_ECHO + 1},}}", re.DOTALL)


class UserError(ValueError):
    """Invalid user input. The message is one sentence that names file, key, value and the violated rule.

    Values in quotes and long words are cut to `MAX_ECHO` characters; paths stay whole. Characters that do not
    show, such as one in the name of a column, are written as escapes.
    """

    def __init__(self, message: str) -> None:
        whole = LONG_VALUES.sub(lambda found: clip(found[0]), message)
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole))


def clip(text: object) -> str:
    """Return text for a message: one line of visible characters, cut to `MAX_ECHO` of them."""
    whole = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return whole if len(whole) <= MAX_ECHO else f"{whole[: MAX_ECHO - 3]}..."


def echo(value: Any) -> str:
    """Return a user's value for a message: text in quotes, lists and mappings as Python writes them."""
    return clip(repr(value))


class StorageError(UserError):
    """A full, read-only or failing disk: the machine's fault, so no run counts as crashed."""


def storage_error(error: BaseException, path: Path | None = None) -> StorageError | None:
    """Return the error as a `StorageError` if a disk caused it, directly or behind another exception, else None.

    `path` is named if the operating system's error names no file.
    """
    for cause in causes_of(error):
        if isinstance(cause, StorageError):
            return cause
        if isinstance(cause, OSError):  # a copy that fails names the file to write second
            number, reason, name = cause.errno, cause.strerror, cause.filename2 or cause.filename
        else:  # safetensors and tokenizers have the operating system's error in their text alone
            in_text = re.search(r"\(os error (\d+)\)", str(cause))
            number, name = int(in_text[1]) if in_text else None, None
            reason = os.strerror(number) if number else None
        if number in STORAGE_ERRNOS:
            return StorageError(f"cannot use {name or path or 'a file'}: {reason}")
    return None


@contextmanager
def storage_faults(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Raise a `StorageError` in place of an exception that a disk caused.

    It names the file that the operating system names, else `path`. With `temporary`, which is written and then renamed
    to `path`, it names `path` and so do other errors of the operating system, because the user knows only that one.
    """
    try:
        yield
    except Exception as error:
        for cause in causes_of(error):
            if temporary and isinstance(cause, OSError) and cause.errno:
                if cause.filename is None or Path(str(cause.filename)).is_relative_to(temporary):
                    cause.filename = str(path)
                if cause.filename2 and Path(str(cause.filename2)).is_relative_to(temporary):
                    cause.filename2 = str(path)
        fault = storage_error(error, path)
        if fault is None or fault is error:
            raise
        raise fault from error


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those behind it. torch.save hides a full disk behind a RuntimeError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `names`, or "" if none is close.

    A name that begins so is closer than one that is spelt alike: acc is accuracy, not mcc.
    """
    by_lower = {other.lower(): other for other in names}
    longer = [other for other in by_lower if len(name) > 2 and other.startswith(name.lower())]
    close = sorted(longer, key=len) or difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
