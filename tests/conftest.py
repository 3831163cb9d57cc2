"""What several tests share: a tokenizer made here, a tiny model folder, a valid config."""

import os

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before anything starts CUDA, which reads it once

import gc
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.paths import GLUE

from stableft.config.local_files import file_digest, model_folder_digest
from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig

for _size in ("COLUMNS", "LINES"):  # pytest-xdist sets them; tables must not depend on who runs the tests
    os.environ.pop(_size, None)
# Processes that tests start import `support` too, and stableft from where this one has it.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` ignores it; the processes of tests must not
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = 600  # seconds


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives to the end; it would look through all imported modules again and again."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark nightly tests as slow too, so that -m "not slow" leaves them out; put the longest first.

    The longest are those that have a timeout of LONG seconds or more. Last, one of them would keep one process of
    pytest-xdist busy while the others have nothing left to do.
    """
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.slow)
    timeouts = {item: item.get_closest_marker("timeout") for item in items}
    items.sort(key=lambda item: not (timeout := timeouts[item]) or timeout.args[0] < LONG)


RUN_VALUES = {
    "data": {
        "task": "rte",
        "own": None,
        "split": "dev",
        "train_rows": None,
        "sample_seed": None,
        "max_length": 32,
        "pad_to_max": False,
        "segment_ids": True,
    },
    "model": {"name": "tiny", "sha256": "0" * 64, "dropout": None, "attention": "eager"},
    "reinit": None,
    "optimizer": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "bias_correction": True,
        "eps_placement": "after_correction",
        "weight_decay": 0.01,
        "decay_order": "after",
        "no_decay": ("bias", "LayerNorm.weight"),
        "clip_norm": 1.0,
    },
    "schedule": {"length": {"epochs": 1}, "batch_size": 4, "warmup": 0.1},
    "evaluation": {
        "every": {"times": 2},
        "at_start": False,
        "select_by": ("accuracy", "mcc", "spearman"),
        "batch_size": 8,
    },
    "precision": "fp32",
    "seeds": {"init": 1, "data": 1},
}


@pytest.fixture(scope="session")
def make_config() -> Callable[..., RunConfig]:
    """Returns a maker of valid configs: `make_config(**{"optimizer.lr": 1e-5, "data.task": "cola"})`."""

    def make(**dotted) -> RunConfig:
        values = {key: dict(part) if isinstance(part, dict) else part for key, part in RUN_VALUES.items()}
        for key, value in dotted.items():
            section, _, name = key.partition(".")
            if name:
                values[section] = {**(values[section] or {}), name: value}
            else:
                values[section] = value
        return RunConfig.model_validate(values)

    return make


def glue_words() -> str:
    """Returns all that stands in the GLUE files of the tests, in lower case."""
    return " ".join(path.read_text(encoding="utf-8") for path in sorted(GLUE.rglob("*.tsv"))).lower()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Returns a real WordPiece tokenizer whose words are those of the test data, rarer ones cut into letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = glue_words()
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,'\"?!-"))
    words = sorted({word for word in text.split() if word.isalpha() and word.isascii() and len(word) > 1})
    vocabulary = special + letters + [f"##{letter}" for letter in letters] + words[::2]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, model_max_length=64, **names)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, tiny_tokenizer) -> Path:
    """Returns a folder with a tiny random BERT (masked-language-model head) and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("tiny-bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory, tiny_tokenizer) -> Callable[..., Path]:
    """Returns a maker of model folders: `tiny_family("xlnet", dropout=0.0)`, 3 blocks, each made once.

    The names are those of `tiny_families.FAMILIES`; keyword arguments replace values of config.json.
    """
    folders: dict[str, Path] = {}

    def make(name: str, **values) -> Path:
        from support.tiny_families import write_family

        key = repr((name, sorted(values.items())))
        if key not in folders:
            folder = tmp_path_factory.mktemp(f"tiny-{name}")
            write_family(folder, name, glue_words(), tiny_tokenizer, **values)
            folders[key] = folder
        return folders[key]

    return make


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """Returns a folder with a task of our own: 28/12/8 rows of CSV, a pair, a class and a value for each row."""
    folder, random = tmp_path_factory.mktemp("toy-data"), Random(0)
    names, places = ("al", "ben", "dora", "emilia"), ("rome", "a city by the sea", "x", "lima")
    for split, count in (("train", 28), ("validation", 12), ("test", 8)):
        lines = ["first,second,label,value"]
        for i in range(count):
            name, place, label = random.choice(names), random.choice(places), ("no", "yes")[i % 2]
            verb = "lives in" if label == "yes" or random.random() < 0.2 else "has left"
            lines.append(f"{name} {verb} {place},in {place},{label},{random.random() + (label == 'yes'):.3f}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def toy_sources(toy_data, tiny_model_folder, tmp_path_factory) -> LocalPaths:
    """Returns where the files of `toy_run` lie."""
    files = {file_digest(path): path for path in sorted(toy_data.glob("*.csv"))}
    return LocalPaths(
        cache_dir=tmp_path_factory.mktemp("cache"),
        paths={**files, model_folder_digest(tiny_model_folder): tiny_model_folder},
    )


@pytest.fixture(scope="session")
def toy_run(make_config, toy_data, tiny_model_folder) -> Callable[..., PlannedRun]:
    """Returns a maker of runs on the toy task: 14 steps of 4 rows, dropout on; `toy_run(regression=True, ...)`."""
    train, validation, test = (file_digest(toy_data / f"{name}.csv") for name in ("train", "validation", "test"))

    def make(regression: bool = False, **dotted) -> PlannedRun:
        own = {"format": "csv", "train": train, "validation": validation, "test": test, "text": ("first", "second")}
        if regression:
            own |= {"label": "value", "metrics": ("spearman",)}
        else:
            own |= {"label": "label", "labels": ("no", "yes"), "metrics": ("accuracy", "f1")}
        values = {
            "data.task": "toy",
            "data.own": own,
            "model.sha256": model_folder_digest(tiny_model_folder),
            "schedule.length": {"epochs": 2},
            "evaluation.every": {"times": 4},
        }
        return PlannedRun("arm", "recipe", make_config(**{**values, **dotted}), "last")

    return make


@pytest.fixture(scope="session")
def undisturbed(toy_sources, tmp_path_factory) -> Callable[[PlannedRun], dict]:
    """Returns what a toy run leaves that nothing stopped: `undisturbed(run)`; each config is trained once a session."""
    from support.training_runs import run_outputs, train_run

    results, outputs = tmp_path_factory.mktemp("undisturbed"), {}

    def make(run: PlannedRun) -> dict:
        if run.run_id not in outputs:
            outputs[run.run_id] = run_outputs(results, train_run(run, results, toy_sources))
        return outputs[run.run_id]

    return make


@pytest.fixture(scope="session")
def family_run(toy_run, toy_sources, tiny_family) -> Callable[..., tuple[PlannedRun, LocalPaths]]:
    """Returns a maker of runs on the toy task, 3 steps of a family's tiny model, and of where their files lie.

    `family_run("bart", values={"dropout": 0.0}, text=("first",), reinit=...)`; `folder` is a model of one's own.
    """

    def make(family: str = "", folder: Path | None = None, values=None, text=("first", "second"), **dotted):
        folder = folder or tiny_family(family, **(values or {}))
        digest = model_folder_digest(folder)
        own = {**toy_run().config.data.own.model_dump(), "text": text}
        given = {"data.own": own, "model.sha256": digest, "schedule.length": {"steps": 3}, **dotted}
        return toy_run(**given), LocalPaths(
            cache_dir=toy_sources.cache_dir, paths={**toy_sources.paths, digest: folder}
        )

    return make


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """Makes a test start in an empty folder, with a cache of its own and no network."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STABLEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture(scope="session")
def warm_server():
    """Starts what warm workers are forks of, once a session."""
    from support.warm_workers import WarmWorkers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # it is read at an import
        server = WarmWorkers()
    yield server
    server.stop()


@pytest.fixture
def warm_workers(warm_server, monkeypatch) -> None:
    """Makes workers of sweeps in this process forks of one that has imported torch, where their start is no matter."""
    for module in ("stableft.cli.early_report", "stableft.sweep.local_workers"):
        monkeypatch.setattr(f"{module}.multiprocessing", warm_server)


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of 8 MB for a test; mounting needs rights that a user may lack."""
    from support.disks import SmallDisk

    try:
        small = SmallDisk(tmp_path / "disk", 8 << 20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounts a file system")
    yield small
    small.unmount()


@pytest.fixture
def papers_sweeps(monkeypatch) -> None:
    """Gives commands that expand every sweep of the papers those that other tests have expanded already."""
    from support.artifact_records import load_paper_sweep

    for module in ("stableft.cli.sweep_commands", "stableft.report.all_reports"):
        monkeypatch.setattr(f"{module}.load_sweep", lambda path, *_: load_paper_sweep(path))


@pytest.fixture
def stableft(monkeypatch, capsys):
    """Returns a function that runs a command in this process and gives its exit code, stdout and stderr."""
    from stableft.cli.app import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stableft", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def plan_pretraining(tmp_path):
    """Returns a maker of tiny pre-trainings of the toy language; keyword arguments replace keys, dotted or not."""

    from support.pretraining import write_pretraining_config

    from stableft.pretrain.config_file import PlannedPretraining, load_pretraining

    def make(**dotted) -> PlannedPretraining:
        return load_pretraining(write_pretraining_config(tmp_path, **dotted), LocalPaths(cache_dir=tmp_path / "cache"))

    return make
