"""The runs of one arm on one task as a cell: counts, scores and their summary."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stableft.catalog.tasks import task_title
from stableft.errors import UserError
from stableft.records.failure import LOWER_IS_BETTER
from stableft.records.run_record import FailureWatchRecord
from stableft.stats import Interval, Summary, summarize, wilson_interval
from stableft.text import seed_label

RunRow = Mapping[str, Any]  # a row of the frame


@dataclass(frozen=True)
class WatchedRun:
    """A run with recorded gradient norms and the findings of the failure watch."""

    run_id: str
    seed: str
    failed: bool | None
    steps: int
    watch: FailureWatchRecord


@dataclass(frozen=True)
class ArmCell:
    """The runs of one arm on one task. Scores are fractions. `summary.n` counts the finished runs with a score."""

    arm: str
    task: str
    recipe: str | None
    metric: str | None
    split: str | None
    checkpoint: str | None
    summary: Summary
    planned: int | None
    unscored: int  # finished, but without the reported score
    failed: int  # of summary.n
    failed_scores: int  # of `failed`, without the runs whose reported score, of the best checkpoint, did not fail
    failed_unknown: int  # of summary.n
    failed_interval: Interval
    crashed: int
    stopped: int  # early, as hopeless
    diverged: int  # of summary.n, with a score from an earlier checkpoint
    fingerprints: int  # number of different data fingerprints
    settings: int  # number of different configs, seeds aside
    copies: int  # number of records that repeat a run
    sources: Mapping[str, int] = field(default_factory=dict)  # source of imported runs -> number of runs
    hub_models: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (name@revision, commit) -> number of runs
    devices: Mapping[str, int] = field(default_factory=dict)  # device and rounding (`Environment.arithmetic`) -> runs
    executions: Mapping[str, int] = field(default_factory=dict)  # padded, packed or fused -> number of runs
    starts: tuple[str, ...] = ()  # descriptions of the runs that provided initial weights
    start_weights: int = 0  # number of different initial weights
    rules: tuple[str, ...] = ()  # rules by which runs were early-stopped
    scores: tuple[float, ...] = ()
    verdicts: tuple[bool | None, ...] = ()  # whether the run of each score failed; None: not known
    seeds: tuple[tuple[int, int], ...] = ()  # of the run of each score: initialization, data
    baseline: float | None = None  # score of the best constant prediction
    judged_by_last: bool = True  # whether a run has a score of its last checkpoint, which decides if it failed
    chance: float | None = None  # the highest score that counts as failed, or the lowest by `direction`
    direction: str | None = None  # of the scores: higher is better, lower is better
    failed_by_accuracy: int = 0  # of summary.n, as M sec. 3.2 defines it
    failed_by_accuracy_unknown: int = 0  # of summary.n
    scores_at: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # checkpoint -> those of the same runs
    run_ids: tuple[str, ...] = ()  # of every run, including crashed ones
    failed_losses: tuple[float, ...] = ()  # finite last training losses of the failed runs
    label_entropies: tuple[float, ...] = ()  # distinct entropies of the failed runs' training labels, in nats
    watched: tuple[WatchedRun, ...] = ()  # sorted by seed
    data_notes: tuple[str, ...] = ()

    @property
    def n_known(self) -> int:
        """Number of runs with a score of which it is known whether they failed."""
        return self.summary.n - self.failed_unknown

    @property
    def mostly_failed(self) -> bool:
        """Whether more than half of the scores are those of failed runs: their spread then is no stability."""
        return self.failed_scores > self.n_known / 2

    @property
    def lower_is_better(self) -> bool:
        return self.direction == LOWER_IS_BETTER

    @property
    def score_kind(self) -> tuple[str | None, str | None, str | None]:
        """Metric, split and checkpoint of the scores."""
        return self.metric, self.split, self.checkpoint

    @property
    def reason(self) -> str | None:
        """Reason for a missing mean or std. None: both are there."""
        if self.summary.n == 0:
            return "no finished run has this score" if self.unscored else "no run has finished"
        if self.summary.n_finite == 0:
            return "every score is NaN"
        return "one score has no std" if self.summary.std is None else None


def make_arm_cell(arm: str, task: str, runs: Sequence[Mapping[str, Any]], planned: int | None) -> ArmCell:
    """Return the cell of these rows of the frame, of which there may be none.

    Raises:
        UserError: The runs differ in metric, direction, split or checkpoint.
    """
    scored = [run for run in runs if run["scored"]]
    if runs and all(isinstance(run["source"], str) for run in runs):
        planned = None  # imported runs were planned elsewhere
    summary = summarize([run["score"] for run in scored])
    known_verdicts, known_by_accuracy = (
        [run[name] for run in scored if isinstance(run[name], bool)] for name in ("failed", "failed_by_accuracy")
    )
    crashed, stopped = (sum(run["status"] == status for run in runs) for status in ("crashed", "stopped"))
    recipes = {run["recipe"] for run in runs}
    direction = _single_value(scored or runs, "direction", arm, task)
    strictest = min if direction == LOWER_IS_BETTER else max
    failed_runs = [run for run in scored if run["failed"] is True]
    return ArmCell(
        arm=arm,
        task=task,
        recipe=recipes.pop() if len(recipes) == 1 else None,
        metric=_single_value(scored or runs, "metric", arm, task),
        split=_single_value(scored or runs, "split", arm, task),
        checkpoint=_single_value(scored or runs, "checkpoint", arm, task),
        summary=summary,
        planned=planned,
        unscored=len(runs) - crashed - stopped - len(scored),
        failed=sum(known_verdicts),
        failed_scores=sum(run["score_failed"] is not False for run in failed_runs),
        failed_unknown=len(scored) - len(known_verdicts),
        failed_interval=wilson_interval(sum(known_verdicts), len(known_verdicts)),
        crashed=crashed,
        stopped=stopped,
        diverged=sum(run["diverged"] and not math.isnan(run["score"]) for run in scored),
        fingerprints=len({run["data_fingerprint"] for run in scored if isinstance(run["data_fingerprint"], str)}),
        settings=len({run["setting"] for run in runs}),
        copies=sum(max(run["copies"] - 1, 0) for run in runs),
        sources=dict(Counter(run["source"] for run in runs if isinstance(run["source"], str))),
        hub_models=dict(Counter(run["hub_model"] for run in runs if isinstance(run["hub_model"], tuple))),
        devices=dict(Counter(run["device"] for run in scored if isinstance(run["device"], str))),
        executions=dict(Counter(run["execution"] for run in runs if isinstance(run["execution"], str))),
        starts=_distinct_texts(runs, "start"),
        start_weights=len(_distinct_texts(runs, "start_sha256")),
        rules=_distinct_texts(runs, "rule"),
        scores=tuple(run["score"] for run in scored),
        verdicts=tuple(run["failed"] if isinstance(run["failed"], bool) else None for run in scored),
        seeds=tuple((run["seed_init"], run["seed_data"]) for run in scored),
        scores_at={
            checkpoint: tuple(run[checkpoint] for run in scored if run["diverged"] or not math.isnan(run[checkpoint]))
            for checkpoint in ("last", "best")
        },
        baseline=strictest((run["baseline"] for run in scored if not math.isnan(run["baseline"])), default=None),
        chance=strictest((run["chance"] for run in scored if not math.isnan(run["chance"])), default=None),
        direction=direction,
        failed_by_accuracy=sum(known_by_accuracy),
        failed_by_accuracy_unknown=len(scored) - len(known_by_accuracy),
        judged_by_last=any(math.isfinite(run["last"]) for run in scored),
        run_ids=tuple(run["run_id"] for run in runs),
        failed_losses=tuple(run["train_loss"] for run in failed_runs if math.isfinite(run["train_loss"])),
        label_entropies=tuple(
            sorted({run["label_entropy"] for run in failed_runs if not math.isnan(run["label_entropy"])})
        ),
        watched=tuple(_watched_runs(runs)),
        data_notes=_distinct_texts(runs, "data_notes"),
    )


def is_counted_otherwise(cell: ArmCell) -> bool:
    """Return whether the number of failed runs is known and another one as M sec. 3.2 defines them."""
    known = not (cell.failed_unknown or cell.failed_by_accuracy_unknown)
    return known and cell.failed != cell.failed_by_accuracy


def hub_drift_note(*cells: ArmCell) -> str | None:
    """Return a line if the runs of a hub model were trained from several commits, which it names; None otherwise."""
    runs_by_commit: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        for (model, commit), n in cell.hub_models.items():
            runs_of_commit = runs_by_commit.setdefault(model, {}).setdefault(commit, [])
            runs_of_commit.append(f"{n} run{'s' * (n > 1)} of {cell.arm} on {task_title(cell.task)}")
    drifted = [
        f"{model} is of {len(commits)} commits, so of different weights: "
        + "; ".join(f"{commit} ({', '.join(counts)})" for commit, counts in commits.items())
        for model, commits in runs_by_commit.items()
        if len(commits) > 1
    ]
    return f"{'. '.join(drifted)}." if drifted else None


def _watched_runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[WatchedRun]:
    watched = [run for run in runs if isinstance(run["watch"], FailureWatchRecord) and run["status"] == "finished"]
    for run in sorted(watched, key=seed_order):
        seed = seed_label(run["seed_init"], run["seed_data"])
        failed = run["failed"] if isinstance(run["failed"], bool) else None
        yield WatchedRun(run["run_id"], seed, failed, int(run["steps"]), run["watch"])


def _distinct_texts(runs: Sequence[Mapping[str, Any]], column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run[column] for run in runs if isinstance(run[column], str)))


def _single_value(runs: Sequence[Mapping[str, Any]], name: str, arm: str, task: str) -> str | None:
    values = sorted({run[name] for run in runs})
    if len(values) > 1:
        raise UserError(
            f"the runs of {arm!r} on {task!r} are scored by different {name}s ({', '.join(values)}); "
            "one cell holds scores of one kind: give the arms different names"
        )
    return values[0] if values else None


def seed_order(run: RunRow) -> tuple[int, int, str]:
    """Return a sort key that orders runs by seed."""
    return run["seed_init"], run["seed_data"], run["run_id"]
