import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from support.paths import GLUE
from support.reports import values_of

from stableft.catalog.tasks import TASKS
from stableft.data.sources import RawSplit
from stableft.errors import UserError
from stableft.report import paper_tables as data_stats
from stableft.report.forms.document import Bullets, ReportTable
from stableft.report.forms.write import report_to_json
from stableft.report.paper_tables import (
    NOT_AVAILABLE,
    DatasetStatistic,
    build_dataset_report,
    compute_dataset_statistics,
    load_printed_dataset_tables,
    render_dataset_statistics,
)

# The tables typed a second time. M Table 2: training, development, majority baseline, metric.
MOSBACH = """
rte 2491 278 0.53 Acc.
mrpc 3669 409 0.75 F1 score
cola 8551 1043 0.0 MCC
qnli 104744 5464 0.50 Acc.
scitail 23596 1304 0.63 Acc.
"""
# Z Table 3: training, validation, test, metric, majority baseline of validation and test.
ZHANG = """
rte 2.5k 139 139 Acc. 52.9 52.5
mrpc 3.7k 204 205 F1 81.3 81.2
stsb 5.8k 690 690 SCC 0 0
cola 8.6k 521 521 MCC 0 0
sst2 61.3k 1k 1.8k Acc. 50.0 49.1
qnli 104k 1k 5.5k Acc. 50.0 50.5
qqp 363k 1k 40k Acc. 50.0 63.2
mnli 392k 1k 9.8k Acc. 33.3 31.8
"""


@pytest.fixture(scope="module", autouse=True)
def small_hold_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stats, "HELD_OUT_ROWS", 6)
        yield


def find(rows: list[DatasetStatistic], table: str, task: str, column: str) -> DatasetStatistic:
    return next(row for row in rows if (row.table, row.task, row.column) == (table, task, column))


@pytest.mark.parametrize(
    ("table", "text", "columns"),
    [
        ("M", MOSBACH, ["training", "development", "majority (development)", "metric"]),
        ("Z", ZHANG, ["training", "validation", "test", "metric", "majority (validation)", "majority (test)"]),
    ],
)
def test_printed_tables_typed_a_second_time(table, text, columns):
    typed = {}
    for line in text.strip().splitlines():
        task, *texts = line.split(" ", len(columns))
        typed[task] = dict(zip(columns, texts, strict=True))
    printed = load_printed_dataset_tables()[table]
    assert {task: dict(values) for task, values in printed.values.items()} == typed
    assert [list(values) for values in printed.values.values()] == [columns] * len(typed)


def test_every_column_of_both_tables_is_there():
    rows = compute_dataset_statistics(GLUE, TASKS.values())
    assert NOT_AVAILABLE not in {row.here for row in rows}
    for table, paper in load_printed_dataset_tables().items():
        for name, columns in paper.values.items():
            printed = [row for row in rows if (row.table, row.task) == (table, TASKS[name].title) and row.paper]
            assert [row.paper for row in printed] == [columns[c] for c in sorted(columns, key=_order)]


def _order(column: str) -> int:
    names = ("training", "development", "validation", "test", "metric")
    return names.index(column) if column in names else 9 + ("test" in column)


def test_majority_baselines_of_every_metric():
    rows = compute_dataset_statistics(GLUE, [TASKS["mrpc"]])
    accuracy, f1 = 8 / 12, 2 * 8 / 12 / (1 + 8 / 12)
    assert find(rows, "M", "MRPC", "majority (development), accuracy").here == f"{accuracy:.3f}"
    assert find(rows, "M", "MRPC", "majority (development), F1").here == f"{f1:.3f}"
    mean = find(rows, "M", "MRPC", "majority (development), mean of accuracy and F1")
    assert (mean.here, mean.paper) == (f"{(accuracy + f1) / 2:.3f}", "")


def test_a_missing_file_is_not_available(tmp_path):
    (tmp_path / "QNLI").mkdir()
    shutil.copy(GLUE / "QNLI" / "dev.tsv", tmp_path / "QNLI")
    rows = compute_dataset_statistics(tmp_path, TASKS.values())
    assert find(rows, "M", "QNLI", "training").here == NOT_AVAILABLE
    assert find(rows, "M", "QNLI", "development").here == "10"
    assert find(rows, "Z", "QNLI", "validation").here == NOT_AVAILABLE
    assert find(rows, "Z", "QNLI", "test").here == "10"
    others = [row for row in rows if row.task != "QNLI" and row.column != "metric"]
    assert {(row.here, row.note) for row in others if row.paper} == {(NOT_AVAILABLE, "")}


def genuine(labels) -> RawSplit:
    labels = np.asarray(labels)
    return RawSplit(([""] * len(labels),), labels, np.arange(len(labels)))


def test_genuine_sizes_differ_where_the_papers_do(monkeypatch):
    """Label counts of the genuine files: only the known differences to the papers are reported."""
    counts = {
        ("rte", "train"): (1249, 1241),
        ("rte", "dev"): (146, 131),
        ("mrpc", "train"): (1194, 2474),
        ("mrpc", "dev"): (129, 279),
        ("cola", "train"): (2528, 6023),
        ("cola", "dev"): (322, 721),
    }
    monkeypatch.setattr(data_stats, "find_layouts", lambda task, part, folder: (task.name, part) in counts)
    monkeypatch.setattr(
        data_stats, "read_raw_split", lambda task, part, folder: genuine(np.repeat([0, 1], counts[task.name, part]))
    )
    rows = compute_dataset_statistics(Path("anywhere"), TASKS.values())
    different = {(row.table, row.task, row.column.split(",")[0]) for row in rows if row.note}
    assert different == {
        ("M", "RTE", "training"),
        ("M", "RTE", "development"),
        ("M", "MRPC", "training"),
        ("M", "MRPC", "development"),
        ("M", "MRPC", "majority (development)"),
        ("Z", "RTE", "validation"),
        ("Z", "MRPC", "validation"),
        ("Z", "CoLA", "test"),
    }
    assert all(row.note.startswith("differs: ") and "no reason" not in row.note for row in rows if row.note)


def test_reasons_name_columns_of_the_papers():
    for printed in load_printed_dataset_tables().values():
        assert printed.reasons
        assert all(column in printed.values[task] for task, column in printed.reasons)


def test_a_metric_other_than_the_printed_one_is_said(monkeypatch):
    assert {row.note for row in compute_dataset_statistics(GLUE, TASKS.values()) if row.column == "metric"} == {""}
    monkeypatch.setitem(data_stats.PRINTED_METRIC_NAMES, "F1 score", "accuracy")
    assert find(compute_dataset_statistics(GLUE, [TASKS["mrpc"]]), "M", "MRPC", "metric").note.startswith("differs")


def test_rendering_is_aligned():
    text = render_dataset_statistics(compute_dataset_statistics(GLUE, [TASKS["rte"], TASKS["stsb"]]))
    assert "Mosbach et al. 2021, Table 2" in text
    assert "Zhang et al. 2021, Table 3" in text
    table = text.split("\n\n")[1].splitlines()
    starts = [table[0].index(name) for name in ("column", "here", "paper", "note")]
    assert all(line[start - 2 : start] in ("  ", "") for line in table for start in starts)


def grids_of(report) -> list[ReportTable]:
    return [block for block in report.blocks if isinstance(block, ReportTable)]


def entries_of(report) -> dict[tuple[str, str], tuple[str, bool]]:
    """Returns (row, column) -> text and whether it is bold."""
    return {
        (row[0].text, column): (entry.text, entry.bold)
        for grid in grids_of(report)
        for row in grid.rows
        for column, entry in zip(grid.header[1:], row[1:], strict=True)
    }


@pytest.mark.parametrize(("paper", "n_grids", "n_printed"), [("M", 1, 5 * 4), ("Z", 2, 8 * 6)])
def test_a_report_shows_here_and_printed(paper, n_grids, n_printed):
    report = build_dataset_report(paper, GLUE)
    assert report.id == {"M": "mosbach-table2", "Z": "zhang-table3"}[paper]
    assert len(grids_of(report)) == n_grids
    assert report.tables == tuple(grids_of(report))
    entries = entries_of(report)
    assert len(entries) == 2 * n_printed
    counted = find(compute_dataset_statistics(GLUE, [TASKS["rte"]]), paper, "RTE", "training").here
    assert entries["Training", "RTE here"] == (counted, True)
    assert entries["Training", "RTE printed"] == ({"M": "2491", "Z": "2.5k"}[paper], True)
    assert entries["Metric", "RTE here"] == ("accuracy", False)
    assert NOT_AVAILABLE not in {text for text, _ in entries.values()}
    assert report.facts["missing"] == []
    (difference,) = (line for line in report.facts["differences"] if line.startswith("RTE, training: "))
    assert difference.startswith(f"RTE, training: {counted} here, printed ")
    cells = values_of(report)["cells"]
    assert len(cells) == sum(row.table == paper for row in compute_dataset_statistics(GLUE, TASKS.values()))
    assert {cell["agrees"] for cell in cells} == {True, False, None}  # None: of a metric that it does not print
    assert str(GLUE) not in report_to_json(report)


@pytest.fixture
def hub(monkeypatch):
    """Returns the list of data sets that were asked for; the hub has those that are added to `hub.cached`."""

    class Hub(list):
        cached = ()

    asked = Hub()

    def read(task, part, folder):
        assert folder is None
        asked.append(task.name)
        if task.name in asked.cached:
            return genuine(np.repeat([0, 1], [3, 4]))
        raise UserError(f"{task.title} cannot be loaded from the hub: no network; give a folder")

    monkeypatch.setattr(data_stats, "read_raw_split", read)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return asked


@pytest.mark.parametrize("paper", ["M", "Z"])
def test_without_data_the_printed_numbers_are_still_there(hub, paper):
    report = build_dataset_report(paper, None)
    assert hub == ["rte"]  # each data set would take its time to fail
    entries = entries_of(report)
    here = [text for (row, column), (text, _) in entries.items() if column.endswith(" here") and row != "Metric"]
    assert set(here) == {NOT_AVAILABLE}
    printed = [text for (_, column), (text, _) in entries.items() if column.endswith(" printed")]
    assert sorted(printed) == sorted(
        text for row in load_printed_dataset_tables()[paper].values.values() for text in row.values()
    )
    missing = [line for block in report.blocks if isinstance(block, Bullets) for line in block.lines]
    assert f"{len(here)} numbers of RTE, MRPC, " in missing[0]
    assert f"`stableft report {report.id} --data-dir FOLDER`" in missing[0]
    assert re.match("RTE .*hub.*no network", missing[1])
    assert "HF_HUB_OFFLINE=1" in missing[2]
    assert {cell["agrees"] for cell in values_of(report)["cells"] if cell["row"] != "metric"} == {None}
    assert report.facts["differences"] == []


def test_offline_every_data_set_of_the_cache_is_taken(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.cached = ("cola",)
    report = build_dataset_report("M", None)
    assert set(hub) == {"rte", "mrpc", "cola", "qnli", "scitail"}
    assert entries_of(report)["Training", "CoLA here"] == ("7", True)
    assert len(report.facts["missing"]) == 1 + 4


def test_a_missing_folder_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        build_dataset_report("M", tmp_path / "nowhere")
