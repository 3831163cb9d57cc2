"""The stability report: a table per task, comparisons of every arm with the first, and notes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stableft.catalog.tasks import task_title
from stableft.report.failure_watch import (
    FAILURE_WATCH_COLUMNS,
    explain_failure_watch,
    failure_watch_tables,
    failure_watch_values,
    watched_run_data,
)
from stableft.report.figures.of_artifact import SWEEP_FIGURE_ALTS
from stableft.report.forms.document import (
    HEADING_LEVELS,
    OWN_ORIGIN,
    Bullets,
    Column,
    DataTable,
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
    abbreviate_papers,
    compatible_value,
    count_value,
    describe_comparisons,
    describe_test,
    failed_value,
    interval_value,
    n_value,
    number_value,
    p_value,
    percent_value,
    published_notes,
    scores_heading,
    text_value,
    values_of_published,
    values_of_test,
    wilson_value,
)
from stableft.report.paper_values import STATISTICS
from stableft.report.runs import ArmCell
from stableft.report.stability_results import (
    BOOTSTRAP_SEED,
    Comparison,
    Question,
    ReferenceComparison,
    StabilityResults,
    cell_footnotes,
)
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COMPATIBLE_EXPLANATION = (
    "compatible (p): whether p is at least .05 in Welch's t-test from summaries (two-sided) of the mean against the "
    "published mean, with the n of both rows less NaN; published numbers are rounded to 0.1."
)
COMPATIBLE_CAPTION = "Compatible: the mean against the published mean by Welch's t-test from summaries (two-sided)."
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
    Column("every_run_failed"),
    Column("crashed", "crashed"),
    Column("stopped"),
    Column("unscored"),
    *(Column(name, name, "percent") for name in STATISTICS),
    Column("star"),
    Column("smallest_std_test"),
    Column("compatible", "compatible (p)"),
    Column("p_published"),
)
REFERENCE_COLUMNS = (
    Column("against"),
    Column("failed_difference", "failed diff", "points"),
    Column("boschloo_p", "Boschloo p"),
    Column("boschloo_holm_p", "Holm p"),
    Column("sd_ratio", "SD ratio"),
    Column("sd_ratio_bca", "95 % BCa", interval=True),
    Column("levene_p", "Levene p"),
    Column("levene_holm_p", "Holm p"),
    Column("levene_mean_p", "mean p"),
)
LAST_COLUMNS = (Column("deviations"), Column("notes"))


def build_stability_report(
    results: StabilityResults,
    figures: "Mapping[str, Callable[[], Figure]] | None" = None,
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Return the stability report with these figures, by name, and these notes after its own."""
    figures = figures or {}
    scores = collect_scores(results)
    watched = [cell for cell in results.cells if cell.watched]
    data = {"cells": scores, "tests": collect_tests(results)}
    return Report(
        id=results.artifact.id,
        title=results.artifact.title,
        blocks=tuple(_stability_blocks(results, scores, figures, notes)),
        standalone=(
            _paper_style_table(results, scores),
            *(
                _reference_table(results, scores, column, standalone=True)
                for column in results.tasks
                if _comparisons_of_task(results, column)
            ),
            *failure_watch_tables(results, scores, standalone=True),
        ),
        data=data | ({"watched_runs": watched_run_data(watched)} if watched else {}),
        facts={
            "alpha": results.part.alpha,
            "explanations": _explanations(results),
            "notes": [*results.footnotes, *notes],
        },
        figures=figures,
        provenance=provenance or Provenance(),
    )


def _explanations(results: StabilityResults) -> list[str]:
    return [
        *([explain_reference_columns(results)] if results.reference_comparisons else []),
        *([COMPATIBLE_EXPLANATION] if _has_published(results) else []),
        *([explain_failure_watch()] if any(cell.watched for cell in results.cells) else []),
    ]


def _stability_blocks(
    results: StabilityResults, scores: DataTable, figures: Mapping[str, object], more_notes: Sequence[str]
) -> Iterator[ReportBlock]:
    if SCORES_FIGURE in figures:
        yield Picture(SCORES_FIGURE, _alt_text(results, SCORES_FIGURE))
    for task in results.tasks:
        yield Heading(scores_heading(_cells_of_task(results, task)))
        yield _scores_table(results, scores, task)
        yield Bullets((*_failed_loss_lines(results, task), *describe_comparisons(results, task)))
        if pairs := _comparisons_of_task(results, task):
            yield Heading(f"Against {pairs[0].first}", 3)
            yield _reference_table(results, scores, task)
            remark_lines = (line for pair in pairs for line in reference_remarks(pair))
            yield Bullets((_describe_sample_sizes(pairs), *remark_lines))
    if results.reference_comparisons:
        yield Paragraph(explain_reference_columns(results))
    if _has_published(results):
        yield Paragraph(COMPATIBLE_EXPLANATION)
    if watch_tables := failure_watch_tables(results, scores):
        yield Heading("Failure watch")
        yield from watch_tables
        yield Bullets((explain_failure_watch(),))
    yield from (Picture(name, _alt_text(results, name)) for name in figures if name != SCORES_FIGURE)
    if notes := (*results.footnotes, *published_notes(results), *more_notes):
        yield NOTES_HEADING
        yield Bullets(notes)


def _alt_text(results: StabilityResults, name: str) -> str:
    """Return the alternative text of a figure."""
    subject = SWEEP_FIGURE_ALTS.get(name, name)
    failed_by_task = (
        f"{task_title(task)} "
        f"({', '.join(f'{cell.arm} {failed_value(cell).text} failed' for cell in _cells_of_task(results, task))})"
        for task in results.tasks
    )
    return f"{subject}: {'; '.join(failed_by_task)}."


def _cells_of_task(results: StabilityResults, task: str) -> list[ArmCell]:
    return [cell for cell in results.cells if cell.task == task]


def _comparisons_of_task(results: StabilityResults, task: str) -> list[ReferenceComparison]:
    return [comparison for comparison in results.reference_comparisons if comparison.task == task]


def _has_published(results: StabilityResults) -> bool:
    return any(comparison.published for comparison in results.comparisons)


def collect_scores(results: StabilityResults) -> DataTable:
    """Return a row for each arm and task, followed by rows of its published values and of the differences."""
    references = {(pair.arm, pair.task): pair for pair in results.reference_comparisons}
    rows: list[Row] = []
    for cell in results.cells:
        rows.append(
            Row(
                ARM,
                _arm_values(results, cell)
                | _reference_values(references.get((cell.arm, cell.task)))
                | failure_watch_values(cell),
            )
        )
        rows += [row for comparison in results.comparisons_with_published(cell) for row in _published_rows(comparison)]
    watch = FAILURE_WATCH_COLUMNS if any(cell.watched for cell in results.cells) else ()
    against = REFERENCE_COLUMNS if results.part.against_first else ()
    return DataTable((*SCORE_COLUMNS, *against, *watch, *LAST_COLUMNS), tuple(rows))


def _arm_values(results: StabilityResults, cell: ArmCell) -> dict[str, Value]:
    summary, arm_task = cell.summary, (cell.arm, cell.task)
    star = results.is_starred(cell)
    mark = ("*" if star else "") + ("†" if cell.every_run_failed else "")
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
        "every_run_failed": cell.every_run_failed,
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
    if results.part.against_first:
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
    pairs = [c for c in results.reference_comparisons if (c.arm, c.task) == (cell.arm, cell.task)]
    return " ".join(
        [
            *([f"not a replication: {', '.join(deviations)}"] if deviations else []),
            *cell_footnotes(cell, others=_cells_of_task(results, cell.task)),
            *(f"{line}." for pair in pairs for line in reference_remarks(pair)),
            *(f"{line}." for line in [describe_failed_losses(cell)] if line and results.part.against_first),
        ]
    )


def _published_rows(comparison: Comparison) -> Iterator[Row]:
    value, result = comparison.published, comparison.result
    assert value
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
            "arm": Value("difference", comparison.arm, under=True),
            "origin": Value(data=value.place),
            **{name: percent_value(comparison.differences.get(name), sign=True) for name in STATISTICS},
            "compatible": compatible_value(result),
            "p_published": p_value(result.p),
            "notes": Value(data=comparison.remark or result.reason),
        },
    )


def _reference_values(pair: ReferenceComparison | None) -> dict[str, Value]:
    if pair is None:
        return {}
    return {
        "against": text_value(pair.first),
        "failed_difference": percent_value(pair.failed_difference, sign=True),
        "boschloo_p": p_value(pair.failures.p),
        "boschloo_holm_p": p_value(pair.holm_failures),
        "sd_ratio": number_value(pair.sd_ratio.value),
        "sd_ratio_bca": interval_value(pair.sd_ratio.interval, joined="-"),
        "levene_p": p_value(pair.levene_median.p),
        "levene_holm_p": p_value(pair.holm_levene),
        "levene_mean_p": p_value(pair.levene_mean.p),
    }


def collect_tests(results: StabilityResults) -> DataTable:
    """Return every test of the report with statistic, p and n. JSON only: the CSV has p-values in the arms' rows."""
    rows = [
        {"question": c.role.value, "task": c.task, "arm": c.arm, "against": c.against}
        | values_of_test(c.result)
        | {"star": c.star, "remark": c.remark}
        for c in results.comparisons
    ]
    for pair in results.reference_comparisons:
        pair_values = {"task": pair.task, "arm": pair.arm, "against": pair.first, "remark": pair.remark}
        for question, result, holm in (
            ("fails less often than the first arm", pair.failures, pair.holm_failures),
            ("spread against the first arm", pair.levene_median, pair.holm_levene),
            ("spread against the first arm", pair.levene_mean, None),
        ):
            rows.append({"question": question} | pair_values | values_of_test(result, holm))
    return DataTable.from_records(rows, only="json")


def _scores_table(results: StabilityResults, scores: DataTable, task: str) -> ReportTable:
    keys = ["arm", "n", "failed", "failed_wilson", "crashed", *results.part.statistics]
    rows = [row for row in scores.rows if row["task"].data == task]
    return scores.view(
        make_label(f"{results.artifact.id}-{task}"), keys + ["compatible"] * _has_published(results), rows=rows
    )


def _reference_table(results: StabilityResults, scores: DataTable, task: str, standalone: bool = False) -> ReportTable:
    """Return the table of a task's comparisons with the first arm. `standalone` adds the caption and all notes."""
    pairs = _comparisons_of_task(results, task)
    caption, notes = "", ()
    if standalone:
        caption = f"{task_title(task)}: every arm against {pairs[0].first}."
        remarks = (f"{line}." for pair in pairs for line in reference_remarks(pair))
        notes = (explain_reference_columns(results), _describe_sample_sizes(pairs), *remarks)
    keys = ["arm", *(shown_column.key for shown_column in REFERENCE_COLUMNS if shown_column.title)]
    rows = [row for row in scores.rows if row["task"].data == task and row["against"].data]
    return scores.view(make_label(f"{results.artifact.id}-{task}-against-first"), keys, caption, rows, notes)


def _paper_style_table(results: StabilityResults, scores: DataTable) -> ReportTable:
    """Return the results in the layout of M Table 1: arms down, tasks across."""
    keys = ["n", "failed", *results.part.statistics, *(["compatible"] if _has_published(results) else [])]
    caption = (
        f"{results.artifact.title}. Percent; std over seeds (ddof 1); failed k/n. "
        f"* p < {results.part.alpha:g} by Levene's test (centre {results.part.center}) of the smallest against the "
        "second smallest std." + (f" {COMPATIBLE_CAPTION}" if _has_published(results) else "")
    )
    notes = [f"{task_title(c)}: {line}." for c in results.tasks for line in describe_comparisons(results, c)]
    notes += [f"{task_title(c)}: {line}." for c in results.tasks for line in _failed_loss_lines(results, c)]
    return scores.pivot(
        make_label(results.artifact.id), "arm", "task", keys, caption, (*notes, *results.footnotes), "origin"
    )


def explain_reference_columns(results: StabilityResults) -> str:
    """Return an explanation of the comparison columns: tests, sides, centres and correction."""
    firsts = {pair.first for pair in results.reference_comparisons}
    first = firsts.pop() if len(firsts) == 1 else "the first arm"
    n_boschloo = sum(pair.failures.p is not None for pair in results.reference_comparisons)
    n_levene = sum(pair.levene_median.p is not None for pair in results.reference_comparisons)
    return (
        f"failed diff: share of failed runs, arm minus {first}, in points. Boschloo p: {BOSCHLOO} (one-sided: the arm "
        f"fails less often than {first}). SD ratio: {first} over arm, with its BCa bootstrap interval ({RESAMPLES:,} "
        f"resamples, seed {BOOTSTRAP_SEED}). Levene p: {LEVENE} of equal spread (two-sided, centre median); mean p: "
        "centre mean, for parity with the papers, not adjusted. Holm p: adjusted by Holm's method over the tests of "
        f"its kind in this report, {n_boschloo} of Boschloo and {n_levene} of Levene (median)."
    )


def _describe_sample_sizes(pairs: Sequence[ReferenceComparison]) -> str:
    sizes = {pairs[0].first: pairs[0].levene_median.n_a} | {pair.arm: pair.levene_median.n_b for pair in pairs}
    if len(set(sizes.values())) == 1:
        return f"n = {pairs[0].levene_median.n_a} of every arm."
    return "n: " + ", ".join(f"{arm} {n}" for arm, n in sizes.items()) + "."


def reference_remarks(pair: ReferenceComparison) -> Iterator[str]:
    """Yield the reasons for missing numbers and the caveats of a comparison."""
    reasons = [
        ("SD ratio", pair.sd_ratio.reason),
        ("Levene p", pair.levene_median.reason),
        ("mean p", pair.levene_mean.reason),
    ]
    if pair.sd_ratio.reason is None:
        reasons.append(("95 % BCa", pair.sd_ratio.interval.reason))
    if pair.failures.reason:
        yield f"{pair.arm} against {pair.first}: no Boschloo p: {pair.failures.reason}"
    for reason in dict.fromkeys(reason for _, reason in reasons if reason):
        names = ", ".join(name for name, other in reasons if other == reason)
        yield f"{pair.first} against {pair.arm}: no {names}: {reason}"
    if pair.remark:
        yield f"{pair.arm} against {pair.first}: {pair.remark}"


def _failed_loss_lines(results: StabilityResults, task: str) -> list[str]:
    cells = _cells_of_task(results, task) if results.part.against_first else []
    return [line for cell in cells if (line := describe_failed_losses(cell))]


def describe_failed_losses(cell: ArmCell) -> str | None:
    """Return a sentence on the failed runs' last training losses beside the entropy of the labels, or None."""
    values, entropies = cell.failed_losses, cell.label_entropies
    if not values or not entropies:
        return None
    runs = f"the {cell.failed} failed runs end at a mean" if cell.failed > 1 else "the failed run ends at a"
    if len(values) < cell.failed:
        runs = f"{len(values)} of {runs}"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    spread = "" if low == high else f" ({low} to {high})"
    nothing = " or ".join(f"{entropy:.2f}" for entropy in entropies)
    return (
        f"{cell.arm}: {runs} training loss of {sum(values) / len(values):.2f}{spread}; a model that has "
        f"learnt nothing has the entropy of the training labels, {nothing} nats"
    )
