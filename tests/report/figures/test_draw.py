"""What figures draw, from made-up panels: points, lines and names, not pixels."""

import math
from dataclasses import replace
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from support.figures import AXIS, assert_readable, box, legend, lines, points, shown

from stableft.report.figures.cut_axis import CUT_NOTE
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import (
    STEP_AXIS,
    Box,
    BoxPanel,
    ContourPanel,
    Curve,
    CurvePanel,
    Estimate,
    EstimatePanel,
    HeatPanel,
    MarkedPoint,
    PointGroup,
    PointPanel,
    ReferenceLine,
)
from stableft.report.figures.style import (
    BLUE,
    FIRST_NAN,
    GREEN,
    NAN_LEFT_OUT,
    NAN_VALUE,
    PURPLE,
    VERMILLION,
    figure_to_bytes,
)

NAN = math.nan


def curve(label, n=50, shift=0.0, band=False, **given):
    x = np.arange(1.0, n + 1)
    y = shift + 1 / x
    sides = {"low": tuple(y - 0.1), "high": tuple(y + 0.2)} if band else {}
    return Curve(label, tuple(x), tuple(y), **sides, **given)


def curves_of(*found, **given):
    return CurvePanel(given.pop("title", "RTE"), "step", given.pop("ylabel", "loss"), found, **given)


def surface(title="RTE"):
    x = np.linspace(-0.5, 1.5, 15)
    z = 10 ** (np.add.outer((x - 1) ** 2, x**2) - 2)
    places = (MarkedPoint("pre-trained", 0, 0), MarkedPoint("failed", 1, 0), MarkedPoint("successful", 0, 1))
    return ContourPanel(title, "δ1", "δ2", tuple(x), tuple(x), tuple(map(tuple, z)), "training loss", places=places)


def heat(size=10, margins=3, title="Standard"):
    values = 60 + np.arange((size + margins) ** 2).reshape(size + margins, -1) / 10
    rows = [list(map(float, row)) for row in values]
    rows[1][2] = None
    for row in rows[size:]:
        row[size:] = [None] * margins
    names = (*map(str, range(size)), "min", "mean", "max")[: size + margins]
    return HeatPanel(title, "data seed", "init seed", names, names, tuple(map(tuple, rows)), "accuracy", 1, margins)


MANY_LINES = tuple(ReferenceLine(f"data set {i}", 400 + 20 * i) for i in range(5))
LONG_NAME = "a-rather-long-name-of-an-arm-with-lr-1e-5"
TICKS = tuple(10_000.0 + 1000 * i for i in range(12))
LAYERS = [curve(f"layer {i}", shift=i / 24) for i in range(1, 25)]
HARD = {
    "three tasks": [
        BoxPanel(t, AXIS, (box("Devlin"), box("Lee et al."), box("Ours"))) for t in ("RTE", "MRPC", "CoLA")
    ],
    "18 boxes": [BoxPanel("RTE", AXIS, tuple(box(f"{i}e-5, 20 epochs, no BC") for i in range(18)))],
    "20 long names": [BoxPanel("RTE", AXIS, tuple(box(f"a rather long name of arm {i}") for i in range(20)))],
    "10 panels of 8": [BoxPanel(f"task {i}", AXIS, tuple(box(str(j)) for j in range(8))) for i in range(10)],
    "8 boxes": [BoxPanel("BERT", AXIS, tuple(box(f"{i}e-5, no BC") for i in range(8)))],
    "close lines": [curves_of(curve("ratio", 9000), xlog=True, vertical=MANY_LINES, title="a long title " * 9)],
    "close lines above": [
        curves_of(
            curve("ratio"), horizontal=(ReferenceLine("a", 1), ReferenceLine("b", 1.01), ReferenceLine("c", 1.02))
        )
    ],
    "layers": [curves_of(*LAYERS, ylog=True, sequential=True) for _ in range(2)],
    "many ticks": [curves_of(curve("a", 30), xticks=tuple(2.0 * i for i in range(16))) for _ in range(4)],
    "long ticks": [curves_of(Curve("a", TICKS, TICKS), xticks=TICKS) for _ in range(2)],
    "24 panels": [curves_of(*(curve(f"Re-init {i}", 5) for i in range(5)), title=f"layer {j}") for j in range(24)],
    "seeds": [heat(title="Standard"), heat(title="Re-init 5")],
    "surfaces": [surface(), surface(), surface()],
    "a surface": [surface()],
    "one box": [BoxPanel("RTE", AXIS, (box(),))],
    "60 boxes": [BoxPanel("RTE", AXIS, tuple(box(f"arm {i}") for i in range(60)))],
    "names of 40 letters": [BoxPanel("RTE", AXIS, tuple(box(f"{LONG_NAME} {i}") for i in range(9)))],
    "12 panels": [BoxPanel(f"task {i}", AXIS, (box("devlin"), box("mosbach-mixout"))) for i in range(12)],
    "200 curves": [curves_of(*(curve(f"seed {i}", shift=i) for i in range(200)))],
    "NaN alone": [
        curves_of(Curve("a", (1.0, 2.0), (NAN, NAN)), xlog=log, ylog=log, title=str(log)) for log in (False, True)
    ],
    "boxes without a score": [BoxPanel("RTE", AXIS, (Box("a", (), (), 3, n_nan=3, n_failed="3/3"),))],
    "letters": [BoxPanel("Prüfung", AXIS, (box("größere Lernrate mit Überlänge"), box("naïve")))],
    "long titles": [BoxPanel("a title of some eighty letters that goes on about one task " * 2, AXIS, (box(),))] * 3,
    "estimates": [
        EstimatePanel(
            title,
            f"{title} in points",
            tuple(
                Estimate(f"arm {i} on RTE", i + zero + shift, i + zero - 1 if i else zero - 1, zero + i + 1, kind)
                for kind, shift in (("ours", 0.0), ("published", 0.5))
                for i in range(3)
            ),
            zero,
        )
        for title, zero in (("difference", 0.0), ("ratio", 1.0))
    ],
    "mixed": [curves_of(curve("one")), BoxPanel("CoLA", AXIS, (), missing="no run is finished " * 8)],
}


@pytest.mark.parametrize("name", HARD)
def test_hard_panels_are_drawn_whole(name):
    panels = HARD[name]
    figure = draw_panels(panels, caption="Mean and range over 20 runs." if name == "mixed" else "")
    assert figure.get_figwidth() == 7.2
    assert len(legend(figure)) == len(set(legend(figure)))
    drawn = shown(figure)[: len(panels)]
    assert [" ".join(axes.get_title().split()) for axes in drawn] == [panel.title.strip() for panel in panels]
    inside = [axes.get_window_extent() for axes in drawn]
    assert min(box.width for box in inside) > 100
    assert min(box.height for box in inside) > 80


PRINTED = ["three tasks", "18 boxes", "close lines", "layers", "seeds", "surfaces", "estimates"]
WIDTHS = [*((name, 3.25) for name in PRINTED), ("three tasks", 2.0), ("surfaces", 5.5), ("18 boxes", 12.0)]


@pytest.mark.parametrize(("name", "width"), WIDTHS)
def test_a_figure_is_as_wide_as_it_is_printed_and_its_type_can_be_read(name, width):
    figure = draw_panels(HARD[name], width=width)
    assert figure.get_figwidth() == width
    if width > 2:
        assert_readable(figure, least=6)


def test_a_far_baseline_does_not_hide_the_spread_of_scores():
    scores = tuple(89 + 0.02 * i for i in range(20))
    near = Box("near", scores, (False,) * 20, 20, n_failed="0/20", baseline=88.0)
    far = replace(near, baseline=0.0)
    heights = []
    for of_panel, cut in ((near, False), (far, True)):
        figure = draw_panels([BoxPanel("STS-B", AXIS, (of_panel,))])
        (axes,) = shown(figure)
        assert (CUT_NOTE in figure.get_supxlabel().replace("\n", " ")) is cut
        assert any(text.get_text() == "axis cut" for text in axes.texts) is cut
        ends = axes.transData.transform([(0, scores[0]), (0, scores[-1])])[:, 1]
        heights.append(np.ptp(ends) / axes.bbox.height)
        places = axes.transData.transform([(0, y) for y in (0, 88.0, 88.9, 89.4)])[:, 1]
        assert list(places) == sorted(places)
    assert heights[1] > 0.5


@pytest.mark.parametrize("rows", [False, True])
def test_both_parts_of_a_cut_axis_have_one_scale(rows):
    low, high = (Box(n, s, (False,) * 20, 20) for n, s in (("low", LOW_SCORES), ("high", HIGH_SCORES)))
    others = tuple(replace(high, label=f"a name of the arm with number {i}") for i in range(15 if rows else 0))
    (axes,) = shown(draw_panels([BoxPanel("RTE", AXIS, (low, replace(high, n_nan=1), *others))]))
    assert any(text.get_text() == "axis cut" for text in axes.texts)
    side = 0 if rows else 1
    ends = [axes.transData.transform([(y, y) for y in (s[0], s[-1])])[:, side] for s in (LOW_SCORES, HIGH_SCORES)]
    assert np.ptp(ends[0]) / 4 == pytest.approx(np.ptp(ends[1]) / 2)
    ticks = axes.get_xticks() if rows else axes.get_yticks()
    (step,) = {round(after - before, 9) for before, after in pairwise(ticks) if after - before < 40}
    assert all(tick % step == pytest.approx(0) for tick in ticks)
    assert min(ticks) < 53
    assert max(ticks) > 97


LOW_SCORES, HIGH_SCORES = (tuple(np.linspace(a, b, 20).tolist()) for a, b in ((48, 52), (97, 99)))


def test_many_panels_have_their_names_once_a_row():
    names, metrics = ("Standard", "pooler", *"123456"), ("F1", "MCC")
    axes_names = [AXIS.replace("accuracy", metrics[i % 2]) for i in range(9)]
    panels = [BoxPanel(f"task {i}", name, tuple(map(box, names))) for i, name in enumerate(axes_names)]
    for width, per_row in ((7.2, 4), (5.5, 3), (3.25, 2)):
        figure = draw_panels(panels, width=width)
        named = [any(label.get_text() for label in axes.get_yticklabels()) for axes in shown(figure)]
        assert named == [i % per_row == 0 for i in range(9)]
        assert figure.get_supxlabel().startswith("validation split, last checkpoint\n")
        assert_readable(figure, least=6)


def test_panels_that_share_an_axis_have_its_limits():
    low, high = (curves_of(curve("a", shift=shift), share="loss") for shift in (0, 7))
    first, second = shown(draw_panels([low, high]))
    assert first.get_ylim() == second.get_ylim()
    first, second = shown(draw_panels([replace(low, share=""), replace(high, share="")]))
    assert first.get_ylim() != second.get_ylim()
    boxes = [BoxPanel(t, AXIS, (box(seed=i, baseline=40.0 + i),), share="rte") for i, t in enumerate("ab")]
    first, second = shown(draw_panels(boxes))
    assert first.get_ylim() == second.get_ylim()


def test_a_band_does_not_leave_the_possible_range():
    wide = Curve("a", (1.0, 2.0), (90.0, 95.0), (70.0, 60.0), (110.0, 130.0))
    figure = draw_panels([curves_of(wide, possible=(0.0, 100.0))])
    (axes,) = shown(figure)
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == 100
    assert 100 < axes.get_ylim()[1] < 102
    assert figure.get_supxlabel() == "\nBands are cut at 100 % for scores."
    within = replace(wide, high=(100.0, 100.0))
    assert draw_panels([curves_of(within, possible=(0.0, 100.0))]).get_supxlabel() == ""
    panels = [curves_of(wide, possible=(0.0, 100.0)), curves_of(replace(wide, low=(-1.0, 60.0)), possible=(0.0, None))]
    assert "Bands are cut at 100 % for scores and 0 for losses." in draw_panels(panels).get_supxlabel()


def test_steps_and_trials_have_whole_numbers():
    (axes,) = shown(draw_panels([curves_of(curve("a", 3))]))
    assert [tick for tick in axes.get_xticks() if 1 <= tick <= 3] == [1, 2, 3]


def test_a_long_name_of_an_axis_is_no_longer_than_the_axis():
    for width in (3.25, 5.5, 7.2):
        panels = [curves_of(curve("a"), title=t) for t in ("RTE", "MRPC", "CoLA")]
        figure = draw_panels(
            [replace(panel, ylabel="expected validation accuracy [percent]") for panel in panels], width=width
        )
        figure.draw_without_rendering()
        for axes in shown(figure):
            assert axes.yaxis.label.get_window_extent().height < 1.05 * axes.bbox.height


def test_nan_of_a_curve_is_marked_at_the_foot():
    panel = curves_of(Curve("a", (1.0, 2.0, 3.0), (1.0, NAN, NAN)))
    for xlabel, marked, name in ((STEP_AXIS, [2], FIRST_NAN), ("blocks", [2, 3], NAN_VALUE)):
        figure = draw_panels([replace(panel, xlabel=xlabel)])
        (axes,) = shown(figure)
        assert points(axes, "NaN") == [(x, pytest.approx(0.03)) for x in marked]
        assert legend(figure) == ["a", name]


def test_marks_of_several_runs_have_their_number():
    panel = curves_of(Curve("a", (1.0,), (1.0,), dropped=(2.0, 2.0, 3.0)))
    (axes,) = shown(draw_panels([replace(panel, xlabel=STEP_AXIS)]))
    assert [x for x, _ in points(axes, "NaN")] == [2, 3]
    assert [(text.xy[0], text.get_text()) for text in axes.texts] == [(2, "2")]
    assert axes.get_xlim()[1] > 3


def test_a_mean_without_the_runs_that_are_nan_has_a_ring():
    figure = draw_panels([curves_of(Curve("a", (1.0, 2.0, 3.0), (1.0, 2.0, 1.5), without_nan=(2.0,)))])
    (axes,) = shown(figure)
    assert points(axes, NAN_LEFT_OUT) == [(2, 2)]
    assert legend(figure) == ["a", NAN_LEFT_OUT]


def test_a_mean_of_one_step_tells_its_runs():
    figure = draw_panels([curves_of(Curve("a", (1.0, 2.0), (1.0, NAN), (0.5, NAN), (1.5, NAN), n=6))])
    assert [text.get_text() for text in shown(figure)[0].texts] == ["n = 6"]


def test_numbers_of_runs_that_differ_between_panels_are_in_their_titles():
    few, many = (curves_of(curve("a", n=n), curve("b", n=9), title=f"{n} runs") for n in (4, 5))
    few, many = (replace(p, curves=tuple(replace(c, n=n) for c in p.curves)) for p, n in ((few, 4), (many, 25)))
    figure = draw_panels([few, many])
    assert [axes.get_title() for axes in shown(figure)] == ["4 runs (n = 4)", "5 runs (n = 25)"]
    assert legend(figure) == ["a", "b"]
    mixed = replace(many, curves=(many.curves[0], replace(many.curves[1], n=4)))
    assert [axes.get_title() for axes in shown(draw_panels([few, mixed]))][1] == "5 runs (n = 25, 4)"
    assert legend(draw_panels([few, few])) == ["a (n = 4)", "b (n = 4)"]


CROWD = BoxPanel("RTE", AXIS, (box(n=1200),))  # drawn as pixels in a vector file
CLOUD = PointPanel("", "loss", "score", (PointGroup("runs", tuple(range(1, 50)), tuple(range(49))),), xlog=True)
TWICE = {name: HARD[name] for name in ("8 boxes", "close lines", "layers", "a surface")}
TWICE["heat and points"] = [heat(3), CLOUD, CROWD]


@pytest.mark.parametrize("name", TWICE)
def test_equal_panels_give_equal_files(name):
    first, second = (draw_panels(TWICE[name]) for _ in range(2))
    for form, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        file = figure_to_bytes(first, form)
        assert file == figure_to_bytes(second, form)
        assert file.startswith(start)


def test_a_users_own_style_has_no_effect():
    plain = figure_to_bytes(draw_panels(HARD["8 boxes"]), "png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 20}):
        assert figure_to_bytes(draw_panels(HARD["8 boxes"]), "png") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_figure_of_900_pixels():
    png = figure_to_bytes(draw_panels(HARD["8 boxes"]), "png")
    assert int.from_bytes(png[16:20], "big") == 900


def test_thousands_of_runs_are_all_drawn():
    (axes,) = shown(draw_panels([BoxPanel("RTE", AXIS, (box(n=5000),))]))
    assert len(points(axes, "successful")) == 4998
    assert len(points(axes, "failed")) == 2
    assert all(marks.get_rasterized() for marks in axes.collections if marks.get_label() == "successful")


def test_a_dollar_in_a_name_is_a_letter():
    (axes,) = shown(draw_panels([BoxPanel("$a_b$", AXIS, (box("$x^2$"),))]))
    assert not axes.title.get_parse_math()
    assert not axes.get_xticklabels()[0].get_parse_math()


def test_a_name_looks_the_same_in_every_panel():
    panels = [curves_of(curve("a", n=3), curve("b")), curves_of(curve("b"), curve("c"))]
    figure = draw_panels(panels)
    colors = [{line.get_label(): line.get_color() for line in axes.lines} for axes in shown(figure)]
    assert colors == [{"a": BLUE, "b": GREEN}, {"b": GREEN, "c": PURPLE}]
    styles = [{line.get_label(): line.get_linestyle() for line in axes.lines} for axes in shown(figure)]
    assert styles[0]["b"] == styles[1]["b"] != styles[0]["a"]  # seen in grey
    assert legend(figure) == ["a", "b", "c"]


@pytest.mark.parametrize("n", [6, 50])
def test_a_name_that_is_not_drawn_changes_no_others_look(n):
    def looks(*labels):
        (axes,) = shown(draw_panels([curves_of(*(curve(label, n) for label in labels))], names=("a", "b", "c")))
        return {line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}

    every = looks("a", "b", "c")
    assert {label: color for label, (color, *_) in every.items()} == {"a": BLUE, "b": GREEN, "c": PURPLE}
    for labels in (("b", "c"), ("a", "c"), ("c", "b")):
        found = looks(*labels)
        assert set(found) == set(labels)
        assert all(found[label] == every[label] for label in labels)


def test_short_curves_are_told_apart_by_markers():
    (axes,) = shown(draw_panels([curves_of(curve("a", 6), curve("b", 6))]))
    assert len({line.get_marker() for line in axes.lines}) == 2


def test_the_legend_counts_runs():
    panels = [curves_of(curve("a"), curve("b", n=20)), curves_of(curve("a"), curve("b", n=20))]
    counted = [
        curves_of(*(Curve(c.label, c.x, c.y, n=19 + i if c.label == "a" else 8) for c in panel.curves))
        for i, panel in enumerate(panels)
    ]
    figure = draw_panels(counted)
    assert legend(figure) == ["a", "b"]  # the numbers differ between the panels
    assert [axes.get_title() for axes in shown(figure)] == ["RTE (n = 19, 8)", "RTE (n = 20, 8)"]


def test_many_single_runs_are_one_name():
    runs = [Curve(f"seed {i}", (1.0, 2.0), (i, i + 1.0), n=1, thin=True, group="single runs") for i in range(10)]
    figure = draw_panels([curves_of(*runs)])
    assert legend(figure) == ["single runs (n = 10)"]
    assert len(shown(figure)[0].lines) == 10


def test_a_band_between_low_and_high():
    (axes,) = shown(draw_panels([curves_of(curve("a", 4, band=True))]))
    (band,) = axes.collections
    y = band.get_paths()[0].vertices[:, 1]
    assert (y.min(), y.max()) == (pytest.approx(0.15), pytest.approx(1.2))
    assert band.get_facecolor()[0][3] == 0.12
    assert band.get_edgecolor()[0][3] == 0.8  # bands that overlap are told apart


def test_nan_breaks_a_line_and_a_logarithm_drops_zero():
    broken = Curve("a", (0.0, 1.0, 10.0, 100.0), (1.0, NAN, 0.0, 5.0))
    (plain,) = shown(draw_panels([curves_of(broken)]))
    ((_, values),) = lines(plain, "a")
    assert [math.isnan(value) for value in values] == [False, True, False, False]
    (log,) = shown(draw_panels([curves_of(broken, xlog=True, ylog=True)]))
    ((steps, values),) = lines(log, "a")
    assert [math.isnan(value) for value in steps] == [True, False, False, False]
    assert [math.isnan(value) for value in values] == [False, True, True, False]
    assert (log.get_xscale(), log.get_yscale()) == ("log", "log")


def test_ordered_curves_are_shades_of_a_colour_bar():
    figure = draw_panels([curves_of(*LAYERS, curve("classifier", color="#000000", dashed=True), sequential=True)])
    assert legend(figure) == ["classifier"]
    panel, bar = shown(figure)  # a bar of colours names the layers
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "5", "9", "13", "17", "24"]
    drawn = {line.get_label(): line for line in panel.lines}
    brightness = [np.dot(line.get_color()[:3], (0.3, 0.6, 0.1)) for line in (drawn[layer.label] for layer in LAYERS)]
    assert brightness == sorted(brightness)
    assert len(set(brightness)) == 24


def test_many_blocks_of_many_steps_are_thin_lines_of_medians_that_break_where_a_norm_is_not_finite():
    rng = np.random.default_rng(0)
    steps = tuple(map(float, range(300)))
    blocks = [Curve(f"block {i}", steps, (*rng.normal(5, 1, 299), NAN)) for i in range(12)]
    head = curve("classifier", color="#000000")
    figure = draw_panels([curves_of(*blocks, head, sequential=True)] * 2, width=7.2)  # 54 points in 3.6 inches
    drawn = {line.get_label(): line for line in shown(figure)[0].lines}
    x, y = np.transpose(drawn["block 3"].get_xydata())
    assert y[:2] == pytest.approx([np.median(blocks[3].y[:6]), np.median(blocks[3].y[6:12])])
    assert (len(x), x[0], x[-1]) == (51, 2.5, 299)
    assert np.flatnonzero(~np.isfinite(y)).tolist() == [50]
    assert drawn["block 3"].get_linewidth() < drawn["classifier"].get_linewidth() < 1.5
    assert "medians of neighbouring steps" in figure.get_supxlabel()
    few = draw_panels([curves_of(*blocks[:8], sequential=True)])
    assert len(shown(few)[0].lines[0].get_xdata()) == 300  # told apart by the legend
    assert "medians" not in few.get_supxlabel()


def test_panels_of_several_metrics_have_the_rest_of_their_label_once():
    def panels(*metrics):
        made = (curves_of(curve("a"), ylabel=f"expected test {metric} [percent]") for metric in metrics)
        return [replace(panel, metric=metric) for panel, metric in zip(made, metrics, strict=True)]

    figure = draw_panels(panels("accuracy", "F1", "MCC"), width=5.5)
    assert figure.get_supylabel() == "expected test score [percent]"
    assert [axes.get_ylabel() for axes in shown(figure)] == ["accuracy", "F1", "MCC"]
    alike = draw_panels(panels("F1", "F1"))
    assert (alike.get_supylabel(), shown(alike)[0].get_ylabel()) == ("", "expected test F1 [percent]")
    mixed = draw_panels([*panels("F1"), curves_of(curve("a"), ylabel="training loss")])
    assert [axes.get_ylabel() for axes in shown(mixed)] == ["expected test F1 [percent]", "training loss"]


@pytest.mark.parametrize(("width", "per_row"), [(7.2, 4), (5.5, 2), (3.25, 2)])
def test_a_failed_and_a_successful_run_are_side_by_side(width, per_row):
    figure = draw_panels([curves_of(*LAYERS[:3], sequential=True)] * 12, width=width)
    assert len({axes.get_subplotspec().colspan.start for axes in shown(figure)}) == per_row


def test_a_colour_bar_above_the_panels_takes_no_height_from_them():
    def height(curves):
        figure = draw_panels([curves_of(*curves, sequential=True)] * 2, width=3.25)
        return shown(figure)[0].get_position().height * figure.get_figheight()

    assert height(LAYERS) > 0.9 * height(LAYERS[:3])


def test_reference_lines_are_named_in_the_legend_or_above():
    panel = curves_of(
        curve("a"),
        horizontal=(ReferenceLine("zero", 0.0), ReferenceLine("entropy", 0.5)),
        vertical=(ReferenceLine("warm-up", 5.0), ReferenceLine("end", 40.0)),
    )
    figure = draw_panels([panel])
    (axes,) = shown(figure)
    assert lines(axes, "zero")[0][1] == [0, 0]
    assert lines(axes, "entropy")[0][1] == [0.5, 0.5]
    assert lines(axes, "warm-up")[0][0] == [5, 5]
    assert {text.get_text(): text.xy[0] for text in axes.texts} == {"warm-up": 5, "end": 40}
    assert {text.get_rotation() for text in axes.texts} == {0}
    assert legend(figure) == ["a", "zero", "entropy"]
    dashes = {line.get_label(): line._dash_pattern for line in axes.lines}
    assert dashes["zero"] != dashes["entropy"]


def test_ticks_that_are_asked_for():
    (axes,) = shown(draw_panels([curves_of(curve("a"), xlog=True, xticks=(200.0, 1600.0, 12800.0))]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["200", "1,600", "12,800"]
    assert list(axes.xaxis.get_minorticklocs()) == []


def test_points_of_two_kinds():
    fine = PointGroup("successful", (0.1, 0.01), (70.0, 71.0))
    lost = PointGroup("failed", (0.7, 0.0), (52.0, 51.0), VERMILLION, "x")
    figure = draw_panels(
        [PointPanel("RTE", "loss", "accuracy", (fine, lost), xlog=True, horizontal=(ReferenceLine("baseline", 52.7),))]
    )
    (axes,) = shown(figure)
    assert points(axes, "successful") == [(0.01, 71), (0.1, 70)]
    assert (0.7, 52.0) in points(axes, "failed")  # a loss of 0 has no place on the axis
    assert legend(figure) == ["successful (n = 2)", "failed (n = 2)", "baseline"]


def test_the_map_of_two_seeds():
    panel = heat(size=3, margins=1)
    figure = draw_panels([panel])
    assert "Hatched: no score" in figure.get_supxlabel()
    assert "Hatched" not in draw_panels([replace(panel, values=((1.0,) * 4,) * 4)]).get_supxlabel()
    axes, bar = shown(figure)
    found = {text.get_text() for text in axes.texts}
    assert found == {f"{value:.1f}" for row in panel.values for value in row if value is not None}
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert [(patch.get_x(), patch.get_y()) for patch in hatched] == [(1.5, 0.5)]  # row 1, column 2; not the corner
    assert list(axes.get_xticks()) == [0, 1, 2, pytest.approx(3.3)]  # the summary stands apart
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "min"]
    assert bar.get_ylabel() == "accuracy"


def test_all_maps_of_a_figure_have_numbers_or_none_has():
    names = tuple(map(str, range(11)))
    long, short = (
        HeatPanel("", "", "", names, ("initialisation fixed",), ((v,) * 11,), "std in points", 2) for v in (11.95, 1.95)
    )
    numbers = {
        width: [axes.texts for axes in shown(draw_panels([long, short], width=width))[:2]] for width in (7.2, 5.5, 3.25)
    }
    assert [[len(texts) for texts in numbers[width]] for width in (7.2, 5.5, 3.25)] == [[11, 11], [11, 11], [0, 0]]
    assert {text.get_fontsize() for texts in numbers[5.5] for text in texts} == {6}


def test_maps_share_their_colours():
    low, high = (HeatPanel(t, "", "", ("a",), ("b",), ((v,),), "percent") for t, v in (("x", 1.0), ("y", 3.0)))
    figure = draw_panels([low, high, HeatPanel("z", "", "", ("a",), ("b",), ((2.0,),), "percent")])
    assert len(shown(figure)) == 4  # one bar of colours
    first, second, third = (axes.patches[0].get_facecolor() for axes in shown(figure)[:3])
    assert first == matplotlib.colormaps["viridis"](0.0)
    assert second == matplotlib.colormaps["viridis"](1.0)
    assert third == matplotlib.colormaps["viridis"](0.5)
    assert [axes.texts[0].get_color() for axes in shown(figure)[:2]] == ["white", "black"]


def test_more_curves_than_can_be_told_apart_are_shades():
    figure = draw_panels(HARD["200 curves"])
    assert len({line.get_color() for line in shown(figure)[0].lines}) == 200
    assert legend(figure)[0] == "seed 0"
    assert legend(figure)[-1] == "seed 199"
    assert len(legend(figure)) < 10


def test_a_surface_with_named_places():
    figure = draw_panels([surface()])
    axes, bar = shown(figure)
    marked = {line.get_label(): line.get_xydata()[0].tolist() for line in axes.lines}
    assert marked == {"pre-trained": [0, 0], "failed": [1, 0], "successful": [0, 1]}
    assert legend(figure) == list(marked)
    markers = {line.get_label(): line.get_marker() for line in axes.lines}
    assert len(set(markers.values())) == 3
    assert [line.get_marker() for line in figure.legends[0].get_lines()] == list(markers.values())
    assert any(text.get_visible() for text in axes.texts)  # levels on their lines
    assert axes.get_aspect() == 1
    assert bar.get_ylabel() == "training loss\n(linear steps)"
    levels = np.array(bar.get_yticks())
    assert levels[0] <= 0.01
    assert levels[-1] >= 10**2.5
    assert len(set(np.diff(levels).round(9))) == 1


def test_the_levels_of_a_surface_stand_clear_of_marks_and_each_other():
    for width, at_least in ((7.2, 6), (3.25, 2)):
        figure = draw_panels([replace(surface(), levels=(0.01, 0.1, 1.0))], width=width)
        axes, bar = shown(figure)
        assert "training loss\n(logarithmic steps)" in (bar.get_ylabel(), bar.get_xlabel())
        point = figure.dpi / 72
        marks = [line.get_window_extent().padded(5 * point) for line in axes.lines]
        texts = [text.get_window_extent() for text in axes.texts if text.get_visible()]
        assert len(texts) >= at_least
        assert not any(text.count_overlaps(marks) for text in texts)
        assert not any(one.overlaps(other) for one, other in combinations(texts, 2))


def test_what_is_missing_is_said_in_its_place():
    figure = draw_panels([curves_of(curve("a")), curves_of(missing="no run is finished")])
    first, second = shown(figure)
    assert [text.get_text() for text in second.texts] == ["no run is finished"]
    assert list(second.get_xticks()) == list(second.get_yticks()) == []
    assert len(first.lines) == 1
    assert legend(figure) == ["a"]


def test_nothing_but_what_is_missing():
    figure = draw_panels([BoxPanel("RTE", AXIS, (), missing="no run is finished"), heat_without_runs()])
    assert [axes.texts[0].get_text() for axes in shown(figure)] == ["no run is finished", "none yet"]
    assert figure.legends == []


def heat_without_runs():
    return HeatPanel("Standard", "data seed", "init seed", (), (), (), missing="none yet")


def test_the_caption_is_below():
    figure = draw_panels([curves_of(curve("a"))], caption="Mean over 20 runs.")
    assert figure.get_supxlabel() == "\nMean over 20 runs."  # apart from the name of the axis
    assert shown(figure)[0].get_xlabel() == "step"


def test_solid_lines_are_under_dashed_ones():
    names = ("a", "b", "c")
    (axes,) = shown(draw_panels([curves_of(*(curve(name, band=True) for name in names))]))
    assert [line.get_label() for line in axes.lines] == ["a", "c", "b"]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "--"]


def test_estimates_with_their_intervals():
    figure = draw_panels(HARD["estimates"])
    first, second = shown(figure)
    assert [label.get_text() for label in first.get_yticklabels()][:2] == ["arm 0 on RTE", "arm 1 on RTE"]
    assert {label.get_text() for label in second.get_yticklabels()} == {""}  # the names stand once
    assert [x for x, _ in points(first, "ours")] == [0.0, 1.0, 2.0]
    segments = sorted(
        marks.get_segments()[0][:, 0].tolist() for marks in first.collections if "interval" in marks.get_label()
    )
    assert segments[0] == [-1.0, 1.0]
    assert lines(second, "no difference")[0][0] == [1, 1]
    assert legend(figure) == ["ours", "published"]
