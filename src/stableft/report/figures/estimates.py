"""Draw estimates with their intervals on lines below each other, as in a forest plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stableft.report.figures.panels import EstimatePanel
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


# Of a line, of all lines, and above and below them, at 9-point type.
LINE_INCHES, MIN_LINES_INCHES, AXIS_INCHES = 0.2, 0.9, 0.75
NAME_SHARE = 0.4  # of the width, for the names
KIND_STYLES = ((BLUE, "o"), (ORANGE, "D"), (GREEN, "s"), (PURPLE, "^"))
KIND_OFFSET = 0.24  # between the kinds of a line, in lines


def estimate_lines(panel: EstimatePanel) -> list[str]:
    return list(dict.fromkeys(estimate.label for estimate in panel.estimates))


def estimate_kinds(panels: Sequence[EstimatePanel]) -> list[str]:
    """Return the kinds of estimates in these panels, in order."""
    return list(dict.fromkeys(estimate.kind for panel in panels for estimate in panel.estimates))


def estimate_panel_height(panel: EstimatePanel, width: float, page: Page) -> float:
    """Return the height in inches of a panel without its title."""
    names = estimate_lines(panel)
    line = max(LINE_INCHES * page.scale, *(_name_inches(name, width, page) for name in names))
    return AXIS_INCHES * page.scale + max(line * len(names), MIN_LINES_INCHES * page.scale)


def _name_inches(name: str, width: float, page: Page) -> float:
    return page.line_height * (1 + wrap_text(name, width * NAME_SHARE, page.small_chars_per_inch).count("\n"))


def draw_estimate_panel(
    axes: "Axes", panel: EstimatePanel, width: float, page: Page, kinds: Sequence[str], with_names: bool
) -> None:
    """Draw a panel about `width` inches wide. `kinds` are those of all panels of the figure, in order."""
    names = estimate_lines(panel)
    if panel.xlog:
        axes.set_xscale("log")
    if panel.zero is not None:
        axes.axvline(panel.zero, color="black", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1, label="no difference")
    for kind in kinds:
        _draw_kind(axes, panel, kind, kinds, names)
    labels = [wrap_text(name, width * NAME_SHARE, page.small_chars_per_inch) for name in names]
    axes.set_yticks(range(len(names)), labels if with_names else [""] * len(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    for estimate in panel.estimates:
        if estimate.text:
            place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
            at = (1, names.index(estimate.label))
            axes.annotate(estimate.text, at, (3, 0), va="center", fontsize=page.small, **place)
    _set_estimate_ticks(axes, panel, width)


def _draw_kind(axes: "Axes", panel: EstimatePanel, kind: str, kinds: Sequence[str], names: Sequence[str]) -> None:
    shown = [e for e in panel.estimates if e.kind == kind and e.value is not None]
    color, marker = KIND_STYLES[kinds.index(kind) % len(KIND_STYLES)]
    shift = (kinds.index(kind) - (len(kinds) - 1) / 2) * KIND_OFFSET
    places = [names.index(e.label) + shift for e in shown]
    values = [float(e.value) for e in shown if e.value is not None]
    low, high = _ends(panel)
    for estimate, place in zip(shown, places, strict=True):
        if estimate.low is not None or estimate.high is not None:
            ends = (low if estimate.low is None else estimate.low, high if estimate.high is None else estimate.high)
            axes.hlines(place, *ends, color=color, linewidth=1.2, zorder=2, label="interval")
    marks = axes.scatter(values, places, s=20, color=color, marker=marker, zorder=3, linewidth=0, label=kind or "value")
    set_hover(marks, [estimate.hover or f"{estimate.label}: {estimate.value:.4g}" for estimate in shown])


def _ends(panel: EstimatePanel) -> tuple[float, float]:
    """Return the range of all numbers of a panel, where open intervals end."""
    numbers = [n for e in panel.estimates for n in (e.value, e.low, e.high) if n is not None]
    numbers += [panel.zero] if panel.zero is not None else []
    return min(numbers, default=0.0), max(numbers, default=1.0)


def _set_estimate_ticks(axes: "Axes", panel: EstimatePanel, width: float) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    count = 5 if width > 2.5 else 3
    if panel.xlog:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0), numticks=count + 2)
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10]))


def estimate_legend_entries(panels: Sequence[EstimatePanel]) -> list[LegendEntry]:
    """Return the legend entries of the kinds of estimates, if there are several."""
    kinds = [kind for kind in estimate_kinds(panels) if kind]
    point = {"markersize": 4.5, "linewidth": 1.2}
    styles = [KIND_STYLES[i % len(KIND_STYLES)] for i in range(len(kinds))]
    return [
        (kind, point | {"color": color, "marker": marker}) for kind, (color, marker) in zip(kinds, styles, strict=True)
    ]
