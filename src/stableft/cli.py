"""The command line: parse, call one function, print. Nothing heavy is imported before a command needs it."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.errors import UserError
from stableft.options import Arms, Config, DataDir, Devices, Every, Jobs, Micro, Results, Save, Score, Seeds, Sets

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Is my fine-tuning stable? Trains recipes x seeds, survives interruption, and ends in tables with statistics.",
)
data_app = typer.Typer(no_args_is_help=True, help="What a data set holds, and fetching it.")
app.add_typer(data_app, name="data")

INTERRUPTED = 130  # as shells have it for Ctrl-C
NO_SETS: list[str] = []


def main() -> None:
    """Runs the command line; what the user got wrong is one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"stableft: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:  # not about a place that the user could have named
            raise
        print(f"stableft: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before any run has started; a sweep under way stops by itself
        sys.exit(INTERRUPTED)


@app.callback()
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        from stableft import __version__

        print(f"stableft {__version__}")
        raise typer.Exit


@app.command()
def sweep(
    config: Config,
    results: Results = Path("results"),
    data_dir: DataDir = None,
    set_: Sets = NO_SETS,
    arms: Arms = "",
    seeds: Seeds = None,
    devices: Devices = "auto",
    jobs_per_device: Jobs = 1,
    save: Save = "none",
    checkpoint_every: Every = None,
    micro_batch: Micro = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, time, memory and disk; train nothing.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first crash.")] = False,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Do crashed runs again.")] = False,
) -> None:
    """Train every run of a sweep that is not done yet, and print its report."""
    from stableft.plan import Execution

    _check_results(results)
    plan = _load(config, data_dir, set_, arms, seeds)
    execution = Execution(micro_batch=micro_batch, checkpoint_every=checkpoint_every, save=save)
    if dry_run:
        from stableft.estimate import estimate, render_estimate
        from stableft.launch.local import resolve_devices, slots_for
        from stableft.preflight import check_inputs

        slots = slots_for(resolve_devices(devices), jobs_per_device, execution)
        check_inputs(plan.runs, plan.sources)
        print(render_estimate(estimate(plan, results, slots[0].execution, len(slots))))
        return
    code = _run(plan, results, devices, jobs_per_device, execution, retry_crashed, fail_fast)
    from stableft.report.artifact import sweep_artifact
    from stableft.report.files import keep_report
    from stableft.report.gather import gather, stored_records
    from stableft.report.render import render

    records = list(stored_records(results, plan.runs))
    if records:
        material = gather(sweep_artifact(plan.name, str(plan.path)), plan.runs, records)
        print(f"\n{render(material.table, 'md')}", flush=True)
        if line := keep_report(material, results / "sweeps" / plan.name):
            print(line)
    raise typer.Exit(code)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or file of a recipe.")],
    task: Annotated[str, typer.Option("--task", help="Name of a task; `stableft list tasks` shows them.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="For initialisation, data order and dropout.")],
    model: Annotated[str | None, typer.Option("--model", help="Folder or hub name; else the recipe's.")] = None,
    results: Results = Path("results"),
    data_dir: DataDir = None,
    set_: Sets = NO_SETS,
    devices: Devices = "auto",
    save: Save = "none",
    checkpoint_every: Every = None,
    micro_batch: Micro = None,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Do it again if it crashed.")] = False,
) -> None:
    """Train one run: a recipe, a task, a model, a seed."""
    from stableft.plan import Execution, Sources
    from stableft.record import read_record, run_folder
    from stableft.sweepfile import single_run

    _check_results(results)
    plan = single_run(recipe, task, model, seed, Sources(data_dir=data_dir), set_)
    execution = Execution(micro_batch=micro_batch, checkpoint_every=checkpoint_every, save=save)
    code = _run(plan, results, devices, 1, execution, retry_crashed, False)
    run = plan.runs[0]
    record = read_record(results, run.run_id)
    if record and record.last and record.best:
        print(f"run {run.run_id} in {run_folder(results, run.run_id)}")
        for name, scores in (("last", record.last), ("best", record.best)):
            for split, values in (("validation", scores.val), ("test", scores.test or {})):
                for metric, value in values.items():
                    print(f"{name:<4}  step {scores.step:<6} {split:<10} {metric:<11} {value:.4f}")
    raise typer.Exit(code)


@app.command()
def pretrain(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A pre-training config; the package's own by name.")],
    results: Results = Path("results"),
    device: Annotated[
        str, typer.Option("--device", help="auto (the first GPU, else the CPU), cpu, or a GPU: cuda:0.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the CPU; else as torch chooses.")] = None,
    set_: Sets = NO_SETS,
    checkpoint_every: Every = None,
    micro_batch: Micro = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Copy the model there, and its record beside it.")
    ] = None,
) -> None:
    """Train a masked-language model from fresh weights, to be fine-tuned later."""
    from stableft.launch.local import resolve_device
    from stableft.plan import Execution

    _check_results(results)
    where = resolve_device(device)
    from stableft.pretrain.command import run_pretraining

    execution = Execution(where, threads, micro_batch, checkpoint_every)
    raise typer.Exit(run_pretraining(config, results, execution, set_, out))


@app.command()
def status(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A sweep file; none: all of the folder.")
    ] = None,
    results: Results = Path("results"),
    set_: Sets = NO_SETS,
    arms: Arms = "",
    seeds: Seeds = None,
) -> None:
    """Show how far a sweep is, or what a results folder holds."""
    from stableft.listing import folder_status, sweep_status

    _check_results(results)
    print(folder_status(results) if config is None else sweep_status(_load(config, None, set_, arms, seeds), results))


@app.command()
def show(
    config: Config,
    set_: Sets = NO_SETS,
    arms: Arms = "",
    seeds: Seeds = None,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="json: one object a line.")] = "text",
) -> None:
    """Show the resolved runs of a sweep file."""
    from stableft.listing import show_runs

    print(show_runs(_load(config, None, set_, arms, seeds), format_))


@app.command("list")
def list_(
    what: Annotated[Literal["tasks", "backbones", "recipes", "artifacts"], typer.Argument(help="What to list.")],
) -> None:
    """List what this package knows by name."""
    from stableft.listing import list_names

    print(list_names(what))


@app.command()
def export(
    config: Config,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="File to write, one record a line.")],
    results: Results = Path("results"),
    set_: Sets = NO_SETS,
    arms: Arms = "",
    seeds: Seeds = None,
) -> None:
    """Write the records of a sweep to one file, from which a clone rebuilds its report."""
    from stableft.listing import export_records

    _check_results(results)
    _check_out(out)
    print(export_records(_load(config, None, set_, arms, seeds), results, out))


@app.command()
def report(
    name: Annotated[
        str,
        typer.Argument(metavar="CONFIG|ARTIFACT|FILE", help="A sweep file, an id such as mosbach-table1, or records."),
    ],
    results: Results = Path("results"),
    records: Annotated[
        list[Path], typer.Option("--records", help="Read these files, not run folders (repeatable).")
    ] = [],  # noqa: B006
    set_: Sets = NO_SETS,
    arms: Arms = "",
    seeds: Seeds = None,
    score: Score = "recipe",
    format_: Annotated[
        Literal["md", "csv", "latex", "json"] | None,
        typer.Option("--format", help="Form of the report; else as --out ends, or md."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE|FOLDER/", help="File (.md .csv .tex .json .png .svg .pdf), or all in a folder."
        ),
    ] = None,
    figure: Annotated[
        Literal["scores", "training-loss"] | None, typer.Option("--figure", help="Which one; else scores.")
    ] = None,
) -> None:
    """Print the table of a sweep or of a paper from finished runs, beside the published numbers."""
    from stableft.report.files import deliver, output_of
    from stableft.report.gather import material_of

    _check_results(results)
    output = output_of(out, format_, figure)
    material = material_of(name, results, records, score, lambda path: _load(path, None, set_, arms, seeds))
    if text := deliver(material, output):
        print(text)


@data_app.command("stats")
def data_stats(data_dir: DataDir = None) -> None:
    """Print the papers' data set tables from the files at hand (M Table 2, Z Table 3)."""
    from stableft.data_stats import dataset_statistics, render
    from stableft.tasks import TASKS

    print(render(dataset_statistics(data_dir, TASKS.values())))


@data_app.command("fetch")
def data_fetch(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="[TASK...]", help="Names of tasks, or all.")] = None,
    models: Annotated[list[str], typer.Option("--model", help="Hub name of a model (repeatable).")] = NO_SETS,
) -> None:
    """Download tasks and models from the hub to its local cache, for a machine that will have no network."""
    from stableft.hub import fetch_model, fetch_task
    from stableft.tasks import TASKS, find_task

    if not tasks and not models:
        raise UserError("data fetch: name a task, all, or --model NAME")
    everything = [task for task in TASKS.values() if task.hub]
    for task in everything if tasks == ["all"] else [find_task(name) for name in tasks or []]:
        print(f"fetching task {task.name}", flush=True)
        fetch_task(task)
    for model in models:
        print(f"fetching model {model}", flush=True)
        fetch_model(model)


def _check_results(results: Path) -> None:
    there = next((path for path in (results, *results.parents) if path.exists()), results)
    if there.exists() and not there.is_dir():
        raise UserError(f"--results {results}: {there} is a file, not a folder")


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def _load(config: str, data_dir: Path | None, sets: list[str], arms: str, seeds: str | None):
    from stableft.plan import Sources
    from stableft.sweepfile import load_sweep

    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    chosen = [name.strip() for name in arms.split(",") if name.strip()]
    return load_sweep(config, Sources(data_dir=data_dir), sets, chosen, seeds)


def _run(plan, results: Path, devices: str, jobs: int, execution, retry_crashed: bool, fail_fast: bool) -> int:
    """Does the runs under a display and returns the exit code: 0 all finished, 1 some crashed, 130 interrupted."""
    from stableft.display import closing_line, open_display
    from stableft.launch.local import resolve_devices, run_local
    from stableft.preflight import check_inputs

    slots = resolve_devices(devices)
    fingerprints = check_inputs(plan.runs, plan.sources)
    made = not results.exists()
    results.mkdir(parents=True, exist_ok=True)
    if not os.access(results, os.W_OK):
        raise UserError(f"--results {results}: nothing can be written to this folder")
    try:
        with open_display() as display:
            outcome = run_local(
                plan.runs,
                results,
                plan.sources,
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
