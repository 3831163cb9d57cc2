"""Files of results and training data, damaged at random, and the readers that must take or refuse them."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from support.table_records import make_imported, make_record

from stableft.catalog.tasks import TaskSpec
from stableft.config.run_config import CustomTask, canonical_json
from stableft.data.sources import read_custom_file
from stableft.errors import UserError
from stableft.records.frame import build_tidy_frame
from stableft.records.import_csv import import_csv
from stableft.records.import_json import import_json
from stableft.records.import_mapping import TableMapping
from stableft.records.import_trainer_folder import read_trainer_run
from stableft.records.import_zhang_logs import import_zhang_logs
from stableft.records.run_record import dump_record, read_record, read_records_file, run_folder

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


@dataclass
class Tally:
    """What a kind of fault did. `bad` holds a sentence for each thing that went wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return the content after one to three changes: a piece put in, cut out, doubled, or a byte replaced."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((0, 0, 1, 3, 20)))
        new = chance.choice((chance.choice(PIECES), content[start:end] * 2, b"", bytes([chance.randrange(256)])))
        content = content[:start] + new + content[end:]
    return content if chance.random() > 0.02 else content.decode("utf-8", "replace").encode("utf-16")


def damage_file(path: Path, draw: random.Random) -> str:
    """Flips one bit or cuts the end off, and returns what it did."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.3:
        path.write_bytes(content[:place])
        return f"{path.name} cut after {place} of {len(content)} bytes"
    bit = draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name} with bit {bit} of byte {place} flipped"


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


def _sign(content: bytes) -> bytes:
    """Returns a record with the checksum of what it says now, so that damage reaches the checks behind it."""
    try:
        values = json.loads(content)
        values.pop("checksum")
        checksum = hashlib.sha256(canonical_json(values).encode()).hexdigest()
        return canonical_json({**values, "checksum": checksum}).encode()
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return content


def _read_record(signed: bool) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        path = run_folder(folder, RECORD.run_id) / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_sign(content) if signed else content)
        record = read_record(folder, RECORD.run_id)
        assert record
        return build_tidy_frame([record], "recipe")

    return read


def _read_records(folder: Path, content: bytes) -> object:
    path = folder / "records.jsonl"
    path.write_bytes(b"\n".join(map(_sign, content.split(b"\n"))))
    return build_tidy_frame(read_records_file(path), "recipe")


RECORD = make_record(seed=3)
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
    "record": (dump_record(RECORD), _read_record(signed=False)),
    "signed record": (dump_record(RECORD), _read_record(signed=True)),
    "signed records": (f"{dump_record(RECORD)}\n{dump_record(make_imported())}\n", _read_records),
    "trainer": (f'{STATE}|{{"eval_accuracy": 0.7, "eval_samples": 277}}', _read_trainer),
}


def read_case(name: str, number: int, folder: Path, seed: int = 0) -> str:
    """Reads a damaged file; returns "" or the sentence with which it was refused."""
    text, read = READERS[name]
    chance = random.Random(f"{name} {seed} {number}")
    try:
        read(folder, damage(text.encode(), chance))
    except UserError as error:
        return str(error)
    return ""
