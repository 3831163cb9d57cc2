"""One optimizer update: the gradient of a batch, however many pieces memory allows, clipped and applied."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.config import RunConfig
from stableft.data import TokenRows, collate
from stableft.evaluate import autocast, loss_sum, to_device
from stableft.optim import AdamW
from stableft.schedule import warmup_linear
from stableft.seeds import global_state, restore_global_state


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


@dataclass(frozen=True)
class Step:
    """What one update leaves for the history, still on the device so that nobody waits for it."""

    loss: Tensor
    lr: float
    grad_norm: Tensor | None


def make_update(
    state: TrainState,
    rows: TokenRows,
    indices: np.ndarray,
    config: RunConfig,
    lr: float,
    pad_id: int,
    device: torch.device,
) -> Step:
    """Returns loss, rate and gradient norm of one update with the mean loss of `indices`; the weights are changed."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    loss = _backward(state, rows, indices, config, pad_id, device)
    grad_norm = None
    if config.optimizer.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return Step(loss, lr, grad_norm)


def learning_rate(config: RunConfig, step: int, total: int) -> float:
    """Returns the learning rate of update `step` (from 0) of `total`."""
    warmup = int(config.schedule.warmup * total)
    return config.optimizer.lr * warmup_linear(step, total, warmup)


def _backward(
    state: TrainState, rows: TokenRows, indices: np.ndarray, config: RunConfig, pad_id: int, device: torch.device
) -> Tensor:
    """Returns the mean loss of the batch, its gradient accumulated; halves the micro-batch when memory runs out."""
    random = global_state(device)
    while True:
        try:
            loss = torch.zeros((), device=device)
            for start in range(0, len(indices), state.micro_batch):
                piece = collate(rows, indices[start : start + state.micro_batch], pad_id, config.data)
                loss += _backward_piece(state, piece, len(indices), config, device)
            return loss
        except torch.OutOfMemoryError:
            rows_at_once = min(state.micro_batch, len(indices))
            if rows_at_once == 1:
                raise
        # Outside the handler, where neither the exception nor a frame of `_backward_piece` holds activations any more.
        state.optimizer.zero_grad(set_to_none=True)
        restore_global_state(random, device)
        state.micro_batch = -(-rows_at_once // 2)
        state.halved += 1
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _backward_piece(
    state: TrainState, piece: dict[str, Tensor], whole: int, config: RunConfig, device: torch.device
) -> Tensor:
    """Returns the piece's share of the mean loss over `whole` rows, after adding its gradient."""
    batch = to_device(piece, device)
    labels = batch.pop("labels")
    with autocast(config, device):
        outputs = state.model(**batch).logits
    share = loss_sum(outputs, labels) / whole
    state.scaler.scale(share).backward()
    return share.detach()
