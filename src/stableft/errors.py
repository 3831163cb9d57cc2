"""The exception for invalid user input, which the command line reports as one sentence with exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Invalid user input. The message is one sentence that names file, key, value and the violated rule."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `names`, or "" if none is close."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
