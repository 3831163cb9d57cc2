"""Load a checkpoint: config.json, tokenizer, weights and head, checked for completeness."""

import contextlib
import copy
import functools
import os
import pickle
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
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

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.config.local_files import (
    check_weights_format,
    file_digest,
    is_pickle_allowed,
    model_folder_digest,
)
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import ModelConfig, RunConfig
from stableft.data.sources import fetch_model_file, find_model_commit
from stableft.errors import UserError, did_you_mean
from stableft.methods.mixout import check_mixout_applies
from stableft.methods.reinit import check_drawable, modules_to_redraw
from stableft.models.compatibility import check_model_fits_config, no_sdpa_message, resolve_backbone
from stableft.transient import retrying

# Without safetensors in a repository, transformers would ask a service of the hub to convert its pickle.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
# Raised by transformers for an invalid or damaged config.json or weights file; found by experiment.
LOAD_ERRORS = (
    OSError, ValueError, KeyError, RuntimeError, EOFError, ImportError, SafetensorError, StrictDataclassError,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """A loaded checkpoint. The modules `head` and `missing` have no pre-trained weights and must be initialized."""

    model: PreTrainedModel
    spec: BackboneSpec
    commit: str | None  # hub models only
    head: tuple[str, ...]
    missing: tuple[str, ...]  # outside the head


@retrying
def load_tokenizer(config: RunConfig, sources: LocalPaths):
    """Return the tokenizer of the config's model.

    Raises:
        UserError: The model has no fast tokenizer, or has changed since the sweep was planned.
    """
    return _load_tokenizer(*model_location(config, sources), config.model.sha256)


@retrying
def load_pretrained(config: RunConfig, sources: LocalPaths) -> PretrainedCheckpoint:
    """Return the config's pre-trained checkpoint, cached for the runs that share it. Do not modify its model.

    Raises:
        UserError: It cannot be loaded, has changed since the sweep was planned, or does not fit the config.
    """
    where, revision = model_location(config, sources)
    model_config = _load_model_config(where, revision, config.model.sha256)
    spec = resolve_backbone(config.model, model_config.to_dict())
    positions = getattr(model_config, "max_position_embeddings", None)
    # Check config.json first, before loading weights that may not fit anyway.
    check_model_fits_config(config, spec, positions, getattr(model_config, spec.lengths[-1]) if spec.lengths else None)
    pretrained = _load_pretrained(where, revision, config.task.n_outputs, config.model)  # pyright: ignore[reportArgumentType]
    model, spec = pretrained.model, pretrained.spec
    # Check again: for a family without a row, only the loaded model tells the number of blocks and usable positions.
    check_model_fits_config(
        config, spec, positions, len(list(model.get_submodule(spec.blocks[-1]).children())) if spec.blocks else None
    )
    if config.reinit:
        check_drawable(modules_to_redraw(model, spec, config.reinit))
    if config.mixout and config.mixout.p > 0:
        check_mixout_applies(model, spec, config.mixout)
    return pretrained


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def model_location(config: RunConfig, sources: LocalPaths) -> tuple[str, str | None]:
    """Return a folder and None, or a hub name and the commit to load.

    Raises:
        UserError: The folder has changed since the sweep was planned, or a file in the hub's cache is damaged.
    """
    if config.model.sha256 is None:
        commit = sources.hub_commits.get(config.model.identity)
        commit = commit or find_model_commit(config.model.name, config.model.revision)
        _check_hub_cache(config.model.name, commit)
        return config.model.name, commit
    assert config.model.sha256 in sources.paths, f"no path for model {config.model.name}"
    folder = sources.paths[config.model.sha256]
    if model_folder_digest(folder) != config.model.sha256:
        raise UserError(f"model {config.model.name!r}: folder {folder} has changed since the sweep was planned")
    return str(folder), None


def _check_hub_cache(name: str, commit: str) -> None:
    """Check the large files of a hub model that are in the local cache: the cache names each after its SHA-256."""
    config = try_to_load_from_cache(name, "config.json", revision=commit)
    for path in Path(config).parent.iterdir() if isinstance(config, str) else ():
        blob = path.resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.is_file() and file_digest(blob) != blob.name:
            raise UserError(
                f"model {name!r}: {path.name} is damaged in the hub's cache: delete {blob}, and it is fetched again"
            )


# `sha256` is the content of a folder, so that what is loaded from the same path later is not taken for the same.
@functools.lru_cache(maxsize=4)
def _load_tokenizer(where: str, revision: str | None, sha256: str | None):
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("tokenizer", where, error)) from None
    if not tokenizer.is_fast:
        raise UserError(f"model {where!r}: its tokenizer has no fast version (no tokenizer.json)")
    if tokenizer.pad_token_id is None:  # GPT-2's, for example
        if tokenizer.eos_token_id is None:
            raise UserError(f"model {where!r}: its tokenizer has neither a padding token nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=4)
def _load_model_config(where: str, revision: str | None, sha256: str | None) -> PreTrainedConfig:
    """Return the model's config.json, completed with the family's defaults."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
        family = values.get("model_type")
        if isinstance(family, str) and family not in CONFIG_MAPPING:
            close = did_you_mean(family, CONFIG_MAPPING)
            raise UserError(f"model {where!r} is of family {family!r}, which transformers does not know{close}")
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except UserError:
        raise
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", where, error)) from None
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"model {where!r} is of family {config.model_type!r}, for which transformers has no model for sequence "
            "classification"
        )
    return config


@functools.lru_cache(maxsize=1)  # most runs of a worker share one checkpoint; keeping two would double its memory
def _load_pretrained(where: str, revision: str | None, n_outputs: int, requested: ModelConfig) -> PretrainedCheckpoint:
    spec = resolve_backbone(requested, _load_model_config(where, revision, requested.sha256).to_dict())
    tokenizer = _load_tokenizer(where, revision, requested.sha256)
    config = _adapted_model_config(where, revision, n_outputs, spec, requested)
    model_class: type[PreTrainedModel] = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]  # pyright: ignore[reportAssignmentType]
    if requested.attention == "sdpa" and not model_class._supports_sdpa:
        raise UserError(no_sdpa_message(spec, requested.name))
    safetensors_only = require_safetensors(where, revision)
    try:
        with quiet_transformers():  # it would warn about the new head, which is intended
            model, info = AutoModelForSequenceClassification.from_pretrained(
                where,
                revision=revision,
                config=config,
                dtype=torch.float32,
                attn_implementation=requested.attention,
                ignore_mismatched_sizes=True,  # for a head with other labels; other mismatches are caught below
                output_loading_info=True,
                use_safetensors=safetensors_only,
                trust_remote_code=False,
            )
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", where, error)) from None
    if not hasattr(model, model.base_model_prefix):
        raise UserError(
            f"model {where!r}: transformers does not separate the head of a {spec.title} model from the rest"
        )
    check_backbone_paths(model, spec, requested.name)
    if requested.dropout is not None:
        _check_dropout(model, spec, requested)
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    missing = find_missing_modules(where, spec, model, absent, info["unexpected_keys"])
    entries = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > entries:
        raise UserError(_too_many_tokens_message(where, len(tokenizer), entries))
    if requested.head == "paper":
        set_paper_head(model, spec)
    architectures = _load_model_config(where, revision, requested.sha256).architectures or []
    head = find_new_head_modules(model, spec, absent, architectures)
    check_drawable(model.get_submodule(name) for name in (*head, *missing))
    if spec.name not in BACKBONES:
        spec = replace(spec, lost_positions=count_lost_positions(model))
    return PretrainedCheckpoint(model, spec, revision, head, missing)


def _adapted_model_config(
    where: str, revision: str | None, n_outputs: int, spec: BackboneSpec, requested: ModelConfig
) -> PreTrainedConfig:
    """Return the config with which to load a model: number of outputs, dropout and padding token are set.

    The padding token is the tokenizer's, because GPT-2's head needs it to find the last token of a text.

    Raises:
        UserError: The model does not have this token, or the config.json of a known family names another.
    """
    config = copy.deepcopy(_load_model_config(where, revision, requested.sha256))
    config.num_labels = n_outputs
    for field in spec.dropouts if requested.dropout is not None else ():
        setattr(config, field, requested.dropout)
    tokenizer = _load_tokenizer(where, revision, requested.sha256)
    entries = getattr(config, "vocab_size", None)
    stated, pad = getattr(config, "pad_token_id", None), tokenizer.pad_token_id
    if isinstance(entries, int) and pad >= entries:  # check now, because building the model would fail
        raise UserError(_too_many_tokens_message(where, len(tokenizer), entries))
    if spec.name in BACKBONES and stated not in (None, pad):
        raise UserError(
            f"model {where!r}: its tokenizer pads with token {pad}, but the pad_token_id of its config.json is "
            f"{stated}; they must be equal"
        )
    config.pad_token_id = pad
    if getattr(config, "use_cache", False):
        config.use_cache = False  # otherwise BART and GPT-2 keep keys and values for text generation
    return config


def require_safetensors(where: str, revision: str | None) -> bool | None:
    """Return the `use_safetensors` with which to load a folder or hub model: True, unless pickles are allowed too.

    Raises:
        UserError: The weights in the folder or the hub's cache are a pickle, and none is allowed.
    """
    folder = Path(where) if revision is None else Path(fetch_model_file(where, revision, "config.json")).parent
    check_weights_format(where, folder)
    return None if is_pickle_allowed() else True


def _too_many_tokens_message(where: str, tokens: int, entries: int) -> str:
    return f"model {where!r}: its tokenizer has {tokens} entries, more than the vocab_size of {entries} in config.json"


def _check_dropout(model: PreTrainedModel, spec: BackboneSpec, requested: ModelConfig) -> None:
    """Raise a UserError if a dropout module ignored the fields of config.json."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p != requested.dropout:
            raise UserError(
                f"model.dropout: {name} of {spec.title} model {requested.name!r} has a fixed dropout of {module.p}, "
                f"whatever config.json says; write null"
            )


def load_error_message(what: str, where: str, error: Exception) -> str:
    """Return the error message for a tokenizer or model that transformers cannot load."""
    kind = "folder" if Path(where).exists() else "hub model (is there a network, or a cached copy?)"
    text = repr(error) if isinstance(error, KeyError) else str(error)
    reason = " ".join(text.split()).split(". ")[0]
    return f"model {where!r}: the {what} cannot be loaded from this {kind}: {reason}"


# Classes whose names end so have a head that was trained for a task.
TRAINED_HEAD_SUFFIXES = ("Classification", "MultipleChoice", "QuestionAnswering")


class FirstTokenHead(nn.Module):
    """Z's head for ELECTRA: dropout and one Linear on the first token."""

    def __init__(self, hidden_size: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)  # not `out_proj`, which is a name in the stock head

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [rows, width, hidden size] to [rows, outputs]."""
        return self.linear(self.dropout(hidden[:, 0]))


def set_paper_head(model: PreTrainedModel, spec: BackboneSpec) -> None:
    """Replace the stock head by Z's, whose weights are left to initialize."""
    assert spec.paper_head
    config: Any = model.config
    dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    model.classifier = FirstTokenHead(config.hidden_size, config.num_labels, dropout)


def find_head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the head's modules: those with weights outside the base model."""
    children = model.named_children()
    return [name for name, part in children if name != model.base_model_prefix and any(True for _ in part.parameters())]


def find_new_head_modules(
    model: PreTrainedModel, spec: BackboneSpec, absent: Collection[str], architectures: Collection[str]
) -> tuple[str, ...]:
    """Return the modules of the head that a run initializes.

    For a known family, that is the whole head. For others, it is the modules with `absent` weights, because a head may
    start with pre-trained layers, as ModernBERT's does. A head that was trained for a task, according to the
    `architectures` in config.json, is initialized as a whole.
    """
    head = find_head_modules(model)
    owners = {key.rpartition(".")[0] for key in absent}
    new = tuple(name for name, _ in model.named_modules() if name in owners and name.partition(".")[0] in head)
    trained = any(name.endswith(TRAINED_HEAD_SUFFIXES) for name in architectures)
    return tuple(head) if spec.name in BACKBONES or trained or not new else new


def count_lost_positions(model: PreTrainedModel) -> int:
    """Return the number of positions that no token can have: RoBERTa's positions start after that of padding."""
    for name, part in model.base_model.named_modules():
        if isinstance(part, nn.Embedding) and f".{name}".endswith("embeddings.position_embeddings"):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def find_missing_modules(
    where: str, spec: BackboneSpec, model: PreTrainedModel, absent: Collection[str], unexpected: Collection[str]
) -> tuple[str, ...]:
    """Return the modules outside the head that must be initialized: at most the pooler, which MLM checkpoints lack.

    `absent`: weights that the checkpoint lacks or has in another shape. `unexpected`: weights that the model lacks.
    Those of other heads are ignored, but not those of additional blocks.

    Raises:
        UserError: The checkpoint does not fit the model.
    """
    base = f"{model.base_model_prefix}."
    extra = sorted(key for key in unexpected if _belongs_to_block(key.removeprefix(base), spec, model))
    if extra:
        raise UserError(
            f"model {where!r}: its weights include {extra[0]}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + f", which the {spec.title} model that its config.json describes does not have"
        )
    poolers = {key: _pooler_of(key, spec) for key in sorted(absent) if key.startswith(base)}
    encoder = [key for key, pooler in poolers.items() if pooler is None]
    if encoder:
        raise UserError(
            f"model {where!r}: its weights lack {encoder[0]}"
            + (f" and {len(encoder) - 1} more" if len(encoder) > 1 else "")
            + f"; they do not fit the {spec.title} model that its config.json describes"
        )
    return tuple(sorted({pooler for pooler in poolers.values() if pooler}))


def _belongs_to_block(key: str, spec: BackboneSpec, model: PreTrainedModel) -> bool:
    """Return whether a weight belongs to a block; in a family without a row, to a block that the model does not have.

    `key` has no prefix, as in a checkpoint of the base model.
    """
    base = f"{model.base_model_prefix}."
    if spec.name in BACKBONES:
        return key.startswith(tuple(f"{name.removeprefix(base)}." for name in spec.blocks))
    for name, part in model.base_model.named_modules():
        if isinstance(part, nn.ModuleList) and key.startswith(f"{name}."):
            number = key.removeprefix(f"{name}.").partition(".")[0]
            if number.isdigit() and int(number) >= len(part):
                return True
    return False


def _pooler_of(key: str, spec: BackboneSpec) -> str | None:
    """Return the pooler that a weight belongs to, or None. In a family without a row, go by the module's name."""
    if spec.pooler or spec.name in BACKBONES:
        return spec.pooler if spec.pooler and key.startswith(f"{spec.pooler}.") else None
    parent, separator, _ = key.partition(".pooler.")
    return f"{parent}.pooler" if separator else None


def check_backbone_paths(model: PreTrainedModel, spec: BackboneSpec, name: str) -> None:
    """Check that a loaded model has the modules that its spec names.

    Raises:
        UserError: A module does not exist, or the blocks are not a ModuleList.
    """
    for key, paths in (("blocks", spec.blocks), ("embeddings", spec.embeddings), ("pooler", (spec.pooler,))):
        for path in filter(None, paths):
            if not has_module(model, path):
                if spec.name in BACKBONES and key == "embeddings":  # not every model of a family has all of them
                    continue
                raise UserError(f"model.structure: {key}: {_missing_module_message(model, path, name)}")
            module = model.get_submodule(path)
            if key == "blocks" and not isinstance(module, nn.ModuleList):
                kind = type(module).__name__
                raise UserError(
                    f"model.structure: blocks: {path!r} of model {name!r} is a {kind}, not a list of blocks"
                )


def has_module(model: nn.Module, path: str) -> bool:
    """Return whether the model has a module at this dotted path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _missing_module_message(model: nn.Module, path: str, name: str) -> str:
    """Return the error message for a path that does not exist: the last module that does, and its children."""
    parts = path.split(".")
    depth = next(i for i in range(len(parts), -1, -1) if has_module(model, ".".join(parts[:i])))
    children = [child for child, _ in model.get_submodule(".".join(parts[:depth])).named_children()]
    parent = repr(".".join(parts[:depth])) if depth else "it"
    return (
        f"model {name!r} has no {path!r}: {parent} has {', '.join(children) or 'no submodules'}"
        f"{did_you_mean(parts[depth], children)}"
    )
