"""Functions behind the sweep commands: run, estimate, report, list, show, status and export."""

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.catalog.tasks import METRIC_TITLES, TASKS
from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.recipe import shipped_recipes
from stableft.config.run_config import RunConfig
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import Sweep, load_sweep, shipped_sweeps
from stableft.errors import UserError
from stableft.records.energy import EnergyTotals, describe_energy
from stableft.records.failure import has_failed, judged_as_planned
from stableft.records.probe_record import (
    ProbeRecord,
    ProbeRecords,
    find_probes_in_files,
    find_probes_in_results,
)
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    ImportedRun,
    RunRecord,
    UnknownSchemaError,
    read_intact_record,
    read_record,
    run_folder,
    write_records_file,
)
from stableft.records.stored_records import (
    read_all_stored_records,
    read_imported_runs,
    read_records_files,
    read_stored_records,
)
from stableft.report.artifact import Artifact, DatasetsTable, HyperparametersTable, ProbePart, groups_of
from stableft.report.other_settings import describe_padded_runs
from stableft.report.runs import ARTIFACTS, PROBE_RECORD_OF_PART, load_artifact, select_imported_runs
from stableft.sweep.claims import CLAIM_FILES
from stableft.sweep.signals import EXIT_INTERRUPTED
from stableft.sweep.start_runs import describe_start_run
from stableft.sweep.state import SweepResult, read_sweep_state
from stableft.text import TextRow, align_columns


def exit_code(result: SweepResult) -> int:
    """Return 0 if all runs finished, 1 if some crashed or are left, 130 if interrupted."""
    if result.interrupted:
        return EXIT_INTERRUPTED
    return 1 if result.crashed or result.unfinished else 0


def print_estimate(
    sweep: Sweep, results: Path, devices: str, jobs: int, execution: Execution, retry_crashed: bool = False
) -> None:
    """Check a sweep's inputs and print how many runs, how much time, memory and disk space it needs."""
    print("checking the inputs, then measuring a few steps of each setting; nothing is kept ...", flush=True)
    from stableft.sweep.devices import resolve_devices
    from stableft.sweep.local_workers import LocalExecutor
    from stableft.sweep.preflight import check_sweep_inputs, describe_odd_choices, describe_planned_rows
    from stableft.sweep.start_runs import start_runs_to_train

    names = resolve_devices(devices)
    slots = LocalExecutor(names, jobs).slots(execution)
    parents = start_runs_to_train(sweep, results, retry_crashed)
    rows = check_sweep_inputs(sweep.runs, sweep.sources, parents, execution.compile)
    choices = describe_odd_choices(sweep.runs, sweep, devices, names, jobs, execution.tf32)
    padded = (f"note: {results}: {line}" for line in describe_padded_runs(sweep.runs, sweep.start_runs, results))
    for line in (*describe_planned_rows(sweep.runs, rows), *padded, *choices):
        print(line, flush=True)
    from stableft.sweep.estimate import estimate_sweep, render_estimate  # loads torch and transformers: seconds

    show = partial(print, flush=True)
    print(render_estimate(estimate_sweep(sweep, results, slots[0][1], len(slots), retry_crashed, show)))


def print_report(sweep: Sweep, results: Path) -> None:
    """Save the report on a sweep's finished runs, if any, in the results folder, and print it.

    If nothing has changed since it was made, the files are left as they are and the text is printed again.
    """
    from stableft.report.kept_report import keep_report, read_kept_report, report_key

    folder, key = results / "sweeps" / sweep.name, report_key(sweep, results)
    if text := read_kept_report(folder, key):
        print(text)
        return
    from stableft.records.stored_records import read_stored_records
    from stableft.report.artifact import make_sweep_artifact
    from stableft.report.build import build_report
    from stableft.report.figures.from_tests import TEST_FIGURE_ALTS
    from stableft.report.figures.of_artifact import SWEEP_FIGURE_ALTS
    from stableft.report.forms.write import render_report, save_sweep_report
    from stableft.report.runs import collect_runs

    records = read_stored_records(results, sweep.runs)
    planned = [(str(sweep.path), run) for run in sweep.runs]
    artifact, ids = make_sweep_artifact(sweep.name, str(sweep.path)), [run.run_id for run in sweep.runs]
    runs = collect_runs(artifact, planned, records, find_probes=lambda: find_probes_in_results(results, ids))
    if runs.frame.empty:
        return
    report = build_report(runs)
    line, written = None, False
    try:
        line, written = save_sweep_report(report, folder, (*SWEEP_FIGURE_ALTS, *TEST_FIGURE_ALTS))
    finally:  # after the files, and even without them
        text = f"\n{render_report(report, 'text')}"
        print(text, flush=True)
    if line:
        print(line)
    if written:
        keep_report(folder, key, f"{text}\n{line}")


def print_scores(results: Path, run_id: str) -> None:
    """Print every score of a run, if it has finished."""
    record = read_record(results, run_id)
    if record and record.last and record.best:
        print(f"run {run_id} in {run_folder(results, run_id)}")
        for name, scores in (("last", record.last), ("best", record.best)):
            for split, values in (("validation", scores.val), ("test", scores.test or {})):
                for metric, value in values.items():
                    print(f"{name:<4}  step {scores.step:<6} {split:<10} {metric:<11} {value:.4f}")


PROBE_TITLES = {"grad_norms": "gradient norms", "drift": "drift", "perplexity": "perplexity", "surface": "surfaces"}


def list_names(what: Literal["tasks", "backbones", "recipes", "sweeps"]) -> str:
    """Return a table with one line per task, model family, recipe or shipped sweep file."""
    match what:
        case "tasks":
            rows = [("task", "title", "labels", "reported metric", "hub")]
            for task in TASKS.values():
                labels = ", ".join(task.labels) or "a number"
                hub = f"{task.hub.repository}, {task.hub.config}" if task.hub else "none: generated locally"
                rows.append((task.name, task.title, labels, METRIC_TITLES[task.metric], hub))
        case "backbones":
            rows = [("family", "title", "example", "Re-init resets", "heads", "attention", "segments", "blocks")]
            rows += [_backbone_row(spec) for spec in BACKBONES.values()]
        case "recipes":
            rows = [("recipe", "description")]
            for name, path in shipped_recipes().items():  # by convention, a recipe's first line describes it
                rows.append((name, path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")))
        case "sweeps":
            rows = [("sweep", "runs", "description")]
            for name, path in shipped_sweeps().items():  # by convention: # command, then description, then runs
                *_, text, runs = path.read_text(encoding="utf-8").splitlines()[0].split("      ")
                rows.append((name, runs.strip().removesuffix(" runs"), text.strip()))
    return align_columns(rows)


def list_artifacts(results: Path, files: Sequence[Path]) -> str:
    """Return a table of the papers' tables and figures: their source, and how many of their runs have finished.

    Runs are read from `files` of records if given, else from the results folder, of whose record files only the
    imported runs count.
    """
    with_probes: set[Path] = set()
    records = (
        read_records_files(files, with_probes)
        if files
        else itertools.chain(read_all_stored_records(results), read_imported_runs(results))
    )
    finished: set[str] = set()
    imported: list[ImportedRun] = []
    for record in records:
        if isinstance(record, ImportedRun):
            imported.append(record)
        elif record.status == "finished":
            finished.add(record.run_id)
    probed = find_probes_in_files(sorted(with_probes)) if files else find_probes_in_results(results, finished)
    rows: list[TextRow] = [("artifact", "title", "runs", "source")]
    load = cache(lambda name: load_sweep(name, LocalPaths()))  # several artifacts share a sweep file
    for artifact in ARTIFACTS.values():
        _, planned = load_artifact(artifact.id, load)
        runs = [run for _, run in planned]
        ids = {run.run_id for run in runs}
        shown = list(select_imported_runs(imported, artifact, runs))
        count = f"{len(ids & finished):,} of {len(ids):,}" + (f", {len(shown):,} imported" if shown else "")
        source = _describe_sources(artifact, _count_probe_records(artifact, runs, finished, probed))
        names = ", ".join(dict.fromkeys(record.source.name for record in shown))
        source += f"; imported from {names}" if names else ""
        rows.append((artifact.id, artifact.title.partition(": ")[2], count if ids else "-", source))
    return align_columns(rows)


def _count_probe_records(
    artifact: Artifact, runs: Sequence[PlannedRun], finished: Collection[str], probed: ProbeRecords
) -> int:
    """Return the number of available probe records that an artefact can show."""
    ids_by_kind: dict[type[ProbeRecord], set[str]] = {}  # sets: several parts may show the same run
    for part in artifact.parts:
        if isinstance(part, ProbePart):
            places = {(group.arm, group.task) for group in groups_of(part)}
            ids_by_kind.setdefault(PROBE_RECORD_OF_PART[type(part)], set()).update(
                run.run_id for run in runs if (run.arm, run.config.data.task) in places and run.run_id in finished
            )
    return sum(len(probed.about(kind, ids)) for kind, ids in ids_by_kind.items())


def _describe_sources(artifact: Artifact, probe_records: int) -> str:
    if not artifact.sweeps:
        kind = artifact.parts[0]
        return {DatasetsTable: "the data sets", HyperparametersTable: "the recipes"}.get(type(kind), "a formula")
    sweeps = ", ".join(f"configs/{sweep}" for sweep in artifact.sweeps)
    if not any(isinstance(part, ProbePart) for part in artifact.parts):
        return sweeps
    need = "needs probes" if artifact.shows_only_probes else "some parts need probes"
    return f"{sweeps}; {need} ({probe_records:,} found)"


def _backbone_row(spec: BackboneSpec) -> TextRow:
    reinitialized = [*(["pooler"] if spec.pooler else []), *([] if spec.shares_blocks else ["blocks"])]
    return (
        spec.name,
        spec.title,
        spec.example,
        ", ".join(reinitialized),
        "stock, paper" if spec.paper_head else "stock",
        "eager, sdpa" if spec.sdpa else "eager",
        "two" if spec.segment_ids else "none",
        ", ".join(spec.blocks),
    )


def render_runs(sweep: Sweep, format_: Literal["text", "json"]) -> str:
    """Return the resolved runs, one per line, as a table or as JSON objects with the whole config."""
    if format_ == "json":
        return "\n".join(
            json.dumps(
                {
                    "run_id": r.run_id,
                    "arm": r.arm,
                    "recipe": r.recipe,
                    "report": r.report,
                    "config": r.config.model_dump(mode="json"),
                }
            )
            for r in sweep.runs
        )
    rows: list[TextRow] = [("run", "arm", "recipe", "task", "model", "init seed", "data seed")]
    for run in sweep.runs:
        config = run.config
        seeds = config.seeds
        rows.append((run.run_id, run.arm, run.recipe, config.data.task, _model_name(config), seeds.init, seeds.data))
    unique = len({run.run_id for run in sweep.runs})
    shared = "" if unique == len(sweep.runs) else f", {unique} of them unique: some arms share runs"
    start_runs = [f"{describe_start_run(start, sweep.runs)}, is trained first" for start in sweep.start_runs]
    return "\n".join([align_columns(rows), *start_runs, f"{len(sweep.runs)} runs{shared}"])


def _model_name(config: RunConfig | CommandConfig) -> str:
    return config.model.name if isinstance(config, RunConfig) else "(a command)"


def render_sweep_status(sweep: Sweep, results: Path) -> str:
    """Return a table that counts the runs of each arm and task by status."""
    statuses = ("finished", "failed", "crashed", "stopped", "checkpoint", "to do", "damaged")
    counts: dict[tuple[str, str], dict[str, int]] = {}
    damaged, energy, seen = [], EnergyTotals(), set[str]()
    for run in sweep.runs:
        cell = counts.setdefault((run.arm, run.config.data.task), dict.fromkeys(statuses, 0))
        try:
            record = read_record(results, run.run_id)
        except UnknownSchemaError:
            raise
        except UserError as error:
            damaged.append(f"{error}; the next sweep sets it aside and repeats the run")
            cell["damaged"] += 1
            continue
        if record is None or record.status == "paused":  # paused: mid-run, waiting for its early-stopping rank
            has_checkpoint = (run_folder(results, run.run_id) / CHECKPOINT_FILE).exists()
            cell["checkpoint" if has_checkpoint else "to do"] += 1
        else:
            cell[record.status] += 1
            cell["failed"] += bool(has_failed(judged_as_planned(record, run.config)))
            if record.environment and run.run_id not in seen:
                energy.add(record.environment.energy, record.environment.device)
                seen.add(run.run_id)
    rows = [("arm", "task", *statuses)]
    rows += [(arm, task, *cell.values()) for (arm, task), cell in counts.items()]
    notes = ["failed: finished, but no better than chance, or in NaN"]
    notes += describe_padded_runs(sweep.runs, sweep.start_runs, results)
    if any(cell["stopped"] for cell in counts.values()):
        notes.append("stopped: early-stopped as hopeless; a sweep without stop_hopeless resumes these runs")
    notes += describe_energy(energy)
    state = read_sweep_state(results, sweep.start_runs, look_only=True)
    status_of = {
        record.run_id: "failed" if has_failed(record) else record.status for record in (*state.finished, *state.crashed)
    }
    status_of |= {run.run_id: "has a checkpoint" for run in state.unfinished}
    start_runs = [
        f"{describe_start_run(start, sweep.runs)}: {status_of.get(start.run_id, 'to do')}" for start in sweep.start_runs
    ]
    return "\n".join([align_columns(rows), *notes, *start_runs, *damaged])


def render_folder_status(results: Path) -> str:
    """Return a table that counts the runs in a results folder by status, for each arm, task and model."""
    if not (results / "runs").is_dir():
        raise UserError(f"--results {results}: this folder contains no runs")
    counts: dict[tuple, dict[str, int]] = {}
    names: dict[tuple, str] = {}  # of models, the first of each: a folder that was renamed is the same model
    unfinished, damaged, energy = [], [], EnergyTotals()
    for folder in sorted(path for path in (results / "runs").iterdir() if path.is_dir()):
        if {path.name for path in folder.iterdir()} <= CLAIM_FILES:  # what `clean` leaves of a run
            continue
        try:
            record = read_record(results, folder.name)
        except UnknownSchemaError:
            raise
        except UserError as error:
            damaged.append(f"{error}; the next sweep that includes this run sets it aside and repeats the run")
            continue
        if record is None or record.status == "paused":
            unfinished.append(folder.name)
            continue
        config = record.config
        identity = config.model.identity if isinstance(config, RunConfig) else (config.setting_id(),)
        name = names.setdefault(identity, _model_name(config))
        key = (record.arm, config.data.task, name, identity)
        cell = counts.setdefault(key, {"finished": 0, "failed": 0, "crashed": 0, "stopped": 0})
        cell[record.status] += 1
        cell["failed"] += bool(has_failed(record))
        if record.environment:
            energy.add(record.environment.energy, record.environment.device)
    rows = [("arm", "task", "model", "finished", "failed", "crashed", "stopped")]
    rows += [(*key[:3], *cell.values()) for key, cell in counts.items()]
    notes = [f"{len(unfinished)} unfinished: {', '.join(unfinished)}"] if unfinished else []
    notes += describe_energy(energy)
    return "\n".join([align_columns(rows), *notes, *damaged])


def read_sweep_records(sweep: Sweep, results: Path) -> Iterator[RunRecord]:
    """Yield the records of a sweep's runs, in the sweep's order, one at a time.

    A record names the arm that trained its run first, and the checkpoint it reports; these name those of the sweep.

    Raises:
        UserError: None of the runs has a record that is not damaged.
    """
    arms = Counter(run.run_id for run in sweep.runs)
    shared: dict[str, RunRecord] = {}  # by several arms
    none = True
    for run in sweep.runs:
        record = shared.get(run.run_id) or next(iter(read_stored_records(results, [run])), None)
        if record is None:
            continue
        none = False
        if arms[run.run_id] > 1:
            shared[run.run_id] = record
        yield record.model_copy(update={"arm": run.arm, "recipe": run.recipe, "report": run.report})
    if none:
        padded = "".join(f"; {line}" for line in describe_padded_runs(sweep.runs, sweep.start_runs, results))
        raise UserError(f"{sweep.path}: {results} has no records of its {len(sweep.runs)} runs{padded}")


def export_records(sweep: Sweep, results: Path, out: Path) -> str:
    """Write the records of a sweep's runs to a file, and return a summary; raises what `read_sweep_records` does."""
    counts: Counter[str] = Counter()
    write_records_file(out, _exported_records(sweep, results, counts))
    runs, starts = counts.pop("runs"), counts.pop("start runs", 0)
    more = f", plus {starts} start run{'s' * (starts != 1)}" if starts else ""
    kinds = ", ".join(f"{PROBE_TITLES[kind]}: {n}" for kind, n in counts.items())
    more += f", plus {counts.total()} probe records ({kinds})" if counts else ""
    return f"wrote {runs} records of {len(sweep.runs)} runs to {out}{more}"


def _exported_records(sweep: Sweep, results: Path, counts: Counter[str]) -> Iterator[RunRecord | ProbeRecord]:
    """Yield and count what the file of an export holds: runs, the runs that they start from, and probes."""
    ids: set[str] = set()
    start_ids: dict[str, None] = {}
    for record in read_sweep_records(sweep, results):
        counts["runs"] += 1
        ids.add(record.run_id)
        if record.config.start_from:
            start_ids[record.config.start_from.run] = None
        yield record
    # The start runs too, so that the file documents where the initial weights come from. Reports skip START_ARM.
    for run_id in [one for one in start_ids if one not in ids]:
        if record := read_intact_record(results, run_id):
            counts["start runs"] += 1
            ids.add(run_id)
            yield record.model_copy(update={"arm": START_ARM})
    yield from _probe_records_of(ids, results, counts)


def _probe_records_of(run_ids: set[str], results: Path, counts: Counter[str]) -> Iterator[ProbeRecord]:
    """Yield and count the probe records of these runs; of surfaces only those between two of them."""
    for ref in find_probes_in_results(results, sorted(run_ids)).refs:
        if run_ids.issuperset(ref.run_ids):
            record = ref.read()
            counts[record.probe] += 1
            yield record
