"""Tests between the cells of a column, and of a cell against what a paper prints."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from stableft.report.artifact import Artifact
from stableft.report.cells import Cell
from stableft.report.published import STATISTICS, PublishedValue
from stableft.stats import LEVENE, WELCH, Ratio, TestResult, holds, levene, welch_from_summaries

SMALLEST = "smallest std against second smallest"
SMALLEST_USABLE = "smallest std against second smallest, arms in which every run failed left out"
COMPATIBLE_ALPHA = 0.05
AGAINST_PUBLISHED = "mean against the published mean"
R = TypeVar("R", TestResult, Ratio)


@dataclass(frozen=True)
class Comparison:
    """One test: of arm `a` against arm `b` or against what a paper prints. `star`: `a` earns the table's star."""

    role: str
    a: str
    b: str | None
    column: str
    result: TestResult
    star: bool = False
    remark: str | None = None
    published: PublishedValue | None = None
    differences: Mapping[str, float] = field(default_factory=dict)  # statistic -> a minus published, fractions

    @property
    def compatible(self) -> bool | None:
        """Whether the means could be equal, by the test at COMPATIBLE_ALPHA; None where there is no test."""
        return None if self.result.p is None else self.result.p >= COMPATIBLE_ALPHA


def compare_column(cells: list[Cell], artifact: Artifact) -> Iterator[Comparison]:
    """Yields Levene's test of the two arms with the smallest std, by both centres (M Table 1 does not say which)."""
    yield from _compare_smallest(cells, artifact, SMALLEST, stars=True)
    usable = [cell for cell in cells if not cell.every_run_failed]
    useless = any(cell.every_run_failed for cell in _smallest_first(cells)[:2])
    if useless and len(_smallest_first(usable)) >= 2:
        yield from _compare_smallest(usable, artifact, SMALLEST_USABLE, stars=False)


def _smallest_first(cells: list[Cell]) -> list[Cell]:
    return sorted((cell for cell in cells if cell.summary.std is not None), key=lambda cell: cell.summary.std or 0.0)


def _compare_smallest(cells: list[Cell], artifact: Artifact, role: str, stars: bool) -> Iterator[Comparison]:
    ranked = _smallest_first(cells)
    if len(ranked) < 2:
        first = ranked[0] if ranked else cells[0]
        reason = f"needs two arms with a std, here {'is' if len(ranked) == 1 else 'are'} {len(ranked)}"
        for center in ("median", "mean"):
            result = TestResult(LEVENE, center, None, None, None, first.summary.n, 0, reason)
            yield Comparison(role, first.row, None, first.column, result)
        return
    a, b = ranked[:2]
    for center in ("median", "mean"):
        result = unless_selected(levene(a.scores, b.scores, center), a, b)
        star = stars and center == artifact.center and holds(result, artifact.alpha)
        yield Comparison(role, a.row, b.row, a.column, result, star, remark_on(a, b))


def unless_selected(result: R, *cells: Cell) -> R:
    """Returns the result, or nothing but a reason where runs of a cell were ended because of their scores.

    What is left of such an arm is its better part, not a sample of it.
    """
    ended = [f"{cell.stopped} of {len(cell.run_ids)} runs of {cell.row}" for cell in cells if cell.stopped]
    if not ended:
        return result
    reason = f"{' and '.join(ended)} were stopped because of their scores, so the others are no sample of the arm"
    if isinstance(result, Ratio):
        return replace(result, value=None, interval=replace(result.interval, low=None, high=None), reason=reason)
    return replace(result, statistic=None, p=None, reason=reason)


def stable_in_failure(cell: Cell, others: Iterable[Cell]) -> bool:
    """Returns whether every run of an arm failed, and its std could be taken for stability beside these arms.

    Where it is larger than each of theirs, nobody takes it for that.
    """
    stds = [other.summary.std for other in others if other is not cell and other.summary.std is not None]
    largest = cell.summary.std is not None and bool(stds) and all(cell.summary.std > std for std in stds)
    return cell.every_run_failed and not largest


def remark_on(a: Cell, b: Cell) -> str | None:
    """Returns what makes a test between these two cells less than it seems, or None."""
    remarks = [
        f"every run of {cell.row} failed: stability of that kind is of no use (M footnote 5)"
        for cell, other in ((a, b), (b, a))
        if stable_in_failure(cell, [other])
    ]
    shared = len(set(a.run_ids) & set(b.run_ids))
    if shared and a.sources == b.sources:  # an imported run may have the id of a run of ours
        remarks.append(f"the arms share {shared} runs, so they are not independent samples")
    kinds = [(cell.metric, cell.split, cell.checkpoint) for cell in (a, b)]
    if kinds[0] != kinds[1] and a.metric and b.metric:
        remarks.append(f"unlike scores: {' / '.join(map(str, kinds[0]))} against {' / '.join(map(str, kinds[1]))}")
    return "; ".join(remarks) or None


def compare_published(cell: Cell, value: PublishedValue) -> Comparison:
    """Returns the differences to a printed value and Welch's test of the means, which needs a printed std."""
    ours = cell.summary
    if cell.metric and cell.metric != value.metric:
        reason = f"the published score is {value.metric}, this one {cell.metric}"
        result = TestResult(WELCH, None, "two-sided", None, None, ours.n_finite, value.n, reason)
        return Comparison(AGAINST_PUBLISHED, cell.row, value.place, cell.column, result, published=value)
    theirs = {name: value.fraction(name) for name in STATISTICS}
    differences = {
        name: getattr(ours, name) - printed
        for name, printed in theirs.items()
        if printed is not None and getattr(ours, name) is not None
    }
    result = welch_from_summaries(ours.mean, ours.std, ours.n_finite, theirs["mean"], theirs["std"], value.n)
    result = unless_selected(result, cell)
    unlike = f"the published score is of the {value.split} split, this one of the {cell.split} split"
    return Comparison(
        role=AGAINST_PUBLISHED,
        a=cell.row,
        b=value.place,
        column=cell.column,
        result=result,
        remark=unlike if cell.split and cell.split != value.split else None,
        published=value,
        differences=differences,
    )
