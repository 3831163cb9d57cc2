"""Evaluations of imported runs, ordered by step."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from stableft.errors import UserError
from stableft.records.csv_table import SourceRow, SourceTable
from stableft.records.import_mapping import (
    RunKeyReader,
    TableMapping,
    filter_rows,
    make_field_reader,
    parse_row_filters,
)
from stableft.records.import_runs import RunKey, describe_run_keys
from stableft.records.import_values import (
    Mistakes,
    Place,
    PrintedNumber,
    describe_two_places,
    parse_number,
    parse_whole_number,
    to_float,
)
from stableft.records.run_record import ImportedRun


class EvaluationRow(NamedTuple):
    """A row of validation scores; `step` is None where there is no column of steps, `val` where there is none."""

    place: Place
    step: int | None
    val: PrintedNumber | None
    train_loss: float | None


def read_evaluations(
    table: SourceTable, mapping: TableMapping, key: RunKeyReader, runs: Mapping[RunKey, SourceRow]
) -> dict[RunKey, list[EvaluationRow]]:
    """Return the evaluations of each run by step: from separate rows, or the one in the row of its score.

    Raises:
        UserError: a value is invalid, no row is selected, or two rows have the same step.
    """
    rows: Iterable[tuple[RunKey | None, SourceRow]] = runs.items()
    mistakes = Mistakes()
    if mapping.val_where:
        wanted = parse_row_filters(table, "--val-where", mapping.val_where)
        named = {condition.name for condition in wanted}
        wanted += [other for other in parse_row_filters(table, "--where", mapping.where) if other.name not in named]
        rows = [(key(row, mistakes), row) for row in filter_rows(table, wanted)]
    elif mapping.val is None and mapping.step is None:
        return {}
    read = _make_evaluation_reader(table, mapping)
    found: dict[RunKey, list[EvaluationRow]] = defaultdict(list)
    for run, row in rows:
        with mistakes.caught():
            point = read(row)
            if run is not None:
                found[run].append(point)
    mistakes.check()
    if mapping.val and not any(point.val and not point.val.missing for points in found.values() for point in points):
        raise UserError(f"{table.path}: --val {mapping.val}: the column is empty in all chosen rows")
    return {run: _sort_by_step(table, run, points) for run, points in found.items()}


def drop_unscored_evaluations(
    table: SourceTable,
    mapping: TableMapping,
    runs: Mapping[RunKey, SourceRow],
    found: dict[RunKey, list[EvaluationRow]],
) -> list[str]:
    """Takes evaluations without a score out of `found` and returns notes on runs that have one of the two.

    Raises:
        UserError: there are such runs, and they are not allowed.
    """
    if not mapping.val_where:
        return []
    unscored, unseen = found.keys() - runs.keys(), runs.keys() - found.keys()
    notes = []
    if unscored:
        notes.append(f"{len(unscored)} with evaluations and no score ({describe_run_keys(unscored)})")
    if unseen:
        notes.append(f"{len(unseen)} with a score and no evaluation ({describe_run_keys(unseen)})")
    if notes and not mapping.allow_missing:
        raise UserError(
            f"{table.path}: there are runs, {' and '.join(notes)}; check --where and --val-where, or say "
            "--allow-missing to leave out those without a score"
        )
    for run in unscored:
        del found[run]
    return [f"runs {'left out' if 'no score' in note else 'kept'}: {note}" for note in notes]


def best_index(scores: Sequence[float]) -> int:
    """Return the index of the first of the highest scores, or the last index if all are NaN."""
    numbers = [i for i, score in enumerate(scores) if not math.isnan(score)]
    return max(numbers, key=scores.__getitem__) if numbers else len(scores) - 1


def note_unequal_lengths(runs: Sequence[ImportedRun]) -> list[str]:
    """Return notes on arms whose runs end at different steps, because one is unfinished or lengths are mixed."""
    lengths: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for run in runs:
        if run.steps is not None:
            lengths[run.task, run.arm][run.steps] += 1
    return [
        f"runs of {arm} on {task} end at different steps: "
        + ", ".join(f"{step} ({n} runs)" for step, n in sorted(counts.items()))
        for (task, arm), counts in sorted(lengths.items())
        if len(counts) > 1
    ]


def _make_evaluation_reader(table: SourceTable, mapping: TableMapping) -> Callable[[SourceRow], EvaluationRow]:
    val, loss = mapping.val or "", mapping.train_loss or ""
    val_at = table.position("--val", val) if val else None
    loss_at = table.position("--train-loss", loss) if loss else None
    step_of = make_field_reader(table, "--step", mapping.step) if mapping.step else None

    def read(row: SourceRow) -> EvaluationRow:
        number, fields = row
        place = table.place(number)
        cell = None if val_at is None else parse_number(place, val, fields[val_at])
        train = None if loss_at is None else parse_number(place, loss, fields[loss_at])
        step = None if step_of is None else parse_whole_number(place, mapping.step or "", step_of(fields))
        # An empty field is no loss (there is none before the first step), nan is one that diverged.
        return EvaluationRow(place, step, cell, to_float(train.value) if train and not train.missing else None)

    return read


def _sort_by_step(table: SourceTable, run: RunKey, points: list[EvaluationRow]) -> list[EvaluationRow]:
    if len(points) > 1 and points[0].step is None:
        places = describe_two_places(points[0].place, points[1].place)
        raise UserError(
            f"{table.path}: {describe_run_keys([run])} has several evaluations, such as {places}; --step COLUMN "
            "orders them"
        )
    ordered = sorted(points, key=lambda point: (point.step or 0, point.place))
    for one, other in pairwise(ordered):
        if one.step == other.step:
            raise UserError(
                f"{table.path}: {describe_run_keys([run])} has two evaluations at step {one.step}, "
                f"{describe_two_places(one.place, other.place)}; --val-where COLUMN=VALUE keeps one of them"
            )
    return ordered
