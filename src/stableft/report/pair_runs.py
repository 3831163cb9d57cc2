"""Two arms by name -> their runs on one task, or a sentence that says why they cannot be compared."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stableft.errors import UserError, nearest
from stableft.frame import described_source, frame
from stableft.metrics import is_failed
from stableft.record import AnyRun, RunRecord
from stableft.report.artifact import Checkpoint
from stableft.report.gather import all_stored, filed_records
from stableft.report.pair_rules import Entry, check_arm, check_between
from stableft.report.pair_where import Condition, condition, matches, value_of
from stableft.report.table import task_title
from stableft.settings import describe
from stableft.sweepfile import START


@dataclass(frozen=True)
class Pair:
    """The runs of two arms on one task, which may be compared. `differing`: dotted settings -> the value of each."""

    names: tuple[str, str]
    task: str
    arms: tuple[tuple[Entry, ...], tuple[Entry, ...]]
    differing: Mapping[str, tuple[Any, Any]]

    @property
    def settings_known(self) -> bool:
        return all(isinstance(entry.record, RunRecord) for arm in self.arms for entry in arm)


def select_pair(
    names: tuple[str, str],
    results: Path,
    files: Sequence[Path],
    task: str | None,
    metric: str | None,
    where: Sequence[str],
    score: Checkpoint,
) -> Pair:
    """Returns the runs of two arms from files of records or, without any, from the run folders.

    Raises:
        UserError: an arm, task, metric or field is not there, or the arms cannot be compared.
    """
    if names[0] == names[1]:
        raise UserError(f"compare: {names[0]!r} is named twice; give two arms")
    conditions = [condition(text) for text in where]
    found = _read(filed_records(files) if files else all_stored(results), names, score, results if not files else None)
    arms = [_keep(found[name], conditions, name) for name in names]
    chosen = _choose_task(names, arms, task)
    a, b = ([entry for entry in arm if entry.row["task"] == chosen] for arm in arms)
    if metric is not None:
        a, b = _by_metric(names, (a, b), metric)
    for name, arm in zip(names, (a, b), strict=True):
        check_arm(f"compare: arm {name!r} on {chosen}", arm)
    return Pair(names, chosen, (tuple(a), tuple(b)), check_between(names, a, b))


def _read(
    records: Iterable[AnyRun], names: tuple[str, str], score: Checkpoint, results: Path | None
) -> dict[str, list[Entry]]:
    """Returns the runs of each arm; of records that repeat a run the first finished one counts, as in the frame."""
    there: dict[str, None] = {}
    kept: list[AnyRun] = []
    for record in records:
        if record.arm != START:
            there[record.arm] = None
            kept += [record] if record.arm in names else []
    if not there:
        raise UserError(f"compare: there are no records in {results / 'runs' if results else 'these files'}")
    for name in names:
        if name not in there:
            raise UserError(f"compare: the records have no arm {name!r}{nearest(name, there)}; they have {_few(there)}")
    first: dict[tuple, AnyRun] = {}
    for record in kept:
        key = (record.run_id, described_source(record), record.arm)
        if key not in first or first[key].status != "finished":
            first[key] = record
    found: dict[str, list[Entry]] = {name: [] for name in names}
    for row in frame(kept, None, score).to_dict("records"):
        values = {str(name): value for name, value in row.items()}
        found[values["arm"]].append(Entry(values, first[values["run_id"], values["source"], values["arm"]]))
    return found


def _keep(entries: list[Entry], conditions: Sequence[Condition], name: str) -> list[Entry]:
    for one in conditions:
        kept = [entry for entry in entries if matches(one, entry.row, entry.record)]
        if not kept:
            values = (value_of(one.field, entry.row, entry.record) for entry in entries)
            there = _few(dict.fromkeys(describe(value) for value in values))
            raise UserError(f"--where {one.field}={one.text}: no run of arm {name!r} is left; its runs have {there}")
        entries = kept
    return entries


def _choose_task(names: tuple[str, str], arms: Sequence[Sequence[Entry]], task: str | None) -> str:
    tasks = [sorted({entry.row["task"] for entry in arm}) for arm in arms]
    common = [name for name in tasks[0] if name in tasks[1]]
    who = f"arms {names[0]!r} and {names[1]!r}"
    if not common:
        raise UserError(f"compare: {who} have no task in common: {_and(tasks[0])} against {_and(tasks[1])}")
    if task is None and len(common) > 1:
        raise UserError(f"compare: {who} have runs of {_and(common)}: --task chooses one")
    if task is None:
        return common[0]
    chosen = [name for name in common if task.casefold() in (name.casefold(), task_title(name).casefold())]
    if not chosen:
        raise UserError(f"--task {task}: {who} both have runs of {_and(common)}{nearest(task, common)}")
    return task if task in chosen else chosen[0]


def _by_metric(
    names: tuple[str, str], arms: tuple[list[Entry], list[Entry]], metric: str
) -> tuple[list[Entry], list[Entry]]:
    """Returns the runs scored by another metric. Own runs are judged failed by it; of imported ones it is not known."""
    there = [_metrics(arm) for arm in arms]
    for name, found in zip(names, there, strict=True):
        if metric not in found:
            listed = _and(sorted(found)) or "nothing"
            raise UserError(f"--metric {metric}: the runs of {name!r} are scored by {listed}{nearest(metric, found)}")
    a, b = ([_rescored(entry, metric) for entry in arm] for arm in arms)
    return a, b


def _metrics(arm: Sequence[Entry]) -> dict[str, None]:
    """Returns the metrics by which any of the runs has the score that is shown of it."""
    there: dict[str, None] = {}
    for row, record in arm:
        scores = getattr(record, row["checkpoint"])
        there |= dict.fromkeys(getattr(scores, row["split"]) or ()) if scores else {}
    return there


def _rescored(entry: Entry, metric: str) -> Entry:
    row, record = entry
    if row["metric"] == metric:
        return entry
    finished, split = record.status == "finished", row["split"]
    score, last, best = (record.score(which, split, metric) for which in (row["checkpoint"], "last", "best"))
    data = record.data if isinstance(record, RunRecord) else None
    baseline = data.baselines.get(split, {}).get(metric) if data else None
    diverged = finished and any(value is not None and math.isnan(value) for value in (score, last))
    failed = True if diverged else None
    if finished and not diverged and last is not None and baseline is not None:
        failed = is_failed(last, baseline)
    values = {"score": score, "last": last, "best": best, "baseline": baseline}
    values |= {f"{which}_val": record.score(which, "val", metric) for which in ("last", "best")}
    changed: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    changed |= {"metric": metric, "scored": finished and score is not None, "diverged": diverged, "failed": failed}
    return Entry(row | changed, record)


def _few(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
