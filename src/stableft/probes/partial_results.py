"""Partial results: what an unfinished probe has measured so far, in a file beside its record, to survive a kill."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stableft.records.atomic_folder import set_aside
from stableft.records.run_record import RecordSection, atomic_write, dump_record, parse_checked_values

PARTIAL_RESULTS_FILE = "points.json"
SAVE_SECONDS = 3.0  # between saves, where values come faster
Facts = dict[str, str | int | None]


class PartialResults(RecordSection):
    """The values measured so far (fields of the subclasses), and the facts under which the rest must be measured."""

    facts: Facts


PartialT = TypeVar("PartialT", bound=PartialResults)


def read_partial_results(folder: Path, kind: type[PartialT]) -> PartialT | None:
    """Return what an earlier process has saved, or None. A damaged file is set aside with a message."""
    path = folder / PARTIAL_RESULTS_FILE
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        # Earlier versions of the perplexity probe wrote no checksum.
        return kind.model_validate(parse_checked_values(text) if "checksum" in values else values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        print(f"{path} cannot be read: set aside as {set_aside(path)}, and every point is measured anew")
        return None


def find_changed_fact(partial: PartialResults, facts: Facts) -> str | None:
    """Return the first fact that differs from those under which the saved values were measured, or None."""
    return next((name for name, value in facts.items() if partial.facts.get(name) != value), None)


@contextmanager
def saving_partial_results(folder: Path, collect: Callable[[], PartialResults]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each measured value, which saves what `collect` returns if it is time to.

    Everything is also saved when the block is left by an exception.
    """
    saved_at = time.monotonic()

    def save() -> None:
        atomic_write(folder / PARTIAL_RESULTS_FILE, (dump_record(collect()) + "\n").encode())

    def save_when_due() -> None:
        nonlocal saved_at
        if time.monotonic() - saved_at >= SAVE_SECONDS:
            save()
            saved_at = time.monotonic()

    try:
        yield save_when_due
    except BaseException:
        save()
        raise
