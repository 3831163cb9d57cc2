"""What is recorded while a run trains: right, the same after a resume, and without an effect on the run."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.training_runs import read_history, run_outputs, train_run
from torch import nn
from torch.nn import functional

from stableft.config.planned_run import Execution, InLoopProbes, RunInterrupted
from stableft.config.run_config import Mixout, Reinit
from stableft.data.tokens import collate
from stableft.errors import UserError
from stableft.records.probe_record import PROBES_FILE, DriftRecord, GradNormsRecord, read_probe_records
from stableft.records.run_record import run_folder
from stableft.training.in_loop_probes import drift_distances, gradient_norms
from stableft.training.setup import batch_indices, prepare_run

BOTH = InLoopProbes(grad_norms=4, drift=4)
STEPS = (1, 4, 8, 12, 14)  # of 14: the first, every fourth, the last


def watched(run, probes=BOTH):
    return replace(run, probes=probes)


def recorded(results, run) -> dict[str, GradNormsRecord | DriftRecord]:
    return {record.probe: record for record in read_probe_records(run_folder(results, run.run_id) / PROBES_FILE)}


def begin(run, sources, results):
    return prepare_run(run, results, sources, Execution(threads=1))


# The plain functions


def test_gradient_norms_of_two_layers_are_those_written_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    functional.mse_loss(model(x), y).backward()
    hidden = torch.tanh(x @ model[0].weight.T + model[0].bias)
    error = 2 * (hidden @ model[2].weight.T - y) / 10
    below = (error @ model[2].weight) * (1 - hidden**2)
    expected = [(below.T @ x).norm(), below.sum(0).norm(), (error.T @ hidden).norm()]
    torch.testing.assert_close(gradient_norms(model.parameters()), torch.stack(expected).detach())


def test_a_parameter_without_a_gradient_has_no_norm():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    (3 * used).sum().backward()
    assert gradient_norms([used, unused])[0] == pytest.approx(3 * 2**0.5)
    assert gradient_norms([used, unused])[1].isnan()


def test_a_distance_is_that_of_all_tensors_of_a_group_as_one_vector():
    now = [[torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])], [torch.zeros(2)]]
    first = [[torch.zeros(1), torch.zeros(1, 2)], [torch.ones(2)]]
    assert drift_distances(now, first).tolist() == pytest.approx([5.0, 2**0.5])


# In training


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_run_is_the_same_with_probes_and_without(toy_run, toy_sources, tmp_path, precision):
    run = toy_run(precision=precision)
    plain = run_outputs(tmp_path / "a", train_run(run, tmp_path / "a", toy_sources))
    assert run_outputs(tmp_path / "b", train_run(watched(run), tmp_path / "b", toy_sources)) == plain
    assert not (run_folder(tmp_path / "a", run.run_id) / PROBES_FILE).exists()
    assert watched(run).run_id == run.run_id


def test_the_norms_of_the_first_step_are_autograds_own(toy_run, toy_sources, tmp_path):
    run = watched(toy_run(**{"model.dropout": 0.0, "optimizer.clip_norm": 0.5}))
    job, state = begin(run, toy_sources, tmp_path / "other")
    batch = collate(job.splits.train, batch_indices(job, 0), job.inputs, job.config.data)
    labels = batch.pop("labels")
    loss = functional.cross_entropy(state.model(**batch).logits, labels)
    names, parameters = zip(*state.model.named_parameters(), strict=True)
    each = [grad.norm() for grad in torch.autograd.grad(loss, parameters)]
    train_run(run, tmp_path, toy_sources)
    found = recorded(tmp_path, run)["grad_norms"]
    assert found.names == names
    assert found.norms[0] == pytest.approx([float(norm) for norm in each], rel=1e-5)
    assert found.total[0] == pytest.approx(float(torch.stack(each).norm()), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_norms_are_unscaled_and_before_clipping(toy_run, toy_sources, tmp_path, precision):
    run = watched(toy_run(**{"precision": precision, "optimizer.clip_norm": 0.5}))
    train_run(run, tmp_path, toy_sources)
    found, lines = recorded(tmp_path, run)["grad_norms"], read_history(tmp_path, run)
    assert found.steps == STEPS
    assert found.total == pytest.approx([lines[step - 1]["grad_norm"] for step in STEPS], rel=1e-5)
    for total, clipped, norms in zip(found.total, found.clipped, found.norms, strict=True):
        assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(total, rel=1e-4)
        assert clipped == pytest.approx(min(total, 0.5), rel=1e-4)


def test_without_clipping_both_norms_are_the_same(toy_run, toy_sources, tmp_path):
    run = watched(toy_run(**{"optimizer.clip_norm": None}), InLoopProbes(grad_norms=5))
    train_run(run, tmp_path, toy_sources)
    found = recorded(tmp_path, run)
    assert found["grad_norms"].clipped == found["grad_norms"].total
    assert found.keys() == {"grad_norms"}


@pytest.mark.parametrize("reinit", [None, Reinit(pooler=True, blocks=1)])
def test_drift_is_the_distance_between_state_dicts(toy_run, toy_sources, tmp_path, reinit):
    run = watched(toy_run(reinit=reinit), InLoopProbes(drift=5))
    _, state = begin(run, toy_sources, tmp_path / "other")
    first = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}  # re-drawn where reinit says
    train_run(run, tmp_path, toy_sources, save="last")
    last = load_file(run_folder(tmp_path, run.run_id) / "model-last" / "model.safetensors")
    found = recorded(tmp_path, run)["drift"]
    modules = {
        "embeddings": "bert.embeddings.",
        "1": "bert.encoder.layer.0.",
        "2": "bert.encoder.layer.1.",
        "pooler": "bert.pooler.",
        "head": "classifier.",
    }
    assert found.names == tuple(modules)
    assert found.redrawn == (1 if reinit else 0)
    assert found.steps == (0, 1, 5, 10, 14)
    assert found.distances[0] == (0.0,) * 5
    for name, distance in zip(found.names, found.distances[-1], strict=True):
        keys = [key for key in last if key.startswith(modules[name])]
        expected = torch.cat([(last[key] - first[key]).flatten() for key in keys]).norm()
        assert distance == pytest.approx(float(expected), rel=1e-5)


def test_one_step_moves_a_weight_by_what_the_optimizer_did(toy_run, toy_sources, tmp_path):
    run = watched(toy_run(**{"optimizer.lr": 1e-9}), InLoopProbes(drift=1))
    train_run(run, tmp_path, toy_sources)
    assert max(recorded(tmp_path, run)["drift"].distances[-1]) < 1e-4
    assert len(recorded(tmp_path, run)["drift"].steps) == 15


def test_stop_and_go_on(toy_run, toy_sources, tmp_path):
    run = watched(toy_run())
    train_run(run, tmp_path / "whole", toy_sources)
    for stop_at in (1, 3, 4, 9, 13):
        stopped = tmp_path / str(stop_at)
        with pytest.raises(RunInterrupted):
            train_run(run, stopped, toy_sources, stop_at=stop_at)
        train_run(run, stopped, toy_sources)
        assert recorded(stopped, run) == recorded(tmp_path / "whole", run), stop_at


def test_a_checkpoint_goes_on_with_the_same_probes_alone(toy_run, toy_sources, tmp_path):
    run = toy_run()
    with pytest.raises(RunInterrupted):
        train_run(watched(run), tmp_path, toy_sources, stop_at=5)
    with pytest.raises(UserError, match=r"checkpoint .*step 5 .*probes \{'grad_norms': 4"):
        train_run(run, tmp_path, toy_sources)


def test_a_smaller_micro_batch_records_the_same(toy_run, toy_sources, tmp_path):
    run = watched(toy_run(**{"model.dropout": 0.0}))
    for folder, rows in ((tmp_path / "a", None), (tmp_path / "b", 1)):
        train_run(run, folder, toy_sources, micro_batch=rows)
    whole, pieces = recorded(tmp_path / "a", run), recorded(tmp_path / "b", run)
    assert pieces["grad_norms"].norms[0] == pytest.approx(whole["grad_norms"].norms[0], rel=1e-4, abs=1e-7)


def test_a_skipped_step_has_norms_that_are_not_finite(toy_run, toy_sources, tmp_path, monkeypatch):
    from stableft.training import step as update

    original = update.loss_sum
    monkeypatch.setattr(update, "loss_sum", lambda outputs, labels: original(outputs, labels) * 1e4)
    run = watched(toy_run(precision="fp16"), InLoopProbes(grad_norms=1, drift=1))
    assert train_run(run, tmp_path, toy_sources).skipped_steps > 2
    found = recorded(tmp_path, run)
    assert not torch.tensor(found["grad_norms"].total[0]).isfinite()
    assert found["drift"].distances[1] == found["drift"].distances[0]  # nothing moved
    assert torch.tensor(found["grad_norms"].total[-1]).isfinite()


def test_a_run_that_diverges_keeps_what_was_recorded(toy_run, toy_sources, tmp_path):
    run = watched(toy_run(**{"optimizer.lr": 1e30, "schedule.warmup": 0.0}), InLoopProbes(grad_norms=1, drift=1))
    record = train_run(run, tmp_path, toy_sources)
    assert record.failed
    assert record.steps < 14
    found = recorded(tmp_path, run)
    assert found["grad_norms"].steps == tuple(range(1, record.steps + 1))
    assert found["drift"].steps == tuple(range(record.steps + 1))


def test_alberts_shared_block_is_one(family_run, tmp_path):
    run, sources = family_run("albert")
    train_run(watched(run), tmp_path, sources)
    found = recorded(tmp_path, run)
    assert found["drift"].names == ("embeddings", "1", "pooler", "head")
    assert found["grad_norms"].parts.blocks == ("albert.encoder.albert_layer_groups.0.albert_layers.0",)


@pytest.mark.parametrize("family", ["roberta", "xlnet", "electra", "bart"])
def test_other_families_have_their_blocks(family_run, tmp_path, family):
    run, sources = family_run(family)
    train_run(watched(run), tmp_path, sources)
    found = recorded(tmp_path, run)
    blocks = 6 if family == "bart" else 3  # three of the encoder and three of the decoder
    assert [name for name in found["drift"].names if name.isdecimal()] == [str(n + 1) for n in range(blocks)]
    assert "pooler" not in found["drift"].names
    assert all(distance > 0 for distance in found["drift"].distances[-1])


def test_mixed_weights_are_recorded_under_their_own_names(toy_run, toy_sources, tmp_path):
    mixout = Mixout(p=0.5, target="pretrained", granularity="parameter", scope="linear")
    run = watched(toy_run(mixout=mixout, **{"model.dropout": 0.0}))
    train_run(run, tmp_path, toy_sources)
    assert "bert.encoder.layer.0.attention.self.query.weight" in recorded(tmp_path, run)["grad_norms"].names


def test_drift_of_blocks_that_are_not_known_is_refused(family_run, tmp_path):
    run, sources = family_run("distilbert")
    train_run(watched(run, InLoopProbes(grad_norms=1)), tmp_path, sources)
    assert recorded(tmp_path, run)["grad_norms"].parts.blocks == ()
    with pytest.raises(UserError, match=r"^probes.drift: stableft .*not know .*modules .*distilbert model"):
        train_run(watched(run), tmp_path / "other", sources)


def test_recording_goes_with_retraining(toy_run, toy_sources, tmp_path):
    run = toy_run()
    train_run(watched(run), tmp_path, toy_sources)
    assert recorded(tmp_path, run)
    (run_folder(tmp_path, run.run_id) / "record.json").unlink()
    train_run(run, tmp_path, toy_sources)
    assert not recorded(tmp_path, run)  # they would be of an attempt that does not count any more
