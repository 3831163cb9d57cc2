"""The committed reports are what the committed records give."""

from pathlib import Path

import pytest
from support.paths import ROOT

from stableft.report.build import build_report
from stableft.report.forms.markdown import report_to_markdown
from stableft.report.forms.write import Format, render_report
from stableft.report.runs import load_runs_from_file

SEEDS = {"smoke": 5, "demo": 25, "toy": 5, "demo-probes": 5, "zhang-replication": 50}
FORMS: dict[Format, str] = {"md": "md", "json": "json", "csv": "csv", "latex": "tex"}


@pytest.mark.parametrize(("name", "n"), SEEDS.items())
def test_a_report_is_rebuilt_from_its_records(name, n, monkeypatch):
    monkeypatch.chdir(ROOT)
    report = build_report(load_runs_from_file(Path(f"results/records/{name}.jsonl")))
    for form, ending in FORMS.items():
        committed = (ROOT / f"results/reports/{name}/report.{ending}").read_text()
        text = report_to_markdown(report, pictures=True) if form == "md" else render_report(report, form)
        assert text.strip() == committed.strip(), form
    assert {finished for *_, finished, _ in report.provenance.runs} == {n}


def test_committed_latex_has_no_sign_that_pdflatex_lacks():
    sources = sorted((ROOT / "results/reports").glob("*/report.tex"))
    assert len(sources) > 10
    for source in sources:
        assert source.read_text().isascii(), source
