"""The process that does runs for `launch.local`, one after the other, and keeps what it has loaded between them."""

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from stableft.errors import UserError
from stableft.plan import Execution, PlannedRun, Progress, Sources, Stopped
from stableft.record import RunRecord
from stableft.sweep import run_once

Train = Callable[[PlannedRun, Path, Sources, Execution, Callable[[Progress], None], Callable[[], bool]], RunRecord]
Load = Callable[[PlannedRun, Sources], None]
PROGRESS_SECONDS = 0.25
Inbox = queue.SimpleQueue[tuple[PlannedRun, RunRecord | None] | None]


def serve(connection: Connection, results: Path, sources: Sources, execution: Execution, train: Train | None) -> None:
    """Does the runs that arrive on the connection and reports on each, until told to leave.

    `train` None stands for `stableft.train.train`. Reports are pairs: ready, started, progress, done (a record, or
    None for a run that another process is at), stopped, mistake (of the user), broken (cannot work at all).
    """
    stopping = threading.Event()
    inbox: Inbox = queue.SimpleQueue()

    def terminate(*_: object) -> None:
        stopping.set()
        inbox.put(None)

    # Ctrl-C goes to the whole foreground group; the parent decides. SIGTERM to this process alone means: leave the run
    # at a checkpoint and go; the parent gives it to another worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_listen, args=(connection, inbox, stopping), daemon=True).start()
    try:
        load, function = (None, train) if train else _default_functions()
    except Exception:
        _tell(connection, "broken", traceback.format_exc())
        return
    _tell(connection, "ready", None)
    while (task := inbox.get()) is not None:
        run, retry = task
        if stopping.is_set():
            _tell(connection, "stopped", None)
            continue
        progress = _throttled(connection)
        try:
            if load:
                _load_first(load, run, sources)
            record = run_once(
                run,
                results,
                retry,
                partial(function, run, results, sources, execution, progress, stopping.is_set),
                partial(_tell, connection, "started", None),
            )
        except Stopped:
            _tell(connection, "stopped", None)
        except UserError as error:
            _tell(connection, "mistake", str(error))
        else:
            _tell(connection, "done", record)
            if record is not None and breaks_the_device(record):
                return


def _default_functions() -> tuple[Load, Train]:
    from stableft.job import load_inputs  # these import torch, which the parent does not
    from stableft.train import train

    return load_inputs, train


def _load_first(load: Load, run: PlannedRun, sources: Sources) -> None:
    """Loads what a run reads before its claim, whose folder a mistake of the user must not leave behind."""
    try:
        load(run, sources)
    except UserError:
        raise
    except Exception:  # it comes again under the claim, where it is recorded as a crash
        return


def _listen(connection: Connection, inbox: Inbox, stopping: threading.Event) -> None:
    """Takes in what the parent sends, in a thread, so that the training loop asks only a flag in this process."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            # The parent is gone, however it died: nobody listens, and the device must be free for whoever comes next.
            os._exit(1)
        if message == "stop":
            stopping.set()
        else:
            inbox.put(message)


def _throttled(connection: Connection) -> Callable[[Progress], None]:
    """Returns the function that reports progress a few times a second, and what is new at once.

    That is a validation value, or that the run has likely failed.
    """
    due, val, warned = 0.0, None, False

    def progress(now_at: Progress) -> None:
        nonlocal due, val, warned
        now = time.monotonic()
        same = now_at.val == val or (now_at.val != now_at.val and val != val)  # NaN is not a new value
        if same and now < due and warned == (now_at.warning is not None):
            return
        due, val, warned = now + PROGRESS_SECONDS, now_at.val, now_at.warning is not None
        _tell(connection, "progress", now_at)

    return progress


def _tell(connection: Connection, word: str, content: object) -> None:
    try:
        connection.send((word, content))
    except OSError:  # as in _listen; an exception here would be recorded as a crash of the run
        os._exit(1)


def breaks_the_device(record: RunRecord) -> bool:
    """Returns whether the device or its context is unusable after a crash: so after most CUDA errors, memory apart.

    It reads the reason, as torch has no one exception for them.
    """
    reason = (record.reason or "").lower()
    if record.status != "crashed" or "out of memory" in reason:
        return False
    return any(word in reason for word in ("cuda", "cudnn", "cublas"))
