"""What a run leaves behind: one `RunRecord`, written atomically, guarded by a checksum.

A run folder `<results>/runs/<run_id>/` holds config.yaml, record.json, history.jsonl, predictions.npz, the claim of
the process that works on it, and, while the run is unfinished, its checkpoint.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stableft.config.run_config import Checkpoint, RunConfig, Seeds, Split, canonical_json
from stableft.errors import UserError

RECORD_FILE = "record.json"
CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.jsonl"  # one line a step: {"step", "loss", "lr", "grad_norm"}, "tokens" in pre-training
PREDICTIONS_FILE = "predictions.npz"
CONFIG_FILE = "config.yaml"
BEST_FOLDER, LAST_FOLDER = "model-best", "model-last"  # weights, where they are kept
PROBE_MARK = '"probe":"'  # what a line of JSON has if it is the record of a probe
OMIT_IF_NONE = (
    "start",
    "stop",
    "watch",
)  # fields that came later: left out where None, so that older records keep their checksums


class RecordSection(BaseModel):
    """A section of a record: frozen, closed to unknown keys; NaN and infinity are written as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class IdentifiedRecord(RecordSection):
    """What the records of runs of every kind begin with."""

    run_id: str


RecordT = TypeVar("RecordT", bound=IdentifiedRecord)


class EvalPoint(RecordSection):
    """One evaluation. `train_loss` is the mean over the steps since the one before (None at step 0)."""

    step: int
    epoch: float
    train_loss: float | None
    val_loss: float
    val: dict[str, float]


class Scores(RecordSection):
    """Every metric of one set of weights, as fractions. `test` is None where the split has no test rows."""

    step: int
    val: dict[str, float]
    test: dict[str, float] | None


class DataRecord(RecordSection):
    """Which rows a run used. `baselines` are majority baselines: split -> metric -> score."""

    fingerprint: str
    train_rows: int
    val_rows: int
    test_rows: int
    label_entropy: float | None  # of the training labels, in nats: the loss of a model that has learnt nothing
    baselines: dict[str, dict[str, float]]


class Environment(RecordSection):
    """Where a run ran. Versions and hardware only: no environment variable, host name or path."""

    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    platform: str
    device: str  # such as "cpu" or "NVIDIA H200"
    threads: int
    micro_batch: int  # rows that went through the model at once; the effective batch is in the config
    micro_batch_halved: int  # how often memory ran out and it was halved
    model_commit: str | None  # of a hub model
    drawn: tuple[str, ...] = ()  # modules besides the head that the checkpoint lacks: they were drawn anew


class StartRecord(RecordSection):
    """The finished run whose weights a run started from, which `config.start_from` names, and those weights."""

    sha256: str
    recipe: str
    task: str
    seeds: Seeds


class EarlyStopRecord(RecordSection):
    """The place of a stopped run among the `of` runs that differ from it in their seeds alone; rank 1 is the best."""

    score: float  # the metric of selection on the validation split, at the first evaluation after the share `after`
    step: int
    rank: int
    of: int
    after: float
    lowest: float  # the share of the runs that ends


class VanishingGradients(RecordSection):
    """A step after which a run's gradients had vanished in the lower blocks and nothing was learnt.

    `ratio` is the gradient norm of the lower blocks over that of the top; `loss` the mean training loss up to there.
    """

    step: int
    ratio: float
    loss: float


class FailureWatchRecord(RecordSection):
    """What the failure watch saw of a run whose gradient norms were recorded: where they had vanished, if ever.

    `nothing_learnt` is the loss of a model that ignores its input: the entropy of the training labels in nats, or
    their variance. With `at_end` they had vanished at the last look too: the run has likely failed.
    """

    nothing_learnt: float
    looks: int
    first: VanishingGradients | None
    last: VanishingGradients | None
    at_end: bool


class RunRecord(IdentifiedRecord):
    """The outcome of one run; all that tables and figures read.

    A run that is `paused` waits at a checkpoint until it is known which ones of its setting are hopeless; those are
    `stopped`, the others go on. Neither has scores.
    """

    arm: str
    recipe: str
    status: Literal["finished", "crashed", "paused", "stopped"]
    reason: str | None  # why a run crashed or was stopped, or why its loss ended it early
    config: RunConfig
    evals: tuple[EvalPoint, ...]
    last: Scores | None
    best: Scores | None
    failed: bool | None  # the `last` score of the reported metric and split against its majority baseline
    failed_by_accuracy: bool | None  # the same by accuracy, as M sec. 3.2 words it; None for regression
    steps: int
    skipped_steps: int
    data: DataRecord | None
    environment: Environment | None
    seconds: float
    peak_memory_bytes: int | None  # on a GPU of this run, on a CPU of the process so far
    source: None = None  # this project's own run; others are `ImportedRun`s
    start: StartRecord | None = None  # None: the pre-trained weights
    stop: EarlyStopRecord | None = None  # of a stopped run
    watch: FailureWatchRecord | None = None  # None: its gradient norms were not recorded

    def score(self, which: Checkpoint, split: Split, metric: str) -> float | None:
        """Returns one score as a fraction (NaN for a diverged run), or None if the run has none."""
        return lookup_score(self.last if which == "last" else self.best, split, metric)

    @property
    def reported_score(self) -> float | None:
        """The score that the run's own config says tables report."""
        return self.score(self.config.evaluation.report, self.config.reported_split, self.config.task.metric)


class ImportSource(RecordSection):
    """The file, or folder of logs, from which results were imported."""

    kind: Literal["csv", "zhang-logs"]
    name: str  # without the folders above it
    sha256: str  # of the file, or of the paths and contents of the logs


class ImportedEval(RecordSection):
    """One evaluation in someone else's log."""

    step: int
    train_loss: float | None
    val_loss: float | None
    val: dict[str, float]


class ImportedScores(RecordSection):
    """The scores of one checkpoint of someone else's run, as fractions."""

    step: int | None
    val: dict[str, float]
    test: dict[str, float] | None


class ImportedRun(IdentifiedRecord):
    """What someone else's run is known by. Its config is not known, and nothing here is made up in its place.

    `arm` and `task` are what they were imported as. One of `last` and `best` may be missing; `report` names the one
    that stands in tables.
    """

    arm: str
    task: str
    seed: int
    metric: str
    split: Split
    report: Checkpoint
    status: Literal["finished"] = "finished"
    evals: tuple[ImportedEval, ...] = ()
    last: ImportedScores | None
    best: ImportedScores | None
    failed: bool | None  # None: the baseline is not known
    baseline: float | None  # what always predicting the most frequent class scores, by `metric` on `split`
    steps: int | None
    source: ImportSource

    def score(self, which: Checkpoint, split: Split, metric: str) -> float | None:
        """Returns one score as a fraction (NaN for a diverged run), or None if the run has none."""
        return lookup_score(self.last if which == "last" else self.best, split, metric)

    @property
    def val_metric(self) -> str:
        """The metric of its validation scores: the reported one, or the only one that there is."""
        known = [name for scores in (self.last, self.best) if scores for name in scores.val]
        return self.metric if self.metric in known or not known else known[0]


AnyRunRecord = RunRecord | ImportedRun


def lookup_score(scores: Scores | ImportedScores | None, split: Split, metric: str) -> float | None:
    """Returns one of a checkpoint's scores, or None if there is none."""
    values = getattr(scores, split) if scores else None
    return values.get(metric) if values else None


def run_folder(results: Path, run_id: str) -> Path:
    """Returns the folder of a run, which may not exist yet."""
    return results / "runs" / run_id


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Puts `content` (or what it writes) at `path` so that a reader, or a crash at any moment, sees all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def dump_record(record: RecordSection) -> str:
    """Returns the record as one line of JSON with its checksum."""
    values = json.loads(record.model_dump_json())  # `model_dump` would leave NaN, which is no JSON
    values = {key: value for key, value in values.items() if value is not None or key not in OMIT_IF_NONE}
    return canonical_json({**values, "checksum": _checksum(values)})


def parse_record(line: str) -> AnyRunRecord:
    """Returns the run's record that `dump_record` wrote; one that has a source was imported.

    Raises:
        UserError: the text is no record, or was changed after it was written.
    """
    kind = RunRecord if '"source":null' in line else ImportedRun
    record = _parse_unmodified(kind, line)
    if record is not None:
        return record
    values = parse_checked_values(line)
    return _validate(ImportedRun if values.get("source") else RunRecord, values)


def parse_record_as(kind: type[RecordT], line: str) -> RecordT:
    """Returns the record of that kind which `dump_record` wrote; raises as `parse_record` does."""
    record = _parse_unmodified(kind, line)
    return _validate(kind, parse_checked_values(line)) if record is None else record


def _parse_unmodified(kind: type[RecordT], line: str) -> RecordT | None:
    """Returns the record of a line that is to the letter what `dump_record` wrote, else None: a quarter of the time.

    What was hashed is the line without its checksum. If a nested value has one too and that is cut out, or what was
    hashed is no record of that kind, the longer way finds out what is true.
    """
    before, _, after = line.rstrip("\n").partition(',"checksum":"')
    text = before + after[65:]
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != after[:64] or after[64:65] != '"':
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None


def parse_checked_values(line: str) -> dict:
    """Returns the values of a line that `dump_record` wrote, of whatever record it is.

    Raises:
        UserError: the text is no record, or was changed after it was written.
    """
    try:
        values = json.loads(line)
        checksum = values.pop("checksum")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError("is not a complete record") from None
    if checksum != _checksum(values):
        raise UserError("does not match its checksum: it was truncated or edited by hand")
    return values


def _validate(kind: type[RecordT], values: dict) -> RecordT:
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"has {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write_record(results: Path, record: RunRecord) -> None:
    """Lands a record in its run folder."""
    atomic_write(run_folder(results, record.run_id) / RECORD_FILE, (dump_record(record) + "\n").encode())


def read_record(results: Path, run_id: str) -> RunRecord | None:
    """Returns a run's record, or None if it has none.

    Raises:
        UserError: the record is damaged; `set_aside` moves it out of the way.
    """
    return read_record_as(RunRecord, run_folder(results, run_id))


def read_record_as(kind: type[RecordT], folder: Path) -> RecordT | None:
    """Returns the record of that kind in the folder of its id, or None; raises as `read_record` does."""
    path = folder / RECORD_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a complete record") from None
    try:
        record = parse_record_as(kind, text)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    if record.run_id != folder.name:
        raise UserError(f"{path} is the record of another run, {record.run_id}")
    return record


def set_aside(path: Path) -> Path:
    """Renames a damaged file to the first free `<name>.damaged-<n>` and returns the new path."""
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    os.replace(path, aside)
    return aside


def is_probe_line(line: str) -> bool:
    """Returns whether a line is the record of a probe; that of a run may have a metric of such a name, and an arm."""
    return PROBE_MARK in line and '"arm":"' not in line


def read_records_file(path: Path, probed: set[Path] | None = None) -> Iterator[AnyRunRecord]:
    """Yields the records of runs in a JSON Lines file, one at a time; lines of probes are passed over.

    `probed` takes the path of a file that has such lines, which `probe_record.read_probes` reads.

    Raises:
        UserError: a line is no record; the message names file and line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if is_probe_line(line):
                    if probed is not None:
                        probed.add(path)
                elif line.strip():
                    try:
                        yield parse_record(line)
                    except UserError as error:
                        raise UserError(f"{path}:{number} {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such records file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path} is not a file of records in JSON Lines") from None


def write_records_file(path: Path, records: Iterable[IdentifiedRecord]) -> None:
    """Writes one record a line, in the given order; they are taken one at a time."""
    atomic_write(path, lambda file: file.writelines(f"{dump_record(record)}\n".encode() for record in records))


def _checksum(values: dict) -> str:
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()
