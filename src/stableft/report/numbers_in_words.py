"""Format numbers, tests and cells, as table values and as text. Nothing else formats them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from stableft.catalog.tasks import metric_title, task_title
from stableft.records.failure import CORRELATIONS, LOWER_IS_BETTER, NOISE_QUANTILE
from stableft.report.arm_cells import ArmCell, is_counted_otherwise
from stableft.report.artifact import arm_without_source
from stableft.report.footnotes import name_places
from stableft.report.forms.document import NO_VALUE, Value
from stableft.report.pair_tests import ALPHA
from stableft.report.paper_values import NOT_A_REPLICATION, PAPERS, PublishedValue, load_published_low_scores
from stableft.report.runs import ArmTask
from stableft.report.stability_results import StabilityResults
from stableft.stats import Interval, SdRatio, Summary, TestResult
from stableft.text import join_with

STAR_EXPLANATION = (
    "* Holm p < .05 (failed: Boschloo; mean: Welch; SD: Levene). SD ratio: reference over arm. Intervals: 95 %."
)
SPLIT_TITLES = {"val": "validation split", "test": "test split"}


def failed_rule(cells: Sequence[ArmCell]) -> str:
    """Return when a run counts as failed. If another checkpoint decides that than the one scored, it says so."""
    scored = [cell for cell in cells if cell.summary.n]
    best = [cell for cell in scored if cell.checkpoint == "best"]
    only_best = list(dict.fromkeys(cell.arm for cell in best if not cell.judged_by_last))
    if not best:
        score = "its last score"
    elif not only_best:
        score = "the score of its last checkpoint (the other columns have its best)"
    elif all(not cell.judged_by_last for cell in scored):
        score = "the score of its best checkpoint, the only one known,"
    else:
        score = f"its last score (that of its best checkpoint where only it is known: {', '.join(only_best)})"
    noise = ", ".join(
        dict.fromkeys(
            metric_title(cell.metric)
            for cell in cells
            # A command is judged by its baseline alone.
            if cell.metric in CORRELATIONS and (cell.chance is None or cell.chance != cell.baseline)
        )
    )
    limit = f" ({noise}: at most {NOISE_QUANTILE}/√n of n rows)" if noise else ""
    return f"a run failed if {score} is NaN or no better than a constant prediction's on the same rows{limit}"


def papers_failed_rule(cells: Sequence[ArmCell]) -> str:
    """Return when M counts a run as failed, and that notes have the counts if those of a cell differ."""
    notes = "; a note says where the counts differ" if any(map(is_counted_otherwise, cells)) else ""
    return f"M sec. 3.2 counts a run as failed whose accuracy is at or below the majority{notes}."


def as_sentence(text: str) -> str:
    """Return a clause with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


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


def points_interval_value(interval: Interval) -> Value:
    """Return the interval of a difference of shares or scores, in points."""
    return interval_value(interval, lambda end: f"{round(100 * end, 1) + 0.0:.1f}")


def effect_value(difference: float | None, interval: Interval, mark: str, digits: int = 1) -> Value:
    """Return a difference of fractions with its interval, in points."""
    if difference is None:
        return Value(NO_VALUE)
    low, high = interval.low, interval.high
    ends = "" if low is None or high is None else f" [{_signless(low, digits)}, {_signless(high, digits)}]"
    return Value(f"{round(100 * difference, digits) + 0.0:+.{digits}f}{ends}", mark=f" {mark}" if mark else "")


def _signless(fraction: float, digits: int) -> str:
    return f"{round(100 * fraction, digits) + 0.0:.{digits}f}"  # + 0.0: no number is -0.0


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
    text = f"{cell.failed}/{cell.n_known}" if cell.n_known > 0 else NO_VALUE
    return Value(text, None if cell.failed_unknown else cell.failed)


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


def values_of_published_effects(interval: Interval | None, ratio: SdRatio | None) -> dict[str, Value]:
    """Return the interval of our mean less the published one, and the published SD over ours. Empty: not compared."""
    if interval is None or ratio is None:
        return {}
    ends = interval_value(ratio.interval)
    return {
        "difference_published_welch": points_interval_value(interval),
        "sd_ratio_published": number_value(ratio.value),
        "sd_ratio_published_f": ends,
        "shown_sd_ratio_published": Value(NO_VALUE if ratio.value is None else f"{ratio.value:.2g} [{ends.text}]"),
    }


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
    return f"{result.test} ({f'centred at the {result.center}' if result.center else result.alternative})"


def describe_test(result: TestResult) -> str:
    """Return a test and its result as text."""
    return f"{full_test_name(result)}: {describe_outcome(result)}"


def describe_outcome(result: TestResult) -> str:
    """Return statistic, p and n of a test, or why there is none."""
    if result.p is None:
        return f"no test, {result.reason}"
    return f"statistic {result.statistic:.3g}, {describe_p(result.p)}, n = {result.n_a} and {result.n_b}"


def compatible_value(result: TestResult | None, interval: Interval | None = None) -> Value:
    """Return whether a mean is compatible with the published one. The text adds p and the difference's interval.

    Of what is no replication, it says only this.
    """
    if result is None or result.p is None:
        return Value(NOT_A_REPLICATION if result and result.reason == NOT_A_REPLICATION else NO_VALUE if result else "")
    ends = points_interval_value(interval).text if interval and interval.low is not None else ""
    compatible = result.p >= ALPHA
    return Value(f"{'yes' if compatible else 'no'} ({format_p(result.p)}{f'; {ends}' if ends else ''})", compatible)


def scores_heading(cells: list[ArmCell]) -> str:
    """Return the task's title with the metric, split and checkpoint that all arms share, and if lower is better."""
    scored = [cell for cell in cells if cell.metric and cell.split]
    metrics, splits, checkpoints = (
        {getattr(cell, name) for cell in scored} for name in ("metric", "split", "checkpoint")
    )
    metric = f"{metric_title(metrics.pop())} in percent" if len(metrics) == 1 else "percent"
    metric += f" ({LOWER_IS_BETTER})" if scored and all(cell.lower_is_better for cell in scored) else ""
    split = f", {SPLIT_TITLES[splits.pop()]}" if len(splits) == 1 else ""
    checkpoint = f", {checkpoints.pop()} checkpoint" if len(checkpoints) == 1 else ""
    return f"{task_title(cells[0].task)}: {metric}{split}{checkpoint}"


def abbreviate_papers(place: str) -> str:
    """Return a citation with the papers abbreviated to M and Z, which `introduce_papers` explains."""
    for letter, paper in PAPERS.items():
        place = place.replace(paper, letter)
    return place


def describe_smallest_stds(results: StabilityResults, task: str) -> Iterator[str]:
    """Yield a sentence for each test of the smallest against the second smallest std, with both centres."""
    started = any(cell.summary.n for cell in results.cells_of(task))
    asked = [c for c in results.comparisons if started and c.task == task and not c.published]
    for role, same in groupby(asked, key=lambda comparison: comparison.role):
        centres = list(same)
        first = centres[0]
        arms = first.arm + (f" against {first.against}" if first.against else "")
        if first.result.p is None and len({c.result.reason for c in centres}) == 1:
            yield f"{role}: {arms}: no test, {first.result.reason}"
            continue
        tests = "; ".join(
            f"centred at the {c.result.center}: {describe_outcome(c.result)}" + (" *" if c.star else "")
            for c in centres
        )
        remark = f" ({first.remark})" if first.remark else ""
        others = [f"{cell.arm} {format_percent(cell.summary.std)}" for cell in results.cells_of(task)]
        chosen = f". The pair was chosen after the fact, among the SDs of {', '.join(others)}"
        yield f"{role}: {arms}: {first.result.test} {tests}{remark}{chosen if first is asked[0] else ''}"


def low_score_notes(cells: Iterable[ArmCell]) -> Iterator[str]:
    """Yield what a paper says of how many runs of an arm's recipe score low, beside how many do here."""
    pairs = ((cell, published) for cell in cells for published in load_published_low_scores())
    for cell, published in pairs:
        if (cell.recipe, cell.task, cell.metric) != (published.recipe, published.task, published.metric):
            continue
        if n := cell.summary.n:
            low = sum(not score >= published.limit for score in cell.scores)
            yield (
                f"{abbreviate_papers(published.place)} finds {metric_title(published.metric)} below "
                f"{100 * published.limit:g} % on {task_title(cell.task)} in {100 * published.share:g} % of its "
                f"{published.n} runs of {published.recipe}; here ({cell.arm}, {SPLIT_TITLES[cell.split or 'val']}, "
                f"{cell.checkpoint} checkpoint) it is in {low} of {n}, {100 * low / n:.0f} %."
            )


def comparison_notes(results: StabilityResults) -> Iterator[str]:
    """Yield what the differences from published values are of, and why some are missing."""
    places: dict[tuple[str, str], dict[ArmTask, None]] = {}  # (why, place)
    for c in results.comparisons:
        why = c.remark or (c.result.reason if c.result.n_a >= 2 else None)  # else n explains it
        # Other notes say how the runs of an arm, or those of another party, differ.
        if c.published and why and why != NOT_A_REPLICATION and not c.published.another_party:
            places.setdefault((why, abbreviate_papers(c.published.place)), {})[c.arm, c.task] = None
    shown = [(cell.arm, cell.task) for cell in results.cells]
    for why, place, cells in _group_places(places):
        yield f"{name_places(cells, shown)} against {place}: {why}."


def published_notes(results: StabilityResults) -> Iterator[str]:
    """Yield the notes on published values, each once, and on the differences from them."""
    yield from low_score_notes(cell for cell in results.cells if not results.deviations.get((cell.arm, cell.task)))
    yield from comparison_notes(results)
    places: dict[tuple[str, str], dict[ArmTask, None]] = {}  # (note, place)
    printed: list[ArmTask] = []
    for arm, task, value in ((arm_without_source(c.arm), c.task, c.published) for c in results.comparisons):
        if value:
            printed.append((arm, task))
            for note in value.notes:
                places.setdefault((note, abbreviate_papers(value.place)), {})[arm, task] = None
    for note, place, cells in _group_places(places):
        yield f"{place}, {name_places(cells, printed)}: {note}."


def _group_places(
    cells_of: Mapping[tuple[str, str], Iterable[ArmTask]],
) -> Iterator[tuple[str, str, tuple[ArmTask, ...]]]:
    """Yield a text, the places in the papers that it is said of, and the arms and tasks, for places of the same ones.

    `cells_of` is by (text, place).
    """
    places_of: dict[tuple[str, tuple[ArmTask, ...]], list[str]] = {}
    for (text, place), cells in cells_of.items():
        places_of.setdefault((text, tuple(cells)), []).append(place)
    for (text, cells), places in places_of.items():
        said = places[0].split(", ")
        others = (", ".join(part for part in place.split(", ") if part not in said) for place in places[1:])
        yield text, join_with([places[0], *others]), cells
