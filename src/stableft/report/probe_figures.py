"""The figures of a user's own sweep whose runs were probed: those of the papers, of every arm and task that has any."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stableft.probe_record import Surface
from stableft.report import figures
from stableft.report.artifact import Drifts, Gradients, Group, Perplexities, ProbePart, Surfaces
from stableft.report.gather import Runs
from stableft.report.gradient_panels import gradients
from stableft.report.panels import Panel
from stableft.report.probe_panels import drifts, perplexities, surfaces
from stableft.report.probe_runs import finished, probe_count
from stableft.report.table import Table, task_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBED = {  # name -> what it shows, for those who do not see it
    "gradient-norms": "Gradient norms of every layer over the steps, of a failed and a successful run",
    "gradient-norms-matrices": "Gradient norms of the weight matrices of every layer, of a failed and a successful run",
    "drift": "The L2 distance of blocks to their initial weights over the steps, mean and range",
    "perplexity": "Language-modelling perplexity with the top blocks reset to their pre-trained values",
    "loss-surface": "Loss between a pre-trained model, a failed and a successful run",
    "gradient-norm-surface": "Gradient norm between a pre-trained model, a failed and a successful run",
}
MOST = 24  # panels of a figure
TASKS = {"gradient-norms": 6, "gradient-norms-matrices": 2}  # of one figure
Parts = list[ProbePart]


def probe_figures(table: Table, runs: Runs) -> "dict[str, Callable[[], Figure]]":
    """Returns the figures, made when they are drawn, for whose panels there are records."""
    if not runs.probes.left:
        return {}
    found = {name: [part for part in parts if probe_count(runs, [part])] for name, parts in _parts(table).items()}
    found["drift"] = [_moving(part, runs) for part in found["drift"]]
    found["gradient-norm-surface"] = [part for part in found["gradient-norm-surface"] if _has_norms(part, runs)]
    return {name: _drawer(name, parts, runs) for name, parts in found.items() if parts}


def _parts(table: Table) -> dict[str, Parts]:
    """Returns what each figure shows of every task, whose arms stand in the order of the table."""
    parts: dict[str, Parts] = {name: [] for name in PROBED}
    for task in table.columns:
        title = task_title(task) if len(table.columns) > 1 else ""
        groups = tuple(Group(cell.row, cell.row, task) for cell in table.cells if cell.column == task)
        parts["gradient-norms"].append(Gradients(title, groups, groups, "layers"))
        parts["gradient-norms-matrices"].append(Gradients(title, groups, groups, "matrices"))
        parts["drift"].append(Drifts(title, groups))
        for which in ("failed", "successful"):
            name = f"{title}, {which} runs" if title else f"{which} runs"
            parts["perplexity"].append(Perplexities(name, groups, which))
        parts["loss-surface"].append(Surfaces(title, groups, groups, "loss", first=False))
        parts["gradient-norm-surface"].append(Surfaces(title, groups, groups, "grad_norm", first=False))
    return parts


def _moving(part: ProbePart, runs: Runs) -> ProbePart:
    """Returns a part with those of its groups alone whose drift was recorded: a sweep may ask some arms for it."""
    assert isinstance(part, Drifts)
    return replace(part, groups=tuple(g for g in part.groups if probe_count(runs, [replace(part, groups=(g,))])))


def _has_norms(part: ProbePart, runs: Runs) -> bool:
    assert isinstance(part, Surfaces)
    ids = {shown.run_id for shown in finished(runs, part.failed)}
    return any(record.grad_norms is not None for record in runs.probes.of(Surface, ids))


def _drawer(name: str, parts: Parts, runs: Runs) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        shown = parts[: TASKS.get(name, len(parts))]
        made = [_panels(part, runs) for part in shown]
        left_out = [f"{len(shown)} of {len(parts)} tasks are drawn."] if len(shown) < len(parts) else []
        if name == "drift" and sum(map(len, made)) > MOST and len(made) > 1:
            made = [[panels[i] for i in _quarters(len(panels))] for panels in made]
            left_out.append("Of each task four blocks are drawn; a sweep of one task has every block.")
        panels = [pair for pairs in made for pair in pairs]
        panels = panels if name.startswith("gradient-norms") else _there(panels)
        if len(panels) > MOST and name.endswith("surface"):
            left_out.append(f"{MOST} of {len(panels)} surfaces are drawn.")
            panels = panels[:MOST]
        notes = dict.fromkeys([*(note for _, notes in panels for note in notes), *left_out])
        return figures.draw([panel for panel, _ in panels], " ".join(notes))

    return draw


def _panels(part: ProbePart, runs: Runs) -> Sequence[tuple[Panel, list[str]]]:
    match part:
        case Gradients():
            return gradients(part, runs)
        case Drifts():
            return drifts(part, runs)
        case Perplexities():
            return perplexities(part, runs)
        case Surfaces():
            return surfaces(part, runs)


def _there(panels: Sequence[tuple[Panel, list[str]]]) -> Sequence[tuple[Panel, list[str]]]:
    """Returns the panels that have something to show, or all if none has."""
    return [pair for pair in panels if not pair[0].missing] or panels


def _quarters(count: int) -> list[int]:
    """Returns four places as those of Z Fig. 7: the blocks at a quarter, half, three quarters and the top."""
    return sorted({int(place) for place in np.ceil(np.arange(1, 5) * count / 4) - 1})
