"""Recipes: complete settings of one way to fine-tune, and how a run departs from one."""

from pathlib import Path
from typing import Any

from stableft.config import RunConfig
from stableft.errors import UserError, nearest
from stableft.locate import find_file, shipped_configs
from stableft.settings import LEAVES, Setting, Settings, build_config, describe, settings_from
from stableft.yamlfile import load_yaml

# What a recipe leaves open: data, model and seeds.
IDENTITY = ("data.task", "data.own", "model.name", "model.revision", "model.sha256", "seeds.init", "seeds.data")


def load_recipe(name: str, folders: tuple[Path, ...] = (), where: str = "") -> tuple[str, Settings]:
    """Returns name and settings of a recipe: beside the sweep, in ./configs/recipes, or the package's own.

    Raises:
        UserError: there is no such recipe, or it is no mapping of a run's keys.
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
    return file.stem, settings_from(load_yaml(file))


def shipped_recipes() -> dict[str, Path]:
    """Returns the package's own recipes by name."""
    return {path.stem: path for path in sorted((shipped_configs() / "recipes").glob("*.yaml"))}


def deviations(config: RunConfig, recipe: str) -> list[str]:
    """Returns in words how a run departs from the package's recipe of that name; its data and seeds do not count."""
    if recipe not in shipped_recipes():
        return []
    settings = settings_from(load_yaml(shipped_recipes()[recipe]))
    actual = config.model_dump(mode="json")
    reference = _with_identity(settings, config).model_dump(mode="json")
    found = []
    for key in (*settings, *(key for key in LEAVES if key not in (*settings, *IDENTITY))):
        theirs, ours = _lookup(reference, key), _lookup(actual, key)
        if key == "model.name" and config.model.name != settings[key].value:
            found.append(f"model {config.model.name}, not {settings[key].value}")
        elif theirs != ours:
            found.append(f"{key} {describe(ours)}, not {describe(theirs)}")
    return found


def _with_identity(settings: Settings, config: RunConfig) -> RunConfig:
    here = {key: _lookup(config.model_dump(mode="json"), key) for key in IDENTITY}
    return build_config(settings | {key: Setting(value, "") for key, value in here.items()}, "")


def _lookup(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part] if tree else None
    return tree
