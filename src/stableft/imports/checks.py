"""What must not be mixed within an arm: settings, data sets, checkpoints, or one seed's results twice."""

from collections.abc import Iterable, Sequence

from stableft.errors import UserError
from stableft.imports.runs import Key, describe_keys
from stableft.imports.table import Row, Table

# Columns called so hold a setting, a data set or a checkpoint: runs that differ in it are not repetitions.
SETTINGS = frozenset(
    "lr learning_rate max_lr peak_lr batch_size bs train_batch_size per_gpu_train_batch_size "
    "per_device_train_batch_size epochs num_epochs num_train_epochs n_epochs max_steps max_epochs warmup "
    "warmup_steps warmup_ratio weight_decay wd optimizer optim adam_epsilon eps bias_correction correct_bias dropout "
    "max_seq_length max_length model model_name model_type model_name_or_path backbone architecture method recipe "
    "config dataset data_set task task_name filetype split checkpoint precision fp16".split()
)
SHOWN = 4  # columns that a message names


def index_runs(table: Table, rows: Iterable[tuple[Key, Row]]) -> dict[Key, Row]:
    """Returns the row of each run.

    Raises:
        UserError: a run has two; the message names the columns in which they differ.
    """
    runs: dict[Key, Row] = {}
    for key, row in rows:
        if key in runs:
            difference = _difference(table, runs[key], row)
            raise UserError(f"{table.path}: {describe_keys([key])} has two scores, {difference}")
        runs[key] = row
    return runs


def _difference(table: Table, a: Row, b: Row) -> str:
    """Returns in which columns two rows differ, and what may be done about it."""
    first, second = sorted((a, b))
    differ = [
        f"{name} ({one or 'empty'}, {other or 'empty'})"
        for name, one, other in zip(table.names, first[1], second[1], strict=True)
        if name in table.named and one.strip() != other.strip()
    ]
    differ.sort(key=lambda words: not _is_setting(words.partition(" (")[0]))  # what was mixed first
    words = ", ".join(differ[:SHOWN]) + (f" and {len(differ) - SHOWN} more columns" if len(differ) > SHOWN else "")
    lines = f"on lines {first[0]} and {second[0]}"
    if not differ:
        return f"{lines}, which are equal"
    ways = "--where COLUMN=VALUE keeps one of them, or name the column as --task or --arm"
    return f"{lines}, which differ in {words}; {ways}"


def check_settings(table: Table, runs: dict[Key, Row], allowed: Sequence[str]) -> None:
    """Raises UserError if a column that holds a setting, by its name, varies between the runs of an arm and task.

    `allowed` columns may vary.
    """
    for name in allowed:
        table.position("--vary", name)
    places = [(i, name) for i, name in enumerate(table.names) if _is_setting(name) and name not in allowed]
    first: dict[tuple[str, str], Row] = {}
    for key, row in sorted(runs.items(), key=lambda run: run[1][0]):
        line, fields = row
        other_line, other = first.setdefault((key.task, key.arm), row)
        for i, name in places:
            if fields[i].strip() != other[i].strip():
                raise UserError(
                    f"{table.path}: arm {key.arm!r} of {key.task} mixes runs that differ in {name}: line {other_line} "
                    f"has {other[i].strip()!r}, line {line} has {fields[i].strip()!r}; --where {name}=VALUE keeps one "
                    f"kind, --arm or --task {name} tells them apart, --vary {name} lets them differ"
                )


def _is_setting(column: str) -> bool:
    return column.lower().replace("-", "_").replace(" ", "_") in SETTINGS
