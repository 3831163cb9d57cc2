"""Checkpoints of an unfinished run: everything a bit-exact resume needs, and how often to write them."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write, set_aside
from stableft.seeds import global_rng_state, restore_global_rng_state
from stableft.training.step import TrainState

CHECKPOINT_TIME_SHARE = 0.02  # share of a run's time that may go into checkpoints without --checkpoint-every
ASSUMED_BYTES_PER_SECOND = 200e6  # write speed, assumed until a checkpoint has been timed
MODEL_CONDITION = "model"  # the condition that holds a hub model's name@commit
# Keys in the file, too.
SAVED_STATE_FIELDS = (
    "step", "micro_batch", "halved", "halved_at", "eval_batch", "history", "evals", "best", "seconds", "recorded",
)  # fmt: skip


@dataclass
class CheckpointBudget:
    """Decides whether there is time for a checkpoint if --checkpoint-every is not given."""

    write_seconds: float  # duration of the latest write
    started_at: float = 0.0  # seconds into the run at which this process started or resumed it
    spent_seconds: float = 0.0  # on writes by this process

    def allows(self, seconds: float) -> bool:
        """Return whether a checkpoint `seconds` into the run keeps the time spent within CHECKPOINT_TIME_SHARE."""
        return self.spent_seconds + self.write_seconds <= CHECKPOINT_TIME_SHARE * (seconds - self.started_at)


def initial_checkpoint_budget(state: TrainState) -> CheckpointBudget:
    """Return the budget of a run that starts or resumes now, its write time estimated from the model's size."""
    weight_bytes = sum(p.numel() * p.element_size() for p in state.model.parameters())
    # Three times: the weights and Adam's two moments.
    return CheckpointBudget(write_seconds=3 * weight_bytes / ASSUMED_BYTES_PER_SECOND, started_at=state.seconds)


def save_checkpoint(
    folder: Path, state: TrainState, conditions: dict, device: torch.device, budget: CheckpointBudget
) -> None:
    """Write the state atomically, with the `conditions` under which it may be resumed, and charge the budget."""
    start = time.perf_counter()
    content = {
        "facts": conditions,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random": global_rng_state(device),
        **{name: getattr(state, name) for name in SAVED_STATE_FIELDS},
    }
    atomic_write(folder / CHECKPOINT_FILE, lambda file: torch.save(content, file), _count_bytes(content))
    budget.write_seconds = time.perf_counter() - start
    budget.spent_seconds += budget.write_seconds


def _count_bytes(content: Any) -> int:
    """Return the bytes of all tensors in a checkpoint's content, which are nearly all of its file."""
    if isinstance(content, Mapping):
        return sum(map(_count_bytes, content.values()))
    if isinstance(content, list | tuple):
        return sum(map(_count_bytes, content))
    return content.nbytes if isinstance(content, torch.Tensor) else 0


def load_checkpoint(folder: Path, state: TrainState, conditions: dict, device: torch.device) -> bool:
    """Restore `state` and the global generators from the checkpoint. Return False if there is none.

    An unreadable checkpoint is set aside with a warning.

    Raises:
        UserError: The checkpoint was made under other conditions, so resuming would change the results.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        step, saved_conditions = content["step"], content["facts"]
    except Exception as error:  # torch.load raises many types of exceptions; in any case the file is unusable
        logging.getLogger(__name__).warning("cannot read %s (%s); set aside as %s", path, error, set_aside(path))
        return False
    for key, value in conditions.items():
        if key == MODEL_CONDITION and key not in saved_conditions:  # a checkpoint of an older version
            continue
        if (saved := saved_conditions.get(key)) != value:
            before = (
                f"pin `model: {saved}` for runs of that commit" if key == MODEL_CONDITION else "resume it as before"
            )
            raise UserError(
                f"run {folder.name} has a checkpoint from step {step} made with {key} {saved!r}, but now it is "
                f"{value!r}: {before}, or delete {path} to start the run over"
            )
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    for name in SAVED_STATE_FIELDS:  # checkpoints of older versions lack some
        setattr(state, name, content.get(name, getattr(state, name)))
    restore_global_rng_state(content["random"], device)
    return True
