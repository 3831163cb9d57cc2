"""A run failed if it is no better than chance, whatever the metric and whoever made it."""

import math

import numpy as np
import pytest
from scipy import stats
from support.table_records import make_imported, make_record

from stableft.data.metrics import compute_scores, majority_baseline
from stableft.records.failure import (
    NOISE_QUANTILE,
    best_constant_score,
    chance_level,
    find_chance,
    find_validation_constant,
    has_failed,
    is_failed,
    is_run_failed,
    majority_baselines,
)
from stableft.records.frame import build_frame
from stableft.records.run_record import DataRecord, ImportedScores, Scores, dump_record, parse_record_as

DATA = DataRecord(fingerprint="f", train_rows=8, val_rows=1043, test_rows=0, label_entropy=0.69, baselines={})
METRICS = ("f1", "accuracy", "accuracy_f1")


def own_run(metric: str, score: float, labels: np.ndarray | None = None, rows: int = 1043, **scores: float):
    """A record of a run of ours as older versions wrote it: with the baselines of the most frequent class."""
    task = {"f1": "mrpc", "mcc": "cola", "spearman": "stsb", "accuracy": "rte"}[metric]
    values = {metric: score} | scores
    baselines = {name: 0.0 if labels is None else majority_baseline(labels, name) for name in (*METRICS, metric)}
    data = DATA.model_copy(
        update={"baselines": {"val": baselines}, "val_rows": rows if labels is None else len(labels)}
    )
    last = Scores(step=9, val=values, test=None)
    return make_record(task=task, last=score).model_copy(update={"data": data, "last": last})


@pytest.mark.parametrize(
    ("value", "failed"),
    [(0.5271, True), (0.5, True), (0.52710000000001, True), (0.5271 + 1 / 277, False), (math.nan, True)],
)
def test_failed_is_nan_or_not_above_the_chance_level(value, failed):
    assert is_failed(value, 0.5271) is failed


@pytest.mark.parametrize(("value", "digits", "failed"), [(0.5252, 4, True), (0.5252, 5, False), (math.nan, 4, True)])
def test_printed_scores_are_compared_as_they_are_rounded(value, digits, failed):
    assert is_failed(value, 73 / 139, digits) is failed


@pytest.mark.parametrize("counts", [(9, 11), (11, 9), (10, 10), (1, 19), (19, 1), (20, 0), (0, 20), (15, 5), (13, 7)])
@pytest.mark.parametrize("metric", METRICS)
def test_the_best_constant_prediction_is_the_better_of_always_yes_and_always_no(counts, metric):
    labels = np.repeat([0, 1], counts)
    constant = [np.tile(answer, (len(labels), 1)) for answer in np.eye(2)]
    best = max(compute_scores(outputs, labels, (metric,))[metric] for outputs in constant)
    stored = {name: majority_baseline(labels, name) for name in METRICS}
    assert best_constant_score(metric, stored) == pytest.approx(best, abs=1e-12)
    assert majority_baselines(counts) == pytest.approx(stored)
    only = {name: stored[name] for name in (metric, "accuracy")}  # all that a task with this metric alone stores
    assert best_constant_score(metric, only) == pytest.approx(best, abs=1e-12)


def test_an_always_yes_run_fails_where_no_is_more_frequent():
    labels = np.repeat([0, 1], (11, 9))
    yes = compute_scores(np.tile([0.0, 1.0], (20, 1)), labels, METRICS)
    assert yes["f1"] == pytest.approx(0.62, abs=5e-3)
    run = own_run("f1", yes.pop("f1"), labels, **yes)
    assert (run.failed, has_failed(run)) == (False, True)  # as it was judged, and as it is
    assert has_failed(run.model_copy(update={"last": Scores(step=9, val={"f1": 0.63}, test=None)})) is False


@pytest.mark.parametrize("metric", ["mcc", "spearman", "pearson"])
def test_correlations_fail_up_to_what_noise_gives_them(metric):
    assert stats.norm.sf(NOISE_QUANTILE) == pytest.approx(0.05, abs=1e-4)
    assert chance_level(metric, 0.0, 1043) == pytest.approx(0.0509, abs=5e-5)
    assert chance_level(metric, 0.0, None) is None
    numbers = np.random.default_rng(0).normal(size=(4001, 200))  # labels, and what 4,000 models make of the rows
    match metric:
        case "mcc":
            numbers = np.sign(numbers)  # MCC is the correlation of two classes
        case "spearman":
            numbers = stats.rankdata(numbers, axis=1)
    correlations = np.corrcoef(numbers)[0, 1:]
    level = chance_level(metric, 0.0, 200)
    above = np.mean([not is_failed(value, level) for value in correlations])
    assert above == pytest.approx(0.05, abs=0.012)  # a model that has learnt nothing is not caught in one of 20


@pytest.mark.parametrize(("score", "failed"), [(0.0157, True), (-0.0157, True), (0.0509, True), (0.0510, False)])
def test_a_small_mcc_fails_on_either_side_of_zero(score, failed):
    assert has_failed(own_run("mcc", score)) is failed
    assert has_failed(own_run("spearman", score)) is failed


def test_the_papers_definition_is_beside_it():
    labels = np.repeat([0, 1], (300, 700))
    run = own_run("mcc", 0.2, labels, accuracy=0.69)
    (row,) = build_frame([run]).to_dict("records")
    assert (row["failed"], row["failed_by_accuracy"], row["baseline"]) == (False, True, 0.0)
    assert row["chance"] == pytest.approx(1.645 / math.sqrt(1000))
    (row,) = build_frame([own_run("spearman", 0.9)]).to_dict("records")
    assert row["failed"] is False
    assert not isinstance(row["failed_by_accuracy"], bool)


def test_nan_fails_at_the_last_and_at_the_reported_checkpoint():
    assert has_failed(own_run("mcc", math.nan))
    best = Scores(step=9, val={"mcc": math.nan}, test=None)
    run = own_run("mcc", 0.5).model_copy(update={"best": best})
    assert [is_run_failed(run, name, "val", "mcc") for name in ("last", "best")] == [False, True]
    assert is_run_failed(run.model_copy(update={"status": "crashed", "last": None}), "last", "val", "mcc") is None


def test_an_older_import_is_judged_by_what_is_known_of_its_task():
    old = make_imported(task="qqp", metric="f1", last=0.53, baseline=0.0, failed=False)  # "no" is more frequent
    chance = find_chance(old, "test", "f1")
    assert chance.constant == pytest.approx(2 * 14885 / (2 * 14885 + 25545))
    assert is_run_failed(old, "last", "test", "f1")
    assert find_chance(old, "test", "accuracy").constant == 25545 / (25545 + 14885)
    cola = make_imported(task="cola", metric="mcc", last=0.0157, baseline=0.0, failed=False)
    assert is_run_failed(cola, "last", "test", "mcc")
    mine = make_imported(task="mine", metric="mcc", last=0.0157, baseline=0.0, failed=False)
    assert is_run_failed(mine, "last", "test", "mcc") is None
    assert is_run_failed(make_imported(task="mine", metric="f1", baseline=0.0), "last", "test", "f1") is None
    given = make_imported(task="rte", last=0.51, baseline=0.5)  # a baseline that its user gave
    assert is_run_failed(given, "last", "test", "accuracy") is False


def test_what_an_import_was_validated_on_is_the_other_half_of_the_dev_set():
    rte = make_imported(task="rte", baseline=73 / 139)
    assert find_validation_constant(rte, "accuracy") == 73 / 138
    mrpc = make_imported(task="mrpc", metric="f1", baseline=280 / 345, digits=4, rows=205)  # 64 "no" and 139 "yes"
    assert find_validation_constant(mrpc, "f1") == pytest.approx(2 * 139 / (2 * 139 + 64))
    assert find_validation_constant(make_imported(task="rte", baseline=0.5), "accuracy") is None  # other rows
    assert find_validation_constant(make_imported(task="qnli", baseline=2761 / 5463), "accuracy") is None  # Z hold out
    dev = make_imported(task="rte", baseline=146 / 277).model_copy(update={"split": "val"})
    assert find_validation_constant(dev, "accuracy") == 146 / 277
    assert find_validation_constant(make_imported(task="stsb", metric="spearman", baseline=0.0), "spearman") == 0
    assert find_validation_constant(own_run("accuracy", 0.5, np.array([0, 0, 1])), "accuracy") == 2 / 3


def test_an_import_by_f1_with_its_accuracies_has_the_papers_verdict_too():
    run = make_imported(task="mrpc", metric="f1", last=0.80, baseline=280 / 345, digits=4, rows=205)
    last = ImportedScores(step=9, val={}, test={"f1": 0.8, "accuracy": 0.70})
    run = run.model_copy(update={"last": last})
    assert is_run_failed(run, "last", "test", "f1")
    assert is_run_failed(run, "last", "test", "accuracy") is False  # 140 of 205 are .683
    other = run.model_copy(update={"baseline": 0.79})  # then the rows are not those that Zhang et al. test on
    assert is_run_failed(other, "last", "test", "accuracy") is None


def test_rows_and_digits_are_left_out_of_records_that_have_none():
    old, new = make_imported(), make_imported(rows=205, digits=4)
    assert "digits" not in dump_record(old)
    assert '"rows":205' in dump_record(new)
    for run in (old, new):
        assert parse_record_as(type(run), dump_record(run)) == run
