"""Time updates of stableft and of the Hugging Face Trainer on made-up or given rows, and a machine's own rates."""

import contextlib
import dataclasses
import gc
import io
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_trainer import FlatRows, Rows
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.data.data_collator import DataCollatorWithFlattening, DataCollatorWithPadding

from stableft.config.local_files import shipped_configs
from stableft.config.planned_run import Execution
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import Sweep
from stableft.models.load import quiet_transformers
from stableft.training.environment import gpu_versions, keep_freed_memory
from stableft.training.run import train
from stableft.training.setup import batch_indices, prepare_run

# Deciles of the number of tokens in a row, cut at 128, with BERT's uncased vocabulary.
LENGTHS = {
    "rte": (13, 33, 40, 45, 50, 56, 62, 72, 103, 128, 128),
    "mrpc": (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103),
    "cola": (4, 7, 8, 9, 10, 10, 11, 12, 14, 17, 47),
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}
READ_EVERY = 20  # steps between two readings of the clock: as often as stableft reads losses from a GPU


@dataclasses.dataclass(frozen=True)
class Check:
    """What measurements share. `folder` holds the model, `bert`, and the rows."""

    device: str
    tiny: bool
    folder: Path
    out: Path  # for files beside the report
    until: float = math.inf  # in seconds since the epoch: when a step that can stop early should

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def read_every(self) -> int:
        """Updates between two readings of the clock."""
        return READ_EVERY if self.on_gpu else 1

    def clock(self) -> float:
        """Return seconds; on a CPU with one thread those of the processor, which other processes do not change."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.process_time() if not self.on_gpu and torch.get_num_threads() == 1 else time.perf_counter()

    def average(self, spans: list[float]) -> float:
        """Return the typical time. On a CPU a span is one update, of a length of its own: the median would not do."""
        return statistics.median(spans) if self.on_gpu else statistics.mean(spans)

    def steps(self, wanted: int) -> int:
        """Return how many updates to take: only a few on a CPU."""
        return min(wanted, 6) if self.tiny else wanted


def make_model(folder: Path, blocks: int, width: int, entries: int) -> None:
    """Write a BERT with random weights and the tiny BERT's tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": width // 64}
    BertModel(BertConfig(vocab_size=entries, intermediate_size=4 * width, **sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shipped_configs() / "smoke" / "tiny-bert").save_pretrained(folder)


def make_rows(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: dict[str, int]) -> None:
    """Write so many rows of each task's lengths."""
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii() and word.islower())
    random = np.random.default_rng(0)
    for task, deciles in LENGTHS.items():
        lengths = np.interp(random.random(rows[task]), np.linspace(0, 1, len(deciles)), deciles).round().astype(int)
        write_rows(folder / f"rows-{task}.jsonl", lengths, words, random)
    write_rows(folder / "few.jsonl", np.full(16, 20), words, random)


def write_rows(path: Path, lengths: np.ndarray, words: list[str], random: np.random.Generator) -> None:
    """Write rows of so many tokens, [CLS] and [SEP] included."""
    lines = [
        json.dumps({"text": " ".join(random.choice(words, length - 2)), "label": "xy"[i % 2]})
        for i, length in enumerate(lengths)
    ]
    path.write_text("\n".join(lines) + "\n")


def stableft_speed(check: Check, sweep: Sweep, name: str, **options: Any) -> tuple[float, float, float]:
    """Return milliseconds of an update of the whole loop, peak GB and mean number of real tokens in a batch."""
    gc.collect()  # models of the other side hold memory in reference cycles
    seen: list[tuple[int, float]] = []
    threads = torch.get_num_threads()
    how = Execution(check.device, threads, checkpoint_every=10**9, **options)
    record = train(
        sweep.runs[0], check.folder / name, sweep.sources, how, lambda at: seen.append((at.step, check.clock()))
    )
    # The first interval warms up; the last two reports are both of the end.
    spans = [(later - t) / (n - step) for (step, t), (n, later) in pairwise(seen[:-1]) if n > step]
    setup, _ = prepare_run(sweep.runs[0], check.folder / name, sweep.sources, Execution("cpu", threads))
    lengths = np.diff(setup.splits.train.offsets)
    tokens = float(np.mean([lengths[batch_indices(setup, step)].sum() for step in range(setup.total)]))
    return 1e3 * check.average(spans[1:] or spans), (record.peak_memory_bytes or 0) / 1e9, tokens


class Clock(TrainerCallback):
    """Reads the clock every few updates, when the device has done them."""

    def __init__(self, check: Check):
        self.check, self.times = check, []

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.check.read_every == 0:
            self.times.append(self.check.clock())


def trainer_arguments(check: Check, config: RunConfig, folder: str, **more: Any) -> TrainingArguments:
    """Return a run's settings with the fastest flags that they allow."""
    return TrainingArguments(
        folder,
        per_device_train_batch_size=config.schedule.batch_size,
        per_device_eval_batch_size=config.evaluation.batch_size,
        seed=config.seeds.data,
        learning_rate=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.clip_norm or 0.0,
        optim="adamw_torch_fused",
        fp16=config.precision == "fp16" and check.on_gpu,
        bf16=config.precision == "bf16",
        logging_nan_inf_filter=False,  # it reads the loss at every step
        dataloader_num_workers=2 if check.on_gpu else 0,
        dataloader_pin_memory=check.on_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not check.on_gpu,
        **more,
    )


def trainer_speed(
    check: Check,
    sweep: Sweep,
    steps: int,
    tf32: bool = False,
    width: int | None = None,
    by_length: bool = True,
    flat: bool = False,
) -> tuple[float, float]:
    """Return milliseconds of an update and peak GB of the Trainer with its best flags.

    Rows are padded to `width` tokens, or without it to the longest of a batch: of similar lengths if `by_length`, whose
    order repeats every 50 batches, else of rows at random. If `flat`, a batch is one long row without padding, and the
    head reads every token, because the Trainer has none that reads one of each row.
    """
    gc.collect()
    config = sweep.runs[0].config
    setup, _ = prepare_run(sweep.runs[0], check.folder / "t", sweep.sources, Execution("cpu", torch.get_num_threads()))
    keep_freed_memory(False)  # as a user of the Trainer has it
    torch.use_deterministic_algorithms(False)  # torch's default, as is TF32 below
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    with quiet_transformers():
        kind = AutoModelForTokenClassification if flat else AutoModelForSequenceClassification
        attention = "flash_attention_2" if flat and check.on_gpu else "sdpa"
        model = kind.from_pretrained(
            check.folder / "bert", num_labels=2, dtype=torch.float32, attn_implementation=attention
        )
    if check.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        order = "group_by_length" if by_length else "random"
        arguments = trainer_arguments(check, config, folder, max_steps=steps, train_sampling_strategy=order)
        clock = Clock(check)
        how = {"padding": "max_length", "max_length": width} if width else {"pad_to_multiple_of": 8}
        collator = DataCollatorWithFlattening() if flat else DataCollatorWithPadding(setup.tokenizer, **how)
        rows = (FlatRows if flat else Rows)(setup.splits.train)
        Trainer(model, arguments, collator, rows, callbacks=[clock]).train()
    spans = [(later - earlier) / check.read_every for earlier, later in pairwise(clock.times)]
    return 1e3 * check.average(spans), torch.cuda.max_memory_allocated() / 1e9 if check.on_gpu else 0.0


def measure_copy_rate(check: Check, gigabytes: float) -> float:
    """Return bytes a second, read and written."""
    source = torch.randn(int(gigabytes * 2.5e8), device=check.device)
    target = torch.empty_like(source)
    return 2 * gigabytes * 1e9 / seconds_of(check, partial(target.copy_, source))


def measure_matrix_rate(check: Check, precision: str, rows: int, inner: int, columns: int) -> float:
    """Return the operations a second of a product of matrices [rows, inner] and [inner, columns]."""
    shapes = (rows, inner), (inner, columns)
    a, b = (torch.randn(shape, device=check.device).to(DTYPES[precision]) for shape in shapes)
    return 2 * rows * inner * columns / seconds_of(check, lambda: a @ b)


def seconds_of(check: Check, work: Callable[[], Any]) -> float:
    """Return the median time of the work on an idle device."""
    times = []
    for _ in range(8):
        start = check.clock()
        work()
        times.append(check.clock() - start)
    return statistics.median(times[3:])


def describe_machine(device: str) -> dict[str, Any]:
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "device": device,
    }
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        machine |= {"device": properties.name, "memory GB": round(properties.total_memory / 1e9, 1)}
        machine |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
        machine["driver"] = gpu_versions(torch.device(device)).get("driver", "")  # "": a container without nvidia-smi
    return machine
