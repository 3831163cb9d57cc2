"""The worker processes of a sweep, seen from the parent: who does which run, who died, when to stop.

The parent hands out runs and listens; it never trains. A worker's death is the end of its pipe.
"""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stableft.errors import UserError
from stableft.launch.worker import Train, serve
from stableft.plan import Execution, PlannedRun, Sources
from stableft.record import RunRecord
from stableft.sweep import record_death
from stableft.watch import Ended, Moved, Note, Show, Started, Tick

TICK_SECONDS = 0.2
ELSEWHERE_SECONDS = 1.0  # how long a run that another process is at is left alone
LEAVE_SECONDS = 5.0
LAST_START = 3  # a worker that so often in a row ended before it began a run will not do better the next time


@dataclass
class Task:
    """A run that is still to be done; `retry` is the crashed record that it replaces."""

    run: PlannedRun
    retry: RunRecord | None
    not_before: float = 0.0
    elsewhere: bool = False


@dataclass
class Slot:
    """A device, or a share of one, and the worker process that has it now."""

    name: str
    execution: Execution
    process: BaseProcess | None = None
    connection: Connection | None = None
    ready: bool = False
    task: Task | None = None
    begun: float | None = None  # when the worker said that it holds the claim of the task
    fruitless: int = 0


@dataclass
class Sweep:
    """The state of a sweep in its parent process."""

    start: Callable[[Slot], None]
    results: Path
    slots: list[Slot]
    queue: deque[Task]
    show: Show
    fail_fast: bool
    settled: dict[str, RunRecord] = field(default_factory=dict)
    stopping: bool = False
    interrupted: bool = False
    killed: bool = False
    error: Exception | None = None


def starter(results: Path, sources: Sources, train: Train | None) -> Callable[[Slot], None]:
    """Returns the function that gives a slot a new worker process."""
    context = multiprocessing.get_context("spawn")

    def start(slot: Slot) -> None:
        slot.connection, theirs = context.Pipe()
        arguments = (theirs, results, sources, slot.execution, train)
        slot.process = context.Process(target=serve, args=arguments, name=f"stableft {slot.name}")
        with _sigint_blocked():
            slot.process.start()
        theirs.close()  # so that the worker's death is the end of the file
        slot.ready, slot.begun = False, None

    return start


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
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
def _signals() -> Iterator[list[int]]:
    """Yields a list that grows by every SIGINT and SIGTERM to this process; the old handlers come back at the end."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def drive(sweep: Sweep) -> None:
    """Does the runs in the queue until none is left or the sweep is stopped; leaves no process behind."""
    with _signals() as received:
        try:
            while any(slot.task for slot in sweep.slots) or (sweep.queue and not sweep.stopping):
                _hand_out(sweep)
                for connection in wait([slot.connection for slot in sweep.slots if slot.connection], TICK_SECONDS):
                    _hear(sweep, next(slot for slot in sweep.slots if slot.connection is connection))
                _obey(sweep, len(received))
                sweep.show(Tick())
        except BaseException:
            _kill(sweep)
            raise
        finally:
            _dismiss(sweep)


def _hand_out(sweep: Sweep) -> None:
    if sweep.stopping:
        return
    idle = sum(slot.connection is not None and slot.task is None for slot in sweep.slots)
    for slot in sweep.slots:
        if slot.connection is None and idle < len(sweep.queue):
            sweep.start(slot)
            idle += 1
        if slot.ready and slot.task is None and sweep.queue and sweep.queue[0].not_before <= time.monotonic():
            slot.task, slot.begun = sweep.queue.popleft(), None
            _send(slot, (slot.task.run, slot.task.retry))


def _hear(sweep: Sweep, slot: Slot) -> None:
    """Takes one report of a worker, or its death."""
    assert slot.connection is not None
    try:
        word, content = slot.connection.recv()
    except (EOFError, OSError):
        _bury(sweep, slot)
        return
    if word == "ready":
        slot.ready = True
    elif word == "broken":
        _stop(sweep, RuntimeError(f"the worker for {slot.name} cannot start:\n{content}"))
    elif word == "progress":
        sweep.show(Moved(slot.name, content))
    elif word == "started" and slot.task:
        slot.begun, slot.fruitless = time.monotonic(), 0
        sweep.show(Started(slot.name, slot.task.run))
    else:
        task, slot.task = slot.task, None
        assert task, word
        if word == "done":
            _settle(sweep, slot, task, content)
            return
        sweep.show(Ended(slot.name, task.run, "stopped"))
        sweep.queue.appendleft(task)  # goes to another worker, unless all are stopping
        if word == "mistake":
            _stop(sweep, UserError(content))


def _settle(sweep: Sweep, slot: Slot, task: Task, record: RunRecord | None) -> None:
    """Books a record, or puts a run that another process is at to the back of the queue."""
    if record is None:
        if not task.elsewhere:
            sweep.show(Ended(slot.name, task.run, "elsewhere"))
        task.elsewhere, task.not_before = True, time.monotonic() + ELSEWHERE_SECONDS
        sweep.queue.append(task)
        return
    sweep.settled[task.run.run_id] = record
    sweep.show(Ended(slot.name, task.run, "settled", record))
    if sweep.fail_fast and record.status == "crashed":
        _stop(sweep, None)


def _bury(sweep: Sweep, slot: Slot) -> None:
    """Notes the death of a worker, and what it means for the run it was at."""
    assert slot.process is not None
    assert slot.connection is not None
    slot.process.join()  # only then has the kernel surely freed its claim
    slot.connection.close()
    code, task = slot.process.exitcode, slot.task
    how = f"signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"exit code {code}"
    if task and slot.begun is not None and not sweep.killed:
        reason = f"the worker process died with {how}"
        seconds = time.monotonic() - slot.begun
        _settle(sweep, slot, task, record_death(task.run, sweep.results, task.retry, reason, seconds))
    elif task:
        sweep.queue.appendleft(task)
    if slot.begun is None:
        slot.fruitless += 1
        if slot.fruitless >= LAST_START:
            _stop(sweep, RuntimeError(f"{LAST_START} workers for {slot.name} died before a run began, by {how}"))
    slot.process = slot.connection = slot.task = slot.begun = None
    slot.ready = False


def _obey(sweep: Sweep, signals: int) -> None:
    """Stops at the first signal; kills at the second, which leaves runs at the checkpoints they had before."""
    if signals and not sweep.interrupted:
        sweep.interrupted = True
        sweep.show(Note("Stopping: running runs write a checkpoint; Ctrl-C again kills them."))
        _stop(sweep, None)
    if signals > 1 and not sweep.killed:
        _kill(sweep)


def _stop(sweep: Sweep, error: Exception | None) -> None:
    sweep.error = sweep.error or error
    sweep.stopping = True
    for slot in sweep.slots:
        _send(slot, "stop")


def _kill(sweep: Sweep) -> None:
    sweep.killed = True
    for slot in sweep.slots:
        if slot.process:
            slot.process.kill()


def _dismiss(sweep: Sweep) -> None:
    """Lets workers leave, who have no run any more; one that is still starting or does not go is killed."""
    for slot in sweep.slots:
        _send(slot, None)
    patience = time.monotonic() + LEAVE_SECONDS
    for slot in sweep.slots:
        if slot.process is None or slot.connection is None:
            continue
        slot.process.join(max(0.0, patience - time.monotonic()) if slot.ready else 0)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()
        slot.connection.close()


def _send(slot: Slot, message: Any) -> None:
    if slot.connection:
        with contextlib.suppress(OSError):  # it is dead, and `_hear` is about to learn of it
            slot.connection.send(message)
