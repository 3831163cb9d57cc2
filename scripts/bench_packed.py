"""Time of an update with packed rows over that with padded rows, on made-up rows of RTE's and CoLA's lengths.

    scripts/bench packed --model FOLDER [--device cuda:0] [--precision fp16] [--batch 16] [--steps 20] [--rounds 5]

Both train in turns in one process. The median of the rounds' ratios is printed.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from gpu_check import LENGTHS, Check, stableft_speed, write_rows
from transformers import AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
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
            ratios, tokens = [], 0.0
            for number in range(options.rounds):
                ms = {}
                for execution in ("padded", "packed"):
                    name = f"{task}-{execution}-{number}"
                    how = {"steps": options.steps, "execution": execution}
                    ms[execution], _, tokens = stableft_speed(
                        check, task, options.batch, options.precision, name, **how
                    )
                ratios.append(ms["packed"] / ms["padded"])
                print(
                    f"{task}, round {number + 1}: {ms['padded']:.1f} ms padded, {ms['packed']:.1f} ms packed",
                    flush=True,
                )
            print(
                f"{task}, {tokens:.0f} tokens a step, {torch.get_num_threads()} threads: packed / padded: median "
                f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
            )


if __name__ == "__main__":
    main()
