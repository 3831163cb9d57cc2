"""Sweeps of stand-ins for training, which need no torch, in real worker processes."""

import os
import signal
import time
from pathlib import Path

from support.sweep_records import make_record, make_run, save_record
from support.worker_logs import log_event, read_events

from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted, RunProgress
from stableft.config.sweep_file import Sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.records.run_record import CHECKPOINT_FILE, EvalPoint, run_folder
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import Notice
from stableft.sweep.run_sweep import run_planned_sweep

SCORES = (0.5, 0.9, 0.4, 0.7, 0.6, 0.8)  # of seeds 0-5 at the trial: 2 and 0 are the lowest third
STEPS = 10
CRASHES, FAILS, DIES_ONCE, SLOW = 66, 77, 88, 99  # seeds of parents
DIVERGES = 55
DIVERGED = "the training loss was nan at step 3"


def train_stand_in(run, results, sources, execution, progress, stop):
    """Takes ten steps from where the checkpoint is, an evaluation at each; the score falls by the seed's rank later."""
    folder, seed = run_folder(results, run.run_id), run.config.seeds.init
    checkpoint = folder / CHECKPOINT_FILE
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    log_event(results, f"from-{first}", run)
    if run.arm == "raise" or seed == CRASHES:
        raise ValueError("the bug")
    evals = []
    for step in range(1, STEPS + 1):
        evals.append(
            EvalPoint(step=step, epoch=0.3 * step, train_loss=0.5, val_loss=0.5, val={"accuracy": SCORES[seed % 6]})
        )
        due = run.pause_after is not None and step >= run.pause_after * STEPS
        if step < first or (step == first and not due):
            continue
        if step > first:
            time.sleep(0.2 if seed == SLOW or run.arm == "slow" else 0.01)
            progress(RunProgress(step, STEPS, 0.5, 0.25))
        if due:
            checkpoint.write_text(str(step))
            return save_record(
                results, make_record(run).model_copy(update={"status": "paused", "evals": tuple(evals), "failed": None})
            )
        dies = run.arm == "dies" and (first, step) in ((3, 5), (5, 6)) and len(read_events(results, "from-5")) < 2
        if (seed == DIES_ONCE and not first) or dies:
            checkpoint.write_text("5" if dies else str(step))
            os.kill(os.getpid(), signal.SIGKILL)
        if stop():
            checkpoint.write_text(str(step))
            raise RunInterrupted
    for name in {"best": ["best"], "last": ["last"], "all": ["best", "last"]}.get(execution.save, []):
        (folder / f"model-{name}").mkdir(exist_ok=True)
        (folder / f"model-{name}" / "model.safetensors").write_text(str(seed))
    checkpoint.unlink(missing_ok=True)
    record = make_record(run, failed=seed in (FAILS, DIVERGES))
    reason = DIVERGED if seed == DIVERGES else None
    return save_record(results, record.model_copy(update={"evals": tuple(evals), "reason": reason}))


def train_quickly(run, results, sources, execution, progress, stop):
    return save_record(results, make_record(run))


def finish_others_too(run, results, sources, execution, progress, stop):
    """Finishes the runs of the seeds 0-2, as if other processes had those that are not its own."""
    records = {seed: save_record(results, make_record(make_run(seed))) for seed in range(3)}
    return records[run.config.seeds.init]


def make_sweep(runs, rule: EarlyStoppingRule | None = None, parents=()) -> Sweep:
    return Sweep(
        "s",
        Path("s.yaml"),
        tuple(runs),
        LocalPaths(),
        (),
        tuple(parents),
        {r.run_id: rule for r in runs} if rule else {},
    )


def sweep_stand_ins(results: Path, sweep: Sweep, jobs: int = 1, save="none", **options):
    events = []
    arguments = (sweep, results, LocalExecutor(["cpu"], jobs), Execution(save=save))
    outcome = run_planned_sweep(
        *arguments, display=events.append, train=train_stand_in, fingerprint=lambda config, sources: "f" * 64, **options
    )
    return outcome, [event.text for event in events if isinstance(event, Notice)]
