"""The stability report: for each task the answer in words, a table of the arms and one of the tests, then notes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stableft.catalog.tasks import metric_title, task_title
from stableft.report.arm_cells import ArmCell
from stableft.report.conclusion import describe_task
from stableft.report.failure_watch import (
    FAILURE_WATCH_COLUMNS,
    explain_failure_watch,
    failure_watch_tables,
    failure_watch_values,
    watched_run_data,
)
from stableft.report.figures.from_tests import TEST_FIGURE_ALTS
from stableft.report.figures.of_artifact import SWEEP_FIGURE_ALTS
from stableft.report.footnotes import cell_footnotes
from stableft.report.forms.document import (
    HEADING_LEVELS,
    NO_VALUE,
    OWN_ORIGIN,
    BriefTitle,
    Bullets,
    Column,
    DataTable,
    DrawFigure,
    Heading,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportTable,
    Row,
    Value,
    make_label,
)
from stableft.report.numbers_in_words import (
    STAR_EXPLANATION,
    abbreviate_papers,
    as_sentence,
    comparison_notes,
    compatible_value,
    count_value,
    describe_smallest_stds,
    describe_test,
    effect_value,
    failed_rule,
    failed_value,
    format_percent,
    interval_value,
    n_value,
    number_value,
    p_value,
    papers_failed_rule,
    percent_value,
    points_interval_value,
    published_notes,
    scores_heading,
    text_value,
    values_of_published,
    values_of_published_effects,
    values_of_test,
    wilson_value,
)
from stableft.report.pair_tests import ALPHA, FAMILY, PairTests
from stableft.report.paper_values import STATISTICS
from stableft.report.stability_results import Comparison, Question, StabilityResults
from stableft.report.tests_table import collect_pair_tests, correlation_lines, explain_tests, pair_remarks, view_tests

if TYPE_CHECKING:
    pass


COMPATIBLE_EXPLANATION = (
    "compatible (p; difference): whether p is at least .05 in Welch's t-test from summaries (two-sided) of the mean "
    "against the published mean, with the 95 % interval of the difference in points; published SD/ours: with the F "
    "interval, for normal scores. n of both rows less NaN; published numbers are rounded to 0.1."
)
COMPATIBLE_CAPTION = (
    "Compatible: the mean against the published mean by Welch's t-test from summaries (two-sided), with the interval "
    "of the difference."
)
NOTES_HEADING = Heading("Notes", HEADING_LEVELS + 1)  # they apply to the whole report, not to the last section
SCORES_FIGURE = "scores"  # shown above the tables; other figures are shown below them

ARM, PUBLISHED, DIFFERENCE = "arm", "published", "difference"  # kinds of rows
SCORE_COLUMNS = (
    Column("task", "task"),
    Column("arm", "arm"),
    Column("origin"),
    Column("recipe"),
    Column("metric"),
    Column("split"),
    Column("checkpoint"),
    Column("n", "n"),
    Column("n_nan"),
    Column("n_planned"),
    Column("failed", "failed"),
    Column("failed_wilson", "95 % Wilson", "percent", interval=True),
    Column("failed_unknown"),
    Column("mostly_failed"),
    Column("crashed", "crashed"),
    Column("stopped"),
    Column("unscored"),
    *(Column(name, {"std": "SD"}.get(name, name), "percent") for name in STATISTICS),
    Column("star"),
    Column("smallest_std_test"),
    Column("compatible", "compatible (p; difference)"),
    Column("p_published"),
    Column("difference_published_welch", unit="points", interval=True),
    Column("sd_ratio_published"),
    Column("sd_ratio_published_f", interval=True),
    Column("shown_sd_ratio_published", "published SD/ours", for_readers=True),
)
REFERENCE_COLUMNS = (
    Column("against"),
    Column("shown_ratio", "ratio", for_readers=True),
    Column("shown_sd", "(ref/arm)", for_readers=True),
    Column("failed_difference", unit="points"),
    Column("failed_difference_newcombe", unit="points", interval=True),
    Column("shown_failed_difference", "failed, points", for_readers=True),
    Column("boschloo_p"),
    Column("boschloo_holm_p"),
    Column("mean_difference", unit="points"),
    Column("mean_difference_welch", unit="points", interval=True),
    Column("shown_mean_difference", "mean, points", for_readers=True),
    Column("welch_p"),
    Column("welch_holm_p"),
    Column("sd_ratio"),
    Column("sd_ratio_bca", interval=True),
    Column("levene_p"),
    Column("levene_holm_p"),
    Column("levene_mean_p"),
)
LAST_COLUMNS = (Column("deviations"), Column("notes"))


def build_stability_report(
    results: StabilityResults,
    figures: Mapping[str, DrawFigure] | None = None,
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
    arms: Sequence[str] = (),
) -> Report:
    """Return the stability report with these figures, by name, these notes after its own, and lines on its arms."""
    figures = figures or {}
    scores, pair_tests = collect_scores(results), collect_pair_tests(results.pairs)
    watched = [cell for cell in results.cells if cell.watched]
    all_notes = (*results.footnotes, *_failed_loss_notes(results), *published_notes(results), *notes)
    notes_blocks = (NOTES_HEADING, Bullets(all_notes)) if all_notes else ()
    arms_blocks = (Bullets(tuple(arms)),) if arms else ()
    words = _in_words(results)
    data = {"cells": scores, "tests": _all_tests(results, pair_tests)}
    return Report(
        id=results.artifact.id,
        title=results.artifact.title,
        blocks=(*arms_blocks, *_stability_blocks(results, scores, figures, pair_tests, words), *notes_blocks),
        brief=tuple(brief_blocks(results, scores, words, len(all_notes))) if results.part.compared else (),
        arms=arms_blocks,
        tests=(*_tests_blocks(results, pair_tests), *_watch_blocks(results, scores)),
        notes=notes_blocks,
        standalone=(
            _paper_style_table(results, scores, arms),
            *(
                _tests_table(results, pair_tests, task, standalone=True)
                for task in results.tasks
                if results.pairs_of(task)
            ),
            *failure_watch_tables(results, scores, standalone=True),
        ),
        data=data | ({"watched_runs": watched_run_data(watched)} if watched else {}),
        facts={
            "alpha": results.part.alpha,
            "arms": list(arms),
            "in_words": words,
            "explanations": _explanations(results),
            "notes": [*results.footnotes, *notes],
        },
        figures=figures,
        provenance=provenance or Provenance(),
    )


def _in_words(results: StabilityResults) -> dict[str, str]:
    """Return task -> the answer in words, for the table of a sweep."""
    if not results.part.compared:
        return {}
    return {task: describe_task(results.cells_of(task), results.pairs_of(task)) for task in results.tasks}


def _explanations(results: StabilityResults) -> list[str]:
    return [
        *([explain_tests(results.pairs)] if results.pairs else []),
        as_sentence(failed_rule(results.cells)),
        *([COMPATIBLE_EXPLANATION] if _has_published(results) else []),
        *([explain_failure_watch()] if any(cell.watched for cell in results.cells) else []),
    ]


def _stability_blocks(
    results: StabilityResults,
    scores: DataTable,
    figures: Mapping[str, object],
    pair_tests: DataTable,
    words: Mapping[str, str],
) -> Iterator[ReportBlock]:
    if SCORES_FIGURE in figures:
        yield Picture(SCORES_FIGURE, _alt_text(results, SCORES_FIGURE))
    for task in results.tasks:
        yield Heading(_task_heading(results, task))
        yield from [Paragraph(words[task])] if task in words else []
        yield _scores_table(results, scores, task)
        yield Bullets(tuple(describe_smallest_stds(results, task)))
    explanation = "" if results.part.compared else f" {papers_failed_rule(results.cells)}"
    explanation += f" {STAR_EXPLANATION}" if results.pairs else ""
    yield Paragraph(f"{as_sentence(failed_rule(results.cells))}{explanation}")
    if results.pairs:
        yield Heading("Tests")
        yield from _tests_blocks(results, pair_tests)
    if _has_published(results):
        yield Paragraph(COMPATIBLE_EXPLANATION)
    yield from _watch_blocks(results, scores)
    yield from (Picture(name, _alt_text(results, name)) for name in figures if name != SCORES_FIGURE)


def _watch_blocks(results: StabilityResults, scores: DataTable) -> Iterator[ReportBlock]:
    if watch_tables := failure_watch_tables(results, scores):
        yield Heading("Failure watch")
        yield from watch_tables
        yield Bullets((explain_failure_watch(),))


def _tests_blocks(results: StabilityResults, pair_tests: DataTable) -> Iterator[ReportBlock]:
    for task in results.tasks:
        if results.pairs_of(task):
            yield from [Heading(task_title(task), 3)] if len(results.tasks) > 1 else []
            yield _tests_table(results, pair_tests, task)
    if results.pairs:
        yield Bullets((*pair_remarks(results.pairs), *correlation_lines(results.pairs)))
        yield Paragraph(explain_tests(results.pairs))


def _task_heading(results: StabilityResults, task: str) -> str:
    pairs = results.pairs_of(task)
    return scores_heading(results.cells_of(task)) + (f"; against {pairs[0].reference.arm}" if pairs else "")


def _alt_text(results: StabilityResults, name: str) -> str:
    """Return the alternative text of a figure."""
    subject = {**SWEEP_FIGURE_ALTS, **TEST_FIGURE_ALTS}.get(name, name)
    failed_by_task = (
        f"{task_title(task)} "
        f"({', '.join(f'{cell.arm} {failed_value(cell).text} failed' for cell in results.cells_of(task))})"
        for task in results.tasks
    )
    return f"{subject}: {'; '.join(failed_by_task)}."


def _has_published(results: StabilityResults) -> bool:
    return any(comparison.published for comparison in results.comparisons)


def collect_scores(results: StabilityResults) -> DataTable:
    """Return a row for each arm and task, followed by rows of its published values and of the differences."""
    pairs = {(pair.arm.arm, pair.arm.task): pair for pair in results.pairs}
    references = {(pair.reference.arm, pair.reference.task) for pair in results.pairs}
    rows: list[Row] = []
    for cell in results.cells:
        rows.append(
            Row(
                ARM,
                _arm_values(results, cell)
                | _reference_values(cell, pairs.get((cell.arm, cell.task)), (cell.arm, cell.task) in references)
                | failure_watch_values(cell),
            )
        )
        for comparison in results.comparisons_with_published(cell):
            published, difference = _published_rows(comparison)
            rows += [published, difference] if cell.summary.n else [published]
    watch = FAILURE_WATCH_COLUMNS if any(cell.watched for cell in results.cells) else ()
    against = REFERENCE_COLUMNS if results.part.compared else ()
    return DataTable((*SCORE_COLUMNS, *against, *watch, *LAST_COLUMNS), tuple(rows))


def _arm_values(results: StabilityResults, cell: ArmCell) -> dict[str, Value]:
    summary, arm_task = cell.summary, (cell.arm, cell.task)
    star = results.is_starred(cell)
    mark = ("*" if star else "") + ("†" if cell.mostly_failed else "")
    tests = [
        f"against {c.against}: {describe_test(c.result)}" if c.against else describe_test(c.result)
        for c in results.comparisons
        if c.role is Question.SMALLEST_STD and (c.arm, c.task) == arm_task
    ]
    n_own = len(cell.run_ids) - sum(cell.sources.values())
    data_values: dict[str, Any] = {
        "origin": [*([OWN_ORIGIN] if n_own or not cell.sources else []), *cell.sources],
        "recipe": cell.recipe,
        "metric": cell.metric,
        "split": cell.split,
        "checkpoint": cell.checkpoint,
        "n_nan": summary.n_nan,
        "n_planned": cell.planned,
        "failed_unknown": cell.failed_unknown,
        "mostly_failed": cell.mostly_failed,
        "stopped": cell.stopped,
        "unscored": cell.unscored,
        "reason": cell.reason,
        "star": star,
        "smallest_std_test": "; ".join(tests) or None,
        "sources": dict(cell.sources),
        "deviations": list(results.deviations.get(arm_task, ())),
        "run_ids": list(cell.run_ids),
        "notes": _cell_notes(results, cell) or None,
    }
    if results.part.compared:
        data_values |= {"failed_train_losses": list(cell.failed_losses), "label_entropies": list(cell.label_entropies)}
    return {
        "task": Value(task_title(cell.task), cell.task),
        "arm": text_value(cell.arm),
        "n": n_value(summary, cell.planned),
        "failed": failed_value(cell),
        "failed_wilson": wilson_value(cell),
        "crashed": count_value(cell.crashed),
        **{name: percent_value(getattr(summary, name), mark=mark if name == "std" else "") for name in STATISTICS},
        **{key: Value(data=data) for key, data in data_values.items()},
    }


def _cell_notes(results: StabilityResults, cell: ArmCell) -> str:
    deviations = results.deviations.get((cell.arm, cell.task))
    pairs = [pair for pair in results.pairs if pair.arm is cell]
    losses = describe_failed_losses([cell]) if results.part.compared else None
    return " ".join(
        [
            *([f"not a replication: {', '.join(deviations)}"] if deviations else []),
            *cell_footnotes([cell]),
            *(f"{line}." for line in pair_remarks(pairs)),
            *([losses] if losses else []),
        ]
    )


def _published_rows(comparison: Comparison) -> Iterator[Row]:
    value, result = comparison.published, comparison.result
    assert value
    checkpoint = f" (our {comparison.own_checkpoint})" if comparison.own_checkpoint else ""
    task_value = {"task": Value(task_title(comparison.task), comparison.task)}
    yield Row(
        PUBLISHED,
        task_value
        | values_of_published(value)
        | {
            "arm": Value(abbreviate_papers(value.place), comparison.arm, under=True),
            **{
                name: percent_value(value.fraction(name), mark="*" if value.starred and name == "std" else "")
                for name in STATISTICS
            },
            "star": Value(data=value.starred),
            "notes": Value(data="; ".join(value.notes) or None),
        },
    )
    yield Row(
        DIFFERENCE,
        task_value
        | {
            "arm": Value(f"difference{checkpoint}", comparison.arm, under=True),
            "origin": Value(data=value.place),
            **{name: percent_value(comparison.differences.get(name), sign=True) for name in STATISTICS},
            "compatible": compatible_value(result, comparison.mean_interval),
            "p_published": p_value(result.p),
            **values_of_published_effects(comparison.mean_interval, comparison.sd_ratio),
            "notes": Value(data=comparison.remark or result.reason),
        },
    )


def _reference_values(cell: ArmCell, pair: PairTests | None, is_reference: bool) -> dict[str, Value]:
    sd, dagger = format_percent(cell.summary.std), "†" if cell.mostly_failed else ""
    if pair is None:
        shown = Value("reference" if is_reference else "")
        return {"shown_sd": Value(sd, mark=dagger), "shown_failed_difference": shown}
    ratio = pair.sd_ratio.value
    star = {name: "*" if pair.is_shown(name) else "" for name in FAMILY}
    times = "" if ratio is None else f"{ratio:.2g}x" if ratio < 99.5 else f"{ratio:.0f}x"
    return {
        "against": text_value(pair.reference.arm),
        "shown_sd": Value(f"{sd} ({times})" if times else sd, mark=star["levene_median"] + dagger),
        "shown_ratio": Value(times or NO_VALUE, mark=star["levene_median"]),
        "failed_difference": percent_value(pair.failed_difference, sign=True),
        "failed_difference_newcombe": points_interval_value(pair.failed_interval),
        "shown_failed_difference": effect_value(
            pair.failed_difference, pair.failed_interval, star["boschloo"], digits=0
        ),
        "boschloo_p": p_value(pair.boschloo.p),
        "boschloo_holm_p": p_value(pair.holm["boschloo"]),
        "mean_difference": percent_value(pair.mean_difference, sign=True),
        "mean_difference_welch": points_interval_value(pair.mean_interval),
        "shown_mean_difference": effect_value(pair.mean_difference, pair.mean_interval, star["welch"]),
        "welch_p": p_value(pair.welch.p),
        "welch_holm_p": p_value(pair.holm["welch"]),
        "sd_ratio": number_value(ratio),
        "sd_ratio_bca": interval_value(pair.sd_ratio.interval),
        "levene_p": p_value(pair.levene_median.p),
        "levene_holm_p": p_value(pair.holm["levene_median"]),
        "levene_mean_p": p_value(pair.levene_mean.p),
    }


def _all_tests(results: StabilityResults, pair_tests: DataTable) -> DataTable:
    """Return every test of the report with statistic, p and n. JSON only: the CSV has p-values in the arms' rows."""
    rows = [
        {"question": c.role.value, "task": c.task, "arm": c.arm, "against": c.against}
        | values_of_test(c.result)
        | {"star": c.star, "remark": c.remark}
        for c in results.comparisons
    ]
    others = DataTable.from_records(rows)
    return DataTable((*pair_tests.columns, Column("star")), (*others.rows, *pair_tests.rows), only="json")


def _scores_table(results: StabilityResults, scores: DataTable, task: str) -> ReportTable:
    compared = bool(results.pairs_of(task))
    keys = ["arm", "n", "failed", "failed_wilson", *_statistic_keys(results, compared)]
    keys += ["crashed"] if any(cell.crashed for cell in results.cells_of(task)) else []
    keys += ["shown_failed_difference", "shown_mean_difference"] if compared else []
    keys += ["compatible", "shown_sd_ratio_published"] if _has_published(results) else []
    rows = [row for row in scores.rows if row["task"].data == task]
    return scores.view(make_label(f"{results.artifact.id}-{task}"), keys, rows=rows)


def _statistic_keys(results: StabilityResults, compared: bool) -> list[str]:
    first, *others = results.part.statistics
    return [first, *(["shown_ratio"] if compared else []), *others]


def brief_blocks(
    results: StabilityResults, scores: DataTable, words: Mapping[str, str], n_notes: int
) -> Iterator[BriefTitle | ReportBlock]:
    """Yield what the terminal shows: for each task a title, a table of one line an arm and the answer in `words`."""
    for task in results.tasks:
        sources = dict.fromkeys(name.partition(" (")[0] for cell in results.cells_of(task) for name in cell.sources)
        yield BriefTitle(_brief_title(results, task), f"imported: {', '.join(sources)}" if sources else "")
        yield _brief_table(results, scores, task)
        yield Paragraph(f"In words: {words[task]}")
    marks = (
        [f"* Holm p < {ALPHA:g}".replace("0.", ".")]
        if any(p.is_shown(n) for p in results.pairs for n in FAMILY)
        else []
    )
    marks += ["† most runs failed"] if any(cell.mostly_failed for cell in results.cells) else []
    marks += [failed_rule(results.cells)]
    watched = any(cell.watched for cell in results.cells)
    marks += ["details: --tests" + (" (and the failure watch)" if watched else "")] if results.pairs or watched else []
    marks += [f"notes: --notes ({n_notes})"] if n_notes else []
    judged = [c.compatible for c in results.comparisons if c.published and c.compatible is not None]
    marks += [f"published means: within range {sum(judged)} of {len(judged)}"] if judged else []
    yield Paragraph("; ".join(marks))


def _brief_title(results: StabilityResults, task: str) -> str:
    cells = [cell for cell in results.cells_of(task) if cell.metric]
    kinds = (
        [metric_title(cell.metric or "") for cell in cells],
        [cell.split for cell in cells],
        [cell.checkpoint for cell in cells],
    )
    words = [" or ".join(dict.fromkeys(filter(None, names))) for names in kinds]  # "or": arms are scored unlike
    parts = [f"{text}{unit}" for text, unit in zip(words, (" %", "", " checkpoint"), strict=True) if text]
    pairs = results.pairs_of(task)
    against = f"; against {pairs[0].reference.arm}" if pairs else ""
    return f"{task_title(task)}{': ' if parts else ''}{', '.join(parts)}{against}"


def _brief_table(results: StabilityResults, scores: DataTable, task: str) -> ReportTable:
    compared, cells = bool(results.pairs_of(task)), results.cells_of(task)
    incomplete = any(
        cell.summary.n_nan or cell.n_known != cell.summary.n or cell.planned not in (None, cell.summary.n)
        for cell in cells
    )
    keys = ["arm", *(["n"] if incomplete else []), "failed", "failed_wilson", "shown_sd", "mean"]
    keys += ["shown_failed_difference", "shown_mean_difference"] if compared else []
    titles = {"failed": "k/n", "failed_wilson": "95 % CI", "mean": "", "shown_sd": "(ref/arm)" if compared else ""}
    rows = [row for row in scores.rows if row.kind == ARM and row["task"].data == task]
    table = scores.view(make_label(f"{results.artifact.id}-{task}-brief"), keys, rows=rows)
    header = tuple(titles.get(key, title) for key, title in zip(keys, table.header, strict=True))
    groups = (*([("", 1)] if incomplete else []), ("failed", 2), ("SD", 1), ("mean", 1))
    groups += (("difference [95 % CI]", 2),) if compared else ()
    return replace(table, header=header, groups=groups)


def _tests_table(results: StabilityResults, pair_tests: DataTable, task: str, standalone: bool = False) -> ReportTable:
    """Return the table of a task's tests. `standalone` adds the caption and all notes."""
    pairs = results.pairs_of(task)
    caption, notes = "", ()
    if standalone:
        caption = f"{task_title(task)}: every arm against {pairs[0].reference.arm}."
        first = next(pair.arm.task for pair in results.pairs)
        if task != first:
            caption += f" The tests are explained below the table of {task_title(first)}."
        notes = (explain_tests(results.pairs),) if task == first else ()
        notes += (*pair_remarks(pairs, in_words=False), *correlation_lines(pairs))
    rows = [row for row in pair_tests.rows if row["task"].data == task]
    return view_tests(make_label(f"{results.artifact.id}-{task}-tests"), pair_tests, rows, caption, notes)


def _paper_style_table(results: StabilityResults, scores: DataTable, arms: Sequence[str]) -> ReportTable:
    """Return the results in the layout of M Table 1: arms down, tasks across."""
    keys = ["n", "failed", *results.part.statistics, *(["compatible"] if _has_published(results) else [])]
    star = (
        f"* p < {results.part.alpha:g} by Levene's test (centred at the {results.part.center}) of the smallest against "
        "the second smallest SD, a pair chosen after the fact."
    )
    caption = (
        f"{results.artifact.title}. Percent; SD over seeds (ddof 1); {failed_rule(results.cells)}."
        + ("" if results.part.compared else f" {papers_failed_rule(results.cells)} {star}")
        + (f" {COMPATIBLE_CAPTION}" if _has_published(results) else "")
    )
    notes = [f"{task_title(c)}: {line}." for c in results.tasks for line in describe_smallest_stds(results, c)]
    notes += [*arms, *results.footnotes, *comparison_notes(results), *_failed_loss_notes(results)]
    return scores.pivot(make_label(results.artifact.id), "arm", "task", keys, caption, notes, "origin")


def _failed_loss_notes(results: StabilityResults) -> list[str]:
    note = describe_failed_losses(results.cells) if results.part.compared else None
    return [note] if note else []


def describe_failed_losses(cells: Sequence[ArmCell]) -> str | None:
    """Return the failed runs' last training losses beside the entropy of the labels, or None if they are not known."""
    several_tasks = len({cell.task for cell in cells}) > 1
    texts = [
        f"{cell.arm}{f' on {task_title(cell.task)}' if several_tasks else ''} {_describe_losses(cell)}"
        for cell in cells
        if cell.failed_losses and cell.label_entropies
    ]
    if not texts:
        return None
    return (
        "Mean training loss at the end of failed runs, beside the entropy of the training labels in nats, which is "
        f"the loss of a model that has learnt nothing: {', '.join(texts)}."
    )


def _describe_losses(cell: ArmCell) -> str:
    values = cell.failed_losses
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    spread = "" if low == high else f", {low} to {high}"
    runs = f"{len(values)} of {cell.failed} runs" if len(values) < cell.failed else f"n = {cell.failed}"
    entropies = " or ".join(f"{entropy:.2f}" for entropy in cell.label_entropies)
    return f"{sum(values) / len(values):.2f} beside {entropies} ({runs}{spread})"
