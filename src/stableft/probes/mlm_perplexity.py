"""Masked-language-model loss of a fine-tuned encoder whose top blocks are reset (M sec. 4.1).

The head is that of pre-training, with a decoder of its own: checkpoints tie the decoder to the embeddings, but
fine-tuned embeddings must not change it. There is one pass over the text per number of blocks. Reusing the outputs of
the lower blocks would halve the time, but needs code for how each family calls its blocks.
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
from stableft.config.run_config import MaskingConfig, RunConfig
from stableft.data.tokens import InputLayout, TokenizedRows, hash_tokenizer, load_or_compute, pad_batch
from stableft.errors import UserError, did_you_mean
from stableft.models.build import input_layout_for
from stableft.models.compatibility import resolve_backbone
from stableft.models.host_reads import avoid_host_reads
from stableft.models.load import (
    LOAD_ERRORS,
    PretrainedCheckpoint,
    check_backbone_paths,
    count_lost_positions,
    load_error_message,
    model_location,
    quiet_transformers,
    require_safetensors,
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
    select_masked,
)
from stableft.seeds import make_generator
from stableft.training.evaluate import run_in_batches

ALL_RESET = "all"  # the last point: the embeddings are reset too


@dataclass(frozen=True)
class MaskedLM:
    """A pre-trained model with its head for masked tokens, in float32, without dropout or tied weights."""

    model: PreTrainedModel
    spec: BackboneSpec
    blocks: tuple[str, ...]  # dotted paths, the lowest block first
    inputs: InputLayout
    vocabulary: MaskingVocabulary
    max_positions: int | None  # tokens per row; None: unknown
    commit: str | None  # hub models only


def load_masked_lm(config: RunConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> MaskedLM:
    """Return the pre-trained model of a run as a masked-language model on the CPU.

    Raises:
        UserError: the family has no such model or no resettable top blocks, or the checkpoint lacks the head.
    """
    model_config = config.model
    path_or_name, revision = model_location(config, sources)
    try:
        with quiet_transformers():
            hf_config = AutoConfig.from_pretrained(path_or_name, revision=revision, trust_remote_code=False)
            spec = resolve_backbone(model_config, hf_config.to_dict())
            _check_family(spec, model_config.name, hf_config)
            model, info = AutoModelForMaskedLM.from_pretrained(
                path_or_name,
                revision=revision,
                config=hf_config,
                dtype=torch.float32,
                attn_implementation=model_config.attention,
                output_loading_info=True,
                use_safetensors=require_safetensors(path_or_name, revision),
                trust_remote_code=False,
            )
    except UserError:
        raise
    except LOAD_ERRORS as error:
        raise UserError(load_error_message("model", path_or_name, error)) from None
    _check_head(model_config.name, info["missing_keys"])
    spec = replace(spec, pooler=None)  # such a model has none
    check_backbone_paths(model, spec, model_config.name)
    if spec.name not in BACKBONES:
        spec = replace(spec, lost_positions=count_lost_positions(model))
    untie_head(model)
    avoid_host_reads(model, spec)
    positions = getattr(hf_config, "max_position_embeddings", None)
    return MaskedLM(
        model=model.eval(),
        spec=spec,
        blocks=tuple(f"{spec.blocks[-1]}.{name}" for name, _ in model.get_submodule(spec.blocks[-1]).named_children()),
        inputs=input_layout_for(PretrainedCheckpoint(model, spec, None, (), ()), tokenizer),
        vocabulary=_masking_vocabulary(model_config.name, tokenizer),
        max_positions=positions - spec.lost_positions if positions and positions > 0 else None,
        commit=revision,
    )


def untie_head(model: PreTrainedModel) -> None:
    """Replace the head's weights that are shared with the encoder by copies."""
    shared, base = {id(weights) for weights in model.base_model.parameters()}, model.base_model_prefix
    for name, part in model.named_modules():
        if name.partition(".")[0] != base:
            for key, weights in list(part.named_parameters(recurse=False)):
                if id(weights) in shared:
                    setattr(part, key, nn.Parameter(weights.detach().clone()))


def load_finetuned_encoder(path: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the encoder weights of a run, by their names in a masked-language model of its family.

    Raises:
        UserError: the file is damaged, or does not hold such an encoder.
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
    """Yield "0" up to the number of blocks, then "all", with the model's encoder set to each of these points.

    At "k", the top k blocks have their pre-trained values and the rest of the encoder is fine-tuned. At "all",
    everything is pre-trained. After the last point, or when the iterator is closed, the pre-trained model is restored.
    """
    state = masked.model.state_dict()
    pretrained = {name: state[name].clone() for name in finetuned}

    def copy_in(values: Mapping[str, Tensor], below: str = "") -> None:
        for name, value in values.items():
            if name.startswith(below):
                state[name].copy_(value)

    try:
        copy_in(finetuned)
        yield "0"
        for count, block in enumerate(reversed(masked.blocks), 1):
            copy_in(pretrained, f"{block}.")
            yield str(count)
        copy_in(pretrained)
        yield ALL_RESET
    finally:
        copy_in(pretrained)


@dataclass(frozen=True)
class ProbeText:
    """A text as rows of tokens, and how it is masked. `rows_longest_first` are the indices of the rows to use."""

    name: str  # without parent folders
    sha256: str  # of the file or folder; for the toy language, of the rows
    rows: TokenizedRows
    rows_longest_first: np.ndarray
    masking: MaskingConfig

    @property
    def tokens(self) -> int:
        """Number of tokens, including [CLS] and [SEP]."""
        return int(np.diff(self.rows.offsets)[self.rows_longest_first].sum())


@torch.no_grad()
def measure_masked_loss(
    masked: MaskedLM,
    text: ProbeText,
    max_length: int,
    seed: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda rows: None,
    on_halved: Callable[[int], None] = lambda rows: None,
) -> float:
    """Return the mean cross-entropy of a masked token in nats, summed in float64.

    `on_batch` is called with the number of rows of each batch. Batches have rows of similar length, longest first, and
    are halved if memory runs out; `on_halved` is called with the number of rows that fitted.
    """
    device, sums, count = masked.model.device, [], 0
    for part in mask_in_parts(text, masked.inputs, masked.vocabulary, max_length, seed):
        lengths = part.inputs["attention_mask"].sum(1).tolist()

        def loss(start: int, stop: int, part=part, lengths=lengths) -> Tensor:
            width = -(-lengths[start] // 8) * 8
            columns = slice(None, width) if not masked.inputs.left else slice(-width, None)
            batch, positions, target_ids = select_masked(
                part, slice(start, stop), columns, device, masked.inputs.full_mask
            )
            logits = _masked_positions_logits(masked, batch, positions)
            losses = functional.cross_entropy(logits, target_ids, reduction="none")
            on_batch(stop - start)
            return losses.double().sum()

        parts, fitting = run_in_batches(loss, len(lengths), batch_size)
        if fitting < batch_size:
            on_halved(fitting)
        batch_size = fitting
        sums += parts
        count += int(part.is_masked.sum())
    return float(torch.stack(sums).sum()) / count


def _masked_positions_logits(masked: MaskedLM, batch: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Return logits at flat positions. The head of a family outside the catalog may do more than call its modules."""
    if masked.spec.name in BACKBONES:
        return masked_logits(masked.model, batch, positions)
    return masked.model(**batch).logits.flatten(0, 1)[positions]


def _check_family(spec: BackboneSpec, name: str, hf_config: PreTrainedConfig) -> None:
    model_label = f"{spec.title} model {name!r}"
    if type(hf_config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"{model_label} has no masked-language-model perplexity: its family is not pre-trained by masking tokens"
        )
    if spec.shares_blocks:
        raise UserError(f"{model_label} shares one block between all its layers, so it has no top blocks to reset")
    if len(spec.blocks) > 1:
        raise UserError(f"{model_label} has an encoder and a decoder, and M's probe is for encoders only")
    if not spec.blocks:
        raise UserError(f"the blocks of {model_label} are unknown: its runs have no model.structure that names them")


def _check_head(name: str, missing: set[str]) -> None:
    if missing:
        first, more = min(missing), f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"model {name!r}: its checkpoint has no head that predicts masked tokens (it lacks {first}{more}), "
            "so it has no perplexity"
        )


def _masking_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> MaskingVocabulary:
    for token in ("cls_token", "sep_token", "mask_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"model {name!r}: its tokenizer has no {token}")
    assert isinstance(tokenizer.mask_token_id, int)
    return make_masking_vocabulary(len(tokenizer), special_token_ids(tokenizer), tokenizer.mask_token_id)


TOY_TEXT, WIKITEXT = "toy", "wikitext-2"
WIKITEXT_ON_HUB = ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")  # repository, config, split
# DEVIATION: the paper does not say how it masks or splits the text; this is BERT's way, with one article per row.
BERT_MASKING = MaskingConfig(share=0.15, masked=0.8, random=0.1)
PROBE_TEXT_FORMAT = "probe 1"  # increased when the same text would give different rows
ROWS_MASKED_AT_ONCE = 4096  # bounds the memory of masks; no option, because the masks depend on it
ARTICLE_TITLE = re.compile(r"= (?!=).*(?<!=) =")  # in WikiText; its section titles are `= = Name = =`

DocumentLines = Iterable[tuple[int, str]]  # number of the document, line


def load_probe_text(name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, sources: LocalPaths) -> ProbeText:
    """Return the text of `--text` (a file or folder, "toy" or "wikitext-2") in rows of at most `max_length` tokens.

    Texts are packed and masked as in BERT's pre-training; the toy language's held-out rows as in the toy pre-training.

    Raises:
        UserError: there is no such text, it is not UTF-8, or it cannot be loaded from the hub.
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
    text: ProbeText, inputs: InputLayout, vocabulary: MaskingVocabulary, max_length: int, seed: int
) -> Iterator[MaskedBatch]:
    """Yield all rows in large batches with their masks, which depend only on the text's tokens and the seed.

    The first masks are those that pre-training draws for its held-out rows from the same seed.
    """
    generator = make_generator(seed, "held_out_masks")
    for start in range(0, len(text.rows_longest_first), ROWS_MASKED_AT_ONCE):
        batch = pad_batch(text.rows, text.rows_longest_first[start : start + ROWS_MASKED_AT_ONCE], inputs, max_length)
        yield mask_tokens(batch, vocabulary, text.masking, generator)


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
    *fields, _ = load_or_compute(sources.cache_dir, key, lambda: pack_documents(documents, tokenizer, max_length))
    rows = TokenizedRows(*fields)
    return ProbeText(name, digest, rows, _longest_first(rows, np.arange(len(rows))), BERT_MASKING)


def _longest_first(rows: TokenizedRows, indices: np.ndarray) -> np.ndarray:
    return indices[np.argsort(-np.diff(rows.offsets)[indices], kind="stable")]


def _read_files(files: Sequence[Path], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yield the lines of files, with documents numbered across files."""
    first = 0
    for file in files:
        last = first
        for document, line in _split_articles(list(read_documents([file])), tokenizer):
            last = first + document
            yield last, line
        first = last + 1


def _split_articles(lines: Sequence[tuple[int, str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file. If it has the layout of WikiText, each article is a document.

    Tokenized WikiText has <unk> for rare words, which becomes the tokenizer's unknown token and is never masked. Raw
    WikiText (the hub's) has the words. Both keep WikiText's ` @-@ ` and ` , `.
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
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would report every attempt
    try:
        return load_dataset(repository, config, split=split, trust_remote_code=False)["text"][:]
    except (OSError, ValueError, HfHubHTTPError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--text {WIKITEXT} cannot be loaded from the hub as {repository} ({config}, {split}): {reason}; use "
            "--text FILE with the benchmark's test file, or any other text"
        ) from None


def _hash_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
