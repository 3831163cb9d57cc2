"""From a pre-training config to its `PretrainConfig`: paths become hashes, a model's values are completed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stableft.catalog.model_families import find_backbone
from stableft.config.local_files import config_name, file_digest, find_config, find_file, folder_digest, locate_model
from stableft.config.planned_run import Sources
from stableft.config.run_config import PretrainConfig
from stableft.config.settings import (
    Leaves,
    Setting,
    Settings,
    build_part,
    given_values,
    leaves_of,
    settings_at,
    settings_from,
)
from stableft.config.yaml_file import Document, load_yaml
from stableft.errors import UserError
from stableft.pretrain.corpus import text_digest, text_files, vocabulary_of
from stableft.pretrain.masked_lm import complete_model, model_keys

TOYLANG = "toylang"
MASKED = ("bert", "roberta", "albert", "electra")  # families whose masked-language models the tests look at


@dataclass(frozen=True)
class Pretraining:
    """A pre-training to be done, and the name of its config file."""

    name: str
    config: PretrainConfig
    sources: Sources


def load_pretraining(path: str | Path, sources: Sources, sets: Sequence[str] = ()) -> Pretraining:
    """Returns what a config file asks for; `sets` are KEY=VALUE texts that win over it.

    Raises:
        UserError: the file cannot be used, or what it names.
    """
    path = find_config(path, "pre-training config", lambda folder: folder == "pretrain", "pretrain")
    document = load_yaml(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: a pre-training config is a mapping with keys such as text and model")
    if not document.data.keys().isdisjoint(("arms", "task", "recipe")):
        raise UserError(f"{path} is a sweep file: `stableft sweep {path}` runs it")
    given = dict(given_values(sets))
    family = _family(document, given, path)
    leaves = _leaves(family)
    settings = settings_from(document, leaves=leaves)
    for key, value in given.items():
        settings |= settings_at(key, value, "--set", leaves)
    paths = dict(sources.paths)
    for key in ("text", "vocabulary"):
        settings |= _origin(key, settings, (Path.cwd(), path.parent), paths, path)
    settings |= _start(settings, (Path.cwd(), path.parent), paths)
    config = _build(family, settings, leaves, document, paths)
    return Pretraining(config_name(path), config.normalized(), replace(sources, paths=paths))


def _leaves(family: str) -> Leaves:
    leaves = leaves_of(PretrainConfig)
    del leaves["model"]
    return leaves | {f"model.{key}": None for key in model_keys(family)}


def _family(document: Document, given: dict[str, Any], path: Path) -> str:
    """Returns the family of models, which must be known first: it says which keys `model` has."""
    where = "--set" if "family" in given else document.where(("family",))
    family = given.get("family", document.data.get("family"))
    if family is None:
        raise UserError(f"{path}: key 'family' is missing")
    try:
        name = find_backbone(str(family), config_name(path)).name
    except UserError as error:
        raise UserError(f"{where}: family: {error}") from None
    if name not in MASKED:
        raise UserError(
            f"{where}: family: {name} is not pre-trained by masking tokens; stableft pre-trains {', '.join(MASKED)}"
        )
    return name


def _origin(key: str, settings: Settings, folders: tuple[Path, ...], paths: dict[str, Path], config: Path) -> Settings:
    """Returns the setting of `text` or `vocabulary` with what its path stands for, which is added to `paths`."""
    if key not in settings:
        raise UserError(f"{config}: key {key!r} is missing")
    name, where, _ = settings[key]
    if name == TOYLANG:
        return {key: Setting({"name": TOYLANG}, where)}
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: {key}: {name!r} must be {TOYLANG} or the path of a file or folder")
    path = find_file(name, folders)
    if path is None:
        raise UserError(f"{where}: {key}: there is no file or folder {name!r}; --set {key}=PATH gives another")
    path = path.resolve()
    if key == "text":
        if not text_files(path):
            raise UserError(f"{where}: text: folder {name!r} holds no files")
        digest = text_digest(path)
    elif path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"{where}: vocabulary: folder {name!r} has no tokenizer.json")
        digest = folder_digest(path)
    else:
        digest = file_digest(path)
    paths[digest] = path
    return {key: Setting({"name": path.name, "sha256": digest}, where)}


def _start(settings: Settings, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    """Returns the setting of `start_from` with what its folder stands for, which is added to `paths`."""
    given = settings.get("start_from")
    if given is None or given.value is None:
        return {}
    values, folder = locate_model(given.value, folders, f"{given.where}: start_from")
    if folder is None:
        raise UserError(f"{given.where}: start_from: {given.value!r} is not a folder")
    paths[values["sha256"]] = folder
    return {"start_from": Setting(values, given.where)}


def _build(
    family: str, settings: Settings, leaves: Leaves, document: Document, paths: dict[str, Path]
) -> PretrainConfig:
    """Returns the config with all values of its model, after a look at whether they, vocabulary and rows fit."""
    written = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    checked = build_part(settings | {"model": Setting({}, "")}, document.path, PretrainConfig, leaves)
    try:
        tokenizer = vocabulary_of(checked, paths)
    except UserError as error:
        raise UserError(f"{settings['vocabulary'].where}: {error}") from None
    where = document.where(("model",))
    model = complete_model(family, written, tokenizer, checked.attention, where)
    positions = model["max_position_embeddings"] - find_backbone(family, family).lost_positions
    if checked.max_length > positions:
        raise UserError(
            f"{settings['max_length'].where}: max_length: {checked.max_length} is more than the {positions} positions "
            f"of the model (model.max_position_embeddings)"
        )
    return checked.model_copy(update={"model": model})
