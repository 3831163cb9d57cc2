"""Fused blocks: the results of packed rows, with dropout masks of their own, in every family with BERT's blocks."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.host_reads import HostReads
from support.training_runs import read_history, run_outputs, train_run
from torch import Tensor

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution, InLoopProbes, LocalPaths, RunInterrupted
from stableft.config.sweep_file import load_sweep
from stableft.data import tokens
from stableft.data.tokens import collate
from stableft.errors import UserError
from stableft.models import fused
from stableft.probes.loss_surface import origin_config
from stableft.training.evaluate import evaluate, loss_sum
from stableft.training.setup import preload_inputs, prepare_run
from stableft.training.step import train_on_batch

FUSING = [name for name, spec in BACKBONES.items() if spec.fuses]
FUSED, PACKED = ({"execution": how} for how in ("fused", "packed"))
STILL = {"model.dropout": 0.0}


@pytest.fixture
def prepare(family_run, tmp_path):
    """Returns a maker of a run's setup and state: `prepare("bert", execution="fused", ...)`."""

    def make(family: str, **settings):
        run, sources = family_run(family, **settings)
        return prepare_run(run, tmp_path, sources, Execution(threads=1))

    return make


def logits_and_gradients(job, state, indices: np.ndarray) -> dict[str, Tensor]:
    batch = collate(job.splits.train, indices, job.inputs, job.config.data)
    labels = batch.pop("labels")
    logits = state.model(**batch).logits
    loss_sum(logits, labels).backward()
    return {"": logits.detach()} | {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


# Rows of one label: those of two nearly cancel, and leave little but rounding in some gradients.
@pytest.mark.parametrize("rows", [[4], [3, 1, 5, 7, 9, 11]])
@pytest.mark.parametrize("family", FUSING)
def test_logits_and_gradients_are_those_of_packed_rows(prepare, monkeypatch, family, rows):
    monkeypatch.setattr(tokens, "BLOCK_COST", 1)  # packed rows are padded in several blocks, others in one
    jobs = (prepare(family, **STILL, **more) for more in (PACKED, FUSED))
    packed, fused_ones = (logits_and_gradients(job, state, np.array(rows)) for job, state in jobs)
    assert packed.keys() == fused_ones.keys()
    for name, theirs in packed.items():
        atol = 1e-5 * float(theirs.abs().max())
        if name.endswith("key.bias"):  # its gradient is 0 up to rounding
            atol = 1e-5
        torch.testing.assert_close(fused_ones[name], theirs, rtol=1e-5, atol=atol, msg=name)


@pytest.mark.parametrize("family", FUSING)
def test_an_evaluation_is_that_of_packed_rows(prepare, family):
    outputs = [
        evaluate(state.model, job.splits.val, job.config, job.inputs, job.device)
        for job, state in (prepare(family, **PACKED), prepare(family, **FUSED))
    ]
    np.testing.assert_allclose(outputs[1].values, outputs[0].values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keeps_first", [False, True])
def test_the_written_gradient_is_that_of_the_function(keeps_first):
    """Against differences in float64, with the same masks in every call."""
    random, size, heads, wide = torch.Generator().manual_seed(0), 4, 2, 6
    lengths = torch.tensor([3, 1, 2])
    tokens, width = int(lengths.sum()), int(lengths.max())
    visible = torch.arange(width) < lengths[:, None]
    begins = lengths.cumsum(0) - lengths
    cells = begins[:, None] + torch.where(visible, torch.arange(width), 0)
    packing = {"cells": cells, "places": visible.flatten().nonzero()[:, 0], "visible": visible}
    layout = fused._add_layout(torch.nn.Identity(), (), packing, heads)[1]["layout"]
    layout = replace(layout, hidden=layout.hidden.double())
    shapes = [(tokens, size), *[(size, size), (size,)] * 4, (size,), (size,)]
    shapes += [(wide, size), (wide,), (size, wide), (size,), (size,), (size,)]
    inputs = [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]

    def block(*inputs: Tensor) -> Tensor:
        torch.manual_seed(5)
        output = fused._Block.apply(*inputs, layout, keeps_first, heads, (0.3, 0.2), 1e-5)
        assert output.shape == (len(lengths) if keeps_first else tokens, size)
        return output

    assert torch.autograd.gradcheck(block, inputs, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_a_mask_drops_the_share_and_keeps_the_mean(p):
    torch.manual_seed(3)
    (mask,) = fused.draw_masks([torch.Size((333, 1001))], [p], torch.device("cpu"))
    assert mask is not None
    assert mask.shape == (333, 1001)
    dropped = (mask == 0).float()
    assert mask[mask > 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    for share in (dropped.mean(), *(dropped.flatten()[i::4].mean() for i in range(4))):  # four numbers a draw
        assert float(share) == pytest.approx(p, abs=0.006)
    assert abs(float(((dropped[:, 1:] - p) * (dropped[:, :-1] - p)).mean())) < 0.002  # neighbours are independent


def test_masks_follow_the_global_generator_and_vanish_without_dropout():
    """Drawn together or one by one, they are equal."""
    shapes, device = [torch.Size((5, 7)), torch.Size((3, 3)), torch.Size((4, 2, 8))], torch.device("cpu")
    before = torch.get_rng_state()
    assert fused.draw_masks(shapes, [0.0] * 3, device) == [None] * 3
    assert torch.equal(torch.get_rng_state(), before)
    for dropped in ([0.5, 0.5, 0.5], [0.5, 0.1, 0.1], [0.1, 0.0, 0.1]):
        torch.set_rng_state(before)
        together, later = fused.draw_masks(shapes, dropped, device), torch.rand(3)
        torch.set_rng_state(before)
        alone = [fused.draw_masks([shape], [p], device)[0] for shape, p in zip(shapes, dropped, strict=True)]
        assert torch.equal(torch.rand(3), later)
        for shape, p, mask, again in zip(shapes, dropped, together, alone, strict=True):
            assert (mask is None, again is None) == (p == 0, p == 0)
            if mask is not None and again is not None:
                assert mask.shape == shape
                assert torch.equal(mask, again)
    first, second = fused.draw_masks([shapes[0]] * 2, [0.5, 0.5], device)
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_every_dropout_of_the_model_is_taken_over(prepare, monkeypatch):
    """With torch's dropout, or its function, forbidden, an update still draws masks: 2 blocks, embeddings and head."""
    job, state = prepare("bert", **FUSED)
    drawn = []

    def draw(shapes, dropped, device):
        drawn.extend(shapes)
        return [None] * len(shapes)

    monkeypatch.setattr(fused, "draw_masks", draw)
    monkeypatch.setattr(torch.nn.functional, "dropout", None)
    train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, job.inputs, job.device)
    assert len(drawn) == 3 * state.model.config.num_hidden_layers + 2
    assert drawn[-1][0] == 4  # the head sees the rows alone


def test_losses_stay_close_for_fifty_steps(family_run, tmp_path):
    losses = []
    for more in (PACKED, FUSED):
        run, sources = family_run("bert", **STILL, **more, **{"schedule.length": {"steps": 50}, "optimizer.lr": 1e-4})
        train_run(run, tmp_path, sources)
        losses.append([line["loss"] for line in read_history(tmp_path, run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_stop_and_go_on(toy_run, toy_sources, undisturbed, tmp_path):
    run = toy_run(**FUSED, **{"reinit": {"pooler": True, "blocks": 1}, "optimizer.llrd": 0.9})
    with contextlib.suppress(RunInterrupted):
        train_run(run, tmp_path, toy_sources, stop_at=5, checkpoint_every=10**6)
    torch.manual_seed(9)
    record = train_run(run, tmp_path, toy_sources)
    assert run_outputs(tmp_path, record) == undisturbed(run)


def test_micro_batches_and_probes_give_the_same_training(toy_run, toy_sources, tmp_path):
    losses = []
    for how, micro_batch in ((PACKED, None), (FUSED, None), (FUSED, 3)):
        run = replace(toy_run(**how, **STILL), probes=InLoopProbes(grad_norms=2, drift=2))
        results = tmp_path / str(len(losses))
        train_run(run, results, toy_sources, micro_batch=micro_batch)
        losses.append([line["loss"] for line in read_history(results, run)])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("family", FUSING)
def test_an_update_reads_nothing_from_the_device(prepare, family):
    job, state = prepare(family, **FUSED)
    for _ in range(2):
        with HostReads() as reads:
            train_on_batch(state, job.splits.train, np.arange(4), job.config, 1e-3, job.inputs, job.device)
        assert not reads.counts


def test_it_is_part_of_the_id_and_attention_is_not(toy_run):
    eager, sdpa = (toy_run(**FUSED, **{"model.attention": how}) for how in ("eager", "sdpa"))
    assert eager.run_id == sdpa.run_id
    assert len({eager.run_id, toy_run(**PACKED).run_id, toy_run().run_id}) == 3
    assert eager.run_id == toy_run(**FUSED, **{"data.pad_to_max": True}).run_id
    assert origin_config(eager.config, 0).execution is None


@pytest.mark.parametrize(
    "setting",
    ["precision=fp16", "precision=bf16", "mixout={p: 0.1, target: pretrained, granularity: parameter, scope: linear}"],
)
def test_other_precisions_and_mixout_are_refused(setting):
    sets = ["execution=fused", setting]
    with pytest.raises(UserError, match="execution: fused needs precision fp32 and no mixout; write packed"):
        load_sweep("configs/smoke.yaml", LocalPaths(), sets=sets)


@pytest.mark.parametrize(
    ("family", "values", "instead"),
    [
        ("albert", {}, "packed"),
        ("bert", {"hidden_act": "relu"}, "packed"),
        ("bert", {"is_decoder": True}, "padded"),
        ("xlnet", {}, "padded"),
        ("bart", {}, "padded"),
    ],
)
def test_other_blocks_are_refused(family_run, family, values, instead):
    run, sources = family_run(family, values=values, **FUSED)
    with pytest.raises(UserError, match=rf"^execution: stableft cannot fuse the blocks of .*; write {instead}$"):
        preload_inputs(run, sources)
