"""What a reader must know of a table's cells before believing them, one sentence each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from stableft.report.cells import Cell
from stableft.report.compare import stable_in_failure


def deviation_footnotes(deviations: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    """Yields one line for every arm, or its tasks where they differ, whose runs are not the published setting."""
    for row in dict.fromkeys(row for row, _ in deviations):
        by_task = {task: "; ".join(found) for (arm, task), found in deviations.items() if arm == row}
        for text in dict.fromkeys(text for text in by_task.values() if text):
            tasks = [task for task, other in by_task.items() if other == text]
            place = row if len(tasks) == len(by_task) else f"{row} on {', '.join(tasks)}"
            yield f"{place} is not a replication, it differs from the published setting: {text}."


def cell_footnotes(cell: Cell, sources: bool = True, others: Iterable[Cell] = ()) -> Iterator[str]:
    """Yields what is missing from, or (`sources`) foreign to, the runs of one arm, which stands beside `others`."""
    place, summary = f"{cell.row} on {cell.column}", cell.summary
    if stable_in_failure(cell, others):
        yield f"{place}: every run failed (†); a small std among failed runs is no stability (M footnote 5)."
    elif cell.every_run_failed:
        yield f"{place}: every run failed (†)."
    if summary.n_nan:
        yield (
            f"{place}: NaN scores (diverged, or the correlation of a constant): {summary.n_nan} of {summary.n}. "
            f"They count as failed; std, mean, median, min and max are over the {summary.n_finite} others."
        )
    if cell.diverged:
        yield f"{place}: {cell.diverged} of {summary.n} ended in NaN after their best checkpoint, whose score counts."
    if cell.failed and cell.checkpoint == "best":
        yield f"{place}: whether a run failed is judged by its last checkpoint, the scores are of its best."
    if cell.fingerprints > 1:
        yield f"{place}: the runs used {cell.fingerprints} different sets of data rows."
    if cell.crashed:
        yield f"{place}: {cell.crashed} crashed, without a score, and in neither n nor failed."
    if cell.stopped:
        yield (
            f"{place}: {cell.stopped} of {len(cell.run_ids)} runs were stopped early as hopeless "
            f"({' and '.join(cell.rules)}), and are in neither n nor failed: the scores are those of the better ones."
        )
    if cell.starts:
        yield f"{place}: the runs start from {', and from '.join(cell.starts)}."
    if cell.start_weights > len(cell.starts):
        yield (
            f"{place}: the runs start from {cell.start_weights} different sets of weights: a run that they start from "
            "was trained again in between, and did not end in the same bits."
        )
    if cell.unscored:
        yield f"{place}: {cell.unscored} finished without a {cell.checkpoint} {cell.split} score and are not in n."
    if cell.failed_unknown:
        yield f"{place}: whether a run failed is not known of {cell.failed_unknown} of {summary.n}."
    if cell.planned is not None and summary.n != cell.planned:
        yield f"{place}: {summary.n} runs have a score, {cell.planned} are planned."
    yield from foreign_notes([cell]) if sources else ()
    if cell.settings > 1:
        yield f"{place}: pools {cell.settings} settings (configs that differ in more than their seeds)."
    if cell.copies:
        yield f"{place}: {cell.copies} records repeat a run; the first of each counts."


def foreign_notes(cells: Iterable[Cell]) -> Iterator[str]:
    """Yields for each place from which runs were imported how many of which arms and tasks they are."""
    places: dict[str, dict[str, None]] = {}
    for cell in cells:
        for source, n in cell.sources.items():
            line = f"{n} of {len(cell.run_ids)} runs of {cell.row} on {cell.column}"
            places.setdefault(source, {})[line] = None
    for source, lines in places.items():
        yield f"{', '.join(lines)} are not this project's runs, they were imported from {source}."


def column_footnotes(cells: Sequence[Cell]) -> Iterator[str]:
    """Yields a line where the arms of a column are not scored alike."""
    kinds = {
        cell.row: f"{cell.split} split, {cell.checkpoint} checkpoint, {cell.metric}" for cell in cells if cell.metric
    }
    if len(set(kinds.values())) > 1:
        each = "; ".join(f"{row}: {kind}" for row, kind in kinds.items())
        yield f"The arms of {cells[0].column} are not scored alike ({each}), so their spread is not of one quantity."
