"""The papers' tables of data sets and hyper-parameters, made from files, recipes and sweeps."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stableft.catalog.model_families import BACKBONES
from stableft.catalog.tasks import METRIC_TITLES, TASKS, TaskSpec, scored_metrics
from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import Recipe, read_recipe, shipped_recipes
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import load_sweep
from stableft.data.metrics import majority_baseline
from stableft.data.sources import RawSplit, find_layouts, read_raw_split
from stableft.data.splits import HELD_OUT_ROWS, halve_dev_set, hold_out_rows
from stableft.errors import UserError
from stableft.report.forms.document import (
    Bullets,
    Column,
    DataTable,
    Heading,
    Paragraph,
    Report,
    ReportBlock,
    ReportTable,
    Value,
)
from stableft.report.mosbach import MOSBACH_ARTIFACTS as MOSBACH
from stableft.report.numbers_in_words import text_value
from stableft.report.paper_values import load_printed_hyperparameters, paper_value_blocks
from stableft.report.zhang import LARGE_TASKS, SMALL_TASKS
from stableft.report.zhang import ZHANG_ARTIFACTS as ZHANG
from stableft.text import TextRow, align_columns
from stableft.training.schedule import warmup_linear

Paper = Literal["M", "Z"]
NOT_USED = "-"
HYPERPARAMETER_TABLE_IDS = {"M": "mosbach-table3", "Z": "zhang-table6"}
HYPERPARAMETER_TABLE_INTRO = {
    "M": "All runs of configs/mosbach but those of Mixout and of BERT-base: every value that any of them has.",
    "Z": "The recipes zhang, zhang-xlnet, zhang-roberta, zhang-electra and zhang-bart, as they are for each data set.",
}
NO_KNOWN_REASON = "no reason is known"


@dataclass(frozen=True)
class HyperparameterCell:
    """One cell of a hyper-parameter table: our runs' value and the printed one."""

    row: str
    column: str
    here: str
    printed: str
    reason: str  # why they differ; "" if they agree

    @property
    def agrees(self) -> bool:
        return self.here == self.printed

    @property
    def text(self) -> str:
        return self.here if self.agrees else f"{self.here}; printed: {self.printed}"


def build_hyperparameter_report(paper: Paper) -> Report:
    """Return the report on the paper's hyper-parameter table: our values, and every deviation from the printed ones."""
    printed = load_printed_hyperparameters(paper)
    compared = compare_hyperparameters(paper)
    artifact = (MOSBACH | ZHANG)[HYPERPARAMETER_TABLE_IDS[paper]]
    deviations = tuple(
        f"{cell.row}, {cell.column}: {cell.here} here, printed {cell.printed}: {cell.reason}."
        for cell in compared
        if not cell.agrees
    )
    agreeing = f"{sum(cell.agrees for cell in compared)} of {len(compared)} places agree with {printed.place}."
    cells = DataTable.from_records(
        {
            Column("row", "Hyper-parameter" if paper == "M" else "Model and data set"): text_value(cell.row),
            "column": text_value(cell.column),
            "paper": printed.place,
            "here": cell.here,
            "printed": cell.printed,
            "agrees": cell.agrees,
            "note": cell.reason,
            Column("shown", for_readers=True): Value(cell.text, bold=not cell.agrees),
        }
        for cell in compared
    )
    intro = HYPERPARAMETER_TABLE_INTRO[paper]
    notes = ("Bold: not what the paper prints.",) if deviations else ()
    table = cells.pivot(artifact.id, "row", "column", ["shown"], f"{artifact.title}. {intro}", notes)
    blocks: list[ReportBlock] = [Paragraph(f"{intro} {agreeing}"), table]
    blocks += [Heading("Deviations"), Bullets(deviations)] if deviations else []
    blocks += [Heading("Notes"), Bullets(printed.notes)] if printed.notes else []
    return Report(
        artifact.id,
        artifact.title,
        tuple(blocks),
        data={"cells": cells},
        facts={"deviations": list(deviations), "notes": list(printed.notes)},
    )


def compare_hyperparameters(paper: Paper) -> tuple[HyperparameterCell, ...]:
    """Return the cells of the paper's table, row by row."""
    printed = load_printed_hyperparameters(paper)
    cells = []
    for row, texts in printed.rows.items():
        for column, text in zip(printed.columns, texts, strict=True):
            here = _value_in_mosbach_runs(row, column) if paper == "M" else _value_in_zhang_recipes(row, column)
            reason = "" if here == text else printed.reasons.get((row, column), NO_KNOWN_REASON)
            cells.append(HyperparameterCell(row, column, here, text, reason))
    return tuple(cells)


def _value_in_mosbach_runs(row: str, column: str) -> str:
    model = next(spec.example for spec in BACKBONES.values() if spec.title == column)
    return MOSBACH_ROWS[row]([run for run in _mosbach_runs() if run.model.name == model])


@cache
def _mosbach_runs() -> tuple[RunConfig, ...]:
    """Return the config of every run of M's sweeps once, without the Mixout runs."""
    files = sorted((shipped_configs() / "mosbach").glob("*.yaml"))
    runs = {run.run_id: run.run_config for file in files for run in load_sweep(file, LocalPaths()).runs}
    return tuple(run for run in runs.values() if not run.mixout)


def _format_lengths(runs: Iterable[RunConfig]) -> str:
    lengths = [run.schedule.length for run in runs]
    epochs = sorted({length.epochs for length in lengths if length.epochs})
    steps = sorted({length.steps for length in lengths if length.steps})
    return ", ".join(map(str, epochs)) + (f"; {', '.join(map(str, steps))} steps" if steps else "")


def _count_seeds(runs: Iterable[RunConfig]) -> set[int]:
    """Return the distinct numbers of seeds of the settings."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.setting_id(), set()).add(run.seeds.init)
    return {len(seeds_of_setting) for seeds_of_setting in seeds.values()}


def _format_range(values: Iterable[float]) -> str:
    numbers = sorted(set(values))
    return (
        _format_number(numbers[0])
        if len(numbers) == 1
        else f"{_format_number(numbers[0])} - {_format_number(numbers[-1])}"
    )


def _format_switch(values: Iterable[bool]) -> str:
    return "{" + ", ".join(map(str, sorted(set(values), reverse=True))) + "}"


def _format_each(values: Iterable[float | None]) -> str:
    return ", ".join(map(_format_number, sorted({value or 0 for value in values})))


def _format_dropout(values: Iterable[float | None]) -> str:
    distinct = set(values)
    return "as the checkpoint says" if None in distinct else _format_each(distinct)


def _format_number(value: float | None) -> str:
    """Return a number as the papers write it. Zero and None are a dash."""
    return str(value).replace("e-0", "e-") if value else NOT_USED


def _value_in_zhang_recipes(row: str, column: str) -> str:
    title, _, data_set = row.partition(" ")
    recipe = _read_zhang_recipe(title)
    tasks = [task.name for task in TASKS.values() if task.title == data_set] or [*SMALL_TASKS, *LARGE_TASKS]
    texts = [
        ZHANG_COLUMNS[column]({key: setting.value for key, setting in recipe.for_task(task).items()}) for task in tasks
    ]
    return ", ".join(dict.fromkeys(texts))


@cache
def _read_zhang_recipe(title: str) -> Recipe:
    return read_recipe(shipped_recipes()["zhang" if title == "BERT" else f"zhang-{title.lower()}"])


def _format_length(length: Mapping[str, int]) -> str:
    return " ".join(f"{number} {unit}" for unit, number in length.items() if number)


def _format_warmup(ratio: float | None, steps: int | None) -> str:
    return f"{100 * ratio:g}%" if ratio is not None else f"{steps} steps"


# M: a row is a setting, or a summary of all runs of a model.
MOSBACH_ROWS: Mapping[str, Callable[[list[RunConfig]], str]] = {
    "Epochs": _format_lengths,
    "Learning rate": lambda runs: _format_range(run.optimizer.lr for run in runs),
    "Learning rate schedule": lambda _: warmup_linear.__name__.replace("_", "-"),  # the only schedule
    "Warmup ratio": lambda runs: _format_each(run.schedule.warmup for run in runs),
    "Batch size": lambda runs: _format_each(run.schedule.batch_size for run in runs),
    "Adam ε": lambda runs: _format_each(run.optimizer.eps for run in runs),
    "Adam β1": lambda runs: _format_each(run.optimizer.betas[0] for run in runs),
    "Adam β2": lambda runs: _format_each(run.optimizer.betas[1] for run in runs),
    "Adam bias correction": lambda runs: _format_switch(run.optimizer.bias_correction for run in runs),
    "Dropout": lambda runs: _format_dropout(run.model.dropout for run in runs),
    "Weight decay": lambda runs: _format_each(run.optimizer.weight_decay for run in runs),
    "Clipping gradient norm": lambda runs: _format_each(run.optimizer.clip_norm for run in runs),
    "Number of random seeds": lambda runs: _format_each(_count_seeds(runs)),
}
# Z: a row is a model, with one data set or all of them. A column is a setting.
ZHANG_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Learning Rate": lambda values: _format_number(values["optimizer.lr"]),
    "Training Epochs / Steps": lambda values: _format_length(values["schedule.length"]),
    "Batch Size": lambda values: _format_number(values["schedule.batch_size"]),
    "Warmup Ratio / Steps": lambda values: _format_warmup(values["schedule.warmup"], values["schedule.warmup_steps"]),
    "LLRD": lambda values: NOT_USED if values["optimizer.llrd"] == 1 else _format_number(values["optimizer.llrd"]),
}
NOT_AVAILABLE = "not available"
SPLIT_COLUMNS = {"M": ("training", "development"), "Z": ("training", "validation", "test")}
PRINTED_METRIC_NAMES = {"Acc.": "accuracy", "F1": "f1", "F1 score": "f1", "MCC": "mcc", "SCC": "spearman"}


@dataclass(frozen=True)
class PrintedDatasetTable:
    """A data-set table as printed. `reasons`: (task, column) -> why our number differs."""

    title: str
    values: Mapping[str, Mapping[str, str]]  # task -> column -> text; majority baselines are in the reported metric
    reasons: Mapping[tuple[str, str], str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DatasetStatistic:
    """One number counted in the files, the printed one ("" if none is printed), and why they differ."""

    table: Paper
    task: str
    column: str
    here: str
    paper: str
    note: str


@cache
def load_printed_dataset_tables() -> Mapping[Paper, PrintedDatasetTable]:
    """Return the data-set tables as printed, by paper."""
    return {block["paper"][0]: _parse_printed_table(block) for block in paper_value_blocks("datasets")}


def compute_dataset_statistics(
    data_dir: Path | None, tasks: Iterable[TaskSpec], papers: Sequence[Paper] = ("M", "Z")
) -> list[DatasetStatistic]:
    """Return the numbers of the papers' tables for these tasks. Numbers without a file are "not available".

    `data_dir` None: the data sets are read from the hub.

    Raises:
        UserError: A file does not fit its task, or the hub cannot be reached.
    """
    statistics = []
    for task in tasks:
        if any(task.name in printed.values for printed in load_printed_dataset_tables().values()):
            statistics += compute_task_statistics(
                task, _read_if_available(task, "train", data_dir), _read_if_available(task, "dev", data_dir), papers
            )
    return sorted(statistics, key=lambda row: row.table)


def compute_task_statistics(
    task: TaskSpec, train: RawSplit | None, dev: RawSplit | None, papers: Sequence[Paper] = ("M", "Z")
) -> list[DatasetStatistic]:
    """Return the numbers of the papers' tables for one task, from its original splits. None: the split is missing."""
    statistics = []
    for table, printed in load_printed_dataset_tables().items():
        if table in papers and task.name in printed.values:
            splits = {"training": train, "development": dev} if table == "M" else _zhang_splits(task, train, dev)
            statistics += _table_statistics(table, task, splits)
    return statistics


def render_dataset_statistics(statistics: list[DatasetStatistic]) -> str:
    """Return the statistics as text, one table per paper."""
    blocks = []
    for table, printed in load_printed_dataset_tables().items():
        rows = [row for row in statistics if row.table == table]
        if rows:
            cells: list[TextRow] = [("task", "column", "here", "paper", "note")]
            cells += [(row.task, row.column, row.here, row.paper, row.note) for row in rows]
            blocks.append("\n\n".join((printed.title, align_columns(cells), *printed.notes)))
    return "\n\n".join(blocks) + "\n"


def _parse_printed_table(block: dict) -> PrintedDatasetTable:
    values = {task: dict(zip(block["columns"], texts, strict=True)) for task, texts in block["values"].items()}
    reasons = {
        (task, column): reason["text"]
        for reason in block["reasons"]
        for task in reason.get("tasks", values)
        for column in reason["columns"]
    }
    return PrintedDatasetTable(f"{block['paper']}, {block['location']}", values, reasons, tuple(block["notes"]))


def _read_if_available(task: TaskSpec, part, data_dir: Path | None) -> RawSplit | None:
    if data_dir is not None and not find_layouts(task, part, data_dir):
        return None
    return read_raw_split(task, part, data_dir)


def _zhang_splits(task: TaskSpec, train: RawSplit | None, dev: RawSplit | None) -> dict[str, RawSplit | None]:
    if not task.large:
        if dev is None:
            return {"training": train, "validation": None, "test": None}
        val, test = halve_dev_set(dev)
        return {"training": train, "validation": dev.take(val), "test": dev.take(test)}
    if train is None:
        return {"training": None, "validation": None, "test": dev}
    held_out = hold_out_rows(task, train, HELD_OUT_ROWS)
    rest = np.setdiff1d(np.arange(len(train)), held_out)
    return {"training": train.take(rest), "validation": train.take(held_out), "test": dev}


def _table_statistics(table: Paper, task: TaskSpec, splits: Mapping[str, RawSplit | None]) -> list[DatasetStatistic]:
    rows = []
    for name in SPLIT_COLUMNS[table]:
        split = splits[name]
        rows.append(_compare_with_printed(table, task, name, len(split) if split else None, "d"))
    rows.append(_metric_statistic(table, task))
    metrics = scored_metrics(task.metrics)
    for name in SPLIT_COLUMNS[table][1:]:
        split = splits[name]
        for metric in metrics:
            # As the papers write them: M as fractions, Z in percent.
            value = majority_baseline(split.labels, metric) * (1 if table == "M" else 100) if split else None
            rows.append(
                _compare_with_printed(
                    table, task, f"majority ({name})", value, ".3f" if table == "M" else ".1f", metric
                )
            )
    return rows


def _metric_statistic(table: Paper, task: TaskSpec) -> DatasetStatistic:
    paper = load_printed_dataset_tables()[table].values[task.name]["metric"]
    note = "" if PRINTED_METRIC_NAMES[paper] == task.metric else "differs: no reason is known"
    return DatasetStatistic(table, task.title, "metric", METRIC_TITLES[task.metric], paper, note)


def _compare_with_printed(
    table: Paper, task: TaskSpec, column: str, value: float | None, digits: str, metric: str | None = None
) -> DatasetStatistic:
    title = f"{column}, {METRIC_TITLES[metric]}" if metric else column
    here = NOT_AVAILABLE if value is None else format(value, digits)
    if metric not in (None, task.metric):
        return DatasetStatistic(table, task.title, title, here, "", "")
    printed = load_printed_dataset_tables()[table]
    paper = printed.values[task.name][column]
    note = ""
    if value is not None and not _agrees_with_printed(value, paper):
        note = f"differs: {printed.reasons.get((task.name, column), 'no reason is known')}"
    return DatasetStatistic(table, task.title, title, here, paper, note)


def _agrees_with_printed(value: float, paper: str) -> bool:
    number = re.fullmatch(r"(\d+)(?:\.(\d+))?(k?)", paper)
    assert number is not None
    unit = 1000 if number[3] else 1
    half_of_last_digit = unit * 10.0 ** -len(number[2] or "") / 2 if number[2] or number[3] else 0.0
    return abs(value - float(paper.removesuffix("k")) * unit) <= half_of_last_digit + 1e-9


DATASET_TABLE_IDS = {"M": "mosbach-table2", "Z": "zhang-table3"}
MAX_DATASETS_PER_TABLE = 5  # side by side
DATASET_TABLE_INTRO = "Here: counted in the data set; printed: what the paper has. Bold: they differ."


def build_dataset_report(paper: Paper, data_dir: Path | None) -> Report:
    """Return the report on the paper's data-set table.

    The numbers are counted in the original files in `data_dir`. None: in the hub's data sets. Numbers that the hub
    does not provide are "not available", with the reason in the report.

    Raises:
        UserError: `data_dir` is not a folder, or a file in it does not fit its task.
    """
    artifact, printed = (MOSBACH | ZHANG)[DATASET_TABLE_IDS[paper]], load_printed_dataset_tables()[paper]
    tasks = [TASKS[name] for name in printed.values]
    statistics, failures = _collect_statistics(paper, tasks, data_dir)
    missing = [*_missing_number_notes(statistics, artifact.id), *failures]
    differences = [
        f"{s.task}, {s.column}: {s.here} here, printed {s.paper}: {_difference_reason(s)}."
        for s in statistics
        if s.note
    ]
    notes = [*_unprinted_baseline_notes(statistics), *printed.notes]
    blocks: list[ReportBlock] = [Paragraph(DATASET_TABLE_INTRO)]
    cells = DataTable.from_records(_statistic_values(printed.title, statistic) for statistic in statistics)
    blocks += _dataset_tables(paper, cells, artifact.id)
    for heading, lines in (("Not available", missing), ("Differences", differences), ("Notes", notes)):
        blocks += [Heading(heading), Bullets(tuple(lines))] if lines else []
    facts = {"differences": differences, "missing": missing, "notes": notes}
    return Report(artifact.id, artifact.title, tuple(blocks), data={"cells": cells}, facts=facts)


def _collect_statistics(
    paper: Paper, tasks: Sequence[TaskSpec], data_dir: Path | None
) -> tuple[list[DatasetStatistic], list[str]]:
    """Return the numbers of these data sets, and the reasons for missing ones.

    The first failure to reach the hub ends the attempts, because each costs half a minute. In offline mode the hub's
    client only looks into its cache, so every data set is tried.
    """
    if data_dir is not None:
        return compute_dataset_statistics(data_dir, tasks, [paper]), []
    from huggingface_hub.constants import HF_HUB_OFFLINE

    statistics, failures = [], []
    for task in tasks:
        if not failures or HF_HUB_OFFLINE:
            try:
                statistics += compute_dataset_statistics(None, [task], [paper])
                continue
            except UserError as error:
                failures.append(f"{str(error).partition(';')[0]}.")
        statistics += compute_task_statistics(task, None, None, [paper])
    if failures and not HF_HUB_OFFLINE:
        failures.append("The data sets after it were not tried; HF_HUB_OFFLINE=1 takes what the hub's cache has.")
    return statistics, failures


def _missing_number_notes(statistics: Sequence[DatasetStatistic], report: str) -> list[str]:
    """Return a note on missing numbers with the command that counts them, or an empty list."""
    absent = [statistic for statistic in statistics if statistic.here == NOT_AVAILABLE and statistic.paper]
    if not absent:
        return []
    tasks = ", ".join(dict.fromkeys(statistic.task for statistic in absent))
    command = f"`stableft report {report} --data-dir FOLDER` counts them in a folder of the original files"
    return [f"{len(absent)} numbers of {tasks}; {command}."]


def _dataset_tables(paper: Paper, cells: DataTable, name: str) -> Iterator[ReportTable]:
    """Yield tables with an equal number of data sets, each with our numbers and the printed ones."""
    printed = load_printed_dataset_tables()[paper].values
    titles = [TASKS[task].title for task in printed]
    labels = [_row_label(column) for column in next(iter(printed.values()))]
    rows = sorted((row for row in cells.rows if row["printed"].data), key=lambda row: labels.index(row["row"].text))
    n_tables = -(-len(titles) // MAX_DATASETS_PER_TABLE)
    width = -(-len(titles) // n_tables)
    for i in range(n_tables):
        shown = titles[i * width : (i + 1) * width]
        yield DataTable(cells.columns, tuple(row for row in rows if row["column"].data in shown)).pivot(
            f"{name}-{i + 1}" if n_tables > 1 else name,
            "row",
            "column",
            ["here", "printed"],
            f"Data sets and majority baselines: {', '.join(shown)}. {DATASET_TABLE_INTRO}",
            full_titles=True,
        )


def _unprinted_baseline_notes(statistics: Sequence[DatasetStatistic]) -> list[str]:
    """Return a note per task on the majority baselines in metrics that the paper does not report."""
    by_task: dict[str, list[str]] = {}
    for statistic in statistics:
        if not statistic.paper and statistic.here != NOT_AVAILABLE:
            by_task.setdefault(statistic.task, []).append(f"{statistic.column} {statistic.here}")
    return [f"{task} by metrics that the paper does not report: {'; '.join(texts)}." for task, texts in by_task.items()]


def _difference_reason(statistic: DatasetStatistic) -> str:
    return statistic.note.removeprefix("differs: ")


def _row_label(column: str) -> str:
    """Return the label of a column of the paper's table, which is a row here, without a baseline's metric."""
    label = column.split(",")[0].replace("majority", "majority baseline")
    return label[0].upper() + label[1:]


def _statistic_values(location: str, statistic: DatasetStatistic) -> dict[str | Column, Any]:
    available, differs = statistic.here != NOT_AVAILABLE, bool(statistic.note)
    return {
        "paper": location,
        "row": Value(_row_label(statistic.column), statistic.column),
        "column": text_value(statistic.task),
        Column("here", "here"): Value(statistic.here, statistic.here if available else None, bold=differs),
        Column("printed", "printed"): Value(statistic.paper, statistic.paper or None, bold=differs),
        "agrees": not differs if available and statistic.paper else None,
        "note": _difference_reason(statistic),
    }
