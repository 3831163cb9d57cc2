"""Supervise one command: end it, with every process that it started, as soon as its worker asks for that or is gone.

This is a program of its own, between a worker and the command. The command is in a process group of its own, which gets
SIGTERM and, when the grace is over, SIGKILL. So do processes that left the group: on Linux they become children of
this one. Standard input is the line to the worker: a byte asks for an end, and its own end means that the worker died.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

import psutil

WATCH_SECONDS = 0.05
KILL_SECONDS = 5.0  # for the kernel to take a killed process away, of which one that waits for a disk takes longer
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def supervise() -> None:
    """Run `sys.argv[3:]`, and write how it ended as JSON to the file descriptor `sys.argv[1]`.

    `sys.argv[2]` is the grace in seconds.
    """
    status, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # which a command inherits as their defaults
        signal.signal(number, lambda number, _: asked.append(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    supervisor = os.getpid()

    def die_with_supervisor() -> None:
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:
                os._exit(1)

    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_supervisor
        )
    except (OSError, subprocess.SubprocessError) as error:
        _report(status, {"error": str(error)})
        return
    was_asked = False
    while not was_asked and child.poll() is None:
        if asked or select.select([0], [], [], WATCH_SECONDS)[0]:
            worker_died, was_asked = not asked and os.read(0, 1) == b"", True
            _end(child, 0.0 if worker_died else grace)
    outlived = _end(child, grace)
    _report(status, {"exit_code": child.wait(), "outlived": outlived, "asked": was_asked})


def _end(child: subprocess.Popen[bytes], grace: float) -> int:
    """End the command and all that it started, and return the number of processes that were alive."""
    found = _living(child)
    if grace and found:
        _signal(child, found, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while _living(child) and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while (left := _living(child)) and time.monotonic() < deadline:
        _signal(child, left, signal.SIGKILL)
        time.sleep(WATCH_SECONDS / 10)
    return len(found)


def _living(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of the command that have not ended, itself among them."""
    child.poll()
    living = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def _signal(child: subprocess.Popen[bytes], living: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to the command's process group as a whole, and to each process that has left it."""
    groups = {process.pid: _group(process) for process in living}
    if child.pid in groups.values():
        with contextlib.suppress(OSError):
            os.killpg(child.pid, number)
    for process in living:
        if groups[process.pid] != child.pid:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


def _group(process: psutil.Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getpgid(process.pid)
    return None


def _report(status: int, content: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the worker is gone
        os.write(status, json.dumps(content).encode())


if __name__ == "__main__":
    supervise()
