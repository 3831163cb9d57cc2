"""What a model family cannot do, told in one sentence before anything starts. Free of torch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.config.run_config import ModelConfig, RunConfig
from stableft.errors import UserError


def resolve_backbone(model: ModelConfig, values: Mapping[str, Any]) -> BackboneSpec:
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


def check_model_fits_config(config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None) -> None:
    """Compares what a run wants with its model: `positions` as in config.json, `blocks` that Re-init may draw.

    Raises:
        UserError: the family has no such thing, or not so much of it (None: how much is not known).
    """
    complaint = next(_unsupported_settings(config, spec, positions, blocks), None)
    if complaint:
        raise UserError(complaint)


def _unsupported_settings(
    config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None
) -> Iterator[str]:
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
        yield no_sdpa_message(spec, model.name)
    yield from _unsupported_reinit(config, spec, who, blocks)
    if config.optimizer.llrd not in (None, 1.0):
        if spec.shares_blocks:
            yield f"optimizer.llrd: {who} is one block, used again and again, which can only have one rate; write 1.0"
        if not spec.blocks:
            yield f"optimizer.llrd: {_unknown_blocks_message(who)} or write 1.0"
        if spec.blocks and not spec.embeddings:
            yield f"optimizer.llrd: where {who} keeps its embeddings is not known; name them in model.structure"
    if config.mixout and config.mixout.p > 0 and config.mixout.scope == "after_dropout" and not has_row:
        yield f"mixout.scope: stableft does not know which parts of {who} come after a dropout; write linear"


def no_sdpa_message(spec: BackboneSpec, name: str) -> str:
    """Returns the sentence about a family whose attention cannot be run through torch's fused one."""
    return f"model.attention: transformers has no sdpa for {spec.title} model {name!r}; write eager"


def _unsupported_reinit(config: RunConfig, spec: BackboneSpec, who: str, blocks: int | None) -> Iterator[str]:
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
        yield f"reinit.blocks: {_unknown_blocks_message(who)} or write 0"
    if blocks is not None and reinit.blocks > blocks:
        yield f"reinit.blocks: {reinit.blocks} is more than the {blocks} blocks of {who}"
    if reinit.embeddings and (spec.shares_blocks or len(spec.blocks) > 1):
        kept = "its block stays" if spec.shares_blocks else f"all below {spec.blocks[-1]} stays"
        yield f"reinit.embeddings: {who} cannot be trained from scratch, since {kept} pre-trained; write false"
    if reinit.embeddings and not spec.embeddings:
        yield f"reinit.embeddings: where {who} keeps them is not known; name them in model.structure, or write false"


def _unknown_blocks_message(who: str) -> str:
    return f"stableft does not know where {who} keeps its blocks; name them in model.structure,"
