"""Footnotes of reports: which runs a cell leaves out, pools or repeats, and where imported ones come from."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from stableft.config.sweep_file import find_sweep_file
from stableft.errors import UserError
from stableft.report.arm_cells import ArmCell, RunRow, hub_drift_note
from stableft.report.artifact import arm_without_source
from stableft.report.forms.document import Paragraph, Report
from stableft.report.pair_tests import is_falsely_stable
from stableft.text import SCREEN_WIDTH


def deviation_footnotes(deviations: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    """Yield a line for each arm whose runs differ from the published setting, or for its tasks if they disagree."""
    for arm in dict.fromkeys(arm for arm, _ in deviations):
        by_task = {task: "; ".join(differences) for (of, task), differences in deviations.items() if of == arm}
        for text in dict.fromkeys(text for text in by_task.values() if text):
            tasks = [task for task, other in by_task.items() if other == text]
            place = arm if len(tasks) == len(by_task) else f"{arm} on {', '.join(tasks)}"
            yield f"{place} is not a replication, it differs from the published setting: {text}."


DEVIATION = re.compile(
    r"^ *(?:- )?(?P<setting>[^#\n]*?) *# DEVIATION: (?P<text>.*\S)(?P<more>(?:\n *# .*)*)", re.MULTILINE
)


def sweep_deviation_footnotes(sweeps: Iterable[str]) -> Iterator[str]:
    """Yield a line for each deviation from the papers that a comment of these sweep files states."""
    for sweep in dict.fromkeys(sweeps):
        try:
            text = find_sweep_file(sweep).read_text(encoding="utf-8")
        except (UserError, OSError):  # a report of records needs no sweep file
            continue
        for found in DEVIATION.finditer(text):
            setting = f" (`{found['setting'].rstrip(':')}`)" if found["setting"] else ""
            words = f"{found['text']} {found['more'].replace('#', ' ')}".split()
            yield f"Deviation in {sweep}{setting}: {' '.join(words).rstrip('.')}."


def cell_footnotes(cells: Sequence[ArmCell], sources: bool = True, judged_by: bool = True) -> Iterator[str]:
    """Yield footnotes on the runs of these cells: failed, missing, pooled and repeated ones, each sentence once.

    `sources` adds where imported runs came from, `judged_by` which checkpoint decides if a run failed.
    """
    cells_of: dict[str, list[ArmCell]] = {}
    for cell in cells:
        sentences = [*_describe_runs(cell, [other for other in cells if other.task == cell.task])]
        for sentence in (*sentences, *(_describe_judgement(cell) if judged_by else ())):
            cells_of.setdefault(sentence, []).append(cell)
    for sentence, places in cells_of.items():
        yield f"{_name_places(places, cells)}: {sentence}"
    yield from (note for cell in cells if (note := hub_drift_note(cell)))
    yield from imported_run_footnotes(cells) if sources else ()


def _name_places(places: Sequence[ArmCell], cells: Sequence[ArmCell]) -> str:
    """Return some of the cells by arm and task."""
    if len(places) == len(cells) > 1:
        return "all arms" if len({cell.task for cell in cells}) == 1 else "all arms and tasks"
    tasks_of: dict[str, list[str]] = {}
    for cell in places:
        tasks_of.setdefault(cell.arm, []).append(cell.task)
    return _join_arms_by_tasks(tasks_of)


def _join_arms_by_tasks(tasks_of: Mapping[str, Iterable[str]]) -> str:
    """Return arms with their tasks in words, those that share their tasks together."""
    arms_of: dict[tuple[str, ...], list[str]] = {}
    for arm, tasks in tasks_of.items():
        arms_of.setdefault(tuple(tasks), []).append(arm)
    return "; ".join(f"{', '.join(arms)} on {', '.join(tasks)}" for tasks, arms in arms_of.items())


def _describe_runs(cell: ArmCell, others: Sequence[ArmCell]) -> Iterator[str]:
    summary = cell.summary
    if is_falsely_stable(cell, others):
        yield (
            f"{cell.failed} of {cell.n_known} runs failed (†); a small spread of mostly failed runs is no stability "
            "(M footnote 5)."
        )
    elif cell.mostly_failed:
        yield "most runs failed (†)."
    known = not (cell.failed_unknown or cell.failed_by_accuracy_unknown)
    if known and cell.failed != cell.failed_by_accuracy:
        yield (
            f"{cell.failed_by_accuracy}/{summary.n} failed as M sec. 3.2 defines it (accuracy at or below the "
            f"majority), {cell.failed}/{summary.n} as here."
        )
    if summary.n_nan:
        yield (
            f"NaN scores (diverged, or the correlation of a constant): {summary.n_nan} of {summary.n}. They count as "
            f"failed; SD, mean, median, min, max and their tests are over the {summary.n_finite} others."
        )
    if cell.diverged:
        yield f"{cell.diverged} of {summary.n} ended in NaN after their best checkpoint, whose score counts."
    if cell.fingerprints > 1:
        yield f"the runs used {cell.fingerprints} different sets of data rows."
    if len(cell.devices) > 1:
        listed = ", ".join(f"{n} on {device}" for device, n in cell.devices.items())
        yield f"the runs were computed in ways that round differently: {listed}."
    if len(cell.executions) > 1:
        listed = " and ".join(f"{n} on {execution} rows" for execution, n in sorted(cell.executions.items()))
        yield f"the runs were computed {listed}: the same function up to rounding, with other dropout masks."
    yield from (f"{note}." for note in cell.data_notes)
    if cell.crashed:
        yield f"{cell.crashed} crashed, without a score, and in neither n nor failed."
    if cell.stopped:
        yield (
            f"{cell.stopped} of {len(cell.run_ids)} runs were stopped early as hopeless ({' and '.join(cell.rules)}), "
            "and are in neither n nor failed: the scores are those of the better ones."
        )
    if cell.starts:
        yield f"the runs start from {', and from '.join(cell.starts)}."
    if cell.start_weights > len(cell.starts):
        yield (
            f"the runs start from {cell.start_weights} different sets of weights: a run that they start from was "
            "trained again in between, and did not end in the same bits."
        )
    if cell.unscored:
        yield f"{cell.unscored} finished without a {cell.checkpoint} {cell.split} score and are not in n."
    if cell.failed_unknown:
        how = "; import with --rows or --baseline to know it" if cell.sources else ""
        yield f"whether a run failed is not known of {cell.failed_unknown} of {summary.n}{how}."
    if cell.planned is not None and summary.n != cell.planned:
        yield f"{summary.n} runs have a score, {cell.planned} are planned."
    if cell.settings > 1:
        yield f"pools {cell.settings} settings (configs that differ in more than their seeds)."
    if cell.copies:
        yield f"{cell.copies} records repeat a run; the first of each counts."


def _describe_judgement(cell: ArmCell) -> Iterator[str]:
    if cell.failed and cell.checkpoint == "best":
        if cell.judged_by_last:
            yield "whether a run failed is judged by its last checkpoint, the scores are of its best."
        else:
            yield "whether a run failed is judged by its best checkpoint, the only one with a score."


def imported_run_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line for each source of imported runs, with the numbers of its runs by arm and task."""
    tasks_by_arm: dict[str, dict[str, dict[str, None]]] = {}
    for cell in cells:
        for source, n in cell.sources.items():
            count = f"{n}" if n == len(cell.run_ids) else f"{n} of {len(cell.run_ids)}"
            tasks = tasks_by_arm.setdefault(source, {}).setdefault(arm_without_source(cell.arm), {})
            tasks[f"{cell.task} ({count})"] = None
    for source, arms in tasks_by_arm.items():
        yield (
            f"The runs of {_join_arms_by_tasks(arms)} are not this project's runs, they were imported from {source}."
        )


def tell_origin(report: Report, rows: Iterable[RunRow]) -> Report:
    """Return the report with what imported runs are, as told at import, under its title and in its first caption.

    The terminal has it if it fits one line.
    """
    notes = {row["source"]: row["source_note"].rstrip(".") for row in rows if isinstance(row["source_note"], str)}
    if not notes:
        return report
    line = " ".join(f"Imported from {source}: {note}." for source, note in notes.items())
    tables = tuple(
        table if i else replace(table, caption=f"{(table.caption or report.title).rstrip('.')}. {line}")
        for i, table in enumerate(report.tables)
    )
    brief = report.brief and len(line) <= SCREEN_WIDTH
    return replace(
        report,
        blocks=(Paragraph(line), *report.blocks),
        brief=(Paragraph(line), *report.brief) if brief else report.brief,
        standalone=tables,
        facts={**report.facts, "imported": notes},
    )


def task_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line if the arms on a task are not scored alike, or differ in the commit of one hub model."""
    score_kinds = {
        cell.arm: f"{cell.split} split, {cell.checkpoint} checkpoint, {cell.metric}" for cell in cells if cell.metric
    }
    if len(set(score_kinds.values())) > 1:
        listed = "; ".join(f"{arm}: {kind}" for arm, kind in score_kinds.items())
        yield f"The arms of {cells[0].task} are not scored alike ({listed}), so their spread is not of one quantity."
    devices = {cell.arm: " and ".join(sorted(cell.devices)) for cell in cells if cell.devices}
    if len(set(devices.values())) > 1:
        listed = "; ".join(f"{arm}: {device}" for arm, device in devices.items())
        yield f"The arms of {cells[0].task} were computed in ways that round differently ({listed})."
    if not any(map(hub_drift_note, cells)) and (note := hub_drift_note(*cells)):
        yield note
