"""Draw curves with bands, reference lines and points."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import Curve, CurvePanel, Panel, PointGroup, PointPanel, ReferenceLine
from stableft.report.figures.style import (
    COLORMAP,
    DASHED_LINE,
    GREY,
    PALETTE,
    SMALL_FONT_SIZE,
    LegendEntry,
    any_overlap,
    spread_apart,
    text_width,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox


LINE_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^DvPX"
MAX_MARKED_POINTS = 15  # points of a curve, up to which it is told apart by its markers
MAX_VECTOR_CURVES = 200  # curves or points of a panel, beyond which they are pixels in a vector file


def legend_name(curve: Curve) -> str:
    return curve.group or curve.label


StylesByName = dict[str, dict[str, Any]]  # name in the legend -> how it is drawn, in every panel alike


def choose_curve_styles(panels: Sequence[CurvePanel]) -> StylesByName:
    """Returns how every curve is drawn: by its own colour, in shades where curves are ordered, or by the palette.

    What the palette colours also differs in markers or dashes, for those who see it in grey.
    """
    ordered = [legend_name(c) for panel in panels if panel.sequential for c in panel.curves if c.color is None]
    ordered = list(dict.fromkeys(ordered))
    curves = [curve for panel in panels for curve in panel.curves]
    free = dict.fromkeys(name for c in curves if c.color is None and (name := legend_name(c)) not in ordered)
    few = all(len(curve.x) <= MAX_MARKED_POINTS for curve in curves)
    plain = len(free) < 2 or any(curve.dashed for curve in curves)
    looks = dict(
        zip(ordered, ({"color": shade, "linewidth": 1.0} for shade in _sample_colormap(len(ordered))), strict=True)
    )
    for i, name in enumerate(free):
        looks[name] = {"color": PALETTE[i % len(PALETTE)], "linewidth": 1.7}
        if few:
            marker = MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]  # another one where a colour comes again
            looks[name] |= {"marker": marker, "markersize": 4}
        elif not plain:
            looks[name] |= {"linestyle": LINE_DASHES[i % len(LINE_DASHES)]}
    for curve in curves:
        look = looks.setdefault(legend_name(curve), {"color": curve.color, "linewidth": 1.7})
        if not curve.thin and curve.group:
            look["linewidth"] = 2.2  # the mean of the thin ones
        if curve.dashed:
            look["linestyle"] = (0, (4, 2))
    return looks


def _sample_colormap(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    return [tuple(shade) for shade in colormaps[COLORMAP](np.linspace(0, 0.92, count))]


def curve_legend_entries(panels: Sequence[CurvePanel], looks: StylesByName) -> list[LegendEntry]:
    """Returns the legend of these panels, each name once, with the number of runs where it is known.

    Of many ordered curves the first, the last and some between them are named.
    """
    drawn = [panel for panel in panels if not panel.missing]
    ordered = [legend_name(c) for panel in drawn if panel.sequential for c in panel.curves if c.color is None]
    ordered = list(dict.fromkeys(ordered))
    names: dict[str, set[int]] = {}
    for panel in drawn:
        for name, curves in groupby(sorted(panel.curves, key=legend_name), legend_name):
            names.setdefault(name, set()).update(_run_counts(list(curves)) if name not in ordered else ())
    left_out = {"", *ordered} - set(thin_out_names(ordered))
    shown = dict.fromkeys(legend_name(curve) for panel in drawn for curve in panel.curves)
    return [(f"{name}{_n_suffix(names[name])}", looks[name]) for name in shown if name not in left_out]


def _run_counts(curves: Sequence[Curve]) -> set[int]:
    """Returns how many runs are behind the curves of one name: thin ones are a run each, if nothing sums them up."""
    if any(curve.group for curve in curves):
        return {len(curves)} if all(curve.thin for curve in curves) else set()
    return {curve.n for curve in curves if curve.n is not None}


def thin_out_names(names: Sequence[str]) -> Sequence[str]:
    """Returns all names, or of many ordered ones the first, the last and some between them."""
    every = math.ceil(len(names) / 7) if len(names) > 8 else 1
    return [*names[: -every or None : every], *names[-1:]] if every > 1 else names


def _n_suffix(counts: set[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return "" if not counts else f" (n = {low})" if low == high else f" (n = {low} to {high})"


def draw_curve_panel(
    axes: "Axes", panel: CurvePanel, looks: StylesByName, references: StylesByName, width: float
) -> Callable[[], None]:
    """Draws a panel of about so many points' width; what comes back sets names apart once the layout is known."""
    from matplotlib.patheffects import withStroke

    thin = sum(curve.thin for curve in panel.curves)
    halo = {"path_effects": [withStroke(linewidth=3.4, foreground="white")]} if thin else {}
    faint = {"alpha": min(0.8, max(0.1, 10 / max(thin, 1))), "linewidth": 0.7, "rasterized": thin > MAX_VECTOR_CURVES}
    for curve in reversed(panel.curves):  # the first one on top
        look = looks[legend_name(curve)]
        x, y = _nan_if_undrawable(curve.x, panel.xlog), _nan_if_undrawable(curve.y, panel.ylog)
        if curve.low:
            low, high = _nan_if_undrawable(curve.low, False), _nan_if_undrawable(curve.high, False)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0, label=curve.label)
        axes.plot(x, y, **look | ({"zorder": 2, **faint} if curve.thin else {"zorder": 3, **halo}), label=curve.label)
    set_scales(axes, panel.xlog, panel.ylog)
    names = [*draw_vertical_lines(axes, panel.vertical, width)]
    beside = draw_horizontal_lines(axes, panel.horizontal, references)
    axes.set_xlim(left=panel.left)
    axes.set_ylim(bottom=panel.bottom, top=panel.top)
    set_ticks(axes, panel.xlog, panel.ylog, panel.xticks)
    return lambda: separate_labels(axes, names, beside, bool(panel.xticks))


def _nan_if_undrawable(values: Sequence[float], log: bool) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def choose_point_styles(panels: Sequence[PointPanel]) -> StylesByName:
    """Returns how every group of points is drawn: by its own colour and marker, or by the palette."""
    groups = {group.label: group for panel in panels for group in panel.groups}
    alike = len(groups) > 1 and {group.marker for group in groups.values()} == {"o"}
    return {
        name: {
            "color": group.color or PALETTE[i % len(PALETTE)],
            "marker": MARKERS[i % len(MARKERS)] if alike else group.marker,
        }
        for i, (name, group) in enumerate(groups.items())
    }


def point_legend_entries(panels: Sequence[PointPanel], looks: StylesByName) -> list[LegendEntry]:
    """Returns the legend of these panels, each name once, with its number of points in all panels."""
    drawn = [panel for panel in panels if not panel.missing]
    counts: dict[str, int] = {}
    for group in (group for panel in drawn for group in panel.groups if group.label):
        counts[group.label] = counts.get(group.label, 0) + len(group.x)
    return [
        (f"{name} (n = {count})", looks[name] | {"linestyle": "none", "markersize": 6})
        for name, count in counts.items()
    ]


def draw_point_panel(
    axes: "Axes", panel: PointPanel, looks: StylesByName, references: StylesByName
) -> Callable[[], None]:
    """Draws a panel; what comes back sets names apart once the layout is known."""
    count = sum(len(group.x) for group in panel.groups)
    size = 24 * min(1.0, max(0.25, math.sqrt(100 / max(count, 1))))
    for group in panel.groups:
        _draw_point_group(axes, group, looks[group.label], size, panel.xlog, count > MAX_VECTOR_CURVES * 10)
    set_scales(axes, panel.xlog, False)
    beside = draw_horizontal_lines(axes, panel.horizontal, references)
    set_ticks(axes, panel.xlog, False, ())
    return lambda: separate_labels(axes, (), beside, False)


def _draw_point_group(
    axes: "Axes", group: PointGroup, look: dict[str, Any], size: float, xlog: bool, pixels: bool
) -> None:
    x, y = _nan_if_undrawable(group.x, xlog), _nan_if_undrawable(group.y, False)
    crossed = look["marker"] in ("x", "+")  # they are lines alone
    style: dict[str, Any] = {"linewidth": 1.3} if crossed else {"linewidth": 0.4, "edgecolor": "white"}
    axes.scatter(x, y, s=size, alpha=0.7, zorder=3, rasterized=pixels, label=group.label, **look | style)


REFERENCE_DASHES = ((0, (5, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))  # of reference lines that are named in the legend
MAX_LABEL_LENGTH, MAX_REPEATED_LABEL_LENGTH = (
    24,
    12,
)  # letters of a horizontal line's name, beyond which (in several panels) it is in the legend
LEADER_LENGTH = 9  # points from a panel to the names of its vertical lines
LINE_HEIGHT = 1.25 * SMALL_FONT_SIZE  # points from one line of text to the next


def choose_reference_styles(panels: Sequence[CurvePanel | PointPanel]) -> StylesByName:
    """Returns how those horizontal lines are drawn whose names are too long to be written beside them."""
    lines = [line.label for panel in panels if not panel.missing for line in panel.horizontal]
    names = dict.fromkeys(
        name
        for name in lines
        if len(name) > (MAX_LABEL_LENGTH if lines.count(name) == 1 else MAX_REPEATED_LABEL_LENGTH)
    )
    return {
        name: DASHED_LINE | {"linestyle": REFERENCE_DASHES[i % len(REFERENCE_DASHES)]} for i, name in enumerate(names)
    }


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
            axis.set_major_formatter(
                FuncFormatter(_format_power_tick if log and (low < 5e-4 or high > 2e6) else _format_tick)
            )
    if xticks:
        axes.set_xticks(xticks, [_format_tick(value, 0) for value in xticks])


def _format_tick(value: float, _position: int) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10_000 else f"{value:.10g}"


def _format_power_tick(value: float, _position: int) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10.0**power)
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{'' if factor == 1 else f'{factor}·'}10{digits}"


def vertical_label_room(panel: Panel, width: float) -> float:
    """Returns how many points the names of the vertical lines take above a panel."""
    lines = panel.vertical if isinstance(panel, CurvePanel) else ()
    if not lines:
        return 0.0
    widest = max(text_width(line.label) for line in lines)
    return LEADER_LENGTH + (LINE_HEIGHT if _labels_fit_flat(lines, width) else widest) + 2


def _labels_fit_flat(lines: Sequence[ReferenceLine], width: float) -> bool:
    return sum(text_width(line.label) + 8 for line in lines) <= width - 60


def draw_vertical_lines(axes: "Axes", lines: Sequence[ReferenceLine], width: float) -> list["Annotation"]:
    """Draws vertical lines with their names above the panel, for now each above its line."""
    flat, arrow = _labels_fit_flat(lines, width), {"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkA": 0}
    names = []
    for line in sorted(lines, key=lambda line: line.value):
        axes.axvline(line.value, color=GREY, linewidth=0.8, zorder=1, label=line.label)
        name = axes.annotate(
            line.label,
            (line.value, 1),
            (0, LEADER_LENGTH),
            axes.get_xaxis_transform(),
            "offset points",
            arrow | {"shrinkB": 0, "relpos": (0.5, 0)},
            ha="center",
            va="bottom",
            rotation=0 if flat else 90,
            fontsize=SMALL_FONT_SIZE,
        )
        names.append(name)
    return names


def draw_horizontal_lines(axes: "Axes", lines: Sequence[ReferenceLine], references: StylesByName) -> list["Annotation"]:
    """Draws horizontal lines with their names to the right of the panel, but for those that are in the legend."""
    names = []
    for line in sorted(lines, key=lambda line: line.value):
        axes.axhline(line.value, **references.get(line.label, DASHED_LINE), zorder=5, label=line.label)
        if line.label and line.label not in references:
            text, place = wrap_text(line.label, 60), ("axes fraction", "data")
            name = axes.annotate(
                text, (1, line.value), (4, 0), place, "offset points", va="center", fontsize=SMALL_FONT_SIZE
            )
            names.append(name)
    return names


def separate_labels(
    axes: "Axes", above: Sequence["Annotation"], beside: Sequence["Annotation"], own_ticks: bool
) -> None:
    """Sets names and ticks apart that are too near each other, now that the layout is known."""
    from matplotlib.ticker import MaxNLocator

    pixels = axes.figure.dpi / 72  # in a point
    inside = axes.get_window_extent()
    if above:
        widths = [name.get_window_extent().width / pixels for name in above]
        places = [axes.transData.transform((name.xy[0], 1))[0] / pixels for name in above]
        moved = spread_apart(
            places, widths, 3 if above[0].get_rotation() else 8, inside.x0 / pixels, inside.x1 / pixels
        )
        for name, old, new in zip(above, places, moved, strict=True):
            name.xyann = (new - old, LEADER_LENGTH)
    if beside:
        places = [axes.transData.transform((1, name.xy[1]))[1] / pixels for name in beside]
        heights = [LINE_HEIGHT * (1 + name.get_text().count("\n")) for name in beside]
        moved = spread_apart(places, heights, 0, inside.y0 / pixels, inside.y1 / pixels)
        for name, old, new in zip(beside, places, moved, strict=True):
            name.xyann = (4, new - old)
    ticks = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks() if tick.label1.get_text()]
    ticks = sorted((box for box in ticks if inside.x0 - 1 <= (box.x0 + box.x1) / 2 <= inside.x1 + 1), key=_left_edge)
    if any_overlap(ticks, 2 * pixels):
        if own_ticks:
            axes.tick_params(axis="x", rotation=90)
        elif axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(3))


def _left_edge(box: "Bbox") -> float:
    return box.x0
