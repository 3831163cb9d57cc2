"""Texts whose masked tokens a model is to find out: WikiText-2, a user's files, the toy language's held-out part."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from stableft.data import Inputs, TextRows, cached, pad, tokenizer_hash
from stableft.errors import UserError, nearest
from stableft.locate import shipped_configs
from stableft.plan import Sources
from stableft.pretrain.corpus import load_corpus, pack
from stableft.pretrain.file import load_pretraining
from stableft.pretrain.masking import Alphabet, Masked, mask
from stableft.pretrain.textfiles import read_documents, text_digest, text_files
from stableft.pretrain_config import MaskingConfig
from stableft.seeds import generator

TOY, WIKITEXT = "toy", "wikitext-2"
HUB = ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")  # repository, config, split
# DEVIATION: the paper says neither how it masks nor how it cuts the text; this is BERT's way, in rows of one article.
BERT_MASKING = MaskingConfig(share=0.15, masked=0.8, random=0.1)
ROWS_FORMAT = "probe 1"  # counted up when the same text would give other rows
MASKED_AT_ONCE = 4096  # rows, which bounds the memory of masks; the masks depend on it, so it is no option
TITLE = re.compile(r"= (?!=).*(?<!=) =")  # of an article of WikiText; sections have `= = Name = =`

Lines = Iterable[tuple[int, str]]  # number of the document, line


@dataclass(frozen=True)
class ProbeText:
    """A text as rows of tokens, `order` giving the rows that count, the longest first, and how it is masked."""

    name: str  # without the folders above it
    sha256: str  # of the file or folder; of the rows if it is the toy language's
    rows: TextRows
    order: np.ndarray
    masking: MaskingConfig

    @property
    def tokens(self) -> int:
        """How many there are, with [CLS] and [SEP]."""
        return int(np.diff(self.rows.offsets)[self.order].sum())


def load_text(name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, sources: Sources) -> ProbeText:
    """Returns the text of `--text`: a file or folder, "toy" or "wikitext-2", in rows of at most `max_length` tokens.

    A text is packed and masked as BERT's pre-training does; the toy language's held-out rows as its own does.

    Raises:
        UserError: there is no such text, it is not UTF-8, or the hub cannot be reached.
    """
    if name == TOY:
        return _toy_text(tokenizer, max_length, sources)
    if name == WIKITEXT:
        lines = _hub_lines()
        documents = _articles([(0, text) for line in lines if (text := line.strip())], tokenizer)
        return _packed(name, _digest(lines), documents, tokenizer, max_length, sources)
    path = Path(name).expanduser()
    if not path.exists():
        close = nearest(name, (TOY, WIKITEXT))
        raise UserError(f"--text {name!r}: there is no such file or folder, nor is it {TOY} or {WIKITEXT}{close}")
    files = text_files(path)
    if not files:
        raise UserError(f"--text {name!r}: the folder holds no files")
    label, digest = path.resolve().name, text_digest(path)
    return _packed(label, digest, _documents(files, tokenizer), tokenizer, max_length, sources)


def masked_parts(text: ProbeText, inputs: Inputs, letters: Alphabet, max_length: int, seed: int) -> Iterator[Masked]:
    """Yields all rows, so many at once, with their masks: a function of the text's tokens and the seed alone.

    The first masks are those that pre-training draws for its held-out rows from the same seed.
    """
    random = generator(seed, "held_out_masks")
    for start in range(0, len(text.order), MASKED_AT_ONCE):
        batch = pad(text.rows, text.order[start : start + MASKED_AT_ONCE], inputs, max_length)
        yield mask(batch, letters, text.masking, random)


def _toy_text(tokenizer: PreTrainedTokenizerBase, max_length: int, sources: Sources) -> ProbeText:
    plan = load_pretraining(shipped_configs() / "pretrain" / "toy.yaml", sources)
    config = plan.config.model_copy(update={"max_length": max_length})
    corpus = load_corpus(config, sources, tokenizer)
    return ProbeText(
        TOY, corpus.record.fingerprint, corpus.rows, _longest_first(corpus.rows, corpus.held_out), config.masking
    )


def _packed(
    name: str,
    digest: str,
    documents: Lines,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    sources: Sources,
) -> ProbeText:
    key = [ROWS_FORMAT, digest, tokenizer_hash(tokenizer), max_length]
    *arrays, _ = cached(sources.cache_dir, key, lambda: pack(documents, tokenizer, max_length))
    rows = TextRows(*arrays)
    return ProbeText(name, digest, rows, _longest_first(rows, np.arange(len(rows))), BERT_MASKING)


def _longest_first(rows: TextRows, chosen: np.ndarray) -> np.ndarray:
    return chosen[np.argsort(-np.diff(rows.offsets)[chosen], kind="stable")]


def _documents(files: Sequence[Path], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yields the lines of files, whose documents are numbered through."""
    first = 0
    for file in files:
        last = first
        for document, line in _articles(list(read_documents([file])), tokenizer):
            last = first + document
            yield last, line
        first = last + 1


def _articles(lines: Sequence[tuple[int, str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file; where it is laid out as WikiText is, a document is an article.

    The tokenised WikiText has <unk> for rare words: it becomes the tokenizer's unknown token, which no model has to
    find out; the raw one, which the hub's is, has the words. Both keep WikiText's own ` @-@ ` and ` , `.
    """
    if not lines or not TITLE.fullmatch(lines[0][1]):
        yield from lines
        return
    article, unknown = 0, str(tokenizer.unk_token or "<unk>")
    for _, line in lines:
        article += TITLE.fullmatch(line) is not None
        yield article, line.replace("<unk>", unknown)


def _hub_lines() -> list[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    repository, config, split = HUB
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell of each of its attempts
    try:
        return load_dataset(repository, config, split=split)["text"][:]
    except (OSError, ValueError, HfHubHTTPError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--text {WIKITEXT} cannot be loaded from the hub as {repository} ({config}, {split}): {reason}; the other "
            "way is --text FILE with the benchmark's test file, or any text"
        ) from None


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
