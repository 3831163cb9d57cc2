"""Settings by dotted key, which keep their file and line for error messages until they become a `RunConfig`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stableft.config.run_config import ConfigSection, RunConfig
from stableft.config.yaml_file import KeyPath, YamlDocument, parse_yaml
from stableft.errors import UserError, did_you_mean


class Setting(NamedTuple):
    """A value and its origin, such as "configs/rte.yaml:7" or "--set"; `inner` has the origin of each nested key."""

    value: Any
    where: str
    inner: Mapping[str, str] = MappingProxyType({})


Settings = dict[str, Setting]  # by dotted key of a leaf


Leaves = dict[str, type[ConfigSection] | None]
ConfigT = TypeVar("ConfigT", bound=ConfigSection)


def find_leaves(part: type[ConfigSection], prefix: str = "") -> Leaves:
    """Return the dotted keys of all leaves.

    A section that is only assigned as a whole is a leaf too and maps to its class; other leaves map to None.
    """
    found: Leaves = {}
    for name, field in part.model_fields.items():
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)]
        section = next((k for k in kinds if issubclass(k, ConfigSection)), None)
        if section and not section.example:
            found |= find_leaves(section, f"{prefix}{name}.")
        else:
            found[prefix + name] = section
    return found


RUN_CONFIG_LEAVES = find_leaves(RunConfig)
# Settings determined by a sweep key: set directly, they would be overridden or would name different weights.
SWEEP_KEY_OF_SETTING = {
    "data.task": "task",
    "data.own": "task",
    "model.name": "model",
    "model.sha256": "model",
    "seeds.init": "seeds",
    "seeds.data": "seeds",
}


def collect_settings(document: YamlDocument, key: KeyPath = (), leaves: Leaves = RUN_CONFIG_LEAVES) -> Settings:
    """Return the settings in the mapping at `key` of a YAML document; keys may be nested, dotted, or both.

    Raises:
        UserError: a key is unknown or set twice, or a section has no keys.
    """
    value = document.data
    for part in key:
        value = value[part]
    settings: Settings = {}
    _collect_into(value, "", document, key, leaves, settings)
    return settings


def _collect_into(
    value: Any, dotted: str, document: YamlDocument, key: KeyPath, leaves: Leaves, settings: Settings
) -> None:
    if dotted in leaves:
        if dotted in settings:
            raise UserError(f"{document.where(key)}: {dotted} is set a second time")
        settings[dotted] = Setting(value, document.where(key))
        return
    check_setting_key(dotted, document.where(key), leaves)
    if not isinstance(value, dict):
        what = f"{dotted} is a section and needs keys" if dotted else "settings are keys with values"
        raise UserError(f"{document.where(key)}: {what}, not {value!r}")
    for name, item in value.items():
        _collect_into(item, f"{dotted}.{name}" if dotted else name, document, (*key, name), leaves, settings)


def settings_of_key(dotted: str, value: Any, where: str, leaves: Leaves = RUN_CONFIG_LEAVES) -> Settings:
    """Return the settings given by one key, a leaf or a section, all with the origin `where`.

    Raises:
        UserError: unknown key.
    """
    check_setting_key(dotted, where, leaves)
    found = collect_settings(YamlDocument(where, {dotted: value}, {}), leaves=leaves)
    return {key: Setting(setting.value, where) for key, setting in found.items()}


def parse_set_options(sets: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the key and parsed value of each `--set KEY=VALUE` string.

    Raises:
        UserError: no equals sign, or the value is not YAML.
    """
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: must be KEY=VALUE")
        yield key, parse_yaml(value, f"--set {key}").data


def reject_sweep_keys(settings: Settings, owners: Sequence[str] = ("task", "model", "seeds")) -> Settings:
    """Return `settings` unchanged after checking that no sweep key among `owners` determines any of them.

    Raises:
        UserError: a setting is determined by such a sweep key.
    """
    for key, setting in settings.items():
        if SWEEP_KEY_OF_SETTING.get(key) in owners:
            raise UserError(
                f"{setting.where}: {key} cannot be set here: the key {SWEEP_KEY_OF_SETTING[key]!r} of a sweep gives it"
            )
    return settings


def check_setting_key(dotted: str, where: str, leaves: Leaves = RUN_CONFIG_LEAVES) -> None:
    """Raise UserError unless `dotted` is a leaf, or a section that contains leaves."""
    if dotted and dotted not in leaves and not any(leaf.startswith(dotted + ".") for leaf in leaves):
        parent = dotted.rpartition(".")[0]
        if whole := leaves.get(parent):
            raise UserError(f"{where}: {dotted}: {parent} is set as a whole, such as {parent}: {whole.example}")
        names = {*leaves, *(leaf.rsplit(".", 1)[0] for leaf in leaves if "." in leaf)}
        short = {leaf.rsplit(".", 1)[-1]: leaf for leaf in leaves}  # lr for optimizer.lr
        close = f"; did you mean {short[dotted]!r}?" if dotted in short else did_you_mean(dotted, names)
        raise UserError(f"{where}: key {dotted!r} is not known{close}")


def describe_value(value: Any) -> str:
    """Return a setting's value for display, such as "3 epochs" for {epochs: 3}."""
    if isinstance(value, dict):
        return ", ".join(f"{item} {key}" for key, item in value.items() if item is not None)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def build_run_config(settings: Settings, where: str) -> RunConfig:
    """Return the normalized run config given by the settings; errors about missing keys point to `where`.

    Raises:
        UserError: a setting is missing or invalid; the message names file, line, key and rule.
    """
    return build_config_section(settings, where, RunConfig, RUN_CONFIG_LEAVES).normalized()


def build_config_section(settings: Settings, where: str, kind: type[ConfigT], leaves: Leaves) -> ConfigT:
    """Return the config of class `kind` given by the settings, like `build_run_config` but not normalized.

    Raises:
        UserError: a setting is missing or invalid; the message names file, line, key and rule.
    """
    tree: dict[str, Any] = {}
    for dotted, setting in settings.items():
        *sections, leaf = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = setting.value
    try:
        # Via JSON, because pydantic's strict mode accepts a list for a tuple only there.
        return kind.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise UserError(_validation_message(error.errors()[0], settings, where, leaves)) from None


_RULE_TEXTS = {  # replace pydantic's wording where it makes no sense to someone writing YAML
    "tuple_type": "must be a list",
    "too_short": "has too few items",
    "too_long": "has too many items",
    "string_pattern_mismatch": "must be a hash in hexadecimal digits, 16 of a run or 64 of a file",
    "string_type": "must be text; quotes make it so",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
}


def _validation_message(error: ErrorDetails, settings: Settings, where: str, leaves: Leaves) -> str:
    parts = [str(part) for part in error["loc"]]
    dotted = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in settings), None)
    key, kind = ".".join(parts), error["type"]
    value = settings[key].value if key in settings else error.get("input")  # as written: 2, where pydantic reports 2.0
    if dotted:
        rest = parts[dotted.count(".") + 1 :]
        where = settings[dotted].inner.get(rest[0] if rest else "", settings[dotted].where)
        if dotted == "data.own":  # users write it as the mapping `task`
            key = ".".join(["task", *rest])
    if kind == "missing":
        too_few = isinstance(value, list)
        return f"{where}: {dotted}: {value!r} has too few items" if too_few else f"{where}: key {key!r} is missing"
    if kind == "extra_forbidden":
        section = leaves.get(dotted or "")
        return f"{where}: key {key!r} is not known{did_you_mean(parts[-1], section.model_fields if section else ())}"
    if kind == "value_error":
        message = str(error.get("ctx", {}).get("error", error["msg"]))
        first = message.split()[0]  # rules about two settings start with the offending one
        where = settings[first].where if first in settings else where
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    number = (
        _yaml_number(value, kind == "int_type")
        if isinstance(value, str) and kind in ("float_type", "int_type")
        else None
    )
    if number is not None:
        return f"{where}: {key}: {value!r} is text to YAML; as a number it is {number}"
    part = leaves.get(key)
    mapping = f"must be a mapping such as {part.example}" if part and kind.startswith("model_") else None
    rule = mapping or _RULE_TEXTS.get(kind) or error["msg"].removeprefix("Input ").replace("should be", "must be")
    choices = error.get("ctx", {}).get("expected", "")
    hint = (
        did_you_mean(value, [c.strip("' ") for c in str(choices).replace(" or ", ",").split(",")])
        if isinstance(value, str)
        else ""
    )
    return f"{where}: {key}: {value!r} {rule}{hint}"


def _yaml_number(text: str, whole: bool) -> str | None:
    """Return the YAML spelling of a number that YAML 1.1 reads as a string, such as 2.0e-5 for "2e-5".

    None if `text` is not a number, or `whole` is set and it is not an integer.
    """
    if text.strip().isdecimal():
        return str(int(text))
    try:
        number = float(text)
    except ValueError:
        return None
    if whole:
        return str(int(number)) if number.is_integer() else None
    mantissa, _, exponent = f"{number:.15g}".partition("e")
    if not exponent:
        return repr(number)
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
