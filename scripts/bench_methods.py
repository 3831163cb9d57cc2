"""What Mixout and pre-trained weight decay cost in time and memory, as ratios to plain fine-tuning within one run.

    scripts/bench methods --model FOLDER --data-dir GLUE [--device cuda:0] [--precision fp16] [--rounds 20]

RTE, batch 32, recipe zhang. A method is compared with plain fine-tuning that has the same dropout: Mixout with none, as
in its recipe; the ratio to zhang's own dropout stands beside it. Time: the models take the same steps in turns, one
step of each in a round; the median of the rounds' ratios is printed with its quartiles. Memory, of each alone: what is
held between steps beyond plain fine-tuning, as a multiple of the weights, and how the peak of two steps compares. On a
CPU both come from the allocations that torch's profiler saw.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.training.setup import RunSetup, batch_indices, prepare_run
from stableft.training.step import TrainState, learning_rate, train_on_batch

NO_DROPOUT: dict[str, Any] = {"model.dropout": 0.0}
MIXOUT = NO_DROPOUT | {"mixout.p": 0.9}
ARMS: dict[str, tuple[dict[str, Any], str | None]] = {  # settings, and the arm to compare with
    "plain": ({}, None),
    "plain without dropout": (NO_DROPOUT, None),
    "mixout .9 parameter": (MIXOUT | {"mixout.granularity": "parameter"}, "plain without dropout"),
    "mixout .9 column": (MIXOUT | {"mixout.granularity": "column"}, "plain without dropout"),
    "pre-trained decay .01": ({"optimizer.weight_decay": 0.01, "optimizer.decay_towards": "pretrained"}, "plain"),
}
WARM_UP = 2


def make_sweep(folder: Path, options: argparse.Namespace) -> Sweep:
    """Returns a sweep of one run for each arm."""
    every = {
        "schedule.length": {"steps": options.rounds + WARM_UP},
        "schedule.batch_size": 32,
        "precision": options.precision,
    }
    recipe = str(shipped_configs() / "recipes" / "zhang.yaml")
    arms = [{"name": name, "recipe": recipe, "set": every | settings} for name, (settings, _) in ARMS.items()]
    content = {"task": "rte", "model": str(Path(options.model).resolve()), "seeds": 1, "arms": arms}
    (folder / "sweep.yaml").write_text(json.dumps(content))
    return load_sweep(
        folder / "sweep.yaml", LocalPaths(data_dir=Path(options.data_dir).resolve(), cache_dir=folder / "cache")
    )


def take_step(job: RunSetup, state: TrainState) -> float:
    """Returns the seconds of one update."""
    start = time.perf_counter()
    lr = learning_rate(job.config, state.step, job.total)
    rows = batch_indices(job, state.step)
    train_on_batch(state, job.splits.train, rows, job.config, lr, job.inputs, job.device)
    wait(job.device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_memory(sweep: Sweep, number: int, execution: Execution, folder: Path) -> tuple[int, int, int]:
    """Returns the bytes of an arm's weights, those held after two steps, and the peak while these were taken."""
    run, device = sweep.runs[number], torch.device(execution.device)
    prepare_run(run, folder, sweep.sources, execution)  # reads data and checkpoint, which stay
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        job, state = prepare_run(run, folder, sweep.sources, execution)
        torch.cuda.reset_peak_memory_stats(device)
        take_step(job, state)
        take_step(job, state)
        held = torch.cuda.memory_allocated(device) - before
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            job, state = prepare_run(run, folder, sweep.sources, execution)
            take_step(job, state)
            take_step(job, state)
        held, peak = allocated(seen, folder)
    return sum(p.numel() * p.element_size() for p in state.model.parameters()), held, peak


def allocated(seen: profile, folder: Path) -> tuple[int, int]:
    """Returns the bytes that the profiled code had allocated at its end, and at most."""
    seen.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return now, peak


def measure_times(sweep: Sweep, rounds: int, execution: Execution, folder: Path) -> dict[str, list[float]]:
    """Returns the seconds of every step of every arm, which take theirs in turns."""
    ready = {
        name: prepare_run(run, folder, sweep.sources, execution) for name, run in zip(ARMS, sweep.runs, strict=True)
    }
    for _ in range(WARM_UP):
        for job, state in ready.values():
            take_step(job, state)
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(rounds):
        for name, (job, state) in ready.items():
            times[name].append(take_step(job, state))
    return times


def spread(times: dict[str, list[float]], name: str, base: str) -> str:
    """Returns median and quartiles of the ratios of two arms' steps in the same round."""
    ratios = [ours / theirs for ours, theirs in zip(times[name], times[base], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = make_sweep(folder, options)
        execution = Execution(options.device, torch.get_num_threads())
        memory = {arm: measure_memory(sweep, i, execution, folder) for i, arm in enumerate(ARMS)}
        times = measure_times(sweep, options.rounds, execution, folder)
    print(f"{options.rounds} rounds on {options.device}, {torch.get_num_threads()} threads, {options.precision}")
    for arm, (_, base) in ARMS.items():
        weights, held, peak = memory[arm]
        print(
            f"{arm}: {1e3 * statistics.median(times[arm]):.0f} ms a step; weights {weights / 1e6:.1f} MB, held ", end=""
        )
        print(f"{held / 1e6:.1f} MB, at most {peak / 1e6:.1f} MB")
        if base:
            _, base_held, base_peak = memory[base]
            print(f"  time / {base}: {spread(times, arm, base)}; / plain: {spread(times, arm, 'plain')}")
            print(f"  held beyond {base}: {(held - base_held) / weights:.3f} times the weights; peak ", end="")
            print(f"{(peak - base_peak) / weights:+.3f} times the weights, {peak / base_peak:.3f} of its peak")


if __name__ == "__main__":
    main()
