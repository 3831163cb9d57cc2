"""What a checkpoint folder may be, and what it may not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_runs import add_model_folder, train_run, write_tiny_bert
from transformers import AutoModelForSequenceClassification, BertForMaskedLM, BertModel
from transformers.utils import logging

from stableft.config.local_files import ALLOW_PICKLE, file_digest, model_folder_digest
from stableft.config.planned_run import LocalPaths
from stableft.errors import UserError
from stableft.models.build import build_model
from stableft.models.load import load_tokenizer, model_location


@pytest.fixture
def variant(tiny_model_folder, tmp_path):
    """Returns a maker of copies of the tiny model folder with other values in config.json."""

    def make(name: str, **values) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_model_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        return folder

    return make


@pytest.fixture
def load_tokenizer_of(make_config):
    def load(folder: Path):
        digest = model_folder_digest(folder)
        return load_tokenizer(make_config(**{"model.sha256": digest}), LocalPaths(paths={digest: folder}))

    return load


@pytest.fixture
def build(make_config):
    def make(folder: Path, **dotted):
        return build_model(
            make_config(**{"data.max_length": 16, "model.sha256": model_folder_digest(folder), **dotted}),
            LocalPaths(paths={model_folder_digest(folder): folder}),
        )

    return make


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_checkpoint_is_trained_in_float32(build, variant, dtype):
    folder = variant("half")
    half = BertForMaskedLM.from_pretrained(folder).to(dtype)
    half.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    model, _ = build(folder)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    weights = half.bert.embeddings.word_embeddings.weight
    assert torch.equal(model.get_submodule("bert.embeddings.word_embeddings").weight, weights.float())


def test_a_checkpoint_without_pooler_has_it_drawn_and_noted(build, toy_run, toy_sources, tmp_path, tiny_model_folder):
    model, pretrained = build(tiny_model_folder)
    assert pretrained.missing == ("bert.pooler",)
    again, _ = build(tiny_model_folder)
    other, _ = build(tiny_model_folder, seeds={"init": 2, "data": 1})
    pooler, same, different = (m.get_submodule("bert.pooler.dense") for m in (model, again, other))
    assert torch.equal(pooler.weight, same.weight)
    assert not torch.equal(pooler.weight, different.weight)
    assert not pooler.bias.any()
    record = train_run(toy_run(**{"schedule.length": {"steps": 1}}), tmp_path, toy_sources)
    assert record.environment
    assert record.environment.drawn == ("bert.pooler",)


def test_a_checkpoint_with_pooler_keeps_it(build, tiny_tokenizer, toy_run, toy_sources, tmp_path):
    folder = write_tiny_bert(tmp_path / "whole", tiny_tokenizer, lambda _: None)
    model, pretrained = build(folder)
    assert pretrained.missing == ()
    expected = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(model.state_dict()[f"bert.{name}"], value) for name, value in expected.items())
    sources, digest = add_model_folder(toy_sources, folder)
    record = train_run(toy_run(**{"schedule.length": {"steps": 1}, "model.sha256": digest}), tmp_path, sources)
    assert record.environment
    assert record.environment.drawn == ()


def test_a_fine_tuned_checkpoint_gets_a_new_head(build, variant):
    """With as many labels its head would load, with others it would not fit: it is drawn in either case."""
    for labels in (2, 5):
        folder = variant(f"labels-{labels}")
        tuned = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
        torch.nn.init.ones_(tuned.classifier.weight)
        tuned.save_pretrained(folder)
        model, pretrained = build(folder)
        head = model.get_submodule("classifier")
        assert head.weight.shape == (2, 16)
        assert head.weight.abs().max() < 0.2
        assert not head.bias.any()
        assert pretrained.missing == ()


def test_every_run_gets_a_model_of_its_own(build, tiny_model_folder):
    """The loaded checkpoint is kept between runs; training one must not change the next."""
    first, _ = build(tiny_model_folder)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    with torch.no_grad():
        for tensor in first.parameters():
            tensor.fill_(1.0)
    second, _ = build(tiny_model_folder)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())


@pytest.mark.parametrize("dropout", [None, 0.0, 0.3])
def test_dropout_is_that_of_the_config(build, tiny_model_folder, dropout):
    model, _ = build(tiny_model_folder, **{"model.dropout": dropout})
    found = {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
    assert found == {0.1 if dropout is None else dropout}


def test_loading_is_quiet_and_leaves_the_verbosity(build, variant, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    build(variant("quiet"))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 3}, r"weights lack bert\.encoder\.layer\.2\..* 15 more"),
        (
            {"num_hidden_layers": 1},
            r"weights include bert\.encoder\.layer\.1\..* 15 more, .*the BERT model",
        ),
        ({"hidden_size": 32}, "not fit the BERT model"),
        ({"intermediate_size": 64}, "not fit the BERT model"),
        ({"vocab_size": 10}, r"weights lack bert\.embeddings\.word_embeddings\.weight; "),
        ({"num_attention_heads": 3}, "cannot be loaded .*: The hidden size"),
        ({"num_hidden_layers": "two"}, "'num_hidden_layers' expected int, got str"),
        ({"hidden_act": "foo"}, "'foo'"),
        ({"model_type": "gpt2"}, r"weights lack transformer\.h\.0\..* more; .*not fit the gpt2 model"),
        ({"model_type": "brt"}, "family 'brt', .*not know.* 'bert'"),
        (
            {"model_type": "clip"},
            "family 'clip', .*no model for sequence classification",
        ),
    ],
)
def test_weights_that_do_not_fit_config_json_are_one_sentence(build, variant, values, words):
    with pytest.raises(UserError, match=words) as caught:
        build(variant("odd", **values))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_blocks_that_config_json_lacks_are_seen_in_a_bare_encoder(build, tiny_tokenizer, tmp_path):
    folder = write_tiny_bert(tmp_path / "bare", tiny_tokenizer, lambda _: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(UserError, match=r"its weights include encoder\.layer\.1\..* and 15 more"):
        build(folder)


@pytest.mark.faults
def test_damaged_files_are_one_sentence(build, variant):
    weights = (variant("whole") / "model.safetensors").read_bytes()
    for number, content in enumerate((weights[: len(weights) // 2], b"abc", b"", None)):
        folder = variant(f"damaged-{number}")
        (folder / "model.safetensors").unlink()
        if content is not None:
            (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"model cannot .*loaded .*folder") as caught:
            build(folder)
        assert "\n" not in str(caught.value)


def test_pickled_weights_are_read_only_if_allowed(build, variant, monkeypatch):
    folder = variant("pickle")
    expected = BertForMaskedLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"in .*pickle/pytorch_model\.bin are a pickle, .*--allow-pickle"):
        build(folder)
    listed = variant("listed")
    (listed / "model.safetensors").unlink()
    (listed / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes())
    index = {"metadata": {}, "weight_map": dict.fromkeys(expected, "pytorch_model.bin")}
    (listed / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"in .*listed/pytorch_model\.bin are a pickle"):
        build(listed)
    monkeypatch.setenv(ALLOW_PICKLE, "1")
    model, _ = build(folder)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[name], expected[name])
    (folder / "pytorch_model.bin").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"model cannot .*loaded .*folder"):
        build(folder)


def test_code_that_comes_with_a_model_is_not_run(build, variant, tmp_path):
    folder = variant("code", auto_map={"AutoConfig": "evil.Config"}, model_type="evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError, match="family 'evil', which transformers does not know"):
        build(folder)
    folder = variant("bert-code", auto_map={"AutoModelForSequenceClassification": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    build(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_larger_than_the_vocabulary_is_an_error(build, variant, tiny_tokenizer):
    folder = variant("large")
    tokenizer = type(tiny_tokenizer).from_pretrained(folder)
    tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(folder)
    size = len(tiny_tokenizer)
    with pytest.raises(UserError, match=f"its tokenizer has {size + 1} entries, more than the vocab_size of {size}"):
        build(folder)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_tokenizer_is_an_error(load_tokenizer_of, variant, content):
    folder = variant("mute")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer cannot .*loaded .*folder") as caught:
        load_tokenizer_of(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_overwritten_gives_what_it_holds_now(build, load_tokenizer_of, variant):
    folder, other = variant("first"), variant("second")
    first, _ = build(folder)
    tokenizer = load_tokenizer_of(folder)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    changed = load_tokenizer_of(other)
    changed.add_tokens(["[NEW]"])
    changed.save_pretrained(other)
    for path in other.iterdir():
        shutil.copy2(path, folder / path.name)
    assert len(load_tokenizer_of(folder)) == len(tokenizer) + 1
    (folder / "tokenizer.json").write_bytes((variant("third") / "tokenizer.json").read_bytes())
    second, _ = build(folder)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(second.get_parameter(name), first.get_parameter(name) + 1)
    assert (first.config.layer_norm_eps, second.config.layer_norm_eps) == (1e-12, 0.5)


@pytest.mark.faults
def test_a_folder_that_has_changed_since_planning_is_an_error(make_config, variant):
    folder = variant("mine")
    digest = model_folder_digest(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model 'tiny': folder .*mine has changed since the sweep was planned"):
        load_tokenizer(make_config(**{"model.sha256": digest}), LocalPaths(paths={digest: folder}))


@pytest.mark.faults
def test_damaged_weights_in_the_cache_of_the_hub_are_an_error(make_config, tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit, repository = "c" * 40, tmp_path / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for path in tiny_model_folder.iterdir():  # small files are named after another hash
        blob = blobs / (file_digest(path) if path.suffix == ".safetensors" else path.name)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    config = make_config(**{"model.name": "org/tiny", "model.revision": "main", "model.sha256": None})
    sources = LocalPaths(hub_commits={config.model.identity: commit})
    assert model_location(config, sources) == ("org/tiny", commit)
    weights = (snapshot / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError) as caught:
        model_location(config, sources)
    assert str(caught.value) == (
        f"model 'org/tiny': model.safetensors is damaged in the hub's cache: delete {weights}, and it is fetched again"
    )


def test_more_tokens_than_positions_is_an_error(build, tiny_model_folder):
    with pytest.raises(UserError, match=r"data\.max_length: 65 .*more .* 64 positions .*model 'tiny'"):
        build(tiny_model_folder, **{"data.max_length": 65})
