"""Every shipped recipe is complete, and faithful to paper and released code."""

from typing import Any

import pytest
from support.paths import ROOT

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.recipe import read_recipe, shipped_recipes
from stableft.config.settings import SETTING_LEAVES
from stableft.config.sweep_file import load_sweep, single_run_sweep

CONFIGS = ROOT / "configs"

# Typed from the papers and their authors' released code (not computed from the YAML). M: Mosbach et al. 2021, Table 3,
# sec. 3.2 and 6, and their 85 configs. Z: Zhang et al. 2021, sec. 3-7, App. B, C, F and H, run_glue.py and the sample
# commands beside it.
M: dict[str, Any] = {
    "data.split": "dev",
    "data.train_rows": None,
    "data.sample_seed": 0,
    "data.max_length": 128,
    "data.pad_to_max": False,
    "data.segment_ids": False,  # never passed: all zero
    "model.name": "bert-large-uncased",
    "model.dropout": 0.1,
    "model.attention": "sdpa",
    "model.head": "stock",
    "model.structure": None,
    "evaluation.report": "last",
    "mixout.p": 0.0,
    "mixout.target": "pretrained",
    "mixout.granularity": "parameter",
    "mixout.scope": "linear",
    "optimizer.decay_towards": "zero",
    "optimizer.decay_head": False,
    "optimizer.llrd": 1.0,
    "schedule.warmup_steps": None,
    "reinit.pooler": False,  # keeps its pre-trained weights
    "reinit.blocks": 0,
    "reinit.embeddings": False,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.eps": 1e-6,
    "optimizer.eps_placement": "before_correction",
    "optimizer.weight_decay": 0.01,
    "optimizer.decay_order": "after",
    "optimizer.no_decay": ["bias", "LayerNorm.weight"],
    "optimizer.clip_norm": 1.0,
    "optimizer.lr": 2e-5,
    "schedule.batch_size": 16,
    "schedule.warmup": 0.1,
    "evaluation.every": {"per_epoch": 3},
    "evaluation.at_start": True,
    "evaluation.select_by": ["accuracy_f1", "accuracy", "mcc", "spearman"],
    "evaluation.batch_size": 100,
    "precision": "fp32",
}
Z: dict[str, Any] = M | {
    "data.split": "heldout",
    "data.sample_seed": 0,
    "data.segment_ids": True,
    "optimizer.eps": 1e-8,
    "optimizer.bias_correction": True,
    "optimizer.eps_placement": "after_correction",
    "optimizer.weight_decay": 0.0,
    "optimizer.decay_order": "before",
    "schedule.batch_size": 32,
    "schedule.length": {"epochs": 3},
    "evaluation.every": {"times": 10},
    "evaluation.at_start": False,
    "evaluation.select_by": ["accuracy", "mcc", "spearman"],
    "evaluation.report": "best",
    "precision": "fp16",
}
DEVLIN = M | {"optimizer.bias_correction": False, "schedule.length": {"epochs": 3}}
DEVLIN_ROBERTA = DEVLIN | {
    "model.name": "roberta-large",
    "optimizer.betas": [0.9, 0.98],
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_norm": None,
}
DEVLIN_ALBERT = DEVLIN | {"model.name": "albert-large-v2", "model.dropout": 0.0, "optimizer.weight_decay": 0.0}
CORRECTED = {"optimizer.bias_correction": True}
COLUMNS = {"model.dropout": 0.0, "mixout.p": 0.1, "mixout.granularity": "column"}  # the released Mixout
DECAYS = {"optimizer.decay_order": "before"}
NO_SEGMENTS = {"data.segment_ids": False}
AS_CHECKPOINT = {"model.dropout": None}
RECIPES: dict[str, dict[str, Any]] = {
    "devlin": DEVLIN,
    "devlin-roberta": DEVLIN_ROBERTA,
    "devlin-albert": DEVLIN_ALBERT,
    "mosbach": M | CORRECTED | {"schedule.length": {"epochs": 20}},
    "mosbach-roberta": DEVLIN_ROBERTA | CORRECTED,
    "mosbach-albert": DEVLIN_ALBERT | CORRECTED,
    "mosbach-mixout": DEVLIN | {"model.dropout": 0.0, "mixout.p": 0.9},
    "zhang": Z,
    "zhang-bertadam": Z | {"optimizer.bias_correction": False, "optimizer.decay_order": "after"},
    "zhang-reinit": Z | {"reinit.pooler": True, "reinit.blocks": 5},
    "zhang-longer": Z | {"schedule.length": {"steps": 1600}},
    "zhang-reinit-longer": Z | {"reinit.pooler": True, "reinit.blocks": 5, "schedule.length": {"steps": 1600}},
    "mixout": Z | COLUMNS,
    "llrd": Z | {"optimizer.llrd": 0.95},
    "weight-decay": Z | DECAYS | {"optimizer.weight_decay": 0.01},
    "pretrained-decay": Z | DECAYS | {"optimizer.weight_decay": 1e-3, "optimizer.decay_towards": "pretrained"},
    "intermediate": Z | {"start_from": {"recipe": "zhang", "task": "mnli", "seed": 0}},
    "zhang-xlnet": Z | AS_CHECKPOINT | {"model.name": "xlnet-large-cased", "model.attention": "eager"},
    "zhang-roberta": Z | AS_CHECKPOINT | NO_SEGMENTS | {"model.name": "roberta-large"},
    "zhang-bart": Z | AS_CHECKPOINT | NO_SEGMENTS | {"model.name": "facebook/bart-large"},
    "zhang-electra": Z
    | AS_CHECKPOINT
    | NO_SEGMENTS
    | {
        "model.name": "google/electra-large-discriminator",
        "model.head": "paper",
        "optimizer.lr": 5e-5,
        "optimizer.llrd": 0.9,
    },
}
REINIT = ("zhang-reinit", "zhang-reinit-longer")
# Z Table 6: learning rate, steps, batch size, warm-up steps.
TABLE6: dict[str, dict[str, tuple[float, int, int, int]]] = {
    "zhang-xlnet": {
        "rte": (3e-5, 800, 32, 200),
        "mrpc": (5e-5, 800, 32, 200),
        "stsb": (5e-5, 3000, 32, 500),
        "cola": (3e-5, 1200, 128, 120),
    },
    "zhang-roberta": {
        "rte": (2e-5, 2036, 16, 122),
        "mrpc": (1e-5, 2296, 16, 137),
        "stsb": (2e-5, 3598, 16, 214),
        "cola": (1e-5, 5336, 16, 320),
    },
    "zhang-bart": {
        "rte": (1e-5, 1018, 32, 61),
        "mrpc": (2e-5, 1148, 64, 68),
        "stsb": (2e-5, 1799, 32, 107),
        "cola": (2e-5, 1334, 64, 80),
    },
}


def shipped(recipe: str, task: str, *sets: str) -> PlannedRun:
    return single_run_sweep(recipe, task, None, 0, LocalPaths(), sets).runs[0]


def test_every_recipe_is_in_the_table():
    assert RECIPES.keys() == shipped_recipes().keys()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_faithful_to_paper_and_code(name):
    recipe = read_recipe(shipped_recipes()[name])
    assert {key: setting.value for key, setting in recipe.settings.items()} == RECIPES[name]
    assert bool(recipe.by_task) == (name in (*TABLE6, "zhang-electra", *REINIT))


@pytest.mark.parametrize("name", sorted(TABLE6))
def test_the_settings_of_each_task_are_those_of_table_6(name):
    found = {}
    for task in read_recipe(shipped_recipes()[name]).by_task:
        config = shipped(name, task).config
        schedule = config.schedule
        assert schedule.warmup is None
        found[task] = config.optimizer.lr, schedule.length.steps, schedule.batch_size, schedule.warmup_steps
    assert found == TABLE6[name]


@pytest.mark.parametrize("name", REINIT)
def test_the_blocks_of_re_init_are_those_of_a_legend_where_one_names_them(name):
    blocks = {task: shipped(name, task).config.reinit.blocks for task in ("rte", "sst2", "qnli", "qqp", "mnli")}
    assert blocks == {"rte": 5, "sst2": 2, "qnli": 5, "qqp": 5, "mnli": 5}


def test_electra_has_its_epochs_by_task():
    configs = {task: shipped("zhang-electra", task).config for task in ("rte", "mrpc", "stsb", "cola")}
    assert {task: config.schedule.length.epochs for task, config in configs.items()} == {
        "rte": 10,
        "mrpc": 3,
        "stsb": 10,
        "cola": 3,
    }
    assert {(c.optimizer.lr, c.schedule.batch_size, c.schedule.warmup) for c in configs.values()} == {(5e-5, 32, 0.1)}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_complete(name):
    # All but what a sweep gives: the task, where a model lies, the seeds.
    assert SETTING_LEAVES.keys() - RECIPES[name].keys() == {
        "data.task",
        "data.own",
        "model.revision",
        "model.sha256",
        "seeds.init",
        "seeds.data",
        *({"start_from", "execution"} - RECIPES[name].keys()),  # left out: the pre-trained weights, padding
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_line_of_a_recipe_says_where_its_value_is_from(path):
    text, _, by_task = path.read_text().partition("\nby_task:")
    lines = text.splitlines()
    assert by_task == "" or by_task.split("\n")[0].strip() == ("# Z Fig. 14" if path.stem in REINIT else "# Z Table 6")
    assert all(line.startswith("# ") for line in lines[:2])
    bare = {line.split(":")[0].strip() for line in lines if ":" in line and "#" not in line and not line.endswith(":")}
    assert bare <= {"reinit", "mixout", "sample_seed"}


def test_the_ids_of_the_paper_runs_never_change_unknowingly():
    for sets, devlin, mosbach in (
        ([], "2d63610163029933", "2b8071d608576492"),
        (["execution=padded"], "004ad7babc8d3229", "c09e23bd1a7b0eeb"),
    ):
        runs = load_sweep("rte", LocalPaths(), sets, seeds="1").runs
        assert {run.arm: run.run_id for run in runs} == {"devlin": devlin, "mosbach": mosbach}
    recipes = ("mixout", "pretrained-decay", "zhang-xlnet", "zhang-electra", "mosbach-roberta", "intermediate")
    assert {recipe: shipped(recipe, "rte", "execution=padded").run_id for recipe in recipes} == {
        "mixout": "03bc8e5449df4613",
        "pretrained-decay": "9d999e36f76ba71a",
        "zhang-xlnet": "7f6cb4d923a1a7dd",
        "zhang-electra": "b2c8719fdadea6e7",
        "mosbach-roberta": "82a7e2d1b6762b5e",
        "intermediate": "aad71affd50d2559",
    }
