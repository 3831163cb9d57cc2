"""Mixout in whole runs: drawn once per update, whatever becomes of the batch, of the process and of the weights."""

import functools

import numpy as np
import pytest
import torch
from support.training_runs import add_model_folder, read_history, run_outputs, train_run
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.methods import mixout
from stableft.methods.mixout import MixoutLinear
from stableft.models.build import build_model
from stableft.models.load import quiet_transformers
from stableft.records.run_record import LAST_FOLDER, PREDICTIONS_FILE, run_folder
from stableft.training import step as update
from stableft.training.evaluate import evaluate
from stableft.training.setup import batch_indices, prepare_run
from stableft.training.step import learning_rate, train_on_batch

HALF = {"p": 0.5, "target": "pretrained", "granularity": "parameter", "scope": "linear"}
COLUMN = {**HALF, "granularity": "column"}
SETTINGS = {"model.dropout": 0.0, "schedule.batch_size": 8}


def mixed(toy_run, mixing=HALF, **dotted):
    return toy_run(**{**SETTINGS, "mixout": mixing, **dotted})


def test_it_trains_and_differs_from_plain_and_between_granularities(toy_run, toy_sources, tmp_path):
    runs = [toy_run(**SETTINGS), mixed(toy_run), mixed(toy_run, COLUMN), mixed(toy_run, {**HALF, "p": 0.9})]
    losses = []
    for run in runs:
        record = train_run(run, tmp_path, toy_sources)
        assert record.skipped_steps == 0
        losses.append([line["loss"] for line in read_history(tmp_path, run)])
    assert np.isfinite(losses).all()
    # Before the first update the weights are their own targets, whatever is drawn.
    assert np.ptp([line[0] for line in losses]) == 0
    assert len({line[5] for line in losses}) == 4


def test_p_0_is_the_plain_run(toy_run, toy_sources, tmp_path):
    plain, run = toy_run(**SETTINGS), mixed(toy_run, {**HALF, "p": 0.0})
    assert run.run_id == plain.run_id
    _, state = prepare_run(run, tmp_path, toy_sources, Execution())
    assert not any(isinstance(part, MixoutLinear) for part in state.model.modules())
    first = run_outputs(tmp_path / "a", train_run(plain, tmp_path / "a", toy_sources))
    assert first == run_outputs(tmp_path / "b", train_run(run, tmp_path / "b", toy_sources))


def test_p_1_moves_no_weight_in_scope(toy_run, toy_sources, tmp_path):
    run = mixed(toy_run, {**HALF, "p": 1.0}, **{"optimizer.weight_decay": 0.0})
    before = build_model(run.config, toy_sources)[0].state_dict()
    train_run(run, tmp_path, toy_sources, save="last")
    saved = load_stock(tmp_path, run)
    for name, module in saved.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(module.weight, before[f"{name}.weight"]), name
            if module.bias is not None and "key" not in name:  # whose gradient is zero anyway
                assert not torch.equal(module.bias, before[f"{name}.bias"]), name


def load_stock(results, run):
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(run_folder(results, run.run_id) / LAST_FOLDER)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("mixing", [HALF, COLUMN])
def test_pieces_of_the_batch_share_the_draw(toy_run, toy_sources, tmp_path, mixing, micro_batch):
    run = mixed(toy_run, mixing)
    train_run(run, tmp_path / "whole", toy_sources)
    train_run(run, tmp_path, toy_sources, micro_batch=micro_batch)
    ours, theirs = (read_history(folder, run) for folder in (tmp_path, tmp_path / "whole"))
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=1e-4, abs=1e-4)


@pytest.mark.faults
def test_running_out_of_memory_does_not_draw_again(toy_run, toy_sources, tmp_path, monkeypatch):
    run = mixed(toy_run, **{"model.dropout": 0.1})
    expected = run_outputs(tmp_path / "begun", train_run(run, tmp_path / "begun", toy_sources, micro_batch=4))
    forward = BertForSequenceClassification.forward

    @functools.wraps(forward)  # its signature says which inputs the model takes
    def limited(self, input_ids, **inputs):
        outputs = forward(self, input_ids, **inputs)
        if self.training and len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outputs

    monkeypatch.setattr(BertForSequenceClassification, "forward", limited)
    assert run_outputs(tmp_path, train_run(run, tmp_path, toy_sources)) == expected


def test_one_draw_per_weight_and_update(toy_run, toy_sources, tiny_family, tmp_path, monkeypatch):
    """ALBERT uses its block three times in each piece of the batch: one seed per weight and update all the same."""
    sources, digest = add_model_folder(toy_sources, tiny_family("albert"))
    run = mixed(toy_run, **{"model.sha256": digest, "evaluation.at_start": True})
    kept, seeds = mixout._draw_keep_mask, []

    def noted(weight, mixing, seed):
        seeds.append((id(mixing), seed))
        return kept(weight, mixing, seed)

    monkeypatch.setattr(mixout, "_draw_keep_mask", noted)
    job, state = prepare_run(run, tmp_path, sources, Execution(micro_batch=2))
    parts = [part for part in state.model.modules() if isinstance(part, MixoutLinear)]
    drawn = []
    for step in range(3):
        seeds.clear()
        lr = learning_rate(job.config, step, job.total)
        train_on_batch(state, job.splits.train, batch_indices(job, step), job.config, lr, job.inputs, job.device)
        counts = {mixing: sum(m == mixing for m, _ in seeds) for mixing, _ in seeds}
        assert len(set(seeds)) == len(counts) == len(parts)
        query = next(id(part.mixing) for name, part in state.model.named_modules() if name.endswith("query"))
        assert counts[query] == 2 * 3 * 4  # forwards and backwards, three uses, four pieces
        drawn.append({seed for _, seed in seeds})
    assert len(set.union(*drawn)) == 3 * len(parts)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_stop_and_go_on(toy_run, toy_sources, undisturbed, tmp_path, precision, stop_at):
    run = mixed(toy_run, **{"precision": precision, "model.dropout": None})
    expected = undisturbed(run)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=stop_at)
    torch.manual_seed(99)
    assert run_outputs(tmp_path, train_run(run, tmp_path, toy_sources)) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_saved_model_is_a_stock_model(toy_run, toy_sources, tmp_path, precision):
    run = mixed(toy_run, precision=precision)
    train_run(run, tmp_path, toy_sources, save="last")
    job, state = prepare_run(run, tmp_path / "other", toy_sources, Execution())
    with quiet_transformers():
        folder = run_folder(tmp_path, run.run_id) / LAST_FOLDER
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(model.classifier) is torch.nn.Linear
    assert state.model.state_dict().keys() == model.state_dict().keys()
    outputs = plain_outputs(job, model)
    with np.load(run_folder(tmp_path, run.run_id) / PREDICTIONS_FILE) as file:
        stored = file["val_last"]
    assert outputs == pytest.approx(stored, abs=1e-5 if precision == "fp32" else 2e-2)


def plain_outputs(job, model) -> np.ndarray:
    return evaluate(model, job.splits.val, job.config, job.inputs, job.device).values


def test_the_target_is_what_the_run_starts_from(toy_run, toy_sources, tmp_path):
    """Of the head its draw, of re-drawn blocks the draw, of all else the pre-trained weight; also after resuming."""
    run = mixed(toy_run, reinit={"pooler": True, "blocks": 1})
    start = build_model(run.config, toy_sources)[0].state_dict()
    plain = build_model(toy_run(**SETTINGS).config, toy_sources)[0].state_dict()
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=4)
    seen = []
    original = mixout.seed_mixout_masks

    def watched(model, seed, step):
        seen.append({name: part for name, part in model.named_modules() if isinstance(part, MixoutLinear)})
        original(model, seed, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "seed_mixout_masks", watched)
        train_run(run, tmp_path, toy_sources)
    assert len(seen) == 4
    assert len(seen[0]) == 14
    for name, part in seen[0].items():
        assert torch.equal(part.mixing.target, start[f"{name}.weight"]), name
        assert not torch.equal(part.mixing.target, part.weight), name
    redrawn = {name for name in seen[0] if not torch.equal(start[f"{name}.weight"], plain[f"{name}.weight"])}
    assert redrawn == {name for name in seen[0] if "layer.1." in name or "pooler" in name}


def test_a_plain_run_after_it_is_as_before(toy_run, toy_sources, tmp_path):
    plain = toy_run(**SETTINGS)
    before = run_outputs(tmp_path / "a", train_run(plain, tmp_path / "a", toy_sources))
    train_run(mixed(toy_run), tmp_path, toy_sources)
    assert run_outputs(tmp_path / "b", train_run(plain, tmp_path / "b", toy_sources)) == before


def test_evaluation_reads_the_plain_weights(toy_run, toy_sources, tmp_path):
    job, state = prepare_run(mixed(toy_run, {**HALF, "p": 0.9}), tmp_path, toy_sources, Execution())
    stock = build_model(toy_run(**SETTINGS).config, toy_sources)[0]
    for step in range(3):
        lr = learning_rate(job.config, step, job.total)
        train_on_batch(state, job.splits.train, batch_indices(job, step), job.config, lr, job.inputs, job.device)
    stock.load_state_dict(state.model.state_dict())
    assert np.array_equal(plain_outputs(job, state.model), plain_outputs(job, stock))


@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "xlnet", "electra", "bart"])
def test_every_family_trains_with_it(toy_run, toy_sources, tiny_family, tmp_path, name):
    sources, digest = add_model_folder(toy_sources, tiny_family(name))
    run = mixed(toy_run, COLUMN, **{"model.sha256": digest, "schedule.length": {"steps": 4}})
    record = train_run(run, tmp_path, sources)
    assert record.steps == 4
    assert np.isfinite([line["loss"] for line in read_history(tmp_path, run)]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_stop_and_go_on_on_a_gpu(toy_run, toy_sources, tmp_path, precision):
    run = mixed(toy_run, precision=precision)
    expected = run_outputs(tmp_path / "whole", train_run(run, tmp_path / "whole", toy_sources, device="cuda:0"))
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=5, device="cuda:0")
    assert run_outputs(tmp_path, train_run(run, tmp_path, toy_sources, device="cuda:0")) == expected
