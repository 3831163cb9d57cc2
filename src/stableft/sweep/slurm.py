"""Slurm's side of pilots: their batch script, submission, the queue, cancelling and requeueing."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stableft.errors import UserError, clip, did_you_mean, echo

MIN_WORK_SECONDS = 120  # between a pilot's start and the warning: less is spent on loading libraries, data and weights
TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
NO_LIMIT = ("infinite", "unlimited")
# File systems that one machine alone has, and those that machines share.
LOCAL_TYPES = ("tmpfs", "ramfs", "devtmpfs", "overlay", "aufs")
SHARED_TYPES = re.compile(r"nfs\d?|lustre|gpfs|beegfs|ceph|panfs|afs|wekafs|cifs|smb3|9p|virtiofs|glusterfs|fuse\..*")
LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
PILOTS_FOLDER = "slurm"  # in a sweep's folder of the results
OWN_OPTIONS = {"time": "--slurm-time", "time-min": "--slurm-time", "partition": "--slurm-partition"}
RESERVED = (  # options of sbatch that pilots rely on
    *("array", "chdir", "comment", "error", "export", "job-name", "no-requeue", "open-mode", "output", "parsable"),
    *("requeue", "signal", "test-only", "wait", "wrap"),
)
# Variables, SBATCH_ before them, by which the environment would replace an option; others are named as it is.
VARIABLES = {"time": ("TIMELIMIT",), "array": ("ARRAY_INX",), "requeue": ("REQUEUE", "NO_REQUEUE")}
# Variables that would change which jobs and partitions are listed, or have scancel ask before it cancels.
FILTERS = ("SQUEUE_", "SINFO_", "SCANCEL_")


@dataclass(frozen=True)
class SlurmOptions:
    """What `stableft sweep --executor slurm` is given: `gpus` of each pilot; `warn` in seconds before the limit.

    `variables` are the names of the fields that the environment gave.
    """

    partition: str | None = None
    time: str | None = None
    gpus: int = 1
    pilots: int = 8
    warn: int = 120
    arguments: tuple[str, ...] = ()  # KEY=VALUE of sbatch
    variables: tuple[str, ...] = ()

    def quote(self, name: str) -> str:
        """Return the partition or the time as it was given."""
        value = getattr(self, name)
        return f"{_variables_of(name)[0]}={value}" if name in self.variables else f"--slurm-{name} {value}"


def with_environment(options: SlurmOptions) -> SlurmOptions:
    """Return the options with the partition and time limit of sbatch's own variables where none is given."""
    names = [name for name in ("partition", "time") if getattr(options, name) is None]
    found = {name: value for name in names if (value := os.environ.get(_variables_of(name)[0]))}
    return replace(options, **found, variables=tuple(found))


def _variables_of(option: str) -> list[str]:
    """Return the names of the variables from which sbatch takes an option, over the directives of a script."""
    return [f"SBATCH_{name}" for name in VARIABLES.get(option, [option.upper().replace("-", "_")])]


@dataclass(frozen=True)
class Partition:
    """A partition: its time limits in seconds, if a job names none and at most, and its nodes as Slurm writes them."""

    name: str
    default: float
    longest: float
    nodes: str


@dataclass(frozen=True)
class QueuedPilot:
    """A pilot that Slurm knows. `key` tells which submission it is of."""

    job: str
    task: str
    state: str
    node: str
    reason: str
    key: str

    @property
    def name(self) -> str:
        return f"{self.job}_{self.task}"

    @property
    def runs(self) -> bool:
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def is_ending(self) -> bool:
        """Whether it takes no more runs, such as after `--stop`. Slurm lists it until its processes are gone."""
        return self.state == "COMPLETING"


def call_slurm(program: str, *arguments: str, script: str | None = None) -> str:
    """Return what a program of Slurm prints.

    Raises:
        UserError: The program is not on this machine, or fails, for the reason that it gives.
    """
    directives = re.findall(r"^#SBATCH --([a-z-]+)", script or "", re.MULTILINE)
    hidden = {variable for option in (*directives, *RESERVED) for variable in _variables_of(option)}
    environment = {k: value for k, value in os.environ.items() if k not in hidden and not k.startswith(FILTERS)}
    try:
        done = subprocess.run([program, *arguments], input=script, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"--executor slurm: there is no {program} on this machine; give the command on a login node of the cluster"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{program}: {re.sub('^[a-z]+: (error: )?', '', lines[-1]) if lines else 'it failed'}")
    return done.stdout


def has_slurm() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def parse_time_limit(text: str, given: str = "") -> float:
    """Return a time limit in seconds: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, as sbatch takes it.

    `given` is the option with it, for the message.

    Raises:
        UserError: The text is none of these.
    """
    if text.lower() in NO_LIMIT:
        return float("inf")
    if not (found := TIME_LIMIT.fullmatch(text)):
        raise UserError(f"{clip(given or text)}: must be minutes, H:M:S or D-H:M:S, such as 240 or 1-12:00:00")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"]:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return (hours * 60 + minutes) * 60 + seconds or float("inf")  # 0 is no limit


def check_options(options: SlurmOptions) -> None:
    """Check what needs no Slurm.

    Raises:
        UserError: The time limit leaves no time to train, or an argument is not one of sbatch or of the script.
    """
    if options.time is not None:
        _check_time_limit(options.quote("time"), parse_time_limit(options.time, options.quote("time")), options.warn)
    for argument in options.arguments:
        key, equals, value = argument.partition("=")
        key = key.removeprefix("--")
        if not re.fullmatch("[A-Za-z][A-Za-z-]*", key) or "\n" in value or (equals and not value):
            raise UserError(f"--slurm-arg {clip(argument)}: must be KEY=VALUE or KEY, a long option of sbatch")
        # sbatch takes the beginning of a name for the name.
        if own := next((own for name, own in OWN_OPTIONS.items() if name.startswith(key)), None):
            raise UserError(f"--slurm-arg {clip(argument)}: use {own}")
        if reserved := next((name for name in RESERVED if name.startswith(key)), None):
            raise UserError(f"--slurm-arg {clip(argument)}: the pilots' script sets {reserved} itself")


def _check_time_limit(what: str, seconds: float, warn: int) -> None:
    if seconds < warn + MIN_WORK_SECONDS:
        raise UserError(
            f"{what}: must be at least {warn + MIN_WORK_SECONDS} s, {MIN_WORK_SECONDS} of them to begin with, and "
            f"{warn} (--slurm-warn) to stop in"
        )


def check_cluster(options: SlurmOptions, results: Path) -> None:
    """Check what this cluster can tell before a job is submitted.

    Raises:
        UserError: The partition does not exist or its time limit is too short, or its nodes cannot see the results.
    """
    found, default = {}, []
    for line in call_slurm("sinfo", "-h", "-s", "-o", "%P|%L|%l|%N").splitlines():
        name, usual, longest, nodes = line.split("|", 3)
        most = parse_time_limit(longest)
        usual = most if usual == "n/a" else parse_time_limit(usual)
        found[name.rstrip("*")] = Partition(name.rstrip("*"), usual, most, nodes)
        default += [name.rstrip("*")] if name.endswith("*") else []
    names = default if options.partition is None else options.partition.split(",")  # a pilot runs on one of them
    if unknown := next((name for name in names if name not in found), None):
        close = did_you_mean(unknown, found)
        what = options.quote("partition") + (f": no {unknown}" if len(names) > 1 else "")
        raise UserError(f"{what}: this cluster has {', '.join(found)}{close}")
    for chosen in (found[name] for name in names):
        if options.time is None:
            what = f"the time limit of partition {chosen.name}, which holds without --slurm-time"
            _check_time_limit(what, chosen.default, options.warn)
        elif parse_time_limit(options.time) > chosen.longest:
            raise UserError(
                f"{options.quote('time')}: partition {chosen.name} allows {chosen.longest / 60:.0f} minutes at most"
            )
        if chosen.nodes != socket.gethostname().partition(".")[0] and (why := _why_local(results.resolve())):
            raise UserError(f"--results {results}: pilots on {chosen.nodes} cannot see this folder: {why}")


def _why_local(path: Path) -> str | None:
    """Return why a folder is probably this machine's alone, or None."""
    mounts = {}
    try:
        for line in Path("/proc/mounts").read_text().splitlines():
            _, folder, kind, *_ = line.split(" ")
            mounts[Path(folder.encode().decode("unicode_escape"))] = kind
    except OSError:
        return None
    folder = next((one for one in (path, *path.parents) if one in mounts), Path("/"))
    kind = mounts.get(folder, "")
    if SHARED_TYPES.fullmatch(kind):
        return None
    own = [*LOCAL_FOLDERS, *filter(None, [os.environ.get("TMPDIR"), os.environ.get("SLURM_TMPDIR")])]
    if any(path.is_relative_to(Path(one).resolve()) for one in own):
        return "it is for temporary files of this machine"
    return f"{folder} is a {kind} of this machine" if kind in LOCAL_TYPES else None


def job_name(sweep: str) -> str:
    """Return the name of the jobs of a sweep."""
    return f"stableft-{re.sub('[^A-Za-z0-9_.-]', '-', sweep)}"


def write_script(
    options: SlurmOptions, sweep: str, count: int, results: Path, key: str, command: str, title: str
) -> str:
    """Return the batch script of so many pilots, each of which becomes `command`. `title` is a comment."""
    folder = str(logs_folder(results, sweep)).replace("%", "%%")
    directives = [
        ("job-name", job_name(sweep)),
        ("comment", _comment(key, results)),
        ("array", f"1-{count}"),
        ("requeue", None),
        ("signal", f"B:TERM@{options.warn}"),
        ("open-mode", "append"),
        ("export", "ALL"),
        ("chdir", str(Path.cwd())),
        ("output", f"{folder}/%A_%a.log"),
        ("nodes", "1"),
        ("ntasks", "1"),
    ]
    directives += [("gres", f"gpu:{options.gpus}")] if options.gpus else []
    directives += [(name, value) for name, value in (("partition", options.partition), ("time", options.time)) if value]
    given = {}
    for argument in options.arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        given[name] = value if equals else None
    lines = [(name, value) for name, value in directives if name not in given] + list(given.items())
    head = [f"#SBATCH --{name}" + ("" if value is None else f"={_quote(value)}") for name, value in lines]
    # The command takes the place of the shell, so that it gets Slurm's signals.
    return "\n".join(["#!/bin/bash", f"# {title}", *head, f"exec {command}", ""])


def _quote(value: str) -> str:
    return value if re.fullmatch(r"[\w@%+=:,./-]+", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _comment(key: str, results: Path) -> str:
    """Return by what a pilot of these results is known in Slurm's queue, by whichever path it was submitted."""
    return f"{key} {os.path.realpath(results)}"


def logs_folder(results: Path, sweep: str) -> Path:
    """Return the folder of a sweep's plans, and of its pilots' logs and states."""
    return results.absolute() / "sweeps" / sweep / PILOTS_FOLDER


def submit(script: str, test_only: bool = False) -> str:
    """Submit a batch script and return the job's id. `test_only`: ask Slurm whether it would take it.

    Raises:
        UserError: Slurm does not take it, or an option, such as help, makes sbatch do something else.
    """
    printed = call_slurm("sbatch", "--parsable", *(["--test-only"] if test_only else []), script=script)
    job = printed.strip().partition(";")[0]  # ID;CLUSTER
    if not test_only and not job.isdecimal():
        raise UserError(f"sbatch: it submitted no job, but printed {echo(printed.strip())}")
    return job


def find_pilots(sweep: str, results: Path) -> list[QueuedPilot]:
    """Return the pilots of a sweep on these results that are queued or run.

    Raises:
        UserError: Slurm cannot be asked.
    """
    form = "%F|%K|%T|%N|%r|%k"
    printed = call_slurm("squeue", "-h", "-r", "-n", job_name(sweep), "-o", form)
    pilots = []
    for line in printed.splitlines():
        job, task, state, node, reason, comment = line.strip().split("|", 5)
        key, _, folder = comment.partition(" ")
        if _comment(key, Path(folder)) == _comment(key, results):  # older versions wrote the path as it was given
            pilots.append(QueuedPilot(job, task, state, node, reason, key))
    return pilots


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs. Their runs get time to write a checkpoint, as long as Slurm's KillWait."""
    call_slurm("scancel", *jobs)


def requeue(task: str) -> bool:
    """Requeue a task, JOB_TASK, that runs. Return False if Slurm is ending it already: cancelled, pre-empted, requeued.

    Its own SLURM_JOB_ID will not do: that of the array's last task is the id of the whole array.
    """
    if call_slurm("squeue", "-h", "-j", task, "-o", "%T").strip() != "RUNNING":
        return False
    call_slurm("scontrol", "requeue", task)
    return True
