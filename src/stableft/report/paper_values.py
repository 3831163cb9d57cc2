"""Numbers printed in the papers, and where they are printed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stableft.config.recipe import describe_deviations
from stableft.config.run_config import Checkpoint, RunConfig, canonical_json

STATISTICS = ("std", "mean", "median", "min", "max")
NOT_A_REPLICATION = "not a replication"  # in place of a verdict on runs of another setting than the published
PAPERS = {"M": "Mosbach et al. 2021", "Z": "Zhang et al. 2021"}


@dataclass(frozen=True)
class PublishedValue:
    """The published statistics of one arm on one task, in percent. None: not printed.

    The arm uses `recipe` with the dotted settings in `set`.
    """

    paper: str
    location: str  # e.g. Table 1
    version: str
    arm: str
    recipe: str
    task: str
    metric: str
    split: str  # val (the papers' development set) or test
    checkpoint: Checkpoint
    n: int
    set: Mapping[str, Any] = field(default_factory=dict, hash=False)
    std: float | None = None
    mean: float | None = None
    median: float | None = None
    min: float | None = None
    max: float | None = None
    starred: bool = False
    own_checkpoint: bool = False  # set beside our scores of `checkpoint`, whichever checkpoint the table shows
    another_party: bool = False  # not a value of the paper, only shown beside it
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.paper}, {self.location} ({self.version})"

    def fraction(self, statistic: str) -> float | None:
        """Return a statistic as a fraction, or None if it is not printed."""
        assert statistic in STATISTICS
        percent = getattr(self, statistic)
        return None if percent is None else round(percent / 100, 6)


@dataclass(frozen=True)
class PublishedLowScores:
    """The share of `n` published runs of a recipe on a task whose score is below a limit, both as fractions."""

    place: str
    recipe: str
    task: str
    metric: str
    n: int
    share: float
    limit: float


@dataclass(frozen=True)
class PrintedHyperparameters:
    """A hyper-parameter table as printed. `reasons`: (row, column) -> why our setting differs."""

    place: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    reasons: Mapping[tuple[str, str], str]
    notes: tuple[str, ...]


@cache
def load_published_values() -> tuple[PublishedValue, ...]:
    """Return all published scores. Of tables that print the same runs, the one to compare with comes first."""
    return tuple(value for block in paper_value_blocks("scores") for value in _block_values(block))


@cache
def load_reference_values() -> tuple[PublishedValue, ...]:
    """Return what other parties published of runs like the papers'."""
    return tuple(value for block in paper_value_blocks("references") for value in _block_values(block))


@cache
def load_published_low_scores() -> tuple[PublishedLowScores, ...]:
    """Return what the papers' texts say of how many runs score low."""
    return tuple(
        PublishedLowScores(
            place=f"{block['paper']}, {block['location']} ({block['version']})",
            recipe=recipe,
            task=task,
            metric=block["metrics"][task],
            n=block["n"],
            share=share / 100,
            limit=limit / 100,
        )
        for block in paper_value_blocks("low_scores")
        for recipe, row in block["values"].items()
        for task, (share, limit) in row.items()
    )


def with_references(printed: tuple[PublishedValue, ...]) -> tuple[PublishedValue, ...]:
    """Return a paper's values of one arm and task, and after them what other parties published of that recipe."""
    settings = {(value.recipe, value.task) for value in printed}
    return printed + tuple(value for value in load_reference_values() if (value.recipe, value.task) in settings)


def load_printed_hyperparameters(paper: str) -> PrintedHyperparameters:
    """Return the hyper-parameter table of a paper, "M" or "Z"."""
    block = next(block for block in paper_value_blocks("hyperparameters") if block["paper"] == PAPERS[paper])
    return PrintedHyperparameters(
        place=f"{block['paper']}, {block['location']} ({block['version']})",
        columns=tuple(block["columns"]),
        rows={row: tuple(texts) for row, texts in block["values"].items()},
        reasons={(reason["row"], reason["column"]): reason["text"] for reason in block["reasons"]},
        notes=tuple(block["notes"]),
    )


def find_published_in_table(
    values: Iterable[PublishedValue], paper: str, location: str, arm: str, task: str
) -> tuple[PublishedValue, ...]:
    """Return a table's values for an arm on a task, in every version and split. The * of a search is ignored."""
    key = (paper, location, arm.removesuffix("*"), task)
    return tuple(value for value in values if (value.paper, value.location, value.arm, value.task) == key)


def find_published_by_name(values: Iterable[PublishedValue], arm: str, task: str) -> tuple[PublishedValue, ...]:
    """Return the values for an arm's name in the first table that prints it. Used for runs without a config."""
    same_name = [value for value in values if (value.arm, value.task) == (arm, task)]
    return _same_table_and_arm(same_name, same_name[0]) if same_name else ()


def find_published_by_config(
    values: Iterable[PublishedValue], config: RunConfig, recipe: str
) -> tuple[PublishedValue, ...]:
    """Return the values of the published setting nearest to this config, in the first table that prints it.

    The nearest setting of the recipe has the fewest differences. Of equally near ones in a table, the one with more
    settings is taken: 3 re-initialized blocks are nearer to 5 than to none. All versions of the table are returned,
    restricted to the split that the run reports if it is printed.
    """
    candidates = [value for value in values if (value.recipe, value.task) == (recipe, config.data.task)]
    if not candidates or config.data.own:
        return ()
    differences: dict[str, int] = {}
    for value in candidates:
        key = canonical_json(value.set)
        if key not in differences:
            differences[key] = len(describe_deviations(config, recipe, value.set))
    tables = list(dict.fromkeys((value.paper, value.location) for value in candidates))
    nearest = min(
        candidates,
        key=lambda value: (
            differences[canonical_json(value.set)],
            tables.index((value.paper, value.location)),
            -len(value.set),
        ),
    )
    printed = _same_table_and_arm(candidates, nearest)
    return tuple(value for value in printed if value.split == config.reported_split) or printed


def _same_table_and_arm(values: Iterable[PublishedValue], first: PublishedValue) -> tuple[PublishedValue, ...]:
    """Return the values of the same table and arm."""
    key = (first.paper, first.location, first.arm)
    return tuple(value for value in values if (value.paper, value.location, value.arm) == key)


@cache
def _read_paper_values() -> tuple[dict[str, Any], ...]:
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # eight times as fast, if installed
    return tuple(yaml.load(Path(__file__).with_name("paper_values.yaml").read_text(encoding="utf-8"), loader))


def paper_value_blocks(kind: str) -> list[dict[str, Any]]:
    """Return the blocks of `paper_values.yaml` of one kind, such as "scores", as they are written there."""
    return [block for block in _read_paper_values() if block["kind"] == kind]


def _block_fields(block: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: block[key] for key in ("paper", "location", "version", "n", "split", "checkpoint")}
    return fields | {"own_checkpoint": block.get("own_checkpoint", False)}


def _block_values(block: dict[str, Any]) -> Iterator[PublishedValue]:
    for arm, row in block["values"].items():
        definition = block.get("arms", {}).get(arm, {})
        for task, numbers in row.items():
            yield PublishedValue(
                **_block_fields(block),
                another_party=block["kind"] == "references",
                arm=arm,
                recipe=definition.get("recipe", arm),
                set=definition.get("set", {}),
                task=task,
                metric=block["metrics"][task],
                **dict(zip(block["statistics"], numbers, strict=True)),
                starred=task in block.get("starred", {}).get(arm, ()),
                notes=tuple(
                    note["text"]
                    for note in block["notes"]
                    if arm in note.get("arms", block["values"]) and task in note.get("tasks", block["metrics"])
                ),
            )
