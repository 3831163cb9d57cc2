"""Draw panels as one figure: layout, axis labels, one legend."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stableft.report.figures.boxes import (
    BoxLayout,
    box_labels_height,
    box_legend_entries,
    choose_box_layout,
    draw_box_panel,
)
from stableft.report.figures.curves import (
    choose_curve_styles,
    choose_point_styles,
    choose_reference_styles,
    curve_legend_entries,
    draw_curve_panel,
    draw_point_panel,
    point_legend_entries,
)
from stableft.report.figures.maps import (
    COLORBAR_ROOM,
    contour_legend_entries,
    contour_panel_height,
    draw_contour_panels,
    draw_heat_panels,
    heat_panel_size,
    label_contours,
)
from stableft.report.figures.panels import BoxPanel, ContourPanel, CurvePanel, HeatPanel, Panel, PointPanel
from stableft.report.figures.style import (
    CHARS_PER_INCH,
    FONT_SIZE,
    GREY,
    LINE_HEIGHT,
    PAGE_WIDTH,
    SMALL_CHARS_PER_INCH,
    SMALL_FONT_SIZE,
    add_legend,
    house_style,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PanelT = TypeVar("PanelT", BoxPanel, CurvePanel, PointPanel, HeatPanel, ContourPanel)
MIN_CURVE_WIDTH, MIN_CONTOUR_WIDTH = 2.2, 2.8  # inches per panel
BOX_HEIGHTS = (2.6, 2.0)  # inches of a box panel without its labels, in figures of up to two rows and of more
CURVE_HEIGHTS = {1: 3.3, 2: 2.7, 3: 2.3}  # inches, by number of panels per row
CURVE_HEIGHT = 1.8  # inches, with more panels per row


def draw_panels(
    panels: Sequence[Panel], caption: str = "", per_row: int | None = None, names: Sequence[str] = ()
) -> "Figure":
    """Return a figure of these panels in reading order. It is as wide as a page, or wider for many boxes.

    A name has the same colour in every panel and one legend entry; `names` keep theirs in every figure that is given
    the same. `caption` is printed below. `per_row` None: chosen by the number and kinds of panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    assert panels
    boxes = _panels_of_type(panels, BoxPanel)
    layout = choose_box_layout(boxes, len(panels)) if boxes else BoxLayout(1, 1.0, upright=False)
    per_row, width = _choose_grid(panels, layout, per_row)
    rows = math.ceil(len(panels) / per_row)
    heights = [_panel_height(panel, width / per_row, per_row, rows, layout) for panel in panels]
    heights = [max(heights[i : i + per_row]) for i in range(0, len(panels), per_row)]
    with house_style():
        # The padding (inches) leaves room for tick labels that get longer when the layout shrinks the axes.
        engine = ConstrainedLayoutEngine(w_pad=0.08)
        figure = Figure(figsize=(width, sum(heights)), layout=engine)
        grid = list(figure.subplots(rows, per_row, squeeze=False, height_ratios=heights).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        caption = wrap_text(caption, width - 0.3)
        lines = _draw_all(figure, list(zip(grid, panels, strict=False)), width / per_row, layout, names)
        lines += _label_axes(figure, grid, panels, per_row, heights, caption)
        figure.set_figheight(sum(heights) + LINE_HEIGHT * lines)
        _freeze_layout(figure)
        for axes in grid:
            label_contours(axes)
    return figure


def _panels_of_type(panels: Sequence[Panel], kind: type[PanelT]) -> list[PanelT]:
    return [panel for panel in panels if isinstance(panel, kind) and not panel.missing]


def _choose_grid(panels: Sequence[Panel], layout: BoxLayout, per_row: int | None) -> tuple[int, float]:
    """Return the number of panels per row and the width of the figure in inches."""
    count = len(panels)
    most = {1: 1, 2: 2, 4: 2}.get(count, 3 if count < 12 else 4)
    widths = [MIN_CONTOUR_WIDTH if _panels_of_type(panels, ContourPanel) else MIN_CURVE_WIDTH]
    if boxes := _panels_of_type(panels, BoxPanel):
        most = layout.per_row
        widths += [layout.panel_width(len(panel.boxes)) for panel in boxes]
    if heats := _panels_of_type(panels, HeatPanel):
        widths += [heat_panel_size(panel)[0] for panel in heats]
        most = max(1, min(most, int((PAGE_WIDTH - COLORBAR_ROOM) / max(widths))))
    per_row = per_row or most
    return per_row, max(PAGE_WIDTH, per_row * max(widths) + COLORBAR_ROOM * bool(heats))


def _panel_height(panel: Panel, width: float, per_row: int, rows: int, layout: BoxLayout) -> float:
    """Return the height in inches of a panel with its title and labels."""
    names = LINE_HEIGHT * (_wrap_title(panel, width) + _wrap_xlabel(panel, width)).count("\n")
    if panel.missing:
        return names + max(1.5, 0.8 + LINE_HEIGHT * (1 + _wrap_message(panel.missing, width)[0].count("\n")))
    match panel:
        case BoxPanel():
            return names + BOX_HEIGHTS[rows > 2] + box_labels_height(panel, layout)
        case HeatPanel():
            return names + heat_panel_size(panel)[1]
        case ContourPanel():
            return names + contour_panel_height(panel, width)
    above = max((len(line.label) for line in getattr(panel, "vertical", ())), default=0) / SMALL_CHARS_PER_INCH
    return names + above + CURVE_HEIGHTS.get(per_row, CURVE_HEIGHT)


def _wrap_title(panel: Panel, width: float) -> str:
    return wrap_text(panel.title, width - 0.4)


def _wrap_xlabel(panel: Panel, width: float) -> str:
    return wrap_text(getattr(panel, "xlabel", ""), width - 0.8)


def _wrap_message(sentence: str, width: float) -> tuple[str, float]:
    """Return a wrapped sentence and its font size, which is small if the sentence contains a (long) command."""
    small = "`" in sentence
    text = wrap_text(sentence.replace("`", ""), width - 0.9, SMALL_CHARS_PER_INCH if small else CHARS_PER_INCH)
    return text, SMALL_FONT_SIZE if small else FONT_SIZE


def _draw_all(
    figure: "Figure", pairs: "Sequence[tuple[Axes, Panel]]", width: float, layout: BoxLayout, names: Sequence[str]
) -> int:
    """Draw all panels and the legend, and return the legend's number of lines."""
    panels = [panel for _, panel in pairs]
    boxes, contours = _panels_of_type(panels, BoxPanel), _panels_of_type(panels, ContourPanel)
    curves, points = _panels_of_type(panels, CurvePanel), _panels_of_type(panels, PointPanel)
    styles, point_styles = choose_curve_styles(curves, names), choose_point_styles(points, names)
    references, places = choose_reference_styles([*curves, *points]), contour_legend_entries(contours)
    maps: dict[tuple[type, str], list[Any]] = {}  # (type, unit) -> panels with a shared colour scale
    for axes, panel in pairs:
        if panel.missing:
            _draw_message(axes, panel.missing, width)
            continue
        match panel:
            case BoxPanel():
                draw_box_panel(axes, panel, layout)
            case CurvePanel():
                draw_curve_panel(axes, panel, styles, references, width)
            case PointPanel():
                draw_point_panel(axes, panel, point_styles, references)
            case HeatPanel():
                maps.setdefault((HeatPanel, panel.unit), []).append((axes, panel))
            case ContourPanel():
                maps.setdefault((ContourPanel, panel.zlabel), []).append((axes, panel))
    for (kind, _), drawn in maps.items():
        draw_heat_panels(drawn) if kind is HeatPanel else draw_contour_panels(drawn, dict(places))
    entries = [
        *box_legend_entries(boxes),
        *curve_legend_entries(curves, styles),
        *point_legend_entries(points, point_styles),
        *places,
        *references.items(),
    ]
    once = dict(reversed(entries))  # each name once, in the style of its first entry
    return add_legend(figure, [(name, once[name]) for name in dict(entries)]) if entries else 0


def _draw_message(axes: "Axes", sentence: str, width: float) -> None:
    """Draw a sentence in place of a panel."""
    text, size = _wrap_message(sentence, width)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=size, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#CCCCCC")
    axes.grid(False)


def _label_axes(
    figure: "Figure",
    grid: "Sequence[Axes]",
    panels: Sequence[Panel],
    per_row: int,
    heights: Sequence[float],
    caption: str,
) -> int:
    """Write the titles and axis labels, and return the number of lines of the caption.

    An axis label that many panels share is written once.
    """
    width = figure.get_figwidth() / per_row
    below = {getattr(panel, "xlabel", "") for panel in panels}
    shared = below.pop() if len(panels) > 1 and len(below) == 1 else ""
    names = {panel.ylabel for panel in panels}
    beside = names.pop() if len(panels) > 2 * per_row and len(names) == 1 else ""
    limits = {(getattr(panel, "bottom", None), getattr(panel, "top", None)) for panel in panels}
    alike = len(limits) == 1 and None not in limits.pop()  # all panels have the same y limits
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        axes.set_title(_wrap_title(panel, width), fontweight="bold" if isinstance(panel, BoxPanel) else "normal")
        if panel.missing:
            continue
        axes.set_xlabel("" if shared else _wrap_xlabel(panel, width))
        left = panels[i - 1] if i % per_row and not panels[i - 1].missing else None
        room = BOX_HEIGHTS[len(heights) > 2] + 0.2 if isinstance(panel, BoxPanel) else heights[i // per_row]
        if not beside and (left is None or left.ylabel != panel.ylabel):
            axes.set_ylabel(wrap_text(panel.ylabel, room - 0.4))
        if alike and left:
            axes.tick_params(labelleft=False)
    if beside:
        figure.supylabel(beside, fontsize=FONT_SIZE)
    below_all = "\n".join(line for line in (shared, caption) if line)
    if below_all:
        figure.supxlabel(below_all, fontsize=FONT_SIZE)
    return len(caption.splitlines())


def _freeze_layout(figure: "Figure") -> None:
    """Fix the axes at the positions of the layout, rounded to a millionth of the figure.

    The layout's last digits vary between drawings, and the ids in an SVG file are hashes that depend on them.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))
