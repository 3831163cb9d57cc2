"""Commands that handle files: clean, copy, export."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.cli.options import (
    NO_TEXTS,
    ArmsOption,
    ResultsOption,
    SeedsOption,
    SetOption,
    check_out_file,
    complete_config,
    complete_recipe_or_config,
    load_optional_sweep,
    split_names,
)
from stableft.errors import UserError


def clean(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP]", help="Only the runs of this sweep. Default: all.", autocompletion=complete_config
        ),
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Remove the checkpoints of unfinished runs.")
    ] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Remove the weights that --save kept.")] = False,
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="Remove all but the records: also leftovers of crashes, reports, logs of ended pilots."
        ),
    ] = False,
    records: Annotated[
        bool, typer.Option("--records", help="Remove the records too: what the runs of SWEEP measured.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    results: ResultsOption = Path("results"),
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
) -> None:
    """Show what a results folder holds, and remove what is named. Records are removed only if they are named."""
    from stableft.sweep.clean import REMADE_KINDS, find_held_items, remove_held_items, render_held_items, total_size

    if not (results / "runs").is_dir():
        raise UserError(f"--results {results}: this folder contains no runs")
    if records and sweep is None:
        raise UserError("--records removes what runs measured; name the sweep whose records are to go")
    items = find_held_items(results, load_optional_sweep(sweep, set_, arms, seeds))
    print(render_held_items(items))
    named = {"checkpoints": checkpoints, "weights": weights, "records": records}
    kinds = {kind for kind, given in named.items() if given} | {*(REMADE_KINDS if all_ else ())}
    chosen = [item for item in items if item.kind in kinds]
    if not kinds:
        print("nothing is removed without --checkpoints, --weights or --all")
        return
    if not chosen:
        print(f"there is nothing to remove: no {', '.join(sorted(kinds))}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("clean asks before it removes anything; give --yes where nobody can answer")
        what = ", ".join(kind for kind in (*REMADE_KINDS, "records") if kind in {item.kind for item in chosen})
        typer.confirm(f"Remove {total_size(chosen)} of {what}?", abort=True)
    for line in remove_held_items(chosen):
        print(line)


def copy(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|SWEEP",
            help="Name of a shipped recipe or sweep file; `stableft list recipes|sweeps` shows them.",
            autocompletion=complete_recipe_or_config,
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to write. Default: its name, in this folder.")
    ] = None,
) -> None:
    """Copy a shipped recipe or sweep file, to be edited."""
    from stableft.config.recipe import shipped_recipes
    from stableft.config.sweep_file import find_sweep_file, shipped_sweeps
    from stableft.errors import did_you_mean
    from stableft.records.run_record import atomic_write

    recipe = shipped_recipes().get(name.removeprefix("configs/").removeprefix("recipes/").removesuffix(".yaml"))
    try:
        source = recipe or find_sweep_file(name)
    except UserError:
        close = did_you_mean(name, [*shipped_recipes(), *shipped_sweeps()])
        raise UserError(f"{name}: there is no recipe or sweep file of that name{close}") from None
    target = out or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UserError(f"{target}: this file exists; remove it first, or name another")
    check_out_file(target, "text")
    atomic_write(target, source.read_bytes())
    command = f"`recipe: {target}` in a sweep file uses it" if recipe else f"`stableft sweep {target}` runs it"
    print(f"wrote {target}; {command}")


def export(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG|FILE.jsonl", help="Sweep, or file of records.", autocompletion=complete_config),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="File to write: one record a line, or if it ends in .csv a table."),
    ],
    format_: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option("--format", help="jsonl: records, for report; csv: one row a run. Default: by --out's ending."),
    ] = None,
    results: ResultsOption = Path("results"),
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
) -> None:
    """Write the records of a sweep to one file, or as a table.

    CONFIG may also be a file of records (.jsonl); one of an older version is written as this version writes it.
    """
    from stableft.cli.sweep_commands import export_records, read_sweep_records
    from stableft.config.local_files import check_results_folder
    from stableft.python_api import plan_sweep
    from stableft.records.convert import convert_records_file
    from stableft.records.frame import write_tidy_table
    from stableft.records.run_record import read_records_file

    check_results_folder(results)
    is_table = (format_ or ("csv" if out.suffix.lower() == ".csv" else "jsonl")) == "csv"
    if is_table != (out.suffix.lower() == ".csv") and out.suffix.lower() in (".csv", ".jsonl"):
        raise UserError(f"--format {format_}: --out {out} ends in {out.suffix}; give a name with the format's ending")
    check_out_file(out, "csv" if is_table else "records")
    if config.endswith(".jsonl"):
        if set_ or arms or seeds:
            raise UserError(f"--set, --arms and --seeds select runs of a sweep; {config} is a file of records")
        if is_table:
            print(f"wrote {write_tidy_table(read_records_file(Path(config)), out)} runs to {out}")
        else:
            print(f"wrote {convert_records_file(Path(config), out)} records to {out}")
        return
    sweep = plan_sweep(config, set_, split_names(arms), seeds)
    if is_table:
        print(f"wrote {write_tidy_table(read_sweep_records(sweep, results), out)} of {len(sweep.runs)} runs to {out}")
    else:
        print(export_records(sweep, results, out))
