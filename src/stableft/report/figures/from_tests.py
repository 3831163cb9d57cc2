"""Build panels from tests: effects of arms against a reference, our numbers against published ones, and power."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stableft.catalog.tasks import task_title
from stableft.report.arm_cells import ArmCell
from stableft.report.artifact import arm_without_source, is_imported
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel, Estimate, EstimatePanel, ReferenceLine
from stableft.report.forms.document import DrawFigure
from stableft.report.numbers_in_words import abbreviate_papers, failed_value
from stableft.report.pair_tests import PairTests, compare_with_reference
from stableft.report.paper_values import PublishedValue
from stableft.stats import Summary
from stableft.stats.power import PowerCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEVEL = 0.95  # of the intervals of a mean and a standard deviation
EFFECTS_NOTE = (
    "Each 95 % interval is for itself; the report's tests are adjusted for their number. Ratios have an interval from "
    "10 runs an arm on."
)
OURS, OTHERS = "these runs", "published"
EFFECTS_FIGURE, PUBLISHED_FIGURE = "effects", "against-published"
TEST_FIGURE_ALTS = {
    EFFECTS_FIGURE: "Difference of the share of failed runs and ratio of the standard deviations, of every arm against "
    "the reference arm, with 95 % intervals",
    PUBLISHED_FIGURE: "Mean and standard deviation of every arm beside the published ones, with 95 % intervals",
}


class PublishedPair(NamedTuple):
    """The scores of an arm on a task, and the published value that they are compared with."""

    label: str
    summary: Summary
    published: PublishedValue


def figures_of_tests(
    families: Iterable[Sequence[ArmCell]], published: Sequence[PublishedPair], pairs: Sequence[PairTests] = ()
) -> dict[str, DrawFigure]:
    """Return figure name -> function that draws it, for those of which there is anything to draw.

    Without `pairs`, every arm is tested against the first of its family when the figure is drawn, which takes seconds.
    """
    scored = [[cell for cell in family if cell.summary.n] for family in families]

    def draw_effects(width: float | None = None) -> "Figure":
        tested = pairs or compare_with_reference(
            [(cell, first) for (first, *others) in filter(None, scored) for cell in others]
        )
        return draw_panels(build_effect_panels(tested), EFFECTS_NOTE, width=width)

    def draw_published(width: float | None = None) -> "Figure":
        return draw_panels(build_published_panels(published), width=width)

    found: dict[str, DrawFigure] = {EFFECTS_FIGURE: draw_effects} if any(len(family) > 1 for family in scored) else {}
    return found | ({PUBLISHED_FIGURE: draw_published} if published else {})


def build_effect_panels(pairs: Sequence[PairTests]) -> list[EstimatePanel]:
    """Return a forest plot: a panel of the differences in failed runs, and one of the SD ratios, arms x tasks."""
    references = {_short_name(pair.reference) for pair in pairs}
    against = f", against {references.pop()}" if len(references) == 1 else ""
    several_tasks = len({pair.arm.task for pair in pairs}) > 1
    labels = [_label_pair(pair, not against, several_tasks) for pair in pairs]
    failures, ratios = [], []
    for label, pair in zip(labels, pairs, strict=True):
        counts = f"{failed_value(pair.arm).text} against {failed_value(pair.reference).text} failed"
        interval = pair.failed_interval
        difference, low, high = map(_in_points, (pair.failed_difference, interval.low, interval.high))
        failures.append(Estimate(label, difference, low, high, hover=f"{label}: {counts}"))
        ratio = pair.sd_ratio
        drawable = ratio.value if ratio.value and math.isfinite(ratio.value) else None
        positive_low = ratio.interval.low or None  # an open end: 0 has no place on a logarithmic axis
        ratios.append(Estimate(label, drawable, positive_low, ratio.interval.high))
    return [
        _panel(f"Failed runs{against}", "difference in points", failures, 0.0),
        _panel(f"Spread{against}", "SD of the reference over SD of the arm", ratios, 1.0, xlog=True),
    ]


def _in_points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _label_pair(pair: PairTests, with_reference: bool, with_task: bool) -> str:
    task = f", {task_title(pair.arm.task)}" if with_task else ""
    return f"{_short_name(pair.arm)}{f' against {_short_name(pair.reference)}' if with_reference else ''}{task}"


def _short_name(cell: ArmCell) -> str:
    """Return the name of an arm, without the file that it was imported from."""
    return f"{arm_without_source(cell.arm)}{' (imported)' if is_imported(cell.arm) else ''}"


def _panel(
    title: str, xlabel: str, estimates: Sequence[Estimate], zero: float | None, xlog: bool = False
) -> EstimatePanel:
    missing = "" if any(estimate.value is not None for estimate in estimates) else "no such number is known"
    return EstimatePanel(title, xlabel, tuple(estimates), zero, xlog, missing=missing)


def build_published_panels(pairs: Sequence[PublishedPair]) -> list[EstimatePanel]:
    """Return a panel of means and one of standard deviations: our runs and the published ones on a line for each cell.

    The intervals are those of normal scores: Student's for a mean, from chi-square for a standard deviation.
    """
    means: list[Estimate] = []
    deviations: list[Estimate] = []
    for label, ours, value in pairs:
        sides = (
            (OURS, ours.mean, ours.std, ours.n_finite),
            (OTHERS, value.fraction("mean"), value.fraction("std"), value.n),
        )
        for kind, mean, std, n in sides:
            percent, deviation = _in_points(mean), _in_points(std)
            source = kind if kind == OURS else abbreviate_papers(value.place)
            hover = f"{label}, {source}: {_number(percent)} ± {_number(deviation)}, n = {n}"
            ends = (None, None) if percent is None or deviation is None else mean_interval(percent, deviation, n)
            means.append(Estimate(label, percent, *ends, kind=kind, hover=hover))
            ends = (None, None) if deviation is None else std_interval(deviation, n)
            deviations.append(Estimate(label, deviation, *ends, kind=kind, hover=hover))
    return [
        _panel("Mean", "score in percent", means, None),
        _panel("Standard deviation", "points", deviations, None),
    ]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def mean_interval(mean: float, std: float, n: int) -> tuple[float | None, float | None]:
    """Return Student's interval of the mean of n normal values. (None, None) if n is below 2."""
    from scipy import stats

    if n < 2:
        return None, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return mean - half, mean + half


def std_interval(std: float, n: int) -> tuple[float | None, float | None]:
    """Return the interval of the standard deviation of n normal values, from chi-square. (None, None) below n = 2."""
    from scipy import stats

    if n < 2:
        return None, None
    low, high = (std * math.sqrt((n - 1) / float(stats.chi2.ppf(p, n - 1))) for p in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return low, high


def build_power_panel(curves: Sequence[PowerCurve], title: str = "") -> CurvePanel:
    """Return a panel with the power of each test over the number of runs per arm, and the power aimed at."""
    drawn = []
    for curve in curves:
        needed = f"{curve.needed} needed" if curve.needed else curve.reason or "no power"
        points = [point for point in curve.points if point.power is not None]
        if points:
            ends = [(p.interval.low, p.interval.high) for p in points]
            known = all(low is not None and high is not None for low, high in ends)
            low, high = zip(*ends, strict=True) if known else ((), ())
            name = f"{curve.effect}: {needed}"
            x, y = tuple(float(p.n) for p in points), tuple(float(p.power or 0.0) for p in points)
            drawn.append(Curve(name, x, y, low, high))
    missing = "" if drawn else "; ".join(dict.fromkeys(curve.reason or "no power" for curve in curves))
    targets = dict.fromkeys(curve.target for curve in curves)
    return CurvePanel(
        title,
        "runs per arm",
        "power",
        tuple(drawn),
        xlog=True,
        horizontal=tuple(ReferenceLine(f"power {target:g}", target) for target in targets),
        bottom=0.0,
        top=1.02,
        missing=missing,
        possible=(0.0, 1.0),
    )


def draw_power(curves: Sequence[PowerCurve], title: str = "", width: float | None = None) -> "Figure":
    """Return the figure of the power of these tests."""
    return draw_panels([build_power_panel(curves, title)], width=width)
