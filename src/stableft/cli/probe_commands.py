"""Commands that probe finished runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.cli.options import (
    NO_TEXTS,
    AllowPickleOption,
    ArmsOption,
    CheckedTyper,
    DataDirOption,
    MicroBatchOption,
    ResultsOption,
    SeedsOption,
    SetOption,
    load_optional_sweep,
    split_names,
)
from stableft.errors import UserError

probe_app = CheckedTyper(no_args_is_help=True, help="Analyze finished runs: surfaces, forgetting, examples.")
CheckpointOption = Annotated[
    Literal["best", "last"],
    typer.Option("--checkpoint", help="Checkpoint to analyze. All but points need its weights (--save)."),
]
PretrainedOption = Annotated[
    str | None,
    typer.Option(
        "--pretrained", metavar="MODEL", help="Pre-trained model that the runs fine-tuned: folder or hub name."
    ),
]
SweepConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="CONFIG", help="Sweep file of the runs (with its --set), to locate local models and data."
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (the first GPU, otherwise the CPU), cpu, or a GPU such as cuda:0.")
]


@probe_app.command()
def surface(
    failed: Annotated[
        str | None,
        typer.Option(
            "--failed", metavar="RUN", help="Id of a failed run, or a prefix of it. Default: the first of --config."
        ),
    ] = None,
    successful: Annotated[
        str | None,
        typer.Option(
            "--successful",
            metavar="RUN",
            help="Id of a successful run, or a prefix of it. Default: the first of --config.",
        ),
    ] = None,
    pretrained: PretrainedOption = None,
    points: Annotated[int, typer.Option("--points", min=2, help="Grid points per axis.")] = 40,
    range_: Annotated[tuple[float, float], typer.Option("--range", help="Range of both axes.")] = (-1.5, 1.5),
    examples: Annotated[int, typer.Option("--examples", min=1, help="Number of training rows to evaluate on.")] = 128,
    examples_seed: Annotated[int, typer.Option("--examples-seed", min=0, help="Seed that draws the rows.")] = 0,
    head_seed: Annotated[
        int | None,
        typer.Option(
            "--head-seed", min=0, help="Seed of the pre-trained model's head. Default: the failed run's head."
        ),
    ] = None,
    loss_only: Annotated[
        bool, typer.Option("--loss-only", help="Skip gradient norms; takes about a third of the time.")
    ] = False,
    checkpoint: CheckpointOption = "last",
    config: SweepConfigOption = None,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    results: ResultsOption = Path("results"),
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    _allow_pickle: AllowPickleOption = False,
    micro_batch: MicroBatchOption = None,
) -> None:
    """Measure the loss on the plane of three models. They are pre-trained, failed and successful: M Figs. 7, 13."""
    from stableft.probes.saved_runs import find_runs_with_weights

    sweep = load_optional_sweep(config, set_, arms, seeds, data_dir)
    if sweep is None and not (failed and successful):
        raise UserError("probe surface: give --failed RUN and --successful RUN, or --config with a sweep that has both")
    if sweep:
        failed = failed or find_runs_with_weights(results, sweep, checkpoint, failed=True)[0].run_id
        successful = successful or find_runs_with_weights(results, sweep, checkpoint, failed=False)[0].run_id
    from stableft.probes.loss_surface import SurfaceRequest  # takes seconds to import, like the next
    from stableft.probes.surface_command import run_surface
    from stableft.sweep.devices import resolve_device

    request = SurfaceRequest(
        failed=str(failed),
        successful=str(successful),
        checkpoint=checkpoint,
        points=points,
        low=range_[0],
        high=range_[1],
        examples=examples,
        examples_seed=examples_seed,
        head_seed=head_seed,
        loss_only=loss_only,
    )
    raise typer.Exit(run_surface(request, results, pretrained, sweep, data_dir, resolve_device(device), micro_batch))


@probe_app.command()
def perplexity(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="Run ids, or prefixes of them. Default: the runs of --config."),
    ] = None,
    text: Annotated[
        str, typer.Option("--text", metavar="FILE", help="Text file or folder, toy, or wikitext-2 from the hub.")
    ] = "wikitext-2",
    pretrained: PretrainedOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the masks.")] = 0,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=8, help="Tokens per row. Default: the model's maximum.")
    ] = None,
    checkpoint: CheckpointOption = "last",
    config: SweepConfigOption = None,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    results: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    _allow_pickle: AllowPickleOption = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per forward pass.")] = 32,
) -> None:
    """Measure what runs forgot. Masked-LM perplexity with the top k blocks reset: M Fig. 2a, b."""
    from stableft.probes.saved_runs import find_runs_with_weights

    sweep = load_optional_sweep(config, set_, arms, seeds)
    if not runs and sweep is None:
        raise UserError("probe perplexity: give ids of runs, or --config with the sweep whose runs are to be measured")
    if not runs and sweep:
        runs = [record.run_id for record in find_runs_with_weights(results, sweep, checkpoint)]
    from stableft.probes.perplexity_command import PerplexityRequest, run_perplexity  # takes seconds to import
    from stableft.sweep.devices import resolve_device

    request = PerplexityRequest(tuple(runs or ()), text, seed, max_length, checkpoint, batch_size)
    raise typer.Exit(run_perplexity(request, results, pretrained, sweep, resolve_device(device)))


@probe_app.command()
def points(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Sweep file whose runs are compared.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="CSV file with one prediction per row, instead of a sweep."),
    ] = None,
    example: Annotated[str, typer.Option("--example", metavar="COL", help="CSV column of the example.")] = "example",
    run: Annotated[str, typer.Option("--run", metavar="COL", help="CSV column of the run.")] = "run",
    prediction: Annotated[
        str, typer.Option("--prediction", metavar="COL", help="CSV column of the prediction.")
    ] = "prediction",
    label: Annotated[str | None, typer.Option("--label", metavar="COL", help="CSV column of the true label.")] = None,
    text: Annotated[list[str], typer.Option("--text", metavar="COL", help="CSV column of the text (repeatable).")] = [],  # noqa: B006 - Typer's way to say: none
    wide: Annotated[
        list[str],
        typer.Option(
            "--wide",
            metavar="COL",
            help="CSV column of one run, or a pattern such as 'seed_*', instead of --run, --prediction (repeatable).",
        ),
    ] = [],  # noqa: B006 - Typer's way to say: none
    regression: Annotated[bool, typer.Option("--regression", help="CSV predictions are numbers, not classes.")] = False,
    split: Annotated[
        Literal["reported", "val", "test"], typer.Option("--split", help="Split whose predictions are compared.")
    ] = "reported",
    checkpoint: CheckpointOption = "last",
    most: Annotated[int, typer.Option("--most", min=0, help="Number of most unstable examples to print.")] = 10,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    results: ResultsOption = Path("results"),
    data_dir: DataDirOption = None,
    format_: Annotated[
        Literal["md", "csv", "latex", "json", "html"] | None, typer.Option("--format", help="Format of the report.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Report or figure file, or a folder (ending in /) for everything."),
    ] = None,
) -> None:
    """Measure how much runs differ on each example. Variance per example, agreement, churn: M sec. 7.1."""
    from stableft.probes.per_example_csv import PredictionColumns
    from stableft.probes.per_example_report import PerExampleRequest, run_per_example

    columns = PredictionColumns(example, run, prediction, label, tuple(text), regression, tuple(wide))
    request = PerExampleRequest(
        config, csv, columns, split, checkpoint, most, tuple(split_names(arms)), seeds, tuple(set_)
    )
    print(run_per_example(request, results, data_dir, format_, out))
