"""Two arms by name -> their runs on one task, or a sentence that says why they cannot be compared."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stableft.config.run_config import canonical_json, without_none
from stableft.config.settings import LEAVES, describe
from stableft.config.sweep_file import START
from stableft.config.yaml_file import parse_yaml
from stableft.data.metrics import is_failed
from stableft.errors import UserError, nearest
from stableft.records.frame import DTYPES, described_source, frame
from stableft.records.run_record import AnyRun, RunRecord
from stableft.report.artifact import Checkpoint
from stableft.report.runs import all_stored, filed_records
from stableft.report.stability_table import task_title


class Entry(NamedTuple):
    """A run as its row of the frame and as its record."""

    row: dict[str, Any]
    record: AnyRun


@dataclass(frozen=True)
class Pair:
    """The runs of two arms on one task, which may be compared. `differing`: dotted settings -> the value of each."""

    names: tuple[str, str]
    task: str
    arms: tuple[tuple[Entry, ...], tuple[Entry, ...]]
    differing: Mapping[str, tuple[Any, Any]]

    @property
    def settings_known(self) -> bool:
        return all(isinstance(entry.record, RunRecord) for arm in self.arms for entry in arm)


def select_pair(
    names: tuple[str, str],
    results: Path,
    files: Sequence[Path],
    task: str | None,
    metric: str | None,
    where: Sequence[str],
    score: Checkpoint,
) -> Pair:
    """Returns the runs of two arms from files of records or, without any, from the run folders.

    Raises:
        UserError: an arm, task, metric or field is not there, or the arms cannot be compared.
    """
    if names[0] == names[1]:
        raise UserError(f"compare: {names[0]!r} is named twice; give two arms")
    conditions = [condition(text) for text in where]
    found = _read(filed_records(files) if files else all_stored(results), names, score, results if not files else None)
    arms = [_keep(found[name], conditions, name) for name in names]
    chosen = _choose_task(names, arms, task)
    a, b = ([entry for entry in arm if entry.row["task"] == chosen] for arm in arms)
    if metric is not None:
        a, b = _by_metric(names, (a, b), metric)
    for name, arm in zip(names, (a, b), strict=True):
        check_arm(f"compare: arm {name!r} on {chosen}", arm)
    return Pair(names, chosen, (tuple(a), tuple(b)), check_between(names, a, b))


def _read(
    records: Iterable[AnyRun], names: tuple[str, str], score: Checkpoint, results: Path | None
) -> dict[str, list[Entry]]:
    """Returns the runs of each arm; of records that repeat a run the first finished one counts, as in the frame."""
    there: dict[str, None] = {}
    kept: list[AnyRun] = []
    for record in records:
        if record.arm != START:
            there[record.arm] = None
            kept += [record] if record.arm in names else []
    if not there:
        raise UserError(f"compare: there are no records in {results / 'runs' if results else 'these files'}")
    for name in names:
        if name not in there:
            raise UserError(f"compare: the records have no arm {name!r}{nearest(name, there)}; they have {_few(there)}")
    first: dict[tuple, AnyRun] = {}
    for record in kept:
        key = (record.run_id, described_source(record), record.arm)
        if key not in first or first[key].status != "finished":
            first[key] = record
    found: dict[str, list[Entry]] = {name: [] for name in names}
    for row in frame(kept, None, score).to_dict("records"):
        values = {str(name): value for name, value in row.items()}
        found[values["arm"]].append(Entry(values, first[values["run_id"], values["source"], values["arm"]]))
    return found


class Condition(NamedTuple):
    """A field, the value that it must have as YAML reads it, and as it was written."""

    field: str
    value: Any
    text: str


def _keep(entries: list[Entry], conditions: Sequence[Condition], name: str) -> list[Entry]:
    for one in conditions:
        kept = [entry for entry in entries if matches(one, entry.row, entry.record)]
        if not kept:
            values = (value_of(one.field, entry.row, entry.record) for entry in entries)
            there = _few(dict.fromkeys(describe(value) for value in values))
            raise UserError(f"--where {one.field}={one.text}: no run of arm {name!r} is left; its runs have {there}")
        entries = kept
    return entries


def _choose_task(names: tuple[str, str], arms: Sequence[Sequence[Entry]], task: str | None) -> str:
    tasks = [sorted({entry.row["task"] for entry in arm}) for arm in arms]
    common = [name for name in tasks[0] if name in tasks[1]]
    who = f"arms {names[0]!r} and {names[1]!r}"
    if not common:
        raise UserError(f"compare: {who} have no task in common: {_join_all(tasks[0])} against {_join_all(tasks[1])}")
    if task is None and len(common) > 1:
        raise UserError(f"compare: {who} have runs of {_join_all(common)}: --task chooses one")
    if task is None:
        return common[0]
    chosen = [name for name in common if task.casefold() in (name.casefold(), task_title(name).casefold())]
    if not chosen:
        raise UserError(f"--task {task}: {who} both have runs of {_join_all(common)}{nearest(task, common)}")
    return task if task in chosen else chosen[0]


def _by_metric(
    names: tuple[str, str], arms: tuple[list[Entry], list[Entry]], metric: str
) -> tuple[list[Entry], list[Entry]]:
    """Returns the runs scored by another metric. Own runs are judged failed by it; of imported ones it is not known."""
    there = [_metrics(arm) for arm in arms]
    for name, found in zip(names, there, strict=True):
        if metric not in found:
            listed = _join_all(sorted(found)) or "nothing"
            raise UserError(f"--metric {metric}: the runs of {name!r} are scored by {listed}{nearest(metric, found)}")
    a, b = ([_rescored(entry, metric) for entry in arm] for arm in arms)
    return a, b


def _metrics(arm: Sequence[Entry]) -> dict[str, None]:
    """Returns the metrics by which any of the runs has the score that is shown of it."""
    there: dict[str, None] = {}
    for row, record in arm:
        scores = getattr(record, row["checkpoint"])
        there |= dict.fromkeys(getattr(scores, row["split"]) or ()) if scores else {}
    return there


def _rescored(entry: Entry, metric: str) -> Entry:
    row, record = entry
    if row["metric"] == metric:
        return entry
    finished, split = record.status == "finished", row["split"]
    score, last, best = (record.score(which, split, metric) for which in (row["checkpoint"], "last", "best"))
    data = record.data if isinstance(record, RunRecord) else None
    baseline = data.baselines.get(split, {}).get(metric) if data else None
    diverged = finished and any(value is not None and math.isnan(value) for value in (score, last))
    failed = True if diverged else None
    if finished and not diverged and last is not None and baseline is not None:
        failed = is_failed(last, baseline)
    values = {"score": score, "last": last, "best": best, "baseline": baseline}
    values |= {f"{which}_val": record.score(which, "val", metric) for which in ("last", "best")}
    changed: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    changed |= {"metric": metric, "scored": finished and score is not None, "diverged": diverged, "failed": failed}
    return Entry(row | changed, record)


def _few(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _join_all(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


SHOWN = 3  # runs that a refusal names
SEEDS, REPORT = ("seeds.init", "seeds.data"), "evaluation.report"  # whose score is shown is not how a run was trained
MODEL = ("model.name", "model.revision", "model.sha256", "model.head", "model.structure")
SIZE = ("data.train_rows", "data.sample_seed")
HINTS = {
    "metric": "--metric chooses one that both have",
    "split": "scores of two splits are not of one quantity",
    "checkpoint": "--score last or --score best chooses",
    "data_fingerprint": "scores on different data rows are not of one quantity",
}
ALIKE = ("metric", "split", "checkpoint")


def check_arm(who: str, arm: Sequence[Entry]) -> None:
    """Checks that the runs of an arm are a sample: of one setting and origin, each seed once, scored alike.

    Raises:
        UserError: they are not; the message names runs, and what chooses among them.
    """
    own = [entry for entry in arm if isinstance(entry.record, RunRecord)]
    foreign = [entry for entry in arm if not isinstance(entry.record, RunRecord)]
    if own and foreign:
        raise UserError(
            f"{who} pools runs of this project ({_named(own)}) and imported ones ({_named(foreign)}), whose settings "
            "are not known; --where source=null leaves the former, --where source=FILE the latter"
        )
    settings = [_settings(entry) for entry in arm]
    by_seed = _grouped(arm, lambda entry: (entry.row["seed_init"], entry.row["seed_data"]))
    twice = [entry for those in by_seed.values() if len(those) > 1 for entry in those]
    varying = [key for key in settings[0] if len({canonical_json(other[key]) for other in settings}) > 1]
    if twice or (varying and own):
        seeds = len({_seed(entry.row) for entry in twice})
        what = f"has {seeds} seed{'s' * (seeds > 1)} more than once ({_named(twice)})" if twice else "pools settings"
        raise UserError(f"{who} {what}: {_pooled(arm, settings, varying)}")
    scored = [entry for entry in arm if entry.row["scored"]]
    for name, hint in HINTS.items():
        groups = _grouped(scored, lambda entry, name=name: entry.row[name])
        if len(groups) > 1:
            values = [f"{value} ({_named(those)})" for value, those in groups.items()]
            raise UserError(f"{who} has runs of different {_plural(name)}, {_join_with_and(values)}; {hint}")


def _pooled(arm: Sequence[Entry], settings: Sequence[dict[str, Any]], varying: Sequence[str]) -> str:
    """Returns by which settings the runs differ, and how to choose among them."""
    if not varying:
        return "the records do not say in what these runs differ"
    key = varying[0]
    groups = _grouped(list(zip(arm, settings, strict=True)), lambda pair: describe(pair[1][key]))
    values = [f"{text} ({_named([entry for entry, _ in those])})" for text, those in groups.items()]
    others = [
        f"{other} is {_join_with_and(list(dict.fromkeys(describe(s[other]) for s in settings)))}"
        for other in varying[1:]
    ]
    first = next(iter(groups)).partition(" (")[0] if key == "source" else next(iter(groups))
    chooses = f"--where {key}={first}" if " " not in first else f"--where '{key}={first}'"
    return f"{'; '.join([f'{key} is {_join_with_and(values)}', *others])}; {chooses} chooses"


def check_between(names: tuple[str, str], a: Sequence[Entry], b: Sequence[Entry]) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which the arms differ, each with its two values; nothing of imported runs.

    Raises:
        UserError: a difference in scores could be put down to nothing that the arms are compared for.
    """
    first, second = (next((entry for entry in arm if entry.row["scored"]), arm[0]) for arm in (a, b))
    who = f"compare: arms {names[0]!r} and {names[1]!r}"
    runs = f"{_named(a)} against {_named(b)}"
    for name in ALIKE:
        values = [str(entry.row[name]) for entry in (first, second)]
        if values[0] != values[1]:
            raise UserError(
                f"{who} have scores of different {_plural(name)}, {_join_with_and(values)} ({runs}); {HINTS[name]}"
            )
    if not all(isinstance(entry.record, RunRecord) for entry in (first, second)):
        return {}
    ours, theirs = _settings(first), _settings(second)
    differing = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    prints = [entry.row["data_fingerprint"] for entry in (first, second)]
    sized = "data.train_rows" in differing and all(key in SIZE for key in differing)
    if None not in prints and prints[0] != prints[1] and not sized:
        listed = f"{_join_with_and([str(one)[:12] for one in prints])}{_besides(differing)}"
        raise UserError(f"{who} are of different data rows, with the fingerprints {listed} ({runs})")
    subjects = list(dict.fromkeys(_subject(key) for key in differing))
    if len(subjects) > 1:
        told = [f"{key} {' / '.join(map(describe, values))}" for key, values in differing.items()]
        named = _join_with_and([f"the {subject}" for subject in subjects])
        raise UserError(
            f"{who} differ in {named} at once ({', '.join(told)}; {runs}), "
            "so that a difference could be put down to neither; compare arms that differ in one of them"
        )
    return differing


def _besides(differing: dict[str, tuple[Any, Any]]) -> str:
    return f", and in {_join_with_and(list(differing))}" if differing else ""


def _subject(key: str) -> str:
    """Returns what a setting belongs to: the arms may differ in one of these."""
    if key in MODEL:
        return "model"
    return "data" if key.startswith("data.") else "precision" if key == "precision" else "method"


def _settings(entry: Entry) -> dict[str, Any]:
    """Returns the settings of an own run but its seeds, without labels of what has a hash; of an imported one its file.

    A model's or task's label beside a hash is a name, not a setting.
    """
    if not isinstance(entry.record, RunRecord):
        return {"source": entry.row["source"]}
    config = entry.record.config.normalized()
    values = config.model_dump(mode="json")
    left_out = [*SEEDS, REPORT, *(["model.name"] if config.model.sha256 else [])]
    return {key: _at(values, key) for key in LEAVES if key not in left_out}


def _at(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _grouped(items: Sequence[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _named(entries: Sequence[Entry]) -> str:
    """Returns the first runs by id and seed, and how many more there are."""
    texts = [f"run {entry.row['run_id']} of seed {_seed(entry.row)}" for entry in entries[:SHOWN]]
    more = len(entries) - SHOWN
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _seed(row: dict[str, Any]) -> str:
    init, data = row["seed_init"], row["seed_data"]
    return str(init) if init == data else f"{init}/{data}"


def _plural(name: str) -> str:
    return {"data_fingerprint": "data rows"}.get(name, f"{name}s")


def _join_with_and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


INNER = [f"{key}.{name}" for key, part in LEAVES.items() if part for name in part.model_fields]
SECTIONS = [key.rpartition(".")[0] for key in LEAVES if "." in key]
SETTINGS = {*LEAVES, *INNER, *SECTIONS}


def condition(text: str) -> Condition:
    """Returns the condition that a FIELD=VALUE makes.

    Raises:
        UserError: it has no equals sign, the field is not known, or the value is no YAML.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--where {text}: must be FIELD=VALUE")
    if field not in DTYPES and field not in SETTINGS:
        short = {key.rpartition(".")[2]: key for key in SETTINGS if "." in key}
        close = f"; did you mean {short[field]!r}?" if field in short else nearest(field, {*DTYPES, *SETTINGS})
        raise UserError(f"--where {text}: field {field!r} is neither a column of the runs nor a setting{close}")
    return Condition(field, _parse_where_value(value, field), value)


def _parse_where_value(text: str, field: str) -> Any:
    """Returns the value as YAML has it, and 2e-5, which is text to YAML, as a number."""
    value = parse_yaml(text, f"--where {field}").data
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def value_of(field: str, row: dict[str, Any], record: AnyRun) -> Any:
    """Returns what a run has of a field; None where it has nothing or nobody knows."""
    if field in DTYPES:
        import pandas as pd

        return None if pd.isna(row[field]) else row[field]
    value: Any = record.config.model_dump(mode="json") if isinstance(record, RunRecord) else None
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def matches(condition: Condition, row: dict[str, Any], record: AnyRun) -> bool:
    """Whether a run has the value: numbers as numbers, texts in any case, a source without its hash, a task's title."""
    found, (field, value, text) = value_of(condition.field, row, record), condition
    if found is None or isinstance(found, bool) or isinstance(value, bool):
        return found is value
    if isinstance(found, int | float):
        return isinstance(value, int | float) and found == value
    if isinstance(found, str):
        names = [found, found.partition(" (")[0] if field == "source" else found]
        names += [task_title(found)] if field in ("task", "data.task") else []
        return text.casefold() in [name.casefold() for name in names]
    return without_none(found) == value or describe(found) == text
