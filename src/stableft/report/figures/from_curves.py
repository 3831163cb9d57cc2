"""Build panels of curves from runs: training, expected performance, runs at the baseline, the bias of Adam."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from stableft.catalog.tasks import METRIC_TITLES, TASKS
from stableft.records.failure import CORRELATIONS, LOWER_IS_BETTER, MIN_COMPARED_DIGITS, is_failed
from stableft.report.arm_cells import RunRow, seed_order
from stableft.report.artifact import (
    AtBaseline,
    BiasRatio,
    Curves,
    Lengths,
    RunGroup,
    Trials,
    VerdictCurves,
)
from stableft.report.figures.from_runs import run_title, shared_axis
from stableft.report.figures.panels import (
    STEP_AXIS,
    Curve,
    CurvePanel,
    ReferenceLine,
)
from stableft.report.figures.style import FAILED_STYLE, PALETTE, RUN_STYLES, SUCCESSFUL_STYLE, choose_run_style
from stableft.report.paper_values import PAPERS
from stableft.report.runs import NO_FINISHED_RUN, ArtifactRuns, curve_of_run, reported_score
from stableft.stats import expected_max, expected_test_score, wilson_interval
from stableft.text import join_with
from stableft.training.schedule import bias_ratio, total_steps

MAX_TRIALS = 50
NAN_DRAW = "A draw of these alone scores the baseline"
BOTH_DIRECTIONS = "higher scores are better in some arms and lower ones in others"
BANDS = {"std": "mean ± 1 SD", "range": "mean and range"}
LOSS_RANGE: tuple[float | None, float | None] = (0.0, None)
LAST_BIAS_STEP = 1_000_000  # last step of the curve of Adam's bias
CurvePanelWithNotes = tuple[CurvePanel, list[str]]


def build_curve_panel(part: Curves, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel of training losses or validation scores at every evaluation."""
    curves: list[Curve] = []
    notes: list[str] = []
    shown: list[RunRow] = []
    for group in part.groups:
        selected = _select_runs(part, runs.by_arm_task.get((group.arm, group.task), []))
        with_points = [run for run in selected if _curve_points(part, runs, run)]
        run_points = [_curve_points(part, runs, run) for run in with_points]
        shown += with_points
        if part.only:
            notes.append(_run_count_note(part, group, len(selected)))
        if len(run_points) < len(selected):
            notes.append(f"{group.label}: {len(selected) - len(run_points)} runs have no such curve.")
        curves += (
            [
                _single_run_curve(group, i, points, run)
                for i, (run, points) in enumerate(zip(with_points, run_points, strict=True))
            ]
            if part.band == "runs"
            else []
        )
        if run_points and part.band != "runs":
            curves.append(curve_with_band(group.label, run_points, part.band))
            notes += dropped_notes(part.title, group.label, run_points)
    notes += _short_interval_notes(part, runs, shown)
    title = {"train_loss": "training loss", "val": _score_axis_label(part.groups, runs)}[part.of]
    return (
        CurvePanel(
            part.title,
            STEP_AXIS,
            title,
            tuple(curves),
            missing="" if curves else NO_FINISHED_RUN,
            horizontal=_nothing_learnt(shown, part.of) if part.only else (),
            share=shared_axis(part.groups, part.of),
            possible=LOSS_RANGE if part.of == "train_loss" else _score_range(part.groups, runs),
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
        losses = [(step, loss) for step, loss, _ in points if loss is not None]
        return losses[:-1] if _ends_early(losses) else losses
    return [(step, 100 * score) for step, _, score in points if score is not None]


SHORT_INTERVAL = 0.5  # of the steps between the evaluations before
SHORT_INTERVAL_NOTE = (
    "A last training loss that is the mean of less than half as many steps as the one before is not drawn: it scatters "
    "more."
)


def _ends_early(losses: Sequence[tuple[int, float]]) -> bool:
    """Return whether the last evaluation is much nearer to the one before than usual, as after a rest of the steps."""
    if len(losses) < 3:
        return False
    before, last = losses[-2][0] - losses[-3][0], losses[-1][0] - losses[-2][0]
    return last < SHORT_INTERVAL * before


def _short_interval_notes(part: Curves | VerdictCurves, runs: ArtifactRuns, shown: Sequence[RunRow]) -> list[str]:
    points = ([(step, loss) for step, loss, _ in curve_of_run(runs, run) if loss is not None] for run in shown)
    return [SHORT_INTERVAL_NOTE] if part.of == "train_loss" and any(map(_ends_early, points)) else []


DROPPED_NOTE = (
    "A run is left out of the mean from its first NaN on, even if it is finite again; a mean of fewer than half of the "
    "runs is not drawn."
)
MAX_LOSS_OVER_ENTROPY = 3.0  # top of the loss axis, in label entropies; a diverging run leaves the figure


def build_verdict_panel(part: VerdictCurves, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return the curves of an arm by verdict, with reference lines for a model that has learnt nothing.

    Successful runs have the arm's colour in other figures, failed ones are vermillion and dashed in all of them.
    """
    arm_color = _palette_color(runs, part.group.arm)
    rows = runs.by_arm_task[part.group.arm, part.group.task]
    curves: list[Curve] = []
    means: list[Curve] = []
    notes: list[str] = []
    for style in reversed(RUN_STYLES):
        run_points = [
            (run, points)
            for run in rows
            if choose_run_style(run["failed"]) is style and (points := _curve_points(part, runs, run))
        ]
        if not run_points:
            continue
        several, label = len(run_points) > 1, f"{style.name} runs"
        label += ", in their arm's colour" if style is SUCCESSFUL_STYLE and len(runs.by_arm_task) > 1 else ""
        look = {
            "color": arm_color if style is SUCCESSFUL_STYLE else style.color,
            "dashed": style is FAILED_STYLE,
        }
        mean = replace(curve_with_band(label, [points for _, points in run_points], "std"), **look)
        notes += [DROPPED_NOTE] if mean.dropped and several else []
        if part.band == "std":
            means.append(mean)
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
                    thin=several,
                    group=group,
                    hover=run_title(run, f"{style.name}, {y[-1]:.4g} at step {x[-1]}"),
                    **look,
                )
            )
        means += (
            [replace(mean, label=f"mean, {style.name}", low=(), high=(), band="", dropped=(), group=group)]
            if several
            else []
        )
    # A training loss is the mean since the evaluation before.
    ylabel = "training loss" if part.of == "train_loss" else _score_axis_label([part.group], runs)
    panel = CurvePanel(
        part.title,
        STEP_AXIS,
        ylabel,
        (*curves, *means),
        horizontal=_nothing_learnt(rows, part.of),
        left=0.0,
        missing="",
        share=shared_axis([part.group], part.of),
        metric=_metric_title([part.group], runs) if part.of == "val" else "",
        counted=" failed" in part.title,
        possible=LOSS_RANGE if part.of == "train_loss" else _score_range([part.group], runs),
    )
    if part.band == "runs":
        panel = replace(panel, bottom=0.0, top=_loss_axis_top(panel))
    notes += _short_interval_notes(part, runs, rows)
    if part.of == "train_loss" and panel.horizontal and any(isinstance(run["source"], str) for run in rows):
        notes.append("The label entropy of imported runs is that of GLUE's training file.")
    if part.of == "train_loss" and (task := TASKS.get(part.group.task)) and task.is_regression:
        notes.append(f"{task.title} has no label entropy: its labels are numbers.")
    return panel, notes


def _palette_color(runs: ArtifactRuns, arm: str) -> str:
    """Return the colour that an arm has in figures of several arms."""
    arms = list(dict.fromkeys([*runs.recipes, *(arm for arm, _ in runs.by_arm_task)]))
    return PALETTE[arms.index(arm) % len(PALETTE)]


def _nothing_learnt(rows: Sequence[RunRow], of: Literal["train_loss", "val"]) -> tuple[ReferenceLine, ...]:
    """Return the training losses or the scores of a model that has learnt nothing, as lines."""
    if of == "val":
        baselines = sorted({100 * run["val_baseline"] for run in rows if math.isfinite(run["val_baseline"])})
        return tuple(ReferenceLine("baseline", value) for value in baselines)
    entropies = sorted({nats for run in rows if not math.isnan(nats := _label_entropy(run))})
    return tuple(ReferenceLine("nothing learnt: label entropy", nats) for nats in entropies)


def _label_entropy(run: RunRow) -> float:
    """Return the entropy of a run's training labels. Imported runs on the papers' rows have those of GLUE's file."""
    task = TASKS.get(run["task"])
    if not isinstance(run["source"], str) or not task or not task.train_counts or math.isnan(run["val_baseline"]):
        return run["label_entropy"]
    shares = np.divide(task.train_counts, sum(task.train_counts))
    return float(-(shares * np.log(shares)).sum())


def _loss_axis_top(panel: CurvePanel) -> float:
    highest = max((y for curve in panel.curves for y in curve.y if math.isfinite(y)), default=1.0)
    entropy = max((line.value for line in panel.horizontal), default=None)
    return 1.05 * (highest if entropy is None else max(min(highest, MAX_LOSS_OVER_ENTROPY * entropy), 1.1 * entropy))


def _single_run_curve(group: RunGroup, number: int, points: Sequence[tuple[int, float]], run: RunRow) -> Curve:
    return Curve(
        f"{group.label}, run {number + 1}",
        tuple(float(step) for step, _ in points),
        tuple(value for _, value in points),
        n=1,
        thin=True,
        group=group.label,
        hover=run_title(run, f"{points[-1][1]:.4g} at step {points[-1][0]}"),
    )


def curve_with_band(label: str, runs: Sequence[Sequence[tuple[int, float]]], band: str) -> Curve:
    """Return the mean curve with its band.

    `runs` holds the (step, value) pairs of each run. A run is part of the mean until its first NaN. Steps that fewer
    than half of the runs have are left out, because the mean would jump where the other runs ended.
    """
    values: dict[int, list[float]] = {}
    for step, value in (point for points in runs for point in _until_nan(points)):
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
        band=BANDS[band],
        dropped=tuple(sorted(float(step) for points in runs for step in _nan_step(points))),
    )


def _nan_step(points: Sequence[tuple[int, float]]) -> list[int]:
    """Return the step of the first value of a run that is no finite number, if it has one."""
    return [step for step, value in points if not math.isfinite(value)][:1]


def _until_nan(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    end = _nan_step(points)
    return [(step, value) for step, value in points if not end or step < end[0]]


def dropped_notes(title: str, label: str, runs: Sequence[Sequence[tuple[int, float]]]) -> list[str]:
    """Return sentences on the runs that are no part of a mean from some step on, if there are any."""
    ends = sorted(step for points in runs for step in _nan_step(points))
    if not ends:
        return []
    steps = ", ".join(
        f"{len(runs) - sum(other <= step for other in ends)} from step {step}" for step in sorted({*ends})
    )
    where = f"{title}, {label}" if title else label
    return [DROPPED_NOTE, f"{where}: of {len(runs)} runs, mean and band have {steps}."]


def mean_and_band(values: Sequence[float], band: str) -> tuple[float, float, float]:
    """Return mean, lower and upper edge of the band. All are NaN if a value is, so that the line breaks."""
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
        points_with_scores, left_out = [], []
        for steps, group in points:
            scores = _percent_scores(runs.by_arm_task.get((group.arm, group.task), []), "val")
            finite = [score for score in scores if not math.isnan(score)]
            if nan := len(scores) - len(finite):
                notes.append(f"{label}, {steps:,} steps: {nan} of {len(scores)} scores NaN and left out.")
            if scores:
                points_with_scores.append((float(steps), *mean_and_band(finite or scores, "range"), len(scores)))
                left_out += [float(steps)] if nan and finite else []
        if points_with_scores:
            x, mean, low, high, n = zip(*points_with_scores, strict=True)
            curves.append(Curve(label, x, mean, low, high, n=min(n), band=BANDS["range"], without_nan=tuple(left_out)))
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
        possible=_score_range([group for _, points in part.lines for _, group in points], runs),
    )
    return panel, notes


def build_trials_panel(part: Trials, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return a panel with mean and standard deviation of the best of n random trials (Z Figs. 4, 12).

    The best has the lowest score where that is better. Arms of both kinds have no axis in common, so they have none.
    """
    directions = {run["direction"] for run in _scored_runs(part.groups, runs)}
    lower = directions == {LOWER_IS_BETTER}
    sign = -1 if lower else 1
    curves: list[Curve] = []
    notes: list[str] = []
    checkpoints: set[str] = set()
    nan_counts: list[str] = []
    for group in part.groups if len(directions) == 1 else ():
        finished = _scored_runs((group,), runs)
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
        baseline = (min if lower else max)(baselines, default=None)
        drawn_alone = None if baseline is None else sign * baseline
        order = [sign * score for score in val]
        if part.of == "test":
            expected = expected_test_score(order, [sign * score for score in test], numbers, drawn_alone)
        else:
            expected = expected_max(order, numbers, drawn_alone)
        if expected.reason:
            notes.append(f"{group.label}: {expected.reason}.")
            continue
        if expected.n_nan and baseline is not None:
            notes.append(
                f"{group.label}: the scores of {expected.n_nan} of {expected.n} runs are NaN. {NAN_DRAW}, "
                f"{100 * baseline:.1f}; its probability is {expected.all_nan[0]:.2g} for 1 trial "
                f"and {expected.all_nan[-1]:.1g} for {numbers[-1]}."
            )
            where = f"{part.title}, {group.label}" if part.title else group.label
            nan_counts.append(f"{expected.n_nan} of {expected.n} runs of {where}")
        mean = 100 * sign * np.asarray(expected.mean, dtype=float)
        std = 100 * np.asarray(expected.std, dtype=float)
        curves.append(
            Curve(
                group.label,
                tuple(map(float, numbers)),
                tuple(mean.tolist()),
                tuple((mean - std).tolist()),
                tuple((mean + std).tolist()),
                n=len(finished),
                band=BANDS["std"],
            )
        )
    if curves:
        by = f"by the validation score of the {' or '.join(sorted(checkpoints))} checkpoint"
        methods = {
            "test": f"over all draws ({PAPERS['Z']}, sec. 4)",
            "val": "in closed form (Dodge et al. 2019)",
        }
        best = f"best ({LOWER_IS_BETTER})" if lower else "best"
        notes.append(f"The {best} of each number of runs drawn with replacement, {by}, {methods[part.of]}.")
    split_title = "test" if part.of == "test" else "validation"
    metric = _metric_title(part.groups, runs)
    ylabel = f"expected {split_title} {metric} [percent]" + (f", {LOWER_IS_BETTER}" if lower else "")
    missing = "" if curves else BOTH_DIRECTIONS if len(directions) > 1 else NO_FINISHED_RUN
    possible = _score_range(part.groups, runs)
    panel = CurvePanel(part.title, "random trials", ylabel, tuple(curves), missing=missing, possible=possible)
    drawn_note = f"A NaN counts as the baseline's score: {join_with(nan_counts)}." if nan_counts else ""
    return replace(panel, metric=metric, note=drawn_note), notes


LAST_SHARES_NOTE = (
    "Shaded: the share at a line's last evaluation, with its 95 % Wilson interval. Where lines are equal, their dashes "
    "alternate."
)
LOG_STEPS_ABOVE_RATIO = 4  # between the numbers of steps of two groups; above it, the steps are on a logarithmic scale


def build_at_baseline_panel(part: AtBaseline, runs: ArtifactRuns) -> CurvePanelWithNotes:
    """Return the share of each group's runs whose validation score is no better than chance, with its Wilson interval.

    By MCC and correlations, chance is that of the reported split. A run that ended with NaN stays at chance. Steps that
    fewer than half of the runs have are left out. Curves are steps, because a share is known at evaluations alone.
    """
    curves: list[Curve] = []
    without: list[str] = []
    with_nan = False
    for group in part.groups:
        verdicts: dict[int, list[bool]] = {}
        ended: list[int] = []  # last steps of the runs that ended with NaN
        rows = [run for run in runs.by_arm_task.get((group.arm, group.task), []) if curve_of_run(runs, run)]
        for run in rows:
            level = run["chance"] if run["metric"] in CORRELATIONS else run["val_baseline"]
            digits = MIN_COMPARED_DIGITS if isinstance(run["source"], str) else None
            for step, _, score in curve_of_run(runs, run):
                if score is not None and not math.isnan(level):
                    verdicts.setdefault(step, []).append(is_failed(score, level, digits))
            scores = [(step, score) for step, _, score in curve_of_run(runs, run) if score is not None]
            if scores and math.isnan(scores[-1][1]) and not math.isnan(level):
                ended.append(scores[-1][0])
        with_nan |= bool(ended)
        for step, known in verdicts.items():
            known += [True] * sum(end < step for end in ended)
        steps = [step for step, known in sorted(verdicts.items()) if 2 * len(known) >= len(rows)]
        if len(steps) < 2:
            without += [group.label] if rows else []
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
        STEP_AXIS,
        "runs at chance level [percent]",
        tuple(curves),
        xlog=bool(ends) and max(ends) > LOG_STEPS_ABOVE_RATIO * min(ends),
        bottom=-6.0,
        top=106.0,
        missing="" if curves else "no run has two validation scores with a known chance level",
        possible=(0.0, 100.0),
        steps=True,
    )
    notes = [LAST_SHARES_NOTE]
    notes += [_last_share_note(part, runs)] if _last_shares_differ(curves, part, runs) else []
    notes += ["The logarithmic axis has no step 0."] if panel.xlog and min(c.x[0] for c in curves) <= 0 else []
    notes += ["A run that ended with NaN counts as at chance level from then on."] if with_nan else []
    if curves and without:
        where = f"{part.title}: " if part.title else ""
        notes.append(f"{where}{', '.join(without)}: no two validation scores with a known chance level.")
    return panel, notes if curves else []


def _last_shares_differ(curves: Sequence[Curve], part: AtBaseline, runs: ArtifactRuns) -> bool:
    """Return whether the last share of an arm's curve is not that of its failed runs."""
    cells = {group.label: runs.cell(group.arm, group.task) for group in part.groups}
    return any(
        round(curve.y[-1] - 100 * cells[curve.label].failed / max(cells[curve.label].n_known, 1), 6) != 0
        for curve in curves
    )


def _last_share_note(part: AtBaseline, runs: ArtifactRuns) -> str:
    """Return why a last share may differ from that of failed runs."""
    cells = [runs.cell(group.arm, group.task) for group in part.groups]
    judged = "test" if any(cell.split == "test" for cell in cells) else "validation"
    at = "last" if all(cell.judged_by_last for cell in cells) else "best"
    return (
        f"A last share is not always that of failed runs: these are judged on the {judged} split at the {at} "
        "checkpoint, the lines by the validation split at evaluations."
    )


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
    return CurvePanel(part.title, STEP_AXIS, ylabel, (curve,), xlog=True, vertical=marks), notes


def _planned_steps(runs: ArtifactRuns, group: RunGroup) -> int | None:
    """Return the number of steps of a group's planned runs. None: the size of their data set is unknown."""
    config = runs.planned_configs.get((group.arm, group.task))
    rows = config and (config.data.train_rows or config.task.train_rows)
    return total_steps(config.schedule, rows) if config and rows else None


def _scored_runs(groups: Sequence[RunGroup], runs: ArtifactRuns) -> list[RunRow]:
    return [run for group in groups for run in runs.by_arm_task.get((group.arm, group.task), []) if run["scored"]]


def _percent_scores(runs: Sequence[RunRow], split: str) -> list[float]:
    return [100 * score for run in runs if run["scored"] and (score := reported_score(run, split)) is not None]


def _metrics(groups: Sequence[RunGroup], runs: ArtifactRuns) -> set[str]:
    return {run["metric"] for group in groups for run in runs.by_arm_task.get((group.arm, group.task), [])}


def _score_range(groups: Sequence[RunGroup], runs: ArtifactRuns) -> tuple[float, float]:
    """Return the range of possible scores in percent: from 0, or lower as correlations and a command's own range."""
    commands = filter(None, (runs.commands.get((group.arm, group.task)) for group in groups))
    lowest = min([0.0, *(command.score.bounds[0] for command in commands)])
    return -100.0 if _metrics(groups, runs) & {*CORRELATIONS} else 100 * lowest, 100.0


def _metric_title(groups: Sequence[RunGroup], runs: ArtifactRuns) -> str:
    metrics = _metrics(groups, runs)
    return METRIC_TITLES.get(metrics.copy().pop(), "score") if len(metrics) == 1 else "score"


def _score_axis_label(groups: Sequence[RunGroup], runs: ArtifactRuns) -> str:
    return f"validation {_metric_title(groups, runs)} [percent]"
