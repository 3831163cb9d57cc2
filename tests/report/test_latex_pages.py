"""Every table as LaTeX sets it: nothing is wider than the text of ICLR or than a page in two columns, or too long."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.artifact_records import report as made_up_report
from support.paths import ROOT
from support.reports import NARROW, WIDE, make_report, make_runs

from stableft.report.artifact import make_sweep_artifact
from stableft.report.build import build_report
from stableft.report.forms.latex import report_to_latex
from stableft.report.runs import ARTIFACTS, load_runs_from_file
from stableft.report.stability_report import build_stability_report

ICLR = r"\documentclass{article}\setlength{\textwidth}{5.5in}\setlength{\textheight}{9in}\setlength{\topmargin}{-0.5in}"
TWO_COLUMNS = r"\documentclass[a4paper,twocolumn]{article}"
BAD = re.compile(r"^(?:!.*|Overfull.*|.*Float too large.*)$", re.MULTILINE)
NAMES = [f"bert-large-uncased-with-corrected-adam-and-lr-{n}e-5" for n in range(1, 13)]


def recorded_reports():
    return [build_report(load_runs_from_file(path)) for path in sorted((ROOT / "results/records").glob("*.jsonl"))]


def paper_reports():
    names = [name for name in ARTIFACTS if name not in ("mosbach-table2", "zhang-table3")]  # those need the data sets
    return [made_up_report(name) for name in names]


def long_reports():
    """Twelve arms with long names, on two tasks, with more tests than fit one page."""
    sweep = make_sweep_artifact("a-sweep", "x.yaml")
    scores = [(name, WIDE if i % 2 else NARROW) for i, name in enumerate(NAMES)]
    runs = [make_runs(name, values, task=task) for task in ("rte", "cola") for name, values in scores]
    return [build_stability_report(make_report(*runs, artifact=sweep))]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize("preamble", [ICLR, TWO_COLUMNS], ids=["iclr", "a4-two-columns"])
@pytest.mark.parametrize("reports", [recorded_reports, paper_reports, long_reports])
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
