"""Tables of means with the paper's rule for bold numbers, beside the published values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stableft.catalog.tasks import METRIC_TITLES
from stableft.report import numbers_in_words as wording
from stableft.report.artifact import MeanCell, MeansTable
from stableft.report.forms.document import (
    HEADING_LEVELS,
    SUBROW_PREFIX,
    Bullets,
    Heading,
    Report,
    ReportBlock,
    ReportCell,
    ReportRow,
    ReportTable,
)
from stableft.report.paper_values import PublishedValue, find_published_in_table, load_published_values
from stableft.report.runs import (
    ArmCell,
    ArtifactRuns,
    collect_provenance,
    missing_run_notes,
    provenance_to_json,
    reported_score,
)
from stableft.report.stability_table import cell_footnotes, imported_run_footnotes, withhold_if_stopped_early
from stableft.stats import (
    LARGEST_MEAN_REASON,
    WELCH_FROM_SUMMARIES,
    Summary,
    TestResult,
    mark_best_and_equal,
    mark_better_than,
    mark_different,
    summarize,
    t_test,
    welch_from_summaries,
)

BOLD_ALPHA = 0.05
BOLD_RULE_TEXTS = {
    "best": "bold: of {} the largest mean, and those not shown to be smaller (Student's t-test, one-sided, p ≥ .05)",
    "better": "bold: of {} those with a larger mean than the first (Student's t-test, one-sided, p < .05)",
    "different": "bold: {} differ (Student's t-test, two-sided, p < .05)",
    "pair": "bold: the larger mean of {}; *: larger by Student's t-test (one-sided, p < .05)",
}
UNNAMED_TEST_NOTE = "The paper does not name its test."


def build_means_report(parts: Sequence[MeansTable], runs: ArtifactRuns) -> Report:
    """Returns the report of tables of means, of which one artefact may have several."""
    artifact = runs.artifact
    made = [(part, compute_mean_results(part, runs)) for part in parts]
    grids = [
        _means_table(part, found, f"{artifact.id}-{i}" if len(made) > 1 else artifact.id, runs)
        for i, (part, found) in enumerate(made, 1)
    ]
    blocks: list[ReportBlock] = []
    for (part, found), grid in zip(made, grids, strict=True):
        blocks += [Heading(part.title)] if part.title else []
        blocks += [grid, *([Bullets(tests)] if (tests := tuple(_test_lines(found))) else [])]
    notes = [*artifact.notes, *dict.fromkeys(note for _, found in made for note in _means_notes(found))]
    notes += [*imported_run_footnotes(number.cell for _, found in made for number in found), *missing_run_notes(runs)]
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(tuple(notes))] if notes else []
    values = {
        "artifact": artifact.id,
        "title": artifact.title,
        "tables": [
            {
                "title": part.title,
                "rule": BOLD_RULE_TEXTS[part.rule].format(part.families),
                "cells": [mean_result_to_json(number) for number in found],
            }
            for part, found in made
        ],
        "notes": notes,
        **provenance_to_json(collect_provenance(runs)),
    }
    rows = tuple(mean_result_to_csv(number) for _, found in made for number in found)
    return Report(
        artifact.id, artifact.title, tuple(blocks), tuple(grids), rows, values, provenance=collect_provenance(runs)
    )


@dataclass(frozen=True)
class MeanResult:
    """One cell: ours, what is printed, and the tests. `test` is that of the table's rule within the family."""

    place: MeanCell
    cell: ArmCell
    summary: Summary
    scores: tuple[float, ...]
    note: str | None = None  # which setting of a search is shown
    bold: bool = False
    star: bool = False
    test: TestResult | None = None
    printed: PublishedValue | None = None
    against: TestResult | None = None  # Welch, ours against what is printed

    @property
    def difference(self) -> float | None:
        """Our mean minus the printed one, a fraction."""
        if self.against is None or (self.against.reason or "").startswith("the published score"):
            return None  # nothing to compare
        printed = self.printed.fraction("mean") if self.printed else None
        return None if printed is None or self.summary.mean is None else self.summary.mean - printed


def compute_mean_results(part: MeansTable, runs: ArtifactRuns) -> list[MeanResult]:
    """Returns the cells of a table of means, in its order, marked by its rule."""
    found = [_compute_mean_result(part, place, runs) for place in part.cells]
    for family in dict.fromkeys(place.family for place in part.cells):
        places = [i for i, place in enumerate(part.cells) if place.family == family]
        for i, number in zip(places, _apply_bold_rule(part, [found[i] for i in places]), strict=True):
            found[i] = number
    return found


def _compute_mean_result(part: MeansTable, place: MeanCell, runs: ArtifactRuns) -> MeanResult:
    arm, note = _choose_arm(place, runs)
    cell = runs.cell(arm, place.group.task)
    scored = [run for run in runs.by_place.get((arm, place.group.task), []) if run["scored"]]
    scores = tuple(score for run in scored if (score := reported_score(run, place.of)) is not None)
    summary = summarize(scores)
    printed = None
    if part.location:
        split = "val" if place.of == "val" else "test"
        values = find_published_in_table(load_published_values(), *part.location, place.group.arm, place.group.task)
        printed = next((value for value in values if value.split == split), None)
    number = MeanResult(place, cell, summary, scores, note, printed=printed)
    if printed and summary.n and (unlike := _why_incomparable(place, cell, printed)):
        nothing = TestResult(WELCH_FROM_SUMMARIES, None, "two-sided", None, None, summary.n, printed.n, unlike)
        return replace(number, against=nothing)
    if printed and summary.n:
        result = welch_from_summaries(
            summary.mean, summary.std, summary.n_finite, printed.fraction("mean"), printed.fraction("std"), printed.n
        )
        number = replace(number, against=withhold_if_stopped_early(result, cell))
    return number


def _why_incomparable(place: MeanCell, cell: ArmCell, printed: PublishedValue) -> str | None:
    """Says why our scores are not those that are printed, or None."""
    if cell.metric != printed.metric:
        return f"the published score is {printed.metric}, this one {cell.metric}"
    if place.of == "test" and cell.split != printed.split:
        return f"the published score is of the {printed.split} split, this one of the {cell.split} split"
    return None


def _choose_arm(place: MeanCell, runs: ArtifactRuns) -> tuple[str, str | None]:
    """Returns the arm to show: of a search the setting with the best mean validation score, and a note of it."""
    arm, task = place.group.arm, place.group.task
    if not arm.endswith("*"):
        return arm, None
    stem = arm.removesuffix("*")
    tried = [name for name, of in runs.by_place if of == task and (name == stem or name.startswith(f"{stem} "))]
    means = {}
    for name in tried:
        scores = [reported_score(run, "val") for run in runs.by_place[name, task] if run["scored"]]
        summary = summarize([score for score in scores if score is not None])
        stopped = any(run["status"] == "stopped" for run in runs.by_place[name, task])  # then the others are the better
        if summary.mean is not None and not summary.n_nan and not stopped:
            means[name] = summary.mean
    if not means:
        return tried[0] if tried else stem, None
    best = max(means, key=lambda name: round(means[name], 12))
    return best, (
        f"{place.group.label} on {task}: {best}, the best of {len(means)} settings by mean validation score"
        + (f" ({len(tried) - len(means)} have no such mean)." if len(means) < len(tried) else ".")
    )


def _apply_bold_rule(part: MeansTable, family: list[MeanResult]) -> list[MeanResult]:
    """Returns the numbers of a family with the rule's marks, as far as there are scores to compare."""
    there = [number for number in family if number.summary.n]
    if any(number.cell.stopped for number in there) or len(there) < 2:
        return family
    groups = [number.scores for number in there]
    match part.rule:
        case "best":
            marks = mark_best_and_equal(groups, BOLD_ALPHA)
        case "better":
            if family[0] is not there[0]:
                return family
            marks = (None, *mark_better_than(groups[0], groups[1:], BOLD_ALPHA))
        case "different":
            marks = (mark_different(groups[0], groups[1], BOLD_ALPHA),) * 2
        case "pair":
            return _mark_better_of_two(family)
    done = {
        id(number): replace(number, bold=bool(mark.flag), test=mark.test)
        for number, mark in zip(there, marks, strict=True)
        if mark
    }
    return [done.get(id(number), number) for number in family]


def _mark_better_of_two(pair: list[MeanResult]) -> list[MeanResult]:
    means = [number.summary.mean for number in pair]
    if None in means or any(number.summary.n_nan for number in pair):
        return pair
    larger = max((0, 1), key=lambda i: means[i] or 0.0)
    test = t_test(pair[larger].scores, pair[1 - larger].scores, True, "greater")
    star = test.p is not None and test.p < BOLD_ALPHA
    return [
        replace(number, bold=True, star=star, test=test) if i == larger else number for i, number in enumerate(pair)
    ]


def _means_table(part: MeansTable, found: Sequence[MeanResult], name: str, runs: ArtifactRuns) -> ReportTable:
    columns = tuple(dict.fromkeys(number.place.column for number in found))
    by_place = {(number.place.row, number.place.column): number for number in found}
    rows: list[ReportRow] = []
    for row in dict.fromkeys(number.place.row for number in found):
        line = [by_place.get((row, column)) for column in columns]
        rows.append((row, *(_own_cell(number) for number in line)))
        if any(number and number.printed for number in line):
            rows.append((f"{SUBROW_PREFIX}{_published_place(line)}", *(_published_text(number) for number in line)))
        if any(number and number.against for number in line):
            rows.append((f"{SUBROW_PREFIX}difference", *(_difference_text(number) for number in line)))
            rows.append((f"{SUBROW_PREFIX}compatible at .05 (p)", *(_compatible_text(number) for number in line)))
    rule = BOLD_RULE_TEXTS[part.rule].format(part.families)
    caption = f"{runs.artifact.title}. Mean ± std over seeds (ddof 1) in percent, n in brackets; {rule}."
    caption += f" {UNNAMED_TEST_NOTE}" if not part.named else ""
    if any(number.printed for number in found):
        caption += (
            " Compatible: the mean against the printed one by Welch's t-test from summaries (two-sided); printed "
            "numbers are rounded."
        )
    return ReportTable(name, ("", *columns), tuple(rows), caption)


def _published_place(line: Sequence[MeanResult | None]) -> str:
    return next(wording.abbreviate_papers(number.printed.place) for number in line if number and number.printed)


def _own_cell(number: MeanResult | None) -> ReportCell:
    if number is None or not number.summary.n:
        planned = number.cell.planned if number else None
        return ReportCell(f"{wording.NO_VALUE} (0 of {planned})" if planned else wording.NO_VALUE)
    failed = f", {number.cell.failed} failed" if number.cell.failed else ""
    mark = "*" if number.star else ""
    return ReportCell(f"{_format_mean_and_std(number.summary)} ({_format_n(number)}{failed})", number.bold, mark)


def _format_n(number: MeanResult) -> str:
    n, planned = str(number.summary.n), number.cell.planned
    if planned is not None and planned != number.summary.n:
        n += f" of {planned}"
    return f"{n}, {number.summary.n_nan} NaN" if number.summary.n_nan else n


def _format_mean_and_std(summary: Summary) -> str:
    return f"{wording.format_percent(summary.mean)} ± {wording.format_percent(summary.std)}"


def _published_text(number: MeanResult | None) -> str:
    value = number.printed if number else None
    if value is None:
        return ""
    return (
        f"{wording.format_percent(value.fraction('mean'))} ± {wording.format_percent(value.fraction('std'))} "
        f"({value.n})"
    )


def _difference_text(number: MeanResult | None) -> str:
    return (
        wording.format_percent(number.difference, sign=True) if number and number.printed and number.summary.n else ""
    )


def _compatible_text(number: MeanResult | None) -> str:
    return wording.format_compatible(number.against) if number and number.against else ""


def _test_lines(found: Sequence[MeanResult]) -> Iterator[str]:
    """Yields the test of each number within its family, once where two numbers share it."""
    seen = set()
    for number in found:
        test = number.test
        if test is None or test.reason == LARGEST_MEAN_REASON or (number.place.family, test) in seen:
            continue
        seen.add((number.place.family, test))
        name = (
            f"{number.place.row}, {number.place.column}"
            if number.place.row != number.place.column
            else number.place.row
        )
        yield f"{name}: {wording.describe_test(test)}"


def _means_notes(found: Sequence[MeanResult]) -> Iterator[str]:
    """Yields what a reader must know of the numbers that are there, and of those printed for them, each once."""
    printed: dict[tuple[str, str], dict[str, None]] = {}
    for number in found:
        yield from [number.note] if number.note else []
        yield from cell_footnotes(number.cell, sources=False) if number.cell.run_ids else ()
        if number.against and number.against.p is None:
            yield f"{number.cell.row} on {number.cell.column}: not compared with the paper: {number.against.reason}."
        if number.printed and number.summary.n:
            for note in number.printed.notes:
                where = f"{number.place.row} ({number.place.column})"
                printed.setdefault((wording.abbreviate_papers(number.printed.place), note), {})[where] = None
    for (place, note), where in printed.items():
        yield f"{place}, {'; '.join(where)}: {note}."


def mean_result_to_json(number: MeanResult) -> dict[str, Any]:
    cell, summary, printed = number.cell, number.summary, number.printed
    return {
        "row": number.place.row,
        "column": number.place.column,
        "family": number.place.family,
        "arm": cell.row,
        "task": cell.column,
        "metric": cell.metric,
        "split": "val" if number.place.of == "val" else cell.split,
        "checkpoint": cell.checkpoint,
        "n": summary.n,
        "n_nan": summary.n_nan,
        "planned": cell.planned,
        "failed": None if cell.failed_unknown else cell.failed,
        "mean": summary.mean,
        "std": summary.std,
        "reason": cell.reason,
        "bold": number.bold,
        "star": number.star,
        "test": _test_to_json(number.test),
        "published": printed
        and {"place": printed.place, "n": printed.n, "mean": printed.fraction("mean"), "std": printed.fraction("std")},
        "difference": number.difference,
        "against_published": _test_to_json(number.against),
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
    }


def _test_to_json(test: TestResult | None) -> dict[str, Any] | None:
    if test is None:
        return None
    names = ("test", "alternative", "statistic", "p", "n_a", "n_b", "reason")
    return {name: getattr(test, name) for name in names}


def mean_result_to_csv(number: MeanResult) -> dict[str, Any]:
    cell, summary, printed, test = number.cell, number.summary, number.printed, number.test
    return {
        "row": number.place.row,
        "column": number.place.column,
        "arm": cell.row,
        "task": cell.column,
        "metric": cell.metric and METRIC_TITLES.get(cell.metric, cell.metric),
        "origin": "; ".join(cell.sources) or "this project",
        "n": summary.n,
        "n NaN": summary.n_nan,
        "n planned": cell.planned,
        "n failed": None if cell.failed_unknown else cell.failed,
        "mean [percent]": _csv_percent(summary.mean),
        "std [percent]": _csv_percent(summary.std),
        "bold": number.bold,
        "star": number.star,
        "test": test and wording.describe_test(test),
        "published": printed and printed.place,
        "published mean [percent]": printed and _csv_percent(printed.fraction("mean")),
        "published std [percent]": printed and _csv_percent(printed.fraction("std")),
        "published n": printed and printed.n,
        "difference [points]": _csv_percent(number.difference),
        "p (Welch against published)": number.against and number.against.p,
    }


def _csv_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.4f}"
