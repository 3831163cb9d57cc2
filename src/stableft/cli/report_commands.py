"""Commands that read results: report, compare and power."""

import sys
from dataclasses import replace
from functools import cache
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
WidthOption = Annotated[
    float | None,
    typer.Option(
        "--width",
        metavar="INCHES",
        help="Printed width of figures, 2 to 12, e.g. 3.25 for a column; type is 6 points or more. Default: 7.2.",
    ),
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
    more: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="More files of records, reported together with FILE.")
    ] = NO_TEXTS,
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
    width: WidthOption = None,
) -> None:
    """Print the report of a sweep, or a paper's table or figure. The published numbers stand beside it."""
    from stableft.config.local_files import check_results_folder
    from stableft.python_api import make_report
    from stableft.report.forms.write import resolve_target, write_report

    check_results_folder(results)
    check_width(width)
    if name == "all" and not more:
        from stableft.report.all_reports import build_all_reports

        if format_ or figure or against:
            raise UserError("report all: writes every format and figure; leave out --format, --figure and --against")
        if arms or seeds or rule != "levene" or not {*set_} <= {"execution=padded"}:
            raise UserError(
                "report all: writes every report as it is; leave out --arms, --seeds, --rule and every --set but "
                "execution=padded"
            )
        if out and Path(out).suffix:
            raise UserError(f"report all: --out {out} must be a folder; all.html is written to it")
        for line in build_all_reports(
            results, records, data_dir, score, Path(out) if out else results / "reports", width, set_
        ):
            print(line, flush=True)
        return
    output = resolve_target(out, format_, figure, tests, notes)
    if width and not output.needs_figures:
        raise UserError("--width is that of figures: it needs --out with a figure, an .html file or a folder")
    made = make_report(
        (name, *more),
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
    if text := write_report(replace(made, width=width), output):
        print(text)
    if not records and not name.endswith(".jsonl"):
        print_other_runs(name, set_, arms, seeds, results)


def print_other_runs(name: str, sets: list[str], arms: str, seeds: str | None, results: Path) -> None:
    """Print, beside a report with missing runs, which options report the other runs of the folder.

    Beside a table or figure of a paper, only the option for runs on padded rows is printed.
    """
    from stableft.python_api import plan_sweep
    from stableft.records.run_record import RECORD_FILE, run_folder
    from stableft.records.stored_records import read_all_stored_records
    from stableft.report.other_settings import describe_other_runs, describe_padded_runs
    from stableft.report.runs import ARTIFACTS, load_artifact

    load = cache(lambda path: plan_sweep(path, sets, split_names(arms), seeds))
    _, pairs = load_artifact(name, load)
    planned = [run for _, run in pairs]
    if name in ARTIFACTS:
        starts = [run for path in {path for path, _ in pairs} for run in load(path).start_runs]
        lines = describe_padded_runs(planned, starts, results)
    elif all((run_folder(results, run.run_id) / RECORD_FILE).exists() for run in planned):
        lines = ()
    else:
        lines = describe_other_runs(planned, read_all_stored_records(results))
    for line in lines:
        print(f"{results}: {line}", file=sys.stderr)


def check_width(width: float | None) -> None:
    """Raise a UserError if a figure cannot be that wide, in inches."""
    from stableft.report.figures.style import MAX_WIDTH, MIN_WIDTH

    if width is not None and not MIN_WIDTH <= width <= MAX_WIDTH:
        raise UserError(f"--width {width:g} must be between {MIN_WIDTH:g} and {MAX_WIDTH:g} inches")


def compare_command(
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
    """Compare ARM_B with ARM_A: failures, spread, means. The conclusion is in words."""
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
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Draw the curve to a .png, .svg or .pdf file too.")
    ] = None,
    width: WidthOption = None,
) -> None:
    """Show how many seeds a claim needs. The power of the tests is simulated, by number of runs per arm."""
    from stableft.report.forms.write import IMAGE_SUFFIXES, resolve_target
    from stableft.report.power import describe_power

    check_width(width)
    if width and not out:
        raise UserError("--width is that of the figure: it needs --out with a .png, .svg or .pdf file")
    if out and (Path(out).is_dir() or not resolve_target(out, None, None).is_figure):
        raise UserError(f"--out {out}: the power is drawn to one file that ends in {', '.join(IMAGE_SUFFIXES)}")
    figure = Path(out) if out else None
    print(describe_power(sd, ratio, from_, arms, task, alpha, target, center, seed, figure, width))
