"""Commands that read results: report, compare and power."""

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


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|ARTIFACT|FILE|all",
            help="Sweep file, artifact id such as mosbach-table1, file of records, or all.",
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
) -> None:
    """Print a table or figure of a paper, or the table of a sweep, beside the published numbers."""
    from stableft.config.local_files import check_results_folder
    from stableft.config.sweep_file import load_sweep_from_options
    from stableft.report.build import build_report
    from stableft.report.forms.write import resolve_target, write_report
    from stableft.report.runs import as_means_table, compare_against, load_runs

    check_results_folder(results)
    for other in (name, *more) if more else ():
        if not other.endswith(".jsonl"):
            raise UserError(f"report {name} {more[0]}: several names must be files of records, but {other} is not one")
    if name == "all":
        from stableft.report.all_reports import build_all_reports

        if format_ or figure or against:
            raise UserError("report all: writes every format and figure; leave out --format, --figure and --against")
        if out and Path(out).suffix:
            raise UserError(f"report all: --out {out} must be a folder; all.html is written to it")
        for line in build_all_reports(results, records, data_dir, score, Path(out) if out else results / "reports"):
            print(line, flush=True)
        return
    output = resolve_target(out, format_, figure, tests, notes)
    if name.endswith(".jsonl") and (
        filters := [option for option, value in {"--arms": arms, "--seeds": seeds, "--set": set_}.items() if value]
    ):
        raise UserError(
            f"{name}: {' and '.join(filters)} can only select runs of a sweep file; a file of records is reported whole"
        )
    if kind := {".csv": "csv", ".tsv": "csv", ".json": "json"}.get(Path(name).suffix):
        raise UserError(f"{name} is not a file of records; convert it with `stableft import {kind} {name} ...`")
    runs = load_runs(
        name,
        results,
        records,
        score,
        lambda path: load_sweep_from_options(path, None, set_, arms, seeds),
        output.needs_figures,
        [Path(other) for other in more],
    )
    if against:
        runs = compare_against(runs, against)
    if rule != "levene":
        runs = as_means_table(runs, rule)
    if text := write_report(build_report(runs, data_dir), output):
        print(text)


def compare(
    arm_a: Annotated[str, typer.Argument(metavar="ARM_A", help="Name of an arm, as reports show it.")],
    arm_b: Annotated[str, typer.Argument(metavar="ARM_B")],
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
    from stableft.config.local_files import check_results_folder
    from stableft.report.compare_arms import build_comparison_report
    from stableft.report.forms.write import resolve_target, write_report

    check_results_folder(results)
    output = resolve_target(out, format_, figure, tests, notes)
    if text := write_report(
        build_comparison_report(arm_a, arm_b, results, records, task, metric, where, score), output
    ):
        print(text)


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
