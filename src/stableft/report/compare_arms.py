"""`stableft compare`: the report on two arms and its conclusion in words."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.config.settings import describe_value
from stableft.records.frame import COLUMN_DTYPES
from stableft.records.run_record import RunRecord
from stableft.report import compare_runs as pair_rules
from stableft.report import numbers_in_words as wording
from stableft.report.artifact import ReportedCheckpoint, make_sweep_artifact
from stableft.report.compare_runs import ArmPair, select_arm_pair
from stableft.report.compare_tests import PRIMARY_TESTS, ArmEstimates, ArmPairTests, compare_arm_pair, estimate_arm
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
from stableft.report.numbers_in_words import NO_VALUE, format_failed, format_percent, format_wilson
from stableft.report.runs import (
    IGNORED_ENVIRONMENT_FIELDS,
    OWN_ORIGIN,
    ArmCell,
    describe_environment,
    make_arm_cell,
    provenance_to_json,
)
from stableft.report.stability_report import SIGNIFICANT_DIGITS
from stableft.report.stability_table import (
    BOOTSTRAP_SEED,
    StabilityTable,
    cell_footnotes,
    describe_caveats,
    imported_run_footnotes,
    is_falsely_stable,
)
from stableft.report.stability_table import COMPATIBLE_ALPHA as ALPHA
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES, WELCH_T_TEST, Interval, TestResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ARM_HEADER = ("arm", "n", "NaN", "failed", "95 % Wilson", "mean", "95 %", "SD", "95 %", "median", "IQM", "min", "max")
TEST_HEADER = ("question", "value", "95 %", "test", "p", "Holm p", "n")
_PERMUTATION_DETAIL = re.compile(r" \([^()]*permutations\)")  # of a permutation test, in its name
COMPARED_SCORES_FIGURE = "scores"  # the figure's name
TestRow = tuple[
    str, str, str, TestResult, str | None
]  # question, value, interval, test, its name in the primary family


def build_comparison_report(
    arm_a: str,
    arm_b: str,
    results: Path,
    files: Sequence[Path],
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    score: ReportedCheckpoint = "recipe",
) -> Report:
    """Returns the comparison of two arms from files of records or, without any, from the run folders.

    Raises:
        UserError: an arm, task, metric or field is not there, a record is damaged, or the arms cannot be compared.
    """
    pair = select_arm_pair((arm_a, arm_b), results, files, task, metric, where, score)
    a, b = (_estimate_named_arm(name, pair.task, arm) for name, arm in zip(pair.names, pair.arms, strict=True))
    tests = compare_arm_pair(a, b)
    power = _power_command(pair, a.cell, b.cell, files if metric is None and not where else ())
    sentence, remarks = state_conclusion(a, b, tests, power), tuple(comparison_notes(pair, a, b, tests))
    name = make_label(f"compare-{arm_a}-{arm_b}-{pair.task}")
    title = f"{arm_a} against {arm_b}, {wording.scores_heading([a.cell, b.cell])}"
    drawn: dict[str, Callable[[], Figure]] = {}
    if a.cell.summary.n_finite or b.cell.summary.n_finite:
        drawn[COMPARED_SCORES_FIGURE] = lambda: _draw_compared_scores(pair, (a.cell, b.cell))
    grids = (_arms_table(name, (a, b)), _tests_table(name, pair, a, b, tests))
    found = _pair_provenance(pair)
    return Report(
        id=name,
        title=title,
        blocks=tuple(_comparison_blocks(sentence, grids, remarks, drawn, (a.cell, b.cell))),
        tables=tuple(_standalone_table(grid, title, sentence, remarks) for grid in grids),
        rows=tuple(_csv_rows(pair, a, b, tests)),
        values=_comparison_to_json(pair, title, sentence, remarks, (a, b), tests) | provenance_to_json(found),
        figures=drawn,
        undrawn={} if drawn else {COMPARED_SCORES_FIGURE: "no run has a score that can be drawn"},
        provenance=found,
    )


def _estimate_named_arm(name: str, task: str, entries: Sequence[pair_rules.RowAndRecord]) -> ArmEstimates:
    rows = [entry.row for entry in entries]
    verdicts = [row["failed"] if isinstance(row["failed"], bool) else None for row in rows if row["scored"]]
    return estimate_arm(make_arm_cell(name, task, rows, None), verdicts)


def _power_command(pair: ArmPair, a: ArmCell, b: ArmCell, files: Sequence[Path]) -> str | None:
    """Returns the command that tells how many seeds would do, from the records or else from the two SDs."""
    if files and min(a.summary.n, b.summary.n) >= 3:
        parts = [part for file in files for part in ("--from", str(file))]
        return shlex.join(["stableft", "power", *parts, "--arms", ",".join(pair.names), "--task", pair.task])
    sds = (a.summary.std, b.summary.std)
    if not all(sds) or sds[0] == sds[1]:
        return None
    return f"stableft power --sd {100 * (sds[0] or 0):.3g} --ratio {(sds[1] or 0) / (sds[0] or 1):.3g}"


def _comparison_blocks(
    sentence: str, grids: Sequence[ReportTable], remarks: Sequence[str], drawn: dict, cells: Sequence[ArmCell]
) -> Iterator[ReportBlock]:
    yield Paragraph(sentence)
    if drawn:
        counts = ", ".join(f"{cell.row} {wording.format_failed(cell)} failed" for cell in cells)
        yield Picture(COMPARED_SCORES_FIGURE, f"The score of every run and a box for each arm: {counts}.")
    yield from grids
    yield Heading("Notes", HEADING_LEVELS + 1)
    yield Bullets(tuple(remarks))


def _arms_table(name: str, arms: Sequence[ArmEstimates]) -> ReportTable:
    return ReportTable(
        name,
        ARM_HEADER,
        tuple(_arm_row(arm) for arm in arms),
        f"Percent; SD over seeds (ddof 1); intervals of mean and SD by the BCa bootstrap ({RESAMPLES:,} resamples, "
        f"seed {BOOTSTRAP_SEED}) unless a note says otherwise; IQM: interquartile mean.",
    )


def _arm_row(arm: ArmEstimates) -> ReportRow:
    cell, summary = arm.cell, arm.cell.summary
    mean, std = format_percent_interval(arm.mean_interval), format_percent_interval(arm.std_interval)
    counts = (str(summary.n), str(summary.n_nan), wording.format_failed(cell), wording.format_wilson(cell))
    middle = (
        format_percent(summary.median),
        format_percent(arm.iqm.value),
        format_percent(summary.min),
        format_percent(summary.max),
    )
    spread = ReportCell(format_percent(summary.std), mark="†" if cell.every_run_failed else "")
    return (cell.row, *counts, format_percent(summary.mean), mean, spread, std, *middle)


def _test_rows(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[TestRow]:
    """Yields the tests in the order in which they are shown."""
    ratio, better = tests.sd_ratio, tests.improvement
    apart = f"{format_percent(a.successful.std)} / {format_percent(b.successful.std)}"
    value = NO_VALUE if ratio.value is None else f"{ratio.value:.3g}"
    yield "spread: SD ratio", value, _format_interval(ratio.interval), tests.levene_median, "levene_median"
    yield f"{SUBROW_PREFIX}for parity with the papers", "", "", tests.levene_mean, None
    yield f"{SUBROW_PREFIX}SDs of runs that did not fail", apart, "", tests.levene_successful, None
    points = format_percent(tests.failed_difference, sign=True)
    yield "failed runs: difference", points, "", tests.boschloo, "boschloo"
    yield "means: difference", format_percent(tests.mean_difference, sign=True), "", tests.welch, "welch"
    yield f"{SUBROW_PREFIX}if the SDs were equal", "", "", tests.student, None
    yield f"{SUBROW_PREFIX}without normal scores", "", "", tests.permutation, None
    chance = NO_VALUE if better.value is None else f"{better.value:.2f}"
    yield "probability of a higher score", chance, _format_interval(better.interval), better.test, None


def _tests_table(name: str, pair: ArmPair, a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> ReportTable:
    first, second = pair.names
    rows = [
        (
            question,
            value,
            interval,
            _PERMUTATION_DETAIL.sub("", full_test_name(test)),
            _format_p(test.p),
            _format_p(tests.holm[primary]) if primary else "",
            _format_sizes(test),
        )
        for question, value, interval, test, primary in _test_rows(a, b, tests)
    ]
    caption = (
        f"Ratio: {first} over {second}, BCa bootstrap interval; differences: {first} minus {second}, in points; "
        f"probability that a run of {first} scores higher than one of {second}, ties one half. Holm p: adjusted over "
        f"what could be computed of {LEVENE} (centre median, which decides about spread), {BOSCHLOO} and "
        f"{WELCH_T_TEST}. Runs that did not fail: conditional on success, so no comparison of the arms as they are."
        f"{_permutation_caption(tests)}"
    )
    return ReportTable(f"{name}-tests", TEST_HEADER, tuple(rows), caption)


def _permutation_caption(tests: ArmPairTests) -> str:
    """Returns how many permutations there were, for which the grid has no room."""
    how = _PERMUTATION_DETAIL.search(tests.permutation.test)
    return f" Permutation test: {how[0].strip(' ()')}." if how and tests.permutation.p is not None else ""


def _format_interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return NO_VALUE
    return f"{interval.low:.3g} to {interval.high:.3g}"


def _format_sizes(test: TestResult) -> str:
    return f"{test.n_a}, {test.n_b}"


def _format_p(p: float | None) -> str:
    return NO_VALUE if p is None else f"{p:.2g}" if p > 0 else "<1e-300"


def _standalone_table(grid: ReportTable, title: str, sentence: str, remarks: Sequence[str]) -> ReportTable:
    """Returns a grid with all that a reader who sees nothing else must know."""
    return ReportTable(grid.name, grid.header, grid.rows, f"{title}. {grid.caption}", notes=(sentence, *remarks))


def _draw_compared_scores(pair: ArmPair, cells: tuple[ArmCell, ArmCell]) -> "Figure":
    import pandas as pd

    from stableft.report.figures import draw as figures
    from stableft.report.figures.of_sweep import build_score_panels

    rows = pd.DataFrame([entry.row for arm in pair.arms for entry in arm], columns=list(COLUMN_DTYPES))
    table = StabilityTable(make_sweep_artifact("compare", ""), pair.names, (pair.task,), cells, (), (), {})
    return figures.draw_panels(build_score_panels(table, rows))


def _csv_rows(pair: ArmPair, a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[dict[str, Any]]:
    """Yields a row for each arm and below them one for each test; scores in percent."""
    for arm in (a, b):
        cell, summary = arm.cell, arm.cell.summary
        known = {"task": pair.task, "arm": cell.row, "metric": cell.metric, "split": cell.split}
        known |= {"checkpoint": cell.checkpoint, "n": summary.n, "n NaN": summary.n_nan}
        known |= {"n failed": None if cell.failed_unknown else cell.failed}
        found = [("mean", summary.mean), ("mean low", arm.mean_interval.low), ("mean high", arm.mean_interval.high)]
        found += [("SD", summary.std), ("SD low", arm.std_interval.low), ("SD high", arm.std_interval.high)]
        found += [("median", summary.median), ("IQM", arm.iqm.value), ("min", summary.min), ("max", summary.max)]
        yield known | {f"{name} [percent]": None if value is None else f"{100 * value:.4f}" for name, value in found}
    for question, value, interval, test, primary in _test_rows(a, b, tests):
        yield {
            "task": pair.task,
            "question": question.removeprefix(SUBROW_PREFIX),
            "a": pair.names[0],
            "b": pair.names[1],
            "value": value if value != NO_VALUE else None,
            "95 %": interval if interval != NO_VALUE else None,
            "test": full_test_name(test),
            "statistic": round_floats(test.statistic),
            "p": round_floats(test.p),
            "Holm p": round_floats(tests.holm[primary]) if primary else None,
            "n a": test.n_a,
            "n b": test.n_b,
            "reason": test.reason,
        }


def _comparison_to_json(
    pair: ArmPair, title: str, sentence: str, remarks: Sequence[str], arms: Sequence[ArmEstimates], tests: ArmPairTests
) -> dict[str, Any]:
    return {
        "title": title,
        "task": pair.task,
        "conclusion": sentence,
        "arms": [_arm_to_json(arm) for arm in arms],
        "tests": round_floats(asdict(tests)),
        "primary": list(PRIMARY_TESTS),
        "differing": {key: list(values) for key, values in pair.differing.items()},
        "notes": list(remarks),
    }


def _arm_to_json(arm: ArmEstimates) -> dict[str, Any]:
    """Returns an arm as JSON values; `asdict` would take a Counter apart."""
    return round_floats(asdict(replace(arm, cell=replace(arm.cell, sources=dict(arm.cell.sources)))))


def round_floats(value: Any) -> Any:
    """Returns nested values, floats with the digits that are alike on every processor, None for what JSON lacks."""
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    return value


def _pair_provenance(pair: ArmPair) -> Provenance:
    counts, environments = [], Counter()
    for name, arm in zip(pair.names, pair.arms, strict=True):
        total, finished = Counter[str](), Counter[str]()
        for row, record in arm:
            origin = row["source"] or OWN_ORIGIN
            total[origin] += 1
            finished[origin] += record.status == "finished"
            if isinstance(record, RunRecord) and record.environment:
                environments[
                    describe_environment(record.environment.model_dump(exclude=IGNORED_ENVIRONMENT_FIELDS))
                ] += 1
        counts += [(name, pair.task, origin, finished[origin], n) for origin, n in total.items()]
    ids = dict.fromkeys(entry.row["run_id"] for arm in pair.arms for entry in arm)
    return Provenance(tuple(counts), tuple(sorted(environments.items())), tuple(ids))


MIN_RUNS_TO_CONCLUDE = 10  # runs an arm below which nothing is concluded


def state_conclusion(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests, power: str | None) -> str:
    """Returns the sentence; `power` is the command that tells how many seeds are needed, None where there is none.

    What is decided is decided by Holm's p-values at .05; a difference that is not shown is never called equality.
    """
    cells = (a.cell, b.cell)
    why = _why_inconclusive(cells, tests)
    if why:
        more = f"`{power}` tells about how many seeds are needed" if power else "run more seeds (the papers: 20 to 50)"
        advice = "" if any(cell.stopped for cell in cells) else f"; {more}"
        return f"Nothing may be concluded about {a.cell.row} and {b.cell.row}: {why}{advice}."
    useless = [
        f"every run of {cell.row} failed, so a small spread of its scores is no stability (M footnote 5)"
        for cell in cells
        if is_falsely_stable(cell, cells)
    ]
    said = (
        "; ".join(
            [
                _conclude_on_failures(cells, tests),
                _conclude_on_spread(a, b, tests),
                _conclude_on_means(a, b, tests),
                *useless,
            ]
        )
        + "."
    )
    return said if said.startswith((a.cell.row, b.cell.row)) else said[0].upper() + said[1:]


def _why_inconclusive(cells: tuple[ArmCell, ArmCell], tests: ArmPairTests) -> str | None:
    if any(cell.stopped for cell in cells):
        return tests.levene_median.reason
    counts = [cell.summary.n for cell in cells]
    if min(counts) < MIN_RUNS_TO_CONCLUDE:
        return f"{counts[0]} and {counts[1]} runs are too few, below {MIN_RUNS_TO_CONCLUDE} an arm"
    if all(getattr(tests, name).p is None for name in PRIMARY_TESTS):
        reasons = dict.fromkeys(str(getattr(tests, name).reason) for name in PRIMARY_TESTS)
        return f"there is no test ({'; '.join(reasons)})"
    return None


def _conclude_on_failures(cells: tuple[ArmCell, ArmCell], tests: ArmPairTests) -> str:
    a, b = cells
    p, difference = tests.holm["boschloo"], tests.failed_difference
    between = f"95 % Wilson intervals {format_wilson(a)} % and {format_wilson(b)} %"
    if difference is None or a.failed_unknown or b.failed_unknown:
        return f"whether {a.row} and {b.row} fail unlike often is not known"
    if p is None and not a.failed and not b.failed:
        return f"no run of {a.row} or {b.row} failed, which leaves shares of failed runs open ({between})"
    if p is None:
        return f"how often {a.row} and {b.row} fail is not tested ({tests.boschloo.reason})"
    if p >= ALPHA:
        counts = f"{format_failed(a)} against {format_failed(b)}, {describe_holm_p(p)}; {between}"
        return f"{a.row} and {b.row} are not shown to differ in how often they fail ({counts})"
    less, more = (a, b) if difference < 0 else (b, a)
    return (
        f"{less.row} fails less often than {more.row} ({format_failed(less)} against {format_failed(more)}, "
        f"{describe_holm_p(p)})"
    )


def _conclude_on_spread(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    p, ratio = tests.holm["levene_median"], tests.sd_ratio
    sds = [arm.cell.summary.std for arm in (a, b)]
    if p is None:
        return f"the spread of their scores is not tested ({tests.levene_median.reason})"
    shown = f"SD {format_percent(sds[0])} against {format_percent(sds[1])}"
    if p >= ALPHA:
        interval = _interval_clause(ratio.interval, "ratio")
        return (
            f"the spread of their scores is not shown to differ ({shown}, "
            f"{describe_holm_p(p)}{interval}){_spread_without_failures(a, b, tests)}"
        )
    away = [_mean_distance_from_median(arm.cell.scores) for arm in (a, b)]
    if (away[0] < away[1]) != ((sds[0] or 0.0) < (sds[1] or 0.0)):
        which = "though SD and mean distance from the median do not agree on which spreads more"
        return (
            f"the spread of their scores differs, {which} ({shown}, "
            f"{describe_holm_p(p)}){_spread_without_failures(a, b, tests)}"
        )
    less, more = (a, b) if away[0] < away[1] else (b, a)
    shown = f"SD {format_percent(less.cell.summary.std)} against {format_percent(more.cell.summary.std)}"
    return (
        f"the scores of {less.cell.row} spread less ({shown}, "
        f"{describe_holm_p(p)}){_spread_without_failures(a, b, tests)}"
    )


def _spread_without_failures(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    """Returns what is known of the spread among the runs that did not fail; nothing where none failed."""
    result = tests.levene_successful
    if not a.cell.failed and not b.cell.failed:
        return ""
    if result.p is None:
        return f", which is not tested among the runs that did not fail ({result.reason})"
    shown = (
        f"SD {format_percent(a.successful.std)} against {format_percent(b.successful.std)}, "
        f"{describe_p(result.p)}, not adjusted"
    )
    verdict = "differs" if result.p < ALPHA else "is not shown to differ"
    return f"; among the runs that did not fail the spread {verdict} ({shown})"


def _mean_distance_from_median(scores: tuple[float, ...]) -> float:
    """Returns the mean distance from the median, which is what the median-centred test compares."""
    return float(np.abs(np.asarray(scores) - np.median(scores)).mean())


def _conclude_on_means(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    p, difference = tests.holm["welch"], tests.mean_difference
    if p is None or difference is None:
        return f"the means are not tested ({tests.welch.reason})"
    arms = (a, b) if difference > 0 else (b, a)
    shown = " against ".join(format_percent(arm.cell.summary.mean) for arm in arms)
    lost = a.cell.failed or b.cell.failed
    apart = ", but whether it is higher apart from failed runs is not shown" if lost else ""
    if p < ALPHA:
        return f"the mean of {arms[0].cell.row} is higher ({shown}, {describe_holm_p(p)}){apart}"
    shown = " against ".join(
        f"{format_percent(arm.cell.summary.mean)}{_bracketed_interval(arm.mean_interval)}" for arm in (a, b)
    )
    better = _interval_clause(tests.improvement.interval, f"a run of {a.cell.row} scores higher with probability")
    return f"the means are not shown to differ ({shown}, {describe_holm_p(p)}{better})"


def _interval_clause(interval: Interval, what: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"; {what} {interval.low:.2g} to {interval.high:.2g} (95 % interval)"


def _bracketed_interval(interval: Interval) -> str:
    return "" if interval.low is None else f" [{format_percent_interval(interval)}]"


def format_percent_interval(interval: Interval) -> str:
    """Returns an interval of scores in percent, or a dash."""
    if interval.low is None or interval.high is None:
        return NO_VALUE
    return f"{format_percent(interval.low)} to {format_percent(interval.high)}"


def describe_p(p: float) -> str:
    return f"p = {p:.2g}" if p > 0 else "p < 1e-300"


def describe_holm_p(p: float) -> str:
    """Returns a p-value that Holm's method has adjusted, said to be so."""
    return f"Holm {describe_p(p)}"


def comparison_notes(pair: ArmPair, a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[str]:
    """Yields what a reader must know: how the arms differ, whose runs they are, and why numbers are missing."""
    cells = (a.cell, b.cell)
    yield from _setting_notes(pair, cells)
    for remark in (describe_caveats(*cells) or "").split("; "):
        if remark and not remark.startswith("every run of"):  # which a footnote says
            yield f"{remark[0].upper()}{remark[1:]}."
    yield from _shared_seed_notes(pair)
    yield from _device_notes(pair)
    for cell in cells:
        yield from cell_footnotes(cell, sources=False, others=cells)
    yield from imported_run_footnotes(cells)
    yield from _missing_number_notes(a, b, tests)


def _setting_notes(pair: ArmPair, cells: tuple[ArmCell, ArmCell]) -> Iterator[str]:
    if not pair.settings_known:
        yield (
            "The settings and data rows of imported runs are not known, so nobody here can check that the arms "
            "differ in nothing but what their names say."
        )
    elif pair.differing:
        told = ", ".join(f"{key} {' / '.join(map(describe_value, pair.differing[key]))}" for key in pair.differing)
        yield f"{cells[0].row} / {cells[1].row} differ in: {told}."
    else:
        yield "The arms have equal settings: what they differ in is chance."


def _shared_seed_notes(pair: ArmPair) -> Iterator[str]:
    found = [{(entry.row["seed_init"], entry.row["seed_data"]) for entry in arm} for arm in pair.arms]
    if shared := len(found[0] & found[1]):
        are = "seed is" if shared == 1 else "seeds are"
        yield f"{shared} {are} in both arms; the tests make no use of the pairs, and take the arms as independent."


def _device_notes(pair: ArmPair) -> Iterator[str]:
    found = [sorted({str(entry.row["device"]) for entry in arm if entry.row["device"]}) for arm in pair.arms]
    if all(found) and found[0] != found[1]:
        yield f"The arms ran on different devices: {', '.join(found[0])} against {', '.join(found[1])}."


def _missing_number_notes(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[str]:
    """Yields each reason for missing numbers once, with the numbers."""
    missing = [
        (f"{name} of {arm.cell.row}", found.reason)
        for arm in (a, b)
        for name, found in (
            ("interval of the mean", arm.mean_interval),
            ("interval of the SD", arm.std_interval),
            ("IQM", arm.iqm),
        )
    ]
    missing += [(f"SD of {arm.cell.row}", arm.cell.reason) for arm in (a, b) if arm.cell.summary.std is None]
    between = (tests.levene_median, tests.levene_mean, tests.levene_successful, tests.boschloo)
    between += (tests.welch, tests.student, tests.permutation, tests.improvement.test)
    names = ["", "", " (runs that did not fail)", *[""] * 5]
    missing += [(f"{full_test_name(test)}{name}", test.reason) for test, name in zip(between, names, strict=True)]
    missing += [("SD ratio", tests.sd_ratio.reason)]
    missing += [("interval of the SD ratio", tests.sd_ratio.interval.reason)] if not tests.sd_ratio.reason else []
    missing += [("probability of a higher score", tests.improvement.reason)]
    if not tests.improvement.reason:
        missing += [("interval of that probability", tests.improvement.interval.reason)]
    for reason in dict.fromkeys(reason for _, reason in missing if reason):
        yield f"No {', '.join(name for name, other in missing if other == reason)}: {reason}."


def full_test_name(test: TestResult) -> str:
    """Returns a test's full name with its centre or side."""
    side = f"centre {test.center}" if test.center else test.alternative
    return f"{test.test} ({side})"
