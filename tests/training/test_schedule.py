"""Steps, warm-up and evaluations, as the papers count them."""

import pytest

from stableft.config.run_config import Cadence, EvaluationConfig, ScheduleConfig, TrainingLength
from stableft.errors import UserError
from stableft.training.schedule import (
    bias_ratio,
    evaluation_steps,
    steps_per_epoch,
    total_steps,
    warmup_linear,
    warmup_steps,
)

# Rows after the papers' splits: M Table 2 without its header lines; Z trains on the same rows.
ROWS = {"rte": 2490, "mrpc": 3668, "cola": 8551, "stsb": 5749, "qnli": 104743}


def schedule(length: TrainingLength, batch_size: int) -> ScheduleConfig:
    return ScheduleConfig(length=length, batch_size=batch_size, warmup=0.1)


def evaluation(every: Cadence, at_start: bool = False) -> EvaluationConfig:
    return EvaluationConfig(every=every, at_start=at_start, select_by=("accuracy",), batch_size=100)


@pytest.mark.parametrize(
    ("task", "batch_size", "epochs", "steps"),
    [
        ("rte", 16, 3, 468),
        ("rte", 16, 20, 3120),
        ("mrpc", 16, 3, 690),
        ("cola", 16, 3, 1605),
        ("qnli", 16, 3, 19641),
        ("rte", 32, 3, 234),
        ("mrpc", 32, 3, 345),
        ("stsb", 32, 3, 540),
        ("cola", 32, 3, 804),
    ],
)
def test_the_papers_numbers_of_steps(task, batch_size, epochs, steps):
    assert total_steps(schedule(TrainingLength(epochs=epochs), batch_size), ROWS[task]) == steps


def test_the_rate_rises_over_a_share_or_a_number_of_steps():
    """Z's share of .1 gives 23, 34, 54 and 80 steps on RTE, MRPC, STS-B and CoLA, as its logs say."""
    share = schedule(TrainingLength(epochs=3), 32)
    totals = [total_steps(share, ROWS[task]) for task in ("rte", "mrpc", "stsb", "cola")]
    assert [warmup_steps(share, total) for total in totals] == [23, 34, 54, 80]
    steps = ScheduleConfig(length=TrainingLength(steps=800), batch_size=32, warmup=None, warmup_steps=200)  # Z Table 6
    assert warmup_steps(steps, total_steps(steps, 2490)) == 200


def test_a_run_cannot_have_more_steps_or_evaluations_than_anybody_waits_for():
    long = schedule(TrainingLength(epochs=10_000_000), 1)
    with pytest.raises(UserError, match=r"length\.epochs: 10000000 .* 2,490 rows .* 24,900,000,000 steps"):
        total_steps(long, ROWS["rte"])
    with pytest.raises(UserError, match=r"evaluation\.every: .*1,000,000 evaluations of 277 rows"):
        evaluation_steps(evaluation(Cadence(per_epoch=100)), 1_000_000, 100, 277)
    with pytest.raises(UserError, match=r"evaluation\.every: .*1,000 evaluations of 2,000,000 rows"):
        evaluation_steps(evaluation(Cadence(times=1000)), 100_000, 100, 2_000_000)
    assert len(evaluation_steps(evaluation(Cadence(times=100_000)), 10_000_000, 100, 277)) == 100_000


def test_the_rate_cannot_rise_for_longer_than_a_run():
    long = ScheduleConfig(length=TrainingLength(epochs=3), batch_size=32, warmup=None, warmup_steps=235)
    with pytest.raises(UserError, match=r"warmup_steps: 235 .*more .* 234 steps"):
        total_steps(long, ROWS["rte"])


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (15, 1), (16, 1), (17, 2), (2490, 156)])
def test_the_last_short_batch_counts(rows, steps):
    assert steps_per_epoch(rows, 16) == steps


def test_a_length_in_steps_is_that_many():
    assert total_steps(schedule(TrainingLength(steps=1600), 32), 1000) == 1600


@pytest.mark.parametrize(("total", "warmup"), [(234, 23), (345, 34), (540, 54), (804, 80)])
def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing(total, warmup):
    rates = [warmup_linear(step, total, int(0.1 * total)) for step in range(total + 1)]
    assert rates[0] == 0.0  # the very first update moves the moments only
    assert rates.index(1.0) == warmup
    assert rates[1] == pytest.approx(1 / warmup)
    assert rates[total - 1] == pytest.approx(1 / (total - warmup))
    assert rates[total] == 0.0
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_no_warm_up_and_nothing_but_warm_up():
    assert [warmup_linear(step, 4, 0) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [warmup_linear(step, 4, 4) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert warmup_linear(9, 4, 0) == 0.0


@pytest.mark.parametrize(
    ("total", "evaluations"),
    [(234, 11), (345, 11), (540, 10), (804, 11), (10, 10), (3, 3), (1, 1)],
)
def test_zhang_evaluates_ten_times_and_once_more_at_the_end(total, evaluations):
    steps = evaluation_steps(evaluation(Cadence(times=10)), total, total, 277)
    assert len(steps) == evaluations
    assert steps[-1] == total


def test_zhang_on_rte():
    assert evaluation_steps(evaluation(Cadence(times=10)), 234, 78, 277) == (*range(23, 231, 23), 234)


def test_mosbach_evaluates_before_training_thrice_an_epoch_and_at_each_end():
    steps = evaluation_steps(evaluation(Cadence(per_epoch=3), at_start=True), 468, 156, 277)
    assert steps == (0, 52, 104, 156, 208, 260, 312, 364, 416, 468)
    mrpc = evaluation_steps(evaluation(Cadence(per_epoch=3), at_start=True), 690, 230, 408)
    assert {0, 230, 460, 690} <= set(mrpc)
    assert mrpc == tuple(sorted(set(mrpc)))


def test_an_epoch_shorter_than_its_evaluations():
    assert evaluation_steps(evaluation(Cadence(per_epoch=3)), 4, 2, 277) == (1, 2, 3, 4)


@pytest.mark.parametrize(("step", "ratio"), [(1, 3.2), (10, 6.5), (100, 3.2), (234, 2.2), (468, 1.6), (1000, 1.3)])
def test_how_much_larger_an_uncorrected_update_is(step, ratio):
    assert round(bias_ratio(step), 1) == ratio


def test_the_ratio_ends_at_one():
    assert bias_ratio(10**6) == pytest.approx(1.0)
    assert bias_ratio(1, 0.0, 0.0) == 1.0
