"""One optimizer update: accumulate the gradient over micro-batches, clip it, step."""

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
)
from stableft.training.schedule import warmup_linear, warmup_steps


@dataclass
class TrainState:
    """Everything that changes during training. Checkpoints save it, except for the recorder, which is rebuilt."""

    model: PreTrainedModel
    optimizer: AdamW
    scaler: torch.amp.GradScaler  # disabled unless the precision is fp16
    micro_batch: int  # rows per forward pass
    step: int = 0  # updates done
    halved_at: list[int] = field(default_factory=list)  # updates at which memory ran out and the micro-batch was halved
    halved: int = 0  # how often that was
    eval_batch: int | None = None  # rows of an evaluation batch, if fewer than configured because memory ran out
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per update
    evals: list[dict] = field(default_factory=list)
    best: dict | None = None  # the best evaluation so far, with its outputs
    seconds: float = 0.0  # training time, including that before a resume
    recorder: ProbeRecorder | None = None
    recorded: ProbeRows = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """The numbers of one update. Tensors stay on the device, because reading them would make the CPU wait."""

    loss: Tensor
    lr: float
    grad_norm: Tensor  # before clipping
    tokens: int | None = None  # in the batch, without padding; None: not counted
    probe_norms: Tensor | None = None  # gradient norms: global before clipping, global after it, each parameter's
    drift: Tensor | None = None  # distance from the initial weights, per group


PartialLoss = Callable[[int, int], Tensor]  # rows start to stop (exclusive) -> their contribution to the batch's loss


def train_on_batch(
    state: TrainState,
    rows: LabeledRows,
    indices: np.ndarray,
    config: RunConfig,
    lr: float,
    inputs: InputLayout,
    device: torch.device,
) -> StepResult:
    """Update the weights with the mean loss over the rows `indices`."""

    def partial_loss(start: int, stop: int) -> Tensor:
        batch = to_device(collate(rows, indices[start:stop], inputs, config.data), device)
        labels = batch.pop("labels")
        with autocast(config, device):
            outputs = state.model(**batch).logits
        return loss_sum(outputs, labels) / len(indices)

    if config.mixout:  # one mask per update: micro-batches, and a retry after running out of memory, must share it
        seed_mixout_masks(state.model, config.seeds.data, state.step)
    return update_weights(state, partial_loss, len(indices), config, lr, device)


def update_weights(
    state: TrainState,
    partial_loss: PartialLoss,
    rows: int,
    config: TrainingConfig,
    lr: float,
    device: torch.device,
) -> StepResult:
    """Update the weights with a batch of `rows` rows whose loss is the sum of `partial_loss` over micro-batches."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)  # set here, because torch's schedulers ignore lr_scale
    loss = _backward_batch(state, partial_loss, rows, device)
    state.scaler.unscale_(state.optimizer)  # norms and clipping need the true gradient, without fp16's loss scale
    recorder, step = state.recorder, state.step + 1
    parameter_norms = probe_norms = drift = None
    if recorder and recorder.is_due("grad_norms", step):
        parameter_norms = gradient_norms(recorder.parameters.values())
    grad_norm = _gradient_norm(state.model)
    if config.optimizer.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), config.optimizer.clip_norm, grad_norm)
    if parameter_norms is not None:
        probe_norms = torch.cat([torch.stack([grad_norm, _gradient_norm(state.model)]), parameter_norms])
    state.scaler.step(state.optimizer)  # skips the step if the gradient is not finite
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step
    if recorder and recorder.is_due("drift", step):
        drift = drift_distances(recorder.drift_groups.values(), recorder.initial.values())
    return StepResult(loss, lr, grad_norm, probe_norms=probe_norms, drift=drift)


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """Return the learning rate of update `step` (counted from 0) of `total`."""
    return config.optimizer.lr * warmup_linear(step, total, warmup_steps(config.schedule, total))


def flush_pending_steps(state: TrainState, pending: list[StepResult]) -> bool:
    """Move pending steps into the history and return whether training diverged.

    The first NaN or infinite loss ends the history. Later steps, taken before it was read from the device, are dropped.
    """
    # One transfer for all pending steps: each `tolist` waits for the GPU.
    losses = torch.stack([step.loss for step in pending]).tolist() if pending else []
    norms = torch.stack([step.grad_norm for step in pending]).tolist() if pending else []
    for step, loss, norm in zip(pending, losses, norms, strict=True):
        entry = {"step": len(state.history) + 1, "loss": loss, "lr": step.lr, "grad_norm": norm}
        state.history.append(entry if step.tokens is None else {**entry, "tokens": step.tokens})
        if state.recorder and (step.probe_norms is not None or step.drift is not None):
            all_losses = [entry["loss"] for entry in state.history]
            append_probe_rows(state.recorder, state.recorded, step.probe_norms, step.drift, all_losses)
        if not math.isfinite(loss):
            break
    pending.clear()
    return bool(state.history) and not math.isfinite(state.history[-1]["loss"])


def mean_train_loss(state: TrainState) -> float | None:
    """Return the mean training loss since the latest evaluation, or None if no step was taken since."""
    since = state.evals[-1]["step"] if state.evals else 0
    losses = [entry["loss"] for entry in state.history[since:]]
    return math.fsum(losses) / len(losses) if losses else None


def _backward_batch(state: TrainState, partial_loss: PartialLoss, rows: int, device: torch.device) -> Tensor:
    """Accumulate the gradient of a batch and return its mean loss. Halve the micro-batch if memory runs out."""
    rng_state = global_rng_state(device)
    while True:
        try:
            loss = torch.zeros((), device=device)
            for start in range(0, rows, state.micro_batch):
                loss += _backward_micro_batch(state, partial_loss, start, min(start + state.micro_batch, rows))
            return loss
        except torch.OutOfMemoryError:
            rows_at_once = min(state.micro_batch, rows)
            if rows_at_once == 1:
                raise
        # Retry outside the handler: inside, the exception's traceback keeps the frame of `_backward_micro_batch`
        # alive, and with it the activations.
        state.optimizer.zero_grad(set_to_none=True)
        restore_global_rng_state(rng_state, device)  # dropout must not depend on how far the failed attempt got
        state.micro_batch = -(-rows_at_once // 2)
        state.halved += 1
        state.halved_at.append(state.step + 1)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _backward_micro_batch(state: TrainState, partial_loss: PartialLoss, start: int, stop: int) -> Tensor:
    """Accumulate the gradient of a micro-batch and return its contribution to the batch's loss."""
    loss = partial_loss(start, stop)
    state.scaler.scale(loss).backward()
    return loss.detach()
