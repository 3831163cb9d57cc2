"""Random streams: each seed and purpose has its own generator, so no stream moves another."""

import functools
from typing import Literal, get_args

import numpy as np
import torch

Purpose = Literal[
    "head", "reinit", "order", "dropout", "weights", "masks", "held_out", "held_out_masks", "mixout", "examples"
]
# New ones go to the end: the place is part of the seed.
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def derive_seed(seed: int, purpose: Purpose, part: int = 0) -> int:
    """Returns a 63-bit seed for one purpose (and part of it, such as an epoch), unrelated to any other's."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), part])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(seed: int, purpose: Purpose, part: int = 0) -> torch.Generator:
    """Returns a generator on the CPU, so that what it draws does not depend on the device."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, part))


@functools.lru_cache(maxsize=1)  # asked for at every step
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Returns the order of the training rows in one epoch: a function of seed and epoch, so no state is carried."""
    return torch.randperm(rows, generator=make_generator(seed, "order", epoch)).numpy()


def batch_row_indices(seed: int, step: int, rows: int, batch_size: int) -> np.ndarray:
    """Returns the training rows of update `step`: a function of seed and step alone."""
    epoch, position = divmod(step, -(-rows // batch_size))
    return epoch_order(seed, epoch, rows)[position * batch_size : (position + 1) * batch_size]


def global_rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the state of the global generators that dropout draws from on this device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_global_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Puts the global generators back to where `global_state` found them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
