"""Which imported runs failed: their scores against those of constant predictions, as they are printed."""

import re

import numpy as np
import pytest

from stableft.catalog.tasks import TASKS, find_task
from stableft.data.metrics import compute_scores
from stableft.errors import UserError
from stableft.records.failure import known_constant_score


@pytest.mark.parametrize(
    ("values", "failed"),
    [
        (["0.5252", "0.5253", "0.5251"], [True, False, True]),
        (["0.525", "0.526", "0.524"], [True, False, True]),
        (["52.52", "52.53", "52.51"], [True, False, True]),
        (["52.5", "52.6", "52.4"], [True, False, True]),
        ([repr(73 / 139), repr(74 / 139), repr(72 / 139)], [True, False, True]),
        ([str(np.float32(73 / 139)), repr(74 / 139)], [True, False]),
        (["0.5252", repr(74 / 139)], [True, False]),  # rounded in one place, not in another
        (["5.252e-1", "5.324e-1"], [True, False]),
    ],
)
def test_scores_are_compared_with_the_baseline_as_it_would_be_printed(take, values, failed):
    text = "seed,arm,acc\n" + "".join(f"{i},a,{value}\n" for i, value in enumerate(values))
    assert [run.failed for run in take(text)[0]] == failed


def test_zeros_that_were_dropped_are_digits_too(take):
    # 0.53 is 0.5300 beside 0.6043, and above a baseline of 0.52518 that would be 0.53 to two digits.
    assert [run.failed for run in take("seed,arm,acc\n1,a,0.53\n2,a,0.6043\n")[0]] == [False, False]
    assert [run.failed for run in take("seed,arm,acc\n1,a,0.53\n2,a,0.6\n")[0]] == [True, False]


def test_a_baseline_of_ones_own(take):
    text = "seed,arm,acc\n1,a,60\n2,a,61\n"
    records, said = take(text, baseline=("60",))
    assert [(run.failed, run.baseline) for run in records] == [(True, 0.6), (False, 0.6)]
    assert re.search(r"most 0\.6000.*--baseline", said)
    two = "task,seed,arm,acc\nRTE,1,a,0.6\nQNLI,1,a,0.6\n"
    with pytest.raises(UserError, match=r"--baseline 0\.5 .*one task.*qnli, rte"):
        take(two, task="task", baseline=("0.5",))
    with pytest.raises(UserError, match=r"--rows 100 is for one task; import one at a time of qnli, rte"):
        take(two, task="task", rows=("100",))


def test_rows_of_ones_own_decide_what_a_correlation_by_chance_is(take, refused):
    text = "seed,arm,mcc\n1,a,0.16\n2,a,0.17\n3,a,\n"
    records, said = take(text, task="=mine", score="mcc", rows=("100",))
    assert [(run.failed, run.baseline, run.rows) for run in records] == [
        (True, 0, 100),  # 1.645 / sqrt(100) is .1645
        (False, 0, 100),
        (True, 0, 100),
    ]
    assert "at most 0.1645, which is not above zero beyond noise: 1.645 / sqrt(n) of 100 rows, as --rows says" in said
    records, said = take(text, task="=mine", score="mcc")
    assert [run.failed for run in records] == [None, None, True]
    assert "mine: failed: not known; --rows gives the number of rows of the split" in said
    assert ["a", "last", "test", "mcc", "3", "1-3", "1", "not", "known"] in [
        line.split()[1:] for line in said.split("\n")
    ]
    (run, *_), _ = take(text, task="=CoLA", score="mcc", rows=("100",))
    assert (run.failed, run.rows) == (True, 100)  # rather than the 522 that the task has


def test_a_baseline_of_a_correlation_is_refused(refused):
    assert refused("seed,arm,mcc\n1,a,0.16\n", task="=mine", score="mcc", baseline=("0.1",)) == (
        "--baseline 0.1: MCC is compared with 1.645 / sqrt(rows of the split), so give --rows"
    )


def test_a_baseline_of_ones_own_leaves_the_number_of_rows_open(take):
    text = "seed,arm,acc\n1,a,0.61\n2,a,0.72\n"
    assert [(run.rows, run.failed) for run in take(text, baseline=("0.65",))[0]] == [(None, True), (None, False)]
    assert [run.rows for run in take(text)[0]] == [139, 139]
    assert [run.rows for run in take(text, split="val")[0]] == [277, 277]


@pytest.mark.parametrize(("baseline", "values"), [("0.5", ["60", "70"]), ("50", ["0.6", "0.7"])])
def test_a_baseline_on_another_scale_is_refused(refused, baseline, values):
    text = "seed,arm,acc\n" + "".join(f"{i},a,{value}\n" for i, value in enumerate(values))
    assert re.search(f"--baseline {baseline}: .*(fractions|percent)", refused(text, baseline=(baseline,)))


def test_a_baseline_is_a_number(refused):
    assert refused("seed,arm,acc\n0,a,0.6\n", baseline=("nan",)) == "--baseline nan: must be a number, or TASK=NUMBER"


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.dev_counts], ids=lambda task: task.name)
@pytest.mark.parametrize("metric", ["accuracy", "f1", "accuracy_f1", "mcc"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_known_score_is_that_of_the_better_constant_prediction(task, metric, split):
    if metric in ("f1", "accuracy_f1") and len(task.labels) != 2:
        assert known_constant_score(task, split, metric) is None
        return
    half = split == "test" and not task.large
    assert len(task.dev_counts) == len(task.labels)
    counts = [count - count // 2 if half else count for count in task.dev_counts]
    labels = np.repeat(np.arange(len(counts)), counts)
    constant = [np.tile(answer, (len(labels), 1)) for answer in np.eye(len(counts))]
    best = max(compute_scores(outputs, labels, (metric,))[metric] for outputs in constant)
    assert known_constant_score(task, split, metric) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "val", "test"),
    [("rte", 277, 139), ("mrpc", 408, 205), ("cola", 1043, 522), ("stsb", 1500, 778), ("sst2", 872, 872)],
)
def test_the_rows_of_the_papers_splits_are_known(name, val, test):
    assert [find_task(name).split_rows(split) for split in ("val", "test")] == [val, test]
    assert find_task("scitail").split_rows("test") is None


@pytest.mark.parametrize(
    ("name", "printed"),
    [("rte", 52.5), ("mrpc", 81.2), ("stsb", 0), ("cola", 0), ("qnli", 50.5), ("qqp", 63.2)],
)
def test_majority_scores_of_the_test_rows_as_zhang_table_3_has_them(name, printed):
    task = find_task(name)
    assert 100 * known_constant_score(task, "test", task.metric) == pytest.approx(printed, abs=0.05)


@pytest.mark.parametrize(("name", "label", "printed"), [("sst2", "negative", 49.1), ("mnli", "neutral", 31.8)])
def test_zhang_table_3_has_the_scores_of_other_classes_for_sst_2_and_mnli(name, label, printed):
    task = find_task(name)
    counts = dict(zip(task.labels, task.dev_counts, strict=True))
    assert 100 * counts[label] / sum(counts.values()) == pytest.approx(printed, abs=0.05)
    assert counts[label] < max(counts.values())
    assert known_constant_score(task, "test", "accuracy") == max(counts.values()) / sum(counts.values())


def test_mosbachs_baselines_are_those_of_the_dev_set():
    assert 100 * known_constant_score(find_task("rte"), "val", "accuracy") == pytest.approx(52.7, abs=0.05)
    assert 100 * known_constant_score(find_task("mrpc"), "val", "accuracy_f1") == pytest.approx(74.8, abs=0.05)


def test_there_is_no_baseline_without_counts():
    assert known_constant_score(find_task("scitail"), "test", "accuracy") is None
    assert known_constant_score(None, "test", "accuracy") is None
    assert known_constant_score(None, "test", "mcc") == 0
