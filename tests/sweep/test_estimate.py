"""The dry run: it measures, and leaves nothing."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.sweep_records import make_record, save_record
from support.training_runs import train_run

from stableft.config.planned_run import Execution
from stableft.config.run_config import StartFrom
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import Sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError
from stableft.records.run_record import EvalPoint
from stableft.sweep.estimate import (
    TIMED_STEPS,
    ArmEstimate,
    RunCost,
    SweepEstimate,
    estimate_sweep,
    render_estimate,
)
from stableft.training.evaluate import evaluate
from stableft.training.setup import batch_indices, prepare_run
from stableft.training.step import train_on_batch


@pytest.fixture
def sweep(toy_run, toy_sources, tmp_path) -> Sweep:
    runs = tuple(toy_run(seeds={"init": seed, "data": seed}) for seed in range(3))
    return Sweep("toy", tmp_path / "toy.yaml", runs, toy_sources)


@pytest.mark.parametrize("save", ["none", "best", "last", "all"])
def test_a_dry_run_writes_nothing(sweep, tmp_path, save):
    results = tmp_path / "results"
    said = []
    estimated = estimate_sweep(sweep, results, Execution(threads=1, save=save), 2, show=said.append)
    assert said == ["measuring arm on toy ..."]
    assert not results.exists()
    (line,) = estimated.arms
    assert (line.arm, line.task, line.runs, line.unfinished) == ("arm", "toy", 3, 3)
    assert line.cost.steps == 14
    assert 0 < line.cost.seconds < 60
    assert line.cost.memory_bytes > 0
    weights = line.cost.checkpoint_bytes / 3
    models = {"none": 0, "best": 1, "last": 1, "all": 2}[save] * weights
    assert models < line.cost.disk_bytes < models + 20_000
    text = render_estimate(estimated)
    assert "\n3 runs left" in text
    assert "\nat most 3 runs left" in render_estimate(replace(estimated, is_most=True))
    assert "on cpu" in text
    assert "with 2 at a time" in text


@pytest.mark.parametrize("execution", ["padded", "packed"])
def test_the_longest_batch_of_the_run_is_tried_before_the_clock_starts(
    sweep, toy_run, toy_sources, tmp_path, monkeypatch, execution
):
    run = toy_run(execution=execution)
    trained: list[list[int]] = []
    evaluated: list[list[int]] = []

    def training(state, rows, indices, *args):
        trained.append(np.diff(rows.offsets)[indices].tolist())
        return train_on_batch(state, rows, indices, *args)

    def evaluating(model, rows, *args):
        evaluated.append(np.diff(rows.offsets).tolist())
        return evaluate(model, rows, *args)

    monkeypatch.setattr("stableft.sweep.estimate.train_on_batch", training)
    monkeypatch.setattr("stableft.sweep.estimate.evaluate", evaluating)
    estimate_sweep(replace(sweep, runs=(run,)), tmp_path / "results", Execution(threads=1), 1)
    setup, _ = prepare_run(run, tmp_path, toy_sources, Execution(threads=1))
    lengths = np.diff(setup.splits.train.offsets)
    batches = [lengths[batch_indices(setup, step)] for step in range(setup.total)]
    size = sum if execution == "packed" else lambda batch: len(batch) * max(batch)
    assert len(set(map(size, batches))) > 1
    assert size(trained[0]) == max(map(size, batches))
    assert trained[2:] == [batch.tolist() for batch in batches[:TIMED_STEPS]]
    longest = sorted(np.diff(setup.splits.val.offsets))[-run.config.evaluation.batch_size :]
    assert sorted(evaluated[0]) == longest


def test_what_is_done_does_not_count_and_is_not_touched(sweep, toy_sources, tmp_path):
    results = tmp_path / "results"
    train_run(sweep.runs[1], results, toy_sources)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.rglob("*") if path.is_file()}
    names = sorted(results.rglob("*"))
    estimated = estimate_sweep(sweep, results, Execution(threads=1), 1)
    assert (estimated.arms[0].runs, estimated.arms[0].unfinished) == (3, 2)
    assert sorted(results.rglob("*")) == names
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_the_size_of_a_checkpoint_is_about_right(sweep, toy_sources, tmp_path):
    from stableft.config.planned_run import RunInterrupted
    from stableft.records.run_record import CHECKPOINT_FILE, run_folder

    line = estimate_sweep(sweep, tmp_path / "none", Execution(threads=1), 1).arms[0]
    with pytest.raises(RunInterrupted):
        train_run(sweep.runs[0], tmp_path, toy_sources, stop_at=3)
    size = (run_folder(tmp_path, sweep.runs[0].run_id) / CHECKPOINT_FILE).stat().st_size
    assert 0.5 < line.cost.checkpoint_bytes / size < 1.5


def test_an_estimate_does_not_change_a_run(sweep, toy_sources, tmp_path):
    """The probe trains a copy: the kept checkpoint and what the run draws are as without it."""
    run = sweep.runs[0]
    before = train_run(run, tmp_path / "before", toy_sources)
    estimate_sweep(sweep, tmp_path / "none", Execution(threads=1), 1)
    torch.manual_seed(0)
    assert train_run(run, tmp_path / "after", toy_sources).evals == before.evals


def test_an_estimate_finds_what_the_user_got_wrong(sweep, toy_run, toy_sources, tmp_path):
    runs = (toy_run(reinit={"pooler": True, "blocks": 9}),)
    with pytest.raises(UserError, match=r"reinit\.blocks"):
        estimate_sweep(Sweep("toy", sweep.path, runs, toy_sources), tmp_path / "results", Execution(), 1)
    assert not (tmp_path / "results").exists()


def test_what_is_trained_first_and_what_pauses(toy_run, toy_sources, tmp_path):
    parent = replace(toy_run(seeds={"init": 9, "data": 9}), arm=START_ARM)
    start = StartFrom(run=parent.run_id, checkpoint="last")
    runs = tuple(toy_run(seeds={"init": seed, "data": seed}, start_from=start) for seed in range(4))
    rules = {run.run_id: EarlyStoppingRule(after=0.3, lowest=0.5) for run in runs}
    sweep = Sweep("toy", tmp_path / "toy.yaml", runs, toy_sources, (), (parent,), rules)
    estimated = estimate_sweep(sweep, tmp_path / "results", Execution(threads=1), 1)
    first, line = estimated.arms
    assert first.arm == f"{START_ARM} {parent.run_id}"
    assert (first.runs, first.unfinished, line.unfinished, line.paused) == (1, 1, 4, 4)
    assert line.saved_share == pytest.approx(0.35)
    assert first.cost.disk_bytes > first.cost.checkpoint_bytes / 3  # its weights are kept
    text = render_estimate(estimated)
    assert re.search(rf"run {parent.run_id} \(recipe on toy, seed 9\), .* 4 runs .*first", text)
    assert "5 runs left" in text
    assert re.search("checkpoints of 4 runs .*pause", text)
    assert not (tmp_path / "results").exists()


@pytest.fixture
def family(toy_run):
    """Returns a maker of a run and of two others that start from it."""

    def make(seed: int, **settings):
        parent = replace(toy_run(seeds={"init": seed, "data": seed}, **settings), arm=START_ARM)
        start = StartFrom(run=parent.run_id, checkpoint="last")
        return parent, [toy_run(seeds={"init": child, "data": child}, start_from=start) for child in range(2)]

    return make


def lines_of(sweep: Sweep, results, **options) -> tuple[list[tuple[str, int, int]], str]:
    estimated = estimate_sweep(sweep, results, Execution(threads=1), 1, **options)
    return [(line.arm, line.runs, line.unfinished) for line in estimated.arms], render_estimate(estimated)


def test_every_parent_has_a_line_of_its_own_and_counts_once(sweep, family, tmp_path):
    (one, runs), (two, more) = family(8), family(9, **{"schedule.length": {"epochs": 4}})
    own = replace(one, arm="own")
    sweep = replace(sweep, runs=(own, *runs, *more), start_runs=(one, two))
    estimated = estimate_sweep(sweep, tmp_path / "results", Execution(threads=1), 1)
    assert [(line.arm, line.runs, line.unfinished) for line in estimated.arms] == [
        (f"{START_ARM} {one.run_id}", 1, 1), (f"{START_ARM} {two.run_id}", 1, 1), ("own", 1, 0), ("arm", 4, 4)
    ]  # fmt: skip
    first, second = (line.cost.steps for line in estimated.arms[:2])
    assert first != second
    assert "6 runs left" in render_estimate(estimated)


def test_an_arm_that_shares_runs_has_their_cost(sweep, tmp_path):
    shared = tuple(replace(run, arm="again") for run in sweep.runs[:2])
    estimated = estimate_sweep(replace(sweep, runs=(*sweep.runs, *shared)), tmp_path, Execution(threads=1), 1)
    first, again = estimated.arms
    assert (again.runs, again.unfinished, again.shared, again.cost) == (2, 0, 2, first.cost)
    text = render_estimate(estimated)
    assert re.search(r"^again +toy +2 +0, 2 as above +14 ", text, re.MULTILINE)
    assert re.search(r"^3 runs left: 0:00:\d\d of device time on cpu ", text, re.MULTILINE)


@pytest.mark.parametrize("status", ["crashed", "finished"])
def test_runs_with_nothing_to_start_from_are_not_left(sweep, family, tmp_path, status):
    parent, runs = family(9)
    save_record(tmp_path, make_record(parent, status).model_copy(update={"reason": "the loss was nan"}))
    sweep = replace(sweep, runs=(*sweep.runs, *(replace(run, arm="child") for run in runs)), start_runs=(parent,))
    lines, text = lines_of(sweep, tmp_path)
    assert lines == [("arm", 3, 3), ("child", 2, 0)]
    assert "3 runs left" in text
    assert "from which 2 runs start, " in text
    assert "they are not run" in text
    assert "is trained first" not in text
    if status == "crashed":
        lines, text = lines_of(sweep, tmp_path, retry_crashed=True)
        assert [left for *_, left in lines] == [1, 3, 2]
        assert "is trained first" in text


def test_stopped_runs_are_done_only_while_they_rank_as_hopeless(sweep, toy_run, tmp_path):
    runs = [toy_run(seeds={"init": seed, "data": seed}) for seed in range(4)]
    for run, score in zip(runs, (0.2, 0.4, 0.6, 0.8), strict=True):
        point = EvalPoint(step=7, epoch=1.0, train_loss=0.5, val_loss=0.5, val={run.config.selection_metric: score})
        status = "stopped" if score < 0.5 else "finished"
        save_record(tmp_path, make_record(run).model_copy(update={"status": status, "evals": (point,)}))
    length = runs[0].config.schedule.length
    share = 1.0 / length.epochs if length.epochs else 7 / length.steps
    for rule, planned, left, paused in (
        (EarlyStoppingRule(after=share, lowest=0.5), runs, 0, 0),
        (EarlyStoppingRule(after=share, lowest=0.25), runs, 1, 0),  # the second lowest is taken up again
        (EarlyStoppingRule(after=share + 0.2, lowest=0.5), runs, 2, 2),  # they have not come so far: the rank is open
        (EarlyStoppingRule(after=share, lowest=0.5), [*runs, toy_run(seeds={"init": 4, "data": 4})], 3, 3),
        (None, runs, 2, 0),
    ):
        rules = {run.run_id: rule for run in planned} if rule else {}
        (line,) = estimate_sweep(
            replace(sweep, runs=tuple(planned), rules=rules), tmp_path, Execution(threads=1), 1
        ).arms
        assert (line.unfinished, line.paused) == (left, paused), rule


def test_the_money_leaves_out_commands_whose_records_have_no_price():
    trained = ArmEstimate("ours", "toy", 3, 2, RunCost(10, 3600.0, 1, 1, 1))
    command = ArmEstimate("theirs", "toy", 3, 3, RunCost(0, 3600.0, 0, 0, 0))
    for arms, words in (
        ([trained], "; 8.00 at 4 an hour of a device"),
        ([trained, command], "; 8.00 at 4 an hour of a device, which leaves commands out"),
    ):
        text = render_estimate(SweepEstimate(tuple(arms), (), "cpu", 1, price=4.0))
        assert text.endswith(words), text


def test_what_commands_cost_is_no_zero_where_it_is_not_known():
    new = ArmEstimate("theirs", "toy", 3, 3, None)
    ended = ArmEstimate("others", "toy", 3, 1, RunCost(0, 60.0, 0, 0, 0))
    for arms, words in (
        ([new], "3 runs left"),
        ([new, ended], "4 runs left: 0:01:00 of device time on cpu (one run measured alone), 0:01:00 with 1 at a time"),
    ):
        assert render_estimate(SweepEstimate(tuple(arms), (), "cpu", 1)).splitlines()[-1] == words
