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
    with_references,
)
from stableft.report.runs import ArmCell, RunsByArmTask, hub_drift_note, make_arm_cell
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
    summarize,
    welch_from_summaries,
)

if TYPE_CHECKING:
    from stableft.report.runs import ArtifactRuns


PublishedByArmTask = Mapping[tuple[str, str], Sequence[PublishedValue]]  # arm, task ->


class Question(StrEnum):
    """What a test of a stability table compares, as text for reports."""

    SMALLEST_STD = "smallest std against second smallest"
    SMALLEST_USABLE_STD = "smallest std against second smallest, arms in which every run failed left out"
    AGAINST_PUBLISHED = "mean against the published mean"


class Caveat(Enum):
    """Reason for which a test has to be read with care."""

    EVERY_RUN_FAILED = "a small spread among failed runs is not stability"
    SHARED_RUNS = "the samples are not independent"
    UNLIKE_SCORES = "the scores differ in metric, split or checkpoint"


@dataclass(frozen=True)
class Comparison:
    """One test of `arm` against another arm or a published value. `star`: whether `arm` gets the table's star."""

    role: Question
    arm: str
    against: str | None
    task: str
    result: TestResult
    star: bool = False
    remark: str | None = None
    published: PublishedValue | None = None
    differences: Mapping[str, float] = field(default_factory=dict)  # statistic -> ours minus published, fractions

    @property
    def compatible(self) -> bool | None:
        """Whether the test does not reject equal means at COMPATIBLE_ALPHA. None without a p-value."""
        return None if self.result.p is None else self.result.p >= COMPATIBLE_ALPHA


@dataclass(frozen=True)
class ReferenceComparison:
    """An arm against the first arm on one task. `holm_*`: p-values adjusted over all arms and tasks of the table."""

    arm: str
    first: str
    task: str
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
    """The cells of a stability table and the tests between them.

    `cells` holds every pair of arm and task that has runs or was planned.
    """

    artifact: Artifact
    part: StabilityTable
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    cells: tuple[ArmCell, ...]
    comparisons: tuple[Comparison, ...]
    footnotes: tuple[str, ...]
    deviations: Mapping[tuple[str, str], Sequence[str]]  # (arm, task) -> differences from the published setting
    reference_comparisons: tuple[ReferenceComparison, ...] = ()  # empty unless `part.against_first`

    def cell(self, arm: str, task: str) -> ArmCell | None:
        return next((cell for cell in self.cells if (cell.arm, cell.task) == (arm, task)), None)

    def is_starred(self, cell: ArmCell) -> bool:
        return any(c.star and (c.arm, c.task) == (cell.arm, cell.task) for c in self.comparisons)

    def comparisons_with_published(self, cell: ArmCell) -> list[Comparison]:
        return [c for c in self.comparisons if c.published and (c.arm, c.task) == (cell.arm, cell.task)]


def compute_stability(part: StabilityTable, runs: "ArtifactRuns") -> StabilityResults:
    """Return the stability table of an artefact or sweep, with the published values for its settings."""
    arm_tasks = [arm_task for arm_task, arm_runs in runs.by_arm_task.items() if arm_runs or arm_task in runs.planned]
    published = {arm_task: printed for arm_task in arm_tasks if (printed := _find_published(part, runs, arm_task))}
    deviating = {
        arm_task: difference
        for arm_task, printed in published.items()
        if (config := runs.first_configs.get(arm_task))
        and (difference := describe_deviations(config, printed[0].recipe, printed[0].set))
    }
    return assemble_stability(runs.by_arm_task, runs.artifact, part, published, deviating, runs.planned)


def _find_published(
    part: StabilityTable, runs: "ArtifactRuns", arm_task: tuple[str, str]
) -> tuple[PublishedValue, ...]:
    """Return the published values for an arm and task.

    They are those of the table that the artefact names. Without one, they are found by the runs' config, or by the
    arm's name if no config is known.
    """
    values, (arm, task) = load_published_values(), arm_task
    if part.published_in:
        return with_references(find_published_in_table(values, *part.published_in, arm, task))
    config = runs.first_configs.get(arm_task) or runs.planned_configs.get(arm_task)
    return with_references(
        find_published_by_config(values, config, runs.recipes[arm])
        if config
        else find_published_by_name(values, arm, task)
    )


def assemble_stability(
    groups: RunsByArmTask,
    artifact: Artifact,
    part: StabilityTable,
    published: PublishedByArmTask,
    deviations: Mapping[tuple[str, str], Sequence[str]],
    planned: Mapping[tuple[str, str], int],
) -> StabilityResults:
    """Return the stability table of these runs, with the arms in their order.

    `published`, `deviations` (from the published setting) and `planned` (number of runs) are by (arm, task).

    Raises:
        UserError: There are no records, or the runs of one cell differ in metric, split or checkpoint.
    """
    if not groups:
        raise UserError(f"report {artifact.id!r}: there are no records of its runs")
    arms = tuple(dict.fromkeys(arm for arm, _ in groups))
    tasks = tuple(sorted(dict.fromkeys(task for _, task in groups), key=_task_order))
    cells = tuple(
        make_arm_cell(arm, task, groups[arm, task], planned.get((arm, task)))
        for task in tasks
        for arm in arms
        if (arm, task) in groups
    )
    comparisons = [
        comparison
        for _, task_cells in groupby(cells, key=lambda cell: cell.task)
        for comparison in compare_smallest_stds(list(task_cells), part)
    ]
    comparisons += [
        compare_with_published(cell, value) for cell in cells for value in published.get((cell.arm, cell.task), ())
    ]
    footnotes = [
        *deviation_footnotes(deviations),
        *(note for cell in cells for note in cell_footnotes(cell, others=[c for c in cells if c.task == cell.task])),
        *(note for task in tasks for note in task_footnotes([c for c in cells if c.task == task])),
    ]
    reference_comparisons = compare_with_first_arm(cells) if part.against_first else ()
    return StabilityResults(
        artifact, part, arms, tasks, cells, tuple(comparisons), tuple(footnotes), deviations, reference_comparisons
    )


def _task_order(name: str) -> int:
    return list(TASKS).index(name) if name in TASKS else len(TASKS)


BOOTSTRAP_SEED = 0  # every interval starts from this seed, so none depends on the other arms of a table


def compare_with_first_arm(cells: Iterable[ArmCell]) -> tuple[ReferenceComparison, ...]:
    """Return the comparisons of all other arms with the first arm of each task. `cells` are sorted by task."""
    pairs = [
        _compare_with_reference(arm, first)
        for _, task_cells in groupby(cells, key=lambda cell: cell.task)
        for first, *others in [list(task_cells)]
        for arm in others
    ]
    failures = holm([pair.failures.p for pair in pairs])
    spreads = holm([pair.levene_median.p for pair in pairs])
    return tuple(
        replace(pair, holm_failures=failure, holm_levene=spread)
        for pair, failure, spread in zip(pairs, failures, spreads, strict=True)
    )


def _compare_with_reference(arm: ArmCell, first: ArmCell) -> ReferenceComparison:
    n_known = [cell.summary.n - cell.failed_unknown for cell in (arm, first)]
    comparable = all(n_known) and not (arm.stopped or first.stopped)
    return ReferenceComparison(
        arm=arm.arm,
        first=first.arm,
        task=arm.task,
        failed_difference=arm.failed / n_known[0] - first.failed / n_known[1] if comparable else None,
        failures=withhold_if_stopped_early(
            boschloo(arm.failed, n_known[0], first.failed, n_known[1], "less"), arm, first
        ),
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
    """Yield Levene's test of the two arms with the smallest std.

    Both centres are tested because M Table 1 does not say which one it uses.
    """
    yield from _test_smallest_stds(cells, part, Question.SMALLEST_STD, may_star=True)
    usable = [cell for cell in cells if not cell.every_run_failed]
    any_failed = any(cell.every_run_failed for cell in _sort_by_std(cells)[:2])
    if any_failed and len(_sort_by_std(usable)) >= 2:
        yield from _test_smallest_stds(usable, part, Question.SMALLEST_USABLE_STD, may_star=False)


def _sort_by_std(cells: list[ArmCell]) -> list[ArmCell]:
    return sorted((cell for cell in cells if cell.summary.std is not None), key=lambda cell: cell.summary.std or 0.0)


def _test_smallest_stds(
    cells: list[ArmCell], part: StabilityTable, role: Question, may_star: bool
) -> Iterator[Comparison]:
    ranked = _sort_by_std(cells)
    if len(ranked) < 2:
        first = ranked[0] if ranked else cells[0]
        reason = f"needs two arms with a std, here {'is' if len(ranked) == 1 else 'are'} {len(ranked)}"
        for center in ("median", "mean"):
            result = TestResult(LEVENE, center, None, None, None, first.summary.n, 0, reason)
            yield Comparison(role, first.arm, None, first.task, result)
        return
    a, b = ranked[:2]
    for center in ("median", "mean"):
        result = withhold_if_stopped_early(levene(a.scores, b.scores, center), a, b)
        alike = not any(caveat is Caveat.UNLIKE_SCORES for caveat, _ in find_caveats(a, b))
        star = may_star and alike and center == part.center and is_significant(result, part.alpha)
        yield Comparison(role, a.arm, b.arm, a.task, result, star, describe_caveats(a, b))


def withhold_if_stopped_early(result: _ResultT, *cells: ArmCell) -> _ResultT:
    """Return the result, or only a reason if runs of a cell were early-stopped because of their scores.

    The remaining runs of such an arm are its better ones, not a sample of it.
    """
    stopped_runs = [f"{cell.stopped} of {len(cell.run_ids)} runs of {cell.arm}" for cell in cells if cell.stopped]
    if not stopped_runs:
        return result
    reason = (
        f"{' and '.join(stopped_runs)} were stopped because of their scores, so the others are no sample of the arm"
    )
    if isinstance(result, SdRatio):
        return replace(result, value=None, interval=replace(result.interval, low=None, high=None), reason=reason)
    return replace(result, statistic=None, p=None, reason=reason)


def is_falsely_stable(cell: ArmCell, others: Iterable[ArmCell]) -> bool:
    """Return whether every run of an arm failed but its std could pass for stability beside `others`.

    False if its std is the largest.
    """
    stds = [other.summary.std for other in others if other is not cell and other.summary.std is not None]
    largest = cell.summary.std is not None and bool(stds) and all(cell.summary.std > std for std in stds)
    return cell.every_run_failed and not largest


def find_caveats(a: ArmCell, b: ArmCell) -> Iterator[tuple[Caveat, str]]:
    """Yield the caveats of a test between two cells, each with its sentence."""
    for cell, other in ((a, b), (b, a)):
        if is_falsely_stable(cell, [other]):
            yield (
                Caveat.EVERY_RUN_FAILED,
                f"every run of {cell.arm} failed: stability of that kind is of no use (M footnote 5)",
            )
    shared = len(set(a.run_ids) & set(b.run_ids))
    if shared and a.sources == b.sources:  # an imported run may have the same id as one of ours
        yield Caveat.SHARED_RUNS, f"the arms share {shared} runs, so they are not independent samples"
    score_kinds = [(cell.metric, cell.split, cell.checkpoint) for cell in (a, b)]
    if score_kinds[0] != score_kinds[1] and a.metric and b.metric:
        yield (
            Caveat.UNLIKE_SCORES,
            f"unlike scores: {' / '.join(map(str, score_kinds[0]))} against {' / '.join(map(str, score_kinds[1]))}",
        )


def describe_caveats(a: ArmCell, b: ArmCell) -> str | None:
    """Return the sentences on the caveats of a test between two cells, or None."""
    return "; ".join(sentence for _, sentence in find_caveats(a, b)) or None


def compare_with_published(cell: ArmCell, value: PublishedValue) -> Comparison:
    """Return the differences from a published value and Welch's test of the means, which needs a published std.

    Only scores of the same metric and checkpoint are compared. A value with `own_checkpoint` is set beside our scores
    of its checkpoint, if every run has one.
    """
    scores = cell.scores_at.get(value.checkpoint, ())
    apart = value.own_checkpoint and len(scores) == cell.summary.n
    ours = summarize(scores) if apart else cell.summary
    checkpoint = value.checkpoint if apart else cell.checkpoint
    reason = None
    if value.another_party:
        reason = "another party's runs, in another setting: for reference only"
    elif cell.metric and cell.metric != value.metric:
        reason = f"the published score is {value.metric}, this one {cell.metric}"
    elif cell.checkpoint and checkpoint != value.checkpoint:
        reason = f"the published score is of the {value.checkpoint} checkpoint, this one of the {checkpoint} checkpoint"
    if reason:
        result = TestResult(WELCH_FROM_SUMMARIES, None, "two-sided", None, None, ours.n_finite, value.n, reason)
        return Comparison(Question.AGAINST_PUBLISHED, cell.arm, value.place, cell.task, result, published=value)
    printed_values = {name: value.fraction(name) for name in STATISTICS}
    differences = {
        name: getattr(ours, name) - printed
        for name, printed in printed_values.items()
        if printed is not None and getattr(ours, name) is not None
    }
    result = welch_from_summaries(
        ours.mean, ours.std, ours.n_finite, printed_values["mean"], printed_values["std"], value.n
    )
    result = withhold_if_stopped_early(result, cell)
    remarks = []
    if cell.split and cell.split != value.split:
        remarks.append(f"the published score is of the {value.split} split, this one of the {cell.split} split")
    if cell.checkpoint and checkpoint != cell.checkpoint:
        remarks.append(f"our {checkpoint} checkpoint is compared, the table shows the {cell.checkpoint} one")
    return Comparison(
        role=Question.AGAINST_PUBLISHED,
        arm=cell.arm,
        against=value.place,
        task=cell.task,
        result=result,
        remark="; ".join(remarks) or None,
        published=value,
        differences=differences,
    )


def deviation_footnotes(deviations: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    """Yield a line for each arm whose runs differ from the published setting, or for its tasks if they disagree."""
    for arm in dict.fromkeys(arm for arm, _ in deviations):
        by_task = {task: "; ".join(differences) for (arm, task), differences in deviations.items() if arm == arm}
        for text in dict.fromkeys(text for text in by_task.values() if text):
            tasks = [task for task, other in by_task.items() if other == text]
            place = arm if len(tasks) == len(by_task) else f"{arm} on {', '.join(tasks)}"
            yield f"{place} is not a replication, it differs from the published setting: {text}."


def cell_footnotes(cell: ArmCell, sources: bool = True, others: Iterable[ArmCell] = ()) -> Iterator[str]:
    """Yield footnotes on the runs of one arm on one task: failed, missing, pooled and repeated ones.

    `sources` adds where imported runs came from. `others` are the cells that are shown beside this one.
    """
    where, summary = f"{cell.arm} on {cell.task}", cell.summary
    if is_falsely_stable(cell, others):
        yield f"{where}: every run failed (†); a small std among failed runs is no stability (M footnote 5)."
    elif cell.every_run_failed:
        yield f"{where}: every run failed (†)."
    if summary.n_nan:
        yield (
            f"{where}: NaN scores (diverged, or the correlation of a constant): {summary.n_nan} of {summary.n}. "
            f"They count as failed; std, mean, median, min and max are over the {summary.n_finite} others."
        )
    if cell.diverged:
        yield f"{where}: {cell.diverged} of {summary.n} ended in NaN after their best checkpoint, whose score counts."
    if cell.failed and cell.checkpoint == "best":
        yield f"{where}: whether a run failed is judged by its last checkpoint, the scores are of its best."
    if cell.fingerprints > 1:
        yield f"{where}: the runs used {cell.fingerprints} different sets of data rows."
    if cell.crashed:
        yield f"{where}: {cell.crashed} crashed, without a score, and in neither n nor failed."
    if cell.stopped:
        yield (
            f"{where}: {cell.stopped} of {len(cell.run_ids)} runs were stopped early as hopeless "
            f"({' and '.join(cell.rules)}), and are in neither n nor failed: the scores are those of the better ones."
        )
    if cell.starts:
        yield f"{where}: the runs start from {', and from '.join(cell.starts)}."
    if cell.start_weights > len(cell.starts):
        yield (
            f"{where}: the runs start from {cell.start_weights} different sets of weights: a run that they start from "
            "was trained again in between, and did not end in the same bits."
        )
    if cell.unscored:
        yield f"{where}: {cell.unscored} finished without a {cell.checkpoint} {cell.split} score and are not in n."
    if cell.failed_unknown:
        yield f"{where}: whether a run failed is not known of {cell.failed_unknown} of {summary.n}."
    if cell.planned is not None and summary.n != cell.planned:
        yield f"{where}: {summary.n} runs have a score, {cell.planned} are planned."
    yield from imported_run_footnotes([cell]) if sources else ()
    if cell.settings > 1:
        yield f"{where}: pools {cell.settings} settings (configs that differ in more than their seeds)."
    if note := hub_drift_note(cell):
        yield note
    if cell.copies:
        yield f"{where}: {cell.copies} records repeat a run; the first of each counts."


def imported_run_footnotes(cells: Iterable[ArmCell]) -> Iterator[str]:
    """Yield a line for each source of imported runs, with the numbers of its runs by arm and task."""
    counts_by_source: dict[str, dict[str, None]] = {}
    for cell in cells:
        for source, n in cell.sources.items():
            count_text = f"{n} of {len(cell.run_ids)} runs of {cell.arm} on {cell.task}"
            counts_by_source.setdefault(source, {})[count_text] = None
    for source, count_texts in counts_by_source.items():
        yield f"{', '.join(count_texts)} are not this project's runs, they were imported from {source}."


def task_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line if the arms on a task are not scored alike, or differ in the commit of one hub model."""
    score_kinds = {
        cell.arm: f"{cell.split} split, {cell.checkpoint} checkpoint, {cell.metric}" for cell in cells if cell.metric
    }
    if len(set(score_kinds.values())) > 1:
        listed = "; ".join(f"{arm}: {kind}" for arm, kind in score_kinds.items())
        yield f"The arms of {cells[0].task} are not scored alike ({listed}), so their spread is not of one quantity."
    if not any(map(hub_drift_note, cells)) and (note := hub_drift_note(*cells)):
        yield note
