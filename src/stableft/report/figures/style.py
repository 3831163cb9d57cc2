"""Colours, markers, legend and file output shared by all figures.

Only matplotlib objects are used, never pyplot's global state. A user's matplotlibrc has no effect.
"""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Inches: text width of a page, and the widest figure that is still legible when shrunk to it.
PAGE_WIDTH, MAX_WIDTH = 7.2, 11.5
DPI = 125
FONT_SIZE, SMALL_FONT_SIZE = 9.0, 8.0  # points; the small size is for ticks, cells and contour levels
CHARS_PER_INCH, SMALL_CHARS_PER_INCH = 14, 15  # averages for these sizes
LINE_HEIGHT = 0.16  # inches
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's colours, distinct to the colour-blind
ORANGE, GREEN, PURPLE, SKY = "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, "black", VERMILLION)  # vermillion last: it also marks failed runs
COLORMAP = "viridis"  # for ordered values; legible in greyscale and to the colour-blind
DASHED_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.1}
# Used, if installed, for characters that DejaVu Sans lacks, e.g. in an arm's Chinese name.
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Noto Emoji")
RC_PARAMS = {
    **{"font.sans-serif": ["DejaVu Sans", "Verdana"], "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE},
    **{"axes.labelsize": FONT_SIZE, "xtick.labelsize": SMALL_FONT_SIZE, "ytick.labelsize": SMALL_FONT_SIZE},
    **{"legend.fontsize": FONT_SIZE, "legend.frameon": False, "hatch.linewidth": 0.6},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E4E4E4", "axes.axisbelow": True},
    **{"svg.hashsalt": "stableft", "svg.fonttype": "none", "pdf.fonttype": 42},  # keep text as text in vector files
    "text.parse_math": False,  # an arm's name may contain $
}
FILE_METADATA: dict[str, dict[str, Any]] = {  # omit fields that differ between renderings or versions
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

LegendEntry = tuple[str, dict[str, Any]]  # (name, Line2D style)


class RunStyle(NamedTuple):
    """How figures draw runs with one verdict."""

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
    """Return the style of a run by its verdict. A missing value is unknown."""
    import pandas as pd

    return UNKNOWN_STYLE if pd.isna(failed) else FAILED_STYLE if failed else SUCCESSFUL_STYLE


def figure_to_bytes(figure: "Figure", form: str) -> bytes:
    """Return the figure as a png, svg or pdf file. Equal figures give equal bytes."""
    out = io.BytesIO()
    dpi = DPI if form == "png" else 2 * DPI  # vector files contain pixels only for very many points
    with house_style():
        figure.savefig(out, format=form, dpi=dpi, facecolor="white", metadata=FILE_METADATA[form])
    return out.getvalue()


def wrap_text(text: str, inches: float, chars_per_inch: int = CHARS_PER_INCH) -> str:
    """Return the text wrapped between words to about this width. Existing line breaks are kept."""
    wide = max(int(inches * chars_per_inch), 6)
    return "\n".join(textwrap.fill(line, wide, break_long_words=False) for line in text.split("\n"))


def add_legend(figure: "Figure", entries: Sequence[LegendEntry]) -> int:
    """Add a legend above the panels and return its number of text lines."""
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
