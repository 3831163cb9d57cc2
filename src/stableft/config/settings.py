"""Settings by dotted key, which keep their file and line for error messages until they become a `RunConfig`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from stableft.config.run_config import Checkpoint, ConfigSection, ExactlyOne, ReportSettings, RunConfig
from stableft.config.validation import describe_example, find_section, to_user_error
from stableft.config.yaml_file import YamlValue, look_up, parse_yaml
from stableft.errors import UserError, clip, did_you_mean, echo

Settings = dict[str, YamlValue]  # by dotted key of a leaf


Leaves = dict[str, type[ConfigSection] | None]
ConfigT = TypeVar("ConfigT", bound=ConfigSection)


def find_leaves(part: type[ConfigSection], prefix: str = "") -> Leaves:
    """Return the dotted keys of all leaves.

    A section that is only assigned as a whole is a leaf too and maps to its class; other leaves map to None.
    """
    found: Leaves = {}
    for name, field in part.model_fields.items():
        section = find_section(field.annotation)
        if section and not section.example:
            found |= find_leaves(section, f"{prefix}{name}.")
        else:
            found[prefix + name] = section
    return found


RUN_CONFIG_LEAVES = find_leaves(RunConfig)
REPORT_LEAVES = find_leaves(ReportSettings)  # change a report and no run
SETTING_LEAVES = RUN_CONFIG_LEAVES | REPORT_LEAVES


def list_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a nested run config by dotted key. `execution` is left out of a config with padded rows."""
    return {key: look_up(values, key) for key in RUN_CONFIG_LEAVES} | {"execution": values.get("execution") or "padded"}


# Settings determined by a sweep key: set directly, they would be overridden or would name different weights.
SWEEP_KEY_OF_SETTING = {
    "data.task": "task",
    "data.own": "task",
    "model.name": "model",
    "model.sha256": "model",
    "seeds.init": "seeds",
    "seeds.data": "seeds",
}


def collect_settings(written: YamlValue, key: str = "", leaves: Leaves = SETTING_LEAVES) -> Settings:
    """Return the settings in a mapping, whose keys may be nested, dotted, or both, or in the value of one dotted `key`.

    A section that takes exactly one of its keys may be given by that key: `schedule.length.epochs`.

    Raises:
        UserError: a key is unknown or set twice, or a section has no keys.
    """
    if key in leaves:
        return {key: written}
    parent, _, last = key.rpartition(".")
    section = leaves.get(parent)
    if section and issubclass(section, ExactlyOne) and last in section.model_fields:
        return {parent: YamlValue({last: written.value}, written.where)}
    check_setting_key(key, written.where, leaves)
    if not isinstance(written.value, dict):
        what = f"{key} is a section and needs keys" if key else "settings are keys with values"
        raise UserError(f"{written.where}: {what}, not {echo(written.value)}")
    settings: Settings = {}
    for name, value in written.items().items():
        add_settings(settings, collect_settings(value, f"{key}.{name}" if key else str(name), leaves))
    return settings


def add_settings(settings: Settings, more: Settings) -> None:
    """Add to `settings`; raise UserError if it has one of them."""
    if twice := next((key for key in more if key in settings), None):
        raise UserError(f"{more[twice].where}: {twice} is set a second time")
    settings |= more


def parse_set_options(sets: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the key and parsed value of each `--set KEY=VALUE` string.

    Raises:
        UserError: no equals sign, no value, a value that is not YAML, or a key for the second time.
    """
    keys = set[str]()
    for text in sets:
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals:
            raise UserError(f"--set {clip(text)}: must be KEY=VALUE")
        if key in keys:
            raise UserError(f"--set: {clip(key)} is set a second time")
        keys.add(key)
        value = parse_yaml(written, f"--set {clip(key)}").value
        if value is None and written.strip() != "null":  # an empty shell variable
            raise UserError(f"--set {clip(key)}=: a value is missing; write null if no value is meant")
        yield key, value


def reject_sweep_keys(settings: Settings, owners: Sequence[str] = ("task", "model", "seeds")) -> Settings:
    """Return `settings` unchanged after checking that no sweep key among `owners` determines any of them.

    Raises:
        UserError: a setting is determined by such a sweep key.
    """
    for key, setting in settings.items():
        if SWEEP_KEY_OF_SETTING.get(key) in owners:
            raise UserError(
                f"{setting.where}: {key} cannot be set here; use the sweep key {SWEEP_KEY_OF_SETTING[key]!r}"
            )
    return settings


def check_setting_key(dotted: str, where: str, leaves: Leaves = SETTING_LEAVES) -> None:
    """Raise UserError unless `dotted` is a leaf, or a section that contains leaves."""
    if dotted and dotted not in leaves and not any(leaf.startswith(dotted + ".") for leaf in leaves):
        parent = dotted.rpartition(".")[0]
        if section := leaves.get(parent):
            example = describe_example(parent, section, where)
            raise UserError(f"{where}: {dotted}: {parent} is set as a whole, such as {example}")
        names = {*leaves, *(leaf.rsplit(".", 1)[0] for leaf in leaves if "." in leaf)}
        short = {leaf.rsplit(".", 1)[-1]: leaf for leaf in leaves}  # lr for optimizer.lr
        close = f"; did you mean {short[dotted]!r}?" if dotted in short else did_you_mean(dotted, names)
        raise UserError(f"{where}: key {dotted!r} is not known{close}")


def describe_value(value: Any) -> str:
    """Return a setting's value for display, such as "3 epochs" for {epochs: 3} and "1 epoch" for {epochs: 1}."""
    if isinstance(value, dict):
        items = ((key.removesuffix("s") if item == 1 else key, item) for key, item in value.items())
        return ", ".join(f"{item} {key}" for key, item in items if item is not None)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def build_run_config(settings: Settings, where: str) -> RunConfig:
    """Return the normalized run config given by the settings; errors about missing keys point to `where`.

    Settings that change a report and no run are left out.

    Raises:
        UserError: a setting is missing or invalid; the message names file, line, key and rule.
    """
    settings = {key: setting for key, setting in settings.items() if key not in REPORT_LEAVES}
    return build_config_section(settings, where, RunConfig).normalized()


def find_reported_checkpoint(settings: Settings, where: str) -> Checkpoint:
    """Return the checkpoint that tables show according to the settings; raises like `build_run_config`."""
    settings = {key: setting for key, setting in settings.items() if key in REPORT_LEAVES}
    return build_config_section(settings, where, ReportSettings).evaluation.report


def build_config_section(settings: Settings, where: str, kind: type[ConfigT]) -> ConfigT:
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
        origins = {
            (*dotted.split("."), *path): origin
            for dotted, setting in settings.items()
            for path, origin in ({(): setting.where} | dict(setting.inner)).items()
        }
        raise to_user_error(error, kind, YamlValue(tree, where, origins)) from None
