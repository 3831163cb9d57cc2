"""The papers' tables of hyper-parameters, typed a second time, beside what the shipped recipes and sweeps have."""

import json

import pytest

from stableft.config.recipe import read_recipe, shipped_recipes
from stableft.report import paper_tables as module
from stableft.report.forms.document import Bullets, ReportTable
from stableft.report.forms.write import report_to_json
from stableft.report.paper_tables import build_hyperparameter_report, compare_hyperparameters
from stableft.report.paper_values import load_printed_hyperparameters

# M Table 3: BERT / RoBERTa / ALBERT.
MOSBACH = """
Epochs: 3, 10, 20 / 3 / 3
Learning rate: 1e-5 - 5e-5 / 1e-5 - 3e-5 / 1e-5 - 3e-5
Learning rate schedule: warmup-linear / warmup-linear / warmup-linear
Warmup ratio: 0.1 / 0.1 / 0.1
Batch size: 16 / 16 / 16
Adam ε: 1e-6 / 1e-6 / 1e-6
Adam β1: 0.9 / 0.9 / 0.9
Adam β2: 0.999 / 0.98 / 0.999
Adam bias correction: {True, False} / {True, False} / {True, False}
Dropout: 0.1 / 0.1 / -
Weight decay: 0.01 / 0.1 / -
Clipping gradient norm: 1.0 / - / 1.0
Number of random seeds: 25 / 25 / 25
"""
# Z Table 6: model, data set, learning rate, epochs or steps, batch size, warm-up, LLRD.
ZHANG = """
BERT all: 2e-5 / 3 epochs / 32 / 10% / -
XLNet RTE: 3e-5 / 800 steps / 32 / 200 steps / -
XLNet MRPC: 5e-5 / 800 steps / 32 / 200 steps / -
XLNet STS-B: 5e-5 / 3000 steps / 32 / 500 steps / -
XLNet CoLA: 3e-5 / 1200 steps / 128 / 120 steps / -
RoBERTa RTE: 2e-5 / 2036 steps / 16 / 122 steps / -
RoBERTa MRPC: 1e-5 / 2296 steps / 16 / 137 steps / -
RoBERTa STS-B: 2e-5 / 3598 steps / 16 / 214 steps / -
RoBERTa CoLA: 1e-5 / 5336 steps / 16 / 320 steps / -
ELECTRA RTE: 5e-5 / 10 epochs / 32 / 10% / 0.9
ELECTRA MRPC: 5e-5 / 3 epochs / 32 / 10% / 0.9
ELECTRA STS-B: 5e-5 / 10 epochs / 32 / 10% / 0.9
ELECTRA CoLA: 5e-5 / 3 epochs / 32 / 10% / 0.9
BART RTE: 1e-5 / 1018 steps / 32 / 61 steps / -
BART MRPC: 2e-5 / 1148 steps / 64 / 68 steps / -
BART STS-B: 2e-5 / 1799 steps / 32 / 107 steps / -
BART CoLA: 2e-5 / 1334 steps / 64 / 80 steps / -
"""
TABLES = {"M": MOSBACH, "Z": ZHANG}
COLUMNS = {
    "M": ("BERT", "RoBERTa", "ALBERT"),
    "Z": ("Learning Rate", "Training Epochs / Steps", "Batch Size", "Warmup Ratio / Steps", "LLRD"),
}
# What the project has in another way than the paper prints it; whoever changes a recipe or sweep sees it here.
DEVIATIONS = {("M", "Epochs", "BERT"): "3, 10, 20, 71; 690, 1602, 19641 steps"}


def typed(paper: str) -> dict[tuple[str, str], str]:
    """Returns (row, column) -> what the paper prints."""
    found = {}
    for line in TABLES[paper].strip().splitlines():
        row, texts = line.split(": ")
        found |= {(row, column): text for column, text in zip(COLUMNS[paper], texts.split(" / "), strict=True)}
    return found


def deviations_of(paper: str) -> dict[tuple[str, str, str], str]:
    return {
        (paper, place.row, place.column): place.here for place in compare_hyperparameters(paper) if not place.agrees
    }


@pytest.mark.parametrize("paper", TABLES)
def test_printed_hyperparameters_typed_a_second_time(paper):
    printed = load_printed_hyperparameters(paper)
    places = {
        (row, column): text
        for row, texts in printed.rows.items()
        for column, text in zip(printed.columns, texts, strict=True)
    }
    assert list(places.items()) == list(typed(paper).items())
    assert len(places) == {"M": 13 * 3, "Z": 17 * 5}[paper]
    assert {place for place in printed.reasons if place not in places} == set()


@pytest.mark.parametrize("paper", TABLES)
def test_every_place_is_as_printed_but_for_the_known_deviations(paper):
    known = {key: here for key, here in DEVIATIONS.items() if key[0] == paper}
    assert deviations_of(paper) == known
    here = {(place.row, place.column): place.here for place in compare_hyperparameters(paper)}
    assert here == typed(paper) | {key[1:]: text for key, text in known.items()}
    assert all(
        place.reason not in ("", module.NO_KNOWN_REASON) for place in compare_hyperparameters(paper) if not place.agrees
    )


@pytest.mark.parametrize("paper", TABLES)
def test_the_report_shows_both_where_they_differ(paper):
    report = build_hyperparameter_report(paper)
    assert report.id == {"M": "mosbach-table3", "Z": "zhang-table6"}[paper]
    (grid,) = (block for block in report.blocks if isinstance(block, ReportTable))
    assert report.tables == (grid,)
    assert [row[0].text for row in grid.rows] == list(load_printed_hyperparameters(paper).rows)
    assert {len(row) for row in grid.rows} == {len(grid.header)}
    for row in grid.rows:
        for column, entry in zip(COLUMNS[paper], row[1:], strict=True):
            printed = typed(paper)[row[0].text, column]
            here = DEVIATIONS.get((paper, row[0].text, column), printed)
            assert entry.text == (here if here == printed else f"{here}; printed: {printed}")
            assert entry.bold == (here != printed)
    lines = [line for block in report.blocks if isinstance(block, Bullets) for line in block.lines]
    assert len([line for line in lines if " here, printed " in line]) == len(deviations_of(paper))
    cells = json.loads(report_to_json(report))["cells"]
    assert [cell["agrees"] for cell in cells].count(False) == len(deviations_of(paper))
    assert set(cells[0]) == {"paper", "row", "column", "here", "printed", "agrees", "note"}


def test_a_changed_sweep_is_a_deviation_without_a_known_reason(monkeypatch):
    runs = module._mosbach_runs()
    first = next(run for run in runs if run.model.name == "roberta-large")
    odd = first.model_copy(update={"optimizer": first.optimizer.model_copy(update={"lr": 4e-5})})
    monkeypatch.setattr(module, "_mosbach_runs", lambda: (*runs, odd))
    here = deviations_of("M")
    assert here["M", "Learning rate", "RoBERTa"] == "1e-5 - 4e-5"
    assert here["M", "Number of random seeds", "RoBERTa"] == "1, 25"
    assert len(here) == len(DEVIATIONS) + 2
    lines = build_hyperparameter_report("M").facts["deviations"]
    assert any("printed 1e-5 - 3e-5: no reason" in line for line in lines)


def test_a_changed_recipe_is_a_deviation_without_a_known_reason(monkeypatch):
    standard = read_recipe(shipped_recipes()["zhang"])
    recipe_of = module._read_zhang_recipe
    monkeypatch.setattr(module, "_read_zhang_recipe", lambda title: standard if title == "BART" else recipe_of(title))
    here = deviations_of("Z")
    assert here["Z", "BART RTE", "Learning Rate"] == "2e-5"
    assert {here["Z", f"BART {task}", "Training Epochs / Steps"] for task in ("RTE", "CoLA")} == {"3 epochs"}
    assert {row.split()[0] for _, row, _ in here} == {"BART"}
    assert len(build_hyperparameter_report("Z").facts["deviations"]) == len(here)


def test_what_the_checkpoint_decides_is_not_called_none():
    assert module._format_dropout([0.1, None]) == "as the checkpoint says"
    assert module._format_dropout([0.0]) == "-"
