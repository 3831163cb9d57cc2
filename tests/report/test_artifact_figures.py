"""Every figure of the papers from made-up records: what its panels draw beside the records, by config values."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.artifact_records import (
    FEW,
    METRIC,
    MORE,
    STEPS,
    TEST_BASELINE,
    VAL_BASELINE,
    M,
    Z,
    has_settings,
    planned,
    pool,
    report,
    scores,
    where,
)
from support.reports import values_of

from stableft.records.run_record import RunRecord
from stableft.report.build import build_report
from stableft.report.forms.write import render_report
from stableft.report.runs import collect_runs

TITLES = {"rte": "RTE", "mrpc": "MRPC", "stsb": "STS-B", "cola": "CoLA"}
LARGE = {"sst2": "SST-2", "qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI"}
OURS = M | {"correction": True, "length": "20 epochs"}
THOUSAND = {"rows": 1000}
OPTIMIZERS = {"No Correction": Z | {"correction": False}, "Correction": Z}
Boxes = dict[str, dict[str, Any]]  # label -> settings


def panels_of(name: str) -> dict[str, dict[str, Any]]:
    """The panels of a figure by title, each of which is there once."""
    panels = values_of(report(name))["panels"]
    found = {panel["title"]: panel for panel in panels}
    assert len(found) == len(panels)
    return found


def words(text: str) -> str:
    return " ".join(text.split())


# --- boxes


def rate_and_correction(rates: Sequence[str], **more) -> Boxes:
    """The boxes of M Fig. 5: a label is a learning rate and whether there is bias correction (BC)."""
    return {
        f"{rate}, {'BC' if correction else 'no BC'}": M | {"lr": float(rate), "correction": correction} | more
        for rate in rates
        for correction in (False, True)
    }


def ablation() -> Boxes:
    """The boxes of M Fig. 9."""
    return {
        f"{rate}, {epochs} epochs{', BC' if correction else ''}": M
        | {"lr": float(rate), "correction": correction, "length": f"{epochs} epochs"}
        for epochs in (3, 10, 20)
        for correction in (False, True)
        for rate in ("1e-5", "2e-5", "3e-5")
    }


def blocks(**more) -> Boxes:
    """The boxes of Z Figs. 5 and 13: how many of the top blocks are drawn anew, or the pooler alone, or nothing."""
    found = {"Standard": Z | more, "pooler": Z | {"pooler": True} | more}
    return found | {str(n): Z | {"pooler": True, "blocks": n} | more for n in range(1, 7)}


TABLE1 = {"Devlin et al.": M, "Lee et al.": M | {"mixout": 0.9}, "Ours": OURS}
FEWER = {"full data": M, "1,000 rows": M | THOUSAND}
LONG = {"mrpc": "690 steps", "cola": "1602 steps", "qnli": "19641 steps"}
RATES = ("1e-5", "2e-5", "3e-5")
# Figure -> title of a panel -> task, boxes, split, checkpoint of a box.
BOX_FIGURES: dict[str, dict[str, tuple[str, Boxes, str]]] = {
    "mosbach-figure1": {TITLES[task]: (task, TABLE1, "val") for task in ("rte", "mrpc", "cola")},
    "mosbach-figure3": {
        title: (task, FEWER | {"1,000 rows, as many steps": M | THOUSAND | {"length": LONG[task]}}, "val")
        for task, title in (("mrpc", "MRPC"), ("cola", "CoLA"), ("qnli", "QNLI"))
    },
    "mosbach-figure5": {
        "(a) BERT": ("rte", rate_and_correction((*RATES, "5e-5")), "val"),
        "(b) RoBERTa": ("rte", rate_and_correction(RATES, model="roberta-large", decay=0.1), "val"),
        "(c) ALBERT": ("rte", rate_and_correction(RATES, model="albert-large-v2", decay=0.0), "val"),
    },
    "mosbach-figure9": {"RTE": ("rte", ablation(), "val")},
    "zhang-figure2": {title: (task, OPTIMIZERS, "test") for task, title in TITLES.items()},
    "zhang-figure5": {TITLES[task]: (task, blocks(), "val") for task in ("rte", "mrpc")},
    "zhang-figure13": {TITLES[task]: (task, blocks(), "val") for task in ("stsb", "cola")}
    | {f"{title} (1k)": (task, blocks(rows=1000), "val") for task, title in (TITLES | LARGE).items()},
}
PLACES = [(name, title) for name, panels in BOX_FIGURES.items() for title in panels]


def checkpoint_of(name: str) -> str:
    """M reports the last checkpoint, Z the best one."""
    return "best" if name.startswith("zhang") else "last"


@pytest.mark.parametrize("name", BOX_FIGURES)
def test_a_box_figure_has_a_panel_for_each_model_or_data_set(name):
    assert set(panels_of(name)) == set(BOX_FIGURES[name])


@pytest.mark.parametrize(("name", "title"), PLACES)
def test_every_box_has_the_scores_of_the_runs_with_its_settings(name, title):
    task, boxes, split = BOX_FIGURES[name][title]
    panel = panels_of(name)[title]
    assert [box["label"] for box in panel["boxes"]] == list(boxes)
    for box in panel["boxes"]:
        records = where(boxes[box["label"]], task=task)
        values = 100 * scores(records, checkpoint_of(name), split)
        order = np.argsort(values, kind="stable")
        finite = [i for i in order if not math.isnan(values[i])]
        assert len(records) >= FEW - 1
        assert box["scores"] == pytest.approx([values[i] for i in finite], abs=1e-9)
        assert box["failed"] == [records[i].failed for i in finite]
        assert (box["n"], box["n_nan"]) == (len(values), len(values) - len(finite))
        assert box["n_failed"] == f"{sum(bool(record.failed) for record in records)}/{len(records)}"
        baselines = VAL_BASELINE if split == "val" else TEST_BASELINE
        assert box["baseline"] == pytest.approx(100 * baselines[METRIC[task]])
    assert ("validation split" if split == "val" else "test split") in panel["ylabel"]


def test_the_made_up_boxes_have_failed_runs_and_nan():
    boxes = [box for name in BOX_FIGURES for panel in panels_of(name).values() for box in panel["boxes"]]
    assert any(any(box["failed"]) for box in boxes)
    assert any(box["n_nan"] for box in boxes)
    assert len({tuple(box["scores"]) for box in boxes}) >= 150


# --- curves

Line = dict[int, float]  # step -> value


def line(record: RunRecord, of: str) -> Line:
    metric = METRIC[record.config.data.task]
    if of == "train_loss":
        return {point.step: point.train_loss for point in record.evals if point.train_loss is not None}
    return {point.step: 100 * point.val[metric] for point in record.evals}


def check_band(curve: dict[str, Any], records: Sequence[RunRecord], of: str, band: str) -> None:
    """Mean and band at every step that at least half of the runs have, each until its first NaN."""
    lines = [line(record, of) for record in records]
    ends = [min((s for s, value in values.items() if math.isnan(value)), default=math.inf) for values in lines]
    lines = [{s: v for s, v in values.items() if s < end} for values, end in zip(lines, ends, strict=True)]
    steps = [s for s in STEPS if 2 * sum(s in values for values in lines) >= len(lines)]
    columns = [np.array([values[step] for values in lines if step in values]) for step in steps]
    means = [column.mean() for column in columns]
    if band == "range":
        low, high = ([function(column) for column in columns] for function in (np.min, np.max))
    else:
        deviations = [np.std(column, ddof=1) for column in columns]
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
    assert curve["n"] == len(records)
    assert curve["x"] == steps
    for found, expected in ((curve["y"], means), (curve["low"], low), (curve["high"], high)):
        found = [math.nan if value is None else value for value in found]
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def first(settings: dict[str, Any], failed: bool, n: int = 10, seeds=None) -> list[RunRecord]:
    """The first n failed or successful runs by seed."""
    found = [record for record in where(settings, task="rte", seeds=seeds) if record.failed is failed]
    return sorted(found, key=lambda record: record.config.seeds.init)[:n]


FIRST_TEN = {
    ("mosbach-figure2", "(c) training loss, 10 failed runs"): (M, True, "train_loss"),
    ("mosbach-figure2", "(c) development score, 10 failed runs"): (M, True, "val"),
    ("mosbach-figure14", "(a) development score, 10 successful runs"): (OURS, False, "val"),
    ("mosbach-figure14", "(a) training loss, 10 successful runs"): (OURS, False, "train_loss"),
    ("mosbach-figure14", "(b) development score, 10 failed runs"): (M, True, "val"),
    ("mosbach-figure14", "(b) training loss, 10 failed runs"): (M, True, "train_loss"),
}


@pytest.mark.parametrize(("name", "title"), FIRST_TEN)
def test_mean_and_deviation_of_exactly_the_first_ten_failed_or_successful_runs(name, title):
    settings, failed, of = FIRST_TEN[name, title]
    (curve,) = panels_of(name)[title]["curves"]
    chosen = first(settings, failed)
    assert len(chosen) == 10 < sum(record.failed is failed for record in where(settings, task="rte"))
    check_band(curve, chosen, of, "std")
    kind = "failed" if failed else "successful"
    assert any(f"the first 10 {kind} runs by seed" in note for note in panels_of(name)[title]["notes"])


def test_fewer_than_ten_runs_of_a_kind_are_stated():
    artifact, runs = planned("mosbach-figure14")
    failed = first(M, True, 4)
    fine = [record for record in where(M, task="rte") if not record.failed]
    made = build_report(
        collect_runs(artifact, runs, [*reversed(failed), *fine, *where(OURS, task="rte", seeds=range(1, 4))])
    )
    panels = {panel["title"]: panel for panel in values_of(made)["panels"]}
    check_band(panels["(b) training loss, 10 failed runs"]["curves"][0], failed, "train_loss", "std")
    text = words(render_report(made))
    assert "devlin: 4 failed runs, where the paper shows 10." in text
    assert "mosbach: 3 successful runs, where the paper shows 10." in text


def test_mosbach_figure8a_draws_every_one_of_its_runs():
    panel = panels_of("mosbach-figure8")["(a) 10 runs"]
    chosen = first(OURS, False, seeds=range(1, 11))
    assert len(panel["curves"]) == len(chosen) >= 8
    for curve, record in zip(panel["curves"], chosen, strict=True):
        expected = line(record, "val")
        assert curve["x"] == list(expected)
        assert curve["y"] == pytest.approx(list(expected.values()), abs=1e-9)
        assert (curve["thin"], curve["n"]) == (True, 1)


RE_INIT = {"Standard": Z, "Re-init 5": Z | {"pooler": True, "blocks": 5}}
LOSSES = {("zhang-figure3", "RTE"): ("rte", OPTIMIZERS)}
LOSSES |= {("zhang-figure6", TITLES[task]): (task, RE_INIT) for task in ("rte", "mrpc")}
LOSSES |= {("zhang-figure11", title): (task, OPTIMIZERS) for task, title in TITLES.items()}


@pytest.mark.parametrize(("name", "title"), LOSSES)
def test_mean_and_range_of_the_training_loss_of_every_finished_run(name, title):
    task, curves = LOSSES[name, title]
    panel = panels_of(name)[title]
    assert [curve["label"] for curve in panel["curves"]] == list(curves)
    for curve in panel["curves"]:
        check_band(curve, where(curves[curve["label"]], task=task), "train_loss", "range")


def test_the_curve_figures_have_no_other_panels():
    for name in ("zhang-figure3", "zhang-figure6", "zhang-figure11"):
        assert set(panels_of(name)) == {title for figure, title in LOSSES if figure == name}


LENGTHS = {("zhang-figure8", f"{title} (1k)"): task for task, title in TITLES.items()}
LENGTHS |= {("zhang-figure14", f"{title} (1k)"): task for task, title in LARGE.items()}
METHODS = {"Standard": {}, "Re-init 5": {"pooler": True, "blocks": 5}}
SST2_METHODS = {"Standard": {}, "Re-init 2": {"pooler": True, "blocks": 2}}  # Fig. 14's legend


@pytest.mark.parametrize(("name", "title"), LENGTHS)
def test_mean_and_range_of_the_validation_score_over_the_number_of_steps(name, title):
    panel = panels_of(name)[title]
    methods = SST2_METHODS if LENGTHS[name, title] == "sst2" else METHODS
    assert [curve["label"] for curve in panel["curves"]] == list(methods)
    for curve in panel["curves"]:
        settings = Z | THOUSAND | methods[curve["label"]]
        assert curve["x"] == [96, 200, 400, 800, 1600, 3200]  # three epochs of 1,000 rows in batches of 32 first
        lengths = ["3 epochs", *(f"{steps:.0f} steps" for steps in curve["x"][1:])]
        found = [where(settings, task=LENGTHS[name, title], length=length, seeds=range(8)) for length in lengths]
        values = [100 * scores(records, "best", "val") for records in found]
        for key, function in (("y", np.mean), ("low", np.min), ("high", np.max)):
            shown = [math.nan if value is None else value for value in curve[key]]
            assert shown == pytest.approx([function(v) for v in values], abs=1e-9, nan_ok=True)
        assert curve["n"] == min(map(len, values)) == FEW
        nan = [steps for steps, v in zip(curve["x"], values, strict=True) if np.isnan(v).any()]
        stated = [note for note in panel["notes"] if curve["label"] in note and "are NaN" in note]
        assert len(stated) == len(nan)
    assert panel["xlog"]


def test_mosbach_figure8b_is_the_score_over_the_last_training_loss_of_every_run_of_figure9():
    panel = panels_of("mosbach-figure8")["(b) every run of Figure 9"]
    records = [record for settings in ablation().values() for record in where(settings, task="rte")]
    for kind, failed in (("successful", False), ("failed", True)):
        (group,) = [group for group in panel["groups"] if group["label"] == kind]
        chosen = [record for record in records if record.failed is failed]
        expected = sorted(
            (point.train_loss, 100 * score)
            for point, score in zip((r.evals[-1] for r in chosen), scores(chosen, "last", "val"), strict=True)
        )
        shown = sorted(zip(group["x"], group["y"], strict=True))
        assert np.array(shown) == pytest.approx(np.array(expected))
    assert sum(len(group["x"]) for group in panel["groups"]) == len(records)
    assert [found["value"] for found in panel["horizontal"]] == pytest.approx([53.0])


# --- random trials

TRIALS = {("zhang-figure4", title): (task, "test") for task, title in TITLES.items()}
TRIALS |= {("zhang-figure12", title): (task, "val") for task, title in TITLES.items()}


def every_draw(val: np.ndarray, test: np.ndarray, n: int) -> np.ndarray:
    """What the run with the best validation score has, of each of the N^n draws of n runs."""
    drawn = np.array(list(itertools.product(range(len(val)), repeat=n)))
    return test[drawn[np.arange(len(drawn)), val[drawn].argmax(axis=1)]]


@pytest.mark.parametrize(("name", "title"), TRIALS)
def test_expected_performance_of_random_trials_is_that_of_every_draw(name, title):
    task, split = TRIALS[name, title]
    panel = panels_of(name)[title]
    shown = {curve["label"]: curve for curve in panel["curves"]}
    for label, settings in OPTIMIZERS.items():
        records = where(settings, task=task)
        val, of = 100 * scores(records, "best", "val"), 100 * scores(records, "best", split)
        if np.isnan(val).any():  # the run ranks last, with the baseline's score
            baseline = 100 * (TEST_BASELINE if split == "test" else VAL_BASELINE)[METRIC[task]]
            val, of = np.where(np.isnan(val), -np.inf, val), np.where(np.isnan(val), baseline, of)
            (note,) = (note for note in panel["notes"] if "NaN" in note)
            assert note.startswith(f"{label}: the scores of 1 of 12 runs are NaN.")
            assert f"the baseline, {baseline:.1f}; its probability is 0.083 for 1 trial" in note
        curve = shown[label]
        assert curve["x"] == list(range(1, len(records) + 1))
        assert curve["n"] == len(records) in (MORE - 1, MORE)
        for n in (1, 5):
            expected = every_draw(val, of, n)
            mean, std = curve["y"][n - 1], curve["high"][n - 1] - curve["y"][n - 1]
            assert curve["y"][n - 1] - curve["low"][n - 1] == pytest.approx(std, abs=1e-9)
            assert (mean, std) == pytest.approx((expected.mean(), expected.std()))
    assert set(shown) == set(OPTIMIZERS)


# --- maps of two seeds

SEEDS = range(10)


def grid_of(settings: dict[str, Any]) -> np.ndarray:
    """Validation accuracies [init, data] of RTE in percent, NaN where there is no record."""
    found = np.full((10, 10), math.nan)
    for record in pool():
        init, data = record.config.seeds.init, record.config.seeds.data
        if has_settings(record.config, settings | {"task": "rte"}) and max(init, data) < 10:
            found[init, data] = 100 * record.best.val["accuracy"]
    return found


@pytest.mark.parametrize("title", RE_INIT)
def test_zhang_figure9_has_every_pair_of_seeds_and_their_least_mean_and_most(title):
    panel = panels_of("zhang-figure9")[title]
    grid = grid_of(RE_INIT[title])
    assert np.isnan(grid).sum() == 2
    labels = [*map(str, SEEDS), "Min", "Mean", "Max"]
    assert (panel["rows"], panel["columns"]) == (labels, labels)
    shown = np.array(panel["values"], dtype=float)
    assert shown[:10, :10] == pytest.approx(grid, nan_ok=True)
    for i, function in enumerate((np.nanmin, np.nanmean, np.nanmax), 10):
        assert shown[:10, i] == pytest.approx(function(grid, axis=1))
        assert shown[i, :10] == pytest.approx(function(grid, axis=0))
        assert shown[i, i] == pytest.approx(function(grid))
    assert (panel["ylabel"], panel["xlabel"]) == ("seed of initialisation", "seed of data order and dropout")
    assert panel["notes"][0] == "2 of 100 pairs of seeds have no score (hatched in the figure)."


@pytest.mark.parametrize("title", RE_INIT)
def test_zhang_figure10_has_the_deviation_with_one_seed_held_fixed(title):
    panel = panels_of("zhang-figure10")[title]
    grid = grid_of(RE_INIT[title])
    shown = np.array(panel["values"], dtype=float)
    assert panel["rows"] == ["initialisation fixed", "data order fixed"]
    assert panel["columns"] == [*map(str, SEEDS), "Avg."]
    for row, axis in ((0, 1), (1, 0)):
        expected = np.nanstd(grid, axis=axis, ddof=1)
        assert shown[row, :10] == pytest.approx(expected)
        assert shown[row, 10] == pytest.approx(expected.mean())


def test_zhang_figure10_says_whose_deviation_it_is_where_a_seed_of_one_kind_is_missing():
    artifact, runs = planned("zhang-figure10")
    made = build_report(collect_runs(artifact, runs, [record for record in pool() if record.config.seeds.init != 4]))
    panel = next(panel for panel in values_of(made)["panels"] if panel["title"] == "Standard")
    grid = np.delete(grid_of(RE_INIT["Standard"]), 4, axis=0)
    fixed = dict(zip(panel["columns"], panel["values"][0], strict=True))
    by_seed = dict(zip([seed for seed in SEEDS if seed != 4], np.nanstd(grid, axis=1, ddof=1), strict=True))
    assert {seed: fixed[str(seed)] for seed in by_seed} == pytest.approx(by_seed)


# --- the bias of Adam's update

MARKED = {"RTE": 234, "MRPC": 345, "STS-B": 540, "CoLA": 804, "MNLI": 36816}


@pytest.mark.parametrize(("name", "inverse"), [("mosbach-figure6", True), ("zhang-figure1", False)])
def test_the_bias_of_the_update_by_the_formula(name, inverse):
    (panel,) = values_of(report(name))["panels"]
    (curve,) = panel["curves"]
    steps = np.array(curve["x"])
    bias = (1 - 0.9**steps) / np.sqrt(1 - 0.999**steps)
    assert curve["y"] == pytest.approx(1 / bias if inverse else bias, rel=1e-9)
    assert (steps[0], steps[-1]) == (1, 1_000_000)
    assert (panel["xlog"], len(set(curve["x"]))) == (True, len(curve["x"]))
    by_hand = {1: 3.1622777, 10: 6.5282186, 100: 3.2411955, 234: 2.1862}
    for step, value in by_hand.items():
        i = int(np.abs(steps - step).argmin())
        at = (1 - 0.9**step) / math.sqrt(1 - 0.999**step)
        assert at == pytest.approx(value, rel=2e-3)
        assert (1 / curve["y"][i] if inverse else curve["y"][i]) == pytest.approx(at, rel=0.05)


def test_zhang_figure1_marks_three_epochs_of_each_data_set():
    (panel,) = values_of(report("zhang-figure1"))["panels"]
    assert {mark["label"]: mark["value"] for mark in panel["vertical"]} == MARKED
    for label, steps in MARKED.items():
        bias = (1 - 0.9**steps) / math.sqrt(1 - 0.999**steps)
        assert f"{label}: {steps:,} steps, where the bias is {bias:.2f}." in panel["notes"]


# --- colours


@pytest.mark.parametrize("name", ["zhang-figure3", "zhang-figure12"])
def test_an_arm_without_runs_changes_no_other_arms_colour(name):
    def colours(records):
        artifact, runs = planned(name)
        (draw,) = build_report(collect_runs(artifact, runs, records)).figures.values()
        return {line.get_label(): line.get_color() for axes in draw().axes for line in axes.lines}

    of_rte = {label: where(settings, task="rte") for label, settings in OPTIMIZERS.items()}
    every = colours([record for records in of_rte.values() for record in records])
    assert len(set(every.values())) == len(every) == 2
    for label, records in of_rte.items():
        assert colours(records) == {label: every[label]}
