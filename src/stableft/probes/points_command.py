"""`stableft probe points`: how much runs differ on each example (M sec. 7.1), of a sweep or of a table."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from stableft.command import check_results, load
from stableft.errors import UserError
from stableft.probes.points_csv import CsvColumns, read_group
from stableft.probes.points_data import Checkpoint, read_groups
from stableft.probes.points_report import points_report
from stableft.report.blocks import Report
from stableft.report.files import deliver, output_of
from stableft.report.render import Format

__all__ = ["CsvColumns", "PointsRequest", "run_points"]
OPTIONS = {"config": "CONFIG", "split": "--split", "checkpoint": "--checkpoint", "arms": "--arms", "seeds": "--seeds"}


@dataclass(frozen=True)
class PointsRequest:
    """Whose predictions, a sweep's or a table's, and how many of the most unstable examples are printed."""

    config: str | None
    csv: Path | None
    columns: CsvColumns = CsvColumns()  # noqa: RUF009 - it is frozen
    split: Literal["reported", "val", "test"] = "reported"
    checkpoint: Checkpoint = "last"
    most: int = 10
    arms: str = ""
    seeds: str | None = None


def run_points(
    request: PointsRequest, results: Path, data_dir: Path | None, form: Format | None, out: str | None
) -> str:
    """Writes the report where it goes, and returns what is to be printed, which may be nothing.

    Raises:
        UserError: the options contradict each other, or there are no predictions that can be used.
    """
    output = output_of(out, form, None)
    if request.csv is not None:
        _check_table_options(request, data_dir)
        group = read_group(request.csv, request.columns)
        return deliver(points_report(request.csv.name, [group], request.most), output)
    if request.config is None:
        raise UserError("probe points: give a sweep file, or --csv FILE with a table of predictions")
    for field in fields(CsvColumns):
        if getattr(request.columns, field.name) != field.default:
            raise UserError(f"--{field.name} names a column of --csv FILE; {request.config} is a sweep file")
    return deliver(_of_sweep(request, request.config, results, data_dir), output)


def _of_sweep(request: PointsRequest, config: str, results: Path, data_dir: Path | None) -> Report:
    check_results(results)
    sweep = load(config, data_dir, [], request.arms, request.seeds)
    groups = read_groups(sweep, results, request.split, request.checkpoint)
    if not any(group.runs for group in groups):
        advice = "; ".join(dict.fromkeys(line for group in groups for line in group.advice))
        raise UserError(f"{sweep.path}: {results} has no predictions of its {len(sweep.runs)} runs; {advice}")
    return points_report(sweep.name, groups, request.most)


def _check_table_options(request: PointsRequest, data_dir: Path | None) -> None:
    """Raises UserError for an option that is about a sweep."""
    given = [
        option
        for field in fields(PointsRequest)
        if (option := OPTIONS.get(field.name)) and getattr(request, field.name) != getattr(_SWEEPLESS, field.name)
    ]
    given += ["--data-dir"] if data_dir is not None else []
    if given:
        raise UserError(f"--csv {request.csv} and {' and '.join(given)}: a table is shown whole, and is no sweep")


_SWEEPLESS = PointsRequest(None, None)
