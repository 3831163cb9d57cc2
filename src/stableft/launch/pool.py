"""The worker processes of a sweep, seen from the parent: who does which run, who died, when to stop.

The parent hands out runs and listens; it never trains. A worker's death is the end of its pipe.
"""

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stableft.errors import UserError
from stableft.launch.signals import collected_signals, sigint_blocked
from stableft.launch.worker import Train, breaks_the_device, serve
from stableft.plan import Execution, PlannedRun, Sources
from stableft.record import RunRecord
from stableft.sweep import record_death
from stableft.watch import Ended, Moved, Note, Show, Started, Tick

TICK_SECONDS = 0.2
ELSEWHERE_SECONDS = 1.0  # how long a run that another process is at is left alone
LEAVE_SECONDS = 5.0
LOST = 2  # device errors in a row after which a device is given up
LAST_START = 3  # a worker that so often in a row ended before it began a run will not do better the next time


@dataclass
class Task:
    """A run that is still to be done; `retry` is the record that it replaces, crashed or incomplete."""

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
    device_errors: int = 0  # in a row
    lost: bool = False


@dataclass
class Pool:
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
        with sigint_blocked():
            slot.process.start()
        theirs.close()  # so that the worker's death is the end of the file
        slot.ready, slot.begun = False, None

    return start


def drive(pool: Pool) -> None:
    """Does the runs in the queue until none is left or the sweep is stopped; leaves no process behind."""
    with collected_signals() as received:
        try:
            while any(slot.task for slot in pool.slots) or (pool.queue and not pool.stopping):
                _hand_out(pool)
                for connection in wait([slot.connection for slot in pool.slots if slot.connection], TICK_SECONDS):
                    _hear(pool, next(slot for slot in pool.slots if slot.connection is connection))
                _obey(pool, len(received))
                pool.show(Tick())
        except BaseException:
            _kill(pool)
            raise
        finally:
            _dismiss(pool)


def _hand_out(pool: Pool) -> None:
    if pool.stopping:
        return
    idle = sum(slot.connection is not None and slot.task is None for slot in pool.slots)
    for slot in pool.slots:
        if slot.connection is None and not slot.lost and idle < len(pool.queue):
            pool.start(slot)
            idle += 1
        if slot.ready and slot.task is None and pool.queue and pool.queue[0].not_before <= time.monotonic():
            slot.task, slot.begun = pool.queue.popleft(), None
            _send(slot, (slot.task.run, slot.task.retry))


def _hear(pool: Pool, slot: Slot) -> None:
    """Takes one report of a worker, or its death."""
    assert slot.connection is not None
    try:
        word, content = slot.connection.recv()
    except (EOFError, OSError):
        _bury(pool, slot)
        return
    if word == "ready":
        slot.ready = True
    elif word == "broken":
        _stop(pool, RuntimeError(f"the worker for {slot.name} cannot start:\n{content}"))
    elif word == "progress":
        pool.show(Moved(slot.name, content))
    elif word == "started" and slot.task:
        slot.begun, slot.fruitless = time.monotonic(), 0
        pool.show(Started(slot.name, slot.task.run))
    else:
        task, slot.task = slot.task, None
        assert task, word
        if word == "done":
            _settle(pool, slot, task, content)
            return
        pool.show(Ended(slot.name, task.run, "stopped"))
        pool.queue.appendleft(task)  # goes to another worker, unless all are stopping
        if word == "mistake":
            _stop(pool, UserError(content))


def _settle(pool: Pool, slot: Slot, task: Task, record: RunRecord | None) -> None:
    """Books a record, or puts a run that another process is at to the back of the queue."""
    if record is None:
        if not task.elsewhere:
            pool.show(Ended(slot.name, task.run, "elsewhere"))
        task.elsewhere, task.not_before = True, time.monotonic() + ELSEWHERE_SECONDS
        pool.queue.append(task)
        return
    pool.settled[task.run.run_id] = record
    pool.show(Ended(slot.name, task.run, "settled", record))
    if pool.fail_fast and record.status == "crashed":
        _stop(pool, None)
    slot.device_errors = slot.device_errors + 1 if breaks_the_device(record) else 0
    if slot.device_errors >= LOST:
        _give_up(pool, slot)


def _give_up(pool: Pool, slot: Slot) -> None:
    """Gives a device no more runs, so that a broken one does not turn the whole queue into crashes."""
    slot.lost = True
    pool.show(Note(f"{slot.name} had {LOST} device errors in a row and gets no more runs"))
    if all(slot.lost for slot in pool.slots):
        _stop(pool, None)


def _bury(pool: Pool, slot: Slot) -> None:
    """Notes the death of a worker, and what it means for the run it was at."""
    assert slot.process is not None
    assert slot.connection is not None
    slot.process.join()  # only then has the kernel surely freed its claim
    slot.connection.close()
    code, task = slot.process.exitcode, slot.task
    how = f"signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"exit code {code}"
    if task and slot.begun is not None and not pool.killed:
        reason = f"the worker process died with {how}"
        seconds = time.monotonic() - slot.begun
        _settle(pool, slot, task, record_death(task.run, pool.results, task.retry, reason, seconds))
    elif task:
        pool.queue.appendleft(task)
    if slot.begun is None:
        slot.fruitless += 1
        if slot.fruitless >= LAST_START:
            _stop(pool, RuntimeError(f"{LAST_START} workers for {slot.name} died before a run began, by {how}"))
    slot.process = slot.connection = slot.task = slot.begun = None
    slot.ready = False


def _obey(pool: Pool, signals: int) -> None:
    """Stops at the first signal; kills at the second, which leaves runs at the checkpoints they had before."""
    if signals and not pool.interrupted:
        pool.interrupted = True
        pool.show(Note("Stopping: running runs write a checkpoint; Ctrl-C again kills them."))
        _stop(pool, None)
    if signals > 1 and not pool.killed:
        _kill(pool)


def _stop(pool: Pool, error: Exception | None) -> None:
    pool.error = pool.error or error
    pool.stopping = True
    for slot in pool.slots:
        _send(slot, "stop")


def _kill(pool: Pool) -> None:
    pool.killed = True
    for slot in pool.slots:
        if slot.process:
            slot.process.kill()


def _dismiss(pool: Pool) -> None:
    """Lets workers leave, who have no run any more; one that is still starting or does not go is killed."""
    for slot in pool.slots:
        _send(slot, None)
    patience = time.monotonic() + LEAVE_SECONDS
    for slot in pool.slots:
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
