"""Records of runs of a planned sweep, with a score that a report shows."""

from typing import Literal

from stableft.config.planned_run import PlannedRun
from stableft.records.run_record import DataRecord, RunRecord, Scores


def make_scored_record(
    run: PlannedRun, score: float = 0.7, status: Literal["finished", "crashed"] = "finished"
) -> RunRecord:
    scores = Scores(step=9, val={"accuracy": score}, test=None)
    data = DataRecord(
        fingerprint="f" * 64,
        train_rows=24,
        val_rows=12,
        test_rows=0,
        label_entropy=0.69,
        baselines={"val": {"accuracy": 0.5}},
    )
    done = status == "finished"
    return RunRecord(
        run_id=run.run_id,
        arm=run.arm,
        recipe=run.recipe,
        status=status,
        reason=None if done else "killed",
        config=run.config,
        report=run.report,
        evals=(),
        last=scores if done else None,
        best=scores if done else None,
        failed=score <= 0.5 if done else None,
        failed_by_accuracy=None,
        steps=9,
        skipped_steps=0,
        data=data if done else None,
        environment=None,
        seconds=1.0,
        peak_memory_bytes=None,
    )
