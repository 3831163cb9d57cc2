"""`stableft probe points`: tables, the most unstable examples, a figure, and a row for each example."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stableft.config.local_files import check_results_folder
from stableft.config.run_config import Checkpoint
from stableft.config.sweep_file import load_sweep_from_options
from stableft.errors import UserError
from stableft.probes.per_example import (
    ALL_RUNS,
    JACKKNIFE,
    MISSING_WITHOUT_LABELS,
    RUNS_NOT_FAILED,
    SubsetAnalysis,
    analyze_group,
    count_predictions,
    describe_failures,
    describe_subset,
    rank_by_instability,
)
from stableft.probes.per_example_data import (
    NO_PREDICTION,
    Examples,
    PredictionColumns,
    PredictionGroup,
    read_prediction_groups,
    read_predictions_csv,
)
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel
from stableft.report.forms.document import (
    HEADING_LEVELS,
    NO_VALUE,
    Bullets,
    DataTable,
    Heading,
    OriginCount,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportRow,
    ReportTable,
    Value,
    make_label,
)
from stableft.report.forms.write import Format, resolve_target, write_report
from stableft.report.numbers_in_words import format_p, format_percent
from stableft.report.stability_table import BOOTSTRAP_SEED
from stableft.stats import RESAMPLES, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PER_EXAMPLE_FIGURE = "points"
BOOTSTRAP_METHOD = f"BCa bootstrap with {RESAMPLES:,} resamples and seed {BOOTSTRAP_SEED}"
ACCURACY_CAPTION = (
    "S_per-point: variance over runs of being right, mean over examples (M sec. 7.1), which is half the share of "
    "examples on which exactly one of two runs is right; S_ours: variance over runs of the accuracy; both with ddof 1. "
    "root: the square root, in points."
)
SQUARED_ERROR_CAPTION = (
    "S_per-point: variance over runs of the prediction, mean over examples, in squared units of the labels; S_ours: "
    "variance over runs of the mean squared error (MSE); both with ddof 1. root: the square root."
)
INTERVALS_CAPTION = (
    f"95 % runs: other runs on these examples (S_per-point: {JACKKNIFE} over runs, for the bootstrap draws runs twice, "
    f"which agree with themselves; S_ours: {BOOTSTRAP_METHOD} over runs). 95 % examples: these runs on other "
    "examples (the "
    "bootstrap over examples; of more than 2,000 the normal approximation)."
)
RATIO_CAPTION = (
    "S_ours is {apart} plus what errors on different examples have in common, their covariances; ratio: it over the "
    "first part alone, 1 where the errors on the m examples are independent."
)
AGREEMENT_CAPTION = (
    "Percent of examples. all agree: every run gives the same answer (95 %: Wilson, over examples); churn: two runs "
    f"differ, mean, least and most over pairs of runs (95 % runs: {JACKKNIFE}); kappa: Fleiss', the runs as raters."
)
Section = Sequence[SubsetAnalysis]


def build_per_example_report(name: str, groups: Sequence[PredictionGroup], most: int) -> Report:
    """Returns the report of these groups, with so many of the most unstable examples of each printed."""
    views = [view for group in groups for view in analyze_group(group)]
    sections: dict[tuple[str, str], list[SubsetAnalysis]] = {}
    for view in views:
        sections.setdefault((view.group.task, view.group.where), []).append(view)
    title = f"Stability of single predictions over runs: {name}"
    grids = {key: list(_make_tables(f"points-{name}", section)) for key, section in sections.items()}
    drawn = any(not view.missing for view in views)
    notes = tuple(_notes(groups))
    blocks: list[ReportBlock] = [Picture(PER_EXAMPLE_FIGURE, _alt_text(views))] if drawn else []
    for key, section in sections.items():
        blocks += [Heading(_heading(section)), *grids[key], Bullets(_describe_section(section))]
        blocks += [block for view in section for block in unstable_example_blocks(view, most)]
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(notes)]
    return Report(
        id=make_label(f"points-{name}"),
        title=title,
        blocks=tuple(blocks),
        standalone=tuple(_standalone_table(grid, title, sections[key]) for key, some in grids.items() for grid in some),
        data={"examples": DataTable.from_records(make_per_example_rows(views), only="csv")},
        facts=make_per_example_values(views) | {"notes": list(notes)},
        figures={PER_EXAMPLE_FIGURE: lambda: _draw_figure(list(sections.values()))} if drawn else {},
        undrawn={} if drawn else {PER_EXAMPLE_FIGURE: "no arm has two runs with predictions"},
        provenance=make_predictions_provenance(groups),
    )


def _draw_figure(sections: Sequence[Section]) -> "Figure":
    pass

    return draw_per_example(sections)


def _heading(section: Section) -> str:
    counts = sorted({view.m for view in section if view.n})
    examples = f", {' or '.join(f'{count:,}' for count in counts)} examples" if counts else ""
    return f"{section[0].group.task}: {section[0].group.where}{examples}".removeprefix(": ")


def _alt_text(views: Sequence[SubsetAnalysis]) -> str:
    what = (
        "how many runs are right on them or agree" if views[0].group.classes else "the SD over runs of the prediction"
    )
    arms = "; ".join(view.lead for view in views if not view.missing)
    return f"For each arm a curve of the examples, sorted by {what}: {arms}."


def _make_tables(name: str, section: Section) -> Iterator[ReportTable]:
    """Yields the table of variances, where there are any, and that of agreement, for classes."""
    group = section[0].group
    name = make_label(f"{name}-{group.task}".removesuffix("-"))
    if any(view.per_point for view in section):
        yield _variance_table(name, section)
    if group.classes:
        yield _agreement_table(f"{name}-agreement", section)


def _variance_table(name: str, section: Section) -> ReportTable:
    classes = bool(section[0].group.classes)
    header = ("arm", "n", "accuracy" if classes else "MSE", "S_per-point", "root", "95 % runs", "95 % examples")
    header += ("S_ours", "root", "95 % runs", "ratio", *(["p"] if classes else []))
    apart = "S_per-point / m" if classes else "the mean variance of a squared error / m"
    ratio = RATIO_CAPTION.format(apart=apart)
    tested = " p: Cochran's Q test that it is 1." if classes else ""
    caption = f"{ACCURACY_CAPTION if classes else SQUARED_ERROR_CAPTION} {INTERVALS_CAPTION} {ratio}{tested}"
    return ReportTable(name, header, tuple(_variance_row(view, classes) for view in section), caption)


def _variance_row(view: SubsetAnalysis, classes: bool) -> ReportRow:
    point, whole = view.per_point, view.whole
    assert point
    scale = 100 if classes else 1
    places = [
        _format_number(point.value),
        _format_root(point.value, scale),
        _format_root_interval(point.over_runs, scale),
    ]
    places += [_format_root_interval(point.over_examples, scale)]
    score = None if whole is None else whole.mean
    ours = [_format_number(whole and whole.value), _format_root(whole and whole.value, scale)]
    ours += [NO_VALUE if whole is None else _format_interval(whole.sd, scale, classes)]
    ours += [_format_number(whole and whole.ratio)]
    p = whole.test.p if whole else None
    tested = [format_p(p)] if classes else []
    return (
        _row_name(view),
        str(view.n),
        format_percent(score) if classes else _format_number(score),
        *places,
        *ours,
        *tested,
    )


def _agreement_table(name: str, section: Section) -> ReportTable:
    known = any(view.right is not None for view in section)
    header = ("arm", "n", "all agree", "95 %", *(["all right", "all wrong"] if known else []))
    header += ("churn", "95 % runs", "min", "max", "kappa")
    return ReportTable(name, header, tuple(_agreement_row(view, known) for view in section), AGREEMENT_CAPTION)


def _agreement_row(view: SubsetAnalysis, known: bool) -> ReportRow:
    found = view.agreement
    assert found
    right = [NO_VALUE, NO_VALUE]
    if view.right is not None and not view.missing:
        right = [
            format_percent(float(view.right.all(axis=0).mean())),
            format_percent(float((~view.right).all(axis=0).mean())),
        ]
    kappa = NO_VALUE if found.kappa is None else f"{found.kappa:.3f}"
    together = (format_percent(found.unanimous), _format_interval(found.unanimous_interval, 100, True))
    churn = (format_percent(found.churn), _format_interval(found.churn_over_runs, 100, True))
    extremes = (format_percent(found.churn_min), format_percent(found.churn_max))
    return (_row_name(view), str(view.n), *together, *(right if known else []), *churn, *extremes, kappa)


def _row_name(view: SubsetAnalysis) -> Value:
    """Return the arm, or which part of the runs in the row above."""
    return Value("that did not fail", under=True) if view.is_part else Value(view.group.arm)


def _format_number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3g}"


def _format_root(value: float | None, scale: float) -> str:
    if value is None:
        return NO_VALUE
    return f"{scale * math.sqrt(value):.1f}" if scale > 1 else f"{math.sqrt(value):.3g}"


def _format_root_interval(interval: Interval, scale: float) -> str:
    if interval.low is None or interval.high is None:
        return NO_VALUE
    return f"{_format_root(max(interval.low, 0), scale)} to {_format_root(interval.high, scale)}"


def _format_interval(interval: Interval, scale: float, fixed: bool) -> str:
    if interval.low is None or interval.high is None:
        return NO_VALUE
    return " to ".join(f"{scale * bound:{'.1f' if fixed else '.3g'}}" for bound in (interval.low, interval.high))


def _describe_section(section: Section) -> tuple[str, ...]:
    """Returns failed runs and the numbers in words, arm by arm."""
    lines: dict[str, None] = {}
    if all(view.whole is None for view in section):
        lines[MISSING_WITHOUT_LABELS[bool(section[0].group.classes)]] = None
    for view in section:
        lines |= dict.fromkeys([*filter(None, [describe_failures(view.group)]), *describe_subset(view)])
    return tuple(f"{line}." for line in lines)


def _notes(groups: Sequence[PredictionGroup]) -> Iterator[str]:
    """Yields which runs are not here and why, and how failed runs and texts were found."""
    for group in groups:
        yield from (f"{group.arm}{f' on {group.task}' if group.task else ''}: {note}." for note in group.notes)
    yield from dict.fromkeys(f"{_capitalize_first(advice)}." for group in groups for advice in group.advice)
    yield from dict.fromkeys(f"{_capitalize_first(group.failed_rule)}." for group in groups if group.runs)
    without = dict.fromkeys(group.examples.no_texts for group in groups if group.examples.no_texts)
    yield from (f"Texts of the examples are missing: {why}." for why in without)


def _capitalize_first(text: str) -> str:
    return text[0].upper() + text[1:]


def _standalone_table(grid: ReportTable, title: str, section: Section) -> ReportTable:
    """Returns a grid with all that a reader who sees nothing else must know."""
    return ReportTable(
        grid.name,
        grid.header,
        grid.rows,
        f"{title}. {_heading(section)}. {grid.caption}",
        notes=_describe_section(section),
    )


SWEEP_ONLY_OPTIONS = {
    "config": "CONFIG",
    "split": "--split",
    "checkpoint": "--checkpoint",
    "arms": "--arms",
    "seeds": "--seeds",
}


@dataclass(frozen=True)
class PerExampleRequest:
    """Whose predictions, a sweep's or a table's, and how many of the most unstable examples are printed."""

    config: str | None
    csv: Path | None
    columns: PredictionColumns = PredictionColumns()  # noqa: RUF009 - it is frozen
    split: Literal["reported", "val", "test"] = "reported"
    checkpoint: Checkpoint = "last"
    most: int = 10
    arms: str = ""
    seeds: str | None = None


def run_per_example(
    request: PerExampleRequest, results: Path, data_dir: Path | None, form: Format | None, out: str | None
) -> str:
    """Writes the report where it goes, and returns what is to be printed, which may be nothing.

    Raises:
        UserError: the options contradict each other, or there are no predictions that can be used.
    """
    output = resolve_target(out, form, None)
    if request.csv is not None:
        _check_table_options(request, data_dir)
        group = read_predictions_csv(request.csv, request.columns)
        return write_report(build_per_example_report(request.csv.name, [group], request.most), output)
    if request.config is None:
        raise UserError("probe points: give a sweep file, or --csv FILE with a table of predictions")
    for field in fields(PredictionColumns):
        if getattr(request.columns, field.name) != field.default:
            raise UserError(f"--{field.name} names a column of --csv FILE; {request.config} is a sweep file")
    return write_report(_report_sweep(request, request.config, results, data_dir), output)


def _report_sweep(request: PerExampleRequest, config: str, results: Path, data_dir: Path | None) -> Report:
    check_results_folder(results)
    sweep = load_sweep_from_options(config, data_dir, [], request.arms, request.seeds)
    groups = read_prediction_groups(sweep, results, request.split, request.checkpoint)
    if not any(group.runs for group in groups):
        advice = "; ".join(dict.fromkeys(line for group in groups for line in group.advice))
        raise UserError(f"{sweep.path}: {results} has no predictions of its {len(sweep.runs)} runs; {advice}")
    return build_per_example_report(sweep.name, groups, request.most)


def _check_table_options(request: PerExampleRequest, data_dir: Path | None) -> None:
    """Raises UserError for an option that is about a sweep."""
    given = [
        option
        for field in fields(PerExampleRequest)
        if (option := SWEEP_ONLY_OPTIONS.get(field.name))
        and getattr(request, field.name) != getattr(_DEFAULT_REQUEST, field.name)
    ]
    given += ["--data-dir"] if data_dir is not None else []
    if given:
        raise UserError(f"--csv {request.csv} and {' and '.join(given)}: a table is shown whole, and is no sweep")


_DEFAULT_REQUEST = PerExampleRequest(None, None)

MAX_TEXT_LENGTH = 60  # letters of a text in a table; whole texts are in the rows and values of the report


def unstable_example_blocks(view: SubsetAnalysis, most: int) -> Iterator[ReportBlock]:
    """Yields the examples on which the runs of a view differ most, where they differ."""
    if view.missing or not most:
        return
    unstable = view.unstable
    right = None if view.right is None else view.right.sum(axis=0)
    order = rank_by_instability(unstable, right)[:most]
    order = order[unstable[order] > 0]
    if not len(order):
        return
    largest = float(unstable.max())
    ties = int((unstable == largest).sum())
    what = "variance over runs" if view.per_point else "share of pairs of runs that differ"
    fewer = "those that fewer runs have right, then " if right is not None else ""
    caption = f"By {what}; of equal ones {fewer}the earlier."
    if view.group.classes:
        caption += f" {ties:,} of {view.m:,} examples ha{'s' if ties == 1 else 've'} the largest, {largest:.3g}."
    yield Heading(f"Most unstable examples: {view.lead}", 3)
    header = (_example_header(view.group.examples), *_prediction_header(view))
    rows = tuple(
        (_example_text(view.group.examples, int(i)), *_prediction_cells(view, int(i), float(unstable[i])))
        for i in order
    )
    yield ReportTable(make_label(f"unstable-{view.group.arm}-{view.group.task}-{view.which}"), header, rows, caption)


def _example_header(examples: Examples) -> str:
    return " / ".join(examples.texts) if examples.texts else "example"


def _example_text(examples: Examples, i: int) -> str:
    if not examples.texts:
        return examples.names[i]
    return " / ".join(_shorten(column[i]) for column in examples.texts.values())


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_TEXT_LENGTH else f"{flat[: MAX_TEXT_LENGTH - 1].rstrip()}…"


def _prediction_header(view: SubsetAnalysis) -> tuple[str, ...]:
    group = view.group
    known = ("label",) if group.examples.labels is not None else ()
    named = ("row",) if group.examples.texts else ()
    if not group.classes:
        return (*named, *known, "mean", "SD", "min", "max")
    right = ("right",) if view.right is not None else ()
    return (*named, *known, *right, *(name for name, _ in _predicted_classes(view)))


def _predicted_classes(view: SubsetAnalysis) -> list[tuple[str, int]]:
    """Returns the answers that any of these runs gave anywhere."""
    given = set(view.answers.ravel().tolist())
    columns = [(name, i) for i, name in enumerate(view.group.classes) if i in given]
    return columns + ([("no answer", NO_PREDICTION)] if NO_PREDICTION in given else [])


def _prediction_cells(view: SubsetAnalysis, i: int, unstable: float) -> Iterator[str]:
    group, answers = view.group, view.answers[:, i]
    if group.examples.texts:
        yield group.examples.names[i]
    if group.examples.labels is not None:
        value = group.examples.labels[i]
        yield group.classes[int(value)] if group.classes else f"{value:.3g}"
    if not group.classes:
        yield from (f"{value:.3g}" for value in (answers.mean(), math.sqrt(unstable), answers.min(), answers.max()))
        return
    if view.right is not None:
        yield f"{int(view.right[:, i].sum())}/{view.n}"
    yield from (str(int((answers == answer).sum())) for _, answer in _predicted_classes(view))


MAX_CURVE_POINTS = 1000  # points of a curve; of more examples those at equal distances are drawn


def draw_per_example(sections: Sequence[Sequence[SubsetAnalysis]]) -> "Figure":
    """Returns the figure: for each task a panel of all runs and, where some failed, one of the others."""
    panels = []
    for section in sections:
        kinds = [ALL_RUNS, RUNS_NOT_FAILED] if any(view.which == RUNS_NOT_FAILED for view in section) else [ALL_RUNS]
        panels += [_panel(section, kind) for kind in kinds]
    return draw_panels(panels, _caption(sections))


def _caption(sections: Sequence[Sequence[SubsetAnalysis]]) -> str:
    views = [view for section in sections for view in section]
    order = "Each arm has its own order of examples."
    if not any(view.group.classes for view in views):
        return order
    if any(view.right is not None for view in views):
        return f"{order} At 0 and 100 all runs are alike, wrong or right."
    return f"{order} At 100 all runs agree."


def _panel(section: Sequence[SubsetAnalysis], kind: str) -> CurvePanel:
    group = section[0].group
    title = f"{group.task or group.where}: {kind}"
    views = [_find_subset(section, view, kind) for view in section if view.which == ALL_RUNS]
    drawn = [view for view in views if not view.missing]
    if not drawn:
        return CurvePanel(title, "", "", (), missing=f"no arm has two {kind}")
    ylabel, top = _y_axis(drawn[0])
    curves = tuple(_curve(view) for view in drawn)
    return CurvePanel(title, "examples, sorted, in percent", ylabel, curves, top=top, bottom=-3 if top else 0, left=0)


def _find_subset(section: Sequence[SubsetAnalysis], view: SubsetAnalysis, kind: str) -> SubsetAnalysis:
    """Returns the arm's runs of that kind: where none failed all of them."""
    return next((other for other in section if other.group is view.group and other.which == kind), view)


def _y_axis(view: SubsetAnalysis) -> tuple[str, float | None]:
    if not view.group.classes:
        return "SD over runs of the prediction", None
    return ("runs that are right, in percent" if view.right is not None else "runs that agree, in percent"), 103


def _curve(view: SubsetAnalysis) -> Curve:
    if not view.group.classes:
        values = np.sqrt(view.unstable)
    elif view.right is not None:
        values = 100 * view.right.mean(axis=0)
    else:
        values = 100 * view.agreed
    ranks = np.unique(np.linspace(0, view.m - 1, min(view.m, MAX_CURVE_POINTS)).round().astype(int))
    x = 100 * (ranks + 0.5) / view.m
    return Curve(view.group.arm, tuple(x.tolist()), tuple(np.sort(values)[ranks].tolist()), n=view.n)


JsonObject = dict[str, Any]


def make_per_example_rows(views: Sequence[SubsetAnalysis]) -> Iterator[JsonObject]:
    """Yields a row for each arm, task and example, with what all runs do there and what those that did not fail do."""
    for view in views:
        if view.which == ALL_RUNS and view.n:
            others = [other for other in views if other.group is view.group]
            columns = [
                _prediction_columns(other, "" if other is view else ", not failed") for other in others if other.n
            ]
            known = _example_columns(view)
            for i in range(view.m):
                yield {name: values[i] for part in (known, *columns) for name, values in part.items()}


def _example_columns(view: SubsetAnalysis) -> dict[str, list]:
    group, examples = view.group, view.group.examples
    found: dict[str, list] = {"arm": [group.arm] * view.m}
    found |= {"task": [group.task] * view.m} if group.task else {}
    found |= {"of": [group.where] * view.m, "example": list(examples.names)}
    if examples.labels is not None:
        found["label"] = _label_names(group, examples.labels)
    return found | {f"text: {name}": list(column) for name, column in examples.texts.items()}


def _label_names(group: PredictionGroup, labels: np.ndarray) -> list:
    return [group.classes[i] for i in labels.tolist()] if group.classes else labels.tolist()


def _prediction_columns(view: SubsetAnalysis, suffix: str) -> dict[str, list]:
    """Returns what is known of each example; variances of fewer than two runs are NaN."""
    found: dict[str, list] = {"runs": [view.n] * view.m}
    if not view.group.classes:
        found |= {"mean prediction": view.answers.mean(axis=0).tolist(), "variance": view.unstable.tolist()}
        return {f"{name}{suffix}": values for name, values in found.items()}
    if view.right is not None:
        right = view.right.sum(axis=0)
        found |= {"right": right.tolist(), "share right": (right / view.n).tolist()}
        found["variance"] = view.unstable.tolist()
    counts = count_predictions(view.answers, len(view.group.classes))
    names = [*(f"answers: {name}" for name in view.group.classes), "no answer"]
    found |= {name: column.tolist() for name, column in zip(names, counts.T, strict=True)}
    return {f"{name}{suffix}": values for name, values in found.items()}


def make_per_example_values(views: Sequence[SubsetAnalysis]) -> JsonObject:
    """Returns a JSON value for each group: its runs, its numbers, and every example."""
    groups = {id(view.group): view.group for view in views}
    return {"groups": [_group_values(group, [v for v in views if v.group is group]) for group in groups.values()]}


def _group_values(group: PredictionGroup, views: Sequence[SubsetAnalysis]) -> JsonObject:
    scores = views[0].whole.scores if views[0].whole else (None,) * len(group.runs)
    score = "accuracy" if group.classes else "mean squared error"
    runs = [
        {"run": run, "name": name, "failed": failed, score: value}
        for run, name, failed, value in zip(group.runs, group.names, group.failed, scores, strict=True)
    ]
    return {
        "arm": group.arm,
        "task": group.task or None,
        "of": group.where,
        "classes": list(group.classes),
        "planned": group.planned,
        "runs": runs,
        "numbers": [_subset_values(view) for view in views],
        "examples": [
            {name: value for name, value in row.items() if name not in ("arm", "task", "of")}
            for row in make_per_example_rows(views)
        ],
        "notes": list(group.notes),
    }


def _subset_values(view: SubsetAnalysis) -> JsonObject:
    """Returns the results of some runs under the names that they have in the code."""
    found = {"per_point": view.per_point, "whole": view.whole, "agreement": view.agreement}
    return {
        "of": view.which,
        "runs": view.n,
        "examples": view.m,
        "missing": view.missing,
        **{name: None if result is None else asdict(result) for name, result in found.items()},
    }


def make_predictions_provenance(groups: Sequence[PredictionGroup]) -> Provenance:
    """Returns how many runs of each arm and task have predictions, and their ids."""
    counts = tuple(
        OriginCount(group.arm, group.task or NO_VALUE, group.origin, len(group.runs), group.planned) for group in groups
    )
    return Provenance(counts, (), tuple(dict.fromkeys(run for group in groups for run in group.runs)))
