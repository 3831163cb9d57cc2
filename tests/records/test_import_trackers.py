"""Exports of W&B and MLflow: a run that crashed is not a failed run, and one that is running is none yet."""

import json
import re
from dataclasses import replace

import pytest
from support.imports import PLAIN, scores

from stableft.records.import_mapping import TableMapping
from stableft.records.run_record import read_records_file

# The columns of the two programs' own exports; the values are made up.
WANDB = (
    '"Name","State","Notes","User","Tags","Created","Runtime","Sweep","lr","model","seed","eval/accuracy"\n'
    + "".join(
        f'"bert-seed{seed}","{state}","-","me","","2025-11-13T09:48:11.000Z","9910","","2e-05","bert","{seed}","{score}"\n'
        for seed, state, score in (
            (1, "finished", "0.64"),
            (2, "crashed", ""),
            (3, "failed", "0.51"),
            (4, "running", "0.52"),
            (5, "killed", "0.53"),
            (6, "finished", "0.66"),
            (3, "finished", "0.65"),
        )
    )
)
WANDB_MAPPING = TableMapping(task="=rte", arm="Name", seed="Name", score="eval/accuracy", seed_pattern=r"seed(\d+)$")
MLFLOW_UI = (
    "Start Time,Duration,Run ID,Name,Source Type,Source Name,User,Status,learning_rate,seed,acc\n"
    "2026-01-02 10:00:00,1.2min,a1,dapper-fox-1,LOCAL,train.py,me,FINISHED,2e-5,1,0.64\n"
    "2026-01-02 10:00:00,1.2min,a2,dapper-fox-2,LOCAL,train.py,me,FAILED,2e-5,2,0.5\n"
    "2026-01-02 10:00:00,,a3,dapper-fox-3,LOCAL,train.py,me,RUNNING,2e-5,3,\n"
)
MLFLOW_API = (
    "run_id,experiment_id,status,artifact_uri,start_time,end_time,metrics.acc,params.seed,params.learning_rate,"
    "tags.mlflow.runName\n"
    "a1,1,FINISHED,u,t,t,0.64,1,2e-5,x\na2,1,KILLED,u,t,t,,2,2e-5,y\na3,1,SCHEDULED,u,t,,,3,2e-5,z\n"
)


def by_seed(records) -> dict[int, tuple[str, bool | None]]:
    return {run.seed: (run.status, run.failed) for run in records}


def test_wandb(take):
    records, said = take(WANDB, WANDB_MAPPING)
    assert {run.arm for run in records} == {"bert"}
    assert by_seed(records) == {
        1: ("finished", False),
        2: ("crashed", None),
        3: ("finished", False),  # run again
        5: ("crashed", None),
        6: ("finished", False),
    }
    assert [run.score("last", "test", "accuracy") for run in records if run.status == "crashed"] == [None, None]
    assert "State crashed or failed or killed: the run crashed, which is not a failed run; it has no score" in said
    assert "left out: 1 that State calls running (line 5)" in said
    assert "left out: 1 that crashed and finished when run again (bert rte seed 3)" in said
    assert re.search(r"rte +bert +last test accuracy +5 +1-3,5-6 +0 +0/3 +2\n", said)


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        (MLFLOW_UI, replace(PLAIN, arm="=bert")),
        (MLFLOW_API, replace(PLAIN, arm="=bert", seed="params.seed", score="metrics.acc")),
    ],
)
def test_mlflow(take, text, mapping):
    records, said = take(text, mapping)
    assert by_seed(records) == {1: ("finished", False), 2: ("crashed", None)}
    assert scores(records[:1]) == [0.64]
    assert "left out: 1 that " in said


def test_settings_have_a_prefix_in_exports(refused, take):
    text = MLFLOW_API.replace("a2,1,KILLED,u,t,t,,2,2e-5", "a2,1,FINISHED,u,t,t,0.6,2,3e-5")
    mapping = replace(PLAIN, arm="=bert", seed="params.seed", score="metrics.acc")
    assert "mixes runs that differ in params.learning_rate" in refused(text, mapping)
    text = WANDB.replace('"lr"', '"config.lr"').replace("2e-05", "3e-05", 1)
    assert "differ in config.lr" in refused(text, WANDB_MAPPING)
    assert len(take(text, WANDB_MAPPING, vary=("config.lr",))[0]) == 5


def test_crashed_runs_are_counted_in_reports_and_are_no_failed_ones(take, stableft, tmp_path, monkeypatch):
    take(WANDB, WANDB_MAPPING)
    monkeypatch.chdir(tmp_path)
    code, out, _ = stableft("report", "out.jsonl", "--format", "json")
    assert code == 0
    (cell,) = json.loads(out)["cells"]
    assert (cell["n"], cell["failed"], cell["crashed"]) == (3, 0, 2)
    assert [run.status for run in read_records_file(tmp_path / "out.jsonl")].count("crashed") == 2


def test_a_state_column_of_another_name_or_none_can_be_named(take):
    text = "seed,arm,acc,how\n1,a,0.6,done\n2,a,0.5,Error\n3,a,,queued\n"
    assert by_seed(take(text, state="how")[0]) == {1: ("finished", False), 2: ("crashed", None)}
    assert by_seed(take(text)[0])[2] == ("finished", True)
    text = text.replace("how", "status")
    assert by_seed(take(text, state="=finished")[0])[2] == ("finished", True)
    assert by_seed(take(text)[0])[2] == ("crashed", None)


def test_a_column_of_other_words_is_no_state(take):
    text = "seed,arm,acc,state\n1,a,0.6,Ohio\n2,a,0.5,failed\n"
    assert by_seed(take(text)[0]) == {1: ("finished", False), 2: ("finished", True)}


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ("how", r"scores\.csv:3 column 'how': the state 'odd' must be finished, crashed, failed, killed or running"),
        ("hwo", "--state hwo: there is no such column, .*did you mean 'how'"),
        ("all", "no run has finished by column 'all'; --state =finished takes them all"),
    ],
)
def test_states_that_are_none_are_refused(refused, state, facts):
    text = "seed,arm,acc,how,all\n1,a,0.6,done,failed\n2,a,0.5,odd,failed\n"
    assert re.search(facts, refused(text, state=state))


def test_a_run_that_crashed_before_it_had_a_seed_is_counted(take):
    text = "seed,arm,acc,state\n1,a,0.6,finished\n,a,,crashed\n"
    records, said = take(text)
    assert len(records) == 1
    assert "left out: 1 that crashed and whose task, arm or seed is not known" in said


def test_a_task_of_which_all_runs_crashed_is_left_out(take):
    text = "task,seed,arm,acc,state\nrte,1,a,0.6,finished\nmrpc,1,a,,crashed\n"
    records, said = take(text, task="task")
    assert [run.task for run in records] == ["rte"]
    assert "left out: a mrpc seed 1, crashed, as all runs of the task" in said
