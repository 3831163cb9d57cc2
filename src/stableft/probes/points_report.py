"""The report of single predictions: tables, the most unstable examples, a figure, and every example as rows."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stableft.probes.points import JACKKNIFE
from stableft.probes.points_data import Group
from stableft.probes.points_examples import unstable_blocks
from stableft.probes.points_rows import points_rows, points_values, provenance_of
from stableft.probes.points_view import NO_LABELS, View, failures, sentences, views_of
from stableft.report.battery import BOOTSTRAP_SEED
from stableft.report.blocks import Block, Bullets, Grid, Heading, Picture, Report, Row
from stableft.report.conventions import PART, RANKS, label
from stableft.report.pair_words import shown_p
from stableft.report.provenance import provenance_values
from stableft.report.wording import MISSING, percent
from stableft.stats import RESAMPLES, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = "points"
RESAMPLED = f"BCa bootstrap with {RESAMPLES:,} resamples and seed {BOOTSTRAP_SEED}"
RIGHT = (
    "S_per-point: variance over runs of being right, mean over examples (M sec. 7.1), which is half the share of "
    "examples on which exactly one of two runs is right; S_ours: variance over runs of the accuracy; both with ddof 1. "
    "root: the square root, in points."
)
SQUARES = (
    "S_per-point: variance over runs of the prediction, mean over examples, in squared units of the labels; S_ours: "
    "variance over runs of the mean squared error (MSE); both with ddof 1. root: the square root."
)
INTERVALS = (
    f"95 % runs: other runs on these examples (S_per-point: {JACKKNIFE} over runs, for the bootstrap draws runs twice, "
    f"which agree with themselves; S_ours: {RESAMPLED} over runs). 95 % examples: these runs on other examples (the "
    "bootstrap over examples; of more than 2,000 the normal approximation)."
)
RATIO = (
    "S_ours is {apart} plus what errors on different examples have in common, their covariances; ratio: it over the "
    "first part alone, 1 where the errors on the m examples are independent."
)
AGREE = (
    "Percent of examples. all agree: every run gives the same answer (95 %: Wilson, over examples); churn: two runs "
    f"differ, mean, least and most over pairs of runs (95 % runs: {JACKKNIFE}); kappa: Fleiss', the runs as raters."
)
Section = Sequence[View]


def points_report(name: str, groups: Sequence[Group], most: int) -> Report:
    """Returns the report of these groups, with so many of the most unstable examples of each printed."""
    views = [view for group in groups for view in views_of(group)]
    sections: dict[tuple[str, str], list[View]] = {}
    for view in views:
        sections.setdefault((view.group.task, view.group.where), []).append(view)
    title = f"Stability of single predictions over runs: {name}"
    grids = {key: list(_grids(f"points-{name}", section)) for key, section in sections.items()}
    drawn = any(not view.missing for view in views)
    notes = tuple(_notes(groups))
    blocks: list[Block] = [Picture(FIGURE, _alt(views))] if drawn else []
    for key, section in sections.items():
        blocks += [Heading(_heading(section)), *grids[key], Bullets(_said(section))]
        blocks += [block for view in section for block in unstable_blocks(view, most)]
    blocks += [Heading("Notes", RANKS + 1), Bullets(notes)]
    found = provenance_of(groups)
    return Report(
        id=label(f"points-{name}"),
        title=title,
        blocks=tuple(blocks),
        tables=tuple(_alone(grid, title, sections[key]) for key, some in grids.items() for grid in some),
        rows=tuple(points_rows(views)),
        values={"title": title, **points_values(views), "notes": list(notes), **provenance_values(found)},
        figures={FIGURE: lambda: _figure(list(sections.values()))} if drawn else {},
        undrawn={} if drawn else {FIGURE: "no arm has two runs with predictions"},
        provenance=found,
    )


def _figure(sections: Sequence[Section]) -> "Figure":
    from stableft.probes.points_figure import draw_points

    return draw_points(sections)


def _heading(section: Section) -> str:
    counts = sorted({view.m for view in section if view.n})
    examples = f", {' or '.join(f'{count:,}' for count in counts)} examples" if counts else ""
    return f"{section[0].group.task}: {section[0].group.where}{examples}".removeprefix(": ")


def _alt(views: Sequence[View]) -> str:
    what = (
        "how many runs are right on them or agree" if views[0].group.classes else "the SD over runs of the prediction"
    )
    arms = "; ".join(view.lead for view in views if not view.missing)
    return f"For each arm a curve of the examples, sorted by {what}: {arms}."


def _grids(name: str, section: Section) -> Iterator[Grid]:
    """Yields the table of variances, where there are any, and that of agreement, for classes."""
    group = section[0].group
    name = label(f"{name}-{group.task}".removesuffix("-"))
    if any(view.per_point for view in section):
        yield _variances(name, section)
    if group.classes:
        yield _agreements(f"{name}-agreement", section)


def _variances(name: str, section: Section) -> Grid:
    classes = bool(section[0].group.classes)
    header = ("arm", "n", "accuracy" if classes else "MSE", "S_per-point", "root", "95 % runs", "95 % examples")
    header += ("S_ours", "root", "95 % runs", "ratio", *(["p"] if classes else []))
    apart = "S_per-point / m" if classes else "the mean variance of a squared error / m"
    ratio = RATIO.format(apart=apart)
    tested = " p: Cochran's Q test that it is 1." if classes else ""
    caption = f"{RIGHT if classes else SQUARES} {INTERVALS} {ratio}{tested}"
    return Grid(name, header, tuple(_variance_row(view, classes) for view in section), caption)


def _variance_row(view: View, classes: bool) -> Row:
    point, whole = view.per_point, view.whole
    assert point
    scale = 100 if classes else 1
    places = [_number(point.value), _root(point.value, scale), _roots(point.over_runs, scale)]
    places += [_roots(point.over_examples, scale)]
    score = None if whole is None else whole.mean
    ours = [_number(whole and whole.value), _root(whole and whole.value, scale)]
    ours += [MISSING if whole is None else _interval(whole.sd, scale, classes)]
    ours += [_number(whole and whole.ratio)]
    p = whole.test.p if whole else None
    tested = [MISSING if p is None else shown_p(p).removeprefix("p = ").removeprefix("p ")] if classes else []
    return (_row_name(view), str(view.n), percent(score) if classes else _number(score), *places, *ours, *tested)


def _agreements(name: str, section: Section) -> Grid:
    known = any(view.right is not None for view in section)
    header = ("arm", "n", "all agree", "95 %", *(["all right", "all wrong"] if known else []))
    header += ("churn", "95 % runs", "min", "max", "kappa")
    return Grid(name, header, tuple(_agreement_row(view, known) for view in section), AGREE)


def _agreement_row(view: View, known: bool) -> Row:
    found = view.agreement
    assert found
    right = [MISSING, MISSING]
    if view.right is not None and not view.missing:
        right = [percent(float(view.right.all(axis=0).mean())), percent(float((~view.right).all(axis=0).mean()))]
    kappa = MISSING if found.kappa is None else f"{found.kappa:.3f}"
    together = (percent(found.unanimous), _interval(found.unanimous_interval, 100, True))
    churn = (percent(found.churn), _interval(found.churn_over_runs, 100, True))
    extremes = (percent(found.churn_min), percent(found.churn_max))
    return (_row_name(view), str(view.n), *together, *(right if known else []), *churn, *extremes, kappa)


def _row_name(view: View) -> str:
    """Returns the arm, or which part of the runs in the row above."""
    return f"{PART}that did not fail" if view.is_part else view.group.arm


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def _root(value: float | None, scale: float) -> str:
    if value is None:
        return MISSING
    return f"{scale * math.sqrt(value):.1f}" if scale > 1 else f"{math.sqrt(value):.3g}"


def _roots(interval: Interval, scale: float) -> str:
    if interval.low is None or interval.high is None:
        return MISSING
    return f"{_root(max(interval.low, 0), scale)} to {_root(interval.high, scale)}"


def _interval(interval: Interval, scale: float, fixed: bool) -> str:
    if interval.low is None or interval.high is None:
        return MISSING
    return " to ".join(f"{scale * bound:{'.1f' if fixed else '.3g'}}" for bound in (interval.low, interval.high))


def _said(section: Section) -> tuple[str, ...]:
    """Returns failed runs and the numbers in words, arm by arm."""
    lines: dict[str, None] = {}
    if all(view.whole is None for view in section):
        lines[NO_LABELS[bool(section[0].group.classes)]] = None
    for view in section:
        lines |= dict.fromkeys([*filter(None, [failures(view.group)]), *sentences(view)])
    return tuple(f"{line}." for line in lines)


def _notes(groups: Sequence[Group]) -> Iterator[str]:
    """Yields which runs are not here and why, and how failed runs and texts were found."""
    for group in groups:
        yield from (f"{group.arm}{f' on {group.task}' if group.task else ''}: {note}." for note in group.notes)
    yield from dict.fromkeys(f"{_capital(advice)}." for group in groups for advice in group.advice)
    yield from dict.fromkeys(f"{_capital(group.failed_rule)}." for group in groups if group.runs)
    without = dict.fromkeys(group.examples.no_texts for group in groups if group.examples.no_texts)
    yield from (f"Texts of the examples are missing: {why}." for why in without)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _alone(grid: Grid, title: str, section: Section) -> Grid:
    """Returns a grid with all that a reader who sees nothing else must know."""
    return Grid(
        grid.name, grid.header, grid.rows, f"{title}. {_heading(section)}. {grid.caption}", notes=_said(section)
    )
