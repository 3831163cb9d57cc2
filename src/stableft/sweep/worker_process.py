"""The worker process of a sweep: do the runs that the parent sends and report on each."""

import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted, RunProgress
from stableft.errors import UserError
from stableft.pulse import PULSE, TRAINING, WAITING
from stableft.records.held_claims import has_lost_claim
from stableft.records.run_record import RunRecord
from stableft.sweep.command_run import train_by_command
from stableft.sweep.state import run_under_claim
from stableft.text import forgiving_output
from stableft.transient import UnavailableError

TrainFunction = Callable[
    [PlannedRun, Path, LocalPaths, Execution, Callable[[RunProgress], None], Callable[[], bool]], RunRecord
]
PreloadFunction = Callable[[PlannedRun, LocalPaths], None]
PROGRESS_SECONDS = 0.25
RunInbox = queue.SimpleQueue[tuple[PlannedRun, RunRecord | None] | None]


class ParentPipe(Protocol):
    """The worker's end of its link to the pool, such as a `multiprocessing.connection.Connection`."""

    def send(self, obj: Any, /) -> None:
        """Send a report. Raises OSError if the parent is gone."""
        ...

    def recv(self) -> Any:
        """Wait for the next message. Raises EOFError or OSError if the parent is gone."""
        ...


@forgiving_output()
def run_worker(
    connection: ParentPipe,
    results: Path,
    sources: LocalPaths,
    execution: Execution,
    train: TrainFunction | None,
    heartbeat: float,
) -> None:
    """Run the runs received on the connection and report on each, until told to exit. Call it in a main thread.

    `train` None: `stableft.training.run.train`. Reports are (word, content) pairs. The words are ready, alive,
    started, progress, done, interrupted, user_error and broken. alive is sent every `heartbeat` seconds and carries a
    `SignOfLife`. done carries the record (None if another process holds the claim) and whether the device still
    computes. user_error carries the message. broken means that the worker cannot start, and
    carries a traceback or a `UserError`.
    """
    report = ReportSender(connection)
    stopping = threading.Event()
    inbox: RunInbox = queue.SimpleQueue()

    def terminate(*_: object) -> None:
        stopping.set()
        inbox.put(None)

    # Ctrl-C reaches the whole foreground process group, so workers ignore it and the parent decides. SIGTERM to this
    # process alone means: checkpoint the run and exit. The parent then gives the run to another worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_listen_to_parent, args=(connection, inbox, stopping), daemon=True).start()
    threading.Thread(target=_give_signs_of_life, args=(report, heartbeat), daemon=True).start()
    load, function = None, train
    report("ready", None)

    def should_stop() -> bool:
        return stopping.is_set() or has_lost_claim()

    while (task := inbox.get()) is not None:
        run, replaces = task
        if stopping.is_set():
            report("interrupted", None)
            continue
        PULSE.start_over("loading its data and model")
        is_command = isinstance(run.config, CommandConfig)
        try:
            if not (function or is_command):
                load, function = _import_preload_and_train()
        except Exception:
            report("broken", traceback.format_exc())
            return
        do = train_by_command if is_command else function
        assert do
        progress = _throttled_progress(report)
        try:
            if load and not is_command:
                _try_preload(load, run, sources)
            record = run_under_claim(
                run,
                results,
                replaces,
                partial(_train_or_crash, do, run, results, sources, execution, progress, should_stop),
                partial(report, "started", None),
            )
        except RunInterrupted:
            report("interrupted", None)
        except UserError as error:
            report("user_error", str(error))
        else:
            crashed = record is not None and record.status == "crashed" and not is_command
            device_works = not crashed or can_compute(execution.device)
            report("done", (record, device_works))
            if not device_works:  # only a new process gets a new CUDA context
                return
        PULSE.start_over(WAITING)
        if execution.device != "cpu" and not is_command:  # another worker may share the GPU
            import torch

            gc.collect()  # models hold themselves by the functions that replace their methods
            torch.cuda.empty_cache()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # to take down torch and transformers would take a second, and nothing else is left to do


def _import_preload_and_train() -> tuple[PreloadFunction, TrainFunction]:
    # Imported here because they import torch, which the parent avoids.
    from stableft.training.run import train
    from stableft.training.setup import preload_inputs

    return preload_inputs, train


def _try_preload(load: PreloadFunction, run: PlannedRun, sources: LocalPaths) -> None:
    """Load a run's inputs before claiming it, so that a user error does not leave an empty run folder behind."""
    try:
        load(run, sources)
    except UnavailableError:  # it may pass before the run holds the claim, under which it is recorded as a crash
        return
    except UserError:
        raise
    except Exception:  # it recurs under the claim
        return


def _train_or_crash(train: TrainFunction, *arguments: Any) -> RunRecord:
    """Train. Inputs that were not to be had for now are no mistake of the user: they crash this run alone."""
    try:
        return train(*arguments)
    except UnavailableError as error:
        message = str(error)
    # Raised here, so that the cause is not taken for a failing disk under the results, which would end the sweep.
    raise RuntimeError(message)


def _listen_to_parent(connection: ParentPipe, inbox: RunInbox, stopping: threading.Event) -> None:
    """Receive the parent's messages in a thread, so that the training loop only has to check a flag."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            # The parent is gone, for whatever reason. Exit at once to free the device.
            os._exit(1)
        if message == "stop":
            stopping.set()
        else:
            inbox.put(message)


def _throttled_progress(send: "ReportSender") -> Callable[[RunProgress], None]:
    """Return a callback that sends progress to the parent a few times a second.

    A new validation score or a change of the failure warning is sent at once.
    """
    next_report, val, warned = 0.0, None, False

    def report(progress: RunProgress) -> None:
        nonlocal next_report, val, warned
        PULSE.get_further(TRAINING)
        now = time.monotonic()
        same = progress.val == val or (progress.val != progress.val and val != val)  # NaN is not a new value
        if same and now < next_report and warned == (progress.warning is not None):
            return
        next_report, val, warned = now + PROGRESS_SECONDS, progress.val, progress.warning is not None
        send("progress", progress)

    return report


def _give_signs_of_life(report: "ReportSender", heartbeat: float) -> None:
    """Send the pulse in a thread of its own, which tells a worker that is stopped from one that is stuck."""
    while True:
        time.sleep(heartbeat)
        report("alive", PULSE.tick(heartbeat))


class ReportSender:
    """Sends reports to the parent, from any thread."""

    def __init__(self, connection: ParentPipe):
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, word: str, content: object) -> None:
        """Send a report. Exit at once if the parent is gone: an exception would be recorded as a crash of the run."""
        try:
            with self._lock:
                self._connection.send((word, content))
        except OSError:
            os._exit(1)


# In the texts of torch's exceptions. cuBLAS reports the second kind if there is no memory for its handle.
BROKEN_DEVICE = ("CUDA error:", "cuDNN error", "CUDA driver error")
FULL_DEVICE = ("CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def can_compute(device: str) -> bool:
    """Return whether a device still computes after a crash. Frees the memory that this process does not use.

    After most CUDA errors every later call fails too. Their class does not tell them from full memory, on which cuBLAS
    fails to start, but their text does.
    """
    if device == "cpu":
        return True
    import torch

    try:
        torch.cuda.empty_cache()
        matrix = torch.ones(8, 8, device=device)
        return bool((matrix @ matrix).sum().item() == 8**3)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError as error:
        text = str(error)
        return any(name in text for name in FULL_DEVICE) or not any(name in text for name in BROKEN_DEVICE)
