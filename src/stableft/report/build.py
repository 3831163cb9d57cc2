"""Build the report of an artefact from its runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableft.report.artifact import (
    Artifact,
    ArtifactPart,
    BiasRatio,
    Boxes,
    Curves,
    DatasetsTable,
    Drifts,
    Gradients,
    HyperparametersTable,
    Lengths,
    MeansTable,
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
from stableft.report.figures.as_text import panel_to_csv_rows, panel_to_table
from stableft.report.figures.from_probes import build_gradient_panels
from stableft.report.figures.of_sweep import build_probe_figures, build_training_panels
from stableft.report.figures.panels import Panel
from stableft.report.forms.document import (
    HEADING_LEVELS,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Report,
    ReportBlock,
    ReportTable,
)
from stableft.report.runs import ArmCell, ArtifactRuns, collect_provenance, missing_run_notes, provenance_to_json
from stableft.report.stability_report import build_stability_report
from stableft.report.stability_table import (
    StabilityTable,
    build_stability_table,
    cell_footnotes,
    imported_run_footnotes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def build_report(runs: ArtifactRuns, data_dir: Path | None = None) -> Report:
    """Returns the report of an artefact or sweep. `data_dir` is where tables of data sets look, else the hub.

    Raises:
        UserError: there is nothing to report, or runs of one cell are scored by different metrics, splits or
            checkpoints.
    """
    parts = runs.artifact.parts
    if not parts:
        table = build_stability_table(runs)
        drawn, undrawn = _sweep_figures(table, runs)
        report = build_stability_report(table, drawn, collect_provenance(runs), tuple(missing_run_notes(runs)))
        return replace(report, undrawn=undrawn)
    match parts[0]:
        case DatasetsTable(paper):
            from stableft.report.paper_tables import build_dataset_report

            return build_dataset_report(paper, data_dir)
        case HyperparametersTable(paper):
            from stableft.report.paper_tables import build_hyperparameter_report

            return build_hyperparameter_report(paper)
        case MeansTable():
            from stableft.report.means_table import build_means_report

            return build_means_report([part for part in parts if isinstance(part, MeansTable)], runs)
    return _build_figure_report(runs)


def build_panels(part: ArtifactPart, runs: ArtifactRuns) -> Sequence[tuple[Panel, list[str]]]:
    """Returns the panels that a part of a figure draws, and what a reader must know of each."""
    match part:
        case Boxes():
            return [run_panels.build_box_panel(part, runs)]
        case Curves():
            return [curve_panels.build_curve_panel(part, runs)]
        case Lengths():
            return [curve_panels.build_lengths_panel(part, runs)]
        case Trials():
            return [curve_panels.build_trials_panel(part, runs)]
        case Scatter():
            return [run_panels.build_scatter_panel(part, runs)]
        case SeedMap():
            return [run_panels.build_seed_map_panel(part, runs)]
        case BiasRatio():
            return [curve_panels.build_bias_ratio_panel(part, runs)]
        case Gradients():
            return build_gradient_panels(part, runs)
        case Drifts():
            return probe_panels.build_drift_panels(part, runs)
        case Perplexities():
            return probe_panels.build_perplexity_panels(part, runs)
        case Surfaces():
            return probe_panels.build_surface_panels(part, runs)
    raise AssertionError(part)


def _build_figure_report(runs: ArtifactRuns) -> Report:
    artifact = runs.artifact
    made = [(part, *made) for part in artifact.parts for made in build_panels(part, runs)]
    blocks: list[ReportBlock] = [Picture(artifact.id, artifact.title)]
    grids: list[ReportTable] = []
    shown: list[ArmCell] = []
    for number, (part, panel, notes) in enumerate(made, 1):
        again = number > 1 and made[number - 2][0] is part  # another panel of the same runs
        # What a cell's notes say is about scores, of which a probe shows none.
        scoreless = again or isinstance(part, ProbePart)
        cells = [] if scoreless else [runs.cell(group.arm, group.task) for group in groups_of(part)]
        shown += cells
        notes = [*notes, *(note for cell in cells if cell.run_ids for note in cell_footnotes(cell, sources=False))]
        grid = None if panel.missing else panel_to_table(panel, f"{artifact.id}-{number}")
        if panel.title:
            blocks.append(Heading(panel.title))
        blocks += [Paragraph(f"Nothing to show yet: {panel.missing}.")] if panel.missing else []
        if grid:
            blocks.append(grid)
            grids.append(grid)
        blocks += [Bullets(tuple(dict.fromkeys(notes)))] if notes else []
    notes = [*artifact.notes, *imported_run_footnotes(shown), *missing_run_notes(runs)]
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(tuple(notes))] if notes else []
    panels = [panel for _, panel, _ in made]
    rows = [row for panel in panels for row in panel_to_csv_rows(panel)]
    return Report(
        artifact.id,
        artifact.title,
        tuple(blocks),
        tuple(grids),
        tuple(rows),
        figure_to_json(artifact, made, notes, runs),
        {artifact.id: _make_drawer(panels)},
        provenance=collect_provenance(runs),
    )


def _make_drawer(panels: Sequence[Panel]) -> Callable[[], "Figure"]:
    return lambda: figures.draw_panels(panels)


def figure_to_json(artifact: Artifact, made, notes: Sequence[str], runs: ArtifactRuns) -> dict[str, Any]:
    """Returns a figure as JSON values: what every panel draws, its notes, and the runs that it was made from."""
    return {
        "artifact": artifact.id,
        "title": artifact.title,
        "panels": [
            {"kind": type(part).__name__.lower(), **nan_to_none(asdict(panel)), "notes": panel_notes}
            for part, panel, panel_notes in made
        ],
        "notes": list(notes),
        **provenance_to_json(collect_provenance(runs)),
    }


def nan_to_none(value: Any) -> Any:
    """Returns nested values with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sweep_figures(
    table: StabilityTable, runs: ArtifactRuns
) -> tuple[dict[str, Callable[[], "Figure"]], dict[str, str]]:
    """Returns the figures of a table of stability, which are made when they are drawn, and why one is not there.

    Three are of every sweep, the others of sweeps whose runs were probed.
    """
    drawn: dict[str, Callable[[], Figure]] = {}
    undrawn = {"scores": "no run has a score yet", "training-loss": "no record has evaluations with a training loss"}
    if any(cell.summary.n_finite for cell in table.cells):
        drawn["scores"] = lambda: figures.draw_panels(of_sweep.build_score_panels(table, runs.frame))
    if any(loss is not None for points in runs.curves.values() for _, loss, _ in points):
        drawn["training-loss"] = lambda: figures.draw_panels(
            of_sweep.build_loss_panels(table, runs.frame, _loss_curves(runs))
        )
        drawn["training-curves"] = lambda: _draw_training_curves(table, runs)
    drawn |= build_probe_figures(table, runs)
    return drawn, {name: why for name, why in undrawn.items() if name not in drawn}


def _draw_training_curves(table: StabilityTable, runs: ArtifactRuns) -> "Figure":
    panels = build_training_panels(table, runs.frame, runs.curves)
    return figures.draw_panels(panels, per_row=2 if len(panels) <= 6 else 4)  # loss and score of an arm side by side


def _loss_curves(runs: ArtifactRuns) -> dict[tuple[str, str | None], list[tuple[int, float]]]:
    return {key: [(step, loss) for step, loss, _ in points if loss is not None] for key, points in runs.curves.items()}
