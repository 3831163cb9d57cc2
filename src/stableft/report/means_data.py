"""The cells of a table of means for programs: JSON in fractions, CSV in percent."""

from dataclasses import dataclass
from typing import Any

from stableft.metrics import TITLES
from stableft.report import wording
from stableft.report.artifact import MeanCell
from stableft.report.cells import Cell
from stableft.report.published import PublishedValue
from stableft.stats import Summary, TestResult


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
