"""Records of probes: one line of JSON with a checksum each.

Those made while a run trains lie in its folder; those made later in `<results>/probes/`. `stableft export` puts both
into the file of the runs, so that a clone rebuilds their figures too. JSON has no NaN: it is written as text.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from stableft.config.run_config import Checkpoint
from stableft.errors import UserError
from stableft.records.run_record import (
    IdentifiedRecord,
    RecordSection,
    atomic_write,
    dump_record,
    is_probe_line,
    parse_checked_values,
    parse_record_as,
    run_folder,
)

PROBES_FILE = "probes.jsonl"
PROBES_FOLDER = "probes"  # below the results folder


class ModelParts(RecordSection):
    """The parts of a model by the names of their modules, the lowest block first; ALBERT's one block is shared."""

    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    pooler: tuple[str, ...]
    head: tuple[str, ...]


class GradNormsRecord(IdentifiedRecord):
    """L2 norms of a run's gradients, unscaled (M Figs. 4, 10-12). `run_id` is that of the run.

    `steps` are optimizer steps from 1; `norms[i][j]` is that of parameter `names[j]` at `steps[i]`, before clipping.
    Norms have six digits. One that is not finite is of a step that the gradient scaler skipped, or of a run's end.
    """

    probe: Literal["grad_norms"] = "grad_norms"
    parts: ModelParts
    steps: tuple[int, ...]
    total: tuple[float, ...]  # the global norm before clipping
    clipped: tuple[float, ...]  # and after it
    names: tuple[str, ...]
    norms: tuple[tuple[float, ...], ...]


class DriftRecord(IdentifiedRecord):
    """L2 distances of a run's weights to what they were before its first step (Z Figs. 7, 15-18).

    `distances[i][j]` is that of all parameters of `names[j]` after `steps[i]` updates: embeddings, the blocks by
    their number from 1, pooler, head. Blocks that were drawn anew, the top `redrawn` ones, are measured from the draw.
    """

    probe: Literal["drift"] = "drift"
    names: tuple[str, ...]
    redrawn: int
    steps: tuple[int, ...]
    distances: tuple[tuple[float, ...], ...]


class PerplexityRecord(IdentifiedRecord):
    """Masked-language-model loss of a run's encoder, its top blocks reset to pre-trained values (M Fig. 2a, b).

    `losses[i]` is in nats, with the top `reset[i]` blocks reset; perplexity is its exponential. `all_reset` is with
    the embeddings reset too, and equals `pretrained`, that of the untouched model. `run_id` is that of the run.
    """

    probe: Literal["perplexity"] = "perplexity"
    checkpoint: Checkpoint
    text: str  # a name, without the folders above it
    text_sha256: str
    seed: int  # of the masks, which are the same for every loss
    max_length: int
    tokens: int
    masked: int  # tokens that were guessed
    reset: tuple[int, ...]
    losses: tuple[float, ...]
    all_reset: float
    pretrained: float


class SurfaceRecord(IdentifiedRecord):
    """Loss and gradient norm around a pre-trained model (M Figs. 7, 13; sec. 7.6). `run_id` is an id of its own.

    `losses[i][j]` is at `pretrained + alphas[j] * (failed - pretrained) + betas[i] * (successful - pretrained)`, the
    mean over the examples with dropout off; the norm is that of the gradient of this loss to all parameters.
    """

    probe: Literal["surface"] = "surface"
    model: str
    task: str
    failed: str  # run ids
    successful: str
    checkpoint: Checkpoint
    head_seed: int  # which drew the head of the pre-trained model
    examples: int
    examples_seed: int
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    grad_norms: tuple[tuple[float, ...], ...] | None
    label_entropy: float | None  # of the examples' labels, in nats
    # Exactly at the pre-trained model, and along the straight line from the failed to the successful one, evenly
    # spaced with both ends: none of them need be on the grid.
    pretrained_loss: float | None = None
    pretrained_norm: float | None = None
    line_losses: tuple[float, ...] = ()
    line_norms: tuple[float, ...] = ()


ProbeRecord = GradNormsRecord | DriftRecord | PerplexityRecord | SurfaceRecord
_PROBE_RECORD_ADAPTER: TypeAdapter[ProbeRecord] = TypeAdapter(Annotated[ProbeRecord, Field(discriminator="probe")])


def round_to_digits(values: Iterable[float], count: int = 6) -> tuple[float, ...]:
    """Returns the values with so many significant digits, which is all that a record of norms keeps."""
    return tuple(float(f"{value:.{count}g}") for value in values)


def parse_probe_record(line: str) -> ProbeRecord:
    """Returns the record of a probe from its line.

    Raises:
        UserError: the text is no such record, or was changed after it was written.
    """
    values = parse_checked_values(line)
    try:
        return _PROBE_RECORD_ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"has {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_probe_records(path: Path) -> Iterator[ProbeRecord]:
    """Yields the records of probes in a file of JSON Lines, passing over those of runs; none if there is no file.

    Raises:
        UserError: a line is damaged; the message names file and line.
    """
    if not path.exists():
        return
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if is_probe_line(line):
                    try:
                        yield parse_probe_record(line)
                    except UserError as error:
                        raise UserError(f"{path}:{number} {error}") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path} is not a file of records in JSON Lines") from None


def write_probe_records(path: Path, records: Iterable[ProbeRecord]) -> None:
    """Writes one record a line, in the given order, or removes the file if there are none."""
    lines = "".join(dump_record(record) + "\n" for record in records)
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lines.encode())
    else:
        path.unlink(missing_ok=True)


def read_stored_probe_records(results: Path, run_ids: Iterable[str]) -> Iterator[ProbeRecord]:
    """Yields what probes left of these runs in a results folder: those of their training, and those made later."""
    wanted = dict.fromkeys(run_ids)
    for run_id in wanted:
        yield from read_probe_records(run_folder(results, run_id) / PROBES_FILE)
    for path in sorted((results / PROBES_FOLDER).glob(f"*/{PROBES_FILE}")):
        yield from (record for record in read_probe_records(path) if wanted.keys() & set(probe_run_ids(record)))


def probe_run_ids(record: ProbeRecord) -> tuple[str, ...]:
    """Returns the ids of the runs that a record is about."""
    return (record.failed, record.successful) if isinstance(record, SurfaceRecord) else (record.run_id,)


_ProbeRecordT = TypeVar("_ProbeRecordT", GradNormsRecord, DriftRecord, PerplexityRecord, SurfaceRecord)
PROBE_RECORD_KINDS: dict[str, type[ProbeRecord]] = {
    "grad_norms": GradNormsRecord,
    "drift": DriftRecord,
    "perplexity": PerplexityRecord,
    "surface": SurfaceRecord,
}
_FIELD_PATTERNS = {name: re.compile(f'"{name}":"([^"]*)"') for name in ("probe", "run_id", "failed", "successful")}


@dataclass(frozen=True)
class ProbeRecordRef:
    """The record of one probe: of what kind it is, which runs it is about, and how to read it."""

    kind: type[ProbeRecord]
    run_ids: tuple[str, ...]  # of a surface the failed and the successful one
    read: Callable[[], ProbeRecord]


@dataclass(frozen=True)
class ProbeRecords:
    """What probes left of some runs, in the order in which it was found."""

    left: tuple[ProbeRecordRef, ...] = ()

    def about(self, kind: type[ProbeRecord], run_ids: Collection[str]) -> list[ProbeRecordRef]:
        """Returns the records of a kind all of whose runs are among these; those of training once for each run."""
        found = [left for left in self.left if left.kind is kind and all(run in run_ids for run in left.run_ids)]
        if kind is PerplexityRecord or kind is SurfaceRecord:  # a run may have several, of other texts or points
            return found
        first: dict[tuple[str, ...], ProbeRecordRef] = {}
        for left in found:
            first.setdefault(left.run_ids, left)
        return list(first.values())

    def of(self, kind: type[_ProbeRecordT], run_ids: Collection[str]) -> list[_ProbeRecordT]:
        """Returns these records themselves, each once.

        Raises:
            UserError: one is damaged.
        """
        records: dict[tuple, _ProbeRecordT] = {}
        for left in self.about(kind, run_ids):
            record = left.read()
            assert isinstance(record, kind)
            asked = (record.text_sha256, record.seed, record.max_length) if isinstance(record, PerplexityRecord) else ()
            records.setdefault((record.run_id, getattr(record, "checkpoint", ""), *asked), record)
        return list(records.values())


def wrap_probe_records(records: Iterable[ProbeRecord]) -> ProbeRecords:
    """Returns records that are there already."""
    return ProbeRecords(
        tuple(ProbeRecordRef(type(record), probe_run_ids(record), lambda r=record: r) for record in records)
    )


def find_probes_in_files(paths: Iterable[Path]) -> ProbeRecords:
    """Returns what probes left in files of records.

    Raises:
        UserError: the record of a probe is damaged.
    """
    return ProbeRecords(tuple(left for path in paths for left in _scan_probe_file(path)))


def find_probes_in_results(results: Path, run_ids: Iterable[str]) -> ProbeRecords:
    """Returns what probes left of these runs in a results folder: those of their training, and those made later.

    Raises:
        UserError: the record of a probe is damaged.
    """
    wanted = dict.fromkeys(run_ids)
    later = sorted((results / PROBES_FOLDER).glob(f"*/{PROBES_FILE}"))
    of_training = [left for run_id in wanted for left in _scan_probe_file(run_folder(results, run_id) / PROBES_FILE)]
    made_later = [left for path in later for left in _scan_probe_file(path) if wanted.keys() & {*left.run_ids}]
    return ProbeRecords((*of_training, *made_later))


def _scan_probe_file(path: Path) -> Iterator[ProbeRecordRef]:
    """Yields what is in a file, none if there is none; only the few names that tell what it is are looked for."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        offset = 0
        for number, line in enumerate(file, 1):
            text = line.decode(errors="replace")
            if is_probe_line(text):
                kind, *runs = (_field_text(name, text) for name in ("probe", "run_id"))
                if kind == "surface":
                    runs = [_field_text(name, text) for name in ("failed", "successful")]
                if kind not in PROBE_RECORD_KINDS or not all(runs):
                    raise UserError(f"{path}:{number} is not a complete record")
                yield ProbeRecordRef(
                    PROBE_RECORD_KINDS[kind],
                    tuple(runs),
                    partial(_read_probe_at, path, number, offset, PROBE_RECORD_KINDS[kind]),
                )
            elif path.name == PROBES_FILE and text.strip():  # which has nothing else: it was cut off before the mark
                raise UserError(f"{path}:{number} is not a complete record")
            offset += len(line)


def _field_text(name: str, text: str) -> str:
    found = _FIELD_PATTERNS[name].search(text)
    return found[1] if found else ""


def _read_probe_at(path: Path, number: int, offset: int, kind: type[ProbeRecord]) -> ProbeRecord:
    with open(path, "rb") as file:
        file.seek(offset)
        line = file.readline().decode(errors="replace")
    try:
        return parse_record_as(kind, line)
    except UserError as error:
        raise UserError(f"{path}:{number} {error}") from None
