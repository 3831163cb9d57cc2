"""Set up a run: data, model, optimizer, and its evaluation steps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stableft.catalog.model_families import BackboneSpec
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig, TrainingConfig
from stableft.data.tokens import InputLayout, Splits, load_splits
from stableft.errors import UserError
from stableft.methods.adamw import build_optimizer
from stableft.methods.mixout import apply_mixout
from stableft.models.build import build_model, input_layout_for
from stableft.models.host_reads import decides_nothing_on_host
from stableft.models.load import PretrainedCheckpoint, load_pretrained, load_tokenizer
from stableft.models.packed import packing_for
from stableft.models.start_weights import find_start_weights
from stableft.records.run_record import StartRecord, run_folder
from stableft.seeds import batch_row_indices
from stableft.training.cuda_graphs import RecordedUpdates
from stableft.training.environment import keep_freed_memory
from stableft.training.in_loop_probes import start_probe_recorder
from stableft.training.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.training.step import TrainState

LENGTH_GROUPS = 4  # of a batch, for `execution: grouped`


@dataclass(frozen=True)
class RunSetup:
    """Everything that stays fixed during training."""

    run: PlannedRun
    config: RunConfig
    folder: Path
    execution: Execution
    device: torch.device
    splits: Splits
    pretrained: PretrainedCheckpoint
    tokenizer: PreTrainedTokenizerBase
    inputs: InputLayout
    per_epoch: int  # steps per epoch
    total: int  # steps of the whole run
    evaluate_at: frozenset[int]  # steps after which to evaluate
    start: StartRecord | None = None  # run that provided the initial weights; None: the pre-trained checkpoint


def preload_inputs(run: PlannedRun, sources: LocalPaths) -> None:
    """Load a run's data and model into this process's caches, so that errors come up before anything is written.

    Raises:
        UserError: The data or the model is invalid.
    """
    config = run.run_config.normalized()
    splits = _load_splits_once(config, sources, load_tokenizer(config, sources))
    total_steps(config.schedule, len(splits.train))  # checks the warmup
    load_pretrained(config, sources)


def prepare_run(
    run: PlannedRun, results: Path, sources: LocalPaths, execution: Execution
) -> tuple[RunSetup, TrainState]:
    """Return a run's setup and its state before the first step. Write nothing to the run's folder.

    Raises:
        UserError: The data, the model or the config is invalid.
    """
    config = run.run_config.normalized()
    device = prepare_device(execution)
    tokenizer = load_tokenizer(config, sources)
    splits = _load_splits_once(config, sources, tokenizer)
    start = find_start_weights(config, results)
    model, pretrained = build_model(config, sources, start)
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    # Mixout, weight decay towards the pre-trained weights and the drift probe copy the initial weights, so they are set
    # up here, before a checkpoint overwrites these.
    if config.mixout:
        apply_mixout(model, pretrained.spec, config.mixout)
    per_epoch = steps_per_epoch(len(splits.train), config.schedule.batch_size)
    total = total_steps(config.schedule, len(splits.train))
    packing = packing_for(model, config, device, execution.compile)
    inputs = replace(input_layout_for(pretrained, tokenizer), packing=packing)
    if device.type == "cuda":  # without a mask, transformers makes one, but only while a CUDA graph is recorded
        inputs = replace(inputs, full_mask=True)
    setup = RunSetup(
        run=run,
        config=config,
        folder=run_folder(results, run.run_id),
        execution=execution,
        device=device,
        splits=splits,
        pretrained=pretrained,
        tokenizer=tokenizer,
        inputs=inputs,
        per_epoch=per_epoch,
        total=total,
        evaluate_at=frozenset(
            evaluation_steps(config.evaluation, total, per_epoch, len(splits.val) + len(splits.test or ()))
        ),
        start=start.to_record() if start else None,
    )
    state = create_train_state(model, pretrained.spec, config, execution)
    if config.execution == "grouped":
        state.micro_batch = min(state.micro_batch, -(-config.schedule.batch_size // LENGTH_GROUPS))
    if execution.compile:
        compile_model(model)
    redrawn = config.reinit.blocks if config.reinit else 0
    recordable = decides_nothing_on_host(model, pretrained.spec) and not config.mixout  # whose masks are seeded there
    if execution.cuda_graphs and device.type == "cuda" and recordable:
        state.graphs = RecordedUpdates(device)
    state.recorder = start_probe_recorder(model, pretrained.spec, run.probes, total, redrawn)
    return setup, state


def create_train_state(
    model: PreTrainedModel, spec: BackboneSpec, config: TrainingConfig, execution: Execution
) -> TrainState:
    """Return the state before the first step. The model must be on its device already."""
    return TrainState(
        model=model,
        optimizer=build_optimizer(model, config.optimizer, spec),
        scaler=torch.amp.GradScaler(model.device.type, enabled=config.precision == "fp16"),
        micro_batch=min(execution.micro_batch or config.schedule.batch_size, config.schedule.batch_size),
    )


def compile_model(model: PreTrainedModel) -> None:
    """Compile a model's passes, in place, for batches of any shape.

    Raises:
        UserError: There is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # loads much that is not needed otherwise
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "--compile: torch finds no C++ compiler, such as g++; install one, or leave the option out"
        ) from None
    model.compile(dynamic=True)


_latest_splits: dict[tuple, Splits] = {}


def _load_splits_once(config: RunConfig, sources: LocalPaths, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """Return a run's rows. Those of the latest run are cached, so that the seeds of an arm load them once."""
    key = (config.data, config.model.identity, sources.data_dir, sources.cache_dir)
    if key not in _latest_splits:
        splits = load_splits(config, sources, tokenizer)
        _latest_splits.clear()
        _latest_splits[key] = splits
    return _latest_splits[key]


GLOBAL_SWITCHES = (  # those that `prepare_device` sets, besides the deterministic mode
    (torch.backends.cuda.matmul, "fp32_precision"),
    (torch.backends.cudnn.conv, "fp32_precision"),  # pyright: ignore[reportAttributeAccessIssue]
    (torch.backends.cudnn, "benchmark"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),  # pyright: ignore[reportAttributeAccessIssue]
)
SHARED_MEMORY = 0.95  # of a GPU's, for all jobs on it together; the rest is for CUDA itself
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")  # torch accepts no others in deterministic mode


@contextmanager
def torch_settings_restored() -> Iterator[None]:
    """Restore, at the end, torch's global switches and generators, which belong to the caller's program.

    Memory that `prepare_device` lets the process keep goes back to the system.
    """
    cpu_rng, threads = torch.get_rng_state(), torch.get_num_threads()
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    switches = [(owner, name, getattr(owner, name)) for owner, name in GLOBAL_SWITCHES]
    try:
        yield
    finally:
        for owner, name, value in switches:
            setattr(owner, name, value)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_num_threads(threads)
        torch.set_rng_state(cpu_rng)
        if cuda_rng:
            torch.cuda.set_rng_state_all(cuda_rng)
        keep_freed_memory(False)


def prepare_device(execution: Execution) -> torch.device:
    """Return the device, configured for deterministic results unless they are not wanted.

    See `torch_settings_restored`.

    Raises:
        UserError: The user's cuBLAS settings are not deterministic.
    """
    if execution.threads:
        torch.set_num_threads(execution.threads)
    device = torch.device(execution.device)
    # Not warn_only: with it, attention's backward pass would keep its non-deterministic kernel. On a CPU it concerns
    # sums into the same place by several threads.
    torch.use_deterministic_algorithms(execution.deterministic)
    # A debugging aid of deterministic mode that costs time: we read no uninitialized memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if device.type == "cpu":
        keep_freed_memory(True)
    if device.type == "cuda":
        if execution.deterministic:
            _check_workspace()
        precision = "tf32" if execution.tf32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        # torch's default is TF32.
        torch.backends.cudnn.conv.fp32_precision = precision  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = False  # it would time kernels anew for every shape of batch
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
        if execution.jobs > 1:  # so that a job that takes much splits its own batches, not its neighbour's
            torch.cuda.set_per_process_memory_fraction(SHARED_MEMORY / execution.jobs, device)
    return device


def _check_workspace() -> None:
    """Set the workspace that deterministic cuBLAS needs: a fixed one, which it reads when CUDA starts."""
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_WORKSPACES[0])
    if workspace not in DETERMINISTIC_WORKSPACES:
        raise UserError(
            f"CUBLAS_WORKSPACE_CONFIG is {workspace!r}, with which a GPU's results differ from run to run; unset it, "
            f"set {' or '.join(DETERMINISTIC_WORKSPACES)}, or give --deterministic off"
        )


def nothing_learnt_loss(setup: RunSetup) -> float:
    """Return the training loss of the best constant predictor: the labels' entropy in nats, or their variance."""
    entropy = setup.splits.record.label_entropy
    return float(np.var(setup.splits.train.labels)) if entropy is None else entropy


def batch_indices(setup: RunSetup, step: int) -> np.ndarray:
    """Return the training rows of update `step`, which depend on the data seed and the step alone."""
    return batch_row_indices(setup.config.seeds.data, step, len(setup.splits.train), setup.config.schedule.batch_size)
