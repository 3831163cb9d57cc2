"""Which parameter gets which rate and decay, on real models."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution
from stableft.config.run_config import ModelStructure
from stableft.methods.adamw import build_optimizer, parameter_groups
from stableft.models.compatibility import resolve_backbone
from stableft.models.load import quiet_transformers
from stableft.training.run import _train_on_next_batch
from stableft.training.setup import prepare_run
from stableft.training.step import learning_rate


def settings(make_config, **changes):
    return make_config(**{f"optimizer.{key}": value for key, value in changes.items()}).optimizer


@pytest.fixture
def model(tiny_model_folder):
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(tiny_model_folder)


def by_name(model, groups):
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p]: group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


def test_bias_and_layer_norm_are_not_decayed(model, make_config):
    config = settings(make_config, weight_decay=0.01, no_decay=("bias", "LayerNorm.weight"))
    for name, group in by_name(model, parameter_groups(model, config, BACKBONES["bert"])).items():
        assert group["weight_decay"] == (0.0 if "bias" in name or "LayerNorm" in name else 0.01)
        assert group["lr_scale"] == 1.0


def test_one_group_is_enough_without_exemptions(model, make_config):
    config = settings(make_config, weight_decay=0.01, no_decay=())
    assert len(parameter_groups(model, config, BACKBONES["bert"])) == 1


def test_every_block_has_its_own_rate(model, make_config):
    """Head and pooler at the full rate, block L of L at d, the lowest at d^L, the embeddings at d^(L+1)."""
    blocks = model.config.num_hidden_layers
    groups = by_name(model, parameter_groups(model, settings(make_config, llrd=0.9), BACKBONES["bert"]))
    for name, group in groups.items():
        if name.startswith(("classifier", "bert.pooler")):
            expected = 1.0
        elif name.startswith("bert.embeddings"):
            expected = 0.9 ** (blocks + 1)
        else:
            expected = 0.9 ** (blocks - int(name.split(".")[3]))
        assert group["lr_scale"] == pytest.approx(expected), name


def test_what_is_above_the_blocks_has_the_full_rate(make_config):
    """GPT-2's last norm works on the top block's output, so its rate is the head's, not the embeddings'."""
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    named = ModelStructure(blocks=("transformer.h",), embeddings=("transformer.wte", "transformer.wpe"))
    spec = resolve_backbone(make_config(**{"model.structure": named}).model, {"model_type": "gpt2"})
    groups = by_name(model, parameter_groups(model, settings(make_config, llrd=0.5), spec))
    rates = {name: group["lr_scale"] for name, group in groups.items()}
    expected = {"score.": 1.0, "transformer.ln_f.": 1.0, "transformer.h.1.": 0.5, "transformer.h.0.": 0.25}
    expected |= {"transformer.wte.": 0.125, "transformer.wpe.": 0.125}
    for name, rate in rates.items():
        assert rate == next(value for part, value in expected.items() if name.startswith(part)), name


@pytest.mark.parametrize("head", [False, True])
def test_pretrained_decay_leaves_out_the_head_unless_told(model, make_config, head):
    config = settings(
        make_config, weight_decay=0.1, decay_order="before", decay_towards="pretrained", decay_head=head, no_decay=()
    )
    for name, group in by_name(model, parameter_groups(model, config, BACKBONES["bert"])).items():
        assert group["weight_decay"] == (0.0 if name.startswith("classifier") and not head else 0.1), name


def test_weights_return_to_where_they_began(model, make_config):
    config = settings(
        make_config, lr=0.1, weight_decay=0.5, decay_order="before", decay_towards="pretrained", no_decay=("bias",)
    )
    optimizer = build_optimizer(model, config, BACKBONES["bert"])
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.data += 1.0
        p.grad = torch.zeros_like(p)
    for _ in range(10):
        optimizer.step()
    for name, p in model.named_parameters():
        left = 1.0 if "bias" in name or name.startswith("classifier") else 0.95**10
        torch.testing.assert_close(p, start[name] + left, rtol=1e-5, atol=1e-5)


def test_a_run_moves_its_blocks_at_their_rates(toy_run, toy_sources, tmp_path):
    """The first corrected Adam step moves every weight that has a gradient by its rate: what moved tells the rate."""
    settings = {"llrd": 0.5, "bias_correction": True, "eps": 1e-12, "eps_placement": "after_correction"}
    run = toy_run(
        **{f"optimizer.{key}": value for key, value in settings.items()},
        **{"optimizer.weight_decay": 0.0, "schedule.warmup": 0.0},
    )
    job, state = prepare_run(run, tmp_path, toy_sources, Execution())
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    lr = learning_rate(job.config, 0, job.total)
    _train_on_next_batch(job, state)
    blocks = state.model.config.num_hidden_layers
    levels = {"classifier": 0, "bert.pooler": 0, "bert.embeddings": blocks + 1}
    levels |= {f"bert.encoder.layer.{i}.": blocks - i for i in range(blocks)}
    for part, level in levels.items():
        moved = max(
            (p.detach() - before[n]).abs().max() for n, p in state.model.named_parameters() if n.startswith(part)
        )
        assert moved == pytest.approx(lr * 0.5**level, rel=0.01), part
