"""E-processes: their expectation by enumeration, their error at any time, and what they find."""

import itertools
import math

import numpy as np
import pytest

from stableft.stats.anytime import (
    estimate_any,
    failure_evidence,
    first_run_that_can_stop,
    look_at_failures,
    look_at_means,
    mean_evidence,
)
from stableft.stats.sequential import HIGHER, LOWER, SAME


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.5, 0.5), (0.8, 0.8), (0.6, 0.3)])
def test_expected_evidence_of_failures_is_at_most_one(rates):
    """Over all outcomes of five runs of each arm, that b fails more often has no evidence where it does not."""
    n, expected = 5, 0.0
    outcomes = list(itertools.product((0, 1), repeat=2 * n))
    runs = np.array(outcomes)
    more, less = failure_evidence(runs[:, :n], runs[:, n:])
    p = rates[0] ** runs[:, :n] * (1 - rates[0]) ** (1 - runs[:, :n])
    q = rates[1] ** runs[:, n:] * (1 - rates[1]) ** (1 - runs[:, n:])
    weights = p.prod(axis=1) * q.prod(axis=1)
    expected = float((weights * np.exp(more[:, -1])).sum())
    assert weights.sum() == pytest.approx(1)
    assert expected <= 1 + 1e-12
    if rates[0] == rates[1]:
        assert float((weights * np.exp(less[:, -1])).sum()) <= 1 + 1e-12
    else:
        assert float((weights * np.exp(less[:, -1])).sum()) > 1  # there is something to find


def test_first_evidence_by_hand():
    # The first runs say nothing. Then the rates are 1.18/1.36 and .18/1.36, their mean one half: run two of each gains
    # log(.8676/.5) + log(.8676/.5).
    more, less = failure_evidence(np.array([[0, 0]]), np.array([[1, 1]]))
    assert more[0].tolist() == pytest.approx([0.0, 2 * math.log(2 * 1.18 / 1.36)])
    assert less[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.3, 0.5, 0.9])
def test_expected_capital_is_at_most_one(value):
    """Over all paths of eight runs of scores 0 and 1 with this mean, for both sides."""
    paths = np.array(list(itertools.product((0.0, 1.0), repeat=8)))
    weights = (value**paths * (1 - value) ** (1 - paths)).prod(axis=1)
    for side in (1, -1):
        assert float((weights * np.exp(mean_evidence(paths, value, side)[:, -1])).sum()) == pytest.approx(1)


def test_error_at_any_time():
    rng = np.random.default_rng(0)
    for rate in (0.2, 0.5):
        a, b = (rng.random((2000, 60)) < rate for _ in range(2))
        assert (look_at_failures(a, b, 0.05) != 0).any(axis=1).mean() <= 0.05
    scores = [np.where(rng.random((1000, 60)) < 0.3, 0.5, rng.normal(0.7, 0.03, (1000, 60))) for _ in range(2)]
    assert (look_at_means(*scores, 0.05, 1.0) != 0).any(axis=1).mean() <= 0.05


def test_what_is_found():
    failed, fine = np.ones((1, 20), dtype=int), np.zeros((1, 20), dtype=int)
    outcomes = look_at_failures(failed, fine, 0.05)[0].tolist()
    assert outcomes[:3] == [0, 0, 0]
    assert outcomes[-1] == LOWER
    assert look_at_failures(fine, failed, 0.05)[0, -1] == HIGHER
    many = np.zeros((1, 60), dtype=int)
    assert look_at_failures(many, many, 0.05, margin=0.1)[0, -1] == SAME
    assert look_at_means(np.full((1, 40), 0.2), np.full((1, 40), 0.8), 0.05, 1.0)[0, -1] == HIGHER


def test_estimate_at_any_time():
    a, b = np.array([1] * 8 + [0] * 2), np.zeros(10)
    found = estimate_any(a, b, 0.05, 1.0, 10, failures=True)
    assert (found.n, found.difference, found.outcome) == (10, -0.8, LOWER)
    assert found.p <= 0.05
    assert found.interval.low <= -0.8 <= found.interval.high
    assert estimate_any(b, b, 0.05, 1.0, 10, failures=True).p == 1.0
    wide = estimate_any(np.array([0.7, 0.7]), np.array([0.7, 0.71]), 0.05, 1.0, 2, failures=False)
    assert (wide.interval.low, wide.interval.high) == (-1.0, 1.0)


def test_intervals_of_the_same_lie_within_the_margin():
    rng = np.random.default_rng(2)
    for failures, margin in ((True, 0.3), (False, 0.1)):
        a, b = (rng.random((2, 150)) < 0.02).astype(float) if failures else rng.uniform(0.7, 0.8, (2, 150))
        found = estimate_any(a, b, 0.05, 1.0, 150, failures, margin)
        assert found.outcome == SAME
        assert found.interval.level == 0.9
        assert -margin <= found.interval.low < found.difference < found.interval.high <= margin


def test_first_run_that_can_stop():
    fine, failed = np.zeros((1, 30)), np.ones((1, 30))
    for alpha in (0.05, 0.005):
        first = int(look_at_failures(fine, failed, alpha)[0].argmax()) + 1
        assert first_run_that_can_stop(True, alpha, 30) == first
        assert first_run_that_can_stop(True, alpha, first - 1) is None
        assert look_at_means(fine, failed, alpha, 1.0)[0, first_run_that_can_stop(False, alpha, 30) - 1] == HIGHER


def test_intervals_of_failures_agree_with_the_test():
    rng = np.random.default_rng(1)
    outcomes = []
    for rate in (0.0, 0.1, 0.4):
        a, b = rng.random(40) < rate, rng.random(40) < 0.6
        for first, second in ((a, b), (b, a)):
            for n in range(1, 41):
                found = estimate_any(first, second, 0.05, 1.0, n, failures=True)
                outcomes.append(found.outcome)
                if found.outcome == 0:
                    assert found.interval.low <= 0 <= found.interval.high
                else:
                    assert (found.interval.low >= 0) == (found.outcome == HIGHER)
                    assert (found.interval.high <= 0) == (found.outcome == LOWER)
    assert set(outcomes) == {0, HIGHER, LOWER}
