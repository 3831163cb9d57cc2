"""Rows from text: packing, what is held out, and that it is never among what trains."""

import numpy as np
import pytest
from support.pretraining import WIKIPEDIA_EXTRACT, write_wikipedia

from stableft.data import toy_language as toylang
from stableft.data.tokens import TokenizedRows
from stableft.errors import UserError
from stableft.pretrain.corpus import build_tokenizer, load_corpus, pack_documents, read_documents


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer("toylang", None, 32)


def texts(rows: TokenizedRows, tokenizer, which=None) -> list[str]:
    which = range(len(rows)) if which is None else which
    return [tokenizer.decode(rows.input_ids[rows.offsets[i] : rows.offsets[i + 1]]) for i in which]


def test_documents_are_packed_into_whole_rows(tokenizer):
    words = toylang.toy_vocabulary()
    lines = [(3, " ".join(words[:4])), (3, " ".join(words[4:11])), (5, ""), (9, words[20]), (9, words[21])]
    *parts, document = pack_documents(lines, tokenizer, 8)
    rows = TokenizedRows(*parts)
    assert texts(rows, tokenizer) == [
        "[CLS] " + " ".join(words[:6]) + " [SEP]",
        "[CLS] " + " ".join(words[6:11]) + " [SEP]",
        f"[CLS] {words[20]} {words[21]} [SEP]",
    ]
    assert document.tolist() == [0, 0, 1]
    assert rows.segment_ids.tolist() == [0] * len(rows.input_ids)


@pytest.mark.parametrize("tokens", [1, 5, 6, 7, 12, 13])
def test_no_token_is_lost_at_any_length(tokenizer, tokens):
    words = toylang.toy_vocabulary()[:tokens]
    *parts, document = pack_documents([(0, word) for word in words], tokenizer, 8)
    rows = TokenizedRows(*parts)
    assert np.diff(rows.offsets).max() <= 8
    inner = [row.removeprefix("[CLS] ").removesuffix(" [SEP]") for row in texts(rows, tokenizer)]
    assert " ".join(inner).split() == list(words)
    assert len(rows) == len(document) == -(-tokens // 6)


def test_wikiextractor_rows(tokenizer, tmp_path):
    (tmp_path / "wiki_00").write_text(WIKIPEDIA_EXTRACT)
    *parts, document = pack_documents(read_documents([tmp_path / "wiki_00"]), tokenizer, 32)
    assert np.diff(TokenizedRows(*parts).offsets).tolist() == [2 + 1 + 6 + 4, 2 + 1 + 5]
    assert document.tolist() == [0, 1]


def test_chunks_make_no_difference(tokenizer, monkeypatch):
    lines = [(i // 7, " ".join(pair)) for i, pair in enumerate(toylang.make_toy_corpus(1, 50))]
    whole = pack_documents(lines, tokenizer, 16)
    monkeypatch.setattr("stableft.pretrain.corpus.TOKENIZE_CHUNK_ROWS", 3)
    assert all(np.array_equal(a, b) for a, b in zip(whole, pack_documents(lines, tokenizer, 16), strict=True))


def test_no_text_makes_no_rows(tokenizer):
    *parts, document = pack_documents([], tokenizer, 16)
    assert len(TokenizedRows(*parts)) == len(document) == 0


def test_held_out_pairs_never_train(plan_pretraining, tokenizer):
    plan = plan_pretraining(**{"corpus.pairs": 3000})
    corpus = load_corpus(plan.config, plan.sources, tokenizer)
    assert len(corpus.held_out) == 300
    held_out, train = (set(texts(corpus.rows, tokenizer, which)) for which in (corpus.held_out, corpus.train))
    assert not held_out & train
    assert len(corpus.train) == corpus.record.train_rows <= 2700
    assert set(corpus.rows.segment_ids) == {0, 1}
    row = texts(corpus.rows, tokenizer, [17])[0]
    first, second = toylang.make_toy_corpus(0, 3000)[17]
    assert row == f"[CLS] {first} [SEP] {second} [SEP]"


def test_a_row_like_a_held_out_one_does_not_train(plan_pretraining, tmp_path, tokenizer):
    words = toylang.toy_vocabulary()
    (tmp_path / "a.txt").write_text("\n\n".join([*words[:30], *words[:20]]))
    plan = plan_pretraining(text="a.txt", **{"corpus.held_out": 0.2})
    corpus = load_corpus(plan.config, plan.sources, tokenizer)
    held_out, train = (set(texts(corpus.rows, tokenizer, which)) for which in (corpus.held_out, corpus.train))
    assert len(corpus.held_out) == 10
    assert not held_out & train
    assert len(corpus.train) < 40


def test_documents_are_held_out_as_a_whole(plan_pretraining, tmp_path, tokenizer):
    write_wikipedia(tmp_path / "wiki")
    plan = plan_pretraining(text="wiki", **{"corpus.held_out": 0.25, "max_length": 16})
    corpus = load_corpus(plan.config, plan.sources, tokenizer)
    assert corpus.record.documents == 12
    assert corpus.record.train_rows + corpus.record.held_out_rows == len(corpus.rows)
    assert corpus.record.train_tokens + corpus.record.held_out_tokens == len(corpus.rows.input_ids)
    again = load_corpus(plan.config, plan.sources, tokenizer)  # from the cache
    assert again.record == corpus.record
    other = plan_pretraining(text="wiki", **{"corpus.held_out": 0.25, "max_length": 16, "corpus.seed": 1})
    assert load_corpus(other.config, other.sources, tokenizer).record.fingerprint != corpus.record.fingerprint


@pytest.mark.parametrize("text", ["", "\n \n", "one line\nand another"])
def test_too_little_text(plan_pretraining, tmp_path, tokenizer, text):
    (tmp_path / "a.txt").write_text(text)
    plan = plan_pretraining(text="a.txt")
    with pytest.raises(UserError, match=r"text 'a\.txt': .*[01] documents.*at least one"):
        load_corpus(plan.config, plan.sources, tokenizer)


def test_text_that_repeats_itself(plan_pretraining, tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("this\n\n" * 9)
    plan = plan_pretraining(text="a.txt")
    with pytest.raises(UserError, match=r"training row .*held-out row"):
        load_corpus(plan.config, plan.sources, tokenizer)


def test_text_that_changes_under_our_hands(plan_pretraining, tmp_path, tokenizer):
    folder = write_wikipedia(tmp_path / "wiki")
    plan = plan_pretraining(text="wiki")
    (folder / "more").write_text("this\n")
    with pytest.raises(UserError, match=r"changed since .*config"):
        load_corpus(plan.config, plan.sources, tokenizer)
