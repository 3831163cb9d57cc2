"""Commands in processes of their own, which a test kills with all their children."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Every Python that the sweep starts reads this first. One core: one thread, which is what two busy cores can promise.
# With the file "slow" beside it, a write takes its time between the temporary file and its final name.
SITECUSTOMIZE = """
import os, pathlib, time
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
_fsync = os.fsync
def fsync(handle):
    if (pathlib.Path(__file__).parent / "slow").exists():
        time.sleep(0.2)
    _fsync(handle)
os.fsync = fsync
"""


def customize(site: Path) -> None:
    """Does to this process, a fork, what SITECUSTOMIZE in that folder does to a Python that starts."""
    exec(SITECUSTOMIZE, {"__file__": str(site / "sitecustomize.py")})


def start_stableft(site: Path, folder: Path, *arguments: str | Path) -> subprocess.Popen:
    """Starts a command in a folder, as the leader of a process group of its own; its cache is there too."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-c", "from stableft.cli.app import main; main()", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "STABLEFT_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_success(process: subprocess.Popen) -> None:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out


def kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    while group_is_alive(process.pid):
        time.sleep(0.02)  # it looks through all processes of the machine


def group_is_alive(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, member = stat.read_text().rsplit(")", 1)[1].split()[:3]
            if int(member) == group and state not in "ZX":
                return True
    return False


def wait_while_running(process: subprocess.Popen, condition) -> bool:
    """Returns True once the condition holds, False if the process ends first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.01)  # conditions look through folders
    return False
