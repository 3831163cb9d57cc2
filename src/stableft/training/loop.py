"""The training loop: steps, evaluations, checkpoints, interruption."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.run_config import TrainingConfig
from stableft.pulse import PULSE, TRAINING, WRITING_CHECKPOINT
from stableft.records.run_record import NUMERICS
from stableft.seeds import derive_seed
from stableft.training.checkpoint import CheckpointBudget, initial_checkpoint_budget, load_checkpoint, save_checkpoint
from stableft.training.energy import EnergyMeter
from stableft.training.environment import (
    commit_label,
    device_name,
    gpu_versions,
    package_versions,
    processor_name,
)
from stableft.training.outputs import SAVES_LAST, write_config_file
from stableft.training.step import StepResult, TrainState, flush_pending_steps


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs to know about a run. `evaluate_at` holds step counts; `conditions` must match on resume."""

    run_id: str
    folder: Path
    execution: Execution
    device: torch.device
    total: int
    evaluate_at: frozenset[int]
    conditions: dict


def resume_conditions(run_id: str, fingerprint: str, execution: Execution, device: torch.device) -> dict:
    """Return what must be the same when a run resumes, so that its results are bit-equal to an uninterrupted run."""
    return {
        "run_id": run_id,
        "data": fingerprint,
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "processor": processor_name() if device.type == "cpu" else None,  # another has other vector instructions
        "micro_batch": execution.micro_batch,
        "numerics": NUMERICS,
        "tf32": execution.tf32 or None,
        "compile": execution.compile or None,
        "deterministic": None if execution.deterministic else False,  # None: on, as in older checkpoints
        **gpu_versions(device),
        **{name: package_versions()[name] for name in ("stableft", "torch", "transformers")},
    }


def start_or_resume(settings: LoopSettings, state: TrainState, config: TrainingConfig, **labels: str) -> bool:
    """Write config.yaml, load the checkpoint if there is one, and return whether the run resumes.

    `labels` (such as arm and recipe) are written to config.yaml beside the config.

    Raises:
        UserError: The command asks for something else than the checkpoint was made with.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_config_file(settings.folder, config, **labels)
    # Only dropout draws from the global generator. Loading a checkpoint restores the generator's state.
    torch.manual_seed(derive_seed(config.seeds.data, "dropout"))
    resumed = load_checkpoint(settings.folder, state, settings.conditions, settings.device)
    if commit_label() not in state.commits:
        state.commits.append(commit_label())
    return resumed


def run_steps(
    settings: LoopSettings,
    state: TrainState,
    update: Callable[[], StepResult],
    evaluate: Callable[[], None],
    report: Callable[[], None],
    stop: Callable[[], bool],
    finish: Callable[[], None] = lambda: None,
) -> bool:
    """Take the remaining steps and return whether training diverged: a NaN or infinite loss ends it.

    `update` takes one step, `evaluate` appends to `state.evals`, `report` shows the progress, `finish` follows the last
    step of a run that did not diverge. `evaluate` and `finish` may raise RunInterrupted as long as they have changed
    nothing; the resumed run then calls them first.

    Raises:
        RunInterrupted: The run was asked to stop; a checkpoint was written.
    """
    budget, saved_at, started = initial_checkpoint_budget(state), state.step, time.perf_counter() - state.seconds
    # Reading a loss makes the CPU wait for the GPU. But the weights to save must be those of the step that ends the
    # history, and after a bad loss in fp16, whose step the scaler skips, later steps would change them.
    saves_last = state.scaler.is_enabled() and settings.execution.save in SAVES_LAST
    flush_every = 1 if settings.device.type == "cpu" or saves_last else 20
    pending: list[StepResult] = []
    diverged = False
    if state.seconds and not state.energy:  # begun by an older version, which metered nothing
        state.energy["device_seconds"] = state.seconds
    meter = EnergyMeter(settings.device)

    def take_time(at_once: bool = False) -> None:
        state.seconds = time.perf_counter() - started
        meter.add_to(state.energy, at_once)

    def report_now() -> None:
        take_time()
        report()

    def save() -> None:
        nonlocal saved_at
        take_time(at_once=True)
        PULSE.get_further(WRITING_CHECKPOINT)
        save_checkpoint(settings.folder, state, settings.conditions, settings.device, budget)
        PULSE.get_further(TRAINING)
        saved_at = state.step

    def call_or_save(evaluate: Callable[[], None]) -> None:
        try:
            evaluate()
        except RunInterrupted:
            if state.step != saved_at:
                save()
            raise RunInterrupted(f"{settings.run_id} stopped after step {state.step}") from None

    with closing(meter):
        while True:
            # The second condition: a run that resumes at an evaluation step has that evaluation already.
            if state.step in settings.evaluate_at and (not state.evals or state.evals[-1]["step"] != state.step):
                diverged = flush_pending_steps(state, pending)
                if diverged:
                    break
                call_or_save(evaluate)
                report_now()
            take_time()
            if state.step == settings.total:
                call_or_save(finish)
                break
            stopping = stop()
            if state.step != saved_at and (stopping or _is_checkpoint_due(settings, state, budget)):
                diverged = flush_pending_steps(state, pending)  # the history in a checkpoint must reach its step
                if diverged:
                    break
                save()
            if stopping:
                raise RunInterrupted(f"{settings.run_id} stopped after step {state.step}")
            pending.append(update())
            if len(pending) >= flush_every:
                diverged = flush_pending_steps(state, pending)
                report_now()
                if diverged:
                    break
        take_time(at_once=True)
    return diverged


def _is_checkpoint_due(settings: LoopSettings, state: TrainState, budget: CheckpointBudget) -> bool:
    if settings.execution.checkpoint_every:
        return state.step % settings.execution.checkpoint_every == 0
    return state.step in settings.evaluate_at and budget.allows(state.seconds)
