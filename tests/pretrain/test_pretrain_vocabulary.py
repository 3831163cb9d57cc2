"""Tokenizers: the toy language's words, BERT's WordPiece, and what a vocab.txt must have."""

import json

import pytest
from transformers import AutoTokenizer, BertTokenizer

from stableft.data import toy_language as toylang
from stableft.errors import UserError
from stableft.pretrain.corpus import build_tokenizer, special_token_ids

PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##want", "##ed", "runn", "##ing", ","]


def test_the_words_of_the_toy_language():
    tokenizer = build_tokenizer("toylang", None, 32)
    assert len(tokenizer) == 5 + len(toylang.toy_vocabulary())
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert special_token_ids(tokenizer) == [0, 1, 2, 3, 4]
    for first, second in toylang.make_toy_corpus(3, 20):
        encoded = tokenizer(first, second)
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        assert tokens == ["[CLS]", *first.split(), "[SEP]", *second.split(), "[SEP]"]
        ones = len(second.split()) + 1
        assert encoded["token_type_ids"] == [0] * (len(tokens) - ones) + [1] * ones


def test_word_pieces_as_bert_cuts_them(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    tokenizer = build_tokenizer("vocab.txt", path, 32)
    assert isinstance(tokenizer, BertTokenizer)
    ids = tokenizer("UNwanted, runnîng x")["input_ids"]
    assert ids == [3, 6, 7, 8, 11, 9, 10, 2, 4]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("UNwanted, runnîng x")["input_ids"] == ids
    stored = build_tokenizer("saved", tmp_path / "saved", 16)
    assert stored("UNwanted, runnîng x")["input_ids"] == ids


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("\n".join(PIECES[:-7]), r"vocabulary 'v' .*no \[MASK\].*BERT's vocabularies have$"),
        ("\n".join([*PIECES, "un"]), "vocabulary 'v', line 13: 'un' .*line 7"),
        ("\n".join([*PIECES, "", "x"]), "vocabulary 'v', line 13: .*line .*empty"),
        ("", "vocabulary 'v', line 1: .*line .*empty"),
    ],
)
def test_a_vocabulary_that_is_none(tmp_path, text, facts):
    path = tmp_path / "vocab.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=facts):
        build_tokenizer("v", path, 32)


def test_a_stored_tokenizer_whose_numbers_have_a_gap(tmp_path):
    build_tokenizer("toylang", None, 32).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["."] += 5000
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"entries .*numbered from 0"):
        build_tokenizer("v", tmp_path, 32)


@pytest.mark.faults
def test_damaged_files(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"vocabulary 'v': .*not UTF-8 text \(byte 0\)"):
        build_tokenizer("v", tmp_path / "vocab.txt", 32)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocabulary 'v': .*tokenizer .*folder cannot .*loaded"):
        build_tokenizer("v", tmp_path, 32)
