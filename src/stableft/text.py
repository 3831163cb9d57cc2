"""Aligned columns, durations and live progress for the terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

TextRow = tuple[object, ...]


def align_columns(rows: Sequence[TextRow]) -> str:
    """Return the rows as left-aligned columns, one row per line. All rows must have the same length."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def join_with(texts: Sequence[str], word: str = "and") -> str:
    """Return the texts as a list in words: a, b and c."""
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def format_duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds as 1:02:03, or "?" if the time is unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_bytes(size: float) -> str:
    """Return a size in bytes with a decimal unit, such as 567 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seed_label(init: int, data: int) -> str:
    """Return a run's seed, or both with a slash between where they differ."""
    return str(init) if init == data else f"{init}/{data}"


REFRESH_SECONDS = 0.25  # between redraws on a terminal
LINE_SECONDS = 30.0  # between lines when the output is not a terminal


class LiveOutput:
    """Shows the progress of a long task: redrawn in place on a terminal (`display`), otherwise as occasional lines."""

    def __init__(self, display: "Live | None") -> None:
        self.display = display
        self._shown_at = time.monotonic()

    def show(self, render: "Callable[[], RenderableType]", at_once: bool = False) -> None:
        """Show what `render` returns, unless the previous output is too recent and `at_once` is false."""
        now = time.monotonic()
        if not at_once and now - self._shown_at < (LINE_SECONDS if self.display is None else REFRESH_SECONDS):
            return
        self._shown_at = now
        if self.display is None:
            print(render(), flush=True)
            return
        from rich.text import Text

        content = render()
        self.display.update(Text(content) if isinstance(content, str) else content, refresh=True)  # no markup in lines

    def print_line(self, line: str) -> None:
        """Print a line that stays, above what is redrawn."""
        if self.display is None:
            print(line, flush=True)
        else:
            self.display.console.print(line, markup=False, highlight=False)


@contextmanager
def open_live_output(live: bool | None = None, transient: bool = False) -> Iterator[LiveOutput]:
    """Yield the output of a long task. `live` None: redraw if the output is a terminal; `transient`: erase at exit."""
    if not (sys.stdout.isatty() if live is None else live):
        yield LiveOutput(None)
        return
    from rich.live import Live  # takes a while to import

    with Live(auto_refresh=False, transient=transient) as display:
        yield LiveOutput(display)


class Pace:
    """Estimates the time left of a task with `total` parts, `done` of which were done before the clock started."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self._done_before, self._started = total, done, time.monotonic()

    def time_left(self, done: int) -> str:
        """Return the estimated time left in words once `done` parts are done."""
        new = done - self._done_before
        seconds = (time.monotonic() - self._started) / new * (self.total - done) if new else None
        return describe_time_left(seconds)


def describe_time_left(seconds: float | None) -> str:
    """Return the time left in words, "?" if unknown."""
    return f"ETA {format_duration(seconds)}"
