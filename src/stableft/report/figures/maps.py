"""Draw heat maps with numbers in their cells, and surfaces as contours."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import ContourPanel, HeatPanel
from stableft.report.figures.style import COLORMAP, LegendEntry, Page

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SUMMARY_GAP = 0.3  # between the grid and its summaries, in cells
CELL_HEIGHT = 0.23  # inches, at 9-point type
COLORBAR_ROOM = 0.9  # inches beside the panels, at 9-point type; in a narrow figure the bar is above them
EMPTY_CELL_STYLE: dict[str, Any] = {"facecolor": "#EEEEEE", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}
EMPTY_CELLS_NOTE = "Hatched: no score, or too few."
POINT_STYLE: dict[str, Any] = {"linestyle": "none", "color": "white", "markeredgecolor": "black", "markersize": 6}
POINT_MARKERS = "os^Dv"
LOG_STEPS, MAX_LEVELS = (10, 5, 2, 1), 20  # levels a decade, the finest first; most of a figure, but for the coarsest
LINEAR_LEVELS = 12  # at most so many intervals
CLEAR_OF_LABELS = (
    1.0  # between a marked point and the level of a contour, in sizes of type; a third from other contours
)
MIN_FONT = 6.0  # points, of the numbers in cells


def color_bar_room(page: Page) -> float:
    """Return the inches that a colour bar takes of the width of a figure."""
    return 0.0 if is_narrow(page) else COLORBAR_ROOM * page.scale


def is_narrow(page: Page) -> bool:
    """Return whether colour bars are above the panels."""
    return page.width < 4.5


def _color_bar_place(page: Page) -> dict[str, Any]:
    return {"location": "top", "aspect": 40} if is_narrow(page) else {}


def heat_panel_size(panel: HeatPanel, page: Page) -> tuple[float, float]:
    """Return the approximate minimum width and the height of a panel in inches."""
    chars = page.small_chars_per_inch
    longest = max((len(text) for row in _cell_texts(panel) for text in row), default=0)
    names = max(map(len, panel.rows), default=0) / chars
    turned = [name for name, is_turned in zip(panel.columns, _turned_columns(panel, page), strict=True) if is_turned]
    below = max(0.15, *(len(name) / chars for name in turned)) if turned else 0.15
    height = page.scale * (0.75 + CELL_HEIGHT * (len(panel.rows) + SUMMARY_GAP)) + below
    return 0.4 * page.scale + names + (longest + 0.5) / chars * (len(panel.columns) + SUMMARY_GAP), height


def _turned_columns(panel: HeatPanel, page: Page) -> list[bool]:
    """Return for each column whether its label is too long to be horizontal."""
    cell = _cell_width(panel, page)
    return [len(name) + 0.6 > cell * page.small_chars_per_inch for name in panel.columns]


def _cell_width(panel: HeatPanel, page: Page) -> float:
    """Return the width of a cell in inches, in a figure with one panel a row."""
    names = max(map(len, panel.rows), default=0) / page.small_chars_per_inch
    return (page.width - color_bar_room(page) - names - 0.5 * page.scale) / (len(panel.columns) + SUMMARY_GAP)


def _cell_texts(panel: HeatPanel) -> list[list[str]]:
    return [["" if value is None else f"{value:.{panel.digits}f}" for value in row] for row in panel.values]


def draw_heat_panels(drawn: Sequence[tuple["Axes", HeatPanel]], page: Page) -> None:
    """Draw panels of one unit with a shared colour scale and one colour bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [value for _, panel in drawn for row in panel.values for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    colors = ScalarMappable(Normalize(low, high) if low < high else Normalize(low - 0.5, high + 0.5), COLORMAP)
    size = _number_size([panel for _, panel in drawn], page)
    for axes, panel in drawn:
        _draw_heat_panel(axes, panel, colors, page, size)
    every = [axes for axes, _ in drawn]
    bar = every[0].figure.colorbar(colors, ax=every, label=drawn[0][1].unit, **_color_bar_place(page))
    bar.ax.grid(False)


def _number_size(panels: Sequence[HeatPanel], page: Page) -> float | None:
    """Return the size in points at which the numbers of all panels fit in their cells. None: the colours are enough."""
    longest = [max(len(text) for row in _cell_texts(panel) for text in row) for panel in panels]
    inches = min(_cell_width(panel, page) / (n + 0.3) for panel, n in zip(panels, longest, strict=True))
    return next((size for size in (page.small, MIN_FONT) if inches * 120 / size >= 1), None)  # 120: see `Page`


def _draw_heat_panel(axes: "Axes", panel: HeatPanel, colors: Any, page: Page, size: float | None) -> None:
    """Draw a panel with its numbers at that size, or without."""
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
                if size:
                    axes.text(x[j], y[i], text, ha="center", va="center", fontsize=size, color=color)
            elif not _is_corner(panel, i, j):
                axes.add_patch(Rectangle(corner, 1, 1, **EMPTY_CELL_STYLE))
    axes.set_xticks(x, panel.columns)
    for label, is_turned in zip(axes.get_xticklabels(), _turned_columns(panel, page), strict=True):
        label.set_rotation(90 if is_turned else 0)
    axes.set_yticks(y, panel.rows)
    axes.set_xlim(-0.5, x[-1] + 0.5)
    axes.set_ylim(y[-1] + 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _is_corner(panel: HeatPanel, i: int, j: int) -> bool:
    """Return whether a cell is where summaries meet, which may stay blank."""
    return i >= len(panel.rows) - panel.margins and j >= len(panel.columns) - panel.margins


def has_empty_cells(panel: HeatPanel) -> bool:
    """Return whether a panel has hatched cells."""
    cells = ((i, j, value) for i, row in enumerate(panel.values) for j, value in enumerate(row))
    return any(value is None and not _is_corner(panel, i, j) for i, j, value in cells)


def _cell_positions(count: int, margins: int) -> list[float]:
    return [i + (SUMMARY_GAP if i >= count - margins else 0) for i in range(count)]


def _brightness(color: Sequence[float]) -> float:
    """Return the perceived brightness of a colour, from 0 to 1."""
    return math.sqrt(0.299 * color[0] ** 2 + 0.587 * color[1] ** 2 + 0.114 * color[2] ** 2)


def log_levels(low: float, high: float) -> tuple[float, ...]:
    """Return levels from at most `low` to at least `high`, in the finest of LOG_STEPS that needs few levels.

    They are rounded to two digits: 1, 1.3, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 7.9, 10.
    """
    levels: list[float] = []
    for per_decade in LOG_STEPS:
        first = math.floor(per_decade * math.log10(low) + 0.01)  # `low` may be a rounded level
        levels = [float(f"{10 ** (first / per_decade):.2g}")]
        while len(levels) < 2 or levels[-1] < high:
            levels.append(float(f"{10 ** ((first + len(levels)) / per_decade):.2g}"))
        if len(levels) <= MAX_LEVELS:
            break
    return tuple(levels)


def choose_contour_levels(panels: Sequence[ContourPanel]) -> list[float]:
    """Return contour levels that cover the values of these panels, in equal steps.

    The steps are logarithmic if a panel has levels of its own: from the lowest one, or the lowest value above it.
    """
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([np.ravel(panel.z) for panel in panels])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if lowest := min((panel.levels[0] for panel in panels if panel.levels), default=None):
        return list(log_levels(max(lowest, low), high))
    return [float(level) for level in MaxNLocator(LINEAR_LEVELS).tick_values(low, high)]


def contour_panel_height(panel: ContourPanel, width: float, page: Page) -> float:
    """Return the height in inches of a panel of this width, with the same scale in both directions."""
    span = (max(panel.y) - min(panel.y)) / (max(panel.x) - min(panel.x))
    return page.scale * 0.6 + min(max(span, 0.4), 2.0) * min(width - 0.8 * page.scale, 4.5)


def draw_contour_panels(
    drawn: Sequence[tuple["Axes", ContourPanel]], places: dict[str, dict[str, Any]], width: float, page: Page
) -> None:
    """Draw panels of one quantity, each about `width` inches wide, with shared levels and one colour bar.

    `places`: name of a marked point -> its style, as in the legend.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    levels = choose_contour_levels([panel for _, panel in drawn])
    lowest = min(float(np.nanmin(panel.z)) for _, panel in drawn)
    extend = "min" if lowest < levels[0] else "neither"  # all lower values have one colour
    colors = ScalarMappable(BoundaryNorm(levels, 256, extend=extend), COLORMAP)
    for axes, panel in drawn:
        z = np.ma.masked_invalid(np.asarray(panel.z, dtype=float))
        axes.contourf(panel.x, panel.y, z, levels=levels, cmap=colors.cmap, norm=colors.norm, extend=extend)
        axes.contour(panel.x, panel.y, z, levels=levels, colors="black", linewidths=0.5, alpha=0.6)
        for place in panel.places:
            axes.plot([place.x], [place.y], **places[place.label], clip_on=False, zorder=5, label=place.label)
        axes.set_aspect("equal")
        axes.grid(False)
    every = [axes for axes, _ in drawn]
    length = page.width - 0.8 if is_narrow(page) else contour_panel_height(drawn[0][1], width, page) - 0.7
    ticks = levels[:: math.ceil(len(levels) * page.scale * (0.3 if is_narrow(page) else 0.17) / length)]
    steps = "logarithmic" if any(panel.levels for _, panel in drawn) else "linear"
    label, place = f"{drawn[0][1].zlabel}\n({steps} steps)", _color_bar_place(page)
    bar = every[0].figure.colorbar(colors, ax=every, label=label, ticks=ticks, format="{x:g}", **place)
    bar.ax.tick_params(length=0)
    bar.ax.grid(False)


def label_contours(axes: "Axes", page: Page) -> None:
    """Label the contours of a panel with their levels.

    The panel must have its final layout, because labels that would touch another contour, another label, a marked point
    or an edge are hidden: where contours are close, as at a barrier, the colour bar tells the levels.
    """
    from matplotlib.contour import QuadContourSet
    from matplotlib.patheffects import withStroke

    clear = CLEAR_OF_LABELS * page.font * axes.figure.dpi / 72  # pixels
    taken = [line.get_window_extent().padded(clear) for line in axes.lines]
    for lines in axes.collections:
        if isinstance(lines, QuadContourSet) and not lines.filled:
            paths = [axes.transData.transform_path(path) for path in lines.get_paths()]
            for text in axes.clabel(lines, inline=False, fontsize=page.small, fmt="%g", colors="black"):
                text.set(path_effects=[withStroke(linewidth=2, foreground="white")], alpha=1.0)
                box = text.get_window_extent()
                inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
                crossed = sum(path.intersects_bbox(box.padded(clear / 4), filled=False) for path in paths)
                text.set_visible(inside and crossed <= 1 and not box.count_overlaps(taken))
                taken += [box] if text.get_visible() else []


def contour_legend_entries(panels: Sequence[ContourPanel]) -> list[LegendEntry]:
    """Return the legend entries of the marked points. Each name has its own marker, the same in every panel."""
    names = dict.fromkeys(place.label for panel in panels for place in panel.places)
    return [(name, POINT_STYLE | {"marker": marker}) for name, marker in zip(names, cycle(POINT_MARKERS), strict=False)]
