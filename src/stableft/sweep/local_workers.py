"""The executor of one machine: a spawned process for each device or share of one, and a pipe to it."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from stableft.config.planned_run import Execution, LocalPaths
from stableft.sweep.executor import WorkerEnd
from stableft.sweep.worker_process import TrainFunction, run_worker


def count_cores() -> int:
    """Return the number of CPU cores that this process may use. A job of Slurm may use those that it was granted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")  # not every cluster pins a job to them
    return min(cores, int(granted)) if granted.isdecimal() and int(granted) else cores


@dataclass(frozen=True)
class LocalExecutor:
    """Worker processes on this machine's devices, with so many jobs on each."""

    devices: Sequence[str]
    jobs_per_device: int = 1

    def slots(self, execution: Execution) -> list[tuple[str, Execution]]:
        """Return one slot per job, ordered so that every device gets its first job before any gets a second."""
        omp_threads = os.environ.get("OMP_NUM_THREADS", "")
        jobs = self.jobs_per_device
        threads_per_job = int(omp_threads) if omp_threads.isdecimal() else count_cores() // (len(self.devices) * jobs)
        threads = execution.threads or max(1, threads_per_job)
        return [
            (f"{device} #{job}" if jobs > 1 else device, replace(execution, device=device, threads=threads, jobs=jobs))
            for job in range(1, jobs + 1)
            for device in self.devices
        ]

    def start(
        self,
        name: str,
        results: Path,
        sources: LocalPaths,
        execution: Execution,
        train: TrainFunction | None,
        heartbeat: float,
    ) -> "ProcessLink":
        """Start a worker process."""
        context = multiprocessing.get_context("spawn")
        own_end, worker_end = context.Pipe()
        arguments = (worker_end, results, sources, execution, train, heartbeat)
        process = context.Process(target=run_worker, args=arguments, name=f"stableft {name}")
        with sigint_blocked(), main_hidden(train):
            process.start()
        worker_end.close()  # so that the worker's death shows up as EOF
        return ProcessLink(process, own_end)

    def wait(self, links: Sequence["ProcessLink"], seconds: float) -> list["ProcessLink"]:
        """Return the links whose pipe has a report or is closed."""
        ready = connection.wait([link.pipe for link in links], seconds)
        return [link for link in links if link.pipe in ready]


@dataclass(frozen=True, eq=False)
class ProcessLink:
    """A worker process and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def send(self, message: Any) -> None:
        """Send a message."""
        self.pipe.send(message)

    def receive(self) -> tuple[str, Any]:
        """Return the next report."""
        return self.pipe.recv()

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()

    def join(self, seconds: float | None = None) -> WorkerEnd | None:
        """Wait for the process. Only then are its claims sure to count as free."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            return None
        return WorkerEnd(f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}", code == 0)

    def close(self) -> None:
        """Close the pipe."""
        self.pipe.close()


@contextlib.contextmanager
def main_hidden(train: TrainFunction | None) -> Iterator[None]:
    """Keep a spawned process from running the user's script again, which may have no `if __name__ == "__main__"`.

    A worker needs nothing of it, unless `train` is defined there.
    """
    main = sys.modules["__main__"]
    if train is None:
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT while a worker starts. It inherits the mask, so Ctrl-C cannot kill it before it ignores SIGINT."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise Process.start would start it and thereby unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
