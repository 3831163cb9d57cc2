"""Every arm against the first one: numbers worked out anew from made-up runs, and every rendering."""

import csv
import io
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats
from support.reports import NAN, NARROW, TABLE1, WIDE, as_json, find_cell, find_tests, make_report, make_runs, render

from stableft.report.artifact import make_sweep_artifact

SWEEP = make_sweep_artifact("mine", "mine.yaml")
TWO_MODES = [0.5, 0.5, 0.48, 0.5, 0.66, 0.7, 0.69, 0.64, 0.71, 0.5]  # 5 failed


def report(*runs, **arguments):
    return make_report(*runs, artifact=SWEEP, published={}, **arguments)


def three_arms():
    return make_runs("first", TWO_MODES), make_runs("second", NARROW), make_runs("third", WIDE[:9])


def against(table, arm):
    return find_cell(as_json(table), arm)


def first_arm_tests(table, arm):
    """Boschloo's test and Levene's by both centres, of an arm against the first."""
    values = as_json(table)
    failures = find_tests(values, "fails less often than the first arm")
    spread = find_tests(values, "spread against the first arm")
    found = {"failures": failures} | {
        center: [t for t in spread if t["center"] == center] for center in ("median", "mean")
    }
    return {name: next(test for test in tests if test["arm"] == arm) for name, tests in found.items()}


def test_the_numbers_are_those_of_the_tests_done_anew():
    table = report(*three_arms())
    second, third = against(table, "second"), against(table, "third")
    for arm, cell, scores, n in (("second", second, NARROW, 10), ("third", third, WIDE[:9], 9)):
        tests = first_arm_tests(table, arm)
        fisher = scipy_stats.boschloo_exact([[0, 5], [n, 5]], alternative="less")
        assert tests["failures"]["p"] == cell["boschloo_p"] == pytest.approx(fisher.pvalue)
        sizes = [tests["failures"][key] for key in ("alternative", "n_a", "n_b")]
        assert sizes == ["less", n, 10]
        assert cell["failed_difference"] == -0.5
        assert cell["sd_ratio"] == pytest.approx(np.std(TWO_MODES, ddof=1) / np.std(scores, ddof=1))
        for center in ("median", "mean"):
            expected = scipy_stats.levene(TWO_MODES, scores, center=center)
            assert tests[center]["p"] == pytest.approx(expected.pvalue)
        assert [cell["levene_p"], cell["levene_mean_p"]] == [tests[center]["p"] for center in ("median", "mean")]
    low, high = second["sd_ratio_bca"]
    assert low < second["sd_ratio"] < high


def test_holm_is_over_the_arms_and_each_test_is_a_family():
    table = report(*three_arms())
    for test, adjusted in (("boschloo_p", "boschloo_holm_p"), ("levene_p", "levene_holm_p")):
        pairs = sorted((against(table, arm)[test], against(table, arm)[adjusted]) for arm in ("second", "third"))
        (small, small_holm), (large, large_holm) = pairs
        assert small_holm == pytest.approx(2 * small)
        assert large_holm == pytest.approx(max(large, 2 * small))


def test_holm_is_over_all_tasks_of_the_report():
    rte = make_runs("first", TWO_MODES), make_runs("second", NARROW)
    mrpc = make_runs("first", TWO_MODES, task="mrpc"), make_runs("second", NARROW, task="mrpc")
    alone, both = report(*rte), report(*rte, *mrpc)
    p = against(alone, "second")["levene_p"]
    assert against(alone, "second")["levene_holm_p"] == p
    adjusted = [find_cell(as_json(both), "second", task)["levene_holm_p"] for task in ("rte", "mrpc")]
    assert adjusted == pytest.approx([2 * p] * 2)
    assert "2 of Boschloo and 2 of Levene" in " ".join(render(both).split())


def test_an_interval_does_not_depend_on_the_other_arms():
    first, second, third = three_arms()
    assert (
        against(report(first, third), "third")["sd_ratio"] == against(report(first, second, third), "third")["sd_ratio"]
    )


def test_the_block_in_markdown():
    text = render(report(*three_arms()))
    assert max(map(len, text.splitlines())) <= 110
    heading, *lines = text[text.index("### Against first") :].splitlines()
    assert heading == "### Against first"
    second, cells = against(report(*three_arms()), "second"), re.findall(r"[^| ]+", lines[3])
    assert cells[:2] == ["second", "-50.0"]
    shown = [second["boschloo_p"], second["boschloo_holm_p"], second["sd_ratio"]]
    assert [float(cell) for cell in cells[2:5]] == pytest.approx(shown, rel=0.06)
    assert cells[5] == "-".join(f"{end:.3g}" for end in second["sd_ratio_bca"])
    shown = [second["levene_p"], second["levene_holm_p"], second["levene_mean_p"]]
    assert [float(cell) for cell in cells[6:]] == pytest.approx(shown, rel=0.06)
    flat = " ".join(" ".join(lines).split())
    for words in (
        "Boschloo's exact test (one-sided: the arm fails less often than first)",
        "first over arm, with its BCa bootstrap interval (9,999 resamples, seed 0)",
        "Levene's test of equal spread (two-sided, centre median)",
        "centre mean, for parity with the papers, not adjusted",
        "Holm's method over the tests of its kind in this report, 2 of Boschloo and 2 of Levene (median)",
        "n: first 10, second 10, third 9.",
    ):
        assert words in flat


def test_the_first_arm_of_the_plan_is_the_baseline():
    planned = {(arm, "rte"): 10 for arm in ("second", "first")}
    table = report(make_runs("first", TWO_MODES), make_runs("second", NARROW), planned=planned)
    assert [(v.arm, v.first) for v in table.reference_comparisons] == [("first", "second")]
    assert table.reference_comparisons[0].failures.p == pytest.approx(1)
    assert table.reference_comparisons[0].failed_difference == 0.5


def test_what_cannot_be_computed_is_a_dash_with_its_reason():
    planned = {(arm, "rte"): 10 for arm in ("first", "second", "third", "never", "flat")}
    runs = make_runs("first", TWO_MODES), make_runs("second", [0.7, 0.8]), make_runs("third", [*NARROW[:2], NAN])
    table = report(*runs, make_runs("flat", [0.71] * 10), planned=planned)
    text = render(table)
    flat = " ".join(text.split())
    for words in (
        "never against first: no Boschloo p: .* 0 and 10",
        "first against never: no SD ratio, Levene p, mean p: .* 10 and 0",
        "first against (second|third): no SD ratio, Levene p, mean p: .* 10 and 2",
        "first against flat: no SD ratio: .*not vary",
    ):
        assert re.search(words, flat)
    row = next(line for line in text[text.index("### Against") :].splitlines() if line.startswith("| never"))
    assert re.findall(r"[^| ]+", row)[1:] == ["-"] * 8
    for form in ("md", "csv", "latex"):
        assert "nan" not in render(table, form).replace("NaN", "").replace("n_nan", "").lower()


def test_arms_that_are_not_scored_alike_are_said_in_the_block():
    table = report(make_runs("first", TWO_MODES), make_runs("second", NARROW, report="best", best=0.9))
    assert "unlike scores" in first_arm_tests(table, "second")["failures"]["remark"]
    text = render(table)
    assert "second against first: unlike scores" in text[text.index("### Against first") :]
    assert "unlike scores" in render(table, "csv").splitlines()[2].split(",")[-1]


def test_the_block_in_csv():
    lines = list(csv.DictReader(io.StringIO(render(report(*three_arms()), "csv"))))
    assert [line["against"] for line in lines] == ["", "first", "first"]
    assert float(lines[1]["failed_difference [points]"]) == -50
    second = against(report(*three_arms()), "second")
    assert float(lines[1]["sd_ratio"]) == second["sd_ratio"]
    assert [float(lines[1][f"sd_ratio_bca_{end}"]) for end in ("low", "high")] == second["sd_ratio_bca"]
    assert "the 5 failed runs end at a mean training loss of 0.25" in lines[0]["notes"]


def test_the_block_in_latex():
    text = render(report(*three_arms()), "latex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    block = text[text.index(r"\end{table}") :]
    body = block[block.index(r"\midrule") : block.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines()[1:]} == {8}
    assert "Boschloo's exact test" in block
    assert not re.search(r"(?<!\\)[%#]", text)


def test_failed_runs_stand_beside_the_entropy_of_the_labels():
    runs = make_runs("first", TWO_MODES), make_runs("second", [0.4, *NARROW]), make_runs("third", NARROW)
    flat = " ".join(render(report(*runs)).split())
    assert re.search(r"- first: the 5 failed runs [^;]* 0\.25; [^;]* 0\.69 nats", flat)
    assert re.search(r"- second: the failed run [^;]* 0\.25; [^;]* 0\.69 nats", flat)
    assert "- third: the" not in flat
    cells = as_json(report(*runs))["cells"]
    assert [(c["failed_train_losses"], c["label_entropies"]) for c in cells] == [
        ([0.25] * 5, [0.69]),
        ([0.25], [0.69]),
        ([], []),
    ]


def test_losses_that_are_not_known_are_not_counted():
    runs = make_runs("first", TWO_MODES)
    runs = [runs[0].model_copy(update={"evals": ()}), *runs[1:]]
    assert "4 of the 5 failed runs end at a mean training loss" in " ".join(render(report(runs)).split())
    imported = [run.model_copy(update={"evals": (), "data": None}) for run in runs]
    assert "training loss" not in render(report(imported))


def test_the_papers_artefacts_have_no_such_block():
    table = make_report(*three_arms(), artifact=TABLE1)
    assert table.reference_comparisons == ()
    assert not any("against" in cell for cell in as_json(table)["cells"])
    for form in ("md", "csv", "latex", "json"):
        assert "Boschloo" not in render(table, form)
        assert "training loss" not in render(table, form)


def test_one_arm_has_no_block():
    assert "### Against" not in render(report(make_runs("first", TWO_MODES)))
