"""Records made up here -> rows that can be checked by eye."""

import math
import subprocess
import sys
import time

import pandas as pd
import pytest
from support.table_records import make_config, make_imported, make_record

from stableft.config.run_config import StartFrom
from stableft.records.frame import COLUMN_DTYPES, ReportedArm, build_frame
from stableft.records.run_record import EarlyStopRecord, ImportedScores, Scores, StartRecord


def test_one_row_a_run():
    row = build_frame([make_record(seed=2**62)]).iloc[0]
    expected = {"arm": "mosbach", "recipe": "mosbach", "task": "rte", "model": "bert-large-uncased", "score": 0.7}
    expected |= {"scored": True, "checkpoint": "last", "metric": "accuracy", "split": "val", "baseline": 0.5}
    expected |= {"last": 0.7, "best": 0.8, "last_val": 0.7, "train_loss": 0.25, "steps": 9, "skipped_steps": 2}
    expected |= {"seconds": 1.5, "seed_init": 2**62, "source": None, "copies": 1, "failed": False, "status": "finished"}
    assert {name: row[name] for name in expected} == expected


def test_which_overrides_the_runs_own_choice():
    record = make_record(split="heldout", report="best")
    assert build_frame([record])["score"].tolist() == pytest.approx([0.7])  # test, best
    assert build_frame([record], checkpoint="last")["score"].tolist() == pytest.approx([0.6])
    assert build_frame([record], checkpoint="best")["checkpoint"].tolist() == ["best"]
    assert build_frame([record])[["last_val", "best_val"]].iloc[0].tolist() == [0.7, 0.8]


def test_a_diverged_run_is_scored_nan_and_failed_while_a_crashed_one_has_no_score():
    rows = build_frame([make_record(last=math.nan, seed=1), make_record(status="crashed", seed=2)])
    assert rows["score"].isna().all()
    assert rows["scored"].tolist() == [True, False]
    assert rows["failed"].iloc[0]
    assert rows["failed"].iloc[1] is pd.NA


def test_a_finished_run_without_the_reported_score_is_not_scored():
    record = make_record()
    record = record.model_copy(update={"last": Scores(step=9, val={}, test=None)})
    assert build_frame([record])["scored"].tolist() == [False]


def test_arms_share_a_run_and_other_runs_are_left_out():
    shared, other = make_record(seed=1), make_record(seed=2)
    rows = build_frame(
        [shared, other], {shared.run_id: [ReportedArm("a", "devlin", "last"), ReportedArm("b", "mosbach", "best")]}
    )
    assert rows[["arm", "recipe", "run_id"]].values.tolist() == [
        ["a", "devlin", shared.run_id],
        ["b", "mosbach", shared.run_id],
    ]
    assert rows["checkpoint"].tolist() == ["last", "best"]


def test_a_record_that_comes_in_twice_counts_once():
    once, crashed = make_record(seed=1), make_record(seed=1, status="crashed")
    rows = build_frame([crashed, once, once, crashed])
    assert rows["copies"].tolist() == [2]
    assert rows["status"].tolist() == ["finished"]
    imported = make_imported(run_id=once.run_id)
    assert len(build_frame([once, imported])) == 2


def test_an_imported_run_has_a_row_without_what_nobody_knows():
    row = build_frame([make_imported(last=0.4, best=0.8, seed=7)]).iloc[0]
    assert (row.score, row.best, row.last_val, row.best_val) == pytest.approx((0.4, 0.8, 0.5, 0.9))
    assert (row.metric, row.split, row.checkpoint, row.baseline) == ("accuracy", "test", "last", 0.5)
    assert (row.seed_init, row.seed_data, row.recipe) == (7, 7, "mosbach")
    assert row.source == "elsewhere.csv (csv, sha256 0123456789ab)"
    assert row.failed
    assert row[["setting", "model", "device", "data_fingerprint"]].isna().all()


def test_an_imported_run_keeps_the_validation_metric_that_it_has():
    scores = ImportedScores(step=9, val={"accuracy": 0.8}, test={"f1": 0.9})
    row = build_frame([make_imported(metric="f1", last=0.9).model_copy(update={"last": scores})]).iloc[0]
    assert (row.score, row.last_val) == (0.9, 0.8)


def test_setting_is_equal_for_runs_that_differ_in_seeds_only():
    rows = build_frame([make_record(seed=1), make_record(seed=2), make_record(seed=1, lr=3e-5)])
    first, second, third = rows["setting"]
    assert first == second != third


def test_no_records_give_an_empty_frame_with_all_columns():
    assert build_frame([]).dtypes.to_dict().keys() == COLUMN_DTYPES.keys()


def test_many_records_are_quick():
    records = [make_record(seed=1)] * 2000
    names = {records[0].run_id: [ReportedArm(str(i), "r", "last") for i in range(3)]}
    start = time.process_time()
    build_frame(records, names)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("module", ["stableft.records.frame", "stableft.stats", "stableft.report.forms.write"])
def test_import_is_light(module):
    heavy = "{'torch', 'transformers', 'scipy', 'pandas', 'sklearn', 'matplotlib'}"
    code = f"import sys, {module}; sys.exit(sorted({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stopped_run_has_no_score_and_says_by_which_rule():
    stop = EarlyStopRecord(score=0.4, step=3, rank=3, of=3, after=0.3, lowest=0.5)
    record = make_record().model_copy(update={"status": "stopped", "stop": stop, "last": None, "best": None})
    row = build_frame([record]).iloc[0]
    assert (row.status, row.scored, pd.isna(row.failed), row.copies) == ("stopped", False, True, 0)
    assert row.rule == "the lowest 50 % by validation score after 30 % of the steps"
    finished = make_record()  # without the rule the same run was finished later
    assert build_frame([record, finished]).status.tolist() == ["finished"]
    assert build_frame([finished, record]).status.tolist() == ["finished"]


def test_what_a_run_started_from():
    start = StartRecord(sha256="0" * 64, recipe="zhang", task="mnli", seeds={"init": 0, "data": 0})
    config = make_config().model_copy(update={"start_from": StartFrom(run="0" * 16, checkpoint="best")})
    rows = build_frame([make_record().model_copy(update={"start": start, "config": config, "run_id": config.run_id})])
    assert rows.iloc[0].start == "the best weights of run 0000000000000000 (zhang on mnli, seed 0)"
    assert build_frame([make_record()]).iloc[0].start is None
