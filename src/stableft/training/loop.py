"""The training loop: steps, evaluations, checkpoints, interruption."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.run_config import TrainingConfig
from stableft.seeds import derive_seed
from stableft.training.checkpoint import CheckpointBudget, initial_checkpoint_budget, load_checkpoint, save_checkpoint
from stableft.training.environment import device_name, package_versions
from stableft.training.outputs import write_config_file
from stableft.training.step import StepResult, TrainState, flush_pending_steps


@dataclass(frozen=True)
class LoopSettings:
    """What the loop knows of a run: its `total` steps, after which of them to evaluate, where checkpoints go.

    `facts` are what must be equal for a resumed run to be the same run.
    """

    run_id: str
    folder: Path
    execution: Execution
    device: torch.device
    total: int
    evaluate_at: frozenset[int]
    facts: dict


def resume_conditions(run_id: str, fingerprint: str, execution: Execution, device: torch.device) -> dict:
    """Returns what must be equal for a resumed run to end in the same bits."""
    return {
        "run_id": run_id,
        "data": fingerprint,
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "micro_batch": execution.micro_batch,
        **{name: package_versions()[name] for name in ("stableft", "torch", "transformers")},
    }


def start_or_resume(course: LoopSettings, state: TrainState, config: TrainingConfig, **names: str) -> bool:
    """Returns True if the run goes on from its checkpoint; config.yaml, with the names, is written before.

    Raises:
        UserError: the checkpoint was made in another way.
    """
    course.folder.mkdir(parents=True, exist_ok=True)
    write_config_file(course.folder, config, **names)
    torch.manual_seed(derive_seed(config.seeds.data, "dropout"))
    return load_checkpoint(course.folder, state, course.facts, course.device)


def run_steps(
    course: LoopSettings,
    state: TrainState,
    update: Callable[[], StepResult],
    evaluate: Callable[[], None],
    report: Callable[[], None],
    stop: Callable[[], bool],
) -> bool:
    """Takes the steps that are left; True if the loss became NaN or infinite, which ends the run there.

    `update` makes one, `evaluate` appends to the state's evaluations, `report` tells where the run is.

    Raises:
        Stopped: `stop()` was true; a checkpoint was written.
    """
    pace, saved_at, started = initial_checkpoint_budget(state), state.step, time.perf_counter() - state.seconds
    flush_every = 1 if course.device.type == "cpu" else 20  # reading a loss waits for the GPU
    pending: list[StepResult] = []
    diverged = False

    def tell() -> None:
        state.seconds = time.perf_counter() - started
        report()

    while True:
        if state.step in course.evaluate_at and (not state.evals or state.evals[-1]["step"] != state.step):
            diverged = flush_pending_steps(state, pending)
            if diverged:
                break
            evaluate()
            tell()
        state.seconds = time.perf_counter() - started
        if state.step == course.total:
            break
        stopping = stop()
        if state.step != saved_at and (stopping or _is_checkpoint_due(course, state, pace)):
            diverged = flush_pending_steps(state, pending)
            if diverged:
                break
            save_checkpoint(course.folder, state, course.facts, course.device, pace)
            saved_at = state.step
        if stopping:
            raise RunInterrupted(f"{course.run_id} stopped after step {state.step}")
        pending.append(update())
        if len(pending) >= flush_every:
            diverged = flush_pending_steps(state, pending)
            tell()
            if diverged:
                break
    state.seconds = time.perf_counter() - started
    return diverged


def _is_checkpoint_due(course: LoopSettings, state: TrainState, pace: CheckpointBudget) -> bool:
    if course.execution.checkpoint_every:
        return state.step % course.execution.checkpoint_every == 0
    return state.step in course.evaluate_at and pace.allows(state.seconds)
