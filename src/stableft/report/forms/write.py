"""Render a report in any form and write it with its figures."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stableft.errors import UserError, did_you_mean
from stableft.records.run_record import atomic_write
from stableft.report.figures.from_probes import PROBE_FIGURE_ALTS
from stableft.report.forms.document import Report
from stableft.report.forms.latex import report_to_latex
from stableft.report.forms.markdown import report_to_markdown
from stableft.report.stability_report import build_stability_report
from stableft.report.stability_table import StabilityTable

Format = Literal["md", "csv", "latex", "json", "html"]

FORMAT_OF_SUFFIX: dict[str, Format] = {".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json", ".html": "html"}
IMAGE_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class ReportTarget:
    """Where a report goes: printed (no path), one file of a form or of a figure, or else a folder of everything."""

    path: Path | None
    form: Format | None = None
    image: bool = False
    figure: str | None = None  # None: the report's first

    @property
    def draws(self) -> bool:
        """Whether figures are part of it."""
        return self.image or self.form == "html" or self.form is None


def resolve_target(out: str | None, form: Format | None, figure: str | None) -> ReportTarget:
    """Returns what `--out`, `--format` and `--figure` ask for together.

    Raises:
        UserError: they contradict each other, or nothing can be written there.
    """
    path = Path(out) if out else None
    folder = path is not None and (str(out).endswith("/") or path.is_dir())
    image = path is not None and not folder and path.suffix in IMAGE_SUFFIXES
    if figure and not image:
        raise UserError(
            f"--figure {figure} needs --out with the name of a file that ends in {', '.join(IMAGE_SUFFIXES)}"
        )
    if path is None:
        return ReportTarget(None, form or "md")
    if folder:
        if form:
            raise UserError(f"--format {form} goes with a file; --out {out} is a folder, which takes every form")
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out}: {path} is a file, not a folder")
        return ReportTarget(path)
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    if image and form:
        raise UserError(f"--format {form} is a form of the table; --out {out} is a figure")
    if image:
        return ReportTarget(path, image=True, figure=figure)
    if form is None and path.suffix not in FORMAT_OF_SUFFIX:
        endings = ", ".join([*FORMAT_OF_SUFFIX, *IMAGE_SUFFIXES])
        raise UserError(f"--out {out}: the ending must be one of {endings}, or --format given, or a folder end in /")
    return ReportTarget(path, form or FORMAT_OF_SUFFIX[path.suffix])


def write_report(report: Report, output: ReportTarget) -> str:
    """Writes the report where it goes, and returns what is to be printed, which may be nothing.

    Raises:
        UserError: there is nothing to draw, or no figure of the name asked for.
    """
    if output.path is None:
        return render_report(report, output.form or "md").rstrip("\n")
    if output.image:
        atomic_write(output.path, _figure_bytes(report, _find_figure_name(report, output.figure), output.path.suffix))
        return ""
    if output.form:
        atomic_write(output.path, _rendered_bytes(report, output.form))
        return ""
    return "\n".join(write_report_folder(report, output.path))


def write_report_folder(report: Report, folder: Path) -> list[str]:
    """Writes every form and figure to a folder, made if missing; returns their paths, and why a figure is missing."""
    from stableft.report.figures.style import figure_to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, draw in report.figures.items():
        figure = draw()  # once for both forms
        report.vectors[name] = figure_to_bytes(figure, "svg")
        atomic_write(folder / f"{name}.png", figure_to_bytes(figure, "png"))
        pictures.append(str(folder / f"{name}.png"))
    for ending, form in FORMAT_OF_SUFFIX.items():
        atomic_write(folder / f"report{ending}", _rendered_bytes(report, form))
    lines = [*(str(folder / f"report{ending}") for ending in FORMAT_OF_SUFFIX), *pictures]
    return [*lines, *(f"no {name}.png: {why}" for name, why in report.undrawn.items())]


def save_sweep_report(report: Report, folder: Path) -> str | None:
    """Writes the report of a sweep to its folder; returns a line that names the figures, or says what went wrong.

    Returns None, and writes nothing, where no run has finished. What cannot be written costs no result: the report
    has been printed, and the records are there.
    """
    if not any(finished for *_, finished, _ in report.provenance.runs):
        return None
    try:
        lines = write_report_folder(report, folder)
    except OSError as error:  # a full disk, a folder of someone else's; matplotlib's cache folder likewise
        return f"the report's files could not be written: {error.filename or folder}: {error.strerror or error}"
    return f"figures: {', '.join(line for line in lines if 'png' in line)}; the report beside them in five forms"


def _rendered_bytes(report: Report, form: Format) -> bytes:
    return (render_report(report, form).rstrip("\n") + "\n").encode()


def _find_figure_name(report: Report, name: str | None) -> str:
    wanted = name or next(iter([*report.figures, *report.undrawn]), None)
    if wanted is None:
        raise UserError(f"report {report.id!r} is a table, it has no figure")
    if wanted in report.figures:
        return wanted
    if wanted in report.undrawn:
        raise UserError(f"report {report.id!r}: there is no {wanted} to draw: {report.undrawn[wanted]}")
    if wanted in PROBE_FIGURE_ALTS and "scores" in {*report.figures, *report.undrawn}:  # of a sweep
        raise UserError(f"report {report.id!r}: there is no {wanted} to draw: no probe has left a record of its runs")
    names = ", ".join([*report.figures, *report.undrawn])
    raise UserError(f"--figure {wanted}: report {report.id!r} has {names}{did_you_mean(wanted, report.figures)}")


def _figure_bytes(report: Report, name: str, ending: str) -> bytes:
    from stableft.report.figures.style import figure_to_bytes

    return figure_to_bytes(report.figures[name](), ending.removeprefix("."))


def report_to_csv(report: Report) -> str:
    """Returns the rows below a line with every key that any of them has; what is missing is empty, NaN is NaN.

    A report without rows is an empty text.
    """
    keys = list(dict.fromkeys(key for row in report.rows for key in row))
    if not keys:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_to_csv_value(row.get(key)) for key in keys] for row in report.rows)
    return out.getvalue()


def report_to_json(report: Report) -> str:
    """Returns the values; a number is Python's own and finite, for JSON has no word for the others.

    Raises:
        ValueError: a value is something else.
    """
    return json.dumps(_to_json_value(report.values, "values"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _to_csv_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(float(value))
    raise ValueError(f"{value!r} is no value of a CSV file")


def _to_json_value(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {_to_json_key(key, place): _to_json_value(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if value is not None and type(value) not in (str, bool, int, float):
        raise ValueError(f"{place} is {value!r}, which is no JSON value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which JSON has no word for")
    return value


def _to_json_key(key: Any, place: str) -> str:
    if type(key) is not str:
        raise ValueError(f"{place} has the key {key!r}, which is no text")
    return key


def render_report(report: Report | StabilityTable, form: Format = "md") -> str:
    """Returns the report as text that ends with a newline; a table of stability as the report of it, without figures.

    The Markdown is the terminal's, without figures; the HTML is one file with all of them.
    """
    if isinstance(report, StabilityTable):
        report = build_stability_report(report)
    match form:
        case "md":
            return report_to_markdown(report)
        case "csv":
            return report_to_csv(report)
        case "latex":
            return report_to_latex(report)
        case "json":
            return report_to_json(report)
        case "html":
            from stableft.report.forms.html import reports_to_html  # Jinja2 is not needed for the others

            return reports_to_html([report], report.title)
