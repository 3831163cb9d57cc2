"""What the short commands print: names, resolved runs, how far a sweep is."""

import json
from pathlib import Path
from typing import Literal

from stableft.backbones import BACKBONES
from stableft.errors import UserError
from stableft.metrics import TITLES
from stableft.recipe import shipped_recipes
from stableft.record import CHECKPOINT_FILE, read_record, run_folder, write_records_file
from stableft.report.gather import stored_records
from stableft.report.mosbach import ARTIFACTS
from stableft.sweepfile import Sweep
from stableft.tasks import TASKS
from stableft.text import Row, columns


def list_names(what: Literal["tasks", "backbones", "recipes", "artifacts"]) -> str:
    """Returns one line for each task, model family, recipe or artefact."""
    match what:
        case "tasks":
            rows = [("task", "title", "labels", "reported metric", "hub")]
            for task in TASKS.values():
                labels = ", ".join(task.labels) or "a number"
                hub = f"{task.hub.repository}, {task.hub.config}" if task.hub else "none: generated here"
                rows.append((task.name, task.title, labels, TITLES[task.metric], hub))
        case "backbones":
            rows = [("family", "title", "example")]
            rows += [(spec.name, spec.title, spec.example) for spec in BACKBONES.values()]
        case "recipes":
            rows = [("recipe", "what it is")]
            rows += [(name, _first_comment(path)) for name, path in shipped_recipes().items()]
        case "artifacts":
            rows = [("artifact", "title", "fed by")]
            rows += [(a.id, a.title, ", ".join(f"configs/{sweep}" for sweep in a.sweeps)) for a in ARTIFACTS.values()]
    return columns(rows)


def show_runs(sweep: Sweep, form: Literal["text", "json"]) -> str:
    """Returns the resolved runs: a line each, as a table or as JSON objects with the whole config."""
    if form == "json":
        return "\n".join(
            json.dumps(
                {"run_id": r.run_id, "arm": r.arm, "recipe": r.recipe, "config": r.config.model_dump(mode="json")}
            )
            for r in sweep.runs
        )
    rows: list[Row] = [("run", "arm", "recipe", "task", "model", "init seed", "data seed")]
    for run in sweep.runs:
        config = run.config
        seeds = config.seeds
        rows.append((run.run_id, run.arm, run.recipe, config.data.task, config.model.name, seeds.init, seeds.data))
    different = len({run.run_id for run in sweep.runs})
    shared = "" if different == len(sweep.runs) else f", {different} different: arms share the others"
    return columns(rows) + f"\n{len(sweep.runs)} runs{shared}"


def sweep_status(sweep: Sweep, results: Path) -> str:
    """Returns how many runs of each arm and task are finished, failed, crashed, under way or to do."""
    kinds = ("finished", "failed", "crashed", "checkpoint", "to do", "damaged")
    counts: dict[tuple[str, str], dict[str, int]] = {}
    damaged = []
    for run in sweep.runs:
        cell = counts.setdefault((run.arm, run.config.data.task), dict.fromkeys(kinds, 0))
        try:
            record = read_record(results, run.run_id)
        except UserError as error:
            damaged.append(f"{error}; the next sweep sets it aside and does the run again")
            cell["damaged"] += 1
            continue
        if record is None:
            has_checkpoint = (run_folder(results, run.run_id) / CHECKPOINT_FILE).exists()
            cell["checkpoint" if has_checkpoint else "to do"] += 1
        else:
            cell[record.status] += 1
            cell["failed"] += bool(record.failed)
    rows = [("arm", "task", *kinds)]
    rows += [(arm, task, *cell.values()) for (arm, task), cell in counts.items()]
    note = "failed runs are finished runs that score no more than always predicting the most frequent class"
    return "\n".join([columns(rows), note, *damaged])


def folder_status(results: Path) -> str:
    """Returns how many runs of each arm, task and model a results folder holds."""
    if not (results / "runs").is_dir():
        raise UserError(f"--results {results}: there are no runs in this folder")
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    without, damaged = [], []
    for folder in sorted(path for path in (results / "runs").iterdir() if path.is_dir()):
        try:
            record = read_record(results, folder.name)
        except UserError as error:
            damaged.append(f"{error}; the next sweep of this run sets it aside and does the run again")
            continue
        if record is None:
            without.append(folder.name)
            continue
        config = record.config
        key = (record.arm, config.data.task, config.model.name)
        cell = counts.setdefault(key, {"finished": 0, "failed": 0, "crashed": 0})
        cell[record.status] += 1
        cell["failed"] += bool(record.failed)
    rows = [("arm", "task", "model", "finished", "failed", "crashed")]
    rows += [(*key, *cell.values()) for key, cell in counts.items()]
    unfinished = [f"{len(without)} unfinished: {', '.join(without)}"] if without else []
    return "\n".join([columns(rows), *unfinished, *damaged])


def export_records(sweep: Sweep, results: Path, out: Path) -> str:
    """Writes the records of a sweep's runs, in its order and under its arms' names, and returns a sentence.

    Raises:
        UserError: there is none, or a record is damaged.
    """
    by_id = {record.run_id: record for record in stored_records(results, sweep.runs)}
    records = [
        by_id[run.run_id].model_copy(update={"arm": run.arm, "recipe": run.recipe})
        for run in sweep.runs
        if run.run_id in by_id
    ]
    if not records:
        raise UserError(f"{sweep.path}: {results} has no records of its {len(sweep.runs)} runs")
    write_records_file(out, records)
    return f"wrote {len(records)} records of {len(sweep.runs)} runs to {out}"


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
