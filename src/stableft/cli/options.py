"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.errors import UserError

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A sweep file; the package's own go by name, such as rte.")
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of run folders and records.")]
RecordsOption = Annotated[list[Path], typer.Option("--records", help="Read these files, not run folders (repeatable).")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of original GLUE files; without it, the hub.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set a key in every run (repeatable).")
]
ArmsOption = Annotated[str, typer.Option("--arms", metavar="A,B", help="Only these arms.")]
SeedsOption = Annotated[str | None, typer.Option("--seeds", metavar="SEEDS", help="Such as 5, 1-25 or 1,2,7.")]
DevicesOption = Annotated[
    str, typer.Option("--devices", help="auto (all GPUs, else the CPU), cpu, or GPU numbers: 0,1.")
]
JobsPerDeviceOption = Annotated[int, typer.Option("--jobs-per-device", min=1, help="Runs at a time on each device.")]
SaveOption = Annotated[
    Literal["none", "best", "last", "all"], typer.Option("--save", help="Model weights to keep (all: both).")
]
CheckpointEveryOption = Annotated[
    int | None, typer.Option("--checkpoint-every", min=1, help="Steps; else as often as 2 % of time allow.")
]
MicroBatchOption = Annotated[
    int | None, typer.Option("--micro-batch", min=1, help="Rows in memory at once; the batch stays.")
]
CompleteOption = Annotated[
    bool, typer.Option("--complete", help="Train finished runs again that lack weights or probes asked for.")
]
ScoreOption = Annotated[
    Literal["recipe", "last", "best"], typer.Option("--score", help="Whose score: as the recipe says.")
]
NO_TEXTS: list[str] = []
NO_FILES: list[Path] = []


def check_out_file(out: Path) -> None:
    """Raises UserError if `out` is no place for a file."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
