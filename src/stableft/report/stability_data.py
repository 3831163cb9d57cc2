"""A `Table` of stability for programs: its lines for CSV, in percent, and all of it for JSON, in fractions."""

from collections.abc import Iterator
from typing import Any

from stableft.report import versus, watched
from stableft.report.cells import Cell
from stableft.report.compare import SMALLEST, Comparison
from stableft.report.footnotes import cell_footnotes
from stableft.report.published import STATISTICS
from stableft.report.table import Table
from stableft.report.wording import sentence
from stableft.stats import WELCH

CSV_HEADER = [
    *("task", "arm", "origin", "metric", "split", "checkpoint", "n", "n NaN", "n planned", "n failed"),
    *("n crashed", "n stopped"),
    *(f"{name} [percent]" for name in STATISTICS),
    *(
        "star",
        "smallest std against second smallest",
        f"p ({WELCH}, two-sided, against published)",
        "compatible at .05",
        "notes",
    ),
]


def rows(table: Table) -> Iterator[dict[str, Any]]:
    """Yields a line for each cell and, below it, one for each value that is printed for its setting."""
    more = versus.CSV_HEADER if table.artifact.against_first else []
    watch = watched.CSV_HEADER if watched.watched_cells(table) else []
    for cell in table.cells:
        summary = cell.summary
        failed = None if cell.failed_unknown else cell.failed
        texts = (
            [cell.column, cell.row, _origin(cell), cell.metric, cell.split, cell.checkpoint]
            + [summary.n, summary.n_nan, cell.planned, failed, cell.crashed, cell.stopped]
            + [_csv_percent(getattr(summary, name)) for name in STATISTICS]
            + ["*" if table.starred(cell) else None, _csv_tests(table, cell), None, None, _csv_notes(table, cell)]
            + (versus.csv_values(table, cell) if more else [])
            + (watched.watch_csv(cell) if watch else [])
        )
        yield dict(zip([*CSV_HEADER, *more, *watch], texts, strict=True))
        for comparison in table.against_published(cell):
            value = comparison.published
            assert value
            texts = (
                [cell.column, cell.row, value.place, value.metric, value.split, None, value.n, *[None] * 5]
                + [_csv_percent(value.fraction(name)) for name in STATISTICS]
                + [None, None, comparison.result.p, comparison.compatible, "; ".join(value.notes) or None]
                + [None] * len([*more, *watch])
            )
            yield dict(zip([*CSV_HEADER, *more, *watch], texts, strict=True))


def report_values(table: Table) -> dict[str, Any]:
    """Returns the whole report as JSON values: scores are fractions, what is missing is None with a reason."""
    return {
        "artifact": table.artifact.id,
        "title": table.artifact.title,
        "alpha": table.artifact.alpha,
        "cells": [_cell_values(table, cell) for cell in table.cells],
        "comparisons": [_comparison_values(comparison) for comparison in table.comparisons],
        **({"against_first": [versus.json_values(v) for v in table.battery]} if table.artifact.against_first else {}),
        **watched.watch_values(table),
        "footnotes": list(table.footnotes),
    }


def _cell_values(table: Table, cell: Cell) -> dict[str, Any]:
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
        **(_loss_values(cell) if table.artifact.against_first else {}),
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


def _loss_values(cell: Cell) -> dict[str, Any]:
    return {"failed_train_losses": list(cell.failed_losses), "label_entropies": list(cell.label_entropies)}


def _comparison_values(comparison: Comparison) -> dict[str, Any]:
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


def _origin(cell: Cell) -> str:
    own = len(cell.run_ids) - sum(cell.sources.values())
    return "; ".join([*(["this project"] if own or not cell.sources else []), *cell.sources])


def _csv_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.4f}"


def _csv_tests(table: Table, cell: Cell) -> str | None:
    tests = [c for c in table.comparisons if c.role == SMALLEST and (c.a, c.column) == (cell.row, cell.column)]
    return "; ".join(f"against {c.b}: {sentence(c.result)}" if c.b else sentence(c.result) for c in tests) or None


def _csv_notes(table: Table, cell: Cell) -> str | None:
    deviations = table.deviations.get((cell.row, cell.column))
    notes = [f"not a replication: {', '.join(deviations)}"] if deviations else []
    others = [other for other in table.cells if other.column == cell.column]
    return " ".join([*notes, *cell_footnotes(cell, others=others)]) or None
