"""Micro-batches: the same update in pieces, chosen by the user or by running out of memory."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from support.training_runs import add_model_folder, read_history, run_outputs, train_run, write_tiny_bert
from transformers import BertForSequenceClassification

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.training.outputs import evaluate_model
from stableft.training.setup import prepare_run
from stableft.training.step import train_on_batch


@pytest.fixture
def limit(monkeypatch):
    """Returns a function that makes the model run out of memory above so many rows, in training or evaluation."""
    failed = [0]

    def set_limit(training: int = 10**9, evaluation: int = 10**9) -> list[int]:
        forward = BertForSequenceClassification.forward
        sizes: list[int] = []

        def limited(self, input_ids, **inputs):
            outputs = forward(self, input_ids, **inputs)  # dropout has drawn before the memory is gone
            if len(input_ids) > (training if self.training else evaluation):
                failed[0] += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(input_ids))
            return outputs

        monkeypatch.setattr(BertForSequenceClassification, "forward", limited)
        return sizes

    set_limit.failed = failed
    return set_limit


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_pieces_give_the_losses_of_the_whole(toy_run, toy_sources, tmp_path, micro_batch):
    run = toy_run(**{"model.dropout": 0.0, "schedule.batch_size": 8})  # 28 rows: the last batch has 4
    whole = train_run(run, tmp_path / "whole", toy_sources)
    pieces = train_run(run, tmp_path, toy_sources, micro_batch=micro_batch)
    ours, theirs = (read_history(folder, run) for folder in (tmp_path, tmp_path / "whole"))
    assert len(ours) == len(theirs) == 8
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=1e-5, abs=1e-5)
    assert whole.environment
    assert pieces.environment
    assert (whole.environment.micro_batch, pieces.environment.micro_batch) == (8, micro_batch)
    assert whole.environment.micro_batch_halved == pieces.environment.micro_batch_halved == 0


@pytest.mark.faults
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("rows", "halved"), [(4, 1), (3, 2), (1, 3)])
def test_out_of_memory_is_as_if_begun_with_less(toy_run, toy_sources, tmp_path, limit, precision, rows, halved):
    run = toy_run(**{"schedule.batch_size": 8, "precision": precision})  # with dropout: its stream must be restored
    micro_batch = 8 >> halved
    expected = train_run(run, tmp_path / "begun", toy_sources, micro_batch=micro_batch)
    sizes = limit(training=rows)
    record = train_run(run, tmp_path, toy_sources)
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "begun", expected)
    assert record.environment
    assert (record.environment.micro_batch, record.environment.micro_batch_halved) == (micro_batch, halved)
    assert record.environment.micro_batch_halved_at == (1,) * halved
    assert record.config.schedule.batch_size == 8
    assert max(sizes) <= max(rows, 8)  # evaluation has its own batches


@pytest.mark.faults
def test_what_the_pieces_before_had_left_is_forgotten(toy_run, toy_sources, tmp_path, monkeypatch):
    """Memory runs out at the second piece of the third update: the gradient of the first must not count twice."""
    run = toy_run(**{"schedule.batch_size": 8, "model.dropout": 0.0})
    whole = train_run(run, tmp_path / "whole", toy_sources)
    forward, calls = BertForSequenceClassification.forward, []

    def limited(self, *args, **inputs):
        calls.append(self.training)
        if calls.count(True) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", limited)
    record = train_run(run, tmp_path, toy_sources, micro_batch=4)
    assert record.environment
    assert whole.steps == record.steps
    assert (record.environment.micro_batch, record.environment.micro_batch_halved) == (2, 1)
    norms, expected = ([line["grad_norm"] for line in read_history(f, run)] for f in (tmp_path, tmp_path / "whole"))
    assert norms == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.faults
def test_a_resumed_run_remembers_what_fits(toy_run, toy_sources, tmp_path, limit):
    run = toy_run(**{"schedule.batch_size": 8})
    expected = train_run(run, tmp_path / "begun", toy_sources, micro_batch=2)
    limit(training=2)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=3)
    record = train_run(run, tmp_path, toy_sources)
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "begun", expected)
    assert record.environment
    assert record.environment.micro_batch_halved == 2


@pytest.mark.faults
def test_halving_begins_at_the_rows_that_did_not_fit(toy_run, toy_sources, tmp_path, limit):
    """A micro-batch above the 28 rows there are would be halved twice before anything became smaller."""
    run = toy_run(**{"schedule.batch_size": 100, "schedule.length": {"steps": 2}})
    limit(training=14)
    record = train_run(run, tmp_path, toy_sources)
    assert record.environment
    assert (record.environment.micro_batch, record.environment.micro_batch_halved) == (14, 1)


@pytest.mark.faults
def test_a_single_row_that_does_not_fit_is_an_error(toy_run, toy_sources, tmp_path, limit):
    limit(training=0)
    with pytest.raises(torch.OutOfMemoryError):
        train_run(toy_run(), tmp_path, toy_sources)


@pytest.mark.faults
def test_evaluation_halves_its_own_batch(toy_run, toy_sources, tmp_path, limit):
    run = toy_run(**{"evaluation.batch_size": 100})
    whole = train_run(run, tmp_path / "whole", toy_sources)
    sizes = limit(evaluation=4)
    record = train_run(run, tmp_path, toy_sources)
    assert max(sizes) == 4
    assert read_history(tmp_path, run) == read_history(tmp_path / "whole", run)
    ours, theirs = ([point.val_loss for point in r.evals] for r in (record, whole))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert record.environment
    assert (record.environment.micro_batch_halved, record.environment.micro_batch_halved_at) == (0, ())
    assert record.environment.eval_batch == 4  # of 100, halved
    assert record.environment.eval_batch_halved_at == (3,)  # the first evaluation
    assert whole.environment
    assert whole.environment.eval_batch is None
    assert '"eval_batch_halved_at"' not in whole.model_dump_json()
    assert limit.failed == [5]  # in the first evaluation alone


def needs_gpu(test: Callable) -> Callable:
    """Marks a test that takes away a GPU's memory."""
    without = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.faults(pytest.mark.gpu(without(test)))


@pytest.fixture
def wide_run(toy_run, toy_sources, tiny_tokenizer, tmp_path):
    """Returns a run whose activations, of 28 rows, take many times the memory of a batch's inputs, and its sources."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    sources, digest = add_model_folder(
        toy_sources, write_tiny_bert(tmp_path / "wide", tiny_tokenizer, lambda _: None, **sizes)
    )
    settings = {"model.sha256": digest, "data.max_length": 64, "data.pad_to_max": True}
    settings |= {"schedule.batch_size": 28, "schedule.length": {"steps": 3}, "evaluation.batch_size": 28}
    return toy_run(**settings), sources


@contextlib.contextmanager
def memory_limited_to(size: float) -> Iterator[None]:
    """Lets this process have so many bytes of the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@needs_gpu
def test_a_gpu_that_runs_out_of_memory(wide_run, tmp_path):
    run, sources = wide_run
    free = train_run(run, tmp_path / "free", sources, device="cuda:0")
    assert free.peak_memory_bytes
    with memory_limited_to(0.7 * free.peak_memory_bytes):
        record = train_run(run, tmp_path, sources, device="cuda:0")
    assert record.environment
    assert record.environment.micro_batch_halved >= 1
    expected = train_run(run, tmp_path / "begun", sources, device="cuda:0", micro_batch=record.environment.micro_batch)
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "begun", expected)


@needs_gpu
@pytest.mark.parametrize("full", ["evaluation", "update"])
def test_a_full_gpu_frees_its_graphs_before_it_halves_anything(wide_run, tmp_path, full):
    """Beside a graph, which keeps all activations of an update, there is no room for what comes next."""
    run, sources = wide_run
    outputs = []
    for cuda_graphs in (False, True):
        job, state = prepare_run(run, tmp_path, sources, Execution("cuda:0", threads=1, cuda_graphs=cuda_graphs))
        torch.manual_seed(3)

        def update(rows: int, job=job, state=state) -> None:
            train_on_batch(state, job.splits.train, np.arange(rows), job.config, 1e-3, job.inputs, job.device)

        for _ in range(2):
            update(28)
        torch.cuda.empty_cache()
        assert cuda_graphs is bool(state.graphs and state.graphs.recorded)
        with memory_limited_to(torch.cuda.memory_reserved()) if cuda_graphs else contextlib.nullcontext():
            if full == "update":
                update(20)  # a shape that was not recorded
            outputs.append(evaluate_model(job, state, job.splits.train).values)
        assert (state.halved, state.eval_batch, state.eval_halved_at) == (0, None, [])
        if cuda_graphs:
            assert state.graphs
            assert (state.graphs.given_up, state.graphs.recorded) == (True, {})
    assert np.array_equal(*outputs)
