"""Every arm of a sweep against its first one: failures, spread, and the p-values adjusted over the whole table."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from stableft.report.cells import Cell
from stableft.report.compare import remark_on, unless_selected
from stableft.stats import Ratio, TestResult, boschloo, holm, levene, sd_ratio

BOOTSTRAP_SEED = 0  # of every interval anew, so that none depends on which other arms there are


@dataclass(frozen=True)
class Versus:
    """An arm against the first arm on one task. `holm_*` are adjusted over every arm and task of the table."""

    arm: str
    first: str
    column: str
    failed_difference: float | None  # share of failed runs, arm minus first
    failures: TestResult  # Boschloo, one-sided: the arm fails less often
    sd_ratio: Ratio  # first over arm
    levene_median: TestResult
    levene_mean: TestResult
    remark: str | None
    holm_failures: float | None = None
    holm_levene: float | None = None


def against_first(cells: Iterable[Cell]) -> tuple[Versus, ...]:
    """Returns the comparisons of each column's first cell with all others; `cells` are sorted by column."""
    pairs = [
        _compare(arm, first)
        for _, column in groupby(cells, key=lambda cell: cell.column)
        for first, *others in [list(column)]
        for arm in others
    ]
    failures = holm([pair.failures.p for pair in pairs])
    spreads = holm([pair.levene_median.p for pair in pairs])
    return tuple(
        replace(pair, holm_failures=failure, holm_levene=spread)
        for pair, failure, spread in zip(pairs, failures, spreads, strict=True)
    )


def _compare(arm: Cell, first: Cell) -> Versus:
    known = [cell.summary.n - cell.failed_unknown for cell in (arm, first)]
    both = all(known) and not (arm.stopped or first.stopped)
    return Versus(
        arm=arm.row,
        first=first.row,
        column=arm.column,
        failed_difference=arm.failed / known[0] - first.failed / known[1] if both else None,
        failures=unless_selected(boschloo(arm.failed, known[0], first.failed, known[1], "less"), arm, first),
        sd_ratio=unless_selected(sd_ratio(first.scores, arm.scores, np.random.default_rng(BOOTSTRAP_SEED)), arm, first),
        levene_median=unless_selected(levene(first.scores, arm.scores, "median"), arm, first),
        levene_mean=unless_selected(levene(first.scores, arm.scores, "mean"), arm, first),
        remark=remark_on(arm, first),
    )
