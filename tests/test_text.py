"""Tables of text that fit a width: wrapped cells, and several parts."""

import pytest

from stableft.text import (
    SCREEN_WIDTH,
    align_columns,
    fit_columns,
    quote_formula,
    screen_width,
    strip_controls,
    wrap_cell,
    wrap_prose,
)

ROWS = [
    ["", "RTE, 3 Epochs", "RTE, Longer", "MRPC, 3 Epochs", "MRPC, Longer"],
    ["Standard", *["68.7 ± 6.2 (12 of 20, 1 failed)"] * 4],
    ["- difference", "-0.8", "", "", "+1.0"],
]


def texts(rows, width, **more):
    return [list(part.lines(rows)) for part in fit_columns(rows, width, 2, **more)]


def words(lines):
    return sorted(" ".join(lines).split())


def test_a_table_that_fits_is_not_changed():
    rows = [["arm", "n"], ["mosbach", "25"]]
    assert texts(rows, 11) == [["arm      n", "mosbach  25"]]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_no_line_is_too_wide_and_no_word_is_lost_or_cut(width):
    parts = texts(ROWS, width)
    assert all(len(line) <= width for lines in parts for line in lines)
    labels = [row[0] for row in ROWS] * (len(parts) - 1)
    missing = ["- difference"] if width == 60 else []  # the row of a part that has nothing in it
    assert set(words(line for lines in parts for line in lines)) == set(
        words([*(cell for row in ROWS for cell in row), *labels, *missing])
    )


def test_cells_are_wrapped_before_columns_are_split():
    (lines,) = texts(ROWS, 100)
    assert lines[1].count("68.7 ± 6.2") == 4
    assert lines[2].count("(12 of 20, 1 failed)") == 4
    first, second = texts(ROWS, 60)
    assert "MRPC" not in first[0]
    assert second[0].split()[0] == "MRPC,"


def test_groups_stay_together():
    rows = [["arm", *"abcdef"], ["x", *["12345678"] * 6]]
    spans = [(1, 3, "first"), (4, 3, "second")]
    assert [part.columns for part in fit_columns(rows, 40, 2, spans=spans)] == [(0, 1, 2, 3), (0, 4, 5, 6)]
    assert [part.columns for part in fit_columns(rows, 25, 2, spans=spans)] == [(0, 1, 2), (0, 3, 4), (0, 5, 6)]


def test_a_heading_above_columns_has_room():
    (part,) = fit_columns([["arm", "a", "b"], ["x", "1", "2"]], 60, 2, spans=[(1, 2, "a wide heading")])
    assert sum(part.widths[1:]) + 2 >= len("a wide heading")


def test_long_names_are_broken_at_their_hyphens():
    names = [f"bert-large-uncased-with-bias-correction-and-lr-2e-{n}" for n in range(12)]
    rows = [["arm", "failed", "mean"], *([name, "0/25", "71.2"] for name in names)]
    (lines,) = texts(rows, 50)
    assert max(map(len, lines)) <= 50
    assert "".join(line.split()[0] for line in lines[1:]).count("bert-large-uncased-") == 12
    label_width = lines[0].index("failed")
    assert "".join(line[:label_width].strip() for line in lines[1:]) == "".join(names)


def test_what_reads_as_one_is_not_broken():
    assert wrap_cell("68.7 ± 6.2 (12 of 20, 1 failed)", 20) == ["68.7 ± 6.2", "(12 of 20, 1 failed)"]
    assert wrap_cell("no (0.00029; -5.6 to 10.8)", 14) == ["no (0.00029;", "-5.6 to 10.8)"]
    assert wrap_cell("+37.0 [31.5, 42.4] *", 14) == ["+37.0", "[31.5, 42.4] *"]
    assert wrap_cell("- Z, Table 1 (iclr2021)", 14) == ["- Z, Table 1", "  (iclr2021)"]
    assert wrap_cell("Majority baseline (test)", 18, is_label=True) == ["Majority baseline", "  (test)"]
    assert wrap_cell("unbreakable", 4) == ["unbreakable"]
    assert wrap_cell("2.8e-07 p", 6) == ["2.8e-07", "p"]
    assert wrap_cell("", 4) == [""]


def test_the_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert screen_width() == 50
    assert max(map(len, wrap_prose("word " * 40, "  "))) <= 50
    assert max(map(len, align_columns([("id", "title"), ("x", "word " * 40)]).splitlines())) <= 50
    monkeypatch.delenv("COLUMNS")
    assert screen_width() == SCREEN_WIDTH  # no terminal
    monkeypatch.setenv("COLUMNS", "300")
    assert max(map(len, wrap_prose("word " * 100))) <= SCREEN_WIDTH


def test_controls_are_stripped_and_other_text_is_kept():
    assert strip_controls("\x1b[2Ja\u202eb\x00\x9b\r\ud800\x7f") == "[2Jab"
    kept = "68.7 ± 6.2\n\tcafé \u00a0 שלום 日本 👩\u200d🔬"
    assert strip_controls(kept) == kept


@pytest.mark.parametrize("cell", ["=1+1", "+a", "-a", "@SUM(A1)", "\t=1", "\r=1", "-1-1", "+1+cmd|' /C calc'!A0"])
def test_what_a_spreadsheet_would_compute_is_quoted(cell):
    assert quote_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-", "-0.5", "+3", "-1e-05", "-.5", "-2.5%", "a=1", "", "bert"])
def test_numbers_and_words_stay(cell):
    assert quote_formula(cell) == cell
