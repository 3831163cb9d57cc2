"""Time of an update with packed rows over that with padded rows, on made-up rows of RTE's and CoLA's lengths.

    scripts/bench packed --model FOLDER [--device cuda:0] [--precision fp16] [--batch 16] [--steps 10] [--rounds 5]

Both take the same batches in turns in one process. The median of the rounds' ratios is printed. On a CPU, the time is
that of the processor, which other processes do not change.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gpu_check import LENGTHS, Check, make_sweep, write_rows
from transformers import AutoTokenizer

from stableft.config.planned_run import Execution
from stableft.training.setup import RunSetup, batch_indices, prepare_run
from stableft.training.step import TrainState, train_on_batch


def update_time(setup: RunSetup, state: TrainState, steps: range) -> float:
    """Returns the mean milliseconds of these updates."""
    on_gpu = setup.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    for step in steps:
        rows = batch_indices(setup, step)
        train_on_batch(state, setup.splits.train, rows, setup.config, 1e-5, setup.inputs, setup.device)
    if on_gpu:
        torch.cuda.synchronize()
    return 1e3 * (clock() - start) / len(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    vocabulary = AutoTokenizer.from_pretrained(options.model).get_vocab()
    words = sorted(word for word in vocabulary if word.isalpha() and word.isascii() and word.islower())
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bert").symlink_to(options.model.resolve())
        write_rows(folder / "few.jsonl", np.full(16, 20), words, random)
        check = Check(options.device, False, folder, folder)
        for task in ("rte", "cola"):
            deciles = LENGTHS[task]
            lengths = np.interp(random.random(2000), np.linspace(0, 1, len(deciles)), deciles).round().astype(int)
            write_rows(folder / f"rows-{task}.jsonl", lengths, words, random)
            ready = []
            for execution in ("padded", "packed"):
                settings = {"precision": options.precision, "execution": execution}
                sweep = make_sweep(check, task, schedule__batch_size=options.batch, **settings)
                where = Execution(options.device, torch.get_num_threads())
                setup, state = prepare_run(sweep.runs[0], folder / execution, sweep.sources, where)
                update_time(setup, state, range(options.steps))  # warms up; on a GPU, records CUDA graphs
                ready.append((setup, state))
            ratios = []
            for number in range(options.rounds):
                steps = range(number * options.steps, (number + 1) * options.steps)
                padded, packed = (update_time(setup, state, steps) for setup, state in ready)
                ratios.append(packed / padded)
                print(f"{task}, round {number + 1}: {padded:.1f} ms padded, {packed:.1f} ms packed", flush=True)
            low, high = min(ratios), max(ratios)
            print(f"{task}: packed / padded: median {statistics.median(ratios):.3f}, from {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
