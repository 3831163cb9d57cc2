"""What figures share: colours, how failed runs are marked, the legend, and files that are equal for equal figures.

Only matplotlib's objects are used, never pyplot's global state, and what a user's matplotlibrc says has no effect.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, DPI = 7.2, 125  # 900 pixels
FONT = 9.0
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe and Ito, told apart by all kinds of eyes
DASHED: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.1}
STYLE = {
    **{"font.family": "DejaVu Sans", "font.size": FONT, "axes.titlesize": FONT, "axes.labelsize": FONT},
    **{"legend.fontsize": FONT, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E4E4E4", "axes.axisbelow": True},
    **{"svg.hashsalt": "stableft", "pdf.fonttype": 42},
}
METADATA: dict[str, dict[str, Any]] = {  # what would differ from one rendering, or version, to the next
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Kind(NamedTuple):
    """A group of runs as figures show it."""

    name: str
    color: str
    marker: str


FAILED, FINE, UNKNOWN = Kind("failed", VERMILLION, "x"), Kind("successful", BLUE, "o"), Kind("unknown", GREY, "s")
KINDS = (FINE, UNKNOWN, FAILED)  # later ones are drawn on top


def kind_of(failed: Any) -> Kind:
    """Returns the group of a run from the frame's `failed`, which may be missing."""
    import pandas as pd

    return UNKNOWN if pd.isna(failed) else FAILED if failed else FINE


def file_bytes(figure: "Figure", form: str) -> bytes:
    """Returns the figure as a png, svg or pdf file; equal figures give equal bytes."""
    out = io.BytesIO()
    with house_style():
        figure.savefig(out, format=form, dpi=DPI, facecolor="white", metadata=METADATA[form])
    return out.getvalue()


def add_legend(figure: "Figure", entries: Sequence[tuple[str, dict[str, Any]]], ncols: int) -> None:
    """Puts a legend of these lines and markers above the panels, outside of the data."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **style) for name, style in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=ncols)


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield
