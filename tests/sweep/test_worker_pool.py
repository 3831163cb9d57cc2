"""The pool's queue, with workers that do what a test has written down: no processes, no training."""

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.decided_sweeps import make_decided_sweep, make_scored_record
from support.sweep_records import make_record, make_run, save_record

from stableft.cli.slurm_commands import _runs_left
from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import canonical_json
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, PREDICTIONS_FILE, RECORD_FILE, SCHEMA, run_folder
from stableft.sweep.executor import WorkerEnd
from stableft.sweep.progress import Notice, RunEnded
from stableft.sweep.run_sweep import run_planned_sweep
from stableft.sweep.state import read_sweep_state, unique_runs
from stableft.sweep.workers import run_with_workers

pytestmark = pytest.mark.timeout(30)
Report = tuple[str, Any]
CLEAN, KILLED = WorkerEnd("exit code 0", clean=True), WorkerEnd("signal 9 (Killed)")
LOST = WorkerEnd("its node", machine_lost=True)


def finish(run: PlannedRun, results: Path) -> list[Report]:
    return [("started", None), ("done", (save_record(results, make_record(run)), True))]


@dataclass(eq=False)
class WrittenWorker:
    """A worker that answers to a run with `answer`, and to "stop" as written down in `at_stop`, after which it ends."""

    results: Path
    answer: Callable[[PlannedRun, Path], list[Report]]
    at_stop: list[Report]
    end: WorkerEnd
    sent: list[PlannedRun]
    reports: deque[Report] = field(default_factory=lambda: deque([("ready", None)]))
    busy: bool = False
    ended: bool = False
    killed: bool = False

    def send(self, message: Any) -> None:
        if message == "stop":
            self.reports += self.at_stop if self.busy else []
            self.ended |= self.busy and self.end is not CLEAN
        elif message is None:
            self.ended = True
        else:
            self.sent.append(message[0])
            answers = self.answer(message[0], self.results)
            self.reports += answers
            self.busy = not any(word == "done" for word, _ in answers)

    def receive(self) -> Report:
        if not self.reports:
            raise EOFError
        return self.reports.popleft()

    def kill(self) -> None:
        self.killed = self.ended = True

    def join(self, seconds: float | None = None) -> WorkerEnd | None:
        return self.end if self.ended else None

    def close(self) -> None:
        pass


@dataclass
class WrittenWorkers:
    """An executor. Once every run that `begins` was sent to a worker, it is True."""

    answer: Callable[[PlannedRun, Path], list[Report]] = finish
    at_stop: Sequence[Report] = ()
    end: WorkerEnd = CLEAN
    jobs: int = 1
    sent: list[PlannedRun] = field(default_factory=list)
    started: list[WrittenWorker] = field(default_factory=list)

    def slots(self, execution: Execution) -> list[tuple[str, Execution]]:
        return [(f"cpu {number}", execution) for number in range(self.jobs)]

    def start(self, name, results, sources, execution, train, heartbeat) -> WrittenWorker:
        worker = WrittenWorker(results, self.answer, [*self.at_stop], self.end, self.sent)
        self.started.append(worker)
        return worker

    def wait(self, links: Sequence[WrittenWorker], seconds: float) -> list[WrittenWorker]:
        time.sleep(0.001)
        return [link for link in links if link.reports or link.ended]


def sweep(results: Path, runs: Sequence[PlannedRun], executor: WrittenWorkers, **options):
    events: list[Any] = []
    options |= {"display": events.append, "fingerprint": lambda config, sources: "f" * 64}
    return run_with_workers(runs, results, LocalPaths(), executor, Execution(), **options), events


X, Y = make_run(1), make_run(2)
STARTED = [("started", None)]


@pytest.mark.parametrize(
    ("answer", "at_stop", "end"),
    [
        (STARTED, [("interrupted", None)], CLEAN),
        ([], [("done", (None, True))], CLEAN),
        (STARTED, [], KILLED),
        ([], [], KILLED),
        (STARTED, [], LOST),
        ([], [], CLEAN),
    ],
    ids=["stops", "held by another process", "killed", "killed before it began", "machine lost", "had left"],
)
def test_a_run_that_is_no_longer_wanted_is_not_tried_again(tmp_path, answer, at_stop, end):
    """Whatever becomes of it on the worker that was told to stop it."""
    executor = WrittenWorkers(
        lambda run, results: [*answer] if run.run_id == X.run_id else finish(run, results), at_stop, end
    )
    both, one = (X.run_id, Y.run_id), (Y.run_id,)
    outcome, events = sweep(tmp_path, [X, Y], executor, wanted=lambda _: one if X in executor.sent else both)
    assert executor.sent == [X, Y]
    assert (outcome.finished, outcome.crashed, outcome.unfinished) == ((Y.run_id,), (), (X.run_id,))
    notes = [event.text for event in events if isinstance(event, Notice)]
    assert [note.rpartition("; ")[2] for note in notes] == ["no claim needs it any more"] * (end in (KILLED, LOST))


def test_a_run_that_is_wanted_again_is_tried_again(tmp_path):
    """It was held meanwhile."""
    executor = WrittenWorkers(
        lambda run, results: [*STARTED] if len(executor.sent) == 1 else finish(run, results), (), KILLED
    )
    both, one = (X.run_id, Y.run_id), (Y.run_id,)
    wanted = {0: both, 1: one}
    outcome, _ = sweep(tmp_path, [X, Y], executor, wanted=lambda _: wanted.get(len(executor.sent), both))
    assert executor.sent == [X, Y, X]
    assert {*outcome.finished} == {*both}


def raise_user_error(*_: Any) -> tuple[str, ...]:
    raise UserError("scores cannot be compared")


def write_newer_record(results: Path, run: PlannedRun) -> Path:
    """Writes the record of a run as a newer version does, with a checksum that is right, and returns its path."""
    save_record(results, make_record(run))
    path = run_folder(results, run.run_id) / RECORD_FILE
    values = json.loads(path.read_text()) | {"schema": SCHEMA + 1, "something_new": 1}
    del values["checksum"]
    checksum = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    path.write_text(canonical_json(values | {"checksum": checksum}) + "\n")
    return path


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("rule", "^scores cannot be compared$"),
        ("start", "^scores cannot be compared$"),
        ("record", rf"^\S+{RECORD_FILE} has schema {SCHEMA + 1}, but this version .*: read it with the version that"),
    ],
    ids=["rule", "start", "record"],
)
def test_a_mistake_seen_by_the_pool_lets_the_runs_of_others_write_a_checkpoint(tmp_path, where, sentence, monkeypatch):
    """In the claims' rule, in the start of a worker, and in what a newer version wrote meanwhile of another run."""

    def begin(run: PlannedRun, results: Path) -> list[Report]:
        folder = run_folder(results, run.run_id)
        folder.mkdir(parents=True)
        (folder / CHECKPOINT_FILE).touch()
        if where == "start":
            monkeypatch.setattr(executor, "start", raise_user_error)
            executor.started[1].ended = True
        if where == "record":
            newer.append(write_newer_record(results, Y))
            written.append(newer[0].read_bytes())
            executor.started[1].reports.append(("ready", None))
        return [*STARTED]

    newer, written = list[Path](), list[bytes]()
    executor = WrittenWorkers(begin, [("interrupted", None)], jobs=2)
    start = executor.start

    def start_later(*arguments) -> WrittenWorker:
        worker = start(*arguments)
        if len(executor.started) == 2:  # it is ready only once the other one trains
            worker.reports.clear()
        return worker

    monkeypatch.setattr(executor, "start", start_later)
    events: list[Any] = []
    both = (X.run_id, Y.run_id)
    claims = (lambda _: raise_user_error() if executor.sent else both) if where == "rule" else None
    with pytest.raises(UserError, match=sentence):
        run_with_workers(
            [X, Y],
            tmp_path,
            LocalPaths(),
            executor,
            Execution(),
            display=events.append,
            fingerprint=lambda config, sources: "f" * 64,
            wanted=claims,
        )
    assert [event.how for event in events if isinstance(event, RunEnded)] == ["interrupted"]
    assert executor.sent == [X]
    assert not executor.started[0].killed
    assert [path.read_bytes() for path in newer] == written
    assert len(list(tmp_path.rglob(f"{RECORD_FILE}*"))) == len(newer)


def test_runs_of_a_decided_sweep_are_completed_and_pilots_count_them(tmp_path):
    rule = DecideRule(about=["failures"], looks=[4, 8])
    plan = make_decided_sweep(rule, seeds=8)
    done = [run for run in plan.runs if run.config.seeds.init < 4]
    for run in done:
        save_record(tmp_path, make_scored_record(run, math.nan if run.arm == "bad" else 0.7))

    def complete(run: PlannedRun, results: Path) -> list[Report]:
        (run_folder(results, run.run_id) / PREDICTIONS_FILE).touch()
        record = make_scored_record(run, math.nan if run.arm == "bad" else 0.7)
        return [*STARTED, ("done", (save_record(results, record), True))]

    executor, runs = WrittenWorkers(complete), unique_runs(plan.runs)
    ids = {run.run_id for run in done}
    left, _ = _runs_left(plan, tmp_path, runs, read_sweep_state(tmp_path, plan.runs), incomplete=ids)
    outcome = run_planned_sweep(
        plan,
        tmp_path,
        executor,
        Execution(retrain_incomplete=True),
        fingerprint=lambda config, sources: "f" * 64,
    )
    assert [run.run_id for run in executor.sent] == [run.run_id for run in left] == [run.run_id for run in done]
    assert len(outcome.saved) == 8
    executor.sent.clear()
    again = replace(Execution(), retrain_incomplete=True)
    run_planned_sweep(plan, tmp_path, executor, again, fingerprint=lambda config, sources: "f" * 64)
    assert executor.sent == []
