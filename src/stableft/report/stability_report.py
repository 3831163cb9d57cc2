"""The report on stability: a table a task, every arm against the first, notes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stableft.report import failure_watch as watched
from stableft.report import numbers_in_words as wording
from stableft.report.failure_watch import failure_watch_blocks, failure_watch_tables
from stableft.report.figures.from_probes import PROBE_FIGURE_ALTS
from stableft.report.forms.document import (
    HEADING_LEVELS,
    SUBROW_PREFIX,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportCell,
    ReportRow,
    ReportTable,
    make_label,
)
from stableft.report.numbers_in_words import NO_VALUE, describe_test, format_percent
from stableft.report.paper_values import STATISTICS
from stableft.report.runs import ArmCell
from stableft.report.stability_table import (
    BOOTSTRAP_SEED,
    ROLE_SMALLEST_STD,
    Comparison,
    ReferenceComparison,
    StabilityTable,
    cell_footnotes,
    task_title,
)
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES, WELCH_FROM_SUMMARIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COMPATIBLE_EXPLANATION = (
    "compatible (p): whether p is at least .05 in Welch's t-test from summaries (two-sided) of the mean against the "
    "published mean, with the n of both rows less NaN; published numbers are rounded to 0.1."
)
COMPATIBLE_CAPTION = "Compatible: the mean against the published mean by Welch's t-test from summaries (two-sided)."
NOTES_HEADING = Heading("Notes", HEADING_LEVELS + 1)  # of all that stands above, whatever its rank
SCORES_FIGURE = "scores"  # the figure that stands above the tables; the others stand below


def build_stability_report(
    table: StabilityTable,
    figures: "Mapping[str, Callable[[], Figure]] | None" = None,
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Returns the report of a table of stability with these figures, by name, and notes below its own."""
    figures = figures or {}
    return Report(
        id=table.artifact.id,
        title=table.artifact.title,
        blocks=tuple(_stability_blocks(table, figures, notes)),
        tables=(
            _paper_style_table(table),
            *(_standalone_reference_table(table, column) for column in _columns_with_comparisons(table)),
            *failure_watch_tables(table, alone=True),
        ),
        rows=tuple(stability_to_csv_rows(table)),
        values=stability_to_json(table),
        figures=figures,
        provenance=provenance or Provenance(),
    )


def _stability_blocks(
    table: StabilityTable, figures: Mapping[str, object], more: Sequence[str]
) -> Iterator[ReportBlock]:
    if SCORES_FIGURE in figures:
        yield Picture(SCORES_FIGURE, _alt_text(table, SCORES_FIGURE))
    for column in table.columns:
        cells = _cells_in_column(table, column)
        yield Heading(wording.scores_heading(cells))
        yield _column_table(table, column)
        yield Bullets((*_failed_loss_lines(table, column), *wording.describe_comparisons(table, column)))
        if column in _columns_with_comparisons(table):
            pairs = comparisons_in_column(table, column)
            yield Heading(f"Against {pairs[0].first}", 3)
            yield _reference_table(table, column)
            yield Bullets((describe_sample_sizes(pairs), *(line for pair in pairs for line in reference_remarks(pair))))
    if table.battery:
        yield Paragraph(explain_reference_table(table))
    if _has_published(table):
        yield Paragraph(COMPATIBLE_EXPLANATION)
    yield from failure_watch_blocks(table)
    yield from (Picture(name, _alt_text(table, name)) for name in figures if name != SCORES_FIGURE)
    if notes := (*table.footnotes, *wording.published_notes(table), *more):
        yield NOTES_HEADING
        yield Bullets(notes)


def _alt_text(table: StabilityTable, name: str) -> str:
    """Returns what a figure shows, for those who do not see it."""
    what = {
        SCORES_FIGURE: "The score of every run and a box for each arm",
        "training-loss": "The training loss of every run over its optimizer steps, failed runs apart",
        "training-curves": "Training loss and validation score over the optimizer steps, mean and standard deviation, "
        "failed runs apart",
        **PROBE_FIGURE_ALTS,
    }.get(name, name)
    columns = (f"{task_title(column)} ({', '.join(_failed_counts(table, column))})" for column in table.columns)
    return f"{what}: {'; '.join(columns)}."


def _failed_counts(table: StabilityTable, column: str) -> Iterator[str]:
    return (f"{cell.row} {wording.format_failed(cell)} failed" for cell in _cells_in_column(table, column))


def _cells_in_column(table: StabilityTable, column: str) -> list[ArmCell]:
    return [cell for cell in table.cells if cell.column == column]


def _columns_with_comparisons(table: StabilityTable) -> list[str]:
    """Returns the columns whose arms are compared with their first."""
    return [column for column in table.columns if comparisons_in_column(table, column)]


def _has_published(table: StabilityTable) -> bool:
    return any(comparison.published for comparison in table.comparisons)


def _failed_loss_lines(table: StabilityTable, column: str) -> list[str]:
    found = _cells_in_column(table, column) if table.artifact.against_first else []
    return [line for cell in found if (line := describe_failed_losses(cell))]


def _column_table(table: StabilityTable, column: str) -> ReportTable:
    """Returns the arms of a column, each above what is printed for its setting."""
    header = ("arm", "n", "failed", "95 % Wilson", "crashed", *table.artifact.statistics, "compatible (p)")
    found = [row for cell in _cells_in_column(table, column) for row in _column_table_rows(table, cell)]
    if not _has_published(table):
        header, found = header[:-1], [row[:-1] for row in found]
    return ReportTable(make_label(f"{table.artifact.id}-{column}"), header, tuple(found))


def _column_table_rows(table: StabilityTable, cell: ArmCell) -> Iterator[ReportRow]:
    counts = (wording.format_n(cell), wording.format_failed(cell), wording.format_wilson(cell), str(cell.crashed))
    yield (cell.row, *counts, *_statistic_cells(table, cell), "")
    for comparison in table.against_published(cell):
        value = comparison.published
        assert value
        yield (
            f"{SUBROW_PREFIX}{wording.abbreviate_papers(value.place)}",
            str(value.n),
            "",
            "",
            "",
            *_published_texts(table, comparison),
            "",
        )
        compatible = wording.format_compatible(comparison.result)
        yield (f"{SUBROW_PREFIX}difference", "", "", "", "", *_difference_texts(table, comparison), compatible)


def _statistic_cells(table: StabilityTable, cell: ArmCell) -> Iterator[str | ReportCell]:
    for name in table.artifact.statistics:
        text = format_percent(getattr(cell.summary, name))
        mark = ("*" if table.starred(cell) else "") + ("†" if cell.every_run_failed else "")
        yield ReportCell(text, mark=mark) if name == "std" and mark else text


def _published_texts(table: StabilityTable, comparison: Comparison) -> list[str]:
    assert comparison.published
    return [format_percent(comparison.published.fraction(name)) for name in table.artifact.statistics]


def _difference_texts(table: StabilityTable, comparison: Comparison) -> list[str]:
    return [format_percent(comparison.differences.get(name), sign=True) for name in table.artifact.statistics]


def _reference_table(table: StabilityTable, column: str, caption: str = "", notes: tuple[str, ...] = ()) -> ReportTable:
    found = tuple(tuple(reference_row(pair)) for pair in comparisons_in_column(table, column))
    return ReportTable(
        make_label(f"{table.artifact.id}-{column}-against-first"), REFERENCE_HEADER, found, caption, notes=notes
    )


def _standalone_reference_table(table: StabilityTable, column: str) -> ReportTable:
    """Returns the comparisons of a column with all that a reader who sees nothing else must know."""
    pairs = comparisons_in_column(table, column)
    remarks = (f"{line}." for pair in pairs for line in reference_remarks(pair))
    caption = f"{task_title(column)}: every arm against {pairs[0].first}."
    return _reference_table(
        table, column, caption, (explain_reference_table(table), describe_sample_sizes(pairs), *remarks)
    )


def _paper_style_table(table: StabilityTable) -> ReportTable:
    """Returns the table in the shape of M Table 1: arms down, tasks across."""
    fields = ("n", "failed", *table.artifact.statistics)
    return ReportTable(
        name=make_label(table.artifact.id),
        header=("Approach", *(fields * len(table.columns))),
        rows=tuple(row for arm in table.rows for row in _paper_style_rows(table, arm)),
        caption=_paper_style_caption(table),
        groups=tuple((task_title(column), len(fields)) for column in table.columns),
        notes=tuple(_paper_style_notes(table)),
    )


def _paper_style_rows(table: StabilityTable, arm: str) -> Iterator[ReportRow]:
    cells = [table.cell(arm, column) for column in table.columns]
    yield (arm, *(place for cell in cells for place in _paper_style_cells(table, cell)))
    found = [
        {c.published.place: c for c in table.against_published(cell) if c.published} if cell else {} for cell in cells
    ]
    for place in dict.fromkeys(place for by_place in found for place in by_place):
        here = [by_place.get(place) for by_place in found]
        empty = [""] * (2 + len(table.artifact.statistics))
        theirs = [[str(c.published.n), "", *_published_texts(table, c)] if c and c.published else empty for c in here]
        differences = [["", "", *_difference_texts(table, c)] if c else empty for c in here]
        yield (f"{SUBROW_PREFIX}{wording.abbreviate_papers(place)}", *(text for texts in theirs for text in texts))
        yield (f"{SUBROW_PREFIX}difference", *(text for texts in differences for text in texts))
        verdicts = [[wording.format_compatible(c.result) if c else "", *empty[1:]] for c in here]
        yield (f"{SUBROW_PREFIX}compatible at .05 (p)", *(text for texts in verdicts for text in texts))


def _paper_style_cells(table: StabilityTable, cell: ArmCell | None) -> list[str | ReportCell]:
    if cell is None:
        return [NO_VALUE] * (2 + len(table.artifact.statistics))
    return [wording.format_n(cell), wording.format_failed(cell), *_statistic_cells(table, cell)]


def _paper_style_caption(table: StabilityTable) -> str:
    alpha, center = table.artifact.alpha, table.artifact.center
    return (
        f"{table.artifact.title}. Percent; std over seeds (ddof 1); failed k/n. "
        f"* p < {alpha:g} by Levene's test (centre {center}) of the smallest against the second smallest std."
        + (f" {COMPATIBLE_CAPTION}" if _has_published(table) else "")
    )


def _paper_style_notes(table: StabilityTable) -> Iterator[str]:
    """Yields the tests in full, and what a reader must know."""
    for column in table.columns:
        yield from (f"{task_title(column)}: {line}." for line in wording.describe_comparisons(table, column))
    for column in table.columns:
        yield from (f"{task_title(column)}: {line}." for line in _failed_loss_lines(table, column))
    yield from table.footnotes


STABILITY_CSV_HEADER = [
    *("task", "arm", "origin", "metric", "split", "checkpoint", "n", "n NaN", "n planned", "n failed"),
    *("n crashed", "n stopped"),
    *(f"{name} [percent]" for name in STATISTICS),
    *(
        "star",
        "smallest std against second smallest",
        f"p ({WELCH_FROM_SUMMARIES}, two-sided, against published)",
        "compatible at .05",
        "notes",
    ),
]


def stability_to_csv_rows(table: StabilityTable) -> Iterator[dict[str, Any]]:
    """Yields a line for each cell and, below it, one for each value that is printed for its setting."""
    more = REFERENCE_CSV_HEADER if table.artifact.against_first else []
    watch = watched.FAILURE_WATCH_CSV_HEADER if watched.cells_with_failure_watch(table) else []
    for cell in table.cells:
        summary = cell.summary
        failed = None if cell.failed_unknown else cell.failed
        texts = (
            [cell.column, cell.row, _csv_origin(cell), cell.metric, cell.split, cell.checkpoint]
            + [summary.n, summary.n_nan, cell.planned, failed, cell.crashed, cell.stopped]
            + [_csv_percent(getattr(summary, name)) for name in STATISTICS]
            + ["*" if table.starred(cell) else None, _csv_tests(table, cell), None, None, _csv_notes(table, cell)]
            + (reference_to_csv(table, cell) if more else [])
            + (watched.failure_watch_to_csv(cell) if watch else [])
        )
        yield dict(zip([*STABILITY_CSV_HEADER, *more, *watch], texts, strict=True))
        for comparison in table.against_published(cell):
            value = comparison.published
            assert value
            texts = (
                [cell.column, cell.row, value.place, value.metric, value.split, None, value.n, *[None] * 5]
                + [_csv_percent(value.fraction(name)) for name in STATISTICS]
                + [None, None, comparison.result.p, comparison.compatible, "; ".join(value.notes) or None]
                + [None] * len([*more, *watch])
            )
            yield dict(zip([*STABILITY_CSV_HEADER, *more, *watch], texts, strict=True))


def stability_to_json(table: StabilityTable) -> dict[str, Any]:
    """Returns the whole report as JSON values: scores are fractions, what is missing is None with a reason."""
    return {
        "artifact": table.artifact.id,
        "title": table.artifact.title,
        "alpha": table.artifact.alpha,
        "cells": [_cell_to_json(table, cell) for cell in table.cells],
        "comparisons": [_comparison_to_json(comparison) for comparison in table.comparisons],
        **({"against_first": [reference_to_json(v) for v in table.battery]} if table.artifact.against_first else {}),
        **watched.failure_watch_to_json(table),
        "footnotes": list(table.footnotes),
    }


def _cell_to_json(table: StabilityTable, cell: ArmCell) -> dict[str, Any]:
    summary, interval = cell.summary, cell.failed_interval
    return {
        "row": cell.row,
        "column": cell.column,
        "recipe": cell.recipe,
        "metric": cell.metric,
        "split": cell.split,
        "checkpoint": cell.checkpoint,
        "n": summary.n,
        "n_nan": summary.n_nan,
        "n_finite": summary.n_finite,
        **{name: getattr(summary, name) for name in STATISTICS},
        "reason": cell.reason,
        "failed": None if cell.failed_unknown else cell.failed,
        "failed_unknown": cell.failed_unknown,
        "failed_interval": {"method": interval.method, "level": interval.level, "low": interval.low}
        | {"high": interval.high, "reason": interval.reason},
        "every_run_failed": cell.every_run_failed,
        "crashed": cell.crashed,
        "stopped": cell.stopped,
        "unscored": cell.unscored,
        "planned": cell.planned,
        "star": table.starred(cell),
        "deviations": list(table.deviations.get((cell.row, cell.column), ())),
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
        **(_losses_to_json(cell) if table.artifact.against_first else {}),
        "published": [
            {
                "paper": value.paper,
                "location": value.location,
                "version": value.version,
                "metric": value.metric,
                "split": value.split,
                "n": value.n,
                **{name: value.fraction(name) for name in STATISTICS},
                "notes": list(value.notes),
            }
            for value in (comparison.published for comparison in table.against_published(cell))
            if value
        ],
    }


def _losses_to_json(cell: ArmCell) -> dict[str, Any]:
    return {"failed_train_losses": list(cell.failed_losses), "label_entropies": list(cell.label_entropies)}


def _comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    result = comparison.result
    side = {"center": result.center} if result.center else {"alternative": result.alternative}
    return {
        "role": comparison.role,
        "a": comparison.a,
        "b": comparison.b,
        "column": comparison.column,
        "test": result.test,
        **side,
        "statistic": result.statistic,
        "p": result.p,
        "n_a": result.n_a,
        "n_b": result.n_b,
        "reason": result.reason,
        "star": comparison.star,
        "remark": comparison.remark,
        **(
            {"difference": dict(comparison.differences), "compatible": comparison.compatible}
            if comparison.published
            else {}
        ),
    }


def _csv_origin(cell: ArmCell) -> str:
    own = len(cell.run_ids) - sum(cell.sources.values())
    return "; ".join([*(["this project"] if own or not cell.sources else []), *cell.sources])


def _csv_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.4f}"


def _csv_tests(table: StabilityTable, cell: ArmCell) -> str | None:
    tests = [c for c in table.comparisons if c.role == ROLE_SMALLEST_STD and (c.a, c.column) == (cell.row, cell.column)]
    return (
        "; ".join(f"against {c.b}: {describe_test(c.result)}" if c.b else describe_test(c.result) for c in tests)
        or None
    )


def _csv_notes(table: StabilityTable, cell: ArmCell) -> str | None:
    deviations = table.deviations.get((cell.row, cell.column))
    notes = [f"not a replication: {', '.join(deviations)}"] if deviations else []
    others = [other for other in table.cells if other.column == cell.column]
    return " ".join([*notes, *cell_footnotes(cell, others=others)]) or None


# Boschloo's p is the end of a search and an interval that of resampling: the last bits vary by processor.
SIGNIFICANT_DIGITS = 9
REFERENCE_HEADER = (
    "arm",
    "failed diff",
    "Boschloo p",
    "Holm p",
    "SD ratio",
    "95 % BCa",
    "Levene p",
    "Holm p",
    "mean p",
)
REFERENCE_CSV_HEADER = [
    "against",
    "failed, difference [points]",
    f"p ({BOSCHLOO}, one-sided: fails less often)",
    "Holm p (Boschloo)",
    "std ratio (first arm over this)",
    "95 % BCa low",
    "95 % BCa high",
    f"p ({LEVENE}, centre median)",
    "Holm p (Levene, centre median)",
    f"p ({LEVENE}, centre mean)",
    "remarks",
]


def comparisons_in_column(table: StabilityTable, column: str) -> list[ReferenceComparison]:
    """Returns the comparisons of a column's arms with its first, of which there may be none."""
    return [versus for versus in table.battery if versus.column == column]


def reference_row(versus: ReferenceComparison) -> list[str]:
    """Returns the cells of one line below HEADER."""
    ratio = versus.sd_ratio
    low, high = ratio.interval.low, ratio.interval.high
    return [
        versus.arm,
        format_percent(versus.failed_difference, sign=True),
        _format_p(versus.failures.p),
        _format_p(versus.holm_failures),
        NO_VALUE if ratio.value is None else f"{ratio.value:.3g}",
        NO_VALUE if low is None or high is None else f"{low:.3g}-{high:.3g}",
        _format_p(versus.levene_median.p),
        _format_p(versus.holm_levene),
        _format_p(versus.levene_mean.p),
    ]


def explain_reference_table(table: StabilityTable) -> str:
    """Returns what the columns of the blocks are: tests, sides, centres and correction."""
    firsts = {versus.first for versus in table.battery}
    first = firsts.pop() if len(firsts) == 1 else "the first arm"
    counts = [
        sum(test.p is not None for test in tests)
        for tests in ([v.failures for v in table.battery], [v.levene_median for v in table.battery])
    ]
    return (
        f"failed diff: share of failed runs, arm minus {first}, in points. Boschloo p: {BOSCHLOO} (one-sided: the arm "
        f"fails less often than {first}). SD ratio: {first} over arm, with its BCa bootstrap interval ({RESAMPLES:,} "
        f"resamples, seed {BOOTSTRAP_SEED}). Levene p: {LEVENE} of equal spread (two-sided, centre median); mean p: "
        "centre mean, for parity with the papers, not adjusted. Holm p: adjusted by Holm's method over the tests of "
        f"its kind in this report, {counts[0]} of Boschloo and {counts[1]} of Levene (median)."
    )


def describe_sample_sizes(pairs: Sequence[ReferenceComparison]) -> str:
    """Returns the n of the arms of a block."""
    found = {pairs[0].first: pairs[0].levene_median.n_a} | {v.arm: v.levene_median.n_b for v in pairs}
    if len(set(found.values())) == 1:
        return f"n = {pairs[0].levene_median.n_a} of every arm."
    return "n: " + ", ".join(f"{arm} {n}" for arm, n in found.items()) + "."


def reference_remarks(versus: ReferenceComparison) -> Iterator[str]:
    """Yields why numbers are missing, and what makes the comparison less than it seems."""
    results = (("SD ratio", versus.sd_ratio.reason), ("Levene p", versus.levene_median.reason))
    results += (("mean p", versus.levene_mean.reason),)
    if versus.sd_ratio.reason is None:
        results += (("95 % BCa", versus.sd_ratio.interval.reason),)
    if versus.failures.reason:
        yield f"{versus.arm} against {versus.first}: no Boschloo p: {versus.failures.reason}"
    for reason in dict.fromkeys(reason for _, reason in results if reason):
        names = ", ".join(name for name, other in results if other == reason)
        yield f"{versus.first} against {versus.arm}: no {names}: {reason}"
    if versus.remark:
        yield f"{versus.arm} against {versus.first}: {versus.remark}"


def describe_failed_losses(cell: ArmCell) -> str | None:
    """Returns how the failed runs' training losses ended beside what a model that has learnt nothing has, or None."""
    values, entropies = cell.failed_losses, cell.label_entropies
    if not values or not entropies:
        return None
    which = f"the {cell.failed} failed runs end at a mean" if cell.failed > 1 else "the failed run ends at a"
    if len(values) < cell.failed:
        which = f"{len(values)} of {which}"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    spread = "" if low == high else f" ({low} to {high})"
    nothing = " or ".join(f"{entropy:.2f}" for entropy in entropies)
    return (
        f"{cell.row}: {which} training loss of {sum(values) / len(values):.2f}{spread}; a model that has "
        f"learnt nothing has the entropy of the training labels, {nothing} nats"
    )


def reference_to_json(versus: ReferenceComparison) -> dict[str, Any]:
    """Returns the comparison as JSON values."""
    return _round_floats(asdict(versus))


def reference_to_csv(table: StabilityTable, cell: ArmCell) -> list[Any]:
    """Returns what stands below CSV_HEADER for a cell; empty for the first arm."""
    versus = next((v for v in table.battery if (v.arm, v.column) == (cell.row, cell.column)), None)
    if versus is None:
        return [None] * (len(REFERENCE_CSV_HEADER) - 1) + [describe_failed_losses(cell)]
    ratio, points = versus.sd_ratio, versus.failed_difference
    return [
        versus.first,
        None if points is None else f"{100 * points:.4f}",
        *_round_floats([versus.failures.p, versus.holm_failures, ratio.value, ratio.interval.low, ratio.interval.high]),
        *_round_floats([versus.levene_median.p, versus.holm_levene, versus.levene_mean.p]),
        "; ".join([*reference_remarks(versus), *filter(None, [describe_failed_losses(cell)])]) or None,
    ]


def _round_floats(value: Any) -> Any:
    """Returns nested values with every float cut to DIGITS significant digits."""
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value


def _format_p(p: float | None) -> str:
    return NO_VALUE if p is None else f"{p:.2g}" if p > 0 else "<1e-300"
