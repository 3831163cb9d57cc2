"""The learning-rate schedule and Adam's bias ratio, as plain functions of the step."""

import math

from stableft.config.run_config import EvaluationConfig, PretrainEvaluationConfig, ScheduleConfig
from stableft.errors import UserError


def warmup_linear(step: int, total: int, warmup: int) -> float:
    """Returns the factor on the learning rate of update `step` (counted from 0) of `total`.

    It rises linearly from 0 over `warmup` updates and falls linearly to 0 at `total` (M sec. 3.2, Z sec. 3). As in
    both releases the very first update has factor 0: the moments move, the weights do not.
    """
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def warmup_steps(schedule: ScheduleConfig, total: int) -> int:
    """Returns over how many of `total` updates the learning rate rises."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    assert schedule.warmup is not None
    return int(schedule.warmup * total)


def bias_ratio(t: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Returns how many times larger Adam's update `t` (from 1) is without bias correction (Z Fig. 1; M Fig. 6: 1/x)."""
    return (1 - beta1**t) / math.sqrt(1 - beta2**t)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Returns the number of updates in an epoch; the last, shorter batch counts."""
    return -(-rows // batch_size)


def total_steps(schedule: ScheduleConfig, rows: int) -> int:
    """Returns the number of updates in a run.

    Raises:
        UserError: they are fewer than those over which the learning rate is to rise.
    """
    if schedule.length.steps:
        return schedule.length.steps
    assert schedule.length.epochs
    total = steps_per_epoch(rows, schedule.batch_size) * schedule.length.epochs
    if (schedule.warmup_steps or 0) > total:
        raise UserError(f"schedule.warmup_steps: {schedule.warmup_steps} are more than the {total} steps of the run")
    return total


def evaluation_steps(
    evaluation: EvaluationConfig | PretrainEvaluationConfig, total: int, per_epoch: int
) -> tuple[int, ...]:
    """Returns the steps after which to evaluate, in order; the last step is always one of them.

    `times: N` is every total // N steps and the end: N or N + 1 evaluations (Z's released code). `per_epoch: N` is
    every per_epoch // N steps, each epoch's end and the end (M's released code).
    """
    if evaluation.every.times:
        every, epoch_ends = max(1, total // evaluation.every.times), range(0)
    else:
        assert evaluation.every.per_epoch
        every, epoch_ends = max(1, per_epoch // evaluation.every.per_epoch), range(per_epoch, total, per_epoch)
    steps = {*range(every, total, every), *epoch_ends, total}
    return tuple(sorted(steps | ({0} if evaluation.at_start else set())))
