"""Checkpoints of an unfinished run: all that a bit-exact resume needs, and how often to write them."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write, set_aside
from stableft.seeds import global_rng_state, restore_global_rng_state
from stableft.training.step import TrainState

CHECKPOINT_TIME_SHARE = 0.02  # of a run's time may go into checkpoints that nobody asked for
ASSUMED_BYTES_PER_SECOND = 200e6  # bytes a second, until one was written and timed
SAVED_STATE_FIELDS = ("step", "micro_batch", "halved", "history", "evals", "best", "seconds", "recorded")


@dataclass
class CheckpointBudget:
    """Decides when the next unasked-for checkpoint is cheap enough."""

    cost: float  # seconds that one takes
    since: float = 0.0  # seconds into the run at which this process took it up
    spent: float = 0.0  # seconds, by this process

    def allows(self, seconds: float) -> bool:
        """True if, `seconds` into the run, one more checkpoint keeps their share of the time under `SHARE`."""
        return self.spent + self.cost <= CHECKPOINT_TIME_SHARE * (seconds - self.since)


def initial_checkpoint_budget(state: TrainState) -> CheckpointBudget:
    """Returns a pace for the size of this model, its weights and two moments, from where the run is now."""
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    return CheckpointBudget(cost=3 * weights / ASSUMED_BYTES_PER_SECOND, since=state.seconds)


def save_checkpoint(folder: Path, state: TrainState, facts: dict, device: torch.device, pace: CheckpointBudget) -> None:
    """Writes the state atomically; `facts` are what must be equal for a resumed run to be the same run."""
    start = time.perf_counter()
    content = {
        "facts": facts,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random": global_rng_state(device),
        **{name: getattr(state, name) for name in SAVED_STATE_FIELDS},
    }
    atomic_write(folder / CHECKPOINT_FILE, lambda file: torch.save(content, file))
    pace.cost = time.perf_counter() - start
    pace.spent += pace.cost


def load_checkpoint(folder: Path, state: TrainState, facts: dict, device: torch.device) -> bool:
    """Puts `state` and the global generators to where the checkpoint left them; False if there is none to go on from.

    One that cannot be read is set aside, and a warning says so.

    Raises:
        UserError: it was made under other `facts`, so that going on from it would not give the same run.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        step, before = content["step"], content["facts"]
    except Exception as error:  # torch.load raises many kinds; whichever it is, the file is of no use
        logging.getLogger(__name__).warning("%s cannot be read (%s); set aside as %s", path, error, set_aside(path))
        return False
    for key, value in facts.items():
        if before.get(key) != value:
            raise UserError(
                f"run {folder.name} has a checkpoint from step {step} made with {key} {before.get(key)!r}, here it is "
                f"{value!r}: go on as before, or delete {path} to start the run afresh"
            )
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    for name in SAVED_STATE_FIELDS:
        setattr(state, name, content.get(name, getattr(state, name)))  # `recorded` came later
    restore_global_rng_state(content["random"], device)
    return True
