"""The one optimizer against torch's, and against each variant written out in float64."""

import copy
import math

import pytest
import torch
from support.training_runs import count_updates
from torch.utils._python_dispatch import TorchDispatchMode

from stableft.methods.adamw import AdamW

SHAPES = [(7, 5), (5,), (3, 4, 2)]
LR, BETAS, EPS, DECAY = 3e-3, (0.9, 0.999), 1e-6, 0.1


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(steps=20, small=False):
    """Gradients of very different sizes; around epsilon where its placement matters."""
    generator = torch.Generator().manual_seed(1)
    scale = EPS if small else 1.0
    return [
        [torch.randn(shape, generator=generator) * scale * (i + 1) for i, shape in enumerate(SHAPES)]
        for _ in range(steps)
    ]


def run(optimizer, params, grads, lrs=None):
    for t, step_grads in enumerate(grads):
        for p, g in zip(params, step_grads, strict=True):
            p.grad = g.to(p.dtype).clone()
        if lrs:
            for group in optimizer.param_groups:
                group["lr"] = lrs[t]
        optimizer.step()
    return params


def written_out(grads, lrs, *, bias_correction, eps_placement, decay_order, weight_decay, towards=0.0):
    """Every variant as a formula, in float64; the decay is towards `towards` times the first weights."""
    params = [p.detach().double() for p in parameters()]
    b1, b2 = BETAS
    for i, p in enumerate(params):
        target = towards * p
        m, v = torch.zeros_like(p), torch.zeros_like(p)
        for t, step_grads in enumerate(grads, 1):
            g, lr = step_grads[i].double(), lrs[t - 1]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            c1, c2 = (1 - b1**t, 1 - b2**t) if bias_correction else (1.0, 1.0)
            if eps_placement == "after_correction":
                update = lr * (m / c1) / ((v / c2).sqrt() + EPS)
            else:
                update = lr * math.sqrt(c2) / c1 * m / (v.sqrt() + EPS)
            if decay_order == "before":
                p -= lr * weight_decay * (p - target)
            p -= update
            if decay_order == "after":
                p -= lr * weight_decay * (p - target)
    return params


def test_twenty_steps_equal_torch():
    ours, theirs = parameters(), parameters()
    run(AdamW(ours, LR, BETAS, EPS, DECAY, True, "after_correction", "before"), ours, gradients())
    run(torch.optim.AdamW(theirs, LR, BETAS, EPS, DECAY), theirs, gradients())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def copies(params):
    return {p: p.detach().clone() for p in params}


@pytest.mark.parametrize("towards", [0.0, 1.0])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, DECAY, 30.0])
@pytest.mark.parametrize("decay_order", ["before", "after"])
@pytest.mark.parametrize(
    ("bias_correction", "eps_placement"),
    [(True, "after_correction"), (True, "before_correction"), (False, None)],
)
def test_every_switch_equals_the_formula(bias_correction, eps_placement, decay_order, weight_decay, small, towards):
    grads, params = gradients(small=small), parameters()
    lrs = [LR * (t + 1) / 20 for t in range(20)]
    targets = copies(params) if towards else {}
    optimizer = AdamW(params, LR, BETAS, EPS, weight_decay, bias_correction, eps_placement, decay_order, targets)
    run(optimizer, params, grads, lrs)
    expected = written_out(
        grads,
        lrs,
        bias_correction=bias_correction,
        eps_placement=eps_placement,
        decay_order=decay_order,
        weight_decay=weight_decay,
        towards=towards,
    )
    for p, start, e in zip(params, parameters(), expected, strict=True):
        moved = (e - start.detach().double()).abs().max()
        assert moved > 1e-4
        torch.testing.assert_close(p.detach().double(), e, rtol=1e-6, atol=2e-6 * float(moved))


def test_placement_of_epsilon_matters_sixteenfold_at_the_first_step():
    """M's form moves 6.1e-7 where torch's moves 1.0e-5, for |g| = eps = 1e-6 and lr 2e-5."""
    moved = {}
    for placement in ("before_correction", "after_correction"):
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = AdamW([p], 2e-5, eps=1e-6, eps_placement=placement)
        run(optimizer, [p], [[torch.tensor([1e-6], dtype=torch.float64)]])
        moved[placement] = -p.item()
    assert moved["before_correction"] == pytest.approx(6.1e-7, rel=0.02)
    assert moved["after_correction"] == pytest.approx(1.0e-5, rel=0.02)


VARIANTS = [
    (True, "after_correction", "before"),
    (True, "before_correction", "after"),
    (False, None, "after"),
    (False, None, "before"),
]


@pytest.mark.parametrize("target", [0.0, 0.5])
def test_decay_alone_has_a_closed_form(target):
    """Without gradients, 10 steps of rate r leave (1 - r)^10 of the way to the target."""
    params = parameters()
    targets = {p: torch.full_like(p, target) for p in params} if target else {}
    optimizer = AdamW(params, 0.1, weight_decay=0.4, targets=targets)
    run(optimizer, params, [[torch.zeros(s) for s in SHAPES]] * 10)
    for p, start in zip(params, parameters(), strict=True):
        torch.testing.assert_close(p, target + (start - target) * 0.96**10, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(("bias_correction", "eps_placement", "decay_order"), VARIANTS)
def test_the_papers_small_decay_keeps_its_size_in_float32(bias_correction, eps_placement, decay_order, as_tensor):
    """At 1 - 1e-7, a factor rounds to 1 - 1.19e-7; 2,000 steps of it have decayed by 15 % too much."""
    lr, decay, steps = 1e-5, 0.01, 2000
    start = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 0.05
    p = torch.nn.Parameter(start.clone())
    rate = torch.tensor(lr) if as_tensor else lr
    optimizer = AdamW([p], rate, BETAS, EPS, decay, bias_correction, eps_placement, decay_order)
    run(optimizer, [p], [[torch.zeros_like(p)]] * steps)
    exact = start.double() * (1 - lr * decay) ** steps - start.double()
    moved = p.detach().double() - start.double()
    assert float((moved * exact).sum() / (exact * exact).sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("towards", [False, True])
@pytest.mark.parametrize(("bias_correction", "eps_placement", "decay_order"), VARIANTS)
def test_a_skipped_step_changes_nothing(bias_correction, eps_placement, decay_order, towards):
    """A real GradScaler: with inf among the gradients, weights, moments and counts stay; all goes on as without."""
    grads = gradients(6)
    poisoned = [*copy.deepcopy(grads[:3]), [torch.full(s, math.inf) for s in SHAPES], *copy.deepcopy(grads[3:])]

    def train(all_grads):
        params = parameters()
        targets = {p: torch.zeros_like(p) for p in params} if towards else {}
        optimizer = AdamW(params, LR, BETAS, EPS, DECAY, bias_correction, eps_placement, decay_order, targets)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=10**6)
        for step_grads in all_grads:
            # The gradient of sum(p * g) is g, so the scaler really scales and unscales, and really sees inf.
            scaler.scale(sum((p * g).sum() for p, g in zip(params, step_grads, strict=True))).backward()
            scaler.unscale_(optimizer)
            before = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])
            scaler.step(optimizer)
            if not torch.isfinite(step_grads[0]).all():
                assert all(torch.equal(p, q) for p, q in zip(params, before[0], strict=True))
                for index, state in optimizer.state_dict()["state"].items():
                    assert all(torch.equal(value, before[1][index][key]) for key, value in state.items())
            scaler.update()
            optimizer.zero_grad()
        return params, optimizer

    (clean, _), (skipped, optimizer) = train(grads), train(poisoned)
    for a, b in zip(clean, skipped, strict=True):
        assert torch.equal(a, b)
    assert {state["step"].item() for state in optimizer.state.values()} == {6.0}
    assert count_updates(optimizer) == 6


@pytest.mark.parametrize(("bias_correction", "eps_placement", "decay_order"), VARIANTS)
def test_saved_and_loaded_goes_on_bitwise(bias_correction, eps_placement, decay_order, tmp_path):
    grads = gradients(8)
    switches = (LR, BETAS, EPS, DECAY, bias_correction, eps_placement, decay_order)
    straight = parameters()
    run(AdamW(straight, *switches), straight, grads)

    params = parameters()
    optimizer = AdamW(params, *switches)
    run(optimizer, params, grads[:4])
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    params = [torch.nn.Parameter(p.detach()) for p in state["params"]]
    optimizer = AdamW(params, *switches)
    optimizer.load_state_dict(state["optimizer"])
    run(optimizer, params, grads[4:])
    for a, b in zip(straight, params, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loaded", [False, True])
def test_parameters_without_a_gradient_are_not_counted(loaded):
    """Parameters share a step count as long as they are updated together, and torch's have one each."""
    ours, theirs = parameters(), parameters()
    optimizer, torchs = AdamW(ours, LR, BETAS, EPS), torch.optim.AdamW(theirs, LR, BETAS, EPS, 0.0, fused=True)
    for step, step_grads in enumerate(gradients(6)):
        for params in (ours, theirs):
            for i, (p, g) in enumerate(zip(params, step_grads, strict=True)):
                p.grad = None if (i == 1 and step in (0, 3)) or (i == 2 and step in (2, 3, 4)) else g.clone()
        optimizer.step()
        torchs.step()
        if loaded:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
    assert [optimizer.state[p]["step"].item() for p in ours] == [6.0, 4.0, 3.0]


def test_learning_rate_as_tensor_equals_number():
    for switches in VARIANTS:
        a, b = parameters(), parameters()
        run(AdamW(a, LR, BETAS, EPS, DECAY, *switches), a, gradients(5))
        run(AdamW(b, torch.tensor(LR), BETAS, EPS, DECAY, *switches), b, gradients(5))
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_a_scaler_may_unscale_in_the_kernel():
    """Without `unscale_` the scaler hands its scale to the kernel; afterwards the optimizer works without a scaler."""
    ours, theirs = parameters(), parameters()
    optimizer, scaler = AdamW(ours, LR), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(sum((p * g).sum() for p, g in zip(ours, gradients()[0], strict=True))).backward()
    scaler.step(optimizer)
    run(optimizer, ours, gradients()[1:])
    run(AdamW(theirs, LR), theirs, gradients())
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert count_updates(optimizer) == 20


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"eps": math.nan}, "eps must be"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"eps_placement": None}, "eps_placement must be"),
        ({"weight_decay": 0.1, "decay_order": None}, "decay_order must be"),
    ],
)
def test_bad_switches_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        AdamW(parameters(), **switches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("towards", [False, True])
@pytest.mark.parametrize(("bias_correction", "eps_placement", "decay_order"), VARIANTS)
def test_on_a_gpu_as_on_the_cpu(bias_correction, eps_placement, decay_order, towards):
    switches = (LR, BETAS, EPS, DECAY, bias_correction, eps_placement, decay_order)
    cpu, gpu = parameters(), [torch.nn.Parameter(p.detach().cuda()) for p in parameters()]
    run(AdamW(cpu, *switches, copies(cpu) if towards else {}), cpu, gradients())
    grads = [[g.cuda() for g in step] for step in gradients()]
    run(AdamW(gpu, *switches, copies(gpu) if towards else {}), gpu, grads)
    for a, b in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=2e-6, atol=2e-6)  # 20 updates round up to 1e-6 each way


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_decay_towards_targets_is_a_lerp_with_a_scaler_too(found_inf):
    params, expected = parameters(), parameters()
    for p in params:
        p.grad = torch.zeros_like(p)
    targets = {p: torch.full_like(p, 0.3) for p in params}
    optimizer = AdamW(params, 0.1, weight_decay=0.4, decay_order="after", targets=targets)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    for p, start in zip(params, expected, strict=True):
        torch.testing.assert_close(p, start.lerp(targets[p], 0.04 * (1 - found_inf)), rtol=1e-7, atol=1e-7)


class Pulls(TorchDispatchMode):
    """Counts the numbers that each operation on a list of tensors allocates."""

    def __init__(self):
        super().__init__()
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, list | tuple):
            self.numbers.append(sum(tensor.numel() for tensor in output))
        return output


@pytest.mark.parametrize("towards", [0.0, 1.0])
def test_decay_by_a_rate_on_the_device_takes_little_memory_and_changes_no_bit(monkeypatch, towards):
    """The bits are those of one pull of all weights, of 64 numbers in all."""
    params, rate = parameters(), torch.tensor(0.04)
    targets = {p: towards * torch.full_like(p, 0.3) for p in params} if towards else {}
    expected = [p.detach() + (targets[p] - p.detach() if towards else -p.detach()) * rate for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = AdamW(params, 0.1, weight_decay=0.4, decay_order="after", targets=targets)
    optimizer.found_inf = torch.tensor(0.0)
    monkeypatch.setattr("stableft.methods.adamw.PULLED_NUMBERS", 30)
    with Pulls() as pulls:
        optimizer.step()
    assert [number for number in pulls.numbers if number] == [35, 29]
    for p, e in zip(params, expected, strict=True):
        assert torch.equal(p, e)


def test_moments_are_allocated_at_most_once():
    params = parameters()
    optimizer = AdamW(params)
    optimizer.allocate_moments()
    kept = optimizer.state[params[0]]["exp_avg"]
    run(optimizer, params, gradients(2))
    assert optimizer.state[params[0]]["exp_avg"] is kept
    assert kept.any()
    assert len(optimizer.state) == len(params)
