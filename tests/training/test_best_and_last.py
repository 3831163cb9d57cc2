"""`best` and `last` are two sets of weights: what is stored of each is its own, and --save writes the right one."""

import numpy as np
import pytest
import torch
from support.training_runs import run_outputs, train_run
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.data.metrics import compute_scores
from stableft.data.tokens import collate
from stableft.records.run_record import CHECKPOINT_FILE, PREDICTIONS_FILE, RECORD_FILE, run_folder
from stableft.training.evaluate import evaluate
from stableft.training.setup import prepare_run


@pytest.fixture
def ruin(monkeypatch) -> None:
    """Turns the head around after step 10 of 14: whatever was learnt by then is unlearnt in `last`."""
    from stableft.training.step import train_on_batch

    def ruining(state, *args):
        step = train_on_batch(state, *args)
        if state.step == 10:
            with torch.no_grad():
                state.model.classifier.weight.mul_(-20)
        return step

    monkeypatch.setattr("stableft.training.run.train_on_batch", ruining)


def predict(folder, run, sources, split: str) -> np.ndarray:
    """Returns what a stock model from `folder` says of a split, row by row."""
    job, _ = prepare_run(run, folder, sources, Execution(threads=1))
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logging.enable_progress_bar()
    rows = getattr(job.splits, split)
    with torch.no_grad():
        outputs = []
        for i in range(len(rows)):
            batch = collate(rows, np.array([i]), job.inputs, run.config.data)
            del batch["labels"]
            outputs.append(model(**batch).logits[0].numpy())
    return np.stack(outputs)


@pytest.mark.usefixtures("ruin")
@pytest.mark.parametrize("regression", [False, True])
def test_best_and_last_are_scored_by_their_own_outputs(toy_run, toy_sources, tmp_path, regression):
    run = toy_run(regression, **{"optimizer.lr": 3e-3})
    record = train_run(run, tmp_path, toy_sources)
    assert record.best
    assert record.last
    assert (record.best.step, record.last.step) == (record.best.step, 14)
    assert record.best.step < 14
    metric = record.config.selection_metric
    at = {point.step: point for point in record.evals}
    assert record.best.val == at[record.best.step].val
    assert record.last.val == at[14].val
    values = [point.val[metric] for point in record.evals]
    assert record.best.val[metric] == max(values)
    assert record.best.step == record.evals[values.index(max(values))].step  # the first of equals
    with np.load(run_folder(tmp_path, run.run_id) / PREDICTIONS_FILE) as file:
        assert not np.array_equal(file["val_best"], file["val_last"])
        assert not np.array_equal(file["test_best"], file["test_last"])
        for split in ("val", "test"):
            for name, scores in (("best", record.best), ("last", record.last)):
                again = compute_scores(file[f"{split}_{name}"], file[f"{split}_labels"], run.config.task.metrics)
                assert getattr(scores, split) == again


@pytest.mark.usefixtures("ruin")
@pytest.mark.parametrize(("save", "names"), [("best", ["best"]), ("last", ["last"]), ("all", ["best", "last"])])
@pytest.mark.parametrize("stop_at", [None, 12])
def test_saved_weights_give_the_stored_predictions(toy_run, toy_sources, tmp_path, save, names, stop_at, capfd):
    run = toy_run(**{"optimizer.lr": 3e-3})
    folder = run_folder(tmp_path, run.run_id)
    if stop_at:
        with pytest.raises(RunInterrupted):
            train_run(run, tmp_path, toy_sources, stop_at=stop_at, save=save)
    record = train_run(run, tmp_path, toy_sources, save=save)
    assert capfd.readouterr().err == ""  # a bar would break the display
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [f"model-{name}" for name in names]
    assert record.best
    assert record.best.step < 12
    with np.load(folder / PREDICTIONS_FILE) as file:
        stored = dict(file)
    for name in names:
        for split in ("val", "test"):
            said = predict(folder / f"model-{name}", run, toy_sources, split)
            np.testing.assert_allclose(said, stored[f"{split}_{name}"], rtol=1e-4, atol=1e-6)
        other = {"best": "last", "last": "best"}[name]
        assert np.abs(stored[f"val_{name}"] - stored[f"val_{other}"]).max() > 1e-2
        config = AutoModelForSequenceClassification.from_pretrained(folder / f"model-{name}").config
        assert config.id2label == {0: "no", 1: "yes"}
        assert AutoTokenizer.from_pretrained(folder / f"model-{name}")("anna")["input_ids"]
        modes = {path.stat().st_mode for path in (folder / f"model-{name}").iterdir()}
        assert modes == {(folder / RECORD_FILE).stat().st_mode}


@pytest.mark.usefixtures("ruin")
def test_a_run_that_stops_after_its_best_keeps_it(toy_run, toy_sources, tmp_path):
    run = toy_run(True, **{"optimizer.lr": 3e-3})
    whole = train_run(run, tmp_path / "whole", toy_sources, save="best")
    assert whole.best
    assert whole.best.step < 13
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=13, save="best")
    record = train_run(run, tmp_path, toy_sources, save="best")
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "whole", whole)
    weights = [
        run_folder(folder, run.run_id) / "model-best" / "model.safetensors" for folder in (tmp_path, tmp_path / "whole")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_save_none_leaves_no_weights(toy_run, toy_sources, tmp_path):
    run = toy_run()
    train_run(run, tmp_path, toy_sources, checkpoint_every=1)
    assert {path.name for path in run_folder(tmp_path, run.run_id).iterdir()} == {
        *("config.yaml", "record.json", "history.jsonl", "predictions.npz")
    }


def test_weights_of_an_attempt_that_does_not_count_are_removed(toy_run, toy_sources, tmp_path):
    """Stopped with --save all, done without: it starts afresh, and nothing of the first attempt is left."""
    run = toy_run()
    expected = run_outputs(tmp_path / "whole", train_run(run, tmp_path / "whole", toy_sources))
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=8, save="all")
    folder = run_folder(tmp_path, run.run_id)
    assert (folder / "model-best" / "model.safetensors").exists()
    assert run_outputs(tmp_path, train_run(run, tmp_path, toy_sources)) == expected
    assert not [path for path in folder.rglob("*") if path.is_dir() or path.suffix in (".pt", ".safetensors")]


@pytest.mark.faults
def test_a_death_while_weights_are_written_is_no_obstacle(toy_run, toy_sources, tmp_path, monkeypatch):
    """A folder cannot be unlinked: what is left of the half-written one must not stop the next claim."""
    from stableft.sweep.claims import claim_run

    class Death(BaseException):
        pass

    def die(*_, **__):
        raise Death

    run = toy_run()
    folder = run_folder(tmp_path, run.run_id)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", die)
        with pytest.raises(Death):
            train_run(run, tmp_path, toy_sources, save="best", checkpoint_every=1)
    assert any(path.name.startswith(".") for path in folder.iterdir())
    with claim_run(folder) as mine:
        assert mine
        record = train_run(run, tmp_path, toy_sources, save="best", checkpoint_every=1)
    whole = train_run(run, tmp_path / "whole", toy_sources, save="best")
    assert run_outputs(tmp_path, record) == run_outputs(tmp_path / "whole", whole)
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "record.json", "history.jsonl", "predictions.npz", "model-best")
    }


def test_an_evaluation_before_training_is_never_the_best(toy_run, toy_sources, tmp_path, monkeypatch):
    """All evaluations are equal here (rate about 0), so step 0 would win if it took part."""
    run = toy_run(**{"optimizer.lr": 1e-30, "model.dropout": 0.0, "evaluation.at_start": True})
    record = train_run(run, tmp_path, toy_sources)
    assert [point.step for point in record.evals] == [0, 3, 6, 9, 12, 14]
    assert record.evals[0].train_loss is None
    assert record.evals[0].val == record.evals[1].val
    assert record.best
    assert record.best.step == 3


def test_no_checkpoint_is_left_after_the_record(toy_run, toy_sources, tmp_path, monkeypatch):
    """The record lands first: a death in between costs nothing but the space."""
    from stableft.records.run_record import write_record

    run = toy_run()
    checkpoint = run_folder(tmp_path, run.run_id) / CHECKPOINT_FILE
    there = []
    monkeypatch.setattr(
        "stableft.training.outputs.write_record", lambda *args: (there.append(checkpoint.exists()), write_record(*args))
    )
    train_run(run, tmp_path, toy_sources, checkpoint_every=1)
    assert there == [True]
    assert not checkpoint.exists()


@pytest.mark.usefixtures("ruin")
def test_the_last_weights_are_evaluated_once(toy_run, toy_sources, tmp_path, monkeypatch):
    """The outputs of the evaluation after the last step are reused, though an earlier one was the best."""
    evaluated = []

    def counting(model, rows, *args):
        evaluated.append(len(rows))
        return evaluate(model, rows, *args)

    monkeypatch.setattr("stableft.training.outputs.evaluate", counting)
    record = train_run(toy_run(**{"optimizer.lr": 3e-3}), tmp_path, toy_sources)
    assert record.best
    assert record.best.step < record.evals[-1].step == record.steps
    values = [point.val[record.config.selection_metric] for point in record.evals if point.step]
    bests = sum(value > max(values[:i], default=-1) for i, value in enumerate(values))
    assert evaluated.count(record.data.val_rows) == len(record.evals)
    assert evaluated.count(record.data.test_rows) == bests + 1  # at each new best, and after the last step
