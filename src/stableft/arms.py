"""The arms of a sweep file: a table's rows, each with what it says itself and what stands at the top for all."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stableft.errors import UserError, nearest
from stableft.settings import Setting, Settings, describe, settings_at, settings_from, unowned
from stableft.yamlfile import Document, Key

ARM_KEYS = ("name", "recipe", "task", "model", "set", "grid", "seeds", "stop_hopeless", "probes")
TOP_KEYS = ("arms", *ARM_KEYS[1:])


@dataclass(frozen=True)
class Arm:
    """One arm of a sweep file before its expansion, with the place of each of its keys."""

    name: str
    document: Document
    keys: dict[str, Key]  # sweep key -> where in the document it stands

    def get(self, key: str) -> Any:
        value: Any = self.document.data
        for part in self.keys.get(key, ()):
            value = value[part]
        return value if key in self.keys else None

    def where(self, key: str) -> str:
        return self.document.where(self.keys.get(key, ()))


def parse_arms(document: Document, overrides: Mapping[str, Any] = MappingProxyType({})) -> list[Arm]:
    """Returns the arms of a sweep file; without the key `arms` the file is one arm.

    A table's row may need other settings in another column: arms of one recipe may have the same name where their
    tasks differ. `overrides` are the sweep keys that `--set` gives.

    Raises:
        UserError: a key is unknown, or an arm has no recipe or another's name.
    """
    top = document.data
    if not isinstance(top, dict):
        raise UserError(f"{document.path}: a sweep file is a mapping with a recipe or arms, a task and seeds")
    _check_keys(document, (), TOP_KEYS)
    listed = top.get("arms", [{}])
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{document.where(('arms',))}: arms must be a list of at least one arm")
    arms: list[Arm] = []
    for i, arm in enumerate(listed):
        if not isinstance(arm, dict):
            raise UserError(
                f"{document.where(('arms', i))}: an arm is a mapping such as {{recipe: devlin}}, not {arm!r}"
            )
        if "arms" in top:
            _check_keys(document, ("arms", i), ARM_KEYS)
        keys: dict[str, Key] = {key: (key,) for key in top if key not in ("arms", "set")}
        keys |= {key: ("arms", i, key) for key in arm}
        given = arm.get("name")
        if given is not None and (not isinstance(given, str) or not given):
            raise UserError(f"{document.where(('arms', i, 'name'))}: name: {given!r} must be text; quotes make it so")
        name = given or Path(recipe_name(document, keys)).stem
        arms.append(Arm(name, document, keys))
        _check_name(arms, overrides, document.where(("arms", i)))
    return arms


def _check_name(arms: list[Arm], overrides: Mapping[str, Any], where: str) -> None:
    """Raises UserError if a table could not tell the last arm from another."""
    *others, arm = arms
    for other in others:
        if other.name != arm.name:
            continue
        shared = [task for task in _task_names(arm, overrides) if task in _task_names(other, overrides)]
        if shared:
            raise UserError(f"{where}: arm {arm.name!r} stands twice for task {shared[0]!r}; give one another name")
        if recipe_name(arm.document, arm.keys) != recipe_name(other.document, other.keys):
            raise UserError(f"{where}: arm {arm.name!r} stands twice with different recipes; give one another name")


def _task_names(arm: Arm, overrides: Mapping[str, Any]) -> list[str]:
    value = overrides.get("task", arm.get("task"))
    tasks = value if isinstance(value, list) else [value]
    return [str(task.get("name") if isinstance(task, dict) else task) for task in tasks if task is not None]


def recipe_name(document: Document, keys: dict[str, Key]) -> str:
    """Returns the recipe that an arm with these keys names.

    Raises:
        UserError: it names none.
    """
    arm = Arm("", document, keys)
    recipe = arm.get("recipe")
    if recipe is None:
        raise UserError(f"{arm.where('recipe')}: key 'recipe' is missing")
    if not isinstance(recipe, str) or not recipe:
        raise UserError(f"{arm.where('recipe')}: recipe: {recipe!r} must be the name of one recipe")
    return recipe


def arm_settings(arm: Arm) -> Settings:
    """Returns what the file sets for this arm: its own `set` over that at the top.

    Raises:
        UserError: a key is none of a run's, or belongs to a key of the sweep such as `task`.
    """
    settings: Settings = {}
    if "set" in arm.document.data:
        settings |= unowned(settings_from(arm.document, ("set",)))
    if "set" in arm.keys:
        settings |= unowned(settings_from(arm.document, arm.keys["set"]))
    return settings


def values_of(arm: Arm, key: str, overrides: dict[str, Any]) -> Iterator[Setting]:
    """Yields the one or several values of `task` or `model`, `--set` before the file.

    Raises:
        UserError: the list is empty or repeats itself.
    """
    value, where = (overrides[key], "--set") if key in overrides else (arm.get(key), arm.where(key))
    if value == []:
        raise UserError(f"{where}: {key}: the list is empty")
    listed = isinstance(value, list)
    for i, item in enumerate(_once(value, where, key) if listed else [value]):
        at = (*arm.keys.get(key, (key,)), *((i,) if listed else ()))
        if item is not None and key in overrides:
            yield Setting(item, where)
        elif item is not None:
            inner = {name: arm.document.where((*at, name)) for name in item} if isinstance(item, dict) else {}
            yield Setting(item, arm.document.where(at), inner)


def grid_points(arm: Arm) -> list[Settings]:
    """Returns the settings of every point of the arm's grid; without one, a single point without settings.

    Raises:
        UserError: it is no mapping of a run's keys to lists of different values.
    """
    grid = arm.get("grid")
    if grid is None:
        return [{}]
    if not isinstance(grid, dict):
        raise UserError(f"{arm.where('grid')}: a grid maps keys to lists of values")
    axes = []
    for key, values in grid.items():
        where = arm.document.where((*arm.keys["grid"], key))
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: grid: {key} needs a list of values, not {values!r}")
        axes.append([unowned(settings_at(key, value, where)) for value in _once(values, where, key)])
    return [dict(itertools.chain(*(part.items() for part in point))) for point in itertools.product(*axes)]


def _once(values: list, where: str, key: str) -> list:
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise UserError(f"{where}: {key}: {describe(value)} stands twice")
        seen.add(repr(value))
    return values


def _check_keys(document: Document, key: Key, allowed: tuple[str, ...]) -> None:
    value: Any = document.data
    for part in key:
        value = value[part]
    for name in value:
        if name not in allowed:
            raise UserError(f"{document.where((*key, name))}: key {name!r} is not known{nearest(name, allowed)}")
