"""Short runs that show whether seeds act, and whether this machine gives equal runs equal bits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import Cadence, RunConfig, Seeds, TrainingLength
from stableft.errors import UserError
from stableft.probes.rerun import SCORED
from stableft.records.run_record import HISTORY_FILE, PREDICTIONS_FILE, RunRecord, read_record, run_folder
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import open_display
from stableft.sweep.workers import run_with_workers


@dataclass(frozen=True)
class ShortRun:
    """A short run: its record, its history as lines, and a sum of its predictions."""

    record: RunRecord
    history: tuple[str, ...]
    predictions: str | None


@dataclass(frozen=True)
class Verification:
    """A short run, an equal one by another process, and two with another seed of initialization or of data."""

    first: ShortRun
    equal: ShortRun
    other_init: ShortRun
    other_data: ShortRun

    @property
    def is_deterministic(self) -> bool:
        return find_difference(self.first, self.equal) is None

    @property
    def seeds_act(self) -> bool:
        return all(find_difference(self.first, other) for other in (self.other_init, self.other_data))


def find_difference(a: ShortRun, b: ShortRun) -> str | None:
    """Return where two short runs differ first, or None if they are equal bit for bit."""
    if a.history != b.history:
        steps = enumerate(zip(a.history, b.history, strict=False), 1)
        step, lines = next(((n, pair) for n, pair in steps if pair[0] != pair[1]), (len(a.history), None))
        loss = [json.loads(line)["loss"] for line in lines] if lines else []
        return f"from step {step} on" + (f", loss {loss[0]} and {loss[1]}" if loss else "")
    if a.predictions != b.predictions or a.record.model_dump_json(include={*SCORED}) != b.record.model_dump_json(
        include={*SCORED}
    ):
        return "in the evaluation at the end"
    return None


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
        folders = [Path(parent) / "a", Path(parent) / "b"]
        for folder, some in zip(folders, (runs, runs[:1]), strict=True):  # the equal run is by another process
            folder.mkdir()
            outcome = run_with_workers(
                some, folder, sources, LocalExecutor([execution.device]), execution, display=display
            )
            if outcome.interrupted:
                return None
        places = [(folders[0], runs[0]), (folders[1], runs[0]), (folders[0], runs[1]), (folders[0], runs[2])]
        return Verification(*(_read_short_run(folder, one) for folder, one in places))


def _read_short_run(folder: Path, run: PlannedRun) -> ShortRun:
    record = read_record(folder, run.run_id)
    if record is None or record.status != "finished":
        raise UserError(f"a short run of {run.arm} crashed ({record.reason if record else 'no record'})")
    lines = (run_folder(folder, run.run_id) / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
    return ShortRun(record, tuple(lines), (record.files or {}).get(PREDICTIONS_FILE))


def describe_verification(verification: Verification) -> Iterator[str]:
    """Yield lines on whether the machine is deterministic, and whether both seeds act."""
    first = verification.first.record
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
        difference = find_difference(verification.first, other)
        yield f"{what}: {f'they differ {difference}' if difference else 'equal bit for bit'}"
    yield (
        f"{'This machine is deterministic' if verification.is_deterministic else 'This machine is not deterministic'}; "
        f"{'both seeds act' if verification.seeds_act else 'a seed does not act'}."
    )
