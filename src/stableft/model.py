"""From a config to a model ready to train: pre-trained weights in float32, a drawn head, re-drawn blocks."""

import contextlib
import copy
import functools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from stableft.backbones import BackboneSpec, check_fit, find_backbone
from stableft.config import RunConfig
from stableft.errors import UserError
from stableft.locate import folder_digest
from stableft.plan import Sources
from stableft.reinit import draw_weights, reinitialize
from stableft.seeds import generator

# What transformers raises for a config.json or weights that are damaged or not a model's, as found by trying.
UNLOADABLE = (
    OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError, StrictDataclassError, pickle.UnpicklingError
)  # fmt: skip


@dataclass(frozen=True)
class Pretrained:
    """A loaded checkpoint with a head that still has to be drawn. `missing`: modules it has no weights for."""

    model: PreTrainedModel
    spec: BackboneSpec
    commit: str | None
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
    pretrained = _pretrained(where, revision, config.task.n_outputs, config.model.attention, config.model.dropout)
    has = pretrained.model.config
    positions, blocks = (getattr(has, key, None) for key in ("max_position_embeddings", "num_hidden_layers"))
    check_fit(config, pretrained.spec, positions, blocks)
    return pretrained


def build_model(config: RunConfig, sources: Sources) -> tuple[PreTrainedModel, Pretrained]:
    """Returns a fresh model on the CPU, and the checkpoint it was made from.

    The head is drawn first and Re-init has a generator of its own, so that a baseline and Re-init with equal seeds
    share the head (Z App. B).

    Raises:
        UserError: the checkpoint cannot be loaded, or does not fit the config.
    """
    pretrained = load_pretrained(config, sources)
    model = copy.deepcopy(pretrained.model)
    std = model.config.initializer_range
    head = generator(config.seeds.init, "head")
    for name in (*head_modules(model), *pretrained.missing):
        draw_weights(model.get_submodule(name), std, head)
    if config.reinit:
        reinitialize(model, pretrained.spec, config.reinit, std, generator(config.seeds.init, "reinit"))
    return model, pretrained


def head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules that make up the head: all that have weights outside the base model."""
    children = model.named_children()
    return [name for name, part in children if name != model.base_model_prefix and any(True for _ in part.parameters())]


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
    return tokenizer


@functools.lru_cache(maxsize=1)  # a worker's runs mostly share one checkpoint; two would double its memory
def _pretrained(where: str, revision: str | None, n_outputs: int, attention: str, dropout: float | None) -> Pretrained:
    try:
        config = AutoConfig.from_pretrained(where, revision=revision)
        spec = find_backbone(config.model_type, where)
        config.num_labels = n_outputs
        for field in spec.dropouts if dropout is not None else ():
            setattr(config, field, dropout)
        with quiet():  # it would tell at length that the head is new, which is the point here
            model, info = AutoModelForSequenceClassification.from_pretrained(
                where,
                revision=revision,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,  # a head with other labels; anything else is caught below
                output_loading_info=True,
            )
    except UserError:
        raise
    except UNLOADABLE as error:
        raise UserError(load_error("model", where, error)) from None
    missing = _missing_modules(where, spec, model, info)
    tokenizer = _tokenizer(where, revision)
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model {where!r}: its tokenizer has {len(tokenizer)} entries, more than the vocab_size of "
            f"{config.vocab_size} in config.json"
        )
    return Pretrained(model, spec, getattr(config, "_commit_hash", None), missing)


def _missing_modules(where: str, spec: BackboneSpec, model: PreTrainedModel, info: dict) -> tuple[str, ...]:
    """Returns the modules besides the head that must be drawn: only the pooler may be absent, as in MLM checkpoints.

    Weights of other heads are passed over, but not those of blocks that config.json does not have.
    """
    prefix, _, inner = spec.blocks[0].partition(".")  # a checkpoint of the bare encoder has no prefix
    extra = sorted(k for k in info["unexpected_keys"] if k.removeprefix(f"{prefix}.").startswith(f"{inner}."))
    if extra:
        raise UserError(
            f"model {where!r}: its weights hold {extra[0]}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + f", which the {spec.title} model that its config.json describes does not have"
        )
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    absent = sorted(
        key for key in {*info["missing_keys"], *mismatched} if key.startswith(f"{model.base_model_prefix}.")
    )
    encoder = [key for key in absent if not (spec.pooler and key.startswith(spec.pooler + "."))]
    if encoder:
        raise UserError(
            f"model {where!r}: its weights lack {encoder[0]}"
            + (f" and {len(encoder) - 1} more" if len(encoder) > 1 else "")
            + f"; they do not fit the {spec.title} model that its config.json describes"
        )
    return (spec.pooler,) if spec.pooler and absent else ()


def load_error(what: str, where: str, error: Exception) -> str:
    """Returns the sentence about a tokenizer or model that transformers cannot load."""
    kind = "folder" if Path(where).exists() else "hub model (is there a network, or a cached copy?)"
    text = repr(error) if isinstance(error, KeyError) else str(error)
    reason = " ".join(text.split()).split(". ")[0]
    return f"model {where!r}: the {what} cannot be loaded from this {kind}: {reason}"
