"""What stableft's training loop costs beyond a bare PyTorch loop with the same model, batches and optimizer settings.

    scripts/bench overhead [--model FOLDER | --large] [--device cuda:0] [--precision fp16] [--steps 30] [--rounds 5]

Both loops train in turns in one process, on made-up pairs about as long as RTE's; the time of a step of each is taken
in every round, and the median of the rounds' ratios is printed, with peak memory. The bare loop has its batches
ready-made and does nothing but forward, backward, clipping and torch's own fused AdamW. Without --model a random BERT
of 4 blocks, 256 wide, is made for the occasion, or one of BERT-large's size (24 blocks, 1,024 wide).
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

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.data.tokens import collate
from stableft.training.evaluate import autocast
from stableft.training.run import train
from stableft.training.setup import batch_indices, prepare_run

SWEEP = """
task: {{name: made-up, train: {data}, validation: {data}, text: [a, b], label: label, labels: [x, y], metric: accuracy}}
model: {model}
recipe: mosbach
seeds: 1
set:
  schedule.length: {{steps: {steps}}}
  evaluation.every: {{times: 1}}
  evaluation.at_start: false
  precision: {precision}
"""


def made_up_sweep(folder: Path, model: str | None, large: bool, steps: int, precision: str) -> Sweep:
    """Returns a sweep of one run on made-up sentence pairs about as long as RTE's."""
    if model is None:
        model = str(folder / "bert")
        make_model(Path(model), large)
    words = "the old man who had never seen a ship before walked slowly down to the harbour with his dog".split()
    rows = [
        {"a": " ".join(words[i % 7 :] * 2), "b": " ".join(words[: 5 + i % 11]), "label": "xy"[i % 2]}
        for i in range(640)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sweep.yaml").write_text(
        SWEEP.format(data=folder / "rows.jsonl", model=Path(model).resolve(), steps=steps, precision=precision)
    )
    return load_sweep(folder / "sweep.yaml", LocalPaths(cache_dir=folder / "cache"))


def make_model(folder: Path, large: bool) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(shipped_configs() / "smoke" / "tiny-bert")
    width, blocks = (1024, 24) if large else (256, 4)
    size = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": width // 64}
    size |= {"intermediate_size": 4 * width}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stableft_step(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> float:
    """Returns the median seconds of a step as the whole loop of `train` goes through it, between its reports."""
    seen: list[tuple[int, float]] = []
    record = train(
        run, results, sweep.sources, execution, progress=lambda at: seen.append((at.step, time.perf_counter()))
    )
    assert record.environment
    memory = (record.peak_memory_bytes or 0) / 1e9
    print(f"  peak memory {memory:.2f} GB on {record.environment.device}, {record.skipped_steps} steps skipped")
    # The last two reports are of the end: the last step, and the evaluation after it.
    return statistics.median((later - t) / (n - step) for (step, t), (n, later) in pairwise(seen[:-1]) if n > step)


def bare_step(run: PlannedRun, results: Path, sweep: Sweep, execution: Execution) -> float:
    """Returns the median seconds of a step of the bare loop, read as often as the other's."""
    job, state = prepare_run(run, results, sweep.sources, execution)
    model, config, device = state.model, run.config, job.device
    batches = [
        {
            key: value.to(device)
            for key, value in collate(job.splits.train, batch_indices(job, i), job.inputs, config.data).items()
        }
        for i in range(job.total)
    ]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay, fused=True
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    every, times = 1 if device.type == "cpu" else 20, []
    for number, batch in enumerate(batches, 1):
        labels = batch.pop("labels")
        with autocast(config, device):
            loss = nn.functional.cross_entropy(model(**batch).logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if number % every == 0:
            loss.item()
            times.append(time.perf_counter())
    return statistics.median((later - t) / every for t, later in pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        sweep = made_up_sweep(Path(folder), options.model, options.large, options.steps, options.precision)
        execution = Execution(options.device, torch.get_num_threads(), checkpoint_every=10**9)
        for number in range(options.rounds):
            results = Path(folder) / f"results-{number}"
            bare = bare_step(sweep.runs[0], results, sweep, execution)
            ours = stableft_step(sweep.runs[0], results, sweep, execution)
            ratios.append(ours / bare)
            times = f"bare {1e3 * bare:.1f} ms, stableft {1e3 * ours:.1f} ms a step"
            print(f"round {number + 1}: {times}, {1 / ours:.1f} steps/s", flush=True)
    print(f"stableft / bare: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
