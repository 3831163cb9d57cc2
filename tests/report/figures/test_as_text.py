"""Panels as rows and as small tables, typed by hand."""

import math

import pytest

from stableft.report.figures.as_text import panel_to_csv_rows, panel_to_table
from stableft.report.figures.panels import (
    Box,
    BoxPanel,
    ContourPanel,
    Curve,
    CurvePanel,
    HeatPanel,
    PointGroup,
    PointPanel,
)

BOXES = BoxPanel(
    "RTE",
    "accuracy in percent\nvalidation split",
    (
        Box("devlin", (50.0, 60.0, 70.0), (True, False, None), 4, n_nan=1, n_failed="2/3", baseline=52.7),
        Box("mosbach", (71.25,), (False,), 1, n_failed="0/1"),
        Box("none", (), (), 1, n_nan=1, n_failed="1/1"),
    ),
)
STEPS = tuple(float(step) for step in range(0, 101))
CURVES = CurvePanel(
    "RTE",
    "optimizer step",
    "training loss",
    (
        Curve("mean", STEPS, tuple(1 - step / 200 for step in STEPS), (0.1,) * 101, (12.25,) * 101, n=20),
        Curve("short", (0.0, 20.0, 21.0), (5000.0, math.nan, 0.00012345), n=1),
        Curve("seed 1", STEPS, STEPS, n=1, thin=True, group="single runs"),
    ),
)
POINTS = PointPanel(
    "RTE", "loss", "accuracy", (PointGroup("failed", (0.7, 0.6), (50.0, 51.0)), PointGroup("fine", (), ()))
)
HEAT = HeatPanel("Standard", "data", "init", ("0", "mean"), ("0", "1"), ((70.25, 70.25), (None, None)), "percent", 2)
CONTOUR = ContourPanel("RTE", "a", "b", (0.0, 1.0), (5.0,), ((2.0, 3.0),))
PANELS = [BOXES, CURVES, POINTS, HEAT, CONTOUR]


def test_rows_of_boxes_are_runs():
    rows = panel_to_csv_rows(BOXES)
    assert rows[0] == {"title": "RTE", "label": "devlin", "n": 4, "score": 50.0, "failed": True}
    assert [(row["label"], row["score"], row["failed"]) for row in rows] == [
        ("devlin", 50.0, True),
        ("devlin", 60.0, False),
        ("devlin", 70.0, None),
        ("mosbach", 71.25, False),
    ]


def test_rows_of_curves_are_points_with_their_band():
    rows = panel_to_csv_rows(CURVES)
    assert len(rows) == 101 + 3 + 101
    assert rows[1] == {"title": "RTE", "label": "mean", "x": 1.0, "y": 0.995, "low": 0.1, "high": 12.25, "n": 20}
    assert rows[101] == {"title": "RTE", "label": "short", "x": 0.0, "y": 5000.0, "low": None, "high": None, "n": 1}


def test_rows_of_points_maps_and_surfaces():
    assert panel_to_csv_rows(POINTS) == [
        {"title": "RTE", "label": "failed", "x": 0.7, "y": 50.0},
        {"title": "RTE", "label": "failed", "x": 0.6, "y": 51.0},
    ]
    assert panel_to_csv_rows(HEAT) == [
        {"title": "Standard", "row": "0", "column": "0", "value": 70.25},
        {"title": "Standard", "row": "0", "column": "mean", "value": 70.25},
        {"title": "Standard", "row": "1", "column": "0", "value": None},
        {"title": "Standard", "row": "1", "column": "mean", "value": None},
    ]
    assert panel_to_csv_rows(CONTOUR) == [
        {"title": "RTE", "x": 0.0, "y": 5.0, "z": 2.0},
        {"title": "RTE", "x": 1.0, "y": 5.0, "z": 3.0},
    ]


def test_a_table_of_boxes():
    grid = panel_to_table(BOXES, "figure1-1")
    assert grid
    assert grid.name == "figure1-1"
    assert grid.header == ("", "n", "failed", "mean", "std", "median", "min", "max")
    assert grid.rows == (
        ("devlin", "4, 1 NaN", "2/3", "60.0", "10.0", "60.0", "50.0", "70.0"),
        ("mosbach", "1", "0/1", "71.2", "-", "71.2", "71.2", "71.2"),
        ("none", "1, 1 NaN", "1/1", "-", "-", "-", "-", "-"),
    )
    assert grid.caption == "RTE: accuracy in percent, validation split"


def test_a_table_of_curves_shows_six_places():
    grid = panel_to_table(CURVES, "figure3-1")
    assert grid
    assert grid.header == ("", "n", "0", "20", "40", "60", "80", "100")  # 0 and 20 are steps of both
    assert grid.groups == (("", 1), ("optimizer step", 6))
    assert grid.caption == "RTE: training loss, by optimizer step"
    assert [row[:2] for row in grid.rows] == [("mean", "20"), ("short", "1")]  # the mean sums up the single run


def test_a_table_of_curves_of_different_steps():
    first = Curve("a", (1.0, 10.0, 1000.0), (0.5, 0.25, 100.0), (0.1, 0.1, 99.0), (1.0, 1.0, 101.0), n=3)
    second = Curve("b", (10.0, 1000.0), (math.nan, 12.345))
    grid = panel_to_table(CurvePanel("", "step", "loss", (first, second)), "x")
    assert grid
    assert grid.header == ("", "n", "1", "10", "1,000")
    assert grid.rows == (
        ("a", "3", "0.5 (0.1 to 1)", "0.25 (0.1 to 1)", "100.0 (99.0 to 101.0)"),
        ("b", "-", "-", "-", "12.3"),
    )
    assert grid.caption == "loss, by step"


def test_single_runs_have_rows_where_nothing_sums_them_up():
    runs = tuple(Curve(f"seed {i}", (1.0, 2.0), (0.1 * i, 0.2), n=1, thin=True) for i in range(3))
    grid = panel_to_table(CurvePanel("", "step", "loss", runs), "x")
    assert grid
    assert [row[0] for row in grid.rows] == ["seed 0", "seed 1", "seed 2"]


def test_a_table_of_points_and_of_a_map():
    grid = panel_to_table(POINTS, "x")
    assert grid
    assert grid.rows == (("failed", "2"), ("fine", "0"))
    grid = panel_to_table(HEAT, "x")
    assert grid
    assert grid.header == ("", "0", "mean")
    assert grid.rows == (("0", "70.25", "70.25"), ("1", "-", "-"))
    assert grid.caption == "Standard: percent, init down, data across"


@pytest.mark.parametrize("panel", PANELS)
def test_every_row_of_a_table_is_as_long_as_its_header(panel):
    grid = panel_to_table(panel, "x")
    if panel is CONTOUR:
        assert grid is None
    else:
        assert grid
        assert {len(row) for row in grid.rows} == {len(grid.header)}
        assert sum(columns for _, columns in grid.groups) in (0, len(grid.header) - 1)


def test_what_is_missing_has_no_numbers():
    panel = BoxPanel("RTE", "accuracy", (), missing="no run is finished")
    assert panel_to_csv_rows(panel) == []
    assert panel_to_table(panel, "x") is None


def test_a_panel_of_no_curves_has_a_table_of_no_rows():
    grid = panel_to_table(CurvePanel("", "step", "loss", ()), "x")
    assert grid
    assert (grid.header, grid.rows, grid.groups) == (("", "n"), (), ())
