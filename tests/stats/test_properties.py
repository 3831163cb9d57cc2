"""What must hold of every statistic, whatever the scores: ties, equal values, unlike n, NaN."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stableft.stats import (
    bootstrap_interval,
    boschloo,
    expected_max,
    expected_test_score,
    holm,
    iqm,
    levene,
    mark_best_and_equal,
    mark_better_than,
    mark_different,
    permutation_test,
    probability_of_improvement,
    sd_ratio,
    summarize,
    t_test,
)

NAN = math.nan
# Multiples of 1/64, which every sum, shift and scale below keeps exact; few of them, so that ties are common.
SCORES = st.integers(0, 12).map(lambda k: k / 64)
GROUPS = st.lists(SCORES, max_size=9)
SHIFTS = st.integers(-64, 64).map(lambda k: k / 64)
SCALES = st.sampled_from([0.125, 0.5, 2.0, 16.0])
FEW = 99  # resamples
CENTERS = ("median", "mean", "trimmed")
ALTERNATIVES = ("two-sided", "greater", "less")
KINDS = ("mean", "std", "std_ratio")

quick = settings(max_examples=60, deadline=None)
slower = settings(max_examples=25, deadline=None)


def rng():
    return np.random.default_rng(0)


def results_of(a, b):
    """Returns every test of two groups of scores that draws nothing."""
    return [
        *(levene(a, b, center) for center in CENTERS),
        *(t_test(a, b, equal, alternative) for equal in (True, False) for alternative in ALTERNATIVES),
        mark_different(a, b).test,
        *(marked.test for marked in mark_better_than(a, [b])),
    ]


def results_by_draws(a, b):
    return [
        *(permutation_test(a, b, of, rng(), alternative, FEW) for of in KINDS for alternative in ALTERNATIVES),
        probability_of_improvement(a, b, rng(), resamples=FEW).test,
    ]


def near(x, y):
    return (x is None and y is None) or x == pytest.approx(y, rel=1e-6, abs=1e-9)


@quick
@given(GROUPS, GROUPS)
def test_there_is_a_p_value_or_a_reason(a, b):
    for result in results_of(a, b):
        assert (result.p is None) == (result.statistic is None) == (result.reason is not None)
        assert result.p is None or (0 <= result.p <= 1 and math.isfinite(result.statistic))
        assert (result.n_a, result.n_b) in ((len(a), len(b)), (len(b), len(a)))


@slower
@given(GROUPS, GROUPS)
def test_there_is_a_p_value_or_a_reason_of_what_is_drawn(a, b):
    for result in results_by_draws(a, b):
        assert (result.p is None) == (result.statistic is None) == (result.reason is not None)
        assert result.p is None or (0 < result.p <= 1 and math.isfinite(result.statistic))


@slower
@given(GROUPS, GROUPS)
def test_there_is_an_interval_or_a_reason(a, b):
    ratio, chance = sd_ratio(a, b, rng(), resamples=FEW), probability_of_improvement(a, b, rng(), resamples=FEW)
    intervals = [
        ratio.interval,
        chance.interval,
        *(bootstrap_interval(a, of, rng(), resamples=FEW) for of in ("mean", "std", "iqm")),
    ]
    for interval in intervals:
        assert (interval.low is None) == (interval.high is None) == (interval.reason is not None)
        assert interval.low is None or interval.low <= interval.high < 1e6
    assert (ratio.value is None) == (ratio.reason is not None)
    assert (chance.value is None) == (chance.reason is not None)
    assert chance.value is None or 0 <= chance.value <= 1


@quick
@given(GROUPS, GROUPS, st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_nothing(a, b, random):
    mixed = random.sample(a, len(a))
    for one, other in zip(results_of(a, b), results_of(mixed, b), strict=True):
        assert near(one.p, other.p)
        assert one.reason == other.reason
    assert near(summarize(a).std, summarize(mixed).std)
    assert near(iqm(a).value, iqm(mixed).value)
    pairs = zip(expected_max(a, [1, 2, 5]).mean, expected_max(mixed, [1, 2, 5]).mean, strict=True)
    assert all(near(x, y) for x, y in pairs)
    ratios = [sd_ratio(group, b, rng(), resamples=FEW).value for group in (a, mixed)]
    assert near(*ratios)


@quick
@given(GROUPS, GROUPS, SHIFTS, SCALES)
def test_shift_and_scale_change_no_test(a, b, shift, scale):
    moved = [[scale * score + shift for score in group] for group in (a, b)]
    for one, other in zip(results_of(a, b), results_of(*moved), strict=True):
        assert near(one.p, other.p)
        assert one.reason == other.reason


@slower
@given(GROUPS, GROUPS, SHIFTS, SCALES)
def test_shift_and_scale_change_nothing_that_is_drawn(a, b, shift, scale):
    moved = [[scale * score + shift for score in group] for group in (a, b)]
    for one, other in zip(results_by_draws(a, b), results_by_draws(*moved), strict=True):
        assert near(one.p, other.p)
    ratios = [sd_ratio(*groups, rng(), resamples=FEW) for groups in ((a, b), moved)]
    assert near(ratios[0].value, ratios[1].value)
    assert near(ratios[0].interval.low, ratios[1].interval.low)
    assert near(ratios[0].interval.high, ratios[1].interval.high)
    for of in ("mean", "std", "iqm"):
        one, other = (bootstrap_interval(group, of, rng(), resamples=FEW) for group in (a, moved[0]))
        assert one.reason == other.reason
        if one.low is not None:
            expected = [scale * bound + (0 if of == "std" else shift) for bound in (one.low, one.high)]
            assert near(other.low, expected[0])
            assert near(other.high, expected[1])


@quick
@given(st.lists(SCORES, min_size=3, max_size=9), GROUPS, st.integers(0, 9))
def test_nan_deletes_no_group(a, b, place):
    """Spread and means are those of the finite values, ranks and trials put NaN last."""
    broken, ranked = [*a[:place], NAN, *a[place:]], [*a[:place], -1.0, *a[place:]]
    assert summarize(broken).n_nan == 1
    assert results_of(broken, b) == results_of(a, b)
    assert results_by_draws(broken, b)[:-1] == results_by_draws(a, b)[:-1]
    assert sd_ratio(broken, b, rng(), resamples=FEW) == sd_ratio(a, b, rng(), resamples=FEW)
    assert iqm(broken) == iqm(a)
    for of in ("mean", "std", "iqm"):
        one, other = (bootstrap_interval(group, of, rng(), resamples=FEW) for group in (broken, a))
        assert one == other
    one, other = (probability_of_improvement(group, b, rng(), resamples=FEW) for group in (broken, ranked))
    assert one == other
    assert near(expected_max(broken, 2, -1.0).mean[0], expected_max(ranked, 2).mean[0])
    assert mark_best_and_equal([broken, a])[0].flag is True


@quick
@given(GROUPS, GROUPS)
def test_swapping_the_groups_turns_the_answer_round(a, b):
    for center in CENTERS:
        assert near(levene(a, b, center).p, levene(b, a, center).p)
    for equal in (True, False):
        assert near(t_test(a, b, equal).p, t_test(b, a, equal).p)
        assert near(t_test(a, b, equal, "greater").p, t_test(b, a, equal, "less").p)
        both = [t_test(a, b, equal, alternative).p for alternative in ("greater", "less")]
        assert None in both or sum(both) == pytest.approx(1)
    one, other = (probability_of_improvement(*pair, rng(), resamples=FEW) for pair in ((a, b), (b, a)))
    assert one.value is None or one.value == pytest.approx(1 - other.value)
    assert near(one.test.p, other.test.p)
    one, other = (sd_ratio(*pair, rng(), resamples=FEW).value for pair in ((a, b), (b, a)))
    assert not one or not other or one == pytest.approx(1 / other)


@slower
@given(st.lists(SCORES, min_size=3, max_size=4), st.lists(SCORES, min_size=3, max_size=4))
def test_swapping_the_groups_turns_an_exact_permutation_test_round(a, b):
    for of in ("mean", "std"):
        assert near(permutation_test(a, b, of, rng()).p, permutation_test(b, a, of, rng()).p)
        assert near(permutation_test(a, b, of, rng(), "less").p, permutation_test(b, a, of, rng(), "greater").p)


@quick
@given(st.lists(SCORES, min_size=2, max_size=9), st.integers(1, 30))
def test_the_best_of_n_lies_among_the_scores(scores, n):
    for curve in (expected_max(scores, n), expected_test_score(scores, scores[::-1], n)):
        assert min(scores) - 1e-12 <= curve.mean[0] <= max(scores) + 1e-12
        assert curve.std[0] >= 0


@quick
@given(st.lists(st.none() | st.floats(0, 1), max_size=9))
def test_holm_only_raises_p_values_and_keeps_their_order(ps):
    adjusted = holm(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    known = sorted((p, q) for p, q in zip(ps, adjusted, strict=True) if p is not None)
    assert all(p <= q <= 1 for p, q in known)
    assert [q for _, q in known] == sorted(q for _, q in known)


@slower
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_boschloo_has_a_p_value_or_a_reason(failed_a, more_a, failed_b, more_b):
    n_a, n_b = failed_a + more_a, failed_b + more_b
    result = boschloo(failed_a, n_a, failed_b, n_b)
    assert (result.p is None) == (result.reason is not None)
    assert result.p is None or 0 <= result.p <= 1
    assert near(result.p, boschloo(failed_b, n_b, failed_a, n_a).p)


@slower
@given(st.lists(SCORES, min_size=3, max_size=9), st.lists(SCORES, min_size=3, max_size=9), st.integers(0, 5))
def test_the_same_seed_gives_the_same_answer(a, b, seed):
    def everything():
        return (
            sd_ratio(a, b, np.random.default_rng(seed), resamples=FEW),
            probability_of_improvement(a, b, np.random.default_rng(seed), resamples=FEW),
            bootstrap_interval(a, "iqm", np.random.default_rng(seed), resamples=FEW),
            permutation_test(a, b, "std", np.random.default_rng(seed), resamples=19),
        )

    assert everything() == everything()
