"""M Table 2 and Z Table 3 made from the data sets at hand, beside what the papers print."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stableft.data_stats import MISSING, Paper, Statistic, dataset_statistics, printed_tables, task_statistics
from stableft.errors import UserError
from stableft.report.blocks import Block, Bullets, Entry, Grid, Heading, Paragraph, Report, Row
from stableft.report.mosbach import ARTIFACTS as MOSBACH
from stableft.report.zhang import ARTIFACTS as ZHANG
from stableft.tasks import TASKS, TaskSpec

IDS = {"M": "mosbach-table2", "Z": "zhang-table3"}
MOST = 5  # data sets side by side
INTRO = "here: counted in the data set; printed: what the paper has. Bold: they differ."


def dataset_report(paper: Paper, data_dir: Path | None) -> Report:
    """Returns the paper's table of data sets from a folder of original files, or without one from the hub.

    What the hub does not give is "not available", and the report says why.

    Raises:
        UserError: `data_dir` is no folder, or a file in it does not fit its task.
    """
    artifact, printed = (MOSBACH | ZHANG)[IDS[paper]], printed_tables()[paper]
    tasks = [TASKS[name] for name in printed.values]
    statistics, failures = _statistics(paper, tasks, data_dir)
    missing = [*_missing(statistics, artifact.id), *failures]
    grids = tuple(_grids(tasks, statistics, artifact.id))
    differences = [
        f"{s.task}, {s.column}: {s.here} here, printed {s.paper}: {_reason(s)}." for s in statistics if s.note
    ]
    notes = [*_unprinted(statistics), *printed.notes]
    blocks: list[Block] = [Paragraph(INTRO), *grids]
    for heading, lines in (("Not available", missing), ("Differences", differences), ("Notes", notes)):
        blocks += [Heading(heading), Bullets(tuple(lines))] if lines else []
    rows = [_values(printed.title, statistic) for statistic in statistics]
    values = {"artifact": artifact.id, "title": artifact.title, "cells": rows}
    values |= {"differences": differences, "missing": missing, "notes": notes}
    return Report(artifact.id, artifact.title, tuple(blocks), grids, tuple(rows), values)


def _statistics(paper: Paper, tasks: Sequence[TaskSpec], data_dir: Path | None) -> tuple[list[Statistic], list[str]]:
    """Returns the numbers of these data sets, and why some of them are missing.

    A hub that does not answer costs half a minute for each data set, so one such failure ends the attempts, unless
    the hub's client is told that it is offline and looks into its cache alone.
    """
    if data_dir is not None:
        return dataset_statistics(data_dir, tasks, [paper]), []
    from huggingface_hub.constants import HF_HUB_OFFLINE

    found, failures = [], []
    for task in tasks:
        if not failures or HF_HUB_OFFLINE:
            try:
                found += dataset_statistics(None, [task], [paper])
                continue
            except UserError as error:
                failures.append(f"{str(error).partition(';')[0]}.")
        found += task_statistics(task, None, None, [paper])
    if failures and not HF_HUB_OFFLINE:
        failures.append("The data sets after it were not tried; HF_HUB_OFFLINE=1 takes what the hub's cache has.")
    return found, failures


def _missing(statistics: Sequence[Statistic], report: str) -> list[str]:
    """Returns which numbers there are not, and the command that counts them."""
    absent = [statistic for statistic in statistics if statistic.here == MISSING and statistic.paper]
    if not absent:
        return []
    tasks = ", ".join(dict.fromkeys(statistic.task for statistic in absent))
    command = f"`stableft report {report} --data-dir FOLDER` counts them in a folder of the original files"
    return [f"{len(absent)} numbers of {tasks}; {command}."]


def _grids(tasks: Sequence[TaskSpec], statistics: Sequence[Statistic], name: str) -> Iterator[Grid]:
    """Yields tables of data sets side by side, equally wide, each data set with here and printed."""
    n_grids = -(-len(tasks) // MOST)
    width = -(-len(tasks) // n_grids)
    for i in range(n_grids):
        some = tasks[i * width : (i + 1) * width]
        yield Grid(
            name=f"{name}-{i + 1}" if n_grids > 1 else name,
            header=("", *(f"{task.title} {which}" for task in some for which in ("here", "printed"))),
            rows=_grid_rows(some, statistics),
            caption=f"Data sets and majority baselines: {', '.join(task.title for task in some)}. {INTRO}",
            groups=tuple((task.title, 2) for task in some),
        )


def _grid_rows(tasks: Sequence[TaskSpec], statistics: Sequence[Statistic]) -> tuple[Row, ...]:
    """Returns a row for each number that the paper prints, in its order."""
    by_place = {(s.task, s.column.split(",")[0]): s for s in statistics if s.paper}  # without a baseline's metric
    rows: list[Row] = []
    for column in printed_tables()[statistics[0].table].values[tasks[0].name]:
        found = [by_place[task.title, column] for task in tasks]
        entries = (Entry(text, bold=bool(s.note)) for s in found for text in (s.here, s.paper))
        name = column.replace("majority", "majority baseline")
        rows.append((name[0].upper() + name[1:], *entries))
    return tuple(rows)


def _unprinted(statistics: Sequence[Statistic]) -> list[str]:
    """Returns the majority baselines of other metrics than the one that the paper reports."""
    by_task: dict[str, list[str]] = {}
    for statistic in statistics:
        if not statistic.paper and statistic.here != MISSING:
            by_task.setdefault(statistic.task, []).append(f"{statistic.column} {statistic.here}")
    return [f"{task} by metrics that the paper does not report: {'; '.join(texts)}." for task, texts in by_task.items()]


def _reason(statistic: Statistic) -> str:
    return statistic.note.removeprefix("differs: ")


def _values(location: str, statistic: Statistic) -> dict[str, Any]:
    known = statistic.here != MISSING and statistic.paper != ""
    return {
        "paper": location,
        "row": statistic.column,
        "column": statistic.task,
        "here": None if statistic.here == MISSING else statistic.here,
        "printed": statistic.paper or None,
        "agrees": not statistic.note if known else None,
        "note": _reason(statistic),
    }
