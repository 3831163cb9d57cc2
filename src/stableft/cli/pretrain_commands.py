"""`stableft pretrain`: check the inputs, train with live progress, and export the model."""

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted
from stableft.errors import UserError
from stableft.pretrain.config_file import PlannedPretraining, load_pretraining
from stableft.pretrain.corpus import load_corpus, load_pretraining_tokenizer
from stableft.pretrain.record import MODEL_FOLDER, PretrainRecord, pretrain_folder
from stableft.pretrain.run import PretrainProgress, prepare_pretraining, pretrain_masked_lm
from stableft.records.atomic_folder import atomic_write_folder, remove_partial_folders, remove_under_claim
from stableft.records.file_sums import check_undamaged
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write, dump_record, read_record_as
from stableft.sweep.claims import claim_run
from stableft.sweep.signals import EXIT_INTERRUPTED, collected_signals
from stableft.text import Pace, format_duration, open_live_output
from stableft.training.setup import torch_settings_restored


@torch_settings_restored()
def run_pretraining(config: str, results: Path, execution: Execution, sets: Sequence[str], out: Path | None) -> int:
    """Pre-train a model unless that is already done, export it to `out`, and return the exit code.

    0: done; 1: the training loss diverged; 130: interrupted.

    Raises:
        UserError: The config, an input or `out` is invalid, or another process is running this pre-training.
    """
    _check_model_out(out, results)
    plan = load_pretraining(config, LocalPaths(), sets)
    folder = pretrain_folder(results, plan.config.run_id)
    record = read_record_as(PretrainRecord, folder)
    if record:
        _check_still_valid(plan, record, folder)
        _remove_checkpoint(folder)
        print(f"{plan.name} is already pre-trained")
        return _export_model(plan, record, folder, out)
    print(f"loading {plan.config.text.name} ...", flush=True)
    setup, state = prepare_pretraining(plan, results, execution)
    data = setup.corpus.record
    print(
        f"{plan.config.run_id}: {data.train_rows:,} training rows with {data.train_tokens:,} tokens, "
        f"{data.held_out_rows:,} held-out rows; {state.model.num_parameters():,} parameters on {setup.device}"
    )
    with claim_run(folder) as claimed, collected_signals() as received, show_pretrain_progress() as show:
        if not claimed:
            raise UserError(f"another process is running pre-training {plan.config.run_id} in {folder}")
        try:
            # Read again under the claim: another process may have finished in the meantime.
            record = read_record_as(PretrainRecord, folder) or pretrain_masked_lm(
                setup, state, show, lambda: bool(received)
            )
        except RunInterrupted:
            record = None
    if record is None:
        hint = "; run the same command to resume" if (folder / CHECKPOINT_FILE).exists() else ""
        print(f"Interrupted after step {state.step} of {setup.total_steps}{hint}")
        return EXIT_INTERRUPTED
    return _export_model(plan, record, folder, out)


def _remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run: a kill after writing the record leaves it behind."""
    path = folder / CHECKPOINT_FILE
    if path.exists():
        with claim_run(folder) as claimed:
            if claimed:
                remove_under_claim(path)


def _check_still_valid(plan: PlannedPretraining, record: PretrainRecord, folder: Path) -> None:
    """Raise a UserError if the model of a finished pre-training is missing or damaged, or its data has changed."""
    if not record.failed and not (folder / MODEL_FOLDER / "config.json").is_file():
        raise UserError(f"{folder} has a record but its {MODEL_FOLDER} folder is missing; delete it to train again")
    check_undamaged(folder, record.files, MODEL_FOLDER, f"delete {folder} to train again")
    config = plan.config
    now = load_corpus(config, plan.sources, load_pretraining_tokenizer(config, plan.sources.paths)).record.fingerprint
    if now != record.data.fingerprint:
        raise UserError(
            f"pre-training {record.run_id} was done on data with fingerprint {record.data.fingerprint[:16]}, but the "
            f"data now has {now[:16]}: delete {folder} to train again"
        )


def _check_model_out(out: Path | None, results: Path) -> None:
    """Raise a UserError if `out` cannot hold a model, or if that would overwrite something other than a model."""
    if out is None:
        return
    if out.name in ("", ".."):
        raise UserError(f"--out {out}: give the name of a folder")
    if results.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} contains the results folder {results}, so it is not overwritten")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    is_model = all((out / name).is_file() for name in ("config.json", "model.safetensors"))
    if out.exists() and not is_model and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not a model, so it is not overwritten")


def _export_model(plan: PlannedPretraining, record: PretrainRecord, folder: Path, out: Path | None) -> int:
    """Print the results, copy the model to `out` if given, and return the exit code."""
    if record.failed:
        print(f"failed: {record.reason}; no model was saved (record: {folder})")
        return 1
    model = folder / MODEL_FOLDER
    if out is not None:
        _check_model_out(out, folder.parents[1])  # again: something may have been written there during training
        target = out.resolve()
        remove_partial_folders(target.parent, target.name)  # of an export that was killed
        with atomic_write_folder(target) as temporary:
            for path in model.iterdir():
                shutil.copyfile(path, temporary / path.name)
        atomic_write(out.with_name(f"{out.name}.record.json"), (dump_record(record) + "\n").encode())
        model = out
    last, config = record.evals[-1], plan.config
    length = min(128, config.max_length)  # position embeddings beyond the training length are untrained
    task = "toy-rte" if config.text.sha256 is None else "rte"  # the toy text has no file to hash
    speed = f"{record.tokens_per_second:,.0f} tokens/s" if record.tokens_per_second else ""
    print(
        f"held-out loss {last.held_out_loss:.4f}, perplexity {record.perplexity:.2f}, "
        f"{last.held_out_accuracy:.1%} of masked tokens predicted correctly"
    )
    print(f"{record.tokens:,} tokens in {record.steps:,} steps, {format_duration(record.seconds)}, {speed}")
    print(f"model: {model}")
    quoted = shlex.quote(str(model))
    print(f"stableft train mosbach --task {task} --seed 1 --set data.max_length={length} --model {quoted}")
    return 0


@contextmanager
def show_pretrain_progress(live: bool | None = None) -> Iterator[Callable[[PretrainProgress], None]]:
    """Yield the function that shows progress: one live line if `live` (None: on a terminal), else some lines.

    The first report, new held-out losses and the last step are shown at once.
    """
    pace: Pace | None = None
    held_out: float | None = None
    with open_live_output(live) as output:

        def show(progress: PretrainProgress) -> None:
            nonlocal pace, held_out
            at_once = pace is None or progress.held_out_loss != held_out or progress.step == progress.total
            pace = pace or Pace(progress.total, progress.step)
            held_out = progress.held_out_loss
            time_left = pace.time_left(progress.step)
            output.show(lambda: f"{_describe_progress(progress)}  {time_left}", at_once)

        yield show


def _describe_progress(progress: PretrainProgress) -> str:
    parts = [f"step {progress.step}/{progress.total}"]
    parts += [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
    parts += [f"held-out {progress.held_out_loss:.4f}"] if progress.held_out_loss is not None else []
    parts += [f"{progress.tokens_per_second:,.0f} tokens/s"] if progress.tokens_per_second else []
    return "  ".join(parts)
