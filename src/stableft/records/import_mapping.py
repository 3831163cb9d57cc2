"""Options that map the columns of a table to the fields of runs: which rows are meant, and whose they are."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from stableft.config.run_config import Checkpoint, Split
from stableft.errors import UserError, did_you_mean
from stableft.records.csv_table import SourceRow, SourceTable
from stableft.records.import_runs import RunKey, find_known_task
from stableft.records.import_values import (
    NUMBER_PATTERN,
    Mistakes,
    ScoreScale,
    compile_seed_pattern,
    cut_seed,
    parse_number,
    parse_seed,
)

FieldReader = Callable[[list[str]], str]
RunKeyReader = Callable[[SourceRow, Mistakes], RunKey | None]
VALUES_SHOWN = 8  # values of a column that a message names
CONDITION_PATTERN = re.compile(r"([^=!<>].*?)(!=|<=|>=|==|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True)
class TableMapping:
    """The options of `stableft import csv` and `import json`, as they are written.

    `task`, `arm`, `seed`, `step` and `state` name a column, or after "=" give the one value that holds for every row.
    `where`, `val_where` are conditions such as COLUMN=VALUE; of several with = and one column each value will do.
    `score` is of the `checkpoint`, on the `split`. `metric` is a metric, a column of metrics, or after "=" a name.
    `vary` names columns that may differ between the runs of an arm. `note` says what the runs are.
    """

    task: str
    arm: str
    seed: str
    score: str
    val: str | None = None
    val_where: tuple[str, ...] = ()
    train_loss: str | None = None
    step: str | None = None
    where: tuple[str, ...] = ()
    scale: ScoreScale | None = None
    metric: str | None = None
    split: Split = "test"
    checkpoint: Checkpoint = "last"
    baseline: tuple[str, ...] = ()  # VALUE or TASK=VALUE, like `rows`
    rows: tuple[str, ...] = ()  # of the split
    rename: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    allow_missing: bool = False
    seed_pattern: str | None = None
    state: str | None = None
    note: str | None = None

    @property
    def columns(self) -> set[str]:
        """The columns that are mapped to a field of a run, and so hold no setting."""
        return {
            name
            for name in (self.task, self.arm, self.seed, self.score, self.val, self.step, self.train_loss, self.state)
            if name
        }


@dataclass(frozen=True)
class RowFilter:
    """A condition on a column: a row must have one of the values, not have it, or compare to it as a number."""

    option: str
    name: str
    position: int
    sign: str
    values: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{'|'.join(sorted(self.values))}"

    def is_met(self, table: SourceTable, row: SourceRow) -> bool:
        """Return whether a row meets the condition. An empty field is neither above nor below a number.

        Raises:
            UserError: the sign compares numbers, and the field holds something else.
        """
        number, fields = row
        text = fields[self.position].strip()
        if self.sign == "=":
            return text in self.values
        if self.sign == "!=":
            return text not in self.values
        value = parse_number(table.place(number), self.name, text).value
        if value is None:
            return False
        limit = Decimal(min(self.values))
        return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[self.sign]


def make_field_reader(table: SourceTable, option: str, spec: str) -> FieldReader:
    """Return a function that takes a row's fields and returns the value of a column, or the constant after "=".

    Raises:
        UserError: there is no such column, or nothing after "=".
    """
    if spec.startswith("="):
        constant = spec[1:].strip()
        if not constant:
            raise UserError(f"{option} {spec}: there must be a value after =")
        return lambda fields: constant
    try:
        position = table.position(option, spec)
    except UserError as error:
        if spec in table.names or did_you_mean(spec, table.named):
            raise
        raise UserError(f"{error}; {option} ={spec} gives every row this value") from None
    return lambda fields: fields[position].strip()


def make_run_key_reader(table: SourceTable, mapping: TableMapping) -> RunKeyReader:
    """Return a function that returns the run of a row, or None after adding what is wrong to the mistakes.

    If arm and seed are read from one column of names, the arm is the name without the match of `--seed-pattern`.

    Raises:
        UserError: there is no such column, or the pattern is invalid.
    """
    pattern = compile_seed_pattern(mapping.seed_pattern)
    task_of = make_field_reader(table, "--task", mapping.task)
    arm_of = make_field_reader(table, "--arm", mapping.arm)
    seed_of = make_field_reader(table, "--seed", mapping.seed)
    cut = pattern if mapping.arm == mapping.seed else None

    def key(row: SourceRow, mistakes: Mistakes) -> RunKey | None:
        number, fields = row
        place, before = table.place(number), len(mistakes.messages)
        task, arm = task_of(fields), cut_seed(arm_of(fields), cut)
        for option, column, value in (("--task", mapping.task, task), ("--arm", mapping.arm, arm)):
            if not value:
                mistakes.messages.append(f"{place} column {column!r}: the field is empty, but {option} needs it")
        seed = -1
        with mistakes.caught():
            seed = parse_seed(place, mapping.seed, seed_of(fields), pattern)
        if len(mistakes.messages) > before:
            return None
        known = find_known_task(task)
        return RunKey(known.name if known else task, arm, seed)

    return key


def parse_row_filters(table: SourceTable, option: str, texts: Sequence[str]) -> list[RowFilter]:
    """Return the conditions on rows; those with = are one per column.

    Raises:
        UserError: one is not of the form COLUMN=VALUE, there is no such column, or its value must be a number.
    """
    mistakes = Mistakes()
    values: dict[tuple[str, str, str], set[str]] = {}
    for text in texts:
        match = CONDITION_PATTERN.fullmatch(text)
        if match is None or not match[1].strip():
            mistakes.messages.append(
                f"{option} {text!r}: must be COLUMN=VALUE, or have !=, <, <=, > or >= in place of ="
            )
            continue
        name, sign, value = match[1].strip(), match[2].replace("==", "="), match[3].strip()
        if sign in ("<", "<=", ">", ">="):
            if NUMBER_PATTERN.fullmatch(value):
                value = str(Decimal(value))
            else:
                mistakes.messages.append(f"{option} {text!r}: {sign} must be followed by a number")
                continue
        values.setdefault((name, sign, "" if sign == "=" else value), set()).add(value)
    filters = []
    for (name, sign, _), some in values.items():
        with mistakes.caught():
            filters.append(RowFilter(option, name, table.position(option, name), sign, frozenset(some)))
    mistakes.check()
    return filters


def filter_rows(table: SourceTable, wanted: Sequence[RowFilter]) -> list[SourceRow]:
    """Return the rows that meet all conditions.

    Raises:
        UserError: a value appears in no row (the message names those that do), or no row meets all conditions.
    """
    mistakes = Mistakes()
    for condition in wanted:
        if condition.sign not in ("=", "!="):
            continue
        there = {fields[condition.position].strip() for _, fields in table.rows}
        for value in sorted(condition.values - there):
            if value or condition.sign == "=":  # a column without empty fields is no mistake
                mistakes.messages.append(
                    f"{table.path}: {condition.option} {condition.name}{condition.sign}{value}: no row has this value, "
                    f"there are {_list_values(sorted(there))}{did_you_mean(value, sorted(there))}"
                )
    mistakes.check()
    rows = []
    for row in table.rows:
        with mistakes.caught():
            if all(condition.is_met(table, row) for condition in wanted):
                rows.append(row)
    mistakes.check()
    if not rows:
        raise UserError(f"{table.path}: no row has all of {' and '.join(map(str, wanted))}")
    return rows


def _list_values(values: Sequence[str]) -> str:
    return ", ".join(repr(value) for value in values[:VALUES_SHOWN]) + (", ..." if len(values) > VALUES_SHOWN else "")
