"""Tokenized rows: cached on disk by contents, held in memory as flat arrays, padded or packed per batch."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from stableft.catalog.tasks import TaskSpec, scored_metrics
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import DataConfig, RunConfig
from stableft.data.metrics import label_entropy, majority_baseline
from stableft.data.sources import RawSplit
from stableft.data.splits import check_rows, hash_texts, read_splits, rows_fingerprint
from stableft.errors import UserError
from stableft.pulse import PULSE
from stableft.records.run_record import DataRecord, atomic_write

TOKEN_CACHE_VERSION = 1  # to be incremented when the same inputs give different contents
TextColumns = Sequence[Sequence[str]]
TOKENIZE_CHUNK_ROWS = 10_000  # rows tokenized at once, to limit the memory for Python lists of ids
# Attention scores of one head that one more block of rows has to spare: those of 16 rows of 64 tokens. So a batch of no
# more, as in the demo, is never split: its scores are few, so little could be gained, and other blocks mean other
# dropout masks. (The calls for a block cost as much as a thousand scores only.) RTE's batches are split: an update of
# MiniLM with 16 rows took 1,056 to 1,130 ms of processor time on one thread, and 1,515 ms without blocks.
BLOCK_COST = 16 * 64**2


@dataclass(frozen=True)
class TokenizedRows:
    """Rows of tokens, concatenated: row i is `input_ids[offsets[i]:offsets[i + 1]]`."""

    input_ids: np.ndarray  # int32 [tokens]
    segment_ids: np.ndarray  # int8 [tokens]
    offsets: np.ndarray  # int64 [rows + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class LabeledRows(TokenizedRows):
    """Tokenized rows of one split, with their labels."""

    labels: np.ndarray  # [rows], int64 class ids or float32 values
    index: np.ndarray  # int64 [rows], row numbers in the source


@dataclass(frozen=True)
class Packing:
    """How to pack the rows of a batch one after another, without padding."""

    multiple: int  # filler tokens make the number of tokens a multiple of this
    first_position: int = 0  # position of a row's first token
    boundaries: bool = False  # attention takes boundaries between rows, instead of indices by which to pad its inputs
    blocks: bool = False  # rows of similar length are padded together, where that saves enough


@dataclass(frozen=True)
class InputLayout:
    """How a model's inputs are laid out: the padding, and whether there are segment ids."""

    pad_id: int
    pad_segment: int = 0
    left: bool = False  # pad on the left
    segments: bool = True  # the model takes token_type_ids
    full_mask: bool = True  # the model needs an attention mask even if there is no padding
    packing: Packing | None = None  # None: pad


@dataclass(frozen=True)
class Splits:
    """The rows of one run. `test` is None if the split rule has none (M reports on the dev set)."""

    train: LabeledRows
    val: LabeledRows
    test: LabeledRows | None
    record: DataRecord
    notes: tuple[str, ...] = ()  # of `check_rows`


def load_splits(config: RunConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """Return the tokenized rows of a run. `tokenizer` must be a fast one.

    Raises:
        UserError: The data cannot be loaded; the message names the file, line and rule.
    """
    key = hash_tokenizer(tokenizer)
    parts = read_splits(config, sources)
    tokens = {}
    for name, rows in parts.items():
        arrays = load_or_compute(
            sources.cache_dir,
            [TOKEN_CACHE_VERSION, hash_texts(rows), key, config.data.max_length],
            lambda rows=rows: tokenize(rows.texts, tokenizer, config.data.max_length),
        )
        tokens[name] = LabeledRows(*arrays, labels=rows.labels, index=rows.index)
    record, notes = _data_record(config.task, parts), check_rows(config, sources, parts)
    return Splits(tokens["train"], tokens["val"], tokens.get("test"), record, notes)


def collate(rows: LabeledRows, indices: np.ndarray, inputs: InputLayout, data: DataConfig) -> dict[str, torch.Tensor]:
    """Return a batch of these rows (see `pad_batch` and `pack_batch`) with their labels [rows].

    Without `data.segment_ids`, every token_type_id is 0, as in M's code. Without `inputs.full_mask`, a batch with no
    padding has no attention mask.
    """
    if inputs.packing:
        batch = pack_batch(rows, indices, inputs, inputs.packing, data.max_length)
    else:
        batch = pad_batch(rows, indices, inputs, data.max_length, data.pad_to_max)
        if not inputs.full_mask:
            drop_full_mask(batch)
    if inputs.segments and not data.segment_ids:
        batch["token_type_ids"].zero_()
    return batch | {"labels": torch.from_numpy(rows.labels[indices])}


def drop_full_mask(batch: dict[str, torch.Tensor]) -> None:
    """Remove the attention mask if it hides nothing. The batch is still on the CPU, so that no GPU has to answer."""
    if batch["attention_mask"].numpy().all():
        del batch["attention_mask"]


def pad_batch(
    rows: TokenizedRows, indices: np.ndarray, inputs: InputLayout, max_length: int, to_max: bool = False
) -> dict[str, torch.Tensor]:
    """Return a model's inputs for these rows, padded: int64 tensors [rows, width].

    The width is `max_length` if `to_max`, else the length of the longest row, rounded up to a multiple of 8.
    """
    starts = rows.offsets[indices]
    lengths = rows.offsets[indices + 1] - starts
    width = max_length if to_max else _padded_width(lengths, max_length)
    columns = np.arange(width)
    if inputs.left:
        columns = columns - (width - lengths)[:, None]
        mask = columns >= 0
    else:
        mask = columns < lengths[:, None]
    # Beyond the end of a row, these positions are in its neighbor, or clipped to the array. The mask replaces them.
    positions = starts[:, None] + columns
    batch = {
        "input_ids": np.where(mask, rows.input_ids.take(positions, mode="clip"), np.int64(inputs.pad_id)),
        "attention_mask": mask.astype(np.int64),
    }
    if inputs.segments:
        segments = rows.segment_ids.take(positions, mode="clip")
        batch["token_type_ids"] = np.where(mask, segments, np.int64(inputs.pad_segment))
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _padded_width(lengths: np.ndarray, max_length: int) -> int:
    # Multiples of 8 suit the GPU's tensor cores.
    return min(-(-int(lengths.max()) // 8) * 8, max_length)


def pack_batch(
    rows: TokenizedRows, indices: np.ndarray, inputs: InputLayout, packing: Packing, max_length: int
) -> dict[str, torch.Tensor]:
    """Return a model's inputs for these rows, packed: int64 tensors [1, tokens].

    `first_tokens` [rows] says where the rows begin. Rows of pad tokens follow, which fill the pack up. For attention,
    there are either `boundaries`, int32 [rows and fillers + 1], or indices for padding: `cells` [rows and fillers,
    width], the token for each cell; `visible`, where that is more than a stand-in; and `places` [tokens], the cell of
    each token. If rows are padded in several blocks, `cells` and `visible` are flat, and `blocks` [blocks, 2] has the
    number of rows and the width of each.
    """
    starts = rows.offsets[indices]
    lengths = rows.offsets[indices + 1] - starts
    real, width = int(lengths.sum()), max_length if packing.boundaries else _padded_width(lengths, max_length)
    # As many fillers as the longest fill needs, none empty: equal numbers of tokens and rows give tensors of one shape.
    fillers = -(-(packing.multiple - 1) // (width - 1))
    fill = fillers + -(real + fillers) % packing.multiple
    filler_lengths = fill // fillers + (np.arange(fillers) < fill % fillers)
    row_lengths = np.concatenate([lengths, filler_lengths])
    ends = np.cumsum(row_lengths)
    begins = ends - row_lengths
    columns = np.arange(ends[-1]) - np.repeat(begins, row_lengths)
    positions = np.repeat(starts, lengths) + columns[:real]
    batch = {
        "input_ids": np.full((1, real + fill), inputs.pad_id),
        "position_ids": columns[None] + packing.first_position,
        "first_tokens": begins[: len(indices)],
    }
    batch["input_ids"][0, :real] = rows.input_ids[positions]
    if inputs.segments:
        batch["token_type_ids"] = np.full((1, real + fill), inputs.pad_segment)
        batch["token_type_ids"][0, :real] = rows.segment_ids[positions]
    if packing.boundaries:
        batch["boundaries"] = np.concatenate([[0], ends]).astype(np.int32)
        return {name: torch.from_numpy(array) for name, array in batch.items()}
    blocks = _split_by_length(row_lengths, max_length) if packing.blocks else [(np.arange(len(row_lengths)), width)]
    visible = [np.arange(width) < row_lengths[block][:, None] for block, width in blocks]
    cells = [
        begins[block][:, None] + np.where(v, np.arange(v.shape[1]), 0)
        for (block, _), v in zip(blocks, visible, strict=True)
    ]
    if len(blocks) == 1:
        batch["visible"], batch["cells"] = visible[0], cells[0]
    else:
        batch["visible"], batch["cells"] = (np.concatenate([x.ravel() for x in parts]) for parts in (visible, cells))
        batch["blocks"] = np.array([v.shape for v in visible])
    batch["places"] = np.empty(real + fill, dtype=np.int64)
    batch["places"][batch["cells"][batch["visible"]]] = np.flatnonzero(batch["visible"])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _split_by_length(lengths: np.ndarray, max_length: int) -> list[tuple[np.ndarray, int]]:
    """Return blocks of rows with their padded widths that cost attention the least; one block keeps the rows' order."""
    order = np.argsort(-lengths, kind="stable")
    widths = np.array([_padded_width(lengths[i : i + 1], max_length) for i in order])
    squares = widths**2
    # costs[i]: the least for the rows from the i-th longest on; ends[i]: where the first block of these ends
    costs, ends = np.zeros(len(order) + 1, dtype=np.int64), np.zeros(len(order), dtype=np.int64)
    for i in reversed(range(len(order))):
        choices = BLOCK_COST + squares[i] * np.arange(1, len(order) - i + 1) + costs[i + 1 :]
        best = int(choices.argmin())
        costs[i], ends[i] = choices[best], i + 1 + best
    if ends[0] == len(order):
        return [(np.arange(len(order)), int(widths[0]))]
    blocks, i = [], 0
    while i < len(order):
        blocks.append((order[i : ends[i]], int(widths[i])))
        i = ends[i]
    return blocks


def _data_record(task: TaskSpec, parts: dict[str, RawSplit]) -> DataRecord:
    metrics = scored_metrics(task.metrics)
    return DataRecord(
        fingerprint=rows_fingerprint(parts),
        train_rows=len(parts["train"]),
        val_rows=len(parts["val"]),
        test_rows=len(parts["test"]) if "test" in parts else 0,
        label_entropy=label_entropy(parts["train"].labels),
        baselines={
            name: {metric: majority_baseline(rows.labels, metric) for metric in metrics} for name, rows in parts.items()
        },
    )


def tokenize(texts: TextColumns, tokenizer, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return token ids, segment ids and offsets of one or two text columns, as in `TokenizedRows`."""
    ids, segments, lengths = [], [], []
    for start in range(0, len(texts[0]), TOKENIZE_CHUNK_ROWS):
        PULSE.get_further("tokenizing its data")
        encoded = tokenizer(
            *(column[start : start + TOKENIZE_CHUNK_ROWS] for column in texts),
            truncation="longest_first",
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        ids.append(np.concatenate([np.array(row, dtype=np.int32) for row in encoded["input_ids"]]))
        segments.append(np.concatenate([np.array(row, dtype=np.int8) for row in encoded["token_type_ids"]]))
        lengths.extend(len(row) for row in encoded["input_ids"])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.concatenate(ids), np.concatenate(segments), offsets


def hash_tokenizer(tokenizer) -> str:
    """Return a SHA-256 of everything that determines which tokens a text becomes."""
    # Omit truncation and padding: each call sets them on the tokenizer, so they depend on what was called before.
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
    content = json.dumps([state, tokenizer.truncation_side], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def load_or_compute(folder: Path, key: list, compute: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Return the arrays stored under the key in the cache folder. If there are none, compute and store them.

    Raises:
        UserError: The folder is not writable.
    """
    path = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.tokens"
    arrays = _read_cache(path)
    if arrays is None:
        arrays = compute()
        _write_cache(path, arrays)
    return arrays


def _write_cache(path: Path, arrays: tuple[np.ndarray, ...]) -> None:
    file = io.BytesIO()
    np.savez(file, *arrays)
    content = file.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, hashlib.sha256(content).digest() + content)
    except OSError as error:
        raise UserError(f"the cache folder {path.parent} is not writable: {error.strerror}") from None


def _read_cache(path: Path) -> tuple[np.ndarray, ...] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        logging.getLogger(__name__).warning("%s does not match its checksum: it is made again", path)
        return None
    with np.load(io.BytesIO(content[32:]), allow_pickle=False) as file:
        return tuple(file[name] for name in file.files)
