"""Seeds as people write them: 5, 1-25, 1,2,7, or init and data seeds apart."""

import itertools
from collections import Counter
from typing import Any

from stableft.errors import UserError

MOST = 10_000  # more seeds are a slip of the keyboard, and 1-10000000000 would fill the memory


def parse_seeds(value: Any, where: str) -> list[tuple[int, int]]:
    """Returns (init, data) pairs, in order: equal ones for 5, "1-25", "1,2,7" or a list.

    {init: 0-9, data: 0-9, crossed: true} gives every combination (Z App. B), without `crossed` the pairs in step.

    Raises:
        UserError: it is none of these, or a seed stands twice.
    """
    if value is None:
        raise UserError(f"{where}: key 'seeds' is missing")
    if not isinstance(value, dict):
        return [(seed, seed) for seed in _numbers(value, where)]
    unknown = set(value) - {"init", "data", "crossed"}
    if unknown or not {"init", "data"} <= set(value) or not isinstance(value.get("crossed", False), bool):
        raise UserError(f"{where}: seeds: a mapping has init, data and, as true or false, crossed; not {value!r}")
    init, data = _numbers(value["init"], where), _numbers(value["data"], where)
    if value.get("crossed"):
        return list(itertools.product(init, data))
    if len(init) != len(data):
        raise UserError(
            f"{where}: seeds: {len(init)} init and {len(data)} data seeds cannot be paired; use crossed: true"
        )
    return list(zip(init, data, strict=True))


def _numbers(value: Any, where: str) -> list[int]:
    parts = value if isinstance(value, list) else str(value).split(",")
    seeds: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{where}: seeds: {value!r} must be like 5, 1-25 or 1,2,7, of whole numbers from 0")
        if last and int(last) < int(first):
            raise UserError(f"{where}: seeds: {part!r} runs backwards")
        more = range(int(first), int(last or first) + 1)
        if len(seeds) + (more.stop - more.start) > MOST:
            raise UserError(f"{where}: seeds: {value!r} are more than {MOST} seeds")
        seeds += more
    if not seeds:
        raise UserError(f"{where}: seeds: there is none in {value!r}")
    twice = next((seed for seed, count in Counter(seeds).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{where}: seeds: {twice} stands twice in {value!r}")
    return seeds
