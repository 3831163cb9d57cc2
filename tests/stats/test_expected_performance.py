"""Expected performance of the best of n trials, against all draws counted one by one."""

import math
import re
from itertools import product

import numpy as np
import pytest

from stableft.stats import expected_max, expected_test_score

NAN = math.nan
VAL = [0.7, 0.6, 0.7, 0.5, 0.9]  # with a tie
TEST = [0.65, 0.66, 0.75, 0.4, 0.55]


def all_draws(val, test, n):
    """Returns the test scores of the first best run of every draw of n with replacement."""
    chosen = []
    for draw in product(range(len(val)), repeat=n):
        ranked = [-math.inf if math.isnan(val[i]) else val[i] for i in draw]
        chosen.append(test[draw[ranked.index(max(ranked))]])
    return np.array(chosen)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_plug_in_counts_every_draw_with_replacement(n):
    found = all_draws(VAL, VAL, n)
    curve = expected_max(VAL, n)
    assert (curve.trials, curve.n, curve.draws, curve.reason) == ((n,), 5, None, None)
    assert curve.mean[0] == pytest.approx(found.mean())
    assert curve.std[0] == pytest.approx(found.std(ddof=0))


def test_expected_max_by_hand():
    # The better of 0 and 1: 3/4 of two draws with replacement hold the 1
    assert expected_max([1.0, 0.0], [1, 2]).mean == (0.5, 0.75)
    assert expected_max([1.0, 0.0], [1, 2]).std == pytest.approx((0.5, math.sqrt(3) / 4))


def test_expected_max_rises_to_the_best_of_all():
    scores = np.random.default_rng(0).normal(0.7, 0.03, 50)
    curve = expected_max(scores, range(1, 400))
    assert np.diff(curve.mean).min() > 0
    assert curve.mean[0] == pytest.approx(scores.mean())
    assert curve.std[0] == pytest.approx(scores.std())
    assert curve.mean[-1] == pytest.approx(scores.max(), rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_selection_by_validation_counts_the_first_of_equal_scores(n):
    found = all_draws(VAL, TEST, n)
    curve = expected_test_score(VAL, TEST, n, np.random.default_rng(0), draws=40_000)
    assert curve.mean[0] == pytest.approx(found.mean(), abs=0.003)
    assert curve.std[0] == pytest.approx(found.std(), abs=0.003)
    assert (curve.n, curve.draws) == (5, 40_000)


def test_selection_by_validation_may_fall_with_more_trials():
    """The run with the best validation score has a poor test score (Z sec. 4)."""
    curve = expected_test_score(VAL, TEST, [2, 40], np.random.default_rng(0))
    assert curve.mean[1] == pytest.approx(0.55, abs=1e-3)
    assert curve.mean[0] > curve.mean[1]


def test_selecting_and_testing_by_one_score_is_the_plug_in_but_for_the_error_of_the_bootstrap():
    scores = np.random.default_rng(1).normal(0.7, 0.03, 50)
    exact = expected_max(scores, [1, 5, 20])
    drawn = expected_test_score(scores, scores, [1, 5, 20], np.random.default_rng(0), draws=20_000)
    assert drawn.mean == pytest.approx(exact.mean, abs=0.001)
    assert drawn.std == pytest.approx(exact.std, rel=0.03)
    assert drawn == expected_test_score(scores, scores, [1, 5, 20], np.random.default_rng(0), draws=20_000)
    assert drawn != expected_test_score(scores, scores, [1, 5, 20], np.random.default_rng(1), draws=20_000)


def test_a_run_without_validation_score_is_selected_only_among_its_like():
    val = [NAN, 0.5, NAN]
    test = [0.1, 0.9, 0.2]
    for n in (1, 2, 3):
        found = all_draws(val, test, n)
        curve = expected_test_score(val, test, n, np.random.default_rng(0), draws=40_000)
        assert curve.mean[0] == pytest.approx(found.mean(), abs=0.01)
    assert expected_test_score([NAN, NAN], [0.3, 0.3], [1, 4], np.random.default_rng(0)).mean == pytest.approx(
        (0.3, 0.3)
    )


def test_a_nan_score_leaves_no_expectation_unless_it_counts_for_one():
    scores, rng = [0.5, NAN, 0.7], np.random.default_rng(0)
    reason = "1 of 3 scores are NaN, so the score of a draw is not always known"
    curve = expected_max(scores, [1, 2])
    assert (curve.mean, curve.std, curve.reason) == ((None, None), (None, None), reason)
    of_test = expected_test_score([0.1, 0.2, 0.3], scores, [1], rng)
    assert (of_test.mean, of_test.reason) == ((None,), reason.replace("scores are", "test scores are"))
    assert expected_max(scores, 2, nan_as=0.0) == expected_max([0.5, 0.0, 0.7], 2)
    given = [
        expected_test_score([3.0, 2.0, 1.0], s, 2, np.random.default_rng(0), nan_as=0.0)
        for s in (scores, [0.5, 0, 0.7])
    ]
    assert given[0] == given[1]


@pytest.mark.parametrize("scores", [[], [0.5], [None]])
def test_one_run_has_no_curve(scores):
    rng = np.random.default_rng(0)
    for curve in (
        expected_max(scores, [1, 2]),
        expected_test_score(scores, scores, [1, 2], rng),
    ):
        assert curve.mean == (None, None)
        assert re.search(f"at least 2 runs.* {len(scores)}", curve.reason)


def test_equal_scores_have_an_sd_of_exactly_zero():
    scores = [0.527] * 25
    assert expected_test_score(scores, scores, [1, 3], np.random.default_rng(0)).std == (0.0, 0.0)
    assert expected_max(scores, [1, 3]).std == (0.0, 0.0)
    assert expected_max(scores, [1, 3]).mean == (0.527, 0.527)


def test_what_cannot_be_meant_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        expected_max(VAL, [3, 0])
    with pytest.raises(ValueError, match="not 5 and 4 scores"):
        expected_test_score(VAL, TEST[:4], 1, rng)
    with pytest.raises(ValueError, match=r"draws .*at least 2, not 1"):
        expected_test_score(VAL, TEST, 1, rng, draws=1)
