"""The command line: parse, call one function, print.

A command imports what it needs when it runs, so that `--help` and `show` start without loading torch.
"""

import errno
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.cli.decide_commands import decide
from stableft.cli.file_commands import clean, copy, export
from stableft.cli.import_commands import import_app
from stableft.cli.options import (
    NO_FILES,
    NO_TEXTS,
    AllowPickleOption,
    ArmsOption,
    CheckedTyper,
    CheckpointEveryOption,
    CompileOption,
    CompleteOption,
    ConfigArgument,
    CudaGraphsOption,
    DataDirOption,
    DeterministicOption,
    DevicesOption,
    ExecutorOption,
    JobsPerDeviceOption,
    MicroBatchOption,
    PilotOption,
    PilotsOption,
    PlanOption,
    PriceOption,
    PrintOption,
    RayAddressOption,
    RecordsOption,
    ResultsOption,
    SaveOption,
    SeedsOption,
    SetOption,
    SlurmArgOption,
    SlurmGpusOption,
    SlurmPartitionOption,
    SlurmTimeOption,
    SlurmWarnOption,
    StopOption,
    Tf32Option,
    TrackOption,
    complete_recipe,
    load_optional_sweep,
    split_names,
)
from stableft.cli.probe_commands import probe_app
from stableft.cli.provenance_commands import rerun, verify
from stableft.cli.report_commands import compare_command, power, report
from stableft.cli.track_command import track_command
from stableft.errors import UserError, storage_error
from stableft.sweep.signals import EXIT_INTERRUPTED
from stableft.text import forgiving_output, strip_controls

app = CheckedTyper(
    no_args_is_help=True,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Is my fine-tuning stable? Trains recipes x seeds, survives interruption, and ends in tables with statistics.",
)
data_app = CheckedTyper(no_args_is_help=True, help="Inspect and download data sets.")
app.add_typer(data_app, name="data")
app.add_typer(import_app, name="import")
app.add_typer(probe_app, name="probe")
app.command()(report)
app.command("compare")(compare_command)
app.command()(power)
app.command()(decide)
app.command()(export)
app.command()(clean)
app.command()(copy)
app.command()(rerun)
app.command()(verify)
app.command("track")(track_command)


# Commands that train or measure: the loss of what they print is no failure.
EXPERIMENTS = {"sweep", "train", "pretrain", "probe", "rerun", "verify"}


def main() -> None:
    """Run the command line. A UserError prints as one sentence and exits with code 2.

    A reader of the output that goes away is no error. Output that a full disk loses is one, unless the command trains
    or measures: the display is switched off, and its results are kept.
    """
    with forgiving_output() as files:
        code = run_command()
        sys.stdout.flush()
        error = files["stdout"].error if "stdout" in files else None
        if error and error.errno != errno.EPIPE:
            print(f"stableft: cannot write to the standard output: {error.strerror}", file=sys.stderr)
            code = code or (0 if {*sys.argv[1:2]} & EXPERIMENTS else 2)
    sys.exit(code)


def run_command() -> int:
    """Run the command of the command line and return its exit code."""
    try:
        app()
    except SystemExit as left:
        return int(left.code or 0)
    except KeyboardInterrupt:  # before training starts; from then on, Ctrl-C is handled and leaves a checkpoint
        return EXIT_INTERRUPTED
    except Exception as error:
        named = Path.home() if "--install-completion" in sys.argv else None  # Typer's files there
        fault = error if isinstance(error, UserError) else storage_error(error, named)
        if fault:
            print(strip_controls(f"stableft: {fault}"), file=sys.stderr)
        elif isinstance(error, OSError) and error.filename is not None:  # of a path that the user may have given
            print(strip_controls(f"stableft: {error.filename}: {error.strerror}"), file=sys.stderr)
        else:
            raise
    return 2


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
    context: typer.Context,
    config: ConfigArgument,
    results: ResultsOption = Path("results"),
    data_dir: DataDirOption = None,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    devices: DevicesOption = "auto",
    jobs_per_device: JobsPerDeviceOption = 1,
    save: SaveOption = "none",
    checkpoint_every: CheckpointEveryOption = None,
    micro_batch: MicroBatchOption = None,
    deterministic: DeterministicOption = "on",
    tf32: Tf32Option = False,
    compile_: CompileOption = False,
    cuda_graphs: CudaGraphsOption = True,
    price: PriceOption = None,
    track: TrackOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, time, memory and disk; train nothing.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first crash.")] = False,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Re-run crashed runs.")] = False,
    complete: CompleteOption = False,
    _allow_pickle: AllowPickleOption = False,
    executor: ExecutorOption = "local",
    slurm_partition: SlurmPartitionOption = None,
    slurm_time: SlurmTimeOption = None,
    slurm_gpus: SlurmGpusOption = None,
    slurm_warn: SlurmWarnOption = 120,
    slurm_arg: SlurmArgOption = NO_TEXTS,
    pilots: PilotsOption = 8,
    print_: PrintOption = False,
    stop: StopOption = False,
    pilot: PilotOption = False,
    plan_file: PlanOption = None,
    ray_address: RayAddressOption = None,
) -> None:
    """Train the unfinished runs of a sweep and print its report."""
    from stableft.cli.early_report import EarlyReport
    from stableft.cli.slurm_commands import check_executor_options, run_as_pilot, stop_pilots, submit_pilots
    from stableft.cli.sweep_commands import exit_code, print_estimate, print_report
    from stableft.config.local_files import check_results_folder
    from stableft.config.planned_run import Execution
    from stableft.python_api import plan_sweep, run_sweep
    from stableft.sweep.slurm import SlurmOptions
    from stableft.sweep.submitted_plan import read_plan

    check_results_folder(results)
    check_executor_options(context, executor, pilot)
    if dry_run and executor == "ray":
        raise UserError("--dry-run measures on the devices of this machine; leave out --executor ray")
    if stop:
        stop_pilots(config, results)
        return
    plan = read_plan(plan_file) if plan_file else plan_sweep(config, set_, split_names(arms), seeds, data_dir)
    if executor == "slurm":
        gpus = slurm_gpus if slurm_gpus is not None else int(devices != "cpu")
        options = SlurmOptions(slurm_partition, slurm_time, gpus, pilots, slurm_warn, tuple(slurm_arg))
        raise typer.Exit(submit_pilots(context, config, plan, results, options, devices, jobs_per_device))
    if dry_run:
        execution = Execution(
            micro_batch=micro_batch,
            save=save,
            deterministic=deterministic == "on",
            tf32=tf32,
            compile=compile_,
            cuda_graphs=cuda_graphs,
            price=price,
            retrain_incomplete=complete,
        )
        print_estimate(plan, results, devices, jobs_per_device, execution, retry_crashed)
        return
    train = partial(
        run_sweep,
        plan,
        results=results,
        devices=devices,
        jobs_per_device=jobs_per_device,
        save=save,
        checkpoint_every=checkpoint_every,
        micro_batch=micro_batch,
        deterministic=deterministic == "on",
        tf32=tf32,
        compile=compile_,
        cuda_graphs=cuda_graphs,
        price=price,
        track=track,
        retry_crashed=retry_crashed,
        fail_fast=fail_fast,
        complete=complete,
        executor="ray" if executor == "ray" else "local",
        ray_address=ray_address,
    )
    if pilot:
        raise typer.Exit(run_as_pilot(plan, results, fail_fast, train))
    report = EarlyReport(plan, results)
    result = train(watch=report.follow)
    if not result.interrupted:
        report.finish()
        print_report(plan, results)
    raise typer.Exit(exit_code(result))


@app.command("train")
def train_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name or file of a recipe.", autocompletion=complete_recipe)
    ],
    task: Annotated[str, typer.Option("--task", help="Name of a task; `stableft list tasks` shows them.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of initialization, data order and dropout.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder or hub name. Default: the recipe's.")
    ] = None,
    results: ResultsOption = Path("results"),
    data_dir: DataDirOption = None,
    set_: SetOption = NO_TEXTS,
    devices: DevicesOption = "auto",
    save: SaveOption = "none",
    checkpoint_every: CheckpointEveryOption = None,
    micro_batch: MicroBatchOption = None,
    deterministic: DeterministicOption = "on",
    tf32: Tf32Option = False,
    compile_: CompileOption = False,
    cuda_graphs: CudaGraphsOption = True,
    price: PriceOption = None,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Re-run it if it crashed.")] = False,
    complete: CompleteOption = False,
    _allow_pickle: AllowPickleOption = False,
) -> None:
    """Train one run: a recipe, a task, a model, a seed."""
    from stableft.cli.sweep_commands import exit_code, print_scores
    from stableft.config.local_files import check_results_folder
    from stableft.config.planned_run import LocalPaths
    from stableft.config.sweep_file import single_run_sweep
    from stableft.python_api import run_sweep

    check_results_folder(results)
    plan = single_run_sweep(recipe, task, model, seed, LocalPaths(data_dir=data_dir), set_)
    result = run_sweep(
        plan,
        results=results,
        devices=devices,
        save=save,
        checkpoint_every=checkpoint_every,
        micro_batch=micro_batch,
        deterministic=deterministic == "on",
        tf32=tf32,
        compile=compile_,
        cuda_graphs=cuda_graphs,
        price=price,
        retry_crashed=retry_crashed,
        complete=complete,
    )
    print_scores(results, plan.runs[0].run_id)
    raise typer.Exit(exit_code(result))


@app.command()
def pretrain(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Pre-training config file, or the name of a shipped one.")
    ],
    results: ResultsOption = Path("results"),
    device: Annotated[
        str, typer.Option("--device", help="auto (the first GPU, otherwise the CPU), cpu, or a GPU such as cuda:0.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's choice.")
    ] = None,
    set_: SetOption = NO_TEXTS,
    checkpoint_every: CheckpointEveryOption = None,
    micro_batch: MicroBatchOption = None,
    tf32: Tf32Option = False,
    _allow_pickle: AllowPickleOption = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Copy the model to this folder and its record next to it."),
    ] = None,
) -> None:
    """Pre-train a masked language model, to fine-tune it later."""
    from stableft.config.local_files import check_results_folder
    from stableft.config.planned_run import Execution
    from stableft.sweep.devices import resolve_device

    check_results_folder(results)
    device = resolve_device(device)  # before the next import: loading torch and transformers takes seconds
    from stableft.cli.pretrain_commands import run_pretraining

    execution = Execution(device, threads, micro_batch, checkpoint_every, tf32=tf32)
    raise typer.Exit(run_pretraining(config, results, execution, set_, out))


@app.command()
def status(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Sweep file. Default: the whole results folder.")
    ] = None,
    results: ResultsOption = Path("results"),
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
) -> None:
    """Show the progress of a sweep, or of a whole results folder."""
    from stableft.cli.slurm_commands import describe_pilots
    from stableft.cli.sweep_commands import render_folder_status, render_sweep_status
    from stableft.config.local_files import check_results_folder

    check_results_folder(results)
    sweep = load_optional_sweep(config, set_, arms, seeds)
    print(strip_controls(render_sweep_status(sweep, results) if sweep else render_folder_status(results)))
    for line in describe_pilots(sweep, results) if sweep else ():
        print(strip_controls(line))


@app.command()
def show(
    config: ConfigArgument,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="json: one object per line.")] = "text",
) -> None:
    """Show the resolved runs of a sweep file."""
    from stableft.cli.sweep_commands import render_runs
    from stableft.python_api import plan_sweep

    print(strip_controls(render_runs(plan_sweep(config, set_, split_names(arms), seeds), format_)))


@app.command("list")
def list_command(
    what: Annotated[
        Literal["tasks", "backbones", "recipes", "sweeps", "artifacts"], typer.Argument(help="What to list.")
    ],
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
) -> None:
    """List tasks, backbones, recipes, sweeps or artifacts. Artifacts: also how many of their runs exist."""
    from stableft.cli.sweep_commands import list_artifacts, list_names
    from stableft.config.local_files import check_results_folder

    check_results_folder(results)
    print(strip_controls(list_artifacts(results, records) if what == "artifacts" else list_names(what)))


@app.command()
def choose(
    config: ConfigArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.yaml", help="Sweep file to write. Default: CONFIG-chosen.yaml in this folder."
        ),
    ] = None,
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    report_seeds: Annotated[
        str | None,
        typer.Option(
            "--report-seeds", metavar="SEEDS", help="Seeds of the written sweep. Default: those of the search."
        ),
    ] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Choose from the finished runs only.")] = False,
) -> None:
    """Choose the best setting of each grid, for a new sweep file. The best has the highest mean validation score."""
    from stableft.config.local_files import check_results_folder
    from stableft.python_api import plan_sweep
    from stableft.records.stored_records import read_own_records, read_stored_records
    from stableft.sweep.select_best import choose_settings

    check_results_folder(results)
    plan = plan_sweep(config, set_, split_names(arms), seeds)
    own = read_own_records(records) if records else read_stored_records(results, plan.runs)
    print(choose_settings(plan, own, out, seeds, report_seeds, allow_missing))


@data_app.command("stats")
def data_stats(data_dir: DataDirOption = None) -> None:
    """Compute the papers' tables of data sets from local files. They are M Table 2 and Z Table 3."""
    from stableft.catalog.tasks import TASKS
    from stableft.report.paper_tables import compute_dataset_statistics, render_dataset_statistics

    print(render_dataset_statistics(compute_dataset_statistics(data_dir, TASKS.values())))


@data_app.command("fetch")
def data_fetch(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="[TASK...]", help="Task names, or all.")] = None,
    models: Annotated[list[str], typer.Option("--model", help="Hub name of a model (repeatable).")] = NO_TEXTS,
) -> None:
    """Download tasks and models, for use without a network. They go to the hub's local cache."""
    from stableft.catalog.tasks import TASKS, find_task
    from stableft.data.sources import fetch_model, fetch_task

    if not tasks and not models:
        raise UserError("data fetch: give a task name, all, or --model NAME")
    everything = [task for task in TASKS.values() if task.hub]
    for task in everything if tasks == ["all"] else [find_task(name) for name in tasks or []]:
        print(f"fetching task {task.name}", flush=True)
        fetch_task(task)
    for model in models:
        print(f"fetching model {model}", flush=True)
        if warning := fetch_model(model):
            print(warning, flush=True)
