"""Early-stop seeds: start many, stop the lowest-ranked, continue the rest (Dodge et al. 2020).

Runs that differ only in their seeds are compared at the first evaluation after a given share of their steps. Which
runs stop depends only on their scores there, not on the order in which they are executed.
"""

import math
from collections.abc import Iterable

from stableft.config.run_config import SHARE_TOLERANCE, has_reached_share
from stableft.config.sweep_keys import EarlyStoppingRule, describe_early_stopping_rule
from stableft.records.run_record import EarlyStopRecord, EvalPoint, RunRecord


def find_ranking_eval(record: RunRecord, after: float) -> EvalPoint | None:
    """Return the first evaluation at or after this share of a run's steps, or None if there is none (yet)."""
    return next(
        (point for point in record.evals if has_reached_share(record.run_config, point.step, point.epoch, after)), None
    )


def select_runs_to_stop(records: Iterable[RunRecord], rule: EarlyStoppingRule) -> dict[str, EarlyStopRecord]:
    """Return run id -> rank of the runs to stop: the share `lowest` of one setting's runs, rounded down.

    NaN ranks lowest, and so does a run that diverged before this evaluation. Of equal scores, the higher seed (`init`,
    then `data`) ranks lower. Runs that crashed before this evaluation are not ranked.
    """
    ranked = []
    for record in records:
        point, seeds = find_ranking_eval(record, rule.after), record.config.seeds
        if point or record.status != "crashed":
            score = point.val[record.run_config.selection_metric] if point else math.nan
            order = -math.inf if math.isnan(score) else score
            ranked.append((order, -seeds.init, -seeds.data, score, point.step if point else record.steps, record))
    ranked.sort(key=lambda entry: entry[:3])
    n = len(ranked)
    return {
        record.run_id: EarlyStopRecord(score=score, step=step, rank=n - i, of=n, after=rule.after, lowest=rule.lowest)
        for i, (*_, score, step, record) in enumerate(ranked[: math.floor(n * rule.lowest + SHARE_TOLERANCE)])
    }


def as_stopped_early(record: RunRecord, stop: EarlyStopRecord) -> RunRecord:
    """Return a paused run's record, marked as early-stopped."""
    metric = record.run_config.selection_metric
    reason = (
        f"stopped early as hopeless: validation {metric} {stop.score:.4f} after step {stop.step} ranks {stop.rank} of "
        f"{stop.of}; {describe_early_stopping_rule(stop.after, stop.lowest)} end there"
    )
    return record.model_copy(update={"status": "stopped", "reason": reason, "stop": stop})
