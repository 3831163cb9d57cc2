"""The learning-rate schedule and Adam's bias ratio, as plain functions of the step."""

import math


def warmup_linear(step: int, total: int, warmup: int) -> float:
    """Returns the factor on the learning rate of update `step` (counted from 0) of `total`.

    It rises linearly from 0 over `warmup` updates and falls linearly to 0 at `total` (M sec. 3.2, Z sec. 3). As in
    both releases the very first update has factor 0: the moments move, the weights do not.
    """
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def bias_ratio(t: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Returns how many times larger Adam's update `t` (from 1) is without bias correction (Z Fig. 1; M Fig. 6 is 1/x)."""
    return (1 - beta1**t) / math.sqrt(1 - beta2**t)
