"""Draw panels as one figure: layout, axis labels, one legend."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from stableft.report.figures.boxes import (
    BOX_FRAME_HEIGHTS,
    box_figure_width,
    box_legend_entries,
    box_panel_height,
    choose_box_layout,
    draw_box_panel,
)
from stableft.report.figures.curves import (
    StylesByName,
    choose_curve_styles,
    choose_point_styles,
    choose_reference_styles,
    curve_legend_entries,
    draw_curve_panel,
    draw_point_panel,
    point_legend_entries,
    vertical_label_room,
)
from stableft.report.figures.maps import (
    add_contour_colorbar,
    add_heat_colorbar,
    choose_contour_levels,
    choose_heat_layout,
    draw_contour_panel,
    draw_heat_panel,
    heat_panel_height,
    heat_value_range,
)
from stableft.report.figures.panels import BoxPanel, ContourPanel, CurvePanel, HeatPanel, Panel, PointPanel
from stableft.report.figures.style import (
    FONT_SIZE,
    GREY,
    PAGE_WIDTH_POINTS,
    SMALL_FONT_SIZE,
    LegendEntry,
    add_legend,
    count_legend_columns,
    freeze_layout,
    house_style,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PanelT = TypeVar("PanelT", BoxPanel, CurvePanel, PointPanel, HeatPanel, ContourPanel)
SeparateLabels = Callable[[], None]  # puts names where there is room, once the layout is known


def draw_panels(panels: Sequence[Panel], caption: str = "", per_row: int | None = None) -> "Figure":
    """Returns the figure of these panels, in reading order, at the width of a page's text.

    A name has the same colour in every panel and stands once in the legend. `caption` is small print below. `per_row`
    panels of curves stand side by side, else as many as is usual for their number.
    """
    from matplotlib.figure import Figure

    assert panels
    usual, upright, points = _figure_layout(panels)
    per_row = per_row or usual
    rows = math.ceil(len(panels) / per_row)
    heights = [_panel_height(panel, per_row, upright, rows) for panel in panels]
    heights = [max(heights[i : i + per_row]) for i in range(0, len(panels), per_row)]
    looks, references, entries = _styles_and_legend(panels)
    caption = wrap_text(caption, points - 20, FONT_SIZE)
    with house_style():
        lines = math.ceil(len(entries) / count_legend_columns(entries, points)) + 0.8 * (1 + caption.count("\n"))
        figure = Figure(figsize=(points / 72, sum(heights) + 0.19 * lines), layout="constrained")
        axes = list(figure.subplots(rows, per_row, squeeze=False, height_ratios=heights).flat)
        width, pairs = points / per_row, list(zip(axes, panels, strict=False))
        settles = [_draw_panel(one, panel, per_row, upright, width, looks, references) for one, panel in pairs]
        settles += _draw_maps(figure, axes, panels, width)
        for one in axes[len(panels) :]:
            one.set_visible(False)
        _label_axes(figure, axes, panels, per_row, heights, width, caption)
        if entries:
            add_legend(figure, entries, points)
        if any(settles):
            figure.draw_without_rendering()
            for settle in settles:
                if settle:
                    settle()
        freeze_layout(figure)
    return figure


def _panels_of_type(panels: Sequence[Panel], kind: type[PanelT]) -> list[PanelT]:
    return [panel for panel in panels if isinstance(panel, kind) and not panel.missing]


def _figure_layout(panels: Sequence[Panel]) -> tuple[int, bool, float]:
    """Returns how many panels stand side by side, whether boxes' names stand upright, and how many points wide."""
    count = len(panels)
    most, upright, points = {1: 1, 2: 2, 4: 2}.get(count, 3 if count < 12 else 4), False, PAGE_WIDTH_POINTS
    if boxes := _panels_of_type(panels, BoxPanel):
        per_row, upright = choose_box_layout([*boxes, *([boxes[0]] * (count - len(boxes)))])
        most, points = per_row if len(boxes) == count else min(most, per_row), box_figure_width(boxes)
    if heats := _panels_of_type(panels, HeatPanel):
        per_row, wide = choose_heat_layout(heats)
        most, points = min(most, per_row), max(points, wide)
    return most, upright, points


def _panel_height(panel: Panel, per_row: int, upright: bool, rows: int) -> float:
    """Returns the height in inches of a panel with its names."""
    width = PAGE_WIDTH_POINTS / per_row
    names = 0.16 * (_panel_title(panel, width) + _wrapped_xlabel(panel, width)).count("\n")
    if panel.missing:
        return names + max(1.5, 0.4 + 0.14 * (1 + _wrap_message(panel.missing, width)[0].count("\n")))
    if isinstance(panel, BoxPanel):
        return names + box_panel_height(panel, per_row, upright, rows)
    if isinstance(panel, HeatPanel):
        return names + heat_panel_height(panel, per_row)
    if isinstance(panel, ContourPanel):
        span = (max(panel.y) - min(panel.y)) / (max(panel.x) - min(panel.x))
        return names + 0.6 + min(max(span, 0.4), 2.0) * min((width - 60) / 72, 4.5)
    return names + {1: 3.3, 2: 2.7, 3: 2.3}.get(per_row, 1.6) + vertical_label_room(panel, width) / 72


def _axes_height(panel: Panel, height: float, rows: int) -> float:
    """Returns about how many points high the axes are in a row of this height in inches."""
    return 72 * BOX_FRAME_HEIGHTS[rows > 2] - 40 if isinstance(panel, BoxPanel) else 72 * height - 38


def _styles_and_legend(panels: Sequence[Panel]) -> tuple[StylesByName, StylesByName, list[LegendEntry]]:
    """Returns how curves and points are drawn, how long-named reference lines are, and the legend, each name once."""
    curves, points = _panels_of_type(panels, CurvePanel), _panels_of_type(panels, PointPanel)
    of_curves, of_points = choose_curve_styles(curves), choose_point_styles(points)
    references = choose_reference_styles([*curves, *points])
    entries = [
        *box_legend_entries(_panels_of_type(panels, BoxPanel)),
        *curve_legend_entries(curves, of_curves),
        *point_legend_entries(points, of_points),
        *references.items(),
    ]
    return of_curves | of_points, references, list(dict(reversed(entries)).items())[::-1]


def _draw_panel(
    axes: "Axes", panel: Panel, per_row: int, upright: bool, width: float, looks: StylesByName, references: StylesByName
) -> SeparateLabels | None:
    if panel.missing:
        _draw_message(axes, panel.missing, width)
    elif isinstance(panel, BoxPanel):
        draw_box_panel(axes, panel, per_row, upright)
    elif isinstance(panel, CurvePanel):
        return draw_curve_panel(axes, panel, looks, references, width)
    elif isinstance(panel, PointPanel):
        return draw_point_panel(axes, panel, looks, references)
    return None


def _draw_message(axes: "Axes", sentence: str, width: float) -> None:
    """Draws a sentence in place of a panel."""
    text, size = _wrap_message(sentence, width)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=size, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#CCCCCC")
    axes.grid(False)


def _wrap_message(sentence: str, width: float) -> tuple[str, float]:
    """Returns a sentence in lines, and the size of its letters, small ones where it names a command: it is long."""
    size = SMALL_FONT_SIZE if "`" in sentence else FONT_SIZE
    return wrap_text(sentence.replace("`", ""), width - 50, size), size


def _draw_maps(
    figure: "Figure", axes: Sequence["Axes"], panels: Sequence[Panel], width: float
) -> list[SeparateLabels | None]:
    """Draws the panels of heat and contours, which share their colours, and the bars of colours."""
    drawn = [(one, panel) for one, panel in zip(axes, panels, strict=False) if not panel.missing]
    units: dict[str, list[tuple[Axes, HeatPanel]]] = {}
    for one, panel in drawn:
        if isinstance(panel, HeatPanel):
            units.setdefault(panel.unit, []).append((one, panel))
    for heats in units.values():
        limits = heat_value_range([panel for _, panel in heats])
        for one, panel in heats:
            draw_heat_panel(one, panel, limits, width)
        add_heat_colorbar(figure, [one for one, _ in heats], [panel for _, panel in heats])
    settles: list[SeparateLabels | None] = []
    groups: dict[tuple[str, bool], list[tuple[Axes, ContourPanel]]] = {}
    for one, panel in drawn:
        if isinstance(panel, ContourPanel):
            groups.setdefault((panel.zlabel, panel.log), []).append((one, panel))
    for group in groups.values():
        levels = choose_contour_levels([panel for _, panel in group])
        settles += [draw_contour_panel(one, panel, levels) for one, panel in group]
        add_contour_colorbar(figure, [one for one, _ in group], [panel for _, panel in group], levels)
    return settles


def _panel_title(panel: Panel, width: float) -> str:
    weight = "bold" if isinstance(panel, BoxPanel) else "normal"
    return wrap_text(panel.title, max(width - 40, 60), FONT_SIZE, weight)


def _wrapped_xlabel(panel: Panel, width: float) -> str:
    return wrap_text(getattr(panel, "xlabel", ""), width - 60, FONT_SIZE)


def _label_axes(
    figure: "Figure",
    axes: Sequence["Axes"],
    panels: Sequence[Panel],
    per_row: int,
    heights: Sequence[float],
    width: float,
    caption: str,
) -> None:
    """Writes titles and the names of the axes; one that many panels have in common stands once."""
    below = {getattr(panel, "xlabel", "") for panel in panels}
    shared = below.pop() if len(panels) > 1 and len(below) == 1 else ""
    names = {panel.ylabel for panel in panels}
    beside = names.pop() if len(panels) > 2 * per_row and len(names) == 1 else ""
    limits = {(getattr(panel, "bottom", None), getattr(panel, "top", None)) for panel in panels}
    alike = len(limits) == 1 and None not in limits.pop()  # the same numbers stand beside every panel
    for i, (one, panel) in enumerate(zip(axes, panels, strict=False)):
        weight = "bold" if isinstance(panel, BoxPanel) else "normal"
        one.set_title(_panel_title(panel, width), fontweight=weight, pad=6 + vertical_label_room(panel, width))
        if panel.missing:
            continue
        one.set_xlabel("" if shared else _wrapped_xlabel(panel, width))
        left = panels[i - 1] if i % per_row else None
        if not beside and (left is None or left.missing or left.ylabel != panel.ylabel):
            one.set_ylabel(wrap_text(panel.ylabel, _axes_height(panel, heights[i // per_row], len(heights)), FONT_SIZE))
        if alike and left is not None and not left.missing:
            one.tick_params(labelleft=False)
    if beside:
        figure.supylabel(beside, fontsize=FONT_SIZE)
    if shared or caption:
        figure.supxlabel("\n".join(line for line in (shared, caption) if line), fontsize=FONT_SIZE)
