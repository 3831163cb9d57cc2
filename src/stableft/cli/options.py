"""Options that several commands share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from stableft.errors import UserError, clip

if TYPE_CHECKING:
    from stableft.config.sweep_file import Sweep


BLANK_VALUES = ("--delimiter",)  # options that may be given a blank


class CheckedCommand(TyperCommand):
    """A command that refuses blank values, which empty shell variables give: Path("") would be the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # completing a word in the shell
            given, *_ = self.make_parser(ctx).parse_args(list(args))
            for param in self.params:
                option, value = param.opts[0], given.get(param.name or "")
                for text in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(text, str) and not text.strip() and not (text and option in BLANK_VALUES):
                        name = option if option.startswith("-") else param.metavar or option.upper()
                        raise UserError(
                            f"{name} is empty: {'give a value' if param.required else 'give a value or leave it out'}"
                        )
        return super().parse_args(ctx, args)


class CheckedTyper(typer.Typer):
    """A Typer whose commands are `CheckedCommand`s."""

    def command(self, *args: Any, **kwargs: Any) -> Any:
        return super().command(*args, **{"cls": CheckedCommand} | kwargs)


def complete_config(incomplete: str) -> list[str]:
    """Return the shipped sweeps and the sweep files here whose names begin so."""
    from stableft.config.sweep_file import shipped_sweeps

    here = [str(path) for path in Path().glob(f"{incomplete}*.yaml")] if incomplete.isprintable() else []
    return [name for name in (*shipped_sweeps(), *here) if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes whose names begin so."""
    from stableft.config.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def complete_report(incomplete: str) -> list[str]:
    """Return the sweeps, artefacts of the papers and files of records here whose names begin so."""
    from stableft.report.runs import ARTIFACTS

    here = [str(path) for path in Path().glob(f"{incomplete}*.jsonl")] if incomplete.isprintable() else []
    return [*complete_config(incomplete), *(name for name in (*ARTIFACTS, *here, "all") if name.startswith(incomplete))]


def complete_recipe_or_config(incomplete: str) -> list[str]:
    """Return the shipped recipes and sweeps whose names begin so."""
    return [*complete_recipe(incomplete), *complete_config(incomplete)]


def allow_pickle_everywhere(allowed: bool) -> bool:
    """Let this process and those that it starts load pickled weights, if `allowed`."""
    if allowed:
        from stableft.config.local_files import ALLOW_PICKLE

        os.environ[ALLOW_PICKLE] = "1"
    return allowed


def check_price_option(price: float | None) -> float | None:
    from stableft.config.validation import check_price

    return check_price(price, "--price ")


def check_track_option(name: str | None) -> str | None:
    from stableft.sweep.tracker_clients import check_tracker

    return check_tracker(name, "--track") if name is not None else None


ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="Sweep file, or the name of a shipped one, such as rte; `stableft list sweeps` shows them.",
        autocompletion=complete_config,
    ),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Results folder.")]
RecordsOption = Annotated[
    list[Path], typer.Option("--records", help="Read records from these files instead of run folders (repeatable).")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of original GLUE files. Default: the hub.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting in every run (repeatable).")
]
ArmsOption = Annotated[str, typer.Option("--arms", metavar="A,B", help="Only these arms.")]
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="SEEDS", help="Seeds to use, for example 5, 1-25 or 1,2,7.")
]
DevicesOption = Annotated[
    str, typer.Option("--devices", help="auto (all GPUs, otherwise the CPU), cpu, or GPU numbers: 0,1.")
]
JobsPerDeviceOption = Annotated[int, typer.Option("--jobs-per-device", min=1, help="Concurrent runs per device.")]
SaveOption = Annotated[
    Literal["none", "best", "last", "all"], typer.Option("--save", help="Which model weights to keep (all: both).")
]
CheckpointEveryOption = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every", min=1, help="Steps between checkpoints. Default: as often as 2 % of the time allows."
    ),
]
MicroBatchOption = Annotated[
    int | None, typer.Option("--micro-batch", min=1, help="Rows per forward pass; the batch size stays the same.")
]
Tf32Option = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="On a GPU, compute float32 products in TF32: faster, less precise.")
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price",
        metavar="PER_HOUR",
        help="What an hour of a device costs, for the records, the report and the dry run.",
        callback=check_price_option,
    ),
]
TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="TOOL",
        help="Send every run that ends to trackio, tensorboard, wandb or mlflow.",
        callback=check_track_option,
    ),
]
DeterministicOption = Annotated[
    Literal["on", "off"],
    typer.Option("--deterministic", help="off: also allow kernels that give other bits each time; recorded."),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile models with torch.compile: minutes first, then faster; recorded.")
]
CudaGraphsOption = Annotated[
    bool,
    typer.Option("--cuda-graphs/--no-cuda-graphs", help="On a GPU, replay recorded updates: the same numbers, faster."),
]
CompleteOption = Annotated[
    bool, typer.Option("--complete", help="Retrain finished runs whose requested weights or probes are missing.")
]
AllowPickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Load pytorch_model.bin where a model has no safetensors; a pickle can run code when it is read.",
        callback=allow_pickle_everywhere,
    ),
]
ScoreOption = Annotated[
    Literal["recipe", "last", "best"],
    typer.Option("--score", help="Checkpoint whose score is reported; recipe: as the recipe says."),
]
ExecutorOption = Annotated[
    Literal["local", "slurm", "ray"],
    typer.Option("--executor", help="local: this machine. slurm: pilots, jobs that share the runs. ray: its nodes."),
]
SlurmPartitionOption = Annotated[
    str | None, typer.Option("--slurm-partition", metavar="NAME", help="Partition. Default: the cluster's.")
]
SlurmTimeOption = Annotated[
    str | None,
    typer.Option("--slurm-time", metavar="TIME", help="Time limit of a pilot: minutes, H:M:S or D-H:M:S."),
]
SlurmGpusOption = Annotated[
    int | None,
    typer.Option("--slurm-gpus", min=0, help="GPUs of each pilot. Default: 1, or none with --devices cpu."),
]
SlurmWarnOption = Annotated[
    int,
    typer.Option("--slurm-warn", min=30, help="Seconds before the time limit at which runs stop at a checkpoint."),
]
SlurmArgOption = Annotated[
    list[str],
    typer.Option("--slurm-arg", metavar="KEY=VALUE", help="Another option of sbatch, such as account=me (repeatable)."),
]
PilotsOption = Annotated[int, typer.Option("--pilots", min=1, help="Slurm jobs that share the runs.")]
PrintOption = Annotated[bool, typer.Option("--print", help="Show the batch script; submit nothing.")]
StopOption = Annotated[bool, typer.Option("--stop", help="Cancel the sweep's pilots; train nothing.")]
PilotOption = Annotated[
    bool, typer.Option("--pilot", help="Share the runs with other pilots; end when others hold all that are left.")
]
PlanOption = Annotated[Path | None, typer.Option("--plan", hidden=True, help="Plan of the submission.")]
RayAddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="Default: $RAY_ADDRESS, or this machine's cluster."),
]
NO_TEXTS: list[str] = []
NO_FILES: list[Path] = []


def split_names(text: str) -> list[str]:
    """Return the names in the value of --arms, separated by commas; none without one.

    Raises:
        UserError: a name is empty.
    """
    names = [name.strip() for name in text.split(",")] if text else []
    if "" in names:
        raise UserError(f"--arms {clip(text)}: a name is empty; give the names of arms, A,B")
    return names


def load_optional_sweep(
    config: str | None, sets: list[str], arms: str, seeds: str | None, data_dir: Path | None = None
) -> "Sweep | None":
    """Return the sweep that `--config` names, or None without one.

    Raises:
        UserError: --set, --arms or --seeds is given without --config, or does not fit the sweep.
    """
    if config is not None:
        from stableft.python_api import plan_sweep

        return plan_sweep(config, sets, split_names(arms), seeds, data_dir)
    if given := [name for name, value in {"--set": sets, "--arms": arms, "--seeds": seeds}.items() if value]:
        raise UserError(f"{' and '.join(given)}: select runs of a sweep; name the sweep too")
    return None


def check_out_file(out: Path, kind: str) -> None:
    """Raise a UserError if a file of this kind (see `check_replaced_file`) cannot be written to `out`."""
    from stableft.config.local_files import check_replaced_file

    check_replaced_file(out, kind)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
