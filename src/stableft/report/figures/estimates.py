"""Draw estimates with their intervals on lines below each other, as in a forest plot."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stableft.report.figures.panels import Estimate, EstimatePanel
from stableft.report.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    LegendEntry,
    Page,
    set_hover,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Of a line of one row of type, of all lines, and above and below them, at 9-point type.
LINE_INCHES, MIN_LINES_INCHES, AXIS_INCHES = 0.165, 0.5, 0.75
MANY_LINES, TIGHT_LINE_INCHES = 36, 0.14  # lines above this number are tight, so that a page has room for a caption
NAME_SHARE, ALONE_NAME_SHARE = 0.7, 0.4  # of a panel's width, for names beside a row of panels, and beside one alone
MIN_RATIOS = (0.5, 2.0)  # that an axis of ratios shows at least
LOG_MARGIN = 0.06  # of a logarithmic axis, at both ends of its values: half a mark at least
LOG_FACTORS = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # of ticks, 1 among them; the first of which there are not too many
TICK_INCHES = 0.33  # of a panel's width with its names, at 9-point type
WIDE_PANEL = 2.5  # inches; narrower panels have fewer ticks
KIND_STYLES = ((BLUE, "o"), (ORANGE, "D"), (GREEN, "s"), (PURPLE, "^"))
KIND_OFFSET = 0.24  # between the kinds of a line, in lines

Line = tuple[str, str]  # (group, name of its line); without a name: the heading of the group


def estimate_lines(panel: EstimatePanel) -> list[Line]:
    """Return the lines of a panel, with a heading above those of each group that has a name."""
    lines = ((estimate.group, name) for estimate in panel.estimates for name in ("", estimate.label))
    return list(dict.fromkeys(line for line in lines if any(line)))


def estimate_kinds(panels: Sequence[EstimatePanel]) -> list[str]:
    """Return the kinds of estimates in these panels, in order."""
    return list(dict.fromkeys(estimate.kind for panel in panels for estimate in panel.estimates))


def estimate_panel_height(panel: EstimatePanel, width: float, page: Page) -> float:
    """Return the height in inches of a panel without its title."""
    lines = _line_inches(panel) * page.scale * (_line_places(panel, width, page)[-1] + 1)
    return AXIS_INCHES * page.scale + max(lines, MIN_LINES_INCHES * page.scale)


def _line_inches(panel: EstimatePanel) -> float:
    return LINE_INCHES if len(estimate_lines(panel)) <= MANY_LINES else TIGHT_LINE_INCHES


def _wrap_name(line: Line, width: float, page: Page) -> str:
    share = ALONE_NAME_SHARE if width > 0.9 * page.width else NAME_SHARE
    return wrap_text(line[1] or line[0], width * share, page.small_chars_per_inch)


def _line_places(panel: EstimatePanel, width: float, page: Page) -> list[float]:
    """Return the places of the lines, 1 apart if their names are short. One of 0 stands for a panel without lines."""
    rows = [1 + _wrap_name(line, width, page).count("\n") for line in estimate_lines(panel)]
    row = page.line_height / (_line_inches(panel) * page.scale)
    sizes = [1 + (count - 1) * row for count in rows]
    places = [0.0]
    for above, below in pairwise(sizes):
        places.append(places[-1] + (above + below) / 2)
    return places


def draw_estimate_panel(
    axes: "Axes", panel: EstimatePanel, width: float, page: Page, kinds: Sequence[str], with_names: bool
) -> None:
    """Draw a panel about `width` inches wide. `kinds` are those of all panels of the figure, in order."""
    places = dict(zip(estimate_lines(panel), _line_places(panel, width, page), strict=True))
    if panel.xlog:
        axes.set_xscale("log")
        low, high = _ends(panel)
        if panel.zero is not None:
            low, high = min(low, MIN_RATIOS[0]), max(high, MIN_RATIOS[1])
        margin = (high / low) ** LOG_MARGIN
        axes.set_xlim(low / margin, high * margin)
    if panel.zero is not None:
        axes.axvline(panel.zero, color="black", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1, label="no difference")
    for kind in kinds:
        _draw_kind(axes, panel, kind, kinds, places, page)
    axes.set_yticks(list(places.values()), [_wrap_name(line, width, page) if with_names else "" for line in places])
    for text, (_, name) in zip(axes.get_yticklabels(), places, strict=True):
        text.set_fontweight("normal" if name else "bold")
    for line in list(places.values())[1::2] if len(kinds) > 1 else ():  # tells whose the marks are
        axes.axhspan(line - 0.5, line + 0.5, color="#F4F4F4", linewidth=0, zorder=0, label="line")
    last = max(places.values())
    axes.set_ylim(last + 0.6, -0.6)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    for estimate in panel.estimates:
        if estimate.text:
            place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
            at = (1, places[estimate.group, estimate.label])
            axes.annotate(estimate.text, at, (3, 0), va="center", fontsize=page.small, **place)
    _set_estimate_ticks(axes, panel, width, page)


def has_interval(estimate: Estimate) -> bool:
    """Return whether an end of an estimate's interval is known."""
    return estimate.low is not None or estimate.high is not None


def _draw_kind(
    axes: "Axes", panel: EstimatePanel, kind: str, kinds: Sequence[str], places: Mapping[Line, float], page: Page
) -> None:
    shown = [e for e in panel.estimates if e.kind == kind and e.value is not None]
    color, marker = KIND_STYLES[kinds.index(kind) % len(KIND_STYLES)]
    shift = (kinds.index(kind) - (len(kinds) - 1) / 2) * KIND_OFFSET
    low, high = _ends(panel)
    at = [places[estimate.group, estimate.label] + shift for estimate in shown]
    for estimate, place in zip(shown, at, strict=True):
        if has_interval(estimate):
            ends = (low if estimate.low is None else estimate.low, high if estimate.high is None else estimate.high)
            axes.hlines(place, *ends, color=color, linewidth=1.2, zorder=2, label="interval")
    faces = [color if has_interval(estimate) else "white" for estimate in shown]
    values = [float(estimate.value) for estimate in shown if estimate.value is not None]
    look: dict[str, Any] = {
        "s": 20 * page.scale**2,
        "marker": marker,
        "facecolor": faces,
        "edgecolor": color,
        "linewidth": 0.9,
    }
    marks = axes.scatter(values, at, zorder=3, label=kind or "value", **look)
    set_hover(marks, [estimate.hover or f"{estimate.label}: {estimate.value:.4g}" for estimate in shown])


def _ends(panel: EstimatePanel) -> tuple[float, float]:
    """Return the range of all numbers of a panel, where open intervals end."""
    numbers = [n for e in panel.estimates for n in (e.value, e.low, e.high) if n is not None]
    numbers += [panel.zero] if panel.zero is not None else []
    return min(numbers, default=0.0), max(numbers, default=1.0)


def _set_estimate_ticks(axes: "Axes", panel: EstimatePanel, width: float, page: Page) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if not panel.xlog:
        axes.xaxis.set_major_locator(MaxNLocator(5 if width > WIDE_PANEL else 3, steps=[1, 2, 5, 10]))
        return
    most = max(3, int(width / (TICK_INCHES * page.scale)) - 2)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim(), most)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,g}")


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return up to `most` ticks between two positive numbers, 1 among them if it is between them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in LOG_FACTORS:
        ticks = [f * 10.0**k for k in decades for f in factors if low <= f * 10.0**k <= high]
        if len(ticks) <= most:
            return ticks
    every = math.ceil(len(ticks) / most)
    return [10.0**k for k in decades if low <= 10.0**k <= high and k % every == 0]


def estimate_legend_entries(panels: Sequence[EstimatePanel]) -> list[LegendEntry]:
    """Return the legend entries of the kinds of estimates, if there are several."""
    kinds = [kind for kind in estimate_kinds(panels) if kind]
    point = {"markersize": 4.5, "linewidth": 1.2}
    styles = [KIND_STYLES[i % len(KIND_STYLES)] for i in range(len(kinds))]
    return [
        (kind, point | {"color": color, "marker": marker}) for kind, (color, marker) in zip(kinds, styles, strict=True)
    ]
