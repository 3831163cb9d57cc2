"""What `import stableft` offers to scripts and notebooks. The command line calls the same functions.

A function imports pandas, matplotlib or torch when it runs. A mistake in its arguments is a `UserError`, a ValueError
whose one sentence names file, key, value and rule.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from stableft.config.local_files import check_results_folder
from stableft.config.planned_run import Execution
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import Sweep, load_sweep_from_options
from stableft.config.validation import check_price
from stableft.config.yaml_file import write_setting
from stableft.errors import UserError, did_you_mean, echo
from stableft.records.failure import is_failed
from stableft.records.frame import ReportedArm, build_tidy_frame
from stableft.records.run_record import (
    HISTORY_FILE,
    RECORD_FILE,
    AnyRunRecord,
    ImportedRun,
    read_records_file,
    run_folder,
)
from stableft.records.stored_records import read_all_stored_records
from stableft.report.artifact import BoldRule, ReportedCheckpoint
from stableft.report.runs import as_means_table, compare_against, load_runs
from stableft.stats import Interval, wilson_interval
from stableft.text import forgiving_output

if TYPE_CHECKING:
    import pandas as pd

    from stableft.report.forms.document import Report
    from stableft.sweep.progress import ShowEvent, SweepEvent
    from stableft.sweep.state import SweepResult

PathLike = str | Path
# {"optimizer.lr": 2e-5}, or as on the command line "optimizer.lr=2e-5", or several of those
SettingsArgument = Mapping[str, Any] | Sequence[str]
SOURCES = "stableft records"  # key of a data frame's `attrs`: the paths that its records were read from


def plan_sweep(
    config: PathLike,
    settings: SettingsArgument = (),
    arms: Sequence[str] = (),
    seeds: str | int | Iterable[int] | None = None,
    data_dir: PathLike | None = None,
) -> Sweep:
    """Return the runs of a sweep file, without training them.

    Args:
        config: A file, or the name of a shipped one, such as "rte".
        settings: Override those of the file: `--set` of the command line.
        arms: Only these arms. Empty: all.
        seeds: Instead of those of the file, such as 5, "1-25" or [1, 2, 7].
        data_dir: Folder of original GLUE files. None: the hub.
    """
    if seeds is not None:
        seeds = str(seeds) if isinstance(seeds, str | int) else ",".join(map(str, seeds))
    folder = None if data_dir is None else Path(data_dir)
    return load_sweep_from_options(str(config), folder, _write_settings(settings), _as_list(arms), seeds)


def _write_settings(settings: SettingsArgument) -> list[str]:
    """Return settings as KEY=VALUE texts."""
    if not isinstance(settings, Mapping):
        return _as_list(settings)
    return [write_setting(key, value) for key, value in settings.items()]


def _as_list(values: str | Iterable[str]) -> list[str]:
    """Return the values as a list; a single text counts as one value."""
    return [values] if isinstance(values, str) else list(values)


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"{name}={echo(value)}: must be one of {', '.join(choices)}{did_you_mean(str(value), choices)}")


@forgiving_output()
def run_sweep(
    config: PathLike | Sweep,
    *,
    settings: SettingsArgument = (),
    arms: Sequence[str] = (),
    seeds: str | int | Iterable[int] | None = None,
    results: PathLike = "results",
    data_dir: PathLike | None = None,
    devices: str = "auto",
    jobs_per_device: int = 1,
    save: Literal["none", "best", "last", "all"] = "none",
    checkpoint_every: int | None = None,
    micro_batch: int | None = None,
    threads: int | None = None,
    deterministic: bool = True,
    tf32: bool = False,
    compile: bool = False,
    cuda_graphs: bool = True,
    price: float | None = None,
    track: str | None = None,
    retry_crashed: bool = False,
    fail_fast: bool = False,
    complete: bool = False,
    watch: "ShowEvent | None" = None,
    leave_after: float | None = None,
    executor: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
) -> "SweepResult":
    """Train every run of a sweep that is not done, print the progress, and return the ids of its runs by outcome.

    Calling it again continues where it stopped. After a UserError, no empty results folder is left behind.

    Args:
        config: A sweep file, the name of a shipped one, or what `plan_sweep` returns.
        settings: As in `plan_sweep`, like `arms`, `seeds` and `data_dir`, which a planned sweep already has.
        results: Folder of all results; it is created.
        devices: "auto" (all GPUs, otherwise the CPU), "cpu", or GPU numbers such as "0,1".
        jobs_per_device: Concurrent runs per device.
        save: Which model weights to keep.
        checkpoint_every: Steps between checkpoints. None: as often as 2 % of the time allows.
        micro_batch: Rows per forward pass; the batch size stays the same.
        threads: CPU threads of each job. None: OMP_NUM_THREADS, otherwise its share of the cores.
        deterministic: Only kernels that give the same bits every time. False: the fastest ones; records say so.
        tf32: On a GPU, compute float32 products in TF32.
        compile: Compile models with torch.compile: minutes first, then faster; records say so.
        cuda_graphs: On a GPU, record updates and replay them: the same numbers, faster.
        price: Of an hour of a device, in any currency, for records and reports.
        track: Tracker to send runs to when they end: "trackio", "tensorboard", "wandb" or "mlflow".
        retry_crashed: Run crashed runs again.
        fail_fast: Stop at the first crash.
        complete: Retrain finished runs whose requested weights or probes are missing.
        watch: Is called with every event of the sweep, such as `RunStarted`, of those in `stableft.sweep.progress`.
        leave_after: Seconds to wait at the end for runs that other processes hold. None: until they are done.
        executor: "local" (this machine) or "ray": workers on the nodes of a Ray cluster.
        ray_address: HOST:PORT of the cluster. None: the one that RAY_ADDRESS names or that this machine belongs to.
    """
    from stableft.report.other_settings import describe_padded_runs
    from stableft.sweep.claim_race import MARKS_FOLDER, check_claims
    from stableft.sweep.devices import resolve_devices
    from stableft.sweep.hub_drift import resolve_hub_commits
    from stableft.sweep.local_workers import LocalExecutor
    from stableft.sweep.preflight import check_sweep_inputs, describe_odd_choices, describe_planned_rows
    from stableft.sweep.progress import closing_line, open_display
    from stableft.sweep.ray_cluster import find_ray_cluster, ray_executor
    from stableft.sweep.run_sweep import run_planned_sweep
    from stableft.sweep.start_runs import start_runs_to_train
    from stableft.sweep.state import SAVED_FOLDERS, unique_runs
    from stableft.sweep.tracker_clients import check_tracker
    from stableft.sweep.trackers import tracked_display
    from stableft.training.schedule import total_steps

    _check_choice("save", save, SAVED_FOLDERS)
    _check_choice("executor", executor, ("local", "ray"))
    if ray_address and executor != "ray":
        raise UserError(f"ray_address={echo(ray_address)}: an option of executor='ray'; give that too")
    counts = {"jobs_per_device": jobs_per_device, "checkpoint_every": checkpoint_every}
    for name, count in (counts | {"micro_batch": micro_batch, "threads": threads}).items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UserError(f"{name}={echo(count)}: must be a whole number from 1")
    check_price(price)
    if track is not None:
        check_tracker(track, "track=")
    results = Path(results)
    check_results_folder(results)
    sweep = config if isinstance(config, Sweep) else plan_sweep(config, settings, arms, seeds, data_dir)
    execution = Execution(
        threads=threads,
        micro_batch=micro_batch,
        checkpoint_every=checkpoint_every,
        save=save,
        deterministic=deterministic,
        tf32=tf32,
        compile=compile,
        cuda_graphs=cuda_graphs,
        price=price,
        retrain_incomplete=complete,
    )
    cluster = find_ray_cluster(ray_address, devices) if executor == "ray" else None
    slots = resolve_devices(devices) if cluster is None else ["those of Ray"]
    # Check every input before the first run: a mistake in the last arm must not surface after hours of training.
    parents = start_runs_to_train(sweep, results, retry_crashed)
    rows = check_sweep_inputs(sweep.runs, sweep.sources, parents, compile)
    runs = unique_runs((*parents, *sweep.runs))
    steps = {
        run_id: total_steps(run.config.schedule, rows[run_id].train_rows)
        for run_id, run in runs.items()
        if isinstance(run.config, RunConfig)
    }
    left = [run for run_id, run in runs.items() if not (run_folder(results, run_id) / RECORD_FILE).exists()]
    commits = sweep.sources.hub_commits or resolve_hub_commits((*sweep.runs, *sweep.start_runs))
    sweep = replace(sweep, sources=replace(sweep.sources, hub_commits=commits))
    created = not results.exists()
    results.mkdir(parents=True, exist_ok=True)
    if not os.access(results, os.W_OK):
        raise UserError(f"--results {results}: this folder is not writable")
    choices = describe_odd_choices(left, sweep, devices, slots, jobs_per_device, tf32)
    padded = (f"note: {results}: {line}" for line in describe_padded_runs(left, sweep.start_runs, results))
    for line in (*describe_planned_rows(left, rows), *padded, *choices):
        print(line, flush=True)
    try:
        check_claims(results)
        where = (devices, jobs_per_device, results, sweep)
        local = nullcontext(LocalExecutor(slots, jobs_per_device))
        with (
            local if cluster is None else ray_executor(cluster, *where) as workers,
            open_display(steps=steps) as shown,
            tracked_display(track, sweep, results, shown, send_earlier=leave_after is None) as display,
        ):

            def show(event: "SweepEvent") -> None:
                display(event)
                if watch:
                    watch(event)

            result = run_planned_sweep(
                sweep,
                results,
                workers,
                execution,
                retry_crashed,
                fail_fast,
                show,
                fingerprint=lambda config, _: rows[config.run_id].fingerprint,
                leave_after=leave_after,
            )
    except UserError:
        if created and results.is_dir() and not {path.name for path in results.iterdir()} - {MARKS_FOLDER}:
            shutil.rmtree(results)  # otherwise runs had finished before the error came up
        raise
    print(closing_line(result))
    return result


def load_records(
    path: PathLike | Sequence[PathLike] = "results", *, score: ReportedCheckpoint = "recipe"
) -> "pd.DataFrame":
    """Return a data frame with one row per run.

    Its columns are those of `stableft.records.frame.TIDY_COLUMNS`, which says what they hold, then every score of the
    last and the best checkpoint, such as `last_val_accuracy` and `best_test_f1`. Scores are fractions. The file of
    `stableft export --format csv` has the same columns.

    Args:
        path: A results folder, a file of records (.jsonl), or several of them. Start runs are left out.
        score: Checkpoint whose score is `score`; "recipe": as each run's recipe says.
    """
    _check_choice("score", score, get_args(ReportedCheckpoint))
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    frame = build_tidy_frame(_read_paths(paths), score)
    frame.attrs[SOURCES] = [str(one) for one in paths]
    return frame


def _read_paths(paths: Iterable[Path]) -> Iterator[AnyRunRecord]:
    """Yield the run records of results folders and record files."""
    for path in paths:
        if not path.is_dir():
            yield from read_records_file(path)
        elif (path / "runs").is_dir():
            yield from read_all_stored_records(path)
        else:
            raise UserError(f"{path}: this folder contains no runs")


def load_history(run: PathLike, results: PathLike = "results") -> "pd.DataFrame":
    """Return a data frame with one row per optimizer step of a run: `step`, `loss`, `lr`, `grad_norm`.

    Args:
        run: Id of a run in `results`, the beginning of its id, or the path of its folder.
        results: Results folder.
    """
    import pandas as pd

    from stableft.probes.saved_runs import find_run_id
    from stableft.records.file_sums import check_undamaged, read_sums

    folder = Path(run)
    if not (folder / HISTORY_FILE).is_file():
        folder = run_folder(Path(results), find_run_id(Path(results), str(run)))
    check_undamaged(folder, read_sums(folder), HISTORY_FILE)
    try:
        lines = (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
        frame = pd.DataFrame([json.loads(line) for line in lines])
    except FileNotFoundError:
        raise UserError(f"{folder}: it has no {HISTORY_FILE}: the run has not ended yet") from None
    except ValueError as error:  # of an older run, whose record has no checksum of it
        raise UserError(f"{folder / HISTORY_FILE} is damaged: {error}") from None
    return frame.astype({name: "float64" for name in frame if name not in ("step", "tokens")})  # "NaN" is text in JSON


def make_report(
    source: PathLike | Sequence[PathLike],
    *,
    settings: SettingsArgument = (),
    arms: Sequence[str] = (),
    seeds: str | int | Iterable[int] | None = None,
    results: PathLike = "results",
    records: PathLike | Sequence[PathLike] = (),
    data_dir: PathLike | None = None,
    score: ReportedCheckpoint = "recipe",
    rule: Literal["levene"] | BoldRule = "levene",
    against: str | None = None,
    with_figures: bool = True,
) -> "Report":
    """Return the report of a sweep, of a file of records, or of a table or figure of a paper. A notebook shows it.

    Args:
        source: Sweep file, artifact id such as "mosbach-table1", or file of records (.jsonl), or several such files.
        settings: Those that the sweep was run with, like `arms` and `seeds`; see `plan_sweep`.
        results: Results folder, whose runs are reported.
        records: Files of records to read instead.
        data_dir: Folder of original GLUE files, for tables of data sets. None: the hub.
        score: Checkpoint whose score is reported; "recipe": as the recipe says.
        rule: Table and bold as in M Table 1 ("levene"), or Z Table 1 ("best"), 2 ("better"), 4 ("different") or
            7 ("pair").
        against: Arm that the others are compared with. None: the first.
        with_figures: Also read what figures show; a large sweep takes a second longer.
    """
    from stableft.report.build import build_report

    _check_choice("score", score, get_args(ReportedCheckpoint))
    _check_choice("rule", rule, ("levene", *get_args(BoldRule)))
    results, (name, *more) = Path(results), [str(one) for one in ([source] if isinstance(source, PathLike) else source)]
    check_results_folder(results)
    if more and (others := [other for other in (name, *more) if not other.endswith(".jsonl")]):
        raise UserError(f"report {name} {more[0]}: several names must be files of records, but {others[0]} is not one")
    selections = {"--arms": arms, "--seeds": seeds, "--set": settings}
    if name.endswith(".jsonl") and (given := [option for option, value in selections.items() if value]):
        raise UserError(
            f"{name}: {' and '.join(given)} can only select runs of a sweep file; a file of records is reported whole"
        )
    if kind := {".csv": "csv", ".tsv": "csv", ".json": "json"}.get(Path(name).suffix):
        raise UserError(f"{name} is not a file of records; convert it with `stableft import {kind} {name} ...`")
    runs = load_runs(
        name,
        results,
        [Path(records)] if isinstance(records, str | Path) else [Path(file) for file in records],
        score,
        lambda path: plan_sweep(path, settings, arms, seeds),
        with_figures,
        [Path(other) for other in more],
    )
    if against:
        runs = compare_against(runs, against)
    if rule != "levene":
        runs = as_means_table(runs, rule)
    return build_report(runs, Path(data_dir) if data_dir else None)


def compare(
    records: "PathLike | Sequence[PathLike] | pd.DataFrame",
    a: str,
    b: str,
    *,
    sweep: Sweep | None = None,
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    score: ReportedCheckpoint = "recipe",
) -> "Report":
    """Return the report on arm `b` against the reference arm `a`: failures, spread, means, and what may be concluded.

    Args:
        records: A results folder, a file of records, several of them, or rows that `load_records` returned. Of a data
            frame, the runs and arm names that its rows have now are compared.
        sweep: Only the runs of this sweep, by the names of its arms; see `plan_sweep`.
        task: Task to compare on. Needed if the arms share several.
        metric: Metric to compare. None: the reported one.
        where: Only runs with these settings, such as "optimizer.lr=2e-5".
        score: Checkpoint whose score is compared; "recipe": as the recipe says.
    """
    from stableft.report.compare_arms import build_comparison_report

    _check_choice("score", score, get_args(ReportedCheckpoint))
    where = _as_list(where)
    names: dict[str, list[ReportedArm]] | None = None
    if isinstance(records, str | Path):
        paths = [Path(records)]
    elif isinstance(records, Sequence):
        paths = [Path(path) for path in records]
    else:
        if not {"run_id", "arm", "recipe", "checkpoint"} <= set(records) or SOURCES not in records.attrs:
            raise UserError("compare: the data frame must be rows that load_records returned, with all their columns")
        paths, names = [Path(path) for path in records.attrs[SOURCES]], {}
        for row in records[["run_id", "arm", "recipe", "checkpoint"]].itertuples(index=False):
            names.setdefault(row[0], []).append(ReportedArm(*row[1:]))
    if sweep is not None:
        names = {run.run_id: [] for run in sweep.runs}
        for run in sweep.runs:
            names[run.run_id].append(ReportedArm(run.arm, run.recipe, run.report))
    results = next((path for path in paths if path.is_dir()), Path("results"))
    files = [path for path in paths if not path.is_dir()]
    if names is None and (not files or len(files) == len(paths)):
        return build_comparison_report(a, b, results, files, task, metric, where, score)
    chosen = list(_read_paths(paths) if names is None else _rename_arms(_read_paths(paths), names))
    return build_comparison_report(a, b, results, files, task, metric, where, score, chosen)


def _rename_arms(records: Iterable[AnyRunRecord], names: Mapping[str, Sequence[ReportedArm]]) -> Iterator[AnyRunRecord]:
    """Yield each record once for every arm that `names` gives its run; other records are left out."""
    for record in records:
        for named in names.get(record.run_id, ()):
            update = {"arm": named.arm, "report": named.report}
            yield record.model_copy(update=update if isinstance(record, ImportedRun) else named._asdict())


@dataclass(frozen=True)
class FailureRate:
    """How many of `n` runs failed, their share, and its Wilson interval."""

    failed: int
    n: int
    rate: float
    interval: Interval


def failure_rate(scores: Iterable[float], baseline: float) -> FailureRate:
    """Return how many scores are NaN or no better than `baseline`, the score of the best constant prediction.

    For a correlation, whose constant prediction scores 0, `baseline` is what noise reaches: 1.645 / sqrt(rows). Where
    lower scores are better, negate both.
    """
    verdicts = [is_failed(float(score), baseline) for score in scores]
    if not verdicts:
        raise UserError("failure_rate: there are no scores")
    failed, n = sum(verdicts), len(verdicts)
    return FailureRate(failed, n, failed / n, wilson_interval(failed, n))
