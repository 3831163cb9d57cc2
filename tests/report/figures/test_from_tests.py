"""The forest plot, our numbers against published ones, the power curve, and how they are asked for."""

import re

import numpy as np
import pytest
from scipy import stats
from support.artifact_records import report as report_of_artifact
from support.figures import assert_readable, legend, lines, points, shown
from support.paths import ROOT
from support.table_records import make_record

from stableft.errors import UserError
from stableft.records.run_record import write_records_file
from stableft.report.build import build_report
from stableft.report.figures.from_tests import build_power_panel, deviation_panels, mean_interval, std_interval
from stableft.report.figures.panels import Estimate
from stableft.report.footnotes import sweep_deviation_footnotes
from stableft.report.forms.write import render_report
from stableft.report.power import describe_power
from stableft.report.runs import load_runs_from_file
from stableft.stats import compute_normal_power_curve, sd_ratio_from_summaries

RECORDS = ROOT / "results/records"
SCORES = {
    "devlin": [0.5, 0.48, 0.7, 0.72, 0.69, 0.71, 0.5, 0.49, 0.7, 0.71],
    "mosbach": [0.7, 0.71, 0.72, 0.7, 0.69, 0.71, 0.73, 0.7, 0.72, 0.71],
}


@pytest.fixture
def figures(tmp_path):
    records = [
        make_record(arm=arm, recipe=arm, seed=seed, last=score, lr=1e-5 if arm == "devlin" else 2e-5)
        for arm, scores in SCORES.items()
        for seed, score in enumerate(scores, 1)
    ]
    write_records_file(tmp_path / "mine.jsonl", records)
    return build_report(load_runs_from_file(tmp_path / "mine.jsonl")).figures


DEVLIN, MOSBACH = SCORES.values()


def test_a_forest_plot_has_the_differences_of_failures_and_means_and_the_sd_ratio(figures):
    figure = figures["effects"]()
    failures, means, spread = shown(figure)
    assert [axes.get_title() for axes in (failures, means, spread)] == ["Failed runs", "Mean", "Spread"]
    caption = " ".join(figure.get_supxlabel().split())
    assert caption.startswith("Every arm against devlin. 95 % intervals")
    assert all(name in caption for name in ("Newcombe", "Welch", "BCa bootstrap"))
    assert "Hollow" not in caption  # 10 runs an arm
    assert [x for x, _ in points(means, "value")] == pytest.approx([100 * np.mean(MOSBACH) - 100 * np.mean(DEVLIN)])
    assert [label.get_text() for label in failures.get_yticklabels()] == ["mosbach"]
    assert [x for x, _ in points(failures, "value")] == pytest.approx([-40])  # 4 of 10 failed runs, and none
    ratio = np.std(SCORES["devlin"], ddof=1) / np.std(SCORES["mosbach"], ddof=1)
    assert [x for x, _ in points(spread, "value")] == pytest.approx([ratio])
    assert spread.get_xscale() == "log"
    assert (lines(failures, "no difference")[0][0], lines(spread, "no difference")[0][0]) == ([0, 0], [1, 1])
    for axes in (failures, means, spread):
        (interval,) = [marks.get_segments()[0][:, 0] for marks in axes.collections if marks.get_label() == "interval"]
        ((value, _),) = points(axes, "value")
        assert interval[0] < value < interval[1]
    assert_readable(figure)
    assert_readable(figures["effects"](3.25), least=6)


def test_intervals_of_a_mean_and_a_deviation():
    low, high = mean_interval(70.0, 2.0, 25)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 24, 70.0, 2.0 / 5))
    low, high = std_interval(2.0, 25)
    assert low < 2 < high
    # The F interval of a ratio to a group without error is that of the deviation.
    assert sd_ratio_from_summaries(2.0, 25, 1.0, 10**7).interval.low == pytest.approx(low, rel=1e-3)
    assert sd_ratio_from_summaries(2.0, 25, 1.0, 10**7).interval.high == pytest.approx(high, rel=1e-3)
    assert mean_interval(70.0, 0.0, 1) == std_interval(0.0, 1) == (None, None)


@pytest.mark.parametrize("name", ["zhang-replication", "mosbach-table1", "zhang-table2"])
def test_our_numbers_are_beside_the_published_ones_on_one_line(name):
    figure = report_of(name).figures["against-published"]()
    assert legend(figure) == ["these runs", "published"]
    panels = {axes.get_title(): axes for axes in shown(figure)}
    assert [title.partition(":")[2] for title in panels] == [" mean", " SD"] * (
        len(panels) // 2
    )  # a pair for each task
    labels = {axes.get_title(): axes.get_xlabel() for axes in shown(figure)}
    assert labels["RTE: mean"] == "accuracy in percent"
    assert labels["CoLA: mean"] == "MCC in percent"
    first = shown(figure)[0]
    assert [bool(label.get_text()) for axes in shown(figure)[1:4] for label in axes.get_yticklabels()].count(True) == 0
    for axes in panels.values():
        assert len(points(axes, "these runs")) == len(points(axes, "published")) == len(first.get_yticklabels())
    if name == "zhang-replication":
        assert [label.get_text() for label in first.get_yticklabels()] == ["zhang", "zhang-reinit"]
        assert sorted(x for x, _ in points(panels["RTE: mean"], "published")) == pytest.approx(
            [69.5, 72.6]
        )  # Z Table 1
    assert "95 % intervals of normal scores: Student's" in figure.get_supxlabel()
    assert_readable(figure)


def report_of(name):
    records = RECORDS / f"{name}.jsonl"
    return build_report(load_runs_from_file(records)) if records.exists() else report_of_artifact(name)


def test_a_mean_that_is_not_compatible_with_the_published_one_is_marked():
    made = report_of_artifact("zhang-table2")
    figure = made.figures["against-published"]()
    compatible = {
        (row["task"].data, row["column"].text): row["compatible"].data
        for row in made.data["cells"].rows
        if row.kind == "difference"
    }
    tasks = {"RTE": "rte", "MRPC": "mrpc", "STS-B": "stsb", "CoLA": "cola"}
    names = [label.get_text() for label in shown(figure)[0].get_yticklabels()]
    assert "Pre-trained WD" in names  # as the paper has it
    for axes in shown(figure):
        task, _, of = axes.get_title().partition(": ")
        marked = {names[round(text.xy[1])] for text in axes.texts if text.get_text() == "≠"}
        expected = {name for name in names if compatible[tasks[task], name] is False} if of == "mean" else set()
        assert marked == expected
    assert any(compatible.values())
    assert not all(compatible.values())
    assert "≠: the mean is not compatible" in figure.get_supxlabel()


def test_arms_of_a_table_have_its_names_below_their_data_sets():
    figure = report_of_artifact("zhang-table1").figures["effects"]()
    names = [label.get_text() for label in shown(figure)[0].get_yticklabels()]
    assert names[:4] == ["RTE, accuracy", "Standard, Longer", "Re-init, 3 Epochs", "Re-init, Longer"]
    assert "RTE (1k), accuracy" in names  # its own family, apart from that of the full data
    assert len(names) == 12 * 4
    caption = " ".join(figure.get_supxlabel().split())
    assert caption.startswith("Every arm against Standard, 3 Epochs.")
    assert "Hollow: no interval of the SD ratio" in caption
    assert "fewer than 10 runs of an arm" in caption
    assert sum(name.endswith("†") for name in names) == 1
    assert "†: most runs failed" in caption
    hollow = [marks.get_facecolors() for marks in shown(figure)[2].collections if marks.get_label() == "value"]
    assert sum(np.allclose(face, 1) for face in np.concatenate(hollow)) == 35  # one pair has 10 runs an arm
    figure = report_of_artifact("mosbach-table1").figures["effects"]()
    assert figure.get_supxlabel().strip().startswith("Every arm against devlin.")
    names = [label.get_text() for label in shown(figure)[0].get_yticklabels()]
    assert [name.endswith("reference\N{NO-BREAK SPACE}†") for name in names if "reference" in name] == [True]
    assert "Means and SDs leave out NaN: 1 of 5 of devlin on CoLA." in " ".join(figure.get_supxlabel().split())
    (axes, *_) = shown(report_of_artifact("mosbach-table4").figures["effects"]())  # of one data set
    assert axes.get_yticklabels()[0].get_text() == "SciTail, accuracy;\nreference\N{NO-BREAK SPACE}†"
    caption = report_of_artifact("zhang-table7").figures["effects"]().get_supxlabel().strip()
    assert caption.startswith("Every arm against Standard.")  # each against that of its own model


def test_a_panel_without_a_difference_is_left_out(tmp_path):
    records = [
        make_record(arm=arm, seed=seed, last=score + 0.002 * seed * (1 + (arm == "b")), lr=lr)
        for arm, score, lr in (("a", 0.7, 1e-5), ("b", 0.72, 2e-5))
        for seed in range(1, 11)
    ]
    write_records_file(tmp_path / "mine.jsonl", records)
    figure = build_report(load_runs_from_file(tmp_path / "mine.jsonl")).figures["effects"]()
    assert [axes.get_title() for axes in shown(figure)] == ["Mean", "Spread"]
    caption = " ".join(figure.get_supxlabel().split())
    assert "Failed runs: not drawn, equal in all arms." in caption
    assert "Newcombe" not in caption  # the method of no panel that is drawn
    low, high = shown(figure)[1].get_xlim()
    assert (low, high) == (pytest.approx(min(low, 0.5)), pytest.approx(max(high, 2)))


def test_runs_of_no_published_setting_have_no_such_figure():
    made = build_report(load_runs_from_file(RECORDS / "demo.jsonl"))
    assert "effects" in made.figures
    assert "against-published" not in made.figures


def test_the_power_curve_has_its_points_and_the_power_aimed_at():
    curve = compute_normal_power_curve(2.0, 2.0, draws=200)
    panel = build_power_panel([curve])
    (drawn,) = panel.curves
    assert drawn.x == tuple(point.n for point in curve.points)
    assert drawn.y == tuple(point.power for point in curve.points)
    assert f"{curve.needed} needed" in drawn.label
    assert [line.value for line in panel.horizontal] == [0.8]
    assert build_power_panel([]).missing == ""


def test_power_is_drawn_to_a_file(tmp_path):
    demo = [RECORDS / "demo.jsonl"]
    text = describe_power(None, None, demo, "devlin,mosbach", None, 0.05, 0.8, "median", 0)
    out = tmp_path / "power.svg"
    assert describe_power(None, None, demo, "devlin,mosbach", None, 0.05, 0.8, "median", 0, out, 3.25) == text
    svg = out.read_text()
    assert re.search(r'<svg [^>]*width="234pt"', svg)  # 3.25 inches
    assert "failed runs 11 of 25 against 0 of 25: 14 needed" in svg


def test_power_that_is_not_known_is_not_drawn(tmp_path):
    alike = [
        make_record(arm=arm, seed=seed, last=0.7, lr=lr) for arm, lr in (("a", 1e-5), ("b", 2e-5)) for seed in (1, 2)
    ]
    write_records_file(tmp_path / "alike.jsonl", alike)
    with pytest.raises(UserError, match=r"x\.png: there is no curve to draw: "):
        describe_power(None, None, [tmp_path / "alike.jsonl"], "a,b", None, 0.05, 0.8, "median", 0, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("report", "mosbach-figure6", "--width", "13", "--out", "x.png"), ("--width 13", "between 2 and 12 inches")),
        (("report", "all", "--width", "1.9"), ("--width 1.9", "between 2 and 12 inches")),
        (("report", "mosbach-figure6", "--width", "nan", "--out", "x.png"), ("--width nan", "between 2 and 12 inches")),
        (("report", "mosbach-figure6", "--width", "3.25"), ("--width", "--out")),
        (("power", "--sd", "2", "--ratio", "2", "--width", "3"), ("--width", "--out")),
        (("power", "--sd", "2", "--ratio", "2", "--out", "x.csv"), ("x.csv", ".png, .svg, .pdf")),
        (("power", "--sd", "2", "--ratio", "2", "--out", "nowhere/x.png"), ("nowhere/x.png", "no folder nowhere")),
    ],
)
def test_mistakes_are_one_sentence(stableft, workplace, arguments, facts):
    code, out, err = stableft(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(fact in err for fact in facts)


def test_a_figure_file_has_the_width_that_was_given(stableft, workplace):
    for width, pixels in (((), 900), (("--width", "3.25"), 975), (("--width", "7.2"), 2160)):
        code, _, err = stableft("report", "mosbach-figure6", *width, "--out", "x.png")
        assert code == 0, err
        assert int.from_bytes((workplace / "x.png").read_bytes()[16:20], "big") == pixels


def test_a_report_draws_in_its_own_width_or_a_given_one():
    made = build_report(load_runs_from_file(RECORDS / "smoke.jsonl"), width=5.5)
    assert made.draw("scores").get_figwidth() == 5.5
    assert made.draw("scores", 3.25).get_figwidth() == 3.25
    assert "<title>mosbach, seed 5: " in render_report(made, "html")


def test_deviations_of_a_sweep_file_are_notes(tmp_path):
    assert list(sweep_deviation_footnotes(["configs/mosbach/figure14.yaml", "configs/mosbach/figure14.yaml"])) == [
        "Deviation in configs/mosbach/figure14.yaml (`seeds: 1-25`): the paper does not say from how many seeds its "
        "runs are taken."
    ]
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "# DEVIATION: another text,\n# on two lines\ntask: rte  # no DEVIATION: at all\n"
        "arms:   # DEVIATION: two, not three.\n  - recipe: devlin\n"
    )
    assert list(sweep_deviation_footnotes([str(mine)])) == [
        f"Deviation in {mine}: another text, on two lines.",
        f"Deviation in {mine} (`arms`): two, not three.",
    ]
    assert not any("Deviation" in note for note in report_of_artifact("zhang-figure1").facts["notes"])  # a formula
    assert list(sweep_deviation_footnotes([str(tmp_path / "gone.yaml")])) == []
    assert "Deviation in configs/mosbach/figure14.yaml" in str(report_of_artifact("mosbach-figure14").facts["notes"])


def test_a_spread_without_a_number_is_not_drawn(tmp_path):
    records = [
        make_record(arm=arm, seed=1, last=score, lr=lr) for arm, score, lr in (("a", 0.7, 1e-5), ("b", 0.6, 2e-5))
    ]
    write_records_file(tmp_path / "mine.jsonl", records)
    figure = build_report(load_runs_from_file(tmp_path / "mine.jsonl")).figures["effects"]()
    (means,) = shown(figure)
    assert [x for x, _ in points(means, "value")] == pytest.approx([-10])
    caption = " ".join(figure.get_supxlabel().split())
    assert "No SD ratio: fewer than 10 runs of an arm." in caption
    assert "Spread: not drawn, no such number is known." in caption


@pytest.mark.parametrize(("high", "log"), [(11.0, False), (13.0, True)])
def test_a_wide_interval_of_a_deviation_does_not_hide_the_others(high, log):
    estimates = [Estimate("a", 1.0, 0.8, 1.5), Estimate("b", 2.0, 1.5, 3.0), Estimate("c", 3.0, 1.0, high)]
    others = {"narrow": estimates[:2], "zero": [*estimates, Estimate("d", 0.0)]}  # 0 has no logarithm
    panel, narrow, zero = deviation_panels({"SD": estimates, **others})
    assert (panel.xlog, panel.xlabel) == (log, "points (log)" if log else "points")
    assert (narrow.xlog, zero.xlog) == (log, False)
