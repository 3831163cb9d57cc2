"""Dataset statistics beside those the papers print: M's Table 2 and Z's Table 3, from the files at hand."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stableft.metrics import TITLES, majority_baseline, scored_metrics
from stableft.rows import RawSplit, find_layouts, read_rows
from stableft.splits import HELD_OUT, halve, hold_out
from stableft.tasks import TaskSpec
from stableft.text import Row, columns

MISSING = "not available"
TITLE = {"M": "Mosbach et al. 2021, Table 2", "Z": "Zhang et al. 2021, Table 3"}
COLUMNS = {"M": ("training", "development"), "Z": ("training", "validation", "test")}

# What the papers print: task -> column -> text. The majority baseline stands with the task's reported metric.
PAPER = {
    "M": {
        "rte": {"training": "2491", "development": "278", "majority (development)": "0.53", "metric": "Acc."},
        "mrpc": {"training": "3669", "development": "409", "majority (development)": "0.75", "metric": "F1 score"},
        "cola": {"training": "8551", "development": "1043", "majority (development)": "0.0", "metric": "MCC"},
        "qnli": {"training": "104744", "development": "5464", "majority (development)": "0.50", "metric": "Acc."},
        "scitail": {"training": "23596", "development": "1304", "majority (development)": "0.63", "metric": "Acc."},
    },
    "Z": {
        task: dict(zip(("training", "validation", "test", "metric", *majority), row.split(), strict=True))
        for majority in [("majority (validation)", "majority (test)")]
        for task, row in {
            "rte": "2.5k 139 139 Acc. 52.9 52.5",
            "mrpc": "3.7k 204 205 F1 81.3 81.2",
            "stsb": "5.8k 690 690 SCC 0 0",
            "cola": "8.6k 521 521 MCC 0 0",
            "sst2": "61.3k 1k 1.8k Acc. 50.0 49.1",
            "qnli": "104k 1k 5.5k Acc. 50.0 50.5",
            "qqp": "363k 1k 40k Acc. 50.0 63.2",
            "mnli": "392k 1k 9.8k Acc. 33.3 31.8",
        }.items()
    },
}

# Why a number differs: (table, task or "", column) -> sentence; shown only where the numbers do differ.
REASONS = {
    ("M", "", "training"): "the paper counts the header line",
    ("M", "", "development"): "the paper counts the header line",
    ("M", "mrpc", "majority (development)"): "the paper's .75 is the mean of accuracy and F1, not F1",
    ("M", "qnli", "majority (development)"): "the paper cuts the digits off instead of rounding",
    ("M", "scitail", "majority (development)"): "the paper's .63 is the share of `neutral` in the training set",
    ("Z", "rte", "validation"): "each class is halved and rounded down, so an odd class tests with one row more",
    ("Z", "mrpc", "validation"): "each class is halved and rounded down: the released code gives 203",
    ("Z", "stsb", "validation"): "the paper's 690 + 690 is not GLUE's dev set, which has 1,500 rows",
    ("Z", "stsb", "test"): "the paper's 690 + 690 is not GLUE's dev set, which has 1,500 rows",
    ("Z", "cola", "validation"): "each class is halved and rounded down",
    ("Z", "cola", "test"): "each class is halved and rounded down, the odd row tests",
    (
        "Z",
        "sst2",
        "training",
    ): "GLUE has 67,349 rows, 66.3k without the 1,000 held out: 61.3k looks like a misprint",
    ("Z", "sst2", "test"): "the paper gives the size of GLUE's unlabelled test set; the dev set has 872 rows",
    ("Z", "sst2", "majority (test)"): "the paper gives the share of the less frequent class",
    ("Z", "mnli", "majority (test)"): "the paper gives the share of the least frequent class",
}
FOOTNOTES = {
    "M": "M sec. 7.8 gives SciTail 28k training rows, its Table 2 gives 23,596.",
    "Z": f"Large tasks: {HELD_OUT} class-balanced training rows validate (MNLI 999), the dev set tests.",
}


@dataclass(frozen=True)
class Statistic:
    """One number of the files beside the paper's ("" where it prints none), and why they differ."""

    table: str  # "M" or "Z"
    task: str
    column: str
    here: str
    paper: str
    note: str


def dataset_statistics(data_dir: Path | None, tasks: Iterable[TaskSpec]) -> list[Statistic]:
    """Returns both tables' columns for these tasks; a number whose file is missing is "not available".

    With `data_dir` None the data sets are read from the hub.

    Raises:
        UserError: a file that is there does not fit its task, or the hub cannot be reached.
    """
    found = []
    for task in tasks:
        if task.name not in PAPER["M"] | PAPER["Z"]:
            continue
        train, dev = _read(task, "train", data_dir), _read(task, "dev", data_dir)
        for table, by_task in PAPER.items():
            if task.name in by_task:
                splits = {"training": train, "development": dev} if table == "M" else _z_splits(task, train, dev)
                found += _rows(table, task, splits)
    return sorted(found, key=lambda row: row.table)


def render(statistics: list[Statistic]) -> str:
    """Returns the statistics as two tables."""
    blocks = []
    for table, title in TITLE.items():
        rows = [row for row in statistics if row.table == table]
        if rows:
            cells: list[Row] = [("task", "column", "here", "paper", "note")]
            cells += [(row.task, row.column, row.here, row.paper, row.note) for row in rows]
            blocks.append(f"{title}\n\n{columns(cells)}\n\n{FOOTNOTES[table]}")
    return "\n\n".join(blocks) + "\n"


def _read(task: TaskSpec, part, data_dir: Path | None) -> RawSplit | None:
    if data_dir is not None and not find_layouts(task, part, data_dir):
        return None
    return read_rows(task, part, data_dir)


def _z_splits(task: TaskSpec, train: RawSplit | None, dev: RawSplit | None) -> dict[str, RawSplit | None]:
    if not task.large:
        if dev is None:
            return {"training": train, "validation": None, "test": None}
        val, test = halve(dev)
        return {"training": train, "validation": dev.take(val), "test": dev.take(test)}
    if train is None:
        return {"training": None, "validation": None, "test": dev}
    held_out = hold_out(task, train, HELD_OUT)
    rest = np.setdiff1d(np.arange(len(train)), held_out)
    return {"training": train.take(rest), "validation": train.take(held_out), "test": dev}


def _rows(table: str, task: TaskSpec, splits: dict[str, RawSplit | None]) -> list[Statistic]:
    rows = []
    for name in COLUMNS[table]:
        split = splits[name]
        rows.append(_statistic(table, task, name, len(split) if split else None, "d"))
    rows.append(Statistic(table, task.title, "metric", TITLES[task.metric], PAPER[table][task.name]["metric"], ""))
    metrics = scored_metrics(task.metrics)
    for name in COLUMNS[table][1:]:
        split = splits[name]
        for metric in metrics:
            # As the papers write them: M as fractions, Z in percent.
            value = majority_baseline(split.labels, metric) * (1 if table == "M" else 100) if split else None
            rows.append(_statistic(table, task, f"majority ({name})", value, ".3f" if table == "M" else ".1f", metric))
    return rows


def _statistic(
    table: str, task: TaskSpec, column: str, value: float | None, digits: str, metric: str | None = None
) -> Statistic:
    title = f"{column}, {TITLES[metric]}" if metric else column
    here = MISSING if value is None else format(value, digits)
    if metric not in (None, task.metric):
        return Statistic(table, task.title, title, here, "", "")
    paper = PAPER[table][task.name][column]
    note = ""
    if value is not None and not _agrees(value, paper):
        reason = REASONS.get((table, task.name, column)) or REASONS.get((table, "", column)) or "no reason is known"
        note = f"differs: {reason}"
    return Statistic(table, task.title, title, here, paper, note)


def _agrees(value: float, paper: str) -> bool:
    number = re.fullmatch(r"(\d+)(?:\.(\d+))?(k?)", paper)
    assert number is not None
    unit = 1000 if number[3] else 1
    half_of_last_digit = unit * 10.0 ** -len(number[2] or "") / 2 if number[2] or number[3] else 0.0
    return abs(value - float(paper.removesuffix("k")) * unit) <= half_of_last_digit + 1e-9
