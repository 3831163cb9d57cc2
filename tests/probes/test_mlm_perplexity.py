"""Perplexity with reset blocks: equal to models put together by hand, one kind of mask for all, texts, refusals."""

import functools
import json
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import glue_words
from safetensors.torch import save_file
from support.families import OTHER_FAMILIES
from support.training_runs import train_run
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM, BertConfig, BertModel

from stableft.config.local_files import model_folder_digest, shipped_configs
from stableft.config.planned_run import Execution, LocalPaths
from stableft.data import toy_language as toylang
from stableft.errors import UserError
from stableft.models.load import load_tokenizer, quiet_transformers
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.record import PretrainRecord
from stableft.pretrain.run import prepare_pretraining
from stableft.probes import mlm_perplexity
from stableft.probes.mlm_perplexity import (
    ProbeText,
    load_finetuned_encoder,
    load_masked_lm,
    load_probe_text,
    mask_in_parts,
    measure_masked_loss,
    reset_top_blocks,
)
from stableft.probes.perplexity_command import (
    PRETRAINED_POINT,
    count_blocks_to_recovery,
    describe_recovery,
    label_runs,
    render_perplexities,
)
from stableft.records.probe_record import PROBES_FILE, PerplexityRecord, find_probes_in_results, read_probe_records
from stableft.records.run_record import parse_record_as, read_record
from stableft.report.figures.from_probes import panel_from_perplexities, perplexity_from_loss

LENGTH, SEED = 24, 3
WIKITEXT = (
    " \n = Al <unk> = \n \n Al lives in rome , by the <unk> sea . \n Ben left . \n \n = = Life = = \n \n In rome . \n"
)
ANOTHER = " \n = Dora = \n \n Dora has left lima . \n"
STRUCTURES = {"distilbert": OTHER_FAMILIES["distilbert"], "deberta-v2": {"blocks": ("deberta.encoder.layer",)}}
FAMILIES = ("bert", "roberta", *STRUCTURES)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """Returns a file of a few hundred words in documents of some lines, so that rows differ in length."""
    lines = glue_words().split()
    text = "\n\n".join(
        "\n".join(" ".join(lines[i + j : i + j + 9]) for j in range(0, i % 40, 9)) for i in range(7, 400, 35)
    )
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text(text)
    return path


def shaken(folder: Path, path: Path) -> None:
    """Writes weights as a run leaves them: those of the encoder moved, pooler and head beside them."""
    with quiet_transformers():
        model = AutoModelForMaskedLM.from_pretrained(folder)
    random = torch.Generator().manual_seed(7)
    base = f"{model.base_model_prefix}."
    tensors = {
        k: v + 0.3 * torch.randn(v.shape, generator=random) for k, v in model.state_dict().items() if k.startswith(base)
    }
    save_file({**tensors, "classifier.weight": torch.zeros(2, 16)}, path)


def by_hand(folder: Path, finetuned: dict[str, Tensor], fresh: tuple[str, ...], text: ProbeText, masked) -> float:
    """Returns the loss of transformers' own model, untied, whose encoder is fine-tuned but for keys that begin so."""
    with quiet_transformers():
        tied = AutoModelForMaskedLM.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
        model = AutoModelForMaskedLM.from_config(config).eval()
    state = {name: value.clone() for name, value in tied.state_dict().items()}
    for name, value in finetuned.items():
        if not name.startswith(fresh):
            assert not torch.equal(state[name], value)
            state[name] = value
    model.load_state_dict(state)
    (part,) = mask_in_parts(text, masked.inputs, masked.vocabulary, LENGTH, SEED)
    with torch.no_grad():
        labels = part.target_ids.masked_fill(~part.is_masked, -100)
        logits = model(**part.inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        assert torch.isclose(model(**part.inputs, labels=labels).loss, loss)
    return loss.item()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_equals_a_model_put_together_by_hand(family_run, tiny_family, words, tmp_path, family):
    folder = tiny_family(family)
    run, sources = family_run(family, **{"model.structure": STRUCTURES.get(family)})
    tokenizer = load_tokenizer(run.config, sources)
    masked = load_masked_lm(run.config, sources, tokenizer)
    text = load_probe_text(str(words), tokenizer, LENGTH, LocalPaths(cache_dir=tmp_path))
    shaken(folder, tmp_path / "model.safetensors")
    finetuned = load_finetuned_encoder(tmp_path / "model.safetensors", masked.model)
    untouched = measure_masked_loss(masked, text, LENGTH, SEED, 4)
    found = {
        point: measure_masked_loss(masked, text, LENGTH, SEED, batch_size=4)
        for point in reset_top_blocks(masked, finetuned)
    }
    assert list(found) == ["0", "1", "2", "3", "all"]
    assert found["all"] == untouched == measure_masked_loss(masked, text, LENGTH, SEED, 4)
    blocks = [f"{masked.spec.blocks[-1]}.{i}." for i in (2, 1, 0)]
    for k in range(4):
        assert found[str(k)] == pytest.approx(by_hand(folder, finetuned, tuple(blocks[:k]), text, masked), rel=1e-5)
    assert untouched == pytest.approx(by_hand(folder, {}, (), text, masked), rel=1e-5)
    assert len({round(loss, 6) for loss in found.values()}) == 5
    assert measure_masked_loss(masked, text, LENGTH, SEED, 1) == pytest.approx(untouched, rel=1e-6)
    assert measure_masked_loss(masked, text, LENGTH, SEED + 1, 4) != pytest.approx(untouched, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_does_not_move_with_the_embeddings(family_run, family):
    run, sources = family_run(family, **{"model.structure": STRUCTURES.get(family)})
    model = load_masked_lm(run.config, sources, load_tokenizer(run.config, sources)).model
    head, words, base = model.get_output_embeddings(), model.get_input_embeddings(), f"{model.base_model_prefix}."
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith(base)}
    assert isinstance(head, nn.Linear)
    assert isinstance(words, nn.Embedding)
    assert torch.equal(head.weight, words.weight)
    assert head.weight is not words.weight
    with torch.no_grad():
        for weights in model.base_model.parameters():
            weights.add_(1.0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert any(value is not None for value in before.values())
    assert not model.training


def test_masks_are_a_function_of_text_and_seed(family_run, words, tmp_path):
    run, sources = family_run("bert")
    tokenizer = load_tokenizer(run.config, sources)
    masked = load_masked_lm(run.config, sources, tokenizer)
    text = load_probe_text(str(words), tokenizer, LENGTH, LocalPaths(cache_dir=tmp_path))

    def drawn(seed: int):
        torch.manual_seed(seed + 50)  # of the global generator, which has no say
        (part,) = mask_in_parts(text, masked.inputs, masked.vocabulary, LENGTH, seed)
        return part

    one, same, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one.inputs["input_ids"], same.inputs["input_ids"])
    assert torch.equal(one.is_masked, same.is_masked)
    assert not torch.equal(one.is_masked, other.is_masked)
    lengths = one.inputs["attention_mask"].sum(1)
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    counts = [sum(token not in tokenizer.all_special_ids for token in row) for row in one.target_ids.tolist()]
    assert one.is_masked.sum(1).tolist() == [max(1, round(count * 0.15)) for count in counts]
    hidden = one.inputs["input_ids"][one.is_masked] == tokenizer.mask_token_id
    assert 0.65 < hidden.float().mean() < 0.95  # 80 % of them


def rows_of(text: ProbeText, tokenizer) -> list[str]:
    """Returns the rows in the text's own order, as words."""
    return [
        tokenizer.decode(text.rows.input_ids[a:b])
        for a, b in zip(text.rows.offsets, text.rows.offsets[1:], strict=False)
    ]


def test_wikitext_is_cut_into_articles_and_has_no_unk_to_guess(tiny_tokenizer, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(WIKITEXT + ANOTHER)
    (folder / "b.txt").write_text("al has left\n\nben lives in rome")
    text = load_probe_text(str(folder), tiny_tokenizer, 64, LocalPaths(cache_dir=tmp_path))
    rows = rows_of(text, tiny_tokenizer)
    assert len(rows) == 4  # two articles, two documents of a plain text
    assert "d ##o ##r ##a" in rows[1]
    assert rows[2].endswith("l ##e ##f ##t [SEP]")
    whole = "= Al [UNK] = Al lives in rome , by the [UNK] sea . Ben left . = = Life = = In rome ."
    assert rows[0] == tiny_tokenizer.decode(tiny_tokenizer(whole)["input_ids"])
    assert text.name == "texts"
    file = load_probe_text(str(folder / "b.txt"), tiny_tokenizer, 64, LocalPaths(cache_dir=tmp_path))
    assert (file.name, rows_of(file, tiny_tokenizer)) == ("b.txt", rows[2:])


def test_the_hub_gives_what_a_file_of_the_same_text_gives(tiny_tokenizer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    (tmp_path / "hub").mkdir()
    lines = [line if line.strip() else "" for line in (WIKITEXT + ANOTHER).splitlines(keepends=True)]
    datasets.Dataset.from_dict({"text": lines}).to_parquet(tmp_path / "hub" / "test.parquet")
    files = [{"split": "test", "path": "test.parquet"}]
    header = json.dumps({"configs": [{"config_name": "wikitext-2-raw-v1", "data_files": files}]})
    (tmp_path / "hub" / "README.md").write_text(f"---\n{header}\n---\n")
    monkeypatch.setattr(
        "stableft.probes.mlm_perplexity.WIKITEXT_ON_HUB", (str(tmp_path / "hub"), "wikitext-2-raw-v1", "test")
    )
    (tmp_path / "file.txt").write_text(WIKITEXT + ANOTHER)
    sources = LocalPaths(cache_dir=tmp_path / "cache")
    hub = load_probe_text("wikitext-2", tiny_tokenizer, 64, sources)
    assert hub.name == "wikitext-2"
    file = load_probe_text(str(tmp_path / "file.txt"), tiny_tokenizer, 64, sources)
    assert rows_of(hub, tiny_tokenizer) == rows_of(file, tiny_tokenizer)


@pytest.mark.slow
def test_the_demo_checkpoint_has_the_held_out_loss_of_its_record(make_config, tmp_path, monkeypatch):
    """As its pre-training measured it, and as the probe does, whose rows, segments and masks are the same."""
    monkeypatch.setattr(toylang, "make_toy_corpus", functools.cache(toylang.make_toy_corpus))  # takes seconds
    demo = shipped_configs() / "demo"
    record = parse_record_as(PretrainRecord, (demo / "toy-bert.record.json").read_text())
    digest = model_folder_digest(demo / "toy-bert")
    config = make_config(**{"model.name": "toy-bert", "model.sha256": digest})
    sources = LocalPaths(cache_dir=tmp_path, paths={digest: demo / "toy-bert"})

    job, _ = prepare_pretraining(
        load_pretraining(shipped_configs() / "pretrain" / "toy.yaml", sources), tmp_path, Execution()
    )
    assert job.corpus.record == record.data
    model, held_out = AutoModelForMaskedLM.from_pretrained(demo / "toy-bert").eval(), job.held_out
    with torch.no_grad():
        outputs = model(**held_out.inputs, labels=held_out.target_ids.masked_fill(~held_out.is_masked, -100))
    assert outputs.loss.item() == pytest.approx(record.held_out_loss, rel=1e-4)

    tokenizer = load_tokenizer(config, sources)
    text = load_probe_text("toy", tokenizer, 64, sources)
    assert (text.sha256, len(text.rows_longest_first), text.tokens) == (
        record.data.fingerprint,
        1200,
        record.data.held_out_tokens,
    )
    masked = load_masked_lm(config, sources, tokenizer)
    assert measure_masked_loss(masked, text, 64, 0, 256) == pytest.approx(record.held_out_loss, rel=1e-6)
    pairs = toylang.make_toy_corpus(0, 120_000)
    assert text.masking == record.config.masking
    first = tokenizer.decode(text.rows.input_ids[slice(*text.rows.offsets[text.rows_longest_first[0] :][:2])])
    assert any(first == f"[CLS] {a} [SEP] {b} [SEP]" for a, b in pairs)


@pytest.fixture(scope="module")
def trained(toy_run, toy_sources, tmp_path_factory):
    """Returns a results folder with two runs that kept their last weights, one re-initialised, and one that did not."""
    results = tmp_path_factory.mktemp("trained")
    reinit = {"pooler": True, "blocks": 1, "embeddings": None}
    runs = [toy_run(), toy_run(reinit=reinit), toy_run(**{"optimizer.lr": 2e-3})]
    for run, save in zip(runs, ("last", "last", "none"), strict=True):
        train_run(run, results, toy_sources, save=save)
    return results, [run.run_id for run in runs]


@pytest.fixture
def results(trained, tmp_path) -> Path:
    """Returns a results folder of one's own with the trained runs."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to(trained[0] / "runs")
    return tmp_path / "results"


@pytest.fixture
def probe(stableft, workplace, results, tiny_model_folder, words):
    """Returns a function that runs the command on the words with the runs' model."""

    def run(*arguments: str, text: Path | str = words, model: Path | str = tiny_model_folder):
        given = ("--text", text, "--pretrained", model, "--results", results, "--device", "cpu")
        return stableft("probe", "perplexity", *given, *arguments)

    return run


def test_the_command(probe, results, trained):
    one, two = trained[1][:2]
    code, out, err = probe(one, two[:9], one, "--max-length", "24")  # a run that is named twice counts once
    assert (code, err) == (0, "")
    found = find_probes_in_results(results, [one, two])
    records = {record.run_id: record for record in found.of(PerplexityRecord, [one, two])}
    assert records.keys() == {one, two}
    first, second = records[one], records[two]
    for record in (first, second):
        assert (record.reset, record.max_length, record.text) == ((0, 1, 2), 24, "words.txt")
        assert record.all_reset == record.pretrained == first.pretrained
        assert (record.tokens, record.masked) == (first.tokens, first.masked)
    assert first.losses != second.losses
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["k"])
    assert [line.split()[0] for line in lines[start : start + 6]] == ["k", "0", "1", "2", "all", "pre-trained"]
    assert lines[start + 1].split()[1:] == [f"{math.exp(record.losses[0]):.2f}" for record in (first, second)]
    label = label_runs([known for run in (one, two) if (known := read_record(results, run))])[0]
    assert label.startswith("arm 1")
    assert label.endswith(one[:6])
    assert f"{label}: {math.exp(first.losses[0]):.2f} " in out
    figure = Path(out.strip().rpartition("figure: ")[2])
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (results / "probes").glob("*/*")).count(PROBES_FILE) == 2

    before = {path: path.stat().st_mtime_ns for path in (results / "probes").glob(f"*/{PROBES_FILE}")}
    assert probe(one, two, "--max-length", "24", "--batch-size", "5")[1].splitlines()[-6:] == lines[-6:]  # shown
    code, out, _ = probe(one, "--max-length", "24", "--seed", "1")  # another probe
    assert code == 0
    after = {path: path.stat().st_mtime_ns for path in (results / "probes").glob(f"*/{PROBES_FILE}")}
    assert before.items() <= after.items()
    (new,) = after.keys() - before.keys()
    assert out.strip().endswith(str(new.with_name("perplexity.png")))


@pytest.mark.faults
def test_the_record_says_where_memory_ran_out(probe, results, trained, monkeypatch):
    run = trained[1][0]
    assert probe(run)[0] == 0
    (path,) = results.glob(f"probes/*/{PROBES_FILE}")
    (whole,) = read_probe_records(path)
    assert isinstance(whole, PerplexityRecord)
    assert '"eval_batch' not in path.read_text()
    path.unlink()
    real, failed = mlm_perplexity._masked_positions_logits, []

    def small(masked, batch, positions):
        if len(batch["input_ids"]) > 2:
            failed.append(len(batch["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(masked, batch, positions)

    monkeypatch.setattr(mlm_perplexity, "_masked_positions_logits", small)
    assert probe(run)[0] == 0
    (record,) = read_probe_records(path)
    assert isinstance(record, PerplexityRecord)
    assert record.eval_batch is not None
    assert record.eval_batch <= 2
    assert record.eval_batch_halved_at == (PRETRAINED_POINT,)  # the points after it begin with what fitted
    assert record.losses == pytest.approx(whole.losses, rel=1e-6)
    assert failed == sorted(failed, reverse=True)


@pytest.mark.faults
def test_a_signal_loses_one_point_at_most(probe, results, trained, monkeypatch):
    run = trained[1][0]
    assert probe(run)[0] == 0
    (path,) = results.glob(f"probes/*/{PROBES_FILE}")
    whole = path.read_bytes()
    path.unlink()
    real, calls = measure_masked_loss, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr("stableft.probes.perplexity_command.measure_masked_loss", counted)
    code, out, _ = probe(run)
    assert code == 130
    assert re.search("Interrupted: .*arm 1", out)
    assert re.search(", k = 1,.* kept.*same command", out)
    points = path.with_name("points.json")
    assert json.loads(points.read_text())["losses"].keys() == {PRETRAINED_POINT, "0"}
    assert not path.exists()
    assert probe(run)[0] == 0
    assert len(calls) == 3 + 3  # k = 1, k = 2, all
    assert path.read_bytes() == whole
    assert not points.exists()

    path.unlink()
    calls.clear()
    assert probe(run)[0] == 130
    _, out, _ = probe(run, "--batch-size", "3")
    assert re.search("points .*earlier .*device.*again", out)
    assert len(calls) == 3 + 5


def test_runs_without_weights_and_of_another_model_are_refused(probe, trained, tiny_family):
    _, (one, _, bare) = trained
    code, _, err = probe(bare)
    assert code == 2
    assert re.search("last weights .*not kept.*`stableft sweep CONFIG --save last --complete`", err)
    code, _, err = probe(one, model=tiny_family("bert"))
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(f"run {one} .*another model", err)
    assert probe("0123")[0] == 2


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (None, r"--text 'text\.txt': .*no such file .*folder, nor .*toy .*wikitext-2"),
        (b"", r"--text 'text\.txt': .*no word .*model's vocabulary.*nothing .*mask"),
        ("\u5317\u4eac \u2603".encode(), r"--text 'text\.txt': .*no word .*model's vocabulary"),
        (b"al \xff lives", r"text: text\.txt .*not UTF-8 text \(byte 3\)"),
    ],
)
def test_texts_that_cannot_be_used(probe, trained, workplace, content, facts):
    if content is not None:
        (workplace / "text.txt").write_bytes(content)
    code, _, err = probe(trained[1][0], text="text.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(facts, err)


def test_the_hub_out_of_reach_and_rows_too_long(probe, trained, workplace):
    code, _, err = probe(trained[1][0], text="wikitext-2")
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(
        r"--text wikitext-2 cannot .*loaded .*hub .*Salesforce/wikitext \(wikitext-2-raw-v1, test\): ", err
    )
    assert "use --text FILE" in err
    code, _, err = probe(trained[1][0], text="wiki-text2")
    assert "did you mean 'wikitext-2'?" in err
    code, _, err = probe(trained[1][0], "--max-length", "65")
    assert code == 2
    assert re.fullmatch("stableft: --max-length 65 .* 64 positions .*'tiny'\n", err)
    (workplace / "empty").mkdir()
    code, _, err = probe(trained[1][0], text="empty")
    assert code == 2
    assert re.fullmatch("stableft: --text 'empty': .*no files\n", err)


REFUSED = {
    "albert": "ALBERT model 'tiny' .*one block .*no top blocks",
    "bart": "BART model 'tiny' .*encoder .*decoder",
    "xlnet": "XLNet model 'tiny' .*not pre-trained by masking",
    "electra": r"model 'tiny': .*no head .*masked tokens \(.*generator_",
    "distilbert": r".*blocks of distilbert model 'tiny' .*unknown.*model\.structure",
}


@pytest.mark.parametrize("family", REFUSED)
def test_families_without_such_a_head_or_top_blocks(family_run, family):
    run, sources = family_run(family)
    with pytest.raises(UserError) as error:
        load_masked_lm(run.config, sources, load_tokenizer(run.config, sources))
    assert re.match(REFUSED[family], str(error.value))


def test_a_checkpoint_without_a_head(family_run, tiny_tokenizer, tmp_path):
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    run, sources = family_run(folder=tmp_path)
    with pytest.raises(UserError, match=r"no head .*predicts masked tokens \(it .*cls.predictions.bias .* 5"):
        load_masked_lm(run.config, sources, load_tokenizer(run.config, sources))


@pytest.mark.faults
def test_weights_of_another_shape_or_damaged(family_run, tiny_family, tmp_path):
    run, sources = family_run("bert")
    model = load_masked_lm(run.config, sources, load_tokenizer(run.config, sources)).model
    path = tmp_path / "model.safetensors"
    save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(3, 16)}, path)
    with pytest.raises(UserError, match=r"weights .*not .*model: bert\.emb.* \d+ more"):
        load_finetuned_encoder(path, model)
    path.write_bytes(b"none")
    with pytest.raises(UserError, match=r"cannot .*read .*weights"):
        load_finetuned_encoder(path, model)


def record(*perplexities: float, pretrained: float = 10.0) -> PerplexityRecord:
    return PerplexityRecord(
        run_id="0" * 16,
        checkpoint="last",
        text="t",
        text_sha256="",
        seed=0,
        max_length=8,
        tokens=9,
        masked=2,
        reset=tuple(range(len(perplexities))),
        losses=tuple(math.log(value) for value in perplexities),
        all_reset=math.log(pretrained),
        pretrained=math.log(pretrained),
    )


def test_what_is_said_of_a_run():
    cases = {
        (900, 12, 10.9, 10.5): r"r: 900\.00 .* 10\.00 pre-trained; within 10% .*top 2 of 3 blocks",
        (10.5, 10.4): r"r: 10\.50 .* 10\.00 pre-trained; .*within 10%",
        (90, 40): r"r: 90\.00 .* 10\.00 pre-trained; .*all 1 blocks .* 40\.00, still not",
        (math.nan, 10): r"r: nan .* 10\.00 pre-trained; within 10% .*top 1 of 1 blocks",
    }
    for values, facts in cases.items():
        assert re.match(facts, describe_recovery(record(*values), "r"))
    assert [count_blocks_to_recovery(record(*values)) for values in cases] == [2, 0, None, 1]
    many = render_perplexities([record(3e7, 1234.5)] * 8, [f"run {i}" for i in range(8)])
    assert many.count("pre-trained") == 2
    assert "3.00e+07" in many
    assert "1,234.50" in many
    assert perplexity_from_loss(1000.0) == math.inf


def test_the_panel():
    panel = panel_from_perplexities([record(900, 12, 10.5), record(30, 20, 10)], ["a", "b"], "t")
    assert [curve.label for curve in panel.curves] == ["a", "b"]
    assert panel.curves[0].x == (0, 1, 2) == panel.xticks
    assert panel.curves[0].y == pytest.approx((900, 12, 10.5))
    assert [line.value for line in panel.horizontal] == pytest.approx([10])
    assert panel.ylog
    assert not panel.missing
    assert not panel_from_perplexities([record(30, 20, 10)], ["b"], "t").ylog
    assert len(panel_from_perplexities([record(*[20.0] * 25)], ["b"], "t").xticks) == 13
    assert re.match("no run's perplexity .*known", panel_from_perplexities([], [], "t").missing)
    assert re.match(
        "no run's perplexity .*finite number", panel_from_perplexities([record(math.nan)], ["b"], "t").missing
    )
