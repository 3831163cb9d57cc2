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
from stableft.config.settings import Settings
from stableft.config.yaml_file import YamlValue
from stableft.data.tokens import drop_full_mask
from stableft.errors import UserError, echo
from stableft.models.load import LOAD_ERRORS, load_error_message, quiet_transformers, require_safetensors
from stableft.seeds import derive_seed
from stableft.training.evaluate import to_device

# Fields of a family's config class that follow from the vocabulary, or turn the model into another kind.
UNSETTABLE_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "is_decoder", "add_cross_attention")
# What transformers and torch raise for values that give no model, found by trial.
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
    """Return the names of the settable fields of a family's config class."""
    return [key for key in CONFIG_MAPPING[family].__annotations__ if key not in UNSETTABLE_KEYS]


def complete_model_config(
    family: str, settings: Settings, tokenizer: PreTrainedTokenizerBase, attention: str, where: str
) -> dict[str, Any]:
    """Return all fields of a model's config, with the family's defaults for those not in `settings` (by bare key).

    Raises:
        UserError: the values do not give a model, or not one with this vocabulary.
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


def _check_value(family: str, key: str, setting: YamlValue) -> Any:
    """Return a field's value as the type that the config class declares, so that 0 and 0.0 give the same run id.

    Raises:
        UserError: the number is out of range, which transformers often does not check.
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
        raise UserError(f"{setting.where}: model.{key}: {echo(value)} {rule}")
    return value if kind is int else float(value)


def build_masked_lm(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, start: Path | None = None
) -> PreTrainedModel:
    """Return a model on the CPU in float32, with weights drawn from the `init` seed or loaded from folder `start`.

    Raises:
        UserError: the folder has another architecture or vocabulary.
    """
    hf_config = AutoConfig.for_model(config.family, **config.model, pad_token_id=tokenizer.pad_token_id)
    if start is not None:
        return _load_start(config, hf_config, tokenizer, start)
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(derive_seed(config.seeds.init, "weights"))
        return AutoModelForMaskedLM.from_config(hf_config, attn_implementation=config.attention, dtype=torch.float32)


def _load_start(
    config: PretrainConfig, hf_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> PreTrainedModel:
    assert config.start_from
    name = f"start_from {config.start_from.name!r}"
    try:
        family = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
        if family != config.family:
            raise UserError(f"{name}: it is of family {family!r}, and this pre-training is of {config.family!r}")
        vocabulary = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
        with quiet_transformers():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                config=hf_config,
                dtype=torch.float32,
                attn_implementation=config.attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=require_safetensors(str(folder), None),
                trust_remote_code=False,
            )
    except UserError:
        raise
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", str(folder), error)) from None
    if vocabulary != tokenizer.get_vocab():
        raise UserError(f"{name}: its vocabulary is not {config.vocabulary.name!r}")
    blocks = find_backbone(config.family, name).blocks[-1]
    unexpected = [key for key in info["unexpected_keys"] if key.startswith(f"{blocks}.")]
    unfit = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"]), *unexpected})
    if unfit:
        more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
        raise UserError(f"{name}: its weights are not those of the model of this config: {unfit[0]}{more} do not fit")
    return model


def masked_logits(model: PreTrainedModel, batch: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Return logits [positions, vocabulary] at flat positions of a batch [rows, width].

    The head, which costs as much as several blocks, is computed only there. It consists of the model's modules besides
    the encoder, called in order.
    """
    encoder = model.base_model
    hidden = encoder(**batch)[0].flatten(0, 1)[positions]
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            hidden = part(hidden)
    return hidden


@dataclass(frozen=True)
class MaskedBatch:
    """A batch with masked tokens: the model's inputs, where tokens are masked, and the original ids [rows, width]."""

    inputs: dict[str, Tensor]
    is_masked: Tensor
    target_ids: Tensor


@dataclass(frozen=True)
class MaskingVocabulary:
    """The token ids that masking needs. Special tokens are not maskable."""

    mask_id: int
    maskable_ids: Tensor
    is_maskable: Tensor  # bool [vocabulary]


def make_masking_vocabulary(size: int, special: list[int], mask_id: int) -> MaskingVocabulary:
    """Return the masking vocabulary with `size` entries, given its special ids."""
    is_maskable = torch.ones(size, dtype=torch.bool)
    is_maskable[special] = False
    return MaskingVocabulary(mask_id, is_maskable.nonzero()[:, 0], is_maskable)


def mask_tokens(
    batch: dict[str, Tensor], vocabulary: MaskingVocabulary, rule: MaskingConfig, generator: torch.Generator
) -> MaskedBatch:
    """Return the batch with masks drawn from `generator`; they depend only on the batch's shape and tokens.

    In each row, the given share of tokens (rounded, at least one) is masked, each token with the same probability.
    DEVIATION: BERT's code counts [CLS] and [SEP] in the share, and masks [UNK] like any other token.
    """
    ids = batch["input_ids"]
    maskable = vocabulary.is_maskable[ids] & batch["attention_mask"].bool()
    counts = maskable.sum(1)
    n_to_mask = (counts.double() * rule.share).round().clamp(min=1).minimum(counts)
    priorities = torch.rand(ids.shape, generator=generator).masked_fill(~maskable, 2.0)
    is_masked = (priorities.argsort(1).argsort(1) < n_to_mask[:, None]) & maskable
    replacement_draw = torch.rand(ids.shape, generator=generator)
    indices = torch.randint(len(vocabulary.maskable_ids), ids.shape, generator=generator)
    replacements = torch.where(replacement_draw < rule.masked + rule.random, vocabulary.maskable_ids[indices], ids)
    replacements = torch.where(replacement_draw < rule.masked, vocabulary.mask_id, replacements)
    return MaskedBatch({**batch, "input_ids": torch.where(is_masked, replacements, ids)}, is_masked, ids)


def select_masked(
    masked: MaskedBatch, rows: slice, columns: slice, device: torch.device, full_mask: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the inputs of a part of a batch, the flat positions of its masked tokens and their ids, on a device.

    Without `full_mask`, a part without padding has no attention mask.
    """
    positions = masked.is_masked[rows, columns].flatten().nonzero()[:, 0]
    target_ids = masked.target_ids[rows, columns].flatten()[positions]
    batch = {key: values[rows, columns].contiguous() for key, values in masked.inputs.items()}
    if not full_mask:
        drop_full_mask(batch)
    batch = to_device(batch | {"positions": positions, "target_ids": target_ids}, device)
    return batch, batch.pop("positions"), batch.pop("target_ids")
