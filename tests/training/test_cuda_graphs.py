"""What a run does with recorded updates, or without, on a CPU, where stand-ins record. On a GPU: `test_on_gpu`."""

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from stableft.config.planned_run import Execution
from stableft.training.cuda_graphs import MAX_GRAPHS, RecordedUpdate, RecordedUpdates
from stableft.training.outputs import evaluate_model
from stableft.training.setup import prepare_run
from stableft.training.step import train_on_batch

CPU = torch.device("cpu")
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class FailedRecording:
    """As `RecordedUpdates` if the recording of the first update fails."""

    given_up = False
    recorded: dict = {}  # noqa: RUF012

    def run(self, batches, variant, update) -> None:
        if not self.given_up:
            with contextlib.suppress(torch.OutOfMemoryError):
                update(batches)
            self.given_up = True

    def give_up(self) -> bool:
        return False


def test_an_update_whose_optimizer_cannot_be_recorded_is_launched(toy_run, toy_sources, tmp_path, monkeypatch):
    """Its gradients are unscaled by then, which the scaler would do only once."""
    job, state = prepare_run(toy_run(precision="fp16"), tmp_path, toy_sources, Execution(threads=1))

    def update() -> None:
        train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, job.inputs, job.device)

    update()
    state.graphs = FailedRecording()  # pyright: ignore[reportAttributeAccessIssue]
    real, calls = state.optimizer._update_group, []

    def fail_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*arguments)

    monkeypatch.setattr(state.optimizer, "_update_group", fail_once)
    scale = state.scaler.get_scale()
    update()
    assert len(calls) > 1
    assert state.step == 2
    assert state.scaler.get_scale() == scale


class CalledAgain:
    """A graph whose replay calls the update once more."""

    def __init__(self, update, inputs):
        self.update, self.inputs, self.numbers = update, inputs, update(inputs)

    def replay(self) -> None:
        for number, new in zip(self.numbers, self.update(self.inputs), strict=True):
            if number is not None:
                number.copy_(new)


class UpdatesCalledAgain(RecordedUpdates):
    """All of `RecordedUpdates` but the recording."""

    def _record(self, key, batches, update) -> bool:
        graph: Any = CalledAgain(
            update, [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
        )
        self.recorded[key] = RecordedUpdate(graph, graph.inputs, graph.numbers)
        return True


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=NEEDS_GPU)])
def test_shapes_beyond_the_limit_are_launched(device, monkeypatch):
    """Those before are launched once, then replayed, with the numbers of their own batch, until graphs are freed."""
    graphs = (UpdatesCalledAgain if device == "cpu" else RecordedUpdates)(torch.device(device))
    if device == "cpu":
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which needs a GPU
    launched, shapes = Counter[tuple](), [(width, twice) for width in range(1, MAX_GRAPHS // 2 + 2) for twice in (0, 1)]

    def launch_or_replay(width: int, twice: int) -> None:
        def update(batches):
            return batches[0]["x"].sum() * (1 + twice), None

        x = torch.randn(width)
        if numbers := graphs.run([{"x": x}], twice, update):
            assert numbers[1] is None
        else:
            launched[width, twice] += 1
            numbers = update([{"x": x.to(device)}])
        assert float(numbers[0]) == pytest.approx(float(x.sum()) * (1 + twice), rel=1e-4, abs=1e-5)

    for _ in range(3):
        for shape in shapes:
            launch_or_replay(*shape)
    assert len(graphs.recorded) == MAX_GRAPHS == len(shapes) - 2
    assert launched == Counter(dict.fromkeys(shapes[:-2], 1) | dict.fromkeys(shapes[-2:], 3))
    assert [graphs.give_up() for _ in range(2)] == [True, False]
    for shape in shapes:
        launch_or_replay(*shape)
    assert not graphs.recorded
    assert launched == Counter(dict.fromkeys(shapes[:-2], 2) | dict.fromkeys(shapes[-2:], 4))


@pytest.fixture
def full(monkeypatch):
    """Returns a function that gives a state a graph, beside which, and without which, so many rows fit in memory."""

    def fill(state, beside: int, alone: int) -> list[int]:
        graph: Any = None
        state.graphs = RecordedUpdates(CPU, {"another shape": RecordedUpdate(graph, [], ())})
        forward, sizes = BertForSequenceClassification.forward, []

        def limited(self, input_ids, **inputs):
            outputs = forward(self, input_ids, **inputs)  # dropout has drawn before the memory is gone
            sizes.append(len(input_ids))
            if sizes[-1] > (beside if state.graphs.recorded else alone):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return outputs

        monkeypatch.setattr(BertForSequenceClassification, "forward", limited)
        return sizes

    return fill


@pytest.mark.parametrize(("alone", "fitting", "sizes"), [(12, None, [12, 12]), (6, 6, [12, 12, 6, 6])])
@pytest.mark.parametrize("beside", [6, 0])
def test_evaluation_frees_the_graphs_before_it_halves_its_batch(
    toy_run, toy_sources, tmp_path, full, beside, alone, fitting, sizes
):
    """12 rows, of which 6 fit beside the graphs, or none."""
    run = toy_run(**{"evaluation.batch_size": 12})
    job, state = prepare_run(run, tmp_path, toy_sources, Execution(threads=1))
    expected = evaluate_model(job, state, job.splits.val)
    assert len(expected.values) == 12
    tried = full(state, beside=beside, alone=alone)
    outputs = evaluate_model(job, state, job.splits.val)
    assert state.graphs
    assert (state.graphs.given_up, state.graphs.recorded) == (True, {})
    assert tried == sizes
    assert (state.eval_batch, state.eval_halved_at) == (fitting, [0] * (fitting is not None))
    if fitting is None:
        assert outputs.values.tobytes() == expected.values.tobytes()
    np.testing.assert_allclose(outputs.values, expected.values, rtol=1e-5, atol=1e-6)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("begun", "alone", "fitting"), [(4, 4, 4), (4, 3, 2), (1, 1, 1)])
def test_an_update_frees_the_graphs_before_it_halves_its_micro_batch(
    toy_run, toy_sources, tmp_path, full, begun, alone, fitting
):
    """One of a single row too, which cannot be halved."""
    weights = []
    for folder, micro_batch in (("plain", fitting), ("full", begun)):
        job, state = prepare_run(toy_run(), tmp_path / folder, toy_sources, Execution(threads=1))
        torch.manual_seed(3)
        state.micro_batch = micro_batch
        if folder == "full":
            full(state, beside=0, alone=alone)
        train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, job.inputs, job.device)
        weights.append([weight.detach().clone() for weight in state.model.parameters()])
        assert state.micro_batch == fitting
    assert state.graphs
    assert (state.graphs.given_up, state.graphs.recorded) == (True, {})
    assert state.halved == len(state.halved_at) == (begun > fitting)
    assert all(map(torch.equal, *weights))
