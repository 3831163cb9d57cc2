"""What probes left of the runs of a report: found by reading through the files, parsed only where it is shown.

The gradient norms of one run of a large model are megabytes, of which a figure needs those of two runs.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from stableft.errors import UserError
from stableft.probe_record import (
    PROBES_FILE,
    PROBES_FOLDER,
    Drift,
    GradNorms,
    Perplexity,
    ProbeRecord,
    Surface,
    runs_of_probe,
)
from stableft.record import is_probe, parse_as, run_folder

Record = TypeVar("Record", GradNorms, Drift, Perplexity, Surface)
KINDS: dict[str, type[ProbeRecord]] = {
    "grad_norms": GradNorms,
    "drift": Drift,
    "perplexity": Perplexity,
    "surface": Surface,
}
_TEXT = {name: re.compile(f'"{name}":"([^"]*)"') for name in ("probe", "run_id", "failed", "successful")}


@dataclass(frozen=True)
class Left:
    """The record of one probe: of what kind it is, which runs it is about, and how to read it."""

    kind: type[ProbeRecord]
    run_ids: tuple[str, ...]  # of a surface the failed and the successful one
    read: Callable[[], ProbeRecord]


@dataclass(frozen=True)
class Probed:
    """What probes left of some runs, in the order in which it was found."""

    left: tuple[Left, ...] = ()

    def about(self, kind: type[ProbeRecord], run_ids: Collection[str]) -> list[Left]:
        """Returns the records of a kind all of whose runs are among these; those of training once for each run."""
        found = [left for left in self.left if left.kind is kind and all(run in run_ids for run in left.run_ids)]
        if kind is Perplexity or kind is Surface:  # a run may have several, of other texts or points
            return found
        first: dict[tuple[str, ...], Left] = {}
        for left in found:
            first.setdefault(left.run_ids, left)
        return list(first.values())

    def of(self, kind: type[Record], run_ids: Collection[str]) -> list[Record]:
        """Returns these records themselves, each once.

        Raises:
            UserError: one is damaged.
        """
        records: dict[tuple, Record] = {}
        for left in self.about(kind, run_ids):
            record = left.read()
            assert isinstance(record, kind)
            asked = (record.text_sha256, record.seed, record.max_length) if isinstance(record, Perplexity) else ()
            records.setdefault((record.run_id, getattr(record, "checkpoint", ""), *asked), record)
        return list(records.values())


def probed(records: Iterable[ProbeRecord]) -> Probed:
    """Returns records that are there already."""
    return Probed(tuple(Left(type(record), runs_of_probe(record), lambda r=record: r) for record in records))


def probed_in_files(paths: Iterable[Path]) -> Probed:
    """Returns what probes left in files of records.

    Raises:
        UserError: the record of a probe is damaged.
    """
    return Probed(tuple(left for path in paths for left in _find(path)))


def probed_in_results(results: Path, run_ids: Iterable[str]) -> Probed:
    """Returns what probes left of these runs in a results folder: those of their training, and those made later.

    Raises:
        UserError: the record of a probe is damaged.
    """
    wanted = dict.fromkeys(run_ids)
    later = sorted((results / PROBES_FOLDER).glob(f"*/{PROBES_FILE}"))
    of_training = [left for run_id in wanted for left in _find(run_folder(results, run_id) / PROBES_FILE)]
    made_later = [left for path in later for left in _find(path) if wanted.keys() & {*left.run_ids}]
    return Probed((*of_training, *made_later))


def _find(path: Path) -> Iterator[Left]:
    """Yields what is in a file, none if there is none; only the few names that tell what it is are looked for."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        offset = 0
        for number, line in enumerate(file, 1):
            text = line.decode(errors="replace")
            if is_probe(text):
                kind, *runs = (_first(name, text) for name in ("probe", "run_id"))
                if kind == "surface":
                    runs = [_first(name, text) for name in ("failed", "successful")]
                if kind not in KINDS or not all(runs):
                    raise UserError(f"{path}:{number} is not a complete record")
                yield Left(KINDS[kind], tuple(runs), partial(_read, path, number, offset, KINDS[kind]))
            elif path.name == PROBES_FILE and text.strip():  # which has nothing else: it was cut off before the mark
                raise UserError(f"{path}:{number} is not a complete record")
            offset += len(line)


def _first(name: str, text: str) -> str:
    found = _TEXT[name].search(text)
    return found[1] if found else ""


def _read(path: Path, number: int, offset: int, kind: type[ProbeRecord]) -> ProbeRecord:
    with open(path, "rb") as file:
        file.seek(offset)
        line = file.readline().decode(errors="replace")
    try:
        return parse_as(kind, line)
    except UserError as error:
        raise UserError(f"{path}:{number} {error}") from None
