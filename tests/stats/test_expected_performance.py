"""Expected performance of the best of n trials, against all draws counted one by one and against drawn ones."""

import math
import re
from itertools import product

import numpy as np
import pytest

from stableft.stats import expected_max, expected_test_score

NAN = math.nan
VAL = [0.7, 0.6, 0.7, 0.5, 0.9]  # with a tie
TEST = [0.65, 0.66, 0.75, 0.4, 0.55]


def all_draws(val, test, n, baseline=None):
    """Returns the selected test scores of every draw of n with replacement, and how many draws each stands for.

    Equal validation scores share their draw. A run with a NaN score is drawn in vain.
    """
    scores, weights = [], []
    for draw in product(range(len(val)), repeat=n):
        finite = [i for i in draw if math.isfinite(val[i]) and math.isfinite(test[i])]
        best = [i for i in finite if val[i] == max(val[j] for j in finite)]
        scores += [test[i] for i in best] or [baseline]
        weights += [1 / len(best) for _ in best] or [1.0]
    return np.array(scores), np.array(weights)


def moments(scores, weights):
    mean = np.average(scores, weights=weights)
    return mean, math.sqrt(np.average((scores - mean) ** 2, weights=weights))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("val", "test"),
    [
        (VAL, VAL),
        (VAL, TEST),
        ([0.7] * 4, [0.1, 0.2, 0.3, 0.9]),
        ([NAN, 0.5, NAN, 0.4], [0.1, 0.9, 0.2, 0.7]),
        ([0.3, 0.5, 0.9, 0.4], [0.1, 0.9, NAN, NAN]),
        ([NAN, 0.5, 0.5, 0.2], [NAN, 0.9, NAN, 0.7]),
        ([NAN, NAN, NAN], [0.1, NAN, 0.3]),
    ],
)
def test_the_curve_counts_every_draw_with_replacement(val, test, n):
    curve = expected_test_score(val, test, n, baseline=0.5)
    assert (curve.mean[0], curve.std[0]) == pytest.approx(moments(*all_draws(val, test, n, 0.5)))
    n_nan = sum(not math.isfinite(v + t) for v, t in zip(val, test, strict=True))
    assert (curve.trials, curve.n, curve.n_nan, curve.reason) == ((n,), len(val), n_nan, None)
    in_vain = sum(not any(math.isfinite(val[i] + test[i]) for i in draw) for draw in product(range(len(val)), repeat=n))
    assert curve.all_nan == (pytest.approx(in_vain / len(val) ** n),)
    best = expected_max(val, n, baseline=0.5)
    assert (best.mean[0], best.std[0]) == pytest.approx(moments(*all_draws(val, val, n, 0.5)))


def test_expected_max_by_hand():
    # The better of 0 and 1: 3/4 of two draws with replacement hold the 1
    assert expected_max([1.0, 0.0], [1, 2]).mean == (0.5, 0.75)
    assert expected_max([1.0, 0.0], [1, 2]).std == pytest.approx((0.5, math.sqrt(3) / 4))
    # A quarter of two draws hold the NaN run alone
    assert expected_max([1.0, NAN], [1, 2], baseline=0.5).mean == (0.75, 0.875)
    assert expected_max([1.0, NAN], [1, 2], baseline=0.5).all_nan == (0.5, 0.25)


def test_expected_max_rises_to_the_best_of_all():
    scores = np.random.default_rng(0).normal(0.7, 0.03, 50)
    curve = expected_max(scores, range(1, 400))
    assert np.diff(curve.mean).min() > 0
    assert curve.mean[0] == pytest.approx(scores.mean())
    assert curve.std[0] == pytest.approx(scores.std())
    assert curve.mean[-1] == pytest.approx(scores.max(), rel=1e-3)


@pytest.mark.parametrize("trials", [1, 5, 20])
def test_the_curve_is_the_bootstrap_of_many_draws(trials):
    """Z sec. 4: the test score of the run with the best validation score, the first drawn among equal ones."""
    rng = np.random.default_rng(1)
    val, test = rng.normal(0.7, 0.03, (2, 50)).round(2)
    drawn = rng.integers(0, 50, (40_000, trials))
    selected = test[drawn[np.arange(len(drawn)), val[drawn].argmax(axis=1)]]
    curve = expected_test_score(val, test, trials)
    assert abs(curve.mean[0] - selected.mean()) < 4 * selected.std() / 200
    assert curve.std[0] == pytest.approx(selected.std(), rel=0.03)


def test_selection_by_validation_may_fall_with_more_trials():
    """The run with the best validation score has a poor test score (Z sec. 4)."""
    curve = expected_test_score(VAL, TEST, [2, 40])
    assert curve.mean[1] == pytest.approx(0.55, abs=1e-3)
    assert curve.mean[0] > curve.mean[1]


def test_a_nan_run_changes_nothing_that_another_run_decides():
    """It is like a run with the lowest validation score whose test score is the baseline."""
    curve = expected_test_score([0.7, NAN, 0.6], [0.65, 0.9, 0.8], [1, 2, 9], baseline=0.5)
    other = expected_test_score([0.7, 0.1, 0.6], [0.65, 0.5, 0.8], [1, 2, 9])
    assert (curve.mean, curve.std) == (other.mean, pytest.approx(other.std))


def test_a_nan_score_without_a_baseline_leaves_no_expectation():
    reason = "the scores of 1 of 3 runs are NaN, and no baseline is known for draws of these alone"
    for curve in (expected_max([0.5, NAN, 0.7], [1, 2]), expected_test_score([0.1, 0.2, 0.3], [0.5, NAN, 0.7], [1, 2])):
        assert (curve.mean, curve.std, curve.reason) == ((None, None), (None, None), reason)


@pytest.mark.parametrize("scores", [[], [0.5], [None]])
def test_one_run_has_no_curve(scores):
    for curve in (expected_max(scores, [1, 2], 0.5), expected_test_score(scores, scores, [1, 2])):
        assert curve.mean == (None, None)
        assert re.search(f"at least 2 runs.* {len(scores)}", curve.reason)


def test_equal_scores_have_an_sd_of_exactly_zero():
    scores = [0.527] * 25
    assert expected_test_score(scores, scores, [1, 3]).std == (0.0, 0.0)
    assert expected_max(scores, [1, 3]).std == (0.0, 0.0)
    assert expected_max(scores, [1, 3]).mean == (0.527, 0.527)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        expected_max(VAL, [3, 0])
    with pytest.raises(ValueError, match="not 5 and 4 scores"):
        expected_test_score(VAL, TEST[:4], 1)
