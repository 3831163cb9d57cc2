"""AdamW with switches for bias correction, the place of epsilon and the order of weight decay, on one fused kernel.

torch's fused kernel computes `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)` after `p *= 1 - lr * wd`.
Every other variant follows from it. Told that t is huge, it leaves the moments uncorrected; with the correction
multiplied into its learning rate instead, epsilon stands where M eq. 2 has it. A decay that the kernel cannot do is
one multiplication of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from stableft.catalog.model_families import BackboneSpec
from stableft.config.run_config import OptimizerConfig

EpsPlacement = Literal["before_correction", "after_correction"]
# In float32, 2^26 + 1 and 2^26 - 1 are 2^26, and 1 - beta^(2^26) is 1: the kernel neither counts nor corrects.
UNCORRECTED_STEP = 2.0**26


class AdamW(torch.optim.Optimizer):
    """AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) whose departures by Devlin et al. are switches.

    - `bias_correction`: False is BERTAdam (Z Alg. 1 without lines 9-10).
    - `eps_placement`: `before_correction` adds epsilon to sqrt(v) and corrects afterwards (M eq. 1-2, the old
      Hugging Face form), `after_correction` adds it to the corrected root (torch). Without an effect, and None, when
      `bias_correction` is False.
    - `decay_order`: decoupled weight decay `before` the Adam update (torch) or `after` it, on the updated weights
      (the old Hugging Face form). Without an effect when `weight_decay` is 0.

    `lr` may be a 0-dim tensor on the parameters' device. With a GradScaler, a step in which it saw inf or NaN changes
    neither weights, moments nor step counts, and the host does not wait for the device. With `before_correction` the
    parameters of a group must have been updated equally often, because the correction is one number per group.

    Raises:
        ValueError: an argument is out of range, or a switch is missing.
    """

    _step_supports_amp_scaling = True  # GradScaler then hands over `grad_scale` and `found_inf`, unread by the host

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
        # `fused` tells Optimizer.load_state_dict to keep the step counts beside the parameters.
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
        self._forever: dict[torch.device, Tensor] = {}
        self._targets = targets
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, its switches checked."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        found_inf = getattr(self, "found_inf", None)  # GradScaler sets and deletes it around each step
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params, found_inf)

    def steps_taken(self) -> int:
        """Returns the number of updates made, not counting those that a GradScaler skipped."""
        # Any parameter that always had a gradient tells; one is read, since each reading waits for the device.
        first = next(iter(self.state.values()), None)
        return int(first["step"].item()) if first else 0

    def _update(self, group: dict[str, Any], params: list[Tensor], found_inf: Tensor | None) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        steps = [self.state[p]["step"] for p in params]
        device = params[0].device
        lr = group["lr"]
        eps_first = group["bias_correction"] and group["eps_placement"] == "before_correction"
        kernel_counts = group["bias_correction"] and not eps_first
        if not kernel_counts:
            torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        if eps_first:
            lr = _bias_corrected_lr(lr, steps[0], group["betas"])
        # The kernel decays by the learning rate it is given, which after `_corrected` is not the one to decay by, and
        # towards zero.
        targets = [self._targets[p] for p in params if p in self._targets] if group["weight_decay"] else []
        kernel_decays = group["decay_order"] == "before" and not eps_first and not targets
        own_decay = group["weight_decay"] and not kernel_decays
        if own_decay and group["decay_order"] == "before":
            _decay_weights(group, params, targets, found_inf)
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            steps if kernel_counts else [self._never_corrected(device)] * len(params),
            fused=True,
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
        if not kernel_counts and found_inf is not None:
            taken_back = [found_inf.to(device)] * len(steps)
            torch._foreach_sub_(steps, taken_back)  # pyright: ignore[reportPrivateImportUsage]

    def _never_corrected(self, device: torch.device) -> Tensor:
        if device not in self._forever:
            self._forever[device] = torch.full((), UNCORRECTED_STEP, dtype=torch.float32, device=device)
        return self._forever[device]


def _decay_weights(
    group: dict[str, Any], params: list[Tensor], targets: list[Tensor], found_inf: Tensor | None
) -> None:
    rate = group["lr"] * group["weight_decay"]
    if found_inf is not None:
        rate = rate * (1 - found_inf.to(params[0].device))
    if targets:
        weight = [rate] * len(params) if isinstance(rate, Tensor) else rate
        torch._foreach_lerp_(params, targets, weight)  # pyright: ignore[reportPrivateImportUsage]
    else:
        torch._foreach_mul_(params, 1 - rate)  # pyright: ignore[reportPrivateImportUsage]


def _bias_corrected_lr(lr: float | Tensor, step: Tensor, betas: tuple[float, float]) -> Tensor:
    """Returns lr * sqrt(1 - b2^t) / (1 - b1^t) (M eq. 1) as a tensor beside `step`, computed in float64."""
    t = step.double()
    return (lr * (1 - betas[1] ** t).sqrt() / (1 - betas[0] ** t)).float()


def _check_group(group: dict[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay"):
        if not isinstance(group[key], Tensor) and not 0 <= group[key] < float("inf"):
            raise ValueError(f"{key} must be at least 0 and finite, not {group[key]!r}")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas must lie in [0, 1), not {group['betas']!r}")
    if group["bias_correction"] and group["eps_placement"] not in ("before_correction", "after_correction"):
        raise ValueError(
            f"eps_placement must be before_correction or after_correction with bias correction, not "
            f"{group['eps_placement']!r}"
        )
    if group["weight_decay"] and group["decay_order"] not in ("before", "after"):
        raise ValueError(f"decay_order must be before or after with weight decay, not {group['decay_order']!r}")


def build_optimizer(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> AdamW:
    """Returns the optimizer that the config describes, over the model's trainable parameters.

    With `decay_towards: pretrained` it keeps a copy of the decayed weights as they are now.
    """
    groups = parameter_groups(model, config, spec)
    targets: dict[Tensor, Tensor] = {}
    if config.decay_towards == "pretrained":
        decayed = chain.from_iterable(group["params"] for group in groups if group["weight_decay"])
        targets = {p: p.detach().clone() for p in decayed}
    return AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        bias_correction=config.bias_correction,
        eps_placement=config.eps_placement,
        decay_order=config.decay_order,
        targets=targets,
    )


def parameter_groups(model: PreTrainedModel, config: OptimizerConfig, spec: BackboneSpec) -> list[dict[str, Any]]:
    """Returns groups of parameters of equal rate and decay; `lr_scale` is the share of the learning rate they get.

    A parameter is not decayed when its name contains one of `no_decay`, such as "bias" or "LayerNorm.weight"; the head
    is not decayed towards the pre-trained weights, having none, unless `decay_head` says so.
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
    """Yields name, parameter and share of the learning rate (Howard and Ruder 2018; Z sec. 7.1).

    Each block has `llrd` times the rate of the block above it, the embeddings `llrd` times that of the lowest block,
    and what is above the blocks the full rate: head, pooler, a last norm.
    """
    blocks = [f"{name}.{i}." for name in spec.blocks for i in range(len(list(model.get_submodule(name).children())))]
    levels = [tuple(f"{name}." for name in spec.embeddings), *blocks]  # from the bottom up
    for name, p in model.named_parameters():
        if p.requires_grad:
            level = next((i for i, parts in enumerate(levels) if name.startswith(parts)), len(levels))
            yield name, p, llrd ** (len(levels) - level)


def _in_encoder(model: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")
