"""What a results folder holds, by size, and the removal of parts of it."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.run_record import BEST_FOLDER, CHECKPOINT_FILE, LAST_FOLDER, OUT_FOLDER, run_folder
from stableft.sweep.claims import CLAIM_FILES, claim_run
from stableft.sweep.slurm import PILOTS_FOLDER, find_pilots
from stableft.sweep.state import CRASH_FILE
from stableft.text import TextRow, align_columns, format_bytes

HeldKind = Literal["checkpoints", "weights", "leftovers", "reports", "pilots", "records", "other"]
HELD_KINDS: dict[HeldKind, str] = {
    "checkpoints": "of unfinished runs, which start again without them",
    "weights": "kept by --save, which probes and start_from read; what commands wrote to {out}",
    "leftovers": "texts of crashes, and damaged files that were set aside",
    "reports": "of sweeps; stableft report makes them again",
    "pilots": "plans, logs and states of Slurm's; stableft status tells of them",
    "records": "what runs measured: records, histories, predictions, probes",
    "other": "pre-trained models, files of records, results of probes, repeated runs; never removed",
}
# No measurement is among them.
REMADE_KINDS: tuple[HeldKind, ...] = ("checkpoints", "weights", "leftovers", "reports", "pilots")


@dataclass(frozen=True)
class HeldItem:
    """A file, or a folder with all its files. `claimed` is the run's folder, whose claim is needed to remove it.

    `pilots` are those that may need it: the name of their sweep, and their results folder.
    """

    kind: HeldKind
    path: Path
    size: int
    claimed: Path | None = None
    pilots: tuple[str, Path] | None = None


def find_held_items(results: Path, sweep: Sweep | None = None) -> list[HeldItem]:
    """Return what a results folder holds, or what of it belongs to the runs, the report and the pilots of a sweep."""
    if sweep:
        runs = {run.run_id: run_folder(results, run.run_id) for run in (*sweep.runs, *sweep.start_runs)}
        found = [item for folder in runs.values() for item in _find_in_run(folder)]
        folders = [results / "sweeps" / sweep.name]
    else:
        found = [
            item for part in ("runs", "pretrain") for folder in _list(results / part) for item in _find_in_run(folder)
        ]
        found += [
            _measure("other", path)
            for part in ("probes", "records", "reports", "reruns")
            for path in _list(results / part)
        ]
        sweeps = results / "sweeps"
        known = {path.parent for name in ("report.json", PILOTS_FOLDER) for path in sweeps.rglob(name)}
        folders = sorted(known - {sweeps})
    return found + [item for folder in folders for item in _find_in_sweep(folder, results)]


def _find_in_sweep(folder: Path, results: Path) -> Iterator[HeldItem]:
    """Yield the files of a sweep's report, and the folder of its pilots; other folders are those of other sweeps."""
    for path in _list(folder):
        if path.name == PILOTS_FOLDER and path.is_dir():
            yield replace(_measure("pilots", path), pilots=(folder.relative_to(results / "sweeps").as_posix(), results))
        elif not path.is_dir():
            yield _measure("reports", path)


def _list(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _find_in_run(folder: Path) -> Iterator[HeldItem]:
    for path in _list(folder):
        if path.name == CHECKPOINT_FILE:
            yield _measure("checkpoints", path, folder)
        elif folder.parent.name == "pretrain":
            yield _measure("other", path, folder)
        elif path.name in (BEST_FOLDER, LAST_FOLDER, OUT_FOLDER):
            yield _measure("weights", path, folder)
        elif path.name == CRASH_FILE or ".damaged-" in path.name:
            yield _measure("leftovers", path, folder)
        elif path.name not in CLAIM_FILES:
            yield _measure("records", path, folder)


def _measure(kind: HeldKind, path: Path, claimed: Path | None = None) -> HeldItem:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return HeldItem(kind, path, sum(file.lstat().st_size for file in files if not file.is_dir()), claimed)


def render_held_items(items: Collection[HeldItem]) -> str:
    """Return a table of the kinds of files with their sizes."""
    rows: list[TextRow] = [("what", "runs", "size", "")]
    for kind, meaning in HELD_KINDS.items():
        if some := [item for item in items if item.kind == kind]:
            rows.append((kind, _count_runs(some) or "", total_size(some), meaning))
    return align_columns([*rows, ("total", _count_runs(items) or "", total_size(items), "")])


def _count_runs(items: Collection[HeldItem]) -> int:
    return len({item.claimed for item in items if item.claimed})


def total_size(items: Collection[HeldItem]) -> str:
    """Return the size of all items in words."""
    return format_bytes(sum(item.size for item in items))


def remove_held_items(items: Collection[HeldItem]) -> Iterator[str]:
    """Remove these items, and yield lines that say how much was removed, and which runs are in use and left alone."""
    by_folder: dict[Path | None, list[HeldItem]] = {}
    for item in items:
        by_folder.setdefault(item.claimed, []).append(item)
    removed, in_use, in_queue = [], [], []
    for item in by_folder.pop(None, []):
        if item.pilots and (why := _why_needed(*item.pilots)):
            in_queue.append(f"{item.path} ({why})")
            continue
        _remove(item.path)
        removed.append(item)
        with suppress(OSError):  # there is more in it
            os.removedirs(item.path.parent)
    for folder, some in by_folder.items():
        assert folder
        with claim_run(folder) as claimed:
            if claimed:
                for item in some:
                    remove_under_claim(item.path)
                removed += some
            else:
                in_use.append(folder.name)
    yield f"removed {total_size(removed)}"
    if in_use:
        yield f"left alone, because another process is working on them: {', '.join(in_use)}"
    if in_queue:
        yield f"left alone, because pilots may need it: {', '.join(in_queue)}"


def _why_needed(sweep: str, results: Path) -> str | None:
    """Return why the plans and states of a sweep's pilots are to be kept, or None."""
    try:
        pilots = find_pilots(sweep, results)
    except UserError as error:
        return f"whether any are left cannot be told here: {error}"
    return f"{len(pilots)} are queued or run" if pilots else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
