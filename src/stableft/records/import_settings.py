"""Checks that the runs of an arm are repetitions: a run has one score, and settings do not vary within an arm."""

from collections.abc import Iterable, Sequence

from stableft.records.csv_table import SourceRow, SourceTable
from stableft.records.import_runs import RunKey, describe_run_keys
from stableft.records.import_values import Mistakes, describe_two_places

# Columns called so hold a setting, a data set or a checkpoint: runs that differ in it are not repetitions.
SETTING_COLUMNS = frozenset(
    "lr learning_rate max_lr peak_lr batch_size bs train_batch_size per_gpu_train_batch_size "
    "per_device_train_batch_size epochs num_epochs num_train_epochs n_epochs max_steps max_epochs warmup "
    "warmup_steps warmup_ratio weight_decay wd optimizer optim adam_epsilon eps bias_correction correct_bias dropout "
    "max_seq_length max_length model model_name model_type model_name_or_path backbone architecture method recipe "
    "config dataset data_set task task_name filetype split checkpoint precision fp16".split()
)
# Before the name of a setting in the columns of W&B and MLflow, and in nested JSON.
SETTING_PREFIXES = ("config", "params", "parameters", "hparams", "hyperparameters", "hyperparams", "args")
COLUMNS_SHOWN = 4  # columns that a message names


def index_runs(table: SourceTable, rows: Iterable[tuple[RunKey, SourceRow]]) -> dict[RunKey, SourceRow]:
    """Return the row of each run.

    Raises:
        UserError: a run has two rows; the message names the columns in which they differ.
    """
    runs: dict[RunKey, SourceRow] = {}
    mistakes = Mistakes()
    for key, row in rows:
        if key in runs:
            difference = _describe_difference(table, runs[key], row)
            mistakes.messages.append(f"{table.path}: {describe_run_keys([key])} has two scores, {difference}")
        else:
            runs[key] = row
    mistakes.check()
    return runs


def _describe_difference(table: SourceTable, a: SourceRow, b: SourceRow) -> str:
    """Return in words the columns in which two rows differ, and what to do about it."""
    first, second = sorted((a, b))
    differ = [
        f"{name} ({one or 'empty'}, {other or 'empty'})"
        for name, one, other in zip(table.names, first[1], second[1], strict=True)
        if name in table.named and one.strip() != other.strip()
    ]
    differ.sort(key=lambda words: not _is_setting(words.partition(" (")[0]))  # what was mixed first
    words = ", ".join(differ[:COLUMNS_SHOWN]) + (
        f" and {len(differ) - COLUMNS_SHOWN} more columns" if len(differ) > COLUMNS_SHOWN else ""
    )
    places = describe_two_places(table.place(first[0]), table.place(second[0]))
    if not differ:
        return f"{places}, which are equal"
    ways = "--where COLUMN=VALUE keeps one of them, or name the column as --task or --arm"
    return f"{places}, which differ in {words}; {ways}"


def check_arms_uniform(
    table: SourceTable, runs: dict[RunKey, SourceRow], allowed: Sequence[str], mapped: Iterable[str] = ()
) -> None:
    """Check that no column named like a setting varies between the runs of an arm and task.

    Columns that are `allowed` to vary, or `mapped` to a field of a run, are no settings.
    """
    for name in allowed:
        table.position("--vary", name)
    other_columns = {*allowed, *mapped}
    places = [(i, name) for i, name in enumerate(table.names) if _is_setting(name) and name not in other_columns]
    first: dict[tuple[str, str], SourceRow] = {}
    mixed: dict[tuple[str, str, str], str] = {}
    for key, row in sorted(runs.items(), key=lambda run: run[1][0]):
        number, fields = row
        other_number, other = first.setdefault((key.task, key.arm), row)
        for i, name in places:
            if fields[i].strip() != other[i].strip():
                one, two = table.place(other_number).within, table.place(number).within
                mixed.setdefault(
                    (key.task, key.arm, name),
                    f"{table.path}: arm {key.arm!r} of {key.task} mixes runs that differ in {name}: {one} has "
                    f"{other[i].strip()!r}, {two} has {fields[i].strip()!r}; --where {name}=VALUE keeps one kind, "
                    f"--arm or --task {name} tells them apart, --vary {name} lets them differ",
                )
    mistakes = Mistakes()
    mistakes.messages += mixed.values()
    mistakes.check()


def _is_setting(column: str) -> bool:
    name = column.lower().replace("/", ".")
    prefix, _, rest = name.partition(".")
    name = rest if prefix in SETTING_PREFIXES and rest else name
    return name.replace("-", "_").replace(" ", "_") in SETTING_COLUMNS
