"""Commands that handle files: clean, copy, export to a table."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from support.command_line import make_scored_record
from support.sweep_records import save_record

from stableft.cli.app import app
from stableft.cli.options import complete_config, complete_recipe_or_config, complete_report
from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import shipped_recipes
from stableft.config.sweep_file import load_sweep, shipped_sweeps
from stableft.records.frame import TIDY_COLUMNS
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, read_record, run_folder
from stableft.sweep.claims import claim_run

pytestmark = pytest.mark.usefixtures("workplace")
RESULTS = Path("results")


def make_results() -> list[Path]:
    """Returns the folders of three runs of the sweep rte: two finished with weights, one with a checkpoint."""
    runs = load_sweep("rte", LocalPaths()).runs[:3]
    folders = [run_folder(RESULTS, run.run_id) for run in runs]
    for run, folder in zip(runs[:2], folders[:2], strict=True):
        save_record(RESULTS, make_scored_record(run, 0.6))
        (folder / "model-last").mkdir()
        (folder / "model-last" / "model.safetensors").write_bytes(bytes(5000))
    folders[2].mkdir()
    (folders[2] / CHECKPOINT_FILE).write_bytes(bytes(20_000))
    (folders[0] / "record.json.damaged-1").write_text("{")
    report = RESULTS / "sweeps" / "rte"
    report.mkdir(parents=True)
    (report / "report.json").write_text("{}")
    return folders


def files() -> set[Path]:
    return {path for path in RESULTS.rglob("*") if path.is_file()}


def test_without_options_a_folder_is_described_and_nothing_removed(stableft):
    make_results()
    before = files()
    code, out, err = stableft("clean")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines()}
    assert rows["checkpoints"] == ["1", "20", "kB"]
    assert rows["weights"] == ["2", "10", "kB"]
    assert rows["leftovers"][0] == "1"
    assert rows["records"][0] == "2"
    assert rows["total"][0] == "3"
    assert files() == before


def test_each_option_removes_what_it_names_and_no_record(stableft):
    finished, other, unfinished = make_results()
    assert stableft("clean", "--checkpoints", "--yes")[0] == 0
    assert not (unfinished / CHECKPOINT_FILE).exists()
    assert (finished / "model-last").exists()
    assert stableft("clean", "rte", "--weights", "--seeds", "1", "--yes")[1].endswith("removed 5 kB\n")
    assert not (finished / "model-last").exists()
    assert (other / "model-last").exists()
    assert stableft("clean", "--all", "--yes")[0] == 0
    assert files() == {finished / RECORD_FILE, other / RECORD_FILE}
    assert stableft("clean", "--all", "--yes")[1].splitlines()[-1].startswith("there is nothing to remove")
    assert stableft("clean", "rte", "--records", "--yes")[0] == 0
    assert files() == set()
    assert "unfinished" not in stableft("status", "--results", "results")[1]


def test_a_run_in_use_is_left_alone(stableft):
    *_, unfinished = make_results()
    with claim_run(unfinished) as claimed:
        assert claimed
        out = stableft("clean", "--checkpoints", "--yes")[1]
    assert re.search(f"left alone.*{unfinished.name}", out)
    assert (unfinished / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--all"], "clean asks .*--yes"),
        (["--records", "--yes"], "--records .*name the sweep"),
        (["--seeds", "1"], "--seeds.*name the sweep"),
        (["--results", "nope"], "--results nope: .*no runs"),
        (["rtee"], "rtee: .*no such sweep file.*'rte'"),
    ],
)
def test_what_clean_refuses(stableft, arguments, facts):
    make_results()
    before = files()
    code, _, err = stableft("clean", *arguments)
    assert code == 2
    assert re.match(f"stableft: {facts}", err)
    assert files() == before


def test_a_copy_of_a_recipe_or_sweep_works_where_it_is(stableft):
    assert stableft("copy", "devlin")[:2] == (0, "wrote devlin.yaml; `recipe: devlin.yaml` in a sweep file uses it\n")
    assert Path("devlin.yaml").read_bytes() == shipped_recipes()["devlin"].read_bytes()
    assert stableft("copy", "smoke", "mine.yaml")[0] == 0
    assert {run.run_id for run in load_sweep("mine.yaml", LocalPaths()).runs} == {
        run.run_id for run in load_sweep("smoke", LocalPaths()).runs
    }
    code, _, err = stableft("copy", "configs/smoke.yaml", "mine.yaml")
    assert (code, err) == (2, "stableft: mine.yaml: this file exists; remove it first, or name another\n")
    code, _, err = stableft("copy", "devln")
    assert (code, err) == (
        2,
        "stableft: devln: there is no recipe or sweep file of that name; did you mean 'devlin'?\n",
    )
    assert stableft("copy", "rte", "nope/rte.yaml")[0] == 2


def test_a_table_has_a_row_a_run_and_every_score(stableft):
    sweep = load_sweep("rte", LocalPaths(), seeds="1-2")
    for run in sweep.runs:
        save_record(RESULTS, make_scored_record(run, (4 + run.config.seeds.init) / 10))
    out = stableft("export", "rte", "--seeds", "1-2", "--out", "runs.csv")[1]
    assert out == "wrote 4 of 4 runs to runs.csv\n"
    with open("runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*TIDY_COLUMNS, "best_val_accuracy", "last_val_accuracy"]
    assert [(row["run_id"], row["arm"], row["seed_init"], row["failed"]) for row in rows] == [
        (run.run_id, run.arm, str(run.config.seeds.init), str(run.config.seeds.init == 1)) for run in sweep.runs
    ]
    assert {row["last_val_accuracy"] for row in rows} == {"0.5", "0.6"}
    stableft("export", "rte", "--seeds", "1-2", "--out", "runs.jsonl")
    assert stableft("export", "runs.jsonl", "--out", "again", "--format", "csv")[0] == 0
    assert pd.read_csv("again").equals(pd.read_csv("runs.csv"))


@pytest.mark.parametrize(("out", "form"), [("x.csv", "jsonl"), ("x.CSV", "jsonl"), ("x.jsonl", "csv")])
def test_a_name_that_contradicts_the_format(stableft, out, form):
    save_record(RESULTS, make_scored_record(load_sweep("rte", LocalPaths()).runs[0]))
    code, _, err = stableft("export", "rte", "--out", out, "--format", form)
    assert code == 2
    assert re.match(rf"stableft: --format {form}: --out {re.escape(out)} ends in", err)
    assert not Path(out).exists()
    assert read_record(RESULTS, load_sweep("rte", LocalPaths()).runs[0].run_id)


def test_the_listed_sweeps_plan_as_many_runs_as_listed(stableft, papers_sweeps):
    rows = [line.split() for line in stableft("list", "sweeps")[1].splitlines()[1:]]
    assert [row[0] for row in rows] == list(shipped_sweeps())
    assert dict(row[:2] for row in rows)["rte"] == str(len(load_sweep("rte", LocalPaths()).runs))


def test_names_are_completed():
    Path("rte-mine.yaml").write_text("")
    assert complete_config("rt") == ["rte", "rte-mine.yaml"]
    assert complete_recipe_or_config("mosbach/table") == ["mosbach/table1", "mosbach/table4"]
    assert complete_report("mosbach-table") == [f"mosbach-table{i}" for i in (1, 2, 3, 4)]
    assert "devlin-roberta" in complete_recipe_or_config("devl")
    options = typer.main.get_command(app).params
    assert "--install-completion" in {name for option in options for name in option.opts}


@pytest.mark.parametrize("help_", ["-h", "--help"])
def test_the_package_is_a_command_too(help_):
    done = subprocess.run([sys.executable, "-m", "stableft", "show", help_], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match("Usage: python -m stableft show", done.stdout)
