"""Cut the empty part out of a score axis where it would hide the spread of the scores."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# An axis is cut if an empty part is over this share of it, and no part with scores is over that share. The second pair
# is for empty parts of so many points, such as from a correlation of 0 to the scores.
CUT_SHARES, FAR_CUT_SHARES, FAR_POINTS = (0.6, 0.15), (0.5, 0.35), 40.0
CUT_SHARE = 0.07  # of an axis, for the cut
MARGIN = 0.06  # of the range of the values, at every end of it
MIN_RANGE = 0.5  # of an axis, in percent, around a single value
MAX_TICKS = 5  # of an axis, about
CUT_NOTE = "Where an axis is cut, both parts have one scale."
FOOT_SHARE = 0.1  # of an axis, below the lowest score, for runs without a number


class ScoreAxis(NamedTuple):
    """The limits of an axis of scores, and the ends of the part that is cut out of it, if one is.

    A point of score has the same length on both sides of the cut, so that spreads can be compared.
    """

    low: float
    high: float
    cut: tuple[float, float] | None

    @property
    def shown(self) -> float:
        """The points of score that the axis shows, without those that are cut out."""
        return self.high - self.low - (self.cut[1] - self.cut[0] if self.cut else 0)

    @property
    def lower_share(self) -> float:
        """The share of the axis that is below the cut."""
        return (1 - CUT_SHARE) * (self.cut[0] - self.low) / self.shown if self.cut else 0.0

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Return the places on the axis, from 0 to 1, of these scores."""
        places, knots = self._knots()
        return _piecewise(values, knots, places)

    def inverse(self, places: np.ndarray) -> np.ndarray:
        shares, knots = self._knots()
        return _piecewise(places, shares, knots)

    def _knots(self) -> tuple[list[float], list[float]]:
        if not self.cut:
            return [0, 1], [self.low, self.high]
        return [0, self.lower_share, self.lower_share + CUT_SHARE, 1], [self.low, *self.cut, self.high]


def _piecewise(x: np.ndarray, xs: Sequence[float], ys: Sequence[float]) -> np.ndarray:
    """Return the piecewise linear function through these points, which goes on in a straight line at both ends."""
    x = np.asarray(x, dtype=float)
    slopes = np.diff(ys) / np.diff(xs)
    below, above = ys[0] + (x - xs[0]) * slopes[0], ys[-1] + (x - xs[-1]) * slopes[-1]
    return np.where(x < xs[0], below, np.where(x > xs[-1], above, np.interp(x, xs, ys)))


def choose_score_axis(scores: Sequence[float], baselines: Sequence[float], foot: bool = False) -> ScoreAxis:
    """Return the axis of these scores and baselines. `foot`: with room below for runs without a number."""
    values = sorted({*scores, *baselines})
    if not values:
        return ScoreAxis(0.0, 100.0, None)
    low, high = values[0], values[-1]
    gaps = [(after - before, before, after) for before, after in itertools.pairwise(values)]
    gap, before, after = max(gaps, default=(0.0, low, high))
    total = max(high - low, MIN_RANGE)
    empty, filled = FAR_CUT_SHARES if gap > FAR_POINTS else CUT_SHARES
    if gap > empty * total and max(before - low, high - after) < filled * total:
        filled = max(high - low - gap, MIN_RANGE)
        margin = MARGIN * filled + (filled - (high - low - gap)) / 4
        return ScoreAxis(low - margin - FOOT_SHARE * filled * foot, high + margin, (before + margin, after - margin))
    half, middle = max((high - low) * (0.5 + MARGIN), MIN_RANGE / 2), (low + high) / 2
    low, high = middle - half, middle + half
    return ScoreAxis(low - (high - low) * FOOT_SHARE * foot, high, None)


def apply_score_axis(axes: "Axes", score_axis: ScoreAxis, along_x: bool, size: float, ticks: int = MAX_TICKS) -> None:
    """Set limits and up to about `ticks` ticks of a panel's score axis, and mark where it is cut.

    `size` is that of its type in points.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if along_x else (axes.set_yscale, axes.set_ylim)
    axis = axes.xaxis if along_x else axes.yaxis
    if score_axis.cut is None:
        set_limits(score_axis.low, score_axis.high)
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
        return
    set_scale("function", functions=(score_axis.forward, score_axis.inverse))
    set_limits(score_axis.low, score_axis.high)
    low, high = score_axis.cut
    step = float(np.diff(MaxNLocator(ticks + 1, steps=[1, 2, 5, 10]).tick_values(0, score_axis.shown))[0])
    places: list[float] = []
    for start, end in ((score_axis.low, low), (high, score_axis.high)):
        within = step * np.arange(np.ceil(start / step), np.floor(end / step) + 1)
        finer = [tick for tick in MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(start, end) if start <= tick <= end]
        places += within.tolist() or finer[:1] or [(start + end) / 2]
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value + 0.0:.4g}")
    span = axes.axvspan if along_x else axes.axhspan
    span(low, high, facecolor="#F0F0F0", edgecolor="#BBBBBB", linestyle=":", linewidth=0.7, zorder=6)
    middle = float(score_axis.inverse(np.array(score_axis.lower_share + CUT_SHARE / 2)))
    place = (middle, 0.5) if along_x else (0.5, middle)
    transform = axes.get_xaxis_transform() if along_x else axes.get_yaxis_transform()
    axes.text(
        *place,
        "axis cut",
        transform=transform,
        rotation=90 if along_x else 0,
        ha="center",
        va="center",
        fontsize=size,
        color="#555555",
        zorder=7,
    )
