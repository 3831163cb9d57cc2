"""One data frame of all records, one row a run: the source of every table and figure."""

import gc
import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stableft.config.run_config import Checkpoint, RunConfig, Split
from stableft.config.sweep_file import describe_early_stopping_rule
from stableft.records.run_record import AnyRunRecord, ImportedRun, RunRecord

if TYPE_CHECKING:
    import pandas as pd


COLUMN_DTYPES = {
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
    "last_val": "float64",  # reported metric, validation split; of an imported run the metric that it has
    "best_val": "float64",
    "baseline": "float64",  # of always predicting the most frequent class
    "val_baseline": "float64",  # the same on the validation split
    "failed": "boolean",  # NA: crashed, or nobody knows
    "failed_by_accuracy": "boolean",
    "diverged": "bool",  # its last score is NaN, though its best may not be
    "train_loss": "float64",  # mean since the evaluation before the last one
    "steps": "Int64",  # NA: an imported run whose length is not known
    "skipped_steps": "int64",
    "seconds": "float64",  # NaN: imported
    "seed_init": "object",  # integers up to 2**63
    "seed_data": "object",
    "setting": "object",  # equal for runs that differ in nothing but their seeds; None: imported
    "data_fingerprint": "object",
    "device": "object",
    "source": "object",  # the file that an imported run came from, and its hash; None: this project's own run
    "copies": "int64",  # how many finished records of this run came in; the first one counts
    "start_sha256": "object",  # of those weights
    "start": "object",  # which run it started from, in words; None: the pre-trained weights
    "rule": "object",  # by which it was stopped early, in words
    "label_entropy": "float64",  # of the training labels, in nats: the loss of a model that has learnt nothing
    "watch": "object",  # the WatchRecord of a run whose gradient norms were recorded, else None
}


class ReportedArm(NamedTuple):
    """An arm that asks for a run, and which checkpoint's score it reports; two arms may differ in that alone."""

    arm: str
    recipe: str
    report: Checkpoint


def build_frame(
    records: Iterable[AnyRunRecord],
    names: dict[str, list[ReportedArm]] | None = None,
    which: Literal["recipe", "last", "best"] = "recipe",
) -> "pd.DataFrame":
    """Returns one row per run, or per arm where arms share a run.

    `names` maps a run id to the arms that ask for it, and records of other runs are left out; None takes the names
    that are stored with the records. `which` says whose score is reported: the last checkpoint's, the
    best one's, or as each run's own recipe says. A record that comes in twice (a run folder and a committed file)
    counts once. The records are read one at a time, so there may be more than fit into memory.
    """
    with _gc_disabled():
        return _build_frame(records, names, which)


def _build_frame(
    records: Iterable[AnyRunRecord],
    names: dict[str, list[ReportedArm]] | None,
    which: Literal["recipe", "last", "best"],
) -> "pd.DataFrame":
    import pandas as pd  # takes half a second

    rows: dict[tuple, dict[str, Any]] = {}
    for record in records:
        for arm, recipe, report in [stored_arm(record)] if names is None else names.get(record.run_id, ()):
            key = (record.run_id, describe_source(record), arm)
            known = rows.get(key)
            if known is None or known["status"] != "finished":
                rows[key] = _row(record, report if which == "recipe" else which)
                rows[key] |= {"arm": arm, "recipe": recipe}
            elif record.status == "finished":
                known["copies"] += 1
    columns = {name: [row[name] for row in rows.values()] for name in COLUMN_DTYPES}
    return pd.DataFrame({name: pd.Series(values, dtype=COLUMN_DTYPES[name]) for name, values in columns.items()})


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Keeps Python from looking for cycles, of which records have none, among ever more rows: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def stored_arm(record: AnyRunRecord) -> ReportedArm:
    """Returns the arm, recipe and checkpoint under which a record was stored."""
    if isinstance(record, ImportedRun):
        return ReportedArm(record.arm, record.arm, record.report)
    return ReportedArm(record.arm, record.recipe, record.config.evaluation.report)


def describe_source(record: AnyRunRecord) -> str | None:
    """Returns where an imported run came from, with the first digits of the file's hash; None for an own run."""
    source = record.source
    return f"{source.name} ({source.kind}, sha256 {source.sha256[:12]})" if source else None


def _row(record: AnyRunRecord, checkpoint: Checkpoint) -> dict[str, Any]:
    imported = isinstance(record, ImportedRun)
    metric, split = (record.metric, record.split) if imported else _reported_metric_and_split(record.config)
    val_metric = record.val_metric if imported else metric
    finished = record.status == "finished"
    score = record.score(checkpoint, split, metric) if finished else None
    last = record.score("last", split, metric)
    diverged = finished and any(value is not None and math.isnan(value) for value in (score, last))
    return {
        "run_id": record.run_id,
        "status": record.status,
        "score": score,
        "scored": score is not None,
        "checkpoint": checkpoint,
        "metric": metric,
        "split": split,
        "last": last,
        "best": record.score("best", split, metric),
        "last_val": record.score("last", "val", val_metric),
        "best_val": record.score("best", "val", val_metric),
        "failed": None if not finished else True if diverged else record.failed,
        "diverged": diverged,
        "train_loss": record.evals[-1].train_loss if record.evals else None,
        "steps": record.steps,
        "source": describe_source(record),
        "copies": int(finished),
        **(_imported_columns(record) if imported else _own_columns(record, metric, split)),
    }


def _reported_metric_and_split(config: RunConfig) -> tuple[str, Split]:
    return config.task.metric, config.reported_split


def _imported_columns(run: ImportedRun) -> dict[str, Any]:
    known = {"task": run.task, "baseline": run.baseline, "seed_init": run.seed, "seed_data": run.seed}
    unknown = (
        "model",
        "val_baseline",
        "reason",
        "failed_by_accuracy",
        "seconds",
        "setting",
        "data_fingerprint",
        "device",
        "start",
    )
    missing = dict.fromkeys((*unknown, "start_sha256", "rule", "label_entropy", "watch"))
    return missing | known | {"skipped_steps": 0}


def _own_columns(record: RunRecord, metric: str, split: str) -> dict[str, Any]:
    config = record.config
    return {
        "task": config.data.task,
        "model": config.model.name,
        "reason": record.reason,
        "baseline": record.data.baselines.get(split, {}).get(metric) if record.data else None,
        "val_baseline": record.data.baselines.get("val", {}).get(metric) if record.data else None,
        "failed_by_accuracy": record.failed_by_accuracy if record.status == "finished" else None,
        "skipped_steps": record.skipped_steps,
        "seconds": record.seconds,
        "seed_init": config.seeds.init,
        "seed_data": config.seeds.data,
        "setting": _setting_hash(config),
        "data_fingerprint": record.data.fingerprint if record.data else None,
        "device": record.environment.device if record.environment else None,
        "start": _describe_start(record),
        "start_sha256": record.start.sha256 if record.start else None,
        "rule": describe_early_stopping_rule(record.stop.after, record.stop.lowest) if record.stop else None,
        "label_entropy": record.data.label_entropy if record.data else None,
        "watch": record.watch,
    }


def _setting_hash(config: RunConfig) -> str:
    """Returns the hash of a config without its seeds."""
    return hashlib.sha256(config.model_dump_json(exclude={"seeds"}).encode()).hexdigest()[:16]


def _describe_start(record: RunRecord) -> str | None:
    start, named = record.start, record.config.start_from
    if start is None or named is None:
        return None
    return (
        f"the {named.checkpoint} weights of run {named.run} ({start.recipe} on {start.task}, seed {start.seeds.init})"
    )
