"""Model families as rows: where a family keeps its blocks, pooler and head, and how it draws new weights."""

from dataclasses import dataclass

from stableft.errors import UserError, nearest


@dataclass(frozen=True)
class BackboneSpec:
    """Dotted paths below the sequence-classification model of `transformers`."""

    name: str  # the `model_type` in config.json
    title: str
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
