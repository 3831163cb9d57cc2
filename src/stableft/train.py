"""One run, from its config to its record: the training loop in source order."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stableft.checkpoint import Pace, first_pace, load_checkpoint, save_checkpoint
from stableft.environment import device_name, git_state, versions
from stableft.errors import UserError
from stableft.evaluate import evaluate
from stableft.job import Job, batch_indices, prepare
from stableft.metrics import score
from stableft.outcome import BEST_FOLDER, SAVES_BEST, finish, remove_models, save_model, write_config
from stableft.plan import Execution, PlannedRun, Progress, Sources, Stopped
from stableft.record import CHECKPOINT_FILE, RunRecord
from stableft.seeds import derive
from stableft.update import Step, TrainState, learning_rate, make_update


def train(
    run: PlannedRun,
    results: Path,
    sources: Sources,
    execution: Execution,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Trains one run, or goes on with it from its checkpoint, and returns its record, which is then on disk.

    A loss of NaN or infinity ends the run early: it is finished and failed.

    Raises:
        Stopped: `stop()` was true; a checkpoint was written.
        UserError: data, model or config cannot be used.
    """
    git_state()  # read now, and kept: the code that runs is the code of this moment
    job, state = prepare(run, results, sources, execution)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_config(job.folder, run)
    facts = _resume_facts(job)
    torch.manual_seed(derive(job.config.seeds.data, "dropout"))
    resumed = load_checkpoint(job.folder, state, facts, job.device)
    _match_saved_models(job, state, resumed)
    pace, saved_at, started = first_pace(state), state.step, time.perf_counter() - state.seconds
    flush_every = 1 if job.device.type == "cpu" else 20  # reading a loss waits for the GPU
    pending: list[Step] = []
    diverged = False
    while True:
        if state.step in job.evaluate_at and (not state.evals or state.evals[-1]["step"] != state.step):
            diverged = _flush(state, pending)
            if diverged:
                break
            _evaluate(job, state)
            progress(_progress(job, state))
        state.seconds = time.perf_counter() - started
        if state.step == job.total:
            break
        stopping = stop()
        if state.step != saved_at and (stopping or _checkpoint_due(job, state, pace)):
            diverged = _flush(state, pending)
            if diverged:
                break
            save_checkpoint(job.folder, state, facts, job.device, pace)
            saved_at = state.step
        if stopping:
            raise Stopped(f"{run.run_id} stopped after step {state.step}")
        indices = batch_indices(job, state.step)
        lr = learning_rate(job.config, state.step, job.total)
        pending.append(make_update(state, job.splits.train, indices, job.config, lr, job.pad_id, job.device))
        if len(pending) >= flush_every:
            diverged = _flush(state, pending)
            progress(_progress(job, state))
            if diverged:
                break
    state.seconds = time.perf_counter() - started
    record = finish(job, state, diverged)
    (job.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return record


def _match_saved_models(job: Job, state: TrainState, resumed: bool) -> None:
    """Removes models of an attempt that does not count, or that are no longer asked for.

    Raises:
        UserError: the best weights are asked for now, and were not when they were there to be saved.
    """
    saves = job.execution.save in SAVES_BEST
    if resumed and saves and state.best and not state.best["saved"]:
        raise UserError(
            f"run {job.run.run_id} has a checkpoint from step {state.step} made without --save best, and its best "
            f"weights, of step {state.best['step']}, are gone: go on as before, or delete "
            f"{job.folder / CHECKPOINT_FILE} to start the run afresh"
        )
    if not resumed or not saves:
        remove_models(job.folder)
        if state.best:
            state.best["saved"] = False


def _evaluate(job: Job, state: TrainState) -> None:
    """Appends an evaluation point, and keeps outputs (and weights, if asked for) when it is the best so far.

    The outputs are those of the best weights at the time they were the weights: no later step can reach them.
    """
    outputs = evaluate(state.model, job.splits.val, job.config, job.pad_id, job.device)
    values = score(outputs.values, job.splits.val.labels, job.config.task.metrics)
    since = state.evals[-1]["step"] if state.evals else 0
    losses = [line["loss"] for line in state.history[since:]]
    state.evals.append(
        {
            "step": state.step,
            "epoch": state.step / job.per_epoch,
            "train_loss": math.fsum(losses) / len(losses) if losses else None,
            "val_loss": outputs.loss,
            "val": values,
        }
    )
    if state.step == 0:  # not a result of training, so never the best
        return
    value = values[job.config.selection_metric]
    if state.best is None or _better(value, state.best["value"]):
        test = job.splits.test
        test_outputs = evaluate(state.model, test, job.config, job.pad_id, job.device).values if test else None
        state.best = {
            "step": state.step,
            "value": value,
            "val": torch.from_numpy(outputs.values),
            "test": None if test_outputs is None else torch.from_numpy(test_outputs),
            "saved": job.execution.save in SAVES_BEST,
        }
        if state.best["saved"]:
            save_model(job, state, BEST_FOLDER)


def _better(value: float, best: float) -> bool:
    """True if strictly better; any number is better than NaN."""
    return value > best or (math.isnan(best) and not math.isnan(value))


def _flush(state: TrainState, pending: list[Step]) -> bool:
    """Moves pending steps into the history; True if a loss is NaN or infinite, which ends the history there."""
    losses = torch.stack([step.loss for step in pending]).tolist() if pending else []
    clipped = bool(pending) and pending[0].grad_norm is not None
    norms = torch.stack([s.grad_norm for s in pending if s.grad_norm is not None]).tolist() if clipped else losses
    for step, loss, norm in zip(pending, losses, norms, strict=True):
        line = {"step": len(state.history) + 1, "loss": loss, "lr": step.lr, "grad_norm": norm if clipped else None}
        state.history.append(line)
        if not math.isfinite(loss):
            break
    pending.clear()
    return bool(state.history) and not math.isfinite(state.history[-1]["loss"])


def _checkpoint_due(job: Job, state: TrainState, pace: Pace) -> bool:
    if job.execution.checkpoint_every:
        return state.step % job.execution.checkpoint_every == 0
    return state.step in job.evaluate_at and pace.allows(state.seconds)


def _resume_facts(job: Job) -> dict:
    """Returns what must be equal for a resumed run to end in the same bits."""
    return {
        "run_id": job.run.run_id,
        "data": job.splits.record.fingerprint,
        "device": device_name(job.device),
        "threads": torch.get_num_threads() if job.device.type == "cpu" else None,
        "micro_batch": job.execution.micro_batch,
        **{name: versions()[name] for name in ("stableft", "torch", "transformers")},
    }


def _progress(job: Job, state: TrainState) -> Progress:
    loss = state.history[-1]["loss"] if state.history else None
    val = state.evals[-1]["val"][job.config.selection_metric] if state.evals else None
    return Progress(state.step, job.total, loss, val)
