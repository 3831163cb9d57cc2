"""`stableft sweep` on Slurm: submit pilots, be one, report on them, cancel them."""

import hashlib
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from stableft.cli.sweep_commands import print_report
from stableft.config.planned_run import Execution, PlannedRun
from stableft.config.run_config import StartFrom
from stableft.config.sweep_file import Sweep, config_name, find_sweep_file
from stableft.errors import UserError, clip
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.run_record import RECORD_FILE, atomic_write, read_record, run_folder
from stableft.report.other_settings import describe_padded_runs
from stableft.sweep.claim_race import check_claims
from stableft.sweep.claims import claim_run
from stableft.sweep.devices import parse_devices
from stableft.sweep.hub_drift import check_hub_commits, resolve_hub_commits
from stableft.sweep.leases import take_lease
from stableft.sweep.pilot import LEAVE_AFTER_SECONDS, Pilot, read_pilots
from stableft.sweep.preflight import check_sweep_inputs, describe_arms_left_out, describe_planned_rows
from stableft.sweep.signals import EXIT_INTERRUPTED
from stableft.sweep.slurm import (
    QueuedPilot,
    SlurmOptions,
    cancel,
    check_cluster,
    check_options,
    find_pilots,
    has_slurm,
    logs_folder,
    submit,
    with_environment,
    write_script,
)
from stableft.sweep.start_runs import find_unusable_starts, start_runs_to_train
from stableft.sweep.state import (
    SweepResult,
    SweepState,
    check_fingerprints,
    find_missing_outputs,
    read_sweep_state,
    unique_runs,
)
from stableft.sweep.submitted_plan import dump_plan, name_plan
from stableft.sweep.wanted_seeds import find_unneeded

REPORT_LEASE = ".report.lease"  # beside the report, of the pilot that writes it
EXECUTOR_OPTIONS = {  # executor -> names of the parameters that only it takes
    "slurm": ("slurm_partition", "slurm_time", "slurm_gpus", "slurm_warn", "slurm_arg", "pilots", "print_"),
    "ray": ("ray_address",),
}
# Parameters that are in the plan, or make no sense to a pilot; all others reach it.
NOT_FOR_PILOTS = (
    *("context", "config", "results", "data_dir", "set_", "arms", "seeds", "devices", "retry_crashed", "dry_run"),
    *("executor", *EXECUTOR_OPTIONS["slurm"], "stop", "pilot", "plan_file"),
)


def check_executor_options(context: typer.Context, executor: str, pilot: bool) -> None:
    """Raise a UserError if an option of another executor is given."""
    if pilot and executor != "local":
        raise UserError(f"--pilot: one of the pilots of --executor {executor} runs without that option")
    for owner, names in EXECUTOR_OPTIONS.items():
        given = [option for name, option, _ in _given(context) if name in names]
        if given and owner != executor:
            raise UserError(f"{given[0]}: an option of --executor {owner}; give that too, or leave this out")


def _given(context: typer.Context) -> Iterator[tuple[str, str, Any]]:
    """Yield name, option and value of each parameter on the command line."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name and source and source.name == "COMMANDLINE":
            yield param.name, param.opts[0], context.params[param.name]


def _options_for_pilots(context: typer.Context) -> list[str]:
    """Return the options on the command line that pilots are to have too."""
    words = []
    off = {param.name: param.secondary_opts for param in context.command.params}
    for name, option, value in _given(context):
        if name in NOT_FOR_PILOTS:
            continue
        if isinstance(value, bool):
            words += [option] if value else off[name][:1]
        else:
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (option, str(one))]
    return words


def _pilot_devices(devices: str, gpus: int) -> str:
    """Return --devices of a pilot. It names GPUs, because "auto" would train on a CPU where a node's GPU is broken."""
    if devices == "auto":
        return ",".join(map(str, range(gpus))) or "cpu"
    if max([-1, *parse_devices(devices)]) >= gpus:
        raise UserError(
            f"--devices {clip(devices)}: a pilot has {gpus} GPUs, numbered from 0; --slurm-gpus says how many"
        )
    return devices


def submit_pilots(
    context: typer.Context, config: str, plan: Sweep, results: Path, options: SlurmOptions, devices: str, jobs: int
) -> int:
    """Submit the pilots that a sweep lacks, say so, and return the exit code."""
    retry, print_only = context.params["retry_crashed"], context.params["print_"]
    say = partial(print, file=sys.stderr if print_only else sys.stdout, flush=True)
    if context.params["dry_run"]:
        raise UserError("--dry-run measures steps on this machine; give it without --executor slurm, on a node")
    options = with_environment(options)
    check_options(options)
    devices = _pilot_devices(devices, options.gpus)
    if has_slurm() or not print_only:
        check_cluster(options, results)
    if options.variables:
        say(f"{', '.join(map(options.quote, options.variables))}: from the environment")
    commits = resolve_hub_commits((*plan.runs, *plan.start_runs))
    plan = replace(plan, sources=replace(plan.sources, hub_commits=commits))
    params = context.params
    execution = Execution(save=params["save"], compile=params["compile_"], retrain_incomplete=params["complete"])
    state, left, notes = find_runs_left(plan, results, execution, retry)
    crashed = [record.run_id for record in state.crashed]
    for line in notes:
        say(line)

    content = dump_plan(plan)
    plan_file = logs_folder(results, plan.name) / name_plan(content)

    def command_on(folder: Path) -> str:
        file = logs_folder(folder, plan.name) / name_plan(content)
        words = [sys.executable, "-m", "stableft", "sweep", config, "--pilot", "--plan", str(file), "--results"]
        return shlex.join([*words, str(folder.absolute()), "--devices", devices, *_options_for_pilots(context)])

    # Nodes are given the folder as it was named, because they may have it at that path alone.
    key = hashlib.sha256(content + command_on(results.resolve()).encode()).hexdigest()[:16]
    active = find_pilots(plan.name, results) if has_slurm() else []
    useful = [pilot for pilot in active if not pilot.is_ending]
    same = [pilot for pilot in useful if pilot.key == key]
    slots = (devices.count(",") + 1) * jobs
    count = min(options.pilots, -(-len(left) // slots)) - len(same)
    if retry:  # pilots that are there already know these runs as settled
        count = max(count, min(options.pilots, -(-len(crashed) // slots)))
    if active:
        others = len(useful) - len(same)
        say(describe_queue(active) + (f"; {others} of another plan or other options" if others else ""))
    script = write_script(options, plan.name, max(count, 1), results, key, command_on(results), _title())
    if count <= 0:
        say(f"{len(state.finished)} runs are done, {len(crashed)} crashed, {len(left)} left: nothing to submit")
        return 1 if crashed and not left else 0
    if print_only:
        say(f"the plan of the {len(left)} runs that are left is written when they are submitted")
        print(script, end="")
        return 0
    submit(script, test_only=True)
    plan_file.parent.mkdir(parents=True, exist_ok=True)
    check_claims(results)
    atomic_write(plan_file, content)
    with crashes_cleared(results, crashed if retry else []):
        job = submit(script)
    say(f"submitted {count} pilots as job {job} for the {len(left)} runs that are left, {len(state.finished)} are done")
    say(f"`stableft status {config}` shows them, `stableft sweep --stop {config}` cancels them")
    return 0


def find_runs_left(
    plan: Sweep, results: Path, execution: Execution, retry_crashed: bool
) -> tuple[SweepState, list[PlannedRun], list[str]]:
    """Check a sweep's inputs. Return its state, the runs that pilots could train, and notes on the data and those runs.

    Raises:
        UserError: An input is invalid, or is not what finished runs were trained on.
    """
    parents = start_runs_to_train(plan, results, retry_crashed)
    rows = check_sweep_inputs(plan.runs, plan.sources, parents, execution.compile)
    runs = unique_runs((*parents, *plan.runs))
    state = read_sweep_state(results, runs.values(), look_only=True, brief=True)
    check_fingerprints(state.finished, plan.runs, plan.sources, lambda config, _: rows[config.run_id].fingerprint)
    incomplete = set()
    if execution.retrain_incomplete:
        of = {record.run_id: record for record in state.finished}
        incomplete = {one for one in of if find_missing_outputs(results, runs[one], of[one], execution)}
    left, unusable = _runs_left(plan, results, runs, state, retry_crashed, incomplete)
    check_hub_commits(left, (*state.finished, *state.resumable), plan.sources.hub_commits, results)
    padded = (f"note: {results}: {line}" for line in describe_padded_runs(left, plan.start_runs, results))
    notes = [*describe_arms_left_out(plan), *describe_planned_rows(left, rows), *padded]
    return state, left, [*notes, *dict.fromkeys(unusable.values())]


def _runs_left(
    plan: Sweep,
    results: Path,
    runs: Mapping[str, PlannedRun],
    state: SweepState,
    retry_crashed: bool = False,
    incomplete: Collection[str] = (),
) -> tuple[list[PlannedRun], dict[StartFrom, str]]:
    """Return those of these runs that pilots could train, and start weights that are unavailable -> the reason.

    `incomplete` are finished runs that are trained again.
    """
    crashed = {record.run_id for record in state.crashed}
    settled = {record.run_id for record in state.finished}.difference(incomplete)
    settled |= {one.run_id for one in state.resumable if one.status == "stopped" and one.run_id in plan.rules}
    settled |= set() if retry_crashed else crashed
    settled |= find_unneeded(plan, results, crashed if retry_crashed else set())
    unusable = find_unusable_starts(plan, results, retry_crashed) if plan.start_runs else {}
    left = [run for run_id, run in runs.items() if run_id not in settled and run.config.start_from not in unusable]
    return left, unusable


def _title() -> str:
    """Return the command line as a comment of one line."""
    return " ".join(shlex.join(["stableft", *sys.argv[1:]]).split("\n"))


@contextmanager
def crashes_cleared(results: Path, run_ids: Sequence[str]) -> Iterator[None]:
    """Remove the records of crashes that are to be tried again; put them back if an exception is raised.

    Each pilot would otherwise also try again what has just crashed in another one.
    """
    removed: dict[Path, bytes] = {}
    try:
        for run_id in run_ids:
            folder = run_folder(results, run_id)
            with claim_run(folder) as claimed:
                record = read_record(results, run_id) if claimed else None
                if record and record.status == "crashed":
                    removed[folder / RECORD_FILE] = (folder / RECORD_FILE).read_bytes()
                    remove_under_claim(folder / RECORD_FILE)
        yield
    except BaseException:
        for path, content in removed.items():
            atomic_write(path, content)
        raise


def describe_queue(pilots: Sequence[QueuedPilot]) -> str:
    """Return a phrase that counts the pilots that Slurm runs, has queued, and is ending."""
    queued = [pilot for pilot in pilots if not pilot.runs]
    reasons = {pilot.reason for pilot in queued} - {"None"}
    why = f" ({', '.join(sorted(reasons))})" if reasons else ""
    ending = sum(pilot.is_ending for pilot in pilots)
    jobs = ", ".join(sorted({pilot.job for pilot in pilots}, key=lambda job: (len(job), job)))
    counts = f"{len(pilots) - len(queued) - ending} running, {len(queued)} queued{why}"
    counts += f", {ending} ending" if ending else ""
    return f"pilots: {counts} (Slurm job {jobs or '-'})"


def _describe_runs(sweep: Sweep, results: Path) -> str:
    """Return a line that counts a sweep's runs, with those to train first; what is left is what would be submitted."""
    try:
        parents = start_runs_to_train(sweep, results)
    except UserError:  # weights to start from are gone, which `stableft sweep` reports
        parents = ()
    runs = unique_runs((*parents, *sweep.runs))
    state = read_sweep_state(results, runs.values(), look_only=True, brief=True)
    try:
        left, unusable = _runs_left(sweep, results, runs, state)
    except UserError:  # the claims cannot be decided, which `stableft sweep` reports
        left, unusable = _runs_left(replace(sweep, decide=None), results, runs, state)
    stopped = sum(record.status == "stopped" and record.run_id in sweep.rules for record in state.resumable)
    ended = {record.run_id for record in (*state.finished, *state.crashed)}
    blocked = sum(run.config.start_from in unusable for run_id, run in runs.items() if run_id not in ended)
    line = f"runs: {len(state.finished)} done, {len(state.crashed)} crashed"
    line += f", {stopped} stopped early as hopeless" if stopped else ""
    line += f", {blocked} with nothing to start from" if blocked else ""
    return f"{line}, {'at most ' if sweep.decide and left else ''}{len(left)} left"


def describe_pilots(sweep: Sweep, results: Path) -> Iterator[str]:
    """Yield lines on a sweep's pilots, if it has ever had any: how many, where, at which runs, and how they ended."""
    states = read_pilots(results, sweep.name)
    if not states and not logs_folder(results, sweep.name).is_dir():
        return
    yield _describe_runs(sweep, results)
    try:
        active = {pilot.name: pilot for pilot in find_pilots(sweep.name, results)}
    except UserError as error:
        active: dict[str, QueuedPilot] | None = None
        yield f"pilots: cannot be told here: {error}"
    else:
        yield describe_queue(list(active.values()))
        if not states and not active:
            yield f"no pilot has ever written to {logs_folder(results, sweep.name)}: do the nodes see this folder?"
    newest = max((int(state.name.partition("_")[0]) for state in states), default=0)
    for pilot in states:
        there, done = (active or {}).get(pilot.name), f"{pilot.done} run{'s' * (pilot.done != 1)} done"
        if there and there.runs:
            yield f"pilot {pilot.name} on {pilot.host}: {done}, at {', '.join(pilot.at.values()) or 'no run'}"
        elif there:
            yield f"pilot {pilot.name} is queued again: {done}"
        elif active is not None and pilot.name.startswith(f"{newest}_") and (pilot.failed or pilot.ended is None):
            log = logs_folder(results, sweep.name) / f"{pilot.name}.log"
            yield f"pilot {pilot.name} on {pilot.host} has ended, {pilot.ended or 'without a word'}: {log}"


def stop_pilots(config: str, results: Path) -> None:
    """Cancel a sweep's pilots, and say how many."""
    name = config_name(find_sweep_file(config))
    pilots = find_pilots(name, results)
    if not pilots:
        print(f"{name}: no pilots on {results} are queued or run")
        return
    cancel(sorted({pilot.job for pilot in pilots}))
    print(f"{describe_queue(pilots)}: cancelled; running runs write a checkpoint")


def print_report_once(plan: Sweep, results: Path) -> None:
    """Save and print the report on a sweep whose runs are all settled, unless another pilot is doing so."""
    folder = logs_folder(results, plan.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    if (lease := take_lease(folder / REPORT_LEASE)) is None:
        print("Another pilot writes the report.")
        return
    lease.keep()
    try:
        print_report(plan, results)
    finally:
        lease.release()


def run_as_pilot(plan: Sweep, results: Path, fail_fast: bool, train: Callable[..., SweepResult]) -> int:
    """Train as one of several pilots, and return the exit code. If interrupted, requeue this task of Slurm.

    `train` is `run_sweep` with its other arguments.
    """
    pilot = Pilot.of_this_job(results, plan.name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while no run is trained, which leaves a checkpoint
    try:
        result = train(watch=pilot.follow, leave_after=LEAVE_AFTER_SECONDS)
    except KeyboardInterrupt:
        result = None
    except Exception as error:
        pilot.end(clip(error), failed=True)
        raise
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which Slurm ends a task that is requeued
    if result is None or result.interrupted:
        pilot.requeue(partial(print, flush=True))
        return EXIT_INTERRUPTED
    left = {*result.unfinished} - {*result.elsewhere, *result.blocked}
    pilot.end(f"with {len(left)} runs left" if left else "no run is left for it", failed=bool(left))
    if fail_fast and pilot.crashed and pilot.job:
        cancel([pilot.job])
    if not {*result.unfinished}.difference(result.blocked):
        print_report_once(plan, results)
    return 1 if result.crashed or left else 0
