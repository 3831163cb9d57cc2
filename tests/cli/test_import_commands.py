"""Imports from the command line, reports of several files, and their mistakes: one sentence and exit code 2."""

import csv
import json
import re
import statistics
from pathlib import Path

import pytest
from support.paths import FILES

from stableft.records.run_record import read_records_file
from stableft.text import strip_controls

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


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (("csv", "runs.txt", *MAPPING, "--delimiter", ";"), r"runs.txt \(csv, sha256 \w+\)"),
        (("json", "runs.jsonl", *MAPPING), r"runs.jsonl \(json, sha256 \w+\)"),
        (("hf-trainer", TRAINER / "minilm"), r"minilm \(hf-trainer, sha256 \w+\)"),
    ],
)
def test_a_note_on_what_the_runs_are_is_shown_with_their_source(files, stableft, arguments, source):
    assert stableft("import", *arguments, "--out", "without.jsonl")[0] == 0
    assert stableft("import", *arguments, "--note", "BERT-base, 3 epochs.", "--out", "with.jsonl")[0] == 0
    without, noted = (list(read_records_file(Path(name))) for name in ("without.jsonl", "with.jsonl"))
    assert {run.source.note for run in noted} == {"BERT-base, 3 epochs."}
    assert [run.run_id for run in noted] == [run.run_id for run in without]
    line = rf"Imported from {source}: BERT-base, 3 epochs\."
    title, below, *_, notes = stableft("report", "with.jsonl", "--format", "md")[1].split("\n\n")
    assert title.startswith("# ")
    assert re.fullmatch(line, " ".join(below.split()))
    assert re.search(rf"imported from {source}\.", " ".join(notes.split()))
    assert re.match(line, stableft("report", "with.jsonl")[1])  # the terminal
    caption = re.search(r"\\caption\{(.*)\}\n", stableft("report", "with.jsonl", "--format", "latex")[1])
    assert re.search(rf"\. {line}$", caption[1].replace("\\allowbreak{}", ""))
    page = stableft("report", "with.jsonl", "--format", "html")[1]
    assert re.search(rf"</h1>\s*(<[^h][^>]*>\s*)*{line}", page)
    assert "BERT-base" not in stableft("report", "without.jsonl", "--format", "md")[1]
    long = ("--note", "BERT-base, " + "3 epochs " * 20)
    assert stableft("import", *arguments, *long, "--out", "long.jsonl")[0] == 0
    assert "3 epochs" not in stableft("report", "long.jsonl")[1]
    assert "3 epochs" in stableft("report", "long.jsonl", "--format", "md")[1]


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


HOSTILE = "\x1b[31m\u202e<img src=x onerror=alert(1)>[a](http://b)"


def test_names_from_a_file_do_nothing_where_they_are_shown(stableft, workplace):
    shown_as = strip_controls(HOSTILE)
    rows = [{"seed": seed, "arm": arm, "acc": 0.5 + seed / 100} for seed in range(4) for arm in (HOSTILE, "=1+1")]
    (workplace / "runs.jsonl").write_text("".join(json.dumps({**row, "task": "rte"}) + "\n" for row in rows))
    columns = ("--task", "task", "--arm", "arm", "--seed", "seed", "--score", "acc")
    _, said, err = stableft("import", "json", "runs.jsonl", *columns, "--out", "theirs.jsonl")
    assert "8 runs" in said, err
    shown = {form: stableft("report", "theirs.jsonl", "--format", form)[1] for form in ("text", "md", "csv", "html")}
    for text in (said, shown["text"], shown["md"]):
        assert "img src" in text
        assert not {"\x1b", "\u202e"} & set(text)
    assert "<img src=x" not in shown["html"].replace("\n", " ")
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(http", shown["md"])
    lines = list(csv.DictReader(shown["csv"].splitlines()))
    assert {line["arm"] for line in lines} == {shown_as, "'=1+1"}
    assert not {"\x1b", "\u202e"} & set(shown["csv"] + stableft("report", "theirs.jsonl", "--format", "json")[1])
    assert stableft("export", "theirs.jsonl", "--out", "theirs.csv")[0] == 0
    with open("theirs.csv", newline="") as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {shown_as, "'=1+1"}
    code, _, err = stableft("report", f"{HOSTILE}.csv")
    assert code == 2
    assert not {"\x1b", "\u202e"} & set(err)


OTHER_FILES = {
    "sweep.yaml": b"# a sweep\ntask: rte\n",
    "train.csv": b"text,label\na,1\n",
    "raw.jsonl": b'{"seed": 1, "acc": 0.5}\n',
    "photo.png": b"GIF89a",
    "config.json": b'{"a": 1}',
    "page.html": b"<html>",
    "notes": b"mine\n",
    "README.md": b"# My project\n",
}


@pytest.mark.parametrize("out", [*OTHER_FILES, "theirs.jsonl", "folder"])
def test_files_of_another_kind_are_not_replaced(stableft, files, out):
    stableft("import", "json", "runs.jsonl", *MAPPING, "--out", "theirs.jsonl")
    for name, content in OTHER_FILES.items():
        Path(name).write_bytes(content)
    Path("folder").mkdir()
    before = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
    commands = [("report", "theirs.jsonl", "--format", form) for form in ("md", "csv", "json")]
    commands += [("export", "theirs.jsonl", "--format", "csv")]
    if out != "theirs.jsonl":
        commands += [("export", "theirs.jsonl"), ("import", "json", "runs.jsonl", *MAPPING)]
    for command in commands:
        code, _, err = stableft(*command, "--out", out)
        assert (code, err.count("\n")) == (2, 1), (command, err)
        assert f"--out {out}" in err
    assert {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_files_of_the_same_kind_are_replaced(stableft, files):
    for command in (
        ("import", "json", "runs.jsonl", *MAPPING, "--out", "theirs.jsonl"),
        ("export", "theirs.jsonl", "--out", "theirs.jsonl"),
        ("export", "theirs.jsonl", "--out", "theirs.csv"),
        *(("report", "theirs.jsonl", "--out", f"r.{end}") for end in ("md", "csv", "tex", "json", "svg")),
        ("report", "theirs.jsonl", "--format", "text", "--out", "r.txt"),
    ):
        for _ in range(2):
            code, _, err = stableft(*command)
            assert code == 0, err
