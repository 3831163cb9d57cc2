"""Intermediate-task training (Phang et al. 2018; Z sec. 7.1): initialize a run from the weights of a finished one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stableft.config.local_files import file_digest
from stableft.config.run_config import RunConfig
from stableft.errors import UserError
from stableft.records.file_sums import check_undamaged
from stableft.records.run_record import BEST_FOLDER, LAST_FOLDER, RunRecord, StartRecord, read_record, run_folder
from stableft.transient import retrying

if TYPE_CHECKING:
    from torch import nn


WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class StartWeights:
    """The weights of a finished run that initialize another. `with_head`: also the head, since the labels are equal."""

    record: RunRecord
    path: Path
    with_head: bool

    def to_record(self) -> StartRecord:
        """Return the entry for the record of the run that they initialize."""
        config = self.record.config
        return StartRecord(
            sha256=file_digest(self.path), recipe=self.record.recipe, task=config.data.task, seeds=config.seeds
        )


def find_start_weights(config: RunConfig, results: Path) -> StartWeights | None:
    """Return the weights that the config's `start_from` names, or None if it is not set.

    Raises:
        UserError: The run has not finished or is of another model, or its weights were not saved or are damaged.
    """
    if config.start_from is None:
        return None
    run_id, checkpoint = config.start_from.run, config.start_from.checkpoint
    record = read_record(results, run_id)
    if record is not None and record.command is not None:
        raise UserError(f"start_from: run {run_id} is a command, and the sweep does not know of its weights")
    if record is None or record.status != "finished":
        how = "has crashed" if record and record.status == "crashed" else "has not finished"
        raise UserError(f"start_from: run {run_id} {how} in {results}; only the weights of a finished run can be used")
    theirs, ours = record.run_config.model, config.model
    if theirs.identity != ours.identity:
        raise UserError(
            f"start_from: run {run_id} was trained from model {theirs.name!r}, so a run with model {ours.name!r} "
            "cannot start from it"
        )
    folder = run_folder(results, run_id)
    path = folder / {"best": BEST_FOLDER, "last": LAST_FOLDER}[checkpoint] / WEIGHTS_FILE
    if not path.is_file() and record.reason:  # it diverged
        raise UserError(f"start_from: run {run_id} has no {checkpoint} weights: {record.reason}; name another run")
    remedy = f"delete {folder} and train it again with --save {checkpoint} (automatic if the sweep trains it first)"
    if not path.is_file():
        raise UserError(
            f"start_from: run {run_id} is finished, but its {checkpoint} weights are missing ({path}): {remedy}"
        )
    check_undamaged(folder, record.files, path.parent.name, remedy)
    same_head = record.config.task.labels == config.task.labels and (theirs.head or "stock") == (ours.head or "stock")
    return StartWeights(record, path, same_head)


@retrying
def load_start_weights(model: "nn.Module", start: StartWeights, head: Sequence[str]) -> None:
    """Replace the model's weights by `start`. Without `start.with_head`, keep those of the `head` modules.

    Raises:
        UserError: The weights do not fit the model.
    """
    import torch  # imported here, so that `find_start_weights` does not need torch
    from safetensors.torch import load_file

    tensors, ours = load_file(start.path), model.state_dict()
    # Tied weights have one name in the file and several in the model, so compare storage instead of names.
    loaded_storage = {ours[name].data_ptr() for name in tensors if name in ours}
    for name in ours.keys() | tensors.keys():
        if not start.with_head and any(name.startswith(f"{module}.") for module in head):
            continue
        if name not in ours or (name not in tensors and ours[name].data_ptr() not in loaded_storage):
            has = "has no" if name not in tensors else "has"
            raise UserError(f"start_from: {start.path} {has} {name}, unlike the model to initialize")
        if name in tensors:
            if tensors[name].shape != ours[name].shape:
                raise UserError(f"start_from: {start.path} has {name} in another shape than the model to initialize")
            with torch.no_grad():
                ours[name].copy_(tensors[name])
