"""How fast stableft trains: against the Hugging Face Trainer, a bare PyTorch loop, and the machine's own rates.

    scripts/bench speed [--model FOLDER] [--data-dir GLUE] [--tasks rte mrpc cola] [--device cuda:0] [--precision fp16]
                        [--batch 16] [--steps 10] [--rounds 5] [--threads 1] [--demo-seeds 1] [--out FILE.json]

All sides train the same model on the same rows, in turns, in one process; the median of the rounds' ratios is printed.
Rows are the training rows of a GLUE folder, or made up with the lengths of the task's. Without --model, BERT-large's
shape with random weights on a GPU, and one of 4 blocks, 256 wide, on a CPU. On a CPU, times of updates are those of the
processor, which other processes do not change, and stableft alone keeps freed memory, as its workers do. The Trainer
has its best flags: fused AdamW, SDPA, batches of rows of similar length. The bare loop has its batches ready-made on
the device, and does nothing but forward, backward, clipping and torch's fused AdamW. The floor is what the machine's
measured matrix and copy rates allow for an update.

With --demo-seeds N, the sweep of configs/demo.yaml for N seeds an arm, from its command to its report, against
two loops over the Trainer that train and evaluate the same runs: one in one process, and one that starts a process a
run, as the scripts of both papers do.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from bench_trainer import Rows
from timing import (
    LENGTHS,
    Check,
    describe_machine,
    make_model,
    make_rows,
    measure_copy_rate,
    measure_matrix_rate,
    stableft_speed,
    trainer_arguments,
    trainer_speed,
)
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer
from transformers.data.data_collator import DataCollatorWithPadding

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.data.tokens import collate
from stableft.models.load import quiet_transformers
from stableft.sweep.local_workers import count_cores
from stableft.training.environment import keep_freed_memory
from stableft.training.evaluate import autocast
from stableft.training.setup import batch_indices, prepare_run

SWEEP = """
task: {task}
model: {model}
recipe: mosbach
seeds: {seed}
set:
  schedule: {{length: {{steps: {steps}}}, batch_size: {batch}}}
  evaluation: {{every: {{times: 1}}, at_start: false}}
  precision: {precision}
"""
MADE_UP = "{{name: {task}-like, train: rows-{task}.jsonl, validation: few.jsonl, {columns}, metric: accuracy}}"


@dataclass(frozen=True)
class Bench:
    """What all sides share."""

    check: Check
    options: argparse.Namespace

    def sweep(self, task: str, seed: int, **settings: Any) -> Sweep:
        options = self.options
        made_up = MADE_UP.format(task=task, columns="text: text, label: label, labels: [x, y]")
        source = task if options.data_dir else made_up
        path = self.check.folder / f"{task}.yaml"
        path.write_text(
            SWEEP.format(
                task=source,
                model=self.check.folder / "bert",
                steps=options.steps + 1,  # the first warms up
                seed=seed,
                batch=options.batch,
                precision=options.precision,
            )
        )
        sources = LocalPaths(cache_dir=self.check.folder / "cache", data_dir=options.data_dir)
        return load_sweep(path, sources, [f"{key.replace('__', '.')}={value}" for key, value in settings.items()])


def bare_speed(check: Check, sweep: Sweep) -> float:
    """Return milliseconds of an update of a bare loop over the run's own batches."""
    how = Execution(check.device, torch.get_num_threads())
    setup, state = prepare_run(sweep.runs[0], check.folder / "bare", sweep.sources, how)
    keep_freed_memory(False)  # as PyTorch alone has it
    model, config, device = state.model, setup.config, setup.device
    batches = [
        {
            key: value.to(device)
            for key, value in collate(setup.splits.train, batch_indices(setup, i), setup.inputs, config.data).items()
        }
        for i in range(setup.total)
    ]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay, fused=True
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    times = []
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
        if number % check.read_every == 0:
            loss.item()
            times.append(check.clock())
    return 1e3 * check.average([(later - t) / check.read_every for t, later in pairwise(times)])


def find_floor(check: Check, sweep: Sweep, tokens: float) -> float:
    """Return the milliseconds that the machine's matrix and copy rates allow for an update of so many tokens."""
    setup, state = prepare_run(
        sweep.runs[0], check.folder / "floor", sweep.sources, Execution("cpu", torch.get_num_threads())
    )
    shape: Any = state.model.config
    weights = sum(p.numel() for p in state.model.parameters())
    multiplied = sum(module.weight.numel() for module in state.model.modules() if isinstance(module, nn.Linear))
    rate = measure_matrix_rate(check, setup.config.precision, round(tokens), shape.hidden_size, shape.intermediate_size)
    copy_rate = measure_copy_rate(check, 1.0 if check.on_gpu else 0.1)
    # Forward and both products of backward; Adam reads four numbers a weight and writes three.
    return 1e3 * (6 * multiplied * tokens / rate + 28 * weights / copy_rate)


def measure_task(bench: Bench, task: str) -> dict[str, Any]:
    """Return milliseconds of an update by side, and ratios, each the median of the rounds."""
    check, options = bench.check, bench.options
    rounds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    tokens = 0.0
    # The order by length repeats after 50 batches, of which the first are the longest.
    ways = {
        "Trainer, dynamic padding": {"by_length": False, "steps": options.steps + 1},
        "Trainer, dynamic padding by length": {"steps": max(51, options.steps + 1)},
        "Trainer, padded to 128": {"width": 128, "steps": options.steps + 1},
    }
    for number in range(1, options.rounds + 1):
        sweeps = {name: bench.sweep(task, number, execution=name) for name in ("packed", "padded")}
        sides = {**sweeps, "packed, not deterministic": sweeps["packed"]}
        for name, sweep in sides.items():
            deterministic = not name.endswith("not deterministic")
            folder = f"{task}-{name}-{number}"
            ms, peaks[name], tokens = stableft_speed(check, sweep, folder, deterministic=deterministic)
            rounds.setdefault(name, []).append(ms)
        rounds.setdefault("bare loop, packed", []).append(bare_speed(check, sweeps["packed"]))
        for name, how in ways.items():
            ms, peaks[name] = trainer_speed(check, sweeps["padded"], **how)
            rounds.setdefault(name, []).append(ms)
        shown = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rounds.items())
        print(f"{task}, round {number}, ms an update: {shown}", flush=True)
    rounds["floor"] = [find_floor(check, bench.sweep(task, 1), tokens)]
    milliseconds = {name: statistics.median(values) for name, values in rounds.items()}
    ratios = {
        f"{name} / packed": statistics.median(
            theirs / ours for theirs, ours in zip(values, rounds["packed"], strict=len(values) > 1)
        )
        for name, values in rounds.items()
        if name != "packed"
    }
    for name, ratio in ratios.items():
        print(f"{task}: {name}: {ratio:.3f}", flush=True)
    return {
        "real tokens an update": round(tokens),
        "tokens/s": round(1e3 * tokens / milliseconds["packed"]),
        "updates/s": round(1e3 / milliseconds["packed"], 2),
        "ms": {name: round(ms, 2) for name, ms in milliseconds.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "peak GB": {name: round(peak, 2) for name, peak in peaks.items()} if check.on_gpu else None,
        "all ms": {name: [round(ms, 2) for ms in values] for name, values in rounds.items()},
    }


def measure_demo(bench: Bench) -> dict[str, Any]:
    """Return the runs an hour of the demo's sweep and of both loops over the Trainer, in turns."""
    seeds = f"26-{25 + bench.options.demo_seeds}"
    runs = load_sweep(str(shipped_configs() / "demo.yaml"), LocalPaths(), seeds=seeds).runs
    results = bench.check.folder / "demo"
    options = ["--devices", "cpu", "--jobs-per-device", str(min(8, count_cores())), "--results", str(results)]
    trainer = [sys.executable, str(Path(__file__).resolve()), "--trainer-demo"]
    sides = {
        "sweep": [[sys.executable, "-m", "stableft", "sweep", "configs/demo.yaml", "--seeds", seeds, *options]],
        "Trainer, one process": [[*trainer, seeds]],
        "Trainer, a process a run": [[*trainer, str(run.config.seeds.init), run.arm] for run in runs],
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(bench.options.rounds):
        for name, commands in sides.items():
            start = time.perf_counter()
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, cwd=shipped_configs().parent)
            seconds[name].append(time.perf_counter() - start)
        shutil.rmtree(results)
        print(f"demo, round {number + 1}: {', '.join(f'{k} {v[-1]:.1f} s' for k, v in seconds.items())}", flush=True)
    hourly = {name: round(3600 * len(runs) / statistics.median(values)) for name, values in seconds.items()}
    ratios = {
        f"sweep / {name}": round(statistics.median(map(truediv, values, seconds["sweep"])), 2)
        for name, values in seconds.items()
        if name != "sweep"
    }
    print(f"demo: {len(runs)} runs, runs an hour: {hourly}; {ratios}", flush=True)
    return {"runs": len(runs), "runs an hour": hourly, **ratios, "seconds": seconds}


def train_demo_with_trainer(seeds: str, *arms: str) -> None:
    """Train the demo's runs one after another with the Trainer on all cores, evaluating as often as the demo does."""
    sweep = load_sweep(str(shipped_configs() / "demo.yaml"), LocalPaths(), seeds=seeds, arms=arms)
    check = Check("cpu", False, Path(), Path())
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        for run in sweep.runs:
            setup, state = prepare_run(run, Path(name), sweep.sources, Execution("cpu", torch.get_num_threads()))
            torch.use_deterministic_algorithms(False)
            folder = str(Path(name) / "model")
            state.model.save_pretrained(folder)
            model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
            arguments = trainer_arguments(
                check,
                setup.config,
                name,
                max_steps=setup.total,
                eval_strategy="steps",
                eval_steps=setup.total // (setup.config.evaluation.every.times or 1),
            )
            collator = DataCollatorWithPadding(setup.tokenizer, pad_to_multiple_of=8)
            rows = Rows(setup.splits.train), Rows(setup.splits.val)
            Trainer(model, arguments, collator, *rows).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, help="updates a side and round: 10 on a CPU, 100 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--demo-seeds", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trainer-demo", nargs="+", help=argparse.SUPPRESS)  # one loop over the Trainer: seeds, arms
    options = parser.parse_args()
    if options.trainer_demo:
        train_demo_with_trainer(*options.trainer_demo)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        check = Check(options.device, False, Path(name), Path(name))
        options.steps = options.steps or (100 if check.on_gpu else 10)
        bench = Bench(check, options)
        if options.model:
            (check.folder / "bert").symlink_to(options.model.resolve())
        else:
            make_model(check.folder / "bert", *((24, 1024, 30522) if check.on_gpu else (4, 256, 30522)))
        make_rows(check.folder, AutoTokenizer.from_pretrained(check.folder / "bert"), dict.fromkeys(LENGTHS, 2000))
        found: dict[str, Any] = {"machine": describe_machine(options.device), "threads": options.threads}
        found |= {key: getattr(options, key) for key in ("precision", "batch", "steps", "rounds")}
        found |= {task: measure_task(bench, task) for task in options.tasks}
        if options.demo_seeds:
            found["demo"] = measure_demo(bench)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
