"""Records with scores, one setting each, for tables that can be checked by eye."""

import math

from stableft.config.run_config import RunConfig
from stableft.records.run_record import (
    DataRecord,
    EvalPoint,
    ImportedRun,
    ImportedScores,
    ImportSource,
    RunRecord,
    Scores,
)


def make_config(task="rte", split="dev", seed=1, lr=2e-5, model="bert-large-uncased", execution=None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"task": task, "split": split, "train_rows": None, "sample_seed": None}
            | {"max_length": 128, "pad_to_max": False, "segment_ids": False},
            "model": {"name": model, "dropout": None, "attention": "sdpa"},
            "reinit": None,
            "optimizer": {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6, "bias_correction": True}
            | {"eps_placement": "before_correction", "weight_decay": 0.01, "decay_order": "after"}
            | {"no_decay": ("bias",), "clip_norm": 1.0},
            "schedule": {"length": {"epochs": 3}, "batch_size": 16, "warmup": 0.1},
            "evaluation": {"every": {"times": 2}, "at_start": True, "select_by": ("accuracy", "mcc", "spearman")}
            | {"batch_size": 32},
            "precision": "fp32",
            "execution": execution,
            "seeds": {"init": seed, "data": seed + 100},
        }
    )


def make_record(last=0.7, best=0.8, arm="mosbach", recipe="mosbach", status="finished", report="last", **config):
    settings = make_config(**config)
    metric = settings.task.metric
    scores = {
        name: Scores(step=9, val={metric: value}, test={metric: value - 0.1} if settings.data.split != "dev" else None)
        for name, value in (("last", last), ("best", best))
        if status == "finished"
    }
    baselines = {"val": {metric: 0.5}, "test": {metric: 0.4}}
    return RunRecord(
        run_id=settings.run_id,
        arm=arm,
        recipe=recipe,
        status=status,
        reason=None if status == "finished" else "killed",
        config=settings,
        report=report,
        evals=(EvalPoint(step=9, epoch=1.0, train_loss=0.25, val_loss=0.5, val={metric: last}),),
        last=scores.get("last"),
        best=scores.get("best"),
        failed=None if status == "crashed" else math.isnan(last) or last <= 0.5,
        failed_by_accuracy=None,
        steps=9,
        skipped_steps=2,
        data=DataRecord(
            fingerprint="f" * 8, train_rows=4, val_rows=400, test_rows=400, label_entropy=0.69, baselines=baselines
        ),
        environment=None,
        seconds=1.5,
        peak_memory_bytes=None,
    )


def make_imported(last=0.7, best=None, arm="mosbach", task="rte", seed=1, metric="accuracy", **more):
    source = ImportSource(kind="csv", name="elsewhere.csv", sha256="0123456789abcdef" * 4)
    scores = {
        name: None if value is None else ImportedScores(step=9, val={metric: value + 0.1}, test={metric: value})
        for name, value in (("last", last), ("best", best))
    }
    values = {"run_id": f"{arm}-{task}-{seed}", "arm": arm, "task": task, "seed": seed, "metric": metric}
    values |= {"split": "test", "report": "last", "failed": math.isnan(last) or last <= 0.5, "baseline": 0.5}
    return ImportedRun(**(values | {"steps": 9, "source": source} | scores | more))
