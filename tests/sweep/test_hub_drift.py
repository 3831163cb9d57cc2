"""The commit of a hub model is part of a sweep: runs of two commits under one name are refused or told."""

import shutil
from dataclasses import replace

import pytest
from support.training_runs import train_run

from stableft.config.planned_run import LocalPaths, PlannedRun, RunInterrupted
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.models.load import load_pretrained
from stableft.python_api import run_sweep
from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder, write_records_file
from stableft.report.arm_cells import hub_drift_note
from stableft.report.artifact import make_sweep_artifact
from stableft.report.build import build_report
from stableft.report.compare_arms import build_comparison_report
from stableft.report.forms.write import render_report
from stableft.report.runs import collect_runs
from stableft.sweep.hub_drift import resolve_hub_commits

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def move_main(tmp_path, tiny_model_folder, monkeypatch):
    """Makes a hub cache with two commits of org/tiny; returns a function that points `main` to one of them."""
    repository = tmp_path / "hub" / "models--org--tiny"
    for commit in (OLD, NEW):
        shutil.copytree(tiny_model_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def move(commit: str) -> None:
        (repository / "refs" / "main").write_text(commit)

    move(OLD)
    return move


@pytest.fixture
def hub_run(toy_run):
    """Returns a maker of runs of the toy task with a model of the hub."""

    def make(seed: int = 1, revision: str = "main") -> PlannedRun:
        run = toy_run(**{"seeds.init": seed, "schedule.length": {"steps": 3}})
        model = run.config.model.model_copy(update={"name": "org/tiny", "revision": revision, "sha256": None})
        return replace(run, config=run.config.model_copy(update={"model": model}))

    return make


def at_commits_of(runs, sources: LocalPaths) -> LocalPaths:
    return replace(sources, hub_commits=resolve_hub_commits(runs))


def sweep_of(runs, sources, tmp_path) -> Sweep:
    return Sweep("s", tmp_path / "s.yaml", tuple(runs), sources)


def test_out_of_reach_of_the_hub_its_cache_names_the_commit(move_main, hub_run, toy_run):
    runs = [hub_run(), hub_run(2), hub_run(revision=NEW), toy_run()]
    assert resolve_hub_commits(runs) == {("org/tiny", "main"): OLD, ("org/tiny", NEW): NEW}
    move_main(NEW)
    assert resolve_hub_commits(runs)["org/tiny", "main"] == NEW


def test_a_sweep_keeps_to_the_commit_it_began_with(move_main, hub_run, toy_sources):
    sources = at_commits_of([hub_run()], toy_sources)
    move_main(NEW)
    assert load_pretrained(hub_run().config, sources).commit == OLD


def test_runs_of_another_commit_are_refused_before_training(move_main, hub_run, toy_sources, tmp_path):
    first, second, results = hub_run(1), hub_run(2), tmp_path / "results"
    train_run(first, results, at_commits_of([first], toy_sources))
    record = read_record(results, first.run_id)
    assert record is not None
    assert record.environment is not None
    assert record.environment.model_commit == OLD
    move_main(NEW)
    # All that is left to do is nothing, so nothing is refused.
    assert run_sweep(sweep_of([first], toy_sources, tmp_path), results=results, devices="cpu").finished_before
    with pytest.raises(UserError) as caught:
        run_sweep(sweep_of([first, second], toy_sources, tmp_path), results=results, devices="cpu")
    assert str(caught.value) == (
        f"this sweep has 1 run in {results} trained from commit {OLD} of org/tiny@main, which now names commit {NEW}: "
        f"pin `model: org/tiny@{OLD}` (or @{NEW}), so that all runs are trained from one commit, or give another "
        "--results folder"
    )
    assert not run_folder(results, second.run_id).exists()


def test_a_checkpoint_of_another_commit_is_refused(move_main, hub_run, toy_sources, tmp_path):
    run = hub_run()
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, at_commits_of([run], toy_sources), stop_at=2)
    move_main(NEW)
    with pytest.raises(UserError) as caught:
        train_run(run, tmp_path, at_commits_of([run], toy_sources))
    path = run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE
    assert str(caught.value) == (
        f"run {run.run_id} has a checkpoint from step 2 made with model 'org/tiny@{OLD}', but now it is "
        f"'org/tiny@{NEW}': pin `model: org/tiny@{OLD}` for runs of that commit, or delete {path} to start the run over"
    )
    move_main(OLD)
    assert train_run(run, tmp_path, at_commits_of([run], toy_sources)).status == "finished"


def test_a_report_names_the_commits_of_one_name(move_main, hub_run, toy_sources, tmp_path):
    runs = [hub_run(seed) for seed in (1, 2, 3)]
    for run, commit in zip(runs, (OLD, NEW, NEW), strict=True):
        move_main(commit)
        train_run(run, tmp_path, at_commits_of([run], toy_sources))
    records = [read_record(tmp_path, run.run_id) for run in runs]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), [("s.yaml", run) for run in runs], filter(None, records))
    note = (
        f"org/tiny@main is of 2 commits, so of different weights: {OLD} (1 run of arm on toy); "
        f"{NEW} (2 runs of arm on toy)."
    )
    assert hub_drift_note(found.cell("arm", "toy")) == note
    assert " ".join(render_report(build_report(found), "md").split()).count(note) == 1
    split = [("s.yaml", replace(run, arm=arm)) for run, arm in zip(runs, ("a", "b", "b"), strict=True)]
    apart = collect_runs(make_sweep_artifact("s", "s.yaml"), split, filter(None, records))
    cells = [apart.cell(arm, "toy") for arm in ("a", "b")]
    assert [hub_drift_note(cell) for cell in cells] == [None, None]
    both = hub_drift_note(*cells)
    assert both == note.replace("1 run of arm", "1 run of a").replace("2 runs of arm", "2 runs of b")
    assert " ".join(render_report(build_report(apart), "md").split()).count(both) == 1
    file = tmp_path / "two.jsonl"
    write_records_file(file, [r.model_copy(update={"arm": arm}) for r, arm in zip(records, "abb", strict=True) if r])
    compared = build_comparison_report("a", "b", tmp_path / "none", [file])
    assert " ".join(render_report(compared, "md").split()).count(both) == 1
