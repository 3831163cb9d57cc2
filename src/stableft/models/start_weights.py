"""Intermediate-task training (Phang et al. 2018; Z sec. 7.1): start from the weights of a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stableft.config.local_files import file_digest
from stableft.config.run_config import RunConfig
from stableft.errors import UserError
from stableft.records.run_record import BEST_FOLDER, LAST_FOLDER, RunRecord, StartRecord, read_record, run_folder

if TYPE_CHECKING:
    from torch import nn


WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class StartWeights:
    """A finished run whose weights another starts from. `with_head`: the head too, as both have the same labels."""

    record: RunRecord
    weights: Path
    with_head: bool

    def described(self) -> StartRecord:
        """Returns what a run's record keeps of it."""
        config = self.record.config
        return StartRecord(
            sha256=file_digest(self.weights), recipe=self.record.recipe, task=config.data.task, seeds=config.seeds
        )


def find_start_weights(config: RunConfig, results: Path) -> StartWeights | None:
    """Returns what the config's `start_from` names, None if it names nothing.

    Raises:
        UserError: the run has not finished here, was trained from another model, or its weights were not kept.
    """
    if config.start_from is None:
        return None
    run_id, checkpoint = config.start_from.run, config.start_from.checkpoint
    record = read_record(results, run_id)
    if record is None or record.status != "finished":
        how = f"has {record.status}" if record and record.status == "crashed" else "has not finished"
        raise UserError(f"start_from: run {run_id} {how} in {results}; only the weights of a finished run can be used")
    theirs, ours = record.config.model, config.model
    if theirs.identity != ours.identity:
        raise UserError(
            f"start_from: run {run_id} was trained from model {theirs.name!r}, and a run with model {ours.name!r} "
            "cannot start from it"
        )
    folder = run_folder(results, run_id)
    weights = folder / {"best": BEST_FOLDER, "last": LAST_FOLDER}[checkpoint] / WEIGHTS_FILE
    if not weights.is_file() and record.reason:
        raise UserError(f"start_from: run {run_id} has no {checkpoint} weights: {record.reason}; name another run")
    if not weights.is_file():
        raise UserError(
            f"start_from: run {run_id} is finished, but its {checkpoint} weights are not there ({weights}): delete "
            f"{folder} and train it again with --save {checkpoint}, which a sweep that trains it first does by itself"
        )
    same_head = record.config.task.labels == config.task.labels and (theirs.head or "stock") == (ours.head or "stock")
    return StartWeights(record, weights, same_head)


def load_start_weights(model: "nn.Module", start: StartWeights, head: Sequence[str]) -> None:
    """Replaces the model's weights by those of the run it starts from, but for the `head` modules of other labels.

    Raises:
        UserError: they are not weights of this model.
    """
    import torch  # these two here, so that looking for a run's weights does not wait for torch
    from safetensors.torch import load_file

    tensors, ours = load_file(start.weights), model.state_dict()
    # Weights that are tied stand in a file once and in the model under several names.
    given = {ours[name].data_ptr() for name in tensors if name in ours}
    for name in ours.keys() | tensors.keys():
        if not start.with_head and any(name.startswith(f"{module}.") for module in head):
            continue
        if name not in ours or (name not in tensors and ours[name].data_ptr() not in given):
            has = "has no" if name not in tensors else "has"
            raise UserError(f"start_from: {start.weights} {has} {name}, unlike the model that is to start from it")
        if name in tensors:
            if tensors[name].shape != ours[name].shape:
                raise UserError(f"start_from: {start.weights} has {name} of another shape than the model here")
            with torch.no_grad():
                ours[name].copy_(tensors[name])
