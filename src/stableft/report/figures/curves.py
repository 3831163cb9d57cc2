"""Draw curves with bands, reference lines and points."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import Curve, CurvePanel, PointPanel, ReferenceLine
from stableft.report.figures.style import (
    COLORMAP,
    DASHED_LINE,
    GREY,
    PALETTE,
    SMALL_CHARS_PER_INCH,
    LegendEntry,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LINE_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
REFERENCE_DASHES = ((0, (5, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))
MARKERS = "os^DvPX"
MAX_NAMED_CURVES = len(PALETTE) * len(LINE_DASHES)  # number of distinguishable styles
MAX_MARKED_POINTS = 15  # curves with up to this many points are distinguished by markers
MAX_VECTOR_CURVES = 200  # panels with more curves have them as pixels in vector files; ten times as many for points

StylesByName = dict[str, dict[str, Any]]  # legend name -> style, the same in every panel


def legend_name(curve: Curve) -> str:
    return curve.group or curve.label


def _ordered_names(panels: Sequence[CurvePanel]) -> list[str]:
    """Return the names drawn in shades of the colour map: of ordered curves, or all if they exceed the palette."""
    names = dict.fromkeys(legend_name(curve) for panel in panels for curve in panel.curves if curve.color is None)
    if len(names) > MAX_NAMED_CURVES:
        return list(names)
    ordered = {legend_name(curve) for panel in panels if panel.sequential for curve in panel.curves}
    return [name for name in names if name in ordered]


def choose_curve_styles(panels: Sequence[CurvePanel], names: Sequence[str] = ()) -> StylesByName:
    """Return the styles of all curves: in their own colours, in shades if they are ordered, or from the palette.

    Curves from the palette also differ in markers or dashes, so that they can be distinguished in greyscale. Each of
    `names` has its place in the palette whether it is drawn or not: an arm without runs changes no other arm's colour.
    """
    from matplotlib import colormaps

    ordered = _ordered_names(panels)
    curves = [curve for panel in panels for curve in panel.curves]
    free = dict.fromkeys(name for c in curves if c.color is None and (name := legend_name(c)) not in ordered)
    few = all(len(curve.x) <= MAX_MARKED_POINTS for curve in curves)
    plain = len(free) < 2 or any(curve.dashed for curve in curves)
    shades = colormaps[COLORMAP](np.linspace(0, 0.92, len(ordered)))
    styles = {name: {"color": tuple(shade), "linewidth": 1.0} for name, shade in zip(ordered, shades, strict=True)}
    for i, name in enumerate(dict.fromkeys([*(name for name in names if name not in ordered), *free])):
        styles[name] = {"color": PALETTE[i % len(PALETTE)], "linewidth": 1.7}
        if few:
            marker = MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]  # another marker when a colour repeats
            styles[name] |= {"marker": marker, "markersize": 4}
        elif not plain:
            styles[name] |= {"linestyle": LINE_DASHES[i % len(LINE_DASHES)]}
    for curve in curves:
        style = styles.setdefault(legend_name(curve), {"color": curve.color, "linewidth": 1.7})
        if not curve.thin and curve.group:
            style["linewidth"] = 2.2  # the mean of the thin ones
        if curve.dashed:
            style["linestyle"] = (0, (4, 2))
    return styles


def curve_legend_entries(panels: Sequence[CurvePanel], styles: StylesByName) -> list[LegendEntry]:
    """Return the legend entries of these panels, each name once, with the number of runs if known.

    Of many ordered curves, the first, the last and some in between are named.
    """
    ordered = _ordered_names(panels)
    counts: dict[str, set[int]] = {}
    for panel in panels:
        for name, curves in groupby(sorted(panel.curves, key=legend_name), legend_name):
            counts.setdefault(name, set()).update(_run_counts(list(curves)) if name not in ordered else ())
    left_out = {"", *ordered} - set(thin_out_names(ordered))
    shown = dict.fromkeys(legend_name(curve) for panel in panels for curve in panel.curves)
    return [(f"{name}{_n_suffix(counts[name])}", styles[name]) for name in shown if name not in left_out]


def _run_counts(curves: Sequence[Curve]) -> set[int]:
    """Return the numbers of runs of the curves with one name. Thin curves are one run each.

    Empty if the curves' mean has the same name.
    """
    if any(curve.group for curve in curves):
        return {len(curves)} if all(curve.thin for curve in curves) else set()
    return {curve.n for curve in curves if curve.n is not None}


def thin_out_names(names: Sequence[str]) -> Sequence[str]:
    """Return all names if they are few, else the first, the last and some in between."""
    every = math.ceil(len(names) / 7) if len(names) > 8 else 1
    return [*names[: -every or None : every], *names[-1:]] if every > 1 else names


def _n_suffix(counts: set[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return "" if not counts else f" (n = {low})" if low == high else f" (n = {low} to {high})"


def draw_curve_panel(
    axes: "Axes", panel: CurvePanel, styles: StylesByName, references: StylesByName, width: float
) -> None:
    """Draw a panel that is about `width` inches wide."""
    from matplotlib.patheffects import withStroke

    thin = sum(curve.thin for curve in panel.curves)
    halo = {"path_effects": [withStroke(linewidth=3.4, foreground="white")]} if thin else {}
    faint = {"alpha": min(0.8, max(0.1, 10 / max(thin, 1))), "linewidth": 0.7, "rasterized": thin > MAX_VECTOR_CURVES}
    _set_scales(axes, panel.xlog, panel.ylog)
    for curve in reversed(panel.curves):  # the first curve is drawn on top
        style = styles[legend_name(curve)]
        x, y = _nan_if_undrawable(curve.x, panel.xlog), _nan_if_undrawable(curve.y, panel.ylog)
        if curve.low:
            low, high = _nan_if_undrawable(curve.low, False), _nan_if_undrawable(curve.high, False)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0, label=curve.label)
        axes.plot(x, y, **style | ({"zorder": 2, **faint} if curve.thin else {"zorder": 3, **halo}), label=curve.label)
    _draw_reference_lines(axes, panel.horizontal, references)
    if panel.vertical:  # labelled by ticks above the panel
        for line in panel.vertical:
            axes.axvline(line.value, color=GREY, linewidth=0.8, zorder=1, label=line.label)
        names = {"labels": [line.label for line in panel.vertical], "rotation": 90}
        above = axes.secondary_xaxis("top")
        above.set_ticks([line.value for line in panel.vertical], **names)
        above.minorticks_off()
        above.spines["top"].set_visible(False)
    axes.set_xlim(left=panel.left)
    axes.set_ylim(bottom=panel.bottom, top=panel.top)
    _set_ticks(axes, panel.xlog, panel.ylog)
    if panel.xticks:
        labels = [f"{value:,.7g}" for value in panel.xticks]
        upright = len(" ".join(labels)) > (width - 0.8) * SMALL_CHARS_PER_INCH
        axes.set_xticks(panel.xticks, labels, rotation=90 if upright else 0)


def _nan_if_undrawable(values: Sequence[float], log: bool) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def choose_point_styles(panels: Sequence[PointPanel], names: Sequence[str] = ()) -> StylesByName:
    """Return the styles of all groups of points: their own colours and markers, or those of the palette.

    `names` is as in `choose_curve_styles`.
    """
    groups = {group.label: group for panel in panels for group in panel.groups}
    alike = len(groups) > 1 and {group.marker for group in groups.values()} == {"o"}
    places = {name: i for i, name in enumerate(dict.fromkeys([*names, *groups]))}
    return {
        name: {
            "color": group.color or PALETTE[places[name] % len(PALETTE)],
            "marker": MARKERS[places[name] % len(MARKERS)] if alike else group.marker,
        }
        for name, group in groups.items()
    }


def point_legend_entries(panels: Sequence[PointPanel], styles: StylesByName) -> list[LegendEntry]:
    """Return the legend entries of these panels, each name once, with its number of points in all panels."""
    counts: dict[str, int] = {}
    for group in (group for panel in panels for group in panel.groups if group.label):
        counts[group.label] = counts.get(group.label, 0) + len(group.x)
    point = {"linestyle": "none", "markersize": 6}
    return [(f"{name} (n = {count})", styles[name] | point) for name, count in counts.items()]


def draw_point_panel(axes: "Axes", panel: PointPanel, styles: StylesByName, references: StylesByName) -> None:
    count = sum(len(group.x) for group in panel.groups)
    size = 24 * min(1.0, max(0.25, math.sqrt(100 / max(count, 1))))
    pixels = count > MAX_VECTOR_CURVES * 10
    for group in panel.groups:
        x, y, style = _nan_if_undrawable(group.x, panel.xlog), _nan_if_undrawable(group.y, False), styles[group.label]
        crossed = style["marker"] in ("x", "+")  # these markers are lines and have no edge
        edge: dict[str, Any] = {"linewidth": 1.3} if crossed else {"linewidth": 0.4, "edgecolor": "white"}
        axes.scatter(x, y, s=size, alpha=0.7, zorder=3, rasterized=pixels, label=group.label, **style | edge)
    _set_scales(axes, panel.xlog, False)
    _draw_reference_lines(axes, panel.horizontal, references)
    _set_ticks(axes, panel.xlog, False)


def choose_reference_styles(panels: Sequence[CurvePanel | PointPanel]) -> StylesByName:
    """Return the styles of the labelled horizontal lines."""
    names = dict.fromkeys(line.label for panel in panels for line in panel.horizontal if line.label)
    return {
        name: DASHED_LINE | {"linestyle": REFERENCE_DASHES[i % len(REFERENCE_DASHES)]} for i, name in enumerate(names)
    }


def _draw_reference_lines(axes: "Axes", lines: Sequence[ReferenceLine], references: StylesByName) -> None:
    for line in lines:
        axes.axhline(line.value, **references.get(line.label, DASHED_LINE), zorder=5, label=line.label)


def _set_scales(axes: "Axes", xlog: bool, ylog: bool) -> None:
    axes.set_xscale("log" if xlog else "linear")
    axes.set_yscale("log" if ylog else "linear")  # non-positive ends of a band are clipped


def _set_ticks(axes: "Axes", xlog: bool, ylog: bool) -> None:
    """Set round tick values on both axes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    for log, axis, (low, high) in ((xlog, axes.xaxis, axes.get_xlim()), (ylog, axes.yaxis, axes.get_ylim())):
        if log:
            decades = math.log10(high / low)
            factors = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
            axis.set_major_locator(LogLocator(subs=factors, numticks=7))
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_locator(MaxNLocator("auto" if high < 10_000 else 4, steps=[1, 2, 5, 10]))
        if log or high >= 10_000:
            axis.set_major_formatter("{x:,.7g}")
