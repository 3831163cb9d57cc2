import numpy as np
import torch

from stableft.seeds import (
    PURPOSES,
    derive_seed,
    epoch_order,
    global_rng_state,
    make_generator,
    restore_global_rng_state,
)

GOLDEN = [
    *(3717377837946358015, 38901565946305238, 7764949442709860949, 8789938331783242616),
    *(839276039212745596, 7576354313457842240, 2551188552160700485, 8995600287511374582),  # of pre-training,
    4156712637186380826,
    2860221917513415892,  # examples of a probe
]
GOLDEN_SECOND_EPOCH = 3638645711756376738
CPU = torch.device("cpu")


def test_every_seed_purpose_and_part_has_a_stream_of_its_own():
    seeds = [derive_seed(seed, purpose, part) for seed in range(30) for purpose in PURPOSES for part in range(10)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(2**63 - 1, "order", 3) != derive_seed(2**31 - 1, "order", 3)


def test_streams_do_not_change_from_one_version_to_the_next():
    assert [derive_seed(1, purpose) for purpose in PURPOSES] == GOLDEN
    assert derive_seed(1, "order", 1) == GOLDEN_SECOND_EPOCH


def test_an_epoch_is_a_permutation_of_its_own():
    first, second, other = epoch_order(1, 0, 50), epoch_order(1, 1, 50), epoch_order(2, 0, 50)
    for order in (first, second, other):
        assert sorted(order) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, epoch_order(1, 0, 50))


def test_order_and_draws_do_not_touch_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epoch_order(123, 4, 1000)
    torch.rand(5, generator=make_generator(1, "head"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(
        torch.rand(5, generator=make_generator(1, "head")), torch.rand(5, generator=make_generator(1, "head"))
    )


def test_the_global_state_comes_back():
    torch.manual_seed(5)
    state = global_rng_state(CPU)
    first = torch.rand(7)
    restore_global_rng_state(state, CPU)
    assert torch.equal(torch.rand(7), first)
