"""Commands that read results: report, compare, power and import."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stableft.cli.options import (
    NO_FILES,
    NO_TEXTS,
    ArmsOption,
    DataDirOption,
    RecordsOption,
    ResultsOption,
    ScoreOption,
    SeedsOption,
    SetOption,
    complete_report,
    load_optional_sweep,
    split_names,
)
from stableft.errors import UserError

import_app = typer.Typer(no_args_is_help=True, help="Import other people's results as records.")

RecordsOutOption = Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="File of records to write.")]
RenameOption = Annotated[list[str], typer.Option("--rename", metavar="OLD=NEW", help="Rename an arm (repeatable).")]
ImportCheckpointOption = Annotated[
    Literal["last", "best"], typer.Option("--checkpoint", help="Checkpoint whose score is reported.")
]
BaselineOption = Annotated[
    float | None,
    typer.Option(
        "--baseline",
        help="Best score of a constant prediction, on the scale of the scores. Default: the task's, if known.",
    ),
]
RowsOption = Annotated[
    int | None,
    typer.Option(
        "--rows",
        min=1,
        help="Rows of the split; decide what counts as failed by MCC or a correlation. Default: the task's, if known.",
    ),
]
FormatOption = Annotated[
    Literal["text", "md", "csv", "latex", "json", "html"] | None,
    typer.Option("--format", help="Format of the report. Default: that of --out's ending, otherwise text: one screen."),
]
ReportOutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FILE|FOLDER/",
        help="File (.md .csv .tex .json .html .png .svg .pdf), or a folder (ending in /) for everything.",
    ),
]
TestsOption = Annotated[
    bool, typer.Option("--tests", help="In the terminal, add every test with its n, p-value and interval.")
]
NotesOption = Annotated[bool, typer.Option("--notes", help="In the terminal, add the notes.")]
FigureOption = Annotated[
    str | None, typer.Option("--figure", help="Figure to draw if there are several. Default: the first.")
]


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|ARTIFACT|FILE|all",
            help="Sweep file, artifact id such as mosbach-table1, file of records, or all.",
            autocompletion=complete_report,
        ),
    ],
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
    data_dir: DataDirOption = None,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    score: ScoreOption = "recipe",
    rule: Annotated[
        Literal["levene", "best", "better", "different", "pair"],
        typer.Option(
            "--rule",
            help="Table and bold as in M Table 1 (levene), or Z Table 1 (best), 2 (better), 4 (different) or 7 (pair).",
        ),
    ] = "levene",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="ARM", help="Arm that the others are compared with. Default: the first."),
    ] = None,
    tests: TestsOption = False,
    notes: NotesOption = False,
    format_: FormatOption = None,
    out: ReportOutOption = None,
    figure: FigureOption = None,
) -> None:
    """Print a table or figure of a paper, or the table of a sweep, beside the published numbers."""
    from stableft.config.local_files import check_results_folder
    from stableft.python_api import make_report
    from stableft.report.forms.write import resolve_target, write_report

    check_results_folder(results)
    if name == "all":
        from stableft.report.all_reports import build_all_reports

        if format_ or figure or against:
            raise UserError("report all: writes every format and figure; leave out --format, --figure and --against")
        if set_ or arms or seeds or rule != "levene":
            raise UserError("report all: writes every report as it is; leave out --set, --arms, --seeds and --rule")
        if out and Path(out).suffix:
            raise UserError(f"report all: --out {out} must be a folder; all.html is written to it")
        for line in build_all_reports(results, records, data_dir, score, Path(out) if out else results / "reports"):
            print(line, flush=True)
        return
    output = resolve_target(out, format_, figure, tests, notes)
    made = make_report(
        name,
        settings=set_,
        arms=split_names(arms),
        seeds=seeds,
        results=results,
        records=records,
        data_dir=data_dir,
        score=score,
        rule=rule,
        against=against,
        with_figures=output.needs_figures,
    )
    if text := write_report(made, output):
        print(text)
    if not records and not name.endswith(".jsonl"):
        print_other_runs(name, set_, arms, seeds, results)


def print_other_runs(name: str, sets: list[str], arms: str, seeds: str | None, results: Path) -> None:
    """Print, beside the report of a sweep with missing runs, which options report the other runs of the folder."""
    from stableft.python_api import plan_sweep
    from stableft.records.run_record import RECORD_FILE, run_folder
    from stableft.report.other_settings import describe_other_runs
    from stableft.report.runs import ARTIFACTS, read_all_stored_records

    planned = () if name in ARTIFACTS else plan_sweep(name, sets, split_names(arms), seeds).runs
    if any(not (run_folder(results, run.run_id) / RECORD_FILE).exists() for run in planned):
        for line in describe_other_runs(planned, read_all_stored_records(results)):
            print(f"{results}: {line}", file=sys.stderr)


def compare(
    arm_a: Annotated[str, typer.Argument(metavar="ARM_A", help="Name of an arm, as reports show it: the reference.")],
    arm_b: Annotated[
        str | None, typer.Argument(metavar="[ARM_B]", help="The other arm; with --against, one arm is enough.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="ARM", help="The reference arm. Default: ARM_A.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="CONFIG", help="Sweep whose runs are compared. Default: all in the folder."),
    ] = None,
    set_: SetOption = NO_TEXTS,
    arms: ArmsOption = "",
    seeds: SeedsOption = None,
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
    task: Annotated[
        str | None, typer.Option("--task", help="Task to compare on. Needed if the arms share several.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric to compare. Default: the reported one.")
    ] = None,
    where: Annotated[
        list[str],
        typer.Option(
            "--where",
            metavar="FIELD=VALUE",
            help="Only runs with this setting, for example optimizer.lr=2e-5 (repeatable).",
        ),
    ] = NO_TEXTS,
    score: ScoreOption = "recipe",
    tests: TestsOption = False,
    notes: NotesOption = False,
    format_: FormatOption = None,
    out: ReportOutOption = None,
    figure: FigureOption = None,
) -> None:
    """Compare ARM_B with the reference ARM_A: failures, spread, means, and a conclusion in words."""
    from stableft import python_api
    from stableft.config.local_files import check_results_folder
    from stableft.report.forms.write import resolve_target, write_report

    check_results_folder(results)
    reference, other = order_arms(arm_a, arm_b, against)
    output = resolve_target(out, format_, figure, tests, notes)
    sweep = load_optional_sweep(config, set_, arms, seeds)
    made = python_api.compare(
        records or results, reference, other, sweep=sweep, task=task, metric=metric, where=where, score=score
    )
    if text := write_report(made, output):
        print(text)


def order_arms(arm_a: str, arm_b: str | None, against: str | None) -> tuple[str, str]:
    """Return the reference arm and the other one.

    Raises:
        UserError: one arm is missing, or `against` is neither of two.
    """
    if arm_b is None and against is None:
        raise UserError(f"compare: {arm_a} needs a second arm, or --against with the reference arm")
    if arm_b is None or against is None:
        return (against, arm_a) if against else (arm_a, str(arm_b))
    if against not in (arm_a, arm_b):
        raise UserError(f"--against {against}: it is neither {arm_a} nor {arm_b}; leave out one of those")
    return against, arm_b if against == arm_a else arm_a


def power(
    sd: Annotated[float | None, typer.Option("--sd", help="Standard deviation of one arm, in points.")] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Standard deviation of the other arm, as a multiple of --sd.")
    ] = None,
    from_: Annotated[
        list[Path],
        typer.Option(
            "--from",
            metavar="RECORDS",
            help="Resample the scores of these records instead of drawing normal scores (repeatable).",
        ),
    ] = NO_FILES,
    arms: Annotated[str, typer.Option("--arms", metavar="A,B", help="With --from: the two arms.")] = "",
    task: Annotated[
        str | None, typer.Option("--task", help="With --from: task to use. Needed if the arms share several.")
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="Significance level.")] = 0.05,
    target: Annotated[float, typer.Option("--power", help="Target power.")] = 0.8,
    center: Annotated[
        Literal["median", "mean", "trimmed"], typer.Option("--center", help="Center of Levene's test.")
    ] = "median",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulation.")] = 0,
) -> None:
    """Show how many seeds a claim needs: the power of the tests by number of runs per arm, from simulation."""
    from stableft.report.power import describe_power

    print(describe_power(sd, ratio, from_, arms, task, alpha, target, center, seed))


@import_app.command("csv")
def import_csv_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV file, or TSV if it ends in .tsv.")],
    task: Annotated[str, typer.Option("--task", metavar="COLUMN|=VALUE", help="Name of the task.")],
    arm: Annotated[str, typer.Option("--arm", metavar="COLUMN|=VALUE", help="Name of the arm.")],
    seed: Annotated[str, typer.Option("--seed", metavar="COLUMN|=VALUE", help="Seed, a whole number.")],
    score: Annotated[
        str,
        typer.Option("--score", metavar="COLUMN", help="Reported score. An empty cell is NaN and counts as failed."),
    ],
    out: RecordsOutOption,
    val: Annotated[str | None, typer.Option("--val", metavar="COLUMN", help="Validation score.")] = None,
    val_where: Annotated[
        list[str],
        typer.Option(
            "--val-where",
            metavar="COLUMN=VALUE",
            help="Rows that hold the validation scores, if other than those of --score (repeatable).",
        ),
    ] = NO_TEXTS,
    train_loss: Annotated[
        str | None, typer.Option("--train-loss", metavar="COLUMN", help="Training loss, in the same rows as --val.")
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", metavar="COLUMN|=VALUE", help="Optimizer step; orders evaluations.")
    ] = None,
    where: Annotated[
        list[str], typer.Option("--where", metavar="COLUMN=VALUE", help="Use only rows with this value (repeatable).")
    ] = NO_TEXTS,
    scale: Annotated[
        Literal["percent", "fraction"] | None,
        typer.Option("--scale", help="Scale of the scores. Default: inferred from them."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Metric of the score. Default: the task's.")] = None,
    split: Annotated[Literal["val", "test"], typer.Option("--split", help="Split of the score.")] = "test",
    checkpoint: ImportCheckpointOption = "last",
    baseline: BaselineOption = None,
    rows: RowsOption = None,
    rename: RenameOption = NO_TEXTS,
    vary: Annotated[
        list[str], typer.Option("--vary", metavar="COLUMN", help="Column that may vary within an arm (repeatable).")
    ] = NO_TEXTS,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out runs without a score or without validation rows.")
    ] = False,
) -> None:
    """Import per-seed results from a table with named columns."""
    from stableft.records.csv_table import CsvMapping
    from stableft.records.import_csv import import_csv

    mapping = CsvMapping(
        task=task,
        arm=arm,
        seed=seed,
        score=score,
        val=val,
        val_where=tuple(val_where),
        train_loss=train_loss,
        step=step,
        where=tuple(where),
        scale=scale,
        metric=metric,
        split=split,
        checkpoint=checkpoint,
        baseline=baseline,
        rows=rows,
        rename=tuple(rename),
        vary=tuple(vary),
        allow_missing=allow_missing,
    )
    print(import_csv(file, mapping, out))


@import_app.command("zhang-logs")
def import_zhang_logs_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of METHOD/TASK/SEEDk/, each with its three log files.")
    ],
    out: RecordsOutOption,
    rename: RenameOption = NO_TEXTS,
    checkpoint: ImportCheckpointOption = "last",
    baseline: BaselineOption = None,
    rows: RowsOption = None,
) -> None:
    """Import log files written by the released code of Zhang et al."""
    from stableft.records.import_zhang_logs import import_zhang_logs

    print(import_zhang_logs(folder, out, tuple(rename), checkpoint, baseline, rows))
