"""Draw the scores of groups of runs: a point for every run, a box for each mode of a group, baselines as lines."""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stableft.records.failure import NOISE_QUANTILE
from stableft.report.figures.cut_axis import FOOT_SHARE, MAX_TICKS, ScoreAxis, apply_score_axis, choose_score_axis
from stableft.report.figures.panels import Box, BoxPanel
from stableft.report.figures.style import (
    DASHED_LINE,
    FAILED_STYLE,
    GREY,
    NAN_SCORE,
    RUN_STYLES,
    LegendEntry,
    Page,
    RunStyle,
    choose_run_style,
    set_hover,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Inches at 9-point type: beside columns, for the y axis with its label and the baseline's value; below rows.
AXIS_ROOM, AXIS_BELOW = 0.95, 0.75
MIN_PLOT_WIDTH, MIN_PLOT_HEIGHT = 1.05, 0.85  # inches beside the names of rows, and of all rows, at 9-point type
MIN_COLUMN, MIN_ROW = 0.34, 0.19  # inches for a group, at 9-point type
ROW_HEIGHTS = ((6, 0.36), (10, 0.27))  # (up to so many rows, inches of a row at 9-point type); with more, MIN_ROW
MAX_COLUMN_ROWS = 3  # rows of panels whose groups are columns; more would not fit on a page
MAX_NAME_LINES, MAX_NAME_SHARE = 4, 0.42  # of names below columns; share of a panel's width beside rows
NAMED_ONCE_SHARE = 0.2  # of a page's width, for names beside a whole row of panels
MANY_PANELS = 6  # more stand up to five a row, if their names stand once
HALF_BOX = 0.34  # half the width of a box, where groups are 1 apart
MIN_BOX_RUNS = 5  # of a mode; fewer have a line at their median only
# A gap over these shares of a group's range and of the axis separates two modes of at least so many runs each.
MODE_GAP_SHARE, MODE_AXIS_SHARE, MIN_MODE_RUNS = 0.5, 0.2, 3
FEW_TICKS = 3  # on the score axis of a narrow panel
SWARM_BINS = 40  # per axis: runs within one bin stand beside each other
# Numbers of points per group above which they shrink, and above which vector files hold them as pixels.
SHRINK_POINTS_ABOVE, RASTERIZE_POINTS_ABOVE = 60, 1000
# Of shaded boxes, far from the colours of failed and successful runs. Shades differ in lightness.
SHADED_HUE = "#00794F"
LIGHTEST, DARKEST = 0.15, 0.5  # shares of the colour in a box; the rest is white
PLAIN_SHADE = ("#F3F3F3", GREY)
NAN_STYLE: dict[str, Any] = {"marker": "X", "color": "white", "edgecolor": FAILED_STYLE.color}
STAR = "★"
WHISKER_LENGTH = 1.5  # at most, in lengths of the box
BOX_NOTE = (
    f"Bar: median; box: quartiles, from {MIN_BOX_RUNS} runs on; "
    f"whiskers: to the last run within {WHISKER_LENGTH:g} box lengths."
)
MODES_NOTE = "Failed and other runs have boxes of their own, and so have both sides of a gap that a box would span."
FAILED_ABOVE_NOTE = "Crosses above the baseline failed by their last checkpoint's reported score."
ROUNDING = 0.01  # percent; a printed score may be rounded up from the baseline's
MAX_NOISE = 20.0  # percent, of a correlation that failed: that of 68 rows
CORRELATION_NOTE = f"By MCC and correlations runs fail up to {NOISE_QUANTILE}/√n, for n rows."


class BoxLayout(NamedTuple):
    """The number of panels per row of the figure, and how the groups of a panel are arranged.

    `rows`: groups are rows with names beside them, in up to `name_width` inches. Otherwise they are columns, `spacing`
    inches apart.
    """

    per_row: int
    rows: bool
    spacing: float
    name_width: float = 0.0


def choose_box_layout(panels: Sequence[BoxPanel], count: int, page: Page) -> BoxLayout:
    """Return the layout of these panels in a figure of `count` panels.

    Groups are columns, as in the papers, where the names have room below them. No name is ever turned.
    """
    most = max(1, *(len(panel.boxes) for panel in panels))
    labels = [_column_label(box, panel, 0, page) for panel in panels for box in panel.boxes]
    longest = max((len(line) for label in labels for line in label.split("\n")), default=1)
    sizes = [size for size in (3, 2, 1) if size <= count and (count % size == 0 or count > max(4, size))]
    for size in sizes:
        spacing = (page.width / size - AXIS_ROOM * page.scale) / most
        names = [wrap_text(box.label, spacing, page.small_chars_per_inch) for panel in panels for box in panel.boxes]
        fits = spacing >= max(MIN_COLUMN * page.scale, (longest + 0.5) / page.small_chars_per_inch)
        fits = fits and count <= MAX_COLUMN_ROWS * size
        if fits and max(name.count("\n") for name in [*names, ""]) < MAX_NAME_LINES:
            return BoxLayout(size, False, spacing)
    once = len({tuple(box.label for box in panel.boxes) for panel in panels}) == 1  # names of a whole row of panels
    wide = [size for size in (5, 4) if once and count > max(size, MANY_PANELS)]
    layouts = [
        BoxLayout(size, True, 0.0, max(MAX_NAME_SHARE * page.width / size, NAMED_ONCE_SHARE * page.width * once))
        for size in [*wide, *sizes]
    ]
    return next(
        (one for one in layouts if _plot_width(panels, one, once, page) >= MIN_PLOT_WIDTH * page.scale), layouts[-1]
    )


def _plot_width(panels: Sequence[BoxPanel], layout: BoxLayout, once: bool, page: Page) -> float:
    """Return the inches that the rows of a panel have beside their names and counts."""
    boxes = [(box, panel) for panel in panels for box in panel.boxes]
    names = [line for box, panel in boxes for line in _row_name(box, panel, layout, page).split("\n")]
    beside, counts = (
        (max(map(len, texts), default=0) + 3) / page.small_chars_per_inch
        for texts in (names, [_counts(box) for box, _ in boxes])
    )
    return (page.width - beside * (1 if once else layout.per_row)) / layout.per_row - counts


def _counts(box: Box) -> str:
    """Return failed of known runs, or the number of runs if no verdict is known."""
    return box.n_failed if "/" in box.n_failed else f"n = {box.n}"


def _name(box: Box, panel: BoxPanel) -> str:
    return f"{STAR} {box.label}" if box.label == panel.star else box.label


def _column_label(box: Box, panel: BoxPanel, inches: float, page: Page) -> str:
    counts = _counts(box)
    lines = f"{_name(box, panel)}\n{counts}{' failed' if '/' in counts else ''}"
    return wrap_text(lines, inches, page.small_chars_per_inch)


def _row_name(box: Box, panel: BoxPanel, layout: BoxLayout, page: Page) -> str:
    return wrap_text(_name(box, panel), layout.name_width, page.small_chars_per_inch)


def box_panel_height(panel: BoxPanel, layout: BoxLayout, rows: int, page: Page) -> float:
    """Return the height in inches of a panel without its title, in a figure of so many rows of panels."""
    if layout.rows:
        return AXIS_BELOW * page.scale + max(MIN_PLOT_HEIGHT * page.scale, sum(_row_heights(panel, layout, rows, page)))
    labels = [_column_label(box, panel, layout.spacing, page) for box in panel.boxes]
    below = page.line_height * max((1 + label.count("\n") for label in labels), default=0)
    return below + page.scale * (2.6 if rows <= 2 else 1.8) + page.line_height * bool(panel.names_label)


def _row_heights(panel: BoxPanel, layout: BoxLayout, rows: int, page: Page) -> list[float]:
    count = len(panel.boxes)
    roomy = next((inches for most, inches in ROW_HEIGHTS if count <= most), MIN_ROW)
    height = page.scale * (MIN_ROW if rows > 2 and count > ROW_HEIGHTS[0][0] else roomy)
    lines = max((1 + _row_name(box, panel, layout, page).count("\n") for box in panel.boxes), default=1)
    return [max(height, page.line_height * lines)] * count


def box_score_axis(shared: Sequence[BoxPanel]) -> ScoreAxis:
    """Return the score axis of panels that share it."""
    boxes = [box for panel in shared for box in panel.boxes]
    scores = [score for box in boxes for score in box.scores]
    baselines = [box.baseline for box in boxes if box.baseline is not None]
    return choose_score_axis(scores, baselines, foot=any(box.n_nan for box in boxes))


def has_names_of(panel: BoxPanel, left: object) -> bool:
    """Return whether the panel on the left has the names of this one's boxes."""
    named = [_name(box, panel) for box in panel.boxes]
    return isinstance(left, BoxPanel) and not left.missing and [_name(box, left) for box in left.boxes] == named


def draw_box_panel(
    axes: "Axes", panel: BoxPanel, layout: BoxLayout, page: Page, shared: Sequence[BoxPanel], with_names: bool
) -> None:
    """Draw a panel. `shared` are the panels that have its score axis, itself included."""
    score_axis = box_score_axis(shared)
    ticks = FEW_TICKS if layout.rows and layout.per_row > 3 else MAX_TICKS
    apply_score_axis(axes, score_axis, layout.rows, page.small, ticks)
    scale = page.scale * (min(1.0, layout.spacing / 0.5) if not layout.rows else 0.75 if len(panel.boxes) > 10 else 0.9)
    shades = list(dict.fromkeys(box.shade for other in shared for box in other.boxes if box.shade))
    for position, box in enumerate(panel.boxes):
        places = score_axis.forward(np.array(box.scores)) if box.scores else np.array([])
        _draw_modes(axes, position, box, layout.rows, _shade_colors(box.shade, shades), score_axis.shown)
        _draw_runs(axes, position, box, places, layout.rows, scale)
    _draw_baselines(axes, panel.boxes, layout.rows, page)
    _draw_dividers(axes, panel.boxes, layout.rows)
    if layout.rows:
        names = [_row_name(box, panel, layout, page) if with_names else "" for box in panel.boxes]
        axes.set_yticks(range(len(panel.boxes)), names)
        axes.set_ylim(len(panel.boxes) - 0.4, -0.6)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": page.small}
        for position, box in enumerate(panel.boxes):
            place = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
            axes.annotate(_counts(box), (1, position), (3, 0), **place, **beside)
        if any("/" in box.n_failed for box in panel.boxes):
            axes.annotate("failed", (1, 1), (3, 1), xycoords="axes fraction", va="bottom", **beside)
    else:
        labels = [_column_label(box, panel, layout.spacing, page) for box in panel.boxes]
        axes.set_xticks(range(len(panel.boxes)), labels)
        axes.set_xlim(-0.5, len(panel.boxes) - 0.5)
    axes.tick_params(axis="y" if layout.rows else "x", length=0)


def split_modes(scores: Sequence[float], failed: Sequence[bool | None], shown: float = 0.0) -> list[list[float]]:
    """Return the sorted scores of each mode of a group: of the failed and the other runs, or on both sides of a gap.

    One box over both would span a range where no run scored; where it and its whiskers end at the gap, the runs on the
    other side of it are no more than outliers. `shown` is the range of scores on the axis.
    """
    values = sorted(scores)
    lost = [score for score, verdict in zip(scores, failed, strict=True) if verdict]
    kept = [score for score, verdict in zip(scores, failed, strict=True) if not verdict]
    if lost and kept and max(lost) < min(kept):
        return [sorted(lost), sorted(kept)]
    gaps = [(after - before, i) for i, (before, after) in enumerate(pairwise(values), 1)]
    gap, i = max(gaps, default=(0.0, 0))
    wide = gap > max(MODE_GAP_SHARE * (values[-1] - values[0]), MODE_AXIS_SHARE * shown) if values else False
    if wide and MIN_MODE_RUNS <= i <= len(values) - MIN_MODE_RUNS:
        low, high = _whiskers(values)
        if low < values[i] and high > values[i - 1]:
            return [values[:i], values[i:]]
    return [values] if values else []


def _whiskers(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest value that are within 1.5 box lengths of the box."""
    low, high = np.percentile(values, [25, 75])
    reach = WHISKER_LENGTH * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    return min(inside), max(inside)


def _shade_colors(shade: str, shades: Sequence[str]) -> tuple[Any, Any]:
    """Return the colours of the inside and the edge of boxes of one of these shades, or of boxes without a shade."""
    from matplotlib.colors import to_rgb

    if not shade:
        return PLAIN_SHADE
    share = float(np.linspace(LIGHTEST, DARKEST, max(len(shades), 2))[shades.index(shade)])
    return tuple(1 - share * (1 - part) for part in to_rgb(SHADED_HUE)), SHADED_HUE


def _draw_modes(axes: "Axes", position: int, box: Box, rows: bool, colors: tuple[Any, Any], shown: float) -> None:
    face, edge = colors
    for mode in split_modes(box.scores, box.failed, shown):
        median = float(np.median(mode))
        if len(mode) >= MIN_BOX_RUNS:
            axes.boxplot(
                [mode],
                positions=[position],
                widths=2 * HALF_BOX,
                orientation="horizontal" if rows else "vertical",
                showfliers=False,  # every run is drawn as a point
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": face, "edgecolor": edge, "linewidth": 0.8},
                medianprops={"color": "black", "linewidth": 1.4, "zorder": 6},
                whiskerprops={"color": edge, "linewidth": 0.8},
                capprops={"color": edge, "linewidth": 0.8},
            )
        elif len(mode) > 1:
            ends = (position - HALF_BOX, position + HALF_BOX)
            (axes.vlines if rows else axes.hlines)(median, *ends, color="black", linewidth=1.4, zorder=6)


def _swarm(places: np.ndarray) -> np.ndarray:
    """Return offsets from the middle of a group, from -1 to 1, so that runs with like scores stand side by side.

    `places` are those on the score axis, from 0 to 1. The fuller a bin, the wider it is, up to the width of the group.
    """
    offsets = np.zeros(len(places))
    bins = np.floor(places * SWARM_BINS).astype(int)
    step = min(0.24, 2 / max(np.bincount(bins - bins.min()).max(), 1)) if len(places) else 0.0
    for number in np.unique(bins):
        (members,) = np.nonzero(bins == number)
        order = members[np.argsort(places[members], kind="stable")]
        ranks = np.arange(len(order))
        sides = np.where(ranks % 2, (ranks + 1) // 2, -(ranks // 2))  # 0, 1, -1, 2, -2, ...
        shift = 0.0 if len(order) % 2 else -0.5
        offsets[order] = (sides + shift) * step
    return np.clip(offsets, -1, 1)


def _draw_runs(axes: "Axes", position: int, box: Box, places: np.ndarray, rows: bool, scale: float) -> None:
    across = position + 0.4 * _swarm(places)
    titles = box.runs or tuple(f"{box.label}: {score:.2f}" for score in box.scores)
    styles = [choose_run_style(failed) for failed in box.failed]
    for kind in RUN_STYLES:
        chosen = [i for i, style in enumerate(styles) if style is kind]
        if not chosen:
            continue
        along, beside = [box.scores[i] for i in chosen], [float(across[i]) for i in chosen]
        marks = axes.scatter(
            *((along, beside) if rows else (beside, along)),
            zorder=5,
            label=kind.name,
            rasterized=len(styles) > RASTERIZE_POINTS_ABOVE,
            **_run_marker(kind, scale, len(styles)),
        )
        set_hover(marks, [titles[i] for i in chosen])
    if box.n_nan:
        beside = [position + 0.4 * (i - (box.n_nan - 1) / 2) * min(0.24, 2 / box.n_nan) for i in range(box.n_nan)]
        foot = [FOOT_SHARE / 3] * box.n_nan
        transform = axes.get_yaxis_transform() if rows else axes.get_xaxis_transform()
        pair = (foot, beside) if rows else (beside, foot)
        style: dict[str, Any] = NAN_STYLE | {"s": 26 * scale, "linewidth": 0.9}
        marks = axes.scatter(*pair, transform=transform, zorder=5, label="NaN", **style)
        set_hover(marks, [f"{box.label}: NaN"] * box.n_nan)


def _run_marker(kind: RunStyle, scale: float, runs: int) -> dict[str, Any]:
    """Return the scatter style of a run. The more runs a box has, the smaller and more transparent they are."""
    thin = min(1.0, math.sqrt(SHRINK_POINTS_ABOVE / runs))
    drawn = {"marker": kind.marker, "color": kind.color}
    if kind is FAILED_STYLE:
        return drawn | {"alpha": max(0.3, thin), "s": max(5, 20 * thin * scale), "linewidth": max(0.5, 1.1 * thin)}
    return drawn | {"alpha": max(0.1, 0.75 * thin), "s": max(2.5, 14 * thin * scale), "linewidth": 0}


def _draw_baselines(axes: "Axes", boxes: Sequence[Box], rows: bool, page: Page) -> None:
    """Draw the baseline across the panel, or across each box if the baselines differ."""
    known = {position: box.baseline for position, box in enumerate(boxes) if box.baseline is not None}
    if len(set(known.values())) == 1:
        value = next(iter(known.values()))
        (axes.axvline if rows else axes.axhline)(value, **DASHED_LINE, zorder=2, label="baseline")
        place: dict[str, Any] = {"textcoords": "offset points", "fontsize": page.small}
        if rows:
            axes.annotate(f"{value:.1f}", (value, 1), (0, 1), xycoords=axes.get_xaxis_transform(), ha="center", **place)
        else:
            axes.annotate(f"{value:.1f}", (1, value), (3, 0), xycoords=axes.get_yaxis_transform(), va="center", **place)
        return
    for position, value in known.items():
        draw = axes.vlines if rows else axes.hlines
        draw(value, position - 0.45, position + 0.45, **DASHED_LINE, zorder=2, label="baseline")


def _draw_dividers(axes: "Axes", boxes: Sequence[Box], rows: bool) -> None:
    """Draw a line between blocks of boxes."""
    sizes = [len(list(members)) for _, members in groupby(boxes, key=lambda box: box.block)]
    for end in np.cumsum(sizes)[:-1]:
        (axes.axhline if rows else axes.axvline)(float(end) - 0.5, color="#999999", linewidth=0.8, zorder=1)


def why_failed_above(panels: Sequence[BoxPanel]) -> dict[str, bool]:
    """Return the notes on failed runs above the baseline, and whether there are any that each explains."""
    above = [
        (box.baseline, score)
        for panel in panels
        for box in panel.boxes
        for score, failed in zip(box.scores, box.failed, strict=True)
        if failed and box.baseline is not None and not box.lower_is_better and score > box.baseline + ROUNDING
    ]
    noise = [line == 0 and score < MAX_NOISE for line, score in above]  # the best correlation of a constant is 0
    return {FAILED_ABOVE_NOTE: not all(noise), CORRELATION_NOTE: any(noise)}


def box_legend_entries(panels: Sequence[BoxPanel]) -> list[LegendEntry]:
    """Return the legend entries of these panels: the run styles, the shades, the star and the baseline."""
    kinds = {choose_run_style(failed) for panel in panels for box in panel.boxes for failed in box.failed}
    point: dict[str, Any] = {"linestyle": "none", "markersize": 5, "markeredgewidth": 1.2}
    entries: list[LegendEntry] = [
        (f"one run, {kind.name}", {"marker": kind.marker, "color": kind.color, **point})
        for kind in reversed(RUN_STYLES)
        if kind in kinds
    ]
    if any(box.n_nan for panel in panels for box in panel.boxes):
        nan = {"marker": "X", "color": "white", "markeredgecolor": FAILED_STYLE.color}
        entries.append((f"{NAN_SCORE} (at the foot of the axis)", point | nan | {"markeredgewidth": 0.9}))
    shaded = [panel for panel in panels if any(box.shade for box in panel.boxes)]
    shades = list(dict.fromkeys(box.shade for panel in shaded for box in panel.boxes if box.shade))
    for shade in shades:
        patch = {"marker": "s", "markersize": 7, "linestyle": "none", "markeredgewidth": 0.8}
        face, edge = _shade_colors(shade, shades)
        entries.append((shade, patch | {"color": face, "markeredgecolor": edge}))
    if any(panel.star == box.label for panel in panels for box in panel.boxes):
        entries.append(("recommended by the paper", {"marker": "*", "linestyle": "none", "color": "black"}))
    labels = {panel.baseline_label for panel in panels if any(box.baseline is not None for box in panel.boxes)}
    if labels:
        text = labels.pop() if len(labels) == 1 else "baseline: always the same answer"
        entries.append((text, DASHED_LINE))
    return entries
