"""Power by simulation against SciPy called on the same draws, and by enumeration against all tables."""

import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.stats import boschloo, compute_normal_power_curve, compute_observed_power_curves, holm, render_power
from stableft.stats.power import (
    SIMULATED_AT_ONCE,
    boschloo_rejections,
    enumerate_boschloo_power,
    resample_levene_power,
    resample_welch_power,
    seeds_needed,
    simulate_levene_power,
    welch_p_values,
)

NAN = math.nan
TWO_MODES = [0.53] * 6 + [0.55] * 3 + [0.66, 0.68, 0.69, 0.7, 0.71, 0.72, 0.74, 0.65]
ONE_MODE = [0.66, 0.68, 0.69, 0.7, 0.71, 0.72, 0.74, 0.65, 0.67, 0.7]


@pytest.mark.parametrize("center", ["median", "mean", "trimmed"])
def test_power_counts_scipys_rejections(center):
    point = simulate_levene_power(2.0, 1.5, 0.05, 25, np.random.default_rng(3), center, draws=200)
    rng = np.random.default_rng(3)
    pairs = list(zip(rng.normal(0, 2, (200, 25)), rng.normal(0, 3, (200, 25)), strict=True))
    rejected = sum(scipy_stats.levene(x, y, center=center).pvalue < 0.05 for x, y in pairs)
    assert (point.n, point.power) == (25, rejected / 200)
    interval = scipy_stats.binomtest(rejected, 200).proportion_ci(method="wilson")
    assert (point.interval.low, point.interval.high) == (interval.low, interval.high)


def test_power_from_scores_counts_scipys_rejections():
    point = resample_levene_power(TWO_MODES, ONE_MODE, 0.05, 12, np.random.default_rng(3), draws=200)
    rng = np.random.default_rng(3)
    drawn = [np.array(group)[rng.integers(0, len(group), (200, 12))] for group in (TWO_MODES, ONE_MODE)]
    rejected = sum(scipy_stats.levene(x, y).pvalue < 0.05 for x, y in zip(*drawn, strict=True))
    assert point.power == rejected / 200
    assert 0.1 < point.power < 0.9


def test_power_of_means_counts_scipys_rejections():
    point = resample_welch_power(TWO_MODES, ONE_MODE, 0.05, 8, np.random.default_rng(3), draws=200)
    rng = np.random.default_rng(3)
    drawn = [np.array(group)[rng.integers(0, len(group), (200, 8))] for group in (TWO_MODES, ONE_MODE)]
    rejected = sum(scipy_stats.ttest_ind(x, y, equal_var=False).pvalue < 0.05 for x, y in zip(*drawn, strict=True))
    assert point.power == rejected / 200


def test_welch_of_many_pairs_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (50, 7)), rng.normal(0.5, 3, (50, 7))
    expected = scipy_stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue
    assert welch_p_values(x, y) == pytest.approx(expected, rel=1e-10)
    assert np.isnan(welch_p_values(np.full((1, 5), 0.7), np.full((1, 5), 0.527))).all()


def test_equal_spread_is_found_as_often_as_alpha_says():
    point = simulate_levene_power(1.0, 1.0, 0.05, 40, np.random.default_rng(0), "mean", draws=20_000)
    assert point.power == pytest.approx(0.05, abs=0.006)
    assert (
        simulate_levene_power(1.0, 1.0, 0.05, 40, np.random.default_rng(0), draws=20_000).power < 0.05
    )  # centred by the median


def test_power_depends_on_the_ratio_alone():
    points = [simulate_levene_power(sd, 1.5, 0.05, 25, np.random.default_rng(0), draws=1000) for sd in (0.02, 2.0)]
    assert points[0] == points[1]


def test_draws_in_pieces_are_all_drawn():
    n = SIMULATED_AT_ONCE // 100
    point = resample_levene_power(TWO_MODES, ONE_MODE, 0.05, n, np.random.default_rng(0), draws=250)
    assert point.power == 1.0
    assert point.interval.low == pytest.approx(250 / (250 + 1.959964**2))


def test_samples_without_a_test_are_not_rejected():
    """Of one odd run in ten many samples of three have none, so neither group varies."""
    point = resample_levene_power([0.5] * 9 + [0.9], [0.7] * 9 + [0.8], 0.05, 3, np.random.default_rng(0), draws=500)
    assert 0 <= point.power < 0.05


@pytest.mark.parametrize(
    ("a", "reason"),
    [
        ([0.5, 0.6], "3 values.* 2 and 10"),
        ([0.5, NAN, 0.7], "3 values.* 2 and 10"),
    ],
)
def test_power_says_why_there_is_none(a, reason):
    rng = np.random.default_rng(0)
    for point in (resample_levene_power(a, ONE_MODE, 0.05, 10, rng), resample_welch_power(a, ONE_MODE, 0.05, 10, rng)):
        assert point.power is None
        assert re.search(reason, point.interval.reason)
    assert resample_levene_power([0.5] * 3, [0.7] * 3, 0.05, 10, rng).interval.reason == "neither group varies"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.0, 1.5, 0.05, 2), "n must be at least 3, not 2"),
        ((2.0, 1.5, 1.0, 10), "alpha must be between 0 and 1, not 1.0"),
        ((0.0, 1.5, 0.05, 10), "sd and ratio must be positive, not 0.0 and 1.5"),
        ((2.0, -1.5, 0.05, 10), "sd and ratio must be positive, not 2.0 and -1.5"),
        ((2.0, NAN, 0.05, 10), "sd and ratio must be positive, not 2.0 and nan"),
    ],
)
def test_power_refuses_what_has_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_levene_power(*arguments, np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("n", [4, 9])
def test_rejected_tables_are_those_of_boschloos_test(n, alpha):
    tables = [[boschloo(a, n, b, n).p for b in range(n + 1)] for a in range(n + 1)]
    expected = np.array([[p is not None and p < alpha for p in row] for row in tables])
    assert boschloo_rejections(n, alpha).tolist() == expected.tolist()


def test_rejected_tables_of_many_runs_are_those_of_fishers_test():
    n = 201
    rejected = boschloo_rejections(n, 0.05)
    for a, b in ((20, 35), (20, 36), (20, 37), (0, 6), (0, 5), (100, 119), (100, 120), (100, 121)):
        assert rejected[a, b] == rejected[b, a] == (boschloo(a, n, b, n).p < 0.05)


def test_power_of_failures_counts_every_table():
    n, shares = 6, (0.1, 0.6)
    chances = [scipy_stats.binom.pmf(range(n + 1), n, share) for share in shares]
    expected = sum(
        chances[0][a] * chances[1][b]
        for a in range(n + 1)
        for b in range(n + 1)
        if (boschloo(a, n, b, n).p or 1.0) < 0.05
    )
    point = enumerate_boschloo_power(*shares, 0.05, n)
    assert point.power == pytest.approx(expected)
    assert point.power == pytest.approx(enumerate_boschloo_power(*reversed(shares), 0.05, n).power)
    assert (point.interval.method, point.interval.low) == ("enumeration", point.power)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_equal_failure_rates_are_found_at_most_as_often_as_alpha_says(share):
    assert enumerate_boschloo_power(share, share, 0.05, 25).power < 0.05


def test_seeds_needed_finds_the_first_n():
    for first in (3, 4, 17, 99, 100, 1000):
        looked_at = []

        def power_at(n, first=first, looked_at=looked_at):
            looked_at.append(n)
            return 0.9 if n >= first else 0.5

        assert seeds_needed(power_at) == first
        assert len(looked_at) < 25
    assert seeds_needed(lambda n: 0.79) is None
    assert seeds_needed(lambda n: None) is None
    assert seeds_needed(lambda n: n / 100, 0.5, max_seeds=40) is None
    with pytest.raises(ValueError, match="the target power must be between 0 and 1, not 80"):
        seeds_needed(lambda n: 1.0, 80)


def test_an_exhaustive_search_finds_the_first_n_of_a_saw():
    def saw(n):
        return 0.81 if n in (7, 9) or n > 11 else 0.7

    assert seeds_needed(saw, exhaustive_up_to=100) == 7
    assert seeds_needed(lambda n: saw(n - 100), exhaustive_up_to=100) in (107, 109, 112)
    assert seeds_needed(saw, exhaustive_up_to=5, max_seeds=6) is None
    assert seeds_needed(saw, exhaustive_up_to=100, max_seeds=6) is None


@pytest.fixture(scope="module")
def normal_curve():
    return compute_normal_power_curve(2.0, 1.5, seed=0)


def test_power_of_normal_scores(normal_curve):
    curve = normal_curve
    powers = {point.n: point.power for point in curve.points}
    assert list(powers) == sorted({5, 10, 15, 20, 25, 30, 40, 50, 75, 100, curve.needed})
    assert 70 < curve.needed < 90
    assert powers[curve.needed] >= 0.8
    before = simulate_levene_power(2.0, 1.5, 0.05 / 3, curve.needed - 1, np.random.default_rng([0, curve.needed - 1]))
    assert before.power < 0.8
    assert np.diff(list(powers.values())).min() > 0


def test_power_of_normal_scores_is_reproducible(normal_curve):
    assert compute_normal_power_curve(2.0, 1.5, seed=0) == normal_curve
    other = compute_normal_power_curve(2.0, 1.5, seed=1)
    assert other != normal_curve
    assert other.needed == pytest.approx(normal_curve.needed, abs=4)


def test_the_power_of_a_long_curve_goes_as_far_as_is_needed():
    curve = compute_normal_power_curve(2.0, 1.25, draws=1000)
    assert 100 < curve.needed < 300
    assert {150, curve.needed} <= {point.n for point in curve.points}
    assert max(point.n for point in curve.points) <= 300
    none = compute_normal_power_curve(2.0, 1.0, draws=100)
    assert (none.needed, none.points[-1].n) == (None, 1000)
    assert re.search(r"below 0\.8 .*1000 seeds", none.reason)


def test_render_power_of_normal_scores(normal_curve):
    need, table, method = render_power(normal_curve).split("\n\n")
    point = next(point for point in normal_curve.points if point.n == normal_curve.needed)
    assert need.startswith(f"{point.n} seeds an arm for spread (normal scores with SD 2 against 3): power ")
    flat = " ".join(need.split())
    assert f"{point.power:.3f} [{point.interval.low:.3f}, {point.interval.high:.3f}], Levene's test (centre m" in flat
    lines = table.splitlines()
    assert lines[0] == "n per arm  Levene's test"
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == f"{5:>9}  {normal_curve.points[0].power:>13.2f}"
    assert "alpha 0.05 / 3" in method
    assert "5,000 draws, seed 0" in " ".join(method.split())
    none = render_power(compute_normal_power_curve(2.0, 1.0, draws=100))
    assert none.startswith("No number of seeds")
    assert "100 draws, seed 0" in " ".join(none.split())


def test_power_of_real_scores():
    failed = [[score < 0.6 for score in scores] for scores in (TWO_MODES, ONE_MODE)]
    curves = compute_observed_power_curves(TWO_MODES, ONE_MODE, *failed, draws=1000)
    assert [curve.test for curve in curves] == ["Levene's test", "Boschloo's exact test", "Welch's t-test"]
    assert [curve.alternative for curve in curves] == [None, "two-sided", "two-sided"]
    assert all(curve.needed for curve in curves)
    spread, failures, means = ({point.n: point.power for point in curve.points} for curve in curves)
    rng = np.random.default_rng
    assert spread[10] == resample_levene_power(TWO_MODES, ONE_MODE, 0.05 / 3, 10, rng([0, 10]), draws=1000).power
    assert failures[10] == enumerate_boschloo_power(9 / 17, 0.0, 0.05 / 3, 10).power
    assert means[10] == resample_welch_power(TWO_MODES, ONE_MODE, 0.05 / 3, 10, rng([0, 10]), draws=1000).power
    text = render_power(curves)
    assert max(map(len, text.splitlines())) <= 100
    assert text.split("\n\n")[1].startswith("n per arm  Levene's test  Boschloo's exact test  Welch's t-test")
    text = " ".join(text.split())
    assert "failed runs 9 of 17 against 0 of 10" in text
    assert "all tables enumerated." in text
    assert f"mean {np.mean(TWO_MODES):.3g} of 17 against 0.692 of 10 scores" in text


def test_power_of_real_scores_says_what_is_missing():
    curves = compute_observed_power_curves([0.5, NAN, 0.7], ONE_MODE, None, None, draws=100)
    assert [curve.needed for curve in curves] == [None] * 3
    assert [curve.points for curve in curves] == [()] * 3
    assert re.search("3 values.* 2 and 10", curves[0].reason)
    assert re.search("not known .*failed", curves[1].reason)
    text = render_power(curves)
    assert text.count("No number of seeds") == 3
    same = compute_observed_power_curves(ONE_MODE, TWO_MODES, [True, False], [False, True], draws=100)[1]
    assert "equally often" in same.reason
    assert compute_observed_power_curves(ONE_MODE, TWO_MODES, [], [True], draws=100)[1].reason.endswith("needs a run")
    unknown = compute_observed_power_curves(ONE_MODE, TWO_MODES, [True, None], [False], draws=100)[1]
    assert unknown.reason == curves[1].reason


def test_scores_that_are_nan_are_not_drawn():
    arguments = 0.05, 10
    for resample in (resample_levene_power, resample_welch_power):
        points = [
            resample(group, ONE_MODE, *arguments, np.random.default_rng(0), draws=100)
            for group in (TWO_MODES, [NAN, *TWO_MODES, NAN])
        ]
        assert points[0] == points[1]
    curve = compute_observed_power_curves([NAN, *TWO_MODES], ONE_MODE, None, None, draws=10)[0]
    assert "of 17 against" in curve.effect


def test_what_suffices_concludes_over_all_tests_of_the_table():
    """Of runs that all fail against runs that do not, the smallest n with power 1 is one at which Holm rejects."""
    curve = compute_observed_power_curves([0.5] * 5, ONE_MODE, [True] * 5, [False] * 10, target=0.99, draws=10)[1]
    assert curve.needed == 4
    for others in itertools.product((0.001, 0.9), repeat=2):
        assert holm([boschloo(4, 4, 0, 4).p, *others])[0] < 0.05
    assert holm([boschloo(3, 3, 0, 3).p, 0.9, 0.9])[0] > 0.05
    one, three = (compute_normal_power_curve(2.0, 1.5, draws=500, n_tests=n).needed for n in (1, 3))
    assert one < three
