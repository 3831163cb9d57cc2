"""A small artificial language: a pre-training corpus and three fine-tuning tasks, generated from seeds alone.

The grammar, where n and m are singular or plural, and parentheses mark optional parts:

    text        = passage passage                       both on one topic
    passage     = sentence sentence                     (one sentence in the tasks)
    sentence    = subject[n] verb[n] (object) "."
    subject[n]  = phrase[n] (preposition phrase[m])     the second phrase may differ in number: an attractor
    object      = phrase[m]
    phrase[n]   = determiner[n] (adjective) noun[n]

Determiner, noun and verb agree in number. Function words are English, all others are made up: "this bado of some tilus
meres a lofish kuvo ." Each of the 16 topics has its own nouns, verbs and adjectives. Within a topic, word frequencies
follow Zipf's law; one content word in ten is drawn from any topic. A model pre-trained on the corpus knows which words
occur together and which forms agree, and can learn a task from few labels:

- `toy-cola`: is the sentence acceptable? Half of the sentences have a determiner or verb with the wrong number.
- `toy-rte`: is the topic that the two sentences share in the first or the second half of the topics?
- `toy-mrpc`: do the two sentences share a topic? Two thirds do.

Training rows use every other word of each topic, development rows the rest, so only a model that has seen the corpus
can know the topics of the latter. No sentence occurs twice in a task: a split has no duplicates, and the two splits
share no content word.
"""

import bisect
import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

N_TOPICS, NOUNS_PER_TOPIC, VERBS_PER_TOPIC, ADJECTIVES_PER_TOPIC = 16, 24, 16, 16
DETERMINERS = (("a", "this", "that", "each"), ("some", "these", "those", "many"))  # singular, plural
PREPOSITIONS = ("of", "near", "with", "behind")
ADJECTIVE_RATE, PREPOSITION_RATE, OBJECT_RATE, STRAY_RATE = 0.3, 0.2, 0.5, 0.1  # probability of each
TOY_ROW_COUNTS = {"train": 2000, "dev": 800}
SAME_TOPIC_RATE = 2 / 3  # of the rows of toy-mrpc
ToySplit = Literal["train", "dev"]
T = TypeVar("T")


class WordSlot(NamedTuple):
    """A word of a sentence, and its form with the wrong number (empty: it has none)."""

    word: str
    wrong_number: str = ""


@dataclass(frozen=True)
class Topic:
    """The words of one topic, most frequent first. Nouns and verbs are pairs (singular, plural)."""

    nouns: tuple[tuple[str, str], ...]
    verbs: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]


@functools.cache
def make_topics() -> tuple[Topic, ...]:
    """Return the topics of the language, which are always the same."""
    stems = ["".join(syllable) for syllable in itertools.product("bdfgklmnprstvz", "aeiou")]
    pairs = ["".join(pair) for pair in itertools.product(stems, repeat=2)]
    nouns = iter(_shuffled(pairs, 1))
    verbs = iter(_shuffled([pair + end for pair, end in itertools.product(pairs, "lmnr")], 2))
    adjectives = iter(_shuffled([stem + end for stem, end in itertools.product(stems, "dfgkptvz")], 3))
    return tuple(
        Topic(
            tuple((stem, stem + "s") for stem in itertools.islice(nouns, NOUNS_PER_TOPIC)),
            tuple((stem + "es", stem) for stem in itertools.islice(verbs, VERBS_PER_TOPIC)),
            tuple(stem + "ish" for stem in itertools.islice(adjectives, ADJECTIVES_PER_TOPIC)),
        )
        for _ in range(N_TOPICS)
    )


Lexicon = tuple[Topic, ...]


@functools.cache
def split_lexicon(part: ToySplit) -> Lexicon:
    """Return the topics with the words of one split: every other word of each kind."""
    start = 0 if part == "train" else 1
    return tuple(Topic(t.nouns[start::2], t.verbs[start::2], t.adjectives[start::2]) for t in make_topics())


def toy_vocabulary() -> tuple[str, ...]:
    """Return the vocabulary in a fixed order, function words first."""
    content = itertools.chain.from_iterable(
        (*itertools.chain(*topic.nouns), *itertools.chain(*topic.verbs), *topic.adjectives) for topic in make_topics()
    )
    return (".", *itertools.chain(*DETERMINERS), *PREPOSITIONS, *content)


def make_toy_corpus(seed: int, pairs: int) -> list[tuple[str, str]]:
    """Return `pairs` texts of two passages on one topic. More pairs with the same seed extend the list."""
    rng = random.Random(f"corpus {seed}")
    texts = []
    for _ in range(pairs):
        topic = _random_below(rng, N_TOPICS)
        texts.append((_passage(rng, make_topics(), topic), _passage(rng, make_topics(), topic)))
    return texts


@functools.cache
def make_toy_rows(task: str, part: ToySplit) -> tuple[list[tuple[str, ...]], list[int]]:
    """Return the texts and class ids of one split of `toy-cola`, `toy-rte` or `toy-mrpc`."""
    rng = random.Random(f"{task} {part}")
    seen: set[str] = set()
    texts, labels = [], []
    while len(texts) < TOY_ROW_COUNTS[part]:
        text, label = ROW_MAKERS[task](rng, split_lexicon(part))
        if len(set(text)) == len(text) and seen.isdisjoint(text):
            seen.update(text)
            texts.append(text)
            labels.append(label)
    return texts, labels


def _make_cola_row(rng: random.Random, words: Lexicon) -> tuple[tuple[str, ...], int]:
    label = _random_below(rng, 2)
    return (_sentence(rng, words, _random_below(rng, N_TOPICS), wrong=not label),), label


def _make_rte_row(rng: random.Random, words: Lexicon) -> tuple[tuple[str, ...], int]:
    topic = _random_below(rng, N_TOPICS)
    return (_sentence(rng, words, topic), _sentence(rng, words, topic)), int(topic >= N_TOPICS // 2)


def _make_mrpc_row(rng: random.Random, words: Lexicon) -> tuple[tuple[str, ...], int]:
    topic = _random_below(rng, N_TOPICS)
    label = rng.random() < SAME_TOPIC_RATE
    other = topic if label else (topic + 1 + _random_below(rng, N_TOPICS - 1)) % N_TOPICS
    return (_sentence(rng, words, topic), _sentence(rng, words, other)), int(label)


ROW_MAKERS = {"toy-cola": _make_cola_row, "toy-rte": _make_rte_row, "toy-mrpc": _make_mrpc_row}


def _passage(rng: random.Random, words: Lexicon, topic: int) -> str:
    return f"{_sentence(rng, words, topic)} {_sentence(rng, words, topic)}"


def _sentence(rng: random.Random, words: Lexicon, topic: int, wrong: bool = False) -> str:
    """Return a sentence on the topic. If `wrong`, its verb or one of its determiners has the wrong number."""
    slots = list(_subject_and_verb(rng, words, topic))
    if rng.random() < OBJECT_RATE:
        slots += _phrase(rng, words, topic, _random_below(rng, 2))
    broken = _random_choice(rng, [i for i, slot in enumerate(slots) if slot.wrong_number]) if wrong else None
    return " ".join([slot.wrong_number if i == broken else slot.word for i, slot in enumerate(slots)] + ["."])


def _subject_and_verb(rng: random.Random, words: Lexicon, topic: int) -> Iterator[WordSlot]:
    number = _random_below(rng, 2)
    yield from _phrase(rng, words, topic, number)
    if rng.random() < PREPOSITION_RATE:
        yield WordSlot(_random_choice(rng, PREPOSITIONS))
        yield from _phrase(rng, words, topic, _random_below(rng, 2))
    verb = _zipf_choice(rng, words[_maybe_stray_topic(rng, topic)].verbs)
    yield WordSlot(verb[number], verb[1 - number])


def _phrase(rng: random.Random, words: Lexicon, topic: int, number: int) -> Iterator[WordSlot]:
    yield WordSlot(_random_choice(rng, DETERMINERS[number]), _random_choice(rng, DETERMINERS[1 - number]))
    if rng.random() < ADJECTIVE_RATE:
        yield WordSlot(_zipf_choice(rng, words[_maybe_stray_topic(rng, topic)].adjectives))
    yield WordSlot(_zipf_choice(rng, words[_maybe_stray_topic(rng, topic)].nouns)[number])


def _maybe_stray_topic(rng: random.Random, topic: int) -> int:
    return _random_below(rng, N_TOPICS) if rng.random() < STRAY_RATE else topic


# Only random() is used, because it is the only method whose output Python guarantees not to change.


def _random_below(rng: random.Random, n: int) -> int:
    return int(rng.random() * n)


def _random_choice(rng: random.Random, items: Sequence[T]) -> T:
    return items[_random_below(rng, len(items))]


def _zipf_choice(rng: random.Random, items: Sequence[T]) -> T:
    shares = _cumulative_zipf_weights(len(items))
    return items[bisect.bisect_right(shares, rng.random() * shares[-1])]


@functools.cache
def _cumulative_zipf_weights(n: int) -> tuple[float, ...]:
    return tuple(itertools.accumulate(1 / rank for rank in range(1, n + 1)))


def _shuffled(items: list[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [item for _, item in sorted((rng.random(), item) for item in items)]
