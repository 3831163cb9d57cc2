"""Masked-language models: build, mask, compute logits at the masked positions."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stableft.catalog.model_families import find_backbone
from stableft.config.run_config import MaskingConfig, PretrainConfig
from stableft.config.settings import Setting, Settings
from stableft.errors import UserError
from stableft.models.load import LOAD_ERRORS, load_error_message, quiet_transformers
from stableft.seeds import derive_seed

# Fields of a family's config class that follow from the vocabulary, or make something else of the model.
UNSETTABLE_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "is_decoder", "add_cross_attention")
# What transformers and torch raise for values that make no model, as found by trying.
MODEL_BUILD_ERRORS = (
    StrictDataclassError,
    ValueError,
    KeyError,
    RuntimeError,
    TypeError,
    ZeroDivisionError,
    AttributeError,
)


def model_config_keys(family: str) -> list[str]:
    """Returns the names of the values that make a model of the family."""
    return [key for key in CONFIG_MAPPING[family].__annotations__ if key not in UNSETTABLE_KEYS]


def complete_model_config(
    family: str, settings: Settings, tokenizer: PreTrainedTokenizerBase, attention: str, where: str
) -> dict[str, Any]:
    """Returns all values of a model, those that are not set from its family's config class; `settings` by bare key.

    Raises:
        UserError: no model can be made of them, or not of that vocabulary.
    """
    entries = len(tokenizer)
    values = {"vocab_size": entries} | {key: _check_value(family, key, setting) for key, setting in settings.items()}
    try:
        config = AutoConfig.for_model(family, **values, pad_token_id=tokenizer.pad_token_id)
        if config.vocab_size < entries:
            at = settings["vocab_size"].where
            raise UserError(
                f"{at}: model.vocab_size: {config.vocab_size} is less than the {entries} entries of the vocabulary"
            )
        with torch.device("meta"):  # shapes without weights
            AutoModelForMaskedLM.from_config(config, attn_implementation=attention)
    except UserError:
        raise
    except MODEL_BUILD_ERRORS as error:
        reason = " ".join((str(error) if not isinstance(error, KeyError) else f"{error} is not known").split())
        key = next((key for key in settings if _has_wrong_type(family, key, values[key])), None)
        place = f"{settings[key].where}: model.{key}" if key else f"{where}: model"
        raise UserError(f"{place}: {reason}") from None
    return {key: getattr(config, key) for key in model_config_keys(family)}


def _has_wrong_type(family: str, key: str, value: Any) -> bool:
    """Return whether the family's config class rejects this value of a field, whatever the other fields are."""
    try:
        AutoConfig.for_model(family, **{key: value})
    except StrictDataclassFieldValidationError:
        return True
    except MODEL_BUILD_ERRORS:
        return False
    return False


def _check_value(family: str, key: str, setting: Setting) -> Any:
    """Returns a model's value, whole or not as the family's config class wants it: 0 and 0.0 have one id.

    Raises:
        UserError: no model can be made of the number; transformers takes many such.
    """
    value, kind = setting.value, CONFIG_MAPPING[family].__annotations__[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if kind is int:
        fits, rule = isinstance(value, int) and value >= 1, "must be a whole number of at least 1"
    elif key in find_backbone(family, key).dropouts:
        fits, rule = 0 <= value <= 1, "must be a number from 0 to 1"
    else:
        fits, rule = 0 <= value < math.inf, "must be at least 0 and finite"
    if not fits:
        raise UserError(f"{setting.where}: model.{key}: {value!r} {rule}")
    return value if kind is int else float(value)


def build_masked_lm(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, start: Path | None = None
) -> PreTrainedModel:
    """Returns a model on the CPU in float32: its weights drawn from the seed for initialisation, or those of a folder.

    Raises:
        UserError: the folder holds another architecture or vocabulary.
    """
    family = AutoConfig.for_model(config.family, **config.model, pad_token_id=tokenizer.pad_token_id)
    if start is not None:
        return _load_start(config, family, tokenizer, start)
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(derive_seed(config.seeds.init, "weights"))
        return AutoModelForMaskedLM.from_config(family, attn_implementation=config.attention, dtype=torch.float32)


def _load_start(
    config: PretrainConfig, family: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> PreTrainedModel:
    assert config.start_from
    name = f"start_from {config.start_from.name!r}"
    try:
        theirs = AutoConfig.from_pretrained(folder).model_type
        if theirs != config.family:
            raise UserError(f"{name}: it is of family {theirs!r}, and this pre-training is of {config.family!r}")
        words = AutoTokenizer.from_pretrained(folder).get_vocab()
        with quiet_transformers():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                config=family,
                dtype=torch.float32,
                attn_implementation=config.attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except UserError:
        raise
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", str(folder), error)) from None
    if words != tokenizer.get_vocab():
        raise UserError(f"{name}: its vocabulary is not {config.vocabulary.name!r}")
    blocks = find_backbone(config.family, name).blocks[-1]
    extra = [key for key in info["unexpected_keys"] if key.startswith(f"{blocks}.")]
    wrong = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"]), *extra})
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{name}: its weights are not those of the model of this config: {wrong[0]}{more} do not fit")
    return model


def masked_logits(model: PreTrainedModel, batch: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Returns logits [positions, vocabulary] at flat positions of a batch [rows, width].

    The head, which costs as much as several blocks, is not computed elsewhere. It is what the model has beside its
    encoder, in that order.
    """
    encoder = model.base_model
    hidden = encoder(**batch)[0].flatten(0, 1)[positions]
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            hidden = part(hidden)
    return hidden


@dataclass(frozen=True)
class MaskedBatch:
    """A batch with masks. `inputs` are a model's, `chosen` [rows, width] tells where, `truth` what stood there."""

    inputs: dict[str, Tensor]
    chosen: Tensor
    truth: Tensor


@dataclass(frozen=True)
class MaskingVocabulary:
    """What masking knows of a vocabulary: `ordinary` are the ids of tokens that are not special."""

    mask_id: int
    ordinary: Tensor
    is_ordinary: Tensor  # bool [vocabulary]


def make_masking_vocabulary(size: int, special: list[int], mask_id: int) -> MaskingVocabulary:
    """Returns the alphabet of a vocabulary with `size` entries, of which these are special."""
    is_ordinary = torch.ones(size, dtype=torch.bool)
    is_ordinary[special] = False
    return MaskingVocabulary(mask_id, is_ordinary.nonzero()[:, 0], is_ordinary)


def mask_tokens(
    batch: dict[str, Tensor], letters: MaskingVocabulary, rule: MaskingConfig, random: torch.Generator
) -> MaskedBatch:
    """Returns the batch with masks drawn from `random`, which nothing but the batch's shape and tokens moves.

    A row loses its share of tokens, rounded, at least one; each token is as likely as another.
    DEVIATION: BERT's code counts [CLS] and [SEP] in the share, and masks [UNK] as any other token.
    """
    truth = batch["input_ids"]
    free = letters.is_ordinary[truth] & batch["attention_mask"].bool()
    counts = free.sum(1)
    wanted = (counts.double() * rule.share).round().clamp(min=1).minimum(counts)
    lots = torch.rand(truth.shape, generator=random).masked_fill(~free, 2.0)
    chosen = (lots.argsort(1).argsort(1) < wanted[:, None]) & free
    dice = torch.rand(truth.shape, generator=random)
    others = letters.ordinary[torch.randint(len(letters.ordinary), truth.shape, generator=random)]
    seen = torch.where(dice < rule.masked + rule.random, others, truth)
    seen = torch.where(dice < rule.masked, letters.mask_id, seen)
    return MaskedBatch({**batch, "input_ids": torch.where(chosen, seen, truth)}, chosen, truth)
