"""Estimate a sweep's time, memory and disk use from short timed trials. Nothing is saved."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stableft.config.planned_run import Execution, PlannedRun
from stableft.config.run_config import RunConfig, canonical_json
from stableft.config.sweep_file import START_ARM, Sweep
from stableft.data.tokens import LabeledRows
from stableft.records.run_record import RunRecord
from stableft.sweep.early_stopping import select_runs_to_stop
from stableft.sweep.start_runs import describe_start_run, find_unusable_starts, start_runs_to_train
from stableft.sweep.state import (
    RESUMABLE_STATUSES,
    find_missing_outputs,
    group_for_ranking,
    is_done,
    read_sweep_state,
    unique_runs,
)
from stableft.text import TextRow, align_columns, format_duration
from stableft.training.environment import device_name, peak_memory
from stableft.training.evaluate import evaluate
from stableft.training.setup import RunSetup, batch_indices, prepare_run
from stableft.training.step import TrainState, learning_rate, train_on_batch

TIMED_STEPS = 4  # after one untimed warm-up step
HISTORY_LINE_BYTES = 90  # training history on disk per step
FIXED_BYTES_PER_RUN = 8_000  # config, record and evaluations


@dataclass(frozen=True)
class RunCost:
    """Cost of one run of an arm on a task: device seconds, bytes of memory and bytes on disk."""

    steps: int
    seconds: float
    memory: int
    kept: int  # bytes on disk after the run
    checkpoint: int  # bytes on disk during the run


@dataclass(frozen=True)
class ArmEstimate:
    """Runs of an arm on a task, how many are left, and the cost of one (None: nothing is left).

    `paused` runs wait at a checkpoint at the same time until the lowest-ranked are early-stopped. `saved` is the share
    of the work that early stopping saves.
    """

    arm: str
    task: str
    runs: int
    left: int
    cost: RunCost | None
    paused: int = 0
    saved: float = 0.0


@dataclass(frozen=True)
class SweepEstimate:
    """Cost of the rest of a sweep with `at_once` parallel runs. `damaged` lists records whose runs will be re-run."""

    lines: tuple[ArmEstimate, ...]
    damaged: tuple[str, ...]
    device: str
    at_once: int
    first: tuple[str, ...] = ()  # sentences on start runs: those trained first and those that are unavailable


def estimate_sweep(
    sweep: Sweep, results: Path, execution: Execution, at_once: int, retry_crashed: bool = False
) -> SweepEstimate:
    """Return the estimated cost of a sweep's unfinished runs. Each trial is timed alone on the device."""
    state = read_sweep_state(results, (*sweep.runs, *sweep.start_runs), look_only=True)
    planned = unique_runs((*sweep.runs, *sweep.start_runs))
    done = [
        record
        for record in state.finished
        if not (execution.complete and find_missing_outputs(results, planned[record.run_id], record, execution))
    ]
    over = (*done, *(() if retry_crashed else state.crashed))
    first, lost = (
        start_runs_to_train(sweep, results, retry_crashed),
        find_unusable_starts(sweep, results, retry_crashed),
    )
    held = {run.run_id for run in sweep.runs if run.config.start_from in lost}
    ends, ranked = _known_early_stops(sweep, {record.run_id: record for record in (*over, *state.waiting)}, held)
    counted = {record.run_id for record in over} | held | ends
    costs: dict[tuple[str, bool], RunCost] = {}
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in (*first, *sweep.runs):
        arm = f"{START_ARM} {run.run_id}" if run.arm == START_ARM else run.arm
        groups.setdefault((arm, run.config.data.task), []).append(run)
    lines = []
    for (arm, task), runs in groups.items():
        left = unique_runs(run for run in runs if run.run_id not in counted)
        counted |= left.keys()
        key = (_cost_key(runs[0].config), runs[0].arm == START_ARM)  # start runs also save their weights
        if left and key not in costs:
            costs[key] = _measure_cost(runs[0], results, sweep, execution)
        ruled = [
            sweep.rules[run_id] for run_id in left.keys() & sweep.rules.keys() - ranked if runs[0].arm != START_ARM
        ]
        saved = sum(rule.lowest * (1 - rule.after) for rule in ruled) / max(1, len(left))
        lines.append(ArmEstimate(arm, task, len(runs), len(left), costs[key] if left else None, len(ruled), saved))
    words = [f"{describe_start_run(parent, sweep.runs)}, is trained first" for parent in first]
    told = tuple(dict.fromkeys((*words, *lost.values())))
    return SweepEstimate(tuple(lines), state.damaged, device_name(torch.device(execution.device)), at_once, told)


def _known_early_stops(sweep: Sweep, records: Mapping[str, RunRecord], held: set[str]) -> tuple[set[str], set[str]]:
    """Return the ids of runs known to be early-stopped, and of all runs whose rank is known.

    As in the sweep itself, ranks are known once all runs of a setting have reached the trial of the current rule.
    """
    ends, ranked = set(), set()
    runs = [run for run in unique_runs(sweep.runs).values() if run.run_id in sweep.rules.keys() - held]
    for (_, rule), group in group_for_ranking(runs, sweep.rules).items():
        there = {run.run_id: records[run.run_id] for run in group if run.run_id in records}
        if all(r.run_id in there and is_done(there[r.run_id], replace(r, pause_after=rule.after)) for r in group):
            ends |= {
                run_id
                for run_id in select_runs_to_stop(there.values(), rule)
                if there[run_id].status in RESUMABLE_STATUSES
            }
            ranked |= there.keys()
    return ends, ranked


def render_estimate(estimated: SweepEstimate) -> str:
    """Return the estimate as a table followed by a summary."""
    rows: list[TextRow] = [("arm", "task", "runs", "left", "steps a run", "time a run", "peak memory")]
    for line in estimated.lines:
        cost = line.cost
        measured = (cost.steps, format_duration(cost.seconds), _format_bytes(cost.memory)) if cost else ("", "", "")
        rows.append((line.arm, line.task, line.runs, line.left, *measured))
    left = sum(line.left for line in estimated.lines)
    seconds = sum(line.left * line.cost.seconds for line in estimated.lines if line.cost)
    kept = sum(line.left * line.cost.kept for line in estimated.lines if line.cost)
    at_once = max(1, min(estimated.at_once, left))
    paused = sum(line.paused for line in estimated.lines)
    waiting = sum(line.paused * line.cost.checkpoint for line in estimated.lines if line.cost)
    saved = sum(line.left * line.cost.seconds * line.saved for line in estimated.lines if line.cost)
    rule = (
        f"of these, stop_hopeless saves up to {saved / 3600:.2f} device-hours; the checkpoints of {paused} runs that "
        f"pause for it take {_format_bytes(waiting)} until those that look hopeless are stopped"
    )
    under_way = at_once * max((line.cost.checkpoint for line in estimated.lines if line.cost), default=0)
    total = (
        f"{left} runs left: {seconds / 3600:.2f} device-hours on {estimated.device} (one run measured alone), "
        f"{format_duration(seconds / at_once)} with {at_once} at a time; "
        f"{_format_bytes(kept)} of files, and up to {_format_bytes(under_way)} of checkpoints on the way"
    )
    damaged = [f"{sentence}; its run will be done again" for sentence in estimated.damaged]
    return "\n".join([align_columns(rows), *estimated.first, *damaged, total, *([rule] if paused else [])])


def _cost_key(config: RunConfig) -> str:
    """Return a key of everything that determines a run's cost, i.e. the config without seeds and learning rate."""
    values = config.model_dump(mode="json", exclude={"seeds": True, "optimizer": {"lr"}})
    return canonical_json(values)


def _measure_cost(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> RunCost:
    config = run.config.model_copy(update={"start_from": None})  # costs the same; the start weights may not exist yet
    job, state = prepare_run(replace(run, config=config), results, sweep.sources, execution)
    if run.arm == START_ARM and execution.save == "none":
        execution = replace(execution, save="last")
    step_seconds = _measure_step_seconds(job, state)
    row_seconds = _measure_row_seconds(job, state)
    test = len(job.splits.test) if job.splits.test else 0
    # The test rows are evaluated at every new best, i.e. at most at each evaluation, and once at the end.
    evaluated = len(job.evaluate_at) * (len(job.splits.val) + test) + test
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    outputs = 8 * (len(job.splits.val) + test) * job.config.task.n_outputs
    models = {"none": 0, "best": 1, "last": 1, "all": 2}[execution.save] * weights
    return RunCost(
        steps=job.total,
        seconds=job.total * step_seconds + evaluated * row_seconds,
        memory=peak_memory(job.device),
        kept=FIXED_BYTES_PER_RUN + HISTORY_LINE_BYTES * job.total + outputs + models,
        checkpoint=3 * weights,
    )


def _measure_step_seconds(job: RunSetup, state: TrainState) -> float:
    """Return the mean seconds of one update, excluding the first (warm-up)."""
    start = time.perf_counter()
    for i in range(TIMED_STEPS + 1):
        if i == 1:
            _synchronize(job.device)
            start = time.perf_counter()
        lr = learning_rate(job.config, i, job.total)
        train_on_batch(
            state, job.splits.train, batch_indices(job, i % job.total), job.config, lr, job.inputs, job.device
        )
    _synchronize(job.device)
    return (time.perf_counter() - start) / TIMED_STEPS


def _measure_row_seconds(job: RunSetup, state: TrainState) -> float:
    """Return the seconds to evaluate one row, measured on about two batches spread over the validation rows."""
    val = job.splits.val
    chosen = np.linspace(0, len(val) - 1, min(len(val), 2 * job.config.evaluation.batch_size)).astype(np.int64)
    lengths = np.diff(val.offsets)[chosen]
    tokens = np.concatenate([np.arange(int(val.offsets[i]), int(val.offsets[i + 1])) for i in chosen])
    rows = LabeledRows(
        val.input_ids[tokens],
        val.segment_ids[tokens],
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        val.labels[chosen],
        val.index[chosen],
    )
    start = time.perf_counter()
    evaluate(state.model, rows, job.config, job.inputs, job.device)
    return (time.perf_counter() - start) / len(rows)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _format_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
