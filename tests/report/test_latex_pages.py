"""Every table as LaTeX sets it: nothing is wider than the text of ICLR or than a page in two columns, or too long."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.artifact_records import report as made_up_report
from support.paths import GLUE, ROOT
from support.reports import NARROW, WIDE, make_report, make_runs

from stableft.report.artifact import make_sweep_artifact
from stableft.report.build import build_report
from stableft.report.forms.document import Report, ReportTable, Value
from stableft.report.forms.latex import report_to_latex
from stableft.report.paper_tables import build_dataset_report
from stableft.report.runs import ARTIFACTS, load_runs_from_file
from stableft.report.stability_report import build_stability_report

ICLR = r"\documentclass{article}\setlength{\textwidth}{5.5in}\setlength{\textheight}{9in}\setlength{\topmargin}{-0.5in}"
TWO_COLUMNS = r"\documentclass[a4paper,twocolumn]{article}"
BAD = re.compile(r"^(?:!.*|Overfull.*|.*Float too large.*)$", re.MULTILINE)
NAMES = [f"bert-large-uncased-with-corrected-adam-and-lr-{n}e-5" for n in range(1, 13)]


def recorded_reports():
    return [build_report(load_runs_from_file(path)) for path in sorted((ROOT / "results/records").glob("*.jsonl"))]


def paper_reports():
    return [made_up_report(name) for name in ARTIFACTS if name not in ("mosbach-table2", "zhang-table3")]


def dataset_reports():
    """The two tables of data sets, of a few rows each, and with every number missing."""
    nowhere = GLUE.parent / "hf-trainer"
    return [build_dataset_report(paper, folder) for paper in ("M", "Z") for folder in (GLUE, nowhere)]


@pytest.fixture(autouse=True)
def small_hold_out(monkeypatch):
    """The files that the tests have hold fewer rows than Zhang et al. hold out."""
    monkeypatch.setattr("stableft.report.paper_tables.HELD_OUT_ROWS", 6)


def long_reports():
    """Twelve arms with long names, on two tasks, with more tests than fit one page."""
    sweep = make_sweep_artifact("a-sweep", "x.yaml")
    scores = [(name, WIDE if i % 2 else NARROW) for i, name in enumerate(NAMES)]
    runs = [make_runs(name, values, task=task) for task in ("rte", "cola") for name, values in scores]
    return [build_stability_report(make_report(*runs, artifact=sweep))]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize("preamble", [ICLR, TWO_COLUMNS], ids=["iclr", "a4-two-columns"])
@pytest.mark.parametrize("reports", [recorded_reports, paper_reports, dataset_reports, long_reports])
def test_every_table_fits_its_page(reports, preamble, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    body = "\n\\clearpage\n".join(report_to_latex(report) for report in reports())
    source = preamble + "\\usepackage{booktabs}\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "all.tex"]
    environment = os.environ | {"max_print_line": "1000"}  # messages on one line each
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    assert BAD.findall(run.stdout) == []
    assert run.returncode == 0
    assert r"\caption" in body


def test_the_second_line_of_a_label_is_indented():
    label = "Majority baseline of the rows that validate"
    table = ReportTable(
        "a", ("", *["a number"] * 9), ((label, *["-10.000, 20.000"] * 9), (Value("under it", under=True), *["1"] * 9))
    )
    rows = report_to_latex(Report("a", "A table", (table,))).partition(r"\midrule")[2].splitlines()[1:4]
    labels = [row.partition(" &")[0] for row in rows]
    assert labels[0].startswith("Majority")
    assert labels[1].startswith(r"\quad ")
    assert " ".join(labels[:2]).replace(r"\quad ", "") == label
    assert labels[2] == r"\quad under it"


def test_a_column_does_not_repeat_the_heading_of_its_group():
    (body, *_) = re.findall(r"\\toprule(.*?)\\midrule", report_to_latex(build_dataset_report("M", GLUE)), re.DOTALL)
    assert body.count("RTE") == 1
    assert body.count("here & printed") == 5
