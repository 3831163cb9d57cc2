"""Configs, text and results of short pre-trainings of a tiny model."""

from pathlib import Path

import yaml

from stableft.data import toy_language as toylang
from stableft.pretrain.config_file import PlannedPretraining
from stableft.pretrain.record import MODEL_FOLDER, PretrainRecord, pretrain_folder
from stableft.records.run_record import CHECKPOINT_FILE, HISTORY_FILE, read_record_as


def pretraining_outputs(results: Path, plan: PlannedPretraining) -> dict:
    """Returns all that two pre-trainings of one config must have equal, bit for bit."""
    folder = pretrain_folder(results, plan.config.run_id)
    record = read_record_as(PretrainRecord, folder)
    assert record
    assert not (folder / CHECKPOINT_FILE).exists()
    return {
        "record": record.model_dump_json(include={"config", "steps", "skipped_steps", "tokens", "data", "reason"}),
        "evals": [point.model_dump_json(exclude={"seconds"}) for point in record.evals],
        "history": (folder / HISTORY_FILE).read_text(),
        "model": {path.name: path.read_bytes() for path in sorted((folder / MODEL_FOLDER).glob("*"))},
    }


PRETRAINING_VALUES = {
    "text": "toylang",
    "vocabulary": "toylang",
    "corpus": {"pairs": 300, "held_out": 0.1, "seed": 0},
    "max_length": 32,
    "family": "bert",
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
    "attention": "sdpa",
    "masking": {"share": 0.15, "masked": 0.8, "random": 0.1},
    "optimizer": {
        "lr": 1e-2,
        "betas": [0.9, 0.999],
        "eps": 1e-6,
        "bias_correction": True,
        "eps_placement": "after_correction",
        "weight_decay": 0.01,
        "decay_order": "before",
        "no_decay": ["bias", "LayerNorm.weight"],
        "clip_norm": 1.0,
    },
    "schedule": {"length": {"steps": 12}, "batch_size": 16, "warmup": 0.1},
    "evaluation": {"every": {"times": 3}, "at_start": False, "batch_size": 32},
    "precision": "fp32",
    "seeds": {"init": 0, "data": 0},
}
WIKIPEDIA_EXTRACT = """<doc id="12" url="http://x" title="Anarchism">
Anarchism

Anarchism is a political philosophy .
It is one .

</doc>
<doc id="13" url="http://y" title="Autism">
Autism

Autism is a disorder .
</doc>
"""


def write_pretraining_config(folder: Path, **dotted) -> Path:
    values = {key: dict(part) if isinstance(part, dict) else part for key, part in PRETRAINING_VALUES.items()}
    for key, value in dotted.items():
        section, _, name = key.partition(".")
        if name:
            values[section][name] = value
        else:
            values[section] = value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def write_wikipedia(folder: Path, articles: int = 12) -> Path:
    """Writes made-up WikiExtractor files of the toy language's words, one deeper than the other."""
    pairs = iter(toylang.make_toy_corpus(7, 20 * articles))
    (folder / "AA").mkdir(parents=True)
    for file, half in ((folder / "wiki_00", articles // 2), (folder / "AA" / "wiki_01", articles - articles // 2)):
        text = ""
        for i in range(half):
            lines = "\n".join(" ".join(next(pairs)) for _ in range(1 + 3 * (i % 5)))
            text += f'<doc id="{i}" url="http://x/{i}" title="T">\nT\n\n{lines}\n\n</doc>\n'
        file.write_text(text)
    return folder
