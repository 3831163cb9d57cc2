"""Recipes: complete settings for a fine-tuning method, and how a run deviates from its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stableft.catalog.tasks import find_task
from stableft.config.local_files import find_file, shipped_configs
from stableft.config.run_config import RunConfig
from stableft.config.settings import (
    RUN_CONFIG_LEAVES,
    Settings,
    build_run_config,
    collect_settings,
    describe_value,
    find_reported_checkpoint,
    reject_sweep_keys,
)
from stableft.config.yaml_file import YamlValue, load_yaml, look_up
from stableft.errors import UserError, did_you_mean, echo

# Not set by a recipe alone: data, model and seeds, and whether rows are packed, which changes no function.
KEYS_LEFT_OPEN = (
    "data.task", "data.own", "model.name", "model.revision", "model.sha256", "execution", "seeds.init", "seeds.data",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A recipe: settings for all tasks, and per-task overrides (Z Table 6)."""

    name: str
    settings: Settings
    by_task: dict[str, Settings]

    def for_task(self, task: str) -> Settings:
        """Return the settings for a run on `task`."""
        return self.settings | self.by_task.get(task, {})


def load_recipe(name: str, folders: tuple[Path, ...] = (), where: str = "") -> Recipe:
    """Return the recipe with that name; see `find_recipe` for where it is looked up.

    Raises:
        UserError: no such recipe, or it has unknown settings.
    """
    path = find_recipe(name, folders, where)
    shipped = path.resolve().parent == (shipped_configs() / "recipes").resolve()
    return _read_shipped_recipe(path) if shipped else read_recipe(path)


def find_recipe(name: str, folders: tuple[Path, ...] = (), where: str = "") -> Path:
    """Return the path of a recipe file.

    A bare name is looked up in the `recipes` subfolder of each of `folders`, last folder first, then in
    ./configs/recipes and the shipped recipes. A name that ends in .yaml is a path relative to one of `folders`.

    Raises:
        UserError: no such recipe.
    """
    places = (
        *(folder / "recipes" for folder in reversed(folders)),
        Path("configs/recipes"),
        shipped_configs() / "recipes",
    )
    file = find_file(name, folders) if name.endswith(".yaml") else find_file(f"{name}.yaml", places)
    if file is None:
        names = {path.stem for place in places for path in place.glob("*.yaml")}
        raise UserError(f"{where}: recipe {name!r} is not known{did_you_mean(name, names)}".removeprefix(": "))
    return file


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        UserError: unknown setting, or `by_task` does not map known tasks to settings.
    """
    written = load_yaml(path)
    if not isinstance(written.value, dict) or "by_task" not in written.value:
        return Recipe(path.stem, collect_settings(written), {})
    tasks = written.item("by_task")
    if not isinstance(tasks.value, dict):
        raise UserError(f"{tasks.where}: by_task maps tasks to settings; {echo(tasks.value)} does not")
    by_task: dict[str, Settings] = {}
    for task in tasks.value:
        try:
            find_task(task)
        except UserError as error:
            raise UserError(f"{tasks.item(task).where}: by_task: {error}") from None
        by_task[task] = reject_sweep_keys(collect_settings(tasks.item(task)))
    rest = {key: value for key, value in written.value.items() if key != "by_task"}
    return Recipe(path.stem, collect_settings(written._replace(value=rest)), by_task)


def shipped_recipes() -> dict[str, Path]:
    """Return the paths of the shipped recipes by name."""
    return {path.stem: path for path in sorted((shipped_configs() / "recipes").glob("*.yaml"))}


def describe_deviations(config: RunConfig, recipe: str, changes: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Return descriptions of how a run deviates from the shipped recipe of that name, ignoring its data and seeds.

    Empty if there is no such shipped recipe. `changes` are an experiment's dotted settings on top of the recipe, which
    do not count as deviations.
    """
    if recipe not in shipped_recipes():
        return []
    settings = _read_shipped_recipe(shipped_recipes()[recipe]).for_task(config.data.task)
    settings |= {key: YamlValue(value, "") for key, value in changes.items()}
    actual = config.model_dump(mode="json")
    reference = _complete_recipe(settings, config).model_dump(mode="json")
    found = []
    for key in (*settings, *(key for key in RUN_CONFIG_LEAVES if key not in (*settings, *KEYS_LEFT_OPEN))):
        theirs, ours = look_up(reference, key), look_up(actual, key)
        if key == "model.name" and config.model.name != settings[key].value:
            found.append(f"model {config.model.name}, not {settings[key].value}")
        elif theirs != ours and (theirs or ours or not key.startswith("reinit.")):  # for reinit, 0 and false mean none
            found.append(f"{key} {describe_value(ours)}, not {describe_value(theirs)}")
    return found


@cache
def _read_shipped_recipe(path: Path) -> Recipe:
    """Return a shipped recipe, cached because sweeps share it and a report compares hundreds of runs with it."""
    return read_recipe(path)


def _complete_recipe(settings: Settings, config: RunConfig) -> RunConfig:
    actual = config.model_dump(mode="json")
    known = {key: YamlValue(look_up(actual, key), "") for key in KEYS_LEFT_OPEN}
    start = settings.get("start_from")
    if start and start.value and "recipe" in start.value:
        known["start_from"] = YamlValue(_resolve_start_run(start.value, known), "")
    return build_run_config(settings | known, "")


def _resolve_start_run(start: dict[str, Any], identity: Settings) -> dict[str, str]:
    """Return the `start_from` value of a shipped recipe: the run that a sweep with this model would train."""
    changes = collect_settings(YamlValue(start.get("set") or {}, ""))
    model = {key: setting for key, setting in identity.items() if key.startswith("model.")}
    chosen = {"data.task": start["task"], "seeds.init": start["seed"], "seeds.data": start["seed"]}
    recipe = read_recipe(shipped_recipes()[start["recipe"]]).for_task(start["task"])
    settings = recipe | {"execution": identity["execution"]} | changes | model
    settings |= {key: YamlValue(value, "") for key, value in chosen.items()}
    return {"run": build_run_config(settings, "").run_id, "checkpoint": find_reported_checkpoint(settings, "")}
