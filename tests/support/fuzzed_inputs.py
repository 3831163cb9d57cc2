"""Reads thousands of damaged inputs under a watchdog: no stack trace, no hang, no full memory."""

import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil
from support.damaged_files import READERS, Tally, read_case
from support.mutated_sweeps import OWN_DATA, SWEEP, mutate, mutate_settings

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError

SECONDS = 10  # for a case; this counts as a hang
MEMORY = 1 << 30  # bytes, beyond those that the process has at its start
KINDS: dict[str, tuple[str, ...]] = {
    "sweep YAML": (),
    "--set": (),
    "CSV": ("training csv", "training labels"),
    "TSV": ("training tsv",),
    "JSONL": ("training jsonl",),
    "imports": ("import csv", "import tsv", "import jsonl", "import json", "zhang logs", "trainer"),
    "records": ("record", "signed record", "signed records"),
}
assert {name for names in KINDS.values() for name in names} == READERS.keys()
COUNTS = struct.Struct("QQQ")  # the case at work, and how many were read and refused


def read_input(kind: str, number: int, folder: Path, seed: int) -> str:
    """Reads an input of a kind; returns "" or the sentence with which it was refused."""
    if names := KINDS[kind]:
        return read_case(names[number % len(names)], number, folder, seed)
    chance = random.Random(f"{kind} {seed} {number}")
    text = chance.choice([SWEEP, OWN_DATA])
    sets = mutate_settings(chance) if kind == "--set" else []
    (folder / "s.yaml").write_text(text if sets else mutate(chance, text), newline="")
    try:
        load_sweep(folder / "s.yaml", LocalPaths(), sets)
    except UserError as error:
        return str(error)
    return ""


def fuzz(kind: str, cases: int, folder: Path, seed: int, read: Callable[..., str] = read_input) -> Tally:
    """Reads so many inputs, in a process that is started again after it was ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "d.csv").write_text("a,b\nx,0\n")
    faults, shared = folder / "faults.jsonl", mmap.mmap(-1, COUNTS.size)
    names, first = ("stack traces", "hangs", "out of memory", "ended by a signal", "unclear messages"), 0
    tally = Tally({"cases": cases, "read": 0, "refused": 0, **dict.fromkeys(names, 0)})
    while first < cases:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _read_batch(kind, range(first, cases), folder, seed, read, faults, shared)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        number, taken, refused = COUNTS.unpack(shared[:])
        tally.add("read", taken)
        tally.add("refused", refused)
        if status == 0:
            break
        tally.add("hangs" if status == -signal.SIGALRM else "ended by a signal")
        tally.bad.append(f"fuzz {kind}, seed {seed}, case {number}: the process ended with {status}")
        first = number + 1
    for line in faults.read_text().splitlines() if faults.exists() else []:
        name, text = json.loads(line)
        tally.add(name)
        tally.bad.append(text)
    return tally


def _read_batch(kind: str, cases: range, folder: Path, seed: int, read, faults: Path, shared: mmap.mmap) -> None:
    """Reads the cases and ends the process."""
    os.chdir(folder)
    memory = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also one within C
    taken = refused = 0
    for number in cases:
        shared[:] = COUNTS.pack(number, taken, refused)
        signal.alarm(SECONDS)
        started, name, told = time.monotonic(), "", ""
        try:
            sentence = read(kind, number, folder, seed)
            taken, refused = taken + (not sentence), refused + bool(sentence)
            if not sentence.isprintable():
                name, told = "unclear messages", f"it is not one line of characters that show: {sentence[:300]!r}"
        except MemoryError:
            name, told = "out of memory", f"after {time.monotonic() - started:.1f} s"
        except Exception:
            name, told = "stack traces", "; ".join(traceback.format_exc().splitlines()[-5:])
        signal.alarm(0)
        if name:
            with open(faults, "a") as file:
                file.write(json.dumps([name, f"fuzz {kind}, seed {seed}, case {number}: {told[:600]}"]) + "\n")
    shared[:] = COUNTS.pack(cases[-1], taken, refused)
    os._exit(0)
