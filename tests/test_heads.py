"""Z's head for ELECTRA, and the parts of a model that a user names."""

import re

import pytest
import torch
from tiny_families import BLOCKS

from stableft.errors import UserError
from stableft.heads import FirstTokenHead, head_modules
from stableft.job import prepare
from stableft.model import build_model
from stableft.outcome import LAST_FOLDER
from stableft.plan import Execution
from stableft.record import run_folder
from stableft.train import train
from stableft.weights import load_pretrained, quiet

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
    assert head_modules(model) == ["classifier"]
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
    with quiet():
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


@pytest.mark.parametrize(
    ("structure", "sentence"),
    [
        (
            {"blocks": ("distilbert.transformer.layers",)},
            "model.structure: blocks: model 'tiny' has no 'distilbert.transformer.layers': "
            "'distilbert.transformer' has layer; did you mean 'layer'?",
        ),
        (
            {"blocks": ("bert.layer",)},
            "model 'tiny' has no 'bert.layer': it has distilbert, pre_classifier, classifier",
        ),
        (
            {"blocks": ("distilbert.transformer",)},
            "blocks: 'distilbert.transformer' of model 'tiny' is a Transformer, no list of blocks",
        ),
        (
            {"blocks": ("distilbert.transformer.layer",), "pooler": "pooler"},
            "model.structure: pooler: model 'tiny' has no 'pooler': it has",
        ),
        (
            {"blocks": ("distilbert.transformer.layer",), "embeddings": ("distilbert.embeddings.words",)},
            "embeddings: model 'tiny' has no 'distilbert.embeddings.words': 'distilbert.embeddings' has word_",
        ),
        (
            {"blocks": ("classifier.layer",)},
            "model 'tiny' has no 'classifier.layer': 'classifier' has no parts",
        ),
    ],
)
def test_a_path_that_leads_nowhere_tells_how_far_it_goes(family_run, structure, sentence):
    run, sources = family_run("distilbert", **{"model.structure": structure})
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        load_pretrained(run.config, sources)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["distilbert", "gpt2"])
def test_described_blocks_have_their_own_rates(family_run, tmp_path, family):
    blocks = {"distilbert": "distilbert.transformer.layer", "gpt2": "transformer.h"}[family]
    settings = {"model.structure": {"blocks": (blocks,)}, "optimizer.llrd": 0.5}
    run, sources = family_run(family, **settings)
    job, state = prepare(run, tmp_path, sources, Execution(threads=1))
    names = {p: name for name, p in state.model.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in state.optimizer.param_groups for p in group["params"]}
    for i in range(BLOCKS):
        of_block = {scale for name, scale in scales.items() if name.startswith(f"{blocks}.{i}.")}
        assert of_block == {0.5 ** (BLOCKS - i)}
    assert job.pretrained.spec.blocks == (blocks,)
