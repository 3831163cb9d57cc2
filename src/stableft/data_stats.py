"""Dataset statistics beside those the papers print: M's Table 2 and Z's Table 3, from the files at hand."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.metrics import TITLES, majority_baseline, scored_metrics
from stableft.rows import RawSplit, find_layouts, read_rows
from stableft.splits import HELD_OUT, halve, hold_out
from stableft.tasks import TaskSpec
from stableft.text import Row, columns

Paper = Literal["M", "Z"]
MISSING = "not available"
COLUMNS = {"M": ("training", "development"), "Z": ("training", "validation", "test")}
PRINTED = Path(__file__).parent / "report" / "paper_values.yaml"
METRICS = {"Acc.": "accuracy", "F1": "f1", "F1 score": "f1", "MCC": "mcc", "SCC": "spearman"}


@dataclass(frozen=True)
class PrintedTable:
    """A table of data sets as a paper prints it; `reasons` say why a (task, column) is another number in the files."""

    title: str
    values: Mapping[str, Mapping[str, str]]  # task -> column -> text; a majority baseline is of the reported metric
    reasons: Mapping[tuple[str, str], str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Statistic:
    """One number of the files beside the paper's ("" where it prints none), and why they differ."""

    table: Paper
    task: str
    column: str
    here: str
    paper: str
    note: str


@cache
def printed_tables() -> Mapping[Paper, PrintedTable]:
    """Returns what the papers print of their data sets."""
    import yaml

    blocks = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    return {block["paper"][0]: _printed_table(block) for block in blocks if block["kind"] == "datasets"}


def dataset_statistics(
    data_dir: Path | None, tasks: Iterable[TaskSpec], papers: Sequence[Paper] = ("M", "Z")
) -> list[Statistic]:
    """Returns the tables' columns for these tasks; a number whose file is missing is "not available".

    With `data_dir` None the data sets are read from the hub.

    Raises:
        UserError: a file that is there does not fit its task, or the hub cannot be reached.
    """
    found = []
    for task in tasks:
        if any(task.name in printed.values for printed in printed_tables().values()):
            found += task_statistics(task, _read(task, "train", data_dir), _read(task, "dev", data_dir), papers)
    return sorted(found, key=lambda row: row.table)


def task_statistics(
    task: TaskSpec, train: RawSplit | None, dev: RawSplit | None, papers: Sequence[Paper] = ("M", "Z")
) -> list[Statistic]:
    """Returns the tables' columns for one task from its original splits, of which one or both may be missing."""
    found = []
    for table, printed in printed_tables().items():
        if table in papers and task.name in printed.values:
            splits = {"training": train, "development": dev} if table == "M" else _z_splits(task, train, dev)
            found += _rows(table, task, splits)
    return found


def render(statistics: list[Statistic]) -> str:
    """Returns the statistics as two tables."""
    blocks = []
    for table, printed in printed_tables().items():
        rows = [row for row in statistics if row.table == table]
        if rows:
            cells: list[Row] = [("task", "column", "here", "paper", "note")]
            cells += [(row.task, row.column, row.here, row.paper, row.note) for row in rows]
            blocks.append("\n\n".join((printed.title, columns(cells), *printed.notes)))
    return "\n\n".join(blocks) + "\n"


def _printed_table(block: dict) -> PrintedTable:
    values = {task: dict(zip(block["columns"], texts, strict=True)) for task, texts in block["values"].items()}
    reasons = {
        (task, column): reason["text"]
        for reason in block["reasons"]
        for task in reason.get("tasks", values)
        for column in reason["columns"]
    }
    return PrintedTable(f"{block['paper']}, {block['location']}", values, reasons, tuple(block["notes"]))


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


def _rows(table: Paper, task: TaskSpec, splits: Mapping[str, RawSplit | None]) -> list[Statistic]:
    rows = []
    for name in COLUMNS[table]:
        split = splits[name]
        rows.append(_statistic(table, task, name, len(split) if split else None, "d"))
    rows.append(_metric(table, task))
    metrics = scored_metrics(task.metrics)
    for name in COLUMNS[table][1:]:
        split = splits[name]
        for metric in metrics:
            # As the papers write them: M as fractions, Z in percent.
            value = majority_baseline(split.labels, metric) * (1 if table == "M" else 100) if split else None
            rows.append(_statistic(table, task, f"majority ({name})", value, ".3f" if table == "M" else ".1f", metric))
    return rows


def _metric(table: Paper, task: TaskSpec) -> Statistic:
    paper = printed_tables()[table].values[task.name]["metric"]
    note = "" if METRICS[paper] == task.metric else "differs: no reason is known"
    return Statistic(table, task.title, "metric", TITLES[task.metric], paper, note)


def _statistic(
    table: Paper, task: TaskSpec, column: str, value: float | None, digits: str, metric: str | None = None
) -> Statistic:
    title = f"{column}, {TITLES[metric]}" if metric else column
    here = MISSING if value is None else format(value, digits)
    if metric not in (None, task.metric):
        return Statistic(table, task.title, title, here, "", "")
    printed = printed_tables()[table]
    paper = printed.values[task.name][column]
    note = ""
    if value is not None and not _agrees(value, paper):
        note = f"differs: {printed.reasons.get((task.name, column), 'no reason is known')}"
    return Statistic(table, task.title, title, here, paper, note)


def _agrees(value: float, paper: str) -> bool:
    number = re.fullmatch(r"(\d+)(?:\.(\d+))?(k?)", paper)
    assert number is not None
    unit = 1000 if number[3] else 1
    half_of_last_digit = unit * 10.0 ** -len(number[2] or "") / 2 if number[2] or number[3] else 0.0
    return abs(value - float(paper.removesuffix("k")) * unit) <= half_of_last_digit + 1e-9
