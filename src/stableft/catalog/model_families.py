"""Model families, one row each: module paths of blocks, embeddings and pooler, and what the methods need to know."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stableft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class BackboneSpec:
    """Facts about a model family. Paths are dotted, within the sequence-classification model of `transformers`.

    The head needs no path: it is everything outside the base model.
    """

    name: str  # the `model_type` in config.json
    title: str
    embeddings: tuple[str, ...]  # some models lack some of them: ELECTRA projects embeddings only if sizes differ
    blocks: tuple[str, ...]  # lists of blocks, lowest first; Re-init re-initializes the end of the last; empty: unknown
    pooler: str | None  # pre-trained module between blocks and head; None: the head reads the last block
    dropouts: tuple[str, ...]  # fields of config.json with a dropout probability
    example: str  # a checkpoint used in the papers
    lengths: tuple[str, ...] = ("num_hidden_layers",)  # fields of config.json with the lengths of `blocks`
    shares_blocks: bool = False  # a single block is applied repeatedly
    reinit_keeps_norms: bool = False  # Re-init does not reset LayerNorm (Z's code does so for BART)
    lost_positions: int = 0  # number of `max_position_embeddings` that no token can have
    segment_ids: bool = True  # the model accepts token_type_ids other than 0
    pad_segment: int = 0  # segment id of padding
    paper_head: bool = False  # Z's head differs from the stock head
    sdpa: bool = True  # transformers supports torch's fused attention for it
    packs: bool = False  # rows can be packed: the blocks attend through one function, and the head reads a first token
    fuses: bool = False  # a packed model's blocks have BERT's parts, so that each can be one operation
    # Regular expression of the hub's models of a family that packs. Rows of other hub models are padded by default,
    # because plans are made without the network and must not depend on what was downloaded before.
    hub_models: str = r"$^"
    # Regular expression of the Linear modules with no dropout between them and the preceding Linear: Z's Mixout skips
    # them. The default matches nothing.
    not_after_dropout: str = r"$^"


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
            packs=True,
            fuses=True,
            hub_models=r"(google-bert/)?bert-(base|large)-(un)?cased(-whole-word-masking)?"
            r"|(google-bert/)?bert-base-multilingual-(un)?cased|google/bert_uncased_L-\d+_H-\d+_A-\d+",
            not_after_dropout=_BERT_FFN,
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
            packs=True,
            fuses=True,
            hub_models=r"(FacebookAI/)?roberta-(base|large)|(distilbert/)?distilroberta-base",
            not_after_dropout=_BERT_FFN,
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
            packs=True,
            hub_models=r"(albert/)?albert-(base|large|xlarge|xxlarge)-v[12]",
            not_after_dropout=r"(\.query|\.key|\.value|\.ffn_output|albert\.pooler)$",
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
            packs=True,
            fuses=True,
            hub_models=r"google/electra-(small|base|large)-(discriminator|generator)",
            not_after_dropout=_BERT_FFN,
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
            reinit_keeps_norms=True,
            segment_ids=False,
        ),
    )
}


def find_backbone(model_type: str, model: str) -> BackboneSpec:
    """Return the row of a model's family. Raise a UserError if it has none."""
    if model_type not in BACKBONES:
        raise UserError(
            f"model {model!r} is of family {model_type!r}, but stableft only knows {', '.join(BACKBONES)}"
            f"{did_you_mean(model_type, BACKBONES)}"
        )
    return BACKBONES[model_type]


def packs_rows(values: Mapping[str, Any]) -> bool:
    """Return whether a model with these values of config.json computes the same function on packed rows.

    A decoder's tokens see earlier ones only, which attention on packed rows does not provide for.
    """
    spec = BACKBONES.get(str(values.get("model_type")))
    return spec is not None and spec.packs and not values.get("is_decoder")


def fuses_blocks(values: Mapping[str, Any]) -> bool:
    """Return whether the blocks of a model with these values of config.json can be one operation each."""
    return packs_rows(values) and BACKBONES[values["model_type"]].fuses and values.get("hidden_act") == "gelu"


def is_packing_hub_model(name: str) -> bool:
    """Return whether the hub's model of that name is known to be of a family whose rows can be packed."""
    return any(re.fullmatch(spec.hub_models, name) for spec in BACKBONES.values())
