"""Imports from the command line, reports of several files, and their mistakes: one sentence and exit code 2."""

import json
import re
import statistics
from pathlib import Path

import pytest
from support.paths import FILES

TRAINER = FILES / "hf-trainer"
MAPPING = ["--task", "=rte", "--arm", "arm", "--seed", "seed", "--score", "acc"]


@pytest.fixture
def files(workplace) -> Path:
    """Two small files of results, of the same runs."""
    runs = [{"arm": arm, "seed": f"seed_{s}", "acc": f"{60 + s}%"} for arm in ("a", "b") for s in range(3)]
    Path("runs.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in runs))
    Path("runs.txt").write_text("\n".join(["arm;seed;acc", *(";".join(run.values()) for run in runs)]) + "\n")
    return workplace


def cells(text: str) -> dict[str, dict]:
    return {cell["arm"]: cell for cell in json.loads(text)["cells"]}


def test_the_reported_scores_are_those_of_the_trainers_own_files(workplace, stableft):
    for arm, folder in (("minilm", TRAINER / "minilm"), ("minilm-best", TRAINER / "best")):
        code, _, err = stableft("import", "hf-trainer", folder, "--out", f"{arm}.jsonl")
        assert (code, err) == (0, "")
    code, out, err = stableft("report", "minilm.jsonl", "minilm-best.jsonl", "--format", "json")
    assert (code, err) == (0, "")
    found = cells(out)
    assert [(arm, cell["checkpoint"]) for arm, cell in found.items()] == [("minilm", "last"), ("minilm-best", "best")]
    for arm, folder in (("minilm", TRAINER / "minilm"), ("minilm-best", TRAINER / "best")):
        own = [json.loads(path.read_text())["eval_accuracy"] for path in folder.rglob("all_results.json")]
        assert found[arm]["mean"] == pytest.approx(statistics.fmean(own), rel=1e-8)
        assert found[arm]["std"] == pytest.approx(statistics.stdev(own), rel=1e-8)
        assert (found[arm]["min"], found[arm]["max"]) == pytest.approx((min(own), max(own)), rel=1e-8)


def test_csv_and_json_of_the_same_runs_make_the_same_report(files, stableft):
    assert stableft("import", "json", "runs.jsonl", *MAPPING, "--out", "json.jsonl")[0] == 0
    assert stableft("import", "csv", "runs.txt", *MAPPING, "--delimiter", ";", "--out", "csv.jsonl")[0] == 0
    one, other = (cells(stableft("report", name, "--format", "json")[1]) for name in ("json.jsonl", "csv.jsonl"))
    for arm in ("a", "b"):
        assert (one[arm]["mean"], one[arm]["n"]) == (0.61, 3)
        assert one[arm]["mean"] == other[arm]["mean"]


def test_several_files_are_one_report(files, stableft):
    for arm in ("a", "b"):
        stableft("import", "json", "runs.jsonl", *MAPPING, "--where", f"arm={arm}", "--out", f"{arm}.jsonl")
    code, out, err = stableft("report", "a.jsonl", "b.jsonl", "--out", "both.md")
    assert (code, out, err) == (0, "", "")
    text = Path("both.md").read_text()
    assert text.startswith("# Fine-tuning stability over seeds: a, b\n")
    assert "against a" in text
    assert stableft("report", "a.jsonl", "a.jsonl")[1] == stableft("report", "a.jsonl")[1]
    assert "against b" in stableft("report", "a.jsonl", "b.jsonl", "--against", "b")[1]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (
            ["report", "runs.jsonl", "rte"],
            r"report runs\.jsonl rte: several names must be files of records, but rte",
        ),
        (["report", "all", "runs.jsonl"], "several names must be files of records, but all is not one"),
        (["report", "runs.jsonl", "nope.jsonl"], r"runs\.jsonl:1 is not a complete record"),
        (["import", "json", "nope.jsonl", *MAPPING, "--out", "x.jsonl"], r"nope\.jsonl: there is no such file"),
        (["import", "json", "runs.jsonl", *MAPPING, "--out", "runs.jsonl"], "is the file that is imported"),
        (["import", "json", "runs.jsonl", *MAPPING, "--val", "v", "--out", "x.jsonl"], "--val v: .*no such column"),
        (
            ["import", "csv", "runs.txt", *MAPPING, "--out", "x.jsonl"],
            r"runs\.txt: the name must end in \.csv .*--delimiter",
        ),
        (
            ["import", "csv", "runs.txt", *MAPPING, "--encoding", "x", "--delimiter", ";", "--out", "x.jsonl"],
            "--encoding x",
        ),
        (["import", "hf-trainer", "nope", ".", "--out", "x.jsonl"], r"2 mistakes: \(1\) nope: .*\(2\) \.: no folder"),
        (["import", "hf-trainer", ".", "--out", "x.csv"], r"--out x\.csv: the name must end in \.jsonl"),
        (["probe", "points", "--csv", "runs.txt", "--wide", "a"], r"runs\.txt: the name must end in \.csv"),
    ],
)
def test_mistakes(files, stableft, arguments, facts):
    before = sorted(Path().rglob("*"))
    code, out, err = stableft(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("stableft: ")
    assert err.count("\n") == 1
    assert re.search(facts, err)
    assert sorted(Path().rglob("*")) == before


def test_a_table_with_a_column_for_each_run(workplace, stableft):
    rows = ["example,gold,seed_1,seed_2", *(f"{i},{'yn'[i % 2]},{'yn'[i % 2]},{'yn'[i % 3 == 0]}" for i in range(12))]
    Path("wide.csv").write_text("\n".join(rows) + "\n")
    arguments = ["probe", "points", "--csv", "wide.csv", "--label", "gold", "--wide", "seed_*"]
    code, out, err = stableft(*arguments)
    assert (code, err) == (0, "")
    assert "12 examples" in out
    values = json.loads(stableft(*arguments, "--format", "json")[1])
    assert [run["run"] for run in values["groups"][0]["runs"]] == ["seed_1", "seed_2"]
    assert len(values["groups"][0]["examples"]) == 12
