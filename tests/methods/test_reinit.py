"""Re-init (Z sec. 5): exactly the pooler and the top blocks are drawn anew, from the right distribution."""

import math

import pytest
import torch
from support.tiny_families import BLOCKS as TINY_BLOCKS
from support.training_runs import write_tiny_bert

from stableft.config.local_files import model_folder_digest
from stableft.config.planned_run import LocalPaths
from stableft.errors import UserError
from stableft.methods.reinit import draw_weights
from stableft.models.build import build_model
from stableft.models.load import load_pretrained

BLOCKS, STD = 4, 0.05


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_tokenizer, make_config):
    def odd(model) -> None:  # so that biases and LayerNorms, 0 and 1 from the start, differ from what is drawn
        for tensor in model.parameters():
            tensor.add_(0.25)

    sizes = {"hidden_size": 64, "num_hidden_layers": BLOCKS, "intermediate_size": 128, "initializer_range": STD}
    folder = write_tiny_bert(tmp_path_factory.mktemp("wide") / "wide", tiny_tokenizer, odd, **sizes)

    def make(
        blocks: int | None, pooler: bool = True, seed: int = 1, embeddings: bool | None = None
    ) -> dict[str, torch.Tensor]:
        reinit = None if blocks is None else {"pooler": pooler, "blocks": blocks, "embeddings": embeddings}
        config = make_config(
            **{"reinit": reinit, "model.sha256": model_folder_digest(folder), "seeds": {"init": seed, "data": 1}}
        )
        return build_model(config, LocalPaths(paths={model_folder_digest(folder): folder}))[0].state_dict()

    return make


@pytest.mark.parametrize("blocks", range(BLOCKS + 1))
@pytest.mark.parametrize("pooler", [False, True])
def test_exactly_the_pooler_and_the_top_blocks_change(build, blocks, pooler):
    base, drawn = build(None), build(blocks, pooler)
    tops = tuple(f"bert.encoder.layer.{i}." for i in range(BLOCKS - blocks, BLOCKS))
    expected = {name for name in base if name.startswith(tops) or (pooler and name.startswith("bert.pooler."))}
    assert len(expected) == 16 * blocks + 2 * pooler
    assert {name for name in base if not torch.equal(base[name], drawn[name])} == expected
    for name in expected:
        if "LayerNorm.weight" in name:
            assert (drawn[name] == 1).all(), name
        elif name.endswith("bias"):
            assert not drawn[name].any(), name


def test_the_draw_has_the_moments_of_the_config(build):
    drawn = build(BLOCKS)
    matrices = {name: value for name, value in drawn.items() if "layer." in name and value.ndim == 2}
    matrices["pooler"] = drawn["bert.pooler.dense.weight"]
    assert len(matrices) == 6 * BLOCKS + 1
    for name, value in matrices.items():  # five standard errors
        n = value.numel()
        assert abs(value.mean().item()) < 5 * STD / math.sqrt(n), name
        assert abs(value.std().item() / STD - 1) < 5 / math.sqrt(2 * n), name
        assert value.abs().max() < 6 * STD, name
    everything = torch.cat([value.flatten() for value in matrices.values()]) / STD
    assert abs((everything**4).mean().item() - 3) < 0.1  # a normal distribution, not a truncated or uniform one
    flat = [value.flatten()[:4096] for value in matrices.values()]
    assert len({tuple(value[:8].tolist()) for value in flat}) == len(flat)  # no two share a stream


def test_the_head_is_that_of_the_baseline(build):
    base = build(None)
    for blocks, pooler in ((0, False), (0, True), (2, True), (BLOCKS, False)):
        drawn = build(blocks, pooler)
        assert torch.equal(drawn["classifier.weight"], base["classifier.weight"])
        assert not drawn["classifier.bias"].any()
    assert not torch.equal(build(None, seed=2)["classifier.weight"], base["classifier.weight"])
    assert abs(base["classifier.weight"].std().item() / STD - 1) < 5 / math.sqrt(2 * 128)


def test_the_seed_decides_and_more_blocks_keep_the_draw_of_the_upper(build):
    assert all(torch.equal(value, build(2)[name]) for name, value in build(2).items())
    top = f"bert.encoder.layer.{BLOCKS - 1}.attention.self.query.weight"
    assert not torch.equal(build(2)[top], build(2, seed=2)[top])
    assert torch.equal(build(1)[top], build(3)[top])


def test_with_the_embeddings_nothing_pretrained_is_left(build):
    base, blocks, everything = build(None), build(BLOCKS), build(BLOCKS, embeddings=True)
    kept = {name for name in base if torch.equal(base[name], everything[name])}
    assert kept == {"classifier.weight", "classifier.bias"}
    embeddings = {name for name in base if name.startswith("bert.embeddings.")}
    assert {name for name in base if not torch.equal(blocks[name], everything[name])} == embeddings
    words = everything["bert.embeddings.word_embeddings.weight"]
    assert not words[0].any()  # the padding token, which the initialiser of BERT leaves at 0
    assert abs(words[1:].std().item() / STD - 1) < 5 / math.sqrt(2 * words[1:].numel())
    assert (everything["bert.embeddings.LayerNorm.weight"] == 1).all()


def test_the_draw_leaves_the_global_generator_alone(build):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_blocks_than_there_are_is_an_error(build):
    with pytest.raises(UserError, match=f"reinit.blocks: {BLOCKS + 1} is more than the {BLOCKS} blocks"):
        build(BLOCKS + 1)


def test_a_module_without_a_rule_is_not_passed_over():
    with pytest.raises(UserError, match=r"model's Conv1d cannot .*re-initialized: .* no rule .* \(weight, bias\)"):
        draw_weights(torch.nn.Sequential(torch.nn.Conv1d(3, 2, 1)), 0.02, torch.Generator())


TOPS = {  # where the blocks are that Re-init draws
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "xlnet": "transformer.layer",
    "electra": "electra.encoder.layer",
    "bart": "model.decoder.layers",
    "distilbert": "distilbert.transformer.layer",
    "gpt2": "transformer.h",
    "deberta-v2": "deberta.encoder.layer",
}
STD_FIELD = {"bart": "init_std"}
HEADS = ("classifier.", "classification_head.", "sequence_summary.", "logits_proj.", "pre_classifier.", "score.")


@pytest.fixture
def weights_of(family_run):
    """Returns a maker of a tiny family's weights as a run starts with them; fresh ones have the deviation `STD`."""

    def make(family: str, seed: int = 1, **reinit) -> dict[str, torch.Tensor]:
        dotted = {"seeds": {"init": seed, "data": 1}}
        if reinit:
            dotted["reinit"] = {"pooler": False, "blocks": 0, **reinit}
        if family not in ("bert", "roberta", "albert", "xlnet", "electra", "bart"):
            dotted["model.structure"] = {"blocks": (TOPS[family],)}
        run, sources = family_run(family, values={STD_FIELD.get(family, "initializer_range"): STD}, **dotted)
        return build_model(run.config, sources)[0].state_dict()

    return make


def is_norm(name: str) -> bool:
    part = name.rpartition(".")[0].rpartition(".")[2]
    return "norm" in part.lower() or part in ("ln_1", "ln_2")


@pytest.mark.parametrize("blocks", [1, TINY_BLOCKS])
@pytest.mark.parametrize("family", TOPS)
def test_each_family_draws_its_top_blocks_as_its_initialiser_does(weights_of, family, blocks):
    """Nothing else changes by a bit; biases become 0 but for those of XLNet's attention; BART keeps its LayerNorms."""
    base, drawn = weights_of(family), weights_of(family, blocks=blocks)
    tops = tuple(f"{TOPS[family]}.{i}." for i in range(TINY_BLOCKS - blocks, TINY_BLOCKS))
    expected = {name for name in base if name.startswith(tops) and not (family == "bart" and is_norm(name))}
    assert {name for name in base if not torch.equal(base[name], drawn[name])} == expected
    random = []
    for name in expected:
        if is_norm(name):
            assert (drawn[name] == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith(".bias"):
            assert not drawn[name].any(), name
        else:
            random.append(drawn[name].flatten())
    assert len(random) >= (4 if family == "gpt2" else 6) * blocks  # which reads q, k and v from one matrix
    everything = torch.cat(random) / STD
    n = everything.numel()
    assert abs(everything.mean().item()) < 5 / math.sqrt(n)
    assert abs(everything.std().item() - 1) < 5 / math.sqrt(2 * n)
    assert abs((everything**4).mean().item() - 3) < 5 * math.sqrt(96 / n)
    assert len({tuple(value[:4].tolist()) for value in random}) == len(random)


def test_xlnet_draws_all_that_its_attention_holds(weights_of):
    base, drawn = weights_of("xlnet"), weights_of("xlnet", blocks=1)
    raw = ("q", "k", "v", "o", "r", "r_r_bias", "r_s_bias", "r_w_bias", "seg_embed")
    for name in raw:
        key = f"transformer.layer.{TINY_BLOCKS - 1}.rel_attn.{name}"
        assert not torch.isclose(base[key], drawn[key]).all(), key
        assert drawn[key].any()
        assert drawn[key].abs().max() < 6 * STD, key


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_pooler_of_a_family_that_has_one(weights_of, family):
    base, drawn = weights_of(family), weights_of(family, pooler=True)
    changed = {name for name in base if not torch.equal(base[name], drawn[name])}
    assert changed == {name for name in base if name.startswith(f"{family}.pooler.")}
    assert len(changed) == 2


@pytest.mark.parametrize("family", [*TOPS, "albert"])
def test_the_head_of_every_family_is_that_of_the_baseline(weights_of, family):
    reinit = {"pooler": True} if family == "albert" else {"blocks": 2}
    base, drawn, other = weights_of(family), weights_of(family, **reinit), weights_of(family, seed=2)
    head = {name for name in base if name.startswith(HEADS) or (family == "deberta-v2" and name.startswith("pooler."))}
    assert head
    for name in head:
        assert torch.equal(base[name], drawn[name]), name
        if name.endswith("bias"):
            assert not base[name].any(), name
        else:
            assert not torch.equal(base[name], other[name]), name
            n = base[name].numel()
            assert abs(base[name].std().item() / STD - 1) < 5 / math.sqrt(2 * n), name
    assert {name for name in base if not torch.equal(base[name], other[name])} == {
        name for name in head if not name.endswith("bias")
    }


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet", "electra"])
def test_from_scratch_nothing_pretrained_is_left_in_any_family(weights_of, family):
    reinit = {"blocks": TINY_BLOCKS, "embeddings": True, "pooler": family == "bert"}
    base, drawn = weights_of(family), weights_of(family, **reinit)
    kept = {name for name in base if torch.equal(base[name], drawn[name]) and not name.startswith(HEADS)}
    assert kept == ({"transformer.mask_emb"} if family == "xlnet" else set())


def test_described_embeddings_are_drawn(family_run):
    structure = {"blocks": ("transformer.h",), "embeddings": ("transformer.wte", "transformer.wpe")}
    reinit = {"pooler": False, "blocks": 1, "embeddings": True}
    run, sources = family_run(
        "gpt2", values={"initializer_range": STD}, **{"model.structure": structure}, reinit=reinit
    )
    words = build_model(run.config, sources)[0].state_dict()["transformer.wte.weight"]
    assert abs(words.std().item() / STD - 1) < 5 / math.sqrt(2 * words.numel())


def test_a_described_block_without_a_rule_is_a_sentence_before_the_run(family_run):
    structure = {"blocks": ("mobilebert.encoder.layer",), "pooler": "mobilebert.pooler"}
    settings = {"model.structure": structure, "reinit": {"pooler": True, "blocks": 1}}
    run, sources = family_run("mobilebert", **settings)
    with pytest.raises(UserError, match=r"model's NoNorm cannot .*re-initialized: .*\(bias, weight\)"):
        load_pretrained(run.config, sources)
