"""Load a pre-training config: paths become hashes, model values are completed and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stableft.catalog.model_families import find_backbone
from stableft.config.local_files import (
    config_name,
    file_digest,
    find_config,
    find_file,
    locate_model,
    model_folder_digest,
)
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import PretrainConfig
from stableft.config.settings import (
    Leaves,
    Settings,
    add_settings,
    build_config_section,
    collect_settings,
    find_leaves,
    parse_set_options,
)
from stableft.config.yaml_file import YamlValue, load_yaml
from stableft.errors import UserError, echo
from stableft.pretrain.corpus import list_text_files, load_pretraining_tokenizer, text_digest
from stableft.pretrain.masked_lm import complete_model_config, model_config_keys

TOYLANG = "toylang"
MASKED_LM_FAMILIES = ("bert", "roberta", "albert", "electra")  # families whose masked-language models are tested


@dataclass(frozen=True)
class PlannedPretraining:
    """A pre-training run to do. `name` is that of its config file."""

    name: str
    config: PretrainConfig
    sources: LocalPaths


def load_pretraining(path: str | Path, sources: LocalPaths, sets: Sequence[str] = ()) -> PlannedPretraining:
    """Return the pre-training run that a config file describes; `sets` are KEY=VALUE strings that override it.

    Raises:
        UserError: the config, or a file that it names, cannot be used.
    """
    path = find_config(path, "pre-training config", lambda folder: folder == "pretrain", "pretrain")
    document = load_yaml(path)
    if not isinstance(document.value, dict):
        raise UserError(f"{path}: a pre-training config is a mapping with keys such as text and model")
    if not document.value.keys().isdisjoint(("arms", "task", "recipe")):
        raise UserError(f"{path} is a sweep file: `stableft sweep {path}` runs it")
    overrides = dict(parse_set_options(sets))
    family = _find_family(document, overrides, path)
    leaves = _config_leaves(family)
    by_option: Settings = {}
    for key, value in overrides.items():
        add_settings(by_option, collect_settings(YamlValue(value, "--set"), key, leaves))
    settings = collect_settings(document, leaves=leaves) | by_option
    paths = dict(sources.paths)
    for key in ("text", "vocabulary"):
        settings |= _locate_origin(key, settings, (Path.cwd(), path.parent), paths, path)
    settings |= _locate_start(settings, (Path.cwd(), path.parent), paths)
    config = _build_config(family, settings, document.locate(("model",)), path, paths)
    return PlannedPretraining(config_name(path), config.normalized(), replace(sources, paths=paths))


def _config_leaves(family: str) -> Leaves:
    leaves = find_leaves(PretrainConfig)
    del leaves["model"]
    return leaves | {f"model.{key}": None for key in model_config_keys(family)}


def _find_family(document: YamlValue, overrides: dict[str, Any], path: Path) -> str:
    """Return the model family, which determines the keys of `model`."""
    where = "--set" if "family" in overrides else document.locate(("family",))
    family = overrides.get("family", document.value.get("family"))
    if family is None:
        raise UserError(f"{path}: key 'family' is missing")
    try:
        name = find_backbone(str(family), config_name(path)).name
    except UserError as error:
        raise UserError(f"{where}: family: {error}") from None
    if name not in MASKED_LM_FAMILIES:
        raise UserError(
            f"{where}: family: {name} is not pre-trained by masking tokens; stableft pre-trains "
            f"{', '.join(MASKED_LM_FAMILIES)}"
        )
    return name


def _locate_origin(
    key: str, settings: Settings, folders: tuple[Path, ...], paths: dict[str, Path], config: Path
) -> Settings:
    """Return the setting of `text` or `vocabulary` with its path resolved to a hash, which is added to `paths`."""
    if key not in settings:
        raise UserError(f"{config}: key {key!r} is missing")
    name, where, _ = settings[key]
    if name == TOYLANG:
        return {key: YamlValue({"name": TOYLANG}, where)}
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: {key}: {echo(name)} must be {TOYLANG} or the path of a file or folder")
    path = find_file(name, folders)
    if path is None:
        raise UserError(f"{where}: {key}: there is no file or folder {name!r}; --set {key}=PATH gives another")
    path = path.resolve()
    if key == "text":
        if not list_text_files(path):
            raise UserError(f"{where}: text: folder {name!r} holds no files")
        digest = text_digest(path)
    elif path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"{where}: vocabulary: folder {name!r} has no tokenizer.json")
        digest = model_folder_digest(path)
    else:
        digest = file_digest(path)
    paths[digest] = path
    return {key: YamlValue({"name": path.name, "sha256": digest}, where)}


def _locate_start(settings: Settings, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    """Return the setting of `start_from` with its folder resolved to a hash, which is added to `paths`."""
    start = settings.get("start_from")
    if start is None or start.value is None:
        return {}
    values, folder = locate_model(start.value, folders, f"{start.where}: start_from")
    if folder is None:
        raise UserError(f"{start.where}: start_from: {echo(start.value)} is not a folder")
    paths[values["sha256"]] = folder
    return {"start_from": YamlValue(values, start.where)}


def _build_config(family: str, settings: Settings, where: str, path: Path, paths: dict[str, Path]) -> PretrainConfig:
    """Return the config with all values of its model, after checking that model, vocabulary and rows fit together."""
    written = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    checked = build_config_section(settings | {"model": YamlValue({}, "")}, str(path), PretrainConfig)
    try:
        tokenizer = load_pretraining_tokenizer(checked, paths)
    except UserError as error:
        raise UserError(f"{settings['vocabulary'].where}: {error}") from None
    model = complete_model_config(family, written, tokenizer, checked.attention, where)
    positions = model["max_position_embeddings"] - find_backbone(family, family).lost_positions
    if checked.max_length > positions:
        raise UserError(
            f"{settings['max_length'].where}: max_length: {checked.max_length} is more than the {positions} positions "
            f"of the model (model.max_position_embeddings)"
        )
    return checked.model_copy(update={"model": model})
