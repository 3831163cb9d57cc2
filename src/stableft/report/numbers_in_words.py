"""Format numbers, tests and cells, as table values and as text. Nothing else formats them."""

from collections.abc import Callable, Iterator
from typing import Any

from stableft.catalog.tasks import METRIC_TITLES, task_title
from stableft.report.forms.document import NO_VALUE, Value
from stableft.report.paper_values import PublishedValue
from stableft.report.runs import ArmCell
from stableft.report.stability_results import COMPATIBLE_ALPHA, StabilityResults
from stableft.stats import Interval, Summary, TestResult

FAILED_RULE = "failed: last score NaN or at most a constant prediction's (MCC, correlations: 1.645/√n)"
SPLIT_TITLES = {"val": "validation split", "test": "test split"}


def text_value(text: str | None) -> Value:
    """Return a name or a sentence as a value."""
    return Value(text or "", text)


def count_value(count: int | None) -> Value:
    return Value(NO_VALUE if count is None else str(count), count)


def number_value(number: float | None, digits: str = ".3g") -> Value:
    """Return a number as a value, with `digits` as in a format specification."""
    return Value(NO_VALUE if number is None else format(number, digits), number)


def percent_value(fraction: float | None, sign: bool = False, mark: str = "") -> Value:
    """Return a fraction as a value in percent."""
    return Value(format_percent(fraction, sign), fraction, mark=mark)


def p_value(p: float | None) -> Value:
    return Value(format_p(p), p)


def interval_value(
    interval: Interval, format_end: Callable[[float], str] = "{:.3g}".format, joined: str = " to "
) -> Value:
    low, high = interval.low, interval.high
    if low is None or high is None:
        return Value(NO_VALUE)
    return Value(f"{format_end(low)}{joined}{format_end(high)}", [low, high])


def wilson_value(cell: ArmCell) -> Value:
    """Return the Wilson interval of the share of failed runs, in percent."""
    return interval_value(cell.failed_interval, lambda share: f"{100 * share:.0f}", "-")


def n_value(summary: Summary, planned: int | None) -> Value:
    """Return n. The text adds the planned number if it differs, and the number of NaN scores."""
    text = str(summary.n)
    if planned is not None and planned != summary.n:
        text += f" of {planned}"
    return Value(f"{text}, {summary.n_nan} NaN" if summary.n_nan else text, summary.n)


def failed_value(cell: ArmCell) -> Value:
    """Return the number of failed runs, or no number if a verdict is unknown.

    The text is k/n, of the n runs with a known verdict.
    """
    n_known = cell.summary.n - cell.failed_unknown
    return Value(f"{cell.failed}/{n_known}" if n_known > 0 else NO_VALUE, None if cell.failed_unknown else cell.failed)


def describe_failed_by_accuracy(cell: ArmCell) -> str | None:
    """Return the number of failed runs as M define them, beside ours. None: the same, or not known."""
    n = cell.summary.n
    if cell.failed_unknown or cell.failed_by_accuracy_unknown or cell.failed == cell.failed_by_accuracy:
        return None
    return (
        f"{cell.failed_by_accuracy}/{n} failed as M sec. 3.2 defines it (accuracy at or below the majority), "
        f"{cell.failed}/{n} as here"
    )


def values_of_test(result: TestResult, holm: float | None = None) -> dict[str, Any]:
    """Return the fields of a test for JSON and CSV."""
    return {
        "test": result.test,
        "center": result.center,
        "alternative": result.alternative,
        "statistic": result.statistic,
        "p": result.p,
        "holm_p": holm,
        "n_a": result.n_a,
        "n_b": result.n_b,
        "reason": result.reason,
    }


def values_of_published(value: PublishedValue) -> dict[str, Value]:
    """Return what a published value is of: where it is printed, its metric and split, and n."""
    plain = {"origin": value.place, "metric": value.metric, "split": value.split}
    return {key: Value(data=data) for key, data in plain.items()} | {"n": count_value(value.n)}


def format_percent(fraction: float | None, sign: bool = False) -> str:
    """Return a fraction in percent with one decimal, as in the papers. None: a dash."""
    if fraction is None:
        return NO_VALUE
    return f"{round(100 * fraction, 1) + 0.0:{'+' if sign else ''}.1f}"  # + 0.0: no number is -0.0


def format_p(p: float | None) -> str:
    return NO_VALUE if p is None else f"{p:.2g}" if p > 0 else "<1e-300"


def describe_p(p: float, name: str = "p") -> str:
    """Return p with its name, such as "Holm p = 0.01"."""
    return f"{name} = {format_p(p)}" if p > 0 else f"{name} < 1e-300"


def full_test_name(result: TestResult) -> str:
    """Return a test's full name with its centre or side."""
    return f"{result.test} ({f'centre {result.center}' if result.center else result.alternative})"


def describe_test(result: TestResult) -> str:
    """Return a test and its result as text."""
    if result.p is None:
        return f"{full_test_name(result)}: no test, {result.reason}"
    return (
        f"{full_test_name(result)}: statistic {result.statistic:.3g}, {describe_p(result.p)}, "
        f"n = {result.n_a} and {result.n_b}"
    )


def compatible_value(result: TestResult | None) -> Value:
    """Return whether a mean is compatible with the published one. The text adds the p-value."""
    if result is None or result.p is None:
        return Value(NO_VALUE if result else "")
    compatible = result.p >= COMPATIBLE_ALPHA
    return Value(f"{'yes' if compatible else 'no'} ({result.p:.2g})", compatible)


def scores_heading(cells: list[ArmCell]) -> str:
    """Return the task's title with the metric, split and checkpoint that all arms share."""
    scored = [cell for cell in cells if cell.metric and cell.split]
    metrics, splits, checkpoints = (
        {getattr(cell, name) for cell in scored} for name in ("metric", "split", "checkpoint")
    )
    metric = f"{metric_title(metrics.pop())} in percent" if len(metrics) == 1 else "percent"
    split = f", {SPLIT_TITLES[splits.pop()]}" if len(splits) == 1 else ""
    checkpoint = f", {checkpoints.pop()} checkpoint" if len(checkpoints) == 1 else ""
    return f"{task_title(cells[0].task)}: {metric}{split}{checkpoint}"


def metric_title(metric: str) -> str:
    """Return the title of a metric. Metrics of imported runs may have none, and keep their name."""
    return METRIC_TITLES.get(metric, metric)


def abbreviate_papers(place: str) -> str:
    """Return a citation with the papers abbreviated to M and Z."""
    return place.replace("Mosbach et al. 2021", "M").replace("Zhang et al. 2021", "Z")


def describe_comparisons(results: StabilityResults, task: str) -> Iterator[str]:
    """Yield a sentence for each test between the arms on a task."""
    for comparison in results.comparisons:
        if comparison.task == task and not comparison.published:
            against = f" against {comparison.against}" if comparison.against else ""
            star = f" [* p < {results.part.alpha:g}]" if comparison.star else ""
            remark = f" ({comparison.remark})" if comparison.remark else ""
            yield f"{comparison.role}: {comparison.arm}{against}: {describe_test(comparison.result)}{star}{remark}"


def published_notes(results: StabilityResults) -> Iterator[str]:
    """Yield the notes on published values, each once, and the reasons for missing differences."""
    applies_to: dict[tuple[str, str], list[PublishedValue]] = {}  # (place, note)
    for comparison in results.comparisons:
        value, result = comparison.published, comparison.result
        why = comparison.remark or (result.reason if result.n_a >= 2 else None)  # else n explains it
        if value and why:
            yield f"{comparison.arm} on {comparison.task} against {abbreviate_papers(value.place)}: {why}."
        if value:
            for note in value.notes:
                applies_to.setdefault((abbreviate_papers(value.place), note), []).append(value)
    for (place, note), values in applies_to.items():
        recipes = ", ".join(dict.fromkeys(value.recipe for value in values))
        tasks = ", ".join(dict.fromkeys(task_title(value.task) for value in values))
        yield f"{place}, {recipes} on {tasks}: {note}."
