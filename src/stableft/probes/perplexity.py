"""Masked-language-model loss of a fine-tuned encoder whose top blocks are reset to pre-trained values (M sec. 4.1).

The head is that of pre-training with its own decoder: checkpoints tie its weights to the embeddings, and fine-tuned
embeddings must not move it. One pass over the text for each number of blocks: to keep what the lower blocks have
computed would halve the time, and needs each family's own way to call a block.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stableft.backbones import BACKBONES, BackboneSpec, backbone_of
from stableft.config import ModelConfig, RunConfig
from stableft.data import Inputs
from stableft.errors import UserError
from stableft.evaluate import in_batches, to_device
from stableft.heads import check_parts, lost_positions
from stableft.model import model_inputs
from stableft.plan import Sources
from stableft.pretrain.masking import Alphabet, alphabet
from stableft.pretrain.model import masked_logits
from stableft.pretrain.vocabulary import special_ids
from stableft.probes.masked_text import ProbeText, masked_parts
from stableft.weights import UNLOADABLE, Pretrained, load_error, quiet

ALL = "all"  # the last point: the embeddings reset too


@dataclass(frozen=True)
class MaskedModel:
    """A pre-trained model with its head for masked tokens, in float32, without dropout, nothing tied."""

    model: PreTrainedModel
    spec: BackboneSpec
    blocks: tuple[str, ...]  # dotted paths, the lowest block first
    inputs: Inputs
    letters: Alphabet
    positions: int | None  # how many tokens a row can have; None: config.json does not say
    commit: str | None  # of a hub model


def load_masked_model(config: RunConfig, sources: Sources, tokenizer: PreTrainedTokenizerBase) -> MaskedModel:
    """Returns the pre-trained model of a run as a masked-language model on the CPU.

    Raises:
        UserError: its family has no such model or no top blocks of its own, or its checkpoint lacks the head.
    """
    wanted = config.model
    where = str(sources.paths[wanted.sha256]) if wanted.sha256 else wanted.name
    revision = None if wanted.sha256 else wanted.revision
    try:
        with quiet():
            described = AutoConfig.from_pretrained(where, revision=revision)
            spec = backbone_of(wanted, described.to_dict())
            _check_family(spec, wanted, described)
            model, info = AutoModelForMaskedLM.from_pretrained(
                where,
                revision=revision,
                config=described,
                dtype=torch.float32,
                attn_implementation=wanted.attention,
                output_loading_info=True,
            )
    except UserError:
        raise
    except UNLOADABLE as error:
        raise UserError(load_error("model", where, error)) from None
    _check_head(wanted.name, info["missing_keys"])
    spec = replace(spec, pooler=None)  # such a model has none
    check_parts(model, spec, wanted.name)
    if spec.name not in BACKBONES:
        spec = replace(spec, lost_positions=lost_positions(model))
    untie_head(model)
    positions = getattr(described, "max_position_embeddings", None)
    return MaskedModel(
        model=model.eval(),
        spec=spec,
        blocks=tuple(f"{spec.blocks[-1]}.{name}" for name, _ in model.get_submodule(spec.blocks[-1]).named_children()),
        inputs=model_inputs(Pretrained(model, spec, None, (), ()), tokenizer),
        letters=_letters(wanted.name, tokenizer),
        positions=positions - spec.lost_positions if positions and positions > 0 else None,
        commit=getattr(described, "_commit_hash", None),
    )


def untie_head(model: PreTrainedModel) -> None:
    """Gives the head weights of its own in place of those that it shares with the encoder."""
    shared, base = {id(weights) for weights in model.base_model.parameters()}, model.base_model_prefix
    for name, part in model.named_modules():
        if name.partition(".")[0] != base:
            for key, weights in list(part.named_parameters(recurse=False)):
                if id(weights) in shared:
                    setattr(part, key, nn.Parameter(weights.detach().clone()))


def finetuned_encoder(path: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the weights of a run's encoder, by the names that they have in a masked-language model of its family.

    Raises:
        UserError: the file is damaged, or not of such an encoder.
    """
    try:
        tensors = load_file(path)
    except UNLOADABLE as error:
        raise UserError(f"{path} cannot be read as weights: {' '.join(str(error).split())}") from None
    base = f"{model.base_model_prefix}."
    ours = {name: values for name, values in model.state_dict().items() if name.startswith(base)}
    wrong = [name for name, values in ours.items() if name not in tensors or tensors[name].shape != values.shape]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{path}: its weights are not those of the run's model: {wrong[0]}{more} do not fit")
    return {name: tensors[name] for name in ours}


@torch.no_grad()
def reset_points(masked: MaskedModel, finetuned: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields "0" to the number of blocks, then "all"; meanwhile the model's encoder is what the point says.

    With k the top k blocks have pre-trained values and all else of the encoder is fine-tuned; with "all" nothing is.
    At the end, or when it is closed, the model is the untouched one again.
    """
    state = masked.model.state_dict()
    pretrained = {name: state[name].clone() for name in finetuned}

    def put(values: Mapping[str, Tensor], below: str = "") -> None:
        for name, value in values.items():
            if name.startswith(below):
                state[name].copy_(value)

    try:
        put(finetuned)
        yield "0"
        for count, block in enumerate(reversed(masked.blocks), 1):
            put(pretrained, f"{block}.")
            yield str(count)
        put(pretrained)
        yield ALL
    finally:
        put(pretrained)


@torch.no_grad()
def masked_loss(
    masked: MaskedModel,
    text: ProbeText,
    max_length: int,
    seed: int,
    batch_size: int,
    tick: Callable[[int], None] = lambda rows: None,
) -> float:
    """Returns the mean cross-entropy of a masked token in nats, summed up in float64; `tick(rows)` for every batch.

    Batches are of rows of like length, the longest first; when memory runs out they are halved.
    """
    device, sums, count = masked.model.device, [], 0
    for part in masked_parts(text, masked.inputs, masked.letters, max_length, seed):
        lengths = part.inputs["attention_mask"].sum(1).tolist()

        def loss(start: int, stop: int, part=part, lengths=lengths) -> Tensor:
            width = -(-lengths[start] // 8) * 8
            inside = slice(None, width) if not masked.inputs.left else slice(-width, None)
            chosen, truth = part.chosen[start:stop, inside], part.truth[start:stop, inside]
            places = chosen.flatten().nonzero()[:, 0]
            batch = {key: values[start:stop, inside].contiguous() for key, values in part.inputs.items()}
            batch = to_device(batch | {"places": places, "truth": truth.flatten()[places]}, device)
            places, truth = batch.pop("places"), batch.pop("truth")
            losses = functional.cross_entropy(_logits(masked, batch, places), truth, reduction="none")
            tick(stop - start)
            return losses.double().sum()

        sums += in_batches(loss, len(lengths), batch_size)
        count += int(part.chosen.sum())
    return float(torch.stack(sums).sum()) / count


def _logits(masked: MaskedModel, batch: dict[str, Tensor], places: Tensor) -> Tensor:
    """Returns logits at flat places. A family without a row may have a head that is more than its modules in turn."""
    if masked.spec.name in BACKBONES:
        return masked_logits(masked.model, batch, places)
    return masked.model(**batch).logits.flatten(0, 1)[places]


def _check_family(spec: BackboneSpec, wanted: ModelConfig, described: PreTrainedConfig) -> None:
    who = f"{spec.title} model {wanted.name!r}"
    if type(described) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"{who} has no masked-language-model perplexity: its family is not pre-trained by masking tokens"
        )
    if spec.shares_blocks:
        raise UserError(f"{who} is one block, used again and again: it has no top blocks that could be reset")
    if len(spec.blocks) > 1:
        raise UserError(f"{who} has an encoder and a decoder, and M's probe is for the blocks of an encoder alone")
    if not spec.blocks:
        raise UserError(f"where {who} keeps its blocks is not known: its runs have no model.structure that names them")


def _check_head(name: str, missing: set[str]) -> None:
    if missing:
        first, more = min(missing), f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"model {name!r}: its checkpoint has no head that finds out masked tokens (it lacks {first}{more}), "
            "so there is no perplexity"
        )


def _letters(name: str, tokenizer: PreTrainedTokenizerBase) -> Alphabet:
    for token in ("cls_token", "sep_token", "mask_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"model {name!r}: its tokenizer has no {token}")
    assert isinstance(tokenizer.mask_token_id, int)
    return alphabet(len(tokenizer), special_ids(tokenizer), tokenizer.mask_token_id)
