"""A planned run, the local files it needs, and how to execute it.

Nothing here is meant to affect what a run shows on average. But device, threads and kernels that are not deterministic
change the last bits, TF32 some digits more, and another micro-batch or compiled passes draw other dropout masks, after
which a run is another one. So all of them are recorded, and an unfinished run is resumed only with the same values.
"""

import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from stableft.config.command_config import CommandConfig
from stableft.config.decide_rule import DecideRule
from stableft.config.run_config import Checkpoint, RunConfig


@dataclass(frozen=True)
class InLoopProbes:
    """Probes recorded during training, each with its interval in steps (None: off); they do not affect results."""

    grad_norms: int | None = None
    drift: int | None = None

    def __bool__(self) -> bool:
        return self != NO_PROBES


ArmTask = tuple[str, str]  # arm, task
SeedPair = tuple[int, int]  # init, data
NO_PROBES = InLoopProbes()
PROBE_NAMES = tuple(probe.name for probe in fields(InLoopProbes))


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its config, and the names of its arm (a table row) and recipe (of a command: its arm).

    `report` is the checkpoint whose score the arm reports; runs that differ in it alone are one run. `pause_after` is a
    fraction of the run's steps: the run pauses with a checkpoint at the first evaluation at or after that point.
    """

    arm: str
    recipe: str
    config: RunConfig | CommandConfig
    report: Checkpoint
    pause_after: float | None = None
    probes: InLoopProbes = NO_PROBES
    decide: DecideRule | None = None  # the rule of its sweep, which its record keeps

    @cached_property
    def run_id(self) -> str:
        return self.config.run_id

    @property
    def run_config(self) -> RunConfig:
        """The config of a run that is no command."""
        assert isinstance(self.config, RunConfig)
        return self.config


def default_cache_folder() -> Path:
    """Return the cache folder for tokenized data: $STABLEFT_CACHE, or else stableft in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STABLEFT_CACHE") or Path(base) / "stableft")


@dataclass(frozen=True)
class LocalPaths:
    """Where the inputs of runs are read from.

    `paths` maps a SHA-256 in a config to a model folder or data file. `hub_commits` maps the identity of a hub model to
    the commit that a sweep is trained from; otherwise, a run loads what the revision names at that time. `folder` is
    that of the sweep file, in which commands run.
    """

    data_dir: Path | None = None
    cache_dir: Path = field(default_factory=default_cache_folder)
    paths: dict[str, Path] = field(default_factory=dict)
    hub_commits: dict[tuple[str | None, ...], str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Execution:
    """How to execute a run.

    `checkpoint_every` is in steps; None: checkpoint at evaluations, using at most 2 % of the time.
    """

    device: str = "cpu"  # "cpu", "cuda:0", ...
    threads: int | None = None  # CPU threads; None: torch's default
    micro_batch: int | None = None  # rows per forward pass; None: the whole batch
    checkpoint_every: int | None = None
    save: Literal["none", "best", "last", "all"] = "none"
    deterministic: bool = True  # only kernels that give the same bits every time; False: the fastest ones
    tf32: bool = False  # on a GPU, round the inputs of float32 products to TF32: faster, but about 3 digits
    compile: bool = False  # compile the model's passes with torch.compile: other rounding, other dropout masks
    cuda_graphs: bool = True  # on a GPU, record updates and replay them: the same bits, without launching each kernel
    jobs: int = 1  # on the device at once, which share its memory
    price: float | None = None  # of an hour of the device, to be recorded
    retrain_incomplete: bool = False  # re-run finished runs that lack requested weights or probes


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run. `val` is the latest validation score by the metric that selects the best checkpoint."""

    step: int
    total: int
    loss: float | None = None
    val: float | None = None
    warning: str | None = None  # why the run has probably failed


class RunInterrupted(Exception):  # noqa: N818 - not an error: stopped on request, with a checkpoint
    """A run stopped at a step boundary on request; running it again resumes it."""
