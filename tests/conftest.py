"""What several tests share: a tokenizer made here, a tiny model folder, a valid config."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stableft.config import RunConfig

DATA = Path(__file__).parent / "data"

VALUES = {
    "data": {
        "task": "rte",
        "own": None,
        "split": "dev",
        "train_rows": None,
        "sample_seed": None,
        "max_length": 32,
        "pad_to_max": False,
        "segment_ids": True,
    },
    "model": {"name": "tiny", "sha256": "0" * 64, "dropout": None, "attention": "eager"},
    "reinit": None,
    "optimizer": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "bias_correction": True,
        "eps_placement": "after_correction",
        "weight_decay": 0.01,
        "decay_order": "after",
        "no_decay": ("bias", "LayerNorm.weight"),
        "clip_norm": 1.0,
    },
    "schedule": {"length": {"epochs": 1}, "batch_size": 4, "warmup": 0.1},
    "evaluation": {
        "every": {"times": 2},
        "at_start": False,
        "select_by": ("accuracy", "mcc", "spearman"),
        "report": "last",
        "batch_size": 8,
    },
    "precision": "fp32",
    "seeds": {"init": 1, "data": 1},
}


@pytest.fixture(scope="session")
def make_config() -> Callable[..., RunConfig]:
    """Returns a maker of valid configs: `make_config(**{"optimizer.lr": 1e-5, "data.task": "cola"})`."""

    def make(**dotted) -> RunConfig:
        values = {key: dict(part) if isinstance(part, dict) else part for key, part in VALUES.items()}
        for key, value in dotted.items():
            section, _, name = key.partition(".")
            if name:
                values[section] = {**(values[section] or {}), name: value}
            else:
                values[section] = value
        return RunConfig.model_validate(values)

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Returns a real WordPiece tokenizer whose words are those of the test data, rarer ones cut into letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted((DATA / "glue").rglob("*.tsv"))).lower()
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,'\"?!-"))
    words = sorted({word for word in text.split() if word.isalpha() and word.isascii() and len(word) > 1})
    vocabulary = special + letters + [f"##{letter}" for letter in letters] + words[::2]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, model_max_length=64, **names)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, tiny_tokenizer) -> Path:
    """Returns a folder with a tiny random BERT (masked-language-model head) and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("tiny-bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
