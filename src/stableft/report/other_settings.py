"""Runs of a sweep's recipes that were made with other settings or seeds, and the options that select them."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import ExactlyOne, RunConfig, without_none
from stableft.config.settings import RUN_CONFIG_LEAVES, SWEEP_KEY_OF_SETTING, list_values
from stableft.config.sweep_arms import START_ARM
from stableft.config.yaml_file import write_setting
from stableft.records.run_record import RECORD_FILE, RunRecord, run_folder
from stableft.sweep.state import read_sweep_state
from stableft.text import join_with


def describe_other_runs(planned: Sequence[PlannedRun], records: Iterable[RunRecord]) -> Iterator[str]:
    """Yield a sentence for each set of options that other runs of the same recipes and tasks were made with.

    A run is compared with the planned one of its recipe and task from which it differs least. Runs on other data files
    are left out: no option says which they were.
    """
    ids = {run.run_id for run in planned}
    settings: dict[tuple[str, str], dict[str, PlannedRun]] = {}
    for run in planned:
        if isinstance(run.config, CommandConfig):  # which has no settings
            continue
        settings.setdefault((run.recipe, run.config.data.task), {}).setdefault(run.config.setting_id(), run)
    arms: dict[tuple[str, ...], Counter[str]] = {}
    seeds: dict[tuple[str, ...], set[str]] = {}
    for record in records:
        candidates = settings.get((record.recipe, record.config.data.task), {}).values()
        if record.run_id in ids or record.arm == START_ARM or not candidates or record.command:
            continue
        ranked = [(run.arm != record.arm, list(_options(run.run_config, record.run_config))) for run in candidates]
        _, options = min(ranked, key=lambda pair: (len(pair[1]), pair[0]))
        if None in options:
            continue
        key = tuple(map(str, options))
        arms.setdefault(key, Counter())[record.arm] += 1
        seeds.setdefault(key, set()).add(record.config.seeds.label)
    for key, counts in arms.items():
        n = counts.total()
        be = "are" if n > 1 else "is"
        what = f"{n} run{'s' * (n > 1)} of {join_with(list(counts))}"
        if key:
            yield f"{what} {be} there with other settings; to report them, add {' '.join(key)}"
        elif all(label.isdecimal() for label in seeds[key]):
            yield f"{what} {be} there with other seeds; to report them, add --seeds {_as_ranges(seeds[key])}"


def _options(ours: RunConfig, theirs: RunConfig) -> Iterator[str | None]:
    """Yield the --set options that turn one config into the other, seeds aside; None: no option does."""
    a, b = list_values(ours.model_dump(mode="json")), list_values(theirs.model_dump(mode="json"))
    if ours.model.identity != theirs.model.identity:
        revision = theirs.model.revision
        name = f"{theirs.model.name}@{revision}" if revision not in (None, "main") else theirs.model.name
        yield f"--set {shlex.quote(f'model={name}')}"
    for key, section in RUN_CONFIG_LEAVES.items():
        value = b[key]
        if a[key] == value or key == "model.revision" or SWEEP_KEY_OF_SETTING.get(key) in ("seeds", "model"):
            continue
        if key == "data.own":
            yield None
        elif section and issubclass(section, ExactlyOne):
            (only,) = [(name, number) for name, number in value.items() if number is not None]
            yield f"--set {key}.{only[0]}={only[1]}"
        else:
            yield f"--set {shlex.quote(write_setting(key, without_none(value)))}"


def describe_padded_runs(runs: Iterable[PlannedRun], start_runs: Iterable[PlannedRun], results: Path) -> Iterator[str]:
    """Yield a sentence if runs that are planned on packed rows, and have no record, are finished on padded rows.

    Sweeps of earlier versions left those. `start_runs` provide initial weights for `runs`.
    """
    left = (run for run in runs if not (run_folder(results, run.run_id) / RECORD_FILE).exists())
    padded = read_sweep_state(results, plan_padded_runs(left, start_runs), look_only=True, brief=True)
    yield from describe_padded_records(padded.finished)


def plan_padded_runs(runs: Iterable[PlannedRun], start_runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Return the runs of these that are planned on packed rows, on padded ones, like those that they start from."""
    starts = {run.run_id: run.config.model_copy(update={"execution": None}).run_id for run in start_runs}
    padded = []
    for run in runs:
        if isinstance(run.config, RunConfig) and run.config.execution == "packed":
            start = run.config.start_from
            start = start and start.model_copy(update={"run": starts.get(start.run, start.run)})
            padded.append(replace(run, config=run.config.model_copy(update={"execution": None, "start_from": start})))
    return padded


def describe_padded_records(finished: Sequence[RunRecord]) -> Iterator[str]:
    """Yield a sentence on finished runs on padded rows, where packed ones are planned."""
    if n := len(finished):
        arms = join_with(list(dict.fromkeys(record.arm for record in finished)))
        yield (
            f"{n} run{'s' * (n > 1)} of {arms} {'are' if n > 1 else 'is'} there with padded rows; packed rows are now "
            "the default, and --set execution=padded takes up the padded ones"
        )


def _as_ranges(labels: Iterable[str]) -> str:
    """Return seeds in the form of --seeds, such as 1-3,7."""
    ranges: list[list[int]] = []
    for seed in sorted(map(int, labels)):
        if ranges and ranges[-1][1] == seed - 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
