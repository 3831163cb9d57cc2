"""The papers' printed numbers, each with where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

STATISTICS = ("std", "mean", "median", "min", "max")


@dataclass(frozen=True)
class PublishedValue:
    """What a paper prints for one recipe on one task. Statistics in percent as printed; None: not printed."""

    recipe: str
    task: str
    paper: str
    location: str
    version: str
    metric: str
    split: str  # in this project's words: val (the papers' development set), test
    n: int
    std: float | None = None
    mean: float | None = None
    median: float | None = None
    min: float | None = None
    max: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.paper}, {self.location} ({self.version})"

    def fraction(self, statistic: str) -> float | None:
        """Returns a statistic as a fraction, or None if it is not printed."""
        assert statistic in STATISTICS
        percent = getattr(self, statistic)
        return None if percent is None else round(percent / 100, 6)


Published = Mapping[tuple[str, str], tuple[PublishedValue, ...]]


def load_published() -> Published:
    """Returns (recipe, task) -> the values printed for it; the version the project compares with first stands first."""
    import yaml

    blocks = yaml.safe_load(Path(__file__).with_name("paper_values.yaml").read_text(encoding="utf-8"))
    values: dict[tuple[str, str], tuple[PublishedValue, ...]] = {}
    for block in blocks:
        for value in _block_values(block):
            key = (value.recipe, value.task)
            values[key] = (*values.get(key, ()), value)
    return values


def _block_values(block: dict) -> list[PublishedValue]:
    shared = {field.name: block[field.name] for field in fields(PublishedValue) if field.name in block}
    shared.pop("notes", None)
    return [
        PublishedValue(
            recipe=recipe,
            task=task,
            metric=block["metrics"][task],
            **shared,
            **dict(zip(block["statistics"], numbers, strict=True)),
            notes=tuple(
                note["text"]
                for note in block["notes"]
                if recipe in note.get("recipes", block["values"]) and task in note.get("tasks", block["metrics"])
            ),
        )
        for recipe, row in block["values"].items()
        for task, numbers in row.items()
    ]
