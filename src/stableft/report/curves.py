"""Draws curves with their bands and reference lines, and runs as points."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.drawing import PALETTE, SHADES, Entry
from stableft.report.guides import Looks, draw_horizontal, draw_vertical, set_scales, set_ticks, settle
from stableft.report.panels import Curve, CurvePanel, PointPanel, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^DvPX"
FEW = 15  # points of a curve, up to which it is told apart by its markers
MANY = 200  # curves or points of a panel, beyond which they are pixels in a vector file


def legend_name(curve: Curve) -> str:
    return curve.group or curve.label


def curve_looks(panels: Sequence[CurvePanel]) -> Looks:
    """Returns how every curve is drawn: by its own colour, in shades where curves are ordered, or by the palette.

    What the palette colours also differs in markers or dashes, for those who see it in grey.
    """
    ordered = [legend_name(c) for panel in panels if panel.sequential for c in panel.curves if c.color is None]
    ordered = list(dict.fromkeys(ordered))
    curves = [curve for panel in panels for curve in panel.curves]
    free = dict.fromkeys(name for c in curves if c.color is None and (name := legend_name(c)) not in ordered)
    few = all(len(curve.x) <= FEW for curve in curves)
    plain = len(free) < 2 or any(curve.dashed for curve in curves)
    looks = dict(zip(ordered, ({"color": shade, "linewidth": 1.0} for shade in _shades(len(ordered))), strict=True))
    for i, name in enumerate(free):
        looks[name] = {"color": PALETTE[i % len(PALETTE)], "linewidth": 1.7}
        if few:
            marker = MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]  # another one where a colour comes again
            looks[name] |= {"marker": marker, "markersize": 4}
        elif not plain:
            looks[name] |= {"linestyle": DASHES[i % len(DASHES)]}
    for curve in curves:
        look = looks.setdefault(legend_name(curve), {"color": curve.color, "linewidth": 1.7})
        if not curve.thin and curve.group:
            look["linewidth"] = 2.2  # the mean of the thin ones
        if curve.dashed:
            look["linestyle"] = (0, (4, 2))
    return looks


def _shades(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    return [tuple(shade) for shade in colormaps[SHADES](np.linspace(0, 0.92, count))]


def curve_entries(panels: Sequence[CurvePanel], looks: Looks) -> list[Entry]:
    """Returns the legend of these panels, each name once, with the number of runs where it is known.

    Of many ordered curves the first, the last and some between them are named.
    """
    drawn = [panel for panel in panels if not panel.missing]
    ordered = [legend_name(c) for panel in drawn if panel.sequential for c in panel.curves if c.color is None]
    ordered = list(dict.fromkeys(ordered))
    names: dict[str, set[int]] = {}
    for panel in drawn:
        for name, curves in groupby(sorted(panel.curves, key=legend_name), legend_name):
            names.setdefault(name, set()).update(_counts(list(curves)) if name not in ordered else ())
    left_out = {"", *ordered} - set(some_of(ordered))
    shown = dict.fromkeys(legend_name(curve) for panel in drawn for curve in panel.curves)
    return [(f"{name}{_of(names[name])}", looks[name]) for name in shown if name not in left_out]


def _counts(curves: Sequence[Curve]) -> set[int]:
    """Returns how many runs are behind the curves of one name: thin ones are a run each, if nothing sums them up."""
    if any(curve.group for curve in curves):
        return {len(curves)} if all(curve.thin for curve in curves) else set()
    return {curve.n for curve in curves if curve.n is not None}


def some_of(names: Sequence[str]) -> Sequence[str]:
    """Returns all names, or of many ordered ones the first, the last and some between them."""
    every = math.ceil(len(names) / 7) if len(names) > 8 else 1
    return [*names[: -every or None : every], *names[-1:]] if every > 1 else names


def _of(counts: set[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return "" if not counts else f" (n = {low})" if low == high else f" (n = {low} to {high})"


def draw_curves(axes: "Axes", panel: CurvePanel, looks: Looks, references: Looks, width: float) -> Callable[[], None]:
    """Draws a panel of about so many points' width; what comes back sets names apart once the layout is known."""
    from matplotlib.patheffects import withStroke

    thin = sum(curve.thin for curve in panel.curves)
    halo = {"path_effects": [withStroke(linewidth=3.4, foreground="white")]} if thin else {}
    faint = {"alpha": min(0.8, max(0.1, 10 / max(thin, 1))), "linewidth": 0.7, "rasterized": thin > MANY}
    for curve in reversed(panel.curves):  # the first one on top
        look = looks[legend_name(curve)]
        x, y = _drawable(curve.x, panel.xlog), _drawable(curve.y, panel.ylog)
        if curve.low:
            low, high = _drawable(curve.low, False), _drawable(curve.high, False)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0, label=curve.label)
        axes.plot(x, y, **look | ({"zorder": 2, **faint} if curve.thin else {"zorder": 3, **halo}), label=curve.label)
    set_scales(axes, panel.xlog, panel.ylog)
    names = [*draw_vertical(axes, panel.vertical, width)]
    beside = draw_horizontal(axes, panel.horizontal, references)
    axes.set_xlim(left=panel.left)
    axes.set_ylim(bottom=panel.bottom, top=panel.top)
    set_ticks(axes, panel.xlog, panel.ylog, panel.xticks)
    return lambda: settle(axes, names, beside, bool(panel.xticks))


def _drawable(values: Sequence[float], log: bool) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def point_looks(panels: Sequence[PointPanel]) -> Looks:
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


def point_entries(panels: Sequence[PointPanel], looks: Looks) -> list[Entry]:
    """Returns the legend of these panels, each name once, with its number of points in all panels."""
    drawn = [panel for panel in panels if not panel.missing]
    counts: dict[str, int] = {}
    for group in (group for panel in drawn for group in panel.groups if group.label):
        counts[group.label] = counts.get(group.label, 0) + len(group.x)
    return [
        (f"{name} (n = {count})", looks[name] | {"linestyle": "none", "markersize": 6})
        for name, count in counts.items()
    ]


def draw_points(axes: "Axes", panel: PointPanel, looks: Looks, references: Looks) -> Callable[[], None]:
    """Draws a panel; what comes back sets names apart once the layout is known."""
    count = sum(len(group.x) for group in panel.groups)
    size = 24 * min(1.0, max(0.25, math.sqrt(100 / max(count, 1))))
    for group in panel.groups:
        _points(axes, group, looks[group.label], size, panel.xlog, count > MANY * 10)
    set_scales(axes, panel.xlog, False)
    beside = draw_horizontal(axes, panel.horizontal, references)
    set_ticks(axes, panel.xlog, False, ())
    return lambda: settle(axes, (), beside, False)


def _points(axes: "Axes", group: Points, look: dict[str, Any], size: float, xlog: bool, pixels: bool) -> None:
    x, y = _drawable(group.x, xlog), _drawable(group.y, False)
    crossed = look["marker"] in ("x", "+")  # they are lines alone
    style: dict[str, Any] = {"linewidth": 1.3} if crossed else {"linewidth": 0.4, "edgecolor": "white"}
    axes.scatter(x, y, s=size, alpha=0.7, zorder=3, rasterized=pixels, label=group.label, **look | style)
