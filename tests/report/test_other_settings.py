"""Runs with other settings: the options that are named plan exactly these runs."""

import shlex
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.sweep_records import save_record

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.report.all_reports import build_all_reports
from stableft.report.other_settings import describe_other_runs, describe_padded_runs
from stableft.report.runs import ARTIFACTS


@pytest.mark.parametrize(
    "sets",
    [
        ["schedule.length.epochs=1"],
        ["schedule.length={steps: 7}", "optimizer.lr=2.0e-05"],
        ["evaluation.every.times=2", "precision=fp16", "reinit={pooler: true, blocks: 2}"],
        ["optimizer.betas=[0.9, 0.99]", "optimizer.bias_correction=true", "optimizer.eps_placement=after_correction"],
        ["model=bert-base-uncased@abc", "model.dropout=0.2"],
        ["execution=padded"],
        ["execution=padded", "precision=fp16"],
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


PADDED_RTE = (
    "2 runs of devlin are there with padded rows; packed rows are now the default, and --set execution=padded takes up "
    "the padded ones"
)


def save_padded(sweep: str, **choices) -> Sweep:
    """Saves the records that a sweep left before packed rows were the default, and returns the sweep as it is now."""
    for run in load_sweep(sweep, LocalPaths(), ["execution=padded"], **choices).runs:
        save_record(Path("results"), make_scored_record(run))
    return load_sweep(sweep, LocalPaths(), **choices)


def test_runs_on_padded_rows_are_told_until_packed_ones_are_there(workplace):
    sweep = save_padded("rte", arms=["devlin"], seeds="1-2")
    said = [PADDED_RTE, PADDED_RTE.replace("2 runs of devlin are", "1 run of devlin is")]
    for run, line in zip(sweep.runs, said, strict=True):
        assert list(describe_padded_runs(sweep.runs, sweep.start_runs, Path("results"))) == [line]
        save_record(Path("results"), make_scored_record(run))
    assert not list(describe_padded_runs(sweep.runs, sweep.start_runs, Path("results")))


def test_runs_that_start_from_one_on_padded_rows_are_told_too(workplace):
    start = "set: {start_from: {recipe: mosbach, task: mnli, seed: 7}}"
    Path("s.yaml").write_text(f"task: rte\nmodel: bert-base-uncased\nseeds: 1-2\nrecipe: devlin\n{start}\n")
    sweep = save_padded("s.yaml")
    assert list(describe_padded_runs(sweep.runs, sweep.start_runs, Path("results"))) == [PADDED_RTE]


def test_a_sweep_with_padded_runs_in_its_folder_says_so(stableft, workplace):
    save_padded("smoke", arms=["devlin"], seeds="1-2")
    for options, notes in (((), [f"note: results: {PADDED_RTE}"]), (("--set", "execution=padded"), [])):
        code, out, _ = stableft("sweep", "smoke", "--arms", "devlin", "--seeds", "1-2", "--dry-run", *options)
        assert code == 0
        assert [line for line in out.splitlines() if "padded" in line] == notes


def test_a_report_without_its_runs_says_which_are_on_padded_rows(stableft, workplace):
    save_padded("rte", arms=["devlin"], seeds="1-2")
    code, _, err = stableft("report", "mosbach-table1", "--format", "csv")
    assert (code, err) == (0, f"results: {PADDED_RTE}\n")
    assert stableft("report", "mosbach-table1", "--format", "csv", "--set", "execution=padded")[2] == ""
    code, out, _ = stableft("status", "rte")
    assert (code, [line for line in out.splitlines() if "padded" in line]) == (0, [PADDED_RTE])
    code, _, err = stableft("export", "rte", "--out", "rte.csv")
    assert (code, PADDED_RTE in err) == (2, True)
    assert stableft("export", "rte", "--out", "rte.csv", "--set", "execution=padded")[0] == 0


def test_all_reports_say_which_leave_out_runs_on_padded_rows(workplace, monkeypatch):
    monkeypatch.setattr(
        "stableft.report.all_reports.ARTIFACTS", {name: ARTIFACTS[name] for name in ("mosbach-figure1",)}
    )
    save_padded("rte", arms=["devlin"], seeds="1-2")
    arguments = (Path("results"), [], None, "recipe", Path("out"))
    assert list(build_all_reports(*arguments)) == [
        f"mosbach-figure1: {PADDED_RTE}",
        "out/all.html: 0 reports in one file",
    ]
    line, _ = build_all_reports(*arguments, None, ["execution=padded"])
    assert line.startswith("out/mosbach-figure1: 2 runs, ")
