"""`stableft pretrain`: check the inputs, train with live progress, deliver the model."""

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
from stableft.records.run_record import CHECKPOINT_FILE, atomic_write, dump_record, read_record_as
from stableft.sweep.claims import claim_run
from stableft.sweep.workers import EXIT_INTERRUPTED, collected_signals
from stableft.text import Pace, format_duration, open_live_output
from stableft.training.outputs import atomic_write_folder


def run_pretraining(config: str, results: Path, execution: Execution, sets: Sequence[str], out: Path | None) -> int:
    """Does what the config asks for, unless it is done, and returns the exit code: 0, 1 (failed), 130 (interrupted).

    Raises:
        UserError: the config, what it names, or `out` cannot be used, or another process is at it.
    """
    _check_model_out(out, results)
    plan = load_pretraining(config, LocalPaths(), sets)
    folder = pretrain_folder(results, plan.config.run_id)
    record = read_record_as(PretrainRecord, folder)
    if record:
        _check_still_valid(plan, record, folder)
        _remove_checkpoint(folder)
        print(f"{plan.name} is done already: nothing is trained")
        return _deliver_model(plan, record, folder, out)
    print(f"loading {plan.config.text.name} ...", flush=True)
    setup, state = prepare_pretraining(plan, results, execution)
    data = setup.corpus.record
    print(
        f"{plan.config.run_id}: {data.train_rows:,} rows of {data.train_tokens:,} tokens to train on, "
        f"{data.held_out_rows:,} rows held out; {state.model.num_parameters():,} weights on {setup.device}"
    )
    with claim_run(folder) as ours, collected_signals() as received, show_pretrain_progress() as show:
        if not ours:
            raise UserError(f"another process is at pre-training {plan.config.run_id} in {folder}")
        try:
            record = read_record_as(PretrainRecord, folder) or pretrain_masked_lm(
                setup, state, show, lambda: bool(received)
            )
        except RunInterrupted:
            record = None
    if record is None:
        kept = "; the same command goes on from there" if (folder / CHECKPOINT_FILE).exists() else ""
        print(f"Interrupted after step {state.step} of {setup.total_steps}{kept}")
        return EXIT_INTERRUPTED
    return _deliver_model(plan, record, folder, out)


def _remove_checkpoint(folder: Path) -> None:
    """Removes the checkpoint that a kill between the two leaves beside the record."""
    path = folder / CHECKPOINT_FILE
    if path.exists():
        with claim_run(folder) as ours:
            if ours:
                path.unlink(missing_ok=True)


def _check_still_valid(plan: PlannedPretraining, record: PretrainRecord, folder: Path) -> None:
    """Check that the data of a finished pre-training has not changed and its model still exists."""
    if not record.failed and not (folder / MODEL_FOLDER / "config.json").is_file():
        raise UserError(f"{folder} has a record but no {MODEL_FOLDER} folder any more; delete it to train again")
    config = plan.config
    now = load_corpus(config, plan.sources, load_pretraining_tokenizer(config, plan.sources.paths)).record.fingerprint
    if now != record.data.fingerprint:
        raise UserError(
            f"pre-training {record.run_id} was done on rows with fingerprint {record.data.fingerprint[:16]}, and now "
            f"they have {now[:16]}: delete {folder} to train again"
        )


def _check_model_out(out: Path | None, results: Path) -> None:
    """Check that `out` can hold a model and contains nothing that a model must not replace."""
    if out is None:
        return
    if out.name in ("", ".."):
        raise UserError(f"--out {out}: give the folder by its name")
    if results.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} is where the results of --results {results} go, so it is not replaced")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    is_model = all((out / name).is_file() for name in ("config.json", "model.safetensors"))
    if out.exists() and not is_model and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} is there and holds no model, so it is not replaced")


def _deliver_model(plan: PlannedPretraining, record: PretrainRecord, folder: Path, out: Path | None) -> int:
    """Prints what came out, copies the model if asked to, and returns the exit code."""
    if record.failed:
        print(f"failed: {record.reason}; there is no model (record: {folder})")
        return 1
    model = folder / MODEL_FOLDER
    if out is not None:
        _check_model_out(out, folder.parents[1])  # something may lie there by now
        with atomic_write_folder(out.resolve()) as temporary:
            for path in model.iterdir():
                shutil.copyfile(path, temporary / path.name)
        atomic_write(out.with_name(f"{out.name}.record.json"), (dump_record(record) + "\n").encode())
        model = out
    last, config = record.evals[-1], plan.config
    length = min(128, config.max_length)  # what it has seen, which may be less than it has positions for
    task = "toy-rte" if config.text.sha256 is None else "rte"
    speed = f"{record.tokens_per_second:,.0f} tokens/s" if record.tokens_per_second else ""
    print(
        f"held-out loss {last.held_out_loss:.4f}, perplexity {record.perplexity:.2f}, "
        f"{last.held_out_accuracy:.1%} of masked tokens found out"
    )
    print(f"{record.tokens:,} tokens in {record.steps:,} steps, {format_duration(record.seconds)}, {speed}")
    print(f"model: {model}")
    where = shlex.quote(str(model))
    print(f"stableft train mosbach --task {task} --seed 1 --set data.max_length={length} --model {where}")
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
