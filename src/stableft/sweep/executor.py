"""What an executor offers to the one pool in `workers.py`: places for workers, a way to start them, and links to them.

An executor starts `worker_process.run_worker` somewhere and carries messages between it and the pool. Queue, retries,
the watch over workers, display and signals are the pool's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stableft.config.planned_run import Execution, LocalPaths
from stableft.sweep.worker_process import TrainFunction


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended: `cause` in words, such as "exit code 3". `clean`: it left of its own accord.

    `machine_lost`: it went down with its machine, so that its run need not be to blame.
    """

    cause: str
    clean: bool = False
    machine_lost: bool = False


class WorkerLink(Protocol):
    """The pool's end of one worker."""

    def send(self, message: Any) -> None:
        """Send a (run, replaces) pair, "stop", or None, which means exit. Raises OSError if the worker is dead."""
        ...

    def receive(self) -> tuple[str, Any]:
        """Return the next report of the worker. Raises EOFError or OSError if it is dead and there are none left."""
        ...

    def kill(self) -> None:
        """Kill the worker at once. It may be dead already."""
        ...

    def join(self, seconds: float | None = None) -> WorkerEnd | None:
        """Wait for the worker's end, by which its claims are free, and return it, or None if it still runs."""
        ...

    def close(self) -> None:
        """Release what the link holds. The worker has ended."""
        ...


LinkT = TypeVar("LinkT", bound=WorkerLink)


class Executor(Protocol[LinkT]):
    """Starts workers and carries messages."""

    def slots(self, execution: Execution) -> list[tuple[str, Execution]]:
        """Return one name for each worker that may run at the same time, and how it executes runs.

        The CPU threads of a slot may not depend on the number of runs that are left: they affect how sums round.
        """
        ...

    def start(
        self,
        name: str,
        results: Path,
        sources: LocalPaths,
        execution: Execution,
        train: TrainFunction | None,
        heartbeat: float,
    ) -> LinkT:
        """Start `run_worker` with these arguments in the slot of this name, without waiting until it is ready."""
        ...

    def wait(self, links: Sequence[LinkT], seconds: float) -> list[LinkT]:
        """Return the links that have a report or whose worker is dead, after at most so many seconds."""
        ...
