"""`stableft compare`: the report on two arms and its conclusion in words."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stableft.config.settings import describe_value
from stableft.records.run_record import RunRecord
from stableft.report.artifact import ReportedCheckpoint
from stableft.report.compare_runs import ArmPair, RowAndRecord, select_arm_pair
from stableft.report.compare_tests import PRIMARY_TESTS, ArmEstimates, ArmPairTests, compare_arm_pair, estimate_arm
from stableft.report.forms.document import (
    HEADING_LEVELS,
    OWN_ORIGIN,
    Bullets,
    Column,
    DataTable,
    Heading,
    OriginCount,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportBlock,
    ReportTable,
    Row,
    Value,
    make_label,
)
from stableft.report.numbers_in_words import (
    count_value,
    describe_p,
    failed_value,
    format_percent,
    full_test_name,
    interval_value,
    number_value,
    p_value,
    percent_value,
    scores_heading,
    text_value,
    values_of_test,
    wilson_value,
)
from stableft.report.runs import (
    IGNORED_ENVIRONMENT_FIELDS,
    ArmCell,
    describe_environment,
    make_arm_cell,
)
from stableft.report.stability_results import (
    BOOTSTRAP_SEED,
    Caveat,
    cell_footnotes,
    find_caveats,
    imported_run_footnotes,
    is_falsely_stable,
)
from stableft.report.stability_results import COMPATIBLE_ALPHA as ALPHA
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES, WELCH_T_TEST, Interval, TestResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ARM_COLUMNS = (
    *(Column(key) for key in ("task", "metric", "split", "checkpoint")),
    Column("arm", "arm"),
    Column("n", "n"),
    Column("n_nan", "NaN"),
    Column("failed", "failed"),
    Column("failed_wilson", "95 % Wilson", "percent", interval=True),
    Column("mean", "mean", "percent"),
    Column("mean_interval", "95 %", "percent", interval=True),
    Column("std", "SD", "percent"),
    Column("std_interval", "95 %", "percent", interval=True),
    Column("median", "median", "percent"),
    Column("iqm", "IQM", "percent"),
    Column("min", "min", "percent"),
    Column("max", "max", "percent"),
    *(Column(key) for key in ("every_run_failed", "failed_unknown", "crashed", "stopped", "unscored")),
    Column("successful_n"),
    Column("successful_mean", unit="percent"),
    Column("successful_std", unit="percent"),
)
TEST_COLUMNS = (
    *(Column(key) for key in ("task", "arm", "against")),
    Column("question", "question"),
    Column("value", "value", for_readers=True),
    Column("interval", "95 %", for_readers=True),
    Column("shown_test", "test", for_readers=True),
    Column("sd_ratio"),
    Column("sd_ratio_bca", interval=True),
    Column("successful_std_arm", unit="percent"),
    Column("successful_std_against", unit="percent"),
    Column("failed_difference", unit="points"),
    Column("mean_difference", unit="points"),
    Column("probability"),
    Column("probability_interval", interval=True),
    *(Column(key) for key in ("test", "center", "alternative", "statistic")),
    Column("p", "p"),
    Column("holm_p", "Holm p"),
    Column("sizes", "n", for_readers=True),
    *(Column(key) for key in ("n_a", "n_b", "reason")),
)
_PERMUTATION_DETAIL = re.compile(r" \([^()]*permutations\)")  # part of a permutation test's name
COMPARED_SCORES_FIGURE = "scores"


def build_comparison_report(
    arm_a: str,
    arm_b: str,
    results: Path,
    files: Sequence[Path],
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    checkpoint: ReportedCheckpoint = "recipe",
) -> Report:
    """Return the report on two arms, from record files or, without any, from the run folders.

    Raises:
        UserError: An arm, task, metric or field is unknown, a record is damaged, or the arms are not comparable.
    """
    pair = select_arm_pair((arm_a, arm_b), results, files, task, metric, where, checkpoint)
    a, b = (_estimate_named_arm(name, pair.task, arm) for name, arm in zip(pair.names, pair.arms, strict=True))
    tests = compare_arm_pair(a, b)
    power = _power_command(pair, a.cell, b.cell, files if metric is None and not where else ())
    sentence, notes = state_conclusion(a, b, tests, power), tuple(comparison_notes(pair, a, b, tests))
    name = make_label(f"compare-{arm_a}-{arm_b}-{pair.task}")
    title = f"{arm_a} against {arm_b}, {scores_heading([a.cell, b.cell])}"
    figures: dict[str, Callable[[], Figure]] = {}
    if a.cell.summary.n_finite or b.cell.summary.n_finite:
        figures[COMPARED_SCORES_FIGURE] = lambda: _draw_compared_scores(pair, (a.cell, b.cell))
    arms, compared = _arm_data(pair, (a, b)), _test_data(pair, a, b, tests)
    tables = (_arms_table(name, arms), _tests_table(name, pair, compared, tests))
    return Report(
        id=name,
        title=title,
        blocks=tuple(_comparison_blocks(sentence, tables, notes, figures, (a.cell, b.cell))),
        standalone=tuple(
            replace(table, caption=f"{title}. {table.caption}", notes=(sentence, *notes)) for table in tables
        ),
        data={"arms": arms, "tests": compared},
        facts={
            "task": pair.task,
            "conclusion": sentence,
            "explanations": [table.caption for table in tables],
            "primary": list(PRIMARY_TESTS),
            "differing": {key: list(values) for key, values in pair.differing.items()},
            "notes": list(notes),
        },
        figures=figures,
        undrawn={} if figures else {COMPARED_SCORES_FIGURE: "no run has a score that can be drawn"},
        provenance=_pair_provenance(pair),
    )


def _estimate_named_arm(name: str, task: str, entries: Sequence[RowAndRecord]) -> ArmEstimates:
    rows = [entry.row for entry in entries]
    verdicts = [row["failed"] if isinstance(row["failed"], bool) else None for row in rows if row["scored"]]
    return estimate_arm(make_arm_cell(name, task, rows, None), verdicts)


def _power_command(pair: ArmPair, a: ArmCell, b: ArmCell, files: Sequence[Path]) -> str | None:
    """Return the command that estimates how many seeds are needed, from the records or else from the two SDs."""
    if files and min(a.summary.n, b.summary.n) >= 3:
        parts = [part for file in files for part in ("--from", str(file))]
        return shlex.join(["stableft", "power", *parts, "--arms", ",".join(pair.names), "--task", pair.task])
    sds = (a.summary.std, b.summary.std)
    if not all(sds) or sds[0] == sds[1]:
        return None
    return f"stableft power --sd {100 * (sds[0] or 0):.3g} --ratio {(sds[1] or 0) / (sds[0] or 1):.3g}"


def _comparison_blocks(
    sentence: str, tables: Sequence[ReportTable], notes: Sequence[str], figures: dict, cells: Sequence[ArmCell]
) -> Iterator[ReportBlock]:
    yield Paragraph(sentence)
    if figures:
        counts = ", ".join(f"{cell.arm} {failed_value(cell).text} failed" for cell in cells)
        yield Picture(COMPARED_SCORES_FIGURE, f"The score of every run and a box for each arm: {counts}.")
    yield from tables
    yield Heading("Notes", HEADING_LEVELS + 1)
    yield Bullets(tuple(notes))


def _arm_data(pair: ArmPair, arms: Sequence[ArmEstimates]) -> DataTable:
    return DataTable(ARM_COLUMNS, tuple(Row("arm", _arm_values(pair, arm)) for arm in arms))


def _arm_values(pair: ArmPair, arm: ArmEstimates) -> dict[str, Value]:
    cell, summary = arm.cell, arm.cell.summary
    plain = {"task": pair.task, "metric": cell.metric, "split": cell.split, "checkpoint": cell.checkpoint}
    plain |= {
        "every_run_failed": cell.every_run_failed,
        "failed_unknown": cell.failed_unknown,
        "crashed": cell.crashed,
        "stopped": cell.stopped,
        "unscored": cell.unscored,
        "successful_n": arm.successful.n,
        "successful_mean": arm.successful.mean,
        "successful_std": arm.successful.std,
        "recipe": cell.recipe,
        "baseline": cell.baseline,
        "scores": list(cell.scores),
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
    }
    return {key: Value(data=data) for key, data in plain.items()} | {
        "arm": text_value(cell.arm),
        "n": count_value(summary.n),
        "n_nan": count_value(summary.n_nan),
        "failed": failed_value(cell),
        "failed_wilson": wilson_value(cell),
        "mean": percent_value(summary.mean),
        "mean_interval": interval_value(arm.mean_interval, format_percent),
        "std": percent_value(summary.std, mark="†" if cell.every_run_failed else ""),
        "std_interval": interval_value(arm.std_interval, format_percent),
        "median": percent_value(summary.median),
        "iqm": percent_value(arm.iqm.value),
        "min": percent_value(summary.min),
        "max": percent_value(summary.max),
    }


ARMS_CAPTION = (
    f"Percent; SD over seeds (ddof 1); intervals of mean and SD by the BCa bootstrap ({RESAMPLES:,} resamples, "
    f"seed {BOOTSTRAP_SEED}) unless a note says otherwise; IQM: interquartile mean."
)


def _arms_table(name: str, arms: DataTable) -> ReportTable:
    return arms.view(name, [column.key for column in ARM_COLUMNS if column.title], ARMS_CAPTION)


def _test_data(pair: ArmPair, a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> DataTable:
    """Return a row for each test, in display order. Its first value, and its interval, are those that readers see."""
    ratio, better = tests.sd_ratio, tests.improvement
    sds = {
        "successful_std_arm": percent_value(a.successful.std),
        "successful_std_against": percent_value(b.successful.std),
    }
    both = Value(" / ".join(value.text for value in sds.values()))
    spread = {"sd_ratio": number_value(ratio.value), "sd_ratio_bca": interval_value(ratio.interval)}
    probability = {"probability": number_value(better.value, ".2f")}
    probability |= {"probability_interval": interval_value(better.interval)}
    rows = (
        ("spread: SD ratio", spread, "levene_median"),
        ("- for parity with the papers", {}, "levene_mean"),
        ("- SDs of runs that did not fail", {"value": both} | sds, "levene_successful"),
        (
            "failed runs: difference",
            {"failed_difference": percent_value(tests.failed_difference, sign=True)},
            "boschloo",
        ),
        ("means: difference", {"mean_difference": percent_value(tests.mean_difference, sign=True)}, "welch"),
        ("- if the SDs were equal", {}, "student"),
        ("- without normal scores", {}, "permutation"),
        ("probability of a higher score", probability, "improvement"),
    )
    return DataTable(TEST_COLUMNS, tuple(_test_row(pair, tests, *row) for row in rows))


def _test_row(pair: ArmPair, tests: ArmPairTests, question: str, values: dict[str, Value], name: str) -> Row:
    result: TestResult = tests.improvement.test if name == "improvement" else getattr(tests, name)
    plain = {"task": pair.task, "arm": pair.names[0], "against": pair.names[1]}
    plain |= values_of_test(result, tests.holm.get(name))
    intervals = {column.key for column in TEST_COLUMNS if column.interval}
    text = question.removeprefix("- ")
    return Row(
        name,
        {key: Value(data=data) for key, data in plain.items()}
        | {
            "value": next(iter(values.values()), Value()),
            "interval": next((value for key, value in values.items() if key in intervals), Value()),
        }
        | values
        | {
            "question": Value(text, text, under=text != question),
            "shown_test": Value(_PERMUTATION_DETAIL.sub("", full_test_name(result))),
            "p": p_value(result.p),
            "holm_p": p_value(tests.holm[name]) if name in PRIMARY_TESTS else Value(),
            "sizes": Value(f"{result.n_a}, {result.n_b}"),
        },
    )


def _tests_table(name: str, pair: ArmPair, compared: DataTable, tests: ArmPairTests) -> ReportTable:
    first, second = pair.names
    caption = (
        f"Ratio: {first} over {second}, BCa bootstrap interval; differences: {first} minus {second}, in points; "
        f"probability that a run of {first} scores higher than one of {second}, ties one half. Holm p: adjusted over "
        f"what could be computed of {LEVENE} (centre median, which decides about spread), {BOSCHLOO} and "
        f"{WELCH_T_TEST}. Runs that did not fail: conditional on success, so no comparison of the arms as they are."
        f"{_permutation_caption(tests)}"
    )
    return compared.view(f"{name}-tests", [column.key for column in TEST_COLUMNS if column.title], caption)


def _permutation_caption(tests: ArmPairTests) -> str:
    """Return the number of permutations for the caption. The table has no room for it."""
    how = _PERMUTATION_DETAIL.search(tests.permutation.test)
    return f" Permutation test: {how[0].strip(' ()')}." if how and tests.permutation.p is not None else ""


def _draw_compared_scores(pair: ArmPair, cells: tuple[ArmCell, ArmCell]) -> "Figure":
    from stableft.report.figures.draw import draw_panels
    from stableft.report.figures.from_runs import box_panel

    rows = [[entry.row for entry in arm] for arm in pair.arms]
    return draw_panels(
        [box_panel("", [(cell.arm, cell, runs) for cell, runs in zip(cells, rows, strict=True)], "test")]
    )


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
        counts += [OriginCount(name, pair.task, origin, finished[origin], n) for origin, n in total.items()]
    ids = dict.fromkeys(entry.row["run_id"] for arm in pair.arms for entry in arm)
    return Provenance(tuple(counts), tuple(sorted(environments.items())), tuple(ids))


MIN_RUNS_TO_CONCLUDE = 10  # per arm; with fewer runs nothing is concluded


def state_conclusion(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests, power: str | None) -> str:
    """Return the conclusion as a sentence.

    Decisions use Holm-adjusted p-values at .05. A difference that is not shown is never called equality. `power` is
    the command that estimates how many seeds are needed.
    """
    cells = (a.cell, b.cell)
    reason = _why_inconclusive(cells, tests)
    if reason:
        seeds_advice = (
            f"`{power}` tells about how many seeds are needed" if power else "run more seeds (the papers: 20 to 50)"
        )
        advice = "" if any(cell.stopped for cell in cells) else f"; {seeds_advice}"
        return f"Nothing may be concluded about {a.cell.arm} and {b.cell.arm}: {reason}{advice}."
    falsely_stable = [
        f"every run of {cell.arm} failed, so a small spread of its scores is no stability (M footnote 5)"
        for cell in cells
        if is_falsely_stable(cell, cells)
    ]
    text = (
        "; ".join(
            [
                _conclude_on_failures(cells, tests),
                _conclude_on_spread(a, b, tests),
                _conclude_on_means(a, b, tests),
                *falsely_stable,
            ]
        )
        + "."
    )
    return text if text.startswith((a.cell.arm, b.cell.arm)) else text[0].upper() + text[1:]


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
    intervals_text = f"95 % Wilson intervals {wilson_value(a).text} % and {wilson_value(b).text} %"
    if difference is None or a.failed_unknown or b.failed_unknown:
        return f"whether {a.arm} and {b.arm} fail unlike often is not known"
    if p is None and not a.failed and not b.failed:
        return f"no run of {a.arm} or {b.arm} failed, which leaves shares of failed runs open ({intervals_text})"
    if p is None:
        return f"how often {a.arm} and {b.arm} fail is not tested ({tests.boschloo.reason})"
    if p >= ALPHA:
        counts = f"{failed_value(a).text} against {failed_value(b).text}, {describe_holm_p(p)}; {intervals_text}"
        return f"{a.arm} and {b.arm} are not shown to differ in how often they fail ({counts})"
    less, more = (a, b) if difference < 0 else (b, a)
    return (
        f"{less.arm} fails less often than {more.arm} ({failed_value(less).text} against {failed_value(more).text}, "
        f"{describe_holm_p(p)})"
    )


def _conclude_on_spread(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    p, ratio = tests.holm["levene_median"], tests.sd_ratio
    sds = [arm.cell.summary.std for arm in (a, b)]
    if p is None:
        return f"the spread of their scores is not tested ({tests.levene_median.reason})"
    sds_text = f"SD {format_percent(sds[0])} against {format_percent(sds[1])}"
    if p >= ALPHA:
        interval = _interval_clause(ratio.interval, "ratio")
        return (
            f"the spread of their scores is not shown to differ ({sds_text}, "
            f"{describe_holm_p(p)}{interval}){_spread_without_failures(a, b, tests)}"
        )
    distances = [_mean_distance_from_median(arm.cell.scores) for arm in (a, b)]
    if (distances[0] < distances[1]) != ((sds[0] or 0.0) < (sds[1] or 0.0)):
        contradiction = "though SD and mean distance from the median do not agree on which spreads more"
        return (
            f"the spread of their scores differs, {contradiction} ({sds_text}, "
            f"{describe_holm_p(p)}){_spread_without_failures(a, b, tests)}"
        )
    less, more = (a, b) if distances[0] < distances[1] else (b, a)
    sds_text = f"SD {format_percent(less.cell.summary.std)} against {format_percent(more.cell.summary.std)}"
    return (
        f"the scores of {less.cell.arm} spread less ({sds_text}, "
        f"{describe_holm_p(p)}){_spread_without_failures(a, b, tests)}"
    )


def _spread_without_failures(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    """Return a clause on the spread among the runs that did not fail. Empty if none failed."""
    result = tests.levene_successful
    if not a.cell.failed and not b.cell.failed:
        return ""
    if result.p is None:
        return f", which is not tested among the runs that did not fail ({result.reason})"
    details = (
        f"SD {format_percent(a.successful.std)} against {format_percent(b.successful.std)}, "
        f"{describe_p(result.p)}, not adjusted"
    )
    verdict = "differs" if result.p < ALPHA else "is not shown to differ"
    return f"; among the runs that did not fail the spread {verdict} ({details})"


def _mean_distance_from_median(scores: tuple[float, ...]) -> float:
    """Return the mean absolute distance from the median, which is what the median-centred test compares."""
    return float(np.abs(np.asarray(scores) - np.median(scores)).mean())


def _conclude_on_means(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> str:
    p, difference = tests.holm["welch"], tests.mean_difference
    if p is None or difference is None:
        return f"the means are not tested ({tests.welch.reason})"
    arms = (a, b) if difference > 0 else (b, a)
    means_text = " against ".join(format_percent(arm.cell.summary.mean) for arm in arms)
    any_failed = a.cell.failed or b.cell.failed
    reservation = ", but whether it is higher apart from failed runs is not shown" if any_failed else ""
    if p < ALPHA:
        return f"the mean of {arms[0].cell.arm} is higher ({means_text}, {describe_holm_p(p)}){reservation}"
    means_text = " against ".join(
        f"{format_percent(arm.cell.summary.mean)}{_bracketed_interval(arm.mean_interval)}" for arm in (a, b)
    )
    probability = _interval_clause(tests.improvement.interval, f"a run of {a.cell.arm} scores higher with probability")
    return f"the means are not shown to differ ({means_text}, {describe_holm_p(p)}{probability})"


def _interval_clause(interval: Interval, name: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"; {name} {interval.low:.2g} to {interval.high:.2g} (95 % interval)"


def _bracketed_interval(interval: Interval) -> str:
    return "" if interval.low is None else f" [{interval_value(interval, format_percent).text}]"


def describe_holm_p(p: float) -> str:
    """Return a Holm-adjusted p-value with its name."""
    return describe_p(p, "Holm p")


def comparison_notes(pair: ArmPair, a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[str]:
    """Yield notes on how the arms differ, where their runs come from, and why numbers are missing."""
    cells = (a.cell, b.cell)
    yield from _setting_notes(pair, cells)
    for caveat, sentence in find_caveats(*cells):
        if caveat is not Caveat.EVERY_RUN_FAILED:  # a footnote says it
            yield f"{sentence[0].upper()}{sentence[1:]}."
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
        listed = ", ".join(f"{key} {' / '.join(map(describe_value, pair.differing[key]))}" for key in pair.differing)
        yield f"{cells[0].arm} / {cells[1].arm} differ in: {listed}."
    else:
        yield "The arms have equal settings: what they differ in is chance."


def _shared_seed_notes(pair: ArmPair) -> Iterator[str]:
    seeds = [{(entry.row["seed_init"], entry.row["seed_data"]) for entry in arm} for arm in pair.arms]
    if shared := len(seeds[0] & seeds[1]):
        are = "seed is" if shared == 1 else "seeds are"
        yield f"{shared} {are} in both arms; the tests make no use of the pairs, and take the arms as independent."


def _device_notes(pair: ArmPair) -> Iterator[str]:
    devices = [sorted({str(entry.row["device"]) for entry in arm if entry.row["device"]}) for arm in pair.arms]
    if all(devices) and devices[0] != devices[1]:
        yield f"The arms ran on different devices: {', '.join(devices[0])} against {', '.join(devices[1])}."


def _missing_number_notes(a: ArmEstimates, b: ArmEstimates, tests: ArmPairTests) -> Iterator[str]:
    """Yield a line for each reason, with the numbers that are missing for it."""
    missing = [
        (f"{name} of {arm.cell.arm}", estimate.reason)
        for arm in (a, b)
        for name, estimate in (
            ("interval of the mean", arm.mean_interval),
            ("interval of the SD", arm.std_interval),
            ("IQM", arm.iqm),
        )
    ]
    missing += [(f"SD of {arm.cell.arm}", arm.cell.reason) for arm in (a, b) if arm.cell.summary.std is None]
    test_results = (tests.levene_median, tests.levene_mean, tests.levene_successful, tests.boschloo)
    test_results += (tests.welch, tests.student, tests.permutation, tests.improvement.test)
    names = ["", "", " (runs that did not fail)", *[""] * 5]
    missing += [(f"{full_test_name(test)}{name}", test.reason) for test, name in zip(test_results, names, strict=True)]
    missing += [("SD ratio", tests.sd_ratio.reason)]
    missing += [("interval of the SD ratio", tests.sd_ratio.interval.reason)] if not tests.sd_ratio.reason else []
    missing += [("probability of a higher score", tests.improvement.reason)]
    if not tests.improvement.reason:
        missing += [("interval of that probability", tests.improvement.interval.reason)]
    for reason in dict.fromkeys(reason for _, reason in missing if reason):
        yield f"No {', '.join(name for name, other in missing if other == reason)}: {reason}."
