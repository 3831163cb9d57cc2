"""Pre-train a masked-language model: set-up, loop, record, model folder."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stableft.catalog.model_families import find_backbone
from stableft.config.planned_run import Execution
from stableft.config.run_config import PretrainConfig
from stableft.data.tokens import InputLayout, pad_batch
from stableft.errors import UserError
from stableft.pretrain.config_file import PlannedPretraining
from stableft.pretrain.corpus import Corpus, load_corpus, load_pretraining_tokenizer, special_token_ids
from stableft.pretrain.masked_lm import (
    MaskedBatch,
    MaskingVocabulary,
    build_masked_lm,
    make_masking_vocabulary,
    mask_tokens,
    masked_logits,
)
from stableft.pretrain.record import MODEL_FOLDER, PretrainPoint, PretrainRecord, pretrain_folder
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, atomic_write, dump_record
from stableft.seeds import batch_row_indices, make_generator
from stableft.training.environment import git_state, peak_memory
from stableft.training.evaluate import autocast, loss_sum, run_in_batches, to_device
from stableft.training.loop import LoopSettings, resume_conditions, run_steps, start_or_resume
from stableft.training.outputs import (
    collect_environment,
    count_skipped_steps,
    describe_divergence,
    write_history,
    write_model_folder,
)
from stableft.training.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.training.setup import create_train_state, prepare_device
from stableft.training.step import StepResult, TrainState, learning_rate, mean_train_loss, update_weights


@dataclass(frozen=True)
class PretrainProgress:
    """Where a pre-training is; the speed is that of its steps, evaluations left out."""

    step: int
    total: int
    loss: float | None
    held_out_loss: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class PretrainJob:
    """What stays fixed while a model pre-trains. `held_out` has its masks and is sorted, longest rows first."""

    plan: PlannedPretraining
    folder: Path
    execution: Execution
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    letters: MaskingVocabulary
    held_out: MaskedBatch
    per_epoch: int
    total: int
    evaluate_at: frozenset[int]


def pretrain_masked_lm(
    job: PretrainJob,
    state: TrainState,
    progress: Callable[[PretrainProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> PretrainRecord:
    """Trains a model, or goes on from its checkpoint, and returns its record, which is then on disk, and the model.

    A loss of NaN or infinity ends it early: it has failed, and there is no model.

    Raises:
        Stopped: `stop()` was true; a checkpoint was written.
        UserError: there is a checkpoint that was made in another way.
    """
    config, device = job.plan.config, job.device
    facts = resume_conditions(config.run_id, job.corpus.record.fingerprint, job.execution, device)
    course = LoopSettings(config.run_id, job.folder, job.execution, device, job.total, job.evaluate_at, facts)
    start_or_resume(course, state, config, name=job.plan.name)
    counted = tokens = 0

    def report() -> None:
        nonlocal counted, tokens
        tokens += sum(line["tokens"] for line in state.history[counted:])
        counted = len(state.history)
        progress(_progress(job, state, tokens))

    diverged = run_steps(
        course,
        state,
        update=lambda: _update(job, state),
        evaluate=lambda: _evaluate(job, state),
        report=report,
        stop=stop,
    )
    record = _finish(job, state, diverged)
    (job.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return record


def _update(job: PretrainJob, state: TrainState) -> StepResult:
    config = job.plan.config
    masked = masked_batch_of_step(job, state.step)
    count = max(1, int(masked.chosen.sum()))

    def share(start: int, stop: int) -> Tensor:
        logits, truth = _masked_logits_and_targets(job, state.model, masked, start, stop)
        return loss_sum(logits, truth) / count

    lr = learning_rate(config, state.step, job.total)
    step = update_weights(state, share, len(masked.truth), config, lr, job.device)
    return replace(step, tokens=int(masked.inputs["attention_mask"].sum()))


def _masked_logits_and_targets(
    job: PretrainJob, model: PreTrainedModel, masked: MaskedBatch, start: int, stop: int, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Returns logits at the masked places of some rows, cut to a width, and what stood there."""
    chosen, truth = (values[start:stop, :width] for values in (masked.chosen, masked.truth))
    places = chosen.flatten().nonzero()[:, 0]
    batch = {key: values[start:stop, :width].contiguous() for key, values in masked.inputs.items()}
    batch = to_device(batch | {"places": places, "truth": truth.flatten()[places]}, job.device)
    places, truth = batch.pop("places"), batch.pop("truth")
    with autocast(job.plan.config, job.device):
        return masked_logits(model, batch, places), truth


@torch.no_grad()
def _evaluate(job: PretrainJob, state: TrainState) -> None:
    """Appends held-out loss and accuracy, with dropout off and the same masks each time."""
    started = time.perf_counter()
    state.model.eval()
    lengths = job.held_out.inputs["attention_mask"].sum(1).tolist()

    def sums(start: int, stop: int) -> Tensor:
        logits, truth = _masked_logits_and_targets(
            job, state.model, job.held_out, start, stop, -(-lengths[start] // 8) * 8
        )
        return torch.stack([loss_sum(logits, truth), (logits.argmax(-1) == truth).sum().float()])

    parts = run_in_batches(sums, len(lengths), job.plan.config.evaluation.batch_size)
    loss, right = (torch.stack(parts).double().sum(0) / job.held_out.chosen.sum().item()).tolist()
    state.model.train()
    state.evals.append(
        {
            "step": state.step,
            "epoch": state.step / job.per_epoch,
            "train_loss": mean_train_loss(state),
            "held_out_loss": loss,
            "held_out_accuracy": right,
            "seconds": time.perf_counter() - started,
        }
    )


def _tokens_per_second(state: TrainState, tokens: int) -> float | None:
    seconds = state.seconds - math.fsum(point["seconds"] for point in state.evals)
    return tokens / seconds if tokens and seconds > 0 else None


def _progress(job: PretrainJob, state: TrainState, tokens: int) -> PretrainProgress:
    loss = state.history[-1]["loss"] if state.history else None
    held_out = state.evals[-1]["held_out_loss"] if state.evals else None
    return PretrainProgress(state.step, job.total, loss, held_out, _tokens_per_second(state, tokens))


def _finish(job: PretrainJob, state: TrainState, diverged: bool) -> PretrainRecord:
    """Returns the record of a pre-training that is at its end, after writing the model, and the record last of all."""
    reason = None
    if diverged:
        reason = describe_divergence(state)
    elif not math.isfinite(state.evals[-1]["held_out_loss"]):
        reason = f"the held-out loss after the last step, {state.step}, was {state.evals[-1]['held_out_loss']}"
    else:
        write_model_folder(job.folder / MODEL_FOLDER, state.model, job.tokenizer)
    write_history(job.folder, state)
    tokens = sum(line["tokens"] for line in state.history)
    record = PretrainRecord(
        run_id=job.plan.config.run_id,
        name=job.plan.name,
        failed=reason is not None,
        reason=reason,
        config=job.plan.config,
        evals=tuple(PretrainPoint(**point) for point in state.evals),
        steps=len(state.history),
        skipped_steps=count_skipped_steps(state),
        tokens=tokens,
        tokens_per_second=_tokens_per_second(state, tokens),
        data=job.corpus.record,
        environment=collect_environment(state),
        seconds=state.seconds,
        peak_memory_bytes=peak_memory(job.device),
    )
    atomic_write(job.folder / RECORD_FILE, (dump_record(record) + "\n").encode())
    return record


def prepare_pretraining(
    plan: PlannedPretraining, results: Path, execution: Execution
) -> tuple[PretrainJob, TrainState]:
    """Returns the fixed and changing parts before the first step, not touching the disk but for the cache.

    Raises:
        UserError: text or vocabulary cannot be used.
    """
    git_state()  # read now, and kept: the code that runs is the code of this moment
    config = plan.config
    device = prepare_device(execution)
    tokenizer = load_pretraining_tokenizer(config, plan.sources.paths)
    corpus = load_corpus(config, plan.sources, tokenizer)
    assert isinstance(tokenizer.mask_token_id, int)
    letters = make_masking_vocabulary(len(tokenizer), special_token_ids(tokenizer), tokenizer.mask_token_id)
    rows = corpus.held_out[np.argsort(-np.diff(corpus.rows.offsets)[corpus.held_out], kind="stable")]
    random = make_generator(config.corpus.seed, "held_out_masks")  # so that losses of other seeds can be compared
    held_out = mask_tokens(_pad_batch(config, corpus, tokenizer, rows), letters, config.masking, random)
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
    model = build_masked_lm(config, tokenizer, plan.sources.paths[start] if start else None)
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    return job, create_train_state(model, find_backbone(config.family, config.family), config, execution)


def masked_batch_of_step(job: PretrainJob, step: int) -> MaskedBatch:
    """Returns the masked rows of update `step`: a function of the data seed and the step alone."""
    config = job.plan.config
    places = batch_row_indices(config.seeds.data, step, len(job.corpus.train), config.schedule.batch_size)
    batch = _pad_batch(config, job.corpus, job.tokenizer, job.corpus.train[places])
    return mask_tokens(batch, job.letters, config.masking, make_generator(config.seeds.data, "masks", step))


def _pad_batch(config: PretrainConfig, corpus: Corpus, tokenizer, rows: np.ndarray) -> dict[str, Tensor]:
    segments = find_backbone(config.family, config.family).segment_ids and config.model.get("type_vocab_size", 2) > 1
    return pad_batch(corpus.rows, rows, InputLayout(tokenizer.pad_token_id, segments=segments), config.max_length)
