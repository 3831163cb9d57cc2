"""Re-init (Z sec. 5): exactly the pooler and the top blocks are drawn anew, from the right distribution."""

import math

import pytest
import torch
from test_train import make_folder

from stableft.errors import UserError
from stableft.locate import folder_digest
from stableft.model import build_model
from stableft.plan import Sources
from stableft.reinit import draw_weights

BLOCKS, STD = 4, 0.05


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_tokenizer, make_config):
    def odd(model) -> None:  # so that biases and LayerNorms, 0 and 1 from the start, differ from what is drawn
        for tensor in model.parameters():
            tensor.add_(0.25)

    sizes = {"hidden_size": 64, "num_hidden_layers": BLOCKS, "intermediate_size": 128, "initializer_range": STD}
    folder = make_folder(tmp_path_factory.mktemp("wide") / "wide", tiny_tokenizer, odd, **sizes)

    def make(
        blocks: int | None, pooler: bool = True, seed: int = 1, embeddings: bool | None = None
    ) -> dict[str, torch.Tensor]:
        reinit = None if blocks is None else {"pooler": pooler, "blocks": blocks, "embeddings": embeddings}
        config = make_config(
            **{"reinit": reinit, "model.sha256": folder_digest(folder), "seeds": {"init": seed, "data": 1}}
        )
        return build_model(config, Sources(paths={folder_digest(folder): folder}))[0].state_dict()

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
    with pytest.raises(AssertionError, match="no rule for drawing Conv1d"):
        draw_weights(torch.nn.Sequential(torch.nn.Conv1d(3, 2, 1)), 0.02, torch.Generator())
