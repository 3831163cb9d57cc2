"""Signals to the parent of a sweep: collected while it drives, and kept from workers while they are born."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

INTERRUPTED = 130  # exit code, as shells have it for Ctrl-C


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Blocks SIGINT while a worker is born, who inherits that: Ctrl-C must not kill it before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its first start, inside Process.start, would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Yields a list that grows by SIGINT, SIGTERM and SIGHUP to this process; the old handlers come back."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # a connection that drops must leave checkpoints too
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
