"""A pilot: a sweep on its own node that pulls runs by claims until none is left, and what it tells of itself."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write, run_folder
from stableft.sweep.leases import TIMES
from stableft.sweep.progress import RunEnded, RunStarted, SweepEvent, run_label
from stableft.sweep.slurm import logs_folder, requeue

# By then the claim of a process that has died is free. A run held for longer is held by one that lives.
LEAVE_AFTER_SECONDS = 2 * TIMES.expiry
MAX_IDLE_REQUEUES = 2  # in a row, without a new checkpoint: more would never get anywhere


@dataclass
class PilotState:
    """What a pilot's file says, over all starts of its task."""

    name: str  # JOB_TASK
    host: str
    done: int = 0  # runs
    at: dict[str, str] = field(default_factory=dict)  # slot -> its run, in words
    idle_requeues: int = 0
    ended: str | None = None  # how, in words
    failed: bool = False  # whether it ended so that a person must act


class Pilot:
    """Follows a sweep's events, and keeps its file in the results folder up to date."""

    def __init__(self, results: Path, sweep: str, job: str = "", task: str = ""):
        self.results, self.job = results, job
        self.progressed = self.crashed = self._trained = self._waited = False
        self._checkpoints: dict[str, int] = {}  # run id -> time of its last checkpoint when it was started
        self._at: dict[str, str] = {}  # slot -> run id
        name = f"{job}_{task}"
        self._file = logs_folder(results, sweep) / "pilots" / f"{name}.json"
        self.state = PilotState(name, socket.gethostname())
        if job and (before := read_pilot(self._file)):
            self.state.done, self.state.idle_requeues = before.done, before.idle_requeues
        self._write()

    @classmethod
    def of_this_job(cls, results: Path, sweep: str) -> "Pilot":
        """Return the pilot of the Slurm array task that this process is in; outside of one, a pilot without a file."""
        job, task = (os.environ.get(name, "") for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
        return cls(results, sweep, job, task) if job and task else cls(results, sweep)

    def follow(self, event: SweepEvent) -> None:
        """Note what an event of the sweep says of this pilot."""
        if isinstance(event, RunStarted):
            self._trained = True
            self._at[event.slot], self.state.at[event.slot] = event.run.run_id, run_label(event.run)
            self._checkpoints[event.run.run_id] = self._checkpoint_time(event.run.run_id)
        elif isinstance(event, RunEnded) and self._at.pop(event.slot, None):
            self.state.at.pop(event.slot)
            done = event.how == "done"
            self.state.done += done
            self.crashed |= bool(event.record and event.record.status == "crashed")
            before, now = self._checkpoints[event.run.run_id], self._checkpoint_time(event.run.run_id)
            self.progressed |= done or now > before
        else:
            self._waited |= isinstance(event, RunEnded) and event.how == "claimed_elsewhere"
            return
        self._write()

    def _checkpoint_time(self, run_id: str) -> int:
        try:
            return (run_folder(self.results, run_id) / CHECKPOINT_FILE).stat().st_mtime_ns
        except OSError:
            return 0

    def end(self, how: str, failed: bool = False) -> None:
        """Note how the pilot ended."""
        self.state.at, self.state.ended, self.state.failed = {}, how, failed
        self._write()

    def requeue(self, show: Callable[[str], None]) -> None:
        """Requeue this task of Slurm after an interruption, unless Slurm ends it for another reason, and say so."""
        if not self.job:
            return
        only_waited = self._waited and not self._trained  # for runs of other pilots: no fault of the time limit
        idle = 0 if self.progressed else self.state.idle_requeues + (not only_waited)
        if idle > MAX_IDLE_REQUEUES:
            how = f"no new checkpoint in {idle} starts: it is not requeued; a longer --slurm-time may help"
            self.end(how, failed=True)
            show(how)
            return
        self.state.idle_requeues = idle
        self.end("requeued")  # first, because Slurm ends this process once it is
        try:
            requeued = requeue(self.state.name)
        except UserError as error:
            how = f"cannot requeue this task: {error}; give the command of the submission again"
            self.end(how, failed=True)
            show(how)
            return
        if not requeued:
            self.end("ended by Slurm")
        show("This task is requeued and goes on from the checkpoints." if requeued else "Slurm ends this task.")

    def _write(self) -> None:
        if not self.job:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._file, json.dumps(asdict(self.state)).encode())
        except (OSError, UserError):  # what a full disk means for runs is told by the runs
            return


def read_pilot(path: Path) -> PilotState | None:
    """Return what a pilot's file says, or None if there is none of use."""
    try:
        return PilotState(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def read_pilots(results: Path, sweep: str) -> list[PilotState]:
    """Return what all pilots of a sweep say of themselves, in the order of their jobs and tasks."""
    files = (logs_folder(results, sweep) / "pilots").glob("*_*.json")
    states = [state for path in files if (state := read_pilot(path))]
    return sorted(states, key=lambda state: [int(part) if part.isdecimal() else 0 for part in state.name.split("_")])
