"""Train one run, from its config to its record."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted, RunProgress
from stableft.config.run_config import has_reached_share
from stableft.data.metrics import compute_scores
from stableft.errors import UserError
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.run_record import BEST_FOLDER, CHECKPOINT_FILE, RunRecord
from stableft.training.checkpoint import MODEL_CONDITION
from stableft.training.environment import git_state
from stableft.training.failure_watch import describe_likely_failure, detect_vanishing
from stableft.training.loop import LoopSettings, resume_conditions, run_steps, start_or_resume
from stableft.training.outputs import (
    SAVES_BEST,
    evaluate_last_weights,
    evaluate_model,
    finish_run,
    pause_run,
    remove_saved_models,
    save_run_model,
)
from stableft.training.setup import RunSetup, batch_indices, nothing_learnt_loss, prepare_run, torch_settings_restored
from stableft.training.step import StepResult, TrainState, learning_rate, mean_train_loss, train_on_batch


@torch_settings_restored()
def train(
    run: PlannedRun,
    results: Path,
    sources: LocalPaths,
    execution: Execution,
    progress: Callable[[RunProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Train one run, resuming from its checkpoint if there is one; write its record and return it.

    A NaN or infinite loss ends the run early: it counts as finished and failed. A run with `pause_after` ends there,
    with status `paused`.

    Raises:
        RunInterrupted: `stop()` returned True; a checkpoint was written.
        UserError: The data, the model or the config is invalid.
    """
    git_state()  # cached now: the commit may change during training, but the loaded code does not
    setup, state = prepare_run(run, results, sources, execution)
    conditions = resume_conditions(run.run_id, setup.splits.record.fingerprint, execution, setup.device)
    if setup.start:
        conditions["start"] = setup.start.sha256
    if setup.pretrained.commit:
        conditions[MODEL_CONDITION] = f"{run.run_config.model.name}@{setup.pretrained.commit}"
    conditions["probes"] = asdict(run.probes) if run.probes else None
    settings = LoopSettings(
        run.run_id, setup.folder, execution, setup.device, setup.total, setup.evaluate_at, conditions
    )
    resumed = start_or_resume(settings, state, run.run_config, arm=run.arm, recipe=run.recipe, report=run.report)
    _remove_stale_models(setup, state, resumed)
    last_outputs = val_outputs = None

    def evaluate() -> None:
        nonlocal val_outputs
        val_outputs = _evaluate_and_keep_best(setup, state, stop)

    def finish() -> None:
        nonlocal last_outputs
        evaluated_now = bool(state.evals) and state.evals[-1]["step"] == state.step
        last_outputs = evaluate_last_weights(setup, state, val_outputs if evaluated_now else None, stop)

    try:
        run_steps(
            settings,
            state,
            update=lambda: _train_on_next_batch(setup, state),
            evaluate=evaluate,
            report=lambda: progress(_current_progress(setup, state)),
            stop=lambda: _should_pause(run, state) or stop(),
            finish=finish,
        )
    except RunInterrupted:
        if not _should_pause(run, state):
            raise
        return pause_run(setup, state)
    record = finish_run(setup, state, last_outputs)
    remove_under_claim(setup.folder / CHECKPOINT_FILE)  # after the record: a kill in between loses nothing
    return record


def _should_pause(run: PlannedRun, state: TrainState) -> bool:
    if run.pause_after is None or not state.evals:
        return False
    return has_reached_share(run.run_config, state.evals[-1]["step"], state.evals[-1]["epoch"], run.pause_after)


def _remove_stale_models(setup: RunSetup, state: TrainState, resumed: bool) -> None:
    """Remove saved models of an abandoned attempt, or that `--save` no longer requests.

    Raises:
        UserError: `--save` now requests the best weights, but the run passed them without saving.
    """
    saves_best = setup.execution.save in SAVES_BEST
    if resumed and saves_best and state.best and not state.best["saved"]:
        raise UserError(
            f"run {setup.run.run_id} has a checkpoint from step {state.step} made without --save best, and its best "
            f"weights, from step {state.best['step']}, were not saved: resume it as before, or delete "
            f"{setup.folder / CHECKPOINT_FILE} to start the run over"
        )
    if not resumed or not saves_best:
        remove_saved_models(setup.folder)
        if state.best:
            state.best["saved"] = False


def _train_on_next_batch(setup: RunSetup, state: TrainState) -> StepResult:
    indices = batch_indices(setup, state.step)
    lr = learning_rate(setup.config, state.step, setup.total)
    return train_on_batch(state, setup.splits.train, indices, setup.config, lr, setup.inputs, setup.device)


def _evaluate_and_keep_best(setup: RunSetup, state: TrainState, stop: Callable[[], bool]) -> np.ndarray:
    """Append an evaluation point and, if it is the best so far, keep its outputs (and its weights under `--save best`).

    Return the outputs on the validation split. The test split is evaluated now, because the best weights need not exist
    later.

    Raises:
        RunInterrupted: `stop()` returned True; nothing was appended or kept.
    """
    outputs = evaluate_model(setup, state, setup.splits.val, stop)
    scores = compute_scores(outputs.values, setup.splits.val.labels, setup.config.task.metrics)
    value, test = scores[setup.config.selection_metric], setup.splits.test
    # The outputs before the first step are not a result of training, so they cannot be the best.
    is_best = state.step > 0 and (state.best is None or _is_better(value, state.best["value"]))
    test_outputs = evaluate_model(setup, state, test, stop).values if is_best and test else None
    state.evals.append(
        {
            "step": state.step,
            "epoch": state.step / setup.per_epoch,
            "train_loss": mean_train_loss(state),
            "val_loss": outputs.loss,
            "val": scores,
        }
    )
    if is_best:
        state.best = {
            "step": state.step,
            "value": value,
            "val": torch.from_numpy(outputs.values),
            "test": None if test_outputs is None else torch.from_numpy(test_outputs),
            "saved": setup.execution.save in SAVES_BEST,
        }
        if state.best["saved"]:
            save_run_model(setup, state, BEST_FOLDER)
    return outputs.values


def _is_better(value: float, best: float) -> bool:
    """Return whether the value is strictly better; any number is better than NaN."""
    return value > best or (math.isnan(best) and not math.isnan(value))


def _current_progress(setup: RunSetup, state: TrainState) -> RunProgress:
    loss = state.history[-1]["loss"] if state.history else None
    val = state.evals[-1]["val"][setup.config.selection_metric] if state.evals else None
    nothing_learnt = nothing_learnt_loss(setup)
    vanishing = detect_vanishing(state.recorded.get("looks", ()), nothing_learnt)
    warning = describe_likely_failure(vanishing, nothing_learnt, setup.total) if vanishing else None
    return RunProgress(state.step, setup.total, loss, val, warning)
