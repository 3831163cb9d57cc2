"""From a sweep file or an artefact's id, and records, to a `Table`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stableft.errors import UserError, nearest
from stableft.frame import Name, frame
from stableft.plan import PlannedRun, Sources
from stableft.recipe import deviations
from stableft.record import RunRecord, read_record, read_records_file
from stableft.report.artifact import Artifact, sweep_artifact
from stableft.report.mosbach import ARTIFACTS
from stableft.report.published import load_published
from stableft.report.table import Table, build_report
from stableft.sweepfile import START, Sweep, load_sweep

if TYPE_CHECKING:
    import pandas as pd

Checkpoint = Literal["recipe", "last", "best"]


@dataclass(frozen=True)
class Material:
    """A report's table, and the runs it was made from, of which figures are drawn."""

    table: Table
    frame: "pd.DataFrame"
    records: tuple[RunRecord, ...]


def planned_runs(name: str, load) -> tuple[Artifact, tuple[PlannedRun, ...]]:
    """Returns the artefact of that id with the runs of its sweeps, or else the one of the sweep file of that name.

    `load` expands a sweep file, such as `sweepfile.load_sweep` with a user's choices.

    Raises:
        UserError: it is neither.
    """
    if name in ARTIFACTS:
        artifact = ARTIFACTS[name]
        return artifact, tuple(run for sweep in artifact.sweeps for run in load(sweep).runs)
    if not name.endswith(".yaml") and "/" not in name and nearest(name, ARTIFACTS):
        raise UserError(f"artifact {name!r} is not known{nearest(name, ARTIFACTS)}")
    sweep: Sweep = load(name)
    return sweep_artifact(sweep.name, str(sweep.path)), sweep.runs


def report_of(
    artifact: Artifact, runs: Sequence[PlannedRun], records: Iterable[RunRecord], which: Checkpoint = "recipe"
) -> Table:
    """Returns the table of these runs, as `gather` has it."""
    return gather(artifact, runs, records, which).table


def gather(
    artifact: Artifact, runs: Sequence[PlannedRun], records: Iterable[RunRecord], which: Checkpoint = "recipe"
) -> Material:
    """Returns the report of these runs.

    A record belongs to a run by its id. One that was imported from elsewhere cannot have the id; it belongs to the
    arm, task and seeds that it was imported as.
    """
    names: dict[str, list[Name]] = {}
    planned: dict[tuple[str, str], int] = {}
    foreign: dict[tuple[str, str, int, int], Name] = {}
    for run in runs:
        config = run.config
        name = Name(run.arm, run.recipe, config.evaluation.report)
        foreign[run.arm, config.data.task, config.seeds.init, config.seeds.data] = name
        if name not in names.setdefault(run.run_id, []):
            names[run.run_id].append(name)
            planned[run.arm, config.data.task] = planned.get((run.arm, config.data.task), 0) + 1
    kept = []
    for record in records:
        seeds = record.config.seeds
        imported_as = foreign.get((record.arm, record.config.data.task, seeds.init, seeds.data))
        if record.source and imported_as:
            names.setdefault(record.run_id, [imported_as])
        if record.run_id in names:
            kept.append(record)
    published = load_published()
    rows = frame(kept, names, which)
    deviating = _deviations(kept, names, set(published))
    table = build_report(rows, artifact, published, deviating, planned, {run.arm: run.recipe for run in runs})
    return Material(table, rows, tuple(kept))


def stored_records(results: Path, runs: Iterable[PlannedRun]) -> Iterable[RunRecord]:
    """Yields the records of these runs in a results folder, each once; runs that are paused have none yet.

    Raises:
        UserError: a record is damaged.
    """
    for run_id in dict.fromkeys(run.run_id for run in runs):
        try:
            record = read_record(results, run_id)
        except UserError as error:
            raise UserError(f"{error}; the next `stableft sweep` sets it aside and does the run again") from None
        if record and record.status != "paused":
            yield record


def filed_records(paths: Iterable[Path]) -> Iterable[RunRecord]:
    """Yields the records of several files."""
    for path in paths:
        yield from read_records_file(path)


def table_of(name: str, results: Path, files: Sequence[Path], which: Checkpoint, load=None) -> Table:
    """Returns the table of a sweep file or artefact, as `material_of` has it."""
    return material_of(name, results, files, which, load).table


def material_of(name: str, results: Path, files: Sequence[Path], which: Checkpoint, load=None) -> Material:
    """Returns the report of a sweep file or artefact from run folders or, where given, from files of records.

    `name` may also be a file of records itself: then its runs are all there are, under the names stored with them,
    but for those that were trained only because others start from them.
    """
    if name.endswith(".jsonl"):
        stored = [record for record in filed_records([Path(name)]) if record.arm != START]
        runs = [PlannedRun(record.arm, record.recipe, record.config) for record in stored]
        return gather(sweep_artifact(Path(name).stem, name), runs, stored, which)
    artifact, runs = planned_runs(name, load or (lambda path: load_sweep(path, Sources())))
    records = filed_records(files) if files else stored_records(results, runs)
    return gather(artifact, runs, records, which)


def _deviations(
    records: Iterable[RunRecord], names: dict[str, list[Name]], published: set[tuple[str, str]]
) -> dict[tuple[str, str], list[str]]:
    """Returns for each arm and task with published values how its first run departs from the published setting."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        task = record.config.data.task
        for arm, recipe, _ in names[record.run_id]:
            if (arm, task) not in found and (recipe, task) in published:
                found[arm, task] = deviations(record.config, recipe)
    return found
