"""A table of a paper, or of a user's own sweep, as a row of data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Artifact:
    """What a table shows of which sweeps. `row` and `column` are fields of the frame that `frame.frame` returns."""

    id: str
    title: str
    sweeps: tuple[str, ...]  # paths below configs/
    row: str = "arm"
    column: str = "task"
    statistics: tuple[Literal["std", "mean", "median", "min", "max"], ...] = ("std", "mean", "median", "min", "max")
    center: Literal["median", "mean"] = "median"  # of the Levene's test that decides the star
    alpha: float = 0.001
    against_first: bool = False  # also every arm against the first one, and what failed runs' training losses say


def sweep_artifact(name: str, sweep: str) -> Artifact:
    """Returns the table of any sweep: every arm, all statistics, M's rule for the star, each arm against the first."""
    title = f"Fine-tuning stability over seeds: {name}"
    return Artifact(id=name, title=title, sweeps=(sweep,), against_first=True)
