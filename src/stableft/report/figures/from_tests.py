"""Build panels from tests: effects of arms against a reference, our numbers against published ones, and power."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from stableft.catalog.tasks import metric_title, task_title
from stableft.records.failure import LOWER_IS_BETTER
from stableft.report.arm_cells import ArmCell
from stableft.report.artifact import arm_without_source, is_imported
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.estimates import has_interval
from stableft.report.figures.panels import Curve, CurvePanel, Estimate, EstimatePanel, ReferenceLine
from stableft.report.figures.style import PAGE_WIDTH
from stableft.report.forms.document import DrawFigure
from stableft.report.numbers_in_words import abbreviate_papers, failed_value
from stableft.report.pair_tests import PairTests, compare_with_reference
from stableft.report.paper_values import PublishedValue
from stableft.stats import Interval, Summary
from stableft.stats.power import PowerCurve
from stableft.stats.tests import MIN_RUNS_FOR_BCA
from stableft.text import join_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEVEL = 0.95  # of the intervals of a mean and a standard deviation
ADJUSTED_NOTE = "The report's tests are adjusted for their number, these intervals are not."
DAGGER = "†"
DAGGER_NOTE = f"{DAGGER}: most runs failed, so a small spread is no stability."
PUBLISHED_NOTE = (
    f"{100 * LEVEL:g} % intervals of normal scores: Student's of a mean, from chi-square of a standard deviation."
)
AXES_NOTE = "Each task has its own axes."
INCOMPATIBLE = "≠"
INCOMPATIBLE_NOTE = (
    f"{INCOMPATIBLE}: the mean is not compatible with the published one at .05, by Welch's t-test from summaries."
)
LOG_ABOVE_RATIO = (
    6.0  # largest end of an interval over the median standard deviation; above it, the axis is logarithmic
)
MANY_TASKS = 2  # more stand two a row where a page is wide enough
EFFECT_LABEL = "arm minus reference, points"
RATIO_LABEL = "SD of reference / SD of arm (>\N{NO-BREAK SPACE}1: arm is steadier)"
OURS, OTHERS = "these runs", "published"
EFFECTS_FIGURE, PUBLISHED_FIGURE = "effects", "against-published"
TEST_FIGURE_ALTS = {
    EFFECTS_FIGURE: "Difference of the share of failed runs, difference of the means and ratio of the standard "
    "deviations, of every arm against the reference arm, with 95 % intervals",
    PUBLISHED_FIGURE: "Mean and standard deviation of every arm beside the published ones, with 95 % intervals",
}


CellKey = tuple[str, str, str | None]


def _key(cell: ArmCell) -> CellKey:
    """Return what tells the cells of a report apart. A table may have the scores of two splits."""
    return cell.arm, cell.task, cell.split


class NamedCell(NamedTuple):
    """A cell under the name that its table has for it, in the group of its task."""

    group: str
    label: str
    cell: ArmCell


class PublishedPair(NamedTuple):
    """The scores of an arm on a task, and the published value that they are compared with."""

    group: str
    label: str
    metric: str | None
    summary: Summary
    published: PublishedValue
    compatible: bool | None  # the means, at .05. None: not tested


def figures_of_tests(
    families: Iterable[Sequence[NamedCell]], published: Sequence[PublishedPair], pairs: Sequence[PairTests] = ()
) -> dict[str, DrawFigure]:
    """Return figure name -> function that draws it, for those of which there is anything to draw.

    Without `pairs`, every arm is tested against the first of its family when the figure is drawn, which takes seconds.
    """
    scored = [[named for named in family if named.cell.summary.n] for family in families]

    def draw_effects(width: float | None = None) -> "Figure":
        tested = pairs or compare_with_reference(
            [(named.cell, first.cell) for (first, *others) in filter(None, scored) for named in others]
        )
        names = {_key(named.cell): named for family in scored for named in family}
        panels, notes = build_effect_panels(tested, names)
        notes += [ADJUSTED_NOTE] if pairs else []  # a table of means has the tests of its paper
        return draw_panels(panels, " ".join(notes), len(panels), width=width)

    def draw_published(width: float | None = None) -> "Figure":
        panels, notes = build_published_panels(published)
        per_row = 4 if len(panels) > 2 * MANY_TASKS and (width or PAGE_WIDTH) >= PAGE_WIDTH else 2
        return draw_panels(panels, " ".join(notes), per_row, width=width)

    found: dict[str, DrawFigure] = {EFFECTS_FIGURE: draw_effects} if any(len(family) > 1 for family in scored) else {}
    return found | ({PUBLISHED_FIGURE: draw_published} if published else {})


def build_effect_panels(
    pairs: Sequence[PairTests], names: Mapping[CellKey, NamedCell]
) -> tuple[list[EstimatePanel], list[str]]:
    """Return a forest plot and its notes: panels of the differences in failed runs and means, and of the SD ratios.

    `names` has the name of each cell with a score. A panel in which nothing differs is left out, and a note says so.
    """
    pairs = [
        pair for pair in pairs if _key(pair.arm) in names and _key(pair.reference) in names
    ]  # others have no score
    named = {id(pair): (names[_key(pair.arm)], names[_key(pair.reference)]) for pair in pairs}
    groups = list(dict.fromkeys(arm.group for arm, _ in named.values()))
    pairs = sorted(pairs, key=lambda pair: groups.index(named[id(pair)][0].group))
    references = {_short_name(reference.label) for _, reference in named.values()}
    without_shared = {
        _words_apart(reference, arm) for arm, reference in named.values()
    }  # "Standard" of "XLNet, Standard"
    references = references if len(references) == 1 else without_shared if len(without_shared) == 1 else set()
    failures: list[Estimate] = []
    means: list[Estimate] = []
    ratios: list[Estimate] = []
    for pair in pairs:
        arm, reference = named[id(pair)]
        label = _short_name(arm.label) + _dagger(arm.cell)
        label += "" if references else f" against {_short_name(reference.label)}{_dagger(reference.cell)}"
        marked = f"reference{_dagger(reference.cell)}" if references and reference.cell.mostly_failed else ""
        scores = f"{arm.group or task_title(arm.cell.task)}, {metric_title(arm.cell.metric)}" if arm.cell.metric else ""
        group = "; ".join(filter(None, [scores if len(groups) > 1 or marked else "", marked]))
        counts = f"{failed_value(pair.arm).text} against {failed_value(pair.reference).text} failed"
        failures.append(_difference(label, pair.failed_difference, pair.failed_interval, group, f"{label}: {counts}"))
        means.append(_difference(label, pair.mean_difference, pair.mean_interval, group))
        ratio = pair.sd_ratio
        drawable = ratio.value if ratio.value and math.isfinite(ratio.value) else None
        positive_low = ratio.interval.low or None  # an open end: 0 has no place on a logarithmic axis
        ratios.append(Estimate(label, drawable, positive_low, ratio.interval.high, group=group))
    all_lower = bool(pairs) and all(pair.arm.lower_is_better for pair in pairs)
    mean_label = f"{EFFECT_LABEL} ({LOWER_IS_BETTER})" if all_lower else EFFECT_LABEL
    panels = [
        EstimatePanel("Failed runs", EFFECT_LABEL, tuple(failures), 0.0),
        EstimatePanel("Mean", mean_label, tuple(means), 0.0),
        EstimatePanel("Spread", RATIO_LABEL, tuple(ratios), 1.0, xlog=True),
    ]
    notes = [f"Every arm against {reference.removesuffix('.')}." for reference in references]
    differing = [panel for panel in panels if any(e.value not in (None, panel.zero) for e in panel.estimates)]
    drawn = differing or panels[:1]
    notes += [_describe_intervals(pairs[0], [panel.title for panel in drawn]), *_explain_ratios(pairs, ratios)]
    notes += [DAGGER_NOTE] if any(pair.arm.mostly_failed or pair.reference.mostly_failed for pair in pairs) else []
    notes += _nan_note([cell for both in named.values() for cell in both])
    notes += [_describe_omitted(panel) for panel in panels if panel not in differing]
    return drawn, notes


def _dagger(cell: ArmCell) -> str:
    return f"\N{NO-BREAK SPACE}{DAGGER}" if cell.mostly_failed else ""


def _nan_note(shown: Iterable[NamedCell]) -> list[str]:
    """Return a sentence on the scores that are in no mean and standard deviation, if there are any."""
    counts = {
        f"{_short_name(named.label)}{f' on {named.group}' if named.group else ''}": named.cell.summary
        for named in shown
        if named.cell.summary.n > named.cell.summary.n_finite
    }
    places = join_with([f"{s.n - s.n_finite} of {s.n} of {name}" for name, s in counts.items()])
    return [f"Means and SDs leave out NaN: {places}."] if counts else []


def _difference(label: str, fraction: float | None, interval: Interval, group: str, hover: str = "") -> Estimate:
    low, high = _in_points(interval.low), _in_points(interval.high)
    return Estimate(label, _in_points(fraction), low, high, hover=hover, group=group)


def _short_name(label: str) -> str:
    """Return the name of an arm, without the file that it was imported from."""
    return f"{arm_without_source(label)}{' (imported)' if is_imported(label) else ''}"


def _words_apart(named: NamedCell, other: NamedCell) -> str:
    """Return the parts of a name that the other's does not have."""
    return ", ".join(
        part for part in _short_name(named.label).split(", ") if part not in _short_name(other.label).split(", ")
    )


def _describe_intervals(pair: PairTests, drawn: Sequence[str]) -> str:
    """Return a sentence on the intervals of the panels with these titles."""
    shares, ratio = pair.failed_interval, pair.sd_ratio.interval
    methods = {
        "Failed runs": f"{shares.method} of the share of failed runs",
        "Mean": "Welch's of the mean",
        "Spread": f"{ratio.method} of the SD ratio",
    }
    chosen = ", ".join(method for title, method in methods.items() if title in drawn)
    return f"{100 * shares.level:g} % intervals: {chosen}."


def _explain_ratios(pairs: Sequence[PairTests], ratios: Sequence[Estimate]) -> Iterator[str]:
    """Yield why SD ratios are not drawn or have no interval."""
    for start, chosen in (
        ("No SD ratio", [e.value is None for e in ratios]),
        ("Hollow: no interval of the SD ratio", [e.value is not None and not has_interval(e) for e in ratios]),
    ):
        reasons: dict[str, list[str]] = {}
        for pair, estimate in compress(zip(pairs, ratios, strict=True), chosen):
            ratio = pair.sd_ratio
            few = min(ratio.n_a, ratio.n_b) < MIN_RUNS_FOR_BCA
            why = f"fewer than {MIN_RUNS_FOR_BCA} runs of an arm" if few else ratio.reason or ratio.interval.reason
            place = f"{estimate.label} ({estimate.group})" if estimate.group else estimate.label
            reasons.setdefault(why or "it is not finite", []).append(place)
        for why, places in reasons.items():
            of = "" if len(places) == sum(chosen) else f" of {join_with(places)}"
            yield f"{start}{of}: {why}."


def _describe_omitted(panel: EstimatePanel) -> str:
    """Return a sentence on a panel in which nothing differs."""
    if all(estimate.value is None for estimate in panel.estimates):
        return f"{panel.title}: not drawn, no such number is known."
    return f"{panel.title}: not drawn, equal in all arms."


def _in_points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def build_published_panels(pairs: Sequence[PublishedPair]) -> tuple[list[EstimatePanel], list[str]]:
    """Return a panel of means and one of standard deviations for each task, and notes.

    Our runs and the published ones are on a line for each cell. The intervals are those of normal scores: Student's for
    a mean, from chi-square for a standard deviation.
    """
    mean_panels: list[EstimatePanel] = []
    spreads: dict[str, list[Estimate]] = {}
    groups = dict.fromkeys(pair.group for pair in pairs)
    for group in groups:
        means: list[Estimate] = []
        deviations: list[Estimate] = []
        members = [pair for pair in pairs if pair.group == group]
        for _, name, _, ours, value, compatible in members:
            label = _short_name(name)
            mark = INCOMPATIBLE if compatible is False else ""
            sides = (
                (OURS, ours.mean, ours.std, ours.n_finite),
                (OTHERS, value.fraction("mean"), value.fraction("std"), value.n),
            )
            for kind, mean, std, n in sides:
                percent, deviation = _in_points(mean), _in_points(std)
                source = kind if kind == OURS else abbreviate_papers(value.place)
                hover = f"{label}, {source}: {_number(percent)} ± {_number(deviation)}, n = {n}"
                ends = (None, None) if percent is None or deviation is None else mean_interval(percent, deviation, n)
                means.append(Estimate(label, percent, *ends, kind=kind, text=mark * (kind == OURS), hover=hover))
                ends = (None, None) if deviation is None else std_interval(deviation, n)
                deviations.append(Estimate(label, deviation, *ends, kind=kind, hover=hover))
        metrics = {metric_title(pair.metric) for pair in members if pair.metric}
        score = f"{metrics.pop()} in percent" if len(metrics) == 1 else "score in percent"
        title = f"{group}: " if len(groups) > 1 else ""
        mean_panels.append(_panel(f"{title}mean" if title else "Mean", score, means))
        spreads[f"{title}SD" if title else "Standard deviation"] = deviations
    panels = [panel for pair in zip(mean_panels, deviation_panels(spreads), strict=True) for panel in pair]
    marked = any(pair.compatible is False for pair in pairs)
    places = dict.fromkeys(abbreviate_papers(pair.published.place) for pair in pairs)
    notes = {
        f"Published: {'; '.join(places)}.": True,
        PUBLISHED_NOTE: True,
        AXES_NOTE: len(groups) > 1,
        INCOMPATIBLE_NOTE: marked,
    }
    return panels, [note for note, needed in notes.items() if needed]


def _panel(title: str, xlabel: str, estimates: Sequence[Estimate]) -> EstimatePanel:
    missing = "" if any(estimate.value is not None for estimate in estimates) else "no such number is known"
    return EstimatePanel(title, xlabel, tuple(estimates), missing=missing)


def deviation_panels(estimates: Mapping[str, Sequence[Estimate]]) -> list[EstimatePanel]:
    """Return panels of standard deviations by title, all with logarithmic axes if one would hide others of its panel.

    A panel with a standard deviation of 0 has a linear axis even then.
    """
    panels = [_panel(title, "points", of_panel) for title, of_panel in estimates.items()]
    values = [[e.value for e in panel.estimates if e.value is not None] for panel in panels]
    ends = [
        [*known, *(e.high for e in p.estimates if e.high is not None)] for p, known in zip(panels, values, strict=True)
    ]
    positive = [bool(known) and min(known) > 0 for known in values]
    wide = any(
        max(all_ends) > LOG_ABOVE_RATIO * statistics.median(known)
        for known, all_ends in compress(zip(values, ends, strict=True), positive)
    )
    return [
        replace(panel, xlabel="points (log)", xlog=True) if wide and can_be_log else panel
        for panel, can_be_log in zip(panels, positive, strict=True)
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
