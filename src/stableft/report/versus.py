"""The comparisons with the first arm, and what failed runs' training losses say, in words for every rendering."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from stableft.report.battery import BOOTSTRAP_SEED, Versus
from stableft.report.cells import Cell
from stableft.report.table import Table
from stableft.report.wording import MISSING, percent
from stableft.stats import BOSCHLOO, LEVENE, RESAMPLES

DIGITS = 9  # Boschloo's p is the end of a search and an interval that of resampling: the last bits vary by processor
HEADER = ("arm", "failed diff", "Boschloo p", "Holm p", "SD ratio", "95 % BCa", "Levene p", "Holm p", "mean p")
CSV_HEADER = [
    "against",
    "failed, difference [points]",
    f"p ({BOSCHLOO}, one-sided: fails less often)",
    "Holm p (Boschloo)",
    "std ratio (first arm over this)",
    "95 % BCa low",
    "95 % BCa high",
    f"p ({LEVENE}, centre median)",
    "Holm p (Levene, centre median)",
    f"p ({LEVENE}, centre mean)",
    "remarks",
]


def block(table: Table, column: str) -> list[Versus]:
    """Returns the comparisons of a column's arms with its first, of which there may be none."""
    return [versus for versus in table.battery if versus.column == column]


def texts(versus: Versus) -> list[str]:
    """Returns the cells of one line below HEADER."""
    ratio = versus.sd_ratio
    low, high = ratio.interval.low, ratio.interval.high
    return [
        versus.arm,
        percent(versus.failed_difference, sign=True),
        _p(versus.failures.p),
        _p(versus.holm_failures),
        MISSING if ratio.value is None else f"{ratio.value:.3g}",
        MISSING if low is None or high is None else f"{low:.3g}-{high:.3g}",
        _p(versus.levene_median.p),
        _p(versus.holm_levene),
        _p(versus.levene_mean.p),
    ]


def explanation(table: Table) -> str:
    """Returns what the columns of the blocks are: tests, sides, centres and correction."""
    firsts = {versus.first for versus in table.battery}
    first = firsts.pop() if len(firsts) == 1 else "the first arm"
    counts = [
        sum(test.p is not None for test in tests)
        for tests in ([v.failures for v in table.battery], [v.levene_median for v in table.battery])
    ]
    return (
        f"failed diff: share of failed runs, arm minus {first}, in points. Boschloo p: {BOSCHLOO} (one-sided: the arm "
        f"fails less often than {first}). SD ratio: {first} over arm, with its BCa bootstrap interval ({RESAMPLES:,} "
        f"resamples, seed {BOOTSTRAP_SEED}). Levene p: {LEVENE} of equal spread (two-sided, centre median); mean p: "
        "centre mean, for parity with the papers, not adjusted. Holm p: adjusted by Holm's method over the tests of "
        f"its kind in this report, {counts[0]} of Boschloo and {counts[1]} of Levene (median)."
    )


def sizes(pairs: Sequence[Versus]) -> str:
    """Returns the n of the arms of a block."""
    found = {pairs[0].first: pairs[0].levene_median.n_a} | {v.arm: v.levene_median.n_b for v in pairs}
    if len(set(found.values())) == 1:
        return f"n = {pairs[0].levene_median.n_a} of every arm."
    return "n: " + ", ".join(f"{arm} {n}" for arm, n in found.items()) + "."


def remarks(versus: Versus) -> Iterator[str]:
    """Yields why numbers are missing, and what makes the comparison less than it seems."""
    results = (("SD ratio", versus.sd_ratio.reason), ("Levene p", versus.levene_median.reason))
    results += (("mean p", versus.levene_mean.reason),)
    if versus.sd_ratio.reason is None:
        results += (("95 % BCa", versus.sd_ratio.interval.reason),)
    if versus.failures.reason:
        yield f"{versus.arm} against {versus.first}: no Boschloo p: {versus.failures.reason}"
    for reason in dict.fromkeys(reason for _, reason in results if reason):
        names = ", ".join(name for name, other in results if other == reason)
        yield f"{versus.first} against {versus.arm}: no {names}: {reason}"
    if versus.remark:
        yield f"{versus.arm} against {versus.first}: {versus.remark}"


def losses(cell: Cell) -> str | None:
    """Returns how the failed runs' training losses ended beside what a model that has learnt nothing has, or None."""
    values, entropies = cell.failed_losses, cell.label_entropies
    if not values or not entropies:
        return None
    which = f"the {cell.failed} failed runs end at a mean" if cell.failed > 1 else "the failed run ends at a"
    if len(values) < cell.failed:
        which = f"{len(values)} of {which}"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    spread = "" if low == high else f" ({low} to {high})"
    nothing = " or ".join(f"{entropy:.2f}" for entropy in entropies)
    return (
        f"{cell.row}: {which} training loss of {sum(values) / len(values):.2f}{spread}; a model that has "
        f"learnt nothing has the entropy of the training labels, {nothing} nats"
    )


def json_values(versus: Versus) -> dict[str, Any]:
    """Returns the comparison as JSON values."""
    return _rounded(asdict(versus))


def csv_values(table: Table, cell: Cell) -> list[Any]:
    """Returns what stands below CSV_HEADER for a cell; empty for the first arm."""
    versus = next((v for v in table.battery if (v.arm, v.column) == (cell.row, cell.column)), None)
    if versus is None:
        return [None] * (len(CSV_HEADER) - 1) + [losses(cell)]
    ratio, points = versus.sd_ratio, versus.failed_difference
    return [
        versus.first,
        None if points is None else f"{100 * points:.4f}",
        *_rounded([versus.failures.p, versus.holm_failures, ratio.value, ratio.interval.low, ratio.interval.high]),
        *_rounded([versus.levene_median.p, versus.holm_levene, versus.levene_mean.p]),
        "; ".join([*remarks(versus), *filter(None, [losses(cell)])]) or None,
    ]


def _rounded(value: Any) -> Any:
    """Returns nested values with every float cut to DIGITS significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _p(p: float | None) -> str:
    return MISSING if p is None else f"{p:.2g}" if p > 0 else "<1e-300"
