"""One optimizer update: accumulate the gradient over micro-batches, clip it, step."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from stableft.training.cuda_graphs import Batch, RecordedUpdates, UpdateNumbers
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
    """Everything that changes during training. Checkpoints save it but for graphs and recorder, which are rebuilt."""

    model: PreTrainedModel
    optimizer: AdamW
    scaler: torch.amp.GradScaler  # disabled unless the precision is fp16
    micro_batch: int  # rows per forward pass
    step: int = 0  # updates done
    halved_at: list[int] = field(default_factory=list)  # updates at which memory ran out and the micro-batch was halved
    halved: int = 0  # how often that was
    eval_batch: int | None = None  # rows of an evaluation batch, if fewer than configured because memory ran out
    eval_halved_at: list[int] = field(default_factory=list)  # updates after which that was halved
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per update
    evals: list[dict] = field(default_factory=list)
    best: dict | None = None  # the best evaluation so far, with its outputs
    seconds: float = 0.0  # training time, including that before a resume
    commits: list[str] = field(default_factory=list)  # of this code, which trained it: several after a resume
    energy: dict[str, float] = field(default_factory=dict)  # sums of `training.energy.EnergyMeter`, like `seconds`
    graphs: RecordedUpdates | None = None  # on a GPU: updates recorded as CUDA graphs; None: launch every kernel
    recorder: ProbeRecorder | None = None
    recorded: ProbeRows = field(default_factory=dict)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The model's; walking through its modules takes as long as a block of a small model."""
        return list(self.model.parameters())


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
    if config.execution == "grouped":  # micro-batches of similar length need little padding
        indices = indices[np.argsort(-np.diff(rows.offsets)[indices], kind="stable")]

    def batch(start: int, stop: int) -> Batch:
        return collate(rows, indices[start:stop], inputs, config.data)

    def loss_of(batch: Batch) -> Tensor:
        features = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with autocast(config, device):
            outputs = state.model(**features).logits
        return loss_sum(outputs, batch["labels"]) / len(indices)

    def recordable_update(batches: Sequence[Batch]) -> UpdateNumbers:
        return (_accumulate_gradient(state, map(loss_of, batches), device), *_apply_gradient(state, config))

    if config.mixout:  # one mask per update: micro-batches, and a retry after running out of memory, must share it
        seed_mixout_masks(state.model, config.seeds.data, state.step)
    if state.graphs:
        starts = range(0, len(indices), state.micro_batch)
        batches = [batch(start, min(start + state.micro_batch, len(indices))) for start in starts]
        state.optimizer.set_learning_rate(lr)
        had_given_up = state.graphs.given_up
        if numbers := state.graphs.run(batches, _due_probes(state), recordable_update):
            state.step += 1
            loss, grad_norm, probe_norms, drift = numbers
            assert loss is not None
            assert grad_norm is not None
            return StepResult(loss, lr, grad_norm, probe_norms=probe_norms, drift=drift)
        state.optimizer.zero_grad(set_to_none=True)  # a recording that failed leaves gradients
        if state.graphs.given_up > had_given_up and state.scaler.is_enabled():
            state.scaler.update(state.scaler.get_scale())  # and a scaler that has unscaled them
    return update_weights(
        state, lambda start, stop: loss_of(to_device(batch(start, stop), device)), len(indices), config, lr, device
    )


def update_weights(
    state: TrainState,
    partial_loss: PartialLoss,
    rows: int,
    config: TrainingConfig,
    lr: float,
    device: torch.device,
) -> StepResult:
    """Update the weights with a batch of `rows` rows whose loss is the sum of `partial_loss` over micro-batches."""
    state.optimizer.set_learning_rate(lr)
    loss = _backward_batch(state, partial_loss, rows, device)
    grad_norm, probe_norms, drift = _apply_gradient(state, config)
    state.step += 1
    return StepResult(loss, lr, grad_norm, probe_norms=probe_norms, drift=drift)


def _due_probes(state: TrainState) -> tuple[bool, bool]:
    """Return whether gradient norms, and drift, are to be recorded at the next update."""
    recorder, step = state.recorder, state.step + 1
    return bool(recorder and recorder.is_due("grad_norms", step)), bool(recorder and recorder.is_due("drift", step))


def _apply_gradient(state: TrainState, config: TrainingConfig) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Clip the gradient and step. Return its norm before clipping, and what the probes record at this update."""
    state.scaler.unscale_(state.optimizer)  # norms and clipping need the true gradient, without fp16's loss scale
    recorder, (norms_due, drift_due) = state.recorder, _due_probes(state)
    parameter_norms = probe_norms = drift = None
    if recorder and norms_due:
        parameter_norms = gradient_norms(recorder.parameters.values())
    trained = [p for p in state.parameters if p.grad is not None]
    grad_norm = _gradient_norm(trained)
    if config.optimizer.clip_norm is not None and not _is_short(grad_norm, config.optimizer.clip_norm):
        nn.utils.clip_grads_with_norm_(trained, config.optimizer.clip_norm, grad_norm)
    if parameter_norms is not None:
        probe_norms = torch.cat([torch.stack([grad_norm, _gradient_norm(trained)]), parameter_norms])
    state.scaler.step(state.optimizer)  # skips the step if the gradient is not finite
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if recorder and drift_due:
        drift = drift_distances(recorder.drift_groups.values(), recorder.initial.values())
    return grad_norm, probe_norms, drift


def _is_short(norm: Tensor, clip_norm: float) -> bool:
    """Return whether clipping would multiply the gradient by 1. A GPU is not asked: the answer would have to wait."""
    return norm.device.type == "cpu" and bool(clip_norm / (norm + 1e-6) >= 1)  # as in `clip_grads_with_norm_`


def _gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


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
            starts = range(0, rows, state.micro_batch)
            losses = (partial_loss(start, min(start + state.micro_batch, rows)) for start in starts)
            return _accumulate_gradient(state, losses, device)
        except torch.OutOfMemoryError:
            rows_at_once = min(state.micro_batch, rows)
            if rows_at_once == 1 and not (state.graphs and state.graphs.recorded):
                raise
        # Retry outside the handler: inside, the exception's traceback keeps the activations alive.
        state.optimizer.zero_grad(set_to_none=True)
        restore_global_rng_state(rng_state, device)  # dropout must not depend on how far the failed attempt got
        if state.graphs and state.graphs.give_up():
            continue  # the whole micro-batch may fit now
        state.micro_batch = -(-rows_at_once // 2)
        state.halved += 1
        state.halved_at.append(state.step + 1)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulate_gradient(state: TrainState, losses: Iterable[Tensor], device: torch.device) -> Tensor:
    """Add up the gradients of the micro-batches' contributions to the batch's loss, and return their sum."""
    total = torch.zeros((), device=device)
    for loss in losses:
        state.scaler.scale(loss).backward()
        total += loss.detach()
    return total
