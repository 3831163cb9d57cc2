"""Description of values, Holm's adjustment, and what the package offers, against numbers worked out by hand."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as scipy_stats

import stableft.stats
from stableft.stats import PointEstimate, TestResult, holm, iqm, is_significant, summarize

NAN = math.nan


def test_importing_the_statistics_takes_no_scipy():
    code = "import stableft.stats, stableft.stats.power, sys; print({'scipy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_public_name_is_there():
    assert len(set(stableft.stats.__all__)) == len(stableft.stats.__all__)
    assert all(hasattr(stableft.stats, name) for name in stableft.stats.__all__)


def test_describe_by_hand():
    summary = summarize([1.0, 2.0, 3.0, 6.0])
    assert (summary.n, summary.n_nan, summary.mean, summary.median) == (4, 0, 3.0, 2.5)
    assert (summary.min, summary.max) == (1.0, 6.0)
    assert summary.std == pytest.approx(math.sqrt(14 / 3))  # squares 4 + 1 + 0 + 9, over n - 1


def test_describe_counts_nan_beside_the_finite_rest():
    summary = summarize([1.0, NAN, 3.0])
    assert (summary.n, summary.n_nan, summary.n_finite, summary.mean) == (3, 1, 2, 2.0)
    assert summary.std == pytest.approx(math.sqrt(2))


def test_the_runs_counted_in_words():
    assert [summarize(values).runs_counted for values in ([1.0, 2.0], [1.0], [1.0, NAN, 3.0])] == [
        "2 runs",
        "1 run",
        "2 of 3 runs",
    ]
    assert iqm([1.0, NAN, 2.0, 6.0]) == PointEstimate(3.0, 3)


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_describe_nothing(values):
    summary = summarize(values)
    assert summary.n_finite == 0
    assert {summary.mean, summary.std, summary.median, summary.min, summary.max} == {None}


def test_describe_one_value_has_no_std():
    assert summarize([0.5]).std is None
    assert summarize([0.5]).mean == 0.5


def test_describe_equal_values_have_a_std_of_exactly_zero():
    values = [0.527] * 25
    assert np.std(values, ddof=1) > 0  # what numpy makes of them
    assert (summarize(values).std, summarize(values).mean) == (0.0, 0.527)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.04, 0.001]) == pytest.approx((0.04, 0.002))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([None, 0.02, None, 0.01]) == (None, 0.02, None, 0.02)
    assert holm([]) == ()


def test_a_test_holds_below_alpha_only():
    def result(p):
        return TestResult("a test", None, None, None, p, 3, 3)

    assert [is_significant(result(p), 0.05) for p in (0.049, 0.05, None)] == [True, False, False]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 1.0, 9.0], 5.0),  # nothing is cut
        ([100.0, 2.0, 1.0, 4.0], 3.0),  # one at each end is
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 60.0], 3.0),  # 7 / 4 rounded down: one
        ([-90.0, -80.0, 1.0, 2.0, 3.0, 6.0, 70.0, 80.0], 3.0),
        ([0.527] * 8, 0.527),
    ],
)
def test_iqm_by_hand(values, expected):
    assert iqm(values) == PointEstimate(pytest.approx(expected, rel=1e-15), len(values))


def test_iqm_is_scipys_trimmed_mean():
    values = np.random.default_rng(0).normal(0, 1, 25)
    assert iqm(values).value == pytest.approx(scipy_stats.trim_mean(values, 0.25), rel=1e-12)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "3 values.* 0"),
        ([0.5], "3 values.* 1"),
        ([0.5, 0.6, NAN], "3 values.* 2"),
        ([0.5, math.inf], "3 values.* 1"),
    ],
)
def test_iqm_says_why_there_is_none(values, reason):
    answer = iqm(values)
    assert (answer.value, answer.n) == (None, sum(map(math.isfinite, values)))
    assert re.search(reason, answer.reason)
