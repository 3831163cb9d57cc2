"""Colours, text and legends that figures share."""

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from stableft.report.figures import style
from stableft.report.figures.style import (
    FAILED_STYLE,
    PALETTE,
    SUCCESSFUL_STYLE,
    UNKNOWN_STYLE,
    Page,
    add_legend,
    choose_run_style,
    figure_to_bytes,
    house_style,
    set_hover,
    wrap_note,
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


def test_a_note_does_not_end_in_a_line_of_one_word():
    text = "The tests of the report are adjusted for their number, but these intervals are not."
    assert wrap_text(text, 4, 20).split("\n")[1:] == ["not."]
    first, last = wrap_note(text, 4, 20).split("\n")
    assert " " in last
    assert f"{first} {last}" == text
    for kept in ("One line.", text + " Both are told."):
        assert wrap_note(kept, 4, 20) == wrap_text(kept, 4, 20)


def test_wrapped_lines_are_short_and_lose_no_word():
    text = "A rather long title of a panel that says many things about a single data set"
    lines = wrap_text(text, 2, 14).split("\n")
    assert len(lines) > 2
    assert max(map(len, lines)) <= 2 * 14
    assert " ".join(lines) == text


def test_wrapping_keeps_breaks_and_words_that_are_too_long():
    assert wrap_text("one\ntwo three", 20, 14) == "one\ntwo three"
    assert wrap_text("optimizer.bias_correction=true 3", 0.3, 14) == "optimizer.bias_correction=true\n3"
    assert wrap_text("", 0.3, 14) == ""


def draw_legend(entries):
    """The lines of text that a legend of a page's width has, and the legend."""
    with house_style(Page()):
        figure = Figure(figsize=(style.PAGE_WIDTH, 3), layout="constrained")
        figure.subplots()
        lines = add_legend(figure, [(name, {"color": "black"}) for name in entries], Page())
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    return lines, legend


@pytest.mark.parametrize(
    ("names", "lines"), [([*NAMES, *NAMES[:2]], 2), (NAMES[:3], 1), (NAMES[:1], 1), ([*"abcdefghijklmnopqr"], 2)]
)
def test_a_legend_is_as_wide_as_the_figure_at_most(names, lines):
    found, legend = draw_legend(names)
    assert [text.get_text() for text in legend.get_texts()] == names
    assert found == lines


def test_a_long_name_in_a_legend_is_wrapped():
    lines, legend = draw_legend(["word " * 60])
    text = legend.get_texts()[0].get_text()
    assert text.split() == ["word"] * 60
    assert lines == 1 + text.count("\n") > 2


def test_a_letter_that_the_font_lacks_comes_from_an_installed_one(monkeypatch):
    monkeypatch.setattr(style, "FALLBACK_FONTS", ("No such font", "STIXGeneral"))
    with house_style():
        assert matplotlib.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]


def test_the_house_style_ends_with_its_block():
    with matplotlib.rc_context({"font.size": 30}):
        with house_style():
            assert matplotlib.rcParams["font.size"] == Page().font
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


def test_text_in_an_svg_file_is_text():
    with house_style():
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.5, "größer $x$ ")
        content = figure_to_bytes(figure, "svg").decode()
    assert ">größer $x$ </text>" in content


@pytest.mark.parametrize(("width", "font"), [(2.0, 7), (3.25, 7), (5.5, 8), (7.2, 9), (12.0, 9)])
def test_type_fits_the_printed_width_and_is_never_under_six_points(width, font):
    page = Page(width)
    assert page.font == font
    assert 6 <= page.small == min(page.rc_params.values()) < page.font


@pytest.mark.parametrize("count", [1, 2, 30])
def test_points_have_titles_in_an_svg_file(count):
    with house_style():
        figure = Figure(figsize=(2, 2))
        axes = figure.subplots()
        titles = [f"a & b <{i}>, seed {i}: {i}.5" for i in range(count)]
        set_hover(axes.scatter(range(count), range(count)), titles)
        set_hover(axes.plot([0, 1], [0, 1])[0], ["a line"])
        set_hover(axes.scatter([], []), [])
        svg = figure_to_bytes(figure, "svg")
    root = ElementTree.fromstring(svg)
    found = ["".join(title.itertext()) for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert found == [*titles, "a line"]
    uses = [use for use in root.iter("{http://www.w3.org/2000/svg}use") if len(use)]
    assert len(uses) == (count if count > 1 else 0)  # of one point the group has the title
    assert b"hover: " not in svg
