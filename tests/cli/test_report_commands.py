"""The commands that read results, from the command line: import, report, power, and their mistakes."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support.paths import FILES
from support.reports import mean_cells
from support.table_records import make_imported, make_record

from stableft import python_api
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.records.run_record import ImportedScores, read_records_file, write_records_file
from stableft.report import all_reports
from stableft.report.runs import ARTIFACTS

DATA = FILES / "per-seed"
COLUMNS = ["--task", "dataset", "--arm", "method", "--seed", "seed", "--score", "test_acc"]
ROWS = ["--where", "dataset=RTE", "--where", "filetype=test_last_log"]
EVALUATIONS = ["--val", "val_acc", "--val-where", "filetype=raw_log", "--step", "step", "--train-loss", "loss"]


def one_sentence(err: str) -> str:
    assert err.startswith("stableft: ")
    assert err.count("\n") == 1
    return err.removeprefix("stableft: ").strip()


@pytest.fixture
def theirs(workplace, stableft) -> str:
    """A file of imported runs, under the names of the papers' arms."""
    names = ["--rename", "plain=zhang-bertadam", "--rename", "debiased=zhang"]
    code, out, err = stableft(
        "import", "csv", DATA / "results.csv", *COLUMNS, *ROWS, *EVALUATIONS, *names, "--out", "theirs.jsonl"
    )
    assert (code, err) == (0, "")
    assert "stableft report theirs.jsonl" in out
    return "theirs.jsonl"


def test_imported_runs_stand_in_a_papers_table_and_in_no_others_place(theirs, stableft):
    code, out, _ = stableft("report", "zhang-table1", "--records", theirs, "--format", "json")
    assert code == 0
    cells = mean_cells(json.loads(out))
    runs = [run for run in read_records_file(Path(theirs)) if run.arm == "zhang"]
    scores = [run.score("last", "test", "accuracy") for run in runs]
    cell = cells["Standard (imported)", "RTE, 3 Epochs"]
    assert cell["n"] == len(scores) > 1
    assert cell["mean"] == pytest.approx(sum(scores) / len(scores))
    assert cell["published"]["mean"] == 0.695
    assert list(cell["sources"].values()) == [len(scores)]
    assert not any(other["n"] for place, other in cells.items() if place != ("Standard (imported)", "RTE, 3 Epochs"))
    _, text, _ = stableft("report", "zhang-table1", "--records", theirs)
    assert re.search(r"imported .*results\.csv", " ".join(text.split()))
    assert "`stableft sweep configs/zhang/table1.yaml`" in " ".join(text.split())


def test_logs_are_imported_and_their_curves_drawn(workplace, stableft):
    code, _, err = stableft(
        "import", "zhang-logs", DATA / "zhang-logs", "--rename", "debiased=zhang", "--out", "logs.jsonl"
    )
    assert (code, err) == (0, "")
    assert stableft("report", "zhang-figure3", "--records", "logs.jsonl", "--out", "x.png") == (0, "", "")
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    _, out, _ = stableft("report", "zhang-figure3", "--records", "logs.jsonl", "--format", "json")
    (panel,) = json.loads(out)["panels"]
    (curve,) = panel["curves"]
    runs = [run for run in read_records_file(Path("logs.jsonl")) if (run.arm, run.task) == ("zhang", "rte")]
    first = [run.evals[0].train_loss for run in runs]
    assert curve["label"] == "Correction (imported)"
    assert (curve["y"][0], curve["low"][0], curve["high"][0]) == pytest.approx(
        (sum(first) / len(first), min(first), max(first))
    )


def test_one_self_contained_page(theirs, stableft):
    assert stableft("report", "zhang-figure2", "--records", theirs, "--out", "page.html") == (0, "", "")
    page = Path("page.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    ids = {run.run_id for run in read_records_file(Path(theirs)) if run.arm in ("zhang", "zhang-bertadam")}
    assert ids <= set(re.findall(r"[0-9a-f]{16}", page))


def test_a_rule_of_zhangs_tables_for_ones_own_runs(workplace, stableft):
    good, bad = ([0.7 + x / 100 for x in range(5)], [0.5 + x / 100 for x in range(5)])
    records = [
        make_record(arm=arm, seed=seed, last=score, lr=lr)
        for arm, scores, lr in (("good", good, 1e-5), ("bad", bad, 2e-5))
        for seed, score in enumerate(scores)
    ]
    write_records_file(Path("mine.jsonl"), records)
    _, out, _ = stableft("report", "mine.jsonl", "--rule", "best")
    assert "**72.0 ± 1.6 (5)**" in out
    assert "  52.0 ± 1.6 (5" in out
    assert stableft("report", "mosbach-table1", "--rule", "best")[0] == 2
    unlike = [r if r.arm == "good" else r.model_copy(update={"report": "best"}) for r in records]
    write_records_file(Path("mine.jsonl"), unlike)
    _, out, _ = stableft("report", "mine.jsonl", "--rule", "best")
    assert "**" not in out
    assert "The arms of RTE are not scored alike (" in out


def test_a_report_on_no_runs_begins_with_the_command(workplace, stableft):
    for name, command in (("configs/rte.yaml", "configs/rte.yaml"), ("zhang-figure7", "configs/zhang/drift.yaml")):
        _, out, _ = stableft("report", name)
        first = next(line for line in out.splitlines() if "stableft sweep" in line)
        assert re.fullmatch(f"No run has finished yet. To train them: `stableft sweep .*{command}`.", first)
        assert "failed" not in out[: out.index(first)]


def test_a_report_on_crashed_runs_alone_begins_with_the_command_that_tries_them_again(workplace, stableft):
    command = "{name: a, command: 'python -c 1 {seed}', score: {pattern: '(.+)'}, baseline: 0.5}"
    Path("s.yaml").write_text(f"task: t\nseeds: 1\narms: [{command}]\n")
    assert stableft("sweep", "s.yaml", "--devices", "cpu")[0] == 1
    _, out, _ = stableft("report", "s.yaml")
    assert out.startswith("No run has finished yet. To train them: `stableft sweep s.yaml --retry-crashed`.")


def test_scores_that_no_finished_run_has_are_not_taken_for_runs_that_are_missing(workplace, stableft):
    scores = ImportedScores(step=9, val={"accuracy": 0.8}, test={"accuracy": 0.7})
    of_best = {"report": "best", "last": None, "best": scores}
    write_records_file(Path("best.jsonl"), [make_imported(seed=seed).model_copy(update=of_best) for seed in (1, 2)])
    _, out, _ = stableft("report", "best.jsonl", "--score", "last")
    assert "In words: No finished run has this score." in out


def test_a_table_is_as_wide_as_the_terminal(workplace, stableft, monkeypatch):
    made, make = {}, python_api.make_report  # a report is the same at every width
    monkeypatch.setattr(
        python_api, "make_report", lambda name, **given: made.get(name) or made.setdefault(name, make(name, **given))
    )
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        for arguments in (["report", "mosbach-table1"], ["report", "zhang-table1"], ["list", "artifacts"]):
            _, out, _ = stableft(*arguments)
            assert max(map(len, out.splitlines())) <= width


def arms_file(path, **scores):
    """Records of arms that differ in their learning rate."""
    records = [
        make_record(arm=arm, recipe=arm, seed=seed, last=score, lr=(i + 1) * 1e-5)
        for i, (arm, values) in enumerate(scores.items())
        for seed, score in enumerate(values, 1)
    ]
    write_records_file(Path(path), records)


LOST = [0.5, 0.49, 0.5, 0.48, 0.5, 0.49, 0.8, 0.5, 0.75, 0.5]
FINE = [0.70, 0.71, 0.72, 0.69, 0.705, 0.715, 0.70, 0.69, 0.71, 0.70]
WIDE = [0.55, 0.85, 0.60, 0.80, 0.56, 0.84, 0.58, 0.82, 0.57, 0.83]


def report_cells(stableft, *arguments):
    code, out, err = stableft("report", *arguments, "--format", "json")
    assert (code, err) == (0, "")
    return {cell["arm"]: cell for cell in json.loads(out)["cells"] if cell["kind"] == "arm"}


def test_arms_are_compared_with_the_first_or_the_named_one(workplace, stableft):
    arms_file("mine.jsonl", lost=LOST, fine=FINE, wide=WIDE)
    first = report_cells(stableft, "mine.jsonl")
    assert [first[arm].get("against") for arm in ("lost", "fine", "wide")] == [None, "lost", "lost"]
    named = report_cells(stableft, "mine.jsonl", "--against", "fine")
    assert [named[arm].get("against") for arm in ("lost", "fine", "wide")] == ["fine", None, "fine"]
    assert first["fine"]["boschloo_p"] == pytest.approx(named["lost"]["boschloo_p"])
    assert first["fine"]["failed_difference"] == -named["lost"]["failed_difference"] == -0.8
    _, text, _ = stableft("report", "mine.jsonl", "--against", "fine")
    assert "; against fine" in text.splitlines()[0]
    _, text, _ = stableft("report", "mine.jsonl")
    assert "; against lost" in text.splitlines()[0]


def test_tests_and_notes_are_shown_if_asked_for(workplace, stableft):
    arms_file("mine.jsonl", lost=LOST, fine=[*FINE, float("nan")], wide=WIDE)
    _, brief, _ = stableft("report", "mine.jsonl")
    _, tests, _ = stableft("report", "mine.jsonl", "--tests")
    _, notes, _ = stableft("report", "mine.jsonl", "--notes")
    assert len(brief.splitlines()) <= 24
    assert max(map(len, (tests + notes).splitlines())) <= 100
    assert [("Boschloo's exact test" in text, "NaN scores" in text) for text in (brief, tests, notes)] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    _, text, _ = stableft("report", "mine.jsonl", "--format", "text", "--tests", "--notes")
    assert "Boschloo's exact test" in text
    assert "NaN scores" in text
    assert stableft("report", "mine.jsonl", "--format", "text")[1] == brief


def test_one_pair_has_equal_numbers_in_report_compare_and_a_sweep_of_two_arms(workplace, stableft):
    lines = ["task: rte", "model: bert-large-uncased", "seeds: 1-10", "arms:"]
    for arm, rate in (("lost", "1.0e-5"), ("fine", "2.0e-5"), ("wide", "3.0e-5")):
        lines += [f"  - {{name: {arm}, recipe: devlin, set: {{optimizer.lr: {rate}}}}}"]
    table("pair.yaml", *lines)
    planned = load_sweep("pair.yaml", LocalPaths()).runs
    scores = {"lost": LOST, "fine": FINE, "wide": WIDE}
    records, place = [], Counter()
    for run in planned:
        record = make_record(last=scores[run.arm][place[run.arm]], arm=run.arm)
        place[run.arm] += 1
        records.append(record.model_copy(update={"config": run.config, "run_id": run.config.run_id}))
    write_records_file(Path("mine.jsonl"), records)
    keys = ("failed_difference", "failed_difference_newcombe", "boschloo_p", "boschloo_holm_p", "mean_difference")
    keys += (
        "mean_difference_welch",
        "welch_p",
        "welch_holm_p",
        "sd_ratio",
        "sd_ratio_bca",
        "levene_p",
        "levene_mean_p",
    )
    only_two = report_cells(stableft, "pair.yaml", "--records", "mine.jsonl", "--arms", "lost,fine")
    every = report_cells(stableft, "pair.yaml", "--records", "mine.jsonl")
    assert list(only_two) == ["lost", "fine"]
    _, out, _ = stableft("compare", "lost", "fine", "--records", "mine.jsonl", "--format", "json")
    tests = {test["kind"]: test for test in json.loads(out)["tests"]}
    compared = {f"{name}_p": tests[test]["p"] for name, test in TEST_KEYS.items()}
    compared |= {f"{name}_holm_p": tests[test]["holm_p"] for name, test in TEST_KEYS.items() if name != "levene_mean"}
    compared |= {
        key: value for test in tests.values() for key, value in test.items() if key in keys and value is not None
    }
    for key in keys:
        assert only_two["fine"][key] == pytest.approx(compared[key]), key
        if "holm" not in key:
            assert every["fine"][key] == pytest.approx(compared[key]), key


TEST_KEYS = {"boschloo": "boschloo", "welch": "welch", "levene": "levene_median", "levene_mean": "levene_mean"}


def test_report_all_makes_every_report_that_has_runs_or_needs_none(workplace, stableft, papers_sweeps, monkeypatch):
    wanted = ("zhang-table1", "zhang-figure2", "zhang-table6", "mosbach-figure6")
    # No run, no data sets, no probe, and of imported runs a single group.
    left_out = ("mosbach-figure9", "mosbach-table2", "zhang-figure15", "zhang-figure5")
    monkeypatch.setattr(all_reports, "ARTIFACTS", {name: ARTIFACTS[name] for name in (*wanted, *left_out)})
    Path("results/records").mkdir(parents=True)
    own = [make_record(arm="devlin", seed=seed, last=0.5 + seed / 50) for seed in range(6)]
    arms = ("zhang", "zhang-bertadam")
    imported = [make_imported(arm=arm, seed=seed, last=0.6 + seed / 50) for arm in arms for seed in range(6)]
    write_records_file(Path("results/records/mine.jsonl"), [*own, *imported])
    code, out, err = stableft("report", "all")
    assert (code, err) == (0, "")
    folders = {path.name for path in Path("results/reports").iterdir() if path.is_dir()}
    assert folders == {"mine", *wanted}
    assert "5 reports in one file" in out
    monkeypatch.setattr(all_reports, "ARTIFACTS", {})
    assert stableft("report", "all", "--out", "elsewhere")[0] == 0
    assert {path.name for path in Path("elsewhere").iterdir()} == {"mine", "all.html"}


def test_power_of_normal_scores_and_of_records(theirs, stableft):
    code, out, _ = stableft("power", "--sd", "2", "--ratio", "2.5", "--alpha", ".05")
    assert code == 0
    needed = int(re.search(r"(\d+) seeds an arm", out).group(1))
    powers = {int(n): float(p) for n, p in re.findall(r"^ +(\d+) +([\d.]+)$", out, re.MULTILINE)}
    assert max(n for n, p in powers.items() if p < 0.79) < needed <= min(n for n, p in powers.items() if p > 0.81)
    assert re.match(r"\d+ seeds an arm for spread \(normal scores with SD 2 against 5\): power ", out)
    flat = " ".join(out.split())
    assert "Levene's test (centre median)" in flat
    assert "alpha 0.05 / 3, so that Holm's method over 3 tests rejects" in flat
    assert stableft("power", "--sd", "2", "--ratio", "2.5")[1] == out  # the same seed
    scores = [
        make_imported(arm=arm, seed=s, last=0.5 + (s % 5) * w)
        for arm, w in (("a", 0.05), ("b", 0.01))
        for s in range(20)
    ]
    write_records_file(Path("ab.jsonl"), scores)
    code, out, _ = stableft("power", "--from", "ab.jsonl", "--arms", "a,b")
    assert code == 0
    assert out.startswith("a (n = 20) against b (n = 20) on rte")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["power"], "power .*--sd .*--ratio.*--from .*--arms A,B"),
        (["power", "--sd", "2"], "power .*--sd .*--ratio"),
        (["power", "--sd", "0", "--ratio", "2"], "--sd 0 .*number above 0"),
        (["power", "--sd", "1", "--ratio", "nan"], "--ratio nan .*number above 0"),
        (["power", "--sd", "1", "--ratio", "2", "--alpha", "5"], "--alpha 5 .*between 0 .* 1"),
        (["power", "--from", "mine.jsonl", "--sd", "1"], "leave out --sd and --ratio"),
        (
            ["power", "--from", "mine.jsonl", "--arms", "a"],
            "--arms a: .*names .*two arms, A,B.*records",
        ),
        (["power", "--from", "mine.jsonl", "--arms", "devlin,mosbch"], "no arm 'mosbch'.*'mosbach'"),
        (
            ["report", "mine.jsonl", "--arms", "devlin", "--seeds", "1"],
            "--arms .*--seeds .*select runs .*sweep file",
        ),
        (["report", "mine.csv"], r"not .*records.*`stableft import csv mine\.csv \.\.\.`"),
        (["report", "mine.json"], r"not .*records.*`stableft import json mine\.json \.\.\.`"),
        (["report", "all", "--out", "all.html"], r"--out all\.html .*folder"),
        (["report", "all", "--format", "md"], "leave out --format, --figure and --against"),
        (["report", "all", "--seeds", "1"], "leave out --arms, --seeds, --rule and every --set but execution=padded$"),
        (["status", "--seeds", "1"], "--seeds: select runs of a sweep; name the sweep too"),
        (["compare", "a"], "compare: a needs a second arm, or --against with the reference arm"),
        (["compare", "a", "b", "--against", "c"], "--against c: it is neither a nor b; leave out one of those"),
        (["compare", "a", "b", "--set", "optimizer.lr=1.0"], "--set: select runs of a sweep; name the sweep too"),
        (["report", "all", "--against", "devlin"], "leave out --format, --figure and --against"),
        (
            ["report", "mine.jsonl", "--against", "mosbch"],
            "--against mosbch: .*did you mean 'mosbach'.*devlin, mosbach",
        ),
        (
            ["report", "mosbach-table1", "--records", "mine.jsonl", "--against", "devlin"],
            "--against devlin: mosbach-table1 ",
        ),
        (["report", "all"], "report all: .*no records .*results/records .*results/runs"),
        (["report", "mine.jsonl", "--out", "x.png", "--figure", "losses"], "has scores, .*training-loss"),
        (["import", "csv", "nope.csv", *COLUMNS, "--out", "x.jsonl"], r"nope\.csv"),
        (
            ["import", "csv", str(DATA / "results.csv"), *COLUMNS[:-1], "test_ac", "--out", "x.jsonl"],
            "did you mean 'test_acc'",
        ),
        (["import", "csv", str(DATA / "results.csv"), *COLUMNS, "--out", "x.csv"], r"x\.csv"),
        (["import", "zhang-logs", "nope", "--out", "x.jsonl"], "nope"),
    ],
)
def test_mistakes(stableft, workplace, arguments, facts):
    records = [make_record(arm=arm, seed=seed, last=0.7) for arm in ("devlin", "mosbach") for seed in (1, 2)]
    write_records_file(Path("mine.jsonl"), [record.model_copy(update={"evals": ()}) for record in records])
    before = sorted(Path().rglob("*"))
    code, out, err = stableft(*arguments)
    assert (code, out) == (2, "")
    assert re.search(facts, one_sentence(err))
    assert sorted(Path().rglob("*")) == before


def table(path, *lines):
    Path(path).write_text("\n".join(lines) + "\n")


def test_one_file_may_hold_several_arms_under_one_name(workplace, stableft):
    table("x.csv", "arm,seed,lr,acc", *(f"bert,{s},{lr},0.{6 + lr}{s}" for lr in (1, 2) for s in range(5)))
    named = ["--task", "=RTE", "--arm", "arm", "--seed", "seed", "--score", "acc"]
    for lr, arm in ((1, "zhang"), (2, "zhang-reinit")):
        stableft(
            "import", "csv", "x.csv", *named, "--where", f"lr={lr}", "--rename", f"bert={arm}", "--out", f"{lr}.jsonl"
        )
    out = stableft("report", "zhang-table1", "--records", "1.jsonl", "--records", "2.jsonl", "--format", "json")[1]
    cells = {cell["arm"]: cell for cell in mean_cells(json.loads(out)).values() if cell["task"] == "rte"}
    means = [cells[f"{arm} (imported: x.csv)"]["mean"] for arm in ("zhang", "zhang-reinit")]
    assert means == pytest.approx([0.72, 0.82])


def test_what_is_not_known_is_no_nan_and_nothing_is_drawn_from_it(workplace, stableft):
    runs = [make_imported(arm="zhang", seed=seed, last=0.6 + seed / 100) for seed in range(6)]
    bare = [run.model_copy(update={"last": run.last.model_copy(update={"val": {}})}) for run in runs]
    write_records_file(Path("x.jsonl"), bare)
    for name in ("zhang-figure4", "zhang-figure12"):
        values = json.loads(stableft("report", name, "--records", "x.jsonl", "--format", "json")[1])
        assert values["panels"][0]["curves"] == []
        assert any(re.match(r"Correction \(imported\): .*6 runs", note) for note in values["panels"][0]["notes"])


def test_another_metric_is_not_compared_with_the_printed_one(workplace, stableft):
    runs = [make_imported(arm="zhang", task="mrpc", seed=seed, last=0.6 + seed / 100) for seed in range(6)]
    write_records_file(Path("x.jsonl"), runs)
    values = json.loads(stableft("report", "zhang-table1", "--records", "x.jsonl", "--format", "json")[1])
    cell = next(cell for cell in mean_cells(values).values() if cell["n"])
    assert (cell["difference"], cell["p_published"]) == (None, None)
    reasons = [test["reason"] for test in values["tests"] if test["question"] == "against published"]
    assert [bool(re.search("published F1, ours accuracy", reason)) for reason in reasons] == [True]


def test_a_rule_of_two_arms_and_names_of_reports_that_collide_are_refused(workplace, stableft):
    arms = [make_record(arm=arm, seed=1, lr=lr) for arm, lr in (("a", 1e-5), ("b", 2e-5), ("c", 3e-5))]
    write_records_file(Path("mine.jsonl"), arms)
    code, _, err = stableft("report", "mine.jsonl", "--rule", "pair")
    assert code == 2
    assert re.match("--rule pair: .*two arms .*rte has 3.*--arms", one_sentence(err))
    Path("mine.jsonl").rename("zhang-table1.jsonl")
    code, _, err = stableft("report", "all", "--records", "zhang-table1.jsonl")
    assert code == 2
    assert re.search("another report .*'zhang-table1'", one_sentence(err))
