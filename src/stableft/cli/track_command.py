"""The command that sends the runs of a sweep to a tracker afterwards."""

from pathlib import Path
from typing import Annotated

import typer

from stableft.cli.options import (
    NO_TEXTS,
    ArmsOption,
    ConfigArgument,
    ResultsOption,
    SeedsOption,
    SetOption,
    split_names,
)


def track_command(
    config: ConfigArgument,
    to: Annotated[str, typer.Option("--to", metavar="TOOL", help="trackio, tensorboard, wandb or mlflow.")],
    results: ResultsOption = Path("results"),
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
) -> None:
    """Send the runs of a sweep to a tracker, each once."""
    from stableft.config.local_files import check_results_folder
    from stableft.python_api import plan_sweep
    from stableft.sweep.tracker_clients import check_tracker
    from stableft.sweep.trackers import send_sweep

    check_tracker(to, "--to")
    check_results_folder(results)
    print(send_sweep(to, plan_sweep(config, set_, split_names(arms), seeds), results))
