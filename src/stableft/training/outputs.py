"""Finish a run: compute the final scores and write the files of its folder, the record last."""

import json
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stableft.config.planned_run import Execution
from stableft.config.run_config import ConfigSection
from stableft.data.metrics import compute_scores
from stableft.data.tokens import LabeledRows
from stableft.models.load import quiet_transformers
from stableft.pulse import PULSE, WRITING_RESULTS
from stableft.records.atomic_folder import atomic_write_folder, remove_under_claim
from stableft.records.energy import make_energy_record
from stableft.records.failure import find_chance_in_data, is_failed
from stableft.records.file_sums import sum_files
from stableft.records.probe_record import PROBES_FILE, write_probe_records
from stableft.records.run_record import (
    BEST_FOLDER,
    CONFIG_FILE,
    HISTORY_FILE,
    LAST_FOLDER,
    NUMERICS,
    PREDICTIONS_FILE,
    Environment,
    EvalPoint,
    RunRecord,
    Scores,
    atomic_write,
    write_record,
)
from stableft.training.environment import (
    device_name,
    git_state,
    gpu_versions,
    package_versions,
    peak_memory,
    platform_name,
    processor_name,
)
from stableft.training.evaluate import EvalOutputs, evaluate
from stableft.training.failure_watch import summarize_failure_watch
from stableft.training.in_loop_probes import build_probe_records
from stableft.training.setup import RunSetup, nothing_learnt_loss
from stableft.training.step import TrainState

RUN_FILES = (CONFIG_FILE, HISTORY_FILE, PREDICTIONS_FILE, PROBES_FILE, BEST_FOLDER, LAST_FOLDER)  # a record sums them
SAVES_BEST, SAVES_LAST = ("best", "all"), ("last", "all")  # values of `Execution.save`
LastOutputs = tuple[np.ndarray, np.ndarray | None]  # of the validation and, if there is one, the test split


def write_config_file(folder: Path, config: ConfigSection, **labels: str) -> None:
    """Write config.yaml: the labels (such as arm and recipe), then the whole resolved config."""
    content = {**labels, "config": config.model_dump(mode="json")}
    atomic_write(folder / CONFIG_FILE, yaml.safe_dump(content, sort_keys=False).encode())


def save_run_model(setup: RunSetup, state: TrainState, name: str) -> None:
    """Write the model, with the task's label names, to a folder `name` in the run's folder."""
    PULSE.get_further(WRITING_RESULTS)
    model = state.model
    if setup.config.task.labels:
        model.config.id2label = dict(enumerate(setup.config.task.labels))
        model.config.label2id = {label: i for i, label in enumerate(setup.config.task.labels)}
    write_model_folder(setup.folder / name, model, setup.tokenizer)


def write_model_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write weights and tokenizer to a folder that `from_pretrained` loads, replacing an existing one."""
    with atomic_write_folder(folder) as temporary:
        with quiet_transformers():
            model.save_pretrained(temporary)
        backend: Any = tokenizer.backend_tokenizer
        backend.no_truncation()  # calls leave these settings on the tokenizer; the file must not depend on them
        backend.no_padding()
        tokenizer.save_pretrained(temporary)


def evaluate_model(
    setup: RunSetup, state: TrainState, rows: LabeledRows, stop: Callable[[], bool] = lambda: False
) -> EvalOutputs:
    """Return the model's outputs on `rows`, in batches that fitted in memory before.

    CUDA graphs are given up before a batch is halved.

    Raises:
        RunInterrupted: `stop()` returned True.
    """
    how = (state.model, rows, setup.config, setup.inputs, setup.device, state.eval_batch, stop)
    outputs = evaluate(*how, *([state.graphs.give_up] if state.graphs else []))
    note_eval_batch(state, outputs.batch_size)
    return outputs


def note_eval_batch(state: TrainState, fitting: int | None) -> None:
    """Keep the rows of an evaluation batch that fitted in memory, for the evaluations to come and for the record."""
    if fitting != state.eval_batch:
        state.eval_halved_at.append(state.step)
    state.eval_batch = fitting


def remove_saved_models(folder: Path) -> None:
    """Remove the model folders of an abandoned attempt in a run's folder. Links are cut."""
    for path in folder.glob("model-*"):
        if path.is_symlink() or ".damaged-" not in path.name:  # set aside
            remove_under_claim(path)


def finish_run(setup: RunSetup, state: TrainState, last_outputs: LastOutputs | None) -> RunRecord:
    """Write the record of a completed run and the files next to it, and return the record.

    `last_outputs` are those of `evaluate_last_weights`, or None if training diverged.
    """
    if last_outputs is None:
        reason = describe_divergence(state)
        last_val, last_test = _nan_outputs(setup, setup.splits.val), _nan_outputs(setup, setup.splits.test)
        assert last_val is not None
    else:
        last_val, last_test = last_outputs
        finite = np.isfinite(last_val).all()
        reason = None if finite else f"the outputs after the last step, {state.step}, are not all finite"
    best = state.best
    best_val = best["val"].numpy() if best else None  # None: training diverged before the first evaluation
    best_test = best["test"].numpy() if best and best["test"] is not None else None
    last = _compute_checkpoint_scores(setup, len(state.history), last_val, last_test)
    assert last
    if setup.execution.save in SAVES_LAST:
        save_run_model(setup, state, LAST_FOLDER)
    PULSE.get_further(WRITING_RESULTS)
    arrays = {"val_last": last_val, "val_best": best_val, "test_last": last_test, "test_best": best_test}
    _write_predictions(setup, arrays)
    write_history(setup.folder, state)
    probes = build_probe_records(state.recorder, state.recorded, setup.run.run_id) if state.recorder else []
    write_probe_records(setup.folder / PROBES_FILE, probes)
    return _write_record(  # last, because a record means that the run's files are complete
        setup,
        state,
        status="finished",
        reason=reason,
        last=last,
        best=_compute_checkpoint_scores(setup, best["step"], best_val, best_test) if best else last,
        failed=_is_failed_by(setup, last, setup.config.task.metric),
        failed_by_accuracy=_is_failed_by(setup, last, "accuracy") if setup.config.task.labels else None,
    )


def pause_run(setup: RunSetup, state: TrainState) -> RunRecord:
    """Write the record of a run that has paused at a checkpoint, and return the record."""
    write_history(setup.folder, state)
    no_result = {"reason": None, "last": None, "best": None, "failed": None, "failed_by_accuracy": None}
    return _write_record(setup, state, status="paused", **no_result)


def _write_record(setup: RunSetup, state: TrainState, **outcome: Any) -> RunRecord:
    looks = state.recorded.get("looks")  # None if gradient norms are not recorded
    record = RunRecord(
        run_id=setup.run.run_id,
        arm=setup.run.arm,
        recipe=setup.run.recipe,
        config=setup.config,
        report=setup.run.report,
        decide=setup.run.decide,
        evals=tuple(EvalPoint(**point) for point in state.evals),
        steps=len(state.history),
        skipped_steps=count_skipped_steps(state),
        data=setup.splits.record,
        data_notes=setup.splits.notes or None,
        environment=collect_environment(state, setup.execution, setup.pretrained.commit, setup.pretrained.missing),
        seconds=state.seconds,
        peak_memory_bytes=peak_memory(setup.device),
        start=setup.start,
        watch=summarize_failure_watch(looks, nothing_learnt_loss(setup)) if looks else None,
        commits=training_commits(state),
        files=sum_files(setup.folder, RUN_FILES),
        **outcome,
    )
    write_record(setup.folder.parents[1], record)
    return record


def training_commits(state: TrainState) -> tuple[str, ...] | None:
    """Return the commits under which a run was trained, if a checkpoint was made by another one."""
    return tuple(state.commits) if len(state.commits) > 1 else None


def describe_divergence(state: TrainState) -> str:
    """Return a sentence about the training loss that ended a run."""
    return f"the training loss was {state.history[-1]['loss']} at step {len(state.history)}"


def count_skipped_steps(state: TrainState) -> int:
    """Return the number of steps that the gradient scaler skipped: those with a gradient that was not finite."""
    # The optimizer's own count would not do: on a GPU, a few more steps are taken after a bad loss ends the history.
    norms = [entry["grad_norm"] for entry in state.history]
    return sum(not math.isfinite(norm) for norm in norms) if state.scaler.is_enabled() else 0


def evaluate_last_weights(
    setup: RunSetup, state: TrainState, val: np.ndarray | None, stop: Callable[[], bool]
) -> LastOutputs:
    """Return the outputs of the final weights on the validation and the test split.

    `val` are those on the validation split, if they were computed already.

    Raises:
        RunInterrupted: `stop()` returned True.
    """
    if state.best and state.best["step"] == state.step:  # the last evaluation was the best: reuse its outputs
        return state.best["val"].numpy(), None if state.best["test"] is None else state.best["test"].numpy()
    if val is None:
        val = evaluate_model(setup, state, setup.splits.val, stop).values
    test = setup.splits.test
    return val, evaluate_model(setup, state, test, stop).values if test else None


def _nan_outputs(setup: RunSetup, rows) -> np.ndarray | None:
    """Return the outputs of a diverged model: NaN, which every metric scores as NaN."""
    return np.full((len(rows), setup.config.task.n_outputs), np.nan, np.float32) if rows else None


def _compute_checkpoint_scores(
    setup: RunSetup, step: int, val: np.ndarray | None, test: np.ndarray | None
) -> Scores | None:
    if val is None:
        return None
    metrics = setup.config.task.metrics
    test_scores = None
    if test is not None and setup.splits.test is not None:
        test_scores = compute_scores(test, setup.splits.test.labels, metrics)
    return Scores(step=step, val=compute_scores(val, setup.splits.val.labels, metrics), test=test_scores)


def _is_failed_by(setup: RunSetup, last: Scores, metric: str) -> bool:
    split = setup.config.reported_split
    scores = last.test if split == "test" else last.val
    assert scores is not None
    level = find_chance_in_data(setup.splits.record, split, metric).level
    assert level is not None
    return is_failed(scores[metric], level)


def write_history(folder: Path, state: TrainState) -> None:
    """Write history.jsonl. JSON has no NaN or infinity, so they are written as strings, as in a record."""
    spelling = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    lines = [
        json.dumps({key: spelling.get(str(value), value) for key, value in entry.items()}) + "\n"
        for entry in state.history
    ]
    atomic_write(folder / HISTORY_FILE, "".join(lines).encode())


def _write_predictions(setup: RunSetup, outputs: dict[str, np.ndarray | None]) -> None:
    """Write predictions.npz: float32 outputs per example, with their labels and row numbers."""
    arrays = {name: values for name, values in outputs.items() if values is not None}
    for split in ("val", "test"):
        rows = getattr(setup.splits, split)
        if rows:
            arrays |= {f"{split}_labels": rows.labels, f"{split}_index": rows.index}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    atomic_write(setup.folder / PREDICTIONS_FILE, buffer.getvalue())


def collect_environment(
    state: TrainState, execution: Execution, model_commit: str | None = None, drawn: tuple[str, ...] = ()
) -> Environment:
    """Return the environment of a run. `drawn` are modules that the checkpoint lacked, so they were initialized."""
    commit, dirty = git_state()
    return Environment(
        versions=package_versions() | gpu_versions(state.model.device),
        git_commit=commit,
        git_dirty=dirty,
        platform=platform_name(),
        device=device_name(state.model.device),
        tf32=execution.tf32,
        deterministic=execution.deterministic,
        compiled=execution.compile,
        numerics=NUMERICS,
        processor=processor_name() if state.model.device.type == "cpu" else None,
        threads=torch.get_num_threads(),
        micro_batch=state.micro_batch,
        micro_batch_halved=state.halved,
        micro_batch_halved_at=tuple(state.halved_at),
        eval_batch=state.eval_batch,
        eval_batch_halved_at=tuple(state.eval_halved_at) or None,
        model_commit=model_commit,
        energy=make_energy_record(state.energy, execution.price, state.model.device.type == "cuda"),
        drawn=drawn,
    )
