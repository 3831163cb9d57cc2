"""Reports on commands of which a lower score is better: what is best, bold and failed, and what axes and words say."""

import math

import pytest
from support.commands import make_command_record
from support.reports import values_of

from stableft.errors import UserError
from stableft.python_api import make_report
from stableft.records.run_record import RunRecord, write_records_file
from stableft.report.artifact import RunGroup, Trials
from stableft.report.build import build_report
from stableft.report.compare_arms import build_comparison_report
from stableft.report.figures.boxes import FAILED_ABOVE_NOTE
from stableft.report.figures.from_curves import BOTH_DIRECTIONS, build_trials_panel
from stableft.report.figures.of_artifact import sweep_figures
from stableft.report.forms.document import Report
from stableft.report.forms.write import render_report
from stableft.report.runs import ArtifactRuns, load_runs_from_file

GOOD, BAD = [0.10, 0.12, 0.11, 0.14], [0.30, 0.33, 0.70, 0.28]  # losses; one run is no better than the baseline, .5
BOTH = tuple(RunGroup(arm, arm, "mine") for arm in ("bad", "good"))


def records(**better: str) -> list[RunRecord]:
    """Losses of two arms, of which lower ones are better unless `better` says otherwise for an arm."""
    return [
        make_command_record(arm, seed, score, better=better.get(arm, "lower"))
        for arm, scores in (("bad", BAD), ("good", GOOD))
        for seed, score in enumerate(scores)
    ]


@pytest.fixture
def load(tmp_path):
    def load(made: list[RunRecord]) -> ArtifactRuns:
        write_records_file(tmp_path / "r.jsonl", made)
        return load_runs_from_file(tmp_path / "r.jsonl")

    return load


def test_the_best_of_n_losses_is_the_lowest(load):
    runs = load([*records(), make_command_record("good", 9, math.nan, better="lower")])
    panel, notes = build_trials_panel(Trials("", BOTH, "val"), runs)
    bad, good = panel.curves
    n = len(BAD)
    by_hand = sum(x * (((n - i) / n) ** 2 - ((n - i - 1) / n) ** 2) for i, x in enumerate(sorted(BAD)))  # of two
    assert bad.y[:2] == pytest.approx((100 * sum(BAD) / n, 100 * by_hand))
    assert good.y[0] == pytest.approx(100 * (sum(GOOD) + 0.5) / 5)  # a NaN counts as the baseline
    assert all(later < before for curve in panel.curves for before, later in zip(curve.y, curve.y[1:], strict=False))
    assert panel.ylabel == "expected validation score [percent], lower is better"
    assert "The best (lower is better) of each number of runs" in notes[-1]


def test_arms_with_opposite_directions_have_no_best_of_n_in_common(load):
    runs = load(records(good="higher"))
    panel, notes = build_trials_panel(Trials("", BOTH, "val"), runs)
    assert (panel.curves, panel.missing, notes) == ((), BOTH_DIRECTIONS, [])
    drawn, _ = sweep_figures([runs.cell(*place) for place in runs.by_arm_task], runs)
    assert "best-of-n" not in drawn
    assert "scores" in drawn


def test_the_axis_goes_as_low_as_the_scores_of_a_command(load):
    made = [make_command_record("a", seed, -0.25, range=[-0.5, 0.5]) for seed in range(3)]
    panel, _ = build_trials_panel(Trials("", (RunGroup("a", "a", "mine"),), "val"), load(made))
    assert panel.possible == (-50, 100)


def test_failed_losses_above_the_baseline_need_no_explanation(load):
    runs = load(records())
    figure = sweep_figures([runs.cell(*place) for place in runs.by_arm_task], runs)[0]["scores"]()
    assert "(lower is better)" in figure.axes[0].get_ylabel().replace("\n", " ")
    assert FAILED_ABOVE_NOTE not in figure.get_supxlabel().replace("\n", " ")


def test_the_axis_of_differences_says_which_way_is_better(load):
    labels = [axes.get_xlabel() for axes in build_report(load(records())).figures["effects"]().axes]
    assert sum("(lower is better)" in label.replace("\n", " ") for label in labels) == 1


def test_conclusions_say_which_way_is_better(load, tmp_path):
    made = [
        make_command_record(arm, seed, score + seed / 1000, better="lower")
        for arm, score in (("a", 0.3), ("b", 0.2))
        for seed in range(12)
    ]
    text = words(build_report(load(made)))
    assert "mine: score in percent (lower is better)" in text
    assert "b scores lower than a; lower scores are better." in text
    compared = words(build_comparison_report("a", "b", tmp_path, [tmp_path / "r.jsonl"]))
    assert "the mean of b is lower, which is better (" in compared
    compared = words(build_comparison_report("b", "a", tmp_path, [tmp_path / "r.jsonl"]))
    assert "the mean of a is higher, which is worse (" in compared


def test_arms_with_opposite_directions_are_not_compared(load, tmp_path):
    text = words(build_report(load(records(good="higher"))))
    with pytest.raises(UserError, match="different directions, lower is better and higher is better"):
        build_comparison_report("bad", "good", tmp_path, [tmp_path / "r.jsonl"])
    assert "good is not scored like bad" in text
    assert "are not scored alike (bad: val split, last checkpoint, score, lower is better; good: val split" in text


def test_an_arm_has_one_direction(load):
    one, *others = records()
    made = [one, *(make_command_record("bad", seed, 0.3) for seed in (7, 8)), *others]
    with pytest.raises(UserError, match=r"scored by different directions \(higher is better, lower is better\)"):
        build_report(load(made))


@pytest.mark.parametrize(
    ("rule", "tested"),
    [
        ("best", "bad, mine against the smallest mean"),
        ("better", "good, mine against the first mean"),
        ("pair", "good, mine against the other mean"),
    ],
)
def test_bold_is_the_lower_mean(load, tmp_path, rule, tested):
    load([*records(), *(make_command_record(arm, 9, x, better="lower") for arm, x in (("good", 0.12), ("bad", 0.31)))])
    report = make_report(tmp_path / "r.jsonl", rule=rule, with_figures=False)
    assert [cell["arm"] for cell in values_of(report)["cells"] if cell["bold"]] == ["good"]
    text = words(report)
    assert f"{tested}: Student's t-test" in text
    assert "the other way round, where lower scores are better" in text


def words(report: Report) -> str:
    return " ".join(render_report(report, "md").split())
