"""Checkpoints: used only under the same facts, set aside when damaged, written no more often than is cheap."""

import random
import re
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from support.training_runs import run_outputs, train_run

from stableft.config.planned_run import Execution, RunInterrupted, RunProgress
from stableft.errors import StorageError, UserError
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, read_record, run_folder
from stableft.training import checkpoint, environment
from stableft.training.checkpoint import CHECKPOINT_TIME_SHARE, CheckpointBudget, initial_checkpoint_budget
from stableft.training.environment import commit_label, package_versions
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
    ("change", "words"),
    [
        (lambda patch: patch.setattr(torch, "get_num_threads", lambda: 2), "threads 1,.* 2"),
        (lambda p: p.setattr("stableft.training.loop.processor_name", lambda: "8088"), "processor '.*',.* '8088'"),
        (other_version("torch"), rf"torch '{re.escape(metadata.version('torch'))}',.* '0\.0\+x'"),
        (other_version("stableft"), r"stableft '.*',.* '0\.0\+x'"),
        (other_version("transformers"), r"transformers '.*',.* '0\.0\+x'"),
        (lambda p: p.setattr("stableft.training.loop.device_name", lambda _: "NVIDIA"), "'cpu',.* 'NVIDIA'"),
    ],
)
def test_on_another_machine_the_run_starts_again_and_says_so(
    stopped, toy_sources, tmp_path, monkeypatch, caplog, change, words
):
    run, results = stopped
    with monkeypatch.context() as patch:
        change(patch)
        assert first_step(run, results, toy_sources) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"run {run.run_id} has a checkpoint from step 5 made with ")
    assert message.endswith(": it starts again from step 0")
    assert re.search(words, message)
    train_run(run, tmp_path, toy_sources)
    again, afresh = (run_outputs(folder, read_record(folder, run.run_id)) for folder in (results, tmp_path))
    assert again == afresh


def test_a_checkpoint_of_an_older_version_does_not_state_its_processor(stopped, toy_sources, caplog):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    content = checkpoint.read_with_checksum(path)
    del content["facts"]["processor"]
    with open(path, "wb") as file:
        checkpoint.write_with_checksum(file, content)
    assert first_step(run, results, toy_sources) == 6
    assert not caplog.records


@pytest.mark.parametrize(
    ("execution", "change", "words"),
    [
        ({"micro_batch": 2}, None, "micro_batch None,.* 2"),
        ({"tf32": True}, None, "tf32 None,.* True"),
        ({"deterministic": False}, None, "deterministic None,.* False"),
        ({}, other_data, "data '.*',.* 'ffff"),
        ({"micro_batch": 2}, other_version("torch"), "micro_batch None,.* 2"),
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
    assert message.startswith(f"cannot read {path} (it does not match its checksum")
    assert message.endswith(f"set aside as {CHECKPOINT_FILE}.damaged-1; run {run.run_id} starts again from step 0")


@pytest.fixture
def loading(stopped, toy_sources):
    """Returns a checkpoint's path, and a function that loads it and says whether the run resumes."""
    run, results = stopped
    setup, state = prepare_run(run, results, toy_sources, Execution(threads=1))
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    conditions = checkpoint.read_with_checksum(path)["facts"]
    return path, lambda: checkpoint.load_checkpoint(path.parent, state, conditions, setup.device)


@pytest.mark.faults
def test_no_flipped_bit_and_no_cut_end_is_resumed(loading, caplog):
    path, load = loading
    content, draw = path.read_bytes(), random.Random(0)
    assert load()
    ends = [len(content) - 1, len(content) - checkpoint.CHECKSUM_BYTES]  # the last bytes are the checksum itself
    places = [*range(3), *ends, *(draw.randrange(len(content)) for _ in range(40))]
    for number, place in enumerate(places, 1):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert not load(), f"bit at byte {place}"
        assert path.with_name(f"{CHECKPOINT_FILE}.damaged-{number}").read_bytes() == damaged
    for end in (0, 1, 70, *(draw.randrange(len(content)) for _ in range(10)), *ends):
        path.write_bytes(content[:end])
        assert not load(), f"{end} bytes"
    assert len(caplog.records) == len(places) + 15
    path.write_bytes(content)
    assert load()


@pytest.mark.faults
def test_the_checkpoint_of_another_run_is_refused(stopped, toy_run, toy_sources):
    run, results = stopped
    other = toy_run(7)
    with pytest.raises(RunInterrupted):
        train_run(other, results, toy_sources, stop_at=5)
    (run_folder(results, run.run_id) / CHECKPOINT_FILE).replace(run_folder(results, other.run_id) / CHECKPOINT_FILE)
    with pytest.raises(UserError, match=f"run {other.run_id} .* run_id '{run.run_id}'"):
        train_run(other, results, toy_sources)


def test_a_run_resumed_under_another_commit_says_so(stopped, toy_sources, monkeypatch):
    run, results = stopped
    monkeypatch.setattr("stableft.training.loop.commit_label", lambda: "f" * 40)
    record = train_run(run, results, toy_sources)
    assert record.commits == (commit_label(), "f" * 40)
    assert read_record(results, run.run_id) == record


def test_a_run_of_one_commit_does_not_name_it_twice(stopped, toy_sources):
    run, results = stopped
    train_run(run, results, toy_sources)
    assert '"commits"' not in (run_folder(results, run.run_id) / RECORD_FILE).read_text()


@pytest.mark.faults
def test_a_checkpoint_that_is_something_else_is_set_aside(stopped, toy_sources):
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    with open(path, "wb") as file:
        checkpoint.write_with_checksum(file, {"model": {}})
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


def test_a_checkpoint_with_fewer_fields_goes_on(stopped, toy_sources, tmp_path):
    """As an older version wrote it, which said less of memory and of commits."""
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    content = checkpoint.read_with_checksum(path)
    for key in ("halved_at", "eval_batch", "eval_halved_at", "commits"):
        del content[key]
    with open(path, "wb") as file:
        checkpoint.write_with_checksum(file, content)
    record = train_run(run, results, toy_sources)
    assert run_outputs(results, record) == run_outputs(tmp_path, train_run(run, tmp_path, toy_sources))


@pytest.mark.faults
def test_a_checkpoint_without_a_checksum_is_set_aside(stopped, toy_sources, caplog):
    """As older versions wrote them: nobody could tell whether one is damaged."""
    run, results = stopped
    path = run_folder(results, run.run_id) / CHECKPOINT_FILE
    torch.save(torch.load(path, weights_only=True), path)
    assert first_step(run, results, toy_sources) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "or an older version wrote it without one" in message


def test_a_gpu_with_other_software_is_another_place_to_go_on(monkeypatch):
    versions = {"cuda": "13.0", "cudnn": "91200", "cublas": "13.1.0", "driver": "580.1"}
    monkeypatch.setattr(environment, "_cublas_version", lambda: versions["cublas"])
    monkeypatch.setattr(environment, "_driver_version", lambda: versions["driver"])
    monkeypatch.setattr(torch.version, "cuda", versions["cuda"])
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91200)
    monkeypatch.setattr("stableft.training.loop.device_name", str)
    on_gpu, on_cpu = (resume_conditions("run", "data", Execution(), torch.device(kind)) for kind in ("cuda:7", "cpu"))
    assert versions.items() <= on_gpu.items()
    assert not versions.keys() & on_cpu.keys()


@pytest.mark.parametrize(
    ("saved", "now", "first"),
    [
        ({}, {"cublas": "13.1.0"}, 6),  # an older version asked for fewer
        ({"driver": None}, {"driver": "580.1"}, 6),  # nvidia-smi was not there
        ({"driver": "580.1"}, {}, 6),
        ({"cublas": "13.1.0", "driver": "580.1"}, {"cublas": "13.1.0", "driver": "580.1"}, 6),
        ({"cublas": "13.1.0", "driver": "580.1"}, {"cublas": "13.0.2", "driver": "580.1"}, 1),
    ],
)
def test_versions_that_are_not_known_stop_no_run(toy_run, toy_sources, tmp_path, monkeypatch, saved, now, first):
    """The run is on a CPU, but the versions are those of a GPU's software."""
    run = toy_run()
    monkeypatch.setattr("stableft.training.loop.gpu_versions", lambda device: saved)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=5)
    monkeypatch.setattr("stableft.training.loop.gpu_versions", lambda device: now)
    assert first_step(run, tmp_path, toy_sources) == first
