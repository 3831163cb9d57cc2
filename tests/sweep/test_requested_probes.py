"""What a sweep asks to be recorded, and finished runs that are trained again for what they lack."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support.sweep_records import make_record, make_run, save_record
from support.worker_logs import log_event, read_events

from stableft.config.planned_run import NO_PROBES, Execution, InLoopProbes, LocalPaths, RunInterrupted, RunProgress
from stableft.config.sweep_file import load_sweep, single_run_sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError
from stableft.records.probe_record import (
    PROBES_FILE,
    DriftRecord,
    GradNormsRecord,
    ModelParts,
    read_probe_records,
    write_probe_records,
)
from stableft.records.run_record import (
    BEST_FOLDER,
    CHECKPOINT_FILE,
    LAST_FOLDER,
    PREDICTIONS_FILE,
    read_record,
    run_folder,
)
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import Notice, RunEnded, SweepStarted
from stableft.sweep.state import find_missing_outputs, with_recorded_probes, with_saved_weights
from stableft.sweep.workers import run_with_workers

pytestmark = pytest.mark.usefixtures("warm_workers")

BASE = "task: rte\nmodel: bert-base-uncased\nseeds: 1-2\nrecipe: zhang\n"
ASKED = InLoopProbes(grad_norms=10, drift=5)
PARTS = ModelParts(embeddings=("e",), blocks=("b.0",), pooler=(), head=("h",))


# The key of a sweep file


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def expand(text: str, **choices):
        Path("s.yaml").write_text(text)
        return load_sweep("s.yaml", LocalPaths(), **choices)

    return expand


def test_probes_are_asked_for_at_the_top_by_an_arm_or_on_the_command_line(sweep):
    key = "probes: {grad_norms: {every: 10}, drift: {every: 5}}\n"
    plain, asked = sweep(BASE), sweep(BASE + key)
    assert {run.probes for run in plain.runs} == {NO_PROBES}
    assert {run.probes for run in asked.runs} == {ASKED}
    assert [run.run_id for run in plain.runs] == [run.run_id for run in asked.runs]
    arms = "arms:\n  - {name: a, probes: {drift: {every: 2}}}\n  - {name: b, set: {optimizer.lr: 1.0}}\n"
    found = sweep(BASE + key + arms).runs
    assert [run.probes for run in found] == [InLoopProbes(drift=2)] * 2 + [ASKED] * 2
    assert {run.probes for run in sweep(BASE + key, sets=["probes=null"]).runs} == {NO_PROBES}
    assert {run.probes for run in sweep(BASE, sets=["probes={drift: {every: 3}}"]).runs} == {InLoopProbes(drift=3)}
    alone = single_run_sweep("zhang", "rte", None, 1, LocalPaths(), ["probes={grad_norms: {every: 1}}"])
    assert alone.runs[0].probes == InLoopProbes(grad_norms=1)


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (
            "grad_norms",
            r"^s.yaml:5: probes: 'grad_norms' .*mapping .*\{grad_norms: \{every: 10\}",
        ),
        ("[drift]", r"^s.yaml:5: probes: \['drift'\] .*mapping"),
        ("{grad_norm: {every: 1}}", r"^s.yaml:5: key 'probes.grad_norm' .*not known.*'grad_norms'\?$"),
        ("{drift: 10}", r"^s.yaml:5: probes.drift: 10 .*mapping .*\{every: 10\}.*optimizer steps$"),
        ("{drift: {each: 10}}", "^s.yaml:5: key 'probes.drift.each' .*not known; known keys: every$"),
        ("{drift: {every: 0}}", "^s.yaml:5: probes.drift.every: 0 .*whole number .*steps .* 1$"),
        ("\n  drift:\n    every: 2.5", "^s.yaml:7: probes.drift.every: 2.5 .*whole number .*steps .* 1$"),
        ("{drift: {every: true}}", "^s.yaml:5: probes.drift.every: True .*whole number .*steps .* 1$"),
    ],
)
def test_what_is_no_probe_is_refused(sweep, value, facts):
    with pytest.raises(UserError, match=facts):
        sweep(f"{BASE}probes: {value}\n")


def test_two_arms_that_share_a_run_record_the_same(sweep):
    arms = "arms:\n  - {name: a}\n  - {name: b, probes: {drift: {every: 2}}}\n"
    with pytest.raises(UserError, match=r"arms 'a' and 'b' .*different probes"):
        sweep(BASE + arms)


def test_an_empty_probe_is_none(sweep):
    assert {run.probes for run in sweep(BASE + "probes: {drift: null}\n").runs} == {NO_PROBES}
    assert not NO_PROBES
    assert InLoopProbes(drift=1)


# What finished runs lack


def grad_norms(run_id: str, *steps: int) -> GradNormsRecord:
    ones, rows = (1.0,) * len(steps), ((1.0,),) * len(steps)
    return GradNormsRecord(
        run_id=run_id, parts=PARTS, steps=steps, total=ones, clipped=ones, names=("b.0.w",), norms=rows
    )


def drift(run_id: str, *steps: int) -> DriftRecord:
    return DriftRecord(run_id=run_id, names=("1",), redrawn=0, steps=steps, distances=((0.0,),) * len(steps))


def finished(results: Path, seed: int = 1, records=(), weights=()):
    run = make_run(seed)
    save_record(results, make_record(run))
    write_probe_records(run_folder(results, run.run_id) / PROBES_FILE, records)
    (run_folder(results, run.run_id) / PREDICTIONS_FILE).touch()
    for name in weights:
        (run_folder(results, run.run_id) / name).mkdir()
    return run


def test_what_is_not_in_the_folder_is_lacking(tmp_path):
    run = finished(tmp_path, 1, [drift(make_run(1).run_id, 0, 1, 5)], [LAST_FOLDER])
    record = read_record(tmp_path, run.run_id)
    assert find_missing_outputs(tmp_path, run, record, Execution(retrain_incomplete=True)) == ()
    (run_folder(tmp_path, run.run_id) / PREDICTIONS_FILE).unlink()
    assert find_missing_outputs(tmp_path, run, record, Execution()) == ()
    assert find_missing_outputs(tmp_path, run, record, Execution(save="last")) == ()
    assert find_missing_outputs(tmp_path, run, record, Execution(save="all")) == ("best weights",)
    assert find_missing_outputs(tmp_path, replace(run, probes=ASKED), record, Execution(save="best")) == (
        "grad norms",
        "best weights",
    )
    diverged = record.model_copy(update={"reason": "the training loss was nan at step 3"})
    assert find_missing_outputs(tmp_path, run, diverged, Execution(save="all")) == ()
    assert find_missing_outputs(tmp_path, run, record, Execution(retrain_incomplete=True)) == ("predictions",)


def test_training_again_keeps_what_was_there(tmp_path):
    run = finished(tmp_path, 1, [grad_norms(make_run(1).run_id, 1, 7, 14)], [BEST_FOLDER])
    assert with_recorded_probes(tmp_path, replace(run, probes=InLoopProbes(drift=2))).probes == InLoopProbes(
        grad_norms=7, drift=2
    )
    assert with_recorded_probes(tmp_path, replace(run, probes=InLoopProbes(grad_norms=2))).probes == InLoopProbes(
        grad_norms=2
    )
    assert with_saved_weights(tmp_path, [run.run_id], Execution(save="last")).save == "all"
    assert with_saved_weights(tmp_path, [run.run_id], Execution(save="none")).save == "best"
    assert with_saved_weights(tmp_path, [], Execution(save="last")).save == "last"


def train_stand_in(run, results, sources, execution, progress, stop):
    """Leaves what it is asked for; a seed of 13 crashes, one of 99 is killed half way, twice."""
    log_event(results, "begin", run)
    seed, folder = run.config.seeds.init, run_folder(results, run.run_id)
    checkpoint = folder / CHECKPOINT_FILE
    if seed == 13:
        raise ValueError("the bug")
    progress(RunProgress(1, 2, 0.5, 0.25))
    if seed == 99 and len(read_events(results, "begin")) <= 2:
        checkpoint.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if stop():
        raise RunInterrupted
    checkpoint.unlink(missing_ok=True)
    asked = {"grad_norms": grad_norms(run.run_id, 1, 2), "drift": drift(run.run_id, 0, 1, 2)}
    write_probe_records(folder / PROBES_FILE, [record for name, record in asked.items() if getattr(run.probes, name)])
    for name in {"best": [BEST_FOLDER], "last": [LAST_FOLDER], "all": [BEST_FOLDER, LAST_FOLDER]}.get(
        execution.save, []
    ):
        (folder / name).mkdir(exist_ok=True)
    return save_record(results, make_record(run).model_copy(update={"reason": "again"}))


def sweep_stand_ins(results: Path, runs, **execution):
    events = []
    arguments = (list(runs), results, LocalPaths(), LocalExecutor(["cpu"]), Execution(**execution))
    outcome = run_with_workers(*arguments, display=events.append, train=train_stand_in, fingerprint=lambda *_: "f" * 64)
    return outcome, events


def kinds(results: Path, run) -> list[str]:
    return [record.probe for record in read_probe_records(run_folder(results, run.run_id) / PROBES_FILE)]


@pytest.mark.slow
def test_finished_runs_are_trained_again_only_when_asked(tmp_path):
    run, whole = finished(tmp_path, 1), finished(tmp_path, 2, [drift(make_run(2).run_id, 0, 1)])
    runs = [replace(one, probes=InLoopProbes(drift=1)) for one in (run, whole)]
    outcome, events = sweep_stand_ins(tmp_path, runs)
    assert set(outcome.finished_before) == {run.run_id, whole.run_id}
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    assert re.match("1 runs .*without drift: --complete", notice)
    outcome, events = sweep_stand_ins(tmp_path, runs, retrain_incomplete=True)
    assert (outcome.finished, outcome.finished_before) == ((run.run_id,), (whole.run_id,))
    opened = next(event for event in events if isinstance(event, SweepStarted))
    assert ([one.run_id for one in opened.runs], opened.done) == ([run.run_id], 1)
    assert read_record(tmp_path, run.run_id).reason == "again"
    assert kinds(tmp_path, run) == ["drift"]
    assert set(sweep_stand_ins(tmp_path, runs, retrain_incomplete=True)[0].finished_before) == {
        run.run_id,
        whole.run_id,
    }
    assert len(read_events(tmp_path, "begin")) == 1


def test_weights_are_completed_too_and_nothing_else_is_lost(tmp_path):
    run = finished(tmp_path, 1, [grad_norms(make_run(1).run_id, 1, 2)], [BEST_FOLDER])
    sweep_stand_ins(tmp_path, [run], save="last", retrain_incomplete=True)
    folder = run_folder(tmp_path, run.run_id)
    assert (folder / BEST_FOLDER).is_dir()
    assert (folder / LAST_FOLDER).is_dir()
    assert kinds(tmp_path, run) == ["grad_norms"]


@pytest.mark.faults
def test_a_crash_in_training_again_costs_no_result(tmp_path):
    run = replace(finished(tmp_path, 13), probes=ASKED)
    before = read_record(tmp_path, run.run_id)
    outcome, events = sweep_stand_ins(tmp_path, [run], retrain_incomplete=True)
    assert outcome.crashed == (run.run_id,)
    assert [event.record.status for event in events if isinstance(event, RunEnded)] == ["crashed"]
    assert read_record(tmp_path, run.run_id) == before
    assert "the bug" in (run_folder(tmp_path, run.run_id) / "crash.txt").read_text()


@pytest.mark.faults
def test_a_death_in_training_again_costs_no_result(tmp_path):
    run = replace(finished(tmp_path, 99), probes=ASKED)
    before = read_record(tmp_path, run.run_id)
    sweep_stand_ins(tmp_path, [run], retrain_incomplete=True)
    assert read_record(tmp_path, run.run_id) == before
    assert (run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE).exists()
    outcome, _ = sweep_stand_ins(tmp_path, [run], retrain_incomplete=True)
    assert outcome.finished == (run.run_id,)
    assert read_record(tmp_path, run.run_id).reason == "again"


def test_trials_of_hopeless_runs_are_not_trained_again(tmp_path):
    from support.sweep_stages import make_sweep
    from support.sweep_stages import sweep_stand_ins as sweep_in_stages

    run = replace(finished(tmp_path, 1), probes=ASKED)
    outcome, _ = sweep_in_stages(
        tmp_path, make_sweep([run, replace(make_run(2), probes=ASKED)], EarlyStoppingRule(after=0.3, lowest=0.5))
    )
    assert run.run_id in outcome.finished_before


# The real thing


@pytest.mark.slow  # trains in a worker process
def test_the_smoke_sweep_is_completed(workplace, stableft):
    from support.training_runs import train_run

    arguments = ("sweep", "configs/smoke.yaml", "--seeds", "1", "--arms", "devlin", "--devices", "cpu")
    plain = load_sweep("configs/smoke.yaml", LocalPaths(), seeds="1", arms=["devlin"])
    train_run(plain.runs[0], Path("results"), plain.sources)
    sets = ("--set", "probes={grad_norms: {every: 2}, drift: {every: 2}}", "--save", "last")
    code, out, _ = stableft(*arguments, *sets)
    assert code == 0
    assert re.search("1 runs .*without drift, grad norms, last weights: --complete", out)
    code, out, _ = stableft(*arguments, *sets, "--complete", "--dry-run")
    assert "1 runs left" in out
    code, out, _ = stableft(*arguments, *sets, "--complete")
    assert code == 0
    assert "they are trained again" in out
    folder = next(Path("results/runs").iterdir())
    assert {path.name for path in folder.iterdir()} >= {PROBES_FILE, LAST_FOLDER, "record.json"}
    assert [record.probe for record in read_probe_records(folder / PROBES_FILE)] == [
        "grad_norms",
        "drift",
    ]
    code, out, _ = stableft(*arguments, *sets, "--complete")
    assert "0 runs to do, 1 done" in out
