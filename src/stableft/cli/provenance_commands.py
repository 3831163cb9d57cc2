"""Commands that repeat runs: rerun, verify."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from stableft.cli.options import (
    NO_FILES,
    NO_TEXTS,
    AllowPickleOption,
    ArmsOption,
    ConfigArgument,
    DataDirOption,
    DeterministicOption,
    RecordsOption,
    ResultsOption,
    SeedsOption,
    SetOption,
    Tf32Option,
    load_optional_sweep,
    split_names,
)
from stableft.cli.probe_commands import DeviceOption, PretrainedOption, SweepConfigOption
from stableft.sweep.signals import EXIT_INTERRUPTED


def rerun(
    run: Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of a finished run, or a prefix of it.")],
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Its results folder. Default: RESULTS/reruns/RUN_ID-N."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, or a GPU such as cuda:0. Default: as in the record.")
    ] = None,
    pretrained: PretrainedOption = None,
    config: SweepConfigOption = None,
    set_: SetOption = NO_TEXTS,
    data_dir: DataDirOption = None,
    _allow_pickle: AllowPickleOption = False,
) -> None:
    """Repeat a run from its record, and compare.

    Outputs are compared bit for bit; a difference of scores, with the spread over seeds. The exit code is 1 if a CPU
    gave other bits under the conditions of the record.
    """
    from stableft.config.local_files import check_results_folder
    from stableft.records.run_record import RunRecord
    from stableft.records.stored_records import read_all_stored_records, read_records_files

    check_results_folder(results)
    sweep = load_optional_sweep(config, set_, "", None, data_dir)

    def own_records() -> Iterator[RunRecord]:
        stored = read_records_files(records) if records else read_all_stored_records(results)
        return (record for record in stored if isinstance(record, RunRecord))

    from stableft.probes.rerun import choose_folder, compare_runs, describe_comparison, find_record, repeat_run

    record = find_record(own_records(), Path(run).name, ", ".join(map(str, records)) or str(results))
    folder = choose_folder(results, out, record.run_id)
    again = repeat_run(record, results, folder, device, pretrained, sweep, data_dir)
    if again is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    comparison = compare_runs(record, again, results, folder)
    setting = record.config.setting_id()
    siblings = [one for one in own_records() if one.status == "finished" and one.config.setting_id() == setting]
    for line in describe_comparison(comparison, siblings):
        print(line)
    raise typer.Exit(1 if comparison.must_be_equal and comparison.unequal else 0)


def verify(
    config: ConfigArgument,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Steps of each of the four runs.")] = 20,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads. Default: as a sweep with one job.")
    ] = None,
    deterministic: DeterministicOption = "on",
    tf32: Tf32Option = False,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    data_dir: DataDirOption = None,
    _allow_pickle: AllowPickleOption = False,
) -> None:
    """Check that seeds act and equal runs are equal here.

    Four short runs are trained, two equal and two with other seeds. They are of the sweep's first arm, or of that
    which --arms names. The exit code is 1 if a seed does not act or equal runs differ.
    """
    from dataclasses import replace

    from stableft.config.planned_run import Execution
    from stableft.config.run_config import RunConfig
    from stableft.errors import UserError
    from stableft.python_api import plan_sweep
    from stableft.sweep.devices import resolve_device
    from stableft.sweep.hub_drift import resolve_hub_commits
    from stableft.sweep.preflight import check_sweep_inputs

    plan = plan_sweep(config, set_, split_names(arms), seeds, data_dir)
    run = plan.runs[0]
    if others := {one.arm for one in plan.runs} - {run.arm}:
        print(f"of {plan.path}, the arm {run.arm}; --arms names another of {len(others) + 1}", flush=True)
    name = resolve_device(device)
    if not isinstance(run.config, RunConfig):
        raise UserError(f"{plan.path}: the arm {run.arm} is a command; verify trains recipes, so let --arms name one")
    from stableft.probes.determinism import describe_verification, shorten, verify_machine

    check_sweep_inputs([replace(run, config=shorten(run.run_config, steps))], plan.sources, ())
    sources = replace(plan.sources, hub_commits=resolve_hub_commits([run]))
    execution = Execution(name, threads, deterministic=deterministic == "on", tf32=tf32)
    verification = verify_machine(run, steps, sources, execution)
    if verification is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    for line in describe_verification(verification):
        print(line)
    raise typer.Exit(0 if verification.is_deterministic and verification.seeds_act else 1)
