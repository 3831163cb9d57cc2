"""Which runs a rule ends: by their scores at the trial alone."""

import math
import random
import re

from support.sweep_records import make_record, make_run

from stableft.config.run_config import has_reached_share
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.records.run_record import EvalPoint
from stableft.sweep.early_stopping import as_stopped_early, find_ranking_eval, select_runs_to_stop


def point(step: int, value: float, steps: int = 100) -> EvalPoint:
    """Returns an evaluation of a run of three epochs and so many steps."""
    return EvalPoint(step=step, epoch=3 * step / steps, train_loss=0.5, val_loss=0.5, val={"accuracy": value})


def record(seed: int, trial: float | None, status: str = "paused", later: float = 0.99):
    evals = () if trial is None else (point(10, 0.1), point(30, trial), point(60, later))
    return make_record(make_run(seed)).model_copy(update={"status": status, "evals": evals})


def test_the_lowest_share_at_the_first_evaluation_of_the_trial():
    records = [record(seed, score) for seed, score in enumerate([0.5, 0.9, 0.4, 0.7, 0.6, 0.8, 0.45])]
    ends = select_runs_to_stop(records, EarlyStoppingRule(after=0.3, lowest=0.5))
    assert list(ends) == [records[i].run_id for i in (2, 6, 0)]  # three of seven: rounded down
    assert [(stop.rank, stop.of, stop.score, stop.step) for stop in ends.values()] == [
        (7, 7, 0.4, 30),
        (6, 7, 0.45, 30),
        (5, 7, 0.5, 30),
    ]
    assert [s.score for s in select_runs_to_stop(records, EarlyStoppingRule(after=0.05, lowest=0.3)).values()] == [
        0.1,
        0.1,
    ]  # by the evaluation before


def test_neither_order_nor_what_is_done_counts():
    records = [record(seed, round(0.1 * (seed % 4), 1)) for seed in range(12)]
    expected = select_runs_to_stop(records, EarlyStoppingRule(after=0.3, lowest=0.4))
    mixed = [r.model_copy(update={"status": s}) for r, s in zip(records, ["finished", "stopped", "paused"] * 4)]  # noqa: B905
    random.Random(1).shuffle(mixed)
    assert select_runs_to_stop(mixed, EarlyStoppingRule(after=0.3, lowest=0.4)) == expected


def test_nan_is_lowest_and_of_equal_scores_the_higher_seed_ends():
    records = [record(1, 0.5), record(2, 0.5), record(3, math.nan), record(4, 0.5), record(5, None, "finished")]
    ends = select_runs_to_stop(records, EarlyStoppingRule(after=0.3, lowest=0.7))
    assert list(ends) == [records[i].run_id for i in (4, 2, 3)]


def test_a_crashed_run_ranks_only_if_it_got_so_far():
    records = [record(1, 0.5), record(2, 0.6), record(3, None, "crashed"), record(4, 0.1, "crashed")]
    assert list(select_runs_to_stop(records, EarlyStoppingRule(after=0.3, lowest=0.5))) == [records[3].run_id]
    assert (
        select_runs_to_stop([records[0], records[2]], EarlyStoppingRule(after=0.3, lowest=0.9)) == {}
    )  # of one run none is stopped


def test_a_share_of_steps_or_of_epochs():
    by_steps, by_epochs = (make_run(1, length=length).config for length in ({"steps": 1600}, {"epochs": 10}))
    assert [has_reached_share(by_steps, step, 99.0, 0.3) for step in (479, 480)] == [False, True]
    assert [has_reached_share(by_epochs, 9999, epoch, 0.3) for epoch in (2.9, 0.1 * 3 * 10)] == [False, True]
    assert find_ranking_eval(record(1, 0.5), 0.7) is None


def test_runs_of_one_setting_differ_in_their_seeds_alone():
    assert make_run(1).config.setting_id() == make_run(2).config.setting_id()
    assert make_run(1).config.setting_id() != make_run(1, length={"epochs": 4}).config.setting_id()


def test_the_reason_says_score_rank_and_rule():
    paused = record(1, 0.5)
    ends = select_runs_to_stop([paused, record(2, 0.6)], EarlyStoppingRule(after=0.3, lowest=0.5))
    ended = as_stopped_early(paused, ends[paused.run_id])
    assert ended.status == "stopped"
    assert re.match(
        r"stopped early as hopeless: validation accuracy 0\.5000 after step 30 ranks 2 of 2; .*lowest 50 % .* 30 % of",
        ended.reason,
    )
