"""Stability of single predictions: small cases by hand, brute force over pairs, and what must hold of any runs."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stableft.probes.per_example import (
    Agreement,
    analyze_group,
    cochran_q,
    count_predictions,
    describe_subset,
    estimate_per_example_variance,
    estimate_score_variance,
    example_disagreements,
    example_variances,
    fleiss_kappa,
    jackknife_pair_mean,
    measure_agreement,
    rank_by_instability,
)
from stableft.probes.per_example_data import NO_PREDICTION, Examples, PredictionGroup, predict_classes

FEW = 99  # resamples
# Fleiss (1971) as the textbooks have it: how many of 14 raters put each of 10 subjects into each of 5 categories.
FLEISS = (
    *((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1)),
    *((7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)),
)
RIGHT = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)  # three runs on four examples
RUNS = (
    st.integers(2, 6)
    .flatmap(
        lambda n: st.integers(1, 12).flatmap(
            lambda m: st.lists(st.lists(st.integers(-1, 2), min_size=m, max_size=m), min_size=n, max_size=n)
        )
    )
    .map(np.array)
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def of(found: Agreement) -> tuple:
    return found.unanimous, found.churn, found.churn_min, found.churn_max, found.kappa


def test_by_hand():
    assert example_variances(RIGHT).tolist() == [0, 1 / 3, 1 / 3, 0]  # 1 or 2 of 3 right: 2 / (3 * 2)
    point = estimate_per_example_variance(RIGHT, rng(), FEW)
    assert point.value == pytest.approx(1 / 6)
    whole = estimate_score_variance(RIGHT, rng(), FEW)
    assert whole.scores == (0.75, 0.5, 0.25)
    assert whole.mean == 0.5
    assert whole.value == pytest.approx(1 / 16)  # (1/16 + 0 + 1/16) / 2
    assert whole.ratio == pytest.approx(1.5)  # 1/16 over 1/24
    assert whole.covariance == pytest.approx((1 / 16 - 1 / 24) * 4 / 3)
    assert re.search("differ on 2 examples.*chi-square", whole.test.reason)
    found = measure_agreement(RIGHT.astype(int))
    assert of(found)[:4] == (0.5, pytest.approx(1 / 3), 0.25, 0.5)


def test_numbers_by_hand():
    predictions = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert estimate_per_example_variance(predictions, rng(), FEW).value == pytest.approx(1.0)  # variances 2 and 0
    errors = np.square(predictions - [1.0, 1.0])  # [[0, 1], [4, 1]]: means 0.5 and 2.5, variances 8 and 0
    whole = estimate_score_variance(errors, rng(), FEW)
    assert (whole.value, whole.ratio) == (pytest.approx(2.0), pytest.approx(1.0))
    assert whole.test.p is None


def test_fleiss_kappa_is_that_of_the_textbooks():
    answers = np.array([[i for i, count in enumerate(row) for _ in range(count)] for row in FLEISS]).T
    assert fleiss_kappa(answers) == pytest.approx(0.20993, abs=5e-6)
    assert count_predictions(answers, 5).tolist() == [[*row, 0] for row in FLEISS]


def test_cochran_is_the_formula_of_the_textbooks():
    right = rng().random((5, 40)) < np.linspace(0.4, 0.8, 5)[:, np.newaxis]
    runs, rows = right.sum(axis=1), right.sum(axis=0)
    statistic = 4 * (5 * (runs**2).sum() - runs.sum() ** 2) / (5 * rows.sum() - (rows**2).sum())
    found = cochran_q(right)
    assert found.statistic == pytest.approx(statistic)
    assert found.p == pytest.approx(stats.chi2.sf(statistic, 4))
    whole = estimate_score_variance(right, rng(), FEW)
    assert whole.ratio == pytest.approx(statistic / 4)


def test_cochran_is_what_permuting_runs_within_each_example_gives():
    generator = rng()
    right = generator.random((4, 60)) < np.array([0.55, 0.6, 0.65, 0.75])[:, np.newaxis]
    spread = right.mean(axis=1).var()
    draws = [generator.permuted(right, axis=0).mean(axis=1).var() for _ in range(4000)]
    assert cochran_q(right).p == pytest.approx(np.mean(np.array(draws) >= spread - 1e-12), abs=0.02)


def test_outputs_that_are_not_finite_are_no_class():
    outputs = np.array([[0.1, 0.2], [math.nan, 0.0], [math.inf, 1.0], [2.0, 1.0]])
    assert predict_classes(outputs).tolist() == [1, NO_PREDICTION, NO_PREDICTION, 0]
    answers = np.array([[0, NO_PREDICTION], [0, NO_PREDICTION], [0, 1]])
    assert example_disagreements(answers).tolist() == pytest.approx([0, 2 / 3])  # two without an answer are alike
    assert measure_agreement(answers).unanimous == 0.5
    assert ((answers == np.array([0, 1])).sum(axis=0) == [3, 1]).all()


def test_the_jackknife_is_that_of_leaving_out_each_run():
    answers = rng().integers(0, 3, (6, 30))
    differ = np.stack([(answers != run).mean(axis=1) for run in answers])

    def churn(chosen: list[int]) -> float:
        return float(np.mean([(answers[i] != answers[j]).mean() for i, j in itertools.combinations(chosen, 2)]))

    whole = churn(list(range(6)))
    without = np.array([churn([j for j in range(6) if j != i]) for i in range(6)])
    error = math.sqrt(5 / 6 * np.square(without - without.mean()).sum()) / whole
    factor = math.exp(stats.t.ppf(0.975, 5) * error)
    found = jackknife_pair_mean(differ, 1.0)
    assert (found.low, found.high) == (pytest.approx(whole / factor), pytest.approx(min(whole * factor, 1)))


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_the_interval_over_runs_covers_the_truth(lost):
    """The bootstrap, which counts a run drawn twice as two that agree, covered it in 71 % of arms of 25 runs."""
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 1.2, 100)

    def draw(n: int) -> np.ndarray:
        right = generator.normal(1, 0.5, (n, 1)) - hard + generator.normal(0, 1, (n, 100)) > 0
        right[generator.random(n) < lost] = np.arange(100) % 2 == 0
        return right

    truth = example_variances(draw(20_000)).mean()
    intervals = [estimate_per_example_variance(draw(12), rng(), FEW).over_runs for _ in range(200)]
    covered = np.mean([low <= truth <= high for i in intervals if (low := i.low) and (high := i.high)])
    assert 0.87 < covered <= 1


def test_what_is_missing_says_why():
    one = np.array([[True, False]])
    assert re.search("at least 2 runs .* 1$", estimate_per_example_variance(one, rng(), FEW).reason)
    assert estimate_score_variance(one, rng(), FEW).mean == 0.5
    assert re.search("at least 2 runs .* 1$", measure_agreement(one.astype(int)).reason)
    none = np.zeros((0, 0), dtype=int)
    assert (
        measure_agreement(none).reason
        == estimate_score_variance(none == 1, rng(), FEW).reason
        == "no run has predictions"
    )
    two = estimate_per_example_variance(RIGHT[:2], rng(), FEW)
    assert two.value == pytest.approx(0.125)
    assert re.search("at least 3 runs.* 2$", two.over_runs.reason)
    alike = np.array([[1, 1], [1, 1], [1, 1]])
    found = measure_agreement(alike)
    assert of(found) == (1.0, 0.0, 0.0, 0.0, None)
    assert re.search("same answer", found.kappa_reason)
    assert found.churn_over_runs.reason == "the runs do not differ"
    whole = estimate_score_variance(alike == 1, rng(), FEW)
    assert (whole.value, whole.ratio, whole.test.p) == (0.0, None, None)
    diverged = estimate_per_example_variance(np.array([[1.0, math.nan], [1.0, 2.0]]), rng(), FEW)
    assert re.match("1 of 2 runs .*not finite", diverged.reason)


def test_runs_of_equal_accuracy_that_differ_on_examples():
    """Two good seeds are often so: S_ours is 0, and no number of examples explains that."""
    predictions = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]])
    examples = Examples(tuple(map(str, range(8))), np.zeros(8, dtype=int))
    names = ("1", "2")
    (analysis,) = analyze_group(
        PredictionGroup("a", "t", "test", ("no", "yes"), names, names, predictions, (False, False), examples, 2)
    )
    assert analysis.score_variance.ratio == 0
    (line,) = describe_subset(analysis)
    assert re.search("all runs have the same accuracy, so that S_ours is 0: they differ on single examples$", line)
    _, none = analyze_group(
        PredictionGroup("a", "t", "test", ("no", "yes"), names, names, predictions, (True, True), examples, 2)
    )
    assert list(describe_subset(none)) == ["a, runs that did not fail (n = 0): missing: every run failed"]


def test_the_order_of_ties():
    right = np.array([2, 1, 3, 1, 0])
    unstable = np.array([1 / 3, 0.25, 0.25, 0.25, 0.0])
    assert rank_by_instability(unstable, right).tolist() == [0, 1, 3, 2, 4]
    assert rank_by_instability(unstable).tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_against_brute_force_over_pairs(answers):
    n, m = answers.shape
    labels = np.arange(m) % 3
    right = answers == labels
    pairs = list(itertools.combinations(range(n), 2))
    churn = [np.mean([a != b for a, b in zip(answers[i], answers[j], strict=True)]) for i, j in pairs]
    found = measure_agreement(answers)
    assert found.churn == pytest.approx(np.mean(churn))
    assert (found.churn_min, found.churn_max) == (pytest.approx(min(churn)), pytest.approx(max(churn)))
    assert found.unanimous == pytest.approx(np.mean([len(set(column)) == 1 for column in answers.T.tolist()]))
    assert example_disagreements(answers).mean() == pytest.approx(np.mean(churn))
    point, whole = estimate_per_example_variance(right, rng(), FEW), estimate_score_variance(right, rng(), FEW)
    half = np.mean([(right[i] != right[j]).mean() for i, j in pairs]) / 2
    assert point.value == pytest.approx(half)
    assert point.value == pytest.approx(np.var(right, axis=0, ddof=1).mean())
    assert whole.value == pytest.approx(np.var(right.mean(axis=1), ddof=1), abs=1e-12)
    covariances = np.cov(right.astype(float), rowvar=False).reshape(m, m)
    assert whole.value == pytest.approx(covariances.sum() / m**2, abs=1e-12)
    if whole.covariance is not None:
        assert whole.covariance == pytest.approx(covariances[~np.eye(m, dtype=bool)].mean(), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(RUNS, st.randoms(use_true_random=False))
def test_the_order_of_runs_and_examples_does_not_matter(answers, random):
    runs, examples = list(range(len(answers))), list(range(answers.shape[1]))
    random.shuffle(runs)
    random.shuffle(examples)
    moved = answers[np.ix_(runs, examples)]
    assert of(measure_agreement(moved)) == pytest.approx(of(measure_agreement(answers)), nan_ok=True)
    for which in (lambda a: example_variances(a == 1), example_disagreements):
        assert which(moved).tolist() == which(answers)[examples].tolist()  # to the last bit, or ties would move
    a, b = (estimate_score_variance(some == 1, rng(), FEW) for some in (answers, moved))
    assert b.value == pytest.approx(a.value, abs=1e-15)
    assert (b.ratio is None) == (a.ratio is None)


@settings(max_examples=40, deadline=None)
@given(RUNS)
def test_repeated_examples_change_nothing_that_is_a_mean(answers):
    twice = np.concatenate([answers, answers], axis=1)
    a, b = measure_agreement(answers), measure_agreement(twice)
    assert of(b) == pytest.approx(of(a), nan_ok=True)
    one, two = (estimate_score_variance(some == 1, rng(), FEW) for some in (answers, twice))
    assert two.value == pytest.approx(one.value, abs=1e-15)
    if one.ratio is not None:
        assert two.ratio == pytest.approx(2 * one.ratio)  # the copies are anything but independent


@settings(max_examples=40, deadline=None)
@given(RUNS)
def test_with_two_classes_s_per_point_is_half_the_churn(answers):
    two = answers > 0
    assert estimate_per_example_variance(two, rng(), FEW).value == pytest.approx(
        (measure_agreement(two.astype(int)).churn or 0) / 2
    )
    labelled = two == (np.arange(two.shape[1]) % 2 == 0)  # whatever the labels
    assert estimate_per_example_variance(labelled, rng(), FEW).value == pytest.approx(
        estimate_per_example_variance(two, rng(), FEW).value
    )
