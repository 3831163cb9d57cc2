"""Draw heat maps with their numbers, and surfaces with labelled contours."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import ContourPanel, HeatPanel, MarkedPoint
from stableft.report.figures.style import COLORMAP, PAGE_WIDTH_POINTS, SMALL_FONT_SIZE, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import Bbox


SUMMARY_GAP = 0.3  # of a cell, between the grid and its summaries
CELL_HEIGHT = 0.23  # inches, the height of a cell
COLORBAR_ROOM = 60.0  # points beside the panels, for the colours' bar
LABEL_OFFSETS = ((9, 0), (-9, 0), (0, 9), (0, -9), (8, 8), (-8, 8), (8, -8), (-8, -8))  # where a place's name may stand
EMPTY_CELL_STYLE: dict[str, Any] = {"facecolor": "#EEEEEE", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}


def choose_heat_layout(panels: Sequence[HeatPanel]) -> tuple[int, float]:
    """Returns how many panels stand side by side, and how many points wide the figure must be."""

    def width(panel: HeatPanel) -> float:
        names = max(map(text_width, panel.rows), default=0)
        return (len(panel.columns) + SUMMARY_GAP) * _cell_width(panel) + names + 34

    widest = max(width(panel) for panel in panels)
    per_row = max(1, min(len(panels), int((PAGE_WIDTH_POINTS - COLORBAR_ROOM) / widest)))
    return per_row, max(PAGE_WIDTH_POINTS, widest + COLORBAR_ROOM)


def heat_panel_height(panel: HeatPanel, per_row: int) -> float:
    """Returns the height of a panel in inches."""
    names = max(map(text_width, panel.columns), default=0)
    turned = _are_columns_turned(panel, (PAGE_WIDTH_POINTS - COLORBAR_ROOM) / per_row)
    return 0.75 + CELL_HEIGHT * (len(panel.rows) + SUMMARY_GAP) + (names / 72 if turned else 0.15)


def _cell_texts(panel: HeatPanel) -> list[list[str]]:
    return [["" if value is None else f"{value:.{panel.digits}f}" for value in row] for row in panel.values]


def _cell_width(panel: HeatPanel) -> float:
    return 5 + max((text_width(text) for row in _cell_texts(panel) for text in row), default=0)


def _are_columns_turned(panel: HeatPanel, width: float) -> bool:
    """Returns whether the names of the columns are too long to lie flat."""
    names = max(map(text_width, panel.rows), default=0)
    room = (width - names - 34) / (len(panel.columns) + SUMMARY_GAP)
    return max(map(text_width, panel.columns), default=0) + 3 > room


def heat_value_range(panels: Sequence[HeatPanel]) -> tuple[float, float]:
    """Returns the lowest and highest number of all panels, which share their colours."""
    values = [value for panel in panels for row in panel.values for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def draw_heat_panel(axes: "Axes", panel: HeatPanel, limits: tuple[float, float], width: float) -> None:
    """Draws a panel, so many points wide with its names, in colours for numbers between these limits."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    rows, columns = len(panel.rows), len(panel.columns)
    x, y = _cell_positions(columns, panel.margins), _cell_positions(rows, panel.margins)
    shades, (low, high) = colormaps[COLORMAP], limits
    for i, texts in enumerate(_cell_texts(panel)):
        for j, text in enumerate(texts):
            value, corner = panel.values[i][j], (x[j] - 0.5, y[i] - 0.5)
            if value is not None:
                shade = shades((value - low) / (high - low))
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor="white", linewidth=0.8))
                color = "black" if _brightness(shade) > 0.45 else "white"
                axes.text(x[j], y[i], text, ha="center", va="center", fontsize=SMALL_FONT_SIZE, color=color)
            elif i < rows - panel.margins or j < columns - panel.margins:  # a summary has no summary
                axes.add_patch(Rectangle(corner, 1, 1, **EMPTY_CELL_STYLE))
    axes.set_xticks(x, panel.columns, rotation=90 if _are_columns_turned(panel, width) else 0)
    axes.set_yticks(y, panel.rows)
    axes.set_xlim(-0.5, x[-1] + 0.5)
    axes.set_ylim(y[-1] + 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _cell_positions(count: int, margins: int) -> list[float]:
    return [i + (SUMMARY_GAP if i >= count - margins else 0) for i in range(count)]


def _brightness(color: Sequence[float]) -> float:
    """Returns how bright a colour is to the eye, from 0 to 1."""
    return math.sqrt(0.299 * color[0] ** 2 + 0.587 * color[1] ** 2 + 0.114 * color[2] ** 2)


def add_heat_colorbar(figure: "Figure", axes: Sequence["Axes"], panels: Sequence[HeatPanel]) -> None:
    """Puts one bar of colours beside the panels, with the unit of their numbers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(*heat_value_range(panels)), COLORMAP)
    bar = figure.colorbar(colors, ax=list(axes), label=next((panel.unit for panel in panels if panel.unit), ""))
    bar.ax.grid(False)


def choose_contour_levels(panels: Sequence[ContourPanel]) -> list[float]:
    """Returns round levels from below the lowest to above the highest number of these panels.

    On a logarithmic scale they are 1, 2 and 5 times powers of ten, or the powers alone over many of them; numbers
    that are not positive have no place there. Levels that panels bring along are taken as they are.
    """
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([_drawable_surface(panel).ravel() for panel in panels])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 1.0)
    given = sorted({level for panel in panels for level in panel.levels})
    if not panels[0].log and not given:
        levels = MaxNLocator(9).tick_values(low, high)
        return [float(level) for level in levels]
    if given:
        levels = given
    else:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        decades = math.log10(high / low)
        factors = (1, 2, 5) if decades < 2.5 else (1, 3) if decades < 5 else (1,)
        levels = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max(sum(level <= low for level in levels) - 1, 0)
    stop = next((i for i, level in enumerate(levels) if level >= high and i > start), len(levels) - 1)
    return levels[start : stop + 1]


def _drawable_surface(panel: ContourPanel) -> np.ndarray:
    z = np.asarray(panel.z, dtype=float)
    return np.where(np.isfinite(z) & ((z > 0) | (not panel.log)), z, np.nan)


def draw_contour_panel(axes: "Axes", panel: ContourPanel, levels: Sequence[float]) -> Callable[[], None]:
    """Draws a panel; what comes back puts the names of the places where there is room, once the layout is known."""
    from matplotlib.patheffects import withStroke

    z, halo = np.ma.masked_invalid(_drawable_surface(panel)), [withStroke(linewidth=2, foreground="white")]
    axes.contourf(panel.x, panel.y, z, levels=list(levels), cmap=COLORMAP, norm=_level_norm(levels))
    lines = axes.contour(panel.x, panel.y, z, levels=list(levels), colors="black", linewidths=0.5, alpha=0.6)
    texts = axes.clabel(lines, inline=False, fontsize=SMALL_FONT_SIZE, fmt=_format_level, colors="black")
    for text in texts:
        text.set(path_effects=halo, alpha=1.0)
    names = [
        _draw_marked_point(axes, place, marker, halo) for place, marker in zip(panel.places, "os^Dv" * 9, strict=False)
    ]
    axes.set_aspect("equal")
    axes.grid(False)
    return lambda: _place_point_labels(axes, names, list(texts))


def _level_norm(levels: Sequence[float]) -> Any:
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(list(levels), 256)  # the same step of colour from each level to the next


def _format_level(value: float) -> str:
    return f"{value:g}"


def _draw_marked_point(axes: "Axes", place: MarkedPoint, marker: str, halo: list[Any]) -> "Annotation":
    look: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 6, "clip_on": False}
    axes.plot([place.x], [place.y], marker, **look, zorder=5, label=place.label)
    name = axes.annotate(
        place.label, (place.x, place.y), (0, 0), textcoords="offset points", fontsize=SMALL_FONT_SIZE, zorder=6
    )
    name.set(path_effects=halo, fontweight="bold")
    name.set_in_layout(False)  # it will be put inside of the panel
    return name


def _place_point_labels(axes: "Axes", names: Sequence["Annotation"], levels: Sequence["Text"]) -> None:
    inside = axes.get_window_extent()
    reach = 5 * axes.figure.dpi / 72  # a marker's 5 points, in pixels
    marks = [axes.transData.transform(name.xy) for name in names]
    taken: list[Bbox] = [_box_around(mark, reach) for mark in marks]
    for name in names:
        for x, y in LABEL_OFFSETS:
            name.xyann = (x, y)
            name.set(ha="left" if x > 0 else "right" if x < 0 else "center")
            name.set(va="bottom" if y > 0 else "top" if y < 0 else "center")
            box = name.get_window_extent()
            if _is_within(box, inside) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(name.get_window_extent())
    for text in levels:
        box = text.get_window_extent()
        text.set_visible(_is_within(box, inside) and not any(box.overlaps(other) for other in taken))
        taken += [box] if text.get_visible() else []


def _box_around(middle: np.ndarray, reach: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    return Bbox([[middle[0] - reach, middle[1] - reach], [middle[0] + reach, middle[1] + reach]])


def _is_within(box: "Bbox", other: "Bbox") -> bool:
    return other.x0 <= box.x0 and box.x1 <= other.x1 and other.y0 <= box.y0 and box.y1 <= other.y1


def add_contour_colorbar(
    figure: "Figure", axes: Sequence["Axes"], panels: Sequence[ContourPanel], levels: Sequence[float]
) -> None:
    """Puts one bar of colours beside panels that share their levels."""
    from matplotlib.cm import ScalarMappable

    colors = ScalarMappable(_level_norm(levels), COLORMAP)
    bar = figure.colorbar(
        colors, ax=list(axes), label=panels[0].zlabel, ticks=list(levels), format=_format_colorbar_tick
    )
    bar.ax.tick_params(length=0)
    bar.ax.grid(False)


def _format_colorbar_tick(value: float, _position: int) -> str:
    return _format_level(value)
