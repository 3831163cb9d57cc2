"""Read inputs again after an error that may pass: a network file system or a hub that fails for a moment."""

import errno
import functools
import re
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stableft.errors import UserError, causes_of

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")

RETRY_SECONDS = (2.0, 10.0)  # waits before the second and the third try
TRANSIENT_ERRNOS = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETRESET}
)
# Names in the HTTP clients that releases of huggingface_hub have used. Its "no network" is not among them.
TRANSIENT_TYPES = frozenset({"TimeoutException", "Timeout", "TimeoutError", "ReadError", "RemoteProtocolError"})


class UnavailableError(UserError):
    """An input that was not to be had for now. A run that needs it crashes; the sweep goes on."""


def is_transient(error: BaseException) -> bool:
    """Return whether an exception, or one behind it, may pass by itself. A missing or invalid file does not."""
    return any(_is_transient_itself(cause) for cause in causes_of(error))


def _is_transient_itself(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status == 429 or status >= 500
    if any(base.__name__ in TRANSIENT_TYPES for base in type(error).__mro__):
        return True
    in_text = re.search(r"\(os error (\d+)\)", str(error))  # as libraries written in Rust report them
    number = int(in_text[1]) if in_text else error.errno if isinstance(error, OSError) else None
    return number in TRANSIENT_ERRNOS


def retrying(read: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """Make a function that reads an input try again after transient errors.

    Raises:
        UnavailableError: The last try failed too.
    """

    @functools.wraps(read)
    def read_patiently(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        for seconds in (*RETRY_SECONDS, None):
            try:
                return read(*args, **kwargs)
            except UnavailableError:  # has been tried again further down
                raise
            except Exception as error:
                if not is_transient(error):
                    raise
                if seconds is None:
                    reason = str(error) if isinstance(error, UserError) else f"an input cannot be read: {error}"
                    raise UnavailableError(f"{reason}; tried {len(RETRY_SECONDS) + 1} times") from error
            time.sleep(seconds)
        raise AssertionError  # the last try returns or raises

    return read_patiently
