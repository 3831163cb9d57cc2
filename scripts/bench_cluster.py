"""Many pilots on one results folder, some of them killed: is every run done once, and what do claims and records cost?

    scripts/bench cluster [--runs 5000] [--pilots 64 ...] [--killed 0.2] [--out results/reliability/cluster.json]

A pilot does what `stableft sweep --pilot` does, with one worker. Only training is made up: a run sleeps, then writes
the record of a run of the demo. Nothing imports torch. Pilots and workers are forked, so that a start costs nothing,
and have host names of their own where that is allowed. flock fails, and lock files of older versions are about. Some
pilots get a SIGKILL at random times, others are stopped until their leases have expired. Two numbers of pilots show
what grows with them.
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

from stableft.config.planned_run import Execution
from stableft.data.splits import data_fingerprint
from stableft.records.run_record import RunRecord, read_record, run_folder, write_record
from stableft.sweep import leases, run_sweep, state, workers
from stableft.sweep.claims import OLD_CLAIM_FILE
from stableft.sweep.leases import LeaseTimes, process_start
from stableft.sweep.local_workers import LocalExecutor, ProcessLink
from stableft.sweep.worker_process import run_worker

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUTS = 0x04000000
ZEROS = ("lost", "done twice", "two at once", "pilots that failed")
SERVER_LOOKS = 20_000  # names that one file server looks up in a second, roughly
LOOKS = 3  # twice before its first run, then once when the run's turn comes
OPERATIONS_OF_A_BEAT = 4  # open, read, set the time, close
OPERATIONS_OF_A_RUN = 80  # as strace counts them for a claim, a record and what is looked for before
HEAD = """# Many pilots on one results folder

`scripts/bench cluster` makes these numbers: pilots share a sweep by claims, on a file system without locks. Training is
made up; claims, records, the queue of each pilot, `stableft status` and `stableft report` are the real ones. Some
pilots get a SIGKILL with their workers, some are stopped until their leases have expired and then go on. `lost`,
`done twice`, `two at once` and `pilots that failed` must be 0; a run is begun again if its pilot was killed or stopped.
CPU times are those of all processes without their starts. The first counts everything, such as messages between a pilot
and its worker, and the wait for the runs of the dead.
"""
BEYOND = """## Beyond

Every pilot looks for the record of every run, so what a run costs grows with the pilots. A line through the trials
gives what many more would cost; this was computed, not measured. What breaks first is the file server: before its
first run each pilot looks for every record twice, and if all start at once they wait for hours. Sweep files of some ten
thousand runs each avoid it. Heartbeats, claims and processor time come far behind.
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

    costs: Costs | None = None

    def start(self, name, results, sources, execution, train, heartbeat) -> ProcessLink:
        """Fork a worker."""
        own_end, worker_end = FORK.Pipe()

        def work() -> None:
            own_end.close()  # otherwise the worker would not see its pilot's death
            self.costs.row += 1
            run_worker(worker_end, results, sources, execution, train, heartbeat)

        process = FORK.Process(target=work, name=name)
        process.start()
        worker_end.close()
        return ProcessLink(process, own_end)


def be_a_pilot(number: int, cluster: "Cluster", train: Callable[..., Any]) -> None:
    """Do what a pilot does, with a forked worker and made-up training."""
    os.setpgid(0, 0)
    name_host(f"node-{number % cluster.options.hosts}")
    costs, fingerprint = cluster.costs, cluster.template.data.fingerprint
    costs.row = 2 * number
    leases.TIMES = cluster.times
    for module in (state, workers, run_sweep):
        module.read_record = costs.timed("records", module.read_record)
    state.claim_run = partial(timed_claim, costs, state.claim_run)
    executor = ForkedExecutor(("cpu",))
    object.__setattr__(executor, "costs", costs)
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


def extrapolate(trials: list[dict[str, Any]], runs: int = 100_000, pilots: int = 1000) -> dict[str, Any]:
    """Return what so many runs and pilots would cost: every pilot looks once at every run, so costs grow by pilot.

    A line through the trials with the fewest and the most pilots that lived gives both parts, for each run.
    """
    few, *_, many = sorted(trials, key=living)
    ms = [trial["CPU ms a run in claims"] + trial["CPU ms a run in records"] for trial in (few, many)]
    for_each_pilot = (ms[1] - ms[0]) / (living(many) - living(few))
    once = max(0.0, ms[0] - for_each_pilot * living(few))
    times, minutes = LeaseTimes(), 10
    hours = runs * minutes / pilots / 60
    looks = runs * pilots * LOOKS  # at record.json, by each pilot
    return {
        "runs": runs,
        "pilots": pilots,
        "CPU ms a run, once": round(once, 2),
        "CPU ms a run, for each pilot": round(for_each_pilot, 3),
        "CPU ms a run": round(once + for_each_pilot * pilots),
        "CPU seconds of each pilot": round(for_each_pilot * runs / 1e3),
        "hours, with 10 minutes a run": round(hours, 1),
        "looks at records before the first run, millions": round(2 * runs * pilots / 1e6),
        f"hours for them at {SERVER_LOOKS:,} a second": round(2 * runs * pilots / SERVER_LOOKS / 3600, 1),
        "file operations a second, looks at records": round(looks / hours / 3600),
        "file operations a second, heartbeats": round(pilots * OPERATIONS_OF_A_BEAT / times.heartbeat),
        "file operations a second, claims and records": round(runs * OPERATIONS_OF_A_RUN / hours / 3600),
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
    beyond = f"{BEYOND}\n| | |\n|---|---:|\n{cells}\n" if more else ""
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
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    trials = []
    for pilots in options.pilots:
        with tempfile.TemporaryDirectory() as name:
            cluster = Cluster(Path(name), options, options.runs, pilots)
            trials.append(cluster.run())
            sweep = [str(cluster.sweep_file), "--results", str(cluster.results)]
            for command in ("status", "report"):
                trials[-1][f"CPU seconds of {command}"] = measure([command, *sweep], Path(name))["cpu_seconds"]
        print(json.dumps(trials[-1], indent=1), flush=True)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": options.seed,
        "trials": trials,
        "extrapolated": extrapolate(trials) if len(trials) > 1 else None,
    }
    print(json.dumps(found["extrapolated"], indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(to_markdown(found), encoding="utf-8")
    if any(trial[name] for trial in trials for name in ZEROS):
        raise SystemExit("runs were lost or done twice, or pilots failed")


if __name__ == "__main__":
    main()
