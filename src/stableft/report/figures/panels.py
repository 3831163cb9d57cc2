"""Panels as data: boxes, curves, points, heat maps, contours.

Scores are in percent. The `missing` sentence of a panel that has nothing to show yet is drawn in its place.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Box:
    """The scores of one group of runs. `scores` has no NaN; `failed[i]` is None where it is not known."""

    label: str
    scores: tuple[float, ...]
    failed: tuple[bool | None, ...]
    n: int  # runs with a score, the NaN ones included
    n_nan: int = 0
    n_failed: str = "-"  # such as "3/25"
    baseline: float | None = None  # of always predicting the most frequent class


@dataclass(frozen=True)
class BoxPanel:
    """Boxes side by side, every run as a point, the majority baseline as a line, n under each box."""

    title: str
    ylabel: str
    boxes: tuple[Box, ...]
    missing: str = ""
    baseline_label: str = "baseline: always the most frequent class"


@dataclass(frozen=True)
class Curve:
    """A line, with a band between `low` and `high` where there is one. NaN in `y` breaks the line."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int | None = None  # runs behind it
    color: str | None = None  # None: the next one of the house's palette
    thin: bool = False  # one run of several
    dashed: bool = False
    group: str = ""  # what the legend says in place of the label, such as one name for many runs


@dataclass(frozen=True)
class ReferenceLine:
    """A straight reference line across a panel."""

    label: str
    value: float


@dataclass(frozen=True)
class CurvePanel:
    """Curves over steps, trials or layers. `sequential`: many ordered curves, such as layers, in shades of one hue."""

    title: str
    xlabel: str
    ylabel: str
    curves: tuple[Curve, ...]
    xlog: bool = False
    ylog: bool = False
    vertical: tuple[ReferenceLine, ...] = ()
    horizontal: tuple[ReferenceLine, ...] = ()
    top: float | None = None  # of the y axis
    bottom: float | None = None
    left: float | None = None  # of the x axis
    sequential: bool = False
    xticks: tuple[float, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class PointGroup:
    """Runs as points of one kind."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str | None = None
    marker: str = "o"


@dataclass(frozen=True)
class PointPanel:
    """Runs as points, such as a score over a training loss."""

    title: str
    xlabel: str
    ylabel: str
    groups: tuple[PointGroup, ...]
    xlog: bool = False
    horizontal: tuple[ReferenceLine, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class HeatPanel:
    """A grid of numbers, each written into its cell; None is an empty cell. Panels of a figure share the colours.

    The last `margins` columns and rows are summaries, such as min, mean and max, set apart from the rest.
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
    """A marked point of a contour plot, such as the pre-trained model."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class ContourPanel:
    """A surface over two directions: `z[i][j]` at `y[i]`, `x[j]`.

    `levels`, if given, are those to draw, as far as the numbers of the panels that share a bar of colours reach.
    """

    title: str
    xlabel: str
    ylabel: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    zlabel: str = ""
    log: bool = False  # not used; stored reports have it
    places: tuple[MarkedPoint, ...] = field(default=())
    missing: str = ""
    levels: tuple[float, ...] = ()


Panel = BoxPanel | CurvePanel | PointPanel | HeatPanel | ContourPanel
