"""The figure of single predictions: the examples in order of how many runs are right on them, a curve for each arm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stableft.probes.points_view import ALL, FINE, View
from stableft.report.figures import draw
from stableft.report.panels import Curve, CurvePanel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 1000  # points of a curve; of more examples those at equal distances are drawn


def draw_points(sections: Sequence[Sequence[View]]) -> "Figure":
    """Returns the figure: for each task a panel of all runs and, where some failed, one of the others."""
    panels = []
    for section in sections:
        kinds = [ALL, FINE] if any(view.which == FINE for view in section) else [ALL]
        panels += [_panel(section, kind) for kind in kinds]
    return draw(panels, _caption(sections))


def _caption(sections: Sequence[Sequence[View]]) -> str:
    views = [view for section in sections for view in section]
    order = "Each arm has its own order of examples."
    if not any(view.group.classes for view in views):
        return order
    if any(view.right is not None for view in views):
        return f"{order} At 0 and 100 all runs are alike, wrong or right."
    return f"{order} At 100 all runs agree."


def _panel(section: Sequence[View], kind: str) -> CurvePanel:
    group = section[0].group
    title = f"{group.task or group.where}: {kind}"
    views = [_of_kind(section, view, kind) for view in section if view.which == ALL]
    drawn = [view for view in views if not view.missing]
    if not drawn:
        return CurvePanel(title, "", "", (), missing=f"no arm has two {kind}")
    ylabel, top = _what(drawn[0])
    curves = tuple(_curve(view) for view in drawn)
    return CurvePanel(title, "examples, sorted, in percent", ylabel, curves, top=top, bottom=-3 if top else 0, left=0)


def _of_kind(section: Sequence[View], view: View, kind: str) -> View:
    """Returns the arm's runs of that kind: where none failed all of them."""
    return next((other for other in section if other.group is view.group and other.which == kind), view)


def _what(view: View) -> tuple[str, float | None]:
    if not view.group.classes:
        return "SD over runs of the prediction", None
    return ("runs that are right, in percent" if view.right is not None else "runs that agree, in percent"), 103


def _curve(view: View) -> Curve:
    if not view.group.classes:
        values = np.sqrt(view.unstable)
    elif view.right is not None:
        values = 100 * view.right.mean(axis=0)
    else:
        values = 100 * view.agreed
    ranks = np.unique(np.linspace(0, view.m - 1, min(view.m, MOST)).round().astype(int))
    x = 100 * (ranks + 0.5) / view.m
    return Curve(view.group.arm, tuple(x.tolist()), tuple(np.sort(values)[ranks].tolist()), n=view.n)
