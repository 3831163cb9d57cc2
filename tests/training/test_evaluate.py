import numpy as np
import pytest
import torch
from torch.nn import functional

from stableft.config.planned_run import Execution
from stableft.data.tokens import collate
from stableft.training.evaluate import evaluate, loss_sum
from stableft.training.setup import prepare_run


@pytest.fixture(scope="module")
def ready(toy_run, toy_sources, tmp_path_factory):
    return prepare_run(toy_run(), tmp_path_factory.mktemp("results"), toy_sources, Execution())


def one_by_one(job, state) -> torch.Tensor:
    state.model.eval()
    outputs = []
    for i in range(len(job.splits.val)):
        batch = collate(job.splits.val, np.array([i]), job.inputs, job.config.data)
        del batch["labels"]
        with torch.no_grad():
            outputs.append(state.model(**batch).logits[0])
    state.model.train()
    return torch.stack(outputs)


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_outputs_are_in_the_order_of_the_rows(ready, toy_run, batch_size):
    job, state = ready
    config = toy_run(**{"evaluation.batch_size": batch_size}).config
    lengths = np.diff(job.splits.val.offsets)
    assert len(set(lengths)) > 3  # otherwise the order would not be tested
    outputs = evaluate(state.model, job.splits.val, config, job.inputs, job.device)
    expected = one_by_one(job, state)
    torch.testing.assert_close(torch.from_numpy(outputs.values), expected, rtol=1e-5, atol=1e-6)
    assert outputs.values.dtype == np.float32
    loss = functional.cross_entropy(expected, torch.from_numpy(job.splits.val.labels))
    assert outputs.loss == pytest.approx(loss.item(), rel=1e-5)


def test_evaluation_draws_nothing_and_leaves_no_trace(ready):
    job, state = ready
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    random = torch.get_rng_state()
    first = evaluate(state.model, job.splits.val, job.config, job.inputs, job.device)
    second = evaluate(state.model, job.splits.val, job.config, job.inputs, job.device)
    assert np.array_equal(first.values, second.values)
    assert torch.equal(torch.get_rng_state(), random)
    assert state.model.training
    assert all(p.grad is None for p in state.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in state.model.state_dict().items())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision_is_close_and_comes_back_as_float32(ready, toy_run, precision, tolerance):
    job, state = ready
    outputs = evaluate(state.model, job.splits.val, toy_run(precision=precision).config, job.inputs, job.device)
    exact = evaluate(state.model, job.splits.val, job.config, job.inputs, job.device)
    assert outputs.values.dtype == np.float32
    assert not np.array_equal(outputs.values, exact.values)
    np.testing.assert_allclose(outputs.values, exact.values, atol=tolerance)


def test_losses_are_summed_in_float32():
    outputs = torch.tensor([[1.0, 2.0], [60000.0, 0.0]], dtype=torch.float16)
    assert loss_sum(outputs, torch.tensor([0, 1])).item() == pytest.approx(60001.3133, rel=1e-6)
    values = torch.tensor([[1.0], [300.0]], dtype=torch.float16)  # 300 squared is not a float16
    assert loss_sum(values, torch.tensor([0.0, 0.0])).item() == 90001.0
