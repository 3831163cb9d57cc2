"""Checkpoints of an unfinished run: everything a bit-exact resume needs, and how often to write them."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stableft.errors import UserError, storage_error
from stableft.records.atomic_folder import set_aside
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write
from stableft.seeds import global_rng_state, restore_global_rng_state
from stableft.training.step import TrainState

CHECKPOINT_TIME_SHARE = 0.02  # share of a run's time that may go into checkpoints without --checkpoint-every
ASSUMED_BYTES_PER_SECOND = 200e6  # write speed, assumed until a checkpoint has been timed
MODEL_CONDITION = "model"  # the condition that holds a hub model's name@commit
# Conditions that a command decides: it may be a mistake, so the run is refused. The others are the machine's, whose
# change the user may not even know of: the run starts again.
COMMAND_CONDITIONS = (
    "run_id", "data", "start", "probes", "micro_batch", "tf32", "deterministic", "compile", MODEL_CONDITION,
)  # fmt: skip
# Those that a checkpoint may not state, because an older version wrote it or they could not be read: any will do then.
LATER_CONDITIONS = ("processor", "cuda", "cudnn", "cublas", "driver")
# Keys in the file, too.
SAVED_STATE_FIELDS = (
    "step", "micro_batch", "halved", "halved_at", "eval_batch", "eval_halved_at", "history", "evals", "best",
    "seconds", "energy", "recorded", "commits",
)  # fmt: skip
CHECKSUM_MARK = b"\nsha256 "  # and 64 digits: of the bytes before it, at the end of the file
CHECKSUM_BYTES = len(CHECKSUM_MARK) + 64


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
    atomic_write(folder / CHECKPOINT_FILE, lambda file: write_with_checksum(file, content), _count_bytes(content))
    budget.write_seconds = time.perf_counter() - start
    budget.spent_seconds += budget.write_seconds


def _count_bytes(content: Any) -> int:
    """Return the bytes of all tensors in a checkpoint's content, which are nearly all of its file."""
    if isinstance(content, Mapping):
        return sum(map(_count_bytes, content.values()))
    if isinstance(content, list | tuple):
        return sum(map(_count_bytes, content))
    return content.nbytes if isinstance(content, torch.Tensor) else 0


class _HashedFile:
    """A file for torch.save that hashes what is written, so that nothing is read again."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_with_checksum(file: BinaryIO, content: dict) -> None:
    """Write what `read_with_checksum` reads: the form of torch.save, and behind it a SHA-256 of all of it."""
    hashed = _HashedFile(file)
    torch.save(content, hashed)  # pyright: ignore[reportArgumentType]
    file.write(CHECKSUM_MARK + hashed.digest.hexdigest().encode())


def read_with_checksum(path: Path) -> dict:
    """Return the content of a checkpoint, with tensors on the CPU.

    The file is hashed in pieces before it is loaded: a second read, mostly from the page cache, but no second copy in
    memory. For 400 MB this takes 0.4 s, and the hash at writing 0.2 s.

    Raises:
        ValueError: a byte was changed, or some are missing.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - CHECKSUM_BYTES
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        if left or file.read() != CHECKSUM_MARK + digest.hexdigest().encode():
            raise ValueError("it does not match its checksum, or an older version wrote it without one")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_checkpoint(folder: Path, state: TrainState, conditions: dict, device: torch.device) -> bool:
    """Restore `state` and the global generators from the checkpoint. Return False if there is none that can be used.

    A damaged checkpoint is set aside with a warning. One of another machine is left to be overwritten, with a warning.

    Raises:
        UserError: The command asks for something else than the checkpoint was made with, or it is a link to nothing.
    """
    path, warn = folder / CHECKPOINT_FILE, logging.getLogger(__name__).warning
    if not path.exists():
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which does not exist; delete it to start the run over"
            )
        return False
    try:
        content = read_with_checksum(path)
        step, saved_conditions = content["step"], content["facts"]
    except Exception as error:  # torch.load raises many types of exceptions; in any case the file is unusable
        if full := storage_error(error, path):
            raise full from error
        warn(
            "cannot read %s (%s): set aside as %s; run %s starts again from step 0",
            path, error, set_aside(path).name, folder.name,
        )  # fmt: skip
        return False
    # Those of the command first: it is refused, whatever the machine.
    for key, value in sorted(conditions.items(), key=lambda item: item[0] not in COMMAND_CONDITIONS):
        if (saved := saved_conditions.get(key)) == value or (key in LATER_CONDITIONS and saved is None):
            continue
        if key not in COMMAND_CONDITIONS:
            warn(
                "run %s has a checkpoint from step %s made with %s %r, but now it is %r: it starts again from step 0",
                folder.name, step, key, saved, value,
            )  # fmt: skip
            return False
        before = f"pin `model: {saved}` for runs of that commit" if key == MODEL_CONDITION else "resume it as before"
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
