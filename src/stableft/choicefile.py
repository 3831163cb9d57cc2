"""Chosen settings as an ordinary sweep file, whose runs have the ids that they had in the search."""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from stableft.arms import recipe_name
from stableft.config import RunConfig
from stableft.errors import UserError
from stableft.hopeless import setting_of
from stableft.locate import find_file, shipped_configs
from stableft.plan import Sources
from stableft.recipe import find_recipe
from stableft.record import atomic_write
from stableft.sweepfile import RULE, Point, Sweep, load_sweep

MARK = "chosen by `stableft choose`"
MAP = "tag:yaml.org,2002:map"
Entry = dict[str, Any]  # one arm of the written file


def write_choices(sweep: Sweep, chosen: Sequence[Point], notes: Iterable[str], out: Path, seeds: str | None) -> int:
    """Writes a sweep of the chosen points, with these seeds or else their own, and returns its number of runs.

    An arm becomes several of the same name where its tasks differ in what was chosen. Files and folders stay as they
    were written if they lie so seen from the new file, and become absolute else.

    Raises:
        UserError: `out` is no place for it, or a setting cannot stand in a sweep file.
    """
    check_place(sweep, out)
    for point in chosen:
        if any(key.startswith("seeds.") for key in point.settings):
            raise UserError("--set seeds.init and seeds.data cannot be kept in a sweep file; use --report-seeds")
    folder = out.resolve().parent
    entries = [entry for points in _same_arms(chosen) for entry in _entries(points, sweep, folder, seeds)]
    body = _dump(_layout(entries))
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".yaml") as draft:
        draft.write(body)
        draft.flush()
        try:
            written = load_sweep(draft.name, Sources())
        except UserError as error:
            reason = str(error).replace(draft.name, "it")
            raise UserError(f"{sweep.path}: what was chosen cannot be written as one sweep file: {reason}") from None
    asked = {setting_of(point.runs[0].config) for point in chosen}
    assert {setting_of(run.config) for run in written.runs} == asked, "the file asks for other runs"
    shipped = sweep.path.resolve().is_relative_to(shipped_configs().resolve())
    origin = f"configs/{sweep.name}.yaml" if shipped else sweep.path
    head = [f"stableft sweep {out}      {MARK} from {origin}      {len(written.runs)} runs"]
    head += ["Of each grid the setting with the highest mean validation score over seeds, in percent:"]
    head += [f"  {note}" for note in notes]
    atomic_write(out, ("".join(f"# {line}\n" for line in head) + body).encode())
    return len(written.runs)


def check_place(sweep: Sweep, out: Path) -> None:
    """Raises UserError if `out` cannot be the new file, or is a file that this command did not write."""
    if out.is_dir() or out.suffix != ".yaml":
        raise UserError(f"--out {out}: give the name of a file that ends in .yaml")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and (out.samefile(sweep.path) or MARK.encode() not in out.read_bytes().partition(b"\n")[0]):
        raise UserError(f"--out {out}: this file was not written by `stableft choose`; give another name")


def _same_arms(points: Sequence[Point]) -> Iterable[list[Point]]:
    for _, same in itertools.groupby(points, lambda point: point.arm):
        yield list(same)


def _entries(points: list[Point], sweep: Sweep, folder: Path, seeds: str | None) -> list[Entry]:
    """Returns one arm's chosen points as arms: one for each model and setting, or fewer where all models agree."""
    by_model: dict[str, list[Point]] = {}
    for point in points:
        by_model.setdefault(repr(point.model), []).append(point)
    blocks = list(by_model.values())
    agree = len({repr([_values(point) for point in block]) for block in blocks}) == 1
    entries = []
    for block in blocks[:1] if agree else blocks:
        by_setting: dict[str, list[Point]] = {}
        for point in block:
            by_setting.setdefault(repr(_values(point)), []).append(point)
        for same in by_setting.values():
            models = [_model(other[0], sweep, folder) for other in (blocks if agree else [same])]
            name = same[0].arm.name + ("" if agree else f" ({same[0].runs[0].config.model.name})")
            entries.append(_entry(name, same, models, sweep, folder, seeds))
    return entries


def _values(point: Point) -> dict[str, Any]:
    return {key: setting.value for key, setting in point.settings.items()}


def _entry(
    name: str, points: list[Point], models: list[str | None], sweep: Sweep, folder: Path, seeds: str | None
) -> Entry:
    arm = points[0].arm
    tasks = [_located(point.task.value, point.runs[0].config, sweep, folder) for point in points]
    entry: Entry = {"name": name, "recipe": _recipe(recipe_name(arm.document, arm.keys), sweep, folder)}
    entry["task"] = tasks if len(tasks) > 1 else tasks[0]
    if models != [None]:
        entry["model"] = models if len(models) > 1 else models[0]
    entry["seeds"] = arm.get("seeds") if seeds is None else seeds
    if rule := points[0].rule:
        entry[RULE] = asdict(rule)
    entry["set"] = _values(points[0])
    if (start := entry["set"].get("start_from")) and points[0].parent:
        places = {"recipe": _recipe(start["recipe"], sweep, folder)}
        places["task"] = _located(start["task"], points[0].parent.config, sweep, folder)
        entry["set"]["start_from"] = start | places
    return entry


def _located(task: Any, config: RunConfig, sweep: Sweep, folder: Path) -> Any:
    """Returns a task as a sweep file has it, the files of the user's own found from that folder."""
    own = config.data.own
    if own is None:
        return config.data.task
    hashes = {"train": own.train, "validation": own.validation, "test": own.test}
    files = {key: sweep.sources.paths[digest] for key, digest in hashes.items() if digest}
    return task | {key: _reachable(task[key], path, folder) for key, path in files.items()}


def _model(point: Point, sweep: Sweep, folder: Path) -> str | None:
    written, digest = point.model and point.model.value, point.runs[0].config.model.sha256
    return written if digest is None else _reachable(written, sweep.sources.paths[digest], folder)


def _recipe(name: str, sweep: Sweep, folder: Path) -> str:
    file = find_recipe(name, (Path.cwd(), sweep.path.parent)).resolve()
    if name.endswith(".yaml"):
        return _reachable(name, file, folder)
    try:
        same = find_recipe(name, (Path.cwd(), folder)).resolve() == file
    except UserError:
        same = False
    return name if same else str(file)


def _reachable(written: str | None, path: Path, folder: Path) -> str:
    """Returns what was written if it leads to `path` from this folder, and the absolute path else."""
    found = find_file(written, (folder,)) if written else None
    return written if written and found and found.resolve() == path.resolve() else str(path.resolve())


def _layout(entries: list[Entry]) -> dict[str, Any]:
    """Returns a sweep file's content, with what most arms have in common at the top."""
    keys = [key for key in ("task", "model", "seeds", RULE) if all(key in entry for entry in entries)]
    shared = {key: _most_common([entry[key] for entry in entries]) for key in keys}
    first = entries[0]["set"]
    same = {key for key in first if all(key in e["set"] and e["set"][key] == first[key] for e in entries)}
    if len(entries) == 1:  # what was chosen is easier to find in its arm
        same = set()
    arms = []
    for entry in entries:
        own = {key: value for key, value in entry.items() if key != "set" and value != shared.get(key)}
        settings = {key: value for key, value in entry["set"].items() if key not in same}
        arms.append(_Block(own | ({"set": settings} if settings else {})))
    top = {key: value for key, value in first.items() if key in same}
    return shared | ({"set": top} if top else {}) | {"arms": arms}


def _most_common(values: list) -> Any:
    return max(values, key=values.count)


class _Block(dict):
    """A mapping whose keys each have a line."""


class _Dumper(yaml.SafeDumper):
    """Writes equal values out instead of pointing at the first, lists indented, and 2.0e-5 for 2.0e-05."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    node = dumper.represent_float(value)
    node.value = node.value.replace("e-0", "e-").replace("e+0", "e+")
    return node


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(_Block, lambda dumper, block: dumper.represent_mapping(MAP, block, flow_style=False))


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
