"""Makes what configs/smoke.yaml trains on: a tiny random BERT with its tokenizer, and made-up rows.

    python scripts/make_smoke.py [FOLDER]      default: configs/smoke

The files are committed, so that the smoke sweep needs nothing else; this tells how they came about. The sentences
praise or blame a thing; most words fit their label and some do not, so that the task can be learnt, but not perfectly.
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

THINGS = "film book song meal hotel garden lecture game story bridge".split()
OPENINGS = "i thought the,we found the,everyone said the,to me the,in short the".split(",")
VERBS = "was,felt,seemed,turned out".split(",")
WORDS = {
    "good": "bright clever lovely warm honest joyful gentle splendid fresh grand".split(),
    "bad": "dull clumsy ugly cold dishonest gloomy harsh dreadful stale petty".split(),
}


def sentences(count: int, random_: random.Random) -> list[dict[str, str]]:
    """Returns rows of a text and its label, half of each label, in random order."""
    rows = []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        other = {"good": "bad", "bad": "good"}[label]
        words = random_.sample(WORDS[label], 2) + random_.sample(WORDS[other], random_.random() < 0.4)
        random_.shuffle(words)
        described = f"{', '.join(words[:-1])} and {words[-1]}"
        opening, thing, verb = (random_.choice(choices) for choices in (OPENINGS, THINGS, VERBS))
        rows.append({"text": f"{opening} {thing} {verb} {described}", "label": label})
    random_.shuffle(rows)
    return rows


def tokenizer_for(rows: list[dict[str, str]]) -> PreTrainedTokenizerFast:
    """Returns a BERT-like tokenizer that knows every word of the rows."""
    words = sorted({word for row in rows for word in row["text"].replace(",", " , ").split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "configs/smoke")
    random_ = random.Random(0)
    splits = {"train": sentences(160, random_), "validation": sentences(80, random_)}
    for name, rows in splits.items():
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    tokenizer = tokenizer_for([row for rows in splits.values() for row in rows])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder / "tiny-bert")
    tokenizer.save_pretrained(folder / "tiny-bert")


if __name__ == "__main__":
    main()
