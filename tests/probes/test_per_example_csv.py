"""Tables of predictions: a row for each run and example, or a column for each run, in little memory."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stableft.errors import UserError
from stableft.probes.per_example_csv import CompactTexts, NumberColumn, PredictionColumns, read_predictions_csv

WIDE = "id,text,gold,seed_1,seed_2,seed_10,note\nx,one,b,b,a,b,0\ny,two,a,a,a,,0\nz,three,c,c,b,a,0\n"
WIDE_COLUMNS = {"example": "id", "label": "gold", "text": ("text",)}


def long_form(text: str) -> str:
    """Return a wide table with a row for each run and example."""
    header, *rows = (line.split(",") for line in text.splitlines())
    lines = ["id,text,gold,run,prediction"]
    for i, run in enumerate(header[3:6], 3):
        lines += [",".join([*row[:3], run, row[i]]) for row in rows]
    return "\n".join(lines) + "\n"


@pytest.fixture
def read(tmp_path):
    def read(content: str, /, **columns):
        file = tmp_path / "table.csv"
        file.write_text(content)
        return read_predictions_csv(file, PredictionColumns(**columns))

    return read


def test_a_column_for_each_run_is_the_same_as_a_row_for_each(read):
    wide, long = read(WIDE, wide=("seed_*",), **WIDE_COLUMNS), read(long_form(WIDE), **WIDE_COLUMNS)
    for group in (wide, long):
        assert (group.runs, group.classes) == (("seed_1", "seed_2", "seed_10"), ("a", "b", "c"))
        assert group.predictions.tolist() == [[1, 0, 2], [0, 0, 1], [1, -1, 0]]
        assert group.examples.labels.tolist() == [1, 0, 2]
        assert list(group.examples.names) == ["x", "y", "z"]
        assert list(group.examples.texts["text"]) == ["one", "two", "three"]
        assert group.failed == (False, True, True)
        assert group.notes == ("run 'seed_10' has 1 empty prediction",)


def test_columns_of_runs_are_named_or_matched(read):
    assert read(WIDE, wide=("seed_10", "seed_1"), **WIDE_COLUMNS).runs == ("seed_10", "seed_1")
    assert read(WIDE, wide=("seed_?", "seed_*"), **WIDE_COLUMNS).runs == ("seed_1", "seed_2", "seed_10")
    starred = "id,x[1],x1\nr,a,b\n"
    assert read(starred, example="id", wide=("x[1]",)).runs == ("x[1]",)
    assert read(starred, example="id", wide=("x?",)).runs == ("x1",)


def test_without_a_column_of_examples_they_are_numbered(read):
    group = read("a,b\nyes,no\nyes,yes\n", wide=("a", "b"))
    assert list(group.examples.names) == ["0", "1"]
    assert list(read("example,a,b\nq,yes,no\n", wide=("a", "b")).examples.names) == ["q"]


def test_numbers_of_a_regression(read):
    group = read("id,y,r1,r2\n1,0.5,0.25,1e-3\n2,2,nan,-1\n", example="id", label="y", wide=("r*",), regression=True)
    assert (group.classes, group.failed) == ((), (True, True))
    assert np.array_equal(group.predictions, [[0.25, math.nan], [1e-3, -1]], equal_nan=True)
    assert group.examples.labels.tolist() == [0.5, 2]


def test_more_classes_than_a_byte_has(read):
    rows = "".join(f"{i},c{i % 300},c{i % 300}\n" for i in range(1500))
    group = read("id,gold,a\n" + rows, example="id", label="gold", wide=("a",))
    assert len(group.classes) == 300
    assert group.failed == (False,)
    assert [group.classes[i] for i in group.predictions[0, :3].tolist()] == ["c0", "c1", "c2"]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (WIDE, {"wide": ("sed_*", "x")}, r"2 mistakes: .*--wide sed_\*: no column has such a name, there are id, text"),
        (WIDE, {"wide": ("sed_1",)}, "did you mean 'seed_1'"),
        (WIDE, {"wide": ("gold",)}, "--wide gold: the column is not that of a run, another option names it"),
        (
            WIDE,
            {"wide": ("seed_1",), "run": "r"},
            "--run r and --wide: where each run has a column, there is none",
        ),
        (WIDE, {"wide": ("seed_1",), "prediction": "p"}, "--prediction p and --wide: "),
        (WIDE, {"wide": ("seed_1",), "example": "di"}, "--example di: there is no such column"),
        (WIDE.replace("y,two", "x,two"), {"wide": ("seed_1",)}, "lines 2 and 3 both have example 'x'; where each run"),
        (WIDE.replace("y,two", ",two"), {"wide": ("seed_1",)}, r"table\.csv:3 column 'id' is empty: --example must"),
        (WIDE.replace("two,a", "two,"), {"wide": ("seed_1",)}, r"table\.csv:3 column 'gold': the label is empty"),
        (WIDE.replace("seed_2", "seed_1"), {"wide": ("seed_1",)}, "columns 4 and 5 both have this name"),
        (WIDE.replace("b,b,a", "b,q,a"), {"wide": ("note",)}, "columns note have '0', column 'gold' has 'a', 'b', 'c'"),
        (WIDE, {"wide": ("seed_1",), "regression": True}, "column 'seed_1': 'b' must be a number"),
        ("id,gold,text,r\n1,0,t,5%\n", {"wide": ("r",), "regression": True}, "column 'r': '5%' must be a number"),
    ],
)
def test_wide_tables_that_are_refused(read, text, columns, message):
    with pytest.raises(UserError) as caught:
        read(text, **(WIDE_COLUMNS | columns))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_many_numbers_are_no_classes_in_columns_either(read):
    rows = "".join(f"{i},0.{i}1,0.{i}2\n" for i in range(100))
    with pytest.raises(UserError, match=r"columns r\* have 200 different predictions .* in 100 rows; .*--regression"):
        read("id,r1,r2\n" + rows, example="id", wide=("r*",))


def test_compact_texts_are_texts():
    for texts in (["0", "12", "9" * 18], ["0", "007", "x"], ["ä", "", "1"], ["5", "9" * 30]):
        compact = CompactTexts()
        for text in texts:
            compact.append(text)
        assert [compact[i] for i in range(len(texts))] == list(compact) == texts
        assert (compact[-1], compact[1:]) == (texts[-1], texts[1:])
        with pytest.raises(IndexError):
            compact[len(texts)]


def test_a_column_grows_to_the_type_that_it_needs():
    column = NumberColumn("b", "i", "q")
    for number in (1, -1, 127, 128, 2**40):
        column.append(number)
    assert column.to_numpy().tolist() == [1, -1, 127, 128, 2**40]


PEAK = """
import sys
from stableft.cli.app import main
try:
    main()
finally:
    (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(peak.split()[1], file=sys.stderr)
"""


def peak_bytes(file, *options):
    """The peak memory of `probe points` on a file, in a process of its own."""
    command = [sys.executable, "-c", PEAK, "probe", "points", "--csv", file, "--label", "label", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stderr.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of a process's peak memory")
@pytest.mark.parametrize("wide", [True, False])
def test_the_command_takes_at_most_three_times_a_file_of_a_million_short_rows(tmp_path, wide):
    header = "example,label,r0,r1" if wide else "example,run,label,prediction"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (1_000_000, 1))
    answers = np.hstack([labels, labels ^ (rng.random((1_000_000, 2)) < 0.2)])  # four in five are right
    rows = [header] + [
        f"{i},{label},{one},{other}"
        if wide
        else f"{i % 500_000},{i // 500_000},{(i % 500_000) % 2},{one if label == (i % 500_000) % 2 else 1 - one}"
        for i, (label, one, other) in enumerate(answers.tolist())
    ]
    large, small = tmp_path / "large.csv", tmp_path / "small.csv"
    large.write_text("\n".join(rows))
    first = rows[:11] if wide else [header, *rows[1:6], *rows[500_001:500_006]]
    small.write_text("\n".join(first))
    options = ("--wide", "r*") if wide else ()
    assert peak_bytes(large, *options) - peak_bytes(small, *options) <= 3 * large.stat().st_size
