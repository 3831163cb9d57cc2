"""Aligned text for what the short commands print."""

from collections.abc import Sequence

Row = tuple[object, ...]


def columns(rows: Sequence[Row]) -> str:
    """Returns rows of equal length as left-aligned columns, a line each."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)
