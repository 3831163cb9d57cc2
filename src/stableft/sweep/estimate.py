"""Estimate a sweep's time, memory and disk use from short timed trials. Nothing is saved."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import Execution, PlannedRun
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import Sweep
from stableft.data.tokens import LabeledRows
from stableft.records.energy import METERS, describe_share, format_energy, format_money
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
from stableft.sweep.wanted_seeds import find_unneeded
from stableft.text import TextRow, align_columns, format_bytes, format_duration
from stableft.training.energy import EnergyMeter
from stableft.training.environment import device_name, peak_memory
from stableft.training.evaluate import evaluate
from stableft.training.setup import RunSetup, batch_indices, prepare_run, torch_settings_restored
from stableft.training.step import TrainState, learning_rate, train_on_batch

TIMED_STEPS = 4
SEARCHED_BATCHES = 10_000  # for the longest batch, in a few tenths of a second
HISTORY_LINE_BYTES = 90  # training history on disk per step
FIXED_BYTES_PER_RUN = 8_000  # config, record and evaluations


@dataclass(frozen=True)
class RunCost:
    """Cost of one run of an arm on a task: device seconds, memory and disk space. Of a command, the first alone."""

    steps: int
    seconds: float
    memory_bytes: int
    disk_bytes: int  # after the run
    checkpoint_bytes: int  # during the run
    watts: float | None = None  # while its steps were timed; None: could not be read
    meters: tuple[str, ...] = ()  # what the watts are of, by the names of `METERS`


@dataclass(frozen=True)
class ArmEstimate:
    """Runs of an arm on a task, how many are unfinished, and the cost of one (None: unknown, or all are finished).

    `shared` runs are unfinished too, and counted in an arm above. `paused` runs wait at a checkpoint at the same time
    until the lowest-ranked are early-stopped. `saved_share` is the share of the work that early stopping saves.
    """

    arm: str
    task: str
    runs: int
    unfinished: int
    cost: RunCost | None
    paused: int = 0
    saved_share: float = 0.0
    shared: int = 0


@dataclass(frozen=True)
class SweepEstimate:
    """Cost of the rest of a sweep with `parallel_runs`. `damaged` lists records whose runs will be re-run."""

    arms: tuple[ArmEstimate, ...]
    damaged: tuple[str, ...]
    device: str
    parallel_runs: int
    price: float | None = None  # of an hour of a device
    start_run_notes: tuple[str, ...] = ()  # on start runs: those trained first and those that are unavailable
    is_most: bool = False  # a rule may need fewer runs


@torch_settings_restored()
def estimate_sweep(
    sweep: Sweep,
    results: Path,
    execution: Execution,
    parallel_runs: int,
    retry_crashed: bool = False,
    show: Callable[[str], None] = lambda line: None,
) -> SweepEstimate:
    """Return the estimated cost of a sweep's unfinished runs. Each trial is timed alone on the device.

    `show` is told what is measured, before it is.
    """
    state = read_sweep_state(results, (*sweep.runs, *sweep.start_runs), look_only=True)
    planned = unique_runs((*sweep.runs, *sweep.start_runs))
    done = [
        record
        for record in state.finished
        if not (
            execution.retrain_incomplete and find_missing_outputs(results, planned[record.run_id], record, execution)
        )
    ]
    settled = (*done, *(() if retry_crashed else state.crashed))
    trained_first = start_runs_to_train(sweep, results, retry_crashed)
    unusable = find_unusable_starts(sweep, results, retry_crashed)
    blocked = {run.run_id for run in sweep.runs if run.config.start_from in unusable}
    ends, ranked = _known_early_stops(
        sweep, {record.run_id: record for record in (*settled, *state.resumable)}, blocked
    )
    retried = {record.run_id for record in state.crashed} if retry_crashed else set()
    counted = {record.run_id for record in settled} | blocked | ends | find_unneeded(sweep, results, retried)
    costs: dict[tuple[str, bool], RunCost] = {}
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in (*trained_first, *sweep.runs):
        arm = f"{START_ARM} {run.run_id}" if run.arm == START_ARM else run.arm
        groups.setdefault((arm, run.config.data.task), []).append(run)
    arms, planned_above, command_notes = [], set[str](), list[str]()
    for (arm, task), runs in groups.items():
        unfinished = unique_runs(run for run in runs if run.run_id not in counted)
        shared = len(unique_runs(run for run in runs if run.run_id in planned_above))
        planned_above |= unfinished.keys()
        counted |= unfinished.keys()
        # The learning rate costs nothing; start runs also save their weights.
        key = (runs[0].config.setting_id(ignored=("optimizer.lr",)), runs[0].arm == START_ARM)
        if isinstance(runs[0].config, CommandConfig):
            cost, note = _command_cost(runs[0], state.finished)
            command_notes += [note] if unfinished else []
            arms.append(ArmEstimate(arm, task, len(runs), len(unfinished), cost if unfinished else None, shared=shared))
            continue
        if unfinished and key not in costs:
            show(f"measuring {arm} on {task} ...")
            costs[key] = _measure_cost(runs[0], results, sweep, execution)
        ruled = [
            sweep.rules[run_id]
            for run_id in unfinished.keys() & sweep.rules.keys() - ranked
            if runs[0].arm != START_ARM
        ]
        saved_share = sum(rule.lowest * (1 - rule.after) for rule in ruled) / max(1, len(unfinished))
        cost = costs.get(key) if unfinished or shared else None
        arms.append(ArmEstimate(arm, task, len(runs), len(unfinished), cost, len(ruled), saved_share, shared))
    messages = [f"{describe_start_run(run, sweep.runs)}, is trained first" for run in trained_first]
    notes = tuple(dict.fromkeys((*messages, *unusable.values(), *command_notes)))
    device = device_name(torch.device(execution.device))
    return SweepEstimate(tuple(arms), state.damaged, device, parallel_runs, execution.price, notes, bool(sweep.decide))


def _command_cost(run: PlannedRun, finished: Sequence[RunRecord]) -> tuple[RunCost | None, str]:
    """Return the mean time of a command's finished runs (None: there are none), and a sentence on that."""
    setting = run.config.setting_id()
    seconds = [record.seconds for record in finished if record.command and record.config.setting_id() == setting]
    if not seconds:
        return None, f"{run.arm} is a command of which no run has finished: its time is not known and in no sum"
    mean = sum(seconds) / len(seconds)
    return RunCost(0, mean, 0, 0, 0), f"{run.arm} is a command: its time is the mean of {len(seconds)} finished runs"


def _known_early_stops(sweep: Sweep, records: Mapping[str, RunRecord], blocked: set[str]) -> tuple[set[str], set[str]]:
    """Return the ids of runs known to be early-stopped, and of all runs whose rank is known.

    As in the sweep itself, ranks are known once all runs of a setting have reached the trial of the current rule.
    """
    ends, ranked = set(), set()
    runs = [run for run in unique_runs(sweep.runs).values() if run.run_id in sweep.rules.keys() - blocked]
    for (_, rule), group in group_for_ranking(runs, sweep.rules).items():
        available = {run.run_id: records[run.run_id] for run in group if run.run_id in records}
        if all(
            r.run_id in available and is_done(available[r.run_id], replace(r, pause_after=rule.after)) for r in group
        ):
            ends |= {
                run_id
                for run_id in select_runs_to_stop(available.values(), rule)
                if available[run_id].status in RESUMABLE_STATUSES
            }
            ranked |= available.keys()
    return ends, ranked


def render_estimate(estimate: SweepEstimate) -> str:
    """Return the estimate as a table followed by a summary."""
    rows: list[TextRow] = [("arm", "task", "runs", "left", "steps a run", "time a run", "peak memory")]
    for arm in estimate.arms:
        cost = arm.cost
        measured = (
            (
                cost.steps or "-",
                format_duration(cost.seconds),
                format_bytes(cost.memory_bytes) if cost.memory_bytes else "-",
            )
            if cost
            else ("-", "-", "-")
        )
        left = f"{arm.unfinished}, {arm.shared} as above" if arm.shared else arm.unfinished
        rows.append((arm.arm, arm.task, arm.runs, left, *measured))
    costs = [(arm, arm.cost) for arm in estimate.arms if arm.cost]
    unfinished = sum(arm.unfinished for arm in estimate.arms)
    seconds = sum(arm.unfinished * cost.seconds for arm, cost in costs)
    disk = sum(arm.unfinished * cost.disk_bytes for arm, cost in costs)
    parallel = max(1, min(estimate.parallel_runs, unfinished))
    paused = sum(arm.paused for arm in estimate.arms)
    paused_disk = sum(arm.paused * cost.checkpoint_bytes for arm, cost in costs)
    saved = sum(arm.unfinished * cost.seconds * arm.saved_share for arm, cost in costs)
    rule = (
        f"of these, stop_hopeless saves up to {_format_device_time(saved)}; the checkpoints of {paused} runs that "
        f"pause for it take {format_bytes(paused_disk)} until those that look hopeless are stopped"
    )
    checkpoints = parallel * max((cost.checkpoint_bytes for _, cost in costs), default=0)
    most = "at most " if estimate.is_most and unfinished else ""
    total = f"{most}{unfinished} runs left"
    if costs or not unfinished:
        total += (
            f": {_format_device_time(seconds)} on {estimate.device} (one run measured alone), "
            f"{format_duration(seconds / parallel)} with {parallel} at a time"
        )
    if any(cost.steps for _, cost in costs) or not unfinished:  # what commands leave is not known
        total += f"; {format_bytes(disk)} of files, and up to {format_bytes(checkpoints)} of checkpoints on the way"
    metered = [(arm.unfinished, cost.seconds * cost.watts) for arm, cost in costs if cost.watts is not None]
    if metered:
        joules, runs = sum(runs * joules for runs, joules in metered), sum(runs for runs, _ in metered)
        meters = " and ".join(dict.fromkeys(METERS[name] for _, cost in costs for name in cost.meters))
        total += f"; {format_energy(joules)} of {meters} at the power measured{describe_share(runs, unfinished)}"
    if estimate.price is not None:
        priced = sum(
            arm.unfinished * cost.seconds for arm, cost in costs if cost.steps
        )  # as their records will have it
        total += f"; {format_money(estimate.price * priced / 3600)} at {estimate.price:g} an hour of a device"
        total += ", which leaves commands out" if priced < seconds else ""
    damaged = [f"{message}; its run will be done again" for message in estimate.damaged]
    return "\n".join([align_columns(rows), *estimate.start_run_notes, *damaged, total, *([rule] if paused else [])])


def _format_device_time(seconds: float) -> str:
    """Return the time of a device in hours, or in minutes and seconds if it is short."""
    return f"{seconds / 3600:.2f} device-hours" if seconds >= 360 else f"{format_duration(seconds)} of device time"


def _measure_cost(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> RunCost:
    config = run.run_config.model_copy(
        update={"start_from": None}
    )  # costs the same; the start weights may not exist yet
    setup, state = prepare_run(replace(run, config=config), results, sweep.sources, execution)
    if run.arm == START_ARM and execution.save == "none":
        execution = replace(execution, save="last")
    used: dict[str, float] = {}
    with closing(EnergyMeter(setup.device)) as meter:
        step_seconds = _measure_step_seconds(setup, state)
        row_seconds = _measure_row_seconds(setup, state)
        meter.add_to(used, at_once=True)
    meters = tuple(name for name in METERS if name in used)
    test = len(setup.splits.test) if setup.splits.test else 0
    # The test rows are evaluated at every new best, i.e. at most at each evaluation, and once at the end.
    evaluated = len(setup.evaluate_at) * (len(setup.splits.val) + test) + test
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    outputs = 8 * (len(setup.splits.val) + test) * setup.config.task.n_outputs
    models = {"none": 0, "best": 1, "last": 1, "all": 2}[execution.save] * weights
    return RunCost(
        steps=setup.total,
        seconds=setup.total * step_seconds + evaluated * row_seconds,
        memory_bytes=peak_memory(setup.device),
        disk_bytes=FIXED_BYTES_PER_RUN + HISTORY_LINE_BYTES * setup.total + outputs + models,
        checkpoint_bytes=3 * weights,
        watts=sum(used[name] for name in meters) / used["device_seconds"] if meters else None,
        meters=meters,
    )


def _measure_step_seconds(setup: RunSetup, state: TrainState) -> float:
    """Return the mean seconds of one update, without warm-up.

    The warm-up includes the longest batch: the peak of memory is that of a run, and if memory runs out, it does so now.
    """
    longest, timed = _longest_batch(setup), [batch_indices(setup, i % setup.total) for i in range(TIMED_STEPS)]
    # CUDA graphs run a shape of batch once, record it, and replay it from then on.
    warm_up = [longest, longest, *timed, *timed] if state.graphs else [longest, timed[0]]
    start = time.perf_counter()
    for number, rows in enumerate((*warm_up, *timed)):
        if number == len(warm_up):
            _synchronize(setup.device)
            start = time.perf_counter()
        lr = learning_rate(setup.config, number % setup.total, setup.total)
        train_on_batch(state, setup.splits.train, rows, setup.config, lr, setup.inputs, setup.device)
    _synchronize(setup.device)
    return (time.perf_counter() - start) / TIMED_STEPS


def _longest_batch(setup: RunSetup) -> np.ndarray:
    """Return the training rows of the batch that needs the most memory, of up to `SEARCHED_BATCHES` of the run."""
    lengths = np.diff(setup.splits.train.offsets)
    batches = (batch_indices(setup, step) for step in range(min(setup.total, SEARCHED_BATCHES)))
    if setup.inputs.packing:
        return max(batches, key=lambda rows: lengths[rows].sum())
    return max(batches, key=lambda rows: len(rows) * lengths[rows].max())


def _measure_row_seconds(setup: RunSetup, state: TrainState) -> float:
    """Return the seconds to evaluate one row, measured on about two batches spread over the validation rows."""
    val, batch = setup.splits.val, setup.config.evaluation.batch_size
    by_length = np.argsort(np.diff(val.offsets))
    # The longest batch first, for its memory and as the warm-up.
    evaluate(state.model, _select_rows(val, by_length[-batch:]), setup.config, setup.inputs, setup.device)
    rows = _select_rows(val, np.linspace(0, len(val) - 1, min(len(val), 2 * batch)).astype(np.int64))
    start = time.perf_counter()
    evaluate(state.model, rows, setup.config, setup.inputs, setup.device)
    return (time.perf_counter() - start) / len(rows)


def _select_rows(rows: LabeledRows, chosen: np.ndarray) -> LabeledRows:
    lengths = np.diff(rows.offsets)[chosen]
    tokens = np.concatenate([np.arange(int(rows.offsets[i]), int(rows.offsets[i + 1])) for i in chosen])
    return LabeledRows(
        rows.input_ids[tokens],
        rows.segment_ids[tokens],
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows.labels[chosen],
        rows.index[chosen],
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
