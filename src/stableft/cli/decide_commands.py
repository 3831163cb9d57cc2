"""`stableft decide`: replay a rule on stored runs, or plan it before a run is trained."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stableft.cli.options import NO_FILES, NO_TEXTS, RecordsOption, ResultsOption, ScoreOption
from stableft.cli.report_commands import (
    FigureOption,
    FormatOption,
    ReportOutOption,
    WidthOption,
    check_width,
)
from stableft.errors import UserError

if TYPE_CHECKING:
    from stableft.report.decision_plan import PlannedClaim


def decide(
    arms: Annotated[
        list[str],
        typer.Argument(metavar="ARM...", help="Names of arms, as reports show them; the first is the reference."),
    ] = NO_TEXTS,
    rule: Annotated[
        list[str],
        typer.Option(
            "--rule",
            metavar="KEY=VALUE|FILE.yaml",
            help="The rule, as under `decide:` of a sweep file (repeatable), or such a file. Default: the records'.",
        ),
    ] = NO_TEXTS,
    results: ResultsOption = Path("results"),
    records: RecordsOption = NO_FILES,
    task: Annotated[str | None, typer.Option("--task", help="Task. Needed if the arms share several.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Metric. Default: the reported one.")] = None,
    where: Annotated[
        list[str], typer.Option("--where", metavar="FIELD=VALUE", help="Only runs with this setting (repeatable).")
    ] = NO_TEXTS,
    score: ScoreOption = "recipe",
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Simulate error, power and runs needed, from records or guesses."),
    ] = False,
    failed: Annotated[
        str | None, typer.Option("--failed", metavar="A,B", help="With --plan: percent of failed runs in both arms.")
    ] = None,
    means: Annotated[
        str | None, typer.Option("--means", metavar="A,B", help="With --plan: mean scores of both arms, in percent.")
    ] = None,
    sds: Annotated[
        str | None, typer.Option("--sds", metavar="A,B", help="With --plan: their standard deviations, in points.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=2, max=200, help="With --plan and looks=any: most runs of each arm.")
    ] = 50,
    draws: Annotated[int, typer.Option("--draws", min=100, help="With --plan: simulated sweeps.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="With --plan: seed of the simulation.")] = 0,
    format_: FormatOption = None,
    out: ReportOutOption = None,
    figure: FigureOption = None,
    width: WidthOption = None,
) -> None:
    """Decide claims about two arms, look by look. Replays stored runs in the order of their seeds."""
    from stableft.config.decide_rule import read_rule
    from stableft.config.local_files import check_results_folder
    from stableft.report.decision import build_decision_report, decide_from_records
    from stableft.report.forms.write import resolve_target, write_report

    check_results_folder(results)
    check_width(width)
    output = resolve_target(out, format_, figure)
    given = read_rule(rule)
    guesses = {"--failed": failed, "--means": means, "--sds": sds}
    if not plan and (extra := [name for name, value in guesses.items() if value]):
        guess = "are guesses" if len(extra) > 1 else "is a guess"
        raise UserError(f"decide: {' and '.join(extra)} {guess} for --plan")
    names = arms or (given.between if given and given.between else [])
    if plan and given is None:
        raise UserError("decide --plan: needs a rule, such as --rule about=failures --rule 'looks=[5, 10, 20]'")
    if plan and given and any(guesses.values()):
        from stableft.report.decision_plan import build_plan_report, plan_claims

        if records:
            raise UserError("decide --plan: runs are drawn from --records or from guesses; leave out one")
        names = names if len(names) > 1 else ["A", "B"]
        claims = guess_claims(given.about, failed, means, sds)
        sharing = len(claims) * (len(names) - 1)  # the guesses are those of every arm against the first
        planned = plan_claims(given, claims, sharing, seeds, draws, seed)
        report = build_plan_report(given, planned, sharing, names, "guessed arms")
    else:
        if len(names) < 2:
            raise UserError(
                f"decide: name two arms or more, here is {' '.join(names) or 'none'}; the first is the reference"
            )
        if plan and given:
            from stableft.report.decision import collect_all_tasks
            from stableft.report.decision_plan import build_plan_report, plan_claims, resampled_claims

            runs = collect_all_tasks(names, results, records, task, metric, where, score)
            claims = resampled_claims(given, names, runs)
            planned = plan_claims(given, claims, len(claims), seeds, draws, seed)
            report = build_plan_report(given, planned, len(claims), names, "these runs")
        else:
            found = decide_from_records(names, given, results, records, task, metric, where, score)
            report = build_decision_report(*found)
    if text := write_report(replace(report, width=width), output):
        print(text)


def guess_claims(about: list, failed: str | None, means: str | None, sds: str | None) -> "list[PlannedClaim]":
    """Return the claims of a rule about guessed arms.

    Raises:
        UserError: A guess is missing, is not two numbers, or is out of range.
    """
    from stableft.config.decide_rule import ABOUT_TITLES
    from stableft.report.decision_plan import PlannedClaim, guess_failures, guess_scores

    claims = []
    for name in about:
        if name == "failures":
            a, b = _two_numbers("--failed", failed, name, 0, 100)
            arms, null = (guess_failures(a), guess_failures(b)), guess_failures((a + b) / 2)
        else:
            m, s = _two_numbers("--means", means, name, 0, 100), _two_numbers("--sds", sds, name, 0.001, 100)
            arms, null = (guess_scores(m[0], s[0]), guess_scores(m[1], s[1])), guess_scores(m[0], s[0])
        claims.append(PlannedClaim(name, ABOUT_TITLES[name], arms, null))
    return claims


def _two_numbers(option: str, text: str | None, about: str, low: float, high: float) -> tuple[float, float]:
    if text is None:
        raise UserError(f"decide --plan: a claim about {about} needs {option} A,B, or records")
    try:
        a, b = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: must be two numbers, A,B") from None
    if not (low <= a <= high and low <= b <= high):
        raise UserError(f"{option} {text}: both numbers must be between {low:g} and {high:g}")
    return a, b
