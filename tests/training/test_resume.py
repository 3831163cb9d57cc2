"""A run that was stopped, or died, and goes on is bit for bit the run that was never disturbed."""

from dataclasses import replace

import pytest
import torch
from support.training_runs import run_outputs, train_run

from stableft.config.planned_run import Execution, RunInterrupted, RunProgress
from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder
from stableft.training.run import train

# 14 steps in two epochs of 7; evaluations after 3, 6, 9, 12 and 14.
BEFORE_ANY_EVALUATION, AT_AN_EVALUATION, AT_AN_EPOCH, LATE = 2, 6, 7, 13


class Death(BaseException):
    """Stands for a death of the process: nothing in the package may catch it."""


def train_to_the_end(run, results, sources, **execution) -> dict:
    return run_outputs(results, train_run(run, results, sources, **execution))


def steps_of(run, results, sources, stop_after: int | None = None, **execution):
    """Trains, and returns the record and the steps that this call did; dies after `stop_after` of them."""
    seen: list[int] = []

    def progress(now: RunProgress) -> None:
        if not seen or seen[-1] != now.step:
            seen.append(now.step)
        if stop_after is not None and len(seen) > stop_after:
            raise Death

    try:
        return train(run, results, sources, Execution(**{"threads": 1, **execution}), progress), seen
    except Death:
        return None, seen


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("stop_at", [1, BEFORE_ANY_EVALUATION, AT_AN_EVALUATION, AT_AN_EPOCH, LATE])
def test_stop_and_go_on(toy_run, toy_sources, undisturbed, tmp_path, precision, stop_at):
    run = toy_run(precision=precision)
    expected = undisturbed(run)
    with pytest.raises(RunInterrupted, match=f"stopped after step {stop_at}$"):
        train_run(run, tmp_path, toy_sources, stop_at=stop_at)
    torch.manual_seed(99)  # another process has other global generators
    record, steps = steps_of(run, tmp_path, toy_sources)
    first = stop_at if stop_at == AT_AN_EVALUATION else stop_at + 1  # an evaluation stops too, and is done first
    assert steps == list(range(first, 15))  # it went on, and did not start afresh
    assert run_outputs(tmp_path, record) == expected
    assert not (run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_an_evaluation_that_is_stopped_anywhere_is_done_again(toy_run, toy_sources, undisturbed, tmp_path, batches):
    """12 rows for validation and 8 for the test, in batches of 8: stops before each batch, and after the last."""
    run = toy_run()
    asked, reported = [], [0]

    def report(now: RunProgress) -> None:
        reported[0] = now.step

    def stop() -> bool:  # the loop asks before every step; after step 3, an evaluation asks before every batch
        asked.append(reported[0])
        return asked.count(3) > batches

    with pytest.raises(RunInterrupted, match=r"stopped after step 3$"):
        train(run, tmp_path, toy_sources, Execution(threads=1), report, stop)
    assert run_outputs(tmp_path, steps_of(run, tmp_path, toy_sources)[0]) == undisturbed(run)


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_the_evaluation_of_the_last_weights_that_is_stopped_is_done_again(
    toy_run, toy_sources, undisturbed, tmp_path, batches
):
    # No evaluation is better than the first, so the test rows of the last weights are evaluated at the end.
    run = toy_run(**{"optimizer.lr": 1e-12, "data.split": "heldout", "evaluation.batch_size": 1})
    asked, reported = [], [0]

    def report(now: RunProgress) -> None:
        reported.append(now.step)

    def stop() -> bool:
        asked.append(reported[-2:] == [14, 14])  # the last step, and the evaluation after it
        return sum(asked) > batches

    with pytest.raises(RunInterrupted, match=r"stopped after step 14$"):
        train(run, tmp_path, toy_sources, Execution(threads=1), report, stop)
    assert (run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists()
    record, steps = steps_of(run, tmp_path, toy_sources)
    assert steps == []
    assert run_outputs(tmp_path, record) == undisturbed(run)


@pytest.mark.parametrize("at_start", [False, True])
def test_stop_before_the_first_step_leaves_no_checkpoint(toy_run, toy_sources, undisturbed, tmp_path, at_start):
    run = toy_run(**{"evaluation.at_start": at_start})
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=0)
    assert not (run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists()
    expected = undisturbed(run)
    assert train_to_the_end(run, tmp_path, toy_sources) == expected


@pytest.mark.faults
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_stopping_at_every_step_changes_nothing(toy_run, toy_sources, undisturbed, tmp_path, precision):
    run = toy_run(**{"precision": precision, "evaluation.at_start": True, "schedule.length": {"steps": 6}})
    expected = undisturbed(run)
    for step in range(1, 6):
        with pytest.raises(RunInterrupted):
            train_run(run, tmp_path, toy_sources, stop_at=step)
    assert train_to_the_end(run, tmp_path, toy_sources) == expected


@pytest.mark.faults
@pytest.mark.parametrize("every", [1, 2, 5])
def test_deaths_cost_the_steps_since_the_last_checkpoint(toy_run, toy_sources, undisturbed, tmp_path, every):
    run = toy_run()
    expected = undisturbed(run)
    assert steps_of(run, tmp_path, toy_sources, stop_after=7, checkpoint_every=every)[1] == list(range(1, 9))
    reached = {1: 7, 2: 6, 5: 5}[every]
    again = steps_of(run, tmp_path, toy_sources, stop_after=3, checkpoint_every=every)[1]
    assert again == list(range(reached + 1, reached + 5))
    record, _ = steps_of(run, tmp_path, toy_sources, checkpoint_every=every)
    assert run_outputs(tmp_path, record) == expected


def test_skipped_steps_and_scale_come_back(toy_run, toy_sources, tmp_path, monkeypatch):
    from stableft.training import step as update

    original = update.loss_sum
    monkeypatch.setattr(update, "loss_sum", lambda outputs, labels: original(outputs, labels) * 1e4)
    run = toy_run(precision="fp16")
    whole = train_run(run, tmp_path / "whole", toy_sources)
    assert whole.skipped_steps > 2
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=2)
    assert run_outputs(tmp_path, train_run(run, tmp_path, toy_sources)) == run_outputs(tmp_path / "whole", whole)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"bias_correction": False, "eps_placement": None},
        {"eps_placement": "before_correction", "decay_order": "before"},
    ],
)
def test_every_optimizer_goes_on(toy_run, toy_sources, undisturbed, tmp_path, optimizer):
    run = toy_run(**{f"optimizer.{key}": value for key, value in optimizer.items()})
    expected = undisturbed(run)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=5)
    assert train_to_the_end(run, tmp_path, toy_sources) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stop_at", [BEFORE_ANY_EVALUATION, AT_AN_EPOCH])
@pytest.mark.parametrize("mixout", [None, {"p": 0.5, "target": "pretrained", "granularity": "parameter"}])
def test_all_methods_together_go_on(toy_run, toy_sources, undisturbed, tmp_path, precision, stop_at, mixout):
    """Where weights decay to and what they are mixed with is what they were at the start, not when it went on."""
    methods = {
        "optimizer.weight_decay": 50.0,  # strong enough to see
        "optimizer.decay_towards": "pretrained",
        "optimizer.decay_head": True,
        "optimizer.llrd": 0.5,
        "reinit": {"pooler": True, "blocks": 1},
        "mixout": mixout and {**mixout, "scope": "linear"},
    }
    run = toy_run(precision=precision, **methods)
    expected = undisturbed(run)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=stop_at)
    assert train_to_the_end(run, tmp_path, toy_sources) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_stop_and_go_on_on_a_gpu(toy_run, toy_sources, tmp_path, precision, attention):
    run = toy_run(**{"precision": precision, "model.attention": attention})
    expected = train_to_the_end(run, tmp_path / "whole", toy_sources, device="cuda:0")
    assert train_to_the_end(run, tmp_path / "again", toy_sources, device="cuda:0") == expected
    with pytest.raises(RunInterrupted):
        train(
            run, tmp_path, toy_sources, Execution(device="cuda:0", threads=1), stop=iter([False] * 8 + [True]).__next__
        )
    torch.cuda.manual_seed(99)
    assert train_to_the_end(run, tmp_path, toy_sources, device="cuda:0") == expected


@pytest.mark.parametrize(("pause_after", "at"), [(0.2, 3), (0.4, 6), (0.95, None)])
def test_a_run_that_paused_is_the_run_that_never_did(toy_run, toy_sources, undisturbed, tmp_path, pause_after, at):
    run = toy_run()
    expected = undisturbed(run)
    pausing = replace(run, pause_after=pause_after)
    paused, steps = steps_of(pausing, tmp_path, toy_sources)
    if at is None:  # its last evaluation is the first one due: then it is finished
        assert run_outputs(tmp_path, paused) == expected
        return
    assert (paused.status, paused.steps, paused.failed, paused.last, steps[-1]) == ("paused", at, None, None, at)
    assert paused.evals[-1].step == at
    assert read_record(tmp_path, run.run_id) == paused
    again, steps = steps_of(pausing, tmp_path, toy_sources)
    assert (again.status, again.evals, steps) == ("paused", paused.evals, [])
    record, steps = steps_of(run, tmp_path, toy_sources)
    assert steps == list(range(at + 1, 15))
    assert run_outputs(tmp_path, record) == expected
    assert not (run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists()


def test_a_run_that_is_past_its_trial_pauses_at_once(toy_run, toy_sources, tmp_path):
    run = toy_run()
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=LATE)
    record, steps = steps_of(replace(run, pause_after=0.4), tmp_path, toy_sources)
    assert (record.status, record.steps, steps) == ("paused", LATE, [])
    assert [point.step for point in record.evals] == [3, 6, 9, 12]


def test_a_run_that_diverges_before_its_trial_is_finished(toy_run, toy_sources, tmp_path):
    run = replace(toy_run(**{"optimizer.lr": 1e30, "optimizer.clip_norm": None}), pause_after=0.9)
    record, _ = steps_of(run, tmp_path, toy_sources)
    assert (record.status, record.failed) == ("finished", True)
