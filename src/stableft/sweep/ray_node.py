"""The node's end of a Ray worker: an actor that holds one worker process and hands its messages and files over.

Where the results folder of the sweep is not shared, the worker process has one of its own here.
"""

import contextlib
import importlib.metadata
import os
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import ray  # pyright: ignore[reportMissingImports] - an extra

from stableft.config.local_files import file_digest, model_folder_digest
from stableft.config.planned_run import Execution, LocalPaths, default_cache_folder
from stableft.errors import UserError
from stableft.records.run_record import BEST_FOLDER, CHECKPOINT_FILE, RECORD_FILE, run_folder
from stableft.sweep.claims import CLAIM_FILE, CLAIM_FILES, claim_run
from stableft.sweep.executor import WorkerEnd
from stableft.sweep.leases import read_lease
from stableft.sweep.local_workers import LocalExecutor, ProcessLink, main_hidden
from stableft.sweep.worker_process import TrainFunction

PIECE_BYTES = 8 << 20  # of a file that travels; several workers' pieces must fit into Ray's object store
NODE_POLL_SECONDS = 0.5
REPLACING_SECONDS = 60.0  # a worker that was killed leaves half a model behind
SAME_EVERYWHERE = ("stableft", "torch", "transformers")
SCRATCH = "stableft-ray-"  # folders in the node's folder for temporary files; the process id follows


@dataclass(frozen=True)
class LocalInput:
    """A file or folder that runs read. `digest` is that of its contents; None: `files`, its names and sizes, say it."""

    path: Path
    files: tuple[tuple[str, int], ...]
    digest: str | None = None

    def is_here(self) -> bool:
        """Return whether this machine has it at the same path, with the same contents."""
        try:
            if self.digest is None:
                return list_files(self.path) == self.files
            digest = model_folder_digest(self.path) if self.path.is_dir() else file_digest(self.path)
        except OSError:
            return False
        return digest == self.digest


def list_files(path: Path) -> tuple[tuple[str, int], ...]:
    """Return name and size of each file in a folder and below it, or of a single file."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return tuple((str(file.relative_to(path) if file != path else file.name), file.stat().st_size) for file in files)


@dataclass(frozen=True)
class SeenOnNode:
    """What a node sees: whether the sweep's results folder is shared with it, and what it lacks of what runs read."""

    node: str  # Ray's id
    host: str
    versions: dict[str, str]
    shared: bool
    missing: tuple[LocalInput, ...]
    has_folder: bool


@dataclass(frozen=True)
class LookOut:
    """What a node is to look for: a file that the driver has just made in the results folder, and what runs read."""

    probe: Path
    inputs: tuple[LocalInput, ...]
    folder: Path | None  # in which commands run


def look_around(wanted: LookOut) -> SeenOnNode:
    """Return what this node sees."""
    shared = False
    with contextlib.suppress(OSError):
        shared = wanted.probe.read_text() == wanted.probe.name
    missing = tuple(one for one in wanted.inputs if not one.is_here())
    has_folder = wanted.folder is None or wanted.folder.is_dir()
    node = ray.get_runtime_context().get_node_id()
    return SeenOnNode(node, socket.gethostname(), read_versions(), shared, missing, has_folder)


def read_versions() -> dict[str, str]:
    """Return the versions of the packages on which numbers depend, without the kind of their build."""
    versions = {}
    for name in SAME_EVERYWHERE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name).partition("+")[0]
    return versions


@dataclass(frozen=True)
class NodeFile:
    """A file in a run's folder on the node. `version` changes with its contents."""

    name: str
    size: int
    version: int


@dataclass(frozen=True)
class Received:
    """Reports of the worker since those acknowledged, the version of its run's checkpoint, and how it ended."""

    reports: list[tuple[str, Any]]
    checkpoint: int | None
    end: WorkerEnd | None


class NodeWorker:
    """A worker process on a node. The methods are called from several threads, some twice if an answer was lost."""

    def __init__(self) -> None:
        _remove_left_scratch()
        self.scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
        self.is_removed = False  # the scratch folder, or soon
        self.results = self.scratch  # where the worker process writes
        self.claimed: Path | None = None  # the folder of the last run that it was sent
        self.link: ProcessLink | None = None
        self.reports: list[tuple[str, Any]] = []
        self.dropped = 0  # reports that the driver has received
        self.end: WorkerEnd | None = None
        self.run_id: str | None = None  # that the worker has, if its results folder is here
        self.orders: set[int] = set()
        self.files: dict[str, BinaryIO] = {}  # of the last snapshot
        self.receiving = threading.Lock()

    def look(self, wanted: LookOut) -> tuple[SeenOnNode, Path]:
        """Return what the node sees, and the folder that this worker has for files that are not shared."""
        return look_around(wanted), self.scratch

    def write(self, name: str, offset: int, piece: bytes) -> None:
        """Write a piece of a file below the worker's folder."""
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)

    def start(
        self,
        results: Path | None,
        sources: LocalPaths,
        execution: Execution,
        train: TrainFunction | None,
        heartbeat: float,
        environment: dict[str, str],
        own_cache: bool,
    ) -> None:
        """Start the worker process. `results` None: in a results folder here. `own_cache`: the node's cache folder."""
        if self.link:
            return
        os.environ.update(environment)
        if own_cache:
            sources = replace(sources, cache_dir=default_cache_folder())
        self.results = results or self.scratch
        with main_hidden(None):  # the script of Ray's worker
            executor = LocalExecutor([execution.device])
            self.link = executor.start("", self.results, sources, execution, train, heartbeat)

    def send(self, number: int, message: Any) -> None:
        """Pass an order on to the worker process, unless this one has been passed on already."""
        if number in self.orders or not self.link:
            return
        self.orders.add(number)
        if isinstance(message, tuple):
            self.claimed = run_folder(self.results, message[0].run_id)
        with contextlib.suppress(OSError):  # it is dead, which `receive` tells
            self.link.send(message)

    def receive(self, acknowledged: int) -> Received:
        """Return the reports that the driver has not received, or wait for one for a while."""
        assert self.link
        with self.receiving:
            del self.reports[: acknowledged - self.dropped]
            self.dropped = acknowledged
            seconds = 0.0 if self.reports or self.end else NODE_POLL_SECONDS
            try:
                while not self.end and self.link.pipe.poll(seconds):
                    self.reports.append(self.link.receive())
                    seconds = 0.0
            except (EOFError, OSError):
                self.end = self.link.join()
                if self.end and self.claimed:
                    free_claim(self.claimed)
            return Received(self.reports[:], self._checkpoint_version(), None if self.reports else self.end)

    def _checkpoint_version(self) -> int | None:
        if self.run_id is None:
            return None
        try:
            return (run_folder(self.scratch, self.run_id) / CHECKPOINT_FILE).stat().st_mtime_ns
        except OSError:
            return None

    def clear(self, run_id: str) -> None:
        """Remove a run's folder here, and expect the run."""
        self.close_files()
        shutil.rmtree(run_folder(self.scratch, run_id), ignore_errors=True)
        self.run_id = run_id

    def take_snapshot(self, run_id: str, whole: bool) -> list[NodeFile]:
        """Open the files of a run's folder for `read` and return them in the order of `names_to_carry`.

        Open files stay as they are, whatever the worker does. Not `whole`: only what a run is resumed from. The best
        weights are those of the checkpoint or newer, which is what a run that is killed may leave too.

        Raises:
            FileNotFoundError: `clean_up` has removed them, and what is left says nothing about the run.
        """
        folder = run_folder(self.scratch, run_id)
        while True:
            self.close_files()
            names = names_to_carry(folder)
            if not whole:
                names = [name for name in names if name == CHECKPOINT_FILE or name.startswith(f"{BEST_FOLDER}/")]
            try:
                for name in reversed(names):  # the checkpoint before the weights
                    self.files[name] = open(folder / name, "rb")  # noqa: SIM115 - closed by `close_files`
            except FileNotFoundError:  # just replaced
                continue
            if self.is_removed:
                raise FileNotFoundError(f"{self.scratch} has been removed")
            if names == names_to_carry(folder) or not whole:
                break
        status = {name: os.fstat(self.files[name].fileno()) for name in names}
        return [NodeFile(name, status[name].st_size, status[name].st_mtime_ns) for name in names]

    def read(self, name: str, offset: int) -> bytes:
        """Return a piece of a file of the last snapshot."""
        return os.pread(self.files[name].fileno(), PIECE_BYTES, offset)

    def close_files(self) -> None:
        """Close the files of the last snapshot."""
        for file in self.files.values():
            file.close()
        self.files = {}

    def clean_up(self) -> None:
        """Kill the worker process, which may hang, and remove what it has left here."""
        self.is_removed = True
        if self.link:
            self.link.kill()
            self.link.join()
        shutil.rmtree(self.scratch, ignore_errors=True)


def free_claim(folder: Path, patience: float = 0.0) -> None:
    """Free the claim on a run if its holder was a process of this host and is dead, after a wait for its death.

    Other hosts cannot see that it is dead, and would wait until the claim expires.
    """
    deadline = time.monotonic() + patience
    with contextlib.suppress(OSError, UserError):
        while (lease := read_lease(folder / CLAIM_FILE)) and not (is_dead := lease.has_died()):
            if is_dead is None or time.monotonic() >= deadline:
                return
            time.sleep(0.05)
        if lease:
            with claim_run(folder):
                pass


def names_to_carry(folder: Path) -> list[str]:
    """Return the names of the files of a run that travel: models first, then the checkpoint, last the record.

    Waits while a model is being replaced, because it is missing for a moment.
    """
    deadline = time.monotonic() + REPLACING_SECONDS
    while any(folder.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    names = [
        str(path.relative_to(folder))
        for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*"))
        if path.is_file() and not is_private(path.relative_to(folder).parts[0])
    ]
    return sorted(names, key=lambda name: (name == RECORD_FILE, name == CHECKPOINT_FILE, "/" not in name, name))


def is_private(name: str) -> bool:
    """Return whether a file in a run's folder concerns only the machine that it is on."""
    return name.startswith(".") or name in CLAIM_FILES or ".damaged-" in name


def _remove_left_scratch() -> None:
    """Remove the folders of workers on this node that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
