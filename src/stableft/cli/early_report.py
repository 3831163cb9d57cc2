"""Make a sweep's report in a process of its own, which loads what it needs while the last runs train."""

import contextlib
import io
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from stableft.config.sweep_file import Sweep
from stableft.sweep.local_workers import main_hidden, sigint_blocked
from stableft.sweep.progress import RunStarted, SweepEvent, SweepStarted

WORTHWHILE_SECONDS = 30.0  # in a shorter sweep, loading the libraries once more would cost more than it saves


class EarlyReport:
    """Follows a sweep's events, and starts the process once the last run has started.

    The process leaves the report where `print_report` finds it, which makes the report if the process fails.
    """

    def __init__(self, sweep: Sweep, results: Path, worthwhile: float = WORTHWHILE_SECONDS):
        self._sweep, self._results, self._worthwhile = sweep, results, worthwhile
        self._waiting: set[str] = set()
        self._began = 0.0
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def follow(self, event: SweepEvent) -> None:
        """Start the process if this event says that the last run has started."""
        if self._sweep.rules or self._sweep.start_runs:  # they train in stages, and only the last matters here
            return
        if isinstance(event, SweepStarted):
            self._waiting, self._began = {run.run_id for run in event.runs}, time.monotonic()
        elif isinstance(event, RunStarted):
            self._waiting.discard(event.run.run_id)
            if not self._waiting and not self._process and time.monotonic() - self._began >= self._worthwhile:
                self._start()

    def finish(self) -> None:
        """Let the process make the report, and wait for it."""
        if self._process and self._connection:
            with contextlib.suppress(OSError):  # it has died
                self._connection.send("make it")
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        sweep = replace(self._sweep, points=())  # they cannot be pickled
        arguments = (child_end, sweep, self._results, os.environ.get("COLUMNS"))
        # As a daemon, it is ended with this process, however that ends; if that is killed, the pipe's end does it.
        process = context.Process(target=make_when_told, args=arguments, name="stableft report", daemon=True)
        with sigint_blocked(), main_hidden(None), contextlib.suppress(OSError):
            process.start()
            self._process = process
        child_end.close()


def make_when_told(connection: Connection, sweep: Sweep, results: Path, columns: str | None) -> None:
    """Load what a report needs, wait for the word, then make the report and keep it. Print nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    os.environ.pop("COLUMNS", None)  # set by readline in some parents, which do not see it themselves
    if columns is not None:
        os.environ["COLUMNS"] = columns
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        import matplotlib.figure  # noqa: F401
        import pandas  # noqa: F401
        import scipy.stats  # noqa: F401

        from stableft.cli.sweep_commands import print_report

        connection.recv()
        print_report(sweep, results)
