"""Outputs and losses of a model on a split. Draws no random number."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stableft.config.run_config import RunConfig, TrainingConfig
from stableft.data.tokens import InputLayout, LabeledRows, collate

AUTOCAST_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class EvalOutputs:
    """`values` [rows, classes] (or [rows, 1]) in float32, in the order of the split's rows, and their mean loss."""

    values: np.ndarray
    loss: float


def loss_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    """Returns the summed loss in float32: cross-entropy, or squared error for float labels (regression)."""
    outputs = outputs.float()
    if labels.is_floating_point():
        return functional.mse_loss(outputs[:, 0], labels, reduction="sum")
    return functional.cross_entropy(outputs, labels, reduction="sum")


def autocast(config: TrainingConfig, device: torch.device):
    """Returns the context in which the config's precision computes; in fp32 it does nothing."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, AUTOCAST_DTYPES[config.precision])


@torch.no_grad()
def evaluate(
    model: nn.Module, rows: LabeledRows, config: RunConfig, inputs: InputLayout, device: torch.device
) -> EvalOutputs:
    """Returns the model's outputs on `rows`, with dropout off; the model is left in training mode.

    Batches are made of rows of like length, longest first, so that little is padded and memory runs out at once if
    at all; then the batch is halved.
    """
    model.eval()
    by_length = np.argsort(-np.diff(rows.offsets), kind="stable")

    def logits(start: int, stop: int) -> Tensor:
        batch = collate(rows, by_length[start:stop], inputs, config.data)
        batch.pop("labels")
        with autocast(config, device):
            return model(**to_device(batch, device)).logits.float()

    outputs = torch.cat(run_in_batches(logits, len(rows), config.evaluation.batch_size)).cpu()
    model.train()
    values = torch.empty_like(outputs)
    values[torch.from_numpy(by_length)] = outputs
    loss = loss_sum(values, torch.from_numpy(rows.labels)) / len(rows)
    return EvalOutputs(values.numpy(), float(loss))


def run_in_batches(compute: Callable[[int, int], Tensor], rows: int, size: int) -> list[Tensor]:
    """Returns what `compute(start, stop)` gives for all rows, `size` at a time, fewer when memory runs out."""
    start, parts = 0, []
    while start < rows:
        try:
            parts.append(compute(start, min(start + size, rows)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = -(-size // 2)
            continue
        start += size
    return parts


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Returns the batch on the device; towards a GPU from pinned memory, without waiting."""
    if device.type == "cpu":
        return batch
    return {key: value.pin_memory().to(device, non_blocking=True) for key, value in batch.items()}
