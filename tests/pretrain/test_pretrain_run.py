"""Whole pre-trainings of a tiny model: bits, resuming, what is held out, what is left behind, how one fails."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pretraining import pretraining_outputs, write_wikipedia
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

from stableft.config.local_files import model_folder_digest
from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted
from stableft.errors import UserError
from stableft.models.build import build_model
from stableft.pretrain import masked_lm
from stableft.pretrain import run as module
from stableft.pretrain.config_file import MASKED_LM_FAMILIES, PlannedPretraining
from stableft.pretrain.corpus import build_tokenizer
from stableft.pretrain.record import MODEL_FOLDER, PretrainRecord, pretrain_folder
from stableft.pretrain.run import masked_batch_of_step, prepare_pretraining, pretrain_masked_lm
from stableft.records.run_record import CHECKPOINT_FILE, CONFIG_FILE, HISTORY_FILE, RECORD_FILE, read_record_as


def run_pretraining(plan: PlannedPretraining, results: Path, stop_at: int | None = None, **execution) -> PretrainRecord:
    """Pre-trains on one thread; with `stop_at`, stops as soon as that many steps are done."""
    job, state = prepare_pretraining(plan, results, Execution(**{"threads": 1, **execution}))
    return pretrain_masked_lm(job, state, stop=lambda: state.step == stop_at)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_config_twice_is_the_same_bits(plan_pretraining, tmp_path, precision):
    plan = plan_pretraining(precision=precision)
    for name in "ab":
        torch.manual_seed(ord(name))
        run_pretraining(plan, tmp_path / name)
    assert pretraining_outputs(tmp_path / "a", plan) == pretraining_outputs(tmp_path / "b", plan)
    other = plan_pretraining(precision=precision, seeds={"init": 0, "data": 1})
    run_pretraining(other, tmp_path / "a")
    assert pretraining_outputs(tmp_path / "a", other)["history"] != pretraining_outputs(tmp_path / "a", plan)["history"]


@pytest.mark.parametrize(("precision", "stops"), [("fp32", (1, 4, 11)), ("fp16", (5,)), ("bf16", (8,))])
def test_stop_and_go_on(plan_pretraining, tmp_path, precision, stops):
    plan = plan_pretraining(precision=precision)
    run_pretraining(plan, tmp_path / "whole")
    for step in stops:
        with pytest.raises(RunInterrupted, match=f"stopped after step {step}$"):
            run_pretraining(plan, tmp_path, stop_at=step)
        torch.manual_seed(99)  # another process has other global generators
    run_pretraining(plan, tmp_path)
    assert pretraining_outputs(tmp_path, plan) == pretraining_outputs(tmp_path / "whole", plan)


def test_what_is_left_behind(plan_pretraining, tmp_path):
    plan = plan_pretraining()
    record = run_pretraining(plan, tmp_path)
    folder = pretrain_folder(tmp_path, plan.config.run_id)
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, HISTORY_FILE, RECORD_FILE, MODEL_FOLDER}
    assert read_record_as(PretrainRecord, folder) == record
    assert (record.steps, record.skipped_steps, record.failed, record.reason) == (12, 0, False, None)
    assert [point.step for point in record.evals] == [4, 8, 12]
    assert record.perplexity == math.exp(record.evals[-1].held_out_loss)
    lines = [json.loads(line) for line in (folder / HISTORY_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert record.evals[1].train_loss == pytest.approx(sum(line["loss"] for line in lines[4:8]) / 4)


def test_tokens_are_counted_without_padding(plan_pretraining, tmp_path):
    plan = plan_pretraining(**{"schedule.length": {"epochs": 1}})
    record = run_pretraining(plan, tmp_path)
    assert record.tokens == record.data.train_tokens  # every row once
    assert record.tokens_per_second is not None
    training = record.seconds - sum(point.seconds for point in record.evals)
    assert record.tokens_per_second == pytest.approx(record.tokens / training)


def test_held_out_rows_never_reach_the_model_in_training(plan_pretraining, tmp_path):
    job, _ = prepare_pretraining(plan_pretraining(**{"schedule.length": {"epochs": 2}}), tmp_path, Execution())
    corpus = job.corpus

    def content(ids: np.ndarray) -> tuple[int, ...]:
        return tuple(int(token) for token in ids if token)

    held_out = {content(ids) for ids in job.held_out.target_ids.numpy()}
    seen = [
        content(row) for step in range(job.total_steps) for row in masked_batch_of_step(job, step).target_ids.numpy()
    ]
    assert len(held_out) > 25
    assert held_out.isdisjoint(seen)
    assert len(seen) == 2 * len(corpus.train)
    assert len(set(seen)) == len({content(ids) for ids in map(_row(corpus.rows), corpus.train)})


def _row(rows):
    return lambda i: rows.input_ids[rows.offsets[i] : rows.offsets[i + 1]]


def test_masks_move_with_the_step_and_the_seed_alone(plan_pretraining, tmp_path):
    job, _ = prepare_pretraining(plan_pretraining(), tmp_path, Execution())
    again, _ = prepare_pretraining(plan_pretraining(**{"optimizer.lr": 0.5}), tmp_path, Execution(micro_batch=2))
    other, _ = prepare_pretraining(plan_pretraining(seeds={"init": 0, "data": 1}), tmp_path, Execution())
    one, same, epoch = (
        masked_batch_of_step(job, 3),
        masked_batch_of_step(again, 3),
        masked_batch_of_step(job, 3 + job.steps_per_epoch),
    )
    assert torch.equal(one.inputs["input_ids"], same.inputs["input_ids"])
    assert torch.equal(job.held_out.inputs["input_ids"], again.held_out.inputs["input_ids"])
    assert torch.equal(job.held_out.inputs["input_ids"], other.held_out.inputs["input_ids"])
    assert not torch.equal(one.target_ids[:, :8], masked_batch_of_step(other, 3).target_ids[:, :8])
    assert one.target_ids.shape != epoch.target_ids.shape or not torch.equal(one.is_masked, epoch.is_masked)


def test_the_micro_batch_changes_only_the_last_bits(plan_pretraining, tmp_path):
    plan = plan_pretraining(**{"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0})
    run_pretraining(plan, tmp_path / "a")
    run_pretraining(plan, tmp_path / "b", micro_batch=3)
    losses = []
    for name in "ab":
        lines = (pretrain_folder(tmp_path / name, plan.config.run_id) / HISTORY_FILE).read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_evaluation_is_that_of_the_stock_model_and_moves_nothing(plan_pretraining, tmp_path):
    often = plan_pretraining(
        **{"evaluation.every": {"times": 12}, "evaluation.at_start": True, "evaluation.batch_size": 7}
    )
    rare = plan_pretraining()
    record = run_pretraining(often, tmp_path)
    run_pretraining(rare, tmp_path)
    assert pretraining_outputs(tmp_path, often)["history"] == pretraining_outputs(tmp_path, rare)["history"]
    assert record.evals[0].train_loss is None
    assert record.evals[0].held_out_loss == pytest.approx(math.log(rare.config.model["vocab_size"]), rel=0.05)
    model = AutoModelForMaskedLM.from_pretrained(pretrain_folder(tmp_path, rare.config.run_id) / MODEL_FOLDER)
    job, _ = prepare_pretraining(rare, tmp_path, Execution())
    held_out = job.held_out
    labels = held_out.target_ids.masked_fill(~held_out.is_masked, -100)
    with torch.no_grad():
        outputs = model(**held_out.inputs, labels=labels)
    assert record.evals[-1].held_out_loss == pytest.approx(outputs.loss.item(), rel=1e-5)
    right = (outputs.logits.argmax(-1) == held_out.target_ids)[held_out.is_masked].double().mean().item()
    assert record.evals[-1].held_out_accuracy == pytest.approx(right)


def test_the_loss_falls(plan_pretraining, tmp_path):
    record = run_pretraining(plan_pretraining(**{"schedule.length": {"steps": 150}, "corpus.pairs": 1000}), tmp_path)
    losses = [point.held_out_loss for point in record.evals]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < math.log(record.config.model["vocab_size"]) - 1.5
    assert record.evals[-1].held_out_accuracy > 0.1


def test_files_with_a_word_piece_vocabulary(plan_pretraining, tmp_path):
    write_wikipedia(tmp_path / "wiki")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "t", ".", *"abcdefghijklmnopqrsuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces, *(f"##{letter}" for letter in pieces[7:]), "##t"]))
    plan = plan_pretraining(
        text="wiki", vocabulary="vocab.txt", **{"corpus.pairs": None, "schedule.length": {"steps": 4}}
    )
    record = run_pretraining(plan, tmp_path)
    assert not record.failed
    model = pretrain_folder(tmp_path, record.run_id) / MODEL_FOLDER
    assert AutoTokenizer.from_pretrained(model).tokenize("Bado") == ["b", "##a", "##d", "##o"]


def test_going_on_from_a_checkpoint(plan_pretraining, tmp_path):
    first = plan_pretraining(**{"schedule.length": {"steps": 60}})
    record = run_pretraining(first, tmp_path)
    start = pretrain_folder(tmp_path, first.config.run_id) / MODEL_FOLDER
    second = plan_pretraining(start_from=str(start), **{"evaluation.at_start": True})
    assert second.config.run_id != plan_pretraining(**{"evaluation.at_start": True}).config.run_id
    more = run_pretraining(second, tmp_path)
    assert more.evals[0].held_out_loss == pytest.approx(record.evals[-1].held_out_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"model.num_hidden_layers": 1}, r"bert\.encoder\.layer\.1\.attention.* 15 more .*not fit$"),
        ({"model.num_hidden_layers": 3}, r"bert\.encoder\.layer\.2\.attention.* 15 more .*not fit$"),
        ({"model.hidden_size": 32}, "weights .*config: .*not fit$"),
        ({"vocabulary": "vocab.txt"}, r"vocabulary .*not 'vocab\.txt'$"),
    ],
)
def test_a_checkpoint_of_another_architecture(plan_pretraining, tmp_path, change, facts):
    plan = plan_pretraining(**{"schedule.length": {"steps": 1}})
    run_pretraining(plan, tmp_path)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    start = str(pretrain_folder(tmp_path, plan.config.run_id) / MODEL_FOLDER)
    with pytest.raises(UserError, match=facts):
        run_pretraining(plan_pretraining(start_from=start, **change), tmp_path)


def test_a_checkpoint_of_another_family_or_without_a_head(plan_pretraining, tmp_path):
    tokenizer = build_tokenizer("toylang", None, 32)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    RobertaModel(RobertaConfig(**config)).save_pretrained(tmp_path / "roberta")
    BertModel(BertConfig(**config)).save_pretrained(tmp_path / "bare")
    for name, sentence in (("roberta", "it is of family 'roberta', and"), ("bare", r"cls\.predictions\.bias and")):
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(UserError, match=sentence):
            run_pretraining(plan_pretraining(start_from=name), tmp_path)


def test_text_of_which_the_vocabulary_knows_nothing(plan_pretraining, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"xx{i} yy{j}" for i in range(5) for j in range(6) for _ in range(j)))
    with pytest.raises(ValueError, match=r"(no word of vocabulary 'toylang'|is equal to a held-out row)$"):
        run_pretraining(plan_pretraining(text="a.txt"), tmp_path)


def test_the_model_is_fine_tuned_with_a_fresh_pooler(plan_pretraining, tmp_path, make_config):
    plan = plan_pretraining()
    run_pretraining(plan, tmp_path)
    folder = pretrain_folder(tmp_path, plan.config.run_id) / MODEL_FOLDER
    digest = model_folder_digest(folder)
    config = make_config(**{"model.name": "mine", "model.sha256": digest, "data.max_length": 32})
    model, pretrained = build_model(config, LocalPaths(paths={digest: folder}))
    assert pretrained.missing == ("bert.pooler",)
    stored = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(model.state_dict()[name], stored[name])
    assert "cls.predictions.transform.dense.weight" in stored


@pytest.mark.parametrize("family", [family for family in MASKED_LM_FAMILIES if family != "bert"])
def test_other_families_learn_and_are_fine_tuned(plan_pretraining, tmp_path, make_config, family):
    plan = plan_pretraining(family=family, **{"model.max_position_embeddings": 34})
    record = run_pretraining(plan, tmp_path)
    assert record.reason is None
    assert record.evals[-1].held_out_loss < record.evals[0].held_out_loss
    folder = pretrain_folder(tmp_path, plan.config.run_id) / MODEL_FOLDER
    digest = model_folder_digest(folder)
    config = make_config(**{"model.name": "mine", "model.sha256": digest, "data.max_length": 32})
    model, pretrained = build_model(config, LocalPaths(paths={digest: folder}))
    assert pretrained.spec.name == family
    stored = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    name = next(name for name in stored if name.endswith("attention.self.query.weight") or "attention.query.w" in name)
    assert torch.equal(model.state_dict()[name], stored[name])


def test_a_loss_that_is_no_number_fails(plan_pretraining, tmp_path):
    plan = plan_pretraining(**{"optimizer.lr": 1e30, "optimizer.clip_norm": None})
    record = run_pretraining(plan, tmp_path)
    assert record.failed
    assert re.fullmatch(f"the training loss .*(nan|inf) at step {record.steps}", record.reason)
    folder = pretrain_folder(tmp_path, plan.config.run_id)
    assert not (folder / MODEL_FOLDER).exists()
    assert not (folder / CHECKPOINT_FILE).exists()
    assert read_record_as(PretrainRecord, folder).reason == record.reason  # pyright: ignore[reportOptionalMemberAccess]
    assert "NaN" not in json.dumps(json.loads((folder / HISTORY_FILE).read_text().splitlines()[0]))


@pytest.mark.faults
def test_memory_that_runs_out_halves_the_micro_batch(plan_pretraining, tmp_path, monkeypatch):
    original, calls = masked_lm.masked_logits, []

    def small(model, batch, places):
        if len(batch["input_ids"]) > 6:
            calls.append(len(batch["input_ids"]))
            raise torch.OutOfMemoryError
        return original(model, batch, places)

    monkeypatch.setattr(module, "masked_logits", small)
    record = run_pretraining(plan_pretraining(), tmp_path)
    assert (record.environment.micro_batch, record.environment.micro_batch_halved) == (4, 2)
    assert record.environment.eval_batch <= 6
    assert record.environment.eval_batch_halved_at == (4,)  # the first evaluation
    assert not record.failed
    assert set(calls) == {16, 8, 30}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_stop_and_go_on_on_a_gpu(plan_pretraining, tmp_path, precision):
    plan = plan_pretraining(precision=precision, **{"schedule.length": {"steps": 50}})
    for name in ("whole", "again"):
        run_pretraining(plan, tmp_path / name, device="cuda:0")
    with pytest.raises(RunInterrupted):
        run_pretraining(plan, tmp_path, stop_at=30, device="cuda:0")
    torch.cuda.manual_seed(99)
    run_pretraining(plan, tmp_path, device="cuda:0")
    assert pretraining_outputs(tmp_path, plan) == pretraining_outputs(tmp_path / "whole", plan)
    assert pretraining_outputs(tmp_path / "again", plan) == pretraining_outputs(tmp_path / "whole", plan)


@pytest.mark.nightly
def test_the_demo_checkpoint_is_made_the_same_way_twice(tmp_path):
    from stableft.pretrain.config_file import load_pretraining

    sets = ["schedule.length={steps: 12}", "corpus.pairs=4000", "evaluation.every={times: 2}"]
    plan = load_pretraining("pretrain/toy", LocalPaths(cache_dir=tmp_path / "cache"), sets)
    for name in "ab":
        run_pretraining(plan, tmp_path / name)
    assert pretraining_outputs(tmp_path / "a", plan) == pretraining_outputs(tmp_path / "b", plan)
    model = pretrain_folder(tmp_path / "a", plan.config.run_id) / MODEL_FOLDER
    assert sum(path.stat().st_size for path in model.iterdir()) < 5e6
