"""Files of results and training data, damaged at random, and the readers that must take or refuse them."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from stableft.catalog.tasks import TaskSpec
from stableft.config.run_config import CustomTask
from stableft.data.sources import read_custom_file
from stableft.errors import UserError
from stableft.records.import_csv import import_csv
from stableft.records.import_json import import_json
from stableft.records.import_mapping import TableMapping
from stableft.records.import_trainer_folder import read_trainer_run
from stableft.records.import_zhang_logs import import_zhang_logs
from stableft.records.run_record import read_records_file

TABLE = (
    'seed,arm,task,acc,step,val,loss\n0,a,rte,0.61,10,0.5,1e-3\n1,a,rte,"0.62",20,0.6,nan\n2,"b ""x""",rte,0.7,20,,\n'
)
LINES = (
    '{"seed": 0, "arm": "a", "task": "rte", "acc": 0.61, "step": 10, "val": 0.5, "config": {"lr": 1e-5}}\n'
    '{"seed": "s1", "arm": "caf\\u00e9", "task": "rte", "acc": 62.5, "step": 20, "val": null, "loss": [1, 2]}\n'
)
RAW_LOG = "step,loss,val_loss,val_acc,best_val_acc,\n10,0.6,0.59,0.7,0.7,\n20,0.5,0.57,0.68,0.7,\n"
TEST_LOG = "test_step,test_loss,test_acc\n20,0.5,0.71\n"
STATE = (
    '{"global_step": 20, "max_steps": 20, "log_history": [{"step": 10, "loss": 0.5}, '
    '{"step": 20, "eval_accuracy": 0.7}]}'
)
MAPPING = TableMapping(task="task", arm="arm", seed="seed", score="acc", val="val", step="step")
PIECES = (
    b"\xff", b"\xef\xbb\xbf", b"\0", b"\r", b"\n\n", b'"', b"\\ud800", b"\\", b"1_0", b"1e39", b"1e999", b"-1e-9999",
    b"9" * 30, b"9" * 5000, b"1." + b"0" * 9000, b"nan", b"-inf", b"%", b",", b"\t", b";", b"{", b"[" * 3000, b"]",
    b"}", b"null", b"true", b"\x1b[2J", "\u202e".encode(), "\u0663".encode(), b"=1+1", b"a" * 140_000, b'"seed": 1,',
    b"  ", "\ud800".encode("utf-8", "surrogatepass"), b"\x85", "\u2028".encode(), b"\x1c",
)  # fmt: skip


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return the content after one to three changes: a piece put in, cut out, doubled, or a byte replaced."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((0, 0, 1, 3, 20)))
        new = chance.choice((chance.choice(PIECES), content[start:end] * 2, b"", bytes([chance.randrange(256)])))
        content = content[:start] + new + content[end:]
    return content if chance.random() > 0.02 else content.decode("utf-8", "replace").encode("utf-16")


def _read_own(format: str, regression: bool) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        path = folder / "data"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        labels, metric = ((), "pearson") if regression else (("a", "b"), "accuracy")
        column = "acc" if regression else "arm"
        task = CustomTask.model_validate(
            {"format": format, "train": digest, "validation": digest, "text": ("task",), "label": column}
            | {"labels": labels, "metrics": (metric,)}
        )
        rows = read_custom_file(TaskSpec("mine", "mine", ("task",), labels, (metric,)), task, digest, {digest: path})
        "".join(rows.texts[0]).encode()  # as the fingerprint does
        assert np.isfinite(rows.labels).all()
        return rows

    return read


def _import(ending: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        path, out = folder / f"scores{ending}", folder / "out.jsonl"
        path.write_bytes(content)
        out.unlink(missing_ok=True)
        (import_json if "json" in ending else import_csv)(path, MAPPING, out)
        return list(read_records_file(out))

    return read


def _import_logs(folder: Path, content: bytes) -> object:
    run, out = folder / "plain" / "RTE" / "SEED1", folder / "out.jsonl"
    run.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    names = ("raw_log.txt", "test_last_log.txt", "test_best_log.txt")
    for name, part in zip(names, content.split(b"|", 2), strict=False):
        (run / name).write_bytes(part)
    import_zhang_logs(folder, out)
    return list(read_records_file(out))


def _read_trainer(folder: Path, content: bytes) -> object:
    run = folder / "run-1"
    run.mkdir(exist_ok=True)
    state, _, results = content.partition(b"|")
    (run / "trainer_state.json").write_bytes(state)
    (run / "all_results.json").write_bytes(results)
    return read_trainer_run(run, None)


TAB_TABLE = TABLE.replace(",", "\t").replace('"', "")
READERS: dict[str, tuple[str, Callable[[Path, bytes], object]]] = {
    "training csv": (TABLE, _read_own("csv", regression=True)),
    "training tsv": (TAB_TABLE, _read_own("tsv", regression=True)),
    "training jsonl": (LINES, _read_own("jsonl", regression=True)),
    "training labels": (TABLE.replace('"b ""x"""', "b"), _read_own("csv", regression=False)),
    "import csv": (TABLE, _import(".csv")),
    "import tsv": (TABLE.replace(",", "\t"), _import(".tsv")),
    "import jsonl": (LINES.replace("62.5", "0.625"), _import(".jsonl")),
    "import json": ("[" + LINES.strip().replace("\n", ",").replace("62.5", "0.625") + "]", _import(".json")),
    "zhang logs": (f"{RAW_LOG}|{TEST_LOG}|{TEST_LOG}", _import_logs),
    "trainer": (f'{STATE}|{{"eval_accuracy": 0.7, "eval_samples": 277}}', _read_trainer),
}


def read_damaged(name: str, cases: int, folder: Path, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Read so many damaged files, and yield the number of each with "" or the sentence with which it was refused."""
    text, read = READERS[name]
    chance = random.Random(f"{name} {seed}")
    for number in range(cases):
        content = damage(text.encode(), chance)
        try:
            read(folder, content)
        except UserError as error:
            yield number, str(error)
        else:
            yield number, ""
