"""What the texts of a report's blocks mean to every form for people: ranks, parts of rows, code, names of places."""

import re

RANKS = 3  # of headings; a title below them, such as that of the notes, is a plain line
PART = "- "  # a row whose name begins so belongs to the row above
CODE = re.compile(r"`([^`\n]+)`")


def label(text: str) -> str:
    """Returns the text as letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def code_parts(text: str) -> list[tuple[str, bool]]:
    """Returns the parts of a text, each with whether it is code, which stands between backticks."""
    return [(part, i % 2 == 1) for i, part in enumerate(CODE.split(text)) if part]
