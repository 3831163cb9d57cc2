"""Choosing the best setting of a grid, and the sweep file that comes out of it."""

import itertools
import math
import re
import shutil
from pathlib import Path
from typing import Literal

import pytest
import yaml
from support.command_line import make_scored_record
from support.paths import ROOT
from support.sweep_records import save_record

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.errors import UserError
from stableft.records.run_record import RunRecord, Scores, write_records_file
from stableft.sweep.select_best import choose_settings, collect_grid_searches, render_grid_searches, write_chosen_sweep

pytestmark = pytest.mark.usefixtures("workplace", "warm_workers")

SEARCH = """
task: rte
seeds: 0-2
set: {data.max_length: 64}
arms:
  - recipe: zhang
  - name: mixed
    recipe: zhang
    set: {optimizer: {clip_norm: 2.0}}
    grid: {mixout.p: [0.1, 0.3, 0.5]}
"""


def scored(
    run: PlannedRun, best: float, last: float = 0.0, status: Literal["finished", "crashed", "stopped"] = "finished"
) -> RunRecord:
    """Returns a record whose validation scores are these in every metric, and whose test scores say the opposite."""
    record = make_scored_record(run)
    if status != "finished":
        return record.model_copy(update={"status": status, "last": None, "best": None})
    names = ("accuracy", "f1", "mcc", "spearman")
    scores = [Scores(step=9, val=dict.fromkeys(names, v), test=dict.fromkeys(names, 1 - v)) for v in (best, last)]
    return record.model_copy(update={"best": scores[0], "last": scores[1]})


def write(text: str, path: str = "search.yaml") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def load(text: str, path: str = "search.yaml", **options) -> Sweep:
    return load_sweep(write(text, path), LocalPaths(), **options)


def records_of(sweep: Sweep, means: dict[str, float]) -> list[RunRecord]:
    """Returns records of the arms (as tables name them) with these mean scores over seeds."""
    arms: dict[str, list[PlannedRun]] = {}
    for run in sweep.runs:
        arms.setdefault(f"{run.arm}/{run.config.data.task}", []).append(run)
    records = []
    for arm, runs in arms.items():
        mean = means.get(arm, means.get(arm.rpartition("/")[0], 0.5))
        spread = itertools.cycle((-0.01, 0.0, 0.01))
        records += [scored(run, mean + off) for run, off in zip(runs, spread, strict=False)]
    return records


def choose(sweep: Sweep, records: list[RunRecord], out: str = "out.yaml", **options) -> tuple[str, Sweep]:
    text = choose_settings(sweep, records, Path(out), **options)
    return text, load_sweep(out, LocalPaths())


def ids(sweep: Sweep, arm: str = "") -> list[str]:
    return [run.run_id for run in sweep.runs if run.arm.startswith(arm)]


# --- which setting ---


def test_the_highest_mean_validation_score_is_chosen_and_its_runs_keep_their_ids():
    sweep = load(SEARCH)
    text, chosen = choose(sweep, records_of(sweep, {"mixed p=0.3": 0.7, "mixed p=0.1": 0.6, "mixed p=0.5": 0.65}))
    assert ids(chosen) == ids(sweep, "zhang") + ids(sweep, "mixed p=0.3")
    assert [run.arm for run in chosen.runs] == ["zhang"] * 3 + ["mixed"] * 3
    lines = [line.split("  ") for line in text.splitlines() if line.startswith("mixed")]
    assert [[cell.strip() for cell in line if cell] for line in lines] == [
        ["mixed", "rte", "p=0.1", "accuracy, best checkpoint", "3", "60.00", "1.00"],
        ["mixed", "rte", "p=0.3", "accuracy, best checkpoint", "3", "70.00", "1.00", "<- chosen"],
        ["mixed", "rte", "p=0.5", "accuracy, best checkpoint", "3", "65.00", "1.00"],
    ]
    assert text.splitlines()[-1] == "wrote out.yaml: 6 runs"


def test_the_written_file_is_one_that_a_person_could_have_written():
    sweep = load(SEARCH)
    choose(sweep, records_of(sweep, {"mixed p=0.3": 0.7}), report_seeds="0-19")
    assert Path("out.yaml").read_text() == (
        "# stableft sweep out.yaml      chosen by `stableft choose` from search.yaml      40 runs\n"
        "# Of each grid the setting with the highest mean validation score over seeds, in percent:\n"
        "#   mixed, rte: p=0.3 (accuracy, best checkpoint: mean 70.00, std 1.00, n 3; of 3 settings)\n"
        "task: rte\n"
        "seeds: 0-19\n"
        "set: {data.max_length: 64}\n"
        "arms:\n"
        "  - name: zhang\n"
        "    recipe: zhang\n"
        "  - name: mixed\n"
        "    recipe: zhang\n"
        "    set: {optimizer.clip_norm: 2.0, mixout.p: 0.3}\n"
    )


@pytest.mark.parametrize(("report", "checkpoint"), [("best", 0), ("last", 1)])
def test_the_score_is_that_of_the_reported_checkpoint(report, checkpoint):
    sweep = load(SEARCH.replace("set: {data", f"set: {{evaluation.report: {report}, data"))
    records = [scored(run, *{"p=0.1": (0.9, 0.2), "p=0.3": (0.3, 0.8)}.get(run.arm[6:], (0, 0))) for run in sweep.runs]
    text, chosen = choose(sweep, records)
    assert ids(chosen, "mixed") == ids(sweep, ("mixed p=0.1", "mixed p=0.3")[checkpoint])
    assert f"accuracy, {report} checkpoint" in text


def test_the_metric_is_the_one_that_tables_report_not_the_one_that_selects_the_checkpoint():
    sweep = load(SEARCH.replace("rte", "mrpc"))  # Z's code selects MRPC's checkpoint by accuracy and reports F1
    assert sweep.runs[0].config.selection_metric == "accuracy"
    records = records_of(sweep, {"mixed p=0.1": 0.8})
    for i, run in enumerate(sweep.runs):
        if run.arm == "mixed p=0.5":
            values = Scores(step=9, val={"accuracy": 0.1, "f1": 0.9}, test=None)
            records[i] = records[i].model_copy(update={"best": values})
    text, chosen = choose(sweep, records)
    assert ids(chosen, "mixed") == ids(sweep, "mixed p=0.5")
    assert "F1, best checkpoint" in text


def test_of_equal_means_the_first_in_the_grids_order_is_chosen():
    sweep = load(SEARCH)
    assert ids(choose(sweep, records_of(sweep, {}))[1], "mixed") == ids(sweep, "mixed p=0.1")
    turned = load(SEARCH.replace("[0.1, 0.3, 0.5]", "[0.5, 0.3, 0.1]"))
    assert ids(choose(turned, records_of(turned, {}))[1], "mixed") == ids(sweep, "mixed p=0.5")


def test_equal_means_are_equal_whatever_rounding_makes_of_them():
    sweep = load(SEARCH)
    right = {"mixed p=0.1": (60, 60, 63), "mixed p=0.3": (61, 61, 61), "mixed p=0.5": (60, 61, 62)}  # of 138
    records = [scored(run, right.get(run.arm, (0, 0, 0))[run.config.seeds.init] / 138) for run in sweep.runs]
    search = collect_grid_searches(sweep, records)[1]
    assert len({tried.mean for tried in search.settings}) > 1
    assert search.best is search.settings[0]


@pytest.mark.parametrize("place", [0, 2])
def test_a_setting_with_a_diverged_run_is_not_chosen(place):
    sweep = load(SEARCH)
    diverged, good = ("mixed p=0.1", "mixed p=0.5")[:: 1 if place == 0 else -1]
    records = records_of(sweep, {diverged: 0.9, good: 0.6})
    number = next(i for i, run in enumerate(sweep.runs) if run.arm == diverged)
    records[number] = scored(sweep.runs[number], math.nan)
    text, chosen = choose(sweep, records)
    assert ids(chosen, "mixed") == ids(sweep, good)
    line = next(line for line in text.splitlines() if diverged.split()[1] in line)
    assert line.split()[-5:] == ["3", "-", "-", "1", "diverged"]
    everything = [scored(run, math.nan) for run in sweep.runs]
    with pytest.raises(UserError, match=r"arm 'mixed', task 'rte', .* every setting .*diverged"):
        choose(sweep, everything, "other.yaml")
    assert not Path("other.yaml").exists()


def test_missing_runs_are_counted_and_nothing_is_chosen():
    sweep = load(SEARCH)
    records = records_of(sweep, {"mixed p=0.5": 0.7})[3:]  # arms without a grid need no runs
    assert ids(choose(sweep, records)[1], "mixed") == ids(sweep, "mixed p=0.5")
    records[0] = scored(sweep.runs[3], 0, status="crashed")
    records[1] = scored(sweep.runs[4], 0, status="stopped")
    message = "6 of the 9 runs of its grids are finished, 1 crashed, 1 were stopped early and 1 are left;"
    with pytest.raises(UserError, match=message):
        choose(sweep, records[:-1], "other.yaml")
    assert not Path("other.yaml").exists()
    text, chosen = choose(sweep, records[:-1], "other.yaml", allow_missing=True)
    assert ids(chosen, "mixed") == ids(sweep, "mixed p=0.5")
    assert [line.split()[6:9] for line in text.splitlines() if "p=0." in line] == [
        ["1", "of", "3"],
        ["3", "50.00", "1.00"],
        ["2", "of", "3"],
    ]
    with pytest.raises(UserError, match=r"no run .*finished.*no best setting"):
        choose(sweep, [], "other.yaml", allow_missing=True)


def test_a_record_of_a_retried_run_counts_before_its_crash():
    sweep = load(SEARCH)
    crashes = [scored(run, 0, status="crashed") for run in sweep.runs]
    _, chosen = choose(sweep, crashes + records_of(sweep, {"mixed p=0.5": 0.7}) + crashes)
    assert ids(chosen, "mixed") == ids(sweep, "mixed p=0.5")


def test_without_a_grid_there_is_nothing_to_choose():
    text = SEARCH.replace("    grid: {mixout.p: [0.1, 0.3, 0.5]}\n", "")
    with pytest.raises(UserError, match=r"search\.yaml: no arm .*grid"):
        choose(load(text), [])
    one = load(SEARCH, sets=["mixout.p=0.5"])  # --set wins over the grid: its points are the same runs
    with pytest.raises(UserError, match=r"no arm .*grid"):
        choose(one, [])


def test_reports_on_validation_rows_are_said_to_flatter_the_choice():
    held_out, dev = load(SEARCH), load(SEARCH.replace("recipe: zhang", "recipe: mosbach"))
    assert re.search("rte: .*same rows", render_grid_searches(collect_grid_searches(dev, records_of(dev, {}))))
    assert "same rows" not in render_grid_searches(collect_grid_searches(held_out, records_of(held_out, {})))


# --- the sweep file ---


def test_each_task_has_its_own_choice_under_one_name():
    sweep = load(SEARCH.replace("task: rte", "task: [rte, mrpc, cola]"))
    means = {"mixed p=0.3/rte": 0.7, "mixed p=0.1/mrpc": 0.8, "mixed p=0.3/cola": 0.9}
    text, chosen = choose(sweep, records_of(sweep, means))
    wanted = {"rte": "p=0.3", "mrpc": "p=0.1", "cola": "p=0.3"}
    asked = {run.run_id for run in sweep.runs if run.arm == f"mixed {wanted[run.config.data.task]}"}
    assert {run.run_id for run in chosen.runs if run.arm == "mixed"} == asked
    assert len(ids(chosen)) == 18
    content = yaml.safe_load(Path("out.yaml").read_text())
    assert content["task"] == ["rte", "mrpc", "cola"]
    arms = [(arm["name"], arm.get("task")) for arm in content["arms"]]
    assert arms == [("zhang", None), ("mixed", ["rte", "cola"]), ("mixed", "mrpc")]
    assert text.count("<- chosen") == 3


def test_one_choice_for_all_tasks_and_models_stays_one_arm():
    sweep = load(SEARCH.replace("task: rte", "task: [rte, mrpc]\nmodel: [bert-base-uncased, bert-large-uncased@abc]"))
    _, chosen = choose(sweep, records_of(sweep, {}))
    content = yaml.safe_load(Path("out.yaml").read_text())
    assert content["model"] == ["bert-base-uncased", "bert-large-uncased@abc"]
    assert [arm["name"] for arm in content["arms"]] == ["zhang", "mixed"]
    assert {run.run_id for run in chosen.runs} <= {run.run_id for run in sweep.runs}
    assert len(chosen.runs) == 2 * 2 * 2 * 3


@pytest.mark.parametrize("models", [("bert-base-uncased", "bert-large-uncased"), ("org/bert@a", "org/bert@b")])
def test_models_that_differ_in_their_choice_are_arms_of_their_own(models):
    sweep = load(SEARCH.replace("task: rte", f"task: rte\nmodel: [{', '.join(models)}]"))
    chosen_by_model = dict(zip(models, ("mixed p=0.5", "mixed p=0.3"), strict=True))
    means = {f"{label} ({model})": 0.9 for model, label in chosen_by_model.items()}
    _, chosen = choose(sweep, records_of(sweep, means))
    for model, label in chosen_by_model.items():
        assert ids(chosen, f"mixed ({model})") == ids(sweep, f"{label} ({model})") != []


def test_several_keys_lengths_and_sections_of_a_grid():
    grid = "{schedule.length: [{epochs: 3}, {steps: 200}], optimizer.lr: [2.0e-5, 5.0e-5], reinit.blocks: [0, 2]}"
    sweep = load(SEARCH.replace("{mixout.p: [0.1, 0.3, 0.5]}", grid))
    _, chosen = choose(sweep, records_of(sweep, {"mixed length=200 steps, lr=5e-05, blocks=2": 0.9}))
    assert ids(chosen, "mixed") == ids(sweep, "mixed length=200 steps, lr=5e-05, blocks=2") != []
    assert "optimizer.lr: 5.0e-5\n" in Path("out.yaml").read_text()
    assert "schedule.length: {steps: 200}\n" in Path("out.yaml").read_text()


def test_a_file_of_one_arm_and_two_kinds_of_seeds():
    seeds = "{init: 0-1, data: 5-6, crossed: true}"
    text = f"recipe: zhang\ntask: rte\nseeds: {seeds}\ngrid: {{optimizer.llrd: [1.0, 0.9]}}\n"
    sweep = load(text)
    _, chosen = choose(sweep, records_of(sweep, {"zhang llrd=0.9": 0.9}))
    assert ids(chosen) == ids(sweep, "zhang llrd=0.9")
    assert yaml.safe_load(Path("out.yaml").read_text())["arms"] == [
        {"name": "zhang", "recipe": "zhang", "set": {"optimizer.llrd": 0.9}}
    ]
    assert len(chosen.runs) == 4


def test_what_the_command_line_chose_is_what_the_file_says():
    sweep = load(SEARCH, sets=["task=cola", "optimizer.lr=3.0e-5", "model=bert-base-uncased"], seeds="4,9")
    _, chosen = choose(sweep, records_of(sweep, {"mixed p=0.5": 0.9}), seeds="4,9")
    assert ids(chosen) == ids(sweep, "zhang") + ids(sweep, "mixed p=0.5")
    mixed = load(SEARCH, arms=["mixed"])
    assert [run.arm for run in choose(mixed, records_of(mixed, {}))[1].runs] == ["mixed"] * 3
    seeded = load(SEARCH, sets=["seeds.init=3"])
    with pytest.raises(UserError, match=r"--set seeds\.init and seeds\.data cannot"):
        choose(seeded, records_of(seeded, {}))


def test_more_seeds_than_the_search_had():
    sweep = load(SEARCH.replace("    set:", "    seeds: 1-2\n    set:"))
    _, chosen = choose(sweep, records_of(sweep, {}), report_seeds="0-19")
    assert len(chosen.runs) == 40
    assert set(ids(sweep, "mixed p=0.1")) < set(ids(chosen))
    with pytest.raises(UserError, match="--report-seeds: seeds: 'x'"):
        choose(sweep, [], report_seeds="x")


def test_an_intermediate_task_and_early_stopping_stay_as_they_are():
    start = "{recipe: zhang, task: mnli, seed: 7, set: {schedule.length: {epochs: 1}}}"
    text = SEARCH.replace("optimizer: {clip_norm: 2.0}", f"start_from: {start}")
    sweep = load(text + "    stop_hopeless: {after: 0.3, lowest: 0.5}\n")
    _, chosen = choose(sweep, records_of(sweep, {"mixed p=0.5": 0.9}))
    assert ids(chosen, "mixed") == ids(sweep, "mixed p=0.5")
    assert [parent.run_id for parent in chosen.start_runs] == [parent.run_id for parent in sweep.start_runs] != []
    assert chosen.rules == {run_id: rule for run_id, rule in sweep.rules.items() if run_id in ids(chosen)} != {}


@pytest.mark.parametrize("name", ["longer-search", "reinit-layers", "table2"])
def test_the_searches_of_the_paper_end_in_a_sweep_for_its_tables(name):
    """Z sec. 5-7: L, steps and the settings of App. H are chosen for each data set; the rest stays as it is."""
    sweep = load_sweep(f"zhang/{name}", LocalPaths(), seeds="0-1")
    records = [scored(run, int(run.run_id[:4], 16) / 2**16) for run in sweep.runs]
    _, chosen = choose(sweep, records, seeds="0-1")
    by_id = {record.run_id: record.score("best", "val", "accuracy") for record in records}
    assert set(ids(chosen)) < set(ids(sweep))
    cells: dict[tuple[str, str], list[tuple[float, set[str]]]] = {}
    for point in sweep.points:
        numbers = [by_id[run.run_id] for run in point.runs]
        cell = cells.setdefault((point.arm.name, point.runs[0].config.data.task), [])
        cell.append((sum(numbers) / 2, {run.run_id for run in point.runs}))
    assert {(run.arm, run.config.data.task) for run in chosen.runs} == set(cells)
    for (arm, task), cell in cells.items():
        best = max(cell, key=lambda entry: entry[0])[1]
        assert {run.run_id for run in chosen.runs if (run.arm, run.config.data.task) == (arm, task)} == best


@pytest.fixture
def own_search(toy_data, tiny_model_folder) -> Path:
    """Returns a search on a user's own data, model and recipe, all in a folder beside the current one."""
    folder = Path("project")
    shutil.copytree(toy_data, folder / "data")
    shutil.copytree(tiny_model_folder, folder / "tiny")
    recipe = ROOT / "configs" / "recipes" / "devlin.yaml"
    (folder / "recipes").mkdir()
    (folder / "recipes" / "mine.yaml").write_text(recipe.read_text().replace("warmup: 0.1", "warmup: 0.2"))
    return write(
        """
task: {name: toy, train: data/train.csv, validation: data/validation.csv, test: data/test.csv,
  text: [first, second], label: label, labels: ["no", "yes"], metric: accuracy}
model: tiny
recipe: mine
seeds: 1-2
set: {data.max_length: 32, schedule.length: {steps: 3}, evaluation.every: {times: 1}}
grid: {optimizer.lr: [1.0e-3, 1.0e-30]}
""",
        "project/search.yaml",
    )


@pytest.mark.parametrize("out", ["project/chosen.yaml", "elsewhere/chosen.yaml", "chosen.yaml"])
def test_own_data_models_and_recipes_are_found_from_the_new_file(own_search, out, monkeypatch, tmp_path):
    Path("elsewhere").mkdir()
    sweep = load_sweep(own_search, LocalPaths())
    write_chosen_sweep(sweep, [sweep.points[1]], [], Path(out), None)
    content = yaml.safe_load(Path(out).read_text())
    near = out.startswith("project")
    assert (content["task"]["train"] == "data/train.csv") == near
    assert (content["model"] == "tiny", content["arms"][0]["recipe"] == "mine") == (near, near)
    path = Path(out).resolve()
    monkeypatch.chdir(tmp_path)
    assert ids(load_sweep(path, LocalPaths())) == [run.run_id for run in sweep.points[1].runs]


def test_no_file_of_the_users_is_overwritten():
    sweep = load(SEARCH)
    records = records_of(sweep, {})
    write("task: rte\n", "mine.yaml")
    for out, message in {
        "mine.yaml": "was not written by `stableft choose`",
        "search.yaml": "was not written by `stableft choose`",
        "out.txt": "the file name must end in .yaml",
        "nowhere/out.yaml": "there is no folder nowhere",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            choose_settings(sweep, records, Path(out))
    assert Path("mine.yaml").read_text() == "task: rte\n"
    choose(sweep, records)
    _, again = choose(sweep, records_of(sweep, {"mixed p=0.5": 0.9}))  # its own file it may write again
    assert ids(again, "mixed") == ids(sweep, "mixed p=0.5")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["mine.yaml", "out.yaml", "search.yaml"]


# --- the command ---


def test_the_command_reads_run_folders_or_files_of_records(stableft):
    sweep = load(SEARCH)
    records = records_of(sweep, {"mixed p=0.5": 0.7})
    code, _, err = stableft("choose", "search.yaml")
    assert (code, Path("search-chosen.yaml").exists()) == (2, False)
    assert re.search("0 of the 9 runs .*finished, 0 crashed", err)
    for record in records:
        save_record(Path("results"), record)
    code, out, err = stableft("choose", "search.yaml", "--report-seeds", "0-4")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "wrote search-chosen.yaml: 10 runs"
    write_records_file(Path("r.jsonl"), records)
    shutil.rmtree("results")
    code, other, _ = stableft("choose", "search.yaml", "--records", "r.jsonl", "--out", "b.yaml", "--seeds", "0-1")
    assert code == 0
    assert other.splitlines()[-1] == "wrote b.yaml: 4 runs"
    assert stableft("show", "b.yaml")[1].splitlines()[-1] == "4 runs"


@pytest.mark.slow  # imports torch
def test_what_the_search_ran_is_not_run_again(stableft, own_search):
    from support.training_runs import train_run

    search = load_sweep(own_search, LocalPaths())
    for run in search.runs:
        train_run(run, Path("results"), search.sources)
    before = {path: path.stat().st_mtime_ns for path in Path("results/runs").glob("*/record.json")}
    assert len(before) == 4
    code, out, _ = stableft("choose", own_search)
    assert (code, out.splitlines()[-1]) == (0, "wrote search-chosen.yaml: 2 runs")
    code, out, _ = stableft("sweep", "search-chosen.yaml", "--devices", "cpu")
    assert code == 0
    assert "2 of 2 runs done" in out
    assert {path: path.stat().st_mtime_ns for path in Path("results/runs").glob("*/record.json")} == before
