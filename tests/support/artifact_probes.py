"""Made-up records of probes of the pool's runs, of the sizes and about the values that large models have."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from support.artifact_records import M, Z, number, where

from stableft.records.probe_record import (
    DriftRecord,
    GradNormsRecord,
    ModelParts,
    PerplexityRecord,
    ProbeRecord,
    SurfaceRecord,
    round_to_digits,
)
from stableft.records.run_record import RunRecord

OURS = M | {"correction": True, "length": "20 epochs"}
MODELS = {"bert": {}, "roberta": {"model": "roberta-large", "decay": 0.1}}
MODELS |= {"albert": {"model": "albert-large-v2", "decay": 0.0}}
DENSE = ("attention.output.dense", "intermediate.dense", "output.dense")
INSIDE = {
    "bert": (*(f"attention.self.{name}" for name in ("query", "key", "value")), *DENSE),
    "albert": (*(f"attention.{name}" for name in ("query", "key", "value", "dense")), "ffn", "ffn_output"),
}
INSIDE["roberta"] = INSIDE["bert"]
LAYERS = 24
LOST = 7  # the place of a step at which the first norms of a failed run are not finite


def parts(family: str, layers: int = LAYERS) -> ModelParts:
    blocks = {f"{family}.encoder.layer.{i}": None for i in range(layers)}
    shared = ("albert.encoder.albert_layer_groups.0.albert_layers.0",)
    return ModelParts(
        embeddings=(f"{family}.embeddings",),
        blocks=shared if family == "albert" else tuple(blocks),
        pooler=() if family == "roberta" else (f"{family}.pooler",),
        head=("classifier",),
    )


def parameter_names(family: str, of: ModelParts) -> list[str]:
    """Weights and biases of every part."""
    embeddings = [f"{name}.word_embeddings.weight" for name in of.embeddings]
    inside = [f"{block}.{name}.{kind}" for block in of.blocks for name in INSIDE[family] for kind in ("weight", "bias")]
    inside += [f"{block}.output.LayerNorm.weight" for block in of.blocks]
    above = [f"{name}.{kind}" for name in (*of.pooler, *of.head) for kind in ("weight", "bias")]
    return [*embeddings, *inside, *above]


def grad_norms(
    run_id: str, family: str, failed: bool, steps: Sequence[int], layers: int = LAYERS, lost: int | None = None
) -> GradNormsRecord:
    """Norms of a failed run, which fall from the top to the bottom, or of one whose gradients grow after step 70."""
    rng = np.random.default_rng(number(run_id))
    of = parts(family, layers)
    names = parameter_names(family, of)
    blocks = len(of.blocks)
    depth = [next((i for i, b in enumerate(of.blocks) if name.startswith(f"{b}.")), blocks) for name in names]
    rows = []
    for place, step in enumerate(steps):
        decay = 8.0 if failed else 3.0 / (1 + math.exp((step - 70) / 15))
        level = np.array([-1 - decay * (1 - d / blocks) / 2 for d in depth])
        row = 10 ** (level + rng.normal(0, 0.15, len(names)))
        row[0] = row[0] / 10
        rows.append(round_to_digits([math.inf] * len(names) if place == lost else row))
    return GradNormsRecord(
        run_id=run_id,
        parts=of,
        steps=tuple(steps),
        total=round_to_digits(math.hypot(*row) for row in rows),
        clipped=round_to_digits(min(1.0, math.hypot(*row)) for row in rows),
        names=tuple(names),
        norms=tuple(rows),
    )


def drift(run_id: str, redrawn: int, steps: Sequence[int], blocks: int = LAYERS) -> DriftRecord:
    rng = np.random.default_rng(number(run_id))
    names = ("embeddings", *map(str, range(1, blocks + 1)), "pooler", "head")
    depth = np.array([0.3, *np.linspace(0.4, 0.9, blocks), 0.9, 0.9])
    depth[1 + blocks - redrawn : 1 + blocks] *= 0.5
    moved = [round_to_digits(depth * rng.uniform(0.9, 1.1) * math.sqrt(step / steps[-1])) for step in steps]
    return DriftRecord(run_id=run_id, names=names, redrawn=redrawn, steps=tuple(steps), distances=tuple(moved))


def perplexity(run_id: str, failed: bool, blocks: int = LAYERS, text: str = "wikitext-2") -> PerplexityRecord:
    rng = np.random.default_rng(number(run_id))
    top = 9.0 if failed else rng.uniform(2.4, 3.0)
    losses = tuple(1.6 + (top - 1.6) * math.exp(-k / rng.uniform(2, 4)) for k in range(blocks + 1))
    return PerplexityRecord(
        run_id=run_id,
        checkpoint="last",
        text=text,
        text_sha256=f"{number(text):064x}",
        seed=0,
        max_length=512,
        tokens=250_000,
        masked=37_500,
        reset=tuple(range(blocks + 1)),
        losses=round_to_digits(losses),
        all_reset=1.6,
        pretrained=1.6,
    )


def surface(failed: str, successful: str, task: str, points: int = 12, norms: bool = True) -> SurfaceRecord:
    """A plateau at the failed model, a valley at the successful one, and a barrier between them."""
    axis = np.linspace(-1.5, 1.5, points)
    a, b = np.meshgrid(axis, axis)
    loss = 0.7 + 1.5 * np.exp(-((a - 0.5) ** 2 + (b - 0.5) ** 2) * 4) - 0.69 * np.exp(-(a**2 + (b - 1) ** 2) * 3)
    loss += 0.3 * np.maximum(0, np.hypot(a - 0.5, b - 0.5) - 1.2)
    norm = np.hypot(*np.gradient(loss, axis, axis)) + 1e-3
    return SurfaceRecord(
        run_id=f"{number(failed + successful):016x}"[:16],
        model="bert-large-uncased",
        task=task,
        failed=failed,
        successful=successful,
        checkpoint="last",
        head_seed=1,
        examples=128,
        examples_seed=0,
        alphas=round_to_digits(axis),
        betas=round_to_digits(axis),
        losses=tuple(map(round_to_digits, loss.tolist())),
        grad_norms=tuple(map(round_to_digits, norm.tolist())) if norms else None,
        label_entropy=0.693,
    )


def of_kind(settings: dict, failed: bool, task: str = "rte") -> list[RunRecord]:
    """The failed or successful runs of a setting, by seed."""
    return [record for record in where(settings, task=task) if record.failed is failed]


def make_probe_pool() -> tuple[ProbeRecord, ...]:
    return tuple(itertools.chain(_norms(), _drifts(), _perplexities(), _surfaces()))


def _norms() -> Iterator[ProbeRecord]:
    for family, more in MODELS.items():
        ours = OURS if family == "bert" else M | more | {"correction": True}
        failed, fine = of_kind(M | more, True), of_kind(ours, False)
        if failed:  # the first one of RoBERTa has none
            yield grad_norms(failed[family == "roberta"].run_id, family, True, [1, *range(10, 231, 10), 234], lost=LOST)
        if fine:
            yield grad_norms(fine[0].run_id, family, False, [1, *range(10, 1561, 10)])


def _drifts() -> Iterator[ProbeRecord]:
    for task, blocks in itertools.product(("rte", "mrpc", "stsb", "cola"), (0, 1, 3, 6, 10)):
        settings = Z | ({"pooler": True, "blocks": blocks} if blocks else {})
        for record in where(settings, task=task, seeds=range(5)):
            if (task, blocks, record.config.seeds.init) != ("mrpc", 3, 4):
                yield drift(record.run_id, blocks, [0, 1, *range(10, 231, 10), 234])


def _perplexities() -> Iterator[ProbeRecord]:
    for failed in (True, False):
        for record in of_kind(M, failed)[:4]:
            yield perplexity(record.run_id, failed)


def _surfaces() -> Iterator[ProbeRecord]:
    for task in ("rte", "mrpc", "cola"):
        failed, fine = of_kind(M, True, task), of_kind(OURS, False, task)
        if failed and fine and task != "cola":
            yield surface(failed[0].run_id, fine[0].run_id, task, norms=task == "rte")
