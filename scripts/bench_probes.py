"""What the probes of training cost: ten steps of which one records, over ten that do not, in turns within one run.

    scripts/bench probes [--model FOLDER | --large | --demo] [--device cuda:0] [--precision fp16] [--rounds 30]

The steps, on made-up pairs about as long as RTE's, are those of the training loop, with what it keeps of them. Without
--model a random BERT of 4 blocks, 256 wide, is made for the occasion, or one of BERT-large's size. With --demo it is
the first run of the demo.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from timing import make_model

from stableft.config.planned_run import Execution, InLoopProbes, LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.training.setup import RunSetup, batch_indices, prepare_run
from stableft.training.step import StepResult, TrainState, flush_pending_steps, train_on_batch

EVERY = 10
SWEEP = """
task: {{name: made-up, train: {data}, validation: {few}, text: [a, b], label: label, labels: [x, y], metric: accuracy}}
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
        make_model(Path(model), *((24, 1024) if large else (4, 256)), 30522)
    words = "the old man who had never seen a ship before walked slowly down to the harbour with his dog".split()
    rows = [
        {"a": " ".join(words[i % 7 :] * 2), "b": " ".join(words[: 5 + i % 11]), "label": "xy"[i % 2]}
        for i in range(660)
    ]
    for name, part in (("rows", rows[20:]), ("few", rows[:20])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "sweep.yaml").write_text(
        SWEEP.format(
            data=folder / "rows.jsonl",
            few=folder / "few.jsonl",
            model=Path(model).resolve(),
            steps=steps,
            precision=precision,
        )
    )
    return load_sweep(folder / "sweep.yaml", LocalPaths(cache_dir=folder / "cache"))


def ten_steps(job: RunSetup, state: TrainState) -> float:
    """Returns the seconds of ten steps of the loop, with the reading of what they leave."""
    start, pending = time.perf_counter(), list[StepResult]()
    for _ in range(EVERY):
        indices = batch_indices(job, state.step)
        pending.append(train_on_batch(state, job.splits.train, indices, job.config, 1e-5, job.inputs, job.device))
    flush_pending_steps(state, pending)
    if job.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    kinds = {"none": None, "gradient norms": InLoopProbes(grad_norms=EVERY), "drift": InLoopProbes(drift=EVERY)}
    with tempfile.TemporaryDirectory() as folder:
        if options.demo:
            sweep = load_sweep("configs/demo.yaml", LocalPaths())
        else:
            sweep = made_up_sweep(Path(folder), options.model, options.large, 10**6, options.precision)
        execution = Execution(options.device, torch.get_num_threads())
        run = replace(sweep.runs[0], probes=InLoopProbes(EVERY, EVERY))
        job, state = prepare_run(run, Path(folder) / "results", sweep.sources, execution)
        assert state.recorder
        recorder, seconds = state.recorder, {kind: list[float]() for kind in kinds}
        state.recorder = None
        ten_steps(job, state)  # to warm up; from here on a block of ten ends with a step that is due
        for _ in range(options.rounds):
            for kind, probes in kinds.items():
                state.recorder = replace(recorder, probes=probes) if probes else None
                seconds[kind].append(ten_steps(job, state))
    plain = statistics.median(seconds["none"])
    print(
        f"{job.device}, {options.precision}: {1e3 * plain / EVERY:.2f} ms a step, {len(recorder.parameters)} parameters"
    )
    for kind in ("gradient norms", "drift"):
        ratios = sorted(with_it / without for with_it, without in zip(seconds[kind], seconds["none"], strict=True))
        low, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.25, 0.75))
        print(
            f"{kind} every {EVERY} steps / none: median {statistics.median(ratios):.4f}, quartiles {low:.4f}-{high:.4f}"
        )


if __name__ == "__main__":
    main()
