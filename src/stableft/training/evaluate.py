"""Compute outputs and losses of a model on a split. Uses no randomness."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stableft.config.planned_run import RunInterrupted
from stableft.config.run_config import RunConfig, TrainingConfig
from stableft.data.tokens import InputLayout, LabeledRows, collate
from stableft.pulse import EVALUATING, PULSE

AUTOCAST_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class EvalOutputs:
    """Logits `values` [rows, classes] (regression: [rows, 1]) in float32, in the split's order, and the mean loss.

    `batch_size` is the number of rows that fitted in memory, if fewer than configured, else None.
    """

    values: np.ndarray
    loss: float
    batch_size: int | None = None


def loss_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the summed loss in float32: cross-entropy, or squared error for float labels (regression)."""
    outputs = outputs.float()  # half precision would lose digits in the sum
    if labels.is_floating_point():
        return functional.mse_loss(outputs[:, 0], labels, reduction="sum")
    return functional.cross_entropy(outputs, labels, reduction="sum")


def autocast(config: TrainingConfig, device: torch.device):
    """Return the autocast context for the config's precision; fp32 needs none."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, AUTOCAST_DTYPES[config.precision])


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: LabeledRows,
    config: RunConfig,
    inputs: InputLayout,
    device: torch.device,
    batch_size: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    free_memory: Callable[[], bool] = lambda: False,
) -> EvalOutputs:
    """Return the model's outputs on `rows`, computed without dropout. Leaves the model in training mode.

    `batch_size` replaces that of the config: what fitted in memory before. `free_memory` is that of `run_in_batches`.

    Raises:
        RunInterrupted: `stop()` returned True.
    """
    model.eval()
    # Batches of similar length need little padding. Longest first: if memory runs out, it does so in the first batch.
    by_length = np.argsort(-np.diff(rows.offsets), kind="stable")

    def logits(start: int, end: int) -> Tensor:
        if stop():
            raise RunInterrupted
        batch = collate(rows, by_length[start:end], inputs, config.data)
        batch.pop("labels")
        with autocast(config, device):
            return model(**to_device(batch, device)).logits.float()

    configured = config.evaluation.batch_size
    parts, fitting = run_in_batches(logits, len(rows), batch_size or configured, free_memory)
    outputs = torch.cat(parts).cpu()
    model.train()
    values = torch.empty_like(outputs)
    values[torch.from_numpy(by_length)] = outputs
    loss = loss_sum(values, torch.from_numpy(rows.labels)) / len(rows)
    return EvalOutputs(values.numpy(), float(loss), fitting if fitting < configured else None)


def run_in_batches(
    compute: Callable[[int, int], Tensor], rows: int, size: int, free_memory: Callable[[], bool] = lambda: False
) -> tuple[list[Tensor], int]:
    """Return the results of `compute(start, stop)` for batches of `size` rows, and the size that fitted in memory.

    The size is halved whenever memory runs out and `free_memory` returns that it could free none: smaller batches round
    differently. A caller that passes the returned size next time fails no more.
    """
    start, parts = 0, []
    while start < rows:
        PULSE.get_further(EVALUATING)
        try:
            parts.append(compute(start, min(start + size, rows)))
        except torch.OutOfMemoryError:
            if free_memory():
                continue
            if size == 1:
                raise
            size = -(-size // 2)
            continue
        start += size
    return parts, size


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the batch on the device."""
    if device.type == "cpu":
        return batch
    # Pinned memory lets the copy overlap with computation.
    return {key: value.pin_memory().to(device, non_blocking=True) for key, value in batch.items()}
