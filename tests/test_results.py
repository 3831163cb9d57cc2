"""The committed reports are what the committed records give."""

from pathlib import Path

import pytest

from stableft.plan import Sources
from stableft.report.gather import table_of
from stableft.report.render import render
from stableft.sweepfile import load_sweep

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "seeds", "n"), [("smoke", None, 5), ("demo", "26-50", 25), ("toy", None, 5)])
@pytest.mark.parametrize("form", ["md", "json"])
def test_a_report_is_rebuilt_from_its_records(name, seeds, n, form, monkeypatch):
    monkeypatch.chdir(ROOT)
    records = [Path(f"results/records/{name}.jsonl")]
    sweep = f"configs/{name}.yaml"
    table = table_of(sweep, ROOT, records, "recipe", lambda path: load_sweep(path, Sources(), seeds=seeds))
    committed = (ROOT / f"results/reports/{name}/report.{form}").read_text()
    assert render(table, form).strip() == committed.strip()
    assert all(cell.summary.n == n for cell in table.cells)
