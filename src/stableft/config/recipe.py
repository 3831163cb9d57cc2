"""Recipes: complete settings of one way to fine-tune, and how a run departs from one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stableft.catalog.tasks import find_task
from stableft.config.local_files import find_file, shipped_configs
from stableft.config.run_config import RunConfig
from stableft.config.settings import LEAVES, Setting, Settings, build_config, describe, settings_from, unowned
from stableft.config.yaml_file import Document, load_yaml
from stableft.errors import UserError, nearest

# What a recipe leaves open: data, model and seeds.
IDENTITY = ("data.task", "data.own", "model.name", "model.revision", "model.sha256", "seeds.init", "seeds.data")


@dataclass(frozen=True)
class Recipe:
    """A recipe file: settings for any task, and those that win over them for one (Z Table 6)."""

    name: str
    settings: Settings
    by_task: dict[str, Settings]

    def for_task(self, task: str) -> Settings:
        """Returns the settings of a run on that task."""
        return self.settings | self.by_task.get(task, {})


def load_recipe(name: str, folders: tuple[Path, ...] = (), where: str = "") -> Recipe:
    """Returns a recipe, which `find_recipe` finds.

    Raises:
        UserError: there is no such recipe, or it is no mapping of a run's keys.
    """
    return read_recipe(find_recipe(name, folders, where))


def find_recipe(name: str, folders: tuple[Path, ...] = (), where: str = "") -> Path:
    """Returns the file of a recipe: beside the sweep, in ./configs/recipes, or the package's own.

    Raises:
        UserError: there is no such recipe.
    """
    places = (
        *(folder / "recipes" for folder in reversed(folders)),
        Path("configs/recipes"),
        shipped_configs() / "recipes",
    )
    file = find_file(name, folders) if name.endswith(".yaml") else find_file(f"{name}.yaml", places)
    if file is None:
        names = {path.stem for place in places for path in place.glob("*.yaml")}
        raise UserError(f"{where}: recipe {name!r} is not known{nearest(name, names)}".removeprefix(": "))
    return file


def read_recipe(path: Path) -> Recipe:
    """Returns the recipe of a file.

    Raises:
        UserError: it is no mapping of a run's keys, or its `by_task` none of tasks to such mappings.
    """
    document = load_yaml(path)
    if not isinstance(document.data, dict) or "by_task" not in document.data:
        return Recipe(path.stem, settings_from(document), {})
    tasks = document.data["by_task"]
    if not isinstance(tasks, dict):
        raise UserError(f"{document.where(('by_task',))}: by_task maps tasks to settings; {tasks!r} does not")
    by_task: dict[str, Settings] = {}
    for task in tasks:
        try:
            find_task(task)
        except UserError as error:
            raise UserError(f"{document.where(('by_task', task))}: by_task: {error}") from None
        by_task[task] = unowned(settings_from(document, ("by_task", task)))
    rest = {key: value for key, value in document.data.items() if key != "by_task"}
    return Recipe(path.stem, settings_from(replace(document, data=rest)), by_task)


def shipped_recipes() -> dict[str, Path]:
    """Returns the package's own recipes by name."""
    return {path.stem: path for path in sorted((shipped_configs() / "recipes").glob("*.yaml"))}


def deviations(config: RunConfig, recipe: str, own: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Returns in words how a run departs from the package's recipe of that name; its data and seeds do not count.

    `own` are dotted settings that an experiment has beyond the recipe's, and that are no departure.
    """
    if recipe not in shipped_recipes():
        return []
    settings = _read_once(shipped_recipes()[recipe]).for_task(config.data.task)
    settings |= {key: Setting(value, "") for key, value in own.items()}
    actual = config.model_dump(mode="json")
    reference = _with_identity(settings, config).model_dump(mode="json")
    found = []
    for key in (*settings, *(key for key in LEAVES if key not in (*settings, *IDENTITY))):
        theirs, ours = _lookup(reference, key), _lookup(actual, key)
        if key == "model.name" and config.model.name != settings[key].value:
            found.append(f"model {config.model.name}, not {settings[key].value}")
        elif theirs != ours and (theirs or ours or not key.startswith("reinit.")):  # there 0 and false are none
            found.append(f"{key} {describe(ours)}, not {describe(theirs)}")
    return found


@cache
def _read_once(path: Path) -> Recipe:
    """Returns a recipe of the package, which a report compares hundreds of runs with."""
    return read_recipe(path)


def _with_identity(settings: Settings, config: RunConfig) -> RunConfig:
    actual = config.model_dump(mode="json")
    here = {key: Setting(_lookup(actual, key), "") for key in IDENTITY}
    start = settings.get("start_from")
    if start and start.value and "recipe" in start.value:
        here["start_from"] = Setting(_first_run(start.value, here), "")
    return build_config(settings | here, "")


def _first_run(start: dict[str, Any], identity: Settings) -> dict[str, str]:
    """Returns the run that a package's recipe starts from, as a sweep with its model trains it first."""
    own = settings_from(Document("", start.get("set") or {}, {}))
    model = {key: setting for key, setting in identity.items() if key.startswith("model.")}
    chosen = {"data.task": start["task"], "seeds.init": start["seed"], "seeds.data": start["seed"]}
    settings = read_recipe(shipped_recipes()[start["recipe"]]).for_task(start["task"]) | own | model
    first = build_config(settings | {key: Setting(value, "") for key, value in chosen.items()}, "")
    return {"run": first.run_id, "checkpoint": first.evaluation.report}


def _lookup(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part] if tree else None
    return tree
