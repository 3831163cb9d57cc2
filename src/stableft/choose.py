"""The best setting of each grid of a sweep: the one with the highest mean validation score over seeds (Z sec. 6)."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stableft.choicefile import write_choices
from stableft.errors import UserError
from stableft.metrics import TITLES
from stableft.record import RunRecord
from stableft.seedlist import parse_seeds
from stableft.sweepfile import Point, Sweep, grid_label
from stableft.text import Row, columns


@dataclass(frozen=True)
class Tried:
    """A setting, and the validation scores of its finished runs as fractions; NaN: the run diverged."""

    point: Point
    scores: tuple[float, ...]
    crashed: int
    stopped: int  # early, as hopeless

    @property
    def left(self) -> int:
        """How many runs have no end of any kind yet."""
        return len(self.point.runs) - len(self.scores) - self.crashed - self.stopped

    @property
    def mean(self) -> float:
        """The mean score; NaN if there is none, or if one run diverged."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the scores (ddof 1); None if there are too few."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 and not math.isnan(self.mean) else None


@dataclass(frozen=True)
class Search:
    """What one arm tried on one task with one model, in the grid's order; a single setting is no search."""

    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The setting with the highest mean; of equal ones the first."""
        known = [tried for tried in self.tried if not math.isnan(tried.mean)]
        # With few validation rows ties are common, and rounding must not break them.
        return max(known, key=lambda tried: round(tried.mean, 12), default=self.tried[0])


def choose_settings(
    sweep: Sweep,
    records: Iterable[RunRecord],
    out: Path | None = None,
    seeds: str | None = None,
    report_seeds: str | None = None,
    allow_missing: bool = False,
) -> str:
    """Writes the sweep file of the chosen settings, and returns what every setting scored.

    `out` is, if not given, the sweep's file name with `-chosen`, in the current folder. `seeds` are those that the
    sweep was loaded with in place of its own, `report_seeds` those of the written file.

    Raises:
        UserError: runs are missing, there is nothing to choose, or `out` cannot be written.
    """
    if report_seeds is not None:
        parse_seeds(report_seeds, "--report-seeds")
    searches = searches_of(sweep, records)
    check_searches(sweep, searches, allow_missing)
    notes = [_choice_line(search) for search in searches if len(search.tried) > 1]
    chosen = [search.best.point for search in searches]
    out = out or Path(f"{sweep.path.stem}-chosen.yaml")
    runs = write_choices(sweep, chosen, notes, out, report_seeds or seeds)
    return f"{render_searches(searches)}\n\nwrote {out}: {runs} runs"


def searches_of(sweep: Sweep, records: Iterable[RunRecord]) -> list[Search]:
    """Returns what the arms of a sweep tried, in the file's order, with the scores that the records hold.

    A run's score is the validation score of the reported metric, at the checkpoint that its config reports. Grid
    points that are the same runs (of which `--set` overrules the difference) count once.
    """
    by_id: dict[str, RunRecord] = {}
    for record in records:
        if record.run_id not in by_id or by_id[record.run_id].status != "finished":
            by_id[record.run_id] = record
    searches = []
    for _, points in itertools.groupby(sweep.points, lambda point: (point.arm, point.task, point.model)):
        different = {tuple(run.run_id for run in point.runs): point for point in reversed(list(points))}
        searches.append(Search(tuple(_tried(point, by_id) for point in reversed(different.values()))))
    return searches


def _tried(point: Point, by_id: dict[str, RunRecord]) -> Tried:
    scores, ends = [], Counter()
    for run in point.runs:
        record = by_id.get(run.run_id)
        ends[record and record.status] += 1
        if record and record.status == "finished":
            score = record.score(run.config.evaluation.report, "val", run.config.task.metric)
            scores.append(math.nan if score is None else score)
    return Tried(point, tuple(scores), ends["crashed"], ends["stopped"])


def check_searches(sweep: Sweep, searches: list[Search], allow_missing: bool) -> None:
    """Looks at whether every search has a best setting.

    Raises:
        UserError: none is a search, runs are missing (of which some settings may be with `allow_missing`), or every
            setting of a search has a diverged run.
    """
    real = [search for search in searches if len(search.tried) > 1]
    if not real:
        raise UserError(f"{sweep.path}: no arm has a grid of several settings, so there is nothing to choose")
    tried = [tried for search in real for tried in search.tried]
    planned, finished = sum(len(one.point.runs) for one in tried), sum(len(one.scores) for one in tried)
    if finished < planned and not allow_missing:
        crashed, stopped, left = (sum(getattr(one, kind) for one in tried) for kind in ("crashed", "stopped", "left"))
        raise UserError(
            f"{sweep.path}: of the {planned} runs of its grids {finished} are finished, {crashed} crashed, {stopped} "
            f"were stopped early and {left} are left; `stableft sweep` does what is left, with --retry-crashed what "
            "crashed and without stop_hopeless what was stopped, or choose with --allow-missing"
        )
    for search in real:
        if math.isnan(search.best.mean):
            scored = any(setting.scores for setting in search.tried)
            why = "every setting has a diverged run, whose score is NaN" if scored else "no run is finished"
            raise UserError(f"{sweep.path}: {_place(search)}: {why}, so there is no best one")


def render_searches(searches: list[Search]) -> str:
    """Returns a line for each setting tried, the chosen ones marked, and how they were compared."""
    rows: list[Row] = [("arm", "task", "model", "setting", "validation score", "n", "mean", "std", "")]
    same_rows = []
    for search in searches:
        config = search.best.point.runs[0].config
        if len(search.tried) > 1 and config.reported_split == "val":
            same_rows.append(config.data.task)
        for tried in search.tried:
            searched = len(search.tried) > 1
            remark = "no choice" if not searched else "<- chosen" if tried is search.best else ""
            diverged = sum(math.isnan(score) for score in tried.scores)
            remark = f"{diverged} diverged" if diverged and searched else remark
            rows.append((*_identity(tried), *_numbers(tried), remark))
    if len({row[2] for row in rows}) == 2:  # the heading and one model for all
        rows = [(*row[:2], *row[3:]) for row in rows]
    notes = [
        "mean and std over seeds, in percent, on validation rows; chosen is the highest mean, of equal ones the first",
        "a setting with a diverged run has no mean and is not chosen",
    ]
    ended = sum(tried.stopped for search in searches for tried in search.tried)
    if ended:
        notes.append(f"{ended} runs were stopped early because of their scores: the means are of the better ones")
    if same_rows:
        tasks = ", ".join(dict.fromkeys(same_rows))
        notes.append(f"{tasks}: reports read the same rows, so the chosen scores are too good by what choosing adds")
    return "\n".join([columns(rows), "", *notes])


def _identity(tried: Tried) -> tuple[str, str, str, str]:
    config = tried.point.runs[0].config
    return tried.point.arm.name, config.data.task, config.model.name, _setting(tried.point)


def _numbers(tried: Tried) -> tuple[str, str, str, str]:
    config, planned = tried.point.runs[0].config, len(tried.point.runs)
    n = str(planned) if len(tried.scores) == planned else f"{len(tried.scores)} of {planned}"
    mean = "-" if math.isnan(tried.mean) else f"{100 * tried.mean:.2f}"
    deviation = "-" if tried.deviation is None else f"{100 * tried.deviation:.2f}"
    return f"{TITLES[config.task.metric]}, {config.evaluation.report} checkpoint", n, mean, deviation


def _setting(point: Point) -> str:
    return grid_label(point.grid) or "-"


def _place(search: Search) -> str:
    arm, task, model, _ = _identity(search.tried[0])
    return f"arm {arm!r}, task {task!r}, model {model!r}"


def _choice_line(search: Search) -> str:
    """Returns one line about a choice, for the head of the written file."""
    score, n, mean, deviation = _numbers(search.best)
    arm, task, _, setting = _identity(search.best)
    return f"{arm}, {task}: {setting} ({score}: mean {mean}, std {deviation}, n {n}; of {len(search.tried)} settings)"
