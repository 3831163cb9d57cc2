"""What stableft's training loop costs beyond a bare PyTorch loop with the same model, batches and optimizer settings.

    scripts/bench overhead [--model FOLDER] [--steps 30] [--rounds 5]

Both loops train in turns in one process; the median time of a step of each is taken in every round, and the median of
the rounds' ratios is printed. The bare loop has its batches ready-made and does nothing but forward, backward,
clipping and torch's own fused AdamW. Without --model a BERT of 4 blocks, 256 wide, is made for the occasion.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from stableft.data import collate
from stableft.job import batch_indices, prepare
from stableft.locate import shipped_configs
from stableft.plan import Execution, PlannedRun, Sources
from stableft.sweepfile import Sweep, load_sweep
from stableft.train import train

SWEEP = """
task: {{name: made-up, train: {data}, validation: {data}, text: [a, b], label: label, labels: [x, y], metric: accuracy}}
model: {model}
recipe: mosbach
seeds: 1
set:
  schedule.length: {{steps: {steps}}}
  evaluation.every: {{times: 1}}
  evaluation.at_start: false
"""


def made_up_sweep(folder: Path, model: str | None, steps: int) -> Sweep:
    """Returns a sweep of one run on made-up sentence pairs about as long as RTE's."""
    if model is None:
        model = str(folder / "bert")
        make_model(Path(model))
    words = "the old man who had never seen a ship before walked slowly down to the harbour with his dog".split()
    rows = [
        {"a": " ".join(words[i % 7 :] * 2), "b": " ".join(words[: 5 + i % 11]), "label": "xy"[i % 2]}
        for i in range(640)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sweep.yaml").write_text(
        SWEEP.format(data=folder / "rows.jsonl", model=Path(model).resolve(), steps=steps)
    )
    return load_sweep(folder / "sweep.yaml", Sources(cache_dir=folder / "cache"))


def make_model(folder: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(shipped_configs() / "smoke" / "tiny-bert")
    size = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stableft_steps(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> list[float]:
    """Returns the seconds of every step but the first, as the whole loop of `train` goes through it."""
    times: list[float] = []
    train(run, results, sweep.sources, execution, progress=lambda _: times.append(time.perf_counter()))
    return [b - a for a, b in pairwise(times[:-1])]


def bare_steps(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> list[float]:
    """Returns the seconds of every step but the first of the bare loop."""
    job, state = prepare(run, results, sweep.sources, execution)
    model, config = state.model, run.config
    batches = [collate(job.splits.train, batch_indices(job, i), job.pad_id, config.data) for i in range(job.total)]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay, fused=True
    )
    times: list[float] = []
    for batch in batches:
        labels = batch.pop("labels")
        loss = nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        times.append(time.perf_counter())
    return [b - a for a, b in pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        sweep = made_up_sweep(Path(folder), options.model, options.steps)
        execution = Execution(threads=torch.get_num_threads(), checkpoint_every=10**9)
        for number in range(options.rounds):
            results = Path(folder) / f"results-{number}"
            bare = statistics.median(bare_steps(sweep.runs[0], results, sweep, execution))
            ours = statistics.median(stableft_steps(sweep.runs[0], results, sweep, execution))
            ratios.append(ours / bare)
            print(f"round {number + 1}: bare {1e3 * bare:.1f} ms, stableft {1e3 * ours:.1f} ms a step", flush=True)
    print(f"stableft / bare: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
