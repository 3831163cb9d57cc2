"""Figures from the rows that tables are made from: every run's score, and the training losses of failed runs."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stableft.metrics import REGRESSION
from stableft.record import RunRecord
from stableft.report import wording
from stableft.report.cells import Cell
from stableft.report.drawing import DASHED, FAILED, FONT, GREY, KINDS, WIDTH, Kind, add_legend, house_style, kind_of
from stableft.report.table import Table, task_title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGINS = 1.6  # inches of a panel beside its boxes: the axis and the name of the baseline
MAX_PANELS = 6
HIGHEST = 3.0  # of the label entropy: a diverging run leaves the figure above that

Run = Mapping[str, Any]  # a row of the frame
Curve = list[tuple[int, float]]  # step, mean training loss since the evaluation before
Curves = Mapping[tuple[str, str | None], Curve]  # of a run id and source
Entry = tuple[str, dict[str, Any]]  # of a legend


def box_plot(table: Table, frame: "pd.DataFrame") -> "Figure | None":
    """Returns a panel for every task: a box for each arm, every run's score as a point, the majority baseline.

    None where no run has a score that can be drawn.
    """
    from matplotlib.figure import Figure

    runs = [run for run in frame.to_dict("records") if run["scored"] and not math.isnan(run["score"])]
    if not runs:
        return None
    boxes = len(table.rows)
    per_row = max(1, min(len(table.columns), int(WIDTH / (MARGINS + 0.8 * boxes))))
    rows = math.ceil(len(table.columns) / per_row)
    room = int(12 * max((WIDTH / per_row - MARGINS) / boxes, 0.75))  # letters below one box
    slant = any(len(word) > room for row in table.rows for word in row.split())
    with house_style():
        width = max(WIDTH, per_row * (MARGINS + (1.0 if slant else 0.75) * boxes))
        figure = Figure(figsize=(width, 0.5 + (4.8 if slant else 3.3) * rows), layout="constrained")
        panels = list(figure.subplots(rows, per_row, squeeze=False).flat)
        for axes, column in zip(panels, table.columns, strict=False):
            cells = [cell for cell in table.cells if cell.column == column]
            for position, cell in enumerate(cells):
                _box(axes, position, _of(runs, cell))
            _baselines(axes, cells)
            _name_axes(axes, cells, room, slant)
        for axes in panels[len(table.columns) :]:
            axes.set_visible(False)
        add_legend(figure, _marks(runs), 4)
    return figure


def _box(axes: "Axes", position: int, runs: Sequence[Run]) -> None:
    runs = sorted(runs, key=lambda run: (run["score"], run["run_id"]))
    percents = [100 * run["score"] for run in runs]
    axes.boxplot(
        [percents],
        positions=[position],
        widths=0.62,
        showfliers=False,  # every run is drawn as a point
        patch_artist=True,
        boxprops={"facecolor": "#F3F3F3", "edgecolor": GREY},
        medianprops={"color": "black", "linewidth": 1.6},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )
    # Side by side by the golden ratio: neighbours in score are far apart, and nothing is drawn at random.
    places = [position + 0.46 * ((i * 0.618034) % 1 - 0.5) for i in range(len(runs))]
    for kind in KINDS:
        chosen = [i for i, run in enumerate(runs) if kind_of(run["failed"]) is kind]
        if chosen:
            x, y = [places[i] for i in chosen], [percents[i] for i in chosen]
            axes.scatter(x, y, zorder=3, label=kind.name, **_mark(kind))


def _mark(kind: Kind) -> dict[str, Any]:
    drawn = {"marker": kind.marker, "color": kind.color, "alpha": 0.8, "s": 26}
    return drawn | ({"alpha": 1.0, "s": 34, "linewidth": 1.8} if kind is FAILED else {})


def _name_axes(axes: "Axes", cells: Sequence[Cell], room: int, slant: bool) -> None:
    labels = []
    for cell in cells:
        below = [f"n = {cell.summary.n}", f"{wording.failed(cell)} failed"]
        below += [f"{cell.summary.n_nan} NaN, not drawn"] if cell.summary.n_nan else []
        labels.append(
            f"{cell.row}\n{', '.join(below)}" if slant else "\n".join([*textwrap.wrap(cell.row, room), *below])
        )
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slant else {}
    axes.set_xticks(range(len(cells)), labels, **turned)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(cells) - 0.4)
    axes.set_title(task_title(cells[0].column), fontweight="bold")
    what = wording.heading(list(cells)).removeprefix(f"{task_title(cells[0].column)}: ")
    axes.set_ylabel(what.replace(", ", "\n", 1))


def _baselines(axes: "Axes", cells: Sequence[Cell]) -> None:
    """Draws the baseline through the panel, or through each arm where the arms have different ones."""
    known = {position: 100 * cell.baseline for position, cell in enumerate(cells) if cell.baseline is not None}
    if len(set(known.values())) == 1:
        value = next(iter(known.values()))
        axes.axhline(value, **DASHED, zorder=2, label="baseline")
        place = ("axes fraction", "data")
        axes.annotate(f"baseline\n{value:.1f}", (1, value), (3, 0), place, "offset points", va="center")
        return
    for position, value in known.items():
        axes.hlines(value, position - 0.45, position + 0.45, **DASHED, zorder=2, label="baseline")


def _marks(runs: Sequence[Run]) -> list[Entry]:
    kinds = {kind_of(run["failed"]) for run in runs}
    point: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgewidth": 1.6}
    marks = [
        (f"one run, {kind.name}", {"marker": kind.marker, "color": kind.color, **point})
        for kind in reversed(KINDS)
        if kind in kinds
    ]
    constant = any(run["metric"] in REGRESSION for run in runs)
    baseline = f"baseline: always the {'same answer' if constant else 'most frequent class'}"
    return [*marks, *([(baseline, DASHED)] if not all(math.isnan(run["baseline"]) for run in runs) else [])]


def training_loss_curves(table: Table, frame: "pd.DataFrame", records: Iterable[RunRecord]) -> "Figure | None":
    """Returns a panel for each arm with the training loss of every run over its steps, the failed ones marked.

    The panels share the axis of the loss; that of the steps is each one's own, because recipes differ sevenfold in
    length. Beyond MAX_PANELS the arms with the most failed runs are shown. None where no record has evaluations, as
    imported ones have not.
    """
    from matplotlib.figure import Figure

    finished = [record for record in records if record.status == "finished"]
    curves = {(record.run_id, record.source): curve for record in finished if (curve := _curve(record))}
    runs = [run for run in frame.to_dict("records") if (run["run_id"], run["source"]) in curves]
    panels = [cell for cell in table.cells if _of(runs, cell)]
    most = sorted(panels, key=lambda cell: -cell.failed)[:MAX_PANELS]
    shown = [cell for cell in panels if cell in most]
    if not shown:
        return None
    runs = [run for cell in shown for run in _of(runs, cell)]
    per_row = {1: 1, 2: 2, 4: 2}.get(len(shown), 3)
    rows = math.ceil(len(shown) / per_row)
    tasks = len({cell.column for cell in shown})
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.9 + 2.4 * rows), layout="constrained")
        axes = list(figure.subplots(rows, per_row, squeeze=False, sharey=True).flat)
        for one, cell in zip(axes, shown, strict=False):
            _panel(one, _of(runs, cell), curves)
            name = f"{task_title(cell.column)}, {cell.row}" if tasks > 1 else cell.row
            one.set_title("\n".join([*textwrap.wrap(name, 32), f"{wording.failed(cell)} failed"]))
        for one in axes[len(shown) :]:
            one.set_visible(False)
        axes[0].set_ylim(0, _top(runs, curves))
        for one in axes[::per_row]:
            one.set_ylabel("training loss\n(mean since the evaluation before)")
        those = (
            f" ({len(shown)} of {len(panels)} arms: those with most failed runs)" if len(shown) < len(panels) else ""
        )
        figure.supxlabel(f"optimizer step{those}", fontsize=FONT)
        add_legend(figure, _lines(runs), 2)
    return figure


def _curve(record: RunRecord) -> Curve:
    return [(point.step, point.train_loss) for point in record.evals if point.train_loss is not None]


def _of(runs: Sequence[Run], cell: Cell) -> list[Run]:
    return [run for run in runs if (run["arm"], run["task"]) == (cell.row, cell.column)]


def _panel(axes: "Axes", runs: Sequence[Run], curves: Curves) -> None:
    for kind in KINDS:
        lines = [curves[run["run_id"], run["source"]] for run in runs if kind_of(run["failed"]) is kind]
        thin: dict[str, Any] = {"alpha": 0.4, "linewidth": 0.7} if len(lines) > 1 else {"linewidth": 1.4}
        for line in lines:
            axes.plot(*_xy(line), color=kind.color, zorder=2, label=kind.name, **thin)
        if len(lines) > 1:
            mean = _xy(_mean(lines))
            axes.plot(*mean, color="white", linewidth=3.6, zorder=3)
            axes.plot(*mean, color=kind.color, linewidth=2.2, zorder=4, label=f"mean, {kind.name}")
    for entropy in _entropies(runs):
        axes.axhline(entropy, **DASHED, zorder=5, label="entropy")
    axes.set_xlim(left=0)


def _xy(line: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in line], [loss for _, loss in line]


def _mean(lines: Sequence[Curve]) -> Curve:
    """Returns the mean at every step that half of the runs have; one of fewer would jump where the others ended."""
    losses: dict[int, list[float]] = {}
    for step, loss in (point for line in lines for point in line):
        if math.isfinite(loss):
            losses.setdefault(step, []).append(loss)
    common = {step: values for step, values in sorted(losses.items()) if len(values) >= len(lines) / 2}
    return [(step, sum(values) / len(values)) for step, values in common.items()]


def _top(runs: Sequence[Run], curves: Curves) -> float:
    losses = [loss for run in runs for _, loss in curves[run["run_id"], run["source"]] if math.isfinite(loss)]
    highest, entropy = max(losses, default=1.0), max(_entropies(runs), default=None)
    return 1.05 * (highest if entropy is None else max(min(highest, HIGHEST * entropy), 1.1 * entropy))


def _entropies(runs: Sequence[Run]) -> list[float]:
    return sorted({run["label_entropy"] for run in runs if not math.isnan(run["label_entropy"])})


def _lines(runs: Sequence[Run]) -> list[Entry]:
    kinds = {kind_of(run["failed"]) for run in runs}
    lines = [
        (f"{kind.name} runs (bold: their mean)", {"color": kind.color, "linewidth": 2.2})
        for kind in reversed(KINDS)
        if kind in kinds
    ]
    entropies = _entropies(runs)
    value = f" ({entropies[0]:.2f} nats)" if len(entropies) == 1 else ""
    return lines + ([(f"nothing learnt: entropy of the training labels{value}", DASHED)] if entropies else [])
