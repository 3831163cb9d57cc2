"""Mixout's mathematics: the mixed weight, its mean and gradient, on single modules and on whole models."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.config.run_config import Mixout
from stableft.errors import UserError
from stableft.methods.mixout import MixoutConv1D, MixoutLinear, apply_mixout, mixout_linear, seed_mixout_masks
from stableft.models.load import load_pretrained, quiet_transformers

OTHER = BackboneSpec("other", "other", (), (), None, (), "")
EVERY_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")


def mixout(p, granularity="parameter", scope="linear") -> Mixout:
    return Mixout(p=p, target="pretrained", granularity=granularity, scope=scope)


def move(model: nn.Module, seed: int = 5) -> None:
    """Moves every weight away from its target, by the same for models of the same names."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=random)


def small(p, granularity="parameter", kind=nn.Linear, bias=True):
    """Returns a module of 7 inputs and 5 outputs in float64, and its target [outputs, inputs]."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 5, bias=bias) if kind is nn.Linear else Conv1D(5, 7)
    model = nn.Sequential(layer).double()
    apply_mixout(model, OTHER, mixout(p, granularity))
    target = weight_of(model[0]).detach().clone()
    move(model)
    seed_mixout_masks(model, 1, 0)
    return model, target


def weight_of(module) -> torch.Tensor:
    return module.weight.t() if isinstance(module, Conv1D) else module.weight


def in_use(module) -> torch.Tensor:
    """Returns the mixed weight, [outputs, inputs], from what the module makes of the identity."""
    weight = weight_of(module).detach()
    return mixout_linear(torch.eye(weight.shape[1], dtype=weight.dtype), weight, None, module.mixing).t()


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("granularity", ["parameter", "column"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_weight_is_the_target_or_corrected_for_it_and_in_the_mean_itself(p, granularity, kind):
    model, target = small(p, granularity, kind)
    weight, draws = weight_of(model[0]).detach(), 500
    total, replaced = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(draws):
        seed_mixout_masks(model, 1, step)
        mixed = in_use(model[0])
        m = (mixed == target).double()
        torch.testing.assert_close(mixed, (m * target + (1 - m) * weight - p * target) / (1 - p))
        if granularity == "column":
            assert torch.equal(m, m[:1].expand_as(m))
        total += mixed
        replaced += m
    error = (weight - target).abs() * math.sqrt(p / (1 - p) / draws)  # of the mean
    assert ((total / draws - weight).abs() < 5 * error).all()
    assert ((replaced / draws - p).abs() < 5 * math.sqrt(p * (1 - p) / draws)).all()
    rows, columns = replaced[:, :1] != replaced, replaced[:1] != replaced
    assert rows.any()
    assert columns.any() == (granularity == "parameter")


@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
@pytest.mark.parametrize("granularity", ["parameter", "column"])
@pytest.mark.parametrize("p", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_the_gradient_is_that_of_finite_differences(p, granularity, kind, bias, shape):
    model, target = small(p, granularity, kind, bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def output(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *model.parameters()))
    replaced = in_use(model[0]) == target
    gradient = torch.autograd.grad(output(x, *model.parameters()).square().sum(), model[0].weight)[0]
    gradient = gradient.t() if kind is Conv1D else gradient
    assert torch.equal(gradient == 0, replaced)  # nothing reaches what was replaced
    assert replaced.all() or p < 1


@pytest.mark.parametrize("granularity", ["parameter", "column"])
def test_p_1_is_the_target(granularity):
    model, target = small(1.0, granularity)
    x = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(model(x), x @ target.t() + model[0].bias)
    torch.testing.assert_close(model.eval()(x), x @ model[0].weight.t() + model[0].bias)


def load(folder, name, dtype=torch.float64):
    """Returns a stock model without dropout, in training mode."""
    config = AutoConfig.from_pretrained(folder)
    for field in BACKBONES[name].dropouts if name in BACKBONES else EVERY_DROPOUT:
        setattr(config, field, 0.0)
    config.pad_token_id = 0  # GPT-2 has none
    torch.manual_seed(0)  # of the head
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=dtype).train()


def loss_of(model) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    ids = torch.randint(5, model.config.vocab_size, (4, 11), generator=random)
    if model.config.eos_token_id is not None:  # BART reads its last position
        ids[:, -1] = model.config.eos_token_id
    return nn.functional.cross_entropy(model(ids).logits, torch.tensor([0, 1, 1, 0]))


@pytest.mark.filterwarnings("ignore")  # of families that warn when they are loaded
@pytest.mark.parametrize("granularity", ["parameter", "column"])
@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "xlnet", "electra", "bart", "gpt2", "deberta-v2"])
def test_every_family_is_its_stock_model_with_mixed_weights(tiny_family, name, granularity):
    """One mask per weight, ALBERT's block included, wherever the weight is used; the exact gradient everywhere."""
    p, folder, dtype = 0.6, tiny_family(name), torch.float32 if name == "xlnet" else torch.float64  # all that it can do
    stock, model = load(folder, name, dtype), load(folder, name, dtype)
    apply_mixout(model, BACKBONES.get(name, OTHER), mixout(p, granularity))
    targets = {path: value.clone() for path, value in stock.state_dict().items()}
    move(stock)
    move(model)
    seed_mixout_masks(model, 1, 0)
    factors = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, (MixoutLinear, MixoutConv1D)):
                mixed = in_use(module).t() if isinstance(module, MixoutConv1D) else in_use(module)
                factors[f"{path}.weight"] = (mixed != targets[f"{path}.weight"]) / (1 - p)
                stock.get_parameter(f"{path}.weight").copy_(mixed)
    linears = [path for path, part in stock.named_modules() if isinstance(part, (nn.Linear, Conv1D))]
    assert factors.keys() == {f"{path}.weight" for path in linears}
    loss, expected = loss_of(model), loss_of(stock)
    near = {"rtol": 1e-4, "atol": 1e-5} if name == "xlnet" else {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(loss, expected, **near)
    loss.backward()
    expected.backward()
    for path, weight in model.named_parameters():
        gradient = stock.get_parameter(path).grad
        if gradient is None:
            assert weight.grad is None
            continue
        torch.testing.assert_close(weight.grad, gradient * factors.get(path, 1.0), **near, msg=path)


@pytest.mark.parametrize("granularity", ["parameter", "column"])
def test_the_gradient_of_a_whole_model_is_that_of_finite_differences(tiny_family, granularity):
    model = load(tiny_family("bert"), "bert")
    apply_mixout(model, BACKBONES["bert"], mixout(0.5, granularity))
    move(model)
    seed_mixout_masks(model, 1, 0)
    loss_of(model).backward()
    directions = [torch.randn_like(weight) for weight in model.parameters()]
    slope = sum((w.grad * d).sum() for w, d in zip(model.parameters(), directions, strict=True) if w.grad is not None)
    losses = []
    for size in (1e-5, -2e-5):
        with torch.no_grad():
            for weight, direction in zip(model.parameters(), directions, strict=True):
                weight += size * direction
            losses.append(loss_of(model).item())
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope.item(), rel=1e-5)


def test_draws_differ_between_steps_seeds_and_modules_and_nothing_else(tiny_family):
    model = load(tiny_family("bert"), "bert")
    apply_mixout(model, BACKBONES["bert"], mixout(0.5))
    move(model)

    def masks(seed, step):
        seed_mixout_masks(model, seed, step)
        parts = [part for part in model.modules() if isinstance(part, MixoutLinear)]
        return [in_use(part) == part.mixing.target for part in parts if part.weight.shape == (16, 16)]

    before = torch.get_rng_state()
    draws = [masks(seed, step) for seed, step in ((1, 0), (1, 1), (2, 0))]
    flat = {tuple(mask.flatten().tolist()) for draw in draws for mask in draw}
    assert len(flat) == 3 * len(draws[0])
    torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(masks(1, 0), draws[0], strict=True))
    torch.set_rng_state(before)
    masks(3, 0)
    assert torch.equal(torch.get_rng_state(), before)  # dropout's stream is left alone


def test_the_scope_leaves_out_what_no_dropout_stands_before(tiny_family):
    def mixed(name, scope):
        model = load(tiny_family(name), name)
        apply_mixout(model, BACKBONES[name], mixout(0.5, scope=scope))
        return {path for path, part in model.named_modules() if isinstance(part, MixoutLinear)}

    assert len(mixed("bert", "linear")) == 3 * 6 + 2
    left_out = mixed("bert", "linear") - mixed("bert", "after_dropout")
    assert left_out == {f"bert.encoder.layer.{i}.output.dense" for i in range(3)}
    assert "classifier" in mixed("bert", "after_dropout")
    assert mixed("bart", "linear") == mixed("bart", "after_dropout")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_is_torch_with_the_mixed_weight(tiny_family, dtype):
    """The same rounding as torch's own linear, gradients in float32, with a scaled loss."""
    stock, model = (load(tiny_family("bert"), "bert", torch.float32) for _ in range(2))
    apply_mixout(model, BACKBONES["bert"], mixout(0.5))
    move(stock)
    move(model)
    seed_mixout_masks(model, 1, 0)
    kept = {}
    with torch.no_grad():
        for path, part in model.named_modules():
            if isinstance(part, MixoutLinear):
                stock.get_parameter(f"{path}.weight").copy_(in_use(part))
                kept[f"{path}.weight"] = 2.0 * (in_use(part) != part.mixing.target)
    losses = []
    for each in (model, stock):
        with torch.autocast("cpu", dtype):
            losses.append(loss_of(each))
        (losses[-1] * 64).backward()
    assert torch.equal(*losses)
    for path, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        expected = stock.get_parameter(path).grad * kept.get(path, 1.0)
        assert (weight.grad - expected).norm() <= 0.02 * expected.norm() + 1e-3, path


def test_nothing_of_a_weights_size_is_kept_but_the_target():
    model = nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 40))
    apply_mixout(model, OTHER, mixout(0.5))
    seed_mixout_masks(model, 1, 0)
    there = {part.untyped_storage().data_ptr() for m in (model[0], model[2]) for part in (m.weight, m.mixing.target)}
    sizes = []

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in there:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.randn(3, 40)).sum().backward()
    assert sizes
    assert max(sizes) == 3 * 50  # inputs and outputs, no weight or mask of 2,000


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_an_output_may_be_changed_in_place(shape):
    """As Longformer and DeBERTa do."""
    x, gradients = torch.randn(shape), []
    for inplace in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Hardtanh(inplace=inplace), nn.Linear(5, 2))
        apply_mixout(model, OTHER, mixout(0.5))
        move(model)
        seed_mixout_masks(model, 1, 0)
        model(x).square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*gradients, strict=True))


def test_modules_that_share_a_weight_share_target_and_draw():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    apply_mixout(model, OTHER, mixout(0.5))
    move(model)
    seed_mixout_masks(model, 1, 0)
    assert torch.equal(in_use(model[0]), in_use(model[1]))
    assert model[0].mixing.target is model[1].mixing.target


def test_a_copy_stands_alone_and_names_stay():
    plain = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model = copy.deepcopy(plain)
    apply_mixout(model, OTHER, mixout(0.5))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert type(plain[0]) is nn.Linear
    seed_mixout_masks(model, 1, 0)
    other = copy.deepcopy(model)
    seed_mixout_masks(other, 1, 1)
    other[0].mixing.target.zero_()
    assert (model[0].mixing.seed, other[0].mixing.seed) != (other[0].mixing.seed,) * 2
    assert torch.equal(model[0].mixing.target, plain[0].weight)


def test_what_cannot_be_mixed_is_an_error():
    class Odd(nn.Linear):
        pass

    with pytest.raises(UserError, match=r"mixout: 0 .*model .*type Odd.*Mixout .*not support"):
        apply_mixout(nn.Sequential(Odd(2, 2)), OTHER, mixout(0.5))


def test_blocks_without_anything_to_mix_are_an_error_when_loaded(family_run):
    """SqueezeBERT's blocks are convolutions: only its pooler and head could be mixed."""
    run, sources = family_run("squeezebert", mixout=mixout(0.5).model_dump())
    with pytest.raises(UserError, match=r"squeezebert model .*no Linear module .*'linear'"):
        load_pretrained(run.config, sources)
    for other in ({"mixout": mixout(0.0).model_dump()}, {}):
        run, sources = family_run("squeezebert", **other)
        assert load_pretrained(run.config, sources)
