"""A `Report` -> text: Markdown, LaTeX and HTML for people, CSV and JSON for programs."""

from typing import Literal

from stableft.report.blocks import Report
from stableft.report.flat import csv_text, json_text
from stableft.report.latex import latex
from stableft.report.markdown import markdown
from stableft.report.stability import stability_report
from stableft.report.table import Table

Format = Literal["md", "csv", "latex", "json", "html"]


def render(report: Report | Table, form: Format = "md") -> str:
    """Returns the report as text that ends with a newline; a table of stability as the report of it, without figures.

    The Markdown is the terminal's, without figures; the HTML is one file with all of them.
    """
    if isinstance(report, Table):
        report = stability_report(report)
    match form:
        case "md":
            return markdown(report)
        case "csv":
            return csv_text(report)
        case "latex":
            return latex(report)
        case "json":
            return json_text(report)
        case "html":
            from stableft.report.html import html  # Jinja2 is not needed for the others

            return html([report], report.title)
