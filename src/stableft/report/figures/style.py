"""Colours, markers, type, legend and file output shared by all figures.

Only matplotlib objects are used, never pyplot's global state. A user's matplotlibrc has no effect.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


PAGE_WIDTH = 7.2  # inches, of a figure that no width is given for
MIN_WIDTH, MAX_WIDTH = 2.0, 12.0  # inches
LEGEND_SHARE = 0.97  # of a figure's width, at most
NOTE_WIDTHS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85)  # that are tried, of the one that a note has
SCREEN_DPI, PRINT_DPI = 125, 300  # of .png files of the default width, and of a given one
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's colours, distinct to the colour-blind
ORANGE, GREEN, PURPLE, SKY = "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, GREEN, PURPLE, ORANGE, SKY, "black", VERMILLION)  # vermillion marks failed runs, orange is near it
COLORMAP = "viridis"  # for ordered values; legible in greyscale and to the colour-blind
DASHED_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.1}
# Used, if installed, for characters that DejaVu Sans lacks, e.g. in an arm's Chinese name.
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Noto Emoji")
RC_PARAMS = {
    **{"font.sans-serif": ["DejaVu Sans", "Verdana"], "legend.frameon": False, "hatch.linewidth": 0.6},
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

# What the legends of all figures say of runs that are NaN.
NAN_SCORE, FIRST_NAN, NAN_LEFT_OUT = "one run, NaN", "first NaN of 1 or more runs", "1 or more runs NaN, left out"
NAN_VALUE = "NaN or infinite, not drawn"

LegendEntry = tuple[str, dict[str, Any]]  # (name, Line2D style)


@dataclass(frozen=True)
class Page:
    """The printed width of a figure in inches, and the type that suits it: 9 points, in a narrow column 7."""

    width: float = PAGE_WIDTH

    @property
    def font(self) -> float:
        """The size of titles and labels in points."""
        return 9.0 if self.width >= 6 else 8.0 if self.width >= 4.5 else 7.0

    @property
    def small(self) -> float:
        """The size of ticks, names, cells and contour levels in points: at least 6."""
        return self.font - 1

    @property
    def scale(self) -> float:
        """The size of the type relative to that of a whole page."""
        return self.font / 9

    @property
    def chars_per_inch(self) -> float:
        return 126 / self.font  # an average

    @property
    def small_chars_per_inch(self) -> float:
        return 120 / self.small  # an average

    @property
    def line_height(self) -> float:
        """The height of a line of type in inches."""
        return 0.16 * self.scale

    @property
    def rc_params(self) -> dict[str, float]:
        """The type sizes as matplotlib's settings."""
        names = ["font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"]
        small_names = ["xtick.labelsize", "ytick.labelsize"]
        return dict.fromkeys(names, self.font) | dict.fromkeys(small_names, self.small)


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


def png_dpi(width: float | None) -> int:
    """Return the resolution of a .png file of a figure of a given width, which is for print, or of the default one."""
    return PRINT_DPI if width else SCREEN_DPI


def figure_to_bytes(figure: "Figure", form: str, dpi: int = SCREEN_DPI) -> bytes:
    """Return the figure as a png, svg or pdf file. Equal figures give equal bytes."""
    out = io.BytesIO()
    dpi = dpi if form == "png" else PRINT_DPI  # vector files contain pixels only for very many points
    with house_style():
        figure.savefig(out, format=form, dpi=dpi, facecolor="white", metadata=FILE_METADATA[form])
    return add_hover_titles(out.getvalue()) if form == "svg" else out.getvalue()


HOVER = "hover: "  # starts the gid of an artist that has titles, one a line


def set_hover(artist: "Artist", titles: Sequence[str]) -> None:
    """Give an artist a title that an SVG viewer shows under the pointer, or one for each of its points in order."""
    if titles:
        artist.set_gid(HOVER + "\n".join(titles))


def add_hover_titles(svg: bytes) -> bytes:
    """Return an SVG file with the titles of `set_hover` as <title> elements."""
    first, *groups = re.split(f'<g id="{HOVER}', svg.decode())
    parts = [first]
    for number, group in enumerate(groups, 1):
        names, _, rest = group.partition('">')
        titles = [f"<title>{name}</title>" for name in names.split("\n")]
        if len(titles) == 1:
            rest = titles[0] + rest
        else:  # the points follow in their order
            marks = re.split(r"<use ([^>]*)/>", rest, maxsplit=len(titles))  # text, mark, text, mark, ..., text
            titled = (f"<use {mark}>{title}</use>" for mark, title in zip(marks[1::2], titles, strict=False))
            rest = "".join(part for pair in zip(marks[::2], [*titled, ""], strict=True) for part in pair)
        parts.append(f'<g id="runs_{number}">{rest}')
    return "".join(parts).encode()


def wrap_text(text: str, inches: float, chars_per_inch: float) -> str:
    """Return the text wrapped between words to about this width. Existing line breaks are kept.

    Only a word that is wider than that is broken, at its hyphens.
    """
    wide = max(int(inches * chars_per_inch), 6)
    return "\n".join(
        textwrap.fill(line, wide, break_long_words=False, break_on_hyphens=any(len(w) > wide for w in line.split()))
        for line in text.split("\n")
    )


def wrap_note(text: str, inches: float, chars_per_inch: float) -> str:
    """Return the text wrapped to about this width, or to one that makes a last line of a single word longest."""
    wrapped = [wrap_text(text, share * inches, chars_per_inch) for share in NOTE_WIDTHS]
    single = "\n" in wrapped[0] and " " not in wrapped[0].rpartition("\n")[2]
    return max(wrapped, key=lambda lines: len(lines.rpartition("\n")[2])) if single else wrapped[0]


def add_legend(figure: "Figure", entries: Sequence[LegendEntry], page: Page) -> int:
    """Add a legend above the panels and return its number of text lines."""
    from matplotlib.lines import Line2D

    names = [wrap_text(name, page.width - 0.6, page.chars_per_inch) for name, _ in entries]
    handles = [Line2D([], [], label=name, **style) for name, (_, style) in zip(names, entries, strict=True)]
    spaces = (
        {"handlelength": 1.6, "columnspacing": 1.2} if page.scale == 1 else {"handlelength": 1.4, "columnspacing": 0.6}
    )
    for rows in range(1, len(handles) + 1):
        columns = math.ceil(len(handles) / rows)
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns, **spaces)
        if legend.get_window_extent().width <= LEGEND_SHARE * figure.bbox.width or rows == len(handles):
            return rows + max(name.count("\n") for name in names)
        legend.remove()
    return 0


@contextmanager
def house_style(page: Page | None = None) -> Iterator[None]:
    """Set the style of figures, with the type of a page, within the context."""
    import matplotlib.style
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = ["sans-serif", *(name for name in FALLBACK_FONTS if name in installed)]
    with matplotlib.style.context(["default", RC_PARAMS | (page or Page()).rc_params | {"font.family": fonts}]):
        yield
