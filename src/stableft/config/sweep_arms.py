"""Read the arms of a sweep file, with what stands at its top and on the command line, before they are expanded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stableft.config.command_arms import RECIPE_KEYS, is_command_arm
from stableft.config.settings import ConfigT, Settings, collect_settings, reject_sweep_keys
from stableft.config.sweep_keys import SweepFile, SweepKeys
from stableft.config.validation import check_printed_name, to_user_error
from stableft.config.yaml_file import KeyPath, YamlValue
from stableft.errors import UserError

START_ARM = "(start)"  # arm of the runs trained only to provide initial weights for others
NO_RECIPES = "every arm here has a command, which --set does not reach"


@dataclass(frozen=True)
class Arm:
    """An arm of a sweep file before expansion.

    `keys` are the arm's own, or else those at the top of the file; `--set` and `--seeds` override both. `written` has
    the same values as written, with their origins. The recipe of a command is the arm's name.
    """

    name: str
    where: str
    recipe: str
    keys: SweepKeys
    written: Mapping[str, YamlValue]
    settings: Settings  # the `set` at the top, overridden by the arm's own


def parse_arms(document: YamlValue, *overrides: YamlValue) -> list[Arm]:
    """Return the arms of a sweep file; a file without the key `arms` is a single arm.

    Arms of the same recipe may share a name if their tasks differ, because a table row may need different settings
    in different columns. `overrides` hold the sweep keys given on the command line; the last one wins.

    Raises:
        UserError: unknown key, invalid value, missing recipe, or duplicate arm name.
    """
    if not isinstance(document.value, dict):
        raise UserError(f"{document.where}: a sweep file is a mapping with a recipe or arms, a task and seeds")
    file = validate_written(SweepFile, document)
    top = document.items()
    above = [(validate_written(SweepKeys, override), override.items()) for override in overrides]
    written_arms = top["arms"].items() if "arms" in top else {}
    arms: list[Arm] = []
    for i, arm in enumerate(file.arms):
        own = written_arms[i].items() if i in written_arms else {}
        where = document.locate(("arms", i))
        alone = file if "arms" not in file.model_fields_set else arm
        is_command = is_command_arm(file, alone, arm.name, where)
        keys = dict[str, Any]()
        # A missing key is looked for where it is mostly written: these two in the arm, the others at the top.
        places: dict[str, str] = dict.fromkeys(("recipe", "score"), where)
        written = {key: YamlValue(None, places.get(key, document.where)) for key in SweepKeys.model_fields}
        settings: Settings = {}
        for layer, source in ((file, top), (arm, own), *above):
            for key in layer.model_fields_set & SweepKeys.model_fields.keys() - (RECIPE_KEYS if is_command else ()):
                if is_command and source[key].where == "--set":
                    raise UserError(f"--set {key}: arm {arm.name!r} has a command, whose {key} is in its file")
                keys[key], written[key] = getattr(layer, key), source[key]
                if key == "set":
                    settings |= reject_sweep_keys(collect_settings(written[key]))
        if not is_command:
            keys.pop("command", None)
        recipe = (arm.name or "command") if is_command else keys.get("recipe")
        if recipe is None:
            raise missing_key("recipe", written)
        name = recipe if is_command else Path(recipe).stem if arm.name is None else arm.name
        arms.append(Arm(name, where, recipe, SweepKeys.model_construct(**keys), written, settings))
        _check_arm_name(arms, document.locate(("arms", i, "name")))
    unread = [key for override in overrides if override.where == "--set" for key in override.value]
    if unread and all(arm.keys.command for arm in arms):
        raise UserError(f"--set {unread[0]}: {NO_RECIPES}")
    return arms


def parse_seeds(value: Any, where: str) -> list[tuple[int, int]]:
    """Return ordered (init, data) seed pairs, from any form that the key `seeds` may have.

    Raises:
        UserError: invalid format, duplicate seeds, more than `MAX_SEEDS`, or paired lists of unequal length.
    """
    seeds = validate_written(SweepKeys, YamlValue({"seeds": value}, where)).seeds
    if seeds is None:
        raise missing_key("seeds", {"seeds": YamlValue(None, where)})
    return seeds.pairs


def validate_written(kind: type[ConfigT], written: YamlValue, within: KeyPath = ()) -> ConfigT:
    """Return what is written as an object of its kind; `within` are the keys above it.

    Raises:
        UserError: It breaks a rule of its kind. The message names file, line, key, value and rule.
    """
    try:
        return kind.model_validate(written.value)
    except ValidationError as error:
        raise to_user_error(error, kind, written, within) from None


def missing_key(key: str, written: Mapping[str, YamlValue]) -> UserError:
    """Return the error that says where a key is missing."""
    return UserError(f"{written[key].where}: key {key!r} is missing")


def _check_arm_name(arms: list[Arm], where: str) -> None:
    """Raise UserError if the last arm has a bad name, or would be indistinguishable from an earlier one in a table."""
    *others, arm = arms
    check_printed_name(arm.name, f"{where}: name")
    if arm.name == START_ARM:
        raise UserError(f"{where}: name: {arm.name!r} is the name of runs that others start from; use another one")
    for other in others:
        if other.name != arm.name:
            if other.name.replace(" ", "") == arm.name.replace(" ", ""):
                raise UserError(
                    f"{where}: arms {other.name!r} and {arm.name!r} differ only in blanks; rename one of them"
                )
            continue
        shared = [task for task in _task_names(arm) if task in _task_names(other)]
        if shared:
            raise UserError(f"{arm.where}: arm {arm.name!r} is listed twice for task {shared[0]!r}; rename one of them")
        if arm.recipe != other.recipe:
            raise UserError(f"{arm.where}: arm {arm.name!r} is listed twice with different recipes; rename one of them")


def _task_names(arm: Arm) -> list[str]:
    tasks = [task.value for task in written_values(arm.written["task"])]
    return [str(task.get("name") if isinstance(task, dict) else task) for task in tasks]


def written_values(written: YamlValue) -> list[YamlValue]:
    """Return the value or values of `task` or `model`."""
    items = written.items().values() if isinstance(written.value, list) else [written]
    return [item for item in items if item.value is not None]
