"""What stands around curves and points: scales, ticks, and reference lines with their names."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stableft.report.drawing import DASHED, GREY, SMALL, collide, spread, text_width, wrapped
from stableft.report.panels import CurvePanel, Line, Panel, PointPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

REFERENCES = ((0, (5, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))  # of reference lines that are named in the legend
LONG, REPEATED = 24, 12  # letters of a horizontal line's name, beyond which (in several panels) it is in the legend
LEADER = 9  # points from a panel to the names of its vertical lines
LINE = 1.25 * SMALL  # points from one line of text to the next

Looks = dict[str, dict[str, Any]]  # name in the legend -> how it is drawn, in every panel alike


def reference_looks(panels: Sequence[CurvePanel | PointPanel]) -> Looks:
    """Returns how those horizontal lines are drawn whose names are too long to be written beside them."""
    lines = [line.label for panel in panels if not panel.missing for line in panel.horizontal]
    names = dict.fromkeys(name for name in lines if len(name) > (LONG if lines.count(name) == 1 else REPEATED))
    return {name: DASHED | {"linestyle": REFERENCES[i % len(REFERENCES)]} for i, name in enumerate(names)}


def set_scales(axes: "Axes", xlog: bool, ylog: bool) -> None:
    if xlog:
        axes.set_xscale("log")
    if ylog:
        axes.set_yscale("log")  # a band from 0 goes to the lower edge


def set_ticks(axes: "Axes", xlog: bool, ylog: bool, xticks: Sequence[float]) -> None:
    """Puts round numbers at both axes, or these ones at the x axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for log, axis, (low, high) in ((xlog, axes.xaxis, axes.get_xlim()), (ylog, axes.yaxis, axes.get_ylim())):
        if log:
            decades = math.log10(high / low)
            factors = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
            axis.set_major_locator(LogLocator(subs=factors, numticks=7))
            axis.set_minor_locator(NullLocator())
        if log or high >= 10_000:
            axis.set_major_formatter(FuncFormatter(_power if log and (low < 5e-4 or high > 2e6) else _number))
    if xticks:
        axes.set_xticks(xticks, [_number(value, 0) for value in xticks])


def _number(value: float, _position: int) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10_000 else f"{value:.10g}"


def _power(value: float, _position: int) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10.0**power)
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{'' if factor == 1 else f'{factor}·'}10{digits}"


def vertical_room(panel: Panel, width: float) -> float:
    """Returns how many points the names of the vertical lines take above a panel."""
    lines = panel.vertical if isinstance(panel, CurvePanel) else ()
    if not lines:
        return 0.0
    widest = max(text_width(line.label) for line in lines)
    return LEADER + (LINE if _lie_flat(lines, width) else widest) + 2


def _lie_flat(lines: Sequence[Line], width: float) -> bool:
    return sum(text_width(line.label) + 8 for line in lines) <= width - 60


def draw_vertical(axes: "Axes", lines: Sequence[Line], width: float) -> list["Annotation"]:
    """Draws vertical lines with their names above the panel, for now each above its line."""
    flat, arrow = _lie_flat(lines, width), {"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkA": 0}
    names = []
    for line in sorted(lines, key=lambda line: line.value):
        axes.axvline(line.value, color=GREY, linewidth=0.8, zorder=1, label=line.label)
        name = axes.annotate(
            line.label,
            (line.value, 1),
            (0, LEADER),
            axes.get_xaxis_transform(),
            "offset points",
            arrow | {"shrinkB": 0, "relpos": (0.5, 0)},
            ha="center",
            va="bottom",
            rotation=0 if flat else 90,
            fontsize=SMALL,
        )
        names.append(name)
    return names


def draw_horizontal(axes: "Axes", lines: Sequence[Line], references: Looks) -> list["Annotation"]:
    """Draws horizontal lines with their names to the right of the panel, but for those that are in the legend."""
    names = []
    for line in sorted(lines, key=lambda line: line.value):
        axes.axhline(line.value, **references.get(line.label, DASHED), zorder=5, label=line.label)
        if line.label and line.label not in references:
            text, place = wrapped(line.label, 60), ("axes fraction", "data")
            name = axes.annotate(text, (1, line.value), (4, 0), place, "offset points", va="center", fontsize=SMALL)
            names.append(name)
    return names


def settle(axes: "Axes", above: Sequence["Annotation"], beside: Sequence["Annotation"], own_ticks: bool) -> None:
    """Sets names and ticks apart that are too near each other, now that the layout is known."""
    from matplotlib.ticker import MaxNLocator

    pixels = axes.figure.dpi / 72  # in a point
    inside = axes.get_window_extent()
    if above:
        widths = [name.get_window_extent().width / pixels for name in above]
        places = [axes.transData.transform((name.xy[0], 1))[0] / pixels for name in above]
        moved = spread(places, widths, 3 if above[0].get_rotation() else 8, inside.x0 / pixels, inside.x1 / pixels)
        for name, old, new in zip(above, places, moved, strict=True):
            name.xyann = (new - old, LEADER)
    if beside:
        places = [axes.transData.transform((1, name.xy[1]))[1] / pixels for name in beside]
        heights = [LINE * (1 + name.get_text().count("\n")) for name in beside]
        moved = spread(places, heights, 0, inside.y0 / pixels, inside.y1 / pixels)
        for name, old, new in zip(beside, places, moved, strict=True):
            name.xyann = (4, new - old)
    ticks = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks() if tick.label1.get_text()]
    ticks = sorted((box for box in ticks if inside.x0 - 1 <= (box.x0 + box.x1) / 2 <= inside.x1 + 1), key=_left)
    if collide(ticks, 2 * pixels):
        if own_ticks:
            axes.tick_params(axis="x", rotation=90)
        elif axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(3))


def _left(box: "Bbox") -> float:
    return box.x0
