"""Load a sweep file: expand arms, grids and seeds into planned runs."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stableft.catalog.tasks import find_task
from stableft.config.local_files import config_name, find_config, locate_custom_task, locate_model, shipped_configs
from stableft.config.planned_run import NO_PROBES, InLoopProbes, LocalPaths, PlannedRun
from stableft.config.recipe import load_recipe
from stableft.config.settings import (
    Setting,
    Settings,
    build_run_config,
    collect_settings,
    describe_value,
    parse_set_options,
    reject_sweep_keys,
    settings_of_key,
)
from stableft.config.yaml_file import KeyPath, YamlDocument, load_yaml
from stableft.errors import UserError, did_you_mean

EARLY_STOPPING_KEY = "stop_hopeless"

PROBES_KEY = "probes"
OVERRIDABLE_KEYS = ("task", "model", EARLY_STOPPING_KEY, PROBES_KEY)  # sweep keys that --set may override
START_RUN_KEYS = ("recipe", "task", "seed", "set")  # keys of a `start_from` that describes a run
START_ARM = "(start)"  # arm of the runs trained only to provide initial weights for others


@dataclass(frozen=True)
class Arm:
    """An arm of a sweep file before expansion, with the location of each key."""

    name: str
    document: YamlDocument
    keys: dict[str, KeyPath]  # sweep key -> its path in the document

    def get(self, key: str) -> Any:
        value: Any = self.document.data
        for part in self.keys.get(key, ()):
            value = value[part]
        return value if key in self.keys else None

    def where(self, key: str) -> str:
        return self.document.where(self.keys.get(key, ()))


@dataclass(frozen=True)
class EarlyStoppingRule:
    """Early-stop the lowest-scoring fraction `lowest` of the runs after the fraction `after` of their steps."""

    after: float
    lowest: float


@dataclass(frozen=True)
class SweepPoint:
    """The runs of an arm for one task, one model and one grid point: one per seed."""

    arm: Arm
    task: Setting
    model: Setting | None  # None: the recipe's model
    grid: Settings
    settings: Settings  # everything set by the file, the grid point and --set
    runs: tuple[PlannedRun, ...]
    parent: PlannedRun | None = None  # run that provides the initial weights, if this sweep trains it
    rule: EarlyStoppingRule | None = None


@dataclass(frozen=True)
class Sweep:
    """An expanded sweep file. `name` is its path below configs, without the extension.

    `parents` are the runs trained by this sweep that provide initial weights for `runs`, without duplicates.
    `rules` maps run ids to early-stopping rules; runs without a rule are absent.
    """

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    sources: LocalPaths
    points: tuple[SweepPoint, ...] = ()  # the same runs, grouped by arm, task, model and grid point
    parents: tuple[PlannedRun, ...] = ()
    rules: Mapping[str, EarlyStoppingRule] = field(default_factory=dict)


def load_sweep(
    path: str | Path,
    sources: LocalPaths,
    sets: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: str | None = None,
) -> Sweep:
    """Return the expanded sweep, with runs ordered by arm, task, model, grid point and seed.

    `sets` are KEY=VALUE strings that override everything in the file. `arms` selects arms (empty: all). `seeds`
    replaces the seeds in the file.
    """
    path = find_sweep_file(path)
    document = load_yaml(path)
    if isinstance(document.data, dict) and "vocabulary" in document.data:
        raise UserError(f"{path} is a pre-training config: `stableft pretrain {path}` runs it")
    given, overrides = _parse_set_texts(sets)
    everything = parse_arms(document, overrides)
    for name in arms:
        if name not in {arm.name for arm in everything}:
            raise UserError(f"--arms: {path} has no arm {name!r}{did_you_mean(name, [arm.name for arm in everything])}")
    folders = (Path.cwd(), path.parent)
    paths = dict(sources.paths)
    points: list[SweepPoint] = []
    for arm in everything:
        if not arms or arm.name in arms:
            points += _expand_arm(arm, folders, given, overrides, seeds, paths)
    return _build_sweep(config_name(path), path, points, replace(sources, paths=paths))


def single_run_sweep(
    recipe: str, task: str, model: str | None, seed: int, sources: LocalPaths, sets: Sequence[str] = ()
) -> Sweep:
    """Return a sweep of one run, for `stableft train`."""
    data = {"recipe": recipe, "task": task, "seeds": seed} | ({"model": model} if model else {})
    arm = parse_arms(YamlDocument("train", data, {}))[0]
    given, overrides = _parse_set_texts(sets)
    paths = dict(sources.paths)
    points = tuple(_expand_arm(arm, (Path.cwd(),), given, overrides, None, paths))
    return _build_sweep(arm.name, Path(arm.name), points, replace(sources, paths=paths))


def _build_sweep(name: str, path: Path, points: Sequence[SweepPoint], sources: LocalPaths) -> Sweep:
    first: dict[str, tuple[PlannedRun, EarlyStoppingRule | None]] = {}
    for point in points:
        for run in point.runs:
            other, rule = first.setdefault(run.run_id, (run, point.rule))
            for key, differs in ((EARLY_STOPPING_KEY, rule != point.rule), (PROBES_KEY, other.probes != run.probes)):
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


def find_sweep_file(path: str | Path) -> Path:
    """Return the path of a sweep file, which may be a shipped one such as configs/rte.yaml or rte.

    Raises:
        UserError: no such file; the message suggests the closest name.
    """
    return find_config(path, "sweep file", lambda folder: folder not in ("recipes", "pretrain"))


def _parse_set_texts(sets: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """Return the run settings and the overridden sweep keys (`OVERRIDABLE_KEYS`) given by `--set` strings."""
    settings: Settings = {}
    overrides: dict[str, Any] = {}
    for key, parsed in parse_set_options(sets):
        if key in OVERRIDABLE_KEYS:
            if parsed is None and key not in (EARLY_STOPPING_KEY, PROBES_KEY):  # for these two, null means "off"
                raise UserError(f"--set {key}=: a value is missing")
            overrides[key] = parsed
            continue
        if key in TOP_KEYS:
            close = "--seeds" if key == "seeds" else "a setting such as optimizer.lr"
            raise UserError(f"--set {key}: a sweep's {key} cannot be set here; use {close}")
        settings |= reject_sweep_keys(settings_of_key(key, parsed, "--set"), (*OVERRIDABLE_KEYS,))
    return settings, overrides


def _expand_arm(
    arm: Arm,
    folders: tuple[Path, ...],  # searched for the files and folders named in the sweep
    given: Settings,
    overrides: dict[str, Any],
    seeds: str | None,
    paths: dict[str, Path],
) -> Iterator[SweepPoint]:
    recipe = load_recipe(recipe_name(arm.document, arm.keys), folders, arm.where("recipe"))
    own = arm_settings(arm)
    tasks = list(values_of_key(arm, "task", overrides))
    models = list(values_of_key(arm, "model", overrides)) or [None]
    if not tasks:
        raise UserError(f"{arm.where('task')}: key 'task' is missing")
    points = grid_points(arm)
    rule = parse_early_stopping_rule(
        overrides.get(EARLY_STOPPING_KEY, arm.get(EARLY_STOPPING_KEY)),
        "--set" if EARLY_STOPPING_KEY in overrides else arm.where(EARLY_STOPPING_KEY),
    )
    probes = parse_in_loop_probes(
        overrides.get(PROBES_KEY, arm.get(PROBES_KEY)), "--set" if PROBES_KEY in overrides else arm.where(PROBES_KEY)
    )
    pairs = parse_seeds(seeds, "--seeds") if seeds is not None else parse_seeds(arm.get("seeds"), arm.where("seeds"))
    for task, model, point in itertools.product(tasks, models, points):
        named = _task_settings(task, folders, paths)
        base = recipe.for_task(named["data.task"].value) | own
        settings = base | named | _model_settings(model, base, folders, paths)
        given_last, parent = _resolve_start_from(settings | point | given, given, folders, paths)
        label = grid_label(point)
        runs = []
        for init, data in pairs:
            drawn = {"seeds.init": Setting(init, arm.where("seeds")), "seeds.data": Setting(data, arm.where("seeds"))}
            config = build_run_config(settings | point | drawn | given_last, arm.where("recipe"))
            name = f"{arm.name} {label}".strip() + (f" ({config.model.name})" if len(models) > 1 else "")
            runs.append(PlannedRun(name, recipe.name, config, probes=probes))
        yield SweepPoint(arm, task, model, point, own | point | given, tuple(runs), parent, rule)


def grid_label(point: Settings) -> str:
    """Return the label of a grid point in tables, such as "lr=2e-05, length=3 epochs"; "" without a grid."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={_value_label(key, s.value)}" for key, s in point.items())


def _value_label(key: str, value: Any) -> str:
    if key != "start_from" or not isinstance(value, dict):
        return describe_value(value)
    if "run" in value:
        return f"run {value['run']}"
    task = value.get("task")
    name = task.get("name") if isinstance(task, dict) else task
    own = ", set " + json.dumps(value["set"]) if value.get("set") else ""
    return f"{value.get('recipe')} on {name}, seed {value.get('seed')}{own}"


def _resolve_start_from(
    settings: Settings, given: Settings, folders: tuple[Path, ...], paths: dict[str, Path]
) -> tuple[Settings, PlannedRun | None]:
    """Return `given` with a described `start_from` replaced by a run id, and the run itself.

    The run is None if `start_from` is unset or already names a run id. Otherwise it takes its model from `settings`
    and everything else from its recipe and its own `set`, so it is the run that `stableft train` would do.

    Raises:
        UserError: `start_from` is malformed, or its run would itself start from another run.
    """
    start = settings.get("start_from")
    if start is None or start.value is None or (isinstance(start.value, dict) and "run" in start.value):
        return given, None
    wanted, where = start.value, start.where
    for key in wanted if isinstance(wanted, dict) else ():
        if key not in START_RUN_KEYS:
            raise UserError(f"{where}: start_from: key {key!r} is not known{did_you_mean(key, START_RUN_KEYS)}")
    if not isinstance(wanted, dict) or not {"recipe", "task", "seed"} <= set(wanted):
        raise UserError(
            f"{where}: start_from must be {{recipe: ..., task: ..., seed: ...}}, {{run: ..., checkpoint: ...}} or "
            f"null, not {wanted!r}"
        )
    given_set = wanted.get("set")
    own = reject_sweep_keys(collect_settings(YamlDocument(where, {} if given_set is None else given_set, {})))
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
    parent = PlannedRun(START_ARM, recipe.name, build_run_config(whole, where))
    value = {"run": parent.run_id, "checkpoint": parent.config.evaluation.report}
    return given | {"start_from": Setting(value, where)}, parent


def _task_settings(task: Setting, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    if isinstance(task.value, dict):
        name, own, files = locate_custom_task(task.value, folders, task.where, task.inner)
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


ARM_KEYS = ("name", "recipe", "task", "model", "set", "grid", "seeds", "stop_hopeless", "probes")
TOP_KEYS = ("arms", *ARM_KEYS[1:])


def parse_arms(document: YamlDocument, overrides: Mapping[str, Any] = MappingProxyType({})) -> list[Arm]:
    """Return the arms of a sweep file; a file without the key `arms` is a single arm.

    Arms of the same recipe may share a name if their tasks differ, because a table row may need different settings
    in different columns. `overrides` are the sweep keys given by `--set`.

    Raises:
        UserError: unknown key, missing recipe, or duplicate arm name.
    """
    top = document.data
    if not isinstance(top, dict):
        raise UserError(f"{document.path}: a sweep file is a mapping with a recipe or arms, a task and seeds")
    _check_keys(document, (), TOP_KEYS)
    listed = top.get("arms", [{}])
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{document.where(('arms',))}: arms must be a list of at least one arm")
    arms: list[Arm] = []
    for i, arm in enumerate(listed):
        if not isinstance(arm, dict):
            raise UserError(
                f"{document.where(('arms', i))}: an arm is a mapping such as {{recipe: devlin}}, not {arm!r}"
            )
        if "arms" in top:
            _check_keys(document, ("arms", i), ARM_KEYS)
        keys: dict[str, KeyPath] = {key: (key,) for key in top if key not in ("arms", "set")}
        keys |= {key: ("arms", i, key) for key in arm}
        given = arm.get("name")
        if given is not None and (not isinstance(given, str) or not given):
            raise UserError(f"{document.where(('arms', i, 'name'))}: name: {given!r} must be text; quotes make it so")
        name = given or Path(recipe_name(document, keys)).stem
        arms.append(Arm(name, document, keys))
        _check_arm_name(arms, overrides, document.where(("arms", i)))
    return arms


def _check_arm_name(arms: list[Arm], overrides: Mapping[str, Any], where: str) -> None:
    """Raise UserError if the last arm would be indistinguishable from an earlier one in a table."""
    *others, arm = arms
    for other in others:
        if other.name != arm.name:
            continue
        shared = [task for task in _task_names(arm, overrides) if task in _task_names(other, overrides)]
        if shared:
            raise UserError(f"{where}: arm {arm.name!r} stands twice for task {shared[0]!r}; give one another name")
        if recipe_name(arm.document, arm.keys) != recipe_name(other.document, other.keys):
            raise UserError(f"{where}: arm {arm.name!r} stands twice with different recipes; give one another name")


def _task_names(arm: Arm, overrides: Mapping[str, Any]) -> list[str]:
    value = overrides.get("task", arm.get("task"))
    tasks = value if isinstance(value, list) else [value]
    return [str(task.get("name") if isinstance(task, dict) else task) for task in tasks if task is not None]


def recipe_name(document: YamlDocument, keys: dict[str, KeyPath]) -> str:
    """Return the recipe name of an arm with these keys.

    Raises:
        UserError: the recipe is missing or not a non-empty string.
    """
    arm = Arm("", document, keys)
    recipe = arm.get("recipe")
    if recipe is None:
        raise UserError(f"{arm.where('recipe')}: key 'recipe' is missing")
    if not isinstance(recipe, str) or not recipe:
        raise UserError(f"{arm.where('recipe')}: recipe: {recipe!r} must be the name of one recipe")
    return recipe


def arm_settings(arm: Arm) -> Settings:
    """Return the settings of this arm: the top-level `set`, overridden by the arm's own.

    Raises:
        UserError: unknown setting, or one determined by a sweep key such as `task`.
    """
    settings: Settings = {}
    if "set" in arm.document.data:
        settings |= reject_sweep_keys(collect_settings(arm.document, ("set",)))
    if "set" in arm.keys:
        settings |= reject_sweep_keys(collect_settings(arm.document, arm.keys["set"]))
    return settings


def values_of_key(arm: Arm, key: str, overrides: dict[str, Any]) -> Iterator[Setting]:
    """Yield the value or values of `task` or `model`; `--set` takes precedence over the file.

    Raises:
        UserError: the list is empty or has duplicates.
    """
    value, where = (overrides[key], "--set") if key in overrides else (arm.get(key), arm.where(key))
    if value == []:
        raise UserError(f"{where}: {key}: the list is empty")
    listed = isinstance(value, list)
    for i, item in enumerate(_check_unique(value, where, key) if listed else [value]):
        at = (*arm.keys.get(key, (key,)), *((i,) if listed else ()))
        if item is not None and key in overrides:
            yield Setting(item, where)
        elif item is not None:
            inner = {name: arm.document.where((*at, name)) for name in item} if isinstance(item, dict) else {}
            yield Setting(item, arm.document.where(at), inner)


def grid_points(arm: Arm) -> list[Settings]:
    """Return the settings of each grid point of the arm; without a grid, one point with no settings.

    Raises:
        UserError: the grid is not a mapping of run settings to non-empty lists of distinct values.
    """
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
        axes.append(
            [reject_sweep_keys(settings_of_key(key, value, where)) for value in _check_unique(values, where, key)]
        )
    return [dict(itertools.chain(*(part.items() for part in point))) for point in itertools.product(*axes)]


def _check_unique(values: list, where: str, key: str) -> list:
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise UserError(f"{where}: {key}: {describe_value(value)} stands twice")
        seen.add(repr(value))
    return values


def _check_keys(document: YamlDocument, key: KeyPath, allowed: tuple[str, ...]) -> None:
    value: Any = document.data
    for part in key:
        value = value[part]
    for name in value:
        if name not in allowed:
            raise UserError(f"{document.where((*key, name))}: key {name!r} is not known{did_you_mean(name, allowed)}")


MAX_SEEDS = 10_000  # more is probably a typo, and 1-10000000000 would exhaust memory


def parse_seeds(value: Any, where: str) -> list[tuple[int, int]]:
    """Return ordered (init, data) seed pairs.

    For 5, "1-25", "1,2,7" or a list, both seeds of a pair are equal. {init: 0-9, data: 0-9, crossed: true} gives
    every combination (Z App. B); without `crossed`, the two lists are zipped.

    Raises:
        UserError: invalid format, duplicate seeds, more than `MAX_SEEDS`, or zipped lists of unequal length.
    """
    if value is None:
        raise UserError(f"{where}: key 'seeds' is missing")
    if not isinstance(value, dict):
        return [(seed, seed) for seed in _parse_seed_numbers(value, where)]
    unknown = set(value) - {"init", "data", "crossed"}
    if unknown or not {"init", "data"} <= set(value) or not isinstance(value.get("crossed", False), bool):
        raise UserError(f"{where}: seeds: a mapping has init, data and, as true or false, crossed; not {value!r}")
    init, data = _parse_seed_numbers(value["init"], where), _parse_seed_numbers(value["data"], where)
    if value.get("crossed"):
        return list(itertools.product(init, data))
    if len(init) != len(data):
        raise UserError(
            f"{where}: seeds: {len(init)} init and {len(data)} data seeds cannot be paired; use crossed: true"
        )
    return list(zip(init, data, strict=True))


def _parse_seed_numbers(value: Any, where: str) -> list[int]:
    parts = value if isinstance(value, list) else str(value).split(",")
    seeds: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{where}: seeds: {value!r} must be like 5, 1-25 or 1,2,7, of whole numbers from 0")
        if last and int(last) < int(first):
            raise UserError(f"{where}: seeds: {part!r} runs backwards")
        more = range(int(first), int(last or first) + 1)
        if len(seeds) + (more.stop - more.start) > MAX_SEEDS:
            raise UserError(f"{where}: seeds: {value!r} are more than {MAX_SEEDS} seeds")
        seeds += more
    if not seeds:
        raise UserError(f"{where}: seeds: there is none in {value!r}")
    twice = next((seed for seed, count in Counter(seeds).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{where}: seeds: {twice} stands twice in {value!r}")
    return seeds


def load_sweep_from_options(config: str, data_dir: Path | None, sets: list[str], arms: str, seeds: str | None) -> Sweep:
    """Return the sweep selected by command-line options; `arms` is a comma-separated list."""
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    chosen = [name.strip() for name in arms.split(",") if name.strip()]
    return load_sweep(config, LocalPaths(data_dir=data_dir), sets, chosen, seeds)


def parse_early_stopping_rule(value: Any, where: str) -> EarlyStoppingRule | None:
    """Return the early-stopping rule given by `stop_hopeless`; None for null.

    Raises:
        UserError: not a mapping of `after` and `lowest` to fractions strictly between 0 and 1.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"after", "lowest"}:
        raise UserError(f"{where}: stop_hopeless must be {{after: 0.3, lowest: 0.5}}, two shares, not {value!r}")
    for key, share in value.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"{where}: stop_hopeless: {key}: {share!r} must be a share between 0 and 1")
    return EarlyStoppingRule(value["after"], value["lowest"])


def describe_early_stopping_rule(after: float, lowest: float) -> str:
    """Return a one-line description of an early-stopping rule."""
    return f"the lowest {100 * lowest:g} % by validation score after {100 * after:g} % of the steps"


PROBE_NAMES = tuple(field.name for field in fields(InLoopProbes))
PROBES_EXAMPLE = "{grad_norms: {every: 10}, drift: {every: 10}}, or one of the two"


def parse_in_loop_probes(value: Any, where: str) -> InLoopProbes:
    """Return the in-loop probes given by the sweep key `probes`; `NO_PROBES` for null.

    Raises:
        UserError: not a mapping of probe names to {every: N}, with N at least 1 optimizer step.
    """
    if value is None:
        return NO_PROBES
    if not isinstance(value, dict):
        raise UserError(f"{where}: probes must be {PROBES_EXAMPLE}, not {value!r}")
    every: dict[str, int] = {}
    for name, given in value.items():
        if name not in PROBE_NAMES:
            raise UserError(
                f"{where}: probes: {name!r} is not known{did_you_mean(str(name), PROBE_NAMES)}; there are "
                f"{', '.join(PROBE_NAMES)}"
            )
        if given is None:
            continue
        if not isinstance(given, dict) or set(given) != {"every"}:
            raise UserError(f"{where}: probes: {name} must be {{every: 10}}, in optimizer steps, not {given!r}")
        steps = given["every"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"{where}: probes: {name}: every: {steps!r} must be a whole number of steps from 1")
        every[name] = steps
    return InLoopProbes(**every)
