"""Probes recorded during training: gradient norms (M Figs. 4, 10-12) and drift of the weights (Z Fig. 7).

They use no randomness and change neither gradients nor weights, so they do not affect a run's results.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.catalog.model_families import BackboneSpec
from stableft.config.planned_run import InLoopProbes
from stableft.errors import UserError
from stableft.records.probe_record import DriftRecord, GradNormsRecord, ModelParts, ProbeRecord, round_to_digits
from stableft.training.failure_watch import LOSS_WINDOW, GradientRegions, find_gradient_regions, lower_to_top_ratio

ProbeRows = dict[str, list[list[Any]]]  # "grad_norms", "drift" and "looks" -> one row per recorded step


@dataclass(frozen=True)
class ProbeRecorder:
    """The fixed part of a run's probes."""

    probes: InLoopProbes
    total_steps: int
    parts: ModelParts
    parameters: dict[str, nn.Parameter]
    drift_groups: dict[str, list[nn.Parameter]]
    initial: dict[str, list[Tensor]]  # copies of the initial weights, by drift group
    redrawn: int  # number of blocks that Re-init re-initialized
    regions: GradientRegions | None  # for the failure watch; None: the model's blocks are unknown

    def is_due(self, probe: Literal["grad_norms", "drift"], step: int) -> bool:
        """Return whether to record at update `step`, counted from 1: the first, the last, and every interval."""
        interval = getattr(self.probes, probe)
        return interval is not None and (step in (1, self.total_steps) or step % interval == 0)


def start_probe_recorder(
    model: PreTrainedModel, spec: BackboneSpec, probes: InLoopProbes, total_steps: int, redrawn: int
) -> ProbeRecorder | None:
    """Return the recorder of a run, or None without probes. The model must have its initial weights.

    Raises:
        UserError: Drift is requested for a model whose blocks are unknown.
    """
    if not probes:
        return None
    parts = find_model_parts(model, spec)
    if probes.drift and not parts.blocks:
        raise UserError(
            f"probes.drift: stableft does not know which modules of a {spec.title} model are its blocks; name them in "
            "model.structure"
        )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = group_drift_parameters(parts, parameters) if probes.drift else {}
    initial = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    return ProbeRecorder(
        probes, total_steps, parts, parameters, groups, initial, redrawn, find_gradient_regions(parts, list(parameters))
    )


def find_model_parts(model: PreTrainedModel, spec: BackboneSpec) -> ModelParts:
    """Return the names of a model's parts. The head is everything outside the base model."""
    blocks = [f"{name}.{i}" for name in spec.blocks for i, _ in enumerate(model.get_submodule(name).children())]
    modules = {name for name, _ in model.named_modules()}
    return ModelParts(
        embeddings=tuple(name for name in spec.embeddings if name in modules),
        blocks=tuple(blocks),
        pooler=(spec.pooler,) if spec.pooler else (),
        head=tuple(name for name, _ in model.named_children() if name != model.base_model_prefix),
    )


def group_drift_parameters(parts: ModelParts, parameters: dict[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of embeddings, pooler, head and each block. Blocks are numbered from 1."""
    modules = {
        "embeddings": parts.embeddings,
        **{str(number): (name,) for number, name in enumerate(parts.blocks, 1)},
        "pooler": parts.pooler,
        "head": parts.head,
    }
    groups = {
        group: [p for name, p in parameters.items() if name.startswith(tuple(f"{module}." for module in names))]
        for group, names in modules.items()
    }
    return {group: members for group, members in groups.items() if members}


@torch.no_grad()
def gradient_norms(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of each parameter's gradient, as a tensor [parameters]. NaN without a gradient."""
    # A tensor made of a Python number would be copied to the GPU, which waits for it and cannot be recorded.
    norms = [torch.linalg.vector_norm(p.grad) if p.grad is not None else p.new_full((), math.nan) for p in parameters]
    return torch.stack(norms)


@torch.no_grad()
def drift_distances(groups: Iterable[Sequence[Tensor]], initial: Iterable[Sequence[Tensor]]) -> Tensor:
    """Return the L2 distance of each group's weights, as one vector, from its initial weights: a tensor [groups]."""
    pairs = zip(groups, initial, strict=True)
    return torch.stack([nn.utils.get_total_norm([p - q for p, q in zip(*pair, strict=True)]) for pair in pairs])


def append_probe_rows(
    recorder: ProbeRecorder, rows: ProbeRows, norms: Tensor | None, drift: Tensor | None, losses: Sequence[float]
) -> None:
    """Append the measurements of the latest update. `losses` holds the training loss of every update so far.

    `norms`: the global gradient norm before clipping, then after clipping, then the norm of each parameter's gradient.
    """
    step = len(losses)
    if norms is not None:
        values = norms.tolist()
        rows.setdefault("grad_norms", []).append([step, *values])
        if recorder.regions:
            loss = math.fsum(losses[-LOSS_WINDOW:]) / len(losses[-LOSS_WINDOW:])
            rows.setdefault("looks", []).append([step, lower_to_top_ratio(recorder.regions, values[2:]), loss])
    if drift is not None:
        rows.setdefault("drift", []).append([step, *drift.tolist()])


def build_probe_records(recorder: ProbeRecorder, rows: ProbeRows, run_id: str) -> list[ProbeRecord]:
    """Return the probe records of a run, which may have ended early."""
    records: list[ProbeRecord] = []
    if norm_rows := rows.get("grad_norms"):
        records.append(
            GradNormsRecord(
                run_id=run_id,
                parts=recorder.parts,
                steps=tuple(row[0] for row in norm_rows),
                total=round_to_digits(row[1] for row in norm_rows),
                clipped=round_to_digits(row[2] for row in norm_rows),
                names=tuple(recorder.parameters),
                norms=tuple(round_to_digits(row[3:]) for row in norm_rows),
            )
        )
    if drift_rows := rows.get("drift"):
        drift_rows = [[0, *(0.0 for _ in recorder.drift_groups)], *drift_rows]  # step 0: no drift yet
        records.append(
            DriftRecord(
                run_id=run_id,
                names=tuple(recorder.drift_groups),
                redrawn=recorder.redrawn,
                steps=tuple(row[0] for row in drift_rows),
                distances=tuple(round_to_digits(row[1:]) for row in drift_rows),
            )
        )
    return records
