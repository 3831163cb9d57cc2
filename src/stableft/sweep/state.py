"""Track which runs of a sweep are done and which are left, and execute one run under its claim."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from stableft.config.planned_run import (
    PROBE_NAMES,
    Execution,
    InLoopProbes,
    LocalPaths,
    PlannedRun,
    RunInterrupted,
)
from stableft.config.run_config import RunConfig, canonical_json
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.data.splits import data_fingerprint
from stableft.errors import StorageError, UserError, storage_error, storage_faults
from stableft.records.atomic_folder import remove_under_claim, set_aside
from stableft.records.failure import has_failed, judged_as_planned
from stableft.records.file_sums import find_damaged
from stableft.records.held_claims import ClaimLostError
from stableft.records.probe_record import PROBES_FILE, DriftRecord, GradNormsRecord, ProbeRecord, read_probe_records
from stableft.records.run_record import (
    BEST_FOLDER,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HISTORY_FILE,
    LAST_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    Environment,
    RunRecord,
    UnknownSchemaError,
    atomic_write,
    dump_record,
    read_record,
    run_folder,
    write_record,
)
from stableft.sweep.claims import claim_run
from stableft.sweep.early_stopping import find_ranking_eval
from stableft.sweep.leases import writing_permitted

CRASH_FILE = "crash.txt"
RESUMABLE_STATUSES = ("paused", "stopped")  # statuses of runs that may be resumed
RunT = TypeVar("RunT", PlannedRun, RunRecord)


@dataclass(frozen=True)
class SweepState:
    """The records of a sweep by status. `failed` is a subset of `finished`.

    `damaged` holds messages about unreadable records.
    """

    finished: tuple[RunRecord, ...]
    failed: tuple[RunRecord, ...]
    crashed: tuple[RunRecord, ...]
    unfinished: tuple[PlannedRun, ...]  # have a checkpoint to resume from
    damaged: tuple[str, ...]
    resumable: tuple[RunRecord, ...] = ()  # paused or early-stopped


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep, as run ids. `failed` is a subset of `finished` and `finished_before` together."""

    finished: tuple[str, ...]  # during this sweep, by this or another process
    failed: tuple[str, ...]
    crashed: tuple[str, ...]  # during this sweep, or earlier and not retried
    finished_before: tuple[str, ...]  # before this sweep
    unfinished: tuple[str, ...]
    resumable: tuple[str, ...]  # those of `unfinished` that have a checkpoint
    interrupted: bool
    stopped_early: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()  # those of `unfinished` that another process works on
    saved: tuple[str, ...] = ()  # not needed, because the claims of the sweep's rule are decided
    blocked: tuple[str, ...] = ()  # those of `unfinished` whose initial weights are unavailable
    crashed_start_runs: tuple[str, ...] = ()  # start runs of `blocked` runs, excluding the sweep's own
    by_others: tuple[str, ...] = ()  # settled by other processes, whose records this one has not read
    not_retried: tuple[str, ...] = ()  # those of `crashed` that a look has passed, which --retry-crashed leaves


def unique_runs(runs: Iterable[PlannedRun]) -> dict[str, PlannedRun]:
    """Return run id -> run in the given order. If several arms share a run, the first arm's entry is kept."""
    unique: dict[str, PlannedRun] = {}
    for run in runs:
        unique.setdefault(run.run_id, run)
    return unique


def read_sweep_state(
    results: Path,
    runs: Iterable[PlannedRun],
    look_only: bool = False,
    brief: bool = False,
    known: SweepState | None = None,
) -> SweepState:
    """Return the state of these runs, each counted once.

    A damaged record is set aside and its run counts as to do. With `look_only`, the damaged file is left in place.
    With `brief`, finished records come without evaluations and energy, because those of 10,000 runs fill the memory.
    The records of runs that had finished in an earlier state, `known`, are not read again.

    Raises:
        UnknownSchemaError: a newer version wrote a record.
    """
    finished, crashed, unfinished, damaged, resumable = [], [], [], [], []
    had_finished = {record.run_id: record for record in known.finished} if known else {}
    had_failed = {record.run_id for record in known.failed} if known else set()
    environment = None
    for run_id, run in unique_runs(runs).items():
        if run_id in had_finished:
            finished.append(had_finished[run_id])
            continue
        try:
            record = read_record(results, run_id, brief)
            if brief and record and record.status != "finished":
                record = read_record(results, run_id)
        except UnknownSchemaError:
            raise
        except UserError as error:
            record, message = (None, str(error)) if look_only else _reread_under_claim(results, run_id)
            damaged += [message] if message else []
        if record is None:
            if (run_folder(results, run_id) / CHECKPOINT_FILE).exists():
                unfinished.append(run)
        elif record.status == "finished":
            record = judged_as_planned(record, run.config)
            if brief:
                seen = record.environment and record.environment.model_copy(update={"energy": None})
                environment = environment if seen == environment else seen
                record = _without_bulk(record, run, environment)
            finished.append(record)
        else:
            (crashed if record.status == "crashed" else resumable).append(record)
    failed = tuple(
        record
        for record in finished
        if (record.run_id in had_failed if record.run_id in had_finished else has_failed(record))
    )
    rest = (crashed, unfinished, damaged, resumable)
    return SweepState(tuple(finished), failed, *map(tuple, rest))


def _without_bulk(record: RunRecord, run: PlannedRun, environment: Environment | None) -> RunRecord:
    """Return a finished record without evaluations, with an equal config and environment that is in memory already."""
    config = run.config if run.config == record.config else record.config
    return record.model_copy(update={"evals": (), "config": config, "environment": environment})


def is_done(record: RunRecord, run: PlannedRun) -> bool:
    """Return whether a run needs no more work.

    A finished or crashed record settles a run; callers handle retries of crashed runs. A paused or stopped record
    settles it only if the run is planned to pause and has reached the evaluation at which it is ranked.
    """
    if record.status not in RESUMABLE_STATUSES:
        return True
    return run.pause_after is not None and find_ranking_eval(record, run.pause_after) is not None


def group_for_ranking(
    runs: Iterable[RunT], rules: Mapping[str, EarlyStoppingRule]
) -> dict[tuple[str, EarlyStoppingRule], list[RunT]]:
    """Return the runs (or records) grouped by setting and early-stopping rule, i.e. those ranked together."""
    groups: dict[tuple[str, EarlyStoppingRule], list[RunT]] = {}
    for run in runs:
        groups.setdefault((run.config.setting_id(), rules[run.run_id]), []).append(run)
    return groups


def _reread_under_claim(results: Path, run_id: str) -> tuple[RunRecord | None, str | None]:
    """Return what `_read_or_set_aside` does, while holding the claim; (None, None) if another process holds it.

    The claim is needed because another sweep may have set the record aside and re-run the run in the meantime.
    """
    with claim_run(run_folder(results, run_id)) as claimed:
        return _read_or_set_aside(results, run_id) if claimed else (None, None)


def check_fingerprints(
    finished: Iterable[RunRecord],
    runs: Iterable[PlannedRun],
    sources: LocalPaths,
    fingerprint: Callable[[RunConfig, LocalPaths], str] = data_fingerprint,
) -> None:
    """Check that the data on disk matches the data that finished runs were trained on.

    Raises:
        UserError: The fingerprints differ; the message gives both.
    """
    planned = unique_runs(runs)
    fingerprints: dict[str, str] = {}  # cache: the seeds of a data config share one fingerprint
    for record in finished:
        if record.data is None or record.run_id not in planned:
            continue
        config = planned[record.run_id].run_config
        key = canonical_json(config.data.model_dump(mode="json"))
        if key not in fingerprints:
            fingerprints[key] = fingerprint(config, sources)
        if fingerprints[key] != record.data.fingerprint:
            raise UserError(
                f"run {record.run_id} of task {config.data.task!r} is finished, but on other data rows: its record "
                f"says {record.data.fingerprint}, the data here is {fingerprints[key]}; give the data it was trained "
                "on, or another results folder"
            )


def run_under_claim(
    run: PlannedRun,
    results: Path,
    replaces: RunRecord | None,
    train: Callable[[], RunRecord],
    started: Callable[[], None],
) -> RunRecord | None:
    """Train a run under its claim and return its record, or None if another process holds the claim or takes it over.

    If a record that settles the run already exists, it is returned instead. Exceptions other than RunInterrupted and
    UserError are recorded as a crash. `replaces` is the crashed or incomplete record to replace. Any other record is
    newer and is kept.

    Raises:
        RunInterrupted: The run was asked to stop and has written a checkpoint.
        UserError: The user's input is invalid.
        StorageError: The disk is full, read-only or gone.
    """
    try:
        return _run_under_claim(run, results, replaces, train, started)
    except ClaimLostError:  # it is another's now, and this process has written nothing since
        return _find_record_paused_elsewhere(run, results)


def _run_under_claim(
    run: PlannedRun,
    results: Path,
    replaces: RunRecord | None,
    train: Callable[[], RunRecord],
    started: Callable[[], None],
) -> RunRecord | None:
    with _claim_in(results, run.run_id) as claimed:
        if not claimed:
            return _find_record_paused_elsewhere(run, results)
        record = _find_done_record(run, results, replaces)
        if record is not None:
            return record
        # Of an earlier try, whose record may be gone: it must not stay beside the record of this one.
        remove_under_claim(run_folder(results, run.run_id) / CRASH_FILE)
        started()
        started_at = time.monotonic()
        try:
            return train()
        except (RunInterrupted, UserError):
            raise
        except Exception as error:
            if storage_error(error):
                raise
            if not (folder := run_folder(results, run.run_id)).is_dir():
                raise StorageError(f"{folder}: this folder was removed during its run") from error
            # Keep only the first line: CUDA error messages continue with general advice.
            reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
            return _write_crash_record(run, results, reason, traceback.format_exc(), time.monotonic() - started_at)


def record_worker_death(
    run: PlannedRun, results: Path, replaces: RunRecord | None, reason: str, seconds: float
) -> RunRecord | None:
    """Return the record of a run whose worker process died, or None if another process has taken it over.

    The record is a crash unless the run had already finished.

    Raises:
        StorageError: The disk is full, read-only or gone, so there is no record.
    """
    with _claim_in(results, run.run_id) as claimed:
        if not claimed:
            return None
        return _find_done_record(run, results, replaces) or _write_crash_record(
            run, results, reason, f"{reason}\n", seconds
        )


@contextmanager
def _claim_in(results: Path, run_id: str) -> Iterator[bool]:
    """Do what `claim_run` does, but raise a StorageError for what a disk causes, and if the results folder is gone.

    A refusal of the operating system is a UserError under the claim, too: no crash can be recorded then.
    """
    if not results.is_dir():  # the claim would make it again, without the runs that it held
        raise StorageError(f"{results}: this folder was removed during the sweep")
    folder = run_folder(results, run_id)
    with storage_faults(folder), writing_permitted(folder), claim_run(folder) as claimed:
        yield claimed


def _find_done_record(run: PlannedRun, results: Path, replaces: RunRecord | None) -> RunRecord | None:
    """Return the record that settles the run, or None after clearing what is to be retried.

    The caller must hold the claim. A finished record that is to be replaced is kept until the new one is written. The
    checkpoint of the re-run is kept as well. Damaged files beside the record are set aside.
    """
    record, _ = _read_or_set_aside(results, run.run_id)
    folder = run_folder(results, run.run_id)
    if record and record.status == "finished" and replaces and dump_record(record) == dump_record(replaces):
        for name in find_damaged(folder, record.files):
            set_aside(folder / name)
        return None
    if record and record.status == "finished":  # a kill after writing it may have left the checkpoint
        remove_under_claim(folder / CHECKPOINT_FILE)
    if record and not is_done(record, run):  # keep the record until it is replaced: ranking needs it
        return None
    if record is None or replaces is None or dump_record(record) != dump_record(replaces):
        return record
    remove_under_claim(folder / RECORD_FILE)
    return None


def remove_left_checkpoint(results: Path, run_id: str) -> None:
    """Remove the checkpoint of a finished run that a kill or a full disk ended between its record and this removal.

    One newer than the record is left: the run is being trained again.
    """
    folder = run_folder(results, run_id)
    path = folder / CHECKPOINT_FILE
    with contextlib.suppress(OSError, UserError):  # a disk that is read-only keeps it
        if path.exists():
            with claim_run(folder) as claimed:
                if claimed and path.stat().st_mtime_ns <= (folder / RECORD_FILE).stat().st_mtime_ns:
                    remove_under_claim(path)


def _find_record_paused_elsewhere(run: PlannedRun, results: Path) -> RunRecord | None:
    """Return the record of a run claimed by another process if that record settles it, else None.

    This is the case if the run has paused for its ranking and the other process is already resuming it.
    """
    try:
        record = read_record(results, run.run_id)
    except UserError:
        return None
    return record if record and record.status in RESUMABLE_STATUSES and is_done(record, run) else None


def _read_or_set_aside(results: Path, run_id: str) -> tuple[RunRecord | None, str | None]:
    try:
        return read_record(results, run_id), None
    except UnknownSchemaError:
        raise
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
        report=run.report,
        decide=run.decide,
        evals=before.evals if before else (),  # a run that had paused keeps its rank
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
    if before is None or before.status != "finished":  # a crash during a re-run must not replace the finished result
        write_record(results, record)
    return record


SAVED_FOLDERS: dict[Literal["none", "best", "last", "all"], tuple[str, ...]] = {
    "none": (),
    "best": (BEST_FOLDER,),
    "last": (LAST_FOLDER,),
    "all": (BEST_FOLDER, LAST_FOLDER),
}


def find_missing_outputs(results: Path, run: PlannedRun, record: RunRecord, execution: Execution) -> tuple[str, ...]:
    """Return descriptions of requested outputs missing from a finished run's folder: "drift", "last weights", ...

    A diverged run may never have had best weights, so they do not count as missing. Every run writes a history and
    predictions, so these are looked for only under `retrain_incomplete`, where runs with missing outputs are re-run.
    Damaged files count as missing. Weights, which are large, are hashed only under `retrain_incomplete` too, and
    otherwise by what reads them.
    """
    if record.command is not None:  # what it leaves is its own matter
        return ()
    folder = run_folder(results, record.run_id)
    missing = [
        name.replace("_", " ")
        for name in PROBE_NAMES
        if getattr(run.probes, name) and name not in _recorded_probes(folder)
    ]
    small = None if execution.retrain_incomplete else (CONFIG_FILE, HISTORY_FILE, PREDICTIONS_FILE, PROBES_FILE)
    missing += [f"an intact {folder / name}" for name in find_damaged(folder, record.files, small)]
    for name in SAVED_FOLDERS[execution.save]:
        if not (folder / name).is_dir() and not (name == BEST_FOLDER and record.reason):
            missing.append(f"{name.removeprefix('model-')} weights")
    if execution.retrain_incomplete:
        always = (HISTORY_FILE, PREDICTIONS_FILE) if record.files else (PREDICTIONS_FILE,)
        missing += [path.stem for path in map(folder.joinpath, always) if not path.is_file()]
    return tuple(missing)


def with_recorded_probes(results: Path, run: PlannedRun) -> PlannedRun:
    """Return a run with the probes already on record added to those requested.

    Re-running a finished run overwrites its probe records, so they have to be recorded again.
    """
    recorded = _recorded_probes(run_folder(results, run.run_id))
    return replace(
        run, probes=InLoopProbes(**{name: getattr(run.probes, name) or recorded.get(name) for name in PROBE_NAMES})
    )


def with_saved_weights(results: Path, run_ids: Iterable[str], execution: Execution) -> Execution:
    """Return the execution settings with saving extended to weights that already exist for these runs.

    Re-running a run would otherwise delete them.
    """
    folders = [run_folder(results, run_id) for run_id in run_ids]
    existing = {name for name in (BEST_FOLDER, LAST_FOLDER) if any((folder / name).is_dir() for folder in folders)}
    names = existing | {*SAVED_FOLDERS[execution.save]}
    return replace(execution, save=next(save for save, kept in SAVED_FOLDERS.items() if {*kept} == names))


def _recorded_probes(folder: Path) -> dict[str, int]:
    """Return probe name -> recording interval in steps, for the training probes recorded in a run folder.

    What follows damage in the file does not count.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(UserError):
        for record in read_probe_records(folder / PROBES_FILE):
            found[record.probe] = _recording_interval(record)
    return found


def _recording_interval(record: ProbeRecord) -> int:
    """Return the number of steps between two records. The first record is always at step 0 or 1."""
    assert isinstance(record, GradNormsRecord | DriftRecord)
    later = [step for step in record.steps if step > 1]
    return later[0] if later else 1
