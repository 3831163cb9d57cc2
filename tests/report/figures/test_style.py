"""Colours, text and legends that figures share."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from stableft.report.figures.style import (
    FAILED_STYLE,
    PAGE_WIDTH_POINTS,
    PALETTE,
    RC_PARAMS,
    SUCCESSFUL_STYLE,
    UNKNOWN_STYLE,
    add_legend,
    any_overlap,
    choose_run_style,
    count_legend_columns,
    figure_to_bytes,
    house_style,
    spread_apart,
    text_width,
    wrap_text,
)

NAMES = ["with bias correction", "without", "Re-init 5", "Re-init 6", "entropy of the training labels"]


def luminance(color):
    return float(np.dot(matplotlib.colors.to_rgb(color), (0.299, 0.587, 0.114)))


def test_the_palette_has_no_two_colours_alike():
    rgb = [matplotlib.colors.to_rgb(color) for color in PALETTE]
    distances = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(rgb) for b in rgb[:i]]
    assert min(distances) > 0.25
    assert max(luminance(color) for color in PALETTE) < 0.75  # seen on white


@pytest.mark.parametrize(("failed", "kind"), [(True, FAILED_STYLE), (False, SUCCESSFUL_STYLE), (None, UNKNOWN_STYLE)])
def test_kinds_of_runs(failed, kind):
    assert choose_run_style(failed) is kind


def test_wrapped_lines_fit_and_lose_no_word():
    text = "A rather long title of a panel that says many things about a single data set"
    lines = wrap_text(text, 120).split("\n")
    assert len(lines) > 2
    assert max(map(text_width, lines)) <= 120
    assert " ".join(lines) == text


def test_wrapping_keeps_breaks_and_words_that_are_too_long():
    assert wrap_text("one\ntwo three", 1000) == "one\ntwo three"
    assert wrap_text("optimizer.bias_correction=true 3", 20) == "optimizer.bias_correction=true\n3"
    assert wrap_text("", 20) == ""


def test_the_width_of_text_is_that_of_what_is_drawn():
    with house_style():
        figure = Figure(dpi=72)
        text = figure.text(0, 0, "without bias correction", fontsize=8)
        drawn = text.get_window_extent().width
    assert text_width("without bias correction", 8) == pytest.approx(drawn, rel=0.06)


def test_spread_moves_nothing_that_has_room():
    assert spread_apart([10, 50, 90], [10, 10, 10], 2, 0, 100) == pytest.approx([10, 50, 90])


def test_spread_keeps_order_gaps_and_edges():
    sizes = [10, 20, 10, 30]
    places = spread_apart([48, 50, 50, 51], sizes, 3, 0, 200)
    gaps = [b - a - (s + t) / 2 for a, b, s, t in zip(places, places[1:], sizes, sizes[1:], strict=False)]
    assert gaps == pytest.approx([3, 3, 3])
    assert np.mean(places) == pytest.approx(np.mean([48, 50, 50, 51]))  # as little as it takes, to both sides
    low = spread_apart([1, 2], [10, 10], 0, 0, 100)
    assert low == pytest.approx([5, 15])
    high = spread_apart([99, 99], [10, 10], 0, 0, 100)
    assert high == pytest.approx([85, 95])


def test_spread_with_too_little_room_begins_at_the_lower_edge():
    assert spread_apart([1, 1, 1], [10, 10, 10], 0, 0, 20) == pytest.approx([5, 15, 25])


def test_neighbours_collide():
    near, far = Bbox([[0, 0], [10, 5]]), Bbox([[12, 0], [20, 5]])
    assert not any_overlap([near, far])
    assert any_overlap([near, far], room=3)


def test_a_legend_is_as_wide_as_the_page_at_most():
    entries = [(name, {"color": "black"}) for name in NAMES]
    assert count_legend_columns(entries) == 3  # two rows of 3 and 2
    assert count_legend_columns(entries[:3]) == 3
    assert count_legend_columns(entries[:1]) == 1
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH_POINTS / 72, 3), layout="constrained")
        figure.subplots()
        add_legend(figure, entries)
        figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_a_long_name_in_a_legend_is_wrapped():
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH_POINTS / 72, 3), layout="constrained")
        figure.subplots()
        add_legend(figure, [("word " * 60, {"color": "black"})])
        figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x0 >= 0
    assert figure.legends[0].get_texts()[0].get_text().split() == ["word"] * 60


def test_the_house_style_ends_with_its_block():
    with matplotlib.rc_context({"font.size": 30}):
        with house_style():
            assert matplotlib.rcParams["font.size"] == RC_PARAMS["font.size"]
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_files_do_not_say_when_and_by_what_they_were_made(form):
    with house_style():
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.5, "a")
    content = figure_to_bytes(figure, form)
    assert content == figure_to_bytes(figure, form)
    for word in (b"CreationDate", b"dc:date", b"matplotlib.org", b"Matplotlib v"):
        assert word not in content
