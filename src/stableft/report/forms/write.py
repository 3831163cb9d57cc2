"""Render a report in any format and write it with its figures."""

import csv
import io
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stableft.config.local_files import check_replaced_file
from stableft.errors import UserError
from stableft.records.run_record import atomic_write
from stableft.report.forms.document import FOR_READERS, DataTable, Report, Row, provenance_to_json
from stableft.report.forms.latex import report_to_latex
from stableft.report.forms.markdown import report_to_markdown
from stableft.report.forms.terminal import report_to_text
from stableft.text import quote_formula, strip_controls

Format = Literal["text", "md", "csv", "latex", "json", "html"]

FORMAT_OF_SUFFIX: dict[str, Format] = {".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json", ".html": "html"}
IMAGE_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class ReportTarget:
    """Where a report goes: standard output (no path), one report or figure file, or a folder with everything."""

    path: Path | None
    form: Format | None = None
    is_figure: bool = False
    figure: str | None = None  # None: the report's first
    tests: bool = False  # whether text includes the tests, and the notes; the other forms have both
    notes: bool = False

    @property
    def needs_figures(self) -> bool:
        """Whether the output includes figures."""
        return self.is_figure or self.form == "html" or self.form is None


def resolve_target(
    out: str | None, form: Format | None, figure: str | None, tests: bool = False, notes: bool = False
) -> ReportTarget:
    """Return the target described by `--out`, `--format`, `--figure`, `--tests` and `--notes`.

    Raises:
        UserError: The options contradict each other, or the path cannot be written.
    """
    path = Path(out) if out else None
    folder = path is not None and (str(out).endswith("/") or path.is_dir())
    is_figure = path is not None and not folder and path.suffix in IMAGE_SUFFIXES
    if figure and not is_figure:
        raise UserError(
            f"--figure {figure} needs --out with the name of a file that ends in {', '.join(IMAGE_SUFFIXES)}"
        )
    if path is None:
        return ReportTarget(None, form or "text", tests=tests, notes=notes)
    if folder:
        if form:
            raise UserError(f"--format {form} goes with a file; --out {out} is a folder, which takes every form")
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out}: {path} is a file, not a folder")
        return ReportTarget(path)
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    if is_figure and form:
        raise UserError(f"--format {form} is a form of the table; --out {out} is a figure")
    if is_figure:
        check_replaced_file(path, path.suffix.removeprefix("."))
        return ReportTarget(path, is_figure=True, figure=figure)
    if form is None and path.suffix not in FORMAT_OF_SUFFIX:
        endings = ", ".join([*FORMAT_OF_SUFFIX, *IMAGE_SUFFIXES])
        raise UserError(f"--out {out}: the ending must be one of {endings}, or --format given, or a folder end in /")
    form = form or FORMAT_OF_SUFFIX[path.suffix]
    check_replaced_file(path, form)
    return ReportTarget(path, form, tests=tests, notes=notes)


def write_report(report: Report, output: ReportTarget) -> str:
    """Write the report to its target and return the text to print, which may be empty.

    Raises:
        UserError: The requested figure is unknown or cannot be drawn.
    """
    if output.path is None:
        return strip_controls(_render(report, output))  # a name in CSV or JSON may act on a terminal too
    if output.is_figure:
        atomic_write(output.path, _figure_bytes(report, report.find_figure(output.figure), output.path.suffix))
        return ""
    if output.form:
        atomic_write(output.path, (_render(report, output) + "\n").encode())
        return ""
    return "\n".join(write_report_folder(report, output.path))


def write_report_folder(report: Report, folder: Path) -> list[str]:
    """Write every format and figure to a folder, which is created if needed.

    Return the paths, followed by lines on figures that cannot be drawn.

    Raises:
        UserError: A file there is of another kind; nothing is written.
    """
    from stableft.report.figures.style import figure_to_bytes, png_dpi

    folder.mkdir(parents=True, exist_ok=True)
    for name in report.figures:
        check_replaced_file(folder / f"{name}.png", "png")
    for ending, form in FORMAT_OF_SUFFIX.items():
        check_replaced_file(folder / f"report{ending}", form)
    pictures = []
    for name in report.figures:
        figure = report.draw(name)  # drawn once for both formats
        report.svg_cache[name] = figure_to_bytes(figure, "svg")
        atomic_write(folder / f"{name}.png", figure_to_bytes(figure, "png", png_dpi(report.width)))
        pictures.append(str(folder / f"{name}.png"))
    for ending, form in FORMAT_OF_SUFFIX.items():
        text = report_to_markdown(report, pictures=True) if form == "md" else render_report(report, form)
        atomic_write(folder / f"report{ending}", (text.rstrip("\n") + "\n").encode())
    lines = [*(str(folder / f"report{ending}") for ending in FORMAT_OF_SUFFIX), *pictures]
    return [*lines, *(f"no {name}.png: {why}" for name, why in report.undrawn.items())]


def save_sweep_report(report: Report, folder: Path, figures: Collection[str] = ()) -> tuple[str | None, bool]:
    """Write the report of a sweep to its folder. Return a line that names the figures or the error, and if it worked.

    Those of `figures`, the names that any sweep's figures have, that an earlier report drew and this one does not are
    removed: they would contradict it. If no run has finished, nothing is written and there is no line. A file that
    cannot be written is no exception, because nothing is lost: the report is printed, and the records exist.
    """
    if not any(finished for *_, finished, _ in report.provenance.runs):
        return None, False
    try:
        lines = write_report_folder(report, folder)
        for name in {*figures} - report.figures.keys():
            (folder / f"{name}.png").unlink(missing_ok=True)
    except UserError as error:
        return f"the report's files were not written: {error}", False
    except OSError as error:  # e.g. missing permissions, also for matplotlib's cache folder
        return f"the report's files could not be written: {error.filename or folder}: {error.strerror or error}", False
    drawn = ", ".join(line for line in lines if "png" in line)
    return f"figures: {drawn}; the report beside them in five forms", True


def _render(report: Report, output: ReportTarget) -> str:
    if output.form in ("text", None):
        return report_to_text(report, output.tests, output.notes).rstrip("\n")
    return render_report(report, output.form).rstrip("\n")


def _figure_bytes(report: Report, name: str, ending: str) -> bytes:
    from stableft.report.figures.style import figure_to_bytes, png_dpi

    return figure_to_bytes(report.draw(name), ending.removeprefix("."), png_dpi(report.width))


SIGNIFICANT_DIGITS = 9  # further digits of p-values and bootstrap intervals depend on the processor


def report_to_csv(report: Report) -> str:
    """Return the rows of the data tables as CSV with a header. Missing values are empty, NaN is "NaN".

    Numbers with a unit are multiplied by 100. A report without data gives an empty text.
    """
    tables = [table for table in report.data.values() if table.only != "json"]
    rows = [dict(_csv_line(table, row)) for table in tables for row in table.rows if row.kind != FOR_READERS]
    headings = list(dict.fromkeys(heading for line in rows for heading in line))
    if not headings:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_line(table: DataTable, row: Row) -> Iterator[tuple[str, Any]]:
    if row.kind:
        yield "kind", row.kind
    for column in table.columns:
        if column.for_readers:
            continue
        data, unit = row[column.key].data, f" [{column.unit}]" if column.unit else ""
        ends = zip(("_low", "_high"), data or (None, None), strict=True) if column.interval else [("", data)]
        for end, number in ends:
            scaled = 100 * number if column.unit and number is not None else number
            yield f"{column.key}{end}{unit}", _to_csv_value(scaled)


def _to_csv_value(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return "; ".join("" if item is None else str(_to_csv_value(item)) for item in data)
    if isinstance(data, Mapping):
        return _to_csv_value([f"{key}: {_to_csv_value(item)}" for key, item in data.items()])
    if isinstance(data, float):
        return "NaN" if math.isnan(data) else repr(round_float(data))
    if isinstance(data, str):
        return quote_formula(data)
    if data is None or isinstance(data, int):
        return data
    raise ValueError(f"{data!r} cannot be written to a CSV file")


def report_to_json(report: Report) -> str:
    """Return data tables, facts and provenance as JSON. NaN and infinities are null.

    Raises:
        ValueError: A value has no JSON form.
    """
    values: dict[str, Any] = {"report": report.id, "title": report.title}
    for name, table in report.data.items():
        if table.only != "csv":
            values[name] = [_json_row(table, row) for row in table.rows if row.kind != FOR_READERS]
    values |= report.facts
    values |= provenance_to_json(report.provenance) if report.provenance.runs else {}
    return json.dumps(_to_json_value(values, report.id), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_row(table: DataTable, row: Row) -> dict[str, Any]:
    hidden = {column.key for column in table.columns if column.for_readers}
    keys = dict.fromkeys([*(column.key for column in table.columns if column.key in row.values), *row.values])
    return ({"kind": row.kind} if row.kind else {}) | {key: row[key].data for key in keys if key not in hidden}


def _to_json_value(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {_check_json_key(key, place): _to_json_value(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        return round_float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"{place} is {value!r}, which is not JSON")


def _check_json_key(key: Any, place: str) -> str:
    if type(key) is not str:  # json.dumps would write 1 and "1" alike
        raise ValueError(f"{place} has the key {key!r}, which is not text")
    return key


def round_float(number: float) -> float:
    """Return a number rounded to the digits that are the same on every processor."""
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}")


def render_report(report: Report, form: Format = "md") -> str:
    """Return the report as text that ends with a newline.

    Text and Markdown have no figures (in a folder, Markdown shows those beside it), the HTML contains all of them.
    """
    match form:
        case "text":
            return report_to_text(report)
        case "md":
            return report_to_markdown(report)
        case "csv":
            return report_to_csv(report)
        case "latex":
            return report_to_latex(report)
        case "json":
            return report_to_json(report)
        case "html":
            from stableft.report.forms.html import reports_to_html  # here because only HTML needs Jinja2

            return reports_to_html([report], report.title)
