"""Probes that record while a run trains: gradient norms (M Figs. 4, 10-12) and drift of the weights (Z Fig. 7).

They draw no random number and change no gradient or weight, so a run has the same numbers with them as without.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.catalog.model_families import BackboneSpec
from stableft.config.planned_run import InLoopProbes
from stableft.errors import UserError
from stableft.records.probe_record import DriftRecord, GradNormsRecord, ModelParts, ProbeRecord, round_to_digits
from stableft.training.failure_watch import LOSS_WINDOW, GradientRegions, find_gradient_regions, lower_to_top_ratio

ProbeRows = dict[str, list[list[Any]]]  # what was recorded: "grad_norms", "drift" and "looks" -> a row for each step


@dataclass(frozen=True)
class ProbeRecorder:
    """What stays fixed of a run's probes. `initial` are copies of weights, by the groups whose drift is recorded."""

    probes: InLoopProbes
    total: int
    parts: ModelParts
    parameters: dict[str, nn.Parameter]
    groups: dict[str, list[nn.Parameter]]
    initial: dict[str, list[Tensor]]
    redrawn: int
    ends: GradientRegions | None  # what the failure watch compares; None: the model's blocks are not known


def start_probe_recorder(
    model: PreTrainedModel, spec: BackboneSpec, probes: InLoopProbes, total: int, redrawn: int
) -> ProbeRecorder | None:
    """Returns the recorder of a run of `total` steps whose model has its first weights, or None without probes.

    Raises:
        UserError: drift is asked for of a model whose blocks are not known.
    """
    if not probes:
        return None
    parts = find_model_parts(model, spec)
    if probes.drift and not parts.blocks:
        raise UserError(
            f"probes.drift: stableft does not know where a {spec.title} model keeps its blocks; name them in "
            "model.structure"
        )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = group_drift_parameters(parts, parameters) if probes.drift else {}
    initial = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    return ProbeRecorder(
        probes, total, parts, parameters, groups, initial, redrawn, find_gradient_regions(parts, list(parameters))
    )


def recorders_due(recorder: ProbeRecorder | None, step: int) -> tuple[ProbeRecorder | None, ProbeRecorder | None]:
    """Returns the recorder for gradient norms and for drift, as far as they are due at an update, counted from 1.

    They are at the first, at the last, and every so many.
    """
    if recorder is None:
        return None, None
    here = step in (1, recorder.total)
    norms, drift = (
        (here or step % n == 0) if n else False for n in (recorder.probes.grad_norms, recorder.probes.drift)
    )
    return recorder if norms else None, recorder if drift else None


def find_model_parts(model: PreTrainedModel, spec: BackboneSpec) -> ModelParts:
    """Returns the names of a model's parts; the head is what it has beside its base model."""
    blocks = [f"{name}.{i}" for name in spec.blocks for i, _ in enumerate(model.get_submodule(name).children())]
    modules = {name for name, _ in model.named_modules()}
    return ModelParts(
        embeddings=tuple(name for name in spec.embeddings if name in modules),
        blocks=tuple(blocks),
        pooler=(spec.pooler,) if spec.pooler else (),
        head=tuple(name for name, _ in model.named_children() if name != model.base_model_prefix),
    )


def group_drift_parameters(parts: ModelParts, parameters: dict[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters of the embeddings, of each block by its number from 1, of pooler and head."""
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
    return {group: found for group, found in groups.items() if found}


@torch.no_grad()
def gradient_norms(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Returns the L2 norm of each parameter's gradient, a tensor [parameters]; NaN where it has none."""
    norms = [torch.linalg.vector_norm(p.grad) if p.grad is not None else p.new_tensor(math.nan) for p in parameters]
    return torch.stack(norms)


@torch.no_grad()
def drift_distances(groups: Iterable[Sequence[Tensor]], initial: Iterable[Sequence[Tensor]]) -> Tensor:
    """Returns the L2 distance of each group of tensors, taken as one vector, to the initial ones: a tensor [groups]."""
    pairs = zip(groups, initial, strict=True)
    return torch.stack([nn.utils.get_total_norm([p - q for p, q in zip(*pair, strict=True)]) for pair in pairs])


def append_probe_rows(
    recorder: ProbeRecorder, rows: ProbeRows, norms: Tensor | None, moved: Tensor | None, losses: Sequence[float]
) -> None:
    """Appends what was recorded at the latest update; `losses` are those of all updates so far.

    `norms` are the global norm before clipping and after it, then that of each parameter.
    """
    step = len(losses)
    if norms is not None:
        values = norms.tolist()
        rows.setdefault("grad_norms", []).append([step, *values])
        if recorder.ends:
            loss = math.fsum(losses[-LOSS_WINDOW:]) / len(losses[-LOSS_WINDOW:])
            rows.setdefault("looks", []).append([step, lower_to_top_ratio(recorder.ends, values[2:]), loss])
    if moved is not None:
        rows.setdefault("drift", []).append([step, *moved.tolist()])


def build_probe_records(recorder: ProbeRecorder, rows: ProbeRows, run_id: str) -> list[ProbeRecord]:
    """Returns the records of what was recorded, of a run that may have ended early."""
    records: list[ProbeRecord] = []
    if found := rows.get("grad_norms"):
        records.append(
            GradNormsRecord(
                run_id=run_id,
                parts=recorder.parts,
                steps=tuple(row[0] for row in found),
                total=round_to_digits(row[1] for row in found),
                clipped=round_to_digits(row[2] for row in found),
                names=tuple(recorder.parameters),
                norms=tuple(round_to_digits(row[3:]) for row in found),
            )
        )
    if found := rows.get("drift"):
        still = [0, *(0.0 for _ in recorder.groups)]
        records.append(
            DriftRecord(
                run_id=run_id,
                names=tuple(recorder.groups),
                redrawn=recorder.redrawn,
                steps=tuple(row[0] for row in (still, *found)),
                distances=tuple(round_to_digits(row[1:]) for row in (still, *found)),
            )
        )
    return records
