"""The report that a sweep left in its folder, printed again as long as nothing that it is made of has changed."""

import hashlib
import json
import os
from pathlib import Path

from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.probe_record import PROBES_FILE
from stableft.records.run_record import RECORD_FILE, atomic_write, run_folder
from stableft.text import screen_width

KEPT_FILE = ".kept-report.json"  # beside the report: {"key", "text", "files"}


def report_key(sweep: Sweep, results: Path) -> str:
    """Return a digest that changes with this code, the sweep file, the width of the screen, and the files of its runs.

    Of the files only size and time are looked at: a large sweep has many.
    """
    package = (path for path in Path(__file__).parents[1].rglob("*.*") if path.suffix != ".pyc")
    code = [_size_and_time(path) for path in sorted(package)]
    digest = hashlib.sha256(f"{code} {screen_width()} {sweep.path} {_size_and_time(sweep.path)}\n".encode())
    for run in sweep.runs:
        folder = run_folder(results, run.run_id)
        files = [_size_and_time(f"{folder}/{name}") for name in (RECORD_FILE, PROBES_FILE)]
        digest.update(f"{run.arm} {run.run_id} {run.report} {files}\n".encode())
    return digest.hexdigest()


def _size_and_time(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def read_kept_report(folder: Path, key: str) -> str | None:
    """Return what was printed of the report with this key, or None if it must be made again."""
    try:
        kept = json.loads((folder / KEPT_FILE).read_text(encoding="utf-8"))
        unchanged = kept["key"] == key and all((folder / name).is_file() for name in kept["files"])
        return kept["text"] if unchanged else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_report(folder: Path, key: str, text: str) -> None:
    """Keep what is printed of the report whose files are in the folder."""
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    try:
        atomic_write(folder / KEPT_FILE, json.dumps({"key": key, "text": text, "files": files}).encode())
    except (OSError, UserError):  # the report is made again next time
        return
