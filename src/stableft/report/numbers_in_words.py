"""Numbers, tests and cells as text, shared by all forms."""

from collections.abc import Iterator

from stableft.catalog.tasks import METRIC_TITLES
from stableft.report.paper_values import PublishedValue
from stableft.report.runs import ArmCell
from stableft.report.stability_table import COMPATIBLE_ALPHA, StabilityTable, task_title
from stableft.stats import TestResult

SPLIT_TITLES = {"val": "validation split", "test": "test split"}
NO_VALUE = "-"


def format_percent(fraction: float | None, sign: bool = False) -> str:
    """Returns a fraction in percent with one decimal, as the papers print it, or a dash where there is none."""
    if fraction is None:
        return NO_VALUE
    return f"{round(100 * fraction, 1) + 0.0:{'+' if sign else ''}.1f}"  # + 0.0: no number is -0.0


def describe_test(result: TestResult) -> str:
    """Returns what was tested and what came out, in words."""
    kind = f"centre {result.center}" if result.center else result.alternative
    name = f"{result.test} ({kind})"
    if result.p is None:
        return f"{name}: no test, {result.reason}"
    return f"{name}: statistic {result.statistic:.3g}, {_describe_p(result.p)}, n = {result.n_a} and {result.n_b}"


def format_compatible(result: TestResult) -> str:
    """Returns whether a mean and a printed one could be equal, with the p-value, or a dash where there is no test."""
    if result.p is None:
        return NO_VALUE
    return f"{'yes' if result.p >= COMPATIBLE_ALPHA else 'no'} ({result.p:.2g})"


def _describe_p(p: float) -> str:
    return f"p = {p:.2g}" if p > 0 else "p < 1e-300"


def scores_heading(cells: list[ArmCell]) -> str:
    """Returns the task's name and what was scored, as far as the arms agree on it."""
    scored = [cell for cell in cells if cell.metric and cell.split]
    metrics, splits, checkpoints = (
        {getattr(cell, name) for cell in scored} for name in ("metric", "split", "checkpoint")
    )
    metric = f"{_metric_title(metrics.pop())} in percent" if len(metrics) == 1 else "percent"
    split = f", {SPLIT_TITLES[splits.pop()]}" if len(splits) == 1 else ""
    checkpoint = f", {checkpoints.pop()} checkpoint" if len(checkpoints) == 1 else ""
    return f"{task_title(cells[0].column)}: {metric}{split}{checkpoint}"


def _metric_title(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric)  # an imported run may have one of its own


def abbreviate_papers(place: str) -> str:
    """Returns where a value is printed with the papers as M and Z."""
    return place.replace("Mosbach et al. 2021", "M").replace("Zhang et al. 2021", "Z")


def format_n(cell: ArmCell) -> str:
    """Returns n, the number planned if it differs, and the NaN scores among the n."""
    n = str(cell.summary.n)
    if cell.planned is not None and cell.planned != cell.summary.n:
        n += f" of {cell.planned}"
    return f"{n}, {cell.summary.n_nan} NaN" if cell.summary.n_nan else n


def format_failed(cell: ArmCell) -> str:
    """Returns k/n, n the finished runs of which it is known."""
    return f"{cell.failed}/{cell.summary.n - cell.failed_unknown}" if cell.summary.n > cell.failed_unknown else NO_VALUE


def format_wilson(cell: ArmCell) -> str:
    """Returns the interval of the share of failed runs in percent."""
    low, high = cell.failed_interval.low, cell.failed_interval.high
    return NO_VALUE if low is None or high is None else f"{100 * low:.0f}-{100 * high:.0f}"


def describe_comparisons(table: StabilityTable, column: str) -> Iterator[str]:
    """Yields the tests between the arms of a column, one sentence each."""
    for comparison in table.comparisons:
        if comparison.column == column and not comparison.published:
            against = f" against {comparison.b}" if comparison.b else ""
            star = f" [* p < {table.artifact.alpha:g}]" if comparison.star else ""
            remark = f" ({comparison.remark})" if comparison.remark else ""
            yield f"{comparison.role}: {comparison.a}{against}: {describe_test(comparison.result)}{star}{remark}"


def published_notes(table: StabilityTable) -> Iterator[str]:
    """Yields what is to be known of the printed values, each note once, and why a difference is missing."""
    values: dict[tuple[str, str], list[PublishedValue]] = {}  # (place, note) -> where it applies
    for comparison in table.comparisons:
        value, result = comparison.published, comparison.result
        why = comparison.remark or (result.reason if result.n_a >= 2 else None)  # else n has said it
        if value and why:
            yield f"{comparison.a} on {comparison.column} against {abbreviate_papers(value.place)}: {why}."
        if value:
            for note in value.notes:
                values.setdefault((abbreviate_papers(value.place), note), []).append(value)
    for (place, note), where in values.items():
        recipes = ", ".join(dict.fromkeys(value.recipe for value in where))
        tasks = ", ".join(dict.fromkeys(task_title(value.task) for value in where))
        yield f"{place}, {recipes} on {tasks}: {note}."
