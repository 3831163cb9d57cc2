"""Draw the scores of groups of runs: a box per group, a point per run, baselines as lines."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stableft.report.figures.panels import Box, BoxPanel
from stableft.report.figures.style import (
    DASHED_LINE,
    FAILED_STYLE,
    GREY,
    LINE_HEIGHT,
    MAX_WIDTH,
    PAGE_WIDTH,
    RUN_STYLES,
    SMALL_CHARS_PER_INCH,
    SMALL_FONT_SIZE,
    LegendEntry,
    RunStyle,
    choose_run_style,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


AXIS_ROOM = 0.95  # inches beside the boxes of a panel, for the y axis with its label and the baseline's value
# Minimum inches between boxes: with horizontal labels, with vertical ones in two lines, and in one line.
FLAT_SPACING, UPRIGHT_SPACING, TIGHT_SPACING = 0.5, 0.3, 0.16
MAX_NAME_LINES = 4  # longer labels are vertical
# Numbers of points per box above which they shrink, and above which vector files hold them as pixels.
SHRINK_POINTS_ABOVE, RASTERIZE_POINTS_ABOVE = 100, 1000


class BoxLayout(NamedTuple):
    """The number of panels per row, the inches between boxes, and whether the labels below are vertical."""

    per_row: int
    spacing: float
    upright: bool

    def panel_width(self, boxes: int) -> float:
        return AXIS_ROOM + self.spacing * boxes


def choose_box_layout(panels: Sequence[BoxPanel], count: int) -> BoxLayout:
    """Return the layout of these panels in a figure of `count` panels.

    Horizontal labels are easier to read, so they are preferred even if they need more rows or a figure wider than a
    page.
    """
    most = max(1, *(len(panel.boxes) for panel in panels))
    labels = [box.label for panel in panels for box in panel.boxes]
    words = [line for label in labels for line in wrap_text(label, 0).split("\n")]
    longest = (1 + max(map(len, words), default=0)) / SMALL_CHARS_PER_INCH
    sizes = [size for size in (3, 2, 1) if size <= count and (count % size == 0 or count > max(4, size))]
    for size in sizes:
        spacing = max(FLAT_SPACING, longest, (PAGE_WIDTH / size - AXIS_ROOM) / most)
        lines = [1 + wrap_text(label, spacing, SMALL_CHARS_PER_INCH).count("\n") for label in labels]
        if size * (AXIS_ROOM + spacing * most) <= MAX_WIDTH and max(lines, default=0) <= MAX_NAME_LINES:
            return BoxLayout(size, spacing, upright=False)
    size = next((size for size in sizes if size * (AXIS_ROOM + UPRIGHT_SPACING * most) <= MAX_WIDTH), 1)
    return BoxLayout(size, max(TIGHT_SPACING, (PAGE_WIDTH / size - AXIS_ROOM) / most), upright=True)


def _box_label(box: Box, layout: BoxLayout) -> str:
    counts = [f"n = {box.n}", f"{box.n_failed} failed", *([f"{box.n_nan} NaN, not drawn"] if box.n_nan else [])]
    if layout.upright:
        return f"{box.label}{chr(10) if layout.spacing >= UPRIGHT_SPACING else ', '}{', '.join(counts)}"
    return "\n".join(wrap_text(line, layout.spacing, SMALL_CHARS_PER_INCH) for line in [box.label, *counts])


def box_labels_height(panel: BoxPanel, layout: BoxLayout) -> float:
    """Return the height in inches of the labels below the boxes of a panel."""
    labels = [_box_label(box, layout) for box in panel.boxes]
    if layout.upright:
        return max((len(line) for label in labels for line in label.split("\n")), default=0) / SMALL_CHARS_PER_INCH
    return LINE_HEIGHT * max((1 + label.count("\n") for label in labels), default=0)


def draw_box_panel(axes: "Axes", panel: BoxPanel, layout: BoxLayout) -> None:
    for position, box in enumerate(panel.boxes):
        _draw_box(axes, position, box, min(1.0, layout.spacing / FLAT_SPACING))
    _draw_baselines(axes, panel.boxes)
    upright: dict[str, Any] = {"rotation": 90, "ma": "right", "linespacing": 1.0} if layout.upright else {}
    axes.set_xticks(range(len(panel.boxes)), [_box_label(box, layout) for box in panel.boxes], **upright)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(panel.boxes) - 0.5)


def _draw_box(axes: "Axes", position: int, box: Box, scale: float) -> None:
    """Draw one box and its runs. `scale` (at most 1) shrinks the markers of narrow boxes."""
    runs = sorted(zip(box.scores, map(choose_run_style, box.failed), strict=True), key=lambda run: run[0])
    scores = [score for score, _ in runs]
    axes.boxplot(
        [scores],
        positions=[position],
        widths=0.62,
        showfliers=False,  # every run is drawn as a point
        patch_artist=True,
        boxprops={"facecolor": "#F3F3F3", "edgecolor": GREY},
        medianprops={"color": "black", "linewidth": 1.6, "zorder": 4 if len(runs) > SHRINK_POINTS_ABOVE else 2},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )
    # Horizontal positions follow the golden ratio: runs with similar scores are far apart, without random jitter.
    places = [position + 0.46 * ((i * 0.618034) % 1 - 0.5) for i in range(len(runs))]
    for kind in RUN_STYLES:
        chosen = [i for i, (_, other) in enumerate(runs) if other is kind]
        if chosen:
            x, y = [places[i] for i in chosen], [scores[i] for i in chosen]
            style = _run_marker(kind, scale, len(runs))
            axes.scatter(x, y, zorder=3, label=kind.name, rasterized=len(runs) > RASTERIZE_POINTS_ABOVE, **style)


def _run_marker(kind: RunStyle, scale: float, runs: int) -> dict[str, Any]:
    """Return the scatter style of a run. The more runs a box has, the smaller and more transparent they are."""
    thin = min(1.0, math.sqrt(SHRINK_POINTS_ABOVE / runs))
    drawn = {"marker": kind.marker, "color": kind.color}
    if kind is FAILED_STYLE:
        size, width = max(6, 30 * thin * scale), max(0.5, 1.6 * thin)
        return drawn | {"alpha": max(0.3, thin), "s": size, "linewidth": width}
    return drawn | {"alpha": max(0.1, 0.8 * thin), "s": max(3, 22 * thin * scale), "linewidth": 0.5}


def _draw_baselines(axes: "Axes", boxes: Sequence[Box]) -> None:
    """Draw the baseline across the panel, or across each box if the baselines differ."""
    known = {position: box.baseline for position, box in enumerate(boxes) if box.baseline is not None}
    if len(set(known.values())) == 1:
        value = next(iter(known.values()))
        axes.axhline(value, **DASHED_LINE, zorder=2, label="baseline")
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{value:.1f}", (1, value), (3, 0), fontsize=SMALL_FONT_SIZE, **place)
        return
    for position, value in known.items():
        axes.hlines(value, position - 0.45, position + 0.45, **DASHED_LINE, zorder=2, label="baseline")


def box_legend_entries(panels: Sequence[BoxPanel]) -> list[LegendEntry]:
    """Return the legend entries of these panels: the run styles and the baselines."""
    kinds = {choose_run_style(failed) for panel in panels for box in panel.boxes for failed in box.failed}
    point: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgewidth": 1.6}
    marks: list[LegendEntry] = [
        (f"one run, {kind.name}", {"marker": kind.marker, "color": kind.color, **point})
        for kind in reversed(RUN_STYLES)
        if kind in kinds
    ]
    lines = dict.fromkeys(
        panel.baseline_label for panel in panels if any(box.baseline is not None for box in panel.boxes)
    )
    return [*marks, *((line, DASHED_LINE) for line in lines)]
