"""The figures of a sweep's report, from made-up runs: every run's score, and the training losses."""

import math

import matplotlib
import pytest
from support.figures import AXIS, assert_readable, legend, lines, points, shown
from support.reports import runs_of_records
from support.table_records import make_imported, make_record

from stableft.records.run_record import EvalPoint, ImportedEval
from stableft.report.artifact import RunGroup, VerdictCurves
from stableft.report.figures.curves import step_parts
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.of_artifact import (
    MAX_ARMS_WITH_CURVES,
    arrange_arms,
    build_panels,
    palette_names,
    sweep_figure_parts,
    sweep_figures,
)
from stableft.report.figures.panels import Curve, CurvePanel, ReferenceLine
from stableft.report.figures.style import BLUE, GREEN, VERMILLION, figure_to_bytes
from stableft.stats import wilson_interval

NAN = math.nan
NOTHING = 0.69  # the label entropy of `make_record`
NARROW = [0.70, 0.71, 0.70, 0.72, 0.71, 0.70, 0.71, 0.69, 0.70, 0.71]


def make_runs(arm, scores, **config):
    """Records of one arm, told apart from the other arms' by a learning rate made from its name."""
    lr = 1e-5 + sum(map(ord, arm)) * 1e-8
    named = {"arm": arm, "recipe": arm, "lr": lr, **config}
    return [make_record(**named, seed=seed, last=score) for seed, score in enumerate(scores, 1)]


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


def figure_of(name, *arms):
    """The figure of that name of a sweep with these records; None where it cannot be drawn."""
    runs = runs_of_records([record for arm in arms for record in arm])
    figures, why_not = sweep_figures([runs.cell(*place) for place in runs.by_arm_task], runs)
    assert not (name in figures and name in why_not)
    return figures[name]() if name in figures else None


def panels_of(name, *arms):
    runs = runs_of_records([record for arm in arms for record in arm])
    parts = sweep_figure_parts([runs.cell(*place) for place in runs.by_arm_task], runs)[name]
    return [panel for part in parts for panel, _ in build_panels(part, runs)]


def scores(*arms):
    return figure_of("scores", *arms)


def losses(*arms):
    return figure_of("training-loss", *arms)


def runs_in(axes, color):
    """The lines of single runs of that colour."""
    named = [line for line in axes.lines if not str(line.get_label()).startswith(("mean", "nothing", "_"))]
    return [(list(li.get_xdata()), list(li.get_ydata())) for li in named if li.get_color() == color]


# --- scores of a sweep ---


def test_every_run_is_a_point_and_failed_ones_are_told_apart():
    (axes,) = shown(scores(devlin(), mosbach()))
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
    figure = scores(devlin(), mosbach())
    (axes,) = shown(figure)
    assert axes.get_title() == "RTE"
    assert axes.get_ylabel() == AXIS
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["devlin\n2/3 failed", "mosbach\n0/2 failed"]
    assert [axes.get_xlim()[0] < x < axes.get_xlim()[1] for x in axes.get_xticks()] == [True, True]
    assert legend(figure) == ["one run, failed", "one run, successful", "baseline: always the most frequent class"]
    assert_readable(figure)


def test_the_baseline_is_a_line_with_its_value():
    (axes,) = shown(scores(devlin(), mosbach()))
    assert lines(axes, "baseline") == [([0, 1], [50, 50])]  # x in parts of the axes
    assert [text.get_text() for text in axes.texts] == ["50.0"]


def test_arms_with_different_baselines_have_a_line_each():
    (axes,) = shown(scores(devlin(), mosbach(split="heldout")))
    segments = [marks.get_segments()[0] for marks in axes.collections if marks.get_label() == "baseline"]
    assert [(segment[0][1], round(segment.mean(axis=0)[0])) for segment in segments] == [(50, 0), (40, 1)]


def test_a_panel_for_each_task():
    first, second = panels_of("scores", devlin(), mosbach(), devlin(task="cola"))
    assert [(panel.title, [box.label for box in panel.boxes]) for panel in (first, second)] == [
        ("RTE", ["devlin", "mosbach"]),
        ("CoLA", ["devlin"]),
    ]
    assert second.ylabel.startswith("MCC in percent")
    assert [axes.get_title() for axes in shown(draw_panels([first, second]))] == ["RTE", "CoLA"]


def test_the_baseline_of_a_task_of_numbers_is_the_same_answer():
    (panel,) = panels_of("scores", devlin(task="stsb"))
    assert panel.baseline_label == "baseline: always the same answer"
    assert panel.baseline_label in legend(draw_panels([panel]))


def test_nan_is_drawn_at_the_foot_of_the_axis():
    figure = scores(make_runs("devlin", [NAN, 0.7]), make_runs("mosbach", [NAN]))
    (axes,) = shown(figure)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["devlin\n1/2 failed", "mosbach\n1/1 failed"]
    assert points(axes, "failed") == []
    assert [(round(x), 0 < y < 0.1) for x, y in points(axes, "NaN")] == [(0, True), (1, True)]  # y in parts of the axes
    assert "one run, NaN (at the foot of the axis)" in legend(figure)
    assert [y for _, y in points(axes, "successful")] == [70]


def test_runs_of_which_nobody_knows_whether_they_failed():
    runs = [run.model_copy(update={"data": None}) for run in make_runs("devlin", NARROW)]
    (axes,) = shown(scores(runs))
    assert len(points(axes, "unknown")) == 10
    assert points(axes, "failed") == points(axes, "successful") == []


def test_long_names_and_many_arms_do_not_collide():
    figure = scores(*[make_runs(f"ablation optimizer.bias_correction=true {i}", NARROW) for i in range(9)])
    (axes,) = shown(figure)
    labels = axes.get_yticklabels()
    assert len(labels) == 9
    assert {label.get_rotation() for label in labels} == {0}
    assert_readable(figure)


# --- training losses of a sweep ---


def test_curves_of_every_run_and_their_means():
    first, second = shown(losses(devlin(), mosbach()))
    assert sorted(runs_in(first, VERMILLION)) == [([10, 20], [0.69, 0.71]), ([10, 20], [0.71, 0.69])]
    assert runs_in(first, BLUE) == [([10, 20], [0.6, 0.1])]
    ((steps, mean),) = lines(first, "mean, failed")
    assert (steps, mean) == ([10, 20], pytest.approx([0.70, 0.70]))
    assert lines(first, "mean, successful") == []  # one run needs no mean
    assert runs_in(second, VERMILLION) == []
    ((steps, mean),) = lines(second, "mean, successful")
    assert (steps, mean) == ([10, 20, 30], pytest.approx([0.6, 0.05, 0.02]))
    entropy = "nothing learnt: label entropy"
    assert lines(first, entropy) == lines(second, entropy) == [([0, 1], [NOTHING, NOTHING])]


def test_single_runs_are_thin_and_their_mean_is_bold():
    _, second = shown(losses(devlin(), mosbach()))
    (mean,) = [line for line in second.lines if line.get_label() == "mean, successful"]
    others = [line for line in second.lines if line.get_color() == GREEN and line is not mean]
    assert len(others) == 2
    assert max(line.get_linewidth() for line in others) < 1 < mean.get_linewidth()
    assert max(line.get_zorder() for line in others) < mean.get_zorder()


def test_the_axes_of_the_curves():
    figure = losses(devlin(), mosbach())
    first, second = shown(figure)
    assert [axes.get_title() for axes in (first, second)] == ["devlin\n2/3 failed", "mosbach\n0/2 failed"]
    assert first.get_ylabel() == "training loss"
    assert second.get_ylabel() == ""
    assert figure.get_supxlabel() == "optimizer step"
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] == 0
    assert first.get_ylim()[1] > 0.71
    assert (first.get_xlim()[0], second.get_xlim()[0]) == (0, 0)
    assert legend(figure) == [
        "failed runs (bold: their mean)",
        "successful runs, in their arm's colour (bold: their mean)",
        "nothing learnt: label entropy",
    ]
    assert_readable(figure)


def test_a_diverging_run_does_not_flatten_the_others():
    runs = with_losses(make_runs("devlin", [NAN, 0.7, 0.71]), [80.0, NAN], [0.6, 0.1], [0.5, 0.1])
    (axes,) = shown(losses(runs))
    assert axes.get_ylim()[1] == pytest.approx(1.05 * 3 * NOTHING)
    ((steps, values),) = runs_in(axes, VERMILLION)
    assert (steps, values[0], math.isnan(values[1])) == ([10, 20], 80, True)


def test_the_mean_is_of_steps_that_half_of_the_runs_have():
    runs = with_losses(make_runs("devlin", [0.7, 0.7, 0.7]), [0.6, 0.5, 0.4], [0.6], [0.6, NAN])
    (axes,) = shown(losses(runs))
    ((steps, mean),) = lines(axes, "mean, successful")
    assert (steps, mean) == ([10], pytest.approx([0.6]))  # at 20 one run has ended and one diverged


def test_a_run_is_part_of_the_mean_until_its_first_nan_which_is_marked():
    lost = [0.6, NAN, 0.9]
    panel = panels_of(
        "training-curves", with_losses(make_runs("devlin", [0.7] * 3), [0.5, 0.4, 0.3], [0.7, 0.6, 0.5], lost)
    )[0]
    (mean,) = panel.curves
    assert (mean.x, mean.y, mean.dropped) == ((10, 20, 30), pytest.approx((0.6, 0.5, 0.4)), (20,))
    assert (mean.band, mean.n) == ("mean ± 1 SD", 3)


def test_the_noisy_end_of_the_losses_is_left_out_and_said():
    """After steps 10, 20 and 30, a loss at step 31 is that of one step."""
    runs = with_losses(make_runs("devlin", [0.7]), [0.6, 0.5, 0.4, 0.9])
    last = runs[0].evals[-1].model_copy(update={"step": 31})
    figure = losses([runs[0].model_copy(update={"evals": (*runs[0].evals[:-1], last)})])
    assert runs_in(shown(figure)[0], BLUE) == [([10, 20, 30], [0.6, 0.5, 0.4])]
    assert "less than half as many steps" in figure.get_supxlabel().replace("\n", " ")
    later = runs[0].evals[-1].model_copy(update={"step": 35})
    figure = losses([runs[0].model_copy(update={"evals": (*runs[0].evals[:-1], later)})])
    assert runs_in(shown(figure)[0], BLUE) == [([10, 20, 30, 35], [0.6, 0.5, 0.4, 0.9])]
    assert figure.get_supxlabel() == ""


def test_an_arm_has_one_colour_in_all_figures():
    arms = (make_runs("zhang", NARROW[:2]), devlin(), mosbach())
    loss_axes = {axes.get_title().split("\n")[0]: axes for axes in shown(figure_of("training-loss", *arms))}
    (axes,) = shown(figure_of("best-of-n", *arms))
    color = {line.get_label(): line.get_color() for line in axes.lines}
    for arm in ("devlin", "mosbach"):
        successful = {line.get_color() for line in loss_axes[arm].lines} - {VERMILLION, "black"}
        assert successful == {color[arm]}
    assert color["devlin"] != color["mosbach"]


def test_imported_runs_have_the_lines_of_glues_rows():
    def run(task, **given):
        made = make_imported(task=task, arm="zhang", **given)
        evals = tuple(ImportedEval(step=10 * i, train_loss=0.6, val_loss=None, val={made.metric: 0.7}) for i in (1, 2))
        return made.model_copy(update={"evals": evals})

    rte = run("rte", baseline=73 / 139)
    ((line,),) = [panel.horizontal for panel in panels_of("training-loss", [rte])]
    assert line.value == pytest.approx(-sum(n / 2490 * math.log(n / 2490) for n in (1249, 1241)))
    assert [line.value for line in panels_of("training-curves", [rte])[1].horizontal] == [pytest.approx(7300 / 138)]
    mine = run("rte", baseline=0.5)  # the rows are not the papers'
    assert [panel.horizontal for panel in panels_of("training-curves", [mine])] == [(), ()]
    stsb = run("stsb", metric="spearman", baseline=0.0)
    caption = figure_of("training-loss", [stsb]).get_supxlabel().replace("\n", " ")
    assert "STS-B has no label entropy: its labels are numbers." in caption


def test_beyond_a_page_of_arms_those_with_most_failed_runs_are_shown():
    most = MAX_ARMS_WITH_CURVES + 2
    arms = [
        with_losses(make_runs(f"arm{i}", [0.4] * i + [0.7] * (most - i)), *[[0.6, 0.5]] * most) for i in range(most)
    ]
    figure = losses(*arms)
    shown_arms = [f"arm{i}" for i in range(2, most)]
    assert [axes.get_title().split("\n")[0] for axes in shown(figure)] == shown_arms
    left_out = "Not drawn, with no more failed runs than these: arm0 on RTE, arm1 on RTE."
    assert figure.get_supxlabel() == f"optimizer step\n\n{left_out}"
    assert_readable(figure)


@pytest.mark.parametrize(
    ("n_arms", "tasks", "of", "rows", "columns"),
    [
        (3, ["rte"], ["train_loss", "val"], 2, 3),
        (7, ["rte"], ["train_loss", "val"], 4, 4),
        (3, ["rte", "mrpc", "cola", "stsb"], ["val"], 4, 3),  # the losses have a figure of their own
        (2, ["rte", "mrpc", "cola", "stsb", "qnli", "sst2"], ["val"], 3, 4),
    ],
)
def test_a_task_has_a_row_of_curves_and_an_arm_a_column_of_it(n_arms, tasks, of, rows, columns):
    groups = [RunGroup(f"arm{i}", f"arm{i}", task) for task in tasks for i in range(n_arms)]
    parts = [VerdictCurves("", group, kind, "std") for group in groups for kind in ("train_loss", "val")]
    panels = [(CurvePanel(f"{p.group.task} {p.group.arm} {p.of}", "", "", ()), []) for p in parts]
    placed, per_row = arrange_arms(parts, panels, None)
    titles = [panel.title for panel, _ in placed]
    assert (len(titles), per_row) == (rows * columns, columns)
    shown_titles = [f"{task} arm{i} {kind}" for task in tasks for kind in of for i in range(n_arms)]
    assert [title for title in titles if title] == shown_titles
    assert all(titles.index(f"{task} arm0 {kind}") % min(n_arms, columns) == 0 for task in tasks for kind in of)


def test_every_arm_of_several_tasks_has_its_curves():
    arms = [
        make_runs(arm, [0.5, 0.7], task=task) for task in ("rte", "mrpc", "cola", "stsb") for arm in ("a", "b", "c")
    ]
    figure = figure_of("training-loss", *(with_losses(runs, [0.7, 0.6], [0.6, 0.1]) for runs in arms))
    assert len(shown(figure)) == 12
    assert figure.get_figheight() < 8
    assert_readable(figure)


def test_several_tasks_are_named_and_so_are_their_entropies():
    other = [
        run.model_copy(update={"data": run.data.model_copy(update={"label_entropy": 0.6})})
        for run in mosbach(task="cola")
    ]
    panels = panels_of("training-loss", devlin(), other)
    assert [panel.title for panel in panels] == ["RTE, devlin\n2/3 failed", "CoLA, mosbach\n0/2 failed"]
    assert [panel.horizontal for panel in panels] == [
        (ReferenceLine("nothing learnt: label entropy", value),) for value in (0.69, 0.6)
    ]


def test_the_arms_of_a_task_share_the_top_of_their_losses():
    high = [
        run.model_copy(
            update={"evals": tuple(e.model_copy(update={"train_loss": 5.0}) for e in run.evals), "data": None}
        )
        for run in mosbach(task="stsb")
    ]
    axes = shown(losses(devlin(), mosbach(), high))
    tops = {one.get_title().split("\n")[0]: one.get_ylim()[1] for one in axes}
    assert tops["RTE, devlin"] == tops["RTE, mosbach"] < 2
    assert tops["STS-B, mosbach"] > 5


def test_runs_without_curves_and_baseline():
    runs = [run.model_copy(update={"evals": (), "data": None}) for run in make_runs("devlin", NARROW)]
    assert losses(runs) is None
    figure = scores(runs)
    assert lines(shown(figure)[0], "baseline") == []
    assert legend(figure) == ["one run, unknown"]


def test_nothing_to_draw():
    made = [make_record(status="crashed").model_copy(update={"evals": ()})]
    assert scores(made) is None
    assert losses(made) is None


# --- runs at the baseline, and the best of several ---


def with_scores(runs, *curves):
    """The runs with these validation accuracies at steps 10, 20, ..."""

    def point(i, score):
        return EvalPoint(step=10 * i, epoch=i, train_loss=0.5, val_loss=1, val={"accuracy": score})

    return [
        run.model_copy(update={"evals": tuple(point(i, score) for i, score in enumerate(curve, 1))})
        for run, curve in zip(runs, curves, strict=True)
    ]


def test_the_share_of_runs_at_the_baseline_over_the_steps():
    runs = with_scores(make_runs("devlin", [0.5, 0.7, NAN]), [0.5, 0.5, 0.5], [0.5, 0.6, 0.7], [0.5, 0.5, NAN])
    (panel,) = panels_of("at-baseline", runs)
    (drawn,) = panel.curves
    assert drawn.x == (10, 20, 30)
    assert drawn.y == pytest.approx((100, 100 * 2 / 3, 100 * 2 / 3))  # NaN has learnt nothing
    assert all(low <= y <= high for low, y, high in zip(drawn.low, drawn.y, drawn.high, strict=True))
    assert (drawn.label, drawn.n) == ("devlin", 3)


def test_equal_shares_are_dashes_that_alternate_with_their_intervals_at_the_end():
    fine = [0.6, 0.7]
    arms = [with_scores(make_runs(arm, fine), fine, fine) for arm in ("zhang", "mosbach")]
    failing = with_scores(make_runs("devlin", [0.5, 0.5]), [0.5, 0.5], [0.5, 0.5])
    figure = figure_of("at-baseline", *arms, failing)
    (axes,) = shown(figure)
    figure.draw_without_rendering()
    named = {line.get_label(): line for line in axes.lines}
    places = (named[arm].get_transform().transform(named[arm].get_xydata()) for arm in ("zhang", "mosbach", "devlin"))
    zhang, mosbach_line, devlin_line = (float(place[0, 1]) for place in places)
    assert zhang == mosbach_line == pytest.approx(axes.transData.transform((0, 0))[1])
    assert devlin_line == pytest.approx(axes.transData.transform((0, 100))[1])
    assert len({named[arm].get_linewidth() for arm in ("zhang", "mosbach", "devlin")}) == 1
    assert [named[arm].get_linestyle() for arm in ("zhang", "mosbach", "devlin")] == ["--", "--", "-"]
    bars = [segment for marks in axes.collections for segment in marks.get_segments()]
    interval = wilson_interval(0, 2)
    assert [bar[:, 1].tolist() for bar in bars[:2]] == [pytest.approx([0, 100 * interval.high])] * 2
    assert "Wilson" in figure.get_supxlabel()


def test_curves_are_dashed_only_where_they_coincide():
    a = Curve("a", (0.0, 1.0, 2.0, 3.0), (9.0, 5.0, 5.0, 4.0))
    b = Curve("b", (0.0, 1.0, 2.0, 3.0), (8.0, 5.0, 5.0, 5.0))
    alone, rise, together = step_parts(a, [a, b])
    assert alone == ([0, 1], [9, 9], 0, 1)
    assert rise == ([1, 1], [9, 5], 0, 1)
    assert together == ([1, 2, 2, 3], [5, 5, 5, 5], 0, 2)
    assert list(step_parts(b, [a, b]))[2] == ([1, 2, 2, 3], [5, 5, 5, 5], 1, 2)
    assert list(step_parts(a, [a])) == [([0, 1, 1, 2, 2, 3], [9, 9, 5, 5, 5, 5], 0, 1)]


def test_a_last_share_that_is_not_that_of_failed_runs_is_explained():
    agrees = with_scores(make_runs("devlin", [0.5, 0.7]), [0.5, 0.5], [0.5, 0.6])
    differs = with_scores(make_runs("devlin", [0.5, 0.7]), [0.5, 0.5], [0.5, 0.5])
    words = "A last share is not always that of failed runs"
    captions = [figure_of("at-baseline", runs).get_supxlabel().replace("\n", " ") for runs in (agrees, differs)]
    assert [words in caption for caption in captions] == [False, True]


def test_panels_without_a_chance_level_share_one_note():
    runs = [
        run.model_copy(update={"data": None})
        for task in ("rte", "mrpc")
        for run in with_scores(make_runs("devlin", [0.5, 0.7], task=task), [0.5, 0.5], [0.5, 0.6])
    ]
    known = with_scores(make_runs("devlin", [0.5, 0.7], task="qnli"), [0.5, 0.5], [0.5, 0.6])
    figure = figure_of("at-baseline", known, runs)
    assert len(shown(figure)) == 1
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "RTE, MRPC: no run has two validation scores with a known chance level." in caption


@pytest.mark.parametrize("name", ["at-baseline", "best-of-n"])
def test_beyond_a_legend_of_arms_those_with_most_failed_runs_have_lines(name):
    tasks, count = ("rte", "mrpc"), 60
    arms = [
        with_scores(make_runs(f"arm{i}", [0.5] * (i >= 40) + [0.7] * 3, task=task), *[[0.5, 0.6]] * (3 + (i >= 40)))
        for task in tasks
        for i in range(count)
    ]
    figure = figure_of(name, *arms)
    drawn = {text.partition(" (")[0] for text in legend(figure)}
    assert {text for text in drawn if text.startswith("arm")} == {f"arm{i}" for i in range(40, count)}
    caption = figure.get_supxlabel().replace("\n", " ")
    left_out = ", ".join(f"arm{i}" for i in range(10))
    assert f"Not drawn, with no more failed runs than these: {left_out} and 30 more." in caption
    assert_readable(figure)


def test_figures_without_a_line_are_left_out():
    runs = runs_of_records(with_scores(make_runs("devlin", [0.5]), [0.5]))
    figures, _ = sweep_figures([runs.cell(*place) for place in runs.by_arm_task], runs)
    assert set(figures) == {"scores", "training-loss", "training-curves"}
    (axes, *_) = shown(figures["training-curves"]())
    assert {line.get_marker() for line in axes.lines if line.get_label() == "failed runs"} == {"o"}
    more = runs_of_records(with_scores(make_runs("devlin", [0.5, 0.6]), [0.5, 0.6], [0.4, 0.5]))
    figures, _ = sweep_figures([more.cell(*place) for place in more.by_arm_task], more)
    assert {"training-curves", "at-baseline", "best-of-n"} <= set(figures)


def test_the_expected_best_of_n_of_every_arm():
    (axes,) = shown(figure_of("best-of-n", make_runs("devlin", [0.5, 0.6]), make_runs("mosbach", NARROW)))
    ((trials, means),) = lines(axes, "devlin")
    assert trials == [1, 2]
    assert means == pytest.approx([55, 57.5])  # 60 with a chance of 3/4
    assert len(lines(axes, "mosbach")[0][0]) == 10


def test_points_of_the_scores_tell_arm_seed_and_score():
    svg = figure_to_bytes(scores(devlin(), mosbach()), "svg").decode()
    for title in ("devlin, seed 1/101: 50.00", "devlin, seed 3/103: 70.00", "mosbach, seed 2/102: 70.00"):
        assert f"<title>{title}</title>" in svg


def test_a_nan_among_the_best_of_n_is_told_with_its_arm_and_task():
    arms = [make_runs("devlin", [NAN, 0.6, 0.7], task="cola"), make_runs("devlin", [0.5, 0.6, 0.7])]
    caption = figure_of("best-of-n", *arms).get_supxlabel().replace("\n", " ")
    assert "A NaN counts as the baseline's score: 1 of 3 runs of CoLA, devlin." in caption
    assert "its probability" not in caption


@pytest.mark.parametrize(
    ("drawn", "order"),
    [
        (["A (imported)", "B (imported)"], ["A (imported)", "B (imported)", "A", "B"]),  # as A and B have elsewhere
        (["A", "A (imported)", "B"], ["A", "B", "A (imported)", "B (imported)"]),
        (["B (imported)"], ["A", "B (imported)", "A (imported)", "B"]),  # A keeps its place
    ],
)
def test_imported_runs_have_their_arms_colour_where_they_stand_for_it(drawn, order):
    labels = ("A", "A (imported)", "B", "B (imported)")
    panel = CurvePanel("", "", "", tuple(Curve(label, (1.0,), (1.0,)) for label in drawn))
    assert palette_names(labels, [panel]) == order
