"""Tables of means with the paper's rule for bold numbers, beside the published values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stableft.catalog.tasks import metric_title, task_title
from stableft.config.planned_run import ArmTask
from stableft.report.arm_cells import ArmCell
from stableft.report.artifact import MeanCell, MeansTable, arm_without_source, is_imported
from stableft.report.figures.from_tests import NamedCell, PublishedPair, figures_of_tests
from stableft.report.footnotes import (
    cell_footnotes,
    imported_run_footnotes,
    name_places,
    sweep_deviation_footnotes,
    task_footnotes,
)
from stableft.report.forms.document import (
    FOR_READERS,
    HEADING_LEVELS,
    NO_VALUE,
    OWN_ORIGIN,
    Bullets,
    Column,
    DataTable,
    DrawFigure,
    Heading,
    Report,
    ReportBlock,
    Row,
    Value,
)
from stableft.report.numbers_in_words import (
    abbreviate_papers,
    compatible_value,
    describe_test,
    failed_value,
    n_value,
    p_value,
    percent_value,
    text_value,
    values_of_published,
    values_of_published_effects,
    values_of_test,
)
from stableft.report.pair_tests import scored_alike, withhold_if_stopped_early
from stableft.report.paper_values import PublishedValue, find_published_in_table, load_published_values
from stableft.report.runs import ArtifactRuns, collect_provenance, missing_run_notes, reported_score
from stableft.stats import (
    LARGEST_MEAN_REASON,
    SMALLEST_MEAN_REASON,
    WELCH_FROM_SUMMARIES,
    Interval,
    SdRatio,
    Summary,
    TestResult,
    mark_best_and_equal,
    mark_better_than,
    mark_different,
    sd_ratio_from_summaries,
    summarize,
    t_test,
    welch_from_summaries,
    welch_interval_from_summaries,
)
from stableft.text import join_with

BOLD_ALPHA = 0.05
BOLD_RULE_TEXTS = {
    "best": "bold: the largest mean of {}, and each not shown to be smaller (Student's t-test, one-sided, p ≥ .05)",
    "better": "bold: means shown to be larger than the first of {} (Student's t-test, one-sided, p < .05)",
    "different": "bold: {} differ (Student's t-test, two-sided, p < .05)",
    "pair": "bold: the larger mean of {}; *: larger by Student's t-test (one-sided, p < .05)",
}
LOWER_BOLD_RULE = "smaller in place of larger, and the other way round, where lower scores are better"
TESTED_AGAINST = {
    "best": "against the largest mean",
    "better": "against the first mean",
    "different": "against the other mean",
    "pair": "against the other mean",
}
UNNAMED_TEST_NOTE = "The paper does not name its test."


MEANS_COLUMNS = (
    *(Column(key) for key in ("table", "row", "column", "family", "arm", "task", "origin", "metric", "split")),
    *(Column(key) for key in ("checkpoint", "n", "n_nan", "n_planned", "failed")),
    Column("mean", unit="percent"),
    Column("std", unit="percent"),
    *(Column(key) for key in ("bold", "star", "compatible", "p_published", "notes")),
    Column("difference_published_welch", unit="points", interval=True),
    Column("sd_ratio_published"),
    Column("sd_ratio_published_f", interval=True),
    Column("rule_test"),
    Column("shown", for_readers=True),
)


def build_means_report(parts: Sequence[MeansTable], runs: ArtifactRuns) -> Report:
    """Return the report on an artefact's tables of means, one per part."""
    artifact = runs.artifact
    results = [compute_mean_results(part, runs) for part in parts]
    all_results = [result for part_results in results for result in part_results]
    data = [
        DataTable(MEANS_COLUMNS, tuple(_rows(part, part_results)))
        for part, part_results in zip(parts, results, strict=True)
    ]
    blocks: list[ReportBlock] = []
    captions: set[str] = set()
    for i, (part, part_results, table) in enumerate(zip(parts, results, data, strict=True), 1):
        name = f"{artifact.id}-{i}" if len(parts) > 1 else artifact.id
        tasks = ", ".join(dict.fromkeys(spec.column.partition(",")[0] for spec in part.cells))
        is_repeated = sum(part.title == other.title for other in parts) > 1
        blocks += [Heading(f"{part.title}: {tasks}" if is_repeated else part.title)] if part.title else []
        # Imported runs are shown below the same published value as those of this project, which is printed once.
        shown = [row for row in table.rows if row.kind != "published" or not is_imported(row["arm"].data)]
        caption = _caption(part, part_results, artifact.title)
        shown_caption = f"{artifact.title}: {part.title}, as above." if caption in captions else caption
        captions.add(caption)
        blocks.append(replace(table, rows=tuple(shown)).pivot(name, "row", "column", ["shown"], shown_caption))
        blocks += [Bullets(tests)] if (tests := tuple(_test_lines(part, part_results))) else []
    notes = [*artifact.notes, *dict.fromkeys(_means_notes(results))]
    notes += [*imported_run_footnotes([result.cell for result in all_results]), *missing_run_notes(runs)]
    notes += sweep_deviation_footnotes(runs.sweeps.values())
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(tuple(notes))] if notes else []
    tests = DataTable.from_records((test for part_results in results for test in _tests(part_results)), only="json")
    return Report(
        artifact.id,
        artifact.title,
        tuple(blocks),
        data={"cells": DataTable(MEANS_COLUMNS, tuple(row for table in data for row in table.rows)), "tests": tests},
        facts={"rules": [_rule_in_words(*pair) for pair in zip(parts, results, strict=True)], "notes": notes},
        figures=_draw_means(results),
        provenance=collect_provenance(runs),
    )


def _draw_means(results: Sequence[Sequence["MeanResult"]]) -> Mapping[str, DrawFigure]:
    """Return the figures of a report: every cell against the first of its family, and against the printed values.

    `results` has those of each part. A family is within one part.
    """
    families: dict[tuple[int, str, str], list[NamedCell]] = {}
    printed: list[PublishedPair] = []
    for i, result in ((i, result) for i, of_part in enumerate(results) for result in of_part if result.summary.n):
        spec, test = result.spec, result.against_published
        group, label = _figure_names(spec)
        cell = result.cell
        if spec.of == "val" and len(result.scores) == len(cell.scores):  # a cell has the reported scores
            cell = replace(cell, scores=result.scores, summary=result.summary, split="val")
        if spec.of == "test" or cell is not result.cell:
            families.setdefault((i, spec.family, spec.group.task), []).append(NamedCell(group, label, cell))
        if result.published and result.difference is not None:
            compatible = test.p >= BOLD_ALPHA if test and test.p is not None else None
            printed.append(
                PublishedPair(group, label, result.cell.metric, result.summary, result.published, compatible)
            )
    return figures_of_tests(families.values(), printed)


def _figure_names(spec: MeanCell) -> tuple[str, str]:
    """Return the data set of a cell and the rest of the names of its row and column."""
    row, title = arm_without_source(spec.row), task_title(spec.group.task)
    names = [*row.split(", "), *spec.column.split(", ")]
    group = next((name for name in names if name.startswith(title)), title)
    rest = dict.fromkeys(name for name in names if name != group)
    return group, ", ".join(rest) + spec.row.removeprefix(row)


def _rule_in_words(part: MeansTable, results: Sequence["MeanResult"]) -> str:
    text = BOLD_RULE_TEXTS[part.rule].format(part.families)
    return f"{text}; {LOWER_BOLD_RULE}" if any(result.cell.lower_is_better for result in results) else text


def _caption(part: MeansTable, results: Sequence["MeanResult"], title: str) -> str:
    caption = f"{title}. Mean ± std over seeds (ddof 1) in percent, n in brackets; {_rule_in_words(part, results)}."
    caption += f" {UNNAMED_TEST_NOTE}" if not part.named else ""
    if any(result.published for result in results):
        caption += (
            " Compatible: the mean against the printed one by Welch's t-test from summaries (two-sided), with "
            "the 95 % interval of the difference in points; published SD/ours: with the F interval, for normal scores; "
            "printed numbers are rounded."
        )
    return caption


@dataclass(frozen=True)
class MeanResult:
    """One cell: our runs, the published value, and the tests. `test` is the one that the table's rule uses."""

    spec: MeanCell
    cell: ArmCell
    summary: Summary
    scores: tuple[float, ...]
    note: str | None = None  # the chosen setting, if the arm is a search
    bold: bool = False
    star: bool = False
    test: TestResult | None = None
    published: PublishedValue | None = None
    against_published: TestResult | None = None  # Welch
    difference: float | None = None  # our mean minus the published one; None if not comparable
    mean_interval: Interval | None = None  # of the difference
    sd_ratio: SdRatio | None = None  # published over ours


def compute_mean_results(part: MeansTable, runs: ArtifactRuns) -> list[MeanResult]:
    """Return the cells of a table of means, in its order, with the marks of its rule."""
    results = [_compute_mean_result(part, spec, runs) for spec in part.cells]
    for family in dict.fromkeys(spec.family for spec in part.cells):
        indices = [i for i, spec in enumerate(part.cells) if spec.family == family]
        for i, result in zip(indices, _apply_bold_rule(part, [results[i] for i in indices]), strict=True):
            results[i] = result
    return results


def _compute_mean_result(part: MeansTable, spec: MeanCell, runs: ArtifactRuns) -> MeanResult:
    arm, note = _choose_arm(spec, runs)
    cell = runs.cell(arm, spec.group.task)
    scored = [run for run in runs.by_arm_task.get((arm, spec.group.task), []) if run["scored"]]
    scores = tuple(score for run in scored if (score := reported_score(run, spec.of)) is not None)
    summary = summarize(scores)
    published = None
    if part.location:
        split = "val" if spec.of == "val" else "test"
        values = find_published_in_table(
            load_published_values(), *part.location, arm_without_source(spec.group.arm), spec.group.task
        )
        published = next((value for value in values if value.split == split), None)
    result = MeanResult(spec, cell, summary, scores, note, published=published)
    if published is None or not summary.n:
        return result
    if why_incomparable := _why_incomparable(spec, cell, published):
        no_test = TestResult(
            WELCH_FROM_SUMMARIES, None, "two-sided", None, None, summary.n, published.n, why_incomparable
        )
        return replace(result, against_published=no_test)
    mean, std = published.fraction("mean"), published.fraction("std")
    moments = (summary.mean, summary.std, summary.n_finite, mean, std, published.n)
    ratio = sd_ratio_from_summaries(std, published.n, summary.std, summary.n_finite)
    return replace(
        result,
        against_published=withhold_if_stopped_early(welch_from_summaries(*moments), cell),
        difference=None if mean is None or summary.mean is None else summary.mean - mean,
        mean_interval=withhold_if_stopped_early(welch_interval_from_summaries(*moments), cell),
        sd_ratio=withhold_if_stopped_early(ratio, cell),
    )


def _why_incomparable(spec: MeanCell, cell: ArmCell, published: PublishedValue) -> str | None:
    """Return why our scores are not comparable with the published ones, or None."""
    if cell.metric != published.metric:
        return f"the metrics differ: published {metric_title(published.metric)}, ours {metric_title(cell.metric or '')}"
    if spec.of == "test" and cell.split != published.split:
        return f"the published score is of the {published.split} split, ours of the {cell.split} split"
    return None


def _choose_arm(spec: MeanCell, runs: ArtifactRuns) -> tuple[str, str | None]:
    """Return the arm to show and a note. For a search, it is the setting with the best mean validation score."""
    group, task = spec.group, spec.group.task
    stem, star, suffix = group.arm.partition("*")
    if not star:
        return group.arm, None
    tried = [
        name
        for name, other in runs.by_arm_task
        if group.shows(arm_without_source(name), other) and runs.source_of(name, other) == group.source
    ]
    means = {}
    for name in tried:
        rows = runs.by_arm_task[name, task]
        scores = [reported_score(run, "val") for run in rows if run["scored"]]
        summary = summarize([score for score in scores if score is not None])
        stopped = any(run["status"] == "stopped" for run in rows)  # then the scores left are the better ones
        if summary.mean is not None and not summary.n_nan and not stopped:
            means[name] = summary.mean
    if not means:
        return tried[0] if tried else stem + suffix, None
    best = max(means, key=lambda name: round(means[name], 12))  # rounding error must not break ties
    return best, (
        f"{spec.group.label} on {task_title(task)}: {best}, the best of {len(means)} settings by mean validation score"
        + (f" (without such a mean: {len(tried) - len(means)})." if len(means) < len(tried) else ".")
    )


def _apply_bold_rule(part: MeansTable, family: list[MeanResult]) -> list[MeanResult]:
    """Return the results of a family with the rule's marks, or unmarked if they cannot be compared."""
    scored = [result for result in family if result.summary.n]
    alike = all(scored_alike(result.cell, scored[0].cell) for result in scored)
    if any(result.cell.stopped for result in scored) or len(scored) < 2 or not alike:
        return family
    groups, lower = [result.scores for result in scored], scored[0].cell.lower_is_better
    match part.rule:
        case "best":
            marks = mark_best_and_equal(groups, BOLD_ALPHA, lower)
        case "better":
            if family[0] is not scored[0]:
                return family
            marks = (None, *mark_better_than(groups[0], groups[1:], BOLD_ALPHA, lower))
        case "different":
            marks = (mark_different(groups[0], groups[1], BOLD_ALPHA),) * 2
        case "pair":
            return _mark_better_of_two(family, lower)
    marked_results = {
        id(result): replace(result, bold=bool(mark.flag), test=mark.test)
        for result, mark in zip(scored, marks, strict=True)
        if mark
    }
    return [marked_results.get(id(result), result) for result in family]


def _mark_better_of_two(pair: list[MeanResult], lower: bool) -> list[MeanResult]:
    means = [result.summary.mean for result in pair]
    if None in means:
        return pair
    better = (min if lower else max)((0, 1), key=lambda i: means[i] or 0.0)
    test = t_test(pair[better].scores, pair[1 - better].scores, True, "less" if lower else "greater")
    star = test.p is not None and test.p < BOLD_ALPHA
    return [
        replace(result, bold=True, star=star, test=test) if i == better else result for i, result in enumerate(pair)
    ]


def _rows(part: MeansTable, results: Sequence[MeanResult]) -> Iterator[Row]:
    """Yield a row for each cell, followed by rows of its published value, the difference and its compatibility."""
    for result in results:
        spec = result.spec
        plain = {"table": part.title or None, "family": spec.family, "arm": result.cell.arm, "task": result.cell.task}
        shared_values = {key: Value(data=data) for key, data in plain.items()} | {"column": text_value(spec.column)}
        yield Row("arm", shared_values | _own_values(result))
        value, test = result.published, result.against_published
        if value:
            mean, std = percent_value(value.fraction("mean")), percent_value(value.fraction("std"))
            yield Row(
                "published",
                shared_values
                | values_of_published(value)
                | {
                    "row": Value(abbreviate_papers(value.place), spec.row, under=True),
                    "mean": mean,
                    "std": std,
                    "shown": Value(f"{mean.text} ± {std.text} ({value.n})"),
                },
            )
        if value and test:
            difference, compatible = (
                percent_value(result.difference, sign=True),
                compatible_value(test, result.mean_interval),
            )
            effects = values_of_published_effects(result.mean_interval, result.sd_ratio)
            shown_ratio = effects.pop("shown_sd_ratio_published", Value(NO_VALUE))
            shared_values |= {"origin": Value(data=value.place)}
            label = Value("difference", spec.row, under=True)
            tested = {"compatible": compatible, "p_published": p_value(test.p), "notes": Value(data=test.reason)}
            tested |= {"row": label, "mean": difference, "shown": difference}
            yield Row("difference", shared_values | tested | effects)
            for title, shown in (("compatible at .05 (p; difference)", compatible), ("published SD/ours", shown_ratio)):
                label = Value(title, spec.row, under=True)
                yield Row(FOR_READERS, {"row": label, "column": text_value(spec.column), "shown": shown})


def _own_values(result: MeanResult) -> dict[str, Value]:
    cell, summary = result.cell, result.summary
    n, failed = n_value(summary, cell.planned), failed_value(cell)
    mean, std = percent_value(summary.mean), percent_value(summary.std)
    text = f"{mean.text} ± {std.text} ({n.text}{f', {cell.failed} failed' if cell.failed else ''})"
    if not summary.n:  # the notes have how many are planned
        text = NO_VALUE
    data_values = {
        "origin": list(cell.sources) or [OWN_ORIGIN],
        "metric": cell.metric,
        "split": "val" if result.spec.of == "val" else cell.split,
        "checkpoint": cell.checkpoint,
        "n_nan": summary.n_nan,
        "n_planned": cell.planned,
        "bold": result.bold,
        "star": result.star,
        "notes": result.note or cell.reason,
        "rule_test": describe_test(result.test) if result.test else None,
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
    }
    return {key: Value(data=data) for key, data in data_values.items()} | {
        "row": text_value(result.spec.row),
        "n": n,
        "failed": failed,
        "mean": mean,
        "std": std,
        "shown": Value(text, None, result.bold, "*" if result.star else ""),
    }


def _tests(results: Sequence[MeanResult]) -> Iterator[dict[str, Any]]:
    for result in results:
        for question, test in (("the table's rule", result.test), ("against published", result.against_published)):
            if test:
                shared_values = {"question": question, "row": result.spec.row, "column": result.spec.column}
                yield shared_values | values_of_test(test)


def _test_lines(part: MeansTable, results: Sequence[MeanResult]) -> Iterator[str]:
    """Yield a line for the test of each result. A test shared by two results is listed once."""
    seen = set()
    for result in results:
        test = result.test
        best = test and test.reason in (LARGEST_MEAN_REASON, SMALLEST_MEAN_REASON)
        if test is None or best or (result.spec.family, test) in seen:
            continue
        seen.add((result.spec.family, test))
        name = f"{result.spec.row}, {result.spec.column}" if result.spec.row != result.spec.column else result.spec.row
        against = TESTED_AGAINST[part.rule].replace("largest", "smallest" if test.alternative == "less" else "largest")
        yield f"{name} {against}: {describe_test(test)}"


def _means_notes(parts: Sequence[Sequence[MeanResult]]) -> Iterator[str]:
    """Yield the notes on the cells of all tables and on their published values, each once."""
    results = [result for part in parts for result in part]
    shown = [[result.cell for result in part if result.cell.run_ids] for part in parts]
    yield from cell_footnotes(*shown, of="scores", sources=False)
    for part in parts:
        for task in dict.fromkeys(result.cell.task for result in part):
            yield from task_footnotes([result.cell for result in part if result.cell.task == task])
    printed: dict[tuple[str, str], dict[CellName, None]] = {}
    uncompared: dict[str, dict[ArmTask, None]] = {}
    for result in results:
        yield from [result.note] if result.note else []
        if result.against_published and result.against_published.p is None:
            uncompared.setdefault(str(result.against_published.reason), {})[result.cell.arm, result.cell.task] = None
        if result.published and result.summary.n:
            for note in result.published.notes:
                key = (abbreviate_papers(result.published.place), note)
                printed.setdefault(key, {})[_cell_name(result.spec)] = None
    cells = list(dict.fromkeys((result.cell.arm, result.cell.task) for result in results))
    for reason, places in uncompared.items():
        yield f"{name_places(places, cells)}: not compared with the paper: {reason}."
    names = list(dict.fromkeys(_cell_name(result.spec) for result in results if result.published and result.summary.n))
    for (place, note), where in printed.items():
        yield f"{place}, {_name_cells(list(where), names)}: {note}."


CellName = tuple[str, ...]  # the names in the headings of a cell: of its row, and the parts of that of its column


def _cell_name(spec: MeanCell) -> CellName:
    return arm_without_source(spec.row), *spec.column.split(", ")


def _name_cells(where: Sequence[CellName], names: Sequence[CellName]) -> str:
    """Return some of the cells of a report in words, by the headings all of whose cells they are if there are any."""
    if len(where) == len(names) > 1:
        return "all cells"
    left, headings = list(where), []
    for heading in dict.fromkeys(part for name in where for part in name):
        under = [name for name in names if heading in name]
        if len(under) > 1 and set(under) <= set(where) and set(under) & set(left):
            headings.append(heading)
            left = [name for name in left if heading not in name]
    listed = [f"{row} ({', '.join(column)})" for row, *column in left]
    return "; ".join([*([f"all cells of {join_with(headings)}"] if headings else []), *listed])
