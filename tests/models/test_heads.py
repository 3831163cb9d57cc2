"""Z's head for ELECTRA, which modules of a head are new, and the parts of a model that a user names."""

import json
import shutil

import pytest
import torch
from support.tiny_families import BLOCKS
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from stableft.config.planned_run import Execution
from stableft.errors import UserError
from stableft.models.build import build_model
from stableft.models.load import FirstTokenHead, find_head_modules, load_pretrained, quiet_transformers
from stableft.models.start_weights import WEIGHTS_FILE, StartWeights
from stableft.records.run_record import LAST_FOLDER, run_folder
from stableft.training.run import train
from stableft.training.setup import prepare_run

PAPER = {"model.head": "paper"}


def test_the_papers_head_is_dropout_and_one_linear_on_the_first_token():
    torch.manual_seed(0)
    head, hidden = FirstTokenHead(5, 3, 0.5), torch.randn(2, 7, 5)
    assert torch.equal(head.eval()(hidden), hidden[:, 0] @ head.linear.weight.T + head.linear.bias)
    outputs = torch.stack([head.train()(hidden) for _ in range(4000)])
    torch.testing.assert_close(outputs.mean(0), head.eval()(hidden), rtol=0, atol=0.1)
    assert outputs.std(0).min() > 0.1


def test_an_electra_with_the_papers_head(family_run, tmp_path):
    run, sources = family_run("electra", values={"classifier_dropout": 0.25}, **{**PAPER, "model.dropout": None})
    model, _ = build_model(run.config, sources)
    assert find_head_modules(model) == ["classifier"]
    head = model.get_submodule("classifier")
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "linear.weight": (2, 16),
        "linear.bias": (2,),
    }
    assert head.get_submodule("dropout").p == 0.25
    assert not head.get_submodule("linear").bias.any()
    ids = torch.randint(5, 100, (3, 9))
    with torch.no_grad():
        first = model.eval().get_submodule("electra")(input_ids=ids)[0][:, 0]
        expected = first @ head.linear.weight.T + head.linear.bias
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    record = train(run, tmp_path, sources, Execution(threads=1, save="last"))
    assert record.reason is None
    kept = run_folder(tmp_path, run.run_id) / LAST_FOLDER
    with quiet_transformers():
        again, _ = build_model(*_with_folder(family_run, kept))
    assert isinstance(again.get_submodule("classifier"), FirstTokenHead)


def _with_folder(family_run, folder):
    run, sources = family_run(folder=folder, **PAPER)
    return run.config, sources


def test_reinit_keeps_the_papers_head(family_run):
    drawn = {"pooler": False, "blocks": 2}
    (base, base_sources), (other, sources) = (
        family_run("electra", **PAPER),
        family_run("electra", **PAPER, reinit=drawn),
    )
    weights = [build_model(run.config, s)[0].state_dict() for run, s in ((base, base_sources), (other, sources))]
    assert torch.equal(*(w["classifier.linear.weight"] for w in weights))


def weights_of(model) -> dict[str, torch.Tensor]:
    """Returns copies of the weights of a ModernBERT's head."""
    return {name: p.clone() for name, p in model.state_dict().items() if name.startswith(("head.", "classifier."))}


def test_layers_of_a_head_that_are_pretrained_stay(family_run, tiny_family, tmp_path):
    """ModernBERT's head begins with those that its masked-language model has before the vocabulary."""
    with quiet_transformers():
        stock = weights_of(AutoModelForSequenceClassification.from_pretrained(tiny_family("modernbert"), num_labels=2))
    (run, sources), (other, _) = (family_run("modernbert", seeds={"init": seed, "data": 1}) for seed in (1, 2))
    first, second = (build_model(each.config, sources)[0] for each in (run, other))
    assert find_head_modules(first) == ["head", "classifier"]
    kept = [name for name in stock if name.startswith("head.")]
    assert {"head.dense.weight", "head.norm.weight"} <= set(kept)
    for name in kept:
        assert torch.equal(stock[name], first.state_dict()[name]), name
    drawn = [weights_of(model)["classifier.weight"] for model in (first, second, build_model(run.config, sources)[0])]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    # Another run of other labels hands on the layers below its classifier.
    record = train(run, tmp_path, sources, Execution(threads=1, save="last"))
    start = StartWeights(record, run_folder(tmp_path, run.run_id) / LAST_FOLDER / WEIGHTS_FILE, with_head=False)
    child = weights_of(build_model(run.config, sources, start)[0])
    assert not torch.equal(child["head.dense.weight"], stock["head.dense.weight"])
    assert torch.equal(child["classifier.weight"], drawn[0])


@pytest.mark.parametrize(
    ("kind", "labels", "told"),
    [
        (AutoModelForSequenceClassification, 2, True),
        (AutoModelForSequenceClassification, 5, True),
        (AutoModelForTokenClassification, 2, True),
        (AutoModelForSequenceClassification, 2, False),  # nothing of its head is new
    ],
)
def test_a_head_that_was_trained_for_a_task_is_drawn(family_run, tiny_family, tmp_path, kind, labels, told):
    folder = tmp_path / "tuned"
    with quiet_transformers():
        tuned = kind.from_pretrained(tiny_family("modernbert"), num_labels=labels)
    torch.nn.init.ones_(tuned.classifier.weight)
    shutil.copytree(tiny_family("modernbert"), folder)
    with quiet_transformers():
        tuned.save_pretrained(folder)
    if not told:
        values = json.loads((folder / "config.json").read_text())
        del values["architectures"]
        (folder / "config.json").write_text(json.dumps(values))
    run, sources = family_run(folder=folder)
    model, pretrained = build_model(run.config, sources)
    assert pretrained.head == ("head", "classifier")
    head = weights_of(model)
    assert head["classifier.weight"].abs().max() < 0.2
    assert not torch.equal(head["head.dense.weight"], tuned.state_dict()["head.dense.weight"])


def test_positions_before_the_first_token_are_lost(family_run):
    """As in RoBERTa, which has a row that says so."""
    run, sources = family_run("xlm-roberta", **{"data.max_length": 64})
    model, _ = build_model(run.config, sources)
    assert model(torch.full((2, 64), 5)).logits.shape == (2, 2)
    run, sources = family_run("xlm-roberta", **{"data.max_length": 65})
    with pytest.raises(UserError, match=r"data\.max_length: 65 .*more .* 64 positions .*model 'tiny'"):
        load_pretrained(run.config, sources)


@pytest.mark.parametrize(
    ("structure", "facts"),
    [
        (
            {"blocks": ("distilbert.transformer.layers",)},
            r"model\.structure: blocks: .*'distilbert\.transformer\.layers': 'distilbert\.transformer' .* 'layer'",
        ),
        (
            {"blocks": ("bert.layer",)},
            r"model 'tiny' .*no 'bert\.layer': .*distilbert, pre_classifier, classifier",
        ),
        (
            {"blocks": ("distilbert.transformer",)},
            r"blocks: 'distilbert\.transformer' .*model 'tiny' .*Transformer, not .*list .*blocks",
        ),
        (
            {"blocks": ("distilbert.transformer.layer",), "pooler": "pooler"},
            r"model\.structure: pooler: model 'tiny' .*no 'pooler':",
        ),
        (
            {"blocks": ("distilbert.transformer.layer",), "embeddings": ("distilbert.embeddings.words",)},
            r"embeddings: model 'tiny' .*no 'distilbert\.embeddings\.words': 'distilbert\.embeddings' .*word_",
        ),
        (
            {"blocks": ("classifier.layer",)},
            r"model 'tiny' .*no 'classifier\.layer': 'classifier' .*no submodules",
        ),
    ],
)
def test_a_path_that_leads_nowhere_tells_how_far_it_goes(family_run, structure, facts):
    run, sources = family_run("distilbert", **{"model.structure": structure})
    with pytest.raises(UserError, match=facts) as caught:
        load_pretrained(run.config, sources)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["distilbert", "gpt2"])
def test_described_blocks_have_their_own_rates(family_run, tmp_path, family):
    blocks = {"distilbert": "distilbert.transformer.layer", "gpt2": "transformer.h"}[family]
    embeddings = {"distilbert": ("distilbert.embeddings",), "gpt2": ("transformer.wte", "transformer.wpe")}[family]
    settings = {"model.structure": {"blocks": (blocks,), "embeddings": embeddings}, "optimizer.llrd": 0.5}
    run, sources = family_run(family, **settings)
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    names = {p: name for name, p in state.model.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in state.optimizer.param_groups for p in group["params"]}
    for i in range(BLOCKS):
        of_block = {scale for name, scale in scales.items() if name.startswith(f"{blocks}.{i}.")}
        assert of_block == {0.5 ** (BLOCKS - i)}
    below = {scale for name, scale in scales.items() if name.startswith(tuple(f"{part}." for part in embeddings))}
    assert below == {0.5 ** (BLOCKS + 1)}
    assert job.pretrained.spec.blocks == (blocks,)
