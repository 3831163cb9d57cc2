"""Footnotes of reports: which runs a cell leaves out, pools or repeats, and where imported ones come from."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

from stableft.catalog.tasks import task_title
from stableft.config.sweep_file import find_sweep_file
from stableft.errors import UserError
from stableft.report.arm_cells import ArmCell, RunRow, hub_drift_note, is_counted_otherwise
from stableft.report.arm_settings import describe_execution
from stableft.report.artifact import arm_without_source
from stableft.report.forms.document import Paragraph, Report, ReportTable
from stableft.report.pair_tests import FALSE_STABILITY, is_falsely_stable
from stableft.report.paper_values import PAPERS
from stableft.report.runs import ArmTask
from stableft.text import SCREEN_WIDTH, join_with


def deviation_footnotes(deviations: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    """Yield a line for each arm whose runs differ from the published setting, or for its tasks if they disagree."""
    for arm in dict.fromkeys(arm for arm, _ in deviations):
        by_task = {task: "; ".join(differences) for (of, task), differences in deviations.items() if of == arm}
        for text in dict.fromkeys(text for text in by_task.values() if text):
            tasks = [task_title(task) for task, other in by_task.items() if other == text]
            place = arm if len(tasks) == len(by_task) else f"{arm} on {join_with(tasks)}"
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


NoteSubject = Literal["table", "scores", "curves"]


def cell_footnotes(*parts: Sequence[ArmCell], of: NoteSubject = "table", sources: bool = True) -> Iterator[str]:
    """Yield footnotes on the runs of these cells: failed, missing, pooled and repeated ones, each sentence once.

    The cells of a part, such as a table or a panel, are shown side by side. `of` says what they show: a stability
    table, which marks arms with a dagger and says which checkpoint decides if a run failed, other scores, or curves,
    of which notes on scores are left out. `sources` adds where imported runs came from.
    """
    cells = list({(cell.arm, cell.task): cell for part in parts for cell in part}.values())
    cells_of: dict[str, dict[ArmTask, None]] = {}
    judged = of == "scores" and any(cell.failed for cell in cells)
    for cell, beside in ((cell, part) for part in parts for cell in part):
        sentences = [*_describe_runs(cell)]
        if of != "curves":
            alike = [other for other in beside if other.task == cell.task]
            sentences = [*_describe_scores(cell, alike, " (†)" if of == "table" else ""), *sentences]
        for sentence in (*sentences, *(_describe_judgement(cell) if judged else ())):
            cells_of.setdefault(sentence, {})[cell.arm, cell.task] = None
    for sentence, places in cells_of.items():
        yield f"{name_places(places, [(cell.arm, cell.task) for cell in cells])}: {sentence}"
    yield from (note for cell in cells if (note := hub_drift_note(cell)))
    yield from imported_run_footnotes(cells) if sources else ()


def name_places(places: Iterable[ArmTask], shown: Collection[ArmTask] = ()) -> str:
    """Return arms and tasks in words, those arms that share their tasks together.

    `shown` are all that the report shows. Empty: all of them have no name of their own.
    """
    tasks_of: dict[str, list[str]] = {}
    for arm, task in places:
        tasks_of.setdefault(arm, []).append(task)
    chosen = {(arm, task) for arm, tasks in tasks_of.items() for task in tasks}
    if chosen == set(shown) and len(chosen) > 1:
        return "all arms" if len({task for _, task in shown}) == 1 else "all arms and tasks"
    arms_of: dict[tuple[str, ...], list[str]] = {}
    for arm, tasks in tasks_of.items():
        arms_of.setdefault(tuple(tasks), []).append(arm)
    texts = []
    for tasks, arms in arms_of.items():
        others = list(dict.fromkeys(arm for arm, task in shown if task in tasks and (arm, task) not in chosen))
        names = _name_arms(arms, others if shown else arms)
        if shown and len(arms_of) == 1 and len(arms) > 1 and len(others) < len(arms) / 2:
            names = f"all arms{f' but {_name_arms(others, arms)}' if others else ''}"
        texts.append(f"{names} on {join_with([task_title(task) for task in tasks])}")
    return "; ".join(texts)


def _name_arms(arms: Sequence[str], others: Sequence[str]) -> str:
    """Return arms in words. Those of a grid have one name if they are several and none of `others` is of that grid."""
    grids = Counter(arm.partition(" ")[0] for arm in arms)
    apart = {arm.partition(" ")[0] for arm in others}
    names = (
        f"every {grid}" if grids[grid] > 1 and grid not in apart else f'"{arm}"' if "," in arm else arm
        for arm in arms
        for grid in [arm.partition(" ")[0]]
    )
    return join_with(list(dict.fromkeys(names)))


def _describe_scores(cell: ArmCell, others: Sequence[ArmCell], dagger: str) -> Iterator[str]:
    """Yield sentences on failed runs, whose scores or spread mislead. `others` are beside it."""
    summary = cell.summary
    if is_falsely_stable(cell, others):
        yield (
            f"{cell.failed} of {cell.n_known} runs failed{dagger}; a small spread of mostly failed runs is no "
            f"stability ({FALSE_STABILITY})."
        )
    elif cell.mostly_failed:
        yield f"most runs failed{dagger}."
    if is_counted_otherwise(cell):
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


def _describe_runs(cell: ArmCell) -> Iterator[str]:
    """Yield sentences on which runs the cell has, and how they were computed."""
    summary = cell.summary
    if cell.fingerprints > 1:
        yield f"the runs used {cell.fingerprints} different sets of data rows."
    if len(cell.devices) > 1:
        listed = ", ".join(f"{n} on {device}" for device, n in cell.devices.items())
        yield f"the runs were computed in ways that round differently: {listed}."
    if len(cell.executions) > 1:
        listed = " and ".join(f"{n} on {describe_execution(how)}" for how, n in sorted(cell.executions.items()))
        yield f"the runs were computed {listed}: the same function up to rounding, with other dropout masks."
    yield from (f"{note}." for note in cell.data_notes)
    if cell.crashed:
        yield f"{cell.crashed} run{'s' * (cell.crashed > 1)} crashed: no score, and not counted as failed."
    if cell.stopped:
        yield (
            f"{cell.stopped} of {len(cell.run_ids)} runs were stopped early as hopeless ({' and '.join(cell.rules)}) "
            "and are not counted: the scores are those of the better ones."
        )
    if cell.starts:
        yield f"the runs start from {', and from '.join(cell.starts)}."
    if cell.start_weights > len(cell.starts):
        yield (
            f"the runs start from {cell.start_weights} different sets of weights: a run that they start from was "
            "trained again in between and ended with other bits."
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
    if cell.checkpoint == "best":
        if cell.judged_by_last:
            yield "a run's last checkpoint decides if it failed; the scores are of its best."
        else:
            yield "a run's best checkpoint, the only one with a score, decides if it failed."


def imported_run_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line for each source of imported runs, with the numbers of its runs by arm and task."""
    by_source: dict[str, dict[ArmTask, None]] = {}
    for cell in cells:
        for source, n in cell.sources.items():
            count = f"{n}" if n == len(cell.run_ids) else f"{n} of {len(cell.run_ids)}"
            place = arm_without_source(cell.arm), f"{task_title(cell.task)} ({count})"
            by_source.setdefault(source, {})[place] = None
    for source, places in by_source.items():
        yield (f"The runs of {name_places(places)} are not this project's runs, they were imported from {source}.")


def tell_origin(report: Report, rows: Iterable[RunRow]) -> Report:
    """Return the report with what imported runs are, as told at import, under its title and in its first caption.

    The terminal has it if it fits one line.
    """
    notes = {row["source"]: row["source_note"].rstrip(".") for row in rows if isinstance(row["source_note"], str)}
    if not notes:
        return report
    line = " ".join(f"Imported from {source}: {note}." for source, note in notes.items())
    brief = report.brief and len(line) <= SCREEN_WIDTH
    return replace(
        put_first(report, line),
        brief=(Paragraph(line), *report.brief) if brief else report.brief,
        facts={**report.facts, "imported": notes},
    )


def put_first(report: Report, line: str) -> Report:
    """Return the report with a line under its title and in its first caption. An empty line changes nothing."""
    if not line:
        return report
    return replace(report, blocks=(Paragraph(line), *report.blocks), standalone=_with_first_caption(report, line))


def _with_first_caption(report: Report, line: str) -> tuple[ReportTable, ...]:
    """Return the self-contained tables with a line in the caption of the first."""
    return tuple(
        table if i else replace(table, caption=f"{(table.caption or report.title).rstrip('.')}. {line}")
        for i, table in enumerate(report.tables)
    )


PAPER_LETTER = re.compile(r"(?<![\w-])([MZ])(?='s|,? (?:App\.|Fig|Tab|sec\.|footnote))")


def introduce_papers(report: Report) -> Report:
    """Return the report with what M and Z are, if its texts abbreviate the papers to them.

    It is said under the title, in the first caption, and above the terminal's notes.
    """

    def line_for(part: Any) -> str:
        letters = {letter for text in _texts(part) for letter in PAPER_LETTER.findall(text)}
        return "; ".join(f"{letter}: {paper}" for letter, paper in PAPERS.items() if letter in letters)

    blocks, notes = (
        (Paragraph(f"{line}."), *part) if (line := line_for(part)) else part for part in (report.blocks, report.notes)
    )
    in_tables = line_for(report.tables)
    known = line_for((report.blocks, report.facts.get("notes", ())))
    return replace(
        report,
        blocks=blocks,
        notes=notes,
        standalone=_with_first_caption(report, f"{in_tables}.") if in_tables else report.standalone,
        facts={**report.facts, "papers": known} if known else report.facts,
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text within dataclasses, lists, tuples and mappings."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        yield from _texts([getattr(value, item.name) for item in fields(value)])
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def task_footnotes(cells: Sequence[ArmCell]) -> Iterator[str]:
    """Yield a line if the arms on a task are not scored alike, or differ in the commit of one hub model."""
    score_kinds = {
        cell.arm: f"{cell.split} split, {cell.checkpoint} checkpoint, {cell.metric}"
        + (f", {cell.direction}" if cell.lower_is_better else "")
        for cell in cells
        if cell.metric
    }
    if len(set(score_kinds.values())) > 1:
        listed = "; ".join(f"{arm}: {kind}" for arm, kind in score_kinds.items())
        task = task_title(cells[0].task)
        yield f"The arms of {task} are not scored alike ({listed}), so their spread is not of one quantity."
    devices = {cell.arm: " and ".join(sorted(cell.devices)) for cell in cells if cell.devices}
    if len(set(devices.values())) > 1:
        listed = "; ".join(f"{arm}: {device}" for arm, device in devices.items())
        yield f"The arms of {task_title(cells[0].task)} were computed in ways that round differently ({listed})."
    if not any(map(hub_drift_note, cells)) and (note := hub_drift_note(*cells)):
        yield note
