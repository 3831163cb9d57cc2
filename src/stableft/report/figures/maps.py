"""Draw heat maps with their numbers, and surfaces as contours."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import ContourPanel, HeatPanel
from stableft.report.figures.style import COLORMAP, SMALL_CHARS_PER_INCH, SMALL_FONT_SIZE, LegendEntry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SUMMARY_GAP = 0.3  # of a cell, between the grid and its summaries
CELL_HEIGHT = 0.23  # inches
COLORBAR_ROOM = 0.9  # inches beside the panels
EMPTY_CELL_STYLE: dict[str, Any] = {"facecolor": "#EEEEEE", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}
POINT_STYLE: dict[str, Any] = {"linestyle": "none", "color": "white", "markeredgecolor": "black", "markersize": 6}
POINT_MARKERS = "os^Dv"


def heat_panel_size(panel: HeatPanel) -> tuple[float, float]:
    """Return about how many inches wide a panel must be, and how high it is."""
    longest = max((len(text) for row in _cell_texts(panel) for text in row), default=0)
    cell = (longest + 1) / SMALL_CHARS_PER_INCH
    names = max(map(len, panel.rows), default=0) / SMALL_CHARS_PER_INCH
    columns = max(map(len, panel.columns), default=0) / SMALL_CHARS_PER_INCH
    height = 0.75 + CELL_HEIGHT * (len(panel.rows) + SUMMARY_GAP) + (columns if _are_columns_turned(panel) else 0.15)
    return 0.5 + names + cell * (len(panel.columns) + SUMMARY_GAP), height


def _are_columns_turned(panel: HeatPanel) -> bool:
    """Return whether the names of the columns are too long to lie flat in a panel about 5 inches wide."""
    return sum(len(name) + 1 for name in panel.columns) > 5 * SMALL_CHARS_PER_INCH


def _cell_texts(panel: HeatPanel) -> list[list[str]]:
    return [["" if value is None else f"{value:.{panel.digits}f}" for value in row] for row in panel.values]


def draw_heat_panels(drawn: Sequence[tuple["Axes", HeatPanel]]) -> None:
    """Draw panels of one unit, which share their colours, with one bar of colours beside them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [value for _, panel in drawn for row in panel.values for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    colors = ScalarMappable(Normalize(low, high) if low < high else Normalize(low - 0.5, high + 0.5), COLORMAP)
    for axes, panel in drawn:
        _draw_heat_panel(axes, panel, colors)
    every = [axes for axes, _ in drawn]
    bar = every[0].figure.colorbar(colors, ax=every, label=drawn[0][1].unit)
    bar.ax.grid(False)


def _draw_heat_panel(axes: "Axes", panel: HeatPanel, colors: Any) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = len(panel.rows), len(panel.columns)
    x, y = _cell_positions(columns, panel.margins), _cell_positions(rows, panel.margins)
    for i, texts in enumerate(_cell_texts(panel)):
        for j, text in enumerate(texts):
            value, corner = panel.values[i][j], (x[j] - 0.5, y[i] - 0.5)
            if value is not None:
                shade = colors.to_rgba(value)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor="white", linewidth=0.8))
                color = "black" if _brightness(shade) > 0.45 else "white"
                axes.text(x[j], y[i], text, ha="center", va="center", fontsize=SMALL_FONT_SIZE, color=color)
            elif i < rows - panel.margins or j < columns - panel.margins:  # a summary has no summary
                axes.add_patch(Rectangle(corner, 1, 1, **EMPTY_CELL_STYLE))
    axes.set_xticks(x, panel.columns, rotation=90 if _are_columns_turned(panel) else 0)
    axes.set_yticks(y, panel.rows)
    axes.set_xlim(-0.5, x[-1] + 0.5)
    axes.set_ylim(y[-1] + 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _cell_positions(count: int, margins: int) -> list[float]:
    return [i + (SUMMARY_GAP if i >= count - margins else 0) for i in range(count)]


def _brightness(color: Sequence[float]) -> float:
    """Return how bright a colour is to the eye, from 0 to 1."""
    return math.sqrt(0.299 * color[0] ** 2 + 0.587 * color[1] ** 2 + 0.114 * color[2] ** 2)


def choose_contour_levels(panels: Sequence[ContourPanel]) -> list[float]:
    """Return round levels from below the lowest to above the highest number of these panels.

    Levels that panels bring along are taken as they are, as far as the numbers reach.
    """
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([np.ravel(panel.z) for panel in panels])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    levels = sorted({level for panel in panels for level in panel.levels})
    if not levels:
        return [float(level) for level in MaxNLocator(9).tick_values(low, high)]
    start = max(sum(level <= low for level in levels) - 1, 0)
    stop = next((i for i, level in enumerate(levels) if level >= high and i > start), len(levels) - 1)
    return levels[start : stop + 1]


def contour_panel_height(panel: ContourPanel, width: float) -> float:
    """Return how many inches high a panel of this width is; a step is as long in both directions."""
    span = (max(panel.y) - min(panel.y)) / (max(panel.x) - min(panel.x))
    return 0.6 + min(max(span, 0.4), 2.0) * min(width - 0.8, 4.5)


def draw_contour_panels(drawn: Sequence[tuple["Axes", ContourPanel]]) -> None:
    """Draw panels of one quantity, which share their levels, with one bar of colours beside them."""
    from matplotlib.colors import BoundaryNorm

    levels = choose_contour_levels([panel for _, panel in drawn])
    norm = BoundaryNorm(levels, 256)  # the same step of colour from each level to the next
    markers = contour_point_markers([panel for _, panel in drawn])
    for axes, panel in drawn:
        z = np.ma.masked_invalid(np.asarray(panel.z, dtype=float))
        filled = axes.contourf(panel.x, panel.y, z, levels=levels, cmap=COLORMAP, norm=norm)
        axes.contour(panel.x, panel.y, z, levels=levels, colors="black", linewidths=0.5, alpha=0.6)
        for place in panel.places:
            look = POINT_STYLE | {"marker": markers[place.label], "clip_on": False}
            axes.plot([place.x], [place.y], **look, zorder=5, label=place.label)
        axes.set_aspect("equal")
        axes.grid(False)
    every = [axes for axes, _ in drawn]
    bar = every[0].figure.colorbar(filled, ax=every, label=drawn[0][1].zlabel, ticks=levels, format="{x:g}")
    bar.ax.tick_params(length=0)
    bar.ax.grid(False)


def contour_point_markers(panels: Sequence[ContourPanel]) -> dict[str, str]:
    """Return the marker of each named place, the same in every panel."""
    names = dict.fromkeys(place.label for panel in panels for place in panel.places)
    return {name: POINT_MARKERS[i % len(POINT_MARKERS)] for i, name in enumerate(names)}


def contour_legend_entries(panels: Sequence[ContourPanel]) -> list[LegendEntry]:
    return [(name, POINT_STYLE | {"marker": marker}) for name, marker in contour_point_markers(panels).items()]
