"""Check stableft on a GPU: correctness first, then speed against the Hugging Face Trainer and the hardware's limits.

    scripts/gpu-check --out FOLDER [--device cuda:0] [--minutes 7] [--only tests,speed] [--tiny]

Every step runs in a process of its own, so that one failure does not hide the next. Models have BERT-large's shape with
random weights, rows the lengths of RTE, MRPC or CoLA; nothing is downloaded. Results go to FOLDER/gpu-check.json (after
every measurement) and FOLDER/gpu-check.md. The exit code is 1 if a step failed or found a difference.

`--tiny --device cpu` runs the same steps with a tiny model on a machine without a GPU.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import (
    DTYPES,
    LENGTHS,
    READ_EVERY,
    Check,
    describe_machine,
    make_model,
    make_rows,
    measure_copy_rate,
    measure_matrix_rate,
    stableft_speed,
    trainer_speed,
)
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, BertConfig, BertModel

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunInterrupted
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.records.run_record import HISTORY_FILE, RunRecord, read_record, run_folder
from stableft.training.run import train
from stableft.training.setup import batch_indices, prepare_run
from stableft.training.step import learning_rate, train_on_batch

TRAIN_ROWS = {"rte": 2490, "mrpc": 3668, "cola": 8551}
SPEED_SHARE = 0.4  # of the time goes into measuring the speed
STOP_EARLY = 25.0  # seconds before the time is up at which no further measurement begins
SWEEP = """
task:
  name: made-up
  train: rows-{task}.jsonl
  validation: few.jsonl
  text: text
  label: label
  labels: [x, y]
  metric: accuracy
model: {model}
recipe: mosbach
seeds: 1
set:
  schedule.length: {{steps: {steps}}}
  evaluation.every: {{times: 1}}
  evaluation.at_start: false
"""
Results = Iterator[tuple[str, dict[str, Any]]]


# ---- the made-up model and rows


def make_inputs(folder: Path, tiny: bool) -> None:
    """Write a BERT with random weights and rows of every length into the folder."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_configs() / "smoke" / "tiny-bert")
    make_model(folder / "bert", *((2, 64, len(tokenizer)) if tiny else (24, 1024, 30522)))
    make_rows(folder, tokenizer, dict.fromkeys(LENGTHS, 64) if tiny else TRAIN_ROWS)


def make_sweep(check: Check, task: str = "rte", steps: int = 60, **settings: Any) -> Sweep:
    """Return a sweep of one run on made-up rows."""
    path = check.folder / f"{task}.yaml"
    path.write_text(SWEEP.format(task=task, model=check.folder / "bert", steps=steps))
    sets = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    return load_sweep(path, LocalPaths(cache_dir=check.folder / "cache"), sets)


def run_once(check: Check, sweep: Sweep, name: str, stop_at: int | None = None, **execution: Any) -> RunRecord:
    """Train the sweep's run in a results folder of that name; with `stop_at`, stop there and resume."""
    results, done = check.folder / name, [0]
    options = Execution(**{"device": check.device, "threads": torch.get_num_threads(), **execution})
    if stop_at is not None:
        try:
            train(
                sweep.runs[0], results, sweep.sources, options, lambda at: done.append(at.step),
                lambda: done[-1] >= stop_at,
            )  # fmt: skip
        except RunInterrupted:
            pass
        else:
            raise RuntimeError(f"the run ended before it could be stopped at step {stop_at}")
        torch.manual_seed(99)  # a resume must not depend on the generators' state
    return train(sweep.runs[0], results, sweep.sources, options)


def read_history(check: Check, name: str, run: PlannedRun) -> str:
    return (run_folder(check.folder / name, run.run_id) / HISTORY_FILE).read_text()


# ---- a-e: correctness


def run_tests(check: Check) -> Results:
    """The tests marked gpu."""
    workers = min(8, os.cpu_count() or 1)
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", str(workers), "-p", "no:benchmark", *files]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    (check.out / "gpu-check-tests.log").write_text(output.stdout + output.stderr)
    lines = output.stdout.strip().splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    passed = output.returncode == 0 or (output.returncode == 5 and not check.on_gpu)
    yield (
        "pytest -m gpu",
        {
            "ok": passed,
            "summary": lines[-1] if lines else output.stderr[-2000:],
            "failures": failures,
        },
    )


def run_sweeps(check: Check) -> Results:
    """The smoke sweep and ten runs of the demo, both in every precision, several jobs on the device at once."""
    demo = ["configs/demo.yaml", "--arms", "devlin,mosbach", "--seeds", "26-30"]
    if check.tiny:
        demo += ["--set", "schedule.length={steps: 10}"]
    commands = {"smoke fp32": ["configs/smoke.yaml"], "demo fp32": demo}
    for name in ("fp16", "bf16"):
        # Fused blocks are for fp32 alone.
        commands[f"demo {name}"] = [*demo, "--set", "execution=packed", "--set", f"precision={name}"]
        if not check.tiny:  # a CPU would take minutes for them
            commands[f"smoke {name}"] = ["configs/smoke.yaml", "--set", f"precision={name}"]
    devices = check.device.partition(":")[2] or "cpu"
    start, running = time.perf_counter(), {}
    for name, command in commands.items():
        code = "from stableft.cli.app import main; main()"
        results = check.folder / f"sweep-{name.replace(' ', '-')}"
        options = ["--results", str(results), "--devices", devices, "--jobs-per-device", "2"]
        running[name] = subprocess.Popen(
            [sys.executable, "-c", code, "sweep", *command, *options],
            env={**os.environ, "OMP_NUM_THREADS": "1", "STABLEFT_CACHE": str(check.folder / "cache")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    for name, process in running.items():
        output = process.communicate()[0]
        seconds = time.perf_counter() - start
        folder = check.folder / f"sweep-{name.replace(' ', '-')}"
        found = (read_record(folder, path.parent.name) for path in folder.rglob("record.json"))
        records = [record for record in found if record]
        runs = [record for record in records if record.status == "finished" and record.last]
        by_arm = {
            arm: [record.last.val["accuracy"] for record in runs if record.arm == arm and record.last]
            for arm in sorted({record.arm for record in runs})
        }
        yield (
            name,
            {
                "ok": process.returncode == 0 and len(runs) == 10,
                "seconds since all started": round(seconds, 1),
                "accuracies": {arm: [round(score, 3) for score in scores] for arm, scores in by_arm.items()},
                "skipped steps": sum(record.skipped_steps or 0 for record in runs),
                "crashes": [record.reason for record in records if record.status == "crashed"],
                "output": "" if process.returncode == 0 else output[-6000:],
            },
        )


def check_repeats(check: Check) -> Results:
    """A run repeats itself, and resumes, bit for bit."""
    for precision in ("fp16",) if check.tiny else ("fp16", "fp32", "bf16"):
        sweep = make_sweep(check, steps=check.steps(40), precision=precision)
        first = run_once(check, sweep, f"first-{precision}")
        run_once(check, sweep, f"again-{precision}")
        histories = [read_history(check, f"{name}-{precision}", sweep.runs[0]) for name in ("first", "again")]
        result = {"ok": histories[0] == histories[1], "repeats": histories[0] == histories[1]}
        if precision != "bf16":
            run_once(check, sweep, f"resumed-{precision}", stop_at=check.steps(40) // 2, checkpoint_every=10**6)
            result["resumes"] = read_history(check, f"resumed-{precision}", sweep.runs[0]) == histories[0]
            result["ok"] = result["ok"] and result["resumes"]
        losses = [json.loads(line)["loss"] for line in histories[0].splitlines()]
        result |= {
            "skipped steps": first.skipped_steps,
            "losses": [round(losses[i], 4) for i in (0, len(losses) // 2, -1)],
        }
        yield precision, result


def check_memory(check: Check) -> Results:
    """A batch that does not fit is split, and the record says so."""
    settings = {"precision": "fp16", "schedule__batch_size": 32, "data__pad_to_max": "true"}
    sweep = make_sweep(check, steps=4, **settings)  # before the next line, so that a CPU shows if it is refused
    if not check.on_gpu:
        yield "skipped", {"ok": True, "reason": "needs CUDA"}
        return
    whole = run_once(check, sweep, "whole")
    assert whole.peak_memory_bytes
    assert whole.environment
    parameters = sum(p.numel() for p in BertModel(BertConfig.from_pretrained(check.folder / "bert")).parameters())
    held = 16 * parameters  # weights, gradients and both moments, four bytes each
    limit = held + 0.6 * (whole.peak_memory_bytes - held)
    gc.collect()  # a model may hold itself
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(check.device).total_memory)
    record = run_once(check, sweep, "limited")
    assert record.environment
    losses = [
        [json.loads(line)["loss"] for line in read_history(check, name, sweep.runs[0]).splitlines()]
        for name in ("whole", "limited")
    ]
    yield (
        "half the activations fit",
        {
            "ok": record.environment.micro_batch_halved >= 1 and record.config.schedule.batch_size == 32,
            "peak GB whole": round(whole.peak_memory_bytes / 1e9, 2),
            "limit GB": round(limit / 1e9, 2),
            "micro-batch": record.environment.micro_batch,
            "halved": record.environment.micro_batch_halved,
            "batch size": record.config.schedule.batch_size,
            "losses whole": losses[0],
            "losses limited": losses[1],
        },
    )


# ---- f-i: speed


PACKED, LAUNCHED = {"execution": "packed"}, {"cuda_graphs": False}
SPEED_CASES: list[tuple[str, int, str, list[dict[str, Any]]]] = [  # task, batch, precision, ways to execute
    ("rte", 16, "fp16", [{}, PACKED]),
    ("rte", 32, "fp16", [{}, PACKED]),
    ("cola", 16, "fp16", [{}, PACKED]),
    ("rte", 16, "bf16", [PACKED]),
    ("rte", 16, "fp32", [PACKED | {"tf32": False}, PACKED | {"tf32": True}]),
    ("mrpc", 16, "fp16", [PACKED]),
    ("cola", 32, "fp16", [PACKED]),
    ("mrpc", 32, "fp16", [PACKED]),
    ("rte", 16, "fp16", [LAUNCHED, {"deterministic": False}]),
]


def measure_speed(check: Check) -> Results:
    """Milliseconds of an update of stableft and of the Trainer, in turns, in rounds over all cases."""
    cases = SPEED_CASES if check.on_gpu else [case for case in SPEED_CASES if case[2] != "fp16"]  # a CPU has none
    measured: dict[str, list[tuple[float, float, float, float, float]]] = {}
    for number in range(1 if check.tiny else 5):
        for task, batch, precision, ways in cases:
            if time.time() > check.until:
                return
            theirs: dict[bool, tuple[float, float]] = {}
            settings = {"schedule__batch_size": batch, "precision": precision}
            for way in ways:
                tf32, graphs = way.get("tf32", False), way.get("cuda_graphs", True)
                if tf32 not in theirs:
                    theirs[tf32] = trainer_speed(
                        check, make_sweep(check, task, 1, **settings), check.steps(3 * READ_EVERY), tf32
                    )
                label = ", ".join(
                    [task, f"batch {batch}", precision, *(f"{key} {value}" for key, value in way.items())]
                )
                # Enough steps for a median without the intervals in which CUDA graphs are recorded.
                steps = check.steps((10 if graphs else 3) * READ_EVERY)
                sweep = make_sweep(check, task, steps, execution=way.get("execution", "padded"), **settings)
                options = {key: value for key, value in way.items() if key != "execution"}
                ours, peak, tokens = stableft_speed(check, sweep, f"{label}-{number}", **options)
                measured.setdefault(label, []).append((ours, theirs[tf32][0], peak, theirs[tf32][1], tokens))
                yield label, summarize_speed(measured[label])


def summarize_speed(rounds: list[tuple[float, float, float, float, float]]) -> dict[str, Any]:
    ours, theirs, peaks, their_peaks, tokens = zip(*rounds, strict=True)
    milliseconds = statistics.median(ours)
    return {
        "ok": True,
        "stableft ms": round(milliseconds, 2),
        "Trainer ms": round(statistics.median(theirs), 2),
        "Trainer / stableft": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 3),
        "tokens/s": round(1e3 * tokens[0] / milliseconds),
        "real tokens a step": round(tokens[0]),
        "peak GB": round(max(peaks), 2),
        "Trainer peak GB": round(max(their_peaks), 2),
        "rounds": len(rounds),
        "all ms": [round(x, 2) for x in ours],
        "Trainer all ms": [round(x, 2) for x in theirs],
    }


def measure_variants(check: Check) -> Results:
    """Compiled updates of stableft, and updates of the Trainer on flattened batches with flash attention: RTE."""
    precision = "fp16" if check.on_gpu else "fp32"
    settings = {"schedule__batch_size": 16, "precision": precision, "execution": "packed"}
    sweep = make_sweep(check, "rte", check.steps(6 * READ_EVERY), **settings)

    def compiled(cuda_graphs: bool) -> tuple[float, float]:
        name = f"compiled {cuda_graphs}"
        milliseconds, peak, _ = stableft_speed(check, sweep, name, compile=True, cuda_graphs=cuda_graphs)
        return milliseconds, peak

    def flattened() -> tuple[float, float]:  # on a CPU without flash attention, which tries the script alone
        return trainer_speed(check, sweep, check.steps(3 * READ_EVERY), flat=True)

    slow = None if check.on_gpu else "on a CPU it takes minutes"
    missing = "flash_attn is not installed" if check.on_gpu and not find_spec("flash_attn") else None
    variants = (
        ("stableft, compiled", slow, partial(compiled, False)),
        ("stableft, compiled, CUDA graphs", slow, partial(compiled, True)),
        ("Trainer, flattened", missing, flattened),
    )
    for label, reason, measure in variants:
        if reason:
            yield label, {"ok": True, "skipped": reason}
            continue
        try:
            milliseconds, peak = measure()
        except Exception as error:  # it must not hide the other
            yield label, {"ok": False, "message": f"{type(error).__name__}: {str(error)[:1500]}"}
        else:
            yield label, {"ok": True, "ms": round(milliseconds, 2), "peak GB": round(peak, 2)}


def measure_floor(check: Check) -> Results:
    """The device's own copy and matrix rates, and the time that they allow for an update."""
    size, gigabytes = (512, 0.05) if check.tiny else (8192, 4)
    copy_rate = measure_copy_rate(check, gigabytes)
    rates = {}
    for name in DTYPES:
        torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        rates[name] = measure_matrix_rate(check, name, size, size, size)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield (
        "rates",
        {"ok": True, "copy TB/s": round(copy_rate / 1e12, 3)}
        | {f"{name} TFLOP/s": round(rate / 1e12, 1) for name, rate in rates.items()},
    )
    parameters = 335e6
    for task, deciles in LENGTHS.items():
        mean = float(np.mean(np.interp(np.linspace(0, 1, 1001), np.linspace(0, 1, len(deciles)), deciles)))
        for batch in (16, 32):
            matrix = 6 * 302e6 * mean * batch / rates["fp16"]  # without the embeddings
            traffic = 28 * parameters / copy_rate  # Adam reads four numbers a weight and writes three
            yield (
                f"{task}, batch {batch}",
                {
                    "ok": True,
                    "matrix ms": round(1e3 * matrix, 2),
                    "optimizer ms": round(1e3 * traffic, 2),
                    "floor ms": round(1e3 * (matrix + traffic), 2),
                },
            )


def profile_steps(check: Check) -> Results:
    """Kernels, gaps between them and host synchronizations of an update."""
    precision = "fp16" if check.on_gpu else "fp32"
    cases = (("rte", 16, "packed"), ("rte", 16, "padded"), ("cola", 16, "packed"))
    for task, batch, execution in cases[:1] if check.tiny else cases:
        sweep = make_sweep(check, task, 40, precision=precision, schedule__batch_size=batch, execution=execution)
        how = Execution(check.device, torch.get_num_threads())
        setup, state = prepare_run(sweep.runs[0], check.folder / f"profile-{task}", sweep.sources, how)

        def update(setup=setup, state=state) -> None:
            lr = learning_rate(setup.config, state.step, setup.total)
            rows = batch_indices(setup, state.step % 3)  # few shapes, so that CUDA graphs are recorded in the warm-up
            train_on_batch(state, setup.splits.train, rows, setup.config, lr, setup.inputs, setup.device)

        for _ in range(check.steps(12)):
            update()
        stops: Counter[str] = Counter()
        if check.on_gpu:
            torch.cuda.synchronize()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                for _ in range(5):
                    update()
                torch.cuda.set_sync_debug_mode("default")
            waits = (warning for warning in caught if "called a synchronizing CUDA operation" in str(warning.message))
            stops.update("/".join(Path(w.filename).parts[-2:]) + f":{w.lineno}" for w in waits)
            torch.cuda.synchronize()
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if check.on_gpu else [ProfilerActivity.CPU]
        with profile(activities=activities, acc_events=True) as profiler:  # without, torch 2.11 warns
            for _ in range(3):
                update()
            if check.on_gpu:
                torch.cuda.synchronize()
        wanted = torch.autograd.DeviceType.CUDA if check.on_gpu else torch.autograd.DeviceType.CPU
        events = [event for event in profiler.events() if event.device_type == wanted and not event.is_user_annotation]
        spans = sorted((event.time_range.start, event.time_range.end) for event in events)
        busy, end = 0.0, -math.inf
        for start, stop in spans:
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
        total = (end - spans[0][0]) if spans else math.nan
        by_name: Counter[str] = Counter()
        for event in events:
            by_name[event.name[:70]] += event.time_range.end - event.time_range.start
        yield (
            f"{task}, batch {batch}, {execution}",
            {
                "ok": not stops,
                "kernels a step": round(len(events) / 3),
                "ms a step under the profiler": round(total / 3e3, 2),
                "busy share": round(busy / total, 3),
                "host synchronizations in 5 steps": dict(stops.most_common(12)),
                "longest, ms a step": {name: round(us / 3e3, 3) for name, us in by_name.most_common(14)},
            },
        )


def project_hours(check: Check, speed: dict[str, dict[str, Any]]) -> Results:
    """Hours of this device for 25 seeds of RTE and for the whole of M Table 1 (its recipes' batch 16)."""
    milliseconds = {
        task: speed.get(f"{task}, batch 16, fp16, execution packed", {}).get("stableft ms") for task in LENGTHS
    }
    if any(value is None for value in milliseconds.values()):
        yield "skipped", {"ok": True, "reason": "the speed of a task is missing"}
        return
    hours = {
        task: {epochs: 25 * epochs * math.ceil(TRAIN_ROWS[task] / 16) * ms / 3.6e6 for epochs in (3, 20)}
        for task, ms in milliseconds.items()
    }
    yield "25 seeds of RTE, 20 epochs", {"ok": True, "hours": round(hours["rte"][20], 2)}
    # Rows of the table: Devlin and Mixout with 3 epochs (Mixout at the speed of plain training), Mosbach with 20.
    yield "M Table 1", {"ok": True, "hours": round(sum(2 * h[3] + h[20] for h in hours.values()), 2)}


STEPS: dict[str, Callable[..., Results]] = {
    "tests": run_tests,
    "sweeps": run_sweeps,
    "repeats": check_repeats,
    "memory": check_memory,
    "speed": measure_speed,
    "variants": measure_variants,
    "floor": measure_floor,
    "profile": profile_steps,
    "projection": project_hours,
}


# ---- running the steps


def run_step(name: str, check: Check, path: Path, report: dict) -> None:
    """Run one step in this process, writing its results to a file as they come."""
    results: dict[str, Any] = {}
    try:
        arguments = (check, report.get("speed", {}).get("results", {})) if name == "projection" else (check,)
        for label, numbers in STEPS[name](*arguments):
            results[label] = numbers
            path.write_text(json.dumps(results))
            shown = ", ".join(f"{key} {value}" for key, value in numbers.items() if key != "output")
            print(f"   {label}: {shown}", flush=True)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        print(traceback.format_exc(), flush=True)
        results["error"] = {
            "ok": False,
            "message": f"{type(error).__name__}: {str(error)[:1500]}",
            "at": f"{Path(last.filename).name}:{last.lineno}",
        }
        path.write_text(json.dumps(results))


def to_markdown(report: dict[str, Any]) -> str:
    """Return the report as a short Markdown text."""
    lines = ["# GPU check", "", ", ".join(f"{key} {value}" for key, value in report["machine"].items()), ""]
    for name, step in report["steps"].items():
        verdict = "passed" if step["ok"] else "FAILED"
        lines += [f"## {name}: {verdict}, {step['seconds']:.0f} s", ""]
        for label, numbers in step["results"].items():
            shown = (f"{key} {value}" for key, value in numbers.items() if key not in ("ok", "output") and value != [])
            lines.append(f"- {'' if numbers['ok'] else '**failed** '}**{label}**: {', '.join(shown)}")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--only", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=math.inf, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device != "cpu":
        # The Trainer spreads batches over all cards that it sees, and takes the first whatever it is told.
        kind, _, number = options.device.partition(":")
        if kind != "cuda" or not number.isdecimal():
            parser.error(f"--device {options.device}: must be cpu, or cuda: and the number of a card, such as cuda:0")
        if not options.step:
            cards = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
            if cards and int(number) >= len(cards):
                parser.error(f"--device {options.device}: CUDA_VISIBLE_DEVICES has {len(cards)} cards")
            os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(number)] if cards else number
            options.device = "cuda:0"
    names = options.only.split(",")
    if unknown := set(names) - set(STEPS):
        parser.error(f"--only has no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    report_path = options.out / "gpu-check.json"
    if options.step:
        check = Check(options.device, options.tiny, options.folder, options.out, options.until)
        report = json.loads(report_path.read_text()) if report_path.exists() else {"steps": {}}
        run_step(options.step, check, options.folder / f"{options.step}.json", report["steps"])
        return 0
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch finds no CUDA device; --tiny --device cpu runs on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        make_inputs(Path(folder), options.tiny)
        report = {
            "machine": describe_machine(options.device),
            "made inputs in s": round(time.monotonic() - start, 1),
            "steps": {},
        }
        for name in names:
            report["steps"][name] = run_in_process(name, options, Path(folder), deadline)
            report_path.write_text(json.dumps(report, indent=1) + "\n")
            (options.out / "gpu-check.md").write_text(to_markdown(report))
    failed = [name for name, step in report["steps"].items() if not step["ok"]]
    print(
        f"== {len(names) - len(failed)} of {len(names)} steps passed" + (f"; not {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def run_in_process(name: str, options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    """Run a step in a process of its own and return its results, whatever happens to it."""
    print(f"== {name}", flush=True)
    command = [sys.executable, __file__, "--step", name, "--out", str(options.out), "--folder", str(folder)]
    command += ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    start, end = time.monotonic(), ""
    seconds = min(deadline - start - STOP_EARLY, SPEED_SHARE * 60 * options.minutes)
    command += ["--until", str(time.time() + seconds)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(timeout=max(1.0, deadline - start))
        end = f"the step's process ended with exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        end = "the time was up"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and all that it started
    path = folder / f"{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if end or not results:
        results["end"] = {"ok": False, "message": end or "no result"}
    seconds = time.monotonic() - start
    return {"ok": all(result["ok"] for result in results.values()), "seconds": round(seconds, 1), "results": results}


if __name__ == "__main__":
    sys.exit(main())
