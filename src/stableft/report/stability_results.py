"""The stability table before rendering: cells, comparisons, published values, footnotes."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

from stableft.catalog.tasks import TASKS, metric_title
from stableft.config.recipe import describe_deviations
from stableft.errors import UserError
from stableft.report.arm_cells import ArmCell, make_arm_cell
from stableft.report.artifact import Artifact, StabilityTable
from stableft.report.footnotes import cell_footnotes, deviation_footnotes, task_footnotes
from stableft.report.pair_tests import (
    ALPHA,
    PairTests,
    compare_with_reference,
    describe_caveats,
    scored_alike,
    withhold_if_stopped_early,
)
from stableft.report.paper_values import (
    NOT_A_REPLICATION,
    STATISTICS,
    PublishedValue,
    find_published_by_config,
    find_published_by_name,
    find_published_in_table,
    load_published_values,
    with_references,
)
from stableft.report.runs import RunsByArmTask
from stableft.stats import (
    LEVENE,
    WELCH_FROM_SUMMARIES,
    Interval,
    SdRatio,
    TestResult,
    is_significant,
    levene,
    sd_ratio_from_summaries,
    summarize,
    welch_from_summaries,
    welch_interval_from_summaries,
)

if TYPE_CHECKING:
    from stableft.report.runs import ArtifactRuns


PublishedByArmTask = Mapping[tuple[str, str], Sequence[PublishedValue]]  # arm, task ->


class Question(StrEnum):
    """What a test of a stability table compares, as text for reports."""

    SMALLEST_STD = "smallest std against second smallest"
    SMALLEST_USABLE_STD = "smallest std against second smallest, arms of which most runs failed left out"
    AGAINST_PUBLISHED = "mean against the published mean"


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
    mean_interval: Interval | None = None  # of the difference of the means
    sd_ratio: SdRatio | None = None  # published over ours
    own_checkpoint: str | None = None  # the one of our scores that are compared, if the table shows those of another

    @property
    def compatible(self) -> bool | None:
        """Whether the test does not reject equal means at ALPHA. None without a p-value."""
        return None if self.result.p is None else self.result.p >= ALPHA


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
    pairs: tuple[PairTests, ...] = ()  # of arms against the reference arm, if `part.compared` and no rule decides them

    def cell(self, arm: str, task: str) -> ArmCell | None:
        return next((cell for cell in self.cells if (cell.arm, cell.task) == (arm, task)), None)

    def cells_of(self, task: str) -> list[ArmCell]:
        return [cell for cell in self.cells if cell.task == task]

    def pairs_of(self, task: str) -> list[PairTests]:
        return [pair for pair in self.pairs if pair.arm.task == task]

    def is_starred(self, cell: ArmCell) -> bool:
        return any(c.star and (c.arm, c.task) == (cell.arm, cell.task) for c in self.comparisons)

    def comparisons_with_published(self, cell: ArmCell) -> list[Comparison]:
        return [c for c in self.comparisons if c.published and (c.arm, c.task) == (cell.arm, cell.task)]


def compute_stability(part: StabilityTable, runs: "ArtifactRuns") -> StabilityResults:
    """Return the stability table of an artefact or sweep, with the published values for its settings."""
    replaced = {(arm.arm, task) for (_, task), arm in runs.imported.items()}  # with runs of this project or without
    groups = {arm_task: rows for arm_task, rows in runs.by_arm_task.items() if rows or arm_task not in replaced}
    arm_tasks = [arm_task for arm_task, arm_runs in groups.items() if arm_runs or arm_task in runs.planned]
    published = {arm_task: printed for arm_task in arm_tasks if (printed := _find_published(part, runs, arm_task))}
    deviating = {
        arm_task: difference
        for arm_task, printed in published.items()
        if (config := runs.first_configs.get(arm_task))
        and (difference := describe_deviations(config, printed[0].recipe, printed[0].set))
    }
    return assemble_stability(groups, runs.artifact, part, published, deviating, runs.planned, runs.in_claims)


def _find_published(
    part: StabilityTable, runs: "ArtifactRuns", arm_task: tuple[str, str]
) -> tuple[PublishedValue, ...]:
    """Return the published values for an arm and task.

    They are those of the table that the artefact names. Without one, they are found by the runs' config, or by the
    arm's name if no config is known.
    """
    values, (arm, task) = load_published_values(), arm_task
    if imported := runs.imported.get(arm_task):
        arm = imported.arm
    if part.published_in:
        return with_references(find_published_in_table(values, *part.published_in, arm, task))
    if arm_task in runs.commands:
        return ()
    config = runs.first_configs.get(arm_task) or runs.planned_configs.get((arm, task))
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
    in_claims: Container[tuple[str, str]] = (),
) -> StabilityResults:
    """Return the stability table of these runs, with the arms in their order.

    `published`, `deviations` (from the published setting) and `planned` (number of runs) are by (arm, task), as are
    those `in_claims`: what decides how many runs they have tests them too, and tests that ignore its looks would not
    keep their error.

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
        for comparison in ([] if part.compared else compare_smallest_stds(list(task_cells), part))
    ]
    comparisons += [
        compare_with_published(cell, value, not deviations.get((cell.arm, cell.task)))
        for cell in cells
        for value in published.get((cell.arm, cell.task), ())
    ]
    footnotes = [
        *deviation_footnotes(deviations),
        *cell_footnotes(cells),
        *(note for task in tasks for note in task_footnotes([c for c in cells if c.task == task])),
    ]
    found = _pair_with_reference(cells, part.against) if part.compared else []
    pairs = compare_with_reference(
        [pair for pair in found if not any((cell.arm, cell.task) in in_claims for cell in pair)]
    )
    return StabilityResults(artifact, part, arms, tasks, cells, tuple(comparisons), tuple(footnotes), deviations, pairs)


def _pair_with_reference(cells: Sequence[ArmCell], against: str | None) -> list[tuple[ArmCell, ArmCell]]:
    """Return (arm, reference) pairs: every other arm of a task with the arm `against` (None: the task's first)."""
    pairs: list[tuple[ArmCell, ArmCell]] = []
    for _, same_task in groupby(cells, key=lambda cell: cell.task):
        task_cells = list(same_task)
        reference = next((cell for cell in task_cells if cell.arm == against), None if against else task_cells[0])
        pairs += [(cell, reference) for cell in task_cells if reference and cell is not reference]
    return pairs


def _task_order(name: str) -> int:
    return list(TASKS).index(name) if name in TASKS else len(TASKS)


def compare_smallest_stds(cells: list[ArmCell], part: StabilityTable) -> Iterator[Comparison]:
    """Yield Levene's test of the two arms with the smallest std.

    Both centres are tested because M Table 1 does not say which one it uses.
    """
    yield from _test_smallest_stds(cells, part, Question.SMALLEST_STD, may_star=True)
    usable = [cell for cell in cells if not cell.mostly_failed]
    any_failed = any(cell.mostly_failed for cell in _sort_by_std(cells)[:2])
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
        star = may_star and center == part.center and scored_alike(a, b) and is_significant(result, part.alpha)
        yield Comparison(role, a.arm, b.arm, a.task, result, star, describe_caveats(a, b))


def compare_with_published(cell: ArmCell, value: PublishedValue, is_replication: bool = True) -> Comparison:
    """Return the differences from a published value and Welch's test of the means, which needs a published std.

    Only scores of a replication, of the same metric and checkpoint, are compared. A value with `own_checkpoint` is set
    beside our scores of its checkpoint, if every run has one.
    """
    scores = cell.scores_at.get(value.checkpoint, ())
    apart = value.own_checkpoint and len(scores) == cell.summary.n
    ours = summarize(scores) if apart else cell.summary
    checkpoint = value.checkpoint if apart else cell.checkpoint
    own_checkpoint = checkpoint if cell.checkpoint and cell.checkpoint != checkpoint else None
    reason = None
    if value.another_party:
        reason = "another party's runs, in another setting: for reference only"
    elif not is_replication:
        reason = NOT_A_REPLICATION
    elif cell.metric and cell.metric != value.metric:
        reason = f"the metrics differ: published {metric_title(value.metric)}, ours {metric_title(cell.metric)}"
    elif cell.checkpoint and checkpoint != value.checkpoint:
        reason = f"the published score is of the {value.checkpoint} checkpoint, ours of the {checkpoint} checkpoint"
    if reason:
        result = TestResult(WELCH_FROM_SUMMARIES, None, "two-sided", None, None, ours.n_finite, value.n, reason)
        return Comparison(
            Question.AGAINST_PUBLISHED,
            cell.arm,
            value.place,
            cell.task,
            result,
            published=value,
            own_checkpoint=own_checkpoint if is_replication else None,
        )
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
    interval = welch_interval_from_summaries(
        ours.mean, ours.std, ours.n_finite, printed_values["mean"], printed_values["std"], value.n
    )
    ratio = sd_ratio_from_summaries(printed_values["std"], value.n, ours.std, ours.n_finite)
    remarks = []
    if cell.split and cell.split != value.split:
        remarks.append(f"the published score is of the {value.split} split, ours of the {cell.split} split")
    if own_checkpoint:
        remarks.append(
            f"the difference is that of our {own_checkpoint} checkpoint, the table has our {cell.checkpoint} one"
        )
    return Comparison(
        role=Question.AGAINST_PUBLISHED,
        arm=cell.arm,
        against=value.place,
        task=cell.task,
        result=result,
        remark="; ".join(remarks) or None,
        published=value,
        differences=differences,
        mean_interval=withhold_if_stopped_early(interval, cell),
        sd_ratio=withhold_if_stopped_early(ratio, cell),
        own_checkpoint=own_checkpoint,
    )
