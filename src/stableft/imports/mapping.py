"""Which columns and rows of a table are what, as a user says it on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stableft.errors import UserError, nearest
from stableft.imports.numbers import Scale, read_whole
from stableft.imports.runs import Key
from stableft.imports.scores import known_task
from stableft.imports.table import Row, Table

Reader = Callable[[list[str]], str]
SHOWN = 8  # values of a column that a message names


@dataclass(frozen=True)
class CsvMapping:
    """The options of `stableft import csv`, as they are written.

    `task`, `arm`, `seed` and `step` name a column, or after "=" give the one value that holds for every row.
    `where`, `val_where` are of the form COLUMN=VALUE; of several with one column each value will do. `score` is of
    the `checkpoint`, on the `split`. `vary` names columns that may differ between the runs of an arm.
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
    scale: Scale | None = None
    metric: str | None = None
    split: Literal["val", "test"] = "test"
    checkpoint: Literal["last", "best"] = "last"
    baseline: float | None = None
    rename: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    allow_missing: bool = False


@dataclass(frozen=True)
class Condition:
    """A column in which a row must have one of the values, as the option says."""

    option: str
    name: str
    position: int
    values: frozenset[str]


def reader(table: Table, option: str, spec: str) -> Reader:
    """Returns the function that takes a row's fields to a value: that of a column, or the one after "=".

    Raises:
        UserError: there is no such column, or nothing after "=".
    """
    if spec.startswith("="):
        constant = spec[1:].strip()
        if not constant:
            raise UserError(f"{option} {spec}: there must be a value after =")
        return lambda fields: constant
    position = table.position(option, spec)
    return lambda fields: fields[position].strip()


def key_reader(table: Table, mapping: CsvMapping) -> Callable[[Row], Key]:
    """Returns the function that takes a row to the run that it belongs to.

    Raises:
        UserError: there is no such column; the function, where a field is empty or no seed.
    """
    task_of = reader(table, "--task", mapping.task)
    arm_of = reader(table, "--arm", mapping.arm)
    seed_of = reader(table, "--seed", mapping.seed)

    def key(row: Row) -> Key:
        line, fields = row
        task, arm = task_of(fields), arm_of(fields)
        for option, column, value in (("--task", mapping.task, task), ("--arm", mapping.arm, arm)):
            if not value:
                raise UserError(f"{table.path}:{line} column {column!r}: the field is empty, but {option} needs it")
        known = known_task(task)
        return Key(known.name if known else task, arm, read_whole(table.path, line, mapping.seed, seed_of(fields)))

    return key


def conditions(table: Table, option: str, texts: Sequence[str]) -> list[Condition]:
    """Returns what a row must fulfil, one for each column.

    Raises:
        UserError: one is not of the form COLUMN=VALUE, or there is no such column.
    """
    values: dict[str, set[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(f"{option} {text!r}: must be COLUMN=VALUE")
        values.setdefault(name.strip(), set()).add(value.strip())
    return [Condition(option, name, table.position(option, name), frozenset(some)) for name, some in values.items()]


def choose_rows(table: Table, wanted: Sequence[Condition]) -> list[Row]:
    """Returns the rows that fulfil all conditions.

    Raises:
        UserError: a value is in no row, and the message names those that are, or no row fulfils all.
    """
    for condition in wanted:
        there = {fields[condition.position].strip() for _, fields in table.rows}
        for value in sorted(condition.values - there):
            raise UserError(
                f"{table.path}: {condition.option} {condition.name}={value}: no row has this value, there are "
                f"{_some(sorted(there))}{nearest(value, sorted(there))}"
            )
    tests = [(condition.position, condition.values) for condition in wanted]
    rows = [row for row in table.rows if all(row[1][position].strip() in values for position, values in tests)]
    if not rows:
        words = " and ".join(f"{condition.name}={'|'.join(sorted(condition.values))}" for condition in wanted)
        raise UserError(f"{table.path}: no row has all of {words}")
    return rows


def _some(values: Sequence[str]) -> str:
    return ", ".join(repr(value) for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
