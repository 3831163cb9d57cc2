"""What a report costs: seconds and peak memory of `stableft report FILE` on so many made-up records.

    scripts/bench report [--records 100000] [--arms 20] [--format md]

The records are of the size of the demo's (11 evaluations each), their scores are drawn from a seed. A report of a
hundred records in a process of its own stands beside it: what is more than that is not Python's start and imports.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stableft.records.run_record import RunRecord, Scores, dump_record, read_records_file

TEMPLATE = Path(__file__).parents[1] / "results" / "records" / "demo.jsonl"


def make_records(path: Path, count: int, arms: int, seed: int = 0) -> None:
    """Writes records of runs that nobody made, the same number of each arm."""
    rng = np.random.default_rng(seed)
    template = next(iter(read_records_file(TEMPLATE)))
    assert isinstance(template, RunRecord)
    config = template.config
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            arm, number = i % arms, i // arms
            score = float(np.clip(rng.normal(0.7, 0.01 + 0.005 * arm), 0, 1))
            optimizer = config.optimizer.model_copy(update={"lr": 1e-5 * (arm + 1)})
            seeds = config.seeds.model_copy(update={"init": number, "data": number})
            scores = Scores(step=75, val={"accuracy": score}, test=None)
            record = template.model_copy(
                update={
                    "run_id": f"{i:016x}",
                    "arm": f"arm {arm}",
                    "config": config.model_copy(update={"optimizer": optimizer, "seeds": seeds}),
                    "last": scores,
                    "best": scores,
                    "failed": score <= 0.5025,
                }
            )
            file.write(dump_record(record) + "\n")


def measure(path: Path, form: str) -> dict[str, float]:
    """Returns the seconds and peak bytes of a process that renders the report."""
    code = "import sys; from stableft.cli.app import main; sys.argv[0] = 'stableft'; main()"
    start = time.perf_counter()
    command = [sys.executable, "-c", code, "report", str(path), "--format", form]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = _wait(process)
    if status:
        raise SystemExit(f"the report ended with {status}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * scale}


def _wait(process: subprocess.Popen) -> tuple[int, int, resource.struct_rusage]:
    import os

    return os.wait4(process.pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--format", default="md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.jsonl", Path(folder) / "large.jsonl"
        make_records(small, 100, 2)
        make_records(large, options.records, options.arms)
        base, full = measure(small, options.format), measure(large, options.format)
        size = large.stat().st_size
    print(json.dumps({"records": options.records, "arms": options.arms, "file_bytes": size, "report": full}))
    print(json.dumps({"records": 100, "arms": 2, "report": base}))
    print(f"ratio of seconds: {full['seconds'] / base['seconds']:.1f}")


if __name__ == "__main__":
    main()
