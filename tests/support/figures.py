"""What a figure draws, read from its axes, and whether its text can be read."""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.text import Text

from stableft.report.figures.panels import Box

if TYPE_CHECKING:
    pass


AXIS = "accuracy in percent\nvalidation split, last checkpoint"


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def points(axes, label):
    """The (x, y) of a panel's points of that group, in no order."""
    found = [marks.get_offsets() for marks in axes.collections if marks.get_label() == label]
    return sorted(map(tuple, np.concatenate(found).tolist())) if found else []


def lines(axes, label):
    found = [line for line in axes.lines if line.get_label() == label]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def legend(figure):
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def texts(figure):
    """Every text of a laid-out figure that can be seen."""
    figure.draw_without_rendering()
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            away = [t for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9]
            beyond |= {label for tick in away for label in (tick.label1, tick.label2)}

    def inside(artist):
        if artist.get_visible():
            if isinstance(artist, Text) and artist.get_text().strip() and artist not in beyond:
                yield artist
            for child in artist.get_children():
                yield from inside(child)

    return list(inside(figure))


def assert_readable(figure, least=8):
    """No text covers another one or leaves the page, and none is smaller than `least` points."""
    page = figure.bbox
    found = [(text, Text.get_window_extent(text)) for text in texts(figure)]
    for (one, a), (other, b) in combinations(found, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 0.5 or high < 0.5, f"{one.get_text()!r} and {other.get_text()!r}"
    for text, box in found:
        beyond = (page.x0 - box.x0, page.y0 - box.y0, box.x1 - page.x1, box.y1 - page.y1)
        assert max(beyond) < 1, text.get_text()
        assert text.get_fontsize() >= least
    assert len(found) > 2


def box(label="arm", n=25, seed=0, **given):
    rng = np.random.default_rng(seed)
    values = (*rng.normal(70, 2, n - 2).tolist(), 50.0, 51.0)
    return Box(label, values, (False,) * (n - 2) + (True, True), n, n_failed=f"2/{n}", **({"baseline": 52.7} | given))
