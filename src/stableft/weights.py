"""What a model folder or the hub holds: config.json, tokenizer and weights, and whether they are what a run wants."""

import contextlib
import copy
import functools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from stableft.backbones import BACKBONES, BackboneSpec, backbone_of, check_fit, no_sdpa
from stableft.config import ModelConfig, RunConfig
from stableft.errors import UserError, nearest
from stableft.heads import check_parts, lost_positions, missing_modules, new_head, set_paper_head
from stableft.locate import folder_digest
from stableft.mixout import check_mixable
from stableft.plan import Sources
from stableft.reinit import check_drawable, redrawn_modules

# What transformers raises for a config.json or weights that are damaged or not a model's, as found by trying.
UNLOADABLE = (
    OSError, ValueError, KeyError, RuntimeError, EOFError, ImportError, SafetensorError, StrictDataclassError,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class Pretrained:
    """A loaded checkpoint, of which modules still have to be drawn: `head`, and `missing` besides the head."""

    model: PreTrainedModel
    spec: BackboneSpec
    commit: str | None
    head: tuple[str, ...]
    missing: tuple[str, ...]


def load_tokenizer(config: RunConfig, sources: Sources):
    """Returns the tokenizer that belongs to the config's model.

    Raises:
        UserError: there is none, or it is not a fast tokenizer.
    """
    where, revision = _location(config, sources)
    return _tokenizer(where, revision)


def load_pretrained(config: RunConfig, sources: Sources) -> Pretrained:
    """Returns the checkpoint of a config, loaded once for the runs that share it.

    Raises:
        UserError: it cannot be loaded, has changed since the sweep was planned, or does not fit the config.
    """
    where, revision = _location(config, sources)
    if config.model.sha256 and folder_digest(Path(where)) != config.model.sha256:
        raise UserError(f"model {config.model.name!r}: folder {where} has changed since the sweep was planned")
    described = _described(where, revision)
    spec = backbone_of(config.model, described.to_dict())
    positions = getattr(described, "max_position_embeddings", None)
    check_fit(config, spec, positions, getattr(described, spec.lengths[-1]) if spec.lengths else None)
    pretrained = _pretrained(where, revision, config.task.n_outputs, config.model)  # pyright: ignore[reportArgumentType]
    model, spec = pretrained.model, pretrained.spec
    # Of a family without a row it is only known now how many blocks there are, and how many positions are lost.
    check_fit(
        config, spec, positions, len(list(model.get_submodule(spec.blocks[-1]).children())) if spec.blocks else None
    )
    if config.reinit:
        check_drawable(redrawn_modules(model, spec, config.reinit))
    if config.mixout and config.mixout.p > 0:
        check_mixable(model, spec, config.mixout)
    return pretrained


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from writing bars and warnings to the terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _location(config: RunConfig, sources: Sources) -> tuple[str, str | None]:
    if config.model.sha256 is None:
        return config.model.name, config.model.revision
    assert config.model.sha256 in sources.paths, f"no path for model {config.model.name}"
    return str(sources.paths[config.model.sha256]), None


@functools.lru_cache(maxsize=4)
def _tokenizer(where: str, revision: str | None):
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
    except UNLOADABLE as error:
        raise UserError(load_error("tokenizer", where, error)) from None
    if not tokenizer.is_fast:
        raise UserError(f"model {where!r}: its tokenizer has no fast version (no tokenizer.json)")
    if tokenizer.pad_token_id is None:  # as of GPT-2
        if tokenizer.eos_token_id is None:
            raise UserError(f"model {where!r}: its tokenizer has no token for padding, nor one for the end of a text")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=4)
def _described(where: str, revision: str | None) -> PreTrainedConfig:
    """Returns what config.json says, completed with the defaults of the family."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
        family = values.get("model_type")
        if isinstance(family, str) and family not in CONFIG_MAPPING:
            close = nearest(family, CONFIG_MAPPING)
            raise UserError(f"model {where!r} is of family {family!r}, which transformers does not know{close}")
        config = AutoConfig.from_pretrained(where, revision=revision)
    except UserError:
        raise
    except UNLOADABLE as error:
        raise UserError(load_error("model", where, error)) from None
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"model {where!r} is of family {config.model_type!r}, for which transformers has no model that classifies "
            f"sequences"
        )
    return config


@functools.lru_cache(maxsize=1)  # a worker's runs mostly share one checkpoint; two would double its memory
def _pretrained(where: str, revision: str | None, n_outputs: int, wanted: ModelConfig) -> Pretrained:
    spec = backbone_of(wanted, _described(where, revision).to_dict())
    tokenizer = _tokenizer(where, revision)
    config = _wanted_config(where, revision, n_outputs, spec, wanted.dropout)
    try:
        with quiet():  # it would tell at length that the head is new, which is the point here
            model, info = AutoModelForSequenceClassification.from_pretrained(
                where,
                revision=revision,
                config=config,
                dtype=torch.float32,
                attn_implementation=wanted.attention,
                ignore_mismatched_sizes=True,  # a head with other labels; anything else is caught below
                output_loading_info=True,
            )
    except UNLOADABLE as error:
        if "scaled_dot_product_attention" in str(error):
            raise UserError(no_sdpa(spec, wanted.name)) from None
        raise UserError(load_error("model", where, error)) from None
    if not hasattr(model, model.base_model_prefix):
        raise UserError(f"model {where!r}: transformers does not tell the head of a {spec.title} model from the rest")
    check_parts(model, spec, wanted.name)
    if wanted.dropout is not None:
        _check_dropout(model, spec, wanted)
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    missing = missing_modules(where, spec, model, absent, info["unexpected_keys"])
    entries = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > entries:
        raise UserError(_too_many(where, len(tokenizer), entries))
    if wanted.head == "paper":
        set_paper_head(model, spec)
    head = new_head(model, spec, absent, _described(where, revision).architectures or [])
    check_drawable(model.get_submodule(name) for name in (*head, *missing))
    if spec.name not in BACKBONES:
        spec = replace(spec, lost_positions=lost_positions(model))
    return Pretrained(model, spec, getattr(config, "_commit_hash", None), head, missing)


def _wanted_config(
    where: str, revision: str | None, n_outputs: int, spec: BackboneSpec, dropout: float | None
) -> PreTrainedConfig:
    """Returns the config to load a model with.

    Its token for padding is the tokenizer's: GPT-2's head looks for the last token that is not padding.

    Raises:
        UserError: the model has no such token, or is of a family with a row and has another in its config.json.
    """
    config = copy.deepcopy(_described(where, revision))
    config.num_labels = n_outputs
    for field in spec.dropouts if dropout is not None else ():
        setattr(config, field, dropout)
    tokenizer, entries = _tokenizer(where, revision), getattr(config, "vocab_size", None)
    stated, pad = getattr(config, "pad_token_id", None), tokenizer.pad_token_id
    if isinstance(entries, int) and pad >= entries:  # here, as a model with such padding cannot even be made
        raise UserError(_too_many(where, len(tokenizer), entries))
    if spec.name in BACKBONES and stated not in (None, pad):
        raise UserError(
            f"model {where!r}: its tokenizer pads with token {pad}, and the pad_token_id of its config.json is "
            f"{stated}; they must be the same"
        )
    config.pad_token_id = pad
    if getattr(config, "use_cache", False):
        config.use_cache = False  # else BART and GPT-2 keep keys and values for words that never come
    return config


def _too_many(where: str, tokens: int, entries: int) -> str:
    return f"model {where!r}: its tokenizer has {tokens} entries, more than the vocab_size of {entries} in config.json"


def _check_dropout(model: PreTrainedModel, spec: BackboneSpec, wanted: ModelConfig) -> None:
    """Looks whether the fields of config.json that hold a dropout reached every part of the model."""
    for name, part in model.named_modules():
        if isinstance(part, nn.Dropout) and part.p != wanted.dropout:
            raise UserError(
                f"model.dropout: {name} of {spec.title} model {wanted.name!r} keeps its dropout of {part.p} whatever "
                f"config.json says; write null"
            )


def load_error(what: str, where: str, error: Exception) -> str:
    """Returns the sentence about a tokenizer or model that transformers cannot load."""
    kind = "folder" if Path(where).exists() else "hub model (is there a network, or a cached copy?)"
    text = repr(error) if isinstance(error, KeyError) else str(error)
    reason = " ".join(text.split()).split(". ")[0]
    return f"model {where!r}: the {what} cannot be loaded from this {kind}: {reason}"
