"""What estimates with their intervals draw, from made-up panels."""

import math

import numpy as np
import pytest
from support.figures import points, shown

from stableft.report.figures.draw import draw_panels
from stableft.report.figures.estimates import log_ticks
from stableft.report.figures.panels import Estimate, EstimatePanel


def test_groups_of_estimates_have_headings_and_a_mark_without_an_interval_is_hollow():
    estimates = tuple(Estimate("Re-init", v, v - 1 if v else None, group=g) for g, v in (("RTE", 0.0), ("CoLA", 2.0)))
    (axes,) = shown(draw_panels([EstimatePanel("Mean", "points", estimates, 0.0)]))
    names = [(label.get_text(), label.get_fontweight()) for label in axes.get_yticklabels()]
    assert names == [("RTE", "bold"), ("Re-init", "normal"), ("CoLA", "bold"), ("Re-init", "normal")]
    assert points(axes, "value") == [(0.0, 1.0), (2.0, 3.0)]
    (faces,) = [marks.get_facecolors() for marks in axes.collections if marks.get_label() == "value"]
    assert [bool(np.allclose(face, 1)) for face in faces] == [True, False]


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.1, 2.5, 5, [0.1, 0.2, 0.5, 1, 2]),
        (0.1, 2.5, 4, [0.1, 0.3, 1]),
        (0.02, 60, 4, [0.1, 1, 10]),
        (1e-4, 1e3, 3, [1e-3, 1, 1e3]),
        (0.45, 2.2, 3, [0.5, 1, 2]),
    ],
)
def test_ticks_of_ratios_include_1(low, high, most, ticks):
    assert log_ticks(low, high, most) == pytest.approx(ticks)


def test_marks_at_the_ends_of_ratios_are_whole():
    for width in (None, 3.25):
        estimates = tuple(Estimate(name, value) for name, value in (("a", 0.03), ("b", 40.0)))
        figure = draw_panels([EstimatePanel("Spread", "ratio", estimates, 1.0, xlog=True)] * 3, per_row=3, width=width)
        for axes in shown(figure):
            (marks,) = [marks for marks in axes.collections if marks.get_label() == "value"]
            radius = math.sqrt(marks.get_sizes()[0]) / 2 * figure.dpi / 72
            places = axes.transData.transform(marks.get_offsets())[:, 0]
            assert axes.bbox.x0 + radius < min(places) < max(places) < axes.bbox.x1 - radius
