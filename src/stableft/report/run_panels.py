"""Runs -> panels in which every run is seen: boxes, points, and maps of two seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from stableft.report import wording
from stableft.report.artifact import Boxes, Scatter, SeedMap
from stableft.report.cells import Cell
from stableft.report.curve_panels import NONE_YET, reported
from stableft.report.drawing import KINDS, Kind, kind_of
from stableft.report.gather import Runs
from stableft.report.panels import Box, BoxPanel, HeatPanel, Line, PointPanel, Points

Run = Mapping[str, Any]


def boxes(part: Boxes, runs: Runs) -> tuple[BoxPanel, list[str]]:
    """Returns a box for each group that has a score; those without one are named in a note."""
    cells = [(group, runs.cell(group.arm, group.task)) for group in part.groups]
    places = runs.by_place
    found = [
        make_box(group.label, cell, places[cell.row, cell.column], part.of) for group, cell in cells if cell.summary.n
    ]
    empty = [group.label for group, cell in cells if not cell.summary.n]
    notes = [f"No run is finished of {', '.join(empty)}."] if empty and found else []
    ylabel = _ylabel([cell for _, cell in cells], part.of)
    return BoxPanel(part.title, ylabel, tuple(found), missing="" if found else NONE_YET), notes


def make_box(label: str, cell: Cell, runs: Sequence[Run], of: str) -> Box:
    """Returns the box of a cell and its runs, with the reported scores or the validation scores of the same weights."""
    scored = [run for run in runs if run["scored"]]
    known = [(score, run) for run in scored if (score := reported(run, of)) is not None]
    pairs = [(100 * score, run) for score, run in known if not math.isnan(score)]
    pairs.sort(key=lambda pair: (pair[0], pair[1]["run_id"]))
    of_val = [run["val_baseline"] for run in runs if run["scored"] and not math.isnan(run["val_baseline"])]
    baseline = cell.baseline if of == "test" or cell.split == "val" else max(of_val, default=None)
    return Box(
        label,
        tuple(score for score, _ in pairs),
        tuple(run["failed"] if isinstance(run["failed"], bool) else None for _, run in pairs),
        n=len(known),
        n_nan=len(known) - len(pairs),
        n_failed=wording.failed(cell),
        baseline=None if baseline is None else 100 * baseline,
    )


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def _ylabel(cells: Sequence[Cell], of: str) -> str:
    scored = [cell for cell in cells if cell.metric]
    if not scored:
        return "score in percent"
    title = wording.heading(scored).partition(": ")[2]
    return title.replace("test split", "validation split") if of == "val" else title


def scatter(part: Scatter, runs: Runs) -> tuple[PointPanel, list[str]]:
    """Returns the reported score over the last training loss, a point for every run."""
    kinds: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    lost = 0
    baselines: set[float] = set()
    for run in (run for group in part.groups for run in runs.by_place.get((group.arm, group.task), [])):
        if not run["scored"]:
            continue
        loss, score = run["train_loss"], run["score"]
        if not (math.isfinite(loss) and math.isfinite(score) and loss > 0):
            lost += 1
            continue
        baselines |= {100 * run["baseline"]} if not math.isnan(run["baseline"]) else set()
        kinds[kind_of(run["failed"])].append((loss, 100 * score))
    groups = tuple(
        Points(kind.name, tuple(x for x, _ in points), tuple(y for _, y in points), kind.color, kind.marker)
        for kind, points in kinds.items()
        if points
    )
    notes = [f"{lost} runs have no finite loss or score, and are not drawn."] if lost else []
    cells = [runs.cell(group.arm, group.task) for group in part.groups]
    lines = (Line("baseline", baselines.pop()),) if len(baselines) == 1 else ()
    xlabel = "training loss (mean since the evaluation before the last)"
    panel = PointPanel(
        part.title,
        xlabel,
        _ylabel(cells, "test"),
        groups,
        xlog=True,
        horizontal=lines,
        missing="" if groups else NONE_YET,
    )
    return panel, notes


def seed_map(part: SeedMap, runs: Runs) -> tuple[HeatPanel, list[str]]:
    """Returns validation scores by seed of initialisation (rows) and of data order and dropout (columns).

    With `of` "scores" margins hold min, mean and max; with "std" the panel holds the standard deviations (ddof 1) of
    each row and column, and their averages.
    """
    place = (part.group.arm, part.group.task)
    found = [run for run in runs.by_place.get(place, []) if run["scored"]]
    scored = {
        (run["seed_init"], run["seed_data"]): 100 * _number(reported(run, "val"))
        for run in found
        if not isinstance(run["source"], str)
    }
    rows, columns = sorted({init for init, _ in scored}), sorted({data for _, data in scored})
    values = [[_finite(scored.get((init, data))) for data in columns] for init in rows]
    names = ("seed of data order and dropout", "seed of initialisation")
    missing = "" if scored else NONE_YET
    holes = sum(value is None for row in values for value in row)
    notes = [f"{holes} of {len(rows) * len(columns)} pairs of seeds have no score."] if holes else []
    if len(found) > len(scored):
        notes.append("Imported runs are left out: of them one seed is known, not two.")
    if part.of == "std":
        return _deviations(part.title, rows, columns, values, missing), notes
    margins = (("Min", min), ("Mean", statistics.fmean), ("Max", max))
    body = [[*row, *(_summary(row, function) for _, function in margins)] for row in values]
    across = list(zip(*values, strict=True))
    everything = [value for row in values for value in row]
    for i, (_, function) in enumerate(margins):
        corner: list[float | None] = [None] * len(margins)
        corner[i] = _summary(everything, function)
        body.append([*(_summary(column, function) for column in across), *corner])
    labels = [name for name, _ in margins]
    panel = HeatPanel(
        part.title,
        *names,
        (*map(str, columns), *labels),
        (*map(str, rows), *labels),
        tuple(map(tuple, body)),
        "percent",
        digits=2 if len(columns) < 6 else 1,
        margins=len(margins),
        missing=missing,
    )
    return panel, notes


def _deviations(
    title: str, rows: Sequence[int], columns: Sequence[int], values: Sequence[Sequence[float | None]], missing: str
) -> HeatPanel:
    """Returns the deviation over data seeds of each initialisation, and over initialisations of each data seed."""
    of_rows = {seed: _summary(row, statistics.stdev, 2) for seed, row in zip(rows, values, strict=True)}
    across = zip(*values, strict=True)
    of_columns = {seed: _summary(column, statistics.stdev, 2) for seed, column in zip(columns, across, strict=True)}
    seeds = sorted({*rows, *columns})
    body = [
        (*(found.get(seed) for seed in seeds), _summary(list(found.values()), statistics.fmean))
        for found in (of_rows, of_columns)
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _summary(values: Sequence[float | None], function, least: int = 1) -> float | None:
    known = [value for value in values if value is not None]
    return function(known) if len(known) >= least else None
