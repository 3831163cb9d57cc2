"""Panels as data: boxes, curves, points, heat maps, contours.

Scores are in percent. If a panel has nothing to show, its `missing` sentence is drawn in its place.
"""

from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class BoxPanel:
    """Boxes side by side, with a point for every run, baselines as lines, and n below each box."""

    title: str
    ylabel: str
    boxes: tuple[Box, ...]
    missing: str = ""
    baseline_label: str = "baseline: always the most frequent class"


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


@dataclass(frozen=True)
class PointGroup:
    """Points in one style."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str | None = None
    marker: str = "o"


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

    `levels`, if given, are the contour levels, restricted to the range of the panels that share a colour scale.
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


Panel = BoxPanel | CurvePanel | PointPanel | HeatPanel | ContourPanel
