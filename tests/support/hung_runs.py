"""Runs without torch whose workers die, stop or get stuck, by the arm's name, and a sweep of them that is impatient."""

import os
import signal
import sys
import time
from pathlib import Path

from support.sweep_records import make_record, make_run, save_record
from support.worker_logs import log_event, read_events

from stableft import transient
from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted, RunProgress
from stableft.pulse import EVALUATING, PULSE, WRITING_CHECKPOINT
from stableft.records.run_record import CHECKPOINT_FILE, run_folder
from stableft.sweep.hung_workers import Patience
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.workers import run_with_workers

IMPATIENT = Patience(heartbeat=0.1, least=3.0, factor=5.0, set_up=30.0, stop=2.0)
SIGNALS = {"segv": signal.SIGSEGV, "oom": signal.SIGKILL, "frozen": signal.SIGSTOP}


def train_or_hang(run, results, sources, execution, progress, stop):
    """Take 40 steps in a second, the first seven with a checkpoint. Then do what the arm says, if "once" once."""
    log_event(results, "begin", run)
    checkpoint = run_folder(results, run.run_id) / CHECKPOINT_FILE
    fault, _, once = run.arm.partition(" ")
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if fault == "slow":  # longer than IMPATIENT.least, but never without a reason
        time.sleep(3.5)
    for step in range(first, 40):
        if stop():
            raise RunInterrupted
        if step == 10 and not (once and len(read_events(results, "fault")) > 0):
            log_event(results, "fault", run)
            match fault:
                case "exit":
                    os._exit(3)
                case "stuck":
                    time.sleep(60)
                case "unreadable":
                    transient.RETRY_SECONDS = (0.1, 0.1)  # in this worker process, until its end
                    transient.retrying(Path("/proc/self/mem").read_bytes)()  # a true EIO
                case "writing":
                    PULSE.get_further(WRITING_CHECKPOINT)
                    time.sleep(4)
                case "slow":
                    for _ in range(18):
                        PULSE.get_further(EVALUATING)
                        time.sleep(0.2)
                case name if name in SIGNALS:
                    os.kill(os.getpid(), SIGNALS[name])
        time.sleep(0.025)
        if step < 7:
            checkpoint.write_text(str(step + 1))
        progress(RunProgress(step + 1, 40, 0.5, 0.25))
    checkpoint.unlink(missing_ok=True)
    log_event(results, "end", run)
    return save_record(results, make_record(run))


def sweep_impatiently(results: Path, arms: list[str], jobs: int = 1, **options):
    """Returns the runs, the outcome and the events of a sweep with a run of each arm."""
    events, runs = [], [make_run(seed, arm) for seed, arm in enumerate(arms)]
    where = (runs, results, LocalPaths(), LocalExecutor(["cpu"], jobs), Execution())
    options = {"patience": IMPATIENT, "fingerprint": lambda config, sources: "f" * 64, **options}
    return runs, run_with_workers(*where, display=events.append, train=train_or_hang, **options), events


def main() -> None:
    """What the tests start in a process of its own."""
    results, *arms = sys.argv[1:]
    _, outcome, _ = sweep_impatiently(Path(results), arms, len(arms))
    print(len(outcome.finished), len(outcome.crashed), len(outcome.resumable), outcome.interrupted, flush=True)
