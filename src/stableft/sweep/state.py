"""Which runs of a sweep are done, which are left, and how every executor does one run."""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from stableft.config.planned_run import Execution, InLoopProbes, LocalPaths, PlannedRun, RunInterrupted
from stableft.config.run_config import RunConfig, canonical_json
from stableft.config.sweep_file import PROBE_NAMES, EarlyStoppingRule
from stableft.data.splits import data_fingerprint
from stableft.errors import UserError
from stableft.records.probe_record import PROBES_FILE, DriftRecord, GradNormsRecord, ProbeRecord, read_probe_records
from stableft.records.run_record import (
    BEST_FOLDER,
    CHECKPOINT_FILE,
    LAST_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    RunRecord,
    atomic_write,
    dump_record,
    read_record,
    run_folder,
    set_aside,
    write_record,
)
from stableft.sweep.claims import claim_run
from stableft.sweep.early_stopping import find_ranking_eval, setting_key

CRASH_FILE = "crash.txt"
RESUMABLE_STATUSES = ("paused", "stopped")  # statuses of runs that may go on
RunT = TypeVar("RunT", PlannedRun, RunRecord)


@dataclass(frozen=True)
class SweepState:
    """Where a sweep stands; `failed` are those of `finished` that failed, `damaged` says what was set aside."""

    finished: tuple[RunRecord, ...]
    failed: tuple[RunRecord, ...]
    crashed: tuple[RunRecord, ...]
    unfinished: tuple[PlannedRun, ...]  # there is a checkpoint to go on from
    todo: tuple[PlannedRun, ...]
    damaged: tuple[str, ...]
    waiting: tuple[RunRecord, ...] = ()  # paused, or stopped as hopeless


@dataclass(frozen=True)
class SweepResult:
    """What became of the runs of a sweep, as run ids; `failed` are among `finished` and `skipped`."""

    finished: tuple[str, ...]  # now, by this process or another one
    failed: tuple[str, ...]
    crashed: tuple[str, ...]  # now, or earlier and not tried again
    skipped: tuple[str, ...]  # were finished before
    left: tuple[str, ...]
    checkpointed: tuple[str, ...]  # those of `left` that go on from a checkpoint
    interrupted: bool
    stopped: tuple[str, ...] = ()  # early, as hopeless
    held: tuple[str, ...] = ()  # those of `left` that have nothing to start from
    crashed_parents: tuple[str, ...] = ()  # runs that those of `held` were to start from; none of the sweep's own


def unique_runs(runs: Iterable[PlannedRun]) -> dict[str, PlannedRun]:
    """Returns run id -> run in the given order; of several arms that ask for one run the first gives its name."""
    unique: dict[str, PlannedRun] = {}
    for run in runs:
        unique.setdefault(run.run_id, run)
    return unique


def read_sweep_state(results: Path, runs: Iterable[PlannedRun], look_only: bool = False) -> SweepState:
    """Returns the state of these runs, each counted once; a damaged record is set aside and its run is to do.

    With `look_only` it stays where it is.
    """
    finished, crashed, unfinished, todo, damaged, waiting = [], [], [], [], [], []
    for run_id, run in unique_runs(runs).items():
        try:
            record = read_record(results, run_id)
        except UserError as error:
            record, sentence = (None, str(error)) if look_only else _reread_under_claim(results, run_id)
            damaged += [sentence] if sentence else []
        if record is None:
            has_checkpoint = (run_folder(results, run_id) / CHECKPOINT_FILE).exists()
            (unfinished if has_checkpoint else todo).append(run)
        else:
            {"finished": finished, "crashed": crashed}.get(record.status, waiting).append(record)
    failed = tuple(record for record in finished if record.failed)
    rest = (crashed, unfinished, todo, damaged, waiting)
    return SweepState(tuple(finished), failed, *map(tuple, rest))


def is_done(record: RunRecord, run: PlannedRun) -> bool:
    """Returns whether there is nothing left to do: one that is paused or stopped is done where it is to pause, alone.

    A crashed record settles a run as well, unless it is to be tried again.
    """
    if record.status not in RESUMABLE_STATUSES:
        return True
    return run.pause_after is not None and find_ranking_eval(record, run.pause_after) is not None


def group_for_ranking(
    runs: Iterable[RunT], rules: Mapping[str, EarlyStoppingRule]
) -> dict[tuple[str, EarlyStoppingRule], list[RunT]]:
    """Returns the runs (or their records) that are ranked together: those of one setting, under one rule."""
    groups: dict[tuple[str, EarlyStoppingRule], list[RunT]] = {}
    for run in runs:
        groups.setdefault((setting_key(run.config), rules[run.run_id]), []).append(run)
    return groups


def _reread_under_claim(results: Path, run_id: str) -> tuple[RunRecord | None, str | None]:
    """As `_read_or_set_aside`, under the claim: another sweep may have set it aside and done the run meanwhile."""
    with claim_run(run_folder(results, run_id)) as mine:
        return _read_or_set_aside(results, run_id) if mine else (None, None)


def check_fingerprints(
    finished: Iterable[RunRecord],
    runs: Iterable[PlannedRun],
    sources: LocalPaths,
    fingerprint: Callable[[RunConfig, LocalPaths], str] = data_fingerprint,
) -> None:
    """Compares the data rows that finished runs used with those that lie here now.

    Raises:
        UserError: they differ; the message names both fingerprints.
    """
    planned = unique_runs(runs)
    now: dict[str, str] = {}  # one call for all seeds of a data config
    for record in finished:
        if record.data is None or record.run_id not in planned:
            continue
        config = planned[record.run_id].config
        key = canonical_json(config.data.model_dump(mode="json"))
        if key not in now:
            now[key] = fingerprint(config, sources)
        if now[key] != record.data.fingerprint:
            raise UserError(
                f"run {record.run_id} of task {config.data.task!r} is finished, but on other data rows: its record "
                f"says {record.data.fingerprint}, the data here is {now[key]}; give the data it was trained on, "
                "or another results folder"
            )


def run_under_claim(
    run: PlannedRun,
    results: Path,
    retry: RunRecord | None,
    train: Callable[[], RunRecord],
    started: Callable[[], None],
) -> RunRecord | None:
    """Returns the record of a run, done here under its claim or found done; None if another process is at it.

    An exception other than Stopped and UserError is a crash, and becomes a record too. `retry` is the earlier
    record that is to be replaced, crashed or incomplete: any other one found here is newer and is left alone.

    Raises:
        Stopped: the run was asked to stop and left a checkpoint.
        UserError: what the user wrote cannot be run.
    """
    with claim_run(run_folder(results, run.run_id)) as mine:
        if not mine:
            return _find_record_paused_elsewhere(run, results)
        record = _find_done_record(run, results, retry)
        if record is not None:
            return record
        started()
        begun = time.monotonic()
        try:
            return train()
        except (RunInterrupted, UserError):
            raise
        except Exception as error:
            # Only the first line of the message: CUDA's go on with general advice.
            reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
            return _write_crash_record(run, results, reason, traceback.format_exc(), time.monotonic() - begun)


def record_worker_death(
    run: PlannedRun, results: Path, retry: RunRecord | None, reason: str, seconds: float
) -> RunRecord | None:
    """Returns the record of a run whose process died, a crashed one unless it had finished; None if taken over."""
    with claim_run(run_folder(results, run.run_id)) as mine:
        if not mine:
            return None
        return _find_done_record(run, results, retry) or _write_crash_record(
            run, results, reason, f"{reason}\n", seconds
        )


def _find_done_record(run: PlannedRun, results: Path, retry: RunRecord | None) -> RunRecord | None:
    """Under the claim: returns the record that makes the run done, after clearing what is to be tried again.

    A finished one that is to be replaced stays until there is another, and so does a checkpoint on the way to that.
    """
    record, _ = _read_or_set_aside(results, run.run_id)
    if record and record.status == "finished" and retry and dump_record(record) == dump_record(retry):
        return None
    if record and record.status == "finished":  # a kill between the two leaves the checkpoint beside the record
        (run_folder(results, run.run_id) / CHECKPOINT_FILE).unlink(missing_ok=True)
    if record and not is_done(record, run):  # it stays until there is another one: it says how the run ranks
        return None
    if record is None or retry is None or dump_record(record) != dump_record(retry):
        return record
    for name in (RECORD_FILE, CRASH_FILE):
        (run_folder(results, run.run_id) / name).unlink(missing_ok=True)
    return None


def _find_record_paused_elsewhere(run: PlannedRun, results: Path) -> RunRecord | None:
    """Returns the record that makes a run done that another process is at: it has paused and goes on there."""
    try:
        record = read_record(results, run.run_id)
    except UserError:
        return None
    return record if record and record.status in RESUMABLE_STATUSES and is_done(record, run) else None


def _read_or_set_aside(results: Path, run_id: str) -> tuple[RunRecord | None, str | None]:
    try:
        return read_record(results, run_id), None
    except UserError as error:
        aside = set_aside(run_folder(results, run_id) / RECORD_FILE)
        return None, f"{error}; set aside as {aside.name}, the run will be done again"


def _write_crash_record(run: PlannedRun, results: Path, reason: str, text: str, seconds: float) -> RunRecord:
    before, _ = _read_or_set_aside(results, run.run_id)
    folder = run_folder(results, run.run_id)
    atomic_write(folder / CRASH_FILE, text.encode(errors="backslashreplace"))
    record = RunRecord(
        run_id=run.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status="crashed",
        reason=reason,
        config=run.config,
        evals=before.evals if before else (),  # of a run that had paused: its rank stays what it was
        last=None,
        best=None,
        failed=None,
        failed_by_accuracy=None,
        steps=0,
        skipped_steps=0,
        data=None,
        environment=None,
        seconds=seconds,
        peak_memory_bytes=None,
    )
    if before is None or before.status != "finished":  # one that was trained again keeps its result
        write_record(results, record)
    return record


SAVED_FOLDERS: dict[Literal["none", "best", "last", "all"], tuple[str, ...]] = {
    "none": (),
    "best": (BEST_FOLDER,),
    "last": (LAST_FOLDER,),
    "all": (BEST_FOLDER, LAST_FOLDER),
}


def find_missing_outputs(results: Path, run: PlannedRun, record: RunRecord, execution: Execution) -> tuple[str, ...]:
    """Returns in words what is asked for of a finished run that is not in its folder, such as "drift", "last weights".

    Best weights of a run that diverged may never have been. Predictions, which every run leaves, are looked for only
    where what is lacking is to be made.
    """
    folder = run_folder(results, record.run_id)
    words = [
        name.replace("_", " ")
        for name in PROBE_NAMES
        if getattr(run.probes, name) and name not in _recorded_probes(folder)
    ]
    for name in SAVED_FOLDERS[execution.save]:
        if not (folder / name).is_dir() and not (name == BEST_FOLDER and record.reason):
            words.append(f"{name.removeprefix('model-')} weights")
    if execution.complete and not (folder / PREDICTIONS_FILE).is_file():
        words.append("predictions")
    return tuple(words)


def with_recorded_probes(results: Path, run: PlannedRun) -> PlannedRun:
    """Returns a finished run to be trained again, with the probes whose records that would otherwise remove."""
    has = _recorded_probes(run_folder(results, run.run_id))
    return replace(
        run, probes=InLoopProbes(**{name: getattr(run.probes, name) or has.get(name) for name in PROBE_NAMES})
    )


def with_saved_weights(results: Path, run_ids: Iterable[str], execution: Execution) -> Execution:
    """Returns an execution that also keeps the weights which training these runs again would otherwise remove."""
    folders = [run_folder(results, run_id) for run_id in run_ids]
    there = {name for name in (BEST_FOLDER, LAST_FOLDER) if any((folder / name).is_dir() for folder in folders)}
    names = there | {*SAVED_FOLDERS[execution.save]}
    return replace(execution, save=next(save for save, kept in SAVED_FOLDERS.items() if {*kept} == names))


def _recorded_probes(folder: Path) -> dict[str, int]:
    """Returns which probes of a run's training are in its folder, and every how many steps they recorded."""
    return {record.probe: _recording_interval(record) for record in read_probe_records(folder / PROBES_FILE)}


def _recording_interval(record: ProbeRecord) -> int:
    """Returns the steps between two records; the first is that of step 1, or 0."""
    assert isinstance(record, GradNormsRecord | DriftRecord)
    later = [step for step in record.steps if step > 1]
    return later[0] if later else 1
