"""Run the runs of a sweep in the workers of an executor, wherever it starts them."""

import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig
from stableft.data.splits import data_fingerprint
from stableft.errors import UserError
from stableft.pulse import SignOfLife
from stableft.records.failure import has_failed
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, RunRecord, read_record, run_folder
from stableft.sweep.executor import Executor, WorkerEnd, WorkerLink
from stableft.sweep.hub_drift import check_hub_commits
from stableft.sweep.hung_workers import (
    PATIENCE,
    Patience,
    WatchClock,
    WorkerWatch,
    describe_hang,
    describe_refusal_to_stop,
)
from stableft.sweep.progress import (
    ClockTick,
    Notice,
    ProgressReported,
    RunEnded,
    RunStarted,
    ShowEvent,
    SweepStarted,
    run_label,
    show_nothing,
)
from stableft.sweep.signals import collected_signals
from stableft.sweep.state import (
    SweepResult,
    SweepState,
    check_fingerprints,
    find_missing_outputs,
    is_done,
    read_sweep_state,
    record_worker_death,
    remove_left_checkpoint,
    unique_runs,
    with_recorded_probes,
    with_saved_weights,
)
from stableft.sweep.worker_process import TrainFunction

# Records by run id -> the ids of the runs that may start; the same object as before if nothing has changed.
ChooseRuns = Callable[[Mapping[str, RunRecord]], Sequence[str]]


def run_with_workers(
    runs: Sequence[PlannedRun],
    results: Path,
    sources: LocalPaths,
    executor: Executor[Any],
    execution: Execution,
    retry_crashed: bool = False,
    fail_fast: bool = False,
    display: ShowEvent = show_nothing,
    train: TrainFunction | None = None,
    fingerprint: Callable[[RunConfig, LocalPaths], str] = data_fingerprint,
    patience: Patience = PATIENCE,
    known: SweepState | None = None,
    leave_after: float | None = None,
    seen: dict[str, RunRecord] | None = None,
    wanted: ChooseRuns | None = None,
) -> SweepResult:
    """Do all runs that are not done yet and return the outcome. `known` is an earlier, brief state of them.

    The brief records of runs that other processes finish meanwhile are added to `seen`.

    `wanted` is asked, given the records of this call, which runs may start, by id in order; others that are training
    stop with a checkpoint. None: all of them.

    The executor starts the workers. A run that another process holds is waited for, or, once nothing else is left, for
    `leave_after` seconds.
    A run whose worker dies or hangs is tried once more, from its checkpoint, before it counts as crashed.

    `train` must be importable by name, because workers are spawned. None: `stableft.training.run.train`.

    Raises:
        UserError: A run's input is invalid, or data or hub model differ from what finished runs were trained on.
        RuntimeError: No worker can be started.
    """
    state = read_sweep_state(results, runs, brief=True, known=known)
    for message in state.damaged:
        display(Notice(message))
    check_fingerprints(state.finished, runs, sources, fingerprint)
    finished = {record.run_id: record for record in state.finished}
    crashed = {record.run_id: record for record in state.crashed}
    planned = unique_runs(runs)
    incomplete = _find_incomplete(results, planned, finished, execution, display)
    if incomplete:
        planned |= {run_id: with_recorded_probes(results, planned[run_id]) for run_id in incomplete}
        execution = with_saved_weights(results, incomplete, execution)
        finished = {run_id: record for run_id, record in finished.items() if run_id not in incomplete}
    for run_id in finished:
        remove_left_checkpoint(results, run_id)
    paused = {record.run_id: record for record in state.resumable if is_done(record, planned[record.run_id])}
    settled = finished | paused | ({} if retry_crashed else crashed)
    replaced = crashed | incomplete
    recorded = {record.run_id for record in (*state.finished, *state.crashed, *state.resumable)}
    queue = deque(
        QueuedRun(run, replaced.get(run_id), had_no_record=run_id not in recorded)
        for run_id, run in planned.items()
        if run_id not in settled
    )
    queued = [task.run for task in queue]
    check_hub_commits(queued, (*state.finished, *state.resumable), sources.hub_commits, results)
    slots = [WorkerSlot(*slot) for slot in executor.slots(execution)[: len(queue)]]
    held = {task.run.run_id: task for task in queue} if wanted else {}
    if wanted:
        queue.clear()

    def start(slot: WorkerSlot) -> WorkerLink:
        return executor.start(slot.name, results, sources, slot.execution, train, patience.heartbeat)

    more = (leave_after, wanted, held)
    pool = WorkerPool(start, executor.wait, results, slots, queue, display, fail_fast, patience, *more)
    done = len(finished) + len(paused)
    failed = {record.run_id for record in state.failed} & finished.keys()
    display(SweepStarted(queued, done, len(failed), len(settled) - done, len(slots)))
    run_worker_pool(pool)
    if seen is not None:
        seen |= pool.by_others
    if pool.error:
        raise pool.error
    outcome = _summarize_runs(planned, results, finished, failed, settled | pool.records, pool.interrupted)
    return replace(outcome, elsewhere=tuple(pool.left))


def _find_incomplete(
    results: Path,
    planned: Mapping[str, PlannedRun],
    finished: Mapping[str, RunRecord],
    execution: Execution,
    display: ShowEvent,
) -> dict[str, RunRecord]:
    """Return the finished runs to re-run because outputs are missing, and report all runs with missing outputs."""
    missing_outputs = {
        run_id: outputs
        for run_id, record in finished.items()
        if (outputs := find_missing_outputs(results, planned[run_id], record, execution))
    }
    if not missing_outputs:
        return {}
    outputs_text = ", ".join(sorted({output for outputs in missing_outputs.values() for output in outputs}))
    action = "they are trained again" if execution.retrain_incomplete else "--complete trains them again"
    display(Notice(f"{len(missing_outputs)} runs were finished earlier without {outputs_text}: {action}"))
    if not execution.retrain_incomplete:
        return {}
    whole = {run_id: read_record(results, run_id) for run_id in missing_outputs}  # `finished` is brief
    return {run_id: record for run_id, record in whole.items() if record}


@dataclass
class QueuedRun:
    """A run waiting for a worker. `replaces` is the crashed or incomplete record it replaces."""

    run: PlannedRun
    replaces: RunRecord | None
    not_before: float = 0.0
    claimed_elsewhere: bool = False
    held_since: float | None = None  # by another process, while nothing else is left to do here
    wait: float = 0.0  # before the next try, after another process held it
    had_no_record: bool = False
    first_death: str | None = None  # of the worker that the run was on; its second death makes it a crash
    machines_lost: int = 0  # under the run; a run that takes down its machines is not tried for ever

    @property
    def is_repeat(self) -> bool:
        """Whether the run had finished without outputs that are wanted now."""
        return self.replaces is not None and self.replaces.status == "finished"


@dataclass
class WorkerSlot:
    """A device, or a share of one, and its current worker."""

    name: str
    execution: Execution
    link: WorkerLink | None = None
    ready: bool = False
    task: QueuedRun | None = None
    started_at: float | None = None  # when the worker reported that it holds the task's claim
    failed_starts: int = 0  # consecutive
    device_errors: int = 0  # consecutive
    retired: bool = False
    watch: WorkerWatch = field(default_factory=WorkerWatch)


def _summarize_runs(
    planned: dict[str, PlannedRun],
    results: Path,
    finished_before: dict[str, RunRecord],
    failed_before: set[str],
    records: dict[str, RunRecord],
    interrupted: bool,
) -> SweepResult:
    done = [run_id for run_id in planned if run_id in records and records[run_id].status == "finished"]
    unfinished = [run_id for run_id in planned if run_id not in records]
    return SweepResult(
        finished=tuple(run_id for run_id in done if run_id not in finished_before),
        failed=tuple(
            run_id
            for run_id in done
            if (run_id in failed_before if run_id in finished_before else has_failed(records[run_id]))
        ),
        crashed=tuple(run_id for run_id in planned if run_id in records and records[run_id].status == "crashed"),
        finished_before=tuple(finished_before),
        unfinished=tuple(unfinished),
        resumable=tuple(run_id for run_id in unfinished if (run_folder(results, run_id) / CHECKPOINT_FILE).exists()),
        interrupted=interrupted,
    )


POLL_SECONDS = 0.2
CLAIMED_RETRY_SECONDS = (1.0, 10.0)  # first and longest wait before retrying a run that another process holds
WORKER_EXIT_SECONDS = 5.0
MAX_DEVICE_ERRORS = 2  # consecutive device errors before a device is retired
MAX_MACHINES_LOST = 5
MAX_FAILED_STARTS = 3  # consecutive workers that may die before beginning a run; more would fail the same way


@dataclass
class WorkerPool:
    """State of a sweep in the parent process."""

    start_worker: Callable[[WorkerSlot], WorkerLink]
    wait: Callable[[Sequence[Any], float], list[Any]]
    results: Path
    slots: list[WorkerSlot]
    queue: deque[QueuedRun]
    show: ShowEvent
    fail_fast: bool
    patience: Patience
    leave_after: float | None = None
    wanted: ChooseRuns | None = None
    held: dict[str, QueuedRun] = field(default_factory=dict)  # runs that may not start yet
    latest_wanted: Sequence[str] | None = None  # `wanted` has not been asked yet
    clock: WatchClock = field(default_factory=WatchClock)
    slowest: dict[str, float] = field(default_factory=dict)  # the workers' `SignOfLife.slowest` so far
    records: dict[str, RunRecord] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)  # ids of runs, to the processes that hold or have settled them
    by_others: dict[str, RunRecord] = field(default_factory=dict)  # those of `records` that other processes finished
    stopping_since: float | None = None  # on the clock
    interrupted: bool = False
    killed: bool = False
    error: Exception | None = None

    @property
    def stopping(self) -> bool:
        return self.stopping_since is not None


def run_worker_pool(pool: WorkerPool) -> None:
    """Run the queue until it is empty or the sweep is stopped. No worker outlives the call."""
    with collected_signals() as received:
        try:
            while _has_work(pool):
                try:
                    _assign_runs(pool)
                except UserError as error:  # of a newer version's record, or of a worker's machine
                    _stop_pool(pool, error)
                for link in pool.wait([slot.link for slot in pool.slots if slot.link], POLL_SECONDS):
                    _receive_report(pool, next(slot for slot in pool.slots if slot.link is link), link)
                _react_to_signals(pool, len(received))
                _kill_hung_workers(pool)
                pool.show(ClockTick())
        except BaseException:
            _kill_workers(pool)
            raise
        finally:
            _shut_down_workers(pool)


def _has_work(pool: WorkerPool) -> bool:
    if pool.wanted and not pool.stopping:
        try:
            _queue_wanted_runs(pool, pool.wanted(pool.records))
        except UserError as error:  # such as that scores cannot be compared
            _stop_pool(pool, error)
    return any(slot.task for slot in pool.slots) or bool(pool.queue and not pool.stopping)


def _queue_wanted_runs(pool: WorkerPool, wanted: Sequence[str]) -> None:
    """Queue the runs that may start, in their order, and hold the others. Stop those that train and no longer may."""
    if wanted is pool.latest_wanted:
        return
    pool.latest_wanted = wanted
    waiting = pool.held | {task.run.run_id: task for task in pool.queue}
    tasks = [waiting.pop(run_id) for run_id in wanted if run_id in waiting]
    tasks += [waiting.pop(run_id) for run_id, task in list(waiting.items()) if task.is_repeat]
    pool.queue = deque(sorted(tasks, key=lambda task: task.claimed_elsewhere))  # at the back, as they were
    pool.held = waiting
    if not wanted and not tasks and not any(slot.task and slot.task.is_repeat for slot in pool.slots):
        _stop_pool(pool, None)
        return
    allowed = {*wanted}
    for slot in pool.slots:
        if slot.task and _is_unwanted(slot.task, allowed) and not _has_new_record(pool, slot.task):
            _send_to_worker(slot, "stop")
            _send_to_worker(slot, None)  # a worker that was told to stop takes no more runs


def _is_unwanted(task: QueuedRun, wanted: Container[str]) -> bool:
    return task.run.run_id not in wanted and not task.is_repeat


def _requeue(pool: WorkerPool, task: QueuedRun, at_back: bool = False) -> bool:
    """Put a run that was on a worker back into the queue and return True, or hold it if it may no longer start."""
    if pool.wanted and _is_unwanted(task, pool.latest_wanted or ()):
        pool.held[task.run.run_id] = task
        return False
    if at_back:
        pool.queue.append(task)
        pool.queue.rotate(-secrets.randbelow(len(pool.queue)))  # away from where another process goes on
    else:
        pool.queue.appendleft(task)  # goes to the next free worker, unless the pool is stopping
    return True


def _has_new_record(pool: WorkerPool, task: QueuedRun) -> bool:
    return task.had_no_record and os.path.exists(run_folder(pool.results, task.run.run_id) / RECORD_FILE)


def _assign_runs(pool: WorkerPool) -> None:
    if pool.stopping:
        return
    idle = sum(slot.link is not None and slot.task is None for slot in pool.slots)
    for slot in pool.slots:
        if slot.link is None and not slot.retired and idle < len(pool.queue):
            slot.link, slot.ready, slot.started_at = pool.start_worker(slot), False, None
            slot.watch = WorkerWatch(heard_at=pool.clock.now)
            idle += 1
        idle_now = slot.ready and slot.task is None and not slot.watch.killed_because
        if idle_now and (task := _take_next_run(pool)):
            slot.task, slot.started_at, slot.watch.progress = task, None, None
            slot.watch.sign = SignOfLife()
            _send_to_worker(slot, (slot.task.run, slot.task.replaces))


def _take_next_run(pool: WorkerPool) -> QueuedRun | None:
    """Return the first run in the queue that may be tried now, and take those out that other processes have settled.

    With many processes on one folder most runs are settled by others. To see that costs a worker a claim. One of many,
    which leaves runs to others, does not even read their records: 64 of them would read each run's 64 times.
    """
    position = 0
    while position < len(pool.queue):
        task = pool.queue[position]
        if task.not_before > time.monotonic():
            position += 1
            continue
        del pool.queue[position]
        recorded = _has_new_record(pool, task)
        if recorded and pool.leave_after is not None:
            pool.left.append(task.run.run_id)
            continue
        record = _read_new_record(pool.results, task) if recorded else None
        if record is None:
            return task
        pool.records[record.run_id] = record
        if record.status == "finished":
            pool.by_others[record.run_id] = record
        pool.show(RunEnded("", task.run, "done", record))
    return None


def _read_new_record(results: Path, task: QueuedRun) -> RunRecord | None:
    """Return the record that another process has written of a run, without its evaluations, if it settles the run."""
    state = read_sweep_state(results, [task.run], look_only=True, brief=True)  # a damaged one is left to the worker
    return next((record for record in (*state.finished, *state.resumable) if is_done(record, task.run)), None)


def _receive_report(pool: WorkerPool, slot: WorkerSlot, link: WorkerLink) -> None:
    """Handle one report from a worker, or the worker's death."""
    try:
        word, content = link.receive()
    except (EOFError, OSError):
        end = link.join()
        assert end is not None
        link.close()
        _clean_up_dead_worker(pool, slot, end)
        return
    slot.watch.heard_at = pool.clock.now
    if word == "ready":
        slot.ready, slot.name = True, content or slot.name
    elif word == "alive":
        slot.watch.sign = content
        pool.slowest |= {doing: max(t, pool.slowest.get(doing, 0.0)) for doing, t in content.slowest.items()}
    elif word == "broken":
        known = isinstance(content, UserError)
        _stop_pool(pool, content if known else RuntimeError(f"the worker for {slot.name} cannot start:\n{content}"))
    elif word == "notice":
        pool.show(Notice(content))
    elif word == "progress":
        slot.watch.progress = content
        pool.show(ProgressReported(slot.name, content))
    elif word == "started" and slot.task:
        slot.started_at, slot.failed_starts = time.monotonic(), 0
        pool.show(RunStarted(slot.name, slot.task.run))
    else:
        task, slot.task = slot.task, None
        assert task, word
        if word == "done":
            record, device_works = content
            _accept_record(pool, slot, task, record, device_works)
            return
        pool.show(RunEnded(slot.name, task.run, "interrupted"))
        _requeue(pool, task)
        if word == "user_error":
            _stop_pool(pool, UserError(content))


def _accept_record(
    pool: WorkerPool, slot: WorkerSlot, task: QueuedRun, record: RunRecord | None, device_works: bool = True
) -> None:
    """Store a run's record, or requeue the run at the back if another process holds its claim."""
    if record is None:
        if not task.claimed_elsewhere:
            pool.show(RunEnded(slot.name, task.run, "claimed_elsewhere"))
        first, longest = CLAIMED_RETRY_SECONDS
        task.wait = min(2 * task.wait, longest) or first
        task.claimed_elsewhere, task.not_before = True, time.monotonic() + task.wait
        if _is_left_to_others(pool, task):
            pool.left.append(task.run.run_id)
        else:
            _requeue(pool, task, at_back=True)
        return
    pool.records[task.run.run_id] = record
    pool.show(RunEnded(slot.name, task.run, "done", record))
    if pool.fail_fast and record.status == "crashed":
        _stop_pool(pool, None)
    slot.device_errors = 0 if device_works else slot.device_errors + 1
    if slot.device_errors >= MAX_DEVICE_ERRORS:
        _retire_device(pool, slot)


def _is_left_to_others(pool: WorkerPool, task: QueuedRun) -> bool:
    """Return whether the wait for a run that another process holds is over.

    It begins once no run is trained here, and all queued ones are held by others. After it, the holder is known to
    live: its claim would have become free.
    """
    if pool.leave_after is None:
        return False
    training = any(slot.started_at is not None for slot in pool.slots if slot.task)
    if task.held_since is None or training or not all(other.claimed_elsewhere for other in pool.queue):
        task.held_since = time.monotonic()
    return time.monotonic() - task.held_since >= pool.leave_after


def _retire_device(pool: WorkerPool, slot: WorkerSlot) -> None:
    """Stop assigning runs to a device, so that a broken one does not crash every run in the queue."""
    slot.retired = True
    pool.show(Notice(f"{slot.name} had {MAX_DEVICE_ERRORS} device errors in a row and gets no more runs"))
    if all(slot.retired for slot in pool.slots):
        _stop_pool(pool, None)


def _clean_up_dead_worker(pool: WorkerPool, slot: WorkerSlot, end: WorkerEnd) -> None:
    """Handle a worker's death, and settle the run that it was on."""
    task = slot.task
    if task and slot.started_at is None and end.clean:  # it had done its last run already
        _requeue(pool, task)
    elif task:
        task.machines_lost += end.machine_lost
        to_blame = not end.machine_lost or task.machines_lost > MAX_MACHINES_LOST
        _settle_dead_run(pool, slot, task, _describe_death(slot.watch, end.cause), to_blame)
    if slot.started_at is None and not end.machine_lost:
        slot.failed_starts += 1
        if slot.failed_starts >= MAX_FAILED_STARTS:
            _stop_pool(
                pool,
                RuntimeError(f"{MAX_FAILED_STARTS} workers for {slot.name} died before a run began, by {end.cause}"),
            )
    slot.link = slot.task = slot.started_at = None
    slot.ready = False


def _describe_death(watch: WorkerWatch, cause: str) -> str:
    at = f", after step {watch.progress.step} of {watch.progress.total}" if watch.progress else ""
    if watch.killed_because:
        return f"the worker process {watch.killed_because} while {watch.sign.doing}{at}, and was killed"
    return f"the worker process died with {cause}{at}"


def _settle_dead_run(pool: WorkerPool, slot: WorkerSlot, task: QueuedRun, death: str, to_blame: bool) -> None:
    """Requeue a run whose worker died, or record a crash if it was the second one and the run may be to blame."""
    first, seconds = task.first_death, time.monotonic() - (slot.started_at or time.monotonic())
    if first and to_blame and not pool.killed and not (pool.stopping and slot.watch.killed_because):
        reason = f"{death}, twice" if death == first else f"{death}; on the first try, {first}"
        try:
            record = record_worker_death(task.run, pool.results, task.replaces, reason, seconds)
        except UserError as error:  # the other workers may still finish or keep a checkpoint
            _requeue(pool, task)
            _stop_pool(pool, error)
        else:
            _accept_record(pool, slot, task, record)
        return
    is_queued = _requeue(pool, task)
    if pool.killed:
        return
    if slot.started_at is not None:
        pool.show(RunEnded(slot.name, task.run, "interrupted"))
    task.first_death = death if to_blame else first
    has_checkpoint = (run_folder(pool.results, task.run.run_id) / CHECKPOINT_FILE).exists()
    then = (
        "the next sweep continues it" if pool.stopping else f"it is tried {'once more' if to_blame else 'elsewhere'},"
    )
    then += " from its last checkpoint" if has_checkpoint else " from its start"
    if not is_queued:
        then = "no claim needs it any more"
    pool.show(Notice(f"{run_label(task.run)}: {death}; {then}"))


def _kill_hung_workers(pool: WorkerPool) -> None:
    """Kill the workers that hang. Their deaths are then handled like any other."""
    pool.clock.look()
    now, busy = pool.clock.now, sum(slot.task is not None for slot in pool.slots)
    for slot in pool.slots:
        if slot.link is None or slot.watch.killed_because:
            continue
        watch = slot.watch
        reason = describe_hang(watch, pool.patience, now, slot.ready, pool.slowest)
        if reason is None and pool.stopping_since is not None and slot.task:
            reason = describe_refusal_to_stop(watch, pool.patience, now, pool.stopping_since, busy, pool.slowest)
        if reason:
            watch.killed_because = reason
            slot.link.kill()


def _react_to_signals(pool: WorkerPool, signals: int) -> None:
    """Stop at the first signal and kill the workers at the second, leaving runs at their last checkpoints."""
    if signals and not pool.interrupted:
        pool.interrupted = True
        pool.show(Notice("Stopping: running runs write a checkpoint; Ctrl-C again kills them.", interrupted=True))
        _stop_pool(pool, None)
    if signals > 1 and not pool.killed:
        _kill_workers(pool)


def _stop_pool(pool: WorkerPool, error: Exception | None) -> None:
    pool.error = pool.error or error
    if pool.stopping_since is None:
        pool.stopping_since = pool.clock.now
    for slot in pool.slots:
        _send_to_worker(slot, "stop")


def _kill_workers(pool: WorkerPool) -> None:
    pool.killed = True
    for slot in pool.slots:
        if slot.link:
            slot.link.kill()


def _shut_down_workers(pool: WorkerPool) -> None:
    """Ask idle workers to exit. Kill those that are still starting or do not exit in time."""
    for slot in pool.slots:
        _send_to_worker(slot, None)
    deadline = time.monotonic() + WORKER_EXIT_SECONDS
    for slot in pool.slots:
        if slot.link is None:
            continue
        if not slot.link.join(max(0.0, deadline - time.monotonic()) if slot.ready else 0):
            slot.link.kill()
            slot.link.join()
        slot.link.close()


def _send_to_worker(slot: WorkerSlot, message: Any) -> None:
    if slot.link:
        with contextlib.suppress(OSError):  # it is dead; `_receive_report` will see it
            slot.link.send(message)
