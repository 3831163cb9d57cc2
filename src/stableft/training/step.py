"""One optimizer update: gradients of a batch in micro-batches, clipping, the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.config.run_config import RunConfig, TrainingConfig
from stableft.data.tokens import InputLayout, LabeledRows, collate
from stableft.methods.adamw import AdamW
from stableft.methods.mixout import seed_mixout_masks
from stableft.seeds import global_rng_state, restore_global_rng_state
from stableft.training.evaluate import autocast, loss_sum, to_device
from stableft.training.in_loop_probes import (
    ProbeRecorder,
    ProbeRows,
    append_probe_rows,
    drift_distances,
    gradient_norms,
    recorders_due,
)
from stableft.training.schedule import warmup_linear, warmup_steps


@dataclass
class TrainState:
    """All that changes while a run trains, and that a checkpoint carries."""

    model: PreTrainedModel
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    micro_batch: int
    step: int = 0
    halved: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    best: dict | None = None
    seconds: float = 0.0
    recorder: ProbeRecorder | None = None  # fixed, and made anew for a run that is resumed
    recorded: ProbeRows = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What one update leaves for the history, still on the device so that nobody waits for it."""

    loss: Tensor
    lr: float
    grad_norm: Tensor  # before clipping
    tokens: int | None = None  # of the batch, padding left out, where they are counted
    norms: Tensor | None = None  # of the gradient: global before clipping, global after it, then of each parameter
    moved: Tensor | None = None  # distances to the first weights


PartialLoss = Callable[[int, int], Tensor]  # first row and the one after the last -> what they add to the batch's loss


def train_on_batch(
    state: TrainState,
    rows: LabeledRows,
    indices: np.ndarray,
    config: RunConfig,
    lr: float,
    inputs: InputLayout,
    device: torch.device,
) -> StepResult:
    """Returns loss, rate and gradient norm of one update with the mean loss of `indices`; the weights are changed."""

    def share(start: int, stop: int) -> Tensor:
        batch = to_device(collate(rows, indices[start:stop], inputs, config.data), device)
        labels = batch.pop("labels")
        with autocast(config, device):
            outputs = state.model(**batch).logits
        return loss_sum(outputs, labels) / len(indices)

    if config.mixout:  # once for all pieces of the batch, and before memory can run out
        seed_mixout_masks(state.model, config.seeds.data, state.step)
    return update_weights(state, share, len(indices), config, lr, device)


def update_weights(
    state: TrainState,
    share: PartialLoss,
    rows: int,
    config: TrainingConfig,
    lr: float,
    device: torch.device,
) -> StepResult:
    """Returns loss, rate and gradient norm of one update with a batch of `rows`; the weights are changed."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    loss = _backward_batch(state, share, rows, device)
    state.scaler.unscale_(state.optimizer)
    of_norms, of_drift = recorders_due(state.recorder, state.step + 1)
    each = gradient_norms(of_norms.parameters.values()) if of_norms else None
    grad_norm = _gradient_norm(state.model)
    if config.optimizer.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), config.optimizer.clip_norm, grad_norm)
    norms = None if each is None else torch.cat([torch.stack([grad_norm, _gradient_norm(state.model)]), each])
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    moved = drift_distances(of_drift.groups.values(), of_drift.initial.values()) if of_drift else None
    return StepResult(loss, lr, grad_norm, norms=norms, moved=moved)


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """Returns the learning rate of update `step` (from 0) of `total`."""
    return config.optimizer.lr * warmup_linear(step, total, warmup_steps(config.schedule, total))


def flush_pending_steps(state: TrainState, pending: list[StepResult]) -> bool:
    """Moves pending steps into the history; True if a loss is NaN or infinite, which ends the history there."""
    losses = torch.stack([step.loss for step in pending]).tolist() if pending else []
    norms = torch.stack([step.grad_norm for step in pending]).tolist() if pending else []
    for step, loss, norm in zip(pending, losses, norms, strict=True):
        line = {"step": len(state.history) + 1, "loss": loss, "lr": step.lr, "grad_norm": norm}
        state.history.append(line if step.tokens is None else {**line, "tokens": step.tokens})
        if state.recorder and (step.norms is not None or step.moved is not None):
            so_far = [line["loss"] for line in state.history]
            append_probe_rows(state.recorder, state.recorded, step.norms, step.moved, so_far)
        if not math.isfinite(loss):
            break
    pending.clear()
    return bool(state.history) and not math.isfinite(state.history[-1]["loss"])


def mean_train_loss(state: TrainState) -> float | None:
    """Returns the mean training loss of the steps since the latest evaluation, None if there were none."""
    since = state.evals[-1]["step"] if state.evals else 0
    losses = [line["loss"] for line in state.history[since:]]
    return math.fsum(losses) / len(losses) if losses else None


def _backward_batch(state: TrainState, share: PartialLoss, rows: int, device: torch.device) -> Tensor:
    """Returns the mean loss of the batch, its gradient accumulated; halves the micro-batch when memory runs out."""
    random = global_rng_state(device)
    while True:
        try:
            loss = torch.zeros((), device=device)
            for start in range(0, rows, state.micro_batch):
                loss += _backward_micro_batch(state, share, start, min(start + state.micro_batch, rows))
            return loss
        except torch.OutOfMemoryError:
            rows_at_once = min(state.micro_batch, rows)
            if rows_at_once == 1:
                raise
        # Outside the handler, where neither the exception nor a frame of `_backward_piece` holds activations any more.
        state.optimizer.zero_grad(set_to_none=True)
        restore_global_rng_state(random, device)
        state.micro_batch = -(-rows_at_once // 2)
        state.halved += 1
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _backward_micro_batch(state: TrainState, share: PartialLoss, start: int, stop: int) -> Tensor:
    """Returns what a piece of the batch adds to its loss, after adding its gradient."""
    loss = share(start, stop)
    state.scaler.scale(loss).backward()
    return loss.detach()
