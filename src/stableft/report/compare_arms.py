"""`stableft compare`: the report on two arms and its conclusion in words."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stableft.config.settings import describe_value
from stableft.records.run_record import AnyRunRecord, ImportedRun, RunRecord
from stableft.report.arm_cells import ArmCell
from stableft.report.artifact import ReportedCheckpoint, StabilityTable, make_sweep_artifact
from stableft.report.compare_runs import ArmPair, select_arm_pair
from stableft.report.conclusion import describe_pair
from stableft.report.footnotes import cell_footnotes, introduce_papers, task_footnotes, tell_origin
from stableft.report.forms.document import (
    HEADING_LEVELS,
    OWN_ORIGIN,
    Bullets,
    Column,
    DataTable,
    DrawFigure,
    Heading,
    OriginCount,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportTable,
    Row,
    Value,
    make_label,
)
from stableft.report.numbers_in_words import (
    as_sentence,
    count_value,
    failed_rule,
    failed_value,
    format_percent,
    interval_value,
    percent_value,
    scores_heading,
    text_value,
    wilson_value,
)
from stableft.report.pair_tests import BOOTSTRAP_SEED, FAMILY, PairTests, fresh_generator, successful_scores
from stableft.report.runs import IGNORED_ENVIRONMENT_FIELDS, describe_environment
from stableft.report.stability_report import brief_blocks, collect_scores
from stableft.report.stability_results import assemble_stability
from stableft.report.tests_table import (
    FurtherTests,
    collect_pair_tests,
    compute_further_tests,
    correlation_lines,
    explain_tests,
    pair_remarks,
    permutations_of,
    view_tests,
)
from stableft.stats import RESAMPLES, Interval, PointEstimate, Summary, bootstrap_interval, iqm, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ARM_COLUMNS = (
    *(Column(key) for key in ("task", "metric", "split", "checkpoint")),
    Column("arm", "arm"),
    Column("n", "n"),
    Column("n_nan", "NaN"),
    Column("failed", "failed"),
    Column("failed_wilson", "95 % Wilson", "percent", interval=True),
    Column("mean", "mean", "percent"),
    Column("mean_interval", "95 %", "percent", interval=True),
    Column("std", "SD", "percent"),
    Column("std_interval", "95 %", "percent", interval=True),
    Column("median", "median", "percent"),
    Column("iqm", "IQM", "percent"),
    Column("min", "min", "percent"),
    Column("max", "max", "percent"),
    *(Column(key) for key in ("mostly_failed", "failed_unknown", "crashed", "stopped", "unscored")),
    Column("successful_n"),
    Column("successful_mean", unit="percent"),
    Column("successful_std", unit="percent"),
)
COMPARED_SCORES_FIGURE = "scores"


@dataclass(frozen=True)
class ArmEstimates:
    """Estimates of one arm. `successful` summarizes the scores of the runs that did not fail."""

    cell: ArmCell
    mean_interval: Interval
    std_interval: Interval
    iqm: PointEstimate
    successful: Summary


def estimate_arm(cell: ArmCell) -> ArmEstimates:
    """Return the estimates of an arm."""
    mean, std = (bootstrap_interval(cell.scores, statistic, fresh_generator()) for statistic in ("mean", "std"))
    return ArmEstimates(
        cell,
        _withhold_interval(mean, cell),
        _withhold_interval(std, cell),
        iqm(cell.scores),
        summarize(successful_scores(cell)),
    )


def _withhold_interval(interval: Interval, cell: ArmCell) -> Interval:
    """Return the interval, or only a reason if runs of the arm were early-stopped because of their scores."""
    if not cell.stopped:
        return interval
    return replace(interval, low=None, high=None, reason="what is left of the arm is no sample of it")


def build_comparison_report(
    arm_a: str,
    arm_b: str,
    results: Path,
    files: Sequence[Path],
    task: str | None = None,
    metric: str | None = None,
    where: Sequence[str] = (),
    checkpoint: ReportedCheckpoint = "recipe",
    records: Iterable[AnyRunRecord] | None = None,
) -> Report:
    """Return the report on two arms, whose runs `select_arm_pair` finds. `arm_a` is the reference.

    Raises:
        UserError: An arm, task, metric or field is unknown, a record is damaged, or the arms are not comparable.
    """
    pair = select_arm_pair((arm_a, arm_b), results, files, task, metric, where, checkpoint, records)
    name = make_label(f"compare-{arm_a}-{arm_b}-{pair.task}")
    groups = {(arm, pair.task): [entry.row for entry in runs] for arm, runs in zip(pair.names, pair.arms, strict=True)}
    compared = assemble_stability(groups, make_sweep_artifact(name, ""), StabilityTable(compared=True), {}, {}, {})
    (tests,) = compared.pairs
    further = compute_further_tests(tests)
    arms = [estimate_arm(cell) for cell in compared.cells]
    sentence = describe_pair(
        tests, _power_command(pair, tests, files if metric is None and not where and records is None else ())
    )
    notes = tuple(_comparison_notes(pair, arms, tests, further, sentence))
    title = f"{arm_b} against {arm_a}, {scores_heading(list(compared.cells))}"
    figures: dict[str, DrawFigure] = {}
    if any(cell.summary.n_finite for cell in compared.cells):
        figures[COMPARED_SCORES_FIGURE] = lambda width=None: _draw_compared_scores(pair, compared.cells, width)
    arm_data = DataTable(ARM_COLUMNS, tuple(Row("arm", _arm_values(pair, arm)) for arm in arms))
    test_data = collect_pair_tests([tests], further)
    arms_caption = f"{as_sentence(failed_rule(compared.cells))} {ARMS_CAPTION}"
    arms_table = arm_data.view(name, [column.key for column in ARM_COLUMNS if column.title], arms_caption)
    tests_caption = f"{explain_tests([tests])}{_permutation_caption(further)}"
    tests_table = view_tests(f"{name}-tests", test_data, test_data.rows, tests_caption)
    notes_blocks = (Heading("Notes", HEADING_LEVELS + 1), Bullets(notes))
    report = Report(
        id=name,
        title=title,
        blocks=(
            Paragraph(sentence),
            *([_describe_picture(compared.cells)] if figures else []),
            arms_table,
            tests_table,
            *notes_blocks,
        ),
        brief=tuple(brief_blocks(compared, collect_scores(compared), {pair.task: sentence}, len(notes))),
        tests=(Heading("Tests"), arms_table, tests_table),
        notes=notes_blocks,
        standalone=tuple(_standalone(table, title, sentence, notes) for table in (arms_table, tests_table)),
        data={"arms": arm_data, "tests": test_data},
        facts={
            "task": pair.task,
            "conclusion": sentence,
            "explanations": [arms_table.caption, tests_table.caption],
            "primary": list(FAMILY),
            "differing": {key: list(values) for key, values in pair.differing.items()},
            "notes": list(notes),
        },
        figures=figures,
        undrawn={} if figures else {COMPARED_SCORES_FIGURE: "no run has a score that can be drawn"},
        provenance=_pair_provenance(pair),
    )
    return introduce_papers(tell_origin(report, [row for arm_rows in groups.values() for row in arm_rows]))


def _standalone(table: ReportTable, title: str, sentence: str, notes: Sequence[str]) -> ReportTable:
    return replace(table, caption=f"{title}. {table.caption}", notes=(sentence, *notes))


def _describe_picture(cells: Sequence[ArmCell]) -> Picture:
    counts = ", ".join(f"{cell.arm} {failed_value(cell).text} failed" for cell in cells)
    return Picture(COMPARED_SCORES_FIGURE, f"The score of every run and a box for each arm: {counts}.")


def _power_command(pair: ArmPair, tests: PairTests, files: Sequence[Path]) -> str | None:
    """Return the command that estimates how many seeds are needed, from the records or else from the two SDs."""
    summaries = [tests.reference.summary, tests.arm.summary]
    if files and min(summary.n for summary in summaries) >= 3:
        parts = [part for file in files for part in ("--from", str(file))]
        return shlex.join(["stableft", "power", *parts, "--arms", ",".join(pair.names), "--task", pair.task])
    sds = [summary.std for summary in summaries]
    if not all(sds) or sds[0] == sds[1]:
        return None
    return f"stableft power --sd {100 * (sds[0] or 0):.3g} --ratio {(sds[1] or 0) / (sds[0] or 1):.3g}"


def _arm_values(pair: ArmPair, arm: ArmEstimates) -> dict[str, Value]:
    cell, summary = arm.cell, arm.cell.summary
    plain = {"task": pair.task, "metric": cell.metric, "split": cell.split, "checkpoint": cell.checkpoint}
    plain |= {
        "mostly_failed": cell.mostly_failed,
        "failed_unknown": cell.failed_unknown,
        "crashed": cell.crashed,
        "stopped": cell.stopped,
        "unscored": cell.unscored,
        "successful_n": arm.successful.n,
        "successful_mean": arm.successful.mean,
        "successful_std": arm.successful.std,
        "recipe": cell.recipe,
        "baseline": cell.baseline,
        "scores": list(cell.scores),
        "sources": dict(cell.sources),
        "run_ids": list(cell.run_ids),
    }
    return {key: Value(data=data) for key, data in plain.items()} | {
        "arm": text_value(cell.arm),
        "n": count_value(summary.n),
        "n_nan": count_value(summary.n_nan),
        "failed": failed_value(cell),
        "failed_wilson": wilson_value(cell),
        "mean": percent_value(summary.mean),
        "mean_interval": interval_value(arm.mean_interval, format_percent),
        "std": percent_value(summary.std, mark="†" if cell.mostly_failed else ""),
        "std_interval": interval_value(arm.std_interval, format_percent),
        "median": percent_value(summary.median),
        "iqm": percent_value(arm.iqm.value),
        "min": percent_value(summary.min),
        "max": percent_value(summary.max),
    }


ARMS_CAPTION = (
    "Percent; SD over seeds (ddof 1); intervals of mean and SD by the BCa "
    f"bootstrap ({RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}) unless a note says otherwise; IQM: interquartile mean."
)


def _permutation_caption(further: FurtherTests) -> str:
    detail = permutations_of(further.permutation)
    return (
        f" Permutation test: {detail.strip('()')}." if detail.strip("()") and further.permutation.p is not None else ""
    )


def _draw_compared_scores(pair: ArmPair, cells: Sequence[ArmCell], width: float | None) -> "Figure":
    from stableft.report.figures.draw import draw_panels
    from stableft.report.figures.from_runs import box_panel

    rows = [[entry.row for entry in arm] for arm in pair.arms]
    return draw_panels(
        [box_panel("", [(cell.arm, cell, runs) for cell, runs in zip(cells, rows, strict=True)], "test")], width=width
    )


def _pair_provenance(pair: ArmPair) -> Provenance:
    counts, environments = [], Counter()
    for name, arm in zip(pair.names, pair.arms, strict=True):
        total, finished = Counter[str](), Counter[str]()
        for row, record in arm:
            origin = row["source"] or OWN_ORIGIN
            total[origin] += 1
            finished[origin] += record.status == "finished"
            if isinstance(record, RunRecord) and record.environment:
                environments[
                    describe_environment(record.environment.model_dump(exclude=IGNORED_ENVIRONMENT_FIELDS))
                ] += 1
        counts += [OriginCount(name, pair.task, origin, finished[origin], n) for origin, n in total.items()]
    ids = dict.fromkeys(entry.row["run_id"] for arm in pair.arms for entry in arm)
    return Provenance(tuple(counts), tuple(sorted(environments.items())), tuple(ids))


def _comparison_notes(
    pair: ArmPair, arms: Sequence[ArmEstimates], tests: PairTests, further: FurtherTests, conclusion: str
) -> Iterator[str]:
    """Yield notes on how the arms differ, where their runs come from, and why numbers are missing.

    Reasons that the conclusion gives are not repeated.
    """
    yield from _setting_notes(pair)
    remarks = [line for line in pair_remarks([tests]) if line.rpartition(": ")[2] not in conclusion]
    yield from (f"{line}." for line in (*remarks, *correlation_lines([tests])))
    yield from _device_notes(pair)
    cells = [arm.cell for arm in arms]
    yield from cell_footnotes(cells)
    yield from task_footnotes(cells)
    yield from _missing_number_notes(arms, further)


def _setting_notes(pair: ArmPair) -> Iterator[str]:
    if not pair.settings_known:
        records = [entry.record for arm in pair.arms for entry in arm]
        imported = ["imported runs"] if any(isinstance(record, ImportedRun) for record in records) else []
        commands = ["commands"] if any(isinstance(record, RunRecord) and record.command for record in records) else []
        yield (
            f"The settings and data rows of {' and '.join(imported + commands)} are not known, so nobody here can "
            "check that the arms differ in nothing but what their names say."
        )
    elif pair.differing:
        listed = ", ".join(f"{key} {' / '.join(map(describe_value, pair.differing[key]))}" for key in pair.differing)
        yield f"{' / '.join(pair.names)} differ in: {listed}."
    else:
        yield "The arms have equal settings: what they differ in is chance."


def _device_notes(pair: ArmPair) -> Iterator[str]:
    devices = [sorted({str(entry.row["device"]) for entry in arm if entry.row["device"]}) for arm in pair.arms]
    if all(devices) and devices[0] != devices[1]:
        yield f"The arms ran on different devices: {', '.join(devices[0])} against {', '.join(devices[1])}."


def _missing_number_notes(arms: Sequence[ArmEstimates], further: FurtherTests) -> Iterator[str]:
    """Yield a line for each reason, with the numbers that are missing for it."""
    missing = [
        (f"{name} of {arm.cell.arm}", estimate.reason)
        for arm in arms
        for name, estimate in (
            ("interval of the mean", arm.mean_interval),
            ("interval of the SD", arm.std_interval),
            ("IQM", arm.iqm),
        )
    ]
    missing += [(f"SD of {arm.cell.arm}", arm.cell.reason) for arm in arms if arm.cell.summary.std is None]
    missing += [(test.test, test.reason) for test in (further.student, further.permutation, further.improvement.test)]
    missing += [("chance of a higher score", further.improvement.reason)]
    if not further.improvement.reason:
        missing += [("interval of the chance of a higher score", further.improvement.interval.reason)]
    for reason in dict.fromkeys(reason for _, reason in missing if reason):
        yield f"No {', '.join(name for name, other in missing if other == reason)}: {reason}."
