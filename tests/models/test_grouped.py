"""Grouped rows: the update of padded ones, from micro-batches of similar length, in every family."""

import numpy as np
import pytest
import torch
from support.families import OTHER_FAMILIES
from support.training_runs import run_outputs, train_run

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution, RunInterrupted
from stableft.training.setup import LENGTH_GROUPS, batch_indices, prepare_run
from stableft.training.step import train_on_batch

STILL = {"model.dropout": 0.0, "schedule.batch_size": 12}


def update(run, sources, folder) -> tuple[float, dict[str, torch.Tensor], list[int]]:
    """Returns the loss and the gradients of the first update, and the widths of the batches that it computed."""
    setup, state = prepare_run(run, folder, sources, Execution(threads=1))
    gradients, widths = {}, []

    def keep_gradients(*_) -> None:
        gradients.update((n, p.grad.clone()) for n, p in state.model.named_parameters() if p.grad is not None)

    def note_width(*inputs) -> None:
        widths.append(inputs[2]["input_ids"].shape[1])

    state.optimizer.register_step_pre_hook(keep_gradients)
    state.model.register_forward_pre_hook(note_width, with_kwargs=True)
    rows = batch_indices(setup, 0)
    step = train_on_batch(state, setup.splits.train, rows, setup.config, 1e-3, setup.inputs, setup.device)
    return float(step.loss), gradients, widths


@pytest.mark.parametrize("family", [*BACKBONES, *OTHER_FAMILIES])
def test_loss_and_gradients_are_those_of_padded_rows(family_run, tmp_path, family):
    (loss, padded, (width,)), (same, grouped, widths) = (
        update(*family_run(family, **STILL, **more), tmp_path) for more in ({}, {"execution": "grouped"})
    )
    assert len(widths) == LENGTH_GROUPS
    assert widths == sorted(widths, reverse=True)
    assert sum(widths) < LENGTH_GROUPS * width
    assert same == pytest.approx(loss, rel=1e-6)
    assert padded.keys() == grouped.keys()
    for name, theirs in padded.items():
        if not name.endswith(("key.bias", "k_proj.bias", "key_proj.bias", "k_lin.bias")):  # 0 up to rounding
            scale = float(theirs.abs().max())
            torch.testing.assert_close(grouped[name], theirs, rtol=1e-5, atol=2e-5 * scale, msg=name)


def test_a_run_on_grouped_rows_is_one_of_its_own_and_resumes(toy_run, toy_sources, tmp_path):
    run = toy_run(execution="grouped")
    assert run.run_id != toy_run().run_id
    assert run.config.normalized().execution == "grouped"
    whole = train_run(run, tmp_path / "a", toy_sources)
    assert whole.environment.micro_batch == 1  # a quarter of the batch
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path / "b", toy_sources, stop_at=5)
    again = train_run(run, tmp_path / "b", toy_sources)
    assert run_outputs(tmp_path / "b", again) == run_outputs(tmp_path / "a", whole)


def test_without_dropout_histories_agree(toy_run, toy_sources, tmp_path):
    records = [train_run(toy_run(execution=how, **STILL), tmp_path, toy_sources) for how in ("padded", "grouped")]
    losses = np.array([[point.val_loss for point in record.evals] for record in records])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
