"""The executor of a Ray cluster: an actor for each GPU, or share of a node's CPUs, and a link to it.

Where a node sees the results folder, its workers use it as local ones do, and claims keep them apart. Elsewhere a
worker has a results folder of its own on its node. Then the driver holds the claim of its run, sends the checkpoint
along, and fetches each new checkpoint and, in the end, all files of the run.
"""

import contextlib
import itertools
import math
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ray  # pyright: ignore[reportMissingImports] - an extra
from ray.exceptions import ActorUnavailableError, RayError  # pyright: ignore[reportMissingImports]
from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)

from stableft.config.local_files import ALLOW_PICKLE
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted, default_cache_folder
from stableft.config.run_config import RunConfig
from stableft.errors import UserError, clip, storage_faults
from stableft.pulse import WAITING, WRITING_RESULTS, SignOfLife
from stableft.records.atomic_folder import atomic_write_folder, remove_under_claim
from stableft.records.run_record import CHECKPOINT_FILE, CONFIG_FILE, RECORD_FILE, RunRecord, atomic_write, run_folder
from stableft.sweep.executor import WorkerEnd
from stableft.sweep.ray_node import (
    PIECE_BYTES,
    LocalInput,
    LookOut,
    NodeFile,
    NodeWorker,
    SeenOnNode,
    free_claim,
    is_private,
    list_files,
    look_around,
    names_to_carry,
    read_versions,
)
from stableft.sweep.state import run_under_claim
from stableft.sweep.worker_process import TrainFunction

NODE_SECONDS = 120.0  # for a node to look around: it starts Python, imports this package and hashes the inputs
NODE_RETRY_SECONDS = 1.0  # until an actor that cannot be reached is tried again, unless Ray has found it dead
LEAVE_SECONDS = 5.0  # for a worker that is killed
SHIPPED_BYTES = 100 << 20  # of models and data files that nodes lack; each worker gets its own copy
SENT_VARIABLES = (ALLOW_PICKLE, "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE")
MOVED = ", now on "  # follows the name of a place whose worker runs on another node
FINAL_WORDS = ("done", "interrupted", "user_error")


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker may run: what it takes of a node."""

    name: str
    node: str  # Ray's id
    host: str
    cpus: float
    gpus: float


@dataclass
class RayExecutor:
    """Workers on the nodes of the Ray cluster that this process is connected to. Close it in the end.

    `devices`: "auto" (all GPUs, or without any the CPUs) or "cpu". `jobs`: workers for each GPU or node.
    """

    devices: str
    jobs: int
    results: Path
    sources: LocalPaths
    has_commands: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)
    refused: set[str] = field(default_factory=set)  # Ray's ids of nodes that joined late and cannot train the sweep

    def __post_init__(self) -> None:
        self.results = self.results.resolve()
        self.known: dict[str, WorkerPlace] = {}
        inputs = [LocalInput(path, (), digest) for digest, path in self.sources.paths.items()]
        if folder := self.sources.data_dir:
            inputs.append(LocalInput(folder.resolve(), list_files(folder)))
        probe = self.results / f".ray-{os.urandom(8).hex()}.tmp"
        self.wanted = LookOut(probe, tuple(inputs), self.sources.folder if self.has_commands else None)
        with storage_faults(probe):
            probe.write_text(probe.name)

    def close(self) -> None:
        """Remove the file by which nodes tell whether the results folder is shared."""
        self.wanted.probe.unlink(missing_ok=True)

    def check_nodes(self) -> str:
        """Return a line about the nodes, after a look at what they see.

        Raises:
            UserError: There is no place for a worker, or a node lacks something that runs need.
        """

        def has_package() -> bool:  # sent by value, because a node may not have this package
            import importlib.util

            return importlib.util.find_spec("stableft") is not None

        nodes = {place.node: place.host for place in self.places()}
        if not nodes:
            what = "a GPU or a CPU" if self.devices == "auto" else "a CPU"
            raise UserError(f"--executor ray: no node of the Ray cluster has {what} to offer")
        for node, found in self.ask(nodes, has_package).items():
            if not found:
                raise UserError(f"Ray node {nodes[node]} does not have stableft: install it on every node")
        seen: dict[str, SeenOnNode] = self.ask(nodes, look_around, self.wanted)
        for one in seen.values():
            self.check_node(one)
        apart = sorted({nodes[node] for node, one in seen.items() if not one.shared})
        where = f"not seen by {', '.join(apart)}: files travel" if apart else "shared by all"
        workers = len(self.places())
        counts = f"{workers} worker{'s' * (workers > 1)} on {len(nodes)} Ray node{'s' * (len(nodes) > 1)}"
        return f"note: {counts}; the results folder is {where}"

    def ask(self, nodes: dict[str, str], function: Callable, *arguments: Any) -> dict[str, Any]:
        """Return what a function says on each of the nodes, id -> host."""
        task, answers = ray.remote(num_cpus=0)(function), {}
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            answers[node] = task.options(scheduling_strategy=strategy).remote(*arguments)
        for node, answer in answers.items():
            try:
                answers[node] = ray.get(answer, timeout=NODE_SECONDS)
            except RayError as error:
                raise UserError(f"Ray node {nodes[node]} cannot be used: {_last_line(error)}") from None
        return answers

    def check_node(self, seen: SeenOnNode) -> None:
        """Raise a UserError if a node has other versions than this machine, or lacks what is too large to be sent."""
        for name, version in read_versions().items():
            if (theirs := seen.versions.get(name)) != version:
                raise UserError(
                    f"Ray node {seen.host} has {f'{name} {theirs}' if theirs else f'no {name}'}, but this machine has "
                    f"{version}: install the same everywhere, because numbers depend on it"
                )
        if self.has_commands and not seen.shared:
            raise UserError(
                f"--results {self.results}: Ray node {seen.host} does not see this folder, and arms with a command "
                "need one that all nodes share"
            )
        if not seen.has_folder:
            raise UserError(f"{self.wanted.folder}: Ray node {seen.host} lacks this folder, in which commands run")
        for one in seen.missing:
            if (size := sum(count for _, count in list_files(one.path))) > SHIPPED_BYTES:
                raise UserError(
                    f"{one.path}: Ray node {seen.host} lacks it or has other contents, and its {size:,} bytes are too "
                    f"many to send to each worker (limit: {SHIPPED_BYTES:,}): put it on a file system that all nodes "
                    "share"
                )

    def places(self) -> list[WorkerPlace]:
        """Return a place for each worker that may run, on the nodes that are alive now."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = [node["NodeManagerHostname"] for node in nodes]
        use_gpus = self.devices == "auto" and any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
        places = []
        for node in nodes:
            resources, host = node["Resources"], node["NodeManagerHostname"]
            host = host if hosts.count(host) == 1 else f"{host} {node['NodeID'][:4]}"
            cpus, devices = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) if use_gpus else 1
            if cpus < 1 and not use_gpus:
                continue
            share = cpus // max(1, devices * self.jobs) or _floor(cpus / max(1, devices * self.jobs))
            for job in range(self.jobs):
                for device in range(devices):
                    name = f"{host} gpu {device}" if use_gpus else host
                    name += f" #{job + 1}" if self.jobs > 1 else ""
                    gpus = (_floor(1 / self.jobs) if self.jobs > 1 else 1) if use_gpus else 0
                    places.append((job, device, WorkerPlace(name, node["NodeID"], host, share, gpus)))
        return [place for *_, place in sorted(places, key=lambda entry: entry[:2])]

    def slots(self, execution: Execution) -> list[tuple[str, Execution]]:
        """Return one slot per place, so that each node gets its first worker before any gets a second.

        All have the same number of CPU threads, so that a run may go on from its checkpoint on any node.
        """
        places = self.places()
        self.known |= {place.name: place for place in places}
        omp_threads = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(omp_threads) if omp_threads.isdecimal() else min((int(place.cpus) for place in places), default=1)
        how = replace(execution, threads=execution.threads or max(1, threads), jobs=self.jobs)
        return [(place.name, replace(how, device="cuda:0" if place.gpus else "cpu")) for place in places]

    def start(
        self,
        name: str,
        results: Path,
        sources: LocalPaths,
        execution: Execution,
        train: TrainFunction | None,
        heartbeat: float,
    ) -> "RayLink":
        """Ask Ray for an actor at the place of this name, or if its node is lost, at any that offers as much."""
        place = self.known[name.partition(MOVED)[0]]
        if place.node not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
            place = replace(place, node="")
        return RayLink(self, place, sources, execution, train, heartbeat)

    def wait(self, links: Sequence["RayLink"], seconds: float) -> list["RayLink"]:
        """Return the links that have a report or whose worker is dead."""

        def ready() -> list[RayLink]:
            return [link for link in links if link.reports or link.end]

        with self.changed:
            self.changed.wait_for(ready, seconds)
            return ready()


def _floor(share: float) -> float:
    """Return a share of a resource in steps that Ray knows."""
    return math.floor(share * 1e4) / 1e4


def _last_line(error: Exception) -> str:
    """Return what an error of Ray says last, which is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clip(lines[-1]) if lines else type(error).__name__


class RayLink:
    """An actor with a worker process on a node.

    One thread receives the reports, another sends orders. If the node does not see the results folder, a third takes
    runs: it holds the claim, sends what the run needs, and fetches files, so that the pool never waits for a transfer.
    """

    def __init__(
        self,
        executor: RayExecutor,
        place: WorkerPlace,
        sources: LocalPaths,
        execution: Execution,
        train: TrainFunction | None,
        heartbeat: float,
    ) -> None:
        self.executor, self.place, self.node = executor, place, place.node
        self.reports: deque[tuple[str, Any]] = deque()
        self.end: WorkerEnd | None = None
        self.runs: queue.SimpleQueue[tuple[PlannedRun, RunRecord | None] | None] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()  # of the run; None: it is dead
        self.orders: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()  # None: the worker has ended
        self.numbers = itertools.count()  # of messages, of which one may be sent twice
        self.shared: bool | None = None  # None: not known yet
        self.moved_to: str | None = None
        self.fetched: set[NodeFile] = set()  # files of the run that are here as they are on the node
        self.transfer: float | None = None  # when the transfer of files that is under way last got further
        self.starts_sent: set[str] = set()
        self.device_works = True
        self.claimed: Path | None = None  # the folder of the last run, if the worker itself claims it
        self.fault: str | None = None  # for which this process ended the worker
        self.killed = self.lost = self.given_up = False
        self.actor = self._make_actor()
        self.listener = threading.Thread(
            target=self._listen, args=(sources, execution, train, heartbeat), name=f"stableft {place.name}", daemon=True
        )
        self.listener.start()
        threading.Thread(target=self._send_orders, name=f"{place.name} orders", daemon=True).start()

    def _make_actor(self) -> Any:
        """Ask Ray for an actor on the place's node, or if that is lost on any but those that were refused."""
        place, refused = self.place, self.executor.refused
        options: dict[str, Any] = {"num_cpus": place.cpus, "num_gpus": place.gpus, "max_concurrency": 8}
        if place.node:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place.node, soft=True)
        elif refused:
            options["scheduling_strategy"] = NodeLabelSchedulingStrategy({"ray.io/node-id": NotIn(*sorted(refused))})
        return ray.remote(NodeWorker).options(**options).remote()

    # What the pool calls.

    def send(self, message: Any) -> None:
        """Send a message, or queue a run whose files have to travel first."""
        if self.end:
            raise OSError("the worker is dead")
        if isinstance(message, tuple) and not self.shared:  # the worker is ready, so `shared` is known
            self.runs.put(message)
            return
        if isinstance(message, tuple):
            self.claimed = run_folder(self.executor.results, message[0].run_id)
        self.orders.put((next(self.numbers), message))

    def receive(self) -> tuple[str, Any]:
        """Return the next report."""
        if not self.reports:
            raise EOFError
        return self.reports.popleft()

    def kill(self) -> None:
        """Kill the worker, without waiting for it."""
        self.killed = True
        if self.shared is None:  # it may have no place yet
            self._kill_actor()
        else:
            self._end_worker()

    def _end_worker(self) -> None:
        self.actor.clean_up.remote()
        timer = threading.Timer(LEAVE_SECONDS, self._kill_actor)
        timer.daemon = True
        timer.start()

    def join(self, seconds: float | None = None) -> WorkerEnd | None:
        """Wait for the worker's end. It is the last thing that the threads report."""
        self.listener.join(seconds)
        return self.end

    def close(self) -> None:
        """Do nothing: nothing is left of a worker that has ended."""

    # The thread that listens.

    def _listen(self, sources: LocalPaths, execution: Execution, train: TrainFunction | None, heartbeat: float) -> None:
        """Start the worker where Ray places it, and pass its reports on until it ends."""
        carrier: threading.Thread | None = None
        end = WorkerEnd("an error of this process")
        try:
            sources = self._prepare(sources, heartbeat)
            own_cache = sources.cache_dir == default_cache_folder()
            variables = {name: os.environ[name] for name in SENT_VARIABLES if name in os.environ}
            results = self.executor.results if self.shared else None
            self._call("start", results, sources, execution, train, heartbeat, variables, own_cache)
            if not self.shared:
                carrier = threading.Thread(target=self._carry_runs, name=f"{self.place.name} files", daemon=True)
                carrier.start()
            end = self._pass_reports_on()
        except RayError as error:
            end = self._describe_loss(error)
            if self.claimed and not (end.machine_lost or self.killed):
                self._kill_actor()  # and so the worker process, if they still run
                with contextlib.suppress(UserError):  # the claim expires otherwise
                    self.executor.ask({self.node: self.place.host}, free_claim, self.claimed, LEAVE_SECONDS)
        except UserError as error:
            self._report("broken", error)
        finally:
            self.runs.put(None)
            self.events.put(None)
            self.orders.put(None)
            if carrier:
                carrier.join()
            with contextlib.suppress(RayError):
                ray.wait([self.actor.clean_up.remote()], timeout=LEAVE_SECONDS)
            self._kill_actor()
            with self.executor.changed:
                self.end = replace(end, clean=True) if self.given_up else end
                self.executor.changed.notify_all()

    def _prepare(self, sources: LocalPaths, heartbeat: float) -> LocalPaths:
        """Wait for a place, send inputs that its node lacks, and return where the worker finds all of them."""
        seen, scratch = self._find_node(heartbeat)
        moved = {}
        for number, one in enumerate(seen.missing):
            for name, _ in list_files(one.path):
                path = one.path / name if one.path.is_dir() else one.path
                self._send_file(path, f"inputs/{number}/{name}")
            moved[one.path] = scratch / "inputs" / str(number) / ("" if one.path.is_dir() else one.path.name)
        if seen.host != self.place.host.partition(" ")[0]:
            self.moved_to = seen.host
        self.shared, self.node = seen.shared, seen.node
        paths = {digest: moved.get(path, path) for digest, path in sources.paths.items()}
        data_dir = sources.data_dir and sources.data_dir.resolve()
        data_dir = data_dir and moved.get(data_dir, data_dir)
        return replace(sources, paths=paths, data_dir=data_dir)

    def _find_node(self, heartbeat: float) -> tuple[SeenOnNode, Path]:
        """Wait for a place on a node that can train the sweep, and return what the node sees and the worker's folder.

        Raises:
            UserError: A node that joined late cannot, and there are no others.
        """
        while True:
            answer = self.actor.look.remote(self.executor.wanted)
            while not ray.wait([answer], timeout=heartbeat)[0]:
                self._report("alive", SignOfLife("waiting for a place in the Ray cluster"))
            seen, scratch = ray.get(answer)
            try:
                self.executor.check_node(seen)
            except UserError as error:
                self.executor.refused.add(seen.node)
                if all(place.node in self.executor.refused for place in self.executor.places()):
                    raise
                self._report("notice", f"{error}; it gets no runs of this sweep")
            else:
                return seen, scratch
            self._kill_actor()
            self.place = replace(self.place, node="")
            self.actor = self._make_actor()
            if self.killed:  # meanwhile
                self._kill_actor()

    def _pass_reports_on(self) -> WorkerEnd:
        """Pass reports on to the pool, or those that end a run to the thread that fetches its files."""
        received, checkpoint = 0, None
        while True:
            answer = self._call("receive", received)
            received += len(answer.reports)
            for word, content in answer.reports:
                if word in FINAL_WORDS and not self.shared:
                    self.events.put((word, content))
                elif word == "ready":
                    self._report(word, f"{self.place.name}{MOVED}{self.moved_to}" if self.moved_to else None)
                else:
                    self._report(word, self._as_sign(content) if word == "alive" else content)
            if answer.checkpoint not in (None, checkpoint):
                checkpoint = answer.checkpoint
                self.events.put(("checkpoint", checkpoint))
            if answer.end:
                return WorkerEnd(self.fault) if self.fault and not self.killed else answer.end

    def _as_sign(self, sign: SignOfLife) -> SignOfLife:
        """Return a sign of life that also counts a transfer of files, during which the worker only waits."""
        if self.transfer is None or sign.doing != WAITING:
            return sign
        return SignOfLife(WRITING_RESULTS, time.monotonic() - self.transfer)

    def _report(self, word: str, content: Any) -> None:
        with self.executor.changed:
            self.reports.append((word, content))
            self.executor.changed.notify_all()

    def _describe_loss(self, error: Exception) -> WorkerEnd:
        """Return how a worker ended whose actor is gone. Losing a machine is nobody's fault."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} if ray.is_initialized() else set()
        if self.killed or self.node in alive:
            return WorkerEnd(f"its Ray actor ({_last_line(error)})")
        return WorkerEnd(f"the loss of its node {self.place.host}".rstrip(), machine_lost=True)

    # Calls of the actor.

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor. While it cannot be reached, Ray finds out whether it is dead."""
        while True:
            try:
                return ray.get(getattr(self.actor, method).remote(*arguments))
            except ActorUnavailableError:
                if self.killed:
                    raise
                time.sleep(NODE_RETRY_SECONDS)

    def _send_orders(self) -> None:
        """Send messages in their order. One whose answer is lost is sent again, and the actor knows its number."""
        try:
            while order := self.orders.get():
                self._call("send", *order)
        except RayError as error:
            self._lose_worker(error)

    def _lose_worker(self, error: RayError) -> None:
        """End a worker that cannot go on. If its actor is dead, the listener tells why."""
        self.fault = self.fault or f"its Ray actor ({_last_line(error)})"
        self._end_worker()

    def _kill_actor(self) -> None:
        """End the actor's process, unless it has ended."""
        with contextlib.suppress(Exception):  # Ray may have been left already
            if self.listener.is_alive() and ray.is_initialized():
                ray.kill(self.actor)

    # The thread that takes runs whose files travel.

    def _carry_runs(self) -> None:
        """Do what a worker does with a run, but let the actor train it. The pool hears of its death otherwise."""
        while (order := self.runs.get()) is not None:
            run, replaces = order
            train = partial(self._train_remotely, run, replaces)
            try:
                record = run_under_claim(run, self.executor.results, replaces, train, lambda: None)
            except RunInterrupted:
                if self.lost:
                    return
                self._report("interrupted", None)
            except UserError as error:
                self._report("user_error", str(error))
            except Exception:  # without a report the pool would wait for ever
                self.given_up = True
                self._report("broken", traceback.format_exc())
                self.kill()
                return
            else:
                self._report("done", (record, self.device_works))

    def _train_remotely(self, run: PlannedRun, replaces: RunRecord | None) -> RunRecord:
        """Let the actor train a run under the claim that this thread holds, and return its record.

        Raises:
            RunInterrupted: The run was asked to stop, or its worker died.
        """
        ending: str | None = None
        content: Any = None
        try:
            self._send_run(run)
            self._call("send", next(self.numbers), (run, replaces))
            while ending is None and (event := self.events.get()) is not None:
                word, content = event
                ending = word if word in FINAL_WORDS else None
                self._fetch_run(run, ending)
        except RayError as error:
            ending = None
            self._lose_worker(error)
        except BaseException:  # a full disk, or another process has taken over the run: let nobody train it in vain
            self.given_up = True
            self.kill()
            raise
        self.lost = ending is None
        if ending == "user_error":
            raise UserError(content)
        if ending != "done":
            raise RunInterrupted
        record, self.device_works = content
        return record

    def _send_run(self, run: PlannedRun) -> None:
        """Send what is here of a run, and the weights that it starts from, to the node."""
        self._call("clear", run.run_id)
        self.starts_sent.discard(run.run_id)
        ids = [run.run_id]
        start = run.config.start_from if isinstance(run.config, RunConfig) else None
        if start and start.run not in self.starts_sent:
            self.starts_sent.add(start.run)
            ids.append(start.run)
        for run_id in ids:
            folder = run_folder(self.executor.results, run_id)
            for name in names_to_carry(folder):
                self._send_file(folder / name, str(run_folder(Path(), run_id) / name))
        self.fetched = set(self._call("take_snapshot", run.run_id, True))

    def _send_file(self, path: Path, name: str) -> None:
        """Send a file to the worker's folder on the node, in pieces."""
        with open(path, "rb") as file:
            offset = 0
            while (piece := file.read(PIECE_BYTES)) or not offset:
                self._call("write", name, offset, piece)
                offset += len(piece)
                if not piece:
                    break

    def _fetch_run(self, run: PlannedRun, ending: str | None) -> None:
        """Make the run's folder here like the node's if that is whole; no ending: only what the run is resumed from."""
        self.transfer = time.monotonic()
        folder, whole = run_folder(self.executor.results, run.run_id), ending is not None
        files: list[NodeFile] = self._call("take_snapshot", run.run_id, whole)
        names = {file.name for file in files}
        stale = [name for name in names_to_carry(folder) if whole and name not in names]
        if CONFIG_FILE in stale or (stale and not files) or (ending == "done" and RECORD_FILE not in names):
            raise RayError(f"the files of run {run.run_id} are missing on {self.place.host}")
        for name in {*stale} - {CHECKPOINT_FILE}:
            remove_under_claim(folder / name)
        models: dict[str, list[NodeFile]] = {}
        for file in files:
            if "/" in file.name:
                models.setdefault(file.name.partition("/")[0], []).append(file)
        for model, parts in models.items():
            if not self.fetched.issuperset(parts):
                with atomic_write_folder(folder / model) as temporary:
                    for part in parts:
                        with open(temporary / Path(part.name).name, "xb") as target:
                            self._fetch_file(part, target)
        for file in files:
            if "/" not in file.name and file not in self.fetched:
                atomic_write(folder / file.name, partial(self._fetch_file, file), file.size)
        if CHECKPOINT_FILE in stale:  # after the record: a kill in between loses nothing
            remove_under_claim(folder / CHECKPOINT_FILE)
        for model in folder.glob("model-*"):
            if whole and not is_private(model.name) and not any(model.iterdir()):
                model.rmdir()
        self.fetched = {file for file in self.fetched if file.name not in names} | set(files)
        self._call("clear" if whole else "close_files", *([run.run_id] if whole else []))
        self.transfer = None

    def _fetch_file(self, file: NodeFile, target: BinaryIO) -> None:
        """Write a file of the node's last snapshot to an open one here, in pieces."""
        for offset in range(0, file.size, PIECE_BYTES):
            target.write(self._call("read", file.name, offset))
            self.transfer = time.monotonic()
