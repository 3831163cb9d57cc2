"""Colours, marks, legend and file output that all figures share.

Only matplotlib's objects are used, never pyplot's global state, and what a user's matplotlibrc says has no effect.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


PAGE_WIDTH, DPI = 7.2, 125  # inches of a page's text; 900 pixels
PAGE_WIDTH_POINTS = 72 * PAGE_WIDTH
FONT_SIZE, SMALL_FONT_SIZE = 9.0, 8.0  # points; SMALL: at ticks, in cells, beside lines
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe and Ito, told apart by all kinds of eyes
ORANGE, GREEN, PURPLE, SKY = "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, "black", VERMILLION)  # the last one is that of failed runs
COLORMAP = "viridis"  # of ordered things: readable in grey and by all kinds of eyes
DASHED_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.1}
RC_PARAMS = {
    **{"font.family": "DejaVu Sans", "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE},
    **{"xtick.labelsize": SMALL_FONT_SIZE, "ytick.labelsize": SMALL_FONT_SIZE, "hatch.linewidth": 0.6},
    **{"legend.fontsize": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E4E4E4", "axes.axisbelow": True},
    **{"svg.hashsalt": "stableft", "pdf.fonttype": 42, "text.parse_math": False},  # $ in an arm's name is a letter
}
FILE_METADATA: dict[str, dict[str, Any]] = {  # what would differ from one rendering, or version, to the next
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

LegendEntry = tuple[str, dict[str, Any]]  # of a legend: the name, and how its line or marker is drawn


class RunStyle(NamedTuple):
    """A group of runs as figures show it."""

    name: str
    color: str
    marker: str


FAILED_STYLE, SUCCESSFUL_STYLE, UNKNOWN_STYLE = (
    RunStyle("failed", VERMILLION, "x"),
    RunStyle("successful", BLUE, "o"),
    RunStyle("unknown", GREY, "s"),
)
RUN_STYLES = (SUCCESSFUL_STYLE, UNKNOWN_STYLE, FAILED_STYLE)  # later ones are drawn on top


def choose_run_style(failed: Any) -> RunStyle:
    """Returns the group of a run from `failed`, which may be missing."""
    import pandas as pd

    return UNKNOWN_STYLE if pd.isna(failed) else FAILED_STYLE if failed else SUCCESSFUL_STYLE


def figure_to_bytes(figure: "Figure", form: str) -> bytes:
    """Returns the figure as a png, svg or pdf file; equal figures give equal bytes."""
    out = io.BytesIO()
    dpi = DPI if form == "png" else 2 * DPI  # there only of what is drawn as pixels, such as thousands of points
    with house_style():
        figure.savefig(out, format=form, dpi=dpi, facecolor="white", metadata=FILE_METADATA[form])
    return out.getvalue()


def count_legend_columns(entries: Sequence[LegendEntry], width: float = PAGE_WIDTH_POINTS) -> int:
    """Returns in how many columns a legend of these entries fits into a width in points."""
    widths = [text_width(name, FONT_SIZE) + 2.8 * FONT_SIZE for name, _ in entries]
    for count in range(len(widths), 1, -1):
        columns = [max(part) for part in np.array_split(widths, count)]
        if sum(columns) + 2 * FONT_SIZE * count <= width:
            rows = math.ceil(len(widths) / count)
            return math.ceil(len(widths) / rows)  # rows of about equal length
    return 1


def add_legend(figure: "Figure", entries: Sequence[LegendEntry], width: float = PAGE_WIDTH_POINTS) -> None:
    """Puts a legend of these lines and markers above the panels, outside of the data."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=wrap_text(name, width - 8 * FONT_SIZE, FONT_SIZE), **style) for name, style in entries
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=count_legend_columns(entries, width))


@cache
def text_width(text: str, size: float = SMALL_FONT_SIZE, weight: str = "normal") -> float:
    """Returns how wide a line of text is drawn, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=RC_PARAMS["font.family"], size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def wrap_text(text: str, width: float, size: float = SMALL_FONT_SIZE, weight: str = "normal") -> str:
    """Returns the text with breaks between its words, so that its lines are at most so many points wide."""
    lines = []
    for line in text.split("\n"):
        words = line.split(" ")
        lines.append(words[0])
        for word in words[1:]:
            longer = f"{lines[-1]} {word}"
            if text_width(longer, size, weight) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    return "\n".join(lines)


def spread_apart(places: Sequence[float], sizes: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns the middles of things of these sizes, in ascending order, moved as little as keeps them `gap` apart.

    They stand between low and high; where there is too little room for that, the last ones are beyond `high`.
    """
    from scipy.optimize import isotonic_regression

    half = np.asarray(sizes, dtype=float) / 2
    steps = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:] + gap)])
    moved = isotonic_regression(np.asarray(places, dtype=float) - steps).x
    first, last = low + half[0], high - half[-1] - steps[-1]
    return list(moved.clip(first, max(first, last)) + steps)


def any_overlap(boxes: Sequence["Bbox"], room: float = 0.0) -> bool:
    """Returns whether neighbours in a row of boxes, in pixels from left to right, are less than `room` apart."""
    return any(left.x1 + room > right.x0 for left, right in pairwise(boxes))


def freeze_layout(figure: "Figure") -> None:
    """Keeps the axes where the layout has put them, to a millionth of the figure.

    The solver behind it adds up in an order that depends on where in memory its variables lie, and the ids in an SVG
    file are hashes of places with all their digits.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib.style

    with matplotlib.style.context(["default", RC_PARAMS]):
        yield
