"""The same fine-tuning by stableft and by the Hugging Face Trainer, seeds side by side: do the scores agree?

    scripts/bench trainer --model FOLDER --data-dir GLUE [--seeds 1-3] [--max-length 64]

MRPC, three epochs, the hyper-parameters of the recipe `devlin` with torch's AdamW (bias correction on, epsilon after
it, decay before the update), which is what the Trainer has. Seeds draw different numbers in the two, so means are
compared, not runs. Prints one line a run as it ends, then both means and their difference.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.data.data_collator import DataCollatorWithPadding

from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.data.metrics import compute_scores
from stableft.data.tokens import LabeledRows, load_splits
from stableft.models.load import load_tokenizer
from stableft.training.run import train

SETS = (
    "task=mrpc",
    "optimizer.bias_correction=true",
    "optimizer.eps_placement=after_correction",
    "optimizer.decay_order=before",
    "data.segment_ids=true",
    "evaluation.every={times: 1}",
    "evaluation.at_start=false",
)


class Rows(Dataset):
    """The tokens that stableft trains on, as the dicts that the Trainer's collator takes."""

    def __init__(self, rows: LabeledRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        span = slice(self.rows.offsets[i], self.rows.offsets[i + 1])
        return {
            "input_ids": self.rows.input_ids[span].tolist(),
            "token_type_ids": self.rows.segment_ids[span].tolist(),
            "attention_mask": [1] * (span.stop - span.start),
            "labels": int(self.rows.labels[i]),
        }


class FlatRows(Rows):
    """Rows for the Trainer's collator that flattens batches: labels of tokens, of which the second has the row's.

    The collator takes that of the first away.
    """

    def __getitem__(self, i: int) -> dict:
        row = super().__getitem__(i)
        others = len(row["input_ids"]) - 2
        return {"input_ids": row["input_ids"], "labels": [-100, row["labels"], *[-100] * others]}


def trainer_f1(model_folder: str, config, splits, seed: int) -> float:
    """Returns the Trainer's validation F1 after three epochs."""
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2, dtype=torch.float32)
    epochs = config.schedule.length.epochs
    steps = -(-len(splits.train) // config.schedule.batch_size) * epochs
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=config.schedule.batch_size,
            per_device_eval_batch_size=config.evaluation.batch_size,
            num_train_epochs=epochs,
            learning_rate=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            adam_epsilon=config.optimizer.eps,
            max_grad_norm=config.optimizer.clip_norm,
            lr_scheduler_type="linear",
            warmup_steps=int(config.schedule.warmup * steps),
            optim="adamw_torch_fused",
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(model_folder), pad_to_multiple_of=8)
        trainer = Trainer(model, arguments, collator, Rows(splits.train))
        trainer.train()
        outputs = trainer.predict(Rows(splits.val)).predictions
    return compute_scores(outputs, splits.val.labels, ("f1",))["f1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", default="1-3")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    sets = (*SETS, f"model={options.model}", f"data.max_length={options.max_length}")
    sweep = load_sweep("mrpc", LocalPaths(data_dir=options.data_dir), sets, arms=["devlin"], seeds=options.seeds)
    ours, theirs = [], []
    for run in sweep.runs:
        record = train(run, options.results, sweep.sources, Execution(threads=torch.get_num_threads()))
        assert record.last
        ours.append(record.last.val["f1"])
        print(f"stableft  seed {run.config.seeds.init}  F1 {ours[-1]:.4f}  run {run.run_id}", flush=True)
        splits = load_splits(run.config, sweep.sources, load_tokenizer(run.config, sweep.sources))
        theirs.append(trainer_f1(options.model, run.config, splits, run.config.seeds.init))
        print(f"Trainer   seed {run.config.seeds.init}  F1 {theirs[-1]:.4f}", flush=True)
    for name, values in (("stableft", ours), ("Trainer", theirs)):
        print(f"{name:<9} mean F1 {statistics.fmean(values):.4f}  SD {statistics.stdev(values):.4f}  n {len(values)}")
    print(f"difference of means {statistics.fmean(ours) - statistics.fmean(theirs):+.4f}")


if __name__ == "__main__":
    main()
