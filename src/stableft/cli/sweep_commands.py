"""What the sweep commands call: load a sweep, run it, print its report, list what is there."""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.catalog.tasks import METRIC_TITLES, TASKS
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.recipe import shipped_recipes
from stableft.config.sweep_file import START_ARM, Sweep, load_sweep
from stableft.errors import UserError
from stableft.records.probe_record import (
    ProbeRecord,
    ProbeRecords,
    find_probes_in_files,
    find_probes_in_results,
)
from stableft.records.run_record import CHECKPOINT_FILE, ImportedRun, read_record, run_folder, write_records_file
from stableft.report.artifact import Artifact, ArtifactPart, DatasetsTable, HyperparametersTable, ProbePart, groups_of
from stableft.report.figures.from_probes import PROBE_RECORD_OF_PART
from stableft.report.runs import (
    ARTIFACTS,
    load_artifact,
    read_all_stored_records,
    read_records_files,
    read_stored_records,
)
from stableft.sweep.start_runs import describe_start_run
from stableft.sweep.state import read_sweep_state
from stableft.sweep.workers import EXIT_INTERRUPTED
from stableft.text import TextRow, align_columns


def run_with_progress(
    plan: Sweep,
    results: Path,
    devices: str,
    jobs: int,
    execution: Execution,
    retry_crashed: bool = False,
    fail_fast: bool = False,
) -> int:
    """Does the runs under a display and returns the exit code: 0 all finished, 1 some crashed, 130 interrupted.

    Raises:
        UserError: what is to be run cannot be; then nothing is left behind.
    """
    from stableft.sweep.preflight import check_sweep_inputs
    from stableft.sweep.progress import closing_line, open_display
    from stableft.sweep.run_sweep import run_sweep
    from stableft.sweep.start_runs import start_runs_to_train
    from stableft.sweep.workers import resolve_devices

    slots = resolve_devices(devices)
    fingerprints = check_sweep_inputs(plan.runs, plan.sources, start_runs_to_train(plan, results, retry_crashed))
    made = not results.exists()
    results.mkdir(parents=True, exist_ok=True)
    if not os.access(results, os.W_OK):
        raise UserError(f"--results {results}: nothing can be written to this folder")
    try:
        with open_display() as display:
            outcome = run_sweep(
                plan,
                results,
                slots,
                jobs,
                execution,
                retry_crashed,
                fail_fast,
                display,
                fingerprint=lambda config, _: fingerprints[config.run_id],
            )
    except UserError:
        if made:
            with contextlib.suppress(OSError):  # runs were done before the mistake was found
                results.rmdir()
        raise
    print(closing_line(outcome))
    if outcome.interrupted:
        return EXIT_INTERRUPTED
    return 1 if outcome.crashed or outcome.unfinished else 0


def print_estimate(
    plan: Sweep, results: Path, devices: str, jobs: int, execution: Execution, retry_crashed: bool = False
) -> None:
    """Prints runs, time, memory and disk of a sweep, after a look at its inputs.

    Raises:
        UserError: they cannot be used.
    """
    from stableft.sweep.estimate import estimate_sweep, render_estimate
    from stableft.sweep.preflight import check_sweep_inputs
    from stableft.sweep.start_runs import start_runs_to_train
    from stableft.sweep.workers import make_slots, resolve_devices

    slots = make_slots(resolve_devices(devices), jobs, execution)
    check_sweep_inputs(plan.runs, plan.sources, start_runs_to_train(plan, results, retry_crashed))
    print(render_estimate(estimate_sweep(plan, results, slots[0].execution, len(slots), retry_crashed)))


def print_report(plan: Sweep, results: Path) -> None:
    """Prints the table of a sweep's finished runs, if there are any, and keeps it in the results folder."""
    from stableft.records.probe_record import find_probes_in_results
    from stableft.report.artifact import make_sweep_artifact
    from stableft.report.build import build_report
    from stableft.report.forms.write import render_report, save_sweep_report
    from stableft.report.runs import collect_runs, read_stored_records

    records = list(read_stored_records(results, plan.runs))
    if records:
        planned = [(str(plan.path), run) for run in plan.runs]
        artifact, ids = make_sweep_artifact(plan.name, str(plan.path)), [run.run_id for run in plan.runs]
        report = build_report(
            collect_runs(artifact, planned, records, find_probes=lambda: find_probes_in_results(results, ids))
        )
        print(f"\n{render_report(report, 'md')}", flush=True)
        if line := save_sweep_report(report, results / "sweeps" / plan.name):
            print(line)


def print_scores(results: Path, run_id: str) -> None:
    """Prints every score of a run, if it has a record with any."""
    record = read_record(results, run_id)
    if record and record.last and record.best:
        print(f"run {run_id} in {run_folder(results, run_id)}")
        for name, scores in (("last", record.last), ("best", record.best)):
            for split, values in (("validation", scores.val), ("test", scores.test or {})):
                for metric, value in values.items():
                    print(f"{name:<4}  step {scores.step:<6} {split:<10} {metric:<11} {value:.4f}")


PROBE_TITLES = {"grad_norms": "gradient norms", "drift": "drift", "perplexity": "perplexity", "surface": "surfaces"}


def list_names(what: Literal["tasks", "backbones", "recipes"]) -> str:
    """Returns one line for each task, model family or recipe."""
    match what:
        case "tasks":
            rows = [("task", "title", "labels", "reported metric", "hub")]
            for task in TASKS.values():
                labels = ", ".join(task.labels) or "a number"
                hub = f"{task.hub.repository}, {task.hub.config}" if task.hub else "none: generated here"
                rows.append((task.name, task.title, labels, METRIC_TITLES[task.metric], hub))
        case "backbones":
            rows = [("family", "title", "example", "Re-init draws", "heads", "attention", "segments", "blocks")]
            rows += [_backbone_row(spec) for spec in BACKBONES.values()]
        case "recipes":
            rows = [("recipe", "what it is")]
            rows += [(name, _first_comment(path)) for name, path in shipped_recipes().items()]
    return align_columns(rows)


def list_artifacts(results: Path, files: Sequence[Path]) -> str:
    """Returns a line for each table and figure of the papers: what feeds it, and how many of its runs are there.

    Runs are those of a results folder or, where given, of files of records.
    """
    with_probes: set[Path] = set()
    records = read_records_files(files, with_probes) if files else read_all_stored_records(results)
    finished = {
        record.run_id: (record.arm, record.task) if isinstance(record, ImportedRun) else None
        for record in records
        if record.status == "finished"
    }
    probed = find_probes_in_files(sorted(with_probes)) if files else find_probes_in_results(results, finished)
    rows: list[TextRow] = [("artifact", "title", "runs", "fed by")]
    load = cache(lambda name: load_sweep(name, LocalPaths()))
    for artifact in ARTIFACTS.values():
        _, planned = load_artifact(artifact.id, load)
        runs = [run for _, run in planned]
        places = {(run.arm, run.config.data.task) for run in runs}
        ids = {run.run_id for run in runs}
        there = len(ids & finished.keys())
        imported = sum(place in places for place in finished.values() if place)
        count = f"{there:,} of {len(ids):,}" + (f", {imported:,} imported" if imported else "")
        fed = _artifact_sources(artifact, _count_probe_records(artifact, runs, finished.keys(), probed))
        rows.append((artifact.id, artifact.title.partition(": ")[2], count if ids else "-", fed))
    return align_columns(rows)


def _count_probe_records(
    artifact: Artifact, runs: Sequence[PlannedRun], finished: Collection[str], probed: ProbeRecords
) -> int:
    """Returns how many records of probes there are that an artefact shows or could show."""

    def of(part: ArtifactPart) -> set[str]:
        places = {(group.arm, group.task) for group in groups_of(part)}
        return {run.run_id for run in runs if (run.arm, run.config.data.task) in places and run.run_id in finished}

    parts = [part for part in artifact.parts if isinstance(part, ProbePart)]
    kinds = {PROBE_RECORD_OF_PART[type(part)]: set[str]() for part in parts}
    for part in parts:
        kinds[PROBE_RECORD_OF_PART[type(part)]] |= of(part)
    return sum(len(probed.about(kind, ids)) for kind, ids in kinds.items())


def _artifact_sources(artifact: Artifact, probes: int) -> str:
    if not artifact.sweeps:
        kind = artifact.parts[0]
        return {DatasetsTable: "the data sets", HyperparametersTable: "the recipes"}.get(type(kind), "a formula")
    fed = ", ".join(f"configs/{sweep}" for sweep in artifact.sweeps)
    if not any(isinstance(part, ProbePart) for part in artifact.parts):
        return fed
    return f"{'' if artifact.needs_probes else 'in part '}needs probes ({probes:,} there): {fed}"


def _backbone_row(spec: BackboneSpec) -> TextRow:
    drawn = [*(["pooler"] if spec.pooler else []), *([] if spec.shares_blocks else ["blocks"])]
    return (
        spec.name,
        spec.title,
        spec.example,
        ", ".join(drawn),
        "stock, paper" if spec.paper_head else "stock",
        "eager, sdpa" if spec.sdpa else "eager",
        "two" if spec.segment_ids else "none",
        ", ".join(spec.blocks),
    )


def render_runs(sweep: Sweep, form: Literal["text", "json"]) -> str:
    """Returns the resolved runs: a line each, as a table or as JSON objects with the whole config."""
    if form == "json":
        return "\n".join(
            json.dumps(
                {"run_id": r.run_id, "arm": r.arm, "recipe": r.recipe, "config": r.config.model_dump(mode="json")}
            )
            for r in sweep.runs
        )
    rows: list[TextRow] = [("run", "arm", "recipe", "task", "model", "init seed", "data seed")]
    for run in sweep.runs:
        config = run.config
        seeds = config.seeds
        rows.append((run.run_id, run.arm, run.recipe, config.data.task, config.model.name, seeds.init, seeds.data))
    different = len({run.run_id for run in sweep.runs})
    shared = "" if different == len(sweep.runs) else f", {different} different: arms share the others"
    first = [f"{describe_start_run(parent, sweep.runs)}, is trained first" for parent in sweep.parents]
    return "\n".join([align_columns(rows), *first, f"{len(sweep.runs)} runs{shared}"])


def render_sweep_status(sweep: Sweep, results: Path) -> str:
    """Returns how many runs of each arm and task are finished, failed, crashed, under way or to do."""
    kinds = ("finished", "failed", "crashed", "stopped", "checkpoint", "to do", "damaged")
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
        if record is None or record.status == "paused":
            has_checkpoint = (run_folder(results, run.run_id) / CHECKPOINT_FILE).exists()
            cell["checkpoint" if has_checkpoint else "to do"] += 1
        else:
            cell[record.status] += 1
            cell["failed"] += bool(record.failed)
    rows = [("arm", "task", *kinds)]
    rows += [(arm, task, *cell.values()) for (arm, task), cell in counts.items()]
    notes = ["failed runs are finished runs that score no more than always predicting the most frequent class"]
    if any(cell["stopped"] for cell in counts.values()):
        notes.append("stopped runs were ended early as hopeless; without stop_hopeless a sweep takes them up again")
    state = read_sweep_state(results, sweep.parents, look_only=True)
    words = {
        record.run_id: "failed" if record.failed else record.status for record in (*state.finished, *state.crashed)
    }
    words |= {run.run_id: "has a checkpoint" for run in state.unfinished}
    first = [
        f"{describe_start_run(parent, sweep.runs)}: {words.get(parent.run_id, 'to do')}" for parent in sweep.parents
    ]
    return "\n".join([align_columns(rows), *notes, *first, *damaged])


def render_folder_status(results: Path) -> str:
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
        if record is None or record.status == "paused":
            without.append(folder.name)
            continue
        config = record.config
        key = (record.arm, config.data.task, config.model.name)
        cell = counts.setdefault(key, {"finished": 0, "failed": 0, "crashed": 0, "stopped": 0})
        cell[record.status] += 1
        cell["failed"] += bool(record.failed)
    rows = [("arm", "task", "model", "finished", "failed", "crashed", "stopped")]
    rows += [(*key, *cell.values()) for key, cell in counts.items()]
    unfinished = [f"{len(without)} unfinished: {', '.join(without)}"] if without else []
    return "\n".join([align_columns(rows), *unfinished, *damaged])


def export_records(sweep: Sweep, results: Path, out: Path) -> str:
    """Writes the records of a sweep's runs, in its order and under its arms' names, and returns a sentence.

    Raises:
        UserError: there is none, or a record is damaged.
    """
    by_id = {record.run_id: record for record in read_stored_records(results, sweep.runs)}
    records = [
        by_id[run.run_id].model_copy(update={"arm": run.arm, "recipe": run.recipe})
        for run in sweep.runs
        if run.run_id in by_id
    ]
    if not records:
        raise UserError(f"{sweep.path}: {results} has no records of its {len(sweep.runs)} runs")
    # What runs start from comes with them, under a name by which reports leave it out.
    starts = {record.config.start_from.run: None for record in records if record.config.start_from}
    parents = [record for run_id in starts if run_id not in by_id and (record := read_record(results, run_id))]
    written = [*records, *(record.model_copy(update={"arm": START_ARM}) for record in parents)]
    probes: Counter[str] = Counter()
    write_records_file(out, itertools.chain(written, _probe_records_of({r.run_id for r in written}, results, probes)))
    more = f", and of {len(parents)} that they start from" if parents else ""
    kinds = ", ".join(f"{n} of {PROBE_TITLES[kind]}" for kind, n in probes.items())
    more += f"; after them {probes.total()} of probes ({kinds})" if probes else ""
    return f"wrote {len(records)} records of {len(sweep.runs)} runs to {out}{more}"


def _probe_records_of(run_ids: set[str], results: Path, counts: Counter[str]) -> Iterator[ProbeRecord]:
    """Yield and count the probe records of these runs; of surfaces only those between two of them."""
    for ref in find_probes_in_results(results, sorted(run_ids)).refs:
        if run_ids.issuperset(ref.run_ids):
            record = ref.read()
            counts[record.probe] += 1
            yield record


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
