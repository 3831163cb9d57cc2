"""The one exception that the command line turns into a sentence and exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What the user wrote cannot be used; the message is one sentence naming file, key, value and rule."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest of `names`, or "" when none is close."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
