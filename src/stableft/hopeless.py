"""Which runs look hopeless early on (Dodge et al. 2020: start many, stop early, continue some).

All runs of a sweep that differ in nothing but their seeds are compared at the first evaluation after a share of their
steps. It depends on their scores there alone which ones end, not on what is done or in which order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stableft.config import RunConfig, Seeds
from stableft.errors import UserError
from stableft.record import EvalPoint, RunRecord, StopRecord

ROUNDING = 1e-9  # of a share: 0.3 of 10 epochs are 3


@dataclass(frozen=True)
class Rule:
    """After the share `after` of their steps, the share `lowest` of the runs ends."""

    after: float
    lowest: float


def parse_rule(value: Any, where: str) -> Rule | None:
    """Returns the rule that `stop_hopeless` gives, None for null.

    Raises:
        UserError: it is no mapping of the two shares.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"after", "lowest"}:
        raise UserError(f"{where}: stop_hopeless must be {{after: 0.3, lowest: 0.5}}, two shares, not {value!r}")
    for key, share in value.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"{where}: stop_hopeless: {key}: {share!r} must be a share between 0 and 1")
    return Rule(value["after"], value["lowest"])


def describe_rule(after: float, lowest: float) -> str:
    """Returns a rule in words."""
    return f"the lowest {100 * lowest:g} % by validation score after {100 * after:g} % of the steps"


def setting_of(config: RunConfig) -> str:
    """Returns a key that is equal for runs that differ in nothing but their seeds."""
    return config.model_copy(update={"seeds": Seeds(init=0, data=0)}).run_id


def is_due(config: RunConfig, step: int, epoch: float, after: float) -> bool:
    """Returns whether an evaluation comes at or after that share of a run's steps."""
    length = config.schedule.length
    share = epoch / length.epochs if length.epochs else step / (length.steps or 1)
    return share >= after - ROUNDING


def trial_of(record: RunRecord, after: float) -> EvalPoint | None:
    """Returns a run's first evaluation at or after that share of its steps, None if it ended (or is) before."""
    return next((point for point in record.evals if is_due(record.config, point.step, point.epoch, after)), None)


def hopeless(records: Iterable[RunRecord], rule: Rule) -> dict[str, StopRecord]:
    """Returns run id -> rank of those of the runs of one setting that end, the share `lowest` of them, rounded down.

    NaN is lowest, as is a run that diverged before; of equal scores that of the higher seed (`init`, then `data`).
    Runs that crashed before it have no rank.
    """
    ranked = []
    for record in records:
        point, seeds = trial_of(record, rule.after), record.config.seeds
        if point or record.status != "crashed":
            score = point.val[record.config.selection_metric] if point else math.nan
            order = -math.inf if math.isnan(score) else score
            ranked.append((order, -seeds.init, -seeds.data, score, point.step if point else record.steps, record))
    ranked.sort(key=lambda entry: entry[:3])
    n = len(ranked)
    return {
        record.run_id: StopRecord(score=score, step=step, rank=n - i, of=n, after=rule.after, lowest=rule.lowest)
        for i, (*_, score, step, record) in enumerate(ranked[: math.floor(n * rule.lowest + ROUNDING)])
    }


def stopped(record: RunRecord, stop: StopRecord) -> RunRecord:
    """Returns the record of a paused run that is not to go on."""
    metric = record.config.selection_metric
    reason = (
        f"stopped early as hopeless: validation {metric} {stop.score:.4f} after step {stop.step} ranks {stop.rank} of "
        f"{stop.of}; {describe_rule(stop.after, stop.lowest)} end there"
    )
    return record.model_copy(update={"status": "stopped", "reason": reason, "stop": stop})
