"""Every table of the papers from made-up records: its numbers beside NumPy's, its tests beside SciPy's."""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from support.artifact_records import ANY, OWN_SETTINGS, M, Z, planned, pool, report, report_without_runs, scores, where
from support.paths import GLUE, ROOT
from support.reports import find_cell, find_tests, mean_cells, published_rows, values_of

from stableft.report import paper_tables as data_stats
from stableft.report import paper_values as published
from stableft.report.build import build_report
from stableft.report.forms.document import Report
from stableft.report.forms.write import render_report
from stableft.report.runs import collect_runs
from stableft.report.stability_results import Question

TITLES = {"rte": "RTE", "mrpc": "MRPC", "stsb": "STS-B", "cola": "CoLA"}
LARGE = {"sst2": "SST-2", "qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI"}
THOUSAND = {"rows": 1000}
REINIT, LONGER = {"pooler": True, "blocks": 5}, {"length": "1600 steps"}
MODELS = {
    "XLNet": "xlnet-large-cased",
    "RoBERTa": "roberta-large",
    "ELECTRA": "google/electra-large-discriminator",
    "BART": "facebook/bart-large",
}
UNNAMED = "The paper does not name its test."


def printed(paper: str, location: str, split: str | None = None) -> dict[str, Any]:
    """What the file of printed numbers has for a table, by arm and task, read without the project's own reader."""
    text = Path(published.__file__).with_name("paper_values.yaml").read_text(encoding="utf-8")
    blocks = [
        block
        for block in yaml.safe_load(text)
        if block["kind"] == "scores" and (block["paper"], block["location"]) == (paper, location)
    ]
    block = next(block for block in blocks if split in (None, block["split"]))
    return {
        arm: {task: dict(zip(block["statistics"], row, strict=True)) | {"n": block["n"]} for task, row in rows.items()}
        for arm, rows in block["values"].items()
    }


def cells_of(made: Report) -> dict[tuple[str, str], dict[str, Any]]:
    """The cells of a report of means by row and column, each of which is there once."""
    return mean_cells(values_of(made))


def check_cell(cell: dict[str, Any], records, split: str, theirs: dict[str, float], checkpoint="best") -> None:
    """Count, mean, std, run ids, and the comparison with what the paper prints."""
    values = scores(records, checkpoint, split)
    finite = values[~np.isnan(values)]
    assert len(values) >= 3
    assert (cell["n"], cell["n_nan"]) == (len(values), len(values) - len(finite))
    assert cell["mean"] == pytest.approx(finite.mean(), abs=1e-12)
    assert cell["std"] == pytest.approx(finite.std(ddof=1), abs=1e-12)
    assert set(cell["run_ids"]) >= {record.run_id for record in records}
    assert cell["failed"] == sum(record.failed for record in records)
    ours = (finite.mean(), finite.std(ddof=1), len(finite))
    beside = (theirs["mean"] / 100, theirs["std"] / 100, theirs["n"])
    assert (cell["published"]["mean"], cell["published"]["std"], cell["published"]["n"]) == pytest.approx(beside)
    assert cell["difference"] == pytest.approx(ours[0] - beside[0], abs=1e-6)
    welch = stats.ttest_ind_from_stats(*ours, *beside, equal_var=False)
    assert cell["p_published"] == pytest.approx(welch.pvalue, rel=1e-4)
    interval, ratio, ratio_interval = cell["effects"].values()
    errors = [std**2 / n for _, std, n in (ours, beside)]
    freedom = sum(errors) ** 2 / sum(e**2 / (n - 1) for e, n in zip(errors, (ours[2], beside[2]), strict=True))
    half_width = stats.t.ppf(0.975, freedom) * sum(errors) ** 0.5
    assert interval == pytest.approx([ours[0] - beside[0] - half_width, ours[0] - beside[0] + half_width], rel=1e-4)
    assert ratio == pytest.approx(beside[1] / ours[1], rel=1e-4)
    quantiles = stats.f.ppf([0.975, 0.025], beside[2] - 1, ours[2] - 1)
    assert ratio_interval == pytest.approx(list(ratio / quantiles**0.5), rel=1e-4)


def student(a, b, alternative: str) -> float:
    return stats.ttest_ind(a, b, alternative=alternative).pvalue


def best_and_equal(family: dict[Any, np.ndarray]) -> set:
    """Z Table 1: the largest mean, and those not below it."""
    known = {place: values for place, values in family.items() if not np.isnan(values).any()}
    best = max(known, key=lambda place: known[place].mean())
    return {best} | {place for place in known if student(known[best], known[place], "greater") >= 0.05}


def words(made: Report) -> str:
    """The Markdown without its line breaks."""
    return " ".join(render_report(made).split())


# --- Mosbach et al.

DEVLIN, OURS = M, M | {"correction": True, "length": "20 epochs"}
STABILITY = {
    "mosbach-table1": (
        "Table 1",
        ("rte", "mrpc", "cola"),
        {"devlin": (DEVLIN, "last"), "mosbach-mixout": (M | {"mixout": 0.9}, "last"), "mosbach": (OURS, "last")},
    ),
    "mosbach-table4": (
        "Table 4",
        ("scitail",),
        {
            "devlin": (DEVLIN, "last"),
            "devlin-1k": (M | THOUSAND, "last"),
            "devlin-1k-long": (M | THOUSAND | {"length": "71 epochs"}, "last"),
            "mosbach": (OURS, "last"),
        },
    ),
}


@pytest.mark.parametrize("name", STABILITY)
def test_spread_mean_and_maximum_of_every_arm_and_task(name):
    location, tasks, arms = STABILITY[name]
    values, theirs = values_of(report(name)), printed("Mosbach et al. 2021", location)
    cells = [row for row in values["cells"] if row["kind"] == "arm"]
    assert {(cell["arm"], cell["task"]) for cell in cells} == set(itertools.product(arms, tasks))
    for cell in cells:
        arm, task = cell["arm"], cell["task"]
        settings, checkpoint = arms[arm]
        found = scores(where(settings, task=task), checkpoint, "val")
        finite = found[~np.isnan(found)]
        expected = {"std": finite.std(ddof=1), "mean": finite.mean(), "max": finite.max()}
        assert {key: cell[key] for key in expected} == pytest.approx(expected, abs=1e-12)
        assert (cell["n"], cell["n_nan"], cell["n_planned"]) == (len(found), len(found) - len(finite), 25)
        assert cell["failed"] == sum(record.failed for record in where(settings, task=task))
        beside, *others = published_rows(values, arm, "published", task)
        assert {key: beside[key] for key in expected} == pytest.approx(
            {key: theirs[arm][task][key] / 100 for key in expected}, abs=1e-9
        )
        pairs = published_rows(values, arm, "difference", task)
        assert len(pairs) == 1 + len(others)
        assert {key: pairs[0][key] for key in expected} == pytest.approx(
            {key: expected[key] - theirs[arm][task][key] / 100 for key in expected}, abs=1e-9
        )
        welch = stats.ttest_ind_from_stats(
            expected["mean"],
            expected["std"],
            len(finite),
            beside["mean"],
            beside["std"],
            theirs[arm][task]["n"],
            equal_var=False,
        )
        assert pairs[0]["p_published"] == pytest.approx(welch.pvalue, rel=1e-6)
        assert pairs[0]["compatible"] == bool(welch.pvalue >= 0.05)


@pytest.mark.parametrize("name", STABILITY)
def test_the_star_is_levenes_test_of_the_smallest_against_the_second_smallest_std(name):
    _, tasks, arms = STABILITY[name]
    values = values_of(report(name))
    starred = {(row["arm"], row["task"]) for row in values["cells"] if row["kind"] == "arm" and row["star"]}
    expected = set()
    for task in tasks:
        found = {arm: scores(where(of, task=task), which, "val") for arm, (of, which) in arms.items()}
        a, b = sorted(found, key=lambda arm: np.nanstd(found[arm], ddof=1))[:2]
        tests = [
            comparison
            for comparison in find_tests(values, Question.SMALLEST_STD)
            if comparison["task"] == task and comparison["center"] == "median" and comparison["against"] == b
        ]
        finite = [found[arm][np.isfinite(found[arm])] for arm in (a, b)]
        assert (tests[0]["arm"], tests[0]["n_a"], tests[0]["n_b"]) == (a, *map(len, finite))
        p = stats.levene(*finite, center="median").pvalue
        assert tests[0]["p"] == pytest.approx(p, rel=1e-9)
        expected |= {(a, task)} if p < 0.001 else set()
    assert starred == expected


def test_an_arm_that_is_far_steadier_than_the_second_earns_the_star():
    steady = {record.run_id for record in where(OURS, task="rte")}
    records = [
        _scored(record, 0.71 + i * 1e-5) if record.run_id in steady else record for i, record in enumerate(pool())
    ]
    artifact, runs = planned("mosbach-table1")
    made = build_report(collect_runs(artifact, runs, records))
    found = {arm: scores(where(of, task="rte"), which, "val") for arm, (of, which) in STABILITY[made.id][2].items()}
    second = min((found[arm] for arm in ("devlin", "mosbach-mixout")), key=lambda values: values.std(ddof=1))
    ours = [record.last.val["accuracy"] for record in records if record.run_id in steady]
    assert stats.levene(ours, second, center="median").pvalue < 0.001
    scored_alike = len({checkpoint for _, checkpoint in STABILITY[made.id][2].values()}) == 1
    assert find_cell(values_of(made), "mosbach")["star"] == scored_alike
    assert (f"{100 * np.std(ours, ddof=1):.1f}*" in words(made)) == scored_alike


def _scored(record, value: float):
    last = record.last.model_copy(update={"val": record.last.val | {"accuracy": value}})
    return record.model_copy(update={"last": last})


# --- Zhang et al.

TABLE1 = {
    ("Standard", "3 Epochs"): ("zhang", {}),
    ("Standard", "Longer"): ("zhang-longer", LONGER),
    ("Re-init", "3 Epochs"): ("zhang-reinit", REINIT),
    ("Re-init", "Longer"): ("zhang-reinit-longer", REINIT | LONGER),
}


def table1_places():
    for suffix, more, tasks in (("", {}, TITLES), (" (1k)", THOUSAND, TITLES | LARGE)):
        for (task, title), ((row, column), (arm, settings)) in itertools.product(tasks.items(), TABLE1.items()):
            blocks = {"blocks": 2} if task == "sst2" and "blocks" in settings else {}  # Fig. 14's legend
            yield (row, f"{title}{suffix}, {column}"), arm + ("-1k" if more else ""), task, Z | settings | blocks | more


def test_zhang_table1_has_each_mean_and_bold_are_the_best_of_a_data_set_and_those_equal_to_it():
    cells, theirs = cells_of(report("zhang-table1")), printed("Zhang et al. 2021", "Table 1")
    families: dict[tuple[str, bool], dict] = {}
    for place, arm, task, settings in table1_places():
        check_cell(cells[place], where(settings, task=task), "test", theirs[arm][task])
        family = families.setdefault((task, arm.endswith("1k")), {})
        family[place] = scores(where(settings, task=task), "best", "test")
    assert len(cells) == 48 == sum(map(len, families.values()))
    bold = {place for place, cell in cells.items() if cell["bold"]}
    assert bold == set().union(*map(best_and_equal, families.values()))
    assert 0 < len(bold) < 48
    assert any(np.isnan(values).any() for family in families.values() for values in family.values())


SEARCHES = {
    "LLRD": ("llrd", [{"lr": lr, "llrd": decay} for lr in (2e-5, 5e-5, 1e-4) for decay in (0.9, 0.95)]),
    "Mixout": ("mixout", [{"mixout": p} for p in (0.1, 0.3, 0.5, 0.7, 0.9)]),
    "Pre-trained WD": (
        "pretrained-decay",
        [{"decay": decay, "towards": "pretrained"} for decay in (1e-3, 1e-2, 1e-1, 1.0)],
    ),
    "WD": ("weight-decay", [{"decay": decay} for decay in (1e-4, 1e-3, 1e-2, 1e-1)]),
}
OTHERS = {
    "Standard": ("zhang", {}),
    "Int. Task": ("intermediate", {"start": True}),
    "Re-init": ("zhang-reinit", REINIT),
    "Longer": ("zhang-longer", LONGER),
}


def shown_in_table2(column: str, task: str):
    """The records of a method; of a search those with the best mean validation score."""
    if column in OTHERS:
        return where(Z, OTHERS[column][1], task=task)
    tried = [where(Z, settings, task=task) for settings in SEARCHES[column][1]]
    assert all(tried)
    known = [found for found in tried if not np.isnan(scores(found, "best", "val")).any()]
    return max(known, key=lambda found: scores(found, "best", "val").mean())


def test_zhang_table2_shows_the_best_setting_of_each_search_and_bold_is_better_than_standard():
    cells, theirs = cells_of(report("zhang-table2")), printed("Zhang et al. 2021", "Table 2")
    arms = {column: arm for column, (arm, _) in (SEARCHES | OTHERS).items()}
    assert set(cells) == set(itertools.product(TITLES.values(), arms))
    bold = set()
    for (task, title), (column, arm) in itertools.product(TITLES.items(), arms.items()):
        found = shown_in_table2(column, task)
        check_cell(cells[title, column], found, "test", theirs[arm][task])
        standard = scores(where(Z, task=task), "best", "test")
        if column != "Standard" and student(scores(found, "best", "test"), standard, "greater") < 0.05:
            bold.add((title, column))
    assert {place for place, cell in cells.items() if cell["bold"]} == bold
    assert bold
    text = words(report("zhang-table2"))
    assert text.count("best of 6 settings") == 4
    assert re.search(r"best of 4 settings [^.]*\(without such a mean: 1\)", text)


def test_a_search_is_not_decided_by_the_test_score():
    by_test = {}
    for task, column in itertools.product(TITLES, SEARCHES):
        tried = [where(Z, settings, task=task) for settings in SEARCHES[column][1]]
        known = [found for found in tried if not np.isnan(scores(found, "best", "val")).any()]
        by_test[task, column] = max(known, key=lambda found: scores(found, "best", "test").mean())
    assert any(shown_in_table2(column, task) != found for (task, column), found in by_test.items())


def test_zhang_table4_compares_precisions_two_sided():
    cells, theirs = cells_of(report("zhang-table4")), printed("Zhang et al. 2021", "Table 4")
    rows = {"Mixed precision": ("fp16", Z), "Full precision": ("fp32", Z | {"precision": "fp32"})}
    assert set(cells) == set(itertools.product(rows, TITLES.values()))
    for task, title in TITLES.items():
        both = []
        for row, (arm, settings) in rows.items():
            check_cell(cells[row, title], where(settings, task=task), "test", theirs[arm][task])
            both.append(scores(where(settings, task=task), "best", "test"))
        p = student(*both, "two-sided")
        for row in rows:
            assert cells[row, title]["bold"] == (p < 0.05)
            assert cells[row, title]["p"] == pytest.approx(p, rel=1e-9)


def test_zhang_table5_has_validation_scores_as_dev_and_says_that_its_test_has_no_name():
    made = report("zhang-table5")
    cells = cells_of(made)
    rows = {"No bias correction": ("zhang-bertadam", {"correction": False}), "Bias correction": ("zhang", {})}
    columns = {"Dev Acc.": "val", "Test Acc.": "test"}
    assert set(cells) == set(itertools.product(rows, columns))
    for column, split in columns.items():
        theirs = printed("Zhang et al. 2021", "Table 5", split)
        both = []
        for row, (arm, settings) in rows.items():
            found = where(Z, settings, task="mnli", seeds=range(3))
            check_cell(cells[row, column], found, split, theirs[arm]["mnli"])
            assert cells[row, column]["split"] == split
            both.append(scores(found, "best", split))
        p = student(*both, "two-sided")
        assert [cells[row, column]["bold"] for row in rows] == [p < 0.05] * 2
    assert UNNAMED in words(made)
    assert "`stableft sweep" not in words(made)  # all six runs are there


def test_zhang_table7_sets_the_larger_of_two_in_bold_and_stars_what_is_larger_by_the_test():
    made = report("zhang-table7")
    cells, theirs = cells_of(made), printed("Zhang et al. 2021", "Table 7")
    expected, places = {}, set()
    for (model, hub), (task, title) in itertools.product(MODELS.items(), TITLES.items()):
        found = {}
        for column, more in (("Standard", {}), ("Re-init", {"pooler": ANY, "blocks": 5})):
            arm = f"zhang-{model.lower()}{'-reinit' if more else ''}"
            records = where(Z, OWN_SETTINGS, more, model=hub, task=task)
            place = (model, f"{title}, {column}")
            check_cell(cells[place], records, "test", theirs[arm][task])
            found[place] = scores(records, "best", "test")
        larger, other = sorted(found, key=lambda place: -found[place].mean())
        expected[larger] = student(found[larger], found[other], "greater") < 0.05
        places |= set(found)
    assert set(cells) == places
    assert {place: cell["star"] for place, cell in cells.items() if cell["bold"]} == expected
    assert Counter(expected.values())[True]
    assert UNNAMED in words(made)


@pytest.mark.parametrize("name", ["zhang-table1", "zhang-table2", "zhang-table4"])
def test_a_table_whose_test_is_named_does_not_say_otherwise(name):
    assert UNNAMED not in words(report(name))
    assert "Student's t-test" in words(report(name))


@pytest.mark.parametrize("name", ["mosbach-table1", "mosbach-table4", *(f"zhang-table{n}" for n in (1, 2, 4, 5, 7))])
def test_without_any_run_the_printed_values_are_there_with_the_command_that_makes_ours(name):
    paper, _, number = name.partition("-table")
    made = report_without_runs(name)
    text = words(made)
    theirs = printed(f"{paper.title()} et al. 2021", f"Table {number}")
    for by_task in theirs.values():
        for numbers in by_task.values():
            assert f"{numbers['mean']:.1f}" in text
            assert f"{numbers['std']:.1f}" in text
    assert "0 of " in text
    assert "`stableft sweep configs/" in text


# --- data sets and hyper-parameters, which need no run


@pytest.fixture
def few_held_out(monkeypatch):
    monkeypatch.setattr(data_stats, "HELD_OUT_ROWS", 6)


def lines(path: str, header: int = 1) -> list[list[str]]:
    """The rows of a file; a line that lacks columns, of which QQP has some, is none."""
    text = (GLUE / path).read_text(encoding="utf-8-sig")
    found = [line.split("\t") for line in text.splitlines()]
    return [line for line in found[header:] if len(line) == len(found[0])]


def majority(labels: list[str]) -> float:
    return Counter(labels).most_common(1)[0][1] / len(labels)


def data_cells(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    artifact, runs = planned(name)
    made = build_report(collect_runs(artifact, runs, []), GLUE)
    return {(cell["column"], cell["row"]): cell for cell in values_of(made)["cells"]}


def test_mosbach_table2_counts_rows_and_baselines_of_the_files(few_held_out):
    cells = data_cells("mosbach-table2")
    counts = {
        "RTE": (lines("RTE/train.tsv"), lines("RTE/dev.tsv"), "2491", "278"),
        "MRPC": (lines("MRPC/train.tsv"), lines("MRPC/dev.tsv"), "3669", "409"),
        "CoLA": (lines("CoLA/train.tsv", 0), lines("CoLA/dev.tsv", 0), "8551", "1043"),
        "QNLI": (lines("QNLI/train.tsv"), lines("QNLI/dev.tsv"), "104744", "5464"),
    }
    for title, (train, dev, *theirs) in counts.items():
        found = [cells[title, column] for column in ("training", "development")]
        assert [cell["here"] for cell in found] == [str(len(train)), str(len(dev))]
        assert [cell["printed"] for cell in found] == theirs
        assert all(cell["agrees"] is False and cell["note"] for cell in found)
    for title, path, place in (("RTE", "RTE/dev.tsv", -1), ("QNLI", "QNLI/dev.tsv", -1)):
        share = majority([line[place] for line in lines(path)])
        assert cells[title, "majority (development), accuracy"]["here"] == f"{share:.3f}"
    positive = [line[0] for line in lines("MRPC/dev.tsv")].count("1") / len(lines("MRPC/dev.tsv"))
    f1 = 2 * positive / (1 + positive) if positive >= 0.5 else 0.0
    assert cells["MRPC", "majority (development), F1"]["here"] == f"{f1:.3f}"
    assert cells["CoLA", "majority (development), MCC"]["here"] == "0.000"
    assert cells["RTE", "majority (development), accuracy"]["printed"] == "0.53"


def test_zhang_table3_halves_the_development_set_and_holds_rows_out_of_large_ones(few_held_out):
    cells = data_cells("zhang-table3")
    sizes = {"RTE": ("RTE", 1), "MRPC": ("MRPC", 1), "STS-B": ("STS-B", 1), "CoLA": ("CoLA", 0)}
    for title, (folder, header) in sizes.items():
        dev = len(lines(f"{folder}/dev.tsv", header))
        found = [int(cells[title, column]["here"]) for column in ("training", "validation", "test")]
        assert found == [len(lines(f"{folder}/train.tsv", header)), dev // 2, dev - dev // 2]
    large = {"SST-2": ("SST-2", "dev", -1), "QNLI": ("QNLI", "dev", -1), "QQP": ("QQP", "dev", -1)}
    for title, (folder, dev, place) in (large | {"MNLI": ("MNLI", "dev_matched", -1)}).items():
        test, train = lines(f"{folder}/{dev}.tsv"), lines(f"{folder}/train.tsv")
        found = [int(cells[title, column]["here"]) for column in ("training", "validation", "test")]
        assert found == [len(train) - 6, 6, len(test)]
        assert (
            cells[title, "majority (test), accuracy"]["here"] == f"{100 * majority([row[place] for row in test]):.1f}"
        )
    printed_rte = [cells["RTE", name]["printed"] for name in ("training", "validation", "test")]
    assert printed_rte == ["2.5k", "139", "139"]
    assert cells["MNLI", "majority (test), accuracy"]["printed"] == "31.8"


def recipe(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


def test_mosbach_table3_is_what_the_recipes_have():
    made = report("mosbach-table3")
    cells = {(cell["row"], cell["column"]): cell for cell in values_of(made)["cells"]}
    assert len(cells) == 13 * 3
    for column, name in (("BERT", "devlin"), ("RoBERTa", "devlin-roberta"), ("ALBERT", "devlin-albert")):
        values = recipe(name)
        optimizer, schedule = values["optimizer"], values["schedule"]
        expected = {
            "Warmup ratio": schedule["warmup"],
            "Batch size": schedule["batch_size"],
            "Adam ε": optimizer["eps"],
            "Adam β1": optimizer["betas"][0],
            "Adam β2": optimizer["betas"][1],
            "Dropout": values["model"]["dropout"] or None,
            "Weight decay": optimizer["weight_decay"] or None,
            "Clipping gradient norm": optimizer["clip_norm"],
        }
        for row, value in expected.items():
            here = cells[row, column]["here"]
            assert here == "-" if value is None else float(here) == value
            assert cells[row, column]["printed"] == here
        assert cells["Number of random seeds", column]["here"] == "25"
    assert cells["Epochs", "BERT"]["printed"] == "3, 10, 20"
    assert cells["Learning rate", "BERT"]["here"] == "1e-5 - 5e-5"
    assert cells["Adam bias correction", "ALBERT"]["here"] == "{True, False}"


def test_zhang_table6_is_what_the_recipes_have_for_each_data_set():
    cells = {(cell["row"], cell["column"]): cell for cell in values_of(report("zhang-table6"))["cells"]}
    assert len(cells) == 17 * 5
    for model, (task, title) in itertools.product(("XLNet", "RoBERTa", "ELECTRA", "BART"), TITLES.items()):
        values = recipe(f"zhang-{model.lower()}")
        own = values.get("by_task", {}).get(task, {})
        schedule = values["schedule"] | own.get("schedule", {})
        length = own.get("schedule.length") or schedule["length"]
        rate = own.get("optimizer.lr") or values["optimizer"]["lr"]
        row = {column: cells[f"{model} {title}", column]["here"] for column in _columns(cells)}
        assert float(row["Learning Rate"]) == rate
        assert row["Batch Size"] == str(schedule["batch_size"])
        assert row["Training Epochs / Steps"] == " ".join(f"{n} {unit}" for unit, n in length.items())
        share = f"{100 * schedule['warmup']:g}%" if schedule["warmup"] else f"{schedule['warmup_steps']} steps"
        assert row["Warmup Ratio / Steps"] == share
        llrd = values["optimizer"]["llrd"]
        assert row["LLRD"] == ("-" if llrd == 1 else str(llrd))
    assert all(cell["here"] == cell["printed"] for cell in cells.values())
    assert cells["BERT all", "Training Epochs / Steps"]["here"] == "3 epochs"


def _columns(cells) -> list[str]:
    return list(dict.fromkeys(column for _, column in cells))
