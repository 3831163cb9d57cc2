"""Execute a run that is a training command: start it, watch it, end it, and write its record.

Its stdout and stderr go to `output.log` in the run's folder, `{out}` is the folder `out` there, which is empty at the
start of each try. A supervisor (`command_supervisor`) sees to it that no process of the command outlives the run.
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

import yaml

from stableft.config.command_arms import check_inputs_unchanged, check_no_input_written
from stableft.config.command_config import CommandConfig, fill_placeholders
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted, RunProgress
from stableft.errors import UserError
from stableft.pulse import PULSE, TRAINING
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.command_outcome import CommandOutcome
from stableft.records.command_score import LastMatch, MissingScoreError, ReadScore, read_command_score
from stableft.records.failure import has_failed
from stableft.records.held_claims import ClaimLostError
from stableft.records.run_record import (
    COMMAND_LOG,
    CONFIG_FILE,
    OUT_FOLDER,
    RunRecord,
    Scores,
    atomic_write,
    run_folder,
    write_record,
)
from stableft.sweep import command_supervisor
from stableft.sweep.state import CRASH_FILE
from stableft.text import strip_controls

GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
COMMAND_POLL_SECONDS = 0.2
CHUNK_BYTES = 65_536
# Of output, the beginning and the end are kept: settings are printed there, and what went wrong.
LOG_HEAD_BYTES, LOG_TAIL_BYTES = 1_000_000, 4_000_000
LAST_LINES, LAST_LINE_CHARACTERS = 20, 300  # that a record of a crash holds
LOCK_SECONDS = 15.0  # for the processes of an earlier try, whose worker was killed, to be gone
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems without locks


def train_by_command(
    run: PlannedRun,
    results: Path,
    sources: LocalPaths,
    execution: Execution,
    show: Callable[[RunProgress], None],
    should_stop: Callable[[], bool],
) -> RunRecord:
    """Do the run, write its record and return it: finished with its score, or crashed. The caller holds its claim.

    Raises:
        RunInterrupted: It was asked to stop, and the command was ended. The next try starts at the beginning.
        ClaimLostError: The command of an earlier try is still there, whose worker may be on another host.
        UserError: An input has changed since the sweep was planned, or the command wrote a file that its ids have.
    """
    config, folder = run.config, run_folder(results, run.run_id)
    assert isinstance(config, CommandConfig)
    assert sources.folder is not None
    check_inputs_unchanged(config, sources.folder)
    out = folder.resolve() / OUT_FOLDER
    device = "cpu" if execution.device == "cpu" else "cuda:0"  # the only one that the command sees
    places = {"seed": config.seeds.init, "out": out, "device": device}
    started_at = time.monotonic()
    with open_log(folder / COMMAND_LOG, should_stop) as log:
        remove_under_claim(out)  # a score of an earlier try is none of this one
        out.mkdir()
        content = {"arm": run.arm, **config.model_dump(mode="json")}
        atomic_write(folder / CONFIG_FILE, yaml.safe_dump(content, sort_keys=False).encode())
        ending = _execute(config, places, sources.folder, execution, log, should_stop)
        lines = read_last_lines(folder / COMMAND_LOG)
    score, reason = None, ending.get("reason")
    if reason is None:
        try:
            score = read_command_score(config.score, places, ending["on_stdout"])
        except MissingScoreError as error:
            reason = f"exit code 0, but {error}"
    if reason and lines:
        reason += f"; its last line is {lines[-1]!r}"
    outcome = CommandOutcome(
        device=device,
        exit_code=ending.get("exit_code"),
        written=score.written if score else None,
        last_lines=() if score else tuple(lines),
    )
    record = _make_record(run, config, outcome, score, reason, time.monotonic() - started_at)
    if reason:
        atomic_write(folder / CRASH_FILE, "\n".join([reason, "", *lines, ""]).encode(errors="backslashreplace"))
    write_record(results, record)
    check_no_input_written(config, sources.folder)
    return record


def _make_record(
    run: PlannedRun,
    config: CommandConfig,
    outcome: CommandOutcome,
    score: ReadScore | None,
    reason: str | None,
    seconds: float,
) -> RunRecord:
    metric = config.task.metric
    record = RunRecord(
        run_id=run.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status="finished" if score else "crashed",
        reason=reason,
        config=config,
        report=run.report,
        decide=run.decide,
        evals=(),
        last=Scores(step=0, val={metric: score.value}, test=None) if score else None,
        best=None,
        failed=None,
        failed_by_accuracy=None,
        steps=0,
        skipped_steps=0,
        data=None,
        environment=None,
        seconds=seconds,
        peak_memory_bytes=None,
        command=outcome,
    )
    return record.model_copy(update={"failed": has_failed(record)})


def _execute(
    config: CommandConfig,
    places: Mapping[str, object],
    folder: Path,
    execution: Execution,
    log: "BoundedLog",
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Run the command to its end. Return its `exit_code`, what is `on_stdout`, and the `reason` of a crash."""
    status_read, status_write = os.pipe()
    command = [fill_placeholders(argument, places) for argument in config.command]
    supervisor = [sys.executable, "-P", command_supervisor.__file__, str(status_write), str(GRACE_SECONDS), *command]
    match, stopped, timed_out = LastMatch(config.score.pattern), False, False
    try:
        process = subprocess.Popen(
            supervisor,
            bufsize=0,  # else closing stdin writes again what could not be written, and fails as that did
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=make_environment(execution),
            start_new_session=True,
            pass_fds=(status_write, log.fileno()),  # with the log, its lock: until the last process is gone
        )
    finally:
        os.close(status_write)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    deadline = time.monotonic() + (config.timeout or float("inf"))
    try:
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(COMMAND_POLL_SECONDS)
                for key, _ in ready:
                    data = os.read(key.fd, CHUNK_BYTES)
                    log.write(data)
                    if key.fileobj is process.stdout:
                        match.feed(data)
                    if not data:
                        selector.unregister(key.fileobj)
                PULSE.get_further(TRAINING)
                if not (stopped or timed_out):
                    stopped, timed_out = should_stop(), time.monotonic() > deadline
                    if stopped or timed_out:
                        _ask_to_end(process.stdin)
                if not ready and process.poll() is not None:  # a process that nobody could end has the pipes
                    break
        on_stdout = match.close()
    finally:
        process.stdin.close()  # where the supervisor is still there, because something went wrong here, it kills all
        process.wait()
        with os.fdopen(status_read, "rb") as status:
            ending = json.loads(status.read() or b"{}")
        process.stdout.close()
        process.stderr.close()
    was_ended = ending.get("asked", True)  # else the command had ended by itself before it was asked to
    if stopped and was_ended:
        raise RunInterrupted
    if outlived := ending.get("outlived"):
        log.write(f"\n[stableft: ended {outlived} processes that outlived the command]\n".encode())
    code = ending.get("exit_code")
    if timed_out and was_ended:
        return {"exit_code": None, "reason": f"it took longer than its timeout of {config.timeout:g} s"}
    if "error" in ending:
        return {"reason": f"it could not be started: {ending['error']}"}
    if code is None:
        return {"reason": "its supervisor was killed"}
    if code < 0:
        return {"exit_code": code, "reason": f"it was ended by signal {-code} ({signal.strsignal(-code)})"}
    return {"exit_code": code, "on_stdout": on_stdout, "reason": f"exit code {code}" if code else None}


def _ask_to_end(line: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        line.write(b"t")


def make_environment(execution: Execution) -> dict[str, str]:
    """Return the environment of a command, which sees the device of its slot alone and uses its share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = execution.device.partition(":")[2]
    if number and visible:  # torch counts those that it sees
        number = visible.split(",")[int(number)].strip()
    own = {"CUDA_VISIBLE_DEVICES": number, "PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1")}
    threads = {"OMP_NUM_THREADS": str(execution.threads)} if execution.threads else {}
    return {**os.environ, **own, **threads}


class BoundedLog:
    """A file that keeps the beginning and the end of what is written to it."""

    def __init__(self, file: FileIO) -> None:
        self._file, self._left_out = file, 0

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, data: bytes) -> None:
        """Append data. At twice the size that is kept, leave out what is between the beginning and the end."""
        self._file.write(data)
        if (size := self._file.tell()) <= LOG_HEAD_BYTES + 2 * LOG_TAIL_BYTES:
            return
        self._file.seek(-LOG_TAIL_BYTES, os.SEEK_END)
        tail = self._file.read()
        self._left_out += size - LOG_HEAD_BYTES - LOG_TAIL_BYTES
        self._file.seek(LOG_HEAD_BYTES)
        self._file.truncate()
        self._file.write(f"\n[stableft: {self._left_out:,} bytes are left out here]\n".encode() + tail)


@contextmanager
def open_log(path: Path, should_stop: Callable[[], bool] = lambda: False) -> Iterator[BoundedLog]:
    """Yield the empty log of a command, under a lock that the command's supervisor has too until it ends.

    A worker that is killed releases the run's claim before its command is gone, so the next one waits for the lock.
    A worker on a frozen node loses its claim while its command has the lock, which many network file systems keep.
    On a file system without locks nothing waits; the run's lease still excludes other workers.

    Raises:
        RunInterrupted: `should_stop()` returned True before the log was free.
        ClaimLostError: It is not free after `LOCK_SECONDS`, so the run is still another process's.
    """
    if os.name != "posix":
        raise UserError("commands need process groups, which this operating system does not have: use Linux or macOS")
    import fcntl

    with open(path, "a+b", buffering=0) as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if should_stop():
                    raise RunInterrupted from None
                if time.monotonic() > deadline:
                    raise ClaimLostError(f"{path} is in use: the command of an earlier try is still there") from None
                PULSE.get_further(TRAINING)
                time.sleep(COMMAND_POLL_SECONDS)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
        file.truncate(0)
        yield BoundedLog(file)


def read_last_lines(path: Path) -> list[str]:
    """Return the last lines of a log that have any text. What a progress bar overwrote is a line too."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * LAST_LINES * LAST_LINE_CHARACTERS))
        text = file.read().decode("utf-8", "replace")
    lines = [strip_controls(line).strip() for line in text.replace("\r", "\n").split("\n")]
    return [line[:LAST_LINE_CHARACTERS] for line in lines if line][-LAST_LINES:]
