"""Every shipped sweep loads, has as many runs as it says, and shares those that another has too."""

import functools
import re

import pytest
from support.paths import ROOT

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.models.compatibility import check_model_fits_config
from stableft.training.schedule import steps_per_epoch, total_steps

CONFIGS = ROOT / "configs"
SWEEPS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("recipes", "pretrain"))

# How many different runs the papers' experiments have; for what they leave open, our assumption.
COUNTS = {
    "mosbach/ablation-rte": 3 * 3 * 2 * 25,  # rates, lengths, correction
    "mosbach/bert-base": 3 * 25,
    "mosbach/figure14": 2 * 25,
    "mosbach/figure2": 2 * 25,
    "mosbach/figure3": 3 * 3 * 25,  # tasks; full, 1k, 1k for as long
    "mosbach/figure5": (3 * 3 + 1) * 2 * 25,  # models, rates; BERT at 5e-5; correction
    "mosbach/figure8a": 10,
    "mosbach/gradients": 3 * 2 * 25,
    "mosbach/perplexity": 2 * 25,
    "mosbach/surfaces": 3 * 2 * 25,
    "mosbach/table1": 3 * 3 * 25,
    "mosbach/table4": 4 * 25,
    "zhang/bias-correction": 4 * 2 * 50,
    "zhang/drift": 4 * 5 * 5,
    "zhang/longer-search": (4 + 4 + 3 + 2 + 8 * 5 + 12) * 2 * 8,
    "zhang/reinit-layers": 12 * 8 * 20,
    "zhang/seeds-grid": 10 * 10 * 2,
    "zhang/table1": 12 * 4 * 20,
    "zhang/table2": (6 + 5 + 4 + 4 + 1 + 3) * 4 * 20,  # searches, the intermediate task, columns of Table 1
    "zhang/table4": 2 * 4 * 20,
    "zhang/table5": 2 * 3,
    "zhang/table6-7": 4 * 2 * 4 * 20,
}
LARGE = ("sst2", "qnli", "qqp", "mnli")


@functools.cache
def named_ids(sweep: str) -> list[tuple[str, str]]:
    return [(run.arm, run.run_id) for run in load_sweep(sweep, LocalPaths()).runs]


def ids(*sweeps: str, arms: tuple[str, ...] = ()) -> set[str]:
    """Returns the run ids of shipped sweeps, of all their arms or those of these names."""
    return {run_id for sweep in sweeps for arm, run_id in named_ids(sweep) if not arms or arm in arms}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_sweep_expands_to_the_count_in_its_first_comment(path):
    first = path.read_text().splitlines()[0]
    stated = re.search(r"(\d[\d,]*) runs", first)
    assert first.startswith(f"# stableft sweep configs/{path.relative_to(CONFIGS)} ")
    assert stated
    runs = load_sweep(path, LocalPaths()).runs
    assert len(runs) == len({run.run_id for run in runs}) == int(stated[1].replace(",", ""))


def test_the_papers_experiments_have_as_many_runs_as_they_say():
    papers = [path for path in SWEEPS if path.parent.name in ("mosbach", "zhang")]
    names = [str(path.relative_to(CONFIGS).with_suffix("")) for path in papers]
    assert {name: len(ids(name)) for name in names} == COUNTS
    assert all("      feeds " in path.read_text().splitlines()[0] for path in papers)


# Positions and blocks of the papers' checkpoints, from their config.json; BART's blocks are those of its decoder.
SIZES = {
    "bert-large-uncased": (512, 24),
    "bert-base-uncased": (512, 12),
    "roberta-large": (514, 24),
    "albert-large-v2": (512, 24),
    "xlnet-large-cased": (-1, 24),
    "google/electra-large-discriminator": (512, 24),
    "facebook/bart-large": (1024, 12),
}


@pytest.mark.parametrize("name", [*COUNTS, *LARGE, "rte", "mrpc", "cola", "stsb", "scitail"])
def test_no_sweep_wants_what_its_models_cannot_do(name):
    families = {spec.example: spec for spec in BACKBONES.values()} | {"bert-base-uncased": BACKBONES["bert"]}
    for run in load_sweep(name, LocalPaths(), seeds="1").runs:
        model = run.config.model.name
        check_model_fits_config(run.config, families[model], *SIZES[model])


COLUMNS_OF_TABLE1 = ("zhang", "zhang-reinit", "zhang-longer")
DRIFT = ("zhang", *(f"zhang-reinit blocks={blocks}" for blocks in (1, 3, 6)))


@pytest.mark.parametrize(
    ("part", "arms", "whole"),
    [
        (("rte", "mrpc", "cola"), (), ["mosbach/table1"]),
        (("mosbach/figure2", "mosbach/figure14", "mosbach/perplexity"), (), ["mosbach/table1"]),
        (("mosbach/surfaces", "mosbach/figure8a"), (), ["mosbach/table1"]),
        (("mosbach/gradients",), (), ["mosbach/table1", "mosbach/figure5"]),
        (("scitail",), (), ["mosbach/table4"]),
        (("zhang/table4",), ("fp16",), ["zhang/bias-correction"]),
        (("zhang/table4",), ("fp16",), ["zhang/table1"]),
        (("zhang/table2",), COLUMNS_OF_TABLE1, ["zhang/table1"]),
        (("stsb", *LARGE), COLUMNS_OF_TABLE1, ["zhang/table1"]),
        (("zhang/reinit-layers",), ("zhang", "zhang-1k", "zhang-reinit blocks=5"), ["zhang/table1"]),
        (("zhang/longer-search",), ("zhang", "zhang-1k", "zhang-reinit-1k"), ["zhang/reinit-layers"]),
        (("zhang/drift",), DRIFT, ["zhang/reinit-layers"]),
    ],
)
def test_sweeps_share_the_runs_they_both_ask_for(part, arms, whole):
    assert ids(*part, arms=arms)
    assert ids(*part, arms=arms) <= ids(*whole)


def test_sweeps_share_some_of_their_runs():
    table1, ablation = ids("mosbach/table1"), ids("mosbach/ablation-rte")
    assert len(ids("mosbach/figure3") & table1) == 2 * 25  # MRPC and CoLA in full
    assert len(ids("mosbach/figure5") & ablation) == 6 * 25  # three epochs
    assert len(table1 & ablation) == 2 * 25  # devlin and mosbach on RTE
    assert len(ids("zhang/seeds-grid") & ids("zhang/table1")) == 2 * 10  # equal seeds
    assert len(ids("zhang/reinit-layers") & ids("zhang/table1")) == 2 * 12 * 20  # Standard, and L = 5
    assert len(ids("zhang/longer-search") & ids("zhang/table1")) == (2 * 12 + 2 * 12) * 8  # at 1,600 steps too


def test_the_intermediate_task_is_trained_once_and_is_a_run_of_table_5():
    parents = load_sweep("zhang/table2", LocalPaths()).start_runs
    assert [parent.run_id in ids("zhang/table5", arms=("zhang",)) for parent in parents] == [True]


ROWS = {"rte": 2490, "mrpc": 3668, "stsb": 5749, "cola": 8551, "qnli": 104743}  # of the original files


def test_the_search_for_steps_leaves_out_what_is_shorter_than_three_epochs():
    found: dict[str, set[int | None]] = {}
    for run in load_sweep("zhang/longer-search", LocalPaths(), seeds="0").runs:
        data, length = run.config.data, run.config.schedule.length
        if length.steps:
            found.setdefault("1k" if data.train_rows else data.task, set()).add(length.steps)
    three = {task: 3 * steps_per_epoch(rows, 32) for task, rows in (ROWS | {"1k": 1000}).items() if task != "qnli"}
    assert three == {"rte": 234, "mrpc": 345, "stsb": 540, "cola": 804, "1k": 96}  # the logs of real runs; Z sec. 6
    assert found == {task: {s for s in (200, 400, 800, 1600, 3200) if s >= least} for task, least in three.items()}


def test_fewer_rows_are_trained_on_for_as_many_steps():
    runs = load_sweep("mosbach/figure3", LocalPaths(), seeds="1").runs
    steps = {(r.arm, r.config.data.task): total_steps(r.config.schedule, ROWS[r.config.data.task]) for r in runs}
    assert steps["1k-long", "qnli"] == steps["full", "qnli"] == 19641
    assert steps["1k-long", "mrpc"] == steps["full", "mrpc"] == 690
    assert steps["1k-long", "cola"] == steps["full", "cola"] - 3 == 1602  # as the released config has it
    long = next(r for r in load_sweep("mosbach/table4", LocalPaths(), seeds="1").runs if r.arm == "devlin-1k-long")
    assert total_steps(long.config.schedule, 1000) == 4473  # M Table 4's 71 epochs
