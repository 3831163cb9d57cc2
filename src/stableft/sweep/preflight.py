"""Check a sweep's inputs before any run starts."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from stableft.catalog.model_families import BACKBONES, packs_rows
from stableft.config.command_arms import named_folders
from stableft.config.command_config import CommandConfig, split_placeholders
from stableft.config.local_files import check_weights_format, read_shard_names
from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.recipe import find_recipe, shipped_recipes
from stableft.config.run_config import RunConfig, canonical_json
from stableft.config.sweep_file import Sweep
from stableft.data.sources import fetch_model_file
from stableft.data.splits import check_rows, read_splits, rows_fingerprint
from stableft.errors import UserError
from stableft.models.compatibility import check_model_fits_config, resolve_backbone
from stableft.sweep.local_workers import count_cores
from stableft.sweep.start_runs import describe_start_run
from stableft.text import join_with
from stableft.training.schedule import evaluation_steps, steps_per_epoch, total_steps
from stableft.transient import retrying

FP16_SLOWDOWN = 57  # seen on a CPU without fp16 arithmetic; one with it was about as fast as in fp32
BF16_SLOWDOWN = 12  # seen without the instructions; with them, bf16 took .65 of the time of fp32
BF16_INSTRUCTIONS = r"\b(avx512_bf16|amx_bf16|bf16)\b"  # as Linux names them; the last is ARM's


class PlannedRows(NamedTuple):
    """The data rows that a run will use."""

    fingerprint: str
    train_rows: int
    evaluated_rows: int
    notes: tuple[str, ...] = ()


def check_sweep_inputs(
    runs: Sequence[PlannedRun], sources: LocalPaths, parents: Iterable[PlannedRun] = (), compiled: bool = False
) -> dict[str, PlannedRows]:
    """Check every data set and model of the runs and return run id -> its data rows, which a command does not have.

    `parents` are checked last, so that a problem they share with a run is reported for the run the user asked for.
    `compiled`: torch.compile is asked for.

    Raises:
        UserError: The data or a model's config.json cannot be read or does not fit a run, or a run is too long or not
            to be compiled.
    """
    planned: dict[str, PlannedRows] = {}
    by_setting: dict[str, PlannedRows] = {}
    by_data: dict[str, PlannedRows] = {}
    checked: set[str] = set()

    def check(run: PlannedRun) -> None:
        config = run.run_config
        setting = config.model_dump_json(exclude={"seeds"})
        if setting not in by_setting:
            by_setting[setting] = check_setting(config)
        planned[run.run_id] = by_setting[setting]

    def check_setting(config: RunConfig) -> PlannedRows:
        # Of the functions that replace each block's forward, torch keeps the code of 8 models, and runs later ones of
        # the same process uncompiled.
        if compiled and config.execution == "fused":
            raise UserError(
                "--compile: with execution: fused, torch would run only the first seeds of a process compiled; leave "
                "the option out, or write execution: packed"
            )
        parts = {"model": True, "reinit": True, "mixout": True, "optimizer": {"llrd"}, "execution": True}
        methods = config.model_dump(include=parts)
        model = canonical_json([methods, config.data.max_length])
        if model not in checked:
            checked.add(model)
            _check_model(config, sources)
        data = canonical_json(config.data.model_dump(mode="json"))
        if data not in by_data:
            parts = read_splits(config, sources)
            n_evaluated = sum(len(rows) for name, rows in parts.items() if name != "train")
            notes = check_rows(config, sources, parts)
            by_data[data] = PlannedRows(rows_fingerprint(parts), len(parts["train"]), n_evaluated, notes)
        rows = by_data[data]
        length = canonical_json([data, config.model_dump(include={"schedule", "evaluation"})])
        if length not in checked:
            checked.add(length)
            per_epoch = steps_per_epoch(rows.train_rows, config.schedule.batch_size)
            total = total_steps(config.schedule, rows.train_rows)
            evaluation_steps(config.evaluation, total, per_epoch, rows.evaluated_rows)
        return rows

    for run in runs:
        if isinstance(run.config, CommandConfig):
            _check_program(run.config, sources)
        else:
            check(run)
    for parent in parents:
        try:
            check(parent)
        except UserError as error:
            raise UserError(
                f"{describe_start_run(parent, runs)}: {error}; its settings (but for the model) are those of "
                "`start_from: {recipe, task, seed, set}`; --set does not reach them"
            ) from None
    return planned


def describe_planned_rows(runs: Sequence[PlannedRun], rows: Mapping[str, PlannedRows]) -> Iterator[str]:
    """Yield a sentence for each odd thing about the data rows of `runs`."""
    yield from dict.fromkeys(
        f"note: task {run.config.data.task!r}: {note}"
        for run in runs
        if run.run_id in rows
        for note in rows[run.run_id].notes
    )


def describe_arms_left_out(sweep: Sweep) -> Iterator[str]:
    """Yield a sentence if the file's rule does not hold, because `--arms` leaves out some of its arms."""
    if names := sweep.arms_left_out:
        yield (
            f"note: --arms leaves out {join_with(names)} of the rule (decide), so these runs are trained and recorded "
            "without it: all seeds, and with --retry-crashed also those that a look has passed"
        )


def describe_odd_choices(
    runs: Sequence[PlannedRun], sweep: Sweep, asked: str, devices: Sequence[str], jobs: int, tf32: bool
) -> Iterator[str]:
    """Yield a sentence for each choice that a user may not know of, or that has no effect, before any of `runs` starts.

    `asked` is the option --devices, `devices` what it means here.
    """
    yield from describe_arms_left_out(sweep)
    if not runs:
        return
    yield from _describe_commands(sweep)
    for name in dict.fromkeys(point.arm.recipe for point in sweep.points if not point.arm.keys.command):
        used, shipped = find_recipe(name, (Path.cwd(), sweep.path.parent)), shipped_recipes().get(name)
        if shipped and used.read_bytes() != shipped.read_bytes():
            yield f"note: recipe {name!r} is {used}, not the shipped one of that name"
    yield from _describe_packable_models(sweep)
    if "cpu" not in devices:
        return
    if asked == "auto":
        yield "note: no GPU is found, so the runs train on the CPU"
    if tf32:
        yield "note: --tf32 has no effect on a CPU"
    cores = count_cores()
    if jobs > cores:
        yield f"note: --jobs-per-device {jobs} is more than the {cores} cores; so many jobs slow one another down"
    instead = "--set precision=fp32 trains them in fp32, under other run ids"
    precisions = [(run, run.config.precision) for run in runs if isinstance(run.config, RunConfig)]
    if slow := [run for run, precision in precisions if precision == "fp16"]:
        yield (
            f"warning: {_count_of_arms(slow)} train in fp16 on the CPU, which takes 1 to {FP16_SLOWDOWN} times as long "
            f"there as fp32, by the kind of CPU; {instead}"
        )
    slow = [run for run, precision in precisions if precision == "bf16"]
    if slow and lacks_bf16_instructions():
        yield (
            f"warning: {_count_of_arms(slow)} train in bf16 on a CPU without instructions for it (avx512_bf16, AMX), "
            f"which takes up to {BF16_SLOWDOWN} times as long there as fp32; {instead}"
        )


def _count_of_arms(runs: Sequence[PlannedRun]) -> str:
    arms = ", ".join(dict.fromkeys(run.arm for run in runs))
    return f"{len(runs)} run{'s' * (len(runs) > 1)} of {arms}"


def lacks_bf16_instructions(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor is known to lack instructions for bf16. Only Linux says so."""
    try:
        return not re.search(BF16_INSTRUCTIONS, facts.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def _describe_packable_models(sweep: Sweep) -> Iterator[str]:
    """Yield a sentence for each hub model whose rows are padded only because its name does not tell its family."""
    left_open = (point.runs[0].config for point in sweep.points if "execution" not in point.settings)
    padded = {
        config.model.identity: config
        for config in left_open
        if isinstance(config, RunConfig) and not (config.execution or config.model.sha256 or config.data.pad_to_max)
    }
    for config in padded.values():
        if packs_rows(_read_model_config(config, sweep.sources)):
            yield (
                f"note: rows of {config.model.name} are padded, because its name does not tell its family; --set "
                "execution=packed computes the same function in less time, under other run ids"
            )


def _check_program(config: CommandConfig, sources: LocalPaths) -> None:
    """Check that the program of a command is there, because a slip in its name would crash every run."""
    name, folder = config.command[0], sources.folder or Path()
    if all(placeholder is None for _, placeholder in split_placeholders(name)):
        path = str(folder / name) if os.path.dirname(name) else name
        if shutil.which(path) is None:
            where = "it is no program that may be run" if os.path.dirname(name) else "no folder of PATH has it"
            raise UserError(f"command: {name!r} cannot be run in {folder}: {where}")


def _describe_commands(sweep: Sweep) -> Iterator[str]:
    """Yield a sentence for each arm that is a command, on what its runs are not known by."""
    for point in sweep.points:
        config = point.runs[0].config
        if not isinstance(config, CommandConfig):
            continue
        if folders := list(named_folders(config, sweep.sources.folder or Path())):
            yield (
                f"note: arm {point.arm.name!r} names {join_with(folders)}, of which no file is part of its runs' ids; "
                "`inputs` makes them so"
            )
        if config.baseline is None:
            yield f"note: arm {point.arm.name!r} has no baseline, so which of its runs failed is not known"


def _check_model(config: RunConfig, sources: LocalPaths) -> None:
    values = _read_model_config(config, sources)
    name = config.model.name
    if not isinstance(values.get("model_type"), str):
        raise UserError(f"model {name!r}: its config.json has no model_type, such as {', '.join(BACKBONES)}")
    spec = resolve_backbone(config.model, values)
    sizes = {key: values.get(key) for key in ("max_position_embeddings", *spec.lengths)}
    for key, value in sizes.items():
        if value is not None and not isinstance(value, int):
            raise UserError(f"model {name!r}: its config.json has {key} {value!r}, which is not a whole number")
    if config.model.sha256:
        _check_weight_files(name, sources.paths[config.model.sha256])
    check_model_fits_config(
        config, spec, sizes["max_position_embeddings"], sizes[spec.lengths[-1]] if spec.lengths else None
    )


def _check_weight_files(name: str, folder: Path) -> None:
    """Check the headers of a folder's weight files, which reveals broken downloads and Git LFS pointers."""
    check_weights_format(name, folder)
    for index in folder.glob("*.index.json"):
        for shard in read_shard_names(name, index):
            if not (folder / shard).is_file():
                raise UserError(f"model {name!r}: its {index.name} lists {shard}, which is missing")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"model {name!r}: its {path.name} has no readable weights: {error}") from None


@retrying
def _read_model_config(config: RunConfig, sources: LocalPaths) -> dict:
    """Return the model's config.json from its folder, the hub cache or the hub."""
    model = config.model
    if model.sha256:
        path = str(sources.paths[model.sha256] / "config.json")
    else:
        path = fetch_model_file(model.name, model.revision, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model {model.name!r}: its config.json cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"model {model.name!r}: its config.json is not a mapping")
    return values
