"""Build the report of an artefact from its runs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stableft.catalog.tasks import task_title
from stableft.records.energy import describe_energy
from stableft.report.arm_cells import ArmCell
from stableft.report.arm_settings import describe_arms
from stableft.report.artifact import (
    Boxes,
    DatasetsTable,
    FigurePart,
    HyperparametersTable,
    Lengths,
    MeansTable,
    ProbePart,
    Scatter,
    SeedMap,
    StabilityTable,
    Trials,
    groups_of,
)
from stableft.report.decision import put_claims_first
from stableft.report.figures.as_text import panel_to_csv_rows, panel_to_table
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.from_probes import PROBE_FIGURE_ALTS
from stableft.report.figures.from_tests import NamedCell, PublishedPair, figures_of_tests
from stableft.report.figures.of_artifact import build_panels, palette_names, sweep_figures
from stableft.report.figures.panels import panel_to_json
from stableft.report.footnotes import (
    NoteSubject,
    cell_footnotes,
    imported_run_footnotes,
    introduce_papers,
    put_first,
    sweep_deviation_footnotes,
    tell_origin,
)
from stableft.report.forms.document import (
    HEADING_LEVELS,
    Bullets,
    DataTable,
    Heading,
    Paragraph,
    Picture,
    Report,
    ReportBlock,
)
from stableft.report.numbers_in_words import low_score_notes
from stableft.report.runs import ArtifactRuns, collect_provenance, find_sweep_of_file, missing_run_notes
from stableft.report.stability_report import build_stability_report
from stableft.report.stability_results import StabilityResults, compute_stability
from stableft.text import join_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def build_report(runs: ArtifactRuns, data_dir: Path | None = None, width: float | None = None) -> Report:
    """Return the report of an artefact or sweep, with figures of this width in inches (None: that of a page).

    `data_dir` holds the original files for tables of data sets. None: they are read from the hub.

    Raises:
        UserError: There are no records, or the runs of one cell differ in metric, split or checkpoint.
    """
    rows = [row for arm_rows in runs.by_arm_task.values() for row in arm_rows]
    report = introduce_papers(tell_origin(replace(_build(runs, data_dir), width=width), rows))
    if runs.artifact.has_no_runs or not runs.sweeps or any(row["status"] == "finished" for row in rows):
        return report
    retry = " --retry-crashed" if any(row["status"] == "crashed" for row in rows) else ""
    commands = [f"`stableft sweep {sweep}{retry}`" for sweep in dict.fromkeys(runs.sweeps.values())]
    first = Paragraph(f"No run has finished yet. To train them: {join_with(commands)}.")
    return replace(report, blocks=(first, *report.blocks), brief=(first, *report.brief) if report.brief else ())


def _build(runs: ArtifactRuns, data_dir: Path | None) -> Report:
    parts = runs.artifact.parts
    match parts[0]:
        case StabilityTable() as part:
            results = compute_stability(part, runs)
            drawn, undrawn = sweep_figures(results.cells, runs)
            groups = {task: task_title(task) if len(results.tasks) > 1 else "" for task in results.tasks}
            families = [
                [NamedCell(groups[cell.task], cell.arm, cell) for cell in results.cells_of(task)] for task in groups
            ]
            families = families if results.pairs or not runs.rule else []
            drawn |= figures_of_tests(families, _published_pairs(results, groups), results.pairs)
            sweeps = [*runs.sweeps.values()] or [sweep for sweep in [find_sweep_of_file(runs)] if sweep]
            notes = (
                *missing_run_notes(runs),
                *sweep_deviation_footnotes(sweeps),
                *describe_energy(runs.energy),
            )
            names = [name] if (name := runs.artifact.names_of_arms) else []
            arms = [*names, *describe_arms(runs, [(cell.arm, cell.task) for cell in results.cells])]
            report = build_stability_report(results, drawn, collect_provenance(runs), notes, arms)
            report = replace(report, undrawn=undrawn, of_probes=PROBE_FIGURE_ALTS)
            return put_claims_first(report, runs) if runs.rule else report
        case DatasetsTable(paper):
            from stableft.report.paper_tables import build_dataset_report

            return build_dataset_report(paper, data_dir)
        case HyperparametersTable(paper):
            from stableft.report.paper_tables import build_hyperparameter_report

            return build_hyperparameter_report(paper)
        case MeansTable():
            from stableft.report.means_table import build_means_report

            report = build_means_report([part for part in parts if isinstance(part, MeansTable)], runs)
            return put_first(report, runs.artifact.names_of_arms)
    return put_first(_build_figure_report(runs), runs.artifact.names_of_arms)


def _published_pairs(results: StabilityResults, groups: Mapping[str, str]) -> list[PublishedPair]:
    """Return the cells beside the paper's values for them, the first that prints a mean."""
    pairs = []
    for cell in results.cells:
        compared = [c for c in results.comparisons_with_published(cell) if c.differences and cell.summary.n]
        found = next(((c, c.published) for c in compared if c.published and not c.published.another_party), None)
        if found:
            test, value = found
            pairs.append(PublishedPair(groups[cell.task], cell.arm, cell.metric, cell.summary, value, test.compatible))
    return pairs


# The others show every evaluation, or probes.
SCORE_PARTS = Boxes | Lengths | Trials | Scatter | SeedMap


def _build_figure_report(runs: ArtifactRuns) -> Report:
    artifact = runs.artifact
    parts = [part for part in artifact.parts if isinstance(part, FigurePart)]
    panels_with_notes = [(part, *panel_with_notes) for part in parts for panel_with_notes in build_panels(part, runs)]
    drawable = any(not panel.missing for _, panel, _ in panels_with_notes)
    blocks: list[ReportBlock] = [Picture(artifact.id, artifact.title)] if drawable else []
    shown_cells: dict[NoteSubject, list[list[ArmCell]]] = {"scores": [], "curves": []}
    first, *others = [notes for *_, notes in panels_with_notes] or [[]]
    shared_notes = [note for note in first if others and all(note in notes for notes in others)]
    for number, (part, panel, notes) in enumerate(panels_with_notes, 1):
        if not isinstance(part, ProbePart):
            cells = [runs.cell(group.arm, group.task) for group in groups_of(part)]
            shown_cells["scores" if isinstance(part, SCORE_PARTS) else "curves"].append(cells)
        notes = [note for note in notes if note not in shared_notes]
        table = panel_to_table(panel, f"{artifact.id}-{number}")
        if panel.title:
            blocks.append(Heading(panel.title))
        blocks += [Paragraph(f"Nothing to show yet: {panel.missing}.")] if panel.missing else []
        blocks += [table] if table else []
        blocks += [Bullets(tuple(dict.fromkeys(notes)))] if notes else []
    cells = list({(cell.arm, cell.task): cell for of in shown_cells.values() for part in of for cell in part}.values())
    footnotes = (
        note
        for of, cells_by_panel in shown_cells.items()
        for note in cell_footnotes(*([c for c in part if c.run_ids] for part in cells_by_panel), of=of, sources=False)
    )
    notes = [
        *artifact.notes,
        *dict.fromkeys((*shared_notes, *footnotes)),
        *low_score_notes(cells),
        *imported_run_footnotes(cells),
        *missing_run_notes(runs),
        *sweep_deviation_footnotes(() if artifact.has_no_runs else runs.sweeps.values()),
        *describe_energy(runs.energy),
    ]
    blocks += [Heading("Notes", HEADING_LEVELS + 1), Bullets(tuple(notes))] if notes else []
    panels = [panel for _, panel, _ in panels_with_notes]
    why_undrawn = "; ".join(dict.fromkeys(panel.missing for panel in panels if panel.missing))
    points = DataTable.from_records((row for panel in panels for row in panel_to_csv_rows(panel)), only="csv")

    def draw(width: float | None = None) -> "Figure":
        return draw_panels(panels, names=palette_names(artifact.labels, panels), width=width)

    return Report(
        artifact.id,
        artifact.title,
        tuple(blocks),
        data={"points": points},
        facts={
            "panels": [
                {"kind": type(part).__name__.lower(), **panel_to_json(panel), "notes": notes}
                for part, panel, notes in panels_with_notes
            ],
            "notes": notes,
        },
        figures={artifact.id: draw} if drawable else {},
        undrawn={} if drawable else {artifact.id: why_undrawn},
        provenance=collect_provenance(runs),
    )
