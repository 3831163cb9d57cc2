"""Runs a sweep on the devices of this machine: persistent worker processes, one per device and job slot."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stableft.config import RunConfig
from stableft.errors import UserError
from stableft.launch.pool import Pool, Slot, Task, drive, starter
from stableft.launch.worker import Train
from stableft.plan import Execution, PlannedRun, Sources
from stableft.probing import keep_probes, keep_weights, lacking
from stableft.record import CHECKPOINT_FILE, RunRecord, run_folder
from stableft.splits import data_fingerprint
from stableft.sweep import Outcome, check_fingerprints, settles, status_of, unique_runs
from stableft.watch import Note, Opened, Show, ignore


def run_local(
    runs: Sequence[PlannedRun],
    results: Path,
    sources: Sources,
    devices: Sequence[str],
    jobs_per_device: int,
    execution: Execution,
    retry_crashed: bool = False,
    fail_fast: bool = False,
    display: Show = ignore,
    train: Train | None = None,
    fingerprint: Callable[[RunConfig, Sources], str] = data_fingerprint,
) -> Outcome:
    """Returns what became of the runs, after doing all that are left.

    `train` (importable by name) None stands for `stableft.train.train`.

    Raises:
        UserError: what the user wrote cannot be run, or the data is not what finished runs were trained on.
        RuntimeError: no worker can be started.
    """
    state = status_of(results, runs)
    for sentence in state.damaged:
        display(Note(sentence))
    check_fingerprints(state.finished, runs, sources, fingerprint)
    finished = {record.run_id: record for record in state.finished}
    crashed = {record.run_id: record for record in state.crashed}
    planned = unique_runs(runs)
    again = _incomplete(results, planned, finished, execution, display)
    if again:
        planned |= {run_id: keep_probes(results, planned[run_id]) for run_id in again}
        execution = keep_weights(results, again, execution)
        finished = {run_id: record for run_id, record in finished.items() if run_id not in again}
    paused = {record.run_id: record for record in state.waiting if settles(record, planned[record.run_id])}
    kept = finished | paused | ({} if retry_crashed else crashed)
    replaced = crashed | again
    queue = deque(Task(run, replaced.get(run_id)) for run_id, run in planned.items() if run_id not in kept)
    slots = slots_for(devices, jobs_per_device, execution)[: len(queue)]
    start = starter(results, sources, train)
    pool = Pool(start, results, slots, queue, display, fail_fast)
    todo = [task.run for task in queue]
    done = len(finished) + len(paused)
    failed = sum(bool(record.failed) for record in finished.values())
    display(Opened(todo, done, failed, len(kept) - done, len(slots)))
    drive(pool)
    if pool.error:
        raise pool.error
    return _outcome(planned, results, finished, kept | pool.settled, pool.interrupted)


def _incomplete(
    results: Path,
    planned: Mapping[str, PlannedRun],
    finished: Mapping[str, RunRecord],
    execution: Execution,
    display: Show,
) -> dict[str, RunRecord]:
    """Returns the finished runs to be trained again for what they lack; tells of all that lack something."""
    lacks = {
        run_id: words
        for run_id, record in finished.items()
        if (words := lacking(results, planned[run_id], record, execution))
    }
    if not lacks:
        return {}
    what = ", ".join(sorted({word for words in lacks.values() for word in words}))
    how = "they are trained again" if execution.complete else "--complete trains them again"
    display(Note(f"{len(lacks)} runs were finished before without {what}: {how}"))
    return {run_id: finished[run_id] for run_id in lacks} if execution.complete else {}


def resolve_devices(text: str) -> list[str]:
    """Returns torch device names for "auto" (all GPUs, else the CPU), "cpu", or GPU numbers such as "0,1".

    Raises:
        UserError: the text names no device, or one that this machine does not have.
    """
    if text == "cpu":
        return ["cpu"]
    numbers = text.split(",")
    if text != "auto" and not all(number.strip().isdecimal() for number in numbers):
        raise UserError(f"--devices {text!r} must be auto, cpu, or GPU numbers such as 0,1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return [f"cuda:{number}" for number in range(count)] or ["cpu"]
    wanted = [int(number) for number in numbers]
    if len(set(wanted)) < len(wanted):
        raise UserError(f"--devices {text!r} names a GPU twice; --jobs-per-device puts several runs on one")
    for number in wanted:
        if number >= count:
            has = f"only {count} (numbered from 0)" if count else "none that torch can use"
            raise UserError(f"--devices {text!r} asks for GPU {number}, but this machine has {has}")
    return [f"cuda:{number}" for number in wanted]


def resolve_device(text: str) -> str:
    """Returns the torch device name for "auto" (the first GPU, else the CPU), "cpu" or one such as "cuda:0".

    Raises:
        UserError: the text names no device, or one that this machine does not have.
    """
    if text in ("auto", "cpu"):
        return resolve_devices(text)[0]
    kind, _, number = text.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise UserError(f"--device {text!r} must be auto, cpu, or a GPU such as cuda:0")
    try:
        return resolve_devices(number)[0]
    except UserError:
        raise UserError(f"--device {text!r}: torch has no such GPU on this machine") from None


def slots_for(devices: Sequence[str], jobs_per_device: int, execution: Execution) -> list[Slot]:
    """Returns all slots, one job on every device before a second one on any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    # By the options alone: were it by the runs that are left, the last runs would round their sums differently.
    share = int(wanted) if wanted.isdecimal() else cores // (len(devices) * jobs_per_device)
    threads = execution.threads or max(1, share)
    return [
        Slot(f"{device} #{job}" if jobs_per_device > 1 else device, replace(execution, device=device, threads=threads))
        for job in range(1, jobs_per_device + 1)
        for device in devices
    ]


def _outcome(
    planned: dict[str, PlannedRun],
    results: Path,
    skipped: dict[str, RunRecord],
    records: dict[str, RunRecord],
    interrupted: bool,
) -> Outcome:
    done = [run_id for run_id in planned if run_id in records and records[run_id].status == "finished"]
    left = [run_id for run_id in planned if run_id not in records]
    return Outcome(
        finished=tuple(run_id for run_id in done if run_id not in skipped),
        failed=tuple(run_id for run_id in done if records[run_id].failed),
        crashed=tuple(run_id for run_id in planned if run_id in records and records[run_id].status == "crashed"),
        skipped=tuple(skipped),
        left=tuple(left),
        checkpointed=tuple(run_id for run_id in left if (run_folder(results, run_id) / CHECKPOINT_FILE).exists()),
        interrupted=interrupted,
    )
