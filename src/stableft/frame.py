"""Records -> one DataFrame, one row per run: what every table and figure is made from."""

import hashlib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stableft.hopeless import describe_rule
from stableft.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {
    "run_id": "object",
    "arm": "object",
    "recipe": "object",
    "task": "object",
    "model": "object",
    "status": "object",  # finished, crashed, stopped
    "reason": "object",
    "score": "float64",  # the reported one, a fraction; NaN: diverged if `scored`, else there is none
    "scored": "bool",
    "checkpoint": "object",  # whose score it is: last, best
    "metric": "object",
    "split": "object",  # val, test
    "last": "float64",  # reported metric and split, as are `best` and `baseline`
    "best": "float64",
    "last_val": "float64",  # reported metric, validation split
    "best_val": "float64",
    "baseline": "float64",  # of always predicting the most frequent class
    "failed": "boolean",  # NA: crashed, or nobody knows
    "failed_by_accuracy": "boolean",
    "diverged": "bool",  # its last score is NaN, though its best may not be
    "train_loss": "float64",  # mean since the evaluation before the last one
    "steps": "int64",
    "skipped_steps": "int64",
    "seconds": "float64",
    "seed_init": "object",  # integers up to 2**63
    "seed_data": "object",
    "setting": "object",  # equal for runs that differ in nothing but their seeds
    "data_fingerprint": "object",
    "device": "object",
    "source": "object",  # None: this project's own run
    "copies": "int64",  # how many finished records of this run came in; the first one counts
    "start_sha256": "object",  # of those weights
    "start": "object",  # which run it started from, in words; None: the pre-trained weights
    "rule": "object",  # by which it was stopped early, in words
    "label_entropy": "float64",  # of the training labels, in nats: the loss of a model that has learnt nothing
}


class Name(NamedTuple):
    """An arm that asks for a run, and which checkpoint's score it reports; two arms may differ in that alone."""

    arm: str
    recipe: str
    report: Literal["last", "best"]


def frame(
    records: Iterable[RunRecord],
    names: dict[str, list[Name]] | None = None,
    which: Literal["recipe", "last", "best"] = "recipe",
) -> "pd.DataFrame":
    """Returns one row per run, or per arm where arms share a run.

    `names` maps a run id to the arms that ask for it, and records of other runs are left out; None takes the names
    that are stored with the records. `which` says whose score is reported: the last checkpoint's, the
    best one's, or as each run's own recipe says. A record that comes in twice (a run folder and a committed file)
    counts once.
    """
    import pandas as pd  # takes half a second

    rows: dict[tuple, dict[str, Any]] = {}
    for record in records:
        stored = Name(record.arm, record.recipe, record.config.evaluation.report)
        for arm, recipe, report in [stored] if names is None else names.get(record.run_id, ()):
            key = (record.run_id, record.source, arm)
            known = rows.get(key)
            if known is None or known["status"] != "finished":
                rows[key] = _row(record, report if which == "recipe" else which) | {"arm": arm, "recipe": recipe}
            elif record.status == "finished":
                known["copies"] += 1
    return pd.DataFrame(list(rows.values()), columns=list(DTYPES)).astype(DTYPES)


def _row(record: RunRecord, checkpoint: Literal["last", "best"]) -> dict[str, Any]:
    config, finished = record.config, record.status == "finished"
    metric, split = config.task.metric, config.reported_split
    score = record.score(checkpoint, split, metric) if finished else None
    last = record.score("last", split, metric)
    diverged = finished and any(value is not None and math.isnan(value) for value in (score, last))
    return {
        "run_id": record.run_id,
        "task": config.data.task,
        "model": config.model.name,
        "status": record.status,
        "reason": record.reason,
        "score": score,
        "scored": score is not None,
        "checkpoint": checkpoint,
        "metric": metric,
        "split": split,
        "last": last,
        "best": record.score("best", split, metric),
        "last_val": record.score("last", "val", metric),
        "best_val": record.score("best", "val", metric),
        "baseline": record.data.baselines.get(split, {}).get(metric) if record.data else None,
        "failed": None if not finished else True if diverged else record.failed,
        "failed_by_accuracy": record.failed_by_accuracy if finished else None,
        "diverged": diverged,
        "train_loss": record.evals[-1].train_loss if record.evals else None,
        "steps": record.steps,
        "skipped_steps": record.skipped_steps,
        "seconds": record.seconds,
        "seed_init": config.seeds.init,
        "seed_data": config.seeds.data,
        "setting": hashlib.sha256(config.model_dump_json(exclude={"seeds"}).encode()).hexdigest()[:16],
        "data_fingerprint": record.data.fingerprint if record.data else None,
        "device": record.environment.device if record.environment else None,
        "source": record.source,
        "copies": int(finished),
        "start": _start(record),
        "start_sha256": record.start.sha256 if record.start else None,
        "rule": describe_rule(record.stop.after, record.stop.lowest) if record.stop else None,
        "label_entropy": record.data.label_entropy if record.data else None,
    }


def _start(record: RunRecord) -> str | None:
    start, named = record.start, record.config.start_from
    if start is None or named is None:
        return None
    return (
        f"the {named.checkpoint} weights of run {named.run} ({start.recipe} on {start.task}, seed {start.seeds.init})"
    )
