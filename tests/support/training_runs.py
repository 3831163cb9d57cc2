"""Short training runs of a tiny model, and what they write."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from stableft.config.local_files import model_folder_digest
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun, RunProgress
from stableft.records.run_record import HISTORY_FILE, PREDICTIONS_FILE, RunRecord, read_record, run_folder
from stableft.training.run import train


def train_run(
    run: PlannedRun, results: Path, sources: LocalPaths, stop_at: int | None = None, **execution
) -> RunRecord:
    """Trains on one thread; with `stop_at`, stops as soon as that many steps are done."""
    done = [-1]

    def progress(now: RunProgress) -> None:
        done[0] = now.step

    return train(
        run,
        results,
        sources,
        Execution(**{"threads": 1, **execution}),
        progress,
        lambda: stop_at is not None and max(done[0], 0) >= stop_at,
    )


def run_outputs(results: Path, record: RunRecord) -> dict:
    """Returns all that two runs of one config must have equal, bit for bit."""
    folder = run_folder(results, record.run_id)
    with np.load(folder / PREDICTIONS_FILE) as file:
        predictions = {name: (file[name].dtype.str, file[name].shape, file[name].tobytes()) for name in file.files}
    same = ("evals", "last", "best", "failed", "failed_by_accuracy", "steps", "skipped_steps", "reason", "data")
    assert read_record(results, record.run_id) is not None
    return {
        "record": record.model_dump_json(include=set(same)),
        "history": (folder / HISTORY_FILE).read_text(),
        "predictions": predictions,
    }


def read_history(results: Path, run: PlannedRun) -> list[dict]:
    lines = (run_folder(results, run.run_id) / HISTORY_FILE).read_text().splitlines()
    return [json.loads(line) for line in lines]


def count_updates(optimizer: torch.optim.Optimizer) -> int:
    """Returns the number of updates done, without those that a GradScaler skipped."""
    return max(int(kept["step"]) for kept in optimizer.state.values())


def write_tiny_bert(folder: Path, tokenizer, change: Callable[[BertModel], None], **config) -> Path:
    """Writes a tiny BERT with a pooler, after `change` had its way with the weights."""
    values = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, **values))
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_model_folder(sources: LocalPaths, folder: Path) -> tuple[LocalPaths, str]:
    digest = model_folder_digest(folder)
    return LocalPaths(cache_dir=sources.cache_dir, paths={**sources.paths, digest: folder}), digest
