"""Read the raw rows of a task: from the hub, original GLUE files, a user's own files, or the toy language."""

import fnmatch
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.catalog.tasks import FolderLayout, TaskSpec
from stableft.config.local_files import PICKLED_WEIGHTS, WEIGHT_PATTERNS, locate_model
from stableft.config.run_config import CustomTask
from stableft.data import toy_language as toylang
from stableft.errors import UserError, did_you_mean, storage_error
from stableft.records.csv_table import CsvFormat, SourceRow, open_csv_rows, open_text, split_unquoted_rows
from stableft.records.import_json import parse_json
from stableft.records.import_values import NUMBER_PATTERN, Place, quote
from stableft.transient import is_transient, retrying

SourceSplit = Literal["train", "dev"]
MAX_FLOAT32 = float(np.finfo(np.float32).max)
# What to do where the hub cannot be reached: in a sweep, and in `stableft data fetch` itself.
DATA_ADVICE = "give a folder of the original files with --data-dir, or run `stableft data fetch` with network access"
FETCH_ADVICE = (
    "`stableft data fetch` needs the network: run it where there is one and copy the hub's cache (the folder HF_HOME) "
    "here, or give sweeps "
)


@dataclass(frozen=True)
class RawSplit:
    """Rows of one split."""

    texts: tuple[list[str], ...]  # one list per text column
    labels: np.ndarray  # int64 class ids, or float32 values
    index: np.ndarray  # int64 row numbers in the source

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "RawSplit":
        """Return the rows at these positions, in this order."""
        return RawSplit(tuple([text[i] for i in rows] for text in self.texts), self.labels[rows], self.index[rows])


def read_raw_split(task: TaskSpec, part: SourceSplit, data_dir: Path | None) -> RawSplit:
    """Return a split of a task: generated for a toy task, else read from `data_dir`, or from the hub if it is None.

    Raises:
        UserError: A file is missing, its contents do not fit the task, or the hub cannot be reached.
    """
    if task.generated:
        texts, labels = toylang.make_toy_rows(task.name, part)
        return _build_raw_split(task.name, tuple(list(column) for column in zip(*texts, strict=True)), labels, task)
    return read_from_hub(task, part) if data_dir is None else read_from_folder(task, part, data_dir)


def find_layouts(task: TaskSpec, part: SourceSplit, data_dir: Path) -> list[FolderLayout]:
    """Return the layouts whose file for `part` exists. None exists if the split is not available.

    Raises:
        UserError: `data_dir` is not a folder.
    """
    if not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir} is not a folder")
    return [layout for layout in task.layouts if (data_dir / getattr(layout, part)).is_file()]


def read_from_folder(task: TaskSpec, part: SourceSplit, data_dir: Path) -> RawSplit:
    """Return a split read from original files, in their order."""
    layouts = find_layouts(task, part, data_dir)
    if not layouts:
        expected = " or ".join(dict.fromkeys(str(data_dir / getattr(layout, part)) for layout in task.layouts))
        raise UserError(f"the {part} file of {task.title} is missing: there is no {expected}")
    path = data_dir / getattr(layouts[0], part)
    rows = _unquoted_rows(path)
    header = layouts[0].columns
    if header is None:
        if not rows:
            raise UserError(f"{path}: the file is empty")
        header = tuple(rows.pop(0)[1])
        fitting = (layout for layout in layouts if {*layout.text, layout.label} <= set(header))
        layouts = [next(fitting, layouts[0])]
    layout = layouts[0]
    if layout.dev_ids:
        rows = _select_by_dev_ids(rows, path, header, layout, part, data_dir)
    return _parse_split(path, rows, header, layout.text, layout.label, task, layout.skips_short_rows)


def read_custom_file(task: TaskSpec, own: CustomTask, digest: str, paths: dict[str, Path]) -> RawSplit:
    """Return the rows of a user's own file, identified by the SHA-256 of its contents.

    CSV (quoted as usual) and TSV (never quoted) have a header; JSONL has one object per line.
    """
    if digest not in paths:
        raise UserError(f"task {task.name!r}: the path of the data file with SHA-256 {digest} is not known")
    path = paths[digest]
    if hashlib.sha256(_read_bytes(path)).hexdigest() != digest:
        raise UserError(f"{path}: the file has changed since the sweep was read")
    if own.format == "jsonl":
        columns = (*own.text, own.label)
        return _parse_split(path, _jsonl_rows(path, columns), columns, own.text, own.label, task)
    quoted = own.format == "csv"
    with open_csv_rows(path, CsvFormat("," if quoted else "\t", quoted=quoted, fixed=True)) as (names, rows):
        return _parse_split(path, rows, tuple(names), own.text, own.label, task)


def read_from_hub(task: TaskSpec, part: SourceSplit, advice: str = DATA_ADVICE) -> RawSplit:
    """Return a split read from the hub or its local cache.

    Labels are mapped by name, because the hub's class ids may differ from ours. `advice` ends the sentence of an error.

    Raises:
        UserError: The hub cannot be reached and the data set is not in the local cache.
    """
    hub = task.hub
    assert hub is not None
    name = "train" if part == "train" else hub.dev
    place = f"{hub.repository} ({hub.config}, {name})"
    data = _load_hub_dataset(task, name, advice)
    columns = (*(hub.text or task.text), hub.label)
    for column in columns:
        if column not in data.column_names:
            raise UserError(f"{place}: there is no column {column!r}{did_you_mean(column, data.column_names)}")
    *texts, labels = (data[column][:] for column in columns)
    for column, text in zip(columns, texts, strict=False):
        if None in text:
            raise UserError(f"{place}, row {text.index(None) + 1}: {column!r} is empty")
    names = getattr(data.features[hub.label], "names", None)
    if names is not None:
        if -1 in labels:
            raise UserError(f"{place}, row {labels.index(-1) + 1}: the row has no label (-1)")
        labels = [names[i] for i in labels]
    values = [_parse_label(f"{place}, row {row}", str(label), task) for row, label in enumerate(labels, 1)]
    return _build_raw_split(place, tuple(texts), values, task)


def _load_hub_dataset(task: TaskSpec, name: str, advice: str):
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    hub = task.hub
    assert hub is not None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log every retry
    try:
        return load_dataset(hub.repository, hub.config, split=name, trust_remote_code=False)
    except (OSError, ValueError, HfHubHTTPError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise storage_error(error, Path(config.HF_DATASETS_CACHE)) or UserError(
            f"{task.title} cannot be loaded from the hub as {hub.repository} ({hub.config}, {name}): {reason}; {advice}"
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(error, path) or UserError(f"{path} cannot be read: {error.strerror}") from None


def _unquoted_rows(path: Path) -> list[SourceRow]:
    with open_text(path) as file:
        return list(split_unquoted_rows(file))


def _jsonl_rows(path: Path, columns: tuple[str, ...]) -> Iterator[SourceRow]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parse_object(Place(path, number), line, columns)


class JsonNumber(str):
    """A number as it is written."""

    __slots__ = ()


def _parse_object(place: Place, line: str, columns: tuple[str, ...]) -> list[str]:
    values = parse_json(place, line, JsonNumber)
    if not isinstance(values, dict):
        raise UserError(f"{place}: the line must be a JSON object with the keys {', '.join(columns)}")
    fields = []
    for column in columns:
        if column not in values:
            raise UserError(f"{place}: there is no key {column!r}{did_you_mean(column, values)}")
        value = values[column]
        is_label = column == columns[-1]
        if not isinstance(value, (str, bool) if is_label else str) or (isinstance(value, JsonNumber) and not is_label):
            rule = "a string or a number" if is_label else "a string"
            written = value if isinstance(value, JsonNumber) else json.dumps(value)
            raise UserError(f"{place}: {column!r} must be {rule}, not {written}")
        fields.append(value if isinstance(value, str) else json.dumps(value))
    return fields


def _select_by_dev_ids(
    rows: list[SourceRow],
    path: Path,
    header: tuple[str, ...],
    layout: FolderLayout,
    part: SourceSplit,
    data_dir: Path,
) -> list[SourceRow]:
    # Like GLUE's download script, which makes train.tsv and dev.tsv from Microsoft's file.
    assert layout.dev_ids is not None
    assert layout.id_columns is not None
    ids_path = data_dir / layout.dev_ids
    if not ids_path.is_file():
        raise UserError(f"{ids_path} is missing: it lists which rows of {path} form the dev set")
    dev_ids = {tuple(fields) for _, fields in _unquoted_rows(ids_path)}
    positions = [_column_position(path, header, column) for column in layout.id_columns]
    # Keep a row that is too short for its ids, so that parsing reports it.
    return [
        (number, fields)
        for number, fields in rows
        if len(fields) <= max(positions) or (tuple(fields[i] for i in positions) in dev_ids) == (part == "dev")
    ]


def _column_position(path: Path, header: tuple[str, ...], column: str) -> int:
    if column not in header:
        raise UserError(f"{path}:1: there is no column {column!r} in the header{did_you_mean(column, header)}")
    if header.count(column) > 1:
        raise UserError(f"{path}:1: the header has {header.count(column)} columns {column!r}")
    return header.index(column)


def _parse_split(
    path: Path,
    rows: Iterable[SourceRow],
    header: tuple[str, ...],
    text: tuple[str, ...],
    label: str,
    task: TaskSpec,
    skips_short_rows: bool = False,
) -> RawSplit:
    text_positions = [_column_position(path, header, column) for column in text]
    label_position = _column_position(path, header, label)
    texts = tuple([] for _ in text)
    values = []
    for number, fields in rows:
        if len(fields) != len(header):
            if len(fields) < len(header) and skips_short_rows:
                continue
            raise UserError(f"{path}:{number}: the row has {len(fields)} fields, but {len(header)} are expected")
        values.append(_parse_label(f"{path}:{number}", fields[label_position], task))
        for column, position in zip(texts, text_positions, strict=True):
            column.append(fields[position])
    return _build_raw_split(str(path), texts, values, task)


def _parse_label(place: str, value: str, task: TaskSpec) -> int | float:
    if task.is_regression:
        digits = value.strip()
        if not NUMBER_PATTERN.fullmatch(digits):
            raise UserError(f"{place}: label {quote(value)} is not a number")
        if abs(number := float(digits)) > MAX_FLOAT32:
            raise UserError(
                f"{place}: label {quote(value)} is beyond the range of float32, which ends at {MAX_FLOAT32:.4g}"
            )
        return number
    name = task.aliases.get(value, value)
    if name not in task.labels:
        known = (*task.labels, *task.aliases)
        raise UserError(f"{place}: label {quote(value)} is not one of {', '.join(known)}{did_you_mean(value, known)}")
    return task.labels.index(name)


def _build_raw_split(place: str, texts: tuple[list[str], ...], values: list, task: TaskSpec) -> RawSplit:
    if not values:
        raise UserError(f"{place}: there are no data rows")
    labels = np.array(values, dtype=np.float32 if task.is_regression else np.int64)
    return RawSplit(texts, labels, np.arange(len(labels)))


NON_WEIGHT_PATTERNS = ("*.json", "*.txt", "*.model")


@retrying
def fetch_model_file(name: str, revision: str | None, file: str) -> str:
    """Return the path of a file of a hub model. Download the file if it is not in the cache.

    Raises:
        UserError: The file is not in the cache and the hub cannot be reached, or the hub has no such model.
    """
    from huggingface_hub import hf_hub_download

    advice = f"give a folder with --set model=FOLDER, or run `stableft data fetch --model {name}` with network access"
    with _hub_errors_explained(name, advice):
        return hf_hub_download(name, file, revision=revision)


def find_model_commit(name: str, revision: str | None) -> str:
    """Return the commit that a hub model's revision names now: on the hub, or in its cache if that is out of reach.

    Raises:
        UserError: As in `fetch_model_file`.
    """
    # The cache keeps the files of a commit in models--<name>/snapshots/<commit>.
    return Path(fetch_model_file(name, revision, "config.json")).parent.name


@retrying
def fetch_model(name: str) -> str | None:
    """Download a hub model (name or name@revision) into the local cache: its weights in one format and its tokenizer.

    Return a sentence if the weights are a pickle, because the repository has no others.

    Raises:
        UserError: The hub cannot be reached, or it has no such model, or no weights of it that can be read.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    settings, folder = locate_model(name, (), "data fetch")
    assert folder is None
    repository, revision = settings["name"], settings["revision"]
    with _hub_errors_explained(name, f"{FETCH_ADVICE}a folder with --set model=FOLDER"):
        files = list_repo_files(repository, revision=revision)
        # Many repositories have both, and more.
        weights = next((pattern for pattern in WEIGHT_PATTERNS if fnmatch.filter(files, pattern)), None)
        if weights is None:
            raise UserError(
                f"data fetch: model {name} has no safetensors and no pytorch_model.bin, so it has no weights to read"
            )
        snapshot_download(repository, revision=revision, allow_patterns=[*NON_WEIGHT_PATTERNS, weights])
    if weights != PICKLED_WEIGHTS:
        return None
    return (
        f"model {name}: its repository has no safetensors, only a pickle, which can run code when it is read: a sweep "
        "reads it with --allow-pickle alone"
    )


@retrying
def fetch_task(task: TaskSpec) -> None:
    """Download a task's data into the local cache.

    Raises:
        UserError: The hub cannot be reached, or the task is generated.
    """
    if task.hub is None:
        raise UserError(f"data fetch: task {task.name} is generated locally; there is nothing to download")
    for part in ("train", "dev"):
        read_from_hub(task, part, f"{FETCH_ADVICE}the original files with --data-dir")


@contextmanager
def _hub_errors_explained(name: str, advice: str):
    """Turn exceptions of the hub's client into a UserError, and silence its log. `advice` is for want of a network."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except (LocalEntryNotFoundError, ConnectionError):
        raise UserError(f"model {name!r}: the hub cannot be reached and there is no cached copy; {advice}") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        what = "the hub does not answer" if is_transient(error) else "the hub has no such model"
        raise storage_error(error, Path(HF_HUB_CACHE)) or UserError(
            f"model {name!r}: {what}: {' '.join(str(error).split())[:200]}"
        ) from None
