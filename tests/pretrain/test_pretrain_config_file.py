"""A pre-training config: what it becomes, what does not change its id, and sentences about mistakes in it."""

import re

import pytest
from support.pretraining import write_pretraining_config, write_wikipedia

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.settings import RUN_CONFIG_LEAVES
from stableft.config.sweep_file import find_sweep_file, load_sweep
from stableft.data import toy_language as toylang
from stableft.errors import UserError
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.corpus import text_digest


def test_the_model_is_completed_from_its_family(plan_pretraining):
    config = plan_pretraining().config
    model = config.model
    assert model["vocab_size"] == 5 + len(toylang.toy_vocabulary())
    assert (model["hidden_size"], model["hidden_dropout_prob"], model["type_vocab_size"]) == (16, 0.1, 2)
    assert "is_decoder" not in model
    assert plan_pretraining(**{"model.hidden_dropout_prob": 0.1}).config.run_id == config.run_id


@pytest.mark.parametrize(
    "change",
    [
        {"model.hidden_size": 32},
        {"model.layer_norm_eps": 1e-6},
        {"masking.share": 0.2},
        {"corpus.seed": 1},
        {"optimizer.lr": 2e-2},
        {"seeds": {"init": 1, "data": 0}},
        {"attention": "eager"},
        {"precision": "bf16"},
    ],
)
def test_what_changes_a_number_changes_the_id(plan_pretraining, change):
    assert plan_pretraining(**change).config.run_id != plan_pretraining().config.run_id


def test_what_has_no_effect_does_not_change_the_id(plan_pretraining, tmp_path):
    off = {"optimizer.bias_correction": False}
    one, other = plan_pretraining(**off), plan_pretraining(**off, **{"optimizer.eps_placement": None})
    assert one.config.run_id == other.config.run_id
    one, other = (
        plan_pretraining(**{"model.hidden_dropout_prob": 0}),
        plan_pretraining(**{"model.hidden_dropout_prob": 0.0}),
    )
    assert one.config.run_id == other.config.run_id
    one, other = plan_pretraining(**{"model.layer_norm_eps": 1}), plan_pretraining(**{"model.layer_norm_eps": 1.0})
    assert one.config.run_id == other.config.run_id
    for name in ("one", "two"):
        write_wikipedia(tmp_path / name)
    one, other = plan_pretraining(text="one", **{"corpus.pairs": None}), plan_pretraining(text="two")
    assert one.config.text.name == "one"
    assert one.config.run_id == other.config.run_id
    (tmp_path / "two" / "AA" / "wiki_01").rename(tmp_path / "two" / "AA" / "wiki_02")
    assert plan_pretraining(text="two").config.run_id != one.config.run_id


def test_set_wins_over_the_file(tmp_path):
    sets = ("optimizer.lr=0.5", "model.hidden_size=32", "schedule.length={epochs: 2}", f"text={tmp_path / 'wiki'}")
    folder = write_wikipedia(tmp_path / "wiki")
    plan = load_pretraining(write_pretraining_config(tmp_path, text="missing"), LocalPaths(), sets)
    config = plan.config
    assert (config.optimizer.lr, config.model["hidden_size"], config.schedule.length.epochs) == (0.5, 32, 2)
    assert config.text.sha256 == text_digest(folder)
    assert plan.sources.paths[text_digest(folder)] == folder
    assert plan.name == "tiny"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"modle": 1}, ": key 'modle' .*not known.*'model"),
        ({"model.hiden_size": 8}, r": key 'model\.hiden_size' .*not known.*'model\.hidden_size'"),
        ({"model.is_decoder": True}, r": key 'model\.is_decoder' .*not known"),
        ({"model.hidden_size": "16"}, r":10: model\.hidden_size: "),
        ({"model.hidden_size": 17}, r":9: model: The hidden size \(17\) .*not .*multiple .*number .*attention"),
        ({"model.hidden_act": "gleu"}, ": model: 'gleu' .*not known"),
        ({"model.vocab_size": 100}, r": model\.vocab_size: 100 .*less"),
        ({"max_length": 33}, ":7: max_length: 33 .*more .* 32 positions .*model"),
        ({"family": "gpt"}, ":8: family: model 'tiny' .*family 'gpt'.*stableft .*knows bert"),
        (
            {"family": "bart"},
            ":8: family: bart .*not pre-trained .*masking tokens; stableft pre-trains bert, roberta",
        ),
        ({"family": "roberta"}, ":7: max_length: 32 .*more .* 30 positions .*model"),
        ({"family": None}, "key 'family' is missing"),
        ({"text": "nowhere"}, ":1: text: .*no file .*folder 'nowhere'; --set text=PATH"),
        ({"text": 3}, ":1: text: 3 .*toylang .*path .*file .*folder"),
        ({"vocabulary": "nowhere.txt"}, r":2: vocabulary: .*no file .*folder 'nowhere\.txt'"),
        ({"vocabulary": "empty"}, r":2: vocabulary: folder 'empty' .*no tokenizer\.json"),
        ({"start_from": "nowhere"}, ":48: start_from: 'nowhere' .*not .*folder"),
        ({"start_from": "empty"}, r":48: start_from: model: folder 'empty' .*no model: .*no config\.json"),
        ({"text": "empty"}, ":1: text: folder 'empty' .*no files"),
        ({"masking.masked": 0.95}, r"masking\.masked .*masking\.random .*not .*more .* 1 together"),
        ({"masking.share": 0.0}, r"masking\.share: 0\.0 .*greater .* 0"),
        ({"corpus.pairs": None}, r"corpus\.pairs .*set .*text .*toylang"),
        ({"corpus.held_out": 1.0}, r"corpus\.held_out: 1\.0 .*less .* 1"),
        ({"optimizer.lr": "0.001"}, r"optimizer\.lr: '0\.001' is text; without the quotes"),
        ({"optimizer.eps_placement": None}, r"optimizer\.eps_placement .*set .*optimizer\.bias_correction"),
        ({"schedule.length": {"steps": 1, "epochs": 1}}, r"schedule\.length: .*exactly one .*epochs .*steps"),
        ({"precision": "fp8"}, "precision: 'fp8' .*'fp32', 'fp16' .*'bf16'"),
    ],
)
def test_mistakes_are_one_sentence_with_their_place(tmp_path, change, facts):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        load_pretraining(write_pretraining_config(tmp_path, **change), LocalPaths())
    message = str(caught.value)
    assert re.search(facts, message)
    assert message.startswith(str(tmp_path / "tiny.yaml"))
    assert "\n" not in message


def test_a_missing_key_is_named(tmp_path):
    path = write_pretraining_config(tmp_path)
    path.write_text(path.read_text().replace("  share: 0.15\n", ""))
    with pytest.raises(UserError, match=r"tiny\.yaml: key 'masking\.share' .*missing$"):
        load_pretraining(path, LocalPaths())


def test_sweeps_and_pretrainings_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"rte\.yaml .*sweep file: `stableft sweep .*rte\.yaml` runs it$"):
        load_pretraining("rte", LocalPaths())
    path = write_pretraining_config(tmp_path)
    with pytest.raises(UserError, match=r"tiny\.yaml .*pre-training config: `stableft pretrain .*` runs it$"):
        load_sweep(path, LocalPaths())
    with pytest.raises(UserError, match=r"no such pre-training config.*'pretrain/toy'"):
        load_pretraining("pretrain/tyo", LocalPaths())
    with pytest.raises(UserError, match=r"no such sweep file$"):
        find_sweep_file("pretrain/tyo")


@pytest.mark.parametrize("path", sorted((shipped_configs() / "pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n")
    sets = [] if path.stem == "toy" else [f"text={write_wikipedia(tmp_path / 'wiki')}", f"vocabulary={vocabulary}"]
    plan = load_pretraining(path.stem, LocalPaths(), sets)
    assert plan.name == f"pretrain/{path.stem}"
    assert path.read_text().splitlines()[0].startswith(f"# stableft pretrain configs/pretrain/{path.name}")


def test_a_run_has_none_of_its_keys():
    assert RUN_CONFIG_LEAVES.keys().isdisjoint(("text", "vocabulary", "masking.share"))
