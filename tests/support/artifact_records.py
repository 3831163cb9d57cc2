"""One pool of made-up records for all artefacts of the papers, and which of its runs have which settings.

The records come from each run's config and seeds alone, so that a run has the same scores in whatever sweep it is.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from support.reports import wrap_probe_records

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig, Seeds
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.records.probe_record import ProbeRecord
from stableft.records.run_record import NUMERICS, DataRecord, Environment, EvalPoint, RunRecord, Scores, StartRecord
from stableft.report.artifact import Artifact
from stableft.report.build import build_report
from stableft.report.forms.document import Report
from stableft.report.runs import ARTIFACTS, ArtifactRuns, collect_runs, load_artifact

ANY: Any = object()
METRIC = {"rte": "accuracy", "mrpc": "f1", "stsb": "spearman", "cola": "mcc", "qqp": "accuracy", "mnli": "accuracy"}
METRIC |= {"sst2": "accuracy", "qnli": "accuracy", "scitail": "accuracy"}
VAL_BASELINE = {"accuracy": 0.53, "f1": 0.6, "mcc": 0.0, "spearman": 0.0}
TEST_BASELINE = {"accuracy": 0.52, "f1": 0.58, "mcc": 0.0, "spearman": 0.0}
STEPS = (0, 10, 20, 30, 40)
FEW, MORE = 5, 12  # seeds of a setting that there are records of
BERT = "bert-large-uncased"
COMMON_SETTINGS = {
    "model": BERT,
    "rows": None,
    "lr": 2e-5,
    "length": "3 epochs",
    "pooler": False,
    "blocks": 0,
    "mixout": 0.0,
}
COMMON_SETTINGS |= {"llrd": 1.0, "towards": "zero", "start": False}
M = COMMON_SETTINGS | {"split": "dev", "correction": False, "decay": 0.01, "precision": "fp32"}
Z = COMMON_SETTINGS | {"split": "heldout", "correction": True, "decay": 0.0, "precision": "fp16"}
OWN_SETTINGS = dict.fromkeys(("lr", "length", "llrd"), ANY)  # those of another model, as Z Table 6 has them


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What tells the papers' settings apart."""
    length, optimizer = config.schedule.length, config.optimizer
    return {
        "task": config.data.task,
        "split": config.data.split,
        "rows": config.data.train_rows,
        "model": config.model.name,
        "lr": optimizer.lr,
        "correction": optimizer.bias_correction,
        "decay": optimizer.weight_decay,
        "towards": optimizer.decay_towards or "zero",
        "llrd": optimizer.llrd or 1.0,
        "length": f"{length.epochs} epochs" if length.epochs else f"{length.steps} steps",
        "pooler": bool(config.reinit and config.reinit.pooler),
        "blocks": config.reinit.blocks if config.reinit else 0,
        "mixout": config.mixout.p if config.mixout else 0.0,
        "precision": config.precision,
        "start": config.start_from is not None,
    }


def has_settings(config: RunConfig, wanted: dict[str, Any]) -> bool:
    found = settings_of(config)
    return all(value is ANY or found[name] == value for name, value in wanted.items())


def number(text: str) -> int:
    """A number of 64 bits that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def make_record_of_run(run: PlannedRun) -> RunRecord:
    """The record of a run whose level, spread and share of failures depend on its settings, the rest on its id."""
    config, metric = run.config, METRIC[run.config.data.task]
    padded = config.model_copy(update={"execution": None})  # packed rows have the scores of padded ones
    setting = np.random.default_rng(number(padded.model_dump_json(exclude={"seeds", "evaluation"})))
    level, width, share = setting.uniform(0.65, 0.85), setting.uniform(0.002, 0.04), setting.choice([0.0, 0.0, 0.3])
    shift = setting.normal(0, 0.02)  # of the test scores, so that validation ranks settings in another way
    if has_settings(config, M | {"task": "rte", "model": ANY, "decay": ANY}):
        share = 0.6
    rng = np.random.default_rng(number(padded.run_id))
    lost = rng.random() < share
    above = -rng.uniform(0.001, 0.05) if lost else level + rng.normal(0, width) - VAL_BASELINE[metric]
    diverged, all_nan = _nan(config)
    gain = rng.uniform(0.001, 0.02, 2)
    val = {"last": VAL_BASELINE[metric] + above, "best": VAL_BASELINE[metric] + above + gain[0]}
    test = {"last": TEST_BASELINE[metric] + above, "best": TEST_BASELINE[metric] + above - gain[1]}
    if not lost:  # nor are runs ranked alike by both
        test = {name: score + shift + rng.normal(0, width / 2) for name, score in test.items()}
    for name in ("last", "best") if all_nan else ("last",) if diverged else ():
        val[name] = test[name] = math.nan
    held_out = config.data.split == "heldout"
    scores = {
        name: Scores(
            step=STEPS[-1],
            val=_metrics(config, val[name], rng),
            test=_metrics(config, test[name], rng) if held_out else None,
        )
        for name in ("last", "best")
    }
    crashed = has_settings(config, Z | {"task": "rte", "correction": False}) and config.seeds.init == 3
    reported, baseline = (test, TEST_BASELINE) if held_out else (val, VAL_BASELINE)
    failed = bool(math.isnan(reported["last"]) or reported["last"] <= baseline[metric])
    return RunRecord(
        run_id=config.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status="crashed" if crashed else "finished",
        reason="killed" if crashed else None,
        config=config,
        report=run.report,
        evals=() if crashed else tuple(_evals(config, val["last"], diverged, rng)),
        last=None if crashed else scores["last"],
        best=None if crashed else scores["best"],
        failed=None if crashed else failed,
        failed_by_accuracy=None,
        steps=0 if crashed else STEPS[-1],
        skipped_steps=0,
        data=None if crashed else _data(metric),
        environment=_environment(),
        seconds=1.0,
        peak_memory_bytes=None,
        start=_start() if config.start_from and not crashed else None,
    )


def _nan(config: RunConfig) -> tuple[bool, bool]:
    """Whether a run ends in NaN, and whether even its best checkpoint is NaN."""
    seed = config.seeds.init
    ends = has_settings(config, M | {"task": "cola"}) and seed == 3
    ends |= has_settings(config, Z | {"task": "cola", "correction": False}) and seed == 2
    whole = has_settings(config, Z | {"task": "stsb", "correction": False}) and seed == 2
    whole |= has_settings(config, Z | {"task": "stsb", "mixout": 0.9}) and seed == 1
    whole |= has_settings(config, Z | {"task": "qqp", "rows": 1000, "length": "1600 steps"}) and seed == 0
    return ends or whole, whole


def _metrics(config: RunConfig, score: float, rng: np.random.Generator) -> dict[str, float]:
    """All metrics of the task; only the reported one matters, the others are there to be mistaken for it."""
    values = {name: float(rng.uniform(0.1, 0.4)) for name in config.task.metrics}
    return values | {METRIC[config.data.task]: float(score)}


def _evals(config: RunConfig, last: float, diverged: bool, rng: np.random.Generator):
    steps = STEPS[:3] if diverged else STEPS
    losses, scores = rng.uniform(0.05, 0.9, len(steps)), rng.uniform(0.3, 0.8, len(steps))
    for step, loss, score in zip(steps, losses, scores, strict=True):
        score = last if step == steps[-1] else score
        loss = math.nan if diverged and step == steps[-1] else float(loss)
        yield EvalPoint(
            step=step,
            epoch=step / 10,
            train_loss=None if step == 0 else loss,
            val_loss=0.5,
            val=_metrics(config, score, rng),
        )


def _data(metric: str) -> DataRecord:
    baselines = {"val": {metric: VAL_BASELINE[metric]}, "test": {metric: TEST_BASELINE[metric]}}
    return DataRecord(
        fingerprint="f" * 8, train_rows=8, val_rows=400, test_rows=400, label_entropy=0.69, baselines=baselines
    )


@functools.cache
def _environment() -> Environment:
    return Environment(
        versions={"torch": "2.0", "python": "3.11"},
        git_commit="0" * 40,
        git_dirty=False,
        platform="made up",
        device="cpu",
        numerics=NUMERICS,
        threads=1,
        micro_batch=8,
        micro_batch_halved=0,
        model_commit=None,
    )


def _start() -> StartRecord:
    return StartRecord(sha256="0" * 64, recipe="zhang", task="mnli", seeds=Seeds(init=0, data=0))


@functools.cache
def load_paper_sweep(path: str) -> Sweep:
    """Expands a sweep of the papers, which takes up to a second, once a process."""
    return load_sweep(path, LocalPaths())


@functools.cache
def planned(name: str) -> tuple[Artifact, tuple[tuple[str, PlannedRun], ...]]:
    return load_artifact(name, load_paper_sweep)


@functools.cache
def pool() -> tuple[RunRecord, ...]:
    """Records of the first seeds of every setting of the papers, so that most artefacts lack some."""
    runs = {run.run_id: run for name in ARTIFACTS for _, run in planned(name)[1]}
    return tuple(make_record_of_run(run) for run in runs.values() if _has_record(run.config))


def _has_record(config: RunConfig) -> bool:
    init, data = config.seeds.init, config.seeds.data
    found = settings_of(config)
    if init != data:
        return (init, data) not in ((2, 5), (7, 1))  # of the grid of two seeds
    if found["split"] == "dev":
        whole = found["task"] == "rte" and found["length"] in ("3 epochs", "20 epochs") and found["lr"] == 2e-5
        return init <= (25 if whole else FEW)
    standard = found == Z | {name: found[name] for name in ("task", "correction")}
    of_grid = found == Z | {"task": "rte", "pooler": True, "blocks": 5}
    return init < (MORE if standard or of_grid else FEW)


@functools.cache
def pool_runs(name: str) -> ArtifactRuns:
    """The artefact's runs out of the whole pool."""
    artifact, runs = planned(name)
    return collect_runs(artifact, runs, pool(), find_probes=lambda: wrap_probe_records(probe_pool()))


@functools.cache
def report(name: str) -> Report:
    return build_report(pool_runs(name))


@functools.cache
def report_without_runs(name: str) -> Report:
    artifact, runs = planned(name)
    return build_report(collect_runs(artifact, runs, []))


@functools.cache
def probe_pool() -> tuple[ProbeRecord, ...]:
    """What probes left of some runs of the pool."""
    from support.artifact_probes import make_probe_pool  # which needs the pool

    return make_probe_pool()


@functools.cache
def _known() -> list[tuple[RunRecord, dict[str, Any]]]:
    """The finished records of the pool whose two seeds are equal, each with its facts."""
    finished = [record for record in pool() if record.status == "finished"]
    return [(r, settings_of(r.config)) for r in finished if r.config.seeds.init == r.config.seeds.data]


def where(*settings: dict[str, Any], seeds: Sequence[int] | None = None, **more: Any) -> list[RunRecord]:
    """The finished records of the pool with these settings and of these seeds, by seed."""
    wanted = functools.reduce(lambda a, b: a | b, settings) | more
    named = {name: value for name, value in wanted.items() if value is not ANY}
    found = [record for record, known in _known() if named.items() <= known.items()]
    if seeds is not None:
        found = [record for record in found if record.config.seeds.init in seeds]
    return sorted(found, key=lambda record: record.config.seeds.init)


def scores(records: Sequence[RunRecord], checkpoint: str, split: str) -> np.ndarray:
    """Scores of the metric that the papers report, as fractions."""
    return np.array([getattr(getattr(r, checkpoint), split)[METRIC[r.config.data.task]] for r in records])
