"""Artefacts: each table or figure of a paper, or a user's sweep, as a row of data."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stableft.text import join_with

ReportedCheckpoint = Literal["recipe", "last", "best"]
BoldRule = Literal["best", "better", "different", "pair"]


@dataclass(frozen=True)
class RunGroup:
    """The runs of one arm on one task, shown as one box, curve or cell.

    An `arm` that ends in * is a search: the setting with the best mean validation score is shown. `source` is where
    the runs were imported from (None: they are runs of this project), and part of the arm's name. Boxes of one `shade`
    have one colour, and a line divides those of one `block` from the next.
    """

    label: str
    arm: str
    task: str
    source: str | None = None
    shade: str = ""
    block: str = ""

    def shows(self, arm: str, task: str) -> bool:
        """Return whether runs of an arm (without the source of imported runs) on a task belong to this group."""
        stem, star, _ = arm_without_source(self.arm).partition("*")
        return task == self.task and (arm == stem or (bool(star) and arm.startswith(f"{stem} ")))


@dataclass(frozen=True)
class Boxes:
    """A box of the scores of each group, and a point for every run. `of` "test" is the reported score.

    `names_label` says what the groups' labels are, `star` is the label of the setting that the paper recommends.
    """

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["test", "val"] = "test"
    names_label: str = ""
    star: str = ""


@dataclass(frozen=True)
class Curves:
    """Training losses or validation scores at every evaluation.

    `band` "runs" draws every run, the others each group's mean with its range or standard deviation. `only` restricts
    the curves to failed or successful runs, `first` to that many of them by seed.
    """

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["train_loss", "val"]
    band: Literal["range", "std", "runs"]
    only: Literal["failed", "successful"] | None = None
    first: int | None = None


@dataclass(frozen=True)
class Lengths:
    """Mean and range of the validation score over the number of training steps.

    `lines` holds (label, points) pairs. A point is a (steps, group) pair.
    """

    title: str
    lines: tuple[tuple[str, tuple[tuple[int, RunGroup], ...]], ...]


@dataclass(frozen=True)
class Trials:
    """Mean and standard deviation of the best of n random trials, over n (Z sec. 4)."""

    title: str
    groups: tuple[RunGroup, ...]
    of: Literal["test", "val"]


@dataclass(frozen=True)
class AtBaseline:
    """The share of each group's runs whose validation score is no better than chance, over the training steps."""

    title: str
    groups: tuple[RunGroup, ...]


@dataclass(frozen=True)
class Scatter:
    """A point for every run: its reported score over its last training loss."""

    title: str
    groups: tuple[RunGroup, ...]


@dataclass(frozen=True)
class SeedMap:
    """Validation scores, or their standard deviations, by initialisation seed and data-order seed (Z App. B)."""

    title: str
    group: RunGroup
    of: Literal["scores", "std"]


@dataclass(frozen=True)
class BiasRatio:
    """Ratio of Adam's update without bias correction to that with it, or the inverse, over training steps."""

    title: str
    inverse: bool
    groups: tuple[RunGroup, ...] = ()  # their numbers of steps are marked


@dataclass(frozen=True)
class Gradients:
    """Gradient norms over training steps of a failed and a successful run, side by side (M Figs. 4, 10-12).

    Each side shows the first run by seed with recorded norms, from the first group that has such a run. `of` "layers"
    draws all layers in one panel, each norm over all parameters of a layer. "matrices" draws a panel for each kind of
    weight matrix.
    """

    title: str
    failed: tuple[RunGroup, ...]
    successful: tuple[RunGroup, ...]
    of: Literal["layers", "matrices"]


@dataclass(frozen=True)
class Drifts:
    """L2 distance of blocks to their initial weights (Z Fig. 7).

    Each block has a panel with the mean and range of every group. `blocks` are numbered from 1, the lowest. Empty: all
    blocks.
    """

    title: str
    groups: tuple[RunGroup, ...]
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Perplexities:
    """Language-modelling perplexity of failed or successful runs with the top k blocks reset (M Fig. 2a, b).

    Shown are the `first` runs with a perplexity record (None: all), ordered by group and then by seed.
    """

    title: str
    groups: tuple[RunGroup, ...]
    only: Literal["failed", "successful"]
    first: int | None = None


@dataclass(frozen=True)
class Surfaces:
    """Loss or gradient norm around a pre-trained model, a failed run and a successful run (M Figs. 7, 13).

    With `first`, only the surface of the first failed and the first successful run by seed is shown. Otherwise every
    surface has a panel.
    """

    title: str
    failed: tuple[RunGroup, ...]
    successful: tuple[RunGroup, ...]
    of: Literal["loss", "grad_norm"]
    first: bool = True


@dataclass(frozen=True)
class VerdictCurves:
    """Training losses or validation scores of one arm on one task, with failed and successful runs in separate colours.

    `band` "runs" draws every run as a thin line and the mean as a bold one. "std" draws the mean with its standard
    deviation (M Fig. 14).
    """

    title: str
    group: RunGroup
    of: Literal["train_loss", "val"]
    band: Literal["std", "runs"]


@dataclass(frozen=True)
class StabilityTable:
    """Statistics of every arm on every task, with the tests of stability.

    The arm with the smallest std gets a star if Levene's test around `center` against the second smallest is
    significant at `alpha` (M Table 1). In the table of a sweep (`compared`) every arm is compared with the reference
    arm `against` (None: the first) instead. `published_in` is (paper, table) of the published values. None: any table
    that prints the setting.
    """

    statistics: tuple[Literal["std", "mean", "median", "min", "max"], ...] = ("std", "mean", "median", "min", "max")
    center: Literal["median", "mean"] = "median"
    alpha: float = 0.001
    compared: bool = False
    against: str | None = None
    published_in: tuple[str, str] | None = None
    paper_names: tuple[tuple[str, str], ...] = ()  # (the paper's name, arm)


@dataclass(frozen=True)
class MeanCell:
    """One cell of a table of means. Cells of the same `family` are compared with each other."""

    row: str
    column: str
    family: str
    group: RunGroup
    of: Literal["test", "val"] = "test"


@dataclass(frozen=True)
class MeansTable:
    """Mean and standard deviation of each cell, beside the values that the paper prints at `location`.

    `rule` is the paper's rule for bold numbers:
    - best: the best of a family and all not significantly worse (Z Table 1)
    - better: all better than the family's first (Z Table 2)
    - different: both of a family if they differ (Z Table 4)
    - pair: the better of two (Z Table 7)
    """

    title: str
    cells: tuple[MeanCell, ...]
    rule: BoldRule
    location: tuple[str, str] | None = None  # (paper, table)
    named: bool = True  # whether the paper names its test
    families: str = "a task's arms"  # what a family is, as text for captions


@dataclass(frozen=True)
class DatasetsTable:
    """A paper's table of data sets."""

    paper: Literal["M", "Z"]


@dataclass(frozen=True)
class HyperparametersTable:
    """A paper's table of hyper-parameters."""

    paper: Literal["M", "Z"]


ProbePart = Gradients | Drifts | Perplexities | Surfaces
RunPart = Boxes | Curves | VerdictCurves | Lengths | Trials | AtBaseline | Scatter | SeedMap
TablePart = StabilityTable | MeansTable | DatasetsTable | HyperparametersTable
FigurePart = RunPart | ProbePart | BiasRatio
ArtifactPart = TablePart | FigurePart


def groups_of(part: ArtifactPart) -> Iterator[RunGroup]:
    """Yield the run groups that a part shows."""
    match part:
        case Boxes() | Curves() | Trials() | AtBaseline() | Scatter() | Drifts() | Perplexities():
            yield from part.groups
        case Gradients() | Surfaces():
            yield from dict.fromkeys((*part.failed, *part.successful))
        case SeedMap() | VerdictCurves():
            yield part.group
        case Lengths():
            yield from (group for _, points in part.lines for _, group in points)
        case MeansTable():
            yield from (cell.group for cell in part.cells)


IMPORTED = " (imported"  # follows the names of imported arms, and of their rows and lines


def imported_suffix(source: str) -> str:
    """Return the end of the names of arms that were imported from a source."""
    return f"{IMPORTED}: {source})"


def is_imported(name: str) -> bool:
    """Return whether the name of an arm, row or line has a source of imported runs."""
    return IMPORTED in name


def arm_without_source(name: str) -> str:
    """Return the name of an arm, row or line without the source of imported runs."""
    return name.partition(IMPORTED)[0]


def add_imported_groups(part: ArtifactPart, find_sources: Callable[[RunGroup], Sequence[str]]) -> ArtifactPart:
    """Return the part with a further group, line or cell for every source of imported runs of each of its groups.

    `find_sources` returns the sources of a group. Seed maps are unchanged, because imported runs have one known seed.
    """

    def imported(group: RunGroup, sources: Sequence[str]) -> Iterator[RunGroup]:
        for source in sources:
            suffix = imported_suffix(source)
            label = suffix if len(sources) > 1 else f"{IMPORTED})"  # the notes name the only source
            yield replace(group, label=group.label + label, arm=group.arm + suffix, source=source)

    match part:
        case Boxes() | Curves() | Trials() | Scatter():
            groups = (other for group in part.groups for other in (group, *imported(group, find_sources(group))))
            return replace(part, groups=tuple(groups))
        case Lengths():
            lines = []
            for label, points in part.lines:
                lines.append((label, points))
                sources = list(dict.fromkeys(source for _, group in points for source in find_sources(group)))
                by_source = zip(*(imported(group, sources) for _, group in points), strict=True)
                for groups in by_source:
                    suffix = groups[0].label.removeprefix(points[0][1].label)
                    steps = (steps for steps, _ in points)
                    lines.append((label + suffix, tuple(zip(steps, groups, strict=True))))
            return replace(part, lines=tuple(lines))
        case MeansTable():
            cells = []
            for cell in part.cells:
                cells.append(cell)
                for group in imported(cell.group, find_sources(cell.group)):
                    suffix = group.label.removeprefix(cell.group.label)
                    cells.append(replace(cell, row=cell.row + suffix, family=cell.family + suffix, group=group))
            return replace(part, cells=tuple(cells))
    return part


@dataclass(frozen=True)
class Artifact:
    """A table or figure of a paper, or the report of a sweep: its parts and the sweeps that provide the runs."""

    id: str
    title: str
    sweeps: tuple[str, ...]  # paths below configs/
    parts: tuple[ArtifactPart, ...]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all run groups that are shown, in order."""
        return tuple(dict.fromkeys(group.label for part in self.parts for group in groups_of(part)))

    @property
    def names_of_arms(self) -> str:
        """A sentence on the arms that are shown under other names, the settings of a grid together. Empty: none are."""
        arms_of: dict[str, dict[str, None]] = {}
        for part in self.parts:
            groups = ((group.label, group.arm) for group in groups_of(part))
            for name, arm in part.paper_names if isinstance(part, StabilityTable) else groups:
                name, arm = arm_without_source(name), re.split("[ *]", arm_without_source(arm))[0]
                arms_of.setdefault(name, {}).update({arm: None} if name != arm else {})
        names_of: dict[str, list[str]] = {}
        for name, arms in arms_of.items():
            names_of.setdefault(join_with([*arms]), []).append(f'"{name}"')
        names_of.pop("", None)
        if len(names_of) == 1 and len(arms_of) > 1:
            return f"Names of arms: all are settings of {next(iter(names_of))}."
        listed = "; ".join(f"{join_with(names)}: {arms}" for arms, names in names_of.items())
        return f"Names of arms: {listed}." if listed else ""

    @property
    def has_no_runs(self) -> bool:
        """Whether every part is computed from a formula, recipes or data sets alone."""
        return all(isinstance(part, BiasRatio | DatasetsTable | HyperparametersTable) for part in self.parts)

    def includes(self, arm: str, task: str) -> bool:
        """Return whether runs of an arm on a task are shown.

        An artefact without run groups shows all runs of its sweeps.
        """
        groups = [group for part in self.parts for group in groups_of(part)]
        return not groups or any(group.shows(arm, task) for group in groups)

    @property
    def shows_imported_runs(self) -> bool:
        """Whether a part can show runs without a config, probes or a second seed."""
        return any(
            isinstance(part, Boxes | Curves | Lengths | Trials | Scatter | StabilityTable | MeansTable)
            for part in self.parts
        )

    @property
    def shows_only_probes(self) -> bool:
        """Whether every part is drawn from probe records."""
        return all(isinstance(part, ProbePart) for part in self.parts)


def make_sweep_artifact(name: str, sweep: str, against: str | None = None) -> Artifact:
    """Return the default artefact of a sweep: a stability table that compares every arm with `against` or the first."""
    title = f"Fine-tuning stability over seeds: {name}"
    return Artifact(name, title, (sweep,), (StabilityTable(compared=True, against=against),))


def make_means_artifact(name: str, sweep: str, rule: BoldRule, cells: Iterable[tuple[str, str]]) -> Artifact:
    """Return a table of means of a sweep, with arms down and tasks across.

    The arms of a task are compared by one of Z's rules.
    """
    mean_cells = tuple(MeanCell(arm, task, task, RunGroup(arm, arm, task)) for arm, task in cells)
    title = f"Mean performance over seeds: {name}"
    return Artifact(id=name, title=title, sweeps=(sweep,), parts=(MeansTable("", mean_cells, rule),))
