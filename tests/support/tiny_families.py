"""Tiny random checkpoints of many model families, with real tokenizers of each kind."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    AlbertTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForPreTraining,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    MobileBertConfig,
    MobileBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    SqueezeBertConfig,
    SqueezeBertForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
    XLNetTokenizer,
)

from stableft.models.load import quiet_transformers

BLOCKS = 3
TOY_WORDS = " al ben dora emilia lives in has left rome a city by the sea x lima" * 20  # of the fixture toy_data
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
FAMILIES = {  # family -> the class of its checkpoints, its config class, values
    "bert": (BertForPreTraining, BertConfig, SIZES),
    "roberta": (RobertaForMaskedLM, RobertaConfig, {**SIZES, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "albert": (AlbertForPreTraining, AlbertConfig, {**SIZES, "embedding_size": 8}),
    "xlnet": (
        XLNetLMHeadModel,
        XLNetConfig,
        {"d_model": 16, "n_layer": BLOCKS, "n_head": 2, "d_inner": 32},
    ),
    "electra": (ElectraForPreTraining, ElectraConfig, {**SIZES, "embedding_size": 8}),
    "bart": (
        BartForConditionalGeneration,
        BartConfig,
        {
            "d_model": 16,
            "encoder_layers": BLOCKS,
            "decoder_layers": BLOCKS,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig,
        {"dim": 16, "n_layers": BLOCKS, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 16, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64}),
    "deberta-v2": (
        DebertaV2ForMaskedLM,
        DebertaV2Config,
        {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    ),
    "mobilebert": (
        MobileBertForMaskedLM,
        MobileBertConfig,
        {**SIZES, "embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
    ),
    "modernbert": (
        ModernBertForMaskedLM,
        ModernBertConfig,
        {**SIZES, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3},
    ),
}
GROUPED_CONVOLUTIONS = (
    "q_groups",
    "k_groups",
    "v_groups",
    "post_attention_groups",
    "intermediate_groups",
    "output_groups",
)
EXTRA_FAMILIES = {  # for single tests
    "xlm-roberta": (
        XLMRobertaForMaskedLM,
        XLMRobertaConfig,
        {**SIZES, "max_position_embeddings": 66, "type_vocab_size": 1},
    ),
    "squeezebert": (
        SqueezeBertForMaskedLM,
        SqueezeBertConfig,
        {**SIZES, "embedding_size": 16, **dict.fromkeys(GROUPED_CONVOLUTIONS, 1)},
    ),
}
OWN_FAMILIES = ("bert", "roberta", "albert", "xlnet", "electra", "bart")


def write_family(folder: Path, name: str, text: str, word_pieces, **values) -> None:
    """Writes a model folder of the family: every weight random and none 0 or 1, dropout .1; `values` of config.json."""
    tokenizer = _tokenizer(name, text + TOY_WORDS, word_pieces)
    model_class, config_class, sizes = (FAMILIES | EXTRA_FAMILIES)[name]
    ids = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id")
        for role in ("pad", "bos", "eos")
        if getattr(tokenizer, f"{role}_token_id") is not None
    }
    extra = {"decoder_start_token_id": ids["eos_token_id"], "forced_eos_token_id": None} if name == "bart" else {}
    config = config_class(vocab_size=len(tokenizer), **{**ids, **extra, **sizes, **values})
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        model = model_class(config)
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.2)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(name: str, text: str, word_pieces):
    if name in ("roberta", "bart", "gpt2", "xlm-roberta"):
        return _byte_pairs(GPT2Tokenizer if name == "gpt2" else RobertaTokenizer, text)
    if name == "albert":
        return AlbertTokenizer(vocab=_unigrams(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], text))
    if name == "xlnet":
        special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
        return XLNetTokenizer(vocab=_unigrams(special, text))
    return word_pieces


def _unigrams(special: list[str], text: str) -> list[tuple[str, float]]:
    words = {f"▁{word}" for word in text.lower().split() if word.isalpha() and word.isascii()}
    letters = {"▁", *"abcdefghijklmnopqrstuvwxyz0123456789.,'\"?!-"}
    return [
        *((token, 0.0) for token in special),
        *((letter, -9.0) for letter in sorted(letters)),
        *((word, -5.0) for word in sorted(words - letters)),
    ]


def _byte_pairs(tokenizer_class, text: str):
    # <s> is 0 and <pad> 1 in the real vocabularies, which decides the positions of RoBERTa
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if tokenizer_class is RobertaTokenizer else ["<|endoftext|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator([text], trainer)
    state = json.loads(backend.to_str())["model"]
    return tokenizer_class(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]])
