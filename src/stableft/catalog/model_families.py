"""Model families as rows: where each keeps its blocks, pooler and dropout, and what its methods need to know."""

from dataclasses import dataclass

from stableft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class BackboneSpec:
    """Dotted paths below the sequence-classification model of `transformers`.

    The head needs none: it is what such a model has outside its base model.
    """

    name: str  # the `model_type` in config.json
    title: str
    embeddings: tuple[str, ...]  # a model may lack some: ELECTRA projects embeddings only where sizes differ
    blocks: tuple[str, ...]  # lists of blocks, the lowest block first; Re-init draws from the last; empty: not known
    pooler: str | None  # pre-trained, between the blocks and the head; None: the head reads the blocks' output
    dropouts: tuple[str, ...]  # the fields of its config.json that hold a dropout probability
    example: str  # a checkpoint of the papers
    lengths: tuple[str, ...] = ("num_hidden_layers",)  # the fields of its config.json with the lengths of `blocks`
    shares_blocks: bool = False  # one block, used again and again
    keeps_norms: bool = False  # Re-init leaves LayerNorm alone (Z's code, for BART)
    lost_positions: int = 0  # of `max_position_embeddings`, which no token can have
    segment_ids: bool = True  # the model takes token_type_ids other than zero
    pad_segment: int = 0  # the segment of padding
    paper_head: bool = False  # Z's head differs from the stock one
    sdpa: bool = True  # transformers can run its attention through torch's fused one
    undropped: str = r"$^"  # matches the Linear modules without a dropout between the last Linear and them


_BERT_FFN = r"encoder\.layer\.\d+\.output\.dense$"
BACKBONES = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="bert",
            title="BERT",
            embeddings=("bert.embeddings",),
            blocks=("bert.encoder.layer",),
            pooler="bert.pooler",
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
            example="bert-large-uncased",
            undropped=_BERT_FFN,
        ),
        BackboneSpec(
            name="roberta",
            title="RoBERTa",
            embeddings=("roberta.embeddings",),
            blocks=("roberta.encoder.layer",),
            pooler=None,
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
            example="roberta-large",
            lost_positions=2,
            segment_ids=False,
            undropped=_BERT_FFN,
        ),
        BackboneSpec(
            name="albert",
            title="ALBERT",
            embeddings=("albert.embeddings", "albert.encoder.embedding_hidden_mapping_in"),
            blocks=("albert.encoder.albert_layer_groups.0.albert_layers",),
            pooler="albert.pooler",
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"),
            example="albert-large-v2",
            shares_blocks=True,
            undropped=r"(\.query|\.key|\.value|\.ffn_output|albert\.pooler)$",
        ),
        BackboneSpec(
            name="xlnet",
            title="XLNet",
            embeddings=("transformer.word_embedding",),
            blocks=("transformer.layer",),
            pooler=None,
            dropouts=("dropout", "summary_last_dropout"),
            example="xlnet-large-cased",
            lengths=("n_layer",),
            pad_segment=4,
            sdpa=False,
        ),
        BackboneSpec(
            name="electra",
            title="ELECTRA",
            embeddings=("electra.embeddings", "electra.embeddings_project"),
            blocks=("electra.encoder.layer",),
            pooler=None,
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
            example="google/electra-large-discriminator",
            paper_head=True,
            undropped=_BERT_FFN,
        ),
        BackboneSpec(
            name="bart",
            title="BART",
            embeddings=(
                "model.shared",
                "model.encoder.embed_positions",
                "model.encoder.layernorm_embedding",
                "model.decoder.embed_positions",
                "model.decoder.layernorm_embedding",
            ),
            blocks=("model.encoder.layers", "model.decoder.layers"),
            pooler=None,
            dropouts=("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),
            example="facebook/bart-large",
            lengths=("encoder_layers", "decoder_layers"),
            keeps_norms=True,
            segment_ids=False,
        ),
    )
}


def find_backbone(model_type: str, model: str) -> BackboneSpec:
    """Returns the row of a model's family.

    Raises:
        UserError: there is none.
    """
    if model_type not in BACKBONES:
        raise UserError(
            f"model {model!r} is of family {model_type!r}, and stableft knows {', '.join(BACKBONES)}"
            f"{did_you_mean(model_type, BACKBONES)}"
        )
    return BACKBONES[model_type]
