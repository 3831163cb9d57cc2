"""Where a probe is: one live line on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from stableft.display import REFRESH_SECONDS
from stableft.text import duration

LINE_SECONDS = 30.0
Tick = Callable[[str, int], None]  # is told what is at hand, and how much of the whole was done just now


@contextmanager
def open_view(total: int, before: int = 0) -> Iterator[Tick]:
    """Yields the function that is told of what is done, of `total` in all, and shows it with the time that is left.

    `before` is what earlier processes have done of it, which says nothing about how fast this one is.
    """
    from rich.live import Live
    from rich.text import Text

    live, started, done = sys.stdout.isatty(), time.monotonic(), 0
    shown, wait = started, REFRESH_SECONDS if live else LINE_SECONDS
    with Live(auto_refresh=False, transient=True) if live else nullcontext() as display:

        def show(words: str, amount: int) -> None:
            nonlocal shown, done
            now, done = time.monotonic(), done + amount
            if now - shown < wait:
                return
            shown = now
            left = (now - started) / done * (total - before - done)
            line = f"{words}  {(before + done) / total:.0%}  ETA {duration(left)}"
            if display is None:
                print(line, flush=True)
            else:
                display.update(Text(line), refresh=True)

        yield show
