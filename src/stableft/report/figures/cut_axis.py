"""Cut the empty part out of a score axis where it would hide the spread of the scores."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# An axis is cut if an empty part is over this share of it, and no part with scores is over that share.
MIN_EMPTY_SHARE, MAX_FILLED_SHARE = 0.6, 0.15
LOWER_SHARES, CUT_SHARE = (0.2, 0.36), 0.07  # of the axis: the part below the cut, without and with scores; the cut
MARGIN, LOWER_MARGIN = 0.06, 0.25  # of a part's range, at its ends
MIN_RANGE = 0.5  # of a part, in percent, around a single value
FOOT_SHARE = 0.1  # of an axis, below the lowest score, for runs without a number


class ScoreAxis(NamedTuple):
    """The limits of an axis of scores, and the ends of the part that is cut out of it, if one is."""

    low: float
    high: float
    cut: tuple[float, float] | None
    lower_share: float = 0.0  # of the axis, below the cut

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
    if gap > MIN_EMPTY_SHARE * total and max(before - low, high - after) < MAX_FILLED_SHARE * total:
        lower, upper = _with_margin(low, before, LOWER_MARGIN), _with_margin(after, high, MARGIN)
        share = LOWER_SHARES[any(score <= before for score in scores)]
        if lower[1] < upper[0]:
            bottom = lower[0] - (lower[1] - lower[0]) * FOOT_SHARE / share * foot
            return ScoreAxis(bottom, upper[1], (lower[1], upper[0]), share)
    low, high = _with_margin(low, high, MARGIN)
    return ScoreAxis(low - (high - low) * FOOT_SHARE * foot, high, None)


def _with_margin(low: float, high: float, margin: float) -> tuple[float, float]:
    half = max((high - low) * (0.5 + margin), MIN_RANGE / 2)
    middle = (low + high) / 2
    return middle - half, middle + half


def apply_score_axis(axes: "Axes", score_axis: ScoreAxis, along_x: bool, size: float) -> None:
    """Set limits and ticks of a panel's score axis, and mark where it is cut. `size` is that of its type in points."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if along_x else (axes.set_yscale, axes.set_ylim)
    axis = axes.xaxis if along_x else axes.yaxis
    if score_axis.cut is None:
        set_limits(score_axis.low, score_axis.high)
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    set_scale("function", functions=(score_axis.forward, score_axis.inverse))
    set_limits(score_axis.low, score_axis.high)
    low, high = score_axis.cut
    lower = MaxNLocator(1, steps=[1, 2, 5, 10]).tick_values(score_axis.low, low)
    upper = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(high, score_axis.high)
    below = [tick for tick in lower if score_axis.low < tick < low][:1] or [(score_axis.low + low) / 2]
    above = [float(tick) for tick in upper if high <= tick <= score_axis.high]
    axis.set_major_locator(FixedLocator([*below, *above]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.4g}")
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
