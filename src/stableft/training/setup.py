"""Set up a run: data, model, optimizer, and the steps at which it evaluates."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stableft.catalog.model_families import BackboneSpec
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import PretrainConfig, RunConfig
from stableft.data.tokens import InputLayout, Splits, load_splits
from stableft.methods.adamw import build_optimizer
from stableft.methods.mixout import apply_mixout
from stableft.models.build import build_model, input_layout_for
from stableft.models.load import PretrainedCheckpoint, load_pretrained, load_tokenizer
from stableft.models.start_weights import find_start_weights
from stableft.records.run_record import StartRecord, run_folder
from stableft.seeds import batch_row_indices
from stableft.training.in_loop_probes import start_probe_recorder
from stableft.training.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.training.step import TrainState


@dataclass(frozen=True)
class RunSetup:
    """What stays fixed while a run trains. `evaluate_at` holds steps; an epoch has `per_epoch` of `total` steps."""

    run: PlannedRun
    config: RunConfig
    folder: Path
    execution: Execution
    device: torch.device
    splits: Splits
    pretrained: PretrainedCheckpoint
    tokenizer: PreTrainedTokenizerBase
    inputs: InputLayout
    per_epoch: int
    total: int
    evaluate_at: frozenset[int]
    start: StartRecord | None = None  # whose weights it begins with, if not the pre-trained ones


def preload_inputs(run: PlannedRun, sources: LocalPaths) -> None:
    """Loads and keeps what a run reads, so that a mistake in it is found before anything is written.

    Raises:
        UserError: data or model cannot be used.
    """
    config = run.config.normalized()
    splits = _load_splits_once(config, sources, load_tokenizer(config, sources))
    total_steps(config.schedule, len(splits.train))
    load_pretrained(config, sources)


def prepare_run(
    run: PlannedRun, results: Path, sources: LocalPaths, execution: Execution
) -> tuple[RunSetup, TrainState]:
    """Returns a run's fixed and changing parts before its first step, not touching the disk.

    Raises:
        UserError: data, model or config cannot be used.
    """
    config = run.config.normalized()
    device = prepare_device(execution)
    tokenizer = load_tokenizer(config, sources)
    splits = _load_splits_once(config, sources, tokenizer)
    start = find_start_weights(config, results)
    model, pretrained = build_model(config, sources, start)
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    if config.mixout:  # here, where the weights are those of the start, which a checkpoint would replace
        apply_mixout(model, pretrained.spec, config.mixout)
    per_epoch = steps_per_epoch(len(splits.train), config.schedule.batch_size)
    total = total_steps(config.schedule, len(splits.train))
    job = RunSetup(
        run=run,
        config=config,
        folder=run_folder(results, run.run_id),
        execution=execution,
        device=device,
        splits=splits,
        pretrained=pretrained,
        tokenizer=tokenizer,
        inputs=input_layout_for(pretrained, tokenizer),
        per_epoch=per_epoch,
        total=total,
        evaluate_at=frozenset(evaluation_steps(config.evaluation, total, per_epoch)),
        start=start.described() if start else None,
    )
    state = create_train_state(model, pretrained.spec, config, execution)
    redrawn = config.reinit.blocks if config.reinit else 0
    state.recorder = start_probe_recorder(model, pretrained.spec, run.probes, total, redrawn)
    return job, state


def create_train_state(
    model: PreTrainedModel, spec: BackboneSpec, config: RunConfig | PretrainConfig, execution: Execution
) -> TrainState:
    """Returns the state before the first step of a model that is on its device."""
    return TrainState(
        model=model,
        optimizer=build_optimizer(model, config.optimizer, spec),
        scaler=torch.amp.GradScaler(model.device.type, enabled=config.precision == "fp16"),
        micro_batch=min(execution.micro_batch or config.schedule.batch_size, config.schedule.batch_size),
    )


_latest_splits: dict[tuple, Splits] = {}


def _load_splits_once(config: RunConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """Returns the run's rows; those of the latest run are kept, so that the seeds of an arm load them once."""
    key = (config.data, config.model.identity, sources.data_dir, sources.cache_dir)
    if key not in _latest_splits:
        splits = load_splits(config, sources, tokenizer)
        _latest_splits.clear()
        _latest_splits[key] = splits
    return _latest_splits[key]


def prepare_device(execution: Execution) -> torch.device:
    """Returns the device, set up to compute the same numbers each time."""
    if execution.threads:
        torch.set_num_threads(execution.threads)
    device = torch.device(execution.device)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.backends.cudnn.benchmark = False
        # Not warn_only: under it attention's backward pass keeps its non-deterministic kernel.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
    return device


def nothing_learnt_loss(job: RunSetup) -> float:
    """Returns the training loss of a model that ignores its input: the labels' entropy in nats, or their variance."""
    entropy = job.splits.record.label_entropy
    return float(np.var(job.splits.train.labels)) if entropy is None else entropy


def batch_indices(job: RunSetup, step: int) -> np.ndarray:
    """Returns the training rows of update `step`: a function of the data seed and the step alone."""
    return batch_row_indices(job.config.seeds.data, step, len(job.splits.train), job.config.schedule.batch_size)
