"""Every shipped YAML file loads and says what it says it is."""

import re
from pathlib import Path
from typing import Any

import pytest

from stableft.plan import Sources
from stableft.recipe import shipped_recipes
from stableft.settings import LEAVES, settings_from
from stableft.sweepfile import load_sweep
from stableft.yamlfile import load_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
SWEEPS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("recipes", "pretrain"))

# Typed from the papers and their authors' released code (not computed from the YAML). M: Mosbach et al. 2021, Table 3,
# sec. 3.2 and 6, and their 85 configs. Z: Zhang et al. 2021, sec. 3-6, App. B and C, and run_glue.py.
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
RECIPES: dict[str, dict[str, Any]] = {
    "devlin": M | {"optimizer.bias_correction": False, "schedule.length": {"epochs": 3}, "evaluation.report": "last"},
    "mosbach": M | {"optimizer.bias_correction": True, "schedule.length": {"epochs": 20}, "evaluation.report": "best"},
    "zhang": Z,
    "zhang-bertadam": Z | {"optimizer.bias_correction": False, "optimizer.decay_order": "after"},
    "zhang-reinit": Z | {"reinit.pooler": True, "reinit.blocks": 5},
    "zhang-longer": Z | {"schedule.length": {"steps": 1600}},
}


def test_every_recipe_is_in_the_table():
    assert RECIPES.keys() == shipped_recipes().keys()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_faithful_to_paper_and_code(name):
    settings = settings_from(load_yaml(shipped_recipes()[name]))
    assert {key: setting.value for key, setting in settings.items()} == RECIPES[name]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_complete(name):
    # All but what a sweep gives: the task, where a model lies, the seeds.
    assert LEAVES.keys() - RECIPES[name].keys() == {
        "data.task",
        "data.own",
        "model.revision",
        "model.sha256",
        "seeds.init",
        "seeds.data",
        "start_from",
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_line_of_a_recipe_says_where_its_value_is_from(path):
    lines = path.read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:2])
    bare = {line.split(":")[0].strip() for line in lines if ":" in line and "#" not in line and not line.endswith(":")}
    assert bare <= {"reinit", "mixout", "sample_seed"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_sweep_expands_to_the_count_in_its_first_comment(path):
    first = path.read_text().splitlines()[0]
    stated = re.search(r"(\d[\d,]*) runs", first)
    assert first.startswith(f"# stableft sweep configs/{path.relative_to(CONFIGS)} ")
    assert stated
    runs = load_sweep(path, Sources()).runs
    assert len(runs) == len({run.run_id for run in runs}) == int(stated[1].replace(",", ""))


def test_a_paper_sweep_shares_its_runs_with_the_tasks_own_sweep():
    whole = {run.run_id for run in load_sweep(CONFIGS / "mosbach" / "table1.yaml", Sources()).runs}
    for task in ("rte", "mrpc", "cola"):
        assert {run.run_id for run in load_sweep(CONFIGS / f"{task}.yaml", Sources()).runs} <= whole


def test_the_ids_of_the_paper_runs_never_change_unknowingly():
    runs = {run.arm: run.run_id for run in load_sweep("rte", Sources(), seeds="1").runs}
    assert runs == {"devlin": "004ad7babc8d3229", "mosbach": "c09e23bd1a7b0eeb"}
