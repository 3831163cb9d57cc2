"""Build panels from runs: boxes, points, seed maps, training curves, expected performance."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from stableft.catalog.tasks import METRIC_TITLES
from stableft.records.failure import CORRELATIONS, MIN_COMPARED_DIGITS, is_failed
from stableft.report.arm_cells import ArmCell, RunRow, seed_order
from stableft.report.artifact import (
    AtBaseline,
    BiasRatio,
    Boxes,
    Curves,
    Lengths,
    RunGroup,
    Scatter,
    SeedMap,
    Trials,
    VerdictCurves,
)
from stableft.report.figures.panels import (
    Box,
    BoxPanel,
    Curve,
    CurvePanel,
    HeatPanel,
    PointGroup,
    PointPanel,
    ReferenceLine,
)
from stableft.report.figures.style import RUN_STYLES, RunStyle, choose_run_style
from stableft.report.numbers_in_words import failed_value, scores_heading
from stableft.report.runs import NO_FINISHED_RUN, ArtifactRuns, curve_of_run, reported_score
from stableft.stats import expected_max, expected_test_score, wilson_interval
from stableft.text import seed_label
from stableft.training.schedule import bias_ratio, total_steps


def build_box_panel(part: Boxes, runs: ArtifactRuns) -> tuple[BoxPanel, list[str]]:
    """Return a panel with a box for each group that has scores, and a note that names the other groups."""
    groups = [(group.label, runs.cell(group.arm, group.task)) for group in part.groups]
    with_scores = [(label, cell, runs.by_arm_task[cell.arm, cell.task]) for label, cell in groups if cell.summary.n]
    empty = [label for label, cell in groups if not cell.summary.n]
    notes = [f"No run is finished of {', '.join(empty)}."] if empty and with_scores else []
    panel = box_panel(part.title, with_scores, part.of)
    by_label = {group.label: group for group in part.groups}
    boxes = tuple(replace(b, shade=by_label[b.label].shade, block=by_label[b.label].block) for b in panel.boxes)
    share = _shared_axis(part.groups, part.of)
    return replace(panel, boxes=boxes, names_label=part.names_label, star=part.star, share=share), notes


def _shared_axis(groups: Sequence[RunGroup], of: str) -> str:
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
    xlabel = "training loss (mean since the evaluation before the last)"
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
    notes = [f"{n_missing} of {len(rows) * len(columns)} pairs of seeds have no score."] if n_missing else []
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
        "percent",
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


MAX_TRIALS = 50
LOSS_RANGE, SCORE_RANGE = (0.0, None), (-100.0, 100.0)  # of scores in percent, correlations included
LAST_BIAS_STEP = 1_000_000  # last step of the curve of Adam's bias
CurvePanelWithNotes = tuple[CurvePanel, list[str]]


def build_curve_panel(part: Curves, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel of training losses or validation scores at every evaluation."""
    curves: list[Curve] = []
    notes: list[str] = []
    for group in part.groups:
        selected = _select_runs(part, runs.by_arm_task.get((group.arm, group.task), []))
        with_points = [run for run in selected if _curve_points(part, runs, run)]
        run_points = [_curve_points(part, runs, run) for run in with_points]
        if part.only:
            notes.append(_run_count_note(part, group, len(selected)))
        if len(run_points) < len(selected):
            notes.append(f"{group.label}: {len(selected) - len(run_points)} runs have no such curve.")
        curves += (
            [
                replace(_single_run_curve(group, i, points), hover=run_title(run, f"{points[-1][1]:.4g} at the end"))
                for i, (run, points) in enumerate(zip(with_points, run_points, strict=True))
            ]
            if part.band == "runs"
            else []
        )
        curves += [curve_with_band(group.label, run_points, part.band)] if run_points and part.band != "runs" else []
    title = {"train_loss": "training loss", "val": _score_axis_label(part.groups, runs)}[part.of]
    return (
        CurvePanel(
            part.title,
            "optimizer step",
            title,
            tuple(curves),
            missing="" if curves else NO_FINISHED_RUN,
            share=_shared_axis(part.groups, part.of),
            possible=LOSS_RANGE if part.of == "train_loss" else SCORE_RANGE,
        ),
        notes,
    )


def _select_runs(part: Curves, runs: Sequence[RunRow]) -> list[RunRow]:
    """Return the finished runs that the part selects, sorted by seed."""
    finished = sorted(
        (run for run in runs if run["status"] == "finished"),
        key=seed_order,
    )
    if part.only:
        finished = [run for run in finished if run["failed"] is (part.only == "failed")]
    return finished[: part.first]


def _run_count_note(part: Curves, group: RunGroup, n: int) -> str:
    if part.first and n < part.first:
        return f"{group.label}: {n} {part.only} runs, where the paper shows {part.first}."
    return f"{group.label}: the first {n} {part.only} runs by seed."


def _curve_points(part: Curves | VerdictCurves, runs: ArtifactRuns, run: RunRow) -> list[tuple[int, float]]:
    """Return the (step, value) pairs of a run, without missing values. Scores are in percent."""
    points = curve_of_run(runs, run)
    if part.of == "train_loss":
        return [(step, loss) for step, loss, _ in points if loss is not None]
    return [(step, 100 * score) for step, _, score in points if score is not None]


MAX_LOSS_OVER_ENTROPY = 3.0  # top of the loss axis, in label entropies; a diverging run leaves the figure


def build_verdict_panel(part: VerdictCurves, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return the curves of an arm by verdict, with reference lines for a model that has learnt nothing."""
    rows = runs.by_arm_task[part.group.arm, part.group.task]
    curves: list[Curve] = []
    means: list[Curve] = []
    for style in reversed(RUN_STYLES):
        run_points = [
            (run, points)
            for run in rows
            if choose_run_style(run["failed"]) is style and (points := _curve_points(part, runs, run))
        ]
        if not run_points:
            continue
        several, label = len(run_points) > 1, f"{style.name} runs"
        mean = replace(curve_with_band(label, [points for _, points in run_points], "std"), color=style.color)
        if part.band == "std":
            means.append(replace(mean, label=f"{label}, mean ± SD"))
            continue
        group = f"{label} (bold: their mean)"
        for run, points in run_points:
            x, y = zip(*points, strict=True)
            curves.append(
                Curve(
                    run["run_id"],
                    tuple(map(float, x)),
                    y,
                    n=1,
                    color=style.color,
                    thin=several,
                    group=group,
                    hover=run_title(run, f"{style.name}, {y[-1]:.4g} at the end"),
                )
            )
        means += [replace(mean, label=f"mean, {style.name}", low=(), high=(), group=group)] if several else []
    if part.of == "val":
        baselines = sorted({100 * run["val_baseline"] for run in rows if math.isfinite(run["val_baseline"])})
        nothing_learnt = tuple(ReferenceLine("baseline", value) for value in baselines)
        ylabel = _score_axis_label([part.group], runs)
    else:
        entropies = sorted({run["label_entropy"] for run in rows if not math.isnan(run["label_entropy"])})
        nothing_learnt = tuple(
            ReferenceLine(f"nothing learnt: label entropy, {nats:.2f} nats", nats) for nats in entropies
        )
        ylabel = "training loss"  # the mean since the evaluation before
    panel = CurvePanel(
        part.title,
        "optimizer step",
        ylabel,
        (*curves, *means),
        horizontal=nothing_learnt,
        left=0.0,
        missing="",
        share=_shared_axis([part.group], part.of),
        possible=LOSS_RANGE if part.of == "train_loss" else SCORE_RANGE,
    )
    if part.band == "runs":
        panel = replace(panel, bottom=0.0, top=_loss_axis_top(panel))
    return panel, []


def _loss_axis_top(panel: CurvePanel) -> float:
    highest = max((y for curve in panel.curves for y in curve.y if math.isfinite(y)), default=1.0)
    entropy = max((line.value for line in panel.horizontal), default=None)
    return 1.05 * (highest if entropy is None else max(min(highest, MAX_LOSS_OVER_ENTROPY * entropy), 1.1 * entropy))


def _single_run_curve(group: RunGroup, number: int, points: Sequence[tuple[int, float]]) -> Curve:
    return Curve(
        f"{group.label}, run {number + 1}",
        tuple(float(step) for step, _ in points),
        tuple(value for _, value in points),
        n=1,
        thin=True,
        group=group.label,
    )


def curve_with_band(label: str, runs: Sequence[Sequence[tuple[int, float]]], band: str) -> Curve:
    """Return the mean curve with its band.

    `runs` holds the (step, value) pairs of each run. Steps that fewer than half of the runs have are left out, because
    the mean would jump where the other runs ended.
    """
    values: dict[int, list[float]] = {}
    for step, value in (point for points in runs for point in points):
        values.setdefault(step, []).append(value)
    steps = [step for step, step_values in sorted(values.items()) if 2 * len(step_values) >= len(runs)]
    spreads = [mean_and_band(values[step], band) for step in steps]
    return Curve(
        label,
        tuple(map(float, steps)),
        tuple(mean for mean, _, _ in spreads),
        tuple(low for _, low, _ in spreads),
        tuple(high for _, _, high in spreads),
        n=len(runs),
    )


def mean_and_band(values: Sequence[float], band: str) -> tuple[float, float, float]:
    """Return mean, lower and upper edge of the band. All are NaN if a run has diverged, so that the line breaks."""
    array = np.asarray(values)
    mean = float(array.mean())
    if band == "range":
        return mean, float(array.min()), float(array.max())
    deviation = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return mean, mean - deviation, mean + deviation


def build_lengths_panel(part: Lengths, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel with mean and range of the validation score over the length of training in steps."""
    curves: list[Curve] = []
    notes: list[str] = []
    for label, points in part.lines:
        points_with_scores = []
        for steps, group in points:
            scores = _percent_scores(runs.by_arm_task.get((group.arm, group.task), []), "val")
            if nan := sum(map(math.isnan, scores)):
                notes.append(f"{label}, {steps} steps: {nan} of {len(scores)} scores are NaN, so there is no mean.")
            if scores:
                points_with_scores.append((float(steps), *mean_and_band(scores, "range"), len(scores)))
        if points_with_scores:
            x, mean, low, high, n = zip(*points_with_scores, strict=True)
            curves.append(Curve(label, x, mean, low, high, n=min(n)))
            if len(set(n)) > 1:
                notes.append(
                    f"{label}: " + ", ".join(f"{int(s)} steps n = {k}" for s, k in zip(x, n, strict=True)) + "."
                )
    ticks = tuple(float(steps) for steps, _ in part.lines[0][1])
    ylabel = _score_axis_label([group for _, points in part.lines for _, group in points], runs)
    panel = CurvePanel(
        part.title,
        "training steps",
        ylabel,
        tuple(curves),
        xlog=True,
        xticks=ticks,
        missing="" if curves else NO_FINISHED_RUN,
        possible=SCORE_RANGE,
    )
    return panel, notes


def build_trials_panel(part: Trials, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel with mean and standard deviation of the best of n random trials (Z Figs. 4, 12)."""
    curves: list[Curve] = []
    notes: list[str] = []
    checkpoints: set[str] = set()
    for group in part.groups:
        finished = [run for run in runs.by_arm_task.get((group.arm, group.task), []) if run["scored"]]
        val_scores = [reported_score(run, "val") for run in finished]
        val = [score for score in val_scores if score is not None]
        test = [run["score"] for run in finished]
        if not finished:
            continue
        if len(val) < len(finished):
            notes.append(f"{group.label}: the validation score of {len(finished) - len(val)} runs is not known.")
            continue
        checkpoints |= {run["checkpoint"] for run in finished}
        numbers = range(1, min(len(finished), MAX_TRIALS) + 1)
        baseline_name = "baseline" if part.of == "test" else "val_baseline"
        baselines = [run[baseline_name] for run in finished if not math.isnan(run[baseline_name])]
        baseline = max(baselines, default=None)
        if part.of == "test":
            expected = expected_test_score(val, test, numbers, baseline)
        else:
            expected = expected_max(val, numbers, baseline)
        if expected.reason:
            notes.append(f"{group.label}: {expected.reason}.")
            continue
        if expected.n_nan and baseline is not None:
            notes.append(
                f"{group.label}: the scores of {expected.n_nan} of {expected.n} runs are NaN. A draw of these alone "
                f"scores the baseline, {100 * baseline:.1f}; its probability is {expected.all_nan[0]:.2g} for 1 trial "
                f"and {expected.all_nan[-1]:.1g} for {numbers[-1]}."
            )
        mean, std = (100 * np.asarray(values, dtype=float) for values in (expected.mean, expected.std))
        curves.append(
            Curve(
                group.label,
                tuple(map(float, numbers)),
                tuple(mean.tolist()),
                tuple((mean - std).tolist()),
                tuple((mean + std).tolist()),
                n=len(finished),
            )
        )
    if curves:
        by = f"by the validation score of the {' or '.join(sorted(checkpoints))} checkpoint"
        method_notes = {
            "test": f"The best of each number of runs drawn with replacement, {by}, over all draws (Z sec. 4).",
            "val": f"The best of each number of runs drawn with replacement, {by}, in closed form (Dodge et al. 2019).",
        }
        notes.append(method_notes[part.of])
    split_title = "test" if part.of == "test" else "validation"
    ylabel = f"expected {split_title} {_metric_title(part.groups, runs)}"
    missing = "" if curves else NO_FINISHED_RUN
    panel = CurvePanel(part.title, "random trials", ylabel, tuple(curves), missing=missing, possible=SCORE_RANGE)
    return panel, notes


LOG_STEPS_ABOVE_RATIO = 4  # between the numbers of steps of two groups; above it, the steps are on a logarithmic scale


def build_at_baseline_panel(part: AtBaseline, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return the share of each group's runs whose validation score is no better than chance, with its Wilson interval.

    By MCC and correlations, chance is that of the reported split. Steps that fewer than half of the runs have are left
    out.
    """
    curves: list[Curve] = []
    for group in part.groups:
        verdicts: dict[int, list[bool]] = {}
        rows = [run for run in runs.by_arm_task.get((group.arm, group.task), []) if curve_of_run(runs, run)]
        for run in rows:
            level = run["chance"] if run["metric"] in CORRELATIONS else run["val_baseline"]
            digits = MIN_COMPARED_DIGITS if isinstance(run["source"], str) else None
            for step, _, score in curve_of_run(runs, run):
                if score is not None and not math.isnan(level):
                    verdicts.setdefault(step, []).append(is_failed(score, level, digits))
        steps = [step for step, known in sorted(verdicts.items()) if 2 * len(known) >= len(rows)]
        if len(steps) < 2:
            continue
        counts = [(sum(verdicts[step]), len(verdicts[step])) for step in steps]
        intervals = [wilson_interval(k, n) for k, n in counts]
        curves.append(
            Curve(
                group.label,
                tuple(map(float, steps)),
                tuple(100 * k / n for k, n in counts),
                tuple(100 * (interval.low or 0.0) for interval in intervals),
                tuple(100 * (1.0 if interval.high is None else interval.high) for interval in intervals),
                n=len(rows),
            )
        )
    ends = [curve.x[-1] for curve in curves]
    panel = CurvePanel(
        part.title,
        "optimizer step",
        "runs at chance level [percent]",
        tuple(curves),
        xlog=bool(ends) and max(ends) > LOG_STEPS_ABOVE_RATIO * min(ends),
        bottom=-2.0,
        top=102.0,
        missing="" if curves else "no run has two validation scores with a known chance level",
        possible=(0.0, 100.0),
    )
    return panel, []


def build_bias_ratio_panel(part: BiasRatio, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel with the ratio of Adam's update without bias correction to that with it, or the inverse (M eq. 1).

    The x axis is the optimizer step.
    """
    steps = np.unique(np.logspace(0, math.log10(LAST_BIAS_STEP), 200).astype(int)).tolist()
    values = [bias_ratio(step) for step in steps]
    curve = Curve(
        "sqrt(1 - 0.999^t) / (1 - 0.9^t)" if part.inverse else "without over with correction",
        tuple(map(float, steps)),
        tuple(1 / value if part.inverse else value for value in values),
        legend="√(1 − 0.999ᵗ) / (1 − 0.9ᵗ)" if part.inverse else "update without bias correction over that with it",
    )
    steps_by_label = {group.label: _planned_steps(runs, group) for group in part.groups}
    marks = tuple(ReferenceLine(label, float(steps)) for label, steps in steps_by_label.items() if steps is not None)
    notes = [
        f"{label}: {steps:,} steps, where the bias is {bias_ratio(steps):.2f}."
        for label, steps in steps_by_label.items()
        if steps
    ]
    ylabel = "factor on the learning rate" if part.inverse else "bias of the update"
    return CurvePanel(part.title, "optimizer step", ylabel, (curve,), xlog=True, vertical=marks), notes


def _planned_steps(runs: ArtifactRuns, group: RunGroup) -> int | None:
    """Return the number of steps of a group's planned runs. None: the size of their data set is unknown."""
    config = runs.planned_configs.get((group.arm, group.task))
    rows = config and (config.data.train_rows or config.task.train_rows)
    return total_steps(config.schedule, rows) if config and rows else None


def _percent_scores(runs: Sequence[RunRow], split: str) -> list[float]:
    return [100 * score for run in runs if run["scored"] and (score := reported_score(run, split)) is not None]


def _metric_title(groups: Sequence[RunGroup], runs: ArtifactRuns) -> str:
    metrics = {run["metric"] for group in groups for run in runs.by_arm_task.get((group.arm, group.task), [])}
    return METRIC_TITLES.get(metrics.copy().pop(), "score") if len(metrics) == 1 else "score"


def _score_axis_label(groups: Sequence[RunGroup], runs: ArtifactRuns) -> str:
    return f"validation {_metric_title(groups, runs)} [percent]"
