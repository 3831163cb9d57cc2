"""A planned run, the local files it needs, and how to execute it.

Nothing here changes a number by intent. What may change the last bits (device, threads, micro-batch) is stated in
the record, and an unfinished run is resumed only under the same values.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stableft.config.run_config import RunConfig


@dataclass(frozen=True)
class InLoopProbes:
    """What is recorded while a run trains, each every so many steps (None: not), without changing a number of it."""

    grad_norms: int | None = None
    drift: int | None = None

    def __bool__(self) -> bool:
        return self != NO_PROBES


NO_PROBES = InLoopProbes()


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its config, and the names of the arm (a table's row) and recipe it came from.

    `pause_after` is a share of its steps: the run ends at its first evaluation from there on, with a checkpoint.
    """

    arm: str
    recipe: str
    config: RunConfig
    pause_after: float | None = None
    probes: InLoopProbes = NO_PROBES

    @property
    def run_id(self) -> str:
        return self.config.run_id


def default_cache_folder() -> Path:
    """Returns the folder for tokenised data: $STABLEFT_CACHE, else stableft in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STABLEFT_CACHE") or Path(base) / "stableft")


@dataclass(frozen=True)
class LocalPaths:
    """Where on this machine the inputs lie: `paths` maps the SHA-256 in a config to a model folder or data file."""

    data_dir: Path | None = None
    cache_dir: Path = field(default_factory=default_cache_folder)
    paths: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How one run is executed. `checkpoint_every` counts steps; None: at evaluations, within 2 % of the time."""

    device: str = "cpu"  # "cpu", "cuda:0", ...
    threads: int | None = None  # of the CPU; None: as torch chooses
    micro_batch: int | None = None  # rows at once; None: the whole batch
    checkpoint_every: int | None = None
    save: Literal["none", "best", "last", "all"] = "none"
    complete: bool = False  # finished runs that lack the weights or probes asked for are trained again


@dataclass(frozen=True)
class RunProgress:
    """Where a run is. `val` is the latest validation value of the metric that selects the best checkpoint."""

    step: int
    total: int
    loss: float | None = None
    val: float | None = None
    warning: str | None = None  # why the run has likely failed


class RunInterrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop and left a checkpoint
    """A run stopped at a step boundary because it was asked to; running it again goes on from there."""
