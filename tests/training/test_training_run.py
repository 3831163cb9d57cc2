"""Whole runs of a tiny model: what is drawn from which seed, what is left in the run folder, how a run fails."""

import json
import math
import os
import platform
import re
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import add_model_folder, count_updates, read_history, run_outputs, train_run, write_tiny_bert
from torch.nn import functional

from stableft.config.planned_run import Execution, InLoopProbes, RunProgress
from stableft.data.tokens import collate
from stableft.errors import UserError
from stableft.records.run_record import PREDICTIONS_FILE, dump_record, read_record, run_folder
from stableft.report.runs import describe_environment
from stableft.seeds import derive_seed
from stableft.sweep.local_workers import LocalExecutor
from stableft.training.loop import LoopSettings, run_steps
from stableft.training.outputs import count_skipped_steps
from stableft.training.run import train
from stableft.training.setup import (
    GLOBAL_SWITCHES,
    batch_indices,
    prepare_device,
    prepare_run,
    torch_settings_restored,
)
from stableft.training.step import StepResult, _is_short, train_on_batch


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_same_config_twice_is_the_same_bits(toy_run, toy_sources, tmp_path, precision):
    run = toy_run(precision=precision)
    first, second = (train_run(run, tmp_path / name, toy_sources) for name in "ab")
    assert run_outputs(tmp_path / "a", first) == run_outputs(tmp_path / "b", second)
    other = toy_run(**{"precision": precision, "seeds": {"init": 1, "data": 2}})
    third = run_outputs(tmp_path / "a", train_run(other, tmp_path / "a", toy_sources))
    assert third["history"] != run_outputs(tmp_path / "a", first)["history"]


def test_without_deterministic_kernels_one_thread_gives_the_same_bits_and_the_record_says_so(
    toy_run, toy_sources, tmp_path
):
    on, off = (train_run(toy_run(), tmp_path / name, toy_sources, deterministic=name == "on") for name in ("on", "off"))
    assert run_outputs(tmp_path / "on", on) == run_outputs(tmp_path / "off", off)
    assert on.environment
    assert off.environment
    assert "deterministic" not in dump_record(on)  # as in older records
    assert '"deterministic":false' in dump_record(off)
    assert (on.environment.arithmetic, off.environment.arithmetic) == ("cpu", "cpu, not deterministic")
    assert describe_environment(off.environment.model_dump()).startswith("cpu, not deterministic, ")


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_kernels_are_asked_of_torch_on_any_device(deterministic):
    with torch_settings_restored():
        prepare_device(Execution(deterministic=deterministic))
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert not torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]


def test_without_deterministic_kernels_any_workspace_will_do(monkeypatch):
    for name in ("set_device", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    with torch_settings_restored():
        assert prepare_device(Execution(device="cuda:0", deterministic=False)).type == "cuda"


def test_a_run_leaves_torchs_switches_and_generators_as_they_were(toy_run, toy_sources, tmp_path):
    """They belong to the program that calls it."""
    before = torch.get_num_threads(), torch.get_rng_state()
    torch.use_deterministic_algorithms(False)
    switches = [getattr(owner, name) for owner, name in GLOBAL_SWITCHES]
    try:
        torch.set_num_threads(3)
        train(toy_run(), tmp_path, toy_sources, Execution(threads=1))
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.get_rng_state(), before[1])
        with torch_settings_restored():
            for owner, name in GLOBAL_SWITCHES[2:]:
                setattr(owner, name, not getattr(owner, name))
            for owner, name in GLOBAL_SWITCHES[:2]:
                setattr(owner, name, "tf32" if getattr(owner, name) == "ieee" else "ieee")
            torch.use_deterministic_algorithms(True)
        assert [getattr(owner, name) for owner, name in GLOBAL_SWITCHES] == switches
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before[0])


def test_each_seed_moves_its_own_stream_alone(toy_run, toy_sources, tmp_path):
    base, data, init = (
        prepare_run(toy_run(seeds={"init": i, "data": d}), tmp_path, toy_sources, Execution())
        for i, d in ((1, 1), (1, 2), (2, 1))
    )
    weights, data_weights, init_weights = (state.model.state_dict() for _, state in (base, data, init))
    assert all(torch.equal(weights[name], data_weights[name]) for name in weights)
    differ = {name for name in weights if not torch.equal(weights[name], init_weights[name])}
    assert differ == {"classifier.weight", "bert.pooler.dense.weight"}  # this checkpoint has no pooler
    order, data_order, init_order = (
        np.concatenate([batch_indices(job, step) for step in range(job.total)]) for job, _ in (base, data, init)
    )
    assert np.array_equal(order, init_order)
    assert not np.array_equal(order, data_order)
    assert sorted(order[:28]) == sorted(order[28:]) == list(range(28))
    assert not np.array_equal(order[:28], order[28:])


def test_dropout_follows_the_data_seed(toy_run, toy_sources, tmp_path):
    seeds = []
    for init, data in ((1, 1), (2, 1), (1, 2)):
        run = toy_run(**{"seeds": {"init": init, "data": data}, "schedule.length": {"steps": 1}})
        while_training = set()
        train(run, tmp_path, toy_sources, Execution(), lambda _, to=while_training: to.add(torch.initial_seed()))
        seeds += while_training
    assert seeds == [derive_seed(1, "dropout"), derive_seed(1, "dropout"), derive_seed(2, "dropout")]


@pytest.mark.parametrize("cadence", [{"times": 14}, {"per_epoch": 2}])
def test_evaluation_never_moves_the_training(toy_run, toy_sources, tmp_path, cadence):
    rare = toy_run(**{"evaluation.every": {"times": 1}})
    often = toy_run(**{"evaluation.every": cadence, "evaluation.at_start": True, "evaluation.batch_size": 5})
    torch.manual_seed(7)
    train_run(rare, tmp_path, toy_sources)
    torch.manual_seed(8)
    torch.rand(3)
    record = train_run(often, tmp_path, toy_sources)
    assert len(record.evals) > 4
    assert read_history(tmp_path, rare) == read_history(tmp_path, often)


def test_the_history_has_a_line_for_each_step(toy_run, toy_sources, tmp_path):
    run = toy_run(**{"schedule.warmup": 0.3})
    record = train_run(run, tmp_path, toy_sources)
    lines = read_history(tmp_path, run)
    assert [line["step"] for line in lines] == list(range(1, 15))
    assert all(line.keys() == {"step", "loss", "lr", "grad_norm"} for line in lines)
    # int(0.3 * 14) = 4 steps of warm-up; the first update has rate 0, the last one a tenth of the peak
    rates = [0, 0.25, 0.5, 0.75, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * rate for rate in rates], rel=1e-12)
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    first, second = record.evals[0], record.evals[1]
    assert (first.step, second.step) == (3, 6)
    assert second.train_loss == pytest.approx(sum(line["loss"] for line in lines[3:6]) / 3, rel=1e-12)
    assert first.epoch == pytest.approx(3 / 7)


def test_the_first_update_has_rate_zero_and_changes_no_weight(toy_run, toy_sources, tmp_path):
    from stableft.training.step import learning_rate, train_on_batch

    job, state = prepare_run(toy_run(), tmp_path, toy_sources, Execution())
    for step, moves in ((0, False), (1, True)):
        before = {name: value.clone() for name, value in state.model.state_dict().items()}
        lr = learning_rate(job.config, step, job.total)
        train_on_batch(state, job.splits.train, batch_indices(job, step), job.config, lr, job.inputs, job.device)
        assert any(not torch.equal(before[n], v) for n, v in state.model.state_dict().items()) is moves
    assert count_updates(state.optimizer) == 2


def test_without_clipping_the_norm_is_stored_all_the_same(toy_run, toy_sources, tmp_path):
    norms = {}
    for clip in (None, 1e-3):
        run = toy_run(**{"optimizer.clip_norm": clip, "schedule.length": {"steps": 2}})
        train_run(run, tmp_path, toy_sources)
        norms[clip] = [line["grad_norm"] for line in read_history(tmp_path, run)]
    assert norms[None][0] == norms[1e-3][0] > 1e-3  # before clipping; the first update is one of rate 0


@pytest.mark.parametrize("regression", [False, True])
def test_the_loss_is_the_mean_of_the_task(toy_run, toy_sources, tmp_path, regression):
    run = toy_run(regression, **{"model.dropout": 0.0, "schedule.length": {"steps": 1}})
    job, state = prepare_run(run, tmp_path, toy_sources, Execution())
    batch = collate(job.splits.train, batch_indices(job, 0), job.inputs, run.config.data)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = state.model(**batch).logits
    assert logits.shape == (4, 1 if regression else 2)
    expected = functional.mse_loss(logits[:, 0], labels) if regression else functional.cross_entropy(logits, labels)
    train_run(run, tmp_path, toy_sources)
    assert read_history(tmp_path, run)[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_predictions_are_stored_for_each_example(toy_run, toy_sources, tmp_path):
    run = toy_run()
    record = train_run(run, tmp_path, toy_sources)
    with np.load(run_folder(tmp_path, run.run_id) / PREDICTIONS_FILE) as file:
        arrays = dict(file)
    assert arrays.keys() == {
        *("val_last", "val_best", "val_labels", "val_index", "test_last", "test_best", "test_labels", "test_index")
    }
    for split, rows in (("val", 12), ("test", 8)):
        assert arrays[f"{split}_last"].shape == arrays[f"{split}_best"].shape == (rows, 2)
        assert arrays[f"{split}_last"].dtype == np.float32
        assert arrays[f"{split}_index"].tolist() == list(range(rows))
        assert arrays[f"{split}_labels"].tolist() == [i % 2 for i in range(rows)]
    assert record.last
    assert record.last.val["accuracy"] == (arrays["val_last"].argmax(1) == arrays["val_labels"]).mean()


def test_regression_is_scored_by_spearman(toy_run, toy_sources, tmp_path):
    run = toy_run(True)
    record = train_run(run, tmp_path, toy_sources)
    assert record.last
    assert record.last.val.keys() == {"spearman"}
    assert -1 <= record.last.val["spearman"] <= 1
    assert record.last.test
    assert record.data
    level = 1.645 / record.data.test_rows**0.5  # the file of test rows makes "test" the reported split
    assert record.failed == (record.last.test["spearman"] <= level)
    assert record.failed_by_accuracy is None
    with np.load(run_folder(tmp_path, run.run_id) / PREDICTIONS_FILE) as file:
        assert file["val_last"].shape == (12, 1)
        assert file["val_labels"].dtype == np.float32
        loss = np.mean((file["val_last"][:, 0] - file["val_labels"]) ** 2)
    assert record.evals[-1].val_loss == pytest.approx(float(loss), rel=1e-5)


def test_constant_predictions_have_no_spearman_and_fail(toy_run, toy_sources, tiny_tokenizer, tmp_path):
    """A pooler of weight 0 and bias 1 says the same of every row; the rate is too small for float32 to tell."""

    def silence(model) -> None:
        model.pooler.dense.weight.zero_()
        model.pooler.dense.bias.fill_(1.0)

    folder = write_tiny_bert(tmp_path / "silent", tiny_tokenizer, silence)
    sources, digest = add_model_folder(toy_sources, folder)
    record = train_run(toy_run(True, **{"model.sha256": digest, "optimizer.lr": 1e-30}), tmp_path, sources)
    assert record.last
    assert math.isnan(record.last.val["spearman"])
    assert (record.status, record.failed, record.reason, record.steps) == ("finished", True, None, 14)


def is_all_nan(values: dict[str, float] | None) -> bool:
    return values is not None and all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_absurd_rate_ends_as_a_failed_run(toy_run, toy_sources, tmp_path, precision):
    run = toy_run(**{"optimizer.lr": 1e30, "precision": precision})
    record = train_run(run, tmp_path, toy_sources, save="last")
    assert (record.status, record.failed, record.failed_by_accuracy) == ("finished", True, True)
    assert record.reason
    assert record.reason.startswith("the training loss was ")
    assert record.reason.endswith(f" at step {record.steps}")
    assert record.steps < 14
    assert record.last
    assert is_all_nan(record.last.val)
    assert is_all_nan(record.last.test)
    assert len(read_history(tmp_path, run)) == record.steps
    assert read_record(tmp_path, run.run_id) is not None


@pytest.mark.parametrize("at_start", [False, True])
def test_broken_weights_end_as_a_failed_run(toy_run, toy_sources, tiny_tokenizer, tmp_path, at_start):
    folder = write_tiny_bert(
        tmp_path / "nan", tiny_tokenizer, lambda model: model.embeddings.word_embeddings.weight.fill_(math.nan)
    )
    sources, digest = add_model_folder(toy_sources, folder)
    record = train_run(toy_run(**{"model.sha256": digest, "evaluation.at_start": at_start}), tmp_path, sources)
    assert (record.status, record.failed, record.steps) == ("finished", True, 1)
    assert "nan at step 1" in record.reason
    assert record.best
    assert is_all_nan(record.best.val)
    assert len(record.evals) == at_start


def test_a_last_step_that_breaks_the_weights_is_a_failed_run_with_a_reason(toy_run, toy_sources, tmp_path):
    """Both losses are finite: the second was taken before the update that ruined the weights."""
    run = toy_run(**{"optimizer.lr": 1e30, "schedule.length": {"steps": 2}, "schedule.warmup": 0.5})
    record = train_run(run, tmp_path, toy_sources)
    assert (record.status, record.failed, record.steps) == ("finished", True, 2)
    assert re.search("outputs .*step, 2, .*not .*finite", record.reason)


def test_half_precision_skips_steps_that_overflow(toy_run, toy_sources, tmp_path, monkeypatch):
    """The gradient of the loss is 1e6 times too large for the scaler until it has halved its scale often enough."""
    from stableft.training import step as update

    original = update.loss_sum
    monkeypatch.setattr(update, "loss_sum", lambda outputs, labels: original(outputs, labels) * 1e4)
    seen = []
    make = update.train_on_batch

    def watched(state, *args):
        before = [p.detach().clone() for p in state.model.parameters()]
        taken = count_updates(state.optimizer)
        moments = [value.clone() for kept in state.optimizer.state.values() for value in kept.values()]
        step = make(state, *args)
        unchanged = all(torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True))
        skipped = count_updates(state.optimizer) == taken
        after = [value for kept in state.optimizer.state.values() for value in kept.values()]
        same = not moments or all(torch.equal(old, new) for old, new in zip(moments, after, strict=True))
        seen.append((skipped, unchanged, same, step.lr))
        return step

    monkeypatch.setattr("stableft.training.run.train_on_batch", watched)
    record = train_run(toy_run(precision="fp16"), tmp_path, toy_sources)
    skipped = [row for row in seen if row[0]]
    assert record.skipped_steps == len(skipped) > 2
    assert all(unchanged and same for _, unchanged, same, _ in skipped)
    taken = [row for row in seen if not row[0]]
    assert taken
    assert all(not unchanged for _, unchanged, _, lr in taken if lr)
    assert record.steps == 14  # the schedule goes on (Z's code)


def test_single_precision_skips_nothing(toy_run, toy_sources, tmp_path):
    assert train_run(toy_run(), tmp_path, toy_sources).skipped_steps == 0


def test_the_run_folder_tells_nothing_of_this_machine(toy_run, toy_sources, tmp_path, monkeypatch):
    """No path, host name or environment variable; the files that are compressed are searched unpacked."""
    monkeypatch.setenv("HUB_TOKEN_OF_A_TEST", "hf_verysecretvalue")
    monkeypatch.setattr(socket, "gethostname", lambda: "nodename-of-a-test")
    monkeypatch.setattr(platform, "node", lambda: "nodename-of-a-test")
    results = tmp_path / "results"
    record = train_run(toy_run(), results, toy_sources, save="all")
    words = ["hf_verysecretvalue", "HUB_TOKEN", "nodename-of-a-test", str(tmp_path), str(Path.home()), str(Path.cwd())]
    words += [str(path.parent) for path in toy_sources.paths.values()] + [str(toy_sources.cache_dir)]
    words += [os.uname().nodename] if len(os.uname().nodename) > 5 else []
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"record.json", "config.yaml", "history.jsonl", "predictions.npz", "model.safetensors"} <= {
        path.name for path in files
    }
    for path in files:
        content = path.read_bytes()
        if path.name == PREDICTIONS_FILE:
            with np.load(path) as arrays:
                content += b"".join(arrays[name].tobytes() for name in arrays.files)
        assert [word for word in words if word.encode() in content] == [], path
    assert record.environment
    assert record.environment.threads == 1
    assert record.environment.device == "cpu"
    assert record.environment.versions["torch"] == metadata.version("torch")  # without "+cu130"


def test_progress_tells_every_step(toy_run, toy_sources, tmp_path):
    seen: list[RunProgress] = []
    run = toy_run()
    train(run, tmp_path, toy_sources, Execution(threads=1), seen.append)
    assert {now.step for now in seen} == set(range(1, 15))
    assert {now.total for now in seen} == {14}
    assert seen[-1].val == read_record(tmp_path, run.run_id).evals[-1].val["accuracy"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_computes_the_same_losses(toy_run, toy_sources, tmp_path, precision):
    run = toy_run(**{"precision": precision, "model.dropout": 0.0})
    on_cpu = train_run(toy_run(**{"model.dropout": 0.0}), tmp_path / "cpu", toy_sources)
    record = train_run(run, tmp_path / "gpu", toy_sources, device="cuda:0")
    ours = [line["loss"] for line in read_history(tmp_path / "gpu", run)]
    theirs = [json.loads(line)["loss"] for line in run_outputs(tmp_path / "cpu", on_cpu)["history"].splitlines()]
    assert ours == pytest.approx(theirs, rel=1e-4 if precision == "fp32" else 2e-2)
    assert record.environment
    assert record.environment.device == torch.cuda.get_device_name(0)
    assert record.peak_memory_bytes


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_first_update_allocates_nothing_that_stays(toy_run, toy_sources, tmp_path, precision):
    run = toy_run(precision=precision)
    job, state = prepare_run(run, tmp_path, toy_sources, Execution(threads=1))
    before = {p: dict(kept) for p, kept in state.optimizer.state.items()}
    assert before.keys() == {p for p in state.model.parameters() if p.requires_grad}
    train_on_batch(state, job.splits.train, batch_indices(job, 0), job.config, 1e-3, job.inputs, job.device)
    for p, kept in state.optimizer.state.items():
        assert all(kept[name] is tensor for name, tensor in before[p].items())


@pytest.mark.parametrize(
    ("precision", "save", "taken"),
    [("fp16", "last", 3), ("fp16", "all", 3), ("fp16", "best", 20), ("fp32", "last", 20)],
)
def test_weights_to_save_are_of_the_step_with_a_bad_loss(toy_run, toy_sources, tmp_path, precision, save, taken):
    """Losses are read every 20 steps on a GPU; in fp16, the scaler skips bad steps and training would go on."""
    _, state = prepare_run(toy_run(precision=precision), tmp_path, toy_sources, Execution(threads=1))
    losses = iter([1.0, 1.0, math.nan, *[1.0] * 97])

    def update() -> StepResult:
        state.step += 1
        loss = torch.tensor(next(losses))
        return StepResult(loss, 0.0, grad_norm=loss)

    settings = LoopSettings("run", tmp_path, Execution(save=save), torch.device("cuda"), 100, frozenset(), {})
    assert run_steps(settings, state, update, evaluate=list, report=list, stop=bool)
    assert (state.step, len(state.history)) == (taken, 3)
    assert count_skipped_steps(state) == (1 if precision == "fp16" else 0)


@pytest.mark.parametrize("workspace", [":4096:2", ""])
def test_a_workspace_that_is_not_deterministic_is_a_sentence(monkeypatch, workspace):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG .*unset it.* :4096:8 or :16:8"):
        prepare_device(Execution(device="cuda:0"))


@pytest.mark.parametrize(("jobs", "limits"), [(1, []), (2, [0.475] * 2), (5, [0.19] * 5)])
def test_jobs_on_one_gpu_share_its_memory(monkeypatch, jobs, limits):
    """Each is limited before it takes any, and all together to 95 %; a job alone is not."""
    given = []
    for name in ("set_device", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: given.append(limit))
    slots = LocalExecutor(("cuda:0", "cuda:1"), jobs).slots(Execution(threads=1))
    with torch_settings_restored():
        for _, execution in slots:
            prepare_device(execution)
    for device in ("cuda:0", "cuda:1"):
        assert [share for share, of in given if of == torch.device(device)] == pytest.approx(limits)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_products_and_convolutions_alike(monkeypatch, tf32):
    for name in ("set_device", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda _: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    try:
        prepare_device(Execution(device="cuda:0", tf32=tf32))
        assert [backend.fp32_precision for backend in backends] == ["tf32" if tf32 else "ieee"] * 2
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra", "bart", "xlnet"])
def test_an_update_never_waits_for_the_gpu(family_run, tmp_path, family, attention, precision):
    if (family, attention) == ("xlnet", "sdpa"):
        pytest.skip("has no fused attention")
    run, sources = family_run(family, **{"model.attention": attention, "precision": precision, "model.dropout": 0.1})
    run = replace(run, probes=InLoopProbes(grad_norms=1, drift=2))
    for cuda_graphs in (True, False):
        job, state = prepare_run(run, tmp_path, sources, Execution(device="cuda:0", cuda_graphs=cuda_graphs))
        arguments = (state, job.splits.train, batch_indices(job, 0), job.config, 1e-3, job.inputs, job.device)
        for _ in range(8):  # what is set up once may wait, and so may recording: with drift, and without it
            train_on_batch(*arguments)
        assert cuda_graphs is bool(state.graphs and state.graphs.recorded)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                train_on_batch(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_clipping_is_left_out_only_where_it_changes_no_bit():
    gradient = torch.linspace(-1, 1, 1000)
    short = []
    for norm in (0.0, 0.5, 0.999998, 0.999999, 0.9999995, 1.0, 1.00001, 2.0, math.inf, math.nan):
        parameter = torch.nn.Parameter(torch.zeros(1000))
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grads_with_norm_([parameter], 1.0, torch.tensor(norm))
        short.append(_is_short(torch.tensor(norm), 1.0))
        assert short[-1] == torch.equal(parameter.grad, gradient), norm
    assert short[:3] == [True] * 3
    assert short[-3:] == [False] * 3
