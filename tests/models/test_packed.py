"""Packed rows: the results of padded ones, row by row, in every family that packs."""

import contextlib
import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from support.families import OTHER_FAMILIES
from support.host_reads import HostReads
from support.training_runs import read_history, run_outputs, train_run
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution, InLoopProbes, LocalPaths, RunInterrupted
from stableft.config.sweep_file import load_sweep
from stableft.data import tokens
from stableft.data.tokens import Packing, collate
from stableft.errors import UserError
from stableft.methods.mixout import seed_mixout_masks
from stableft.models.packed import _FlashAttention, packing_for
from stableft.probes.loss_surface import origin_config
from stableft.records.run_record import run_folder
from stableft.training.evaluate import autocast, evaluate, loss_sum
from stableft.training.setup import preload_inputs, prepare_run
from stableft.training.step import train_on_batch

PACKING = [name for name, spec in BACKBONES.items() if spec.packs]
PACKED = {"execution": "packed"}
STILL = {"model.dropout": 0.0}


def logits_and_gradients(job, state, indices: np.ndarray, **packing) -> dict[str, Tensor]:
    inputs = replace(job.inputs, packing=replace(job.inputs.packing, **packing)) if packing else job.inputs
    batch = collate(job.splits.train, indices, inputs, job.config.data)
    labels = batch.pop("labels")
    state.model.zero_grad(set_to_none=True)
    if job.config.mixout:
        seed_mixout_masks(state.model, 1, 1)
    with autocast(job.config, job.device):
        logits = state.model(**batch).logits
    loss_sum(logits, labels).backward()
    return {"": logits.detach()} | {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


@pytest.fixture
def prepare(family_run, tmp_path):
    """Returns a maker of a run's setup and state: `prepare("bert", precision="fp16", ...)`."""

    def make(family: str, **settings):
        run, sources = family_run(family, **settings)
        return prepare_run(run, tmp_path, sources, Execution(threads=1))

    return make


@pytest.mark.parametrize(
    ("settings", "rtol"),
    [
        ({"model.attention": "eager"}, 1e-5),
        ({"model.attention": "sdpa"}, 1e-5),
        ({"model.attention": "sdpa", "data.segment_ids": False}, 1e-5),
        ({"model.attention": "sdpa", "precision": "fp16"}, 1e-2),
        ({"model.attention": "eager", "precision": "bf16"}, 5e-2),
        (
            {"mixout": {"p": 0.5, "target": "pretrained", "granularity": "parameter", "scope": "linear"}},
            1e-5,
        ),
    ],
)
@pytest.mark.parametrize("family", PACKING)
def test_logits_and_gradients_are_those_of_padded_rows(prepare, family, settings, rtol):
    indices = np.array([3, 8, 1, 20, 11, 4])
    setups = (prepare(family, **STILL, **settings, **more) for more in ({}, PACKED))
    padded, packed = (logits_and_gradients(job, state, indices) for job, state in setups)
    assert padded.keys() == packed.keys()
    for name, theirs in padded.items():
        if name.endswith("key.bias"):  # its gradient is 0 up to rounding
            continue
        scale = float(theirs.abs().max())
        torch.testing.assert_close(packed[name], theirs, rtol=rtol, atol=rtol * scale, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", PACKING)
def test_blocks_of_rows_change_no_logit_or_gradient(prepare, monkeypatch, family, attention):
    job, state = prepare(family, **PACKED, **STILL, **{"model.attention": attention})
    indices = np.array([3, 8, 1, 20, 11, 4])
    whole = logits_and_gradients(job, state, indices)
    monkeypatch.setattr(tokens, "BLOCK_COST", 1)
    batch = collate(job.splits.train, indices, job.inputs, job.config.data)
    assert len(batch["blocks"]) > 2
    split = logits_and_gradients(job, state, indices)
    for name, theirs in whole.items():
        torch.testing.assert_close(split[name], theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_blocks_are_the_cheapest_and_hold_every_token_once(prepare, monkeypatch):
    job, _ = prepare("bert", **PACKED)
    lengths = np.diff(job.splits.train.offsets)
    for cost in (1, 30, 100, 300, 10**6):
        monkeypatch.setattr(tokens, "BLOCK_COST", cost)
        for first in range(0, 15, 5):
            batch = collate(job.splits.train, np.arange(first, first + 5), job.inputs, job.config.data)
            places, cells, visible = (batch[name].flatten() for name in ("places", "cells", "visible"))
            assert torch.equal(cells[places], torch.arange(batch["input_ids"].shape[1]))
            assert torch.equal(places.sort().values, visible.nonzero().flatten())
            shapes = batch["blocks"].tolist() if "blocks" in batch else [list(batch["cells"].shape)]
            assert sum(rows * width for rows, width in shapes) == len(cells)
            fillers = len(cells.unique()) - lengths[first : first + 5].sum()
            assert sum(rows for rows, _ in shapes) == 6
            assert 0 < fillers <= 8
            widths = sorted((-(-int(n) // 8) * 8 for n in [*lengths[first : first + 5], fillers]), reverse=True)
            cheapest = min(
                sum(cost + len(part) * part[0] ** 2 for part in np.split(np.array(widths), cuts))
                for count in range(6)
                for cuts in combinations(range(1, 6), count)
            )
            assert sum(cost + rows * width**2 for rows, width in shapes) == cheapest


@pytest.mark.parametrize(
    ("head_size", "capability", "settings", "takes_boundaries"),
    [
        (8, (9, 0), {}, False),
        (24, (9, 0), {}, False),
        (32, (9, 0), {}, True),
        (36, (9, 0), {}, False),
        (256, (8, 0), {}, True),
        (264, (9, 0), {}, False),
        (32, (7, 5), {}, False),
        (32, (9, 0), {"precision": "fp32"}, False),
        (32, (9, 0), {"model.attention": "eager"}, False),
    ],
)
def test_attention_takes_boundaries_where_the_kernel_can(
    toy_run, monkeypatch, head_size, capability, settings, takes_boundaries
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    config = toy_run(**PACKED | {"precision": "fp16", "model.attention": "sdpa"} | settings).config
    sizes = {"hidden_size": 2 * head_size, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=9, max_position_embeddings=64, **sizes))
    packing = packing_for(model, config, torch.device("cuda:0"))
    assert packing == Packing(128, boundaries=takes_boundaries)


def test_a_pack_has_no_padding_but_few_fillers(prepare):
    job, _ = prepare("bert", **PACKED)
    indices = np.arange(6)
    lengths = np.diff(job.splits.train.offsets)[indices]
    batch = collate(job.splits.train, indices, job.inputs, job.config.data)
    assert "attention_mask" not in batch
    assert lengths.sum() < batch["input_ids"].shape[1] <= lengths.sum() + 8
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["first_tokens"].tolist() == [0, *np.cumsum(lengths)[:-1]]
    assert batch["visible"].sum(1)[:6].tolist() == lengths.tolist()


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("max_length", [8, 13, 32, 128])
@pytest.mark.parametrize("boundaries", [True, False])
def test_the_number_of_tokens_determines_the_shapes(prepare, rows, max_length, boundaries):
    """Every filler row has a token and is at most as long as the longest row may be."""
    job, _ = prepare("bert", **PACKED, **{"data.max_length": min(max_length, 64)})
    data = job.config.data.model_copy(update={"max_length": max_length})
    inputs = replace(job.inputs, packing=Packing(128, boundaries=boundaries))
    shapes: dict[tuple, dict] = {}
    for i in range(0, 21, 3):
        batch = collate(job.splits.train, np.arange(i, i + rows), inputs, data)
        if boundaries:
            filler_lengths = batch["boundaries"].diff()
            assert batch["boundaries"][-1] == batch["input_ids"].shape[1]
            assert filler_lengths.max() <= max_length
            assert batch["boundaries"].dtype == torch.int32
        else:
            filler_lengths = batch["visible"].sum(1)
            assert torch.equal(batch["cells"].flatten()[batch["places"]], torch.arange(batch["input_ids"].shape[1]))
        assert filler_lengths.min() >= 1
        key = (batch["input_ids"].shape[1], 0 if boundaries else batch["cells"].shape[1])
        now = {name: tensor.shape for name, tensor in batch.items()}
        assert shapes.setdefault(key, now) == now


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", PACKING)
def test_fillers_change_no_logit(prepare, family, attention):
    job, state = prepare(family, **PACKED, **STILL, **{"model.attention": attention})
    first, *others = (logits_and_gradients(job, state, np.arange(5), multiple=multiple) for multiple in (8, 16, 24, 64))
    for other in others:
        assert torch.equal(other[""], first[""])
        for name, gradient in first.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", PACKING)
def test_rows_do_not_see_one_another(prepare, family, attention):
    job, state = prepare(family, **PACKED, **STILL, **{"model.attention": attention})
    rows = job.splits.train
    batch = collate(rows, np.arange(5), job.inputs, job.config.data)
    del batch["labels"]
    before = state.model(**batch).logits
    start, stop = rows.offsets[2:4]
    batch["input_ids"][0, start:stop] = batch["input_ids"][0, start:stop].flip(0)
    after = state.model(**batch).logits
    others = [0, 1, 3, 4]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[2], after[2])


@pytest.mark.parametrize("family", PACKING)
def test_losses_stay_close_for_fifty_steps(family_run, tmp_path, family):
    losses = []
    for more in ({}, PACKED):
        run, sources = family_run(
            family,
            **STILL,
            **more,
            **{"schedule.length": {"steps": 50}, "optimizer.lr": 1e-4, "model.attention": "sdpa"},
        )
        train_run(run, tmp_path, sources)
        losses.append([line["loss"] for line in read_history(tmp_path, run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


class RowByRow:
    """Attention within rows between boundaries, as the GPU's kernel computes it."""

    @staticmethod
    def apply(q, k, v, boundaries, longest, dropout, scaling):
        lengths = boundaries.diff().tolist()
        assert max(lengths) <= longest
        rows = zip(*(x.transpose(0, 1).split(lengths, 1) for x in (q, k, v)), strict=True)
        parts = [functional.scaled_dot_product_attention(*row, dropout_p=dropout, scale=scaling) for row in rows]
        return torch.cat(parts, 1).transpose(0, 1)


@pytest.mark.parametrize("family", PACKING)
def test_boundaries_give_what_padded_attention_gives(prepare, monkeypatch, family):
    monkeypatch.setattr("stableft.models.packed._FlashAttention", RowByRow)
    job, state = prepare(family, **PACKED, **STILL, **{"model.attention": "sdpa"})
    padded = logits_and_gradients(job, state, np.arange(6))
    for multiple in (8, 128):
        packed = logits_and_gradients(job, state, np.arange(6), multiple=multiple, boundaries=True)
        for name, theirs in padded.items():
            torch.testing.assert_close(packed[name], theirs, rtol=1e-5, atol=1e-5 * max(float(theirs.abs().max()), 0.1))


def test_the_kernel_takes_these_arguments():
    """Without a GPU, torch checks types and shapes of its operators on the device meta."""
    inputs = [torch.empty(256, 4, 64, dtype=torch.float16, device="meta", requires_grad=True) for _ in range(3)]
    boundaries = torch.empty(18, dtype=torch.int32, device="meta")
    output = _FlashAttention.apply(*inputs, boundaries, 128, 0.1, 0.125)
    output.backward(torch.empty_like(output))
    assert all(x.grad is not None and x.grad.shape == output.shape for x in inputs)


@pytest.mark.parametrize("family", PACKING)
def test_an_evaluation_is_that_of_padded_rows(prepare, family):
    outputs = [
        evaluate(state.model, job.splits.val, job.config, job.inputs, job.device)
        for job, state in (prepare(family), prepare(family, **PACKED))
    ]
    np.testing.assert_allclose(outputs[1].values, outputs[0].values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_stop_and_go_on(toy_run, toy_sources, undisturbed, tmp_path, precision):
    methods = {
        "reinit": {"pooler": True, "blocks": 1},
        "mixout": {"p": 0.3, "target": "pretrained", "granularity": "column", "scope": "after_dropout"},
        "optimizer.llrd": 0.9,
    }
    run = toy_run(precision=precision, **PACKED, **methods)
    with contextlib.suppress(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=5, checkpoint_every=10**6)
    torch.manual_seed(9)
    record = train_run(run, tmp_path, toy_sources)
    assert run_outputs(tmp_path, record) == undisturbed(run)


def test_micro_batches_give_the_same_training(toy_run, toy_sources, tmp_path):
    run = replace(toy_run(**PACKED, **STILL), probes=InLoopProbes(grad_norms=2, drift=2))
    losses = []
    for micro_batch in (None, 3):
        results = tmp_path / str(micro_batch)
        train_run(run, results, toy_sources, micro_batch=micro_batch)
        losses.append([line["loss"] for line in read_history(results, run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_saved_weights_are_those_of_any_model(family_run, tmp_path):
    run, sources = family_run("bert", **PACKED)
    record = train_run(run, tmp_path, sources, save="last")
    folder = next(run_folder(tmp_path, record.run_id).glob("model-*"))
    assert "packed" not in (folder / "config.json").read_text()
    again, places = family_run("bert", folder=folder)
    job, state = prepare_run(again, tmp_path, places, Execution(threads=1))
    assert state.model.config._attn_implementation == again.config.model.attention
    assert "attention_mask" in collate(job.splits.train, np.arange(5), job.inputs, job.config.data)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", PACKING)
def test_an_update_reads_nothing_from_the_device(prepare, family, attention, precision):
    job, state = prepare(family, **PACKED, **{"model.attention": attention, "precision": precision})
    for _ in range(2):
        with HostReads() as reads:
            train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, job.inputs, job.device)
        assert not reads.counts


def test_padded_is_left_out_of_configs_and_ids(toy_run):
    plain, padded, packed = toy_run(), toy_run(execution="padded"), toy_run(**PACKED)
    assert plain.run_id == padded.run_id
    assert plain.config.normalized() == padded.config.normalized()
    assert "execution" not in json.loads(padded.config.normalized().model_dump_json())
    assert packed.run_id != plain.run_id
    assert packed.config.setting_id(("execution",)) == plain.config.setting_id(("execution",))
    assert packed.run_id == toy_run(**PACKED, **{"data.pad_to_max": True}).run_id


def test_loss_surfaces_pad(toy_run):
    assert origin_config(toy_run(**PACKED).config, 0).execution is None


def test_a_sweep_sets_it():
    sweeps = (load_sweep("configs/smoke.yaml", LocalPaths(), sets=[f"execution={how}"]) for how in ("packed", "padded"))
    packed, padded = ([run.config for run in sweep.runs] for sweep in sweeps)
    assert {config.execution for config in packed} == {"packed"}
    assert {config.execution for config in padded} == {None}
    with pytest.raises(UserError, match="execution: 'pact' must be 'padded', 'packed', 'fused' or 'grouped'"):
        load_sweep("configs/smoke.yaml", LocalPaths(), sets=["execution=pact"])


@pytest.mark.parametrize(
    ("family", "values"),
    [*((family, {}) for family in ("xlnet", "bart", *OTHER_FAMILIES)), ("bert", {"is_decoder": True})],
)
def test_other_families_and_decoders_are_refused(family_run, family, values):
    run, sources = family_run(family, values=values, **PACKED)
    with pytest.raises(UserError, match=r"^execution: stableft cannot pack the rows of .*; write padded or grouped$"):
        preload_inputs(run, sources)
