"""Inputs that cannot be used are found before anything starts."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import GLUE

from stableft.config.local_files import file_digest, model_folder_digest
from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.recipe import shipped_recipes
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.data.splits import data_fingerprint, read_splits
from stableft.errors import UserError
from stableft.sweep.preflight import (
    check_sweep_inputs,
    describe_odd_choices,
    describe_planned_rows,
    lacks_bf16_instructions,
)


@pytest.fixture
def plan(make_config, tiny_model_folder, tmp_path):
    """Returns a maker of runs on a copy of the tiny model, which a test may damage first."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)

    def make(**dotted) -> tuple[PlannedRun, LocalPaths]:
        digest = model_folder_digest(folder)
        config: RunConfig = make_config(**{"model.sha256": digest, **dotted})
        return PlannedRun("arm", "recipe", config, "last"), LocalPaths(
            data_dir=GLUE, cache_dir=tmp_path, paths={digest: folder}
        )

    return make


def sentence_about(run: PlannedRun, sources: LocalPaths) -> str:
    with pytest.raises(UserError) as caught:
        check_sweep_inputs([run], sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_run_gets_the_fingerprint_of_its_rows(plan):
    run, sources = plan()
    other = plan(**{"data.split": "heldout"})[0]
    seed = plan(**{"seeds.init": 2})[0]
    prints = check_sweep_inputs([run, other, seed], sources)
    assert prints.keys() == {run.run_id, other.run_id, seed.run_id}
    assert prints[run.run_id] == prints[seed.run_id]
    assert prints[run.run_id].fingerprint == data_fingerprint(run.config, sources) != prints[other.run_id].fingerprint
    assert prints[run.run_id].train_rows == len(read_splits(run.config, sources)["train"])


def test_fp16_on_a_cpu_is_told_with_the_option_that_helps(plan):
    half, full = plan(precision="fp16")[0], plan(precision="fp32")[0]
    sweep = Sweep("s", Path("s.yaml"), (half, full), LocalPaths())
    (said,) = describe_odd_choices([half, full], sweep, "cpu", ["cpu"], 1, False)
    assert re.match(r"warning: 1 run of .* fp16 on the CPU, .*--set precision=fp32", said)
    assert not list(describe_odd_choices([half], sweep, "auto", ["cuda:0"], 1, True))
    assert not list(describe_odd_choices([full], sweep, "cpu", ["cpu"], 1, False))
    odd = list(describe_odd_choices([full], sweep, "auto", ["cpu"], 1000, True))
    assert [re.match("note: (no GPU is found|--tf32 has no effect|--jobs-per-device 1000)", line) for line in odd]
    assert len(odd) == 3
    assert not list(describe_odd_choices([], sweep, "auto", ["cpu"], 1000, True))


def test_a_rule_that_does_not_hold_for_want_of_an_arm_is_told(plan):
    sweep = Sweep("s", Path("s.yaml"), tuple(plan()), LocalPaths(), arms_left_out=("zhang", "mosbach"))
    (said,) = describe_odd_choices([], sweep, "cpu", ["cpu"], 1, False)  # if all are crashed ones to be retried, too
    assert said.startswith("note: --arms leaves out zhang and mosbach of the rule (decide), so these runs are trained ")


def test_bf16_on_a_cpu_without_its_instructions_is_told(plan, tmp_path, monkeypatch):
    run = plan(precision="bf16")[0]
    sweep, facts = Sweep("s", Path("s.yaml"), (run,), LocalPaths()), tmp_path / "cpuinfo"
    for text, lacks in (("flags : avx2 avx512_bf16 amx_tile", False), ("flags : avx2 avx512f", True)):
        facts.write_text(text)
        assert lacks_bf16_instructions(facts) == lacks
    assert not lacks_bf16_instructions(tmp_path / "nowhere")
    for lacks in (True, False):
        monkeypatch.setattr("stableft.sweep.preflight.lacks_bf16_instructions", lambda lacks=lacks: lacks)
        said = list(describe_odd_choices([run], sweep, "cpu", ["cpu"], 1, False))
        assert len(said) == lacks
        assert all(re.match("warning: 1 run of arm train in bf16 .* 12 times .*--set precision=fp32", s) for s in said)


def test_a_recipe_in_place_of_the_shipped_one_is_told(workplace):
    (workplace / "recipes").mkdir()
    text = shipped_recipes()["devlin"].read_text()
    (workplace / "s.yaml").write_text("task: toy-rte\nmodel: demo/toy-bert\nseeds: 1\nrecipe: devlin\n")
    for content, lines in ((text, 0), (text + "\n", 1)):
        (workplace / "recipes" / "devlin.yaml").write_text(content)
        sweep = load_sweep("s.yaml", LocalPaths())
        said = list(describe_odd_choices(sweep.runs, sweep, "0", ["cuda:0"], 1, False))
        assert len(said) == lines
        assert all(re.match("note: recipe 'devlin' is .*/devlin.yaml, not the shipped one", line) for line in said)


def test_a_run_that_is_too_long(plan):
    assert re.match(
        r"schedule\.length\.epochs: 9000000 epochs of .* rows .* steps, and 10,000,000 are the most",
        sentence_about(*plan(**{"schedule.length": {"epochs": 9_000_000}})),
    )
    assert re.match(
        r"evaluation\.every: .* evaluations of .* rows are too many; 100,000 are the most",
        sentence_about(*plan(**{"schedule.length": {"steps": 9_000_000}, "evaluation.every": {"per_epoch": 1000}})),
    )


def test_what_does_not_fit_the_model(plan):
    assert re.match(
        r"data\.max_length: 128 .*more .* 64 positions .*model 'tiny'",
        sentence_about(*plan(**{"data.max_length": 128})),
    )
    assert re.match(
        r"reinit\.blocks: 9 .*more .* 2 blocks .*BERT model 'tiny'",
        sentence_about(*plan(reinit={"pooler": True, "blocks": 9})),
    )
    first, sources = plan()
    second, _ = plan(**{"model.head": "paper"})
    with pytest.raises(UserError, match=r"model\.head: .*papers .*no special head .*BERT model 'tiny'"):
        check_sweep_inputs([first, second], sources)


def test_a_mistake_in_a_parent_is_told_of_the_parent(plan):
    parent, sources = plan(**{"data.max_length": 128})
    child, _ = plan(start_from={"run": parent.run_id, "checkpoint": "last"})
    with pytest.raises(UserError) as caught:
        check_sweep_inputs([child], sources, [parent])
    told = str(caught.value)
    assert told.startswith(f"run {parent.run_id} (recipe on rte, seed {parent.config.seeds.init}), ")
    assert re.search(r"data\.max_length: 128 .* 64 positions .*'tiny'.*`start_from: .*--set .*not", told)
    assert sentence_about(parent, sources).startswith("data.max_length")  # where it is a run of the sweep's own
    with pytest.raises(UserError, match=r"^data\.max_length"):
        check_sweep_inputs([plan(**{"data.max_length": 128, "seeds.init": 2})[0]], sources, [parent])


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("{", r"config\.json cannot be read"),
        ("[]", r"config\.json .*not .*mapping"),
        ("{}", r"config\.json .*no model_type"),
        ('{"model_type": "bert", "num_hidden_layers": "2"}', "num_hidden_layers '2'.*whole number"),
    ],
)
def test_a_config_of_a_model_that_cannot_be_used(plan, tmp_path, content, facts):
    (tmp_path / "model" / "config.json").write_text(content)
    assert re.search(facts, sentence_about(*plan()))


def test_weights_that_are_none(plan, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert re.search(r"model\.safetensors .*no readable weights: ", sentence_about(*plan()))
    index = {"weight_map": {"a": "model-1.safetensors"}}
    weights.unlink()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert re.search(r"lists model-1\.safetensors.*missing", sentence_about(*plan()))
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    assert re.search(r"model\.safetensors\.index\.json cannot", sentence_about(*plan()))


def test_data_that_is_missing_or_too_little(plan, tmp_path):
    run, sources = plan(**{"data.train_rows": 1000, "data.sample_seed": 0})
    assert re.search("500 rows of each label", sentence_about(run, sources))
    nowhere = LocalPaths(data_dir=tmp_path, paths=sources.paths)
    assert re.search("train file .*RTE .*missing", sentence_about(plan()[0], nowhere))


def test_a_hub_model_without_a_network(make_config, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = {"model.sha256": None, "model.revision": "main"}
    sources = LocalPaths(data_dir=GLUE)
    absent = PlannedRun("arm", "recipe", make_config(**hub, **{"model.name": "nobody/nothing"}), "last")
    assert re.match("model 'nobody/nothing': .*hub cannot .*reached .*no cached copy", sentence_about(absent, sources))
    misspelt = PlannedRun("arm", "recipe", make_config(**hub, **{"model.name": "no body!"}), "last")
    assert re.match("model 'no body!': .*hub .*no such model", sentence_about(misspelt, sources))


def test_a_hub_model_whose_name_hides_that_its_rows_can_be_packed(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, family in (("bert", "bert"), ("gpt", "gpt2")):
        folder = tmp_path / f"models--some--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("c" * 40)
        (folder / "snapshots" / ("c" * 40)).mkdir(parents=True)
        (folder / "snapshots" / ("c" * 40) / "config.json").write_text(json.dumps({"model_type": family}))
    for model, option, lines in (
        ("some/bert", [], 1),
        ("some/bert", ["execution=packed"], 0),
        ("some/bert", ["execution=padded"], 0),
        ("some/bert", ["data.pad_to_max=true"], 0),
        ("some/gpt", [], 0),
    ):
        sweep = load_sweep("toy", LocalPaths(), [f"model={model}", *option], ["pre-trained"])
        said = list(describe_odd_choices(sweep.runs, sweep, "0", ["cuda:0"], 1, False))
        assert len(said) == lines
        assert all(line.startswith("note: rows of some/bert are padded, because its name") for line in said)


OWN_ROWS = "a,no\nb,yes\nc,no\nd,yes\n"


@pytest.fixture
def own_rows(plan, tmp_path):
    """Returns a maker of runs on own files, of which the rows of splits are given."""

    def make(train: str = OWN_ROWS, validation: str = "e,no\nf,yes\n", labels=("no", "yes"), test: str | None = None):
        digests = {}
        for name, rows in {"train": train, "validation": validation, "test": test}.items():
            if rows is not None:
                (tmp_path / f"{name}.csv").write_text(f"s,y\n{rows}")
                digests[name] = file_digest(tmp_path / f"{name}.csv")
        metric = "accuracy" if labels else "pearson"
        task = {"format": "csv", "text": ("s",), "label": "y", "labels": labels, "metrics": (metric,), **digests}
        run, sources = plan(**{"data.task": "mine", "data.own": task, "data.split": "dev"})
        files = {digest: tmp_path / f"{name}.csv" for name, digest in digests.items()}
        return run, replace(sources, paths={**sources.paths, **files})

    return make


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ({"train": "a,no\nb,no\n"}, r"task 'mine': all 2 training rows have the label 'no', so"),
        ({"validation": "e,yes\n"}, r"task 'mine': all 1 validation rows have the label 'yes', so"),
        ({"test": "e,yes\nx,yes\n"}, r"all 2 test rows have the label 'yes'"),
        ({"train": "a,1\nb,1.0\n", "validation": "c,1\nd,2\n", "labels": ()}, "all 2 training rows have the label 1,"),
        ({"validation": OWN_ROWS}, r"the training and the validation rows are the same, those of .*validation\.csv"),
        ({"test": "e,no\nf,yes\n"}, "the validation and the test rows are the same"),
    ],
)
def test_rows_that_cannot_be_meant(own_rows, rows, facts):
    assert re.search(facts, sentence_about(*own_rows(**rows)))


def test_odd_rows_are_told(own_rows):
    shared = own_rows(validation="a,no\ne,yes\nb,no\n", test="c,yes\nx,no\n", labels=("no", "yes", "maybe"))
    told = list(describe_planned_rows([shared[0]], check_sweep_inputs([shared[0]], shared[1])))
    assert told == [
        "note: task 'mine': no training row has the label 'maybe'",
        "note: task 'mine': 2 of 3 validation rows have the text of a training row",
        "note: task 'mine': 1 of 2 test rows have the text of a training row",
    ]
    run, sources = own_rows()
    assert not list(describe_planned_rows([run], check_sweep_inputs([run], sources)))


def test_glue_files_that_are_the_same_are_refused(plan, tmp_path):
    shutil.copytree(GLUE, tmp_path / "glue")
    (tmp_path / "glue/RTE/dev.tsv").write_bytes((tmp_path / "glue/RTE/train.tsv").read_bytes())
    run, sources = plan()
    said = sentence_about(run, replace(sources, data_dir=tmp_path / "glue"))
    assert re.search("task 'rte': the training and the validation rows are the same in .*glue", said)
