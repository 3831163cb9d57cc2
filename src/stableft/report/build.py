"""The runs of an artefact -> its `Report`: tables, panels and what is missing, before any form."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableft.report.artifact import (
    Artifact,
    BiasRatio,
    Boxes,
    Curves,
    Datasets,
    Drifts,
    Gradients,
    Hyperparameters,
    Lengths,
    Means,
    Part,
    Perplexities,
    ProbePart,
    Scatter,
    SeedMap,
    Surfaces,
    Trials,
    groups_of,
)
from stableft.report.figures import draw as figures
from stableft.report.figures import from_probes as probe_panels
from stableft.report.figures import from_runs as curve_panels
from stableft.report.figures import from_runs as run_panels
from stableft.report.figures import of_sweep
from stableft.report.figures.as_text import panel_grid, panel_rows
from stableft.report.figures.from_probes import gradients
from stableft.report.figures.of_sweep import probe_figures, training_panels
from stableft.report.figures.panels import Panel
from stableft.report.forms.document import RANKS, Block, Bullets, Grid, Heading, Paragraph, Picture, Report
from stableft.report.runs import Cell, Runs, missing_runs, provenance, provenance_values
from stableft.report.stability_report import stability_report
from stableft.report.stability_table import Table, build_table, cell_footnotes, foreign_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def build(runs: Runs, data_dir: Path | None = None) -> Report:
    """Returns the report of an artefact or sweep. `data_dir` is where tables of data sets look, else the hub.

    Raises:
        UserError: there is nothing to report, or runs of one cell are scored by different metrics, splits or
            checkpoints.
    """
    parts = runs.artifact.parts
    if not parts:
        table = build_table(runs)
        drawn, undrawn = _sweep_figures(table, runs)
        report = stability_report(table, drawn, provenance(runs), tuple(missing_runs(runs)))
        return replace(report, undrawn=undrawn)
    match parts[0]:
        case Datasets(paper):
            from stableft.report.paper_tables import dataset_report

            return dataset_report(paper, data_dir)
        case Hyperparameters(paper):
            from stableft.report.paper_tables import hyperparameter_report

            return hyperparameter_report(paper)
        case Means():
            from stableft.report.means_table import means_report

            return means_report([part for part in parts if isinstance(part, Means)], runs)
    return _figure_report(runs)


def panels_of(part: Part, runs: Runs) -> Sequence[tuple[Panel, list[str]]]:
    """Returns the panels that a part of a figure draws, and what a reader must know of each."""
    match part:
        case Boxes():
            return [run_panels.boxes(part, runs)]
        case Curves():
            return [curve_panels.curves(part, runs)]
        case Lengths():
            return [curve_panels.lengths(part, runs)]
        case Trials():
            return [curve_panels.trials(part, runs)]
        case Scatter():
            return [run_panels.scatter(part, runs)]
        case SeedMap():
            return [run_panels.seed_map(part, runs)]
        case BiasRatio():
            return [curve_panels.ratio(part, runs)]
        case Gradients():
            return gradients(part, runs)
        case Drifts():
            return probe_panels.drifts(part, runs)
        case Perplexities():
            return probe_panels.perplexities(part, runs)
        case Surfaces():
            return probe_panels.surfaces(part, runs)
    raise AssertionError(part)


def _figure_report(runs: Runs) -> Report:
    artifact = runs.artifact
    made = [(part, *made) for part in artifact.parts for made in panels_of(part, runs)]
    blocks: list[Block] = [Picture(artifact.id, artifact.title)]
    grids: list[Grid] = []
    shown: list[Cell] = []
    for number, (part, panel, notes) in enumerate(made, 1):
        again = number > 1 and made[number - 2][0] is part  # another panel of the same runs
        # What a cell's notes say is about scores, of which a probe shows none.
        scoreless = again or isinstance(part, ProbePart)
        cells = [] if scoreless else [runs.cell(group.arm, group.task) for group in groups_of(part)]
        shown += cells
        notes = [*notes, *(note for cell in cells if cell.run_ids for note in cell_footnotes(cell, sources=False))]
        grid = None if panel.missing else panel_grid(panel, f"{artifact.id}-{number}")
        if panel.title:
            blocks.append(Heading(panel.title))
        blocks += [Paragraph(f"Nothing to show yet: {panel.missing}.")] if panel.missing else []
        if grid:
            blocks.append(grid)
            grids.append(grid)
        blocks += [Bullets(tuple(dict.fromkeys(notes)))] if notes else []
    notes = [*artifact.notes, *foreign_notes(shown), *missing_runs(runs)]
    blocks += [Heading("Notes", RANKS + 1), Bullets(tuple(notes))] if notes else []
    panels = [panel for _, panel, _ in made]
    rows = [row for panel in panels for row in panel_rows(panel)]
    return Report(
        artifact.id,
        artifact.title,
        tuple(blocks),
        tuple(grids),
        tuple(rows),
        figure_values(artifact, made, notes, runs),
        {artifact.id: _drawer(panels)},
        provenance=provenance(runs),
    )


def _drawer(panels: Sequence[Panel]) -> Callable[[], "Figure"]:
    return lambda: figures.draw(panels)


def figure_values(artifact: Artifact, made, notes: Sequence[str], runs: Runs) -> dict[str, Any]:
    """Returns a figure as JSON values: what every panel draws, its notes, and the runs that it was made from."""
    return {
        "artifact": artifact.id,
        "title": artifact.title,
        "panels": [
            {"kind": type(part).__name__.lower(), **without_nan(asdict(panel)), "notes": panel_notes}
            for part, panel, panel_notes in made
        ],
        "notes": list(notes),
        **provenance_values(provenance(runs)),
    }


def without_nan(value: Any) -> Any:
    """Returns nested values with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sweep_figures(table: Table, runs: Runs) -> tuple[dict[str, Callable[[], "Figure"]], dict[str, str]]:
    """Returns the figures of a table of stability, which are made when they are drawn, and why one is not there.

    Three are of every sweep, the others of sweeps whose runs were probed.
    """
    drawn: dict[str, Callable[[], Figure]] = {}
    undrawn = {"scores": "no run has a score yet", "training-loss": "no record has evaluations with a training loss"}
    if any(cell.summary.n_finite for cell in table.cells):
        drawn["scores"] = lambda: figures.draw(of_sweep.score_panels(table, runs.frame))
    if any(loss is not None for points in runs.curves.values() for _, loss, _ in points):
        drawn["training-loss"] = lambda: figures.draw(of_sweep.loss_panels(table, runs.frame, _losses(runs)))
        drawn["training-curves"] = lambda: _training_curves(table, runs)
    drawn |= probe_figures(table, runs)
    return drawn, {name: why for name, why in undrawn.items() if name not in drawn}


def _training_curves(table: Table, runs: Runs) -> "Figure":
    panels = training_panels(table, runs.frame, runs.curves)
    return figures.draw(panels, per_row=2 if len(panels) <= 6 else 4)  # loss and score of an arm side by side


def _losses(runs: Runs) -> dict[tuple[str, str | None], list[tuple[int, float]]]:
    return {key: [(step, loss) for step, loss, _ in points if loss is not None] for key, points in runs.curves.items()}
