"""Output that nobody reads, that a full disk loses or that an encoding lacks, in real processes.

The disk of files to write, too: each command names the file that it cannot write.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.processes import wait_while_running
from support.sweep_records import save_record

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, atomic_write
from stableft.sweep.signals import collected_signals

pytestmark = [pytest.mark.usefixtures("workplace"), pytest.mark.faults, pytest.mark.timeout(300)]
COMMAND = f"'{sys.executable}' -W error -c 'from stableft.cli.app import main; main()'"
SHORT = "--devices cpu --set schedule.length.epochs=4"
SWEEP = f"sweep smoke --seeds 1 --arms mosbach {SHORT}"
LOST = "stableft: cannot write to the standard output: No space left on device\n"
POOR = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a line of bash in which `stableft` is the command; its exit code is that of the first of a pipe."""
    line = f'stableft() {{ {COMMAND} "$@"; }}; {line}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(["bash", "-c", line], capture_output=True, env={**os.environ, **environment})


def save_scores() -> None:
    for run, score in zip(load_sweep("rte", LocalPaths()).runs, range(50), strict=True):
        save_record(Path("results"), make_scored_record(run, 0.5 if score < 30 else 0.6 + score / 1000))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["list tasks", "show rte", "status", "report rte", "--help", "--version"])
def test_a_command_whose_reader_goes_away_says_nothing(command):
    save_scores()
    for way in ("| true", ">&-", "2>&1 | true", ">&- 2>&-"):
        done = run_shell(f"stableft {command} {way}")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), way
    done = run_shell(f"stableft {command} > /dev/full")
    assert (done.returncode, done.stderr.decode()) == (2, LOST)


@pytest.mark.slow
def test_a_mistake_keeps_its_exit_code_whoever_reads():
    for way in ("2>/dev/full", "2>&-", "2>&1 | true", ">&- 2>&-"):
        done = run_shell(f"stableft status nope {way}")
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", b""), way


@pytest.mark.slow
@pytest.mark.parametrize("environment", [POOR, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_characters_that_an_encoding_lacks_are_replaced(environment):
    save_scores()
    plain, rich = (run_shell("stableft report rte --notes --tests", **more) for more in (environment, {}))
    assert (plain.returncode, plain.stderr, rich.stderr) == (0, b"", b"")
    text = rich.stdout.decode()
    assert "†" in text
    forms = {"†": "+", "−": "-", "√": "?", "–": "-"} | ({} if "latin" in str(environment) else {"±": "+-", "×": "x"})
    for character, form in forms.items():
        text = text.replace(character, form)
    assert plain.stdout.decode("latin-1") == text


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("report rte --out DISK/r.md", "r.md"),
        ("report rte --out DISK/r.png", "r.png"),
        ("report rte --out DISK/all/", "all/scores.png"),
        ("report all --out DISK/reports", "reports/rte/scores.png"),
        ("export rte --out DISK/r.jsonl", "r.jsonl"),
        ("export rte --out DISK/r.csv", "r.csv"),
        ("copy rte DISK/r.yaml", "r.yaml"),
        ("power --sd 2 --ratio 2 --out DISK/p.png", "p.png"),
        ("import csv scores.csv --out DISK/r.jsonl --task =rte --arm arm --seed seed --score score", "r.jsonl"),
    ],
)
def test_a_file_that_does_not_fit_is_named(stableft, disk, command, named):
    save_scores()
    Path("results/records").mkdir()
    assert stableft("export", "rte", "--out", "results/records/rte.jsonl")[0] == 0
    Path("scores.csv").write_text("arm,seed,score\na,1,0.5\na,2,0.6\n")
    disk.fill()
    code, _, err = stableft(*command.replace("DISK", str(disk.folder)).split())
    assert (code, err) == (2, f"stableft: cannot use {disk.folder}/{named}: No space left on device\n")
    assert [path.name for path in disk.folder.rglob("*") if path.is_file()] == ["filler"]


def test_a_device_is_not_replaced(stableft):
    save_scores()
    code, _, err = stableft("export", "rte", "--out", "/dev/full")
    assert (code, err.count("\n"), "/dev/full" in err) == (2, 1, True)
    with pytest.raises(UserError, match=r"^/dev/full: this is a pipe or a device; give the name of a file$"):
        atomic_write(Path("/dev/full"), b"")
    assert Path("/dev/full").is_char_device()


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["> /dev/full", *(pytest.param(way, marks=pytest.mark.nightly) for way in ("2>&1 | true", ">&- 2>&-"))]
)
def test_a_sweep_goes_on_to_its_end_whoever_reads(way):
    done = run_shell(f"stableft {SWEEP} {way}")
    assert (done.returncode, done.stderr.decode()) == (0, LOST if way == "> /dev/full" else "")
    assert len(list(Path("results/runs").rglob(RECORD_FILE))) == 1
    assert Path("results/sweeps/smoke/report.md").is_file()


@pytest.mark.slow
def test_a_sweep_in_a_poor_locale_keeps_its_report():
    done = run_shell(f"stableft sweep smoke --seeds 1 {SHORT}", **POOR)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"+ most runs failed" in done.stdout
    assert "most runs failed (†)" in Path("results/sweeps/smoke/report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_sweep_on_a_full_disk_goes_on_once_there_is_space(stableft, disk):
    """No run is crashed, so --retry-crashed is not needed."""
    command = [*SWEEP.split(), "--checkpoint-every", "2", "--results", disk.folder / "results"]
    disk.fill(100_000)
    code, _, err = stableft(*command)
    assert code == 2
    path = rf"{disk.folder}/results/runs/\w+/{CHECKPOINT_FILE}"
    assert re.fullmatch(rf"stableft: {path} needs [\d,]+ bytes \(\d+ kB\), but its disk has [\d,]+ \(.*\) free\n", err)
    assert not list(disk.folder.rglob("crash.txt"))
    disk.empty()
    code, out, _ = stableft(*command)
    assert (code, "Ended: 1 of 1 runs done" in out) == (0, True)


def test_a_signal_that_was_ignored_is_not_collected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with collected_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def start(line: str) -> subprocess.Popen:
    return subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, name: str) -> None:
    assert wait_while_running(process, lambda: list(Path("results").rglob(name))), process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_after_a_signal_no_report_is_drawn(number):
    """There would be one: a run has finished."""
    process = start(f"exec {COMMAND} sweep smoke --arms mosbach {SHORT} --checkpoint-every 1")
    wait_for(process, RECORD_FILE)
    wait_for(process, CHECKPOINT_FILE)
    sent = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - sent < 15  # 5 seconds at most, and a step and a checkpoint's write on a busy machine
    assert process.returncode == 130, out
    assert re.match(r"Interrupted: \d of 5 runs done, .*; run the same command to continue$", out.splitlines()[-1])
    assert not Path("results/sweeps").exists()


@pytest.mark.slow
def test_a_signal_that_was_ignored_stays_ignored():
    """As by nohup, and by a shell that starts a job in the background."""
    sweep = "sweep smoke --seeds 1 --arms mosbach --devices cpu --checkpoint-every 1"  # long enough to be met by both
    process = start(f"trap '' HUP INT; exec {COMMAND} {sweep}")
    wait_for(process, CHECKPOINT_FILE)
    for number in (signal.SIGHUP, signal.SIGINT):
        assert process.poll() is None
        process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert json.loads(Path("results/sweeps/smoke/report.json").read_text())["report"]
    assert "Stopping" not in out
