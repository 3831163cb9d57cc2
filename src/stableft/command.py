"""What several commands do: look at their options, load a sweep, run it, print what came out."""

import contextlib
import os
from pathlib import Path

from stableft.errors import UserError
from stableft.launch.signals import INTERRUPTED
from stableft.plan import Execution, Sources
from stableft.record import read_record, run_folder
from stableft.sweepfile import Sweep, load_sweep


def check_results(results: Path) -> None:
    """Raises UserError if `results` is no place for a folder."""
    there = next((path for path in (results, *results.parents) if path.exists()), results)
    if there.exists() and not there.is_dir():
        raise UserError(f"--results {results}: {there} is a file, not a folder")


def check_out(out: Path) -> None:
    """Raises UserError if `out` is no place for a file."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def load(config: str, data_dir: Path | None, sets: list[str], arms: str, seeds: str | None) -> Sweep:
    """Returns the sweep that the options of a command choose.

    Raises:
        UserError: an option or the file cannot be used.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    chosen = [name.strip() for name in arms.split(",") if name.strip()]
    return load_sweep(config, Sources(data_dir=data_dir), sets, chosen, seeds)


def run(
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
    from stableft.display import closing_line, open_display
    from stableft.launch.local import resolve_devices
    from stableft.parents import parents_to_train
    from stableft.preflight import check_inputs
    from stableft.stages import run_stages

    slots = resolve_devices(devices)
    fingerprints = check_inputs(plan.runs, plan.sources, parents_to_train(plan, results, retry_crashed))
    made = not results.exists()
    results.mkdir(parents=True, exist_ok=True)
    if not os.access(results, os.W_OK):
        raise UserError(f"--results {results}: nothing can be written to this folder")
    try:
        with open_display() as display:
            outcome = run_stages(
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
        return INTERRUPTED
    return 1 if outcome.crashed or outcome.left else 0


def print_estimate(
    plan: Sweep, results: Path, devices: str, jobs: int, execution: Execution, retry_crashed: bool = False
) -> None:
    """Prints runs, time, memory and disk of a sweep, after a look at its inputs.

    Raises:
        UserError: they cannot be used.
    """
    from stableft.estimate import estimate, render_estimate
    from stableft.launch.local import resolve_devices, slots_for
    from stableft.parents import parents_to_train
    from stableft.preflight import check_inputs

    slots = slots_for(resolve_devices(devices), jobs, execution)
    check_inputs(plan.runs, plan.sources, parents_to_train(plan, results, retry_crashed))
    print(render_estimate(estimate(plan, results, slots[0].execution, len(slots), retry_crashed)))


def print_report(plan: Sweep, results: Path) -> None:
    """Prints the table of a sweep's finished runs, if there are any, and keeps it in the results folder."""
    from stableft.report.artifact import sweep_artifact
    from stableft.report.build import build
    from stableft.report.files import keep_report
    from stableft.report.gather import gather, stored_records
    from stableft.report.probes import probed_in_results
    from stableft.report.render import render

    records = list(stored_records(results, plan.runs))
    if records:
        planned = [(str(plan.path), run) for run in plan.runs]
        artifact, ids = sweep_artifact(plan.name, str(plan.path)), [run.run_id for run in plan.runs]
        report = build(gather(artifact, planned, records, find_probes=lambda: probed_in_results(results, ids)))
        print(f"\n{render(report, 'md')}", flush=True)
        if line := keep_report(report, results / "sweeps" / plan.name):
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
