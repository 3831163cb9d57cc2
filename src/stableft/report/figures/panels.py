"""Panels as data: boxes, curves, points, estimates, heat maps, contours.

Scores are in percent. If a panel has nothing to show, its `missing` sentence is drawn in its place.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


def only_drawn(default: Any) -> Any:
    """Return a field that says how a panel is drawn. Reports do not store it."""
    return field(default=default, metadata={"only_drawn": True})


def panel_to_json(value: Any) -> Any:
    """Return a panel, or a part of one, as values for JSON."""
    if is_dataclass(value):
        stored = (item.name for item in fields(value) if not item.metadata.get("only_drawn"))
        return {name: panel_to_json(getattr(value, name)) for name in stored}
    return tuple(map(panel_to_json, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Box:
    """The scores of one group of runs, without NaN. `failed[i]` None: unknown."""

    label: str
    scores: tuple[float, ...]
    failed: tuple[bool | None, ...]
    n: int  # runs with a score, including NaN
    n_nan: int = 0
    n_failed: str = "-"  # e.g. "3/25"
    baseline: float | None = None  # score of the best constant prediction
    lower_is_better: bool = only_drawn(False)
    runs: tuple[str, ...] = only_drawn(())  # arm and seed of each score
    shade: str = only_drawn("")  # boxes of one shade have one colour, named in the legend
    block: str = only_drawn("")  # a line divides the boxes of one block from the next


@dataclass(frozen=True)
class BoxPanel:
    """Boxes side by side, with a point for every run, baselines as lines, and n below each box."""

    title: str
    ylabel: str
    boxes: tuple[Box, ...]
    missing: str = ""
    baseline_label: str = "baseline: always the most frequent class"
    names_label: str = only_drawn("")  # what the names of the boxes are, e.g. numbers of blocks
    share: str = only_drawn("")  # panels that share it have one score axis
    star: str = only_drawn("")  # label of the box with a star


STEP_AXIS = "optimizer step"  # the name of an axis of time within a run


@dataclass(frozen=True)
class Curve:
    """A line with an optional band between `low` and `high`. NaN in `y` breaks the line."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int | None = None  # number of runs that the curve summarizes
    color: str | None = None  # None: the next colour of the palette
    thin: bool = False  # one run of several
    dashed: bool = False
    group: str = ""  # legend entry in place of the label, e.g. one name for many runs
    hover: str = only_drawn("")  # title of the line
    legend: str = only_drawn("")  # legend entry, if it differs from both
    band: str = only_drawn("")  # what line and band are, for the legend, e.g. "mean ± 1 SD"
    dropped: tuple[float, ...] = only_drawn(())  # x from which on a run is no part of the mean, once for each run
    without_nan: tuple[float, ...] = only_drawn(())  # x whose mean is that of fewer runs, because some are NaN there


@dataclass(frozen=True)
class ReferenceLine:
    """A straight reference line across a panel."""

    label: str
    value: float


@dataclass(frozen=True)
class CurvePanel:
    """Curves over steps or trials. `sequential`: ordered curves, e.g. of layers, drawn in shades of one colour map."""

    title: str
    xlabel: str
    ylabel: str
    curves: tuple[Curve, ...]
    xlog: bool = False
    ylog: bool = False
    vertical: tuple[ReferenceLine, ...] = ()
    horizontal: tuple[ReferenceLine, ...] = ()
    top: float | None = None  # y limit
    bottom: float | None = None  # y limit
    left: float | None = None  # x limit
    sequential: bool = False
    xticks: tuple[float, ...] = ()
    missing: str = ""
    share: str = only_drawn("")  # panels that share it have one y axis
    possible: tuple[float | None, float | None] = only_drawn((None, None))  # range of y, which bands do not leave
    metric: str = only_drawn("")  # in `ylabel`; panels whose labels differ in it alone have the rest of them once
    scale_label: str = only_drawn("")  # of the colour bar of ordered curves
    steps: bool = only_drawn(False)  # curves are steps, with last values and their bands beside them
    counted: bool = only_drawn(False)  # the title has the numbers of runs
    note: str = only_drawn("")  # below the figure


@dataclass(frozen=True)
class PointGroup:
    """Points in one style."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str | None = None
    marker: str = "o"
    runs: tuple[str, ...] = only_drawn(())  # arm and seed of each point


@dataclass(frozen=True)
class PointPanel:
    """A point for every run, e.g. its score over its training loss."""

    title: str
    xlabel: str
    ylabel: str
    groups: tuple[PointGroup, ...]
    xlog: bool = False
    horizontal: tuple[ReferenceLine, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    A missing end is open, a missing value is not drawn, and one without any end has a hollow mark.
    """

    label: str  # of its line; estimates in a row with one label share the line
    value: float | None
    low: float | None = None
    high: float | None = None
    kind: str = ""  # estimates of one kind have one colour and marker
    text: str = ""  # right of the panel
    hover: str = ""
    group: str = ""  # heading above the lines of a group; one label may be in several groups


@dataclass(frozen=True)
class EstimatePanel:
    """Estimates with their intervals on lines below each other, and a vertical line at `zero`: no difference."""

    title: str
    xlabel: str
    estimates: tuple[Estimate, ...]
    zero: float | None = None
    xlog: bool = False
    ylabel: str = ""
    missing: str = ""
    share: str = ""  # panels that share it have one x axis


@dataclass(frozen=True)
class HeatPanel:
    """A coloured grid with a number in each cell. None is an empty cell. Panels of one unit share a colour scale.

    The last `margins` columns and rows are summaries, e.g. min, mean and max, and are drawn apart from the rest.
    """

    title: str
    xlabel: str
    ylabel: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    digits: int = 1
    margins: int = 0
    missing: str = ""


@dataclass(frozen=True)
class MarkedPoint:
    """A marked point of a contour plot, e.g. the pre-trained model."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class ContourPanel:
    """A surface over two directions: `z[i][j]` at `y[i]`, `x[j]`.

    `levels`, if given, are the contour levels, in equal steps of the logarithm. Panels that share a colour scale have
    such levels from their lowest one to their highest value.
    """

    title: str
    xlabel: str
    ylabel: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    zlabel: str = ""
    log: bool = False  # unused; kept because reports store it
    places: tuple[MarkedPoint, ...] = field(default=())
    missing: str = ""
    levels: tuple[float, ...] = ()


BLANK = CurvePanel("", "", "", (), missing=" ")  # an empty place in the grid of a figure
Panel = BoxPanel | CurvePanel | PointPanel | EstimatePanel | HeatPanel | ContourPanel
