"""The papers' printed numbers, typed a second time from the papers' text, and which of them a run is compared with."""

import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stableft.catalog.tasks import METRIC_TITLES, TASKS
from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import describe_deviations, shipped_recipes
from stableft.config.run_config import CustomTask
from stableft.config.sweep_file import load_sweep, single_run_sweep
from stableft.report.paper_values import (
    PAPERS,
    STATISTICS,
    PublishedValue,
    find_published_by_config,
    find_published_by_name,
    find_published_in_table,
    load_published_low_scores,
    load_published_values,
    load_reference_values,
    with_references,
)

M, Z = PAPERS["M"], PAPERS["Z"]
SMALL = ("rte", "mrpc", "stsb", "cola")
LARGE = ("sst2", "qnli", "qqp", "mnli")
METRICS = {name: task.metric for name, task in TASKS.items()}

# M Table 1: std mean max of RTE, MRPC, CoLA; ? is its star.
M1 = """
Devlin et al. (2019) 4.5 50.9 67.5 3.9 84.0 91.2 25.6 45.6 64.6
Lee et al. (2020) 7.9 65.3 74.4 3.8 87.8 91.8 20.9 51.9 64.0
Ours 2.7? 67.3 71.1 0.8? 90.3 91.7 1.8? 62.1 65.3
"""
# As of arXiv v1: std mean median max.
M1_V1 = """
Devlin et al. (2019) 7.2 52.3 47.3 71.1 5.9 79.0 74.8 89.4 25.6 45.6 59.1 64.6
Lee et al. (2020) 7.9 65.3 69.1 74.4 3.8 87.8 89.5 91.8 20.9 51.9 60.3 64.0
Ours 2.4 70.1 70.0 75.5 0.8 89.6 89.5 91.4 1.0 64.6 64.7 66.8
"""
M4 = """
full train set, 3 epochs: 0.4 95.1 96.0
1k samples, 3 epochs: 17.9 69.8 89.4
1k samples, 71 epochs: 0.9 87.5 89.1
Ours, full train set: 0.6 95.1 96.8
"""
# Z Table 1: of each data set 3 Epochs and Longer; four data sets a line.
Z1 = """
Standard 69.5 ± 2.5 72.3 ± 1.9 90.8 ± 1.3 90.5 ± 1.5 89.0 ± 0.6 89.6 ± 0.3 63.0 ± 1.5 62.4 ± 1.7
Re-init 72.6 ± 1.6 73.1 ± 1.3 91.4 ± 0.8 91.0 ± 0.4 89.4 ± 0.2 89.9 ± 0.1 63.9 ± 1.9 61.9 ± 2.3
Standard 62.5 ± 2.8 65.2 ± 2.1 80.5 ± 3.3 83.8 ± 2.1 84.7 ± 1.4 88.0 ± 0.4 45.9 ± 1.6 48.8 ± 1.4
Re-init 65.6 ± 2.0 65.8 ± 1.7 84.6 ± 1.6 86.0 ± 1.2 87.2 ± 0.4 88.4 ± 0.2 47.6 ± 1.8 48.4 ± 2.1
Standard 89.7 ± 1.5 90.9 ± 0.5 78.6 ± 2.0 81.4 ± 0.9 74.0 ± 2.7 77.4 ± 0.8 52.2 ± 4.2 67.5 ± 1.1
Re-init 90.8 ± 0.4 91.2 ± 0.5 81.9 ± 0.5 82.1 ± 0.3 77.2 ± 0.7 77.6 ± 0.6 66.4 ± 0.6 68.8 ± 0.5
"""
# Z Table 2: Standard, Int. Task, LLRD, Mixout, Pre-trained WD, WD, Re-init, Longer.
Z2 = """
RTE 69.5 ± 2.5 81.8 ± 1.7 69.7 ± 3.2 71.3 ± 1.4 69.6 ± 2.1 69.5 ± 2.5 72.6 ± 1.6 72.3 ± 1.9
MRPC 90.8 ± 1.3 91.8 ± 1.0 91.3 ± 1.1 90.4 ± 1.4 90.8 ± 1.3 90.8 ± 1.3 91.4 ± 0.8 91.0 ± 1.3
STS-B 89.0 ± 0.6 89.2 ± 0.3 89.2 ± 0.4 89.2 ± 0.4 89.0 ± 0.5 89.0 ± 0.6 89.4 ± 0.2 89.6 ± 0.3
CoLA 63.0 ± 1.5 63.9 ± 1.8 63.0 ± 2.5 61.6 ± 1.7 63.4 ± 1.5 63.0 ± 1.5 64.2 ± 1.6 62.4 ± 1.7
"""
METHODS = "zhang intermediate llrd mixout pretrained-decay weight-decay zhang-reinit zhang-longer".split()
# Z Table 4: CoLA, MRPC, RTE, STS-B.
Z4 = """
Mixed precision 60.3 ± 1.5 89.2 ± 1.2 71.8 ± 2.1 90.1 ± 0.7
Full precision 59.9 ± 1.5 88.7 ± 1.4 71.4 ± 2.2 90.1 ± 0.7
"""
# Z Table 5: Dev, Test.
Z5 = """
No bias correction 86.0 ± 0.3 87.0 ± 0.4
Bias correction 85.9 ± 0.3 86.9 ± 0.3
"""
# Z Table 7: Standard and Re-init of RTE, MRPC, STS-B, CoLA.
Z7 = """
xlnet 71.7 ± 12.6 80.1 ± 1.6 92.3 ± 4.3 94.5 ± 0.8 86.8 ± 20.4 91.7 ± 0.3 51.8 ± 22.5 62.0 ± 2.1
roberta 78.2 ± 12.1 83.5 ± 1.4 94.4 ± 0.9 94.8 ± 0.9 91.8 ± 0.3 91.8 ± 0.2 68.4 ± 2.2 67.6 ± 1.5
electra 87.1 ± 1.2 86.1 ± 1.9 95.7 ± 0.8 95.3 ± 0.8 91.8 ± 1.9 92.1 ± 0.5 62.1 ± 20.4 61.3 ± 20.1
bart 84.1 ± 2.0 83.5 ± 1.5 93.5 ± 0.9 93.7 ± 1.2 91.7 ± 0.3 91.8 ± 0.3 65.4 ± 1.9 64.9 ± 2.3
"""


def lines_of(text: str) -> list[str]:
    return text.strip().splitlines()


def pairs_of(line: str) -> list[tuple[float, float]]:
    return [(float(mean), float(std)) for mean, std in re.findall(r"([\d.]+) ± ([\d.]+)", line)]


def table_of(paper: str, location: str, version: str = "iclr2021", split: str | None = None):
    """Returns (arm, task) -> value of one table."""
    return {
        (value.arm, value.task): value
        for value in load_published_values()
        if (value.paper, value.location, value.version) == (paper, location, version) and split in (None, value.split)
    }


def check_means(table: dict, expected: dict, split: str = "test", n: int = 20) -> None:
    assert {key: (value.mean, value.std) for key, value in table.items()} == expected
    assert {(value.split, value.n, value.median, value.min, value.max) for value in table.values()} == {
        (split, n, None, None, None)
    }


@pytest.mark.parametrize(
    ("text", "version", "names"),
    [(M1, "iclr2021", ("std", "mean", "max")), (M1_V1, "arxiv-v1", ("std", "mean", "median", "max"))],
)
def test_table_1_of_mosbach(text, version, names):
    table = table_of(M, "Table 1", version)
    expected, stars = {}, set()
    for line, arm in zip(lines_of(text), ("devlin", "mosbach-mixout", "mosbach"), strict=True):
        numbers = re.findall(r"(?<!\()\b(\d+\.\d)(\??)", line)
        for i, task in enumerate(("rte", "mrpc", "cola")):
            some = numbers[i * len(names) : (i + 1) * len(names)]
            expected[arm, task] = dict.fromkeys(STATISTICS) | {
                name: float(number) for name, (number, _) in zip(names, some, strict=True)
            }
            stars |= {(arm, task)} if any(star for _, star in some) else set()
    assert {key: {name: getattr(value, name) for name in STATISTICS} for key, value in table.items()} == expected
    assert {key for key, value in table.items() if value.starred} == stars
    assert {(value.n, value.split) for value in table.values()} == {(25, "val")}


def test_table_4_of_mosbach():
    table = table_of(M, "Table 4")
    arms = ("devlin", "devlin-1k", "devlin-1k-long", "mosbach")
    for line, arm in zip(lines_of(M4), arms, strict=True):
        value = table.pop((arm, "scitail"))
        assert [value.std, value.mean, value.max] == [float(number) for number in line.split(": ")[1].split()]
        assert (value.n, value.split, value.median, value.starred) == (25, "val", None, False)
    assert not table


def test_table_1_of_zhang():
    expected = {}
    for i, line in enumerate(lines_of(Z1)):
        arm = {"Standard": "zhang", "Re-init": "zhang-reinit"}[line.split()[0]]
        tasks, suffix = LARGE if i >= 4 else SMALL, "-1k" if i >= 2 else ""
        pairs = iter(pairs_of(line))
        for task in tasks:
            expected[f"{arm}{suffix}", task] = next(pairs)
            expected[f"{arm}-longer{suffix}", task] = next(pairs)
        assert not list(pairs)
    assert len(expected) == 12 * 4
    check_means(table_of(Z, "Table 1"), expected)


def test_table_2_of_zhang():
    table = table_of(Z, "Table 2")
    rows = zip(SMALL, lines_of(Z2), strict=True)
    check_means(
        table,
        {(arm, task): pair for task, line in rows for arm, pair in zip(METHODS, pairs_of(line), strict=True)},
    )
    for task in SMALL:  # a no-op in the released code
        decayed, standard = table["weight-decay", task], table["zhang", task]
        assert (decayed.mean, decayed.std) == (standard.mean, standard.std)
        assert any("to the digit" in note for note in decayed.notes)


def test_tables_4_5_and_7_of_zhang():
    rows = zip(("fp16", "fp32"), lines_of(Z4), strict=True)
    tasks = ("cola", "mrpc", "rte", "stsb")
    four = {(arm, task): pair for arm, line in rows for task, pair in zip(tasks, pairs_of(line), strict=True)}
    check_means(table_of(Z, "Table 4"), four)
    rows = dict(zip(("zhang-bertadam", "zhang"), map(pairs_of, lines_of(Z5)), strict=True))
    for i, split in enumerate(("val", "test")):
        expected = {(arm, "mnli"): pairs[i] for arm, pairs in rows.items()}
        check_means(table_of(Z, "Table 5", split=split), expected, split, n=3)
    seven = {}
    for line in lines_of(Z7):
        pairs = iter(pairs_of(line))
        for task in SMALL:
            seven[f"zhang-{line.split()[0]}", task] = next(pairs)
            seven[f"zhang-{line.split()[0]}-reinit", task] = next(pairs)
    assert len(seven) == 4 * 4 * 2
    check_means(table_of(Z, "Table 7"), seven)


def test_these_tables_are_all_there_is():
    values = load_published_values()
    assert values is load_published_values()
    assert len(values) == 9 + 9 + 4 + 48 + 32 + 32 + 2 * 2 + 8
    printed = [getattr(value, name) for value in values for name in STATISTICS if getattr(value, name) is not None]
    assert len(printed) == 27 + 36 + 12 + 2 * (48 + 32 + 32 + 4 + 8)
    others = {(value.version, value.task, value.metric) for value in values if value.metric != METRICS[value.task]}
    assert others == {("arxiv-v1", "mrpc", "accuracy_f1")}
    assert {value.metric for value in values} <= set(METRIC_TITLES)
    keys = [(value.place, value.arm, value.task, value.split) for value in values]
    assert len(set(keys)) == len(keys) == len(set(values))  # hashable too
    assert list(dict.fromkeys((value.paper[0], value.location) for value in values)) == [
        ("M", "Table 1"),
        ("M", "Table 4"),
        *(("Z", f"Table {number}") for number in (1, 2, 7, 5, 4)),
    ]


def test_the_papers_contradictions_stand_beside_the_values():
    """A note that quotes another table quotes it rightly."""
    quoted = 0
    for value in load_published_values():
        for note in value.notes:
            quote = re.search(r"^(Table \d).* prints ([\d.]+) ± ([\d.]+)", note)
            if quote:
                quoted += 1
                arm = "fp16" if quote[1] == "Table 4" else value.recipe
                other = table_of(value.paper, quote[1])[arm, value.task]
                assert (other.mean, other.std) == (float(quote[2]), float(quote[3]))
                assert (other.mean, other.std) != (value.mean, value.std)
    assert quoted == 4 + 4 + 2 + 2
    star = next(note for note in table_of(M, "Table 1")["mosbach", "rte"].notes if "star" in note)
    assert f"p = {2 * scipy_stats.f.sf((4.5 / 2.7) ** 2, 24, 24):.3f}" in star


def test_the_column_of_mrpc_in_arxiv_v1_is_the_mean_of_accuracy_and_f1():
    yes, rows = 279, 408  # GLUE's development set of MRPC: always predicting yes
    accuracy, f1 = yes / rows, 2 * yes / (rows + yes)
    value = table_of(M, "Table 1", "arxiv-v1")["devlin", "mrpc"]
    assert (value.metric, value.median) == ("accuracy_f1", round(50 * (accuracy + f1), 1))
    assert any(f"(F1: {100 * f1:.1f})" in note for note in value.notes)
    assert table_of(M, "Table 1")["devlin", "mrpc"].metric == "f1"


def test_the_checkpoint_that_a_table_scores():
    checkpoints = {(v.paper[0], v.location, v.version, v.checkpoint, v.own_checkpoint) for v in load_published_values()}
    assert checkpoints == {
        ("M", "Table 1", "iclr2021", "last", False),
        ("M", "Table 1", "arxiv-v1", "best", True),
        ("M", "Table 4", "iclr2021", "last", False),
        *(("Z", f"Table {number}", "iclr2021", "best", False) for number in (1, 2, 4, 5, 7)),
    }


NVIDIA = [85.78, 85.54, 84.56, 86.27, 84.07, 86.76, 87.01, 85.29, 88.24, 86.52]  # seeds 0-9 of its README


def test_another_partys_values_follow_the_papers_and_are_never_among_them():
    ten, hundred = load_reference_values()
    assert (ten.n, ten.min, ten.max) == (10, min(NVIDIA), max(NVIDIA))
    assert (ten.mean, ten.median) == pytest.approx((np.mean(NVIDIA), np.median(NVIDIA)), abs=0.005)
    assert ten.std == pytest.approx(np.std(NVIDIA, ddof=1), abs=0.001)
    assert (hundred.n, hundred.mean, hundred.std, hundred.max) == (100, 82.56, 6.01, 88.73)
    assert all(value.another_party and value.metric == "accuracy" for value in (ten, hundred))
    assert not any(value.another_party for value in load_published_values())
    assert "another party" in ten.place
    of_devlin = with_references(tuple(printed("devlin", "mrpc")))
    assert of_devlin == (*printed("devlin", "mrpc"), ten, hundred)
    for recipe, task in (("devlin", "rte"), ("mosbach", "mrpc"), ("zhang", "mrpc"), ("devlin", "qnli")):
        assert with_references(tuple(printed(recipe, task))) == tuple(printed(recipe, task))


def test_fractions_are_of_percent():
    value = table_of(M, "Table 1")["mosbach", "rte"]
    assert (value.fraction("mean"), value.fraction("median")) == (0.673, None)
    assert value.place == "Mosbach et al. 2021, Table 1 (iclr2021)"


SWEEPS = {
    (M, "Table 1"): "mosbach/table1",
    (M, "Table 4"): "mosbach/table4",
    (Z, "Table 1"): "zhang/table1",
    (Z, "Table 2"): "zhang/table2",
    (Z, "Table 4"): "zhang/table4",
    (Z, "Table 5"): "zhang/table5",
    (Z, "Table 7"): "zhang/table6-7",
}


@pytest.mark.parametrize(("table", "sweep"), SWEEPS.items())
def test_every_value_is_of_an_arm_of_its_sweep(table, sweep):
    """The arm's recipe, settings, metric, split and number of seeds are those of the sweep that makes the table."""
    points = load_sweep(sweep, LocalPaths()).points
    arms = {(point.arm.name, point.task.value): point for point in points}
    values = [value for value in load_published_values() if (value.paper, value.location) == table]
    assert {(value.arm, value.task) for value in values} == set(arms)
    departures = []
    for value in values:
        point = arms[value.arm, value.task]
        run = point.runs[0]
        assert (run.recipe, len(point.runs)) == (value.recipe, value.n)
        assert value.split in (run.config.reported_split, "val")
        assert run.config.task.metric == value.metric or value.version == "arxiv-v1"
        assert run.report == value.checkpoint or value.own_checkpoint
        if not point.grid:  # a search has its choices beyond the recipe
            departures += describe_deviations(run.config, value.recipe, value.set)
    assert not departures


def test_an_artefact_asks_for_its_arms():
    values = load_published_values()
    both = find_published_in_table(values, M, "Table 1", "mosbach", "rte")
    assert [value.version for value in both] == ["iclr2021", "arxiv-v1"]
    (search,) = find_published_in_table(values, Z, "Table 2", "llrd*", "rte")
    assert search.mean == 69.7
    assert [value.split for value in find_published_in_table(values, Z, "Table 5", "zhang", "mnli")] == ["val", "test"]
    assert find_published_in_table(values, Z, "Table 5", "zhang", "rte") == ()


def run_of(recipe: str, task: str, *sets: str):
    return single_run_sweep(recipe, task, None, 0, LocalPaths(), sets).runs[0].config


def printed(recipe: str, task: str, *sets: str) -> list[PublishedValue]:
    return list(find_published_by_config(load_published_values(), run_of(recipe, task, *sets), recipe))


@pytest.mark.parametrize(
    ("recipe", "task", "sets", "location", "arm"),
    [
        ("zhang", "rte", (), "Table 1", "zhang"),  # not Table 2 or 4, of the same runs
        ("zhang", "rte", ("data.train_rows=1000",), "Table 1", "zhang-1k"),
        ("zhang", "rte", ("data.train_rows=500",), "Table 1", "zhang-1k"),  # nearer than the full data
        ("zhang", "rte", ("precision=fp32",), "Table 4", "fp32"),
        ("zhang", "rte", ("precision=bf16",), "Table 1", "zhang"),
        ("zhang", "sst2", (), "Table 1", "zhang-1k"),  # there is no other
        ("zhang", "mnli", (), "Table 5", "zhang"),
        ("zhang", "mnli", ("data.train_rows=1000",), "Table 1", "zhang-1k"),
        ("zhang-xlnet", "rte", (), "Table 7", "zhang-xlnet"),
        ("zhang-xlnet", "rte", ("reinit.blocks=3",), "Table 7", "zhang-xlnet-reinit"),
        ("llrd", "cola", ("optimizer.lr=1.0e-4",), "Table 2", "llrd"),
        ("devlin", "scitail", ("data.train_rows=1000",), "Table 4", "devlin-1k"),
        ("devlin", "scitail", ("data.train_rows=1000", "schedule.length={epochs: 71}"), "Table 4", "devlin-1k-long"),
        ("mosbach", "cola", ("optimizer.lr=1.0e-5",), "Table 1", "mosbach"),
    ],
)
def test_a_run_is_compared_with_the_nearest_setting(recipe, task, sets, location, arm):
    found = printed(recipe, task, *sets)
    assert found
    assert {(value.location, value.arm, value.task) for value in found} == {(location, arm, task)}


def test_a_run_is_compared_with_its_own_split():
    assert [(value.split, value.mean) for value in printed("zhang", "mnli")] == [("test", 86.9)]
    assert [value.split for value in printed("zhang", "mnli", "data.split=dev")] == ["val"]
    elsewhere = printed("mosbach", "rte", "data.split=heldout")  # printed of one split only
    assert [(value.split, value.version) for value in elsewhere] == [("val", "iclr2021"), ("val", "arxiv-v1")]


def test_what_is_not_printed_is_not_compared():
    assert printed("zhang-bertadam", "rte") == []
    assert printed("devlin", "qnli") == []
    config = run_of("mosbach", "rte")
    assert find_published_by_config(load_published_values(), config, "my-own") == ()
    own = CustomTask(
        format="csv",
        train="0" * 64,
        validation="1" * 64,
        text=("a",),
        label="b",
        labels=("x", "y"),
        metrics=("accuracy",),
    )
    mine = config.model_copy(update={"data": config.data.model_copy(update={"own": own})})
    assert find_published_by_config(load_published_values(), mine, "mosbach") == ()


def test_a_run_without_a_config_goes_by_its_arm():
    values = load_published_values()
    assert [value.location for value in find_published_by_name(values, "zhang", "rte")] == ["Table 1"]
    assert [value.location for value in find_published_by_name(values, "fp32", "rte")] == ["Table 4"]
    assert [value.version for value in find_published_by_name(values, "mosbach", "rte")] == ["iclr2021", "arxiv-v1"]
    assert find_published_by_name(values, "mosbach", "qnli") == ()


def test_what_the_text_says_of_low_scores():
    """Z sec. 4, of 50 seeds without bias correction: "48% of fine-tuning runs have an accuracy less than 55%"."""
    (value,) = load_published_low_scores()
    assert (value.place, value.recipe, value.task) == (f"{Z}, sec. 4 (iclr2021)", "zhang-bertadam", "rte")
    assert value.metric == "accuracy"
    assert (value.n, value.share, value.limit) == (50, 0.48, 0.55)


def test_recipes_of_printed_values_are_shipped():
    assert {value.recipe for value in load_published_values()} <= set(shipped_recipes())


def test_own_settings_of_an_experiment_are_no_departure():
    run = run_of("zhang", "rte", "data.train_rows=1000", "optimizer.lr=1.0e-5")
    assert describe_deviations(run, "zhang", {"data.train_rows": 1000}) == ["optimizer.lr 1e-05, not 2e-05"]
    assert len(describe_deviations(run, "zhang")) == 3
    missed = describe_deviations(run_of("zhang", "rte"), "zhang", {"schedule.length": {"epochs": 71}})
    assert missed == ["schedule.length 3 epochs, not 71 epochs"]
