"""The real `stableft sweep` of a tiny BERT, again and again, in processes that need not import torch again.

Each sweep is a fork of this process, and so are its workers, which are spawned otherwise: importing torch takes longer
than the runs, and a random moment would nearly always be one of an import. All else is the product's own.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from support.damaged_files import Tally, damage_file
from support.disks import SmallDisk
from support.processes import group_is_alive

from stableft.errors import UserError
from stableft.records.file_sums import find_damaged
from stableft.records.run_record import CHECKPOINT_FILE, HISTORY_FILE, PREDICTIONS_FILE, RECORD_FILE, read_record
from stableft.sweep.hung_workers import Patience
from stableft.sweep.state import CRASH_FILE

SWEEP = ("smoke", "--seeds", "1-2", "--devices", "cpu", "--save", "last", "--checkpoint-every", "5")
SETTINGS = ("schedule.length={steps: 60}", "evaluation.every={times: 6}")
UNEQUAL = {"seconds": True, "peak_memory_bytes": True, "environment": {"git_commit", "git_dirty"}}
IMPATIENT = Patience(heartbeat=0.1, least=3.0, factor=5.0, set_up=30.0, stop=2.0)
LONGEST = 120.0  # seconds that a sweep may take, which takes 5 if nothing disturbs it
# What a sweep and its workers import on their way.
IMPORTED_LATE = (
    *("pandas", "rich.live", "rich.progress", "safetensors.torch", "scipy.stats", "sklearn.metrics"),
    *("stableft.cli.app", "stableft.cli.early_report", "stableft.cli.sweep_commands", "stableft.sweep.preflight"),
    *("stableft.sweep.run_sweep", "stableft.training.run", "stableft.training.setup"),
    *("torch._dynamo", "transformers.models.bert.modeling_bert", "transformers.models.auto.tokenization_auto"),
)
LEFT = {"config.yaml", RECORD_FILE, HISTORY_FILE, PREDICTIONS_FILE, "model-last", "claim.json"}


class ForkedWorker(multiprocessing.get_context("fork").Process):
    """A worker that holds no file of its parent, as a spawned one: it sees that its parent has died."""

    def run(self) -> None:
        worker_end = self._args[0].fileno()  # pyright: ignore[reportAttributeAccessIssue]
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # of the folder that has just been listed
                if handle > 2 and handle not in (worker_end, nothing) and os.fstat(handle):
                    os.dup2(nothing, handle)
        super().run()


def _differing(found: dict, expected: dict) -> Iterator[str]:
    """Yields the names of what differs, of a record its sections."""
    for name in found.keys() | expected.keys():
        one, other = found.get(name), expected.get(name)
        if name == "record" and one and other:
            yield from (f"{key} of the record" for key in one if one[key] != other[key])
        elif one != other:
            yield name


@dataclass
class ForkedSweep:
    """A sweep in a process group of its own."""

    pid: int
    log: Path
    code: int | None = None  # negative: the signal that ended it

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs, as `subprocess.Popen` does."""
        return self.code if self.ended() else None

    def wait(self, seconds: float) -> bool:
        """Waits so long, and returns whether the sweep has ended."""
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.002)
        return self.ended()

    def workers(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children()
            return [child.pid for child in children if "resource_tracker" not in "".join(child.cmdline())]
        return []

    def send(self, number: int, victim: str) -> None:
        """Sends a signal to the group, the parent or the first worker, if there is any."""
        with contextlib.suppress(ProcessLookupError):
            match victim:
                case "group":
                    os.killpg(self.pid, number)
                case "parent":
                    os.kill(self.pid, number)
                case _:
                    for worker in self.workers()[:1]:
                        os.kill(worker, number)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)
        while group_is_alive(self.pid):
            time.sleep(0.02)


STARTED: list[ForkedSweep] = []


@atexit.register  # forks leave by os._exit
def end_started() -> None:
    for sweep in STARTED:
        if not sweep.ended():
            sweep.end()


def start_command(log: Path, *arguments: str | Path, change: Callable[[], object] = lambda: None) -> ForkedSweep:
    """Starts a command as a fork, with output to a file; `change` alters the fork before."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        STARTED.append(ForkedSweep(pid, log))
        return STARTED[-1]
    code = 70  # of an error in here
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for handle, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(file, handle)
        code = _run_command(arguments, change)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_command(arguments: tuple[str | Path, ...], change: Callable[[], object]) -> int:
    from stableft.cli import sweep_commands
    from stableft.cli.app import main
    from stableft.sweep import local_workers

    fork = multiprocessing.get_context("fork")
    local_workers.multiprocessing = SimpleNamespace(
        get_context=lambda _: SimpleNamespace(Pipe=fork.Pipe, Process=ForkedWorker)
    )
    sweep_commands.print_report = lambda *_: None  # it takes longer than the runs
    change()
    sys.argv = ["stableft", *map(str, arguments)]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def start_sweep(
    results: Path, *more: str, change: Callable[[], object] = lambda: None, log: Path | None = None
) -> ForkedSweep:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    log = log or results.with_suffix(".log")
    return start_command(log, "sweep", *SWEEP, *settings, "--results", results, *more, change=change)


def outcome(results: Path) -> dict[str, dict]:
    """Returns what each finished run must have equal, bit for bit."""
    found = {}
    for path in sorted(results.glob(f"runs/*/{RECORD_FILE}")):
        try:
            record = read_record(results, path.parent.name)
        except UserError as error:
            found[path.parent.name] = {"damaged": str(error)}
            continue
        assert record
        with np.load(path.parent / PREDICTIONS_FILE) as file:
            predictions = {name: (file[name].dtype.str, file[name].shape, file[name].tobytes()) for name in file.files}
        found[record.run_id] = {  # "files" in the record has the sums of the weights
            "record": record.model_dump(mode="json", exclude=UNEQUAL),
            "damaged": find_damaged(path.parent, record.files),
            "history": (path.parent / HISTORY_FILE).read_bytes(),
            "predictions": predictions,
            "left": sorted({p.name for p in path.parent.iterdir() if ".damaged-" not in p.name} - LEFT),
        }
    return found


class Faults:
    """Disturbs sweeps in a folder, and compares what they leave with one that was left alone."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        for name in IMPORTED_LATE:
            importlib.import_module(name)
        undisturbed = start_sweep(folder / "undisturbed")
        if not undisturbed.wait(LONGEST) or undisturbed.code:
            raise SystemExit(f"the undisturbed sweep ended with {undisturbed.code}: {undisturbed.log.read_text()}")
        self.expected = outcome(folder / "undisturbed")

    def compare(self, results: Path, tally: Tally, case: str) -> None:
        """Counts the runs of a sweep that has ended, and what is lost, doubled or altered."""
        found = outcome(results)
        names = {path.name for path in (results / "runs").iterdir()}
        wrong = {
            "lost": sorted(self.expected.keys() - found.keys()),
            "doubled": sorted(names - self.expected.keys()),
            "altered": sorted(run for run in found.keys() & self.expected.keys() if found[run] != self.expected[run]),
        }
        tally.add("runs compared", len(found))
        for name, runs in wrong.items():
            tally.add(name, len(runs))
            tally.bad += [f"{case}: {name} {', '.join(runs)}"] if runs else []
        for run in wrong["altered"]:
            tally.bad[-1] += f" in {', '.join(sorted(_differing(found[run], self.expected[run])))}"

    def finish(self, results: Path, tally: Tally, case: str) -> None:
        """Lets the sweep end, if need be, and compares."""
        # A run that lost two workers counts as crashed. The log must not need space on the disk of the results.
        sweep = start_sweep(results, "--retry-crashed", log=self.folder / "finish.log")
        if not sweep.wait(LONGEST) or sweep.code:
            tally.bad.append(f"{case}: ended with {sweep.code}: {last_line(sweep.log)}")
            sweep.end()
        self.compare(results, tally, case)

    def kill(self, kills: int) -> Tally:
        """SIGKILL to workers, parents and process groups, in turn, at random moments; sweeps go on until they end."""
        tally, rounds = Tally({"lost": 0, "doubled": 0, "altered": 0}), 0
        while tally.counts.get("kills", 0) < kills:
            rounds += 1
            self._kill_until_done(rounds, kills, tally)
        tally.add("sweeps", rounds)
        return tally

    def _kill_until_done(self, number: int, kills: int, tally: Tally) -> None:
        draw, results = random.Random(f"kill {self.seed} {number}"), self.folder / f"killed-{number}"
        case = f"kill, seed {self.seed}, sweep {number}"
        finished: dict[Path, bytes] = {}
        started: list[ForkedSweep] = []
        while tally.counts.get("kills", 0) < kills:
            sweep = start_sweep(results, "--jobs-per-device", str(draw.choice((1, 2))), "--retry-crashed")
            started.append(sweep)
            while not sweep.wait(draw.uniform(0.1, 3)):
                if tally.counts.get("kills", 0) >= kills:
                    break
                if draw.random() < 0.3:  # in a write
                    end = time.monotonic() + 3
                    while not _is_writing(results) and not sweep.ended() and time.monotonic() < end:
                        time.sleep(0.001)
                victim = draw.choice(("group", "parent", "worker"))
                sweep.send(signal.SIGKILL, victim)
                tally.add("kills")
                tally.add(f"kills of a {victim}")
                tally.add("kills that cut a write", _is_writing(results))
                tally.add("kills after a checkpoint", any(results.glob(f"runs/*/{CHECKPOINT_FILE}")))
                if victim != "worker":
                    sweep.wait(10)
            if sweep.code == 0:
                break
            if sweep.ended() and sweep.code not in (-signal.SIGKILL, 1):  # 1: a run lost two workers
                tally.bad.append(f"{case}: ended with {sweep.code}: {last_line(sweep.log)}")
            for path, content in finished.items():
                if not path.exists() or path.read_bytes() != content:
                    tally.add("doubled")
                    tally.bad.append(f"{case}: {path} was finished and was written again")
            finished = {
                path: path.read_bytes()
                for path in results.glob(f"runs/*/{RECORD_FILE}")
                if b'"status":"finished"' in path.read_bytes()
            }
        deadline = time.monotonic() + 20
        for sweep in started:  # workers of killed parents end by themselves
            while sweep.ended() and group_is_alive(sweep.pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            if sweep.ended() and group_is_alive(sweep.pid):
                tally.bad.append(f"{case}: a worker outlived its parent by 20 s")
            sweep.end()
        self.finish(results, tally, case)

    def signal(self, signals: int) -> Tally:
        """SIGINT, SIGTERM and SIGHUP to parents and process groups: exit code 130, and the same command goes on."""
        tally = Tally({"lost": 0, "doubled": 0, "altered": 0, "crash records": 0})
        for number in range(signals):
            draw, results = random.Random(f"signal {self.seed} {number}"), self.folder / f"signalled-{number}"
            name, victim = ("SIGINT", "SIGTERM", "SIGHUP")[number % 3], draw.choice(("group", "parent"))
            case = f"signal, seed {self.seed}, number {number}: {name} to the {victim}"
            sweep = start_sweep(results, "--jobs-per-device", "2")
            moment = draw.uniform(0.3, 4)
            if not sweep.wait(moment):
                had_workers, sent = bool(sweep.workers()), time.monotonic()
                sweep.send(getattr(signal, name), victim)
                tally.add("signals")
                if not sweep.wait(20):
                    tally.bad.append(f"{case}, after {moment:.2f} s: it goes on 20 s later")
                tally.counts["slowest stop, ms"] = max(
                    tally.counts.get("slowest stop, ms", 0), round(1000 * (time.monotonic() - sent))
                )
                early = () if had_workers else (-getattr(signal, name),)
                if sweep.code not in (0, 130, *early):
                    tally.bad.append(f"{case}, after {moment:.2f} s: ended with {sweep.code}: {last_line(sweep.log)}")
            self._check_no_crash(results, sweep, tally, case)
            sweep.end()
            self.finish(results, tally, case)
        return tally

    def _check_no_crash(self, results: Path, sweep: ForkedSweep, tally: Tally, case: str) -> None:
        crashes = list(results.rglob(CRASH_FILE))
        tally.add("crash records", len(crashes))
        tally.bad += [f"{case}: {path} says {path.read_text()[-300:]!r}" for path in crashes]
        if "Traceback" in sweep.log.read_text(errors="replace"):
            tally.bad.append(f"{case}: {sweep.log.read_text(errors='replace')[-1000:]!r}")

    def stop(self, stops: int) -> Tally:
        """SIGSTOP to a worker: it counts as hung after 3 s here, and its run is tried once more."""
        tally = Tally({"lost": 0, "doubled": 0, "altered": 0, "crash records": 0})
        for number in range(stops):
            draw, results = random.Random(f"stop {self.seed} {number}"), self.folder / f"stopped-{number}"
            case = f"stop, seed {self.seed}, number {number}"
            sweep = start_sweep(results, "--jobs-per-device", "2", change=_be_impatient)
            while not sweep.ended() and not list(results.glob(f"runs/*/{CHECKPOINT_FILE}")):
                time.sleep(0.002)
            if not sweep.wait(draw.uniform(0, 1)):
                tally.add("stops", bool(sweep.workers()))
                sweep.send(signal.SIGSTOP, "worker")
            if not sweep.wait(LONGEST) or sweep.code:
                tally.bad.append(f"{case}: ended with {sweep.code}: {last_line(sweep.log)}")
            tally.add("workers that were found hung", sweep.log.read_text().count("the worker process hung"))
            self._check_no_crash(results, sweep, tally, case)
            sweep.end()
            self.compare(results, tally, case)
        return tally

    def together(self, rounds: int) -> Tally:
        """Two and four sweeps at once on one folder; in every second round the first is killed on the way."""
        tally = Tally({"lost": 0, "doubled": 0, "altered": 0, "crash records": 0})
        for number in range(rounds):
            draw, results = random.Random(f"together {self.seed} {number}"), self.folder / f"together-{number}"
            case, count = f"together, seed {self.seed}, round {number}", (2, 4)[number % 2]
            sweeps = [start_sweep(results) for _ in range(count)]
            tally.add(f"rounds of {count} sweeps")
            if number % 4 > 1 and not sweeps[0].wait(draw.uniform(0.5, 3)):
                sweeps[0].send(signal.SIGKILL, "group")
                tally.add("rounds with a kill")
                sweeps.pop(0).wait(10)
            for sweep in sweeps:
                if not sweep.wait(LONGEST) or sweep.code:
                    tally.bad.append(f"{case}: ended with {sweep.code}: {last_line(sweep.log)}")
                sweep.end()
            self._check_no_crash(results, sweeps[0], tally, case)
            self.compare(results, tally, case)
        return tally

    def repair(self, sweeps: int) -> Tally:
        """A damaged file in every finished run: `stableft sweep --complete` makes each what it was."""
        tally = Tally({"lost": 0, "doubled": 0, "altered": 0, "crash records": 0})
        for number in range(sweeps):
            draw, results = random.Random(f"repair {self.seed} {number}"), self.folder / f"repaired-{number}"
            case = f"repair, seed {self.seed}, number {number}"
            shutil.copytree(self.folder / "undisturbed", results)
            for folder in sorted(results.glob("runs/*")):
                files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "claim.json")
                case += f", {damage_file(draw.choice(files), draw)}"
                tally.add("damaged files")
            sweep = start_sweep(results, "--complete")
            if not sweep.wait(LONGEST) or sweep.code:
                tally.bad.append(f"{case}: ended with {sweep.code}: {last_line(sweep.log)}")
            self._check_no_crash(results, sweep, tally, case)
            sweep.end()
            self.compare(results, tally, case)
            tally.add("files set aside", len(list(results.rglob("*.damaged-*"))))
        return tally

    def full_disk(self, failures: int) -> Tally:
        """Errors of every write of a sweep in turn, then a small disk that is full, with what it leaves more and more.

        The sweep ends with exit code 2 and one sentence, no run crashes, and the same command goes on.
        """
        tally, told = Tally({"lost": 0, "doubled": 0, "altered": 0, "crash records": 0}), set()
        errnos, results, number = (28, 122, 5, 30), self.folder / "full", 0  # ENOSPC, EDQUOT, EIO, EROFS
        while number < failures:
            case = f"full disk, write {number + 1}, errno {errnos[number % 4]}"
            change = partial(_fail_write, number + 1, errnos[number % 4])
            sweep = start_sweep(results, change=change)
            if self._refused(sweep, results, tally, case, told):
                tally.add("writes that failed")
                number += 1
            else:  # it made fewer writes
                break
        self.finish(results, tally, "full disk, injected")
        self._fill_disks(failures, tally, told)
        for name in sorted(told):
            tally.add(f"told of {name}")
        return tally

    def _fill_disks(self, failures: int, tally: Tally, told: set[str]) -> None:
        try:
            disk = SmallDisk(self.folder / "disk", 8 << 20)
        except subprocess.CalledProcessError:
            return  # mounting needs rights
        results = disk.folder / "results"
        results.mkdir()
        levels = (0, 4096, 20_000, 60_000, 150_000, 300_000, 500_000, 700_000, 900_000, 1_100_000, 1_300_000)
        try:
            for leave in levels[: max(2, failures // 4)]:
                disk.fill(leave)
                case = f"full disk with {leave} bytes"
                sweep = start_sweep(results, log=self.folder / f"disk-{leave}.log")
                if self._refused(sweep, results, tally, case, told):
                    tally.add("full small disks")
                disk.empty()
            self.finish(results, tally, "full small disk")
        finally:
            disk.unmount()

    def _refused(self, sweep: ForkedSweep, results: Path, tally: Tally, case: str, told: set[str]) -> bool:
        """Returns whether the sweep ended for want of a disk, as it should."""
        if not sweep.wait(LONGEST):
            tally.bad.append(f"{case}: it goes on after {LONGEST:.0f} s")
        sweep.end()
        self._check_no_crash(results, sweep, tally, case)
        line = last_line(sweep.log)
        if sweep.code == 2 and line.startswith("stableft: ") and line.count("stableft: ") == 1:
            words = [word.rstrip(":") for word in line.split() if "/" in word]
            told.add(Path(words[0]).name if words else "nothing")
            if words and len(Path(words[0]).name) == 16:
                told.add("a run's folder")
                told.discard(Path(words[0]).name)
            return True
        if sweep.code:
            tally.bad.append(f"{case}: ended with {sweep.code}: {line}")
        return False


def _is_writing(results: Path) -> bool:
    """Returns whether a run's folder has a file that is not yet whole, in a tenth of the time that a glob takes."""
    with contextlib.suppress(OSError):  # of a folder that is not there yet, or no longer
        for run in os.scandir(results / "runs"):
            if run.is_dir() and any(name.startswith(".") and name.endswith(".tmp") for name in os.listdir(run)):
                return True
    return False


def _be_impatient() -> None:
    from stableft.sweep import run_sweep, workers

    run_sweep.run_with_workers = partial(workers.run_with_workers, patience=IMPATIENT)


def _fail_write(number: int, errno: int) -> None:
    """Makes the given write to the disk fail, counted in each process."""
    fsync, writes = os.fsync, iter(range(1, 1 << 30))

    def fail(handle: int) -> None:
        if next(writes) == number:
            raise OSError(errno, os.strerror(errno))
        fsync(handle)

    os.fsync = fail


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"
