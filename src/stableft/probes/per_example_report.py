"""`stableft probe points`: tables, the most unstable examples, a figure, and one row per example."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stableft.config.local_files import check_results_folder
from stableft.config.run_config import Checkpoint
from stableft.config.sweep_file import load_sweep_from_options
from stableft.errors import UserError
from stableft.probes.per_example import (
    JACKKNIFE,
    MISSING_WITHOUT_LABELS,
    RunSubset,
    SubsetAnalysis,
    analyze_group,
    count_predictions,
    describe_failures,
    describe_subset,
    rank_by_instability,
)
from stableft.probes.per_example_csv import PredictionColumns, read_predictions_csv
from stableft.probes.per_example_data import NO_PREDICTION, PredictionGroup, read_prediction_groups
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel
from stableft.report.forms.document import (
    HEADING_LEVELS,
    NO_VALUE,
    Bullets,
    Column,
    DataTable,
    Heading,
    OriginCount,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportTable,
    Value,
    make_label,
)
from stableft.report.forms.write import Format, resolve_target, write_report
from stableft.report.numbers_in_words import (
    count_value,
    format_percent,
    interval_value,
    number_value,
    p_value,
    percent_value,
    text_value,
)
from stableft.report.pair_tests import BOOTSTRAP_SEED
from stableft.stats import RESAMPLES, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PER_EXAMPLE_FIGURE = "points"
BOOTSTRAP_METHOD = f"BCa bootstrap with {RESAMPLES:,} resamples and seed {BOOTSTRAP_SEED}"
ACCURACY_CAPTION = (
    "S_per-point: variance over runs of being right, mean over examples (Mosbach et al. 2021, sec. 7.1), which is "
    "half the share of examples on which exactly one of two runs is right; S_ours: variance over runs of the accuracy; "
    "both with ddof 1. root: the square root, in points."
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


def build_per_example_report(
    name: str, groups: Sequence[PredictionGroup], max_examples: int, with_every_example: bool = True
) -> Report:
    """Return the report on these groups, with at most `max_examples` of the most unstable examples of each.

    Only CSV and JSON have every example, which takes many times the memory of the predictions.
    """
    analyses = [analysis for group in groups for analysis in analyze_group(group)]
    sections: dict[tuple[str, str], list[SubsetAnalysis]] = {}
    for analysis in analyses:
        sections.setdefault((analysis.group.task, analysis.group.source), []).append(analysis)
    title = f"Stability of single predictions over runs: {name}"
    tables = {key: list(_make_tables(f"points-{name}", section)) for key, section in sections.items()}
    drawn = any(not analysis.reason_missing for analysis in analyses)
    notes = tuple(_notes(groups))
    blocks: list[ReportBlock] = [Picture(PER_EXAMPLE_FIGURE, _alt_text(analyses))] if drawn else []
    for key, section in sections.items():
        blocks += [Heading(_heading(section)), *tables[key], Bullets(_describe_section(section))]
        blocks += [block for analysis in section for block in unstable_example_blocks(analysis, max_examples)]
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(notes)]
    return Report(
        id=make_label(f"points-{name}"),
        title=title,
        blocks=tuple(blocks),
        standalone=tuple(
            replace(
                table,
                caption=f"{title}. {_heading(sections[key])}. {table.caption}",
                notes=_describe_section(sections[key]),
            )
            for key, some in tables.items()
            for table in some
        ),
        data={"examples": DataTable.from_records(make_per_example_rows(analyses), only="csv")}
        if with_every_example
        else {},
        facts=make_per_example_values(analyses) | {"notes": list(notes)} if with_every_example else {},
        figures={PER_EXAMPLE_FIGURE: lambda width=None: draw_per_example(list(sections.values()), width)}
        if drawn
        else {},
        undrawn={} if drawn else {PER_EXAMPLE_FIGURE: "no arm has two runs with predictions"},
        provenance=make_predictions_provenance(groups),
    )


def _heading(section: Section) -> str:
    counts = sorted({analysis.n_examples for analysis in section if analysis.n_runs})
    examples = f", {' or '.join(f'{count:,}' for count in counts)} examples" if counts else ""
    return f"{section[0].group.task}: {section[0].group.source}{examples}".removeprefix(": ")


def _alt_text(analyses: Sequence[SubsetAnalysis]) -> str:
    what = (
        "how many runs are right on them or agree"
        if analyses[0].group.classes
        else "the SD over runs of the prediction"
    )
    arms = "; ".join(analysis.title for analysis in analyses if not analysis.reason_missing)
    return f"For each arm a curve of the examples, sorted by {what}: {arms}."


def _make_tables(name: str, section: Section) -> Iterator[ReportTable]:
    """Yield the table of variances, if there are any, and for classes the table of agreement."""
    group = section[0].group
    name = make_label(f"{name}-{group.task}".removesuffix("-"))
    if any(analysis.per_example_variance for analysis in section):
        yield _variance_table(name, section)
    if group.classes:
        known = any(analysis.right is not None for analysis in section)
        table = DataTable.from_records(_agreement_values(analysis, known) for analysis in section)
        yield table.view(f"{name}-agreement", caption=AGREEMENT_CAPTION)


def _variance_table(name: str, section: Section) -> ReportTable:
    classes = bool(section[0].group.classes)
    apart = "S_per-point / m" if classes else "the mean variance of a squared error / m"
    ratio = RATIO_CAPTION.format(apart=apart)
    tested = " p: Cochran's Q test that it is 1." if classes else ""
    caption = f"{ACCURACY_CAPTION if classes else SQUARED_ERROR_CAPTION} {INTERVALS_CAPTION} {ratio}{tested}"
    return DataTable.from_records(map(_variance_values, section)).view(name, caption=caption)


def _variance_values(analysis: SubsetAnalysis) -> dict[Column, Value]:
    """Return the variances of an arm. Roots are in percent for classes, in units of the labels for regression."""
    classes, point, whole = bool(analysis.group.classes), analysis.per_example_variance, analysis.score_variance
    assert point
    scaled = percent_value if classes else number_value
    format_end = format_percent if classes else "{:.3g}".format
    return {
        Column("arm", "arm"): _arm_label(analysis),
        Column("n", "n"): count_value(analysis.n_runs),
        Column("score", "accuracy" if classes else "MSE"): scaled(whole and whole.mean),
        Column("per_point", "S_per-point"): number_value(point.value),
        Column("per_point_root", "root"): scaled(_root(point.value)),
        Column("over_runs", "95 % runs"): interval_value(_root_interval(point.over_runs), format_end),
        Column("over_examples", "95 % examples"): interval_value(_root_interval(point.over_examples), format_end),
        Column("whole", "S_ours"): number_value(whole and whole.value),
        Column("whole_root", "root"): scaled(_root(whole and whole.value)),
        Column("whole_over_runs", "95 % runs"): interval_value(whole.sd, format_end) if whole else Value(NO_VALUE),
        Column("ratio", "ratio"): number_value(whole and whole.ratio),
    } | ({Column("p", "p"): p_value(whole and whole.test.p)} if classes else {})


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(max(value, 0))


def _root_interval(interval: Interval) -> Interval:
    """Return the interval of the root. A negative end, as of the normal approximation, counts as zero."""
    return replace(interval, low=_root(interval.low), high=_root(interval.high))


def _agreement_values(analysis: SubsetAnalysis, known: bool) -> dict[Column, Value]:
    """Return how often the runs of an arm agree and, if it is `known` for any arm, how often all are right or wrong."""
    found, right = analysis.agreement, None if analysis.reason_missing else analysis.right
    assert found
    all_alike = {
        Column("all_right", "all right"): percent_value(None if right is None else float(right.all(axis=0).mean())),
        Column("all_wrong", "all wrong"): percent_value(None if right is None else float((~right).all(axis=0).mean())),
    }
    return {
        Column("arm", "arm"): _arm_label(analysis),
        Column("n", "n"): count_value(analysis.n_runs),
        Column("unanimous", "all agree"): percent_value(found.unanimous),
        Column("unanimous_interval", "95 %"): interval_value(found.unanimous_interval, format_percent),
        **(all_alike if known else {}),
        Column("churn", "churn"): percent_value(found.churn),
        Column("churn_over_runs", "95 % runs"): interval_value(found.churn_over_runs, format_percent),
        Column("churn_min", "min"): percent_value(found.churn_min),
        Column("churn_max", "max"): percent_value(found.churn_max),
        Column("kappa", "kappa"): number_value(found.kappa, ".3f"),
    }


def _arm_label(analysis: SubsetAnalysis) -> Value:
    """Return the arm, or for a part of its runs the name of a row under it."""
    return Value("that did not fail", under=True) if analysis.is_part else text_value(analysis.group.arm)


def _describe_section(section: Section) -> tuple[str, ...]:
    """Return sentences on failed runs and on the results, arm by arm."""
    lines: dict[str, None] = {}
    if all(analysis.score_variance is None for analysis in section):
        lines[MISSING_WITHOUT_LABELS[bool(section[0].group.classes)]] = None
    for analysis in section:
        lines |= dict.fromkeys([*filter(None, [describe_failures(analysis.group)]), *describe_subset(analysis)])
    return tuple(f"{line}." for line in lines)


def _notes(groups: Sequence[PredictionGroup]) -> Iterator[str]:
    """Yield notes on missing runs, on what counts as failed, and on missing texts."""
    for group in groups:
        yield from (f"{group.arm}{f' on {group.task}' if group.task else ''}: {note}." for note in group.notes)
    yield from dict.fromkeys(f"{_capitalize_first(advice)}." for group in groups for advice in group.advice)
    yield from dict.fromkeys(f"{_capitalize_first(group.failed_rule)}." for group in groups if group.runs)
    without = dict.fromkeys(group.examples.no_texts for group in groups if group.examples.no_texts)
    yield from (f"Texts of the examples are missing: {why}." for why in without)


def _capitalize_first(text: str) -> str:
    return text[0].upper() + text[1:]


SWEEP_ONLY_OPTIONS = {
    "config": "CONFIG",
    "split": "--split",
    "checkpoint": "--checkpoint",
    "arms": "--arms",
    "seeds": "--seeds",
    "sets": "--set",
}


@dataclass(frozen=True)
class PerExampleRequest:
    """The predictions to compare (a sweep's or a table's), and how many of the most unstable examples to print."""

    config: str | None
    csv: Path | None
    columns: PredictionColumns = PredictionColumns()  # noqa: RUF009 - it is frozen
    split: Literal["reported", "val", "test"] = "reported"
    checkpoint: Checkpoint = "last"
    most: int = 10
    arms: tuple[str, ...] = ()
    seeds: str | None = None
    sets: tuple[str, ...] = ()


def run_per_example(
    request: PerExampleRequest, results: Path, data_dir: Path | None, form: Format | None, out: str | None
) -> str:
    """Write the report to its target and return the text to print, which may be empty.

    Raises:
        UserError: the options contradict each other, or there are no usable predictions.
    """
    output = resolve_target(out, form, None)
    if request.csv is not None:
        _check_table_options(request, data_dir)
        group = read_predictions_csv(request.csv, request.columns)
        every = output.form in ("csv", "json") or (output.form is None and not output.is_figure)
        return write_report(build_per_example_report(request.csv.name, [group], request.most, every), output)
    if request.config is None:
        raise UserError("probe points: give a sweep file, or --csv FILE with a table of predictions")
    for field in fields(PredictionColumns):
        if getattr(request.columns, field.name) != field.default:
            raise UserError(f"--{field.name} names a column of --csv FILE; {request.config} is a sweep file")
    return write_report(_report_sweep(request, request.config, results, data_dir), output)


def _report_sweep(request: PerExampleRequest, config: str, results: Path, data_dir: Path | None) -> Report:
    check_results_folder(results)
    sweep = load_sweep_from_options(config, data_dir, request.sets, request.arms, request.seeds)
    groups = read_prediction_groups(sweep, results, request.split, request.checkpoint)
    if not any(group.runs for group in groups):
        advice = "; ".join(dict.fromkeys(line for group in groups for line in group.advice))
        raise UserError(f"{sweep.path}: {results} has no predictions of its {len(sweep.runs)} runs; {advice}")
    return build_per_example_report(sweep.name, groups, request.most)


def _check_table_options(request: PerExampleRequest, data_dir: Path | None) -> None:
    """Check that no option is given that only applies to a sweep."""
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

MAX_TEXT_LENGTH = 60  # characters of a text in a table; the report's rows and values have the whole texts


def unstable_example_blocks(analysis: SubsetAnalysis, max_examples: int) -> Iterator[ReportBlock]:
    """Yield the heading and table of the examples on which the runs differ most, if they differ anywhere."""
    if analysis.reason_missing or not max_examples:
        return
    instability = analysis.instability
    right = None if analysis.right is None else analysis.right.sum(axis=0, dtype=np.min_scalar_type(analysis.n_runs))
    least = np.partition(instability, -min(max_examples, len(instability)))[-min(max_examples, len(instability))]
    # To rank all takes much memory: of those that are as unstable as the last one shown, there may be a million.
    above, tied = np.flatnonzero(instability > least), np.flatnonzero((instability == least) & (instability > 0))
    tied = tied if right is None else tied[np.argsort(right[tied], kind="stable")[:max_examples]]
    some = np.concatenate([above, tied[:max_examples]])
    order = some[rank_by_instability(instability[some], None if right is None else right[some])[:max_examples]]
    if not len(order):
        return
    largest = float(instability.max())
    ties = int((instability == largest).sum())
    what = "variance over runs" if analysis.per_example_variance else "share of pairs of runs that differ"
    fewer = "those that fewer runs have right, then " if right is not None else ""
    caption = f"By {what}; of equal ones {fewer}the earlier."
    if analysis.group.classes:
        caption += (
            f" {ties:,} of {analysis.n_examples:,} examples ha{'s' if ties == 1 else 've'} the largest, {largest:.3g}."
        )
    yield Heading(f"Most unstable examples: {analysis.title}", 3)
    name = make_label(f"unstable-{analysis.group.arm}-{analysis.group.task}-{analysis.subset}")
    examples = DataTable.from_records(_unstable_example_values(analysis, int(i), float(instability[i])) for i in order)
    yield examples.view(name, caption=caption)


def _unstable_example_values(analysis: SubsetAnalysis, i: int, instability: float) -> dict[Column, Value]:
    """Return example i with the runs' predictions, by column of the table of the most unstable examples."""
    group, predictions, examples = analysis.group, analysis.predictions[:, i], analysis.group.examples
    values: dict[Column, Value] = {}
    if examples.texts:
        text = " / ".join(_shorten(column[i]) for column in examples.texts.values())
        values[Column("text", " / ".join(examples.texts))] = Value(text)
    values[Column("example", "row" if examples.texts else "example")] = Value(examples.names[i])
    if examples.labels is not None:
        label = examples.labels[i]
        values[Column("label", "label")] = Value(group.classes[int(label)] if group.classes else f"{label:.3g}")
    if not group.classes:
        spread = {"mean": predictions.mean(), "SD": math.sqrt(instability)}
        spread |= {"min": predictions.min(), "max": predictions.max()}
        return values | {Column(name, name): number_value(float(number)) for name, number in spread.items()}
    if analysis.right is not None:
        values[Column("right", "right")] = Value(f"{int(analysis.right[:, i].sum())}/{analysis.n_runs}")
    return values | {
        Column(f"answers_{answer}", name): count_value(int((predictions == answer).sum()))
        for name, answer in _predicted_classes(analysis)
    }


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_TEXT_LENGTH else f"{flat[: MAX_TEXT_LENGTH - 1].rstrip()}…"


def _predicted_classes(analysis: SubsetAnalysis) -> list[tuple[str, int]]:
    """Return name and id of every class that any of these runs predicts anywhere."""
    given = set(np.unique(analysis.predictions).tolist())
    columns = [(name, i) for i, name in enumerate(analysis.group.classes) if i in given]
    return columns + ([("no answer", NO_PREDICTION)] if NO_PREDICTION in given else [])


MAX_CURVE_POINTS = 1000  # of more examples, evenly spaced ones are drawn


def draw_per_example(sections: Sequence[Sequence[SubsetAnalysis]], width: float | None = None) -> "Figure":
    """Return the figure: for each task a panel of all runs and, if some failed, one of the others."""
    panels = []
    for section in sections:
        present = {analysis.subset for analysis in section}
        panels += [_panel(section, subset) for subset in RunSubset if subset is RunSubset.ALL or subset in present]
    return draw_panels(panels, _caption(sections), width=width)


def _caption(sections: Sequence[Sequence[SubsetAnalysis]]) -> str:
    analyses = [analysis for section in sections for analysis in section]
    order = "Each arm has its own order of examples."
    if not any(analysis.group.classes for analysis in analyses):
        return order
    if any(analysis.right is not None for analysis in analyses):
        return f"{order} At 0 and 100 all runs are alike, wrong or right."
    return f"{order} At 100 all runs agree."


def _panel(section: Sequence[SubsetAnalysis], subset: RunSubset) -> CurvePanel:
    group = section[0].group
    title = f"{group.task or group.source}: {subset}"
    analyses = [_find_subset(section, analysis, subset) for analysis in section if analysis.subset is RunSubset.ALL]
    drawn = [analysis for analysis in analyses if not analysis.reason_missing]
    if not drawn:
        return CurvePanel(title, "", "", (), missing=f"no arm has two {subset}")
    ylabel, top = _y_axis(drawn[0])
    curves = tuple(_curve(analysis) for analysis in drawn)
    return CurvePanel(title, "examples, sorted, in percent", ylabel, curves, top=top, bottom=-3 if top else 0, left=0)


def _find_subset(section: Sequence[SubsetAnalysis], analysis: SubsetAnalysis, subset: RunSubset) -> SubsetAnalysis:
    """Return the analysis of the same arm's runs of this subset; if none failed, that of all runs."""
    return next((other for other in section if other.group is analysis.group and other.subset is subset), analysis)


def _y_axis(analysis: SubsetAnalysis) -> tuple[str, float | None]:
    if not analysis.group.classes:
        return "SD over runs of the prediction", None
    return ("runs that are right, in percent" if analysis.right is not None else "runs that agree, in percent"), 103


def _curve(analysis: SubsetAnalysis) -> Curve:
    if not analysis.group.classes:
        values = np.sqrt(analysis.instability)
    elif analysis.right is not None:
        values = 100 * analysis.right.mean(axis=0)
    else:
        values = 100 * analysis.majority_share
    ranks = np.unique(
        np.linspace(0, analysis.n_examples - 1, min(analysis.n_examples, MAX_CURVE_POINTS)).round().astype(int)
    )
    x = 100 * (ranks + 0.5) / analysis.n_examples
    return Curve(analysis.group.arm, tuple(x.tolist()), tuple(np.sort(values)[ranks].tolist()), n=analysis.n_runs)


JsonObject = dict[str, Any]


def make_per_example_rows(analyses: Sequence[SubsetAnalysis]) -> Iterator[JsonObject]:
    """Yield one row per arm, task and example, with the results over all runs and over those that did not fail."""
    for analysis in analyses:
        if analysis.subset is RunSubset.ALL and analysis.n_runs:
            others = [other for other in analyses if other.group is analysis.group]
            columns = [
                _prediction_columns(other, "" if other is analysis else ", not failed")
                for other in others
                if other.n_runs
            ]
            known = _example_columns(analysis)
            for i in range(analysis.n_examples):
                yield {name: values[i] for part in (known, *columns) for name, values in part.items()}


def _example_columns(analysis: SubsetAnalysis) -> dict[str, list]:
    group, examples = analysis.group, analysis.group.examples
    found: dict[str, list] = {"arm": [group.arm] * analysis.n_examples}
    found |= {"task": [group.task] * analysis.n_examples} if group.task else {}
    found |= {"of": [group.source] * analysis.n_examples, "example": list(examples.names)}
    if examples.labels is not None:
        found["label"] = _label_names(group, examples.labels)
    return found | {f"text: {name}": list(column) for name, column in examples.texts.items()}


def _label_names(group: PredictionGroup, labels: np.ndarray) -> list:
    return [group.classes[i] for i in labels.tolist()] if group.classes else labels.tolist()


def _prediction_columns(analysis: SubsetAnalysis, suffix: str) -> dict[str, list]:
    """Return results by name with a value per example; variances over fewer than two runs are NaN."""
    found: dict[str, list] = {"runs": [analysis.n_runs] * analysis.n_examples}
    if not analysis.group.classes:
        found |= {
            "mean prediction": analysis.predictions.mean(axis=0).tolist(),
            "variance": analysis.instability.tolist(),
        }
        return {f"{name}{suffix}": values for name, values in found.items()}
    if analysis.right is not None:
        right = analysis.right.sum(axis=0)
        found |= {"right": right.tolist(), "share right": (right / analysis.n_runs).tolist()}
        found["variance"] = analysis.instability.tolist()
    counts = count_predictions(analysis.predictions, len(analysis.group.classes))
    names = [*(f"answers: {name}" for name in analysis.group.classes), "no answer"]
    found |= {name: column.tolist() for name, column in zip(names, counts.T, strict=True)}
    return {f"{name}{suffix}": values for name, values in found.items()}


def make_per_example_values(analyses: Sequence[SubsetAnalysis]) -> JsonObject:
    """Return a JSON value per group: its runs, its results and every example."""
    groups = {id(analysis.group): analysis.group for analysis in analyses}
    return {"groups": [_group_values(group, [v for v in analyses if v.group is group]) for group in groups.values()]}


def _group_values(group: PredictionGroup, analyses: Sequence[SubsetAnalysis]) -> JsonObject:
    scores = analyses[0].score_variance.scores if analyses[0].score_variance else (None,) * len(group.runs)
    score = "accuracy" if group.classes else "mean squared error"
    runs = [
        {"run": run, "name": name, "failed": failed, score: value}
        for run, name, failed, value in zip(group.runs, group.run_names, group.failed, scores, strict=True)
    ]
    return {
        "arm": group.arm,
        "task": group.task or None,
        "of": group.source,
        "classes": list(group.classes),
        "planned": group.n_planned,
        "runs": runs,
        "numbers": [_subset_values(analysis) for analysis in analyses],
        "examples": [
            {name: value for name, value in row.items() if name not in ("arm", "task", "of")}
            for row in make_per_example_rows(analyses)
        ],
        "notes": list(group.notes),
    }


def _subset_values(analysis: SubsetAnalysis) -> JsonObject:
    """Return the results for some runs as JSON."""
    found = {
        "per_point": analysis.per_example_variance,
        "whole": analysis.score_variance,
        "agreement": analysis.agreement,
    }
    return {
        "of": analysis.subset.value,
        "runs": analysis.n_runs,
        "examples": analysis.n_examples,
        "missing": analysis.reason_missing,
        **{name: None if result is None else asdict(result) for name, result in found.items()},
    }


def make_predictions_provenance(groups: Sequence[PredictionGroup]) -> Provenance:
    """Return how many runs of each arm and task have predictions, and their ids."""
    counts = tuple(
        OriginCount(group.arm, group.task or NO_VALUE, group.origin, len(group.runs), group.n_planned)
        for group in groups
    )
    return Provenance(counts, (), tuple(dict.fromkeys(run for group in groups for run in group.runs)))
