"""The data frame of all records, one row per run: the source of every table and figure."""

import gc
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stableft.config.command_config import CommandConfig
from stableft.config.run_config import Checkpoint, RunConfig, Split
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_keys import describe_early_stopping_rule
from stableft.records.command_outcome import CommandOutcome
from stableft.records.failure import (
    find_chance,
    find_validation_constant,
    is_reported_score_failed,
    is_run_failed,
    score_direction,
)
from stableft.records.run_record import AnyRunRecord, ImportedRun, RunRecord, atomic_write
from stableft.text import quote_formula

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
    "score": "float64",  # the reported score, a fraction; NaN: diverged if `scored`, otherwise there is none
    "scored": "bool",
    "checkpoint": "object",  # that `score` belongs to: last, best
    "metric": "object",
    "direction": "object",  # higher is better, lower is better
    "split": "object",  # val, test
    "last": "float64",  # by the reported metric and split, like `best` and `baseline`
    "best": "float64",
    "last_val": "float64",  # reported metric, validation split; imported runs: `ImportedRun.val_metric`
    "best_val": "float64",
    "baseline": "float64",  # score of the best constant prediction
    "chance": "float64",  # the highest score that counts as failed, or the lowest by `direction`; NaN: not known
    "val_baseline": "float64",  # `baseline` on the rows and by the metric of `last_val`
    "failed": "boolean",  # by the last score, see `records.failure`; NA: not finished, or not known
    "score_failed": "boolean",  # by the reported score, which is not the last one's where the best checkpoint counts
    "failed_by_accuracy": "boolean",  # as M sec. 3.2 defines it
    "diverged": "bool",  # the last or the reported score is NaN
    "train_loss": "float64",  # mean since the second-to-last evaluation
    "steps": "Int64",  # NA: a command, or an imported run of unknown length
    "skipped_steps": "int64",
    "seconds": "float64",  # NaN: imported
    "seed_init": "object",  # integers up to 2**63
    "seed_data": "object",
    "setting": "object",  # equal for runs that differ only in their seeds; None: imported
    "data_fingerprint": "object",
    "device": "object",
    "execution": "object",  # padded, packed, fused, grouped; None: imported, or a command
    "hub_model": "object",  # (name@revision, commit); None: a local folder, or imported
    "source": "object",  # file and hash that a run was imported from; None: a run of this project
    "source_note": "object",  # what the imported runs are, as told at import
    "copies": "int64",  # number of finished records of this run; only the first is used
    "start_sha256": "object",  # hash of the initial weights, if not the pre-trained checkpoint
    "start": "object",  # description of the run that provided the initial weights; None: the pre-trained checkpoint
    "rule": "object",  # description of the rule that early-stopped the run
    "label_entropy": "float64",  # of the training labels, in nats: the loss of a model that ignores its input
    "watch": "object",  # FailureWatchRecord; None: gradient norms were not recorded
    "data_notes": "object",  # what is odd about the data rows; None: nothing, or not known
}


TIDY_COLUMNS = {  # of the table with one row a run that users read; every single score follows them
    "run_id": "16 hexadecimal digits, equal for equal computations",
    "arm": "name of the arm that trained the run first",
    "recipe": "name of its recipe; of an imported run or a command, its arm",
    "task": "name of the task",
    "model": "name of the pre-trained model; missing: imported, or a command",
    "seed_init": "seed of the head and of re-initialized blocks",
    "seed_data": "seed of batch order and dropout",
    "status": "finished, crashed or stopped (early, as hopeless)",
    "reason": "why it crashed, was stopped, or ended early",
    "score": "the reported score, by `metric` on `split` at `checkpoint`; NaN: diverged or not finished",
    "metric": "of the reported score",
    "split": "val or test",
    "checkpoint": "last or best",
    "failed": "whether the run is no better than chance; missing: not finished, or not known",
    "chance": "the highest score that counts as failed, or the lowest where lower is better; NaN: not known",
    "baseline": "score of the best constant prediction; NaN: not known",
    "train_loss": "mean training loss since the second-to-last evaluation",
    "steps": "optimizer steps done; missing: not known, as of a command",
    "skipped_steps": "steps that the gradient scaler skipped",
    "seconds": "that the run took; NaN: imported",
    "device": "that it ran on; missing: imported, or a command on a GPU",
    "execution": "padded, packed, fused or grouped: one function, other dropout masks; missing: imported, or a command",
    "setting": "equal for runs that differ only in their seeds; missing: imported",
    "start": "the run whose weights it started from; missing: the pre-trained model",
    "source": "file that the run was imported from; missing: a run of this project",
}


class ReportedArm(NamedTuple):
    """An arm that includes a run, and the checkpoint it reports; arms that share a run may differ only in that."""

    arm: str
    recipe: str
    report: Checkpoint


def build_frame(
    records: Iterable[AnyRunRecord],
    names: dict[str, list[ReportedArm]] | None = None,
    checkpoint: Literal["recipe", "last", "best"] = "recipe",
) -> "pd.DataFrame":
    """Return a data frame with one row per run, or one per arm if arms share a run.

    `names` maps run ids to the arms that include them; other runs are dropped. None: the arms stored in the records.
    `checkpoint` is the one whose score is reported; "recipe": as each run's recipe says. A record that appears
    twice (in a run folder and a committed file) counts once. Records are consumed one at a time, so they need not fit
    into memory together.
    """
    with _gc_disabled():
        return _build_frame(records, names, checkpoint)


def _build_frame(
    records: Iterable[AnyRunRecord],
    names: dict[str, list[ReportedArm]] | None,
    checkpoint: Literal["recipe", "last", "best"],
) -> "pd.DataFrame":
    import pandas as pd  # imported here because it takes half a second

    rows: dict[tuple, dict[str, Any]] = {}
    for record in records:
        for arm, recipe, report in [stored_arm(record)] if names is None else names.get(record.run_id, ()):
            key = (record.run_id, describe_source(record), arm)
            known = rows.get(key)
            if known is None or known["status"] != "finished":
                rows[key] = _row(record, report if checkpoint == "recipe" else checkpoint)
                rows[key] |= {"arm": arm, "recipe": recipe}
            elif record.status == "finished":
                known["copies"] += 1
    columns = {name: [row[name] for row in rows.values()] for name in COLUMN_DTYPES}
    return pd.DataFrame({name: pd.Series(values, dtype=COLUMN_DTYPES[name]) for name, values in columns.items()})


def build_tidy_frame(
    records: Iterable[AnyRunRecord], checkpoint: Literal["recipe", "last", "best"] = "recipe"
) -> "pd.DataFrame":
    """Return a data frame with one row per run: TIDY_COLUMNS, then `last_SPLIT_METRIC`, `best_SPLIT_METRIC` of all.

    Start runs are left out.
    """
    scores: dict[tuple[str, str | None], dict[str, float]] = {}

    def note_scores() -> Iterator[AnyRunRecord]:
        for record in records:
            if record.arm == START_ARM:
                continue
            key = (record.run_id, describe_source(record))
            scores[key] = scores.get(key) or _every_score(record)  # as in the rows, the first finished record counts
            yield record

    rows = build_frame(note_scores(), None, checkpoint)
    found = [scores[key] for key in zip(rows["run_id"], rows["source"], strict=True)]
    rows = rows[list(TIDY_COLUMNS)].astype({"seed_init": "Int64", "seed_data": "Int64"})
    names = dict.fromkeys(name for values in found for name in values)
    return rows.assign(**{name: [values.get(name, math.nan) for values in found] for name in sorted(names)})


def write_tidy_table(records: Iterable[AnyRunRecord], out: Path) -> int:
    """Write the rows of `build_tidy_frame` to a CSV file with a header, and return their number."""
    rows = build_tidy_frame(records)
    texts = rows.select_dtypes("object").map(lambda cell: quote_formula(cell) if isinstance(cell, str) else cell)
    atomic_write(out, rows.assign(**texts).to_csv(index=False, lineterminator="\n").encode())
    return len(rows)


def _every_score(record: AnyRunRecord) -> dict[str, float]:
    return {
        f"{name}_{split}_{metric}": value
        for name, scores in (("last", record.last), ("best", record.best))
        if scores
        for split, values in (("val", scores.val), ("test", scores.test or {}))
        for metric, value in values.items()
    }


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable garbage collection temporarily.

    Searching ever more rows for reference cycles, which records do not have, took a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def stored_arm(record: AnyRunRecord) -> ReportedArm:
    """Return the arm, recipe and reported checkpoint stored in a record."""
    if isinstance(record, ImportedRun):
        return ReportedArm(record.arm, record.arm, record.report)
    return ReportedArm(record.arm, record.recipe, record.report)


def describe_source(record: AnyRunRecord) -> str | None:
    """Return the source of an imported run with the first 12 digits of its hash; None for a run of this project."""
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
    chance = find_chance(record, split, metric)
    return {
        "run_id": record.run_id,
        "status": record.status,
        "score": score,
        "scored": score is not None,
        "checkpoint": checkpoint,
        "metric": metric,
        "direction": score_direction(record),
        "split": split,
        "last": last,
        "best": record.score("best", split, metric),
        "last_val": record.score("last", "val", val_metric),
        "best_val": record.score("best", "val", val_metric),
        "baseline": chance.constant,
        "chance": chance.level,
        "val_baseline": find_validation_constant(record, val_metric),
        "failed": is_run_failed(record, checkpoint, split, metric),
        "score_failed": is_reported_score_failed(record, checkpoint, split, metric),
        "failed_by_accuracy": is_run_failed(record, checkpoint, split, "accuracy"),
        "diverged": diverged,
        "train_loss": record.evals[-1].train_loss if record.evals else None,
        "steps": record.steps,
        "source": describe_source(record),
        "source_note": record.source.note if record.source else None,
        "copies": int(finished),
        **(_imported_columns(record) if imported else _own_columns(record)),
        **({} if imported or record.command is None else _command_columns(record.command)),
    }


def _reported_metric_and_split(config: RunConfig | CommandConfig) -> tuple[str, Split]:
    return config.task.metric, config.reported_split


def _imported_columns(run: ImportedRun) -> dict[str, Any]:
    known = {"task": run.task, "seed_init": run.seed, "seed_data": run.seed}
    unknown = (
        "model",
        "reason",
        "seconds",
        "setting",
        "data_fingerprint",
        "device",
        "execution",
        "hub_model",
        "start",
    )
    missing = dict.fromkeys((*unknown, "start_sha256", "rule", "label_entropy", "watch", "data_notes"))
    return missing | known | {"skipped_steps": 0}


def _command_columns(command: CommandOutcome) -> dict[str, Any]:
    return {"steps": None, "device": command.device if command.device == "cpu" else None}  # a slot's number is no name


def _own_columns(record: RunRecord) -> dict[str, Any]:
    config = record.config
    trained = config if isinstance(config, RunConfig) else None
    return {
        "task": config.data.task,
        "model": trained.model.name if trained else None,
        "reason": record.reason,
        "skipped_steps": record.skipped_steps,
        "seconds": record.seconds,
        "seed_init": config.seeds.init,
        "seed_data": config.seeds.data,
        "setting": config.setting_id(),
        "data_fingerprint": record.data.fingerprint if record.data else None,
        "device": record.environment.arithmetic if record.environment else None,
        "execution": (trained.execution or "padded") if trained else None,
        "hub_model": _hub_model(record) if trained else None,
        "start": _describe_start(record),
        "start_sha256": record.start.sha256 if record.start else None,
        "rule": describe_early_stopping_rule(record.stop.after, record.stop.lowest) if record.stop else None,
        "label_entropy": record.data.label_entropy if record.data else None,
        "watch": record.watch,
        "data_notes": "; ".join(record.data_notes or ()) or None,
    }


def _hub_model(record: RunRecord) -> tuple[str, str] | None:
    model, environment = record.run_config.model, record.environment
    commit = environment.model_commit if environment else None
    return (f"{model.name}@{model.revision}", commit) if commit else None


def _describe_start(record: RunRecord) -> str | None:
    start, named = record.start, record.config.start_from
    if start is None or named is None:
        return None
    return (
        f"the {named.checkpoint} weights of run {named.run} ({start.recipe} on {start.task}, seed {start.seeds.init})"
    )
