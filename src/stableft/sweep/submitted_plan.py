"""The plan of a sweep as it was submitted, in a file that pilots read, whatever becomes of the sweep file meanwhile."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError


@dataclass(frozen=True)
class SubmittedPlan:
    """A `Sweep` as JSON has it. `ids` are those of `runs`, then of `start_runs`."""

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    start_runs: tuple[PlannedRun, ...]
    ids: tuple[str, ...]
    rules: dict[str, EarlyStoppingRule]
    folder: Path | None
    data_dir: Path | None
    paths: dict[str, Path]
    hub_commits: tuple[tuple[tuple[str | None, ...], str], ...]
    decide: DecideRule | None = None


FORM = TypeAdapter(SubmittedPlan)


def dump_plan(sweep: Sweep) -> bytes:
    """Return the bytes of a plan's file. Paths are made absolute, because a node may start elsewhere."""
    sources = sweep.sources
    plan = SubmittedPlan(
        sweep.name,
        sweep.path.absolute(),
        sweep.runs,
        sweep.start_runs,
        tuple(run.run_id for run in (*sweep.runs, *sweep.start_runs)),
        dict(sweep.rules),
        sources.folder,
        sources.data_dir and sources.data_dir.absolute(),
        {digest: path.absolute() for digest, path in sources.paths.items()},
        tuple(sources.hub_commits.items()),
        sweep.decide,
    )
    return gzip.compress(FORM.dump_json(plan), compresslevel=1, mtime=0)  # of 100,000 runs, a hundredth remains


def name_plan(content: bytes) -> str:
    """Return the name of a plan's file, made of its content."""
    return f"plan-{hashlib.sha256(content).hexdigest()[:16]}.json.gz"


def read_plan(path: Path) -> Sweep:
    """Return the sweep of a plan's file, with this machine's cache folder.

    Raises:
        UserError: The file is not visible here, or damaged, or of a version that computed other run ids.
    """
    try:
        plan = FORM.validate_json(gzip.decompress(path.read_bytes()))
    except OSError as error:
        raise UserError(f"--plan {path}: this machine cannot read it ({error.strerror or error})") from None
    except (ValidationError, EOFError, zlib.error):
        raise UserError(f"--plan {path}: not a plan that this version of stableft submitted") from None
    if tuple(run.run_id for run in (*plan.runs, *plan.start_runs)) != plan.ids:
        raise UserError(f"--plan {path}: this version of stableft gives its runs other ids; submit the sweep again")
    sources = LocalPaths(plan.data_dir, paths=plan.paths, hub_commits=dict(plan.hub_commits), folder=plan.folder)
    return Sweep(plan.name, plan.path, plan.runs, sources, (), plan.start_runs, plan.rules, plan.decide)
