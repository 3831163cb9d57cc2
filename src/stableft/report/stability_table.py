"""The stability table before rendering: cells, comparisons, published values, footnotes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from stableft.catalog.tasks import TASKS
from stableft.config.recipe import describe_deviations
from stableft.errors import UserError
from stableft.report.artifact import Artifact, StabilityTable
from stableft.report.paper_values import (
    STATISTICS,
    PublishedValue,
    find_published_by_config,
    find_published_by_name,
    find_published_in_table,
    load_published_values,
)
from stableft.report.runs import ArmCell, RunsByArmTask, make_arm_cell
from stableft.stats import (
    LEVENE,
    WELCH_FROM_SUMMARIES,
    SdRatio,
    TestResult,
    boschloo,
    holm,
    is_significant,
    levene,
    sd_ratio,
    welch_from_summaries,
)

if TYPE_CHECKING:
    from stableft.report.runs import ArtifactRuns


PublishedByArmTask = Mapping[tuple[str, str], Sequence[PublishedValue]]  # arm, task ->


class Question(StrEnum):
    """What a test of a stability table compares, in words."""

    SMALLEST_STD = "smallest std against second smallest"
    SMALLEST_USABLE_STD = "smallest std against second smallest, arms in which every run failed left out"
    AGAINST_PUBLISHED = "mean against the published mean"


class Caveat(Enum):
    """What makes a test less than it seems."""

    EVERY_RUN_FAILED = "a small spread among failed runs is not stability"
    SHARED_RUNS = "the samples are not independent"
    UNLIKE_SCORES = "the scores differ in metric, split or checkpoint"


@dataclass(frozen=True)
class Comparison:
    """One test: of arm `a` against arm `b` or against what a paper prints. `star`: `a` earns the table's star."""

    role: Question
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


@dataclass(frozen=True)
class ReferenceComparison:
    """An arm against the first arm on one task. `holm_*` are adjusted over every arm and task of the table."""

    arm: str
    first: str
    column: str
    failed_difference: float | None  # share of failed runs, arm minus first
    failures: TestResult  # Boschloo, one-sided: the arm fails less often
    sd_ratio: SdRatio  # first over arm
    levene_median: TestResult
    levene_mean: TestResult
    remark: str | None
    holm_failures: float | None = None
    holm_levene: float | None = None


@dataclass(frozen=True)
class StabilityResults:
    """The cells of a table of stability and the tests between them.

    `cells` holds every (row, column) pair that has runs or was planned.
    """

    artifact: Artifact
    part: StabilityTable
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[ArmCell, ...]
    comparisons: tuple[Comparison, ...]
    footnotes: tuple[str, ...]
    deviations: Mapping[tuple[str, str], Sequence[str]]  # arm, task -> how its setting differs from the published one
    reference_comparisons: tuple[ReferenceComparison, ...] = ()  # every arm with the first, where the artefact has them

    def cell(self, row: str, column: str) -> ArmCell | None:
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def is_starred(self, cell: ArmCell) -> bool:
        return any(c.star and (c.a, c.column) == (cell.row, cell.column) for c in self.comparisons)

    def comparisons_with_published(self, cell: ArmCell) -> list[Comparison]:
        return [c for c in self.comparisons if c.published and (c.a, c.column) == (cell.row, cell.column)]


def compute_stability(part: StabilityTable, runs: "ArtifactRuns") -> StabilityResults:
    """Return the table of stability of an artefact or sweep, beside what the papers print for its settings."""
    places = [place for place, found in runs.by_place.items() if found or place in runs.planned]
    published = {place: printed for place in places if (printed := _find_published(part, runs, place))}
    deviating = {
        place: found
        for place, printed in published.items()
        if (config := runs.configs.get(place))
        and (found := describe_deviations(config, printed[0].recipe, printed[0].set))
    }
    return assemble_stability(runs.by_place, runs.artifact, part, published, deviating, runs.planned)


def _find_published(part: StabilityTable, runs: "ArtifactRuns", place: tuple[str, str]) -> tuple[PublishedValue, ...]:
    """Return what a paper prints for an arm and task: at the artefact's own place, or for the sweep's setting."""
    values, (arm, task) = load_published_values(), place
    if part.published_in:
        return find_published_in_table(values, *part.published_in, arm, task)
    config = runs.configs.get(place) or runs.plans.get(place)
    return (
        find_published_by_config(values, config, runs.recipes[arm])
        if config
        else find_published_by_name(values, arm, task)
    )


def assemble_stability(
    groups: RunsByArmTask,
    artifact: Artifact,
    part: StabilityTable,
    published: PublishedByArmTask,
    deviating: Mapping[tuple[str, str], Sequence[str]],
    planned: Mapping[tuple[str, str], int],
) -> StabilityResults:
    """Return the table of these runs, in their order.

    `published` has what a paper prints for an arm and task, `deviating` how its runs differ from the paper's setting,
    `planned` how many runs there should be.

    Raises:
        UserError: there is nothing to report, or runs of one cell are scored by different metrics, splits or
            checkpoints.
    """
    if not groups:
        raise UserError(f"report {artifact.id!r}: there are no records of its runs")
    rows = tuple(dict.fromkeys(row for row, _ in groups))
    columns = tuple(sorted(dict.fromkeys(column for _, column in groups), key=_task_order))
    cells = tuple(
        make_arm_cell(row, column, groups[row, column], planned.get((row, column)))
        for column in columns
        for row in rows
        if (row, column) in groups
    )
    comparisons = [
        comparison
        for _, column_cells in groupby(cells, key=lambda cell: cell.column)
        for comparison in compare_smallest_stds(list(column_cells), part)
    ]
    comparisons += [
        compare_with_published(cell, value) for cell in cells for value in published.get((cell.row, cell.column), ())
    ]
    footnotes = [
        *deviation_footnotes(deviating),
        *(
            note
            for cell in cells
            for note in cell_footnotes(cell, others=[c for c in cells if c.column == cell.column])
        ),
        *(note for column in columns for note in column_footnotes([c for c in cells if c.column == column])),
    ]
    references = compare_with_first_arm(cells) if part.against_first else ()
    return StabilityResults(
        artifact, part, rows, columns, cells, tuple(comparisons), tuple(footnotes), deviating, references
    )


def _task_order(name: str) -> int:
    return list(TASKS).index(name) if name in TASKS else len(TASKS)


BOOTSTRAP_SEED = 0  # of every interval anew, so that none depends on which other arms there are


def compare_with_first_arm(cells: Iterable[ArmCell]) -> tuple[ReferenceComparison, ...]:
    """Return the comparisons of each column's first cell with all others; `cells` are sorted by column."""
    pairs = [
        _compare_with_reference(arm, first)
        for _, column in groupby(cells, key=lambda cell: cell.column)
        for first, *others in [list(column)]
        for arm in others
    ]
    failures = holm([pair.failures.p for pair in pairs])
    spreads = holm([pair.levene_median.p for pair in pairs])
    return tuple(
        replace(pair, holm_failures=failure, holm_levene=spread)
        for pair, failure, spread in zip(pairs, failures, spreads, strict=True)
    )


def _compare_with_reference(arm: ArmCell, first: ArmCell) -> ReferenceComparison:
    known = [cell.summary.n - cell.failed_unknown for cell in (arm, first)]
    both = all(known) and not (arm.stopped or first.stopped)
    return ReferenceComparison(
        arm=arm.row,
        first=first.row,
        column=arm.column,
        failed_difference=arm.failed / known[0] - first.failed / known[1] if both else None,
        failures=withhold_if_stopped_early(boschloo(arm.failed, known[0], first.failed, known[1], "less"), arm, first),
        sd_ratio=withhold_if_stopped_early(
            sd_ratio(first.scores, arm.scores, np.random.default_rng(BOOTSTRAP_SEED)), arm, first
        ),
        levene_median=withhold_if_stopped_early(levene(first.scores, arm.scores, "median"), arm, first),
        levene_mean=withhold_if_stopped_early(levene(first.scores, arm.scores, "mean"), arm, first),
        remark=describe_caveats(arm, first),
    )


COMPATIBLE_ALPHA = 0.05
_ResultT = TypeVar("_ResultT", TestResult, SdRatio)


def compare_smallest_stds(cells: list[ArmCell], part: StabilityTable) -> Iterator[Comparison]:
    """Yield Levene's test of the two arms with the smallest std, by both centres (M Table 1 does not say which)."""
    yield from _test_smallest_stds(cells, part, Question.SMALLEST_STD, stars=True)
    usable = [cell for cell in cells if not cell.every_run_failed]
    useless = any(cell.every_run_failed for cell in _sort_by_std(cells)[:2])
    if useless and len(_sort_by_std(usable)) >= 2:
        yield from _test_smallest_stds(usable, part, Question.SMALLEST_USABLE_STD, stars=False)


def _sort_by_std(cells: list[ArmCell]) -> list[ArmCell]:
    return sorted((cell for cell in cells if cell.summary.std is not None), key=lambda cell: cell.summary.std or 0.0)


def _test_smallest_stds(
    cells: list[ArmCell], part: StabilityTable, role: Question, stars: bool
) -> Iterator[Comparison]:
    ranked = _sort_by_std(cells)
    if len(ranked) < 2:
        first = ranked[0] if ranked else cells[0]
        reason = f"needs two arms with a std, here {'is' if len(ranked) == 1 else 'are'} {len(ranked)}"
        for center in ("median", "mean"):
            result = TestResult(LEVENE, center, None, None, None, first.summary.n, 0, reason)
            yield Comparison(role, first.row, None, first.column, result)
        return
    a, b = ranked[:2]
    for center in ("median", "mean"):
        result = withhold_if_stopped_early(levene(a.scores, b.scores, center), a, b)
        star = stars and center == part.center and is_significant(result, part.alpha)
        yield Comparison(role, a.row, b.row, a.column, result, star, describe_caveats(a, b))


def withhold_if_stopped_early(result: _ResultT, *cells: ArmCell) -> _ResultT:
    """Return the result, or nothing but a reason where runs of a cell were ended because of their scores.

    What is left of such an arm is its better part, not a sample of it.
    """
    ended = [f"{cell.stopped} of {len(cell.run_ids)} runs of {cell.row}" for cell in cells if cell.stopped]
    if not ended:
        return result
    reason = f"{' and '.join(ended)} were stopped because of their scores, so the others are no sample of the arm"
    if isinstance(result, SdRatio):
        return replace(result, value=None, interval=replace(result.interval, low=None, high=None), reason=reason)
    return replace(result, statistic=None, p=None, reason=reason)


def is_falsely_stable(cell: ArmCell, others: Iterable[ArmCell]) -> bool:
    """Return whether every run of an arm failed, and its std could be taken for stability beside these arms.

    False if its std is the largest: nobody takes that for stability.
    """
    stds = [other.summary.std for other in others if other is not cell and other.summary.std is not None]
    largest = cell.summary.std is not None and bool(stds) and all(cell.summary.std > std for std in stds)
    return cell.every_run_failed and not largest


def find_caveats(a: ArmCell, b: ArmCell) -> Iterator[tuple[Caveat, str]]:
    """Yield what makes a test between these two cells less than it seems."""
    for cell, other in ((a, b), (b, a)):
        if is_falsely_stable(cell, [other]):
            yield (
                Caveat.EVERY_RUN_FAILED,
                f"every run of {cell.row} failed: stability of that kind is of no use (M footnote 5)",
            )
    shared = len(set(a.run_ids) & set(b.run_ids))
    if shared and a.sources == b.sources:  # an imported run may have the id of a run of ours
        yield Caveat.SHARED_RUNS, f"the arms share {shared} runs, so they are not independent samples"
    kinds = [(cell.metric, cell.split, cell.checkpoint) for cell in (a, b)]
    if kinds[0] != kinds[1] and a.metric and b.metric:
        yield (
            Caveat.UNLIKE_SCORES,
            f"unlike scores: {' / '.join(map(str, kinds[0]))} against {' / '.join(map(str, kinds[1]))}",
        )


def describe_caveats(a: ArmCell, b: ArmCell) -> str | None:
    """Return the caveats of a test between these two cells in words, or None."""
    return "; ".join(sentence for _, sentence in find_caveats(a, b)) or None


def compare_with_published(cell: ArmCell, value: PublishedValue) -> Comparison:
    """Return the differences to a printed value and Welch's test of the means, which needs a printed std."""
    ours = cell.summary
    if cell.metric and cell.metric != value.metric:
        reason = f"the published score is {value.metric}, this one {cell.metric}"
        result = TestResult(WELCH_FROM_SUMMARIES, None, "two-sided", None, None, ours.n_finite, value.n, reason)
        return Comparison(Question.AGAINST_PUBLISHED, cell.row, value.place, cell.column, result, published=value)
    theirs = {name: value.fraction(name) for name in STATISTICS}
    differences = {
        name: getattr(ours, name) - printed
        for name, printed in theirs.items()
        if printed is not None and getattr(ours, name) is not None
    }
    result = welch_from_summaries(ours.mean, ours.std, ours.n_finite, theirs["mean"], theirs["std"], value.n)
    result = withhold_if_stopped_early(result, cell)
    unlike = f"the published score is of the {value.split} split, this one of the {cell.split} split"
    return Comparison(
        role=Question.AGAINST_PUBLISHED,
        a=cell.row,
        b=value.place,
        column=cell.column,
        result=result,
        remark=unlike if cell.split and cell.split != value.split else None,
        published=value,
        differences=differences,
    )


def deviation_footnotes(deviations: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    """Yield one line for every arm, or its tasks where they differ, whose runs are not the published setting."""
    for row in dict.fromkeys(row for row, _ in deviations):
        by_task = {task: "; ".join(found) for (arm, task), found in deviations.items() if arm == row}
        for text in dict.fromkeys(text for text in by_task.values() if text):
            tasks = [task for task, other in by_task.items() if other == text]
            place = row if len(tasks) == len(by_task) else f"{row} on {', '.join(tasks)}"
            yield f"{place} is not a replication, it differs from the published setting: {text}."


def cell_footnotes(cell: ArmCell, sources: bool = True, others: Iterable[ArmCell] = ()) -> Iterator[str]:
    """Yield what is missing from, or (`sources`) foreign to, the runs of one arm, which stands beside `others`."""
    place, summary = f"{cell.row} on {cell.column}", cell.summary
    if is_falsely_stable(cell, others):
        yield f"{place}: every run failed (†); a small std among failed runs is no stability (M footnote 5)."
    elif cell.every_run_failed:
        yield f"{place}: every run failed (†)."
    if summary.n_nan:
        yield (
            f"{place}: NaN scores (diverged, or the correlation of a constant): {summary.n_nan} of {summary.n}. "
            f"They count as failed; std, mean, median, min and max are over the {summary.n_finite} others."
        )
    if cell.diverged:
        yield f"{place}: {cell.diverged} of {summary.n} ended in NaN after their best checkpoint, whose score counts."
    if cell.failed and cell.checkpoint == "best":
        yield f"{place}: whether a run failed is judged by its last checkpoint, the scores are of its best."
    if cell.fingerprints > 1:
        yield f"{place}: the runs used {cell.fingerprints} different sets of data rows."
    if cell.crashed:
        yield f"{place}: {cell.crashed} crashed, without a score, and in neither n nor failed."
    if cell.stopped:
        yield (
            f"{place}: {cell.stopped} of {len(cell.run_ids)} runs were stopped early as hopeless "
            f"({' and '.join(cell.rules)}), and are in neither n nor failed: the scores are those of the better ones."
        )
    if cell.starts:
        yield f"{place}: the runs start from {', and from '.join(cell.starts)}."
    if cell.start_weights > len(cell.starts):
        yield (
            f"{place}: the runs start from {cell.start_weights} different sets of weights: a run that they start from "
            "was trained again in between, and did not end in the same bits."
        )
    if cell.unscored:
        yield f"{place}: {cell.unscored} finished without a {cell.checkpoint} {cell.split} score and are not in n."
    if cell.failed_unknown:
        yield f"{place}: whether a run failed is not known of {cell.failed_unknown} of {summary.n}."
    if cell.planned is not None and summary.n != cell.planned:
        yield f"{place}: {summary.n} runs have a score, {cell.planned} are planned."
    yield from imported_run_footnotes([cell]) if sources else ()
    if cell.settings > 1:
        yield f"{place}: pools {cell.settings} settings (configs that differ in more than their seeds)."
    if cell.copies:
        yield f"{place}: {cell.copies} records repeat a run; the first of each counts."


def imported_run_footnotes(cells: Iterable[ArmCell]) -> Iterator[str]:
    """Yield for each place from which runs were imported how many of which arms and tasks they are."""
    places: dict[str, dict[str, None]] = {}
    for cell in cells:
        for source, n in cell.sources.items():
            line = f"{n} of {len(cell.run_ids)} runs of {cell.row} on {cell.column}"
            places.setdefault(source, {})[line] = None
    for source, lines in places.items():
        yield f"{', '.join(lines)} are not this project's runs, they were imported from {source}."


def column_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line where the arms of a column are not scored alike."""
    kinds = {
        cell.row: f"{cell.split} split, {cell.checkpoint} checkpoint, {cell.metric}" for cell in cells if cell.metric
    }
    if len(set(kinds.values())) > 1:
        each = "; ".join(f"{row}: {kind}" for row, kind in kinds.items())
        yield f"The arms of {cells[0].column} are not scored alike ({each}), so their spread is not of one quantity."
