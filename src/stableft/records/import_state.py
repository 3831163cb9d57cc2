"""The state of a run in W&B and MLflow: a run that crashed is not a failed one, and a running one has no score."""

from collections.abc import Sequence
from typing import NamedTuple

from stableft.errors import UserError
from stableft.records.csv_table import SourceRow, SourceTable
from stableft.records.import_mapping import FieldReader, RunKeyReader, TableMapping, make_field_reader
from stableft.records.import_runs import RunKey, describe_run_keys
from stableft.records.import_values import Mistakes

FINISHED_STATES = frozenset("finished completed complete done success succeeded".split())
# In the words of W&B and MLflow a run failed if its process ended with an error. Here that is a crash.
CRASHED_STATES = frozenset("crashed failed killed preempted error aborted canceled cancelled timeout".split())
UNFINISHED_STATES = frozenset("running pending scheduled queued preempting".split())
KNOWN_STATES = FINISHED_STATES | CRASHED_STATES | UNFINISHED_STATES
ROWS_SHOWN = 5  # rows that a note names
STATE_COLUMNS = ("state", "status")  # of W&B's and MLflow's exports, in any case


class RowsByState(NamedTuple):
    """Rows of finished runs and of crashed ones, and notes on how the states were read."""

    finished: list[SourceRow]
    crashed: list[SourceRow]
    notes: list[str]


def split_by_state(table: SourceTable, mapping: TableMapping, rows: Sequence[SourceRow]) -> RowsByState:
    """Return rows by the state of their runs. Without `--state`, it is in a column that is called so, if there is one.

    Raises:
        UserError: there is no such column, a state is unknown, or no run has finished.
    """
    found = _find_state_reader(table, mapping)
    if found is None:
        return RowsByState(list(rows), [], [])
    column, state_of = found
    mistakes = Mistakes()
    by_state: dict[frozenset[str], list[SourceRow]] = {FINISHED_STATES: [], CRASHED_STATES: [], UNFINISHED_STATES: []}
    for row in rows:
        state = state_of(row[1])
        group = next((states for states in by_state if state.lower() in states), None)
        if group is None:
            known = "finished, crashed, failed, killed or running"
            mistakes.messages.append(f"{table.place(row[0])} column {column!r}: the state {state!r} must be {known}")
        else:
            by_state[group].append(row)
    mistakes.check()
    finished, crashed, unfinished = by_state.values()
    if not finished:
        raise UserError(f"{table.path}: no run has finished by column {column!r}; --state =finished takes them all")
    notes = []
    if unfinished:
        words = sorted({state_of(fields) for _, fields in unfinished})
        places = ", ".join(table.place(number).within for number, _ in unfinished[:ROWS_SHOWN])
        more = ", ..." if len(unfinished) > ROWS_SHOWN else ""
        notes.append(f"left out: {len(unfinished)} that {column} calls {' or '.join(words)} ({places}{more})")
    if crashed:
        words = sorted({state_of(fields) for _, fields in crashed})
        notes.append(f"{column} {' or '.join(words)}: the run crashed, which is not a failed run; it has no score")
    return RowsByState(finished, crashed, notes)


def find_crashed_runs(
    crashed: Sequence[SourceRow], key: RunKeyReader, finished: Sequence[RunKey]
) -> tuple[list[RunKey], list[str]]:
    """Return the crashed runs that were not run again with success, and notes on the others."""
    runs, again, unnamed = {}, {}, 0
    done = set(finished)
    for row in crashed:
        run = key(row, Mistakes())  # a run that crashed early may have no seed yet
        if run is None:
            unnamed += 1
        elif run in done:
            again[run] = None
        else:
            runs[run] = None
    notes = []
    if again:
        notes.append(f"left out: {len(again)} that crashed and finished when run again ({describe_run_keys(again)})")
    if unnamed:
        notes.append(f"left out: {unnamed} that crashed and whose task, arm or seed is not known")
    return list(runs), notes


def is_state_column(mapping: TableMapping, name: str) -> bool:
    """Return whether a column is that of `--state`, or may be it by its name."""
    return name == mapping.state if mapping.state else name.lower() in STATE_COLUMNS


def _find_state_reader(table: SourceTable, mapping: TableMapping) -> tuple[str, FieldReader] | None:
    if mapping.state is not None:
        return mapping.state, make_field_reader(table, "--state", mapping.state)
    for name in table.named:
        if is_state_column(mapping, name) and name not in mapping.columns and table.names.count(name) == 1:
            read = make_field_reader(table, "--state", name)
            if all(read(fields).lower() in KNOWN_STATES for _, fields in table.rows):
                return name, read
    return None
