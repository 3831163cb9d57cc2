"""Run a sweep in order: start runs, early-stopping trials, then the rest."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig, StartFrom
from stableft.config.sweep_file import Sweep
from stableft.config.sweep_keys import EarlyStoppingRule, describe_early_stopping_rule
from stableft.data.splits import data_fingerprint
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.failure import has_failed
from stableft.records.run_record import (
    BEST_FOLDER,
    CHECKPOINT_FILE,
    LAST_FOLDER,
    RECORD_FILE,
    EarlyStopRecord,
    RunRecord,
    read_record,
    run_folder,
    write_record,
)
from stableft.sweep.claims import claim_run
from stableft.sweep.early_stopping import as_stopped_early, select_runs_to_stop
from stableft.sweep.executor import Executor
from stableft.sweep.progress import Notice, ShowEvent, show_nothing
from stableft.sweep.start_runs import describe_start_run, find_unusable_starts, start_runs_to_train
from stableft.sweep.state import (
    RESUMABLE_STATUSES,
    SweepResult,
    SweepState,
    group_for_ranking,
    read_sweep_state,
    unique_runs,
)
from stableft.sweep.wanted_seeds import make_wanted_seeds
from stableft.sweep.worker_process import TrainFunction
from stableft.sweep.workers import ChooseRuns, run_with_workers

CLAIM_WAIT_SECONDS = 2.0  # time for another process to release a run that it has just paused or stopped


def run_planned_sweep(
    sweep: Sweep,
    results: Path,
    executor: Executor[Any],
    execution: Execution,
    retry_crashed: bool = False,
    fail_fast: bool = False,
    display: ShowEvent = show_nothing,
    train: TrainFunction | None = None,
    fingerprint: Callable[[RunConfig, LocalPaths], str] = data_fingerprint,
    leave_after: float | None = None,
) -> SweepResult:
    """Do all remaining runs of a sweep and return the outcome, with the arguments of `run_with_workers`.

    Runs that others wait for, to start from them, to be ranked or for a claim, are not left to other processes.
    """
    before = read_sweep_state(results, (*sweep.runs, *sweep.start_runs), look_only=True, brief=True)
    old_crashes = {record.run_id for record in before.crashed}
    seen: dict[str, RunRecord] = {}

    def run_stage(
        runs: Iterable[PlannedRun],
        execution: Execution = execution,
        leave_after: float | None = None,
        wanted: ChooseRuns | None = None,
    ) -> tuple[SweepResult, bool]:
        """Run these runs. Return the outcome, and whether the sweep must end here."""
        options = (retry_crashed, fail_fast, display, train, fingerprint)
        where = (list(runs), results, sweep.sources, executor, execution)
        more = {"known": before, "leave_after": leave_after, "seen": seen, "wanted": wanted}
        outcome = run_with_workers(*where, *options, **more)
        new = set(outcome.crashed) - (set() if retry_crashed else old_crashes)
        return outcome, bool(outcome.interrupted or outcome.unfinished or (fail_fast and new))

    runs = list(unique_runs(sweep.runs).values())
    stopped_early: dict[str, EarlyStopRecord] = {}
    outcome, ended, crashed = None, False, set()
    if parents := start_runs_to_train(sweep, results, retry_crashed):
        for parent in parents:
            display(Notice(f"{describe_start_run(parent, sweep.runs)}, is trained first"))
        outcome, ended = run_stage(parents, _with_start_weights_saved(execution, sweep.runs, parents))
        crashed = set(outcome.crashed)  # may include the sweep's own runs; do not retry them in the same sweep
    unusable = _report_start_runs(parents, sweep, results, display) if sweep.start_runs else {}
    runs = [run for run in runs if run.config.start_from not in unusable and run.run_id not in crashed]
    trials = [replace(run, pause_after=sweep.rules[run.run_id].after) for run in runs if run.run_id in sweep.rules]
    while trials and not ended:
        outcome, ended = run_stage(trials, replace(execution, retrain_incomplete=False))
        records = [read_record(results, run.run_id) for run in trials]
        if not ended and all(records):  # a record is missing if another process is about to re-run its run
            stopped_early = _stop_lowest_runs([record for record in records if record], sweep.rules, results, display)
            crashed = set(outcome.crashed) if retry_crashed else set()
            break
    rest = [run for run in runs if run.run_id not in stopped_early.keys() | crashed]
    claims = None
    if sweep.decide:
        claims = make_wanted_seeds(sweep.decide, sweep.runs, results, display, old_crashes if retry_crashed else set())
    if rest and not ended:
        if claims:
            rest = [run for run in rest if run.run_id not in claims.passed]
        # A look needs the runs that others hold, so a sweep with a rule waits for them.
        outcome, _ = run_stage(rest, leave_after=None if claims else leave_after, wanted=claims)
    failed = tuple(record for record in seen.values() if has_failed(record))
    known = replace(before, finished=(*before.finished, *seen.values()), failed=before.failed + failed)
    retrained = execution.retrain_incomplete
    unneeded = claims.unneeded if claims else set()
    summary = _summarize_sweep(sweep, results, before, known, stopped_early, unusable, outcome, retrained, unneeded)
    passed = claims.find_passed({*summary.crashed}) if claims and summary.crashed else set()
    return replace(summary, not_retried=tuple(run_id for run_id in summary.crashed if run_id in passed))


def _with_start_weights_saved(
    execution: Execution, runs: Iterable[PlannedRun], parents: Iterable[PlannedRun]
) -> Execution:
    """Return the execution settings that also save the weights from which other runs are initialized."""
    ids = {parent.run_id for parent in parents}
    starts = [run.config.start_from for run in runs if run.config.start_from]
    checkpoints = {start.checkpoint for start in starts if start.run in ids} | ({execution.save} - {"none"})
    return replace(execution, save=checkpoints.pop() if len(checkpoints) == 1 else "all")


def _report_start_runs(
    trained: Iterable[PlannedRun], sweep: Sweep, results: Path, display: ShowEvent
) -> dict[StartFrom, str]:
    """Return start weights that are unavailable -> the reason.

    Reports these to the display, as well as start runs that were just trained and failed.
    """
    start_runs_to_train(sweep, results)  # raises if another process finished one without saving its weights
    unusable = find_unusable_starts(sweep, results)
    for message in dict.fromkeys(unusable.values()):
        display(Notice(message))
    for parent in trained:
        record = read_record(results, parent.run_id)
        if record and has_failed(record) and parent.run_id not in {start.run for start in unusable}:
            display(Notice(f"{describe_start_run(parent, sweep.runs)}, failed; they start from it nevertheless"))
    return unusable


def _stop_lowest_runs(
    records: Iterable[RunRecord], rules: Mapping[str, EarlyStoppingRule], results: Path, display: ShowEvent
) -> dict[str, EarlyStopRecord]:
    """Early-stop the lowest-ranked runs, update their records and return run id -> rank."""
    stopped_early: dict[str, EarlyStopRecord] = {}
    for (_, rule), group in group_for_ranking(records, rules).items():
        lowest = select_runs_to_stop(group, rule)
        to_stop = [record for record in group if record.run_id in lowest and record.status in RESUMABLE_STATUSES]
        for record in to_stop:
            _stop_paused_run(as_stopped_early(record, lowest[record.run_id]), results)
            stopped_early[record.run_id] = lowest[record.run_id]
        if to_stop:
            display(
                Notice(
                    f"{to_stop[0].arm} {to_stop[0].config.data.task}: {len(to_stop)} of {len(group)} runs are stopped "
                    f"as hopeless, {describe_early_stopping_rule(rule.after, rule.lowest)}"
                )
            )
    return stopped_early


def _stop_paused_run(record: RunRecord, results: Path) -> None:
    """Write the record of an early-stopped run and delete its checkpoint and weights."""
    folder, deadline = run_folder(results, record.run_id), time.monotonic() + CLAIM_WAIT_SECONDS
    while time.monotonic() < deadline:
        with claim_run(folder) as claimed:
            current = read_record(results, record.run_id) if claimed else None
            if current and current.status in RESUMABLE_STATUSES:
                write_record(results, record)
                for name in (CHECKPOINT_FILE, BEST_FOLDER, LAST_FOLDER):
                    remove_under_claim(folder / name)
        if claimed:
            return
        time.sleep(0.05)


def _summarize_sweep(
    sweep: Sweep,
    results: Path,
    before: SweepState,
    known: SweepState,
    stopped_early: Mapping[str, EarlyStopRecord],
    unusable: Mapping[StartFrom, str],
    outcome: SweepResult | None,
    retrained: bool,
    unneeded: Collection[str],
) -> SweepResult:
    """Return the outcome of a sweep. `outcome` is that of its last stage."""
    runs = unique_runs(sweep.runs)
    finished_before = {record.run_id for record in before.finished}
    elsewhere = {*outcome.elsewhere} if outcome else set()
    by_others = _find_settled(elsewhere, runs, results, before)
    elsewhere -= by_others
    # Of new records of others it is enough that they exist: each of many pilots would otherwise read those of all.
    known_before = {record.run_id for record in (*before.finished, *before.crashed, *before.resumable)}
    by_others -= known_before
    own = [run for run_id, run in runs.items() if run_id not in elsewhere | by_others]
    state = read_sweep_state(results, own, look_only=True, brief=True, known=None if retrained else known)
    finished = [record.run_id for record in state.finished]
    crashed = [record.run_id for record in state.crashed]
    settled = {*finished, *crashed, *stopped_early}
    saved = [run_id for run_id in runs if run_id not in settled and run_id in unneeded]
    settled |= set(saved)
    unfinished = [run_id for run_id in runs if run_id not in settled | by_others]
    others = [parent for parent in sweep.start_runs if parent.run_id in {start.run for start in unusable} - runs.keys()]
    return SweepResult(
        finished=tuple(run_id for run_id in finished if run_id not in finished_before),
        failed=tuple(record.run_id for record in state.failed),
        crashed=tuple(crashed),
        finished_before=tuple(run_id for run_id in finished if run_id in finished_before),
        unfinished=tuple(unfinished),
        resumable=tuple(
            run.run_id
            for run in own
            if run.run_id not in settled and (run_folder(results, run.run_id) / CHECKPOINT_FILE).exists()
        ),
        interrupted=outcome is not None and outcome.interrupted,
        stopped_early=tuple(run_id for run_id in stopped_early if run_id not in finished),
        elsewhere=tuple(run_id for run_id in unfinished if run_id in elsewhere),
        saved=tuple(saved),
        blocked=tuple(run_id for run_id in unfinished if runs[run_id].config.start_from in unusable),
        crashed_start_runs=tuple(record.run_id for record in read_sweep_state(results, others, look_only=True).crashed),
        by_others=tuple(run_id for run_id in runs if run_id in by_others),
    )


def _find_settled(
    elsewhere: Collection[str], runs: Mapping[str, PlannedRun], results: Path, before: SweepState
) -> set[str]:
    """Return those of the runs left to other processes that these have settled meanwhile.

    A record that was not there before says so. If there was one, it is read again: the run was resumed or retried, or,
    if it had finished, is trained again for outputs that it lacks, of which nothing is known here.
    """
    finished = {record.run_id for record in before.finished}
    crashed = {record.run_id for record in before.crashed}
    had_record = finished | crashed | {record.run_id for record in before.resumable}
    reread = [runs[run_id] for run_id in elsewhere if run_id in had_record - finished]
    now = read_sweep_state(results, reread, look_only=True, brief=True)
    settled = {record.run_id for record in (*now.finished, *now.crashed)} - crashed
    settled |= {record.run_id for record in now.finished}
    new = (run_id for run_id in elsewhere if run_id not in had_record)
    return settled.union(run_id for run_id in new if (run_folder(results, run_id) / RECORD_FILE).exists())
