from dataclasses import replace

import pytest
from support.sweep_records import make_record, make_run, save_record

from stableft.config.planned_run import LocalPaths, RunInterrupted
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, RECORD_FILE, EvalPoint, read_record, run_folder
from stableft.sweep.claims import claim_run
from stableft.sweep.state import (
    CRASH_FILE,
    check_fingerprints,
    is_done,
    read_sweep_state,
    record_worker_death,
    run_under_claim,
    unique_runs,
)


def nothing() -> None:
    pass


def test_status_tells_every_kind_apart(tmp_path):
    runs = [make_run(seed) for seed in range(5)]
    save_record(tmp_path, make_record(runs[0]))
    save_record(tmp_path, make_record(runs[1], failed=True))
    save_record(tmp_path, make_record(runs[2], status="crashed"))
    run_folder(tmp_path, runs[3].run_id).mkdir()
    (run_folder(tmp_path, runs[3].run_id) / CHECKPOINT_FILE).write_bytes(b"weights")
    state = read_sweep_state(tmp_path, runs)
    assert [record.run_id for record in state.finished] == [runs[0].run_id, runs[1].run_id]
    assert [record.run_id for record in state.failed] == [runs[1].run_id]
    assert [record.run_id for record in state.crashed] == [runs[2].run_id]
    assert state.unfinished == (runs[3],)
    assert runs[4].run_id not in {run.run_id for run in state.unfinished}
    assert state.damaged == ()


def test_a_brief_state_has_no_evaluations_and_reads_no_known_record_again(tmp_path):
    runs = [make_run(seed) for seed in range(3)]
    point = EvalPoint(step=6, epoch=1.0, train_loss=0.7, val_loss=0.7, val={"accuracy": 0.5})
    save_record(tmp_path, make_record(runs[0]).model_copy(update={"evals": (point,)}))
    save_record(tmp_path, make_record(runs[1], status="crashed"))
    whole, brief = (read_sweep_state(tmp_path, runs, brief=brief) for brief in (False, True))
    assert whole.finished[0].evals
    assert brief.finished[0] == whole.finished[0].model_copy(update={"evals": ()})
    assert brief.finished[0].config is runs[0].config
    save_record(tmp_path, make_record(runs[1]))
    (run_folder(tmp_path, runs[0].run_id) / RECORD_FILE).write_text("{")
    later = read_sweep_state(tmp_path, runs, look_only=True, brief=True, known=brief)
    assert [record.run_id for record in later.finished] == [runs[0].run_id, runs[1].run_id]
    assert later.finished[0] is brief.finished[0]
    assert not later.crashed


def test_a_run_that_several_arms_ask_for_counts_once(tmp_path):
    first, second = make_run(1, arm="first"), make_run(1, arm="second")
    assert list(unique_runs([first, second]).values()) == [first]
    run_folder(tmp_path, first.run_id).mkdir(parents=True)
    (run_folder(tmp_path, first.run_id) / CHECKPOINT_FILE).write_bytes(b"weights")
    assert read_sweep_state(tmp_path, [first, second]).unfinished == (first,)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: text.replace('"steps":6', '"steps":7')])
def test_a_damaged_record_is_set_aside_and_its_run_is_to_do(tmp_path, damage):
    run = make_run(1)
    save_record(tmp_path, make_record(run))
    path = run_folder(tmp_path, run.run_id) / "record.json"
    damaged = damage(path.read_text())
    path.write_text(damaged)
    state = read_sweep_state(tmp_path, [run])
    assert (state.finished, state.unfinished) == ((), ())
    assert len(state.damaged) == 1
    assert str(path) in state.damaged[0]
    assert "record.json.damaged-1" in state.damaged[0]
    assert path.with_name("record.json.damaged-1").read_text() == damaged
    assert read_sweep_state(tmp_path, [run]).damaged == ()


def test_a_record_of_a_newer_schema_is_refused_and_left_in_place(tmp_path):
    run = make_run(1)
    save_record(tmp_path, make_record(run))
    path = run_folder(tmp_path, run.run_id) / "record.json"
    newer = path.read_text().replace('"schema":2', '"schema":3')
    path.write_text(newer)
    for look_only in (False, True):
        with pytest.raises(UserError, match=r"record\.json has schema 3, but this version of stableft reads 1"):
            read_sweep_state(tmp_path, [run], look_only)
    assert path.read_text() == newer


def test_fingerprints_are_computed_once_for_all_seeds(tmp_path):
    runs = [make_run(seed, task=task) for task in ("rte", "cola") for seed in range(25)]
    asked = []

    def fingerprint(config, sources):
        asked.append(config.data.task)
        return "f" * 64

    check_fingerprints([make_record(run) for run in runs], runs, LocalPaths(), fingerprint)
    assert asked == ["rte", "cola"]


def test_other_data_rows_are_an_error_that_names_both(tmp_path):
    run = make_run(1)
    with pytest.raises(UserError, match=rf"{run.run_id}.*rte.*{'a' * 64}.*{'b' * 64}"):
        check_fingerprints(
            [make_record(run, fingerprint="a" * 64)], [run], LocalPaths(), lambda config, sources: "b" * 64
        )


def test_run_once_does_a_run_and_finds_it_done_the_second_time(tmp_path):
    run, calls = make_run(1), []

    def train():
        calls.append(1)
        return save_record(tmp_path, make_record(run))

    assert run_under_claim(run, tmp_path, None, train, nothing) == run_under_claim(run, tmp_path, None, train, nothing)
    assert calls == [1]


def test_run_once_records_an_exception_with_its_first_line_and_whole_traceback(tmp_path):
    run = make_run(1)

    def train():
        raise RuntimeError("CUDA error: device-side assert\nsome general advice")

    record = run_under_claim(run, tmp_path, None, train, nothing)
    assert record == read_record(tmp_path, run.run_id)
    assert record
    assert (record.status, record.reason) == ("crashed", "RuntimeError: CUDA error: device-side assert")
    text = (run_folder(tmp_path, run.run_id) / CRASH_FILE).read_text()
    assert "in train" in text
    assert "some general advice" in text


@pytest.mark.parametrize("error", [RunInterrupted(), UserError("no such task")])
def test_run_once_passes_on_what_is_not_a_crash(tmp_path, error):
    def train():
        raise error

    with pytest.raises(type(error)):
        run_under_claim(make_run(1), tmp_path, None, train, nothing)
    assert read_record(tmp_path, make_run(1).run_id) is None


def test_a_crash_is_tried_again_only_if_it_is_the_one_that_was_meant(tmp_path):
    run = make_run(1)
    old = save_record(tmp_path, make_record(run, status="crashed"))

    def train():
        assert read_record(tmp_path, run.run_id) is None
        raise ValueError("again")

    newer = run_under_claim(run, tmp_path, old, train, nothing)
    assert newer
    assert newer.reason == "ValueError: again"
    assert run_under_claim(run, tmp_path, old, train, nothing) == newer  # another sweep's retry, which comes later
    assert run_under_claim(run, tmp_path, None, train, nothing) == newer


@pytest.mark.faults
def test_a_death_is_recorded_unless_the_run_had_finished(tmp_path):
    dead, done = make_run(1), make_run(2)
    record = record_worker_death(dead, tmp_path, None, "the worker died", 2.0)
    assert record
    assert record.reason == "the worker died"
    finished = save_record(tmp_path, make_record(done))
    assert record_worker_death(done, tmp_path, None, "the worker died", 2.0) == finished


def test_paused_and_stopped_runs_wait(tmp_path):
    runs = [make_run(seed) for seed in range(2)]
    for run, status in zip(runs, ("paused", "stopped"), strict=True):
        save_record(tmp_path, make_record(run).model_copy(update={"status": status, "failed": None}))
    state = read_sweep_state(tmp_path, runs)
    assert [record.status for record in state.resumable] == ["paused", "stopped"]
    assert (state.finished, state.crashed, state.unfinished) == ((), (), ())


def test_a_paused_run_is_done_where_it_is_to_pause_alone(tmp_path):
    run = make_run(1)
    point = EvalPoint(step=9, epoch=1.5, train_loss=0.5, val_loss=0.5, val={"accuracy": 0.5})
    paused = make_record(run).model_copy(update={"status": "paused", "failed": None, "evals": (point,)})
    save_record(tmp_path, paused)
    assert is_done(paused, replace(run, pause_after=0.5))
    assert not is_done(paused, replace(run, pause_after=0.6))
    assert not is_done(paused, run)
    done = make_record(run)
    assert run_under_claim(replace(run, pause_after=0.5), tmp_path, None, lambda: done, lambda: None) == paused
    with claim_run(run_folder(tmp_path, run.run_id)):  # it goes on elsewhere: nobody waits for it in its trial
        assert run_under_claim(replace(run, pause_after=0.5), tmp_path, None, lambda: done, lambda: None) == paused
        assert run_under_claim(run, tmp_path, None, lambda: done, lambda: None) is None
    assert run_under_claim(run, tmp_path, None, lambda: done, lambda: None) == done
    assert read_record(tmp_path, run.run_id) == paused  # until there is another one: it says how the run ranks


def test_a_crash_keeps_how_a_paused_run_ranks(tmp_path):
    run = make_run(1)
    point = EvalPoint(step=9, epoch=1.5, train_loss=0.5, val_loss=0.5, val={"accuracy": 0.5})
    save_record(tmp_path, make_record(run).model_copy(update={"status": "paused", "failed": None, "evals": (point,)}))
    record = record_worker_death(run, tmp_path, None, "killed", 1.0)
    assert record is not None
    assert (record.status, record.evals) == ("crashed", (point,))
