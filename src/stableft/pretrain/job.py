"""A pre-training made ready: its rows with their masks, its model and optimizer, and the steps of its looks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stableft.backbones import find_backbone
from stableft.data import Inputs, pad
from stableft.environment import git_state
from stableft.errors import UserError
from stableft.job import first_state, prepare_device
from stableft.plan import Execution
from stableft.pretrain.corpus import Corpus, load_corpus
from stableft.pretrain.file import Pretraining
from stableft.pretrain.masking import Alphabet, Masked, alphabet, mask
from stableft.pretrain.model import build_masked_model
from stableft.pretrain.record import pretrain_folder
from stableft.pretrain.vocabulary import special_ids, vocabulary_of
from stableft.pretrain_config import PretrainConfig
from stableft.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.seeds import batch_order, generator
from stableft.update import TrainState


@dataclass(frozen=True)
class PretrainJob:
    """What stays fixed while a model pre-trains. `held_out` has its masks and is sorted, longest rows first."""

    plan: Pretraining
    folder: Path
    execution: Execution
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    letters: Alphabet
    held_out: Masked
    per_epoch: int
    total: int
    evaluate_at: frozenset[int]


def prepare_pretraining(plan: Pretraining, results: Path, execution: Execution) -> tuple[PretrainJob, TrainState]:
    """Returns the fixed and changing parts before the first step, not touching the disk but for the cache.

    Raises:
        UserError: text or vocabulary cannot be used.
    """
    git_state()  # read now, and kept: the code that runs is the code of this moment
    config = plan.config
    device = prepare_device(execution)
    tokenizer = vocabulary_of(config, plan.sources.paths)
    corpus = load_corpus(config, plan.sources, tokenizer)
    assert isinstance(tokenizer.mask_token_id, int)
    letters = alphabet(len(tokenizer), special_ids(tokenizer), tokenizer.mask_token_id)
    rows = corpus.held_out[np.argsort(-np.diff(corpus.rows.offsets)[corpus.held_out], kind="stable")]
    random = generator(config.corpus.seed, "held_out_masks")  # so that losses of other seeds can be compared
    held_out = mask(_batch(config, corpus, tokenizer, rows), letters, config.masking, random)
    if not held_out.chosen.any():
        words = config.vocabulary.name
        raise UserError(f"text {config.text.name!r}: its held-out rows have no word of vocabulary {words!r}")
    total = total_steps(config.schedule, len(corpus.train))
    per_epoch = steps_per_epoch(len(corpus.train), config.schedule.batch_size)
    job = PretrainJob(
        plan=plan,
        folder=pretrain_folder(results, config.run_id),
        execution=execution,
        device=device,
        tokenizer=tokenizer,
        corpus=corpus,
        letters=letters,
        held_out=held_out,
        per_epoch=per_epoch,
        total=total,
        evaluate_at=frozenset(evaluation_steps(config.evaluation, total, per_epoch)),
    )
    start = config.start_from and config.start_from.sha256
    model = build_masked_model(config, tokenizer, plan.sources.paths[start] if start else None)
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    return job, first_state(model, find_backbone(config.family, config.family), config, execution)


def batch_of_step(job: PretrainJob, step: int) -> Masked:
    """Returns the masked rows of update `step`: a function of the data seed and the step alone."""
    config = job.plan.config
    places = batch_order(config.seeds.data, step, len(job.corpus.train), config.schedule.batch_size)
    batch = _batch(config, job.corpus, job.tokenizer, job.corpus.train[places])
    return mask(batch, job.letters, config.masking, generator(config.seeds.data, "masks", step))


def _batch(config: PretrainConfig, corpus: Corpus, tokenizer, rows: np.ndarray) -> dict[str, Tensor]:
    segments = find_backbone(config.family, config.family).segment_ids and config.model.get("type_vocab_size", 2) > 1
    return pad(corpus.rows, rows, Inputs(tokenizer.pad_token_id, segments=segments), config.max_length)
