"""Signals that ask a command to stop, and its exit code then."""

import contextlib
import signal
import threading
from collections.abc import Iterator

EXIT_INTERRUPTED = 130  # the exit code that shells use for Ctrl-C (128 + SIGINT)


@contextlib.contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Yield a list to which each SIGINT, SIGTERM and SIGHUP is appended. The old handlers are restored on exit.

    A signal that the caller has ignored so far is ignored still.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # runs must also checkpoint when an SSH connection drops
        numbers.append(signal.SIGHUP)
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup, or a shell's `&`
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
