"""Probes that record while a run trains: gradient norms (M Figs. 4, 10-12), and how far weights have moved (Z Fig. 7).

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
from stableft.config.planned_run import Probes
from stableft.errors import UserError
from stableft.records.probe_record import Drift, GradNorms, Parts, ProbeRecord, digits
from stableft.training.failure_watch import WINDOW, Ends, ends_of, ratio_of

Rows = dict[str, list[list[Any]]]  # what was recorded: "grad_norms", "drift" and "looks" -> a row for each step


@dataclass(frozen=True)
class Recorder:
    """What stays fixed of a run's probes. `initial` are copies of weights, by the groups whose drift is recorded."""

    probes: Probes
    total: int
    parts: Parts
    parameters: dict[str, nn.Parameter]
    groups: dict[str, list[nn.Parameter]]
    initial: dict[str, list[Tensor]]
    redrawn: int
    ends: Ends | None  # what the failure watch compares; None: the model's blocks are not known


def start_recorder(
    model: PreTrainedModel, spec: BackboneSpec, probes: Probes, total: int, redrawn: int
) -> Recorder | None:
    """Returns the recorder of a run of `total` steps whose model has its first weights, or None without probes.

    Raises:
        UserError: drift is asked for of a model whose blocks are not known.
    """
    if not probes:
        return None
    parts = model_parts(model, spec)
    if probes.drift and not parts.blocks:
        raise UserError(
            f"probes.drift: stableft does not know where a {spec.title} model keeps its blocks; name them in "
            "model.structure"
        )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = drift_groups(parts, parameters) if probes.drift else {}
    initial = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    return Recorder(probes, total, parts, parameters, groups, initial, redrawn, ends_of(parts, list(parameters)))


def due(recorder: Recorder | None, step: int) -> tuple[Recorder | None, Recorder | None]:
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


def model_parts(model: PreTrainedModel, spec: BackboneSpec) -> Parts:
    """Returns the names of a model's parts; the head is what it has beside its base model."""
    blocks = [f"{name}.{i}" for name in spec.blocks for i, _ in enumerate(model.get_submodule(name).children())]
    modules = {name for name, _ in model.named_modules()}
    return Parts(
        embeddings=tuple(name for name in spec.embeddings if name in modules),
        blocks=tuple(blocks),
        pooler=(spec.pooler,) if spec.pooler else (),
        head=tuple(name for name, _ in model.named_children() if name != model.base_model_prefix),
    )


def drift_groups(parts: Parts, parameters: dict[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
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
def distances(groups: Iterable[Sequence[Tensor]], initial: Iterable[Sequence[Tensor]]) -> Tensor:
    """Returns the L2 distance of each group of tensors, taken as one vector, to the initial ones: a tensor [groups]."""
    pairs = zip(groups, initial, strict=True)
    return torch.stack([nn.utils.get_total_norm([p - q for p, q in zip(*pair, strict=True)]) for pair in pairs])


def keep(recorder: Recorder, rows: Rows, norms: Tensor | None, moved: Tensor | None, losses: Sequence[float]) -> None:
    """Appends what was recorded at the latest update; `losses` are those of all updates so far.

    `norms` are the global norm before clipping and after it, then that of each parameter.
    """
    step = len(losses)
    if norms is not None:
        values = norms.tolist()
        rows.setdefault("grad_norms", []).append([step, *values])
        if recorder.ends:
            loss = math.fsum(losses[-WINDOW:]) / len(losses[-WINDOW:])
            rows.setdefault("looks", []).append([step, ratio_of(recorder.ends, values[2:]), loss])
    if moved is not None:
        rows.setdefault("drift", []).append([step, *moved.tolist()])


def probe_records(recorder: Recorder, rows: Rows, run_id: str) -> list[ProbeRecord]:
    """Returns the records of what was recorded, of a run that may have ended early."""
    records: list[ProbeRecord] = []
    if found := rows.get("grad_norms"):
        records.append(
            GradNorms(
                run_id=run_id,
                parts=recorder.parts,
                steps=tuple(row[0] for row in found),
                total=digits(row[1] for row in found),
                clipped=digits(row[2] for row in found),
                names=tuple(recorder.parameters),
                norms=tuple(digits(row[3:]) for row in found),
            )
        )
    if found := rows.get("drift"):
        still = [0, *(0.0 for _ in recorder.groups)]
        records.append(
            Drift(
                run_id=run_id,
                names=tuple(recorder.groups),
                redrawn=recorder.redrawn,
                steps=tuple(row[0] for row in (still, *found)),
                distances=tuple(digits(row[1:]) for row in (still, *found)),
            )
        )
    return records
