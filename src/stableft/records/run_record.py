"""The `RunRecord` of a run, written atomically and protected by a checksum.

A run folder `<results>/runs/<run_id>/` holds config.yaml, record.json, history.jsonl, predictions.npz, the claim of
the process working on it, and the checkpoint of an unfinished run.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from stableft.config.command_config import CommandConfig
from stableft.config.decide_rule import DecideRule
from stableft.config.run_config import (
    Checkpoint,
    PretrainConfig,
    RunConfig,
    Seeds,
    Split,
    canonical_json,
    omitted_if_none,
)
from stableft.config.yaml_file import look_up
from stableft.errors import StorageError, UserError, storage_faults
from stableft.records.command_outcome import CommandOutcome
from stableft.records.energy import EnergyRecord
from stableft.records.held_claims import check_claim
from stableft.text import format_bytes

RECORD_FILE = "record.json"
CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.jsonl"  # one line per step: {"step", "loss", "lr", "grad_norm"}, plus "tokens" in pre-training
PREDICTIONS_FILE = "predictions.npz"
CONFIG_FILE = "config.yaml"
BEST_FOLDER, LAST_FOLDER = "model-best", "model-last"  # saved weights, if any
OUT_FOLDER, COMMAND_LOG = "out", "output.log"  # of a command: what it is told to write to, and what it printed
SCHEMA = 2  # of the lines that `dump_record` writes; schema 1 had no such number, and kept `report` in the config
# Version of the arithmetic of training. Runs of two versions differ in their last digits.
# 2: weight decay subtracts rate * p on a CPU too, where it multiplied by a factor rounded to float32.
NUMERICS = 2
NOT_DETERMINISTIC, COMPILED = ", not deterministic", ", compiled"  # what reports add to the device of such runs
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # pandas has no larger whole numbers


EVALS_IN_RECORD = re.compile(r'"evals":\[\{.*?\}\]')  # no evaluation holds a list


class UnknownSchemaError(UserError):
    """A record of a newer schema: not damaged, so it must not be set aside."""


class RecordSection(BaseModel):
    """Base of all record sections: frozen, rejects unknown keys, writes NaN and infinity as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class IdentifiedRecord(RecordSection):
    """Base of the records of all kinds of runs. One of an older schema becomes one of this when it is read."""

    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    run_id: str


RecordT = TypeVar("RecordT", bound=IdentifiedRecord)


class EvalPoint(RecordSection):
    """One evaluation. `train_loss` is the mean over the steps since the previous evaluation (None at step 0)."""

    step: Int64
    epoch: float
    train_loss: float | None
    val_loss: float
    val: dict[str, float]


class Scores(RecordSection):
    """All metrics of one checkpoint, as fractions. `test` is None if there are no test rows."""

    step: Int64
    val: dict[str, float]
    test: dict[str, float] | None


class DataRecord(RecordSection):
    """The data that a run used. `baselines` are majority-class baselines: split -> metric -> score."""

    fingerprint: str
    train_rows: Int64
    val_rows: Int64
    test_rows: Int64
    label_entropy: float | None  # of the training labels, in nats: the loss of a model that ignores its input
    baselines: dict[str, dict[str, float]]


class Environment(RecordSection):
    """Software versions and hardware of a run; no environment variables, host names or paths."""

    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    platform: str
    device: str  # e.g. "cpu" or "NVIDIA H200"
    tf32: bool = False  # a GPU rounded the inputs of float32 products to TF32
    deterministic: bool = Field(default=True, exclude_if=lambda value: value)  # left out if True, as in older records
    compiled: bool = Field(default=False, exclude_if=lambda value: not value)  # by torch.compile; left out if False
    numerics: Int64 = 1  # NUMERICS of the code that trained it; 1: an older record
    processor: str | None = omitted_if_none()  # of a run on the CPU; None: on a GPU, or an older record
    threads: Int64
    micro_batch: Int64  # rows per forward pass; the effective batch size is in the config
    micro_batch_halved: Int64  # how often it was halved because memory ran out
    micro_batch_halved_at: tuple[Int64, ...] = ()  # the updates, counted from 1; empty in older records
    eval_batch: Int64 | None = None  # rows of an evaluation batch, if fewer than configured because memory ran out
    # Updates after which that was halved. None, and left out as in older records: never, or not known.
    eval_batch_halved_at: tuple[Int64, ...] | None = omitted_if_none()
    model_commit: str | None  # hub models only
    energy: EnergyRecord | None = omitted_if_none()  # None: nothing could be read, or an older record
    drawn: tuple[str, ...] = ()  # modules other than the head missing from the checkpoint: randomly initialized

    @property
    def arithmetic(self) -> str:
        """The device, and what else changes how a run's numbers are rounded."""
        tf32 = " with TF32" if self.tf32 else ""
        kernels = ("" if self.deterministic else NOT_DETERMINISTIC) + (COMPILED if self.compiled else "")
        older = f" (numerics version {self.numerics})" if self.numerics != NUMERICS else ""
        return f"{self.device}{tf32}{kernels}{older}"


class StartRecord(RecordSection):
    """The finished run that provided the initial weights (`config.start_from`), and the hash of those weights."""

    sha256: str
    recipe: str
    task: str
    seeds: Seeds


class EarlyStopRecord(RecordSection):
    """Rank of an early-stopped run among the `of` runs that differ only in their seeds; rank 1 is the best."""

    score: float  # validation score by the selection metric, at the first evaluation after the fraction `after`
    step: Int64
    rank: Int64
    of: Int64
    after: float
    lowest: float  # fraction of the runs that is stopped


class VanishingGradients(RecordSection):
    """A step at which gradients had vanished in the lower blocks and nothing had been learnt.

    `ratio` is the gradient norm of the lower blocks divided by that of the top. `loss` is the mean training loss up
    to this step.
    """

    step: Int64
    ratio: float
    loss: float


class FailureWatchRecord(RecordSection):
    """Findings of the failure watch for a run with recorded gradient norms: where gradients vanished, if anywhere.

    `nothing_learnt` is the loss of a model that ignores its input: the entropy of the training labels in nats, or
    their variance for regression. `at_end`: gradients had vanished at the last check, so the run has probably failed.
    """

    nothing_learnt: float
    looks: Int64
    first: VanishingGradients | None
    last: VanishingGradients | None
    at_end: bool


class RunRecord(IdentifiedRecord):
    """The outcome of a run; the only input of tables and figures.

    `arm`, `recipe` and `report`, the checkpoint whose score the arm reports, are those of the sweep that made it.
    A `paused` run waits at a checkpoint until all runs of its setting can be ranked. The lowest are then early-stopped
    (`stopped`) and the others resumed. Paused and stopped runs have no scores.
    """

    arm: str
    recipe: str
    status: Literal["finished", "crashed", "paused", "stopped"]
    reason: str | None  # why the run crashed, was stopped, or ended early because of its loss
    config: Annotated[RunConfig | CommandConfig, Field(union_mode="left_to_right")]  # the other class fails at once
    report: Checkpoint
    evals: tuple[EvalPoint, ...]
    last: Scores | None
    best: Scores | None
    # As judged when the run ended; reports judge again (`records.failure`), because the rule may have changed.
    failed: bool | None  # `last` score by the reported metric and split, compared with the chance level
    failed_by_accuracy: bool | None  # the same by accuracy, as defined in M sec. 3.2; None for regression
    steps: Int64
    skipped_steps: Int64
    data: DataRecord | None
    environment: Environment | None
    seconds: float
    peak_memory_bytes: Int64 | None  # GPU: of this run; CPU: of the process so far
    source: None = None  # always None; marks a run of this project, as opposed to an `ImportedRun`
    start: StartRecord | None = omitted_if_none()  # None: the pre-trained checkpoint
    data_notes: tuple[str, ...] | None = omitted_if_none()  # of `data.splits.check_rows`; None: nothing is odd
    stop: EarlyStopRecord | None = omitted_if_none()  # early-stopped runs only
    watch: FailureWatchRecord | None = omitted_if_none()  # None: gradient norms were not recorded
    commits: tuple[str, ...] | None = omitted_if_none()  # that trained it in turn, if more than one
    files: dict[str, str] | None = omitted_if_none()  # SHA-256 of those beside it; None: older, or a crash
    command: CommandOutcome | None = omitted_if_none()  # of a command alone, which has no evaluations and no steps
    decide: DecideRule | None = omitted_if_none()  # the rule of the sweep that made it, if it had one

    def score(self, checkpoint: Checkpoint, split: Split, metric: str) -> float | None:
        """Return one score as a fraction (NaN for a diverged run), or None if there is none."""
        return lookup_score(self.last if checkpoint == "last" else self.best, split, metric)

    @property
    def run_config(self) -> RunConfig:
        """The config of a run that is no command."""
        assert isinstance(self.config, RunConfig)
        return self.config

    @property
    def reported_score(self) -> float | None:
        """The score that tables show of the run in the arm that made it."""
        return self.score(self.report, self.config.reported_split, self.config.task.metric)


class ImportSource(RecordSection):
    """The file or log folder that results were imported from."""

    kind: Literal["csv", "json", "zhang-logs", "hf-trainer"]
    name: str  # without parent folders
    sha256: str  # of the file, or of the paths and contents of all files
    note: str | None = omitted_if_none()  # what the runs are, for reports


class ImportedEval(RecordSection):
    """One evaluation in an imported log."""

    step: Int64
    train_loss: float | None
    val_loss: float | None
    val: dict[str, float]


class ImportedScores(RecordSection):
    """The scores of one checkpoint of an imported run, as fractions."""

    step: Int64 | None
    val: dict[str, float]
    test: dict[str, float] | None


class ImportedRun(IdentifiedRecord):
    """An imported run by someone else. Its config is unknown, and no field is guessed.

    `arm` and `task` are the names given at import. One of `last` and `best` may be missing. `report` is the
    checkpoint that tables show.
    """

    arm: str
    task: str
    seed: Int64
    metric: str
    split: Split
    report: Checkpoint
    status: Literal["finished", "crashed"] = "finished"  # a crashed run has no scores
    evals: tuple[ImportedEval, ...] = ()
    last: ImportedScores | None
    best: ImportedScores | None
    failed: bool | None  # as judged at import; None: the chance level is not known
    baseline: float | None  # score of the best constant prediction, by `metric` on `split`
    steps: Int64 | None
    source: ImportSource
    rows: Int64 | None = omitted_if_none()  # of `split`
    digits: Int64 | None = omitted_if_none()  # compared with the chance level; None: an older record

    def score(self, checkpoint: Checkpoint, split: Split, metric: str) -> float | None:
        """Return one score as a fraction (NaN for a diverged run), or None if there is none."""
        return lookup_score(self.last if checkpoint == "last" else self.best, split, metric)

    @property
    def val_metric(self) -> str:
        """Metric of the validation scores: the reported one if present, otherwise the first one that is."""
        known = [name for scores in (self.last, self.best) if scores for name in scores.val]
        return self.metric if self.metric in known or not known else known[0]


AnyRunRecord = RunRecord | ImportedRun


def lookup_score(scores: Scores | ImportedScores | None, split: Split, metric: str) -> float | None:
    """Return one score of a checkpoint, or None if there is none."""
    values = getattr(scores, split) if scores else None
    return values.get(metric) if values else None


def run_folder(results: Path, run_id: str) -> Path:
    """Return the folder of a run, which may not exist yet."""
    return results.joinpath("runs", run_id)


def _is_pipe_or_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode  # asked once: a file that another process removes in between is no device
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], None], size: int = 0) -> None:
    """Write `content` (bytes, or a function that writes to a file) atomically: readers see all of it or nothing.

    This also holds after a crash at any point. `size` in bytes must be free on the disk before anything is written.

    Raises:
        StorageError: The disk is full, read-only or gone.
        ClaimLostError: Another process has taken over this process's claim of the folder.
        UserError: `path` is a pipe or a device, which a file must not replace.
    """
    path = path.resolve() if path.is_symlink() else path  # of a link such as /dev/stdout, too
    if _is_pipe_or_device(path):
        raise UserError(f"{path}: this is a pipe or a device; give the name of a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with storage_faults(path, temporary):
        disk = shutil.disk_usage(path.parent) if size else None
        if disk and disk.total and disk.free < size:  # some network file systems tell neither
            free = f"{disk.free:,} ({format_bytes(disk.free)})"
            raise StorageError(f"{path} needs {size:,} bytes ({format_bytes(size)}), but its disk has {free} free")
        try:
            with open(temporary, "xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            check_claim(path.parent)  # only now: see `sweep.claims.claim_run`
            try:
                os.replace(temporary, path)
            except FileNotFoundError:  # whoever has taken over the claim removed it
                check_claim(path.parent)
                raise
        finally:
            with contextlib.suppress(OSError):  # of a disk that is gone; its first error says so
                temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush renames in `folder` to disk, so that they survive a power failure, if the OS supports it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def dump_record(record: RecordSection) -> str:
    """Return the record as one line of JSON with a checksum."""
    values = json.loads(record.model_dump_json(by_alias=True))  # `model_dump` would keep NaN, which is not valid JSON
    return canonical_json({**values, "checksum": _checksum(values)})


class RecordHeader(BaseModel):
    """The fields that tell the kind of a record; the others are ignored."""

    probe: str | None = None  # the kind of a probe record
    source: Any = None  # where an imported run comes from


def run_record_kind(line: str) -> type[AnyRunRecord] | None:
    """Return the class of the run record in a line, or None for a probe record, without checking the other fields.

    Raises:
        UserError: not a record.
    """
    try:
        header = RecordHeader.model_validate_json(line)
    except ValidationError:
        raise UserError("is not a complete record") from None
    return None if header.probe is not None else ImportedRun if header.source else RunRecord


def parse_record_as(kind: type[RecordT], line: str, brief: bool = False) -> RecordT:
    """Return the record of class `kind` in a line written by `dump_record`. With `brief` it may lack its evaluations.

    Raises:
        UserError: not a record of this kind, modified since it was written, or its config is that of another run.
    """
    record = _parse_unmodified(kind, line, brief)
    return _validate(kind, parse_checked_values(line)) if record is None else record


def _parse_unmodified(kind: type[RecordT], line: str, brief: bool = False) -> RecordT | None:
    """Return the record in a line that is byte for byte what `dump_record` wrote, otherwise None.

    This fast path takes a quarter of the time of full parsing. It hashes the line with the
    checksum cut out. If it cuts out a nested checksum instead, or the line is not a record of that kind, the caller
    falls back to full parsing.
    """
    text = _cut_checksum(line)
    if text is None:
        return None
    if brief:  # half the time goes into the evaluations
        text = EVALS_IN_RECORD.sub('"evals":[]', text, count=1)
    try:
        lifted = text if '"schema":' in text else to_json(_lift_schema_1(from_json(text)))
        record = kind.model_validate_json(lifted)
    except ValueError:  # pydantic's too
        return None
    return record if _config_id(record) == record.run_id else None


def _cut_checksum(line: str) -> str | None:
    """Return the text of which a line has the checksum, or None if that is not found or does not match."""
    before, _, after = line.rstrip("\n").partition(',"checksum":"')
    text = before + after[65:]
    matches = hashlib.sha256(text.encode(errors="replace")).hexdigest() == after[:64] and after[64:65] == '"'
    return text if matches else None


def check_line(line: str) -> None:
    """Compare the checksum of a line of any kind; raises like `parse_checked_values`, but parses no intact line."""
    if _cut_checksum(line) is None:
        parse_checked_values(line)


def parse_checked_values(line: str) -> dict:
    """Return the values in a line written by `dump_record`, for any kind of record, after checking its checksum.

    Raises:
        UserError: not a record, of a newer schema, or modified since it was written.
    """
    try:
        values = json.loads(line)
        checksum = values.pop("checksum")
        actual = _checksum(values)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise UserError("is not a complete record") from None
    if "schema" in values and values["schema"] != SCHEMA:
        raise UnknownSchemaError(
            f"has schema {values['schema']!r}, but this version of stableft reads 1 (without the key) and {SCHEMA}: "
            "read it with the version that wrote it"
        )
    if checksum != actual:
        raise UserError("does not match its checksum: it was truncated or edited by hand")
    return values


def convert_record(line: str) -> str:
    """Return the line of a record of any kind and schema as this version writes it; raises like `parse_record_as`."""
    values = parse_checked_values(line)
    values = values if "schema" in values else _lift_schema_1(values) | {"schema": SCHEMA}
    return canonical_json({**values, "checksum": _checksum(values)})


def _lift_schema_1(values: dict) -> dict:
    """Return the values of a record of schema 1 as one of today has them: `report` beside the config, not in it."""
    evaluation = look_up(values, "config.evaluation")
    return values | {"report": evaluation.pop("report")} if evaluation and "report" in evaluation else values


def _validate(kind: type[RecordT], values: dict) -> RecordT:
    try:
        record = kind.model_validate_json(json.dumps(values if "schema" in values else _lift_schema_1(values)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("RunConfig", "CommandConfig"))
        raise UserError(f"has {place}: {first['msg']}") from None
    if _config_id(record) != record.run_id:
        raise UserError(f"has run_id {record.run_id}, but its config is that of run {_config_id(record)}")
    return record


def _config_id(record: IdentifiedRecord) -> str:
    """Return the id that a record's config hashes to; imported runs and probe records have none but their own."""
    config = getattr(record, "config", None)
    return config.run_id if isinstance(config, RunConfig | CommandConfig | PretrainConfig) else record.run_id


def write_record(results: Path, record: RunRecord) -> None:
    """Write a record to its run folder atomically."""
    atomic_write(run_folder(results, record.run_id) / RECORD_FILE, (dump_record(record) + "\n").encode())


def read_record(results: Path, run_id: str, brief: bool = False) -> RunRecord | None:
    """Return the record of a run, or None if there is none. With `brief` it may lack its evaluations.

    Raises:
        UnknownSchemaError: a newer version wrote the record.
        UserError: the record is damaged, or belongs to another run; `set_aside` moves it out of the way.
    """
    return read_record_as(RunRecord, run_folder(results, run_id), brief)


def read_intact_record(results: Path, run_id: str) -> RunRecord | None:
    """Return the record of a run, or None if there is none or, with a warning, if it is damaged.

    Raises:
        UnknownSchemaError: a newer version wrote the record.
    """
    try:
        return read_record(results, run_id)
    except UnknownSchemaError:
        raise
    except UserError as error:
        logging.getLogger(__name__).warning(
            "%s: left out; the next `stableft sweep` with this run sets it aside and repeats the run", error
        )
        return None


def read_record_as(kind: type[RecordT], folder: Path, brief: bool = False) -> RecordT | None:
    """Return the record of class `kind` in a folder named after its id, or None; raises like `read_record`."""
    path = folder / RECORD_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a complete record") from None
    try:
        record = parse_record_as(kind, text, brief)
    except UserError as error:
        raise type(error)(f"{path} {error}") from None
    if record.run_id != folder.name:
        raise UserError(f"{path} is the record of another run, {record.run_id}")
    return record


def read_records_file(
    path: Path, probed: set[Path] | None = None, skip_damaged: bool = False
) -> Iterator[AnyRunRecord]:
    """Yield the run records in a JSON Lines file one at a time, skipping probe records.

    If the file has probe records, its path is added to `probed`; `probe_record.find_probes_in_files` reads them. With
    `skip_damaged`, damaged lines are left out with a warning.

    Raises:
        UserError: the file is missing, or a line is not a valid record; the message names file and line.
    """
    kind: type[AnyRunRecord] | None = RunRecord  # of the previous line; None: a probe record
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    # Most lines are of the same kind as the one before, which saves parsing their headers.
                    record = _parse_unmodified(kind, line) if kind else None
                    if record is None and (kind := run_record_kind(line)):
                        record = parse_record_as(kind, line)
                except UserError as error:
                    if not skip_damaged or isinstance(error, UnknownSchemaError):
                        raise UserError(f"{path}:{number} {error}") from None
                    logging.getLogger(__name__).warning("%s:%s %s: left out", path, number, error)
                    continue
                if record is not None:
                    yield record
                elif probed is not None:
                    probed.add(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such records file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path} is not a file of records in JSON Lines") from None


def write_records_file(path: Path, records: Iterable[IdentifiedRecord]) -> None:
    """Write one record per line, in the given order; `records` is consumed one at a time."""
    atomic_write(path, lambda file: file.writelines(f"{dump_record(record)}\n".encode() for record in records))


def _checksum(values: dict) -> str:
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()
