"""A log that worker processes share, and waiting for a condition."""

import os
import time
from pathlib import Path


def log_event(results: Path, word: str, run) -> None:
    with open(results / "log", "a") as file:  # one short write in append mode is atomic
        file.write(f"{word} {run.run_id} {os.getpid()}\n")


def read_events(results: Path, word: str) -> list[tuple[str, int]]:
    path = results / "log"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(run_id, int(pid)) for said, run_id, pid in lines if said == word]


def wait_until(condition, seconds=20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
