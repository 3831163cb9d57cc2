"""Reports of made-up runs: numbers that can be checked by hand, and their texts in every form."""

import csv
import io
import os
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats
from support.paths import GOLDEN
from support.reports import (
    NAN,
    NARROW,
    TABLE1,
    WIDE,
    as_json,
    find_cell,
    find_tests,
    make_report,
    make_runs,
    printed_in_table1,
    published_rows,
    render,
    repeated_sentences,
)

from stableft.config.run_config import StartFrom
from stableft.errors import UserError
from stableft.records.run_record import (
    NUMERICS,
    EarlyStopRecord,
    Environment,
    ImportedRun,
    ImportedScores,
    ImportSource,
    StartRecord,
)
from stableft.report.artifact import make_sweep_artifact
from stableft.report.forms.latex import escape_latex
from stableft.report.forms.markdown import LINE_WIDTH
from stableft.report.forms.terminal import report_to_text
from stableft.report.pair_tests import FAMILY
from stableft.report.paper_values import with_references
from stableft.report.stability_report import build_stability_report
from stableft.report.stability_results import Question

SWEEP = make_sweep_artifact("mine", "mine.yaml")
EXPECTED = GOLDEN / "report-mosbach-table1.md"


def imported(arm, scores, file):
    """Runs of RTE that someone else did."""
    known = {"task": "rte", "metric": "accuracy", "split": "val", "report": "last", "best": None, "steps": None}
    source = ImportSource(kind="csv", name=file, sha256="0" * 64)
    return [
        ImportedRun(
            run_id=f"{seed:016x}",
            arm=arm,
            seed=seed,
            last=ImportedScores(step=None, val={"accuracy": score}, test=None),
            failed=score <= 0.5,
            baseline=0.5,
            source=source,
            **known,
        )
        for seed, score in enumerate(scores, 1)
    ]


def test_cells_by_hand():
    table = make_report(make_runs("devlin", [0.4, 0.6, 0.8], crashed=1), planned={("devlin", "rte"): 5})
    cell = as_json(table)["cells"][0]
    expected = {"n": 3, "n_nan": 0, "mean": 0.6, "std": 0.2, "median": 0.6, "min": 0.4, "max": 0.8, "reason": None}
    expected |= {"failed": 1, "crashed": 1, "n_planned": 5, "metric": "accuracy", "split": "val", "checkpoint": "last"}
    assert {name: cell[name] for name in expected} == pytest.approx(expected)
    assert len(cell["run_ids"]) == 4
    text = render(table)
    assert "| 3 of 5 |    1/3 |" in text
    assert "devlin on RTE: 3 runs have a score, 5 are planned." in text
    assert "devlin on RTE: 1 run crashed: no score" in text


def test_nan_scores_count_as_failed_and_are_stated_beside_the_mean():
    table = make_report(make_runs("devlin", [0.6, NAN, 0.8, NAN]), make_runs("mosbach", NARROW))
    values = as_json(table)
    cell = find_cell(values, "devlin")
    assert (cell["n"], cell["n_nan"], cell["failed"]) == (4, 2, 2)
    assert cell["mean"] == pytest.approx(0.7)
    levene = values["tests"][0]
    assert (levene["p"], levene["n_b"]) == (None, 2)
    assert "at least 3 values" in levene["reason"]
    assert "4, 2 NaN" in render(table)


def test_all_nan_and_never_started_cells_have_no_numbers_but_a_reason():
    planned = {("devlin", "rte"): 2, ("mosbach", "rte"): 3}
    table = make_report(make_runs("devlin", [NAN, NAN]), planned=planned)
    values = as_json(table)
    assert find_cell(values, "devlin")["reason"] == "every score is NaN"
    assert find_cell(values, "mosbach")["reason"] == "no run has finished"
    assert [find_cell(values, row)["mean"] for row in ("devlin", "mosbach")] == [None, None]
    for kind in ("md", "csv", "latex"):
        assert "nan" not in render(table, kind).replace("NaN", "").replace("n_nan", "").lower()


def test_the_star_is_scipys_levene_of_the_two_smallest_std():
    table = make_report(
        make_runs("mosbach-mixout", [0.3, 0.9] * 5), make_runs("devlin", WIDE), make_runs("mosbach", NARROW[:9])
    )
    values = as_json(table)
    tests = find_tests(values, Question.SMALLEST_STD)
    assert [(c["arm"], c["against"], c["center"], c["n_a"], c["n_b"]) for c in tests] == [
        ("mosbach", "devlin", "median", 9, 10),
        ("mosbach", "devlin", "mean", 9, 10),
    ]
    for test in tests:
        expected = scipy_stats.levene(NARROW[:9], WIDE, center=test["center"])
        assert (test["statistic"], test["p"]) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-8)
    assert tests[0]["p"] < 0.001
    assert [find_cell(values, row)["star"] for row in ("mosbach-mixout", "devlin", "mosbach")] == [False, False, True]
    flat = " ".join(render(table).split())
    assert re.search(
        r"mosbach against devlin: Levene's test centred at the median: statistic .* \*; centred at the mean", flat
    )
    sds = {"mosbach-mixout": np.std([0.3, 0.9] * 5, ddof=1), "devlin": np.std(WIDE, ddof=1)}
    sds |= {"mosbach": np.std(NARROW[:9], ddof=1)}
    listed = ", ".join(f"{arm} {100 * sd:.1f}" for arm, sd in sds.items())
    assert f"The pair was chosen after the fact, among the SDs of {listed}" in flat


@pytest.mark.parametrize(("report", "metric"), [("best", "accuracy"), ("last", "f1")])
def test_no_star_between_arms_that_are_scored_unlike(report, metric):
    best = {"best": 0.9} if report == "best" else {}
    table = make_report(make_runs("devlin", WIDE), make_runs("mosbach", NARROW, report=report, **best))
    assert bool([cell for cell in table.cells if table.is_starred(cell)]) == (report == "last")


def test_no_star_when_the_spread_is_alike():
    table = make_report(make_runs("devlin", NARROW), make_runs("mosbach", [x + 0.05 for x in NARROW]))
    assert not [cell for cell in table.cells if table.is_starred(cell)]
    starred = [line for line in render(table).splitlines() if line.startswith("|") and "*" in line]
    assert [line.split("|")[1].strip() for line in starred] == ["- M, Table 1 (iclr2021)"]  # the paper's own star


def test_one_arm_or_few_values_have_no_test_but_a_reason():
    one = as_json(make_report(make_runs("devlin", WIDE)))["tests"][0]
    assert (one["arm"], one["against"], one["p"]) == ("devlin", None, None)
    assert one["reason"] == "needs two arms with a std, here is 1"
    few = as_json(make_report(make_runs("devlin", WIDE[:2]), make_runs("mosbach", NARROW)))["tests"][0]
    assert few["p"] is None
    assert "at least 3 values" in few["reason"]


@pytest.mark.parametrize("scores", [[0.47, 0.47, 0.48, 0.47] * 5, [0.47, 0.47, 0.48, 0.47, 0.51] * 4])
def test_an_arm_of_which_most_runs_failed_is_marked(scores):
    failed = sum(score <= 0.5 for score in scores)
    table = make_report(
        make_runs("devlin", scores), make_runs("mosbach", [*NARROW, 0.77]), make_runs("mosbach-mixout", WIDE)
    )
    values = as_json(table)
    assert [find_cell(values, arm)["mostly_failed"] for arm in ("devlin", "mosbach")] == [True, False]
    first = values["tests"][0]
    assert first["arm"] == "devlin"
    for test in find_tests(values, Question.SMALLEST_STD):
        assert f"{failed} of 20 runs of devlin failed, so a small spread is no stability" in test["remark"]
    usable = find_tests(values, Question.SMALLEST_USABLE_STD)
    assert [(c["arm"], c["against"]) for c in usable] == [("mosbach", "mosbach-mixout")] * 2
    assert f"{failed} of 20 runs failed (†)" in render(table)
    assert r"\dagger" in render(table, "latex")


def test_an_arm_of_which_nine_of_ten_runs_failed_is_not_called_stable():
    lost = [0.5, 0.49, 0.5, 0.48, 0.5, 0.49, 0.5, 0.5, 0.49, 0.53]
    table = make_report(make_runs("wide", WIDE), make_runs("lost", lost), artifact=SWEEP, published={})
    (pair,) = table.pairs
    assert pair.is_shown("levene_median")
    values = as_json(table)
    (words,) = values["in_words"].values()
    sentence = "9 of 10 runs of lost failed, so a small spread is no stability (Mosbach et al. 2021, footnote 5)"
    assert sentence in words
    remarks = {test["remark"] for test in values["tests"] if test["arm"] == "lost"}
    assert remarks == {
        "9 of 10 runs of lost failed, so a small spread is no stability (Mosbach et al. 2021, footnote 5)"
    }
    for form in ("md", "latex"):
        assert "no stability" in " ".join(render(table, form).split())
    assert "no stability" in " ".join(report_to_text(build_stability_report(table)).split())


def test_difference_to_the_published_value():
    table = make_report(make_runs("mosbach", NARROW))
    values, place = as_json(table), "Mosbach et al. 2021, Table 1 (iclr2021)"
    comparison = next(test for test in values["tests"] if test["against"] == place)
    difference = next(row for row in published_rows(values, "mosbach", "difference") if row["origin"] == place)
    mean, std = sum(NARROW) / 10, find_cell(values, "mosbach")["std"]
    expected = scipy_stats.ttest_ind_from_stats(mean, std, 10, 0.673, 0.027, 25, equal_var=False)
    assert comparison["p"] == pytest.approx(expected.pvalue)
    expected = {"mean": mean - 0.673, "std": std - 0.027, "max": 0.72 - 0.711, "p_published": comparison["p"]}
    assert {name: difference[name] for name in expected} == pytest.approx(expected)
    assert (comparison["alternative"], comparison["n_a"], comparison["n_b"]) == ("two-sided", 10, 25)


BEST = [score + 0.01 * (i % 4) for i, score in enumerate(NARROW)]


def test_arxiv_v1_is_set_beside_the_best_checkpoint_of_the_same_runs():
    pairs = enumerate(zip(NARROW, BEST, strict=True))
    runs = [record for i, (last, best) in pairs for record in make_runs("mosbach", [last], first_seed=i, best=best)]
    for report, reported in (("last", NARROW), ("best", BEST)):
        table = make_report([record.model_copy(update={"report": report}) for record in runs])
        values = as_json(table)
        assert find_cell(values, "mosbach")["mean"] == pytest.approx(np.mean(reported))
        iclr, arxiv = find_tests(values, Question.AGAINST_PUBLISHED)
        iclr_row, arxiv_row = published_rows(values, "mosbach", "difference")
        expected = scipy_stats.ttest_ind_from_stats(
            np.mean(BEST), np.std(BEST, ddof=1), 10, 0.701, 0.024, 25, equal_var=False
        )
        assert (arxiv["p"], arxiv_row["mean"]) == pytest.approx((expected.pvalue, np.mean(BEST) - 0.701))
        if report == "last":
            assert arxiv["remark"] == "the difference is that of our best checkpoint, the table has our last one"
            assert iclr_row["mean"] == pytest.approx(np.mean(NARROW) - 0.673)
        else:
            assert arxiv["remark"] is None
            assert (iclr["p"], iclr_row["mean"]) == (None, None)
            assert iclr["reason"] == "the published score is of the last checkpoint, ours of the best checkpoint"


def test_runs_without_a_best_score_are_not_set_beside_one():
    values = as_json(make_report(imported("mosbach", NARROW, "last.csv")))
    _, arxiv = find_tests(values, Question.AGAINST_PUBLISHED)
    assert arxiv["p"] is None
    assert arxiv["reason"] == "the published score is of the best checkpoint, ours of the last checkpoint"


def test_mrpc_of_arxiv_v1_is_of_another_metric():
    printed = {("mine", "mrpc"): printed_in_table1()["mosbach", "mrpc"]}
    values = as_json(make_report(make_runs("mine", NARROW, task="mrpc"), published=printed))
    _, arxiv = find_tests(values, Question.AGAINST_PUBLISHED)
    assert arxiv["reason"] == "the metrics differ: published mean of accuracy and F1, ours F1"


def test_another_partys_values_are_shown_and_not_compared():
    printed = {("devlin", "mrpc"): with_references(printed_in_table1()["devlin", "mrpc"])}
    table = make_report(make_runs("devlin", WIDE, task="mrpc"), published=printed)
    rows = published_rows(as_json(table), "devlin", task="mrpc")
    assert [row["mean"] for row in rows][2:] == pytest.approx([0.86, 0.8256])
    assert all("(another party)" in row["origin"] for row in rows[2:])
    tests = find_tests(as_json(table), Question.AGAINST_PUBLISHED)[2:]
    assert {(test["p"], test["reason"]) for test in tests} == {
        (None, "another party's runs, in another setting: for reference only")
    }
    differences = published_rows(as_json(table), "devlin", "difference", "mrpc")[2:]
    assert [row["mean"] for row in differences] == [None, None]


def test_no_star_where_arms_are_scored_unlike():
    arms = make_runs("devlin", WIDE, best=0.9), make_runs("mosbach", NARROW)
    assert find_cell(as_json(make_report(*arms)), "mosbach")["star"]
    best = [record.model_copy(update={"report": "best", "best": record.last}) for record in arms[1]]
    table = make_report(arms[0], best)
    values = as_json(table)
    first = values["tests"][0]
    assert (first["arm"], first["star"]) == ("mosbach", False)
    assert first["p"] < 0.001
    assert "unlike scores" in first["remark"]
    assert not find_cell(values, "mosbach")["star"]


def test_published_values_stand_below_the_arm_that_they_are_of():
    printed = {("mine", "rte"): printed_in_table1()["mosbach", "rte"]}
    table = make_report(make_runs("mine", NARROW), make_runs("devlin", WIDE), published=printed)
    values = as_json(table)
    places = [f"Mosbach et al. 2021, Table 1 ({version})" for version in ("iclr2021", "arxiv-v1")]
    assert [row["origin"] for row in published_rows(values, "mine")] == places
    assert published_rows(values, "devlin") == []
    names = [line.split("|")[1].strip() for line in render(table).splitlines() if line.startswith("| ")]
    below = ["- M, Table 1 (iclr2021)", "- difference", "- M, Table 1 (arxiv-v1)", "- difference (our best)"]
    assert [name for name in names if not name.startswith("---")] == ["arm", "mine", *below, "devlin"]


def test_footnotes_name_what_is_no_replication():
    deviations = {("mosbach", "rte"): ["model bert-tiny", "schedule.length 3 epochs"]}
    runs = make_runs("mosbach", NARROW) + imported("mosbach", WIDE, "authors.csv")
    table = make_report(runs, deviations=deviations)
    for text in (render(table), render(table, "latex"), render(table, "csv")):
        assert "not a replication" in text
        assert "bert-tiny" in text
        assert "authors.csv" in text
    flat = " ".join(render(table).split())
    assert (
        "The runs of mosbach on RTE (10 of 20) are not this project's runs, they were imported from authors.csv (csv, "
        in flat
    )
    assert find_cell(as_json(table), "mosbach")["deviations"] == deviations["mosbach", "rte"]


def test_what_is_no_replication_has_no_verdict():
    """It says so in the cell, and is not counted as within or out of range."""
    runs = make_runs("mosbach", NARROW), make_runs("devlin", WIDE)
    table = make_report(*runs, deviations={("mosbach", "rte"): ["model bert-tiny, not bert-large-uncased"]})
    values = as_json(table)
    verdicts = {row["arm"]: row["compatible"] for row in values["cells"] if row["kind"] == "difference"}
    assert verdicts["mosbach"] is None
    assert verdicts["devlin"] in (True, False)
    (row,) = {" ".join(line.split()) for line in render(table).splitlines() if "not a replication |" in line}
    assert row == "| - difference | | | | - | - | - | not a replication | |"
    assert " within range" not in render(make_report(runs[0], deviations={("mosbach", "rte"): ["x"]}))


def test_a_departure_on_one_task_is_told_of_that_task_alone():
    deviations = {("mosbach", "rte"): ["schedule.length 3 epochs"], ("mosbach", "mrpc"): []}
    flat = " ".join(render(make_report(make_runs("mosbach", NARROW), deviations=deviations)).split())
    assert "mosbach on RTE is not a replication, it differs from the published setting: schedule.length" in flat


def test_footnotes_name_what_is_pooled_or_scored_otherwise():
    pooled = make_runs("mosbach", NARROW) + make_runs("mosbach", WIDE, lr=9e-5)
    zhang = make_runs("zhang", NARROW, split="heldout", report="best")
    table = make_report(pooled, zhang)
    text = " ".join(render(table).split())
    assert "mosbach on RTE: pools 2 settings" in text
    assert "The arms of RTE are not scored alike" in text
    assert "unlike scores" in text
    title = report_to_text(build_stability_report(make_report(pooled, zhang, artifact=SWEEP))).splitlines()[0]
    assert title == "RTE: accuracy %, val or test, last or best checkpoint; against mosbach"


def test_padded_and_packed_runs_in_one_row_are_told():
    pooled = make_runs("mosbach", NARROW) + make_runs("mosbach", NARROW, execution="packed")
    text = " ".join(render(make_report(pooled)).split())
    said = "computed {0} on packed rows and {0} on padded rows: the same function up to rounding".format(len(NARROW))
    assert f"mosbach on RTE: the runs were {said}, with other dropout masks." in text
    alone = make_report(make_runs("mosbach", NARROW), make_runs("devlin", WIDE, execution="packed"))
    assert "padded" not in render(alone)


def on_cpu(runs, numerics):
    environment = Environment(
        versions={},
        git_commit=None,
        git_dirty=None,
        platform="made up",
        device="cpu",
        numerics=numerics,
        threads=1,
        micro_batch=8,
        micro_batch_halved=0,
        model_commit=None,
    )
    return [run.model_copy(update={"environment": environment}) for run in runs]


def test_footnotes_name_runs_that_round_differently():
    new, other = on_cpu(make_runs("mosbach", NARROW), NUMERICS), on_cpu(make_runs("devlin", WIDE), NUMERICS)
    old = on_cpu(make_runs("mosbach", WIDE, first_seed=100), 1)
    text = " ".join(render(make_report(new + old, other)).split())
    counts = f"{len(new)} on cpu, {len(old)} on cpu (numerics version 1)"
    assert f"mosbach on RTE: the runs were computed in ways that round differently: {counts}." in text
    arms = "mosbach: cpu and cpu (numerics version 1); devlin: cpu"
    assert f"The arms of RTE were computed in ways that round differently ({arms})." in text
    assert "round differently" not in render(make_report(new, other))


def test_one_cell_cannot_mix_kinds_of_scores():
    with pytest.raises(UserError, match="'mosbach' on 'rte' are scored by different splits"):
        make_report(make_runs("mosbach", NARROW), make_runs("mosbach", NARROW, split="heldout"))
    with pytest.raises(UserError, match="no records"):
        make_report()


def test_a_split_or_metric_other_than_the_published_one_is_said():
    values = as_json(make_report(make_runs("mosbach", NARROW, split="heldout")))
    remarks = [c["remark"] for c in find_tests(values, Question.AGAINST_PUBLISHED)]
    split = "the published score is of the val split, ours of the test split"
    assert remarks == [
        split,
        f"{split}; the difference is that of our best checkpoint, the table has our last one",
    ]


def test_columns_follow_the_tasks_and_rows_the_plan():
    planned = {(arm, task): 3 for arm in ("mosbach", "devlin") for task in ("cola", "rte")}
    table = make_report(make_runs("devlin", WIDE[:3], task="cola"), make_runs("devlin", WIDE[:3]), planned=planned)
    assert table.tasks == ("rte", "cola")
    assert table.arms == ("mosbach", "devlin")


def test_csv_is_one_line_a_cell_a_published_value_and_a_difference():
    table = make_report(make_runs("devlin", [0.4, 0.6, 0.8]), artifact=make_sweep_artifact("mine", "mine.yaml"))
    lines = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    places = [f"Mosbach et al. 2021, Table 1 ({version})" for version in ("iclr2021", "arxiv-v1")]
    assert [(line["kind"], line["origin"]) for line in lines] == [
        ("arm", "this project"),
        *((kind, place) for place in places for kind in ("published", "difference")),
    ]
    assert [float(line["mean [percent]"]) for line in lines[:3]] == [60.0, 50.9, pytest.approx(9.1)]
    assert float(lines[3]["median [percent]"]) == 47.3


def test_latex_is_balanced_and_rectangular():
    odd = make_runs("50%_of {a} & b\\c~^#$", NARROW)
    text = render(make_report(odd, make_runs("devlin", WIDE), make_runs("devlin", NARROW, task="cola")), "latex")
    bare = re.sub(r"\\[\\{}&%$#_]|^% .*", "", text.replace("\\\\\n", "\n"), flags=re.MULTILINE)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~]", bare)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(rule) == 2  # a part for each task
    for body in re.findall(r"\\midrule\n(.*?)\n\\bottomrule", bare, re.DOTALL):
        assert {line.count("&") for line in body.splitlines() if line} == {6}
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert "Levene's test (centred at the median)" in caption
    assert re.search(r"\\footnotesize.*Levene's test centred at the median.* n = 10 and 10", text)


def test_escape():
    assert escape_latex("a_b 5%") == r"a\_b 5\%"


def test_markdown_golden():
    """STABLEFT_UPDATE_GOLDEN=1 rewrites the file."""
    table = make_report(
        make_runs("devlin", [*WIDE[:8], NAN], crashed=1),
        make_runs("mosbach", NARROW),
        make_runs("zhang-bertadam", [0.47, 0.47, 0.48, 0.47]),
        make_runs("mosbach", NARROW, task="mrpc"),
        deviations={("mosbach", "rte"): ["model bert-tiny for bert-large-uncased"]},
        planned={("devlin", "rte"): 10, ("mosbach", "rte"): 10},
    )
    text = render(table)
    if os.environ.get("STABLEFT_UPDATE_GOLDEN"):
        EXPECTED.write_text(text)
    assert text == EXPECTED.read_text()
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= LINE_WIDTH
    assert max(map(len, text.splitlines())) <= 154
    assert repeated_sentences(text) == []


@pytest.mark.parametrize("artifact", [TABLE1, make_sweep_artifact("s", "s.yaml")])
def test_runs_stopped_as_hopeless_are_in_no_table_and_told(artifact):
    stop = EarlyStopRecord(score=0.4, step=3, rank=9, of=9, after=0.3, lowest=0.25)
    runs = make_runs("mosbach", NARROW)
    change = {"status": "stopped", "stop": stop, "failed": None}
    ended = [record.model_copy(update=change) for record in runs[:2]]
    others, planned = make_runs("devlin", WIDE), {("mosbach", "rte"): 10}
    table = make_report([*ended, *runs[2:]], others, artifact=artifact, planned=planned)
    cell = table.cell("mosbach", "rte")
    assert (cell.summary.n, cell.stopped, cell.unscored, cell.crashed, cell.failed) == (8, 2, 0, 0, 0)
    assert cell.summary.mean == pytest.approx(sum(NARROW[2:]) / 8)
    reason = "2 of 10 runs of mosbach were stopped because of their scores, so the others are no sample of the arm"
    results = [c.result for c in table.comparisons if "mosbach" in (c.arm, c.against)]
    names = (*FAMILY, "levene_mean", "levene_successful", "sd_ratio", "failed_interval", "mean_interval")
    results += [getattr(pair, name) for pair in table.pairs for name in names]
    assert bool(table.pairs) == (artifact is not TABLE1)
    assert not any(pair.failed_difference or pair.mean_difference for pair in table.pairs)
    assert {p for pair in table.pairs for p in pair.holm.values()} <= {None}
    assert {result.reason for result in results} == {reason}
    assert not any(comparison.star for comparison in table.comparisons)
    sentence = (
        "mosbach on RTE: 2 of 10 runs were stopped early as hopeless (the lowest 25 % by validation score after 30 % "
        "of the steps) and are not counted: the scores are those of the better ones."
    )
    assert sentence in table.footnotes
    for form in ("md", "latex", "csv", "json"):
        assert "stopped early as hopeless" in " ".join(render(table, form).split()), form


def test_what_the_runs_started_from_is_told():
    start = StartRecord(sha256="0" * 64, recipe="zhang", task="mnli", seeds={"init": 0, "data": 0})
    runs = [
        record.model_copy(
            update={
                "start": start,
                "config": record.config.model_copy(update={"start_from": StartFrom(run="0" * 16, checkpoint="last")}),
            }
        )
        for record in make_runs("after", NARROW)
    ]
    where = "the last weights of run 0000000000000000 (zhang on mnli, seed 0)"
    assert f"after on RTE: the runs start from {where}." in make_report(runs).footnotes
    assert not any("sets of weights" in note for note in make_report(runs).footnotes)
    again = runs[0].model_copy(update={"start": start.model_copy(update={"sha256": "1" * 64})})
    assert any(
        "the runs start from 2 different sets of weights" in n for n in make_report([again, *runs[1:]]).footnotes
    )
