"""What a user writes in a sweep file, as pydantic models: its keys, those of an arm, and the rules for their values.

`set` and `grid` hold run settings, which `RunConfig` checks; tasks and models are checked where they are looked up.
"""

import itertools
from collections import Counter
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stableft.config.command_config import CommandScore, split_command
from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import InLoopProbes
from stableft.config.run_config import ConfigSection
from stableft.config.settings import describe_value
from stableft.errors import clip, echo

MAX_SEEDS = 10_000  # of an arm: more is probably a typo, and 1-10000000000 would exhaust memory
MAX_ARMS = 1_000  # as many rows of a table as anybody reads
MAX_SETTINGS = 10_000  # of all arms, each for one task, model and grid point; a millisecond and 10 kB each
MAX_RUNS = 100_000  # of all arms, which take 5 s and 250 MB to plan


def _parse_seed_numbers(value: Any) -> list[int]:
    """Return the seeds in a form such as 5, "1-25", "1,2,7" or a list of these."""
    seeds: list[int] = []
    for part in value if isinstance(value, list) else str(value).split(","):
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{echo(value)} must be like 5, 1-25 or 1,2,7, of whole numbers from 0")
        if max(len(first), len(last)) > len(str(2**63)) or int(last or first) >= 2**63:
            raise ValueError(f"{clip(part)} is too large: a seed must be less than 2**63")
        if last and int(last) < int(first):
            raise ValueError(f"{echo(part)} runs backwards")
        more = range(int(first), int(last or first) + 1)
        if len(seeds) + (more.stop - more.start) > MAX_SEEDS:
            raise ValueError(f"{echo(value)} is more than {MAX_SEEDS} seeds")
        seeds += more
    if not seeds:
        raise ValueError(f"{echo(value)} has no seeds")
    twice = next((seed for seed, count in Counter(seeds).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is listed twice in {echo(value)}")
    return seeds


SeedNumbers = Annotated[list[int], BeforeValidator(_parse_seed_numbers)]


class SeedPairs(ConfigSection):
    """Seeds of an arm: a mapping, or one list of numbers for both."""

    example: ClassVar[str] = "{init: 0-9, data: 0-9, crossed: true}"
    init: SeedNumbers
    data: SeedNumbers
    crossed: bool = False  # every combination (Z App. B); otherwise the first init seed with the first data seed, ...

    @model_validator(mode="before")
    @classmethod
    def _one_list_for_both(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        seeds = _parse_seed_numbers(value)
        return {"init": seeds, "data": seeds}

    @model_validator(mode="after")
    def _as_many_of_both(self) -> Self:
        if not self.crossed and len(self.init) != len(self.data):
            raise ValueError(
                f"{len(self.init)} init and {len(self.data)} data seeds cannot be paired; use crossed: true"
            )
        if self.count > MAX_SEEDS:
            raise ValueError(
                f"{len(self.init)} init and {len(self.data)} data seeds crossed are more than {MAX_SEEDS} pairs"
            )
        return self

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.init) * (len(self.data) if self.crossed else 1)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(init, data) seed pairs, in order."""
        return list(itertools.product(self.init, self.data) if self.crossed else zip(self.init, self.data, strict=True))


class EarlyStoppingRule(ConfigSection):
    """Early-stop the lowest-scoring fraction `lowest` of the runs after the fraction `after` of their steps."""

    example: ClassVar[str] = "{after: 0.3, lowest: 0.5}"
    after: float = Field(gt=0, lt=1, description="a share between 0 and 1")
    lowest: float = Field(gt=0, lt=1, description="a share between 0 and 1")


def describe_early_stopping_rule(after: float, lowest: float) -> str:
    """Return a one-line description of an early-stopping rule."""
    return f"the lowest {100 * lowest:g} % by validation score after {100 * after:g} % of the steps"


class ProbeInterval(ConfigSection):
    """How often to record a probe during training, in optimizer steps."""

    example: ClassVar[str] = "{every: 10}, in optimizer steps"
    every: int = Field(ge=1, description="a whole number of steps from 1")


class RequestedProbes(ConfigSection):
    """Probes to record during training; null: off."""

    example: ClassVar[str] = "{grad_norms: {every: 10}, drift: {every: 10}}"
    grad_norms: ProbeInterval | None = None
    drift: ProbeInterval | None = None


class StartRun(ConfigSection):
    """A `start_from` that describes a run; the sweep trains it if it is not finished yet."""

    example: ClassVar[str] = "{recipe: zhang, task: mnli, seed: 0}"
    recipe: str = Field(description="the name of one recipe")
    task: Any  # a name, or a mapping that describes the user's own data
    seed: int = Field(ge=0, description="one whole number from 0")
    set: dict[str, Any] | None = Field(default=None, description="a mapping of settings to values")


def _check_distinct(values: Any) -> Any:
    if values == []:
        raise ValueError("the list is empty")
    items = values if isinstance(values, list) else [values]
    counts = Counter(map(repr, items))  # by text, because 1, 1.0 and True are equal
    for value in items:
        if counts[repr(value)] > 1:
            own_task = isinstance(value, dict) and "name" in value
            raise ValueError(f"{clip(value['name'] if own_task else describe_value(value))} is listed twice")
    return values


def _check_items(values: Any) -> Any:
    if isinstance(values, list) and None in values:
        raise ValueError("the list has an empty item")
    return _check_distinct(values)


OneOrMore = Annotated[Any, AfterValidator(_check_items)]
GridValues = Annotated[list[Any], Field(min_length=1), AfterValidator(_check_distinct)]


def _parse_command(value: Any) -> Any:
    return split_command(value) if isinstance(value, str) else value


COMMAND_EXAMPLE = "text, such as python train.py --seed {seed} --output_dir {out}"


class SweepKeys(ConfigSection):
    """Keys of an arm; at the top of a sweep file, they are defaults for every arm. Null means not given."""

    recipe: str | None = Field(default=None, min_length=1, description="the name of one recipe")
    task: OneOrMore = None  # a name, a mapping that describes the user's own data, or a list of these
    model: OneOrMore = None  # a hub name, a folder, or a list of these
    set: dict[str, Any] = Field(default={}, description="a mapping of settings to values")
    grid: dict[str, GridValues] | None = Field(default=None, description="a mapping of settings to lists of values")
    seeds: SeedPairs | None = None
    stop_hopeless: EarlyStoppingRule | None = None
    probes: RequestedProbes | None = None
    command: Annotated[tuple[str, ...] | None, BeforeValidator(_parse_command), Field(description=COMMAND_EXAMPLE)] = (
        None
    )
    score: CommandScore | None = None
    baseline: float | None = None
    timeout: float | None = Field(default=None, gt=0, description="a number of seconds above 0")
    inputs: Annotated[list[str] | None, AfterValidator(_check_items), Field(min_length=1)] = None

    @property
    def in_loop_probes(self) -> InLoopProbes:
        """Probes to record during training, with their intervals."""
        return InLoopProbes(**{name: probe.every for name, probe in self.probes or () if probe})


class SweepArm(SweepKeys):
    """An arm of a sweep file."""

    example: ClassVar[str] = "{recipe: devlin}"
    # None: the recipe's name, or "command".
    name: str | None = Field(default=None, description="text; quotes make it so")


class SweepFile(SweepKeys):
    """A sweep file. Without `arms`, it is a single arm."""

    decide: DecideRule | None = None

    arms: list[SweepArm] = Field(
        default=[SweepArm()], min_length=1, max_length=MAX_ARMS, description="a list of at least one arm"
    )

    @model_validator(mode="after")
    def _score_is_of_a_command(self) -> Self:
        takes_it = (not arm.score and (arm.command or (self.command and not arm.recipe)) for arm in self.arms)
        if self.score and not any(takes_it):
            raise ValueError(
                f"score: {echo(self.score.model_dump(exclude_unset=True))} has no effect, because no arm has a command "
                "without a score of its own; what scores mean to a claim is said in decide.score"
            )
        return self
