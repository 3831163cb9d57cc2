"""Load a sweep file: expand arms, grids and seeds into planned runs."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from stableft.catalog.tasks import find_task
from stableft.config.command_arms import check_margin_scale, make_command_configs
from stableft.config.command_config import CommandConfig
from stableft.config.decide_rule import ClaimArm, DecideRule, check_rule, parse_rule
from stableft.config.local_files import (
    can_pack_by_default,
    config_name,
    find_config,
    locate_custom_task,
    locate_model,
    shipped_configs,
)
from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.recipe import load_recipe
from stableft.config.run_config import ModelConfig, RunConfig, Seeds
from stableft.config.settings import (
    REPORT_LEAVES,
    Settings,
    add_settings,
    build_run_config,
    collect_settings,
    describe_value,
    find_reported_checkpoint,
    list_values,
    parse_set_options,
    reject_sweep_keys,
)
from stableft.config.sweep_arms import (
    NO_RECIPES,
    START_ARM,
    Arm,
    missing_key,
    parse_arms,
    validate_written,
    written_values,
)
from stableft.config.sweep_keys import (
    MAX_RUNS,
    MAX_SETTINGS,
    EarlyStoppingRule,
    RequestedProbes,
    StartRun,
    SweepFile,
)
from stableft.config.validation import check_printed_name, describe_example
from stableft.config.yaml_file import YamlValue, load_yaml
from stableft.errors import UserError, clip, did_you_mean
from stableft.text import join_with

# Sweep keys that --set may override, and whether null turns one off. For the others, null means a forgotten value.
OVERRIDABLE_KEYS = {"task": False, "model": False, "stop_hopeless": True, "probes": True}
SECTION_KEYS = {"stop_hopeless": EarlyStoppingRule, "probes": RequestedProbes}  # those that are sections
NO_SWEEP_FOLDERS = ("recipes", "pretrain")  # of the shipped configs


@dataclass(frozen=True)
class SweepPoint:
    """The runs of an arm for one task, one model and one grid point: one per seed.

    `label` is the table's row, and `model_label` the part of it that tells the arm's models apart ("": it has one).
    """

    arm: Arm
    task: YamlValue
    model: YamlValue | None  # None: the recipe's model
    grid: Settings  # as overridden by --set
    settings: Settings  # everything set by the file, the grid point and --set
    label: str
    model_label: str
    runs: tuple[PlannedRun, ...]
    start_run: PlannedRun | None = None  # run that provides the initial weights, if this sweep trains it


@dataclass(frozen=True)
class Sweep:
    """An expanded sweep file. `name` is its path below configs, without the extension.

    `start_runs` are the runs trained by this sweep that provide initial weights for `runs`, without duplicates.
    `rules` maps run ids to early-stopping rules; runs without a rule are absent.
    """

    name: str
    path: Path
    runs: tuple[PlannedRun, ...]
    sources: LocalPaths
    points: tuple[SweepPoint, ...] = ()  # the same runs, grouped by arm, task, model and grid point
    start_runs: tuple[PlannedRun, ...] = ()
    rules: Mapping[str, EarlyStoppingRule] = field(default_factory=dict)
    decide: DecideRule | None = None  # how many seeds are enough; None: all of them
    arms_left_out: tuple[str, ...] = ()  # of the file's rule, by `--arms`, so that `decide` is None


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
    if isinstance(document.value, dict) and "vocabulary" in document.value:
        raise UserError(f"{path} is a pre-training config: `stableft pretrain {path}` runs it")
    settings, *overrides = _parse_options(sets, seeds)
    arms_in_file = parse_arms(document, *overrides)
    names = [arm.name for arm in arms_in_file]
    for name in arms:
        if name not in names:
            known = clip(", ".join(names))
            raise UserError(f"--arms: {path} has no arm {name!r}, it has {known}{did_you_mean(name, names)}")
    selected = [arm for arm in arms_in_file if not arms or arm.name in arms]
    rule = parse_rule(document)
    expand = partial(_expand_arms, config_name(path), path, selected, (Path.cwd(), path.parent), settings, sources)
    sweep = expand(rule)
    if rule and len(selected) < len(arms_in_file):
        here = {run.arm for run in sweep.runs}
        between = rule.between or [arm.name for arm in arms_in_file if arm not in selected]
        # A rule shares its alpha among the claims of all its arms, so without one of them there is no such rule.
        if left_out := [name for name in between if name not in here]:
            return replace(expand(None), arms_left_out=tuple(left_out))
    if rule:
        check_rule(rule, document, [_claim_arm(point) for point in sweep.points])
    return sweep


def single_run_sweep(
    recipe: str, task: str, model: str | None, seed: int, sources: LocalPaths, sets: Sequence[str] = ()
) -> Sweep:
    """Return a sweep of one run, for `stableft train`."""
    data = {"recipe": recipe, "task": task, "seeds": seed} | ({"model": model} if model else {})
    settings, *overrides = _parse_options(sets, None)
    arms = parse_arms(YamlValue(data, "train"), *overrides)
    return _expand_arms(arms[0].name, Path(arms[0].name), arms, (Path.cwd(),), settings, sources)


def _parse_options(sets: Sequence[str], seeds: str | None) -> tuple[Settings, YamlValue, YamlValue]:
    """Return the run settings given by `--set`, and the sweep keys given by `--set` and by `--seeds`."""
    settings: Settings = {}
    keys: dict[str, Any] = {}
    for key, value in parse_set_options(sets):
        if key in OVERRIDABLE_KEYS:
            if value is None and not OVERRIDABLE_KEYS[key]:
                raise UserError(f"--set {key}=: a value is missing")
            keys[key] = value
        elif key in SweepFile.model_fields:
            close = "--seeds" if key == "seeds" else "a setting such as optimizer.lr"
            raise UserError(f"--set {key}: a sweep's {key} cannot be set here; use {close}")
        elif (top := key.partition(".")[0]) in SECTION_KEYS:
            example = describe_example(top, SECTION_KEYS[top], "--set")
            raise UserError(f"--set: {key}: {top} is set as a whole, such as {example}")
        else:
            more = collect_settings(YamlValue(value, "--set"), key)
            add_settings(settings, reject_sweep_keys(more, tuple(OVERRIDABLE_KEYS)))
    return settings, YamlValue(keys, "--set"), YamlValue({} if seeds is None else {"seeds": seeds}, "--seeds")


def find_sweep_file(path: str | Path) -> Path:
    """Return the path of a sweep file, which may be a shipped one such as configs/rte.yaml or rte.

    Raises:
        UserError: no such file; the message suggests the closest name.
    """
    return find_config(path, "sweep file", lambda folder: folder not in NO_SWEEP_FOLDERS)


def shipped_sweeps() -> dict[str, Path]:
    """Return the paths of the shipped sweep files by name."""
    files = sorted(shipped_configs().rglob("*.yaml"), key=lambda file: (file.parent, file.name))
    return {config_name(file): file for file in files if file.parent.name not in NO_SWEEP_FOLDERS}


def load_sweep_from_options(
    config: str, data_dir: Path | None, sets: Sequence[str], arms: Sequence[str], seeds: str | None
) -> Sweep:
    """Return the sweep selected by command-line options."""
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    return load_sweep(config, LocalPaths(data_dir=data_dir), sets, arms, seeds)


def _expand_arms(
    name: str,
    path: Path,
    arms: Sequence[Arm],
    folders: tuple[Path, ...],  # searched for the files and folders named in the sweep
    overrides: Settings,
    sources: LocalPaths,
    rule: DecideRule | None = None,
) -> Sweep:
    _check_size(arms)
    paths = dict(sources.paths)
    if overrides and all(arm.keys.command for arm in arms):
        raise UserError(f"--set {next(iter(overrides))}: {NO_RECIPES}")
    points = [
        point
        for arm in arms
        for point in (
            [_expand_command(arm, path.parent.resolve(), rule)]
            if arm.keys.command
            else _expand_arm(arm, folders, overrides, paths, rule)
        )
    ]
    _check_rows(points)
    first: dict[str, SweepPoint] = {}
    for point in points:
        for run in point.runs:
            other = first.setdefault(run.run_id, point)
            if other is not point:
                _check_same_rule_and_probes(other, point)
    return Sweep(
        name,
        path,
        tuple(run for point in points for run in point.runs),
        replace(sources, paths=paths, folder=path.parent.resolve()),
        tuple(points),
        tuple({point.start_run.run_id: point.start_run for point in points if point.start_run}.values()),
        {run_id: stop for run_id, point in first.items() if (stop := point.arm.keys.stop_hopeless)},
        rule,
    )


def _claim_arm(point: SweepPoint) -> ClaimArm:
    arm, run = point.arm, point.runs[0]
    stops_early = arm.keys.stop_hopeless is not None
    return ClaimArm(run.arm, run.config, run.report, len(point.runs), stops_early, arm.where, arm.written)


def _check_size(arms: Sequence[Arm]) -> None:
    """Raise UserError if the arms together have too many settings or runs."""
    n_settings = n_runs = 0
    for arm in arms:
        factors = {
            "seeds": arm.keys.seeds.count if arm.keys.seeds else 1,
            "tasks": len(written_values(arm.written["task"])),
            "models": len(written_values(arm.written["model"])) or 1,
            "grid points": math.prod(map(len, (arm.keys.grid or {}).values())),
        }
        seeds, *others = factors.values()
        n_settings += math.prod(others)
        n_runs += seeds * math.prod(others)
        product = " x ".join(f"{factor:,} {name}" for name, factor in factors.items() if factor > 1) or "one run"
        for n, most, what in ((n_settings, MAX_SETTINGS, "settings apart from seeds"), (n_runs, MAX_RUNS, "runs")):
            if n > most:
                raise UserError(
                    f"{arm.where}: arm {arm.name!r} has {product}; with it the sweep has {n:,} {what}, and "
                    f"{most:,} are the most"
                )


def _check_same_rule_and_probes(one: SweepPoint, other: SweepPoint) -> None:
    """Raise UserError if two points with a run in common ask for different ways to execute or to judge it."""
    first, second = one.arm.keys, other.arm.keys
    if isinstance(one.runs[0].config, CommandConfig):
        a, b = (p.runs[0].config.model_dump(exclude={"seeds": True, "data": {"seed_inputs"}}) for p in (one, other))
        if differing := join_with([key for key in a if a[key] != b[key]]):
            raise UserError(
                f"{other.arm.where}: arms {one.label!r} and {other.label!r} are one command, but differ in "
                f"{differing.replace('data', 'task')}; give both the same"
            )
    for key, differs, of_second in (
        ("stop_hopeless", first.stop_hopeless != second.stop_hopeless, second.stop_hopeless),
        ("probes", first.in_loop_probes != second.in_loop_probes, second.in_loop_probes),
    ):
        if differs:
            where = (other if of_second else one).arm.written[key].where
            raise UserError(
                f"{where}: arms {one.label!r} and {other.label!r} ask for the same run with different {key}; "
                "give both the same"
            )


def _check_rows(points: Sequence[SweepPoint]) -> None:
    """Raise UserError if different settings would share a table's cell, arms its row, or data sets its column."""
    rows: dict[str, SweepPoint] = {}
    cells: dict[tuple[str, str], SweepPoint] = {}
    columns: dict[str, SweepPoint] = {}
    for point in points:
        config = point.runs[0].config
        task = config.data.task
        other = columns.setdefault(task, point)
        if (own := config.data.own) and (theirs := other.runs[0].config.data.own) and own != theirs:
            differing = ", ".join(key for key, value in own if value != getattr(theirs, key))
            raise UserError(
                f"{point.task.where}: task {task!r} of arm {point.arm.name!r} differs from that of arm "
                f"{other.arm.name!r} in {differing}; give it another name"
            )
        of_row, of_cell = rows.setdefault(point.label, point), cells.setdefault((point.label, task), point)
        if of_cell is not point or of_row.arm.name != point.arm.name:
            other = of_cell if of_cell is not point else of_row
            raise UserError(
                f"{point.arm.where}: arms {other.arm.name!r} and {point.arm.name!r} would both be printed as "
                f"{point.label!r}, {_describe_difference(other.runs[0].config, config)}; rename one of them"
            )


def _describe_difference(one: RunConfig | CommandConfig, other: RunConfig | CommandConfig) -> str:
    """Return how two configs differ, seeds aside: at most three settings with both values."""
    if isinstance(one, CommandConfig) or isinstance(other, CommandConfig):
        return "but are not one command" if one.setting_id() != other.setting_id() else "and are one command"
    a, b = list_values(one.model_dump()), list_values(other.model_dump())
    keys = [key for key in a if a[key] != b[key] and not key.startswith("seeds.")]
    values = [[clip(describe_value(values[key])) for values in (a, b)] for key in keys[:3]]
    shown = [f"{key} ({first} and {second})" for key, (first, second) in zip(keys, values, strict=False)]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"but differ in {', '.join(shown)}{more}" if keys else "and are one setting"


def _expand_command(arm: Arm, folder: Path, rule: DecideRule | None) -> SweepPoint:
    """Return the runs of an arm that is a command, which has no models and no grid."""
    check_printed_name(arm.name, f"{arm.where}: name")
    check_margin_scale(arm.name, arm.keys, arm.written, rule)
    configs = make_command_configs(arm.keys, arm.written, arm.where, folder)
    runs = tuple(PlannedRun(arm.name, arm.recipe, config, "last", decide=rule) for config in configs)
    return SweepPoint(arm, arm.written["task"], None, {}, {}, arm.name, "", runs)


def _expand_arm(
    arm: Arm, folders: tuple[Path, ...], overrides: Settings, paths: dict[str, Path], rule: DecideRule | None
) -> Iterator[SweepPoint]:
    """Yield the points of an arm, without those that would only repeat the runs of an earlier one."""
    where, seeds_where = arm.written["recipe"].where, arm.written["seeds"].where
    recipe = load_recipe(arm.recipe, folders, where)
    tasks = written_values(arm.written["task"])
    models = written_values(arm.written["model"]) or [None]
    if not tasks:
        raise missing_key("task", arm.written)
    if arm.keys.seeds is None:
        raise missing_key("seeds", arm.written)
    expanded: dict[tuple[str, ...], tuple[Any, ...]] = {}  # by the runs that a point shows, and how
    for task, model, point in itertools.product(tasks, models, _grid_points(arm)):
        task_settings = _task_settings(task, folders, paths)
        base = recipe.for_task(task_settings["data.task"].value) | arm.settings
        settings = base | task_settings | _model_settings(model, base, folders, paths) | point
        execution = _default_execution(settings | overrides, paths)
        resolved, start_run = _resolve_start_from(settings | overrides | execution, folders, paths)
        # Built once, with the largest seeds, because only the seeds of its runs differ.
        pairs = arm.keys.seeds.pairs
        largest = {
            f"seeds.{name}": YamlValue(max(numbers), seeds_where)
            for name, numbers in zip(("init", "data"), zip(*pairs, strict=True), strict=True)
        }
        config = build_run_config(settings | largest | overrides | execution | resolved, where)
        pinned = {name: getattr(config.seeds, name) for name in ("init", "data") if f"seeds.{name}" in overrides}
        configs = [
            config.model_copy(update={"seeds": Seeds(**{"init": init, "data": data} | pinned)}) for init, data in pairs
        ]
        report = find_reported_checkpoint(settings | overrides, where)
        shown = (configs[0].run_id, configs[0].data.task)
        expanded.setdefault(shown, (task, model, point, configs, report, start_run))
    model_labels = _model_labels([configs[0].model for *_, configs, _, _ in expanded.values()], paths)
    for task, model, point, configs, report, start_run in expanded.values():
        model_label = model_labels[configs[0].model.identity] if len(model_labels) > 1 else ""
        point = point | {key: setting for key, setting in overrides.items() if key in point}
        label = " ".join(filter(None, (arm.name, grid_label(point), model_label and f"({model_label})")))
        probes = arm.keys.in_loop_probes
        runs = tuple(PlannedRun(label, recipe.name, config, report, probes=probes, decide=rule) for config in configs)
        set_here = arm.settings | point | overrides
        yield SweepPoint(arm, task, model, point, set_here, label, model_label, runs, start_run)


def _model_labels(models: Sequence[ModelConfig], paths: Mapping[str, Path]) -> dict[tuple[str | None, ...], str]:
    """Return the shortest labels that tell models apart, by identity, with more of the path or with the revision."""
    names: dict[tuple[str | None, ...], list[str]] = {}
    for model in models:
        folder = paths[model.sha256].parts if model.sha256 else ()
        longer = ["/".join(folder[-n:]) for n in range(2, len(folder))] or [f"{model.name}@{model.revision}"]
        names.setdefault(model.identity, [model.name, *longer])
    counts = Counter(name for candidates in names.values() for name in dict.fromkeys(candidates))
    return {
        identity: next((name for name in candidates if counts[name] == 1), candidates[-1])
        for identity, candidates in names.items()
    }


def _grid_points(arm: Arm) -> list[Settings]:
    """Return the settings of each grid point of the arm; without a grid, one point with no settings."""
    axes = []
    written = arm.written["grid"].items() if arm.keys.grid else {}
    for key in written:
        axis = written[key]
        axes.append([reject_sweep_keys(collect_settings(value, str(key))) for value in axis.items().values()])
        if report := next((name for point in axes[-1] for name in point if name in REPORT_LEAVES), None):
            raise UserError(
                f"{axis.where}: grid: {report} changes no run, so it cannot be searched; `set` gives it to an arm"
            )
    points = []
    for parts in itertools.product(*axes):
        point: Settings = {}
        for part in parts:
            add_settings(point, part)
        points.append(point)
    return points


def grid_label(point: Settings) -> str:
    """Return the label of a grid point in tables, such as "lr=2e-05, length=3 epochs"; "" without a grid."""
    counts = Counter(key.rsplit(".", 1)[-1] for key in point)
    names = {key: last if counts[last := key.rsplit(".", 1)[-1]] == 1 else key for key in point}
    return ", ".join(f"{names[key]}={_value_label(key, setting.value)}" for key, setting in point.items())


def _value_label(key: str, value: Any) -> str:
    if key != "start_from" or not isinstance(value, dict):
        return describe_value(value)
    if "run" in value:
        return f"run {value['run']}"
    task = value.get("task")
    name = task.get("name") if isinstance(task, dict) else task
    changes = ", set " + json.dumps(value["set"]) if value.get("set") else ""
    return f"{value.get('recipe')} on {name}, seed {value.get('seed')}{changes}"


def _resolve_start_from(
    settings: Settings, folders: tuple[Path, ...], paths: dict[str, Path]
) -> tuple[Settings, PlannedRun | None]:
    """Return the setting for a described `start_from` with the id of its run, and that run.

    Nothing and None if `start_from` does not describe a run. The run takes its model and `execution` from `settings`
    and everything else from its recipe and its own `set`, so it is the run that `stableft train` would do.

    Raises:
        UserError: `start_from` is malformed, or its run would itself start from another run.
    """
    start = settings.get("start_from")
    if start is None or not isinstance(start.value, dict) or "run" in start.value:
        return {}, None
    described = validate_written(StartRun, start, ("start_from",))
    task = _task_settings(start.item("task"), folders, paths)
    recipe = load_recipe(described.recipe, folders, start.locate(("recipe",)))
    changes = reject_sweep_keys(collect_settings(start.item("set"))) if described.set else {}
    model = {key: settings[key] for key in ("model.name", "model.revision", "model.sha256") if key in settings}
    seeds = {key: start.item("seed") for key in ("seeds.init", "seeds.data")}
    execution = {"execution": settings["execution"]} if "execution" in settings else {}
    run_settings = recipe.for_task(task["data.task"].value) | execution | changes | task | model | seeds
    if (chained := run_settings.get("start_from")) and chained.value is not None:
        raise UserError(
            f"{start.where}: start_from: the run of {recipe.name!r} on {task['data.task'].value!r} would start from "
            "another one itself; train it first, and name it here as {run: ..., checkpoint: ...}"
        )
    report = find_reported_checkpoint(run_settings, start.where)
    run = PlannedRun(START_ARM, recipe.name, build_run_config(run_settings, start.where), report)
    value = {"run": run.run_id, "checkpoint": report}
    return {"start_from": YamlValue(value, start.where)}, run


def _default_execution(settings: Settings, paths: Mapping[str, Path]) -> Settings:
    """Return `execution: packed` if the settings leave it open and the model is known to allow it, else nothing."""
    given = (settings.get(key) for key in ("execution", "data.pad_to_max"))
    name, sha256 = settings.get("model.name"), settings.get("model.sha256")
    if name is None or any(setting is not None and setting.value for setting in given):
        return {}
    folder = paths[sha256.value] if sha256 else None
    return {"execution": YamlValue("packed", name.where)} if can_pack_by_default(name.value, folder) else {}


def _task_settings(task: YamlValue, folders: tuple[Path, ...], paths: dict[str, Path]) -> Settings:
    if isinstance(task.value, dict):
        name, own, files = locate_custom_task(task, (*folders, shipped_configs()))
        paths.update(files)
        return {"data.task": YamlValue(name, task.where), "data.own": YamlValue(own, task.where, task.inner)}
    try:
        return {"data.task": YamlValue(find_task(str(task.value)).name, task.where)}
    except UserError as error:
        raise UserError(f"{task.where}: {error}") from None


def _model_settings(
    model: YamlValue | None, base: Settings, folders: tuple[Path, ...], paths: dict[str, Path]
) -> Settings:
    model = model or base.get("model.name")
    if model is None:
        return {}
    values, folder = locate_model(model.value, (*folders, shipped_configs()), model.where)
    if folder is not None:
        paths[values["sha256"]] = folder
    elif "@" not in model.value and "model.revision" in base:
        del values["revision"]
    return {f"model.{key}": YamlValue(value, model.where) for key, value in values.items()}
