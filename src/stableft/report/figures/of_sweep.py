"""The figures of a user's own sweep."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stableft.catalog.tasks import METRIC_TITLES, REGRESSION_METRICS
from stableft.records.probe_record import SurfaceRecord
from stableft.report import numbers_in_words as wording
from stableft.report.artifact import Drifts, Gradients, Perplexities, ProbePart, RunGroup, Surfaces
from stableft.report.figures import draw as figures
from stableft.report.figures.from_probes import (
    PROBE_FIGURE_ALTS,
    build_drift_panels,
    build_gradient_panels,
    build_perplexity_panels,
    build_surface_panels,
    count_probe_records,
    finished_runs,
)
from stableft.report.figures.from_runs import curve_with_band
from stableft.report.figures.panels import Box, BoxPanel, Curve, CurvePanel, Panel, ReferenceLine
from stableft.report.figures.style import RUN_STYLES, RunStyle, choose_run_style
from stableft.report.runs import ArmCell, ArtifactRuns, RunRow
from stableft.report.stability_table import StabilityTable, task_title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


MAX_FIGURE_PANELS = 24  # panels of a figure
MAX_TASKS_PER_FIGURE = {"gradient-norms": 6, "gradient-norms-matrices": 2}  # of one figure
ProbeParts = list[ProbePart]


def build_probe_figures(table: StabilityTable, runs: ArtifactRuns) -> "dict[str, Callable[[], Figure]]":
    """Returns the figures, made when they are drawn, for whose panels there are records."""
    if not runs.probes.refs:
        return {}
    found = {
        name: [part for part in parts if count_probe_records(runs, [part])]
        for name, parts in _parts_by_figure(table).items()
    }
    found["drift"] = [_keep_recorded_drift(part, runs) for part in found["drift"]]
    found["gradient-norm-surface"] = [
        part for part in found["gradient-norm-surface"] if _has_gradient_norms(part, runs)
    ]
    return {name: _make_drawer(name, parts, runs) for name, parts in found.items() if parts}


def _parts_by_figure(table: StabilityTable) -> dict[str, ProbeParts]:
    """Returns what each figure shows of every task, whose arms stand in the order of the table."""
    parts: dict[str, ProbeParts] = {name: [] for name in PROBE_FIGURE_ALTS}
    for task in table.columns:
        title = task_title(task) if len(table.columns) > 1 else ""
        groups = tuple(RunGroup(cell.row, cell.row, task) for cell in table.cells if cell.column == task)
        parts["gradient-norms"].append(Gradients(title, groups, groups, "layers"))
        parts["gradient-norms-matrices"].append(Gradients(title, groups, groups, "matrices"))
        parts["drift"].append(Drifts(title, groups))
        for which in ("failed", "successful"):
            name = f"{title}, {which} runs" if title else f"{which} runs"
            parts["perplexity"].append(Perplexities(name, groups, which))
        parts["loss-surface"].append(Surfaces(title, groups, groups, "loss", first=False))
        parts["gradient-norm-surface"].append(Surfaces(title, groups, groups, "grad_norm", first=False))
    return parts


def _keep_recorded_drift(part: ProbePart, runs: ArtifactRuns) -> ProbePart:
    """Returns a part with those of its groups alone whose drift was recorded: a sweep may ask some arms for it."""
    assert isinstance(part, Drifts)
    return replace(
        part, groups=tuple(g for g in part.groups if count_probe_records(runs, [replace(part, groups=(g,))]))
    )


def _has_gradient_norms(part: ProbePart, runs: ArtifactRuns) -> bool:
    assert isinstance(part, Surfaces)
    ids = {shown.run_id for shown in finished_runs(runs, part.failed)}
    return any(record.grad_norms is not None for record in runs.probes.of(SurfaceRecord, ids))


def _make_drawer(name: str, parts: ProbeParts, runs: ArtifactRuns) -> "Callable[[], Figure]":
    def draw() -> "Figure":
        shown = parts[: MAX_TASKS_PER_FIGURE.get(name, len(parts))]
        made = [_build_probe_panels(part, runs) for part in shown]
        left_out = [f"{len(shown)} of {len(parts)} tasks are drawn."] if len(shown) < len(parts) else []
        if name == "drift" and sum(map(len, made)) > MAX_FIGURE_PANELS and len(made) > 1:
            made = [[panels[i] for i in _quarter_indices(len(panels))] for panels in made]
            left_out.append("Of each task four blocks are drawn; a sweep of one task has every block.")
        panels = [pair for pairs in made for pair in pairs]
        panels = panels if name.startswith("gradient-norms") else _drop_missing(panels)
        if len(panels) > MAX_FIGURE_PANELS and name.endswith("surface"):
            left_out.append(f"{MAX_FIGURE_PANELS} of {len(panels)} surfaces are drawn.")
            panels = panels[:MAX_FIGURE_PANELS]
        notes = dict.fromkeys([*(note for _, notes in panels for note in notes), *left_out])
        return figures.draw_panels([panel for panel, _ in panels], " ".join(notes))

    return draw


def _build_probe_panels(part: ProbePart, runs: ArtifactRuns) -> Sequence[tuple[Panel, list[str]]]:
    match part:
        case Gradients():
            return build_gradient_panels(part, runs)
        case Drifts():
            return build_drift_panels(part, runs)
        case Perplexities():
            return build_perplexity_panels(part, runs)
        case Surfaces():
            return build_surface_panels(part, runs)


def _drop_missing(panels: Sequence[tuple[Panel, list[str]]]) -> Sequence[tuple[Panel, list[str]]]:
    """Returns the panels that have something to show, or all if none has."""
    return [pair for pair in panels if not pair[0].missing] or panels


def _quarter_indices(count: int) -> list[int]:
    """Returns four places as those of Z Fig. 7: the blocks at a quarter, half, three quarters and the top."""
    return sorted({int(place) for place in np.ceil(np.arange(1, 5) * count / 4) - 1})


MAX_ARMS_DRAWN = 6
MAX_LOSS_OVER_ENTROPY = 3.0  # of the label entropy: a diverging run leaves the figure above that
LOSS_AXIS_LABEL = "training loss\n(mean since the evaluation before)"
LossCurve = Sequence[tuple[int, float]]  # step, mean training loss since the evaluation before
LossCurvesByRun = Mapping[tuple[str, str | None], LossCurve]  # of a run id and source
RowsByArmTask = Mapping[tuple[str, str], Sequence[RunRow]]  # of an arm and task
CurvePointsByRun = Mapping[
    tuple[str, str | None], Sequence[tuple[int, float | None, float | None]]
]  # step, loss, score


def build_score_panels(table: StabilityTable, frame: "pd.DataFrame") -> list[BoxPanel]:
    """Returns a panel for every task, with a box for each arm; none where no run has a score that can be drawn."""
    runs = [run for run in frame.to_dict("records") if run["scored"] and not math.isnan(run["score"])]
    groups = _group_by_arm_task(runs)
    constant = any(run["metric"] in REGRESSION_METRICS for run in runs)
    baseline = f"baseline: always the {'same answer' if constant else 'most frequent class'}"
    panels = []
    for column in table.columns if runs else ():
        cells = [cell for cell in table.cells if cell.column == column]
        what = wording.scores_heading(cells).removeprefix(f"{task_title(column)}: ").replace(", ", "\n", 1)
        boxes = tuple(_score_box(cell, groups.get((cell.row, column), ())) for cell in cells)
        panels.append(BoxPanel(task_title(column), what, boxes, baseline_label=baseline))
    return panels


def _group_by_arm_task(runs: Iterable[RunRow]) -> RowsByArmTask:
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for run in runs:
        groups.setdefault((run["arm"], run["task"]), []).append(run)
    return groups


def _score_box(cell: ArmCell, runs: Sequence[RunRow]) -> Box:
    runs = sorted(runs, key=lambda run: (run["score"], run["run_id"]))
    return Box(
        label=cell.row,
        scores=tuple(100 * run["score"] for run in runs),
        failed=tuple(run["failed"] if isinstance(run["failed"], bool) else None for run in runs),
        n=cell.summary.n,
        n_nan=cell.summary.n_nan,
        n_failed=wording.format_failed(cell),
        baseline=None if cell.baseline is None else 100 * cell.baseline,
    )


def build_loss_panels(table: StabilityTable, frame: "pd.DataFrame", curves: LossCurvesByRun) -> list[CurvePanel]:
    """Returns a panel for each arm and task with the training loss of every run over its steps.

    The panels share the axis of the loss; that of the steps is each one's own, because recipes differ sevenfold in
    length. Beyond MAX_PANELS the arms with the most failed runs are shown. None where no run has a curve.
    """
    groups = _group_by_arm_task(run for run in frame.to_dict("records") if curves.get((run["run_id"], run["source"])))
    cells = [cell for cell in table.cells if (cell.row, cell.column) in groups]
    most = sorted(cells, key=lambda cell: -cell.failed)[:MAX_ARMS_DRAWN]
    shown = [cell for cell in cells if cell in most]
    runs = [run for cell in shown for run in groups[cell.row, cell.column]]
    those = f" ({len(shown)} of {len(cells)} arms: those with most failed runs)" if len(shown) < len(cells) else ""
    named = len({cell.column for cell in shown}) > 1
    value = f" ({_label_entropies(runs)[0]:.2f} nats)" if len(_label_entropies(runs)) == 1 else ""
    entropy = f"nothing learnt: entropy of the training labels{value}"
    return [
        CurvePanel(
            title=f"{f'{task_title(cell.column)}, ' if named else ''}{cell.row}\n{wording.format_failed(cell)} failed",
            xlabel=f"optimizer step{those}",
            ylabel=LOSS_AXIS_LABEL,
            curves=tuple(_run_and_mean_curves(groups[cell.row, cell.column], curves)),
            horizontal=tuple(ReferenceLine(entropy, nats) for nats in _label_entropies(groups[cell.row, cell.column])),
            top=_loss_axis_top(runs, curves),
            bottom=0.0,
            left=0.0,
        )
        for cell in shown
    ]


def build_training_panels(
    table: StabilityTable, frame: "pd.DataFrame", evaluations: CurvePointsByRun
) -> list[CurvePanel]:
    """Returns two panels for each arm and task: training loss and validation score, mean and SD band (M Fig. 14).

    Failed and successful runs are apart. Beyond MAX_PANELS arms those with the most failed runs are shown.
    """
    groups = _group_by_arm_task(
        run for run in frame.to_dict("records") if evaluations.get((run["run_id"], run["source"]))
    )
    cells = [cell for cell in table.cells if (cell.row, cell.column) in groups]
    most = sorted(cells, key=lambda cell: -cell.failed)[:MAX_ARMS_DRAWN]
    named = len({cell.column for cell in cells}) > 1
    panels = []
    for cell in (cell for cell in cells if cell in most):
        runs = groups[cell.row, cell.column]
        title = f"{f'{task_title(cell.column)}, ' if named else ''}{cell.row}\n{wording.format_failed(cell)} failed"
        metric = METRIC_TITLES.get(cell.metric or "", cell.metric or "score")
        nothing = [ReferenceLine(f"entropy of the labels ({nats:.2f} nats)", nats) for nats in _label_entropies(runs)]
        baseline = [ReferenceLine("baseline", 100 * value) for value in sorted({run["val_baseline"] for run in runs})]
        losses = [
            [(step, loss) for step, loss, _ in _points_of_run(run, evaluations) if loss is not None] for run in runs
        ]
        scores = [[(step, 100 * s) for step, _, s in _points_of_run(run, evaluations) if s is not None] for run in runs]
        for label, lines, drawn in (
            ("training loss", losses, nothing),
            (f"validation {metric} [percent]", scores, [line for line in baseline if math.isfinite(line.value)]),
        ):
            curves = tuple(_curves_by_verdict(runs, lines))
            panels.append(CurvePanel(title, "optimizer step", label, curves, horizontal=tuple(drawn), left=0.0))
    return panels


def _points_of_run(run: RunRow, evaluations: CurvePointsByRun) -> Sequence[tuple[int, float | None, float | None]]:
    return evaluations[run["run_id"], run["source"]]


def _curves_by_verdict(runs: Sequence[RunRow], lines: Sequence[LossCurve]) -> Iterable[Curve]:
    """Yields mean and band of the failed and of the successful runs, and of those of which nobody knows."""
    for kind in reversed(RUN_STYLES):
        those = [
            line for run, line in zip(runs, lines, strict=True) if line and choose_run_style(run["failed"]) is kind
        ]
        if those:
            yield replace(curve_with_band(f"{kind.name} runs, mean ± SD", those, "std"), color=kind.color)


def _run_and_mean_curves(runs: Sequence[RunRow], curves: LossCurvesByRun) -> Iterable[Curve]:
    """Yields the line of every run, and the mean of those that failed and of those that did not."""
    means = []
    for kind in reversed(RUN_STYLES):
        those = [run for run in runs if choose_run_style(run["failed"]) is kind]
        lines = [curves[run["run_id"], run["source"]] for run in those]
        for run, line in zip(those, lines, strict=True):
            yield _loss_curve(run["run_id"], line, kind, thin=len(lines) > 1)
        if len(lines) > 1:
            means.append(_loss_curve(f"mean, {kind.name}", _mean_loss_curve(lines), kind, n=len(lines)))
    yield from means


def _loss_curve(label: str, line: LossCurve, kind: RunStyle, thin: bool = False, n: int = 1) -> Curve:
    x, y = tuple(float(step) for step, _ in line), tuple(loss for _, loss in line)
    group = f"{kind.name} runs (bold: their mean)"
    return Curve(label, x, y, n=n, color=kind.color, thin=thin, group=group)


def _mean_loss_curve(lines: Sequence[LossCurve]) -> LossCurve:
    """Returns the mean at every step that half of the runs have; one of fewer would jump where the others ended."""
    losses: dict[int, list[float]] = {}
    for step, loss in (point for line in lines for point in line):
        if math.isfinite(loss):
            losses.setdefault(step, []).append(loss)
    common = {step: values for step, values in sorted(losses.items()) if len(values) >= len(lines) / 2}
    return [(step, sum(values) / len(values)) for step, values in common.items()]


def _loss_axis_top(runs: Sequence[RunRow], curves: LossCurvesByRun) -> float:
    losses = [loss for run in runs for _, loss in curves[run["run_id"], run["source"]] if math.isfinite(loss)]
    highest, entropy = max(losses, default=1.0), max(_label_entropies(runs), default=None)
    return 1.05 * (highest if entropy is None else max(min(highest, MAX_LOSS_OVER_ENTROPY * entropy), 1.1 * entropy))


def _label_entropies(runs: Sequence[RunRow]) -> list[float]:
    return sorted({run["label_entropy"] for run in runs if not math.isnan(run["label_entropy"])})
