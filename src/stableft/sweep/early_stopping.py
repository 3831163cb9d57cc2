"""Early stopping of seeds: start many, stop the lowest, continue the rest (Dodge et al. 2020).

All runs of a sweep that differ in nothing but their seeds are compared at the first evaluation after a share of their
steps. It depends on their scores there alone which ones end, not on what is done or in which order.
"""

import math
from collections.abc import Iterable

from stableft.config.run_config import SHARE_TOLERANCE, RunConfig, Seeds, has_reached_share
from stableft.config.sweep_file import EarlyStoppingRule, describe_early_stopping_rule
from stableft.records.run_record import EarlyStopRecord, EvalPoint, RunRecord


def setting_key(config: RunConfig) -> str:
    """Returns a key that is equal for runs that differ in nothing but their seeds."""
    return config.model_copy(update={"seeds": Seeds(init=0, data=0)}).run_id


def find_ranking_eval(record: RunRecord, after: float) -> EvalPoint | None:
    """Returns a run's first evaluation at or after that share of its steps, None if it ended (or is) before."""
    return next(
        (point for point in record.evals if has_reached_share(record.config, point.step, point.epoch, after)), None
    )


def select_runs_to_stop(records: Iterable[RunRecord], rule: EarlyStoppingRule) -> dict[str, EarlyStopRecord]:
    """Returns run id -> rank of those of the runs of one setting that end, the share `lowest` of them, rounded down.

    NaN is lowest, as is a run that diverged before; of equal scores that of the higher seed (`init`, then `data`).
    Runs that crashed before it have no rank.
    """
    ranked = []
    for record in records:
        point, seeds = find_ranking_eval(record, rule.after), record.config.seeds
        if point or record.status != "crashed":
            score = point.val[record.config.selection_metric] if point else math.nan
            order = -math.inf if math.isnan(score) else score
            ranked.append((order, -seeds.init, -seeds.data, score, point.step if point else record.steps, record))
    ranked.sort(key=lambda entry: entry[:3])
    n = len(ranked)
    return {
        record.run_id: EarlyStopRecord(score=score, step=step, rank=n - i, of=n, after=rule.after, lowest=rule.lowest)
        for i, (*_, score, step, record) in enumerate(ranked[: math.floor(n * rule.lowest + SHARE_TOLERANCE)])
    }


def as_stopped_early(record: RunRecord, stop: EarlyStopRecord) -> RunRecord:
    """Returns the record of a paused run that is not to go on."""
    metric = record.config.selection_metric
    reason = (
        f"stopped early as hopeless: validation {metric} {stop.score:.4f} after step {stop.step} ranks {stop.rank} of "
        f"{stop.of}; {describe_early_stopping_rule(stop.after, stop.lowest)} end there"
    )
    return record.model_copy(update={"status": "stopped", "reason": reason, "stop": stop})
