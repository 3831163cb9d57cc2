"""What the arms of a report are: the settings that they share and those in which they differ, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import ArmTask
from stableft.config.recipe import load_recipe, shipped_recipes
from stableft.config.settings import RUN_CONFIG_LEAVES, describe_value, list_values
from stableft.report.runs import ArtifactRuns
from stableft.text import join_with

ArmSettings = Mapping[str, Any]  # dotted setting -> value


def _describe_number(value: float) -> str:
    """Return 0.1 as it is and 0.00113 as 1.13e-3."""
    if value >= 0.01 or not value:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _describe_length(length: Mapping[str, int | None]) -> str:
    (unit, number), *_ = ((unit, number) for unit, number in length.items() if number)
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def _describe_reinit(parts: tuple[bool | None, int | None, bool | None]) -> str:
    embeddings, n, pooler = parts
    blocks = f"top {n} block{'s' * (n > 1)}" if n else ""
    drawn = [part for part in ("embeddings" if embeddings else "", blocks, "pooler" if pooler else "") if part]
    return f"{join_with(drawn)} drawn anew" if drawn else "all pre-trained weights kept"


def describe_execution(how: str) -> str:
    """Return a noun phrase on a value of `execution`."""
    return "packed rows with fused blocks" if how == "fused" else f"{how} rows"


# Named in every report: of all arms if they share them, otherwise of each.
MAIN_SETTINGS: dict[str, Callable[[Any], str]] = {
    "model.name": str,
    "data.train_rows": lambda rows: f"{rows:,} training rows" if rows else "all training rows",
    "optimizer.bias_correction": lambda corrected: "bias correction" if corrected else "no bias correction",
    "schedule.length": _describe_length,
    "schedule.batch_size": lambda size: f"batch {size}",
    "optimizer.lr": lambda rate: f"learning rate {_describe_number(rate)}",
}
# Named where the arms differ in them. All others are then named by their keys.
OTHER_SETTINGS: dict[str, Callable[[Any], str]] = {
    "reinit": _describe_reinit,
    "mixout.p": lambda p: f"Mixout {_describe_number(p)}" if p else "no Mixout",
    "optimizer.llrd": lambda decay: f"LLRD {_describe_number(decay)}" if decay else "no LLRD",
    "start_from": lambda start: "weights of an earlier run" if start else "pre-trained weights",
    "optimizer.weight_decay": lambda decay: f"weight decay {_describe_number(decay)}" if decay else "no weight decay",
    "optimizer.decay_towards": lambda to: f"towards {'the pre-trained weights' if to == 'pretrained' else 'zero'}",
    "optimizer.eps": lambda eps: f"epsilon {_describe_number(eps)}",
    "model.dropout": lambda p: "dropout of the checkpoint" if p is None else f"dropout {_describe_number(p)}",
    "model.head": lambda head: f"{head or 'stock'} head",
    "execution": describe_execution,
}
# Follow from the task or the seed, change no number, or are part of another one.
UNNAMED_SETTINGS = {
    "data.task", "data.own", "model.revision", "model.sha256", "seeds.init", "seeds.data", "mixout.target",
    "evaluation.select_by", "evaluation.batch_size", "reinit.embeddings", "reinit.blocks", "reinit.pooler",
}  # fmt: skip
# Matter with some values of another setting only, so they are named only where the arms do not differ in that.
DEPENDENT_SETTINGS = {
    "data.sample_seed": "data.train_rows",
    "mixout.granularity": "mixout.p",
    "mixout.scope": "mixout.p",
    "optimizer.eps_placement": "optimizer.bias_correction",
    "optimizer.decay_order": "optimizer.weight_decay",
    "optimizer.no_decay": "optimizer.weight_decay",
    "optimizer.decay_head": "optimizer.decay_towards",
}
SETTINGS_IN_ORDER = tuple(
    key for key in dict.fromkeys((*MAIN_SETTINGS, *OTHER_SETTINGS, *RUN_CONFIG_LEAVES)) if key not in UNNAMED_SETTINGS
)
NO_SETTINGS = "no settings are recorded"
NAMED_AFTER_RECIPES = (
    "Imported records hold no settings. Those of imported arms here are of the recipes that they are named after."
)


def describe_arms(runs: ArtifactRuns, arm_tasks: Sequence[ArmTask]) -> list[str]:
    """Return a sentence on what these arms share, and a line for each on what it differs in from the others.

    Imported records hold no settings. Their arms get those of the shipped recipe that they are named after, if any.
    """
    settings = {arm_task: _find_settings(runs, arm_task) for arm_task in arm_tasks}
    known = [values for values in settings.values() if values]
    arms = list(dict.fromkeys(arm for arm, _ in settings))
    words = {key: [_describe(key, values) for values in known] for key in SETTINGS_IN_ORDER}
    differing = {key for key, texts in words.items() if len(set(texts)) > 1}
    named = [key for key in words if key in differing and DEPENDENT_SETTINGS.get(key) not in differing]
    lines: list[str] = []
    for arm in arms:
        tasks_of: dict[str, list[str]] = {}
        for task, values in ((task, values) for (other, task), values in settings.items() if other == arm):
            unknown = _describe_command(runs.commands[arm, task]) if (arm, task) in runs.commands else NO_SETTINGS
            parts = [_describe(key, values) for key in named] if values else [unknown]
            text = ", ".join(filter(None, parts))
            tasks_of.setdefault(text, []).append(task)
        for text, tasks in tasks_of.items():
            lines += [f"{arm}{f' on {join_with(tasks)}' if len(tasks_of) > 1 else ''}: {text}."] if text else []
    shared = list(filter(None, (words[key][0] for key in MAIN_SETTINGS if known and key not in differing)))
    who = "All arms" if len(known) == len(settings) else "Arms with known settings"
    first = [f"{who if len(arms) > 1 else arms[0]}: {', '.join(shared)}."] if shared else []
    from_recipes = any("model.name" not in values for values in known)
    return [*([NAMED_AFTER_RECIPES] if from_recipes else []), *first, *lines]


def _describe_command(config: CommandConfig) -> str:
    """Return the command, and what says which of its runs failed."""
    worst = "least" if config.lower_is_better else "most"
    failed = "which runs failed is not known" if config.baseline is None else f"failed: at {worst} {config.baseline:g}"
    return f"{config.written_command} ({'lower is better, ' if config.lower_is_better else ''}{failed})"


def _find_settings(runs: ArtifactRuns, arm_task: ArmTask) -> ArmSettings | None:
    """Return the settings of an arm on a task: of its runs or its sweep, or those that its recipe determines.

    None: none is known.
    """
    imported = runs.imported.get(arm_task)
    planned = (imported.arm, arm_task[1]) if imported else arm_task
    config = runs.first_configs.get(arm_task)
    if config is None and planned in runs.sweeps:
        config = runs.planned_configs.get(planned)
    if config:
        return _collect_values(config.model_dump(mode="json"))
    if arm_task in runs.commands:
        return None
    recipe = str(runs.by_arm_task[arm_task][0]["recipe"])
    if recipe not in shipped_recipes():
        return None
    settings = load_recipe(recipe).for_task(arm_task[1])
    values = _collect_values({key: setting.value for key, setting in settings.items()})
    return {key: value for key, value in values.items() if key not in ("model.name", "data.train_rows", "execution")}


def _collect_values(settings: Mapping[str, Any]) -> ArmSettings:
    """Return the values of a nested config or of dotted settings by dotted key."""
    values = list_values(settings) | {key: value for key, value in settings.items() if "." in key}
    if values["optimizer.llrd"] == 1:
        values["optimizer.llrd"] = None
    if not values["optimizer.weight_decay"]:  # these have no effect then
        values |= dict.fromkeys(("optimizer.decay_order", "optimizer.no_decay", "optimizer.decay_towards"))
    return values | {"reinit": tuple(values[f"reinit.{part}"] for part in ("embeddings", "blocks", "pooler"))}


def _describe(key: str, settings: ArmSettings) -> str:
    if key not in settings:
        return ""
    describe = MAIN_SETTINGS.get(key) or OTHER_SETTINGS.get(key)
    return describe(settings[key]) if describe else f"{key} {describe_value(settings[key])}"
