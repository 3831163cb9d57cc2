"""From a sweep file to its runs: recipe, settings, grid point, seed and --set, merged in that order."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stableft.arms import TOP_KEYS, Arm, arm_settings, grid_points, parse_arms, recipe_name, unowned, values_of
from stableft.errors import UserError, nearest
from stableft.locate import config_name, find_config, locate_model, locate_own_task
from stableft.plan import PlannedRun, Sources
from stableft.recipe import load_recipe
from stableft.seedlist import parse_seeds
from stableft.settings import Setting, Settings, build_config, describe, given_values, settings_at
from stableft.tasks import find_task
from stableft.yamlfile import Document, load_yaml

OVERRIDES = ("task", "model")  # sweep keys that --set may give too


@dataclass(frozen=True)
class Sweep:
    """A sweep file, expanded. `name` is its path below configs without the ending."""

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    sources: Sources


def load_sweep(
    path: str | Path,
    sources: Sources,
    sets: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: str | None = None,
) -> Sweep:
    """Returns the runs of a sweep file in its order: arm, task, model, grid point, seed.

    `sets` are KEY=VALUE texts that win over everything in the file; `arms` and `seeds` select.

    Raises:
        UserError: the file or a choice cannot be used.
    """
    path = find_sweep(path)
    document = load_yaml(path)
    if isinstance(document.data, dict) and "vocabulary" in document.data:
        raise UserError(f"{path} is a pre-training config: `stableft pretrain {path}` runs it")
    everything = parse_arms(document)
    for name in arms:
        if name not in {arm.name for arm in everything}:
            raise UserError(f"--arms: {path} has no arm {name!r}{nearest(name, [arm.name for arm in everything])}")
    given, overrides = _command_line(sets)
    folders = (Path.cwd(), path.parent)
    paths = dict(sources.paths)
    runs: list[PlannedRun] = []
    for arm in everything:
        if not arms or arm.name in arms:
            runs += _expand(arm, folders, given, overrides, seeds, paths)
    return Sweep(config_name(path), path, tuple(runs), replace(sources, paths=paths))


def single_run(
    recipe: str, task: str, model: str | None, seed: int, sources: Sources, sets: Sequence[str] = ()
) -> Sweep:
    """Returns a sweep of one run, as `stableft train` asks for it.

    Raises:
        UserError: a name or setting cannot be used.
    """
    data = {"recipe": recipe, "task": task, "seeds": seed} | ({"model": model} if model else {})
    arm = parse_arms(Document("train", data, {}))[0]
    given, overrides = _command_line(sets)
    paths = dict(sources.paths)
    runs = tuple(_expand(arm, (Path.cwd(),), given, overrides, None, paths))
    return Sweep(arm.name, Path(arm.name), runs, replace(sources, paths=paths))


def find_sweep(path: str | Path) -> Path:
    """Returns the sweep file, which may be one of the package's own, such as configs/rte.yaml or rte.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    return find_config(path, "sweep file", lambda folder: folder not in ("recipes", "pretrain"))


def _command_line(sets: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """Returns the settings, and the sweep keys task and model, of `--set` texts."""
    settings: Settings = {}
    overrides: dict[str, Any] = {}
    for key, parsed in given_values(sets):
        if key in OVERRIDES:
            if parsed is None:
                raise UserError(f"--set {key}=: a value is missing")
            overrides[key] = parsed
            continue
        if key in TOP_KEYS:
            close = "--seeds" if key == "seeds" else "a setting such as optimizer.lr"
            raise UserError(f"--set {key}: a sweep's {key} cannot be set here; use {close}")
        settings |= unowned(settings_at(key, parsed, "--set"), (*OVERRIDES,))
    return settings, overrides


def _expand(
    arm: Arm,
    folders: tuple[Path, ...],  # where files and folders that the user names are looked for
    given: Settings,
    overrides: dict[str, Any],
    seeds: str | None,
    paths: dict[str, Path],
) -> Iterator[PlannedRun]:
    recipe, base = load_recipe(recipe_name(arm.document, arm.keys), folders, arm.where("recipe"))
    base = base | arm_settings(arm)
    tasks = list(values_of(arm, "task", overrides))
    models = list(values_of(arm, "model", overrides)) or [None]
    if not tasks:
        raise UserError(f"{arm.where('task')}: key 'task' is missing")
    points = grid_points(arm)
    pairs = parse_seeds(seeds, "--seeds") if seeds is not None else parse_seeds(arm.get("seeds"), arm.where("seeds"))
    for task, model, point, (init, data) in itertools.product(tasks, models, points, pairs):
        settings = base | _task_settings(task, folders, paths) | _model_settings(model, base, folders, paths)
        drawn = {"seeds.init": Setting(init, arm.where("seeds")), "seeds.data": Setting(data, arm.where("seeds"))}
        config = build_config(settings | point | drawn | given, arm.where("recipe"))
        label = ", ".join(f"{key.rsplit('.', 1)[-1]}={describe(s.value)}" for key, s in point.items())
        name = f"{arm.name} {label}".strip() + (f" ({config.model.name})" if len(models) > 1 else "")
        yield PlannedRun(name, recipe, config)


def _task_settings(task: Setting, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    if isinstance(task.value, dict):
        name, own, files = locate_own_task(task.value, folders, task.where, task.inner)
        paths.update(files)
        return {"data.task": Setting(name, task.where), "data.own": Setting(own, task.where, task.inner)}
    try:
        return {"data.task": Setting(find_task(str(task.value)).name, task.where)}
    except UserError as error:
        raise UserError(f"{task.where}: {error}") from None


def _model_settings(
    model: Setting | None, base: Settings, folders: tuple[Path, ...], paths: dict[str, Path]
) -> Settings:
    model = model or base.get("model.name")
    if model is None:
        return {}
    values, folder = locate_model(model.value, folders, model.where)
    if folder is not None:
        paths[values["sha256"]] = folder
    elif "@" not in model.value and "model.revision" in base:
        del values["revision"]
    return {f"model.{key}": Setting(value, model.where) for key, value in values.items()}
