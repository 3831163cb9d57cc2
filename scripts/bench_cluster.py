"""Many pilots on one results folder, some of them killed: is every run done once, and what do claims and records cost?

    scripts/bench cluster [--runs 5000] [--pilots 64 ...] [--killed 0.2] [--out results/reliability/cluster.json]
    scripts/bench cluster --recount results/reliability/cluster.json

In the trials a pilot is the loop of `stableft sweep --pilot` from `run_planned_sweep` on, with one worker. Training is
made up: a run sleeps, then writes the record of a run of the demo. What the command does once before that loop, the
file that a pilot keeps of itself, and the report are left out. Nothing imports torch. Pilots and workers are forked, so
that a start costs nothing, and have host names of their own where that is allowed. flock fails, and lock files of older
versions are about. Some pilots get a SIGKILL at random times, others are stopped until their leases have expired. Two
numbers of pilots show what grows with them.

Then the names that one whole pilot looks up are counted, from its command on, only without the report. What many more
runs and pilots would cost is computed from that and the trials; --recount does so again, with the trials of a file.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_scale import make_record, make_sweep, measure, read_template

from stableft.cli import slurm_commands
from stableft.config.planned_run import Execution
from stableft.data.splits import data_fingerprint
from stableft.python_api import run_sweep as run_sweep_command
from stableft.records.run_record import RunRecord, read_record, run_folder, write_record
from stableft.sweep import leases, local_workers, run_sweep, state, workers
from stableft.sweep.claims import OLD_CLAIM_FILE
from stableft.sweep.leases import LeaseTimes, process_start
from stableft.sweep.local_workers import LocalExecutor, ProcessLink
from stableft.sweep.worker_process import run_worker

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUTS = 0x04000000
ZEROS = ("lost", "done twice", "two at once", "pilots that failed")
SERVER_LOOKS = 20_000  # names that one file server looks up in a second, roughly
NAMES_OF_A_BEAT = 2  # to read the lease, and to set its time
OWN_RUNS = 5  # of the pilot whose names are counted
NAMED = ("open", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.utime")
HEAD = """# Many pilots on one results folder

`scripts/bench cluster` makes these numbers: pilots share a sweep by claims, on a file system without locks. Training is
made up, and what a pilot's command does once before its first run, its own file and the report are left out; claims,
records, the queue of each pilot, `stableft status` and `stableft report` are the real ones. Some pilots get a SIGKILL
with their workers, some are stopped until their leases have expired and then go on. `lost`, `done twice`, `two at once`
and `pilots that failed` must be 0; a run is begun again if its pilot was killed or stopped. CPU times are those of all
processes without their starts. The first counts everything, such as messages between a pilot and its worker, and the
wait for the runs of the dead.
"""
BEYOND = """
Every pilot looks for the record of every run, so what a run costs grows with the pilots. A line through the trials
gives the processor time of many more; this was computed, not measured. The names that a pilot looks up on the file
server were counted for one of a sweep of {runs} made-up runs, from its command on, of which it did {own} and others the
rest: {before:g} for each run before its first, {after:g} later for each run of others, {mine:g} for each of its own,
{file:g} of these for the file that it keeps of itself. The runs are on packed rows, so it also looks for their records
on padded ones. What breaks first is the file server: if all pilots start at once they wait {hours:g} hours for their
first looks, and {tenth:.1f} if ten sweep files have a tenth of the runs and of the pilots each. Heartbeats, claims and
processor time come far behind.
"""
KINDS = ("claims", "records", "runs")
FORK = multiprocessing.get_context("fork")


class Costs:
    """CPU seconds and calls of each kind, in memory that all processes share; each adds to a row of its own.

    Without a lock, which a killed process would keep.
    """

    def __init__(self, rows: int):
        self.seconds = np.frombuffer(mmap.mmap(-1, 8 * rows * len(KINDS)), float).reshape(rows, -1)
        self.calls = np.frombuffer(mmap.mmap(-1, 8 * rows * len(KINDS)), int).reshape(rows, -1)
        self.row = 0

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its CPU time added to that of its kind."""
        where = KINDS.index(kind)

        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[self.row, where] += time.thread_time() - begun
                self.calls[self.row, where] += 1

        return call


@contextmanager
def timed_claim(costs: Costs, claim: Callable[[Path], Any], folder: Path):
    """Claim a run, and add the CPU time of taking the claim and of giving it back."""
    context = claim(folder)
    mine = costs.timed("claims", context.__enter__)()
    try:
        yield mine
    finally:
        costs.timed("claims", context.__exit__)(*sys.exc_info())


def fake_train(seconds: float, ledger: Path, costs: Costs, template: RunRecord, run, results, *_) -> RunRecord:
    """Sleep and write a record, and note the start and the end in a file of the run's own."""
    path, me = ledger / run.run_id, f"{os.getpid()} {process_start(os.getpid())}"
    before = path.read_text().splitlines() if path.exists() else []
    for word, *who in map(str.split, before):
        if word == "start" and f"end {' '.join(who)}" not in before and is_running(*who):
            note(path, f"overlap {me}")
    note(path, f"start {me}")
    time.sleep(random.uniform(0.5, 1.5) * seconds)
    record = make_record(run, template, template.data.fingerprint, random.Random(run.run_id).random())
    costs.timed("records", write_record)(results, record)
    note(path, f"end {me}")
    costs.timed("runs", lambda: None)()
    return record


def is_running(pid: str, start: str) -> bool:
    """Return whether a process lives and is not stopped: a stopped one will notice that its lease is another's."""
    try:
        state_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state_of != "T" and process_start(int(pid)) == start


def note(path: Path, line: str) -> None:
    """Append a line in one write."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class ForkedExecutor(LocalExecutor):
    """Starts workers without starting Python again."""

    costs: Costs
    train: Callable[..., Any]

    def give(self, costs: Costs, train: Callable[..., Any]) -> None:
        """Set where costs are added up, and the training of the workers."""
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "train", train)

    def start(self, name, results, sources, execution, train, heartbeat) -> ProcessLink:
        """Fork a worker."""
        own_end, worker_end = FORK.Pipe()

        def work() -> None:
            own_end.close()  # otherwise the worker would not see its pilot's death
            self.costs.row += 1
            run_worker(worker_end, results, sources, execution, self.train, heartbeat)

        process = FORK.Process(target=work, name=name)
        process.start()
        worker_end.close()
        return ProcessLink(process, own_end)


def be_a_pilot(number: int, cluster: "Cluster", train: Callable[..., Any]) -> None:
    """Do the runs that are left as a pilot does, with a forked worker and made-up training."""
    os.setpgid(0, 0)
    name_host(f"node-{number % cluster.options.hosts}")
    costs, fingerprint = cluster.costs, cluster.template.data.fingerprint
    costs.row = 2 * number
    leases.TIMES = cluster.times
    for module in (state, workers, run_sweep):
        module.read_record = costs.timed("records", module.read_record)
    state.claim_run = partial(timed_claim, costs, state.claim_run)
    executor = ForkedExecutor(("cpu",))
    executor.give(costs, train)
    fcntl.flock = without_locks
    random.seed(number)
    run_sweep.run_planned_sweep(
        cluster.sweep,
        cluster.results,
        executor,
        Execution(threads=1),
        train=train,
        fingerprint=lambda config, sources: fingerprint,
        leave_after=2 * (cluster.times.expiry + cluster.times.watch),
    )


class Names:
    """Counts the names of files that this process and those that it forks look up, in memory that they share.

    Rows: before the first run, and from then on. Columns: of the pilot's own runs, of others, of the pilot's file.
    """

    def __init__(self, results: Path, own: set[str]):
        self.counts = np.frombuffer(mmap.mmap(-1, 8 * 8), int).reshape(2, 4)
        self.begun, self.on, self.folder, self.own = mmap.mmap(-1, 1), True, str(results), own

    def count(self, path: Any) -> None:
        """Count a name, if it is one in the results folder."""
        if not self.on or not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        if name.startswith(f"{self.folder}/"):
            part, _, rest = name[len(self.folder) + 1 :].partition("/")
            where = 0 if rest.partition("/")[0] in self.own else 1 if rest else 3
            self.counts[self.begun[0], where if part == "runs" else 2 if "/pilots/" in rest else 3] += 1

    def watch(self) -> None:
        """Count from here on, for as long as this process lives."""
        sys.addaudithook(lambda event, given: [self.count(one) for one in given[:2]] if event in NAMED else None)
        for name in ("stat", "lstat"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            self.count(path)
            return function(path, *args, **kwargs)

        return call


def count_names(folder: Path, options: argparse.Namespace, runs: int = 200) -> dict[str, float]:
    """Return the names that one whole pilot looks up, for each run, while others do all runs but a few."""
    cluster = Cluster(folder, options, runs, 1)  # its pilot is not started
    own, rest = cluster.sweep.runs[:OWN_RUNS], cluster.sweep.runs[OWN_RUNS:]
    names = Names(cluster.results, {run.run_id for run in own})

    def train(run: Any, results: Path, *_: Any) -> RunRecord:
        if not names.begun[0]:
            names.begun[0], names.on = 1, False
            for one in rest:
                run_folder(results, one.run_id).mkdir(parents=True, exist_ok=True)
                write_record(results, cluster.make_record(one))
            names.on = True
        write_record(results, record := cluster.make_record(run))
        return record

    def make_executor(devices: Any, jobs: int) -> ForkedExecutor:
        executor = ForkedExecutor(devices, jobs)
        executor.give(cluster.costs, train)
        return executor

    def work() -> None:
        os.environ |= {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "1"}
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        slurm_commands.print_report = lambda *_: None
        local_workers.LocalExecutor = make_executor
        names.watch()
        command = partial(run_sweep_command, cluster.sweep, results=cluster.results, devices="cpu", threads=1)
        sys.exit(slurm_commands.run_as_pilot(cluster.sweep, cluster.results, False, command))

    pilot = FORK.Process(target=work)
    pilot.start()
    pilot.join()
    done = sum(read_record(cluster.results, run.run_id) is not None for run in cluster.sweep.runs)
    assert (pilot.exitcode, done) == (0, runs), (pilot.exitcode, done)
    (_, before, *_), (mine, after, file, _) = names.counts.tolist()
    return {
        "runs": runs,
        "own": OWN_RUNS,
        "before": round(before / len(rest), 1),
        "after": round(after / len(rest), 1),
        "mine": round((mine + file) / OWN_RUNS, 1),
        "file": round(file / OWN_RUNS, 1),
    }


def name_host(name: str) -> None:
    """Give this process and those that it starts a host name of their own, or pretend to where that is not allowed."""
    libc, name_ = ctypes.CDLL(None, use_errno=True), name.encode()
    if libc.unshare(CLONE_NEWUTS) or libc.sethostname(name_, len(name_)):
        here = leases.this_host()
        leases.this_host = lambda: (name, *here[1:])
    else:
        leases.this_host.cache_clear()


def without_locks(*_: Any) -> None:
    """Fail as flock does on a file system without locks."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class Cluster:
    """A sweep of made-up runs, and pilots that share it."""

    def __init__(self, folder: Path, options: argparse.Namespace, runs: int, pilots: int):
        self.results, self.ledger = folder / "results", folder / "ledger"
        self.results.mkdir()
        self.ledger.mkdir()
        self.sweep_file = folder / "cluster.yaml"
        self.sweep, self.options, self.draw = make_sweep(self.sweep_file, runs), options, random.Random(options.seed)
        for run in self.draw.sample(self.sweep.runs, runs // 10):  # lock files that an older version left
            lock = run_folder(self.results, run.run_id) / OLD_CLAIM_FILE
            lock.parent.mkdir(parents=True)
            lock.write_text(self.draw.choice(("", "4711\nelsewhere\n")))
        fingerprint = data_fingerprint(self.sweep.runs[0].config, self.sweep.sources)
        template = read_template()
        self.template = template.model_copy(
            update={"data": template.data.model_copy(update={"fingerprint": fingerprint}), "files": None}
        )
        usual = LeaseTimes()
        share = options.expiry / usual.expiry
        self.times = replace(usual, **{n: share * getattr(usual, n) for n in ("heartbeat", "expiry", "watch")})
        self.costs = Costs(2 * pilots)
        train = partial(fake_train, options.seconds, self.ledger, self.costs, self.template)
        self.pilots = [FORK.Process(target=be_a_pilot, args=(number, self, train)) for number in range(pilots)]

    def make_record(self, run: Any) -> RunRecord:
        """Return the record of a run that nobody trained."""
        assert self.template.data
        return make_record(run, self.template, self.template.data.fingerprint, 0.8)

    def run(self) -> dict[str, Any]:
        """Run all pilots, disturb some, and return what came of it."""
        cpu, begun = cpu_of_children(), time.monotonic()
        for pilot in self.pilots:
            pilot.start()
        killed = round(self.options.killed * len(self.pilots))
        victims = self.draw.sample(self.pilots, killed + self.options.stopped)
        self._disturb(victims[:killed], victims[killed:])
        for pilot in self.pilots:
            pilot.join()
        reap_orphans()
        cpu = cpu_of_children() - cpu
        runs, codes = len(self.sweep.runs), Counter(pilot.exitcode for pilot in self.pilots)
        seconds, calls = self.costs.seconds.sum(0) / runs, self.costs.calls.sum(0) / runs
        return {
            "runs": runs,
            "pilots": len(self.pilots),
            "pilots killed": codes[-signal.SIGKILL],
            "pilots stopped past their leases": self.options.stopped,
            "pilots that failed": sum(n for code, n in codes.items() if code not in (0, -signal.SIGKILL)),
            **self._count(),
            "wall seconds": round(time.monotonic() - begun),
            "CPU ms a run": round(cpu / runs * 1e3, 2),
            **{f"CPU ms a run in {kind}": round(float(seconds[i]) * 1e3, 2) for i, kind in enumerate(KINDS[:2])},
            **{f"calls a run, {kind}": round(float(calls[i]), 1) for i, kind in enumerate(KINDS[:2])},
        }

    def _disturb(self, to_kill: list[Any], to_stop: list[Any]) -> None:
        """Kill pilots with their workers once random shares of the runs are done; stop others for twice a lease."""
        shares = sorted(self.draw.uniform(0.05, 0.9) for _ in to_kill)
        stopped_at = None
        while to_kill or to_stop:
            done = self.costs.calls[:, KINDS.index("runs")].sum() / len(self.sweep.runs)
            while to_kill and done >= shares[-len(to_kill)]:
                send(to_kill.pop(0), signal.SIGKILL)
            if stopped_at is None and done > 0.3:
                stopped_at = time.monotonic()
                for pilot in to_stop:
                    send(pilot, signal.SIGSTOP)
            elif stopped_at and time.monotonic() > stopped_at + 2 * self.options.expiry:
                for pilot in to_stop:
                    send(pilot, signal.SIGCONT)
                to_stop = []
            time.sleep(0.1)

    def _count(self) -> dict[str, int]:
        counts = {"lost": 0, "done twice": 0, "two at once": 0, "begun again": 0}
        for run in self.sweep.runs:
            path = self.ledger / run.run_id
            words = Counter(line.split()[0] for line in (path.read_text().splitlines() if path.exists() else ()))
            record = read_record(self.results, run.run_id)
            counts["lost"] += record is None or record.status != "finished"
            counts["done twice"] += words["end"] > 1
            counts["two at once"] += words["overlap"] > 0
            counts["begun again"] += words["start"] > 1
        return counts


def send(pilot: Any, number: int) -> None:
    """Send a signal to a pilot and its worker, as the loss of a node or a freeze of it would hit both."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pilot.pid, number)


def reap_orphans() -> None:
    """Wait for the workers of killed pilots, whose CPU time counts too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass


def cpu_of_children() -> float:
    """Return the CPU seconds of all children that have ended, with theirs."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def extrapolate(
    trials: list[dict[str, Any]], names: dict[str, float], runs: int = 100_000, pilots: int = 1000
) -> dict[str, Any]:
    """Return what so many runs and pilots would cost: every pilot looks at every run, so costs grow by pilot.

    A line through the trials with the fewest and the most pilots that lived gives both parts, for each run. `names` are
    those that one pilot looks up.
    """
    few, *_, many = sorted(trials, key=living)
    ms = [trial["CPU ms a run in claims"] + trial["CPU ms a run in records"] for trial in (few, many)]
    for_each_pilot = (ms[1] - ms[0]) / (living(many) - living(few))
    once = max(0.0, ms[0] - for_each_pilot * living(few))
    times, minutes = LeaseTimes(), 10
    hours = runs * minutes / pilots / 60
    before = names["before"] * runs * pilots
    return {
        "runs": runs,
        "pilots": pilots,
        "CPU ms a run, once": round(once, 2),
        "CPU ms a run, for each pilot": round(for_each_pilot, 3),
        "CPU ms a run": round(once + for_each_pilot * pilots),
        "CPU seconds of each pilot": round(for_each_pilot * runs / 1e3),
        "hours, with 10 minutes a run": round(hours, 1),
        "names looked up before the first run, millions": round(before / 1e6),
        f"hours for them at {SERVER_LOOKS:,} a second": round(before / SERVER_LOOKS / 3600, 1),
        "names a second, of runs that others do": round(names["after"] * runs * pilots / hours / 3600),
        "names a second, heartbeats": round(pilots * NAMES_OF_A_BEAT / times.heartbeat),
        "names a second, claims, records and pilots' files": round(names["mine"] * runs / hours / 3600),
        "CPU seconds of status": round(many["CPU seconds of status"] * runs / many["runs"]),
        "CPU seconds of report": round(many["CPU seconds of report"] * runs / many["runs"]),
    }


def living(trial: dict[str, Any]) -> int:
    """Return the pilots of a trial that nobody killed."""
    return trial["pilots"] - trial["pilots killed"]


def to_markdown(found: dict[str, Any]) -> str:
    """Return the figures as a file of Markdown."""
    names = list(found["trials"][0])
    rows = [f"| {name} | {' | '.join(f'{trial[name]:,}' for trial in found['trials'])} |" for name in names]
    table = "\n".join((rows[0], f"|---|{'---:|' * len(found['trials'])}", *rows[1:]))
    more = found["extrapolated"]
    cells = "\n".join(f"| {name} | {value:,} |" for name, value in more.items()) if more else ""
    if more:
        hours = more[f"hours for them at {SERVER_LOOKS:,} a second"]
        text = BEYOND.format(**found["one pilot"], hours=hours, tenth=hours / 10)
        beyond = f"## Beyond\n\n{textwrap.fill(' '.join(text.split()), 120)}\n\n| | |\n|---|---:|\n{cells}\n"
    else:
        beyond = ""
    return f"{HEAD}\n{table}\n\n{beyond}\nMeasured on {found['date']}, {found['machine']}, seed {found['seed']}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--pilots", type=int, nargs="+", default=[16, 64], help="one trial each")
    parser.add_argument("--hosts", type=int, default=16, help="host names that the pilots share")
    parser.add_argument("--killed", type=float, default=0.2, help="share of the pilots")
    parser.add_argument("--stopped", type=int, default=2, help="pilots that are stopped past their leases")
    parser.add_argument("--seconds", type=float, default=0.2, help="that a run takes, on average")
    parser.add_argument("--expiry", type=float, default=LeaseTimes().expiry, help="seconds of a lease")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures to this file, too")
    parser.add_argument("--recount", type=Path, metavar="FILE", help="keep its trials; count and extrapolate again")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if options.recount:
        found = json.loads(options.recount.read_text(encoding="utf-8"))
    else:
        found = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "seed": options.seed,
            "trials": [run_trial(options, pilots) for pilots in options.pilots],
        }
    with tempfile.TemporaryDirectory() as name:
        found["one pilot"] = count_names(Path(name), options)
    trials = found["trials"]
    found["extrapolated"] = extrapolate(trials, found["one pilot"]) if len(trials) > 1 else None
    print(json.dumps({name: found[name] for name in ("one pilot", "extrapolated")}, indent=1))
    if out := options.recount or options.out:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        out.with_suffix(".md").write_text(to_markdown(found), encoding="utf-8")
    if any(trial[name] for trial in trials for name in ZEROS):
        raise SystemExit("runs were lost or done twice, or pilots failed")


def run_trial(options: argparse.Namespace, pilots: int) -> dict[str, Any]:
    """Return what came of one trial with so many pilots, and what `status` and `report` then cost."""
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(Path(name), options, options.runs, pilots)
        trial = cluster.run()
        sweep = [str(cluster.sweep_file), "--results", str(cluster.results)]
        for command in ("status", "report"):
            trial[f"CPU seconds of {command}"] = measure([command, *sweep], Path(name))["cpu_seconds"]
    print(json.dumps(trial, indent=1), flush=True)
    return trial


if __name__ == "__main__":
    main()
