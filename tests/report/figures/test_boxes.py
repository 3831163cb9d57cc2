"""What boxes of scores draw, from made-up panels."""

import colorsys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from support.figures import AXIS, box, legend, shown

from stableft.report.figures.boxes import CORRELATION_NOTE, FAILED_ABOVE_NOTE, split_modes
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Box, BoxPanel
from stableft.report.figures.style import BLUE, VERMILLION


def test_a_box_never_spans_the_gap_between_two_modes():
    assert split_modes([50, 51, 70, 72], [True, True, False, False]) == [[50, 51], [70, 72]]
    gap = [50, 51, 52, 70, 72, 73]
    assert split_modes(gap, [None] * 6) == [gap[:3], gap[3:]]  # told by the gap
    assert split_modes(gap, [None] * 6, shown=100) == [gap]  # which is small against the axis
    assert split_modes([50, 51, 70, 72, 73], [None] * 5) == [[50, 51, 70, 72, 73]]  # two runs are no mode
    assert split_modes([72, 51, 70, 50, 52, 73], [True, False] * 3) == [gap[:3], gap[3:]]
    assert split_modes([50, 70, 71, 72], [None] * 4) == [[50, 70, 71, 72]]  # a single run is no mode
    assert split_modes([60, 62, 64, 66], [False] * 4) == [[60, 62, 64, 66]]
    outliers = [74, 75, 76, *(90 + i / 2 for i in range(20))]
    assert split_modes(outliers, [False] * 23) == [outliers]  # its box and whiskers end above the gap
    assert split_modes([], []) == []
    (axes,) = shown(draw_panels([BoxPanel("RTE", AXIS, (two_modes(),))]))
    spans = [patch.get_path().vertices[:, 1] for patch in axes.patches]
    assert sorted((span.min() > 60, span.max() > 60) for span in spans) == [(False, False), (True, True)]


def test_boxes_of_a_shade_have_its_colour_and_a_star_marks_one():
    boxes = tuple(
        replace(box(f"{rate}, {bc}"), shade=bc, block=rate) for rate in ("1e-5", "2e-5") for bc in ("BC", "no BC")
    )
    figure = draw_panels([BoxPanel("RTE", AXIS, boxes, star="2e-5, BC", names_label="learning rate")])
    (axes,) = shown(figure)
    colors = [patch.get_facecolor() for patch in axes.patches if patch.get_path().vertices[:, 1].max() > 60]
    assert colors[0] == colors[2] != colors[1] == colors[3]
    assert [label.get_text()[0] == "★" for label in axes.get_xticklabels()] == [False, False, True, False]
    assert axes.get_xlabel() == "learning rate"
    assert {"BC", "no BC", "recommended by the paper"} <= set(legend(figure))


def test_shades_are_lightnesses_of_one_colour_that_is_not_that_of_a_verdict():
    boxes = tuple(replace(box(bc), shade=bc) for bc in ("no BC", "BC"))
    panels = [BoxPanel(name, AXIS, boxes, share="rte") for name in ("BERT", "RoBERTa", "ALBERT")]
    figure = draw_panels(panels)
    first, *others = [[patch.get_facecolor()[:3] for patch in axes.patches] for axes in shown(figure)]
    assert others == [first] * 2
    light, dark = first
    hue, *verdicts = (
        colorsys.rgb_to_hls(*matplotlib.colors.to_rgb(color))[0] for color in (light, dark, BLUE, VERMILLION)
    )
    assert hue == pytest.approx(verdicts.pop(0), abs=0.01)
    assert min(abs(hue - verdict) for verdict in verdicts) > 0.05
    assert np.mean(light) > np.mean(dark) + 0.1
    marks = {line.get_label(): line.get_color() for line in figure.legends[0].get_lines()}
    assert [marks[bc] for bc in ("no BC", "BC")] == [pytest.approx(color) for color in first]


def test_failed_runs_above_the_baseline_are_explained():
    def caption(baseline, score):
        boxes = (Box("arm", (score, 70.0, 71.0), (True, False, False), 3, n_failed="1/3", baseline=baseline),)
        return " ".join(draw_panels([BoxPanel("", AXIS, boxes)]).get_supxlabel().split())

    assert FAILED_ABOVE_NOTE in caption(52.0, 55.0)
    assert "Crosses" not in caption(52.518, 52.52)  # printed with four digits
    assert CORRELATION_NOTE in caption(0.0, 3.0)
    assert "Crosses" not in caption(0.0, 3.0)
    assert FAILED_ABOVE_NOTE in caption(0.0, 40.0)  # noise gives no such correlation
    assert "fail" not in caption(52.0, 50.0).replace("Failed and other", "")


def two_modes():
    lost, kept = tuple(50 + 0.1 * i for i in range(8)), tuple(70 + 0.6 * i for i in range(9))
    return Box("arm", (*lost, *kept), (True,) * 8 + (False,) * 9, 17, n_failed="8/17", baseline=52.7)
