"""Stand-ins for training whose outcome depends on their arm, for sweeps with a rule."""

import math
import time
from dataclasses import replace
from pathlib import Path

from support.sweep_records import make_record, make_run, save_record
from support.sweep_stages import make_sweep
from support.worker_logs import log_event

from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import Sweep
from stableft.records.run_record import DataRecord, RunRecord, Scores
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import Notice
from stableft.sweep.run_sweep import run_planned_sweep

DATA = DataRecord(
    fingerprint="f" * 64,
    train_rows=8,
    val_rows=100,
    test_rows=0,
    label_entropy=0.69,
    baselines={"val": {"accuracy": 0.5, "f1": 0.5}},
)


def make_scored_record(run, score: float) -> RunRecord:
    """Returns the record of a run that ends with this score."""
    scores = Scores(step=6, val={run.config.task.metric: score}, test=None)
    changes = {"last": scores, "best": scores, "data": DATA, "decide": run.decide}
    return make_record(run).model_copy(update=changes)


def train_by_arm(run, results, sources, execution, progress, stop):
    """Fails in "bad", crashes in "crashing" but for every fifth seed, and learns elsewhere."""
    log_event(results, "began", run)
    seed = run.config.seeds.init
    time.sleep(0.02)
    if run.arm == "crashing" and seed % 5:
        raise ValueError("the bug")
    return save_record(results, make_scored_record(run, math.nan if run.arm == "bad" else 0.7 + 0.001 * (seed % 7)))


def make_decided_sweep(rule: DecideRule, arms=("bad", "good"), seeds: int = 20) -> Sweep:
    runs = [
        replace(make_run(seed, arm, batch_size=16 + i), decide=rule)
        for i, arm in enumerate(arms)
        for seed in range(seeds)
    ]
    return replace(make_sweep(runs), decide=rule, sources=LocalPaths())


def sweep_until_decided(results: Path, sweep: Sweep, jobs: int = 2, **options):
    events = []
    outcome = run_planned_sweep(
        sweep,
        results,
        LocalExecutor(["cpu"], jobs),
        Execution(),
        display=events.append,
        train=train_by_arm,
        fingerprint=lambda config, sources: "f" * 64,
        **options,
    )
    return outcome, [event.text for event in events if isinstance(event, Notice)]
