"""Every arm against the reference arm: numbers computed anew with SciPy or by hand, in every form."""

import csv
import io
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats
from support.reports import (
    NAN,
    NARROW,
    TABLE1,
    WIDE,
    as_json,
    find_cell,
    make_report,
    make_runs,
    render,
    repeated_sentences,
)
from support.table_records import make_imported

from stableft.report.artifact import make_sweep_artifact
from stableft.report.forms.terminal import SCREEN_WIDTH, report_to_text
from stableft.report.pair_tests import FAMILY
from stableft.report.stability_report import build_stability_report

SWEEP = make_sweep_artifact("mine", "mine.yaml")
NAMES = ("first", "second", "third", "fourth")
TWO_MODES = [0.5, 0.5, 0.48, 0.5, 0.66, 0.7, 0.69, 0.64, 0.71, 0.5]  # 5 failed


def report(*runs, against=None, **arguments):
    artifact = make_sweep_artifact("mine", "mine.yaml", against)
    return make_report(*runs, artifact=artifact, published={}, **arguments)


def three_arms():
    return make_runs("first", TWO_MODES), make_runs("second", NARROW), make_runs("third", WIDE[:9])


def pair_tests_of(table, arm, task="rte"):
    """The tests of an arm by the key of their rows."""
    return {row["kind"]: row for row in as_json(table)["tests"] if (row["arm"], row["task"]) == (arm, task)}


def wilson(k, n):
    interval = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def newcombe(k, n, k_of_reference, n_of_reference):
    (low, high), (low_r, high_r) = wilson(k, n), wilson(k_of_reference, n_of_reference)
    p, r = k / n, k_of_reference / n_of_reference
    return [p - r - np.hypot(p - low, high_r - r), p - r + np.hypot(high - p, r - low_r)]


def holm(ps):
    order = np.argsort(ps)
    steps = [min(1.0, (len(ps) - rank) * ps[i]) for rank, i in enumerate(order)]
    return dict(zip(order.tolist(), np.maximum.accumulate(steps), strict=True))


def test_every_number_is_scipys_or_made_by_hand():
    table = report(*three_arms())
    for arm, scores in (("second", NARROW), ("third", WIDE[:9])):
        cell, tests, n = find_cell(as_json(table), arm), pair_tests_of(table, arm), len(scores)
        boschloo = scipy_stats.boschloo_exact([[0, 5], [n, 5]], alternative="two-sided")
        welch = scipy_stats.ttest_ind(scores, TWO_MODES, equal_var=False)
        assert tests["boschloo"]["p"] == cell["boschloo_p"] == pytest.approx(boschloo.pvalue)
        assert tests["welch"]["p"] == cell["welch_p"] == pytest.approx(welch.pvalue)
        assert (tests["boschloo"]["failed_difference"], cell["failed_difference"]) == (-0.5, -0.5)
        assert cell["failed_difference_newcombe"] == pytest.approx(newcombe(0, n, 5, 10))
        assert cell["mean_difference"] == pytest.approx(np.mean(scores) - np.mean(TWO_MODES))
        assert cell["mean_difference_welch"] == pytest.approx(list(welch.confidence_interval(0.95)))
        assert cell["sd_ratio"] == pytest.approx(np.std(TWO_MODES, ddof=1) / np.std(scores, ddof=1))
        for center, key in (("median", "levene_p"), ("mean", "levene_mean_p")):
            expected = scipy_stats.levene(scores, TWO_MODES, center=center)
            assert tests[f"levene_{center}"]["p"] == cell[key] == pytest.approx(expected.pvalue)
            assert tests[f"levene_{center}"]["center"] == center
        succeeded = scipy_stats.levene(scores, [x for x in TWO_MODES if x > 0.5], center="median")
        assert tests["levene_successful"]["p"] == pytest.approx(succeeded.pvalue)
        assert tests["levene_successful"]["n_b"] == 5
        for name in ("boschloo", "welch", "levene_median", "levene_mean"):
            assert [tests[name][key] for key in ("n_a", "n_b", "against")] == [n, 10, "first"]
        assert {tests[name]["alternative"] for name in ("boschloo", "welch")} == {"two-sided"}
    second, third = (find_cell(as_json(table), arm) for arm in ("second", "third"))
    low, high = second["sd_ratio_bca"]
    assert low < second["sd_ratio"] < high
    assert third["sd_ratio_bca"] is None  # 9 runs are too few for it
    assert "no interval of the SD ratio" in render(table)


def test_holm_is_over_all_tests_of_the_table():
    mrpc = make_runs("first", TWO_MODES, task="mrpc"), make_runs("second", WIDE, task="mrpc")
    table = report(*three_arms(), *mrpc)
    tests = [
        pair_tests_of(table, arm, task)[name] for arm, task in (("second", "rte"), ("third", "rte")) for name in FAMILY
    ]
    tests += [pair_tests_of(table, "second", "mrpc")[name] for name in FAMILY]
    adjusted = holm([test["p"] for test in tests])
    for i, test in enumerate(tests):
        assert test["holm_p"] == pytest.approx(adjusted[i], rel=1e-6)
    cell = find_cell(as_json(table), "second")
    assert cell["boschloo_holm_p"] == tests[0]["holm_p"]
    assert cell["welch_holm_p"] == tests[1]["holm_p"]
    assert cell["levene_holm_p"] == tests[2]["holm_p"]
    others = [row["holm_p"] for row in as_json(table)["tests"] if row["kind"] not in FAMILY]
    assert set(others) == {None}
    assert "adjusted over the 9 tests of failures, means and spread (median)" in " ".join(render(table).split())


@pytest.mark.parametrize("order", [("lost", "fine"), ("fine", "lost")])
def test_a_difference_is_shown_whichever_arm_comes_first(order):
    scores = {"lost": [0.5] * 36 + [0.7 + 0.001 * i for i in range(14)], "fine": [0.7 + 0.001 * i for i in range(50)]}
    table = report(*(make_runs(arm, scores[arm]) for arm in order))
    cell = find_cell(as_json(table), order[1])
    expected = scipy_stats.boschloo_exact([[36, 0], [14, 50]], alternative="two-sided").pvalue
    assert expected < 1e-10
    assert cell["boschloo_p"] == pytest.approx(expected)
    sign = 1 if order[1] == "lost" else -1
    assert cell["failed_difference"] == pytest.approx(sign * 0.72)
    assert sorted(cell["failed_difference_newcombe"], key=abs) == pytest.approx(
        sorted((sign * end for end in newcombe(36, 50, 0, 50)), key=abs)
    )


def test_two_sided_tests_do_not_depend_on_the_order_of_the_arms():
    found = []
    for against, arm in (("first", "third"), ("third", "first")):
        cell = find_cell(as_json(report(*three_arms()[::2], against=against)), arm)
        found.append(cell)
    for name in ("boschloo", "boschloo_holm", "welch", "welch_holm", "levene", "levene_holm", "levene_mean"):
        assert found[0][f"{name}_p"] == pytest.approx(found[1][f"{name}_p"]), name
    for name in ("failed_difference", "mean_difference"):
        assert found[0][name] == pytest.approx(-found[1][name])
    assert found[0]["sd_ratio"] == pytest.approx(1 / found[1]["sd_ratio"])


def test_an_exact_test_is_reported_at_any_n():
    lost, fine = make_runs("lost", [0.5, 0.49, 0.48, 0.5, 0.47]), make_runs("fine", [0.7, 0.71, 0.72, 0.7, 0.69])
    cell = find_cell(as_json(report(lost, fine)), "fine")
    expected = scipy_stats.boschloo_exact([[5, 0], [0, 5]], alternative="two-sided").pvalue
    assert cell["boschloo_p"] == pytest.approx(expected)
    assert expected == pytest.approx(0.002, abs=5e-4)
    pair = find_cell(as_json(report(make_runs("lost", [0.5]), make_runs("fine", [0.7]))), "fine")
    assert pair["boschloo_p"] == pytest.approx(
        scipy_stats.boschloo_exact([[1, 0], [0, 1]], alternative="two-sided").pvalue
    )
    assert (pair["welch_p"], pair["levene_p"]) == (None, None)


def test_an_interval_does_not_depend_on_the_other_arms():
    first, second, third = three_arms()
    alone, beside = (find_cell(as_json(report(*arms)), "second") for arms in ((first, second), (first, third, second)))
    assert alone["sd_ratio_bca"] == beside["sd_ratio_bca"] is not None


def test_the_first_arm_of_the_plan_is_the_reference():
    planned = {(arm, "rte"): 10 for arm in ("second", "first")}
    table = report(make_runs("first", TWO_MODES), make_runs("second", NARROW), planned=planned)
    assert [(pair.arm.arm, pair.reference.arm) for pair in table.pairs] == [("first", "second")]
    assert table.pairs[0].failed_difference == 0.5


def test_another_arm_is_the_reference_if_named():
    table = report(*three_arms(), against="second")
    assert [(pair.arm.arm, pair.reference.arm) for pair in table.pairs] == [("first", "second"), ("third", "second")]
    text = render(table)
    assert text.splitlines()[2].endswith("; against second")
    row = next(line for line in text.splitlines() if line.startswith("| second"))
    assert row.split("|")[-3].strip() == "reference"
    assert "of each arm against second" in " ".join(text.split())


def test_the_tests_in_markdown():
    table = report(*three_arms())
    text, tests, cell = render(table), pair_tests_of(table, "second"), find_cell(as_json(table), "second")
    block = text[text.index("## Tests") :]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    start = next(i for i, row in enumerate(rows) if row[0] == "second")
    failed, mean, spread, at_mean, successful = rows[start + 1 : start + 6]
    low, high = (100 * end for end in cell["failed_difference_newcombe"])
    assert failed[:4] == ["- failed runs, difference", "-50.0", f"{low:.1f} to {high:.1f}", "Boschloo's exact test"]
    assert mean[1] == f"{100 * cell['mean_difference']:+.1f}"
    assert spread[1:4] == [
        f"{cell['sd_ratio']:.3g}",
        " to ".join(f"{end:.3g}" for end in cell["sd_ratio_bca"]),
        "Levene's test (median)",
    ]
    assert at_mean[3] == "Levene's test (mean)"
    shown = zip((failed, mean, spread, at_mean, successful), (*FAMILY, "levene_mean", "levene_successful"), strict=True)
    for row, name in shown:
        assert float(row[4]) == pytest.approx(tests[name]["p"], rel=0.06), name
        assert row[5] == ("" if tests[name]["holm_p"] is None else f"{tests[name]['holm_p']:.2g}")
        assert row[6] == f"{tests[name]['n_a']}, {tests[name]['n_b']}"
    flat = " ".join(block.split())
    for fact in ("two-sided", "Newcombe", "Brown-Forsythe", "reference over arm", "9,999 resamples, seed 0"):
        assert fact in flat


def test_stars_are_those_of_holm():
    table = report(*three_arms())
    text = render(table)
    for pair in table.pairs:
        row = next(line for line in text.splitlines() if line.startswith(f"| {pair.arm.arm}"))
        cells = [part.strip() for part in row.strip("|").split("|")]
        ratio, failed, mean = cells[5], cells[-2], cells[-1]
        assert ratio.endswith("*") == (pair.holm["levene_median"] < 0.05)
        assert failed.endswith("*") == (pair.holm["boschloo"] < 0.05)
        assert mean.endswith("*") == (pair.holm["welch"] < 0.05)
    assert "*" in "".join(line for line in text.splitlines() if line.startswith("| second"))


def test_what_cannot_be_computed_is_a_dash_with_its_reason():
    planned = {(arm, "rte"): 10 for arm in ("first", "second", "third", "never", "flat")}
    runs = make_runs("first", TWO_MODES), make_runs("second", [0.7, 0.8]), make_runs("third", [*NARROW[:2], NAN])
    table = report(*runs, make_runs("flat", [0.71] * 10), planned=planned)
    text = render(table)
    flat = " ".join(text.split())
    for words in (
        "never against first: no test: no run of never has a score",
        "second, third against first: no test of spread, test of spread centred at the mean.*: .* 2 and 10",
        "flat against first: no SD ratio: .*not vary",
    ):
        assert re.search(words, flat), words
    values = find_cell(as_json(table), "never")
    keys = ("failed_difference", "boschloo_p", "mean_difference", "welch_p", "sd_ratio", "levene_p", "levene_mean_p")
    assert [values[key] for key in keys] == [None] * 7
    assert find_cell(as_json(table), "second")["boschloo_p"] is not None
    for form in ("md", "csv", "latex"):
        assert "nan" not in render(table, form).replace("NaN", "").replace("n_nan", "").lower()
        assert "- (- to -)" not in render(table, form)


def test_a_nan_run_deletes_no_arm():
    table = report(make_runs("first", TWO_MODES), make_runs("second", [*NARROW, NAN]))
    cell, tests = find_cell(as_json(table), "second"), pair_tests_of(table, "second")
    assert (cell["n"], cell["n_nan"], cell["failed"]) == (11, 1, 1)
    assert (cell["mean"], cell["std"]) == pytest.approx((np.mean(NARROW), np.std(NARROW, ddof=1)))
    assert cell["welch_p"] == pytest.approx(scipy_stats.ttest_ind(NARROW, TWO_MODES, equal_var=False).pvalue)
    assert cell["levene_p"] == pytest.approx(scipy_stats.levene(NARROW, TWO_MODES, center="median").pvalue)
    boschloo = scipy_stats.boschloo_exact([[1, 5], [10, 5]], alternative="two-sided")
    assert cell["boschloo_p"] == pytest.approx(boschloo.pvalue)
    assert [(tests[name]["n_a"], tests[name]["n_b"]) for name in FAMILY] == [(11, 10), (10, 10), (10, 10)]
    assert "11, 1 NaN" in render(table)


def test_arms_that_are_not_scored_alike_are_told():
    table = report(make_runs("first", TWO_MODES), make_runs("second", NARROW, report="best", best=0.9))
    assert "unlike scores" in pair_tests_of(table, "second")["boschloo"]["remark"]
    text = render(table)
    assert "second against first: unlike scores" in text[text.index("## Tests") :]
    assert "unlike scores" in render(table, "csv").splitlines()[2].split(",")[-1]


def test_the_tests_in_csv():
    lines = list(csv.DictReader(io.StringIO(render(report(*three_arms()), "csv"))))
    assert [line["against"] for line in lines] == ["", "first", "first"]
    assert float(lines[1]["failed_difference [points]"]) == -50
    second = find_cell(as_json(report(*three_arms())), "second")
    assert float(lines[1]["sd_ratio"]) == second["sd_ratio"]
    for name, scale in (("sd_ratio_bca_{}", 1), ("failed_difference_newcombe_{} [points]", 100)):
        ends = [float(lines[1][name.format(end)]) for end in ("low", "high")]
        assert ends == pytest.approx([scale * end for end in second[name.split("_{")[0]]])
    assert float(lines[1]["welch_holm_p"]) == second["welch_holm_p"]


def test_the_tests_in_latex():
    text = render(report(*three_arms()), "latex")
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    block = text[text.index(r"\end{table*}") :]
    body = block[block.index(r"\midrule") : block.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines()[1:]} == {6}
    assert "Boschloo's exact test" in block
    assert not re.search(r"(?<!\\)[%#]", block)


def test_failed_runs_are_shown_beside_the_entropy_of_the_labels():
    runs = make_runs("first", TWO_MODES), make_runs("second", [0.4, *NARROW]), make_runs("third", NARROW)
    flat = " ".join(render(report(*runs)).split())
    assert re.search(
        r"end of failed runs, .*: first 0\.25 beside 0\.69 \(n = 5\), second 0\.25 beside 0\.69 \(n = 1\)\.", flat
    )
    cells = as_json(report(*runs))["cells"]
    assert [(c["failed_train_losses"], c["label_entropies"]) for c in cells] == [
        ([0.25] * 5, [0.69]),
        ([0.25], [0.69]),
        ([], []),
    ]
    lines = list(csv.DictReader(io.StringIO(render(report(*runs), "csv"))))
    assert ["training loss" in line["notes"] for line in lines] == [True, True, False]


def test_losses_that_are_not_known_are_not_counted():
    runs = make_runs("first", TWO_MODES)
    runs = [runs[0].model_copy(update={"evals": ()}), *runs[1:]]
    assert "first 0.25 beside 0.69 (4 of 5 runs)" in " ".join(render(report(runs)).split())
    imported = [run.model_copy(update={"evals": (), "data": None}) for run in runs]
    assert "training loss" not in render(report(imported))


def two_tasks():
    """Five arms, some with NaN, imported or few runs, on two tasks with other answers."""
    lost = [0.5] * 9 + [NAN]
    rte = *three_arms(), make_runs("fourth", lost), imported_runs("theirs", "rte")
    other_scores = [0.8 * x + 0.15 for x in WIDE], [x - 0.4 for x in NARROW], NARROW[:7], [0.5, 0.51, NAN, 0.7]
    mrpc = [make_runs(name, scores, task="mrpc") for name, scores in zip(NAMES, other_scores, strict=True)]
    return *rte, *mrpc, imported_runs("theirs", "mrpc"), imported_runs("second", "cola")


def imported_runs(arm, task):
    return [make_imported(arm=arm, task=task, seed=seed, split="val", last=x) for seed, x in enumerate(WIDE)]


@pytest.mark.parametrize("compared", [True, False])
@pytest.mark.parametrize("n_tasks", [1, 2])
def test_no_sentence_is_printed_twice(compared, n_tasks):
    runs = two_tasks() if n_tasks == 2 else two_tasks()[:5]
    table = report(*runs) if compared else make_report(*runs)
    texts = [render(table), render(table, "latex"), report_to_text(build_stability_report(table), True, True)]
    for text in texts:
        assert repeated_sentences(text) == []
        assert " ".join(text.split()).count("imported from elsewhere.csv") == 1


def test_the_terminal_shows_four_arms_on_one_screen():
    arms = *three_arms(), make_runs("fourth", [0.5] * 9 + [NAN])
    text = report_to_text(build_stability_report(report(*arms, planned={(a, "rte"): 10 for a in NAMES})))
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= SCREEN_WIDTH == 100
    rows = {line.split()[0]: line for line in lines if re.match(r"\w+ +.*\d/\d", line)}
    assert list(rows) == list(NAMES)
    cells = {arm: find_cell(as_json(report(*arms)), arm) for arm in NAMES}
    assert "5/10" in rows["first"]
    assert "reference" in rows["first"]
    for arm in NAMES[1:]:
        cell = cells[arm]
        low, high = cell["mean_difference_welch"]
        shown = f"{100 * cell['mean_difference']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        assert shown in rows[arm]
        assert rows[arm].rstrip().endswith("*") == (cell["welch_holm_p"] < 0.05)
    assert "In words: 5 of 10 runs of first fail" in text
    assert "* Holm p < .05" in text
    assert "--tests" in text
    assert "--notes (" in text
    assert "Boschloo" not in text


def test_the_papers_artefacts_have_no_such_tests():
    table = make_report(*three_arms(), artifact=TABLE1)
    assert table.pairs == ()
    assert not any("boschloo_p" in cell for cell in as_json(table)["cells"])
    for form in ("md", "csv", "latex", "json"):
        text = render(table, form).lower()
        assert "boschloo" not in text
        assert "training loss" not in text


def test_one_arm_has_no_tests():
    text = render(report(make_runs("first", TWO_MODES)))
    assert "## Tests" not in text
    assert "reference" not in text


def test_nothing_is_claimed_of_arms_scored_unlike():
    runs = make_runs("first", NARROW), make_runs("second", NARROW, report="best", best=0.95)
    table = report(*runs)
    assert table.pairs[0].holm["welch"] < 1e-6
    text = report_to_text(build_stability_report(table))
    assert "second is not scored like first." in text
    assert "* Holm" not in text
    assert "] *" not in text


def test_the_screen_gives_the_n_of_a_mean_without_its_nan():
    text = report_to_text(build_stability_report(report(make_runs("first", NARROW), make_runs("second", [*WIDE, NAN]))))
    assert re.search(r"^second  11, 1 NaN  ", text, re.MULTILINE)
