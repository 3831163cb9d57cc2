"""Stand-ins for training whose outcome depends on their arm, for sweeps with a rule."""

import math
import time
from dataclasses import replace
from pathlib import Path

from support.sweep_records import make_record, make_run, save_record
from support.sweep_stages import make_sweep
from support.worker_logs import log_event, read_events, wait_until

from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted
from stableft.config.sweep_file import Sweep
from stableft.records.run_record import CHECKPOINT_FILE, DataRecord, RunRecord, Scores, run_folder
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


def train_until_decided(run, results, sources, execution, progress, stop):
    """Trains seed 7 of an arm in a claim until it is told to stop; seed 3 of "good", the last that the claim waits for,
    until a run of "other" has begun, which is told to stop if the verdict stops it too."""
    if run.arm != "other" and run.config.seeds.init == 7:
        log_event(results, "began", run)
        wait_until(stop, 60)
        (run_folder(results, run.run_id) / CHECKPOINT_FILE).write_text("1")
        raise RunInterrupted
    if run.arm == "good" and run.config.seeds.init == 3:
        wait_until(lambda: read_events(results, "other"), 60)
    if run.arm == "other":
        log_event(results, "other", run)
        for _ in range(20):
            time.sleep(0.1)
            if stop():
                raise RunInterrupted
    return train_by_arm(run, results, sources, execution, progress, stop)


def make_decided_sweep(rule: DecideRule, arms=("bad", "good"), seeds: int = 20) -> Sweep:
    runs = [
        replace(make_run(seed, arm, batch_size=16 + i), decide=rule)
        for i, arm in enumerate(arms)
        for seed in range(seeds)
    ]
    return replace(make_sweep(runs), decide=rule, sources=LocalPaths())


def sweep_until_decided(results: Path, sweep: Sweep, jobs: int = 2, train=train_by_arm, **options):
    events = []
    outcome = run_planned_sweep(
        sweep,
        results,
        LocalExecutor(["cpu"], jobs),
        Execution(),
        display=events.append,
        train=train,
        fingerprint=lambda config, sources: "f" * 64,
        **options,
    )
    return outcome, [event.text for event in events if isinstance(event, Notice)]
