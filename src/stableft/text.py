"""Aligned columns and durations for the terminal."""

from collections.abc import Sequence

TextRow = tuple[object, ...]


def align_columns(rows: Sequence[TextRow]) -> str:
    """Return the rows as left-aligned columns, one row per line. All rows must have the same length."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def format_duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds as 1:02:03, or "?" if the time is unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def seed_label(init: int, data: int) -> str:
    """Return a run's seed, or both with a slash between where they differ."""
    return str(init) if init == data else f"{init}/{data}"
