"""From a sweep file to its runs: arms, recipes, settings, grids and seeds (merged in that order)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stableft.config import RunConfig
from stableft.errors import UserError, nearest
from stableft.locate import find_file, locate_model, locate_own_task, shipped_configs
from stableft.plan import PlannedRun, Sources
from stableft.seedlist import parse_seeds
from stableft.settings import Setting, Settings, build_config, settings_at, settings_from
from stableft.tasks import find_task
from stableft.yamlfile import Document, Key, load_yaml, parse_yaml

ARM_KEYS = ("name", "recipe", "task", "model", "set", "grid", "seeds")
TOP_KEYS = ("arms", *ARM_KEYS[1:])
OVERRIDES = ("task", "model")  # sweep keys that --set may give too
OWNERS = {  # settings that a sweep key makes: written as a setting they would be overruled, or name other weights
    "data.task": "task",
    "data.own": "task",
    "model.name": "model",
    "model.sha256": "model",
    "seeds.init": "seeds",
    "seeds.data": "seeds",
}


@dataclass(frozen=True)
class Sweep:
    """A sweep file, expanded. `name` is its path below configs without the ending."""

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    sources: Sources


@dataclass(frozen=True)
class _Arm:
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
    everything = _arms(document)
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
    return Sweep(_sweep_name(path), path, tuple(runs), replace(sources, paths=paths))


def single_run(
    recipe: str, task: str, model: str | None, seed: int, sources: Sources, sets: Sequence[str] = ()
) -> Sweep:
    """Returns a sweep of one run, as `stableft train` asks for it.

    Raises:
        UserError: a name or setting cannot be used.
    """
    data = {"recipe": recipe, "task": task, "seeds": seed} | ({"model": model} if model else {})
    arm = _arms(Document("stableft train", data, {}))[0]
    given, overrides = _command_line(sets)
    paths = dict(sources.paths)
    runs = tuple(_expand(arm, (Path.cwd(),), given, overrides, None, paths))
    return Sweep(arm.name, Path(arm.name), runs, replace(sources, paths=paths))


def find_sweep(path: str | Path) -> Path:
    """Returns the sweep file, which may be one of the package's own, such as configs/rte.yaml or rte.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    own = shipped_configs()
    name = str(path).removeprefix("configs/")
    for candidate in (Path(path), own / name, own / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    names = [f"configs/{file.relative_to(own)}" for file in own.rglob("*.yaml") if file.parent.name != "recipes"]
    raise UserError(f"{path}: there is no such sweep file{nearest(str(path), names)}")


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
    for key in settings:
        theirs, ours = _lookup(reference, key), _lookup(actual, key)
        if key == "model.name" and config.model.name != settings[key].value:
            found.append(f"model {config.model.name}, not {settings[key].value}")
        elif theirs != ours:
            found.append(f"{key} {describe(ours)}, not {describe(theirs)}")
    return found


def describe(value: Any) -> str:
    """Returns a setting's value as one writes it: "3 epochs" for {epochs: 3}."""
    if isinstance(value, dict):
        return ", ".join(f"{item} {key}" for key, item in value.items() if item is not None)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _with_identity(settings: Settings, config: RunConfig) -> RunConfig:
    here = {
        "data.task": config.data.task,
        "data.own": config.data.own and config.data.own.model_dump(mode="json"),
        "model.name": config.model.name,
        "model.revision": config.model.revision,
        "model.sha256": config.model.sha256,
        "seeds.init": config.seeds.init,
        "seeds.data": config.seeds.data,
    }
    return build_config(settings | {key: Setting(value, "") for key, value in here.items()}, "")


def _lookup(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part] if tree else None
    return tree


def _sweep_name(path: Path) -> str:
    own = shipped_configs()
    root = own if path.resolve().is_relative_to(own.resolve()) else path.parent
    return str(path.resolve().relative_to(root.resolve()).with_suffix(""))


def _arms(document: Document) -> list[_Arm]:
    top = document.data
    if not isinstance(top, dict):
        raise UserError(f"{document.path}: a sweep file is a mapping with a recipe or arms, a task and seeds")
    _check_keys(document, (), TOP_KEYS)
    listed = top.get("arms", [{}])
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{document.where(('arms',))}: arms must be a list of at least one arm")
    arms: list[_Arm] = []
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
        name = given or Path(_recipe_name(document, keys)).stem
        if name in {other.name for other in arms}:
            raise UserError(f"{document.where(('arms', i))}: arm {name!r} stands twice; give one another name")
        arms.append(_Arm(name, document, keys))
    return arms


def _recipe_name(document: Document, keys: dict[str, Key]) -> str:
    arm = _Arm("", document, keys)
    recipe = arm.get("recipe")
    if recipe is None:
        raise UserError(f"{arm.where('recipe')}: key 'recipe' is missing")
    if not isinstance(recipe, str) or not recipe:
        raise UserError(f"{arm.where('recipe')}: recipe: {recipe!r} must be the name of one recipe")
    return recipe


def _check_keys(document: Document, key: Key, allowed: tuple[str, ...]) -> None:
    value: Any = document.data
    for part in key:
        value = value[part]
    for name in value:
        if name not in allowed:
            raise UserError(f"{document.where((*key, name))}: key {name!r} is not known{nearest(name, allowed)}")


def _command_line(sets: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """Returns the settings, and the sweep keys task and model, of `--set` texts."""
    settings: Settings = {}
    overrides: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: must be KEY=VALUE")
        parsed = parse_yaml(value, f"--set {key}").data
        if key in OVERRIDES:
            if parsed is None:
                raise UserError(f"--set {text}: a value is missing")
            overrides[key] = parsed
            continue
        if key in TOP_KEYS:
            close = "--seeds" if key == "seeds" else "a setting such as optimizer.lr"
            raise UserError(f"--set {key}: a sweep's {key} cannot be set here; use {close}")
        settings |= _unowned(settings_at(key, parsed, "--set"), (*OVERRIDES,))
    return settings, overrides


def _unowned(settings: Settings, owners: Sequence[str] = ("task", "model", "seeds")) -> Settings:
    for key, setting in settings.items():
        if OWNERS.get(key) in owners:
            raise UserError(f"{setting.where}: {key} cannot be set here: the key {OWNERS[key]!r} of a sweep gives it")
    return settings


def _expand(
    arm: _Arm,
    folders: tuple[Path, ...],  # where files and folders that the user names are looked for
    given: Settings,
    overrides: dict[str, Any],
    seeds: str | None,
    paths: dict[str, Path],
) -> Iterator[PlannedRun]:
    recipe, base = load_recipe(_recipe_name(arm.document, arm.keys), folders, arm.where("recipe"))
    if "set" in arm.document.data:
        base = base | _unowned(settings_from(arm.document, ("set",)))
    if "set" in arm.keys:
        base = base | _unowned(settings_from(arm.document, arm.keys["set"]))
    tasks = list(_each(arm, "task", overrides))
    models = list(_each(arm, "model", overrides)) or [None]
    if not tasks:
        raise UserError(f"{arm.where('task')}: key 'task' is missing")
    points = _grid(arm)
    pairs = parse_seeds(seeds, "--seeds") if seeds is not None else parse_seeds(arm.get("seeds"), arm.where("seeds"))
    for task, model, point, (init, data) in itertools.product(tasks, models, points, pairs):
        settings = base | _task_settings(task, folders, paths) | _model_settings(model, base, folders, paths)
        drawn = {"seeds.init": Setting(init, arm.where("seeds")), "seeds.data": Setting(data, arm.where("seeds"))}
        config = build_config(settings | point | drawn | given, arm.where("recipe"))
        label = ", ".join(f"{key.rsplit('.', 1)[-1]}={describe(s.value)}" for key, s in point.items())
        name = f"{arm.name} {label}".strip() + (f" ({config.model.name})" if len(models) > 1 else "")
        yield PlannedRun(name, recipe, config)


def _each(arm: _Arm, key: str, overrides: dict[str, Any]) -> Iterator[Setting]:
    value, where = (overrides[key], "--set") if key in overrides else (arm.get(key), arm.where(key))
    if value == []:
        raise UserError(f"{where}: {key}: the list is empty")
    for item in _once(value, where, key) if isinstance(value, list) else [value]:
        if item is not None:
            yield Setting(item, where)


def _grid(arm: _Arm) -> list[Settings]:
    """Returns the settings of every point of the arm's grid; without one, a single point without settings."""
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
        axes.append([_unowned(settings_at(key, value, where)) for value in _once(values, where, key)])
    return [dict(itertools.chain(*(part.items() for part in point))) for point in itertools.product(*axes)]


def _once(values: list, where: str, key: str) -> list:
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise UserError(f"{where}: {key}: {describe(value)} stands twice")
        seen.add(repr(value))
    return values


def _task_settings(task: Setting, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    if isinstance(task.value, dict):
        name, own, files = locate_own_task(task.value, folders, task.where)
        paths.update(files)
        return {"data.task": Setting(name, task.where), "data.own": Setting(own, task.where)}
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
