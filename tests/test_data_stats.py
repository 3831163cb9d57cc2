import shutil
from pathlib import Path

import numpy as np
import pytest

from stableft import data_stats
from stableft.data_stats import MISSING, PAPER, REASONS, Statistic, dataset_statistics, render
from stableft.rows import RawSplit
from stableft.tasks import TASKS

GLUE = Path(__file__).parent / "data" / "glue"


@pytest.fixture(scope="module", autouse=True)
def small_hold_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stats, "HELD_OUT", 6)
        yield


def find(rows: list[Statistic], table: str, task: str, column: str) -> Statistic:
    return next(row for row in rows if (row.table, row.task, row.column) == (table, task, column))


def test_every_column_of_both_tables_is_there():
    rows = dataset_statistics(GLUE, TASKS.values())
    assert MISSING not in {row.here for row in rows}
    for table, by_task in PAPER.items():
        for name, columns in by_task.items():
            printed = [row for row in rows if (row.table, row.task) == (table, TASKS[name].title) and row.paper]
            assert [row.paper for row in printed] == [columns[c] for c in sorted(columns, key=_order)]


def _order(column: str) -> int:
    names = ("training", "development", "validation", "test", "metric")
    return names.index(column) if column in names else 9 + ("test" in column)


def test_majority_baselines_of_every_metric():
    rows = dataset_statistics(GLUE, [TASKS["mrpc"]])
    accuracy, f1 = 8 / 12, 2 * 8 / 12 / (1 + 8 / 12)
    assert find(rows, "M", "MRPC", "majority (development), accuracy").here == f"{accuracy:.3f}"
    assert find(rows, "M", "MRPC", "majority (development), F1").here == f"{f1:.3f}"
    mean = find(rows, "M", "MRPC", "majority (development), mean of accuracy and F1")
    assert (mean.here, mean.paper) == (f"{(accuracy + f1) / 2:.3f}", "")


def test_a_missing_file_is_not_available(tmp_path):
    (tmp_path / "QNLI").mkdir()
    shutil.copy(GLUE / "QNLI" / "dev.tsv", tmp_path / "QNLI")
    rows = dataset_statistics(tmp_path, TASKS.values())
    assert find(rows, "M", "QNLI", "training").here == MISSING
    assert find(rows, "M", "QNLI", "development").here == "10"
    assert find(rows, "Z", "QNLI", "validation").here == MISSING
    assert find(rows, "Z", "QNLI", "test").here == "10"
    others = [row for row in rows if row.task != "QNLI" and row.column != "metric"]
    assert {(row.here, row.note) for row in others if row.paper} == {(MISSING, "")}


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
        data_stats, "read_rows", lambda task, part, folder: genuine(np.repeat([0, 1], counts[task.name, part]))
    )
    rows = dataset_statistics(Path("anywhere"), TASKS.values())
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
    for table, task, column in REASONS:
        assert any(column in columns for name, columns in PAPER[table].items() if task in ("", name))


def test_rendering_is_aligned():
    text = render(dataset_statistics(GLUE, [TASKS["rte"], TASKS["stsb"]]))
    assert "Mosbach et al. 2021, Table 2" in text
    assert "Zhang et al. 2021, Table 3" in text
    table = text.split("\n\n")[1].splitlines()
    starts = [table[0].index(name) for name in ("column", "here", "paper", "note")]
    assert all(line[start - 2 : start] in ("  ", "") for line in table for start in starts)
