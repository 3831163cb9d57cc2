"""Estimate time, memory and disk of a sweep from short timed trials; nothing is kept."""

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

TIMED_STEPS = 4  # timed, after one that is not
HISTORY_LINE_BYTES = 90  # bytes a training step leaves
FIXED_BYTES_PER_RUN = 8_000  # of config, record and evaluations


@dataclass(frozen=True)
class RunCost:
    """The cost of one run of an arm on a task: seconds on the device, bytes of memory and of files."""

    steps: int
    seconds: float
    memory: int
    kept: int  # bytes that stay
    checkpoint: int  # bytes while it is under way


@dataclass(frozen=True)
class ArmEstimate:
    """An arm on a task: how many runs, how many of them left, and what one costs (None: nothing is left).

    `paused` of them wait at a checkpoint at the same time, until those that look hopeless are stopped; `saved` is the
    share of the work that is not done then.
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
    """The cost of what is left of a sweep; `at_once` runs at a time. `damaged`: records that will be done again."""

    lines: tuple[ArmEstimate, ...]
    damaged: tuple[str, ...]
    device: str
    at_once: int
    first: tuple[str, ...] = ()  # which runs are trained first as others start from them, and which cannot be


def estimate_sweep(
    sweep: Sweep, results: Path, execution: Execution, at_once: int, retry_crashed: bool = False
) -> SweepEstimate:
    """Returns what the runs of a sweep that are not done would cost; one run at a time is measured.

    Raises:
        UserError: data, model or config cannot be used.
    """
    state = read_sweep_state(results, (*sweep.runs, *sweep.parents), look_only=True)
    planned = unique_runs((*sweep.runs, *sweep.parents))
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
        key = (_cost_key(runs[0].config), runs[0].arm == START_ARM)  # the weights of these are kept
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
    """Returns the ids of runs that end as hopeless, and of all whose rank is known.

    As when the sweep runs: a rank is known when all runs of a setting have come to the trial of the present rule.
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
    """Returns the estimate as a table and a sentence."""
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
    """Returns what decides a run's cost: all but seeds and learning rate."""
    values = config.model_dump(mode="json", exclude={"seeds": True, "optimizer": {"lr"}})
    return canonical_json(values)


def _measure_cost(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> RunCost:
    config = run.config.model_copy(update={"start_from": None})  # it costs the same, and may not be there yet
    job, state = prepare_run(replace(run, config=config), results, sweep.sources, execution)
    if run.arm == START_ARM and execution.save == "none":
        execution = replace(execution, save="last")
    step_seconds = _measure_step_seconds(job, state)
    row_seconds = _measure_row_seconds(job, state)
    test = len(job.splits.test) if job.splits.test else 0
    # Test rows are run through once for every new best; at most at each evaluation, and once at the end.
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
    """Returns the time of an update, the first one left out."""
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
    """Returns the time that evaluation takes for a row, from about two batches spread over the validation rows."""
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
