"""Runs -> panels of curves: training, lengths, random trials, and the bias of Adam's update."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stableft.metrics import TITLES
from stableft.report.artifact import BiasRatio, Curves, Group, Lengths, Trials
from stableft.report.gather import Evaluation, Runs
from stableft.report.panels import Curve, CurvePanel, Line
from stableft.schedule import bias_ratio, total_steps
from stableft.stats import expected_max, expected_test

NONE_YET = "no run is finished"
DRAWS = 1000  # Z sec. 4
TRIALS_SEED = 0  # of every curve anew, so that none depends on which others there are
MAX_TRIALS = 50
LAST_STEP = 1_000_000  # of the curve of Adam's bias

Run = Mapping[str, Any]
Panels = tuple[CurvePanel, list[str]]  # and what a reader must know of it


def curves(part: Curves, runs: Runs) -> Panels:
    """Returns training losses or validation scores at every evaluation."""
    lines: list[Curve] = []
    notes: list[str] = []
    for group in part.groups:
        chosen = _chosen(part, runs.by_place.get((group.arm, group.task), []))
        found = [line for run in chosen if (line := _line(part, runs, run))]
        if part.only:
            notes.append(_how_many(part, group, len(chosen)))
        if len(found) < len(chosen):
            notes.append(f"{group.label}: {len(chosen) - len(found)} runs have no such curve.")
        lines += [_single(group, i, line) for i, line in enumerate(found)] if part.band == "runs" else []
        lines += [banded(group.label, found, part.band)] if found and part.band != "runs" else []
    title = {"train_loss": "training loss", "val": _score_title(part.groups, runs)}[part.of]
    return (
        CurvePanel(part.title, "optimizer step", title, tuple(lines), missing="" if lines else NONE_YET),
        notes,
    )


def _chosen(part: Curves, runs: Sequence[Run]) -> list[Run]:
    """Returns the runs that the part picks: the first so many failed or successful ones by seed."""
    finished = sorted(
        (run for run in runs if run["status"] == "finished"),
        key=lambda run: (run["seed_init"], run["seed_data"], run["run_id"]),
    )
    if part.only:
        finished = [run for run in finished if run["failed"] is (part.only == "failed")]
    return finished[: part.first]


def _how_many(part: Curves, group: Group, n: int) -> str:
    if part.first and n < part.first:
        return f"{group.label}: {n} {part.only} runs, where the paper shows {part.first}."
    return f"{group.label}: the first {n} {part.only} runs by seed."


def _line(part: Curves, runs: Runs, run: Run) -> list[tuple[int, float]]:
    """Returns (step, value) where there is a value; scores in percent."""
    source = run["source"] if isinstance(run["source"], str) else None
    points: Sequence[Evaluation] = runs.curves.get((run["run_id"], source), ())
    if part.of == "train_loss":
        return [(step, loss) for step, loss, _ in points if loss is not None]
    return [(step, 100 * score) for step, _, score in points if score is not None]


def _single(group: Group, number: int, line: Sequence[tuple[int, float]]) -> Curve:
    return Curve(
        f"{group.label}, run {number + 1}",
        tuple(float(step) for step, _ in line),
        tuple(value for _, value in line),
        n=1,
        thin=True,
        group=group.label,
    )


def banded(label: str, lines: Sequence[Sequence[tuple[int, float]]], band: str) -> Curve:
    """Returns the mean at every step that half of the runs have; one of fewer would jump where the others ended."""
    values: dict[int, list[float]] = {}
    for step, value in (point for line in lines for point in line):
        values.setdefault(step, []).append(value)
    steps = [step for step, found in sorted(values.items()) if 2 * len(found) >= len(lines)]
    spreads = [spread(values[step], band) for step in steps]
    return Curve(
        label,
        tuple(map(float, steps)),
        tuple(mean for mean, _, _ in spreads),
        tuple(low for _, low, _ in spreads),
        tuple(high for _, _, high in spreads),
        n=len(lines),
    )


def spread(values: Sequence[float], band: str) -> tuple[float, float, float]:
    """Returns mean, lower and upper edge of the band; NaN where a run has diverged, so that the line breaks."""
    array = np.asarray(values)
    mean = float(array.mean())
    if band == "range":
        return mean, float(array.min()), float(array.max())
    deviation = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return mean, mean - deviation, mean + deviation


def lengths(part: Lengths, runs: Runs) -> Panels:
    """Returns mean and range of the validation score over the number of steps that a run was trained for."""
    lines: list[Curve] = []
    notes: list[str] = []
    for label, points in part.lines:
        found = []
        for steps, group in points:
            scores = _percents(runs.by_place.get((group.arm, group.task), []), "val")
            if nan := sum(map(math.isnan, scores)):
                notes.append(f"{label}, {steps} steps: {nan} of {len(scores)} scores are NaN, so there is no mean.")
            if scores:
                found.append((float(steps), *spread(scores, "range"), len(scores)))
        if found:
            x, mean, low, high, n = zip(*found, strict=True)
            lines.append(Curve(label, x, mean, low, high, n=min(n)))
            if len(set(n)) > 1:
                notes.append(
                    f"{label}: " + ", ".join(f"{int(s)} steps n = {k}" for s, k in zip(x, n, strict=True)) + "."
                )
    ticks = tuple(float(steps) for steps, _ in part.lines[0][1])
    ylabel = _score_title([group for _, points in part.lines for _, group in points], runs)
    panel = CurvePanel(
        part.title, "training steps", ylabel, tuple(lines), xlog=True, xticks=ticks, missing="" if lines else NONE_YET
    )
    return panel, notes


def trials(part: Trials, runs: Runs) -> Panels:
    """Returns the expected performance of the best of n random trials with its standard deviation (Z Figs. 4, 12)."""
    lines: list[Curve] = []
    notes: list[str] = []
    checkpoints: set[str] = set()
    for group in part.groups:
        finished = [run for run in runs.by_place.get((group.arm, group.task), []) if run["scored"]]
        found = [reported(run, "val") for run in finished]
        val = [score for score in found if score is not None]
        test = [run["score"] for run in finished]
        if not finished:
            continue
        if len(val) < len(finished):
            notes.append(f"{group.label}: the validation score of {len(finished) - len(val)} runs is not known.")
            continue
        checkpoints |= {run["checkpoint"] for run in finished}
        numbers = range(1, min(len(finished), MAX_TRIALS) + 1)
        if part.of == "test":
            answer = expected_test(val, test, numbers, np.random.default_rng(TRIALS_SEED), DRAWS)
        else:
            answer = expected_max(val, numbers)
        if answer.reason:
            notes.append(f"{group.label}: {answer.reason}.")
            continue
        mean, std = (100 * np.asarray(values, dtype=float) for values in (answer.mean, answer.std))
        lines.append(
            Curve(
                group.label,
                tuple(map(float, numbers)),
                tuple(mean.tolist()),
                tuple((mean - std).tolist()),
                tuple((mean + std).tolist()),
                n=len(finished),
            )
        )
    if lines:
        by = f"by the validation score of the {' or '.join(sorted(checkpoints))} checkpoint"
        how = {
            "test": f"The best of each number of runs, drawn {DRAWS:,} times (seed {TRIALS_SEED}), {by}.",
            "val": f"The best of each number of runs drawn with replacement, {by}, in closed form (Dodge et al. 2019).",
        }
        notes.append(how[part.of])
    what = "test" if part.of == "test" else "validation"
    ylabel = f"expected {what} {_metric(part.groups, runs)}"
    return CurvePanel(part.title, "random trials", ylabel, tuple(lines), missing="" if lines else NONE_YET), notes


def ratio(part: BiasRatio, runs: Runs) -> Panels:
    """Returns Adam's update without over that with bias correction, or the inverse (M eq. 1), over its steps."""
    steps = np.unique(np.logspace(0, math.log10(LAST_STEP), 200).astype(int)).tolist()
    values = [bias_ratio(step) for step in steps]
    curve = Curve(
        "sqrt(1 - 0.999^t) / (1 - 0.9^t)" if part.inverse else "without over with correction",
        tuple(map(float, steps)),
        tuple(1 / value if part.inverse else value for value in values),
    )
    steps_of = {group.label: _steps_of(runs, group) for group in part.groups}
    marks = tuple(Line(label, float(steps)) for label, steps in steps_of.items() if steps is not None)
    notes = [
        f"{label}: {steps:,} steps, where the bias is {bias_ratio(steps):.2f}."
        for label, steps in steps_of.items()
        if steps
    ]
    ylabel = "factor on the learning rate" if part.inverse else "bias of the update"
    return CurvePanel(part.title, "optimizer step", ylabel, (curve,), xlog=True, vertical=marks), notes


def _steps_of(runs: Runs, group: Group) -> int | None:
    """Returns how many steps the planned runs of a group have, where the size of their data set is known."""
    config = runs.plans.get((group.arm, group.task))
    rows = config and (config.data.train_rows or config.task.train_rows)
    return total_steps(config.schedule, rows) if config and rows else None


def _percents(runs: Sequence[Run], of: str) -> list[float]:
    return [100 * score for run in runs if run["scored"] and (score := reported(run, of)) is not None]


def reported(run: Run, of: str) -> float | None:
    """Returns the score that tables show of a run, or its validation score (None: not known)."""
    if of == "test":
        return run["score"]
    score = run["best_val" if run["checkpoint"] == "best" else "last_val"]
    return None if math.isnan(score) and not run["diverged"] else score


def _metric(groups: Sequence[Group], runs: Runs) -> str:
    metrics = {run["metric"] for group in groups for run in runs.by_place.get((group.arm, group.task), [])}
    return TITLES.get(metrics.copy().pop(), "score") if len(metrics) == 1 else "score"


def _score_title(groups: Sequence[Group], runs: Runs) -> str:
    return f"validation {_metric(groups, runs)} [percent]"
