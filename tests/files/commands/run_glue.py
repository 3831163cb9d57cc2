"""Fine-tune a model on RTE with transformers' Trainer, as its script of the same name does. It knows no stableft."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

LABELS = ["entailment", "not_entailment"]


@dataclass
class Arguments:
    model_name_or_path: str
    data_dir: str = "glue/RTE"
    max_train_rows: int | None = None
    max_seq_length: int = 128


def read_rows(path: Path, tokenizer, length: int) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = tokenizer(
        [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], truncation=True, max_length=length
    )
    labels = [LABELS.index(row["label"]) for row in rows]
    return [{key: texts[key][i] for key in texts} | {"labels": label} for i, label in enumerate(labels)]


def main() -> None:
    own, training = HfArgumentParser((Arguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(own.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(own.model_name_or_path, num_labels=len(LABELS))
    train, dev = (
        read_rows(Path(own.data_dir, name), tokenizer, own.max_seq_length) for name in ("train.tsv", "dev.tsv")
    )
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=train[: own.max_train_rows],
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda scored: {"accuracy": float(np.mean(scored.predictions.argmax(1) == scored.label_ids))},
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
