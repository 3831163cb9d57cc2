"""Random streams: each pair of seed and purpose has its own generator, so that no stream affects another."""

import functools
from typing import Literal, get_args

import numpy as np
import torch

Purpose = Literal[
    "head", "reinit", "order", "dropout", "weights", "masks", "held_out", "held_out_masks", "mixout", "examples"
]
# Append only: the position enters the derived seed.
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def derive_seed(seed: int, purpose: Purpose, part: int = 0) -> int:
    """Return a 63-bit seed for one purpose (and `part`, such as an epoch), independent of all others."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), part])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(seed: int, purpose: Purpose, part: int = 0) -> torch.Generator:
    """Return a CPU generator, so that the drawn numbers do not depend on the device."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, part))


@functools.lru_cache(maxsize=1)  # called at every step
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Return the order of the training rows in an epoch. It depends on the arguments alone: a resume needs no state."""
    return torch.randperm(rows, generator=make_generator(seed, "order", epoch)).numpy()


def batch_row_indices(seed: int, step: int, rows: int, batch_size: int) -> np.ndarray:
    """Return the training rows of update `step`, which depend on the arguments alone."""
    epoch, position = divmod(step, -(-rows // batch_size))
    return epoch_order(seed, epoch, rows)[position * batch_size : (position + 1) * batch_size]


def global_rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of the global generators, from which dropout draws on this device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_global_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore the state that `global_rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
