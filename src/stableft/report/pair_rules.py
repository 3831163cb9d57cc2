"""Which arms may be compared: one setting each, each seed once, scored alike on the same rows of data."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stableft.config import canonical_json
from stableft.errors import UserError
from stableft.record import AnyRun, RunRecord
from stableft.settings import LEAVES, describe

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


class Entry(NamedTuple):
    """A run as its row of the frame and as its record."""

    row: dict[str, Any]
    record: AnyRun


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
            raise UserError(f"{who} has runs of different {_plural(name)}, {_and(values)}; {hint}")


def _pooled(arm: Sequence[Entry], settings: Sequence[dict[str, Any]], varying: Sequence[str]) -> str:
    """Returns by which settings the runs differ, and how to choose among them."""
    if not varying:
        return "the records do not say in what these runs differ"
    key = varying[0]
    groups = _grouped(list(zip(arm, settings, strict=True)), lambda pair: describe(pair[1][key]))
    values = [f"{text} ({_named([entry for entry, _ in those])})" for text, those in groups.items()]
    others = [f"{other} is {_and(list(dict.fromkeys(describe(s[other]) for s in settings)))}" for other in varying[1:]]
    first = next(iter(groups)).partition(" (")[0] if key == "source" else next(iter(groups))
    chooses = f"--where {key}={first}" if " " not in first else f"--where '{key}={first}'"
    return f"{'; '.join([f'{key} is {_and(values)}', *others])}; {chooses} chooses"


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
            raise UserError(f"{who} have scores of different {_plural(name)}, {_and(values)} ({runs}); {HINTS[name]}")
    if not all(isinstance(entry.record, RunRecord) for entry in (first, second)):
        return {}
    ours, theirs = _settings(first), _settings(second)
    differing = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    prints = [entry.row["data_fingerprint"] for entry in (first, second)]
    sized = "data.train_rows" in differing and all(key in SIZE for key in differing)
    if None not in prints and prints[0] != prints[1] and not sized:
        listed = f"{_and([str(one)[:12] for one in prints])}{_besides(differing)}"
        raise UserError(f"{who} are of different data rows, with the fingerprints {listed} ({runs})")
    subjects = list(dict.fromkeys(_subject(key) for key in differing))
    if len(subjects) > 1:
        told = [f"{key} {' / '.join(map(describe, values))}" for key, values in differing.items()]
        raise UserError(
            f"{who} differ in {_and([f'the {subject}' for subject in subjects])} at once ({', '.join(told)}; {runs}), "
            "so that a difference could be put down to neither; compare arms that differ in one of them"
        )
    return differing


def _besides(differing: dict[str, tuple[Any, Any]]) -> str:
    return f", and in {_and(list(differing))}" if differing else ""


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


def _and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
