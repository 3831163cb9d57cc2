"""Surfaces against models loaded and evaluated by other means, resumed, refused, and put into words."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_runs import train_run
from torch import nn
from torch.nn import functional

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted
from stableft.config.sweep_file import Sweep
from stableft.data.tokens import load_splits
from stableft.errors import UserError
from stableft.models.build import build_model, input_layout_for
from stableft.models.load import load_tokenizer
from stableft.probes import loss_surface as surface_work
from stableft.probes.loss_surface import (
    SurfaceRequest,
    find_surface_runs,
    flatten_parameters,
    list_line_points,
    make_batches,
    measure_loss,
    measure_surface,
    move_model_to,
    prepare_surface,
    read_partial_surface,
    sample_examples,
    surface_id,
)
from stableft.probes.partial_results import PARTIAL_RESULTS_FILE
from stableft.probes.saved_runs import find_run, find_runs_with_weights, show_probe_progress
from stableft.probes.surface_command import (
    SURFACE_FIGURES,
    describe_surface,
    find_minimax_path_loss,
    read_stored_surface,
)
from stableft.records.probe_record import PROBES_FILE, PROBES_FOLDER, SurfaceRecord
from stableft.records.run_record import run_folder, write_record
from stableft.report.figures.from_surfaces import panel_from_surface, surface_caption
from stableft.report.figures.maps import choose_contour_levels
from stableft.sweep.claims import claim_run
from stableft.training.evaluate import evaluate

CPU = torch.device("cpu")
SWEEP = """
task: {{name: toy, train: {data}/train.csv, validation: {data}/validation.csv, test: {data}/test.csv,
       text: [first, second], label: label, labels: ["no", "yes"], metrics: [accuracy, f1]}}
model: {model}
recipe: mosbach
seeds: 1
set: {{data.max_length: 32}}
"""


@pytest.fixture(scope="module")
def runs(toy_run, toy_sources, tmp_path_factory):
    """Returns a results folder with the ids of a run that failed and of one that did not."""
    results = tmp_path_factory.mktemp("results")
    short, long = ({"schedule.length": {"epochs": n}, "evaluation.every": {"times": 1}} for n in (1, 20))
    failed = train_run(toy_run(**short, seeds={"init": 2, "data": 2}), results, toy_sources, save="last")
    successful = train_run(toy_run(**long), results, toy_sources, save="last")
    assert failed.failed is True
    assert successful.failed is False
    return results, failed, successful


@pytest.fixture
def request_(runs):
    _, failed, successful = runs
    return SurfaceRequest(failed.run_id, successful.run_id, points=4, low=-0.5, high=1.5, examples=28)


@pytest.fixture
def prepare(runs, toy_sources, tmp_path):
    """Returns a maker of surfaces made ready, each in a folder of its own."""
    made = []

    def make(request: SurfaceRequest, **execution):
        pair = find_surface_runs(request, runs[0])
        folder = tmp_path / str(len(made)) / surface_id(request, pair)
        folder.mkdir(parents=True)
        made.append(folder)
        return prepare_surface(request, pair, folder, toy_sources, Execution(**{"threads": 1, **execution}))

    return make


def measured(work, stop=lambda: False) -> SurfaceRecord:
    return measure_surface(work, read_partial_surface(work), lambda *_: None, stop)


def weights_of(runs, which) -> dict[str, torch.Tensor]:
    return load_file(run_folder(runs[0], runs[which].run_id) / "model-last" / "model.safetensors")


def fresh(runs, toy_sources, point):
    """Returns loss, gradient norm and weights of a model loaded with the weights of a point, mixed in float64."""
    config = runs[1].config.normalized()  # seeds.init draws the head
    model, pretrained = build_model(config, toy_sources)
    tokenizer = load_tokenizer(config, toy_sources)
    rows, inputs = load_splits(config, toy_sources, tokenizer).train, input_layout_for(pretrained, tokenizer)
    failed, successful = weights_of(runs, 1), weights_of(runs, 2)
    mixed = {}
    for name, start in model.state_dict().items():
        start = start.double()
        mixed[name] = (start + point[0] * (failed[name] - start) + point[1] * (successful[name] - start)).float()
    model.load_state_dict(mixed)
    loss = evaluate(model, rows, config, inputs, CPU).loss
    model.eval()
    batch = make_batches(rows, np.arange(len(rows)), config, inputs, CPU, len(rows))[0]
    labels = batch.pop("labels")
    gradients = torch.autograd.grad(functional.cross_entropy(model(**batch).logits, labels), list(model.parameters()))
    return loss, sum(float(gradient.double().square().sum()) for gradient in gradients) ** 0.5, model.state_dict()


@pytest.mark.parametrize("point", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-0.7, 1.3)])
def test_a_point_is_that_of_a_model_with_its_weights(runs, toy_sources, prepare, request_, point):
    work = prepare(request_, micro_batch=8)
    loss, norm, weights = fresh(runs, toy_sources, point)
    move_model_to(work.plane, point)
    batches = make_batches(work.rows, work.example_indices, work.config, work.inputs, CPU, 8)
    found = measure_loss(work.plane.model, batches, True)
    assert found == pytest.approx((loss, norm), rel=1e-5, abs=1e-6)
    assert measure_loss(work.plane.model, batches, False) == (found[0], None)
    for name, tensor in work.plane.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-6, atol=1e-6)


def test_the_record_has_the_grid_the_line_and_the_pretrained_model(runs, toy_sources, prepare, request_):
    record = measured(prepare(request_))
    assert np.array([record.losses, record.grad_norms]).shape == (2, 4, 4)
    assert record.alphas == record.betas == pytest.approx((-0.5, 1 / 6, 5 / 6, 1.5))
    assert record.losses[0][3] == pytest.approx(fresh(runs, toy_sources, (1.5, -0.5))[0], abs=1e-5)  # [beta][alpha]
    assert record.pretrained_loss == pytest.approx(fresh(runs, toy_sources, (0, 0))[0], abs=1e-6)
    assert record.line_losses[0] == pytest.approx(fresh(runs, toy_sources, (1, 0))[0], abs=1e-6)
    assert record.line_losses[-1] == pytest.approx(fresh(runs, toy_sources, (0, 1))[0], abs=1e-6)
    assert record.line_norms[5] == pytest.approx(fresh(runs, toy_sources, (0.75, 0.25))[1], rel=1e-4)
    assert list_line_points()[5] == (0.75, 0.25)
    assert record.label_entropy == pytest.approx(np.log(2))  # of all 28 rows, whose labels alternate
    only = measured(prepare(replace(request_, loss_only=True)))
    assert only.losses == record.losses
    assert (only.grad_norms, only.line_norms, only.pretrained_norm) == (None, (), None)


def test_the_head_is_included_and_that_of_the_pretrained_model_is_drawn_from_its_seed(runs, prepare, request_):
    one, other = (measured(prepare(replace(request_, head_seed=seed))) for seed in (2, 5))
    assert one == measured(prepare(request_)).model_copy(update={"run_id": one.run_id})  # 2 is the failed run's
    assert (one.head_seed, other.head_seed) == (2, 5)
    assert one.pretrained_loss != other.pretrained_loss
    assert one.line_losses == pytest.approx(other.line_losses, abs=1e-6)  # no part of it is the pre-trained model's
    plane = prepare(request_).plane
    move_model_to(plane, (1.0, 0.0))
    torch.testing.assert_close(plane.model.state_dict()["classifier.weight"], weights_of(runs, 1)["classifier.weight"])


def test_the_shared_checkpoint_is_left_alone(runs, toy_sources, prepare, request_):
    config = runs[1].config.normalized()
    before = {name: tensor.clone() for name, tensor in build_model(config, toy_sources)[0].state_dict().items()}
    measured(prepare(request_))
    after = build_model(config, toy_sources)[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tied_parameters_are_in_the_buffer_once():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    flat = flatten_parameters(model)
    assert len(flat) == 2 * 64
    assert float(flat.sum()) == pytest.approx(float((first.weight.sum() + second.bias.sum()).detach()), abs=1e-6)
    flat.fill_(2.0)
    assert first.weight is second.weight
    assert float(second.weight.detach().sum()) == 18


def test_numbers_have_a_squared_error_and_no_entropy():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor([2.0]))

        def forward(self, x):
            return type("Output", (), {"logits": self.slope * x})

    labels = torch.tensor([1.0, 2.0, 3.0])
    batches = [{"x": torch.ones(2, 1), "labels": labels[:2]}, {"x": torch.ones(1, 1), "labels": labels[2:]}]
    assert measure_loss(Model(), batches, True) == pytest.approx((2 / 3, 0.0))
    batches[1]["x"] = torch.full((1, 1), 2.0)
    assert measure_loss(Model(), batches, True) == pytest.approx((2 / 3, 2.0))  # 2/3 * ((2-1)*1 + (2-2)*1 + (4-3)*2)


def test_examples_are_drawn_from_their_seed_and_the_longest_come_first(prepare, request_):
    rows = prepare(request_).rows
    one, again, other = (sample_examples(rows, 10, seed) for seed in (0, 0, 1))
    assert list(one) == list(again)
    assert set(one) != set(other)
    assert len(set(one)) == 10
    lengths = np.diff(rows.offsets)[one]
    assert list(lengths) == sorted(lengths, reverse=True)


@pytest.mark.parametrize("at", [0, 1, 23, 37])
def test_an_interrupted_one_goes_on_bit_by_bit(prepare, request_, at):
    whole = measured(prepare(request_))
    work, calls = prepare(request_), []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > at

    with pytest.raises(RunInterrupted):
        measured(work, stop)
    kept = read_partial_surface(work)
    assert kept is not None
    assert len(kept.values) == at
    seen = []
    record = measure_surface(work, kept, lambda done, value: seen.append(done), lambda: False)
    assert record == whole
    assert seen == list(range(at + 1, 39))
    assert read_stored_surface(work.folder) == whole


def test_points_measured_in_another_way_are_not_gone_on_with(prepare, request_, capsys):
    work = prepare(request_)
    with pytest.raises(RunInterrupted):
        measured(work, lambda: True)
    other = replace(work, facts={**work.facts, "threads": 7})
    with pytest.raises(UserError, match=r"0 points .*threads 1.* 7.*delete"):
        read_partial_surface(other)
    path = work.folder / PARTIAL_RESULTS_FILE
    path.write_text(path.read_text().replace('"rows":28', '"rows":27'))
    assert read_partial_surface(work) is None
    assert re.search("cannot .*read.*set aside", capsys.readouterr().out)
    assert (work.folder / f"{PARTIAL_RESULTS_FILE}.damaged-1").exists()


@pytest.fixture
def command(runs, toy_data, tiny_model_folder, workplace):
    """Returns the arguments of a surface of 16 points, the results of the runs being in a folder of the test."""
    import shutil

    shutil.copytree(runs[0], "results")
    Path("toy.yaml").write_text(SWEEP.format(data=toy_data, model=tiny_model_folder))
    ends = ["--failed", runs[1].run_id[:8], "--successful", runs[2].run_id[:8]]
    return ["probe", "surface", *ends, "--config", "toy.yaml", "--device", "cpu", "--examples", "16", "--points", "4"]


def test_the_command_measures_once_and_shows_again(stableft, command):
    code, out, err = stableft(*command)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "loss and gradient norm of tiny" in lines[0]
    assert "at 38 points, 16 examples of toy" in lines[0]
    assert [line.split()[0] for line in lines if line.startswith(("pre-trained", "failed", "successful"))] == [
        *("pre-trained", "failed", "successful")
    ]
    folder = next(Path("results", PROBES_FOLDER).iterdir())
    assert {path.name for path in folder.iterdir()} == {PROBES_FILE, *SURFACE_FIGURES.values()}
    before = (folder / PROBES_FILE).read_bytes(), (folder / PROBES_FILE).stat().st_mtime_ns
    (folder / SURFACE_FIGURES["loss"]).unlink()
    code, again, _ = stableft(*command)
    assert code == 0
    assert re.search("surface .*done", again.splitlines()[0])
    assert again.splitlines()[1:] == lines[1:]
    assert (folder / SURFACE_FIGURES["loss"]).exists()
    assert ((folder / PROBES_FILE).read_bytes(), (folder / PROBES_FILE).stat().st_mtime_ns) == before
    assert stableft(*command, "--loss-only")[0] == 0
    assert len(list(Path("results", PROBES_FOLDER).iterdir())) == 2


def test_runs_with_weights_are_found_in_a_sweep(runs):
    results, failed, successful = runs
    planned = [PlannedRun("a", "mosbach", record.config, "last") for record in (successful, failed)]
    sweep = Sweep("s", Path("s.yaml"), tuple(planned), LocalPaths())
    found = find_runs_with_weights(results, sweep, "last")
    assert [record.run_id for record in found] == [successful.run_id, failed.run_id]
    assert [record.run_id for record in find_runs_with_weights(results, sweep, "last", True)] == [failed.run_id]
    assert [record.run_id for record in find_runs_with_weights(results, sweep, "last", False)] == [successful.run_id]
    with pytest.raises(UserError, match=r"s\.yaml: .* has no failed run of it with best weights; .*--save best"):
        find_runs_with_weights(results, sweep, "best", True)


def test_the_runs_are_those_of_the_sweep_if_none_is_named(stableft, command, monkeypatch):
    found = iter([command[3], command[5]])
    whole = stableft(*command)[1].splitlines()
    monkeypatch.setattr(
        "stableft.probes.saved_runs.find_runs_with_weights",
        lambda results, sweep, *_, **__: [find_run(results, next(found))] if len(sweep.runs) == 9 else [],
    )
    code, out, err = stableft(*command[:2], *command[6:], "--seeds", "1-9", "--set", "optimizer.lr=1.0")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == whole[1:]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["surface"], "probe surface: give --failed RUN and --successful RUN, or --config"),
        (["surface", "--failed", "a", "--seeds", "1"], "--seeds: .*name the sweep too"),
        (["surface", "--config", "rte", "--arms", "devlin"], "has no failed run of it with last weights"),
        (["perplexity"], "probe perplexity: give ids of runs, or --config"),
        (["perplexity", "--config", "rte", "--seeds", "1"], "has no finished run of it with last weights"),
        (["perplexity", "--config", "rte", "--set", "optimizer.lrr=1"], r"key 'optimizer\.lrr' is not known"),
    ],
)
def test_no_runs_to_probe(stableft, workplace, arguments, facts):
    code, out, err = stableft("probe", *arguments)
    assert (code, out) == (2, "")
    assert re.search(facts, err)


def test_two_processes_are_not_at_one_surface(stableft, command, runs):
    pair = find_surface_runs(SurfaceRequest(runs[1].run_id, runs[2].run_id, points=4, examples=16), Path("results"))
    request = SurfaceRequest(command[3], command[5], points=4, examples=16)
    with claim_run(Path("results", PROBES_FOLDER, surface_id(request, pair))):
        code, _, err = stableft(*command)
    assert code == 2
    assert re.search("another process .*surface", err)


@pytest.mark.faults
def test_ctrl_c_keeps_the_points(stableft, command, monkeypatch):
    assert stableft(*command, "--results", "whole")[0] == 2  # there are no such runs
    original, calls = surface_work.measure_points, []

    def interrupting(*arguments):
        for value in original(*arguments):
            calls.append(1)
            if len(calls) == 7:
                signal.raise_signal(signal.SIGINT)
            yield value

    monkeypatch.setattr(surface_work, "measure_points", interrupting)
    code, out, _ = stableft(*command)
    assert code == 130
    assert re.match("Interrupted after 7 of 38 points.*same command", out.splitlines()[-1])
    code, out, _ = stableft(*command)
    assert code == 0
    assert re.search("; 7 points .*done", out.splitlines()[0])


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_kill_changes_no_bit(stableft, command, tmp_path):
    torch.set_num_threads(1)
    assert stableft(*command, "--points", "12")[0] == 0
    (folder,) = Path("results", PROBES_FOLDER).iterdir()
    whole = (folder / PROBES_FILE).read_bytes()
    (folder / PROBES_FILE).unlink()
    program = "import sys, torch; torch.set_num_threads(1); import stableft.probes.partial_results as store; "
    program += "store.SAVE_SECONDS = 0.0; from stableft.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, "--points", "12"], stdout=subprocess.DEVNULL, env={**os.environ}
    )
    while not (folder / PARTIAL_RESULTS_FILE).exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / PROBES_FILE).exists()
    code, out, _ = stableft(*command, "--points", "12")
    assert code == 0
    assert " points are done" in out.splitlines()[0]
    assert (folder / PROBES_FILE).read_bytes() == whole
    assert not (folder / PARTIAL_RESULTS_FILE).exists()


def test_what_makes_no_sense_is_refused(runs, request_, prepare, tmp_path):
    _, failed, successful = runs
    cases = {
        f"--failed {successful.run_id}: .*arm toy.* not fail.*last accuracy": replace(
            request_, failed=successful.run_id
        ),
        f"--successful {failed.run_id}: .*arm toy.* failed.*last accuracy": replace(request_, successful=failed.run_id),
        "--examples 29: .* 28 rows": replace(request_, examples=29),
        "--range 1 1: .*lower .*first": replace(request_, low=1.0, high=1.0),
        "its best weights were not kept": replace(request_, checkpoint="best"),
        "has no such run": replace(request_, failed="0123"),
    }
    for facts, request in cases.items():
        with pytest.raises(UserError, match=facts):
            prepare(request)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"data.max_length": 16}, "differ .*data.max_length, 32 .* 16"),
        ({"data.segment_ids": False}, "differ .*data.segment_ids, True .*False"),
        ({"data.train_rows": 20, "data.sample_seed": 0}, "differ .*data.train_rows, None .* 20"),
    ],
)
def test_runs_that_are_not_alike_are_refused(runs, toy_run, tmp_path, request_, change, facts):
    _, failed, successful = runs
    other = toy_run(**change)
    for record in (failed, successful.model_copy(update={"config": other.config, "run_id": other.run_id})):
        run_folder(tmp_path, record.run_id).mkdir(parents=True)
        write_record(tmp_path, record)
    with pytest.raises(UserError, match=facts):
        find_surface_runs(replace(request_, successful=other.run_id), tmp_path)


def test_weights_that_are_not_finite_or_of_another_model_are_refused(runs, toy_sources, prepare, request_, tmp_path):
    pair = find_surface_runs(request_, runs[0])
    tensors = weights_of(runs, 1)
    broken, longer = tmp_path / "broken.safetensors", tmp_path / "longer.safetensors"
    save_file({**tensors, "classifier.bias": torch.tensor([0.0, float("nan")])}, broken)
    save_file({**tensors, "classifier.more": torch.zeros(2)}, longer)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    for name, sentence in (("broken", "are not all finite"), ("longer", "has classifier.more"), ("no", "holds no wei")):
        wrong = replace(pair, failed_weights=tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=f"run {runs[1].run_id}: .*{sentence}"):
            prepare_surface(request_, wrong, tmp_path, toy_sources, Execution(threads=1))


def test_data_that_has_changed_is_refused(runs, toy_sources, request_, tmp_path):
    pair = find_surface_runs(request_, runs[0])
    assert pair.failed.data
    data = pair.failed.data.model_copy(update={"fingerprint": "f" * 64})
    wrong = replace(pair, failed=pair.failed.model_copy(update={"data": data}))
    with pytest.raises(UserError, match=r"fingerprint f{16}"):
        prepare_surface(request_, wrong, tmp_path, toy_sources, Execution(threads=1))


def test_everything_that_can_change_a_number_changes_the_id(runs, request_, tmp_path):
    pair = find_surface_runs(request_, runs[0])
    (tmp_path / "other").write_bytes(b"other weights")
    ids = {surface_id(request_, pair), surface_id(request_, replace(pair, failed_weights=tmp_path / "other"))}
    ids.add(surface_id(request_, replace(pair, head_seed=9)))
    changes = {"points": 5, "low": -1.0, "high": 1.0, "examples": 7, "examples_seed": 1, "loss_only": True}
    ids |= {surface_id(replace(request_, **{key: value}), pair) for key, value in changes.items()}
    assert len(ids) == 3 + len(changes)
    assert all(len(one) == 16 for one in ids)


def hand_made(losses, line_losses, norms=None, **given) -> SurfaceRecord:
    n = len(losses)
    values = {
        "run_id": "0" * 16,
        **{"model": "tiny", "task": "toy", "failed": "a", "successful": "b", "checkpoint": "last"},
        **{"head_seed": 1, "examples": 4, "examples_seed": 0, "label_entropy": 0.69},
        **{"alphas": tuple(np.linspace(0, 1, n)), "betas": tuple(np.linspace(0, 1, n))},
        **{"losses": tuple(map(tuple, losses)), "grad_norms": None if norms is None else tuple(map(tuple, norms))},
        **{"pretrained_loss": 0.7, "line_losses": tuple(line_losses)},
    }
    if norms is not None:
        values |= {"pretrained_norm": 2.0, "line_norms": tuple(norms[0][:1]) * len(line_losses)}
    return SurfaceRecord.model_validate({**values, **given})


def test_the_lowest_pass_by_hand():
    wall = np.array([[0.7, 0.9, 0.1], [0.7, 0.8, 0.1], [0.7, 2.0, 0.1]])
    assert find_minimax_path_loss(wall, (0, 0), (0, 2)) == 0.8
    assert find_minimax_path_loss(np.array([[0.7, 9.0, 9.0], [9.0, 0.6, 9.0], [9.0, 9.0, 0.1]]), (0, 0), (2, 2)) == 0.7
    assert find_minimax_path_loss(np.array([[0.7, np.nan, 0.1]]), (0, 0), (0, 2)) == np.inf


def test_words_come_from_the_numbers():
    grid = np.full((11, 11), 0.75)
    grid[0, 10], grid[10, 0], grid[5, 5] = 0.69, 0.01, 5.0
    norms = np.full((11, 11), 4.0)
    norms[0, 0] = 1.0
    text = describe_surface(hand_made(grid, [0.69, 0.9, 1.0, 0.5, 0.01], norms))
    assert re.search(r" 1, 50% .*barrier 0\.31 .* 0\.69 and 0\.01\.", text)
    assert re.search(r"path .*grid .* 0\.75, 0\.06 above", text)
    assert re.search(r"failed model's loss .* 0\.69, .*entropy .* 0\.69: .*nothing", text)
    assert re.search(r"gradient norm .*failed model .* 1, 0\.5 times .*pre-trained .* 0%", text)
    assert "lowest on the grid  0      1     0.01  4" in text
    grid[0], grid[:, 0] = 0.3, np.linspace(0.3, 0.01, 11)
    text = describe_surface(hand_made(grid, [0.3, 0.2, 0.1], label_entropy=None))
    assert re.search(r" 0\.3 and 0\.1: no barrier", text)
    assert re.search("grid .*never rises", text)
    assert "gradient" not in text
    assert "entropy" not in text
    assert "over the grid" not in describe_surface(hand_made(grid[::5, ::5], [0.3, 0.2, 0.1]))  # too coarse to tell
    assert "is not finite everywhere" in describe_surface(hand_made(grid, [0.3, np.nan, 0.1]))


def test_panels_show_levels_around_the_failed_model():
    grid = np.geomspace(1e-5, 4.0, 121).reshape(11, 11)
    record = hand_made(grid, [0.69, 0.9, 0.01], 10 * grid)
    loss, norm = panel_from_surface(record, "loss", "toy"), panel_from_surface(record, "grad_norm", "toy")
    assert (loss.zlabel, norm.zlabel) == ("cross-entropy", "gradient norm")
    assert [place.label for place in loss.places] == ["pre-trained", "failed", "successful"]
    levels = choose_contour_levels([loss])
    assert levels == [0.2, 0.25, 0.32, 0.4, 0.5, 0.63, 0.79, 1, 1.3, 1.6, 2, 2.5, 3.2, 4]  # ten a decade
    higher = panel_from_surface(hand_made(grid * 100, [0.69, 0.9, 0.01]), "loss", "toy")
    assert choose_contour_levels([higher, loss])[:5] == [0.16, 0.25, 0.4, 0.63, 1]  # ten a decade would be 34
    levels = choose_contour_levels([norm])
    assert (levels[:3], levels[-2:], len(levels)) == ([1e-4, 3.2e-4, 1e-3], [32, 100], 13)  # of 1e-4 to 40
    assert panel_from_surface(hand_made(grid, [1, 1]), "grad_norm", "toy").missing.startswith(
        "This surface was computed"
    )
    assert (
        panel_from_surface(hand_made(grid * np.nan, [1, 1]), "loss", "toy").missing
        == "None of these numbers is finite."
    )
    flat = choose_contour_levels([panel_from_surface(hand_made(0.66 + grid / 100, [1, 1]), "loss", "toy")])
    assert sum(0.66 < level < 0.7 for level in flat) >= 4  # where the usual ones are too far apart
    assert np.diff(flat) == pytest.approx(flat[1] - flat[0])
    far = hand_made(grid, [1, 1], alphas=tuple(np.linspace(0.5, 2, 11)))
    assert [place.label for place in panel_from_surface(far, "loss", "toy").places] == ["failed"]
    assert panel_from_surface(hand_made(grid, [1], label_entropy=None), "loss", "toy").zlabel == "mean squared error"
    assert "drawn with seed 1" in surface_caption(record)


def test_progress_counts_what_was_done_before_but_not_as_fast(monkeypatch, capsys):
    monkeypatch.setattr("stableft.text.LINE_SECONDS", 0.0)
    with show_probe_progress(20, before=10) as tick:
        time.sleep(0.1)
        tick("point 11/20", 1)
    line = capsys.readouterr().out
    assert line.startswith("point 11/20  55%  ETA 0:00:0")
    assert line.rstrip()[-1] in "123456789"  # nine more tenths of a second, or more
