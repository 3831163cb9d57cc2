"""Runs with other settings: the options that are named plan exactly these runs."""

import shlex
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.sweep_records import save_record

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.report.other_settings import describe_other_runs


@pytest.mark.parametrize(
    "sets",
    [
        ["schedule.length.epochs=1"],
        ["schedule.length={steps: 7}", "optimizer.lr=2.0e-05"],
        ["evaluation.every.times=2", "precision=fp16", "reinit={pooler: true, blocks: 2}"],
        ["optimizer.betas=[0.9, 0.99]", "optimizer.bias_correction=true", "optimizer.eps_placement=after_correction"],
        ["model=bert-base-uncased@abc", "model.dropout=0.2"],
    ],
)
def test_the_named_options_plan_the_runs_that_were_found(sets):
    planned = load_sweep("rte", LocalPaths(), seeds="1-2").runs
    made = load_sweep("rte", LocalPaths(), sets, seeds="1-2").runs
    found = {
        run.run_id
        for line in describe_other_runs(planned, [make_scored_record(run) for run in (*made, *planned)])
        for run in load_sweep("rte", LocalPaths(), shlex.split(line.partition(", add ")[2])[1::2], seeds="1-2").runs
    }
    assert {run.run_id for run in made} <= found


def test_other_seeds_are_named_as_ranges():
    planned = load_sweep("rte", LocalPaths(), seeds="1").runs
    others = load_sweep("rte", LocalPaths(), seeds="1-3,7").runs
    (line,) = describe_other_runs(planned, [make_scored_record(run) for run in others])
    assert line == "6 runs of devlin and mosbach are there with other seeds; to report them, add --seeds 2-3,7"


def test_runs_of_other_recipes_and_tasks_are_not_named():
    planned = load_sweep("rte", LocalPaths(), arms=["devlin"]).runs
    others = [*load_sweep("rte", LocalPaths(), arms=["mosbach"]).runs, *load_sweep("cola", LocalPaths()).runs]
    assert not list(describe_other_runs(planned, [make_scored_record(run) for run in others]))


def test_a_report_without_its_runs_says_which_settings_the_others_have(stableft, workplace):
    for run in load_sweep("rte", LocalPaths(), ["schedule.length.epochs=1"], ["devlin"], "1-2").runs:
        save_record(Path("results"), make_scored_record(run))
    code, _, err = stableft("report", "rte", "--format", "csv")
    assert (code, err) == (
        0,
        "results: 2 runs of devlin are there with other settings; to report them, add --set schedule.length.epochs=1\n",
    )
    assert stableft("report", "rte", "--set", "schedule.length.epochs=1", "--arms", "devlin", "--seeds", "1-2")[2] == ""
