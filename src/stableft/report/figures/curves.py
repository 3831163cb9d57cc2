"""Draw curves with bands, reference lines and points."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.report.figures.panels import STEP_AXIS, Curve, CurvePanel, Panel, PointPanel, ReferenceLine
from stableft.report.figures.style import (
    COLORMAP,
    DASHED_LINE,
    FIRST_NAN,
    GREY,
    NAN_LEFT_OUT,
    NAN_VALUE,
    PALETTE,
    LegendEntry,
    Page,
    set_hover,
)
from stableft.text import join_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


LINE_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
REFERENCE_DASHES = ((0, (5, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))
MARKERS = "os^DvPX"
MAX_NAMED_CURVES = len(PALETTE) * len(LINE_DASHES)  # number of distinguishable styles
MAX_MARKED_POINTS = 15  # curves with up to this many points are distinguished by markers
NARROW_PANEL = 2.2  # inches; narrower panels have fewer ticks
HEADROOM = 0.02  # of an axis, above the highest possible value, so that marks there are whole
MAX_NAMED_SHADES = 8  # more ordered curves have a colour bar
STEP_WIDTH, BAR_GAP = 1.5, 5.0  # points: of the lines of steps, and between the bars beside them
STRIP_COLOR = "#F4F4F4"  # behind those bars
STEP_DASH = 5.0  # line widths, of a dash where lines coincide
MANY_LINES = {"linewidth": 0.5, "alpha": 0.8}  # of ordered curves that have a colour bar; curves beside them are thin
LINE_BESIDE_MANY = 1.1
POINTS_PER_INCH = 15  # of such curves; more would make one mass of lines that cross
NARROW_BAR = 0.15  # inches of height of a colour bar above the panels
MAX_VECTOR_CURVES = 200  # panels with more curves have them as pixels in vector files; ten times as many for points

NAN_FOOT = 0.03  # height of the marks of NaN in a panel
NAN_MARK: dict[str, Any] = {"marker": "X", "linestyle": "none", "color": GREY}
BAND_STYLE: dict[str, Any] = {"marker": "s", "markersize": 8, "linestyle": "-", "color": GREY}
BAND_STYLE |= {"markerfacecolor": "#E4E4E4", "markeredgewidth": 0.7}
MEDIANS_NOTE = "Lines of many steps show the medians of neighbouring steps."
GAP_LEGEND: LegendEntry = (
    "a norm is not finite",
    {"marker": "s", "markersize": 7, "linestyle": "none", "color": "#E0E0E0"},
)

StylesByName = dict[str, dict[str, Any]]  # legend name -> style, the same in every panel


def legend_name(curve: Curve) -> str:
    return curve.legend or curve.group or curve.label


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
    few = all(panel.steps or len(curve.x) <= MAX_MARKED_POINTS for panel in panels for curve in panel.curves)
    plain = len(free) < 2 or any(curve.dashed for curve in curves)
    shades = colormaps[COLORMAP](np.linspace(0, 0.92, len(ordered)))
    barred = names_on_color_bar(panels)
    line: dict[str, Any] = MANY_LINES if barred else {"linewidth": 1.0 if len(ordered) <= MAX_NAMED_SHADES else 0.7}
    styles: StylesByName = {name: {"color": tuple(s), **line} for name, s in zip(ordered, shades, strict=True)}
    for i, name in enumerate(dict.fromkeys([*(name for name in names if name not in ordered), *free])):
        styles[name] = {"color": PALETTE[i % len(PALETTE)], "linewidth": 1.7}
        if few:
            marker = MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]  # another marker when a colour repeats
            styles[name] |= {"marker": marker, "markersize": 4}
        elif not plain:
            styles[name] |= {"linestyle": LINE_DASHES[i % len(LINE_DASHES)]}
    for curve in curves:
        line = {"linewidth": LINE_BESIDE_MANY if barred else 1.7}
        style = styles.setdefault(legend_name(curve), {"color": curve.color, **line})
        if not curve.thin and curve.group:
            style["linewidth"] = 2.2  # the mean of the thin ones
        if curve.dashed:
            style["linestyle"] = (0, (4, 2))
    return styles


def curve_legend_entries(panels: Sequence[CurvePanel], styles: StylesByName) -> list[LegendEntry]:
    """Return the legend entries of these panels, each name once, with the number of runs if known.

    Of many ordered curves, the first, the last and some in between are named, or none if they have a colour bar.
    """
    ordered = _ordered_names(panels)
    barred = names_on_color_bar(panels)
    counts: dict[str, set[int]] = {}
    for panel in (panel for panel in panels if not panel.counted):
        for name, curves in groupby(sorted(panel.curves, key=legend_name), legend_name):
            counts.setdefault(name, set()).update(_run_counts(list(curves)) if name not in ordered else ())
    left_out = ({"", *ordered} - set(thin_out_names(ordered))) | set(barred)
    shown = dict.fromkeys(legend_name(curve) for panel in panels for curve in panel.curves)
    colors: dict[str, set[str | None]] = {}
    for curve in (curve for panel in panels for curve in panel.curves):
        colors.setdefault(legend_name(curve), set()).add(curve.color)
    counted = {name: add_count(name, _n_text(counts.get(name, set()))) for name in shown if name not in left_out}
    grey = {name: {"color": GREY} if len(colors[name]) > 1 else {} for name in counted}
    entries = [(text, styles[name] | grey[name]) for name, text in counted.items()]
    nan_names = [_nan_name(p) for p in panels for c in p.curves if c.dropped or (not p.sequential and _nan_places(c))]
    left_out = any(curve.without_nan for panel in panels for curve in panel.curves)
    hollow = {"marker": "o", "markersize": 8, "linestyle": "none", "color": "white", "markeredgecolor": GREY}
    bands = dict.fromkeys(curve.band for panel in panels for curve in panel.curves if curve.band and curve.low)
    entries += [(f"line and band: {band}", BAND_STYLE) for band in bands]
    entries += [(name, NAN_MARK) for name in dict.fromkeys(nan_names)]
    entries += [(NAN_LEFT_OUT, hollow)] if left_out else []
    return [*entries, *([GAP_LEGEND] if any(map(_gaps, panels)) else [])]


def count_in_titles(panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels, with the numbers of runs in the titles if those of a name differ between panels."""
    counts: dict[str, set[int]] = {}
    in_panel: list[list[int]] = []
    for panel in panels:
        of_panel: dict[str, list[Curve]] = {}
        for curve in panel.curves if isinstance(panel, CurvePanel) and not (panel.counted or panel.sequential) else ():
            of_panel.setdefault(legend_name(curve), []).append(curve)
        of_names = {name: _run_counts(curves) for name, curves in of_panel.items()}
        for name, numbers in of_names.items():
            counts.setdefault(name, set()).update(numbers)
        in_panel.append([n for numbers in of_names.values() for n in sorted(numbers)])
    if all(len(numbers) < 2 for numbers in counts.values()):
        return list(panels)
    return [
        replace(panel, title=_title_with_counts(panel.title, numbers), counted=True)
        if isinstance(panel, CurvePanel) and numbers
        else panel
        for panel, numbers in zip(panels, in_panel, strict=True)
    ]


def _title_with_counts(title: str, numbers: Sequence[int]) -> str:
    """Return a title with these numbers of runs, in the order of the curves, or the only one."""
    text = f"n = {', '.join(map(str, numbers if len({*numbers}) > 1 else numbers[:1]))}"
    return add_count(title, text) if title else text


def _gaps(panel: CurvePanel) -> list[tuple[float, float]]:
    """Return the ranges of x between the finite values of ordered curves where one is not finite."""
    gaps: dict[tuple[float, float], None] = {}
    for curve in panel.curves if panel.sequential else ():
        finite = [x for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
        for x in (x for x, y in zip(curve.x, curve.y, strict=True) if not math.isfinite(y)):
            before = max((known for known in finite if known < x), default=x)
            gaps[before, min((known for known in finite if known > x), default=x)] = None
    return list(gaps)


def names_on_color_bar(panels: Sequence[CurvePanel]) -> list[str]:
    """Return the names of ordered curves that a colour bar shows: more than a legend can tell apart."""
    names = _ordered_names([panel for panel in panels if panel.sequential])
    return names if len(names) > MAX_NAMED_SHADES else []


def add_count(name: str, count: str) -> str:
    """Return the name with a count in brackets, which may join a note that the name ends in."""
    return name if not count else f"{name[:-1]}, {count})" if name.endswith(")") else f"{name} ({count})"


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


def _n_text(counts: set[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return "" if not counts else f"n = {low}" if low == high else f"n = {low} to {high}"


def _nan_name(panel: CurvePanel) -> str:
    return FIRST_NAN if panel.xlabel == STEP_AXIS else NAN_VALUE


def _nan_places(curve: Curve) -> list[float]:
    """Return the x of the values that are no finite numbers."""
    return [x for x, y in zip(curve.x, curve.y, strict=True) if not math.isfinite(y)]


def cut_bands_notes(panels: Sequence[CurvePanel]) -> list[str]:
    """Return a sentence on the ends of the possible ranges that bands of these panels would leave, if they do."""
    ends: dict[str, None] = {}
    for panel in panels:
        lowest, highest = panel.possible
        if lowest is not None and any(low < lowest for curve in panel.curves for low in curve.low):
            ends["0 for losses" if highest is None else f"{lowest:g} % for scores"] = None
        if highest is not None and any(high > highest for curve in panel.curves for high in curve.high):
            ends[f"{highest:g} % for scores"] = None
    return [f"Bands are cut at {join_with(list(ends))}."] if ends else []


def draw_curve_panel(
    axes: "Axes", panel: CurvePanel, styles: StylesByName, references: StylesByName, width: float, page: Page
) -> None:
    """Draw a panel that is about `width` inches wide."""
    from matplotlib.patheffects import withStroke

    thin = sum(curve.thin for curve in panel.curves)
    halo = {"path_effects": [withStroke(linewidth=3.4, foreground="white")]} if thin else {}
    faint = {"alpha": min(0.8, max(0.1, 10 / max(thin, 1))), "linewidth": 0.7, "rasterized": thin > MAX_VECTOR_CURVES}
    lowest, highest = panel.possible
    _set_scales(axes, panel.xlog, panel.ylog)
    for start, end in _gaps(panel):
        axes.axvspan(start, end, color=GAP_LEGEND[1]["color"], linewidth=0, zorder=0, label=GAP_LEGEND[0])
    if panel.steps:
        _draw_steps(axes, panel, styles, width)
    # The first curve is drawn on top, but for solid ones, which would hide the dashed ones.
    order = list(reversed(panel.curves))
    order.sort(key=lambda curve: styles[legend_name(curve)].get("linestyle", "-") != "-")
    marked: Counter[tuple[float, Any]] = Counter()
    for curve in () if panel.steps else order:
        style: dict[str, Any] = styles[legend_name(curve)] | ({"color": curve.color} if curve.color else {})
        x, y = _nan_if_undrawable(curve.x, panel.xlog), _nan_if_undrawable(curve.y, panel.ylog)
        if (size := points_per_median(panel, width)) > 1:
            x, y = _medians(x, y, size)
        if curve.low:
            low, high = (np.clip(_nan_if_undrawable(end, False), lowest, highest) for end in (curve.low, curve.high))
            shades: dict[str, Any] = {"facecolor": (style["color"], 0.12), "edgecolor": (style["color"], 0.8)}
            axes.fill_between(x, low, high, linewidth=0.7, label=curve.label, **shades)  # edges tell bands apart
        look = style | ({"zorder": 2, **faint} if curve.thin else {"zorder": 3, **halo})
        if np.isfinite(y).sum() == 1:  # a line of one point would not be seen
            look = {"marker": "o", "markersize": 4} | look
            if curve.low and curve.n and not curve.thin:
                place = {"textcoords": "offset points", "va": "center", "fontsize": page.small}
                (at,) = np.flatnonzero(np.isfinite(y))
                axes.annotate(f"n = {curve.n}", (x[at], y[at]), (5, 0), **place)
        drawn = axes.plot(x, y, **look, label=curve.label)
        set_hover(drawn[0], [curve.hover or add_count(curve.label, "" if curve.n is None else f"n = {curve.n}")])
        lost = [] if panel.sequential else _nan_places(curve)[: 1 if panel.xlabel == STEP_AXIS else None]
        marked.update((x, style["color"]) for x in (*curve.dropped, *lost))
        if curve.without_nan:
            ring = {"marker": "o", "s": 70, "facecolor": "white", "edgecolor": style["color"], "linewidth": 1.3}
            heights = [dict(zip(curve.x, curve.y, strict=True))[x] for x in curve.without_nan]
            axes.scatter(curve.without_nan, heights, zorder=look["zorder"] - 0.1, label=NAN_LEFT_OUT, **ring)
    _draw_nan_marks(axes, marked, page)
    _draw_reference_lines(axes, panel.horizontal, references)
    for line, row in zip(panel.vertical, stack_vertical_labels(panel, width, page), strict=True):
        axes.axvline(line.value, color=GREY, linewidth=0.8, zorder=1, label=line.label)
        offset = 2 + row * page.line_height * 72
        place = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": "center"}
        axes.annotate(line.label, (line.value, 1), (0, offset), fontsize=page.small, **place)
    if not panel.steps:
        axes.set_xlim(left=panel.left)
    axes.set_ylim(bottom=panel.bottom, top=panel.top)
    if panel.top is None and highest is not None and axes.get_ylim()[1] > highest:
        axes.set_ylim(top=highest + HEADROOM * (highest - axes.get_ylim()[0]))
    set_ticks(axes, width)
    set_axis_ticks(axes.xaxis, width, whole=True)  # steps, trials and runs
    if panel.steps:  # none in the strip of last values
        last = max(curve.x[-1] for curve in panel.curves)
        axes.set_xticks([x for x in axes.get_xticks() if axes.get_xlim()[0] <= x <= last])
    if panel.xticks:
        axes.set_xticks(panel.xticks, _thin_out_ticks(panel, width, page))


def _draw_nan_marks(axes: "Axes", marked: Mapping[tuple[float, Any], int], page: Page) -> None:
    """Mark each (x, colour) at the foot of a panel, with its number of runs if that is not 1."""
    foot = axes.get_xaxis_transform()
    axes.update_datalim([(x, 0.0) for x, _ in marked], updatey=False)  # a mark may be beyond the end of its mean
    axes.autoscale_view(scaley=False)
    for (x, color), runs in marked.items():
        axes.scatter([x], [NAN_FOOT], transform=foot, marker="X", color=color, s=22, zorder=6, label="NaN")
        if runs > 1:
            place = {"xycoords": foot, "textcoords": "offset points", "va": "center", "fontsize": page.small}
            axes.annotate(str(runs), (x, NAN_FOOT), (4, 0), zorder=6, **place)


def points_per_median(panel: CurvePanel, width: float) -> int:
    """Return how many neighbouring points are drawn as one, their median, in a panel about `width` inches wide."""
    longest = max((len(curve.x) for curve in panel.curves), default=0)
    return max(1, round(longest / (width * POINTS_PER_INCH))) if names_on_color_bar([panel]) else 1


def _medians(x: np.ndarray, y: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the medians of up to `size` neighbouring points each, none across a break of the line."""
    breaks = 1 + np.flatnonzero(np.diff(np.isfinite(y)))
    medians = []
    for run in np.split(np.stack([x, y]), breaks, axis=1):
        whole = run.shape[1] // size
        medians.append(np.median(run[:, : whole * size].reshape(2, whole, size), axis=2))
        if rest := run.shape[1] - whole * size:
            medians.append(np.median(run[:, -rest:], axis=1, keepdims=True))
    x, y = np.concatenate(medians, axis=1)
    return x, y


def _draw_steps(axes: "Axes", panel: CurvePanel, styles: StylesByName, width: float) -> None:
    """Draw curves as steps, and in a strip right of all of them their last values, with their bands there as bars.

    Where curves coincide, their dashes alternate.
    """
    from matplotlib.transforms import ScaledTranslation

    inch = axes.figure.dpi_scale_trans
    curves = [_after_step_0(curve) for curve in panel.curves] if panel.xlog else panel.curves
    first, last = min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves)
    for i, curve in enumerate(curves):
        style = styles[legend_name(curve)]
        look = style | {"marker": "", "linewidth": STEP_WIDTH, "zorder": 3}
        for x, y, number, count in step_parts(curve, curves):
            gap = (count - 1) * STEP_DASH
            dashes: dict[str, Any] = {"linestyle": (number * STEP_DASH, (STEP_DASH, gap)) if count > 1 else "-"}
            (line,) = axes.plot(x, y, **look | dashes, label=curve.label)
            line.set_dash_capstyle("butt")
            set_hover(line, [add_count(curve.label, "" if curve.n is None else f"n = {curve.n}")])
        place = axes.transData + ScaledTranslation(BAR_GAP * (i + 1) / 72, 0, inch)
        y, low, high = curve.y[-1], curve.low[-1], curve.high[-1]
        look = {"marker": "o", "markersize": 4} | style | {"linestyle": "none", "zorder": 4, "transform": place}
        axes.errorbar([last], [y], [[y - low], [high - y]], elinewidth=1.0, capsize=2, clip_on=False, **look)
    strip = (BAR_GAP * (len(curves) + 1) / 72) / max(width - 0.7, 0.5)  # its share of the axis
    strip /= 1 - strip
    span = math.log(last / first) if panel.xlog else last - first
    right = last * math.exp(strip * span) if panel.xlog else last + strip * span
    left = first / math.exp(0.03 * span) if panel.xlog else first - 0.03 * span
    axes.axvspan(last, right, color=STRIP_COLOR, linewidth=0, zorder=0, label="last values")
    axes.set_xlim(left, right)


def _after_step_0(curve: Curve) -> Curve:
    """Return a curve without step 0, which has no place on a logarithmic axis."""
    start = sum(x <= 0 for x in curve.x)
    return replace(curve, x=curve.x[start:], y=curve.y[start:])


def step_parts(curve: Curve, curves: Sequence[Curve]) -> Iterator[tuple[list[float], list[float], int, int]]:
    """Yield the parts of a curve's steps in which the same curves coincide with it.

    A part is x, y, the place of the curve among those and their number. A rise between two parts belongs to the later.
    There is no part for the rise to the last value, which lines that end at one step would hide from each other.
    """
    ends = [x for x in sorted({x for other in curves for x in other.x}) if curve.x[0] <= x <= curve.x[-1]]
    spans = [(start, end, _step_value(curve, start)) for start, end in pairwise(ends)]
    before: float | None = None
    for together, part in groupby(spans, lambda span: _coinciding(span, curves)):
        members = list(part)
        x, y = ([members[0][0]], [before]) if before is not None and len(together) == 1 else ([], [])
        for start, end, value in members:
            x, y = [*x, start, end], [*y, value, value]
        if before is not None and len(together) > 1 and before != y[0]:
            yield [x[0], x[0]], [before, y[0]], 0, 1
        yield x, y, next(i for i, other in enumerate(together) if curves[other] is curve), len(together)
        before = y[-1]


def _coinciding(span: tuple[float, float, float], curves: Sequence[Curve]) -> tuple[int, ...]:
    """Return the indices of the curves that have the value of a span between two steps there."""
    start, end, value = span
    within = [i for i, other in enumerate(curves) if other.x[0] <= start and end <= other.x[-1]]
    return tuple(i for i in within if _step_value(curves[i], start) == value)


def _step_value(curve: Curve, x: float) -> float:
    return curve.y[int(np.searchsorted(curve.x, x, side="right")) - 1]


def stack_vertical_labels(panel: CurvePanel, width: float, page: Page) -> list[int]:
    """Return the row above the panel, from 0, of the label of each vertical line. Labels of one row have room."""
    scale = np.log if panel.xlog else np.asarray
    ends = scale([x for curve in panel.curves for x in curve.x if x > 0 or not panel.xlog] or [1.0, 2.0])
    inches = (width - 0.7) / max(np.ptp(ends), 1e-9)
    rows: list[int] = []
    taken: list[float] = []  # right end of the last label of each row, in inches
    for line in panel.vertical:
        middle, half = inches * float(scale(line.value)), (len(line.label) + 1.5) / page.small_chars_per_inch / 2
        free = [row for row, end in enumerate(taken) if end <= middle - half]
        row = free[0] if free else len(taken)
        taken[row : row + 1] = [middle + half]
        rows.append(row)
    return rows


def _thin_out_ticks(panel: CurvePanel, width: float, page: Page) -> list[str]:
    """Return the labels of the ticks, of which some are empty if they are too long to stand side by side."""
    labels = [f"{value:,.7g}" for value in panel.xticks]
    room = (width - 0.8) * page.small_chars_per_inch
    every = max(1, math.ceil(sum(len(label) + 2 for label in labels) / max(room, 1)))
    return [label if i % every == 0 else "" for i, label in enumerate(labels)]


def color_bar_of_curves(figure: "Figure", drawn: Sequence[tuple["Axes", CurvePanel]], narrow: bool) -> None:
    """Draw the colour bar of the ordered curves of these panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    panels = [panel for _, panel in drawn]
    names = names_on_color_bar(panels)
    styles = choose_curve_styles(panels)
    shades = ListedColormap([styles[name]["color"] for name in names])
    colors = ScalarMappable(BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names)), shades)
    label = panels[0].scale_label
    thickness = min(NARROW_BAR / figure.get_figheight(), 0.15)
    above = {"location": "top", "aspect": 30, "fraction": thickness, "pad": thickness / 2}
    place: dict[str, Any] = above if narrow else {"aspect": 40, "fraction": 0.03}
    bar = figure.colorbar(colors, ax=[axes for axes, _ in drawn], label=label, **place)
    shown = thin_out_names(names)
    bar.set_ticks([names.index(name) for name in shown], labels=[name.split()[-1] for name in shown])
    bar.minorticks_off()
    bar.ax.grid(False)


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
    return [(add_count(name, f"n = {count}"), styles[name] | point) for name, count in counts.items()]


def draw_point_panel(
    axes: "Axes", panel: PointPanel, styles: StylesByName, references: StylesByName, width: float
) -> None:
    """Draw a panel that is about `width` inches wide."""
    count = sum(len(group.x) for group in panel.groups)
    size = 24 * min(1.0, max(0.25, math.sqrt(100 / max(count, 1))))
    pixels = count > MAX_VECTOR_CURVES * 10
    for group in panel.groups:
        x, y, style = _nan_if_undrawable(group.x, panel.xlog), _nan_if_undrawable(group.y, False), styles[group.label]
        crossed = style["marker"] in ("x", "+")  # these markers are lines and have no edge
        edge: dict[str, Any] = {"linewidth": 1.3} if crossed else {"linewidth": 0.4, "edgecolor": "white"}
        marks = axes.scatter(x, y, s=size, alpha=0.7, zorder=3, rasterized=pixels, label=group.label, **style | edge)
        set_hover(marks, group.runs)
    _set_scales(axes, panel.xlog, False)
    _draw_reference_lines(axes, panel.horizontal, references)
    set_ticks(axes, width)


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


def set_ticks(axes: "Axes", width: float) -> None:
    """Set round tick values on both axes, fewer in a panel that is narrow."""
    set_axis_ticks(axes.xaxis, width)
    set_axis_ticks(axes.yaxis, width)


def set_axis_ticks(axis: "Axis", width: float, whole: bool = False) -> None:
    """Set round tick values on an axis of a panel about `width` inches wide. `whole`: whole numbers, unless log."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    narrow = width < NARROW_PANEL
    low, high = axis.get_view_interval()
    log = axis.get_scale() == "log"
    if log:
        decades = math.log10(high / low)
        factors = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
        axis.set_major_locator(LogLocator(subs=factors, numticks=4 if narrow else 5 if width < 4 else 7))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(
            MaxNLocator(4 if narrow or high >= 10_000 else "auto", steps=[1, 2, 5, 10], integer=whole)
        )
    if log or high >= 10_000:
        axis.set_major_formatter("{x:,.7g}")
