"""`stableft compare`: two arms by name, from any records, and what may be concluded of them."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stableft.config.settings import describe
from stableft.records.frame import DTYPES
from stableft.records.run_record import RunRecord
from stableft.report import compare_runs as pair_rules
from stableft.report import numbers_in_words as wording
from stableft.report.artifact import Checkpoint, sweep_artifact
from stableft.report.compare_runs import Pair, select_pair
from stableft.report.compare_tests import PRIMARY, ArmNumbers, PairTests, arm_numbers, compare_pair
from stableft.report.forms.document import (
    PART,
    RANKS,
    Block,
    Bullets,
    Entry,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportRow,
    label,
)
from stableft.report.numbers_in_words import MISSING, failed, percent, wilson
from stableft.report.runs import OWN, VARYING, Cell, describe_environment, make_cell, provenance_values
from stableft.report.stability_report import DIGITS
from stableft.report.stability_table import (
    BOOTSTRAP_SEED,
    Table,
    cell_footnotes,
    foreign_notes,
    remark_on,
    stable_in_failure,
)
from stableft.report.stability_table import COMPATIBLE_ALPHA as ALPHA
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES, WELCH_OF_VALUES, Interval, TestResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ARMS = ("arm", "n", "NaN", "failed", "95 % Wilson", "mean", "95 %", "SD", "95 %", "median", "IQM", "min", "max")
TESTS = ("question", "value", "95 %", "test", "p", "Holm p", "n")
_HOW = re.compile(r" \([^()]*permutations\)")  # of a permutation test, in its name
SCORES = "scores"  # the figure's name
Line = tuple[str, str, str, TestResult, str | None]  # question, value, interval, test, its name in the primary family


def compare_arms(
    arm_a: str,
    arm_b: str,
    results: Path,
    files: Sequence[Path],
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    score: Checkpoint = "recipe",
) -> Report:
    """Returns the comparison of two arms from files of records or, without any, from the run folders.

    Raises:
        UserError: an arm, task, metric or field is not there, a record is damaged, or the arms cannot be compared.
    """
    pair = select_pair((arm_a, arm_b), results, files, task, metric, where, score)
    a, b = (_numbers(name, pair.task, arm) for name, arm in zip(pair.names, pair.arms, strict=True))
    tests = compare_pair(a, b)
    power = _power_command(pair, a.cell, b.cell, files if metric is None and not where else ())
    sentence, remarks = conclusion(a, b, tests, power), tuple(notes(pair, a, b, tests))
    name = label(f"compare-{arm_a}-{arm_b}-{pair.task}")
    title = f"{arm_a} against {arm_b}, {wording.heading([a.cell, b.cell])}"
    drawn: dict[str, Callable[[], Figure]] = {}
    if a.cell.summary.n_finite or b.cell.summary.n_finite:
        drawn[SCORES] = lambda: _figure(pair, (a.cell, b.cell))
    grids = (_arms_grid(name, (a, b)), _tests_grid(name, pair, a, b, tests))
    found = _provenance(pair)
    return Report(
        id=name,
        title=title,
        blocks=tuple(_blocks(sentence, grids, remarks, drawn, (a.cell, b.cell))),
        tables=tuple(_alone(grid, title, sentence, remarks) for grid in grids),
        rows=tuple(_rows(pair, a, b, tests)),
        values=_values(pair, title, sentence, remarks, (a, b), tests) | provenance_values(found),
        figures=drawn,
        undrawn={} if drawn else {SCORES: "no run has a score that can be drawn"},
        provenance=found,
    )


def _numbers(name: str, task: str, entries: Sequence[pair_rules.Entry]) -> ArmNumbers:
    rows = [entry.row for entry in entries]
    verdicts = [row["failed"] if isinstance(row["failed"], bool) else None for row in rows if row["scored"]]
    return arm_numbers(make_cell(name, task, rows, None), verdicts)


def _power_command(pair: Pair, a: Cell, b: Cell, files: Sequence[Path]) -> str | None:
    """Returns the command that tells how many seeds would do, from the records or else from the two SDs."""
    if files and min(a.summary.n, b.summary.n) >= 3:
        parts = [part for file in files for part in ("--from", str(file))]
        return shlex.join(["stableft", "power", *parts, "--arms", ",".join(pair.names), "--task", pair.task])
    sds = (a.summary.std, b.summary.std)
    if not all(sds) or sds[0] == sds[1]:
        return None
    return f"stableft power --sd {100 * (sds[0] or 0):.3g} --ratio {(sds[1] or 0) / (sds[0] or 1):.3g}"


def _blocks(
    sentence: str, grids: Sequence[Grid], remarks: Sequence[str], drawn: dict, cells: Sequence[Cell]
) -> Iterator[Block]:
    yield Paragraph(sentence)
    if drawn:
        counts = ", ".join(f"{cell.row} {wording.failed(cell)} failed" for cell in cells)
        yield Picture(SCORES, f"The score of every run and a box for each arm: {counts}.")
    yield from grids
    yield Heading("Notes", RANKS + 1)
    yield Bullets(tuple(remarks))


def _arms_grid(name: str, arms: Sequence[ArmNumbers]) -> Grid:
    return Grid(
        name,
        ARMS,
        tuple(_arm_row(arm) for arm in arms),
        f"Percent; SD over seeds (ddof 1); intervals of mean and SD by the BCa bootstrap ({RESAMPLES:,} resamples, "
        f"seed {BOOTSTRAP_SEED}) unless a note says otherwise; IQM: interquartile mean.",
    )


def _arm_row(arm: ArmNumbers) -> ReportRow:
    cell, summary = arm.cell, arm.cell.summary
    mean, std = percents(arm.mean_interval), percents(arm.std_interval)
    counts = (str(summary.n), str(summary.n_nan), wording.failed(cell), wording.wilson(cell))
    middle = (percent(summary.median), percent(arm.iqm.value), percent(summary.min), percent(summary.max))
    spread = Entry(percent(summary.std), mark="†" if cell.every_run_failed else "")
    return (cell.row, *counts, percent(summary.mean), mean, spread, std, *middle)


def _lines(a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> Iterator[Line]:
    """Yields the tests in the order in which they are shown."""
    ratio, better = tests.sd_ratio, tests.improvement
    apart = f"{percent(a.successful.std)} / {percent(b.successful.std)}"
    value = MISSING if ratio.value is None else f"{ratio.value:.3g}"
    yield "spread: SD ratio", value, _number_interval(ratio.interval), tests.levene_median, "levene_median"
    yield f"{PART}for parity with the papers", "", "", tests.levene_mean, None
    yield f"{PART}SDs of runs that did not fail", apart, "", tests.levene_successful, None
    points = percent(tests.failed_difference, sign=True)
    yield "failed runs: difference", points, "", tests.boschloo, "boschloo"
    yield "means: difference", percent(tests.mean_difference, sign=True), "", tests.welch, "welch"
    yield f"{PART}if the SDs were equal", "", "", tests.student, None
    yield f"{PART}without normal scores", "", "", tests.permutation, None
    chance = MISSING if better.value is None else f"{better.value:.2f}"
    yield "probability of a higher score", chance, _number_interval(better.interval), better.test, None


def _tests_grid(name: str, pair: Pair, a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> Grid:
    first, second = pair.names
    rows = [
        (
            question,
            value,
            interval,
            _HOW.sub("", kind(test)),
            _p(test.p),
            _p(tests.holm[primary]) if primary else "",
            _sizes(test),
        )
        for question, value, interval, test, primary in _lines(a, b, tests)
    ]
    caption = (
        f"Ratio: {first} over {second}, BCa bootstrap interval; differences: {first} minus {second}, in points; "
        f"probability that a run of {first} scores higher than one of {second}, ties one half. Holm p: adjusted over "
        f"what could be computed of {LEVENE} (centre median, which decides about spread), {BOSCHLOO} and "
        f"{WELCH_OF_VALUES}. Runs that did not fail: conditional on success, so no comparison of the arms as they are."
        f"{_permutations(tests)}"
    )
    return Grid(f"{name}-tests", TESTS, tuple(rows), caption)


def _permutations(tests: PairTests) -> str:
    """Returns how many permutations there were, for which the grid has no room."""
    how = _HOW.search(tests.permutation.test)
    return f" Permutation test: {how[0].strip(' ()')}." if how and tests.permutation.p is not None else ""


def _number_interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return MISSING
    return f"{interval.low:.3g} to {interval.high:.3g}"


def _sizes(test: TestResult) -> str:
    return f"{test.n_a}, {test.n_b}"


def _p(p: float | None) -> str:
    return MISSING if p is None else f"{p:.2g}" if p > 0 else "<1e-300"


def _alone(grid: Grid, title: str, sentence: str, remarks: Sequence[str]) -> Grid:
    """Returns a grid with all that a reader who sees nothing else must know."""
    return Grid(grid.name, grid.header, grid.rows, f"{title}. {grid.caption}", notes=(sentence, *remarks))


def _figure(pair: Pair, cells: tuple[Cell, Cell]) -> "Figure":
    import pandas as pd

    from stableft.report.figures import draw as figures
    from stableft.report.figures.of_sweep import score_panels

    rows = pd.DataFrame([entry.row for arm in pair.arms for entry in arm], columns=list(DTYPES))
    table = Table(sweep_artifact("compare", ""), pair.names, (pair.task,), cells, (), (), {})
    return figures.draw(score_panels(table, rows))


def _rows(pair: Pair, a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> Iterator[dict[str, Any]]:
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
    for question, value, interval, test, primary in _lines(a, b, tests):
        yield {
            "task": pair.task,
            "question": question.removeprefix(PART),
            "a": pair.names[0],
            "b": pair.names[1],
            "value": value if value != MISSING else None,
            "95 %": interval if interval != MISSING else None,
            "test": kind(test),
            "statistic": rounded(test.statistic),
            "p": rounded(test.p),
            "Holm p": rounded(tests.holm[primary]) if primary else None,
            "n a": test.n_a,
            "n b": test.n_b,
            "reason": test.reason,
        }


def _values(
    pair: Pair, title: str, sentence: str, remarks: Sequence[str], arms: Sequence[ArmNumbers], tests: PairTests
) -> dict[str, Any]:
    return {
        "title": title,
        "task": pair.task,
        "conclusion": sentence,
        "arms": [_arm_values(arm) for arm in arms],
        "tests": rounded(asdict(tests)),
        "primary": list(PRIMARY),
        "differing": {key: list(values) for key, values in pair.differing.items()},
        "notes": list(remarks),
    }


def _arm_values(arm: ArmNumbers) -> dict[str, Any]:
    """Returns an arm as JSON values; `asdict` would take a Counter apart."""
    return rounded(asdict(replace(arm, cell=replace(arm.cell, sources=dict(arm.cell.sources)))))


def rounded(value: Any) -> Any:
    """Returns nested values, floats with the digits that are alike on every processor, None for what JSON lacks."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _provenance(pair: Pair) -> Provenance:
    counts, environments = [], Counter()
    for name, arm in zip(pair.names, pair.arms, strict=True):
        total, finished = Counter[str](), Counter[str]()
        for row, record in arm:
            origin = row["source"] or OWN
            total[origin] += 1
            finished[origin] += record.status == "finished"
            if isinstance(record, RunRecord) and record.environment:
                environments[describe_environment(record.environment.model_dump(exclude=VARYING))] += 1
        counts += [(name, pair.task, origin, finished[origin], n) for origin, n in total.items()]
    ids = dict.fromkeys(entry.row["run_id"] for arm in pair.arms for entry in arm)
    return Provenance(tuple(counts), tuple(sorted(environments.items())), tuple(ids))


FEWEST = 10  # runs an arm below which nothing is concluded


def conclusion(a: ArmNumbers, b: ArmNumbers, tests: PairTests, power: str | None) -> str:
    """Returns the sentence; `power` is the command that tells how many seeds are needed, None where there is none.

    What is decided is decided by Holm's p-values at .05; a difference that is not shown is never called equality.
    """
    cells = (a.cell, b.cell)
    why = _nothing(cells, tests)
    if why:
        more = f"`{power}` tells about how many seeds are needed" if power else "run more seeds (the papers: 20 to 50)"
        advice = "" if any(cell.stopped for cell in cells) else f"; {more}"
        return f"Nothing may be concluded about {a.cell.row} and {b.cell.row}: {why}{advice}."
    useless = [
        f"every run of {cell.row} failed, so a small spread of its scores is no stability (M footnote 5)"
        for cell in cells
        if stable_in_failure(cell, cells)
    ]
    said = "; ".join([_failures(cells, tests), _spread(a, b, tests), _means(a, b, tests), *useless]) + "."
    return said if said.startswith((a.cell.row, b.cell.row)) else said[0].upper() + said[1:]


def _nothing(cells: tuple[Cell, Cell], tests: PairTests) -> str | None:
    if any(cell.stopped for cell in cells):
        return tests.levene_median.reason
    counts = [cell.summary.n for cell in cells]
    if min(counts) < FEWEST:
        return f"{counts[0]} and {counts[1]} runs are too few, below {FEWEST} an arm"
    if all(getattr(tests, name).p is None for name in PRIMARY):
        reasons = dict.fromkeys(str(getattr(tests, name).reason) for name in PRIMARY)
        return f"there is no test ({'; '.join(reasons)})"
    return None


def _failures(cells: tuple[Cell, Cell], tests: PairTests) -> str:
    a, b = cells
    p, difference = tests.holm["boschloo"], tests.failed_difference
    between = f"95 % Wilson intervals {wilson(a)} % and {wilson(b)} %"
    if difference is None or a.failed_unknown or b.failed_unknown:
        return f"whether {a.row} and {b.row} fail unlike often is not known"
    if p is None and not a.failed and not b.failed:
        return f"no run of {a.row} or {b.row} failed, which leaves shares of failed runs open ({between})"
    if p is None:
        return f"how often {a.row} and {b.row} fail is not tested ({tests.boschloo.reason})"
    if p >= ALPHA:
        counts = f"{failed(a)} against {failed(b)}, {holm_p(p)}; {between}"
        return f"{a.row} and {b.row} are not shown to differ in how often they fail ({counts})"
    less, more = (a, b) if difference < 0 else (b, a)
    return f"{less.row} fails less often than {more.row} ({failed(less)} against {failed(more)}, {holm_p(p)})"


def _spread(a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> str:
    p, ratio = tests.holm["levene_median"], tests.sd_ratio
    sds = [arm.cell.summary.std for arm in (a, b)]
    if p is None:
        return f"the spread of their scores is not tested ({tests.levene_median.reason})"
    shown = f"SD {percent(sds[0])} against {percent(sds[1])}"
    if p >= ALPHA:
        interval = _interval(ratio.interval, "ratio")
        return (
            f"the spread of their scores is not shown to differ ({shown}, {holm_p(p)}{interval}){_apart(a, b, tests)}"
        )
    away = [_distance(arm.cell.scores) for arm in (a, b)]
    if (away[0] < away[1]) != ((sds[0] or 0.0) < (sds[1] or 0.0)):
        which = "though SD and mean distance from the median do not agree on which spreads more"
        return f"the spread of their scores differs, {which} ({shown}, {holm_p(p)}){_apart(a, b, tests)}"
    less, more = (a, b) if away[0] < away[1] else (b, a)
    shown = f"SD {percent(less.cell.summary.std)} against {percent(more.cell.summary.std)}"
    return f"the scores of {less.cell.row} spread less ({shown}, {holm_p(p)}){_apart(a, b, tests)}"


def _apart(a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> str:
    """Returns what is known of the spread among the runs that did not fail; nothing where none failed."""
    result = tests.levene_successful
    if not a.cell.failed and not b.cell.failed:
        return ""
    if result.p is None:
        return f", which is not tested among the runs that did not fail ({result.reason})"
    shown = f"SD {percent(a.successful.std)} against {percent(b.successful.std)}, {shown_p(result.p)}, not adjusted"
    verdict = "differs" if result.p < ALPHA else "is not shown to differ"
    return f"; among the runs that did not fail the spread {verdict} ({shown})"


def _distance(scores: tuple[float, ...]) -> float:
    """Returns the mean distance from the median, which is what the median-centred test compares."""
    return float(np.abs(np.asarray(scores) - np.median(scores)).mean())


def _means(a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> str:
    p, difference = tests.holm["welch"], tests.mean_difference
    if p is None or difference is None:
        return f"the means are not tested ({tests.welch.reason})"
    arms = (a, b) if difference > 0 else (b, a)
    shown = " against ".join(percent(arm.cell.summary.mean) for arm in arms)
    lost = a.cell.failed or b.cell.failed
    apart = ", but whether it is higher apart from failed runs is not shown" if lost else ""
    if p < ALPHA:
        return f"the mean of {arms[0].cell.row} is higher ({shown}, {holm_p(p)}){apart}"
    shown = " against ".join(f"{percent(arm.cell.summary.mean)}{_bracketed(arm.mean_interval)}" for arm in (a, b))
    better = _interval(tests.improvement.interval, f"a run of {a.cell.row} scores higher with probability")
    return f"the means are not shown to differ ({shown}, {holm_p(p)}{better})"


def _interval(interval: Interval, what: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"; {what} {interval.low:.2g} to {interval.high:.2g} (95 % interval)"


def _bracketed(interval: Interval) -> str:
    return "" if interval.low is None else f" [{percents(interval)}]"


def percents(interval: Interval) -> str:
    """Returns an interval of scores in percent, or a dash."""
    if interval.low is None or interval.high is None:
        return MISSING
    return f"{percent(interval.low)} to {percent(interval.high)}"


def shown_p(p: float) -> str:
    return f"p = {p:.2g}" if p > 0 else "p < 1e-300"


def holm_p(p: float) -> str:
    """Returns a p-value that Holm's method has adjusted, said to be so."""
    return f"Holm {shown_p(p)}"


def notes(pair: Pair, a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> Iterator[str]:
    """Yields what a reader must know: how the arms differ, whose runs they are, and why numbers are missing."""
    cells = (a.cell, b.cell)
    yield from _settings(pair, cells)
    for remark in (remark_on(*cells) or "").split("; "):
        if remark and not remark.startswith("every run of"):  # which a footnote says
            yield f"{remark[0].upper()}{remark[1:]}."
    yield from _seeds(pair)
    yield from _devices(pair)
    for cell in cells:
        yield from cell_footnotes(cell, sources=False, others=cells)
    yield from foreign_notes(cells)
    yield from _reasons(a, b, tests)


def _settings(pair: Pair, cells: tuple[Cell, Cell]) -> Iterator[str]:
    if not pair.settings_known:
        yield (
            "The settings and data rows of imported runs are not known, so nobody here can check that the arms "
            "differ in nothing but what their names say."
        )
    elif pair.differing:
        told = ", ".join(f"{key} {' / '.join(map(describe, pair.differing[key]))}" for key in pair.differing)
        yield f"{cells[0].row} / {cells[1].row} differ in: {told}."
    else:
        yield "The arms have equal settings: what they differ in is chance."


def _seeds(pair: Pair) -> Iterator[str]:
    found = [{(entry.row["seed_init"], entry.row["seed_data"]) for entry in arm} for arm in pair.arms]
    if shared := len(found[0] & found[1]):
        are = "seed is" if shared == 1 else "seeds are"
        yield f"{shared} {are} in both arms; the tests make no use of the pairs, and take the arms as independent."


def _devices(pair: Pair) -> Iterator[str]:
    found = [sorted({str(entry.row["device"]) for entry in arm if entry.row["device"]}) for arm in pair.arms]
    if all(found) and found[0] != found[1]:
        yield f"The arms ran on different devices: {', '.join(found[0])} against {', '.join(found[1])}."


def _reasons(a: ArmNumbers, b: ArmNumbers, tests: PairTests) -> Iterator[str]:
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
    missing += [(f"{kind(test)}{name}", test.reason) for test, name in zip(between, names, strict=True)]
    missing += [("SD ratio", tests.sd_ratio.reason)]
    missing += [("interval of the SD ratio", tests.sd_ratio.interval.reason)] if not tests.sd_ratio.reason else []
    missing += [("probability of a higher score", tests.improvement.reason)]
    if not tests.improvement.reason:
        missing += [("interval of that probability", tests.improvement.interval.reason)]
    for reason in dict.fromkeys(reason for _, reason in missing if reason):
        yield f"No {', '.join(name for name, other in missing if other == reason)}: {reason}."


def kind(test: TestResult) -> str:
    """Returns a test's full name with its centre or side."""
    side = f"centre {test.center}" if test.center else test.alternative
    return f"{test.test} ({side})"
