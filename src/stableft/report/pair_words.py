"""What may and may not be concluded of two arms, in one sentence of plain words, and what must be known beside it."""

from collections.abc import Iterator

import numpy as np

from stableft.report.cells import Cell
from stableft.report.compare import COMPATIBLE_ALPHA as ALPHA
from stableft.report.compare import remark_on, stable_in_failure
from stableft.report.footnotes import cell_footnotes, foreign_notes
from stableft.report.pair_runs import Pair
from stableft.report.pair_tests import PRIMARY, ArmNumbers, PairTests
from stableft.report.wording import MISSING, failed, percent, wilson
from stableft.settings import describe
from stableft.stats import Interval, TestResult

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
