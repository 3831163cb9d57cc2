"""Every figure that is shipped can be read: of the committed records, and of all artefacts from made-up records."""

import functools
from collections.abc import Iterable
from dataclasses import replace

import pytest
from support.artifact_records import report as report_of_artifact
from support.figures import assert_readable
from support.paths import ROOT

from stableft.report.build import build_report
from stableft.report.forms.document import Report
from stableft.report.forms.write import render_report
from stableft.report.runs import ARTIFACTS, load_runs_from_file

RECORDS = {path.stem: path for path in sorted((ROOT / "results/records").glob("*.jsonl"))}
NO_FIGURES = ("mosbach-table2", "zhang-table3")  # tables of data sets
ALSO_NARROW = (
    "demo-probes",
    "zhang-replication",
    "mosbach-figure1",
    "mosbach-figure2",
    "mosbach-figure9",
    "zhang-figure2",
    "zhang-figure9",
    "zhang-table7",
)
LARGE = (  # ten figures, and 10 and 24 panels
    *("demo-probes", "zhang-replication", "mosbach-table1"),
    *(f"zhang-figure{number}" for number in (13, 15, 16, 17, 18)),
)


def slow_if_large(names: Iterable[str]) -> list:
    """Returns the names as parameters of a test."""
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in names]


@functools.cache
def report_of_records(name: str) -> Report:
    return build_report(load_runs_from_file(RECORDS[name]))


@pytest.mark.parametrize("name", slow_if_large(RECORDS))
def test_figures_of_committed_records(name):
    made = report_of_records(name)
    assert {"scores", "training-loss", "training-curves"} <= set(made.figures)
    for draw in made.figures.values():
        assert_readable(draw())


@pytest.mark.parametrize("name", slow_if_large(name for name in ARTIFACTS if name not in NO_FIGURES))
def test_figures_of_artefacts(name):
    """They are drawn once, to be read and to be embedded in HTML."""
    made = report_of_artifact(name)
    drawn = {key: draw() for key, draw in made.figures.items()}
    for figure in drawn.values():
        assert_readable(figure)
    text = render_report(replace(made, figures={key: lambda key=key: drawn[key] for key in drawn}), "html")
    assert text.count("<svg") + text.count("<img") == len(drawn)
    assert "<title>" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ALSO_NARROW)
def test_figures_of_a_columns_width(name):
    """Those of made-up panels are drawn in the fast tests: `test_draw.py`."""
    made = report_of_records(name) if name in RECORDS else report_of_artifact(name)
    for draw in made.figures.values():
        assert_readable(draw(3.25), least=6)
