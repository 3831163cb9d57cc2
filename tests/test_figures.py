"""What figures draw, from made-up runs: points, lines and names, not pixels; and a report as files."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from test_frame import make_record
from test_report import NARROW, make_runs

from stableft.errors import UserError
from stableft.plan import PlannedRun
from stableft.record import EvalPoint
from stableft.report.artifact import sweep_artifact
from stableft.report.drawing import BLUE, VERMILLION, file_bytes
from stableft.report.figures import MAX_PANELS, box_plot, training_loss_curves
from stableft.report.files import Output, deliver, keep_report, output_of, write_folder
from stableft.report.gather import gather

NAN = math.nan
NOTHING = 0.69  # the label entropy of `make_record`
FILES = ["report.csv", "report.json", "report.md", "report.tex", "scores.png", "training-loss.png"]


def with_losses(runs, *curves):
    """The runs with these training losses at steps 10, 20, ..."""
    start = EvalPoint(step=0, epoch=0, train_loss=None, val_loss=1, val={})

    def point(i, loss):
        return EvalPoint(step=10 * i, epoch=i, train_loss=loss, val_loss=1, val={})

    return [
        run.model_copy(update={"evals": (start, *(point(i, loss) for i, loss in enumerate(curve, 1)))})
        for run, curve in zip(runs, curves, strict=True)
    ]


def devlin(**config):
    runs = make_runs("devlin", [0.5, 0.48, 0.7], **config)
    return with_losses(runs, [0.71, 0.69], [0.69, 0.71], [0.6, 0.1])


def mosbach(**config):
    return with_losses(make_runs("mosbach", [0.8, 0.7], **config), [0.5, 0.05, 0.01], [0.7, 0.05, 0.03])


def material(*runs):
    records = [record for arm in runs for record in arm]
    planned = [PlannedRun(record.arm, record.recipe, record.config) for record in records]
    return gather(sweep_artifact("mine", "mine.yaml"), planned, records)


def scores(made):
    return box_plot(made.table, made.frame)


def losses(made):
    return training_loss_curves(made.table, made.frame, made.records)


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def points(axes, label):
    """The (x, y) of a panel's points of that group, in no order."""
    found = [marks.get_offsets() for marks in axes.collections if marks.get_label() == label]
    return sorted(map(tuple, np.concatenate(found).tolist())) if found else []


def lines(axes, label):
    found = [line for line in axes.lines if line.get_label() == label]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def test_every_run_is_a_point_and_failed_ones_are_told_apart():
    (axes,) = shown(scores(material(devlin(), mosbach())))
    failed, fine = points(axes, "failed"), points(axes, "successful")
    assert sorted(y for _, y in failed) == pytest.approx([48, 50])
    assert sorted(y for _, y in fine) == pytest.approx([70, 70, 80])
    assert {round(x) for x, _ in failed} == {0}  # devlin is the first arm
    assert sorted(round(x) for x, _ in fine) == [0, 1, 1]
    markers = {marks.get_label(): marks for marks in axes.collections}
    assert len(markers["failed"].get_paths()[0].vertices) < len(markers["successful"].get_paths()[0].vertices)  # x, o
    for label, color in (("failed", VERMILLION), ("successful", BLUE)):
        assert matplotlib.colors.to_hex(markers[label].get_edgecolor()[0]) == color.lower()


def test_the_axes_say_what_is_drawn():
    figure = scores(material(devlin(), mosbach()))
    (axes,) = shown(figure)
    assert axes.get_title() == "RTE"
    assert axes.get_ylabel() == "accuracy in percent\nvalidation split, last checkpoint"
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["devlin\nn = 3\n2/3 failed", "mosbach\nn = 2\n0/2 failed"]
    assert [axes.get_xlim()[0] < x < axes.get_xlim()[1] for x in axes.get_xticks()] == [True, True]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["one run, failed", "one run, successful", "baseline: always the most frequent class"]


def test_the_baseline_is_a_line_with_its_value():
    (axes,) = shown(scores(material(devlin(), mosbach())))
    assert lines(axes, "baseline") == [([0, 1], [50, 50])]  # x in parts of the axes
    assert [text.get_text() for text in axes.texts] == ["baseline\n50.0"]


def test_arms_with_different_baselines_have_a_line_each():
    (axes,) = shown(scores(material(devlin(), mosbach(split="heldout"))))
    segments = [marks.get_segments()[0] for marks in axes.collections if marks.get_label() == "baseline"]
    assert [(segment[0][1], round(segment.mean(axis=0)[0])) for segment in segments] == [(50, 0), (40, 1)]


def test_a_panel_for_each_task():
    panels = shown(scores(material(devlin(), mosbach(), devlin(task="cola"))))
    assert [axes.get_title() for axes in panels] == ["RTE", "CoLA"]
    assert [len(axes.get_xticks()) for axes in panels] == [2, 1]
    assert panels[1].get_ylabel().startswith("MCC in percent")


def test_nan_is_said_and_not_drawn():
    (axes,) = shown(scores(material(make_runs("devlin", [NAN, 0.7]), make_runs("mosbach", [NAN]))))
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == [
        "devlin\nn = 2\n1/2 failed\n1 NaN, not drawn",
        "mosbach\nn = 1\n1/1 failed\n1 NaN, not drawn",
    ]
    assert points(axes, "failed") == []
    assert [y for _, y in points(axes, "successful")] == [70]


def test_runs_of_which_nobody_knows_whether_they_failed():
    runs = [run.model_copy(update={"failed": None}) for run in make_runs("devlin", NARROW)]
    (axes,) = shown(scores(material(runs)))
    assert len(points(axes, "unknown")) == 10
    assert points(axes, "failed") == points(axes, "successful") == []


def test_long_names_and_many_arms_do_not_collide():
    arms = [make_runs(f"ablation optimizer.bias_correction=true {i}", NARROW) for i in range(9)]
    figure = scores(material(*arms))
    figure.draw_without_rendering()
    (axes,) = shown(figure)
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {35}
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert min(box.x0 for box in boxes) >= 0


def test_curves_of_every_run_and_their_means():
    first, second = shown(losses(material(devlin(), mosbach())))
    assert sorted(lines(first, "failed")) == [([10, 20], [0.69, 0.71]), ([10, 20], [0.71, 0.69])]
    assert lines(first, "successful") == [([10, 20], [0.6, 0.1])]
    ((steps, mean),) = lines(first, "mean, failed")
    assert (steps, mean) == ([10, 20], pytest.approx([0.70, 0.70]))
    assert lines(first, "mean, successful") == []  # one run needs no mean
    assert lines(second, "failed") == []
    ((steps, mean),) = lines(second, "mean, successful")
    assert (steps, mean) == ([10, 20, 30], pytest.approx([0.6, 0.05, 0.02]))
    assert lines(first, "entropy") == lines(second, "entropy") == [([0, 1], [NOTHING, NOTHING])]


def test_the_axes_of_the_curves():
    figure = losses(material(devlin(), mosbach()))
    first, second = shown(figure)
    assert [axes.get_title() for axes in (first, second)] == ["devlin\n2/3 failed", "mosbach\n0/2 failed"]
    assert first.get_ylabel() == "training loss\n(mean since the evaluation before)"
    assert figure.get_supxlabel() == "optimizer step"
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] == 0
    assert first.get_ylim()[1] > 0.71
    assert (first.get_xlim()[0], second.get_xlim()[0]) == (0, 0)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "failed runs (bold: their mean)",
        "successful runs (bold: their mean)",
        "nothing learnt: entropy of the training labels (0.69 nats)",
    ]


def test_a_diverging_run_does_not_flatten_the_others():
    runs = with_losses(make_runs("devlin", [NAN, 0.7, 0.71]), [80.0, NAN], [0.6, 0.1], [0.5, 0.1])
    (axes,) = shown(losses(material(runs)))
    assert axes.get_ylim()[1] == pytest.approx(1.05 * 3 * NOTHING)
    assert lines(axes, "failed")[0][0] == [10, 20]


def test_the_mean_is_of_steps_that_half_of_the_runs_have():
    runs = with_losses(make_runs("devlin", [0.7, 0.7, 0.7]), [0.6, 0.5, 0.4], [0.6], [0.6, NAN])
    (axes,) = shown(losses(material(runs)))
    ((steps, mean),) = lines(axes, "mean, successful")
    assert (steps, mean) == ([10], pytest.approx([0.6]))


def test_beyond_six_arms_those_with_most_failed_runs_are_shown():
    arms = [
        with_losses(make_runs(f"arm{i}", [0.4] * i + [0.7] * (8 - i)), *[[0.6, 0.5]] * 8) for i in range(MAX_PANELS + 2)
    ]
    figure = losses(material(*arms))
    assert [axes.get_title().split("\n")[0] for axes in shown(figure)] == [f"arm{i}" for i in range(2, 8)]
    assert figure.get_supxlabel() == "optimizer step (6 of 8 arms: those with most failed runs)"


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
@pytest.mark.parametrize("draw", [scores, losses])
def test_equal_runs_give_equal_files(draw, form):
    made = [material(devlin(), mosbach()) for _ in range(2)]
    first, second = (file_bytes(draw(one), form) for one in made)
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_a_users_own_style_has_no_effect():
    made = material(devlin(), mosbach())
    plain = file_bytes(scores(made), "png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 20}):
        assert file_bytes(scores(made), "png") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_figure_of_900_pixels():
    png = file_bytes(scores(material(devlin(), mosbach())), "png")
    assert int.from_bytes(png[16:20], "big") == 900


def imported():
    runs = make_runs("devlin", NARROW, source="theirs.csv")
    return material([run.model_copy(update={"evals": (), "data": None}) for run in runs])


def test_imported_results_have_no_curves_and_no_baseline():
    assert losses(imported()) is None
    figure = scores(imported())
    assert lines(shown(figure)[0], "baseline") == []
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one run, successful"]


def test_nothing_to_draw():
    made = material([make_record(status="crashed").model_copy(update={"evals": ()})])
    assert scores(made) is None
    assert losses(made) is None


# --- files ---


def test_a_table_does_not_wait_for_matplotlib():
    code = "import sys, stableft.report.files; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_holds_every_form_and_figure(tmp_path):
    names = write_folder(material(devlin(), mosbach()), tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES
    assert sorted(names) == [str(tmp_path / "new" / "folder" / name) for name in FILES]


def test_a_figure_that_cannot_be_drawn_is_said(tmp_path):
    lines = write_folder(imported(), tmp_path)
    assert "no training-loss.png: no record has evaluations with a training loss (imported results have none)" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == [name for name in FILES if name != "training-loss.png"]
    with pytest.raises(UserError, match="no record has evaluations"):
        deliver(imported(), Output(tmp_path / "x.png", figure="training-loss"))


@pytest.mark.parametrize(
    ("out", "form", "figure", "expected"),
    [
        ("x.md", None, None, ("md", None)),
        ("x.csv", None, None, ("csv", None)),
        ("x.tex", None, None, ("latex", None)),
        ("x.json", None, None, ("json", None)),
        ("x.md", "latex", None, ("latex", None)),
        ("x", "json", None, ("json", None)),
        ("x.png", None, None, (None, "scores")),
        ("x.svg", None, "training-loss", (None, "training-loss")),
        ("new/", None, None, (None, None)),
        (".", None, None, (None, None)),
        (None, None, None, ("md", None)),
        (None, "csv", None, ("csv", None)),
    ],
)
def test_where_a_report_goes(out, form, figure, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = output_of(out, form, figure)
    assert (output.form, output.figure) == expected
    assert (output.path is None) == (out is None)


def test_a_name_of_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="x is a file, not a folder"):
        output_of(f"{tmp_path}/x/", None, None)


def test_a_figure_by_its_ending(tmp_path):
    made = material(devlin(), mosbach())
    assert deliver(made, output_of(f"{tmp_path}/x.svg", None, "training-loss")) == ""
    assert (tmp_path / "x.svg").read_bytes() == file_bytes(losses(made), "svg")


def test_a_sweep_keeps_its_report_and_names_the_figures(tmp_path):
    line = keep_report(material(devlin(), mosbach()), tmp_path / "mosbach" / "table1")
    assert line
    assert "scores.png" in line
    assert "training-loss.png" in line
    assert "\n" not in line
    assert sorted(path.name for path in (tmp_path / "mosbach" / "table1").iterdir()) == FILES


def test_a_sweep_in_which_nothing_finished_keeps_nothing(tmp_path):
    assert keep_report(material([make_record(status="crashed")]), tmp_path / "x") is None
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_costs_no_result(tmp_path):
    (tmp_path / "sweeps").write_text("a file where the folder should be")
    line = keep_report(material(devlin()), tmp_path / "sweeps" / "mine")
    assert line
    assert line.startswith("the report's files could not be written: ")
    assert str(tmp_path / "sweeps") in line
