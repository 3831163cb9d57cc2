"""Draw the scores of groups of runs: a box a group, a point a run, baselines as lines."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stableft.report.figures.panels import Box, BoxPanel
from stableft.report.figures.style import (
    DASHED_LINE,
    FAILED_STYLE,
    GREY,
    PAGE_WIDTH_POINTS,
    RUN_STYLES,
    SMALL_FONT_SIZE,
    LegendEntry,
    RunStyle,
    choose_run_style,
    text_width,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BOX_PANEL_MARGIN = 95.0  # points of a panel beside its boxes: the axis with its name, and the baseline's value
TWO_LINE_SPACING, ONE_LINE_SPACING = 20.0, 11.0  # points between boxes whose names stand upright
BOX_FRAME_HEIGHTS = (2.7, 1.8)  # inches of a panel with its title, in up to two rows of panels and in more
SHRINK_POINTS_ABOVE, RASTERIZE_POINTS_ABOVE = (
    100,
    1000,
)  # points: beyond the first they shrink, beyond the second they are pixels in a vector file


def choose_box_layout(panels: Sequence[BoxPanel]) -> tuple[int, bool]:
    """Returns how many panels stand side by side, and whether the names below their boxes stand upright.

    Names that lie flat are read more easily; they may cost one more row of panels.
    """
    count = len(panels)
    sizes = [size for size in range(min(count, 4), 0, -1) if count > 3 or count % size == 0]
    flat = next((size for size in sizes if all(_labels_fit(panel, size) for panel in panels)), None)
    upright = next(
        (size for size in sizes if min(_box_spacing(panel, size) for panel in panels) >= TWO_LINE_SPACING), 1
    )
    if flat and math.ceil(count / flat) <= math.ceil(count / upright) + 1:
        return flat, False
    return upright, True


def _box_spacing(panel: BoxPanel, per_row: int) -> float:
    """Returns how many points are between two boxes of a panel."""
    return (PAGE_WIDTH_POINTS / per_row - BOX_PANEL_MARGIN) / max(len(panel.boxes), 1)


def _labels_fit(panel: BoxPanel, per_row: int) -> bool:
    room = _box_spacing(panel, per_row) - 6
    lines = [line for box in panel.boxes for line in _flat_label(box, room).split("\n")]
    return all(text_width(line) <= room for line in lines) and all(
        wrap_text(box.label, room).count("\n") < 4 for box in panel.boxes
    )


def box_panel_height(panel: BoxPanel, per_row: int, upright: bool, rows: int) -> float:
    """Returns the height in inches of a panel in one of so many rows."""
    room, frame = _box_spacing(panel, per_row), BOX_FRAME_HEIGHTS[rows > 2]
    if not upright:
        return frame + 0.14 * max((_flat_label(box, room - 6).count("\n") for box in panel.boxes), default=0)
    lines = [line for box in panel.boxes for line in _upright_label(box, room).split("\n")]
    return frame + max(map(text_width, lines), default=0) / 72


def box_figure_width(panels: Sequence[BoxPanel]) -> float:
    """Returns how many points wide the figure must be for the panel with most boxes to be readable."""
    return max(PAGE_WIDTH_POINTS, *(BOX_PANEL_MARGIN + ONE_LINE_SPACING * len(panel.boxes) for panel in panels))


def draw_box_panel(axes: "Axes", panel: BoxPanel, per_row: int, upright: bool) -> None:
    """Draws a panel; the layout is that of `box_layout`."""
    for position, box in enumerate(panel.boxes):
        _draw_box(axes, position, box, min(1.0, _box_spacing(panel, per_row) / 36))
    _draw_baselines(axes, panel.boxes, alone=per_row == 1)
    room = _box_spacing(panel, per_row)
    turned: dict[str, Any] = {"rotation": 90, "ma": "right", "linespacing": 1.0} if upright else {}
    labels = [_upright_label(box, room) if upright else _flat_label(box, room - 6) for box in panel.boxes]
    axes.set_xticks(range(len(labels)), labels, **turned)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(labels) - 0.4)


def _count_lines(box: Box) -> list[str]:
    return [f"n = {box.n}", f"{box.n_failed} failed", *([f"{box.n_nan} NaN, not drawn"] if box.n_nan else [])]


def _flat_label(box: Box, room: float) -> str:
    first, *others = _count_lines(box)
    return "\n".join([wrap_text(box.label, room), first, *(wrap_text(line, room) for line in others)])


def _upright_label(box: Box, room: float) -> str:
    return f"{box.label}{chr(10) if room >= TWO_LINE_SPACING else ', '}{', '.join(_count_lines(box))}"


def _draw_box(axes: "Axes", position: int, box: Box, room: float) -> None:
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
    # Side by side by the golden ratio: neighbours in score are far apart, and nothing is drawn at random.
    places = [position + 0.46 * ((i * 0.618034) % 1 - 0.5) for i in range(len(runs))]
    for kind in RUN_STYLES:
        chosen = [i for i, (_, other) in enumerate(runs) if other is kind]
        if chosen:
            x, y = [places[i] for i in chosen], [scores[i] for i in chosen]
            style = _run_marker(kind, room, len(runs))
            axes.scatter(x, y, zorder=3, label=kind.name, rasterized=len(runs) > RASTERIZE_POINTS_ABOVE, **style)


def _run_marker(kind: RunStyle, room: float, runs: int) -> dict[str, Any]:
    """Returns how one of so many runs of a box is drawn; room is 1 where boxes are as wide as they may be."""
    thin = min(1.0, math.sqrt(SHRINK_POINTS_ABOVE / runs))  # the more, the smaller and the more transparent
    drawn = {"marker": kind.marker, "color": kind.color, "alpha": max(0.1, 0.8 * thin)}
    if kind is FAILED_STYLE:
        small = thin * room
        return drawn | {"alpha": max(0.3, thin), "s": max(6, 30 * small), "linewidth": max(0.5, 1.6 * thin)}
    return drawn | {"s": max(3, 22 * thin * room), "linewidth": 0.5}


def _draw_baselines(axes: "Axes", boxes: Sequence[Box], alone: bool) -> None:
    """Draws the baseline through the panel, or through each box where they have different ones."""
    known = {position: box.baseline for position, box in enumerate(boxes) if box.baseline is not None}
    if len(set(known.values())) == 1:
        value = next(iter(known.values()))
        axes.axhline(value, **DASHED_LINE, zorder=2, label="baseline")
        text, place = f"{'baseline' + chr(10) if alone else ''}{value:.1f}", ("axes fraction", "data")
        axes.annotate(text, (1, value), (3, 0), place, "offset points", va="center", fontsize=SMALL_FONT_SIZE)
        return
    for position, value in known.items():
        axes.hlines(value, position - 0.45, position + 0.45, **DASHED_LINE, zorder=2, label="baseline")


def box_legend_entries(panels: Sequence[BoxPanel]) -> list[LegendEntry]:
    """Returns the legend of these panels: the kinds of runs, and what the dashed lines are."""
    boxes = [box for panel in panels if not panel.missing for box in panel.boxes]
    kinds = {choose_run_style(failed) for failed in {failed for box in boxes for failed in box.failed}}
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
