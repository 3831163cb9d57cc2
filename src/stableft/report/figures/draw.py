"""Draws panels as one figure: lays them out, names their axes once, and puts one legend above them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from stableft.report.figures.boxes import FRAMES, box_entries, box_height, box_layout, box_width, draw_boxes
from stableft.report.figures.curves import (
    Looks,
    curve_entries,
    curve_looks,
    draw_curves,
    draw_points,
    point_entries,
    point_looks,
    reference_looks,
    vertical_room,
)
from stableft.report.figures.maps import (
    add_contour_bar,
    add_heat_bar,
    contour_levels,
    draw_contours,
    draw_heat,
    heat_height,
    heat_layout,
    heat_range,
)
from stableft.report.figures.panels import BoxPanel, ContourPanel, CurvePanel, HeatPanel, Panel, PointPanel
from stableft.report.figures.style import (
    FONT,
    GREY,
    POINTS,
    SMALL,
    Entry,
    add_legend,
    fix_layout,
    house_style,
    legend_columns,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Kind = TypeVar("Kind", BoxPanel, CurvePanel, PointPanel, HeatPanel, ContourPanel)
Settle = Callable[[], None]  # puts names where there is room, once the layout is known


def draw(panels: Sequence[Panel], caption: str = "", per_row: int | None = None) -> "Figure":
    """Returns the figure of these panels, in reading order, at the width of a page's text.

    A name has the same colour in every panel and stands once in the legend. `caption` is small print below. `per_row`
    panels of curves stand side by side, else as many as is usual for their number.
    """
    from matplotlib.figure import Figure

    assert panels
    usual, upright, points = _layout(panels)
    per_row = per_row or usual
    rows = math.ceil(len(panels) / per_row)
    heights = [_height(panel, per_row, upright, rows) for panel in panels]
    heights = [max(heights[i : i + per_row]) for i in range(0, len(panels), per_row)]
    looks, references, entries = _looks(panels)
    caption = wrapped(caption, points - 20, FONT)
    with house_style():
        lines = math.ceil(len(entries) / legend_columns(entries, points)) + 0.8 * (1 + caption.count("\n"))
        figure = Figure(figsize=(points / 72, sum(heights) + 0.19 * lines), layout="constrained")
        axes = list(figure.subplots(rows, per_row, squeeze=False, height_ratios=heights).flat)
        width, pairs = points / per_row, list(zip(axes, panels, strict=False))
        settles = [_panel(one, panel, per_row, upright, width, looks, references) for one, panel in pairs]
        settles += _maps(figure, axes, panels, width)
        for one in axes[len(panels) :]:
            one.set_visible(False)
        _name_axes(figure, axes, panels, per_row, heights, width, caption)
        if entries:
            add_legend(figure, entries, points)
        if any(settles):
            figure.draw_without_rendering()
            for settle in settles:
                if settle:
                    settle()
        fix_layout(figure)
    return figure


def _only(panels: Sequence[Panel], kind: type[Kind]) -> list[Kind]:
    return [panel for panel in panels if isinstance(panel, kind) and not panel.missing]


def _layout(panels: Sequence[Panel]) -> tuple[int, bool, float]:
    """Returns how many panels stand side by side, whether boxes' names stand upright, and how many points wide."""
    count = len(panels)
    most, upright, points = {1: 1, 2: 2, 4: 2}.get(count, 3 if count < 12 else 4), False, POINTS
    if boxes := _only(panels, BoxPanel):
        per_row, upright = box_layout([*boxes, *([boxes[0]] * (count - len(boxes)))])
        most, points = per_row if len(boxes) == count else min(most, per_row), box_width(boxes)
    if heats := _only(panels, HeatPanel):
        per_row, wide = heat_layout(heats)
        most, points = min(most, per_row), max(points, wide)
    return most, upright, points


def _height(panel: Panel, per_row: int, upright: bool, rows: int) -> float:
    """Returns the height in inches of a panel with its names."""
    width = POINTS / per_row
    names = 0.16 * (_title(panel, width) + _xlabel(panel, width)).count("\n")
    if panel.missing:
        return names + max(1.5, 0.4 + 0.14 * (1 + _said(panel.missing, width)[0].count("\n")))
    if isinstance(panel, BoxPanel):
        return names + box_height(panel, per_row, upright, rows)
    if isinstance(panel, HeatPanel):
        return names + heat_height(panel, per_row)
    if isinstance(panel, ContourPanel):
        span = (max(panel.y) - min(panel.y)) / (max(panel.x) - min(panel.x))
        return names + 0.6 + min(max(span, 0.4), 2.0) * min((width - 60) / 72, 4.5)
    return names + {1: 3.3, 2: 2.7, 3: 2.3}.get(per_row, 1.6) + vertical_room(panel, width) / 72


def _frame(panel: Panel, height: float, rows: int) -> float:
    """Returns about how many points high the axes are in a row of this height in inches."""
    return 72 * FRAMES[rows > 2] - 40 if isinstance(panel, BoxPanel) else 72 * height - 38


def _looks(panels: Sequence[Panel]) -> tuple[Looks, Looks, list[Entry]]:
    """Returns how curves and points are drawn, how long-named reference lines are, and the legend, each name once."""
    curves, points = _only(panels, CurvePanel), _only(panels, PointPanel)
    of_curves, of_points = curve_looks(curves), point_looks(points)
    references = reference_looks([*curves, *points])
    entries = [
        *box_entries(_only(panels, BoxPanel)),
        *curve_entries(curves, of_curves),
        *point_entries(points, of_points),
        *references.items(),
    ]
    return of_curves | of_points, references, list(dict(reversed(entries)).items())[::-1]


def _panel(
    axes: "Axes", panel: Panel, per_row: int, upright: bool, width: float, looks: Looks, references: Looks
) -> Settle | None:
    if panel.missing:
        _say(axes, panel.missing, width)
    elif isinstance(panel, BoxPanel):
        draw_boxes(axes, panel, per_row, upright)
    elif isinstance(panel, CurvePanel):
        return draw_curves(axes, panel, looks, references, width)
    elif isinstance(panel, PointPanel):
        return draw_points(axes, panel, looks, references)
    return None


def _say(axes: "Axes", sentence: str, width: float) -> None:
    """Draws a sentence in place of a panel."""
    text, size = _said(sentence, width)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=size, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#CCCCCC")
    axes.grid(False)


def _said(sentence: str, width: float) -> tuple[str, float]:
    """Returns a sentence in lines, and the size of its letters, small ones where it names a command: it is long."""
    size = SMALL if "`" in sentence else FONT
    return wrapped(sentence.replace("`", ""), width - 50, size), size


def _maps(figure: "Figure", axes: Sequence["Axes"], panels: Sequence[Panel], width: float) -> list[Settle | None]:
    """Draws the panels of heat and contours, which share their colours, and the bars of colours."""
    drawn = [(one, panel) for one, panel in zip(axes, panels, strict=False) if not panel.missing]
    units: dict[str, list[tuple[Axes, HeatPanel]]] = {}
    for one, panel in drawn:
        if isinstance(panel, HeatPanel):
            units.setdefault(panel.unit, []).append((one, panel))
    for heats in units.values():
        limits = heat_range([panel for _, panel in heats])
        for one, panel in heats:
            draw_heat(one, panel, limits, width)
        add_heat_bar(figure, [one for one, _ in heats], [panel for _, panel in heats])
    settles: list[Settle | None] = []
    groups: dict[tuple[str, bool], list[tuple[Axes, ContourPanel]]] = {}
    for one, panel in drawn:
        if isinstance(panel, ContourPanel):
            groups.setdefault((panel.zlabel, panel.log), []).append((one, panel))
    for group in groups.values():
        levels = contour_levels([panel for _, panel in group])
        settles += [draw_contours(one, panel, levels) for one, panel in group]
        add_contour_bar(figure, [one for one, _ in group], [panel for _, panel in group], levels)
    return settles


def _title(panel: Panel, width: float) -> str:
    weight = "bold" if isinstance(panel, BoxPanel) else "normal"
    return wrapped(panel.title, max(width - 40, 60), FONT, weight)


def _xlabel(panel: Panel, width: float) -> str:
    return wrapped(getattr(panel, "xlabel", ""), width - 60, FONT)


def _name_axes(
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
        one.set_title(_title(panel, width), fontweight=weight, pad=6 + vertical_room(panel, width))
        if panel.missing:
            continue
        one.set_xlabel("" if shared else _xlabel(panel, width))
        left = panels[i - 1] if i % per_row else None
        if not beside and (left is None or left.missing or left.ylabel != panel.ylabel):
            one.set_ylabel(wrapped(panel.ylabel, _frame(panel, heights[i // per_row], len(heights)), FONT))
        if alike and left is not None and not left.missing:
            one.tick_params(labelleft=False)
    if beside:
        figure.supylabel(beside, fontsize=FONT)
    if shared or caption:
        figure.supxlabel("\n".join(line for line in (shared, caption) if line), fontsize=FONT)
