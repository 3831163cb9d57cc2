"""Resolve names in config files to local models and data files, and hash their contents."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stableft.catalog.model_families import is_packing_hub_model, packs_rows
from stableft.catalog.tasks import TASKS
from stableft.config.run_config import CustomTask
from stableft.config.validation import check_printed_name
from stableft.config.yaml_file import YamlValue
from stableft.errors import UserError, did_you_mean, echo
from stableft.transient import retrying

PICKLED_WEIGHTS = "pytorch_model*.bin"
WEIGHT_PATTERNS = ("*.safetensors", PICKLED_WEIGHTS)
ALLOW_PICKLE = "STABLEFT_ALLOW_PICKLE"  # the variable that --allow-pickle sets, which worker processes inherit
TOKENIZER_PATTERNS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
MODEL_FILE_PATTERNS = ("*.json", "*.txt", "*.model", *WEIGHT_PATTERNS)  # all that loading reads
DATA_FILE_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl"}
CUSTOM_TASK_KEYS = ("name", "format", "train", "validation", "test", "text", "label", "labels", "metric", "metrics")


def shipped_configs() -> Path:
    """Return the folder of shipped configs: inside the package if installed, beside src in a checkout."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def find_config(path: str | Path, kind: str, suggests: Callable[[str], bool], folder: str = "") -> Path:
    """Return the path of a config file, which may be a shipped one such as configs/rte.yaml or rte.

    `kind` names the kind of file in the error message. `suggests` says by a folder's name whether to suggest its
    files. Files in the subfolder `folder` of the shipped configs can be given by bare name.

    Raises:
        UserError: no such file; the message suggests the closest name.
    """
    shipped = shipped_configs()
    name = str(path).removeprefix("configs/")
    for candidate in (Path(path), shipped / name, shipped / folder / f"{name}.yaml", shipped / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    files = [file.relative_to(shipped) for file in shipped.rglob("*.yaml") if suggests(file.parent.name)]
    close = did_you_mean(name.removesuffix(".yaml"), [str(file.with_suffix("")) for file in files])
    if name != str(path) or name.endswith(".yaml"):  # suggest what looks like what was written
        close = re.sub(r"'(.*)'", r"'configs/\1.yaml'", close)
    raise UserError(f"{path}: there is no such {kind}{close}")


def config_name(path: Path) -> str:
    """Return the name of a config file: its path below the shipped configs, or else its stem."""
    shipped = shipped_configs()
    root = shipped if path.resolve().is_relative_to(shipped.resolve()) else path.parent
    return str(path.resolve().relative_to(root.resolve()).with_suffix(""))


def find_file(name: str, folders: tuple[Path, ...]) -> Path | None:
    """Return the first existing path `folder / name`, or None; an absolute `name` ignores `folders`."""
    try:
        path = Path(name).expanduser()
        return next((folder / path for folder in folders if (folder / path).exists()), None)
    except (OSError, RuntimeError):  # name too long for the OS; `~user` of an unknown user
        return None


def locate_model(name: Any, folders: tuple[Path, ...], where: str) -> tuple[dict[str, str], Path | None]:
    """Return the `model` settings, and the folder if the model is local.

    The settings are label and hash for a folder, name and revision (default "main") for a hub model.

    Raises:
        UserError: `name` is neither, or the folder lacks a config, weights or a tokenizer.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: model: {echo(name)} must be a folder or a hub name")
    folder = find_file(name, folders)
    if folder is not None and folder.is_dir():
        folder = folder.resolve()
        _check_model_folder(name, folder, where)
        label = f"{folder.parent.name}/{folder.name}" if folder.name.startswith("model") else folder.name
        return {"name": label, "sha256": model_folder_digest(folder)}, folder
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or folder is not None:
        raise UserError(f"{where}: model: {name!r} is not a folder")
    if link := next((path for path in (parent / name for parent in folders) if os.path.islink(path)), None):
        raise UserError(f"{where}: model: {name!r} is a link to {os.readlink(link)}, which does not exist")
    hub_name, _, revision = name.partition("@")
    if not all(hub_name.split("/")) or len(name.split()) != 1:
        raise UserError(f"{where}: model: {name!r} must be a folder or a hub name")
    return {"name": hub_name, "revision": revision or "main"}, None


def _check_model_folder(name: str, folder: Path, where: str) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: model: folder {name!r} holds no model: it has no config.json")
    if not any(True for pattern in WEIGHT_PATTERNS for _ in folder.glob(pattern)):
        raise UserError(f"{where}: model: folder {name!r} has no weights (model.safetensors or pytorch_model.bin)")
    # Without these files transformers silently creates a tokenizer with an empty vocabulary.
    if not any(True for pattern in TOKENIZER_PATTERNS for _ in folder.glob(pattern)):
        raise UserError(f"{where}: model: folder {name!r} has no tokenizer (tokenizer.json or vocab.txt)")


def can_pack_by_default(name: str, folder: Path | None) -> bool:
    """Return whether a model is known to compute the same function on packed rows: by config.json, or by its hub name.

    `folder` is that of a local model. One without a readable config.json is refused later, with the reason.
    """
    if folder is None:
        return is_packing_hub_model(name)
    try:
        values = _read_json(folder / "config.json")
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and packs_rows(values)


@retrying
def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_pickle_allowed() -> bool:
    return os.environ.get(ALLOW_PICKLE) == "1"


def check_weights_format(name: str, folder: Path) -> None:
    """Raise a UserError if loading a model folder would read a pickle, which can run code, and none is allowed."""
    if is_pickle_allowed():
        return
    pickled = [] if any(folder.glob("*.safetensors")) else sorted(folder.glob(PICKLED_WEIGHTS))
    for index in folder.glob("*.safetensors.index.json"):
        pickled += [folder / shard for shard in read_shard_names(name, index) if not shard.endswith(".safetensors")]
    if pickled:
        raise UserError(
            f"model {name!r}: the weights in {pickled[0]} are a pickle, which can run code when it is read; write them "
            "as model.safetensors with save_pretrained of transformers, or trust them with --allow-pickle"
        )


def read_shard_names(name: str, index: Path) -> list[str]:
    """Return the sorted names of the files that the index of a model's weights lists.

    Raises:
        UserError: The index cannot be read.
    """
    try:
        return sorted({str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"model {name!r}: its {index.name} cannot be read") from None


def locate_custom_task(written: YamlValue, folders: tuple[Path, ...]) -> tuple[str, dict, dict[str, Path]]:
    """Return the name, `data.own` settings, and file paths by SHA-256 of a user-provided task.

    Raises:
        UserError: missing or unknown key, name of a built-in task, missing file, or unknown file format.
    """
    task, where = written.value, written.where
    for key in task:
        if key not in CUSTOM_TASK_KEYS:
            close = did_you_mean(key, CUSTOM_TASK_KEYS)
            raise UserError(f"{written.locate((key,))}: task: key {key!r} is not known{close}")
    for key in ("name", "train", "validation", "text", "label"):
        if key not in task:
            raise UserError(f"{where}: task: key {key!r} is missing")
    name, name_where = task["name"], written.locate(("name",))
    if not isinstance(name, str):
        raise UserError(f"{name_where}: task: name: {echo(name)} must be text; quotes make it so")
    check_printed_name(name, f"{name_where}: task: name")
    if name in TASKS or name in {task.title for task in TASKS.values()}:  # it would be compared with the papers' scores
        raise UserError(f"{name_where}: task: name: {name!r} is a task that stableft knows; give yours another name")
    if ("metric" in task) == ("metrics" in task):
        rule = "give either metric or metrics" if "metric" in task else "metric is missing, or metrics for several"
        raise UserError(f"{where}: task: {rule}")
    paths: dict[str, Path] = {}
    settings: dict[str, Any] = {key: task[key] for key in ("label", "labels") if task.get(key) is not None}
    settings["text"] = [task["text"]] if isinstance(task["text"], str) else task["text"]
    if isinstance(settings["text"], list) and task["label"] in settings["text"]:
        raise UserError(
            f"{written.locate(('label',))}: task: label: {task['label']!r} is a column of the text too, so the text "
            "has the answer"
        )
    metrics = task.get("metrics", task.get("metric"))
    settings["metrics"] = [metrics] if isinstance(metrics, str) else metrics
    for split in ("train", "validation", "test"):
        if task.get(split) is None:
            continue
        path = find_file(str(task[split]), folders)
        if path is None or not path.is_file():
            raise UserError(f"{written.locate((split,))}: task: {split}: there is no file {str(task[split])!r}")
        settings[split] = file_digest(path.resolve())
        paths[settings[split]] = path.resolve()
        by_ending = DATA_FILE_FORMATS.get(path.suffix.lower())
        settings.setdefault("format", task.get("format") or by_ending)
        if not task.get("format") and settings["format"] not in (None, by_ending):
            raise UserError(
                f"{written.locate((split,))}: task: {split}: {echo(task[split])} does not end as "
                f"{echo(task['train'])}; the files of a task have one format"
            )
    if settings["format"] is None:
        raise UserError(
            f"{where}: task: format: must be given, since {echo(task['train'])} ends in none of "
            f"{', '.join(DATA_FILE_FORMATS)}"
        )
    return name, settings, paths


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, cached until its size, a time, or the file behind the path changes."""
    status = os.stat(path)
    return _cached_file_digest(path, (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))


def model_folder_digest(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of the files in a model folder that loading may read."""
    files = sorted({path for pattern in MODEL_FILE_PATTERNS for path in folder.glob(pattern) if path.is_file()})
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@retrying
@functools.cache  # ctime too: a copy may be given the modification time of its source
def _cached_file_digest(path: str | Path, status: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # hashlib.file_digest clears 256 KiB first, for files of a few
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


assert set(CUSTOM_TASK_KEYS) - {"name", "metric"} == set(CustomTask.model_fields)


REPORT_TITLES = (
    rb"(Fine-tuning stability|Mean performance|Stability of single predictions) over |(Mosbach|Zhang) et al\. 2021, "
    rb"|[^\n]+ against [^\n]+, "
)
# How the files begin that commands write, by kind. An ending of one kind is no name for another.
WRITTEN_FILES = {
    "records": (".jsonl", rb'\s*\{[^\n]*"checksum":"'),
    "csv": (".csv", rb"kind,|title,(label|row|x),|row,column,|paper,row,|arm,(task,)?of,|run_id,arm,"),
    "md": (".md", rb"# (" + REPORT_TITLES + rb")"),
    "latex": (".tex", rb"% Needs "),
    "json": (".json", rb'\{\n  "report": '),
    "html": (".html", rb"<!DOCTYPE html>"),
    "png": (".png", rb"\x89PNG"),
    "svg": (".svg", rb"<\?xml[^>]*>\s*<!DOCTYPE svg"),
    "pdf": (".pdf", rb"%PDF-"),
    "text": (".txt", rb"(?!\{|%PDF-|\x89PNG|<\?xml|<!DOCTYPE)"),
}
FOREIGN_ENDINGS = (".yaml", ".yml", ".tsv", ".npz", ".pt", ".safetensors", ".py", ".ipynb", ".toml", ".lock")
KIND_BYTES = 2**16  # of a file that its kind is judged by


def check_replaced_file(out: Path, kind: str) -> None:
    """Raise a UserError if `out` exists and is no file of the kind that is to be written there, nor an empty one.

    A file whose name has no known ending may be of any kind that commands write.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if not out.exists():
        return
    own, pattern = WRITTEN_FILES[kind]
    others = {ending for ending, _ in WRITTEN_FILES.values()} - {own} | {*FOREIGN_ENDINGS}
    patterns = [pattern]
    if out.suffix.lower() != own and kind != "records":
        patterns += [other for name, (_, other) in WRITTEN_FILES.items() if name not in ("records", "text", kind)]
    start = b""
    if out.is_file():
        with open(out, "rb") as file:
            start = file.read(KIND_BYTES)
    fits = not start or any(re.match(pattern, start) for pattern in patterns)
    if not out.is_file() or out.suffix.lower() in others or not fits:
        raise UserError(
            f"--out {out} exists and is not a file that this command writes, so it is not replaced; remove it first, "
            "or give another name"
        )


def check_results_folder(results: Path) -> None:
    """Raise UserError if `results` or its nearest existing parent is a file, or a link to nothing."""
    there = next((path for path in (results, *results.parents) if os.path.lexists(path)), results)
    if there.is_symlink() and not there.exists():
        raise UserError(f"--results {results}: {there} is a link to {os.readlink(there)}, which does not exist")
    if there.exists() and not there.is_dir():
        raise UserError(f"--results {results}: {there} is a file, not a folder")
