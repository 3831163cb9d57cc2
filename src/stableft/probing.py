"""What a sweep keeps of its runs besides their records: its key `probes`, and what finished runs lack of all that."""

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from stableft.errors import UserError, nearest
from stableft.plan import NO_PROBES, Execution, PlannedRun, Probes
from stableft.probe_record import PROBES_FILE, Drift, GradNorms, ProbeRecord, read_probes
from stableft.record import BEST_FOLDER, LAST_FOLDER, PREDICTIONS_FILE, RunRecord, run_folder

KEY = "probes"
NAMES = tuple(field.name for field in fields(Probes))
EXAMPLE = "{grad_norms: {every: 10}, drift: {every: 10}}, or one of the two"
SAVED: dict[Literal["none", "best", "last", "all"], tuple[str, ...]] = {
    "none": (),
    "best": (BEST_FOLDER,),
    "last": (LAST_FOLDER,),
    "all": (BEST_FOLDER, LAST_FOLDER),
}


def parse_probes(value: Any, where: str) -> Probes:
    """Returns the probes that a sweep's `probes` names, none for null.

    Raises:
        UserError: it is no mapping of probes to how often they record.
    """
    if value is None:
        return NO_PROBES
    if not isinstance(value, dict):
        raise UserError(f"{where}: probes must be {EXAMPLE}, not {value!r}")
    every: dict[str, int] = {}
    for name, given in value.items():
        if name not in NAMES:
            raise UserError(
                f"{where}: probes: {name!r} is not known{nearest(str(name), NAMES)}; there are {', '.join(NAMES)}"
            )
        if given is None:
            continue
        if not isinstance(given, dict) or set(given) != {"every"}:
            raise UserError(f"{where}: probes: {name} must be {{every: 10}}, in optimizer steps, not {given!r}")
        steps = given["every"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"{where}: probes: {name}: every: {steps!r} must be a whole number of steps from 1")
        every[name] = steps
    return Probes(**every)


def lacking(results: Path, run: PlannedRun, record: RunRecord, execution: Execution) -> tuple[str, ...]:
    """Returns in words what is asked for of a finished run that is not in its folder, such as "drift", "last weights".

    Best weights of a run that diverged may never have been. Predictions, which every run leaves, are looked for only
    where what is lacking is to be made.
    """
    folder = run_folder(results, record.run_id)
    words = [name.replace("_", " ") for name in NAMES if getattr(run.probes, name) and name not in _kinds(folder)]
    for name in SAVED[execution.save]:
        if not (folder / name).is_dir() and not (name == BEST_FOLDER and record.reason):
            words.append(f"{name.removeprefix('model-')} weights")
    if execution.complete and not (folder / PREDICTIONS_FILE).is_file():
        words.append("predictions")
    return tuple(words)


def keep_probes(results: Path, run: PlannedRun) -> PlannedRun:
    """Returns a finished run to be trained again, with the probes whose records that would otherwise remove."""
    has = _kinds(run_folder(results, run.run_id))
    return replace(run, probes=Probes(**{name: getattr(run.probes, name) or has.get(name) for name in NAMES}))


def keep_weights(results: Path, run_ids: Iterable[str], execution: Execution) -> Execution:
    """Returns an execution that also keeps the weights which training these runs again would otherwise remove."""
    folders = [run_folder(results, run_id) for run_id in run_ids]
    there = {name for name in (BEST_FOLDER, LAST_FOLDER) if any((folder / name).is_dir() for folder in folders)}
    names = there | {*SAVED[execution.save]}
    return replace(execution, save=next(save for save, kept in SAVED.items() if {*kept} == names))


def _kinds(folder: Path) -> dict[str, int]:
    """Returns which probes of a run's training are in its folder, and every how many steps they recorded."""
    return {record.probe: _every(record) for record in read_probes(folder / PROBES_FILE)}


def _every(record: ProbeRecord) -> int:
    """Returns the steps between two records; the first is that of step 1, or 0."""
    assert isinstance(record, GradNorms | Drift)
    later = [step for step in record.steps if step > 1]
    return later[0] if later else 1
