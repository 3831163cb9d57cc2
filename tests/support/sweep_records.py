"""Runs and records without scores, for tests of what a sweep does with them."""

import math
from typing import Literal

from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import RunConfig
from stableft.records.run_record import DataRecord, RunRecord, Scores, run_folder, write_record


def make_run(
    seed: int, arm: str = "arm", task: str = "rte", length: dict | None = None, batch_size: int = 16
) -> PlannedRun:
    values = {
        "data": {
            "task": task,
            "split": "dev",
            "train_rows": None,
            "sample_seed": None,
            "max_length": 128,
            "pad_to_max": False,
            "segment_ids": True,
        },
        "model": {"name": "bert-tiny", "dropout": None, "attention": "sdpa"},
        "reinit": None,
        "optimizer": {
            "lr": 2e-5,
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "bias_correction": True,
            "eps_placement": "after_correction",
            "weight_decay": 0.0,
            "decay_order": None,
            "no_decay": (),
            "clip_norm": 1.0,
        },
        "schedule": {"length": length or {"epochs": 3}, "batch_size": batch_size, "warmup": 0.1},
        "evaluation": {
            "every": {"times": 2},
            "at_start": False,
            "select_by": ("accuracy", "f1"),
            "batch_size": 64,
        },
        "precision": "fp32",
        "seeds": {"init": seed, "data": seed},
    }
    return PlannedRun(arm, "recipe", RunConfig.model_validate(values), "last")


def make_record(
    run: PlannedRun, status: Literal["finished", "crashed"] = "finished", failed=False, fingerprint="f" * 64
) -> RunRecord:
    data = DataRecord(fingerprint=fingerprint, train_rows=8, val_rows=4, test_rows=0, label_entropy=0.69, baselines={})
    diverged = Scores(step=6, val={run.config.task.metric: math.nan}, test=None)
    return RunRecord(
        run_id=run.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status=status,
        reason=None if status == "finished" else "a test",
        config=run.config,
        report=run.report,
        evals=(),
        last=diverged if failed else None,
        best=None,
        failed=failed if status == "finished" else None,
        failed_by_accuracy=None,
        steps=6,
        skipped_steps=0,
        data=data if status == "finished" else None,
        environment=None,
        seconds=1.0,
        peak_memory_bytes=None,
    )


def save_record(results, record: RunRecord) -> RunRecord:
    run_folder(results, record.run_id).mkdir(parents=True, exist_ok=True)
    write_record(results, record)
    return record
