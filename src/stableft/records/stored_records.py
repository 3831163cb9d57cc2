"""Read the records of runs in a results folder, and of files of records."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from stableft.config.planned_run import PlannedRun
from stableft.records.failure import judged_as_planned
from stableft.records.run_record import AnyRunRecord, ImportedRun, RunRecord, read_intact_record, read_records_file


def read_stored_records(results: Path, runs: Iterable[PlannedRun]) -> Iterable[RunRecord]:
    """Yield the records of these runs in a results folder, each once. Paused and, with a warning, damaged are skipped.

    Raises:
        UnknownSchemaError: A newer version wrote a record.
    """
    for run_id, config in {run.run_id: run.config for run in runs}.items():
        record = read_intact_record(results, run_id)
        if record and record.status != "paused":
            yield judged_as_planned(record, config)


def read_all_stored_records(results: Path) -> Iterator[RunRecord]:
    """Yield the records of all run folders, sorted by run id, leaving out what `read_stored_records` does."""
    folder = results / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = read_intact_record(results, path.name) if path.is_dir() else None
        if record and record.status != "paused":
            yield record


def read_records_files(paths: Iterable[Path], files_with_probes: set[Path] | None = None) -> Iterable[AnyRunRecord]:
    """Yield the run records of several files. Files that also hold probe records are added to `files_with_probes`."""
    for path in paths:
        yield from read_records_file(path, files_with_probes)


def read_own_records(paths: Iterable[Path]) -> Iterable[RunRecord]:
    """Return an iterable over the records of several files, without imported runs."""
    return (record for record in read_records_files(paths) if isinstance(record, RunRecord))


def read_imported_runs(results: Path) -> Iterator[ImportedRun]:
    """Yield the imported runs in the record files of a results folder. Damaged lines are left out with a warning."""
    for path in find_records_files(results):
        yield from (run for run in read_records_file(path, skip_damaged=True) if isinstance(run, ImportedRun))


def find_records_files(results: Path) -> list[Path]:
    """Return the record files of a results folder, sorted by name."""
    return sorted((results / "records").glob("*.jsonl"))
