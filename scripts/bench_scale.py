"""What a large sweep costs once its runs are done: CPU seconds and peak memory of the commands that read it.

    scripts/bench scale [--runs 1000 10000 100000] [--out results/benchmarks/scale.json]

The results folder is made up: the records and files of a finished sweep of two arms (ten for 100,000 runs), of the size
of the demo's, with scores drawn from a seed. Every command is a process of its own. `--help` beside them is what Python
and the command line cost without any records. Times are those of the processor, with child processes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.config.sweep_keys import MAX_SEEDS
from stableft.data.splits import data_fingerprint
from stableft.records.file_sums import sum_files
from stableft.records.run_record import (
    HISTORY_FILE,
    PREDICTIONS_FILE,
    RunRecord,
    Scores,
    read_records_file,
    run_folder,
    write_record,
)

TEMPLATE = Path(__file__).parents[1] / "results" / "records" / "demo.jsonl"
HISTORY_LINE = b'{"step": %d, "loss": 0.6931471805599453, "lr": 0.00113, "grad_norm": 1.7621312141418457}\n'
SWEEP = """# {runs} runs that nobody trained
task: toy-rte
model: demo/toy-bert
seeds: 1-{seeds}
set:
  data: {{split: dev, train_rows: 400, max_length: 32, segment_ids: true}}
  evaluation: {{every: {{times: 10}}, at_start: false, report: last}}
  model.attention: eager
  precision: fp32
grid: {{optimizer.lr: {rates}}}
arms:
  - recipe: devlin
  - recipe: mosbach
"""


def make_results(folder: Path, runs: int) -> tuple[Path, Path]:
    """Write a sweep file of so many runs and the results folder of its end. Return their paths."""
    sweep_file, results = folder / "scale.yaml", folder / "results"
    sweep = make_sweep(sweep_file, runs)
    template = read_template()
    fingerprint = data_fingerprint(sweep.runs[0].config, sweep.sources)
    rng = np.random.default_rng(0)
    for run in sweep.runs:
        record = make_record(run, template, fingerprint, float(np.clip(rng.normal(0.8, 0.1), 0, 1)))
        _write_run(results, run, record)
    return sweep_file, results


def make_sweep(sweep_file: Path, runs: int) -> Sweep:
    """Write a sweep file of so many runs, and return the sweep."""
    settings = -(-runs // (2 * MAX_SEEDS))
    rates = [round(1e-5 * (1 + number), 8) for number in range(settings)]
    sweep_file.write_text(SWEEP.format(runs=runs, seeds=runs // (2 * settings), rates=rates), encoding="utf-8")
    return load_sweep(str(sweep_file), LocalPaths())


def read_template() -> RunRecord:
    """Return a record of the demo."""
    return next(record for record in read_records_file(TEMPLATE) if isinstance(record, RunRecord))


def make_record(run: PlannedRun, template: RunRecord, fingerprint: str, score: float) -> RunRecord:
    """Return the record of a run that nobody trained."""
    assert template.data
    scores = Scores(step=75, val={"accuracy": score}, test=None)
    return template.model_copy(
        update={
            "run_id": run.run_id,
            "arm": run.arm,
            "recipe": run.recipe,
            "config": run.config,
            "report": run.report,
            "data": template.data.model_copy(update={"fingerprint": fingerprint}),
            "last": scores,
            "best": scores,
            "failed": score <= template.data.baselines["val"]["accuracy"],
        }
    )


def _write_run(results: Path, run: PlannedRun, record: RunRecord) -> None:
    from stableft.training.outputs import RUN_FILES, write_config_file  # imports torch, which `bench_cluster` does not

    folder = run_folder(results, run.run_id)
    folder.mkdir(parents=True)
    write_config_file(folder, run.config, arm=run.arm, recipe=run.recipe)
    (folder / HISTORY_FILE).write_bytes(b"".join(HISTORY_LINE % step for step in range(75)))
    (folder / PREDICTIONS_FILE).write_bytes(bytes(4000))
    write_record(results, record.model_copy(update={"files": sum_files(folder, RUN_FILES)}))


# A process of its own starts the command: a child's peak counts that of the process that forked it.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stderr.buffer.write(done.stdout[-2000:])
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(done.returncode)
"""


def measure(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Return CPU seconds and peak megabytes of a command."""
    command = [sys.executable, "-S", "-c", MEASURE, sys.executable, "-m", "stableft", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    seconds, peak = map(float, done.stdout.split())
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)}


def measure_all(runs: int) -> dict[str, dict[str, Any]]:
    """Return what each command costs on a finished sweep of so many runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep_file, results = make_results(folder, runs)
        sweep = [str(sweep_file), "--results", str(results)]
        commands = {
            "help": ["--help"],
            "sweep": ["sweep", *sweep, "--devices", "cpu"],
            "sweep again": ["sweep", *sweep, "--devices", "cpu"],  # its report is there already
            "status": ["status", *sweep],
            "report": ["report", *sweep],
            "export": ["export", *sweep, "--out", str(folder / "out.jsonl")],
        }
        return {name: measure(arguments, folder) for name, arguments in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    found = {}
    for runs in options.runs:
        found[runs] = measure_all(runs)
        for name, cost in found[runs].items():
            print(
                f"{runs:>7,} runs  {name:<12} {cost['cpu_seconds']:>8.2f} s CPU  {cost['peak_mb']:>6,} MB", flush=True
            )
    if options.out:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        options.out.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
