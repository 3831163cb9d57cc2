"""Whether rows are packed if a sweep says nothing: by hub name or config.json, and the same in every plan."""

import json
from pathlib import Path

import pytest

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep, single_run_sweep

BASE = "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: zhang\n"
PACKING = [name for name, spec in BACKBONES.items() if spec.packs]
START = "set: {start_from: {recipe: mosbach, task: mnli, seed: 7}}\n"


@pytest.fixture
def sweep(workplace):
    """Returns a function that plans the runs of a text: `sweep(text, sets=[...])`."""

    def expand(text: str, **choices):
        Path("s.yaml").write_text(text)
        return load_sweep("s.yaml", LocalPaths(), **choices)

    return expand


def execution_of(model: str, *sets: str):
    return single_run_sweep("zhang", "rte", model, 1, LocalPaths(), sets).runs[0].config.execution


def write_model(config_json: str) -> str:
    Path("model").mkdir()
    for name, text in {"config.json": config_json, "model.safetensors": "", "vocab.txt": ""}.items():
        (Path("model") / name).write_text(text)
    return "./model"


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=BACKBONES.keys())
def test_the_papers_models_are_packed_if_their_family_packs(spec):
    attention = () if spec.sdpa else ("model.attention=eager",)
    assert execution_of(spec.example, *attention) == ("packed" if spec.packs else None)


@pytest.mark.parametrize(
    ("model", "packs"),
    [
        ("google-bert/bert-base-cased@main", True),
        ("FacebookAI/roberta-base", True),
        ("google/electra-small-discriminator@abc", True),
        ("albert/albert-xxlarge-v1", True),
        ("someone/bert-base-cased", False),
        ("bert-base-cased-finetuned", False),
        ("microsoft/deberta-v3-large", False),
        ("xlm-roberta-base", False),
    ],
)
def test_a_hub_model_goes_by_its_whole_name(model, packs):
    assert execution_of(model) == ("packed" if packs else None)


@pytest.mark.parametrize(
    ("values", "packs"),
    [
        *(({"model_type": family}, spec.packs) for family, spec in BACKBONES.items()),
        ({"model_type": "bert", "is_decoder": False}, True),
        ({"model_type": "bert", "is_decoder": True}, False),
        ({"model_type": "deberta-v2"}, False),
        ({"model_type": ["bert"]}, False),
        ({}, False),
        ([], False),
    ],
)
def test_a_folder_goes_by_its_config(workplace, values, packs):
    assert execution_of(write_model(json.dumps(values))) == ("packed" if packs else None)


def test_a_config_that_cannot_be_read_is_refused_later(workplace):
    assert execution_of(write_model("{")) is None


def test_what_is_said_counts(sweep):
    for written, sets, execution in (
        ("", [], "packed"),
        ("set: {execution: null}\n", [], "packed"),
        ("", ["execution=null"], "packed"),
        ("set: {execution: padded}\n", [], None),
        ("set: {execution: padded}\n", ["execution=packed"], "packed"),
        ("", ["execution=padded"], None),
        ("set: {data.pad_to_max: true}\n", [], None),
        ("", ["data.pad_to_max=true"], None),
        ("set: {data.pad_to_max: true, execution: packed}\n", [], "packed"),
    ):
        assert {run.config.execution for run in sweep(BASE + written, sets=sets).runs} == {execution}


def test_a_grid_may_have_both(sweep):
    points = sweep(BASE + "grid: {execution: [padded, packed]}\n").points
    assert {point.label: point.runs[0].config.execution for point in points} == {
        "zhang execution=padded": None,
        "zhang execution=packed": "packed",
    }


@pytest.mark.parametrize("sets", [[], ["execution=padded"]])
def test_a_start_run_computes_as_the_runs_that_start_from_it(sweep, sets):
    """So that `--set execution=padded` plans the runs that were planned before packed rows were the default."""
    expanded = sweep(BASE + START, sets=sets)
    (parent,) = expanded.start_runs
    (alone,) = single_run_sweep("mosbach", "mnli", "bert-base-uncased", 7, LocalPaths(), sets).runs
    assert parent.config == alone.config
    assert {run.config.execution for run in expanded.runs} == {parent.config.execution}
    own = START.replace("seed: 7", "seed: 7, set: {execution: padded}")
    assert sweep(BASE + own, sets=sets).start_runs[0].config.execution is None
