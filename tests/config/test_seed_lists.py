"""Seeds in every form that a sweep file and --seeds allow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableft.config.sweep_arms import parse_seeds
from stableft.config.sweep_keys import MAX_SEEDS
from stableft.errors import UserError

seed_lists = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30, unique=True)


def same(seeds) -> list[tuple[int, int]]:
    return [(seed, seed) for seed in seeds]


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (5, [5]),
        ("5", [5]),
        (0, [0]),
        ("1-25", range(1, 26)),
        ("0-19", range(20)),
        ("3-3", [3]),
        ("1,2,7", [1, 2, 7]),
        ("7, 1-3 ,9", [7, 1, 2, 3, 9]),
        ([1, 2, 7], [1, 2, 7]),
        ([9, "1-3"], [9, 1, 2, 3]),
    ],
)
def test_one_seed_for_both(value, seeds):
    assert parse_seeds(value, "here") == same(seeds)


def test_seeds_apart():
    paired = {"init": "0-2", "data": [7, 8, 9]}
    assert parse_seeds(paired, "here") == [(0, 7), (1, 8), (2, 9)]
    assert parse_seeds(paired | {"crossed": False}, "here") == [(0, 7), (1, 8), (2, 9)]
    crossed = parse_seeds({"init": "0-9", "data": "0-9", "crossed": True}, "here")  # Z App. B
    assert crossed == [(init, data) for init in range(10) for data in range(10)]
    assert parse_seeds({"init": 0, "data": "0-1", "crossed": True}, "here") == [(0, 0), (0, 1)]


@given(seed_lists)
def test_a_list_comes_back_from_text_and_from_a_list(seeds):
    assert parse_seeds(",".join(map(str, seeds)), "here") == same(seeds)
    assert parse_seeds(seeds, "here") == same(seeds)


@given(st.integers(0, 10**12), st.integers(0, 200))
def test_a_range_has_both_its_ends(first, more):
    assert parse_seeds(f"{first}-{first + more}", "here") == same(range(first, first + more + 1))


@given(seed_lists, seed_lists)
def test_crossed_seeds_are_every_pair_once(init, data):
    pairs = parse_seeds({"init": init, "data": data, "crossed": True}, "here")
    assert len(pairs) == len(set(pairs)) == len(init) * len(data)


@given(st.text(max_size=12))
def test_any_text_is_seeds_or_one_sentence(text):
    try:
        said = ""
        pairs = parse_seeds(text, "here")
    except UserError as error:
        said, pairs = str(error), []
    assert said.startswith("here: seeds: ") or all(init == data >= 0 for init, data in pairs)


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (None, "key 'seeds' is missing"),
        (-1, "-1 .*like 5, 1-25 or 1,2,7"),
        (1.5, r"1\.5 must be like"),
        (True, "True must be like"),
        ("", "'' must be like"),
        ("1-", "'1-' must be like"),
        ("1,,2", "must be like"),
        ("one", "'one' must be like"),
        ([[1, 2]], "must be like"),
        ("3-1", "'3-1' runs backwards"),
        ("1,2,1", "1 .*listed twice .*'1,2,1'"),
        ("1-3,2", "2 is listed twice"),
        ([], r"seeds: \[\] .*no seeds"),
        ({"init": 1}, r"key 'seeds\.data' .*missing.*example .*{init: 0-9, data: 0-9, crossed: true}"),
        ({"init": 1, "data": 1, "cross": True}, r"key 'seeds\.cross' .*not known.*'crossed'"),
        ({"init": 1, "data": 1, "crossed": "yes"}, r"seeds\.crossed: 'yes' .*true .*false"),
        ({"init": "1-2", "data": "1-3"}, "2 init and 3 data seeds cannot .*crossed: true"),
        ("0-9999999999999", f"is more than {MAX_SEEDS} seeds"),
        (f"1-{MAX_SEEDS},0", f"is more than {MAX_SEEDS} seeds"),
    ],
)
def test_anything_else_is_refused(value, facts):
    with pytest.raises(UserError) as caught:
        parse_seeds(value, "here")
    assert str(caught.value).startswith("here: ")
    assert re.search(facts, str(caught.value))
