"""The figures of artefacts and sweeps: the panels of each part, and the parts of a sweep's figures."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stableft.catalog.tasks import task_title
from stableft.records.probe_record import SurfaceRecord
from stableft.report.arm_cells import ArmCell
from stableft.report.artifact import (
    AtBaseline,
    BiasRatio,
    Boxes,
    Curves,
    Drifts,
    FigurePart,
    Gradients,
    Lengths,
    Perplexities,
    RunGroup,
    Scatter,
    SeedMap,
    Surfaces,
    Trials,
    VerdictCurves,
    arm_without_source,
    groups_of,
)
from stableft.report.figures import from_curves, from_probes, from_runs, from_surfaces
from stableft.report.figures.draw import draw_panels, max_columns
from stableft.report.figures.from_probes import PROBE_FIGURE_ALTS, count_probe_records, finished_runs
from stableft.report.figures.panels import BLANK, CurvePanel, Panel
from stableft.report.figures.style import PAGE_WIDTH, PALETTE
from stableft.report.forms.document import DrawFigure
from stableft.report.numbers_in_words import failed_value
from stableft.report.runs import ArtifactRuns, curve_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_PANELS = 24  # per figure of drift or surfaces
MAX_TASKS = {"gradient-norms": 6, "gradient-norms-matrices": 2}  # per figure
# Arms on tasks with curves, and rows of their panels, that fit on a page. With more rows, losses have their own figure.
MAX_ARMS_WITH_CURVES, MAX_GRID_ROWS, MAX_ROWS_WITH_LOSSES = 20, 5, 4
MAX_ARMS_IN_LEGEND = 20  # of figures with a panel for each task and a line for each arm
MAX_NAMES_LEFT_OUT = 10  # in the note on what is not drawn
RUN_ID = re.compile(r" \(run [0-9a-f]+\)")
PanelWithNotes = tuple[Panel, list[str]]


def palette_names(labels: Sequence[str], panels: Sequence[Panel]) -> list[str]:
    """Return the names of an artefact's groups in the order of their colours.

    Imported runs have the colour of their arm where it has no runs of ours beside them. An arm without any runs keeps
    its place.
    """
    drawn = {curve.label for panel in panels if isinstance(panel, CurvePanel) for curve in panel.curves}
    first: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: label not in drawn):
        first.setdefault(arm_without_source(label), label)
    arms = dict.fromkeys(map(arm_without_source, labels))
    return list(dict.fromkeys([*(first[arm] for arm in arms), *labels]))


def build_panels(part: FigurePart, runs: ArtifactRuns) -> Sequence[PanelWithNotes]:
    """Return the panels of a part, each with its notes."""
    match part:
        case Boxes():
            return [from_runs.build_box_panel(part, runs)]
        case Curves():
            return [from_curves.build_curve_panel(part, runs)]
        case VerdictCurves():
            return [from_curves.build_verdict_panel(part, runs)]
        case Lengths():
            return [from_curves.build_lengths_panel(part, runs)]
        case Trials():
            return [from_curves.build_trials_panel(part, runs)]
        case AtBaseline():
            return [from_curves.build_at_baseline_panel(part, runs)]
        case Scatter():
            return [from_runs.build_scatter_panel(part, runs)]
        case SeedMap():
            return [from_runs.build_seed_map_panel(part, runs)]
        case BiasRatio():
            return [from_curves.build_bias_ratio_panel(part, runs)]
        case Gradients():
            return from_probes.build_gradient_panels(part, runs)
        case Drifts():
            return from_probes.build_drift_panels(part, runs)
        case Perplexities():
            return from_probes.build_perplexity_panels(part, runs)
        case Surfaces():
            return from_surfaces.build_surface_panels(part, runs)


def sweep_figures(cells: Sequence[ArmCell], runs: ArtifactRuns) -> tuple[dict[str, DrawFigure], dict[str, str]]:
    """Return two mappings: figure name -> function that draws it, and figure name -> why it cannot be drawn.

    Every sweep has scores, training losses and training curves. Sweeps with probe records have further figures.
    """
    parts = {
        name: figure_parts
        for name, figure_parts in sweep_figure_parts(cells, runs).items()
        if name not in FIGURES_OF_LINES or any(_has_line(build_panels(part, runs)) for part in figure_parts)
    }
    missing = {"scores": "no run has a score yet", "training-loss": "no record has evaluations with a training loss"}
    drawn = {name: _drawer(name, figure_parts, runs) for name, figure_parts in parts.items() if figure_parts}
    return drawn, {name: why for name, why in missing.items() if name not in drawn}


FIGURES_OF_LINES = ("at-baseline", "best-of-n")  # left out if no panel has a line


def _has_line(panels: Sequence[PanelWithNotes]) -> bool:
    """Return whether a panel has a line: a curve of two points."""
    curves = [curve for panel, _ in panels if isinstance(panel, CurvePanel) for curve in panel.curves]
    return any(sum(map(math.isfinite, curve.y)) > 1 for curve in curves)


def sweep_figure_parts(cells: Sequence[ArmCell], runs: ArtifactRuns) -> dict[str, list[FigurePart]]:
    """Return figure name -> its parts. The list is empty if there is nothing to draw."""
    return dict(_run_parts(cells, runs)) | dict(_probe_parts(cells, runs) if runs.probes.refs else ())


def _run_parts(cells: Sequence[ArmCell], runs: ArtifactRuns) -> Iterator[tuple[str, list[FigurePart]]]:
    by_task = _groups_by_task(cells)
    scored = any(cell.summary.n_finite for cell in cells)
    yield "scores", [Boxes(task_title(task), groups) for task, groups in by_task.items()] if scored else []
    with_loss = [cell for cell in cells if _has_losses(cell, runs)]
    shown_cells = sorted(with_loss, key=lambda cell: -cell.failed)[:MAX_ARMS_WITH_CURVES]
    titles = {
        RunGroup(cell.arm, cell.arm, cell.task): _arm_title(cell, len(by_task) > 1)
        for cell in with_loss
        if cell in shown_cells
    }
    yield "training-loss", [VerdictCurves(title, group, "train_loss", "runs") for group, title in titles.items()]
    yield (
        "training-curves",
        [VerdictCurves(title, group, of, "std") for group, title in titles.items() for of in ("train_loss", "val")],
    )
    title_of = {task: task_title(task) if len(by_task) > 1 else "" for task in by_task}
    with_lines = _groups_by_task(_of_most_failed_arms(cells, MAX_ARMS_IN_LEGEND))
    yield "at-baseline", [AtBaseline(title_of[task], groups) for task, groups in with_lines.items()]
    splits = {cell.task: cell.split for cell in cells if cell.split}
    yield (
        "best-of-n",
        [
            Trials(title_of[task], groups, "val" if splits.get(task) == "val" else "test")
            for task, groups in with_lines.items()
        ],
    )


def _groups_by_task(cells: Sequence[ArmCell]) -> dict[str, tuple[RunGroup, ...]]:
    tasks = dict.fromkeys(cell.task for cell in cells)
    return {task: tuple(RunGroup(c.arm, c.arm, task) for c in cells if c.task == task) for task in tasks}


def _of_most_failed_arms(cells: Sequence[ArmCell], most: int) -> list[ArmCell]:
    """Return the cells of at most so many arms, those with the most failed runs, in the given order."""
    failed = Counter(dict.fromkeys((cell.arm for cell in cells), 0))
    for cell in cells:
        failed[cell.arm] += cell.failed
    shown = {arm for arm, _ in failed.most_common(most)}
    return [cell for cell in cells if cell.arm in shown]


def _has_losses(cell: ArmCell, runs: ArtifactRuns) -> bool:
    rows = runs.by_arm_task[cell.arm, cell.task]
    return any(loss is not None for run in rows for _, loss, _ in curve_of_run(runs, run))


def _arm_title(cell: ArmCell, with_task: bool) -> str:
    return f"{f'{task_title(cell.task)}, ' if with_task else ''}{cell.arm}\n{failed_value(cell).text} failed"


def _probe_parts(cells: Sequence[ArmCell], runs: ArtifactRuns) -> Iterator[tuple[str, list[FigurePart]]]:
    """Yield (figure name, its parts) for each probe figure. Parts without records are left out."""
    by_task = _groups_by_task(cells)
    parts: dict[str, list[FigurePart]] = {name: [] for name in PROBE_FIGURE_ALTS}
    for task, groups in by_task.items():
        title = task_title(task) if len(by_task) > 1 else ""
        parts["gradient-norms"].append(Gradients(title, groups, groups, "layers"))
        parts["gradient-norms-matrices"].append(Gradients(title, groups, groups, "matrices"))
        # A sweep may record drift for some arms only.
        drifting = tuple(group for group in groups if count_probe_records(runs, [Drifts("", (group,))]))
        parts["drift"].append(Drifts(title, drifting))
        for verdict in ("failed", "successful"):
            name = f"{title}, {verdict} runs" if title else f"{verdict} runs"
            parts["perplexity"].append(Perplexities(name, groups, verdict))
        parts["loss-surface"].append(Surfaces(title, groups, groups, "loss", first=False))
        if _has_gradient_norms(groups, runs):
            parts["gradient-norm-surface"].append(Surfaces(title, groups, groups, "grad_norm", first=False))
    for name, figure_parts in parts.items():
        yield name, [part for part in figure_parts if count_probe_records(runs, [part])]


def _has_gradient_norms(groups: Sequence[RunGroup], runs: ArtifactRuns) -> bool:
    ids = {run.run_id for run in finished_runs(runs, groups)}
    return any(record.grad_norms is not None for record in runs.probes.of(SurfaceRecord, ids))


def _drawer(name: str, parts: Sequence[FigurePart], runs: ArtifactRuns) -> DrawFigure:
    def draw(width: float | None = None) -> "Figure":
        panels, notes = _limited_panels(name, parts, runs)
        per_row = None
        if name.startswith("training-"):
            panels, per_row = arrange_arms([part for part in parts if isinstance(part, VerdictCurves)], panels, width)
        notes = dict.fromkeys([*(note for _, notes in panels for note in notes), *notes])
        notes = [note for note in notes if from_curves.NAN_DRAW not in note]  # the panel has a shorter note
        if name.startswith("gradient-norms"):
            notes = filter(None, map(_shorten_gradient_note, notes))
        caption = RUN_ID.sub("", " ".join(notes))  # arm and seed name a run already
        return draw_panels([panel for panel, _ in panels], caption, per_row, list(runs.recipes), width)

    return draw


def _shorten_gradient_note(note: str) -> str:
    """Return a note without reasons in brackets and the parameter names of matrices, or nothing of which run it is.

    A figure has no room for them. The reports of the papers' figures have them.
    """
    if note.startswith(("The failed run is", "The successful run is")):
        return ""  # in the title or a note of the panel
    note = re.sub(r" \([^)]*\)|, as in Z; M's layer 0 is block 1", "", note)
    return note.partition(" In each, ")[0]


def arrange_arms(
    parts: Sequence[VerdictCurves], panels: Sequence[PanelWithNotes], width: float | None
) -> tuple[list[PanelWithNotes], int]:
    """Return the panels of these parts with blank places between them, and how many stand in a row.

    A task has a row for its losses and one for its scores, with an arm in each column. The arms of a task stand in
    several rows, or several tasks in one, where a page has no room for that. Losses are left out where they would need
    too many rows: they have a figure of their own.
    """
    most = max_columns(width or PAGE_WIDTH)
    by_row: dict[tuple[str, str], list[PanelWithNotes]] = {}
    for part, panel in zip(parts, panels, strict=True):
        by_row.setdefault((part.group.task, part.of), []).append(panel)
    longest = max(map(len, by_row.values()))
    columns = math.ceil(longest / math.ceil(longest / most))  # of a task
    rows = sum(math.ceil(len(cells) / columns) for cells in by_row.values())
    if len({part.of for part in parts}) > 1 and rows > MAX_ROWS_WITH_LOSSES:
        by_row = {row: cells for row, cells in by_row.items() if row[1] == "val"}
        rows //= 2
    together = max(most // columns, 1) if rows > MAX_GRID_ROWS else 1  # tasks in a row
    placed: list[PanelWithNotes] = []
    for cells in by_row.values():
        placed += [*cells, *[(BLANK, [])] * (-len(cells) % columns)]
    return placed, columns * together


def _limited_panels(
    name: str, parts: Sequence[FigurePart], runs: ArtifactRuns
) -> tuple[Sequence[PanelWithNotes], list[str]]:
    """Return the panels of a figure, limited to a readable number, and notes on what is left out."""
    shown, notes = parts[: MAX_TASKS.get(name, len(parts))], []
    if len(shown) < len(parts):
        notes.append(f"{len(shown)} of {len(parts)} tasks are drawn.")
    by_part = [build_panels(part, runs) for part in shown]
    if name == "drift" and sum(map(len, by_part)) > MAX_PANELS and len(by_part) > 1:
        by_part = [[panels[i] for i in _quarter_indices(len(panels))] for panels in by_part]
        notes.append("Of each task four blocks are drawn; a sweep of one task has every block.")
    panels = [panel for panels in by_part for panel in panels]
    if not name.startswith("gradient-norms"):  # there, a missing panel of a pair is kept because it says why
        if name in FIGURES_OF_LINES:
            reasons = dict.fromkeys(panel.missing for panel, _ in panels if panel.missing and panel.title)
            notes += [f"{', '.join(p.title for p, _ in panels if p.missing == why)}: {why}." for why in reasons]
        panels = [pair for pair in panels if not pair[0].missing] or panels
    if (name.endswith("surface") or name in FIGURES_OF_LINES) and len(panels) > MAX_PANELS:
        notes.append(f"{MAX_PANELS} of {len(panels)} {'surfaces' if name.endswith('surface') else 'tasks'} are drawn.")
        panels = panels[:MAX_PANELS]
    if name == "perplexity" and sum(len(p.curves) for p, _ in panels if isinstance(p, CurvePanel)) > len(PALETTE):
        panels = [(_colored_by_arm(panel), _without_runs(of_panel)) for panel, of_panel in panels]
    if name == "training-loss":
        panels = _share_top(panels, [part.group.task for part in shown if isinstance(part, VerdictCurves)])
    left_out: list[str] = []
    if name.startswith("training-"):
        left_out = [f"{arm} on {task_title(task)}" for arm, task in _arms_left_out(parts, runs)]
    elif name in FIGURES_OF_LINES:
        drawn = {group.arm for part in parts for group in groups_of(part)}
        left_out = [arm for arm in dict.fromkeys(arm for arm, _ in runs.by_arm_task) if arm not in drawn]
    if left_out:
        more = len(left_out) - MAX_NAMES_LEFT_OUT
        names = ", ".join(left_out[:MAX_NAMES_LEFT_OUT]) + (f" and {more} more" if more > 0 else "")
        notes.append(f"Not drawn, with no more failed runs than these: {names}.")
    return panels, notes


def _colored_by_arm(panel: Panel) -> Panel:
    """Return a panel of single runs, with one colour and legend entry for each arm."""
    if not isinstance(panel, CurvePanel):
        return panel
    curves = (replace(c, group=c.label.rpartition(", seed ")[0], n=1, thin=True, hover=c.label) for c in panel.curves)
    return replace(panel, curves=tuple(curves))


def _without_runs(notes: Sequence[str]) -> list[str]:
    """Return the notes without the lists of runs, which the titles of the lines name."""
    return [note for note in notes if not note.startswith(("Failed: ", "Successful: "))]


def _share_top(panels: Sequence[PanelWithNotes], tasks: Sequence[str]) -> list[PanelWithNotes]:
    """Return the panels with one top of the loss axis for all arms of a task. `tasks` are those of the panels."""
    tops: dict[str, float] = {}
    for (panel, _), task in zip(panels, tasks, strict=True):
        if isinstance(panel, CurvePanel) and panel.top is not None:
            tops[task] = max(panel.top, tops.get(task, panel.top))
    return [
        (replace(panel, top=tops[task]) if isinstance(panel, CurvePanel) and task in tops else panel, notes)
        for (panel, notes), task in zip(panels, tasks, strict=True)
    ]


def _arms_left_out(parts: Sequence[FigurePart], runs: ArtifactRuns) -> list[tuple[str, str]]:
    shown = {(part.group.arm, part.group.task) for part in parts if isinstance(part, VerdictCurves)}
    return [place for place in runs.by_arm_task if place not in shown and _has_losses(runs.cell(*place), runs)]


def _quarter_indices(count: int) -> list[int]:
    """Return the indices of four blocks as in Z Fig. 7: at a quarter, half, three quarters and the top."""
    return sorted({int(place) for place in np.ceil(np.arange(1, 5) * count / 4) - 1})


SWEEP_FIGURE_ALTS: Mapping[str, str] = {
    "scores": "The score of every run and a box for each arm",
    "training-loss": "The training loss of every run over its optimizer steps, failed runs apart",
    "training-curves": "Validation score, and training loss where there is room, over the optimizer steps, mean and "
    "standard deviation, failed runs apart",
    "at-baseline": "The share of runs whose validation score is no better than chance, over the optimizer steps",
    "best-of-n": "The expected score of the best of n runs by validation score, mean and standard deviation",
    **PROBE_FIGURE_ALTS,
}
