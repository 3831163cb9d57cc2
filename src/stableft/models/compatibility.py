"""Reject settings that a model family does not support, before any run starts. Does not import torch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stableft.catalog.model_families import BACKBONES, BackboneSpec, fuses_blocks, packs_rows
from stableft.config.run_config import ModelConfig, RunConfig
from stableft.errors import UserError


def resolve_backbone(model: ModelConfig, values: Mapping[str, Any]) -> BackboneSpec:
    """Return the row of a model's family, or one made from `model.structure` if the family has none.

    `values` are the contents of config.json, including defaults where dropout and segments matter.
    """
    family, segments = values["model_type"], values.get("type_vocab_size")
    if family in BACKBONES:
        spec = replace(BACKBONES[family], packs=packs_rows(values), fuses=fuses_blocks(values))
        return replace(spec, segment_ids=False) if segments in (0, 1) else spec
    structure = model.structure
    return BackboneSpec(
        name=family,
        title=family,
        embeddings=structure.embeddings if structure else (),
        blocks=structure.blocks if structure else (),
        pooler=structure.pooler if structure else None,
        dropouts=tuple(key for key, value in values.items() if _is_dropout(key, value)),
        example="",
        lengths=(),
        segment_ids=isinstance(segments, int) and segments > 1,
    )


def _is_dropout(key: str, value: Any) -> bool:
    """Return True for `attention_dropout` or `resid_pdrop`, False for `encoder_layerdrop`, which drops whole blocks."""
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return is_number and ("dropout" in key or "pdrop" in key)


def check_model_fits_config(config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None) -> None:
    """Check that a model supports a run's settings.

    `positions` is the number in config.json, `blocks` the number of blocks available to Re-init. None: not known.

    Raises:
        UserError: The model does not support a setting.
    """
    problem = next(_unsupported_settings(config, spec, positions, blocks), None)
    if problem:
        raise UserError(problem)


def _unsupported_settings(
    config: RunConfig, spec: BackboneSpec, positions: int | None, blocks: int | None
) -> Iterator[str]:
    """Yield an error message for each unsupported setting, with the value to use instead."""
    model, length = config.model, config.data.max_length
    label = f"{spec.title} model {model.name!r}"
    has_row = spec.name in BACKBONES
    usable = None if positions is None or positions < 1 else positions - spec.lost_positions  # XLNet's -1: no limit
    if usable is not None and length > usable:
        yield f"data.max_length: {length} is more than the {usable} positions of model {model.name!r}"
    if model.structure and has_row:
        yield f"model.structure: stableft knows the structure of {label}; write null"
    if model.head == "paper" and not spec.paper_head:
        yield f"model.head: the papers use no special head for {label}; write stock"
    if model.attention == "sdpa" and not spec.sdpa:
        yield no_sdpa_message(spec, model.name)
    if config.execution == "packed" and not spec.packs:
        yield f"execution: stableft cannot pack the rows of {label}; write padded or grouped"
    if config.execution == "fused" and not spec.fuses:
        yield f"execution: stableft cannot fuse the blocks of {label}; write {'packed' if spec.packs else 'padded'}"
    yield from _unsupported_reinit(config, spec, label, blocks)
    if config.optimizer.llrd not in (None, 1.0):
        if spec.shares_blocks:
            yield f"optimizer.llrd: {label} repeats a single block, which can have only one learning rate; write 1.0"
        if not spec.blocks:
            yield f"optimizer.llrd: {_unknown_blocks_message(label)} or write 1.0"
        if spec.blocks and not spec.embeddings:
            yield f"optimizer.llrd: stableft does not know the embeddings of {label}; name them in model.structure"
    if config.mixout and config.mixout.p > 0 and config.mixout.scope == "after_dropout" and not has_row:
        yield f"mixout.scope: stableft does not know which modules of {label} follow a dropout; write linear"


def no_sdpa_message(spec: BackboneSpec, name: str) -> str:
    """Return the error message for a family that does not support torch's fused attention."""
    return f"model.attention: transformers has no sdpa for {spec.title} model {name!r}; write eager"


def _unsupported_reinit(config: RunConfig, spec: BackboneSpec, label: str, blocks: int | None) -> Iterator[str]:
    reinit = config.reinit
    if reinit is None:
        return
    if reinit.pooler and not spec.pooler:
        if not spec.blocks:
            reason = "its structure is unknown"
        else:
            reason = "model.structure names none" if config.model.structure else "its head reads the last block"
        yield f"reinit.pooler: {label} has no pre-trained pooler: {reason}; write false"
    if reinit.blocks and spec.shares_blocks:
        yield f"reinit.blocks: {label} repeats a single block, so none would stay pre-trained; write 0"
    if reinit.blocks and not spec.blocks:
        yield f"reinit.blocks: {_unknown_blocks_message(label)} or write 0"
    if blocks is not None and reinit.blocks > blocks:
        yield f"reinit.blocks: {reinit.blocks} is more than the {blocks} blocks of {label}"
    if reinit.embeddings and (spec.shares_blocks or len(spec.blocks) > 1):
        kept = "its block stays" if spec.shares_blocks else f"everything below {spec.blocks[-1]} stays"
        yield f"reinit.embeddings: {label} cannot be trained from scratch, because {kept} pre-trained; write false"
    if reinit.embeddings and not spec.embeddings:
        yield (
            f"reinit.embeddings: stableft does not know the embeddings of {label}; name them in model.structure, or "
            "write false"
        )


def _unknown_blocks_message(label: str) -> str:
    return f"stableft does not know the blocks of {label}; name them in model.structure,"
