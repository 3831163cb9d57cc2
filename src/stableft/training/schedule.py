"""The learning-rate schedule and Adam's bias ratio, as plain functions of the step."""

import math

from stableft.config.run_config import (
    MAX_EVALUATIONS,
    MAX_STEPS,
    EvaluationConfig,
    PretrainEvaluationConfig,
    ScheduleConfig,
)
from stableft.errors import UserError

MAX_EVALUATED_ROWS = 1_000_000_000  # of all evaluations of a run: days on a GPU


def warmup_linear(step: int, total: int, warmup: int) -> float:
    """Return the factor on the learning rate of update `step` (counted from 0) of `total`.

    It rises linearly from 0 over `warmup` updates and falls linearly to 0 at `total` (M sec. 3.2, Z sec. 3). As in
    both papers' code, the very first update has factor 0: it changes Adam's moments, but not the weights.
    """
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def warmup_steps(schedule: ScheduleConfig, total: int) -> int:
    """Return the number of warmup updates of a run of `total`."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    assert schedule.warmup is not None
    return int(schedule.warmup * total)


def bias_ratio(t: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Return the factor by which omitting bias correction enlarges Adam's update `t`, counted from 1.

    Shown in Z Fig. 1; M Fig. 6 shows its inverse.
    """
    return (1 - beta1**t) / math.sqrt(1 - beta2**t)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of updates in an epoch. The last batch may be smaller."""
    return -(-rows // batch_size)


def total_steps(schedule: ScheduleConfig, rows: int) -> int:
    """Return the number of updates in a run.

    Raises:
        UserError: The warmup is longer than the run, or the run has too many steps.
    """
    if schedule.length.steps:
        return schedule.length.steps
    assert schedule.length.epochs
    total = steps_per_epoch(rows, schedule.batch_size) * schedule.length.epochs
    if total > MAX_STEPS:
        raise UserError(
            f"schedule.length.epochs: {schedule.length.epochs} epochs of {rows:,} rows in batches of "
            f"{schedule.batch_size} are {total:,} steps, and {MAX_STEPS:,} are the most"
        )
    if (schedule.warmup_steps or 0) > total:
        raise UserError(f"schedule.warmup_steps: {schedule.warmup_steps} is more than the {total} steps of the run")
    return total


def evaluation_steps(
    evaluation: EvaluationConfig | PretrainEvaluationConfig, total: int, per_epoch: int, rows: int
) -> tuple[int, ...]:
    """Return the steps after which to evaluate `rows` rows, in order. They always include the last step.

    `times: N` evaluates every `total // N` steps and at the end: N or N + 1 times (Z's released code).
    `per_epoch: N` evaluates every `per_epoch // N` steps, after each epoch and at the end (M's released code).

    Raises:
        UserError: There are too many evaluations, or rows in them.
    """
    if evaluation.every.times:
        every, epoch_ends = max(1, total // evaluation.every.times), range(0)
    else:
        assert evaluation.every.per_epoch
        every, epoch_ends = max(1, per_epoch // evaluation.every.per_epoch), range(per_epoch, total, per_epoch)
    about = max(total // every, len(epoch_ends))
    if about > MAX_EVALUATIONS or about * rows > MAX_EVALUATED_ROWS:
        raise UserError(
            f"evaluation.every: {about:,} evaluations of {rows:,} rows are too many; {MAX_EVALUATIONS:,} are the most, "
            f"and {MAX_EVALUATED_ROWS:,} rows in all of them"
        )
    steps = {*range(every, total, every), *epoch_ends, total}
    return tuple(sorted(steps | ({0} if evaluation.at_start else set())))
