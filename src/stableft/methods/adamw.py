"""AdamW with switches for bias correction, epsilon placement and weight decay order, on torch's fused kernel.

The kernel computes `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. All variants use it. Given a huge t,
it applies no bias correction. If the correction is then multiplied into the learning rate, epsilon is added to the
uncorrected root, as in M eq. 2.

Weight decay subtracts `lr * wd * p`. The kernel does so on a GPU; on a CPU it multiplies by `1 - lr * wd`, which in
float32 is 19 % too far from 1 at the papers' lr 1e-5 and wd 0.01. There, and where the kernel has no such decay, it is
a separate operation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.catalog.model_families import BackboneSpec
from stableft.config.run_config import OptimizerConfig

EpsPlacement = Literal["before_correction", "after_correction"]
# In float32, 1 - beta^(2^26) rounds to 1, so that the kernel applies no correction.
UNCORRECTED_STEP = 2.0**26
# Decayed at once by a rate on a GPU. Each needs memory for a number more, so all of BERT-large's would take 1.3 GB.
PULLED_NUMBERS = 2**25


class AdamW(torch.optim.Optimizer):
    """AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) with switches for the variants of Devlin et al.

    - `bias_correction`: False is BERTAdam (Z Alg. 1 without lines 9-10).
    - `eps_placement`: `before_correction` adds epsilon to sqrt(v) and corrects afterwards (M eq. 1-2, older Hugging
      Face versions), `after_correction` adds it to the corrected root (torch). None if `bias_correction` is False,
      since it would have no effect.
    - `decay_order`: decoupled weight decay `before` the Adam update (torch), or `after` it, on the updated weights
      (older Hugging Face versions). No effect if `weight_decay` is 0.
    - `targets`: parameter -> value that weight decay pulls it towards, instead of 0.

    `lr` may be a 0-dim tensor on the parameters' device. With a GradScaler, a step with inf or NaN gradients changes
    neither weights, moments nor step counts, and the CPU does not wait for the GPU. With `before_correction`, all
    parameters of a group must have had the same number of updates, because the correction is one number per group.

    Raises:
        ValueError: An argument is out of range, or a switch is missing.
    """

    # GradScaler then passes `grad_scale` and `found_inf` as tensors. Reading them would make the CPU wait for the GPU.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        eps_placement: EpsPlacement | None = "after_correction",
        decay_order: Literal["before", "after"] | None = "before",
        targets: Mapping[Tensor, Tensor] = MappingProxyType({}),
    ):
        # `fused` makes Optimizer.load_state_dict put the step counts on the parameters' device.
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "eps_placement": eps_placement,
            "decay_order": decay_order,
            "fused": True,
        }
        self._uncorrected_steps: dict[torch.device, Tensor] = {}
        self._device_lrs: dict[int, Tensor] = {}  # by group
        self._targets = targets
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a parameter group and add it."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        found_inf = getattr(self, "found_inf", None)  # GradScaler sets and deletes it around each step
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if len(params) < len(group["params"]):
                self._count_apart(params, [p for p in group["params"] if p.grad is None])
            if params:
                self._update_group(group, params, found_inf)

    def set_learning_rate(self, lr: float) -> None:
        """Set each group's learning rate to `lr` times its `lr_scale`.

        On a GPU it is a tensor that keeps its address, so that a recorded update reads the present value.
        """
        for number, group in enumerate(self.param_groups):
            device, value = group["params"][0].device, lr * group.get("lr_scale", 1.0)
            if device.type == "cpu":
                group["lr"] = value
            else:
                if number not in self._device_lrs:
                    self._device_lrs[number] = torch.empty((), dtype=torch.float32, device=device)
                group["lr"] = self._device_lrs[number].fill_(value)

    def allocate_moments(self) -> None:
        """Allocate the moments and step counts of every parameter that has none."""
        for group in self.param_groups:
            self._allocate(group["params"])

    def _allocate(self, params: Sequence[Tensor]) -> None:
        """Let those that have nothing yet share a step count, because to count for each takes long on small models."""
        step = torch.zeros((), dtype=torch.float32, device=params[0].device)
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = step
                self.state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and step counts. The present ones are freed first, so that the GPU need not hold both."""
        self.state.clear()
        super().load_state_dict(state_dict)

    def _count_apart(self, updated: list[Tensor], idle: list[Tensor]) -> None:
        """Give those that have no gradient this time a step count of their own."""
        counted = {id(self.state[p]["step"]) for p in updated if p in self.state}
        for p in idle:
            if p in self.state and id(self.state[p]["step"]) in counted:
                self.state[p]["step"] = self.state[p]["step"].clone()

    def _update_group(self, group: dict[str, Any], params: list[Tensor], found_inf: Tensor | None) -> None:
        self._allocate(params)
        steps = [self.state[p]["step"] for p in params]
        counts = list({id(step): step for step in steps}.values())
        device = params[0].device
        lr = group["lr"]
        eps_first = group["bias_correction"] and group["eps_placement"] == "before_correction"
        kernel_corrects = group["bias_correction"] and not eps_first
        torch._foreach_add_(counts, 1)  # pyright: ignore[reportPrivateImportUsage]
        if eps_first:
            lr = _bias_corrected_lr(lr, steps[0], group["betas"])
        # The kernel decays towards zero, at the learning rate it is given, which is the wrong one if it contains the
        # bias correction, and on a CPU by a rounded factor.
        targets = [self._targets[p] for p in params if p in self._targets] if group["weight_decay"] else []
        kernel_decays = group["decay_order"] == "before" and not eps_first and not targets and device.type != "cpu"
        own_decay = group["weight_decay"] and not kernel_decays
        if own_decay and group["decay_order"] == "before":
            _decay_weights(group, params, targets, found_inf)
        # torch's public function around this one counts the steps of every parameter.
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            steps if kernel_corrects else [self._uncorrected_step(device)] * len(params),
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=lr,
            weight_decay=group["weight_decay"] if kernel_decays else 0.0,
            eps=group["eps"],
            maximize=False,
        )
        if own_decay and group["decay_order"] == "after":
            _decay_weights(group, params, targets, found_inf)
        if found_inf is not None:  # 1.0 if the kernel skipped the update: do not count the step
            skipped = [found_inf.to(device)] * len(counts)
            torch._foreach_sub_(counts, skipped)  # pyright: ignore[reportPrivateImportUsage]

    def _uncorrected_step(self, device: torch.device) -> Tensor:
        if device not in self._uncorrected_steps:
            self._uncorrected_steps[device] = torch.full((), UNCORRECTED_STEP, dtype=torch.float32, device=device)
        return self._uncorrected_steps[device]


def _decay_weights(
    group: dict[str, Any], params: list[Tensor], targets: list[Tensor], found_inf: Tensor | None
) -> None:
    rate = group["lr"] * group["weight_decay"]
    if found_inf is not None:  # no decay in a skipped step; multiplied, so that the CPU need not read `found_inf`
        rate = rate * (1 - found_inf.to(params[0].device))
    if isinstance(rate, Tensor):  # lerp has no fast kernel for a weight on the GPU, nor has add for `alpha`
        for part in _parts_to_pull(params):
            if targets:
                pulls = torch._foreach_sub(params[part], targets[part])  # pyright: ignore[reportPrivateImportUsage]
                torch._foreach_mul_(pulls, rate)  # pyright: ignore[reportPrivateImportUsage]
            else:
                pulls = torch._foreach_mul(params[part], rate)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_sub_(params[part], pulls)  # pyright: ignore[reportPrivateImportUsage]
    elif targets:
        torch._foreach_lerp_(params, targets, rate)  # pyright: ignore[reportPrivateImportUsage]
    else:
        torch._foreach_add_(params, params, alpha=-rate)  # pyright: ignore[reportPrivateImportUsage]


def _parts_to_pull(params: list[Tensor]) -> Iterator[slice]:
    """Yield parts of the list that hold at most PULLED_NUMBERS, or one parameter that holds more."""
    start = numbers = 0
    for i, p in enumerate(params):
        if numbers and numbers + p.numel() > PULLED_NUMBERS:
            yield slice(start, i)
            start, numbers = i, 0
        numbers += p.numel()
    yield slice(start, len(params))


def _bias_corrected_lr(lr: float | Tensor, step: Tensor, betas: tuple[float, float]) -> Tensor:
    """Return lr * sqrt(1 - b2^t) / (1 - b1^t) (M eq. 1) as a tensor on the device of `step`."""
    t = step.double()  # in float32, 1 - b2^t loses most of its digits at small t
    return (lr * (1 - betas[1] ** t).sqrt() / (1 - betas[0] ** t)).float()


def _check_group(group: dict[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay"):
        if not isinstance(group[key], Tensor) and not 0 <= group[key] < float("inf"):
            raise ValueError(f"{key} must be at least 0 and finite, not {group[key]!r}")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas must be in [0, 1), not {group['betas']!r}")
    if group["bias_correction"] and group["eps_placement"] not in ("before_correction", "after_correction"):
        raise ValueError(
            f"with bias correction, eps_placement must be before_correction or after_correction, not "
            f"{group['eps_placement']!r}"
        )
    if group["weight_decay"] and group["decay_order"] not in ("before", "after"):
        raise ValueError(f"with weight decay, decay_order must be before or after, not {group['decay_order']!r}")


def build_optimizer(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> AdamW:
    """Return the optimizer of the model's trainable parameters.

    With `decay_towards: pretrained`, it keeps a copy of the current values of the decayed weights. Its moments are
    allocated, so that the first update needs no more memory than later ones.
    """
    groups = parameter_groups(model, config, spec)
    targets: dict[Tensor, Tensor] = {}
    if config.decay_towards == "pretrained":
        decayed = chain.from_iterable(group["params"] for group in groups if group["weight_decay"])
        targets = {p: p.detach().clone() for p in decayed}
    optimizer = AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        bias_correction=config.bias_correction,
        eps_placement=config.eps_placement,
        decay_order=config.decay_order,
        targets=targets,
    )
    optimizer.allocate_moments()
    return optimizer


def parameter_groups(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> list[dict[str, Any]]:
    """Return parameter groups with equal learning rate and weight decay; `lr_scale` multiplies the learning rate.

    Parameters whose name contains one of `no_decay`, such as "bias" or "LayerNorm.weight", are not decayed. The head
    has no pre-trained weights, so with `decay_towards: pretrained` it is decayed only if `decay_head` is set.
    """
    no_head = config.decay_towards == "pretrained" and not config.decay_head
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p, scale in _parameters_with_lr_scale(model, spec, 1.0 if config.llrd is None else config.llrd):
        exempt = any(part in name for part in config.no_decay) or (no_head and not _in_encoder(model, name))
        groups.setdefault((scale, 0.0 if exempt else config.weight_decay), []).append(p)
    return [
        {"params": params, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), params in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def _parameters_with_lr_scale(
    model: PreTrainedModel, spec: BackboneSpec, llrd: float
) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Yield name, parameter and factor on the learning rate (Howard and Ruder 2018; Z sec. 7.1).

    Everything above the blocks (head, pooler, a final norm) has the full rate, each block `llrd` times the rate of the
    level above it, and the embeddings `llrd` times that of the lowest block.
    """
    blocks = [f"{name}.{i}." for name in spec.blocks for i in range(len(list(model.get_submodule(name).children())))]
    levels = [tuple(f"{name}." for name in spec.embeddings), *blocks]  # from the bottom up
    for name, p in model.named_parameters():
        if p.requires_grad:
            level = next((i for i, parts in enumerate(levels) if name.startswith(parts)), len(levels))
            yield name, p, llrd ** (len(levels) - level)


def _in_encoder(model: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")
