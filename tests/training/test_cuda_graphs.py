"""What a run does when an update cannot be recorded, on a CPU, where a stand-in tries to. On a GPU: `test_on_gpu`."""

import contextlib

import numpy as np
import torch

from stableft.config.planned_run import Execution
from stableft.training.setup import prepare_run
from stableft.training.step import train_on_batch


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
