"""Masked-language-model loss of a fine-tuned encoder whose top blocks are reset (M sec. 4.1).

The head is that of pre-training with its own decoder: checkpoints tie its weights to the embeddings, and fine-tuned
embeddings must not move it. One pass over the text for each number of blocks: to keep what the lower blocks have
computed would halve the time, and needs each family's own way to call a block.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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

from stableft.catalog.model_families import BACKBONES, BackboneSpec
from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import MaskingConfig, ModelConfig, RunConfig
from stableft.data.tokens import InputLayout, TokenizedRows, hash_tokenizer, load_or_compute, pad_batch
from stableft.errors import UserError, did_you_mean
from stableft.models.build import input_layout_for
from stableft.models.compatibility import resolve_backbone
from stableft.models.load import (
    LOAD_ERRORS,
    PretrainedCheckpoint,
    check_backbone_paths,
    count_lost_positions,
    load_error_message,
    quiet_transformers,
)
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.corpus import (
    list_text_files,
    load_corpus,
    pack_documents,
    read_documents,
    special_token_ids,
    text_digest,
)
from stableft.pretrain.masked_lm import (
    MaskedBatch,
    MaskingVocabulary,
    make_masking_vocabulary,
    mask_tokens,
    masked_logits,
)
from stableft.seeds import make_generator
from stableft.training.evaluate import run_in_batches, to_device

ALL_RESET = "all"  # the last point: the embeddings reset too


@dataclass(frozen=True)
class MaskedLM:
    """A pre-trained model with its head for masked tokens, in float32, without dropout, nothing tied."""

    model: PreTrainedModel
    spec: BackboneSpec
    blocks: tuple[str, ...]  # dotted paths, the lowest block first
    inputs: InputLayout
    letters: MaskingVocabulary
    positions: int | None  # how many tokens a row can have; None: config.json does not say
    commit: str | None  # of a hub model


def load_masked_lm(config: RunConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> MaskedLM:
    """Returns the pre-trained model of a run as a masked-language model on the CPU.

    Raises:
        UserError: its family has no such model or no top blocks of its own, or its checkpoint lacks the head.
    """
    wanted = config.model
    where = str(sources.paths[wanted.sha256]) if wanted.sha256 else wanted.name
    revision = None if wanted.sha256 else wanted.revision
    try:
        with quiet_transformers():
            described = AutoConfig.from_pretrained(where, revision=revision)
            spec = resolve_backbone(wanted, described.to_dict())
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
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", where, error)) from None
    _check_head(wanted.name, info["missing_keys"])
    spec = replace(spec, pooler=None)  # such a model has none
    check_backbone_paths(model, spec, wanted.name)
    if spec.name not in BACKBONES:
        spec = replace(spec, lost_positions=count_lost_positions(model))
    untie_head(model)
    positions = getattr(described, "max_position_embeddings", None)
    return MaskedLM(
        model=model.eval(),
        spec=spec,
        blocks=tuple(f"{spec.blocks[-1]}.{name}" for name, _ in model.get_submodule(spec.blocks[-1]).named_children()),
        inputs=input_layout_for(PretrainedCheckpoint(model, spec, None, (), ()), tokenizer),
        letters=_masking_vocabulary(wanted.name, tokenizer),
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


def load_finetuned_encoder(path: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the weights of a run's encoder, by the names that they have in a masked-language model of its family.

    Raises:
        UserError: the file is damaged, or not of such an encoder.
    """
    try:
        tensors = load_file(path)
    except LOAD_ERRORS as error:
        raise UserError(f"{path} cannot be read as weights: {' '.join(str(error).split())}") from None
    base = f"{model.base_model_prefix}."
    ours = {name: values for name, values in model.state_dict().items() if name.startswith(base)}
    wrong = [name for name, values in ours.items() if name not in tensors or tensors[name].shape != values.shape]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{path}: its weights are not those of the run's model: {wrong[0]}{more} do not fit")
    return {name: tensors[name] for name in ours}


@torch.no_grad()
def reset_top_blocks(masked: MaskedLM, finetuned: Mapping[str, Tensor]) -> Iterator[str]:
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
        yield ALL_RESET
    finally:
        put(pretrained)


@dataclass(frozen=True)
class ProbeText:
    """A text as rows of tokens, `order` giving the rows that count, the longest first, and how it is masked."""

    name: str  # without the folders above it
    sha256: str  # of the file or folder; of the rows if it is the toy language's
    rows: TokenizedRows
    order: np.ndarray
    masking: MaskingConfig

    @property
    def tokens(self) -> int:
        """How many there are, with [CLS] and [SEP]."""
        return int(np.diff(self.rows.offsets)[self.order].sum())


@torch.no_grad()
def measure_masked_loss(
    masked: MaskedLM,
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
    for part in mask_in_parts(text, masked.inputs, masked.letters, max_length, seed):
        lengths = part.inputs["attention_mask"].sum(1).tolist()

        def loss(start: int, stop: int, part=part, lengths=lengths) -> Tensor:
            width = -(-lengths[start] // 8) * 8
            inside = slice(None, width) if not masked.inputs.left else slice(-width, None)
            chosen, truth = part.chosen[start:stop, inside], part.truth[start:stop, inside]
            places = chosen.flatten().nonzero()[:, 0]
            batch = {key: values[start:stop, inside].contiguous() for key, values in part.inputs.items()}
            batch = to_device(batch | {"places": places, "truth": truth.flatten()[places]}, device)
            places, truth = batch.pop("places"), batch.pop("truth")
            losses = functional.cross_entropy(_masked_positions_logits(masked, batch, places), truth, reduction="none")
            tick(stop - start)
            return losses.double().sum()

        sums += run_in_batches(loss, len(lengths), batch_size)
        count += int(part.chosen.sum())
    return float(torch.stack(sums).sum()) / count


def _masked_positions_logits(masked: MaskedLM, batch: dict[str, Tensor], places: Tensor) -> Tensor:
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


def _masking_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> MaskingVocabulary:
    for token in ("cls_token", "sep_token", "mask_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"model {name!r}: its tokenizer has no {token}")
    assert isinstance(tokenizer.mask_token_id, int)
    return make_masking_vocabulary(len(tokenizer), special_token_ids(tokenizer), tokenizer.mask_token_id)


TOY_TEXT, WIKITEXT = "toy", "wikitext-2"
WIKITEXT_ON_HUB = ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")  # repository, config, split
# DEVIATION: the paper says neither how it masks nor how it cuts the text; this is BERT's way, in rows of one article.
BERT_MASKING = MaskingConfig(share=0.15, masked=0.8, random=0.1)
PROBE_TEXT_FORMAT = "probe 1"  # counted up when the same text would give other rows
ROWS_MASKED_AT_ONCE = 4096  # rows, which bounds the memory of masks; the masks depend on it, so it is no option
ARTICLE_TITLE = re.compile(r"= (?!=).*(?<!=) =")  # of an article of WikiText; sections have `= = Name = =`

DocumentLines = Iterable[tuple[int, str]]  # number of the document, line


def load_probe_text(name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, sources: LocalPaths) -> ProbeText:
    """Returns the text of `--text`: a file or folder, "toy" or "wikitext-2", in rows of at most `max_length` tokens.

    A text is packed and masked as BERT's pre-training does; the toy language's held-out rows as its own does.

    Raises:
        UserError: there is no such text, it is not UTF-8, or the hub cannot be reached.
    """
    if name == TOY_TEXT:
        return _load_toy_text(tokenizer, max_length, sources)
    if name == WIKITEXT:
        lines = _load_wikitext()
        documents = _split_articles([(0, text) for line in lines if (text := line.strip())], tokenizer)
        return _pack_text(name, _hash_lines(lines), documents, tokenizer, max_length, sources)
    path = Path(name).expanduser()
    if not path.exists():
        close = did_you_mean(name, (TOY_TEXT, WIKITEXT))
        raise UserError(f"--text {name!r}: there is no such file or folder, nor is it {TOY_TEXT} or {WIKITEXT}{close}")
    files = list_text_files(path)
    if not files:
        raise UserError(f"--text {name!r}: the folder holds no files")
    label, digest = path.resolve().name, text_digest(path)
    return _pack_text(label, digest, _read_files(files, tokenizer), tokenizer, max_length, sources)


def mask_in_parts(
    text: ProbeText, inputs: InputLayout, letters: MaskingVocabulary, max_length: int, seed: int
) -> Iterator[MaskedBatch]:
    """Yields all rows, so many at once, with their masks: a function of the text's tokens and the seed alone.

    The first masks are those that pre-training draws for its held-out rows from the same seed.
    """
    random = make_generator(seed, "held_out_masks")
    for start in range(0, len(text.order), ROWS_MASKED_AT_ONCE):
        batch = pad_batch(text.rows, text.order[start : start + ROWS_MASKED_AT_ONCE], inputs, max_length)
        yield mask_tokens(batch, letters, text.masking, random)


def _load_toy_text(tokenizer: PreTrainedTokenizerBase, max_length: int, sources: LocalPaths) -> ProbeText:
    plan = load_pretraining(shipped_configs() / "pretrain" / "toy.yaml", sources)
    config = plan.config.model_copy(update={"max_length": max_length})
    corpus = load_corpus(config, sources, tokenizer)
    return ProbeText(
        TOY_TEXT, corpus.record.fingerprint, corpus.rows, _longest_first(corpus.rows, corpus.held_out), config.masking
    )


def _pack_text(
    name: str,
    digest: str,
    documents: DocumentLines,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    sources: LocalPaths,
) -> ProbeText:
    key = [PROBE_TEXT_FORMAT, digest, hash_tokenizer(tokenizer), max_length]
    *arrays, _ = load_or_compute(sources.cache_dir, key, lambda: pack_documents(documents, tokenizer, max_length))
    rows = TokenizedRows(*arrays)
    return ProbeText(name, digest, rows, _longest_first(rows, np.arange(len(rows))), BERT_MASKING)


def _longest_first(rows: TokenizedRows, chosen: np.ndarray) -> np.ndarray:
    return chosen[np.argsort(-np.diff(rows.offsets)[chosen], kind="stable")]


def _read_files(files: Sequence[Path], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yields the lines of files, whose documents are numbered through."""
    first = 0
    for file in files:
        last = first
        for document, line in _split_articles(list(read_documents([file])), tokenizer):
            last = first + document
            yield last, line
        first = last + 1


def _split_articles(lines: Sequence[tuple[int, str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file; where it is laid out as WikiText is, a document is an article.

    The tokenised WikiText has <unk> for rare words: it becomes the tokenizer's unknown token, which no model has to
    find out; the raw one, which the hub's is, has the words. Both keep WikiText's own ` @-@ ` and ` , `.
    """
    if not lines or not ARTICLE_TITLE.fullmatch(lines[0][1]):
        yield from lines
        return
    article, unknown = 0, str(tokenizer.unk_token or "<unk>")
    for _, line in lines:
        article += ARTICLE_TITLE.fullmatch(line) is not None
        yield article, line.replace("<unk>", unknown)


def _load_wikitext() -> list[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    repository, config, split = WIKITEXT_ON_HUB
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell of each of its attempts
    try:
        return load_dataset(repository, config, split=split)["text"][:]
    except (OSError, ValueError, HfHubHTTPError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--text {WIKITEXT} cannot be loaded from the hub as {repository} ({config}, {split}): {reason}; the other "
            "way is --text FILE with the benchmark's test file, or any text"
        ) from None


def _hash_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
