"""Select the runs of two arms, or say why they cannot be compared."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stableft.catalog.tasks import task_title
from stableft.config.command_config import CommandConfig
from stableft.config.run_config import canonical_json, without_none
from stableft.config.settings import RUN_CONFIG_LEAVES, describe_value, list_values
from stableft.config.sweep_arms import START_ARM
from stableft.config.yaml_file import look_up, parse_yaml
from stableft.errors import UserError, did_you_mean
from stableft.records.failure import find_chance, is_run_failed
from stableft.records.frame import COLUMN_DTYPES, build_frame, describe_source
from stableft.records.run_record import AnyRunRecord, RunRecord
from stableft.records.stored_records import read_all_stored_records, read_records_files
from stableft.report.artifact import ReportedCheckpoint
from stableft.text import join_with, seed_label


class RowAndRecord(NamedTuple):
    """A run: its row of the frame and its record."""

    row: dict[str, Any]
    record: AnyRunRecord


@dataclass(frozen=True)
class ArmPair:
    """The comparable runs of two arms on one task. `differing`: dotted setting -> its values in both arms."""

    names: tuple[str, str]
    task: str
    arms: tuple[tuple[RowAndRecord, ...], tuple[RowAndRecord, ...]]
    differing: Mapping[str, tuple[Any, Any]]

    @property
    def settings_known(self) -> bool:
        return all(_has_settings(entry.record) for arm in self.arms for entry in arm)


def select_arm_pair(
    names: tuple[str, str],
    results: Path,
    files: Sequence[Path],
    task: str | None,
    metric: str | None,
    where: Sequence[str],
    checkpoint: ReportedCheckpoint,
    records: Iterable[AnyRunRecord] | None = None,
) -> ArmPair:
    """Return the runs of two arms: of `records` or, if None, from record files or, without any, from the run folders.

    Raises:
        UserError: An arm, task, metric or field is unknown, or the arms are not comparable.
    """
    if names[0] == names[1]:
        raise UserError(f"compare: {names[0]!r} is named twice; name two different arms{RENAME_HINT}")
    conditions = [parse_where(text) for text in where]
    runs_by_arm = _read_arm_runs(
        (read_records_files(files) if files else read_all_stored_records(results)) if records is None else records,
        names,
        checkpoint,
        results if not files and records is None else None,
    )
    arms = [_filter_runs(runs_by_arm[name], conditions, name) for name in names]
    chosen = _choose_task(names, arms, task)
    a, b = ([entry for entry in arm if entry.row["task"] == chosen] for arm in arms)
    if metric is not None:
        a, b = _rescore_arms(names, (a, b), metric)
    for name, arm in zip(names, (a, b), strict=True):
        check_arm(f"compare: arm {name!r} on {chosen}", arm)
    return ArmPair(names, chosen, (tuple(a), tuple(b)), check_comparable(names, a, b))


def _read_arm_runs(
    records: Iterable[AnyRunRecord], names: tuple[str, str], checkpoint: ReportedCheckpoint, results: Path | None
) -> dict[str, list[RowAndRecord]]:
    """Return the runs of each arm. Of repeated records the first finished one counts, as in the frame."""
    arm_names: dict[str, None] = {}
    kept: list[AnyRunRecord] = []
    for record in records:
        if record.arm != START_ARM:
            arm_names[record.arm] = None
            kept += [record] if record.arm in names else []
    if not arm_names:
        place = (
            f"{results / 'runs'}; --records FILE reads those of a file"
            if results
            else "these files, or none of those runs"
        )
        raise UserError(f"compare: there are no records in {place}")
    for name in names:
        if name not in arm_names:
            hint = RENAME_HINT if " (imported: " in name else ""
            raise UserError(
                f"compare: the records have no arm {name!r}{did_you_mean(name, arm_names)}; "
                f"they have {_list_few(arm_names)}{hint}"
            )
    first: dict[tuple, AnyRunRecord] = {}
    for record in kept:
        key = (record.run_id, describe_source(record), record.arm)
        if key not in first or first[key].status != "finished":
            first[key] = record
    runs_by_arm: dict[str, list[RowAndRecord]] = {name: [] for name in names}
    for row in build_frame(kept, None, checkpoint).to_dict("records"):
        values = {str(name): value for name, value in row.items()}
        runs_by_arm[values["arm"]].append(
            RowAndRecord(values, first[values["run_id"], values["source"], values["arm"]])
        )
    return runs_by_arm


class WhereCondition(NamedTuple):
    """A field, its required value as parsed by YAML, and that value as written."""

    field: str
    value: Any
    text: str


def _filter_runs(entries: list[RowAndRecord], conditions: Sequence[WhereCondition], name: str) -> list[RowAndRecord]:
    for condition in conditions:
        kept = [entry for entry in entries if matches_where(condition, entry.row, entry.record)]
        if not kept:
            values = (where_value(condition.field, entry.row, entry.record) for entry in entries)
            listed = _list_few(dict.fromkeys(describe_value(value) for value in values))
            raise UserError(
                f"--where {condition.field}={condition.text}: no run of arm {name!r} matches; its runs have {listed}"
            )
        entries = kept
    return entries


def _choose_task(names: tuple[str, str], arms: Sequence[Sequence[RowAndRecord]], task: str | None) -> str:
    tasks = [sorted({entry.row["task"] for entry in arm}) for arm in arms]
    common = [name for name in tasks[0] if name in tasks[1]]
    label = f"arms {names[0]!r} and {names[1]!r}"
    if not common:
        raise UserError(f"compare: {label} have no task in common: {join_with(tasks[0])} against {join_with(tasks[1])}")
    if task is None and len(common) > 1:
        raise UserError(f"compare: {label} have runs of {join_with(common)}: select one with --task")
    if task is None:
        return common[0]
    chosen = [name for name in common if task.casefold() in (name.casefold(), task_title(name).casefold())]
    if not chosen:
        raise UserError(f"--task {task}: {label} both have runs of {join_with(common)}{did_you_mean(task, common)}")
    return task if task in chosen else chosen[0]


def _rescore_arms(
    names: tuple[str, str], arms: tuple[list[RowAndRecord], list[RowAndRecord]], metric: str
) -> tuple[list[RowAndRecord], list[RowAndRecord]]:
    """Return the runs scored by another metric, which decides whether they failed."""
    available = [_available_metrics(arm) for arm in arms]
    for name, metrics in zip(names, available, strict=True):
        if metric not in metrics:
            listed = join_with(sorted(metrics)) or "nothing"
            raise UserError(
                f"--metric {metric}: the runs of {name!r} are scored by {listed}{did_you_mean(metric, metrics)}"
            )
    a, b = ([_rescore_run(entry, metric) for entry in arm] for arm in arms)
    return a, b


def _available_metrics(arm: Sequence[RowAndRecord]) -> dict[str, None]:
    """Return the metrics of the runs' scores on the reported split and checkpoint."""
    available: dict[str, None] = {}
    for row, record in arm:
        scores = getattr(record, row["checkpoint"])
        available |= dict.fromkeys(getattr(scores, row["split"]) or ()) if scores else {}
    return available


def _rescore_run(entry: RowAndRecord, metric: str) -> RowAndRecord:
    row, record = entry
    if row["metric"] == metric:
        return entry
    finished, split = record.status == "finished", row["split"]
    score, last, best = (record.score(name, split, metric) for name in (row["checkpoint"], "last", "best"))
    chance = find_chance(record, split, metric)
    diverged = finished and any(value is not None and math.isnan(value) for value in (score, last))
    failed = is_run_failed(record, row["checkpoint"], split, metric)
    values = {"score": score, "last": last, "best": best, "baseline": chance.constant, "chance": chance.level}
    values |= {f"{name}_val": record.score(name, "val", metric) for name in ("last", "best")}
    changed: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    changed |= {"metric": metric, "scored": finished and score is not None, "diverged": diverged, "failed": failed}
    return RowAndRecord(row | changed, record)


def _list_few(names: Iterable[str], max_listed: int = 12) -> str:
    listed = list(names)
    return ", ".join(listed[:max_listed]) + (
        f" and {len(listed) - max_listed} more" if len(listed) > max_listed else ""
    )


MAX_NAMED_RUNS = 3  # runs named in an error message
MAX_NAMED_SETTINGS = 3
RENAME_HINT = "; `stableft import ... --rename OLD=NEW` gives imported runs an arm of their own"
MODEL_KEYS = ("model.name", "model.revision", "model.sha256", "model.head", "model.structure")
DATA_SIZE_KEYS = ("data.train_rows", "data.sample_seed")
SCORE_KIND_HINTS = {
    "metric": "select one that both have with --metric",
    "direction": "give both the same `better`",
    "split": "scores on different splits are not comparable",
    "checkpoint": "select one with --score last or --score best",
    "data_fingerprint": "scores on different data rows are not comparable",
}
SCORE_KIND_FIELDS = ("metric", "direction", "split", "checkpoint")


def check_arm(label: str, arm: Sequence[RowAndRecord]) -> None:
    """Check that the runs of an arm are one sample: same setting and origin, each seed once, scored alike.

    Raises:
        UserError: They are not. The message names runs and an option that selects among them.
    """
    own_runs = [entry for entry in arm if isinstance(entry.record, RunRecord)]
    imported_runs = [entry for entry in arm if not isinstance(entry.record, RunRecord)]
    if own_runs and imported_runs:
        raise UserError(
            f"{label} pools runs of this project ({_name_runs(own_runs)}) and imported ones "
            f"({_name_runs(imported_runs)}), whose settings are unknown; --where source=null keeps the former, "
            "--where source=FILE the latter"
        )
    settings = [_settings_of_run(entry) for entry in arm]
    by_seed = _group_by(arm, lambda entry: (entry.row["seed_init"], entry.row["seed_data"]))
    repeated = [entry for same in by_seed.values() if len(same) > 1 for entry in same]
    varying = [key for key in settings[0] if len({canonical_json(other.get(key)) for other in settings}) > 1]
    if repeated or (varying and own_runs):
        seeds = len({seed_label(entry.row["seed_init"], entry.row["seed_data"]) for entry in repeated})
        problem = (
            f"has {seeds} seed{'s' * (seeds > 1)} more than once ({_name_runs(repeated)})"
            if repeated
            else "pools settings"
        )
        raise UserError(f"{label} {problem}: {_describe_pooled_settings(arm, settings, varying)}")
    scored = [entry for entry in arm if entry.row["scored"]]
    for name, hint in SCORE_KIND_HINTS.items():
        groups = _group_by(scored, lambda entry, name=name: entry.row[name])
        if len(groups) > 1:
            values = [f"{value} ({_name_runs(same)})" for value, same in groups.items()]
            raise UserError(f"{label} has runs of different {_plural(name)}, {join_with(values)}; {hint}")


def _describe_pooled_settings(
    arm: Sequence[RowAndRecord], settings: Sequence[dict[str, Any]], varying: Sequence[str]
) -> str:
    """Return the settings in which the runs differ, and the option that selects among them."""
    if not varying:
        return "the records do not say how these runs differ"
    key = varying[0]
    groups = _group_by(list(zip(arm, settings, strict=True)), lambda pair: describe_value(pair[1].get(key)))
    values = [f"{text} ({_name_runs([entry for entry, _ in pairs])})" for text, pairs in groups.items()]
    others = [
        f"{other} is {join_with(list(dict.fromkeys(describe_value(s.get(other)) for s in settings)))}"
        for other in varying[1:]
    ]
    first = next(iter(groups)).partition(" (")[0] if key == "source" else next(iter(groups))
    option = f"--where {key}={first}" if " " not in first else f"--where '{key}={first}'"
    return f"{'; '.join([f'{key} is {join_with(values)}', *others])}; select one with {option}"


def check_comparable(
    names: tuple[str, str], a: Sequence[RowAndRecord], b: Sequence[RowAndRecord]
) -> dict[str, tuple[Any, Any]]:
    """Return setting -> its two values for the settings in which the arms differ. Empty for imported runs and commands.

    Raises:
        UserError: A difference in scores could not be attributed to one cause: the arms differ in how they are scored,
            in data rows, or in several of model, data, precision and method at once.
    """
    first, second = (next((entry for entry in arm if entry.row["scored"]), arm[0]) for arm in (a, b))
    label = f"compare: arms {names[0]!r} and {names[1]!r}"
    runs = f"{_name_runs(a)} against {_name_runs(b)}"
    for name in SCORE_KIND_FIELDS:
        values = [str(entry.row[name]) for entry in (first, second)]
        if values[0] != values[1]:
            raise UserError(
                f"{label} have scores of different {_plural(name)}, {join_with(values)} ({runs}); "
                f"{SCORE_KIND_HINTS[name]}"
            )
    if not all(_has_settings(entry.record) for entry in (first, second)):
        return {}
    settings_a, settings_b = _settings_of_run(first), _settings_of_run(second)
    differing = {key: (settings_a[key], settings_b[key]) for key in settings_a if settings_a[key] != settings_b[key]}
    fingerprints = [entry.row["data_fingerprint"] for entry in (first, second)]
    only_size_differs = "data.train_rows" in differing and all(key in DATA_SIZE_KEYS for key in differing)
    if None not in fingerprints and fingerprints[0] != fingerprints[1] and not only_size_differs:
        listed = f"{join_with([str(one)[:12] for one in fingerprints])}{_besides_clause(differing)}"
        raise UserError(f"{label} were trained on different data rows, with fingerprints {listed} ({runs})")
    subjects = _group_by(list(differing), _subject_of_setting)
    if len(subjects) > 1:
        named = join_with([f"the {subject} ({_list_some(keys, differing)})" for subject, keys in subjects.items()])
        raise UserError(
            f"{label} differ in {named} at once, so a difference could not be attributed to one of them; compare arms "
            "that differ in only one"
        )
    return differing


def _list_some(keys: Sequence[str], differing: dict[str, tuple[Any, Any]]) -> str:
    """Return the first of these settings with their values in both arms, and the number of further ones."""
    texts = [f"{key} {' / '.join(map(describe_value, differing[key]))}" for key in keys[:MAX_NAMED_SETTINGS]]
    more = len(keys) - MAX_NAMED_SETTINGS
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _besides_clause(differing: dict[str, tuple[Any, Any]]) -> str:
    return f", and in {join_with(list(differing))}" if differing else ""


def _subject_of_setting(key: str) -> str:
    """Return what a setting belongs to. Comparable arms differ in at most one of these subjects."""
    if key in MODEL_KEYS:
        return "model"
    return "data" if key.startswith("data.") else "precision" if key == "precision" else "method"


def _settings_of_run(entry: RowAndRecord) -> dict[str, Any]:
    """Return the dotted settings of one of our runs without its seeds, or the source of an imported run.

    Those of a command are what identifies it.
    """
    if not isinstance(entry.record, RunRecord):
        return {"source": entry.row["source"]}
    config = entry.record.config
    return {"command": config.setting()} if isinstance(config, CommandConfig) else list_values(config.setting())


def _has_settings(record: AnyRunRecord) -> bool:
    """Return whether a run's record says how it was trained, which those of imported runs and commands do not."""
    return isinstance(record, RunRecord) and record.command is None


def _group_by(items: Sequence[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _name_runs(entries: Sequence[RowAndRecord]) -> str:
    """Return the ids and seeds of the first runs, and the number of further ones."""
    texts = [
        f"run {entry.row['run_id']} of seed {seed_label(entry.row['seed_init'], entry.row['seed_data'])}"
        for entry in entries[:MAX_NAMED_RUNS]
    ]
    more = len(entries) - MAX_NAMED_RUNS
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _plural(name: str) -> str:
    return {"data_fingerprint": "data rows"}.get(name, f"{name}s")


NESTED_SETTING_KEYS = [f"{key}.{name}" for key, part in RUN_CONFIG_LEAVES.items() if part for name in part.model_fields]
SETTING_SECTIONS = [key.rpartition(".")[0] for key in RUN_CONFIG_LEAVES if "." in key]
SETTING_KEYS = {*RUN_CONFIG_LEAVES, *NESTED_SETTING_KEYS, *SETTING_SECTIONS}


def parse_where(text: str) -> WhereCondition:
    """Return the condition for a FIELD=VALUE text.

    Raises:
        UserError: There is no equals sign, the field is unknown, or the value is not valid YAML.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--where {text}: must be FIELD=VALUE")
    if field not in COLUMN_DTYPES and field not in SETTING_KEYS:
        short = {key.rpartition(".")[2]: key for key in SETTING_KEYS if "." in key}
        close = (
            f"; did you mean {short[field]!r}?"
            if field in short
            else did_you_mean(field, {*COLUMN_DTYPES, *SETTING_KEYS})
        )
        raise UserError(f"--where {text}: field {field!r} is neither a column of the runs nor a setting{close}")
    return WhereCondition(field, parse_yaml(value, f"--where {field}").value, value)


def where_value(field: str, row: dict[str, Any], record: AnyRunRecord) -> Any:
    """Return a run's value of a field. None: missing or unknown."""
    if field in COLUMN_DTYPES:
        import pandas as pd

        return None if pd.isna(row[field]) else row[field]
    return look_up(record.config.model_dump(mode="json"), field) if isinstance(record, RunRecord) else None


def matches_where(condition: WhereCondition, row: dict[str, Any], record: AnyRunRecord) -> bool:
    """Return whether a run meets a condition.

    Numbers are compared as numbers and texts without regard to case. A source matches without its hash, and a task by
    its title.
    """
    actual, (field, value, text) = where_value(condition.field, row, record), condition
    if actual is None or isinstance(actual, bool) or isinstance(value, bool):
        return actual is value
    if isinstance(actual, int | float):
        return isinstance(value, int | float) and actual == value
    if isinstance(actual, str):
        names = [actual, actual.partition(" (")[0] if field == "source" else actual]
        names += [task_title(actual)] if field in ("task", "data.task") else []
        return text.casefold() in [name.casefold() for name in names]
    return without_none(actual) == value or describe_value(actual) == text
