"""The runs of one row and column -> one `Cell`: what a table knows of an arm on a task."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stableft.errors import UserError
from stableft.record import WatchRecord
from stableft.stats import Interval, Summary, describe, wilson


@dataclass(frozen=True)
class Watched:
    """A run whose gradient norms were recorded, and what the failure watch saw."""

    run_id: str
    seed: str  # both where they differ
    failed: bool | None
    steps: int
    watch: WatchRecord


@dataclass(frozen=True)
class Cell:
    """The runs of one arm on one task. Scores are fractions; `summary.n` counts the finished runs that have one."""

    row: str
    column: str
    recipe: str | None
    metric: str | None
    split: str | None
    checkpoint: str | None
    summary: Summary
    planned: int | None
    unscored: int  # finished without the reported score
    failed: int  # of summary.n
    failed_unknown: int  # of summary.n
    failed_interval: Interval
    crashed: int
    stopped: int  # early, as hopeless
    diverged: int  # of summary.n, with a score from before
    fingerprints: int  # how many different data rows
    settings: int  # how many configs, seeds aside
    copies: int  # records that repeat a run
    sources: Mapping[str, int] = field(default_factory=dict)  # where imported runs came from -> how many
    starts: tuple[str, ...] = ()  # the runs whose weights they started from, in words
    start_weights: int = 0  # how many different weights these were
    rules: tuple[str, ...] = ()  # by which runs were stopped
    scores: tuple[float, ...] = ()
    baseline: float | None = None  # what always predicting the most frequent class scores
    run_ids: tuple[str, ...] = ()  # of every run, the crashed ones included
    failed_losses: tuple[float, ...] = ()  # the failed runs' last training losses, as far as they are finite
    label_entropies: tuple[float, ...] = ()  # of those runs' training labels, each value once
    watched: tuple[Watched, ...] = ()  # by seed

    @property
    def every_run_failed(self) -> bool:
        """True if every run failed and none of the scores shown is above the baseline either."""
        above = any(score > self.baseline + 1e-12 for score in self.scores) if self.baseline is not None else False
        return self.summary.n > 0 and self.failed == self.summary.n and not above

    @property
    def reason(self) -> str | None:
        """Why mean or std are missing, or None."""
        if self.summary.n == 0:
            return "no run has finished"
        if self.summary.n_finite == 0:
            return "every score is NaN"
        return "one score has no std" if self.summary.std is None else None


def make_cell(row: str, column: str, runs: Sequence[Mapping[str, Any]], planned: int | None) -> Cell:
    """Returns the cell of these rows of the frame, of which there may be none; nobody here planned imported runs.

    Raises:
        UserError: the runs are scored by different metrics, splits or checkpoints.
    """
    scored = [run for run in runs if run["scored"]]
    if runs and all(isinstance(run["source"], str) for run in runs):
        planned = None
    summary = describe([run["score"] for run in scored])
    verdicts = [run["failed"] for run in scored if isinstance(run["failed"], bool)]  # else nobody knows
    crashed, stopped = (sum(run["status"] == status for run in runs) for status in ("crashed", "stopped"))
    recipes = {run["recipe"] for run in runs}
    lost = [run for run in scored if run["failed"] is True]
    return Cell(
        row=row,
        column=column,
        recipe=recipes.pop() if len(recipes) == 1 else None,
        metric=_one_of(scored or runs, "metric", row, column),
        split=_one_of(scored or runs, "split", row, column),
        checkpoint=_one_of(scored or runs, "checkpoint", row, column),
        summary=summary,
        planned=planned,
        unscored=len(runs) - crashed - stopped - len(scored),
        failed=sum(verdicts),
        failed_unknown=len(scored) - len(verdicts),
        failed_interval=wilson(sum(verdicts), len(verdicts)),
        crashed=crashed,
        stopped=stopped,
        diverged=sum(run["diverged"] and not math.isnan(run["score"]) for run in scored),
        fingerprints=len({run["data_fingerprint"] for run in scored if isinstance(run["data_fingerprint"], str)}),
        settings=len({run["setting"] for run in runs}),
        copies=sum(max(run["copies"] - 1, 0) for run in runs),
        sources=dict(Counter(run["source"] for run in runs if isinstance(run["source"], str))),
        starts=_texts(runs, "start"),
        start_weights=len(_texts(runs, "start_sha256")),
        rules=_texts(runs, "rule"),
        scores=tuple(run["score"] for run in scored),
        baseline=max((run["baseline"] for run in scored if not math.isnan(run["baseline"])), default=None),
        run_ids=tuple(run["run_id"] for run in runs),
        failed_losses=tuple(run["train_loss"] for run in lost if math.isfinite(run["train_loss"])),
        label_entropies=tuple(sorted({run["label_entropy"] for run in lost if not math.isnan(run["label_entropy"])})),
        watched=tuple(_watched(runs)),
    )


def _watched(runs: Sequence[Mapping[str, Any]]) -> Iterator[Watched]:
    seen = [run for run in runs if isinstance(run["watch"], WatchRecord) and run["status"] == "finished"]
    for run in sorted(seen, key=lambda run: (run["seed_init"], run["seed_data"], run["run_id"])):
        init, data = run["seed_init"], run["seed_data"]
        seed = str(init) if init == data else f"{init} and {data}"
        failed = run["failed"] if isinstance(run["failed"], bool) else None
        yield Watched(run["run_id"], seed, failed, int(run["steps"]), run["watch"])


def _texts(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run[name] for run in runs if isinstance(run[name], str)))


def _one_of(runs: Sequence[Mapping[str, Any]], name: str, row: str, column: str) -> str | None:
    values = sorted({run[name] for run in runs})
    if len(values) > 1:
        raise UserError(
            f"the runs of {row!r} on {column!r} are scored by different {name}s ({', '.join(values)}); "
            "one cell holds scores of one kind: give the arms different names"
        )
    return values[0] if values else None
