"""Text as rows to pre-train on: pairs of passages of the toy language, or files, a document packed into whole rows."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from stableft import toylang
from stableft.data import CHUNK, TextRows, cached, tokenize, tokenizer_hash
from stableft.errors import UserError
from stableft.plan import Sources
from stableft.pretrain.record import CorpusRecord
from stableft.pretrain.textfiles import read_documents, text_digest, text_files
from stableft.pretrain_config import PretrainConfig
from stableft.seeds import generator

CORPUS_FORMAT = "corpus 2"  # counted up when the same text would give other rows


@dataclass(frozen=True)
class Corpus:
    """Rows of tokens, and which of them (row numbers) train and are held out."""

    rows: TextRows
    train: np.ndarray
    held_out: np.ndarray
    record: CorpusRecord


def load_corpus(config: PretrainConfig, sources: Sources, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """Returns the rows of a pre-training. No row that is held out, nor one equal to it, is among those that train.

    Raises:
        UserError: the text cannot be read, has changed since the config was read, or is too little.
    """
    arrays = (
        _toy_rows(config, sources, tokenizer) if config.text.sha256 is None else _file_rows(config, sources, tokenizer)
    )
    *parts, document = arrays
    rows = TextRows(*parts)
    name = f"text {config.text.name!r}"
    documents = int(document[-1]) + 1 if len(document) else 0
    if documents < 2:
        raise UserError(
            f"{name}: it has {documents} documents, and at least one to train on and one to hold out are needed"
        )
    count = min(max(1, round(config.corpus.held_out * documents)), documents - 1)
    drawn = torch.randperm(documents, generator=generator(config.corpus.seed, "held_out")).numpy()[:count]
    is_held_out = np.isin(document, drawn)
    held_out = np.flatnonzero(is_held_out)
    train = _unlike(rows, np.flatnonzero(~is_held_out), held_out)
    if not len(train):
        raise UserError(f"{name}: every row that could be trained on is equal to one that is held out")
    return Corpus(rows, train, held_out, _record(rows, train, held_out, documents))


def _toy_rows(config: PretrainConfig, sources: Sources, tokenizer) -> tuple[np.ndarray, ...]:
    assert config.corpus.pairs
    columns = list(zip(*toylang.corpus(config.corpus.seed, config.corpus.pairs), strict=True))
    text = hashlib.sha256("\n".join("\n".join(column) for column in columns).encode()).hexdigest()
    key = [CORPUS_FORMAT, text, tokenizer_hash(tokenizer), config.max_length]
    arrays = cached(sources.cache_dir, key, lambda: tokenize(columns, tokenizer, config.max_length))
    return *arrays, np.arange(config.corpus.pairs)


def _file_rows(config: PretrainConfig, sources: Sources, tokenizer) -> tuple[np.ndarray, ...]:
    digest = config.text.sha256
    assert digest
    path = sources.paths[digest]
    if text_digest(path) != digest:
        raise UserError(f"text {config.text.name!r}: {path} has changed since the config was read")
    key = [CORPUS_FORMAT, digest, tokenizer_hash(tokenizer), config.max_length]
    return cached(sources.cache_dir, key, lambda: pack(read_documents(text_files(path)), tokenizer, config.max_length))


def pack(lines: Iterable[tuple[int, str]], tokenizer, max_length: int) -> tuple[np.ndarray, ...]:
    """Returns ids, segment ids, offsets and the document of each row, from (document, line) in order.

    The tokens of a document, its lines joined, are cut into rows of `max_length` with [CLS] and [SEP]; the last one
    may be shorter. No row has text of two documents.
    """
    ids, lengths, documents = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for chunk in _chunks(lines, CHUNK):
        encoded = tokenizer(
            [line for _, line in chunk],
            add_special_tokens=False,
            return_token_type_ids=False,
            return_attention_mask=False,
            verbose=False,  # it would warn of every line that is longer than a row
        )["input_ids"]
        ids.append(np.concatenate([np.array(line, dtype=np.int32) for line in encoded]))
        lengths.append(np.array([len(line) for line in encoded]))
        documents.append(np.array([document for document, _ in chunk]))
    sizes = np.bincount(np.concatenate(documents), np.concatenate(lengths)).astype(np.int64)
    sizes = sizes[sizes > 0]
    body = max_length - 2
    per_document = -(-sizes // body)
    document = np.repeat(np.arange(len(sizes)), per_document)
    row_lengths = np.full(len(document), body)
    row_lengths[np.cumsum(per_document) - 1] = sizes - (per_document - 1) * body
    offsets = np.concatenate([[0], np.cumsum(row_lengths + 2)]).astype(np.int64)
    packed = np.full(offsets[-1], -1, np.int32)
    packed[offsets[:-1]] = tokenizer.cls_token_id
    packed[offsets[1:] - 1] = tokenizer.sep_token_id
    packed[packed == -1] = np.concatenate(ids)
    return packed, np.zeros(len(packed), np.int8), offsets, document


def _chunks(items: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _unlike(rows: TextRows, candidates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the candidates whose tokens are those of none of the others."""

    def content(row: int) -> bytes:
        return rows.input_ids[rows.offsets[row] : rows.offsets[row + 1]].tobytes()

    taken = {content(row) for row in others}
    return candidates[[content(row) not in taken for row in candidates]]


def _record(rows: TextRows, train: np.ndarray, held_out: np.ndarray, documents: int) -> CorpusRecord:
    digest = hashlib.sha256()
    for array in (rows.input_ids, rows.segment_ids, rows.offsets, train, held_out):
        digest.update(np.ascontiguousarray(array).data)
    lengths = np.diff(rows.offsets)
    return CorpusRecord(
        fingerprint=digest.hexdigest(),
        documents=documents,
        train_rows=len(train),
        held_out_rows=len(held_out),
        train_tokens=int(lengths[train].sum()),
        held_out_tokens=int(lengths[held_out].sum()),
    )
