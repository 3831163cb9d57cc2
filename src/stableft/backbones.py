"""Model families as rows: where a family keeps its blocks and pooler, and in what its methods and inputs differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stableft.config import ModelConfig, RunConfig
from stableft.errors import UserError, nearest


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
            f"{nearest(model_type, BACKBONES)}"
        )
    return BACKBONES[model_type]


def backbone_of(model: ModelConfig, values: Mapping[str, Any]) -> BackboneSpec:
    """Returns the row of a model's family, or for another what `model.structure` says of it.

    `values` are those of its config.json, defaults included where dropout and segments matter.
    """
    family, segments = values["model_type"], values.get("type_vocab_size")
    if family in BACKBONES:
        spec = BACKBONES[family]
        return replace(spec, segment_ids=False) if segments in (0, 1) else spec
    parts = model.structure
    return BackboneSpec(
        name=family,
        title=family,
        embeddings=parts.embeddings if parts else (),
        blocks=parts.blocks if parts else (),
        pooler=parts.pooler if parts else None,
        dropouts=tuple(key for key, value in values.items() if _is_dropout(key, value)),
        example="",
        lengths=(),
        segment_ids=isinstance(segments, int) and segments > 1,
    )


def _is_dropout(key: str, value: Any) -> bool:
    """True for `attention_dropout` or `resid_pdrop`, False for `encoder_layerdrop`, which drops whole blocks."""
    number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return number and ("dropout" in key or "pdrop" in key)


def check_fit(config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None) -> None:
    """Compares what a run wants with its model: `positions` as in config.json, `blocks` that Re-init may draw.

    Raises:
        UserError: the family has no such thing, or not so much of it (None: how much is not known).
    """
    complaint = next(_complaints(config, spec, positions, blocks), None)
    if complaint:
        raise UserError(complaint)


def _complaints(config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None) -> Iterator[str]:
    """Yields a sentence for everything that the model cannot do; each tells what to write instead."""
    model, length = config.model, config.data.max_length
    who = f"{spec.title} model {model.name!r}"
    has_row = spec.name in BACKBONES
    usable = None if positions is None or positions < 1 else positions - spec.lost_positions  # XLNet says -1: no limit
    if usable is not None and length > usable:
        yield f"data.max_length: {length} is more than the {usable} positions of model {model.name!r}"
    if model.structure and has_row:
        yield f"model.structure: stableft knows where {who} keeps its parts; write null"
    if model.head == "paper" and not spec.paper_head:
        yield f"model.head: the papers give {who} no head of its own; write stock"
    if model.attention == "sdpa" and not spec.sdpa:
        yield no_sdpa(spec, model.name)
    yield from _about_reinit(config, spec, who, blocks)
    if config.optimizer.llrd not in (None, 1.0):
        if spec.shares_blocks:
            yield f"optimizer.llrd: {who} is one block, used again and again, which can only have one rate; write 1.0"
        if not spec.blocks:
            yield f"optimizer.llrd: {_unknown_blocks(who)} or write 1.0"
        if spec.blocks and not spec.embeddings:
            yield f"optimizer.llrd: where {who} keeps its embeddings is not known; name them in model.structure"
    if config.mixout and config.mixout.p > 0 and config.mixout.scope == "after_dropout" and not has_row:
        yield f"mixout.scope: stableft does not know which parts of {who} come after a dropout; write linear"


def no_sdpa(spec: BackboneSpec, name: str) -> str:
    """Returns the sentence about a family whose attention cannot be run through torch's fused one."""
    return f"model.attention: transformers has no sdpa for {spec.title} model {name!r}; write eager"


def _about_reinit(config: RunConfig, spec: BackboneSpec, who: str, blocks: int | None) -> Iterator[str]:
    reinit = config.reinit
    if reinit is None:
        return
    described = "model.structure names none; " if config.model.structure else ""
    if reinit.pooler and not spec.pooler:
        reason = described or "its head reads the blocks themselves; " if spec.blocks else "its parts are not known; "
        yield f"reinit.pooler: {who} has no pooler that is pre-trained: {reason}write false"
    if reinit.blocks and spec.shares_blocks:
        yield f"reinit.blocks: {who} is one block, used again and again: none would stay pre-trained; write 0"
    if reinit.blocks and not spec.blocks:
        yield f"reinit.blocks: {_unknown_blocks(who)} or write 0"
    if blocks is not None and reinit.blocks > blocks:
        yield f"reinit.blocks: {reinit.blocks} is more than the {blocks} blocks of {who}"
    if reinit.embeddings and (spec.shares_blocks or len(spec.blocks) > 1):
        kept = "its block stays" if spec.shares_blocks else f"all below {spec.blocks[-1]} stays"
        yield f"reinit.embeddings: {who} cannot be trained from scratch, since {kept} pre-trained; write false"
    if reinit.embeddings and not spec.embeddings:
        yield f"reinit.embeddings: where {who} keeps them is not known; name them in model.structure, or write false"


def _unknown_blocks(who: str) -> str:
    return f"stableft does not know where {who} keeps its blocks; name them in model.structure,"
