"""M Table 3 and Z Table 6 made from the shipped recipes and sweeps, beside what the papers print."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from stableft.backbones import BACKBONES
from stableft.config import RunConfig, canonical_json
from stableft.locate import shipped_configs
from stableft.plan import Sources
from stableft.recipe import Recipe, read_recipe, shipped_recipes
from stableft.report.blocks import Block, Bullets, Entry, Grid, Heading, Paragraph, Report
from stableft.report.mosbach import ARTIFACTS as MOSBACH
from stableft.report.published import load_hyperparameters
from stableft.report.zhang import ARTIFACTS as ZHANG
from stableft.report.zhang import LARGE, SMALL
from stableft.schedule import warmup_linear
from stableft.sweepfile import load_sweep
from stableft.tasks import TASKS

Paper = Literal["M", "Z"]
NONE = "-"
IDS = {"M": "mosbach-table3", "Z": "zhang-table6"}
INTRO = {
    "M": "All runs of configs/mosbach but those of Mixout and of BERT-base: every value that any of them has.",
    "Z": "The recipes zhang, zhang-xlnet, zhang-roberta, zhang-electra and zhang-bart, as they are for each data set.",
}
UNKNOWN = "no reason is known"


@dataclass(frozen=True)
class Place:
    """One place of a table of settings: what the runs here have, and what the paper prints."""

    row: str
    column: str
    here: str
    printed: str
    reason: str  # why they differ, "" where they agree

    @property
    def agrees(self) -> bool:
        return self.here == self.printed

    @property
    def text(self) -> str:
        return self.here if self.agrees else f"{self.here}; printed: {self.printed}"


def hyperparameter_report(paper: Paper) -> Report:
    """Returns the paper's table of hyper-parameters as this project runs it, with every deviation."""
    printed = load_hyperparameters(paper)
    places = hyperparameters(paper)
    artifact = (MOSBACH | ZHANG)[IDS[paper]]
    different = tuple(
        f"{place.row}, {place.column}: {place.here} here, printed {place.printed}: {place.reason}."
        for place in places
        if not place.agrees
    )
    agreeing = f"{sum(place.agrees for place in places)} of {len(places)} places agree with {printed.place}."
    grid = Grid(
        name=artifact.id,
        header=("Hyper-parameter" if paper == "M" else "Model and data set", *printed.columns),
        rows=tuple(
            (row, *(Entry(place.text, bold=not place.agrees) for place in places if place.row == row))
            for row in printed.rows
        ),
        caption=f"{artifact.title}. {INTRO[paper]}",
        notes=("Bold: not what the paper prints.",) if different else (),
    )
    blocks: list[Block] = [Paragraph(f"{INTRO[paper]} {agreeing}"), grid]
    blocks += [Heading("Deviations"), Bullets(different)] if different else []
    blocks += [Heading("Notes"), Bullets(printed.notes)] if printed.notes else []
    return Report(
        id=artifact.id,
        title=artifact.title,
        blocks=tuple(blocks),
        tables=(grid,),
        rows=tuple(_values(printed.place, place) for place in places),
        values={
            "artifact": artifact.id,
            "title": artifact.title,
            "cells": [_values(printed.place, place) for place in places],
            "deviations": list(different),
            "notes": list(printed.notes),
        },
    )


def hyperparameters(paper: Paper) -> tuple[Place, ...]:
    """Returns every place of the paper's table, row by row."""
    printed = load_hyperparameters(paper)
    found = []
    for row, texts in printed.rows.items():
        for column, text in zip(printed.columns, texts, strict=True):
            here = _here_m(row, column) if paper == "M" else _here_z(row, column)
            reason = "" if here == text else printed.reasons.get((row, column), UNKNOWN)
            found.append(Place(row, column, here, text, reason))
    return tuple(found)


def _values(location: str, place: Place) -> dict[str, Any]:
    return {
        "paper": location,
        "row": place.row,
        "column": place.column,
        "here": place.here,
        "printed": place.printed,
        "agrees": place.agrees,
        "note": place.reason,
    }


def _here_m(row: str, column: str) -> str:
    model = next(spec.example for spec in BACKBONES.values() if spec.title == column)
    return ROWS[row]([run for run in _mosbach_runs() if run.model.name == model])


@cache
def _mosbach_runs() -> tuple[RunConfig, ...]:
    """Returns every run of M's sweeps but Mixout's, each once."""
    files = sorted((shipped_configs() / "mosbach").glob("*.yaml"))
    runs = {run.run_id: run.config for file in files for run in load_sweep(file, Sources()).runs}
    return tuple(run for run in runs.values() if not run.mixout)


def _lengths(runs: Iterable[RunConfig]) -> str:
    lengths = [run.schedule.length for run in runs]
    epochs = sorted({length.epochs for length in lengths if length.epochs})
    steps = sorted({length.steps for length in lengths if length.steps})
    return ", ".join(map(str, epochs)) + (f"; {', '.join(map(str, steps))} steps" if steps else "")


def _seeds(runs: Iterable[RunConfig]) -> set[int]:
    """Returns how many seeds there are of every setting."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        setting = run.model_dump(mode="json", exclude={"seeds": True, "evaluation": {"report"}})
        seeds.setdefault(canonical_json(setting), set()).add(run.seeds.init)
    return {len(found) for found in seeds.values()}


def _range(values: Iterable[float]) -> str:
    found = sorted(set(values))
    return _number(found[0]) if len(found) == 1 else f"{_number(found[0])} - {_number(found[-1])}"


def _switch(values: Iterable[bool]) -> str:
    return "{" + ", ".join(map(str, sorted(set(values), reverse=True))) + "}"


def _each(values: Iterable[float | None]) -> str:
    return ", ".join(map(_number, sorted({value or 0 for value in values})))


def _dropout(values: Iterable[float | None]) -> str:
    found = set(values)
    return "as the checkpoint says" if None in found else _each(found)


def _number(value: float | None) -> str:
    """Returns a number as the papers write it; nothing of a thing is a dash."""
    return str(value).replace("e-0", "e-") if value else NONE


def _here_z(row: str, column: str) -> str:
    title, _, data_set = row.partition(" ")
    recipe = _zhang_recipe(title)
    tasks = [task.name for task in TASKS.values() if task.title == data_set] or [*SMALL, *LARGE]
    texts = [COLUMNS[column]({key: setting.value for key, setting in recipe.for_task(task).items()}) for task in tasks]
    return ", ".join(dict.fromkeys(texts))


@cache
def _zhang_recipe(title: str) -> Recipe:
    return read_recipe(shipped_recipes()["zhang" if title == "BERT" else f"zhang-{title.lower()}"])


def _length(length: Mapping[str, int]) -> str:
    return " ".join(f"{number} {unit}" for unit, number in length.items() if number)


def _warmup(ratio: float | None, steps: int | None) -> str:
    return f"{100 * ratio:g}%" if ratio is not None else f"{steps} steps"


# M: a row is a setting, or something else that all runs of a model say together.
ROWS: Mapping[str, Callable[[list[RunConfig]], str]] = {
    "Epochs": _lengths,
    "Learning rate": lambda runs: _range(run.optimizer.lr for run in runs),
    "Learning rate schedule": lambda _: warmup_linear.__name__.replace("_", "-"),  # there is no other
    "Warmup ratio": lambda runs: _each(run.schedule.warmup for run in runs),
    "Batch size": lambda runs: _each(run.schedule.batch_size for run in runs),
    "Adam ε": lambda runs: _each(run.optimizer.eps for run in runs),
    "Adam β1": lambda runs: _each(run.optimizer.betas[0] for run in runs),
    "Adam β2": lambda runs: _each(run.optimizer.betas[1] for run in runs),
    "Adam bias correction": lambda runs: _switch(run.optimizer.bias_correction for run in runs),
    "Dropout": lambda runs: _dropout(run.model.dropout for run in runs),
    "Weight decay": lambda runs: _each(run.optimizer.weight_decay for run in runs),
    "Clipping gradient norm": lambda runs: _each(run.optimizer.clip_norm for run in runs),
    "Number of random seeds": lambda runs: _each(_seeds(runs)),
}
# Z: a row is a model and one data set or all; a column is a setting.
COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Learning Rate": lambda values: _number(values["optimizer.lr"]),
    "Training Epochs / Steps": lambda values: _length(values["schedule.length"]),
    "Batch Size": lambda values: _number(values["schedule.batch_size"]),
    "Warmup Ratio / Steps": lambda values: _warmup(values["schedule.warmup"], values["schedule.warmup_steps"]),
    "LLRD": lambda values: NONE if values["optimizer.llrd"] == 1 else _number(values["optimizer.llrd"]),
}
