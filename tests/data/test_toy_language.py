"""The toy language: its grammar, its vocabulary, and tasks whose splits share no sentence."""

import hashlib
import json
import re
from collections import Counter

import pytest

from stableft.data import toy_language as toylang

NOUNS = {form: n for topic in toylang.make_topics() for noun in topic.nouns for n, form in enumerate(noun)}
VERBS = {form: n for topic in toylang.make_topics() for verb in topic.verbs for n, form in enumerate(verb)}
ADJECTIVES = {word for topic in toylang.make_topics() for word in topic.adjectives}
DETERMINERS = {word: n for n, words in enumerate(toylang.DETERMINERS) for word in words}
TOPIC_OF = {
    word: i
    for i, topic in enumerate(toylang.make_topics())
    for word in (*(form for pair in (*topic.nouns, *topic.verbs) for form in pair), *topic.adjectives)
}
TASKS = list(toylang.ROW_MAKERS)


def tags(sentence: str) -> str:
    """Returns one character a word: d/D, n/N and v/V in singular and plural, a, p and the full stop."""
    return "".join(
        "dD"[DETERMINERS[word]]
        if word in DETERMINERS
        else "nN"[NOUNS[word]]
        if word in NOUNS
        else "vV"[VERBS[word]]
        if word in VERBS
        else "a"
        if word in ADJECTIVES
        else "p"
        if word in toylang.PREPOSITIONS
        else "."
        for word in sentence.split()
    )


PHRASE = "(da?n|Da?N)"
# An independent statement of the grammar: the verb agrees with the first phrase, whatever stands between.
GRAMMAR = re.compile(rf"(da?n(p{PHRASE})?v|Da?N(p{PHRASE})?V){PHRASE}?\.")


def splits(task: str) -> dict[str, tuple[list[tuple[str, ...]], list[int]]]:
    return {part: toylang.make_toy_rows(task, part) for part in ("train", "dev")}


def test_no_word_has_two_meanings():
    words = toylang.toy_vocabulary()
    assert len(words) == len(set(words)) == len(NOUNS) + len(VERBS) + len(ADJECTIVES) + 8 + 4 + 1
    assert 1500 < len(words) < 1700


def test_the_corpus_is_grammatical_and_a_function_of_its_seed():
    texts = toylang.make_toy_corpus(0, 2000)
    passages = re.compile(f"({GRAMMAR.pattern}){{2}}")
    assert all(passages.fullmatch(tags(passage)) for text in texts for passage in text)
    assert toylang.make_toy_corpus(0, 500) == texts[:500]
    assert toylang.make_toy_corpus(1, 500) != texts[:500]
    assert max(len(" ".join(text).split()) for text in texts) + 3 <= 64  # with [CLS] and two [SEP]


def test_a_text_keeps_to_its_topic_and_prefers_frequent_words():
    topics = [Counter(TOPIC_OF[word] for word in " ".join(text).split() if word in TOPIC_OF) for text in corpus()]
    own = sum(counts.most_common(1)[0][1] for counts in topics) / sum(counts.total() for counts in topics)
    assert 0.88 < own < 0.95  # 10 % are drawn from any of 16 topics
    nouns = Counter(word for text in corpus() for word in " ".join(text).split())
    first, last = ([sum(nouns[form] for form in topic.nouns[i]) for topic in toylang.make_topics()] for i in (0, -1))
    assert 12 < sum(first) / sum(last) < 48  # Zipf's law over 24 ranks


def corpus() -> list[tuple[str, str]]:
    return toylang.make_toy_corpus(3, 4000)


@pytest.mark.parametrize("task", TASKS)
def test_no_sentence_occurs_twice(task):
    sentences = [sentence for texts, _ in splits(task).values() for row in texts for sentence in row]
    assert len(sentences) == len(set(sentences))


@pytest.mark.parametrize("task", TASKS)
def test_splits_have_their_sizes_and_shares(task):
    for part, (texts, labels) in splits(task).items():
        assert len(texts) == len(labels) == toylang.TOY_ROW_COUNTS[part]
        assert abs(sum(labels) / len(labels) - (2 / 3 if task == "toy-mrpc" else 1 / 2)) < 0.06


def test_acceptable_is_what_the_grammar_accepts():
    for texts, labels in splits("toy-cola").values():
        assert [int(bool(GRAMMAR.fullmatch(tags(sentence)))) for (sentence,) in texts] == labels


def test_an_unacceptable_sentence_has_one_wrong_word():
    texts, labels = toylang.make_toy_rows("toy-cola", "train")
    loose = re.compile(GRAMMAR.pattern.lower())
    assert all(loose.fullmatch(tags(sentence).lower()) for (sentence,) in texts)
    for (sentence,), label in zip(texts, labels, strict=True):
        if not label:
            found = tags(sentence)
            repairs = [
                found[:i] + found[i].swapcase() + found[i + 1 :] for i in range(len(found)) if found[i] in "dDvV"
            ]
            assert any(GRAMMAR.fullmatch(repair) for repair in repairs), sentence


@pytest.mark.parametrize("task", ["toy-rte", "toy-mrpc"])
def test_pairs_are_labelled_by_their_topics(task):
    agree = 0
    texts, labels = toylang.make_toy_rows(task, "train")
    for row, label in zip(texts, labels, strict=True):
        first, second = (
            Counter(TOPIC_OF[word] for word in sentence.split() if word in TOPIC_OF).most_common(1)[0][0]
            for sentence in row
        )
        guess = first == second if task == "toy-mrpc" else first >= toylang.N_TOPICS // 2
        agree += int(guess) == label
    assert agree / len(labels) > 0.85  # short sentences may have more words of another topic than of their own


DIGESTS = {"toy-cola": "ee4876f60a8ce59d", "toy-rte": "0a20b49ae1a40ad5", "toy-mrpc": "662568375ddb4333"}


@pytest.mark.parametrize("task", TASKS)
def test_the_rows_never_change_unknowingly(task):
    # Records name the rows they were scored on by a fingerprint: other rows make every run of the demo another.
    digest = hashlib.sha256(json.dumps(splits(task)).encode()).hexdigest()[:16]
    assert digest == DIGESTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_no_content_word_of_a_development_row_is_in_a_training_row(task):
    used = {
        part: {word for row in texts for sentence in row for word in sentence.split() if word in TOPIC_OF}
        for part, (texts, _) in splits(task).items()
    }
    assert used["train"].isdisjoint(used["dev"])
    assert min(len(words) for words in used.values()) > 650  # of 704 forms each
