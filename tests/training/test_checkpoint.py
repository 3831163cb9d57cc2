"""Checkpoints: used only under the same facts, set aside when damaged, written no more often than is cheap."""

import random
import re
from dataclasses import replace

import pytest
import torch
from support.training_runs import run_outputs, train_run

from stableft.config.planned_run import Execution, RunInterrupted, RunProgress
from stableft.errors import StorageError, UserError
from stableft.records.run_record import CHECKPOINT_FILE, run_folder
from stableft.training import checkpoint
from stableft.training.checkpoint import CHECKPOINT_TIME_SHARE, CheckpointBudget, initial_checkpoint_budget
from stableft.training.environment import package_versions
from stableft.training.loop import resume_conditions
from stableft.training.run import train
from stableft.training.setup import prepare_run


@pytest.fixture
def stopped(toy_run, toy_sources, tmp_path):
    """Returns a run that stopped after step 5, and its results folder."""
    run = toy_run()
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path / "results", toy_sources, stop_at=5)
    return run, tmp_path / "results"


def first_step(run, results, sources, **execution) -> int:
    seen: list[RunProgress] = []
    train(run, results, sources, Execution(**{"threads": 1, **execution}), seen.append)
    assert not (run_folder(results, run.run_id) / CHECKPOINT_FILE).exists()
    return seen[0].step


def other_version(name: str):
    return lambda monkeypatch: monkeypatch.setattr(
        "stableft.training.loop.package_versions", lambda: {**package_versions(), name: "0.0+x"}
    )


def other_data(monkeypatch) -> None:
    def changed(*args):
        job, state = prepare_run(*args)
        data = job.splits.record.model_copy(update={"fingerprint": "f" * 64})
        return replace(job, splits=replace(job.splits, record=data)), state

    monkeypatch.setattr("stableft.training.run.prepare_run", changed)


@pytest.mark.parametrize(
    ("execution", "change", "words"),
    [
        ({}, lambda patch: patch.setattr(torch, "get_num_threads", lambda: 2), "threads 1,.* 2"),
        ({"micro_batch": 2}, None, "micro_batch None,.* 2"),
        ({"tf32": True}, None, "tf32 None,.* True"),
        ({}, other_version("torch"), rf"torch '{re.escape(torch.__version__)}',.* '0\.0\+x'"),
        ({}, other_version("stableft"), r"stableft '.*',.* '0\.0\+x'"),
        ({}, other_version("transformers"), r"transformers '.*',.* '0\.0\+x'"),
        ({}, other_data, "data '.*',.* 'ffff"),
        (
            {},
            lambda p: p.setattr("stableft.training.loop.device_name", lambda _: "NVIDIA"),
            "'cpu',.* 'NVIDIA'",
        ),
    ],
)
def test_other_facts_are_refused(stopped, toy_sources, monkeypatch, execution, change, words):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    before = path.read_bytes()
    if change:
        change(monkeypatch)
    with pytest.raises(UserError, match=f"run {run.run_id} .*checkpoint from step 5 ") as caught:
        first_step(run, results, toy_sources, **execution)
    assert re.search(words, str(caught.value))
    assert path.read_bytes() == before


def test_best_weights_that_were_not_saved_cannot_be_asked_for_later(toy_run, toy_sources, tmp_path):
    run, results = toy_run(), tmp_path / "results"
    with pytest.raises(RunInterrupted):
        train_run(run, results, toy_sources, stop_at=7, checkpoint_every=1)
    assert torch.load(run_folder(results, run.run_id) / CHECKPOINT_FILE, weights_only=True)["best"]
    with pytest.raises(UserError, match=r"without --save best.*step \d+.*not saved"):
        first_step(run, results, toy_sources, save="best")
    assert first_step(run, results, toy_sources, save="last") == 8
    assert not (run_folder(results, run.run_id) / "model-best").exists()


def test_equal_facts_go_on_in_silence(stopped, toy_sources, caplog):
    run, results = stopped
    assert first_step(run, results, toy_sources) == 6
    assert caplog.records == []


def test_what_does_not_change_a_number_may_change(stopped, toy_sources):
    run, results = stopped
    assert first_step(run, results, toy_sources, checkpoint_every=3) == 6


@pytest.mark.faults
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b[9:], lambda b: b"{}"]
)
def test_an_unreadable_checkpoint_is_set_aside(stopped, toy_sources, tmp_path, caplog, damage):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    content = damage(path.read_bytes())
    path.write_bytes(content)
    assert first_step(run, results, toy_sources) == 1
    assert path.with_name(f"{CHECKPOINT_FILE}.damaged-1").read_bytes() == content
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"cannot read {path} (")
    assert f"{CHECKPOINT_FILE}.damaged-1" in message


@pytest.mark.faults
def test_a_checkpoint_that_is_something_else_is_set_aside(stopped, toy_sources):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    torch.save({"model": {}}, path)
    assert first_step(run, results, toy_sources) == 1
    assert path.with_name(f"{CHECKPOINT_FILE}.damaged-1").exists()


@pytest.mark.faults
def test_a_failed_write_leaves_the_one_before(stopped, toy_sources, monkeypatch):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(StorageError, match=f"^cannot use {path}: No space left on device$"):
            train_run(run, results, toy_sources, checkpoint_every=1)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*.tmp"))
    assert first_step(run, results, toy_sources) == 6


def test_the_budget_keeps_within_its_share():
    """Whatever a checkpoint costs, as long as the costs of one run are alike, and however often the run resumes."""
    draw = random.Random(0)
    for _ in range(200):
        cost, step = 10 ** draw.uniform(-3, 1.5), 10 ** draw.uniform(-2, 1)
        seconds = spent = 0.0
        written = 0
        for _ in range(draw.randint(1, 4)):
            budget = CheckpointBudget(write_seconds=cost, started_at=seconds)
            for _ in range(300):
                seconds += step
                if budget.allows(seconds):
                    seconds += cost
                    spent += cost
                    budget.spent_seconds += cost
                    written += 1
        assert spent <= CHECKPOINT_TIME_SHARE * seconds
        assert written or seconds < 4 * cost / CHECKPOINT_TIME_SHARE


def test_a_run_is_not_slowed_by_checkpoints_that_nobody_asked_for(toy_run, toy_sources, tmp_path, monkeypatch):
    """A clock that moves a second a step, and checkpoints that take ten: none until step 500, every 500 then."""
    now = [0.0]
    monkeypatch.setattr("stableft.training.loop.time.perf_counter", lambda: now[0])
    written: list[int] = []

    def save(folder, state, conditions, device, budget):
        written.append(state.step)
        now[0] += 10
        budget.write_seconds = 10.0
        budget.spent_seconds += 10.0

    def make(state, *args):
        from stableft.training.step import StepResult

        state.step += 1
        now[0] += 1.0
        return StepResult(torch.tensor(0.5), 0.0, torch.tensor(1.0))

    monkeypatch.setattr("stableft.training.loop.save_checkpoint", save)
    monkeypatch.setattr("stableft.training.run.train_on_batch", make)
    monkeypatch.setattr("stableft.training.loop.initial_checkpoint_budget", lambda state: CheckpointBudget(10.0))
    run = toy_run(**{"schedule.length": {"steps": 3000}, "evaluation.every": {"times": 300}})
    record = train_run(run, tmp_path, toy_sources)
    assert record.seconds == now[0]
    assert written[0] == 500
    assert 4 <= len(written) <= 6
    assert 10 * len(written) <= CHECKPOINT_TIME_SHARE * now[0]


def test_the_first_guess_is_by_the_size_of_the_model(toy_run, toy_sources, tmp_path):
    _, state = prepare_run(toy_run(), tmp_path, toy_sources, Execution())
    state.seconds = 40.0
    size = sum(tensor.numel() * 4 for tensor in state.model.parameters())
    assert initial_checkpoint_budget(state) == CheckpointBudget(
        write_seconds=3 * size / checkpoint.ASSUMED_BYTES_PER_SECOND, started_at=40.0
    )


def test_writing_changes_nothing(toy_run, toy_sources, tmp_path):
    run = toy_run()
    without = run_outputs(tmp_path / "a", train_run(run, tmp_path / "a", toy_sources))
    assert run_outputs(tmp_path / "b", train_run(run, tmp_path / "b", toy_sources, checkpoint_every=1)) == without


def test_a_checkpoint_of_an_older_form_goes_on(stopped, toy_sources, tmp_path):
    """It had no moments for weights without a gradient, and said less of memory and of arithmetic."""
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    content = torch.load(path, weights_only=True)
    for key in ("halved_at", "eval_batch"):
        del content[key]
    del content["facts"]["tf32"]
    torch.save(content, path)
    record = train_run(run, results, toy_sources)
    assert record.environment
    assert record.environment.micro_batch_halved_at == ()
    assert run_outputs(results, record) == run_outputs(tmp_path, train_run(run, tmp_path, toy_sources))


def test_a_gpu_with_other_software_is_another_place_to_go_on(monkeypatch):
    versions = {"cuda": "13.0", "cudnn": "91200", "driver": "580.1"}
    monkeypatch.setattr("stableft.training.loop.gpu_versions", lambda: versions)
    monkeypatch.setattr("stableft.training.loop.device_name", str)
    on_gpu, on_cpu = (resume_conditions("run", "data", Execution(), torch.device(kind)) for kind in ("cuda", "cpu"))
    assert versions.items() <= on_gpu.items()
    assert not versions.keys() & on_cpu.keys()
