"""What a model name and a description of one's own data mean on this machine."""

import os
import re
import shutil
from pathlib import Path

import pytest

from stableft.config.local_files import (
    file_digest,
    find_file,
    locate_custom_task,
    locate_model,
    model_folder_digest,
    shipped_configs,
)
from stableft.config.yaml_file import YamlValue
from stableft.errors import UserError

TASK = {"name": "mine", "train": "t.csv", "validation": "v.csv", "text": "s", "label": "y", "labels": ["no", "yes"]}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def files(tmp_path) -> Path:
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text(f"s,y\n{name},no\n")
    return tmp_path


def test_a_hub_name_and_its_revision():
    assert locate_model("bert-large-uncased", (), "x") == ({"name": "bert-large-uncased", "revision": "main"}, None)
    assert locate_model("a/b@v1", (), "x") == ({"name": "a/b", "revision": "v1"}, None)


def test_a_folder_is_found_beside_the_sweep_and_named_by_its_contents(model, tmp_path):
    values, folder = locate_model("bert", (tmp_path / "nowhere", tmp_path), "x")
    assert folder == model
    assert values == {"name": "bert", "sha256": model_folder_digest(model)}
    copy = tmp_path / "elsewhere"
    shutil.copytree(model, copy)
    assert model_folder_digest(copy) == model_folder_digest(model)


def test_what_loading_reads_counts_and_nothing_else(model):
    before = model_folder_digest(model)
    (model / "README.md").write_text("notes")
    assert model_folder_digest(model) == before
    (model / "model.safetensors").write_text("other weights")
    assert model_folder_digest(model) != before


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    before = file_digest(path)
    path.write_text("two!")
    assert file_digest(path) != before


@pytest.mark.parametrize(
    ("missing", "rule"),
    [
        ("config.json", r"no model: .*no config\.json"),
        ("model.safetensors", r"no weights \(model\.safetensors .*pytorch_model\.bin\)"),
        ("tokenizer.json", r"no tokenizer \(tokenizer\.json .*vocab\.txt\)"),
    ],
)
def test_a_folder_that_holds_no_model(model, missing, rule):
    (model / missing).unlink()
    with pytest.raises(UserError) as caught:
        locate_model(str(model), (Path.cwd(),), "s.yaml:2")
    assert re.fullmatch(f"s.yaml:2: model: folder {str(model)!r} .*{rule}", str(caught.value))


def test_an_index_without_its_weights_is_no_model(model):
    (model / "model.safetensors").rename(model / "model.safetensors.index.json")
    with pytest.raises(UserError, match="has no weights"):
        locate_model(str(model), (Path.cwd(),), "s.yaml:2")


@pytest.mark.parametrize("name", ["./nope", "/nope/bert", "~/nope", "~nobody-here/bert", "a/b/c", "a\\b"])
def test_a_path_to_nowhere_is_no_hub_name(name, tmp_path):
    with pytest.raises(UserError) as caught:
        locate_model(name, (tmp_path,), "s.yaml:2")
    assert re.fullmatch(rf"s\.yaml:2: model: {re.escape(repr(name))} .*not a folder", str(caught.value))


@pytest.mark.parametrize("name", [3, None, "", ["bert"]])
def test_a_model_is_named_by_text(name):
    with pytest.raises(UserError, match=r"^s\.yaml:2: model: .*folder .*hub name$"):
        locate_model(name, (), "s.yaml:2")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "bert").write_text("")
    with pytest.raises(UserError, match=r"'bert' .*not .*folder"):
        locate_model("bert", (tmp_path,), "x")


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("")
    assert find_file("~/a.csv", (Path("/"),)) == tmp_path / "a.csv"
    assert find_file("a" * 5000, (tmp_path,)) is None


def test_an_own_task_becomes_settings_without_paths(files):
    name, own, paths = locate_custom_task(YamlValue({**TASK, "metric": "accuracy"}, "x"), (files,))
    train, validation = file_digest(files / "t.csv"), file_digest(files / "v.csv")
    assert name == "mine"
    assert own == {
        "label": "y",
        "labels": ["no", "yes"],
        "text": ["s"],
        "metrics": ["accuracy"],
        "format": "csv",
        "train": train,
        "validation": validation,
    }
    assert paths == {train: files / "t.csv", validation: files / "v.csv"}


def test_a_given_format_is_that_of_files_with_any_ending(files):
    (files / "t.dat").write_text("")
    task = {**TASK, "metric": "accuracy", "test": "t.dat", "format": "csv"}
    assert locate_custom_task(YamlValue(task, "x"), (files,))[1]["format"] == "csv"


def test_the_folder_of_the_command_comes_first(files, monkeypatch):
    (files / "sub").mkdir()
    (files / "sub" / "t.csv").write_text("other")
    _, own, _ = locate_custom_task(YamlValue({**TASK, "metric": "accuracy"}, "x"), (files / "sub", files))
    assert own["train"] == file_digest(files / "sub" / "t.csv")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"lables": ["a"]}, "key 'lables' .*not known.*'labels'"),
        ({"train": None}, "key 'train' is missing"),
        ({"label": "s"}, "label: 's' is a column of the text too"),
        ({"text": ["y", "s"]}, "label: 'y' is a column of the text too"),
        ({"text": None}, "key 'text' is missing"),
        ({"metric": None}, "metric .*missing.*metrics .*several"),
        ({"metrics": ["accuracy"]}, "give either metric or metrics"),
        ({"train": "nope.csv"}, r"train: .*no file 'nope\.csv'"),
        ({"test": "nope.csv"}, r"test: .*no file 'nope\.csv'"),
        ({"train": "."}, r"train: .*no file '\.'"),
        ({"train": "t.dat"}, r"format: .*since 't\.dat' ends .*none .*\.csv, \.tsv, \.jsonl"),
        ({"test": "t.dat"}, r"test: 't\.dat' does not end as 't\.csv'; the files of a task have one format"),
        ({"name": "rte"}, "name: 'rte' .*stableft"),
        ({"name": 3}, "name: 3 .*text; quotes"),
    ],
)
def test_what_is_wrong_with_an_own_task(files, change, rule):
    (files / "t.dat").write_text("")
    task = {key: value for key, value in {**TASK, "metric": "accuracy", **change}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        locate_custom_task(YamlValue(task, "s.yaml:3"), (files,))
    assert re.match(f"s.yaml:3: task: {rule}", str(caught.value))


def test_the_package_has_configs():
    assert (shipped_configs() / "recipes" / "mosbach.yaml").is_file()
    assert os.path.isabs(shipped_configs())
