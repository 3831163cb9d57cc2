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
RunPart = Boxes | Curves | Lengths | Trials | Scatter | SeedMap
ArtifactPart = RunPart | ProbePart | BiasRatio | MeansTable | DatasetsTable | HyperparametersTable


def groups_of(part: ArtifactPart) -> Iterator[RunGroup]:
    """Yields the groups of runs that a part shows."""
    match part:
        case Boxes() | Curves() | Trials() | Scatter() | Drifts() | Perplexities():
            yield from part.groups
        case Gradients() | Surfaces():
            yield from dict.fromkeys((*part.failed, *part.successful))
        case SeedMap():
            yield part.group
        case Lengths():
            yield from (group for _, points in part.lines for _, group in points)
        case MeansTable():
            yield from (cell.group for cell in part.cells)


@dataclass(frozen=True)
class Artifact:
    """What is shown of which sweeps. Without parts it is a table of stability, which the last five fields are about.

    `row` and `column` are fields of the frame that `frame.frame` returns.
    """

    id: str
    title: str
    sweeps: tuple[str, ...]  # paths below configs/
    parts: tuple[ArtifactPart, ...] = ()
    notes: tuple[str, ...] = ()
    row: str = "arm"
    column: str = "task"
    statistics: tuple[Literal["std", "mean", "median", "min", "max"], ...] = ("std", "mean", "median", "min", "max")
    center: Literal["median", "mean"] = "median"  # of the Levene's test that decides the star
    alpha: float = 0.001
    against_first: bool = False  # also every arm against the first one, and what failed runs' training losses say
    printed_at: tuple[str, str] | None = None  # paper and table, such as "Table 1"; None: wherever a setting is printed

    @property
    def needs_no_run(self) -> bool:
        """Whether all of it is a formula, or comes from recipes or data sets."""
        return bool(self.parts) and all(
            isinstance(part, BiasRatio | DatasetsTable | HyperparametersTable) for part in self.parts
        )

    def shows(self, arm: str, task: str) -> bool:
        """Whether runs of an arm on a task are part of it; where it is not said which are, all of its sweeps' are."""
        groups = [group for part in self.parts for group in groups_of(part)]
        if not groups:
            return True
        return any(
            group.task == task
            and (group.arm == arm or (group.arm.endswith("*") and _belongs_to_search(arm, group.arm[:-1])))
            for group in groups
        )

    @property
    def needs_probes(self) -> bool:
        """Whether all of it is made of what probes record."""
        return bool(self.parts) and all(isinstance(part, ProbePart) for part in self.parts)


def _belongs_to_search(arm: str, search: str) -> bool:
    return arm == search or arm.startswith(f"{search} ")


def make_sweep_artifact(name: str, sweep: str) -> Artifact:
    """Returns the table of any sweep: every arm, all statistics, M's rule for the star, each arm against the first."""
    title = f"Fine-tuning stability over seeds: {name}"
    return Artifact(id=name, title=title, sweeps=(sweep,), against_first=True)


def make_means_artifact(name: str, sweep: str, rule: BoldRule, cells: Iterable[tuple[str, str]]) -> Artifact:
    """Returns a table of means of any sweep: arms down, tasks across, those of a task compared by one of Z's rules."""
    places = tuple(MeanCell(arm, task, task, RunGroup(arm, arm, task)) for arm, task in cells)
    title = f"Mean performance over seeds: {name}"
    return Artifact(id=name, title=title, sweeps=(sweep,), parts=(MeansTable("", places, rule),))
