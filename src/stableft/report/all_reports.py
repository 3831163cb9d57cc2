"""`stableft report all`: rebuild every report for which there are records."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.probe_record import ProbeRecords, find_probes_in_files, find_probes_in_results
from stableft.records.run_record import ImportedRun, RunRecord, atomic_write
from stableft.records.stored_records import find_records_files, read_all_stored_records, read_records_files
from stableft.report.artifact import Artifact, DatasetsTable, FigurePart, ReportedCheckpoint, groups_of
from stableft.report.build import build_report
from stableft.report.figures.from_probes import count_probe_records
from stableft.report.forms.document import Report
from stableft.report.forms.write import write_report_folder
from stableft.report.other_settings import describe_padded_records, plan_padded_runs
from stableft.report.runs import (
    ARTIFACTS,
    ArtifactRuns,
    collect_runs,
    load_artifact,
    load_runs_from_file,
    select_imported_runs,
)


def build_all_reports(
    results: Path,
    files: Sequence[Path],
    data_dir: Path | None,
    checkpoint: ReportedCheckpoint,
    out: Path,
    width: float | None = None,
    sets: Sequence[str] = (),
) -> Iterator[str]:
    """Write a folder for each report below `out` and one HTML file with all of them. Yield a line for each.

    The records are read from `files` (default: `results/records/*.jsonl`) and from `results/runs`. An artefact is
    skipped if nothing it shows is recorded, and a table of data sets if `data_dir` is None. If a report cannot be
    built, its line is the reason, and the other reports are still written. With equal records and library versions,
    the files are equal byte for byte. `width` is that of the figures in inches. `sets` are KEY=VALUE strings that
    override the settings of the artefacts' sweeps.

    Raises:
        UserError: There are no records, one is damaged, or two reports would have the same name.
    """
    files = files or find_records_files(results)
    files_with_probes: set[Path] = set()
    records = [*read_records_files(files, files_with_probes), *read_all_stored_records(results)]
    if not records:
        raise UserError(f"report all: there are no records in {results}/records and {results}/runs")
    own = [record for record in records if isinstance(record, RunRecord)]
    imported = [record for record in records if isinstance(record, ImportedRun)]
    stems = [path.stem for path in files]
    for path in files:
        if path.stem in ARTIFACTS or stems.count(path.stem) > 1:
            raise UserError(f"report all: {path}: another report has the name {path.stem!r} too; rename the file")
    in_files, ids = find_probes_in_files(sorted(files_with_probes)), [record.run_id for record in records]
    probes = ProbeRecords((*in_files.refs, *find_probes_in_results(results, ids).refs))
    reports: list[Report] = []
    for path in files:
        try:
            runs = load_runs_from_file(path, checkpoint)
            if runs.frame.empty:
                yield f"{path}: no records"
                continue
            report = build_report(runs, width=width)
        except UserError as error:
            yield f"{path}: no report: {error}"
            continue
        reports.append(report)
        yield _write_and_describe(report, out / path.stem, f"from {path}")
    load = cache(lambda path: load_sweep(path, LocalPaths(), sets))
    finished = {record.run_id: record for record in own if record.status == "finished"}
    for artifact in ARTIFACTS.values():
        if not _can_be_built(artifact, data_dir):
            continue
        try:
            _, planned = load_artifact(artifact.id, load)
            shown = select_imported_runs(imported, artifact, [run for _, run in planned])
            runs = collect_runs(artifact, planned, [*own, *shown], checkpoint, find_probes=lambda: probes)
            left = [run for _, run in planned if run.run_id not in finished]
            starts = [run for path in {path for path, _ in planned} for run in load(path).start_runs]
            padded = [finished[run.run_id] for run in plan_padded_runs(left, starts) if run.run_id in finished]
            yield from (f"{artifact.id}: {line}" for line in describe_padded_records(padded))
            if _is_empty(artifact, runs):
                continue
            report = build_report(runs, data_dir, width)
        except UserError as error:
            yield f"{artifact.id}: no report: {error}"
            continue
        reports.append(report)
        yield _write_and_describe(report, out / artifact.id, f"{len(runs.frame)} runs")
    from stableft.report.forms.html import reports_to_html

    out.mkdir(parents=True, exist_ok=True)  # no report may have been written there
    atomic_write(out / "all.html", reports_to_html(reports, "stableft: all reports").encode())
    yield f"{out / 'all.html'}: {len(reports)} reports in one file"


def _can_be_built(artifact: Artifact, data_dir: Path | None) -> bool:
    return data_dir is not None or not any(isinstance(part, DatasetsTable) for part in artifact.parts)


def _is_empty(artifact: Artifact, runs: ArtifactRuns) -> bool:
    if artifact.shows_only_probes:
        return not count_probe_records(runs, artifact.parts)
    if artifact.has_no_runs or any(not isinstance(source, str) for source in runs.frame["source"]):
        return False
    figures = [part for part in runs.artifact.parts if isinstance(part, FigurePart)]
    if not figures:
        return runs.frame.empty
    # A figure is a comparison: a single group of imported runs, with none of ours beside it, is left out.
    filled = [{(group.arm, group.task) for group in groups_of(part)} & runs.imported.keys() for part in figures]
    return all(len(groups) < 2 for groups in filled)


def _write_and_describe(report: Report, folder: Path, origin: str) -> str:
    lines = write_report_folder(report, folder)
    return f"{folder}: {origin}, {len(lines) - len(report.undrawn)} files"
