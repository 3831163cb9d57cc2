"""Colours, marks, legend and file output that all figures share.

Only matplotlib's objects are used, never pyplot's global state. A user's matplotlibrc has no effect.
"""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Inches: the width of a page's text, and the widest figure that still reads well when it is shrunk to a page.
PAGE_WIDTH, MAX_WIDTH = 7.2, 11.5
DPI = 125
FONT_SIZE, SMALL_FONT_SIZE = 9.0, 8.0  # points; the small one is for ticks, cells and contour levels
CHARS_PER_INCH, SMALL_CHARS_PER_INCH = 14, 15  # of an average text in these sizes
LINE_HEIGHT = 0.16  # inches from one line of text to the next
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's colours, distinct to the colour-blind
ORANGE, GREEN, PURPLE, SKY = "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, "black", VERMILLION)  # failed runs have the last one
COLORMAP = "viridis"  # for ordered things: readable in grey and by the colour-blind
DASHED_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.1}
# Drawn where DejaVu Sans lacks a letter, as in the Chinese name of an arm, if they are installed.
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Noto Emoji")
RC_PARAMS = {
    **{"font.sans-serif": ["DejaVu Sans", "Verdana"], "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE},
    **{"axes.labelsize": FONT_SIZE, "xtick.labelsize": SMALL_FONT_SIZE, "ytick.labelsize": SMALL_FONT_SIZE},
    **{"legend.fontsize": FONT_SIZE, "legend.frameon": False, "hatch.linewidth": 0.6},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E4E4E4", "axes.axisbelow": True},
    **{"svg.hashsalt": "stableft", "svg.fonttype": "none", "pdf.fonttype": 42},  # text in a vector file stays text
    "text.parse_math": False,  # $ in an arm's name is a letter
}
FILE_METADATA: dict[str, dict[str, Any]] = {  # leave out what differs from one rendering, or version, to the next
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

LegendEntry = tuple[str, dict[str, Any]]  # a name in the legend, and how its line or marker is drawn


class RunStyle(NamedTuple):
    """How figures show a group of runs."""

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
    """Return the style of a run from `failed`, which may be missing."""
    import pandas as pd

    return UNKNOWN_STYLE if pd.isna(failed) else FAILED_STYLE if failed else SUCCESSFUL_STYLE


def figure_to_bytes(figure: "Figure", form: str) -> bytes:
    """Return the figure as a png, svg or pdf file; equal figures give equal bytes."""
    out = io.BytesIO()
    dpi = DPI if form == "png" else 2 * DPI  # a vector file has pixels only where there are thousands of points
    with house_style():
        figure.savefig(out, format=form, dpi=dpi, facecolor="white", metadata=FILE_METADATA[form])
    return out.getvalue()


def wrap_text(text: str, inches: float, chars_per_inch: int = CHARS_PER_INCH) -> str:
    """Return the text with breaks between its words, so that its lines are about so many inches wide at most."""
    wide = max(int(inches * chars_per_inch), 6)
    return "\n".join(textwrap.fill(line, wide, break_long_words=False) for line in text.split("\n"))


def add_legend(figure: "Figure", entries: Sequence[LegendEntry]) -> int:
    """Put a legend of these lines and markers above the panels and return how many lines of text it has."""
    from matplotlib.lines import Line2D

    names = [wrap_text(name, figure.get_figwidth() - 1) for name, _ in entries]
    handles = [Line2D([], [], label=name, **style) for name, (_, style) in zip(names, entries, strict=True)]
    for rows in range(1, len(handles) + 1):
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))
        if legend.get_window_extent().width <= figure.bbox.width or rows == len(handles):
            return rows + max(name.count("\n") for name in names)
        legend.remove()
    return 0


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib.style
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = ["sans-serif", *(name for name in FALLBACK_FONTS if name in installed)]
    with matplotlib.style.context(["default", RC_PARAMS | {"font.family": fonts}]):
        yield
