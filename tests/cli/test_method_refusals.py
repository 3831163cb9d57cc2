"""Methods and families that do not go together: one sentence that says why, exit code 2, and nothing left behind."""

import re
from pathlib import Path

import pytest
import yaml

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.training.setup import preload_inputs

pytestmark = pytest.mark.usefixtures("workplace")

START = {"recipe": "zhang", "task": "rte", "seed": 0}


@pytest.fixture
def write_sweep(toy_data, tiny_family):
    """Returns a function that writes a sweep of one run of a family with these settings."""

    def write(family: str, settings: dict) -> None:
        task = {f: str(toy_data / f"{f}.csv") for f in ("train", "validation")}
        task |= {"name": "toy", "text": "first", "label": "label", "labels": ["no", "yes"], "metric": "accuracy"}
        common = {"data.max_length": 32, "precision": "fp32", "model.attention": "eager", "model.dropout": None}
        content = {"recipe": "zhang", "model": str(tiny_family(family)), "task": task, "seeds": 1}
        Path("s.yaml").write_text(yaml.safe_dump(content | {"set": common | settings}))

    return write


@pytest.fixture
def sweep(stableft, write_sweep):
    """Returns a function that asks for one run of a family with these settings, and gives the sentence it gets."""

    def ask(family: str, settings: dict) -> str:
        write_sweep(family, settings)
        code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu")
        assert code == 2
        assert "Traceback" not in out + err
        assert err.startswith("stableft: ")
        assert err.count("\n") == 1
        assert sorted(path.name for path in Path.cwd().iterdir()) == ["s.yaml"]
        return err.removeprefix("stableft: ").rstrip()

    return ask


# family, settings, what the sentence says
FAMILIES = [
    (
        "albert",
        {"reinit.blocks": 1},
        "reinit.blocks: ALBERT model * repeats a single block, so none",
    ),
    ("albert", {"optimizer.llrd": 0.9}, "optimizer.llrd: ALBERT model * repeats a single block, which can"),
    ("albert", {"reinit.embeddings": True}, "reinit.embeddings: ALBERT model * cannot be trained from scratch"),
    ("bart", {"reinit.embeddings": True}, "reinit.embeddings: BART model * cannot be trained from scratch"),
    ("bart", {"reinit.blocks": 4}, "reinit.blocks: 4 is more than the 3 blocks of BART model"),
    ("bert", {"reinit.blocks": 4}, "reinit.blocks: 4 is more than the 3 blocks of BERT model"),
    ("xlnet", {"reinit.blocks": 4}, "reinit.blocks: 4 is more than the 3 blocks of XLNet model"),
    ("roberta", {"reinit.pooler": True}, "reinit.pooler: RoBERTa model * has no pre-trained pooler"),
    ("xlnet", {"reinit.pooler": True}, "reinit.pooler: XLNet model * has no pre-trained pooler"),
    ("electra", {"reinit.pooler": True}, "reinit.pooler: ELECTRA model * has no pre-trained pooler"),
    ("bart", {"reinit.pooler": True}, "reinit.pooler: BART model * has no pre-trained pooler"),
    ("bert", {"model.head": "paper"}, "model.head: the papers use no special head for BERT model *; write stock"),
    ("xlnet", {"model.attention": "sdpa"}, "model.attention: transformers has no sdpa for XLNet model * write eager"),
    ("roberta", {"data.max_length": 65}, "data.max_length: 65 is more than the 64 positions of model"),
    (
        "bert",
        {"model.structure": {"blocks": ["bert.encoder.layer"]}},
        "model.structure: stableft knows the structure of BERT",
    ),
    (
        "distilbert",
        {"reinit.blocks": 1},
        "reinit.blocks: stableft does not know the blocks of distilbert model",
    ),
    (
        "distilbert",
        {"optimizer.llrd": 0.9},
        "optimizer.llrd: stableft does not know the blocks of distilbert model *; name",
    ),
    ("distilbert", {"reinit.pooler": True}, "reinit.pooler: distilbert model * has no pre-trained pooler"),
    (
        "distilbert",
        {"reinit.embeddings": True},
        "reinit.embeddings: stableft does not know the embeddings of distilbert model *; name",
    ),
    (
        "distilbert",
        {"mixout": {"p": 0.5, "scope": "after_dropout"}},
        "mixout.scope: stableft does not know which modules of distilbert model * follow a dropout; write linear",
    ),
]
VALUES = [
    ("bert", {"mixout.p": 1.5}, "s.yaml:*: mixout.p: 1.5 must be less than or equal to 1"),
    ("bert", {"mixout.p": -0.1}, "s.yaml:*: mixout.p: -0.1 must be greater than or equal to 0"),
    ("bert", {"mixout.granularity": "row"}, "s.yaml:*: mixout.granularity: 'row' must be 'parameter' or 'column'"),
    ("bert", {"mixout.target": "zero"}, "s.yaml:*: mixout.target: 'zero' must be 'pretrained'"),
    ("bert", {"optimizer.llrd": 0.0}, "s.yaml:*: optimizer.llrd: 0.0 must be greater than 0"),
    ("bert", {"optimizer.llrd": 1.1}, "s.yaml:*: optimizer.llrd: 1.1 must be less than or equal to 1"),
    ("bert", {"optimizer.decay_towards": "mean"}, "s.yaml:*: optimizer.decay_towards: 'mean' must be 'zero' or"),
    ("bert", {"optimizer.weight_decay": -1.0}, "s.yaml:*: optimizer.weight_decay: -1.0 must be greater than or equal"),
    ("bert", {"schedule.warmup_steps": 5}, "s.yaml:*: schedule.warmup_steps must be null when schedule.warmup is set"),
    ("bert", {"schedule.warmup": None}, "s.yaml:*: schedule.warmup must be set when schedule.warmup_steps is null"),
    ("bert", {"schedule.length": {"steps": 5, "epochs": 1}}, "s.yaml:*: schedule.length: give exactly one of epochs"),
    ("bert", {"reinit.blocks": -1}, "s.yaml:*: reinit.blocks: -1 must be greater than or equal to 0"),
    (
        "bert",
        {"start_from": "0123456789abcdef"},
        "s.yaml:*: start_from: '0123456789abcdef' must be a mapping such as {recipe: zhang, task: mnli, seed: 0} or",
    ),
    ("bert", {"start_from": START | {"seed": "1-2"}}, "s.yaml:*: start_from.seed: '1-2' must be one"),
    ("bert", {"start_from": START | {"recipe": "zang"}}, "s.yaml:*: recipe 'zang' is not known; did you mean 'zhang'?"),
    (
        "bert",
        {"start_from": START | {"recipe": "intermediate"}},
        "s.yaml:*: start_from: the run of 'intermediate'",
    ),
    (
        "bert",
        {"start_from": {"run": "0123456789abcdef", "checkpoint": "best"}},
        "start_from: run 0123456789abcdef has not finished in results; only the weights of a finished run can be used",
    ),
]


@pytest.mark.parametrize(("family", "settings", "sentence"), FAMILIES + VALUES)
def test_what_does_not_go_together_is_one_sentence(sweep, family, settings, sentence):
    told = sweep(family, settings)
    assert re.match(re.escape(sentence).replace(r"\*", ".*"), told), told


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        (
            "distilbert",
            {"model.structure": {"blocks": ["distilbert.transformer.layers"]}, "reinit.blocks": 1},
            "model.structure: blocks: model * has no 'distilbert.transformer.layers': * has layer",
        ),
        (
            "mobilebert",
            {"model.structure": {"blocks": ["mobilebert.encoder.layer"]}, "reinit.blocks": 1},
            "the model's NoNorm cannot be re-initialized: stableft has no rule for its parameters",
        ),
        (
            "distilbert",
            {"model.structure": {"blocks": ["distilbert.transformer.layer"]}, "reinit.blocks": 4},
            "reinit.blocks: 4 is more than the 3 blocks of distilbert model",
        ),
    ],
)
def test_what_only_the_loaded_model_tells_is_one_sentence_too(write_sweep, family, settings, sentence):
    """As a worker process loads it; that its sentence is the command's only one, `test_app.py` sees for one of them."""
    write_sweep(family, settings)
    expanded = load_sweep("s.yaml", LocalPaths())
    with pytest.raises(UserError) as refused:
        preload_inputs(expanded.runs[0], expanded.sources)
    told = str(refused.value)
    assert "\n" not in told
    assert re.match(re.escape(sentence).replace(r"\*", ".*"), told), told


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--executor", "slurm", "--print")], ids=" ".join)
def test_fused_blocks_are_not_compiled(stableft, write_sweep, monkeypatch, more):
    """Nor is the arm before them trained, which could be."""
    monkeypatch.setenv("PATH", "")  # without Slurm
    write_sweep("bert", {"schedule.length": {"steps": 2}, "data.max_length": 16})
    content = yaml.safe_load(Path("s.yaml").read_text())
    content["arms"] = [{"name": name, "set": {"execution": name}} for name in ("packed", "fused")]
    Path("s.yaml").write_text(yaml.safe_dump(content))
    code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu", "--compile", *more)
    assert code == 2
    assert re.fullmatch(r"stableft: --compile: with execution: fused, .* write execution: packed\n", err)
    assert "Traceback" not in out
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["s.yaml"]
