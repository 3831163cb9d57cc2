"""Every report for which there are records, rebuilt: of each file of records, and each artefact of the papers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stableft.errors import UserError
from stableft.plan import Sources
from stableft.record import atomic_write
from stableft.report.artifact import Artifact, Checkpoint, Datasets
from stableft.report.blocks import Report
from stableft.report.build import build
from stableft.report.files import write_folder
from stableft.report.gather import ARTIFACTS, all_stored, filed_records, gather, planned_runs, runs_of_file
from stableft.sweepfile import load_sweep


def rebuild(results: Path, files: Sequence[Path], data_dir: Path | None, which: Checkpoint, out: Path) -> Iterator[str]:
    """Writes a folder for every report below `out`, and all of them in one HTML file; yields a line for each.

    Records are those of `files` or, if there are none, of `results/records/*.jsonl`, and of `results/runs`. Artefacts
    without any run are left out, but for those that need none; tables of data sets need `data_dir`. Equal records
    give equal bytes with equal versions of the libraries.

    Raises:
        UserError: there are no records, or one is damaged.
    """
    files = files or sorted((results / "records").glob("*.jsonl"))
    records = [*filed_records(files), *all_stored(results)]
    if not records:
        raise UserError(f"report all: there are no records in {results}/records and {results}/runs")
    stems = [path.stem for path in files]
    for path in files:
        if path.stem in ARTIFACTS or stems.count(path.stem) > 1:
            raise UserError(f"report all: {path}: another report has the name {path.stem!r} too; rename the file")
    made: list[Report] = []
    for path in files:
        runs = runs_of_file(path, which)
        if runs.frame.empty:
            yield f"{path}: there are no records in it"
            continue
        made.append(build(runs))
        yield _write(made[-1], out / path.stem, f"from {path}")
    for artifact in ARTIFACTS.values():
        if not _is_due(artifact, data_dir):
            continue
        _, planned = planned_runs(artifact.id, lambda path: load_sweep(path, Sources()))
        runs = gather(artifact, planned, records, which)
        if artifact.needs_probes or (runs.frame.empty and not artifact.needs_no_run):
            continue
        made.append(build(runs, data_dir))
        yield _write(made[-1], out / artifact.id, f"{len(runs.frame)} runs")
    from stableft.report.html import html

    atomic_write(out / "all.html", html(made, "stableft: all reports").encode())
    yield f"{out / 'all.html'}: {len(made)} reports in one file"


def _is_due(artifact: Artifact, data_dir: Path | None) -> bool:
    return data_dir is not None or not any(isinstance(part, Datasets) for part in artifact.parts)


def _write(report: Report, folder: Path, what: str) -> str:
    lines = write_folder(report, folder)
    return f"{folder}: {what}, {len(lines) - len(report.undrawn)} files"
