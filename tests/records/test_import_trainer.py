"""The folders of the Hugging Face Trainer come in with the scores of their own JSON files, and no pickle is opened."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from support.paths import FILES

from stableft.errors import UserError
from stableft.records.import_trainer import TrainerOptions, import_trainer
from stableft.records.run_record import ImportedRun, read_records_file

RUNS = FILES / "hf-trainer"  # six real runs of a MiniLM on RTE, their JSON files without times
LAST, BEST = RUNS / "minilm", RUNS / "best"  # scored with the last weights, and with load_best_model_at_end


@pytest.fixture
def runs(tmp_path) -> Path:
    """A copy of the runs that a test may change."""
    return Path(shutil.copytree(LAST, tmp_path / "minilm"))


@pytest.fixture
def take(tmp_path):
    """Returns a function that imports folders, and returns the records and what was printed, with lines joined."""

    def take(*folders: Path, **options) -> tuple[list[ImportedRun], str]:
        out = tmp_path / "out.jsonl"
        said = import_trainer(folders, out, TrainerOptions(**options))
        return list(read_records_file(out)), said.replace("\n  ", " ")

    return take


@pytest.fixture
def refused(take, tmp_path):
    """Returns a function that says with which sentence folders are refused, without the test's own folder."""

    def refused(*folders: Path, **options) -> str:
        with pytest.raises(UserError) as caught:
            take(*folders, **options)
        assert not (tmp_path / "out.jsonl").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused


def change(path: Path, **values) -> None:
    """Replace keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def own_score(folder: Path) -> float:
    return json.loads((folder / "all_results.json").read_text())["eval_accuracy"]


def reported(records) -> list[float]:
    return [run.score(run.report, run.split, run.metric) for run in records]


@pytest.mark.parametrize(("folder", "checkpoint"), [(LAST, "last"), (BEST, "best")])
def test_the_scores_are_those_of_the_runs_own_files(take, folder, checkpoint):
    records, said = take(folder)
    folders = sorted({path.parent for path in folder.rglob("all_results.json")})
    assert reported(records) == [own_score(path) for path in folders]
    assert [(run.seed, run.task, run.metric, run.split, run.report) for run in records] == [
        (seed, "rte", "accuracy", "val", checkpoint) for seed in (1, 2, 3)
    ]
    assert {run.arm for run in records} == {"minilm" if folder == LAST else "minilm-best"}
    assert {(run.rows, run.baseline, run.source.kind) for run in records} == {(277, 146 / 277, "hf-trainer")}
    assert "seeds are from README.md (3 runs)" in said


def test_the_history_becomes_the_evaluations(take):
    run = take(LAST)[0][0]
    state = json.loads((LAST / "rte" / "seed_1" / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert [(point.step, point.val["accuracy"], point.val_loss) for point in run.evals] == [
        (entry["step"], entry["eval_accuracy"], entry["eval_loss"]) for entry in logged
    ]
    losses = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    assert [point.train_loss for point in run.evals] == pytest.approx(
        [(losses[step - 10] + losses[step]) / 2 for step in (20, 40, 60)]
    )
    assert (run.last.step, run.best.step, run.steps) == (60, 40, 60)
    assert run.best.val["accuracy"] == max(entry["eval_accuracy"] for entry in logged)


def test_the_other_checkpoint_is_read_from_the_history(take):
    best = {run.seed: run.evals for run in take(LAST)[0]}
    assert reported(take(LAST, checkpoint="best")[0]) == [
        max(point.val["accuracy"] for point in points) for points in best.values()
    ]
    last = take(BEST, checkpoint="last")[0]
    assert reported(last) == [run.evals[-1].val["accuracy"] for run in last]


def test_the_best_checkpoint_is_the_one_that_the_trainer_chose(take, tmp_path):
    folder = tmp_path / "best"
    shutil.copytree(BEST, folder)
    for path in folder.rglob("trainer_state.json"):  # metric_for_best_model may be another, such as the loss
        logged = [entry for entry in json.loads(path.read_text())["log_history"] if "eval_loss" in entry]
        (score,) = (entry["eval_accuracy"] for entry in logged if entry["step"] == 75)
        change(path, best_model_checkpoint="somewhere/checkpoint-75")
        change(path.with_name("all_results.json"), eval_accuracy=score)
        path.with_name("eval_results.json").unlink()
    records, said = take(folder)
    assert [(run.report, run.best.step) for run in records] == [("best", 75)] * 3
    assert reported(records) == [own_score(folder / f"minilm-best-seed{seed}") for seed in (1, 2, 3)]
    assert "neither" not in said


def test_a_score_of_neither_checkpoint_is_reported_and_noted(take, runs):
    change(runs / "rte" / "seed_2" / "all_results.json", eval_accuracy=0.6)
    (runs / "rte" / "seed_2" / "eval_results.json").unlink()
    records, said = take(runs)
    assert (records[1].report, reported(records)[1]) == ("last", 0.6)
    assert "is neither that of the last step nor the best one in 1 runs (minilm rte seed 2)" in said


def test_the_history_of_an_earlier_checkpoint_is_not_that_of_the_run(take, runs):
    for folder in (runs / "rte").iterdir():
        (folder / "checkpoint-20").mkdir()
        (folder / "trainer_state.json").rename(folder / "checkpoint-20" / "trainer_state.json")
        change(folder / "checkpoint-20" / "trainer_state.json", global_step=20)
    records, _ = take(runs)
    assert [(run.evals, run.steps) for run in records] == [((), None)] * 3
    assert reported(records) == [own_score(LAST / "rte" / f"seed_{seed}") for seed in (1, 2, 3)]


def test_folders_may_be_named_one_by_one_and_give_equal_records(take):
    together = take(LAST)[0]
    one_by_one = take(*(LAST / "rte" / f"seed_{seed}" for seed in (3, 1, 2)))[0]
    assert [run.run_id for run in one_by_one] == [run.run_id for run in together]
    assert reported(one_by_one) == reported(together)


def test_the_pickle_of_arguments_is_never_opened(take, runs, tmp_path):
    opened = tmp_path / "opened"
    code = f"c__builtin__\neval\n(V__import__('pathlib').Path({str(opened)!r}).touch()\ntR."
    for folder in (runs / "rte").iterdir():
        (folder / "training_args.bin").write_bytes(code.encode())
    assert len(take(runs)[0]) == 3
    assert not opened.exists()


def test_the_seed_is_looked_for_in_arguments_card_results_and_name(take, runs):
    one, two, three = sorted((runs / "rte").iterdir())
    (one / "args.json").write_text('{"model": {"hidden": 3}, "trainer": {"seed": 11}, "learning_rate": 5e-05}')
    change(two / "all_results.json", seed=12)
    (three / "README.md").unlink()
    records, said = take(runs, task="RTE")
    assert [run.seed for run in records] == [3, 11, 12]
    assert "seeds are from the folder's name (1 runs), args.json (1 runs), all_results.json (1 runs)" in said


def test_a_pattern_takes_the_seed_from_the_folders_name(take, refused, runs):
    for i, folder in enumerate(sorted((runs / "rte").iterdir()), 7):
        folder.rename(folder.with_name(f"warmup-lr2e-5-{i}x"))
    records, _ = take(runs, seed_pattern=r"(\d+)x$")
    assert [(run.seed, run.arm) for run in records] == [(seed, "warmup-lr2e-5") for seed in (7, 8, 9)]
    (runs.parent / "out.jsonl").unlink()
    assert re.search(
        r"no run .*seed .*not known: --seed-pattern y(.*) does not match", refused(runs, seed_pattern=r"y(\d)")
    )
    assert "must have one group in parentheses" in refused(runs, seed_pattern="seed")
    assert "must be a regular expression" in refused(runs, seed_pattern="(")


def test_older_versions_wrote_text(take, runs):
    for folder in (runs / "rte").iterdir():
        score = own_score(folder)
        for path in folder.glob("*.json"):
            path.unlink()
        (folder / "eval_results_rte.txt").write_text(f"acc = {score}\nloss = 0.69\nseed = 9\nepoch = 3.0\n")
        (folder / "README.md").unlink()
    records, said = take(runs, seed_pattern=r"_(\d)$")
    assert reported(records) == [own_score(LAST / "rte" / f"seed_{seed}") for seed in (1, 2, 3)]
    assert [(run.evals, run.steps, run.best) for run in records] == [((), None, None)] * 3
    assert "rte: acc was read as accuracy, fractions" in said


def test_without_results_the_history_has_the_scores(take, runs):
    scores = reported(take(runs)[0])
    for path in [*runs.rglob("all_results.json"), *runs.rglob("eval_results.json")]:
        path.unlink()
    assert reported(take(runs)[0]) == scores
    for folder in (runs / "rte").iterdir():  # neither save_state nor save_metrics was called
        (folder / "checkpoint-20").mkdir()
        (folder / "checkpoint-60").mkdir()
        (folder / "checkpoint-20" / "trainer_state.json").write_text("{}")
        (folder / "trainer_state.json").rename(folder / "checkpoint-60" / "trainer_state.json")
    assert reported(take(runs)[0]) == scores
    path = runs / "rte" / "seed_2" / "checkpoint-60" / "trainer_state.json"
    change(path, max_steps=90)
    records, said = take(runs)
    assert [run.seed for run in records] == [1, 3]
    assert re.search(r"left out: \S+seed_2: the run is not finished: \S+ is at step 60 of 90", said)


def test_a_test_score_is_read_where_the_user_says_so(take, refused, runs):
    for i, folder in enumerate(sorted((runs / "rte").iterdir())):
        (folder / "predict_results.json").write_text(
            json.dumps({"predict_accuracy": 0.6 + i / 100, "predict_samples": 139, "predict_loss": 0.6})
        )
    records, _ = take(runs, split="test")
    assert reported(records) == [0.6, 0.61, 0.62]
    assert [(run.rows, run.baseline, run.failed) for run in records] == [(139, 73 / 139, False)] * 3
    assert records[0].last.val == {"accuracy": own_score(runs / "rte" / "seed_1")}
    (runs.parent / "out.jsonl").unlink()
    (runs / "rte" / "seed_1" / "predict_results.json").unlink()
    assert re.search("no accuracy of all runs of rte, its runs have no score in common", refused(runs, split="test"))


def test_a_part_of_the_dev_set_has_a_chance_level_of_its_own(take, runs):
    for path in runs.rglob("all_results.json"):
        change(path, eval_samples=100)
    records, said = take(runs)
    assert [(run.failed, run.baseline) for run in records] == [(None, None)] * 3
    assert "failed: not known; the runs were evaluated on 100 rows, not on the split that is known; --baseline" in said
    records, _ = take(runs, baseline=("RTE=51%",))
    assert [(run.failed, run.baseline) for run in records] == [(True, 0.51), (False, 0.51), (True, 0.51)]


def test_metrics_have_the_names_of_glue(take, refused, runs):
    for i, path in enumerate(sorted(runs.rglob("all_results.json"))):
        (path.parent / "eval_results.json").unlink()
        (path.parent / "trainer_state.json").unlink()
        change(
            path, eval_accuracy=0.7, eval_f1=0.8 + i / 100, eval_combined_score=0.75, eval_rouge1=0.3, eval_samples=408
        )
    records, _ = take(runs, task="mrpc")
    assert (records[0].metric, records[0].last.val) == ("f1", {"f1": 0.8, "accuracy": 0.7})
    assert (records[0].rows, records[0].failed) == (408, True)
    assert take(runs, task="mrpc", metric="accuracy")[0][0].metric == "accuracy"
    assert (run := take(runs, task="summaries", metric="eval_rouge1")[0][0]).metric == "rouge1"
    assert run.last.val["rouge1"] == 0.3
    (runs.parent / "out.jsonl").unlink()
    assert "no mcc of all runs of cola, all its runs have accuracy, f1, combined_score, rouge1;" in refused(
        runs, task="cola"
    )
    assert "--metric must name a score; all its runs have accuracy" in refused(runs, task="summaries")


def test_a_diverged_run_failed(take, runs):
    path = runs / "rte" / "seed_2" / "trainer_state.json"
    text = path.read_text().replace('"eval_loss": 0.69', '"eval_loss": NaN, "old": 0.69')
    path.write_text(text.replace('"loss": 0.69', '"loss": NaN, "old": 0.69'))
    run = take(runs)[0][1]
    assert all(math.isnan(point.val_loss) and math.isnan(point.train_loss) for point in run.evals)
    assert run.failed


@pytest.mark.parametrize(
    ("edit", "facts"),
    [
        (lambda run: (run / "trainer_state.json").write_text('{"log_history": ['), r"trainer_state\.json is not JSON"),
        (lambda run: (run / "trainer_state.json").write_text("[]"), "must be a log_history"),
        (lambda run: (run / "trainer_state.json").write_text('{"log_history": [3]}'), "log_history has '3'"),
        (lambda run: change(run / "trainer_state.json", log_history=[{"loss": 1}]), "'step': 'None' must be a whole"),
        (lambda run: (run / "all_results.json").write_text("3"), r"all_results\.json must be an object .*'3'"),
        (lambda run: (run / "README.md").write_bytes(b"\xff"), r"README\.md: the file is not text in UTF-8"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_out_by_name(take, runs, edit, facts):
    edit(runs / "rte" / "seed_2")
    records, said = take(runs)
    assert [run.seed for run in records] == [1, 3]
    assert re.search(f"left out: .*seed_2.*{facts}", said)


def test_what_is_no_arm_of_repetitions_is_refused(take, refused, runs):
    rte = runs / "rte"
    card = rte / "seed_2" / "README.md"
    text = card.read_text()
    card.write_text(text.replace("learning_rate: 5e-05", "learning_rate: 0.0001"))
    said = refused(runs)
    assert re.search(r"arm 'minilm' of rte mixes runs that differ in learning_rate: \S*seed_1 has '5e-05'", said)
    assert len(take(runs, vary=("learning_rate",))[0]) == 3
    (runs.parent / "out.jsonl").unlink()
    card.write_text(text.replace("seed: 2", "seed: 1"))
    assert re.search(r"minilm rte seed 1 is there twice, in \S+seed_1 and \S+seed_2 .*README.md", refused(runs))


def test_runs_of_different_checkpoints_are_refused(take, refused, runs):
    both = runs.parent / "both"
    shutil.copytree(BEST, both)
    shutil.copytree(LAST / "rte" / "seed_3", both / "minilm-best-seed9")
    card = both / "minilm-best-seed9" / "README.md"
    other = (BEST / "minilm-best-seed1" / "README.md").read_text()
    card.write_text(other.replace("seed: 1", "seed: 9"))
    said = refused(both)
    assert re.search(
        r"last weights \(minilm-best rte seed 9\).*best ones \(minilm-best rte seed 2\); --checkpoint", said
    )
    assert len(take(both, checkpoint="last")[0]) == 4


def test_folders_without_runs_are_all_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused(tmp_path / "nope", tmp_path / "empty")
    assert said == (
        "2 mistakes: (1) nope: there is no such folder; (2) empty: no folder at or below it has all_results.json, "
        "eval_results.json or trainer_state.json"
    )


def test_a_task_that_no_file_or_folder_names_must_be_given(take, refused, runs):
    (runs / "rte").rename(runs / "mine")
    for card in runs.rglob("README.md"):
        card.write_text(card.read_text().replace("args: rte", "args: own"))
    assert "the task is not known: say --task" in refused(runs)
    assert {(run.task, run.arm) for run in take(runs, task="own", arm="bert")[0]} == {("own", "bert")}
