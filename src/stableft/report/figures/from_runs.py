"""Build panels from the scores of runs: boxes, points, seed maps."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from stableft.report.arm_cells import ArmCell, RunRow
from stableft.report.artifact import (
    Boxes,
    RunGroup,
    Scatter,
    SeedMap,
)
from stableft.report.figures.panels import (
    Box,
    BoxPanel,
    HeatPanel,
    PointGroup,
    PointPanel,
    ReferenceLine,
)
from stableft.report.figures.style import RUN_STYLES, RunStyle, choose_run_style
from stableft.report.numbers_in_words import failed_value, scores_heading
from stableft.report.runs import NO_FINISHED_RUN, ArtifactRuns, reported_score
from stableft.text import seed_label


def build_box_panel(part: Boxes, runs: ArtifactRuns) -> tuple[BoxPanel, list[str]]:
    """Return a panel with a box for each group that has scores, and a note that names the other groups."""
    groups = [(group.label, runs.cell(group.arm, group.task)) for group in part.groups]
    with_scores = [(label, cell, runs.by_arm_task[cell.arm, cell.task]) for label, cell in groups if cell.summary.n]
    empty = [label for label, cell in groups if not cell.summary.n]
    notes = [f"No run is finished of {', '.join(empty)}."] if empty and with_scores else []
    panel = box_panel(part.title, with_scores, part.of)
    by_label = {group.label: group for group in part.groups}
    boxes = tuple(replace(b, shade=by_label[b.label].shade, block=by_label[b.label].block) for b in panel.boxes)
    share = shared_axis(part.groups, part.of)
    return replace(panel, boxes=boxes, names_label=part.names_label, star=part.star, share=share), notes


def shared_axis(groups: Sequence[RunGroup], of: str) -> str:
    """Return the name of the axis that panels of these groups share: a quantity on one task. Empty: they share none."""
    tasks = {group.task for group in groups}
    return f"{of} of {tasks.pop()}" if len(tasks) == 1 else ""


def run_title(run: RunRow, value: str) -> str:
    """Return what a point tells of its run: arm, seed and a number."""
    return f"{run['arm']}, seed {seed_label(run['seed_init'], run['seed_data'])}: {value}"


def box_panel(
    title: str, groups: Sequence[tuple[str, ArmCell, Sequence[RunRow]]], split: Literal["test", "val"]
) -> BoxPanel:
    """Return a panel with a box for each group. A group is its label, cell and runs."""
    boxes = tuple(make_box(label, cell, runs, split) for label, cell, runs in groups)
    by_accuracy = all(cell.metric == "accuracy" for _, cell, _ in groups)
    baseline = f"baseline: always the {'most frequent class' if by_accuracy else 'same answer'}"
    ylabel = _box_axis_label([cell for _, cell, _ in groups], split)
    return BoxPanel(title, ylabel, boxes, "" if boxes else NO_FINISHED_RUN, baseline)


def make_box(label: str, cell: ArmCell, runs: Sequence[RunRow], split: str) -> Box:
    """Return the box of a cell, in percent.

    The scores are the reported ones, or with `split` "val" the validation scores of the same checkpoints.
    """
    scored = [run for run in runs if run["scored"]]
    known_scores = [(score, run) for run in scored if (score := reported_score(run, split)) is not None]
    pairs = [(100 * score, run) for score, run in known_scores if not math.isnan(score)]
    pairs.sort(key=lambda pair: (pair[0], pair[1]["run_id"]))
    val_baselines = [run["val_baseline"] for run in runs if run["scored"] and not math.isnan(run["val_baseline"])]
    baseline = cell.baseline if split == "test" or cell.split == "val" else max(val_baselines, default=None)
    return Box(
        label,
        tuple(score for score, _ in pairs),
        tuple(run["failed"] if isinstance(run["failed"], bool) else None for _, run in pairs),
        n=len(known_scores),
        n_nan=len(known_scores) - len(pairs),
        n_failed=failed_value(cell).text,
        baseline=None if baseline is None else 100 * baseline,
        lower_is_better=cell.lower_is_better,
        runs=tuple(run_title(run, f"{score:.2f}") for score, run in pairs),
    )


def _nan_if_none(score: float | None) -> float:
    return math.nan if score is None else score


def _box_axis_label(cells: Sequence[ArmCell], split: str) -> str:
    scored = [cell for cell in cells if cell.metric]
    if not scored:
        return "score in percent"
    title = scores_heading(scored).partition(": ")[2].replace(", ", "\n", 1)
    return title.replace("test split", "validation split") if split == "val" else title


def build_scatter_panel(part: Scatter, runs: ArtifactRuns) -> tuple[PointPanel, list[str]]:
    """Return a panel with a point for every run: its reported score over its last training loss."""
    points_by_style: dict[RunStyle, list[tuple[float, float, str]]] = {style: [] for style in RUN_STYLES}
    not_finite = 0
    baselines: set[float] = set()
    for run in (run for group in part.groups for run in runs.by_arm_task.get((group.arm, group.task), [])):
        if not run["scored"]:
            continue
        loss, score = run["train_loss"], run["score"]
        if not (math.isfinite(loss) and math.isfinite(score) and loss > 0):
            not_finite += 1
            continue
        baselines |= {100 * run["baseline"]} if not math.isnan(run["baseline"]) else set()
        points_by_style[choose_run_style(run["failed"])].append(
            (loss, 100 * score, run_title(run, f"{100 * score:.2f}, loss {loss:.4g}"))
        )
    groups = tuple(
        PointGroup(style.name, x, y, style.color, style.marker, titles)
        for style, points in points_by_style.items()
        if points
        for x, y, titles in [tuple(zip(*points, strict=True))]
    )
    notes = [f"{not_finite} runs have no finite loss or score, and are not drawn."] if not_finite else []
    cells = [runs.cell(group.arm, group.task) for group in part.groups]
    lines = (ReferenceLine("baseline", baselines.pop()),) if len(baselines) == 1 else ()
    xlabel = "last training loss (mean since the evaluation before)"
    panel = PointPanel(
        part.title,
        xlabel,
        _box_axis_label(cells, "test"),
        groups,
        xlog=True,
        horizontal=lines,
        missing="" if groups else NO_FINISHED_RUN,
    )
    return panel, notes


def build_seed_map_panel(part: SeedMap, runs: ArtifactRuns) -> tuple[HeatPanel, list[str]]:
    """Return a map of validation scores by initialisation seed (rows) and data-order and dropout seed (columns).

    With `of` "scores", the margins hold min, mean and max. With "std", the panel holds the standard deviations (ddof 1)
    of each row and column, and their averages.
    """
    arm_task = (part.group.arm, part.group.task)
    scores_by_seeds = {
        (run["seed_init"], run["seed_data"]): 100 * _nan_if_none(reported_score(run, "val"))
        for run in runs.by_arm_task.get(arm_task, [])
        if run["scored"]
    }
    rows, columns = sorted({init for init, _ in scores_by_seeds}), sorted({data for _, data in scores_by_seeds})
    values = [[_none_unless_finite(scores_by_seeds.get((init, data))) for data in columns] for init in rows]
    names = ("seed of data order and dropout", "seed of initialisation")
    missing = "" if scores_by_seeds else NO_FINISHED_RUN
    n_missing = sum(value is None for row in values for value in row)
    hatched = " (hatched in the figure)" if part.of == "scores" else ""
    notes = [f"{n_missing} of {len(rows) * len(columns)} pairs of seeds have no score{hatched}."] if n_missing else []
    if any((arm.arm, task) == arm_task for (_, task), arm in runs.imported.items()):
        notes.append("Imported runs are left out: of them one seed is known, not two.")
    if part.of == "std":
        return _seed_deviation_panel(part.title, rows, columns, values, missing), notes
    margins = (("Min", min), ("Mean", statistics.fmean), ("Max", max))
    body = [[*row, *(_summarize(row, function) for _, function in margins)] for row in values]
    across = list(zip(*values, strict=True))
    everything = [value for row in values for value in row]
    for i, (_, function) in enumerate(margins):
        corner: list[float | None] = [None] * len(margins)
        corner[i] = _summarize(everything, function)
        body.append([*(_summarize(column, function) for column in across), *corner])
    labels = [name for name, _ in margins]
    panel = HeatPanel(
        part.title,
        *names,
        (*map(str, columns), *labels),
        (*map(str, rows), *labels),
        tuple(map(tuple, body)),
        f"{_box_axis_label([runs.cell(*arm_task)], 'val').partition(chr(10))[0]}, validation split",
        digits=2 if len(columns) < 6 else 1,
        margins=len(margins),
        missing=missing,
    )
    return panel, notes


def _seed_deviation_panel(
    title: str, rows: Sequence[int], columns: Sequence[int], values: Sequence[Sequence[float | None]], missing: str
) -> HeatPanel:
    """Return the standard deviations with one seed held fixed.

    The first row has the deviation over data seeds for each initialisation seed, the second row the reverse.
    """
    of_rows = {seed: _summarize(row, statistics.stdev, 2) for seed, row in zip(rows, values, strict=True)}
    across = zip(*values, strict=True)
    of_columns = {seed: _summarize(column, statistics.stdev, 2) for seed, column in zip(columns, across, strict=True)}
    seeds = sorted({*rows, *columns})
    body = [
        (*(deviations.get(seed) for seed in seeds), _summarize(list(deviations.values()), statistics.fmean))
        for deviations in (of_rows, of_columns)
    ]
    return HeatPanel(
        title,
        "seed that is held fixed",
        "",
        (*map(str, seeds), "Avg."),
        ("initialisation fixed", "data order fixed"),
        tuple(body),
        "std in points",
        digits=2,
        missing=missing,
    )


def _none_unless_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _summarize(values: Sequence[float | None], function, min_count: int = 1) -> float | None:
    present = [value for value in values if value is not None]
    return function(present) if len(present) >= min_count else None
