"""Commands that import other people's results."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from stableft.cli.options import NO_TEXTS, CheckedTyper

OptionsT = TypeVar("OptionsT")
import_app = CheckedTyper(no_args_is_help=True, help="Import other people's results as records.")

RecordsOutOption = Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="File of records to write.")]
NoteOption = Annotated[
    str | None,
    typer.Option("--note", metavar="TEXT", help="What the runs are: model, length, data; reports show it."),
]
RenameOption = Annotated[list[str], typer.Option("--rename", metavar="OLD=NEW", help="Rename an arm (repeatable).")]
ImportCheckpointOption = Annotated[
    Literal["last", "best"], typer.Option("--checkpoint", help="Checkpoint whose score is reported.")
]
BaselineOption = Annotated[
    list[str],
    typer.Option(
        "--baseline",
        metavar="[TASK=]VALUE",
        help="Best score of a constant prediction, on the scale of the scores (repeatable). Default: that of the task.",
    ),
]
RowsOption = Annotated[
    list[str],
    typer.Option(
        "--rows",
        metavar="[TASK=]N",
        help="Rows of the split; decide what is failed by MCC or a correlation (repeatable). Default: the task's.",
    ),
]
TaskColumnOption = Annotated[str, typer.Option("--task", metavar="COLUMN|=VALUE", help="Name of the task.")]
ArmColumnOption = Annotated[str, typer.Option("--arm", metavar="COLUMN|=VALUE", help="Name of the arm.")]
SeedColumnOption = Annotated[
    str, typer.Option("--seed", metavar="COLUMN|=VALUE", help="Seed, a whole number, alone or as in seed_1 or Run 1.")
]
SeedPatternOption = Annotated[
    str | None,
    typer.Option(
        "--seed-pattern",
        metavar="REGEX",
        help=r"Where in a longer name the seed is: 'seed(\d+)$'. An arm read from the same name is cut there.",
    ),
]
ScoreColumnOption = Annotated[
    str, typer.Option("--score", metavar="COLUMN", help="Reported score. An empty cell is NaN and counts as failed.")
]
ValOption = Annotated[str | None, typer.Option("--val", metavar="COLUMN", help="Validation score.")]
ValWhereOption = Annotated[
    list[str],
    typer.Option(
        "--val-where",
        metavar="COLUMN=VALUE",
        help="Rows that hold the validation scores, if other than those of --score (repeatable).",
    ),
]
TrainLossOption = Annotated[
    str | None, typer.Option("--train-loss", metavar="COLUMN", help="Training loss, in the same rows as --val.")
]
StepOption = Annotated[
    str | None, typer.Option("--step", metavar="COLUMN|=VALUE", help="Optimizer step; orders evaluations.")
]
WhereOption = Annotated[
    list[str],
    typer.Option(
        "--where", metavar="COLUMN=VALUE", help="Use only rows with this value; also !=, <, <=, >, >= (repeatable)."
    ),
]
ScaleOption = Annotated[
    Literal["percent", "fraction"] | None,
    typer.Option("--scale", help="Scale of the scores. Default: inferred from them."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="METRIC|COLUMN|=NAME",
        help="Metric of the score, or a column that names it. Default: the task's.",
    ),
]
SplitOption = Annotated[Literal["val", "test"], typer.Option("--split", help="Split of the score.")]
StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="COLUMN|=VALUE",
        help="Whether the run finished, crashed or is running. Default: a column State or Status, as in W&B.",
    ),
]
VaryOption = Annotated[
    list[str], typer.Option("--vary", metavar="COLUMN", help="Column that may vary within an arm (repeatable).")
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out runs without a score or without validation rows.")
]


@import_app.command("csv")
def import_csv_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV file, TSV if it ends in .tsv; W&B's and MLflow's exports too.")
    ],
    task: TaskColumnOption,
    arm: ArmColumnOption,
    seed: SeedColumnOption,
    score: ScoreColumnOption,
    out: RecordsOutOption,
    val: ValOption = None,
    val_where: ValWhereOption = NO_TEXTS,
    train_loss: TrainLossOption = None,
    step: StepOption = None,
    where: WhereOption = NO_TEXTS,
    scale: ScaleOption = None,
    metric: MetricOption = None,
    split: SplitOption = "test",
    checkpoint: ImportCheckpointOption = "last",
    baseline: BaselineOption = NO_TEXTS,
    rows: RowsOption = NO_TEXTS,
    rename: RenameOption = NO_TEXTS,
    note: NoteOption = None,
    vary: VaryOption = NO_TEXTS,
    allow_missing: AllowMissingOption = False,
    seed_pattern: SeedPatternOption = None,
    state: StateOption = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter", help="What separates the columns, such as ';' or tab. Default: by the file's name."
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Encoding of the text, such as latin-1. Default: UTF-8.")
    ] = None,
) -> None:
    """Import per-seed results from a table with named columns."""
    from stableft.records.csv_table import CsvFormat
    from stableft.records.import_csv import import_csv
    from stableft.records.import_mapping import TableMapping

    print(import_csv(file, _make_options(TableMapping, locals()), out, CsvFormat(delimiter, encoding)))


@import_app.command("json")
def import_json_command(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE|DIR", help="JSON Lines or a list with one object a run, or a folder of files."),
    ],
    task: TaskColumnOption,
    arm: ArmColumnOption,
    seed: SeedColumnOption,
    score: ScoreColumnOption,
    out: RecordsOutOption,
    val: ValOption = None,
    val_where: ValWhereOption = NO_TEXTS,
    train_loss: TrainLossOption = None,
    step: StepOption = None,
    where: WhereOption = NO_TEXTS,
    scale: ScaleOption = None,
    metric: MetricOption = None,
    split: SplitOption = "test",
    checkpoint: ImportCheckpointOption = "last",
    baseline: BaselineOption = NO_TEXTS,
    rows: RowsOption = NO_TEXTS,
    rename: RenameOption = NO_TEXTS,
    note: NoteOption = None,
    vary: VaryOption = NO_TEXTS,
    allow_missing: AllowMissingOption = False,
    seed_pattern: SeedPatternOption = None,
    state: StateOption = None,
    files: Annotated[
        str, typer.Option("--files", metavar="PATTERN", help="Of a folder: the names of the files that hold a run.")
    ] = "*.json",
) -> None:
    """Import per-seed results from JSON. A COLUMN is a key, or keys joined by dots; of a folder also file or folder."""
    from stableft.records.import_json import import_json
    from stableft.records.import_mapping import TableMapping

    print(import_json(path, _make_options(TableMapping, locals()), out, files))


@import_app.command("hf-trainer")
def import_trainer_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or above them: runs/bert/rte/seed_1/.")
    ],
    out: RecordsOutOption,
    task: Annotated[str | None, typer.Option("--task", help="Task. Default: as the files or folders say.")] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="Arm of all runs. Default: as the folders say.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric, or the key of a score. Default: the task's.")
    ] = None,
    split: Annotated[
        Literal["val", "test"], typer.Option("--split", help="Split of the score: eval_ or test_, predict_.")
    ] = "val",
    checkpoint: Annotated[
        Literal["last", "best"] | None,
        typer.Option("--checkpoint", help="Checkpoint whose score is reported. Default: that evaluated at the end."),
    ] = None,
    scale: ScaleOption = None,
    baseline: BaselineOption = NO_TEXTS,
    rows: RowsOption = NO_TEXTS,
    rename: RenameOption = NO_TEXTS,
    note: NoteOption = None,
    vary: Annotated[
        list[str], typer.Option("--vary", metavar="SETTING", help="Setting that may vary within an arm (repeatable).")
    ] = NO_TEXTS,
    seed_pattern: Annotated[
        str | None,
        typer.Option(
            "--seed-pattern", metavar="REGEX", help=r"Where in a folder's name the seed is, in one group: 'seed(\d+)$'."
        ),
    ] = None,
) -> None:
    """Import runs of the Hugging Face Trainer. Their folders hold all_results.json and trainer_state.json."""
    from stableft.records.import_trainer import TrainerOptions, import_trainer

    print(import_trainer(folders, out, _make_options(TrainerOptions, locals())))


def _make_options(kind: type[OptionsT], options: Mapping[str, Any]) -> OptionsT:
    """Return the options of a command that are fields of `kind`, with lists as tuples."""
    values: dict[str, Any] = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType] - a data class
        value = options[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


@import_app.command("zhang-logs")
def import_zhang_logs_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of METHOD/TASK/SEEDk/, each with its three log files.")
    ],
    out: RecordsOutOption,
    rename: RenameOption = NO_TEXTS,
    note: NoteOption = None,
    checkpoint: ImportCheckpointOption = "last",
    baseline: BaselineOption = NO_TEXTS,
    rows: RowsOption = NO_TEXTS,
) -> None:
    """Import log files written by the released code of Zhang et al."""
    from stableft.records.import_zhang_logs import import_zhang_logs

    print(import_zhang_logs(folder, out, tuple(rename), checkpoint, baseline, rows, note))
