"""Tokenizers to pre-train with: the toy language's words, BERT's WordPiece from a vocab.txt, or one that is there."""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stableft import toylang
from stableft.errors import UserError
from stableft.pretrain_config import PretrainConfig

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def vocabulary_of(config: PretrainConfig, paths: Mapping[str, Path]) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a pre-training, whose file or folder is in `paths` by its hash.

    Raises:
        UserError: it cannot be read, or lacks a special token.
    """
    origin = config.vocabulary
    return load_vocabulary(origin.name, paths[origin.sha256] if origin.sha256 else None, config.max_length)


def load_vocabulary(name: str, path: Path | None, max_length: int) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a vocab.txt or of a folder with a tokenizer.json, without `path` the toy language's.

    Raises:
        UserError: it cannot be read, or lacks a special token.
    """
    if path is None:
        tokenizer = _word_level(toylang.words())
    elif path.is_dir():
        tokenizer = _stored(name, path)
    else:
        tokenizer = BertTokenizer(vocab=_word_pieces(name, path), do_lower_case=True)
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise UserError(f"vocabulary {name!r} has special tokens only, and no word")
    if max(tokenizer.get_vocab().values()) >= len(tokenizer):
        raise UserError(f"vocabulary {name!r}: its {len(tokenizer)} entries are not numbered from 0 without a gap")
    tokenizer.model_max_length = max_length
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the ids that are neither masked nor put in place of others."""
    return sorted(set(tokenizer.all_special_ids))


def _word_level(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    entries = {word: i for i, word in enumerate((*SPECIAL.values(), *words))}
    cls, sep = SPECIAL["cls_token"], SPECIAL["sep_token"]
    backend = Tokenizer(models.WordLevel(entries, unk_token=SPECIAL["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, entries[token]) for token in (cls, sep)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **SPECIAL)


def _word_pieces(name: str, path: Path) -> dict[str, int]:
    try:
        pieces = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {name!r}: it is not UTF-8 text (byte {error.start})") from None
    entries: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        if not piece or piece in entries:
            what = f"{piece!r} stands already in line {entries[piece] + 1}" if piece in entries else "the line is empty"
            raise UserError(f"vocabulary {name!r}, line {number}: {what}; a vocabulary has one WordPiece a line")
        entries[piece] = number - 1
    for token in SPECIAL.values():
        if token not in entries:
            raise UserError(f"vocabulary {name!r} has no {token}, which BERT's vocabularies have")
    return entries


def _stored(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # the tokenizers library raises bare exceptions for a damaged file
        reason = " ".join(str(error).split()).split(". ")[0]
        raise UserError(f"vocabulary {name!r}: the tokenizer of this folder cannot be loaded: {reason}") from None
    missing = [token for token in SPECIAL if getattr(tokenizer, token) is None]
    if missing:
        raise UserError(f"vocabulary {name!r}: its tokenizer has no {missing[0]}")
    return tokenizer
