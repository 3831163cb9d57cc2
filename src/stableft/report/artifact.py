"""Artefacts: each table or figure of a paper, or a user's sweep, as a row of data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

ReportedCheckpoint = Literal["recipe", "last", "best"]
BoldRule = Literal["best", "better", "different", "pair"]


@dataclass(frozen=True)
class RunGroup:
    """Runs that are shown as one, such as a box, a curve or a cell: those of an arm of the sweeps on a task.

    An `arm` that ends in * is a search, of which the setting with the best mean validation score is shown.
    """

    label: str
    arm: str
    task: str


@dataclass(frozen=True)
class Boxes:
    """The scores of each group as a box, and every run as a point. `of`: test is the reported score."""

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["test", "val"] = "test"


@dataclass(frozen=True)
class Curves:
    """What each group's runs have at every evaluation: mean with range or standard deviation, or every run.

    `only` picks failed or successful runs, the first so many by seed.
    """

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["train_loss", "val"]
    band: Literal["range", "std", "runs"]
    only: Literal["failed", "successful"] | None = None
    first: int | None = None


@dataclass(frozen=True)
class Lengths:
    """Validation score (mean and range) over the number of training steps: a line of (steps, group) for each label."""

    title: str
    lines: tuple[tuple[str, tuple[tuple[int, RunGroup], ...]], ...]


@dataclass(frozen=True)
class Trials:
    """Expected performance of the best of so many random trials, with its standard deviation (Z sec. 4)."""

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["test", "val"]


@dataclass(frozen=True)
class Scatter:
    """The reported score of every run over its last training loss."""

    title: str
    groups: tuple[RunGroup, ...]


@dataclass(frozen=True)
class SeedMap:
    """Validation scores by the seed of initialisation and that of data order (Z App. B), or their deviations."""

    title: str
    group: RunGroup
    of: Literal["scores", "std"]


@dataclass(frozen=True)
class BiasRatio:
    """How much larger Adam's update is without bias correction, or the inverse, over the steps of these runs."""

    title: str
    inverse: bool
    groups: tuple[RunGroup, ...] = ()  # whose number of steps is marked


@dataclass(frozen=True)
class Gradients:
    """Gradient norms over the steps of a failed run beside those of a successful one (M Figs. 4, 10-12).

    Each is the first by seed that has any, of the first group that has one. `of` is layers, each over all of its
    parameters and in one panel, or the weight matrices of layers, a panel for each.
    """

    title: str
    failed: tuple[RunGroup, ...]
    successful: tuple[RunGroup, ...]
    of: Literal["layers", "matrices"]


@dataclass(frozen=True)
class Drifts:
    """L2 distance of blocks to their initial weights: a panel for each, in it mean and range of groups (Z Fig. 7).

    `blocks` are numbered from 1, the lowest; empty: every one.
    """

    title: str
    groups: tuple[RunGroup, ...]
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Perplexities:
    """Language-modelling perplexity with the top k blocks reset, of failed or successful runs (M Fig. 2a, b).

    They are the first so many by seed that have any, of the first group, then of the next.
    """

    title: str
    groups: tuple[RunGroup, ...]
    only: Literal["failed", "successful"]
    first: int | None = None


@dataclass(frozen=True)
class Surfaces:
    """Loss or gradient norm around a pre-trained model, a failed and a successful run (M Figs. 7, 13).

    `first`: that of the first failed and the first successful run by seed, else a panel for each.
    """

    title: str
    failed: tuple[RunGroup, ...]
    successful: tuple[RunGroup, ...]
    of: Literal["loss", "grad_norm"]
    first: bool = True


@dataclass(frozen=True)
class VerdictCurves:
    """Training losses or validation scores of one arm on one task, failed and successful runs in colours of their own.

    `band`: every run as a thin line and their mean as a bold one, or the mean with its standard deviation (M Fig. 14).
    """

    title: str
    group: RunGroup
    of: Literal["train_loss", "val"]
    band: Literal["std", "runs"]


@dataclass(frozen=True)
class StabilityTable:
    """Standard deviation and other statistics of every arm on every task, with the tests of stability.

    The arm with the smallest std earns the star if it passes Levene's test around `center` at `alpha` against the
    second smallest (M Table 1). `against_first`: also every arm against the first, and the failed runs' losses.
    `published_in`: paper and table, such as "Table 1"; None: wherever a setting is published.
    """

    statistics: tuple[Literal["std", "mean", "median", "min", "max"], ...] = ("std", "mean", "median", "min", "max")
    center: Literal["median", "mean"] = "median"
    alpha: float = 0.001
    against_first: bool = False
    published_in: tuple[str, str] | None = None


@dataclass(frozen=True)
class MeanCell:
    """One number of a table of means. Cells of one `family` are compared with each other."""

    row: str
    column: str
    family: str
    group: RunGroup
    of: Literal["test", "val"] = "test"


@dataclass(frozen=True)
class MeansTable:
    """Mean and standard deviation of each cell, and what the paper prints at `location`.

    `rule` is the paper's for what it sets in bold: the `best` of a family and those equal to it (Z Table 1); those
    `better` than the family's first (Z Table 2); whether the two of a family are `different` (Z Table 4); the better
    of a `pair` (Z Table 7).
    """

    title: str
    cells: tuple[MeanCell, ...]
    rule: BoldRule
    location: tuple[str, str] | None = None  # paper, table
    named: bool = True  # whether the paper names the test
    families: str = "a task's arms"  # in words


@dataclass(frozen=True)
class DatasetsTable:
    """The paper's table of its data sets."""

    paper: Literal["M", "Z"]


@dataclass(frozen=True)
class HyperparametersTable:
    """The paper's table of its hyper-parameters."""

    paper: Literal["M", "Z"]


ProbePart = Gradients | Drifts | Perplexities | Surfaces
RunPart = Boxes | Curves | VerdictCurves | Lengths | Trials | Scatter | SeedMap
TablePart = StabilityTable | MeansTable | DatasetsTable | HyperparametersTable
FigurePart = RunPart | ProbePart | BiasRatio
ArtifactPart = TablePart | FigurePart


def groups_of(part: ArtifactPart) -> Iterator[RunGroup]:
    """Yield the groups of runs that a part shows."""
    match part:
        case Boxes() | Curves() | Trials() | Scatter() | Drifts() | Perplexities():
            yield from part.groups
        case Gradients() | Surfaces():
            yield from dict.fromkeys((*part.failed, *part.successful))
        case SeedMap() | VerdictCurves():
            yield part.group
        case Lengths():
            yield from (group for _, points in part.lines for _, group in points)
        case MeansTable():
            yield from (cell.group for cell in part.cells)


@dataclass(frozen=True)
class Artifact:
    """A table or figure, or the report of a sweep: what it shows of the runs of which sweeps."""

    id: str
    title: str
    sweeps: tuple[str, ...]  # paths below configs/
    parts: tuple[ArtifactPart, ...]
    notes: tuple[str, ...] = ()

    @property
    def has_no_runs(self) -> bool:
        """Whether all of it is a formula, or comes from recipes or data sets."""
        return all(isinstance(part, BiasRatio | DatasetsTable | HyperparametersTable) for part in self.parts)

    def includes(self, arm: str, task: str) -> bool:
        """Whether it shows runs of an arm on a task; an artifact without run groups shows all of its sweeps' runs."""
        groups = [group for part in self.parts for group in groups_of(part)]
        if not groups:
            return True
        return any(
            group.task == task
            and (group.arm == arm or (group.arm.endswith("*") and _belongs_to_search(arm, group.arm[:-1])))
            for group in groups
        )

    @property
    def shows_only_probes(self) -> bool:
        """Whether all of it is made of what probes record."""
        return all(isinstance(part, ProbePart) for part in self.parts)


def _belongs_to_search(arm: str, search: str) -> bool:
    return arm == search or arm.startswith(f"{search} ")


def make_sweep_artifact(name: str, sweep: str) -> Artifact:
    """Return the table of any sweep: every arm, all statistics, M's rule for the star, each arm against the first."""
    title = f"Fine-tuning stability over seeds: {name}"
    return Artifact(name, title, (sweep,), (StabilityTable(against_first=True),))


def make_means_artifact(name: str, sweep: str, rule: BoldRule, cells: Iterable[tuple[str, str]]) -> Artifact:
    """Return a table of means of any sweep: arms down, tasks across, those of a task compared by one of Z's rules."""
    places = tuple(MeanCell(arm, task, task, RunGroup(arm, arm, task)) for arm, task in cells)
    title = f"Mean performance over seeds: {name}"
    return Artifact(id=name, title=title, sweeps=(sweep,), parts=(MeansTable("", places, rule),))
