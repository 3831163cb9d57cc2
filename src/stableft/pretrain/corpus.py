"""Pre-training rows: passages of the toy language, or documents of text files packed into blocks; vocabularies."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stableft.config.local_files import file_digest
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import PretrainConfig
from stableft.data import toy_language as toylang
from stableft.data.tokens import TOKENIZE_CHUNK_ROWS, TokenizedRows, hash_tokenizer, load_or_compute, tokenize
from stableft.errors import UserError
from stableft.pretrain.record import CorpusRecord
from stableft.seeds import make_generator

CORPUS_FORMAT = "corpus 2"  # increased when the same text would give different rows


@dataclass(frozen=True)
class Corpus:
    """Rows of tokens, and the indices of training and held-out rows."""

    rows: TokenizedRows
    train: np.ndarray
    held_out: np.ndarray
    record: CorpusRecord


def load_corpus(config: PretrainConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """Return the rows of a pre-training. Training rows equal to a held-out row are dropped.

    Raises:
        UserError: the text cannot be read, has changed since the config was read, or is too short.
    """
    arrays = (
        _toy_rows(config, sources, tokenizer) if config.text.sha256 is None else _file_rows(config, sources, tokenizer)
    )
    *fields, document_of_row = arrays
    rows = TokenizedRows(*fields)
    name = f"text {config.text.name!r}"
    documents = int(document_of_row[-1]) + 1 if len(document_of_row) else 0
    if documents < 2:
        raise UserError(
            f"{name}: it has {documents} documents, but at least one to train on and one to hold out are needed"
        )
    count = min(max(1, round(config.corpus.held_out * documents)), documents - 1)
    drawn = torch.randperm(documents, generator=make_generator(config.corpus.seed, "held_out")).numpy()[:count]
    is_held_out = np.isin(document_of_row, drawn)
    held_out = np.flatnonzero(is_held_out)
    train = _drop_equal_rows(rows, np.flatnonzero(~is_held_out), held_out)
    if not len(train):
        raise UserError(f"{name}: every training row is equal to a held-out row")
    return Corpus(rows, train, held_out, _make_record(rows, train, held_out, documents))


def _toy_rows(config: PretrainConfig, sources: LocalPaths, tokenizer) -> tuple[np.ndarray, ...]:
    assert config.corpus.pairs
    columns = list(zip(*toylang.make_toy_corpus(config.corpus.seed, config.corpus.pairs), strict=True))
    text = hashlib.sha256("\n".join("\n".join(column) for column in columns).encode()).hexdigest()
    key = [CORPUS_FORMAT, text, hash_tokenizer(tokenizer), config.max_length]
    fields = load_or_compute(sources.cache_dir, key, lambda: tokenize(columns, tokenizer, config.max_length))
    return *fields, np.arange(config.corpus.pairs)


def _file_rows(config: PretrainConfig, sources: LocalPaths, tokenizer) -> tuple[np.ndarray, ...]:
    digest = config.text.sha256
    assert digest
    path = sources.paths[digest]
    if text_digest(path) != digest:
        raise UserError(f"text {config.text.name!r}: {path} has changed since the config was read")
    key = [CORPUS_FORMAT, digest, hash_tokenizer(tokenizer), config.max_length]
    return load_or_compute(
        sources.cache_dir,
        key,
        lambda: pack_documents(read_documents(list_text_files(path)), tokenizer, config.max_length),
    )


def pack_documents(lines: Iterable[tuple[int, str]], tokenizer, max_length: int) -> tuple[np.ndarray, ...]:
    """Return ids, segment ids, offsets and the document of each row, from (document, line) pairs in order.

    The tokens of a document are split into rows of `max_length`, including [CLS] and [SEP]; the last row may be
    shorter. No row has text of two documents.
    """
    ids, lengths, documents = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for chunk in _split_into_chunks(lines, TOKENIZE_CHUNK_ROWS):
        encoded = tokenizer(
            [line for _, line in chunk],
            add_special_tokens=False,
            return_token_type_ids=False,
            return_attention_mask=False,
            verbose=False,  # it would warn about every line longer than a row
        )["input_ids"]
        ids.append(np.concatenate([np.array(line, dtype=np.int32) for line in encoded]))
        lengths.append(np.array([len(line) for line in encoded]))
        documents.append(np.array([document for document, _ in chunk]))
    document_lengths = np.bincount(np.concatenate(documents), np.concatenate(lengths)).astype(np.int64)
    document_lengths = document_lengths[document_lengths > 0]
    tokens_per_row = max_length - 2  # without [CLS] and [SEP]
    rows_per_document = -(-document_lengths // tokens_per_row)
    document_of_row = np.repeat(np.arange(len(document_lengths)), rows_per_document)
    row_lengths = np.full(len(document_of_row), tokens_per_row)
    row_lengths[np.cumsum(rows_per_document) - 1] = document_lengths - (rows_per_document - 1) * tokens_per_row
    offsets = np.concatenate([[0], np.cumsum(row_lengths + 2)]).astype(np.int64)
    packed = np.full(offsets[-1], -1, np.int32)
    packed[offsets[:-1]] = tokenizer.cls_token_id
    packed[offsets[1:] - 1] = tokenizer.sep_token_id
    packed[packed == -1] = np.concatenate(ids)
    return packed, np.zeros(len(packed), np.int8), offsets, document_of_row


def _split_into_chunks(items: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _drop_equal_rows(rows: TokenizedRows, candidates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the candidates that are not equal to any of the other rows."""

    def content(row: int) -> bytes:
        return rows.input_ids[rows.offsets[row] : rows.offsets[row + 1]].tobytes()

    excluded = {content(row) for row in others}
    return candidates[[content(row) not in excluded for row in candidates]]


def _make_record(rows: TokenizedRows, train: np.ndarray, held_out: np.ndarray, documents: int) -> CorpusRecord:
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


DOCUMENT_TAG = re.compile(r"</?doc\b[^>]*>")  # WikiExtractor's


def list_text_files(path: Path) -> list[Path]:
    """Return the file itself, or all files of a folder at any depth in the order of their names, except hidden ones."""
    if path.is_file():
        return [path]
    found = [
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    return [file for _, file in sorted(found)]


def text_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or one over the names and contents of all text files of a folder."""
    if path.is_file():
        return file_digest(path)
    lines = [f"{file_digest(file)}  {file.relative_to(path).as_posix()}\n" for file in list_text_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_documents(files: Iterable[Path]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with the number of its document.

    A document ends at the end of its file and at a `<doc ...>` or `</doc>` line. In files without such lines, a blank
    line ends a document too (WikiExtractor puts one after each title).

    Raises:
        UserError: a file is not UTF-8 text.
    """
    document = 0
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"text: {file} is not UTF-8 text (byte {error.start})") from None
        tagged = any(DOCUMENT_TAG.fullmatch(line.strip()) for line in lines)
        document += 1
        for line in lines:
            text = line.strip()
            if DOCUMENT_TAG.fullmatch(text) if tagged else not text:
                document += 1
            elif text:
                yield document, text


SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def load_pretraining_tokenizer(config: PretrainConfig, paths: Mapping[str, Path]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a pre-training; `paths` maps hashes to files and folders.

    Raises:
        UserError: it cannot be read, or lacks a special token.
    """
    origin = config.vocabulary
    return build_tokenizer(origin.name, paths[origin.sha256] if origin.sha256 else None, config.max_length)


def build_tokenizer(name: str, path: Path | None, max_length: int) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a vocab.txt or of a folder with a tokenizer.json. `path` None: the toy language's.

    Raises:
        UserError: it cannot be read, or lacks a special token.
    """
    if path is None:
        tokenizer = _build_word_level(toylang.toy_vocabulary())
    elif path.is_dir():
        tokenizer = _load_tokenizer_folder(name, path)
    else:
        tokenizer = BertTokenizer(vocab=_read_word_pieces(name, path), do_lower_case=True)
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise UserError(f"vocabulary {name!r} has only special tokens")
    if max(tokenizer.get_vocab().values()) >= len(tokenizer):
        raise UserError(f"vocabulary {name!r}: its {len(tokenizer)} entries are not numbered from 0 without gaps")
    tokenizer.model_max_length = max_length
    return tokenizer


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that are neither masked nor used as replacements."""
    return sorted(set(tokenizer.all_special_ids))


def _build_word_level(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    entries = {word: i for i, word in enumerate((*SPECIAL_TOKENS.values(), *words))}
    cls, sep = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    backend = Tokenizer(models.WordLevel(entries, unk_token=SPECIAL_TOKENS["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, entries[token]) for token in (cls, sep)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **SPECIAL_TOKENS)


def _read_word_pieces(name: str, path: Path) -> dict[str, int]:
    try:
        pieces = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {name!r}: it is not UTF-8 text (byte {error.start})") from None
    entries: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        if not piece or piece in entries:
            what = f"{piece!r} is already in line {entries[piece] + 1}" if piece in entries else "the line is empty"
            raise UserError(f"vocabulary {name!r}, line {number}: {what}; a vocabulary has one WordPiece per line")
        entries[piece] = number - 1
    for token in SPECIAL_TOKENS.values():
        if token not in entries:
            raise UserError(f"vocabulary {name!r} has no {token}, which BERT's vocabularies have")
    return entries


def _load_tokenizer_folder(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions for a damaged file
        reason = " ".join(str(error).split()).split(". ")[0]
        raise UserError(f"vocabulary {name!r}: the tokenizer of this folder cannot be loaded: {reason}") from None
    missing = [token for token in SPECIAL_TOKENS if getattr(tokenizer, token) is None]
    if missing:
        raise UserError(f"vocabulary {name!r}: its tokenizer has no {missing[0]}")
    return tokenizer
