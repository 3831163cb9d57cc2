"""Scores checked by hand, and the rule for NaN."""

import math
import subprocess
import sys

import numpy as np
import pytest

from stableft.data.metrics import compute_scores, label_entropy, majority_baseline

LABELS = np.array([1, 1, 1, 0])


def outputs(*classes: int) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[list(classes)]


def test_scores_by_hand():
    # predicted 1 1 0 0: three of four right; precision 1, recall 2/3; MCC = (2*1 - 0*1) / sqrt(2*3*1*2)
    values = compute_scores(outputs(1, 1, 0, 0), LABELS, ("f1", "accuracy", "accuracy_f1", "mcc"))
    assert values == pytest.approx({"f1": 0.8, "accuracy": 0.75, "accuracy_f1": 0.775, "mcc": 2 / math.sqrt(12)})


def test_correlations_by_hand():
    values = compute_scores(
        np.array([[1.0], [2.0], [4.0], [3.0]]), np.array([1.0, 2.0, 3.0, 4.0]), ("spearman", "pearson")
    )
    assert values == pytest.approx({"spearman": 0.8, "pearson": 0.8})


def test_accuracy_is_added_for_classes_and_not_for_numbers():
    assert compute_scores(outputs(1, 1, 0, 0), LABELS, ("mcc",)).keys() == {"mcc", "accuracy"}
    assert compute_scores(np.array([[1.0], [2.0]]), np.array([1.0, 2.0]), ("spearman",)).keys() == {"spearman"}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_diverged_run_scores_nan(wrong):
    broken = outputs(1, 1, 0, 0)
    broken[2, 1] = wrong
    values = compute_scores(broken, LABELS, ("f1", "accuracy"))
    assert all(math.isnan(value) for value in values.values())


def test_constant_predictions():
    always = compute_scores(outputs(1, 1, 1, 1), LABELS, ("mcc", "f1"))
    assert always["mcc"] == 0.0
    assert compute_scores(outputs(0, 0, 0, 0), np.array([1, 1, 1, 1]), ("f1",))["f1"] == 0.0
    constant = compute_scores(np.full((3, 1), 2.5), np.array([1.0, 2.0, 3.0]), ("spearman", "pearson"))
    assert math.isnan(constant["spearman"])  # 6 of 50 real runs: they failed, they are not dropped
    assert math.isnan(constant["pearson"])


def test_a_single_row_has_no_correlation():
    values = compute_scores(np.array([[1.0]]), np.array([1.0]), ("spearman", "pearson"))
    assert all(math.isnan(value) for value in values.values())


def test_majority_baselines_of_mrpc_as_the_papers_have_them():
    labels = np.array([1] * 279 + [0] * 129)  # MRPC's 408 dev rows
    assert majority_baseline(labels, "accuracy") == pytest.approx(0.684, abs=5e-4)
    assert majority_baseline(labels, "f1") == pytest.approx(0.812, abs=5e-4)
    assert majority_baseline(labels, "accuracy_f1") == pytest.approx(0.75, abs=5e-3)  # M's "0.75 F1"
    assert [majority_baseline(labels, metric) for metric in ("mcc", "spearman", "pearson")] == [0.0, 0.0, 0.0]


def test_label_entropy_is_that_of_the_class_shares():
    assert label_entropy(np.array([1, 1, 0, 1])) == pytest.approx(0.5623351)  # -(0.75 ln 0.75 + 0.25 ln 0.25)
    assert label_entropy(np.array([2, 2])) == 0.0
    assert label_entropy(np.array([0.5, 1.5], dtype=np.float32)) is None


def test_accuracy_needs_no_other_library():
    """They take a worker more than a second to load, before its first step."""
    code = (
        "import sys, numpy as np; from stableft.data.metrics import compute_scores; "
        "print(compute_scores(np.eye(2), np.array([0, 1]), ('accuracy',)), {'sklearn', 'scipy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'accuracy': 1.0} set()\n"
