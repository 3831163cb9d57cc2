"""What imports of every kind end with: arms under new names, ids, a file of records, and words about them."""

import hashlib
import math
import shlex
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from stableft.config import canonical_json
from stableft.errors import UserError, nearest
from stableft.record import ImportedRun, write_records_file
from stableft.text import columns

SHOWN = 12  # runs that a message names


class Key(NamedTuple):
    """Which run: `arm` as in the file, `task` by our name where we have one."""

    task: str
    arm: str
    seed: int


def describe_keys(keys: Iterable[Key]) -> str:
    """Returns some runs in words, the first of them by name."""
    ordered = sorted(keys)
    words = [f"{key.arm} {key.task} seed {key.seed}" for key in ordered[:SHOWN]]
    return ", ".join(words) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def run_id_of(sha256: str, key: Key, metric: str, split: str, *how: object) -> str:
    """Returns the id of a run by the content of its file and how it was read from it: 16 hex digits."""
    identity = [sha256, key.arm, key.task, key.seed, metric, split, *how]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def arm_names(renames: Sequence[str], arms: Iterable[str]) -> dict[str, str]:
    """Returns the name under which each arm of the file is imported; `renames` are of the form OLD=NEW.

    Raises:
        UserError: one has another form, names no arm, or would make one arm of two.
    """
    names = {arm: arm for arm in sorted(arms)}
    for text in renames:
        old, sign, new = (part.strip() for part in text.partition("="))
        if not (old and sign and new):
            raise UserError(f"--rename {text!r}: must be OLD=NEW")
        if old not in names:
            there = f"there are {', '.join(names)}{nearest(old, names)}"
            raise UserError(f"--rename {text}: there is no arm {old!r}, {there}")
        if names[old] != old:
            raise UserError(f"--rename {text}: {old!r} is already renamed to {names[old]!r}")
        names[old] = new
    for new, olds in groupby(sorted(names, key=names.__getitem__), key=names.__getitem__):
        if len(both := list(olds)) > 1:
            raise UserError(f"--rename: {' and '.join(both)} would both be called {new!r}")
    return names


def check_out(out: Path, source: Path) -> None:
    """Raises UserError if `out` is no place for the records that are made from `source`."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: the name must end in .jsonl")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out} is the file that is imported")


def save_runs(out: Path, runs: Sequence[ImportedRun], names: dict[str, str], notes: Iterable[str]) -> str:
    """Writes the runs by task, arm and seed, in place of a file that was there, and returns what they are in words."""
    ordered = sorted(runs, key=lambda run: (run.task, run.arm, run.seed))
    source = ordered[0].source
    existed = out.exists()
    write_records_file(out, ordered)
    renamed = [f"arm {new} is {old} in {source.name}" for old, new in names.items() if new != old]
    return "\n".join(
        [
            f"{len(ordered)} runs of {source.name} (sha256 {source.sha256})",
            _counts(ordered),
            *renamed,
            *notes,
            f"{'replaced' if existed else 'wrote'} {out}; next: stableft report {shlex.quote(str(out))}",
        ]
    )


def _counts(runs: Sequence[ImportedRun]) -> str:
    rows: list[tuple[object, ...]] = [("task", "arm", "score", "runs", "seeds", "NaN", "failed")]
    for (task, arm), group in groupby(runs, key=lambda run: (run.task, run.arm)):
        cell = list(group)
        first = cell[0]
        scores = [run.score(run.report, run.split, run.metric) for run in cell]
        nan = sum(score is not None and math.isnan(score) for score in scores)
        known = [run.failed for run in cell]
        failed = "not known" if None in known else f"{sum(map(bool, known))}/{len(known)}"
        score = f"{first.report} {first.split} {first.metric}"
        rows.append((task, arm, score, len(cell), _seeds([run.seed for run in cell]), nan, failed))
    return columns(rows)


def _seeds(seeds: Sequence[int]) -> str:
    """Returns sorted seeds as 0-49, or as 0-7,9,12; the ends alone where there are many gaps."""
    starts = [i for i, seed in enumerate(seeds) if i == 0 or seed != seeds[i - 1] + 1]
    if len(starts) > 3:
        return f"{seeds[0]} to {seeds[-1]}, with gaps"
    spans = [seeds[start:end] for start, end in zip(starts, [*starts[1:], len(seeds)], strict=True)]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
