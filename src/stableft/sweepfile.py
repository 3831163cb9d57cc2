"""From a sweep file to its runs: recipe, settings, grid point, seed and --set, merged in that order."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stableft.arms import TOP_KEYS, Arm, arm_settings, grid_points, parse_arms, recipe_name, values_of
from stableft.errors import UserError, nearest
from stableft.hopeless import Rule, parse_rule
from stableft.locate import config_name, find_config, locate_model, locate_own_task, shipped_configs
from stableft.plan import PlannedRun, Sources
from stableft.probing import KEY, parse_probes
from stableft.recipe import load_recipe
from stableft.seedlist import parse_seeds
from stableft.settings import (
    Setting,
    Settings,
    build_config,
    describe,
    given_values,
    settings_at,
    settings_from,
    unowned,
)
from stableft.tasks import find_task
from stableft.yamlfile import Document, load_yaml

RULE = "stop_hopeless"
OVERRIDES = ("task", "model", RULE, KEY)  # sweep keys that --set may give too
PARENT_KEYS = ("recipe", "task", "seed", "set")  # of a `start_from` that describes a run
START = "(start)"  # the arm of runs that are trained because others start from them


@dataclass(frozen=True)
class Point:
    """What an arm asks for at one task, one model and one point of its grid: a run for each seed."""

    arm: Arm
    task: Setting
    model: Setting | None  # None: the recipe's own
    grid: Settings
    settings: Settings  # all that the file, the grid point and --set say
    runs: tuple[PlannedRun, ...]
    parent: PlannedRun | None = None  # the run that they start from, if the sweep trains it
    rule: Rule | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep file, expanded. `name` is its path below configs without the ending.

    `parents` are the runs that others of `runs` start from, as far as the sweep trains them, each once; `rules` maps
    the run ids to which a rule about hopeless runs applies.
    """

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    sources: Sources
    points: tuple[Point, ...] = ()  # the same runs, by where they come from
    parents: tuple[PlannedRun, ...] = ()
    rules: Mapping[str, Rule] = field(default_factory=dict)


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
    given, overrides = _command_line(sets)
    everything = parse_arms(document, overrides)
    for name in arms:
        if name not in {arm.name for arm in everything}:
            raise UserError(f"--arms: {path} has no arm {name!r}{nearest(name, [arm.name for arm in everything])}")
    folders = (Path.cwd(), path.parent)
    paths = dict(sources.paths)
    points: list[Point] = []
    for arm in everything:
        if not arms or arm.name in arms:
            points += _expand(arm, folders, given, overrides, seeds, paths)
    return _sweep(config_name(path), path, points, replace(sources, paths=paths))


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
    points = tuple(_expand(arm, (Path.cwd(),), given, overrides, None, paths))
    return _sweep(arm.name, Path(arm.name), points, replace(sources, paths=paths))


def _sweep(name: str, path: Path, points: Sequence[Point], sources: Sources) -> Sweep:
    first: dict[str, tuple[PlannedRun, Rule | None]] = {}
    for point in points:
        for run in point.runs:
            other, rule = first.setdefault(run.run_id, (run, point.rule))
            for key, differs in ((RULE, rule != point.rule), (KEY, other.probes != run.probes)):
                if differs:
                    raise UserError(
                        f"{path}: arms {other.arm!r} and {run.arm!r} ask for the same run with different {key}; "
                        "give both the same"
                    )
    return Sweep(
        name,
        path,
        tuple(run for point in points for run in point.runs),
        sources,
        tuple(points),
        tuple({point.parent.run_id: point.parent for point in points if point.parent}.values()),
        {run_id: rule for run_id, (_, rule) in first.items() if rule},
    )


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
            if parsed is None and key not in (RULE, KEY):  # there null means none
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
) -> Iterator[Point]:
    recipe = load_recipe(recipe_name(arm.document, arm.keys), folders, arm.where("recipe"))
    own = arm_settings(arm)
    tasks = list(values_of(arm, "task", overrides))
    models = list(values_of(arm, "model", overrides)) or [None]
    if not tasks:
        raise UserError(f"{arm.where('task')}: key 'task' is missing")
    points = grid_points(arm)
    rule = parse_rule(overrides.get(RULE, arm.get(RULE)), "--set" if RULE in overrides else arm.where(RULE))
    probes = parse_probes(overrides.get(KEY, arm.get(KEY)), "--set" if KEY in overrides else arm.where(KEY))
    pairs = parse_seeds(seeds, "--seeds") if seeds is not None else parse_seeds(arm.get("seeds"), arm.where("seeds"))
    for task, model, point in itertools.product(tasks, models, points):
        named = _task_settings(task, folders, paths)
        base = recipe.for_task(named["data.task"].value) | own
        settings = base | named | _model_settings(model, base, folders, paths)
        given_last, parent = _with_parent(settings | point | given, given, folders, paths)
        label = grid_label(point)
        runs = []
        for init, data in pairs:
            drawn = {"seeds.init": Setting(init, arm.where("seeds")), "seeds.data": Setting(data, arm.where("seeds"))}
            config = build_config(settings | point | drawn | given_last, arm.where("recipe"))
            name = f"{arm.name} {label}".strip() + (f" ({config.model.name})" if len(models) > 1 else "")
            runs.append(PlannedRun(name, recipe.name, config, probes=probes))
        yield Point(arm, task, model, point, own | point | given, tuple(runs), parent, rule)


def grid_label(point: Settings) -> str:
    """Returns a grid point as tables name it, such as "lr=2e-05, length=3 epochs"; "" without a grid."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={_value_label(key, s.value)}" for key, s in point.items())


def _value_label(key: str, value: Any) -> str:
    if key != "start_from" or not isinstance(value, dict):
        return describe(value)
    if "run" in value:
        return f"run {value['run']}"
    task = value.get("task")
    name = task.get("name") if isinstance(task, dict) else task
    own = ", set " + json.dumps(value["set"]) if value.get("set") else ""
    return f"{value.get('recipe')} on {name}, seed {value.get('seed')}{own}"


def _with_parent(
    settings: Settings, given: Settings, folders: tuple[Path, ...], paths: dict[str, Path]
) -> tuple[Settings, PlannedRun | None]:
    """Returns `given` with the run id in place of a `start_from` that describes a run, and that run.

    It has the model of these `settings`, and for the rest what its recipe and its own `set` say: it is what
    `stableft train` would do.

    Raises:
        UserError: it describes no run, or one that starts from another itself.
    """
    start = settings.get("start_from")
    if start is None or start.value is None or (isinstance(start.value, dict) and "run" in start.value):
        return given, None
    wanted, where = start.value, start.where
    for key in wanted if isinstance(wanted, dict) else ():
        if key not in PARENT_KEYS:
            raise UserError(f"{where}: start_from: key {key!r} is not known{nearest(key, PARENT_KEYS)}")
    if not isinstance(wanted, dict) or not {"recipe", "task", "seed"} <= set(wanted):
        raise UserError(
            f"{where}: start_from must be {{recipe: ..., task: ..., seed: ...}}, {{run: ..., checkpoint: ...}} or "
            f"null, not {wanted!r}"
        )
    given_set = wanted.get("set")
    own = unowned(settings_from(Document(where, {} if given_set is None else given_set, {})))
    task = _task_settings(Setting(wanted["task"], where), folders, paths)
    recipe = load_recipe(str(wanted["recipe"]), folders, where)
    seed = wanted["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"{where}: start_from: seed: {seed!r} must be one whole number from 0")
    model = {key: settings[key] for key in ("model.name", "model.revision", "model.sha256") if key in settings}
    drawn = {key: Setting(seed, where) for key in ("seeds.init", "seeds.data")}
    whole = recipe.for_task(task["data.task"].value) | own | task | model | drawn
    if (chained := whole.get("start_from")) and chained.value is not None:
        raise UserError(
            f"{where}: start_from: the run of {recipe.name!r} on {task['data.task'].value!r} would start from another "
            "one itself; train it first, and name it here as {run: ..., checkpoint: ...}"
        )
    parent = PlannedRun(START, recipe.name, build_config(whole, where))
    value = {"run": parent.run_id, "checkpoint": parent.config.evaluation.report}
    return given | {"start_from": Setting(value, where)}, parent


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
    values, folder = locate_model(model.value, (*folders, shipped_configs()), model.where)
    if folder is not None:
        paths[values["sha256"]] = folder
    elif "@" not in model.value and "model.revision" in base:
        del values["revision"]
    return {f"model.{key}": Setting(value, model.where) for key, value in values.items()}
