"""Draw panels as one figure: layout, axis labels, one legend."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from stableft.report.figures.boxes import (
    BOX_NOTE,
    MODES_NOTE,
    BoxLayout,
    box_legend_entries,
    box_panel_height,
    box_score_axis,
    choose_box_layout,
    draw_box_panel,
    has_names_of,
    split_modes,
    why_failed_above,
)
from stableft.report.figures.curves import (
    MEDIANS_NOTE,
    NARROW_PANEL,
    choose_curve_styles,
    choose_point_styles,
    choose_reference_styles,
    color_bar_of_curves,
    count_in_titles,
    curve_legend_entries,
    cut_bands_notes,
    draw_curve_panel,
    draw_point_panel,
    legend_name,
    names_on_color_bar,
    point_legend_entries,
    points_per_median,
    set_axis_ticks,
    stack_vertical_labels,
)
from stableft.report.figures.cut_axis import CUT_NOTE
from stableft.report.figures.estimates import (
    draw_estimate_panel,
    estimate_kinds,
    estimate_legend_entries,
    estimate_lines,
    estimate_panel_height,
)
from stableft.report.figures.maps import (
    EMPTY_CELLS_NOTE,
    color_bar_room,
    contour_legend_entries,
    contour_panel_height,
    draw_contour_panels,
    draw_heat_panels,
    has_empty_cells,
    heat_panel_size,
    is_narrow,
    label_contours,
)
from stableft.report.figures.panels import (
    BLANK,
    BoxPanel,
    ContourPanel,
    CurvePanel,
    EstimatePanel,
    HeatPanel,
    Panel,
    PointPanel,
)
from stableft.report.figures.style import (
    GREY,
    PAGE_WIDTH,
    PRINT_DPI,
    Page,
    add_legend,
    house_style,
    wrap_note,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PanelT = TypeVar("PanelT", BoxPanel, CurvePanel, PointPanel, EstimatePanel, HeatPanel, ContourPanel)
# Inches per panel at 9-point type.
MIN_CURVE_WIDTH, MIN_CONTOUR_WIDTH, MIN_ESTIMATE_WIDTH = 1.75, 1.9, 1.35
NARROW_LINES = 0.7  # size of lines and markers in a narrow figure, relative to others
MIN_SHARED_WIDTH = 1.35  # of curves that have the y axis of those on their left
MAX_CURVE_HEIGHT = 3.3  # inches
MAX_PAGE_HEIGHT, MIN_CURVE_ROW = 7.8, 1.1  # inches of a figure of curves, unless a row of it then has less than this
MAX_OWN_LEGEND, MIN_OWN_LEGEND_WIDTH = 4, 3.0  # curves, and inches, of a panel that has its legend inside
NOTE_LETTERS = 1.13  # letters of a sentence in the room of an average one, which names and numbers take
# Inches of a panel's height at 9-point type for a line each of its title and ticks or names, and of its x label.
ABOVE_AND_TICKS, X_LABEL = 0.4, 0.35


def draw_panels(
    panels: Sequence[Panel],
    caption: str = "",
    per_row: int | None = None,
    names: Sequence[str] = (),
    width: float | None = None,
) -> "Figure":
    """Return a figure of these panels in reading order, `width` inches wide. None: as wide as a page.

    A name has the same colour in every panel and one legend entry; `names` keep theirs in every figure that is given
    the same. `caption` is printed below. `per_row` None: chosen by the number and kinds of panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    assert panels
    page = Page(width or PAGE_WIDTH)
    panels = count_in_titles(_with_shared_scales(panels))
    boxes = _panels_of_type(panels, BoxPanel)
    layout = choose_box_layout(boxes, len(panels), page) if boxes else BoxLayout(1, False, 1.0)
    per_row = _choose_per_row(panels, layout, per_row, page)
    rows = math.ceil(len(panels) / per_row)
    notes = {
        BOX_NOTE: any(len(box.scores) > 1 for panel in boxes for box in panel.boxes),
        MODES_NOTE: any(
            len(split_modes(box.scores, box.failed, box_score_axis(_sharing(boxes, panel)).shown)) > 1
            for panel in boxes
            for box in panel.boxes
        ),
        **why_failed_above(boxes),
        EMPTY_CELLS_NOTE: any(map(has_empty_cells, _panels_of_type(panels, HeatPanel))),
        CUT_NOTE: any(box_score_axis(_sharing(boxes, panel)).cut for panel in boxes),
        **dict.fromkeys(cut_bands_notes(_panels_of_type(panels, CurvePanel)), True),
        MEDIANS_NOTE: any(points_per_median(p, page.width / per_row) > 1 for p in _panels_of_type(panels, CurvePanel)),
    }
    of_panels = dict.fromkeys(panel.note for panel in _panels_of_type(panels, CurvePanel) if panel.note)
    caption = " ".join([caption, *of_panels, *(note for note, needed in notes.items() if needed)]).strip()
    heights = [_panel_height(panel, page.width / per_row, rows, layout, page) for panel in panels]
    heights = [max(heights[i : i + per_row]) for i in range(0, len(panels), per_row)]
    with house_style(page):
        # The padding (inches) leaves room for tick labels that get longer when the layout shrinks the axes.
        engine = ConstrainedLayoutEngine(w_pad=0.08 * page.scale)
        # The higher the resolution, the less the widths of letters are rounded.
        figure = Figure(figsize=(page.width, sum(heights)), layout=engine, dpi=PRINT_DPI)
        FigureCanvasAgg(figure)  # keeps the renderer, and with it the sizes of texts; without it each look makes one
        grid = list(figure.subplots(rows, per_row, squeeze=False, height_ratios=heights).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        caption = wrap_note(caption, page.width - 0.3, NOTE_LETTERS * page.small_chars_per_inch)
        lines = _draw_all(figure, list(zip(grid, panels, strict=False)), per_row, layout, names, page)
        lines += _label_axes(figure, grid, panels, per_row, heights, caption, layout, page)
        height = sum(heights) + page.line_height * lines
        if all(isinstance(panel, CurvePanel) for panel in panels):
            height = min(height, max(MAX_PAGE_HEIGHT, rows * MIN_CURVE_ROW * page.scale + page.line_height * lines))
        figure.set_figheight(height)
        _freeze_layout(figure)
        for axes in grid:
            label_contours(axes, page)
    return figure


def _panels_of_type(panels: Sequence[Panel], kind: type[PanelT]) -> list[PanelT]:
    return [panel for panel in panels if isinstance(panel, kind) and not panel.missing]


def _sharing(panels: Sequence[PanelT], panel: PanelT) -> list[PanelT]:
    """Return the panels of a kind that share an axis with this one, itself included."""
    return [other for other in panels if _shares_axis(panel, other)] or [panel]


def _shares_axis(panel: Panel, other: Panel | None) -> bool:
    key = getattr(panel, "share", "")
    return bool(key) and type(panel) is type(other) and getattr(other, "share", "") == key


def _with_shared_scales(panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels, with a logarithmic y axis for curves that share it with one that has it."""
    curves = _panels_of_type(panels, CurvePanel)
    return [
        replace(panel, ylog=any(other.ylog for other in _sharing(curves, panel)))
        if isinstance(panel, CurvePanel) and panel.share
        else panel
        for panel in panels
    ]


def _choose_per_row(panels: Sequence[Panel], layout: BoxLayout, per_row: int | None, page: Page) -> int:
    """Return the number of panels per row: that asked for, or a suitable one, if the figure is wide enough for it."""
    count = len(panels)
    if per_row and all(panel is BLANK or getattr(panel, "share", "") for panel in panels):
        return min(per_row, max_columns(page.width))
    most = per_row or {1: 1, 2: 2, 4: 2}.get(count, 3 if count < 12 else 4)
    least = MIN_CURVE_WIDTH
    if _panels_of_type(panels, ContourPanel):
        least = MIN_CONTOUR_WIDTH
    if _panels_of_type(panels, EstimatePanel):
        least = MIN_ESTIMATE_WIDTH
    most = min(most, int(page.width / (least * page.scale)))
    if any(panel.sequential for panel in _panels_of_type(panels, CurvePanel)) and most > 1:
        most -= most % 2  # a failed and a successful run are side by side
    if _panels_of_type(panels, BoxPanel):
        most = layout.per_row
    if heats := _panels_of_type(panels, HeatPanel):
        widest = max(heat_panel_size(panel, page)[0] for panel in heats)
        most = min(most, int((page.width - color_bar_room(page)) / widest))
    return max(most, 1)


def max_columns(width: float) -> int:
    """Return how many panels stand in a row of a figure `width` inches wide, if they share their y axes."""
    return int(width / (MIN_SHARED_WIDTH * Page(width).scale))


def _panel_height(panel: Panel, width: float, rows: int, layout: BoxLayout, page: Page) -> float:
    """Return the height in inches of a panel with its title and labels."""
    names = page.line_height * (_wrap_title(panel, width, page) + _wrap_xlabel(panel, width, page)).count("\n")
    if panel is BLANK:
        return 0.0
    if panel.missing:
        message = _wrap_message(panel.missing, width, page)
        return names + max(1.5, 0.8 + page.line_height * (1 + message.count("\n")))
    match panel:
        case BoxPanel():
            return names + box_panel_height(panel, layout, rows, page)
        case EstimatePanel():
            return names + estimate_panel_height(panel, width, page)
        case HeatPanel():
            return names + heat_panel_size(panel, page)[1]
        case ContourPanel():
            return names + contour_panel_height(panel, width, page)
    above = 0.0
    if isinstance(panel, CurvePanel):
        above = page.line_height * max((1 + row for row in stack_vertical_labels(panel, width, page)), default=0)
    return (
        names
        + above
        + min(0.95 * page.scale + (0.53 if rows <= 3 else 0.3 if rows == 4 else 0.2) * width, MAX_CURVE_HEIGHT)
    )


def _wrap_title(panel: Panel, width: float, page: Page) -> str:
    beside = 0.4 if width > NARROW_PANEL else 0.6
    if isinstance(panel, CurvePanel) and panel.share and width < MIN_CURVE_WIDTH * page.scale:
        beside = 0.2  # the ticks are beside the first panel of a row alone
    return wrap_text(panel.title, width - beside * page.scale, page.chars_per_inch)


def _wrap_xlabel(panel: Panel, width: float, page: Page) -> str:
    beside = {ContourPanel: 1.2, EstimatePanel: 0.3}.get(type(panel), 0.6)  # 1.2: a colour bar may be there
    return wrap_text(getattr(panel, "xlabel", ""), width - beside * page.scale, page.chars_per_inch)


def _wrap_message(sentence: str, width: float, page: Page) -> str:
    """Return a wrapped sentence without the command that may end it, which the report prints."""
    return wrap_text(re.split("[;:]? ?`", sentence)[0], width - 0.9 * page.scale, page.chars_per_inch)


def _draw_all(
    figure: "Figure",
    pairs: "Sequence[tuple[Axes, Panel]]",
    per_row: int,
    layout: BoxLayout,
    names: Sequence[str],
    page: Page,
) -> int:
    """Draw all panels and the legend, and return the legend's number of lines."""
    panels, width = [panel for _, panel in pairs], page.width / per_row
    boxes, contours = _panels_of_type(panels, BoxPanel), _panels_of_type(panels, ContourPanel)
    curves, points = _panels_of_type(panels, CurvePanel), _panels_of_type(panels, PointPanel)
    estimates = _panels_of_type(panels, EstimatePanel)
    styles, point_styles = choose_curve_styles(curves, names), choose_point_styles(points, names)
    if is_narrow(page):
        sizes = ("linewidth", "markersize")
        narrow = {
            name: {key: NARROW_LINES * style[key] for key in sizes if key in style} for name, style in styles.items()
        }
        styles = {name: style | narrow[name] for name, style in styles.items()}
    references, places = choose_reference_styles([*curves, *points]), contour_legend_entries(contours)
    kinds = estimate_kinds(estimates)
    maps: dict[tuple[type, str], list[Any]] = {}  # (type, unit) -> panels with a shared colour scale
    for i, (axes, panel) in enumerate(pairs):
        if panel is BLANK:
            axes.set_visible(False)
            continue
        if panel.missing:
            _draw_message(axes, panel.missing, width, page)
            continue
        match panel:
            case BoxPanel():
                named = i % per_row and has_names_of(panel, panels[i - 1])
                draw_box_panel(axes, panel, layout, page, _sharing(boxes, panel), not named)
            case CurvePanel():
                draw_curve_panel(axes, panel, styles, references, width, page)
            case PointPanel():
                draw_point_panel(axes, panel, point_styles, references, width)
            case EstimatePanel():
                draw_estimate_panel(axes, panel, width, page, kinds, not _repeats_lines(panels, i, per_row))
            case HeatPanel():
                maps.setdefault((HeatPanel, panel.unit), []).append((axes, panel))
            case ContourPanel():
                maps.setdefault((ContourPanel, panel.zlabel), []).append((axes, panel))
    for (kind, _), drawn in maps.items():
        draw_heat_panels(drawn, page) if kind is HeatPanel else draw_contour_panels(drawn, dict(places), width, page)
    _share_limits(pairs, width)
    bar_lines = 0
    if names_on_color_bar(curves):
        bar_lines = 4 if is_narrow(page) else 0  # above the panels, with its name
        ordered = [(axes, panel) for axes, panel in pairs if isinstance(panel, CurvePanel) and panel.sequential]
        color_bar_of_curves(figure, [(axes, panel) for axes, panel in ordered if not panel.missing], is_narrow(page))
    from matplotlib.lines import Line2D

    apart = _with_own_legends(panels, width, page)
    for axes, panel in pairs:
        if panel in apart and isinstance(panel, CurvePanel):
            handles = [Line2D([], [], **style, label=name) for name, style in curve_legend_entries([panel], styles)]
            axes.legend(handles=handles, loc="best", fontsize=page.small)
    entries = [
        *box_legend_entries(boxes),
        *curve_legend_entries([panel for panel in curves if panel not in apart], styles),
        *point_legend_entries(points, point_styles),
        *estimate_legend_entries(estimates),
        *places,
        *references.items(),
    ]
    once = dict(reversed(entries))  # each name once, in the style of its first entry
    return bar_lines + (add_legend(figure, [(name, once[name]) for name in dict(entries)], page) if entries else 0)


def _with_own_legends(panels: Sequence[Panel], width: float, page: Page) -> list[CurvePanel]:
    """Return the panels whose few curves no other panel has, if panels of other curves are beside them."""
    names = [
        {legend_name(curve) for curve in panel.curves} if isinstance(panel, CurvePanel) else set() for panel in panels
    ]
    shared = [any(mine & other for j, other in enumerate(names) if j != i) for i, mine in enumerate(names)]
    return [
        panel
        for i, panel in enumerate(panels)
        if isinstance(panel, CurvePanel) and not panel.missing and not panel.sequential and not shared[i]
        if 1 < len(names[i]) <= MAX_OWN_LEGEND
        and sum(map(bool, names)) > 1
        and width > MIN_OWN_LEGEND_WIDTH * page.scale
    ]


def _share_limits(pairs: "Sequence[tuple[Axes, Panel]]", width: float) -> None:
    """Give the curves and estimates of panels that share an axis the limits that hold all of them."""
    by_share: dict[str, list[Axes]] = {}
    for axes, panel in pairs:
        if isinstance(panel, CurvePanel | EstimatePanel) and panel.share and not panel.missing:
            by_share.setdefault(f"{type(panel).__name__} {panel.share}", []).append(axes)
    for key, every in by_share.items():
        along_x = key.startswith(EstimatePanel.__name__)
        limits = [axes.get_xlim() if along_x else axes.get_ylim() for axes in every]
        ends = min(low for low, _ in limits), max(high for _, high in limits)
        for axes in every:
            axes.set_xlim(ends) if along_x else axes.set_ylim(ends)
            if not along_x:
                set_axis_ticks(axes.yaxis, width)


def _repeats_lines(panels: Sequence[Panel], i: int, per_row: int) -> bool:
    """Return whether the panel on the left has the lines of this one, with their names."""
    panel, left = panels[i], panels[i - 1] if i % per_row else None
    if not isinstance(panel, EstimatePanel) or not isinstance(left, EstimatePanel):
        return False
    return estimate_lines(panel) == estimate_lines(left)


def _draw_message(axes: "Axes", sentence: str, width: float, page: Page) -> None:
    """Draw a sentence in place of a panel."""
    text = _wrap_message(sentence, width, page)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=page.font, transform=axes.transAxes)
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
    layout: BoxLayout,
    page: Page,
) -> int:
    """Write the titles and axis labels, and return the number of lines of the caption.

    An axis label that many panels share is written once.
    """
    width = page.width / per_row
    labels = [_axis_labels(panel, layout) for panel in panels]
    below = {xlabel for panel, (xlabel, _) in zip(panels, labels, strict=True) if panel is not BLANK}
    shared = below.pop() if len(panels) > 1 and len(below) == 1 else ""
    ends = {xlabel.partition("\n")[2] for xlabel in below}  # which split and checkpoint the scores are of
    end = ends.pop() if len(ends) == 1 and not shared else ""
    names = {ylabel for panel, (_, ylabel) in zip(panels, labels, strict=True) if panel is not BLANK}
    beside = names.pop() if len(panels) > 2 * per_row and len(names) == 1 else ""
    named_once = bool(beside)
    metrics = {
        getattr(panel, "metric", ""): ylabel
        for panel, (_, ylabel) in zip(panels, labels, strict=True)
        if not panel.missing
    }
    of_scores = {ylabel.replace(metric, "score") for metric, ylabel in metrics.items() if metric}
    if "" not in metrics and len(metrics) > 1 and len(of_scores) == 1:
        beside = of_scores.pop()  # all but the metric, which is beside each panel
        labels = [(xlabel, getattr(panel, "metric", "")) for panel, (xlabel, _) in zip(panels, labels, strict=True)]
    limits = {(getattr(p, "bottom", None), getattr(p, "top", None)) for p in panels if p is not BLANK}
    alike = len(limits) == 1 and None not in limits.pop()  # all panels have the same y limits
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        pad = 6.0 + 72 * page.line_height * (1 if isinstance(panel, BoxPanel) and layout.rows else 0)
        if isinstance(panel, CurvePanel) and panel.vertical:
            pad += 72 * page.line_height * (1 + max(stack_vertical_labels(panel, width, page)))
        weight = "bold" if isinstance(panel, BoxPanel) else "normal"
        axes.set_title(_wrap_title(panel, width, page), fontweight=weight, pad=pad)
        if panel.missing:
            continue
        xlabel, ylabel = labels[i]
        below_panel = _wrap_xlabel(panel, width, page)
        if isinstance(panel, BoxPanel):
            below_panel = wrap_text(xlabel.removesuffix(f"\n{end}"), width - 0.2 * page.scale, page.chars_per_inch)
        axes.set_xlabel("" if shared else below_panel)
        left = panels[i - 1] if i % per_row and not panels[i - 1].missing else None
        room = heights[i // per_row] - page.scale * (ABOVE_AND_TICKS + X_LABEL * (not isinstance(panel, BoxPanel)))
        if isinstance(panel, BoxPanel) and not layout.rows:
            room -= page.line_height * max(text.get_text().count("\n") for text in axes.get_xticklabels())
        if not named_once and (left is None or labels[i - 1][1] != ylabel):
            axes.set_ylabel(wrap_text(ylabel, max(room, 1.0), page.chars_per_inch))
        if (alike and left) or (isinstance(panel, CurvePanel) and _shares_axis(panel, left)):
            axes.tick_params(labelleft=False)
    if beside:
        height = sum(heights) + page.line_height  # at least one line of a legend
        figure.supylabel(wrap_text(beside, height, page.chars_per_inch), fontsize=page.font)
    shared = wrap_text(shared or end, page.width - 0.3, page.chars_per_inch)
    below_all = "\n".join([*([shared, ""] if shared else [""]), caption]) if caption else shared  # apart from the axes
    if below_all:
        figure.supxlabel(below_all, fontsize=page.small if caption else page.font)
    return len(caption.splitlines()) + bool(caption) + shared.count("\n") + bool(end)


def _axis_labels(panel: Panel, layout: BoxLayout) -> tuple[str, str]:
    """Return the labels of the x and the y axis of a panel."""
    if isinstance(panel, BoxPanel):
        scores = panel.ylabel
        return (scores, panel.names_label) if layout.rows else (panel.names_label, scores)
    return getattr(panel, "xlabel", ""), panel.ylabel


def _freeze_layout(figure: "Figure") -> None:
    """Fix the axes at the positions of the layout, rounded to a millionth of the figure.

    The layout's last digits vary between drawings, and the ids in an SVG file are hashes that depend on them.
    """
    engine = figure.get_layout_engine()
    if engine and all(axes.get_aspect() == "auto" and axes.get_box_aspect() is None for axes in figure.axes):
        engine.execute(figure)  # all that a drawing changes here, in half its time
    else:
        figure.draw_without_rendering()
    if any(axes.get_aspect() != "auto" for axes in figure.axes):
        figure.draw_without_rendering()  # the first layout has the height of such axes before their width is known
    figure.set_layout_engine(None)  # not "none", for which saving would draw once more
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))
