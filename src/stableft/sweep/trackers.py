"""Feed a tracker from records and histories, in a process of its own that never stops or slows a run.

The files of a run stay the source of truth. A mark in the run's folder says what was sent where.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import short_digest
from stableft.config.settings import list_values
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.run_record import (
    HISTORY_FILE,
    RECORD_FILE,
    RunRecord,
    atomic_write,
    read_intact_record,
    run_folder,
)
from stableft.stats.summary import summarize
from stableft.sweep.local_workers import main_hidden, sigint_blocked
from stableft.sweep.progress import Notice, ProgressReported, RunEnded, RunStarted, ShowEvent, SweepEvent, run_label
from stableft.sweep.tracker_clients import TRACKERS, LogValues, TrackedRun, describe_place, wait_for_lease

MARK_FILE = "tracked.json"  # in a run's folder: digest of where it was sent -> digest of the record that was sent
SEND_LEASE = ".tracked.lease"  # in a run's folder, of the process that sends it
SENDER_SECONDS = 30.0  # for another process that sends the same run
CURVE_POINTS = 1000  # of a run, at most: more would take a tracker longer to take in than many runs to train
LIVE_SECONDS = 1.0  # between two points of the live curves of a slot
TRACKER_PATIENCE = 60.0  # seconds without an answer, after which the end of a sweep waits no longer
DOWN_PATIENCE = 5.0  # the same for a tracker that has failed before
INTERRUPTED_SECONDS = 10.0  # for all that is still to be sent when a sweep was interrupted


def record_digest(results: Path, run_id: str) -> str | None:
    """Return a digest of a run's record as it is now, or None without one."""
    try:
        return hashlib.sha256((run_folder(results, run_id) / RECORD_FILE).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def read_marks(results: Path, run_id: str) -> dict[str, str]:
    """Return what was sent of a run, by tracker and place. A damaged file says nothing."""
    try:
        marks = json.loads((run_folder(results, run_id) / MARK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def find_unsent(results: Path, runs: Sequence[PlannedRun], project: str, tool: str) -> list[PlannedRun]:
    """Return the arms' entries of one run of which a tracker does not have this outcome, by the marks."""
    if not runs or (digest := record_digest(results, runs[0].run_id)) is None:
        return []
    marks = read_marks(results, runs[0].run_id)
    return [run for run in runs if marks.get(_mark_key(results, run, project, tool)) != digest]


def _mark_key(results: Path, run: PlannedRun, project: str, tool: str) -> str:
    """Return a digest of where a run is sent: the place may hold a password."""
    return short_digest(f"{describe_place(tool, results)} {project} {run.arm}")


@dataclass(frozen=True)
class ArmToSend:
    """The recorded runs of an arm and task, and what marks that mean and SD over them were sent."""

    runs: tuple[PlannedRun, ...]
    mark: str
    digest: str


def find_unsent_arms(results: Path, runs: Iterable[PlannedRun], project: str, tool: str) -> dict[str, ArmToSend]:
    """Return the arms, by their groups, of which a tracker lacks mean and SD over the runs that there are now.

    None of a tool that computes both itself.
    """
    members: dict[str, list[PlannedRun]] = {}
    for run in () if TRACKERS[tool].has_sd else runs:
        members.setdefault(_group(run), []).append(run)
    found: dict[str, ArmToSend] = {}
    for group, all_runs in members.items():
        digests = {run: digest for run in all_runs if (digest := record_digest(results, run.run_id))}
        if digests:
            mark = short_digest(f"{describe_place(tool, results)} {project} {group} over its seeds")
            arm = ArmToSend(tuple(digests), mark, short_digest(" ".join(digests.values())))
            if read_marks(results, arm.runs[0].run_id).get(mark) != arm.digest:
                found[group] = arm
    return found


def _group(run: PlannedRun) -> str:
    """Return what names the runs that differ from this one in their seeds alone."""
    return f"{run.arm} {run.config.data.task}"


def by_run_id(runs: Iterable[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """Return run id -> the entries of the arms that share the run."""
    found: dict[str, dict[str, PlannedRun]] = {}
    for run in runs:
        found.setdefault(run.run_id, {}).setdefault(run.arm, run)
    return {run_id: list(arms.values()) for run_id, arms in found.items()}


def describe_run_to_tracker(run: PlannedRun, record: RunRecord, project: str, results: Path, digest: str) -> TrackedRun:
    """Return what a tracker is told of a run of an arm. The names of the arm are those of the sweep."""
    config, seeds = record.config, record.config.seeds
    command = isinstance(config, CommandConfig)
    values = {"command": config.written_command} if command else list_values(config.model_dump(mode="json"))
    settings = {key: value for key, value in values.items() if value is not None and not key.startswith("seeds.")}
    return TrackedRun(
        key=short_digest(f"{run.run_id} {run.arm} {digest}"),
        name=run_label(run),
        group=_group(run),
        project=project,
        results=results,
        config={"arm": run.arm, "recipe": run.recipe, "task": config.data.task, **settings},
        seeds={"seed": seeds.label, "seed_init": seeds.init, "seed_data": seeds.data, "run_id": run.run_id},
        crashed=record.status == "crashed",
    )


def curves_of_run(record: RunRecord, results: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the values of a run by step: training at CURVE_POINTS steps or fewer, every evaluation, the scores."""
    by_step: dict[int, dict[str, float]] = {}
    path = run_folder(results, record.run_id) / HISTORY_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    every = -(-len(lines) // CURVE_POINTS) or 1
    for number, line in enumerate(lines, 1):
        if number % every == 0 or number in (1, len(lines)):
            entry = json.loads(line)
            by_step[entry["step"]] = {f"train/{key}": float(x) for key, x in entry.items() if key != "step"}
    for point in record.evals:
        values = by_step.setdefault(point.step, {})
        values |= {"val/loss": point.val_loss, **{f"val/{name}": x for name, x in point.val.items()}}
    scores = by_step.setdefault(max(by_step, default=record.steps), {})
    for checkpoint in ("last", "best"):
        found = getattr(record, checkpoint)
        for split, metrics in (("val", found.val), ("test", found.test or {})) if found else ():
            scores |= {f"{checkpoint}/{split}/{name}": x for name, x in metrics.items()}
    if record.reported_score is not None:
        scores["score"] = record.reported_score
    if record.failed is not None:
        scores["failed"] = float(record.failed)
    for step in sorted(by_step):
        yield step, by_step[step]


def send_run(tool: str, runs: Sequence[PlannedRun], project: str, results: Path) -> bool:
    """Send a finished or crashed run, once for every arm that has it, unless the tracker has it, and mark that.

    Return whether anything was sent. Another process that sends the run is waited for: it may send it elsewhere, and
    what it has sent is not sent again.

    Raises:
        TimeoutError: The other process takes too long.
    """
    if not find_unsent(results, runs, project, tool):
        return False
    with _sent_by_this_process(results, runs[0].run_id):
        return _send_unsent(tool, runs, project, results)


@contextmanager
def _sent_by_this_process(results: Path, run_id: str) -> Iterator[None]:
    path = run_folder(results, run_id) / SEND_LEASE
    lease = wait_for_lease(path, SENDER_SECONDS, "has not finished sending this run")
    try:
        yield
    finally:
        lease.release()


def _send_unsent(tool: str, runs: Sequence[PlannedRun], project: str, results: Path) -> bool:
    unsent = find_unsent(results, runs, project, tool)
    digest = record_digest(results, runs[0].run_id)
    record = read_intact_record(results, runs[0].run_id) if unsent else None
    if digest is None or record is None or record.status not in ("finished", "crashed"):
        return False
    for run in unsent:
        with TRACKERS[tool].open_run(describe_run_to_tracker(run, record, project, results, digest)) as log:
            for step, values in curves_of_run(record.model_copy(update={"report": run.report}), results):
                log(step, values)
        _mark_sent(results, run.run_id, _mark_key(results, run, project, tool), digest)
    return bool(unsent)


def _mark_sent(results: Path, run_id: str, mark: str, digest: str) -> None:
    marks = {**read_marks(results, run_id), mark: digest}
    atomic_write(run_folder(results, run_id) / MARK_FILE, json.dumps(marks, sort_keys=True).encode())


def send_arms(tool: str, runs: Iterable[PlannedRun], project: str, results: Path) -> None:
    """Send, for every arm and task, mean, SD and share of failed runs over its first 1, 2, ... seeds, and mark that.

    Most tools show the mean of a group at best. What was sent of fewer runs is found by its key and replaced.
    """
    for group, arm in find_unsent_arms(results, runs, project, tool).items():
        first = arm.runs[0].run_id
        records = [(run, read_intact_record(results, run.run_id)) for run in arm.runs]
        ended = [
            record.model_copy(update={"report": run.report})
            for run, record in records
            if record and record.status in ("finished", "crashed")
        ]
        if not ended:
            continue
        name = f"{group} over its seeds"
        told = TrackedRun(short_digest(f"{project} {name}"), name, name, project, results)
        with _sent_by_this_process(results, first):
            with TRACKERS[tool].open_run(told) as log:
                for n in range(1, len(ended) + 1):
                    log(n, _summarize_arm(ended[:n]))
            _mark_sent(results, first, arm.mark, arm.digest)


def _summarize_arm(records: Sequence[RunRecord]) -> dict[str, float]:
    scores = summarize([score for one in records if (score := one.reported_score) is not None])
    failed = [one.failed for one in records if one.failed is not None]
    share = sum(failed) / len(failed) if failed else None
    values = {"score_mean": scores.mean, "score_sd": scores.std, "failed_share": share}
    return {name: value for name, value in values.items() if value is not None}


def describe_live_run(project: str, results: Path) -> TrackedRun:
    """Return the run of what this process's parent trains. Pilots that begin in the same second have one each."""
    name = f"live {time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} {os.getpid()}"
    return TrackedRun(short_digest(name), name, "live", project, results)


def feed_tracker(
    connection: Connection, tool: str, project: str, results: Path, runs: dict[str, list[PlannedRun]], arms: bool
) -> None:
    """Send what the parent names: run ids, and (seconds, values) of the live curves. None ends it.

    Answers each with ("sent", whether) or ("failed", why). `arms`: at the end, also send mean and SD of the arms.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the tools print what the sweep's display has no room for
        os.dup2(silence, stream)
    warnings.simplefilter("ignore")
    live: Any = None
    log: LogValues | None = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(1)
        if message is None:
            break
        answer: tuple[str, Any] = ("sent", False)
        try:
            if isinstance(message, str):
                answer = ("sent", send_run(tool, runs[message], project, results))
            else:
                if live is None:
                    live = TRACKERS[tool].open_run(describe_live_run(project, results))
                    log = live.__enter__()
                if log:
                    log(*message)
        except Exception as error:  # of a tool: anything, and no reason to stop
            answer = ("failed", _describe_error(error))
        connection.send(answer)
    try:
        if arms:
            send_arms(tool, [run for shared in runs.values() for run in shared], project, results)
        if live:
            live.__exit__(None, None, None)
    except Exception as error:
        connection.send(("failed", _describe_error(error)))
    finally:
        connection.send(("ended", None))
        # What a tool has left to do at exit would wait for a network that may be gone.
        os._exit(0)


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


class TrackerProcess:
    """The process that feeds a tracker. It is sent one message at a time, so that the parent never waits for it."""

    def __init__(self, tool: str, project: str, results: Path, runs: Iterable[PlannedRun], arms: bool = True):
        context = multiprocessing.get_context("spawn")
        self.tool, (self._connection, other_end) = tool, context.Pipe()
        self.waiting: deque[str] = deque()  # ids of runs
        self.live: tuple[int, dict[str, float]] | None = None  # a point of the live curves
        self.asked: str | tuple | None = None  # the message that is not answered yet
        self.sent = self.had = 0  # runs sent, and those that the tracker had
        self.unsent: list[str] = []
        self.failure: str | None = None  # the first
        self.asked_at = time.monotonic()
        arguments = (other_end, tool, project, results, by_run_id(runs), arms)
        self._process = context.Process(target=feed_tracker, args=arguments, name=f"stableft {tool}", daemon=True)
        with sigint_blocked(), main_hidden(None):
            self._process.start()
        other_end.close()

    def pump(self, wait: float = 0.0) -> None:
        """Take the answers that are there, waiting for one at most this long, and send what is next."""
        try:
            while self.asked is None or self._connection.poll(wait):
                if self.asked is not None:
                    self._take(*self._connection.recv())
                self.asked = self.waiting.popleft() if self.waiting else self.live
                if self.asked is None:
                    return
                self.live = None if self.asked is self.live else self.live
                self._connection.send(self.asked)
                self.asked_at = time.monotonic()
        except (EOFError, OSError):
            self.failure = self.failure or "its process died"
            self._give_up()

    def _take(self, word: str, content: Any) -> None:
        if word == "failed":
            self.failure = self.failure or content
            self.unsent += [self.asked] if isinstance(self.asked, str) else []
        elif isinstance(self.asked, str):
            self.sent += bool(content)
            self.had += not content

    def _give_up(self) -> None:
        self.unsent += [self.asked] if isinstance(self.asked, str) else []
        self.unsent += self.waiting
        self.waiting.clear()
        self.asked = self.live = None

    def finish(self, patience: float = TRACKER_PATIENCE, most: float = float("inf")) -> None:
        """Wait until all is sent, or nothing was for so long, but `most` seconds in all, and end the process."""
        deadline = time.monotonic() + most
        try:
            while self.asked is not None or self.waiting:
                if time.monotonic() > deadline:
                    self._give_up()
                    break
                if time.monotonic() - self.asked_at > patience:
                    self.failure = self.failure or f"no answer for {patience:g} s"
                    self._give_up()
                self.pump(wait=0.2)
            with suppress(OSError, EOFError):
                self._connection.send(None)
                word = None
                while word != "ended" and self._connection.poll(max(0.0, min(patience, deadline - time.monotonic()))):
                    word, content = self._connection.recv()
                    self.failure = self.failure or content
        finally:
            self._process.kill()
            self._process.join()
            self._connection.close()


@contextmanager
def tracked_display(
    tool: str | None, sweep: Sweep, results: Path, display: ShowEvent, send_earlier: bool = True
) -> Iterator[ShowEvent]:
    """Yield a display that also sends runs to a tracker when they end.

    A tracker that is down is told once, and at the end what it lacks. None: no tracker. `send_earlier`: also send runs
    that ended before and are unsent, and the arms' mean and SD; each of many pilots would otherwise send those of all.
    """
    if tool is None:
        yield display
        return
    tracker = TrackerProcess(tool, sweep.name, results, sweep.runs, arms=send_earlier)
    planned, began = by_run_id(sweep.runs), time.monotonic()
    if send_earlier:
        tracker.waiting.extend(key for key, runs in planned.items() if find_unsent(results, runs, sweep.name, tool))
    labels: dict[str, str] = {}
    live_at: dict[str, float] = {}
    told = interrupted = False

    def tell() -> None:
        nonlocal told
        if tracker.failure and not told:
            told = True
            display(Notice(f"{tool}: {tracker.failure}; the runs go on, and their files are kept"))

    def show(event: SweepEvent) -> None:
        nonlocal interrupted
        display(event)
        if isinstance(event, Notice):
            interrupted |= event.interrupted
        elif isinstance(event, RunEnded) and event.record and event.run.run_id in planned:
            tracker.waiting.append(event.run.run_id)
        elif isinstance(event, RunStarted):
            labels[event.slot] = run_label(event.run)
        elif isinstance(event, ProgressReported) and event.slot in labels:
            now, progress = time.monotonic(), event.progress
            if now - live_at.get(event.slot, -LIVE_SECONDS) >= LIVE_SECONDS and not tracker.failure:
                live_at[event.slot], label = now, labels[event.slot]
                values = {f"{label}/loss": progress.loss, f"{label}/validation": progress.val}
                known = {name: value for name, value in values.items() if value is not None}
                tracker.live = int(now - began), {**known, f"{label}/step": float(progress.step)}
        tracker.pump()
        tell()

    try:
        yield show
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        patience = TRACKER_PATIENCE if tracker.failure is None else DOWN_PATIENCE
        tracker.finish(patience, INTERRUPTED_SECONDS if interrupted else float("inf"))
        tell()
        if n := len(set(tracker.unsent)):
            display(Notice(f"{n} run{'s' * (n > 1)} not sent; `stableft track {sweep.path} --to {tool}` sends them"))


def send_sweep(tool: str, sweep: Sweep, results: Path) -> str:
    """Send the finished and crashed runs of a sweep that a tracker does not have yet, and return what was done.

    Raises:
        UserError: There are no such runs, or some could not be sent.
    """
    planned = by_run_id(sweep.runs)
    recorded = [run_id for run_id in planned if record_digest(results, run_id)]
    if not recorded:
        raise UserError(f"{sweep.path}: {results} has no records of its {len(sweep.runs)} runs")
    unsent = [run_id for run_id in recorded if find_unsent(results, planned[run_id], sweep.name, tool)]
    if not unsent and not find_unsent_arms(results, sweep.runs, sweep.name, tool):
        return f"{tool} has all {len(recorded)} runs already"
    tracker = TrackerProcess(tool, sweep.name, results, sweep.runs)
    tracker.waiting.extend(unsent)
    try:
        tracker.pump()
    finally:
        tracker.finish()
    before = len(recorded) - len(unsent)
    done = f"sent {tracker.sent} runs to {tool}" + (f", which had {before} already" if before else "")
    done = done if unsent else f"sent mean and SD of the arms to {tool}, which had all {before} runs already"
    if tracker.failure:
        raise UserError(f"{tool}: {tracker.failure}; {done}, and {len(tracker.unsent)} are left")
    return done
