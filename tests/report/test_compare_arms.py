"""Two arms of made-up records: numbers as SciPy has them, what is concluded in words, and what is refused."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.reports import repeated_sentences, values_of
from support.table_records import make_imported, make_record

from stableft.errors import UserError
from stableft.records.run_record import EarlyStopRecord, write_record, write_records_file
from stableft.report.artifact import ReportedCheckpoint
from stableft.report.compare_arms import build_comparison_report
from stableft.report.compare_runs import MAX_NAMED_RUNS
from stableft.report.forms.terminal import report_to_text
from stableft.report.forms.write import render_report

NAN = math.nan
FINE = [0.70, 0.71, 0.72, 0.69, 0.705, 0.715, 0.70, 0.69, 0.71, 0.70]
LOST = [0.50, 0.49, 0.50, 0.48, 0.50, 0.49, 0.80, 0.50, 0.75, 0.50]  # 8 of 10 are not above 0.5
WIDE = [0.55, 0.85, 0.60, 0.80, 0.56, 0.84, 0.58, 0.82, 0.57, 0.83]  # none failed, the mean is that of FINE


def runs(arm, scores, lr=2e-5, **config):
    """Own runs of one arm, the seeds from 1 on."""
    return [make_record(last=score, arm=arm, lr=lr, seed=seed, **config) for seed, score in enumerate(scores, 1)]


def imported(arm, scores, **more):
    return [make_imported(score, arm=arm, seed=seed, **more) for seed, score in enumerate(scores, 1)]


@pytest.fixture
def compare(tmp_path):
    """Returns a function that compares arms a and b of some records, written to a file."""

    def compare(*records, arms=("a", "b"), task=None, metric=None, where=(), score: ReportedCheckpoint = "recipe"):
        file = tmp_path / "some.jsonl"
        write_records_file(file, [record for arm in records for record in arm])
        return build_comparison_report(arms[0], arms[1], tmp_path / "none", [file], task, metric, where, score)

    return compare


@pytest.fixture
def refused(compare):
    """Returns a function that says with which sentence a comparison is refused."""

    def refused(*records, **options) -> str:
        with pytest.raises(UserError) as caught:
            compare(*records, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def conclusion(report) -> str:
    return report.facts["conclusion"]


def compared_tests(report) -> dict[str, dict]:
    return {test["kind"]: test for test in values_of(report)["tests"]}


def arms_of(report) -> list[dict]:
    return values_of(report)["arms"]


def notes(report) -> str:
    return "\n".join(report.facts["notes"])


# ---- numbers


def newcombe(k_a, n_a, k_b, n_b):
    (low_a, high_a), (low_b, high_b) = (
        stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((k_a, n_a), (k_b, n_b))
    )
    a, b = k_a / n_a, k_b / n_b
    return [a - b - np.hypot(a - low_a, high_b - b), a - b + np.hypot(high_a - a, b - low_b)]


def test_every_test_is_scipys(compare):
    found = compared_tests(compare(runs("a", LOST), runs("b", FINE, lr=3e-5)))
    welch = stats.ttest_ind(FINE, LOST, equal_var=False)
    expected = {
        "levene_median": stats.levene(FINE, LOST, center="median"),
        "levene_mean": stats.levene(FINE, LOST, center="mean"),
        "boschloo": stats.boschloo_exact([[0, 8], [10, 2]], alternative="two-sided"),
        "welch": welch,
        "student": stats.ttest_ind(FINE, LOST),
    }
    for name, result in expected.items():
        assert found[name]["p"] == pytest.approx(result.pvalue, rel=1e-6), name
        assert [found[name][key] for key in ("arm", "against", "n_a", "n_b")] == ["b", "a", 10, 10]
    rank = stats.mannwhitneyu(FINE, LOST)
    assert found["improvement"]["p"] == pytest.approx(rank.pvalue, rel=1e-6)
    assert found["improvement"]["probability"] == pytest.approx(rank.statistic / 100)
    assert found["levene_median"]["sd_ratio"] == pytest.approx(np.std(LOST, ddof=1) / np.std(FINE, ddof=1), rel=1e-6)
    assert (found["boschloo"]["failed_difference"], found["welch"]["mean_difference"]) == pytest.approx(
        (-0.8, np.mean(FINE) - np.mean(LOST)), rel=1e-6
    )
    assert found["welch"]["mean_difference_welch"] == pytest.approx(list(welch.confidence_interval(0.95)))
    assert found["boschloo"]["failed_difference_newcombe"] == pytest.approx(newcombe(0, 10, 8, 10))
    bca = stats.bootstrap(
        (np.array(LOST), np.array(FINE)),
        lambda x, y, axis: np.std(x, axis=axis, ddof=1) / np.std(y, axis=axis, ddof=1),
        rng=np.random.default_rng(1),
        vectorized=True,
    )
    assert found["levene_median"]["sd_ratio_bca"] == pytest.approx(list(bca.confidence_interval), rel=0.15)


def test_holm_adjusts_the_family_alone(compare):
    report = compare(runs("a", LOST), runs("b", FINE, lr=3e-5))
    primary, tests = report.facts["primary"], compared_tests(report)
    assert primary == ["boschloo", "welch", "levene_median"]
    ps = sorted((tests[name]["p"], name) for name in primary)
    expected = np.maximum.accumulate([min(1.0, (3 - i) * p) for i, (p, _) in enumerate(ps)])
    assert [tests[name]["holm_p"] for _, name in ps] == pytest.approx(expected, rel=1e-6)
    assert {test["holm_p"] for name, test in tests.items() if name not in primary} == {None}


def test_compare_and_report_give_equal_numbers(tmp_path, stableft, compare):
    """`report` of three arms too, but for Holm's method, which is over more tests there."""
    arms = runs("a", LOST), runs("b", [*FINE, NAN], lr=3e-5)
    pair = compared_tests(compare(*arms))
    columns = ("p", "statistic", "n_a", "n_b", "failed_difference", "failed_difference_newcombe", "mean_difference")
    columns += ("mean_difference_welch", "sd_ratio", "sd_ratio_bca", "successful_sd_ratio", "reason", "remark")
    for others in ([], runs("c", WIDE, lr=4e-5)):
        file = tmp_path / "arms.jsonl"
        write_records_file(file, [*arms[0], *arms[1], *others])
        _, out, _ = stableft("report", str(file), "--format", "json")
        tests = {row["kind"]: row for row in json.loads(out)["tests"] if row["arm"] == "b" and "kind" in row}
        assert set(pair) - set(tests) == {"student", "permutation", "improvement"}
        for name, test in tests.items():
            for column in (*columns, *(["holm_p"] if not others else [])):
                found, expected = test.get(column), pair[name].get(column)
                exact = expected is None or isinstance(expected, str)
                assert found == (expected if exact else pytest.approx(expected, rel=1e-6)), (name, column)


def test_an_arm_is_described_with_intervals(compare):
    arm = arms_of(compare(runs("a", LOST), runs("b", FINE, lr=3e-5)))[0]
    assert (arm["mean"], arm["std"]) == pytest.approx((np.mean(LOST), np.std(LOST, ddof=1)), rel=1e-6)
    assert arm["iqm"] == pytest.approx(stats.trim_mean(LOST, 0.25), rel=1e-6)
    wilson = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert tuple(arm["failed_wilson"]) == pytest.approx((wilson.low, wilson.high), rel=1e-6)
    bca = stats.bootstrap((np.array(LOST),), np.mean, rng=np.random.default_rng(0), n_resamples=9999)
    assert arm["mean_interval"][0] == pytest.approx(bca.confidence_interval.low, abs=1e-3)
    low, high = arm["std_interval"]
    assert low < arm["std"] < high


def test_spread_among_the_runs_that_did_not_fail_is_labelled_as_conditional(compare):
    lost = [0.4, 0.45, 0.5, *WIDE]
    report = compare(runs("a", lost), runs("b", FINE, lr=3e-5))
    found = compared_tests(report)["levene_successful"]
    assert found["p"] == pytest.approx(stats.levene(WIDE, FINE, center="median").pvalue, rel=1e-6)
    assert (found["n_a"], found["n_b"]) == (10, 10)
    assert found["successful_sd_ratio"] == pytest.approx(np.std(WIDE, ddof=1) / np.std(FINE, ddof=1))
    flat = " ".join(render_report(report).split())
    assert "Runs that did not fail are chosen by their outcome: their spread decides nothing." in flat


# ---- forms


@pytest.mark.parametrize("form", ["md", "csv", "latex", "json", "html"])
def test_every_form_says_what_is_concluded_or_its_numbers(compare, form):
    report = compare(runs("a", LOST), runs("b", FINE, lr=3e-5))
    text = render_report(report, form)
    if form == "json":
        assert json.loads(text)["conclusion"] == conclusion(report)
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["arm"] for row in rows[:2]] == ["a", "b"]
        assert float(rows[0]["mean [percent]"]) == pytest.approx(100 * np.mean(LOST), abs=1e-3)
        assert [row["kind"] for row in rows[2:5]] == ["boschloo", "welch", "levene_median"]
        assert (rows[4]["test"], rows[4]["center"]) == ("Levene's test", "median")
        assert [(row["arm"], row["against"], row["task"]) for row in rows[2:]] == [("b", "a", "rte")] * 8
        assert float(rows[2]["failed_difference [points]"]) == -80
    else:
        assert "b fails less often than a (0/10 against 8/10" in " ".join(text.split())
    if form in ("md", "html", "latex"):
        plain = text.replace("&#39;", "'")
        for name in ("Levene's test (median)", "Levene's test (mean)", "Boschloo's exact test", "Welch's t-test"):
            assert name in plain
        assert "All tests are two-sided and unpaired, of each arm against a." in " ".join(plain.split())
    assert ("<svg" in text or "data:image/svg" in text) == (form == "html")


def test_provenance_names_every_run_and_the_figure_has_a_box_for_each_arm(compare):
    report = compare(runs("a", LOST), runs("b", FINE, lr=3e-5))
    assert report.provenance.runs == (("a", "rte", "this project", 10, 10), ("b", "rte", "this project", 10, 10))
    assert len(report.provenance.run_ids) == 20
    (axes,) = report.figures["scores"]().axes
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == ["a", "b"]


def test_run_folders_are_read_where_no_file_is_given(tmp_path, caplog):
    records = [*runs("a", LOST), *runs("b", FINE, lr=3e-5), make_record(arm="b", status="crashed", seed=99, lr=3e-5)]
    for record in records:
        (tmp_path / "runs" / record.run_id).mkdir(parents=True)
        write_record(tmp_path, record)
    report = build_comparison_report("a", "b", tmp_path, [])
    assert [arm["n"] for arm in arms_of(report)] == [10, 10]
    assert "1 run crashed" in notes(report)
    damaged = tmp_path / "runs" / records[0].run_id / "record.json"
    damaged.write_text("{}")
    report = build_comparison_report("a", "b", tmp_path, [])
    assert [arm["n"] for arm in arms_of(report)] == [9, 10]
    assert caplog.messages[0].startswith(f"{damaged} is not a complete record: left out; ")
    with pytest.raises(UserError, match=r"there are no records in .*runs; --records FILE reads"):
        build_comparison_report("a", "b", tmp_path / "empty", [])


# ---- the sentence


def test_fewer_failures_and_a_higher_mean(compare):
    said = conclusion(compare(runs("a", [*LOST, *LOST]), runs("b", FINE, lr=3e-5)))
    assert re.match(
        r"b fails less often than a \(0/10 against 16/20; -80\.0 points \[-.* to -.*\], Holm p = [\d.e-]+\); ", said
    )
    assert "the mean of b is higher (70.4 against 55.1; +15.3 points [" in said
    assert "whether it is apart from failed runs is not shown" in said
    assert "among the runs that did not fail the spread differs (SD ratio 2.9" in said
    assert "equal" not in said


def test_what_is_not_shown_to_differ_is_given_with_its_interval_and_never_called_equal(compare):
    lost = [0.5, 0.5, *FINE[2:]]
    said = conclusion(compare(runs("a", lost), runs("b", [0.5, *FINE[1:]], lr=3e-5)))
    low, high = (f"{100 * end:.1f}" for end in newcombe(1, 10, 2, 10))
    shown = (
        f"a and b are not shown to differ in how often they fail (2/10 against 1/10; -10.0 points [{low} to {high}], "
    )
    assert said.startswith(shown)
    assert re.search(
        r"spread of their scores is not shown to differ \(SD .*, ratio [\d.]+ \[[\d.]+ to [\d.]+\], Holm", said
    )
    assert re.search(
        r"the means are not shown to differ \(66\.3 against 68\.4; \+2\.1 points \[[-\d.]+ to [\d.]+\], Holm", said
    )
    assert "equal" not in said


def test_spread_alone_differs(compare):
    said = conclusion(compare(runs("a", FINE), runs("b", WIDE, lr=3e-5)))
    assert said.startswith(
        "No run of a or b failed, which leaves the shares of failed runs open (95 % Wilson intervals 0-28 %"
    )
    assert "the scores of b spread more (SD 13.6 against 1.0, ratio 0.073 [" in said
    assert "among the runs" not in said


def test_a_spread_whose_sd_and_distance_from_the_median_disagree_has_no_direction(compare):
    rare = [0.7 + 0.0001 * i for i in range(40)]
    rare[0] = 0.06 + 0.45  # one run far out: a large SD, a small distance from the median
    broad = [0.69 if i % 2 else 0.73 for i in range(40)]
    report = compare(runs("a", rare), runs("b", broad, lr=3e-5))
    assert arms_of(report)[0]["std"] > arms_of(report)[1]["std"]
    assert "do not agree on which spreads more" in conclusion(report)


def test_the_small_spread_of_an_arm_that_failed_throughout_is_no_stability(compare):
    report = compare(runs("a", [0.50, 0.49, 0.48, 0.50, 0.50] * 2, best=0.5), runs("b", WIDE, lr=3e-5))
    said = conclusion(report)
    assert "b fails less often than a (0/10 against 10/10" in said
    assert "†" in render_report(report)
    assert "10 of 10 runs failed (†)" in notes(report)
    assert "10 of 10 runs of a failed, so a small spread is no stability (Mosbach et al. 2021, footnote 5)" in said


def test_both_arms_failed_throughout(compare):
    said = conclusion(compare(runs("a", [0.5, 0.49] * 5, best=0.5), runs("b", [0.48, 0.3] * 5, lr=3e-5, best=0.5)))
    assert "How often a and b fail is not tested (every run of both groups failed)" in said
    assert "10 of 10 runs of a failed" in said  # whose spread is the smaller one


def test_nan_leaves_no_test_out(compare):
    report = compare(runs("a", [NAN, *LOST]), runs("b", FINE, lr=3e-5))
    tests = compared_tests(report)
    finite = compared_tests(compare(runs("a", LOST), runs("b", FINE, lr=3e-5)))
    for name in ("levene_median", "welch", "student", "permutation"):
        assert (tests[name]["p"], tests[name]["n_b"]) == (finite[name]["p"], 10)
    assert tests["boschloo"]["p"] == pytest.approx(
        stats.boschloo_exact([[9, 0], [2, 10]], alternative="two-sided").pvalue, rel=1e-6
    )
    said = conclusion(report)
    assert "b fails less often than a (0/10 against 9/11" in said
    assert "mean, median, min, max and their tests are over the 10 others" in notes(report)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_five_failures_of_five_against_none_are_a_conclusion(compare, order):
    report = compare(runs("a", LOST[:5]), runs("b", FINE[:5], lr=3e-5), arms=order)
    p = stats.boschloo_exact([[5, 0], [0, 5]], alternative="two-sided").pvalue
    assert compared_tests(report)["boschloo"]["p"] == pytest.approx(p, rel=1e-6)
    assert p == pytest.approx(0.002, abs=5e-4)
    first, second = ("0/5", "5/5") if order == ("a", "b") else ("5/5", "0/5")
    how = "less" if order == ("a", "b") else "more"
    assert conclusion(report).startswith(f"{order[1]} fails {how} often than {order[0]} ({first} against {second}; ")
    assert "5 and 5 values are too few for it, below 10 a group" in notes(report)


@pytest.mark.parametrize("n", [1, 2])
def test_from_few_runs_only_what_a_test_shows_is_concluded(compare, n):
    report = compare(runs("a", LOST[:n]), runs("b", FINE[:n], lr=3e-5))
    said = conclusion(report)
    assert said.startswith("a and b are not shown to differ in how often they fail")
    assert (
        f"the spread of their scores is not tested (each group needs at least 3 values, here are {n} and {n})" in said
    )
    if n == 1:
        assert "the means are not tested" in said
        assert "No SD of a, SD of b: one score has no std" in notes(report)


def test_where_no_difference_is_shown_a_command_tells_how_many_seeds_are_needed(compare):
    command = r"`stableft power --from .*some\.jsonl --arms a,b --task rte`"
    said = conclusion(compare(runs("a", FINE), runs("b", [score + 0.001 for score in FINE], lr=3e-5)))
    assert re.search(rf"{command} tells how many seeds differences of this size need\.$", said)
    assert not re.search(command, conclusion(compare(runs("a", LOST), runs("b", FINE, lr=3e-5))))
    report = compare(runs("a", [0.7] * 10), runs("b", [0.7] * 10, lr=3e-5))
    said = conclusion(report)
    assert said.startswith("Nothing may be concluded about a and b: there is no test (no run of both groups failed; ")
    assert "SD ratio: the second group does not vary" in notes(report)
    assert conclusion(compare(runs("a", [0.6]), runs("b", [0.7], lr=3e-5))).endswith(
        "; run more seeds (the papers: 20 to 50)."
    )


def test_no_sentence_is_printed_twice(compare):
    for report in (
        compare(runs("a", LOST), runs("b", FINE, lr=3e-5)),
        compare(imported("a", [*LOST, NAN]), imported("b", FINE)),
        compare(runs("a", [0.50, 0.49, 0.48, 0.50, 0.50] * 2), runs("b", WIDE, lr=3e-5)),
    ):
        for text in (render_report(report), report_to_text(report, True, True)):
            assert repeated_sentences(text) == []


def test_runs_stopped_as_hopeless_leave_no_sample(compare):
    stop = EarlyStopRecord(score=0.4, step=3, rank=3, of=3, after=0.3, lowest=0.4)
    ended = make_record(arm="a", status="crashed", seed=50).model_copy(update={"status": "stopped", "stop": stop})
    report = compare([*runs("a", LOST), ended], runs("b", FINE, lr=3e-5))
    said = conclusion(report)
    assert said == (
        "Nothing may be concluded about a and b: there is no test (1 of 11 runs of a were stopped because of their "
        "scores, so the others are no sample of the arm)."
    )
    tests = compared_tests(report)
    named = ("levene_median", "levene_mean", "levene_successful", "boschloo", "welch", "student", "permutation")
    assert [tests[name]["p"] for name in named] == [None] * 7
    assert (
        tests["improvement"]["probability"],
        tests["levene_median"]["sd_ratio"],
        tests["boschloo"]["failed_difference"],
    ) == (None,) * 3
    assert arms_of(report)[0]["mean_interval"] is None


def test_an_arm_without_a_finished_run(compare):
    crashed = [make_record(arm="a", status="crashed", seed=seed) for seed in (1, 2)]
    report = compare(crashed, runs("b", FINE, lr=3e-5))
    assert conclusion(report).startswith(
        "Nothing may be concluded about a and b: there is no test (each group needs a run"
    )
    assert "b against a: no test: no run of a has a score." in notes(report)
    assert "SD of a: no run has finished" in notes(report)


# ---- what must be known


def test_the_arms_settings_and_shared_seeds_are_named(compare):
    text = notes(compare(runs("a", LOST), runs("b", FINE, lr=3e-5)))
    assert "a / b differ in: optimizer.lr 2e-05 / 3e-05." in text
    r = np.corrcoef(LOST, FINE)[0, 1]
    ends = [f"{np.tanh(np.arctanh(r) + sign * stats.norm.ppf(0.975) / np.sqrt(7)):.3g}" for sign in (-1, 1)]
    assert f"correlation of scores over shared seeds with a: b {r:.2f} [{' to '.join(ends)}] (n = 10)." in text
    same = [make_record(last=score, arm="b", seed=seed) for seed, score in enumerate(FINE, 50)]
    text = notes(compare(runs("a", LOST), same))
    assert "The arms have equal settings: what they differ in is chance." in text
    assert "shared seeds" not in text


def test_arms_that_share_runs_are_not_independent(compare):
    shared = runs("a", FINE)
    text = notes(compare(shared, [record.model_copy(update={"arm": "b"}) for record in shared]))
    assert "b against a: the arms share 10 runs, so they are not independent samples." in text


def test_imported_runs_are_named_as_not_this_projects(compare):
    report = compare(imported("a", LOST), imported("b", FINE))
    text = notes(report)
    assert "settings and data rows of imported runs are not known" in text
    assert "The runs of a and b on RTE (10) are not this project's runs" in text
    assert "elsewhere.csv" in text
    values = json.loads(render_report(report, "json"))
    assert list(values["arms"][0]["sources"].values()) == [10]
    assert values["runs"][0]["origin"].startswith("elsewhere.csv (csv, sha256 0123456789ab")
    assert "b fails less often than a" in conclusion(report)


def test_imported_runs_of_which_nobody_knows_whether_they_failed(compare):
    report = compare(imported("a", WIDE, failed=None, baseline=None), imported("b", FINE, failed=None, baseline=None))
    assert "Whether a and b differ in how often they fail is not known" in conclusion(report)
    assert "whether a run failed is not known of 10 of 10 runs of b and 10 of 10 runs of a" in notes(report)


def test_a_model_alone_or_a_number_of_rows_alone_may_differ(compare):
    text = notes(compare(runs("a", LOST), runs("b", FINE, model="roberta-large")))
    assert "differ in: model.name bert-large-uncased / roberta-large." in text
    fewer = []
    for record in runs("b", FINE):
        data = record.config.data.model_copy(update={"train_rows": 100, "sample_seed": 0})
        config = record.config.model_copy(update={"data": data})
        assert record.data
        rows = record.data.model_copy(update={"fingerprint": "e" * 8})
        fewer.append(record.model_copy(update={"config": config, "run_id": config.run_id, "data": rows}))
    assert "data.train_rows none / 100" in notes(compare(runs("a", LOST), fewer))


# ---- choosing


def test_where_task_and_metric_choose(compare):
    mixed = [*runs("a", LOST), *runs("a", FINE, lr=4e-5), *runs("a", FINE, task="cola")]
    other = [*runs("b", FINE, lr=3e-5), *runs("b", WIDE, task="cola", lr=3e-5)]
    report = compare(mixed, [*other, *runs("b", FINE)], task="RTE", where=["optimizer.lr=2e-5"])
    assert report.facts["task"] == "rte"
    assert arms_of(report)[0]["mean"] == pytest.approx(np.mean(LOST))
    assert compare(mixed, other, task="CoLA").facts["task"] == "cola"


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("seed_init=3", 1),
        ("optimizer.bias_correction=true", 10),
        ("reinit=null", 10),
        ("schedule.length.epochs=3", 10),
        ("schedule.length={epochs: 3}", 10),
        ("schedule.length=3 epochs", 10),
        ("model=BERT-large-uncased", 10),
        ("task=rte", 10),
        ("source=null", 10),
        ("failed=false", 10),
        ("optimizer.betas=[0.9, 0.999]", 10),
    ],
)
def test_where_knows_columns_and_settings(compare, where, n):
    report = compare(runs("a", FINE), runs("b", WIDE, lr=3e-5), where=[where])
    assert [arm["n"] for arm in arms_of(report)] == [n, n]


def test_another_metric_judges_own_runs_failed_anew(compare):
    def with_accuracy(records):
        for record in records:
            last = record.last.model_copy(update={"val": {**record.last.val, "accuracy": record.last.val["f1"] - 0.1}})
            data = record.data.model_copy(update={"baselines": {"val": {"f1": 0.5, "accuracy": 0.65}}})
            yield record.model_copy(update={"last": last, "data": data})

    arms = [list(with_accuracy(runs(arm, FINE, task="mrpc", lr=lr))) for arm, lr in (("a", 2e-5), ("b", 3e-5))]
    report = compare(*arms, metric="accuracy")
    cell = arms_of(report)[0]
    assert (cell["metric"], cell["mean"], cell["failed"]) == (
        "accuracy",
        pytest.approx(np.mean(FINE) - 0.1),
        10,
    )
    assert arms_of(compare(*arms, metric="f1"))[0]["failed"] == 0
    assert "accuracy in percent" in report.title


def test_another_metric_of_imported_runs_leaves_unknown_whether_they_failed(compare):
    def both(records):
        for record in records:
            last = record.last.model_copy(update={"test": {"accuracy": record.last.test["accuracy"], "f1": 0.8}})
            yield record.model_copy(update={"last": last})

    report = compare(list(both(imported("a", LOST))), list(both(imported("b", FINE))), metric="f1")
    assert [arm["failed_unknown"] for arm in arms_of(report)] == [10, 10]


# ---- refusals


def test_arms_tasks_and_metrics_that_are_not_there(refused):
    a, b = runs("a", FINE), runs("bravo", FINE, lr=3e-5)
    assert refused(a, b, arms=("a", "bravo1")) == (
        "compare: the records have no arm 'bravo1'; did you mean 'bravo'?; they have a, bravo"
    )
    twice = refused(a, b, arms=("a", "a"))
    assert "'a' is named twice" in twice
    printed = refused(a, imported("a", FINE), arms=("a", "a (imported: results.csv)"))  # as reports name it
    assert "no arm 'a (imported: results.csv)'" in printed
    for said in (twice, printed):
        assert said.endswith("`stableft import ... --rename OLD=NEW` gives imported runs an arm of their own")
    assert "there are no records in these files" in refused([])
    b = runs("b", FINE, lr=3e-5)
    more = [*runs("a", FINE, task="mrpc"), *runs("b", FINE, task="mrpc", lr=3e-5)]
    assert refused(a, b, more) == "compare: arms 'a' and 'b' have runs of mrpc and rte: select one with --task"
    assert "both have runs of mrpc and rte; did you mean 'rte'?" in refused(a, b, more, task="rtee")
    assert "no task in common: rte against cola" in refused(a, runs("b", FINE, task="cola"))
    assert refused(a, b, metric="f1") == "--metric f1: the runs of 'a' are scored by accuracy"


def test_fields_that_are_not_there(refused):
    a, b = runs("a", FINE), runs("b", FINE, lr=3e-5)
    assert "field 'lr' is neither a column of the runs nor a setting; did you mean 'optimizer.lr'?" in refused(
        a, b, where=["lr=1"]
    )
    assert "did you mean 'seed_init'?" in refused(a, b, where=["seed_int=1"])
    assert refused(a, b, where=["lr"]) == "--where lr: must be FIELD=VALUE"
    assert refused(a, b, where=["optimizer.lr=2e-5"]) == (
        "--where optimizer.lr=2e-5: no run of arm 'b' matches; its runs have 3e-05"
    )


def test_a_seed_twice_and_pooled_settings_are_refused_by_run_and_setting(refused):
    a, b = runs("a", FINE), runs("b", FINE, lr=3e-5)
    said = refused(a, runs("a", FINE, lr=5e-5), b)
    assert "arm 'a' on rte has 10 seeds more than once" in said
    assert f"run {a[0].run_id} of seed 1/101" in said
    assert "optimizer.lr is 2e-05" in said
    assert f" and {20 - MAX_NAMED_RUNS} more" in said
    assert said.endswith("select one with --where optimizer.lr=2e-05")
    later = [make_record(last=0.7, arm="a", lr=5e-5, seed=seed) for seed in (50, 51)]
    said = refused(a, later, b)
    assert "pools settings: optimizer.lr is 2e-05 (run" in said
    assert f"and 5e-05 (run {later[0].run_id} of seed 50/150, run {later[1].run_id} of seed 51/151)" in said
    assert "more than once" not in said


def test_padded_and_packed_runs_are_no_sample_but_may_be_compared(refused, compare):
    a, packed = runs("a", FINE), runs("a", LOST, execution="packed")
    said = refused(a, packed, runs("b", FINE, lr=3e-5))
    assert "has 10 seeds more than once" in said
    assert f"execution is padded (run {a[0].run_id} of seed 1/101" in said
    assert said.endswith("select one with --where execution=padded")
    chosen = compare(a, packed, runs("b", FINE, lr=3e-5), where=["execution=padded"])
    assert {entry.run_id for entry in a} < set(chosen.provenance.run_ids)
    assert len(chosen.provenance.run_ids) == 20
    text = " ".join(render_report(compare(a, runs("b", FINE, execution="packed")), "md").split())
    assert "a / b differ in: execution padded / packed." in text


def test_imported_runs_of_one_seed_or_mixed_with_own_are_refused(refused, compare):
    b = imported("b", FINE)
    source = b[0].source.model_copy(update={"name": "other.csv"})
    said = refused(imported("a", FINE), imported("a", LOST, source=source), b)
    assert "has 10 seeds more than once" in said
    assert said.endswith("select one with --where source=elsewhere.csv")
    chosen = compare(imported("a", FINE), imported("a", LOST, source=source), b, where=["source=elsewhere.csv"])
    assert len(chosen.provenance.run_ids) == 20
    twice = refused([*imported("a", FINE), make_imported(0.6, arm="a", seed=1, run_id="again")], b)
    assert "has 1 seed more than once (run a-rte-1 of seed 1, run again of seed 1): the records do not say" in twice
    mixed = refused(imported("a", FINE), runs("a", FINE), b)
    assert "pools runs of this project" in mixed
    assert "--where source=null" in mixed


def test_arms_scored_unlike_are_refused(refused):
    a = runs("a", FINE)
    said = refused(a, runs("b", FINE, report="best"))
    assert "scores of different checkpoints, last and best" in said
    assert "select one with --score last or --score best" in said
    assert "different splits, val and test" in refused(a, runs("b", FINE, split="heldout"))
    assert "different metrics, accuracy and f1" in refused(imported("a", FINE), imported("b", FINE, metric="f1"))
    within = refused([*a, *runs("a", [0.7] * 12, report="best")[10:]], runs("b", FINE, lr=3e-5))
    assert "arm 'a' on rte has runs of different checkpoints, last (run" in within


def test_score_settles_which_checkpoint(compare):
    report = compare(runs("a", FINE), runs("b", WIDE, report="best", lr=3e-5), score="last")
    assert [arm["checkpoint"] for arm in arms_of(report)] == ["last", "last"]
    assert "evaluation.report" not in notes(report)


def test_other_data_rows_are_refused(refused):
    def elsewhere(records):
        return [r.model_copy(update={"data": r.data.model_copy(update={"fingerprint": "0" * 8})}) for r in records]

    a, b = runs("a", FINE), runs("b", FINE, lr=3e-5)
    said = refused(a, elsewhere(b))
    assert "were trained on different data rows, with fingerprints ffffffff and 00000000" in said
    assert f"run {b[0].run_id} of seed 1/101" in said
    assert "arm 'a' on rte has runs of different data rows" in refused([*a[:5], *elsewhere(a[5:])], b)


def test_a_model_that_differs_beside_the_method_is_refused(refused):
    said = refused(runs("a", FINE), runs("b", FINE, lr=3e-5, model="roberta-large"))
    assert "differ in the model (model.name bert-large-uncased / roberta-large) and the method (" in said
    assert "(optimizer.lr 2e-05 / 3e-05) at once" in said
    (other, *_) = runs("b", FINE, model="roberta-large")
    more = {"lr": 3e-5, "eps": 1e-7, "weight_decay": 0.3, "clip_norm": 0.5, "bias_correction": False}
    optimizer = other.config.optimizer.model_copy(update=more)
    config = other.config.model_copy(update={"optimizer": optimizer})
    said = refused(runs("a", FINE), [other.model_copy(update={"config": config, "run_id": config.run_id})])
    assert re.search(r"the method \((optimizer\.\w+ \S+ / [^, ]+,? ){3}and \d more\) at once", said)
    assert "could not be attributed to one of them" in said


def test_the_command_prints_the_comparison(stableft, tmp_path):
    file = tmp_path / "some.jsonl"
    write_records_file(file, [*runs("a", LOST), *runs("b", FINE, lr=3e-5)])
    code, out, _ = stableft("compare", "a", "b", "--records", str(file))
    assert code == 0
    assert out.startswith("RTE: accuracy %, val, last checkpoint; against a\n")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 24
    assert "In words: b fails less often than a" in out
    assert "Boschloo" not in out
    _, more, _ = stableft("compare", "a", "b", "--records", str(file), "--tests", "--notes")
    assert "Boschloo's exact test" in more
    assert "a / b differ in: optimizer.lr" in more
    _, out, _ = stableft("compare", "a", "b", "--records", str(file), "--format", "md")
    assert out.startswith("# b against a, RTE: accuracy in percent, validation split, last checkpoint")
    code, _, err = stableft("compare", "a", "c", "--records", str(file))
    assert (code, err) == (2, "stableft: compare: the records have no arm 'c'; they have a, b\n")
    assert stableft("compare", "a", "b", "--records", str(file), "--out", str(tmp_path / "pair.png"))[0] == 0
    assert Path(tmp_path / "pair.png").stat().st_size > 10_000
