"""The examples on which runs differ most, as tables: their texts, and what the runs answer."""

import math
from collections.abc import Iterator

from stableft.probes.points import NO_ANSWER, rank
from stableft.probes.points_data import Examples
from stableft.probes.points_view import View
from stableft.report.blocks import Block, Grid, Heading
from stableft.report.conventions import label

SHOWN = 60  # letters of a text in a table; whole texts are in the rows and values of the report


def unstable_blocks(view: View, most: int) -> Iterator[Block]:
    """Yields the examples on which the runs of a view differ most, where they differ."""
    if view.missing or not most:
        return
    unstable = view.unstable
    right = None if view.right is None else view.right.sum(axis=0)
    order = rank(unstable, right)[:most]
    order = order[unstable[order] > 0]
    if not len(order):
        return
    largest = float(unstable.max())
    ties = int((unstable == largest).sum())
    what = "variance over runs" if view.per_point else "share of pairs of runs that differ"
    fewer = "those that fewer runs have right, then " if right is not None else ""
    caption = f"By {what}; of equal ones {fewer}the earlier."
    if view.group.classes:
        caption += f" {ties:,} of {view.m:,} examples ha{'s' if ties == 1 else 've'} the largest, {largest:.3g}."
    yield Heading(f"Most unstable examples: {view.lead}", 3)
    header = (_text_header(view.group.examples), *_facts_header(view))
    rows = tuple((_text(view.group.examples, int(i)), *_facts(view, int(i), float(unstable[i]))) for i in order)
    yield Grid(label(f"unstable-{view.group.arm}-{view.group.task}-{view.which}"), header, rows, caption)


def _text_header(examples: Examples) -> str:
    return " / ".join(examples.texts) if examples.texts else "example"


def _text(examples: Examples, i: int) -> str:
    if not examples.texts:
        return examples.names[i]
    return " / ".join(_short(column[i]) for column in examples.texts.values())


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[: SHOWN - 1].rstrip()}…"


def _facts_header(view: View) -> tuple[str, ...]:
    group = view.group
    known = ("label",) if group.examples.labels is not None else ()
    named = ("row",) if group.examples.texts else ()
    if not group.classes:
        return (*named, *known, "mean", "SD", "min", "max")
    right = ("right",) if view.right is not None else ()
    return (*named, *known, *right, *(name for name, _ in _answers(view)))


def _answers(view: View) -> list[tuple[str, int]]:
    """Returns the answers that any of these runs gave anywhere."""
    given = set(view.answers.ravel().tolist())
    columns = [(name, i) for i, name in enumerate(view.group.classes) if i in given]
    return columns + ([("no answer", NO_ANSWER)] if NO_ANSWER in given else [])


def _facts(view: View, i: int, unstable: float) -> Iterator[str]:
    group, answers = view.group, view.answers[:, i]
    if group.examples.texts:
        yield group.examples.names[i]
    if group.examples.labels is not None:
        value = group.examples.labels[i]
        yield group.classes[int(value)] if group.classes else f"{value:.3g}"
    if not group.classes:
        yield from (f"{value:.3g}" for value in (answers.mean(), math.sqrt(unstable), answers.min(), answers.max()))
        return
    if view.right is not None:
        yield f"{int(view.right[:, i].sum())}/{view.n}"
    yield from (str(int((answers == answer).sum())) for _, answer in _answers(view))
