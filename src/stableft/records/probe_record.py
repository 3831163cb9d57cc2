"""Records of probes: each a line of JSON with a checksum.

Records made in training are in the run's folder, those made later in `<results>/probes/`. `stableft export` writes both
to the file of the runs, so that their figures can be rebuilt elsewhere. NaN is written as a string.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from stableft.config.run_config import Checkpoint, omitted_if_none
from stableft.errors import UserError
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.file_sums import check_undamaged, read_sums
from stableft.records.run_record import (
    IdentifiedRecord,
    RecordHeader,
    RecordSection,
    atomic_write,
    check_line,
    dump_record,
    parse_record_as,
    run_folder,
)

PROBES_FILE = "probes.jsonl"
PROBES_FOLDER = "probes"  # below the results folder


class ModelParts(RecordSection):
    """The parts of a model by their module names, lowest block first. ALBERT has one shared block."""

    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    pooler: tuple[str, ...]
    head: tuple[str, ...]


class GradNormsRecord(IdentifiedRecord):
    """L2 norms of a run's unscaled gradients (M Figs. 4, 10-12).

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
    """L2 distances of a run's weights from their values before the first step (Z Figs. 7, 15-18).

    `distances[i][j]` is that of all parameters of `names[j]` after `steps[i]` updates: embeddings, the blocks by
    their number from 1, pooler, head. Blocks that were drawn anew, the top `redrawn` ones, are measured from the draw.
    """

    probe: Literal["drift"] = "drift"
    names: tuple[str, ...]
    redrawn: int
    steps: tuple[int, ...]
    distances: tuple[tuple[float, ...], ...]


class PerplexityRecord(IdentifiedRecord):
    """Masked-language-model loss of a run's encoder with its top blocks reset to pre-trained values (M Fig. 2a, b).

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
    # Rows of a batch, if fewer than requested because memory ran out, and the points where it did: as `Environment` has
    # them of a run's evaluations.
    eval_batch: int | None = omitted_if_none()
    eval_batch_halved_at: tuple[str, ...] | None = omitted_if_none()


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


def round_to_digits(values: Iterable[float], count: int = 6) -> tuple[float, ...]:
    """Return the values rounded to `count` significant digits."""
    return tuple(float(f"{value:.{count}g}") for value in values)


def write_probe_records(path: Path, records: Iterable[ProbeRecord]) -> None:
    """Write one record per line in the given order, or delete the file if there are none."""
    lines = "".join(dump_record(record) + "\n" for record in records)
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lines.encode())
    else:
        remove_under_claim(path)


_ProbeRecordT = TypeVar("_ProbeRecordT", GradNormsRecord, DriftRecord, PerplexityRecord, SurfaceRecord)
PROBE_RECORD_KINDS: dict[str, type[ProbeRecord]] = {
    "grad_norms": GradNormsRecord,
    "drift": DriftRecord,
    "perplexity": PerplexityRecord,
    "surface": SurfaceRecord,
}


class ProbeRecordHeader(RecordHeader):
    """The fields that tell which runs a probe record is about; the others are ignored."""

    run_id: str = ""
    failed: Any = None  # a run id in surfaces
    successful: Any = None


@dataclass(frozen=True)
class ProbeRecordRef:
    """The place of a probe record in a file: its kind, the runs it is about, and a function that reads it."""

    kind: type[ProbeRecord]
    run_ids: tuple[str, ...]  # of a surface: the failed and the successful run
    read: Callable[[], ProbeRecord]


@dataclass(frozen=True)
class ProbeRecords:
    """The probe records of some runs, in the order in which they were found."""

    refs: tuple[ProbeRecordRef, ...] = ()

    def about(self, kind: type[ProbeRecord], run_ids: Collection[str]) -> list[ProbeRecordRef]:
        """Return the records of a kind whose runs are all in `run_ids`; of those made in training one per run."""
        found = [ref for ref in self.refs if ref.kind is kind and all(run in run_ids for run in ref.run_ids)]
        if kind is PerplexityRecord or kind is SurfaceRecord:  # a run may have several, on other texts or grids
            return found
        first: dict[tuple[str, ...], ProbeRecordRef] = {}
        for ref in found:
            first.setdefault(ref.run_ids, ref)
        return list(first.values())

    def of(self, kind: type[_ProbeRecordT], run_ids: Collection[str]) -> list[_ProbeRecordT]:
        """Return the records of a kind whose runs are all in `run_ids`, without duplicates.

        Raises:
            UserError: one is damaged.
        """
        records: dict[tuple, _ProbeRecordT] = {}
        for ref in self.about(kind, run_ids):
            record = ref.read()
            assert isinstance(record, kind)
            text = (record.text_sha256, record.seed, record.max_length) if isinstance(record, PerplexityRecord) else ()
            records.setdefault((record.run_id, getattr(record, "checkpoint", ""), *text), record)
        return list(records.values())


def find_probes_in_files(paths: Iterable[Path]) -> ProbeRecords:
    """Return the probe records in some record files.

    Raises:
        UserError: a line is not a complete record.
    """
    return ProbeRecords(tuple(ref for path in paths for ref in _scan_probe_file(path)))


def find_probes_in_results(results: Path, run_ids: Iterable[str]) -> ProbeRecords:
    """Return the probe records of these runs in a results folder: those made in training, then those made later.

    Damaged ones are left out with a warning.
    """
    unique = dict.fromkeys(run_ids)
    later = sorted((results / PROBES_FOLDER).glob(f"*/{PROBES_FILE}"))
    of_training = [ref for run_id in unique for ref in _scan_intact(run_folder(results, run_id) / PROBES_FILE)]
    made_later = [ref for path in later for ref in _scan_intact(path) if unique.keys() & {*ref.run_ids}]
    return ProbeRecords((*of_training, *made_later))


def _scan_intact(path: Path) -> list[ProbeRecordRef]:
    """Return the probe records of a file in a results folder; none, with a warning, if it is damaged anywhere."""
    try:
        if path.exists():
            check_undamaged(path.parent, read_sums(path.parent), PROBES_FILE)  # a run's record, if a line is gone
        return list(_scan_probe_file(path, check=True))
    except UserError as error:
        logging.getLogger(__name__).warning("%s: left out", error)
        return []


def read_probe_records(path: Path) -> Iterator[ProbeRecord]:
    """Yield the probe records in a JSON Lines file, skipping run records; nothing if there is no file.

    Raises:
        UserError: a line is damaged; the message names file and line.
    """
    return (ref.read() for ref in _scan_probe_file(path))


def _scan_probe_file(path: Path, check: bool = False) -> Iterator[ProbeRecordRef]:
    """Yield the probe records in a file, parsing only their headers; nothing if there is no file.

    With `check`, all checksums are compared now, and not only when a record is read.
    """
    if not path.exists():
        return
    try:
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip() and (ref := _make_ref(path, number, offset, line, check)):
                    yield ref
                offset += len(line)
    except IsADirectoryError:
        raise UserError(f"{path} is not a file of records in JSON Lines") from None


def _make_ref(path: Path, number: int, offset: int, line: bytes, check: bool) -> ProbeRecordRef | None:
    """Return the probe record in line `number`, which starts at byte `offset`, or None for a run record."""
    try:
        header = ProbeRecordHeader.model_validate_json(line)
    except ValidationError:
        raise UserError(f"{path}:{number} is not a complete record") from None
    if header.probe is None:
        return None
    kind = PROBE_RECORD_KINDS.get(header.probe)
    run_ids = (header.failed, header.successful) if kind is SurfaceRecord else (header.run_id,)
    if kind is None or not all(run_ids):
        raise UserError(f"{path}:{number} is not a complete record")
    if check:
        try:
            check_line(line.decode(errors="replace"))
        except UserError as error:
            raise UserError(f"{path}:{number} {error}") from None
    return ProbeRecordRef(kind, run_ids, partial(_read_probe_at, path, number, offset, kind))


def _read_probe_at(path: Path, number: int, offset: int, kind: type[ProbeRecord]) -> ProbeRecord:
    with open(path, "rb") as file:
        file.seek(offset)
        line = file.readline().decode(errors="replace")
    try:
        return parse_record_as(kind, line)
    except UserError as error:
        raise UserError(f"{path}:{number} {error}") from None
