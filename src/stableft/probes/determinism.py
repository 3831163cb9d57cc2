"""Short runs that show whether seeds act, and whether this machine gives equal runs equal bits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import Cadence, RunConfig, Seeds, TrainingLength
from stableft.probes.rerun import RunComparison, compare_runs, train_apart
from stableft.sweep.progress import open_display


@dataclass(frozen=True)
class Verification:
    """A short run compared with an equal one by another process, and with two of another seed."""

    equal: RunComparison
    other_init: RunComparison
    other_data: RunComparison

    @property
    def is_deterministic(self) -> bool:
        return not self.equal.unequal

    @property
    def seeds_act(self) -> bool:
        return bool(self.other_init.unequal and self.other_data.unequal)


def shorten(config: RunConfig, steps: int) -> RunConfig:
    """Return a run of so many steps that is evaluated at its end. What it would start from is left out."""
    schedule = config.schedule.model_copy(
        update={"length": TrainingLength(steps=steps), "warmup": config.schedule.warmup or 0.1, "warmup_steps": None}
    )
    evaluation = config.evaluation.model_copy(update={"every": Cadence(times=1), "at_start": False})
    return config.model_copy(update={"schedule": schedule, "evaluation": evaluation, "start_from": None})


def verify_machine(run: PlannedRun, steps: int, sources: LocalPaths, execution: Execution) -> Verification | None:
    """Train the four short runs of a `Verification` and return them, or None if interrupted. Nothing is kept.

    Raises:
        UserError: A run crashed.
    """
    config = shorten(run.run_config, steps)
    init, data = config.seeds.init, config.seeds.data
    seeds = (Seeds(init=init, data=data), Seeds(init=init + 1, data=data), Seeds(init=init, data=data + 1))
    runs = [replace(run, config=config.model_copy(update={"seeds": one})) for one in seeds]
    with TemporaryDirectory(prefix="stableft-verify-") as parent, open_display() as display:
        first, second = Path(parent) / "a", Path(parent) / "b"
        records = train_apart(runs, first, sources, execution, display)
        again = records and train_apart(runs[:1], second, sources, execution, display)  # by another process
        if not records or not again:
            return None
        places = ((again[0], second), (records[1], first), (records[2], first))
        return Verification(*(compare_runs(records[0], record, first, folder) for record, folder in places))


def describe_verification(verification: Verification) -> Iterator[str]:
    """Yield lines on whether the machine is deterministic, and whether both seeds act."""
    first = verification.equal.before
    environment, seeds = first.environment, first.config.seeds
    assert environment
    yield (
        f"runs of {first.steps} steps: {first.arm} {first.config.data.task}, on {environment.arithmetic}, "
        f"{environment.threads} thread{'s' * (environment.threads != 1)}, torch {environment.versions['torch']}"
    )
    others = {
        "the same run, twice": verification.equal,
        f"seed of initialization {seeds.init}, then {seeds.init + 1}": verification.other_init,
        f"seed of data and dropout {seeds.data}, then {seeds.data + 1}": verification.other_data,
    }
    for what, other in others.items():
        unequal = ", ".join(other.unequal)
        yield f"{what}: {f'not equal: {unequal}' if unequal else 'equal bit for bit'}"
    yield (
        f"{'This machine is deterministic' if verification.is_deterministic else 'This machine is not deterministic'}; "
        f"{'both seeds act' if verification.seeds_act else 'a seed does not act'}."
    )
