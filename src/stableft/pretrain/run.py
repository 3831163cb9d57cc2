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
from stableft.models.host_reads import avoid_host_reads
from stableft.pretrain.config_file import PlannedPretraining
from stableft.pretrain.corpus import Corpus, load_corpus, load_pretraining_tokenizer, special_token_ids
from stableft.pretrain.masked_lm import (
    MaskedBatch,
    MaskingVocabulary,
    build_masked_lm,
    make_masking_vocabulary,
    mask_tokens,
    masked_logits,
    select_masked,
)
from stableft.pretrain.record import MODEL_FOLDER, PretrainPoint, PretrainRecord, pretrain_folder
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.file_sums import sum_files
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HISTORY_FILE,
    RECORD_FILE,
    atomic_write,
    dump_record,
)
from stableft.seeds import batch_row_indices, make_generator
from stableft.training.environment import git_state, peak_memory
from stableft.training.evaluate import autocast, loss_sum, run_in_batches
from stableft.training.loop import LoopSettings, resume_conditions, run_steps, start_or_resume
from stableft.training.outputs import (
    collect_environment,
    count_skipped_steps,
    describe_divergence,
    note_eval_batch,
    training_commits,
    write_history,
    write_model_folder,
)
from stableft.training.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.training.setup import create_train_state, prepare_device
from stableft.training.step import StepResult, TrainState, learning_rate, mean_train_loss, update_weights


@dataclass(frozen=True)
class PretrainProgress:
    """Progress of a pre-training. The speed is that of the steps, without evaluations."""

    step: int
    total: int
    loss: float | None
    held_out_loss: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class PretrainSetup:
    """What stays fixed during a pre-training. `held_out` is masked and has the longest rows first."""

    planned: PlannedPretraining
    folder: Path
    execution: Execution
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    vocabulary: MaskingVocabulary
    held_out: MaskedBatch
    steps_per_epoch: int
    total_steps: int
    evaluate_at: frozenset[int]


def pretrain_masked_lm(
    setup: PretrainSetup,
    state: TrainState,
    progress: Callable[[PretrainProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> PretrainRecord:
    """Train a model, or resume from its checkpoint; write the model and its record, and return the record.

    A loss of NaN or infinity ends the run early; it has then failed, and no model is written.

    Raises:
        RunInterrupted: `stop()` returned True; a checkpoint was written.
        UserError: the checkpoint was made under different conditions.
    """
    config, device = setup.planned.config, setup.device
    conditions = resume_conditions(config.run_id, setup.corpus.record.fingerprint, setup.execution, device)
    settings = LoopSettings(
        config.run_id, setup.folder, setup.execution, device, setup.total_steps, setup.evaluate_at, conditions
    )
    start_or_resume(settings, state, config, name=setup.planned.name)
    steps_counted = tokens = 0

    def report() -> None:
        nonlocal steps_counted, tokens
        tokens += sum(line["tokens"] for line in state.history[steps_counted:])
        steps_counted = len(state.history)
        progress(_progress(setup, state, tokens))

    diverged = run_steps(
        settings,
        state,
        update=lambda: _update(setup, state),
        evaluate=lambda: _evaluate(setup, state),
        report=report,
        stop=stop,
    )
    record = _finish(setup, state, diverged)
    remove_under_claim(setup.folder / CHECKPOINT_FILE)
    return record


def _update(setup: PretrainSetup, state: TrainState) -> StepResult:
    config = setup.planned.config
    masked = masked_batch_of_step(setup, state.step)
    n_masked = max(1, int(masked.is_masked.sum()))

    def partial_loss(start: int, stop: int) -> Tensor:
        logits, target_ids = _masked_logits_and_targets(setup, state.model, masked, start, stop)
        return loss_sum(logits, target_ids) / n_masked

    lr = learning_rate(config, state.step, setup.total_steps)
    step = update_weights(state, partial_loss, len(masked.target_ids), config, lr, setup.device)
    return replace(step, tokens=int(masked.inputs["attention_mask"].sum()))


def _masked_logits_and_targets(
    setup: PretrainSetup, model: PreTrainedModel, masked: MaskedBatch, start: int, stop: int, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits at the masked positions of some rows, truncated to `width`, and the original ids."""
    batch, positions, target_ids = select_masked(
        masked, slice(start, stop), slice(width), setup.device, full_mask=False
    )
    with autocast(setup.planned.config, setup.device):
        return masked_logits(model, batch, positions), target_ids


@torch.no_grad()
def _evaluate(setup: PretrainSetup, state: TrainState) -> None:
    """Append held-out loss and accuracy to the evaluations, without dropout and with the same masks each time."""
    started = time.perf_counter()
    state.model.eval()
    lengths = setup.held_out.inputs["attention_mask"].sum(1).tolist()

    def sums(start: int, stop: int) -> Tensor:
        width = -(-lengths[start] // 8) * 8
        logits, target_ids = _masked_logits_and_targets(setup, state.model, setup.held_out, start, stop, width)
        return torch.stack([loss_sum(logits, target_ids), (logits.argmax(-1) == target_ids).sum().float()])

    configured = setup.planned.config.evaluation.batch_size
    parts, fitting = run_in_batches(sums, len(lengths), state.eval_batch or configured)
    note_eval_batch(state, fitting if fitting < configured else None)
    loss, accuracy = (torch.stack(parts).double().sum(0) / setup.held_out.is_masked.sum().item()).tolist()
    state.model.train()
    state.evals.append(
        {
            "step": state.step,
            "epoch": state.step / setup.steps_per_epoch,
            "train_loss": mean_train_loss(state),
            "held_out_loss": loss,
            "held_out_accuracy": accuracy,
            "seconds": time.perf_counter() - started,
        }
    )


def _tokens_per_second(state: TrainState, tokens: int) -> float | None:
    seconds = state.seconds - math.fsum(point["seconds"] for point in state.evals)
    return tokens / seconds if tokens and seconds > 0 else None


def _progress(setup: PretrainSetup, state: TrainState, tokens: int) -> PretrainProgress:
    loss = state.history[-1]["loss"] if state.history else None
    held_out = state.evals[-1]["held_out_loss"] if state.evals else None
    return PretrainProgress(state.step, setup.total_steps, loss, held_out, _tokens_per_second(state, tokens))


def _finish(setup: PretrainSetup, state: TrainState, diverged: bool) -> PretrainRecord:
    """Write the model of a pre-training that has ended, then its record, and return the record."""
    reason = None
    if diverged:
        reason = describe_divergence(state)
    elif not math.isfinite(state.evals[-1]["held_out_loss"]):
        reason = f"the held-out loss after the last step, {state.step}, was {state.evals[-1]['held_out_loss']}"
    else:
        write_model_folder(setup.folder / MODEL_FOLDER, state.model, setup.tokenizer)
    write_history(setup.folder, state)
    tokens = sum(line["tokens"] for line in state.history)
    record = PretrainRecord(
        run_id=setup.planned.config.run_id,
        name=setup.planned.name,
        failed=reason is not None,
        reason=reason,
        config=setup.planned.config,
        evals=tuple(PretrainPoint(**point) for point in state.evals),
        steps=len(state.history),
        skipped_steps=count_skipped_steps(state),
        tokens=tokens,
        tokens_per_second=_tokens_per_second(state, tokens),
        data=setup.corpus.record,
        environment=collect_environment(state, setup.execution),
        seconds=state.seconds,
        peak_memory_bytes=peak_memory(setup.device),
        commits=training_commits(state),
        files=sum_files(setup.folder, (CONFIG_FILE, HISTORY_FILE, MODEL_FOLDER)),
    )
    atomic_write(setup.folder / RECORD_FILE, (dump_record(record) + "\n").encode())
    return record


def prepare_pretraining(
    planned: PlannedPretraining, results: Path, execution: Execution
) -> tuple[PretrainSetup, TrainState]:
    """Return the fixed and the changing parts before the first step. Only the token cache on disk is written.

    Raises:
        UserError: text or vocabulary are damaged or do not fit each other.
    """
    git_state()  # cached now, because the code that runs is that of this moment
    config = planned.config
    device = prepare_device(execution)
    tokenizer = load_pretraining_tokenizer(config, planned.sources.paths)
    corpus = load_corpus(config, planned.sources, tokenizer)
    assert isinstance(tokenizer.mask_token_id, int)
    vocabulary = make_masking_vocabulary(len(tokenizer), special_token_ids(tokenizer), tokenizer.mask_token_id)
    rows = corpus.held_out[np.argsort(-np.diff(corpus.rows.offsets)[corpus.held_out], kind="stable")]
    # Not from the run's seeds, so that the losses of different seeds are comparable.
    generator = make_generator(config.corpus.seed, "held_out_masks")
    held_out = mask_tokens(_pad_batch(config, corpus, tokenizer, rows), vocabulary, config.masking, generator)
    if not held_out.is_masked.any():
        name = config.vocabulary.name
        raise UserError(f"text {config.text.name!r}: its held-out rows have no word of vocabulary {name!r}")
    n_steps = total_steps(config.schedule, len(corpus.train))
    n_per_epoch = steps_per_epoch(len(corpus.train), config.schedule.batch_size)
    setup = PretrainSetup(
        planned=planned,
        folder=pretrain_folder(results, config.run_id),
        execution=execution,
        device=device,
        tokenizer=tokenizer,
        corpus=corpus,
        vocabulary=vocabulary,
        held_out=held_out,
        steps_per_epoch=n_per_epoch,
        total_steps=n_steps,
        evaluate_at=frozenset(evaluation_steps(config.evaluation, n_steps, n_per_epoch, len(rows))),
    )
    start = config.start_from and config.start_from.sha256
    model = build_masked_lm(config, tokenizer, planned.sources.paths[start] if start else None)
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    spec = find_backbone(config.family, config.family)
    avoid_host_reads(model, spec)
    return setup, create_train_state(model, spec, config, execution)


def masked_batch_of_step(setup: PretrainSetup, step: int) -> MaskedBatch:
    """Return the masked rows of update `step`, which depend only on the data seed and the step."""
    config = setup.planned.config
    indices = batch_row_indices(config.seeds.data, step, len(setup.corpus.train), config.schedule.batch_size)
    batch = _pad_batch(config, setup.corpus, setup.tokenizer, setup.corpus.train[indices])
    return mask_tokens(batch, setup.vocabulary, config.masking, make_generator(config.seeds.data, "masks", step))


def _pad_batch(config: PretrainConfig, corpus: Corpus, tokenizer, rows: np.ndarray) -> dict[str, Tensor]:
    segments = find_backbone(config.family, config.family).segment_ids and config.model.get("type_vocab_size", 2) > 1
    return pad_batch(corpus.rows, rows, InputLayout(tokenizer.pad_token_id, segments=segments), config.max_length)
