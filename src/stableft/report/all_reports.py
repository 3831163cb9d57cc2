"""Every report for which there are records, rebuilt: of each file of records, and each artefact of the papers."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from stableft.config.planned_run import Sources
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.probe_record import Probed, probed_in_files, probed_in_results
from stableft.records.run_record import atomic_write
from stableft.report.artifact import Artifact, Checkpoint, Datasets
from stableft.report.build import build
from stableft.report.figures.from_probes import probe_count
from stableft.report.forms.document import Report
from stableft.report.forms.write import write_folder
from stableft.report.runs import ARTIFACTS, Runs, all_stored, filed_records, gather, planned_runs, runs_of_file


def rebuild(results: Path, files: Sequence[Path], data_dir: Path | None, which: Checkpoint, out: Path) -> Iterator[str]:
    """Writes a folder for every report below `out`, and all of them in one HTML file; yields a line for each.

    Records are those of `files` or, if there are none, of `results/records/*.jsonl`, and of `results/runs`. Artefacts
    without any run, or without any record of the probes that are all they show, are left out, but for those that need
    none; tables of data sets need `data_dir`. A report that is refused has its reason as its line, and the others go
    on. Equal records give equal bytes with equal versions of the libraries.

    Raises:
        UserError: there are no records, one is damaged, or two reports would have one name.
    """
    files = files or sorted((results / "records").glob("*.jsonl"))
    with_probes: set[Path] = set()
    records = [*filed_records(files, with_probes), *all_stored(results)]
    if not records:
        raise UserError(f"report all: there are no records in {results}/records and {results}/runs")
    stems = [path.stem for path in files]
    for path in files:
        if path.stem in ARTIFACTS or stems.count(path.stem) > 1:
            raise UserError(f"report all: {path}: another report has the name {path.stem!r} too; rename the file")
    in_files, ids = probed_in_files(sorted(with_probes)), [record.run_id for record in records]
    probed = Probed((*in_files.left, *probed_in_results(results, ids).left))
    made: list[Report] = []
    for path in files:
        try:
            runs = runs_of_file(path, which)
            if runs.frame.empty:
                yield f"{path}: there are no records in it"
                continue
            report = build(runs)
        except UserError as error:
            yield f"{path}: no report: {error}"
            continue
        made.append(report)
        yield _write(report, out / path.stem, f"from {path}")
    load = cache(lambda path: load_sweep(path, Sources()))
    for artifact in ARTIFACTS.values():
        if not _is_due(artifact, data_dir):
            continue
        try:
            _, planned = planned_runs(artifact.id, load)
            runs = gather(artifact, planned, records, which, find_probes=lambda: probed)
            if _has_nothing(artifact, runs):
                continue
            report = build(runs, data_dir)
        except UserError as error:
            yield f"{artifact.id}: no report: {error}"
            continue
        made.append(report)
        yield _write(report, out / artifact.id, f"{len(runs.frame)} runs")
    from stableft.report.forms.html import html

    atomic_write(out / "all.html", html(made, "stableft: all reports").encode())
    yield f"{out / 'all.html'}: {len(made)} reports in one file"


def _is_due(artifact: Artifact, data_dir: Path | None) -> bool:
    return data_dir is not None or not any(isinstance(part, Datasets) for part in artifact.parts)


def _has_nothing(artifact: Artifact, runs: Runs) -> bool:
    if artifact.needs_probes:
        return not probe_count(runs, artifact.parts)
    return runs.frame.empty and not artifact.needs_no_run


def _write(report: Report, folder: Path, what: str) -> str:
    lines = write_folder(report, folder)
    return f"{folder}: {what}, {len(lines) - len(report.undrawn)} files"
