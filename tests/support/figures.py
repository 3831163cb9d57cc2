"""What a figure draws, read from its axes, and whether its text can be read."""

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
    found, page = texts(figure), figure.bbox
    assert len(found) > 2
    x0, y0, x1, y1 = np.array([Text.get_window_extent(text).extents for text in found]).T
    wide, high = (np.minimum.outer(b, b) - np.maximum.outer(a, a) for a, b in ((x0, x1), (y0, y1)))
    both = np.argwhere(np.triu((wide >= 0.5) & (high >= 0.5), 1))
    assert [(found[i].get_text(), found[j].get_text()) for i, j in both] == []
    beyond = np.max([page.x0 - x0, page.y0 - y0, x1 - page.x1, y1 - page.y1], axis=0)
    assert [text.get_text() for text, pixels in zip(found, beyond, strict=True) if not pixels < 1] == []
    assert min(text.get_fontsize() for text in found) >= least


def box(label="arm", n=25, seed=0, **given):
    rng = np.random.default_rng(seed)
    values = (*rng.normal(70, 2, n - 2).tolist(), 50.0, 51.0)
    return Box(label, values, (False,) * (n - 2) + (True, True), n, n_failed=f"2/{n}", **({"baseline": 52.7} | given))
