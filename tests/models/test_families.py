"""Every family goes through the same loop, and computes what transformers' own classes compute."""

import json
import shutil

import numpy as np
import pytest
import torch
from support.tiny_families import FAMILIES
from support.training_runs import run_outputs, train_run
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MptConfig, MptForCausalLM

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.data.tokens import collate
from stableft.errors import UserError
from stableft.models.build import build_model
from stableft.models.load import find_head_modules, load_pretrained, quiet_transformers
from stableft.records.run_record import LAST_FOLDER, PREDICTIONS_FILE, run_folder
from stableft.training.evaluate import evaluate
from stableft.training.run import train
from stableft.training.setup import prepare_run

PAIR, SINGLE = ("first", "second"), ("first",)
UNUSED = {"xlnet": {"transformer.mask_emb"}}  # for predicting tokens


def texts(toy_data, columns) -> list[list[str]]:
    lines = [line.split(",") for line in (toy_data / "validation.csv").read_text().splitlines()]
    return [[row[lines[0].index(column)] for row in lines[1:]] for column in columns]


@pytest.mark.parametrize("text", [PAIR, SINGLE])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_the_stock_model(family_run, toy_data, tiny_family, tmp_path, family, text):
    """The stock class reads the same folder, its tokenizer pads the batch in its own way, the head is copied."""
    run, sources = family_run(family, text=text)
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    with quiet_transformers():
        stock = AutoModelForSequenceClassification.from_pretrained(tiny_family(family), num_labels=2).eval()
    assert type(stock) is type(state.model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_family(family))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        stock.config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    for name in (*find_head_modules(state.model), *job.pretrained.missing):
        for p in state.model.get_submodule(name).parameters():
            nn.init.normal_(p, std=0.5)
        stock.get_submodule(name).load_state_dict(state.model.get_submodule(name).state_dict())
    encoded = tokenizer(
        *texts(toy_data, text),
        padding=True,
        pad_to_multiple_of=8,  # MobileBERT reads the neighbour of the last token, padding or none
        truncation="longest_first",
        max_length=32,
        return_tensors="pt",
        return_token_type_ids=job.inputs.segments,
    )
    batch = collate(job.splits.val, np.arange(len(job.splits.val)), job.inputs, run.config.data)
    del batch["labels"]
    assert batch.keys() == encoded.keys()
    assert batch["attention_mask"].sum() < batch["attention_mask"].numel()  # there is padding to look at
    with torch.no_grad():
        expected = stock(**encoded).logits
        torch.testing.assert_close(state.model.eval()(**batch).logits, expected, rtol=1e-5, atol=5e-6)
    outputs = evaluate(state.model, job.splits.val, run.config, job.inputs, job.device)
    np.testing.assert_allclose(outputs.values, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert expected.std(0).min() > 1e-3  # the rows differ, so that equality says something


@pytest.mark.parametrize("segment_ids", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_segments_and_padding_are_those_of_the_family(family_run, tmp_path, family, segment_ids):
    run, sources = family_run(family, **{"data.segment_ids": segment_ids})
    job, _ = prepare_run(run, tmp_path, sources, Execution(threads=1))
    batch = collate(job.splits.val, np.arange(len(job.splits.val)), job.inputs, run.config.data)
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    assert (ids[~mask] == job.tokenizer.pad_token_id).all()
    assert mask[:, -1 if family == "xlnet" else 0].all()  # padding is on the other side
    if family not in ("bert", "electra", "albert", "xlnet", "mobilebert"):
        assert "token_type_ids" not in batch
        return
    segments = batch["token_type_ids"]
    if not segment_ids:
        assert not segments.any()
    elif family == "xlnet":
        assert (ids[:, -1] == job.tokenizer.cls_token_id).all()
        assert (segments[:, -1] == 2).all()
        assert (segments[~mask] == 4).all()
        assert segments[:, :-1][mask[:, :-1]].unique().tolist() == [0, 1]
    else:
        assert (ids[:, 0] == job.tokenizer.cls_token_id).all()
        assert not segments[~mask].any()
        assert segments.unique().tolist() == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_reloads_into_the_stock_class(family_run, tmp_path, family):
    run, sources = family_run(family)
    record = train(run, tmp_path, sources, Execution(threads=1, save="last"))
    assert (record.status, record.reason) == ("finished", None)
    folder = run_folder(tmp_path, run.run_id)
    losses = [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    with quiet_transformers():
        stock, info = AutoModelForSequenceClassification.from_pretrained(folder / LAST_FOLDER, output_loading_info=True)
    assert not any(info.values()), info
    job, _ = prepare_run(run, tmp_path, sources, Execution(threads=1))
    outputs = evaluate(stock, job.splits.val, run.config, job.inputs, job.device)
    with np.load(folder / PREDICTIONS_FILE) as kept:
        np.testing.assert_allclose(outputs.values, kept["val_last"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_any_family_goes_on_where_it_stopped(family_run, tmp_path, family):
    run, sources = family_run(family, **{"model.dropout": 0.1})
    expected = run_outputs(tmp_path / "whole", train_run(run, tmp_path / "whole", sources))
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path, sources, stop_at=2)
    assert run_outputs(tmp_path, train_run(run, tmp_path, sources)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_learns(family_run, tmp_path, family):
    """An input left out, or a head that reads the wrong token, would leave weights without a gradient."""
    run, sources = family_run(family, **{"model.dropout": 0.0})
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    batch = collate(job.splits.train, np.arange(8), job.inputs, run.config.data)
    labels = batch.pop("labels")
    nn.functional.cross_entropy(state.model(**batch).logits, labels).backward()
    still = {name for name, p in state.model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == UNUSED.get(family, set())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_near_full(family_run, tmp_path, family, precision):
    run, sources = family_run(family, **{"model.dropout": 0.0})
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    exact, half = (
        evaluate(state.model, job.splits.val, run.config.model_copy(update={"precision": p}), job.inputs, job.device)
        for p in ("fp32", precision)
    )
    assert not np.array_equal(half.values, exact.values)
    np.testing.assert_allclose(half.values, exact.values, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_that_of_the_config(family_run, family, dropout):
    run, sources = family_run(family, **{"model.dropout": dropout})
    model, pretrained = build_model(run.config, sources)
    assert pretrained.spec.dropouts
    assert {getattr(model.config, field) for field in pretrained.spec.dropouts} == {dropout}
    found = {part.p for part in model.modules() if isinstance(part, nn.Dropout)}
    assert found <= {dropout}
    assert found or not dropout


@pytest.fixture
def own_folder(tmp_path, tiny_family):
    """Returns a maker of folders of other families, with the tokenizer of one of ours."""

    def make(model, tokenizer: str):
        folder = tmp_path / "own"
        with quiet_transformers():
            model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_family(tokenizer)).save_pretrained(folder)
        return folder

    return make


def test_dropout_that_config_json_does_not_reach_is_a_sentence(family_run, own_folder):
    config = MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=64, vocab_size=600)
    folder = own_folder(MptForCausalLM(config), "gpt2")
    run, sources = family_run(folder=folder, **{"model.dropout": 0.3})
    with pytest.raises(UserError, match=r"model\.dropout: transformer\.blocks.*mpt model .*fixed dropout .*write null"):
        load_pretrained(run.config, sources)
    run, sources = family_run(folder=folder, **{"model.dropout": None})
    assert build_model(run.config, sources)


def test_attention_that_transformers_cannot_fuse_is_a_sentence(family_run):
    run, sources = family_run("deberta-v2", **{"model.attention": "sdpa"})
    with pytest.raises(UserError, match=r"model\.attention: transformers .*no sdpa .*deberta-v2 model .*eager"):
        load_pretrained(run.config, sources)


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(family_run, tmp_path):
    run, sources = family_run("gpt2")
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    assert job.inputs.pad_id == job.tokenizer.eos_token_id == state.model.config.pad_token_id


def test_another_pad_token_in_config_json_changes_no_logits(family_run, tmp_path):
    """GPT-2's head looks for the last token that is not padding: of a row alone and of one among longer ones."""
    run, sources = family_run("gpt2", values={"pad_token_id": 5})
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    assert state.model.config.pad_token_id == job.tokenizer.pad_token_id != 5
    rows = job.splits.val
    by_length = np.argsort(np.diff(rows.offsets))
    logits = []
    for chosen in (by_length[:1], by_length[[0, -1]]):
        batch = collate(rows, chosen, job.inputs, run.config.data)
        del batch["labels"]
        with torch.no_grad():
            logits.append(state.model.eval()(**batch).logits[0])
    assert not batch["attention_mask"][0].all()
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["roberta", "xlnet"])
def test_another_pad_token_in_config_json_is_a_sentence_where_a_family_has_a_row(family_run, family):
    run, sources = family_run(family, values={"pad_token_id": 7})
    with pytest.raises(UserError, match=r"pads .*token \d.*pad_token_id .*config\.json .* 7.*equal"):
        load_pretrained(run.config, sources)


def test_a_pad_token_beyond_the_vocabulary_is_a_sentence(family_run, tiny_family, tmp_path):
    folder = tmp_path / "added"
    shutil.copytree(tiny_family("distilbert"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[MORE]"})
    tokenizer.save_pretrained(folder)
    run, sources = family_run(folder=folder)
    with pytest.raises(UserError, match=f"its tokenizer has {len(tokenizer)} entries, more than the vocab_size of"):
        load_pretrained(run.config, sources)


def test_a_pad_token_that_config_json_lacks_is_the_tokenizers(family_run):
    run, sources = family_run("bert", values={"pad_token_id": None})
    assert load_pretrained(run.config, sources).model.config.pad_token_id == 0


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("xlnet", "deberta-v2")])
def test_fused_attention_computes_the_same(family_run, tmp_path, family):
    values = {}
    for attention in ("eager", "sdpa"):
        run, sources = family_run(family, **{"model.attention": attention})
        job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
        assert state.model.config._attn_implementation == attention
        values[attention] = evaluate(state.model, job.splits.val, run.config, job.inputs, job.device).values
    np.testing.assert_allclose(values["sdpa"], values["eager"], rtol=1e-4, atol=1e-5)
