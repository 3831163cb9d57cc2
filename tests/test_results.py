"""The committed reports are what the committed records give."""

from pathlib import Path

import pytest

from stableft.plan import Sources
from stableft.report.gather import table_of
from stableft.report.render import render
from stableft.sweepfile import load_sweep

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("form", ["md", "json"])
def test_the_smoke_report_is_rebuilt_from_its_records(form, monkeypatch):
    monkeypatch.chdir(ROOT)
    records = [Path("results/records/smoke.jsonl")]
    table = table_of("configs/smoke.yaml", ROOT, records, "recipe", lambda path: load_sweep(path, Sources()))
    committed = (ROOT / f"results/reports/smoke.{form}").read_text()
    assert render(table, form).strip() == committed.strip()
    assert all(cell.summary.n == 5 for cell in table.cells)
