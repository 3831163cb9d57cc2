"""Group-sequential boundaries against published tables, full enumeration and the labels of small samples."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stableft.stats.sequential import (
    HIGHER,
    LOWER,
    SAME,
    LookPlan,
    calibrate_permutations,
    decide_claims,
    estimate_failures,
    estimate_mean,
    estimate_spread,
    exchange_labels,
    failure_boundary,
    first_look_that_can_stop,
    look_at_scores,
    spent_error,
)
from stableft.stats.tests import boschloo

FIVE = np.array([0.2, 0.4, 0.6, 0.8, 1.0])


def test_spending_functions_as_printed():
    # Error spent at five equal looks, two-sided .05, by Lan and DeMets' functions (1983): alpha log(1 + (e - 1) t), and
    # 2 - 2 Phi(z / sqrt(t)) a side, as in the R packages gsDesign (sfLDPocock, sfLDOF) and ldbounds.
    assert spent_error("pocock", 0.05, FIVE).round(4).tolist() == [0.0148, 0.0262, 0.0354, 0.0432, 0.05]
    of = spent_error("obrien-fleming", 0.05, FIVE)
    assert of[0] == pytest.approx(2 * 2 * stats.norm.sf(stats.norm.isf(0.0125) / math.sqrt(0.2)))
    assert of.round(4).tolist() == [0.0, 0.0008, 0.0076, 0.0244, 0.05]
    assert spent_error("obrien-fleming", 0.05, 1.0, sides=1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("spending", "printed"),
    [
        # Bounds of z at five equal looks, two-sided .05, by the same functions: as of the program of Reboussin et al.
        # (2000, Controlled Clinical Trials 21) and its R package ldbounds.
        ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
        ("obrien-fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_joint_calibration_gives_the_printed_bounds_of_normal_paths(spending, printed):
    paths = np.cumsum(np.random.default_rng(0).standard_normal((200_000, 5)), axis=1)
    z = np.abs(paths) / np.sqrt(np.arange(1, 6))
    levels = spent_error(spending, 0.05, FIVE).tolist()
    alive, bounds = np.ones(len(z), dtype=bool), []
    for k, look in enumerate(calibrate_permutations((z[np.newaxis, :, k] for k in range(5)), levels)):
        bound = np.quantile(z[:, k], 1 - look.nominal[0])
        bounds.append(bound)
        alive &= z[:, k] <= bound
    assert (~alive).mean() == pytest.approx(0.05, abs=2e-4)
    for bound, expected, error in zip(bounds, printed, [0.2, 0.06, 0.03, 0.02, 0.02], strict=True):
        if math.isfinite(bound) and not (spending == "obrien-fleming" and expected > 4):  # nobody is so far out
            assert bound == pytest.approx(expected, abs=error)


def enumerate_error(looks, boundary, rates, outcome_is_wrong) -> float:
    """Returns the probability of a wrong outcome at any look, over all outcomes of all runs of both arms."""
    n, wrong = looks[-1], 0.0
    for runs in itertools.product((0, 1), repeat=2 * n):
        a, b = np.array(runs[:n]), np.array(runs[n:])
        found = boundary.look_up(a[np.newaxis], b[np.newaxis])[0]
        first = next((outcome for outcome in found if outcome), 0)
        if outcome_is_wrong(first):
            k, m = a.sum(), b.sum()
            wrong += rates[0] ** k * (1 - rates[0]) ** (n - k) * rates[1] ** m * (1 - rates[1]) ** (n - m)
    return wrong


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_error_of_failures_is_that_of_all_paths(spending):
    plan = LookPlan((3, 5), 5, 0.2, spending)
    boundary = failure_boundary(plan)
    orders = np.array(list(itertools.product((0, 1), repeat=10)))
    found = boundary.look_up(orders[:, :5], orders[:, 5:])
    all_failed = orders.sum(axis=1)
    shares = [(found[all_failed == k] != 0).any(axis=1).mean() for k in range(11)]
    assert max(shares) == pytest.approx(boundary.spent[-1])  # exactly, given how many of all runs fail
    assert boundary.spent[-1] <= 0.2
    assert boundary.spent[0] == pytest.approx(max((found[all_failed == k, 0] != 0).mean() for k in range(11)))
    assert boundary.spent[0] <= plan.levels()[0]
    for p in (0.05, 0.2, 0.35, 0.5, 0.7):
        assert enumerate_error(plan.looks, boundary, (p, p), bool) <= max(shares)


def test_failures_of_fewer_runs_than_planned_keep_their_error():
    boundary = failure_boundary(LookPlan((2, 3), 6, 0.3))
    for all_failed in range(13):
        share = 0.0
        for a, b in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
            if (boundary.look_up(np.array([a]), np.array([b])) != 0).any():
                share += math.comb(6, all_failed - sum(a + b)) if all_failed >= sum(a + b) else 0
        assert share / math.comb(12, all_failed) <= boundary.spent[-1] + 1e-12 <= 0.3


def test_failures_are_equivalent_only_within_the_margin():
    plan = LookPlan((3, 5), 5, 0.3, "pocock", margin=0.5)
    boundary = failure_boundary(plan)
    assert SAME in boundary.outcomes[-1]
    for b in (0.0, 0.25, 0.5):
        for rates in ((b + 0.5, b), (b, b + 0.5)):
            assert enumerate_error(plan.looks, boundary, rates, lambda outcome: outcome == SAME) <= 0.3


def test_one_look_is_the_conditional_form_of_boschloo():
    n, alpha = 7, 0.1
    boundary = failure_boundary(LookPlan((n,), n, alpha))
    tables = list(itertools.product(range(n + 1), repeat=2))
    lower = {(a, b): min(stats.hypergeom.cdf(k, 2 * n, a + b, n) for k in (a, b)) for a, b in tables}
    for a, b in tables:
        as_extreme = [t for t in tables if lower[t] <= lower[a, b] * (1 + 1e-9)]
        given = [
            sum(stats.hypergeom.pmf(x, 2 * n, failed, n) for x, y in as_extreme if x + y == failed)
            for failed in range(2 * n + 1)
        ]
        p = boundary.p_values[0][a, b]
        assert p == pytest.approx(min(1.0, max(given)))
        assert boundary.outcomes[0][a, b] == (0 if p > alpha else HIGHER if a < b else LOWER)
        if a != b:
            unconditional = boschloo(a, n, b, n).p
            assert unconditional is not None
            assert p >= unconditional - 2e-3


def test_boundary_of_a_long_plan():
    boundary = failure_boundary(LookPlan(tuple(range(4, 51, 2)), 50, 0.05))
    # 4 of 4 against none, where half of all 100 fail, is the first table that Pocock's .0064 does not allow ...
    assert boundary.outcomes[0][4, 0] == 0
    assert boundary.p_values[0][4, 0] == pytest.approx(2 * math.comb(92, 46) / math.comb(100, 50))
    # ... and six runs of each allow 6 against 0 and 5 against 0.
    assert boundary.outcomes[1][6, 0] == LOWER
    assert boundary.outcomes[1][0, 6] == HIGHER
    assert boundary.spent[-1] <= 0.05
    for outcomes in boundary.outcomes:  # the arms are alike
        assert (np.where(np.abs(outcomes) == 1, -outcomes, outcomes) == outcomes.T).all()


def test_estimates_of_failures():
    a, b = np.array([1] * 8 + [0] * 2), np.zeros(10, dtype=int)
    plan = LookPlan((5, 10), 10, 0.05)
    first = estimate_failures(a, b, plan, 0)
    assert (first.n, first.outcome, first.difference) == (5, LOWER, -1.0)
    assert first.p == pytest.approx(2 * math.comb(10, 5) / math.comb(20, 10))  # if half of all 20 fail
    assert first.interval.high < 0
    early = estimate_failures(a, b, LookPlan((2, 10), 10, 0.05), 0)
    assert early.interval.reason == "this look is too early to decide"


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_intervals_of_failures_agree_with_the_test(spending):
    plan = LookPlan((10, 20, 30), 30, 0.05, spending)
    outcomes = []
    for look, n in enumerate(plan.looks):
        for a, b in itertools.product(range(0, n + 1, 1 + look), repeat=2):
            found = estimate_failures(np.arange(30) < a, np.arange(30) < b, plan, look)
            if found.interval.low is not None:
                outcomes.append(found.outcome)
                assert found.interval.low <= found.difference <= found.interval.high
                if found.outcome == 0:
                    assert found.interval.low <= 0 <= found.interval.high, (n, a, b)
                else:
                    assert (found.interval.low >= 0) == (found.outcome == HIGHER), (n, a, b)
                    assert (found.interval.high <= 0) == (found.outcome == LOWER), (n, a, b)
    assert set(outcomes) == {0, HIGHER, LOWER}


def permutation_error(plan, about, draws=400) -> float:
    """Returns the share of label permutations of 24 given scores in which an exact test of means stops."""
    rng = np.random.default_rng(5)
    pool = np.concatenate([rng.normal(0.7, 0.03, 16), np.full(8, 0.527)])
    pairs = rng.permuted(np.tile(pool, (draws, 1)), axis=1)
    signs = exchange_labels(12, 499, np.random.default_rng(1))
    outcomes, _ = look_at_scores(about, pairs[:, :12], pairs[:, 12:], plan, signs)
    return float((outcomes != 0).any(axis=1).mean())


@pytest.mark.parametrize("about", ["mean", "spread"])
@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_error_of_scores_under_permuted_labels(about, spending):
    assert permutation_error(LookPlan((6, 9, 12), 12, 0.1, spending), about) <= 0.1 + 0.03


def test_all_signs_of_four_pairs_by_hand():
    # One look at four pairs: the observed sum of differences is the largest of all 16 signs, as is its mirror image.
    a, b = np.zeros((1, 4)), np.array([[1.0, 2.0, 3.0, 4.0]])
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=4)))
    for alpha, outcome in ((0.12, 0), (0.125, HIGHER)):
        outcomes, (look,) = look_at_scores("mean", a, b, LookPlan((4,), 4, alpha), signs)
        assert outcomes.tolist() == [[outcome]]
        assert look.p[0] == 2 / 16
    assert look_at_scores("mean", b, a, LookPlan((4,), 4, 0.125), signs)[0].tolist() == [[LOWER]]


def test_a_large_difference_a_small_one_and_none():
    rng = np.random.default_rng(2)
    a = rng.normal(0.70, 0.02, (1, 30))
    plan = LookPlan((10, 20, 30), 30, 0.05, margin=0.02)
    signs = exchange_labels(30, 999, np.random.default_rng(1))
    for shift, expected in ((0.05, HIGHER), (-0.05, LOWER), (0.0, SAME)):
        outcomes, _ = look_at_scores("mean", a, rng.normal(0.70 + shift, 0.02, (1, 30)), plan, signs)
        assert next(outcome for outcome in outcomes[0] if outcome) == expected
    wide, _ = look_at_scores("spread", a, rng.normal(0.70, 0.2, (1, 30)), LookPlan((10, 20, 30), 30, 0.05), signs)
    assert HIGHER in wide[0]


def test_interval_of_means_holds_what_is_not_rejected():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.70, 0.02, 20), rng.normal(0.74, 0.02, 20)
    plan = LookPlan((10, 20), 20, 0.05)
    signs = exchange_labels(20, 1999, np.random.default_rng(1))
    found = estimate_mean(a, b, plan, signs, 1)
    assert found.outcome == HIGHER
    assert 0 < found.interval.low < found.difference < found.interval.high
    for bound, inside in ((found.interval.low, 1), (found.interval.high, -1)):
        kept, _ = look_at_scores("mean", a[np.newaxis], b[np.newaxis] - bound - inside * 1e-3, plan, signs)
        assert kept[0, 1] == 0
    spread = estimate_spread(a, b, plan, signs, 1)
    assert spread.outcome == 0
    assert spread.interval.low < spread.difference < spread.interval.high


def test_interval_of_means_where_no_shift_is_rejected():
    a = np.array([0.5, 0.5, 0.7, 0.5, 0.7, 0.5, 0.5, 0.5])
    b = np.array([0.7, 0.71, 0.5, 0.72, 0.73, 0.5, 0.74, 0.75])
    plan = LookPlan((8,), 80, 0.05)  # the first of several looks
    found, without = [], []
    for seed in range(20):
        signs = exchange_labels(plan.total, 999, np.random.default_rng(seed))
        group = int((np.abs(signs[:, :8].sum(axis=1)) == 8).sum())  # no shift is rejected if these are too many
        interval = estimate_mean(a, b, plan, signs, 0).interval
        if interval.reason != "this look is too early to decide":
            (found if interval.reason is None else without).append(group)
        assert (interval.low is None) == (interval.high is None) == (interval.reason is not None)
    allowed = math.floor(plan.levels()[-1] * 1000 + 1e-9)
    assert without
    assert min(without) > allowed
    assert all(group <= allowed for group in found)


def test_first_look_that_can_stop():
    # 2 of 2^n signs are the most extreme: 2 / 2^7 is at most Pocock's .0196 at 7 of 25 runs, but 2 / 2^6 is more than
    # its .0172 at 6.
    plan = LookPlan(tuple(range(4, 26)), 25, 0.05)
    assert first_look_that_can_stop("mean", plan) == 7
    assert first_look_that_can_stop("spread", plan) == 10
    assert first_look_that_can_stop("mean", LookPlan((3, 4), 4, 0.05)) is None


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_first_look_at_failures_is_the_first_with_a_region(spending):
    looks = tuple(range(2, 21, 2))
    for total, alpha in itertools.product((20, 40), (0.05, 0.005, 0.0001)):
        plan = LookPlan(looks, total, alpha, spending)
        regions = zip(looks, failure_boundary(plan).outcomes, strict=True)
        assert first_look_that_can_stop("failures", plan) == next((n for n, found in regions if found.any()), None)


def test_no_permutation_test_stops_at_less_than_one_permutation():
    for spending, first in (("pocock", 15), ("obrien-fleming", 25)):
        plan = LookPlan((5, 10, 15, 20, 25), 25, 0.00015, spending)
        assert first_look_that_can_stop("mean", plan) == first
        assert plan.levels()[plan.looks.index(first)] >= 1e-4
    assert first_look_that_can_stop("spread", LookPlan((25,), 25, 0.00015)) is None  # at half its level


def test_intervals_of_the_same_lie_within_the_margin():
    plan = LookPlan((10, 20, 40), 40, 0.05, margin=0.25)
    same = 0
    for look, n in enumerate(plan.looks):
        for a, b in itertools.product(range(0, n + 1, 2), repeat=2):
            found = estimate_failures(np.arange(40) < a, np.arange(40) < b, plan, look)
            if found.outcome == SAME:
                same += 1
                assert -0.25 <= found.interval.low <= found.difference <= found.interval.high <= 0.25
    assert same > 20
    rng = np.random.default_rng(4)
    signs = exchange_labels(30, 1999, np.random.default_rng(1))
    plan = LookPlan((10, 20, 30), 30, 0.05, margin=0.02)
    a, b = rng.normal(0.7, 0.02, (2, 30))
    found = estimate_mean(a, b, plan, signs, 2)
    assert found.outcome == SAME
    assert found.interval.level == 0.9
    assert -0.02 <= found.interval.low < found.difference < found.interval.high <= 0.02
    for margin, outcome in ((found.interval.high + 1e-3, SAME), (found.interval.high - 1e-3, 0)):
        narrower = LookPlan(plan.looks, plan.total, plan.alpha, margin=margin)  # its upper end is that of the test
        assert look_at_scores("mean", a[np.newaxis], b[np.newaxis], narrower, signs)[0][0, 2] == outcome


def test_shares_of_alpha():
    def claim(needed: float, look: int, outcome: int = HIGHER):
        return lambda level: [outcome if k == look and level >= needed - 1e-12 else 0 for k in range(3)]

    claims = [claim(0.02, 0), claim(0.03, 1), claim(0.05, 1)]
    assert decide_claims(claims, 0.06, 3, [False] * 3) == ([(0, 1), None, None], [0.02, 0.02, 0.02])
    # The first gives .01 to both others; the second then gives its .03 to the third, at the same look.
    decided, levels = decide_claims(claims, 0.06, 3, [True] * 3)
    assert decided == [(0, 1), (1, 1), (1, 1)]
    assert levels == pytest.approx([0.02, 0.03, 0.06])
    same = [claim(0.02, 0, SAME), *claims[1:]]
    assert decide_claims(same, 0.06, 3, [True] * 3)[0] == [(0, SAME), None, None]
