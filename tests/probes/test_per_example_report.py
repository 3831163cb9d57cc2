"""`stableft probe points`: made-up predictions in run folders and tables, what is printed of them, what is refused."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from support.paths import GLUE

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.data.splits import data_fingerprint
from stableft.errors import UserError
from stableft.probes.per_example_csv import PredictionColumns
from stableft.probes.per_example_report import PerExampleRequest, run_per_example
from stableft.records.run_record import DataRecord, RunRecord, Scores, run_folder, write_record
from stableft.report.forms.write import Format

CLASSES = ("no", "yes")
LABELS = [0, 1, 0, 1, 0, 1, 0, 1]
TEXTS = [f"sentence {i}, with a comma" for i in range(8)]
SWEEP = """task: {{name: mine, train: rows.csv, validation: rows.csv, text: s, label: y, {kind}}}
model: demo/toy-bert
seeds: 1-4
arms:
  - name: a
    recipe: mosbach
  - name: b
    recipe: devlin
"""
OF = {"classes": "labels: ['no', 'yes'], metric: accuracy", "numbers": "metric: spearman"}
# Four runs on eight examples: two good ones, one that fails, one that diverged.
ANSWERS = [[0, 1, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 1, 1], [1] * 8, [None] * 8]
FAILED = [False, False, True, True]


@pytest.fixture
def sweep(workplace) -> Sweep:
    """Returns a sweep of two arms and four seeds on a task of classes, in the folder that the test is in."""
    return write_sweep("classes", [CLASSES[i] for i in LABELS])


def write_sweep(kind: str, labels: list) -> Sweep:
    rows = [["s", "y"], *([text, label] for text, label in zip(TEXTS, labels, strict=True))]
    with open("rows.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    Path("mine.yaml").write_text(SWEEP.format(kind=OF[kind]))
    return load_sweep("mine.yaml", LocalPaths())


def logits(answers) -> np.ndarray:
    return np.array([[np.nan] * 2 if answer is None else [1.0 - answer, answer] for answer in answers], np.float32)


def save(
    run: PlannedRun,
    sweep: Sweep,
    outputs,
    failed=False,
    labels=LABELS,
    index=None,
    status: Literal["finished", "crashed"] = "finished",
):
    """Writes the record of a run and, if there are outputs, its predictions."""
    metric = run.config.task.metric
    scores = Scores(step=9, val={metric: 0.5 if failed else 0.6}, test=None) if status == "finished" else None
    data = DataRecord(
        fingerprint=data_fingerprint(run.config, sweep.sources),
        train_rows=8,
        val_rows=8,
        test_rows=0,
        label_entropy=0.69,
        baselines={"val": {metric: 0.5}},
    )
    record = RunRecord(
        run_id=run.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status=status,
        reason=None if status == "finished" else "killed",
        config=run.config,
        report=run.report,
        evals=(),
        last=scores,
        best=scores,
        failed=failed if status == "finished" else None,
        failed_by_accuracy=None,
        steps=9,
        skipped_steps=0,
        data=data,
        environment=None,
        seconds=1.0,
        peak_memory_bytes=None,
    )
    folder = run_folder(Path("results"), run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(Path("results"), record)
    if outputs is not None:
        arrays = {"val_last": outputs, "val_labels": np.array(labels)}
        arrays["val_index"] = np.arange(len(labels)) if index is None else np.array(index)
        np.savez(folder / "predictions.npz", **arrays)


def save_arm(sweep: Sweep, arm="a", answers=ANSWERS, failed=FAILED) -> list[PlannedRun]:
    runs = [run for run in sweep.runs if run.arm == arm]
    for run, row, lost in zip(runs, answers, failed, strict=True):
        save(run, sweep, logits(row), lost)
    return runs


def points(form: Format | None = "md", out=None, **options) -> str:
    request = PerExampleRequest(**({"config": "mine.yaml", "csv": None} | options))
    return run_per_example(request, Path("results"), None, form, out)


def table(content: str, /, **columns) -> dict:
    Path("table.csv").write_text(content)
    return {"config": None, "csv": Path("table.csv"), "columns": PredictionColumns(**columns)}


def refusal(**options) -> str:
    with pytest.raises(UserError) as caught:
        points(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(text: str, arm: str = "a") -> list[dict]:
    return next(group["numbers"] for group in json.loads(text)["groups"] if group["arm"] == arm)


def test_of_run_folders_by_hand(sweep):
    save_arm(sweep)
    every, fine = numbers(points("json"))
    assert (every["runs"], fine["runs"], every["examples"]) == (4, 2, 8)
    # Two good runs differ on the last three examples, in each of which one of them is right.
    assert fine["per_point"]["value"] == pytest.approx(3 / 8 / 2)
    assert fine["whole"]["scores"] == [0.875, 0.75]
    assert fine["whole"]["value"] == pytest.approx(0.125**2 / 2, rel=1e-8)
    assert fine["agreement"]["unanimous"] == fine["agreement"]["churn_min"] + 0.25 == 0.625
    # With the run that always says yes and the one without an answer: k of 4 are right, k (4 - k) / 12.
    right = [2, 3, 2, 3, 2, 2, 1, 2]
    assert every["per_point"]["value"] == pytest.approx(sum(k * (4 - k) / 12 for k in right) / 8)
    assert every["whole"]["scores"] == [0.875, 0.75, 0.5, 0.0]
    assert every["agreement"]["unanimous"] == 0.0
    assert every["agreement"]["churn_max"] == 1.0


def test_what_is_printed(sweep):
    runs = save_arm(sweep)
    save(next(run for run in sweep.runs if run.arm == "b"), sweep, logits(ANSWERS[0]))
    text = " ".join(points(most=2).split())
    assert f"a: 2 of 4 runs failed: {runs[2].run_id} (seed 3) always yes, {runs[3].run_id} (seed 4) always no" in text
    assert "1 with outputs that are not finite; they count as a wrong answer that is no class" in text
    assert "b, all runs (n = 1): missing: at least 2 runs are needed, here is 1" in text
    assert "b on mine: 3 of 4 runs are not finished: seeds 2, 3, 4." in text
    assert "`stableft sweep mine.yaml` does the runs that are not finished" in text
    assert "| sentence 0, with a comma | 0 | no | 2/4 | 2 | 1 | 1 |" in text  # the first of those with 2 of 4 right
    assert "| sentence 5, with a comma | 5 | yes | 1/2 | 1 | 1 |" in text  # among the runs that did not fail
    assert "By variance over runs; of equal ones those that fewer runs have right, then the earlier. 5 of 8" in text
    assert "Most unstable" not in points(most=0)


def test_every_example_is_in_the_csv_and_json(sweep):
    save_arm(sweep)
    rows = list(csv.DictReader(io.StringIO(points("csv"))))
    assert [row["text: s"] for row in rows] == TEXTS
    assert [int(row["right"]) for row in rows] == [2, 3, 2, 3, 2, 2, 1, 2]
    assert [int(row["right, not failed"]) for row in rows] == [2, 2, 2, 2, 2, 1, 1, 1]
    assert {row["no answer"] for row in rows} == {"1"}
    examples = json.loads(points("json"))["groups"][0]["examples"]
    assert [example["label"] for example in examples] == [CLASSES[i] for i in LABELS]


def test_runs_with_other_settings_are_compared_by_set(workplace, sweep, stableft):
    set_ = "schedule.length.epochs=1"
    save_arm(load_sweep("mine.yaml", LocalPaths(), [set_]))
    assert "no predictions of its 8 runs" in refusal()
    text = points("json", sets=(set_,), arms=("a",))
    assert json.loads(text)["groups"][0]["planned"] == 4
    code, out, err = stableft("probe", "points", "mine.yaml", "--set", set_, "--arms", "a", "--format", "json")
    assert (code, out, err) == (0, text + "\n", "")
    assert "--csv table.csv and --set" in refusal(**table("example,run,prediction\n1,a,x\n1,b,x\n"), sets=(set_,))


def test_a_table_says_what_run_folders_say(sweep):
    save_arm(sweep)
    lines = ["example,run,prediction,y"]
    for run, row in enumerate(ANSWERS):
        said = ["" if answer is None else CLASSES[answer] for answer in row]
        lines += [f"{i},r{run},{said[i]},{CLASSES[LABELS[i]]}" for i in range(8)]
    options = table("\n".join(lines), label="y")
    assert numbers(points("json", **options), "table") == numbers(points("json"))
    text = " ".join(points(**options).split())
    assert "table: 2 of 4 runs failed: r2 always yes, r3 always no answer" in text
    assert "run 'r3' has 8 empty predictions" in text


def test_a_table_without_labels_has_agreement_alone(workplace):
    options = table("example,run,prediction\n1,a,x\n2,a,y\n1,b,x\n2,b,z\n")
    (found,) = numbers(points("json", **options), "table")
    assert (found["per_point"], found["whole"]) == (None, None)
    assert (found["agreement"]["churn"], found["agreement"]["unanimous"]) == (0.5, 0.5)
    text = points(**options)
    assert "variances and accuracies are missing: which runs are right is not known without --label" in text
    assert "S_per-point" not in text


def test_numbers(workplace):
    sweep = write_sweep("numbers", [float(i) for i in range(8)])
    truth = np.arange(8, dtype=np.float32)
    outputs = [truth + 1, truth - 1, truth + [1, -1] * 4, np.full(8, np.nan)]
    for run, values, lost in zip(sweep.runs, outputs, (False, False, False, True), strict=False):
        save(run, sweep, values[:, np.newaxis].astype(np.float32), lost, labels=truth)
    every, fine = numbers(points("json"))
    assert every["missing"] == "1 of 4 runs has outputs that are not finite"
    assert fine["per_point"]["value"] == pytest.approx(4 / 3)  # of 1, -1 and one of the two
    assert fine["whole"]["value"] == 0.0  # every run's mean squared error is 1
    assert fine["agreement"] is None
    lines = ["example,run,prediction,gold"]
    lines += [f"{i},{run},{outputs[run][i]},{i}" for run in range(3) for i in range(8)]
    options = table("\n".join(lines), label="gold", regression=True)
    (found,) = numbers(points("json", **options), "table")
    assert found["per_point"] == fine["per_point"]
    assert "1.33" in points(**options)


def test_every_form_and_a_figure(sweep):
    save_arm(sweep)
    printed = points(None, "out/")
    assert printed.splitlines()[-1] == "out/points.png"
    assert {path.name for path in Path("out").iterdir()} == {
        *(f"report.{ending}" for ending in ("md", "csv", "tex", "json", "html")),
        "points.png",
    }
    assert points(None, "one.png") == ""
    assert Path("one.png").read_bytes()[:4] == b"\x89PNG"
    assert "did not fail" in Path("out/report.tex").read_text()


def test_runs_that_are_not_the_same(sweep):
    a, b, *_ = save_arm(sweep)
    save(b, sweep, logits(ANSWERS[1]), labels=[*LABELS[:-1], 0])
    assert refusal() == (
        f"runs {a.run_id} (seed 1) and {b.run_id} (seed 2) of a did not predict the same examples: the label of their "
        "example 7 is 1 and 0"
    )
    save(b, sweep, logits(ANSWERS[1]), index=[*range(7), 9])
    assert refusal().endswith("the row of their example 7 is 7 and 9")
    save(b, sweep, logits(ANSWERS[1][:4]), labels=LABELS[:4])
    assert refusal().endswith("predicted 8 and 4 examples, not the same ones")


def test_runs_that_cannot_be_read(sweep):
    assert refusal() == (
        "mine.yaml: results has no predictions of its 8 runs; `stableft sweep mine.yaml` does the runs that are not "
        "finished"
    )
    a, b, c, d = save_arm(sweep)
    assert refusal(split="test") == f"--split test: run {a.run_id} (seed 1) of a has no test split"
    (run_folder(Path("results"), b.run_id) / "predictions.npz").unlink()
    save(c, sweep, None, status="crashed")
    text = " ".join(points(checkpoint="last").split())
    assert f"a on mine: 1 of 4 runs is without predictions: {b.run_id} (seed 2)." in text
    assert "`stableft sweep mine.yaml --complete` trains runs without predictions again." in text
    assert f"1 of 4 runs is crashed: {c.run_id} (seed 3)." in text
    with pytest.raises(UserError, match="has no predictions of its 8 runs"):
        points(checkpoint="best")
    (run_folder(Path("results"), d.run_id) / "predictions.npz").write_bytes(b"PK")
    assert "predictions.npz cannot be read as predictions" in refusal()


def test_data_that_changed_since(sweep):
    save_arm(sweep)
    path = run_folder(Path("results"), sweep.runs[0].run_id) / "predictions.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"val_labels": 1 - arrays["val_labels"]}))
    assert "did not predict the same examples" in refusal()
    assert "the data of mine here are not those of run" in refusal(seeds="1")


def test_texts_that_cannot_be_had_are_missing(workplace):
    """The hub is not there, and no --data-dir was given: the numbers need no texts."""
    Path("mine.yaml").write_text("task: rte\nmodel: demo/toy-bert\nseeds: 1-2\narms:\n  - {name: a, recipe: mosbach}\n")
    sweep = load_sweep("mine.yaml", LocalPaths(data_dir=GLUE))
    for run, answers in zip(sweep.runs, ANSWERS, strict=False):
        save(run, sweep, logits(answers))
    text = " ".join(points().split())
    assert "Texts of the examples are missing: RTE cannot be loaded from the hub" in text
    assert "| 5 | not_entailment | 1/2 |" in text


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "example,run,prediction\n1,a,x\n1,a,x\n",
            {},
            "table.csv: lines 2 and 3 both have run 'a' on example '1'; each run must have each example once",
        ),
        (
            "example,run,prediction\n1,a,x\n2,a,x\n1,b,x\n",
            {},
            "table.csv: run 'b' has no prediction of example '2', which run 'a' has on line 3; each run must have each "
            "example once",
        ),
        (
            "example,run,prediction,y\n1,a,x,x\n1,b,x,z\n",
            {"label": "y"},
            "table.csv: lines 2 and 3 give example '1' two labels, 'x' and 'z'",
        ),
        (
            "example,run,prediction,t\n1,a,x,one\n1,b,x,two\n",
            {"text": ("t",)},
            "table.csv: lines 2 and 3 give example '1' two texts, 'one' and 'two'",
        ),
        ("example,run,prediction\n1,,x\n", {}, "table.csv:2 column 'run' is empty: --run must say which it is"),
        ("example,run,prediction,y\n1,a,x,\n", {"label": "y"}, "table.csv:2 column 'y': the label is empty"),
        (
            "example,run,prediction,y\n1,a,x,0\n1,b,x,0\n",
            {"label": "y"},
            "table.csv: no prediction is one of the labels: column 'prediction' has 'x', column 'y' has '0'",
        ),
        (
            "example,run,prediction\n1,a,x\n",
            {"regression": True},
            "table.csv:2 column 'prediction': 'x' must be a number, nan or empty",
        ),
        (
            "example,run,prediction,y\n1,a,1,nan\n",
            {"label": "y", "regression": True},
            "table.csv:2 column 'y': the label 'nan' must be a number",
        ),
        (
            "example,run,predicted\n1,a,1\n",
            {},
            "table.csv: --prediction prediction: there is no such column, there are example, run, predicted; did you "
            "mean 'predicted'?",
        ),
    ],
)
def test_tables_that_are_refused(workplace, text, columns, message):
    assert refusal(**table(text, **columns)) == message


def test_numbers_are_no_classes(workplace):
    rows = [f"{i},{run},0.{i}{run}" for run in (1, 2) for i in range(30)]
    message = refusal(**table("\n".join(["example,run,prediction", *rows])))
    assert message.startswith("table.csv: column 'prediction' has 60 different predictions")
    assert message.endswith("in 60 rows; if they are numbers, say --regression")


def test_options_that_contradict_each_other(sweep, stableft):
    options = table("example,run,prediction\n1,a,x\n1,b,x\n")
    assert refusal(**options, arms=("a",)).startswith("--csv table.csv and --arms: a table is shown whole")
    assert refusal(columns=PredictionColumns(label="y")).startswith("--label names a column of --csv FILE")
    code, out, err = stableft("probe", "points")
    assert (code, out) == (2, "")
    assert err == "stableft: probe points: give a sweep file, or --csv FILE with a table of predictions\n"
    code, out, err = stableft("probe", "points", "--csv", "table.csv", "--most", "0")
    assert (code, err) == (0, "")
    assert out.startswith("Stability of single predictions over runs: table.csv")


def test_it_starts_without_torch():
    code = "import sys, stableft.probes.per_example_report; sys.exit(any(m in sys.modules for m in ('torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
