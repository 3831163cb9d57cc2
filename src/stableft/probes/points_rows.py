"""Single predictions for programs: a row for each example for CSV, everything for JSON, and where it comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stableft.probes.points import answer_counts
from stableft.probes.points_data import Group
from stableft.probes.points_view import ALL, View
from stableft.report.blocks import Provenance
from stableft.report.pair import rounded

Values = dict[str, Any]


def points_rows(views: Sequence[View]) -> Iterator[Values]:
    """Yields a row for each arm, task and example, with what all runs do there and what those that did not fail do."""
    for view in views:
        if view.which == ALL and view.n:
            others = [other for other in views if other.group is view.group]
            columns = [_columns(other, "" if other is view else ", not failed") for other in others if other.n]
            known = _known(view)
            for i in range(view.m):
                yield rounded({name: values[i] for part in (known, *columns) for name, values in part.items()})


def _known(view: View) -> dict[str, list]:
    group, examples = view.group, view.group.examples
    found: dict[str, list] = {"arm": [group.arm] * view.m}
    found |= {"task": [group.task] * view.m} if group.task else {}
    found |= {"of": [group.where] * view.m, "example": list(examples.names)}
    if examples.labels is not None:
        found["label"] = _names(group, examples.labels)
    return found | {f"text: {name}": list(column) for name, column in examples.texts.items()}


def _names(group: Group, labels: np.ndarray) -> list:
    return [group.classes[i] for i in labels.tolist()] if group.classes else labels.tolist()


def _columns(view: View, suffix: str) -> dict[str, list]:
    """Returns what is known of each example; variances of fewer than two runs are NaN."""
    found: dict[str, list] = {"runs": [view.n] * view.m}
    if not view.group.classes:
        found |= {"mean prediction": view.answers.mean(axis=0).tolist(), "variance": view.unstable.tolist()}
        return {f"{name}{suffix}": values for name, values in found.items()}
    if view.right is not None:
        right = view.right.sum(axis=0)
        found |= {"right": right.tolist(), "share right": (right / view.n).tolist()}
        found["variance"] = view.unstable.tolist()
    counts = answer_counts(view.answers, len(view.group.classes))
    names = [*(f"answers: {name}" for name in view.group.classes), "no answer"]
    found |= {name: column.tolist() for name, column in zip(names, counts.T, strict=True)}
    return {f"{name}{suffix}": values for name, values in found.items()}


def points_values(views: Sequence[View]) -> Values:
    """Returns a JSON value for each group: its runs, its numbers, and every example."""
    groups = {id(view.group): view.group for view in views}
    return {"groups": [_group(group, [v for v in views if v.group is group]) for group in groups.values()]}


def _group(group: Group, views: Sequence[View]) -> Values:
    scores = views[0].whole.scores if views[0].whole else (None,) * len(group.runs)
    score = "accuracy" if group.classes else "mean squared error"
    runs = [
        {"run": run, "name": name, "failed": failed, score: value}
        for run, name, failed, value in zip(group.runs, group.names, group.failed, scores, strict=True)
    ]
    return {
        "arm": group.arm,
        "task": group.task or None,
        "of": group.where,
        "classes": list(group.classes),
        "planned": group.planned,
        "runs": rounded(runs),
        "numbers": [_numbers(view) for view in views],
        "examples": [
            {name: value for name, value in row.items() if name not in ("arm", "task", "of")}
            for row in points_rows(views)
        ],
        "notes": list(group.notes),
    }


def _numbers(view: View) -> Values:
    """Returns the results of some runs under the names that they have in the code."""
    found = {"per_point": view.per_point, "whole": view.whole, "agreement": view.agreement}
    return {
        "of": view.which,
        "runs": view.n,
        "examples": view.m,
        "missing": view.missing,
        **{name: None if result is None else rounded(asdict(result)) for name, result in found.items()},
    }


def provenance_of(groups: Sequence[Group]) -> Provenance:
    """Returns how many runs of each arm and task have predictions, and their ids."""
    counts = tuple((group.arm, group.task or "-", group.origin, len(group.runs), group.planned) for group in groups)
    return Provenance(counts, (), tuple(dict.fromkeys(run for group in groups for run in group.runs)))
