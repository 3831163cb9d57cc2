"""A training script of somebody else's, which knows nothing of stableft, with the faults that such scripts have."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--out", type=Path)
parser.add_argument("--device", default="cpu")
parser.add_argument("--do", default="train", help="what it does, of the cases below")
parser.add_argument("--value", default="0.75")
parser.add_argument("--log")
options = parser.parse_args()


def write(value: str) -> None:
    (options.out / "eval_results.json").write_text(f'{{"eval_accuracy": {value}, "nested": {{"f1": 0.5}}}}')


def spawn(code: str, **more) -> int:
    return subprocess.Popen([sys.executable, "-c", code], **more).pid


FOREVER = "import time\nwhile True: time.sleep(1)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}"
print(f"seed {options.seed} on {options.device}, sees {os.environ['CUDA_VISIBLE_DEVICES']!r}")
match options.do:
    case "train":
        write(options.value)
    case "print":
        print(f"accuracy: 0.1\naccuracy: {options.value}\ngoodbye")
        print("accuracy: 0.9", file=sys.stderr)
    case "seeded":
        write(f"{0.5 + options.seed % 7 / 20}")
    case "fail":
        write(options.value)
        raise SystemError("out of luck")
    case "flaky":  # the first try of each seed
        tries = options.out.parent / "tries"
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if len(tries.read_text()) == 1:
            sys.exit(7)
        write(options.value)
    case "log":  # into a file that it names
        Path(options.log).write_text(f"seed {options.seed}")
        write(options.value)
    case "silent":
        pass
    case "stale":  # the second try leaves no score; that of the first must not count
        tries = options.out.parent / "tries"
        if not tries.exists():
            tries.write_text("x")
            write(options.value)
            sys.exit(1)
    case "flood":
        for _ in range(1000):
            sys.stdout.write("x" * 50_000 + "\n")
            sys.stderr.write("y" * 50_000 + "\r")
        print("accuracy: 0.75", flush=True)
    case "hang":
        (options.out.parent / "pids").write_text(json.dumps([os.getpid(), spawn(STUBBORN)]))
        print("about to hang", flush=True)
        time.sleep(600)
    case "leave":  # children that outlive it: one of its group, and one that leaves it
        pids = [spawn(FOREVER), spawn(STUBBORN, start_new_session=True)]
        (options.out.parent / "pids").write_text(json.dumps(pids))
        write(options.value)
    case "die":
        os.kill(os.getpid(), 9)
