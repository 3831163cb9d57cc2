"""Model families as rows: where a family keeps its blocks, pooler and head, and how it draws new weights."""

from dataclasses import dataclass

from stableft.config import RunConfig
from stableft.errors import UserError, nearest


@dataclass(frozen=True)
class BackboneSpec:
    """Dotted paths below the sequence-classification model of `transformers`."""

    name: str  # the `model_type` in config.json
    title: str
    embeddings: str
    blocks: str
    pooler: str
    head: str
    dropouts: tuple[str, ...]  # the fields of its config.json that hold a dropout probability
    example: str  # a checkpoint of the papers


BACKBONES = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="bert",
            title="BERT",
            embeddings="bert.embeddings",
            blocks="bert.encoder.layer",
            pooler="bert.pooler",
            head="classifier",
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
            example="bert-large-uncased",
        ),
    )
}


def find_backbone(model_type: str, model: str) -> BackboneSpec:
    """Returns the row of a model's family.

    Raises:
        UserError: the family is not known.
    """
    if model_type not in BACKBONES:
        raise UserError(
            f"model {model!r} is of family {model_type!r}, and stableft knows {', '.join(BACKBONES)}"
            f"{nearest(model_type, BACKBONES)}"
        )
    return BACKBONES[model_type]


def check_fit(config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None) -> None:
    """Compares what a run wants with the positions and blocks that its model has (None: not known).

    Raises:
        UserError: it wants more.
    """
    name, length = config.model.name, config.data.max_length
    if positions is not None and length > positions:
        raise UserError(f"data.max_length: {length} is more than the {positions} positions of model {name!r}")
    redrawn = config.reinit.blocks if config.reinit else 0
    if blocks is not None and redrawn > blocks:
        raise UserError(f"reinit.blocks: {redrawn} is more than the {blocks} blocks of {spec.title} model {name!r}")
