"""Tables of means: ours with the paper's rule for what is set in bold, theirs, the difference, and a test of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stableft.catalog.tasks import TITLES
from stableft.report import numbers_in_words as wording
from stableft.report.artifact import MeanCell, Means
from stableft.report.forms.document import PART, RANKS, Block, Bullets, Entry, Grid, Heading, Report, ReportRow
from stableft.report.paper_values import PublishedValue, load_published, printed_for_arm
from stableft.report.runs import Cell, Runs, missing_runs, provenance, provenance_values, reported
from stableft.report.stability_table import cell_footnotes, foreign_notes, unless_selected
from stableft.stats import (
    LARGEST,
    WELCH,
    Summary,
    TestResult,
    best_and_equal,
    better_than,
    describe,
    different,
    t_test,
    welch_from_summaries,
)

ALPHA = 0.05
TESTS = {
    "best": "bold: of {} the largest mean, and those not shown to be smaller (Student's t-test, one-sided, p ≥ .05)",
    "better": "bold: of {} those with a larger mean than the first (Student's t-test, one-sided, p < .05)",
    "different": "bold: {} differ (Student's t-test, two-sided, p < .05)",
    "pair": "bold: the larger mean of {}; *: larger by Student's t-test (one-sided, p < .05)",
}
UNNAMED = "The paper does not name its test."


def means_report(parts: Sequence[Means], runs: Runs) -> Report:
    """Returns the report of tables of means, of which one artefact may have several."""
    artifact = runs.artifact
    made = [(part, numbers(part, runs)) for part in parts]
    grids = [
        _grid(part, found, f"{artifact.id}-{i}" if len(made) > 1 else artifact.id, runs)
        for i, (part, found) in enumerate(made, 1)
    ]
    blocks: list[Block] = []
    for (part, found), grid in zip(made, grids, strict=True):
        blocks += [Heading(part.title)] if part.title else []
        blocks += [grid, *([Bullets(tests)] if (tests := tuple(_tests(found))) else [])]
    notes = [*artifact.notes, *dict.fromkeys(note for _, found in made for note in _notes(found))]
    notes += [*foreign_notes(number.cell for _, found in made for number in found), *missing_runs(runs)]
    blocks += [Heading("Notes", RANKS + 1), Bullets(tuple(notes))] if notes else []
    values = {
        "artifact": artifact.id,
        "title": artifact.title,
        "tables": [
            {
                "title": part.title,
                "rule": TESTS[part.rule].format(part.families),
                "cells": [cell_values(number) for number in found],
            }
            for part, found in made
        ],
        "notes": notes,
        **provenance_values(provenance(runs)),
    }
    rows = tuple(csv_row(number) for _, found in made for number in found)
    return Report(artifact.id, artifact.title, tuple(blocks), tuple(grids), rows, values, provenance=provenance(runs))


@dataclass(frozen=True)
class Number:
    """One cell: ours, what is printed, and the tests. `test` is that of the table's rule within the family."""

    place: MeanCell
    cell: Cell
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


def numbers(part: Means, runs: Runs) -> list[Number]:
    """Returns the cells of a table of means, in its order, marked by its rule."""
    found = [_number(part, place, runs) for place in part.cells]
    for family in dict.fromkeys(place.family for place in part.cells):
        places = [i for i, place in enumerate(part.cells) if place.family == family]
        for i, number in zip(places, _marked(part, [found[i] for i in places]), strict=True):
            found[i] = number
    return found


def _number(part: Means, place: MeanCell, runs: Runs) -> Number:
    arm, note = _setting(place, runs)
    cell = runs.cell(arm, place.group.task)
    scored = [run for run in runs.by_place.get((arm, place.group.task), []) if run["scored"]]
    scores = tuple(score for run in scored if (score := reported(run, place.of)) is not None)
    summary = describe(scores)
    printed = None
    if part.location:
        split = "val" if place.of == "val" else "test"
        values = printed_for_arm(load_published(), *part.location, place.group.arm, place.group.task)
        printed = next((value for value in values if value.split == split), None)
    number = Number(place, cell, summary, scores, note, printed=printed)
    if printed and summary.n and (unlike := _unlike(place, cell, printed)):
        nothing = TestResult(WELCH, None, "two-sided", None, None, summary.n, printed.n, unlike)
        return replace(number, against=nothing)
    if printed and summary.n:
        result = welch_from_summaries(
            summary.mean, summary.std, summary.n_finite, printed.fraction("mean"), printed.fraction("std"), printed.n
        )
        number = replace(number, against=unless_selected(result, cell))
    return number


def _unlike(place: MeanCell, cell: Cell, printed: PublishedValue) -> str | None:
    """Says why our scores are not those that are printed, or None."""
    if cell.metric != printed.metric:
        return f"the published score is {printed.metric}, this one {cell.metric}"
    if place.of == "test" and cell.split != printed.split:
        return f"the published score is of the {printed.split} split, this one of the {cell.split} split"
    return None


def _setting(place: MeanCell, runs: Runs) -> tuple[str, str | None]:
    """Returns the arm to show: of a search the setting with the best mean validation score, and a note of it."""
    arm, task = place.group.arm, place.group.task
    if not arm.endswith("*"):
        return arm, None
    stem = arm.removesuffix("*")
    tried = [name for name, of in runs.by_place if of == task and (name == stem or name.startswith(f"{stem} "))]
    means = {}
    for name in tried:
        scores = [reported(run, "val") for run in runs.by_place[name, task] if run["scored"]]
        summary = describe([score for score in scores if score is not None])
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


def _marked(part: Means, family: list[Number]) -> list[Number]:
    """Returns the numbers of a family with the rule's marks, as far as there are scores to compare."""
    there = [number for number in family if number.summary.n]
    if any(number.cell.stopped for number in there) or len(there) < 2:
        return family
    groups = [number.scores for number in there]
    match part.rule:
        case "best":
            marks = best_and_equal(groups, ALPHA)
        case "better":
            if family[0] is not there[0]:
                return family
            marks = (None, *better_than(groups[0], groups[1:], ALPHA))
        case "different":
            marks = (different(groups[0], groups[1], ALPHA),) * 2
        case "pair":
            return _better_of_two(family)
    done = {
        id(number): replace(number, bold=bool(mark.flag), test=mark.test)
        for number, mark in zip(there, marks, strict=True)
        if mark
    }
    return [done.get(id(number), number) for number in family]


def _better_of_two(pair: list[Number]) -> list[Number]:
    means = [number.summary.mean for number in pair]
    if None in means or any(number.summary.n_nan for number in pair):
        return pair
    larger = max((0, 1), key=lambda i: means[i] or 0.0)
    test = t_test(pair[larger].scores, pair[1 - larger].scores, True, "greater")
    star = test.p is not None and test.p < ALPHA
    return [
        replace(number, bold=True, star=star, test=test) if i == larger else number for i, number in enumerate(pair)
    ]


def _grid(part: Means, found: Sequence[Number], name: str, runs: Runs) -> Grid:
    columns = tuple(dict.fromkeys(number.place.column for number in found))
    by_place = {(number.place.row, number.place.column): number for number in found}
    rows: list[ReportRow] = []
    for row in dict.fromkeys(number.place.row for number in found):
        line = [by_place.get((row, column)) for column in columns]
        rows.append((row, *(_ours(number) for number in line)))
        if any(number and number.printed for number in line):
            rows.append((f"{PART}{_place(line)}", *(_theirs(number) for number in line)))
        if any(number and number.against for number in line):
            rows.append((f"{PART}difference", *(_difference(number) for number in line)))
            rows.append((f"{PART}compatible at .05 (p)", *(_compatible(number) for number in line)))
    rule = TESTS[part.rule].format(part.families)
    caption = f"{runs.artifact.title}. Mean ± std over seeds (ddof 1) in percent, n in brackets; {rule}."
    caption += f" {UNNAMED}" if not part.named else ""
    if any(number.printed for number in found):
        caption += (
            " Compatible: the mean against the printed one by Welch's t-test from summaries (two-sided); printed "
            "numbers are rounded."
        )
    return Grid(name, ("", *columns), tuple(rows), caption)


def _place(line: Sequence[Number | None]) -> str:
    return next(wording.short(number.printed.place) for number in line if number and number.printed)


def _ours(number: Number | None) -> Entry:
    if number is None or not number.summary.n:
        planned = number.cell.planned if number else None
        return Entry(f"{wording.MISSING} (0 of {planned})" if planned else wording.MISSING)
    failed = f", {number.cell.failed} failed" if number.cell.failed else ""
    mark = "*" if number.star else ""
    return Entry(f"{_plus_minus(number.summary)} ({_count(number)}{failed})", number.bold, mark)


def _count(number: Number) -> str:
    n, planned = str(number.summary.n), number.cell.planned
    if planned is not None and planned != number.summary.n:
        n += f" of {planned}"
    return f"{n}, {number.summary.n_nan} NaN" if number.summary.n_nan else n


def _plus_minus(summary: Summary) -> str:
    return f"{wording.percent(summary.mean)} ± {wording.percent(summary.std)}"


def _theirs(number: Number | None) -> str:
    value = number.printed if number else None
    if value is None:
        return ""
    return f"{wording.percent(value.fraction('mean'))} ± {wording.percent(value.fraction('std'))} ({value.n})"


def _difference(number: Number | None) -> str:
    return wording.percent(number.difference, sign=True) if number and number.printed and number.summary.n else ""


def _compatible(number: Number | None) -> str:
    return wording.compatible(number.against) if number and number.against else ""


def _tests(found: Sequence[Number]) -> Iterator[str]:
    """Yields the test of each number within its family, once where two numbers share it."""
    seen = set()
    for number in found:
        test = number.test
        if test is None or test.reason == LARGEST or (number.place.family, test) in seen:
            continue
        seen.add((number.place.family, test))
        name = (
            f"{number.place.row}, {number.place.column}"
            if number.place.row != number.place.column
            else number.place.row
        )
        yield f"{name}: {wording.sentence(test)}"


def _notes(found: Sequence[Number]) -> Iterator[str]:
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
                printed.setdefault((wording.short(number.printed.place), note), {})[where] = None
    for (place, note), where in printed.items():
        yield f"{place}, {'; '.join(where)}: {note}."


def cell_values(number: Number) -> dict[str, Any]:
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
        "test": _test_values(number.test),
        "published": printed
        and {"place": printed.place, "n": printed.n, "mean": printed.fraction("mean"), "std": printed.fraction("std")},
        "difference": number.difference,
        "against_published": _test_values(number.against),
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
    }


def _test_values(test: TestResult | None) -> dict[str, Any] | None:
    if test is None:
        return None
    names = ("test", "alternative", "statistic", "p", "n_a", "n_b", "reason")
    return {name: getattr(test, name) for name in names}


def csv_row(number: Number) -> dict[str, Any]:
    cell, summary, printed, test = number.cell, number.summary, number.printed, number.test
    return {
        "row": number.place.row,
        "column": number.place.column,
        "arm": cell.row,
        "task": cell.column,
        "metric": cell.metric and TITLES.get(cell.metric, cell.metric),
        "origin": "; ".join(cell.sources) or "this project",
        "n": summary.n,
        "n NaN": summary.n_nan,
        "n planned": cell.planned,
        "n failed": None if cell.failed_unknown else cell.failed,
        "mean [percent]": _csv_percent(summary.mean),
        "std [percent]": _csv_percent(summary.std),
        "bold": number.bold,
        "star": number.star,
        "test": test and wording.sentence(test),
        "published": printed and printed.place,
        "published mean [percent]": printed and _csv_percent(printed.fraction("mean")),
        "published std [percent]": printed and _csv_percent(printed.fraction("std")),
        "published n": printed and printed.n,
        "difference [points]": _csv_percent(number.difference),
        "p (Welch against published)": number.against and number.against.p,
    }


def _csv_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.4f}"
